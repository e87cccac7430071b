package chord

import (
	"slices"
	"time"

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

// cut takes the n nearest successors and predecessors of self out of ids, which are ascending and
// do not hold self. In a small ring both lists hold the same peers. Neither ever holds self:
// "A peer MUST NOT enter itself in its successor or predecessor table" (RFC 6940 §10.7.3).
func cut(self wire.NodeID, ids []wire.NodeID, n int) (pred, succ []wire.NodeID) {
	at, _ := slices.BinarySearchFunc(ids, self, wire.NodeID.Compare)
	for i := range min(n, len(ids)) {
		succ = append(succ, ids[(at+i)%len(ids)])
		pred = append(pred, ids[(at-1-i+2*len(ids))%len(ids)])
	}
	return pred, succ
}

// wouldNeighbour reports whether id would be in the Neighbor Table if it were a member.
func (s *State) wouldNeighbour(id wire.NodeID) bool {
	ids := s.members
	if i, ok := slices.BinarySearchFunc(ids, id, wire.NodeID.Compare); !ok {
		ids = slices.Insert(slices.Clone(ids), i, id)
	}
	pred, succ := cut(s.self, ids, s.cfg.Neighbours)
	return slices.Contains(pred, id) || slices.Contains(succ, id)
}

func (s *State) isNeighbour(id wire.NodeID) bool {
	return slices.Contains(s.pred, id) || slices.Contains(s.succ, id)
}

// recut computes the Neighbor Table anew from all members and tells what changed. lost is for a
// change by the loss of a peer, whose replicas are made anew only after the longer hold-down
// (RFC 6940 §10.7.1).
func (s *State) recut(lost bool) {
	var members []wire.NodeID
	for _, c := range s.contacts {
		if c.ring.up && c.ring.ready {
			members = append(members, c.id)
		}
	}
	if slices.Equal(members, s.members) {
		return
	}
	s.members = members
	oldPred, oldSucc := s.pred, s.succ
	s.pred, s.succ = cut(s.self, members, s.cfg.Neighbours)

	ring := slices.Clone(members)
	at, _ := slices.BinarySearchFunc(ring, s.self, wire.NodeID.Compare)
	s.emit(RingChanged{Members: slices.Insert(ring, at, s.self)})
	if slices.Equal(oldPred, s.pred) && slices.Equal(oldSucc, s.succ) {
		return
	}
	s.stats.NeighbourChanges++
	s.emit(NeighboursChanged{Predecessors: slices.Clone(s.pred), Successors: slices.Clone(s.succ)})
	if first(oldPred) != first(s.pred) {
		s.emit(RangeChanged{After: first(s.pred)})
	}
	// "if the Neighbor Table changes and the peer is using reactive recovery, the peer MUST send an
	// Update request to each member of its Connection Table" (RFC 6940 §10.7.3).
	s.dirty = true
	hold := s.cfg.Settle
	if lost {
		hold = s.cfg.HoldDown
	}
	if at := s.now.Add(hold); at.After(s.settleAt) {
		s.settleAt = at
	}
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
	at, _ := slices.BinarySearchFunc(s.members, s.self, wire.NodeID.Compare)
	ring := slices.Insert(slices.Clone(s.members), at, s.self)
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

// PeerInfo describes one known peer.
type PeerInfo struct {
	ID         wire.NodeID
	Discovered bool
	Bootstrap  bool // has a bootstrap link
	Attached   bool // is in the Connection Table
	Ready      bool // is a member of the ring
	Neighbour  bool
	Since      time.Time // of the attached link
	Failures   int       // Attach attempts since the last success
}

// Snapshot is the state for people and tests.
type Snapshot struct {
	Phase                    Phase
	Self                     wire.NodeID
	Predecessors, Successors []wire.NodeID
	Members                  []wire.NodeID // ascending, self included
	Peers                    []PeerInfo    // ascending
	Stats                    Stats
}

// Snapshot copies out what there is to see.
func (s *State) Snapshot() Snapshot {
	sn := Snapshot{
		Phase: s.phase, Self: s.self, Stats: s.stats,
		Predecessors: slices.Clone(s.pred), Successors: slices.Clone(s.succ),
	}
	at, _ := slices.BinarySearchFunc(s.members, s.self, wire.NodeID.Compare)
	sn.Members = slices.Insert(slices.Clone(s.members), at, s.self)
	for _, c := range s.contacts {
		sn.Peers = append(sn.Peers, PeerInfo{
			ID: c.id, Discovered: c.discovered, Bootstrap: c.boot.up, Attached: c.ring.up,
			Ready: c.ring.ready, Neighbour: s.isNeighbour(c.id), Since: c.ring.since, Failures: c.attach.fails,
		})
	}
	return sn
}

// ResponsibleSet is the share of the ring this peer is responsible for, in parts per billion, as
// ProbeAns wants it (RFC 6940 §6.4.2.5.2).
func (s *State) ResponsibleSet() uint32 {
	const whole = 1_000_000_000
	if len(s.pred) == 0 {
		return whole
	}
	// The upper 32 bits are far more than enough for nine digits of a guess.
	top := func(id wire.NodeID) (v uint32) {
		for _, b := range id.Bytes()[:4] {
			v = v<<8 | uint32(b)
		}
		return v
	}
	return uint32(uint64(top(s.self)-top(s.pred[0])) * whole >> 32)
}

// Uptime is how long this State has existed, by the last Step.
func (s *State) Uptime() time.Duration { return s.now.Sub(s.started) }
