package sipusage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/sipusage"
	"fieldkit/overlay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const domain = "test.mission.home.arpa"

// phone is a kit with the SIP Usage running on it.
type phone struct {
	*nodetest.Kit
	usage *sipusage.Usage
	stop  context.CancelFunc
	ended chan error

	mu     sync.Mutex
	trunks []*sipusage.Trunk
	heard  []string // messages on any trunk
}

type world struct {
	t      *testing.T
	m      *nodetest.Mission
	net    *nodetest.Network
	phones []*phone
	ahead  int
	rng    *rand.Rand
}

func newWorld(t *testing.T, n int) *world {
	t.Helper()
	s := rand.Uint64()
	if v := os.Getenv("OVERLAY_SEED"); v != "" {
		var err error
		if s, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("OVERLAY_SEED=%d", s)
	m, err := nodetest.NewMission(domain, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, m: m, net: nodetest.New(s, nodetest.Conditions{Delay: 2 * time.Millisecond}), rng: rand.New(rand.NewPCG(s, 2))}
	for i := range n {
		k, err := m.NewKit(i + 1)
		if err != nil {
			t.Fatal(err)
		}
		w.phones = append(w.phones, &phone{Kit: k})
	}
	return w
}

func (w *world) start(p *phone) {
	w.t.Helper()
	domains := sipusage.OnlyDomain(domain)
	err := w.m.Start(w.net, p.Kit, func(c *node.Config) { c.MayStore, c.Seed = domains.MayStore, w.rng.Uint64() })
	if err != nil {
		w.t.Fatal(err)
	}
	p.usage, err = sipusage.New(sipusage.Config{Node: p.Node, Identity: p.Identity, Domains: domains, MaxAORs: 32, Ahead: w.ahead, OnTrunk: p.onTrunk})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.stop, p.ended = cancel, make(chan error, 1)
	go func() { p.ended <- p.usage.Run(ctx) }()
}

func (p *phone) onTrunk(t *sipusage.Trunk, _ bool) {
	p.mu.Lock()
	p.trunks = append(p.trunks, t)
	p.mu.Unlock()
	t.Handle(func(b []byte) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.heard = append(p.heard, string(b))
	}, func([]byte) {})
}

func (p *phone) messages() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.heard...)
}

// run starts all, waits for one ring and until it has settled.
func (w *world) run(limit int) {
	w.t.Helper()
	for _, p := range w.phones[:limit] {
		w.start(p)
	}
	w.net.Meet(w.kits()...)
	w.ring(30*time.Second, w.kits()...)
	time.Sleep(10 * time.Second)
}

func (w *world) kits() (list []*nodetest.Kit) {
	for _, p := range w.phones {
		if p.usage != nil {
			list = append(list, p.Kit)
		}
	}
	return list
}

func (w *world) ring(limit time.Duration, kits ...*nodetest.Kit) {
	w.t.Helper()
	if _, err := nodetest.WaitRing(limit, kits...); err != nil {
		w.t.Fatal(err)
	}
}

// end stops everything; deferred in every bubble.
func (w *world) end() {
	w.t.Helper()
	for _, p := range w.phones {
		if p.usage != nil {
			p.stop()
			if err := errors.Join(<-p.ended, p.Stop()); err != nil {
				w.t.Error(err)
			}
		}
	}
	time.Sleep(time.Minute)
	w.net.Close()
}

func (p *phone) register(user string, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return p.usage.Register(ctx, user+"@"+domain, ttl, "")
}

// where is who serves a user, as p sees it.
func (p *phone) where(user string) ([]wire.NodeID, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	list, err := p.usage.Lookup(ctx, user+"@"+domain)
	var ids []wire.NodeID
	for _, t := range list {
		ids = append(ids, t.Node)
	}
	return ids, err
}

func (w *world) check(when string, reader *phone, user string, want ...*phone) {
	w.t.Helper()
	got, err := reader.where(user)
	if len(want) == 0 {
		if !errors.Is(err, sipusage.ErrNotFound) {
			w.t.Errorf("%s: %s found at %v, %v; want nowhere", when, user, got, err)
		}
		return
	}
	ok := err == nil && len(got) == len(want)
	for _, p := range want {
		found := false
		for _, id := range got {
			found = found || id == p.ID()
		}
		ok = ok && found
	}
	if !ok {
		w.t.Errorf("%s: %s found at %v, %v; want %d kits", when, user, got, err, len(want))
	}
}

