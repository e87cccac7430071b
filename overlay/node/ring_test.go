package node_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lan is a quiet Wi-Fi.
var lan = nodetest.Conditions{Delay: 2 * time.Millisecond, Jitter: time.Millisecond}

// seed is printed by every test that fails; OVERLAY_SEED repeats it.
func seed(t *testing.T) uint64 {
	s := rand.Uint64()
	if v := os.Getenv("OVERLAY_SEED"); v != "" {
		var err error
		if s, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("OVERLAY_SEED=%d", s)
	return s
}

// world is a network with running kits; all end with the test's bubble.
type world struct {
	t       *testing.T
	mission *nodetest.Mission
	net     *nodetest.Network
	kits    []*nodetest.Kit
	rng     *rand.Rand
}

// newWorld makes n kits and starts none.
func newWorld(t *testing.T, n int, c nodetest.Conditions) *world {
	t.Helper()
	s := seed(t)
	m, err := nodetest.NewMission("test.mission.home.arpa", nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, mission: m, net: nodetest.New(s, c), rng: rand.New(rand.NewPCG(s, 1))}
	for i := range n {
		k, err := m.NewKit(i + 1)
		if err != nil {
			t.Fatal(err)
		}
		w.kits = append(w.kits, k)
	}
	return w
}

func (w *world) start(k *nodetest.Kit) {
	w.t.Helper()
	if err := w.mission.Start(w.net, k, func(c *node.Config) { c.Seed = w.rng.Uint64() }); err != nil {
		w.t.Fatal(err)
	}
}

// stop ends all kits that still run; deferred in every bubble.
func (w *world) stop() {
	w.t.Helper()
	for _, k := range w.kits {
		if k.Node != nil {
			if err := k.Stop(); err != nil {
				w.t.Error(err)
			}
		}
	}
	// Closings of the far ends, and what the kits had in hand, arrive.
	time.Sleep(time.Minute)
	w.net.Close()
}

// together starts all kits within a second, in random order, and lets them discover each other as they would by
// mDNS: each the others some time after they are there.
func (w *world) together() {
	w.t.Helper()
	for _, i := range w.rng.Perm(len(w.kits)) {
		w.start(w.kits[i])
		time.Sleep(time.Duration(w.rng.Int64N(int64(time.Second) / int64(len(w.kits)))))
	}
	w.net.Meet(w.kits...)
}

func (w *world) ring(limit time.Duration, kits ...*nodetest.Kit) time.Duration {
	w.t.Helper()
	d, err := nodetest.WaitRing(limit, kits...)
	if err != nil {
		for _, k := range kits {
			s, _ := k.Node.Snapshot(w.t.Context())
			w.t.Logf("%v %s ring %d links %d counters %v", k.ID(), s.Phase, len(s.Ring), len(s.Links), s.Counters)
		}
		w.t.Fatalf("no ring after %v: %v", d, err)
	}
	return d
}

// What an idle link costs, and what a neighbour's silent death takes to be noticed: with Pings alone, and where the
// link layer has cheaper signs of life, also where one packet of five is lost.
func TestSignsOfLife(t *testing.T) {
	idle := map[string]float64{}
	for _, c := range []struct {
		name   string
		checks bool
		loss   float64
	}{
		{"pings", false, 0}, {"checks", true, 0}, {"pings, 20 % loss", false, 0.2}, {"checks, 20 % loss", true, 0.2},
	} {
		t.Run(c.name, func(t *testing.T) {
			cond := lan
			cond.Checks, cond.Loss = c.checks, c.loss
			w := newWorld(t, 5, cond)
			synctest.Test(t, func(t *testing.T) {
				w.t = t
				defer w.stop()
				w.together()
				w.ring(60*time.Second, w.kits...)
				time.Sleep(30 * time.Second)
				counts := map[string]uint64{}
				count := func(sign int) {
					for _, k := range w.kits {
						for name, n := range w.snapshot(k).Counters {
							counts[name] += uint64(sign) * n
						}
					}
				}
				count(-1)
				_, from := w.net.Delivered()
				const span = 10 * time.Minute
				time.Sleep(span)
				_, to := w.net.Delivered()
				count(1)
				idle[c.name] = float64(to-from) / span.Seconds() / float64(len(w.kits))
				t.Logf("idle: %.0f byte/s per kit, %d Pings for a sign of life, %d checks", idle[c.name], counts["keepalives"], counts["checks"])
				if c.checks && (counts["checks"] == 0 || counts["keepalives"] > counts["checks"]/5) {
					t.Errorf("%d Pings beside %d checks", counts["keepalives"], counts["checks"])
				}
				// With losses four DATA frames in a row may be lost, and what comes behind them waits: rarely a link is
				// given up that lives. Checks do not wait behind anything.
				t.Logf("%d ends of links given up", counts["links_silent"])
				if given := counts["links_silent"]; c.loss == 0 && given != 0 || c.checks && given > 4 {
					t.Errorf("%d ends of links given up", given)
				}
				if c.loss > 0 {
					return
				}
				dead := w.kits[2]
				began := time.Now()
				if err := dead.Kill(); err != nil {
					t.Fatal(err)
				}
				live := slices.Concat(w.kits[:2], w.kits[3:])
				w.ring(10*time.Second, live...)
				t.Logf("noticed after %v", time.Since(began))
			})
		})
	}
	if idle["checks"] > 0.6*idle["pings"] {
		t.Errorf("%.0f byte/s with checks, %.0f without", idle["checks"], idle["pings"])
	}
}

// Kits powered up at the same moment, in any order, become one ring.
func TestSimultaneousPowerUpMakesOneRing(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 8, 16} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := newWorld(t, n, lan)
			synctest.Test(t, func(t *testing.T) {
				w.t = t
				defer w.stop()
				began := time.Now()
				w.together()
				w.ring(30*time.Second, w.kits...)
				total := time.Since(began)
				m, b := w.net.Delivered()
				t.Logf("%d kits: one ring after %v (power-up spread over 1 s), %d messages, %d kB", n, total.Round(time.Millisecond), m, b/1000)
				// And it stays one.
				time.Sleep(2 * time.Minute)
				if err := nodetest.CheckRing(w.kits...); err != nil {
					t.Error(err)
				}
				m2, b2 := w.net.Delivered()
				t.Logf("idle: %.0f messages/s, %.0f byte/s per kit", float64(m2-m)/120/float64(n), float64(b2-b)/120/float64(n))
			})
		})
	}
}
