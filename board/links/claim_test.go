package links

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"pgregory.net/rapid"
)

var (
	ownMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	otherMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	own      = []net.HardwareAddr{ownMAC, {2, 0, 0, 0, 0, 3}}
	start    = time.Unix(0, 0)
)

func testClaim() *claim { return newClaim([32]byte{1}, ownMAC, func() float64 { return 0.5 }) }

// run lets time pass until d is over and returns what was done, with the time since the start of each.
type done struct {
	at time.Duration
	action
}

func run(c *claim, until time.Time) (all []done) {
	for {
		d := c.due()
		if d.IsZero() || d.After(until) {
			return all
		}
		for _, a := range c.tick(d) {
			all = append(all, done{d.Sub(start), a})
		}
	}
}

func request(sender, target netip.Addr, mac net.HardwareAddr) *arp.Packet {
	return &arp.Packet{Operation: arp.OperationRequest, SenderHardwareAddr: mac, SenderIP: sender, TargetIP: target, TargetHardwareAddr: make(net.HardwareAddr, 6)}
}

// RFC 3927 §2.2.1 and §2.4 with the times of §9, randomness in the middle of its range.
func TestClaimProbesThenAnnounces(t *testing.T) {
	c := testClaim()
	if a := c.carrier(start, true); a != nil {
		t.Fatalf("carrier: %v", a)
	}
	first := candidate([32]byte{1}, 0)
	want := []done{
		{500 * time.Millisecond, action{probe, first}},
		{2000 * time.Millisecond, action{probe, first}},
		{3500 * time.Millisecond, action{probe, first}},
		{5500 * time.Millisecond, action{assign, first}},
		{5500 * time.Millisecond, action{announce, first}},
		{7500 * time.Millisecond, action{announce, first}},
	}
	got := run(c, start.Add(time.Hour))
	if len(got) != len(want) {
		t.Fatalf("did %v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("step %d: %v, want %v", i, got[i], want[i])
		}
	}
	if c.address() != first || c.phase != bound {
		t.Errorf("%v in phase %v", c.address(), c.phase)
	}
}

func TestClaimConflictWhileProbing(t *testing.T) {
	first := candidate([32]byte{1}, 0)
	elsewhere := netip.MustParseAddr("169.254.9.9")
	for _, c := range []struct {
		name     string
		packet   *arp.Packet
		conflict bool
	}{
		{"somebody answers", &arp.Packet{Operation: arp.OperationReply, SenderHardwareAddr: otherMAC, SenderIP: first, TargetIP: netip.IPv4Unspecified()}, true},
		{"somebody uses it", request(first, elsewhere, otherMAC), true},
		{"somebody probes it, too", request(netip.IPv4Unspecified(), first, otherMAC), true},
		{"our own probe, heard on another interface of ours", request(netip.IPv4Unspecified(), first, own[1]), false},
		{"somebody looks for it", request(elsewhere, first, otherMAC), false},
		{"another address", request(elsewhere, elsewhere, otherMAC), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := testClaim()
			x.carrier(start, true)
			run(x, start.Add(3600*time.Millisecond)) // all probes are sent; ANNOUNCE_WAIT runs
			if a := x.packet(start.Add(4*time.Second), c.packet, own); a != nil {
				t.Errorf("did %v", a)
			}
			run(x, start.Add(time.Minute))
			if other := x.address() != first; other != c.conflict || !x.address().IsValid() {
				t.Errorf("address %v after %v", x.address(), first)
			}
		})
	}
}

// RFC 3927 §2.5 (b): one defence within DEFEND_INTERVAL, then "it MUST immediately cease using this address and
// configure a new IPv4 Link-Local address".
func TestClaimDefendsOnce(t *testing.T) {
	c := testClaim()
	c.carrier(start, true)
	run(c, start.Add(time.Minute))
	a := c.address()
	thief := request(a, a, otherMAC)
	now := start.Add(time.Minute)
	if got := c.packet(now, thief, own); len(got) != 1 || got[0] != (action{announce, a}) {
		t.Fatalf("first conflict: %v", got)
	}
	now = now.Add(defendInterval)
	if got := c.packet(now, thief, own); len(got) != 1 || got[0] != (action{announce, a}) {
		t.Fatalf("second conflict, DEFEND_INTERVAL later: %v", got)
	}
	now = now.Add(defendInterval - time.Millisecond)
	if got := c.packet(now, thief, own); len(got) != 1 || got[0] != (action{release, a}) {
		t.Fatalf("third conflict, within DEFEND_INTERVAL: %v", got)
	}
	if c.address().IsValid() {
		t.Errorf("still has %v", c.address())
	}
	run(c, now.Add(time.Minute))
	if b := c.address(); !b.IsValid() || b == a {
		t.Errorf("has %v after %v", b, a)
	}
}

// Somebody who answers every probe costs a kit IPv4 on that cable, not its rest: "the host MUST limit the rate at which
// it probes for new addresses to no more than one new address per RATE_LIMIT_INTERVAL" (RFC 3927 §2.2.1).
func TestClaimOfAHostileAnswererSlowsDown(t *testing.T) {
	c := testClaim()
	now := start
	c.carrier(now, true)
	tried := map[netip.Addr]bool{}
	for now.Before(start.Add(time.Hour)) {
		now = c.due()
		for _, a := range c.tick(now) {
			if a.act == probe {
				tried[a.addr] = true
				c.packet(now, request(a.addr, a.addr, otherMAC), own)
			}
			if a.act == assign {
				t.Fatalf("took %v", a.addr)
			}
		}
	}
	if len(tried) < maxConflicts || len(tried) > maxConflicts+60 {
		t.Errorf("%d addresses tried in an hour", len(tried))
	}
}

