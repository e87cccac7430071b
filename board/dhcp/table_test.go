package dhcp

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var (
	kitAddr = netip.MustParseAddr("10.73.0.1")
	kitNet  = netip.MustParsePrefix("10.73.0.0/16")
	start   = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	phone   = MAC{0x02, 0, 0, 0, 0, 1}
	other   = MAC{0x02, 0, 0, 0, 0, 2}
)

func table(t testing.TB, change ...func(*Config)) *Table {
	t.Helper()
	cfg := Config{Server: kitAddr, Network: kitNet, Domain: "home.arpa", Reserved: func(s string) bool { return s == "kit" }}
	for _, f := range change {
		f(&cfg)
	}
	tab, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func message(typ dhcpv4.MessageType, mac MAC, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mac[:]), dhcpv4.WithMessageType(typ)}, mods...)...)
	if err != nil {
		panic(err)
	}
	return m
}

func discover(mac MAC, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	return message(dhcpv4.MessageTypeDiscover, mac, mods...)
}

// selecting, rebooting and renewing are the requests of RFC 2131 §4.3.2 table 4.
func selecting(mac MAC, addr netip.Addr, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	return message(dhcpv4.MessageTypeRequest, mac, append(mods, requested(addr), server(kitAddr))...)
}

func rebooting(mac MAC, addr netip.Addr, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	return message(dhcpv4.MessageTypeRequest, mac, append(mods, requested(addr))...)
}

func renewing(mac MAC, addr netip.Addr, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	return message(dhcpv4.MessageTypeRequest, mac, append(mods, dhcpv4.WithClientIP(addr.AsSlice()))...)
}

func requested(a netip.Addr) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a.AsSlice()))
}

func server(a netip.Addr) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(a.AsSlice()))
}

func ident(id string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte(id)))
}

// answer is the one message among outputs.
func answer(t testing.TB, out []Output) *Answer {
	t.Helper()
	if len(out) != 1 || out[0].Answer == nil {
		t.Fatalf("want one answer, got %+v", out)
	}
	return out[0].Answer
}

func yours(a *Answer) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.Message.YourIPAddr.To4())
	return addr
}

// offerTo goes through a DISCOVER and the probing until there is an offer.
func offerTo(t testing.TB, tab *Table, now time.Time, m *dhcpv4.DHCPv4) *Answer {
	t.Helper()
	out := tab.Receive(now, MAC(m.ClientHWAddr), m)
	for i := 0; len(out) == 1 && out[0].Probe.IsValid(); i++ {
		if i == probes {
			t.Fatal("probed without end")
		}
		now = now.Add(probeWait)
		out = tab.Advance(now)
	}
	return answer(t, out)
}

func lease(t testing.TB, tab *Table, now time.Time, mac MAC, mods ...dhcpv4.Modifier) netip.Addr {
	t.Helper()
	addr := yours(offerTo(t, tab, now, discover(mac, mods...)))
	a := answer(t, tab.Receive(now, mac, selecting(mac, addr, mods...)))
	if a.Message.MessageType() != dhcpv4.MessageTypeAck || yours(a) != addr {
		t.Fatalf("no ACK of %v: %v", addr, a.Message.Summary())
	}
	return addr
}

func silent(t *testing.T, what string, out []Output) {
	t.Helper()
	if len(out) != 0 {
		t.Errorf("%s was answered: %+v", what, out)
	}
}

func wantType(t *testing.T, out []Output, typ dhcpv4.MessageType) *Answer {
	t.Helper()
	a := answer(t, out)
	if a.Message.MessageType() != typ {
		t.Fatalf("got %v, want %v", a.Message.MessageType(), typ)
	}
	return a
}

func TestAStationHasTheSameAddressAtEveryKit(t *testing.T) {
	first, second := lease(t, table(t), start, phone), lease(t, table(t), start.Add(time.Hour), phone)
	if first != second || !kitNet.Contains(first) {
		t.Errorf("%v here, %v there", first, second)
	}
	if another := lease(t, table(t), start, other); another == first {
		t.Errorf("two stations have %v", another)
	}
	p, _ := newPool(kitNet)
	for i := range 10000 {
		a := p.address(MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}, i%candidates)
		if b := a.As4(); !kitNet.Contains(a) || b[2] == 0 || b[2] == 255 {
			t.Fatalf("%v is not for handsets", a)
		}
	}
}

