package chord

import (
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// startJoin begins RFC 6940 §10.5 with c as Admitting Peer: it has just answered the Attach and
// will send its Update.
func (s *State) startJoin(c *contact) {
	s.phase = Joining
	s.join = join{ap: c.id, until: s.now.Add(joinTimeout)}
}

// advanceJoin sends the Join when its time has come, and gives up waiting when that is over.
func (s *State) advanceJoin() {
	if s.phase != Joining {
		return
	}
	ap := s.contacts.get(s.join.ap)
	if ap == nil || !ap.ring.up || !s.join.until.After(s.now) {
		s.endJoin()
		return
	}
	if !ap.ring.ready || s.join.sent {
		return
	}
	// "The Joining Node MUST NOT send any Update message placing itself in the overlay until it
	// has successfully completed an Attach with each peer that should be in its Neighbor Table."
	should := slices.Clone(s.members)
	for _, id := range ap.ring.listed {
		c := s.contacts.get(id)
		if c == nil || c.attach.fails == 0 && !c.left.After(s.now) {
			should = append(should, id)
		}
	}
	slices.SortFunc(should, wire.NodeID.Compare)
	pred, succ := cut(s.self, slices.Compact(should), s.cfg.Neighbours)
	for _, id := range slices.Concat(pred, succ) {
		if c := s.contacts.get(id); c == nil || !c.ring.up {
			return
		}
	}
	s.join.sent = true
	s.emit(SendJoin{To: ap.id})
}

// endJoin ends an attempt that did not come to its end: with members known, this peer is merged
// with them instead; else it is alone again.
func (s *State) endJoin() {
	s.join = join{}
	s.phase = Alone
	if len(s.members) > 0 {
		s.becomeMember()
		return
	}
	s.searchSoon()
}

func (s *State) joinAnswered(from wire.NodeID) {
	// The Join is complete with the Update that follows; see updateReceived. It is on its way.
	if s.phase == Joining && from == s.join.ap && s.join.sent {
		s.join.answered = true
		s.join.until = s.now.Add(admitTimeout)
	}
}

func (s *State) joinFailed(from wire.NodeID) {
	if s.phase == Joining && from == s.join.ap && s.join.sent {
		s.endJoin()
	}
}

// joinReceived is the Admitting Peer's side, steps 5 to 8.
func (s *State) joinReceived(from wire.NodeID) {
	c := s.contacts.get(from)
	if c == nil || !c.ring.up {
		s.emit(AnswerJoin{To: from})
		return
	}
	s.stats.Admitted++
	c.ring.ready = true
	s.emit(AnswerJoin{To: from, Accepted: true})
	s.emit(HandOver{To: from})
	s.recut(false)
	// Step 7: the Update that MUST label the newcomer as this peer's predecessor.
	s.sendUpdate(c, wire.UpdateNeighbors)
	s.becomeMember()
}

// becomeMember makes this peer part of a ring with others and tells everyone.
func (s *State) becomeMember() {
	if s.phase == Member {
		return
	}
	if s.phase == Alone || !s.join.sent {
		s.stats.Merges++
	} else {
		s.stats.Joins++
	}
	s.join = join{}
	s.phase = Member
	s.dirty = true
}

func (s *State) updateReceived(from wire.NodeID, u wire.ChordUpdate) {
	c := s.contacts.get(from)
	if c == nil || !c.ring.up || !c.ring.leaving.IsZero() {
		s.stats.UpdatesIgnored++
		return
	}
	switch u.Type {
	case wire.UpdatePeerReady:
	case wire.UpdateNeighbors, wire.UpdateFull:
		c.ring.listed = s.believable(u.Predecessors, u.Successors)
	default:
		s.stats.UpdatesIgnored++
		return
	}
	c.ring.ready = true
	s.recut(false)
	switch {
	case s.phase == Alone:
		s.becomeMember()
	case s.phase == Joining && from == s.join.ap && (s.join.answered || s.join.sent && slices.Contains(u.Predecessors, s.self)):
		// Step 7, the Update with this peer as predecessor: "At this point, JN is part of the ring". If
		// others got in between in the meantime, this peer is not among the nearest predecessors any
		// more, and part of the ring all the same.
		s.becomeMember()
	}
	if s.phase == Member && !c.ring.told {
		s.sendUpdate(c, wire.UpdateNeighbors)
	}
}

// believable takes the nearest few of each list, without self, nonsense and duplicates. Both lists
// come nearest first.
func (s *State) believable(lists ...[]wire.NodeID) []wire.NodeID {
	var ids []wire.NodeID
	for _, l := range lists {
		if len(l) > maxListed {
			s.stats.IDsIgnored += uint64(len(l) - maxListed)
			l = l[:maxListed]
		}
		for _, id := range l {
			switch {
			case id == s.self || slices.Contains(ids, id):
			case !s.valid(id):
				s.stats.IDsIgnored++
			default:
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// flush sends the Updates that are owed: at once after a change, then at most every coalesce; and
// to each peer in its turn, "to keep the predecessor and successor lists up to date and to detect
// failed peers" (RFC 6940 §10.7.4.1).
func (s *State) flush() {
	all := s.dirty && s.phase == Member && !s.lastAll.Add(coalesce).After(s.now)
	if all {
		s.dirty = false
		s.lastAll = s.now
	}
	if s.phase != Member {
		s.dirty = false
	}
	for _, c := range s.contacts {
		if !c.ring.up || !c.ring.leaving.IsZero() {
			continue
		}
		due := !c.ring.updateAt.After(s.now)
		switch {
		case all:
			s.sendUpdate(c, wire.UpdateNeighbors)
		case due && s.phase == Member:
			s.sendUpdate(c, wire.UpdateNeighbors)
		case due:
			c.ring.updateAt = s.now.Add(s.jitter(s.cfg.UpdateInterval))
		}
	}
}

// sendUpdate tells c the Neighbor Table. A full Update lists the fingers as well: none are kept
// yet, so the other members stand there.
func (s *State) sendUpdate(c *contact, t wire.ChordUpdateType) {
	u := wire.ChordUpdate{
		Uptime:       uint32(min(s.now.Sub(s.started)/time.Second, 1<<32-1)),
		Type:         t,
		Predecessors: slices.Clone(s.pred),
		Successors:   slices.Clone(s.succ),
	}
	if t == wire.UpdateFull {
		for _, id := range s.members {
			if !s.isNeighbour(id) {
				u.Fingers = append(u.Fingers, id)
			}
		}
	}
	c.ring.told = true
	c.ring.updateAt = s.now.Add(s.jitter(s.cfg.UpdateInterval))
	s.emit(SendUpdate{To: c.id, Update: u})
}
