package link

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/transport/v2"

	"fieldkit/board/simnet"
	"fieldkit/overlay/stun"
	"fieldkit/overlay/turn"
	"fieldkit/overlay/wire"
)

// line is three kits of which the first and the last hear only the middle one, which runs the TURN server.
type line struct {
	t       *testing.T
	net     *simnet.Network
	hosts   [3]transport.Net
	kits    [3]*Transport
	server  *turn.Server
	asked   bool             // the ends ask for relays
	apart   bool             // the ends do not hear each other
	data    [2]atomic.Uint64 // datagrams that carry others, to and from the server: as indications, by channels
	offTurn context.CancelFunc
	ended   chan error
}

func lineAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}) }

// inLine runs f in virtual time with a line whose neighbours are linked.
func inLine(t *testing.T, delay time.Duration, f func(*testing.T, *line)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &line{t: t, net: newNetwork(t, simnet.Config{Delay: delay}), asked: true, apart: true, ended: make(chan error, 1)}
		l.net.Watch(func(p simnet.Packet) bool {
			if p.From.Port() == turn.DefaultPort || p.To.Port() == turn.DefaultPort {
				switch {
				case stun.KindOf(p.Data) == stun.Channel:
					l.data[1].Add(1)
				case stun.Type(p.Data) == stun.SendIndication, stun.Type(p.Data) == stun.DataIndication:
					l.data[0].Add(1)
				}
			}
			a, b := p.From.Addr(), p.To.Addr()
			return !l.apart || (a != lineAddr(0) || b != lineAddr(2)) && (a != lineAddr(2) || b != lineAddr(0))
		})
		m := newMission(t)
		for i := range l.kits {
			h, err := l.net.Host(lineAddr(i))
			if err != nil {
				t.Fatal(err)
			}
			l.hosts[i] = h
			l.kits[i] = m.transport(func(c *Config) {
				c.Net, c.Port = h, 6084
				c.Addresses = func() []netip.Addr { return []netip.Addr{lineAddr(i)} }
				c.Servers = func() []Server { return l.servers(i) }
			})
		}
		middle := l.kits[1]
		var err error
		l.server, err = turn.New(turn.Config{
			Addresses: middle.cfg.Addresses, Realm: middle.id().String(), Credential: middle.Credential, Net: l.hosts[1],
			MayReach: func(a netip.Addr) bool {
				return slices.ContainsFunc(middle.Neighbours(), func(n Neighbour) bool { return n.Addr == a })
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		var ctx context.Context
		ctx, l.offTurn = context.WithCancel(context.Background())
		go func() { l.ended <- l.server.Run(ctx) }()
		defer func() {
			for _, k := range l.kits {
				if err := k.Close(); err != nil {
					t.Error(err)
				}
			}
			l.offTurn()
			if err := <-l.ended; err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		linked(t, l.kits[0], l.kits[1])
		linked(t, l.kits[1], l.kits[2])
		f(t, l)
	})
}

// servers is what a kit of the line asks: its neighbours' servers.
func (l *line) servers(i int) (r []Server) {
	if !l.asked {
		return nil
	}
	for _, n := range l.kits[i].Neighbours() {
		r = append(r, Server{Addr: netip.AddrPortFrom(n.Addr, turn.DefaultPort), Username: n.Username, Password: n.Password})
	}
	return r
}

// Two kits that share only a third connect through it: link, messages and media.
func TestAttachThroughAThirdKit(t *testing.T) {
	inLine(t, 5*time.Millisecond, func(t *testing.T, l *line) {
		a, c := l.kits[0], l.kits[2]
		began := time.Now()
		x, y := linked(t, a, c)
		t.Logf("linked after %v", time.Since(began))
		if d := time.Since(began); d > time.Second {
			t.Errorf("took %v", d)
		}
		exchange(t, x, y)
		if !x.Relayed() || !y.Relayed() {
			t.Error("the link is not known to be relayed")
		}
		for i, want := range []int64{1, 0, 1} {
			if got := l.kits[i].Stats().Relayed; got != want {
				t.Errorf("kit %d counts %d relayed links, want %d", i, got, want)
			}
		}
		for _, k := range []*Transport{a, c} { // it is no way to a server: there is nobody at that address
			if n := k.Neighbours(); len(n) != 1 || n[0].Node != l.kits[1].id() {
				t.Errorf("neighbours %+v", n)
			}
		}
		p, q := trunk(t, a, c)
		message, media := make(chan []byte, 10), make(chan []byte, 10)
		take := func(ch chan []byte) func([]byte) { return func(b []byte) { ch <- bytes.Clone(b) } }
		p.Handle(take(message), take(media))
		q.Handle(take(message), take(media))
		for _, from := range []*AppConn{p, q} {
			if err := errors.Join(from.SendMessage([]byte("INVITE")), from.SendMedia([]byte("\x80voice"))); err != nil {
				t.Fatal(err)
			}
			if got := <-message; string(got) != "INVITE" {
				t.Errorf("message %q", got)
			}
			if got := <-media; string(got) != "\x80voice" {
				t.Errorf("media %q", got)
			}
		}
		if s := l.server.Stats(); s.Relayed == 0 || s.Forbidden > 0 && s.Allocations == 0 {
			t.Errorf("server %+v", s)
		}
		// What is in use goes by channels, 40 bytes shorter: from a second after the start, and an hour later.
		channels := func() {
			t.Helper()
			time.Sleep(time.Second)
			indications, channels := l.data[0].Load(), l.data[1].Load()
			for range 10 {
				if err := errors.Join(p.SendMedia([]byte("\x80one")), q.SendMedia([]byte("\x80other"))); err != nil {
					t.Fatal(err)
				}
				<-media
				<-media
			}
			if i, c := l.data[0].Load()-indications, l.data[1].Load()-channels; i > 2 || c < 20 {
				t.Errorf("20 packets went as %d indications and by %d channel data", i, c)
			}
		}
		channels()
		// Allocations and permissions are refreshed, and the credential outlives its link: an hour later all works.
		var neighbour *Conn
		neighbour, _ = linked(t, a, l.kits[1])
		for _, old := range a.links.all() {
			if !old.relayed.Load() && old != neighbour.carrier {
				old.end(ErrClosed)
			}
		}
		time.Sleep(time.Hour)
		exchange(t, x, y)
		if err := p.SendMedia([]byte("\x80later")); err != nil {
			t.Fatal(err)
		}
		if got := <-media; string(got) != "\x80later" {
			t.Errorf("media %q", got)
		}
		channels()
		// The third goes: what went through it ends.
		l.net.Kill(lineAddr(1))
		began = time.Now()
		<-x.Done()
		<-p.Done()
		t.Logf("noticed after %v that the third is gone", time.Since(began))
	})
}

func TestWithoutRelaysTheEndsDoNotMeet(t *testing.T) {
	inLine(t, time.Millisecond, func(t *testing.T, l *line) {
		l.asked = false
		x, y := attach(testContext(t, 20*time.Second), l.kits[0], l.kits[2], (*Attempt).Connect)
		if x.err == nil || y.err == nil {
			t.Error("linked without a way")
		}
		for _, k := range []*Transport{l.kits[0], l.kits[2]} {
			if at := k.Unreached(); time.Since(at) > 20*time.Second {
				t.Errorf("not noted: %v", at)
			}
		}
		if at := l.kits[1].Unreached(); !at.IsZero() {
			t.Errorf("noted without a reason: %v", at)
		}
	})
}

// Where there is a direct way it is taken, and the relays are given back. What asking for them costs is two round trips.
func TestRelaysAreGivenBackOnALAN(t *testing.T) {
	const delay = 2 * time.Millisecond
	inLine(t, delay, func(t *testing.T, l *line) {
		l.apart = false
		prepare := func() time.Duration {
			began := time.Now()
			try, err := l.kits[0].Prepare(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			d := time.Since(began)
			if err := try.Close(); err != nil {
				t.Error(err)
			}
			return d
		}
		with := prepare()
		l.asked = false
		without := prepare()
		l.asked = true
		t.Logf("candidates after %v with a relay, %v without; one way takes %v", with, without, delay)
		if with > without+5*delay {
			t.Errorf("the relay delays the offer by %v", with-without)
		}
		began := time.Now()
		x, y := linked(t, l.kits[0], l.kits[2])
		t.Logf("linked after %v", time.Since(began))
		exchange(t, x, y)
		if x.Relayed() || y.Relayed() {
			t.Error("the relay was taken though there is a direct way")
		}
		time.Sleep(2 * time.Minute)
		if s := l.server.Stats(); s.Allocations != 0 || s.Allocated != 3 {
			t.Errorf("server %+v: allocations left, or none made", s)
		}
		for _, k := range []*Transport{l.kits[0], l.kits[2]} {
			if n := k.Neighbours(); len(n) != 2 {
				t.Errorf("neighbours %+v", n)
			}
		}
	})
}

// A server that does not answer costs relayWait, and does not keep the Transport from closing.
func TestDeadServerIsNotWaitedFor(t *testing.T) {
	inLine(t, time.Millisecond, func(t *testing.T, l *line) {
		l.apart = false
		l.offTurn()
		l.ended <- <-l.ended
		began := time.Now()
		x, y := linked(t, l.kits[0], l.kits[2])
		exchange(t, x, y)
		if d := time.Since(began); d > 2*relayWait+500*time.Millisecond {
			t.Errorf("linked after %v", d)
		}
		try, err := l.kits[0].Prepare(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if c := try.Local().Candidates; len(c) != 1 || c[0].Type != wire.CandHost {
			t.Errorf("candidates %+v", c)
		}
		began = time.Now()
		if err := errors.Join(try.Close(), l.kits[0].Close()); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("closed after %v", d)
		}
	})
}

// Both ends of a link have the same credential, nobody else has, and it ends a while after the link.
func TestCredentialsComeFromTheLink(t *testing.T) {
	inLine(t, time.Millisecond, func(t *testing.T, l *line) {
		a, b, c := l.kits[0], l.kits[1], l.kits[2]
		na := a.Neighbours()
		if len(na) != 1 || na[0].Node != b.id() || na[0].Addr != lineAddr(1) || na[0].Local != lineAddr(0) {
			t.Fatalf("neighbours %+v", na)
		}
		node, password, ok := b.Credential(na[0].Username)
		if !ok || node != a.id() || password != na[0].Password || len(password) < 24 {
			t.Errorf("at the far end: %v, %v", node, ok)
		}
		if _, _, ok := c.Credential(na[0].Username); ok {
			t.Error("a third kit knows the credential")
		}
		if nb := b.Neighbours(); len(nb) != 2 || nb[0].Password == nb[1].Password {
			t.Errorf("the middle's neighbours: %d", len(nb))
		}
		for _, x := range a.links.all() {
			x.end(ErrClosed)
		}
		time.Sleep(time.Second)
		if n := a.Neighbours(); len(n) != 0 { // "Only peers to which the peer currently has connections may be used" (§6.5.1.4)
			t.Errorf("neighbours of a kit without links: %+v", n)
		}
		if _, _, ok := b.Credential(na[0].Username); !ok {
			t.Error("the credential ended with the link")
		}
		time.Sleep(credentialGrace)
		if _, _, ok := b.Credential(na[0].Username); ok {
			t.Error("the credential never ends")
		}
	})
}

// The sockets of TURN clients take what their server sends, and of that only what the library may read: the crash
// packet by itself and through the relay, and plain junk.
func TestRelaySocketGuards(t *testing.T) {
	inLine(t, time.Millisecond, func(t *testing.T, l *line) {
		a := l.kits[0]
		try, err := a.Prepare(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer try.Close()
		relay := -1
		for i, c := range try.Local().Candidates {
			if c.Type == wire.CandRelay {
				relay = i
			}
		}
		if relay < 0 {
			t.Fatalf("no relayed candidate: %+v", try.Local().Candidates)
		}
		at := netip.AddrPortFrom(lineAddr(0), try.Local().Candidates[relay].Related.Port())
		stranger, err := l.hosts[2].ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(lineAddr(2), 0)))
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
		l.apart = false
		before := a.Stats()
		for _, b := range [][]byte{crashPacket, {0x40, 0, 0, 1, 128}, []byte("\x16junk"), {}} {
			if _, err := stranger.WriteTo(b, net.UDPAddrFromAddrPort(at)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(100 * time.Millisecond)
		if got := a.Stats().DatagramsDropped - before.DatagramsDropped; got < 3 {
			t.Errorf("%d datagrams of a stranger dropped", got)
		}
		// As from the server: what it would never send, but who is on the link can in its name.
		s := &relaySocket{stats: &a.stats.guard}
		inner := func(b []byte) []byte {
			return append([]byte{0x40, 0, byte(len(b) >> 8), byte(len(b))}, b...)
		}
		for _, c := range []struct {
			name string
			b    []byte
			ok   bool
		}{
			{"crash packet", crashPacket, false},
			{"crash packet through the relay", inner(crashPacket), false},
			{"check through the relay", inner(stun.Binding([12]byte{1})), true},
			{"DTLS through the relay", inner([]byte{22, 254, 253}), true},
			{"media through the relay", inner([]byte{128, 1}), true},
			{"SIP through the relay", inner([]byte("INVITE sip:x SIP/2.0")), false},
			{"channel data cut short", inner([]byte{128, 1})[:5], false},
			{"DTLS beside the relay", []byte{22, 254, 253}, false},
			{"empty", nil, false},
		} {
			if s.wellFormed(c.b) != c.ok {
				t.Errorf("%s: let in %v", c.name, !c.ok)
			}
		}
	})
}

// Behind a NAT the offer has the address that the server saw, with the kit's own as related address; without one it has
// not, since it would be the host candidate again.
func TestReflexiveCandidates(t *testing.T) {
	inLine(t, time.Millisecond, func(t *testing.T, l *line) {
		nat, err := l.net.Host(netip.AddrFrom4([4]byte{10, 0, 0, 9}))
		if err != nil {
			t.Fatal(err)
		}
		seen := netip.AddrPortFrom(lineAddr(0), 4000) // as the server says
		server, err := nat.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 3478})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		go func() {
			b := make([]byte, 1500)
			for {
				n, from, err := server.ReadFrom(b)
				if err != nil {
					return
				}
				ip, port := seen.Addr().As4(), seen.Port()^0x2112
				r := append([]byte{1, 1, 0, 12}, b[4:20]...)
				r = append(r, 0, 0x20, 0, 8, 0, 1, byte(port>>8), byte(port), ip[0]^0x21, ip[1]^0x12, ip[2]^0xa4, ip[3]^0x42)
				if _, err := server.WriteTo(r, from); err != nil || n == 0 {
					return
				}
			}
		}()
		k := l.kits[0]
		k.cfg.Servers = func() []Server {
			return []Server{{Addr: netip.MustParseAddrPort("10.0.0.9:3478"), Reflexive: true}}
		}
		reflexive := func() (r []wire.IceCandidate) {
			try, err := k.Prepare(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer try.Close()
			for _, c := range try.Local().Candidates {
				if c.Type != wire.CandHost {
					r = append(r, c)
				}
			}
			return r
		}
		if r := reflexive(); len(r) != 0 {
			t.Errorf("no NAT, and yet %+v", r)
		}
		seen = netip.MustParseAddrPort("192.0.2.7:4000")
		r := reflexive()
		if len(r) != 1 || r[0].Type != wire.CandSrflx || r[0].Addr != seen || r[0].Related.Addr() != lineAddr(0) || r[0].Priority>>24 != 100 {
			t.Errorf("candidates %+v", r)
		}
	})
}

// Type preferences are 126 for host candidates, 100 for server-reflexive and 0 for relayed ones (RFC 5245 §4.1.2.2), so
// that a direct way is preferred; the wire carries them as they are.
func TestCandidatePriorities(t *testing.T) {
	inLine(t, time.Millisecond, func(t *testing.T, l *line) {
		try, err := l.kits[0].Prepare(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer try.Close()
		want := map[uint8]uint32{wire.CandHost: 126, wire.CandRelay: 0}
		for _, c := range try.Local().Candidates {
			if p, ok := want[c.Type]; !ok || c.Priority>>24 != p || c.Priority&0xff != 255 {
				t.Errorf("candidate of type %d has the priority %#x", c.Type, c.Priority)
			}
			delete(want, c.Type)
			back, ok := fromWire(c, false)
			if !ok || back.Priority() != c.Priority {
				t.Errorf("candidate %+v comes back as %v", c, back)
			}
		}
		if len(want) != 0 {
			t.Errorf("no candidate of types %v", want)
		}
	})
}

// What servers are asked is bounded, and none that would be reached from the handsets' side.
func TestServersAreChecked(t *testing.T) {
	m := newMission(t)
	at := func(s string) Server {
		return Server{Addr: netip.MustParseAddrPort(s), Username: "u", Password: "p"}
	}
	var list []Server
	k := m.transport(func(c *Config) { c.Servers = func() []Server { return list } })
	for _, c := range []struct {
		name string
		list []Server
		want int
	}{
		{"none", nil, 0},
		{"one on the overlay's address", []Server{at("127.0.0.1:3478")}, 1},
		{"too many", slices.Repeat([]Server{at("127.0.0.1:3478")}, 9), maxServers},
		{"from another address", []Server{at("127.0.0.99:3478")}, 1},
		{"IPv6", []Server{at("[::1]:3478")}, 0},
		{"no port", []Server{at("127.0.0.1:0")}, 0},
		{"no credential and nothing to ask", []Server{{Addr: netip.MustParseAddrPort("127.0.0.1:3478")}}, 0},
	} {
		list = c.list
		if urls, _, at := k.servers(); len(urls) != c.want || len(at) != c.want {
			t.Errorf("%s: %d servers, want %d", c.name, len(at), c.want)
		}
	}
	k.cfg.Addresses = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.1")} }
	list = []Server{at("127.0.0.1:3478")}
	if urls, _, _ := k.servers(); len(urls) != 0 {
		t.Error("a server is asked from an address that is not the overlay's")
	}
}