// RFC 2131 §2.2: "the allocating server SHOULD probe the reused address before allocating the address".
func TestAnAddressThatSomebodyAnswersForIsNotOffered(t *testing.T) {
	tab := table(t)
	out := tab.Receive(start, phone, discover(phone))
	taken := out[0].Probe
	if out = tab.InUse(start, taken, phone); len(out) != 0 {
		t.Fatal("the station's own answer counts as a conflict")
	}
	out = tab.InUse(start.Add(50*time.Millisecond), taken, other)
	if len(out) != 1 || !out[0].Probe.IsValid() || out[0].Probe == taken {
		t.Fatalf("after a conflict: %+v", out)
	}
	second := out[0].Probe
	if out = tab.Advance(start.Add(60 * time.Millisecond)); len(out) != 0 {
		t.Fatalf("an offer before the wait was over: %+v", out)
	}
	tab.Advance(start.Add(250 * time.Millisecond))
	if a := answer(t, tab.Advance(start.Add(450*time.Millisecond))); yours(a) != second {
		t.Errorf("offered %v, probed %v", yours(a), second)
	}
	// It stays marked for the next station that would get it.
	if tab.free(start.Add(time.Minute), taken) || !tab.free(start.Add(declineTime+time.Second), taken) {
		t.Error("the address in use is not kept out for its time")
	}
}

// "station roams to the second kit's access point and keeps its address".
func TestAStationThatRoamsKeepsItsAddress(t *testing.T) {
	addr := lease(t, table(t), start, phone)
	for name, m := range map[string]*dhcpv4.DHCPv4{
		"INIT-REBOOT":              rebooting(phone, addr),
		"RENEWING":                 renewing(phone, addr),
		"SELECTING, offered there": selecting(phone, addr), // the server's address is the same on every kit
	} {
		t.Run(name, func(t *testing.T) {
			a := wantType(t, table(t).Receive(start, phone, m), dhcpv4.MessageTypeAck)
			if yours(a) != addr {
				t.Errorf("confirmed %v, not %v", yours(a), addr)
			}
		})
	}
	t.Run("somebody has it here", func(t *testing.T) {
		tab := table(t)
		// Another station whose first address is taken got this one: it is made so by hand, as no two of a few do by chance.
		s := tab.station(start, other)
		b := tab.add(s, "hw:other", addr)
		b.state, b.ends = bound, start.Add(time.Hour)
		a := wantType(t, tab.Receive(start, phone, rebooting(phone, addr)), dhcpv4.MessageTypeNak)
		// RFC 2131 §4.3.2: "The server MUST broadcast the DHCPNAK message to the 0xffffffff broadcast address".
		if a.To != broadcast || !a.Broadcast {
			t.Errorf("NAK goes to %v", a.To)
		}
		if next := lease(t, tab, start, phone); next == addr || !tab.derived(phone, next) {
			t.Errorf("then it got %v", next)
		}
	})
	t.Run("second address of its own", func(t *testing.T) {
		p, _ := newPool(kitNet)
		wantType(t, table(t).Receive(start, phone, rebooting(phone, p.address(phone, 1))), dhcpv4.MessageTypeAck)
	})
}

// RFC 2131 §4.3.2: "Server SHOULD send a DHCPNAK message to the client if the 'requested IP address' is incorrect, or is
// on the wrong network."
func TestWrongAddressesAreRefused(t *testing.T) {
	for _, addr := range []string{"192.168.1.7", "10.73.77.77", "10.73.0.1", "10.73.255.255", "0.0.0.0"} {
		out := table(t).Receive(start, phone, rebooting(phone, netip.MustParseAddr(addr)))
		a := wantType(t, out, dhcpv4.MessageTypeNak)
		if a.Message.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || !isZero(a.Message.YourIPAddr) {
			t.Errorf("NAK of %s has a lease: %s", addr, a.Message.Summary())
		}
	}
	tab := table(t)
	silent(t, "a request for another server", tab.Receive(start, phone, message(dhcpv4.MessageTypeRequest, phone,
		requested(netip.MustParseAddr("10.73.9.9")), server(netip.MustParseAddr("10.73.0.2")))))
	silent(t, "a request that says nothing", tab.Receive(start, phone, message(dhcpv4.MessageTypeRequest, phone)))
	silent(t, "a request that says too much", tab.Receive(start, phone, renewing(phone, netip.MustParseAddr("10.73.9.9"), server(kitAddr))))
	if s := tab.Stats(); s.OtherServer != 1 || s.Invalid != 2 {
		t.Errorf("counted %+v", s)
	}
}