// A registration is found from every kit, is kept as long as it is wanted, and goes when it is taken back or over.
func TestRegistrationLife(t *testing.T) {
	w := newWorld(t, 4)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.end()
		w.run(4)
		a, b := w.phones[0], w.phones[1]
		w.check("before", b, "alice")
		if err := a.register("alice", 10*time.Minute); err != nil {
			t.Fatal(err)
		}
		for _, p := range w.phones {
			w.check("registered", p, "alice", a)
			stored, err := p.usage.Stored(t.Context())
			if want := p == a; err != nil || (len(stored) == 1) != want || want && stored[0] != "alice@"+domain {
				t.Errorf("stored by %v: %v, %v", p, stored, err)
			}
		}
		// "RELOAD explicitly supports multiple registrations for a single AOR" (RFC 7904 §3.2).
		if err := b.register("alice", 2*time.Minute); err != nil {
			t.Fatal(err)
		}
		w.check("on two kits", w.phones[2], "alice", a, b)
		// As a registrar does: again and again, for an hour.
		for range 20 {
			time.Sleep(3 * time.Minute)
			if err := a.register("alice", 10*time.Minute); err != nil {
				t.Fatal(err)
			}
			w.check("refreshed", w.phones[3], "alice", a) // b's has run out by then
			if t.Failed() {
				break
			}
			if err := b.register("alice", time.Minute); err != nil {
				t.Fatal(err)
			}
			time.Sleep(70 * time.Second)
		}
		if err := a.usage.Unregister(t.Context(), "sip:alice@"+domain); err != nil {
			t.Fatal(err)
		}
		w.check("taken back", w.phones[2], "alice")
		if stored, err := a.usage.Stored(t.Context()); err != nil || len(stored) != 0 {
			t.Errorf("stored after it was taken back: %v, %v", stored, err)
		}
		if err := a.register("alice", time.Minute); err != nil {
			t.Fatal(err)
		}
		w.check("registered anew", w.phones[2], "alice", a)
		time.Sleep(2 * time.Minute)
		w.check("expired", w.phones[2], "alice")
		s, err := a.usage.Stats(t.Context())
		if err != nil || s.Registrations != 0 {
			t.Errorf("%+v, %v: registrations left", s, err)
		}
		t.Logf("%+v", s)
	})
}

// Names that cannot be, domains that are not ours, and too many are refused.
func TestRegisterRefuses(t *testing.T) {
	w := newWorld(t, 1)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.end()
		w.run(1)
		p := w.phones[0]
		for _, aor := range []string{"", "alice", "alice@elsewhere.example", "a b@" + domain, "@" + domain, "alice@"} {
			if err := p.usage.Register(t.Context(), aor, time.Hour, ""); !errors.Is(err, sipusage.ErrAOR) {
				t.Errorf("%q: %v, want ErrAOR", aor, err)
			}
		}
		for i := range 32 {
			if err := p.register(fmt.Sprintf("user%d", i), time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.register("onemore", time.Hour); !errors.Is(err, sipusage.ErrFull) {
			t.Errorf("the 33rd: %v, want ErrFull", err)
		}
		// What is registered can still be prolonged and taken back, and then there is room.
		if err := errors.Join(p.register("user3", 2*time.Hour), p.usage.Unregister(t.Context(), "user4@"+domain)); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if err := p.register("onemore", time.Hour); err != nil {
			t.Error(err)
		}
	})
}

