// Package turnusage is the TURN Server Usage of RFC 6940 §9, and the collecting of STUN servers of §6.5.1.4, for kits:
// it says which neighbours an Attach gathers server-reflexive and relayed candidates at, lists this kit in the overlay
// when it lies between others, and finds those that do.
//
// It runs no server (overlay/turn) and gathers nothing (overlay/link): it only knows who there is to ask. What of §9
// means something only on the Internet is decided otherwise here, see docs/adr/0016-turn.md.
//
// Ownership: Run's goroutine does everything that takes time. Servers may be called from any goroutine and does not
// wait. Config's functions are called from both.
package turnusage

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/link"
	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
)

// Times and limits.
const (
	lookEvery = 2 * time.Second // at the neighbours, which have no way to tell

	recordLife = 20 * time.Minute // of what is stored: a kit that is gone is listed no longer than that
	storeTime  = 16 * time.Second // for one request: the maximum request lifetime
	removeTime = 2 * time.Second  // for all, when the usage ends

	probeTime   = 1500 * time.Millisecond
	probeAgain  = 2 * time.Second // when a server did not answer; doubled every time, up to
	probeSeldom = time.Minute
	probeLife   = 30 * time.Minute
	maxProbes   = 64 // neighbours that are remembered
	probeAtOnce = 8

	searchMin   = 10 * time.Second // between two searches, doubled while nothing new is found
	searchMax   = 10 * time.Minute
	searchTries = 4 // random Resource-IDs of one search
	maxFound    = 8 // servers that are remembered
	maxDialled  = 2 // links that are kept for servers that are not neighbours
	dialTime    = 3 * time.Second
	dialAgain   = 30 * time.Second // a link for a credential that nothing else uses ends after two minutes
)

// Link is a link that was opened for the credential it brings.
type Link interface {
	Peer() *ident.Peer
	Done() <-chan struct{}
	Close() error
}

// Config is what New needs; all but Dial, Probe, Log, Now and Seed are required.
type Config struct {
	Node   *node.Node
	Signer *ident.Signer // of this kit
	// Document is the overlay's: its turn-density says how often a server is listed, 0 and a document without the
	// Kind TURN-SERVICE that none is. Neighbours are asked all the same.
	Document *ident.Document

	Neighbours func() []link.Neighbour // kits with a link that has no relay in it
	Addresses  func() []netip.Addr     // the overlay's on this kit
	Offered    func() []netip.AddrPort // where this kit's own server serves
	Port       uint16                  // of a server that is not listed

	// Unreached is when an attempt last found no way; nil: never.
	Unreached func() time.Time
	// Dial opens a link to a kit that a record names, at its address, so that there is a credential; nil uses
	// neighbours alone. It fails at once where the address is on no link of this kit.
	Dial func(ctx context.Context, at netip.Addr) (Link, error)
	// Probe asks a STUN server for this kit's address as it sees it; nil sends from a socket of the host.
	Probe func(ctx context.Context, server netip.AddrPort) (netip.AddrPort, error)

	Log  *slog.Logger
	Now  func() time.Time
	Seed uint64 // for random Resource-IDs; 0: random
}

// Usage is the TURN Server Usage of one kit.
type Usage struct {
	cfg     Config
	density uint8
	rng     *rand.Rand // owned by Run
	once    sync.Once

	stored   map[uint8]netip.AddrPort // by Run: what is in the overlay, by iteration
	storedAt time.Time
	settled  uint64
	searchAt time.Time
	pause    time.Duration
	dialAt   time.Time
	dialled  []Link

	mu     sync.Mutex // a leaf; guards what follows
	probes map[netip.Addr]probe
	found  map[wire.NodeID]listing
	turn   int
	ring   []wire.NodeID
	ringAt time.Time
	counts Stats
}

type probe struct {
	probed
	at    time.Time
	again time.Duration // after which it is asked again, or forgotten with the neighbour
}

type listing struct {
	addrs []netip.AddrPort
	until time.Time
}

// Stats counts since Run began; the first two are as of now.
type Stats struct {
	Listed uint64 `json:"listed"` // records of this kit in the overlay
	Found  uint64 `json:"found"`  // other kits' servers known from the overlay

	Stores       uint64 `json:"stores"`
	StoreFailed  uint64 `json:"store_failed"`
	Searches     uint64 `json:"searches"` // Find requests
	Probes       uint64 `json:"probes"`   // Binding requests
	ProbesFailed uint64 `json:"probes_failed"`
	BadRecords   uint64 `json:"bad_records"` // stored where their signer may not, or malformed
	Dials        uint64 `json:"dials"`       // links opened for a credential
}

