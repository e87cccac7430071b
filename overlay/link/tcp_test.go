package link

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/link/stream"
	"fieldkit/overlay/wire"
)

// rawTLS is a member of the mission that speaks TLS with the bootstrap port by itself.
func rawTLS(t *testing.T, id *ident.Identity, port uint16, change ...func(*tls.Config)) (*tls.Conn, error) {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{id.TLSCertificate()}}
	for _, f := range change {
		f(cfg)
	}
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 2 * time.Second}, "tcp", fmt.Sprintf("127.0.0.1:%d", port), cfg)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// What links over TCP share with those over DTLS: the version, ephemeral keys, AEADs, a certificate at both ends.
func TestTLSClientsThatAreRefused(t *testing.T) {
	m := newMission(t)
	a := m.transport(noICE(onlyTCP))
	for name, c := range map[string]struct {
		change func(*tls.Config)
		want   error
	}{
		"TLS 1.1":        {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 }, ErrHandshake},
		"TLS 1.3 only":   {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS13, tls.VersionTLS13 }, ErrHandshake},
		"no certificate": {func(c *tls.Config) { c.Certificates = nil }, ErrNoCert},
		"CBC":            {func(c *tls.Config) { c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA} }, ErrCipherSuite},
		"a stranger":     {func(c *tls.Config) { c.Certificates = []tls.Certificate{newMission(t).identity().TLSCertificate()} }, ErrUntrusted},
		"ourselves":      {func(c *tls.Config) { c.Certificates = []tls.Certificate{a.cfg.Identity.TLSCertificate()} }, ErrSelf},
	} {
		t.Run(name, func(t *testing.T) {
			refused := make(chan error, 4)
			a.cfg.OnRefused, a.refusals = func(_ netip.AddrPort, err error) { refused <- err }, newBucket(1000, 1000)
			conn, err := rawTLS(t, m.identity(), a.Port(), c.change)
			if err == nil { // a client is done before its certificate is judged
				_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
				if _, err := conn.Read(make([]byte, 1)); err == nil {
					t.Error("heard something")
				}
			}
			select {
			case err := <-refused:
				if !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
			case <-time.After(5 * time.Second):
				t.Error("not refused")
			}
		})
	}
	for _, suite := range []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256} { // the controls
		if _, err := rawTLS(t, m.identity(), a.Port(), func(c *tls.Config) { c.CipherSuites = []uint16{suite} }); err != nil {
			t.Errorf("%s: %v", tls.CipherSuiteName(suite), err)
		}
		if _, err := a.Accept(testContext(t, 2*time.Second)); err != nil {
			t.Error(err)
		}
	}
}

// Whoever only connects costs a bounded number of handshakes, for a bounded time, and keeps nobody else out for longer.
func TestFloodOfTCPConnections(t *testing.T) {
	m := newMission(t)
	a := m.transport(noICE(onlyTCP), func(c *Config) { c.HandshakeTimeout = 500 * time.Millisecond })
	var idle []net.Conn
	for range 50 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", a.Port()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		idle = append(idle, c)
	}
	for _, c := range idle { // each is closed by the kit
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read: %v", err)
		}
	}
	for end := time.Now().Add(5 * time.Second); a.Stats().BootstrapSessions != 0; <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v", a.Stats())
		}
	}
	if s := a.Stats(); s.BootstrapBusy < 50-3*maxPerAddress {
		t.Errorf("%+v", s)
	}
	for range maxLinksPerPeer + 2 {
		_, _ = rawTLS(t, m.identity(), a.Port()) // the last ones are turned away
	}
	if s := a.Stats(); s.Conns > maxLinksPerPeer {
		t.Errorf("%d links from one address", s.Conns)
	}
}

