package node

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Field values of the limits and timers. RFC 6940's own constants carry their section.
const (
	maxSends         = 5                // RFC 6940 §6.2.1: "a total of 5 messages"
	requestLifetime  = 15 * time.Second // RFC 6940 §6.2.1: maximum request lifetime
	linkMTU          = 1200             // what an overlay link carries in one datagram
	maxTransactions  = 512
	maxAnswers       = 512       // kept for each signer
	maxAnswerBytes   = 512 << 10 // for each signer
	maxSigners       = 64
	maxLinks         = 64
	maxLinksPerPeer  = 4
	maxAttaches      = 32
	maxDials         = 8
	maxAppAttaches   = 16
	maxVia           = 32
	maxCandidates    = 32 // candidates of one remote side that are looked at
	maxDiscovered    = 256
	maxAddrs         = 8 // of one discovered kit
	maxStrangers     = 16
	transfersAtOnce  = 8
	linkRate         = 150 // messages per second and link; Simple Reliability itself allows < 100 (RFC 6940 §6.6.3)
	linkBurst        = 300
	verifyPerLink    = 24 // messages of one link that wait for a worker
	errorRate        = 5  // error answers to unverified messages, per second and link
	errorBurst       = 20
	updateRate       = 1 // ConfigUpdates sent, per second
	updateBurst      = 16
	eventQueue       = 256
	jobQueue         = 256
	attachTimeout    = 20 * time.Second
	linkGrace        = 3 * time.Second // both links live on after a replacement: make before break
	concurrentLinks  = 5 * time.Second // links made within this time of each other are ranked by rule, not by age
	neighbourIdle    = 4 * time.Second
	neighbourPing    = 1500 * time.Millisecond
	neighbourSilence = 8500 * time.Millisecond
	otherIdle        = 15 * time.Second
	otherPing        = 5 * time.Second
	otherSilence     = 30 * time.Second
)

// Errors that callers decide on.
var (
	ErrTimeout    = errors.New("no answer within the maximum request lifetime")
	ErrBusy       = errors.New("too many requests under way")
	ErrClosed     = errors.New("node not running")
	ErrInProgress = errors.New("the other side's own attempt goes on") // Attach and AppAttach glare
	ErrNotFound   = errors.New("nothing stored")
	ErrTooLarge   = errors.New("message exceeds the overlay's maximum size")
)

// RemoteError is an error answer of another peer (RFC 6940 §6.3.3.1).
type RemoteError struct {
	Code wire.ErrorCode
	Info []byte
	From wire.NodeID
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("error %#x from %s", uint16(e.Code), e.From)
}

// IsRemote reports whether err is an error answer with that code.
func IsRemote(err error, code wire.ErrorCode) bool {
	var r *RemoteError
	return errors.As(err, &r) && r.Code == code
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

	// Chord sets the timers and limits of the topology; zero fields, and Rand, are filled in.
	Chord chord.Config

	Log  *slog.Logger     // nil discards
	Now  func() time.Time // nil: time.Now
	Seed uint64           // for jitter and sampling, never for security; 0: random
}
