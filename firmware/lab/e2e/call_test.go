//go:build linux

package e2e

import (
	"testing"
	"time"

	"fieldkit/firmware/lab"
	"fieldkit/ui"
)

const (
	toneA = 440.0
	toneB = 1000.0
)

// heard is one direction of a call: what the phone recorded, and what its kit received from the other kit.
type heard struct {
	tone
	between ui.Stream
}

// lost is the share of the packets between the kits that did not arrive.
func (h heard) lost() float64 {
	return float64(h.between.Lost) / float64(h.between.Packets+h.between.Lost)
}

// baresipCall has a on kit 1 call b on kit 2 for a while, and returns what each heard of the other.
func baresipCall(t *testing.T, l *lab.Lab, transport string, talk time.Duration) (atA, atB heard) {
	t.Helper()
	accounts := l.Mission().Handsets
	a := startBaresip(t, l, 0, accounts[0], toneA, transport, false)
	b := startBaresip(t, l, 1, accounts[1], toneB, transport, true)
	registered(t, l.Kits[0], accounts[0].Number)
	registered(t, l.Kits[1], accounts[1].Number)

	a.do("dial", accounts[1].Number)
	a.await(15*time.Second, "CALL_ESTABLISHED")
	b.await(5*time.Second, "CALL_ESTABLISHED")
	for i, k := range l.Kits[:2] {
		if c := status(t, k).Calls; len(c) != 1 || c[0].State != "answered" {
			t.Errorf("kit %d shows these calls: %+v", i+1, c)
		}
	}
	pause(t, talk)
	// Each kit counts what it received from the other: of b at a's kit, of a at b's.
	atA.between = stream(t, l.Kits[0], accounts[1].Number)
	atB.between = stream(t, l.Kits[1], accounts[0].Number)
	b.do("hangup", "") // the side that was called hangs up
	a.await(5*time.Second, "CALL_CLOSED")
	b.await(5*time.Second, "CALL_CLOSED")
	eventually(t, 5*time.Second, func() error { return noCalls(l) })

	for _, at := range []struct {
		who         *baresip
		want, other float64
		result      *heard
	}{{a, toneB, toneA, &atA}, {b, toneA, toneB, &atB}} {
		s, err := at.who.heard()
		must(t, err)
		at.result.tone, err = listen(s, at.want, at.other)
		must(t, err)
		t.Logf("%s heard %+v", at.who.account.Number, *at.result)
	}
	return atA, atB
}

// stream is what a kit relays of what the phone with that number says in the only call.
func stream(t *testing.T, k *lab.Kit, from string) ui.Stream {
	t.Helper()
	calls := status(t, k).Calls
	for _, c := range calls {
		for _, s := range c.Media {
			if s.From == from {
				return s
			}
		}
	}
	t.Fatalf("kit %d relays nothing of %s: %+v", k.Number, from, calls)
	return ui.Stream{}
}

func TestTwoPhonesOnDifferentKitsHearEachOther(t *testing.T) {
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			l := running(t, lab.Options{Kits: 3}, "anna", "boris")
			atA, atB := baresipCall(t, l, transport, 6*time.Second)
			for _, at := range []heard{atA, atB} {
				if at.between.Lost != 0 || at.between.Packets < 150 {
					t.Errorf("between the kits %d packets arrived and %d did not, in 6 s without loss", at.between.Packets, at.between.Lost)
				}
				// A machine that is busy plays slower than it should, but nothing is missing.
				if at.Seconds < 3 || at.Present < 0.97 || at.Foreign > 0.01 {
					t.Errorf("heard %+v of 6 s", at)
				}
				if at.Strength < 0.45 || at.Strength > 0.55 {
					t.Errorf("a tone of amplitude 0.5 arrived with %.2f", at.Strength)
				}
			}
		})
	}
}

func TestTwoPhonesHearEachOtherThroughLoss(t *testing.T) {
	l := running(t, lab.Options{Kits: 2, Loss: 5, Delay: 5 * time.Millisecond}, "anna", "boris")
	atA, atB := baresipCall(t, l, "udp", 10*time.Second)
	for _, at := range []heard{atA, atB} {
		// A phone conceals what is lost: the kits tell whether anything was.
		if at.between.Packets < 250 || at.lost() < 0.02 || at.lost() > 0.09 {
			t.Errorf("between the kits %d packets arrived and %d did not, in 10 s at 5 %% loss", at.between.Packets, at.between.Lost)
		}
		// One packet in twenty is lost on the way; its 20 ms are silent or smeared, and so may be part of the next.
		if at.Seconds < 5 || at.Present < 0.80 || at.Foreign > 0.01 {
			t.Errorf("heard %+v of 10 s", at)
		}
	}
}
