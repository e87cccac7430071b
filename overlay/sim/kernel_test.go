package sim

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Events come in the order of their times, and those of one time in the order they were made.
func TestKernelOrder(t *testing.T) {
	type made struct {
		at    instant
		order int
	}
	var k kernel
	var want, got []made
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 10_000 {
		m := made{instant(rng.IntN(500)), i}
		want = append(want, m)
		k.at(m.at, func() {
			if k.now != m.at {
				t.Fatalf("event of %d happened at %d", m.at, k.now)
			}
			got = append(got, m)
		})
	}
	for k.step(400) {
	}
	if k.now > 400 {
		t.Fatalf("stepped to %d, end was 400", k.now)
	}
	for k.step(1 << 62) {
	}
	slices.SortStableFunc(want, func(a, b made) int { return int(a.at - b.at) })
	if !slices.Equal(got, want) {
		t.Error("events out of order")
	}
	if k.events != uint64(len(want)) {
		t.Errorf("%d events counted, %d made", k.events, len(want))
	}
}

// What is made for the past happens now: time does not go back.
func TestKernelPastIsNow(t *testing.T) {
	var k kernel
	var at []instant
	k.after(time.Second, func() {
		k.at(5, func() { at = append(at, k.now) })
		k.after(-time.Hour, func() { at = append(at, k.now) })
	})
	for k.step(1 << 62) {
	}
	if want := instant(time.Second); len(at) != 2 || at[0] != want || at[1] != want {
		t.Errorf("happened at %v, want twice %d", at, want)
	}
}

// A difference of one byte, of a length or of a time is a difference of the trace.
func TestTraceTellsApart(t *testing.T) {
	sum := func(f func(*trace)) trace {
		var h trace
		f(&h)
		return h
	}
	base := []byte("0123456789abcdef012")
	seen := map[trace]string{sum(func(h *trace) { h.bytes(base) }): "base"}
	check := func(name string, h trace) {
		if other, ok := seen[h]; ok {
			t.Errorf("%s has the trace of %s", name, other)
		}
		seen[h] = name
	}
	for i := range base {
		b := slices.Clone(base)
		b[i] ^= 1
		check("changed byte", sum(func(h *trace) { h.bytes(b) }))
		check("prefix", sum(func(h *trace) { h.bytes(base[:i]) }))
		check("prefix and rest", sum(func(h *trace) { h.bytes(base[:i]); h.bytes(base[i:]) }))
	}
}

func BenchmarkKernel(b *testing.B) {
	var k kernel
	rng := rand.New(rand.NewPCG(1, 2))
	var again func()
	again = func() { k.after(time.Duration(rng.Int64N(int64(time.Second))), again) }
	for range 100_000 {
		again()
	}
	b.ReportAllocs()
	for b.Loop() {
		k.step(1 << 62)
	}
}
