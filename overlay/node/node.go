package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

type ctxT = context.Context

// leaveTime is how long Run takes, after its context ended, to say goodbye.
const leaveTime = time.Second

// cryptoWorkers is how many goroutines sign and verify: what a board of four cores can spare.
const cryptoWorkers = 2

// Node is one RELOAD peer. Make it with New, run it with Run; every other method may be called from any
// goroutine and fails with ErrClosed when the node does not run.
type Node struct {
	cfg      Config
	params   params
	now      func() time.Time
	log      *slog.Logger
	clock    *storageClock
	events   chan func(*loop)
	signing  chan func() func(*loop) // first served: what others send must not keep this node from speaking
	jobs     chan func() func(*loop)
	ready    chan struct{}
	done     chan struct{}
	counters counters
	watchers watchers
	apps     handlers
	began    sync.Once
	settled  atomic.Uint64
}

// params is what the configuration document says to this package, in its terms.
type params struct {
	overlay     uint32
	sequence    uint16
	initialTTL  uint8
	maxMessage  uint32
	reliability time.Duration
	idLen       int
}

// New checks the configuration and makes a node that does not run yet. The error is one of
// configuration, never of the network.
func New(cfg Config) (*Node, error) {
	switch {
	case cfg.Identity == nil || cfg.Trust == nil || cfg.Document == nil || cfg.Transport == nil:
		return nil, errors.New("node: identity, trust, document and transport are needed")
	case cfg.Document.InstanceName != cfg.Identity.Overlay():
		return nil, fmt.Errorf("node: document of overlay %q, identity of %q", cfg.Document.InstanceName, cfg.Identity.Overlay())
	}
	if err := cfg.Document.Supported(); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	d := cfg.Document
	n := &Node{
		cfg: cfg, now: cfg.Now, log: cfg.Log,
		params: params{
			overlay: wire.OverlayHash(d.InstanceName), sequence: d.Sequence, initialTTL: d.InitialTTL,
			maxMessage: d.MaxMessageSize, reliability: d.ReliabilityTimer, idLen: d.NodeIDLength,
		},
		events: make(chan func(*loop), eventQueue),
		jobs:   make(chan func() func(*loop), jobQueue), signing: make(chan func() func(*loop), jobQueue),
		ready: make(chan struct{}),
		done:  make(chan struct{}),
	}
	var err error
	if n.clock, err = newStorageClock(cfg.StorageTimes, cfg.Now); err != nil {
		n.log.Warn("storage times start anew", "err", err)
	}
	return n, nil
}

// ID is the node's Node-ID.
func (n *Node) ID() wire.NodeID { return n.cfg.Identity.NodeID() }

// ResourceID is the Resource-ID of a Resource Name in this overlay (RFC 6940 §10.2).
func (n *Node) ResourceID(name string) wire.ResourceID {
	return wire.ResourceIDFor([]byte(name), n.params.idLen)
}

// Document is the configuration document the node runs by.
func (n *Node) Document() *ident.Document { return n.cfg.Document }

// Ready is closed when the node takes part: alone in a ring of one, or with others.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// String names the node for task groups and logs.
func (n *Node) String() string { return "overlay node " + n.ID().String() }

// Run is the node's life. It returns nil after ctx ended: then neighbours were told with a Leave
// (RFC 6940 §10.9), links are closed and no goroutine of the node is left. It can be called once.
func (n *Node) Run(ctx context.Context) error {
	err := errors.New("node: Run called twice")
	n.began.Do(func() { err = n.run(ctx) })
	return err
}

func (n *Node) run(ctx context.Context) error {
	defer close(n.done)
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	l := newLoop(life, n)
	var workers sync.WaitGroup
	for range cryptoWorkers {
		workers.Go(func() { n.crypto(life) })
	}
	workers.Go(func() { n.acceptLinks(life) })
	stop := context.AfterFunc(ctx, func() {
		n.post(life, func(l *loop) { l.leave(cancel) })
	})
	defer stop()
	close(n.ready)
	l.run(n.events)
	cancel()
	ended := make(chan struct{})
	go func() {
		workers.Wait()
		l.wg.Wait()
		close(ended)
	}()
	l.close(n.events, ended)
	return nil
}

// crypto is one worker.
func (n *Node) crypto(ctx context.Context) {
	for {
		var j func() func(*loop)
		select {
		case j = <-n.signing:
		default:
			select {
			case <-ctx.Done():
				return
			case j = <-n.signing:
			case j = <-n.jobs:
			}
		}
		n.post(ctx, j())
	}
}

