package storage

import (
	"fmt"
	"testing"

	"fieldkit/overlay/wire"
)

// filled is a store with n registrations, each at a resource of its own.
func filled(b testing.TB, n int) *Store {
	b.Helper()
	s := New(Config{Kinds: kinds, MaxBytes: 1 << 30, MaxSigner: 1 << 30})
	for i := range n {
		who := person(1, fmt.Sprintf("user%d@m", i))
		v := registration(1, 1, "a registration of ordinary length")
		v.Lifetime = uint32(3600 + i%3600)
		req, ctx := put(home(who.User), wire.KindSIPRegistration, who, v)
		if _, err := s.Store(epoch, req, ctx); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

// BenchmarkStored is what each operation costs with so many values stored. Signatures are package ident's: see the
// benchmarks of package peer for whole requests.
func BenchmarkStored(b *testing.B) {
	for _, n := range []int{1, 100, 10_000, 100_000} {
		b.Run(fmt.Sprintf("values=%d", n), func(b *testing.B) { benchStored(b, filled(b, n), n) })
	}
}

func benchStored(b *testing.B, s *Store, n int) {
	run := func(name string, f func(i int) error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := f(i); err != nil {
					b.Fatal(err)
				}
			}
			if st := s.Stats(); st.Values != n {
				b.Fatalf("%d values, want %d", st.Values, n)
			}
		})
	}
	who := person(1, fmt.Sprintf("user%d@m", n/2))
	res := home(who.User)
	value := registration(2, 1, "a registration of ordinary length")
	req, ctx := put(res, wire.KindSIPRegistration, who, value)
	at := uint64(1)
	run("store", func(int) error { // over the one that is there
		at++
		req.Kinds[0].Values[0].StorageTime = at
		_, err := s.Store(epoch, req, ctx)
		return err
	})
	stranger := person(1, "stranger@m")
	fresh, freshCtx := put(home(stranger.User), wire.KindSIPRegistration, stranger, value)
	run("add-and-expire", func(int) error {
		at++
		fresh.Kinds[0].Values[0].StorageTime, fresh.Kinds[0].Values[0].Lifetime = at, 0
		_, err := s.Store(epoch, fresh, freshCtx)
		s.Expire(epoch)
		return err
	})
	fetch := &wire.FetchRequest{Resource: res, Specifiers: []wire.DataSpecifier{{Kind: wire.KindSIPRegistration, Model: wire.Dictionary}}}
	run("fetch", func(int) error {
		_, _, err := s.Fetch(epoch, fetch)
		return err
	})
	run("stat", func(int) error {
		_, err := s.Stat(epoch, (*wire.StatRequest)(fetch))
		return err
	})
	find := &wire.FindRequest{Resource: res, Kinds: []wire.KindID{wire.KindSIPRegistration}}
	run("find", func(int) error {
		_, err := s.Find(epoch, find, true)
		return err
	})
	none := &wire.FindRequest{Resource: res, Kinds: []wire.KindID{kindSingle}}
	run("find-nothing", func(int) error {
		_, err := s.Find(epoch, none, true)
		return err
	})
	run("replicas-of-one", func(int) error {
		_, _ = s.ReplicationOf(epoch, res, []Target{{nodeID(8), 1}, {nodeID(9), 2}}, 8)
		return nil
	})
}
