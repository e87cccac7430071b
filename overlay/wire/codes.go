package wire

import "fmt"

// MessageCode is RFC 6940 §14.8: requests are odd, their answer is one more.
type MessageCode uint16

// Message codes.
const (
	ProbeReq        MessageCode = 0x1
	ProbeAns        MessageCode = 0x2
	AttachReq       MessageCode = 0x3
	AttachAns       MessageCode = 0x4
	StoreReq        MessageCode = 0x7
	StoreAns        MessageCode = 0x8
	FetchReq        MessageCode = 0x9
	FetchAns        MessageCode = 0xa
	FindReq         MessageCode = 0xd
	FindAns         MessageCode = 0xe
	JoinReq         MessageCode = 0xf
	JoinAns         MessageCode = 0x10
	LeaveReq        MessageCode = 0x11
	LeaveAns        MessageCode = 0x12
	UpdateReq       MessageCode = 0x13
	UpdateAns       MessageCode = 0x14
	RouteQueryReq   MessageCode = 0x15
	RouteQueryAns   MessageCode = 0x16
	PingReq         MessageCode = 0x17
	PingAns         MessageCode = 0x18
	StatReq         MessageCode = 0x19
	StatAns         MessageCode = 0x1a
	AppAttachReq    MessageCode = 0x1d
	AppAttachAns    MessageCode = 0x1e
	ConfigUpdateReq MessageCode = 0x21
	ConfigUpdateAns MessageCode = 0x22
	ExpAReq         MessageCode = 0x23 // experimental
	ExpAAns         MessageCode = 0x24
	ExpBReq         MessageCode = 0x25 // experimental
	ExpBAns         MessageCode = 0x26
	PathTrackReq    MessageCode = 0x27 // RFC 7851
	PathTrackAns    MessageCode = 0x28 // RFC 7851
	ErrorAns        MessageCode = 0xffff
)

// IsRequest reports whether c is a request code.
func (c MessageCode) IsRequest() bool { return c < 0x8000 && c&1 == 1 }

// Answer is the code of the successful answer to the request c.
func (c MessageCode) Answer() MessageCode { return c + 1 }

// String is the registered name, or the number in hex.
func (c MessageCode) String() string {
	base := c
	if c != ErrorAns && c != 0 && !c.IsRequest() {
		base = c - 1
	}
	var name string
	switch base {
	case ProbeReq:
		name = "probe"
	case AttachReq:
		name = "attach"
	case StoreReq:
		name = "store"
	case FetchReq:
		name = "fetch"
	case FindReq:
		name = "find"
	case JoinReq:
		name = "join"
	case LeaveReq:
		name = "leave"
	case UpdateReq:
		name = "update"
	case RouteQueryReq:
		name = "route_query"
	case PingReq:
		name = "ping"
	case StatReq:
		name = "stat"
	case AppAttachReq:
		name = "app_attach"
	case ConfigUpdateReq:
		name = "config_update"
	case ExpAReq:
		name = "exp_a"
	case ExpBReq:
		name = "exp_b"
	case PathTrackReq:
		name = "path_track"
	case ErrorAns:
		return "error"
	default:
		return fmt.Sprintf("message_%#x", uint16(c))
	}
	if c.IsRequest() {
		return name + "_req"
	}
	return name + "_ans"
}

// ErrorCode is RFC 6940 §14.9.
type ErrorCode uint16

