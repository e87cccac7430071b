package sr

import (
	"time"

	"fieldkit/overlay/wire"
)

const (
	// window is how many messages may be unacknowledged on a stream: as many as an ACK's mask tells of.
	window = 32
	// KeepFailed is how long a link over a stream is kept without acknowledgements "to determine if the failure was
	// transient before concluding the link has failed permanently" (RFC 6940 §6.6.5).
	KeepFailed = 30 * time.Second
)

// Framing is the framing header over a stream, which is reliable by itself (RFC 6940 §6.6.5): messages go out at once,
// acknowledgements measure the round trip, and "the resulting RTO is not used for retransmissions, but rather as a
// timeout to indicate when the link SHOULD be removed from the Routing Table".
type Framing struct {
	cfg Config
	est rttEstimator

	next     uint32 // sequence number of the next message
	acked    uint32 // all before it are acknowledged
	sent     [window]time.Time
	progress time.Time // of the last acknowledgement that was new
	queue    queue
	suspect  time.Time // since when; zero: not
	failed   bool

	recv  receiver
	stats Stats
}

// NewFraming makes the machine of one link over a stream.
func NewFraming(cfg Config) *Framing {
	f := &Framing{cfg: cfg}
	f.est.init(cfg.InitialRTT)
	return f
}

// Step takes one Input at a time that never goes back, and appends the outputs to out.
func (f *Framing) Step(now time.Time, in Input, out []Output) []Output {
	if f.failed {
		if in.Kind == Send {
			out = append(out, Output{Kind: Refuse, Err: ErrClosed})
		}
		return out
	}
	switch in.Kind {
	case Send:
		if err := f.queue.put(f.cfg, in.Data); err != nil {
			f.stats.Refused++
			out = append(out, Output{Kind: Refuse, Err: err})
		}
		return out
	case Frame:
		out = f.frame(now, in.Data, out)
	case Tick:
	}
	if f.failed {
		return out
	}
	out = f.watch(now, out)
	for !f.failed && len(f.queue.messages) > 0 && f.next-f.acked < window {
		f.sent[f.next%window] = now
		f.stats.Sent++
		out = transmitFrame(out, wire.Frame{Type: wire.FrameData, Sequence: f.next, Message: f.queue.take()})
		f.next++
	}
	return out
}

// due is when the oldest message should have been acknowledged: an RTO after it was sent or, where messages before it
// were acknowledged later, after that.
func (f *Framing) due() time.Time {
	at := f.sent[f.acked%window]
	if f.progress.After(at) {
		at = f.progress
	}
	return at.Add(f.est.rto)
}

func (f *Framing) watch(now time.Time, out []Output) []Output {
	switch {
	case f.next == f.acked:
	case !f.suspect.IsZero():
		if !now.Before(f.suspect.Add(KeepFailed)) {
			return f.fail(ErrFailed, out)
		}
	case !now.Before(f.due()):
		f.suspect = now
		out = append(out, Output{Kind: Suspected})
	}
	return out
}

// Deadline is when Step wants a tick; ok is false for never. It may be in the past: at once.
func (f *Framing) Deadline() (at time.Time, ok bool) {
	switch {
	case f.failed:
		return time.Time{}, false
	case len(f.queue.messages) > 0 && f.next-f.acked < window:
		return time.Time{}, true
	case f.next == f.acked:
		return time.Time{}, false
	case !f.suspect.IsZero():
		return f.suspect.Add(KeepFailed), true
	}
	return f.due(), true
}

// Stats returns the counters.
func (f *Framing) Stats() Stats {
	s := f.stats
	s.Queued, s.QueuedBytes = len(f.queue.messages), f.queue.bytes
	s.RTT, s.RTO = f.est.srtt, f.est.rto
	return s
}

// Farewell sends a message whatever the state of the link: the last before it is closed.
func (f *Framing) Farewell(m []byte, out []Output) []Output {
	f.next++
	return transmitFrame(out, wire.Frame{Type: wire.FrameData, Sequence: f.next - 1, Message: m})
}

func (f *Framing) frame(now time.Time, b []byte, out []Output) []Output {
	p, err := wire.ParseFrame(b)
	switch {
	case err != nil: // on a stream there is no way to find the next one
		f.stats.Malformed++
		return f.fail(err, out)
	case p.Type == wire.FrameAck:
		return f.ack(now, p.Sequence, out)
	case len(p.Message) > f.cfg.MaxReceive: // RFC 6940 §6.6
		out = f.fail(ErrTooLarge, out)
		out[len(out)-1].Data = p.Message
		return out
	}
	mask := f.recv.mask(p.Sequence)
	f.stats.AcksSent++
	f.stats.Received++
	out = transmitFrame(out, wire.Frame{Type: wire.FrameAck, Sequence: p.Sequence, Received: mask})
	return append(out, Output{Kind: Deliver, Data: p.Message})
}

// ack acknowledges everything up to seq: on a stream what came before has arrived, too.
func (f *Framing) ack(now time.Time, seq uint32, out []Output) []Output {
	if seq-f.acked >= f.next-f.acked { // not under way, in sequence number arithmetic
		f.stats.AcksStale++
		return out
	}
	f.stats.AcksReceived++
	f.est.sample(now.Sub(f.sent[seq%window]))
	f.acked, f.progress = seq+1, now
	if !f.suspect.IsZero() {
		f.suspect = time.Time{}
		out = append(out, Output{Kind: Restored})
	}
	return out
}

func (f *Framing) fail(err error, out []Output) []Output {
	f.failed = true
	f.queue = queue{}
	return append(out, Output{Kind: Fail, Err: err})
}
