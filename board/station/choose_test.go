package station

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var began = time.Unix(0, 0)

const self = "5000"

func heard(node string, signal int) Heard {
	return Heard{BSSID: "02:00:00:00:" + node[:2] + ":" + node[2:], Node: node, Frequency: 2437, Signal: signal}
}

// world is that of a kit that is alone.
func world(change ...func(*World)) World {
	w := World{Self: self, Ring: []string{self}}
	for _, f := range change {
		f(&w)
	}
	return w
}

func scanned(w World, all ...Heard) input { return input{World: w, scanned: true, heard: all} }

func TestWhoIsJoined(t *testing.T) {
	lower, higher, near := heard("1000", -60), heard("9000", -50), heard("2000", -40)
	for _, c := range []struct {
		name  string
		world World
		heard []Heard
		want  string // Node-ID; "" nobody
	}{
		{"nobody there", world(), nil, ""},
		{"one that is lower", world(), []Heard{lower}, "1000"},
		{"the strongest", world(), []Heard{lower, near}, "2000"},
		{"a higher one is to join this one", world(), []Heard{higher}, ""},
		{"the lower one, though the higher one is stronger", world(), []Heard{higher, lower}, "1000"},
		{"one in the ring already", world(func(w *World) { w.Ring = []string{"1000", self} }), []Heard{lower}, ""},
		{"one on a cable, though the overlay does not have it yet", world(func(w *World) { w.Cable = []string{"1000"} }), []Heard{lower}, ""},
		{"one that is a guest here", world(func(w *World) { w.Guests = []string{"1000"} }), []Heard{lower}, ""},
		{"ourselves", world(), []Heard{heard(self, -30)}, ""},
		{"too weak for voice", world(), []Heard{heard("1000", -89)}, ""},
		{"during a call, on the handsets' radio", world(func(w *World) { w.Shared, w.Busy = true, true }), []Heard{lower}, ""},
		{"during a call, on a radio of its own", world(func(w *World) { w.Busy = true }), []Heard{lower}, "1000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := newChooser().step(began, scanned(c.world, c.heard...))
			if got := out.join; (got == nil) != (c.want == "") || got != nil && got.Node != c.want {
				t.Errorf("joined %+v, want %q", got, c.want)
			}
		})
	}
}

func TestPatienceWithAHigherKit(t *testing.T) {
	c := newChooser()
	higher := heard("9000", -50)
	for at := time.Duration(0); at < patience; at += 15 * time.Second {
		if out := c.step(began.Add(at), scanned(world(), higher)); out.join != nil {
			t.Fatalf("joined after %v", at)
		}
	}
	if out := c.step(began.Add(patience), scanned(world(), higher)); out.join == nil {
		t.Error("waits for a kit for ever that does not come")
	}
	// Heard anew after it was away, it has its time again.
	c = newChooser()
	c.step(began, scanned(world(), higher))
	if out := c.step(began.Add(forgetSightings+patience), scanned(world(), higher)); out.join != nil {
		t.Error("joined one that has just come back")
	}
}

func TestHowOftenItScans(t *testing.T) {
	many := world(func(w *World) { w.Ring = []string{"1000", self} })
	shared := func(w *World) { w.Shared = true }
	for _, c := range []struct {
		name  string
		world World
		want  int // scans in ten minutes
	}{
		{"alone", world(), 40},
		{"alone, on the handsets' radio", world(shared), 20},
		{"with others", many, 10},
		{"with others, on the handsets' radio", world(shared, func(w *World) { w.Ring = many.Ring }), 5},
		{"during a call, on the handsets' radio", world(shared, func(w *World) { w.Busy = true }), 0},
	} {
		c2, n := newChooser(), 0
		for at := time.Duration(0); at < 10*time.Minute; at += time.Second {
			if c2.step(began.Add(at), input{World: c.world}).scan {
				n++
			}
		}
		if n != c.want {
			t.Errorf("%s: %d scans, want %d", c.name, n, c.want)
		}
	}
}