func TestAnOfferTurnedDownIsFreeAgain(t *testing.T) {
	tab := table(t)
	offerTo(t, tab, start, discover(phone))
	tab.Receive(start, phone, message(dhcpv4.MessageTypeRequest, phone, requested(netip.MustParseAddr("10.73.9.9")), server(netip.MustParseAddr("10.73.0.2"))))
	if len(tab.byAddr) != 0 {
		t.Error("the offer stays though another server was chosen")
	}
	offerTo(t, tab, start.Add(time.Second), discover(phone))
	tab.Advance(start.Add(time.Second + 2*probeWait + offerTime))
	if len(tab.byAddr) != 0 {
		t.Error("an offer that nobody took stays")
	}
}

func TestLeasesEndAndAreRenewed(t *testing.T) {
	tab := table(t)
	addr := lease(t, tab, start, phone)
	later := start.Add(DefaultLeaseTime / 2)
	a := wantType(t, tab.Receive(later, phone, renewing(phone, addr)), dhcpv4.MessageTypeAck)
	// RFC 2131 §4.1: "If the 'ciaddr' field is nonzero, then the server unicasts DHCPOFFER and DHCPACK messages to the
	// address in 'ciaddr'."
	if a.To != addr || a.Broadcast || !a.Message.ClientIPAddr.Equal(addr.AsSlice()) {
		t.Errorf("renewal answered to %v, ciaddr %v", a.To, a.Message.ClientIPAddr)
	}
	tab.Advance(later.Add(DefaultLeaseTime - time.Second))
	if len(tab.Leases()) != 1 {
		t.Fatal("the renewed lease ended early")
	}
	if at := tab.Deadline(); !at.Equal(later.Add(DefaultLeaseTime)) {
		t.Errorf("deadline %v", at)
	}
	tab.Advance(later.Add(DefaultLeaseTime))
	if len(tab.Leases()) != 0 || len(tab.byClient) != 0 {
		t.Error("the lease did not end")
	}
}

func TestReleaseAndDecline(t *testing.T) {
	tab := table(t)
	addr := lease(t, tab, start, phone)
	release := func(mac MAC, a netip.Addr) {
		silent(t, "a release", tab.Receive(start, mac, message(dhcpv4.MessageTypeRelease, mac, dhcpv4.WithClientIP(a.AsSlice()), server(kitAddr))))
	}
	release(other, addr) // nobody releases or declines what another has
	silent(t, "a decline", tab.Receive(start, other, message(dhcpv4.MessageTypeDecline, other, requested(addr), server(kitAddr))))
	if len(tab.Leases()) != 1 || tab.Stats().Invalid != 2 {
		t.Fatalf("another station took the lease away: %+v", tab.Stats())
	}
	release(phone, addr)
	if len(tab.Leases()) != 0 {
		t.Fatal("released, and still there")
	}
	if again := lease(t, tab, start, phone); again != addr {
		t.Errorf("after a release it got %v, not %v", again, addr)
	}
	// RFC 2131 §4.3.3: "The server MUST mark the network address as not available".
	silent(t, "a decline", tab.Receive(start, phone, message(dhcpv4.MessageTypeDecline, phone, requested(addr), server(kitAddr))))
	if next := lease(t, tab, start.Add(time.Minute), phone); next == addr {
		t.Errorf("%v was declined and is given out", addr)
	}
}

