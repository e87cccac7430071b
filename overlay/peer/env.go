package peer

import (
	"io"
	"net/netip"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Queue is what kind of work a job is.
type Queue uint8

// Queues of Env.Work. What is to be signed goes first: what others send must not keep this peer from speaking.
const (
	Signing Queue = iota
	Verifying
)

// Env is the world of a Peer. Its methods are called by the Peer's owner and never block. Functions handed to them
// are called by the owner, once each, later and never from within the call. What begins something returns cancel,
// which the owner may call at any time: what it began then ends soon, with a call of done all the same.
type Env interface {
	// Work runs job somewhere else, where it may take its time, and then has the owner call what it returned.
	// It reports false, and does nothing, when there is too much to do already.
	Work(q Queue, job func() (after func(now time.Time))) bool

	// Bootstrap opens a link to a bootstrap port (RFC 6940 §11.4). An error that wraps ident.ErrUntrusted,
	// ErrRevoked or ErrSignature is reported as a stranger.
	Bootstrap(addr netip.AddrPort, done func(now time.Time, l Link, err error)) (cancel func())
	// Prepare gathers candidates for one Attach or AppAttach.
	Prepare(done func(now time.Time, a Attempt, err error)) (cancel func())
	// Connect and ConnectApp run ICE and the handshake with the peer of that Node-ID, and take the attempt over.
	//
	Connect(a Attempt, remote wire.IceParameters, peer wire.NodeID, offerer bool, done func(now time.Time, l Link, err error)) (cancel func())
	ConnectApp(a Attempt, remote wire.IceParameters, peer wire.NodeID, offerer bool, done func(now time.Time, c AppConn, err error)) (cancel func())
	// Discard closes what is not needed, without waiting for it.
	Discard(c io.Closer)

	// HandlesApp reports whether AppAttach connections for an application are taken (RFC 6940 §14.5), and
	// AcceptApp hands one over.
	HandlesApp(app uint16) bool
	AcceptApp(app uint16, c AppConn)

	// SaveStorageTime persists a storage time that has not been used yet: after a restart, Config.StorageTime.
	SaveStorageTime(ms uint64, done func(now time.Time, err error))
	// NewDocument tells of a newer, correctly signed document that a ConfigUpdate brought, of each one once. The
	// Peer keeps its own until it is made anew with it.
	NewDocument(doc *ident.Document)
	// Changed tells that Snapshot would show something new.
	Changed()
}

// Crypto signs and verifies. It is called by jobs of Env.Work, several at once.
type Crypto interface {
	// Sign fills m.Security as s, nil being the peer itself; certificates that are there already stay.
	Sign(m *wire.Message, s *ident.Signer) error
	// Verify finds out who signed m.
	Verify(m *wire.Message, now time.Time) (*ident.Peer, error)
	// SignStored fills v.Signature. v.Value.Model is set.
	SignStored(res wire.ResourceID, kind wire.KindID, v *wire.StoredData, s *ident.Signer) error
	// VerifyStored finds out who signed a stored value, and with which certificates of bucket that is shown.
	VerifyStored(res wire.ResourceID, kind wire.KindID, v *wire.StoredData, bucket []wire.Certificate, now time.Time) (*ident.Peer, []wire.Certificate, error)
	// ParseDocument reads a configuration document and checks that it may follow cur (RFC 6940 §11.1).
	ParseDocument(raw []byte, cur *ident.Document, now time.Time) (*ident.Document, error)
}

// Link is an overlay link whose far end proved that it holds Peer's certificate. What arrives on it comes to
// Peer.Receive, and its end to Peer.LinkDown.
type Link interface {
	Peer() *ident.Peer
	// Start is called when the link is taken into the Connection Table: before that nothing is delivered.
	Start()
	Send(msg []byte) error // never blocks, takes msg over
	Close() error          // never blocks; nothing is delivered after it
	// Suspect tells that nothing sent on it is acknowledged for now (RFC 6940 §6.6.3.1). It must cost little:
	// each routing decision between several links asks.
	Suspect() bool
	// Heard is when the last authenticated packet of any kind came, such as an answered connectivity check; the
	// zero time where the link layer does not know.
	Heard() time.Time
	// Check asks the far end for a sign of life that costs less than a Ping and shows in Heard. It reports false
	// where the link layer has none.
	Check() bool
}

// Attempt is one side of an Attach or AppAttach between the gathering of candidates and the finished handshake.
// It ends with Env.Connect, Env.ConnectApp or Env.Discard.
type Attempt interface {
	Local() wire.IceParameters
	Close() error
}

// AppConn is a connection that an AppAttach made; what goes over it is none of this package's concern.
type AppConn interface {
	Peer() *ident.Peer
	Close() error
}

// Credentials are the Crypto of a real peer.
type Credentials struct {
	Identity *ident.Identity
	Trust    *ident.Trust
}

// Sign is Crypto's.
func (c Credentials) Sign(m *wire.Message, s *ident.Signer) error {
	if s == nil {
		s = c.Identity.Signer()
	}
	return ident.Sign(m, s)
}

// Verify is Crypto's.
func (c Credentials) Verify(m *wire.Message, now time.Time) (*ident.Peer, error) {
	return c.Trust.VerifyMessage(m, now)
}

// SignStored is Crypto's.
func (c Credentials) SignStored(res wire.ResourceID, kind wire.KindID, v *wire.StoredData, s *ident.Signer) error {
	if s == nil {
		s = c.Identity.Signer()
	}
	return ident.SignStored(res, kind, v, s)
}

// VerifyStored is Crypto's.
func (c Credentials) VerifyStored(res wire.ResourceID, kind wire.KindID, v *wire.StoredData, bucket []wire.Certificate, now time.Time) (*ident.Peer, []wire.Certificate, error) {
	p, err := c.Trust.VerifyStored(res, kind, v, bucket, now)
	if err != nil {
		return nil, nil, err
	}
	return p, ident.Chain(&v.Signature, bucket), nil
}

// ParseDocument is Crypto's.
func (c Credentials) ParseDocument(raw []byte, cur *ident.Document, now time.Time) (*ident.Document, error) {
	doc, err := ident.ParseDocument(raw, cur.InstanceName)
	if err != nil {
		return nil, err
	}
	return doc, doc.Verify(cur, c.Trust, now)
}