// acceptLinks takes in the bootstrap links that neighbours open.
func (n *Node) acceptLinks(ctx context.Context) {
	pause := 100 * time.Millisecond
	for {
		conn, err := n.cfg.Transport.Accept(ctx)
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return
		}
		if err != nil {
			n.post(ctx, func(l *loop) { l.noteStranger(nil, err) })
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			continue
		}
		if !n.post(ctx, func(l *loop) { l.addLink(conn, false, false, false) }) {
			_ = conn.Close()
			return
		}
	}
}

// post gives the loop something to do. It waits while the loop is behind: links are read no faster than
// their messages are taken.
func (n *Node) post(ctx context.Context, f func(*loop)) bool {
	select {
	case n.events <- f:
		return true
	case <-ctx.Done():
	case <-n.done:
	}
	return false
}

// work gives the workers something to verify, or counts that they have too much to do already.
func (l *loop) work(j func() func(*loop)) bool { return l.give(l.n.jobs, j) }

// urgent gives them something to sign.
func (l *loop) urgent(j func() func(*loop)) bool { return l.give(l.n.signing, j) }

func (l *loop) give(queue chan<- func() func(*loop), j func() func(*loop)) bool {
	select {
	case queue <- j:
		return true
	default:
		l.n.counters.JobsDropped.Add(1)
		return false
	}
}

// ask runs f on the loop and waits until it has run.
func (n *Node) ask(ctx context.Context, f func(*loop)) error {
	ran := make(chan struct{})
	if !n.post(ctx, func(l *loop) { f(l); close(ran) }) {
		return n.ended(ctx)
	}
	select {
	case <-ran:
		return nil
	case <-ctx.Done():
	case <-n.done:
	}
	return n.ended(ctx)
}

func (n *Node) ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("request to the overlay: %w", err)
	}
	return ErrClosed
}

// call makes a request and waits for its end. The message is signed in the caller's goroutine.
func (n *Node) call(ctx context.Context, o outgoing) (reply, error) {
	m := n.newMessage(&o)
	if err := n.sign(m, o.signer, o.certs); err != nil {
		return reply{}, err
	}
	end := make(chan reply, 1)
	var t *transaction
	if !n.post(ctx, func(l *loop) { t = l.begin(m, o, func(r reply) { end <- r }) }) {
		return reply{}, n.ended(ctx)
	}
	select {
	case r := <-end:
		return r, r.err
	case <-ctx.Done():
		// Nobody waits any more: nothing is resent.
		n.post(context.WithoutCancel(ctx), func(l *loop) {
			if t != nil {
				l.finish(t, reply{err: context.Canceled})
			}
		})
	case <-n.done:
	}
	return reply{}, n.ended(ctx)
}

// Discovered tells of a kit of the same overlay and configuration that was seen on a link, with its
// addresses of overlay links, best first. It replaces what was known of it, and never blocks: while the
// node does not run or has too much to do, it is dropped and counted, to be repeated with the next announcement.
func (n *Node) Discovered(id wire.NodeID, addrs []netip.AddrPort) {
	n.offer(func(l *loop) { l.discovered(id, addrs) })
}

// Lost tells that a discovered kit is not to be seen any more. Links to it stay until they fall silent.
func (n *Node) Lost(id wire.NodeID) {
	n.offer(func(l *loop) { l.lost(id) })
}

// Refused tells of a peer whose handshake the transport refused; those that are strangers show in Snapshot.
func (n *Node) Refused(from netip.AddrPort, reason error) {
	n.offer(func(l *loop) {
		if isStranger(reason) {
			l.refusedStranger(from.Addr().String(), reason)
		}
	})
}

// Settled counts how often the neighbours had changed and settled, which is when others may have become
// responsible for what this kit stored: owners store it again then.
func (n *Node) Settled() uint64 { return n.settled.Load() }

// offer gives the loop something to do unless its queue is full.
func (n *Node) offer(f func(*loop)) {
	select {
	case n.events <- f:
	default:
		n.counters.EventsDropped.Add(1)
	}
}

// leave tells the neighbours, then ends the loop.
func (l *loop) leave(end func()) {
	l.stepChord(chord.Shutdown{})
	// The Leaves still have to be signed and sent; nobody waits for their answers.
	l.after(leaveTime/2, end)
}
