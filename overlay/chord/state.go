package chord

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// Config holds what may differ between overlays and in tests. Zero fields get the field kit's
// values; only Rand has none.
type Config struct {
	Rand *rand.Rand // jitter; required

	FullMesh    int // up to so many members, self included, everyone attaches to everyone; 16
	Neighbours  int // successors and predecessors kept, each; at least and by default 3 (RFC 6940 §10.7)
	MaxPeers    int // attached links; above, the farthest that is no neighbour is closed; 64
	MaxBoot     int // bootstrap links; above, new ones are closed; 32
	MaxContacts int // Node-IDs remembered at all; above, new ones are ignored; 512

	UpdateInterval    time.Duration // between Updates to a connected peer, ± 1/4 (chord-update-interval); 30 s
	PingInterval      time.Duration // between probes of the own ring, ± 1/4 (chord-ping-interval); 60 s
	DiscoveryInterval time.Duration // discovery is repeated after this to twice this; 15 s
	HoldDown          time.Duration // from the loss of a neighbour to Settled; 5 s
	Settle            time.Duration // from any other change of neighbours to Settled; 1 s
}

func (c Config) withDefaults() Config {
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	dur := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&c.FullMesh, 16)
	def(&c.Neighbours, 3)
	c.Neighbours = max(c.Neighbours, 3)
	def(&c.MaxPeers, 64)
	c.MaxPeers = max(c.MaxPeers, 2*c.Neighbours+1, c.FullMesh)
	def(&c.MaxBoot, 32)
	def(&c.MaxContacts, 512)
	c.MaxContacts = max(c.MaxContacts, c.MaxPeers+c.MaxBoot)
	dur(&c.UpdateInterval, 30*time.Second)
	dur(&c.PingInterval, 60*time.Second)
	dur(&c.DiscoveryInterval, 15*time.Second)
	dur(&c.HoldDown, 5*time.Second)
	dur(&c.Settle, time.Second)
	return c
}

// Times and limits that nobody has a reason to set.
const (
	maxDials     = 3 // Bootstrap outputs under way
	maxAttaches  = 8 // Attach outputs under way
	maxPerTeach  = 4 // of them, taught by one peer: one liar cannot take all places
	maxListed    = 8 // Node-IDs believed of each list of an Update
	dialTimeout  = 30 * time.Second
	probeTimeout = 20 * time.Second // the maximum request lifetime is 15 s (RFC 6940 §6.2.1)
	// An Attach takes a request lifetime, then ICE, then DTLS.
	attachTimeout = 45 * time.Second
	joinTimeout   = 10 * time.Second
	admitTimeout  = time.Second            // from the JoinAns to the Admitting Peer's Update
	coalesce      = 100 * time.Millisecond // between reactive Updates to everyone
	yieldDelay    = 300 * time.Millisecond // the larger Node-ID lets the smaller one begin
	memberDelay   = 2 * time.Second        // members let newcomers begin, so that they can join
	lostDelay     = 5 * time.Second        // before a lost peer is tried again
	leftDelay     = 30 * time.Second       // during which a peer that left is not attached to
	leaveLinger   = 5 * time.Second        // for the LeaveAns, before its links are closed
	backoffMin    = time.Second
	backoffMax    = time.Minute
	sameRingFor   = 5 * time.Minute // before a peer known to be in this ring is dialled again
	bootLinger    = 10 * time.Second
	bootIdle      = time.Minute
	bootIdlePeer  = 5 * time.Minute // for links that the other side ought to close
)

// Phase is where a State is in its life.
type Phase uint8

// Phases.
const (
	Alone   Phase = iota // a ring of one
	Joining              // a ring of one, with an Admitting Peer
	Member               // in a ring with others
	Left                 // shut down
)

func (p Phase) String() string {
	return [...]string{"alone", "joining", "member", "left"}[p]
}

// Stats counts since New.
type Stats struct {
	Joins, Merges, Admitted     uint64 // ways in: joined, merged, and others let in
	AttachesStarted             uint64
	AttachesFailed              uint64
	NeighbourChanges            uint64
	UpdatesSent, UpdatesIgnored uint64 // ignored: not from an attached peer
	IDsIgnored                  uint64 // Node-IDs in Updates that were nonsense or too many
	ContactsRefused             uint64 // Node-IDs not remembered, at the limit
	LinksRefused                uint64 // links closed, at the limit
}

