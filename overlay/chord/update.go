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
	s.search.stale = true
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
	pred, succ := s.should()
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
	s.search.stale = true
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
	// Step 7: the Update that MUST label the newcomer as this peer's predecessor. Step 8: "The AP MUST
	// send an Update to all of its neighbors (including JN)".
	s.sendUpdate(c, wire.UpdateNeighbors)
	s.updates.near = true
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
	s.search.stale = true
	// Step 9: "JN MUST send Updates to all of the peers in its Neighbor Table".
	s.updates.near, s.updates.all = true, true
}

func (s *State) updateReceived(from wire.NodeID, u wire.ChordUpdate) {
	c := s.contacts.get(from)
	if c == nil || !c.ring.up || !c.ring.leaving.IsZero() {
		s.stats.UpdatesIgnored++
		return
	}
	var had []wire.NodeID
	switch u.Type {
	case wire.UpdatePeerReady:
	case wire.UpdateNeighbors, wire.UpdateFull:
		had = c.ring.listed
		s.listen(c, u)
	default:
		s.stats.UpdatesIgnored++
		return
	}
	c.ring.born = s.now.Add(-time.Duration(u.Uptime) * time.Second)
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
	switch {
	case s.phase != Member:
	case !c.ring.told:
		s.sendUpdate(c, s.kind(c))
	case u.Type != wire.UpdatePeerReady:
		s.teach(c, u, had)
	}
}

// listen takes over what the lists of an Update say.
func (s *State) listen(c *contact, u wire.ChordUpdate) {
	ids := s.believable(s.scratch.ids[:0], u.Predecessors, u.Successors)
	c.ring.countsMe = slices.Contains(u.Predecessors[:min(len(u.Predecessors), s.maxListed())], s.self) ||
		slices.Contains(u.Successors[:min(len(u.Successors), s.maxListed())], s.self)
	if u.Type == wire.UpdateFull {
		s.hint(c.id, u.Fingers)
		// Among the fingers of another are the nearest that a peer cut off from its neighbours can find.
		for _, id := range u.Fingers[:min(len(u.Fingers), 2*s.cfg.FullMesh)] {
			if s.valid(id) && !slices.Contains(ids, id) && (!s.large || s.wouldNeighbour(id)) {
				ids = append(ids, id)
			}
		}
	}
	s.scratch.ids = ids
	c.ring.heard = s.now
	c.ring.dense = 0
	// Lists with a peer in both are of a ring so small that they go all around it.
	around := slices.ContainsFunc(u.Successors, func(id wire.NodeID) bool { return slices.Contains(u.Predecessors, id) })
	if p, n := len(u.Predecessors), len(u.Successors); !around && p+n >= 2*s.cfg.Neighbours && p > 0 && n > 0 {
		c.ring.dense = density(u.Predecessors[p-1], u.Successors[n-1], p+n)
	}
	if !slices.Equal(ids, c.ring.listed) {
		c.ring.listed = slices.Clone(ids)
		s.search.stale = true
	}
}

func (s *State) maxListed() int {
	p, n := s.neighbours()
	return max(maxListed, p, n)
}

// teach sends an Update to a peer that ought to have neighbours which its own Update, just received,
// lacks and which are known here. had is what it listed before: what it has dropped since is not
// forced upon it. RFC 6940 has only "These Update requests are what end up filling in the
// predecessor/successor tables of peers that this peer is a neighbor to" (§10.7.3): here the peer
// is none of this one's neighbours, and would hear nothing.
func (s *State) teach(c *contact, u wire.ChordUpdate, had []wire.NodeID) {
	useful, near := s.betterFor(c.id, u, had)
	switch {
	case !useful:
		c.ring.lessons = 0
		return
	case c.ring.teachAt.After(s.now) || !c.ring.leaving.IsZero():
		return
	}
	s.stats.Lessons++
	c.ring.lessons++
	if near {
		s.sendUpdate(c, wire.UpdateNeighbors)
	} else {
		s.sendUpdate(c, wire.UpdateFull)
	}
}

// betterFor reports whether members known here belong into the Neighbor Table of peer id as it tells
// it, and whether all of them are in this peer's own.
func (s *State) betterFor(id wire.NodeID, u wire.ChordUpdate, had []wire.NodeID) (useful, near bool) {
	n := s.cfg.Neighbours
	near = true
	for _, m := range s.members {
		behind := len(u.Successors) < n || between(id, m, u.Successors[n-1])
		before := len(u.Predecessors) < n || between(u.Predecessors[n-1], m, id)
		if m == id || !behind && !before {
			continue
		}
		if !slices.Contains(u.Successors, m) && !slices.Contains(u.Predecessors, m) && !slices.Contains(had, m) {
			useful = true
			near = near && s.isNeighbour(m)
		}
	}
	return useful, near
}

