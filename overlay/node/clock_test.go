package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
)

// "Works at any clock": kits that start in 1970, in 2025 and in 2040 form one ring, store with each other and read what
// others stored.
func TestKitsOfAllYears(t *testing.T) {
	w := newWorld(t, 6, lan)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		bubble := time.Now()
		for i, k := range w.kits {
			begins := time.Date([]int{1970, 2025, 2040}[i%3], 1, 1, 0, 0, i, 0, time.UTC)
			err := w.mission.Start(w.net, k, func(c *node.Config) {
				c.Seed = w.rng.Uint64()
				c.Now = func() time.Time { return begins.Add(time.Since(bubble)) }
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		w.net.Meet(w.kits...)
		w.ring(60*time.Second, w.kits...)
		time.Sleep(10 * time.Second)
		w.storeAll("u", w.kits...)
		w.readAll("at once", "u", w.kits, w.kits...)
		// What is there longer than an hour's lifetime is refreshed by its owner, and is not older than itself.
		w.storeAll("u", w.kits...)
		w.readAll("stored again", "u", w.kits, w.kits...)
		if got := w.copies(w.kits...); got != 3*len(w.kits) {
			t.Errorf("%d copies, want %d", got, 3*len(w.kits))
		}
	})
}

// A Ping tells the other's time, and whether it knows it (docs/adr/0028).
func TestPingTellsTheTime(t *testing.T) {
	w := newWorld(t, 3, lan)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		bubble, begins := time.Now(), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		for i, k := range w.kits {
			err := w.mission.Start(w.net, k, func(c *node.Config) {
				c.Seed = w.rng.Uint64()
				c.Now = func() time.Time { return begins.Add(time.Since(bubble)) }
				if i < 2 {
					c.Clock = func() (time.Time, bool) { return begins.Add(time.Since(bubble)), i == 1 }
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		w.net.Meet(w.kits...)
		w.ring(60*time.Second, w.kits...)
		for range 20 {
			for i, b := range w.kits {
				p, err := w.kits[(i+1)%3].Node.Ping(t.Context(), wire.ToNode(b.ID()))
				if err != nil {
					t.Fatal(err)
				}
				off := p.Time.Add(p.RTT / 2).Sub(begins.Add(time.Since(bubble)))
				switch i {
				case 0: // it says no more than seconds
					if p.Synchronised || off > 10*time.Millisecond || off < -1010*time.Millisecond {
						t.Errorf("who does not know: %v off, synchronised %v", off, p.Synchronised)
					}
				case 1:
					if !p.Synchronised || off.Abs() > 10*time.Millisecond {
						t.Errorf("who knows: %v off, synchronised %v", off, p.Synchronised)
					}
				default: // a peer of another make
					if off.Abs() > 10*time.Millisecond {
						t.Errorf("who says nothing: %v off", off)
					}
				}
			}
			time.Sleep(time.Second - 50*time.Millisecond)
		}
	})
}
