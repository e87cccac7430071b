package decode

import (
	"encoding"

	"fieldkit/overlay/wire"
)

// Structures without a type of their own in wire, so that every body is one that can be appended.
type (
	opaque       []byte // a body whose structure is not known
	empty        struct{}
	unknownKinds []wire.KindID
)

func (o opaque) AppendBinary(b []byte) ([]byte, error)       { return append(b, o...), nil }
func (empty) AppendBinary(b []byte) ([]byte, error)          { return b, nil }
func (k unknownKinds) AppendBinary(b []byte) ([]byte, error) { return wire.AppendKindList(b, k) }

// parseBody reads the body of a message of that code in an overlay with Node-IDs of idLen bytes. Where the overlay
// algorithm decides what is in a body, it is CHORD-RELOAD (RFC 6940 §10).
func parseBody(code wire.MessageCode, body []byte, idLen int, models wire.ModelOf) (encoding.BinaryAppender, error) {
	switch code {
	case wire.ProbeReq:
		return wire.ParseProbeRequest(body)
	case wire.ProbeAns:
		return wire.ParseProbeAnswer(body)
	case wire.AttachReq, wire.AttachAns:
		return wire.ParseAttach(body)
	case wire.StoreReq:
		return wire.ParseStoreRequest(body, models)
	case wire.StoreAns:
		return wire.ParseStoreAnswer(body, idLen)
	case wire.FetchReq:
		return wire.ParseFetchRequest(body, models)
	case wire.FetchAns:
		return wire.ParseFetchAnswer(body, models)
	case wire.FindReq:
		return wire.ParseFindRequest(body)
	case wire.FindAns:
		return wire.ParseFindAnswer(body)
	case wire.JoinReq:
		return wire.ParseJoinRequest(body, idLen)
	case wire.JoinAns:
		return wire.ParseJoinAnswer(body)
	case wire.LeaveReq:
		return wire.ParseLeaveRequest(body, idLen)
	case wire.UpdateReq:
		return wire.ParseChordUpdate(body, idLen)
	case wire.RouteQueryReq:
		return wire.ParseRouteQueryRequest(body)
	case wire.RouteQueryAns:
		return wire.ParseRouteQueryAnswer(body, idLen)
	case wire.PingReq:
		return wire.ParsePingRequest(body)
	case wire.PingAns:
		return wire.ParsePingAnswer(body)
	case wire.StatReq:
		return wire.ParseStatRequest(body, models)
	case wire.StatAns:
		return wire.ParseStatAnswer(body, models)
	case wire.AppAttachReq, wire.AppAttachAns:
		return wire.ParseAppAttach(body)
	case wire.ConfigUpdateReq:
		return wire.ParseConfigUpdate(body)
	case wire.PathTrackReq:
		return wire.ParsePathTrackRequest(body)
	case wire.PathTrackAns:
		return wire.ParsePathTrackAnswer(body)
	case wire.ErrorAns:
		return wire.ParseErrorResponse(body)
	case wire.LeaveAns, wire.UpdateAns, wire.ConfigUpdateAns:
		return empty{}, wire.ParseEmpty(body)
	default:
		return opaque(body), nil
	}
}

// parseErrorInfo reads what an error carries beside its code, nil where that is text.
func parseErrorInfo(e wire.ErrorResponse, idLen int) (encoding.BinaryAppender, error) {
	switch e.Code {
	case wire.ErrorUnknownKind:
		kinds, err := wire.ParseKindList(e.Info)
		return unknownKinds(kinds), err
	case wire.ErrorGenerationCounterTooLow:
		return wire.ParseStoreAnswer(e.Info, idLen)
	default:
		return nil, nil
	}
}

// parseValue reads the value of a Kind, nil where it has no structure that is known.
func parseValue(kind wire.KindID, value []byte) (encoding.BinaryAppender, error) {
	switch kind {
	case wire.KindSIPRegistration:
		return wire.ParseSIPRegistration(value)
	case wire.KindTurnService:
		return wire.ParseTurnServer(value)
	default:
		return nil, nil
	}
}

// parseOption reads the content of a forwarding option, nil where it has no structure that is known.
func parseOption(o *wire.ForwardingOption) (encoding.BinaryAppender, error) {
	if o.Type == wire.OptionExtensiveRoutingMode {
		return wire.ParseExtensiveRoutingMode(o.Data)
	}
	return nil, nil
}

// parseExtension reads the content of an extension of a message of that code, nil where it has no structure that is
// known or no meaning: "Receivers who receive a method other than Ping including this extension MUST ignore the
// extension" (RFC 7851 §4.2.1).
func parseExtension(code wire.MessageCode, e *wire.Extension) (encoding.BinaryAppender, error) {
	switch {
	case e.Type == wire.ExtensionDiagnosticPing && code == wire.PingReq:
		return wire.ParseDiagnosticsRequest(e.Data)
	case e.Type == wire.ExtensionDiagnosticPing && code == wire.PingAns:
		return wire.ParseDiagnosticsResponse(e.Data)
	case e.Type == wire.ExtensionSelfTuning && (code == wire.ProbeReq || code == wire.ProbeAns):
		return wire.ParseSelfTuningData(e.Data)
	default:
		return nil, nil
	}
}
