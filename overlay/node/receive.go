package node

import (
	"slices"

	"fieldkit/overlay/wire"
)

// arrival is one message or fragment on its way through the receipt rules: its header, what follows
// the header, and the link it came by (nil: this node's own).
type arrival struct {
	wire.Header
	rest []byte
	from *link
}

// isRequest reports whether this is a request, or the beginning of one. A source-routed probe may
// rightly come through the same node twice on its way back, so only requests are held to §13.6.5.
func (a *arrival) isRequest() bool {
	return a.Offset() == 0 && len(a.rest) >= 2 && wire.MessageCode(uint16(a.rest[0])<<8|uint16(a.rest[1])).IsRequest()
}

// receive is RFC 6940 §6.1 for bytes that came by a link.
func (l *loop) receive(from *link, b []byte) {
	from.heard = l.now
	c := &l.n.counters
	if len(b) > int(l.n.params.maxMessage) {
		// RFC 6940 §6.6: a message larger than the maximum is answered with Error_Message_Too_Large
		// and the connection closed.
		c.TooLarge.Add(1)
		if h, rest, err := wire.ParseHeader(b); err == nil {
			l.refuse(&arrival{h, rest, from}, wire.ErrorMessageTooLarge, "")
		}
		l.dropLink(from, "message above the maximum size")
		return
	}
	h, rest, err := wire.ParseHeader(b)
	if err != nil {
		c.Malformed.Add(1)
		return
	}
	a := &arrival{h, rest, from}
	switch {
	case h.Overlay != l.n.params.overlay:
		c.WrongOverlay.Add(1)
		l.refuse(a, wire.ErrorIncompatibleWithOverlay, "overlay")
	case h.Version != wire.Version:
		c.WrongVersion.Add(1)
		l.refuse(a, wire.ErrorIncompatibleWithOverlay, "version")
	case h.TTL > l.n.params.initialTTL:
		// "Implementations which receive messages with a TTL greater than the current value of
		// initial-ttl … MUST discard the message and send an Error_TTL_Exceeded error" (§6.3.2)
		c.TTLExceeded.Add(1)
		l.refuse(a, wire.ErrorTTLExceeded, "")
	default:
		l.route(a)
	}
}

// route is the treatment of the first entry of the Destination List, RFC 6940 §6.1.1 to §6.1.3.
func (l *loop) route(a *arrival) {
	c := &l.n.counters
	if len(a.Via) > maxVia || slices.ContainsFunc(a.Via, isResource) {
		c.Malformed.Add(1) // "resource … MUST NOT appear in a Via List" (§6.3.2.2)
		return
	}
	if a.isRequest() && repeated(a.Dest) {
		c.Malformed.Add(1)
		l.refuse(a, wire.ErrorInvalidMessage, "repeated destination") // §13.6.5
		return
	}
	for len(a.Dest) > 0 {
		d := a.Dest[0]
		last := len(a.Dest) == 1
		switch d.Type {
		case wire.DestResource:
			if !last {
				// "it MUST be the only entry on the Destination List. If there are other entries,
				// the message MUST be silently dropped." (§6.1.1)
				c.Unroutable.Add(1)
				return
			}
			if l.chord.NextHop(d).Local {
				l.deliver(a)
				return
			}
			l.forward(a)
			return
		case wire.DestNode:
			switch {
			case d.Node.IsWildcard():
				l.deliver(a) // "A message with a wildcard Node-ID as its first entry is never forwarded"
				return
			case d.Node == l.id():
				if last {
					l.deliver(a)
					return
				}
				a.Dest = a.Dest[1:]
				continue
			}
			// Where this node is responsible for the Node-ID, forward finds no way but to a node that is
			// directly connected: "If the entry is a Node-ID which is not equal to this node, then the
			// node MUST drop the message silently unless the Node-ID corresponds to a node which is
			// directly connected to this node (i.e., a client)" (§6.1.1).
			l.forward(a)
			return
		default:
			// This node compresses no lists, so no opaque ID is its own (§6.1.3): like one whose
			// generation counter does not match, it is silently dropped (§6.3.2.2).
			c.Unroutable.Add(1)
			return
		}
	}
	c.Malformed.Add(1)
}

func isResource(d wire.Destination) bool { return d.Type == wire.DestResource }

func repeated(list []wire.Destination) bool {
	for i, d := range list {
		for _, e := range list[:i] {
			if d.Type == e.Type && d.Node == e.Node && d.Resource == e.Resource && string(d.Opaque) == string(e.Opaque) {
				return true
			}
		}
	}
	return false
}

// linkTo is the link towards d: its own, else that of the next hop; nil when there is none.
func (l *loop) linkTo(d wire.Destination) *link {
	if d.Type == wire.DestNode {
		if k := l.conns.best(d.Node); k != nil {
			return k
		}
	}
	hop := l.chord.NextHop(d)
	if hop.Local || hop.Via.IsZero() {
		return nil
	}
	return l.conns.best(hop.Via)
}

