package link

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/dtls/v2"
	dtlsmsg "github.com/pion/dtls/v2/pkg/protocol/handshake"

	"fieldkit/board/simnet"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/link/suite"
	"fieldkit/overlay/wire"
)

var secret = []byte("correct horse battery staple, 32")

func shared(c *Config) { c.SharedSecret = secret }

// "In shared secret mode, all the peers MUST share a single symmetric key which is used to key TLS-PSK or TLS-SRP mode"
// (RFC 6940 §13.4), and the links know who is at the other end as others do.
func TestSharedSecretMakesLinks(t *testing.T) {
	for name, with := range map[string][]func(*Config){"ICE": {shared}, "no ICE": {shared, noICE()}} {
		t.Run(name, func(t *testing.T) {
			m := newMission(t)
			a, b := m.transport(with...), m.transport(with...)
			x, y := linked(t, a, b)
			if x.Peer().NodeID != b.id() || y.Peer().NodeID != a.id() || x.sess.client {
				t.Errorf("peers %v and %v, offerer is client: %v", x.Peer().NodeID, y.Peer().NodeID, x.sess.client)
			}
			if err := errors.Join(sendAll(t, x, y, 5), sendAll(t, y, x, 5)); err != nil {
				t.Error(err)
			}
			z, err := a.Bootstrap(testContext(t, 5*time.Second), netip.AddrPortFrom(loopback, b.Port()))
			if err != nil {
				t.Fatal(err)
			}
			w, err := b.Accept(testContext(t, 5*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, z, w)
			p, q := trunk(t, a, b)
			got := make(chan string, 8)
			q.Handle(func(b []byte) { got <- string(b) }, func(b []byte) { got <- string(b) })
			if err := errors.Join(p.SendMessage([]byte("OPTIONS")), p.SendMedia([]byte("\x80rtp"))); err != nil {
				t.Fatal(err)
			}
			heard := []string{<-got, <-got}
			slices.Sort(heard)
			if !slices.Equal(heard, []string{"OPTIONS", "\x80rtp"}) {
				t.Errorf("heard %q", heard)
			}
			k1, err1 := p.ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 60)
			k2, err2 := q.ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 60)
			if err1 != nil || err2 != nil || !bytes.Equal(k1, k2) || p.SRTPProfile() == 0 {
				t.Errorf("SRTP keys: %v, %v", err1, err2)
			}
			if p.Peer().NodeID != b.id() {
				t.Errorf("trunk to %v", p.Peer().NodeID)
			}
		})
	}
}

// The proofs get through a bad radio as messages do, and nothing of them is heard above.
func TestSharedSecretWithLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMission(t)
		n := newNetwork(t, simnet.Config{Delay: 20 * time.Millisecond, Loss: 0.2, Seed: 3})
		a, b := m.simulatedAs(n, 1, shared), m.simulatedAs(n, 2, shared)
		linkedOnce := 0
		for range 10 {
			x, y := attach(testContext(t, time.Minute), a, b, (*Attempt).Connect)
			if x.err != nil || y.err != nil { // 36 % of the round trips fail: a handshake may
				continue
			}
			linkedOnce++
			if err := sendAll(t, x.conn, y.conn, 5); err != nil && !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
			_, _ = x.conn.Close(), y.conn.Close()
		}
		if linkedOnce < 7 {
			t.Errorf("%d of 10 links", linkedOnce)
		}
	})
}