// Two kits with one radio each that scan at the same moment do not hear each other: they must not do so again and again.
func TestScansDoNotStayInStep(t *testing.T) {
	second := func(chance float64) time.Duration {
		c, n := newChooser(), 0
		in := input{World: world(func(w *World) { w.Shared = true }), chance: chance}
		for at := time.Duration(0); ; at += time.Second {
			if c.step(began.Add(at), in).scan {
				if n++; n == 2 {
					return at
				}
			}
		}
	}
	longest, shortest := second(0), second(0.99)
	if longest != sharedFactor*scanAlone {
		t.Errorf("second scan after %v", longest)
	}
	if d := longest - shortest; d < 5*time.Second || shortest < longest/2 {
		t.Errorf("second scan after %v to %v", shortest, longest)
	}
}

// joinedTo is a chooser that joined a kit at the beginning and is associated.
func joinedTo(t *testing.T, node string) *chooser {
	t.Helper()
	c := newChooser()
	c.sighted[node] = sighting{first: began.Add(-time.Hour), last: began}
	if out := c.step(began, scanned(world(), heard(node, -50))); out.join == nil {
		t.Fatal("not joined")
	}
	c.step(began, input{World: world(), linked: true})
	return c
}

func TestWhenItIsLeft(t *testing.T) {
	proved := func(w *World) { w.Ring = []string{"1000", "9000", self} }
	for _, c := range []struct {
		name string
		node string
		then func(at time.Duration) input
		want time.Duration // 0: not within ten minutes
		back bool          // may be joined again at once
	}{
		{"all is well", "1000", func(time.Duration) input { return input{World: world(proved), linked: true} }, 0, true},
		{"the overlay never counts it in", "1000", func(time.Duration) input { return input{World: world(), linked: true} }, proveWithin, false},
		{"the association is lost", "1000", func(time.Duration) input { return input{World: world(proved)} }, lostWithin + time.Second, true},
		{"it comes and goes", "1000", func(at time.Duration) input {
			return input{World: world(proved), linked: int(at.Seconds())%15 < 8}
		}, 0, true},
		{"wpa_supplicant ended", "1000", func(time.Duration) input { return input{World: world(proved), ended: true} }, time.Second, false},
		{"a cable", "1000", func(time.Duration) input {
			return input{World: world(proved, func(w *World) { w.Cable = []string{"1000"} }), linked: true}
		}, cableFor + time.Second, true},
		{"a cable with a loose contact", "1000", func(at time.Duration) input {
			in := input{World: world(proved), linked: true}
			if int(at.Seconds())%20 < 10 {
				in.Cable = []string{"1000"}
			}
			return in
		}, 0, true},
		{"both joined each other: the lower one leaves", "9000", func(time.Duration) input {
			return input{World: world(proved, func(w *World) { w.Guests = []string{"9000"} }), linked: true}
		}, time.Second, true},
		{"both joined each other: the higher one stays", "1000", func(time.Duration) input {
			return input{World: world(proved, func(w *World) { w.Guests = []string{"1000"} }), linked: true}
		}, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := joinedTo(t, c.node)
			left := time.Duration(0)
			for at := time.Second; at < 10*time.Minute && left == 0; at += time.Second {
				if out := x.step(began.Add(at), c.then(at)); out.leave {
					left = at
				}
			}
			if left != c.want {
				t.Errorf("left after %v, want %v", left, c.want)
			}
			if left == 0 {
				return
			}
			out := x.step(began.Add(left+time.Second), scanned(world(), heard(c.node, -50)))
			if (out.join != nil) != c.back {
				t.Errorf("joined again: %+v", out.join)
			}
		})
	}
}

// An access point that only claims to be a kit's is tried less and less.
func TestImpostorIsTriedLessAndLess(t *testing.T) {
	c := newChooser()
	fake, tries := heard("1000", -20), []time.Duration{}
	for at := time.Duration(0); at < 4*time.Hour; at += time.Second {
		in := input{World: world(), linked: c.target != nil}
		if c.target == nil {
			in.scanned, in.heard = true, []Heard{fake}
		}
		if c.step(began.Add(at), in).join != nil {
			tries = append(tries, at)
		}
	}
	if len(tries) < 6 || len(tries) > 14 {
		t.Errorf("%d tries in four hours: %v", len(tries), tries)
	}
}

