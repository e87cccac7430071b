package chord

import (
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

func (s *State) linkUp(in LinkUp) {
	s.makeRoom(in.ID)
	c := s.contact(in.ID)
	if c == nil {
		// Without an entry nothing would ever close it.
		s.stats.LinksRefused++
		s.emit(CloseLink{ID: in.ID, Kind: in.Kind})
		return
	}
	c.left = time.Time{}
	if in.Kind == LinkBootstrap {
		s.bootstrapUp(c, in.Ours)
		return
	}
	relinked := c.ring.up
	c.ring = ringLink{up: true, since: s.now, updateAt: s.now.Add(s.jitter(s.cfg.UpdateInterval))}
	c.attach = attempt{}
	if relinked {
		// The peer may have lost all it knew: "after Attach but before an Update MUST NOT route
		// through that peer" (RFC 6940 §10.5 step 3).
		s.recut(true)
		s.checkAlone()
	}
	if s.evict(c) {
		return
	}
	c.probe.at = s.now.Add(s.spread(memberDelay))
	switch {
	case s.phase == Member:
		// Merge step 3 and §10.7 "peer_ready": now the other side may route through here.
		s.sendUpdate(c, wire.UpdateNeighbors)
	case in.SendUpdate:
		// "When a peer receives an Attach request with the send_update flag set to True, it MUST
		// send an Update message back" (RFC 6940 §6.4.2.3).
		s.sendUpdate(c, wire.UpdateNeighbors)
	case s.phase == Alone && in.Ours:
		s.startJoin(c)
	}
}

// makeRoom forgets someone who is merely heard of, if the table is full: a peer that has proved who
// it is counts for more than names in mDNS and in Updates, which are cheap to make up.
func (s *State) makeRoom(id wire.NodeID) {
	if len(s.contacts) < s.cfg.MaxContacts || s.contacts.get(id) != nil {
		return
	}
	if i := slices.IndexFunc(s.contacts, func(c *contact) bool {
		return !c.linked() && !c.dial.busy() && !c.attach.busy()
	}); i >= 0 {
		s.contacts = slices.Delete(s.contacts, i, i+1)
		s.stats.ContactsRefused++
	}
}

// evict keeps the Connection Table within its limit. It reports whether c itself had to go.
func (s *State) evict(c *contact) bool {
	var attached []*contact
	for _, p := range s.contacts {
		if p.ring.up {
			attached = append(attached, p)
		}
	}
	if len(attached) <= s.cfg.MaxPeers {
		return false
	}
	s.stats.LinksRefused++
	victim := c
	if s.wouldNeighbour(c.id) {
		// Those that are no members go first, then whoever is in the middle of the far side.
		slices.SortStableFunc(attached, func(a, b *contact) int { return s.byDistance(a.id, b.id) })
		mid := len(attached) / 2
		for i := range attached {
			p := attached[(mid+i)%len(attached)]
			if p != c && !s.isNeighbour(p.id) && (victim == c || victim.ring.ready && !p.ring.ready) {
				victim = p
			}
		}
	}
	s.drop(victim.id)
	return victim == c
}

func (s *State) linkDown(id wire.NodeID, kind LinkKind) {
	c := s.contacts.get(id)
	if c == nil {
		return
	}
	if kind == LinkBootstrap {
		if c.boot.up {
			s.bootDown(c)
		}
		return
	}
	if !c.ring.up {
		return
	}
	c.ring = ringLink{}
	c.attach.at = s.now.Add(s.jitter(lostDelay))
	c.dial.at = s.now.Add(s.jitter(lostDelay))
	s.recut(true)
	s.checkAlone()
}

// drop closes whatever links id has and forgets its membership.
func (s *State) drop(id wire.NodeID) {
	c := s.contacts.get(id)
	if c == nil {
		return
	}
	if c.ring.up {
		s.emit(CloseLink{ID: id, Kind: LinkAttached})
		s.linkDown(id, LinkAttached)
	}
	if c.boot.up {
		s.closeBoot(c)
	}
}

// checkAlone notices the loss of the last member: "If connectivity is lost to all successor peers
// in the Neighbor Table, then this peer SHOULD behave as if it is joining the network"
// (RFC 6940 §10.7.1).
func (s *State) checkAlone() {
	if len(s.members) > 0 || s.phase != Member {
		return
	}
	s.phase = Alone
	s.dirty = false
	s.searchSoon()
}

// searchSoon makes a peer that has become alone look for others now and not at the next interval.
func (s *State) searchSoon() {
	for _, c := range s.contacts {
		c.sameRing = time.Time{}
		if at := s.now.Add(s.spread(yieldDelay)); c.dial.at.After(at) && c.dial.fails == 0 {
			c.dial.at = at
		}
		if c.linked() && !c.probe.busy() {
			c.probe.at = s.now.Add(s.spread(yieldDelay))
		}
	}
}

func (s *State) leaveReceived(id wire.NodeID) {
	c := s.contacts.get(id)
	if c == nil || !c.ring.up {
		return
	}
	// Treated like a failure. What the Leave says of the leaver's other neighbours is not used:
	// an Attach learnt from it would have to be source-routed through the peer that goes
	// (RFC 6940 §10.6), and the Updates of those that stay teach the same.
	c.left = s.now.Add(leftDelay)
	c.ring.ready = false
	c.ring.listed = nil
	c.ring.leaving = s.now.Add(leaveLinger)
	s.recut(true)
	s.checkAlone()
}

// shutdown says good-bye: "A node SHOULD send this message to each peer with which it is directly
// connected prior to exiting the overlay" (RFC 6940 §6.4.2.2).
func (s *State) shutdown() {
	for _, c := range s.contacts {
		if !c.ring.up {
			continue
		}
		leave := wire.ChordLeave{Type: wire.LeaveFromPredecessor, Nodes: slices.Clone(s.pred)}
		// from_succ: this peer is a successor of the recipient. In a small ring it is both.
		if i := slices.Index(s.pred, c.id); i >= 0 {
			if j := slices.Index(s.succ, c.id); j < 0 || i <= j {
				leave = wire.ChordLeave{Type: wire.LeaveFromSuccessor, Nodes: slices.Clone(s.succ)}
			}
		}
		s.emit(SendLeave{To: c.id, Leave: leave})
	}
	s.phase = Left
}
