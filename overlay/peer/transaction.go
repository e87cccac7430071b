package peer

import (
	"fmt"
	"slices"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// transaction is one request of this peer that waits for its answer.
type transaction struct {
	msg   *wire.Message // once signed, resent as it is
	rest  []byte        // what follows the forwarding header
	link  *link         // pinned to this link, else routed anew each time
	sends int
	timer *alarm
	done  func(Reply) // nil when it has ended
}

// Reply is how a request ended: Err, or a verified answer and who signed it.
type Reply struct {
	Peer    *ident.Peer
	Message *wire.Message
	Err     error
}

// Outgoing is a request to be made.
type Outgoing struct {
	Dest         []wire.Destination
	Code         wire.MessageCode
	Body         []byte
	Extensions   []wire.Extension
	Signer       *ident.Signer      // nil: the peer itself
	Certificates []wire.Certificate // of the signers of stored values in the body

	link   *link // send over this link only
	once   bool  // no end-to-end retransmission: the answer matters now or never
	seqAny bool  // configuration_sequence 65535 (RFC 6940 §6.3.2.1)
}

func (p *Peer) newMessage(o *Outgoing) *wire.Message {
	m := &wire.Message{
		Header: wire.Header{
			Overlay: p.params.overlay, ConfigSequence: p.params.sequence, Version: wire.Version,
			TTL: p.params.initialTTL, Fragment: wire.Unfragmented, TransactionID: p.rng.Uint64(),
			Dest: o.Dest,
		},
		Code: o.Code, Body: o.Body, Extensions: o.Extensions,
	}
	if o.seqAny {
		m.ConfigSequence = wire.AnySequence
	}
	// The certificates that the stored values in the body need stay behind the signer's own.
	m.Security.Certificates = o.Certificates
	return m
}

// send makes a request. done is called once, later, when it has ended, unless the request is dropped.
func (p *Peer) send(o Outgoing, done func(Reply)) *transaction {
	t := &transaction{link: o.link, done: done}
	if o.once {
		t.sends = maxSends - 1
	}
	if len(p.txns) >= MaxTransactions {
		p.count.TransactionsFull++
		p.soon(func() { p.finish(t, Reply{Err: ErrBusy}) })
		return t
	}
	t.msg = p.newMessage(&o)
	crypto, signer := p.cfg.Crypto, o.Signer
	if !p.work(Signing, func() func() {
		err := crypto.Sign(t.msg, signer)
		return func() {
			if err == nil {
				err = p.begin(t)
			} else {
				err = fmt.Errorf("signature of the message: %w", err)
			}
			if err != nil {
				p.finish(t, Reply{Err: err})
			}
		}
	}) {
		p.soon(func() { p.finish(t, Reply{Err: ErrBusy}) })
	}
	return t
}

// begin starts the transaction of a signed request.
func (p *Peer) begin(t *transaction) error {
	if t.done == nil {
		return nil // nobody wants it any more
	}
	b, err := t.msg.AppendBinary(nil)
	if err != nil {
		return err
	}
	if len(b) > int(p.params.maxMessage) {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, len(b))
	}
	if _, t.rest, err = wire.ParseHeader(b); err != nil {
		return err
	}
	if len(p.txns) >= MaxTransactions {
		p.count.TransactionsFull++
		return ErrBusy
	}
	if _, taken := p.txns[t.msg.TransactionID]; taken {
		return fmt.Errorf("%w: transaction ID in use", ErrBusy)
	}
	p.txns[t.msg.TransactionID] = t
	p.count.Requests++
	p.traffic.byCode[p.traffic.slot(t.msg.Code)].sent++
	p.resend(t)
	return nil
}

// resend is the end-to-end reliability of RFC 6940 §6.2.1: "If a response has not been received when the
// timer fires, the request MUST be retransmitted with the same transaction identifier. The request MAY
// be retransmitted up to 4 times, for a total of 5 messages. After the timer for the fifth transmission
// fires, the message MUST be considered to have failed."
func (p *Peer) resend(t *transaction) {
	if t.sends == maxSends {
		p.count.Timeouts++
		p.finish(t, Reply{Err: ErrTimeout})
		return
	}
	t.sends++
	t.timer = p.move(t.timer, p.params.reliability, func() { p.resend(t) })
	h, to := t.msg.Header, t.link
	if to == nil {
		d := h.Dest[0]
		if p.isLocal(d) {
			p.soon(func() { p.route(&arrival{Header: h, rest: t.rest}) })
			return
		}
		if t.sends == 1 && len(h.Dest) == 1 && d.Type == wire.DestResource {
			if to = p.owner(d.Resource); to != nil {
				h.Dest = []wire.Destination{wire.ToNode(to.peer), d}
			}
		}
		if to == nil {
			to = p.linkTo(d)
		}
	}
	if to == nil || to.closed {
		p.count.Unroutable++ // there may be a way when the timer fires
		return
	}
	p.transmit(to, &h, t.rest)
}

