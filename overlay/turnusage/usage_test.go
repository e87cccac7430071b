package turnusage

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/link"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kit is a node with the usage on it. Who is its neighbour, the test says.
type kit struct {
	*nodetest.Kit
	usage *Usage
	stop  context.CancelFunc
	ended chan error

	mu         sync.Mutex
	neighbours []link.Neighbour
	nat        netip.Addr // how others see it, if not at its own address
	silent     bool       // no STUN server answers it
	dialled    []netip.Addr
}

func (k *kit) set(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

type world struct {
	t    *testing.T
	m    *nodetest.Mission
	net  *nodetest.Network
	kits []*kit
}

// ringed runs f in virtual time with a ring of n kits on which the usage runs. Kit 0 lies between the others: it has an
// address for each of its two links, and is everybody's neighbour; 1 is on the one, the rest on the other.
func ringed(t *testing.T, n int, change func(*ident.Document), f func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m, err := nodetest.NewMission("turn.mission.home.arpa", change)
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, m: m, net: nodetest.New(7, nodetest.Conditions{Delay: time.Millisecond})}
		defer w.end()
		var list []*nodetest.Kit
		for i := range n {
			nk, err := m.NewKit(i + 1)
			if err != nil {
				t.Fatal(err)
			}
			w.kits = append(w.kits, &kit{Kit: nk})
			list = append(list, nk)
		}
		for i := range w.kits {
			w.start(i)
		}
		w.net.Meet(list...)
		if _, err := nodetest.WaitRing(30*time.Second, list...); err != nil {
			t.Fatal(err)
		}
		f(t, w)
	})
}

// address is that of kit i on the link to kit to, or on its only one.
func address(i, to int) netip.Addr {
	if i == 0 && to > 1 || i > 1 {
		return netip.AddrFrom4([4]byte{10, 0, 2, byte(i + 1)})
	}
	return netip.AddrFrom4([4]byte{10, 0, 1, byte(i + 1)})
}

func (w *world) between(i, to int) link.Neighbour {
	return link.Neighbour{
		Node: w.kits[to].ID(), Addr: address(to, i), Local: address(i, to),
		Username: fmt.Sprintf("%d-%d", min(i, to), max(i, to)), Password: "secret",
	}
}

