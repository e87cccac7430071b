package chord

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

// newBigSim is for rings of hundreds: each kit sees some others, and no digest is kept.
func newBigSim(t testing.TB, seed uint64) *sim {
	m := newSim(t, seed)
	m.digest, m.sight, m.ttl = nil, 8, 32
	return m
}

// grow starts n kits one after the other, so many a second.
func (m *sim) grow(n int, rate float64) {
	for range n {
		m.start(m.randomID())
		m.run(time.Duration(float64(time.Second) / rate))
	}
}

// lookups sends n requests from anywhere to anywhere and returns their hops, ascending; lost ones count
// as misses.
func (m *sim) lookups(n int) (hops []int, misses int) {
	for range n {
		from := m.ids[m.rand.IntN(len(m.ids))]
		at := from
		k := wire.ResourceID(m.randomID().Bytes())
		for h := 0; ; h++ {
			via := m.nodes[at].state.NextHop(wire.ToResource(k))
			if via.Local {
				hops = append(hops, h)
				break
			}
			if h == 32 || via.Via.IsZero() || !m.reach(at, via.Via) {
				misses++
				break
			}
			at = via.Via
		}
	}
	slices.Sort(hops)
	return hops, misses
}

func mean(hops []int) (sum float64) {
	for _, h := range hops {
		sum += float64(h)
	}
	return sum / float64(len(hops))
}

// links counts the entries of the Connection Tables.
func (m *sim) links() (mean float64, most int) {
	for _, id := range m.ids {
		n := len(m.nodes[id].ring)
		mean += float64(n) / float64(len(m.ids))
		most = max(most, n)
	}
	return mean, most
}

// TestScale grows rings and measures them. "finger table … skip list so that entries … can be found in
// O(log(N)) time" (RFC 6940 §10.1); the theory of Chord is ½·log2 N hops on average.
func TestScale(t *testing.T) {
	sizes := []int{16, 64, 256, 1000}
	if testing.Short() {
		sizes = sizes[:2]
	}
	t.Logf("%5s %7s %5s %4s %6s %5s %7s %7s %8s %8s %9s", "N", "hops", "p99", "max", "bound", "links", "msgs/s", "B/s", "joinmsgs", "join B", "fingers")
	for _, n := range sizes {
		m := newBigSim(t, uint64(n))
		m.grow(n, 10)
		m.mustConverge(2*time.Minute, fmt.Sprint(n, " grown"))
		m.run(10 * time.Minute)
		m.mustConverge(0, "ten minutes later")
		hops, misses := m.lookups(2000)
		if misses > 0 {
			t.Errorf("%d kits: %d of 2000 lookups do not arrive", n, misses)
		}
		bound := math.Log2(float64(n))/2 + 1
		if mean(hops) > bound {
			t.Errorf("%d kits: %.2f hops on average, want at most %.2f", n, mean(hops), bound)
		}
		m.cost = cost{}
		m.run(10 * time.Minute)
		idle := m.cost
		links, most := m.links()
		if most > 64 {
			t.Errorf("%d kits: one has %d links", n, most)
		}
		fingers, large := 0, 0
		for _, id := range m.ids {
			fingers += len(m.nodes[id].state.fingerList())
			if m.nodes[id].state.large {
				large++
			}
		}
		per := func(v int) float64 { return float64(v) / float64(n) / 600 }
		m.cost = cost{}
		m.start(m.randomID())
		m.mustConverge(time.Minute, "one more")
		m.run(3 * time.Second)
		t.Logf("%5d %7.2f %5d %4d %6.2f %5.1f %7.2f %7.0f %8d %8d %9.1f  most links %d, %d large, %v", n, mean(hops), hops[len(hops)*99/100], hops[len(hops)-1], bound, links,
			per(idle.messages), per(idle.bytes+idle.linkUps), m.cost.messages, m.cost.bytes+m.cost.linkUps, float64(fingers)/float64(n), most, large, idle.what)
	}
}
