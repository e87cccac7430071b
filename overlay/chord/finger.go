package chord

import (
	"math"
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// fingers is the Finger Table of RFC 6940 §10.1 and the search for what it lacks.
type fingers struct {
	ids   []wire.NodeID // entry i stands at i−1; zero: invalid
	miss  []uint8       // how often entry i was searched for in vain
	hints []lead        // fingers that others listed in full Updates
	since time.Time     // when the ring became large for this peer
	at    time.Time     // next search
	// The search under way: a Ping to point for entry, given up at until; zero: none.
	point wire.ResourceID
	entry int
	until time.Time
}

const maxHints = 32

// bits is the length of a Node-ID, and the most entries a Finger Table can have.
func (s *State) bits() int { return 8 * s.self.Len() }

// tableSize is how many entries the Finger Table has: "ensure that the Finger Table is large enough
// to contain at least the final successor in the peer's Neighbor Table", and 16 at least (RFC 6940
// §10.7.4.3); by the estimated size of the network with RFC 7363 §6.2.
func (s *State) tableSize() int {
	n := minFingers
	switch {
	case s.cfg.SelfTuning:
		n = max(n, s.tuning.logN)
	case len(s.succ) > 0:
		n = max(n, bucket(s.self, s.succ[len(s.succ)-1]))
	}
	return min(n, s.bits())
}

// refit puts the members into the entries that are theirs. An entry keeps its peer as long as that is
// a member: "all references to the failed peer MUST be removed from the Finger Table and replaced with
// the closest preceding peer from the Finger Table or Neighbor Table" (RFC 6940 §10.7.2). To replace
// it is what routing does anyway, see Finger.
func (s *State) refit() {
	f := &s.fingers
	n := s.tableSize()
	for len(f.ids) < n {
		f.ids = append(f.ids, wire.NodeID{})
		f.miss = append(f.miss, 0)
	}
	f.ids, f.miss = f.ids[:n], f.miss[:n]
	for i, id := range f.ids {
		if _, ok := slices.BinarySearchFunc(s.members, id, wire.NodeID.Compare); !ok {
			f.ids[i] = wire.NodeID{}
		}
	}
	// Of several, the one longest connected is the likeliest to stay.
	var since [8 * wire.MaxNodeIDLen]time.Time
	for _, c := range s.contacts {
		if !c.member() {
			continue
		}
		i := bucket(s.self, c.id) - 1
		if i >= n || !f.ids[i].IsZero() && (since[i].IsZero() || !c.ring.since.Before(since[i])) {
			continue
		}
		f.ids[i], f.miss[i], since[i] = c.id, 0, c.ring.since
	}
	if s.cfg.SelfTuning {
		for i, id := range f.ids {
			if !since[i].IsZero() {
				s.askUptime(id)
			}
		}
	}
}

// Finger returns entry i of the Finger Table, from 1, which is half of the ring away. If it is not
// valid, nobody being known in its range, it is the closest preceding peer that is (RFC 6940 §10.7.2).
// It is the zero Node-ID beyond the table and in a ring of one.
func (s *State) Finger(i int) (id wire.NodeID, valid bool) {
	if i < 1 || i > len(s.fingers.ids) {
		return wire.NodeID{}, false
	}
	if id := s.fingers.ids[i-1]; !id.IsZero() {
		return id, true
	}
	var d number
	d[(i-1)/64] |= 1 << (63 - (i-1)%64)
	k, err := wire.NodeIDFrom(toNumber(s.self).add(d).bytes(s.self.Len()))
	if err != nil {
		return wire.NodeID{}, false
	}
	return s.route(k).Via, false
}

// fingerList is the valid entries, "in numerically ascending order" (RFC 6940 §10.7).
func (s *State) fingerList() []wire.NodeID {
	var ids []wire.NodeID
	for _, id := range s.fingers.ids {
		if !id.IsZero() {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, wire.NodeID.Compare)
	return ids
}

func (s *State) isFinger(id wire.NodeID) bool {
	i := bucket(s.self, id) - 1
	return i < len(s.fingers.ids) && s.fingers.ids[i] == id
}

// hint remembers fingers of a peer, of which about half are good for this one too: where everybody
// takes over the fingers of its Admitting Peer, a few old peers end up as fingers of all.
func (s *State) hint(via wire.NodeID, ids []wire.NodeID) {
	f := &s.fingers
	for _, id := range ids[:min(len(ids), s.bits())] {
		switch {
		case id == s.self:
		case !s.valid(id):
			s.stats.IDsIgnored++
		case s.cfg.Rand.Uint64()&1 == 0:
			if len(f.hints) >= maxHints {
				f.hints = slices.Delete(f.hints, 0, 1)
			}
			f.hints = append(f.hints, lead{id: id, via: via})
		}
	}
}

// takeHint returns a hint for entry i and forgets it.
func (s *State) takeHint(i int) (*contact, wire.NodeID) {
	f := &s.fingers
	for j := 0; j < len(f.hints); j++ {
		h := f.hints[j]
		via := s.contacts.get(h.via)
		if gone := via == nil || !via.member(); !gone && bucket(s.self, h.id) != i {
			continue
		}
		f.hints = slices.Delete(f.hints, j, j+1)
		j--
		if via == nil || !via.member() {
			continue
		}
		if c := s.contact(h.id); c != nil && s.mayAttach(c) {
			return c, h.via
		}
	}
	return nil, wire.NodeID{}
}

// scheduleFingers searches for one peer at a time: often at first, since "JN SHOULD send Attach
// requests … to the desired peers in the Finger Table" (RFC 6940 §10.5), then every chord-ping-interval
// ("SHOULD NOT send Ping requests looking for new finger table entries more often", §10.7.4.2).
// A peer that does not stay long does not need them all.
func (s *State) scheduleFingers() {
	f := &s.fingers
	if !s.large || s.phase != Member {
		f.since = time.Time{}
		return
	}
	if f.since.IsZero() {
		f.since = s.now
		f.at = s.now.Add(s.jitter(fingerDelay))
	}
	if s.cfg.SelfTuning || !s.due(f.at) {
		return // with self-tuning, it is done by stabilise
	}
	f.at = s.now.Add(s.jitter(max(min(s.now.Sub(f.since)/2, s.cfg.PingInterval), min(fingerDelay, s.cfg.PingInterval))))
	s.refreshFingers()
}

// refreshFingers is alternative 1 of RFC 6940 §10.7.4.2: "search through the Finger Table entries from
// i=1, and each time an invalid entry is encountered, send a Ping to replace that entry with
// probability 0.5". Entries that nobody was found for come up less often, and those that reach no
// farther than the neighbours not at all: whoever is there is known.
func (s *State) refreshFingers() {
	f := &s.fingers
	if len(s.succ) == 0 || !f.until.IsZero() || len(s.search.under) >= maxAttaches {
		return
	}
	for i := 1; i <= len(f.ids) && i < bucket(s.self, s.succ[len(s.succ)-1]); i++ {
		if !f.ids[i-1].IsZero() || s.cfg.Rand.Uint64()<<(63-min(f.miss[i-1], 4)) != 0 {
			continue
		}
		if c, via := s.takeHint(i); c != nil {
			s.startAttach(c, via, forFinger)
			return
		}
		s.stats.FingerSearches++
		f.point, f.entry, f.until = pointIn(s.cfg.Rand, s.self, i), i, s.now.Add(probeTimeout)
		s.emit(Search{Resource: f.point})
		return
	}
}

func (s *State) searchAnswered(point wire.ResourceID, owner wire.NodeID) {
	f := &s.fingers
	if f.until.IsZero() || f.point != point {
		return
	}
	s.searchFailed(point)
	if owner == s.self {
		return
	}
	c := s.contact(owner)
	if c == nil {
		return
	}
	// The owner of the point may lie beyond the range and be good for another entry.
	if i := bucket(s.self, owner); i <= len(f.ids) && f.ids[i-1].IsZero() && s.mayAttach(c) && len(s.search.under) < maxAttaches {
		s.startAttach(c, wire.NodeID{}, forFinger)
	}
}

// searchFailed ends a search; until a peer is found for the entry, it counts as in vain.
func (s *State) searchFailed(point wire.ResourceID) {
	f := &s.fingers
	if f.until.IsZero() || f.point != point {
		return
	}
	f.until = time.Time{}
	if f.entry <= len(f.miss) {
		f.miss[f.entry-1] = min(f.miss[f.entry-1]+1, math.MaxUint8)
	}
}

// estimate is the size of the network by the distances of the neighbours: "the average inter-peer
// distance d between the successive peers starting from the most distant predecessor and ending to the
// most distant successor", N = 2^128/d (RFC 7363 §6.1).
func (s *State) estimate() float64 {
	p, n := len(s.pred), len(s.succ)
	if p+n > len(s.members) || p == 0 || n == 0 {
		return float64(len(s.members) + 1) // the lists overlap: they hold everyone
	}
	return density(s.pred[p-1], s.succ[n-1], p+n)
}

// density is the number of peers that a ring with so many gaps from a to b has.
func density(a, b wire.NodeID, gaps int) float64 {
	return float64(gaps) / max(distance(a, b).share(), math.SmallestNonzeroFloat32)
}
