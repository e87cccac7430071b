package peer

import (
	"slices"

	"fieldkit/overlay/wire"
)

// arrival is one message or fragment on its way through the receipt rules: its header, what follows
// the header, and the link it came by (nil: this node's own).
type arrival struct {
	wire.Header
	rest  []byte
	from  *link
	named bool // this node was in the Destination List
}

// isRequest reports whether this is a request, or the beginning of one. A source-routed probe may
// rightly come through the same node twice on its way back, so only requests are held to §13.6.5.
func (a *arrival) isRequest() bool { return a.code().IsRequest() }

// isResponse reports whether this is a response, or the beginning of one.
func (a *arrival) isResponse() bool { c := a.code(); return c != 0 && !c.IsRequest() }

// code is the message's; 0 for fragments other than the first, which do not say.
func (a *arrival) code() wire.MessageCode {
	if a.Offset() != 0 || len(a.rest) < 2 {
		return 0
	}
	return wire.MessageCode(uint16(a.rest[0])<<8 | uint16(a.rest[1]))
}

// receive is RFC 6940 §6.1 for bytes that came by a link.
func (p *Peer) receive(from *link, b []byte) {
	from.heard = p.now
	p.traffic.received.add(p.now, len(b))
	c := &p.count
	if len(b) > int(p.params.maxMessage) {
		// RFC 6940 §6.6: a message larger than the maximum is answered with Error_Message_Too_Large
		// and the connection closed.
		c.TooLarge++
		if h, rest, err := wire.ParseHeader(b); err == nil {
			p.refuse(&arrival{Header: h, rest: rest, from: from}, wire.ErrorMessageTooLarge, "")
		}
		p.dropLink(from, "message above the maximum size")
		return
	}
	h, rest, err := wire.ParseHeader(b)
	if err != nil {
		c.Malformed++
		return
	}
	a := &arrival{Header: h, rest: rest, from: from}
	switch {
	case h.Overlay != p.params.overlay:
		c.WrongOverlay++
		p.refuse(a, wire.ErrorIncompatibleWithOverlay, "overlay")
	case h.Version != wire.Version:
		c.WrongVersion++
		p.refuse(a, wire.ErrorIncompatibleWithOverlay, "version")
	case h.TTL > p.params.initialTTL:
		// "Implementations which receive messages with a TTL greater than the current value of
		// initial-ttl … MUST discard the message and send an Error_TTL_Exceeded error" (§6.3.2)
		c.TTLExceeded++
		p.refuse(a, wire.ErrorTTLExceeded, "")
	case from.unsaid && a.isRequest() && a.code() != wire.PingReq && a.code() != wire.AttachReq:
		// "If a node with a certificate with multiple Node-IDs attempts to route a message other than a Ping or Attach
		// through a node without performing an Attach, the receiving node MUST reject the request with an
		// Error_Forbidden error." (§6.1.2)
		c.NotDirect++
		p.refuse(a, wire.ErrorForbidden, "Attach first")
	default:
		p.route(a)
	}
}

// route is the treatment of the first entry of the Destination List, RFC 6940 §6.1.1 to §6.1.3.
func (p *Peer) route(a *arrival) {
	c := &p.count
	if len(a.Via) > maxVia || slices.ContainsFunc(a.Via, isResource) {
		c.Malformed++ // "resource … MUST NOT appear in a Via List" (§6.3.2.2)
		return
	}
	if a.isRequest() && repeated(a.Dest) {
		c.Malformed++
		p.refuse(a, wire.ErrorInvalidMessage, "repeated destination") // §13.6.5
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
				c.Unroutable++
				return
			}
			if p.chord.NextHop(d).Local {
				p.deliver(a)
				return
			}
			p.forward(a)
			return
		case wire.DestNode:
			switch {
			case d.Node.IsWildcard():
				p.deliver(a) // "A message with a wildcard Node-ID as its first entry is never forwarded"
				return
			case p.isSelf(d.Node):
				if last {
					p.deliver(a)
					return
				}
				a.Dest, a.named = a.Dest[1:], true
				continue
			}
			// Where this node is responsible for the Node-ID, forward finds no way but to a node that is
			// directly connected: "If the entry is a Node-ID which is not equal to this node, then the
			// node MUST drop the message silently unless the Node-ID corresponds to a node which is
			// directly connected to this node (i.e., a client)" (§6.1.1).
			p.forward(a)
			return
		default:
			list, ok := p.expand(d, a.from)
			if !ok {
				// "If it does not match, the message MUST be silently dropped." (§6.3.2.2)
				c.Unroutable++
				return
			}
			// "and then re-examine the Destination List" (§6.1.3), which begins with a Node-ID now: that of the
			// node that the request came from.
			a.Dest = append(list, a.Dest[1:]...)
		}
	}
	c.Malformed++
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
func (p *Peer) linkTo(d wire.Destination) *link {
	if d.Type == wire.DestNode {
		if k := p.conns.best(d.Node); k != nil {
			return k
		}
	}
	hop := p.chord.NextHop(d)
	if hop.Local || hop.Via.IsZero() {
		return nil
	}
	return p.conns.best(hop.Via)
}

