package board

import (
	"fmt"
	"testing"
	"time"
)

func TestLightsOfEachState(t *testing.T) {
	ready := func(change func(*Inputs)) Inputs {
		in := Inputs{Ready: true}
		change(&in)
		return in
	}
	for _, tc := range []struct {
		in   Inputs
		text string
		// power, phones, link blue, link yellow, red, single
		want Lights
	}{
		{Inputs{}, "starting", Lights{Steady, Off, Off, Off, Off, Slow}},
		{Inputs{Ready: true}, "alone, no phone", Lights{Steady, 1, Off, Off, Off, 1}},
		{
			ready(func(in *Inputs) { in.Kits = 1 }), "1 kit linked, no phone",
			Lights{Steady, 1, 1, Off, Off, 2},
		},
		{
			ready(func(in *Inputs) { in.Kits, in.Handsets = 3, 2 }), "3 kits linked, 2 phones",
			Lights{Steady, Steady, 3, Off, Off, 4},
		},
		{
			ready(func(in *Inputs) { in.Kits, in.Handsets = 15, 1 }), "15 kits linked, 1 phone",
			Lights{Steady, Steady, 5, Off, Off, 6},
		},
		{
			ready(func(in *Inputs) { in.Handsets, in.Full = 20, true }), "alone, 20 phones",
			Lights{Steady, Flash, Off, Off, Off, 1},
		},
		{
			ready(func(in *Inputs) { in.Kits, in.LastLost = 2, true }), "kit lost, 2 kits linked, no phone",
			Lights{Steady, 1, Off, Flash, Off, 3},
		},
		{
			ready(func(in *Inputs) { in.Fault, in.Cause, in.Kits = true, "port 5060 taken", 1 }), "fault: port 5060 taken",
			Lights{Steady, 1, 1, Off, Steady, Flash},
		},
		{
			ready(func(in *Inputs) { in.Emergency, in.Fault = true, true }), "emergency call waiting",
			Lights{Steady, 1, Off, Off, Flash, Flash},
		},
		{ready(func(in *Inputs) { in.Supply = Battery }), "alone, no phone", Lights{1, 1, Off, Off, Off, 1}},
		{ready(func(in *Inputs) { in.Supply = BatteryLow }), "alone, no phone", Lights{Flash, 1, Off, Off, Off, 1}},
		{
			ready(func(in *Inputs) { in.StatusStale, in.Kits, in.Handsets = true, 3, 2 }), "fault: no status",
			Lights{Steady, Off, Off, Off, Steady, Flash},
		},
	} {
		if got := tc.in.Lights(); got != tc.want {
			t.Errorf("%s: lights %v, want %v", tc.text, got, tc.want)
		}
		if got := tc.in.String(); got != tc.text {
			t.Errorf("text %q, want %q", got, tc.text)
		}
	}
}

func TestMostUrgentStateWins(t *testing.T) {
	in := Inputs{}
	for _, step := range []struct {
		change func()
		want   State
	}{
		{func() {}, Starting},
		{func() { in.Ready = true }, Alone},
		{func() { in.Kits = 1 }, Linked},
		{func() { in.LastLost = true }, KitLost},
		{func() { in.Fault = true }, Faulty},
		{func() { in.Emergency = true }, EmergencyWaiting},
	} {
		step.change()
		if got := in.State(); got != step.want {
			t.Errorf("%+v is %v, want %v", in, got, step.want)
		}
	}
}

func TestPagesCountOnTheirLED(t *testing.T) {
	in := Inputs{Ready: true, Kits: 7, Handsets: 3, Faults: 2, Fault: true}
	for p, want := range map[Page]Lights{
		None:       in.Lights(),
		PageKits:   {Off, Off, 7, Off, Off, 7},
		PagePhones: {Off, 3, Off, Off, Off, 3},
		PageFaults: {Off, Off, Off, Off, 2, 2},
	} {
		if got := in.PageLights(p); got != want {
			t.Errorf("page %v: %v, want %v", p, got, want)
		}
	}
}

func TestLostWindow(t *testing.T) {
	for d, want := range map[time.Duration]bool{-1: false, 0: true, LostWindow - 1: true, LostWindow: false} {
		if Lost(d) != want {
			t.Errorf("lost %v ago is shown: %v", d, !want)
		}
	}
}

func TestNamesOutOfRange(t *testing.T) {
	for _, s := range []fmt.Stringer{LED(-1), State(99), Page(99), Press(0)} {
		if s.String() == "" {
			t.Errorf("%T without a name", s)
		}
	}
}

func TestLightsOfAPairing(t *testing.T) {
	code := CodeOf(99)
	for _, c := range []struct {
		p      Pairing
		text   string
		blue   Pattern
		red    Pattern
		single Pattern
	}{
		{Pairing{Stage: PairSearching}, "pairing: looking for the other kit", Slow, Off, Slow},
		{Pairing{Stage: PairComparing, Code: code}, "pairing: compare the code " + code.String(), code.Pattern(), Off, code.Pattern()},
		{Pairing{Stage: PairJoining}, "pairing: joining", Quick, Off, Quick},
		{Pairing{Stage: PairDone}, "pairing: paired", Steady, Off, Steady},
		{Pairing{Stage: PairFailed, Why: 2}, "pairing: not paired", Off, Signal(2), Signal(2)},
	} {
		// Whatever else there is to tell waits, but for a call for help and for a kit that tells nothing any more.
		in := Inputs{Ready: true, Handsets: 1, Kits: 2, Fault: true, Cause: "x", Supply: BatteryLow, Pairing: c.p}
		l, ok := in.pairingLights()
		if want := (Lights{Power: Flash, LinkBlue: c.blue, Red: c.red, Single: c.single}); !ok || l != want || in.String() != c.text {
			t.Errorf("%+v: %v, %q", c.p, l, in.String())
		}
		for _, urgent := range []func(*Inputs){func(in *Inputs) { in.Emergency = true }, func(in *Inputs) { in.StatusStale = true }} {
			in := in
			urgent(&in)
			if _, ok := in.pairingLights(); ok || in.String() == c.text {
				t.Errorf("%+v hides %q", c.p, in.String())
			}
		}
	}
	if _, ok := (Inputs{Ready: true}).pairingLights(); ok {
		t.Error("a pairing that is none is shown")
	}
}
