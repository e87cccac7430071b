package sim

import (
	"errors"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/link/sr"
	"fieldkit/overlay/wire"
)

// Errors of the simulated network; those of links are sr's.
var (
	errClosed      = errors.New("simulated link: closed")
	errUnreachable = errors.New("simulated network: no answer")
)

// End is one end of a DTLS association between two kits: what a peer has in its Connection Table. Framing,
// retransmission and pauses are overlay/link's own machine; of DTLS and ICE there are the bytes and the time.
type End struct {
	kit      *Kit
	life     int // of kit, which may restart
	far      *End
	peer     *ident.Peer // who is at the far end
	attached bool
	started  bool
	closed   bool
	suspect  bool
	slot     int // in kit.ends
	sr       *sr.Reliability
	armed    instant // when wake is to happen; none: 0
	wake     func()
	made     instant
	heard    instant // proof of life
	cut      instant // when the far end got out of reach, if it is
	billed   instant // until then keep-alives are in the ledger
	again    uint64  // retransmissions in the ledger
}

func newEnd(kit, far *Kit, attached bool, rtt time.Duration) *End {
	now := kit.w.k.now
	e := &End{
		kit: kit, life: kit.life, peer: far.self, attached: attached, slot: len(kit.ends), made: now, heard: now, billed: now,
		sr: sr.New(sr.Config{MaxSend: maxFrame, MaxReceive: maxFrame, QueueMessages: queueMessages, QueueBytes: queueBytes, InitialRTT: rtt}),
	}
	e.wake = func() {
		if e.closed || e.armed == 0 || kit.w.k.now < e.armed {
			return
		}
		e.armed = 0
		e.step(sr.Input{Kind: sr.Tick})
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

// Send queues a message, which it takes over. Nothing happens within the call: sending is an event of its own.
func (e *End) Send(b []byte) error {
	if e.closed {
		return errClosed
	}
	var out [1]sr.Output
	for _, o := range e.sr.Step(e.kit.w.now(), sr.Input{Kind: sr.Send, Data: b}, out[:0]) {
		e.kit.w.count.QueueFull++
		return o.Err
	}
	e.arm()
	return nil
}

// arm makes an appointment for the machine's next deadline.
func (e *End) arm() {
	d, ok := e.sr.Deadline()
	if !ok {
		return
	}
	at := max(instantOf(d), e.kit.w.k.now, 1)
	if e.armed == 0 || at < e.armed {
		e.armed = at
		e.kit.w.k.at(at, e.wake)
	}
}

// step hands the machine one input and does what it says.
func (e *End) step(in sr.Input) {
	w := e.kit.w
	var room [4]sr.Output
	for _, o := range e.sr.Step(w.now(), in, room[:0]) {
		switch o.Kind {
		case sr.Transmit:
			e.transmit(o.Data)
		case sr.Deliver:
			e.kit.receive(e, o.Data)
		case sr.Suspected:
			e.suspect = true
		case sr.Restored:
			e.suspect = false
		case sr.Fail:
			w.count.LinksFailed++
			e.fail()
		case sr.Refuse: // answers Send
		}
		if e.closed {
			return
		}
	}
	e.arm()
}

// transmit puts one frame on the wire.
func (e *End) transmit(frame []byte) {
	w, l := e.kit.w, &e.kit.ledger
	switch again := e.sr.Stats().Retransmits; {
	case frame[0] != wire.FrameData:
		l.Acks += uint64(len(frame) + dtlsRecord + udpIP)
	case again > e.again:
		e.again = again
		l.resent(len(frame))
	default:
		l.sent(len(frame) - frameData)
	}
	if w.lost() {
		return
	}
	w.k.after(w.latency(), func() { e.far.arrive(frame) })
}

// arrive is a frame from the far end. It comes only while there is somebody at both ends of a way that works.
func (e *End) arrive(frame []byte) {
	if e.closed || !e.started || !e.kit.alive || e.kit.island != e.far.kit.island {
		return
	}
	e.heard = e.kit.w.k.now
	e.step(sr.Input{Kind: sr.Frame, Data: frame})
}

// Start is peer.Link's: from now on messages are delivered.
func (e *End) Start() { e.started = true }

// Suspect tells that nothing sent is acknowledged for now (RFC 6940 §6.6.3.1).
func (e *End) Suspect() bool { return e.suspect }

// Peer is who is at the far end, as its certificate said.
func (e *End) Peer() *ident.Peer { return e.peer }

// Heard is when the far end last proved that it lives: by a record, or by the answer to one of ICE's checks, which come
// at regular times while the way works.
func (e *End) Heard() time.Time {
	if !e.attached {
		return e.heard.time()
	}
	last := e.kit.w.k.now
	switch {
	case e.far.closed || !e.kit.w.reach(e.kit, e.far.kit):
		last = e.cut
	default:
		e.cut = 0
	}
	return max(e.heard, last-(last-e.made)%instant(consentEvery)).time()
}

// Check is peer.Link's: a STUN Binding request, whose answer shows in Heard.
func (e *End) Check() bool {
	w := e.kit.w
	if e.closed || !e.attached {
		return false
	}
	e.kit.ledger.Keepalives += checkRequest
	if w.lost() {
		return true
	}
	w.k.after(w.latency(), func() {
		if e.closed || e.far.closed || !w.reach(e.kit, e.far.kit) {
			return
		}
		e.far.kit.ledger.Keepalives += checkAnswer
		if w.lost() {
			return
		}
		w.k.after(w.latency(), func() {
			if w.reach(e.kit, e.far.kit) {
				e.heard = max(e.heard, w.k.now)
			}
		})
	})
	return true
}

// Close says goodbye.
func (e *End) Close() error {
	if e.closed {
		return nil
	}
	e.end()
	w, far, island := e.kit.w, e.far, e.kit.island
	e.kit.ledger.Goodbyes += goodbye
	if far.closed {
		return nil
	}
	if w.lost() {
		far.failLater()
		return nil
	}
	w.k.after(w.latency(), func() {
		switch {
		case far.closed:
		case far.kit.alive && far.kit.island == island:
			far.kit.ledger.Goodbyes += goodbye
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
	if e.cut == 0 {
		e.cut = e.kit.w.k.now
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
	e.kit.w.count.QueuePeak = max(e.kit.w.count.QueuePeak, e.sr.Stats().Queued)
	e.sr = nil
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
		e.kit.ledger.Keepalives += uint64(now.since(e.billed)) * keepaliveRate / 2 / uint64(time.Second)
	}
	e.billed = now
}
