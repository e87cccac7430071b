package node_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// The tests of docs/hostile-peers.md: a member with a valid certificate, in the ring, that lies. What it can do is asserted
// like what it cannot.

// liar is the kit that lies: its node runs as everybody's, and what leaves it is changed.
type liar struct {
	*nodetest.Kit
	mu  sync.Mutex
	lie func(to wire.NodeID, m *wire.Message) *wire.Message // called with mu held; nil: it is honest; it returns nil for silence
}

func (l *liar) tell(f func(to wire.NodeID, m *wire.Message) *wire.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lie = f
}

// own makes a lie of one about the liar's own messages with that code, which are signed anew.
func (l *liar) own(t *testing.T, code wire.MessageCode, f func(m *wire.Message)) func(wire.NodeID, *wire.Message) *wire.Message {
	return func(_ wire.NodeID, m *wire.Message) *wire.Message {
		if m.Code == code && isBy(m, l.Identity) {
			f(m)
			signAs(t, m, l.Identity)
		}
		return m
	}
}

// withLiar starts n kits of which the first lies when it is told to, and waits for their ring unless lie is set from the start.
func withLiar(t *testing.T, n int, change func(*node.Config), f func(t *testing.T, w *world, l *liar)) {
	t.Helper()
	w := newWorld(t, n, lan)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		l := &liar{Kit: w.kits[0]}
		err := w.mission.Start(w.net, l.Kit, func(c *node.Config) {
			c.Seed = w.rng.Uint64()
			c.Transport = &tap{c.Transport, func(to wire.NodeID, m *wire.Message) (*wire.Message, time.Duration) {
				l.mu.Lock()
				defer l.mu.Unlock()
				if l.lie == nil {
					return m, 0
				}
				return l.lie(to, m), 0
			}}
			if change != nil {
				change(c)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range w.kits[1:] {
			w.start(k)
		}
		w.net.Meet(w.kits...)
		w.ring(60*time.Second, w.kits...)
		time.Sleep(15 * time.Second)
		f(t, w, l)
	})
}

// replicaSet is the responsible kit of a user's registrations and the two after it.
func (w *world) replicaSet(user string, kits ...*nodetest.Kit) []*nodetest.Kit {
	res := wire.ResourceIDFor([]byte(user+"@test.mission.home.arpa"), 16)
	ring := slices.SortedFunc(slices.Values(kits), func(a, b *nodetest.Kit) int { return a.ID().Compare(b.ID()) })
	at := slices.IndexFunc(ring, func(k *nodetest.Kit) bool { return string(k.ID().Bytes()) >= string(res) })
	at = max(at, 0)
	return []*nodetest.Kit{ring[at], ring[(at+1)%len(ring)], ring[(at+2)%len(ring)]}
}

// users are names by where they are stored: will chooses.
func (w *world) users(prefix string, n int, will func(set []*nodetest.Kit) bool, kits ...*nodetest.Kit) (names []string) {
	w.t.Helper()
	for i := range 50_000 {
		if name := fmt.Sprintf("%s%d", prefix, i); will(w.replicaSet(name, kits...)) {
			if names = append(names, name); len(names) == n {
				return names
			}
		}
	}
	w.t.Fatalf("no %d names stored where the test wants them", n)
	return nil
}

// expect reads a user at every honest kit; want "" is nothing.
func (w *world) expect(when, user, want string, by *nodetest.Kit, readers ...*nodetest.Kit) {
	w.t.Helper()
	for _, r := range readers {
		got, err := get(r, user)
		if err != nil || got[by.ID()] != want || len(got) > 1 {
			w.t.Errorf("%s: %v reads %s: %q, %v, want %q", when, r.ID(), user, got, err, want)
		}
	}
}

// A member denies what it stores: nobody finds what it alone answers for, and everybody everything else. When it is gone its
// successor has it all.
func TestMemberDeniesWhatItStores(t *testing.T) {
	withLiar(t, 5, nil, func(t *testing.T, w *world, l *liar) {
		honest := w.kits[1:]
		his := w.users("his", 2, func(set []*nodetest.Kit) bool { return set[0] == l.Kit }, w.kits...)
		others := w.users("other", 6, func(set []*nodetest.Kit) bool { return set[0] != l.Kit }, w.kits...)
		for _, u := range append(slices.Clone(his), others...) {
			if _, err := put(honest[0], u, "here"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		l.tell(l.own(t, wire.FetchAns, func(m *wire.Message) {
			m.Body = encode(t, wire.FetchAnswer{Kinds: []wire.FetchKindResponse{{Kind: regKind, Generation: 1}}})
		}))
		for _, u := range his {
			w.expect("denied", u, "", honest[0], honest...)
		}
		for _, u := range others {
			w.expect("stored elsewhere", u, "here", honest[0], honest...)
		}
		if err := l.Kill(); err != nil {
			t.Fatal(err)
		}
		w.ring(30*time.Second, honest...)
		time.Sleep(10 * time.Second)
		for _, u := range append(his, others...) {
			w.expect("the liar is gone", u, "here", honest[0], honest...)
		}
	})
}

// A member refuses to store: who stores is told, and nothing else is touched.
func TestMemberRefusesStores(t *testing.T) {
	withLiar(t, 4, nil, func(t *testing.T, w *world, l *liar) {
		l.tell(l.own(t, wire.StoreAns, func(m *wire.Message) {
			m.Code, m.Body = wire.ErrorAns, encode(t, wire.ErrorResponse{Code: wire.ErrorForbidden})
		}))
		his := w.users("his", 1, func(set []*nodetest.Kit) bool { return set[0] == l.Kit }, w.kits...)
		others := w.users("other", 4, func(set []*nodetest.Kit) bool { return set[0] != l.Kit }, w.kits...)
		if _, err := put(w.kits[1], his[0], "here"); !node.IsRemote(err, wire.ErrorForbidden) {
			t.Errorf("refused store: %v", err)
		}
		for _, u := range others {
			if _, err := put(w.kits[1], u, "here"); err != nil {
				t.Errorf("stored elsewhere: %v", err)
			}
			w.expect("stored elsewhere", u, "here", w.kits[1], w.kits[1:]...)
		}
	})
}

// A member takes replicas, says so, and keeps none. When the responsible kit dies, the value is at the other replica: it is
// found again, unless the liar is next in line, and then when the liar is gone.
func TestMemberDropsReplicas(t *testing.T) {
	var dropping atomic.Bool
	deaf := func(c *node.Config) {
		c.MayStore = func(wire.KindID, wire.ResourceID, *wire.StoredData, *ident.Peer) error {
			if dropping.Load() {
				return errors.New("dropped")
			}
			return nil
		}
	}
	withLiar(t, 5, deaf, func(t *testing.T, w *world, l *liar) {
		honest := w.kits[1:]
		dropping.Store(true)
		l.tell(l.own(t, wire.ErrorAns, func(m *wire.Message) {
			m.Code, m.Body = wire.StoreAns, encode(t, wire.StoreAnswer{Kinds: []wire.StoreKindResponse{{Kind: regKind, Generation: 1}}})
		}))
		// Of the two users' replica sets one has the liar last, one next in line.
		ring := slices.SortedFunc(slices.Values(w.kits), func(a, b *nodetest.Kit) int { return a.ID().Compare(b.ID()) })
		at := slices.Index(ring, l.Kit) + len(ring)
		owner, second := ring[(at-2)%len(ring)], ring[(at-1)%len(ring)]
		last := w.users("last", 1, func(set []*nodetest.Kit) bool { return set[0] == owner }, w.kits...)[0]
		next := w.users("next", 1, func(set []*nodetest.Kit) bool { return set[0] == second }, w.kits...)[0]
		writer := honest[slices.IndexFunc(honest, func(k *nodetest.Kit) bool { return k != owner && k != second })]
		for _, u := range []string{last, next} {
			if _, err := put(writer, u, "here"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		w.expect("while its owner lives", last, "here", writer, honest...)
		w.expect("while its owner lives", next, "here", writer, honest...)
		if err := owner.Kill(); err != nil {
			t.Fatal(err)
		}
		left := slices.DeleteFunc(slices.Clone(w.kits), func(k *nodetest.Kit) bool { return k == owner })
		w.ring(30*time.Second, left...)
		time.Sleep(10 * time.Second)
		alive := slices.DeleteFunc(slices.Clone(honest), func(k *nodetest.Kit) bool { return k == owner })
		w.expect("the honest replica is next", last, "here", writer, alive...)
		if err := second.Kill(); err != nil {
			t.Fatal(err)
		}
		left = slices.DeleteFunc(left, func(k *nodetest.Kit) bool { return k == second })
		alive = slices.DeleteFunc(alive, func(k *nodetest.Kit) bool { return k == second })
		w.ring(30*time.Second, left...)
		time.Sleep(10 * time.Second)
		w.expect("the liar is next", next, "", writer, alive...)
		if err := l.Kill(); err != nil {
			t.Fatal(err)
		}
		w.ring(30*time.Second, alive...)
		time.Sleep(10 * time.Second)
		w.expect("the liar is gone", next, "here", writer, alive...)
	})
}

// A member answers with what was true once. It is believed while the old value's own lifetime lasts: "A lifetime represents the
// latest time at which the data is valid and thus limits (although does not completely prevent) the ability of the storing node
// to perform a rollback attack on retrievers" (RFC 6940 §13.5.3). What it cannot do is make a value up.
func TestMemberAnswersWithOldValues(t *testing.T) {
	withLiar(t, 4, nil, func(t *testing.T, w *world, l *liar) {
		honest := w.kits[1:]
		his := w.users("his", 1, func(set []*nodetest.Kit) bool { return set[0] == l.Kit }, w.kits...)[0]
		if _, err := put(honest[0], his, "old"); err != nil {
			t.Fatal(err)
		}
		var old []byte
		var certs []wire.Certificate
		l.tell(func(_ wire.NodeID, m *wire.Message) *wire.Message {
			if m.Code == wire.FetchAns && isBy(m, l.Identity) {
				old, certs = slices.Clone(m.Body), slices.Clone(m.Security.Certificates)
			}
			return m
		})
		w.expect("before", his, "old", honest[0], honest[1])
		if _, err := put(honest[0], his, "new"); err != nil {
			t.Fatal(err)
		}
		l.tell(nil)
		w.expect("honest", his, "new", honest[0], honest...)
		l.tell(func(_ wire.NodeID, m *wire.Message) *wire.Message {
			if m.Code == wire.FetchAns && isBy(m, l.Identity) {
				m.Body, m.Security.Certificates = slices.Clone(old), slices.Clone(certs)
				signAs(t, m, l.Identity)
			}
			return m
		})
		w.expect("rolled back", his, "old", honest[0], honest...)
		l.tell(func(_ wire.NodeID, m *wire.Message) *wire.Message {
			if m.Code == wire.FetchAns && isBy(m, l.Identity) {
				a, err := wire.ParseFetchAnswer(old, w.mission.Document.ModelOf)
				if err != nil {
					t.Error(err)
					return m
				}
				a.Kinds[0].Values[0].Value.Value = []byte("made up")
				m.Body, m.Security.Certificates = encode(t, a), slices.Clone(certs)
				signAs(t, m, l.Identity)
			}
			return m
		})
		for _, r := range honest {
			if got, err := get(r, his); err == nil {
				t.Errorf("made up: %q", got)
			}
		}
	})
}

// A member hands on values that it changed, or that it made for others, as replicas: nobody stores them.
func TestMemberForgesReplicas(t *testing.T) {
	withLiar(t, 4, nil, func(t *testing.T, w *world, l *liar) {
		honest := w.kits[1:]
		var forged atomic.Int64
		l.tell(func(_ wire.NodeID, m *wire.Message) *wire.Message {
			if m.Code != wire.StoreReq || !isBy(m, l.Identity) {
				return m
			}
			q, err := wire.ParseStoreRequest(m.Body, w.mission.Document.ModelOf)
			if err != nil || q.Replica == 0 {
				return m
			}
			forged.Add(1)
			q.Kinds[0].Values[0].Value.Value = []byte("forged")
			m.Body = encode(t, q)
			signAs(t, m, l.Identity)
			return m
		})
		his := w.users("his", 3, func(set []*nodetest.Kit) bool { return set[0] == l.Kit }, w.kits...)
		for _, u := range his {
			if _, err := put(honest[0], u, "here"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		if forged.Load() == 0 {
			t.Fatal("nothing was forged")
		}
		refused := uint64(0)
		for _, k := range honest {
			refused += w.snapshot(k).Stored.Forbidden
		}
		if refused == 0 {
			t.Error("no forged replica was refused")
		}
		// It is believed by nobody as the sender of original stores for others, either.
		if err := l.Kill(); err != nil {
			t.Fatal(err)
		}
		w.ring(30*time.Second, honest...)
		time.Sleep(10 * time.Second)
		for _, u := range his {
			for _, r := range honest {
				if got, err := get(r, u); err != nil || got[honest[0].ID()] == "forged" {
					t.Errorf("%v reads %q, %v", r.ID(), got, err)
				}
			}
		}
	})
}

// A member invents neighbours, a hundred of them in each Update. They are asked for and not found; the ring stays what it is, and
// the work is bounded.
func TestInventedNeighbours(t *testing.T) {
	withLiar(t, 5, nil, func(t *testing.T, w *world, l *liar) {
		rng := rand.New(rand.NewPCG(1, 2))
		var told atomic.Int64
		l.tell(func(_ wire.NodeID, m *wire.Message) *wire.Message {
			if m.Code != wire.UpdateReq || !isBy(m, l.Identity) {
				return m
			}
			u := wire.ChordUpdate{Type: wire.UpdateNeighbors}
			for i := range 100 {
				id, err := wire.NodeIDFrom(fmt.Appendf(nil, "%016x", rng.Uint64())[:16])
				if err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					u.Predecessors = append(u.Predecessors, id)
				} else {
					u.Successors = append(u.Successors, id)
				}
			}
			told.Add(1)
			m.Body = encode(t, u)
			signAs(t, m, l.Identity)
			return m
		})
		_, before := w.net.Delivered()
		for range 4 {
			time.Sleep(30 * time.Second)
			if err := nodetest.CheckRing(w.kits[1:]...); err == nil {
				t.Error("the honest kits alone are no ring")
			}
			if err := nodetest.CheckRing(w.kits...); err != nil {
				t.Error(err)
			}
		}
		_, after := w.net.Delivered()
		if told.Load() < 4 {
			t.Errorf("only %d false Updates in two minutes", told.Load())
		}
		// An honest minute of five kits is some 150 kB.
		if n := (after - before) / 120 / 5; n > 20_000 {
			t.Errorf("%d bytes per second and kit", n)
		}
		w.storeAll("after", w.kits[1:]...)
		w.readAll("after the lies", "after", w.kits[1:], w.kits[1:]...)
	})
}

// A member forwards nothing for others, from the start: the ring forms all the same, and what does not go through it arrives.
// A request would go to the last peer before the resource (RFC 6940 §10.3), and the liar could swallow what is meant for its
// successor; in a ring that everyone sees whole it names the responsible peer instead.
func TestMemberForwardsNothing(t *testing.T) {
	var swallowed atomic.Int64
	w := newWorld(t, 6, lan)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		silent := w.kits[0]
		err := w.mission.Start(w.net, silent, func(c *node.Config) {
			c.Seed = w.rng.Uint64()
			c.Transport = &tap{c.Transport, func(_ wire.NodeID, m *wire.Message) (*wire.Message, time.Duration) {
				if !isBy(m, silent.Identity) && len(m.Via) > 0 {
					swallowed.Add(1)
					return nil, 0
				}
				return m, 0
			}}
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range w.kits[1:] {
			w.start(k)
		}
		w.net.Meet(w.kits...)
		w.ring(60*time.Second, w.kits...)
		time.Sleep(15 * time.Second)
		honest := w.kits[1:]
		ring := slices.SortedFunc(slices.Values(w.kits), func(a, b *nodetest.Kit) int { return a.ID().Compare(b.ID()) })
		next := ring[(slices.Index(ring, silent)+1)%len(ring)]
		for _, u := range w.users("u", 8, func(set []*nodetest.Kit) bool { return set[0] != silent && set[0] != next }, w.kits...) {
			if _, err := put(honest[0], u, "here"); err != nil {
				t.Errorf("store of %s: %v", u, err)
			}
			w.expect("in spite of it", u, "here", honest[0], honest...)
		}
		theirs := w.users("v", 1, func(set []*nodetest.Kit) bool { return set[0] == next }, w.kits...)[0]
		if _, err := put(honest[slices.IndexFunc(honest, func(k *nodetest.Kit) bool { return k != next })], theirs, "here"); err != nil {
			t.Errorf("store at its successor: %v, %d messages swallowed", err, swallowed.Load())
		}
	})
}

// Source routes that go round are refused where they are seen, and no message causes more others than initial-ttl allows:
// "an attacker cannot achieve an amplification factor greater than initial-ttl" (RFC 6940 §13.6.5).
func TestLoopsEnd(t *testing.T) {
	w := newWorld(t, 4, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		r := newRaw(t, w, w.kits[0], 1)
		defer r.conn.Close()
		forwarded := func() (n uint64) {
			for _, k := range w.kits {
				n += w.snapshot(k).Counters["forwarded"]
			}
			return n
		}
		a, b, c, d := w.kits[0].ID(), w.kits[1].ID(), w.kits[2].ID(), w.kits[3].ID()
		for _, route := range [][]wire.NodeID{{a, b, a, b, a, b}, {b, c, b}, {a, b, c, d, b, c, d, b, c, d}} {
			before := forwarded()
			m := r.message(wire.PingReq, ping, func(m *wire.Message) { m.Dest = toNodes(route...) })
			r.send(m)
			if got := r.answer(m); errorCode(t, got) != wire.ErrorInvalidMessage {
				t.Errorf("%v: %+v", route, got)
			}
			if n := forwarded() - before; n > 1 {
				t.Errorf("%v: forwarded %d times", route, n)
			}
		}
		// As long as it gets without going round.
		before := forwarded()
		m := r.message(wire.PingReq, ping, func(m *wire.Message) { m.Dest = toNodes(a, b, c, d) })
		r.send(m)
		if got := r.answer(m); got == nil || got.Code != wire.PingAns {
			t.Errorf("source route: %+v", got)
		}
		if n, limit := forwarded()-before, uint64(w.mission.Document.InitialTTL); n > limit {
			t.Errorf("one message was forwarded %d times, initial-ttl is %d", n, limit)
		}
	})
}

// Lists as long as the wire allows: they are dropped or answered with an error, and leave nothing behind.
func TestHugeLists(t *testing.T) {
	w := newWorld(t, 3, nodetest.Conditions{Delay: time.Millisecond})
	many := func(n int) (ids []wire.NodeID) {
		for i := range n {
			id, err := wire.NodeIDFrom(fmt.Appendf(nil, "node number %04d", i))
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		return ids
	}
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		k := w.kits[0]
		r := newRaw(t, w, k, 1)
		defer r.conn.Close()
		kinds := make([]wire.KindID, 60)
		for i := range kinds {
			kinds[i] = wire.KindID(0xF0000001 + i)
		}
		var candidates []wire.IceCandidate
		for i := range 100 {
			candidates = append(candidates, wire.IceCandidate{
				Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 1, byte(i)}), 1000), Link: wire.LinkDTLSUDPSR, Foundation: []byte{byte(i)}, Type: wire.CandHost,
			})
		}
		for name, change := range map[string]func(*wire.Message){
			"via":     func(m *wire.Message) { m.Via = toNodes(many(wire.MaxDestinations)...) },
			"dest":    func(m *wire.Message) { m.Dest = append(m.Dest, toNodes(many(wire.MaxDestinations-1)...)...) },
			"options": func(m *wire.Message) { m.Options = slices.Repeat([]wire.ForwardingOption{{Type: 9}}, wire.MaxOptions) },
			"find": func(m *wire.Message) {
				m.Code, m.Body = wire.FindReq, encode(t, wire.FindRequest{Resource: wire.ResourceID(k.ID().Bytes()), Kinds: kinds})
			},
			"update": func(m *wire.Message) {
				m.Code, m.Body = wire.UpdateReq, encode(t, wire.ChordUpdate{Type: wire.UpdateNeighbors, Predecessors: many(120), Successors: many(120)})
			},
			"attach": func(m *wire.Message) {
				m.Code, m.Body = wire.AttachReq, encode(t, wire.AttachReqAns{IceParameters: wire.IceParameters{
					Ufrag: []byte("abcd"), Password: []byte("0123456789012345678901"), Role: []byte("passive"), Candidates: candidates,
				}})
			},
			"certificates": func(m *wire.Message) {
				for i := range 60 {
					m.Security.Certificates = append(m.Security.Certificates, wire.Certificate{Data: fmt.Appendf(nil, "not a certificate, number %d", i)})
				}
			},
		} {
			for range 3 {
				m := r.message(wire.PingReq, ping, change)
				b := encodeMessage(t, m)
				parts := [][]byte{b}
				if len(b) > 1200 {
					var err error
					if parts, err = wire.Fragment(b, 1200); err != nil {
						t.Logf("%s: %d bytes do not go into fragments: %v", name, len(b), err)
					}
				}
				for _, p := range parts {
					r.sendBytes(p)
				}
				if a := r.answer(m); a != nil && len(encodeMessage(t, a)) > len(b)+4000 {
					t.Errorf("%s: %d bytes are answered with %d", name, len(b), len(encodeMessage(t, a)))
				}
			}
			time.Sleep(5 * time.Second)
			if _, err := k.Node.Ping(t.Context(), wire.ToNode(w.kits[1].ID())); err != nil {
				t.Errorf("after %s: %v", name, err)
			}
		}
		time.Sleep(time.Minute)
		if err := nodetest.CheckRing(w.kits...); err != nil {
			t.Error(err)
		}
		if s := w.snapshot(k); s.Transactions > 20 || len(s.Links) > 8 {
			t.Errorf("%d transactions, %d links", s.Transactions, len(s.Links))
		}
	})
}

// A member stores for handset after handset of its own, all validly signed: it gets its share of a store and no more, and
// the others' registrations are stored and found as before (docs/adr/0021).
func TestMemberFillsAStore(t *testing.T) {
	w := newWorld(t, 1, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		k := w.kits[0]
		time.Sleep(5 * time.Second)
		if _, err := put(k, "before", "here"); err != nil {
			t.Fatal(err)
		}
		r := newRaw(t, w, k, 1)
		defer func() { _ = r.conn.Close() }()
		stored, refused := 0, 0
		for i := 0; refused < 20 && i < 5000; i++ {
			aor := fmt.Sprintf("flood%d@test.mission.home.arpa", i)
			s, err := r.id.SignerFor(aor)
			if err != nil {
				t.Fatal(err)
			}
			res := k.Node.ResourceID(aor)
			v := wire.StoredData{StorageTime: 1, Lifetime: 86400, Value: wire.StoredDataValue{
				Model: wire.Dictionary, Key: r.id.NodeID().Bytes(), DataValue: wire.DataValue{Exists: true, Value: make([]byte, 500)},
			}}
			if err := ident.SignStored(res, regKind, &v, s); err != nil {
				t.Fatal(err)
			}
			m := r.message(wire.StoreReq, encode(t, wire.StoreRequest{Resource: res, Kinds: []wire.StoreKindData{{Kind: regKind, Values: []wire.StoredData{v}}}}),
				func(m *wire.Message) { m.Dest = []wire.Destination{wire.ToResource(res)} })
			m.Security = wire.SecurityBlock{}
			if err := ident.Sign(m, s); err != nil {
				t.Fatal(err)
			}
			for _, p := range fragments(t, m) {
				r.sendBytes(p)
			}
			switch a := r.answer(m); {
			case a != nil && a.Code == wire.StoreAns:
				stored++
			case errorCode(t, a) == wire.ErrorDataTooLarge:
				refused++
			default:
				t.Fatalf("%d stored, then %+v", stored, a)
			}
			time.Sleep(10 * time.Millisecond)
		}
		s := w.snapshot(k).Stored
		t.Logf("%d stored, %d bytes", stored, s.Bytes)
		if refused != 20 || s.OverShare != 20 || s.Bytes > 1<<20+1<<16 || stored < 200 {
			t.Errorf("%d stored, %d refused, %+v", stored, refused, s)
		}
		if _, err := put(k, "after", "here"); err != nil {
			t.Error(err)
		}
		w.expect("after the flood", "before", "here", k, k)
		w.expect("after the flood", "after", "here", k, k)
	})
}

func fragments(t *testing.T, m *wire.Message) [][]byte {
	t.Helper()
	b := encodeMessage(t, m)
	if len(b) <= 1200 {
		return [][]byte{b}
	}
	parts, err := wire.Fragment(b, 1200)
	if err != nil {
		t.Fatal(err)
	}
	return parts
}
