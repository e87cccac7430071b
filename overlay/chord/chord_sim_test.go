package chord

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run the simulations with this seed only")
	seedsFlag = flag.Int("seeds", 200, "how many seeds to run the simulations with")
)

// seeds runs a simulation with many seeds and names the one that fails.
func seeds(t *testing.T, share int, run func(t *testing.T, seed uint64)) {
	t.Helper()
	if *seedFlag != 0 {
		run(t, *seedFlag)
		return
	}
	n := max(1, *seedsFlag/share)
	if testing.Short() {
		n = max(1, n/10)
	}
	for seed := range uint64(n) {
		if t.Failed() {
			return
		}
		func() {
			defer func() {
				if t.Failed() {
					t.Logf("run it again with -seed %d -run '^%s$'", seed+1, t.Name())
				}
			}()
			run(t, seed+1)
		}()
	}
}

// powerUp starts n kits within a second, in any order.
func (m *sim) powerUp(n int) []wire.NodeID {
	var ids []wire.NodeID
	for range n {
		id := m.randomID()
		ids = append(ids, id)
		m.after(time.Duration(m.rand.Int64N(int64(time.Second))), func() { m.start(id) })
	}
	m.run(time.Second)
	return ids
}

func (m *sim) mustConverge(limit time.Duration, what string) time.Duration {
	m.t.Helper()
	d, err := m.until(limit, m.oneRing)
	if err != nil {
		m.t.Fatalf("%s: no ring after %v: %v", what, limit, err)
	}
	return d
}

func TestPowerUpTogether(t *testing.T) {
	var times []time.Duration
	var joins, merges, admitted uint64
	sent := map[string]int{}
	seeds(t, 1, func(t *testing.T, seed uint64) {
		m := newSim(t, seed)
		n := 1 + int(seed)%16
		m.powerUp(n)
		d := m.mustConverge(30*time.Second, fmt.Sprint(n, " kits"))
		if times = append(times, d); d > 5*time.Second {
			t.Logf("seed %d: %d kits took %v", seed, n, d)
		}
		for _, id := range m.ids {
			st := m.nodes[id].state.stats
			joins, merges, admitted = joins+st.Joins, merges+st.Merges, admitted+st.Admitted
		}
		for k, v := range m.sent {
			sent[k] += v
		}
	})
	slices.Sort(times)
	t.Logf("one ring after power-up: median %v, worst %v; %d joined, %d merged, %d admitted; %v",
		times[len(times)/2], times[len(times)-1], joins, merges, admitted, sent)
	if *seedFlag == 0 && (joins == 0 || merges == 0 || admitted < joins) {
		t.Errorf("joins %d, merges %d, admitted %d: one way into the ring is not used", joins, merges, admitted)
	}
}

func TestPowerUpWithLoss(t *testing.T) {
	var times []time.Duration
	seeds(t, 2, func(t *testing.T, seed uint64) {
		m := newSim(t, seed)
		m.loss = 0.1
		m.delay = 200 * time.Millisecond
		m.powerUp(2 + int(seed)%15)
		times = append(times, m.mustConverge(3*time.Minute, "lossy power-up"))
	})
	slices.Sort(times)
	t.Logf("median %v, worst %v", times[len(times)/2], times[len(times)-1])
}

func TestNewcomerJoins(t *testing.T) {
	joins := 0
	seeds(t, 2, func(t *testing.T, seed uint64) {
		m := newSim(t, seed)
		m.powerUp(1 + int(seed)%15)
		m.mustConverge(30*time.Second, "start")
		m.run(20 * time.Second)
		n := m.start(m.randomID())
		m.mustConverge(20*time.Second, "newcomer")
		joins += int(n.state.stats.Joins)
	})
	if *seedFlag == 0 && joins*10 < max(1, *seedsFlag/2)*9/map[bool]int{true: 10, false: 1}[testing.Short()] {
		t.Errorf("only %d newcomers joined, the others merged", joins)
	}
}

func TestKill(t *testing.T) {
	seeds(t, 2, func(t *testing.T, seed uint64) {
		m := newSim(t, seed)
		n := 2 + int(seed)%15
		ids := m.powerUp(n)
		m.mustConverge(30*time.Second, "start")
		k := 1 + m.rand.IntN(n-1)
		for _, id := range ids[:k] {
			m.kill(id)
		}
		m.mustConverge(30*time.Second, fmt.Sprintf("%d of %d killed", k, n))
		// They come back with what they are called but knowing nothing.
		for _, id := range ids[:k] {
			m.start(id)
		}
		m.mustConverge(40*time.Second, "restarted")
	})
}

// A kit that reboots faster than its links time out.
func TestRestartBeforeTimeout(t *testing.T) {
	seeds(t, 4, func(t *testing.T, seed uint64) {
		m := newSim(t, seed)
		ids := m.powerUp(2 + int(seed)%15)
		m.mustConverge(30*time.Second, "start")
		m.kill(ids[0])
		m.run(2 * time.Second)
		m.start(ids[0])
		m.mustConverge(time.Minute, "restarted")
	})
}

