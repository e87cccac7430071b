package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/dtls/v2"

	"fieldkit/overlay/link/suite"
	"golang.org/x/net/ipv4"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// firstFlight is the first datagram of a DTLS client.
func firstFlight(t testing.TB) []byte {
	t.Helper()
	var hello atomic.Pointer[[]byte]
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	g := newGuard(func(b []byte) (int, error) {
		if c := bytes.Clone(b); hello.CompareAndSwap(nil, &c) {
			cancel()
		}
		return len(b), nil
	}, nil, &net.UDPAddr{}, &net.UDPAddr{}, new(guardStats))
	cfg := &dtls.Config{
		InsecureSkipVerify: true, CipherSuites: []dtls.CipherSuiteID{}, CustomCipherSuites: suite.Only(suite.ECDSA, new(suite.Exporter)),
		Certificates: []tls.Certificate{}, LoggerFactory: quietLogger{discard},
	}
	if _, err := dtls.ClientWithContext(ctx, g, cfg); err == nil {
		t.Fatal("a handshake with nobody")
	}
	_ = g.Close()
	return *hello.Load()
}

// TestFloodOfClientHellos spoofs many sources at full speed. The listener keeps its bounds, and a kit of the mission gets
// a link all the same.
func TestFloodOfClientHellos(t *testing.T) {
	m := newMission(t)
	victim, kit := m.transport(), m.transport()
	hello := firstFlight(t)
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4zero})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	pc := ipv4.NewPacketConn(socket)
	to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(victim.Port())}

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		sent := 0
		defer func() { done <- sent }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			src := net.IPv4(127, byte(1+sent>>16&0x7f), byte(sent>>8), byte(1+sent&0x7f))
			if _, err := pc.WriteTo(hello, &ipv4.ControlMessage{Src: src}, to); err == nil {
				sent++
			}
			if sent%64 == 0 {
				runtime.Gosched()
			}
		}
	}()
	for end := time.Now().Add(2 * time.Second); victim.Stats().CookiesSent < 1000; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the flood does not reach the listener: %+v", victim.Stats())
		}
	}
	var c *Conn
	start := time.Now()
	for try := 0; c == nil && try < 5; try++ { // the flood fills the socket's buffer: that loses packets before any code sees them
		if c, err = kit.Bootstrap(testContext(t, 4*time.Second), netip.AddrPortFrom(loopback, victim.Port())); err != nil {
			t.Logf("attempt %d: %v", try, err)
		}
	}
	took := time.Since(start)
	s, extra := victim.Stats(), runtime.NumGoroutine()-goroutines
	runtime.GC()
	runtime.ReadMemStats(&after)
	close(stop)
	sent := <-done
	if c == nil {
		t.Fatalf("no link during the flood: %+v", victim.Stats())
	}
	grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d spoofed hellos; link after %v; %d sessions, %d goroutines and %d kB more; %+v", sent, took, s.BootstrapSessions, extra, grown>>10, victim.Stats())
	if s.BootstrapSessions > maxHandshakes+1 || extra > 6*maxHandshakes || grown > 8<<20 {
		t.Errorf("%d sessions, %d goroutines and %d bytes of heap more", s.BootstrapSessions, extra, grown)
	}
	if victim.Stats().CookiesProven == 0 {
		t.Error("the kit got through without a proof: the flood did not fill the table")
	}
}

// TestHandsetSideIsNotServed: the bootstrap port answers at the overlay's addresses and nowhere else, also when they
// change under it.
func TestHandsetSideIsNotServed(t *testing.T) {
	m := newMission(t)
	overlaySide, handsetSide := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.73.0.1")
	var (
		clock   atomic.Int64
		current atomic.Pointer[netip.Addr]
	)
	current.Store(&overlaySide)
	kit := m.transport(quick, func(c *Config) {
		c.Addresses = func() []netip.Addr { return []netip.Addr{*current.Load()} }
		c.Now = func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }
	})
	neighbour := m.transport(quick)
	dial := func(to netip.Addr) error {
		c, err := neighbour.Bootstrap(testContext(t, time.Second), netip.AddrPortFrom(to, kit.Port()))
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	if err := dial(overlaySide); err != nil {
		t.Errorf("overlay side: %v", err)
	}
	if err := dial(handsetSide); err == nil {
		t.Error("a link through the handset side")
	}
	if kit.Stats().BootstrapDropped == 0 {
		t.Error("not counted")
	}
	current.Store(&handsetSide) // the cable moved: what was another network is the overlay's now
	clock.Store(int64(2 * addressCacheLife))
	if err := dial(handsetSide); err != nil {
		t.Errorf("new address: %v", err)
	}
	if err := dial(overlaySide); err == nil {
		t.Error("a link to the address that went")
	}
}

