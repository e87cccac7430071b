package peer

import (
	"math"
	"time"

	"fieldkit/overlay/wire"
)

// traffic is what RFC 7851 §5.3 wants counted: messages of this node by method, and bytes per second over its links.
type traffic struct {
	byCode         [wire.PathTrackAns + 2]struct{ sent, received uint64 } // by message code; the last is for error answers
	sent, received ewma
}

func (t *traffic) slot(c wire.MessageCode) int {
	switch {
	case c <= wire.PathTrackAns:
		return int(c)
	case c == wire.ErrorAns:
		return len(t.byCode) - 1
	}
	return 0
}

func (t *traffic) messages() (list []wire.ExchangedMessage) {
	for i, n := range t.byCode {
		if i == 0 || n.sent == 0 && n.received == 0 {
			continue
		}
		code := wire.MessageCode(i)
		if i == len(t.byCode)-1 {
			code = wire.ErrorAns
		}
		list = append(list, wire.ExchangedMessage{Code: code, Sent: n.sent, Received: n.received})
	}
	return list
}

// ewma is an exponential weighted average of bytes per second: "sent = alpha x sent_present + (1 - alpha) x sent_last
// [...] A suitable value for alpha is 0.8 [...] calculated every five seconds [...] The value for the very first time
// period should simply be the average of bytes sent in that time period." (RFC 7851 §5.3)
type ewma struct {
	since   time.Time
	bytes   uint64 // since then
	last    float64
	started bool
}

const (
	ewmaAlpha  = 0.8
	ewmaPeriod = 5 * time.Second
)

func (e *ewma) add(now time.Time, bytes int) {
	e.roll(now)
	e.bytes += uint64(bytes)
}

// roll ends the periods that are over.
func (e *ewma) roll(now time.Time) {
	if e.since.IsZero() {
		e.since = now
	}
	n := int64(now.Sub(e.since) / ewmaPeriod)
	if n <= 0 {
		return
	}
	present := float64(e.bytes) / ewmaPeriod.Seconds()
	if !e.started {
		e.last, e.started = present, true
	} else {
		e.last = ewmaAlpha*present + (1-ewmaAlpha)*e.last
	}
	e.last *= math.Pow(1-ewmaAlpha, float64(n-1)) // periods in which nothing went
	e.since, e.bytes = e.since.Add(time.Duration(n)*ewmaPeriod), 0
}

func (e *ewma) rate(now time.Time) uint64 {
	e.roll(now)
	return min(uint64(math.Round(e.last)), math.MaxUint32)
}
