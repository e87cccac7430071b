// Package netif tells which network interfaces a kit has and when that changes:
// a typed snapshot, and a channel that gets a new one after each change of a
// link or an address. On Linux changes come from netlink, with a slow poll
// behind it, since netlink may lose messages; elsewhere, and where netlink is
// refused, from a quick poll.
//
// It changes nothing: giving interfaces addresses is not its business. A cable
// between two kits without a DHCP server therefore needs IPv6 link-local
// addresses, which the kernel makes by itself, or IPv4 link-local ones (RFC
// 3927) from elsewhere.
//
// Snapshots are values; Watch owns one goroutine, which ends with its context.
package netif

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Times of a Watcher where Config leaves them zero.
const (
	DefaultDebounce = 300 * time.Millisecond // a link that comes up brings a burst of messages
	DefaultPoll     = time.Minute            // behind netlink, which drops messages when its buffer is full
	DefaultFastPoll = 3 * time.Second        // in the place of netlink
)

// Bounds of a snapshot; what is beyond them is left out.
const (
	MaxInterfaces = 64
	MaxAddresses  = 32 // of one interface
)

// HandsetPrefix is the subnet of every kit's handset side. Since it is the same
// on every kit, no address in it says which kit it belongs to.
var HandsetPrefix = netip.MustParsePrefix("10.73.0.0/16")

// Interface is one network interface at the time of a snapshot.
type Interface struct {
	Name      string
	Index     int
	MAC       net.HardwareAddr
	MTU       int
	Up        bool // switched on
	Carrier   bool // and something at the other end
	Multicast bool
	Loopback  bool
	// Addrs are the addresses that can be used now, with their subnets, sorted;
	// IPv6 ones that still await duplicate address detection (RFC 4862 §5.4)
	// are not among them.
	Addrs []netip.Prefix
}

// Role says what an interface is for.
type Role int

// The roles of an interface.
const (
	Unusable Role = iota // loopback, down, without carrier, address or multicast
	Handset              // carries HandsetPrefix: the kit's own access point
	Link                 // may lead to other kits
)

func (r Role) String() string {
	switch r {
	case Handset:
		return "handset"
	case Link:
		return "link"
	}
	return "unusable"
}

// Role classifies the interface by what it carries. An interface with an
// address of the handset subnet is never a link, whatever else it carries.
func (i Interface) Role() Role {
	if slices.ContainsFunc(i.Addrs, func(p netip.Prefix) bool { return HandsetPrefix.Contains(p.Addr().Unmap()) }) {
		return Handset
	}
	if i.Loopback || !i.Up || !i.Carrier || !i.Multicast || len(i.Addrs) == 0 {
		return Unusable
	}
	return Link
}

// Usable reports whether the overlay may use an address of this machine: not
// loopback, not unspecified, not multicast and not of the handset subnet.
func Usable(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsValid() && !a.IsLoopback() && !a.IsUnspecified() && !a.IsMulticast() && !HandsetPrefix.Contains(a)
}

// equal reports whether nothing changed that anybody must act upon.
func equal(a, b Interface) bool {
	return a.Name == b.Name && a.Index == b.Index && bytes.Equal(a.MAC, b.MAC) && a.MTU == b.MTU &&
		a.Up == b.Up && a.Carrier == b.Carrier && a.Multicast == b.Multicast && a.Loopback == b.Loopback &&
		slices.Equal(a.Addrs, b.Addrs)
}

