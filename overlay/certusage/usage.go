package certusage

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
	ErrNotFound = errors.New("no certificate")
	ErrFull     = errors.New("no room for the certificate")
	ErrClosed   = errors.New("certificate store usage not running")
)

// Times and limits.
const (
	maxStores  = 2                // certificates being stored at once
	storeTime  = 32 * time.Second // for one Fetch and one Store
	retryMin   = 2 * time.Second
	retryMax   = 5 * time.Minute
	spreadMin  = 5 * time.Second // certificates are stored again within this after the ring changed
	spreadEach = 100 * time.Millisecond
	queueLen   = 64
	minute     = time.Minute
)

// Config is what New needs; Node, Identity and Trust are required.
type Config struct {
	Node     *node.Node
	Identity *ident.Identity
	Trust    *ident.Trust

	Users    int           // handsets whose certificates are kept stored; above, Keep fails with ErrFull; 256
	Lifetime time.Duration // of what is stored, renewed when a third is left; a day

	Log *slog.Logger // nil discards
	Now func() time.Time
}

// Usage is the Certificate Store Usage of one kit. Make it with New, run it with Run.
type Usage struct {
	cfg    Config
	events chan func(*loop)
	done   chan struct{}
	once   sync.Once
}

// New checks the configuration.
func New(cfg Config) (*Usage, error) {
	if cfg.Node == nil || cfg.Identity == nil || cfg.Trust == nil {
		return nil, errors.New("certusage: node, identity and trust are needed")
	}
	if cfg.Users <= 0 {
		cfg.Users = 256
	}
	if cfg.Lifetime <= 0 {
		cfg.Lifetime = 24 * time.Hour
	}
	cfg.Lifetime = max(cfg.Lifetime.Truncate(time.Second), minute)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Usage{cfg: cfg, events: make(chan func(*loop), queueLen), done: make(chan struct{})}, nil
}

// Stats counts since Run began; the first is as of now.
type Stats struct {
	Stored      int    // certificates that the overlay holds
	Stores      uint64 // made
	StoreFailed uint64
	Restored    uint64 // stored again because the ring changed
	Removed     uint64
}

// entry is one certificate at one place.
type entry struct {
	place
	signer  *ident.Signer
	own     bool      // the kit's
	drop    bool      // to be removed
	until   time.Time // what is stored expires then; zero: nothing
	at      time.Time // next attempt
	busy    bool
	fails   int
	waiting []chan error
}

type loop struct {
	u       *Usage
	ctx     context.Context
	now     time.Time
	entries map[place]*entry
	stores  int
	users   int
	ring    uint64 // node.Settled when last looked at
	wg      sync.WaitGroup
	counts  Stats
}

// Run keeps the certificates stored until ctx ends. They stay in the overlay until they expire. It can be called once.
func (u *Usage) Run(ctx context.Context) error {
	err := errors.New("certusage: Run called twice")
	u.once.Do(func() { err = u.run(ctx) })
	return err
}

// String names the usage for task groups and logs.
func (u *Usage) String() string { return "certificate store" }

