package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"fieldkit/overlay/config"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/peer"
	"fieldkit/overlay/wire"
)

// overlayName is the name of every simulated mission's overlay.
const overlayName = "sim.mission.home.arpa"

// Conditions are what a packet meets between any two kits.
type Conditions struct {
	Delay  time.Duration `json:"delay"`  // one way
	Jitter time.Duration `json:"jitter"` // up to so much more, of each packet anew
	Loss   float64       `json:"loss"`   // 0 to 1, of each packet, each way
}

// Field is what kits meet on a mesh of radios: 5 to 15 ms a way and no loss that the radio does not repair.
var Field = Conditions{Delay: 5 * time.Millisecond, Jitter: 10 * time.Millisecond}

// Config is what a World is made of.
type Config struct {
	Seed    uint64
	Net     Conditions
	Real    bool            // ECDSA instead of a keyed hash: small numbers of kits only
	Kits    int             // how many there will be, about
	Context context.Context // ends the simulation before its time; nil: nothing does
	Known   int             // kits that discovery shows to a newcomer; 0: all on its island, as mDNS on one link does
}

// Counts are what the simulator itself counted.
type Counts struct {
	Attaches     uint64 `json:"attaches"`      // links made by Attach
	Bootstraps   uint64 `json:"bootstraps"`    // bootstrap links made
	LinksFailed  uint64 `json:"links_failed"`  // given up after five transmissions
	QueueFull    uint64 `json:"queue_full"`    // messages that a link did not take
	QueuePeak    int    `json:"queue_peak"`    // longest send queue of a link
	JobsDropped  uint64 `json:"jobs_dropped"`  // signatures that a kit had no time for
	Stores       uint64 `json:"stores"`        // registrations stored, again and again
	StoresFailed uint64 `json:"stores_failed"` // and tried again later
}

// World is one simulation: kits, what is between them, and the time. It belongs to one goroutine.
type World struct {
	cfg      Config
	k        kernel
	rng      *rand.Rand
	net      Conditions
	auth     authority
	doc      *config.Document
	kits     []*Kit // by number
	byID     map[wire.NodeID]*Kit
	byAddr   map[netip.AddrPort]*Kit
	attempts map[string]*attempt
	ufrag    uint64
	trace    trace
	count    Counts
	records  []*record
	byAOR    map[string][]*record
	methods  [64]Method     // by message code, the last for all above
	hops     map[uint64]int // by transaction ID, while lookups are measured
	failures []string       // broken rules
}

// New makes an empty world.
func New(cfg Config) (*World, error) {
	w := &World{
		cfg: cfg, net: cfg.Net, rng: rand.New(rand.NewPCG(cfg.Seed, 0x51d)), auth: newFastAuthority(),
		doc:  config.New(overlayName, wire.MinNodeIDLen),
		byID: map[wire.NodeID]*Kit{}, byAddr: map[netip.AddrPort]*Kit{}, attempts: map[string]*attempt{}, byAOR: map[string][]*record{},
	}
	if cfg.Real {
		a, err := newRealAuthority()
		if err != nil {
			return nil, err
		}
		w.auth = a
	}
	if cfg.Kits > 1000 {
		w.doc.InitialTTL = 32 // RFC 6940 §13.6.5: log2 N + 5 bounds the path; this leaves room while rings grow
	}
	return w, nil
}

func (w *World) now() time.Time { return w.k.now.time() }

// Now is the virtual time since the beginning.
func (w *World) Now() time.Duration { return time.Duration(w.k.now) }

// Events is how many events have happened.
func (w *World) Events() uint64 { return w.k.events }

// Trace is a hash over every frame that arrived, with its time and its ends.
func (w *World) Trace() uint64 { return uint64(w.trace) }

// Run lets d of virtual time pass.
func (w *World) Run(d time.Duration) {
	end := w.k.now.add(d)
	for w.step(end) {
	}
	w.k.now = end
}

// step lets the next event happen that is not later than end, unless the simulation is given up.
func (w *World) step(end instant) bool {
	if w.k.events%pollEvents == 0 && w.cfg.Context != nil && w.cfg.Context.Err() != nil {
		return false
	}
	return w.k.step(end)
}

// pollEvents is how many events there are between two looks at whether anybody still wants to know: milliseconds.
const pollEvents = 1024

// RunUntil lets time pass until ok holds, which is asked every step, and reports how long that took; false if it
// does not within limit.
func (w *World) RunUntil(step, limit time.Duration, ok func() bool) (time.Duration, bool) {
	start := w.k.now
	for !ok() {
		if w.k.now.since(start) >= limit {
			return limit, false
		}
		w.Run(step)
	}
	return w.k.now.since(start), true
}

