package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/board/simnet"
	"fieldkit/overlay/wire"
)

// Both ends derive the same SRTP keys, and another trunk between the same kits other ones (RFC 5764 §4.2).
func TestKeysDifferPerTrunk(t *testing.T) {
	m := newMission(t)
	a, b := m.transport(), m.transport()
	keys := func() []byte {
		x, y := trunk(t, a, b)
		kx, err1 := x.ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 60)
		ky, err2 := y.ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 60)
		if err1 != nil || err2 != nil || !bytes.Equal(kx, ky) {
			t.Fatalf("%v, %v", err1, err2)
		}
		if x.SRTPProfile() != 0x0007 {
			t.Errorf("profile %#x, want SRTP_AEAD_AES_128_GCM", x.SRTPProfile())
		}
		return kx
	}
	if bytes.Equal(keys(), keys()) {
		t.Error("two handshakes, one key")
	}
}

func TestTrunkLimits(t *testing.T) {
	m := newMission(t)
	x, y := trunk(t, m.transport(), m.transport())
	got := make(chan []byte, 1)
	y.Handle(func(b []byte) { got <- b }, func([]byte) {})
	big := bytes.Repeat([]byte("s"), MaxAppMessage)
	if err := x.SendMessage(big); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(<-got, big) {
		t.Error("the largest message arrived changed")
	}
	if err := x.SendMessage(append(big, 's')); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a larger one: %v", err)
	}
	for _, b := range [][]byte{nil, {}, {0, 1}, {20}, {63}, {127}, {192}, {255}} {
		if err := x.SendMedia(b); !errors.Is(err, ErrNotMedia) {
			t.Errorf("media %x: %v", b, err)
		}
	}
	_ = x.Close()
	if err := x.SendMedia([]byte{128}); !errors.Is(err, ErrClosed) {
		t.Errorf("media after close: %v", err)
	}
	if err := x.SendMessage([]byte("BYE")); !errors.Is(err, ErrClosed) {
		t.Errorf("message after close: %v", err)
	}
	select {
	case <-y.Done():
	case <-time.After(5 * time.Second):
		t.Error("the far end did not notice")
	}
}

// A receiver that is slow to install itself loses no message; media that nobody wants yet is dropped and counted.
func TestMessagesWaitForHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{Delay: time.Millisecond})
		m := newMission(t)
		x, y := trunk(t, m.simulated(n, 1), m.simulated(n, 2))
		for i := range 10 {
			if err := errors.Join(x.SendMessage(fmt.Append(nil, i)), x.SendMedia([]byte{128, byte(i)})); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		got := make(chan string, 10)
		y.Handle(func(b []byte) { got <- string(b) }, func([]byte) { t.Error("old media delivered") })
		for i := range 10 {
			if s := <-got; s != fmt.Sprint(i) {
				t.Errorf("message %q, want %d", s, i)
			}
		}
		if s := y.Stats(); s.MediaDropped != 10 || s.MessagesReceived != 10 {
			t.Errorf("stats %+v", s)
		}
	})
}

