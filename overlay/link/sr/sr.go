// Package sr is the framing header and what is built on it (RFC 6940 §6.6.2, §6.6.3, §6.6.5): Simple Reliability for
// links over datagrams (Reliability), and the measuring of links over streams (Framing). Both are pure machines: Step
// folds one input into the state and appends what is to be done, equal calls give equal outputs, time is an argument.
//
// It has no sockets, clocks, locks or goroutines, does not look into messages, and is called by one goroutine at a time,
// which in a kit is the one that owns the link (overlay/link).
package sr

import (
	"errors"
	"time"

	"fieldkit/overlay/wire"
)

// Errors that callers decide on.
var (
	ErrClosed    = errors.New("link closed")
	ErrQueueFull = errors.New("link send queue full")
	ErrTooLarge  = errors.New("message larger than the link carries")
	ErrFailed    = errors.New("link failed: no acknowledgement or no ICE consent")
)

// Constants of the sender.
const (
	initialRTO  = 500 * time.Millisecond // RFC 6940 §6.6.3.1
	maxSends    = 5
	suspectSend = 4 // the third retransmission

	// MinRTO keeps a link over a hiccup of the radio: with the LAN's own round trip of a millisecond five
	// sends would be over in 31 ms. 200 ms gives a link 6.2 s.
	MinRTO = 200 * time.Millisecond
	maxRTO = 60 * time.Second // RFC 6298 §2.5

	// DuplicateWindow is how long an identical message in a later sequence number is taken for a
	// retransmission. It stays below the end-to-end retransmission timer of 3 s (RFC 6940 §6.2.1), whose
	// copies are equal too and must get through.
	DuplicateWindow = 2500 * time.Millisecond
)

// Config bounds one link.
type Config struct {
	MaxSend       int           // bytes of a message to send: what one frame carries
	MaxReceive    int           // bytes of a received message; above it the link fails with ErrTooLarge (RFC 6940 §6.6)
	QueueMessages int           // waiting to be sent, those under way not counted
	QueueBytes    int           //
	InitialRTT    time.Duration // of ICE's last check; 0 = not measured
}

// InputKind tells what happened.
type InputKind uint8

// Inputs.
const (
	Tick  InputKind = iota // nothing but the passing of time
	Send                   // Data: a message to queue; taken over; sent by the next other input
	Frame                  // Data: a received frame; taken over
)

// Input is one event.
type Input struct {
	Kind InputKind
	Data []byte
}

// OutputKind tells what to do.
type OutputKind uint8

// Outputs.
const (
	Transmit  OutputKind = iota // Data: a frame to send
	Deliver                     // Data: a message for the user, his to keep
	Refuse                      // Err: the message given was not queued
	Suspected                   // the link should not be routed over (RFC 6940 §6.6.3.1, §6.6.5)
	Restored                    // acknowledgements resumed
	Fail                        // Err: the link is to be closed; nothing more comes. With ErrTooLarge, Data is the message
)

// Output is one thing to do.
type Output struct {
	Kind OutputKind
	Data []byte
	Err  error
}

// Stats counts what a link did.
type Stats struct {
	Sent, Received, Retransmits, Duplicates uint64
	AcksSent, AcksReceived, AcksStale       uint64
	Malformed, Refused, LossReported        uint64
	Queued, QueuedBytes                     int
	RTT, RTO                                time.Duration // smoothed; RTT is 0 before the first measurement
}

// Reliability is Simple Reliability over the Framing Header (RFC 6940 §6.6.2, §6.6.3) as a pure machine: Step
// folds one Input into the state and appends what is to be done. Equal calls give equal outputs.
//
// The sender is not the one of §6.6.3.1, which has one message under way and is "one possible implementation" and a
// slow one, but one with the congestion control of TCP (window.go, docs/adr/0022): "The sender algorithm used MUST meet
// the requirements of [RFC5405]". Retransmission times, RTO and suspicion are those of §6.6.3.1.
type Reliability struct {
	cfg     Config
	base    time.Time // of the first Step; zero before it
	est     rttEstimator
	send    sender
	queue   queue
	suspect bool
	failed  bool

	recv  receiver
	stats Stats
}

// New makes the machine of one link over datagrams.
func New(cfg Config) *Reliability {
	r := &Reliability{cfg: cfg}
	r.est.init(cfg.InitialRTT)
	r.send.init()
	return r
}

// Step takes one Input at a time that never goes back, and appends the outputs to out.
func (r *Reliability) Step(now time.Time, in Input, out []Output) []Output {
	if r.failed {
		if in.Kind == Send {
			out = append(out, Output{Kind: Refuse, Err: ErrClosed})
		}
		return out
	}
	if r.base.IsZero() {
		r.base = now
	}
	switch in.Kind {
	case Send:
		if err := r.queue.put(r.cfg, in.Data); err != nil {
			r.stats.Refused++
			out = append(out, Output{Kind: Refuse, Err: err})
		}
	case Frame:
		out = r.frame(now, in.Data, out)
	case Tick:
	}
	if r.failed || in.Kind == Send {
		return out
	}
	return r.transmit(now, out)
}

// Deadline is when Step wants a tick; ok is false for never. It may be in the past: at once.
func (r *Reliability) Deadline() (at time.Time, ok bool) {
	switch {
	case r.failed:
		return time.Time{}, false
	case r.send.mayStart() && len(r.queue.messages) > 0:
		return r.instant(r.send.last), true // past
	case len(r.send.flights) > 0:
		return r.instant(r.send.timeout), true
	}
	return time.Time{}, false
}

