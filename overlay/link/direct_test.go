package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/board/simnet"
	"fieldkit/overlay/wire"
)

const (
	onlyUDP = "DTLS-UDP-SR-NO-ICE"
	onlyTCP = "TLS-TCP-FH-NO-ICE"
)

// noICE is an overlay whose document says no-ice, with these overlay-link-protocol elements.
func noICE(protocols ...string) func(*Config) {
	return func(c *Config) { c.NoICE, c.LinkProtocols = true, protocols }
}

// "No-ICE is selected when either side has provided 'no ICE' Overlay Link candidates. STUN is not used for connectivity
// checks when doing No-ICE; instead, the DTLS or TLS handshake … forms the connectivity check" (RFC 6940 §6.5.1.11).
func TestNoICEMakesALink(t *testing.T) {
	for protocol, link := range map[string]uint8{onlyUDP: wire.LinkDTLSUDPSRNoICE, onlyTCP: wire.LinkTLSTCPFHNoICE} {
		t.Run(protocol, func(t *testing.T) {
			m := newMission(t)
			a, b := m.transport(noICE(protocol)), m.transport(noICE(protocol))
			try, err := a.Prepare(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			local := try.Local()
			if len(local.Candidates) != 1 || len(local.Ufrag)+len(local.Password) != 0 {
				t.Errorf("parameters %+v", local)
			}
			for _, c := range local.Candidates { // "a passive candidate MUST be provided" (§6.6.5): somebody listens there
				if c.Link != link || c.Type != wire.CandHost || c.Priority == 0 || len(c.Foundation) == 0 {
					t.Errorf("candidate %+v", c)
				}
			}
			if err := try.Close(); err != nil {
				t.Error(err)
			}
			x, y := linked(t, a, b)
			if x.Peer().NodeID != b.id() || y.Peer().NodeID != a.id() {
				t.Errorf("peers %v and %v", x.Peer().NodeID, y.Peer().NodeID)
			}
			// "The node that sent the Attach request MUST be the TLS server" (§6.5.1.13)
			if x.sess.client || !y.sess.client {
				t.Error("the offerer is not the TLS server")
			}
			if x.LocalAddr() != y.RemoteAddr() || y.LocalAddr() != x.RemoteAddr() {
				t.Errorf("addresses %v-%v and %v-%v", x.LocalAddr(), x.RemoteAddr(), y.LocalAddr(), y.RemoteAddr())
			}
			if err := errors.Join(sendAll(t, x, y, 40), sendAll(t, y, x, 40)); err != nil { // more than a window
				t.Error(err)
			}
			if x.Check() || y.Check() { // "neither … used for keepalives" (§6.6.5, §6.6.6)
				t.Error("a link without ICE claims to have connectivity checks")
			}
			if h := a.Stats().Handshakes; h != 1 {
				t.Errorf("%d handshakes for one link", h)
			}
			if err := x.Close(); err != nil {
				t.Error(err)
			}
			select {
			case <-y.Done():
				if !errors.Is(y.Err(), ErrClosed) {
					t.Errorf("ended with %v", y.Err())
				}
			case <-time.After(5 * time.Second):
				t.Error("the goodbye did not arrive")
			}
		})
	}
}

// The same for trunks: SRTP beside DTLS on the same socket (RFC 5764), and in frames over TCP, where nothing else would
// carry it.
func TestNoICEMakesATrunk(t *testing.T) {
	for _, protocol := range []string{onlyUDP, onlyTCP} {
		t.Run(protocol, func(t *testing.T) {
			m := newMission(t)
			x, y := trunk(t, m.transport(noICE(protocol)), m.transport(noICE(protocol)))
			type got struct{ messages, media chan string }
			ends := map[*AppConn]got{}
			for _, c := range []*AppConn{x, y} {
				g := got{make(chan string, 4), make(chan string, 4)}
				c.Handle(func(b []byte) { g.messages <- string(b) }, func(b []byte) { g.media <- string(b) })
				ends[c] = g
			}
			for _, p := range [][2]*AppConn{{x, y}, {y, x}} {
				if err := errors.Join(p[0].SendMessage([]byte("OPTIONS")), p[0].SendMedia([]byte("\x80rtp"))); err != nil {
					t.Fatal(err)
				}
				for want, ch := range map[string]chan string{"OPTIONS": ends[p[1]].messages, "\x80rtp": ends[p[1]].media} {
					select {
					case got := <-ch:
						if got != want {
							t.Errorf("received %q, want %q", got, want)
						}
					case <-time.After(5 * time.Second):
						t.Fatalf("%q did not arrive", want)
					}
				}
			}
			kx, err1 := x.ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 60)
			ky, err2 := y.ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 60)
			if err1 != nil || err2 != nil || string(kx) != string(ky) || x.SRTPProfile() != 7 || y.SRTPProfile() != 7 || x.IsClient() || !y.IsClient() {
				t.Errorf("keys, profiles or roles: %v, %v", err1, err2)
			}
			if l, r := x.MediaAddrs(); l != y.RemoteAddr() || r != y.LocalAddr() {
				t.Errorf("media between %v and %v", l, r)
			}
			if err := x.SendMessage(make([]byte, MaxAppMessage+1)); !errors.Is(err, ErrTooLarge) {
				t.Errorf("too large: %v", err)
			}
			_ = y.Close()
			<-x.Done()
			if err := x.SendMedia([]byte("\x80")); !errors.Is(err, ErrClosed) {
				t.Errorf("media after the end: %v", err)
			}
		})
	}
}

