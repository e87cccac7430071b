package board

import (
	"slices"
	"testing"
	"time"
)

// hand moves a simulated contact through times in milliseconds, pressed first, and tells what the machine makes of it.
// The machine is asked when the contact moves and at the times that it wants, never in between.
func hand(t *testing.T, pressedAtStart bool, moves ...int) (presses []Press, stages []Held) {
	t.Helper()
	start := time.Unix(1000, 0)
	var p press
	var held Held
	now, level := start, pressedAtStart
	end := start.Add(time.Minute + time.Duration(moves[len(moves)-1])*time.Millisecond)
	for steps := 0; ; steps++ {
		if steps > 1000 {
			t.Fatal("the machine asks without end")
		}
		what, h, again := p.step(now, level)
		if what != 0 {
			presses = append(presses, what)
		}
		if h != held {
			held = h
			stages = append(stages, h)
		}
		next := end
		if len(moves) > 0 {
			next = start.Add(time.Duration(moves[0]) * time.Millisecond)
		}
		switch {
		case !again.IsZero() && again.Before(next):
			if !again.After(now) {
				t.Fatalf("asks at %v for %v", now, again)
			}
			now = again
		case len(moves) == 0:
			return presses, stages
		default:
			now, level, moves = next, !level, moves[1:]
		}
	}
}

func TestPresses(t *testing.T) {
	for _, c := range []struct {
		name    string
		down    bool // at the start
		moves   []int
		presses []Press
		stages  []Held
	}{
		{"short", false, []int{100, 300}, []Press{Short}, nil},
		{"shortest that is no disturbance", false, []int{100, 131}, []Press{Short}, nil},
		{"disturbance", false, []int{100, 120, 200, 229}, nil, nil},
		{"two disturbances are no press", false, []int{100, 120, 125, 150}, nil, nil},
		{"disturbance while held", false, []int{100, 3000, 3010, 5200}, []Press{Pair}, []Held{HeldPair, NotHeld}},
		{"bounces", false, []int{100, 101, 103, 108, 110, 400, 401, 403}, []Press{Short}, nil},
		{"not long enough to pair", false, []int{100, 5099}, []Press{Short}, nil},
		{"pair", false, []int{100, 5100}, []Press{Pair}, []Held{HeldPair, NotHeld}},
		{"pair, late", false, []int{100, 10099}, []Press{Pair}, []Held{HeldPair, NotHeld}},
		{"warned", false, []int{100, 10100}, nil, []Held{HeldPair, HeldWarn, NotHeld}},
		{"warned, late", false, []int{100, 15099}, nil, []Held{HeldPair, HeldWarn, NotHeld}},
		{"erase", false, []int{100, 15100}, []Press{Erase}, []Held{HeldPair, HeldWarn, HeldErase, NotHeld}},
		{"erase, late", false, []int{100, 30099}, []Press{Erase}, []Held{HeldPair, HeldWarn, HeldErase, NotHeld}},
		{"jammed", false, []int{100, 30100}, nil, []Held{HeldPair, HeldWarn, HeldErase, NotHeld}},
		{"down when switched on", true, []int{20000}, nil, nil},
		{"down when switched on, then pressed", true, []int{20000, 21000, 21500}, []Press{Short}, nil},
		{"down when switched on, bouncing", true, []int{8000, 8010, 23500}, nil, nil},
		{"twice", false, []int{100, 300, 600, 900}, []Press{Short, Short}, nil},
	} {
		presses, stages := hand(t, c.down, c.moves...)
		if !slices.Equal(presses, c.presses) || !slices.Equal(stages, c.stages) {
			t.Errorf("%s: %v, %v, want %v, %v", c.name, presses, stages, c.presses, c.stages)
		}
	}
}