// A proof whose acknowledgement was lost comes again, perhaps long after; it is no message.
func TestLateProofIsNotDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMission(t)
		n := newNetwork(t, simnet.Config{Delay: time.Millisecond})
		a, b := m.simulatedAs(n, 1, shared), m.simulatedAs(n, 2, shared)
		x, y := linked(t, a, b)
		p, q := trunk(t, a, b)
		time.Sleep(10 * time.Second)
		for i, c := range []struct{ from, to *session }{{x.sess, y.sess}, {p.sess, q.sess}} {
			f, err := wire.Frame{Type: wire.FrameData, Sequence: 3, Message: c.to.shown}.AppendBinary(nil)
			if err != nil || len(c.to.shown) == 0 {
				t.Fatal(err)
			}
			if _, err := c.from.records.Write(f); err != nil {
				t.Fatalf("%d: %v", i, err)
			}
		}
		q.Handle(func(b []byte) { t.Errorf("a message of %d bytes on the trunk", len(b)) }, func([]byte) {})
		time.Sleep(time.Second)
		if err := x.Send([]byte("first")); err != nil {
			t.Fatal(err)
		}
		if got, err := y.Receive(testContext(t, 5*time.Second)); err != nil || string(got) != "first" {
			t.Errorf("received %d bytes, %v", len(got), err)
		}
	})
}

// "A peer which does not know the key cannot form TLS connections with any other peer" (§13.4). Neither does who knows
// the key and has no certificate of the mission, or the one of another node.
func TestSharedSecretRefuses(t *testing.T) {
	m := newMission(t)
	a := m.transport(shared)
	other := func(c *Config) { c.SharedSecret = bytes.ToUpper(secret) }
	short := func(c *Config) { c.ConnectTimeout, c.HandshakeTimeout = time.Second, time.Second }
	for _, c := range []struct {
		name string
		peer *Transport
		want error
	}{
		{"wrong secret", m.transport(other, short), ErrHandshake},
		{"no secret", m.transport(short), nil},
		{"right secret, foreign certificate", newMission(t).transport(shared, short), ErrUntrusted},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, y := attach(testContext(t, time.Second), a, c.peer, (*Attempt).Connect)
			if x.err == nil || y.err == nil || c.want != nil && !errors.Is(x.err, c.want) && !errors.Is(y.err, c.want) { // who refuses first
				t.Errorf("offerer %v, answerer %v", x.err, y.err)
			}
			if _, err := c.peer.Bootstrap(testContext(t, time.Second), netip.AddrPortFrom(loopback, a.Port())); err == nil {
				t.Error("a bootstrap link")
			}
			if s := a.Stats(); s.Conns != 0 {
				t.Errorf("%d links", s.Conns)
			}
		})
	}
	b := m.transport(shared)
	x, _ := attachAs(testContext(t, time.Second), a, b, a.id(), m.identity().NodeID(), (*Attempt).Connect)
	if !errors.Is(x.err, ErrWrongPeer) {
		t.Errorf("another member than asked for: %v", x.err)
	}
}

func TestSharedSecretMustBeLong(t *testing.T) {
	m := newMission(t)
	cfg := Config{Identity: m.identity(), Trust: m.trust, Addresses: func() []netip.Addr { return nil }, SharedSecret: make([]byte, MinSharedSecret-1)}
	if _, err := New(cfg); err == nil {
		t.Error("a short secret")
	}
}

// member is somebody who knows the secret and holds a certificate, and lies: it makes the handshake itself and chooses
// what it sends.
type member struct {
	conn    *dtls.Conn
	secrets *suite.Exporter
	client  bool
}

func pskConfig(e *suite.Exporter) *dtls.Config {
	return &dtls.Config{
		CipherSuites: []dtls.CipherSuiteID{}, CustomCipherSuites: suite.Only(suite.PSK, e), LoggerFactory: quietLogger{discard},
		PSK: func([]byte) ([]byte, error) { return secret, nil }, PSKIdentityHint: []byte(pskIdentity),
		ExtendedMasterSecret: dtls.RequireExtendedMasterSecret,
	}
}

// dialMember begins a handshake with a bootstrap port.
func dialMember(t *testing.T, port uint16) *member {
	t.Helper()
	c, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	e := new(suite.Exporter)
	d, err := dtls.ClientWithContext(testContext(t, 5*time.Second), c, pskConfig(e))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return &member{d, e, true}
}

