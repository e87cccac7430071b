package peer

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/client"
	"fieldkit/overlay/config"
	"fieldkit/overlay/storage"
	"fieldkit/overlay/wire"
)

// Peer is one RELOAD peer. Make it with New. Only its owner may call its methods.
type Peer struct {
	cfg    Config
	params params
	now    time.Time // taken once per turn
	rng    *rand.Rand
	log    *slog.Logger

	schedule
	chord   topology
	topo    surroundings
	conns   connections
	txns    map[uint64]*transaction
	ans     answers
	frags   *wire.Reassembler
	vias    viaLists
	store   *storage.Store
	clock   storageClock
	repl    replication
	fetches fetches
	opening
	configuration
	measures
}

// schedule is what is to be done, and when.
type schedule struct {
	alarms  alarms
	self    []func() // work the peer gives itself, done before the turn ends
	turn    bool     // a method is being carried out
	closing bool
}

// opening are the connections that are being made.
type opening struct {
	att  attaches
	apps appAttaches
	disc discovery
}

// configuration is what is in force beside the document that the peer was made with.
type configuration struct {
	kinds   *kindSet
	updates updates
}

// measures count.
type measures struct {
	count   Counters
	traffic traffic
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

// New checks the configuration and makes a peer that is alone in a ring of one.
func New(cfg Config, now time.Time) (*Peer, error) {
	d := cfg.Document
	switch {
	case d == nil || cfg.Env == nil || cfg.Crypto == nil || cfg.Rand == nil:
		return nil, errors.New("peer: document, environment, crypto and random source are needed")
	case cfg.ID.Len() != d.NodeIDLength:
		return nil, fmt.Errorf("peer: Node-ID of %d bytes in an overlay of %d", cfg.ID.Len(), d.NodeIDLength)
	}
	if cfg.Client && !d.ClientsPermitted {
		return nil, ErrNoClients
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Peer{
		cfg: cfg, now: now, log: cfg.Log, rng: rand.New(cfg.Rand),
		params: params{
			overlay: wire.OverlayHash(d.InstanceName), sequence: d.Sequence, initialTTL: d.InitialTTL,
			maxMessage: d.MaxMessageSize, reliability: d.ReliabilityTimer, idLen: d.NodeIDLength,
		},
		txns: make(map[uint64]*transaction),
		store: storage.New(storage.Config{
			Kinds: d.Kinds, Self: cfg.ID, IDLen: d.NodeIDLength, MaxPush: max(int(d.MaxMessageSize)-1500, 1000),
		}),
		configuration: configuration{kinds: &kindSet{doc: d}},
		clock:         storageClock{last: cfg.StorageTime, reserved: cfg.StorageTime},
		frags:         wire.NewReassembler(wire.ReassemblyLimits{Message: int(d.MaxMessageSize)}),
	}
	c := cfg.Chord
	c.Rand = p.rng
	c.SelfTuning = c.SelfTuning || d.TopologyPlugin == config.ChordSelfTuning
	c.Periodic = c.Periodic || !d.Chord.Reactive
	if c.ProbePeers == 0 {
		c.ProbePeers = int(d.Rest.Probes)
	}
	if c.UpdateInterval == 0 {
		c.UpdateInterval = d.Chord.UpdateInterval
	}
	if c.PingInterval == 0 {
		c.PingInterval = d.Chord.PingInterval
	}
	if cfg.Client {
		p.chord = client.New(cfg.ID, p.rng, now)
	} else {
		p.chord = chord.New(c, cfg.ID, now)
	}
	p.topo.members, p.topo.due = []wire.NodeID{cfg.ID}, p.chord.Deadline()
	p.updates.share, p.updates.offers = NewBucket(updateRate, updateBurst, now), NewBucket(updateRate, updateBurst, now)
	return p, nil
}

// ID is the peer's Node-ID.
func (p *Peer) ID() wire.NodeID { return p.cfg.ID }

// isSelf reports whether a Node-ID is this peer's.
func (p *Peer) isSelf(id wire.NodeID) bool {
	return id == p.cfg.ID || len(p.cfg.Others) > 0 && slices.Contains(p.cfg.Others, id)
}

// enter begins a turn, unless this is a call from within one, and reports whether it did.
func (p *Peer) enter(now time.Time) bool {
	if p.turn {
		return false
	}
	p.turn = true
	p.now = now
	return true
}

// leave ends the turn that enter began, after everything that is due and all that follows from it.
func (p *Peer) leave(began bool) {
	if !began {
		return
	}
	for {
		if len(p.self) > 0 {
			f := p.self[0]
			p.self[0] = nil
			p.self = p.self[1:]
			f()
			continue
		}
		if p.closing {
			break
		}
		if a := p.alarms.due(p.now); a != nil {
			a.ring()
			continue
		}
		if d := p.topo.due; !d.IsZero() && !d.After(p.now) {
			p.stepChord(chord.Tick{})
			continue
		}
		break
	}
	p.self = nil
	p.turn = false
}

// Advance does what is due at now.
func (p *Peer) Advance(now time.Time) { p.leave(p.enter(now)) }

// Deadline is when Advance next has something to do. The zero time: nothing is to come but by itself.
func (p *Peer) Deadline() time.Time {
	if p.closing {
		return time.Time{}
	}
	at, ok := p.alarms.next()
	if c := p.topo.due; !c.IsZero() && (!ok || c.Before(at)) {
		return c
	}
	return at
}

// after rings once, d from now, unless the alarm it returns is stopped.
func (p *Peer) after(d time.Duration, ring func()) *alarm { return p.move(nil, d, ring) }

// move makes a ring d from now instead of when it was to.
func (p *Peer) move(a *alarm, d time.Duration, ring func()) *alarm {
	return p.alarms.set(a, p.now.Add(d), ring)
}

// soon does f in this turn, after what is being done now.
func (p *Peer) soon(f func()) { p.self = append(p.self, f) }

// jitter is d ± a quarter.
func (p *Peer) jitter(d time.Duration) time.Duration {
	return d - d/4 + time.Duration(p.rng.Int64N(int64(d)/2+1))
}

// work has a job done elsewhere. job must touch nothing of the Peer that can change; what it returns is done on the
// Peer.
func (p *Peer) work(q Queue, job func() func()) bool {
	ok := p.cfg.Env.Work(q, func() func(time.Time) {
		after := job()
		return func(now time.Time) {
			began := p.enter(now)
			after()
			p.leave(began)
		}
	})
	if !ok {
		p.count.JobsDropped++
	}
	return ok
}

// LinkUp takes in a bootstrap link that a neighbour opened (RFC 6940 §11.4).
func (p *Peer) LinkUp(now time.Time, l Link) {
	began := p.enter(now)
	p.addLink(l, l.Peer().NodeID, false, false, false)
	p.leave(began)
}

// LinkDown tells that a link has ended by itself.
func (p *Peer) LinkDown(now time.Time, l Link) {
	began := p.enter(now)
	if k := p.conns.find(l); k != nil {
		p.dropLink(k, "link layer")
	}
	p.leave(began)
}

// Receive takes what arrived on a link: a message or a fragment of one.
func (p *Peer) Receive(now time.Time, l Link, b []byte) {
	began := p.enter(now)
	if k := p.conns.find(l); k != nil {
		p.count.Received++
		p.receive(k, b)
	}
	p.leave(began)
}

// Discovered tells of a kit of the same overlay and configuration that was seen, with its addresses of overlay
// links, best first. It replaces what was known of it.
func (p *Peer) Discovered(now time.Time, id wire.NodeID, addrs []netip.AddrPort) {
	began := p.enter(now)
	p.discovered(id, addrs)
	p.leave(began)
}

// Lost tells that a discovered kit is not to be seen any more. Links to it stay until they fall silent.
func (p *Peer) Lost(now time.Time, id wire.NodeID) {
	began := p.enter(now)
	p.lost(id)
	p.leave(began)
}

// Refused tells of a peer at an address, or unknown, whose handshake was refused; those that are strangers show in
// Snapshot.
func (p *Peer) Refused(now time.Time, from string, reason error) {
	began := p.enter(now)
	if isStranger(reason) {
		p.refusedStranger(from, reason)
	}
	p.leave(began)
}

// Leave tells the neighbours goodbye (RFC 6940 §10.9). done is called when there was time for that: Close then.
func (p *Peer) Leave(now time.Time, done func()) {
	began := p.enter(now)
	p.stepChord(chord.Shutdown{})
	// The Leaves still have to be signed and sent; nobody waits for their answers.
	p.after(leaveTime, done)
	p.leave(began)
}

// leaveTime is what Leaves get to be signed and sent.
const leaveTime = 500 * time.Millisecond

// Close closes all links. What is still under way may end after that; whoever waits for an answer gets none.
func (p *Peer) Close(now time.Time) {
	began := p.enter(now)
	p.closing = true
	for _, k := range p.conns.all() {
		k.closed = true
		_ = k.conn.Close()
	}
	p.leave(began)
}

// Settled counts how often the neighbours had changed and settled, which is when others may have become
// responsible for what this peer stored: owners store it again then.
func (p *Peer) Settled() uint64 { return p.topo.generation }

// all are all links, by Node-ID.
func (c *connections) all() (list []*link) {
	for _, l := range c.byPeer {
		list = append(list, l...)
	}
	slices.SortStableFunc(list, func(a, b *link) int {
		if d := a.peer.Compare(b.peer); d != 0 {
			return d
		}
		return a.since.Compare(b.since)
	})
	return list
}

// find is the entry of a link in the Connection Table.
func (c *connections) find(l Link) *link {
	of := l.Peer()
	if k := c.of(of.NodeID, l); k != nil || len(of.NodeIDs) < 2 {
		return k
	}
	for _, id := range of.NodeIDs {
		if k := c.of(id, l); k != nil {
			return k
		}
	}
	return nil
}

func (c *connections) of(id wire.NodeID, l Link) *link {
	for _, k := range c.byPeer[id] {
		if k.conn == l {
			return k
		}
	}
	return nil
}
