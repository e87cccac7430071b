package board

import (
	"testing"
	"time"
)

// Next against stepping through every millisecond.
func TestNextIsTheNextChangeOfLevel(t *testing.T) {
	for _, p := range []Pattern{Off, Steady, Flash, Blinks(1), Blinks(2), Blinks(5), Blinks(MaxBlinks)} {
		var changes []time.Duration
		for at := time.Millisecond; at <= 2*period+time.Second; at += time.Millisecond {
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
