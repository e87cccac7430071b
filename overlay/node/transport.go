package node

import (
	"context"
	"net/netip"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Transport makes links. overlay/node/overlink wraps the real one; tests use a simulated network.
// All methods may be called from any goroutine.
type Transport interface {
	// Accept waits for a bootstrap link that a neighbour opened. The handshake is done and the
	// certificate is verified. Errors other than ctx's are taken as passing.
	Accept(ctx context.Context) (Conn, error)
	// Bootstrap opens a link to a neighbour's bootstrap port (RFC 6940 §11.4). An error that
	// wraps ident.ErrUntrusted is reported as a stranger.
	Bootstrap(ctx context.Context, addr netip.AddrPort) (Conn, error)
	// Prepare gathers candidates for one Attach or AppAttach.
	Prepare(ctx context.Context) (Attempt, error)
}

// Attempt is one side of an Attach or AppAttach between the gathering of candidates and the
// finished handshake. Either Connect or ConnectApp or Close is called, once.
type Attempt interface {
	Local() wire.IceParameters
	Connect(ctx context.Context, remote wire.IceParameters, peer wire.NodeID, offerer bool) (Conn, error)
	ConnectApp(ctx context.Context, remote wire.IceParameters, peer wire.NodeID, offerer bool) (AppConn, error)
	Close() error
}

// Conn is an overlay link whose far end proved that it holds Peer's certificate.
type Conn interface {
	Peer() *ident.Peer
	Send(msg []byte) error // never blocks, takes msg over
	Receive(ctx context.Context) ([]byte, error)
	Close() error
	Done() <-chan struct{}
	// Suspect tells that nothing sent on it is acknowledged for now (RFC 6940 §6.6.3.1). It must cost little:
	// each routing decision between several links asks.
	Suspect() bool
	Stats() ConnStats
}

// Checker is a Conn that can be asked for a sign of life that costs less than a signed Ping. Both methods may be
// called from any goroutine, and cost little.
type Checker interface {
	// Heard is when the last authenticated packet of any kind came, such as an answered connectivity check.
	Heard() time.Time
	// Check asks the far end for one, and reports whether it could.
	Check() bool
}

// ConnStats is what a link measured of itself.
type ConnStats struct {
	RTT           time.Duration `json:"rtt"`
	BytesSent     uint64        `json:"bytes_sent"`
	BytesReceived uint64        `json:"bytes_received"`
	Retransmits   uint64        `json:"retransmits"`
}

// AppConn is a connection that an AppAttach made. SIP messages go as (D)TLS application data, media
// as SRTP beside them, keyed by the same handshake (RFC 5764).
type AppConn interface {
	Peer() *ident.Peer
	SendMessage(b []byte) error
	SendMedia(b []byte) error
	Handle(onMessage, onMedia func([]byte))
	ExportKeyingMaterial(label string, ctx []byte, n int) ([]byte, error)
	IsClient() bool
	SRTPProfile() uint16
	Close() error
	Done() <-chan struct{}
}
