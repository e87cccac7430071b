package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/link/stream"
	"fieldkit/overlay/wire"
)

// mediaQueue is what may wait in front of a voice packet, in bytes: more than that is later than a voice can be used.
const mediaQueue = 16 << 10

// streamQueue is what may wait for a far end that does not read, in bytes.
const streamQueue = sendQueueBytes + 64<<10

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
		records: stream.New(c, max(t.cfg.MaxMessage, MaxAppMessage), streamQueue), peer: peer, secrets: secrets, client: client,
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

// streamLink makes the carrier of a session over TCP.
func (t *Transport) streamLink(s *session, life context.Context, end context.CancelCauseFunc, release func()) *carrier {
	frames := s.records.(*stream.Frames)
	local, remote := frames.Addrs()
	c := t.newCarrier(s, local, remote, life, end, release)
	t.tasks.run(func() {
		if err := frames.Send(); err != nil {
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
