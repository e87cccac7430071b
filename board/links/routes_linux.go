package links

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// rulePriority marks the rules of this package among others: before the main table's.
	rulePriority = 7300
	// tableBase and the index of an interface name the routing table of its addresses.
	tableBase = 0x73000000
)

var multicast4 = netip.MustParsePrefix("224.0.0.0/4")

// metric orders the interfaces for what is sent from no address in particular: a cable first, and last the kit's own radio
// cell, where kits are that will rather speak first.
func (p *port) metric() int {
	base := map[Kind]int{Cable: 1000, Station: 2000, AccessPoint: 3000}
	return base[p.kind] + min(p.index, 999)
}

// routes are those of one interface: the networks that its addresses are in, for what is sent from them by that interface
// alone and for others by the best one, and the way for IPv4 multicast, which without a default route would have none.
func (r *runner) routes(p *port) error {
	table, prefix := tableBase+p.index, ipNet(p.ula.Masked())
	want := []netlink.Route{
		{LinkIndex: p.index, Table: table, Dst: prefix, Family: netlink.FAMILY_V6},
		{LinkIndex: p.index, Table: unix.RT_TABLE_MAIN, Dst: prefix, Family: netlink.FAMILY_V6, Priority: p.metric()},
	}
	if p.claim != nil && p.claim.address().IsValid() {
		src := p.claim.address().AsSlice()
		want = append(want,
			netlink.Route{LinkIndex: p.index, Table: table, Dst: ipNet(linkLocal4), Scope: unix.RT_SCOPE_LINK, Src: src},
			netlink.Route{LinkIndex: p.index, Table: unix.RT_TABLE_MAIN, Dst: ipNet(linkLocal4), Scope: unix.RT_SCOPE_LINK, Src: src, Priority: p.metric()},
			netlink.Route{LinkIndex: p.index, Table: unix.RT_TABLE_MAIN, Dst: ipNet(multicast4), Scope: unix.RT_SCOPE_LINK, Priority: p.metric()})
	}
	var errs []error
	for _, w := range want {
		if err := netlink.RouteReplace(&w); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: route to %v: %w", p.name, w.Dst, err))
		}
	}
	return errors.Join(errs...)
}

// rules has each address looked up in the table of its interface, and takes away those of addresses that are gone.
func (r *runner) rules() error {
	type key struct {
		src   netip.Addr
		table int
	}
	want := map[key]bool{}
	for _, p := range r.byName {
		if p.up {
			want[key{p.ula.Addr(), tableBase + p.index}] = true
		}
		if p.claim != nil && p.claim.address().IsValid() {
			want[key{p.claim.address(), tableBase + p.index}] = true
		}
	}
	var errs []error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		have, err := netlink.RuleList(family)
		if err != nil {
			return fmt.Errorf("list of routing rules: %w", err)
		}
		for _, h := range have {
			if h.Priority != rulePriority || h.Src == nil {
				continue
			}
			src, _ := netip.AddrFromSlice(h.Src.IP)
			k := key{src.Unmap(), h.Table}
			if want[k] {
				delete(want, k)
				continue
			}
			if err := netlink.RuleDel(&h); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("routing rule of %v not taken back: %w", src, err))
			}
		}
	}
	for k := range want {
		rule := netlink.NewRule()
		rule.Priority, rule.Table = rulePriority, k.table
		rule.Src = &net.IPNet{IP: k.src.AsSlice(), Mask: net.CIDRMask(k.src.BitLen(), k.src.BitLen())}
		rule.Family = netlink.FAMILY_V6
		if k.src.Is4() {
			rule.Family = netlink.FAMILY_V4
		}
		if err := netlink.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("routing rule of %v: %w", k.src, err))
		}
	}
	return errors.Join(errs...)
}
