// Package links brings up what leads to other kits: every wired interface, with an IPv6 address of the kit's own
// (RFC 4193) beside the kernel's link-local one, and an IPv4 link-local address (RFC 3927). It gives the
// access point and a station, which others bring up, the kit's IPv6 address and nothing of IPv4: behind the access point
// every kit has the same IPv4 address.
//
// Several interfaces share the networks 169.254.0.0/16 and the kits' prefix, so each address has a routing table of its
// own, looked up by source: what is sent from an address leaves by its interface. Nothing is bridged or forwarded, and
// an interface answers ARP for its own addresses only: two cables to one switch make no loop.
//
// It asks no DHCP server, takes no router's advertisement and adds no default route: a kit needs none to reach
// kits on the same cable or switch, and a stranger there must not decide where it sends.
//
// Run owns everything and wants CAP_NET_ADMIN, CAP_NET_RAW and writable sysctls. It works on the network namespace of its
// process. Status may be called from any goroutine.
package links

import (
	"log/slog"
	"net/netip"
	"sync/atomic"
)

// Kind is what an interface is to a kit.
type Kind string

// Kinds of interfaces.
const (
	Cable       Kind = "cable"        // Ethernet, of the board or on USB
	AccessPoint Kind = "access point" // the kit's own radio cell: IPv6 alone leads to other kits there
	Station     Kind = "station"      // a radio that joins another kit's cell
	Other       Kind = "other"        // left alone
)

// Config of Links. Prefix and Node are required.
type Config struct {
	Prefix netip.Prefix // Prefix of the overlay's name
	Node   []byte       // Node-ID of this kit
	// Kind says what an interface is for: AccessPoint, which may be a bridge, Station, Other, or "" where it does not know: a
	// wired one then is a Cable, and a wireless one left alone. It is asked again after each change; nil knows none.
	Kind func(name string) Kind
	Log  *slog.Logger // nil discards
}

// Status is one interface.
type Status struct {
	Name    string
	Kind    Kind
	Up      bool
	Carrier bool
	ULA     netip.Addr // invalid: none
	IPv4    netip.Addr // link-local; invalid: none, or still asking for one
	Lost    uint64     // IPv4 addresses given up because somebody else has them
	Err     string     // what could not be set up; empty: nothing
}

// Stats counts since the start.
type Stats struct {
	Probes        uint64 // ARP probes sent
	Announcements uint64
	Conflicts     uint64 // addresses given up
	Dropped       uint64 // ARP packets that came faster than they were judged
	Failures      uint64 // changes that the kernel refused; each is tried again with the next change
}

// Links sets up interfaces. Make it with New.
type Links struct {
	cfg    Config
	status atomic.Pointer[[]Status]
	stats  atomic.Pointer[Stats]
	kick   chan struct{}
}

// New makes a Links; Run does the work.
func New(cfg Config) *Links {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Kind == nil {
		cfg.Kind = func(string) Kind { return "" }
	}
	l := &Links{cfg: cfg, kick: make(chan struct{}, 1)}
	l.status.Store(&[]Status{})
	l.stats.Store(&Stats{})
	return l
}

// Status lists the interfaces that are looked after, by name.
func (l *Links) Status() []Status { return *l.status.Load() }

// Stats returns the counters.
func (l *Links) Stats() Stats { return *l.stats.Load() }

// KindsChanged has Config.Kind asked again soon.
func (l *Links) KindsChanged() {
	select {
	case l.kick <- struct{}{}:
	default: // it will be
	}
}