// "The certificate exchanged during the TLS or DTLS handshake MUST match the node which sent the AttachReqAns, and if it
// does not, the connection MUST be closed" (RFC 6940 §6.5.1.11).
func TestNoICEWrongCertificateClosesTheLink(t *testing.T) {
	for _, protocol := range []string{onlyUDP, onlyTCP} {
		t.Run(protocol, func(t *testing.T) {
			m := newMission(t)
			a, b := m.transport(noICE(protocol)), m.transport(noICE(protocol))
			another := m.identity().NodeID()
			x, y := attachAs(testContext(t, 600*time.Millisecond), a, b, a.id(), another, (*Attempt).Connect)
			if x.err == nil || y.err == nil && !closedSoon(y.conn.Done()) {
				t.Errorf("the offerer took another node: %v; answerer %v", x.err, y.err)
			}
			x, y = attachAs(testContext(t, 600*time.Millisecond), a, b, another, b.id(), (*Attempt).Connect)
			if y.err == nil || !errors.Is(y.err, ErrWrongPeer) {
				t.Errorf("the answerer took another node: %v", y.err)
			}
			if x.err == nil {
				t.Error("the offerer has a link whose far end refused it")
			}
			stranger := newMission(t).transport(noICE(protocol))
			_, y = attach(testContext(t, 600*time.Millisecond), stranger, b, (*Attempt).Connect)
			if !errors.Is(y.err, ErrUntrusted) {
				t.Errorf("a stranger: %v", y.err)
			}
		})
	}
}

func closedSoon(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-time.After(3 * time.Second):
		return false
	}
}

