package link

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

const (
	// streamQueue bounds what waits for a far end that does not read, in bytes.
	streamQueue = sendQueueBytes + 64<<10
	// mediaQueue is what may wait in front of a voice packet: more than that is later than a voice can be used.
	mediaQueue = 16 << 10
	// writeTimeout ends a link whose far end takes nothing: TCP itself would try for a quarter of an hour.
	writeTimeout = 30 * time.Second
)

// tcpKeepAlive ends an idle connection whose far end is gone about as fast as ICE does: nothing else would ever notice.
var tcpKeepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 4}

// srtpAEADAES128GCM is the profile of media over TCP (RFC 7714 §14.2): crypto/tls has no use_srtp, so both ends take the
// one that use_srtp would prefer.
const srtpAEADAES128GCM = 0x0007

// tlsConfig is TLS 1.2 (RFC 6940 §6.6.5, RFC 5246) by the rules of links over DTLS: ECDSA certificates of the mission at
// both ends, ephemeral keys, an AEAD, no resumption. AES-GCM is offered beside ChaCha20-Poly1305: the standard library
// counts its nonces.
func (t *Transport) tlsConfig(want wire.NodeID, peer **ident.Peer, refusal *error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		},
		CurvePreferences:       []tls.CurveID{tls.X25519, tls.CurveP256},
		Certificates:           []tls.Certificate{t.cert},
		ClientAuth:             tls.RequireAnyClientCert, // "The server MUST request TLS client authentication" (RFC 6940 §6.5.1.13)
		InsecureSkipVerify:     true,                     // the Web's rules about names and roots; ours follow
		SessionTicketsDisabled: true,
		Time:                   t.cfg.Now,
		KeyLogWriter:           t.cfg.KeyLog,
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			*peer, *refusal = t.verify(raw, want)
			return *refusal
		},
	}
}

// shakeTLS runs the handshake until ctx ends. It closes conn when it fails.
func (t *Transport) shakeTLS(ctx context.Context, conn net.Conn, client bool, want wire.NodeID) (*session, error) {
	var (
		peer    *ident.Peer
		refusal error
		c       *tls.Conn
	)
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := tcp.SetKeepAliveConfig(tcpKeepAlive); err != nil {
			return nil, errors.Join(fmt.Errorf("TCP keep-alive: %w", err), conn.Close())
		}
	}
	cfg := t.tlsConfig(want, &peer, &refusal)
	if client {
		c = tls.Client(conn, cfg)
	} else {
		c = tls.Server(conn, cfg)
	}
	err := c.HandshakeContext(ctx)
	switch {
	case refusal != nil:
		err = refusal
	case err != nil:
		err = explainTLS(err)
	case peer == nil:
		err = ErrNoCert
	}
	var secrets tlsKeys
	if err == nil {
		secrets.state = c.ConnectionState()
		if _, e := secrets.Export("EXPERIMENTAL fieldkit check", nil, 16); e != nil {
			// The exporter refuses without the extended master secret (RFC 7627), which is required as over DTLS.
			err = fmt.Errorf("%w: %w", ErrHandshake, e)
		}
	}
	if err != nil {
		t.stats.handshakesFailed.Add(1)
		return nil, errors.Join(err, ignoreClosed(conn.Close()))
	}
	t.stats.handshakes.Add(1)
	return &session{
		records: newFrameStream(c, t.cfg.MaxMessage), peer: peer, secrets: secrets, client: client,
		srtp: srtpAEADAES128GCM, stream: true,
	}, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// explainTLS gives the library's failures the names that those of DTLS have.
func explainTLS(err error) error {
	var alert tls.AlertError
	switch {
	case err.Error() == "tls: client didn't provide a certificate":
		return ErrNoCert
	case strings.HasPrefix(err.Error(), "tls: no cipher suite supported by both client and server"):
		return fmt.Errorf("%w: %w", ErrCipherSuite, err)
	case errors.As(err, &alert):
		return fmt.Errorf("%w: alert %d (%s)", ErrHandshake, uint8(alert), alertName(uint8(alert)))
	}
	return fmt.Errorf("%w: %w", ErrHandshake, err)
}

// tlsKeys is the exporter of a TLS connection (RFC 5705).
type tlsKeys struct{ state tls.ConnectionState }

func (k tlsKeys) Export(label string, context []byte, n int) ([]byte, error) {
	return k.state.ExportKeyingMaterial(label, context, n)
}

// frameStream moves frames (RFC 6940 §6.6.2) over one TLS connection. Write queues, within a bound; a goroutine of its
// own sends what is queued, as much as there is in one record.
type frameStream struct {
	conn *tls.Conn
	in   *bufio.Reader
	max  int // bytes of a message

	mu       sync.Mutex // a leaf
	queue    []byte
	sequence uint32 // of the next message of an application
	closed   bool

	wake chan struct{}
	gone chan struct{} // the writer has ended
	done chan struct{} // Close was called
	once sync.Once
}

func newFrameStream(c *tls.Conn, maxMessage int) *frameStream {
	return &frameStream{
		conn: c, in: bufio.NewReaderSize(c, 16<<10), max: max(maxMessage, MaxAppMessage),
		wake: make(chan struct{}, 1), gone: make(chan struct{}), done: make(chan struct{}),
	}
}

// tooLongError is a frame above the limit: of its message there is what was to be seen of the header.
type tooLongError struct{ head []byte }