// believable appends the nearest few of each list, without self, nonsense and duplicates. The lists
// come nearest first. "If a peer receives more entries than fit into its successor list, predecessor
// list, or finger table, the peer MUST ignore the extra entries" (RFC 7363 §5.1).
func (s *State) believable(ids []wire.NodeID, lists ...[]wire.NodeID) []wire.NodeID {
	for _, l := range lists {
		if n := s.maxListed(); len(l) > n {
			s.stats.IDsIgnored += uint64(len(l) - n)
			l = l[:n]
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

// near reports whether c is told the Neighbor Table when that changes: neighbours, and those whose
// neighbour this peer is.
func (s *State) near(c *contact) bool { return c.ring.countsMe || s.isNeighbour(c.id) }

// kind is the type of Update that c gets: "neighbors … is sent to members of the Chord Neighbor
// Table"; peer_ready serves "to indicate that a node which has Attached is a peer and can be routed
// through" (RFC 6940 §10.7). In a full mesh everyone hears of everyone.
func (s *State) kind(c *contact) wire.ChordUpdateType {
	switch {
	case s.cfg.SelfTuning && s.large:
		// "After a new peer has been added to the predecessor or successor list, an Update request of
		// type 'peer_ready' is sent to the new peer" (RFC 7363 §5.2).
		return wire.UpdatePeerReady
	case !s.large || s.near(c) || s.wouldNeighbour(c.id):
		return wire.UpdateNeighbors
	default:
		return wire.UpdatePeerReady
	}
}

// flush sends the Updates that are owed. After a change, neighbours get theirs at once, then at most
// every coalesce; in a large ring the rest of the Connection Table gets it at its next turn, for there
// only the MUST of RFC 6940 §10.7.3 counts and no time is given. And each neighbour gets one in its
// turn, "to keep the predecessor and successor lists up to date and to detect failed peers" (§10.7.4.1).
func (s *State) flush() {
	if s.phase != Member {
		s.updates.near, s.updates.all = false, false
	}
	if (s.updates.near || s.updates.all) && !s.updates.last.Add(coalesce).After(s.now) {
		for _, c := range s.contacts {
			switch {
			case !c.ring.up || !c.ring.leaving.IsZero():
			case s.near(c) || s.updates.all && !s.large:
				s.sendUpdate(c, wire.UpdateNeighbors)
			case s.updates.all:
				c.ring.owed = true
			}
		}
		s.updates.near, s.updates.all, s.updates.last = false, false, s.now
	}
	for _, c := range s.contacts {
		if !c.ring.up || !c.ring.leaving.IsZero() || c.ring.updateAt.After(s.now) {
			continue
		}
		if s.phase == Member && (c.ring.owed || s.turn(c)) {
			s.sendUpdate(c, s.kind(c))
			continue
		}
		c.ring.updateAt = s.now.Add(s.jitter(s.cfg.UpdateInterval))
	}
	if !s.updates.pending {
		return
	}
	s.updates.pending = false
	for _, c := range s.contacts {
		if c.ring.pending != 0 {
			s.emitUpdate(c)
		}
	}
}

// turn reports whether c gets Updates periodically: "A peer MUST periodically send an Update request to
// every peer in its Neighbor Table" (RFC 6940 §10.7.4.1). With self-tuning, stabilise sends them.
func (s *State) turn(c *contact) bool {
	return !s.cfg.SelfTuning && (!s.large || s.isNeighbour(c.id))
}

// sendUpdate has this Step send c an Update of type t, or of the one that says more.
func (s *State) sendUpdate(c *contact, t wire.ChordUpdateType) {
	c.ring.pending = max(c.ring.pending, t)
	s.updates.pending = true
}

// emitUpdate tells c the Neighbor Table. A full Update lists the Finger Table as well; as long as
// everyone is connected to everyone, the other members stand there.
func (s *State) emitUpdate(c *contact) {
	u := wire.ChordUpdate{Uptime: uptime(s.now.Sub(s.started)), Type: c.ring.pending}
	if u.Type != wire.UpdatePeerReady {
		u.Predecessors, u.Successors = s.pred, s.succ
		// What it lacked until now it knows from this one.
		c.ring.teachAt = s.now.Add(min(teachAgain<<min(c.ring.lessons, 10), s.cfg.UpdateInterval))
	}
	if u.Type == wire.UpdateFull {
		if s.large {
			u.Fingers = s.fingerList()
		} else {
			for _, id := range s.members {
				if !s.isNeighbour(id) {
					u.Fingers = append(u.Fingers, id)
				}
			}
		}
	}
	c.ring.pending, c.ring.told, c.ring.owed = 0, true, false
	wait := s.cfg.UpdateInterval
	if !s.isNeighbour(c.id) {
		wait *= 4 // what it has to know it hears from its own neighbours
	}
	c.ring.updateAt = s.now.Add(s.jitter(wait))
	s.stats.UpdatesSent++
	s.emit(SendUpdate{To: c.id, Update: u})
}
