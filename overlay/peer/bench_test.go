package peer

import (
	"testing"

	"fieldkit/overlay/ident"
)

// What a message costs a peer, without its links: forwarded, and answered (two signatures made or verified).
func BenchmarkMessage(b *testing.B) {
	r := newRig(b)
	from, in := r.neighbour(b, nil)
	to, out := r.neighbour(b, nil)
	r.env.settle()
	b.Run("forward", func(b *testing.B) {
		packet := r.packet(b, from, to.NodeID())
		b.ReportAllocs()
		b.SetBytes(int64(len(packet)))
		before := out.n
		for b.Loop() {
			r.Receive(t0, in, packet)
		}
		if out.n-before != b.N {
			b.Fatalf("%d forwarded of %d", out.n-before, b.N)
		}
	})
	b.Run("ping answered", func(b *testing.B) {
		packet := r.packet(b, from, r.ID())
		b.ReportAllocs()
		before := in.n
		for b.Loop() {
			r.Receive(t0, in, packet)
			r.env.settle()
		}
		if in.n-before != b.N {
			b.Fatalf("%d answered of %d", in.n-before, b.N)
		}
	})
}

// What a peer costs that is not connected to anybody: simulations have thousands of them.
func BenchmarkNew(b *testing.B) {
	r := newRig(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := New(r.cfg, t0); err != nil {
			b.Fatal(err)
		}
	}
}

// What a link costs, with its signs of life, in memory.
func BenchmarkLink(b *testing.B) {
	r := newRig(b)
	kit, err := r.auth.NewIdentity()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		l := &fakeLink{to: &ident.Peer{NodeID: kit.NodeID()}}
		r.LinkUp(t0, l)
		r.LinkDown(t0, l)
	}
}