func (u *Usage) run(ctx context.Context) error {
	defer close(u.done)
	ctx, cancel := context.WithCancel(ctx)
	l := &loop{u: u, ctx: ctx, now: u.cfg.Now(), entries: map[place]*entry{}, ring: u.cfg.Node.Settled()}
	defer l.close()
	defer cancel()
	self := u.cfg.Identity.Signer()
	for _, id := range self.NodeIDs() {
		s, err := self.As(id)
		if err != nil {
			return fmt.Errorf("signer of Node-ID %v: %w", id, err)
		}
		l.add(u.byNode(id), s, true)
	}
	l.add(u.byUser(self.User()), self, true)
	changes, unsubscribe := u.cfg.Node.Subscribe()
	defer unsubscribe()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(l.work())
		select {
		case <-ctx.Done():
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

func (l *loop) close() {
	for _, e := range l.entries {
		e.tell(ErrClosed)
	}
	l.wg.Wait()
}

func (l *loop) add(p place, s *ident.Signer, own bool) *entry {
	e := &entry{place: p, signer: s, own: own, at: l.now}
	l.entries[p] = e
	return e
}

// Keep has the certificate of one handset of this kit stored from now on, and returns when it is. When storing fails the error
// is returned, and goes on being tried.
func (u *Usage) Keep(ctx context.Context, aor string) error {
	signer, err := u.cfg.Identity.SignerFor(aor)
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", aor, err)
	}
	return u.wait(ctx, func(l *loop, end chan error) {
		e := l.entries[u.byUser(aor)]
		switch {
		case e == nil && l.users >= u.cfg.Users:
			end <- fmt.Errorf("%w: %d handsets", ErrFull, l.users)
			return
		case e == nil:
			l.users++
			e = l.add(u.byUser(aor), signer, false)
		case !e.drop && e.until.After(l.now):
			end <- nil
			return
		}
		e.drop = false
		e.soon(l.now, end)
	})
}

// Drop removes the certificate of one handset from the overlay, and returns when that is done. What was not kept is no error.
func (u *Usage) Drop(ctx context.Context, aor string) error {
	return u.wait(ctx, func(l *loop, end chan error) {
		e := l.entries[u.byUser(aor)]
		if e == nil || e.own {
			end <- nil
			return
		}
		e.drop = true
		e.soon(l.now, end)
	})
}

// Stats returns the counters.
func (u *Usage) Stats(ctx context.Context) (s Stats, err error) {
	err = u.wait(ctx, func(l *loop, end chan error) {
		s = l.counts
		for _, e := range l.entries {
			if e.until.After(l.now) {
				s.Stored++
			}
		}
		end <- nil
	})
	return s, err
}

func (u *Usage) wait(ctx context.Context, f func(*loop, chan error)) error {
	end := make(chan error, 1)
	select {
	case u.events <- func(l *loop) { f(l, end) }:
	case <-ctx.Done():
		return fmt.Errorf("certificate store: %w", ctx.Err())
	case <-u.done:
		return ErrClosed
	}
	select {
	case err := <-end:
		return err
	case <-ctx.Done():
		return fmt.Errorf("certificate store: %w", ctx.Err())
	case <-u.done:
		return ErrClosed
	}
}

func (e *entry) soon(now time.Time, end chan error) {
	if len(e.waiting) >= 16 {
		end <- fmt.Errorf("%w: requests for one certificate", ErrFull)
		return
	}
	e.waiting = append(e.waiting, end)
	e.at, e.fails = now, 0
}

func (e *entry) tell(err error) {
	for _, c := range e.waiting {
		c <- err
	}
	e.waiting = nil
}

// work starts what is due and returns how long there is nothing to do.
func (l *loop) work() time.Duration {
	sleep := time.Hour
	for _, e := range l.entries {
		if e.busy {
			continue
		}
		if e.at.After(l.now) {
			sleep = min(sleep, e.at.Sub(l.now))
			continue
		}
		if l.stores < maxStores {
			l.store(e)
		}
	}
	return max(sleep, time.Millisecond)
}

// store brings the overlay up to what e says. What it posts when it is done makes the loop look for more.
func (l *loop) store(e *entry) {
	e.busy = true
	l.stores++
	drop, began := e.drop, l.now
	l.wg.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, storeTime)
		defer cancel()
		var err error
		if drop {
			err = l.u.remove(ctx, e.place, e.signer)
		} else {
			err = l.u.put(ctx, e.place, e.signer)
		}
		select {
		case l.u.events <- func(l *loop) { l.stored(e, drop, began, err) }:
		case <-l.ctx.Done():
		}
	})
}

func (l *loop) stored(e *entry, dropped bool, began time.Time, err error) {
	e.busy = false
	l.stores--
	if err != nil {
		l.counts.StoreFailed++
		e.fails++
		wait := min(retryMin<<min(e.fails-1, 10), retryMax)
		e.at = l.now.Add(wait/2 + rand.N(wait))
		l.u.cfg.Log.Info("certificate not stored", "name", e.name, "kind", uint32(e.kind), "tries", e.fails, "err", err)
		e.tell(err)
		return
	}
	e.fails = 0
	if dropped {
		l.counts.Removed++
	} else {
		l.counts.Stores++
		e.until = began.Add(l.u.cfg.Lifetime)
		// Renewed when a third is left; not all at once.
		e.at = began.Add(l.u.cfg.Lifetime*2/3 - rand.N(l.u.cfg.Lifetime/10))
	}
	if dropped != e.drop {
		e.at = l.now // changed meanwhile: who waits, waits on
		return
	}
	e.tell(nil)
	if dropped {
		delete(l.entries, e.place)
		l.users--
	}
}

// ringChanged has all certificates stored again, spread over a while, after others may have become responsible for them: a
// hand-over by a peer that the new one does not know is refused.
func (l *loop) ringChanged() {
	now := l.u.cfg.Node.Settled()
	if now == l.ring {
		return
	}
	l.ring = now
	spread := spreadMin + time.Duration(len(l.entries))*spreadEach
	for _, e := range l.entries {
		if at := l.now.Add(rand.N(spread)); e.at.After(at) {
			e.at = at
			l.counts.Restored++
		}
	}
}

// place is where a certificate is stored.
type place struct {
	kind wire.KindID
	name string // the Resource Name
}

func (u *Usage) byUser(name string) place { return place{wire.KindCertificateByUser, name} }

func (u *Usage) byNode(id wire.NodeID) place {
	return place{wire.KindCertificateByNode, string(id.Bytes())}
}
