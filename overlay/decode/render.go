package decode

import (
	"encoding"
	"fmt"
	"net/netip"

	"fieldkit/overlay/wire"
)

// Names that the RFCs give to numbers.
var (
	linkNames        = map[uint64]string{1: "DTLS-UDP-SR", 3: "DTLS-UDP-SR-NO-ICE", 4: "TLS-TCP-FH-NO-ICE"}
	candidateNames   = map[uint64]string{1: "host", 2: "srflx", 4: "relay"}
	applicationNames = map[uint64]string{5060: "SIP", 5061: "SIPS"}
	kindNames        = map[uint64]string{
		1: "SIP-REGISTRATION", 2: "TURN-SERVICE", 3: "CERTIFICATE_BY_NODE", 4: "ACCESS-CONTROL-LIST",
		0x10: "CERTIFICATE_BY_USER", 0x104: "REDIR",
	}
	optionNames    = map[uint64]string{2: "extensive_routing_mode"}
	extensionNames = map[uint64]string{2: "Diagnostic_Ping", 3: "self_tuning_data"}
	probeNames     = map[uint64]string{1: "responsible_set", 2: "num_resources", 3: "uptime"}
	updateNames    = map[uint64]string{1: "peer_ready", 2: "neighbors", 3: "full"}
	leaveNames     = map[uint64]string{1: "from_succ", 2: "from_pred"}
	configNames    = map[uint64]string{1: "config", 2: "kind"}
	hashNames      = map[uint64]string{0: "none", 1: "md5", 2: "sha1", 3: "sha224", 4: "sha256", 5: "sha384", 6: "sha512"}
	signatureNames = map[uint64]string{0: "anonymous", 1: "rsa", 2: "dsa", 3: "ecdsa"}
	identityNames  = map[uint64]string{1: "cert_hash", 2: "cert_hash_node_id", 3: "none"}
	sipNames       = map[uint64]string{1: "sip_registration_uri", 2: "sip_registration_route"}
)

// header renders the ForwardingHeader (RFC 6940 §6.3.2), behind which comes rest.
func (u *unit) header(h *wire.Header, rest []byte) {
	const optionHead = 4 // type, flags, length
	at := len(u.whole) - len(rest)
	for i := range h.Options {
		at -= optionHead + len(h.Options[i].Data)
	}
	u.object("forwarding", func() {
		u.hex("relo_token", uint64(wire.Token), 4)
		u.hex("overlay", uint64(h.Overlay), 4)
		u.num("configuration_sequence", uint64(h.ConfigSequence))
		u.num("version", uint64(h.Version))
		u.num("ttl", uint64(h.TTL))
		u.hex("fragment", uint64(h.Fragment), 4)
		u.num("length", uint64(h.Length))
		u.hex("transaction_id", h.TransactionID, 8)
		u.num("max_response_length", uint64(h.MaxResponseLength))
		u.destinations("via_list", h.Via)
		u.destinations("destination_list", h.Dest)
		u.list("options", len(h.Options), func(i int) {
			u.near = at + optionHead
			at += optionHead + len(h.Options[i].Data)
			u.option(i, &h.Options[i])
		})
	})
}

func (u *unit) option(i int, o *wire.ForwardingOption) {
	content, err := parseOption(o)
	u.malformed(o.Data, fmt.Sprintf("forwarding.options[%d].option", i), err)
	u.object("", func() {
		u.named("type", uint64(o.Type), optionNames)
		var set []string
		for _, flag := range []struct {
			bit  uint8
			name string
		}{
			{wire.ForwardCritical, "FORWARD_CRITICAL"}, {wire.DestinationCritical, "DESTINATION_CRITICAL"},
			{wire.ResponseCopy, "RESPONSE_COPY"}, {wire.IgnoreStateKeeping, "IGNORE-STATE-KEEPING"},
		} {
			if o.Flags&flag.bit != 0 {
				set = append(set, flag.name)
			}
		}
		if rest := o.Flags &^ 0xf; rest != 0 {
			set = append(set, fmt.Sprintf("%#x", rest))
		}
		u.list("flags", len(set), func(i int) { u.str("", set[i]) })
		u.content("option", o.Data, content, err)
	})
}

func (u *unit) destinations(name string, list []wire.Destination) {
	u.list(name, len(list), func(i int) { u.destination("", &list[i]) })
}

func (u *unit) destination(name string, d *wire.Destination) {
	u.object(name, func() {
		switch {
		case d.Short:
			u.str("type", "compressed")
			u.opaque("opaque_id", d.Opaque)
		case d.Type == wire.DestNode:
			u.str("type", "node")
			u.str("node_id", d.Node.String())
		case d.Type == wire.DestResource:
			u.str("type", "resource")
			u.str("resource_id", d.Resource.String())
		case d.Type == wire.DestOpaque:
			u.str("type", "opaque_id_type")
			u.opaque("opaque_id", d.Opaque)
		default:
			u.num("type", uint64(d.Type))
			u.opaque("destination_data", d.Opaque)
		}
	})
}

