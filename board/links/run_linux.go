package links

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mdlayher/arp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fieldkit/board/netif"
)

const (
	maxInterfaces = 16 // looked after; further ones are left alone
	maxPackets    = 64 // ARP packets that wait to be judged
	repairAfter   = 5 * time.Second
)

// Run looks after the interfaces until ctx ends. ready is called once those that were there are set up.
func (l *Links) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &runner{l: l, cfg: l.cfg, packets: make(chan heard, maxPackets), byName: map[string]*port{}}
	defer r.close()
	if err := r.prepare(); err != nil {
		return err
	}
	changes := netif.Watch(ctx, netif.Config{Log: l.cfg.Log})
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, ok := <-changes:
			if !ok {
				return ctx.Err()
			}
			r.reconcile(time.Now())
			ready()
		case <-l.kick:
			r.reconcile(time.Now())
		case h := <-r.packets:
			if r.byName[h.port.name] == h.port {
				r.note(h.port, r.do(h.port, h.port.claim.packet(time.Now(), h.packet, r.own)))
			}
		case <-timer.C:
			r.tick(time.Now())
		}
		timer.Reset(r.wait(time.Now()))
		r.publish()
	}
}

// runner is the state that Run owns.
type runner struct {
	l       *Links
	cfg     Config
	packets chan heard
	byName  map[string]*port
	own     []net.HardwareAddr
	stats   Stats
	dropped atomic.Uint64
	repair  time.Time // something failed and is tried again then; zero: nothing did
}

// port is one interface that is looked after.
type port struct {
	name    string
	index   int
	mac     net.HardwareAddr
	kind    Kind
	up      bool
	carrier bool
	ula     netip.Prefix
	claim   *claim // nil: no IPv4 there
	socket  *arpSocket
	err     error
}

type heard struct {
	port   *port
	packet *arp.Packet
}

// prepare sets what holds for the whole machine.
func (r *runner) prepare() error {
	return errors.Join(
		// A kit is a host: what is for others is thrown away.
		sysctl("net/ipv4/ip_forward", "0"),
		sysctl("net/ipv6/conf/all/forwarding", "0"),
		sysctl("net/ipv6/conf/all/disable_ipv6", "0"),
		// A handset is told at once what it may not reach, and what it asks is rationed elsewhere: by default the kernel
		// tells each of them once a second.
		sysctl("net/ipv4/icmp_ratelimit", "50"),
		sysctl("net/ipv6/icmp/ratelimit", "50"),
		// An interface that appears later must not take a stranger's word before it is looked after.
		sysctl("net/ipv6/conf/default/accept_ra", "0"),
		sysctl("net/ipv6/conf/default/accept_redirects", "0"),
	)
}

// perInterface are the settings of each interface that is looked after.
var perInterface = []struct{ name, value string }{
	{"ipv4/conf/%s/arp_ignore", "1"},       // answer for the addresses of the interface that was asked alone
	{"ipv4/conf/%s/arp_announce", "2"},     // and ask from its own
	{"ipv4/conf/%s/rp_filter", "1"},        // RFC 3704 §2.2: what could not be answered through the same interface is not taken
	{"ipv4/conf/%s/accept_redirects", "0"}, // nobody there routes
	{"ipv4/conf/%s/send_redirects", "0"},
	{"ipv4/conf/%s/accept_source_route", "0"},
	{"ipv6/conf/%s/disable_ipv6", "0"},
	{"ipv6/conf/%s/accept_ra", "0"},
	{"ipv6/conf/%s/accept_redirects", "0"},
	{"ipv6/conf/%s/forwarding", "0"},
}

func sysctl(name, value string) error {
	path := "/proc/sys/" + name
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without it has nothing to switch off
	}
	if err == nil && strings.TrimSpace(string(b)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("kernel setting %s: %w", name, err)
	}
	return nil
}

