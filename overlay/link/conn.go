package link

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"fieldkit/overlay/link/sr"
	"fieldkit/overlay/wire"
)

const (
	sendQueueMessages = 256
	sendQueueBytes    = 512 << 10
	receiveQueue      = 64
)

// framing is the machine of a link: sr.Reliability or sr.Framing.
type framing interface {
	Step(now time.Time, in sr.Input, out []sr.Output) []sr.Output
	Deadline() (at time.Time, ok bool)
	Farewell(m []byte, out []sr.Output) []sr.Output
	Stats() sr.Stats
}

// Conn is an overlay link: RELOAD messages under Simple Reliability over DTLS, or in frames over TLS and TCP.
type Conn struct {
	*carrier
	idle     time.Duration // 0: no limit
	records  chan []byte
	tooLong  chan []byte // the beginning of a message that is too large to be read whole
	received chan []byte
	wake     chan struct{}
	unread   chan struct{} // closed when the reader has returned
	ended    chan struct{} // closed when run has: nothing is delivered any more
	suspect  atomic.Bool

	bytesSent, bytesReceived atomic.Uint64
	unacknowledged           atomic.Uint64
	writeErrors              atomic.Uint64

	mu sync.Mutex // a leaf: Send queues, run does all else
	sr framing
}

// ConnStats is what a link counts.
type ConnStats struct {
	RTT            time.Duration `json:"rtt"` // smoothed; 0 before the first measurement
	RTO            time.Duration `json:"rto"`
	Sent           uint64        `json:"sent"` // messages, each once
	Received       uint64        `json:"received"`
	BytesSent      uint64        `json:"bytes_sent"` // content of records, framing included
	BytesReceived  uint64        `json:"bytes_received"`
	Retransmits    uint64        `json:"retransmits"`
	Duplicates     uint64        `json:"duplicates"` // received again and suppressed
	Malformed      uint64        `json:"malformed"`
	Refused        uint64        `json:"refused"`        // not queued by Send
	Unacknowledged uint64        `json:"unacknowledged"` // received when nobody took messages; the far end sends them again
	WriteErrors    uint64        `json:"write_errors"`
	Queued         int           `json:"queued"`
	QueuedBytes    int           `json:"queued_bytes"`
	Suspect        bool          `json:"suspect"`
}

// srConfig are the bounds of a link. rtt is ICE's last measurement or 0.
func (t *Transport) srConfig(rtt time.Duration) sr.Config {
	return sr.Config{
		MaxSend: t.cfg.MaxFrame, MaxReceive: t.cfg.MaxMessage,
		QueueMessages: sendQueueMessages, QueueBytes: sendQueueBytes, InitialRTT: rtt,
	}
}

// newConn starts a link on c. rtt is ICE's last measurement or 0.
func newConn(c *carrier, rtt, idle time.Duration) *Conn {
	l := &Conn{
		carrier: c, idle: idle, records: make(chan []byte), tooLong: make(chan []byte, 1),
		received: make(chan []byte, receiveQueue), wake: make(chan struct{}, 1),
		unread: make(chan struct{}), ended: make(chan struct{}),
	}
	switch {
	case c.sess.stream:
		l.sr = sr.NewFraming(c.t.srConfig(rtt))
	case c.sess.proof != nil:
		l.sr = c.sess.proof
		for _, m := range c.sess.early {
			l.received <- m
		}
	default:
		l.sr = sr.New(c.t.srConfig(rtt))
	}
	c.t.stats.conns.Add(1)
	c.t.tasks.run(func() {
		defer c.t.stats.conns.Add(-1)
		defer close(l.ended)
		l.run()
	})
	c.t.tasks.run(func() {
		defer close(l.unread)
		c.read(func(b []byte) {
			select {
			case l.records <- b:
			case <-l.ended:
			}
		}, l.tooLong)
	})
	return l
}

// MaxFrame is the largest message or fragment that Send takes, in bytes. Larger messages go in fragments (RFC 6940
// §6.7).
func (l *Conn) MaxFrame() int { return l.t.cfg.MaxFrame }

