package sipusage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
)

// Errors that callers decide on.
var (
	ErrNotFound = errors.New("no registration")
	ErrFull     = errors.New("too many registrations")
	ErrClosed   = errors.New("SIP usage not running")
)

// Times and limits.
const (
	maxStores   = 4                // registrations being stored at once
	storeTime   = 16 * time.Second // for one Store: the maximum request lifetime
	retryMin    = 2 * time.Second
	retryMax    = time.Minute
	spreadMin   = 3 * time.Second // own registrations are stored again within this after the ring changed
	spreadEach  = 50 * time.Millisecond
	minLifetime = 10 * time.Second
	maxLifetime = 24 * time.Hour
	queueLen    = 64
)

// Config is what New needs; Node and Identity are required.
type Config struct {
	Node     *node.Node
	Identity *ident.Identity
	Domains  Domains // what Register accepts; the same for node.Config.MayStore

	MaxAORs int // registrations of this kit; above, Register fails with ErrFull; 256

	// OnTrunk is told of every new trunk, of either direction, before anybody else gets it: the place to set
	// its handlers. It must not block. nil: incoming trunks are refused.
	OnTrunk func(t *Trunk, incoming bool)
	// Ahead opens trunks to the other kits before a call needs them, while the ring has at most so many members;
	// 0: on demand only. Of two kits the one with the larger Node-ID opens.
	Ahead int

	Log *slog.Logger // nil discards
	Now func() time.Time
}

// Usage is the SIP Usage of one kit. Make it with New, run it with Run.
type Usage struct {
	cfg    Config
	log    *slog.Logger
	events chan func(*loop)
	done   chan struct{}
	once   sync.Once
}

// New checks the configuration.
func New(cfg Config) (*Usage, error) {
	if cfg.Node == nil || cfg.Identity == nil {
		return nil, errors.New("sipusage: node and identity are needed")
	}
	if cfg.MaxAORs <= 0 {
		cfg.MaxAORs = 256
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Usage{cfg: cfg, log: cfg.Log, events: make(chan func(*loop), queueLen), done: make(chan struct{})}, nil
}

// loop is what Run's goroutine owns.
type loop struct {
	u      *Usage
	ctx    context.Context
	now    time.Time
	aors   map[string]*registration
	stores int
	ring   uint64 // node.Settled when last looked at
	trunks map[wire.NodeID]*peerTrunk
	// The ring is being looked at for trunks to open ahead of need, and is to be looked at again.
	looking, again bool
	wg             sync.WaitGroup
	counts         Stats
}

// Stats counts since Run began; the first two are as of now.
type Stats struct {
	Registrations, Trunks  int
	Stored, StoreFailed    uint64
	Restored               uint64 // stored again because the ring changed
	TrunksOpened, Accepted uint64
	TrunksFailed, Lost     uint64
}

// registration is one address-of-record of this kit.
type registration struct {
	aor     string
	prefs   string
	until   time.Time // wanted until then; past: to be removed from the overlay
	stored  time.Time // what is stored there expires then; zero: nothing
	at      time.Time // next attempt to store
	busy    bool
	dirty   bool // changed while busy
	fails   int
	waiting []chan error
}

// Run keeps the registrations stored and the trunks open until ctx ends; then trunks are closed. The
// registrations stay in the overlay for others to see until they expire or Unregister took them back.
// It can be called once.
func (u *Usage) Run(ctx context.Context) error {
	err := errors.New("sipusage: Run called twice")
	u.once.Do(func() { err = u.run(ctx) })
	return err
}

func (u *Usage) run(ctx context.Context) error {
	defer close(u.done)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := &loop{
		u: u, ctx: ctx, now: u.cfg.Now(), aors: map[string]*registration{}, trunks: map[wire.NodeID]*peerTrunk{},
		ring: u.cfg.Node.Settled(),
	}
	changes, unsubscribe := u.cfg.Node.Subscribe()
	defer unsubscribe()
	if u.cfg.OnTrunk != nil {
		for _, app := range []uint16{Application, ApplicationSIPS} {
			u.cfg.Node.HandleApp(app, u.accept)
			defer u.cfg.Node.HandleApp(app, nil)
		}
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(l.work())
		select {
		case <-ctx.Done():
			l.close()
			return nil
		case f := <-u.events:
			l.now = u.cfg.Now()
			f(l)
		case <-changes:
			l.now = u.cfg.Now()
			l.ringChanged()
		case <-timer.C:
			l.now = u.cfg.Now()
		}
	}
}

func (u *Usage) post(ctx context.Context, f func(*loop)) error {
	select {
	case u.events <- f:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("SIP usage: %w", ctx.Err())
	case <-u.done:
		return ErrClosed
	}
}

// background runs f elsewhere; what it returns is done on the loop.
func (l *loop) background(f func(ctx context.Context) func(*loop)) {
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		if done := f(l.ctx); done != nil {
			_ = l.u.post(l.ctx, done)
		}
	}()
}

