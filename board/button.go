package board

import (
	"fmt"
	"time"
)

// Times of the button. Who holds it is told by the lights when the next one is reached, and decides by letting go.
const (
	debounce  = 30 * time.Millisecond // contacts bounce for a few; a pulse that is shorter is a disturbance on the wire
	pairHold  = 5 * time.Second
	warnHold  = 10 * time.Second
	eraseHold = 15 * time.Second
	stuckHold = 30 * time.Second // nobody holds a button that long: it is jammed, or something lies on it
)

// Press is what somebody asked for with the button.
type Press int

// The presses. Each counts when the button is let go.
const (
	Short Press = iota + 1 // up to 5 s
	Pair                   // 5 s to 10 s
	Erase                  // 15 s to 30 s
)

func (p Press) String() string {
	switch p {
	case Short:
		return "short"
	case Pair:
		return "pair"
	case Erase:
		return "erase"
	}
	return fmt.Sprintf("press %d", int(p))
}

// Held is how far a button that is down has come: what letting it go now would do.
type Held int

// The stages of a button that is held.
const (
	NotHeld    Held = iota // up, or not long enough to tell of, or stuck
	HeldPair               // letting go pairs
	HeldWarn               // letting go does nothing; holding on erases
	HeldErase              // letting go erases
	heldStages = iota
)

var heldNames = [heldStages]string{"", "let go: pair with another kit", "let go now, or everything is erased", "let go: erase everything"}

func (h Held) String() string {
	if h < 0 || int(h) >= len(heldNames) {
		return fmt.Sprintf("held %d", int(h))
	}
	return heldNames[h]
}

// lights are what a button that is held shows in the place of everything else; ok is false for what it has no say in.
func (h Held) lights() (l Lights, ok bool) {
	switch h {
	case HeldPair:
		l[LinkBlue], l[LinkYellow], l[Single] = Steady, Steady, Steady
	case HeldWarn:
		l[Red], l[Single] = Quick, Quick
	case HeldErase:
		l[Red], l[Single] = Steady, Steady
	default:
		return l, false
	}
	return l, true
}

// press is the button as a machine: it is told the level of the line, whenever that may have changed and at the time
// that it asked for, and says what that means. A button that is down when the first level is told, as one that is jammed
// while the kit is switched on, counts from the next time it goes down.
type press struct {
	known bool      // a level was told
	raw   bool      // the last one that was told
	rawAt time.Time // since when
	down  bool      // the level that counts, after it was the same for the time of a debounce
	at    time.Time // since when
	deaf  bool      // until it is up
}

// step takes the level at now. what is 0 but when the button was let go after a press that means something; again is when
// step has to be called at the latest.
func (b *press) step(now time.Time, down bool) (what Press, held Held, again time.Time) {
	switch {
	case !b.known:
		*b = press{known: true, raw: down, rawAt: now, down: down, at: now, deaf: down}
	case down != b.raw:
		b.raw, b.rawAt = down, now
	}
	if b.raw != b.down && now.Sub(b.rawAt) >= debounce {
		if b.down = b.raw; b.down {
			b.at = b.rawAt
		} else {
			if !b.deaf {
				what = pressOf(b.rawAt.Sub(b.at))
			}
			b.deaf = false
		}
	}
	until := now
	if b.raw != b.down {
		again = b.rawAt.Add(debounce)
		until = b.rawAt // it goes no further while it may have been let go
	}
	if !b.down || b.deaf {
		return what, NotHeld, again
	}
	held, next := stageOf(until.Sub(b.at))
	if next > 0 && again.IsZero() {
		again = b.at.Add(next)
	}
	return what, held, again
}

// stageOf is how far a button came that has been down for d, and when it goes on; 0 is never.
func stageOf(d time.Duration) (held Held, next time.Duration) {
	switch {
	case d < pairHold:
		return NotHeld, pairHold
	case d < warnHold:
		return HeldPair, warnHold
	case d < eraseHold:
		return HeldWarn, eraseHold
	case d < stuckHold:
		return HeldErase, stuckHold
	}
	return NotHeld, 0
}

// pressOf is what letting go after d means; 0 is nothing.
func pressOf(d time.Duration) Press {
	switch held, _ := stageOf(d); {
	case held == HeldPair:
		return Pair
	case held == HeldErase:
		return Erase
	case d < pairHold:
		return Short
	}
	return 0
}