// "A single AttachReqAns MUST NOT include both candidates whose OverlayLinkType protocols use ICE … and candidates that
// specify 'No-ICE'" (§6.5.1.1), and "An overlay MUST be either all ICE or all No-ICE" (§6.5.1.5).
func TestICEAndNoICEDoNotMix(t *testing.T) {
	m := newMission(t)
	with, without := m.transport(), m.transport(noICE())
	offerOf := func(tr *Transport) wire.IceParameters {
		a, err := tr.Prepare(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = a.Close() }()
		return a.Local()
	}
	ice, direct := offerOf(with), offerOf(without)
	if mixed(ice.Candidates) || mixed(direct.Candidates) {
		t.Error("our own offers mix")
	}
	both := ice
	both.Candidates = slices.Concat(ice.Candidates, direct.Candidates)
	for _, c := range []struct {
		to    *Transport
		offer wire.IceParameters
		want  error
	}{{with, both, ErrMixed}, {without, both, ErrMixed}, {with, direct, ErrHandshake}, {without, ice, ErrNoAddress}} {
		a, err := c.to.Prepare(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Connect(testContext(t, time.Second), c.offer, m.identity().NodeID(), false); !errors.Is(err, c.want) {
			t.Errorf("%v, want %v", err, c.want)
		}
	}
}

// A candidate where nobody answers costs a moment, not the link; and however many answer, one handshake is finished.
func TestNoICECandidatesAreTriedInTurn(t *testing.T) {
	m := newMission(t)
	a, b := m.transport(noICE()), m.transport(noICE())
	silent, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	nobody, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: loopback.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	refusing := addrPortOf(nobody.Addr())
	_ = nobody.Close()
	dead := []wire.IceCandidate{
		{Addr: addrPortOf(silent.LocalAddr()), Link: wire.LinkDTLSUDPSRNoICE, Priority: 1<<31 - 1, Type: wire.CandHost},
		{Addr: refusing, Link: wire.LinkTLSTCPFHNoICE, Priority: 1<<31 - 2, Type: wire.CandHost},
	}
	for _, c := range []struct {
		name string
		keep func(wire.IceCandidate) bool
		tcp  bool
	}{
		{"UDP", func(c wire.IceCandidate) bool { return c.Link == wire.LinkDTLSUDPSRNoICE }, false},
		{"TCP", func(c wire.IceCandidate) bool { return c.Link == wire.LinkTLSTCPFHNoICE }, true},
		{"both", func(wire.IceCandidate) bool { return true }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := testContext(t, 8*time.Second)
			before := a.Stats().Handshakes
			p, err1 := a.Prepare(ctx)
			q, err2 := b.Prepare(ctx)
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			offer := p.Local()
			offer.Candidates = slices.Clone(dead)
			for _, w := range p.Local().Candidates {
				if c.keep(w) {
					offer.Candidates = append(offer.Candidates, w)
				}
			}
			got := make(chan outcome[*Conn], 1)
			go func() {
				conn, err := p.Connect(ctx, q.Local(), b.id(), true)
				got <- outcome[*Conn]{conn, err}
			}()
			start := time.Now()
			y, err := q.Connect(ctx, offer, a.id(), false)
			x := <-got
			if err != nil || x.err != nil {
				t.Fatalf("offerer %v, answerer %v", x.err, err)
			}
			exchange(t, x.conn, y)
			if y.sess.stream != c.tcp {
				t.Errorf("over TCP: %v", y.sess.stream)
			}
			if n := a.Stats().Handshakes - before; n != 1 {
				t.Errorf("%d handshakes finished", n)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("took %v", took)
			}
			_ = y.Close()
		})
	}
}