// forward is RFC 6940 §6.1.2.
func (l *loop) forward(a *arrival) {
	c := &l.n.counters
	if a.TTL == 0 {
		// "If a received message has a TTL of 0 and the message is not destined for the receiving
		// node, then the message MUST NOT be propagated further" (§6.3.2)
		c.TTLExceeded.Add(1)
		l.refuse(a, wire.ErrorTTLExceeded, "")
		return
	}
	for _, o := range a.Options {
		if o.Flags&wire.ForwardCritical != 0 {
			// No option is understood here (§6.3.2.3).
			c.UnknownOption.Add(1)
			l.refuse(a, wire.ErrorUnsupportedForwardingOption, "")
			return
		}
	}
	to := l.linkTo(a.Dest[0])
	if to == nil || to == a.from {
		c.Unroutable.Add(1)
		return
	}
	if a.from == nil {
		l.transmit(to, &a.Header, a.rest)
		return
	}
	h := a.Header
	// "appending to the Via List the Node-ID of the node from which the request was received"
	h.Via = append(slices.Clip(slices.Clone(a.Via)), wire.ToNode(a.from.peer))
	c.Forwarded.Add(1)
	l.transmit(to, &h, a.rest)
}

// transmit sends a message or fragment over a link, in fragments when it is larger than the link
// carries (RFC 6940 §6.7). "The TTL … MUST be decremented by one at every hop along the route the
// message traverses just before transmission" (§6.3.2).
func (l *loop) transmit(to *link, h *wire.Header, rest []byte) {
	c := &l.n.counters
	out := *h
	if out.TTL > 0 {
		out.TTL--
	}
	b, err := out.AppendForward(nil, rest)
	if err != nil {
		c.Unencodable.Add(1)
		return
	}
	parts := [][]byte{b}
	if len(b) > linkMTU {
		if parts, err = wire.Fragment(b, linkMTU); err != nil {
			c.Unencodable.Add(1)
			return
		}
	}
	for _, p := range parts {
		if err := to.conn.Send(p); err != nil {
			c.SendFailed.Add(1)
			return
		}
		c.Sent.Add(1)
	}
	to.sent = l.now
}

// deliver takes a message that is destined for this node, in whole or in fragments.
func (l *loop) deliver(a *arrival) {
	c := &l.n.counters
	b, err := a.AppendForward(nil, a.rest)
	if err != nil {
		c.Malformed.Add(1)
		return
	}
	if a.IsFragment() {
		source := l.id()
		if a.from != nil {
			source = a.from.peer
		}
		// Above the maximum size nothing is put together, and so nothing is there to be answered.
		whole, err := l.frags.Add(l.now, source, b)
		if err != nil {
			c.FragmentsDropped.Add(1)
			return
		}
		if whole == nil {
			return
		}
		b = whole
	}
	m, err := wire.Parse(b)
	if err != nil {
		c.Malformed.Add(1)
		return
	}
	l.accept(a.from, m)
}

// accept checks what can be checked before a signature is, and hands the message to a worker. "Upon
// receipt (and fragment reassembly, if needed), the destination node MUST verify the signature and the
// authorizing certificate. If the signature fails, the implementation SHOULD simply drop the message and
// MUST NOT process it." (RFC 6940 §6.3.4)
func (l *loop) accept(from *link, m *wire.Message) {
	c := &l.n.counters
	if !m.Code.IsRequest() {
		if _, ok := l.txns[m.TransactionID]; !ok {
			c.Unmatched.Add(1) // late, or never asked for: not worth a verification
			return
		}
	}
	if from != nil {
		if from.verifying >= verifyPerLink {
			c.VerifyDropped.Add(1)
			return
		}
		from.verifying++
	}
	if !l.work(func() func(*loop) {
		v := l.n.verify(m)
		return func(l *loop) {
			if from != nil {
				from.verifying--
			}
			l.verified(from, m, v)
		}
	}) && from != nil {
		from.verifying--
	}
}

// verified goes on with a message whose signature was checked.
func (l *loop) verified(from *link, m *wire.Message, v verdict) {
	if v.err != nil {
		l.n.counters.BadSignature.Add(1)
		l.noteStranger(from, v.err)
		return
	}
	if m.Code.IsRequest() {
		l.request(&request{Message: m, from: from, peer: v.peer, body: v.body})
		return
	}
	l.response(m, v)
}

// refuse answers a request that was not verified with an error, unless the link already got its share
// of such answers. Fragments other than the first say neither what nor who they are.
func (l *loop) refuse(a *arrival, code wire.ErrorCode, info string) {
	if a.from == nil || !a.isRequest() || !a.from.errors.take(l.now) {
		return
	}
	m := &wire.Message{Header: a.Header}
	l.answer(&request{Message: m, from: a.from}, wire.ErrorAns, errorBody(code, []byte(info)), nil)
}

func errorBody(code wire.ErrorCode, info []byte) []byte {
	b, err := wire.ErrorResponse{Code: code, Info: info}.AppendBinary(nil)
	if err != nil { // info longer than 65535 bytes: none of ours is
		b, _ = wire.ErrorResponse{Code: code}.AppendBinary(nil)
	}
	return b
}
