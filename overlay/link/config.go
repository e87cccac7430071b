package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"github.com/pion/transport/v2"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/link/sr"
)

// Errors that callers decide on.
var (
	ErrClosed      = sr.ErrClosed
	ErrQueueFull   = sr.ErrQueueFull
	ErrTooLarge    = sr.ErrTooLarge
	ErrLinkFailed  = sr.ErrFailed
	ErrBusy        = errors.New("too many link attempts under way")
	ErrNoAddress   = errors.New("no usable local address")
	ErrWrongPeer   = errors.New("certificate of another node than the one asked for")
	ErrNoCert      = errors.New("peer showed no certificate")
	ErrUntrusted   = ident.ErrUntrusted
	ErrCipherSuite = errors.New("peer offers no cipher suite of ours")
	ErrHandshake   = errors.New("handshake failed")
	ErrRole        = errors.New("ICE role of the wrong side")
	ErrSelf        = errors.New("peer shows our own Node-ID")
	ErrMixed       = errors.New("candidates with and without ICE in one Attach")
	ErrProof       = errors.New("no valid proof of who is at the other end")
	ErrNoProtocol  = errors.New("no overlay link protocol of ours is permitted")
)

// Config is what a Transport is made of. Identity, Trust and Addresses are required.
type Config struct {
	Identity *ident.Identity
	Trust    *ident.Trust

	// NoICE and LinkProtocols are no-ice and the overlay-link-protocol elements of the configuration document
	// (RFC 6940 §11.1); none means "TLS". docs/adr/0014 says what comes of them.
	NoICE         bool
	LinkProtocols []string

	// SharedSecret, where it is not nil, admits to the overlay who knows it instead of who shows a certificate in the
	// handshake (RFC 6940 §13.4, TLS-PSK): at least MinSharedSecret bytes. Each end then proves by its certificate
	// who it is, on the fresh link (docs/adr/0015).
	SharedSecret []byte

	// Port of the bootstrap listener, normally wire.DefaultPort; 0 takes any free one. UDP, and TCP where links
	// over TCP are permitted.
	Port uint16

	// Addresses returns the local addresses that the overlay may use; it is asked anew for every Attach and
	// about once a second by the bootstrap listener. The handset side is never among them: packets that
	// arrive at an address it does not name are dropped. Link-local IPv6 addresses carry their zone and
	// serve bootstrap links only.
	Addresses func() []netip.Addr

	// Interfaces, if not nil, lets bootstrap links use the link-local IPv6 addresses of the interfaces for
	// which it returns true, whether or not Addresses lists them.
	Interfaces func(name string) bool

	// OnRefused is told of every peer whose handshake was refused, at most a few times a second; the rest is
	// counted in Stats. It must not block. The address is unproven unless the reason is about a certificate.
	OnRefused func(addr netip.AddrPort, reason error)

	Log *slog.Logger     // nil discards
	Now func() time.Time // nil is time.Now

	// Servers are the STUN and TURN servers of an attempt, asked for each anew; at most four are used. nil: host
	// candidates alone. It must not block.
	Servers func() []Server

	Net    transport.Net // nil is the host's network; tests give a simulated one
	KeyLog io.Writer     // TLS secrets for a packet analyser. Tests only: who reads it reads everything

	MaxMessage       int           // bytes of a RELOAD message: max-message-size of the document, default 5000 (RFC 6940 §11.1)
	MaxFrame         int           // bytes of the message or fragment that one frame carries, see Conn.MaxFrame; default and at most 8000
	ConnectTimeout   time.Duration // ICE and DTLS of one attempt together; default 15 s
	HandshakeTimeout time.Duration // one DTLS handshake on the bootstrap port; default 5 s
	IdleTimeout      time.Duration // bootstrap links have no keep-alives: closed when nothing came for so long; default 2 min
	GatherTimeout    time.Duration // default 500 ms
	MaxLinks         int           // links accepted on the bootstrap port, default 256
	MaxAttempts      int           // attempts between Prepare and the end of Connect, default 64
}

const (
	defaultMaxMessage       = 5000
	defaultConnectTimeout   = 15 * time.Second
	defaultHandshakeTimeout = 5 * time.Second
	defaultIdleTimeout      = 2 * time.Minute
	defaultGatherTimeout    = 500 * time.Millisecond
	defaultMaxLinks         = 256
	defaultMaxAttempts      = 64

	// maxDatagram is what pion's receive buffers hold (ice receiveMTU, dtls inboundBufferSize).
	maxDatagram = 8192
	// MaxAppMessage is the largest message an AppConn carries: one DTLS record that fits maxDatagram.
	MaxAppMessage = 8000
	// maxFrame is the same for a frame.
	maxFrame = 8000

	// MinSharedSecret is the least length of a shared secret in bytes. Whoever is on the radio can answer one
	// handshake and then try secrets at leisure (RFC 6940 §13.4: "such keys are very susceptible to dictionary
	// attacks"); so it must be random and not a password.
	MinSharedSecret = 16
)

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Identity == nil || c.Trust == nil:
		return c, errors.New("link configuration without identity or trust")
	case c.Addresses == nil:
		return c, errors.New("link configuration without addresses")
	}
	setDefault(&c.MaxMessage, defaultMaxMessage)
	setDefault(&c.ConnectTimeout, defaultConnectTimeout)
	setDefault(&c.HandshakeTimeout, defaultHandshakeTimeout)
	setDefault(&c.IdleTimeout, defaultIdleTimeout)
	setDefault(&c.GatherTimeout, defaultGatherTimeout)
	setDefault(&c.MaxLinks, defaultMaxLinks)
	setDefault(&c.MaxAttempts, defaultMaxAttempts)
	setDefault(&c.MaxFrame, maxFrame)
	switch {
	case c.MaxFrame < 0 || c.MaxFrame > maxFrame:
		return c, fmt.Errorf("link configuration: frames of %d bytes, at most %d fit a record", c.MaxFrame, maxFrame)
	case c.MaxMessage < 0 || c.MaxMessage >= 1<<24:
		return c, fmt.Errorf("link configuration: messages of %d bytes", c.MaxMessage)
	case c.SharedSecret != nil && len(c.SharedSecret) < MinSharedSecret:
		return c, fmt.Errorf("link configuration: shared secret of %d bytes, at least %d are wanted", len(c.SharedSecret), MinSharedSecret)
	}
	c.MaxFrame = min(c.MaxFrame, c.MaxMessage)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// closeCause joins the reason of a closed link with ErrClosed, so that callers can ask for either.
func closeCause(err error) error {
	if err == nil || errors.Is(err, ErrClosed) || errors.Is(err, context.Canceled) {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrClosed, err)
}
