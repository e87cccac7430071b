package sim

import (
	"errors"
	"time"

	"fieldkit/overlay/ident"
)

// Errors of links, as overlay/link has them.
var (
	errQueueFull   = errors.New("simulated link: send queue full")
	errClosed      = errors.New("simulated link: closed")
	errUnreachable = errors.New("simulated network: no answer")
)

// End is one end of a DTLS association between two kits: what a peer has in its Connection Table. Messages under
// way, retransmissions and the pause between messages are those of Simple Reliability (RFC 6940 §6.6.3).
type End struct {
	kit      *Kit
	life     int // of kit, which may restart
	far      *End
	peer     *ident.Peer // who is at the far end
	attached bool
	slot     int // in kit.ends
	heard    instant
	billed   instant // until then keep-alives are in the ledger
	started  bool
	closed   bool

	out pipe
}

// pipe is the sending side of an End: at most one message is under way.
type pipe struct {
	queue   [][]byte
	bytes   int // in queue
	current []byte
	ordinal uint64 // of current
	sends   int
	arrived bool // current reached the far end at least once
	pumping bool // an event to send the next message is made
	sentAt  instant
	wait    time.Duration
	freeAt  instant // after the last ACK and its pause
	suspect bool
	est     rttEstimator
}

func newEnd(kit, far *Kit, attached bool, rtt time.Duration) *End {
	e := &End{kit: kit, life: kit.life, peer: far.self, attached: attached, slot: len(kit.ends)}
	e.heard, e.billed = kit.w.k.now, kit.w.k.now
	e.out.est.rto = initialRTO
	if rtt > 0 {
		e.out.est.sample(rtt)
	}
	kit.ends = append(kit.ends, e)
	return e
}

// join makes the two ends of an association.
func join(a, b *Kit, attached bool, rtt time.Duration) (x, y *End) {
	x, y = newEnd(a, b, attached, rtt), newEnd(b, a, attached, rtt)
	x.far, y.far = y, x
	return x, y
}

// Send queues a message, which it takes over.
func (e *End) Send(b []byte) error {
	p := &e.out
	switch {
	case e.closed:
		return errClosed
	case len(p.queue) >= queueMessages || p.bytes+len(b) > queueBytes:
		e.kit.w.count.QueueFull++
		return errQueueFull
	}
	p.queue = append(p.queue, b)
	p.bytes += len(b)
	e.kit.w.count.QueuePeak = max(e.kit.w.count.QueuePeak, len(p.queue))
	e.pump()
	return nil
}

// pump sends the next message when the last one is acknowledged and the pause after it is over.
func (e *End) pump() {
	p, k := &e.out, &e.kit.w.k
	if e.closed || p.current != nil || p.pumping || len(p.queue) == 0 {
		return
	}
	// Sending is an event of its own even when it is due at once: nothing happens within a peer's call.
	p.pumping = true
	k.at(p.freeAt, func() {
		p.pumping = false
		if e.closed || p.current != nil || len(p.queue) == 0 {
			return
		}
		p.current = p.queue[0]
		p.queue[0] = nil
		p.queue = p.queue[1:]
		p.bytes -= len(p.current)
		if len(p.queue) == 0 {
			p.queue = nil
		}
		p.ordinal++
		p.sends, p.arrived, p.wait = 0, false, p.est.rto
		e.kit.ledger.sent(len(p.current))
		e.transmit()
	})
}

// transmit sends the current message, for the first time or again.
func (e *End) transmit() {
	p, w := &e.out, e.kit.w
	p.sends++
	if p.sends == suspectSends {
		p.suspect = true
	}
	p.sentAt = w.k.now
	if w.lost() {
		e.retryLater()
		return
	}
	ordinal, at := p.ordinal, p.sentAt
	w.k.after(w.latency(), func() { e.arrive(ordinal, at) })
}

