package sr

import (
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// Constants of the congestion window, in frames.
const (
	// initialWindow is what may be sent before anything is known of the way: "If SMSS > 1095 bytes and SMSS <= 2190
	// bytes: IW = 3 * SMSS bytes" (RFC 5681 §3.1); fragments are of 1200.
	initialWindow = 3
	// maxWindow keeps the frames under way, and some retransmissions of them, within what the mask of an ACK tells of.
	maxWindow = 16
	// reordered is how many later frames have to arrive before one is taken for lost (RFC 5681 §3.2).
	reordered = 3
)

// sender is the sending half: TCP's congestion control (RFC 5681) with whole messages for segments.
type sender struct {
	next     uint32    // sequence number of the next frame
	flights  []*flight // messages under way, oldest first
	ordinal  uint64    // of the last message
	ring     [2 * maxWindow]sentFrame
	window   int // frames that may be under way
	grown    int // acknowledgements since the window grew, in congestion avoidance
	slow     int // ssthresh: up to here the window grows with every acknowledgement
	recovery uint32
	timeout  int64 // of the oldest frame under way, on the machine's clock
	wait     time.Duration
	last     int64 // when something was sent last, on the machine's clock
}

// flight is one message under way.
type flight struct {
	message []byte
	ordinal uint64
	seq     uint32 // of its last transmission
	sends   int
	later   int  // frames sent after it that arrived before it
	lost    bool // to be sent again
}

// sentFrame is one transmission.
type sentFrame struct {
	at      int64  // on the machine's clock
	ordinal uint64 // of the message that it carried; 0: nothing here
	seq     uint32
	acked   bool
}

func (s *sender) init() { s.window, s.slow = initialWindow, maxWindow }

// outstanding is how many frames are taken to be on the way.
func (s *sender) outstanding() (n int) {
	for _, f := range s.flights {
		if !f.lost {
			n++
		}
	}
	return n
}

// mayStart reports whether a message that waits may be sent.
func (s *sender) mayStart() bool { return s.outstanding() < s.window && s.lost() == nil }

// lost is the oldest message that is to be sent again, nil for none.
func (s *sender) lost() *flight {
	i := slices.IndexFunc(s.flights, func(f *flight) bool { return f.lost })
	if i < 0 {
		return nil
	}
	return s.flights[i]
}

// shrink halves the window: half of what is under way got through, for all that is known (RFC 5681 §3.1, equation 4).
func (s *sender) shrink() {
	s.slow = max(s.outstanding()/2, 2)
	s.grown = 0
	s.recovery = s.next
}

// transmit sends what is due: what was lost first, then what waits, as far as the window allows.
func (r *Reliability) transmit(now time.Time, out []Output) []Output {
	s := &r.send
	if len(s.flights) > 0 && r.clock(now) >= s.timeout {
		// "An initiating node SHOULD retransmit a message if it has not received an ACK after an interval of RTO […] The node
		// MUST double the time to wait after each retransmission." (RFC 6940 §6.6.3.1) And "cwnd MUST be set to no more than
		// the loss window, LW, which equals 1 full-sized segment" (RFC 5681 §3.1): what else is under way is not believed in.
		if s.flights[0].sends >= maxSends {
			return r.fail(ErrFailed, out)
		}
		s.shrink()
		s.window = 1
		s.wait = min(2*s.wait, maxRTO)
		for _, f := range s.flights {
			f.lost = true
		}
		// The timer starts anew with the frame that follows.
		out = r.resend(now, s.flights[0], out)
		s.timeout = r.clock(now) + int64(s.wait)
	}
	for s.outstanding() < s.window {
		switch f := s.lost(); {
		case f != nil && f.sends >= maxSends:
			return r.fail(ErrFailed, out)
		case f != nil:
			out = r.resend(now, f, out)
		case len(r.queue.messages) > 0:
			out = r.start(now, out)
		default:
			return out
		}
	}
	return out
}

// start sends the next message that waits.
func (r *Reliability) start(now time.Time, out []Output) []Output {
	s := &r.send
	if len(s.flights) == 0 {
		if r.clock(now)-s.last > int64(r.est.rto) { // "when TCP has not received a segment for more than one retransmission timeout,
			// cwnd is reduced to the value of the restart window" (RFC 5681 §4.1)
			s.window = min(s.window, initialWindow)
		}
		s.wait = r.est.rto
		s.timeout = r.clock(now) + int64(s.wait)
	}
	s.ordinal++
	f := &flight{message: r.queue.take(), ordinal: s.ordinal}
	s.flights = append(s.flights, f)
	r.stats.Sent++
	return r.put(now, f, out)
}

// resend sends a message again.
func (r *Reliability) resend(now time.Time, f *flight, out []Output) []Output {
	r.stats.Retransmits++
	f.lost, f.later = false, 0
	return r.put(now, f, out)
}

// put sends one frame. "For each retransmission, the sequence number MUST be incremented." (RFC 6940 §6.6.3.1)
func (r *Reliability) put(now time.Time, f *flight, out []Output) []Output {
	s := &r.send
	f.sends++
	if f.sends == suspectSend && !r.suspect {
		r.suspect = true
		out = append(out, Output{Kind: Suspected})
	}
	f.seq = s.next
	s.ring[s.next%uint32(len(s.ring))] = sentFrame{seq: s.next, at: r.clock(now), ordinal: f.ordinal}
	s.next++
	s.last = r.clock(now)
	return transmitFrame(out, wire.Frame{Type: wire.FrameData, Sequence: f.seq, Message: f.message})
}

// ack acts on ack_sequence alone; the mask is read in three ways by the implementations that exist and serves
// statistics only.
func (r *Reliability) ack(now time.Time, seq, mask uint32, out []Output) []Output {
	s := &r.send
	t := &s.ring[seq%uint32(len(s.ring))]
	if t.seq != seq || t.ordinal == 0 || t.acked {
		r.stats.AcksStale++
		return out
	}
	t.acked = true
	r.stats.AcksReceived++
	r.stats.LossReported += uint64(s.missing(seq, mask))
	r.est.sample(time.Duration(r.clock(now) - t.at))
	if r.suspect {
		r.suspect = false
		out = append(out, Output{Kind: Restored})
	}
	at := slices.IndexFunc(s.flights, func(f *flight) bool { return f.ordinal == t.ordinal })
	if at < 0 {
		return out // an earlier transmission was acknowledged before
	}
	s.grow()
	s.flights = slices.Delete(s.flights, at, at+1)
	s.wait = r.est.rto
	s.timeout = r.clock(now) + int64(s.wait)
	if s.overtaken(seq) {
		// At once, whatever the window: something has just left the way.
		if f := s.lost(); f.sends < maxSends {
			out = r.resend(now, f, out)
		}
	}
	return out
}

// grow widens the window by what was acknowledged: slow start, then congestion avoidance (RFC 5681 §3.1). A window that
// was not used up says nothing about the way.
func (s *sender) grow() {
	if s.outstanding() < s.window {
		return
	}
	if s.window >= s.slow {
		if s.grown++; s.grown < s.window {
			return
		}
		s.grown = 0
	}
	s.window = min(s.window+1, maxWindow)
}

// overtaken takes for lost what was sent before seq when seq is the third later frame to arrive: "Fast Retransmit"
// (RFC 5681 §3.2), and reports whether something was. The window is halved once for all frames that were under way
// together.
func (s *sender) overtaken(seq uint32) (lost bool) {
	for _, f := range s.flights {
		if f.lost || seq-f.seq >= 1<<31 {
			continue
		}
		if f.later++; f.later < reordered {
			continue
		}
		if f.seq-s.recovery < 1<<31 {
			s.shrink()
			s.window = s.slow
		}
		f.lost, lost = true, true
	}
	return lost
}

// missing counts frames before seq that we sent, that nobody acknowledged, and that the mask does not show:
// the loss the far end saw since its last acknowledgement.
func (s *sender) missing(seq, mask uint32) (n int) {
	for back := uint32(1); back < 32 && back <= seq; back++ {
		t := &s.ring[(seq-back)%uint32(len(s.ring))]
		if t.seq != seq-back || t.ordinal == 0 || t.acked {
			break
		}
		if mask&(1<<back) == 0 {
			n++
		}
	}
	return n
}
