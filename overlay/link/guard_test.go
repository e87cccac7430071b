package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/dtls/v2"

	"fieldkit/overlay/link/suite"
)

// plainRecord makes a record as anybody on the network can.
func plainRecord(kind byte, epoch uint16, body []byte) []byte {
	r := []byte{kind, version12 >> 8, version12 & 0xff}
	r = binary.BigEndian.AppendUint16(r, epoch)
	r = append(r, 0, 0, 0, 0, 0, 77)
	r = binary.BigEndian.AppendUint16(r, uint16(len(body)))
	return append(r, body...)
}

// injections are one datagram each, sent in the name of a peer whose address is known and nothing else.
func injections() map[string][]byte {
	junk := make([]byte, 40)
	_, _ = rand.Read(junk)
	junk[0] = 30 // in the range of DTLS, so that it reaches the guard
	hello := append([]byte{1, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 28}, make([]byte, 28)...)
	finished := append([]byte{20, 0, 0, 12, 0, 5, 0, 0, 0, 0, 0, 12}, make([]byte, 12)...)
	return map[string][]byte{
		"fatal alert":                      plainRecord(contentAlert, 0, []byte{2, 40}),
		"close_notify":                     plainRecord(contentAlert, 0, []byte{1, 0}),
		"application data":                 plainRecord(contentApplicationData, 0, []byte("hi")),
		"change cipher spec":               plainRecord(contentChangeCipherSpec, 0, []byte{1}),
		"client hello":                     plainRecord(contentHandshake, 0, hello),
		"finished":                         plainRecord(contentHandshake, 0, finished),
		"garbage handshake":                plainRecord(contentHandshake, 0, junk),
		"protected data, bad tag":          plainRecord(contentApplicationData, 1, junk),
		"protected alert, bad tag":         plainRecord(contentAlert, 1, junk),
		"protected, shorter than a tag":    plainRecord(contentApplicationData, 1, []byte{1}),
		"protected, empty":                 plainRecord(contentApplicationData, 1, nil),
		"future epoch":                     plainRecord(contentApplicationData, 2, junk),
		"unknown type":                     plainRecord(99, 0, junk),
		"junk":                             junk,
		"short junk":                       {22, 2, 3},
		"change cipher spec, epoch 1":      plainRecord(contentChangeCipherSpec, 1, append([]byte{1}, make([]byte, 20)...)),
		"two records, the second an alert": append(plainRecord(contentHandshake, 0, hello), plainRecord(contentAlert, 0, []byte{2, 40})...),
	}
}

// TestInjectedRecordsDoNotHarm sends each of them to both ends of a link and of a trunk, from the peer's own address.
func TestInjectedRecordsDoNotHarm(t *testing.T) {
	m := newMission(t)
	a, b := m.transport(), m.transport()
	for name, packet := range injections() {
		t.Run(name, func(t *testing.T) {
			x, y := linked(t, a, b)
			defer y.Close()
			defer x.Close()
			for _, c := range []*Conn{x, y} {
				for range 5 {
					c.guard.deliver(bytes.Clone(packet)) // what pump does with a datagram that ICE took for the peer's
				}
			}
			start := time.Now()
			exchange(t, x, y)
			if d := time.Since(start); d > 150*time.Millisecond {
				t.Errorf("the link was held up for %v", d)
			}
			if x.Err() != nil || y.Err() != nil {
				t.Errorf("link: %v, %v", x.Err(), y.Err())
			}
		})
	}
	if s := a.Stats(); s.RecordsDropped == 0 {
		t.Error("nothing counted")
	}
}

// TestInjectionsHarmWithoutGuard is the control: the same attack on the library alone ends links. If this fails the
// library has changed and the guard can be looked at again.
func TestInjectionsHarmWithoutGuard(t *testing.T) {
	broken := 0
	for _, packet := range [][]byte{injections()["fatal alert"], injections()["close_notify"], injections()["application data"]} {
		client, server, inject := barePair(t)
		inject(packet)
		got := make(chan error, 1)
		go func() {
			buf := make([]byte, 100)
			if err := server.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				got <- err
				return
			}
			_, err := server.Read(buf)
			got <- err
		}()
		time.AfterFunc(20*time.Millisecond, func() { _, _ = client.Write([]byte("ok")) })
		if <-got != nil {
			broken++
		}
		_ = client.Close()
		_ = server.Close()
	}
	if broken != 3 {
		t.Errorf("%d of 3 attacks harmed a bare association", broken)
	}
}

