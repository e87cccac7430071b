package node

import (
	"context"
	"reflect"
	"sync/atomic"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/peer"
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

// Snapshot copies out what there is to see. It fails with ErrClosed when the node does not run.
func (n *Node) Snapshot(ctx context.Context) (Snapshot, error) {
	seen := make(chan peer.Snapshot, 1)
	if !n.post(ctx, func(time.Time) { seen <- n.peer.Snapshot() }) {
		return Snapshot{}, n.ended(ctx)
	}
	var p peer.Snapshot
	select {
	case p = <-seen:
	case <-ctx.Done():
		return Snapshot{}, n.ended(ctx)
	case <-n.done:
		return Snapshot{}, n.ended(ctx)
	}
	s := Snapshot{
		Self: n.ID(), Overlay: n.cfg.Document.InstanceName, Sequence: n.cfg.Document.Sequence, Phase: p.Phase.String(),
		Ring: p.Ring, Predecessors: p.Predecessors, Successors: p.Successors, Settled: p.Settled,
		Unlinked: p.Unlinked, Strangers: p.Strangers, Stored: p.Stored, Chord: p.Chord, Transactions: p.Transactions,
		Counters: n.counters.with(p.Counters),
	}
	for _, k := range p.Links {
		i := LinkInfo{Peer: k.Peer, Attached: k.Attached, Ours: k.Ours, Member: k.Member, Since: k.Since, Heard: k.Heard}
		if l, ok := k.Link.(*link); ok {
			i.ConnStats = l.Stats()
		}
		s.Links = append(s.Links, i)
	}
	return s, nil
}

// counters are those of this shell; the peer has its own.
type counters struct {
	EventsDropped atomic.Uint64 // the loop had too much to do
	RateLimited   atomic.Uint64 // messages of links that brought too many
}

// with names all counters in snake_case, without zeros.
func (c *counters) with(p peer.Counters) map[string]uint64 {
	out := make(map[string]uint64)
	v := reflect.ValueOf(p)
	for i := range v.NumField() {
		out[snake(v.Type().Field(i).Name)] = v.Field(i).Uint()
	}
	out["events_dropped"] += c.EventsDropped.Load()
	out["rate_limited"] = c.RateLimited.Load()
	for name, n := range out {
		if n == 0 {
			delete(out, name)
		}
	}
	return out
}

func snake(s string) string {
	b := make([]byte, 0, len(s)+4)
	for i, r := range []byte(s) {
		if upper := r >= 'A' && r <= 'Z'; upper {
			if i > 0 && (s[i-1] < 'A' || s[i-1] > 'Z' || i+1 < len(s) && s[i+1] >= 'a') {
				b = append(b, '_')
			}
			r += 'a' - 'A'
		}
		b = append(b, r)
	}
	return string(b)
}