func (l *loop) close() {
	for _, r := range l.aors {
		r.tell(ErrClosed)
	}
	for _, p := range l.trunks {
		p.tell(nil, ErrClosed)
		if p.trunk != nil {
			_ = p.trunk.Close()
		}
	}
	l.wg.Wait()
}

// Register says that this kit serves an address-of-record for ttl from now on, and returns when the overlay has
// stored it. prefs are the callee's contact preferences (RFC 7904 §3.2), usually empty. When storing fails the
// error is returned, and goes on being tried until ttl is over. Registering again prolongs; nothing is sent while
// what is stored lasts for most of that time.
func (u *Usage) Register(ctx context.Context, aor string, ttl time.Duration, prefs string) error {
	name, err := Canonical(aor)
	if err != nil {
		return err
	}
	if !u.cfg.Domains.Allow(name) {
		// "Before issuing a Store request to the overlay, any Peer SHOULD verify that the AOR of the request is a
		// valid Resource Name with respect to its domain name and the namespaces defined in the overlay
		// configuration document" (RFC 7904 §3.3)
		return fmt.Errorf("%w: domain of %q not of this overlay", ErrAOR, name)
	}
	if len(prefs) > 1024 {
		return errors.New("contact preferences of more than 1024 bytes")
	}
	return u.wait(ctx, func(l *loop, end chan error) {
		l.register(name, prefs, l.now.Add(min(max(ttl, minLifetime), maxLifetime)), end)
	})
}

// Unregister takes an address-of-record of this kit back, by storing a value that does not exist
// (RFC 6940 §7.4.1.3), and returns when that is stored. What was not registered is no error.
func (u *Usage) Unregister(ctx context.Context, aor string) error {
	name, err := Canonical(aor)
	if err != nil {
		return err
	}
	return u.wait(ctx, func(l *loop, end chan error) {
		r := l.aors[name]
		if r == nil {
			end <- nil
			return
		}
		r.until = l.now
		r.change(l.now, end)
	})
}

func (u *Usage) wait(ctx context.Context, f func(*loop, chan error)) error {
	end := make(chan error, 1)
	if err := u.post(ctx, func(l *loop) { f(l, end) }); err != nil {
		return err
	}
	select {
	case err := <-end:
		return err
	case <-ctx.Done():
		return fmt.Errorf("SIP usage: %w", ctx.Err())
	case <-u.done:
		return ErrClosed
	}
}

// Stats returns the counters.
func (u *Usage) Stats(ctx context.Context) (s Stats, err error) {
	err = u.wait(ctx, func(l *loop, end chan error) {
		s = l.counts
		s.Registrations = len(l.aors)
		for _, p := range l.trunks {
			if p.trunk != nil {
				s.Trunks++
			}
		}
		end <- nil
	})
	return s, err
}

// Stored lists the addresses-of-record of this kit that the overlay holds now, in canonical form.
func (u *Usage) Stored(ctx context.Context) (aors []string, err error) {
	err = u.wait(ctx, func(l *loop, end chan error) {
		for name, r := range l.aors {
			if r.stored.After(l.now) {
				aors = append(aors, name)
			}
		}
		end <- nil
	})
	return aors, err
}

func (l *loop) register(name, prefs string, until time.Time, end chan error) {
	r := l.aors[name]
	if r == nil {
		if len(l.aors) >= l.u.cfg.MaxAORs {
			end <- fmt.Errorf("%w: %d", ErrFull, len(l.aors))
			return
		}
		r = &registration{aor: name}
		l.aors[name] = r
	}
	lasts := r.stored.Sub(l.now) >= until.Sub(l.now)*2/3 && r.prefs == prefs && r.until.After(l.now)
	r.prefs, r.until = prefs, until
	if lasts && !r.busy {
		end <- nil
		return
	}
	r.change(l.now, end)
}

// change has r stored at once; end gets the outcome.
func (r *registration) change(now time.Time, end chan error) {
	if len(r.waiting) < 16 {
		r.waiting = append(r.waiting, end)
	} else {
		end <- fmt.Errorf("%w: requests for one address-of-record", ErrFull)
	}
	r.at, r.fails = now, 0
	r.dirty = r.busy
}

