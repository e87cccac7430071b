package media

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What callers decide on.
var (
	// ErrPorts: no free port pair for a handset leg (503).
	ErrPorts = errors.New("no free media ports")
	// ErrBusy: the relay has Config.MaxCalls calls, a call its maximum of legs, or the relay its maximum of trunks (503).
	ErrBusy = errors.New("media relay at its limit")
	// ErrClosed: the call or the relay is closed.
	ErrClosed = errors.New("media closed")
	// ErrDuplicate: a call of that identifier exists.
	ErrDuplicate = errors.New("media call exists")
	// ErrSDP: the session description is malformed or lacks what the leg needs (400, 488).
	ErrSDP = errors.New("malformed session description")
	// ErrSecureOnly: audio is only offered as SRTP (488).
	ErrSecureOnly = errors.New("only secure audio offered")
	// ErrNoAudio: there is no audio the relay could carry (488).
	ErrNoAudio = errors.New("no audio offered")
	// ErrKeying: the trunk's handshake gives no SRTP keys the relay can use.
	ErrKeying = errors.New("trunk media keying")
)

// Limits that are not options.
const (
	defaultMaxCalls = 100
	maxLegs         = 32  // per call: a caller and a fork as wide as it gets
	maxTrunks       = 256 // peers of an overlay that one kit has calls with at a time
	maxPacket       = 2048
	maxTag          = 64 // room for the SRTP or SRTCP trailer
)

// Trunk is what the relay needs of a trunk to another kit. A value identifies
// the trunk and must be comparable (a pointer).
type Trunk interface {
	// SendMedia sends one SRTP or SRTCP packet. It neither blocks nor keeps b.
	SendMedia(b []byte) error
	// ExportKeyingMaterial is the exporter of the trunk's DTLS association (RFC 5705).
	ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error)
	// IsClient says whether this kit was the client of the DTLS handshake.
	IsClient() bool
	// SRTPProfile is the negotiated protection profile (RFC 5764 §4.1.2, RFC 7714 §14.2).
	SRTPProfile() uint16
	// Done is closed when the trunk is gone.
	Done() <-chan struct{}
}

// Config of a Relay. The zero value of an optional field is its default.
type Config struct {
	Address  netip.Addr       // handset side of this kit: bound, and written into c=
	Ports    [2]uint16        // first and last port of the pool, inclusive; 20000–29999 if zero
	MaxCalls int              // bound of concurrent calls; 100 if zero
	Log      *slog.Logger     // nil discards
	Now      func() time.Time // nil is time.Now
}

// Relay carries the media of one kit's calls.
type Relay struct {
	cfg   Config
	log   *slog.Logger
	epoch time.Time
	ports *portPool

	// trunks is read per packet and replaced whole under mu.
	trunks       atomic.Pointer[map[Trunk]*session]
	unknownTrunk atomic.Uint64

	mu     sync.Mutex
	calls  map[string]*Call
	closed bool
	done   chan struct{}
	wg     sync.WaitGroup
}

// New makes a relay. It opens no socket until a call has a handset leg.
func New(cfg Config) (*Relay, error) {
	if !cfg.Address.IsValid() || cfg.Address.IsUnspecified() {
		return nil, fmt.Errorf("media relay address %q: not a handset side address", cfg.Address)
	}
	cfg.Address = cfg.Address.Unmap()
	if cfg.Ports == [2]uint16{} {
		cfg.Ports = [2]uint16{20000, 29999}
	}
	if cfg.MaxCalls <= 0 {
		cfg.MaxCalls = defaultMaxCalls
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	ports, err := newPortPool(cfg.Ports[0], cfg.Ports[1])
	if err != nil {
		return nil, err
	}
	r := &Relay{
		cfg: cfg, log: cfg.Log, epoch: cfg.Now(), ports: ports,
		calls: make(map[string]*Call), done: make(chan struct{}),
	}
	r.trunks.Store(&map[Trunk]*session{})
	return r, nil
}

// now is the time since the relay was made: the clock of the packet path.
func (r *Relay) now() time.Duration { return r.cfg.Now().Sub(r.epoch) }

// NewCall opens a call. The identifier appears in Snapshot and must be new
// (ErrDuplicate); at Config.MaxCalls it is ErrBusy.
func (r *Relay) NewCall(id string) (*Call, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return nil, ErrClosed
	case len(r.calls) >= r.cfg.MaxCalls:
		return nil, fmt.Errorf("call %d of %d: %w", len(r.calls)+1, r.cfg.MaxCalls, ErrBusy)
	case r.calls[id] != nil:
		return nil, ErrDuplicate
	}
	c := &Call{relay: r, id: id, started: r.cfg.Now(), line: -1}
	r.calls[id] = c
	return c, nil
}