// owner is the link to the peer that is responsible for a resource, where this peer sees the whole ring. By the rule of
// RFC 6940 §10.3 a request goes to the last peer before a resource, which hands it to the responsible one. Who names
// that one in the Destination List spares a hop, and there is no third that could swallow the request. If it is not
// responsible after all it sends the request on, and if it does not answer the retransmissions go the other way.
func (p *Peer) owner(res wire.ResourceID) *link {
	// In a large ring some have no more links than a small ring has members.
	if len(p.topo.members) > max(p.cfg.Chord.FullMesh, chord.DefaultFullMesh) || !p.chord.Whole() {
		return nil
	}
	set := p.chord.ReplicaSet(res)
	if len(set) == 0 {
		return nil
	}
	return p.conns.best(set[0])
}

// isLocal reports whether a message whose first destination is d is this node's to receive.
func (p *Peer) isLocal(d wire.Destination) bool {
	switch d.Type {
	case wire.DestNode:
		return p.isSelf(d.Node) || d.Node.IsWildcard()
	case wire.DestResource:
		return p.chord.NextHop(d).Local
	}
	return false
}

// finish ends a transaction, whatever state it is in; the second time it does nothing.
func (p *Peer) finish(t *transaction, r Reply) {
	done := t.done
	p.drop(t)
	if done != nil {
		done(r)
	}
}

// drop forgets a transaction: done is not called any more, and an answer that still comes is unmatched.
func (p *Peer) drop(t *transaction) {
	t.done = nil
	if t.msg != nil && p.txns[t.msg.TransactionID] == t {
		delete(p.txns, t.msg.TransactionID)
	}
	p.alarms.stop(t.timer)
}

// response matches a verified answer with its request.
func (p *Peer) response(m *wire.Message, v verdict) {
	t := p.txns[m.TransactionID]
	c := &p.count
	if t == nil {
		c.Unmatched++
		return
	}
	if m.Code != wire.ErrorAns && m.Code != t.msg.Code.Answer() || !p.mayAnswer(t.msg.Dest, v.peer.NodeID) {
		c.WrongResponder++
		return
	}
	if hasCritical(m.Extensions) {
		c.UnknownOption++
		p.finish(t, Reply{Err: fmt.Errorf("answer of %s: unknown critical extension", v.peer.NodeID)})
		return
	}
	if m.Code == wire.ErrorAns {
		e, err := wire.ParseErrorResponse(m.Body)
		if err != nil {
			c.Malformed++
			return
		}
		c.ErrorAnswers++
		p.outdated(t, v.peer.NodeID, e)
		p.finish(t, Reply{Peer: v.peer, Err: &RemoteError{Code: e.Code, Info: e.Info, From: v.peer.NodeID}})
		return
	}
	p.finish(t, Reply{Peer: v.peer, Message: m})
}

// mayAnswer is the check of the responder in RFC 6940 §6.3.4. Its second rule is for requests routed
// conventionally: one that was source-routed may have been sent to find a peer of another ring, whose
// answer is wanted just because it is not the closest known (§10.7.4.4).
func (p *Peer) mayAnswer(dest []wire.Destination, from wire.NodeID) bool {
	last := dest[len(dest)-1]
	switch {
	case last.Type == wire.DestNode:
		// "The response to a message sent to a Node-ID MUST have been sent by that Node-ID unless the
		// response has been sent to the wildcard Node-ID."
		return last.Node == from || last.Node.IsWildcard()
	case last.Type == wire.DestResource && len(dest) == 1:
		// "… MUST have been sent by a Node-ID which is at least as close to the target Resource-ID as
		// any node in the requesting node's Neighbor Table."
		return p.closest(last.Resource, from)
	}
	return true
}

// hasCritical reports whether there is an extension that is critical and unknown here. Those that are known are ignored
// where they mean nothing: "Receivers who receive a method other than Ping including this extension MUST ignore the
// extension" (RFC 7851 §4.2.1).
func hasCritical(list []wire.Extension) bool {
	return slices.ContainsFunc(list, func(e wire.Extension) bool {
		return e.Critical && e.Type != wire.ExtensionDiagnosticPing && e.Type != wire.ExtensionSelfTuning
	})
}
