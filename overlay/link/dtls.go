package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pion/dtls/v2"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/link/suite"
	"fieldkit/overlay/wire"
)

// Retransmission of handshake flights follows the round trip where ICE measured it: the library's fixed second is
// the whole tail of a lossy connect, and less than two round trips sends everything twice.
const (
	minFlightInterval     = 150 * time.Millisecond
	maxFlightInterval     = time.Second
	defaultFlightInterval = 300 * time.Millisecond

	handshakeMTU = 1200
)

func flightInterval(rtt time.Duration) time.Duration {
	if rtt <= 0 {
		return defaultFlightInterval
	}
	return min(max(2*rtt, minFlightInterval), maxFlightInterval)
}

// handshake is one DTLS handshake on a guard.
type handshake struct {
	guard    *guard
	client   bool
	peer     wire.NodeID // zero: anybody of the mission
	interval time.Duration
	srtp     bool
	proven   bool // the client's address is proven (by ICE): no cookie exchange
}

// dtlsRecords is a DTLS connection: a record of application data is one frame or message (RFC 6347 §4.1).
type dtlsRecords struct{ *dtls.Conn }

// MaxRecord is recordConn's.
func (dtlsRecords) MaxRecord() int { return maxDatagram }

// shake runs the handshake until ctx ends and returns the session.
func (t *Transport) shake(ctx context.Context, h handshake) (*session, error) {
	var (
		peer    *ident.Peer
		refusal error
		secrets = new(suite.Exporter)
	)
	cfg := &dtls.Config{
		Certificates:            []tls.Certificate{t.cert},
		CipherSuites:            []dtls.CipherSuiteID{}, // not nil: none of the library's own
		CustomCipherSuites:      suite.Only(suite.ECDSA, secrets),
		ExtendedMasterSecret:    dtls.RequireExtendedMasterSecret,
		ClientAuth:              dtls.RequireAnyClientCert, // "The server MUST request TLS client authentication" (RFC 6940 §6.5.1.13)
		InsecureSkipVerify:      true,                      // the Web's rules about names and roots; ours follow
		InsecureSkipVerifyHello: h.proven,
		FlightInterval:          h.interval,
		MTU:                     handshakeMTU,
		LoggerFactory:           t.libraryLog,
		KeyLogWriter:            t.cfg.KeyLog,
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			peer, refusal = t.verify(raw, h.peer)
			return refusal
		},
	}
	secret := t.cfg.SharedSecret
	if secret != nil {
		// With a certificate the library would offer certificate suites, too.
		cfg.Certificates, cfg.ClientAuth, cfg.VerifyPeerCertificate = nil, dtls.NoClientCert, nil
		cfg.CustomCipherSuites = suite.Only(suite.PSK, secrets)
		cfg.PSK = func([]byte) ([]byte, error) { return secret, nil }
		cfg.PSKIdentityHint = []byte(pskIdentity) // the client's identity; as server's hint RFC 5489 §2 wants the field
	}
	if h.srtp {
		cfg.SRTPProtectionProfiles = srtpProfiles
	}
	run := dtls.ServerWithContext
	if h.client {
		run = dtls.ClientWithContext
	}
	c, err := run(ctx, h.guard, cfg)
	switch {
	case refusal != nil: // read after run returned: its goroutines have ended
		err = refusal
	case err != nil:
		err = explain(err, h.guard)
	case peer == nil && secret == nil: // cannot happen with a certificate suite; never trust a library with that
		err = ErrNoCert
	}
	if err != nil {
		if c != nil {
			_ = c.Close() // the error that counts is err
		}
		t.stats.handshakesFailed.Add(1)
		return nil, err
	}
	h.guard.established.Store(true)
	t.stats.handshakes.Add(1)
	s := &session{records: dtlsRecords{c}, peer: peer, secrets: secrets, client: h.client, guard: h.guard}
	if profile, ok := c.SelectedSRTPProtectionProfile(); ok {
		s.srtp = uint16(profile)
	}
	return s, nil
}

// verify holds a handshake's certificates against the mission and against who was asked for: "The nodes MUST
// verify that the certificate presented in the handshake matches the identity of the other peer as found in the
// Attach message" (RFC 6940 §6.5.1.13). The library has checked that the far end holds the leaf's key.
func (t *Transport) verify(raw [][]byte, want wire.NodeID) (*ident.Peer, error) {
	if len(raw) == 0 {
		return nil, ErrNoCert
	}
	peer, err := t.cfg.Trust.VerifyChain(raw, t.cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("peer certificate: %w", err)
	}
	return t.expect(peer, want)
}

// expect compares who is at the other end with who was asked for, and is that one: of a certificate with several Node-IDs
// any may have been. The zero Node-ID is anybody but ourselves.
func (t *Transport) expect(peer *ident.Peer, want wire.NodeID) (*ident.Peer, error) {
	switch {
	case slices.Contains(peer.NodeIDs, t.cfg.Identity.NodeID()):
		return nil, ErrSelf
	case want.IsZero() || peer.NodeID == want:
		return peer, nil
	case !slices.Contains(peer.NodeIDs, want):
		return nil, fmt.Errorf("%w: %v, want %v", ErrWrongPeer, peer.NodeID, want)
	}
	asked := *peer
	asked.NodeID = want
	return &asked, nil
}

// explain gives the library's unexported failures a name where there is one to decide on.
func explain(err error, g *guard) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "required client verification"):
		return ErrNoCert
	case strings.Contains(text, "any shared cipher suites"), strings.Contains(text, "cipher suite"):
		return fmt.Errorf("%w: %w", ErrCipherSuite, err)
	}
	if a, ok := g.lastAlert(); ok && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w after alert %d (%s)", ErrHandshake, err, a, alertName(a))
	}
	return fmt.Errorf("%w: %w", ErrHandshake, err)
}

// alertName names the alerts that tell an operator something (RFC 5246 §7.2).
func alertName(a uint8) string {
	switch a {
	case 40:
		return "handshake failure"
	case 41:
		return "no certificate"
	case 42, 43, 44, 45, 46, 48:
		return "the peer refuses our certificate"
	case 70:
		return "protocol version"
	case 71:
		return "insufficient security"
	}
	return "other"
}

// refuse counts a refused peer and tells the hook, at a bounded rate.
func (t *Transport) refuse(addr netip.AddrPort, reason error) {
	t.stats.refused.Add(1)
	t.cfg.Log.Debug("link refused", "addr", addr, "reason", reason)
	if t.cfg.OnRefused == nil || !t.refusals.take(t.cfg.Now()) {
		t.stats.refusedUnreported.Add(1)
		return
	}
	t.cfg.OnRefused(addr, reason)
}
