package wire

import "strconv"

// ParseEmpty checks the body of a LeaveAns, an UpdateAns or a ConfigUpdateAns, which is empty.
func ParseEmpty(body []byte) error {
	if len(body) != 0 {
		return &SyntaxError{Field: "message_body", Reason: strconv.Itoa(len(body)) + " bytes that should not be there"}
	}
	return nil
}

// PingRequest is the body of a PingReq (RFC 6940 §6.5.3). Padding is at most 65535 bytes.
type PingRequest struct{ Padding []byte }

// PingAnswer is the body of a PingAns (RFC 6940 §6.5.3).
type PingAnswer struct {
	ResponseID uint64 // random, tells answers apart
	Time       uint64 // milliseconds since 1970-01-01
}

// ParsePingRequest reads the body of a PingReq.
func ParsePingRequest(body []byte) (PingRequest, error) {
	r := newReader(body)
	return finish(&r, PingRequest{Padding: r.opaque(2, "padding")}, "PingReq")
}

// AppendBinary appends the body.
func (p PingRequest) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.opaque(2, p.Padding, "padding")
	return w.end(b, "PingReq")
}

// ParsePingAnswer reads the body of a PingAns.
func ParsePingAnswer(body []byte) (PingAnswer, error) {
	r := newReader(body)
	return finish(&r, PingAnswer{ResponseID: r.u64("response_id"), Time: r.u64("time")}, "PingAns")
}

// AppendBinary appends the body.
func (p PingAnswer) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.u64(p.ResponseID)
	w.u64(p.Time)
	return w.end(b, "PingAns")
}

// ProbeInfoType is RFC 6940 §6.4.2.5.1.
type ProbeInfoType uint8

// Probe information types.
const (
	ProbeResponsibleSet ProbeInfoType = 1
	ProbeNumResources   ProbeInfoType = 2
	ProbeUptime         ProbeInfoType = 3
)

func (t ProbeInfoType) known() bool { return t >= ProbeResponsibleSet && t <= ProbeUptime }

// ProbeRequest is the body of a ProbeReq (RFC 6940 §6.4.2.5.1): at most 255 types.
type ProbeRequest struct{ Requested []ProbeInfoType }

// ProbeAnswer is the body of a ProbeAns (RFC 6940 §6.4.2.5.2).
type ProbeAnswer struct{ Info []ProbeInformation }

// ProbeInformation is one item of a ProbeAnswer.
type ProbeInformation struct {
	Type  ProbeInfoType
	Value uint32 // responsible set in parts per billion, resources, or uptime in seconds
	Raw   []byte // the value of a type this code does not know, at most 255 bytes
}

// ParseProbeRequest reads the body of a ProbeReq.
func ParseProbeRequest(body []byte) (ProbeRequest, error) {
	var p ProbeRequest
	r := newReader(body)
	if v := r.opaque(1, "requested_info"); len(v) > 0 {
		p.Requested = make([]ProbeInfoType, len(v))
		for i, t := range v {
			p.Requested[i] = ProbeInfoType(t)
		}
	}
	return finish(&r, p, "ProbeReq")
}

// AppendBinary appends the body.
func (p ProbeRequest) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	at := w.open(1)
	for _, t := range p.Requested {
		w.u8(uint8(t))
	}
	w.close(at, 1, "requested_info")
	return w.end(b, "ProbeReq")
}

// ParseProbeAnswer reads the body of a ProbeAns.
func ParseProbeAnswer(body []byte) (ProbeAnswer, error) {
	const field = "probe_info"
	var p ProbeAnswer
	r := newReader(body)
	list := r.vector(2, field)
	for list.more() {
		info := ProbeInformation{Type: ProbeInfoType(list.u8("type"))}
		v := list.vector(1, "length")
		if info.Type.known() {
			info.Value = v.u32("value")
		} else {
			info.Raw = v.rest()
		}
		list.join(&v, "value")
		p.Info = append(p.Info, info)
	}
	r.join(&list, field)
	return finish(&r, p, "ProbeAns")
}

// AppendBinary appends the body.
func (p ProbeAnswer) AppendBinary(b []byte) ([]byte, error) {
	const what = "probe_info"
	w := writer{b: b}
	list := w.open(2)
	for i := range p.Info {
		w.u8(uint8(p.Info[i].Type))
		at := w.open(1)
		if p.Info[i].Type.known() {
			w.u32(p.Info[i].Value)
		} else {
			w.bytes(p.Info[i].Raw)
		}
		w.close(at, 1, what)
	}
	w.close(list, 2, what)
	return w.end(b, "ProbeAns")
}