// State is the topology plug-in of one peer. Make it with New.
type State struct {
	cfg      Config
	self     wire.NodeID
	plusOne  wire.ResourceID
	started  time.Time
	now      time.Time
	out      []Output
	contacts contacts
	phase    Phase
	join     join
	pred     []wire.NodeID // nearest first
	succ     []wire.NodeID
	members  []wire.NodeID // attached and ready, ascending, without self

	dirty     bool      // the whole Connection Table is owed an Update
	lastAll   time.Time // when it last got one
	settleAt  time.Time // zero: settled
	checkAt   time.Time // next probe of the own ring
	attachAt  time.Time // when the next candidate may be attached to; zero: none waits
	lastProbe int       // which member was probed last
	stats     Stats
}

// join is the way through RFC 6940 §10.5.
type join struct {
	ap    wire.NodeID // Admitting Peer
	until time.Time
	sent  bool
	// answered: the JoinAns is here
	answered bool
}

// New makes the state of peer self, a ring of one. It panics without cfg.Rand.
func New(cfg Config, self wire.NodeID, now time.Time) *State {
	if cfg.Rand == nil {
		panic("chord: Config.Rand is nil")
	}
	s := &State{cfg: cfg.withDefaults(), self: self, started: now, now: now}
	s.plusOne = next(self)
	s.checkAt = now.Add(s.jitter(s.cfg.PingInterval))
	return s
}

// Step takes one event and returns what to do about it. Time never goes back: a now before the
// last one counts as the last one.
func (s *State) Step(now time.Time, in Input) []Output {
	if s.phase == Left {
		return nil
	}
	if now.After(s.now) {
		s.now = now
	}
	s.out = nil
	switch in := in.(type) {
	case Discovered:
		s.discovered(in.ID)
	case Forgotten:
		if c := s.contacts.get(in.ID); c != nil {
			c.discovered = false
		}
	case LinkUp:
		s.linkUp(in)
	case LinkDown:
		s.linkDown(in.ID, in.Kind)
	case BootstrapFailed:
		s.bootstrapFailed(in.ID)
	case AttachFailed:
		s.attachFailed(in.ID, in.InProgress)
	case ProbeAnswered:
		s.probeAnswered(in.Via, in.Owner)
	case ProbeFailed:
		s.probeFailed(in.Via)
	case UpdateReceived:
		s.updateReceived(in.From, in.Update)
	case UpdateRequested:
		if c := s.contacts.get(in.From); c != nil && c.ring.up {
			s.sendUpdate(c, wire.UpdateFull)
		}
	case JoinReceived:
		s.joinReceived(in.From)
	case JoinAnswered:
		s.joinAnswered(in.From)
	case JoinFailed:
		s.joinFailed(in.From)
	case LeaveReceived:
		s.leaveReceived(in.From)
	case PeerFailed:
		s.drop(in.ID)
	case Shutdown:
		s.shutdown()
		return s.take()
	}
	s.timers()
	s.advanceJoin()
	s.schedule()
	s.flush()
	s.contacts = slices.DeleteFunc(s.contacts, s.idle)
	return s.take()
}

// take returns the outputs. Of several Updates to one peer in one Step only the last says anything.
func (s *State) take() []Output {
	out := make([]Output, 0, len(s.out))
	for i, o := range s.out {
		if u, ok := o.(SendUpdate); ok {
			if slices.ContainsFunc(s.out[i+1:], func(o Output) bool {
				later, ok := o.(SendUpdate)
				return ok && later.To == u.To
			}) {
				continue
			}
			s.stats.UpdatesSent++
		}
		out = append(out, o)
	}
	s.out = nil
	return out
}

func (s *State) emit(o Output) { s.out = append(s.out, o) }

// jitter is d ± a quarter.
func (s *State) jitter(d time.Duration) time.Duration {
	return d - d/4 + time.Duration(s.cfg.Rand.Int64N(int64(d/2)+1))
}

// spread is d to 2 d.
func (s *State) spread(d time.Duration) time.Duration {
	return d + time.Duration(s.cfg.Rand.Int64N(int64(d)+1))
}

func (s *State) backoff(fails int) time.Duration {
	return s.jitter(min(backoffMin<<min(fails-1, 10), backoffMax))
}

// contact is all that is known of one other Node-ID.
type contact struct {
	id         wire.NodeID
	discovered bool
	boot       bootLink
	ring       ringLink
	dial       attempt // Bootstrap
	probe      attempt // Probe
	attach     attempt // Attach
	attachVia  wire.NodeID
	taught     bool      // some member lists it
	sameRing   time.Time // until then it is taken to be in this ring
	left       time.Time // until then it has left
}

// attempt is something that is tried again with back-off.
type attempt struct {
	at    time.Time // not before; zero: at once, if at all
	until time.Time // under way, given up then; zero: not under way
	fails int
}

