package storage

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"

	"pgregory.net/rapid"
)

// overlay is several stores and who is responsible for what, without anything in between.
type overlay struct {
	t      *rapid.T
	now    time.Time
	stores map[wire.NodeID]*Store
	wanted map[string]naiveValue // by user: what the last accepted store said
	clock  uint64
}

// ring is the live nodes in order.
func (o *overlay) ring() []wire.NodeID {
	var ids []wire.NodeID
	for id := range o.stores {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, wire.NodeID.Compare)
	return ids
}

// set is the responsible node of a resource and its two successors.
func (o *overlay) set(res wire.ResourceID) []wire.NodeID {
	ring := o.ring()
	at, err := ident.Position(res)
	if err != nil {
		o.t.Fatal(err)
	}
	i, _ := slices.BinarySearchFunc(ring, at, wire.NodeID.Compare)
	var set []wire.NodeID
	for j := range min(3, len(ring)) {
		set = append(set, ring[(i+j)%len(ring)])
	}
	return set
}

// targets is what a peer does with ReplicaSet.
func (o *overlay) targets(self wire.NodeID) func(wire.ResourceID) []Target {
	return func(res wire.ResourceID) (list []Target) {
		set := o.set(res)
		if set[0] != self {
			return []Target{{set[0], 1}}
		}
		for i, id := range set[1:] {
			list = append(list, Target{id, uint8(i + 1)})
		}
		return list
	}
}

// put stores a registration of a user, or removes it, at the responsible node.
func (o *overlay) put(user string, text string, lifetime uint32) {
	o.clock++
	// What lives shorter than what it replaces could be survived by a copy that has not heard of it: the reason of
	// "at least as long as the remainder" (RFC 6940 §7.4.1.3).
	if rest := o.wanted[user].expires.Sub(o.now); rest > 0 {
		lifetime = max(lifetime, uint32(rest/time.Second)+1)
	}
	who := person(1, user)
	v := registration(o.clock, 1, text)
	if text == "" {
		v = tombstone(v)
	}
	v.Lifetime = lifetime
	req, ctx := put(home(user), wire.KindSIPRegistration, who, v)
	if _, err := o.stores[o.set(home(user))[0]].Store(o.now, req, ctx); err != nil {
		o.t.Fatal(err)
	}
	if text == "" {
		text = "NA"
	}
	o.wanted[user] = naiveValue{o.clock, text, o.now.Add(time.Duration(lifetime) * time.Second)}
}

// carry takes one push to its target, where fate says how that ends.
func (o *overlay) carry(from wire.NodeID, p Push, lost, refused bool) {
	s, to := o.stores[from], o.stores[p.To]
	if to == nil || lost || refused { // refused: the other side does not know this one yet
		s.Confirm(o.now, p, false)
		return
	}
	signers := slices.Repeat([]Signer{o.signer(p.Request.Resource)}, len(p.Request.Kinds[0].Values))
	ctx := StoreContext{Sender: Signer{Node: from}, Plausible: true, Values: [][]Signer{signers}}
	_, err := to.Store(o.now, &p.Request, ctx)
	var e wire.ErrorResponse
	switch {
	case err == nil:
		s.Confirm(o.now, p, true)
	case errors.As(err, &e) && (e.Code == wire.ErrorDataTooOld || e.Code == wire.ErrorGenerationCounterTooLow):
		ans, _, err := to.Fetch(o.now, &wire.FetchRequest{Resource: p.Request.Resource, Specifiers: []wire.DataSpecifier{{Kind: wire.KindSIPRegistration, Model: wire.Dictionary}}})
		if err != nil {
			o.t.Fatal(err)
		}
		s.Adopt(o.now, p.To, p.Request.Resource, ans.Kinds[0], slices.Repeat([]Signer{o.signer(p.Request.Resource)}, len(ans.Kinds[0].Values)))
		s.Confirm(o.now, p, false)
	default:
		o.t.Fatalf("replica refused: %v", err)
	}
}

func (o *overlay) signer(res wire.ResourceID) Signer {
	for user := range o.wanted {
		if home(user) == res {
			return person(1, user)
		}
	}
	o.t.Fatalf("nobody stored at %x", res)
	return Signer{}
}

