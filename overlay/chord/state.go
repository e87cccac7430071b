package chord

import (
	"time"

	"fieldkit/overlay/wire"
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
	FingerSearches              uint64 // Pings for the Finger Table
	UpdatesSent, UpdatesIgnored uint64 // ignored: not from an attached peer
	Lessons                     uint64 // Updates sent because a received one lacked peers known here
	IDsIgnored                  uint64 // Node-IDs in Updates that were nonsense or too many
	ContactsRefused             uint64 // Node-IDs not remembered, at the limit
	LinksRefused                uint64 // links closed, at the limit
	LinksSpared                 uint64 // links closed because neither side needed them
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
	pred     []wire.NodeID // nearest first; replaced, never written to: Updates and outputs share it
	succ     []wire.NodeID
	members  []wire.NodeID // attached and ready, ascending, without self; likewise
	large    bool          // the ring has more than Config.FullMesh members

	updates  updates
	settleAt time.Time // zero: settled
	pace     pace
	search   searching // of peers for the Neighbor Table
	fingers  fingers
	tuning   tuning
	stats    Stats
	scratch  scratch
}

// join is the way through RFC 6940 §10.5.
type join struct {
	ap    wire.NodeID // Admitting Peer
	until time.Time
	sent  bool
	// answered: the JoinAns is here
	answered bool
}

// updates are those owed to more than one peer.
type updates struct {
	near    bool      // to those in the Neighbor Table, and whom this peer is a neighbour of
	all     bool      // to the whole Connection Table
	last    time.Time // when one of these last went out
	pending bool      // this Step sends some
}

// searching is what the Neighbor Table lacks.
type searching struct {
	stale     bool      // lists or members changed: look through them again
	at        time.Time // when the next candidate may be attached to; zero: none waits
	under     []*contact
	bequest   []wire.NodeID // what neighbours that are gone had listed, or said in their Leave
	bequestTo time.Time
	torn      time.Time // until then, it is followed: all neighbours of one side were lost
	lastProbe int       // which member was probed last
	guided    time.Time // no Ping for the own place before
	placed    time.Time // until then, this is taken to be the own place
}

// scratch is memory used again from Step to Step.
type scratch struct {
	ids      []wire.NodeID
	contacts []*contact
	leads    []lead
}

// pace is what is done ever more rarely.
type pace struct {
	check pacer // probes of the own ring
	dials pacer // bootstrap links to strangers: once the ring is large, and while this peer is alone
}

// pacer spaces something that is done ever less often while it finds nothing.
type pacer struct {
	at    time.Time
	every time.Duration
}

// New makes the state of peer self, a ring of one. It panics without cfg.Rand.
func New(cfg Config, self wire.NodeID, now time.Time) *State {
	if cfg.Rand == nil {
		panic("chord: Config.Rand is nil")
	}
	s := &State{cfg: cfg.withDefaults(), self: self, started: now, now: now}
	s.plusOne = next(self)
	s.pace.check = pacer{at: now.Add(s.jitter(s.cfg.PingInterval)), every: s.cfg.PingInterval}
	s.pace.dials = pacer{at: now, every: memberDelay}
	s.startTuning()
	return s
}

// Step takes one event and returns what to do about it. Time never goes back: a now before the
// last one counts as the last one. The lists in outputs are shared and must not be written to.
func (s *State) Step(now time.Time, in Input) []Output {
	if s.phase == Left {
		return nil
	}
	if now.After(s.now) {
		s.now = now
	}
	s.out = nil
	if in, ok := in.(Shutdown); ok {
		s.take(in)
		return s.out
	}
	s.take(in)
	s.timers()
	s.advanceJoin()
	s.schedule()
	s.flush()
	s.forget()
	return s.out
}