func (a *attempt) busy() bool { return !a.until.IsZero() }

func (a *attempt) start(now time.Time, timeout time.Duration) { a.until = now.Add(timeout) }

type bootLink struct {
	up, ours bool
	since    time.Time
}

// ringLink is an entry of the Connection Table.
type ringLink struct {
	up       bool
	ready    bool // it may be routed through: it has sent an Update or a Join
	told     bool // it has been sent an Update
	since    time.Time
	updateAt time.Time
	leaving  time.Time // the link is closed then
	listed   []wire.NodeID
}

// contacts is a small sorted table, so that every walk through it has the same order.
type contacts []*contact

func (t contacts) find(id wire.NodeID) (int, bool) {
	return slices.BinarySearchFunc(t, id, func(c *contact, id wire.NodeID) int { return c.id.Compare(id) })
}

func (t contacts) get(id wire.NodeID) *contact {
	if i, ok := t.find(id); ok {
		return t[i]
	}
	return nil
}

// contact finds or makes the entry of id. It is nil for Node-IDs that cannot be another peer's
// and at the limit.
func (s *State) contact(id wire.NodeID) *contact {
	if !s.valid(id) {
		s.stats.IDsIgnored++
		return nil
	}
	i, ok := s.contacts.find(id)
	if ok {
		return s.contacts[i]
	}
	if len(s.contacts) >= s.cfg.MaxContacts {
		s.stats.ContactsRefused++
		return nil
	}
	c := &contact{id: id}
	s.contacts = slices.Insert(s.contacts, i, c)
	return c
}

func (s *State) valid(id wire.NodeID) bool {
	return id.Len() == s.self.Len() && id != s.self && !id.IsInvalid() && !id.IsWildcard()
}

// idle reports that forgetting c loses nothing.
func (s *State) idle(c *contact) bool {
	return !c.discovered && !c.taught && !c.boot.up && !c.ring.up &&
		!c.dial.busy() && !c.probe.busy() && !c.attach.busy() &&
		!c.attach.at.After(s.now) && !c.left.After(s.now)
}

// Deadline is when Step wants its next Tick. It is always after the last Step.
func (s *State) Deadline() time.Time {
	if s.phase == Left {
		return s.now.Add(24 * time.Hour)
	}
	d := s.checkAt
	sooner := func(t time.Time) {
		if t.After(s.now) && t.Before(d) {
			d = t
		}
	}
	sooner(s.settleAt)
	sooner(s.attachAt)
	sooner(s.join.until)
	if s.dirty {
		sooner(s.lastAll.Add(coalesce))
	}
	for _, c := range s.contacts {
		sooner(c.dial.until)
		sooner(c.probe.until)
		sooner(c.attach.until)
		if c.discovered {
			sooner(c.dial.at)
		}
		if c.linked() && !c.ring.ready {
			sooner(c.probe.at)
		}
		if c.boot.up {
			sooner(s.bootExpiry(c))
		}
		if c.ring.up {
			sooner(c.ring.updateAt)
			sooner(c.ring.leaving)
		}
	}
	return d
}

func (c *contact) linked() bool { return c.boot.up || c.ring.up }

// timers acts on what has come due.
func (s *State) timers() {
	due := func(t time.Time) bool { return !t.IsZero() && !t.After(s.now) }
	for _, c := range slices.Clone(s.contacts) {
		if c.dial.busy() && due(c.dial.until) {
			s.bootstrapFailed(c.id)
		}
		if c.probe.busy() && due(c.probe.until) {
			s.probeFailed(c.id)
		}
		if c.attach.busy() && due(c.attach.until) {
			s.attachFailed(c.id, false)
		}
		if c.ring.up && due(c.ring.leaving) {
			s.drop(c.id)
		}
		if c.boot.up && due(s.bootExpiry(c)) {
			s.closeBoot(c)
		}
	}
	if due(s.settleAt) {
		s.settleAt = time.Time{}
		s.emit(Settled{})
	}
	if due(s.checkAt) {
		s.checkAt = s.now.Add(s.jitter(s.cfg.PingInterval))
		s.probeRing()
	}
}

// byDistance orders Node-IDs clockwise from self.
func (s *State) byDistance(a, b wire.NodeID) int {
	if aw, bw := a.Compare(s.self) < 0, b.Compare(s.self) < 0; aw != bw {
		if aw {
			return 1
		}
		return -1
	}
	return a.Compare(b)
}

func compareFails(a, b *contact) int { return cmp.Compare(a.attach.fails, b.attach.fails) }
