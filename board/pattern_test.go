package board

import (
	"testing"
	"time"
)

// Next against stepping through every millisecond.
func TestNextIsTheNextChangeOfLevel(t *testing.T) {
	for _, p := range []Pattern{Off, Steady, Slow, Flash, Quick, Blinks(1), Blinks(2), Blinks(5), Blinks(MaxBlinks), Signal(2), CodeOf(77).Pattern()} {
		var changes []time.Duration
		for at := time.Millisecond; at <= 8*period; at += time.Millisecond {
			if p.Level(at) != p.Level(at-time.Millisecond) {
				changes = append(changes, at)
			}
		}
		next, ok := p.Next(0)
		for _, want := range changes {
			// Next may stop at moments at which nothing changes after all.
			for ok && next < want {
				if p.Level(next) != p.Level(next-time.Millisecond) {
					t.Fatalf("%v: change at %v where stepping sees none", p, next)
				}
				next, ok = p.Next(next)
			}
			if !ok || next != want {
				t.Fatalf("%v: next change at %v, want %v", p, next, want)
			}
			next, ok = p.Next(next)
		}
		if len(changes) == 0 && ok {
			t.Errorf("%v changes at %v", p, next)
		}
	}
}

func TestBlinksCanBeCounted(t *testing.T) {
	for n := range MaxBlinks + 3 {
		p, on, lit := Blinks(n), 0, time.Duration(0)
		for at := time.Duration(0); at < period; at += time.Millisecond {
			if p.Level(at) {
				lit += time.Millisecond
				if at == 0 || !p.Level(at-time.Millisecond) {
					on++
				}
			}
		}
		want := min(n, MaxBlinks)
		if on != want || lit != time.Duration(want)*blinkOn {
			t.Errorf("Blinks(%d): %d blinks, %v lit", n, on, lit)
		}
		// A pause tells where the count begins.
		if n > 0 && p.Level(period-time.Millisecond) {
			t.Errorf("Blinks(%d) runs into the next period", n)
		}
	}
	if Blinks(-3) != Off {
		t.Error("negative count is not off")
	}
}

func TestFlashIs2Hz(t *testing.T) {
	on := 0
	for at := time.Millisecond; at <= 10*time.Second; at += time.Millisecond {
		if Flash.Level(at) && !Flash.Level(at-time.Millisecond) {
			on++
		}
	}
	if on != 20 {
		t.Errorf("%d flashes in 10 s", on)
	}
}

func TestCodesAreTold(t *testing.T) {
	seen := map[Pattern]uint32{}
	for n := range uint32(Codes) {
		c := CodeOf(n)
		p := c.Pattern()
		if old, twice := seen[p]; twice {
			t.Fatalf("codes %d and %d look alike", old, n)
		}
		seen[p] = n
		if CodeOf(n+Codes) != c {
			t.Fatalf("code %d is not that of %d", n+Codes, n)
		}
	}
	// Read off the light as a person does: blinks, and pauses that are longer than those between blinks.
	for _, c := range []Code{{1, 1, 1, 1}, {5, 5, 5, 5}, {3, 1, 4, 2}} {
		var got []int
		last, lit := time.Duration(0), false
		for at := time.Duration(0); ; at += 10 * time.Millisecond {
			on := c.Pattern().Level(at)
			if on && !lit {
				if len(got) == 0 || at-last > time.Second {
					if len(got) == len(c) {
						if at-last < 3*time.Second {
							t.Errorf("%v begins again after %v", c, at-last)
						}
						break
					}
					got = append(got, 0)
				}
				got[len(got)-1]++
			}
			if on {
				last = at
			}
			lit = on
		}
		for i := range c {
			if got[i] != int(c[i]) {
				t.Errorf("%v reads %v", c, got)
			}
		}
	}
	if (Code{0, 1, 1, 1}).Pattern() != Off || (Code{1, 1, 6, 1}).Pattern() != Off {
		t.Error("a code that is none is shown")
	}
	if got := CodeOf(0).Pattern().String(); got != "code 1-1-1-1" {
		t.Errorf("code 0 is %q", got)
	}
}

func TestSignalBeginsLong(t *testing.T) {
	for n := -1; n <= MaxSignal+2; n++ {
		var lengths []time.Duration
		for at := time.Duration(0); at < signalPeriod; at += 10 * time.Millisecond {
			if on := Signal(n).Level(at); !on {
				continue
			} else if at == 0 || !Signal(n).Level(at-10*time.Millisecond) {
				lengths = append(lengths, 0)
			}
			lengths[len(lengths)-1] += 10 * time.Millisecond
		}
		if want := min(max(n, 1), MaxSignal); len(lengths) != want+1 || lengths[0] != time.Second || lengths[1] != blinkOn {
			t.Errorf("Signal(%d): %v", n, lengths)
		}
		if Signal(n).Level(signalPeriod - time.Second) {
			t.Errorf("Signal(%d) has no pause", n)
		}
	}
}
