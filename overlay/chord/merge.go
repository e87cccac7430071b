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
	c := s.contact(id)
	if c == nil || c.discovered {
		return
	}
	c.discovered = true
	c.left = time.Time{}
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
	if !c.boot.ours {
		idle, linger = bootIdlePeer, bootIdle
	}
	if c.ring.up {
		if c.ring.since.After(c.boot.since) {
			return c.ring.since.Add(linger)
		}
		return c.boot.since.Add(linger)
	}
	at := c.boot.since.Add(idle)
	for _, p := range s.contacts {
		if p.attach.busy() && p.attachVia == c.id && p.attach.until.After(at) {
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
// connected but wrong is found this way.
func (s *State) probeRing() {
	if len(s.members) == 0 {
		return
	}
	s.lastProbe = (s.lastProbe + 1) % len(s.members)
	if c := s.contacts.get(s.members[s.lastProbe]); c != nil && !c.probe.busy() {
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
}

func (s *State) probeAnswered(via, owner wire.NodeID) {
	c := s.contacts.get(via)
	if c == nil || !c.probe.busy() {
		return
	}
	c.probe = attempt{at: s.now.Add(s.spread(s.cfg.DiscoveryInterval))}
	if owner == s.self || len(s.succ) > 0 && owner == s.succ[0] {
		// The same ring.
		if !c.ring.ready {
			c.sameRing = s.now.Add(sameRingFor)
		}
		return
	}
	c.sameRing = time.Time{}
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
	case s.countAttaches() >= maxAttaches:
		c.probe.at = s.now.Add(s.jitter(time.Second))
	default:
		s.startAttach(o, via)
	}
}

// schedule starts what may be started: bootstrap links, probes, Attaches.
func (s *State) schedule() {
	taught := s.taught()
	s.scheduleAttaches(taught)
	for _, c := range s.contacts {
		if c.linked() && !c.ring.ready && !c.probe.busy() && !c.probe.at.After(s.now) &&
			c.ring.leaving.IsZero() && s.phase != Joining {
			s.startProbe(c)
		}
	}
	dials := 0
	var waiting []*contact
	for _, c := range s.contacts {
		if c.dial.busy() {
			dials++
		}
		if !c.discovered || c.linked() || c.dial.busy() || c.attach.busy() {
			continue
		}
		if c.sameRing.After(c.dial.at) {
			c.dial.at = c.sameRing
		}
		// Whom the ring knows is attached to through the ring, unless that does not work.
		if len(taught[c.id]) > 0 && c.attach.fails < 2 && s.wanted(c.id) {
			c.dial.at = s.now.Add(s.spread(s.cfg.DiscoveryInterval))
		}
		if !c.dial.at.After(s.now) {
			waiting = append(waiting, c)
		}
	}
	slices.SortStableFunc(waiting, func(a, b *contact) int {
		if d := a.dial.fails - b.dial.fails; d != 0 {
			return d
		}
		return s.byDistance(a.id, b.id)
	})
	for _, c := range waiting {
		if dials >= maxDials {
			break
		}
		dials++
		c.dial.start(s.now, dialTimeout)
		s.emit(Bootstrap{ID: c.id})
	}
}