// awaitMember is dialled by a kit; its address is told to dial.
func awaitMember(t *testing.T, dial func(netip.AddrPort)) *member {
	t.Helper()
	s, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	dial(addrPortOf(s.LocalAddr()))
	buf := make([]byte, maxDatagram)
	n, from, err := s.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	addr := net.UDPAddrFromAddrPort(from)
	g := newGuard(func(b []byte) (int, error) { return s.WriteTo(b, addr) }, s.Close, s.LocalAddr(), addr, new(guardStats))
	g.deliver(buf[:n])
	go func() {
		b := make([]byte, maxDatagram)
		for {
			n, err := s.Read(b)
			if err != nil {
				_ = g.in.Close()
				return
			}
			g.deliver(b[:n])
		}
	}()
	e := new(suite.Exporter)
	d, err := dtls.ServerWithContext(testContext(t, 5*time.Second), g, pskConfig(e))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return &member{d, e, false}
}

// proof reads the far end's first message.
func (m *member) proof(t *testing.T) []byte {
	t.Helper()
	buf := make([]byte, maxDatagram)
	if err := m.conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := m.conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	f, err := wire.ParseFrame(buf[:n])
	if err != nil || f.Type != wire.FrameData {
		t.Fatalf("frame %+v, %v", f, err)
	}
	return f.Message
}

func (m *member) say(t *testing.T, message []byte) {
	t.Helper()
	for i, f := range []wire.Frame{{Type: wire.FrameData, Message: message}, {Type: wire.FrameAck}} {
		b, err := f.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.conn.Write(b); err != nil && i == 0 { // then it may have been refused already
			t.Fatal(err)
		}
	}
}

