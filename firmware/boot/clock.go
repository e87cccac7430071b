package boot

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// believed is how far after the making of its image a kit is taken to run, the same as in board/clock. What is later
// comes from a clock that lost its power or from a bit that flipped, and would never be lowered again.
const believed = 15 * 365 * 24 * time.Hour

// floor is the earliest that it can be: the latest of the time at which the image was made, the one that was saved
// last, and what clocks say, as far as they are believed. set is false if the clock says that already. The system's
// clock is one of those that need not be believed: the kernel sets it by a clock chip that may have lost its power.
func floor(clock, made time.Time, others ...time.Time) (at time.Time, set bool) {
	at = made
	for _, t := range append(others, clock) {
		if t.After(at) && (made.IsZero() || t.Before(made.Add(believed))) {
			at = t
		}
	}
	return at, !at.Equal(clock)
}

// parseEpoch reads the seconds that a real-time clock shows in /sys/class/rtc; zero if it shows none.
func parseEpoch(b []byte) time.Time {
	s, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || s <= 0 || s > math.MaxUint32 { // what a chip counts in 32 bits
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}

// parseSaved reads config.ClockItem; zero if it is none.
func parseSaved(b []byte) time.Time {
	t, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(b)))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}
