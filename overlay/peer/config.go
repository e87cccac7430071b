package peer

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/config"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Field values of the limits and timers. RFC 6940's own constants carry their section.
const (
	maxSends         = 5                // RFC 6940 §6.2.1: "a total of 5 messages"
	requestLifetime  = 15 * time.Second // RFC 6940 §6.2.1: maximum request lifetime
	linkMTU          = 1200             // what an overlay link carries in one datagram
	maxAnswers       = 512              // kept for each signer
	maxAnswerBytes   = 512 << 10        // for each signer
	maxSigners       = 64
	maxLinksPerPeer  = 4
	maxAttaches      = 32
	maxDials         = 8
	maxAppAttaches   = 16
	maxVia           = 100 // hops that a TTL allows where the document says nothing (RFC 6940 §6.3.2)
	maxCandidates    = 32  // candidates of one remote side that are looked at
	maxDiscovered    = 256
	maxAddrs         = 8 // of one discovered kit
	maxStrangers     = 16
	transfersAtOnce  = 8
	verifyPerLink    = 24 // messages of one link that wait for a worker
	errorRate        = 5  // error answers to unverified messages, per second and link
	errorBurst       = 20
	updateRate       = 1 // ConfigUpdates sent, per second
	updateBurst      = 16
	dialTimeout      = 5 * time.Second // for one address; the handshake is one of DTLS on a LAN
	attachTimeout    = 20 * time.Second
	joinGrace        = time.Minute     // what a linked node gets to join where clients are not permitted
	linkGrace        = 3 * time.Second // both links live on after a replacement: make before break
	concurrentLinks  = 5 * time.Second // links made within this time of each other are ranked by rule, not by age
	neighbourIdle    = 4 * time.Second
	neighbourPing    = 1050 * time.Millisecond
	neighbourSilence = 9 * time.Second
	otherIdle        = 15 * time.Second
	otherPing        = 3 * time.Second
	otherSilence     = 30 * time.Second
	lastTry          = 2500 * time.Millisecond // before a link is dropped it is tried with a Ping
)

// What a Peer holds at most.
const (
	MaxTransactions = 512
	MaxLinks        = 128 // chord closes what it does not need long before
)

// What an Env delivers of one link to Peer.Receive: what comes faster is dropped before it costs anything, so that a
// flood costs only the flooder. Simple Reliability itself allows less than 100 messages per second (RFC 6940 §6.6.3).
const (
	LinkRate  = 150 // per second
	LinkBurst = 300
)

// Errors that callers decide on.
var (
	ErrTimeout    = errors.New("no answer within the maximum request lifetime")
	ErrBusy       = errors.New("too many requests under way")
	ErrClosed     = errors.New("node not running")
	ErrInProgress = errors.New("the other side's own attempt goes on") // Attach and AppAttach glare
	ErrTooLarge   = errors.New("message exceeds the overlay's maximum size")
	ErrNoClients  = errors.New("the overlay permits no clients") // clients-permitted (RFC 6940 §11.1)
)

// RemoteError is an error answer of another peer (RFC 6940 §6.3.3.1).
type RemoteError struct {
	Code wire.ErrorCode
	Info []byte
	From wire.NodeID
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("%v from %s", e.Code, e.From)
}

// IsRemote reports whether err is an error answer with that code.
func IsRemote(err error, code wire.ErrorCode) bool {
	var r *RemoteError
	return errors.As(err, &r) && r.Code == code
}

// Config is what New needs. ID, Document, Env, Crypto and Rand are required.
type Config struct {
	ID       wire.NodeID
	Others   []wire.NodeID   // further Node-IDs of the peer's certificate: what is sent to them arrives, too
	Document *ident.Document // the signed overlay configuration document in force
	Env      Env
	Crypto   Crypto
	// Rand makes transaction IDs, which "MUST be randomly generated" (RFC 6940 §6.3.2), jitter and samples: it
	// must not be predictable for others, but in simulations.
	Rand rand.Source

	// StorageTime is the last one that Env.SaveStorageTime was given in an earlier life; 0: none.
	StorageTime uint64
	// MayStore is the usages' own say on a value to be stored here for others, after access control,
	// e.g. the domain restrictions of RFC 7904 §3.3. It is called by jobs of Env.Work, several at once; an error
	// is answered with Error_Forbidden. nil allows.
	MayStore func(kind wire.KindID, resource wire.ResourceID, value *wire.StoredData, signer *ident.Peer) error

	// Kinds checks the signatures of Kinds that a ConfigUpdate brings (RFC 6940 §6.5.4), in jobs of Env.Work, several
	// at once; *ident.Trust does. nil takes none.
	Kinds config.Verifier

	// Diagnostics is asked for what a Peer does not know of its surroundings (RFC 7851 §5.3), such as the software
	// version, when somebody asks who may. It is called by the owner and must not take time. nil knows nothing.
	Diagnostics func(kind wire.DiagnosticKind) (wire.DiagnosticValue, bool)

	// Clock is the clock of day that Pings tell, and whether somebody who knows the time set it, see Pong. It is called by
	// the owner and must not take time. nil tells the now of the owner, and nothing about it.
	Clock func() (at time.Time, known bool)

	// Client makes it a node that only uses the overlay (RFC 6940 §4.2): it stays at the peer responsible for its
	// Node-ID, never joins, stores nothing and carries nothing for others. The document must permit clients.
	Client bool

	// Chord sets the timers and limits of the topology; zero fields, and Rand, are filled in.
	Chord chord.Config

	Log *slog.Logger // nil discards
}