func (r *registration) tell(err error) {
	for _, c := range r.waiting {
		c <- err
	}
	r.waiting = nil
}

// work starts what is due and returns how long there is nothing to do.
func (l *loop) work() time.Duration {
	sleep := time.Minute
	for _, r := range l.aors {
		if r.busy {
			continue
		}
		if !r.until.After(l.now) && (r.stored.IsZero() || !r.stored.After(l.now)) && len(r.waiting) == 0 {
			delete(l.aors, r.aor) // expired, or removed
			continue
		}
		if !r.until.After(l.now) && r.at.After(r.until) && r.fails == 0 {
			r.at = r.until // not refreshed: to be taken back
		}
		if r.at.After(l.now) {
			sleep = min(sleep, r.at.Sub(l.now), max(r.until.Sub(l.now), 100*time.Millisecond))
			continue
		}
		if l.stores < maxStores {
			l.store(r)
		}
	}
	return max(min(sleep, l.workTrunks()), time.Millisecond)
}

// store brings the overlay up to what r says.
func (l *loop) store(r *registration) {
	r.busy, r.dirty = true, false
	l.stores++
	exists := r.until.After(l.now)
	lifetime := r.until.Sub(l.now)
	if !exists {
		// "The owner SHOULD use a lifetime for the nonexistent value that is at least as long as the remainder
		// of the lifetime of the value it is replacing." (RFC 6940 §7.4.1.3)
		lifetime = max(r.stored.Sub(l.now), 0) + time.Minute
	}
	lifetime = (lifetime + time.Second - 1).Truncate(time.Second)
	until := l.now.Add(lifetime)
	aor, prefs := r.aor, r.prefs
	l.background(func(ctx context.Context) func(*loop) {
		ctx, cancel := context.WithTimeout(ctx, storeTime)
		defer cancel()
		err := l.u.put(ctx, aor, prefs, lifetime, exists)
		return func(l *loop) { l.storedNow(r, exists, until, err) }
	})
}

// put stores one registration.
func (u *Usage) put(ctx context.Context, aor, prefs string, lifetime time.Duration, exists bool) error {
	signer, err := u.cfg.Identity.SignerFor(aor)
	if err != nil {
		return fmt.Errorf("registration of %s: %w", aor, err)
	}
	id := u.cfg.Identity.NodeID()
	v := node.Value{Key: id.Bytes(), Remove: !exists}
	if exists {
		v.Data, err = wire.SIPRegistration{
			Type: wire.SIPRegistrationRoute, ContactPrefs: []byte(prefs), Destinations: []wire.Destination{wire.ToNode(id)},
		}.AppendBinary(nil)
		if err != nil {
			return fmt.Errorf("registration of %s: %w", aor, err)
		}
	}
	n := u.cfg.Node
	if _, err = n.Store(ctx, n.ResourceID(aor), wire.KindSIPRegistration, lifetime, signer, v); err != nil {
		return fmt.Errorf("registration of %s: %w", aor, err)
	}
	return nil
}

func (l *loop) storedNow(r *registration, exists bool, until time.Time, err error) {
	l.stores--
	r.busy = false
	if err != nil {
		l.counts.StoreFailed++
		r.fails++
		wait := min(retryMin<<min(r.fails-1, 5), retryMax)
		r.at = l.now.Add(wait/2 + rand.N(wait))
		l.u.log.Info("registration not stored", "aor", r.aor, "err", err, "tries", r.fails)
		if !r.dirty {
			r.tell(err)
		}
		return
	}
	l.counts.Stored++
	r.fails = 0
	if r.dirty {
		r.at = l.now
		if exists {
			r.stored = until
		}
		return
	}
	r.tell(nil)
	if !exists {
		r.stored, r.at = time.Time{}, r.until
		return
	}
	r.stored = until
	// Refreshed when a third is left, if it is wanted longer by then; at its end at the latest.
	left := until.Sub(l.now)
	r.at = l.now.Add(left*2/3 + rand.N(left/10+1))
	if !r.until.After(until) {
		r.at = r.until
	}
}

// ringChanged spreads the storing of all registrations after the neighbours changed: the peers that are
// responsible now need not have got them, since a hand-over by a peer they do not know is refused.
func (l *loop) ringChanged() {
	l.trunksChanged()
	now := l.u.cfg.Node.Settled()
	if now == l.ring {
		return
	}
	l.ring = now
	spread := spreadMin + time.Duration(len(l.aors))*spreadEach
	for _, r := range l.aors {
		if at := l.now.Add(rand.N(spread)); r.until.After(l.now) && r.at.After(at) {
			r.at = at
			l.counts.Restored++
		}
	}
}
