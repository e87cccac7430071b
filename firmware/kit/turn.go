package kit

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"fieldkit/firmware/mission"
	"fieldkit/overlay/link"
	"fieldkit/overlay/node"
	"fieldkit/overlay/turn"
	"fieldkit/overlay/turnusage"
	"fieldkit/overlay/wire"
	"fieldkit/ui"
)

// relaying is what a kit does so that kits without a common link reach each other: its own STUN and TURN server, and
// whom it asks itself (docs/adr/0016-turn.md). It belongs to one membership.
type relaying struct {
	server *turn.Server // nil: this kit relays for nobody
	usage  *turnusage.Usage
}

// mdnsPort is answered at by every kit, to whoever asks.
const mdnsPort = 5353

// newRelaying makes both for a membership. An overlay without ICE gathers no candidates and has neither.
func (k *Kit) newRelaying(t *link.Transport, n *node.Node, m *mission.Mission) (*relaying, error) {
	if m.Document().NoICE {
		return nil, nil
	}
	r := &relaying{}
	offered := func() []netip.AddrPort { return nil }
	if k.cfg.Link.Relay {
		var err error
		r.server, err = turn.New(turn.Config{
			Addresses: k.linkAddresses, Port: k.cfg.Link.RelayPort, Realm: k.id.NodeID().String(),
			Credential: t.Credential, MayReach: func(a netip.Addr) bool { return k.isKit(t.Neighbours(), a) },
			Never:       []netip.Prefix{k.cfg.Handset.Network},
			ClosedPorts: []uint16{wire.DefaultPort, k.cfg.Link.Port, k.cfg.SIP.Port, mdnsPort},
			Log:         k.log,
		})
		if err != nil {
			return nil, fmt.Errorf("TURN server: %w", err)
		}
		offered = r.server.Addrs
	}
	var err error
	r.usage, err = turnusage.New(turnusage.Config{
		Node: n, Signer: k.id.Signer(), Document: m.Document(),
		Neighbours: t.Neighbours, Unreached: t.Unreached, Addresses: k.linkAddresses, Offered: offered, Port: k.cfg.Link.RelayPort,
		Dial: func(ctx context.Context, at netip.Addr) (turnusage.Link, error) { return k.linkFor(ctx, t, at) },
		Log:  k.log,
	})
	return r, err
}

// servers are whom an attempt asks for candidates.
func (o *overlay) servers() []link.Server {
	if r := o.relaying.Load(); r != nil {
		return r.usage.Servers()
	}
	return nil
}

// linkFor opens a link to a kit that the overlay lists as a server, where it is on a link of ours.
func (k *Kit) linkFor(ctx context.Context, t *link.Transport, at netip.Addr) (turnusage.Link, error) {
	if !k.onLink(at, "") {
		return nil, fmt.Errorf("%v is on no link of this kit", at)
	}
	port := k.cfg.Link.Port
	if port == 0 {
		port = wire.DefaultPort
	}
	c, err := t.Bootstrap(ctx, netip.AddrPortFrom(at, port))
	if err != nil {
		return nil, err
	}
	return c, nil
}

// isKit tells whether a relay may send to an address: a kit proved by a handshake that it is there, or one of this
// mission is announced there, on a link of ours that the address belongs to. Whoever announces a false one must be on
// that link, and needs no relay to send there.
func (k *Kit) isKit(linked []link.Neighbour, a netip.Addr) bool {
	if !k.mayUse(a) {
		return false
	}
	for _, n := range linked {
		if n.Addr == a {
			return true
		}
	}
	mine := k.announcement().Overlay
	o := &k.overlay
	o.mu.Lock()
	var on []string
	for key, s := range o.seen {
		for _, p := range s.peer.Addrs {
			if s.peer.Overlay == mine && p.Addr().Unmap() == a {
				on = append(on, key.iface)
			}
		}
	}
	o.mu.Unlock()
	for _, iface := range on {
		if k.onLink(a, iface) {
			return true
		}
	}
	return false
}

// onLink tells whether an address belongs to the network of a link interface; "" is any.
func (k *Kit) onLink(a netip.Addr, iface string) bool {
	for _, i := range *k.interfaces.Load() {
		if !k.isLink(i) || iface != "" && i.Name != iface {
			continue
		}
		for _, p := range i.Addrs {
			if p.Contains(a) && k.mayUse(p.Addr()) {
				return true
			}
		}
	}
	return false
}

// addressesChanged has the server follow the addresses at once. r may be nil.
func (r *relaying) addressesChanged() {
	if r != nil && r.server != nil {
		r.server.AddressesChanged()
	}
}

// relayPatience is how long the server may take to listen on an address that appeared.
const relayPatience = 10 * time.Second

// run serves and asks until ctx ends. r may be nil.
func (r *relaying) run(k *Kit) func(context.Context) error {
	return func(ctx context.Context) error {
		switch {
		case r == nil:
			<-ctx.Done()
			return nil
		case r.server == nil:
			return r.usage.Run(ctx)
		}
		return both(ctx, r.server.Run, r.usage.Run, func(ctx context.Context) error { return r.watch(ctx, k) })
	}
}

// watch keeps what the health tree says of the server.
func (r *relaying) watch(ctx context.Context, k *Kit) error {
	defer k.health.Remove("relay")
	tick := time.NewTicker(relayPatience)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		want := 0
		for _, a := range k.linkAddresses() {
			if a = a.Unmap(); !a.IsLoopback() && (a.Is4() || !a.IsLinkLocalUnicast()) {
				want++
			}
		}
		if got := r.server.Stats().Listening; got < min(want, turn.MaxAddresses) {
			k.health.Warn("relay", fmt.Sprintf("%d of %d addresses served: UDP port %d is taken", got, want, k.cfg.Link.RelayPort))
		} else {
			k.health.OK("relay")
		}
	}
}

func (r *relaying) counters() []ui.Counter {
	c := counters("relay search ", r.usage.Stats())
	if r.server != nil {
		c = append(c, counters("relay ", r.server.Stats())...)
	}
	return c
}
