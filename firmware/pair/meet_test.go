package pair

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"
)

// wire is a TLS connection between two sessions: who connected, who was connected to.
func wire(t testing.TB, a, b *Session) (client, server *tls.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type result struct {
		c   net.Conn
		err error
	}
	accepted := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		accepted <- result{c, err}
	}()
	x, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	y := <-accepted
	if y.err != nil {
		t.Fatal(y.err)
	}
	client, server = tls.Client(x, a.config()), tls.Server(y.c, b.config())
	t.Cleanup(func() { client.Close(); server.Close() })
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{client, server} {
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return client, server
}

func newSession(t testing.TB) *Session {
	t.Helper()
	s, err := NewSession()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type met struct {
	m   *Meeting
	err error
}

func meetAt(c *tls.Conn, s *Session, connected bool, self Facts) <-chan met {
	out := make(chan met, 1)
	go func() {
		m, err := Meet(c, c.ConnectionState(), s.ID, connected, self)
		out <- met{m, err}
	}()
	return out
}

func TestTwoKitsMeet(t *testing.T) {
	codes := map[uint32]bool{}
	for range 8 {
		a, b := newSession(t), newSession(t)
		client, server := wire(t, a, b)
		fa, fb := facts(1, true, true), facts(2, false, true)
		first := meetAt(client, a, true, fa)
		y := <-meetAt(server, b, false, fb)
		x := <-first
		if x.err != nil || y.err != nil {
			t.Fatal(x.err, y.err)
		}
		if x.m.Code != y.m.Code || x.m.Password != y.m.Password || len(x.m.Password) != 32 {
			t.Errorf("%+v, %+v", x.m, y.m)
		}
		if x.m.Session != b.ID || y.m.Session != a.ID || x.m.Peer != fb || y.m.Peer != fa {
			t.Errorf("%+v, %+v", x.m, y.m)
		}
		codes[x.m.Code] = true
	}
	if len(codes) != 8 {
		t.Errorf("%d codes of 8 meetings", len(codes))
	}
}

// Somebody between two kits has a connection with each and passes on what they say. He has nothing to make the codes
// alike by: they cover his connections, and each nonce is fixed before the other is known.
func TestSomebodyInBetweenGetsDifferentCodes(t *testing.T) {
	same := 0
	const rounds = 40
	for range rounds {
		a, b, mallory := newSession(t), newSession(t), newSession(t)
		clientA, serverM := wire(t, a, mallory)
		clientM, serverB := wire(t, mallory, b)
		go relay(serverM, clientM)
		go relay(clientM, serverM)
		first := meetAt(clientA, a, true, facts(1, true, true))
		y := <-meetAt(serverB, b, false, facts(2, true, true))
		x := <-first
		if x.err != nil || y.err != nil {
			t.Fatal(x.err, y.err) // every frame was relayed, so both see a proper exchange
		}
		if x.m.Code == y.m.Code || x.m.Password == y.m.Password {
			t.Fatal("the same 32 bits")
		}
		const blinked = 625 // codes that people can tell apart
		if x.m.Code%blinked == y.m.Code%blinked {
			same++
		}
		if x.m.Session == b.ID || y.m.Session == a.ID {
			t.Error("somebody passes for a session that is not his")
		}
	}
	if same > 3 {
		t.Errorf("%d of %d pairs of codes look the same", same, rounds)
	}
}

func relay(dst, src net.Conn) { _, _ = io.Copy(dst, src) }

// frames plays the exchange by hand.
func frames(t *testing.T, c net.Conn, out ...any) {
	t.Helper()
	for _, v := range out {
		if _, err := writeFrame(c, v); err != nil {
			t.Error(err)
		}
	}
}

func TestMeetingsThatAreNone(t *testing.T) {
	good := facts(2, true, true)
	nonce := make([]byte, nonceLen)
	long := good
	long.Name = strings.Repeat("x", 1000)
	odd := good
	odd.Kit = "not hex"
	for _, c := range []struct {
		name    string
		play    func(*testing.T, *tls.Conn) // of the one who connected
		spoilt  bool
		protect string // in the error
	}{
		{"another nonce than committed", func(t *testing.T, c *tls.Conn) {
			frames(t, c, hello{Facts: good, Commit: commitment(nonce)}, opening{Nonce: append([]byte{1}, nonce[1:]...)})
		}, true, "not committed"},
		{"short nonce", func(t *testing.T, c *tls.Conn) {
			frames(t, c, hello{Facts: good, Commit: commitment([]byte{1})}, opening{Nonce: []byte{1}})
		}, true, "not committed"},
		{"left with the nonce in hand", func(t *testing.T, c *tls.Conn) {
			frames(t, c, hello{Facts: good, Commit: commitment(nonce)})
			var h hello
			if _, err := readFrame(c, fixed(maxFrame), &h); err != nil {
				t.Error(err)
			}
			c.Close()
		}, true, "left"},
		{"no commitment", func(t *testing.T, c *tls.Conn) { frames(t, c, hello{Facts: good}) }, false, "commitment"},
		{"nonce at once", func(t *testing.T, c *tls.Conn) {
			frames(t, c, hello{Facts: good, Commit: commitment(nonce), Nonce: nonce})
		}, false, "commitment"},
		{"long name", func(t *testing.T, c *tls.Conn) {
			frames(t, c, hello{Facts: long, Commit: commitment(nonce)}, opening{Nonce: nonce})
		}, false, "name"},
		{"pressed in the future", func(t *testing.T, c *tls.Conn) {
			frames(t, c, hello{Facts: pressed(good, -time.Second), Commit: commitment(nonce)}, opening{Nonce: nonce})
		}, false, "pressed"},
		{"odd Node-ID", func(t *testing.T, c *tls.Conn) {
			frames(t, c, hello{Facts: odd, Commit: commitment(nonce)}, opening{Nonce: nonce})
		}, false, "identity"},
		{"unknown field", func(t *testing.T, c *tls.Conn) { frames(t, c, map[string]any{"facts": good, "more": 1}) }, false, "malformed"},
		{"long frame", func(t *testing.T, c *tls.Conn) {
			_, _ = c.Write(binary.BigEndian.AppendUint32(nil, maxFrame+1))
		}, false, "at most"},
		{"half a frame", func(t *testing.T, c *tls.Conn) {
			_, _ = c.Write(append(binary.BigEndian.AppendUint32(nil, 100), "{}"...))
			c.Close()
		}, false, "EOF"},
		{"nothing", func(_ *testing.T, c *tls.Conn) { c.Close() }, false, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := newSession(t), newSession(t)
			client, server := wire(t, a, b)
			if c.protect != "left" { // that one reads itself
				go func() { _, _ = io.Copy(io.Discard, client) }()
			}
			got := meetAt(server, b, false, facts(1, true, true))
			c.play(t, client)
			x := <-got
			if x.err == nil || !strings.Contains(x.err.Error(), c.protect) || errors.Is(x.err, errSpoilt) != c.spoilt {
				t.Errorf("%v", x.err)
			}
		})
	}
	// And the one who connected, of an answer without a nonce or with a commitment.
	for _, h := range []hello{{Facts: good}, {Facts: good, Nonce: nonce, Commit: nonce}, {Facts: good, Nonce: nonce[1:]}} {
		a, b := newSession(t), newSession(t)
		client, server := wire(t, a, b)
		go func() { _, _ = io.Copy(io.Discard, server) }()
		got := meetAt(client, a, true, facts(1, true, true))
		frames(t, server, h)
		if x := <-got; !errors.Is(x.err, errProtocol) {
			t.Errorf("answer %+v: %v", h, x.err)
		}
	}
	// A kit does not pair with itself over two of its interfaces.
	a := newSession(t)
	client, _ := wire(t, a, a)
	if x := <-meetAt(client, a, true, good); !errors.Is(x.err, errProtocol) {
		t.Errorf("itself: %v", x.err)
	}
}