// A member cannot pass for another one: not with a proof that the other gave it, on the other's link at the same time or
// earlier, not with the victim's own, not with one signed for another end or by nobody. The control is an honest one.
func TestMemberCannotSpliceLinks(t *testing.T) {
	m := newMission(t)
	refused := make(chan error, 16)
	a := m.transport(shared, func(c *Config) {
		c.OnRefused = func(_ netip.AddrPort, err error) { refused <- err }
	})
	a.refusals = newBucket(1000, 1000) // tells of all
	b := m.transport(shared)
	own := m.identity()
	sign := func(t *testing.T, id *ident.Identity, code wire.MessageCode, padding []byte) []byte {
		body, err := wire.PingRequest{Padding: padding}.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		tr := &Transport{cfg: Config{Identity: id, Trust: m.trust}}
		msg, err := tr.message(wire.Header{Dest: []wire.Destination{wire.ToNode(a.id())}}, code, body)
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	export := func(t *testing.T, x *member, label string) []byte {
		k, err := x.secrets.Export(label, nil, proofLen)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	earlier := dialMember(t, b.Port()).proof(t)
	for name, lie := range map[string]func(t *testing.T, x *member) []byte{
		"the other's proof on another link": func(t *testing.T, _ *member) []byte {
			return dialMember(t, b.Port()).proof(t)
		},
		"the other's proof of before": func(*testing.T, *member) []byte { return earlier },
		"the victim's own proof":      func(t *testing.T, x *member) []byte { return x.proof(t) },
		"for the other end": func(t *testing.T, x *member) []byte {
			return sign(t, own, wire.PingReq, export(t, x, map[bool]string{true: serverProof, false: clientProof}[x.client]))
		},
		"no padding":       func(t *testing.T, _ *member) []byte { return sign(t, own, wire.PingReq, nil) },
		"another message":  func(t *testing.T, x *member) []byte { return sign(t, own, wire.ProbeReq, export(t, x, clientProof)) },
		"no RELOAD at all": func(*testing.T, *member) []byte { return []byte("let me in") },
		"a changed signature": func(t *testing.T, x *member) []byte {
			p := sign(t, own, wire.PingReq, export(t, x, map[bool]string{true: clientProof, false: serverProof}[x.client]))
			p[len(p)-1] ^= 1
			return p
		},
		"a stranger's signature": func(t *testing.T, x *member) []byte {
			id := newMission(t).identity()
			return sign(t, id, wire.PingReq, export(t, x, map[bool]string{true: clientProof, false: serverProof}[x.client]))
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := dialMember(t, a.Port())
			x.say(t, lie(t, x))
			select {
			case err := <-refused:
				if !errors.Is(err, ErrProof) {
					t.Errorf("as a client: %v", err)
				}
			case <-a.accepted:
				t.Fatal("as a client: a link")
			case <-time.After(8 * time.Second):
				t.Fatal("as a client: not refused")
			}
			got := make(chan error, 1)
			x = awaitMember(t, func(addr netip.AddrPort) {
				go func() {
					_, err := a.Bootstrap(testContext(t, 5*time.Second), addr)
					got <- err
				}()
			})
			x.say(t, lie(t, x))
			if err := <-got; !errors.Is(err, ErrProof) {
				t.Fatalf("as a server: %v", err)
			}
			<-refused // told before Bootstrap returns
		})
	}
	x := dialMember(t, a.Port())
	x.say(t, sign(t, own, wire.PingReq, export(t, x, clientProof)))
	c, err := a.Accept(testContext(t, 5*time.Second))
	if err != nil || c.Peer().NodeID != own.NodeID() {
		t.Errorf("the control: %v", err)
	}
}

// The library reads past the end of key exchange messages that have nothing behind the identity (listed as GO-2026-6165
// for the client alone). The control shows that it would; the guard does not let them through, whole or in parts.
func TestShortKeyExchangeIsDropped(t *testing.T) {
	panics := func(f func()) (did bool) {
		defer func() { did = recover() != nil }()
		f()
		return false
	}
	kx := dtls.CipherSuiteKeyExchangeAlgorithmEcdhe | dtls.CipherSuiteKeyExchangeAlgorithmPsk
	if !panics(func() {
		_ = (&dtlsmsg.MessageClientKeyExchange{KeyExchangeAlgorithm: kx}).Unmarshal([]byte{0, 1, 'x'})
	}) ||
		!panics(func() {
			_ = (&dtlsmsg.MessageServerKeyExchange{KeyExchangeAlgorithm: kx}).Unmarshal([]byte{0, 1, 'x'})
		}) {
		t.Error("the flaw is gone: the guard may go, too")
	}
	message := func(kind byte, length, offset, part int, body ...byte) []byte {
		return append([]byte{kind, 0, 0, byte(length), 0, 3, 0, 0, byte(offset), 0, 0, byte(part)}, body...)
	}
	g := newGuard(nil, nil, &net.UDPAddr{}, &net.UDPAddr{}, new(guardStats))
	for _, c := range []struct {
		name string
		body []byte
		ok   bool
	}{
		{"whole", message(handshakeClientKeyExchange, 5, 0, 5, 0, 1, 'x', 1, 9), true},
		{"a hello in fragments", message(handshakeClientHello, 9, 4, 2, 1, 2), true},
		{"nothing behind the identity", message(handshakeClientKeyExchange, 3, 0, 3, 0, 1, 'x'), false},
		{"the same from a server", message(handshakeServerKeyExchange, 3, 0, 3, 0, 1, 'x'), false},
		{"identity longer than the message", message(handshakeServerKeyExchange, 3, 0, 3, 9, 1, 'x'), false},
		{"empty", message(handshakeClientKeyExchange, 0, 0, 0), false},
		{"first part", message(handshakeClientKeyExchange, 5, 0, 3, 0, 1, 'x'), false},
		{"last part", message(handshakeClientKeyExchange, 5, 3, 2, 1, 9), false},
		{"cut short", message(handshakeClientKeyExchange, 5, 0, 5, 0, 1, 'x'), false},
		{"behind another message", slices.Concat(message(14, 0, 0, 0), message(handshakeClientKeyExchange, 3, 0, 3, 0, 1, 'x')), false},
		{"junk behind", append(message(14, 0, 0, 0), 1, 2), false},
	} {
		for _, psk := range []bool{true, false} {
			g.psk = psk
			if got := g.accept(plainRecord(contentHandshake, 0, c.body)); got != (c.ok || !psk) {
				t.Errorf("%s, shared secret %v: accepted %v", c.name, psk, got)
			}
		}
	}
	// Against a live handshake: the kit goes on.
	m := newMission(t)
	a, b := m.transport(shared), m.transport(shared)
	c, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", a.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	short := newGuard(func(b []byte) (int, error) {
		if len(b) > recordHeaderLen && b[recordHeaderLen] == handshakeClientKeyExchange {
			b = plainRecord(contentHandshake, 0, message(handshakeClientKeyExchange, 3, 0, 3, 0, 1, 'x'))
		}
		return c.Write(b)
	}, nil, c.LocalAddr(), c.RemoteAddr(), new(guardStats))
	go pumpFrom(c, short)
	if _, err := dtls.ClientWithContext(testContext(t, time.Second), short, pskConfig(new(suite.Exporter))); err == nil {
		t.Error("a handshake without a key exchange")
	}
	if a.Stats().RecordsDropped == 0 {
		t.Error("nothing dropped")
	}
	x, y := linked(t, a, b)
	exchange(t, x, y)
}

