package storage

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

func to(nodes ...byte) func(wire.ResourceID) []Target {
	var list []Target
	for i, n := range nodes {
		list = append(list, Target{nodeID(n), uint8(i + 1)})
	}
	return func(wire.ResourceID) []Target { return list }
}

// deliver carries a push to another store, as node would.
func deliver(t *testing.T, from wire.NodeID, p Push, s *Store, now time.Time) error {
	t.Helper()
	body, err := p.Request.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	req, err := wire.ParseStoreRequest(body, func(k wire.KindID) (wire.DataModel, bool) {
		for _, d := range kinds {
			if d.ID == k {
				return d.Model, true
			}
		}
		return 0, false
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := StoreContext{Sender: Signer{Node: from}, Plausible: true}
	for _, k := range req.Kinds {
		var signers []Signer
		for _, v := range k.Values {
			who := alice
			if len(v.Value.Key) > 0 {
				who = person(v.Value.Key[0], "alice@m")
			}
			signers = append(signers, who)
		}
		ctx.Values = append(ctx.Values, signers)
	}
	_, err = s.Store(now, &req, ctx)
	return err
}

// "It MUST then send a Store request to its successor in the Neighbor Table and to that peer's
// successor, incrementing the replica number for each successor" (RFC 6940 §10.4), and "decrement the
// lifetime value by the difference between the current local time and T" (§7.4.1.1).
func TestReplication(t *testing.T) {
	owner, r1 := New(Config{Kinds: kinds}), New(Config{Kinds: kinds})
	res := home("alice@m")
	mustStore(t, owner, epoch, the(put(res, wire.KindSIPRegistration, alice, registration(1, 1, "x"))))
	now := epoch.Add(10 * time.Second)
	pushes, more := owner.ForReplication(now, to(5, 6), 10)
	if len(pushes) != 2 || more {
		t.Fatalf("%+v, %v", pushes, more)
	}
	for i, p := range pushes {
		k := p.Request.Kinds[0]
		if p.Request.Replica != uint8(i+1) || p.To != nodeID(byte(5+i)) || k.Generation != 1 || k.Values[0].Lifetime != 50 {
			t.Errorf("push %d: %+v", i, p)
		}
		if len(p.Certificates) != 2 {
			t.Errorf("%d certificates go along", len(p.Certificates))
		}
	}
	// Under way: not again. Lost: again. Confirmed: not again.
	if p, _ := owner.ForReplication(now, to(5, 6), 10); len(p) != 0 {
		t.Errorf("sent again at once: %+v", p)
	}
	if err := deliver(t, nodeID(4), pushes[0], r1, now); err != nil {
		t.Fatal(err)
	}
	owner.Confirm(now, pushes[0], true)
	now = now.Add(20 * time.Second)
	if p, _ := owner.ForReplication(now, to(5, 6), 10); len(p) != 1 || p[0].To != nodeID(6) || p[0].Request.Kinds[0].Values[0].Lifetime != 30 {
		t.Errorf("%+v", p)
	}
	if got := fetch(t, r1, now, res, wire.DataSpecifier{Kind: wire.KindSIPRegistration, Model: wire.Dictionary}); got.Values[0].Lifetime != 30 {
		t.Errorf("the replica lives %d s longer", got.Values[0].Lifetime)
	}
	// The replica knows who has it already, and when the owner is gone, that nobody has.
	if p, _ := r1.ForReplication(now, to(4), 10); len(p) != 0 {
		t.Errorf("sent back to where it came from: %+v", p)
	}
	r1.Forget(nodeID(4))
	if p, _ := r1.ForReplication(now, to(4), 10); len(p) != 1 {
		t.Errorf("a peer that came back empty gets %d stores", len(p))
	}
	// A new value is new to everyone.
	mustStore(t, owner, now, the(put(res, wire.KindSIPRegistration, alice, registration(2, 1, "y"))))
	if p, _ := owner.ForReplication(now, to(5, 6), 10); len(p) != 2 {
		t.Errorf("%d pushes of a new value", len(p))
	}
}

// The same value may be handed over by several peers; it does not get older or younger by that.
func TestSameReplicaTwice(t *testing.T) {
	s := New(Config{Kinds: kinds})
	res := home("alice@m")
	v := single(5, "x")
	mustStore(t, s, epoch, the(replica(res, kindSingle, 8, alice, v)))
	v.Lifetime = 100_000 // not under the signature
	mustStore(t, s, epoch.Add(time.Second), the(replica(res, kindSingle, 9, alice, v)))
	if got := fetch(t, s, epoch, res, wire.DataSpecifier{Kind: kindSingle, Model: wire.SingleValue}); got.Values[0].Lifetime != 60 {
		t.Errorf("lifetime %d", got.Values[0].Lifetime)
	}
	if p, _ := s.ForReplication(epoch, to(8, 9), 10); len(p) != 0 {
		t.Errorf("sent to those who sent it: %+v", p)
	}
}

// A push stays below the size of a message.
func TestPushSize(t *testing.T) {
	s := New(Config{Kinds: kinds, MaxPush: 600})
	res := home("alice@m")
	for node := byte(1); node <= 4; node++ {
		d := registration(1, node, string(bytes.Repeat([]byte("x"), 200)))
		mustStore(t, s, epoch, the(put(res, wire.KindSIPRegistration, person(node, "alice@m"), d)))
	}
	pushes, more := s.ForReplication(epoch, to(9), 2)
	if len(pushes) != 2 || !more {
		t.Fatalf("%d pushes, more %v", len(pushes), more)
	}
	rest, more := s.ForReplication(epoch, to(9), 10)
	n := 0
	for _, p := range append(pushes, rest...) {
		n += len(p.Request.Kinds[0].Values)
		if body, err := p.Request.AppendBinary(nil); err != nil || len(body) > 700 {
			t.Errorf("%d bytes, %v", len(body), err)
		}
	}
	if n != 4 || more {
		t.Errorf("%d values in all, more %v", n, more)
	}
}

// Islands: "if that store fails with either an Error_Generation_Counter_Too_Low or an
// Error_Data_Too_Old error, the peer MUST fetch the newer data from the peer generating the error
// and use that to replace its own copy" (§7.4.1.1). Registrations of one AOR at two kits both live.
func TestMergeOfIslands(t *testing.T) {
	a, b := New(Config{Kinds: kinds}), New(Config{Kinds: kinds})
	res := home("alice@m")
	two := person(2, "alice@m")
	mustStore(t, a, epoch, the(put(res, wire.KindSIPRegistration, alice, registration(10, 1, "old at 1"))))
	mustStore(t, b, epoch, the(put(res, wire.KindSIPRegistration, alice, registration(20, 1, "new at 1"))))
	mustStore(t, a, epoch, the(put(res, wire.KindSIPRegistration, two, registration(15, 2, "at 2"))))

	pushes, _ := a.ForReplication(epoch, to(6), 10)
	err := deliver(t, nodeID(5), pushes[0], b, epoch)
	if code(err) != wire.ErrorDataTooOld {
		t.Fatalf("%v", err)
	}
	if st := b.Stats(); st.Superseded != 1 || st.TooOld != 0 {
		t.Errorf("counted as %+v", st)
	}
	sp := wire.DataSpecifier{Kind: wire.KindSIPRegistration, Model: wire.Dictionary}
	if n := a.Adopt(epoch, nodeID(6), res, fetch(t, b, epoch, res, sp), []Signer{alice}); n != 1 {
		t.Fatalf("%d adopted", n)
	}
	a.Confirm(epoch, pushes[0], false)
	now := epoch.Add(6 * time.Second)
	pushes, _ = a.ForReplication(now, to(6), 10)
	if len(pushes) != 1 {
		t.Fatalf("%d pushes", len(pushes))
	}
	if err := deliver(t, nodeID(5), pushes[0], b, now); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*Store{"a": a, "b": b} {
		if got := texts(fetch(t, s, now, res, sp).Values); !slices.Equal(got, []string{"new at 1", "at 2"}) {
			t.Errorf("%s: %v", name, got)
		}
	}
	// What is fetched is no more to be trusted than what is stored.
	forged := wire.FetchKindResponse{Kind: wire.KindSIPRegistration, Generation: 9, Values: []wire.StoredData{registration(99, 1, "forged")}}
	for _, who := range []Signer{{}, person(3, "alice@m"), person(1, "bob@m")} {
		if n := a.Adopt(now, nodeID(6), res, forged, []Signer{who}); n != 0 {
			t.Errorf("adopted a value of %+v", who)
		}
	}
}

// "When peer x detects that it is no longer in the replica set for a resource R …, it SHOULD delete
// all data associated with R from its local store" (§10.7.3), but not the last copy.
func TestDiscard(t *testing.T) {
	s := New(Config{Kinds: kinds})
	mine, safe, only := person(1, "mine@m"), person(1, "safe@m"), person(1, "only@m")
	for _, who := range []Signer{mine, safe, only} {
		mustStore(t, s, epoch, the(put(home(who.User), kindSingle, who, single(1, who.User))))
	}
	pushes, _ := s.ForReplication(epoch, to(9), 10)
	for _, p := range pushes {
		if p.Request.Resource != home(only.User) {
			s.Confirm(epoch, p, true)
		}
	}
	if n := s.Discard(func(r wire.ResourceID) bool { return r == home(mine.User) }); n != 1 || s.Stats().Resources != 2 {
		t.Errorf("%d discarded, %+v", n, s.Stats())
	}
	if got := fetch(t, s, epoch, home(safe.User), wire.DataSpecifier{Kind: kindSingle, Model: wire.SingleValue}); got.Values[0].Value.Exists {
		t.Error("the wrong one")
	}
}

func TestHoldersAreBounded(t *testing.T) {
	s := New(Config{Kinds: kinds})
	mustStore(t, s, epoch, the(put(home("alice@m"), kindSingle, alice, single(1, "x"))))
	for n := range 50 {
		pushes, _ := s.ForReplication(epoch, to(byte(10+n)), 10)
		s.Confirm(epoch, pushes[0], true)
	}
	if n := len(s.resources[home("alice@m")].kinds[0].values[0].holders); n > maxHolders {
		t.Errorf("%d holders", n)
	}
}