// clock is now on the machine's own clock, nanoseconds since its first Step: it goes on evenly when the wall clock is
// set, which differences of wall clock times would take for a round trip, and is a third of the size of a time.Time.
func (r *Reliability) clock(now time.Time) int64 { return int64(now.Sub(r.base)) }

// instant is the inverse of clock.
func (r *Reliability) instant(at int64) time.Time { return r.base.Add(time.Duration(at)) }

// Stats returns the counters.
func (r *Reliability) Stats() Stats {
	s := r.stats
	s.Queued, s.QueuedBytes = len(r.queue.messages), r.queue.bytes
	s.RTT, s.RTO = r.est.srtt, r.est.rto
	return s
}

func (r *Reliability) frame(now time.Time, b []byte, out []Output) []Output {
	f, err := wire.ParseFrame(b)
	switch {
	case err != nil:
		r.stats.Malformed++
		return out
	case f.Type == wire.FrameAck:
		return r.ack(now, f.Sequence, f.Received, out)
	case len(f.Message) > r.cfg.MaxReceive: // RFC 6940 §6.6: close the session it came from
		out = r.fail(ErrTooLarge, out)
		out[len(out)-1].Data = f.Message
		return out
	}
	mask, fresh := r.recv.receive(r.clock(now), f.Sequence, f.Message)
	r.stats.AcksSent++
	out = transmitFrame(out, wire.Frame{Type: wire.FrameAck, Sequence: f.Sequence, Received: mask})
	if !fresh {
		r.stats.Duplicates++
		return out
	}
	r.stats.Received++
	return append(out, Output{Kind: Deliver, Data: f.Message})
}

func (r *Reliability) fail(err error, out []Output) []Output {
	r.failed = true
	r.queue, r.send.flights = queue{}, nil
	return append(out, Output{Kind: Fail, Err: err})
}

// Farewell sends a message once, whatever the state of the link: the last before it is closed.
func (r *Reliability) Farewell(m []byte, out []Output) []Output {
	r.send.next++
	return transmitFrame(out, wire.Frame{Type: wire.FrameData, Sequence: r.send.next - 1, Message: m})
}

// queue is what waits to be sent.
type queue struct {
	messages [][]byte
	bytes    int
}

func (q *queue) put(cfg Config, m []byte) error {
	switch {
	case len(m) > cfg.MaxSend:
		return ErrTooLarge
	case len(q.messages) >= cfg.QueueMessages || q.bytes+len(m) > cfg.QueueBytes:
		return ErrQueueFull
	}
	q.messages = append(q.messages, m)
	q.bytes += len(m)
	return nil
}

func (q *queue) take() []byte {
	m := q.messages[0]
	q.messages[0] = nil
	q.messages = q.messages[1:]
	q.bytes -= len(m)
	return m
}

// transmitFrame encodes a frame of this package's making, which cannot fail: its message is below MaxSend.
func transmitFrame(out []Output, f wire.Frame) []Output {
	b, err := f.AppendBinary(make([]byte, 0, wire.FrameDataOverhead+len(f.Message)+1))
	if err != nil {
		return out
	}
	return append(out, Output{Kind: Transmit, Data: b})
}

// receiver is the far end's half: what was received, for the mask and against duplicates.
type receiver struct {
	recent [32]uint32 // the most recently received sequence numbers
	n, pos int
	fresh  [32]arrived // the messages that were new, last, in a ring
	at     int
}

// arrived is what is remembered of a message that was new.
type arrived struct {
	seq uint32
	sum uint64 // 0: nothing here
	at  int64  // on the machine's clock
}

// mask notes a received sequence number and returns the mask for its ACK.
func (v *receiver) mask(seq uint32) (mask uint32) {
	mask, _ = v.note(seq)
	return mask
}

func (v *receiver) note(seq uint32) (mask uint32, seen bool) {
	for _, old := range v.recent[:v.n] {
		if d := seq - old; d == 0 {
			seen = true
		} else if d < 32 { // M < N and M > N−32, in sequence number arithmetic
			mask |= 1 << d
		}
	}
	if !seen {
		v.recent[v.pos] = seq
		v.pos = (v.pos + 1) % len(v.recent)
		v.n = min(v.n+1, len(v.recent))
	}
	return mask, seen
}

// receive notes a DATA frame and returns the mask for its ACK, and whether its message is new.
func (v *receiver) receive(now int64, seq uint32, m []byte) (mask uint32, fresh bool) {
	mask, seen := v.note(seq)
	if seen {
		return mask, false
	}
	// A retransmission has a later sequence number and the old content.
	sum := digest(m)
	for _, old := range v.fresh {
		if old.sum == sum && seq-old.seq < 1<<31 && now-old.at < int64(DuplicateWindow) {
			return mask, false
		}
	}
	v.fresh[v.at] = arrived{seq, sum, now}
	v.at = (v.at + 1) % len(v.fresh)
	return mask, true
}

// digest is FNV-1a. Only the peer's own messages are compared with each other: a peer that makes them collide
// loses its own message. It is never 0.
func digest(m []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range m {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return max(h^uint64(len(m)), 1)
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
	e.rto = min(max(rto, MinRTO), maxRTO)
}
