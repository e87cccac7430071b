package node

import (
	"fmt"
	"math/rand/v2"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/wire"
)

// request dispatches a verified request, after the checks that are the same for every method.
func (l *loop) request(r *request) {
	c := &l.n.counters
	for _, o := range r.Options {
		if o.Flags&wire.DestinationCritical != 0 {
			c.UnknownOption.Add(1)
			l.fail(r, wire.ErrorUnsupportedForwardingOption, "") // RFC 6940 §6.3.2.3
			return
		}
	}
	if slicesHasCritical(r.Extensions) {
		// "If this is set and the extension is unknown, the receiving node MUST reject the message with
		// an Error_Unknown_Extension" (RFC 6940 §6.3.3)
		c.UnknownOption.Add(1)
		l.fail(r, wire.ErrorUnknownExtension, "")
		return
	}
	if !l.sameSequence(r) {
		return
	}
	if !repeatable(r.Code) {
		if e := l.ans.seen(r, l.now); e != nil {
			l.again(r, e)
			return
		}
	}
	switch r.Code {
	case wire.PingReq:
		l.pingRequest(r)
	case wire.ProbeReq:
		l.probeRequest(r)
	case wire.AttachReq:
		l.attachRequest(r)
	case wire.AppAttachReq:
		l.appAttachRequest(r)
	case wire.JoinReq:
		l.joinRequest(r)
	case wire.LeaveReq:
		l.leaveRequest(r)
	case wire.UpdateReq:
		l.updateRequest(r)
	case wire.RouteQueryReq:
		l.routeQueryRequest(r)
	case wire.StoreReq:
		l.storeRequest(r)
	case wire.FetchReq:
		l.fetchRequest(r)
	case wire.StatReq:
		l.statRequest(r)
	case wire.FindReq:
		l.findRequest(r)
	case wire.ConfigUpdateReq:
		l.configUpdateRequest(r)
	default:
		l.fail(r, wire.ErrorInvalidMessage, fmt.Sprintf("method %#x not supported", uint16(r.Code)))
	}
}

// reply answers with a body that encodes itself.
func (l *loop) reply(r *request, body interface{ AppendBinary([]byte) ([]byte, error) }, certs []wire.Certificate) {
	b, err := body.AppendBinary(nil)
	if err != nil {
		l.n.counters.Unencodable.Add(1)
		l.fail(r, wire.ErrorInvalidMessage, "answer cannot be encoded")
		return
	}
	l.answer(r, r.Code.Answer(), b, certs)
}

func (l *loop) pingRequest(r *request) {
	if _, err := wire.ParsePingRequest(r.Body); err != nil {
		l.fail(r, wire.ErrorInvalidMessage, "Ping")
		return
	}
	l.reply(r, wire.PingAnswer{ResponseID: rand.Uint64(), Time: uint64(max(l.now.UnixMilli(), 0))}, nil)
}

// probeRequest is RFC 6940 §6.4.2.5.2: a peer "MUST NOT return values not asked for", each asked-for one once.
func (l *loop) probeRequest(r *request) {
	q, err := wire.ParseProbeRequest(r.Body)
	if err != nil {
		l.fail(r, wire.ErrorInvalidMessage, "Probe")
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
			a.Info = append(a.Info, wire.ProbeInformation{Type: t, Value: l.chord.ResponsibleSet()})
		case wire.ProbeNumResources:
			a.Info = append(a.Info, wire.ProbeInformation{Type: t, Value: l.countResources()})
		case wire.ProbeUptime:
			a.Info = append(a.Info, wire.ProbeInformation{Type: t, Value: uint32(l.chord.Uptime().Seconds())})
		}
	}
	l.reply(r, a, nil)
}

// notDirect refuses what may only come over the channel bound to its signer: "receiving peers MUST verify
// that any JoinReq they receive arrives from a transport channel that is bound to the Node-ID to be assumed
// by the Joining Node" (RFC 6940 §6.4.2.1; §6.4.2.2 says the same of Leave). Updates are held to it, too:
// they only ever go to the Connection Table, and so cannot be replayed by others.
func (l *loop) notDirect(r *request) bool {
	if r.direct() {
		return false
	}
	l.n.counters.NotDirect.Add(1)
	l.fail(r, wire.ErrorForbidden, "not over the link of its signer")
	return true
}

func (l *loop) joinRequest(r *request) {
	j, err := wire.ParseJoinRequest(r.Body, l.n.params.idLen)
	switch {
	case err != nil:
		l.fail(r, wire.ErrorInvalidMessage, "Join")
	case j.Node != r.peer.NodeID:
		// "if not, the message MUST be rejected with an Error_Forbidden error"
		l.n.counters.NotDirect.Add(1)
		l.fail(r, wire.ErrorForbidden, "joining_peer_id is not the signer")
	case !l.notDirect(r):
		l.carryOut(l.chord.Step(l.now, chord.JoinReceived{From: j.Node}), r)
	}
}

func (l *loop) answerJoin(r *request, accepted bool) {
	switch {
	case r == nil:
	case accepted:
		l.reply(r, wire.JoinAnswer{}, nil)
	default:
		l.fail(r, wire.ErrorForbidden, "not attached")
	}
}

func (l *loop) leaveRequest(r *request) {
	v, err := wire.ParseLeaveRequest(r.Body, l.n.params.idLen)
	switch {
	case err != nil:
		l.fail(r, wire.ErrorInvalidMessage, "Leave")
	case v.Node != r.peer.NodeID:
		l.n.counters.NotDirect.Add(1)
		l.fail(r, wire.ErrorForbidden, "leaving_peer_id is not the signer")
	case !l.notDirect(r):
		l.answer(r, wire.LeaveAns, nil, nil) // "LeaveAns is an empty message"
		l.tell(chord.LeaveReceived{From: v.Node})
	}
}

func (l *loop) updateRequest(r *request) {
	u, err := wire.ParseChordUpdate(r.Body, l.n.params.idLen)
	if err != nil {
		l.fail(r, wire.ErrorInvalidMessage, "Update")
		return
	}
	if l.notDirect(r) {
		return
	}
	l.answer(r, wire.UpdateAns, nil, nil)
	l.tell(chord.UpdateReceived{From: r.peer.NodeID, Update: u})
}

// routeQueryRequest is RFC 6940 §6.4.2.4. Opaque IDs are not answered for: this node has none.
func (l *loop) routeQueryRequest(r *request) {
	q, err := wire.ParseRouteQueryRequest(r.Body)
	if err != nil {
		l.fail(r, wire.ErrorInvalidMessage, "RouteQuery")
		return
	}
	hop := l.chord.NextHop(q.Destination)
	switch {
	case hop.Local:
		l.reply(r, wire.RouteQueryAnswer{NextPeer: l.id()}, nil)
	case hop.Via.IsZero():
		l.fail(r, wire.ErrorNotFound, "no next peer")
		return
	default:
		l.reply(r, wire.RouteQueryAnswer{NextPeer: hop.Via}, nil)
	}
	if q.SendUpdate && r.direct() {
		l.tell(chord.UpdateRequested{From: r.peer.NodeID})
	}
}