func (w *World) latency() time.Duration {
	d := w.net.Delay
	if w.net.Jitter > 0 {
		d += time.Duration(w.rng.Int64N(int64(w.net.Jitter)))
	}
	return d
}

func (w *World) lost() bool { return w.net.Loss > 0 && w.rng.Float64() < w.net.Loss }

// spread is a random time below d.
func (w *World) spread(d time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(max(d, 1))))
}

// reach reports that packets get from a to b and back.
func (w *World) reach(a, b *Kit) bool { return a.alive && b.alive && a.island == b.island }

// Kit is one simulated kit.
type Kit struct {
	w      *World
	n      int
	life   int // grows with each start and end
	alive  bool
	island int
	addr   netip.AddrPort
	self   *ident.Peer
	ident  *identity
	peer   *peer.Peer

	ends     []*End
	ledger   Ledger
	armed    instant // when wake is to happen; none: 0
	wake     func()
	jobs     [2]int
	busy     [workers]instant
	attempts int

	storageTime uint64
	known       []*Kit // that discovery showed, in this life
	usage       usage
	received    uint64 // messages, in this life
}

// add makes a kit that is not running.
func (w *World) add() (*Kit, error) {
	var seed [32]byte
	for i := range 4 {
		binary.BigEndian.PutUint64(seed[8*i:], w.rng.Uint64())
	}
	id, err := w.auth.kit(seed)
	if err != nil {
		return nil, err
	}
	n := len(w.kits)
	k := &Kit{w: w, n: n, ident: id, self: id.peer}
	k.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), wire.DefaultPort)
	k.wake = func() {
		if k.armed == 0 || w.k.now < k.armed {
			return
		}
		k.armed = 0
		if k.alive {
			k.peer.Advance(w.now())
			k.after()
		}
	}
	w.kits = append(w.kits, k)
	w.byID[k.self.NodeID], w.byAddr[k.addr] = k, k
	return k, nil
}

// start powers a kit up. What it kept is its identity and its storage time.
func (k *Kit) start() error {
	w := k.w
	k.life++
	k.armed = 0
	k.jobs, k.busy, k.attempts = [2]int{}, [workers]instant{}, 0
	p, err := peer.New(peer.Config{
		ID: k.self.NodeID, Document: w.doc, Env: k, Crypto: k.ident.crypto, StorageTime: k.storageTime,
		Rand: rand.NewPCG(w.rng.Uint64(), uint64(k.n)),
	}, w.now())
	if err != nil {
		return fmt.Errorf("simulated kit %d: %w", k.n, err)
	}
	k.peer, k.alive = p, true
	k.received = 0
	k.usage.begin(k)
	k.discover()
	k.after()
	return nil
}

// stop takes a kit away without a word: its battery is pulled.
func (k *Kit) stop() {
	for _, e := range k.drained() {
		if !e.far.closed {
			e.far.failLater()
		}
	}
	k.life++
	k.alive = false
	k.peer = nil
	k.forgetAt()
}

// quit says goodbye first, and is gone a moment later.
func (k *Kit) quit() {
	life := k.life
	k.peer.Leave(k.w.now(), func() {
		k.w.k.after(0, func() {
			if k.life == life {
				k.peer.Close(k.w.now())
				k.w.k.after(time.Second, func() {
					if k.life == life {
						k.stop()
					}
				})
			}
		})
	})
	k.after()
}

// receive is a message that arrived.
func (k *Kit) receive(e *End, b []byte) {
	w := k.w
	w.trace.word(uint64(w.k.now))
	w.trace.word(uint64(k.n)<<32 | uint64(e.far.kit.n))
	w.trace.bytes(b)
	w.observe(b)
	k.received++
	k.peer.Receive(w.now(), e, b)
	k.after()
}

func (k *Kit) linkDown(e *End) {
	if k.alive && k.life == e.life {
		k.peer.LinkDown(k.w.now(), e)
		k.after()
	}
}

// after is what there is to do after any call of the peer.
func (k *Kit) after() {
	if !k.alive {
		return
	}
	k.usage.look(k)
	d := k.peer.Deadline()
	if d.IsZero() {
		return
	}
	at := max(instantOf(d), k.w.k.now, 1)
	if k.armed == 0 || at < k.armed {
		k.armed = at
		k.w.k.at(at, k.wake)
	}
}

