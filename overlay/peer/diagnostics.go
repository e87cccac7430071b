package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Overlay diagnostics, RFC 7851: what a peer tells of itself to those whom the document names, in the answer to a Ping
// with the Diagnostic_Ping extension or to a PathTrack, and what it says of a message that does not get on.

// Times of diagnostics. "This value MUST have a value between 1 and 600 seconds in the future" (RFC 7851 §5.1), which
// supposes that clocks agree; a kit's may not (docs/adr/0009).
const (
	diagnosticLife  = time.Minute
	diagnosticMin   = time.Second
	diagnosticMax   = 600 * time.Second
	diagnosticSlack = time.Hour // that two kits' clocks may be apart
)

// expired reports whether a diagnostic message is older than it says it may be, by the clock of who sent it, and
// leniently by this peer's, if that one is believable at all.
func expired(now time.Time, expiration, initiated uint64) bool {
	life := expiration - initiated
	if expiration < initiated || life < uint64(diagnosticMin.Milliseconds()) || life > uint64(diagnosticMax.Milliseconds()) {
		return true
	}
	return now.After(ident.ClockFloor) && uint64(now.UnixMilli()) > expiration+uint64(diagnosticSlack.Milliseconds())
}

func milliseconds(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }

// diagnostic is the DiagnosticsRequest in a message that is only forwarded; ok is false for any other message.
func (a *arrival) diagnostic() (q wire.DiagnosticsRequest, ok bool) {
	code := a.code()
	if code != wire.PingReq && code != wire.PathTrackReq || a.IsFragment() {
		return q, false
	}
	b := a.rest[2:]
	body, b, ok := vector(b)
	if !ok {
		return q, false
	}
	if code == wire.PathTrackReq {
		p, err := wire.ParsePathTrackRequest(body)
		return p.Request, err == nil
	}
	list, _, ok := vector(b)
	for ok && len(list) >= 3 {
		var data []byte
		typ := binary.BigEndian.Uint16(list)
		if data, list, ok = vector(list[3:]); ok && typ == wire.ExtensionDiagnosticPing {
			q, err := wire.ParseDiagnosticsRequest(data)
			return q, err == nil
		}
	}
	return q, false
}

// vector takes what stands behind four bytes of its length.
func vector(b []byte) (v, rest []byte, ok bool) {
	if len(b) < 4 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) {
		return nil, nil, false
	}
	n := 4 + int(binary.BigEndian.Uint32(b))
	return b[4:n], b[n:], true
}

// diagnose is what an intermediate peer has to say of a diagnostic message (RFC 7851 §6.2); it reports whether it
// answered instead of forwarding.
func (p *Peer) diagnose(a *arrival, to *link) bool {
	q, ok := a.diagnostic()
	if !ok || a.from == nil {
		return false
	}
	var code wire.ErrorCode
	var info string
	switch {
	case expired(p.now, q.Expiration, q.Initiated):
		code = wire.ErrorMessageExpired
	case a.TTL == 0:
		// "when it finds that the TTL field value is no more than 0 when forwarding"
		code = wire.ErrorTTLHopsExceeded
	case p.inVia(a):
		// "when it finds a loop through the analysis of the Via List"
		code = wire.ErrorLoopDetected
	case p.misrouted(a):
		// "The immediate upstream peer information MUST also be conveyed to the initiator node."
		code, info = wire.ErrorUpstreamMisrouting, string(wire.AppendUpstream(nil, a.from.peer))
	case to == nil:
		code, info = wire.ErrorUnderlayDestinationUnreachable, "no link"
	case to.conn.Suspect():
		// ICMP messages end in the link layer; what comes of them is that nothing is acknowledged.
		code, info = wire.ErrorUnderlayDestinationUnreachable, "nothing is acknowledged by "+to.peer.String()
	default:
		return false
	}
	p.count.PathFaults++
	p.refuse(a, code, info)
	return true
}

func (p *Peer) inVia(a *arrival) bool {
	for _, d := range a.Via {
		if d.Type == wire.DestNode && d.Node == p.cfg.ID {
			return true
		}
	}
	return false
}

// misrouted reports whether the message should not have come here by the rule of RFC 6940 §10.3: a peer forwards to
// one that is nearer to the destination, or to the responsible one. Only members of the ring are held to it, and not
// for what is source-routed.
func (p *Peer) misrouted(a *arrival) bool {
	if a.named || len(a.Dest) != 1 || !p.isMember(a.from.peer) || p.cfg.Client {
		return false
	}
	k := a.Dest[0].Node
	if a.Dest[0].Type == wire.DestResource {
		var err error
		if k, err = ident.Position(a.Dest[0].Resource); err != nil {
			return false
		}
	}
	return k.Len() == p.cfg.ID.Len() && !ident.Between(a.from.peer, p.cfg.ID, k) && !p.chord.Responsible(ident.AsResource(k)) &&
		p.conns.best(k) == nil
}

