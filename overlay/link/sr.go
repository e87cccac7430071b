package link

import (
	"time"

	"fieldkit/overlay/wire"
)

// Constants of the stop-and-wait sender (RFC 6940 §6.6.3.1).
const (
	initialRTO  = 500 * time.Millisecond
	maxSends    = 5
	ackSpacing  = 10 * time.Millisecond
	suspectSend = 4 // the third retransmission

	// minRTO keeps a link over a hiccup of the radio: with the LAN's own round trip of a millisecond five
	// sends would be over in 31 ms. 200 ms gives a link 6.2 s.
	minRTO = 200 * time.Millisecond
	maxRTO = 60 * time.Second // RFC 6298 §2.5

	// duplicateWindow is how long an identical message in the next sequence numbers is taken for a
	// retransmission. It stays below the end-to-end retransmission timer of 3 s (RFC 6940 §6.2.1), whose
	// copies are equal too and must get through.
	duplicateWindow = 2500 * time.Millisecond
)

// srConfig bounds one link's Simple Reliability.
type srConfig struct {
	maxMessage    int           // bytes, both directions
	queueMessages int           // waiting to be sent, the one under way not counted
	queueBytes    int           //
	initialRTT    time.Duration // of ICE's last check; 0 = not measured
}

// inputKind tells what happened.
type inputKind uint8

const (
	inputTick  inputKind = iota // nothing but the passing of time
	inputSend                   // data: a message to queue; taken over; sent by the next other input
	inputFrame                  // data: a received frame; taken over
)

type input struct {
	kind inputKind
	data []byte
}

// outputKind tells what to do.
type outputKind uint8

const (
	outputTransmit outputKind = iota // data: a frame to send
	outputDeliver                    // data: a message for the user, his to keep
	outputRefuse                     // err: the message given was not queued
	outputSuspect                    // the link should not be routed over (RFC 6940 §6.6.3.1)
	outputRestored                   // acknowledgements resumed
	outputFail                       // err: the link is to be closed; nothing more comes
)

type output struct {
	kind outputKind
	data []byte
	err  error
}

// srStats counts what a link did.
type srStats struct {
	sent, received, retransmits, duplicates uint64
	acksSent, acksReceived, acksStale       uint64
	malformed, refused, lossReported        uint64
	queued, queuedBytes                     int
	rtt, rto                                time.Duration
}

type sentFrame struct {
	seq     uint32
	at      time.Time
	message uint64 // ordinal of the message it carried
	acked   bool
}

// reliability is Simple Reliability over the Framing Header (RFC 6940 §6.6.2, §6.6.3) as a pure machine: Step
// folds one input into the state and appends what is to be done. Equal calls give equal outputs.
type reliability struct {
	cfg srConfig
	est rttEstimator

	// The sender: at most one message is under way.
	next         uint32
	current      []byte
	ordinal      uint64
	sends        int
	retransmitAt time.Time
	wait         time.Duration
	notBefore    time.Time
	sentRing     [32]sentFrame
	queue        [][]byte
	queueBytes   int
	suspect      bool
	failed       bool

	recv  receiver
	stats srStats
}

func newReliability(cfg srConfig) *reliability {
	r := &reliability{cfg: cfg}
	r.est.init(cfg.initialRTT)
	return r
}

// Step takes one input at a time that never goes back, and appends the outputs to out.
func (r *reliability) Step(now time.Time, in input, out []output) []output {
	if r.failed {
		if in.kind == inputSend {
			out = append(out, output{kind: outputRefuse, err: ErrClosed})
		}
		return out
	}
	switch in.kind {
	case inputSend:
		if err := r.enqueue(in.data); err != nil {
			out = append(out, output{kind: outputRefuse, err: err})
		}
	case inputFrame:
		out = r.frame(now, in.data, out)
	case inputTick:
	}
	if r.failed || in.kind == inputSend {
		return out
	}
	return r.transmit(now, out)
}

// Deadline is when Step wants a tick; ok is false for never. It may be in the past: at once.
func (r *reliability) Deadline() (at time.Time, ok bool) {
	switch {
	case r.failed:
		return time.Time{}, false
	case r.current != nil:
		return r.retransmitAt, true
	case len(r.queue) > 0:
		return r.notBefore, true
	}
	return time.Time{}, false
}

// Stats returns the counters.
func (r *reliability) Stats() srStats {
	s := r.stats
	s.queued, s.queuedBytes = len(r.queue), r.queueBytes
	s.rtt, s.rto = r.est.srtt, r.est.rto
	return s
}

func (r *reliability) enqueue(m []byte) error {
	switch {
	case len(m) > r.cfg.maxMessage:
		r.stats.refused++
		return ErrTooLarge
	case len(r.queue) >= r.cfg.queueMessages || r.queueBytes+len(m) > r.cfg.queueBytes:
		r.stats.refused++
		return ErrQueueFull
	}
	r.queue = append(r.queue, m)
	r.queueBytes += len(m)
	return nil
}

// transmit sends what is due: the next message, or the current one again.
func (r *reliability) transmit(now time.Time, out []output) []output {
	switch {
	case r.current == nil:
		if len(r.queue) == 0 || now.Before(r.notBefore) {
			return out
		}
		r.current = r.queue[0]
		r.queue[0] = nil
		r.queue = r.queue[1:]
		r.queueBytes -= len(r.current)
		r.ordinal++
		r.sends = 0
		r.wait = r.est.rto
		r.stats.sent++
	case now.Before(r.retransmitAt):
		return out
	case r.sends >= maxSends:
		return r.fail(ErrLinkFailed, out)
	default:
		r.wait *= 2
		r.stats.retransmits++
	}
	r.sends++
	if r.sends == suspectSend && !r.suspect {
		r.suspect = true
		out = append(out, output{kind: outputSuspect})
	}
	r.sentRing[r.next%uint32(len(r.sentRing))] = sentFrame{seq: r.next, at: now, message: r.ordinal}
	r.retransmitAt = now.Add(r.wait)
	out = transmitFrame(out, wire.Frame{Type: wire.FrameData, Sequence: r.next, Message: r.current})
	r.next++
	return out
}