// Whoever knocks at the sockets of an attempt keeps nobody out: not with junk, not with a stranger's handshake.
func TestNoICEStrangersKnock(t *testing.T) {
	m := newMission(t)
	a, b := m.transport(noICE(onlyUDP)), m.transport(noICE(onlyUDP))
	stranger := newMission(t).transport(noICE(onlyUDP))
	ctx := testContext(t, 8*time.Second)
	p, err1 := a.Prepare(ctx)
	q, err2 := b.Prepare(ctx)
	z, err3 := stranger.Prepare(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	got := make(chan outcome[*Conn], 1)
	go func() {
		conn, err := p.Connect(ctx, q.Local(), b.id(), true)
		got <- outcome[*Conn]{conn, err}
	}()
	junk, err := net.Dial("udp4", p.Local().Candidates[0].Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = junk.Close() }()
	for _, b := range [][]byte{{}, {1}, make([]byte, 200), firstFlight(t), plainRecord(contentAlert, 0, []byte{2, 0})} {
		if _, err := junk.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := z.Connect(testContext(t, 2*time.Second), p.Local(), a.id(), false); !errors.Is(err, ErrUntrusted) {
		t.Errorf("the stranger: %v", err)
	}
	y, err := q.Connect(ctx, p.Local(), a.id(), false)
	x := <-got
	if err != nil || x.err != nil {
		t.Fatalf("offerer %v, answerer %v", x.err, err)
	}
	exchange(t, x.conn, y)
	if x.conn.Peer().NodeID != b.id() {
		t.Errorf("linked to %v", x.conn.Peer().NodeID)
	}
}

// Strangers who only begin handshakes, or connections, take no room from the peer.
func TestNoICESilentStrangersLeaveRoom(t *testing.T) {
	for _, protocol := range []string{onlyUDP, onlyTCP} {
		t.Run(protocol, func(t *testing.T) {
			m := newMission(t)
			a, b := m.transport(noICE(protocol)), m.transport(noICE(protocol))
			ctx := testContext(t, 8*time.Second)
			p, err1 := a.Prepare(ctx)
			q, err2 := b.Prepare(ctx)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			got := make(chan outcome[*Conn], 1)
			go func() {
				conn, err := p.Connect(ctx, q.Local(), b.id(), true)
				got <- outcome[*Conn]{conn, err}
			}()
			hello, elsewhere := firstFlight(t), []byte{127, 0, 0, 2}
			for range 2 * maxDirectHandshakes {
				network, from := "udp4", net.Addr(&net.UDPAddr{IP: elsewhere})
				if protocol == onlyTCP {
					network, from = "tcp4", &net.TCPAddr{IP: elsewhere}
				}
				c, err := (&net.Dialer{LocalAddr: from}).Dial(network, p.Local().Candidates[0].Addr.String())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = c.Close() }()
				if _, err := c.Write(hello[:min(len(hello), map[string]int{onlyUDP: 2000, onlyTCP: 3}[protocol])]); err != nil && protocol == onlyUDP {
					t.Fatal(err)
				}
			}
			y, err := q.Connect(ctx, p.Local(), a.id(), false)
			x := <-got
			if err != nil || x.err != nil {
				t.Fatalf("offerer %v, answerer %v", x.err, err)
			}
			exchange(t, x.conn, y)
		})
	}
}

// A candidate that answers and then falls silent, or a handshake that the network swallowed, is tried again while there is
// time, and the others are.
func TestNoICEStalledHandshakeIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{Delay: 5 * time.Millisecond})
		m := newMission(t)
		a, b := m.simulatedAs(n, 1, noICE()), m.simulatedAs(n, 2, noICE())
		start, client := time.Now(), netip.AddrFrom4([4]byte{10, 0, 0, 2})
		n.Watch(func(p simnet.Packet) bool { // after the first ClientHello nothing of the client gets through for a while
			since := time.Since(start)
			return p.From.Addr() != client || since < 8*time.Millisecond || since > 7*time.Second
		})
		x, y := linked(t, a, b)
		exchange(t, x, y)
		if took := time.Since(start); took < 7*time.Second || took > 13*time.Second {
			t.Errorf("linked after %v", took)
		} else {
			t.Logf("linked after %v", took)
		}
	})
}

// "Highest priority is assigned to protocols that offer well-understood congestion and flow control without head-of-line
// blocking … Second highest … TCP" (RFC 6940 §6.5.1.6): all of the first kind before any of the second, and in the order
// of the addresses.
func TestNoICEPriorities(t *testing.T) {
	m := newMission(t)
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.3"), loopback, netip.MustParseAddr("127.0.0.2")}
	a := m.transport(noICE("TLS"), func(c *Config) { c.Addresses = func() []netip.Addr { return addrs } })
	try, err := a.Prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = try.Close() }()
	var got []string
	last := uint32(1 << 31)
	for _, c := range try.Local().Candidates {
		got = append(got, fmt.Sprint(c.Link, c.Addr.Addr()))
		if c.Priority >= last || c.Priority>>24 != hostPreference || c.Priority&0xff != 255 {
			t.Errorf("priority %#x after %#x", c.Priority, last)
		}
		last = c.Priority
	}
	want := []string{"3 127.0.0.3", "3 127.0.0.1", "3 127.0.0.2", "4 127.0.0.3", "4 127.0.0.1", "4 127.0.0.2"}
	if !slices.Equal(got, want) {
		t.Errorf("candidates %v, want %v", got, want)
	}
}