func (w *world) start(i int) {
	w.t.Helper()
	k := w.kits[i]
	if err := w.m.Start(w.net, k.Kit, func(c *node.Config) { c.Seed = uint64(i + 1) }); err != nil {
		w.t.Fatal(err)
	}
	for j := range w.kits {
		if j != i && (i == 0 || j == 0) {
			k.neighbours = append(k.neighbours, w.between(i, j))
		}
	}
	own := func() []netip.Addr { return []netip.Addr{address(i, 1), address(i, 2)} }
	var err error
	k.usage, err = New(Config{
		Node: k.Node, Signer: k.Identity.Signer(), Document: w.m.Document, Port: 3478, Seed: uint64(i + 1), Addresses: own,
		Neighbours: func() (r []link.Neighbour) { k.set(func() { r = append(r, k.neighbours...) }); return r },
		Offered: func() (r []netip.AddrPort) {
			for _, a := range own() {
				r = append(r, netip.AddrPortFrom(a, 3500))
			}
			return r
		},
		Probe: func(_ context.Context, server netip.AddrPort) (seen netip.AddrPort, err error) {
			k.set(func() {
				seen = netip.AddrPortFrom(address(i, 1), 1)
				if k.nat.IsValid() {
					seen = netip.AddrPortFrom(k.nat, 1)
				}
				if k.silent {
					err = errors.New("no answer")
				}
			})
			return seen, err
		},
		Dial: func(_ context.Context, a netip.Addr) (Link, error) { return k.dial(w, a) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.stop, k.ended = cancel, make(chan error, 1)
	go func() { k.ended <- k.usage.Run(ctx) }()
}

// dialled is a link that dial opened.
type dialled struct {
	peer   *ident.Peer
	closed chan struct{}
	once   sync.Once
}

func (d *dialled) Peer() *ident.Peer     { return d.peer }
func (d *dialled) Done() <-chan struct{} { return d.closed }
func (d *dialled) Close() error          { d.once.Do(func() { close(d.closed) }); return nil }

func (k *kit) dial(w *world, a netip.Addr) (Link, error) {
	k.set(func() { k.dialled = append(k.dialled, a) })
	if a == address(0, 2) { // on a link that only the others have
		return nil, errors.New("on no link of ours")
	}
	for _, x := range w.kits {
		for i := range w.kits {
			if w.kits[i] == x && (address(i, 1) == a || address(i, 2) == a) {
				p, err := x.Trust.VerifyChain(x.Identity.TLSCertificate().Certificate, time.Now())
				return &dialled{peer: p, closed: make(chan struct{})}, err
			}
		}
	}
	return nil, errors.New("nobody there")
}

func (k *kit) endUsage(t *testing.T) {
	t.Helper()
	k.stop()
	if err := <-k.ended; err != nil {
		t.Error(err)
	}
}

func (w *world) end() {
	for _, k := range w.kits {
		if k.usage != nil {
			k.endUsage(w.t)
			if err := k.Stop(); err != nil {
				w.t.Error(err)
			}
		}
	}
	w.net.Close()
}

// stored reads the records of a kit from the overlay.
func (w *world) stored(i int) (r map[uint8]netip.AddrPort) {
	w.t.Helper()
	r = make(map[uint8]netip.AddrPort)
	for d := uint8(1); d <= 3; d++ {
		k, err := w.kits[len(w.kits)-1].Node.Fetch(w.t.Context(), Resource(w.kits[i].ID(), d), wire.KindTurnService)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, v := range k.Values {
			if v.Value.Exists {
				x, err := ParseRecord(v.Value.Value)
				if err != nil || x.Iteration != d {
					w.t.Errorf("record %d: %+v, %v", d, x, err)
				}
				r[d] = x.Addr
			}
		}
	}
	return r
}

// "The overlay configuration file specifies a turn-density parameter that indicates how many times each TURN server
// SHOULD record itself in the overlay" (RFC 6940 §9); who lies between others does, with each of its addresses in turn,
// and takes it back at the end.
func TestWhoLiesBetweenOthersIsListedAndFound(t *testing.T) {
	ringed(t, 4, nil, func(t *testing.T, w *world) {
		time.Sleep(2 * time.Minute)
		want := map[uint8]netip.AddrPort{1: netip.MustParseAddrPort("10.0.1.1:3500"), 2: netip.MustParseAddrPort("10.0.2.1:3500")}
		if got := w.stored(0); !same(got, want) {
			t.Errorf("stored %v, want %v", got, want)
		}
		for i := 1; i < 4; i++ {
			if got := w.stored(i); len(got) != 0 {
				t.Errorf("kit %d, which lies between nobody, is listed: %v", i, got)
			}
			s := w.kits[i].usage.Stats()
			if s.Found != 1 || s.Searches == 0 || s.BadRecords != 0 {
				t.Errorf("kit %d: %+v", i, s)
			}
			// Found, and asked where the link is, at the port that is stored.
			list := w.kits[i].usage.Servers()
			if len(list) != 1 || list[0].Addr != netip.AddrPortFrom(address(0, i), 3500) || list[0].Password != "secret" || list[0].Reflexive {
				t.Errorf("kit %d asks %+v", i, list)
			}
		}
		// Everybody is a neighbour of the one between.
		if s := w.kits[0].usage.Stats(); s.Searches != 0 {
			t.Errorf("the one between searches: %+v", s)
		}
		if list := w.kits[0].usage.Servers(); len(list) != 0 {
			t.Errorf("the one between asks %+v", list)
		}
		time.Sleep(recordLife + 5*time.Minute)
		if got := w.stored(0); !same(got, want) {
			t.Errorf("after its lifetime %v is stored, want %v", got, want)
		}
		w.kits[0].endUsage(t)
		w.kits[0].ended <- nil
		if got := w.stored(0); len(got) != 0 {
			t.Errorf("after its end %v is stored", got)
		}
	})
}

func TestWhoIsNoLongerBetweenIsNoLongerListed(t *testing.T) {
	for name, change := range map[string]func(*kit){
		"behind a NAT":                func(k *kit) { k.nat = netip.MustParseAddr("192.0.2.1") },
		"everybody on one link":       func(k *kit) { k.neighbours = k.neighbours[:1] },
		"nobody left on either link":  func(k *kit) { k.neighbours = nil },
		"both links lead to the same": func(k *kit) { k.neighbours = append(k.neighbours[:1], withLocal(k.neighbours[0], address(0, 2))) },
	} {
		t.Run(name, func(t *testing.T) {
			ringed(t, 3, nil, func(t *testing.T, w *world) {
				time.Sleep(10 * time.Second)
				if got := w.stored(0); len(got) != 2 {
					t.Fatalf("stored %v", got)
				}
				k := w.kits[0]
				k.set(func() { change(k) })
				time.Sleep(probeLife + time.Minute) // how it is seen, it asks seldom
				if got := w.stored(0); len(got) != 0 {
					t.Errorf("still stored: %v", got)
				}
			})
		})
	}
}

func withLocal(n link.Neighbour, a netip.Addr) link.Neighbour {
	n.Local = a
	return n
}

// "If there are no TURN servers in the overlay, it is set to zero" (RFC 6940 §11.1): then nothing is stored and nothing
// searched, and neighbours are asked all the same.
func TestWithoutDensityOnlyNeighboursAreAsked(t *testing.T) {
	for name, change := range map[string]func(*ident.Document){
		"turn-density 0": func(d *ident.Document) { d.TurnDensity = 0 },
		"no such Kind":   func(d *ident.Document) { d.Kinds = d.Kinds[:1] },
	} {
		t.Run(name, func(t *testing.T) {
			ringed(t, 3, change, func(t *testing.T, w *world) {
				time.Sleep(5 * time.Minute)
				for i, k := range w.kits {
					if s := k.usage.Stats(); s.Stores+s.Searches != 0 || s.Probes == 0 {
						t.Errorf("kit %d: %+v", i, s)
					}
				}
				if list := w.kits[1].usage.Servers(); len(list) != 1 || list[0].Addr != netip.AddrPortFrom(address(0, 1), 3478) {
					t.Errorf("asked: %+v", list)
				}
			})
		})
	}
}

// A record counts only at a Resource-ID made of its signer's own Node-ID and its iteration.
func TestForeignRecordsAreNotTaken(t *testing.T) {
	ringed(t, 3, nil, func(t *testing.T, w *world) {
		liar := w.kits[2]
		store := func(d uint8, r Record) {
			t.Helper()
			b, err := r.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := liar.Node.Store(t.Context(), Resource(liar.ID(), d), wire.KindTurnService, time.Hour, liar.Identity.Signer(), node.Value{Data: b}); err != nil {
				t.Fatal(err)
			}
		}
		// What it may store there is not for it to choose: another iteration, an address of one link, no port.
		store(5, Record{4, netip.MustParseAddrPort("10.0.1.9:3478")})
		store(6, Record{6, netip.MustParseAddrPort("[fe80::1]:3478")})
		store(7, Record{7, netip.MustParseAddrPort("10.0.1.9:0")})
		u := w.kits[1].usage
		w.kits[1].endUsage(t) // it would find them, too
		w.kits[1].ended <- nil
		before := u.Stats()
		for d := uint8(5); d <= 7; d++ {
			u.take(t.Context(), Resource(liar.ID(), d))
		}
		if s := u.Stats(); s.BadRecords-before.BadRecords != 3 {
			t.Errorf("%+v", s)
		}
		if o := u.outlook(); len(o.found[liar.ID()]) != 0 {
			t.Errorf("found %v", o.found)
		}
		// And where it may not store it is refused.
		_, err := liar.Node.Store(t.Context(), Resource(w.kits[0].ID(), 3), wire.KindTurnService, time.Hour, liar.Identity.Signer(), node.Value{Data: []byte{3, 1, 6, 10, 0, 1, 9, 13, 150}})
		if !node.IsRemote(err, wire.ErrorForbidden) {
			t.Errorf("a record in another's name: %v", err)
		}
	})
}

// A server that the overlay lists and that is no neighbour is dialled, for the credential; not who only has its address.
func TestListedServerIsDialled(t *testing.T) {
	ringed(t, 4, nil, func(t *testing.T, w *world) {
		k := w.kits[1]
		k.set(func() { k.neighbours = nil })
		time.Sleep(time.Minute)
		s := k.usage.Stats()
		if s.Found != 1 || s.Searches > 12 || s.Dials != 1 || len(k.dialled) == 0 || k.dialled[len(k.dialled)-1] != address(0, 1) {
			t.Errorf("%+v, dialled %v", s, k.dialled)
		}
		time.Sleep(5 * time.Minute)
		if again := k.usage.Stats(); again.Dials != 1 {
			t.Errorf("dialled again while the link lives: %+v", again)
		}
	})
}

func TestSilentServersAreAskedAgain(t *testing.T) {
	ringed(t, 3, nil, func(t *testing.T, w *world) {
		k := w.kits[1]
		k.set(func() { k.silent = true; k.neighbours[0].Addr = netip.MustParseAddr("10.0.1.77") })
		time.Sleep(5 * time.Minute)
		if list := k.usage.Servers(); len(list) != 0 {
			t.Errorf("asked: %+v", list)
		}
		s := k.usage.Stats()
		if s.ProbesFailed < 5 || s.ProbesFailed > 12 {
			t.Errorf("asked %d times in five minutes", s.ProbesFailed)
		}
		k.set(func() { k.silent = false })
		time.Sleep(probeSeldom + lookEvery)
		if list := k.usage.Servers(); len(list) != 1 {
			t.Errorf("not asked though it answers: %+v", list)
		}
	})
}

func TestConfigurationIsChecked(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("empty configuration taken")
	}
}
