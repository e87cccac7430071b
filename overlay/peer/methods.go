package peer

import (
	"fmt"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/wire"
)

// request dispatches a verified request, after the checks that are the same for every method.
func (p *Peer) request(r *request) {
	c := &p.count
	for _, o := range r.Options {
		if o.Flags&wire.DestinationCritical != 0 {
			c.UnknownOption++
			p.fail(r, wire.ErrorUnsupportedForwardingOption, "") // RFC 6940 §6.3.2.3
			return
		}
	}
	if hasCritical(r.Extensions) {
		// "If this is set and the extension is unknown, the receiving node MUST reject the message with
		// an Error_Unknown_Extension" (RFC 6940 §6.3.3)
		c.UnknownOption++
		p.fail(r, wire.ErrorUnknownExtension, "")
		return
	}
	if !p.sameSequence(r) {
		return
	}
	if p.unwelcome(r) {
		p.count.ClientsRefused++
		p.fail(r, wire.ErrorForbidden, "clients not permitted")
		return
	}
	if !repeatable(r.Code) {
		if e := p.ans.seen(r, p.now); e != nil {
			p.again(r, e)
			return
		}
		p.forgetAnswers()
	}
	switch r.Code {
	case wire.PingReq:
		p.pingRequest(r)
	case wire.ProbeReq:
		p.probeRequest(r)
	case wire.AttachReq:
		p.attachRequest(r)
	case wire.AppAttachReq:
		p.appAttachRequest(r)
	case wire.JoinReq:
		p.joinRequest(r)
	case wire.LeaveReq:
		p.leaveRequest(r)
	case wire.UpdateReq:
		p.updateRequest(r)
	case wire.RouteQueryReq:
		p.routeQueryRequest(r)
	case wire.PathTrackReq:
		p.pathTrackRequest(r)
	case wire.StoreReq:
		p.storeRequest(r)
	case wire.FetchReq:
		p.fetchRequest(r)
	case wire.StatReq:
		p.statRequest(r)
	case wire.FindReq:
		p.findRequest(r)
	case wire.ConfigUpdateReq:
		p.configUpdateRequest(r)
	default:
		p.fail(r, wire.ErrorInvalidMessage, fmt.Sprintf("method %#x not supported", uint16(r.Code)))
	}
}

// unwelcome reports whether a request is one of a client, where the overlay has none: "If the nodes are not allowed to
// remain clients after the initial join, the element MUST be set to "false"" (RFC 6940 §11.1). A node that is linked
// and has not joined after a while is one; whatever it needs to join stays allowed.
func (p *Peer) unwelcome(r *request) bool {
	if p.cfg.Document.ClientsPermitted || !r.direct() || p.isMember(r.peer.NodeID) || p.now.Sub(r.from.since) < joinGrace {
		return false
	}
	switch r.Code {
	case wire.StoreReq, wire.FetchReq, wire.StatReq, wire.FindReq, wire.AppAttachReq:
		return true
	}
	return false
}

// reply answers with a body that encodes itself.
func (p *Peer) reply(r *request, body interface{ AppendBinary([]byte) ([]byte, error) }, certs []wire.Certificate) {
	b, err := body.AppendBinary(nil)
	if err != nil {
		p.unencodable(r)
		return
	}
	p.answer(r, r.Code.Answer(), b, certs)
}

func (p *Peer) unencodable(r *request) {
	p.count.Unencodable++
	p.fail(r, wire.ErrorInvalidMessage, "answer cannot be encoded")
}

func (p *Peer) pingRequest(r *request) {
	if _, err := wire.ParsePingRequest(r.Body); err != nil {
		p.fail(r, wire.ErrorInvalidMessage, "Ping")
		return
	}
	var more []wire.Extension
	if e := r.Extension(wire.ExtensionDiagnosticPing); e != nil {
		q, err := wire.ParseDiagnosticsRequest(e.Data)
		if err != nil {
			p.fail(r, wire.ErrorInvalidMessage, "DiagnosticsRequest")
			return
		}
		d, code := p.diagnostics(r, &q)
		if code != 0 {
			p.fail(r, code, "")
			return
		}
		data, err := d.AppendBinary(nil)
		if err != nil {
			p.unencodable(r)
			return
		}
		more = append(more, wire.Extension{Type: wire.ExtensionDiagnosticPing, Data: data})
	}
	b, err := wire.PingAnswer{ResponseID: p.rng.Uint64(), Time: p.pingTime()}.AppendBinary(nil)
	if err != nil {
		p.unencodable(r)
		return
	}
	p.answerWith(r, wire.PingAns, b, nil, more)
}

// pingTime is "the time when the Ping response was created in absolute time, represented in milliseconds" (RFC 6940
// §6.5.3.2). A peer that does not know the time says no more than whole seconds, as its clock is worth no more; so those
// that ask can tell (docs/adr/0028).
func (p *Peer) pingTime() uint64 {
	if p.cfg.Clock == nil {
		return milliseconds(p.now)
	}
	at, known := p.cfg.Clock()
	ms := milliseconds(at)
	switch {
	case !known:
		ms -= ms % 1000
	case ms%1000 == 0:
		ms++
	}
	return ms
}

