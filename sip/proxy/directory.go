package proxy

import (
	"context"
	"errors"
	"time"
)

// ErrNotFound is returned by [Directory.Lookup] when nobody has published the
// address-of-record.
var ErrNotFound = errors.New("address-of-record not found")

// Target is a far kit at which an address-of-record is registered.
type Target struct {
	// Kit is the opaque name of the kit: its Node-ID in hex.
	Kit string
}

// Directory finds the kits at which a handset is registered. AORs are
// `user@overlay` without a scheme. Implementations may block until ctx ends;
// the telephony never calls them from its loop.
type Directory interface {
	// Publish says that this kit serves aor for ttl; ttl 0 takes it back.
	Publish(ctx context.Context, aor string, ttl time.Duration) error
	// Lookup returns the kits that serve aor, this one included, or ErrNotFound.
	Lookup(ctx context.Context, aor string) ([]Target, error)
}

// Trunks opens connections to other kits. A trunk that another kit opened is
// handed to the agent by the one who accepted it.
type Trunks interface {
	// Open returns the trunk to kit, opening it if there is none yet.
	Open(ctx context.Context, kit string) (Trunk, error)
}

// Trunk is a connection to another kit that carries SIP messages and the media
// of calls. Both kits are authenticated by their certificates before a Trunk
// exists. Methods may be called from any goroutine; none blocks.
type Trunk interface {
	// Kit is the name of the kit at the other end.
	Kit() string
	// SendMessage sends one SIP message of at most 8000 bytes.
	SendMessage([]byte) error
	// SendMedia sends one SRTP or SRTCP packet.
	SendMedia([]byte) error
	// Handle sets who gets what arrives. The slices are valid only during the
	// call. A nil function leaves the handler that is set.
	Handle(onMessage, onMedia func([]byte))
	// ExportKeyingMaterial is the exporter of RFC 5705 of the trunk's handshake.
	ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error)
	// IsClient says which half of the exported keys is ours (RFC 5764 §4.2).
	IsClient() bool
	// SRTPProfile is the protection profile that was negotiated by use_srtp.
	SRTPProfile() uint16
	// Done is closed when the trunk is gone.
	Done() <-chan struct{}
	Close() error
}