// A kit cannot register for another kit's key, or under a name its certificate does not have, whatever it sends.
func TestUserNodeMatch(t *testing.T) {
	w := newWorld(t, 3)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.end()
		w.run(3)
		a, b := w.phones[0], w.phones[1]
		aor := "alice@" + domain
		res := a.Node.ResourceID(aor)
		value := func(id wire.NodeID) []byte {
			v, err := wire.SIPRegistration{Type: wire.SIPRegistrationRoute, Destinations: []wire.Destination{wire.ToNode(id)}}.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		as := func(p *phone, aor string, key wire.NodeID, data []byte) error {
			s, err := p.Identity.SignerFor(aor)
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.Node.Store(t.Context(), res, wire.KindSIPRegistration, time.Hour, s, node.Value{Key: key.Bytes(), Data: data})
			return err
		}
		for name, err := range map[string]error{
			"another kit's key":         as(b, aor, a.ID(), value(b.ID())),
			"another name":              as(b, "bob@"+domain, b.ID(), value(b.ID())),
			"a domain not ours":         as(b, "alice@elsewhere.example", b.ID(), value(b.ID())),
			"a value that is no record": as(b, aor, b.ID(), []byte{9, 9}),
		} {
			if !node.IsRemote(err, wire.ErrorForbidden) {
				t.Errorf("%s: %v, want Error_Forbidden", name, err)
			}
		}
		if err := as(a, aor, a.ID(), value(a.ID())); err != nil {
			t.Errorf("what is right: %v", err)
		}
	})
}

// Forwarding from one address-of-record to others is followed, once each, and bounded.
func TestForwardingIsFollowedAndBounded(t *testing.T) {
	w := newWorld(t, 2)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.end()
		w.run(2)
		a, b := w.phones[0], w.phones[1]
		forward := func(p *phone, from, to string) {
			aor := from + "@" + domain
			s, err := p.Identity.SignerFor(aor)
			if err != nil {
				t.Fatal(err)
			}
			v, err := wire.SIPRegistration{Type: wire.SIPRegistrationURI, URI: []byte(to)}.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Node.Store(t.Context(), p.Node.ResourceID(aor), wire.KindSIPRegistration, time.Hour, s, node.Value{Key: p.ID().Bytes(), Data: v}); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.register("desk", time.Hour); err != nil {
			t.Fatal(err)
		}
		forward(a, "boss", "sip:sec%72etary@"+domain)
		forward(a, "secretary", "sip:desk@"+domain+";transport=udp")
		w.check("two steps", a, "boss", b)
		forward(a, "loop1", "loop2@"+domain)
		forward(a, "loop2", "loop1@"+domain)
		w.check("loop", b, "loop1")
		for i := range 8 {
			forward(a, fmt.Sprintf("chain%d", i), fmt.Sprintf("chain%d@%s", i+1, domain))
		}
		if err := b.register("chain8", time.Hour); err != nil {
			t.Fatal(err)
		}
		w.check("too long a chain", a, "chain0")
		w.check("the end of it", a, "chain5", b)
		// "If there are also external AORs, the Peer follows the appropriate procedure for contacting them as well."
		forward(a, "away", "sip:me@elsewhere.example")
		if got, err := b.usage.Lookup(t.Context(), "away@"+domain); err != nil || len(got) != 1 || got[0].URI != "me@elsewhere.example" || !got[0].Node.IsZero() {
			t.Errorf("forwarded out of the overlay: %+v, %v", got, err)
		}
	})
}

// A person registered on more kits than fit into one answer is found on all of them, as the limit of a message is
// the RFC's default.
func TestManyRegistrationsOfOneName(t *testing.T) {
	w := newWorld(t, 8)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.end()
		w.run(8)
		for _, p := range w.phones {
			if err := p.register("everywhere", time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range w.phones {
			w.check("on all kits", p, "everywhere", w.phones...)
		}
	})
}

// Two halves register apart and meet again: every registration is found from everywhere, without anybody doing
// anything.
func TestRegistrationsSurviveSplitAndMerge(t *testing.T) {
	w := newWorld(t, 8)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.end()
		w.run(8)
		left, right := w.phones[:4], w.phones[4:]
		kits := func(list []*phone) (out []*nodetest.Kit) {
			for _, p := range list {
				out = append(out, p.Kit)
			}
			return out
		}
		for _, p := range right {
			w.net.Partition(1, p.Addr)
		}
		for _, a := range left {
			for _, b := range right {
				a.Node.Lost(b.ID())
				b.Node.Lost(a.ID())
			}
		}
		w.ring(15*time.Second, kits(left)...)
		w.ring(15*time.Second, kits(right)...)
		time.Sleep(10 * time.Second)
		for i, p := range w.phones {
			for j := range 3 {
				if err := p.register(fmt.Sprintf("user%d%d", i, j), time.Hour); err != nil {
					t.Fatal(err)
				}
			}
			if i%4 == 0 {
				if err := p.register("roamer", time.Hour); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.net.Heal()
		w.net.Meet(w.kits()...)
		w.ring(60*time.Second, w.kits()...)
		time.Sleep(15 * time.Second)
		for i, p := range w.phones {
			for j := range 3 {
				w.check("merged", w.phones[w.rng.IntN(8)], fmt.Sprintf("user%d%d", i, j), p)
			}
		}
		w.check("merged", w.phones[5], "roamer", left[0], right[0])
	})
}