// diagnostics makes the response to a request of a node, or says why not: "The destination peer MUST check if the
// initiator node has the authority to request specific types of diagnostic information [...] If the initiator node asks
// for diagnostic information that they are not authorized to query, the receiving peer MUST return an error response
// with the error code 2 "Error_Forbidden"." (RFC 7851 §6.3) "The default policy or access rule for a type of diagnostic
// information is "deny" unless specified" (§4.1).
func (p *Peer) diagnostics(r *request, q *wire.DiagnosticsRequest) (wire.DiagnosticsResponse, wire.ErrorCode) {
	if expired(p.now, q.Expiration, q.Initiated) {
		return wire.DiagnosticsResponse{}, wire.ErrorMessageExpired
	}
	out := wire.DiagnosticsResponse{
		Expiration: milliseconds(p.now.Add(diagnosticLife)), Initiated: q.Initiated, Received: milliseconds(p.now),
		// "It MUST be exactly copied from the TTL field of the forwarding header in the received request."
		HopCounter: r.TTL,
	}
	allowed := func(k wire.DiagnosticKind) bool {
		return p.cfg.Document.MayDiagnose(uint16(k), r.peer.NodeID)
	}
	for _, e := range q.Extensions {
		if !allowed(e.Kind) {
			return out, wire.ErrorForbidden
		}
		out.Info = p.appendInfo(out.Info, e.Kind)
	}
	for k := wire.DiagnosticKind(1); k.Flag() != 0; k++ {
		if q.Flags&k.Flag() == 0 || q.Flags == wire.AllDiagnostics && k > wire.DiagBatteryStatus {
			continue // "all base diagnostic information values" are those that are defined
		}
		if !allowed(k) {
			return out, wire.ErrorForbidden
		}
		out.Info = p.appendInfo(out.Info, k)
	}
	return out, 0
}

// appendInfo adds what is known of a Kind; what is not known is left out.
func (p *Peer) appendInfo(list []wire.DiagnosticInfo, k wire.DiagnosticKind) []wire.DiagnosticInfo {
	var v wire.DiagnosticValue
	ok := true
	switch k {
	case wire.DiagRoutingTableSize:
		v.Number = uint64(p.members())
	case wire.DiagAppUptime:
		v.Number = uint64(p.chord.Uptime().Seconds())
	case wire.DiagDatasizeStored:
		v.Number = uint64(p.store.Stats().Bytes)
	case wire.DiagMessagesSentRcvd:
		v.Messages = p.traffic.messages()
	case wire.DiagEWMABytesSent:
		v.Number = p.traffic.sent.rate(p.now)
	case wire.DiagEWMABytesRcvd:
		v.Number = p.traffic.received.rate(p.now)
	default:
		if ok = p.cfg.Diagnostics != nil; ok {
			v, ok = p.cfg.Diagnostics(k)
		}
	}
	if !ok {
		return list
	}
	info, err := v.Info(k)
	if err != nil {
		p.count.Unencodable++
		return list
	}
	return append(list, info)
}

// members counts the peers to which messages may be routed.
func (p *Peer) members() (n int) {
	for id, list := range p.conns.byPeer {
		if len(list) > 0 && p.isMember(id) {
			n++
		}
	}
	return n
}

// pathTrackRequest is RFC 7851 §6.3: the next hop to a destination, and what the requester may know of this peer.
func (p *Peer) pathTrackRequest(r *request) {
	q, err := wire.ParsePathTrackRequest(r.Body)
	if err != nil {
		p.fail(r, wire.ErrorInvalidMessage, "PathTrack")
		return
	}
	out, code := p.diagnostics(r, &q.Request)
	if code != 0 {
		p.fail(r, code, "")
		return
	}
	hop := p.nextHop(q.Destination)
	switch {
	case hop.Local:
		hop.Via = p.cfg.ID
	case hop.Via.IsZero():
		p.fail(r, wire.ErrorNotFound, "no next hop")
		return
	}
	p.reply(r, wire.PathTrackAnswer{NextHop: wire.ToNode(hop.Via), Response: out}, nil)
}

// nextHop is where this peer would send a message for d: to the node itself where there is a link.
func (p *Peer) nextHop(d wire.Destination) chord.Hop {
	if d.Type == wire.DestNode {
		switch {
		case p.isSelf(d.Node) || d.Node.IsWildcard():
			return chord.Hop{Local: true}
		case p.conns.best(d.Node) != nil:
			return chord.Hop{Via: d.Node}
		}
	}
	if d.Type == wire.DestOpaque {
		// "Implementations MAY wish to consider limiting the use of RouteQuery for opaque IDs" (RFC 6940 §6.4.2.4.1):
		// what a Via List held is nobody else's business.
		return chord.Hop{}
	}
	return p.chord.NextHop(d)
}

// diagnosticsRequest asks for the Kinds in flags.
func (p *Peer) diagnosticsRequest(flags uint64) wire.DiagnosticsRequest {
	return wire.DiagnosticsRequest{Expiration: milliseconds(p.now.Add(diagnosticLife)), Initiated: milliseconds(p.now), Flags: flags}
}

