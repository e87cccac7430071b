// Package clock decides what time a kit takes it to be. Most boards have no clock that runs while they are off, there is no
// Internet to ask, and whoever offers the time may be wrong or lie: so a kit starts from the latest time that it is certain
// to be past, and is raised by better sources as they appear. It is never lowered while the kit runs.
//
// Rules is that decision, a function of the time and of what was told, without a clock of its own; it belongs to one
// goroutine. What it may not be told by is not known here: whoever calls it vouches that a claim of another kit comes from
// an authenticated member, and that of a phone from the handsets' side.
//
// The rest are the sources: sentences of a GPS receiver (NMEA 0183), the board's clock chip, the system's own clock. These
// functions touch the devices they name and keep no state.
package clock

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Source is where the time comes from.
type Source string

// Sources of the time, the best first. Nobody is the start: the time is a lower bound, and no more.
const (
	GPS    Source = "GPS"
	System Source = "system" // somebody else keeps the system's clock
	Chip   Source = "clock chip"
	Phone  Source = "phone"
	Kits   Source = "kits"
	Nobody Source = "none"
)

const (
	// believed is how far ahead of what is certain a claim may be: less than the 1024 weeks by which a GPS receiver errs
	// that is older than its satellites' calendar, and enough for an image that lay in a drawer until 2040.
	believed = 15 * 365 * 24 * time.Hour
	// guessed bounds by how much kits that know the time no better may raise each other.
	guessed = 366 * 24 * time.Hour
	// negligible is what counts as the same time: more than the way of a message, less than anybody notices.
	negligible = 200 * time.Millisecond
	// Apart is by how much clocks differ that people will notice.
	Apart = 2 * time.Second
	// slewed is by how much the clock is slowed down for: it still never goes back, and other clocks catch up with it.
	slewed = time.Minute
	// lastFix is for how long a GPS receiver that fell silent is still better than what other kits say.
	lastFix = time.Hour
	// drift bounds by how much the clock that runs between two sources is wrong: 1 in drift, ten times what a board's is.
	drift = 1000
	// MaxClaims bounds what Told by kits at once.
	MaxClaims = 64
)

// ErrRefused is a time that is not taken.
var ErrRefused = errors.New("time refused")

// Instant is the present, by the clock that may be set and by one that runs on evenly.
type Instant struct {
	Wall   time.Time
	Steady time.Duration // since some beginning
}

// Change is what is to be done to the clock: Set it, unless that is zero, or slow it down until it has lost Lose.
type Change struct {
	Set  time.Time
	Lose time.Duration
}

// Rules is what a kit knows of the time.
type Rules struct {
	certain time.Time     // it was not earlier than this
	at      time.Duration // when that was, by the steady clock
	source  Source
	fix     time.Duration // when the GPS receiver told the time last, by the steady clock
	ahead   time.Duration // by how much the clock is ahead of the last source better than its own
	apart   int           // kits that know the time and have another one
}

// New starts from the latest time that it is certain to be past: when the program was built, what was saved, what the
// board's clock chip says. chip is whether the last of these is the source of it.
func New(now Instant, certain time.Time, chip bool) *Rules {
	r := &Rules{certain: certain.Round(0), at: now.Steady, source: Nobody}
	if chip {
		r.source = Chip
	}
	return r
}

// Source is where the time comes from.
func (r *Rules) Source() Source { return r.source }

// Synchronised reports whether somebody who knows told the time, and nobody who knows better contradicts.
func (r *Rules) Synchronised() bool { return r.source != Nobody && r.ahead == 0 }

// Ahead is by how much the clock is ahead of a source that knows better; it is not lowered. Zero is not at all.
func (r *Rules) Ahead() time.Duration { return r.ahead }

// Disagreeing is how many other kits know the time and have another one, by more than Apart.
func (r *Rules) Disagreeing() int { return r.apart }

