package peer

import (
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// request is a verified request of another node, or of this one. peer is nil only for what refuse
// answers unverified.
type request struct {
	*wire.Message
	from *link // nil: this node's own
	peer *ident.Peer
	body body
}

// direct reports whether the request came by a channel bound to the Node-ID that signed it.
func (r *request) direct() bool { return r.from != nil && r.from.peer == r.peer.NodeID }

// answers remembers what was answered for the maximum request lifetime: "Receiving nodes MUST generate
// semantically equivalent responses to retransmissions of the same request (this can be determined by the
// transaction ID) if the request is received within the maximum request lifetime (15 seconds)"
// (RFC 6940 §6.2.1). Only requests that change something are kept; the others are processed again. Each signer
// has a share: at its limit its own oldest is forgotten, so that nobody can make this node forget what it
// answered to others. Signers are kits of the mission, and those beyond the limit are not remembered.
type answers struct {
	bySigner map[wire.NodeID]*answeredTo
	purge    *alarm
}

// answeredTo is what one signer was answered.
type answeredTo struct {
	known map[uint64]*answered
	order []*answered // by time
	bytes int
}

type answered struct {
	id   uint64
	at   time.Time
	msg  *wire.Message // nil while the request is being processed
	size int
}

func (s *answeredTo) forget(now time.Time) {
	for len(s.order) > 0 {
		e := s.order[0]
		if now.Sub(e.at) < requestLifetime && len(s.order) <= maxAnswers && s.bytes <= maxAnswerBytes {
			return
		}
		s.order[0] = nil
		s.order = s.order[1:]
		s.bytes -= e.size
		if s.known[e.id] == e {
			delete(s.known, e.id)
		}
	}
}

// forget lets go of what is too old.
func (s *answers) forget(now time.Time) {
	for id, o := range s.bySigner {
		if o.forget(now); len(o.order) == 0 {
			delete(s.bySigner, id)
		}
	}
}

// forgetAnswers has the cache emptied in time also when nobody asks for anything any more.
func (p *Peer) forgetAnswers() {
	if a := p.ans.purge; a != nil && a.index >= 0 {
		return
	}
	p.ans.purge = p.move(p.ans.purge, requestLifetime, func() {
		if p.ans.forget(p.now); len(p.ans.bySigner) > 0 {
			p.forgetAnswers()
		}
	})
}

// seen finds what was answered to r, or notes that r is being processed.
func (s *answers) seen(r *request, now time.Time) *answered {
	to := s.bySigner[r.peer.NodeID]
	if to == nil {
		if s.bySigner == nil {
			s.bySigner = make(map[wire.NodeID]*answeredTo)
		}
		s.forget(now)
		if len(s.bySigner) >= maxSigners {
			return nil
		}
		to = &answeredTo{known: make(map[uint64]*answered)}
		s.bySigner[r.peer.NodeID] = to
	}
	to.forget(now)
	if e := to.known[r.TransactionID]; e != nil {
		return e
	}
	e := &answered{id: r.TransactionID, at: now}
	to.known[e.id] = e
	to.order = append(to.order, e)
	return nil
}

// find is the entry of r, if it is being processed.
func (s *answers) find(r *request) (*answeredTo, *answered) {
	if r.peer == nil {
		return nil, nil
	}
	to := s.bySigner[r.peer.NodeID]
	if to == nil {
		return nil, nil
	}
	if e := to.known[r.TransactionID]; e != nil && e.msg == nil {
		return to, e
	}
	return nil, nil
}

// keep notes the answer to r.
func (s *answers) keep(r *request, m *wire.Message, now time.Time) {
	if to, e := s.find(r); e != nil {
		e.msg, e.size = m, len(m.Body)+256
		to.bytes += e.size
		to.forget(now)
	}
}

// drop forgets that r was being processed.
func (s *answers) drop(r *request) {
	if to, e := s.find(r); e != nil {
		delete(to.known, e.id)
	}
}

// repeatable reports whether a request may simply be processed again.
func repeatable(c wire.MessageCode) bool {
	switch c {
	case wire.PingReq, wire.ProbeReq, wire.FetchReq, wire.StatReq, wire.FindReq, wire.RouteQueryReq, wire.PathTrackReq:
		return true
	}
	return false
}

// answer sends a response along the way the request came: "the Destination List [is constructed] by
// reversing the order of the entries on the Via List" (RFC 6940 §6.2.2), and before that the node it came
// from (§6.1.2).
func (p *Peer) answer(r *request, code wire.MessageCode, b []byte, certs []wire.Certificate) {
	p.answerWith(r, code, b, certs, nil)
}

// answerWith is answer with message extensions.
func (p *Peer) answerWith(r *request, code wire.MessageCode, b []byte, certs []wire.Certificate, more []wire.Extension) {
	m := &wire.Message{
		Header: wire.Header{
			Overlay: p.params.overlay, ConfigSequence: p.params.sequence, Version: wire.Version,
			TTL: p.params.initialTTL, Fragment: wire.Unfragmented, TransactionID: r.TransactionID,
			Dest: p.wayBack(r),
		},
		Code: code, Body: b, Extensions: more,
	}
	for _, o := range r.Options {
		if o.Flags&wire.ResponseCopy != 0 {
			// "any node generating a response MUST copy the option from the request to the response
			// except that the RESPONSE_COPY, FORWARD_CRITICAL, and DESTINATION_CRITICAL flags MUST be
			// cleared" (§6.3.2.3)
			o.Flags &^= wire.ResponseCopy | wire.ForwardCritical | wire.DestinationCritical
			m.Options = append(m.Options, o)
		}
	}
	m.Security.Certificates = certs
	crypto := p.cfg.Crypto
	if !p.work(Signing, func() func() {
		err := crypto.Sign(m, nil)
		return func() { p.respond(r, m, err) }
	}) {
		p.ans.drop(r) // its retransmission is processed anew
	}
}

func (p *Peer) wayBack(r *request) []wire.Destination {
	if r.from == nil {
		return []wire.Destination{wire.ToNode(p.cfg.ID)}
	}
	dest := make([]wire.Destination, 0, len(r.Via)+1)
	dest = append(dest, wire.ToNode(r.from.peer))
	for i := len(r.Via) - 1; i >= 0; i-- {
		dest = append(dest, r.Via[i])
	}
	return dest
}

// respond sends a signed answer, if it is not larger than the overlay or the requester allows: "responding
// peers MUST check that any response would not exceed it" (RFC 6940 §6.3.2, where the error is named
// Error_Incompatible_with_Overlay; §6.3.3.1 defines Error_Response_Too_Large for it).
func (p *Peer) respond(r *request, m *wire.Message, err error) {
	var b, rest []byte
	if err == nil {
		b, err = m.AppendBinary(nil)
	}
	if err == nil {
		_, rest, err = wire.ParseHeader(b)
	}
	if err != nil {
		p.count.Unencodable++
		p.log.Warn("answer not encoded", "code", m.Code, "err", err)
		p.ans.drop(r) // its retransmission is processed anew
		return
	}
	limit := p.params.maxMessage
	if r.MaxResponseLength != 0 {
		limit = min(limit, r.MaxResponseLength)
	}
	if len(b) > int(limit) && m.Code != wire.ErrorAns {
		p.count.TooLarge++
		p.answer(r, wire.ErrorAns, errorBody(wire.ErrorResponseTooLarge, nil), nil)
		return
	}
	p.ans.keep(r, m, p.now)
	p.count.Answers++
	p.traffic.byCode[p.traffic.slot(m.Code)].sent++
	p.sendAnswer(r, m, rest)
}

func (p *Peer) sendAnswer(r *request, m *wire.Message, rest []byte) {
	h := m.Header
	h.Dest = p.wayBack(r)
	if r.from == nil {
		p.soon(func() { p.route(&arrival{Header: h, rest: rest}) })
		return
	}
	to := r.from
	if to.closed {
		if to = p.linkTo(h.Dest[0]); to == nil {
			p.count.Unroutable++
			return
		}
	}
	p.transmit(to, &h, rest)
}

// again sends the answer of an earlier copy of r.
func (p *Peer) again(r *request, e *answered) {
	p.count.Duplicates++
	if e.msg == nil {
		return // still being processed: the answer is on its way
	}
	b, err := e.msg.AppendBinary(nil)
	if err != nil {
		return
	}
	if _, rest, err := wire.ParseHeader(b); err == nil {
		p.sendAnswer(r, e.msg, rest)
	}
}

// fail answers a verified request with an error.
func (p *Peer) fail(r *request, code wire.ErrorCode, info string) {
	p.count.Refused++
	p.answer(r, wire.ErrorAns, errorBody(code, []byte(info)), nil)
}
