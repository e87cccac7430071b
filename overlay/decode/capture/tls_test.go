package capture

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/pion/dtls/v2"

	"fieldkit/overlay/stun"
	"fieldkit/overlay/wire"
)

func certificate(tb testing.TB) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: start, NotAfter: start.AddDate(50, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// sent is what one end wrote, in the order of both.
type sent struct {
	up   bool
	data []byte
}

// wiretap records what goes through a connection. It is used by both ends at once.
type wiretap struct {
	mu   sync.Mutex
	list []sent
}

type tapped struct {
	net.Conn
	up  bool
	tap *wiretap
}

func (c tapped) Write(b []byte) (int, error) {
	c.tap.mu.Lock()
	c.tap.list = append(c.tap.list, sent{c.up, bytes.Clone(b)})
	c.tap.mu.Unlock()
	return c.Conn.Write(b)
}

type keyLog struct {
	mu sync.Mutex
	strings.Builder
}

func (k *keyLog) Write(b []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.Builder.Write(b)
}

// talk has each end write frames, and the other read them.
func talk(tb testing.TB, client, server net.Conn, up, down [][]byte) {
	tb.Helper()
	var wg sync.WaitGroup
	for _, way := range []struct {
		from, to net.Conn
		data     [][]byte
	}{{client, server, up}, {server, client, down}} {
		wg.Go(func() {
			for _, b := range way.data {
				if _, err := way.from.Write(b); err != nil {
					tb.Error(err)
				}
			}
		})
		wg.Go(func() {
			buf := make([]byte, 1<<16)
			for left := len(bytes.Join(way.data, nil)); left > 0; {
				n, err := way.to.Read(buf)
				if err != nil {
					tb.Error(err)
					return
				}
				left -= n
			}
		})
	}
	wg.Wait()
}

func frames(tb testing.TB, n, size int) (list [][]byte) {
	for i := range n {
		list = append(list, frame(tb, uint32(i), message(tb, uint64(i), size)))
	}
	return list
}

// tlsSession records a TLS 1.2 connection.
func tlsSession(tb testing.TB, suite uint16, up, down [][]byte) ([]sent, string) {
	tb.Helper()
	var tap wiretap
	var keys keyLog
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	for _, c := range []net.Conn{a, b} {
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			tb.Fatal(err)
		}
	}
	cfg := &tls.Config{
		MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}, Certificates: []tls.Certificate{certificate(tb)},
		InsecureSkipVerify: true, KeyLogWriter: &keys, // nobody is authenticated here
	}
	client, server := tls.Client(tapped{a, true, &tap}, cfg), tls.Server(tapped{b, false, &tap}, cfg)
	talk(tb, client, server, up, down)
	return tap.list, keys.String()
}

// onTCP records a conversation as TCP segments of at most size bytes; disorder swaps, repeats and overlaps them.
func onTCP(tb testing.TB, list []sent, size int, disorder *mathrand.Rand) []byte {
	tape := newTape(tb, layers.LinkTypeEthernet, true)
	next := map[bool]uint32{true: 0xffffff00, false: 77} // one wraps around
	tape.tcp(true, true, next[true]-1, nil)
	tape.tcp(false, true, next[false]-1, nil)
	type part struct {
		up   bool
		seq  uint32
		data []byte
	}
	for _, s := range list {
		var parts []part
		for data := range slices.Chunk(s.data, size) {
			parts = append(parts, part{s.up, next[s.up], data})
			next[s.up] += uint32(len(data))
		}
		if disorder != nil {
			disorder.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		}
		for _, p := range parts {
			tape.tcp(p.up, false, p.seq, p.data)
			if disorder != nil && disorder.IntN(3) == 0 { // again, and more of it at once
				tape.tcp(p.up, false, p.seq, p.data)
				tape.tcp(p.up, false, p.seq-1, append([]byte{0xee}, p.data...))
			}
		}
	}
	return tape.buf.Bytes()
}

// both tells apart what came each way.
func both(list []Packet) (up, down [][]byte) {
	for _, p := range list {
		if p.To.Port() == wire.DefaultPort {
			up = append(up, p.Data)
		} else {
			down = append(down, p.Data)
		}
	}
	return up, down
}

func same(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }

// TestTLS decrypts what Go's TLS encrypted, whatever TCP made of it on the way.
func TestTLS(t *testing.T) {
	up, down := frames(t, 20, 300), frames(t, 7, 5000)
	down = append(down, frame(t, 8, message(t, 8, 40000))) // more than a record
	ack, _ := wire.Frame{Type: wire.FrameAck, Sequence: 3, Received: 6}.AppendBinary(nil)
	up = append(up, ack)
	for _, suite := range []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	} {
		list, keys := tlsSession(t, suite, up, down)
		for _, size := range []int{1 << 15, 1400, 100} {
			for seed := range uint64(3) {
				var disorder *mathrand.Rand
				if seed > 0 {
					disorder = mathrand.New(mathrand.NewPCG(seed, 0))
				}
				got, stats, err := read(t, onTCP(t, list, size, disorder), keys)
				a, b := both(got)
				if err != nil || !same(a, up) || !same(b, down) || stats.Sessions != 1 || stats.Keyed != 1 || stats.Failed+stats.Locked+stats.Broken != 0 {
					t.Fatalf("%s, segments of %d, seed %d: %d and %d frames, %+v, %v", tls.CipherSuiteName(suite), size, seed, len(a), len(b), stats, err)
				}
				if got[0].Link != "tls" {
					t.Errorf("link %q", got[0].Link)
				}
			}
		}
	}
}

// TestSecrets: without the secret nothing is opened, and with a wrong one nothing either.
func TestSecrets(t *testing.T) {
	up := frames(t, 3, 100)
	list, keys := tlsSession(t, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, up, up)
	file := onTCP(t, list, 1400, nil)
	got, stats, err := read(t, file, "")
	if err != nil || len(got) != 0 || stats.Locked != 8 || stats.Keyed != 0 || stats.Sessions != 1 { // two Finished among them
		t.Errorf("without: %d, %+v, %v", len(got), stats, err)
	}
	fields := strings.Fields(keys)
	wrong := fields[0] + " " + fields[1] + " " + repeat("00", masterLen)
	got, stats, err = read(t, file, wrong)
	if err != nil || len(got) != 0 || stats.Failed != 8 || stats.Keyed != 1 {
		t.Errorf("wrong: %d, %+v, %v", len(got), stats, err)
	}
	// One changed byte of a record, and it is not opened. The others are.
	last := list[len(list)-1].data
	last[len(last)-1] ^= 1
	got, stats, err = read(t, onTCP(t, list, 1400, nil), keys)
	if err != nil || len(got) != 5 || stats.Failed != 1 {
		t.Errorf("changed: %d, %+v, %v", len(got), stats, err)
	}
}