// What the guard lets through the library reads without harm.
func FuzzKeyExchange(f *testing.F) {
	for _, body := range [][]byte{{0, 1, 'x', 1, 9}, {0, 1, 'x'}, {0, 0}, {}, {0, 0, 3}, {0, 0, 3, 0, 29, 1, 7}, {255, 255, 1}} {
		for _, kind := range []byte{handshakeServerKeyExchange, handshakeClientKeyExchange} {
			n := byte(len(body))
			f.Add(append([]byte{kind, 0, 0, n, 0, 1, 0, 0, 0, 0, 0, n}, body...))
		}
	}
	kx := dtls.CipherSuiteKeyExchangeAlgorithmEcdhe | dtls.CipherSuiteKeyExchangeAlgorithmPsk
	f.Fuzz(func(t *testing.T, b []byte) {
		if !soundKeyExchange(b) {
			return
		}
		for len(b) >= handshakeHeaderLen { // as the library's fragment buffer goes through a record
			kind, end := b[0], handshakeHeaderLen+(int(b[1])<<16|int(b[2])<<8|int(b[3]))
			end = min(end, len(b))
			body := b[handshakeHeaderLen:end]
			switch kind {
			case handshakeServerKeyExchange:
				_ = (&dtlsmsg.MessageServerKeyExchange{KeyExchangeAlgorithm: kx}).Unmarshal(body) // must not panic
			case handshakeClientKeyExchange:
				_ = (&dtlsmsg.MessageClientKeyExchange{KeyExchangeAlgorithm: kx}).Unmarshal(body)
			}
			b = b[end:]
		}
	})
}

func pumpFrom(c net.Conn, g *guard) {
	buf := make([]byte, maxDatagram)
	for {
		n, err := c.Read(buf)
		if err != nil {
			_ = g.in.Close()
			return
		}
		g.deliver(buf[:n])
	}
}

