package peer

import (
	"net/netip"
	"slices"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/storage"
	"fieldkit/overlay/wire"
)

// Snapshot is what a peer knows, for people, tests and the health tree.
type Snapshot struct {
	Phase        chord.Phase
	Ring         []wire.NodeID // ascending, self among them; complete up to 16 kits
	Predecessors []wire.NodeID
	Successors   []wire.NodeID
	Settled      uint64     // grows when the neighbours have changed and settled
	Links        []LinkInfo // by Node-ID
	Unlinked     []Seen     // discovered, but without a link; by Node-ID
	Strangers    []Stranger
	Stored       storage.Stats
	Chord        chord.Stats
	Counters     Counters
	Transactions int
}

// LinkInfo is one overlay link.
type LinkInfo struct {
	Link     Link
	Peer     wire.NodeID
	Attached bool // by Attach; else a bootstrap link
	Ours     bool // this side opened it
	Member   bool // the peer is in the ring
	Since    time.Time
	Heard    time.Time
}

// Seen is a kit that discovery sees.
type Seen struct {
	Peer  wire.NodeID      `json:"peer"`
	Addrs []netip.AddrPort `json:"addrs"`
	Since time.Time        `json:"since"`
}

// Snapshot copies out what there is to see.
func (p *Peer) Snapshot() Snapshot {
	c := p.chord.Snapshot()
	s := Snapshot{
		Phase: c.Phase, Ring: c.Members, Predecessors: c.Predecessors, Successors: c.Successors, Settled: p.topo.generation,
		Strangers: slices.Clone(p.disc.strangers), Stored: p.store.Stats(), Chord: c.Stats, Counters: p.count,
		Transactions: len(p.txns),
	}
	for _, k := range p.conns.all() {
		s.Links = append(s.Links, LinkInfo{
			Link: k.conn, Peer: k.peer, Attached: k.attached, Ours: k.dialled, Member: p.isMember(k.peer), Since: k.since, Heard: k.lastHeard(),
		})
	}
	for id, at := range p.disc.known {
		if len(p.conns.byPeer[id]) == 0 {
			s.Unlinked = append(s.Unlinked, Seen{Peer: id, Addrs: slices.Clone(at.addrs), Since: at.since})
		}
	}
	slices.SortFunc(s.Unlinked, func(a, b Seen) int { return a.Peer.Compare(b.Peer) })
	return s
}

// Counters are what Snapshot has of them.
func (p *Peer) Counters() Counters { return p.count }

func (p *Peer) isMember(id wire.NodeID) bool {
	_, ok := slices.BinarySearchFunc(p.topo.members, id, wire.NodeID.Compare)
	return ok
}