// List returns the interfaces of this network namespace, sorted by index.
func List() ([]Interface, error) {
	all, err := list()
	if err != nil {
		return nil, fmt.Errorf("list of network interfaces: %w", err)
	}
	slices.SortFunc(all, func(a, b Interface) int { return a.Index - b.Index })
	all = all[:min(len(all), MaxInterfaces)]
	for i := range all {
		slices.SortFunc(all[i].Addrs, comparePrefix)
		all[i].Addrs = all[i].Addrs[:min(len(all[i].Addrs), MaxAddresses)]
	}
	return all, nil
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// listPortable asks the net package, which knows no tentative addresses.
func listPortable() ([]Interface, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []Interface
	for _, i := range ifs {
		n := Interface{
			Name: i.Name, Index: i.Index, MAC: i.HardwareAddr, MTU: i.MTU,
			Up: i.Flags&net.FlagUp != 0, Carrier: i.Flags&net.FlagRunning != 0,
			Multicast: i.Flags&net.FlagMulticast != 0, Loopback: i.Flags&net.FlagLoopback != 0,
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // the interface went away meanwhile
		}
		for _, a := range addrs {
			if ipn, ok := a.(*net.IPNet); ok {
				if p, ok := toPrefix(ipn); ok {
					n.Addrs = append(n.Addrs, p)
				}
			}
		}
		out = append(out, n)
	}
	return out, nil
}

func toPrefix(n *net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, bits := n.Mask.Size()
	a = a.Unmap()
	if bits == 128 && a.Is4() {
		ones -= 96
	}
	p := netip.PrefixFrom(a, ones)
	return p, p.IsValid()
}

// Config of Watch. The zero value works.
type Config struct {
	Debounce time.Duration
	Poll     time.Duration
	FastPoll time.Duration
	Log      *slog.Logger
}

// Watch returns a channel that gets a snapshot at once and after each change.
// It holds the newest snapshot only: a slow reader skips those in between. The
// channel is closed when ctx ends.
func Watch(ctx context.Context, cfg Config) <-chan []Interface {
	return watch(ctx, cfg, List, subscribe)
}

// errUnsupported: this machine does not tell about changes.
var errUnsupported = errors.New("no notification of interface changes")

// watch is Watch with the operating system as an argument: list makes a
// snapshot, subscribe returns a channel that gets a value with each change and
// is closed when the subscription broke.
func watch(ctx context.Context, cfg Config, list func() ([]Interface, error),
	subscribe func(context.Context) (<-chan struct{}, error),
) <-chan []Interface {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&cfg.Debounce, DefaultDebounce)
	set(&cfg.Poll, DefaultPoll)
	set(&cfg.FastPoll, DefaultFastPoll)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	out := make(chan []Interface, 1)
	go func() {
		defer close(out)
		w := &watcher{cfg: cfg, list: list, subscribe: subscribe, out: out}
		w.run(ctx)
	}()
	return out
}

type watcher struct {
	cfg       Config
	list      func() ([]Interface, error)
	subscribe func(context.Context) (<-chan struct{}, error)
	out       chan []Interface
	last      []Interface
	sent      bool
}

func (w *watcher) run(ctx context.Context) {
	changes := w.open(ctx)
	w.look()
	timer := time.NewTimer(w.pause(changes))
	defer timer.Stop()
	var settle <-chan time.Time // runs while a burst of changes lasts
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-changes:
			if !ok {
				changes = nil // the subscription broke, as when the socket's buffer ran over
			}
			if settle == nil {
				settle = time.After(w.cfg.Debounce)
			}
		case <-settle:
			settle = nil
			w.look()
		case <-timer.C:
			if changes == nil {
				changes = w.open(ctx)
			}
			w.look()
			timer.Reset(w.pause(changes))
		}
		if changes == nil {
			timer.Reset(w.cfg.FastPoll)
		}
	}
}

func (w *watcher) open(ctx context.Context) <-chan struct{} {
	ch, err := w.subscribe(ctx)
	if err != nil {
		w.cfg.Log.Debug("interface changes are polled", "err", err)
		return nil
	}
	return ch
}

func (w *watcher) pause(changes <-chan struct{}) time.Duration {
	if changes == nil {
		return w.cfg.FastPoll
	}
	return w.cfg.Poll
}

// look sends a snapshot if it differs from the last one.
func (w *watcher) look() {
	now, err := w.list()
	if err != nil {
		w.cfg.Log.Warn("network interfaces not listed", "err", err)
		return
	}
	if w.sent && slices.EqualFunc(w.last, now, equal) {
		return
	}
	w.last, w.sent = now, true
	select {
	case <-w.out: // an older one that nobody took
	default:
	}
	w.out <- slices.Clone(now) // this goroutine is the only sender: there is room
}
