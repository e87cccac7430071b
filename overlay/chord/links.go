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
	c.left, c.stale = time.Time{}, time.Time{}
	if in.Kind == LinkBootstrap {
		s.bootstrapUp(c, in.Ours)
		return
	}
	relinked := c.ring.up
	s.endAttach(c)
	why := c.purpose
	c.attach, c.purpose = attempt{}, forTable
	c.ring = ringLink{up: true, ours: in.Ours, since: s.now}
	c.ring.updateAt = s.now.Add(s.jitter(s.cfg.UpdateInterval))
	s.search.stale = true
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
	case s.phase == Member && in.SendUpdate && s.owns(c.id):
		// To a newcomer this is the Admitting Peer: "The send_update flag can be used to acquire the
		// Routing Table of AP" (RFC 6940 §10.5 step 2).
		s.sendUpdate(c, wire.UpdateFull)
	case s.phase == Member && (in.SendUpdate || in.Ours && why == forMerge && !s.cfg.SelfTuning):
		// Merge: "an Attach to S' routed through B, followed by an Update sent to S'" (§10.7.4.4).
		s.sendUpdate(c, wire.UpdateNeighbors)
	case s.phase == Member:
		// Now the other side may route through here.
		s.sendUpdate(c, s.kind(c))
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
	if i := slices.IndexFunc(s.contacts, (*contact).quiet); i >= 0 {
		s.contacts = slices.Delete(s.contacts, i, i+1)
		s.stats.ContactsRefused++
	}
}

// evict keeps the Connection Table within its limit: the least useful link goes. It reports whether
// c itself had to.
func (s *State) evict(c *contact) bool {
	if s.links() <= s.cfg.MaxPeers {
		return false
	}
	var victim *contact
	for _, p := range s.contacts {
		if !p.ring.up || s.isNeighbour(p.id) || p == c && s.wouldNeighbour(c.id) {
			continue
		}
		// Of equally useful ones the youngest: many new peers do not push out those that have stayed.
		if victim == nil || s.use(p) < s.use(victim) || s.use(p) == s.use(victim) && (p == c || victim != c && p.ring.since.After(victim.ring.since)) {
			victim = p
		}
	}
	if victim == nil {
		return false
	}
	s.stats.LinksRefused++
	s.drop(victim.id)
	return victim == c
}

// links counts the entries of the Connection Table.
func (s *State) links() (n int) {
	for _, c := range s.contacts {
		if c.ring.up {
			n++
		}
	}
	return n
}

// use ranks what a link that leads to no neighbour is good for.
func (s *State) use(c *contact) int {
	switch {
	case s.isFinger(c.id):
		return 4
	case c.ring.countsMe || s.isSpare(c.id):
		return 3
	case !c.ring.ours && c.ring.ready:
		return 2 // this may be a finger of that peer
	case c.ring.ready:
		return 1
	default:
		return 0
	}
}

// spare closes a link that this side made and neither side needs any more. The one that made it has
// to: the other cannot know what it is for. Up to the size of the full mesh nothing is closed.
func (s *State) spare(c *contact) {
	if !s.large || !c.ring.ready || s.use(c) != 1 || s.isNeighbour(c.id) || c.ring.since.Add(spareFor).After(s.now) {
		return
	}
	if s.links() <= s.cfg.FullMesh {
		return
	}
	s.stats.LinksSpared++
	s.emit(CloseLink{ID: c.id, Kind: LinkAttached})
	s.linkDown(c.id, LinkAttached, false)
}

func (s *State) linkDown(id wire.NodeID, kind LinkKind, failed bool) {
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
	if failed && c.ring.leaving.IsZero() && (s.isNeighbour(id) || s.isFinger(id)) {
		s.noteFailure()
	}
	if s.isNeighbour(id) {
		s.inherit(c.ring.listed)
	}
	c.ring = ringLink{}
	if failed && s.large {
		c.stale = s.now.Add(noticeDelay)
	}
	c.attach.at = s.now.Add(s.jitter(lostDelay))
	c.dial.at = s.now.Add(s.jitter(lostDelay))
	s.recut(true)
	s.checkAlone()
}

// inherit remembers for a while whom a neighbour that is gone knew: where several neighbours die
// together, their lists lead across the gap.
func (s *State) inherit(ids []wire.NodeID) {
	for _, id := range ids {
		if s.valid(id) && !slices.Contains(s.search.bequest, id) {
			if len(s.search.bequest) >= maxBequest {
				s.search.bequest = slices.Delete(s.search.bequest, 0, 1)
			}
			s.search.bequest = append(s.search.bequest, id)
		}
	}
	s.search.bequestTo = s.now.Add(bequestFor)
	s.search.stale = true
}

// drop closes whatever links id has and forgets its membership.
func (s *State) drop(id wire.NodeID) {
	c := s.contacts.get(id)
	if c == nil {
		return
	}
	if c.ring.up {
		s.emit(CloseLink{ID: id, Kind: LinkAttached})
		s.linkDown(id, LinkAttached, true)
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
	s.updates = updates{last: s.updates.last}
	s.large = false
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

// leaveReceived does as for a failure: "Any peer which receives a Leave for a peer n in its neighbor
// set MUST follow procedures as if it had detected a peer failure" (RFC 6940 §10.9). Whom the leaver
// names on its far side is attached to, not through the leaver, who goes, but routed through the overlay
// or by others that list the same.
func (s *State) leaveReceived(id wire.NodeID, told []wire.NodeID) {
	c := s.contacts.get(id)
	if c == nil || !c.ring.up || !c.ring.leaving.IsZero() {
		return
	}
	if s.isNeighbour(id) {
		s.noteFailure()
		s.inherit(c.ring.listed)
		s.inherit(told[:min(len(told), maxListed)])
	}
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
		leave := wire.ChordLeave{Type: wire.LeaveFromPredecessor, Nodes: s.pred}
		// from_succ: this peer is a successor of the recipient. In a small ring it is both.
		if i := slices.Index(s.pred, c.id); i >= 0 {
			if j := slices.Index(s.succ, c.id); j < 0 || i <= j {
				leave = wire.ChordLeave{Type: wire.LeaveFromSuccessor, Nodes: s.succ}
			}
		}
		s.emit(SendLeave{To: c.id, Leave: leave})
	}
	s.phase = Left
}
