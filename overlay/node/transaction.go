package node

import (
	"fmt"
	"math/rand/v2"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// transaction is one request of this node that waits for its answer.
type transaction struct {
	msg   *wire.Message // signed; resent as it is
	rest  []byte        // what follows the forwarding header
	link  *link         // pinned to this link, else routed anew each time
	sends int
	timer *alarm
	done  func(reply)
}

// reply is how a transaction ended: err, or a verified message.
type reply struct {
	peer *ident.Peer
	msg  *wire.Message
	body body
	err  error
}

// outgoing is a request to be made.
type outgoing struct {
	dest   []wire.Destination
	code   wire.MessageCode
	body   []byte
	signer *ident.Signer      // nil: the kit itself
	certs  []wire.Certificate // of the signers of stored values in the body
	link   *link              // send over this link only
	once   bool               // no end-to-end retransmission: the answer matters now or never
	seqAny bool               // configuration_sequence 65535 (RFC 6940 §6.3.2.1)
}

// newMessage fills the header of a request. The transaction ID "MUST be randomly generated"
// (RFC 6940 §6.3.2); rand/v2's top-level source is ChaCha8 seeded by the system.
func (n *Node) newMessage(o *outgoing) *wire.Message {
	m := &wire.Message{
		Header: wire.Header{
			Overlay: n.params.overlay, ConfigSequence: n.params.sequence, Version: wire.Version,
			TTL: n.params.initialTTL, Fragment: wire.Unfragmented, TransactionID: rand.Uint64(),
			Dest: o.dest,
		},
		Code: o.code, Body: o.body,
	}
	if o.seqAny {
		m.ConfigSequence = wire.AnySequence
	}
	return m
}

// sign signs m and adds the certificates that the stored values in it need. It is slow: workers and
// API callers run it, never the loop.
func (n *Node) sign(m *wire.Message, s *ident.Signer, certs []wire.Certificate) error {
	if s == nil {
		s = n.cfg.Identity.Signer()
	}
	m.Security.Certificates = certs
	if err := ident.Sign(m, s); err != nil {
		return fmt.Errorf("signature of the message: %w", err)
	}
	return nil
}

// send makes a request and calls done on the loop, once, when it has ended.
func (l *loop) send(o outgoing, done func(reply)) { l.sendMessage(l.n.newMessage(&o), o, done) }

func (l *loop) sendMessage(m *wire.Message, o outgoing, done func(reply)) {
	if len(l.txns) >= maxTransactions {
		l.n.counters.TransactionsFull.Add(1)
		l.soon(func() { done(reply{err: ErrBusy}) })
		return
	}
	if !l.urgent(func() func(*loop) {
		err := l.n.sign(m, o.signer, o.certs)
		return func(l *loop) {
			if err != nil {
				done(reply{err: err})
				return
			}
			l.begin(m, o, done)
		}
	}) {
		l.soon(func() { done(reply{err: ErrBusy}) })
	}
}

// begin starts the transaction of a signed request.
func (l *loop) begin(m *wire.Message, o outgoing, done func(reply)) *transaction {
	t := &transaction{msg: m, link: o.link, done: done}
	b, err := m.AppendBinary(nil)
	if err == nil && len(b) > int(l.n.params.maxMessage) {
		err = fmt.Errorf("%w: %d bytes", ErrTooLarge, len(b))
	}
	if err == nil {
		_, t.rest, err = wire.ParseHeader(b)
	}
	if err == nil && len(l.txns) >= maxTransactions {
		l.n.counters.TransactionsFull.Add(1)
		err = ErrBusy
	}
	if _, taken := l.txns[m.TransactionID]; err == nil && taken {
		err = fmt.Errorf("%w: transaction ID in use", ErrBusy)
	}
	if err != nil {
		l.soon(func() { done(reply{err: err}) })
		return nil
	}
	if o.once {
		t.sends = maxSends - 1
	}
	l.txns[m.TransactionID] = t
	l.n.counters.Requests.Add(1)
	l.resend(t)
	return t
}

// resend is the end-to-end reliability of RFC 6940 §6.2.1: "If a response has not been received when the
// timer fires, the request MUST be retransmitted with the same transaction identifier. The request MAY
// be retransmitted up to 4 times, for a total of 5 messages. After the timer for the fifth transmission
// fires, the message MUST be considered to have failed."
func (l *loop) resend(t *transaction) {
	if t.sends == maxSends {
		l.n.counters.Timeouts.Add(1)
		l.finish(t, reply{err: ErrTimeout})
		return
	}
	t.sends++
	t.timer = l.move(t.timer, l.n.params.reliability, func() { l.resend(t) })
	to := t.link
	if to == nil {
		d := t.msg.Dest[0]
		if l.isLocal(d) {
			h := t.msg.Header
			l.soon(func() { l.route(&arrival{h, t.rest, nil}) })
			return
		}
		to = l.linkTo(d)
	}
	if to == nil || to.closed {
		l.n.counters.Unroutable.Add(1) // there may be a way when the timer fires
		return
	}
	l.transmit(to, &t.msg.Header, t.rest)
}

// isLocal reports whether a message whose first destination is d is this node's to receive.
func (l *loop) isLocal(d wire.Destination) bool {
	switch d.Type {
	case wire.DestNode:
		return d.Node == l.id() || d.Node.IsWildcard()
	case wire.DestResource:
		return l.chord.NextHop(d).Local
	}
	return false
}

// finish ends a transaction that still runs.
func (l *loop) finish(t *transaction, r reply) {
	if l.txns[t.msg.TransactionID] != t {
		return
	}
	delete(l.txns, t.msg.TransactionID)
	l.alarms.stop(t.timer)
	t.done(r)
}

// response matches a verified answer with its request.
func (l *loop) response(m *wire.Message, v verdict) {
	t := l.txns[m.TransactionID]
	c := &l.n.counters
	if t == nil {
		c.Unmatched.Add(1)
		return
	}
	if m.Code != wire.ErrorAns && m.Code != t.msg.Code.Answer() || !l.mayAnswer(t.msg.Dest, v.peer.NodeID) {
		c.WrongResponder.Add(1)
		return
	}
	if slicesHasCritical(m.Extensions) {
		c.UnknownOption.Add(1)
		l.finish(t, reply{err: fmt.Errorf("answer of %s: unknown critical extension", v.peer.NodeID)})
		return
	}
	if m.Code == wire.ErrorAns {
		e, err := wire.ParseErrorResponse(m.Body)
		if err != nil {
			c.Malformed.Add(1)
			return
		}
		c.ErrorAnswers.Add(1)
		l.outdated(t, v.peer.NodeID, e)
		l.finish(t, reply{peer: v.peer, err: &RemoteError{Code: e.Code, Info: e.Info, From: v.peer.NodeID}})
		return
	}
	l.finish(t, reply{peer: v.peer, msg: m, body: v.body})
}

// mayAnswer is the check of the responder in RFC 6940 §6.3.4. Its second rule is for requests routed
// conventionally: one that was source-routed may have been sent to find a peer of another ring, whose
// answer is wanted just because it is not the closest known (§10.7.4.4).
func (l *loop) mayAnswer(dest []wire.Destination, from wire.NodeID) bool {
	last := dest[len(dest)-1]
	switch {
	case last.Type == wire.DestNode:
		// "The response to a message sent to a Node-ID MUST have been sent by that Node-ID unless the
		// response has been sent to the wildcard Node-ID."
		return last.Node == from || last.Node.IsWildcard()
	case last.Type == wire.DestResource && len(dest) == 1:
		// "… MUST have been sent by a Node-ID which is at least as close to the target Resource-ID as
		// any node in the requesting node's Neighbor Table."
		return l.closest(last.Resource, from)
	}
	return true
}

func slicesHasCritical(list []wire.Extension) bool {
	for _, e := range list {
		if e.Critical {
			return true
		}
	}
	return false
}