// MayAsk are the dMFlags of everything that a node may ask others for.
func MayAsk(d *ident.Document, id wire.NodeID) (flags uint64) {
	for k := wire.DiagnosticKind(1); k.Flag() != 0; k++ {
		if d.MayDiagnose(uint16(k), id) {
			flags |= k.Flag()
		}
	}
	return flags
}

// PathHop is one peer on the way to a destination.
type PathHop struct {
	Peer     wire.NodeID
	RTT      time.Duration // of the request to it, source-routed through those before it
	Response wire.DiagnosticsResponse
}

// ErrPath is a way that leads nowhere: to a peer that is on it already, or over too many.
var ErrPath = errors.New("no way to the destination")

// PathTrack follows the way of a message to dest (RFC 7851 §4.3), hop by hop: each is asked where it would send the
// message on to, and for the diagnostics in flags, see MayAsk. done gets the hops that answered, this peer's own not
// among them, also when there is an error; the last is the responsible one if there is none.
func (p *Peer) PathTrack(now time.Time, dest wire.Destination, flags uint64, done func([]PathHop, error)) *Call {
	return p.call(now, func(c *Call) {
		t := &tracking{Call: c, dest: dest, flags: flags}
		t.end = func(err error) { c.end(func() { done(t.hops, err) }) }
		hop := p.nextHop(dest)
		switch {
		case hop.Local:
			p.soon(func() { t.end(nil) })
		case hop.Via.IsZero():
			p.soon(func() { t.end(ErrPath) })
		default:
			t.ask(hop.Via)
		}
	})
}

// tracking is one PathTrack.
type tracking struct {
	*Call
	dest  wire.Destination
	flags uint64
	way   []wire.Destination
	hops  []PathHop
	end   func(error)
}

func (t *tracking) ask(next wire.NodeID) {
	p, began := t.p, t.p.now
	for _, d := range t.way {
		if d.Node == next {
			t.end(fmt.Errorf("%w: %v is on it twice", ErrPath, next))
			return
		}
	}
	// A hop that is asked at the wildcard would answer in its own name: it would be no hop of this way.
	if next == p.cfg.ID || next.IsWildcard() || next.IsInvalid() || len(t.way) >= int(p.params.initialTTL) {
		t.end(fmt.Errorf("%w: %d hops, then %v", ErrPath, len(t.way), next))
		return
	}
	t.way = append(t.way, wire.ToNode(next))
	body, err := wire.PathTrackRequest{Destination: t.dest, Request: p.diagnosticsRequest(t.flags)}.AppendBinary(nil)
	if err != nil {
		t.end(fmt.Errorf("PathTrack request: %w", err))
		return
	}
	t.request(Outgoing{Dest: append([]wire.Destination(nil), t.way...), Code: wire.PathTrackReq, Body: body}, func(r Reply) {
		var a wire.PathTrackAnswer
		err := r.Err
		if err == nil {
			a, err = wire.ParsePathTrackAnswer(r.Message.Body)
		}
		if err == nil && a.NextHop.Type != wire.DestNode {
			err = errors.New("next_hop is no Node-ID")
		}
		if err != nil {
			t.end(fmt.Errorf("PathTrack of %v: %w", next, err))
			return
		}
		t.hops = append(t.hops, PathHop{Peer: next, RTT: p.now.Sub(began), Response: a.Response})
		if a.NextHop.Node == next {
			// "after receiving a PathTrackAns where the next_hop node ID equals the responding node ID, the initiator
			// MUST stop the iterative process"
			t.end(nil)
			return
		}
		t.ask(a.NextHop.Node)
	})
}

// PingDiagnostics is Ping with the Diagnostic_Ping extension (RFC 7851 §4.2). "Senders MUST accept a response that lacks
// diagnostic information": then the response is zero. dest must not be the wildcard.
func (p *Peer) PingDiagnostics(now time.Time, dest []wire.Destination, flags uint64, done func(PathHop, error)) *Call {
	o := Outgoing{Dest: dest, Code: wire.PingReq}
	q := p.diagnosticsRequest(flags)
	q.Expiration, q.Initiated = milliseconds(now.Add(diagnosticLife)), milliseconds(now)
	data, err := q.AppendBinary(nil)
	if last := len(dest) - 1; err == nil && last >= 0 && dest[last].Node.IsWildcard() {
		err = errors.New("to the wildcard Node-ID")
	}
	if err != nil {
		return p.call(now, func(c *Call) {
			p.soon(func() { c.end(func() { done(PathHop{}, fmt.Errorf("ping request: %w", err)) }) })
		})
	}
	o.Extensions = []wire.Extension{{Type: wire.ExtensionDiagnosticPing, Data: data}}
	return ask(p, now, "ping", o, wire.PingRequest{}, func(r Reply) (PathHop, error) {
		h := PathHop{Peer: r.Peer.NodeID, RTT: p.now.Sub(now)}
		e := r.Message.Extension(wire.ExtensionDiagnosticPing)
		if e == nil {
			return h, nil
		}
		var err error
		h.Response, err = wire.ParseDiagnosticsResponse(e.Data)
		return h, err
	}, done)
}