func (r *reliability) frame(now time.Time, b []byte, out []output) []output {
	f, err := wire.ParseFrame(b)
	switch {
	case err != nil:
		r.stats.malformed++
		return out
	case f.Type == wire.FrameAck:
		return r.ack(now, f.Sequence, f.Received, out)
	case len(f.Message) > r.cfg.maxMessage: // RFC 6940 §6.6: close the session it came from
		return r.fail(ErrTooLarge, out)
	}
	mask, fresh := r.recv.receive(now, f.Sequence, f.Message)
	r.stats.acksSent++
	out = transmitFrame(out, wire.Frame{Type: wire.FrameAck, Sequence: f.Sequence, Received: mask})
	if !fresh {
		r.stats.duplicates++
		return out
	}
	r.stats.received++
	return append(out, output{kind: outputDeliver, data: f.Message})
}

func (r *reliability) fail(err error, out []output) []output {
	r.failed = true
	r.queue, r.queueBytes, r.current = nil, 0, nil
	return append(out, output{kind: outputFail, err: err})
}

// transmitFrame encodes a frame of this package's making, which cannot fail: its message is below maxMessage.
func transmitFrame(out []output, f wire.Frame) []output {
	b, err := f.AppendBinary(make([]byte, 0, wire.FrameDataOverhead+len(f.Message)+1))
	if err != nil {
		return out
	}
	return append(out, output{kind: outputTransmit, data: b})
}

// ack acts on ack_sequence alone; the mask is read in three ways by the implementations that exist and serves
// statistics only.
func (r *reliability) ack(now time.Time, seq, mask uint32, out []output) []output {
	s := &r.sentRing[seq%uint32(len(r.sentRing))]
	if s.seq != seq || s.message == 0 || s.acked {
		r.stats.acksStale++
		return out
	}
	s.acked = true
	r.stats.acksReceived++
	r.stats.lossReported += uint64(r.missing(seq, mask))
	r.est.sample(now.Sub(s.at))
	r.notBefore = now.Add(ackSpacing)
	if r.suspect {
		r.suspect = false
		out = append(out, output{kind: outputRestored})
	}
	if r.current != nil && s.message == r.ordinal {
		r.current = nil
	}
	return out
}

// missing counts frames before seq that we sent, that nobody acknowledged, and that the mask does not show:
// the loss the far end saw since its last acknowledgement.
func (r *reliability) missing(seq, mask uint32) (n int) {
	for back := uint32(1); back < 32 && back <= seq; back++ {
		s := &r.sentRing[(seq-back)%uint32(len(r.sentRing))]
		if s.seq != seq-back || s.message == 0 || s.acked {
			break
		}
		if mask&(1<<back) == 0 {
			n++
		}
	}
	return n
}

// receiver is the far end's half: what was received, for the mask and against duplicates.
type receiver struct {
	recent  [32]uint32 // the most recently received sequence numbers
	n, pos  int
	last    uint32 // sequence number, digest and time of the last message that was new
	lastSum uint64
	lastAt  time.Time
}

// receive notes a DATA frame and returns the mask for its ACK, and whether its message is new.
func (v *receiver) receive(now time.Time, seq uint32, m []byte) (mask uint32, fresh bool) {
	seen := false
	for _, old := range v.recent[:v.n] {
		if d := seq - old; d == 0 {
			seen = true
		} else if d < 32 { // M < N and M > N−32, in sequence number arithmetic
			mask |= 1 << d
		}
	}
	if seen {
		return mask, false
	}
	v.recent[v.pos] = seq
	v.pos = (v.pos + 1) % len(v.recent)
	v.n = min(v.n+1, len(v.recent))

	// A retransmission has a new sequence number and the old content. The sender has one message under way,
	// so its copies are among the next four numbers.
	sum := digest(m)
	if d := seq - v.last; v.lastAt != (time.Time{}) && d < maxSends && sum == v.lastSum && now.Sub(v.lastAt) < duplicateWindow {
		return mask, false
	}
	v.last, v.lastSum, v.lastAt = seq, sum, now
	return mask, true
}

// digest is FNV-1a. Only the peer's own messages are compared with each other: a peer that makes them collide
// loses its own message.
func digest(m []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range m {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h ^ uint64(len(m))
}

// rttEstimator is RFC 6298 §2 with its rounding as RFC 6940 §6.6.3.1 wants it.
type rttEstimator struct {
	srtt, rttvar, rto time.Duration
}

// init takes the round trip of a STUN check as the first measurement; without one the RTO is 500 ms.
func (e *rttEstimator) init(rtt time.Duration) {
	e.rto = initialRTO
	if rtt > 0 {
		e.sample(rtt)
	}
}

func (e *rttEstimator) sample(r time.Duration) {
	r = max(r, time.Microsecond)
	if e.srtt == 0 {
		e.srtt, e.rttvar = r, r/2
	} else {
		e.rttvar += ((e.srtt - r).Abs() - e.rttvar) / 4
		e.srtt += (r - e.srtt) / 8
	}
	rto := e.srtt + max(time.Millisecond, 4*e.rttvar)
	rto = (rto + time.Millisecond - 1).Truncate(time.Millisecond)
	e.rto = min(max(rto, minRTO), maxRTO)
}
