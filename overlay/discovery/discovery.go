// Package discovery finds other kits by multicast DNS (RFC 6762, RFC 6763) on
// every link interface: it announces this kit as an instance of _reload._udp
// and reports what others appear, change and vanish.
//
// It stands on grandcat/zeroconf v1.0.0 and makes up for what that lacks. One
// responder and one resolver run per interface, which gives link-local
// addresses their zone; they are made anew whenever the interface changes,
// since the library keeps sockets of interfaces that are gone; browsing starts
// over in cycles, because the library reports each instance once only and never
// its end; a table of its own tells UP, UPDATE and DOWN apart. The resolver is
// always read to its end, else it would leak; a responder lives a moment before
// it is shut down, since its receivers race with its shutdown.
//
// What it reports is a hint from whoever shares the link, no more: names,
// hashes and addresses are claims, bounded and checked for form only. Who a kit
// is, the DTLS certificate says; whether it lives, the overlay. Kits of other
// overlays are reported too; the caller compares Peer.Overlay. Handset
// interfaces are kept out by the caller's Watch, Use and UseAddr.
//
// A Discovery may be used by any goroutine; Run owns the state. OnEvent is
// called from Run's goroutine and must not block.
package discovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Service is the DNS-SD type of a kit's bootstrap port (RFC 6763 §7).
const Service = "_reload._udp"

const domain = "local."

// Bounds.
const (
	MaxPeers     = 512 // rows of the table; one per kit and interface
	MaxAddresses = 16  // of one peer on one interface
	maxNodeID    = 20  // bytes, RFC 6940 §11.1 node-id-length is 16 to 20
	minNodeID    = 16
	// cycleBudget bounds what the resolver remembers in one cycle: one unit per
	// instance, address and text.
	cycleBudget = 8192
)

// Times where Config leaves them zero.
const (
	DefaultShort      = 2500 * time.Millisecond
	DefaultLongMin    = 30 * time.Second
	DefaultLongMax    = 60 * time.Second
	DefaultFastWindow = time.Minute // cycles that begin short and grow, after start and after a change of the link
	DefaultMisses     = 3           // cycles without an answer that make a peer DOWN
)

// Errors of New, SetText and Run.
var (
	ErrConfig = errors.New("discovery configuration not usable")
	// ErrWatch: the caller's channel of interfaces was closed.
	ErrWatch = errors.New("watch of interfaces ended")
)

// Interface is one interface as Config.Watch tells it.
type Interface struct {
	Name  string
	Index int
	MAC   net.HardwareAddr
	MTU   int
	Addrs []netip.Prefix
}

func (i Interface) equal(o Interface) bool {
	return i.Name == o.Name && i.Index == o.Index && slices.Equal(i.MAC, o.MAC) && slices.Equal(i.Addrs, o.Addrs)
}

// Config of a Discovery.
type Config struct {
	NodeID string // of this kit, hex; the instance name
	Port   uint16 // UDP port of the overlay's bootstrap listener
	Text   Text
	// Watch returns a channel with the interfaces to work on: once at the
	// beginning and after every change, complete each time. Required.
	Watch func(ctx context.Context) <-chan []Interface
	// Use says which interfaces are announced on and browsed; nil is all.
	Use func(Interface) bool
	// UseAddr says which addresses are announced and accepted; nil is all.
	UseAddr func(netip.Addr) bool
	// OnEvent gets every Event in order.
	OnEvent func(Event)

	Short, LongMin, LongMax, FastWindow time.Duration
	Misses                              int
	Log                                 *slog.Logger
}

// Kind says what happened to a peer.
type Kind int

// The kinds of events.
const (
	Up Kind = iota + 1
	Update
	Down
)