// Times of discovery, as overlay/discovery and mDNS have them.
const (
	discoverWithin = 500 * time.Millisecond
	forgetAfter    = 75 * time.Second // a vanished announcement
	forgetWithin   = 45 * time.Second
)

// discover shows the kit to those around it and them to it.
func (k *Kit) discover() {
	w := k.w
	k.known = k.known[:0]
	if w.cfg.Known == 0 {
		for _, o := range w.kits {
			if o != k && w.reach(k, o) {
				w.introduce(k, o)
			}
		}
		return
	}
	var around []*Kit
	for tries := 0; len(around) < w.cfg.Known && tries < 50*w.cfg.Known; tries++ {
		if o := w.kits[w.rng.IntN(len(w.kits))]; o != k && w.reach(k, o) && !slices.Contains(around, o) {
			around = append(around, o)
			w.introduce(k, o)
		}
	}
}

// introduce lets two kits find each other, each a little later by itself.
func (w *World) introduce(a, b *Kit) {
	for _, p := range [2][2]*Kit{{a, b}, {b, a}} {
		k, o := p[0], p[1]
		w.k.after(w.spread(discoverWithin), func() {
			if w.reach(k, o) {
				if !slices.Contains(k.known, o) {
					k.known = append(k.known, o)
				}
				k.peer.Discovered(w.now(), o.self.NodeID, []netip.AddrPort{o.addr})
				k.after()
			}
		})
	}
}

// forgetAt lets those that see k notice, in their time, that they do not see it any more.
func (k *Kit) forgetAt() {
	w := k.w
	for _, o := range k.known {
		w.k.after(forgetAfter+w.spread(forgetWithin), func() {
			if o.alive && !w.reach(o, k) {
				o.lose(k)
			}
		})
	}
}

// lose lets k notice that discovery does not show o any more. Where it shows a few of many, another one takes the place.
func (k *Kit) lose(o *Kit) {
	w := k.w
	i := slices.Index(k.known, o)
	if i < 0 {
		return
	}
	k.known = slices.Delete(k.known, i, i+1)
	k.peer.Lost(w.now(), o.self.NodeID)
	k.after()
	if w.cfg.Known > 0 && len(k.known) < w.cfg.Known {
		if n := w.kits[w.rng.IntN(len(w.kits))]; n != k && w.reach(k, n) {
			w.introduce(k, n)
		}
	}
}

// move puts a kit on another island: what it was linked to, but cannot reach any more, falls silent, and discovery
// shows it those who are there.
func (w *World) move(island int, kits ...*Kit) {
	for _, k := range kits {
		k.island = island
	}
	w.discoverMoved(kits)
	for _, k := range kits {
		for _, e := range k.ends {
			if !w.reach(k, e.far.kit) {
				e.failLater()
				e.far.failLater()
			}
		}
		for _, o := range k.known {
			if !w.reach(k, o) {
				w.k.after(forgetAfter+w.spread(forgetWithin), func() {
					for _, p := range [2][2]*Kit{{k, o}, {o, k}} {
						if p[0].alive && !w.reach(p[0], p[1]) {
							p[0].lose(p[1])
						}
					}
				})
			}
		}
	}
}

// discoverMoved shows kits that have moved and those that they can reach now to each other.
func (w *World) discoverMoved(kits []*Kit) {
	for _, k := range kits {
		if w.cfg.Known > 0 {
			for range w.cfg.Known {
				if o := w.kits[w.rng.IntN(len(w.kits))]; o != k && w.reach(k, o) && !slices.Contains(k.known, o) {
					w.introduce(k, o)
				}
			}
			continue
		}
		for _, o := range w.kits {
			if o != k && w.reach(k, o) && !slices.Contains(k.known, o) {
				w.introduce(k, o)
			}
		}
	}
}

// living are all kits that run, by number.
func (w *World) living() []*Kit {
	var list []*Kit
	for _, k := range w.kits {
		if k.alive {
			list = append(list, k)
		}
	}
	return list
}

// Ledger is what all kits together have sent.
func (w *World) Ledger() Ledger {
	var total Ledger
	for _, k := range w.kits {
		for _, e := range k.ends {
			e.bill()
		}
		total.add(&k.ledger, 1)
	}
	return total
}

// fail notes that a rule was broken. Only the first few are kept.
func (w *World) fail(format string, a ...any) {
	if len(w.failures) < 20 {
		w.failures = append(w.failures, fmt.Sprintf(format, a...))
	}
}
