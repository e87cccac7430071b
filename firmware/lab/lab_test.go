//go:build linux

package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fieldkit/firmware/config"
)

func TestOptionsAreChecked(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	good := func(change func(*Options)) Options {
		o := Options{Kits: 3, Calls: 1, Daemon: program, Tool: program}
		change(&o)
		return o
	}
	for _, c := range []struct {
		name   string
		change func(*Options)
		want   string // part of the error; "" is none
	}{
		{"as it is", func(*Options) {}, ""},
		{"the fewest", func(o *Options) { o.Kits, o.Calls = 1, 0 }, ""},
		{"the most", func(o *Options) { o.Kits, o.Calls, o.Loss, o.Delay = MaxKits, MaxCalls, 100, 10*time.Second }, ""},
		{"no kit", func(o *Options) { o.Kits = 0 }, "kits"},
		{"too many kits", func(o *Options) { o.Kits = MaxKits + 1 }, "kits"},
		{"fewer calls than none", func(o *Options) { o.Calls = -1 }, "calls"},
		{"too many calls", func(o *Options) { o.Calls = MaxCalls + 1 }, "calls"},
		{"negative loss", func(o *Options) { o.Loss = -1 }, "loss"},
		{"more lost than sent", func(o *Options) { o.Loss = 100.5 }, "loss"},
		{"negative delay", func(o *Options) { o.Delay = -time.Millisecond }, "delay"},
		{"endless delay", func(o *Options) { o.Delay = time.Minute }, "delay"},
		{"no daemon", func(o *Options) { o.Daemon = filepath.Join(dir, "none") }, "make run"},
		{"no tool", func(o *Options) { o.Tool = "" }, "make run"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := good(c.change).validate()
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want one about %q", err, c.want)
			}
		})
	}
}

// Loopback can lose nothing: a lab that is asked to must not measure a network without loss.
func TestLoopbackRefusesLoss(t *testing.T) {
	for _, o := range []Options{{Loss: 1}, {Delay: time.Millisecond}} {
		o.Net = NetLoopback
		if w, err := newWorld(o); err == nil {
			w.close()
			t.Errorf("%+v was taken", o)
		}
	}
	if _, err := newWorld(Options{Net: "cardboard"}); err == nil {
		t.Error("a network of cardboard was taken")
	}
}

func TestSameRing(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"", "", true},
		{"a", "a", true},
		{"a b c", "a b c", true},
		{"a b c", "b c a", true},
		{"a b c", "c a b", true},
		{"a b c", "a c b", false}, // the other way round
		{"a b c", "a b", false},
		{"a b", "a b c", false},
		{"a b c", "a b d", false},
		{"a", "", false},
		{"a a b", "a b a", true},
		{"a a b", "a b b", false},
	} {
		if got := sameRing(strings.Fields(c.a), strings.Fields(c.b)); got != c.want {
			t.Errorf("sameRing(%q, %q) = %v", c.a, c.b, got)
		}
	}
}

// The two phones of a call are on different kits where there are two, and the kits share the phones.
func TestPhonesAreSpread(t *testing.T) {
	for kits := 1; kits <= MaxKits; kits++ {
		l := &Lab{opts: Options{Kits: kits}}
		served := make([]int, kits)
		for call := range MaxCalls {
			a, b := l.phoneKit(2*call), l.phoneKit(2*call+1)
			if kits > 1 && a == b {
				t.Fatalf("%d kits: call %d is within kit %d", kits, call, a)
			}
			served[a]++
			served[b]++
		}
		for k, n := range served {
			if want := 2 * MaxCalls / kits; n < want-2 || n > want+3 {
				t.Errorf("%d kits: kit %d has %d phones", kits, k, n)
			}
		}
	}
}

func TestEveryPhoneHasItsTone(t *testing.T) {
	heard := map[float64]int{}
	for i := range 2 * MaxCalls {
		hz := toneOf(i)
		if other, taken := heard[hz]; taken {
			t.Errorf("phones %d and %d both say %v Hz", other, i, hz)
		}
		heard[hz] = i
		if hz < 300 || hz > 3400 {
			t.Errorf("phone %d says %v Hz, which a telephone does not carry", i, hz)
		}
	}
}

// What the lab writes for a kit is what a kit reads, also for one that has no neighbours.
func TestKitsAreGivenUsableConfigurations(t *testing.T) {
	onLoopback, err := newLoopback(Options{}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer onLoopback.close()
	for n := 1; n <= 3; n++ {
		l := &Lab{opts: Options{Kits: n}, world: onLoopback}
		for i := range n {
			at, err := onLoopback.kit(i)
			if err != nil {
				t.Fatal(err)
			}
			c, err := config.Parse([]byte((&Kit{Number: kitNumber(i), at: at}).config(l.neighbours(i))))
			if err != nil {
				t.Errorf("kit %d of %d: %v", i+1, n, err)
				continue
			}
			if len(c.Link.Neighbours) != n-1 || c.Kit.Number != kitNumber(i) {
				t.Errorf("kit %d of %d: number %d, neighbours %v", i+1, n, c.Kit.Number, c.Link.Neighbours)
			}
		}
	}
}