// TestStreams: what is wrong with a stream ends it, and nothing else.
func TestStreams(t *testing.T) {
	up := frames(t, 3, 100)
	whole := bytes.Join(up, nil)
	sip := []sent{{true, []byte("OPTIONS sip:x SIP/2.0\r\n\r\n")}, {false, []byte("SIP/2.0 200 OK\r\n\r\n")}}
	for _, c := range []struct {
		name   string
		list   []sent
		frames int
		check  func(Stats, []Packet) bool
	}{
		{"plain frames", []sent{{true, whole}}, 3, func(s Stats, _ []Packet) bool { return s.Broken+s.Other == 0 }},
		{"frames in pieces", []sent{{true, whole[:9]}, {true, whole[9:150]}, {true, whole[150:]}}, 3, func(s Stats, _ []Packet) bool { return s.Broken+s.Other == 0 }},
		{"something else", sip, 0, func(s Stats, _ []Packet) bool { return s.Other == 2 }},
		{"no frame after a frame", []sent{{true, append(bytes.Clone(up[0]), 7, 7)}}, 2, func(s Stats, got []Packet) bool {
			return s.Broken == 1 && got[1].Fault != nil && got[1].Fault.Field == "frame.type" && got[1].Data == nil
		}},
		{"frame that is too large", []sent{{true, append(bytes.Clone(up[0]), 128, 0, 0, 0, 1, 0xff, 0xff, 0xff)}}, 2, func(s Stats, got []Packet) bool {
			return s.Broken == 1 && got[1].Fault != nil && got[1].Fault.Field == "frame.message"
		}},
		{"record that is none", []sent{{true, []byte{22, 3, 3, 0, 1, 0, 99, 3, 3, 0, 1, 0}}}, 0, func(s Stats, _ []Packet) bool { return s.Broken == 1 }},
		{"record that is too large", []sent{{true, []byte{22, 3, 3, 0xff, 0xff, 0}}}, 0, func(s Stats, _ []Packet) bool { return s.Broken == 1 }},
		{"handshake without end", slices.Repeat([]sent{{true, append([]byte{22, 3, 3, 0x40, 0}, bytes.Repeat([]byte{0xff}, 1<<14)...)}}, 6), 0, func(s Stats, _ []Packet) bool { return s.Broken == 1 }},
	} {
		got, stats, err := read(t, onTCP(t, c.list, 1<<15, nil), "")
		if err != nil || len(got) != c.frames || !c.check(stats, got) {
			t.Errorf("%s: %d frames, %+v, %v", c.name, len(got), stats, err)
		}
	}
	// SIP over TLS is an AppAttach connection.
	for _, s := range sip {
		list, keys := tlsSession(t, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, [][]byte{s.data}, [][]byte{s.data})
		if got, stats, err := read(t, onTCP(t, list, 1400, nil), keys); err != nil || len(got) != 0 || stats.Other != 2 {
			t.Errorf("SIP over TLS: %d frames, %+v, %v", len(got), stats, err)
		}
	}
	// A stream with a hole is given up when too much lies behind it; a new connection between the same ends is read.
	tape := newTape(t, layers.LinkTypeRaw, false)
	tape.tcp(true, true, 0, nil)
	for i := range maxAheadSegs + 1 {
		tape.tcp(true, false, uint32(1000+10*i), up[0][:10])
	}
	tape.tcp(true, false, 1, whole)
	tape.tcp(true, true, 5000, nil)
	tape.tcp(true, false, 5001, whole)
	got, stats, err := read(t, tape.buf.Bytes(), "")
	if err != nil || len(got) != 3 || stats.Broken != 1 {
		t.Errorf("hole: %d frames, %+v, %v", len(got), stats, err)
	}
}

