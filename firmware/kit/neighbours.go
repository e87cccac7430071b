package kit

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
	"fieldkit/ui"
)

// States of other kits on the status page.
const (
	stateLinked   = "linked"
	stateSeen     = "seen"
	stateStranger = "stranger" // of another mission, or refused
)

// overlayStatus fills in the ring and the other kits.
func (k *Kit) overlayStatus(s *ui.Status, now time.Time) {
	s.Kit.JoinedMS = ms(k.overlay.joinedAfter())
	all := k.announced(now)
	if n := k.overlay.node.Load(); n != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if o, err := n.Snapshot(ctx); err == nil {
			k.addOverlay(s, all, o, now)
		}
	}
	for _, n := range all {
		slices.Sort(n.Addresses)
		n.Addresses = slices.Compact(n.Addresses)
		s.Kits = append(s.Kits, *n)
	}
	slices.SortFunc(s.Kits, func(x, y ui.Neighbour) int {
		return cmp.Or(cmp.Compare(x.State, y.State), cmp.Compare(x.Number, y.Number), cmp.Compare(x.NodeID, y.NodeID))
	})
	if d := k.overlay.found.Load(); d != nil {
		s.Counters = append(s.Counters, counters("discovery ", d.Snapshot().Stats)...)
	}
	if t := k.overlay.links.Load(); t != nil {
		s.Counters = append(s.Counters, counters("link ", t.Stats())...)
	}
	if r := k.overlay.relaying.Load(); r != nil {
		s.Counters = append(s.Counters, r.counters()...)
	}
	if u := k.overlay.usage.Load(); u != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if stats, err := u.Stats(ctx); err == nil {
			s.Counters = append(s.Counters, counters("sip usage ", stats)...)
		}
		s.Counters = append(s.Counters, k.certificateCounters(ctx)...)
	}
}

// announced are the kits that mDNS has now, by Node-ID.
func (k *Kit) announced(now time.Time) map[string]*ui.Neighbour {
	mine := k.announcement().Overlay
	all := map[string]*ui.Neighbour{}
	o := &k.overlay
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, p := range o.seen {
		n := all[key.node]
		if n == nil {
			n = &ui.Neighbour{NodeID: key.node, Number: int(p.peer.Number), Name: p.peer.Name, State: stateSeen, SinceS: seconds(now.Sub(p.since))}
			all[key.node] = n
		}
		if p.peer.Overlay != mine {
			n.State, n.Reason = stateStranger, "announces another mission"
		}
		n.Interfaces = append(n.Interfaces, key.iface)
		for _, a := range p.peer.Addrs {
			n.Addresses = append(n.Addresses, a.String())
		}
	}
	return all
}

func (k *Kit) addOverlay(s *ui.Status, all map[string]*ui.Neighbour, o node.Snapshot, now time.Time) {
	s.Ring = hexIDs(o.Ring)
	for _, l := range o.Links {
		s.Kit.LinkBytes += l.BytesSent + l.BytesReceived
		if !l.Member {
			continue
		}
		id := l.Peer.String()
		n := all[id]
		if n == nil {
			n = &ui.Neighbour{NodeID: id}
			all[id] = n
		}
		n.State, n.Reason, n.SinceS = stateLinked, "", seconds(now.Sub(l.Since))
		n.RTTMS = ms(l.RTT)
	}
	for _, x := range o.Strangers {
		n := strangerAt(all, x.From)
		if n.State == stateLinked {
			continue // somebody else at an address that a kit of ours has, or has had
		}
		n.State, n.SinceS = stateStranger, seconds(now.Sub(x.First))
		n.Reason = fmt.Sprintf("refused %d times: %s", x.Count, x.Why)
	}
	for name, v := range o.Counters {
		s.Counters = append(s.Counters, ui.Counter{Name: "overlay " + words(name), Value: v})
	}
	s.Counters = append(s.Counters, ui.Counter{Name: "overlay values stored", Value: uint64(o.Stored.Values)})
	s.Counters = append(s.Counters, counters("overlay storage ", o.Stored)...)
	slices.SortFunc(s.Counters, func(x, y ui.Counter) int { return cmp.Compare(x.Name, y.Name) })
}

// strangerAt finds the kit that was refused, by its Node-ID or by the address it was met at.
func strangerAt(all map[string]*ui.Neighbour, from string) *ui.Neighbour {
	if n := all[from]; n != nil {
		return n
	}
	host := from
	if a, err := netip.ParseAddrPort(from); err == nil {
		host = a.Addr().String()
	}
	for _, n := range all {
		for _, addr := range n.Addresses {
			if a, err := netip.ParseAddrPort(addr); err == nil && a.Addr().String() == host {
				return n
			}
		}
	}
	n := &ui.Neighbour{Addresses: []string{from}}
	all[from] = n
	return n
}

func hexIDs(ids []wire.NodeID) []string {
	r := make([]string, 0, len(ids))
	for _, id := range ids {
		r = append(r, id.String())
	}
	return r
}
