package node

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/storage"
	"fieldkit/overlay/wire"
)

// Snapshot is what a node knows, for people, tests and the health tree.
type Snapshot struct {
	Self         wire.NodeID       `json:"self"`
	Overlay      string            `json:"overlay"`
	Sequence     uint16            `json:"sequence"`
	Phase        string            `json:"phase"` // alone, joining, member, left
	Ring         []wire.NodeID     `json:"ring"`  // ascending, self among them; complete up to 16 kits
	Predecessors []wire.NodeID     `json:"predecessors"`
	Successors   []wire.NodeID     `json:"successors"`
	Settled      uint64            `json:"settled"` // grows when the neighbours have changed and settled
	Links        []LinkInfo        `json:"links"`
	Unlinked     []Seen            `json:"unlinked"` // discovered, but without a link
	Strangers    []Stranger        `json:"strangers"`
	Stored       storage.Stats     `json:"stored"`
	Chord        chord.Stats       `json:"chord"`
	Counters     map[string]uint64 `json:"counters"`
	Transactions int               `json:"transactions"`
}

// LinkInfo is one overlay link.
type LinkInfo struct {
	Peer     wire.NodeID `json:"peer"`
	Attached bool        `json:"attached"` // by Attach; else a bootstrap link
	Ours     bool        `json:"ours"`     // this side opened it
	Member   bool        `json:"member"`   // the peer is in the ring
	Since    time.Time   `json:"since"`
	Heard    time.Time   `json:"heard"`
	ConnStats
}

// Seen is a kit that discovery sees.
type Seen struct {
	Peer  wire.NodeID      `json:"peer"`
	Addrs []netip.AddrPort `json:"addrs"`
	Since time.Time        `json:"since"`
}

// Snapshot copies out what there is to see. It fails with ErrClosed when the node does not run.
func (n *Node) Snapshot(ctx context.Context) (Snapshot, error) {
	var s Snapshot
	var conns []Conn
	if err := n.ask(ctx, func(l *loop) { s, conns = l.snapshot() }); err != nil {
		return Snapshot{}, err
	}
	for i, c := range conns {
		s.Links[i].ConnStats = c.Stats()
	}
	s.Counters = n.counters.snapshot()
	return s, nil
}

func (l *loop) snapshot() (Snapshot, []Conn) {
	c := l.chord.Snapshot()
	s := Snapshot{
		Self: l.id(), Overlay: l.n.cfg.Document.InstanceName, Sequence: l.n.params.sequence, Phase: c.Phase.String(),
		Ring: c.Members, Predecessors: c.Predecessors, Successors: c.Successors, Settled: l.topo.generation,
		Strangers: slices.Clone(l.disc.strangers), Stored: l.store.Stats(), Chord: c.Stats, Transactions: len(l.txns),
	}
	var links []*link
	for _, list := range l.conns.byPeer {
		links = append(links, list...)
	}
	slices.SortFunc(links, func(a, b *link) int {
		if d := a.peer.Compare(b.peer); d != 0 {
			return d
		}
		return a.since.Compare(b.since)
	})
	conns := make([]Conn, len(links))
	for i, k := range links {
		conns[i] = k.conn
		s.Links = append(s.Links, LinkInfo{
			Peer: k.peer, Attached: k.attached, Ours: k.dialled, Member: l.isMember(k.peer), Since: k.since, Heard: k.heard,
		})
	}
	for id, p := range l.disc.known {
		if len(l.conns.byPeer[id]) == 0 {
			s.Unlinked = append(s.Unlinked, Seen{Peer: id, Addrs: slices.Clone(p.addrs), Since: p.since})
		}
	}
	slices.SortFunc(s.Unlinked, func(a, b Seen) int { return bytes.Compare(a.Peer.Bytes(), b.Peer.Bytes()) })
	return s, conns
}

func (l *loop) isMember(id wire.NodeID) bool {
	_, ok := slices.BinarySearchFunc(l.topo.members, id, wire.NodeID.Compare)
	return ok
}