// dtlsSession records a DTLS 1.2 connection of pion's, which has no ChaCha20-Poly1305; that one is in the test of the whole
// program, which captures our own links.
func dtlsSession(tb testing.TB, suite dtls.CipherSuiteID, up, down [][]byte) ([]sent, string) {
	tb.Helper()
	var tap wiretap
	var keys keyLog
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	cfg := &dtls.Config{
		CipherSuites: []dtls.CipherSuiteID{suite}, Certificates: []tls.Certificate{certificate(tb)}, InsecureSkipVerify: true,
		KeyLogWriter: &keys, FlightInterval: time.Second,
	}
	if strings.Contains(suite.String(), "PSK") {
		cfg.Certificates = nil
		cfg.PSK = func([]byte) ([]byte, error) { return []byte("secret"), nil }
		cfg.PSKIdentityHint = []byte("overlay")
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := dtls.Server(tapped{b, false, &tap}, cfg)
		if err != nil {
			tb.Error(err)
			close(accepted)
			return
		}
		accepted <- c
	}()
	client, err := dtls.Client(tapped{a, true, &tap}, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	defer client.Close()
	server, ok := <-accepted
	if !ok {
		tb.FailNow()
	}
	defer server.Close()
	talk(tb, client, server, up, down)
	tap.mu.Lock()
	defer tap.mu.Unlock()
	return slices.Clone(tap.list), keys.String()
}

// TestDTLS decrypts what pion's DTLS encrypted, with datagrams repeated and in another order.
func TestDTLS(t *testing.T) {
	up, down := frames(t, 20, 300), frames(t, 5, 1000)
	for _, suite := range []dtls.CipherSuiteID{
		dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, dtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, dtls.TLS_PSK_WITH_AES_128_GCM_SHA256,
	} {
		list, keys := dtlsSession(t, suite, up, down)
		tape := newTape(t, layers.LinkTypeLinuxSLL, false)
		for _, s := range list {
			tape.udp(s.up, s.data)
		}
		got, stats, err := read(t, tape.buf.Bytes(), keys)
		a, b := both(got)
		if err != nil || !same(a, up) || !same(b, down) || stats.Sessions != 1 || stats.Keyed != 1 || stats.Failed+stats.Locked+stats.Broken != 0 {
			t.Fatalf("%v: %d and %d frames, %+v, %v", suite, len(a), len(b), stats, err)
		}
		if got[0].Link != "dtls" {
			t.Errorf("link %q", got[0].Link)
		}
		if got, stats, _ := read(t, tape.buf.Bytes(), ""); len(got) != 0 || stats.Locked != uint64(len(up)+len(down)) {
			t.Errorf("%v without the secret: %d frames, %+v", suite, len(got), stats)
		}

		// A second handshake between the same ends, with datagrams of the first that come late, and everything twice.
		again, more := dtlsSession(t, suite, up, down)
		tape = newTape(t, layers.LinkTypeRaw, true)
		late := list[len(list)-8:]
		for _, s := range slices.Concat(list[:len(list)-8], again, late) {
			tape.udp(s.up, s.data)
			tape.udp(s.up, s.data)
		}
		got, stats, err = read(t, tape.buf.Bytes(), keys+more)
		if want := 4 * (len(up) + len(down)); err != nil || stats.Failed != 0 || stats.Sessions != 2 || len(got) != want {
			t.Errorf("%v twice: %d frames, want %d, %+v, %v", suite, len(got), want, stats, err)
		}
	}
}

// TestApplicationData: what an AppAttach connection carries has no frames, and is not taken for them.
func TestApplicationData(t *testing.T) {
	sip := [][]byte{[]byte("OPTIONS sip:x SIP/2.0\r\n\r\n")}
	list, keys := dtlsSession(t, dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, sip, sip)
	tape := newTape(t, layers.LinkTypeRaw, false)
	for _, s := range list {
		tape.udp(s.up, s.data)
	}
	if got, stats, err := read(t, tape.buf.Bytes(), keys); err != nil || len(got) != 0 || stats.Other != 2 {
		t.Errorf("%d frames, %+v, %v", len(got), stats, err)
	}
}

// TestFlowsAreBounded: a scan of ports pushes out the connection that was silent for the longest.
func TestFlowsAreBounded(t *testing.T) {
	tape := newTape(t, layers.LinkTypeRaw, false)
	data := frame(t, 1, message(t, 1, 0))
	ack, _ := wire.Frame{Type: wire.FrameAck, Sequence: 1}.AppendBinary(nil)
	send := func(port int, payload []byte) {
		tape.packet(true, &layers.UDP{SrcPort: layers.UDPPort(port), DstPort: 9}, payload)
	}
	send(1, data)
	send(2, data)
	for i := range maxFlows - 1 {
		send(1000+i, []byte{1})
	}
	send(2, ack) // 1 was forgotten, 2 was not
	send(1, ack) // and here 1000 is
	got, stats, err := read(t, tape.buf.Bytes(), "")
	if err != nil || len(got) != 3 || stats.Evicted != 2 {
		t.Errorf("%d found, %+v, %v", len(got), stats, err)
	}
}

// FuzzCapture: whatever a file holds, reading it ends.
func FuzzCapture(f *testing.F) {
	up := frames(f, 2, 50)
	list, keys := tlsSession(f, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, up, up)
	f.Add(onTCP(f, list, 200, nil), keys)
	list, keys = dtlsSession(f, dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, up, up)
	for _, link := range []layers.LinkType{layers.LinkTypeEthernet, layers.LinkTypeLinuxSLL2, layers.LinkTypeNull} {
		tape := newTape(f, link, false)
		for _, s := range list {
			tape.udp(s.up, s.data)
		}
		f.Add(tape.buf.Bytes(), keys)
	}
	tape := newTape(f, layers.LinkTypeRaw, true)
	peer := netip.MustParseAddrPort("198.51.100.7:5555")
	tape.udp(true, turnMessage(stun.ChannelBind, peer, 0x4000, nil))
	for i, s := range list {
		if i%2 == 0 {
			tape.udp(s.up, channelData(0x4000, s.data))
		} else {
			tape.udp(true, turnMessage(stun.SendIndication, peer, 0, s.data))
		}
	}
	f.Add(tape.buf.Bytes(), keys)
	f.Fuzz(func(t *testing.T, file []byte, keys string) {
		log, _ := ReadKeyLog(strings.NewReader(keys))
		r, err := NewReader(bytes.NewReader(file), log)
		if err != nil {
			return
		}
		for n := 0; ; n++ {
			p, err := r.Next()
			if err != nil {
				break
			}
			if len(p.Data) > maxMessage+wire.FrameDataOverhead || (len(p.Data) == 0) != (p.Fault != nil) || n > len(file) {
				t.Fatalf("%+v", p)
			}
		}
	})
}
