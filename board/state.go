package board

import (
	"fmt"
	"time"
)

// LED is a place on the box. Each has words and a raised mark of its own, so
// that nobody needs to tell colours apart.
type LED int

// The LEDs. LinkBlue and LinkYellow are the two colours of one place. Single is
// the only LED of a board that has no others, and counts.
const (
	Power LED = iota
	Phones
	LinkBlue
	LinkYellow
	Red
	Single
	ledCount
)

var ledNames = [ledCount]string{"power", "phones", "link", "link-yellow", "red", "single"}

func (l LED) String() string {
	if l < 0 || l >= ledCount {
		return fmt.Sprintf("LED %d", int(l))
	}
	return ledNames[l]
}

// Supply is where the power comes from.
type Supply int

// The supplies.
const (
	External   Supply = iota // also where nothing can be measured
	Battery                  // more than 20 % left
	BatteryLow               // less
)

// Inputs is all that the LEDs tell of: the kit fills it from its health tree
// and its counters.
type Inputs struct {
	Ready       bool   // handsets can register
	Kits        int    // others linked
	LastLost    bool   // a kit was lost within LostWindow; see Lost
	Handsets    int    // registered
	Full        bool   // no further handset is taken
	Fault       bool   // the health tree is in fault
	Cause       string // of the fault, for people
	Faults      int    // problems listed, for counting
	Emergency   bool   // an emergency call waits
	Supply      Supply
	Pairing     Pairing
	StatusStale bool // set by the Board when nobody updates it
}

// LostWindow is how long the loss of a kit is shown.
const LostWindow = time.Minute

// Lost reports whether a kit that was lost ago is still to be shown; negative
// is never.
func Lost(ago time.Duration) bool { return ago >= 0 && ago < LostWindow }

// State is the kit's state in one word.
type State int

// The states, the most urgent last.
const (
	Starting State = iota
	Alone
	Linked
	KitLost
	Faulty
	EmergencyWaiting
)

var stateNames = [...]string{"starting", "alone", "linked", "kit lost", "fault", "emergency"}

func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("state %d", int(s))
	}
	return stateNames[s]
}

// MarshalText makes a State readable in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// State is the most urgent of what the inputs say.
func (in Inputs) State() State {
	switch {
	case in.Emergency:
		return EmergencyWaiting
	case in.Fault || in.StatusStale:
		return Faulty
	case !in.Ready:
		return Starting
	case in.LastLost:
		return KitLost
	case in.Kits > 0:
		return Linked
	}
	return Alone
}

// String tells the state in words: "3 kits linked, 2 phones".
func (in Inputs) String() string {
	plural := func(n int, what string) string {
		if n == 1 {
			return "1 " + what
		}
		return fmt.Sprintf("%d %ss", n, what)
	}
	phones := "no phone"
	if in.Handsets > 0 {
		phones = plural(in.Handsets, "phone")
	}
	if in.pairs() {
		return in.Pairing.String()
	}
	switch s := in.State(); s {
	case EmergencyWaiting:
		return "emergency call waiting"
	case Faulty:
		if in.StatusStale {
			return "fault: no status"
		}
		return "fault: " + in.Cause
	case Starting:
		return "starting"
	case KitLost:
		return "kit lost, " + plural(in.Kits, "kit") + " linked, " + phones
	case Linked:
		return plural(in.Kits, "kit") + " linked, " + phones
	default:
		return "alone, " + phones
	}
}

// Lights is what each LED does.
type Lights [ledCount]Pattern

// maxKitsShown is the most kits that LINK counts out while nobody asks.
const maxKitsShown = 5

// Lights derives the patterns. A call in progress is not shown: flashing is
// kept for what needs somebody.
func (in Inputs) Lights() Lights {
	var l Lights
	l[Power] = in.power()
	if in.StatusStale {
		// Whatever was true before may not be now; an LED that lies is worse
		// than none.
		l[Red], l[Single] = Steady, Flash
		return l
	}
	switch {
	case !in.Ready:
	case in.Full:
		l[Phones] = Flash
	case in.Handsets > 0:
		l[Phones] = Steady
	default:
		l[Phones] = Blinks(1)
	}
	if in.LastLost {
		l[LinkYellow] = Flash
	} else {
		l[LinkBlue] = Blinks(min(in.Kits, maxKitsShown))
	}
	switch {
	case in.Emergency:
		l[Red] = Flash
	case in.Fault:
		l[Red] = Steady
	}
	l[Single] = in.single()
	return l
}

func (in Inputs) power() Pattern {
	switch in.Supply {
	case Battery:
		return Blinks(1)
	case BatteryLow:
		return Flash
	}
	return Steady
}

// single is what a board with one LED shows: 1 Hz while starting, one blink
// when it serves, one more for each linked kit, and no pause between the blinks
// when somebody must look. It never keeps still, as an LED does that nobody
// moves any more: it is the sign of life of a board without wiring.
func (in Inputs) single() Pattern {
	switch {
	case in.Emergency || in.Fault:
		return Flash
	case !in.Ready:
		return Slow
	}
	return Blinks(1 + min(max(in.Kits, 0), maxKitsShown))
}

// Page is what a short press of the button counts out.
type Page int

// The pages, in the order of presses. After the last comes None again.
const (
	None Page = iota
	PageKits
	PagePhones
	PageFaults
	pageCount
)

var pageNames = [pageCount]string{"", "kits", "phones", "faults"}

func (p Page) String() string {
	if p < 0 || p >= pageCount {
		return fmt.Sprintf("page %d", int(p))
	}
	return pageNames[p]
}

// MarshalText makes a Page readable in JSON.
func (p Page) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// PageLights is what the LEDs do while a page is counted out: all dark but the
// one whose number it is.
func (in Inputs) PageLights(p Page) Lights {
	var l Lights
	var led LED
	var n int
	switch p {
	case PageKits:
		led, n = LinkBlue, in.Kits
	case PagePhones:
		led, n = Phones, in.Handsets
	case PageFaults:
		led, n = Red, in.Faults
	default:
		return in.Lights()
	}
	l[led], l[Single] = Blinks(n), Blinks(n)
	return l
}
