package node

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/peer"
	"fieldkit/overlay/wire"
)

// event is something for the loop to do, at the time it comes to it.
type event func(now time.Time)

// Node is one RELOAD peer. Make it with New, run it with Run; every other method may be called from any
// goroutine and fails with ErrClosed when the node does not run.
type Node struct {
	cfg      Config
	now      func() time.Time
	log      *slog.Logger
	peer     *peer.Peer // of the loop
	events   chan event
	signing  chan func() func(time.Time) // first served
	jobs     chan func() func(time.Time)
	ready    chan struct{}
	done     chan struct{}
	counters counters
	watchers watchers
	apps     handlers
	began    sync.Once
	settled  atomic.Uint64
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
	if cfg.Client && !cfg.Document.ClientsPermitted {
		return nil, fmt.Errorf("node: %w", ErrNoClients)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Node{
		cfg: cfg, now: cfg.Now, log: cfg.Log.With("node", cfg.Identity.NodeID()),
		events: make(chan event, eventQueue),
		jobs:   make(chan func() func(time.Time), jobQueue), signing: make(chan func() func(time.Time), jobQueue),
		ready: make(chan struct{}),
		done:  make(chan struct{}),
	}, nil
}

// ID is the node's Node-ID.
func (n *Node) ID() wire.NodeID { return n.cfg.Identity.NodeID() }

// ResourceID is the Resource-ID of a Resource Name in this overlay (RFC 6940 §10.2).
func (n *Node) ResourceID(name string) wire.ResourceID {
	return wire.ResourceIDFor([]byte(name), n.cfg.Document.NodeIDLength)
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
	e := &env{n: n, ctx: life}
	if err := n.makePeer(e); err != nil {
		return err
	}
	var workers sync.WaitGroup
	for range cryptoWorkers {
		workers.Go(func() { n.crypto(life) })
	}
	workers.Go(func() { n.acceptLinks(life, e) })
	stop := context.AfterFunc(ctx, func() {
		n.post(life, func(now time.Time) { n.peer.Leave(now, cancel) })
	})
	defer stop()
	close(n.ready)
	n.loop(life)
	cancel()
	ended := make(chan struct{})
	go func() {
		workers.Wait()
		e.wg.Wait()
		close(ended)
	}()
	n.drain(e, ended)
	return nil
}

func (n *Node) makePeer(e *env) error {
	var saved uint64
	if s := n.cfg.StorageTimes; s != nil {
		var err error
		if saved, err = s.LoadStorageTime(); err != nil {
			// A lost file must not stop the kit: a refusal as too old teaches the time.
			n.log.Warn("storage times start anew", "err", err)
		}
	}
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], n.cfg.Seed)
	if n.cfg.Seed == 0 {
		_, _ = crand.Read(seed[:]) // never fails: crypto/rand ends the program instead
	}
	var err error
	n.peer, err = peer.New(peer.Config{
		ID: n.ID(), Others: n.cfg.Identity.NodeIDs()[1:], Document: n.cfg.Document, Env: e, Crypto: peer.Credentials{Identity: n.cfg.Identity, Trust: n.cfg.Trust},
		Rand: rand.NewChaCha8(seed), StorageTime: saved, MayStore: n.cfg.MayStore, Client: n.cfg.Client, Kinds: n.cfg.Trust, Diagnostics: n.cfg.Diagnostics, Clock: n.cfg.Clock, Chord: n.cfg.Chord, Log: n.log,
	}, n.now())
	return err
}

// loop owns the peer until ctx ends: it folds all deadlines into one timer and blocks on one channel.
func (n *Node) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d := time.Minute
		if at := n.peer.Deadline(); !at.IsZero() {
			d = max(min(d, at.Sub(n.now())), 0)
		}
		timer.Reset(d)
		select {
		case <-ctx.Done():
			return
		case f := <-n.events:
			f(n.now())
		case <-timer.C:
			n.peer.Advance(n.now())
		}
	}
}

// drain ends what is still open, and what goroutines that end now bring. Whoever waits for an answer is woken
// by Node.done after that.
func (n *Node) drain(e *env, ended <-chan struct{}) {
	e.closing = true
	n.peer.Close(n.now())
	for {
		select {
		case f := <-n.events:
			f(n.now())
		case <-ended:
			for {
				select {
				case f := <-n.events:
					f(n.now())
				default:
					return
				}
			}
		}
	}
}

// crypto is one worker.
func (n *Node) crypto(ctx context.Context) {
	for {
		var job func() func(time.Time)
		select {
		case job = <-n.signing:
		default:
			select {
			case <-ctx.Done():
				return
			case job = <-n.signing:
			case job = <-n.jobs:
			}
		}
		n.post(ctx, job())
	}
}

// acceptLinks takes in the bootstrap links that neighbours open.
func (n *Node) acceptLinks(ctx context.Context, e *env) {
	const pause = 100 * time.Millisecond
	for {
		conn, err := n.cfg.Transport.Accept(ctx)
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return
		}
		if err != nil {
			n.post(ctx, func(now time.Time) { n.peer.Refused(now, "unknown", err) })
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			continue
		}
		if !n.post(ctx, func(now time.Time) { n.peer.LinkUp(now, e.link(conn)) }) {
			_ = conn.Close()
			return
		}
	}
}

// post gives the loop something to do. It waits while the loop is behind: links are read no faster than
// their messages are taken.
func (n *Node) post(ctx context.Context, f event) bool {
	select {
	case n.events <- f:
		return true
	case <-ctx.Done():
	case <-n.done:
	}
	return false
}

// offer gives the loop something to do unless its queue is full.
func (n *Node) offer(f event) {
	select {
	case n.events <- f:
	default:
		n.counters.EventsDropped.Add(1)
	}
}

func (n *Node) ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("request to the overlay: %w", err)
	}
	return ErrClosed
}

// Discovered tells of a kit of the same overlay and configuration that was seen on a link, with its
// addresses of overlay links, best first. It replaces what was known of it, and never blocks: while the
// node does not run or has too much to do, it is dropped and counted, to be repeated with the next announcement.
func (n *Node) Discovered(id wire.NodeID, addrs []netip.AddrPort) {
	n.offer(func(now time.Time) { n.peer.Discovered(now, id, addrs) })
}

// Lost tells that a discovered kit is not to be seen any more. Links to it stay until they fall silent.
func (n *Node) Lost(id wire.NodeID) {
	n.offer(func(now time.Time) { n.peer.Lost(now, id) })
}

// Refused tells of a peer whose handshake the transport refused; those that are strangers show in Snapshot.
func (n *Node) Refused(from netip.AddrPort, reason error) {
	n.offer(func(now time.Time) { n.peer.Refused(now, from.Addr().String(), reason) })
}

// OfferConfiguration sends this node's configuration document to a node that was seen with another one of the same
// sequence (docs/adr/0019). It never blocks, and is to be repeated until they have the same.
func (n *Node) OfferConfiguration(id wire.NodeID) {
	n.offer(func(now time.Time) { n.peer.Offer(now, id) })
}

// Settled counts how often the neighbours had changed and settled, which is when others may have become
// responsible for what this kit stored: owners store it again then.
func (n *Node) Settled() uint64 { return n.settled.Load() }