// Links without ICE over IPv6, and between kits of which one has IPv4 alone.
func TestNoICEAddressFamilies(t *testing.T) {
	v6 := netip.IPv6Loopback()
	if l, err := net.ListenTCP("tcp6", &net.TCPAddr{IP: net.IPv6loopback}); err != nil {
		t.Skip("no IPv6 on this host")
	} else {
		_ = l.Close()
	}
	on := func(addrs ...netip.Addr) func(*Config) {
		return func(c *Config) { c.Addresses = func() []netip.Addr { return addrs } }
	}
	m := newMission(t)
	for _, protocol := range []string{onlyUDP, onlyTCP} {
		for _, c := range []struct {
			a, b []netip.Addr
			want netip.Addr
		}{
			{[]netip.Addr{v6}, []netip.Addr{v6}, v6},
			{[]netip.Addr{loopback, v6}, []netip.Addr{v6}, v6},
			{[]netip.Addr{v6, loopback}, []netip.Addr{loopback}, loopback},
		} {
			x, y := linked(t, m.transport(noICE(protocol), on(c.a...)), m.transport(noICE(protocol), on(c.b...)))
			exchange(t, x, y)
			if x.LocalAddr().Addr() != c.want || y.LocalAddr().Addr() != c.want {
				t.Errorf("%s: linked at %v and %v, want %v", protocol, x.LocalAddr(), y.LocalAddr(), c.want)
			}
		}
	}
}

// The handset side is no part of the overlay over TCP, either: not served, not dialled from.
func TestHandsetSideIsNotServedOverTCP(t *testing.T) {
	m := newMission(t)
	other := func(c *Config) {
		c.Addresses = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.2")} }
	}
	a, b := m.transport(noICE(onlyTCP), other), m.transport(noICE(onlyTCP))
	if _, err := b.Bootstrap(testContext(t, 2*time.Second), netip.AddrPortFrom(loopback, a.Port())); err == nil {
		t.Error("served at an address that is not the overlay's")
	}
	if n := a.Stats().BootstrapDropped; n != 1 {
		t.Errorf("%d dropped", n)
	}
	if _, err := a.Bootstrap(testContext(t, 2*time.Second), netip.AddrPortFrom(loopback, b.Port())); !errors.Is(err, ErrNoAddress) {
		t.Errorf("dialled from an address that is not the overlay's: %v", err)
	}
}

// Configured protocols are those of the document; "If none appear, then this implies the default value, 'TLS', which
// refers to the use of TLS and DTLS" (RFC 6940 §11.1).
func TestProtocolsOfTheDocument(t *testing.T) {
	udp, tcp := wire.LinkDTLSUDPSRNoICE, wire.LinkTLSTCPFHNoICE
	for _, c := range []struct {
		noICE  bool
		names  []string
		secret bool
		want   []uint8
	}{
		{false, nil, false, []uint8{wire.LinkDTLSUDPSR}},
		{false, []string{"TLS"}, true, []uint8{wire.LinkDTLSUDPSR}},
		{true, nil, false, []uint8{udp, tcp}},
		{true, []string{"TLS"}, false, []uint8{udp, tcp}},
		{true, []string{"EXP-PROTOCOL", "TLS"}, false, []uint8{udp, tcp}},
		{true, []string{onlyTCP}, false, []uint8{tcp}},
		{true, []string{onlyTCP, onlyUDP}, false, []uint8{udp, tcp}},
		{true, []string{onlyUDP}, true, []uint8{udp}},
		{true, nil, true, []uint8{udp}}, // TLS-PSK on DTLS links alone
		{true, []string{onlyTCP}, true, nil},
		{false, []string{onlyTCP}, false, nil},
		{true, []string{"DTLS-UDP-SR"}, false, nil},
		{false, []string{"EXP-PROTOCOL"}, false, nil},
	} {
		got, err := protocolsOf(c.noICE, c.names, c.secret)
		if !slices.Equal(got, c.want) || errors.Is(err, ErrNoProtocol) != (c.want == nil) {
			t.Errorf("no-ice %v, %q, secret %v: %v, %v, want %v", c.noICE, c.names, c.secret, got, err, c.want)
		}
	}
}

