package node

import (
	"context"
	"io"
	"net/netip"
	"sync"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/peer"
	"fieldkit/overlay/wire"
)

// env is the world of the node's peer: workers, the Transport, and goroutines that each end in one event. Its methods
// are called by the loop.
type env struct {
	n       *Node
	ctx     context.Context // ends with the node
	wg      sync.WaitGroup
	closing bool
}

// background runs f in a goroutine that ends when Run ends; what f returns is done by the loop, even when that
// is closing: it may bring a connection to be closed. The peer bounds how many there are.
func (e *env) background(f func(ctx context.Context) event) (cancel func()) {
	if e.closing {
		return func() {}
	}
	ctx, cancel := context.WithCancel(e.ctx)
	e.wg.Go(func() {
		defer cancel()
		if done := f(ctx); done != nil {
			select {
			case e.n.events <- done:
			case <-e.n.done:
			}
		}
	})
	return cancel
}

// Work is peer.Env's.
func (e *env) Work(q peer.Queue, job func() func(time.Time)) bool {
	queue := e.n.jobs
	if q == peer.Signing {
		queue = e.n.signing
	}
	select {
	case queue <- job:
		return true
	default:
		return false
	}
}

// Bootstrap is peer.Env's.
func (e *env) Bootstrap(addr netip.AddrPort, done func(time.Time, peer.Link, error)) func() {
	return e.background(func(ctx context.Context) event {
		conn, err := e.n.cfg.Transport.Bootstrap(ctx, addr)
		return func(now time.Time) { done(now, e.linked(conn, err), err) }
	})
}

// Prepare is peer.Env's.
func (e *env) Prepare(done func(time.Time, peer.Attempt, error)) func() {
	return e.background(func(ctx context.Context) event {
		a, err := e.n.cfg.Transport.Prepare(ctx)
		return func(now time.Time) { done(now, a, err) }
	})
}

// Connect is peer.Env's.
func (e *env) Connect(a peer.Attempt, remote wire.IceParameters, id wire.NodeID, offerer bool, done func(time.Time, peer.Link, error)) func() {
	return e.background(func(ctx context.Context) event {
		conn, err := a.(Attempt).Connect(ctx, remote, id, offerer)
		return func(now time.Time) { done(now, e.linked(conn, err), err) }
	})
}

// ConnectApp is peer.Env's.
func (e *env) ConnectApp(a peer.Attempt, remote wire.IceParameters, id wire.NodeID, offerer bool, done func(time.Time, peer.AppConn, error)) func() {
	return e.background(func(ctx context.Context) event {
		conn, err := a.(Attempt).ConnectApp(ctx, remote, id, offerer)
		return func(now time.Time) { done(now, conn, err) }
	})
}

// Discard is peer.Env's. Closing may take a moment, so the loop does not wait for it, unless it has nothing else to do.
func (e *env) Discard(c io.Closer) {
	if e.closing {
		_ = c.Close()
		return
	}
	e.background(func(context.Context) event { _ = c.Close(); return nil })
}

// HandlesApp is peer.Env's.
func (e *env) HandlesApp(app uint16) bool { return e.n.apps.get(app) != nil }

// AcceptApp is peer.Env's.
func (e *env) AcceptApp(app uint16, c peer.AppConn) {
	handler := e.n.apps.get(app)
	if handler == nil || e.closing {
		e.Discard(c)
		return
	}
	e.background(func(context.Context) event { handler(c.(AppConn)); return nil })
}

// SaveStorageTime is peer.Env's.
func (e *env) SaveStorageTime(ms uint64, done func(time.Time, error)) {
	e.background(func(context.Context) event {
		var err error
		if s := e.n.cfg.StorageTimes; s != nil {
			err = s.SaveStorageTime(ms)
		}
		return func(now time.Time) { done(now, err) }
	})
}

// NewDocument is peer.Env's.
func (e *env) NewDocument(doc *ident.Document) {
	if f := e.n.cfg.NewDocument; f != nil {
		e.background(func(context.Context) event { f(doc); return nil })
	}
}

// Changed is peer.Env's.
func (e *env) Changed() {
	e.n.settled.Store(e.n.peer.Settled())
	e.n.watchers.tell()
}

// link is a Conn as the peer wants it.
type link struct {
	Conn
	e *env
	// Of the loop: when the Conn last heard something by its own clock, which may jump, when that was by the loop's,
	// and when it was last asked.
	pulse, heard, asked time.Time
}

func (e *env) link(c Conn) *link { return &link{Conn: c, e: e} }

func (e *env) linked(c Conn, err error) peer.Link {
	if err != nil {
		return nil
	}
	return e.link(c)
}

// Start starts the reader: it takes messages off the link no faster than its bucket allows and
// no faster than the loop takes them, so that a flood costs only the flooder.
func (k *link) Start() {
	n := k.e.n
	k.e.background(func(ctx context.Context) event {
		limit := peer.NewBucket(peer.LinkRate, peer.LinkBurst, n.now())
		for {
			b, err := k.Receive(ctx)
			if err != nil {
				return func(now time.Time) { n.peer.LinkDown(now, k) }
			}
			if !limit.Take(n.now()) {
				n.counters.RateLimited.Add(1)
				continue
			}
			if !n.post(ctx, func(now time.Time) { n.peer.Receive(now, k, b) }) {
				return nil
			}
		}
	})
}

// Close is peer.Link's.
func (k *link) Close() error {
	k.e.Discard(k.Conn)
	return nil
}

// Heard is peer.Link's. What is new since it was last asked cannot be older than that.
func (k *link) Heard() time.Time {
	c, ok := k.Conn.(Checker)
	if !ok {
		return time.Time{}
	}
	now := k.e.n.now()
	if at := c.Heard(); !at.Equal(k.pulse) {
		age := max(time.Since(at), 0)
		if !k.asked.IsZero() {
			age = min(age, max(now.Sub(k.asked), 0))
		}
		k.pulse, k.heard = at, now.Add(-age)
	}
	k.asked = now
	return k.heard
}

// Check is peer.Link's.
func (k *link) Check() bool {
	c, ok := k.Conn.(Checker)
	return ok && c.Check()
}
