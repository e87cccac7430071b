package boot

import (
	"strconv"
	"strings"
	"time"
)

// latest is the last day on which a clock is believed: what is later comes from a clock that lost its power or from
// a bit that flipped, and would never be lowered again.
var latest = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

// floor is the earliest that it can be: the latest of the time at which the image was made, the one that was saved
// last, and what clocks say. ok is false if the clock says that or later already.
func floor(clock time.Time, others ...time.Time) (at time.Time, ok bool) {
	at = clock
	if at.After(latest) {
		at = time.Time{}
	}
	for _, t := range others {
		if t.After(at) && t.Before(latest) {
			at = t
		}
	}
	return at, !at.Equal(clock)
}

// parseEpoch reads the seconds that a real-time clock shows in /sys/class/rtc; zero if it shows none.
func parseEpoch(b []byte) time.Time {
	s, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || s <= 0 || s > latest.Unix() {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}