// Error codes.
const (
	ErrorForbidden                   ErrorCode = 0x2
	ErrorNotFound                    ErrorCode = 0x3
	ErrorRequestTimeout              ErrorCode = 0x4
	ErrorGenerationCounterTooLow     ErrorCode = 0x5 // error_info is a StoreAns
	ErrorIncompatibleWithOverlay     ErrorCode = 0x6
	ErrorUnsupportedForwardingOption ErrorCode = 0x7
	ErrorDataTooLarge                ErrorCode = 0x8
	ErrorDataTooOld                  ErrorCode = 0x9
	ErrorTTLExceeded                 ErrorCode = 0xa
	ErrorMessageTooLarge             ErrorCode = 0xb
	ErrorUnknownKind                 ErrorCode = 0xc // error_info is a list of Kind-IDs: ParseKindList
	ErrorUnknownExtension            ErrorCode = 0xd
	ErrorResponseTooLarge            ErrorCode = 0xe
	ErrorConfigTooOld                ErrorCode = 0xf
	ErrorConfigTooNew                ErrorCode = 0x10
	ErrorInProgress                  ErrorCode = 0x11
	ErrorExpA                        ErrorCode = 0x12
	ErrorExpB                        ErrorCode = 0x13
	ErrorInvalidMessage              ErrorCode = 0x14

	// RFC 7851 §4.4. Their error_info is text.
	ErrorUnderlayDestinationUnreachable ErrorCode = 0x15
	ErrorUnderlayTimeExceeded           ErrorCode = 0x16
	ErrorMessageExpired                 ErrorCode = 0x17
	ErrorUpstreamMisrouting             ErrorCode = 0x18 // error_info is a Node-ID: ParseUpstream
	ErrorLoopDetected                   ErrorCode = 0x19
	ErrorTTLHopsExceeded                ErrorCode = 0x1a
)

var errorNames = map[ErrorCode]string{
	ErrorForbidden:                   "Error_Forbidden",
	ErrorNotFound:                    "Error_Not_Found",
	ErrorRequestTimeout:              "Error_Request_Timeout",
	ErrorGenerationCounterTooLow:     "Error_Generation_Counter_Too_Low",
	ErrorIncompatibleWithOverlay:     "Error_Incompatible_with_Overlay",
	ErrorUnsupportedForwardingOption: "Error_Unsupported_Forwarding_Option",
	ErrorDataTooLarge:                "Error_Data_Too_Large",
	ErrorDataTooOld:                  "Error_Data_Too_Old",
	ErrorTTLExceeded:                 "Error_TTL_Exceeded",
	ErrorMessageTooLarge:             "Error_Message_Too_Large",
	ErrorUnknownKind:                 "Error_Unknown_Kind",
	ErrorUnknownExtension:            "Error_Unknown_Extension",
	ErrorResponseTooLarge:            "Error_Response_Too_Large",
	ErrorConfigTooOld:                "Error_Config_Too_Old",
	ErrorConfigTooNew:                "Error_Config_Too_New",
	ErrorInProgress:                  "Error_In_Progress",
	ErrorExpA:                        "Error_Exp_A",
	ErrorExpB:                        "Error_Exp_B",
	ErrorInvalidMessage:              "Error_Invalid_Message",

	ErrorUnderlayDestinationUnreachable: "Error_Underlay_Destination_Unreachable",
	ErrorUnderlayTimeExceeded:           "Error_Underlay_Time_Exceeded",
	ErrorMessageExpired:                 "Error_Message_Expired",
	ErrorUpstreamMisrouting:             "Error_Upstream_Misrouting",
	ErrorLoopDetected:                   "Error_Loop_Detected",
	ErrorTTLHopsExceeded:                "Error_TTL_Hops_Exceeded",
}

// String is the registered name, or the number in hex.
func (c ErrorCode) String() string {
	if name, ok := errorNames[c]; ok {
		return name
	}
	return fmt.Sprintf("error_%#x", uint16(c))
}

// ErrorResponse is the body of an ErrorAns (RFC 6940 §6.3.3.1). It is an error value, too.
type ErrorResponse struct {
	Code ErrorCode
	Info []byte // UTF-8 text unless the code says otherwise; at most 65535 bytes
}

// Error names the code. Info is a stranger's text and is left out.
func (e ErrorResponse) Error() string { return "RELOAD answer " + e.Code.String() }

// ParseErrorResponse reads the body of an ErrorAns.
func ParseErrorResponse(body []byte) (ErrorResponse, error) {
	r := newReader(body)
	return finish(&r, ErrorResponse{Code: ErrorCode(r.u16("error_code")), Info: r.opaque(2, "error_info")}, "ErrorResponse")
}

// AppendBinary appends the body.
func (e ErrorResponse) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.u16(uint16(e.Code))
	w.opaque(2, e.Info, "error_info")
	return w.end(b, "ErrorResponse")
}