// A stranger who takes another address and name for each beacon does not move the handsets' access point all the time. A
// radio that nobody else needs tries on: the right kit may be the next.
func TestManyImpostorsMoveTheAccessPointSeldom(t *testing.T) {
	for _, shared := range []bool{true, false} {
		c, tries := newChooser(), 0
		for at := time.Duration(0); at < 4*time.Hour; at += time.Second {
			in := input{World: world()}
			in.Shared = shared
			if c.target == nil {
				fake := heard(fmt.Sprintf("%04d", tries), -20)
				in.scanned, in.heard = true, []Heard{fake}
			}
			if c.step(began.Add(at), in).join != nil {
				tries++
			}
		}
		if shared && (tries < 8 || tries > 16) || !shared && tries < 100 {
			t.Errorf("shared %v: %d tries in four hours", shared, tries)
		}
	}
}

// The choosers of several kits that hear each other, with an overlay that follows the links at once: no two of them are
// joined to each other for long, and all are one ring in the end.
func TestKitsInTheAirBecomeOneRing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 7).Draw(t, "kits")
		id := func(i int) string { return fmt.Sprintf("%02d00", 10+i) }
		var ids []string
		for i := range n {
			ids = append(ids, id(i))
		}
		line := rapid.Bool().Draw(t, "a line")
		hears := func(i, j int) bool { return !line || i-j == 1 || j-i == 1 }
		radios := make([]bool, n) // who has one to spare
		for i := range radios {
			radios[i] = line || rapid.IntRange(0, 9).Draw(t, "radio") > 0
		}
		choosers := make([]*chooser, n)
		for i := range choosers {
			choosers[i] = newChooser()
		}
		scanning := make([]bool, n)
		ring := func(i int) (r []string) {
			in := map[int]bool{i: true}
			for grown := true; grown; {
				grown = false
				for a, c := range choosers {
					if c.target == nil {
						continue
					}
					b := slices.Index(ids, c.target.Node)
					if in[a] != in[b] {
						in[a], in[b], grown = true, true, true
					}
				}
			}
			for j := range n {
				if in[j] {
					r = append(r, id(j))
				}
			}
			return r
		}
		mutual := time.Duration(0)
		for at := time.Duration(0); at < 15*time.Minute; at += time.Second {
			for _, i := range rapid.Permutation([]int{0, 1, 2, 3, 4, 5, 6}[:n]).Draw(t, "order") {
				if !radios[i] {
					continue
				}
				in := input{World: World{Self: id(i), Ring: ring(i)}, linked: choosers[i].target != nil}
				for j := range n {
					if choosers[j].target != nil && choosers[j].target.Node == id(i) {
						in.Guests = append(in.Guests, id(j))
					}
				}
				if scanning[i] {
					in.scanned = true
					for j := range n {
						if j != i && hears(i, j) {
							in.heard = append(in.heard, heard(id(j), -50))
						}
					}
				}
				scanning[i] = choosers[i].step(began.Add(at), in).scan
			}
			for i, c := range choosers {
				if c.target != nil {
					for j := range i {
						if x := choosers[j].target; x != nil && x.Node == id(i) && c.target.Node == id(j) {
							mutual += time.Second
						}
					}
				}
			}
		}
		if mutual > 5*time.Second {
			t.Fatalf("two kits were joined to each other for %v", mutual)
		}
		without := 0
		for _, r := range radios {
			if !r {
				without++
			}
		}
		// A kit has one station: two without a radio may be where no other can help.
		if got := len(ring(0)); without <= 1 && got != n {
			t.Fatalf("%d of %d kits in the ring", got, n)
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	c := newChooser()
	for i := range 1000 {
		at := began.Add(time.Duration(i) * time.Second)
		node := fmt.Sprintf("%04d", i)
		c.step(at, scanned(world(), heard(node, -50)))
		c.step(at, input{World: world(), ended: true})
		if len(c.failed) > maxRemembered || len(c.sighted) > maxRemembered {
			t.Fatalf("remembers %d failures, %d kits", len(c.failed), len(c.sighted))
		}
	}
}
