package phone

import (
	"math"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
)

// reception is what RFC 3550 Appendix A keeps about one source. now is the time
// since the session began.
type reception struct {
	started   bool
	ssrc      uint32
	base      int64
	highest   int64 // extended sequence number
	received  int64
	transit   int32
	jitter    float64 // in units of the 8000 Hz clock
	expectedP int64   // at the report before
	receivedP int64

	earlierLost, earlierReceived int64 // of sources that this one replaced

	srTime    uint32 // middle of the last SR's NTP time
	srArrival time.Duration
}

// take accounts for a packet; false when it is a duplicate or a stray number.
func (r *reception) take(h *rtp.Header, now time.Duration) bool {
	seq := h.SequenceNumber
	if !r.started || h.SSRC != r.ssrc {
		earlierLost, earlierReceived := r.lost(), r.total()
		*r = reception{started: true, ssrc: h.SSRC, base: int64(seq), highest: int64(seq) - 1, earlierLost: earlierLost, earlierReceived: earlierReceived}
	}
	d := int64(int16(seq - uint16(r.highest)))
	if d == 0 {
		return false
	}
	r.highest += max(d, 0)
	r.received++
	arrival := uint32(now.Microseconds() * sampleRate / 1_000_000)
	transit := int32(arrival - h.Timestamp)
	if r.received > 1 {
		r.jitter += (math.Abs(float64(transit-r.transit)) - r.jitter) / 16
	}
	r.transit = transit
	return true
}

func (r *reception) expected() int64 {
	if !r.started {
		return 0
	}
	return r.highest - r.base + 1
}

// lost is expected less received, of all sources (A.3).
func (r *reception) lost() int64  { return r.earlierLost + max(0, r.expected()-r.received) }
func (r *reception) total() int64 { return r.earlierReceived + r.received }

// report is the block for the next SR or RR (§6.4.1); call it once for each.
func (r *reception) report(now time.Duration) []rtcp.ReceptionReport {
	if !r.started {
		return nil
	}
	expected, received := r.expected()-r.expectedP, r.received-r.receivedP
	r.expectedP, r.receivedP = r.expected(), r.received
	block := rtcp.ReceptionReport{
		SSRC:               r.ssrc,
		TotalLost:          uint32(min(max(0, r.expected()-r.received), 0x7fffff)),
		LastSequenceNumber: uint32(r.highest),
		Jitter:             uint32(r.jitter),
		LastSenderReport:   r.srTime,
	}
	if lost := expected - received; expected > 0 && lost > 0 {
		block.FractionLost = uint8(min(lost<<8/expected, 255))
	}
	if r.srTime != 0 {
		block.Delay = uint32((now - r.srArrival).Seconds() * 65536)
	}
	return []rtcp.ReceptionReport{block}
}

func (r *reception) senderReport(sr *rtcp.SenderReport, now time.Duration) {
	if r.started && sr.SSRC == r.ssrc {
		r.srTime, r.srArrival = uint32(sr.NTPTime>>16), now
	}
}

// ntp is a wall clock time as RFC 3550 §4 has it.
func ntp(t time.Time) uint64 {
	const epoch = 2208988800 // 1900 to 1970, in seconds
	return uint64(t.Unix()+epoch)<<32 | uint64(t.Nanosecond())<<32/1e9
}