// Two kits that call each other at the same moment get one trunk, and SIP goes both ways over it.
func TestOneTrunkForTwo(t *testing.T) {
	w := newWorld(t, 3)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.end()
		w.run(3)
		a, b := w.phones[0], w.phones[1]
		for round := range 5 {
			var got [2]*sipusage.Trunk
			var wg sync.WaitGroup
			for i, p := range []*phone{a, b} {
				other := []*phone{b, a}[i]
				for range 3 { // several calls at once share it
					wg.Go(func() {
						tr, err := p.usage.Trunk(t.Context(), other.ID())
						if err != nil {
							t.Error(err)
							return
						}
						p.mu.Lock()
						if got[i] != nil && got[i] != tr {
							t.Error("two trunks at one side")
						}
						got[i] = tr
						p.mu.Unlock()
					})
				}
			}
			wg.Wait()
			if t.Failed() {
				return
			}
			time.Sleep(10 * time.Second)
			x, err := got[0].ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 16)
			if err != nil {
				t.Fatal(err)
			}
			y, err := got[1].ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 16)
			if err != nil || !bytes.Equal(x, y) || got[0].IsClient() == got[1].IsClient() {
				t.Fatalf("round %d: the ends are of two trunks (%v)", round, err)
			}
			if err := errors.Join(got[0].SendMessage([]byte("INVITE")), got[1].SendMessage([]byte("200 OK"))); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			if m := a.messages(); len(m) != round+1 || m[round] != "200 OK" {
				t.Errorf("a heard %q", m)
			}
			if m := b.messages(); len(m) != round+1 || m[round] != "INVITE" {
				t.Errorf("b heard %q", m)
			}
			// It breaks; the next call makes another.
			if err := got[round%2].Close(); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
		}
	})
}

// Trunks are there before the first call, one for each pair, and come back after a failure.
func TestTrunksAhead(t *testing.T) {
	w := newWorld(t, 4)
	w.ahead = 16
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.end()
		w.run(4)
		time.Sleep(20 * time.Second)
		all := func() (list []*sipusage.Trunk) {
			for _, p := range w.phones {
				l, err := p.usage.Trunks(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if len(l) != 3 {
					t.Errorf("%v has %d trunks, want 3", p.ID(), len(l))
				}
				list = append(list, l...)
			}
			return list
		}
		for _, tr := range all() {
			if err := tr.Close(); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Minute)
		all()
		began := time.Now()
		if _, err := w.phones[0].usage.Trunk(t.Context(), w.phones[3].ID()); err != nil || time.Since(began) > 0 {
			t.Errorf("trunk after %v, %v; want at once", time.Since(began), err)
		}
		// Nobody at home.
		if _, err := w.phones[0].usage.Trunk(t.Context(), w.phones[0].ID()); err == nil {
			t.Error("trunk to itself")
		}
	})
}

// A trunk to a kit that is gone fails in a bounded time, for all who wait, and can be had when it is back.
func TestTrunkToTheDead(t *testing.T) {
	w := newWorld(t, 3)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.end()
		w.run(3)
		a, b := w.phones[0], w.phones[1]
		b.Host.Vanish()
		began := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := a.usage.Trunk(t.Context(), b.ID()); err == nil {
					t.Error("trunk to a dead kit")
				}
			})
		}
		wg.Wait()
		if d := time.Since(began); d > 35*time.Second {
			t.Errorf("failed after %v", d)
		}
	})
}
