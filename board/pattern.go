package board

import (
	"fmt"
	"time"
)

// Times of the patterns. A blink of 150 ms is seen in daylight, one of 40 ms is
// not; 2 Hz lies in the range that IEC 60073 keeps for "needs attention now".
const (
	blinkOn    = 150 * time.Millisecond
	blinkGap   = 350 * time.Millisecond
	period     = 5 * time.Second
	flashOn    = 250 * time.Millisecond
	flashCycle = 500 * time.Millisecond
)

// MaxBlinks is the most that is counted out: the next count could not be told
// from it within a period.
const MaxBlinks = 9

// Pattern is what one LED does over time: Off, Steady, Flash or Blinks(n).
type Pattern int

// The patterns without a count.
const (
	Off    Pattern = 0
	Steady Pattern = -1
	Flash  Pattern = -2 // 2 Hz
)

// Blinks is n short blinks every 5 s; more than MaxBlinks are shown as that
// many, less than one as Off.
func Blinks(n int) Pattern { return Pattern(min(max(n, 0), MaxBlinks)) }

// Level tells whether the LED is lit at time t after some common start.
func (p Pattern) Level(t time.Duration) bool {
	switch p {
	case Off:
		return false
	case Steady:
		return true
	case Flash:
		return t%flashCycle < flashOn
	}
	t %= period
	return t < time.Duration(p)*(blinkOn+blinkGap) && t%(blinkOn+blinkGap) < blinkOn
}

// Next returns the time after t at which Level changes, and false if it never
// does.
func (p Pattern) Next(t time.Duration) (time.Duration, bool) {
	switch p {
	case Off, Steady:
		return 0, false
	case Flash:
		return t - t%flashOn + flashOn, true // on and off last equally long
	}
	start := t - t%period
	for i := range int(p) {
		on := start + time.Duration(i)*(blinkOn+blinkGap)
		for _, edge := range [...]time.Duration{on, on + blinkOn} {
			if edge > t {
				return edge, true
			}
		}
	}
	return start + period, true
}

func (p Pattern) String() string {
	switch p {
	case Off:
		return "off"
	case Steady:
		return "steady"
	case Flash:
		return "2 Hz"
	case 1:
		return "1 blink"
	}
	return fmt.Sprintf("%d blinks", int(p))
}

// MarshalText makes a Pattern readable in JSON.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.String()), nil }