// The send queue of a trunk is bounded however slow the network is.
func TestSendQueueOfATrunkIsBounded(t *testing.T) {
	a := &AppConn{carrier: &carrier{sess: new(session), life: context.Background()}, sendq: make(chan []byte, appSendQueue)}
	for i := range appSendQueue + 10 {
		err := a.SendMessage([]byte("m"))
		if full := i >= appSendQueue; errors.Is(err, ErrQueueFull) != full {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if n := a.Stats().MessagesDropped; n != 10 {
		t.Errorf("%d counted", n)
	}
}

// "This value MUST be 'passive' for the offerer … and 'active' for the answerer" (RFC 6940 §6.5.1.1).
func TestRoleOfTheWrongSide(t *testing.T) {
	m := newMission(t)
	a := m.transport()
	for _, offerer := range []bool{true, false} {
		p, err := a.Prepare(testContext(t, time.Second))
		if err != nil {
			t.Fatal(err)
		}
		remote := p.Local()
		remote.Role = []byte(map[bool]string{true: rolePassive, false: roleActive}[offerer])
		if _, err := p.Connect(testContext(t, time.Second), remote, m.identity().NodeID(), offerer); !errors.Is(err, ErrRole) {
			t.Errorf("offerer %v: %v", offerer, err)
		}
		if _, err := p.Connect(testContext(t, time.Second), remote, m.identity().NodeID(), offerer); !errors.Is(err, ErrClosed) {
			t.Errorf("second use: %v", err)
		}
	}
	if n := a.Stats().Attempts; n != 0 {
		t.Errorf("%d attempts left", n)
	}
}

func TestAttemptsAreBoundedAndExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{})
		m := newMission(t)
		a := m.simulated(n, 1)
		a.cfg.MaxAttempts = 3
		for range 3 {
			if _, err := a.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.Prepare(t.Context()); !errors.Is(err, ErrBusy) {
			t.Errorf("one too many: %v", err)
		}
		time.Sleep(attemptLife + time.Second)
		if n := a.Stats().Attempts; n != 0 {
			t.Errorf("%d attempts outlived their time", n)
		}
		p, err := a.Prepare(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Connect(t.Context(), wire.IceParameters{Ufrag: []byte("u"), Password: []byte("p"), Candidates: []wire.IceCandidate{{
			Addr: netip.MustParseAddrPort("10.9.9.9:1000"), Link: wire.LinkDTLSUDPSR, Priority: 1, Type: wire.CandHost,
		}}}, m.identity().NodeID(), true)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nobody there: %v", err)
		}
	})
}