func (*tooLongError) Error() string { return ErrTooLarge.Error() }
func (*tooLongError) Unwrap() error { return ErrTooLarge }

// maxHead is how much of a message that is too large is read to answer it: "this error can be sent and the session closed
// before the peer receives the complete message" (RFC 6940 §6.6).
const maxHead = 2048

func (s *frameStream) maxRecord() int { return s.max + wire.FrameDataOverhead }

// Read returns one whole frame. It is called by one goroutine.
func (s *frameStream) Read(b []byte) (int, error) {
	kind, err := s.in.Peek(1)
	if err != nil {
		return 0, err
	}
	size := wire.FrameAckLen
	switch kind[0] {
	case wire.FrameAck:
	case wire.FrameData:
		head, err := s.in.Peek(wire.FrameDataOverhead)
		if err != nil {
			return 0, noEOF(err)
		}
		n := int(binary.BigEndian.Uint32(head[4:]) & 0xffffff)
		if n > s.max {
			// Whoever says much and then sends nothing is not waited for.
			_ = s.conn.SetReadDeadline(time.Now().Add(time.Second))
			start, _ := s.in.Peek(wire.FrameDataOverhead + min(n, maxHead))
			return 0, &tooLongError{append([]byte(nil), start[min(len(start), wire.FrameDataOverhead):]...)}
		}
		size = wire.FrameDataOverhead + n
	default:
		return 0, fmt.Errorf("%w: %w: frame of type %d", ErrLinkFailed, wire.ErrMalformed, kind[0])
	}
	n, err := io.ReadFull(s.in, b[:size])
	return n, noEOF(err)
}

// noEOF is for what ends in the middle of a frame: that is no goodbye.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Write queues a frame.
func (s *frameStream) Write(b []byte) (int, error) {
	s.mu.Lock()
	err := s.room(len(b), streamQueue)
	if err == nil {
		s.queue = append(s.queue, b...)
	}
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	s.signal()
	return len(b), nil
}

// message queues an application's message in a frame, unless more than limit bytes would then wait.
func (s *frameStream) message(b []byte, limit int) error {
	s.mu.Lock()
	err := s.room(wire.FrameDataOverhead+len(b), limit)
	if err == nil {
		s.queue = append(s.queue, wire.FrameData)
		s.queue = binary.BigEndian.AppendUint32(s.queue, s.sequence)
		s.queue = append(s.queue, byte(len(b)>>16), byte(len(b)>>8), byte(len(b)))
		s.queue = append(s.queue, b...)
		s.sequence++
	}
	s.mu.Unlock()
	if err == nil {
		s.signal()
	}
	return err
}

// room is called with mu held.
func (s *frameStream) room(n, limit int) error {
	switch {
	case s.closed:
		return ErrClosed
	case len(s.queue)+n > limit:
		return ErrQueueFull
	}
	return nil
}

func (s *frameStream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// send moves what is queued to the far end until the stream is closed, and returns why it cannot go on.
func (s *frameStream) send() error {
	defer close(s.gone)
	var spare []byte
	for {
		s.mu.Lock()
		b, closed := s.queue, s.closed
		s.queue = spare[:0]
		s.mu.Unlock()
		switch {
		case len(b) > 0:
			if err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
				return err
			}
			if _, err := s.conn.Write(b); err != nil {
				return err
			}
			spare = b
			if cap(spare) > 64<<10 { // a burst must not be paid for ever after
				spare = nil
			}
			continue
		case closed:
			return nil
		}
		spare = b
		select {
		case <-s.wake:
		case <-s.done:
		}
	}
}

// Close sends what is queued, if it goes at once, and says goodbye.
func (s *frameStream) Close() error {
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		close(s.done)
		timer := time.NewTimer(time.Second)
		defer timer.Stop()
		select {
		case <-s.gone:
		case <-timer.C:
		}
	})
	return s.conn.Close()
}

// streamLink makes the carrier of a session over TCP.
func (t *Transport) streamLink(s *session, life context.Context, end context.CancelCauseFunc, release func()) *carrier {
	fs, conn := s.records.(*frameStream), s.records.(*frameStream).conn
	c := t.newCarrier(s, conn.LocalAddr(), conn.RemoteAddr(), life, end, release)
	t.tasks.run(func() {
		if err := fs.send(); err != nil {
			end(fmt.Errorf("%w: %w", ErrLinkFailed, err))
		}
	})
	return c
}

// dialTCP opens a TCP connection from an address that the overlay may use.
func (t *Transport) dialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	if err := t.routed(addr); err != nil {
		return nil, err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("TCP: %w", err)
	}
	return c, nil
}

// routed tells whether packets to addr leave from an address of the overlay.
func (t *Transport) routed(addr netip.AddrPort) error {
	local, err := t.sourceOf(addr)
	if err != nil {
		return err
	}
	if !local.IsUnspecified() && !t.mayBeFrom(local, addr.Addr()) { // the kernel would send it from the handset side
		return fmt.Errorf("%w: packets to %v leave from %v", ErrNoAddress, addr, local)
	}
	return nil
}

// sourceOf asks the network for the local address that packets to addr leave from; nothing is sent.
func (t *Transport) sourceOf(addr netip.AddrPort) (netip.Addr, error) {
	c, err := t.net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("route to %v: %w", addr, err)
	}
	local := addrPortOf(c.LocalAddr()).Addr()
	if err := c.Close(); err != nil {
		return netip.Addr{}, fmt.Errorf("route to %v: %w", addr, err)
	}
	return local, nil
}