// repair lets every node hand over what others ought to hold, until nobody has anything to do.
func (o *overlay) repair(fate func() (lost, refused bool)) {
	for round := 0; ; round++ {
		quiet := true
		for _, id := range o.ring() {
			pushes, more := o.stores[id].ForReplication(o.now, o.targets(id), 4)
			for _, p := range pushes {
				lost, refused := fate()
				o.carry(id, p, lost, refused)
			}
			quiet = quiet && len(pushes) == 0 && !more
		}
		if quiet {
			return
		}
		if o.now = o.now.Add(6 * time.Second); round > 200 {
			o.t.Fatal("never quiet")
		}
	}
}

func (o *overlay) discard() {
	for _, id := range o.ring() {
		o.stores[id].Discard(func(res wire.ResourceID) bool { return slices.Contains(o.set(res), id) })
	}
}

// check says whether each value that lives is where it ought to be, the newest, and nowhere older.
func (o *overlay) check(when string) {
	for user, want := range o.wanted {
		for i, id := range o.set(home(user)) {
			ans, _, err := o.stores[id].Fetch(o.now, &wire.FetchRequest{Resource: home(user), Specifiers: []wire.DataSpecifier{{Kind: wire.KindSIPRegistration, Model: wire.Dictionary}}})
			if err != nil {
				o.t.Fatal(err)
			}
			got := texts(ans.Kinds[0].Values)
			// Each hand-over costs up to a second of life; what is at its end may be gone or here.
			if left := want.expires.Sub(o.now); left < 30*time.Second {
				if left < 0 && len(got) > 0 {
					o.t.Fatalf("%s: %s lives %v after its end at replica %d", when, user, -left, i)
				}
				continue
			}
			if len(got) != 1 || got[0] != want.text {
				o.t.Fatalf("%s: replica %d of %s has %q, want %q", when, i, user, got, want.text)
			}
		}
	}
}

// Nodes come, go and die, pushes are lost or refused, values are written, removed and expire: after each repair every value is,
// in its newest form, at the responsible node and its two successors (RFC 6940 §10.4, §10.7.3, §6.4.2.3), as long as no more than
// two of its three holders died since the last one.
func TestRepair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := &overlay{t: t, now: epoch, stores: map[wire.NodeID]*Store{}, wanted: map[string]naiveValue{}}
		join := func() {
			id := nodeID(rapid.ByteRange(1, 254).Draw(t, "node"))
			if o.stores[id] == nil {
				o.stores[id] = New(Config{Kinds: kinds})
				for other, s := range o.stores { // it may have been here before, and comes back empty
					if other != id {
						s.Forget(id)
					}
				}
			}
		}
		for range rapid.IntRange(1, 6).Draw(t, "first nodes") {
			join()
		}
		fate := func() (lost, refused bool) {
			n := rapid.IntRange(0, 9).Draw(t, "fate")
			return n == 0, n == 1
		}
		smooth := func() (lost, refused bool) { return false, false }
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			o.now = o.now.Add(time.Duration(rapid.IntRange(0, 20_000).Draw(t, "ms")) * time.Millisecond)
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0, 1:
				text := rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "text")
				o.put(fmt.Sprintf("user%d@m", rapid.IntRange(0, 5).Draw(t, "user")), text, uint32(rapid.SampledFrom([]int{60, 3600}).Draw(t, "lifetime")))
				continue
			case 2:
				join()
			case 3:
				dead := rapid.IntRange(1, 2).Draw(t, "dead")
				o.repair(smooth) // two of three may die, if all three are there
				for range min(dead, len(o.stores)-1) {
					ring := o.ring()
					gone := ring[rapid.IntRange(0, len(ring)-1).Draw(t, "who dies")]
					if len(ring) <= 3 && dead > 1 && len(ring) <= dead {
						break
					}
					delete(o.stores, gone)
					for _, s := range o.stores {
						s.Forget(gone)
					}
				}
			case 4:
				o.repair(fate)
				o.discard()
				o.check("after a bumpy repair")
			case 5:
				o.now = o.now.Add(time.Minute)
			}
		}
		o.repair(smooth)
		o.discard()
		o.check("at the end")
		o.now = o.now.Add(2 * time.Hour)
		for id, s := range o.stores {
			if s.Expire(o.now); s.Stats().Values != 0 {
				t.Fatalf("%v keeps %+v", id, s.Stats())
			}
		}
	})
}
