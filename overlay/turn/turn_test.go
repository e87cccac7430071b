package turn

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/logging"
	"github.com/pion/transport/v2"
	"github.com/pion/turn/v2"
	"go.uber.org/goleak"

	"fieldkit/board/simnet"
	"fieldkit/overlay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func host(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }

func node(n byte) wire.NodeID {
	id, err := wire.NodeIDFrom(append(make([]byte, 15), n))
	if err != nil {
		panic(err)
	}
	return id
}

// world is a network with the server at host 2. Hosts 1 and 3 are kits that do not hear each other; host 4 is a kit,
// too; host 9 belongs to nobody, host 73 is a handset.
type world struct {
	t   *testing.T
	net *simnet.Network
	srv *Server
	end func()
}

const realm = "02"

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	n, err := simnet.New(simnet.Config{Delay: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	n.Watch(func(p simnet.Packet) bool {
		a, b := p.From.Addr(), p.To.Addr()
		return (a != host(1) || b != host(3)) && (a != host(3) || b != host(1))
	})
	w := &world{t: t, net: n}
	cfg := Config{
		Addresses: func() []netip.Addr { return []netip.Addr{host(2)} },
		Realm:     realm,
		Credential: func(user string) (wire.NodeID, string, bool) { // users a…z, members 1…26
			if len(user) < 1 || user[0] < 'a' || user[0] > 'z' {
				return wire.NodeID{}, "", false
			}
			return node(user[0] - 'a' + 1), "secret of " + user, true
		},
		MayReach:    func(a netip.Addr) bool { return a == host(1) || a == host(3) || a == host(4) },
		Never:       []netip.Prefix{netip.PrefixFrom(host(73), 32)},
		ClosedPorts: []uint16{5060, 6084},
		Net:         w.host(2),
	}
	for _, f := range change {
		f(&cfg)
	}
	w.srv, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.srv.Run(ctx) }()
	w.end = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
	synctest.Wait()
	return w
}

func (w *world) host(n byte) transport.Net {
	w.t.Helper()
	h, err := w.net.Host(host(n))
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

func (w *world) socket(h transport.Net, at netip.AddrPort) transport.UDPConn {
	w.t.Helper()
	c, err := h.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// client is a TURN client of the library.
func (w *world) client(h transport.Net, n byte, user, password string) *turn.Client {
	w.t.Helper()
	c, err := turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: netip.AddrPortFrom(host(2), DefaultPort).String(), STUNServerAddr: netip.AddrPortFrom(host(2), DefaultPort).String(),
		Conn: w.socket(h, netip.AddrPortFrom(host(n), 0)), Net: h, Username: user, Password: password,
		LoggerFactory: &logging.DefaultLoggerFactory{DefaultLogLevel: logging.LogLevelDisabled, ScopeLevels: map[string]logging.LogLevel{}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := c.Listen(); err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) allocate(h transport.Net, n byte, user string) (*turn.Client, net.PacketConn) {
	w.t.Helper()
	c := w.client(h, n, user, "secret of "+user)
	r, err := c.Allocate()
	if err != nil {
		w.t.Fatal(err)
	}
	return c, r
}

// simulated runs f in virtual time.
func simulated(t *testing.T, f func(*testing.T, *world), change ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, change...)
		defer w.end()
		f(t, w)
	})
}

func send(t *testing.T, from net.PacketConn, b []byte, to net.Addr) {
	t.Helper()
	if _, err := from.WriteTo(b, to); err != nil {
		t.Fatal(err)
	}
}

// receives returns the next datagram, nil when none comes within a second.
func receives(t *testing.T, c net.PacketConn) ([]byte, net.Addr) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2000)
	n, from, err := c.ReadFrom(b)
	if err != nil {
		return nil, nil
	}
	return b[:n], from
}

var media = []byte("\x80 a voice packet")