// "If a peer receives a message that is larger than the value of max-message-size defined in the overlay configuration, the
// peer SHOULD send an Error_Message_Too_Large error and then close the TLS or DTLS session from which the message was
// received" (RFC 6940 §6.6).
func TestMessageTooLargeIsAnswered(t *testing.T) {
	for name, with := range map[string]func(*Config){"ICE": noChange, "UDP": noICE(onlyUDP), "TCP": noICE(onlyTCP)} {
		t.Run(name, func(t *testing.T) {
			m := newMission(t)
			a := m.transport(with, func(c *Config) { c.MaxMessage = 7000 })
			b := m.transport(with, func(c *Config) { c.MaxMessage = 5000 })
			hop := m.identity().NodeID()
			large := func(code wire.MessageCode, via, option int) []byte {
				h := wire.Header{
					Overlay: wire.OverlayHash(testOverlay), ConfigSequence: 1, Version: wire.Version, TTL: 100, Fragment: wire.Unfragmented,
					TransactionID: 77, Dest: []wire.Destination{wire.ToNode(b.id())},
				}
				for range via {
					h.Via = append(h.Via, wire.ToNode(hop))
				}
				if option > 0 {
					h.Options = []wire.ForwardingOption{{Type: 1, Data: make([]byte, option)}}
				}
				rest := binary.BigEndian.AppendUint16(nil, uint16(code))
				b, err := h.AppendForward(nil, append(rest, make([]byte, 6000-option)...))
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			for _, c := range []struct {
				name     string
				message  []byte
				answered bool
			}{
				{"request", large(wire.PingReq, 2, 0), true},
				{"answer", large(wire.PingReq.Answer(), 2, 0), false},
				{"header alone too large", large(wire.PingReq, 2, 5500), false},
				{"no RELOAD", make([]byte, 6000), false},
			} {
				t.Run(c.name, func(t *testing.T) {
					x, y := linked(t, a, b)
					if err := x.Send(c.message); err != nil {
						t.Fatal(err)
					}
					<-y.Done()
					if !errors.Is(y.Err(), ErrTooLarge) {
						t.Errorf("closed with %v", y.Err())
					}
					got, err := x.Receive(testContext(t, 5*time.Second))
					if !c.answered {
						if err == nil {
							t.Errorf("answered with %d bytes", len(got))
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					checkTooLarge(t, got, m.trust, a.id(), b.id(), hop)
					<-x.Done()
				})
			}
		})
	}
}

// checkTooLarge reads an Error_Message_Too_Large for transaction 77 that goes back the way of the request.
func checkTooLarge(t *testing.T, b []byte, trust *ident.Trust, from, by, hop wire.NodeID) {
	t.Helper()
	msg, err := wire.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	e, err := wire.ParseErrorResponse(msg.Body)
	if err != nil || msg.Code != wire.ErrorAns || e.Code != wire.ErrorMessageTooLarge || msg.TransactionID != 77 {
		t.Errorf("%v, code %v, error %v, transaction %d", err, msg.Code, e.Code, msg.TransactionID)
	}
	want := []wire.Destination{wire.ToNode(from), wire.ToNode(hop), wire.ToNode(hop)}
	if !slices.EqualFunc(msg.Dest, want, func(x, y wire.Destination) bool { return fmt.Sprint(x) == fmt.Sprint(y) }) {
		t.Errorf("destination list %v, want %v", msg.Dest, want)
	}
	if peer, err := trust.VerifyMessage(msg, time.Now()); err != nil || peer.NodeID != by {
		t.Errorf("signed by %v, %v", peer, err)
	}
}

// "Note that this error can be sent and the session closed before the peer receives the complete message" (§6.6): who
// claims sixteen megabytes is answered at once, and has no memory reserved for it.
func TestHugeFrameIsAnsweredBeforeItIsWhole(t *testing.T) {
	m := newMission(t)
	id := m.identity()
	a := m.transport(noICE(onlyTCP))
	c, err := rawTLS(t, id, a.Port())
	if err != nil {
		t.Fatal(err)
	}
	y, err := a.Accept(testContext(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	h := wire.Header{
		Overlay: wire.OverlayHash(testOverlay), Version: wire.Version, TTL: 100, Fragment: wire.Unfragmented, TransactionID: 77,
		Via: []wire.Destination{wire.ToNode(id.NodeID()), wire.ToNode(id.NodeID())}, Dest: []wire.Destination{wire.ToNode(a.id())},
	}
	head, err := h.AppendForward(nil, append(binary.BigEndian.AppendUint16(nil, uint16(wire.StoreReq)), make([]byte, 3000)...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(append([]byte{wire.FrameData, 0, 0, 0, 0, 0xff, 0xff, 0xff}, head...)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := c.Read(buf) // the goodbye may come with it
	if n == 0 {
		t.Fatal(err)
	}
	f, _, err := wire.NextFrame(buf[:n], 5000)
	if err != nil || f.Type != wire.FrameData {
		t.Fatalf("%+v, %v", f, err)
	}
	checkTooLarge(t, f.Message, m.trust, id.NodeID(), a.id(), id.NodeID())
	<-y.Done()
	if !errors.Is(y.Err(), ErrTooLarge) {
		t.Errorf("closed with %v", y.Err())
	}
}

// A stream on which the frames cannot be found any more is no link.
func TestStreamThatIsNoFrames(t *testing.T) {
	m := newMission(t)
	a := m.transport(noICE(onlyTCP))
	for name, junk := range map[string][]byte{
		"unknown type":     {7, 0, 0, 0, 0, 0, 0, 0, 0},
		"a call":           []byte("OPTIONS sip:a@b SIP/2.0\r\n\r\n"),
		"half a frame":     {wire.FrameData, 0, 0, 0, 0, 0, 0, 9, 1},
		"half a header":    {wire.FrameData, 0},
		"goodbye, no more": nil,
	} {
		t.Run(name, func(t *testing.T) {
			c, err := rawTLS(t, m.identity(), a.Port())
			if err != nil {
				t.Fatal(err)
			}
			y, err := a.Accept(testContext(t, 5*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			if len(junk) > 0 {
				if _, err := c.Write(junk); err != nil {
					t.Fatal(err)
				}
			}
			_ = c.Close()
			<-y.Done()
			if got := errors.Is(y.Err(), errGoodbye); got != (junk == nil) {
				t.Errorf("closed with %v", y.Err())
			}
		})
	}
}

// A far end that does not take messages makes the sender wait and be suspect, loses nothing, and is good again later.
func TestSlowReaderOverTCP(t *testing.T) {
	m := newMission(t)
	a, b := m.transport(noICE(onlyTCP)), m.transport(noICE(onlyTCP))
	x, y := linked(t, a, b)
	sent := 0
	for ; ; sent++ {
		err := x.Send(append(binary.BigEndian.AppendUint32(nil, uint32(sent)), make([]byte, 3000)...))
		if errors.Is(err, ErrQueueFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if sent > 10_000 {
			t.Fatal("no bound")
		}
	}
	for end := time.Now().Add(5 * time.Second); !x.Suspect(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not suspect although nothing is acknowledged")
		}
	}
	for i := range sent {
		got, err := y.Receive(testContext(t, 5*time.Second))
		if err != nil || binary.BigEndian.Uint32(got) != uint32(i) {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	for end := time.Now().Add(5 * time.Second); x.Suspect(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("still suspect")
		}
	}
	t.Logf("%d messages waited", sent)
}

// Media that would come too late is not sent, however slow the far end, and signalling still is.
func TestMediaOverTCPDoesNotPileUp(t *testing.T) {
	m := newMission(t)
	x, y := trunk(t, m.transport(noICE(onlyTCP)), m.transport(noICE(onlyTCP)))
	block := make(chan struct{})
	var messages int
	done := make(chan struct{})
	y.Handle(func([]byte) {
		messages++
		if messages == 2 {
			close(done)
		}
	}, func([]byte) { <-block })
	voice := append([]byte{0x80}, make([]byte, 1200)...)
	dropped := false
	for range 20_000 {
		if err := x.SendMedia(voice); errors.Is(err, ErrQueueFull) {
			dropped = true
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !dropped {
		t.Error("no bound")
	}
	for range 2 {
		if err := x.SendMessage([]byte("BYE")); err != nil {
			t.Error(err)
		}
	}
	close(block)
	<-done
}

// An abrupt end is noticed at both ends.
func TestTCPConnectionIsCut(t *testing.T) {
	m := newMission(t)
	x, y := linked(t, m.transport(noICE(onlyTCP)), m.transport(noICE(onlyTCP)))
	raw := x.sess.records.(*stream.Frames).Conn().(*tls.Conn).NetConn().(*net.TCPConn)
	if err := errors.Join(raw.SetLinger(0), raw.Close()); err != nil {
		t.Fatal(err)
	}
	<-x.Done()
	<-y.Done()
	if errors.Is(y.Err(), errGoodbye) {
		t.Errorf("a reset taken for a goodbye: %v", y.Err())
	}
}