// New checks the configuration.
func New(cfg Config) (*Usage, error) {
	if cfg.Node == nil || cfg.Signer == nil || cfg.Document == nil || cfg.Neighbours == nil || cfg.Addresses == nil || cfg.Offered == nil || cfg.Port == 0 {
		return nil, errors.New("turnusage: node, signer, document, neighbours, addresses and port are needed")
	}
	if cfg.Probe == nil {
		cfg.Probe = Probe
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	u := &Usage{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 9)), pause: searchMin,
		stored: make(map[uint8]netip.AddrPort), probes: make(map[netip.Addr]probe), found: make(map[wire.NodeID]listing),
	}
	if k, ok := cfg.Document.Kind(wire.KindTurnService); ok {
		u.density = min(cfg.Document.TurnDensity, maxIteration, uint8(min(k.MaxMultiple, maxIteration)))
	}
	return u, nil
}

// Run keeps the usage up to date until ctx ends, then takes back what it stored as far as the node still can. It can be
// called once.
func (u *Usage) Run(ctx context.Context) error {
	err := errors.New("turnusage: Run called twice")
	u.once.Do(func() { err = u.run(ctx) })
	return err
}

func (u *Usage) run(ctx context.Context) error {
	var all sync.WaitGroup
	all.Go(func() { u.watchRing(ctx) })
	defer all.Wait()
	changes, cancel := u.cfg.Node.Subscribe()
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		u.look(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-changes:
		}
	}
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer stop()
	u.list(last, nil)
	for _, l := range u.dialled {
		_ = l.Close()
	}
	return nil
}

// watchRing notes the ring and when it changed. It is a goroutine of its own, because what Run does takes time.
func (u *Usage) watchRing(ctx context.Context) {
	changes, cancel := u.cfg.Node.Subscribe()
	defer cancel()
	for {
		if s, err := u.cfg.Node.Snapshot(ctx); err == nil {
			now := u.cfg.Now()
			u.mu.Lock()
			if !slices.Equal(s.Ring, u.ring) {
				u.ring, u.ringAt = s.Ring, now
			}
			u.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-changes:
		}
	}
}

// look does what is due.
func (u *Usage) look(ctx context.Context) {
	u.probeNeighbours(ctx)
	if u.density == 0 {
		return
	}
	o, now := u.outlook(), u.cfg.Now()
	if s := u.cfg.Node.Settled(); s != u.settled { // others may be responsible for the records now, and list others
		u.settled, u.searchAt, u.pause, u.storedAt = s, time.Time{}, searchMin, time.Time{}
	}
	var offered []netip.AddrPort
	if o.bridges() && !o.behindNAT() {
		offered = u.cfg.Offered()
	}
	if want := u.records(offered); !same(want, u.stored) || len(want) > 0 && now.Sub(u.storedAt) >= recordLife/2 {
		u.list(ctx, want)
	}
	if !o.apart() {
		return
	}
	if !now.Before(u.searchAt) {
		before := u.Stats().Found
		u.search(ctx)
		if u.Stats().Found != before {
			u.pause = searchMin
		}
		u.searchAt, u.pause = now.Add(u.pause), min(2*u.pause, searchMax)
	}
	if !now.Before(u.dialAt) {
		u.dialAt = now.Add(dialAgain)
		u.dial(ctx, u.outlook())
	}
}

// records are what a server at these addresses stores. There is one address in a record, and a kit between others has
// several: each iteration carries the next.
func (u *Usage) records(addrs []netip.AddrPort) map[uint8]netip.AddrPort {
	r := make(map[uint8]netip.AddrPort)
	for d := uint8(1); d <= u.density && len(addrs) > 0; d++ {
		r[d] = addrs[int(d-1)%len(addrs)]
	}
	return r
}

func same(a, b map[uint8]netip.AddrPort) bool {
	if len(a) != len(b) {
		return false
	}
	for d, x := range a {
		if b[d] != x {
			return false
		}
	}
	return true
}