// Send queues a message, which it takes over. It never blocks: ErrQueueFull says that the link is slower than what
// is sent, ErrTooLarge that the message needs fragmenting (RFC 6940 §6.7).
func (l *Conn) Send(msg []byte) error {
	if err := l.Err(); err != nil {
		return err
	}
	var out [1]sr.Output
	l.mu.Lock()
	refused := l.sr.Step(l.t.cfg.Now(), sr.Input{Kind: sr.Send, Data: msg}, out[:0])
	l.mu.Unlock()
	for _, o := range refused {
		if o.Kind == sr.Refuse {
			return o.Err
		}
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// Receive returns the next message. Messages that came before the link ended are still returned.
func (l *Conn) Receive(ctx context.Context) ([]byte, error) {
	select {
	case m := <-l.received:
		return m, nil
	default:
	}
	select {
	case m := <-l.received:
		return m, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("receive: %w", ctx.Err())
	case <-l.ended:
	}
	select {
	case m := <-l.received:
		return m, nil
	default:
		return nil, l.Err()
	}
}

// Suspect tells that the link should not be routed over for now: three retransmissions were not acknowledged (RFC
// 6940 §6.6.3.1). It is false again when acknowledgements resume.
func (l *Conn) Suspect() bool { return l.suspect.Load() }

// Stats returns the counters.
func (l *Conn) Stats() ConnStats {
	l.mu.Lock()
	s := l.sr.Stats()
	l.mu.Unlock()
	return ConnStats{
		RTT: s.RTT, RTO: s.RTO, Sent: s.Sent, Received: s.Received,
		BytesSent: l.bytesSent.Load(), BytesReceived: l.bytesReceived.Load(),
		Retransmits: s.Retransmits, Duplicates: s.Duplicates, Malformed: s.Malformed, Refused: s.Refused,
		Unacknowledged: l.unacknowledged.Load(), WriteErrors: l.writeErrors.Load(),
		Queued: s.Queued, QueuedBytes: s.QueuedBytes, Suspect: l.suspect.Load(),
	}
}

// run drives the reliability machine: one input, its outputs, one wait.
func (l *Conn) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var (
		out   []sr.Output
		in    sr.Input
		heard = l.t.cfg.Now()
		held  []byte // delivered over a stream when nobody took messages: nothing more is read then
	)
	for {
		now := l.t.cfg.Now()
		if in.Kind == sr.Frame {
			heard = now
		}
		l.mu.Lock()
		out = l.sr.Step(now, in, out[:0])
		at, ok := l.sr.Deadline()
		l.mu.Unlock()
		for _, o := range out {
			if o.Kind == sr.Deliver && l.sess.shown != nil && bytes.Equal(o.Data, l.sess.shown) {
				continue // the far end did not see our acknowledgement of its proof
			}
			if o.Kind == sr.Deliver && len(l.received) == cap(l.received) {
				held = o.Data // one input delivers one message
				continue
			}
			l.do(o)
		}
		clear(out)
		if l.idle > 0 {
			end := heard.Add(l.idle)
			if !now.Before(end) {
				l.end(ErrLinkFailed)
				return
			}
			if !ok || end.Before(at) {
				at, ok = end, true
			}
		}
		wait := time.Hour
		if ok {
			wait = max(at.Sub(now), 0)
		}
		timer.Reset(wait)
		in = sr.Input{}
		records, deliver := l.records, l.received
		if held == nil {
			deliver = nil
		} else {
			records = nil // TCP tells the far end to wait
		}
		select {
		case <-l.life.Done():
			l.drain()
			return
		case <-l.wake:
		case <-timer.C:
		case deliver <- held:
			held = nil
		case head := <-l.tooLong:
			l.refuse(head)
		case b := <-records:
			l.bytesReceived.Add(uint64(len(b)))
			if !l.sess.stream && len(b) > 0 && b[0] == wire.FrameData && len(l.received) == cap(l.received) {
				// Not acknowledged, so the far end sends it again: the user's slowness becomes its backpressure.
				l.unacknowledged.Add(1)
				heard = l.t.cfg.Now()
				break
			}
			in = sr.Input{Kind: sr.Frame, Data: b}
		}
	}
}

// drain takes what the reader still has when the link has ended.
func (l *Conn) drain() {
	for {
		select {
		case b := <-l.records:
			l.mu.Lock()
			out := l.sr.Step(l.t.cfg.Now(), sr.Input{Kind: sr.Frame, Data: b}, nil)
			l.mu.Unlock()
			for _, o := range out {
				if o.Kind == sr.Deliver && len(l.received) < cap(l.received) {
					l.received <- o.Data
				}
			}
		case <-l.unread:
			return
		}
	}
}

// refuse answers a message that is too large and ends the link.
func (l *Conn) refuse(head []byte) {
	if m := l.t.tooLarge(l.Peer().NodeID, head); m != nil {
		l.mu.Lock()
		out := l.sr.Farewell(m, nil)
		l.mu.Unlock()
		for _, o := range out {
			l.do(o)
		}
	}
	l.end(ErrTooLarge)
}

func (l *Conn) do(o sr.Output) {
	switch o.Kind {
	case sr.Transmit:
		if _, err := l.sess.records.Write(o.Data); err != nil {
			l.writeErrors.Add(1)
			return
		}
		l.bytesSent.Add(uint64(len(o.Data)))
	case sr.Deliver:
		l.received <- o.Data // run is the only sender and saw room
	case sr.Suspected:
		l.suspect.Store(true)
	case sr.Restored:
		l.suspect.Store(false)
	case sr.Fail:
		if o.Data != nil {
			l.refuse(o.Data)
			return
		}
		l.end(o.Err)
	case sr.Refuse: // answers Send, not run
	}
}