// Two kits that hear only the third reach each other through it: by one relay where one of them may be reached, and by
// two of the same server where not.
func TestTwoKitsThatShareAThird(t *testing.T) {
	simulated(t, func(t *testing.T, w *world) {
		ha, hc := w.host(1), w.host(3)
		ca, ra := w.allocate(ha, 1, "a")
		defer ca.Close()
		defer ra.Close()
		direct := w.socket(hc, netip.AddrPortFrom(host(3), 40000))
		for i := range 3 { // the first makes the permission, the channel comes later
			send(t, ra, media, direct.LocalAddr())
			got, from := receives(t, direct)
			if !bytes.Equal(got, media) || from.String() != ra.LocalAddr().String() {
				t.Fatalf("packet %d: %q from %v, want it from %v", i, got, from, ra.LocalAddr())
			}
			send(t, direct, media, ra.LocalAddr())
			if got, from := receives(t, ra); !bytes.Equal(got, media) || from.String() != direct.LocalAddr().String() {
				t.Fatalf("answer %d: %q from %v", i, got, from)
			}
		}
		cc, rc := w.allocate(hc, 3, "c")
		defer cc.Close()
		defer rc.Close()
		send(t, rc, media, ra.LocalAddr()) // permits
		send(t, ra, media, rc.LocalAddr())
		if got, from := receives(t, rc); !bytes.Equal(got, media) || from.String() != ra.LocalAddr().String() {
			t.Fatalf("between two relays: %q from %v", got, from)
		}
		s := w.srv.Stats()
		if s.Allocations != 2 || s.Members != 2 || s.Allocated != 2 || s.Relayed < 8 || s.RelayedBytes < 8*uint64(len(media)) || s.Unauthorized != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

// "A STUN server MUST … be prepared to receive Binding requests" without authentication (RFC 8489 §3, RFC 6940 §6.5.1.4).
func TestBindingTellsTheReflexiveAddress(t *testing.T) {
	simulated(t, func(t *testing.T, w *world) {
		c := w.client(w.host(1), 1, "", "")
		defer c.Close()
		got, err := c.SendBindingRequest()
		if err != nil || addrPortOf(got).Addr() != host(1) {
			t.Errorf("reflexive address %v, %v", got, err)
		}
		if s := w.srv.Stats(); s.Bindings != 1 || s.Allocations != 0 || s.Listening != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

// "The server MUST require that the request be authenticated" (RFC 8656 §7.2).
func TestStrangersGetNoAllocation(t *testing.T) {
	simulated(t, func(t *testing.T, w *world) {
		h, handset := w.host(9), w.host(73)
		for _, c := range []struct {
			name           string
			at             transport.Net
			n              byte
			user, password string
		}{
			{"unknown user", h, 9, "Mallory", "secret of Mallory"},
			{"no user", h, 9, "", ""},
			{"a member's name without the password", h, 9, "a", "guessed"},
			{"a member at a handset's address", handset, 73, "a", "secret of a"},
		} {
			cl := w.client(c.at, c.n, c.user, c.password)
			if r, err := cl.Allocate(); err == nil {
				t.Errorf("%s: got %v", c.name, r.LocalAddr())
			}
			cl.Close()
		}
		if s := w.srv.Stats(); s.Allocated != 0 || s.Unauthorized < 2 || s.Dropped == 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

// A relay reaches other kits, at ports that none offers a service on, and other relays of the same server. Each other
// destination is an attack.
func TestRelayReachesOnlyOtherKits(t *testing.T) {
	simulated(t, func(t *testing.T, w *world) {
		ha := w.host(1)
		ca, ra := w.allocate(ha, 1, "a")
		defer ca.Close()
		defer ra.Close()
		victims := map[byte]transport.Net{3: w.host(3), 9: w.host(9), 73: w.host(73)}
		for _, c := range []struct {
			name string
			to   netip.AddrPort
			may  bool
		}{
			{"another kit", netip.AddrPortFrom(host(3), 40000), true},
			{"its SIP port", netip.AddrPortFrom(host(3), 5060), false},
			{"its bootstrap port", netip.AddrPortFrom(host(3), 6084), false},
			{"its TURN server", netip.AddrPortFrom(host(3), 3478), false},
			{"its DNS", netip.AddrPortFrom(host(3), 53), false},
			{"a host that is no kit", netip.AddrPortFrom(host(9), 40000), false},
			{"a handset", netip.AddrPortFrom(host(73), 40000), false},
		} {
			n := c.to.Addr().As4()[3]
			at := w.socket(victims[n], c.to)
			_, _ = ra.WriteTo(media, net.UDPAddrFromAddrPort(c.to)) // refused permissions are errors here
			if got, _ := receives(t, at); (got != nil) != c.may {
				t.Errorf("%s, %v: received %q", c.name, c.to, got)
			}
		}
		own := w.srv.cfg.Net
		service := w.socket(own, netip.AddrPortFrom(host(2), 8080))
		_, _ = ra.WriteTo(media, service.LocalAddr())
		if got, _ := receives(t, service); got != nil {
			t.Errorf("the kit's own service received %q", got)
		}
		for _, to := range []string{"127.0.0.1:8080", "0.0.0.0:8080", "224.0.0.251:5353", "255.255.255.255:6084", "10.73.0.5:5060"} {
			before := w.srv.Stats().Forbidden
			if _, err := ra.WriteTo(media, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err == nil {
				t.Errorf("%s: permission given", to)
			}
			if w.srv.Stats().Forbidden == before {
				t.Errorf("%s: not counted", to)
			}
		}
	}, func(c *Config) {
		handsets, known := netip.MustParsePrefix("10.73.0.0/16"), c.MayReach
		c.Never = append(c.Never, handsets)
		c.MayReach = func(a netip.Addr) bool { return known(a) || handsets.Contains(a) || a.IsLoopback() || a.IsMulticast() }
	})
}

// The relay carries what ICE, DTLS and SRTP send, in both directions, and nothing of those it was not told to expect.
func TestRelayCarriesNothingElse(t *testing.T) {
	simulated(t, func(t *testing.T, w *world) {
		ca, ra := w.allocate(w.host(1), 1, "a")
		defer ca.Close()
		defer ra.Close()
		peer := w.socket(w.host(3), netip.AddrPortFrom(host(3), 40000))
		send(t, ra, media, peer.LocalAddr())
		if got, _ := receives(t, peer); got == nil {
			t.Fatal("no permission")
		}
		sip := []byte("INVITE sip:100@10.73.0.1 SIP/2.0\r\n\r\n")
		before := w.srv.Stats()
		send(t, ra, sip, peer.LocalAddr())
		if got, _ := receives(t, peer); got != nil {
			t.Errorf("SIP went out: %q", got)
		}
		send(t, peer, sip, ra.LocalAddr())
		if got, _ := receives(t, ra); got != nil {
			t.Errorf("SIP came in: %q", got)
		}
		if got := w.srv.Stats().NotRelayable - before.NotRelayable; got != 2 {
			t.Errorf("%d counted, want 2", got)
		}
		// "If no permission … the datagram is silently discarded" (RFC 8656 §9)
		other := w.socket(w.host(4), netip.AddrPortFrom(host(4), 40000))
		before = w.srv.Stats()
		send(t, other, media, ra.LocalAddr())
		if got, _ := receives(t, ra); got != nil {
			t.Errorf("came in without a permission: %q", got)
		}
		if s := w.srv.Stats(); s.Relayed != before.Relayed || s.Dropped != before.Dropped+1 { // nor does it cost bandwidth
			t.Errorf("stats %+v, before %+v", s, before)
		}
	})
}

func TestAllocationsAreBounded(t *testing.T) {
	simulated(t, func(t *testing.T, w *world) {
		ha := w.host(1)
		var got int
		for i := range maxPerMember + 3 {
			c := w.client(ha, 1, "a", "secret of a")
			defer c.Close()
			r, err := c.Allocate()
			if err == nil {
				got++
				defer r.Close()
			} else if i < maxPerMember || !strings.Contains(err.Error(), "508") {
				t.Fatalf("allocation %d: %v", i, err)
			}
		}
		if got != maxPerMember {
			t.Errorf("one member has %d allocations, want %d", got, maxPerMember)
		}
		members := maxAllocations / maxPerMember
		for m := 1; m < members+1; m++ {
			for range maxPerMember {
				user := string(rune('a' + m))
				c := w.client(ha, 1, user, "secret of "+user)
				defer c.Close()
				if r, err := c.Allocate(); err == nil {
					defer r.Close()
				}
				time.Sleep(20 * time.Millisecond) // below the rate of requests
			}
		}
		s := w.srv.Stats()
		if s.Allocations != maxAllocations || s.Members != members || s.Quota < 3 {
			t.Errorf("stats %+v, want %d allocations of %d members", s, maxAllocations, members)
		}
	})
}

// What is not used is given up, so that candidates gathered and not chosen cost nothing for long.
func TestIdleAllocationsEnd(t *testing.T) {
	simulated(t, func(t *testing.T, w *world) {
		ha := w.host(1)
		c1, r1 := w.allocate(ha, 1, "a")
		defer c1.Close()
		defer r1.Close()
		c2, r2 := w.allocate(ha, 1, "a")
		defer c2.Close()
		defer r2.Close()
		peer := w.socket(w.host(3), netip.AddrPortFrom(host(3), 40000))
		for range 20 { // as ICE keeps a pair alive
			time.Sleep(15 * time.Second)
			send(t, r1, media, peer.LocalAddr())
		}
		if got, from := receives(t, peer); got == nil || from.String() != r1.LocalAddr().String() {
			t.Errorf("the one in use does not relay: %q from %v", got, from)
		}
		if s := w.srv.Stats(); s.Allocations != 1 || s.Expired != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestBandwidthIsBounded(t *testing.T) {
	simulated(t, func(t *testing.T, w *world) {
		ca, ra := w.allocate(w.host(1), 1, "a")
		defer ca.Close()
		defer ra.Close()
		peer := w.socket(w.host(3), netip.AddrPortFrom(host(3), 40000))
		packet := append([]byte{128}, make([]byte, 999)...)
		send(t, ra, packet, peer.LocalAddr())
		time.Sleep(time.Second)
		before := w.srv.Stats()
		began := time.Now()
		for range 5000 { // 5 MB within 2.5 s
			send(t, ra, packet, peer.LocalAddr())
			time.Sleep(500 * time.Microsecond)
		}
		s := w.srv.Stats()
		sent := float64(s.RelayedBytes - before.RelayedBytes)
		if limit := bandwidth * (time.Since(began).Seconds() + 1); sent > limit || sent < limit/2 || s.OverRate == before.OverRate {
			t.Errorf("%.0f bytes relayed in %v, at most %.0f may be; %d packets over the rate", sent, time.Since(began), limit, s.OverRate-before.OverRate)
		}
	})
}

func TestRequestsAreBounded(t *testing.T) {
	simulated(t, func(t *testing.T, w *world) {
		flood := w.socket(w.host(9), netip.AddrPortFrom(host(9), 40000))
		to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(host(2), DefaultPort))
		request := append([]byte{0, 3, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...)
		for range 5000 {
			send(t, flood, request, to)
			time.Sleep(100 * time.Microsecond)
		}
		s := w.srv.Stats()
		if served := 5000 - s.OverRate; served > requestBurst+requestRate {
			t.Errorf("%d requests of one address served in half a second", served)
		}
		// Others are served all the same.
		c, r := w.allocate(w.host(1), 1, "a")
		defer c.Close()
		defer r.Close()
	})
}

// Addresses come and go: what is gone is not served, and its relays end.
func TestAddressesComeAndGo(t *testing.T) {
	var mu sync.Mutex
	own := []netip.Addr{host(2)}
	simulated(t, func(t *testing.T, w *world) {
		change := func(list ...netip.Addr) {
			mu.Lock()
			own = list
			mu.Unlock()
			w.srv.AddressesChanged()
			synctest.Wait()
		}
		c, r := w.allocate(w.host(1), 1, "a")
		defer c.Close()
		defer r.Close()
		if got := w.srv.Addrs(); len(got) != 1 || got[0] != netip.AddrPortFrom(host(2), DefaultPort) {
			t.Errorf("served: %v", got)
		}
		change()
		time.Sleep(sweep)
		if s := w.srv.Stats(); s.Listening != 0 || s.Allocations != 0 {
			t.Errorf("without addresses: %+v", s)
		}
		change(host(2))
		c2, r2 := w.allocate(w.host(4), 4, "b")
		defer c2.Close()
		defer r2.Close()
		if s := w.srv.Stats(); s.Listening != 1 || s.Allocations != 1 {
			t.Errorf("with the address again: %+v", s)
		}
	}, func(c *Config) {
		c.Addresses = func() []netip.Addr {
			mu.Lock()
			defer mu.Unlock()
			return own
		}
	})
}

func TestConfigurationIsChecked(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("empty configuration taken")
	}
}

// A kit with several links gives relayed addresses of another link than the one the client asks on: the client's far
// end is not on that.
func TestRelayIsOnAnotherLink(t *testing.T) {
	for _, c := range []struct {
		own  []netip.Addr
		want []netip.Addr
	}{
		{[]netip.Addr{host(2)}, []netip.Addr{host(2), host(2)}},
		{[]netip.Addr{host(2), host(12)}, []netip.Addr{host(12), host(12)}},
		{[]netip.Addr{host(2), host(12), host(22)}, []netip.Addr{host(12), host(22), host(12)}},
	} {
		s := &Server{}
		s.own.Store(&c.own)
		for i, want := range c.want {
			if got := s.pick(host(2)); got != want {
				t.Errorf("%v, allocation %d: relay at %v, want %v", c.own, i, got, want)
			}
		}
	}
}

// Addresses of the overlay that others can use are served: not loopback, not of one link alone, not the handsets' side.
func TestServedAddresses(t *testing.T) {
	addrs := []netip.Addr{
		netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.73.0.1"), netip.MustParseAddr("fe80::1%e0"),
		netip.MustParseAddr("0.0.0.0"), host(2), host(2), netip.MustParseAddr("::ffff:10.0.0.3"),
	}
	s, err := New(Config{
		Addresses: func() []netip.Addr { return addrs }, Realm: realm, MayReach: func(netip.Addr) bool { return true },
		Credential: func(string) (wire.NodeID, string, bool) { return wire.NodeID{}, "", false },
		Never:      []netip.Prefix{netip.MustParsePrefix("10.73.0.0/16")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.addresses()); got != "[10.0.0.2 10.0.0.3]" {
		t.Errorf("served: %s", got)
	}
}
