package storage

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// flood stores values of always new users of one signing Node-ID until the store refuses, and returns how many it took.
func flood(t *testing.T, s *Store, kind wire.KindID, signer, from byte) (n int) {
	t.Helper()
	for ; n < 10_000; n++ {
		who := person(signer, fmt.Sprintf("flood%d of %d in %x@m", n, signer, kind))
		v := single(1, "xxxxxxxxxxxxxxxx")
		if kind == wire.KindSIPRegistration {
			v = registration(1, signer, "xxxxxxxxxxxxxxxx")
		}
		req, ctx := put(home(who.User), kind, who, v)
		if from != signer {
			req, ctx = replica(home(who.User), kind, from, who, v)
		}
		if _, err := s.Store(epoch, req, ctx); code(err) == wire.ErrorDataTooLarge {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("nothing is refused")
	return n
}

// A kit issues certificates for as many names as it likes, all with its own Node-ID: together they get an eighth, whether it
// stores them itself or somebody brings them as replicas. Others are not touched by that.
func TestOneSignerGetsItsShare(t *testing.T) {
	for _, from := range []byte{66, 9} {
		s := New(Config{Kinds: kinds, MaxBytes: 200_000})
		mustStore(t, s, epoch, the(put(home("alice@m"), kindSingle, alice, single(1, "alice"))))
		n := flood(t, s, kindSingle, 66, from)
		if has := s.shares[nodeID(66)].signed; n < 10 || has > 25_000 || has < 20_000 || s.Stats().OverShare != 1 || s.Stats().Full != 0 {
			t.Errorf("%d stored from %d, %d bytes, %+v", n, from, has, s.Stats())
		}
		bob := person(2, "bob@m")
		mustStore(t, s, epoch, the(put(home(bob.User), kindSingle, bob, single(1, "bob"))))
		if got := texts(fetch(t, s, epoch, home("alice@m"), wire.DataSpecifier{Kind: kindSingle, Model: wire.SingleValue}).Values); !slices.Equal(got, []string{"alice"}) {
			t.Errorf("%v", got)
		}
		// What it has it may renew, and remove.
		again := person(66, "flood0 of 66 in f0000001@m")
		mustStore(t, s, epoch, the(put(home(again.User), kindSingle, again, single(2, "yyyyyyyyyyyyyyyy"))))
		mustStore(t, s, epoch, the(put(home(again.User), kindSingle, again, tombstone(single(3, "")))))
		s.Expire(epoch.Add(time.Hour))
		if st := s.Stats(); st.Bytes != 0 || st.Values != 0 || len(s.certs) != 0 || len(s.shares) != 0 || !s.Deadline().IsZero() {
			t.Errorf("after everything expired: %+v, %d certificates, %d shares", st, len(s.certs), len(s.shares))
		}
	}
}

// One neighbour brings what many have signed, stale or not: it gets half.
func TestOneSenderGetsItsShare(t *testing.T) {
	s := New(Config{Kinds: kinds, MaxBytes: 200_000, MaxSigner: 200_000, MaxSender: 40_000})
	for signer := byte(10); signer < 20; signer++ {
		flood(t, s, kindSingle, signer, 66)
	}
	if has := s.shares[nodeID(66)].sent; has > 40_000 || has < 35_000 || s.Stats().OverShare != 10 {
		t.Errorf("%d bytes sent by one, %+v", has, s.Stats())
	}
	if n := flood(t, s, kindSingle, 20, 67); n < 10 {
		t.Errorf("another brings %d", n)
	}
}

// Many members together: other Kinds fill three quarters, then there is room for registrations, and then for this peer's own
// values, always. Nothing stored is evicted.
func TestWhatIsKeptAtTheLimit(t *testing.T) {
	const limit = 200_000
	s := New(Config{Kinds: kinds, MaxBytes: limit, Self: nodeID(1)})
	mustStore(t, s, epoch, the(put(home("bob@m"), wire.KindSIPRegistration, person(2, "bob@m"), registration(1, 2, "first"))))
	fill := func(kind wire.KindID, level int, replicas bool, signers ...byte) {
		t.Helper()
		for _, who := range signers {
			from := who
			if replicas {
				from = 200 + who%8
			}
			flood(t, s, kind, who, from)
		}
		if b := s.Stats().Bytes; b > limit/16*level || b < limit/16*level-3000 {
			t.Errorf("Kind %x, replicas %v: filled to %d of %d", kind, replicas, b, limit/16*level)
		}
	}
	many := func(from byte) (list []byte) {
		for i := range byte(12) {
			list = append(list, from+i)
		}
		return list
	}
	fill(kindSingle, levelReplicas, true, many(20)...)
	fill(kindSingle, levelOthers, false, many(40)...)
	if n := flood(t, s, wire.KindSIPRegistration, 60, 200); n != 0 {
		t.Errorf("%d replicas above their level", n)
	}
	fill(wire.KindSIPRegistration, levelKept, false, many(80)...)
	if s.Stats().Full == 0 {
		t.Error("nothing was refused for the bound of all")
	}
	if n := flood(t, s, kindSingle, 1, 1); n < 5 || s.Stats().Bytes > limit || s.Stats().Bytes < limit-2000 {
		t.Errorf("%d of this peer's own, %d bytes of %d", n, s.Stats().Bytes, limit)
	}
	if got := fetch(t, s, epoch, home("bob@m"), wire.DataSpecifier{Kind: wire.KindSIPRegistration, Model: wire.Dictionary}).Values; !slices.Equal(texts(got), []string{"first"}) {
		t.Errorf("what was there before the flood: %v", texts(got))
	}
}

// The bytes counted are about those in memory: the bound bounds something.
func TestBytesAreHonest(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	s := New(Config{Kinds: kinds, MaxBytes: 64 << 20, MaxSigner: 64 << 20})
	for i := range 5000 {
		who := Signer{Node: nodeID(1), User: fmt.Sprintf("user%d@m", i), Certificates: []wire.Certificate{{Data: fmt.Appendf(bytes.Repeat([]byte("c"), 400), "%d", i)}, {Data: make([]byte, 400)}}}
		mustStore(t, s, epoch, the(put(home(who.User), wire.KindSIPRegistration, who, registration(1, 1, "a registration of ordinary length"))))
	}
	real, counted := float64(heap()-before), float64(s.Stats().Bytes)
	t.Logf("%d values: %.0f bytes in memory, %.0f counted", s.Stats().Values, real, counted)
	if real > 1.25*counted || real < counted/2 {
		t.Errorf("%.0f bytes in memory, %.0f counted", real, counted)
	}
	runtime.KeepAlive(s)
}

// "it MUST adjust the lifetime value downward to reflect the amount of time the value was stored at the peer" (§7.4.1.1):
// a value that goes to and fro more often than once a second dies in time all the same.
func TestHandedToAndFro(t *testing.T) {
	res := home("alice@m")
	from, to := New(Config{Kinds: kinds}), New(Config{Kinds: kinds})
	mustStore(t, from, epoch, the(put(res, wire.KindSIPRegistration, alice, registration(1, 1, "x"))))
	now := epoch
	for ; from.Stats().Values > 0; from, to = to, from {
		now = now.Add(700 * time.Millisecond)
		pushes, _ := from.ReplicationOf(now, res, []Target{{nodeID(9), 1}}, 1)
		if len(pushes) == 0 {
			break // less than a second is left: not worth a message
		}
		if err := deliver(t, nodeID(8), pushes[0], to, now); err != nil {
			t.Fatal(err)
		}
		from.deleteFunc(func(*value) bool { return true })
		if now.Sub(epoch) > 2*time.Minute {
			t.Fatal("stored for a minute, alive after two")
		}
	}
	if lived := now.Sub(epoch); lived < 20*time.Second || lived > time.Minute {
		t.Errorf("lived %v", lived)
	}
}

// No index is under the signature: "malicious storing nodes can reorder array entries without being detected" (§7.4.2.2).
// They cannot multiply them, nor crowd out other elements with copies.
func TestReplicasMoveElements(t *testing.T) {
	s := New(Config{Kinds: kinds})
	res := home("alice@m")
	at := func(i uint32) wire.StoredData {
		d := element(1, 0, "certificate")
		d.Value.Index = i
		return d
	}
	mustStore(t, s, epoch, the(put(res, wire.KindCertificateByUser, alice, at(0))))
	for _, i := range []uint32{3, 1, 2, 2} {
		mustStore(t, s, epoch, the(replica(res, wire.KindCertificateByUser, 9, alice, at(i))))
	}
	got := fetch(t, s, epoch, res, wire.DataSpecifier{Kind: wire.KindCertificateByUser, Model: wire.Array, Ranges: []wire.ArrayRange{{First: 0, Last: wire.LastIndex}}})
	if !slices.Equal(texts(got.Values), []string{"NA", "NA", "certificate"}) || s.Stats().Values != 1 {
		t.Errorf("%v", texts(got.Values))
	}
	if _, err := do(s, epoch, the(replica(res, wire.KindCertificateByUser, 9, alice, at(wire.LastIndex)))); code(err) != wire.ErrorDataTooOld {
		t.Errorf("appended once more: %v", err)
	}
}

// "If the generation counter in the request matches the generation counter in the stored data, then no StoredData values are
// returned": who saw a counter before everything expired must not be told so of what came later.
func TestGenerationIsNotUsedTwice(t *testing.T) {
	s := New(Config{Kinds: kinds})
	res := home("alice@m")
	mustStore(t, s, epoch, the(put(res, kindSingle, alice, single(1, "old"))))
	sp := wire.DataSpecifier{Kind: kindSingle, Model: wire.SingleValue}
	sp.Generation = fetch(t, s, epoch, res, sp).Generation
	later := epoch.Add(time.Hour)
	mustStore(t, s, later, the(put(res, kindSingle, alice, single(2, "new"))))
	if got := fetch(t, s, later, res, sp); !slices.Equal(texts(got.Values), []string{"new"}) {
		t.Errorf("%+v", got)
	}
}

// Everything at once, and one by one: what expires leaves nothing behind.
func TestExpiry(t *testing.T) {
	for _, step := range []time.Duration{time.Second, 10 * time.Minute} {
		s := New(Config{Kinds: kinds})
		for i := range 300 {
			who := person(byte(i%50), fmt.Sprintf("user%d@m", i))
			v := registration(1, byte(i%50), "x")
			v.Lifetime = uint32(1 + i)
			mustStore(t, s, epoch, the(put(home(who.User), wire.KindSIPRegistration, who, v)))
		}
		n := 0
		for now := epoch; !s.Deadline().IsZero(); now = now.Add(step) {
			n += s.Expire(now)
			if want := 300 - min(300, int(now.Sub(epoch)/time.Second)); s.Stats().Values != want {
				t.Fatalf("%d values after %v, want %d", s.Stats().Values, now.Sub(epoch), want)
			}
		}
		if st := s.Stats(); n != 300 || st.Expired != 300 || st.Bytes != 0 || st.Resources != 0 || len(s.shares)+len(s.certs)+len(s.order)+len(s.resources)+len(s.found) != 0 {
			t.Errorf("%d expired, %+v", n, st)
		}
	}
}

// A Kind whose data model changed with the overlay's configuration has no values that could be given out.
func TestKindChanges(t *testing.T) {
	s := New(Config{Kinds: kinds})
	mustStore(t, s, epoch, the(put(home("alice@m"), kindSingle, alice, single(1, "x"))))
	mustStore(t, s, epoch, the(put(home("alice@m"), wire.KindSIPRegistration, alice, registration(1, 1, "y"))))
	changed := slices.Clone(kinds)
	for i := range changed {
		if changed[i].ID == kindSingle {
			changed[i].Model, changed[i].MaxCount = wire.Array, 4
		}
	}
	s.SetKinds(changed)
	if st := s.Stats(); st.Values != 1 {
		t.Errorf("%+v", st)
	}
	array := wire.DataSpecifier{Kind: kindSingle, Model: wire.Array, Ranges: []wire.ArrayRange{{First: 0, Last: wire.LastIndex}}}
	if got := fetch(t, s, epoch, home("alice@m"), array); len(got.Values) != 0 {
		t.Errorf("%+v", got)
	}
	s.SetKinds([]ident.Kind{}) // gone altogether: not to be reached, but not lost
	if _, err := s.Stat(epoch, &wire.StatRequest{Resource: home("alice@m"), Specifiers: []wire.DataSpecifier{array}}); code(err) != wire.ErrorUnknownKind {
		t.Errorf("%v", err)
	}
	s.SetKinds(kinds)
	if got := fetch(t, s, epoch, home("alice@m"), wire.DataSpecifier{Kind: wire.KindSIPRegistration, Model: wire.Dictionary}); !slices.Equal(texts(got.Values), []string{"y"}) {
		t.Errorf("%+v", got)
	}
}

// Handing over goes on where it ended: what a target refuses again and again does not keep it from the rest.
func TestHandOverGoesOn(t *testing.T) {
	s := New(Config{Kinds: kinds, RetryAfter: time.Second})
	for i := range 20 {
		who := person(1, fmt.Sprintf("user%d@m", i))
		mustStore(t, s, epoch, the(put(home(who.User), kindSingle, who, single(1, "x"))))
	}
	sent := map[wire.ResourceID]int{}
	now := epoch
	for range 5 { // nothing is ever confirmed
		pushes, more := s.ForReplication(now, to(5), 4)
		if len(pushes) != 4 || !more {
			t.Fatalf("%d pushes, more %v", len(pushes), more)
		}
		for _, p := range pushes {
			sent[p.Request.Resource]++
			s.Confirm(now, p, false)
		}
		now = now.Add(2 * time.Second)
	}
	if len(sent) != 20 {
		t.Errorf("%d of 20 resources had their turn", len(sent))
	}
}