// A handset that answers for every address that is asked for keeps nobody else from having one.
func TestWhoClaimsEveryAddressIsNotBelieved(t *testing.T) {
	tab := table(t)
	for i := range 20 {
		mac := MAC{2, 0, 0, 0, 1, byte(i)}
		now := start.Add(time.Duration(i) * 10 * time.Second)
		out := tab.Receive(now, mac, discover(mac))
		for n := 0; len(out) == 1 && out[0].Probe.IsValid(); n++ {
			if n > maxClaims {
				t.Fatalf("station %d: probe %d", i, n)
			}
			out = tab.InUse(now, out[0].Probe, other)
		}
		tab.Advance(now.Add(probeWait))
		if a := answer(t, tab.Advance(now.Add(2*probeWait))); a.Message.MessageType() != dhcpv4.MessageTypeOffer {
			t.Fatalf("station %d: %v", i, a.Message)
		}
	}
	if len(tab.declined) != maxClaims || tab.Stats().Full != 0 {
		t.Errorf("%d addresses marked, %d stations refused", len(tab.declined), tab.Stats().Full)
	}
}

func TestDeclinesAreBounded(t *testing.T) {
	tab := table(t)
	for i := range 2 * maxDeclined {
		tab.conflict(start.Add(time.Duration(i)), netip.AddrFrom4([4]byte{10, 73, byte(1 + i>>8), byte(i)}), MAC{})
	}
	if len(tab.declined) != maxDeclined {
		t.Errorf("%d addresses marked", len(tab.declined))
	}
}

func TestInform(t *testing.T) {
	tab := table(t)
	m := message(dhcpv4.MessageTypeInform, phone, dhcpv4.WithClientIP(net.IPv4(10, 73, 0, 77)))
	a := wantType(t, tab.Receive(start, phone, m), dhcpv4.MessageTypeAck)
	if a.Message.Options.Has(dhcpv4.OptionIPAddressLeaseTime) {
		t.Error(`"The server MUST NOT send a lease expiration time to the client" (RFC 2131 §4.3.5)`)
	}
	if !isZero(a.Message.YourIPAddr) || a.To.String() != "10.73.0.77" || !a.Message.Options.Has(dhcpv4.OptionDomainNameServer) {
		t.Errorf("answer to %v: %s", a.To, a.Message.Summary())
	}
	silent(t, "an INFORM from elsewhere", tab.Receive(start, phone, message(dhcpv4.MessageTypeInform, phone, dhcpv4.WithClientIP(net.IPv4(192, 0, 2, 1)))))
}

func TestOptions(t *testing.T) {
	all := []uint8{1, 3, 6, 12, 15, 42, 51, 53, 54, 58, 59, 114, 120}
	for name, c := range map[string]struct {
		asked []dhcpv4.OptionCode
		want  []uint8
	}{
		"asks for nothing":      {nil, all},
		"asks for the DNS only": {[]dhcpv4.OptionCode{dhcpv4.OptionDomainNameServer}, []uint8{1, 3, 6, 51, 53, 54}},
		"asks as phones do": {[]dhcpv4.OptionCode{
			dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName,
			dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue, optionCaptivePortal,
		}, []uint8{1, 3, 6, 15, 51, 53, 54, 58, 59, 114}},
	} {
		t.Run(name, func(t *testing.T) {
			tab := table(t)
			mods := []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptHostName("Anna's phone.local")), dhcpv4.WithBroadcast(false)}
			if c.asked != nil {
				mods = append(mods, dhcpv4.WithOption(dhcpv4.OptParameterRequestList(c.asked...)))
			}
			offerTo(t, tab, start, discover(phone, mods...))
			addr := tab.pool.address(phone, 0)
			a := answer(t, tab.Receive(start, phone, selecting(phone, addr, mods...)))
			// What is on the wire is what counts.
			m, err := dhcpv4.FromBytes(a.Message.ToBytes())
			if err != nil {
				t.Fatal(err)
			}
			var got []uint8
			for code := range m.Options {
				got = append(got, code)
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("options %v, want %v", got, c.want)
			}
			if a.To != addr || a.MAC != phone || a.Broadcast {
				t.Errorf("sent to %v %v", a.To, a.MAC)
			}
			if c.asked != nil {
				return
			}
			for code, want := range map[uint8]string{
				1: "\xff\xff\x00\x00", 3: "\x0a\x49\x00\x01", 6: "\x0a\x49\x00\x01", 12: "anna-s-phone", 15: "home.arpa", 42: "\x0a\x49\x00\x01",
				51: "\x00\x00\x0e\x10", 54: "\x0a\x49\x00\x01", 58: "\x00\x00\x07\x08", 59: "\x00\x00\x0c\x4e",
				114: "urn:ietf:params:capport:unrestricted", 120: "\x01\x0a\x49\x00\x01",
			} {
				if string(m.Options[code]) != want {
					t.Errorf("option %d is %q, want %q", code, m.Options[code], want)
				}
			}
		})
	}
}