// TLS without a certificate, without the protocol's name, or older than 1.3 is no pairing.
func TestHandshakesThatAreNone(t *testing.T) {
	good := newSession(t)
	for name, change := range map[string]func(*tls.Config){
		"no certificate": func(c *tls.Config) { c.Certificates = nil },
		"no ALPN":        func(c *tls.Config) { c.NextProtos = nil },
		"TLS 1.2":        func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"two certificates": func(c *tls.Config) {
			c.Certificates = []tls.Certificate{{Certificate: append(c.Certificates[0].Certificate, good.cert.Certificate[0]), PrivateKey: c.Certificates[0].PrivateKey}}
		},
	} {
		cfg := newSession(t).config()
		cfg.VerifyConnection = nil
		change(cfg)
		x, y := net.Pipe()
		server := tls.Server(y, good.config())
		done := make(chan error, 1)
		go func() { done <- server.Handshake(); y.Close() }()
		client := tls.Client(x, cfg)
		_ = client.Handshake()
		_, _ = client.Read(make([]byte, 1))
		if err := <-done; err == nil {
			t.Errorf("%s: no error", name)
		}
		x.Close()
	}
}

func TestBeacons(t *testing.T) {
	for _, b := range []beacon{{id: id(7), port: 6090}, {id: id(0), port: 1, crowd: []ID{id(1), id(2), id(3)}}} {
		e := b.encode()
		if got, ok := parseBeacon(e); !ok || !reflect.DeepEqual(got, b) {
			t.Errorf("%+v: %+v, %v", b, got, ok)
		}
		for i := range e {
			if _, ok := parseBeacon(e[:i]); ok {
				t.Errorf("%d of %d bytes are a beacon", i, len(e))
			}
		}
		if _, ok := parseBeacon(append(e, 0)); ok {
			t.Error("a longer beacon")
		}
		e[len(beaconMagic)]++
		if _, ok := parseBeacon(e); ok {
			t.Error("another version")
		}
	}
}

func FuzzParseBeacon(f *testing.F) {
	f.Add(beacon{id: id(7), port: 6090}.encode())
	f.Fuzz(func(t *testing.T, p []byte) {
		if b, ok := parseBeacon(p); ok && string(b.encode()) != string(p) {
			t.Errorf("%x is not what it is read as", p)
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x12{\"confirmed\": true}"))
	f.Add([]byte("\x00\x00\x00\x0a{\"end\": 2}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		got, err := readFrame(bytes.NewReader(b), fixed(maxFrame), &m)
		if err == nil && (len(got) > maxFrame || len(got) > len(b)) {
			t.Errorf("%d bytes out of %d", len(got), len(b))
		}
		var h hello
		if _, err := readFrame(bytes.NewReader(b), fixed(maxFrame), &h); err == nil {
			_ = h.Facts.check()
		}
	})
}