// A kit never sends from its handset side either.
func TestBootstrapFromHandsetSideIsRefused(t *testing.T) {
	m := newMission(t)
	a := m.transport(func(c *Config) {
		c.Addresses = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.1")} }
	})
	_, err := a.Bootstrap(testContext(t, time.Second), netip.AddrPortFrom(loopback, 6084))
	if !errors.Is(err, ErrNoAddress) {
		t.Errorf("bootstrap: %v", err)
	}
}

func TestFirstPacketMustBeAClientHello(t *testing.T) {
	m := newMission(t)
	tr := m.transport()
	c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(tr.Port())})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := uint64(0)
	hello := firstFlight(t)
	packets := [][]byte{crashPacket, {}, hello[:len(hello)/4], make([]byte, 9000)}
	for name, p := range injections() {
		if name != "client hello" && name != "two records, the second an alert" {
			packets = append(packets, p)
		}
	}
	for _, p := range packets {
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		sent++
	}
	for end := time.Now().Add(5 * time.Second); tr.Stats().BootstrapDropped < sent; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d dropped", tr.Stats().BootstrapDropped, sent)
		}
	}
	if n := tr.Stats().BootstrapSessions; n != 0 {
		t.Errorf("%d sessions", n)
	}
}

func TestParseClientHello(t *testing.T) {
	hello := firstFlight(t)
	h, ok := parseClientHello(hello)
	if !ok || len(h.cookie) != 0 {
		t.Fatalf("the library's ClientHello: %+v, %v", h, ok)
	}
	for n := range len(hello) {
		parseClientHello(hello[:n])
		if _, ok := parseClientHello(hello[:n]); ok {
			t.Errorf("its first %d of %d bytes are taken", n, len(hello))
		}
	}
	body := append(append([]byte{0xfe, 0xfd}, make([]byte, 32)...), 2, 9, 9, 3, 'a', 'b', 'c', 0, 2)
	withCookie := plainRecord(contentHandshake, 0, append([]byte{1, 0, 0, byte(len(body)), 0, 1, 0, 0, 0, 0, 0, byte(len(body))}, body...))
	if h, ok := parseClientHello(withCookie); !ok || string(h.cookie) != "abc" || h.sequence != [6]byte{5: 77} {
		t.Errorf("%+v, %v", h, ok)
	}
}

func TestCookies(t *testing.T) {
	c, err := newCookies()
	if err != nil {
		t.Fatal(err)
	}
	other, err := newCookies()
	if err != nil {
		t.Fatal(err)
	}
	a, b := netip.MustParseAddrPort("10.0.0.1:5000"), netip.MustParseAddrPort("10.0.0.1:5001")
	cookie := c.make(a, epoch)
	for _, k := range []struct {
		name string
		ok   bool
	}{
		{"at once", c.check(cookie, a, epoch)},
		{"after 20 s", c.check(cookie, a, epoch.Add(20*time.Second))},
		{"in the next period", c.check(cookie, a, epoch.Add(cookiePeriod))},
	} {
		if !k.ok {
			t.Error(k.name, "refused")
		}
	}
	for _, k := range []struct {
		name string
		ok   bool
	}{
		{"after two periods", c.check(cookie, a, epoch.Add(2*cookiePeriod))},
		{"from another port", c.check(cookie, b, epoch)},
		{"of another kit", other.check(cookie, a, epoch)},
		{"shortened", c.check(cookie[:len(cookie)-1], a, epoch)},
		{"empty", c.check(nil, a, epoch)},
	} {
		if k.ok {
			t.Error(k.name, "accepted")
		}
	}
	if !isAgainCookie(cookie) || isAgainCookie(make([]byte, len(cookie))) || isAgainCookie(nil) {
		t.Error("the mark is not recognised")
	}
	var got []byte
	g := newGuard(nil, nil, nil, nil, new(guardStats))
	g.verify = func(b []byte) { got = bytes.Clone(b) }
	if out := g.filter(helloVerifyRequest([6]byte{1}, cookie)); len(out) == 0 || !bytes.Equal(got, cookie) {
		t.Errorf("a HelloVerifyRequest of ours reads as %x", got)
	}
}