// forward is RFC 6940 §6.1.2.
func (p *Peer) forward(a *arrival) {
	c := &p.count
	to := p.linkTo(a.Dest[0])
	if p.diagnose(a, to) {
		return
	}
	if a.TTL == 0 {
		// "If a received message has a TTL of 0 and the message is not destined for the receiving
		// node, then the message MUST NOT be propagated further" (§6.3.2)
		c.TTLExceeded++
		p.refuse(a, wire.ErrorTTLExceeded, "")
		return
	}
	for _, o := range a.Options {
		if o.Flags&wire.ForwardCritical != 0 {
			// No option is understood here (§6.3.2.3).
			c.UnknownOption++
			p.refuse(a, wire.ErrorUnsupportedForwardingOption, "")
			return
		}
	}
	if to == nil || to == a.from || p.cfg.Client && a.from != nil { // a client routes for nobody (§4.2)
		c.Unroutable++
		return
	}
	if a.from == nil {
		p.transmit(to, &a.Header, a.rest)
		return
	}
	h := a.Header
	if !a.isResponse() {
		// "appending to the Via List the Node-ID of the node from which the request was received"; "there is no
		// requirement to use either of the mechanisms described above […] when processing a response message"
		h.Via = append(slices.Clip(slices.Clone(a.Via)), wire.ToNode(a.from.peer))
		if len(h.Via) > viaBound {
			if id, ok := p.compress(h.Via, to.peer); ok {
				c.Compressed++
				h.Via = []wire.Destination{id}
			}
		}
	}
	c.Forwarded++
	p.transmit(to, &h, a.rest)
}

// transmit sends a message or fragment over a link, in fragments when it is larger than the link
// carries (RFC 6940 §6.7). "The TTL … MUST be decremented by one at every hop along the route the
// message traverses just before transmission" (§6.3.2).
func (p *Peer) transmit(to *link, h *wire.Header, rest []byte) {
	c := &p.count
	out := *h
	if out.TTL > 0 {
		out.TTL--
	}
	const entry = 2 + wire.MaxNodeIDLen // of a list; what else there may be makes the buffer grow
	b, err := out.AppendForward(make([]byte, 0, wire.FixedHeaderLen+entry*(len(out.Via)+len(out.Dest))+len(rest)), rest)
	if err != nil {
		c.Unencodable++
		return
	}
	parts := [][]byte{b}
	if len(b) > linkMTU {
		if parts, err = wire.Fragment(b, linkMTU); err != nil {
			c.Unencodable++
			return
		}
	}
	for _, part := range parts {
		if err := to.conn.Send(part); err != nil {
			c.SendFailed++
			return
		}
		c.Sent++
		p.traffic.sent.add(p.now, len(part))
	}
}

// deliver takes a message that is destined for this node, in whole or in fragments.
func (p *Peer) deliver(a *arrival) {
	c := &p.count
	b, err := a.AppendForward(nil, a.rest)
	if err != nil {
		c.Malformed++
		return
	}
	if a.IsFragment() {
		source := p.cfg.ID
		if a.from != nil {
			source = a.from.peer
		}
		// Above the maximum size nothing is put together, and so nothing is there to be answered.
		whole, err := p.frags.Add(p.now, source, b)
		if err != nil {
			c.FragmentsDropped++
			return
		}
		if whole == nil {
			return
		}
		b = whole
	}
	m, err := wire.Parse(b)
	if err != nil {
		c.Malformed++
		return
	}
	p.accept(a.from, m)
}

// accept checks what can be checked before a signature is, and hands the message to a worker. "Upon
// receipt (and fragment reassembly, if needed), the destination node MUST verify the signature and the
// authorizing certificate. If the signature fails, the implementation SHOULD simply drop the message and
// MUST NOT process it." (RFC 6940 §6.3.4)
func (p *Peer) accept(from *link, m *wire.Message) {
	c := &p.count
	if !m.Code.IsRequest() {
		if _, ok := p.txns[m.TransactionID]; !ok {
			c.Unmatched++ // late, or never asked for: not worth a verification
			return
		}
	}
	if from != nil {
		if from.verifying >= verifyPerLink {
			c.VerifyDropped++
			return
		}
		from.verifying++
	}
	f := p.verifier()
	if !p.work(Verifying, func() func() {
		v := f.message(m)
		return func() {
			if from != nil {
				from.verifying--
			}
			p.verified(from, m, v)
		}
	}) && from != nil {
		from.verifying--
	}
}

// verified goes on with a message whose signature was checked.
func (p *Peer) verified(from *link, m *wire.Message, v verdict) {
	if v.err != nil {
		p.count.BadSignature++
		p.noteStranger(from, v.err)
		return
	}
	p.traffic.byCode[p.traffic.slot(m.Code)].received++
	if m.Code.IsRequest() {
		p.request(&request{Message: m, from: from, peer: v.peer, body: v.body})
		return
	}
	p.response(m, v)
}

// refuse answers a request that was not verified with an error, unless the link already got its share
// of such answers. Fragments other than the first say neither what nor who they are.
func (p *Peer) refuse(a *arrival, code wire.ErrorCode, info string) {
	if a.from == nil || !a.isRequest() || !a.from.errors.Take(p.now) {
		return
	}
	m := &wire.Message{Header: a.Header}
	p.answer(&request{Message: m, from: a.from}, wire.ErrorAns, errorBody(code, []byte(info)), nil)
}

func errorBody(code wire.ErrorCode, info []byte) []byte {
	b, err := wire.ErrorResponse{Code: code, Info: info}.AppendBinary(nil)
	if err != nil { // info longer than 65535 bytes: none of ours is
		b, _ = wire.ErrorResponse{Code: code}.AppendBinary(nil)
	}
	return b
}