func (k Kind) String() string {
	switch k {
	case Up:
		return "up"
	case Update:
		return "update"
	case Down:
		return "down"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// MarshalText makes a Kind readable in JSON.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Peer is a kit as it announces itself on one interface.
type Peer struct {
	NodeID    string           `json:"node_id"` // lower-case hex
	Interface string           `json:"interface"`
	Addrs     []netip.AddrPort `json:"addrs"` // on this link, with zone where link-local; may be empty
	Text
}

// Event is a change of the table.
type Event struct {
	Kind Kind `json:"kind"`
	Peer Peer `json:"peer"`
}

// InterfaceState is how the work on one interface goes.
type InterfaceState struct {
	Name       string `json:"name"`
	Announcing bool   `json:"announcing"`
	Cycles     uint64 `json:"cycles"`
	Error      string `json:"error,omitempty"` // of the last attempt, empty when it worked
}

// Stats counts what was seen and refused.
type Stats struct {
	Entries  uint64 `json:"entries"`  // answers read
	Rejected uint64 `json:"rejected"` // not in the form of a kit
	Full     uint64 `json:"full"`     // beyond the table's bound
	Floods   uint64 `json:"floods"`   // cycles ended because of too many answers
	Clones   uint64 `json:"clones"`   // our own Node-ID announced from an address that is not ours
	Rebuilds uint64 `json:"rebuilds"` // interfaces taken up
}

// Snapshot is the state at one time.
type Snapshot struct {
	Interfaces []InterfaceState `json:"interfaces"`
	Peers      []Peer           `json:"peers"` // sorted by NodeID, then Interface
	Stats      Stats            `json:"stats"`
}

// Discovery announces and browses. Make it with New.
type Discovery struct {
	cfg     Config
	text    atomic.Pointer[Text]
	snap    atomic.Pointer[Snapshot]
	refresh chan struct{}
	changed chan struct{} // the text

	ready     chan struct{}
	readyOnce sync.Once
}

// New checks the configuration.
func New(cfg Config) (*Discovery, error) {
	id, ok := parseNodeID(cfg.NodeID)
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: Node-ID %q", ErrConfig, cfg.NodeID)
	case cfg.Port == 0:
		return nil, fmt.Errorf("%w: no port", ErrConfig)
	case cfg.Watch == nil:
		return nil, fmt.Errorf("%w: no watch of interfaces", ErrConfig)
	}
	if err := cfg.Text.check(); err != nil {
		return nil, err
	}
	cfg.NodeID = id
	orDefault := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	orDefault(&cfg.Short, DefaultShort)
	orDefault(&cfg.LongMin, DefaultLongMin)
	orDefault(&cfg.LongMax, DefaultLongMax)
	orDefault(&cfg.FastWindow, DefaultFastWindow)
	cfg.LongMax = max(cfg.LongMax, cfg.LongMin)
	if cfg.Misses <= 0 {
		cfg.Misses = DefaultMisses
	}
	if cfg.Use == nil {
		cfg.Use = func(Interface) bool { return true }
	}
	if cfg.UseAddr == nil {
		cfg.UseAddr = func(netip.Addr) bool { return true }
	}
	if cfg.OnEvent == nil {
		cfg.OnEvent = func(Event) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	d := &Discovery{
		cfg: cfg, refresh: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		ready: make(chan struct{}),
	}
	d.text.Store(&cfg.Text)
	d.snap.Store(&Snapshot{})
	return d, nil
}

// SetText changes what is announced, on every interface, within a moment.
func (d *Discovery) SetText(t Text) error {
	if err := t.check(); err != nil {
		return err
	}
	if old := d.text.Swap(&t); *old == t {
		return nil
	}
	wake(d.changed)
	return nil
}

// Refresh starts a new cycle on every interface and short cycles for a while,
// as when the overlay lost a neighbour.
func (d *Discovery) Refresh() { wake(d.refresh) }

// Snapshot returns the state. The caller must not change what it points to.
func (d *Discovery) Snapshot() Snapshot { return *d.snap.Load() }

// Ready returns a channel that is closed once Run knows the interfaces.
func (d *Discovery) Ready() <-chan struct{} { return d.ready }

func (d *Discovery) String() string { return "discovery" }

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // pending already
	}
}

// Run announces and browses until ctx ends. Sockets that fail are made again;
// the only error besides that of ctx is ErrWatch.
func (d *Discovery) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	l := &loop{
		d: d, cfg: d.cfg, reports: make(chan report, 64),
		stations: map[string]*station{}, table: table{misses: d.cfg.Misses, limit: MaxPeers},
	}
	defer func() {
		cancel()
		l.wait()
		l.publish()
	}()
	watch := d.cfg.Watch(ctx)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ifs, ok := <-watch:
			if !ok {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return ErrWatch
			}
			l.interfaces(ctx, ifs)
			l.dirty = true
			d.readyOnce.Do(func() { close(d.ready) })
		case r := <-l.reports:
			l.report(ctx, r)
		case <-d.changed:
			for _, s := range l.stations {
				wake(s.text)
			}
		case <-d.refresh:
			for _, s := range l.stations {
				wake(s.kick)
			}
		}
		if l.dirty {
			l.publish()
		}
	}
}

// loop is the state that Run owns.
type loop struct {
	d        *Discovery
	cfg      Config
	reports  chan report
	stations map[string]*station // by interface name
	own      []netip.Addr        // of all interfaces
	table    table
	stats    Stats
	ended    []<-chan struct{} // of stations that are shutting down
	dirty    bool              // the snapshot is old; counters alone wait for the end of a cycle
}

// report is what a station tells the loop.
type report struct {
	from     *station
	peer     *Peer // seen
	rejected bool
	cycleEnd bool // a whole cycle passed
	flood    bool
	state    *InterfaceState
}