// arrive is a DATA frame at the far end.
func (e *End) arrive(ordinal uint64, sentAt instant) {
	p, w, far := &e.out, e.kit.w, e.far
	if e.closed || p.ordinal != ordinal || p.current == nil {
		return
	}
	if far.closed || !far.started || !w.reach(e.kit, far.kit) {
		if p.sentAt == sentAt {
			e.retryLater()
		}
		return
	}
	far.heard = w.k.now
	far.kit.ledger.Acks += frameAck
	fresh := !p.arrived
	p.arrived = true
	b := p.current
	if !w.lost() {
		back := w.latency()
		p.est.sample(w.k.now.add(back).since(sentAt))
		p.current, p.suspect = nil, false
		e.heard = w.k.now.add(back)
		p.freeAt = w.k.now.add(back + ackSpacing)
		e.pump()
	} else if p.sentAt == sentAt {
		e.retryLater()
	}
	if fresh {
		far.kit.receive(far, b)
	} else {
		w.count.Duplicates++
	}
}

// retryLater sends the current message again when its timer fires, and gives the link up after the fifth time: "If all
// retransmissions for a message fail, then the sending node SHOULD close the connection" (RFC 6940 §6.6.3.1).
func (e *End) retryLater() {
	p, w := &e.out, e.kit.w
	ordinal, sends := p.ordinal, p.sends
	w.k.at(p.sentAt.add(p.wait), func() {
		if e.closed || p.ordinal != ordinal || p.current == nil || p.sends != sends {
			return
		}
		if p.sends >= maxSends {
			w.count.LinksFailed++
			e.fail()
			return
		}
		p.wait *= 2
		e.kit.ledger.resent(len(p.current))
		e.transmit()
	})
}

// Suspect tells that nothing sent is acknowledged for now (RFC 6940 §6.6.3.1).
func (e *End) Suspect() bool { return e.out.suspect }

// Peer is who is at the far end, as its certificate said.
func (e *End) Peer() *ident.Peer { return e.peer }

// Heard is when anything came from the far end, acknowledgements included.
func (e *End) Heard() time.Time { return e.heard.time() }

// Start is peer.Link's: from now on messages are delivered.
func (e *End) Start() { e.started = true }

// Check is peer.Link's: a STUN Binding request, whose answer shows in Heard.
func (e *End) Check() bool {
	w := e.kit.w
	if e.closed || !e.attached {
		return false
	}
	e.kit.ledger.Keepalives += iceCheckSize
	if w.lost() {
		return true
	}
	w.k.after(w.latency(), func() {
		if e.closed || e.far.closed || !w.reach(e.kit, e.far.kit) {
			return
		}
		e.far.heard = w.k.now
		e.far.kit.ledger.Keepalives += iceCheckSize
		if w.lost() {
			return
		}
		w.k.after(w.latency(), func() { e.heard = max(e.heard, w.k.now) })
	})
	return true
}

// Close says goodbye.
func (e *End) Close() error {
	if e.closed {
		return nil
	}
	e.end()
	w, far := e.kit.w, e.far
	e.kit.ledger.Packets += goodbye
	if far.closed {
		return nil
	}
	if w.lost() {
		far.failLater()
		return nil
	}
	island := e.kit.island
	w.k.after(w.latency(), func() {
		switch {
		case far.closed:
		case far.kit.alive && far.kit.island == island:
			far.kit.ledger.Packets += goodbye
			far.fail()
		default:
			far.failLater()
		}
	})
	return nil
}

// failLater is how an end that the other side has left finds out: ICE gets no more consent, or, on a bootstrap
// link, nothing comes for too long.
func (e *End) failLater() {
	d := consentTimeout
	if !e.attached {
		d = bootIdle
	}
	e.kit.w.k.after(d, func() {
		if !e.closed && (e.far.closed || !e.kit.w.reach(e.kit, e.far.kit)) {
			e.fail()
		}
	})
}

// fail ends the link from below and tells the peer.
func (e *End) fail() {
	if e.closed {
		return
	}
	e.end()
	e.kit.linkDown(e)
}

// end takes the end out of its kit.
func (e *End) end() {
	e.bill()
	e.closed = true
	e.out = pipe{}
	list := e.kit.ends
	last := list[len(list)-1]
	list[e.slot], last.slot = last, e.slot
	list[len(list)-1] = nil
	e.kit.ends = list[:len(list)-1]
}

// bill enters what ICE sent from this end to keep the link alive.
func (e *End) bill() {
	now := e.kit.w.k.now
	if e.attached {
		e.kit.ledger.Keepalives += uint64(now.since(e.billed).Seconds() * keepaliveRate / 2)
	}
	e.billed = now
}