// reconcile makes interfaces, addresses, routes and rules what they should be. It is idempotent.
func (r *runner) reconcile(now time.Time) {
	r.repair = time.Time{}
	all, err := netlink.LinkList()
	if err != nil {
		r.failed(now, fmt.Errorf("list of interfaces: %w", err))
		return
	}
	slices.SortFunc(all, func(a, b netlink.Link) int { return a.Attrs().Index - b.Attrs().Index })
	r.own = r.own[:0]
	there := map[string]bool{}
	for _, link := range all {
		a := link.Attrs()
		if len(a.HardwareAddr) == 6 {
			r.own = append(r.own, a.HardwareAddr)
		}
		kind := r.kindOf(link)
		if kind == "" || len(there) == maxInterfaces {
			continue
		}
		there[a.Name] = true
		p := r.byName[a.Name]
		if p != nil && (p.index != a.Index || p.kind != kind || !bytes.Equal(p.mac, a.HardwareAddr)) { // another one of that name
			p.close()
			p = nil
		}
		if p == nil {
			p = r.newPort(link, kind)
			r.byName[a.Name] = p
		}
		err := r.setUp(now, p, link)
		if err == nil {
			p.err = nil
		}
		r.note(p, err)
	}
	for name, p := range r.byName {
		if !there[name] {
			r.cfg.Log.Info("interface gone", "interface", name)
			p.close()
			delete(r.byName, name)
		}
	}
	if err := r.rules(); err != nil {
		r.failed(now, err)
	}
}

// kindOf classifies an interface; "" is left alone. Besides real ones, ends of virtual cables count as cables, and the
// access point may be a bridge.
func (r *runner) kindOf(link netlink.Link) Kind {
	a := link.Attrs()
	if a.EncapType != "ether" || a.Flags&net.FlagLoopback != 0 || len(a.HardwareAddr) != 6 {
		return ""
	}
	switch kind := r.cfg.Kind(a.Name); kind {
	case Other:
		return ""
	case "":
	default:
		return kind
	}
	if t := link.Type(); t != "device" && t != "veth" || a.MasterIndex != 0 {
		return ""
	}
	if _, err := os.Stat("/sys/class/net/" + a.Name + "/phy80211"); err == nil {
		return ""
	}
	return Cable
}

func (r *runner) newPort(link netlink.Link, kind Kind) *port {
	a := link.Attrs()
	p := &port{name: a.Name, index: a.Index, mac: slices.Clone(a.HardwareAddr), kind: kind, ula: Address(r.cfg.Prefix, r.cfg.Node, a.Name)}
	if kind == Cable {
		seed := sha256.Sum256(slices.Concat([]byte("fieldkit IPv4 link-local\x00"), p.mac, []byte(a.Name), r.cfg.Node))
		p.claim = newClaim(seed, p.mac, rand.Float64)
		// An address that an earlier run left is asked for anew like every other one: meanwhile somebody may have taken it.
		r.dropAddresses(link, netlink.FAMILY_V4, linkLocal4)
	}
	r.cfg.Log.Info("interface", "interface", a.Name, "kind", kind, "address", p.ula.Addr())
	return p
}

func (r *runner) dropAddresses(link netlink.Link, family int, in netip.Prefix) {
	addrs, err := netlink.AddrList(link, family)
	if err != nil {
		return // it went away again; the next change says so
	}
	for _, a := range addrs {
		if got, ok := netip.AddrFromSlice(a.IP); ok && in.Contains(got.Unmap()) {
			if err := netlink.AddrDel(link, &a); err != nil {
				r.cfg.Log.Warn("address not taken back", "interface", link.Attrs().Name, "address", got, "err", err)
			}
		}
	}
}

// setUp brings one interface to where it should be.
func (r *runner) setUp(now time.Time, p *port, link netlink.Link) error {
	var errs []error
	for _, s := range perInterface {
		errs = append(errs, sysctl("net/"+fmt.Sprintf(s.name, p.name), s.value))
	}
	a := link.Attrs()
	p.up = a.Flags&net.FlagUp != 0
	if !p.up && p.kind == Cable {
		if err := netlink.LinkSetUp(link); err != nil {
			return errors.Join(append(errs, fmt.Errorf("interface %s: not brought up: %w", p.name, err))...)
		}
		p.up = true
	}
	p.carrier = p.up && a.RawFlags&unix.IFF_LOWER_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0
	if p.up {
		errs = append(errs, r.addULA(p, link), r.routes(p))
	}
	if p.claim != nil {
		if p.carrier && p.socket == nil {
			s, err := openARP(p, r.hear)
			if err != nil {
				return errors.Join(append(errs, fmt.Errorf("interface %s: ARP socket: %w", p.name, err))...)
			}
			p.socket = s
		}
		errs = append(errs, r.do(p, p.claim.carrier(now, p.carrier)))
	}
	return errors.Join(errs...)
}

