package chord

import (
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// taught maps each Node-ID that a member lists as its neighbour, and that is not attached, to
// those members, ascending. A peer in the same ring that only a bootstrap link leads to teaches
// itself.
func (s *State) taught() map[wire.NodeID][]wire.NodeID {
	t := map[wire.NodeID][]wire.NodeID{}
	for _, c := range s.contacts {
		if c.ring.up && c.ring.ready {
			for _, id := range c.ring.listed {
				t[id] = append(t[id], c.id)
			}
		}
		if c.boot.up && !c.ring.up && c.sameRing.After(s.now) {
			t[c.id] = append(t[c.id], c.id)
		}
	}
	return t
}

// wanted reports whether an Attach to id is worth while: everyone in a small ring, neighbours in
// a large one.
func (s *State) wanted(id wire.NodeID) bool {
	n := 1 // self
	for _, c := range s.contacts {
		if c.ring.up || c.attach.busy() {
			n++
		}
	}
	return n < s.cfg.FullMesh || s.wouldNeighbour(id)
}

func (s *State) countAttaches() (n int) {
	for _, c := range s.contacts {
		if c.attach.busy() {
			n++
		}
	}
	return n
}

// scheduleAttaches attaches to peers that Updates told of: "x MUST attempt to Attach to the new
// peers" (RFC 6940 §10.7.3).
func (s *State) scheduleAttaches(taught map[wire.NodeID][]wire.NodeID) {
	s.attachAt = time.Time{}
	for _, c := range s.contacts {
		c.taught = false
	}
	ids := make([]wire.NodeID, 0, len(taught))
	for id := range taught {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, s.byDistance)
	perTeacher := map[wire.NodeID]int{}
	for _, c := range s.contacts {
		if c.attach.busy() {
			perTeacher[c.attachVia]++
		}
	}
	var waiting []*contact
	for _, id := range ids {
		c := s.contacts.get(id)
		if c != nil {
			c.taught = true
		}
		if c != nil && (c.ring.up || c.attach.busy()) || !s.wanted(id) {
			continue
		}
		if c == nil {
			// Half of the table is for peers that were discovered or are linked.
			if len(s.contacts) >= s.cfg.MaxContacts/2 {
				s.stats.ContactsRefused++
				continue
			}
			if c = s.contact(id); c == nil {
				continue
			}
			c.taught = true
			// Both ends learn of each other at about the same time; of two Attaches that cross, one
			// would be wasted. A newcomer is not known to the others yet and does not wait.
			if s.self.Compare(id) > 0 && s.phase != Joining {
				c.attach.at = s.now.Add(s.spread(yieldDelay))
			}
		}
		if c.left.After(s.now) || c.attach.at.After(s.now) {
			at := c.attach.at
			if c.left.After(at) {
				at = c.left
			}
			if s.attachAt.IsZero() || at.Before(s.attachAt) {
				s.attachAt = at
			}
			continue
		}
		waiting = append(waiting, c)
	}
	// Those that never failed first, so that made-up Node-IDs do not hold up real ones.
	slices.SortStableFunc(waiting, compareFails)
	n := s.countAttaches()
	for _, c := range waiting {
		if n >= maxAttaches {
			return
		}
		teachers := taught[c.id]
		via := teachers[c.attach.fails%len(teachers)]
		if perTeacher[via] >= maxPerTeach || !s.wanted(c.id) {
			continue
		}
		perTeacher[via]++
		n++
		s.startAttach(c, via)
	}
}

// startAttach source-routes the request through the peer that taught of c: RFC 6940 §10.6.
func (s *State) startAttach(c *contact, via wire.NodeID) {
	c.attach.start(s.now, attachTimeout)
	c.attachVia = via
	s.stats.AttachesStarted++
	a := Attach{ID: c.id, SendUpdate: true}
	if via != c.id && !c.linked() {
		a.Via = []wire.NodeID{via}
	}
	s.emit(a)
}

func (s *State) attachFailed(id wire.NodeID, inProgress bool) {
	c := s.contacts.get(id)
	if c == nil || !c.attach.busy() {
		return
	}
	c.attach.until = time.Time{}
	if inProgress {
		c.attach.at = s.now.Add(s.spread(memberDelay))
		return
	}
	s.stats.AttachesFailed++
	c.attach.fails++
	c.attach.at = s.now.Add(s.backoff(c.attach.fails))
}
