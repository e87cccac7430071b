package board

import "fmt"

// PairStage is where a pairing of two kits stands.
type PairStage int

// The stages of a pairing.
const (
	NotPairing    PairStage = iota
	PairSearching           // for the other kit whose button was pressed
	PairComparing           // both show the code
	PairJoining             // the code stands; one enrols at the other
	PairDone
	PairFailed
	pairStages = iota
)

var pairNames = [pairStages]string{"", "looking for the other kit", "compare the code", "joining", "paired", "not paired"}

// String is the stage in words.
func (s PairStage) String() string {
	if s < 0 || int(s) >= len(pairNames) {
		return fmt.Sprintf("pairing stage %d", int(s))
	}
	return pairNames[s]
}

// Pairing is what the lights tell of one.
type Pairing struct {
	Stage PairStage
	Code  Code // while comparing and joining
	Why   int  // of PairFailed, 1 to MaxSignal: counted out after a long flash
}

// String is the pairing in words: "pairing: compare the code 3-1-4-2".
func (p Pairing) String() string {
	if p.Stage == PairComparing {
		return "pairing: " + p.Stage.String() + " " + p.Code.String()
	}
	return "pairing: " + p.Stage.String()
}

// pairs reports whether a pairing is what is to be shown: not while somebody calls for help, nor when it is not known any
// more how the kit is.
func (in Inputs) pairs() bool {
	return in.Pairing.Stage != NotPairing && !in.Emergency && !in.StatusStale
}

// pairingLights are what a pairing shows in the place of the kit's state, but for the power; ok is false while there is none.
func (in Inputs) pairingLights() (l Lights, ok bool) {
	if !in.pairs() {
		return Lights{}, false
	}
	l[Power] = in.power()
	switch p := in.Pairing; p.Stage {
	case PairSearching:
		l[LinkBlue], l[Single] = Slow, Slow
	case PairComparing:
		l[LinkBlue], l[Single] = p.Code.Pattern(), p.Code.Pattern()
	case PairJoining:
		l[LinkBlue], l[Single] = Quick, Quick
	case PairDone:
		l[LinkBlue], l[Single] = Steady, Steady
	case PairFailed:
		l[Red], l[Single] = Signal(p.Why), Signal(p.Why)
	default:
		return Lights{}, false
	}
	return l, true
}