// TrunkPacket takes one SRTP or SRTCP packet that arrived on a trunk; b is only
// read and not kept. Calls for one trunk come one at a time. A packet of a
// trunk or stream without a call is dropped and counted.
func (r *Relay) TrunkPacket(t Trunk, b []byte) {
	s := (*r.trunks.Load())[t]
	if s == nil {
		r.unknownTrunk.Add(1)
		return
	}
	s.packet(b, r.now())
}

// Snapshot returns the statistics of all calls, oldest first.
func (r *Relay) Snapshot() []CallStats {
	r.mu.Lock()
	calls := slices.Collect(maps.Values(r.calls))
	r.mu.Unlock()
	stats := make([]CallStats, 0, len(calls))
	for _, c := range calls {
		stats = append(stats, c.Stats())
	}
	slices.SortFunc(stats, func(a, b CallStats) int {
		if c := a.Started.Compare(b.Started); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return stats
}

// RelayStats are the counters of a relay as a whole.
type RelayStats struct {
	Calls, MaxCalls  int
	PortsUsed, Ports int    // port pairs
	Trunks           int    // trunks that carried media since they came up
	UnknownTrunk     uint64 // packets of trunks without any call
	UnknownStream    uint64 // trunk packets whose SSRC belongs to no leg (also: calls just ended)
}

// Stats returns the relay's counters.
func (r *Relay) Stats() RelayStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := RelayStats{Calls: len(r.calls), MaxCalls: r.cfg.MaxCalls, UnknownTrunk: r.unknownTrunk.Load()}
	s.PortsUsed, s.Ports = r.ports.usage()
	for _, t := range *r.trunks.Load() {
		s.Trunks++
		s.UnknownStream += t.unknown.Load()
	}
	return s
}

// Close ends all calls and waits for the relay's goroutines.
func (r *Relay) Close() {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.done)
	}
	calls := slices.Collect(maps.Values(r.calls))
	r.mu.Unlock()
	for _, c := range calls {
		c.Close()
	}
	r.wg.Wait()
}

func (r *Relay) forget(c *Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls[c.id] == c {
		delete(r.calls, c.id)
	}
}

// session finds or makes the SRTP session of a trunk. It lives until the trunk
// is gone, not only while it has calls: the SSRCs it gave out must not be given
// out again under the same keys.
func (r *Relay) session(t Trunk) (*session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	old := *r.trunks.Load()
	if s := old[t]; s != nil {
		return s, nil
	}
	if len(old) >= maxTrunks {
		return nil, fmt.Errorf("media trunk %d: %w", len(old)+1, ErrBusy)
	}
	select {
	case <-t.Done():
		return nil, fmt.Errorf("trunk gone: %w", ErrClosed)
	default:
	}
	s, err := newSession(t)
	if err != nil {
		return nil, err
	}
	next := maps.Clone(old)
	next[t] = s
	r.trunks.Store(&next)
	r.wg.Go(func() {
		select {
		case <-t.Done():
		case <-r.done:
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		next := maps.Clone(*r.trunks.Load())
		delete(next, t)
		r.trunks.Store(&next)
	})
	return s, nil
}

// random32 is a number nobody outside can guess.
func random32() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand.Read ends the process instead
	return binary.BigEndian.Uint32(b[:])
}