// OpenSSL agrees on the suite and on what is exported from the handshake: with its exporter's output, signed, it gets a
// link. Suites without Diffie-Hellman it may not have.
func TestOpenSSLSharedSecret(t *testing.T) {
	openssl := need(t, "openssl")
	m := newMission(t)
	a := m.transport(shared)
	id := m.identity()
	args := []string{
		"s_client", "-dtls1_2", "-connect", fmt.Sprintf("127.0.0.1:%d", a.Port()), "-psk_identity", pskIdentity, "-psk", hex.EncodeToString(secret),
		"-keymatexport", clientProof, "-keymatexportlen", fmt.Sprint(proofLen),
	}
	stdin, out := start(t, openssl, append(args, "-cipher", "ECDHE-PSK-CHACHA20-POLY1305")...)
	padding := unhex(t, strings.ToLower(out.await(t, `Keying material: ([0-9A-F]{64})`)[1]))
	out.await(t, "Cipher is ECDHE-PSK-CHACHA20-POLY1305")
	body, err := wire.PingRequest{Padding: padding}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := (&Transport{cfg: Config{Identity: id, Trust: m.trust}}).message(wire.Header{Dest: []wire.Destination{wire.ToNode(a.id())}}, wire.PingReq, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		frame wire.Frame
		then  string
	}{
		{wire.Frame{Type: wire.FrameData, Message: msg}, ackOfFirst}, // its acknowledgement
		{wire.Frame{Type: wire.FrameAck}, ""},
	} {
		b, err := f.frame.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stdin.Write(b); err != nil {
			t.Fatal(err)
		}
		out.awaitBytes(t, f.then)
	}
	c, err := a.Accept(testContext(t, 5*time.Second))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if c.Peer().NodeID != id.NodeID() {
		t.Errorf("peer %v", c.Peer().NodeID)
	}
	if err := c.Send([]byte("hello OpenSSL")); err != nil {
		t.Fatal(err)
	}
	out.await(t, "hello OpenSSL")
	for _, refused := range []string{"PSK-CHACHA20-POLY1305", "PSK-AES128-GCM-SHA256", "ECDHE-PSK-AES128-CBC-SHA256"} {
		_, out := start(t, openssl, append(args, "-cipher", refused)...)
		for n := a.Stats().HandshakesFailed; a.Stats().HandshakesFailed == n; <-time.After(5 * time.Millisecond) {
			if strings.Contains(out.String(), "Cipher is "+refused) {
				t.Fatalf("%s agreed", refused)
			}
		}
	}

	port := freePort(t)
	stdin, out = start(t, openssl, "s_server", "-dtls1_2", "-nocert", "-accept", fmt.Sprintf("127.0.0.1:%d", port),
		"-psk", hex.EncodeToString(secret), "-keymatexport", serverProof, "-keymatexportlen", fmt.Sprint(proofLen))
	out.await(t, "ACCEPT")
	got := make(chan outcome[*Conn], 1)
	go func() {
		c, err := a.Bootstrap(testContext(t, 10*time.Second), netip.AddrPortFrom(loopback, port))
		got <- outcome[*Conn]{c, err}
	}()
	padding = unhex(t, strings.ToLower(out.await(t, `Keying material: ([0-9A-F]{64})`)[1]))
	if body, err = (wire.PingRequest{Padding: padding}).AppendBinary(nil); err != nil {
		t.Fatal(err)
	}
	if msg, err = (&Transport{cfg: Config{Identity: id, Trust: m.trust}}).message(wire.Header{Dest: []wire.Destination{wire.ToNode(a.id())}}, wire.PingReq, body); err != nil {
		t.Fatal(err)
	}
	b, err := wire.Frame{Type: wire.FrameData, Message: msg}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write(b); err != nil {
		t.Fatal(err)
	}
	out.awaitBytes(t, ackOfFirst)
	if b, err = (wire.Frame{Type: wire.FrameAck}).AppendBinary(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write(b); err != nil {
		t.Fatal(err)
	}
	if x := <-got; x.err != nil || x.conn.Peer().NodeID != id.NodeID() {
		t.Errorf("to OpenSSL: %v\n%s", x.err, out)
	}
}

// ackOfFirst acknowledges sequence number 0.
const ackOfFirst = "\x81\x00\x00\x00\x00"

// awaitBytes waits until the output has the bytes in it.
func (s *transcript) awaitBytes(t *testing.T, b string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !strings.Contains(s.String(), b); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %x in\n%x", b, s.String())
		}
	}
}