// contents renders the MessageContents (RFC 6940 §6.3.3) of the message, with which rest begins.
func (u *unit) contents(rest []byte) {
	const bodyHead, listHead, extensionHead = 2 + 4, 4, 2 + 1 + 4
	m := u.message
	u.body = len(u.whole) - len(rest) + bodyHead
	at := u.body + len(m.Body) + listHead
	u.object("message_contents", func() {
		u.str("message_code", m.Code.String())
		u.near = u.body
		body, err := parseBody(m.Code, m.Body, u.idBytes, u.models)
		u.malformed(m.Body, "", err)
		u.content("message_body", m.Body, body, err)
		u.list("extensions", len(m.Extensions), func(i int) {
			e := &m.Extensions[i]
			u.near = at + extensionHead
			at += extensionHead + len(e.Data)
			content, err := parseExtension(m.Code, e)
			u.malformed(e.Data, fmt.Sprintf("message_contents.extensions[%d].extension_contents", i), err)
			u.object("", func() {
				u.named("type", uint64(e.Type), extensionNames)
				u.boolean("critical", e.Critical)
				u.content("extension_contents", e.Data, content, err)
			})
		})
	})
}

// content renders what raw was read as, or raw in hex.
func (u *unit) content(name string, raw []byte, content encoding.BinaryAppender, malformed error) {
	if content == nil || malformed != nil {
		u.opaque(name, raw)
		return
	}
	if o, ok := content.(opaque); ok {
		u.opaque(name, o)
		return
	}
	u.object(name, func() { u.structure(content) })
}

// structure renders the members of a structure.
func (u *unit) structure(s encoding.BinaryAppender) {
	switch s := s.(type) {
	case empty:
	case wire.ProbeRequest:
		u.list("requested_info", len(s.Requested), func(i int) { u.named("", uint64(s.Requested[i]), probeNames) })
	case wire.ProbeAnswer:
		u.list("probe_info", len(s.Info), func(i int) { u.probeInfo(&s.Info[i]) })
	case wire.AttachReqAns:
		u.attach(&s.IceParameters, nil)
		u.boolean("send_update", s.SendUpdate)
	case wire.AppAttachReqAns:
		u.attach(&s.IceParameters, &s.Application)
	case wire.JoinRequest:
		u.str("joining_peer_id", s.Node.String())
		u.opaque("overlay_specific_data", s.OverlaySpecific)
	case wire.JoinAnswer:
		u.opaque("overlay_specific_data", s.OverlaySpecific)
	case wire.LeaveRequest:
		u.leave(&s)
	case wire.ChordUpdate:
		u.update(&s)
	case wire.RouteQueryRequest:
		u.boolean("send_update", s.SendUpdate)
		u.destination("destination", &s.Destination)
		u.opaque("overlay_specific_data", s.OverlaySpecific)
	case wire.RouteQueryAnswer:
		u.str("next_peer", s.NextPeer.String())
	case wire.PingRequest:
		u.opaque("padding", s.Padding)
	case wire.PingAnswer:
		u.hex("response_id", s.ResponseID, 8)
		u.num("time", s.Time)
	case wire.ConfigUpdateRequest:
		u.configUpdate(&s)
	case wire.PathTrackRequest:
		u.destination("destination", &s.Destination)
		u.object("request", func() { u.structure(s.Request) })
	case wire.PathTrackAnswer:
		u.destination("next_hop", &s.NextHop)
		u.object("response", func() { u.structure(s.Response) })
	case wire.DiagnosticsRequest:
		u.diagnosticsRequest(&s)
	case wire.DiagnosticsResponse:
		u.diagnosticsResponse(&s)
	case wire.SelfTuningData:
		u.num("network_size", uint64(s.NetworkSize))
		u.num("join_rate", uint64(s.JoinRate))
		u.num("leave_rate", uint64(s.LeaveRate))
	case wire.ExtensiveRoutingMode:
		u.str("routemode", s.Mode.String())
		u.named("transport", uint64(s.Transport), linkNames)
		u.addrPort("ipaddressport", s.Addr, s.Unknown)
		u.destinations("destinations", s.Destinations)
	case wire.ErrorResponse:
		u.errorResponse(&s)
	default:
		u.storage(s)
	}
}

func (u *unit) probeInfo(p *wire.ProbeInformation) {
	u.object("", func() {
		u.named("type", uint64(p.Type), probeNames)
		switch p.Type {
		case wire.ProbeResponsibleSet:
			u.num("responsible_ppb", uint64(p.Value))
		case wire.ProbeNumResources:
			u.num("num_resources", uint64(p.Value))
		case wire.ProbeUptime:
			u.num("uptime", uint64(p.Value))
		default:
			u.opaque("value", p.Raw)
		}
	})
}

