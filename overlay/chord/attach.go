package chord

import (
	"cmp"
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// lead is a Node-ID worth attaching to, and who told of it; via is zero if that peer is gone.
type lead struct{ id, via wire.NodeID }

// sizeUp decides whether the ring has outgrown the full mesh: by the members, by how near neighbours
// are to each other, here or at two of the members, or by the Node-IDs that two of them list. One liar
// does not make a ring large.
func (s *State) sizeUp() {
	large := s.outgrown()
	if large && !s.large {
		s.pace.dials.every = 4 * s.cfg.DiscoveryInterval
		s.pace.dials.at = s.now.Add(s.spread(s.pace.dials.every))
	}
	s.large = large
}

func (s *State) outgrown() bool {
	if len(s.members) >= s.cfg.FullMesh || len(s.members) >= 2*s.cfg.Neighbours && s.estimate() >= float64(8*s.cfg.FullMesh) {
		return true
	}
	ids := s.scratch.ids[:0]
	crowded := 0
	oldest := s.now.Add(-s.listFor())
	for _, c := range s.contacts {
		if !c.member() {
			continue
		}
		ids = append(ids, c.id, c.id)
		if c.ring.heard.After(oldest) {
			ids = append(ids, c.ring.listed...)
			if c.ring.dense >= float64(8*s.cfg.FullMesh) {
				crowded++
			}
		}
	}
	if crowded > 1 {
		return true
	}
	s.scratch.ids = ids
	slices.SortFunc(ids, wire.NodeID.Compare)
	known := 1 // self
	for i := 1; i < len(ids); i++ {
		if ids[i] == ids[i-1] && (i < 2 || ids[i] != ids[i-2]) {
			known++
		}
	}
	return known > s.cfg.FullMesh
}

// should is the Neighbor Table that a joining peer ought to have, by what its Admitting Peer says.
func (s *State) should() (pred, succ []wire.NodeID) {
	ap := s.contacts.get(s.join.ap)
	if ap == nil || !ap.member() {
		return nil, nil
	}
	ids := slices.Clone(s.members)
	for _, id := range ap.ring.listed {
		if c := s.contacts.get(id); c == nil || c.attach.fails == 0 && !c.left.After(s.now) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, wire.NodeID.Compare)
	p, n := s.neighbours()
	return cut(s.self, slices.Compact(ids), p, n)
}

// wants returns a test for whether an Attach to a Node-ID is worth while: everyone in a small ring,
// neighbours in a large one; for a joining peer only those that its Join has to wait for.
func (s *State) wants() func(wire.NodeID) bool {
	if s.phase == Joining {
		pred, succ := s.should()
		return func(id wire.NodeID) bool { return slices.Contains(pred, id) || slices.Contains(succ, id) }
	}
	if s.large {
		return s.wouldNeighbour
	}
	links := len(s.search.under)
	for _, c := range s.contacts {
		if c.ring.up && !c.attach.busy() {
			links++
		}
	}
	return func(id wire.NodeID) bool {
		// An Attach started meanwhile is under way: counted anew.
		return links+1 < s.cfg.FullMesh || s.wouldNeighbour(id)
	}
}

// scheduleAttaches attaches to peers that Updates told of: "x MUST attempt to Attach to the new
// peers" (RFC 6940 §10.7.3).
func (s *State) scheduleAttaches() {
	s.search.at = time.Time{}
	wanted := s.wants()
	leads := s.scratch.leads[:0]
	add := func(id, via wire.NodeID, heard time.Time) {
		if s.isNeighbour(id) || !wanted(id) { // most are, or are not
			return
		}
		if c := s.contacts.get(id); c == nil || !c.ring.up && !c.stale.After(heard) {
			leads = append(leads, lead{id, via})
		}
	}
	oldest := s.now.Add(-s.listFor())
	var guide *contact
	for _, c := range s.contacts {
		c.taught = false
		if c.member() && c.ring.heard.After(oldest) {
			for _, id := range c.ring.listed {
				before := len(leads)
				if add(id, c.id, c.ring.heard); len(leads) > before && s.tooFar(c, id) {
					leads, guide = leads[:before], c
				}
			}
		}
		// A peer in the same ring that only a bootstrap link leads to teaches itself.
		if c.boot.up && !c.ring.up && c.sameRing.After(s.now) {
			add(c.id, c.id, s.now)
		}
	}
	if s.due(s.search.bequestTo) {
		s.search.bequest, s.search.bequestTo = nil, time.Time{}
	}
	if s.search.torn.After(s.now) {
		for _, id := range s.search.bequest {
			add(id, wire.NodeID{}, s.search.torn.Add(-bequestFor))
		}
	}
	s.scratch.leads = leads
	if guide != nil && !guide.probe.busy() && !s.search.guided.After(s.now) {
		s.search.guided = s.now.Add(s.jitter(lostDelay))
		s.search.stale = true
		s.startProbe(guide)
	}
	if len(leads) == 0 {
		return
	}
	// Nearest first, on either side: the tables need them most.
	slices.SortStableFunc(leads, func(a, b lead) int {
		if a.id == b.id {
			return 0
		}
		if na, nb := nearer(s.self, a.id), nearer(s.self, b.id); na != nb {
			if na.less(nb) {
				return -1
			}
			return 1
		}
		return a.id.Compare(b.id)
	})
	type pupil struct {
		c    *contact
		from []lead
	}
	var waiting []pupil
	for i := 0; i < len(leads); {
		j := i + 1
		for j < len(leads) && leads[j].id == leads[i].id {
			j++
		}
		if c := s.pupil(leads[i].id); c != nil {
			waiting = append(waiting, pupil{c, leads[i:j]})
		}
		i = j
	}
	// Those that never failed first, so that made-up Node-IDs do not hold up real ones.
	slices.SortStableFunc(waiting, func(a, b pupil) int { return cmp.Compare(a.c.attach.fails, b.c.attach.fails) })
	for _, p := range waiting {
		if len(s.search.under) >= maxAttaches {
			return
		}
		via := p.from[p.c.attach.fails%len(p.from)].via
		if s.taughtBy(via) >= maxPerTeach || !s.wants()(p.c.id) {
			continue
		}
		s.startAttach(p.c, via, forTable)
	}
}

// listFor is how long a list is believed: those of neighbours have been renewed by then.
func (s *State) listFor() time.Duration {
	if s.cfg.SelfTuning {
		return 3 * s.tuning.every
	}
	return 5 * s.cfg.UpdateInterval
}

// tooFar reports that a Node-ID listed by c would be a neighbour only because this peer is far from its
// place: by how close peers stand where c is, dozens lie between. To follow such lists is to walk around
// the ring step by step; a Ping to Resource-ID self+1 through c leads to the place at once. They are
// followed all the same if such a Ping has just shown that this is the place, and by a peer that has
// lost all neighbours of one side: there is no other way across.
func (s *State) tooFar(c *contact, id wire.NodeID) bool {
	return c.ring.dense >= float64(8*s.cfg.FullMesh) && !s.search.torn.After(s.now) && !s.search.placed.After(s.now) &&
		nearer(s.self, id).share()*c.ring.dense > float64(s.cfg.FullMesh)
}

// nearer is the distance between two Node-IDs, going the shorter way.
func nearer(x, y wire.NodeID) number {
	a, b := distance(x, y), distance(y, x)
	if b.less(a) {
		return b
	}
	return a
}

// pupil returns the entry of id if it may be attached to now.
func (s *State) pupil(id wire.NodeID) *contact {
	c := s.contacts.get(id)
	if c == nil {
		// Half of the table is for peers that were discovered or are linked.
		if len(s.contacts) >= s.cfg.MaxContacts/2 {
			s.stats.ContactsRefused++
			return nil
		}
		if c = s.contact(id); c == nil {
			return nil
		}
		// Both ends learn of each other at about the same time; of two Attaches that cross, one
		// would be wasted. A newcomer is not known to the others yet and does not wait.
		if s.self.Compare(id) > 0 && s.phase != Joining {
			c.attach.at = s.now.Add(s.spread(yieldDelay))
		}
	}
	c.taught = true
	if s.mayAttach(c) {
		return c
	}
	if at := later(c.attach.at, c.left); at.After(s.now) && (s.search.at.IsZero() || at.Before(s.search.at)) {
		s.search.at = at
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// mayAttach reports that nothing speaks against an Attach to c now.
func (s *State) mayAttach(c *contact) bool {
	return !c.ring.up && !c.attach.busy() && !c.attach.at.After(s.now) && !c.left.After(s.now)
}

// taughtBy counts the Attaches under way that one peer taught.
func (s *State) taughtBy(via wire.NodeID) (n int) {
	for _, c := range s.search.under {
		if c.attachVia == via {
			n++
		}
	}
	return n
}

// startAttach source-routes the request through the peer that taught of c (RFC 6940 §10.6). Without
// one, or for a finger that was searched for, it is "routed conventionally through the overlay".
func (s *State) startAttach(c *contact, via wire.NodeID, why purpose) {
	c.attach.start(s.now, attachTimeout)
	c.attachVia, c.purpose = via, why
	s.search.under = append(s.search.under, c)
	s.stats.AttachesStarted++
	a := Attach{ID: c.id, SendUpdate: why != forFinger}
	if !via.IsZero() && via != c.id && !c.linked() {
		a.Via = []wire.NodeID{via}
	}
	s.emit(a)
}

// endAttach takes c off the list of Attaches under way.
func (s *State) endAttach(c *contact) {
	if !c.attach.busy() {
		return
	}
	c.attach.until = time.Time{}
	s.search.under = slices.DeleteFunc(s.search.under, func(o *contact) bool { return o == c })
	s.search.stale = true
}

func (s *State) attachFailed(id wire.NodeID, inProgress bool) {
	c := s.contacts.get(id)
	if c == nil || !c.attach.busy() {
		return
	}
	s.endAttach(c)
	if inProgress {
		c.attach.at = s.now.Add(s.spread(memberDelay))
		return
	}
	s.stats.AttachesFailed++
	c.attach.fails++
	if c.attach.fails > 1 && s.large {
		c.stale = s.now
	}
	c.attach.at = s.now.Add(s.backoff(c.attach.fails))
}
