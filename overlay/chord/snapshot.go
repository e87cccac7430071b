package chord

import (
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// PeerInfo describes one known peer.
type PeerInfo struct {
	ID         wire.NodeID
	Discovered bool
	Bootstrap  bool // has a bootstrap link
	Attached   bool // is in the Connection Table
	Ready      bool // is a member of the ring
	Neighbour  bool
	Finger     bool
	Since      time.Time // of the attached link
	Failures   int       // Attach attempts since the last success
}

// Snapshot is the state for people and tests.
type Snapshot struct {
	Phase                    Phase
	Self                     wire.NodeID
	Predecessors, Successors []wire.NodeID
	Members                  []wire.NodeID // ascending, self included
	Fingers                  []wire.NodeID // valid entries of the Finger Table, ascending
	// Size is how many members the ring has, as far as this peer can tell: it is exact up to
	// Config.FullMesh and estimated from the distances of the neighbours above.
	Size  int
	Large bool       // the ring has outgrown the full mesh
	Peers []PeerInfo // ascending
	Stats Stats
}

// Snapshot copies out what there is to see.
func (s *State) Snapshot() Snapshot {
	sn := Snapshot{
		Phase: s.phase, Self: s.self, Stats: s.stats,
		Predecessors: slices.Clone(s.pred), Successors: slices.Clone(s.succ),
		Members: s.withSelf(), Fingers: s.fingerList(), Size: len(s.members) + 1, Large: s.large,
	}
	if s.large {
		sn.Size = max(sn.Size, int(s.estimate()+0.5))
	}
	for _, c := range s.contacts {
		sn.Peers = append(sn.Peers, PeerInfo{
			ID: c.id, Discovered: c.discovered, Bootstrap: c.boot.up, Attached: c.ring.up,
			Ready: c.ring.ready, Neighbour: s.isNeighbour(c.id),
			Finger: slices.Contains(sn.Fingers, c.id), Since: c.ring.since, Failures: c.attach.fails,
		})
	}
	return sn
}