func (u *unit) attach(ice *wire.IceParameters, application *uint16) {
	u.text("ufrag", ice.Ufrag)
	u.text("password", ice.Password)
	if application != nil {
		u.named("application", uint64(*application), applicationNames)
	}
	u.text("role", ice.Role)
	u.list("candidates", len(ice.Candidates), func(i int) {
		c := &ice.Candidates[i]
		u.object("", func() {
			u.addrPort("addr_port", c.Addr, c.Unknown)
			u.named("overlay_link", uint64(c.Link), linkNames)
			u.text("foundation", c.Foundation)
			u.num("priority", uint64(c.Priority))
			u.named("type", uint64(c.Type), candidateNames)
			if c.Type != wire.CandHost {
				u.addrPort("rel_addr_port", c.Related, c.UnknownRelated)
			}
			u.list("extensions", len(c.Extensions), func(j int) {
				u.object("", func() {
					u.text("name", c.Extensions[j].Name)
					u.text("value", c.Extensions[j].Value)
				})
			})
		})
	})
}

func (u *unit) addrPort(name string, ap netip.AddrPort, unknown []byte) {
	if unknown != nil {
		u.object(name, func() {
			u.num("type", uint64(unknown[0]))
			u.opaque("data", unknown[2:])
		})
		return
	}
	u.str(name, ap.String())
}

func (u *unit) nodeIDs(name string, ids []wire.NodeID) {
	u.list(name, len(ids), func(i int) { u.str("", ids[i].String()) })
}

func (u *unit) leave(l *wire.LeaveRequest) {
	u.str("leaving_peer_id", l.Node.String())
	u.near = u.body + len(u.message.Body)
	data, err := wire.ParseChordLeave(l.OverlaySpecific, u.idBytes)
	if err != nil {
		u.malformed(l.OverlaySpecific, "LeaveReq.overlay_specific_data", err)
		u.opaque("overlay_specific_data", l.OverlaySpecific)
		return
	}
	u.object("overlay_specific_data", func() {
		u.named("type", uint64(data.Type), leaveNames)
		list := "successors"
		if data.Type == wire.LeaveFromPredecessor {
			list = "predecessors"
		}
		u.nodeIDs(list, data.Nodes)
	})
}

func (u *unit) update(c *wire.ChordUpdate) {
	u.num("uptime", uint64(c.Uptime))
	u.named("type", uint64(c.Type), updateNames)
	if c.Type != wire.UpdatePeerReady {
		u.nodeIDs("predecessors", c.Predecessors)
		u.nodeIDs("successors", c.Successors)
	}
	if c.Type == wire.UpdateFull {
		u.nodeIDs("fingers", c.Fingers)
	}
}

func (u *unit) configUpdate(c *wire.ConfigUpdateRequest) {
	u.named("type", uint64(c.Type), configNames)
	switch c.Type {
	case wire.ConfigUpdateConfig:
		u.text("config_data", c.Config)
	case wire.ConfigUpdateKinds:
		u.list("kinds", len(c.Kinds), func(i int) { u.text("", c.Kinds[i]) })
	default:
		u.opaque("content", c.Raw)
	}
}

func (u *unit) diagnosticsRequest(d *wire.DiagnosticsRequest) {
	u.num("expiration", d.Expiration)
	u.num("timestamp_initiated", d.Initiated)
	u.hex("dMFlags", d.Flags, 8)
	u.list("diagnostic_extensions_list", len(d.Extensions), func(i int) {
		u.object("", func() {
			u.str("kind", d.Extensions[i].Kind.String())
			u.opaque("diagnostic_extension_contents", d.Extensions[i].Contents)
		})
	})
}

func (u *unit) diagnosticsResponse(d *wire.DiagnosticsResponse) {
	u.num("expiration", d.Expiration)
	u.num("timestamp_initiated", d.Initiated)
	u.num("timestamp_received", d.Received)
	u.num("hop_counter", uint64(d.HopCounter))
	u.list("diagnostic_info_list", len(d.Info), func(i int) {
		info := d.Info[i]
		v, err := info.Value()
		u.malformed(info.Contents, fmt.Sprintf("diagnostic_info_list[%d]", i), err)
		u.object("", func() {
			const name = "diagnostic_info_contents"
			u.str("kind", info.Kind.String())
			switch {
			case err != nil || v.Raw != nil:
				u.opaque(name, info.Contents)
			case info.Kind == wire.DiagSoftwareVersion:
				u.str(name, v.Text)
			case info.Kind == wire.DiagInstancesStored:
				u.list(name, len(v.Instances), func(j int) {
					u.object("", func() {
						u.kind(v.Instances[j].Kind)
						u.num("instances", v.Instances[j].Instances)
					})
				})
			case info.Kind == wire.DiagMessagesSentRcvd:
				u.list(name, len(v.Messages), func(j int) {
					u.object("", func() {
						u.str("message_code", v.Messages[j].Code.String())
						u.num("sent", v.Messages[j].Sent)
						u.num("received", v.Messages[j].Received)
					})
				})
			default:
				u.num(name, v.Number)
			}
		})
	})
}

func (u *unit) errorResponse(e *wire.ErrorResponse) {
	u.str("error_code", e.Code.String())
	u.near = u.body + len(u.message.Body)
	info, err := parseErrorInfo(*e, u.idBytes)
	if info == nil {
		u.text("error_info", e.Info)
		return
	}
	u.malformed(e.Info, "ErrorResponse.error_info", err)
	u.content("error_info", e.Info, info, err)
}
