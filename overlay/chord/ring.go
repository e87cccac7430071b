package chord

import (
	"slices"

	"fieldkit/overlay/wire"
)

// between reports x in (a, b], clockwise. (a, a] is the whole ring.
func between(a, x, b wire.NodeID) bool {
	switch {
	case a == b:
		return true
	case a.Compare(b) < 0:
		return a.Compare(x) < 0 && x.Compare(b) <= 0
	default:
		return a.Compare(x) < 0 || x.Compare(b) <= 0
	}
}

// next is id + 1 as a Resource-ID.
func next(id wire.NodeID) wire.ResourceID {
	b := id.Bytes()
	for i := len(b) - 1; i >= 0; i-- {
		b[i]++
		if b[i] != 0 {
			break
		}
	}
	return wire.ResourceID(b)
}

// position is where a Resource-ID lies on the ring; ok is false if it has another length than a
// Node-ID of this overlay, which CHORD-RELOAD knows no place for (RFC 6940 §10.2).
func (s *State) position(r wire.ResourceID) (wire.NodeID, bool) {
	if len(r) != s.self.Len() {
		return wire.NodeID{}, false
	}
	id, err := wire.NodeIDFrom([]byte(r))
	return id, err == nil
}

// cut takes the np nearest predecessors and the ns nearest successors of self out of ids, which are
// ascending and do not hold self. In a small ring both lists hold the same peers. Neither ever holds
// self: "A peer MUST NOT enter itself in its successor or predecessor table" (RFC 6940 §10.7.3).
func cut(self wire.NodeID, ids []wire.NodeID, np, ns int) (pred, succ []wire.NodeID) {
	at, _ := slices.BinarySearchFunc(ids, self, wire.NodeID.Compare)
	n := len(ids)
	both := make([]wire.NodeID, 0, min(np, n)+min(ns, n))
	for i := range min(np, n) {
		both = append(both, ids[(at-1-i+2*n)%n])
	}
	k := len(both)
	for i := range min(ns, n) {
		both = append(both, ids[(at+i)%n])
	}
	return both[:k:k], both[k:]
}

// wouldNeighbour reports whether id would be in the Neighbor Table if it were a member.
func (s *State) wouldNeighbour(id wire.NodeID) bool {
	p, n := s.neighbours()
	if len(s.members) < max(p, n) {
		return true
	}
	return between(s.self, id, s.succ[len(s.succ)-1]) || id == s.pred[len(s.pred)-1] || between(s.pred[len(s.pred)-1], id, s.self)
}

func (s *State) isNeighbour(id wire.NodeID) bool {
	return slices.Contains(s.pred, id) || slices.Contains(s.succ, id)
}

// isSpare reports whether id is a member hardly farther than the neighbours: who steps in for them.
func (s *State) isSpare(id wire.NodeID) bool {
	p, n := s.neighbours()
	i, ok := slices.BinarySearchFunc(s.members, id, wire.NodeID.Compare)
	at, _ := slices.BinarySearchFunc(s.members, s.self, wire.NodeID.Compare)
	rank := (i - at + len(s.members)) % max(len(s.members), 1)
	return ok && (rank < 2*n || rank >= len(s.members)-2*p)
}

// recut computes the Neighbor Table and the Finger Table anew, if the members have changed, and
// tells what changed. lost is for a change by the loss of a peer, whose replicas are made anew only
// after the longer hold-down (RFC 6940 §10.7.1).
func (s *State) recut(lost bool) {
	ids := s.scratch.ids[:0]
	for _, c := range s.contacts {
		if c.member() {
			ids = append(ids, c.id)
		}
	}
	s.scratch.ids = ids
	if slices.Equal(ids, s.members) {
		return
	}
	s.members = slices.Clip(slices.Clone(ids))
	s.search.stale = true
	s.emit(RingChanged{Members: s.withSelf()})
	s.retable(lost)
	s.refit()
}

// withSelf is the members and self, ascending.
func (s *State) withSelf() []wire.NodeID {
	at, _ := slices.BinarySearchFunc(s.members, s.self, wire.NodeID.Compare)
	ring := make([]wire.NodeID, 0, len(s.members)+1)
	return append(append(append(ring, s.members[:at]...), s.self), s.members[at:]...)
}

// retable cuts the Neighbor Table out of the members.
func (s *State) retable(lost bool) {
	oldPred, oldSucc := s.pred, s.succ
	p, n := s.neighbours()
	s.pred, s.succ = cut(s.self, s.members, p, n)
	if slices.Equal(oldPred, s.pred) && slices.Equal(oldSucc, s.succ) {
		return
	}
	s.stats.NeighbourChanges++
	s.emit(NeighboursChanged{Predecessors: s.pred, Successors: s.succ})
	moved := first(oldPred) != first(s.pred)
	if moved {
		s.emit(RangeChanged{After: first(s.pred)})
	}
	// "if the Neighbor Table changes and the peer is using reactive recovery, the peer MUST send an
	// Update request to each member of its Connection Table"; "When a peer discovers that its range of
	// responsible IDs has changed, it MUST send an Update to all entries in its Connection Table"
	// (RFC 6940 §10.7.3). RFC 7363 §5.2 takes both away: "it MUST NOT send Update requests to others".
	if !s.cfg.SelfTuning && (moved || !s.cfg.Periodic) {
		s.updates.near, s.updates.all = true, true
	}
	if lost && (s.isTorn(oldSucc, s.succ) || s.isTorn(oldPred, s.pred)) {
		// "If connectivity is lost to all successor peers in the Neighbor Table, then this peer SHOULD
		// behave as if it is joining the network and MUST use Pings to find a peer" (RFC 6940 §10.7.1).
		s.search.torn = s.now.Add(bequestFor)
		s.search.stale = true
		s.pace.check = pacer{at: s.now.Add(s.jitter(checkSoon)), every: checkSoon}
	}
	hold := s.cfg.Settle
	if lost {
		hold = s.cfg.HoldDown
	}
	if at := s.now.Add(hold); at.After(s.settleAt) {
		s.settleAt = at
	}
}