// barePair is two library associations on loopback without any of our guards but the cipher suite. inject sends to the
// server from the client's address.
func barePair(t *testing.T) (client, server *dtls.Conn, inject func([]byte)) {
	t.Helper()
	m := newMission(t)
	first, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	to := first.LocalAddr().(*net.UDPAddr)
	c, err := net.DialUDP("udp4", nil, to)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := net.DialUDP("udp4", to, c.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		var err error
		server, err = dtls.ServerWithContext(testContext(t, 5*time.Second), s, bareConfig(m))
		done <- err
	}()
	if client, err = dtls.ClientWithContext(testContext(t, 5*time.Second), c, bareConfig(m)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return client, server, func(b []byte) {
		if _, err := c.Write(b); err != nil {
			t.Error(err)
		}
	}
}

func TestGuardJudgesRecords(t *testing.T) {
	long := make([]byte, 300)
	for _, c := range []struct {
		name        string
		record      []byte
		during, now bool // taken before and after the handshake is done
	}{
		{"plain handshake", plainRecord(contentHandshake, 0, long), true, false},
		{"plain change cipher spec", plainRecord(contentChangeCipherSpec, 0, []byte{1}), true, false},
		{"plain alert", plainRecord(contentAlert, 0, []byte{2, 40}), false, false},
		{"plain data", plainRecord(contentApplicationData, 0, long), false, false},
		{"protected data", plainRecord(contentApplicationData, 1, long), true, true},
		{"protected alert", plainRecord(contentAlert, 1, long[:18]), true, true},
		{"protected finished", plainRecord(contentHandshake, 1, long[:40]), true, true},
		{"protected handshake that is no finished", plainRecord(contentHandshake, 1, long), true, false},
		{"protected change cipher spec", plainRecord(contentChangeCipherSpec, 1, long[:17]), false, false},
		{"shorter than a tag", plainRecord(contentApplicationData, 1, long[:15]), false, false},
		{"epoch 2", plainRecord(contentApplicationData, 2, long), false, false},
		{"heartbeat", plainRecord(24, 1, long), false, false},
		{"TLS version", append([]byte{23, 3, 3}, plainRecord(contentApplicationData, 1, long)[3:]...), false, false},
	} {
		for _, established := range []bool{false, true} {
			g := newGuard(nil, nil, nil, nil, new(guardStats))
			g.established.Store(established)
			want := c.during
			if established {
				want = c.now
			}
			if got := len(g.filter(bytes.Clone(c.record))) > 0; got != want {
				t.Errorf("%s, established %v: taken %v, want %v", c.name, established, got, want)
			}
			for n := range len(c.record) {
				if out := g.filter(bytes.Clone(c.record[:n])); len(out) != 0 {
					t.Errorf("%s: %d of its bytes taken", c.name, n)
				}
			}
		}
	}
}

// A stranger with a certificate of the mission is still not let to fill the library's fragment buffer.
func TestLateHandshakeRecordsAreCounted(t *testing.T) {
	g := newGuard(nil, nil, nil, nil, new(guardStats))
	g.established.Store(true)
	taken := 0
	for range 1000 {
		taken += min(1, len(g.filter(plainRecord(contentHandshake, 1, make([]byte, 40)))))
	}
	if taken != maxLateHandshake {
		t.Errorf("%d late handshake records taken, want %d", taken, maxLateHandshake)
	}
}

func TestGuardBufferIsBounded(t *testing.T) {
	g := newGuard(nil, nil, nil, nil, new(guardStats))
	for range 10000 {
		g.deliver(plainRecord(contentApplicationData, 1, make([]byte, 1000)))
	}
	if g.in.Count() > guardPackets || g.in.Size() > guardBytes || g.stats.overflow.Load() == 0 {
		t.Errorf("%d datagrams, %d bytes waiting", g.in.Count(), g.in.Size())
	}
}

// TestSilentPeer: a far end that answers ICE and then nothing must not hold the handshake beyond its time.
func TestSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMission(t)
		tr := &Transport{cfg: Config{Identity: m.identity(), Trust: m.trust, Now: time.Now}}
		tr.cert = tr.cfg.Identity.TLSCertificate()
		tr.libraryLog = quietLogger{discard}
		for _, client := range []bool{true, false} {
			sent := 0
			g := newGuard(func(b []byte) (int, error) { sent++; return len(b), nil }, nil, &net.UDPAddr{}, &net.UDPAddr{}, new(guardStats))
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			start := time.Now()
			_, err := tr.shake(ctx, handshake{guard: g, client: client, interval: 300 * time.Millisecond})
			cancel()
			if d := time.Since(start); d != 2*time.Second || !errors.Is(err, ErrHandshake) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("client %v: returned after %v: %v", client, d, err)
			}
			if client && sent < 3 {
				t.Errorf("%d flights sent", sent)
			}
			_ = g.Close()
		}
	})
}

