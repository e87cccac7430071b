package ident

import (
	"encoding/binary"
	"math/big"
	"math/rand/v2"
	"testing"

	"fieldkit/overlay/wire"
)

func randomID(r *rand.Rand, n int) wire.NodeID {
	b := make([]byte, 0, 24)
	for len(b) < n {
		// Small and huge words come up as often as middling ones: carries run far.
		word := [...]uint64{0, 1, ^uint64(0), r.Uint64(), r.Uint64()}[r.IntN(5)]
		b = binary.BigEndian.AppendUint64(b, word)
	}
	id, err := wire.NodeIDFrom(b[:n])
	if err != nil {
		panic(err)
	}
	return id
}

func toBig(id wire.NodeID) *big.Int { return new(big.Int).SetBytes(id.Bytes()) }

func fromBig(v *big.Int, n int) wire.NodeID {
	m := new(big.Int).Mod(v, new(big.Int).Lsh(big.NewInt(1), uint(8*n)))
	id, err := wire.NodeIDFrom(m.FillBytes(make([]byte, n)))
	if err != nil {
		panic(err)
	}
	return id
}

// between walks the definition: from p+1 clockwise, k comes no later than x.
func between(p, k, x *big.Int, n int) bool {
	mod := new(big.Int).Lsh(big.NewInt(1), uint(8*n))
	first := new(big.Int).Add(p, big.NewInt(1))
	off := func(v *big.Int) *big.Int { return new(big.Int).Mod(new(big.Int).Sub(v, first), mod) }
	return off(k).Cmp(off(x)) <= 0
}

func TestRingAgainstBigIntegers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := wire.MinNodeIDLen; n <= wire.MaxNodeIDLen; n++ {
		for range 3000 {
			p, k, x := randomID(r, n), randomID(r, n), randomID(r, n)
			if r.IntN(4) == 0 {
				k = [...]wire.NodeID{p, x, Next(p), Next(x)}[r.IntN(4)]
			}
			if r.IntN(8) == 0 {
				x = p
			}
			bp, bk, bx := toBig(p), toBig(k), toBig(x)
			if got, want := Between(p, k, x), between(bp, bk, bx, n); got != want {
				t.Fatalf("Between(%v, %v, %v) = %v, want %v", p, k, x, got, want)
			}
			if got, want := Distance(p, x), fromBig(new(big.Int).Sub(bx, bp), n); got != want {
				t.Fatalf("Distance(%v, %v) = %v, want %v", p, x, got, want)
			}
			bit := r.IntN(8*n + 2)
			power := new(big.Int).Lsh(big.NewInt(1), uint(bit))
			if got, want := AddPower(p, bit), fromBig(new(big.Int).Add(bp, power), n); got != want {
				t.Fatalf("AddPower(%v, %d) = %v, want %v", p, bit, got, want)
			}
			parts := new(big.Int).Sub(bx, bp)
			parts.Mod(parts, new(big.Int).Lsh(big.NewInt(1), uint(8*n)))
			parts.Mul(parts, big.NewInt(1e9)).Rsh(parts, uint(8*n))
			if p == x {
				parts.SetInt64(1e9)
			}
			// Only the top 64 bits are looked at: one part per billion less at most.
			if got := int64(ResponsibleParts(p, x)); got > parts.Int64() || got < parts.Int64()-1 {
				t.Fatalf("ResponsibleParts(%v, %v) = %d, want %d", p, x, got, parts.Int64())
			}
		}
	}
}

// RFC 6940 §10.1: "A node with Node-ID x with predecessor p is responsible for p < k <= x" in the ring.
func TestBetweenEdges(t *testing.T) {
	id := func(s string) wire.NodeID {
		v, err := wire.ParseNodeID(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	low, mid := id("00000000000000000000000000000001"), id("80000000000000000000000000000000")
	top, zero := id("ffffffffffffffffffffffffffffffff"), id("00000000000000000000000000000000")
	for _, c := range []struct {
		name    string
		p, k, x wire.NodeID
		want    bool
	}{
		{"the peer itself", low, mid, mid, true},
		{"its predecessor", low, low, mid, false},
		{"over the top", top, zero, low, true},
		{"beyond", low, top, mid, false},
		{"around the whole ring", mid, top, low, true},
		{"a ring of one", mid, low, mid, true},
		{"a ring of one, its own ID", mid, mid, mid, true},
	} {
		if got := Between(c.p, c.k, c.x); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
	if Next(top) != zero {
		t.Errorf("Next(%v) = %v", top, Next(top))
	}
}

// RFC 6940 §6.3.2: overlay is "the last 32 bits of the SHA-1 hash of the overlay name"; SHA-1("abc") ends in
// 9cd0d89d and begins with a9993e36 (FIPS 180 appendix A).
func TestHashes(t *testing.T) {
	if got := OverlayHash("abc"); got != 0x9cd0d89d {
		t.Errorf("OverlayHash = %08x", got)
	}
	if got := ResourceID([]byte("abc"), 16).String(); got != "a9993e364706816aba3e25717850c26c" {
		t.Errorf("ResourceID = %s", got)
	}
	if got := len(ResourceID([]byte("abc"), 20)); got != 20 {
		t.Errorf("ResourceID of %d bytes", got)
	}
	id := randomID(rand.New(rand.NewPCG(3, 4)), 16)
	if back, err := Position(AsResource(id)); err != nil || back != id {
		t.Errorf("Position(AsResource(%v)) = %v, %v", id, back, err)
	}
}

func BenchmarkBetween(b *testing.B) {
	r := rand.New(rand.NewPCG(5, 6))
	p, k, x := randomID(r, 16), randomID(r, 16), randomID(r, 16)
	b.ReportAllocs()
	for b.Loop() {
		Between(p, k, x)
	}
}