func (r *runner) addULA(p *port, link netlink.Link) error {
	have, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return fmt.Errorf("interface %s: addresses: %w", p.name, err)
	}
	for _, a := range have {
		if got, ok := netip.AddrFromSlice(a.IP); ok && got == p.ula.Addr() {
			if a.Flags&unix.IFA_F_DADFAILED != 0 {
				// The kernel asks once and never again: without the address the next look asks anew.
				if err := netlink.AddrDel(link, &a); err != nil {
					r.cfg.Log.Debug("address not taken back", "interface", p.name, "address", got, "err", err)
				}
				return fmt.Errorf("interface %s: somebody else has the address %v: a copy of this kit's card?", p.name, got)
			}
			return nil
		}
	}
	// Without the kernel's route, which would have one metric on every interface; see routes.
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p.ula), Flags: unix.IFA_F_NOPREFIXROUTE}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("interface %s: address %v: %w", p.name, p.ula, err)
	}
	return nil
}

// do executes what the claim of p decided.
func (r *runner) do(p *port, actions []action) error {
	var errs []error
	for _, a := range actions {
		errs = append(errs, r.doOne(p, a))
	}
	return errors.Join(errs...)
}

// note keeps what went wrong at an interface until it is repaired. It is logged once.
func (r *runner) note(p *port, err error) {
	if err == nil {
		return
	}
	if p.err == nil || p.err.Error() != err.Error() {
		r.cfg.Log.Warn("link not set up", "err", err)
	}
	p.err = err
	r.stats.Failures++
	r.repair = time.Now().Add(repairAfter)
}

func (r *runner) doOne(p *port, a action) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: p.name, Index: p.index}}
	addr := &netlink.Addr{
		IPNet:     ipNet(netip.PrefixFrom(a.addr, linkLocal4.Bits())),
		Broadcast: net.IPv4(169, 254, 255, 255), Scope: unix.RT_SCOPE_LINK, Flags: unix.IFA_F_NOPREFIXROUTE,
	}
	switch a.act {
	case probe, announce:
		if p.socket == nil {
			return nil
		}
		packet := probePacket
		if a.act == announce {
			packet = announcement
			r.stats.Announcements++
		} else {
			r.stats.Probes++
		}
		b, err := packet(p.mac, a.addr)
		if err == nil {
			err = p.socket.broadcast(b)
		}
		if err != nil {
			return fmt.Errorf("interface %s: ARP for %v: %w", p.name, a.addr, err)
		}
	case assign:
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("interface %s: address %v: %w", p.name, a.addr, err)
		}
		r.cfg.Log.Info("IPv4 link-local address", "interface", p.name, "address", a.addr)
		return errors.Join(r.routes(p), r.rules())
	case release:
		if err := netlink.AddrDel(link, addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("interface %s: address %v not taken back: %w", p.name, a.addr, err)
		}
		r.cfg.Log.Info("IPv4 link-local address given up", "interface", p.name, "address", a.addr)
		return r.rules()
	}
	return nil
}

// hear takes an ARP packet from the reader of a socket; what comes too fast is lost, as on the cable.
func (r *runner) hear(h heard) {
	select {
	case r.packets <- h:
	default:
		r.dropped.Add(1)
	}
}

func (r *runner) tick(now time.Time) {
	if !r.repair.IsZero() && !now.Before(r.repair) {
		r.reconcile(now)
	}
	for _, p := range r.byName {
		if p.claim != nil {
			r.note(p, r.do(p, p.claim.tick(now)))
		}
	}
}

func (r *runner) wait(now time.Time) time.Duration {
	next := now.Add(time.Hour)
	if !r.repair.IsZero() {
		next = r.repair
	}
	for _, p := range r.byName {
		if p.claim == nil {
			continue
		}
		if d := p.claim.due(); !d.IsZero() && d.Before(next) {
			next = d
		}
	}
	return max(next.Sub(now), 0)
}

func (r *runner) failed(now time.Time, err error) {
	r.stats.Failures++
	r.repair = now.Add(repairAfter)
	r.cfg.Log.Warn("link not set up", "err", err)
}

func (r *runner) publish() {
	out := make([]Status, 0, len(r.byName))
	r.stats.Conflicts = 0
	for _, p := range r.byName {
		s := Status{Name: p.name, Kind: p.kind, Up: p.up, Carrier: p.carrier}
		if p.up {
			s.ULA = p.ula.Addr()
		}
		if p.claim != nil {
			s.IPv4, s.Lost = p.claim.address(), p.claim.lost
			r.stats.Conflicts += s.Lost
		}
		if p.err != nil {
			s.Err = p.err.Error()
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	r.l.status.Store(&out)
	stats := r.stats
	stats.Dropped = r.dropped.Load()
	r.l.stats.Store(&stats)
}

func (r *runner) close() {
	for _, p := range r.byName {
		p.close()
	}
}

func (p *port) close() {
	if p.socket != nil {
		p.socket.close()
		p.socket = nil
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