// list stores the records wanted and removes those that are no longer.
func (u *Usage) list(ctx context.Context, want map[uint8]netip.AddrPort) {
	for d := uint8(1); d <= u.density; d++ {
		addr, wanted := want[d]
		if _, is := u.stored[d]; !wanted && !is {
			continue
		}
		v := node.Value{Remove: !wanted}
		if wanted {
			b, err := Record{d, addr}.AppendBinary(nil)
			if err != nil {
				continue
			}
			v.Data = b
		}
		one, cancel := context.WithTimeout(ctx, storeTime)
		_, err := u.cfg.Node.Store(one, Resource(u.cfg.Signer.NodeID(), d), wire.KindTurnService, recordLife, u.cfg.Signer, v)
		cancel()
		u.count(func(c *Stats) {
			c.Stores++
			if err != nil {
				c.StoreFailed++
			}
		})
		switch {
		case err != nil:
			u.cfg.Log.Debug("TURN-SERVICE record", "iteration", d, "err", err)
		case wanted:
			u.stored[d] = addr
		default:
			delete(u.stored, d)
		}
	}
	u.storedAt = u.cfg.Now()
	u.count(func(c *Stats) { c.Listed = uint64(len(u.stored)) })
}

// search looks for servers: "by selecting a random Resource-ID and then doing a Find request for the appropriate
// Kind-ID with that Resource-ID … The returned response may be empty …, in which case the process gets repeated with
// some other random Resource-ID" (RFC 6940 §9).
func (u *Usage) search(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	for range searchTries {
		raw := make([]byte, len(u.cfg.Signer.NodeID().Bytes()))
		for i := range raw {
			raw[i] = byte(u.rng.Uint32())
		}
		u.count(func(c *Stats) { c.Searches++ })
		kinds, err := u.cfg.Node.Find(ctx, wire.ResourceID(raw), wire.KindTurnService)
		if err != nil {
			u.cfg.Log.Debug("search for a TURN server", "err", err)
			return
		}
		for _, k := range kinds {
			if k.Kind != wire.KindTurnService || len(k.Closest) == 0 {
				continue
			}
			if id, ok := u.take(ctx, k.Closest); ok {
				u.complete(ctx, id)
				return
			}
		}
	}
}

// complete fetches the other records of a server that is no neighbour: only one of its addresses may be on a link of
// ours.
func (u *Usage) complete(ctx context.Context, id wire.NodeID) {
	o := u.outlook()
	if slices.ContainsFunc(o.neighbours, func(n link.Neighbour) bool { return n.Node == id }) {
		return
	}
	for d := uint8(1); d <= u.density; d++ {
		u.take(ctx, Resource(id, d))
	}
}

// take fetches one record and returns whose server it names. It counts only where its signer may store it, for the
// address it says.
func (u *Usage) take(ctx context.Context, res wire.ResourceID) (id wire.NodeID, ok bool) {
	k, err := u.cfg.Node.Fetch(ctx, res, wire.KindTurnService)
	if err != nil {
		u.cfg.Log.Debug("TURN-SERVICE record", "resource", res, "err", err)
		return id, false
	}
	for _, v := range k.Values {
		if !v.Value.Exists || v.Signer == nil || v.Signer.NodeID == u.cfg.Signer.NodeID() {
			continue
		}
		r, err := ParseRecord(v.Value.Value)
		if err != nil || r.Iteration == 0 || r.Iteration > maxIteration || Resource(v.Signer.NodeID, r.Iteration) != res || !mayServe(r.Addr.Addr()) || r.Addr.Port() == 0 {
			u.count(func(c *Stats) { c.BadRecords++ })
			continue
		}
		u.learn(v.Signer.NodeID, r.Addr)
		id, ok = v.Signer.NodeID, true
	}
	return id, ok
}

func (u *Usage) learn(id wire.NodeID, at netip.AddrPort) {
	now := u.cfg.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	l, known := u.found[id]
	if !known && len(u.found) >= maxFound {
		return
	}
	l.until = now.Add(recordLife)
	if !slices.Contains(l.addrs, at) {
		l.addrs = append(slices.Clone(l.addrs), at)
		l.addrs = l.addrs[max(0, len(l.addrs)-maxIteration):]
	}
	u.found[id] = l
}