// RouteQueryRequest is the body of a RouteQueryReq (RFC 6940 §6.4.2.4.1).
type RouteQueryRequest struct {
	SendUpdate      bool // the sender asks for an Update
	Destination     Destination
	OverlaySpecific []byte // empty in CHORD-RELOAD; at most 65535 bytes
}

// RouteQueryAnswer is the body of a RouteQueryAns in CHORD-RELOAD (RFC 6940 §10.8).
type RouteQueryAnswer struct{ NextPeer NodeID }

// ParseRouteQueryRequest reads the body of a RouteQueryReq.
func ParseRouteQueryRequest(body []byte) (RouteQueryRequest, error) {
	r := newReader(body)
	return finish(&r, RouteQueryRequest{
		SendUpdate: r.boolean("send_update"), Destination: r.destination("destination"),
		OverlaySpecific: r.opaque(2, "overlay_specific_data"),
	}, "RouteQueryReq")
}

// AppendBinary appends the body.
func (q RouteQueryRequest) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.boolean(q.SendUpdate)
	w.destination(&q.Destination)
	w.opaque(2, q.OverlaySpecific, "overlay_specific_data")
	return w.end(b, "RouteQueryReq")
}

// ParseRouteQueryAnswer reads the body of a RouteQueryAns in an overlay with Node-IDs of idLen bytes.
func ParseRouteQueryAnswer(body []byte, idLen int) (RouteQueryAnswer, error) {
	r := newReader(body)
	return finish(&r, RouteQueryAnswer{NextPeer: r.nodeID(idLen, "next_peer")}, "RouteQueryAns")
}

// AppendBinary appends the body.
func (q RouteQueryAnswer) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.nodeID(q.NextPeer, "next_peer")
	return w.end(b, "RouteQueryAns")
}

// ConfigUpdateType is RFC 6940 §6.5.4.1.
type ConfigUpdateType uint8

// Types of a ConfigUpdate.
const (
	ConfigUpdateConfig ConfigUpdateType = 1 // a configuration document
	ConfigUpdateKinds  ConfigUpdateType = 2 // kind-blocks
)

// ConfigUpdateRequest is the body of a ConfigUpdateReq (RFC 6940 §6.5.4.1); the type tells which of
// the fields is in it.
type ConfigUpdateRequest struct {
	Type   ConfigUpdateType
	Config []byte   // ConfigUpdateConfig: the document, at most 2^24-1 bytes
	Kinds  [][]byte // ConfigUpdateKinds: XML kind-blocks, at most 65535 bytes each
	Raw    []byte   // the content of a type this code does not know
}

// ParseConfigUpdate reads the body of a ConfigUpdateReq.
func ParseConfigUpdate(body []byte) (ConfigUpdateRequest, error) {
	var c ConfigUpdateRequest
	r := newReader(body)
	c.Type = ConfigUpdateType(r.u8("type"))
	v := r.vector(4, "length")
	switch c.Type {
	case 0:
		r.fail(0, "type", "type 0")
	case ConfigUpdateConfig:
		c.Config = v.opaque(3, "config_data")
	case ConfigUpdateKinds:
		list := v.vector(3, "kinds")
		for list.more() {
			c.Kinds = append(c.Kinds, list.opaque(2, ""))
		}
		v.join(&list, "kinds")
	default:
		c.Raw = v.rest()
	}
	r.join(&v, "")
	return finish(&r, c, "ConfigUpdateReq")
}

// AppendBinary appends the body.
func (c ConfigUpdateRequest) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.u8(uint8(c.Type))
	at := w.open(4)
	switch c.Type {
	case 0:
		w.fail("type 0")
	case ConfigUpdateConfig:
		w.opaque(3, c.Config, "config_data")
	case ConfigUpdateKinds:
		list := w.open(3)
		for _, kind := range c.Kinds {
			w.opaque(2, kind, "kind")
		}
		w.close(list, 3, "kinds")
	default:
		w.bytes(c.Raw)
	}
	w.close(at, 4, "content")
	return w.end(b, "ConfigUpdateReq")
}