// probeRequest is RFC 6940 §6.4.2.5.2: a peer "MUST NOT return values not asked for", each asked-for one once.
func (p *Peer) probeRequest(r *request) {
	q, err := wire.ParseProbeRequest(r.Body)
	if err != nil {
		p.fail(r, wire.ErrorInvalidMessage, "Probe")
		return
	}
	var a wire.ProbeAnswer
	seen := map[wire.ProbeInfoType]bool{}
	for _, t := range q.Requested {
		if seen[t] {
			continue
		}
		seen[t] = true
		switch t {
		case wire.ProbeResponsibleSet:
			a.Info = append(a.Info, wire.ProbeInformation{Type: t, Value: p.chord.ResponsibleSet()})
		case wire.ProbeNumResources:
			a.Info = append(a.Info, wire.ProbeInformation{Type: t, Value: uint32(p.store.Stats().Resources)})
		case wire.ProbeUptime:
			a.Info = append(a.Info, wire.ProbeInformation{Type: t, Value: uint32(p.chord.Uptime().Seconds())})
		}
	}
	var more []wire.Extension
	if heard, ok := selfTuning(r.Message); ok {
		p.tell(chord.ProbeInfoReceived{From: r.peer.NodeID, Tuning: heard})
		if own, ok := p.chord.SelfTuning(); ok {
			if data, err := own.AppendBinary(nil); err == nil {
				more = append(more, wire.Extension{Type: wire.ExtensionSelfTuning, Data: data})
			}
		}
	}
	b, err := a.AppendBinary(nil)
	if err != nil {
		p.unencodable(r)
		return
	}
	p.answerWith(r, wire.ProbeAns, b, nil, more)
}

// notDirect refuses what may only come over the channel bound to its signer: "receiving peers MUST verify
// that any JoinReq they receive arrives from a transport channel that is bound to the Node-ID to be assumed
// by the Joining Node" (RFC 6940 §6.4.2.1; §6.4.2.2 says the same of Leave). Updates are held to it, too:
// they only ever go to the Connection Table, and so cannot be replayed by others.
func (p *Peer) notDirect(r *request) bool {
	if r.direct() {
		return false
	}
	p.count.NotDirect++
	p.fail(r, wire.ErrorForbidden, "not over the link of its signer")
	return true
}

func (p *Peer) joinRequest(r *request) {
	j, err := wire.ParseJoinRequest(r.Body, p.params.idLen)
	switch {
	case err != nil:
		p.fail(r, wire.ErrorInvalidMessage, "Join")
	case j.Node != r.peer.NodeID:
		// "if not, the message MUST be rejected with an Error_Forbidden error"
		p.count.NotDirect++
		p.fail(r, wire.ErrorForbidden, "joining_peer_id is not the signer")
	case !p.notDirect(r):
		p.store.Forget(j.Node) // who joins holds nothing, whatever it held in an earlier life
		p.carryOut(p.step(chord.JoinReceived{From: j.Node}), r)
	}
}

func (p *Peer) answerJoin(r *request, accepted bool) {
	switch {
	case r == nil:
	case accepted:
		p.reply(r, wire.JoinAnswer{}, nil)
	default:
		p.fail(r, wire.ErrorForbidden, "not attached")
	}
}

func (p *Peer) leaveRequest(r *request) {
	v, err := wire.ParseLeaveRequest(r.Body, p.params.idLen)
	switch {
	case err != nil:
		p.fail(r, wire.ErrorInvalidMessage, "Leave")
	case v.Node != r.peer.NodeID:
		p.count.NotDirect++
		p.fail(r, wire.ErrorForbidden, "leaving_peer_id is not the signer")
	case !p.notDirect(r):
		p.answer(r, wire.LeaveAns, nil, nil) // "LeaveAns is an empty message"
		// What a Leave says beside that is optional, and what cannot be read is not said.
		leave, _ := wire.ParseChordLeave(v.OverlaySpecific, p.params.idLen)
		p.tell(chord.LeaveReceived{From: v.Node, Leave: leave})
	}
}

func (p *Peer) updateRequest(r *request) {
	u, err := wire.ParseChordUpdate(r.Body, p.params.idLen)
	if err != nil {
		p.fail(r, wire.ErrorInvalidMessage, "Update")
		return
	}
	if p.notDirect(r) {
		return
	}
	p.answer(r, wire.UpdateAns, nil, nil)
	p.upSince(r.peer.NodeID, u.Uptime)
	p.tell(chord.UpdateReceived{From: r.peer.NodeID, Update: u})
}

// routeQueryRequest is RFC 6940 §6.4.2.4, and §10.8: "the single Node-ID of the next peer to which the responding peer
// would have routed the request message in recursive routing".
func (p *Peer) routeQueryRequest(r *request) {
	q, err := wire.ParseRouteQueryRequest(r.Body)
	if err != nil {
		p.fail(r, wire.ErrorInvalidMessage, "RouteQuery")
		return
	}
	hop := p.nextHop(q.Destination)
	switch {
	case hop.Local:
		p.reply(r, wire.RouteQueryAnswer{NextPeer: p.cfg.ID}, nil)
	case hop.Via.IsZero():
		p.fail(r, wire.ErrorNotFound, "no next peer")
		return
	default:
		p.reply(r, wire.RouteQueryAnswer{NextPeer: hop.Via}, nil)
	}
	if q.SendUpdate && r.direct() {
		p.tell(chord.UpdateRequested{From: r.peer.NodeID})
	}
}