// interfaces starts, restarts and ends stations so that they match ifs.
func (l *loop) interfaces(ctx context.Context, ifs []Interface) {
	l.own = l.own[:0]
	want := map[string]Interface{}
	for _, i := range ifs {
		for _, p := range i.Addrs {
			l.own = append(l.own, p.Addr().WithZone(""))
		}
		if l.cfg.Use(i) && slices.ContainsFunc(i.Addrs, func(p netip.Prefix) bool { return l.cfg.UseAddr(p.Addr()) }) {
			want[i.Name] = i
		}
	}
	for name, s := range l.stations {
		i, ok := want[name]
		if ok && i.equal(s.ifc) {
			continue
		}
		s.cancel()
		l.ended = append(l.ended, s.done)
		delete(l.stations, name)
		if !ok {
			for _, e := range l.table.drop(name) {
				l.event(ctx, e)
			}
			continue
		}
		l.start(ctx, i, s.done)
	}
	for name, i := range want {
		if l.stations[name] == nil {
			l.start(ctx, i, nil)
		}
	}
	l.ended = slices.DeleteFunc(l.ended, func(done <-chan struct{}) bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
}

// start makes the station of an interface; before is the end of the one it
// replaces.
func (l *loop) start(ctx context.Context, i Interface, before <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	s := &station{
		cfg: l.cfg, textNow: &l.d.text, ifc: i, reports: l.reports, cancel: cancel,
		done: make(chan struct{}), text: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		random: rand.Float64,
	}
	l.stations[i.Name] = s
	l.stats.Rebuilds++
	l.cfg.Log.Debug("discovery on interface", "interface", i.Name, "addresses", len(i.Addrs))
	go func() {
		defer close(s.done)
		defer cancel()
		if before != nil {
			<-before // it says goodbye; its answers must not mix with the new ones
		}
		s.run(ctx)
	}()
}

// report takes in what a station said.
func (l *loop) report(ctx context.Context, r report) {
	if l.stations[r.from.ifc.Name] != r.from {
		return // replaced meanwhile
	}
	if r.state != nil {
		r.from.state, l.dirty = *r.state, true
	}
	if r.flood {
		l.stats.Floods++
	}
	if r.rejected {
		l.stats.Entries++
		l.stats.Rejected++
	}
	if r.peer != nil {
		l.stats.Entries++
		l.peer(ctx, r)
	}
	if r.flood || r.cycleEnd {
		l.dirty = true
	}
	r.from.peers.Store(int32(l.table.count(r.from.ifc.Name, l.d.text.Load().Overlay)))
	if r.cycleEnd {
		events, missing := l.table.endCycle(r.from.ifc.Name)
		// Silence may be loss: ask again soon instead of in a minute.
		r.from.suspect.Store(missing)
		for _, e := range events {
			l.event(ctx, e)
		}
	}
}

func (l *loop) peer(ctx context.Context, r report) {
	p := *r.peer
	if p.NodeID == l.cfg.NodeID {
		if slices.ContainsFunc(p.Addrs, func(a netip.AddrPort) bool { return !slices.Contains(l.own, a.Addr().WithZone("")) }) {
			l.stats.Clones++
		}
		return
	}
	e, ok := l.table.observe(p, l.d.text.Load().Overlay)
	if !ok {
		l.stats.Full++
	}
	for _, ev := range e {
		l.event(ctx, ev)
	}
}

func (l *loop) event(ctx context.Context, e Event) {
	l.dirty = true
	level := slog.LevelInfo
	if e.Peer.Overlay != l.d.text.Load().Overlay {
		level = slog.LevelDebug // anybody can make up thousands of these
	}
	l.cfg.Log.Log(ctx, level, "kit "+e.Kind.String(), "node_id", e.Peer.NodeID, "interface", e.Peer.Interface,
		"name", e.Peer.Name, "overlay", e.Peer.Overlay, "addrs", e.Peer.Addrs)
	l.cfg.OnEvent(e)
}

func (l *loop) publish() {
	l.dirty = false
	s := &Snapshot{Peers: l.table.peers(), Stats: l.stats}
	for _, st := range l.stations {
		i := st.state
		i.Name = st.ifc.Name
		s.Interfaces = append(s.Interfaces, i)
	}
	slices.SortFunc(s.Interfaces, func(a, b InterfaceState) int { return cmpString(a.Name, b.Name) })
	l.d.snap.Store(s)
}

// wait blocks until every station said goodbye.
func (l *loop) wait() {
	for _, s := range l.stations {
		s.cancel()
		<-s.done
	}
	for _, done := range l.ended {
		<-done
	}
	clear(l.stations)
}
