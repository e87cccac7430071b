package discovery

import (
	"cmp"
	"net/netip"
	"slices"
)

func cmpString(a, b string) int { return cmp.Compare(a, b) }

// table holds the kits that were seen. It is pure: events come out in a fixed
// order for a given input.
type table struct {
	misses int // cycles without an answer until a peer is gone
	limit  int
	rows   map[rowKey]*row
	clock  uint64 // counts observations, to know the oldest
}

type rowKey struct{ nodeID, ifc string }

type row struct {
	peer   Peer
	seen   bool // in the running cycle
	missed int  // cycles in a row
	last   uint64
	// absent counts the answers in a row without an address of a family: some
	// responders send IPv4 and IPv6 in different answers, of which the library
	// passes on one in each cycle.
	absent [2]int
}

// families are the indices of row.absent.
var families = [2]func(netip.AddrPort) bool{
	func(a netip.AddrPort) bool { return a.Addr().Is4() },
	func(a netip.AddrPort) bool { return a.Addr().Is6() },
}

// merge returns the addresses after an answer with some: those of a family in
// it replace what was known of that family, those of the other one stay until
// they were absent too often. Another port is another process: nothing stays.
func (r *row) merge(addrs []netip.AddrPort, misses int) []netip.AddrPort {
	out := slices.Clone(addrs)
	for i, in := range families {
		if slices.ContainsFunc(addrs, in) {
			r.absent[i] = 0
			continue
		}
		if r.absent[i]++; r.absent[i] >= misses {
			continue
		}
		for _, a := range r.peer.Addrs {
			if in(a) && (len(addrs) == 0 || a.Port() == addrs[0].Port()) && len(out) < MaxAddresses {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

// observe takes in that p answered. Kits of our own overlay push out the oldest
// kit of another one when the table is full; else what does not fit is refused
// (ok false).
func (t *table) observe(p Peer, overlay string) (events []Event, ok bool) {
	if t.rows == nil {
		t.rows = map[rowKey]*row{}
	}
	t.clock++
	k := rowKey{p.NodeID, p.Interface}
	r := t.rows[k]
	if r == nil {
		if len(t.rows) >= t.limit {
			e, made := t.makeRoom(p.Overlay == overlay, overlay)
			if !made {
				return nil, false
			}
			events = append(events, e)
		}
		t.rows[k] = &row{peer: p, seen: true, last: t.clock}
		return append(events, Event{Up, p}), true
	}
	r.seen, r.missed, r.last = true, 0, t.clock
	p.Addrs = r.merge(p.Addrs, t.misses)
	if slices.Equal(r.peer.Addrs, p.Addrs) && r.peer.Text == p.Text {
		return nil, true
	}
	r.peer = p
	return []Event{{Update, p}}, true
}

func (t *table) makeRoom(ours bool, overlay string) (Event, bool) {
	if !ours {
		return Event{}, false
	}
	var oldest *row
	for _, r := range t.rows {
		if r.peer.Overlay != overlay && (oldest == nil || r.last < oldest.last) {
			oldest = r
		}
	}
	if oldest == nil {
		return Event{}, false
	}
	delete(t.rows, rowKey{oldest.peer.NodeID, oldest.peer.Interface})
	return Event{Down, oldest.peer}, true
}

// endCycle takes in that a whole cycle passed on an interface. missing says
// that a peer which is still listed did not answer.
func (t *table) endCycle(ifc string) (events []Event, missing bool) {
	for _, k := range t.keys() {
		r := t.rows[k]
		if k.ifc != ifc {
			continue
		}
		if !r.seen {
			r.missed++
			if r.missed >= t.misses {
				delete(t.rows, k)
				events = append(events, Event{Down, r.peer})
				continue
			}
			missing = true
		}
		r.seen = false
	}
	return events, missing
}

// drop takes in that an interface is gone, and with it all that was seen there.
func (t *table) drop(ifc string) (events []Event) {
	for _, k := range t.keys() {
		if k.ifc == ifc {
			events = append(events, Event{Down, t.rows[k].peer})
			delete(t.rows, k)
		}
	}
	return events
}

func (t *table) keys() []rowKey {
	keys := make([]rowKey, 0, len(t.rows))
	for k := range t.rows {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b rowKey) int {
		return cmp.Or(cmp.Compare(a.nodeID, b.nodeID), cmp.Compare(a.ifc, b.ifc))
	})
	return keys
}

func (t *table) peers() []Peer {
	out := make([]Peer, 0, len(t.rows))
	for _, k := range t.keys() {
		out = append(out, t.rows[k].peer)
	}
	return out
}

// count is how many peers of an overlay are listed on an interface.
func (t *table) count(ifc, overlay string) (n int) {
	for k, r := range t.rows {
		if k.ifc == ifc && r.peer.Overlay == overlay {
			n++
		}
	}
	return n
}
