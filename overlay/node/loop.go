package node

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/storage"
	"fieldkit/overlay/wire"
)

// loop owns a peer's state. Only the goroutine in run touches it; others send it functions.
type loop struct {
	n   *Node
	ctx context.Context
	now time.Time // taken once per turn
	rng *rand.Rand
	log *slog.Logger

	alarms alarms
	self   []func() // work the loop gives itself, done before it blocks again

	chord *chord.State
	store *storage.Store
	conns connections
	txns  map[uint64]*transaction
	ans   answers
	frags *wire.Reassembler
	att   attaches
	apps  appAttaches
	disc  discovery
	topo  topology
	repl  replication
	wg    sync.WaitGroup

	updates updates
	closing bool
}

func newLoop(ctx context.Context, n *Node) *loop {
	now := n.now()
	d := n.cfg.Document
	l := &loop{
		n: n, ctx: ctx, now: now, log: n.log.With("node", n.ID()),
		rng:  rand.New(rand.NewPCG(n.cfg.Seed, n.cfg.Seed)),
		txns: make(map[uint64]*transaction),
		store: storage.New(storage.Config{
			Kinds: d.Kinds, IDLen: n.params.idLen, MaxPush: max(int(n.params.maxMessage)-1500, 1000),
		}),
		frags: wire.NewReassembler(wire.ReassemblyLimits{Message: int(n.params.maxMessage)}),
	}
	c := n.cfg.Chord
	c.Rand = rand.New(rand.NewPCG(n.cfg.Seed, ^n.cfg.Seed))
	if c.UpdateInterval == 0 {
		c.UpdateInterval = d.Chord.UpdateInterval
	}
	if c.PingInterval == 0 {
		c.PingInterval = d.Chord.PingInterval
	}
	l.chord = chord.New(c, n.ID(), now)
	l.topo.members = []wire.NodeID{n.ID()}
	l.updates.share = newBucket(updateRate, updateBurst, now)
	return l
}

// close ends what is still open, and what goroutines that end now bring. Whoever waits for an answer is woken
// by Node.done after that.
func (l *loop) close(events <-chan func(*loop), ended <-chan struct{}) {
	l.closing = true
	for _, list := range l.conns.byPeer {
		for _, k := range list {
			k.closed = true
			_ = k.conn.Close()
		}
	}
	for {
		select {
		case f := <-events:
			f(l)
		case <-ended:
			for {
				select {
				case f := <-events:
					f(l)
				default:
					return
				}
			}
		}
	}
}

// after rings once, d from now, unless the alarm it returns is stopped.
func (l *loop) after(d time.Duration, ring func()) *alarm { return l.move(nil, d, ring) }

// move makes a ring d from now instead of when it was to.
func (l *loop) move(a *alarm, d time.Duration, ring func()) *alarm {
	return l.alarms.set(a, l.now.Add(d), ring)
}

// soon does f in this turn, after what is being done now.
func (l *loop) soon(f func()) { l.self = append(l.self, f) }

// jitter is d ± a quarter.
func (l *loop) jitter(d time.Duration) time.Duration {
	return d - d/4 + time.Duration(l.rng.Int64N(int64(d)/2+1))
}

func (l *loop) run(events <-chan func(*loop)) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		l.settle()
		timer.Reset(l.sleep())
		select {
		case <-l.ctx.Done():
			return
		case f := <-events:
			l.now = l.n.now()
			f(l)
		case <-timer.C:
			l.now = l.n.now()
		}
	}
}

// settle does everything that is due, and all that follows from it.
func (l *loop) settle() {
	for {
		if len(l.self) > 0 {
			f := l.self[0]
			l.self = l.self[1:]
			f()
			continue
		}
		if a := l.alarms.due(l.now); a != nil {
			a.ring()
			continue
		}
		if d := l.chord.Deadline(); !d.IsZero() && !d.After(l.now) {
			l.stepChord(chord.Tick{})
			continue
		}
		l.self = nil
		return
	}
}

// sleep is how long there is nothing to do.
func (l *loop) sleep() time.Duration {
	d := time.Minute
	if at, ok := l.alarms.next(); ok {
		d = min(d, at.Sub(l.now))
	}
	if at := l.chord.Deadline(); !at.IsZero() {
		d = min(d, at.Sub(l.now))
	}
	return max(d, 0)
}

// background runs f in a goroutine that ends when Run ends; what f returns is done on the loop, even when that
// is closing: it may bring a connection to be closed. The callers bound how many there are.
func (l *loop) background(f func(ctx context.Context) func(*loop)) {
	if l.closing {
		return
	}
	l.wg.Go(func() {
		if done := f(l.ctx); done != nil {
			select {
			case l.n.events <- done:
			case <-l.n.done:
			}
		}
	})
}

// discard closes what is not needed. Closing may take a moment, so the loop does not wait for it.
func (l *loop) discard(c io.Closer) {
	if l.closing {
		_ = c.Close()
		return
	}
	l.background(func(context.Context) func(*loop) { _ = c.Close(); return nil })
}

func (l *loop) id() wire.NodeID { return l.n.cfg.Identity.NodeID() }