func TestPrepareWithoutAddress(t *testing.T) {
	m := newMission(t)
	var addrs atomic.Pointer[[]netip.Addr]
	addrs.Store(&[]netip.Addr{})
	a := m.transport(func(c *Config) { c.Addresses = func() []netip.Addr { return *addrs.Load() } })
	if _, err := a.Prepare(testContext(t, time.Second)); !errors.Is(err, ErrNoAddress) {
		t.Errorf("no addresses: %v", err)
	}
	addrs.Store(&[]netip.Addr{netip.MustParseAddr("fe80::1%lo"), loopback, loopback, netip.MustParseAddr("127.0.0.2")})
	p, err := a.Prepare(testContext(t, time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	// The new addresses are seen although the transport is old; link-local IPv6 is no candidate.
	var got []string
	for _, c := range p.Local().Candidates {
		got = append(got, c.Addr.Addr().String())
		if c.Type != wire.CandHost || c.Link != wire.LinkDTLSUDPSR || c.Priority == 0 || len(c.Foundation) == 0 || c.Addr.Port() == 0 {
			t.Errorf("candidate %+v", c)
		}
	}
	if fmt.Sprint(got) != "[127.0.0.1 127.0.0.2]" && fmt.Sprint(got) != "[127.0.0.2 127.0.0.1]" {
		t.Errorf("candidates %v", got)
	}
	if len(p.Local().Ufrag) < 4 || len(p.Local().Password) < 22 { // RFC 5245 §15.4
		t.Errorf("credentials of %d and %d bytes", len(p.Local().Ufrag), len(p.Local().Password))
	}
}

func TestCandidatesFromTheWire(t *testing.T) {
	good := wire.IceCandidate{Addr: netip.MustParseAddrPort("192.0.2.7:5000"), Link: wire.LinkDTLSUDPSR, Foundation: []byte("f1"), Priority: 2130706431, Type: wire.CandHost}
	change := func(f func(*wire.IceCandidate)) wire.IceCandidate { c := good; f(&c); return c }
	addr := func(s string) wire.IceCandidate {
		return change(func(c *wire.IceCandidate) { c.Addr = netip.MustParseAddrPort(s) })
	}
	for _, c := range []struct {
		name     string
		w        wire.IceCandidate
		loopback bool
		ok       bool
	}{
		{"host", good, false, true},
		{"IPv6", addr("[2001:db8::1]:5000"), false, true},
		{"server reflexive", change(func(c *wire.IceCandidate) { c.Type, c.Related = wire.CandSrflx, c.Addr }), false, true},
		{"relay", change(func(c *wire.IceCandidate) { c.Type, c.Related = wire.CandRelay, c.Addr }), false, true},
		{"peer reflexive, reserved", change(func(c *wire.IceCandidate) { c.Type = 3 }), false, false},
		{"No-ICE", change(func(c *wire.IceCandidate) { c.Link = wire.LinkDTLSUDPSRNoICE }), false, false},
		{"TCP", change(func(c *wire.IceCandidate) { c.Link = wire.LinkTLSTCPFHNoICE }), false, false},
		{"no priority", change(func(c *wire.IceCandidate) { c.Priority = 0 }), false, false},
		{"priority out of range", change(func(c *wire.IceCandidate) { c.Priority = 1 << 31 }), false, false},
		{"no foundation", change(func(c *wire.IceCandidate) { c.Foundation = nil }), false, true},
		{"port 0", addr("192.0.2.7:0"), false, false},
		{"unspecified", addr("0.0.0.0:1"), false, false},
		{"multicast", addr("224.0.0.251:5353"), false, false},
		{"broadcast", addr("255.255.255.255:1"), false, false},
		{"link-local IPv6", addr("[fe80::1]:1"), false, false},
		{"loopback", addr("127.0.0.1:6084"), false, false},
		{"loopback of a kit on loopback", addr("127.0.0.1:6084"), true, true},
		{"loopback in IPv6 clothes", addr("[::ffff:127.0.0.1]:6084"), false, false},
		{"no address", change(func(c *wire.IceCandidate) { c.Addr = netip.AddrPort{} }), false, false},
	} {
		got, ok := fromWire(c.w, c.loopback)
		if ok != c.ok {
			t.Errorf("%s: taken %v, want %v", c.name, ok, c.ok)
			continue
		}
		if ok && (got.Port() != int(c.w.Addr.Port()) || got.Priority() != c.w.Priority || got.Component() != 1) {
			t.Errorf("%s: %v", c.name, got)
		}
		if ok && c.w.Type == wire.CandHost && len(c.w.Foundation) > 0 {
			back, err := toWire(got)
			if err != nil || back.Addr != c.w.Addr || back.Priority != c.w.Priority || string(back.Foundation) != "f1" {
				t.Errorf("%s: back as %+v, %v", c.name, back, err)
			}
		}
	}
}

func TestConfiguration(t *testing.T) {
	m := newMission(t)
	addresses := func() []netip.Addr { return nil }
	for name, c := range map[string]Config{
		"no identity":        {Trust: m.trust, Addresses: addresses},
		"no trust":           {Identity: m.identity(), Addresses: addresses},
		"no addresses":       {Identity: m.identity(), Trust: m.trust},
		"messages too large": {Identity: m.identity(), Trust: m.trust, Addresses: addresses, MaxFrame: 9000},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestClosedTransport(t *testing.T) {
	m := newMission(t)
	a := m.transport()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t, time.Second)
	_, err1 := a.Prepare(ctx)
	_, err2 := a.Bootstrap(ctx, netip.AddrPortFrom(loopback, 6084))
	_, err3 := a.Accept(ctx)
	for _, err := range []error{err1, err2, err3} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
	}
}

// A slow reader holds back its peer and loses nothing.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{Delay: time.Millisecond})
		m := newMission(t)
		x, y := linked(t, m.simulated(n, 1), m.simulated(n, 2))
		const count = receiveQueue + 5
		for i := range count {
			if err := x.Send(fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(receiveQueue*5*time.Millisecond + 300*time.Millisecond)
		if y.Stats().Unacknowledged == 0 {
			t.Error("everything was taken")
		}
		seen := map[string]bool{} // what was sent again may come late
		for range count {
			got, err := y.Receive(t.Context())
			if err != nil || seen[string(got)] {
				t.Fatalf("%q, %v", got, err)
			}
			seen[string(got)] = true
		}
	})
}

// TestClosedWhileWaiting: everything that waits on a link wakes when it goes, and queued messages are still handed out.
func TestClosedWhileWaiting(t *testing.T) {
	m := newMission(t)
	x, y := linked(t, m.transport(), m.transport())
	got := make(chan error, 1)
	go func() { _, err := y.Receive(context.Background()); got <- err }()
	_ = y.Close()
	if err := <-got; !errors.Is(err, ErrClosed) {
		t.Errorf("receive: %v", err)
	}
	if err := y.Send([]byte("late")); !errors.Is(err, ErrClosed) {
		t.Errorf("send: %v", err)
	}
	<-x.Done()
	if !errors.Is(x.Err(), ErrClosed) || !errors.Is(x.Err(), errGoodbye) {
		t.Errorf("far end: %v", x.Err())
	}
}

// TestGoodbyeIsSentWhateverComesFirst closes a link while a message is being written: the library's reader notices the
// end before the goodbye's turn has come, and must not close what that is to be sent on. Without the guard's say the
// far end heard nothing, and took 35 s to notice by ICE.
func TestGoodbyeIsSentWhateverComesFirst(t *testing.T) {
	m := newMission(t)
	a, b := m.transport(), m.transport()
	for range 4 { // who gets the library's lock first is a matter of luck
		x, y := linked(t, a, b)
		write, began, proceed := y.guard.write, make(chan struct{}), make(chan struct{})
		once := sync.OnceFunc(func() { close(began); <-proceed })
		y.guard.write = func(b []byte) (int, error) { once(); return write(b) }
		if err := y.Send([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		<-began // the library holds its lock for this message; the goodbye has to wait
		_ = y.Close()
		<-time.After(50 * time.Millisecond) // as long as the reader needs, which does not have to
		close(proceed)
		select {
		case <-x.Done():
			if !errors.Is(x.Err(), errGoodbye) {
				t.Errorf("far end: %v", x.Err())
			}
		case <-time.After(5 * time.Second):
			t.Fatal("no goodbye")
		}
	}
}

func benchMission(b *testing.B) *mission { return newMission(b) }

func BenchmarkAttach(b *testing.B) {
	m := benchMission(b)
	x, y := m.transport(), m.transport()
	b.ReportAllocs()
	for b.Loop() {
		p, q := linked(b, x, y)
		_ = p.Close()
		_ = q.Close()
	}
}

func BenchmarkBootstrap(b *testing.B) {
	m := benchMission(b)
	x, y := m.transport(), m.transport()
	b.ReportAllocs()
	for b.Loop() {
		p, err := x.Bootstrap(context.Background(), netip.AddrPortFrom(loopback, y.Port()))
		if err != nil {
			b.Fatal(err)
		}
		q, err := y.Accept(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		_ = p.Close()
		_ = q.Close()
		for y.Stats().BootstrapSessions > 0 {
			<-time.After(100 * time.Microsecond)
		}
	}
}

// BenchmarkMessage is one RELOAD message and its acknowledgement.
func BenchmarkMessage(b *testing.B) {
	m := benchMission(b)
	x, y := linked(b, m.transport(), m.transport())
	b.ReportAllocs()
	for i := uint64(0); b.Loop(); i++ {
		// Equal messages in a row would be taken for retransmissions.
		if err := x.Send(binary.BigEndian.AppendUint64(make([]byte, 0, 800), i)[:800]); err != nil {
			b.Fatal(err)
		}
		if _, err := y.Receive(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMedia is one voice packet from SendMedia to the far end's handler, which must cost no allocation.
func BenchmarkMedia(b *testing.B) {
	m := benchMission(b)
	x, y := trunk(b, m.transport(), m.transport())
	arrived := make(chan struct{}, 1)
	y.Handle(func([]byte) {}, func([]byte) { arrived <- struct{}{} })
	packet := append([]byte{128}, make([]byte, 199)...)
	b.ReportAllocs()
	for b.Loop() {
		if err := x.SendMedia(packet); err != nil {
			b.Fatal(err)
		}
		<-arrived
	}
}

func TestMediaPathDoesNotAllocate(t *testing.T) {
	m := newMission(t)
	x, y := trunk(t, m.transport(), m.transport())
	arrived := make(chan struct{}, 1)
	y.Handle(func([]byte) {}, func([]byte) { arrived <- struct{}{} })
	packet := append([]byte{128}, make([]byte, 199)...)
	// The whole process is counted, keep-alives included: less than one in a hundred packets.
	if n := testing.AllocsPerRun(1000, func() {
		if err := x.SendMedia(packet); err != nil {
			t.Fatal(err)
		}
		<-arrived
	}); n > 0 {
		t.Errorf("%v allocations per packet", n)
	}
}
