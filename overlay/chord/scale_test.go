package chord

import (
	"flag"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

var largeFlag = flag.Bool("large", false, "run the simulations of hundreds of kits, too; they take minutes")

// scale is which sizes to simulate.
func scale[T any](large, small []T) []T {
	if *largeFlag {
		return large
	}
	return small
}

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
	sizes := scale([]int{16, 64, 256, 1000}, []int{16, 64})
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

// churn lets kits come and go: sessions are exponential with this median, and as many come as go.
func (m *sim) churn(n int, median, d time.Duration) {
	end := m.now.Add(d)
	mean := float64(median) / math.Ln2
	for {
		gap := time.Duration(m.rand.ExpFloat64() * mean / float64(n))
		if m.now.Add(gap).After(end) {
			m.run(end.Sub(m.now))
			return
		}
		m.run(gap)
		m.kill(m.ids[m.rand.IntN(len(m.ids))])
		m.start(m.randomID())
	}
}

// TestChurn is the published case of Bamboo: sessions with a median of 1.4 minutes.
func TestChurn(t *testing.T) {
	n := scale([]int{1000}, []int{60})[0]
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) { churnCase(t, n, mode.cfg) })
	}
}

var modes = []struct {
	name string
	cfg  Config
}{{"reactive", Config{}}, {"periodic", Config{Periodic: true}}, {"self-tuning", Config{SelfTuning: true}}}

func churnCase(t *testing.T, n int, cfg Config) {
	m := newBigSim(t, 5)
	m.cfg = cfg
	m.grow(n, 20)
	m.mustConverge(3*time.Minute, "grown")
	d := scale([]time.Duration{3 * time.Minute}, []time.Duration{time.Minute})[0]
	m.churn(n, 84*time.Second, d)
	m.cost = cost{}
	m.churn(n, 84*time.Second, d)
	c := m.cost
	hops, misses := m.lookups(2000)
	links, _ := m.links()
	per := float64(n) * d.Seconds()
	right := 0
	for i, id := range m.ids {
		if s := m.nodes[id].state; len(s.succ) > 0 && s.succ[0] == m.ids[(i+1)%n] {
			right++
		}
	}
	// Of links to kits that died within the last eleven seconds nobody knows yet: one in ten.
	if right < n*7/10 {
		t.Errorf("%d of %d have the right successor", right, n)
	}
	took, err := m.until(2*time.Minute, m.oneRing)
	f := 0.0
	for _, id := range m.ids {
		f += float64(len(m.nodes[id].state.fingerList())) / float64(n)
	}
	if err != nil {
		t.Errorf("%v", err)
	}
	what := map[string]int{}
	for k, v := range c.what {
		what[k] = int(float64(v) / per)
	}
	t.Logf("%.2f messages/s and %.0f B/s per kit (%v), %.3f links/s with %.0f B/s; hops %.2f, p99 %d, %d of 2000 miss; %d of %d successors right; %.1f links %.1f fingers; one ring %v after",
		float64(c.messages)/per, float64(c.bytes)/per, what, float64(c.links)/per, float64(c.linkUps)/per,
		mean(hops), hops[len(hops)*99/100], misses, right, n, links, f, took)
}

// TestManySingletons powers up kits within a second that all see each other, or some of each other.
func TestManySingletons(t *testing.T) {
	sizes := scale([]int{32, 64, 128, 256}, []int{32})
	for _, n := range sizes {
		for _, sight := range []int{0, 8} {
			m := newBigSim(t, uint64(n))
			m.sight = sight
			m.powerUp(n)
			d := m.mustConverge(3*time.Minute, fmt.Sprint(n, " kits at once"))
			t.Logf("%d kits, each sees %d (0: all): one ring %v after the last was switched on; each sent %.0f messages, %.0f kB, and made %.1f links",
				n, sight, d, float64(m.cost.messages)/float64(n), float64(m.cost.bytes+m.cost.linkUps)/1000/float64(n), float64(m.cost.links)/float64(n))
			m.routesEverywhere()
		}
	}
}

// islands grows rings that do not see each other.
func (m *sim) islands(sizes ...int) {
	for i, n := range sizes {
		for range n {
			id := m.randomID()
			m.island[id] = i
			m.start(id)
			m.run(50 * time.Millisecond)
		}
	}
}

// TestMergeOfManyRings: rings that meet become one.
func TestMergeOfManyRings(t *testing.T) {
	cases := scale([][]int{{64, 64}, {20, 30, 40, 50, 60}, {500, 500}, {1, 200}}, [][]int{{20, 20}, {1, 30}, {8, 9, 10, 11, 12}})
	for _, sizes := range cases {
		m := newBigSim(t, 11)
		m.islands(sizes...)
		m.mustConverge(3*time.Minute, "islands")
		m.run(5 * time.Minute)
		m.mustConverge(0, "islands, later")
		m.cost = cost{}
		m.heal()
		d := m.mustConverge(4*time.Minute, fmt.Sprint("merge of ", sizes))
		n := float64(len(m.ids))
		t.Logf("rings of %v are one after %v; each kit sent %.0f messages, %.0f kB, and made %.1f links", sizes, d,
			float64(m.cost.messages)/n, float64(m.cost.bytes+m.cost.linkUps)/1000/n, float64(m.cost.links)/n)
		m.routesEverywhere()
	}
}

// TestManyDieAtOnce takes 30 % of the kits away in one moment.
func TestManyDieAtOnce(t *testing.T) {
	sizes := scale([]int{64, 256, 1000}, []int{50})
	for _, n := range sizes {
		for _, mode := range modes {
			m := newBigSim(t, uint64(n))
			m.cfg = mode.cfg
			m.grow(n, 20)
			m.mustConverge(5*time.Minute, "grown")
			m.run(3 * time.Minute)
			for range n * 3 / 10 {
				m.kill(m.ids[m.rand.IntN(len(m.ids))])
			}
			d := m.mustConverge(15*time.Minute, fmt.Sprintf("%s: 30 %% of %d dead", mode.name, n))
			t.Logf("%s: 30 %% of %d kits dead: the ring of the others is right after %v", mode.name, n, d)
			m.run(10 * time.Second) // until the last link to a dead one has timed out
			if _, misses := m.lookups(500); misses > 0 {
				t.Errorf("%s: %d of 500 lookups do not arrive", mode.name, misses)
			}
		}
	}
}