func TestFlightInterval(t *testing.T) {
	for rtt, want := range map[time.Duration]time.Duration{
		0: 300 * time.Millisecond, time.Millisecond: 150 * time.Millisecond,
		200 * time.Millisecond: 400 * time.Millisecond, 3 * time.Second: time.Second,
	} {
		if got := flightInterval(rtt); got != want {
			t.Errorf("round trip %v: %v, want %v", rtt, got, want)
		}
	}
}

// crashPacket ends a process that lets the pinned STUN library read it: a Data indication whose XOR-PEER-ADDRESS is empty.
var crashPacket = []byte{
	0x00, 0x17, 0, 4, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
	0x00, 0x12, 0, 0,
}

// TestCrashPacket sends the packet, and other hostile datagrams, to both sockets of a trunk.
func TestCrashPacket(t *testing.T) {
	m := newMission(t)
	a, b := m.transport(), m.transport()
	x, y := trunk(t, a, b)
	media := make(chan []byte, 100)
	y.Handle(func([]byte) {}, func(b []byte) { media <- bytes.Clone(b) })
	attacker, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer attacker.Close()
	local, remote := x.MediaAddrs()
	for _, to := range []netip.AddrPort{local, remote} {
		for _, p := range append([][]byte{crashPacket, {}, {0}, {200}, {70, 1}, []byte("\x80spoofed media")}, mapValues(injections())...) {
			if _, err := attacker.WriteToUDPAddrPort(p, to); err != nil {
				t.Fatal(err)
			}
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for a.Stats().STUNDropped == 0 || b.Stats().STUNDropped == 0 || b.Stats().MediaDropped == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("not counted: %+v, %+v", a.Stats(), b.Stats())
		}
		<-time.After(time.Millisecond)
	}
	if err := x.SendMedia([]byte("\x80real media")); err != nil {
		t.Fatal(err)
	}
	if got := <-media; string(got) != "\x80real media" {
		t.Errorf("media %q", got)
	}
}

func mapValues(m map[string][]byte) (out [][]byte) {
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

func FuzzGuard(f *testing.F) {
	for _, p := range injections() {
		f.Add(p, true)
		f.Add(p, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, established bool) {
		g := newGuard(nil, nil, nil, nil, new(guardStats))
		g.verify = func([]byte) {}
		g.established.Store(established)
		out := g.filter(bytes.Clone(b))
		if len(out) > len(b) {
			t.Fatal("grown")
		}
		if again := g.filter(bytes.Clone(out)); !bytes.Equal(again, out) && g.late <= maxLateHandshake {
			t.Fatal("what was taken is not taken again")
		}
		parseClientHello(b)
	})
}

var discard = slog.New(slog.DiscardHandler)

// bareConfig is the library with our suite and nothing else of ours.
func bareConfig(m *mission) *dtls.Config {
	return &dtls.Config{
		Certificates: []tls.Certificate{m.identity().TLSCertificate()}, InsecureSkipVerify: true,
		CipherSuites: []dtls.CipherSuiteID{}, CustomCipherSuites: suite.Only(suite.ECDSA, new(suite.Exporter)),
		ClientAuth: dtls.RequireAnyClientCert, LoggerFactory: quietLogger{discard},
	}
}