// RFC 2131 §4.1: "If the broadcast bit is set and 'giaddr' and 'ciaddr' are zero", answers go to everybody.
func TestTheBroadcastBitIsHeeded(t *testing.T) {
	for _, wanted := range []bool{true, false} {
		a := offerTo(t, table(t), start, discover(phone, dhcpv4.WithBroadcast(wanted)))
		if (a.To == broadcast) != wanted || a.Broadcast != wanted || a.Message.IsBroadcast() != wanted {
			t.Errorf("broadcast bit %v: sent to %v", wanted, a.To)
		}
	}
}

func TestClientIdentifiers(t *testing.T) {
	tab := table(t)
	one := lease(t, tab, start, phone, ident("\x00one"))
	two := lease(t, tab, start, phone, ident("\x00two"))
	if one == two {
		t.Errorf("two clients of one device share %v", one)
	}
	// RFC 6842 §3: "the server MUST return the same client identifier option in the response message".
	a := answer(t, tab.Receive(start, phone, renewing(phone, one, ident("\x00one"))))
	if string(a.Message.Options.Get(dhcpv4.OptionClientIdentifier)) != "\x00one" {
		t.Error("the identifier is not in the answer")
	}
	// A third one takes the place of one of them: one device does not use the kit up.
	tab.stations[phone].bucket = bucket{}
	lease(t, tab, start.Add(time.Second), phone, ident("\x00three"))
	if n := len(tab.Leases()); n != perStation {
		t.Errorf("one device has %d leases", n)
	}
	silent(t, "an identifier of more than an option", tab.Receive(start, other, discover(other, ident(string(make([]byte, 300))))))
	if a := lease(t, tab, start, other, ident("x")); a != tab.pool.address(other, 0) {
		t.Errorf("with an identifier of one byte it got %v", a)
	}
}

func TestHostNames(t *testing.T) {
	name := func(s string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptHostName(s)) }
	tab := table(t)
	lease(t, tab, start, phone, name("anna"))
	lease(t, tab, start, other, name("ANNA")) // hers already
	third := MAC{2, 0, 0, 0, 0, 3}
	lease(t, tab, start, third, name("kit")) // the kit's
	got := map[MAC]string{}
	for _, l := range tab.Leases() {
		got[l.MAC] = l.Name
	}
	if got[phone] != "anna" || got[other] != "" || got[third] != "" {
		t.Errorf("names %v", got)
	}
	// Who changes its name or goes gives the old one free.
	wantType(t, tab.Receive(start, phone, rebooting(phone, tab.pool.address(phone, 0), name("berta"))), dhcpv4.MessageTypeAck)
	wantType(t, tab.Receive(start, other, rebooting(other, tab.pool.address(other, 0), name("anna"))), dhcpv4.MessageTypeAck)
	for s, want := range map[string]string{
		"Anna’s iPhone": "anna-s-iphone", "": "", "-": "", "...": "", "a.b.c": "a", "\x00\x00": "", "--x--": "x", "日本": "",
		"galaxy_s24\x00": "galaxy-s24", string(make([]byte, 300)): "",
		"0123456789012345678901234567890123456789012345678901234567890123456789": "012345678901234567890123456789012345678901234567890123456789012",
	} {
		if l := Label(s); l != want {
			t.Errorf("label of %q is %q, want %q", s, l, want)
		}
	}
}