// "When contacting a bootstrap node, the Joining Node MUST first form the DTLS or TLS connection to the bootstrap node"
// (RFC 6940 §11.4): over what the overlay permits, and over TCP where UDP does not get through.
func TestBootstrapOverWhatThereIs(t *testing.T) {
	m := newMission(t)
	for _, c := range []struct {
		dialler, listener []string
		stream            bool
	}{
		{[]string{onlyUDP}, nil, false},
		{[]string{onlyTCP}, nil, true},
		{nil, nil, false},
		{nil, []string{onlyTCP}, true},
		{nil, []string{onlyUDP}, false},
	} {
		t.Run(fmt.Sprint(c.dialler, c.listener), func(t *testing.T) {
			a, b := m.transport(noICE(c.dialler...)), m.transport(noICE(c.listener...))
			ctx := testContext(t, 5*time.Second)
			x, err := a.Bootstrap(ctx, netip.AddrPortFrom(loopback, b.Port()))
			if err != nil {
				t.Fatal(err)
			}
			y, err := b.Accept(ctx)
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, x, y)
			if x.sess.stream != c.stream || x.Peer().NodeID != b.id() || y.Peer().NodeID != a.id() {
				t.Errorf("over TCP: %v, peers %v and %v", x.sess.stream, x.Peer().NodeID, y.Peer().NodeID)
			}
			if n := b.Stats().BootstrapSessions; n != 1 {
				t.Errorf("%d sessions on the bootstrap port", n)
			}
		})
	}
	a := m.transport(noICE(onlyTCP))
	if _, err := a.Bootstrap(testContext(t, time.Second), netip.MustParseAddrPort("127.0.0.1:1")); err == nil {
		t.Error("a link to a closed port")
	}
}

// The link without ICE over a bad radio, in virtual time.
func TestNoICEInVirtualTime(t *testing.T) {
	for _, c := range []struct {
		delay   time.Duration
		loss    float64
		connect time.Duration
	}{
		{5 * time.Millisecond, 0, 60 * time.Millisecond},
		{100 * time.Millisecond, 0, 900 * time.Millisecond},
		{5 * time.Millisecond, 0.2, 12 * time.Second},
	} {
		t.Run(fmt.Sprintf("delay %v loss %v", c.delay, c.loss), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, simnet.Config{Delay: c.delay, Loss: c.loss, Seed: 6})
				m := newMission(t)
				a, b := m.simulatedAs(n, 1, noICE()), m.simulatedAs(n, 2, noICE())
				start := time.Now()
				x, y := linked(t, a, b)
				if took := time.Since(start); took > c.connect {
					t.Errorf("connected after %v, want at most %v", took, c.connect)
				} else {
					t.Logf("connected after %v", took)
				}
				if err := errors.Join(sendAll(t, x, y, 30), sendAll(t, y, x, 30)); err != nil && c.loss == 0 {
					t.Error(err)
				}
			})
		})
	}
}

func TestNoICEAttemptsExpire(t *testing.T) {
	m := newMission(t)
	a := m.transport(noICE(), func(c *Config) { c.ConnectTimeout = 200 * time.Millisecond })
	p, err := a.Prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Connect(t.Context(), p.Local(), m.identity().NodeID(), true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an Attach that nobody answers: %v", err)
	}
	if s := a.Stats(); s.Attempts != 0 || s.Conns != 0 {
		t.Errorf("left: %+v", s)
	}
}