// isTorn reports that all neighbours of one side are lost, of whom had is what was left: who is the
// nearest there now stepped in only for want of a better one. A true neighbour has this peer in its own
// lists. With self-tuning these are hardly ever sent, but long.
func (s *State) isTorn(had, now []wire.NodeID) bool {
	if len(now) == 0 {
		return false
	}
	c := s.contacts.get(now[0])
	return !slices.Contains(had, now[0]) || s.large && !s.cfg.SelfTuning && (c == nil || !c.ring.countsMe)
}

func first(ids []wire.NodeID) wire.NodeID {
	if len(ids) == 0 {
		return wire.NodeID{}
	}
	return ids[0]
}

// Hop is where a message goes next. The zero Hop means that there is no way: drop it.
type Hop struct {
	Local bool        // this peer handles it
	Via   wire.NodeID // else: to this linked peer
}

// NextHop finds the way to the first entry of a destination list (RFC 6940 §6.1.1 and §10.3).
// Opaque destinations are node's to resolve first.
func (s *State) NextHop(d wire.Destination) Hop {
	switch d.Type {
	case wire.DestNode:
		if d.Node == s.self || d.Node.IsWildcard() {
			return Hop{Local: true}
		}
		// "directly connected to a node with Node-ID k, then it MUST route the message to that
		// node": clients and peers not yet ready too.
		if c := s.contacts.get(d.Node); c != nil && c.linked() {
			return Hop{Via: d.Node}
		}
		// A Node-ID in the own range that is not connected does not exist: silently dropped
		// (RFC 6940 §6.1.1).
		if !s.valid(d.Node) || s.owns(d.Node) {
			return Hop{}
		}
		return s.route(d.Node)
	case wire.DestResource:
		k, ok := s.position(d.Resource)
		if !ok {
			return Hop{}
		}
		if s.owns(k) {
			return Hop{Local: true}
		}
		if c := s.contacts.get(k); c != nil && c.ring.up && c.ring.ready {
			return Hop{Via: k}
		}
		return s.route(k)
	default:
		return Hop{}
	}
}

// route picks the member with the largest Node-ID in (self, k], else the smallest above k.
func (s *State) route(k wire.NodeID) Hop {
	if len(s.members) == 0 {
		return Hop{}
	}
	// Clockwise from self, the last member not beyond k.
	i, found := slices.BinarySearchFunc(s.members, k, wire.NodeID.Compare)
	if found {
		return Hop{Via: k}
	}
	n := len(s.members)
	if m := s.members[(i-1+n)%n]; between(s.self, m, k) {
		return Hop{Via: m}
	}
	return Hop{Via: s.members[i%n]}
}

func (s *State) owns(k wire.NodeID) bool {
	return len(s.pred) == 0 || between(s.pred[0], k, s.self)
}

// Responsible reports whether this peer is responsible for r.
func (s *State) Responsible(r wire.ResourceID) bool {
	k, ok := s.position(r)
	return ok && s.owns(k)
}

// ReplicaSet lists the peers that ought to hold r as this peer sees it: the owner, then its next
// two successors (RFC 6940 §10.4), fewer in a smaller ring. It is empty for a Resource-ID of the
// wrong length. It is sure only for resources near self, once the ring is larger than
// Config.FullMesh.
func (s *State) ReplicaSet(r wire.ResourceID) []wire.NodeID {
	k, ok := s.position(r)
	if !ok {
		return nil
	}
	ring := s.withSelf()
	i, _ := slices.BinarySearchFunc(ring, k, wire.NodeID.Compare)
	var set []wire.NodeID
	for j := range min(3, len(ring)) {
		set = append(set, ring[(i+j)%len(ring)])
	}
	return set
}

// Plausible reports whether a replica store of r may come from sender: "replica StoreReqs MUST
// come from nodes which are either in the known replica set for a given resource or which are
// closer than some node in the replica set" (RFC 6940 §7.4.1.1), and whether this peer has reason
// to hold r at all, being in that set.
func (s *State) Plausible(r wire.ResourceID, sender wire.NodeID) bool {
	k, ok := s.position(r)
	set := s.ReplicaSet(r)
	if !ok || !s.valid(sender) {
		return false
	}
	last := set[len(set)-1]
	closer := k != last && sender != last && (sender == k || between(k, sender, last))
	return (closer || slices.Contains(set, sender)) && slices.Contains(set, s.self)
}

// ResponsibleSet is the share of the ring this peer is responsible for, in parts per billion, as
// ProbeAns wants it (RFC 6940 §6.4.2.5.2).
func (s *State) ResponsibleSet() uint32 {
	const whole = 1_000_000_000
	if len(s.pred) == 0 {
		return whole
	}
	// The upper 32 bits are far more than enough for nine digits of a guess.
	return uint32(distance(s.pred[0], s.self)[0] >> 32 * whole >> 32)
}