func TestSplitAndMerge(t *testing.T) {
	var times []time.Duration
	seeds(t, 2, func(t *testing.T, seed uint64) {
		m := newSim(t, seed)
		ids := m.powerUp(2 + int(seed)%15)
		m.mustConverge(30*time.Second, "start")
		cut := 1 + m.rand.IntN(len(ids)-1)
		m.partition(ids[:cut], 1)
		m.mustConverge(time.Minute, "split")
		m.run(time.Duration(m.rand.Int64N(int64(2 * time.Minute))))
		m.heal()
		times = append(times, m.mustConverge(2*time.Minute, "merge"))
	})
	slices.Sort(times)
	t.Logf("one ring after the islands met: median %v, worst %v", times[len(times)/2], times[len(times)-1])
}

func TestThreeIslandsWithLoss(t *testing.T) {
	seeds(t, 8, func(t *testing.T, seed uint64) {
		m := newSim(t, seed)
		m.loss = 0.05
		ids := m.powerUp(12)
		m.partition(ids[:4], 1)
		m.partition(ids[4:8], 2)
		m.mustConverge(3*time.Minute, "split")
		m.heal()
		m.mustConverge(3*time.Minute, "merge")
	})
}

// Above 16 kits nobody is connected to everyone any more, yet the ring is right.
func TestMoreThanFullMesh(t *testing.T) {
	seeds(t, 20, func(t *testing.T, seed uint64) {
		m := newSim(t, seed)
		m.powerUp(17 + int(seed)%16)
		m.mustConverge(3*time.Minute, "large ring")
		m.routesEverywhere()
	})
}

// routesEverywhere asks every node for a point of the ring, and the right one must answer.
func (m *sim) routesEverywhere() {
	key := m.randomID()
	i, _ := slices.BinarySearchFunc(m.ids, key, wire.NodeID.Compare)
	owner := m.ids[i%len(m.ids)]
	answers := 0
	for _, id := range m.ids {
		m.send("lookup", id, []wire.Destination{wire.ToResource(wire.ResourceID(key.Bytes()))}, func(at wire.NodeID) {
			answers++
			if at != owner {
				m.t.Errorf("%v sent to %v: answered by %v, not by %v", id, key, at, owner)
			}
		}, func() { m.t.Errorf("%v sent to %v: no answer", id, key) })
	}
	m.run(16 * time.Second)
	if answers != len(m.ids) {
		m.t.Errorf("%d answers, want %d", answers, len(m.ids))
	}
}

func TestLeave(t *testing.T) {
	seeds(t, 4, func(t *testing.T, seed uint64) {
		m := newSim(t, seed)
		ids := m.powerUp(3 + int(seed)%14)
		m.mustConverge(30*time.Second, "start")
		gone := ids[0]
		m.step(m.nodes[gone], Shutdown{})
		m.run(300 * time.Millisecond)
		m.ids = slices.DeleteFunc(m.ids, func(id wire.NodeID) bool { return id == gone })
		// Told, not timed out.
		if d := m.mustConverge(2*time.Second, "left"); d > time.Second {
			t.Errorf("ring repaired only after %v", d)
		}
		for _, id := range m.ids {
			m.cut(id, gone)
		}
		m.run(time.Minute)
		m.mustConverge(0, "a minute later")
	})
}

// An idle ring is quiet: Updates and probes at their intervals, nothing else.
func TestIdleTraffic(t *testing.T) {
	m := newSim(t, 1)
	m.powerUp(16)
	m.mustConverge(30*time.Second, "start")
	m.run(2 * time.Minute)
	clear(m.sent)
	m.run(10 * time.Minute)
	for _, quiet := range []string{"chord.Attach", "chord.Bootstrap", "chord.SendJoin", "chord.CloseLink", "chord.NeighboursChanged"} {
		if m.sent[quiet] != 0 {
			t.Errorf("%d %s in ten idle minutes", m.sent[quiet], quiet)
		}
	}
	perKit := float64(m.sent["chord.SendUpdate"]) / 16 / 600
	t.Logf("each of 16 kits sends %.2f Updates and %.3f probes a second", perKit, float64(m.sent["chord.Probe"])/16/600)
	if perKit > 15.0/20 {
		t.Errorf("%.2f Updates a second from each kit", perKit)
	}
}

// The same seed gives the same course, byte by byte.
func TestDeterminism(t *testing.T) {
	course := func(seed uint64) string {
		m := newSim(t, seed)
		m.loss = 0.05
		ids := m.powerUp(12)
		m.run(20 * time.Second)
		m.partition(ids[:5], 1)
		m.run(time.Minute)
		m.heal()
		m.kill(ids[3])
		m.run(time.Minute)
		return fmt.Sprintf("%x", m.digest.Sum(nil))
	}
	seeds(t, 50, func(t *testing.T, seed uint64) {
		if a, b := course(seed), course(seed); a != b {
			t.Errorf("two runs differ")
		}
	})
	if course(1) == course(2) {
		t.Error("two seeds give the same course: the digest sees nothing")
	}
}
