package node

import (
	"log/slog"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/peer"
	"fieldkit/overlay/wire"
)

// Limits of this shell.
const (
	eventQueue    = 256
	jobQueue      = 256
	cryptoWorkers = 2 // goroutines that sign and verify: what a board of four cores can spare
)

// What callers decide on, and what the API takes and gives.
type (
	// RemoteError is an error answer of another peer (RFC 6940 §6.3.3.1).
	RemoteError = peer.RemoteError
	// Value is one value to store.
	Value = peer.Value
	// Stored tells where a value went.
	Stored = peer.Stored
	// FetchedKind is what a Fetch brought of one Kind.
	FetchedKind = peer.FetchedKind
	// Fetched is a stored value and who signed it.
	Fetched = peer.Fetched
	// Pong is the answer to a Ping.
	Pong = peer.Pong
	// PathHop is one peer on the way to a destination.
	PathHop = peer.PathHop
	// Stranger is a kit that was refused, because its certificate or signature is not of this mission.
	Stranger = peer.Stranger
	// Seen is a kit that discovery sees.
	Seen = peer.Seen
)

// Errors that callers decide on.
var (
	ErrTimeout    = peer.ErrTimeout
	ErrBusy       = peer.ErrBusy
	ErrClosed     = peer.ErrClosed
	ErrInProgress = peer.ErrInProgress // Attach and AppAttach glare
	ErrTooLarge   = peer.ErrTooLarge
	ErrPath       = peer.ErrPath      // PathTrack's: a way that leads nowhere
	ErrNoClients  = peer.ErrNoClients // the document has clients-permitted false
)

// IsRemote reports whether err is an error answer with that code.
func IsRemote(err error, code wire.ErrorCode) bool { return peer.IsRemote(err, code) }

// StorageTimes persists the last storage_time, so that a kit that restarts with its clock in the past still writes
// values that replace its own older ones (RFC 6940 §7). It is called rarely, about once per hour of writing, from a
// goroutine of its own.
type StorageTimes interface {
	LoadStorageTime() (ms uint64, err error) // 0 when none was ever saved
	SaveStorageTime(ms uint64) error
}

// Config is what New needs. Identity, Trust, Document and Transport are required.
type Config struct {
	Identity  *ident.Identity
	Trust     *ident.Trust
	Document  *ident.Document // the signed overlay configuration document in force
	Transport Transport

	// StorageTimes persists storage times; nil forgets them at a restart.
	StorageTimes StorageTimes
	// MayStore is the usages' own say on a value to be stored here for others, after access control,
	// e.g. the domain restrictions of RFC 7904 §3.3. It runs in the workers, several at once; an error
	// is answered with Error_Forbidden. nil allows.
	MayStore func(kind wire.KindID, resource wire.ResourceID, value *wire.StoredData, signer *ident.Peer) error
	// NewDocument is told of a newer, correctly signed document that a ConfigUpdate brought, of each one
	// once. The running node keeps its own until it is made anew with it. Called from a goroutine of its own.
	NewDocument func(doc *ident.Document)

	// Diagnostics is asked for what a peer does not know of its surroundings (RFC 7851 §5.3), such as the software
	// version, when somebody asks who may. It is called by the loop and must not take time. nil knows nothing.
	Diagnostics func(kind wire.DiagnosticKind) (wire.DiagnosticValue, bool)

	// Clock is the clock of day that Pings tell, and whether somebody who knows the time set it, see Pong. It is called by
	// the loop and must not take time. nil tells Now, and nothing about it.
	Clock func() (at time.Time, known bool)

	// Client makes it a node that only uses the overlay (RFC 6940 §4.2): it stays at the peer responsible for its
	// Node-ID, never joins, stores nothing and carries nothing for others. The document must permit clients.
	Client bool

	// Chord sets the timers and limits of the topology; zero fields, and Rand, are filled in.
	Chord chord.Config

	Log  *slog.Logger     // nil discards
	Now  func() time.Time // nil: time.Now
	Seed uint64           // of all random choices, transaction IDs among them, for tests; 0: what nobody can predict
}
