package turnusage

import (
	"net/netip"
	"slices"
	"time"

	"fieldkit/overlay/link"
	"fieldkit/overlay/wire"
)

const (
	// maxRelays is how many TURN servers one attempt asks. Of kits that are known to lie between others, two; where
	// none is known, one after the other of the neighbours, which the next attempt continues.
	maxRelays  = 2
	maxServers = 4

	// ringSettles is how long after a change of the ring relays are asked for: an Update and the Attach that follows
	// it are through by then, also over a slow radio.
	ringSettles = 900 * time.Millisecond
	// unreachedLasts is how long they are after an attempt that found no way.
	unreachedLasts = 10 * time.Minute
)

// probed is what a Binding request to a neighbour told.
type probed struct {
	answered  bool
	reflexive netip.Addr
}

// outlook is what is known when servers are chosen.
type outlook struct {
	neighbours []link.Neighbour
	own        []netip.Addr
	port       uint16
	probes     map[netip.Addr]probed            // by neighbour's address; one not in it was not asked yet
	found      map[wire.NodeID][]netip.AddrPort // servers that the overlay lists
	turn       int                              // of the neighbours that take turns
	now        time.Time

	self      wire.NodeID
	ring      []wire.NodeID // as it was last
	ringAt    time.Time     // when it changed
	unreached time.Time     // when an attempt found no way
}

// wanted reports whether an attempt may need a relay. Where every member of the ring is a neighbour, and nothing
// changed, it does not; but to whom the next attempt leads is not known here, so it may while this kit knows nobody yet,
// when somebody just came, who may lie between it and others, and after an attempt found no way. Of the two sides one
// that asks is enough, since relays are on another link than those who ask for them.
func (o outlook) wanted() bool {
	return len(o.ring) < 2 || o.now.Sub(o.ringAt) < ringSettles || o.now.Sub(o.unreached) < unreachedLasts || o.apart()
}

// relays chooses the TURN servers: neighbours that the overlay lists first, then the others in turn. A neighbour whose
// server did not answer is left out, and one that was not asked yet while there is another: an offer waits for what
// does not answer.
func (o outlook) relays() (r []link.Server) {
	if !o.wanted() {
		return nil
	}
	answers := slices.ContainsFunc(o.neighbours, func(n link.Neighbour) bool { return o.probes[n.Addr].answered })
	var listed, others []link.Neighbour
	for _, n := range o.neighbours {
		known := func(x link.Neighbour) bool { return x.Node == n.Node }
		p, asked := o.probes[n.Addr]
		if !p.answered && (asked || answers) || !mayServe(n.Addr) || slices.ContainsFunc(listed, known) || slices.ContainsFunc(others, known) {
			continue
		}
		if len(o.found[n.Node]) > 0 {
			listed = append(listed, n)
		} else {
			others = append(others, n)
		}
	}
	if k := len(others); k > 0 {
		k = o.turn % k
		others = append(others[k:len(others):len(others)], others[:k]...)
	}
	for _, n := range append(listed, others...) {
		if len(r) == maxRelays {
			break
		}
		r = append(r, link.Server{Addr: o.serverOf(n), Username: n.Username, Password: n.Password})
	}
	return r
}

// mayServe tells whether a TURN server may be at an address: a link-local one of IPv6 has a meaning on its link alone.
func mayServe(a netip.Addr) bool { return a.IsValid() && (a.Is4() || !a.IsLinkLocalUnicast()) }

// serverOf is where a neighbour's server is: at the address that the link proved, and at the port that it stored.
func (o outlook) serverOf(n link.Neighbour) netip.AddrPort {
	port := o.port
	for _, a := range o.found[n.Node] {
		port = a.Port()
	}
	return netip.AddrPortFrom(n.Addr, port)
}

// servers adds the STUN servers to the relays: "a peer SHOULD group other peers by the peer-reflexive addresses it
// discovers through them. It SHOULD then select one peer from each group to use as a STUN server for future
// connections" (RFC 6940 §6.5.1.4). The group of those that see this kit as it sees itself needs none: a
// server-reflexive candidate would be the host candidate again.
func (o outlook) servers() []link.Server {
	r := o.relays()
	var groups []netip.Addr
	for _, n := range o.neighbours {
		p := o.probes[n.Addr]
		if !p.answered || slices.Contains(o.own, p.reflexive) || slices.Contains(groups, p.reflexive) {
			continue
		}
		groups = append(groups, p.reflexive)
		at := o.serverOf(n)
		if i := slices.IndexFunc(r, func(s link.Server) bool { return s.Addr == at }); i >= 0 {
			r[i].Reflexive = true
		} else if len(r) < maxServers {
			r = append(r, link.Server{Addr: at, Reflexive: true})
		}
	}
	return r
}

// behindNAT reports whether anybody sees this kit at an address that is not its own: "then the peer is behind a NAT and
// SHOULD NOT be a candidate for a TURN server" (RFC 6940 §9).
func (o outlook) behindNAT() bool {
	for _, n := range o.neighbours {
		if p := o.probes[n.Addr]; p.answered && !slices.Contains(o.own, p.reflexive) {
			return true
		}
	}
	return false
}

// bridges reports whether this kit has neighbours on two of its links that do not share one of them: who lies between
// others is worth listing.
func (o outlook) bridges() bool {
	on := make(map[netip.Addr]map[wire.NodeID]bool)
	for _, n := range o.neighbours {
		if !n.Local.IsValid() || n.Local.IsUnspecified() {
			continue
		}
		if on[n.Local] == nil {
			on[n.Local] = make(map[wire.NodeID]bool)
		}
		on[n.Local][n.Node] = true
	}
	lacks := func(a, b map[wire.NodeID]bool) bool {
		for n := range a {
			if !b[n] {
				return true
			}
		}
		return false
	}
	for i, a := range on {
		for j, b := range on {
			if i != j && lacks(a, b) && lacks(b, a) {
				return true
			}
		}
	}
	return false
}

// apart reports whether a member of the ring is nobody's neighbour here: there is somebody to reach by a relay.
func (o outlook) apart() bool {
	for _, m := range o.ring {
		if m != o.self && !slices.ContainsFunc(o.neighbours, func(n link.Neighbour) bool { return n.Node == m }) {
			return true
		}
	}
	return false
}