func TestAddressFilter(t *testing.T) {
	ll := netip.MustParseAddr("fe80::1")
	ifc, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	listed := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), ll.WithZone("lo")}
	for _, c := range []struct {
		name       string
		to         localAddr
		interfaces func(string) bool
		addresses  []netip.Addr
		want       bool
	}{
		{"listed IPv4", localAddr{listed[0], 1}, nil, listed, true},
		{"listed IPv6", localAddr{listed[1], 1}, nil, listed, true},
		{"not listed", localAddr{netip.MustParseAddr("10.73.0.1"), 1}, nil, listed, false},
		{"link-local listed with its zone", localAddr{ll, ifc.Index}, nil, listed, true},
		{"link-local on another interface", localAddr{ll, 1 << 20}, nil, listed, false},
		{"link-local not listed", localAddr{netip.MustParseAddr("fe80::2"), ifc.Index}, nil, listed, false},
		{"link-local by interface", localAddr{netip.MustParseAddr("fe80::2"), ifc.Index}, func(n string) bool { return n == "lo" }, nil, true},
		{"link-local by other interface", localAddr{netip.MustParseAddr("fe80::2"), ifc.Index}, func(n string) bool { return n == "e0" }, nil, false},
		{"global address by interface", localAddr{netip.MustParseAddr("2001:db8::9"), ifc.Index}, func(string) bool { return true }, nil, false},
	} {
		f := &addressFilter{cfg: &Config{Addresses: func() []netip.Addr { return c.addresses }, Interfaces: c.interfaces}}
		if got := f.serves(c.to, epoch); got != c.want {
			t.Errorf("%s: served %v, want %v", c.name, got, c.want)
		}
	}
}

// TestBootstrapOverIPv6 uses the other socket.
func TestBootstrapOverIPv6(t *testing.T) {
	local := netip.MustParseAddr("::1")
	if c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: local.AsSlice()}); err != nil {
		t.Skip("no IPv6 on this host")
	} else {
		_ = c.Close()
	}
	m := newMission(t)
	v6 := func(c *Config) { c.Addresses = func() []netip.Addr { return []netip.Addr{local} } }
	a, b := m.transport(v6), m.transport(v6)
	x, err := a.Bootstrap(testContext(t, 5*time.Second), netip.AddrPortFrom(local, b.Port()))
	if err != nil {
		t.Fatal(err)
	}
	y, err := b.Accept(testContext(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, x, y)
}

func TestPortInUse(t *testing.T) {
	m := newMission(t)
	a := m.transport()
	_, err := New(Config{Identity: m.identity(), Trust: m.trust, Port: a.Port(), Addresses: a.cfg.Addresses})
	if err == nil {
		t.Error("two listeners on one port")
	}
}

func TestManyLinksFromOneAddressAreBounded(t *testing.T) {
	m := newMission(t)
	a, b := m.transport(), m.transport()
	made := 0
	for range maxLinksPerPeer + 2 {
		if _, err := a.Bootstrap(testContext(t, 400*time.Millisecond), netip.AddrPortFrom(loopback, b.Port())); err == nil {
			made++
		}
	}
	if made != maxLinksPerPeer || b.Stats().BootstrapBusy == 0 {
		t.Errorf("%d links made, want %d; %+v", made, maxLinksPerPeer, b.Stats())
	}
}

func TestIdleBootstrapLinkIsClosed(t *testing.T) {
	m := newMission(t)
	a, b := m.transport(), m.transport(func(c *Config) { c.IdleTimeout = 100 * time.Millisecond })
	if _, err := a.Bootstrap(testContext(t, 5*time.Second), netip.AddrPortFrom(loopback, b.Port())); err != nil {
		t.Fatal(err)
	}
	c, err := b.Accept(testContext(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Done():
	case <-time.After(5 * time.Second):
		t.Error("not closed")
	}
	if !errors.Is(c.Err(), ErrLinkFailed) {
		t.Errorf("closed because of %v", c.Err())
	}
}