// dial opens links to servers that the overlay lists and that are no neighbours, so that they can be asked: the
// credential comes with a link, and makes them neighbours.
func (u *Usage) dial(ctx context.Context, o outlook) {
	u.dialled = slices.DeleteFunc(u.dialled, func(l Link) bool {
		select {
		case <-l.Done():
			return true
		default:
			return false
		}
	})
	if u.cfg.Dial == nil {
		return
	}
	for id, addrs := range o.found {
		if slices.ContainsFunc(o.neighbours, func(n link.Neighbour) bool { return n.Node == id }) ||
			slices.ContainsFunc(u.dialled, func(l Link) bool { return l.Peer().NodeID == id }) {
			continue
		}
		for _, a := range addrs {
			if len(u.dialled) >= maxDialled {
				return
			}
			one, cancel := context.WithTimeout(ctx, dialTime)
			l, err := u.cfg.Dial(one, a.Addr())
			cancel()
			if err != nil {
				u.cfg.Log.Debug("link to a TURN server", "address", a, "err", err)
				continue
			}
			u.count(func(c *Stats) { c.Dials++ })
			if l.Peer().NodeID != id { // somebody else has the address here
				_ = l.Close()
				continue
			}
			u.dialled = append(u.dialled, l)
			break
		}
	}
}

// probeNeighbours asks new neighbours, and from time to time the others, how they see this kit.
func (u *Usage) probeNeighbours(ctx context.Context) {
	o, now := u.outlook(), u.cfg.Now()
	var due []link.Neighbour
	u.mu.Lock()
	for a := range u.probes { // "If the connection to that host is lost, it MUST be removed" (RFC 6940 §6.5.1.4)
		if !slices.ContainsFunc(o.neighbours, func(n link.Neighbour) bool { return n.Addr == a }) {
			delete(u.probes, a)
		}
	}
	for _, n := range o.neighbours {
		p, known := u.probes[n.Addr]
		if (!known && len(u.probes)+len(due) < maxProbes || known && now.Sub(p.at) >= p.again) && mayServe(n.Addr) && len(due) < probeAtOnce &&
			!slices.ContainsFunc(due, func(d link.Neighbour) bool { return d.Addr == n.Addr }) {
			due = append(due, n)
		}
	}
	u.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	var all sync.WaitGroup
	for _, n := range due {
		all.Go(func() {
			at, err := u.cfg.Probe(ctx, o.serverOf(n))
			u.cfg.Log.Debug("STUN server", "peer", n.Node, "address", n.Addr, "sees", at, "err", err)
			u.mu.Lock()
			defer u.mu.Unlock()
			u.counts.Probes++
			p := probe{probed{err == nil, at.Addr().Unmap()}, now, probeLife}
			if err != nil {
				u.counts.ProbesFailed++
				p.again = min(max(2*u.failing(n.Addr), probeAgain), probeSeldom)
			}
			u.probes[n.Addr] = p
		})
	}
	all.Wait()
}

// failing is the pause after which a neighbour that did not answer was asked again, 0 for the others. mu is held.
func (u *Usage) failing(a netip.Addr) time.Duration {
	if p, ok := u.probes[a]; ok && !p.answered {
		return p.again
	}
	return 0
}

// outlook collects what is known now.
func (u *Usage) outlook() outlook {
	o := outlook{
		neighbours: u.cfg.Neighbours(), own: u.cfg.Addresses(), port: u.cfg.Port,
		probes: make(map[netip.Addr]probed), found: make(map[wire.NodeID][]netip.AddrPort),
		now: u.cfg.Now(), self: u.cfg.Signer.NodeID(),
	}
	if u.cfg.Unreached != nil {
		o.unreached = u.cfg.Unreached()
	}
	now := o.now
	u.mu.Lock()
	defer u.mu.Unlock()
	for a, p := range u.probes {
		o.probes[a] = p.probed
	}
	for id, l := range u.found {
		if now.Before(l.until) {
			o.found[id] = l.addrs
		} else {
			delete(u.found, id)
		}
	}
	o.turn, o.ring, o.ringAt = u.turn, u.ring, u.ringAt
	return o
}

// Servers are whom the next attempt asks for candidates (link.Config.Servers).
func (u *Usage) Servers() []link.Server {
	o := u.outlook()
	u.count(func(*Stats) { u.turn++ })
	return o.servers()
}

func (u *Usage) count(f func(*Stats)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f(&u.counts)
}

// Stats returns the counters.
func (u *Usage) Stats() Stats {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.counts
	s.Found = uint64(len(u.found))
	return s
}
