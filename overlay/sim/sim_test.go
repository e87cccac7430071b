package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

func runScenario(t *testing.T, name string, o Options) *Report {
	t.Helper()
	r, err := Run(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Failures {
		t.Error(f)
	}
	if r.Failed() {
		t.Log(r.Command())
	}
	return r
}

// Equal seeds give equal runs, to the byte of every frame and its time; other seeds give others.
func TestSameSeedSameBytes(t *testing.T) {
	for _, name := range []string{"mix", "merge", "loss"} {
		seen := map[string]string{}
		for _, seed := range []uint64{1, 2, 1} {
			r := runScenario(t, name, Options{Nodes: 6, Rings: 2, Seed: seed})
			r.RealSeconds = 0
			b, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if old, ok := seen[r.Trace]; ok && old != string(b) {
				t.Errorf("%s: one trace, two reports:\n%s\n%s", name, old, b)
			}
			seen[r.Trace] = string(b)
		}
		if len(seen) != 2 {
			t.Errorf("%s: %d different runs of two seeds, one of them run twice", name, len(seen))
		}
	}
}

// "Every kit may be the first": any number of kits powered up within one second are one ring soon after, and what
// they store is at its owner and both replicas (RFC 6940 §10.4).
func TestSingletonsBecomeOneRing(t *testing.T) {
	sizes := []int{1, 2, 3, 4, 5, 7, 16, 17, 40}
	if testing.Short() {
		sizes = []int{1, 2, 5}
	}
	for _, n := range sizes {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			r := runScenario(t, "singletons", Options{Nodes: n, Seed: 3})
			if d := r.Value("one ring after"); d > 15 {
				t.Errorf("one ring of %d after %.1f s", n, d)
			}
		})
	}
}

// A lookup takes about ½·log2 N hops; one more is allowed.
func TestLookupsTakeHalfOfLog2N(t *testing.T) {
	for _, n := range []int{16, 64, 128} {
		if n > 16 && testing.Short() {
			continue
		}
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			r := runScenario(t, "ring", Options{Nodes: n, Seed: 3})
			if hops, most := r.Value("hops, mean"), math.Log2(float64(n))/2+1; hops > most {
				t.Errorf("%.2f hops, want at most %.2f", hops, most)
			}
			if q := r.Value("lookups answered by the right peer"); q != 100 {
				t.Errorf("%.2f %% of the lookups ended at the right peer", q)
			}
			// Nothing is lost here, so nothing has to be sent again after three seconds (RFC 6940 §6.2.1).
			if d := r.Value("lookup time, p99"); d > 1000 {
				t.Errorf("a hundredth of the lookups took more than %.0f ms", d)
			}
		})
	}
}

func TestRingsMerge(t *testing.T) {
	for _, c := range []struct{ rings, nodes int }{{2, 1}, {2, 2}, {2, 16}, {3, 5}, {5, 6}, {8, 1}} {
		t.Run(fmt.Sprintf("%d of %d", c.rings, c.nodes), func(t *testing.T) {
			t.Parallel()
			runScenario(t, "merge", Options{Rings: c.rings, Nodes: c.nodes, Seed: 3})
		})
	}
}

func TestThreeOfTenDie(t *testing.T) {
	for _, n := range []int{10, 40} {
		if n > 10 && testing.Short() {
			continue
		}
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			runScenario(t, "deaths", Options{Nodes: n, Seed: 3})
		})
	}
}

// A kit that was off for a moment has lost what it stored for others. It is given all of that again, whether its silence
// was noticed or not, and in a ring where those who wrote it see nothing of that.
func TestRestartedKitsAreGivenBackWhatTheyHeld(t *testing.T) {
	for _, n := range []int{3, 20, 40} {
		if n > 20 && testing.Short() {
			continue
		}
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			r := runScenario(t, "restart", Options{Nodes: n, Seed: 1})
			if late := r.Value("registrations readable only after their refresh"); late > 0 {
				t.Errorf("%.0f registrations had to wait for their writers", late)
			}
		})
	}
}

func TestBothSidesOfASplitWrite(t *testing.T) {
	for _, n := range []int{2, 5, 20} {
		if n > 5 && testing.Short() {
			continue
		}
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			runScenario(t, "split", Options{Nodes: n, Seed: 3})
		})
	}
}

func TestAFifthOfAllPacketsIsLost(t *testing.T) {
	r := runScenario(t, "loss", Options{Nodes: 8, Seed: 3})
	if r.Counts.LinksFailed == 0 {
		t.Error("no link failed: nothing was lost")
	}
}

func TestKitsComeAndGo(t *testing.T) {
	n := 60
	if testing.Short() {
		n = 6
	}
	r := runScenario(t, "churn", Options{Nodes: n, Seed: 3})
	if q := r.Value("lookups answered"); q < 80 {
		t.Errorf("%.1f %% of the lookups were answered while kits came and went", q)
	}
}

// With ECDSA and real certificates the same happens as with the keyed hash.
func TestRealSignatures(t *testing.T) {
	fast := runScenario(t, "singletons", Options{Nodes: 4, Seed: 3})
	real := runScenario(t, "singletons", Options{Nodes: 4, Seed: 3, Real: true})
	for _, name := range []string{"one ring after", "idle, on the wire"} {
		if f, r := fast.Value(name), real.Value(name); r < f/2 || r > f*2 {
			t.Errorf("%s: %.1f with real signatures, %.1f without", name, r, f)
		}
	}
}