func TestClaimFollowsTheCarrier(t *testing.T) {
	c := testClaim()
	c.carrier(start, true)
	run(c, start.Add(time.Minute))
	a := c.address()
	now := start.Add(time.Minute)
	if got := c.carrier(now, false); len(got) != 1 || got[0] != (action{release, a}) {
		t.Fatalf("unplugged: %v", got)
	}
	if got := run(c, now.Add(time.Hour)); got != nil {
		t.Errorf("without carrier: %v", got)
	}
	if got := c.packet(now, request(a, a, otherMAC), own); got != nil {
		t.Errorf("packet without carrier: %v", got)
	}
	// The same address on the same cable, but asked for again: another host may have it now.
	c.carrier(now, true)
	if c.address().IsValid() {
		t.Error("in use before it was asked for")
	}
	run(c, now.Add(time.Minute))
	if c.address() != a {
		t.Errorf("has %v, had %v", c.address(), a)
	}
}

// "The prefix 169.254/16 […] the first 256 and last 256 addresses in the 169.254/16 prefix are reserved" (RFC 3927 §2.1).
func TestCandidatesAreInRange(t *testing.T) {
	low, high := netip.MustParseAddr("169.254.1.0"), netip.MustParseAddr("169.254.254.255")
	rapid.Check(t, func(t *rapid.T) {
		var seed [32]byte
		copy(seed[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed"))
		a := candidate(seed, rapid.Uint32().Draw(t, "i"))
		if a.Less(low) || high.Less(a) {
			t.Fatalf("%v", a)
		}
	})
}

// Whatever comes and whenever: no panic, an address in use was asked for, and time goes forward.
func TestClaimWithAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newClaim([32]byte{2}, ownMAC, func() float64 { return rapid.Float64Range(0, 1).Draw(t, "random") })
		now := start
		has := netip.Addr{}
		take := func(actions []action) {
			for _, a := range actions {
				switch a.act {
				case assign:
					if has.IsValid() {
						t.Fatalf("%v assigned beside %v", a.addr, has)
					}
					has = a.addr
				case release:
					if has != a.addr {
						t.Fatalf("%v released, has %v", a.addr, has)
					}
					has = netip.Addr{}
				}
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 15000).Draw(t, "ms")) * time.Millisecond)
			switch rapid.IntRange(0, 3).Draw(t, "event") {
			case 0:
				take(c.carrier(now, rapid.Bool().Draw(t, "up")))
			case 1:
				take(c.packet(now, request(c.addr, c.addr, otherMAC), own))
			case 2:
				take(c.packet(now, request(netip.Addr{}, c.addr, otherMAC), own))
			default:
				take(c.tick(now))
			}
			if c.address() != has {
				t.Fatalf("says %v, has %v", c.address(), has)
			}
		}
	})
}

func FuzzARP(f *testing.F) {
	b, err := announcement(ownMAC, netip.MustParseAddr("169.254.3.4"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(append(b, make([]byte, 18)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := parseARP(b)
		if !ok {
			return
		}
		again, err := p.MarshalBinary()
		if err != nil || string(again) != string(b[:28]) {
			t.Errorf("%x read as %x, %v", b, again, err)
		}
		c := testClaim()
		c.carrier(start, true)
		c.packet(start, p, own)
	})
}

// RFC 3927 §2.2.1 and §2.4 say what is in the fields; written here once more as bytes.
func TestPacketsOnTheWire(t *testing.T) {
	a := netip.MustParseAddr("169.254.3.4")
	head := "\x00\x01\x08\x00\x06\x04\x00\x01" + string(ownMAC)
	got, err := probePacket(ownMAC, a)
	if want := head + "\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00" + "\xa9\xfe\x03\x04"; err != nil || string(got) != want {
		t.Errorf("probe %x, want %x, %v", got, want, err)
	}
	got, err = announcement(ownMAC, a)
	if want := head + "\xa9\xfe\x03\x04" + "\x00\x00\x00\x00\x00\x00" + "\xa9\xfe\x03\x04"; err != nil || string(got) != want {
		t.Errorf("announcement %x, want %x, %v", got, want, err)
	}
	for n := range got {
		if _, ok := parseARP(got[:n]); ok {
			t.Errorf("%d bytes are read as a packet", n)
		}
	}
}

func TestPrefixAndAddress(t *testing.T) {
	p := Prefix("valley.example.org")
	if p.Bits() != 64 || p.Addr().As16()[0] != 0xfd || p != p.Masked() {
		t.Errorf("prefix %v", p)
	}
	if p != Prefix("valley.example.org") || p == Prefix("hill.example.org") {
		t.Error("the prefix is not one to one with the overlay's name")
	}
	seen := map[netip.Prefix]string{}
	for _, node := range []string{"node A", "node B"} {
		for _, iface := range []string{"eth0", "eth1", "wlan0"} {
			a := Address(p, []byte(node), iface)
			if !p.Contains(a.Addr()) || seen[a] != "" {
				t.Errorf("%s %s: %v, also of %s", node, iface, a, seen[a])
			}
			seen[a] = node + " " + iface
		}
	}
	for _, id := range [][]byte{make([]byte, 8), {0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x80}, {0x02, 0, 0x5e, 0xff, 0xfe, 1, 2, 3}} {
		if !reserved(id) {
			t.Errorf("%x is not reserved (RFC 5453 §3)", id)
		}
	}
	if reserved([]byte{0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}) {
		t.Error("an ordinary identifier is reserved")
	}
}