func (s *State) take(in Input) {
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
		s.linkDown(in.ID, in.Kind, !in.Closed)
	case BootstrapFailed:
		s.bootstrapFailed(in.ID)
	case AttachFailed:
		s.attachFailed(in.ID, in.InProgress)
	case ProbeAnswered:
		s.probeAnswered(in.Via, in.Owner)
	case ProbeFailed:
		s.probeFailed(in.Via)
	case SearchAnswered:
		s.searchAnswered(in.Resource, in.Owner)
	case SearchFailed:
		s.searchFailed(in.Resource)
	case ProbeInfoReceived:
		s.heard(in.From, in.Tuning)
	case ProbeInfoAnswered:
		s.probeInfoAnswered(in)
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
		s.leaveReceived(in.From, in.Leave.Nodes)
	case PeerFailed:
		s.drop(in.ID)
	case Shutdown:
		s.shutdown()
	}
}

func (s *State) emit(o Output) { s.out = append(s.out, o) }

// due reports that a time that is set has come.
func (s *State) due(t time.Time) bool { return !t.IsZero() && !t.After(s.now) }

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

// Deadline is when Step wants its next Tick. It is always after the last Step.
func (s *State) Deadline() time.Time {
	if s.phase == Left {
		return s.now.Add(24 * time.Hour)
	}
	d := s.now.Add(24 * time.Hour)
	sooner := func(t time.Time) {
		if t.After(s.now) && t.Before(d) {
			d = t
		}
	}
	sooner(s.pace.check.at)
	sooner(s.settleAt)
	sooner(s.search.at)
	sooner(s.join.until)
	sooner(s.tuning.at)
	if s.updates.near || s.updates.all {
		sooner(s.updates.last.Add(coalesce))
	}
	if s.phase == Alone {
		sooner(s.pace.dials.at)
	}
	if s.large {
		sooner(s.pace.dials.at)
		sooner(s.fingers.at)
		sooner(s.fingers.until)
	}
	for _, c := range s.contacts {
		sooner(c.dial.until)
		sooner(c.probe.until)
		sooner(c.attach.until)
		if c.discovered && !s.large {
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

// timers acts on what has come due.
func (s *State) timers() {
	s.scratch.contacts = append(s.scratch.contacts[:0], s.contacts...)
	for _, c := range s.scratch.contacts {
		if c.dial.busy() && s.due(c.dial.until) {
			s.bootstrapFailed(c.id)
		}
		if c.probe.busy() && s.due(c.probe.until) {
			s.probeFailed(c.id)
		}
		if c.attach.busy() && s.due(c.attach.until) {
			s.attachFailed(c.id, false)
		}
		if c.ring.up && s.due(c.ring.leaving) {
			s.drop(c.id)
		}
		if c.ring.up && s.due(c.ring.updateAt) {
			s.spare(c)
		}
		if c.boot.up && s.due(s.bootExpiry(c)) {
			s.closeBoot(c)
		}
	}
	clear(s.scratch.contacts)
	if s.due(s.settleAt) {
		s.settleAt = time.Time{}
		s.emit(Settled{})
	}
	if s.due(s.fingers.until) {
		s.searchFailed(s.fingers.point)
	}
	if s.due(s.tuning.at) {
		s.stabilise()
	}
	if s.due(s.pace.check.at) {
		s.probeRing()
	}
}

// neighbours is how many successors and predecessors are kept.
func (s *State) neighbours() (pred, succ int) {
	if s.cfg.SelfTuning {
		return s.tuning.neighbours, s.tuning.neighbours
	}
	return s.cfg.Neighbours, s.cfg.Neighbours
}

// Uptime is how long this State has existed, by the last Step.
func (s *State) Uptime() time.Duration { return s.now.Sub(s.started) }

// Whole reports that every member of the ring is a member here, as far as this peer can tell: the ring has not outgrown
// the full mesh.
func (s *State) Whole() bool { return !s.large }

func uptime(d time.Duration) uint32 { return uint32(min(max(d, 0)/time.Second, 1<<32-1)) }
