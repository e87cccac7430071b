package chord

import (
	"fmt"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

// ringHolds checks what Zave (Reasoning about identifier spaces: How to make Chord correct, 2017) found
// that the published Chord does not keep up, and without which it cannot repair itself. Every member's
// best successor is the first of its list that lives and is a member; following these
//   - there is a ring (AtLeastOneRing),
//   - there is no second one (AtMostOneRing),
//   - the ring is in the order of the Node-IDs (OrderedRing), and
//   - it is reached from every member that is not on it yet (ConnectedAppendages).
func (m *sim) ringHolds() error {
	next := map[wire.NodeID]wire.NodeID{}
	members := 0
	for _, id := range m.ids {
		s := m.nodes[id].state
		if s.phase != Member {
			continue
		}
		members++
		for _, o := range s.succ {
			if m.alive(o) && m.nodes[o].state.phase == Member {
				next[id] = o
				break
			}
		}
		if _, ok := next[id]; !ok {
			return fmt.Errorf("%v has no living successor among %v", id, s.succ)
		}
	}
	if members == 0 {
		return nil // at most rings of one
	}
	ring := map[wire.NodeID]int{} // to the number of the walk that found it
	rings := 0
	for walk, id := range m.ids {
		if _, ok := next[id]; !ok {
			continue
		}
		for ring[id] == 0 {
			ring[id] = walk + 1
			id = next[id]
		}
		if ring[id] != walk+1 {
			continue // ends in what was walked before
		}
		if rings++; rings > 1 {
			return fmt.Errorf("a second ring, with %v in it", id)
		}
		wraps := 0
		for at := id; ; {
			if next[at].Compare(at) <= 0 {
				wraps++
			}
			if at = next[at]; at == id {
				break
			}
		}
		if wraps != 1 {
			return fmt.Errorf("the ring through %v goes around %d times", id, wraps)
		}
	}
	return nil
}

// TestRingInvariants lets kits come, leave and die, one after the other, from a ring of one up, and
// looks after every single event. It starts where Chord is weakest: with fewer members than the
// successor list is long.
func TestRingInvariants(t *testing.T) {
	for _, mode := range modes {
		for _, mesh := range []int{4, 16} {
			t.Run(fmt.Sprintf("%s/mesh of %d", mode.name, mesh), func(t *testing.T) {
				seeds(t, 20, func(t *testing.T, seed uint64) {
					m := newSim(t, seed)
					m.digest, m.sight, m.ttl = nil, 3, 32
					m.cfg = mode.cfg
					m.cfg.FullMesh = mesh
					m.start(m.randomID())
					m.run(time.Second)
					m.start(m.randomID())
					m.run(15 * time.Second)
					m.always = m.ringHolds
					for range 40 {
						switch n := m.rand.IntN(4); {
						case n < 2 || len(m.ids) < 4:
							m.admit(m.randomID())
						case n == 2 && m.rand.IntN(2) == 0:
							gone := m.ids[m.rand.IntN(len(m.ids))]
							m.leave(gone)
						default:
							// It takes up to 11 s until all have noticed. Zave's assumption, too, is that a member does
							// not lose all its successors before it can replace one.
							m.kill(m.ids[m.rand.IntN(len(m.ids))])
							m.run(11 * time.Second)
						}
						m.run(3*time.Second + time.Duration(m.rand.Int64N(int64(30*time.Second))))
					}
					m.mustConverge(20*time.Minute, "in the end")
				})
			})
		}
	}
}

// admit starts a kit and waits until it is in the ring: two newcomers that find each other first would be
// a ring of their own, and merge later. Discovery shows others to it until it is.
func (m *sim) admit(id wire.NodeID) {
	n := m.start(id)
	for range 60 {
		if m.run(time.Second); n.state.phase == Member {
			return
		}
		m.discover(id)
	}
	m.t.Fatalf("%v is not in the ring after a minute: %v", id, n.state.phase)
}

// leave lets a kit say good-bye and go.
func (m *sim) leave(id wire.NodeID) {
	m.step(m.nodes[id], Shutdown{})
	m.run(300 * time.Millisecond)
	m.kill(id)
}
