package kit

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"fieldkit/board/dhcp"
	"fieldkit/board/dns"
	"fieldkit/board/portal"
	"fieldkit/board/sntp"
	"fieldkit/ui"
)

// handsetNetwork is what a kit that makes the handsets' network serves there besides telephony. It is set up by New and not
// changed afterwards.
type handsetNetwork struct {
	dhcp    *dhcp.Server // nil, as what follows: the system serves addresses, names and the time
	dns     *dns.Server
	time    *sntp.Server
	renamed chan struct{} // leases came or went, with their names; holds one
}

const (
	// homeDomain is where names of a home's network are, without a registry (RFC 8375).
	homeDomain = "home.arpa"
	// handsetPoll is how soon the name server follows a mission that changed, and the health tree a server that is full.
	handsetPoll = 2 * time.Second
)

// newHandsetNetwork makes the servers of a kit that makes the handsets' network itself.
func (k *Kit) newHandsetNetwork() error {
	if !k.cfg.Access.Enabled {
		return nil
	}
	n := &k.network
	n.renamed = make(chan struct{}, 1)
	var err error
	n.dhcp, err = dhcp.NewServer(dhcp.Config{
		Server: k.cfg.Handset.Address, Network: k.cfg.Handset.Network, Domain: homeDomain, Reserved: k.reservedLabel,
	}, func() {
		select {
		case n.renamed <- struct{}{}:
		default:
		}
	}, k.log)
	if err != nil {
		return fmt.Errorf("handsets' addresses: %w", err)
	}
	n.dns = dns.NewServer(k.cfg.Handset.Network, k.zone(), k.log)
	n.time = sntp.NewServer(k.cfg.Handset.Network, k.timeStatus)
	return nil
}

// ownNames are the names of this kit, the canonical one first.
func (k *Kit) ownNames() []string {
	names := []string{"kit." + homeDomain, fmt.Sprintf("kit-%d.%s", k.number, homeDomain)}
	if label := dhcp.Label(k.name); label != "" && !slices.Contains(names, label+"."+homeDomain) {
		names = append(names, label+"."+homeDomain)
	}
	return names
}

// isOwnName reports whether a name in lower case stands for this kit and what it serves.
func (k *Kit) isOwnName(host string) bool {
	return slices.Contains(k.ownNames(), host) || host == k.mission.Load().Overlay
}

// reservedLabel tells which names no handset gets: the kit's, and those under which systems look for who configures them.
func (k *Kit) reservedLabel(label string) bool {
	name := label + "." + homeDomain
	overlay := "." + k.mission.Load().Overlay
	return slices.Contains([]string{"wpad", "isatap", "localhost", "www", "sip", "sips", "ns", "time", "gateway", "router"}, label) ||
		label == "kit" || strings.HasPrefix(label, "kit-") || k.isOwnName(name) || strings.HasSuffix(overlay, "."+name)
}

// zone is what the handsets' name server knows now.
func (k *Kit) zone() *dns.Zone {
	m := k.mission.Load()
	hosts := map[string]netip.Addr{}
	for _, l := range k.network.dhcp.Leases() {
		if l.Name != "" && !k.reservedLabel(l.Name) {
			hosts[l.Name+"."+homeDomain] = l.Addr
		}
	}
	return dns.NewZone(dns.Config{
		Kit: k.cfg.Handset.Address, Network: k.cfg.Handset.Network, Names: k.ownNames(),
		SIPDomains: []string{m.Overlay, "kit." + homeDomain}, SIPPort: k.cfg.SIP.Port, Aliases: portal.Names(), Hosts: hosts,
	})
}

// serveDHCP gives handsets their addresses.
func (k *Kit) serveDHCP(ctx context.Context, ready func()) error {
	return both(ctx,
		func(ctx context.Context) error { return k.network.dhcp.Serve(ctx, k.handsetInterface(), ready) },
		func(ctx context.Context) error {
			tick := time.NewTicker(handsetPoll)
			defer tick.Stop()
			for {
				if k.network.dhcp.Full() {
					k.health.Warn("dhcp", fmt.Sprintf("%d addresses given out: further handsets are refused", len(k.network.dhcp.Leases())))
				} else {
					k.health.OK("dhcp")
				}
				select {
				case <-ctx.Done():
					return nil
				case <-tick.C:
				}
			}
		})
}

// networkStatus is the handsets' network for the page.
func (k *Kit) networkStatus(s *ui.Status) {
	n := &k.network
	if n.dhcp == nil {
		return
	}
	s.Access.Leases = len(n.dhcp.Leases())
	s.Counters = append(s.Counters, counters("dhcp ", n.dhcp.Stats())...)
	s.Counters = append(s.Counters, counters("dns ", n.dns.Stats())...)
	s.Counters = append(s.Counters, counters("time ", n.time.Stats())...)
}
