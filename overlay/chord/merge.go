package chord

import (
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// This file finds other rings and ties them to this one: RFC 6940 §10.7.4.4 made exact.
// Discovery gives peers, a bootstrap link is opened to those that are not connected, a Ping to
// Resource-ID self+1 through them finds who they think comes after self, and if that is not
// self's successor there are two rings.

func (s *State) discovered(id wire.NodeID) {
	if c := s.contacts.get(id); c == nil && !s.makeSeat() {
		s.stats.ContactsRefused++
		return
	}
	c := s.contact(id)
	if c == nil || c.discovered {
		return
	}
	c.discovered = true
	c.left = time.Time{}
	if s.large {
		// One that is new to this peer may come from another ring. Of a thousand who see it, one
		// makes sure.
		if s.cfg.Rand.Float64()*s.estimate() < 1 {
			s.dialSoon()
		}
		return
	}
	// Both ends see each other at about the same time and one link is enough. Whoever is alone
	// begins, so that it can join; of two such, the smaller Node-ID.
	var wait time.Duration
	switch {
	case s.phase == Member:
		wait = s.spread(memberDelay)
	case s.self.Compare(id) > 0:
		wait = s.spread(yieldDelay)
	}
	if at := s.now.Add(wait); at.After(c.dial.at) && c.dial.fails == 0 {
		c.dial.at = at
	}
}

// makeSeat keeps the number of Node-IDs that are known from discovery alone within maxSeen: the new
// one takes the place of one that is in this ring anyway, or by chance of any other.
func (s *State) makeSeat() bool {
	seen := s.scratch.contacts[:0]
	ours := 0
	for _, c := range s.contacts {
		if c.discovered && c.quiet() {
			seen = append(seen, c)
			if c.sameRing.After(s.now) {
				seen[ours], seen[len(seen)-1] = seen[len(seen)-1], seen[ours]
				ours++
			}
		}
	}
	s.scratch.contacts = seen
	if len(seen) < maxSeen {
		return true
	}
	if ours > 0 {
		seen = seen[:ours]
	} else if s.cfg.Rand.IntN(2) == 0 {
		return false
	}
	seen[s.cfg.Rand.IntN(len(seen))].discovered = false
	s.forget()
	return true
}

func (s *State) dialSoon() {
	s.pace.dials.every = memberDelay
	if at := s.now.Add(s.spread(memberDelay)); at.Before(s.pace.dials.at) {
		s.pace.dials.at = at
	}
}

func (s *State) bootstrapUp(c *contact, ours bool) {
	c.dial = attempt{}
	if !c.boot.up && s.countBoot() >= s.cfg.MaxBoot {
		s.stats.LinksRefused++
		s.emit(CloseLink{ID: c.id, Kind: LinkBootstrap})
		c.dial.at = s.now.Add(s.spread(s.cfg.DiscoveryInterval))
		return
	}
	c.boot = bootLink{up: true, ours: ours, since: s.now}
	if c.probe.busy() {
		return
	}
	c.probe.at = s.now
	if !ours {
		// The other side probes first; this one makes sure.
		c.probe.at = s.now.Add(s.spread(memberDelay))
		if s.large {
			c.probe.at = s.now.Add(bootIdlePeer)
		}
	}
}

func (s *State) countBoot() (n int) {
	for _, c := range s.contacts {
		if c.boot.up {
			n++
		}
	}
	return n
}

func (s *State) bootDown(c *contact) {
	c.boot = bootLink{}
	wait := s.cfg.DiscoveryInterval
	if s.phase == Alone {
		wait = yieldDelay // nobody else to talk to
	}
	if at := s.now.Add(s.spread(wait)); at.After(c.dial.at) {
		c.dial.at = at
	}
}

func (s *State) closeBoot(c *contact) {
	s.emit(CloseLink{ID: c.id, Kind: LinkBootstrap})
	s.bootDown(c)
}

// bootExpiry is when a bootstrap link has done its work. The side that opened it closes it; the
// other one only if that never happens.
func (s *State) bootExpiry(c *contact) time.Time {
	idle, linger := bootIdle, bootLinger
	switch {
	case !c.boot.ours:
		idle, linger = bootIdlePeer, bootIdle
	case s.large && c.sameRing.After(s.now):
		idle = bootLinger // it was only to be seen whether there is another ring
	}
	if c.ring.up {
		if c.ring.since.After(c.boot.since) {
			return c.ring.since.Add(linger)
		}
		return c.boot.since.Add(linger)
	}
	at := c.boot.since.Add(idle)
	for _, p := range s.search.under {
		if p.attachVia == c.id && p.attach.until.After(at) {
			at = p.attach.until
		}
	}
	if c.probe.busy() && c.probe.until.After(at) {
		at = c.probe.until
	}
	return at
}

func (s *State) bootstrapFailed(id wire.NodeID) {
	c := s.contacts.get(id)
	if c == nil || !c.dial.busy() {
		return
	}
	c.dial.until = time.Time{}
	c.dial.fails++
	c.dial.at = s.now.Add(s.backoff(c.dial.fails))
}

func (s *State) startProbe(c *contact) {
	c.probe.start(s.now, probeTimeout)
	s.emit(Probe{Via: c.id, Resource: s.plusOne})
}

// probeRing asks one member after the other who it thinks comes next to self: a ring that is
// connected but wrong is found this way. In a large ring the Ping takes many hops and is rarer.
func (s *State) probeRing() {
	limit := s.cfg.PingInterval
	if s.large {
		limit *= 4
	}
	s.pace.check.every = min(2*s.pace.check.every, limit)
	s.pace.check.at = s.now.Add(s.jitter(s.pace.check.every))
	if len(s.members) == 0 {
		return
	}
	s.search.lastProbe = (s.search.lastProbe + 1) % len(s.members)
	if c := s.contacts.get(s.members[s.search.lastProbe]); c != nil && !c.probe.busy() {
		s.startProbe(c)
	}
}

func (s *State) probeFailed(via wire.NodeID) {
	c := s.contacts.get(via)
	if c == nil || !c.probe.busy() {
		return
	}
	c.probe.until = time.Time{}
	c.probe.fails++
	c.probe.at = s.now.Add(s.backoff(c.probe.fails))
	if s.large {
		c.probe.at = s.now.Add(s.spread(s.cfg.DiscoveryInterval)) // there are others to ask
	}
}

func (s *State) probeAnswered(via, owner wire.NodeID) {
	c := s.contacts.get(via)
	if c == nil || !c.probe.busy() {
		return
	}
	c.probe = attempt{at: s.now.Add(s.spread(s.cfg.DiscoveryInterval))}
	if owner == s.self || len(s.succ) > 0 && owner == s.succ[0] {
		// The same ring.
		s.search.placed = s.now.Add(placedFor)
		s.search.stale = true
		if !c.ring.ready {
			c.sameRing = s.now.Add(sameRingFor)
			if s.large {
				c.probe.at = c.sameRing
			}
		}
		return
	}
	c.sameRing = time.Time{}
	if c.discovered && !c.ring.ready {
		s.dialSoon() // where there is one of another ring, there are more
	}
	o := s.contact(owner)
	switch {
	case o == nil || o.left.After(s.now):
	case o.ring.up:
		// Connected but not what it ought to be: its Update was lost, or it does not know the
		// successor. It learns from this peer's.
		s.sendUpdate(o, wire.UpdateNeighbors)
		if s.phase != Member && o.ring.ready {
			s.becomeMember()
		}
	case o.attach.busy() || o.attach.fails > 0 && o.attach.at.After(s.now):
	case len(s.search.under) >= maxAttaches:
		c.probe.at = s.now.Add(s.jitter(time.Second))
	default:
		s.startAttach(o, via, forMerge)
	}
}

// schedule starts what may be started: bootstrap links, probes, Attaches.
func (s *State) schedule() {
	if s.search.stale || s.due(s.search.at) || s.due(s.search.bequestTo) {
		s.search.stale = false
		s.sizeUp()
		s.scheduleAttaches()
	}
	if s.phase != Joining {
		for _, c := range s.contacts {
			if c.linked() && !c.ring.ready && !c.probe.busy() && !c.probe.at.After(s.now) && c.ring.leaving.IsZero() {
				s.startProbe(c)
			}
		}
	}
	s.scheduleFingers()
	s.scheduleDials()
}

// scheduleDials opens bootstrap links to discovered peers that are not connected: to all of them, as
// long as everyone is connected to everyone; to one at a time, ever more rarely, in a large ring, whose
// members together still do it often.
func (s *State) scheduleDials() {
	if s.phase == Joining || (s.large || s.phase == Alone) && s.pace.dials.at.After(s.now) {
		return
	}
	busy := 0
	waiting := s.scratch.contacts[:0]
	for _, c := range s.contacts {
		if c.dial.busy() {
			busy++
		}
		if s.phase == Alone && (c.boot.up && c.probe.busy() || c.attach.busy()) {
			return // it is about to join: let that come to its end
		}
		if !c.discovered || c.linked() || c.dial.busy() || c.attach.busy() {
			continue
		}
		if c.sameRing.After(c.dial.at) {
			c.dial.at = c.sameRing
		}
		// Whom the ring knows is attached to through the ring, unless that does not work.
		if c.taught && c.attach.fails < 2 {
			c.dial.at = s.now.Add(s.spread(s.cfg.DiscoveryInterval))
		}
		if !c.dial.at.After(s.now) {
			waiting = append(waiting, c)
		}
	}
	s.scratch.contacts = waiting
	room := maxDials - busy
	if s.large {
		s.pace.dials.at = s.now.Add(s.spread(s.pace.dials.every))
		s.pace.dials.every = min(2*s.pace.dials.every, restMax*s.cfg.DiscoveryInterval)
		s.cfg.Rand.Shuffle(len(waiting), func(i, j int) { waiting[i], waiting[j] = waiting[j], waiting[i] })
		room = min(room, 1)
	}
	slices.SortStableFunc(waiting, func(a, b *contact) int {
		if d := a.dial.fails - b.dial.fails; d != 0 || s.large {
			return d
		}
		return s.byDistance(a.id, b.id)
	})
	for _, c := range waiting[:max(min(room, len(waiting)), 0)] {
		if s.phase == Alone {
			// The next, should this one lead to nothing.
			if s.pace.dials.at.After(s.now) {
				return
			}
			s.pace.dials.at = s.now.Add(s.spread(yieldDelay))
		}
		c.dial.start(s.now, dialTimeout)
		s.emit(Bootstrap{ID: c.id})
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