// Certain is the time that it certainly is past, which is what to save. What phones and other kits say is not part of it:
// should one of them have lied, a restart undoes it.
func (r *Rules) Certain(now Instant) time.Time {
	d := max(now.Steady-r.at, 0)
	return r.certain.Add(d - d/drift)
}

// Told takes the time from one source, and returns what to do to the clock. A phone is only heard while nobody better was.
func (r *Rules) Told(now Instant, s Source, t time.Time) (Change, error) {
	if s == System {
		r.source, r.ahead = System, 0
		return Change{}, nil
	}
	certain := r.Certain(now)
	switch {
	case t.Before(certain.Add(-Apart)):
		return Change{}, fmt.Errorf("%w: %v, but it is later than %v", ErrRefused, t.UTC(), certain.UTC())
	case t.After(certain.Add(believed)):
		return Change{}, fmt.Errorf("%w: %v is too far ahead of %v", ErrRefused, t.UTC(), certain.UTC())
	case s == Phone && r.Synchronised():
		return Change{}, fmt.Errorf("%w: known already, from %s", ErrRefused, r.source)
	}
	if s == GPS && t.After(certain) {
		r.certain, r.at = t.Round(0), now.Steady
	}
	if d := now.Wall.Sub(t); d > slewed {
		// The time that things were stored and logged at must not come a second time.
		r.ahead = d
		return Change{}, fmt.Errorf("%w: it is %v before the clock, which is never lowered", ErrRefused, d.Round(time.Second))
	}
	r.source, r.ahead, r.fix = s, 0, now.Steady
	return change(now, t.Sub(now.Wall)), nil
}

// change moves the clock by d.
func change(now Instant, d time.Duration) Change {
	switch {
	case d > negligible:
		return Change{Set: now.Wall.Add(d)}
	case d < -negligible:
		return Change{Lose: -d}
	}
	return Change{}
}

// Claim is what another kit's clock says.
type Claim struct {
	Offset       time.Duration // that clock less this one, the way of the message taken into account
	Synchronised bool          // it knows the time, or so it says
}

// Heard takes what the linked kits say, one claim of each, and returns what to do to the clock.
//
// A kit that does not know the time believes one that does: the median of them, of two the one less ahead, since a clock
// that went too far is not put back. A kit that knows the time follows the median of its own and theirs, so that a minority
// that lies moves nobody, and clocks that run differently stay together. Kits none of which knows agree on the latest.
func (r *Rules) Heard(now Instant, claims []Claim) Change {
	var know, guess []time.Duration
	certain := r.Certain(now)
	for _, c := range claims[:min(len(claims), MaxClaims)] {
		at := now.Wall.Add(c.Offset)
		switch {
		case c.Synchronised && !at.After(certain.Add(believed)) && !at.Before(certain.Add(-Apart)):
			know = append(know, c.Offset)
		case !c.Synchronised && !at.After(certain.Add(guessed)):
			guess = append(guess, c.Offset)
		}
	}
	by := r.agree(now, know, guess)
	r.apart = 0
	for _, d := range know {
		if (d - by).Abs() > Apart {
			r.apart++
		}
	}
	return change(now, by)
}

// agree is by how much the clock goes with those who know the time, or with those who guess.
func (r *Rules) agree(now Instant, know, guess []time.Duration) time.Duration {
	switch {
	case r.source == System || r.source == GPS && now.Steady-r.fix < lastFix:
		return 0
	case r.Synchronised():
		all := append(slices.Clone(know), 0)
		slices.Sort(all)
		// Of an even number the lower middle, as above: half of them moves nobody ahead, be it the only other kit.
		if by := all[(len(all)-1)/2]; by >= -slewed {
			return by
		}
		return 0 // the others' affair, who will be raised
	case len(know) > 0:
		slices.Sort(know)
		by := know[(len(know)-1)/2]
		if by < -slewed {
			r.ahead = -by
			return 0
		}
		r.source, r.ahead = Kits, 0
		return by
	case len(guess) > 0:
		return max(slices.Max(guess), 0)
	}
	return 0
}