// TestSeeds is a selection of what `make soak` runs.
func TestSeeds(t *testing.T) {
	seeds := uint64(120)
	if testing.Short() {
		seeds = 5 // there are no goroutines for the race detector to look at
	}
	for seed := uint64(1); seed <= seeds; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			name, o := Soak(seed)
			runScenario(t, name, o)
		})
	}
}

// control makes a ring of kits with registrations, for tests that break a rule on purpose.
func control(t *testing.T, n int) (*run, []*Kit, *ring) {
	t.Helper()
	w, err := New(Config{Seed: 1, Net: Field, Kits: n})
	if err != nil {
		t.Fatal(err)
	}
	x := &run{World: w, o: Options{Nodes: n}}
	kits := x.grow(n, 0)
	x.write(kits, 2)
	x.Run(quiet)
	r := newRing(kits)
	x.mustHold("control", r, x.records)
	x.mustRead("control", kits, x.records)
	if err := r.check(); err != nil || len(x.failures) > 0 {
		t.Fatal(err, x.failures)
	}
	return x, kits, r
}

// A rule that cannot be broken says nothing: each is broken here.
func TestRulesNotice(t *testing.T) {
	t.Run("a kit that is not in the ring", func(t *testing.T) {
		x, kits, _ := control(t, 6)
		k, err := x.add()
		if err != nil {
			t.Fatal(err)
		}
		k.island = 1
		if err := k.start(); err != nil {
			t.Fatal(err)
		}
		x.Run(time.Minute)
		if newRing(append(kits, k)).check() == nil {
			t.Error("not noticed")
		}
	})
	t.Run("a neighbour that is dead", func(t *testing.T) {
		x, kits, r := control(t, 6)
		kits[0].stop()
		if r.check() == nil || newRing(x.living()).check() == nil {
			t.Error("not noticed")
		}
		x.Run(time.Minute)
		if err := newRing(x.living()).check(); err != nil {
			t.Error("not repaired:", err)
		}
	})
	t.Run("a value that is lost", func(t *testing.T) {
		x, _, r := control(t, 9)
		rec := x.records[0]
		lost := append(r.holders(rec.res), rec.kit)
		for _, k := range lost {
			if k.alive {
				k.stop()
			}
		}
		x.Run(2 * time.Minute)
		x.mustRead("lost", x.living(), []*record{rec})
		x.mustHold("lost", newRing(x.living()), []*record{rec})
		if len(x.failures) != 2 {
			t.Errorf("noticed: %q", x.failures)
		}
	})
	t.Run("a value that nobody wrote", func(t *testing.T) {
		x, _, _ := control(t, 3)
		rec := x.records[0]
		v := wire.StoredData{Value: wire.StoredDataValue{Key: rec.kit.self.NodeID.Bytes(), DataValue: wire.DataValue{Exists: true, Value: rec.value(rec.version)}}}
		if !rec.authentic(&v) {
			t.Error("a genuine value is not")
		}
		v.Value.Value = rec.value(rec.version + 1)
		if rec.authentic(&v) {
			t.Error("a version that was never written: not noticed")
		}
		v.Value.Value, v.Value.Key = rec.value(rec.version), x.kits[2].self.NodeID.Bytes()
		if rec.authentic(&v) {
			t.Error("another kit's: not noticed")
		}
	})
}

// A forged value that a store would take is noticed: here the liar signs as the victim, which only the authority can
// do.
func TestForgeryWouldBeNoticed(t *testing.T) {
	x, _, r := control(t, 5)
	old := forgeries
	defer func() { forgeries = old }()
	forgeries = []forgery{{"signed with the victim's own key", func(_ *Kit, victim *record, v *wire.StoredData) error {
		v.StorageTime++
		v.Value.Value = victim.value(99)
		s, err := victim.kit.ident.signerFor(victim.aor)
		if err != nil {
			return err
		}
		return victim.kit.ident.crypto.SignStored(victim.res, wire.KindSIPRegistration, v, s)
	}}}
	x.neverForged()
	if len(x.failures) == 0 {
		t.Error("accepted, and not noticed")
	}
	x.failures = nil
	x.checkCopies(r, x.records)
	if !strings.Contains(strings.Join(x.failures, "\n"), "nobody wrote") {
		t.Errorf("noticed: %q", x.failures)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	loss := 1.0
	for what, c := range map[string]struct {
		name string
		o    Options
	}{
		"no such scenario":   {"nothing", Options{}},
		"too many":           {"ring", Options{Nodes: MaxNodes + 1}},
		"too many in rings":  {"merge", Options{Nodes: MaxNodes, Rings: 2}},
		"all is lost":        {"ring", Options{Loss: &loss}},
		"too many real ones": {"ring", Options{Nodes: maxRealNodes + 1, Real: true}},
		"negative delay":     {"ring", Options{Delay: -1}},
	} {
		if _, err := Run(t.Context(), c.name, c.o); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// A simulation of hours ends when nobody wants to know any more.
func TestRunIsGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, "churn", Options{Nodes: 500}); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

// A report that says that something broke also says how to see it again.
func TestReport(t *testing.T) {
	r := runScenario(t, "singletons", Options{Nodes: 2, Seed: 9})
	var b strings.Builder
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"N ", "seed ", "virtual time ", "real time ", "trace ", "invariants ", "kept"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	r.Failures = []string{"something"}
	b.Reset()
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	if want := "fieldkit sim singletons --nodes 2 --seed 9 --delay 5ms --jitter 10ms --loss 0"; !strings.Contains(b.String(), want) {
		t.Errorf("no %q in\n%s", want, b.String())
	}
}
