package discovery

import (
	"testing"
	"time"
)

func standard() Config {
	return Config{Short: DefaultShort, LongMin: DefaultLongMin, LongMax: DefaultLongMax, FastWindow: DefaultFastWindow}
}

// queries counts the cycles that one kit begins within d.
func queries(p *pace, peers int, d time.Duration) (n int) {
	for at := time.Duration(0); at < d; n++ {
		at += p.next(peers, false, 0.5)
	}
	return n
}

func TestPaceSlowsDown(t *testing.T) {
	p := &pace{cfg: standard()}
	var got []time.Duration
	for range 6 {
		got = append(got, p.next(1, false, 0.5))
	}
	want := []time.Duration{2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 45 * time.Second}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("cycles of %v, want %v", got, want)
		}
	}
	p.kicked()
	if d := p.next(100, false, 0); d != DefaultShort {
		t.Errorf("after a change the first cycle lasts %v with a hundred kits about", d)
	}
}

func TestPaceSpreadsWhoStartedTogether(t *testing.T) {
	early, late := &pace{cfg: standard()}, &pace{cfg: standard()}
	early.next(3, false, 0)
	late.next(3, false, 1)
	if a, b := early.next(3, false, 0), late.next(3, false, 1); a != 2500*time.Millisecond || b != 7500*time.Millisecond {
		t.Errorf("the second cycles last from %v to %v", a, b)
	}
}

// However many kits there are, the link carries about as many queries, and so each kit's answers grow with the
// number of kits and not with its square.
func TestPaceKeepsTheLinkQuiet(t *testing.T) {
	const window = 10 * time.Minute
	alone := 2 * queries(&pace{cfg: standard()}, 1, window)
	for _, kits := range []int{3, 8, 16} {
		all := kits * queries(&pace{cfg: standard()}, kits-1, window)
		t.Logf("%d kits: %d queries in %v; two kits: %d", kits, all, window, alone)
		if all > 8*alone {
			t.Errorf("%d kits send %d queries where two send %d", kits, all, alone)
		}
	}
}

func TestPaceAsksAgainWhenAKitFallsSilent(t *testing.T) {
	p := &pace{cfg: standard()}
	for p.fast < p.cfg.FastWindow {
		p.next(2, false, 0)
	}
	if d := p.next(1e6, false, 1); d != maxCrowd*DefaultLongMax {
		t.Errorf("invented kits stretch a cycle to %v", d)
	}
	if calm, suspect := p.next(2, false, 0), p.next(2, true, 0); calm != DefaultLongMin || suspect != DefaultShort {
		t.Errorf("cycles of %v, and of %v when somebody did not answer", calm, suspect)
	}
}
