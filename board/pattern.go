package board

import (
	"fmt"
	"slices"
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
	slowOn     = 500 * time.Millisecond
	quickOn    = 100 * time.Millisecond
)

// MaxBlinks is the most that is counted out: the next count could not be told
// from it within a period.
const MaxBlinks = 9

// Pattern is what one LED does over time: Off, Steady, Slow, Flash, Quick, Blinks(n), Signal(n) or a Code.
type Pattern int

// The patterns without a count.
const (
	Off    Pattern = 0
	Steady Pattern = -1
	Flash  Pattern = -2 // 2 Hz
	Slow   Pattern = -3 // 1 Hz
	Quick  Pattern = -4 // 5 Hz
)

// Blinks is n short blinks every 5 s; more than MaxBlinks are shown as that
// many, less than one as Off.
func Blinks(n int) Pattern { return Pattern(min(max(n, 0), MaxBlinks)) }

// Signal is a long flash and then n short blinks, every 6 s: the outcome of something that a person did, told apart from
// a count by how it begins. n is 1 to MaxSignal; others are shown as the nearest.
func Signal(n int) Pattern { return signalBase + Pattern(min(max(n, 1), MaxSignal)) }

// MaxSignal is the most blinks of a Signal.
const MaxSignal = 6

const (
	signalBase   Pattern = 100
	signalFlash          = time.Second
	signalGap            = 600 * time.Millisecond
	signalPeriod         = 6 * time.Second
)

// Code is four digits from 1 to 5, one after the other as that many blinks with pauses between them and a long one at the
// end. Two LEDs that show the same Code from the same moment on do so blink by blink.
type Code [4]uint8

// MaxDigit is the highest digit of a Code.
const MaxDigit = 5

// Codes is how many different ones there are.
const Codes = MaxDigit * MaxDigit * MaxDigit * MaxDigit

const (
	codeBase  Pattern = 10000
	codeGap           = time.Second        // after each digit, besides the one of its last blink
	codePause         = 3 * time.Second    // after the last one
	blinkTime         = blinkOn + blinkGap // of one blink with what follows it
)

// CodeOf is one of the Codes, the same for the same n, which is taken modulo Codes.
func CodeOf(n uint32) (c Code) {
	for i := range c {
		c[i] = uint8(n%MaxDigit) + 1
		n /= MaxDigit
	}
	return c
}

// valid tells that c can be shown.
func (c Code) valid() bool {
	for _, d := range c {
		if d < 1 || d > MaxDigit {
			return false
		}
	}
	return true
}

// String is the code as people say it: "3-1-4-2".
func (c Code) String() string { return fmt.Sprintf("%d-%d-%d-%d", c[0], c[1], c[2], c[3]) }

// Pattern blinks the code; one that has digits out of their range is Off.
func (c Code) Pattern() Pattern {
	if !c.valid() {
		return Off
	}
	p := Pattern(0)
	for _, d := range c {
		p = 10*p + Pattern(d)
	}
	return codeBase + p
}

// code is what Code.Pattern was made of.
func (p Pattern) code() (c Code) {
	n := p - codeBase
	for i := len(c) - 1; i >= 0; i-- {
		c[i] = uint8(n % 10)
		n /= 10
	}
	return c
}

// pulse is a time during which an LED is lit.
type pulse struct{ on, off time.Duration }

// pulses are those of one period of a pattern that has one, in order, and how long the period is.
func (p Pattern) pulses() (list []pulse, cycle time.Duration) {
	blinks := func(at time.Duration, n int) time.Duration {
		for range n {
			list = append(list, pulse{at, at + blinkOn})
			at += blinkTime
		}
		return at
	}
	switch {
	case p == Flash:
		return []pulse{{0, flashOn}}, flashCycle
	case p == Slow:
		return []pulse{{0, slowOn}}, 2 * slowOn
	case p == Quick:
		return []pulse{{0, quickOn}}, 2 * quickOn
	case p >= codeBase:
		at := time.Duration(0)
		for _, d := range p.code() {
			at = blinks(at, int(d)) + codeGap
		}
		return list, at + codePause
	case p > signalBase:
		list = append(list, pulse{0, signalFlash})
		blinks(signalFlash+signalGap, int(p-signalBase))
		return list, signalPeriod
	}
	blinks(0, int(p))
	return list, period
}

// Level tells whether the LED is lit at time t after some common start.
func (p Pattern) Level(t time.Duration) bool {
	switch p {
	case Off:
		return false
	case Steady:
		return true
	}
	list, cycle := p.pulses()
	t %= cycle
	return slices.ContainsFunc(list, func(x pulse) bool { return t >= x.on && t < x.off })
}

// Next returns the time after t at which Level changes, and false if it never
// does.
func (p Pattern) Next(t time.Duration) (time.Duration, bool) {
	if p == Off || p == Steady {
		return 0, false
	}
	list, cycle := p.pulses()
	start := t - t%cycle
	for _, x := range list {
		for _, edge := range [...]time.Duration{start + x.on, start + x.off} {
			if edge > t {
				return edge, true
			}
		}
	}
	return start + cycle, true
}

func (p Pattern) String() string {
	switch p {
	case Off:
		return "off"
	case Steady:
		return "steady"
	case Flash:
		return "2 Hz"
	case Slow:
		return "1 Hz"
	case Quick:
		return "5 Hz"
	case 1:
		return "1 blink"
	}
	switch {
	case p >= codeBase:
		return "code " + p.code().String()
	case p > signalBase:
		return fmt.Sprintf("long, then %d", int(p-signalBase))
	}
	return fmt.Sprintf("%d blinks", int(p))
}

// MarshalText makes a Pattern readable in JSON.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.String()), nil }