// A station that invents others: the frame says who it is.
func TestAStationCannotSpeakForOthers(t *testing.T) {
	tab := table(t)
	for i := range 1000 {
		silent(t, "an invented station", tab.Receive(start, phone, discover(MAC{2, 0, 0, 9, byte(i >> 8), byte(i)})))
	}
	addr := lease(t, tab, start, phone)
	silent(t, "a release of another's lease", tab.Receive(start, other, message(dhcpv4.MessageTypeRelease, phone, dhcpv4.WithClientIP(addr.AsSlice()), server(kitAddr))))
	silent(t, "a relayed message", tab.Receive(start, phone, discover(phone, dhcpv4.WithRelay(net.IPv4(10, 73, 0, 9)))))
	if s := tab.Stats(); s.Foreign != 1002 || len(tab.Leases()) != 1 || len(tab.stations) != 1 {
		t.Errorf("counted %+v, %d stations", s, len(tab.stations))
	}
}

// One that changes its own address again and again finds a kit that slows down, and that serves those it has.
func TestStarvationIsBounded(t *testing.T) {
	tab := table(t)
	addr := lease(t, tab, start, phone)
	now := start
	for i := range 60_000 {
		now = now.Add(10 * time.Millisecond)
		mac := MAC{2, 1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
		for _, o := range tab.Receive(now, mac, discover(mac)) {
			if o.Probe.IsValid() { // it takes whatever it may be offered
				tab.Receive(now, mac, selecting(mac, o.Probe))
			}
		}
		if len(tab.byClient) > MaxLeases || len(tab.stations) > maxStations {
			t.Fatalf("%d leases, %d stations", len(tab.byClient), len(tab.stations))
		}
		if i%100 == 0 {
			tab.Advance(now)
			if i%10000 == 0 {
				wantType(t, tab.Receive(now, phone, renewing(phone, addr)), dhcpv4.MessageTypeAck)
			}
		}
	}
	if !tab.Full(now) || tab.Stats().Full == 0 || tab.Stats().RateLimited == 0 {
		t.Errorf("nothing was refused: %+v", tab.Stats())
	}
	// It is over an hour after the last lease.
	now = now.Add(DefaultLeaseTime + time.Second)
	tab.Advance(now)
	if len(tab.byClient) != 0 || tab.Full(now) {
		t.Errorf("%d leases are left", len(tab.byClient))
	}
	lease(t, tab, now, other)
}

func TestOneStationIsSlowedDown(t *testing.T) {
	tab := table(t)
	for range 1000 {
		tab.Receive(start, phone, discover(phone))
	}
	if n := tab.Stats().RateLimited; n != 1000-stationBurst {
		t.Errorf("%d messages refused", n)
	}
}

func TestASmallNetworkFillsUp(t *testing.T) {
	tab := table(t, func(c *Config) { c.Network = netip.MustParsePrefix("10.73.0.0/26") })
	for i := range int(tab.pool.size) + 20 {
		mac := MAC{2, 0, 0, 0, 1, byte(i)}
		out := tab.Receive(start.Add(time.Duration(i)*time.Second), mac, discover(mac))
		if len(out) == 1 {
			tab.Receive(start.Add(time.Duration(i)*time.Second), mac, selecting(mac, out[0].Probe))
		}
	}
	if n := len(tab.Leases()); n < int(tab.pool.size)/2 || n > int(tab.pool.size) {
		t.Errorf("%d leases of %d addresses", n, tab.pool.size)
	}
	if !tab.Full(start.Add(time.Minute)) {
		t.Error("nobody was refused")
	}
}

func TestConfigurations(t *testing.T) {
	for _, n := range []string{"10.73.0.0/27", "fd00::/64", "10.0.0.0/7"} {
		if _, err := New(Config{Server: kitAddr, Network: netip.MustParsePrefix(n)}); err == nil {
			t.Errorf("%s is accepted", n)
		}
	}
	if _, err := New(Config{Server: netip.MustParseAddr("192.0.2.1"), Network: kitNet}); err == nil {
		t.Error("a server outside its network is accepted")
	}
}

func BenchmarkRenewal(b *testing.B) {
	tab := table(b, func(c *Config) { c.LeaseTime = 1000 * time.Hour })
	for i := range 20 { // what a good radio carries
		lease(b, tab, start.Add(time.Duration(i)*time.Second), MAC{2, 0, 0, 0, 7, byte(i)})
	}
	addr := lease(b, tab, start, phone)
	m, now := renewing(phone, addr), start
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Second)
		if out := tab.Receive(now, phone, m); len(out) != 1 {
			b.Fatal("no answer")
		}
	}
}
