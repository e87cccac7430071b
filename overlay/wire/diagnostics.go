package wire

import (
	"bytes"
	"fmt"
	"slices"
)

// DiagnosticKind is RFC 7851 §9.2: an item of diagnostic information. Kinds 0x1 to 0x3e are asked for by the bit
// of that number in the dMFlags of a request, others by an extension of it.
type DiagnosticKind uint16

// Diagnostic Kinds.
const (
	DiagStatusInfo          DiagnosticKind = 0x1  // uint8: congestion, 0 to 15
	DiagRoutingTableSize    DiagnosticKind = 0x2  // uint32: peers
	DiagProcessPower        DiagnosticKind = 0x3  // uint64: MIPS
	DiagUpstreamBandwidth   DiagnosticKind = 0x4  // uint64: kbit/s
	DiagDownstreamBandwidth DiagnosticKind = 0x5  // uint64: kbit/s
	DiagSoftwareVersion     DiagnosticKind = 0x6  // US-ASCII
	DiagMachineUptime       DiagnosticKind = 0x7  // uint64: seconds
	DiagAppUptime           DiagnosticKind = 0x8  // uint64: seconds
	DiagMemoryFootprint     DiagnosticKind = 0x9  // uint64: KiB
	DiagDatasizeStored      DiagnosticKind = 0xa  // uint64: bytes
	DiagInstancesStored     DiagnosticKind = 0xb  // per Kind
	DiagMessagesSentRcvd    DiagnosticKind = 0xc  // per message code
	DiagEWMABytesSent       DiagnosticKind = 0xd  // uint32: bytes per second
	DiagEWMABytesRcvd       DiagnosticKind = 0xe  // uint32: bytes per second
	DiagUnderlayHop         DiagnosticKind = 0xf  // uint8: IP hops to the next hop
	DiagBatteryStatus       DiagnosticKind = 0x10 // uint8: BatteryMains set when not on battery
)

// BatteryMains is the bit of a BATTERY_STATUS that is clear when "the peer is using a battery for power".
const BatteryMains uint8 = 0x80

// maxCongestion is the highest STATUS_INFO: "The rightmost 4 bits are used and other bits MUST be cleared".
const maxCongestion = 0xf

// lastFlagKind is the last Kind that dMFlags can ask for; 0x3f, like 0, is reserved.
const lastFlagKind DiagnosticKind = 0x3e

// AllDiagnostics is the dMFlags that ask for everything.
const AllDiagnostics uint64 = 1<<64 - 1

var diagnosticNames = [...]string{
	DiagStatusInfo: "STATUS_INFO", DiagRoutingTableSize: "ROUTING_TABLE_SIZE", DiagProcessPower: "PROCESS_POWER",
	DiagUpstreamBandwidth: "UPSTREAM_BANDWIDTH", DiagDownstreamBandwidth: "DOWNSTREAM_BANDWIDTH",
	DiagSoftwareVersion: "SOFTWARE_VERSION", DiagMachineUptime: "MACHINE_UPTIME", DiagAppUptime: "APP_UPTIME",
	DiagMemoryFootprint: "MEMORY_FOOTPRINT", DiagDatasizeStored: "DATASIZE_STORED", DiagInstancesStored: "INSTANCES_STORED",
	DiagMessagesSentRcvd: "MESSAGES_SENT_RCVD", DiagEWMABytesSent: "EWMA_BYTES_SENT", DiagEWMABytesRcvd: "EWMA_BYTES_RCVD",
	DiagUnderlayHop: "UNDERLAY_HOP", DiagBatteryStatus: "BATTERY_STATUS",
}

// String is the registered name, or the number in hex.
func (k DiagnosticKind) String() string {
	if k > 0 && int(k) < len(diagnosticNames) {
		return diagnosticNames[k]
	}
	return fmt.Sprintf("diagnostic_%#x", uint16(k))
}

// Flag is the bit of dMFlags that asks for k, and 0 if k is not asked for that way.
func (k DiagnosticKind) Flag() uint64 {
	if k == 0 || k > lastFlagKind {
		return 0
	}
	return 1 << k
}

// DiagnosticExtension asks for information that dMFlags cannot ask for (RFC 7851 §5.1).
type DiagnosticExtension struct {
	Kind     DiagnosticKind // above 0x3f
	Contents []byte         // at most 2^32-1 bytes
}

// DiagnosticsRequest is the content of a Diagnostic_Ping extension in a PingReq, and part of a PathTrackReq
// (RFC 7851 §5.1). Times are milliseconds since 1970-01-01.
type DiagnosticsRequest struct {
	Expiration uint64 // 1 to 600 seconds ahead
	Initiated  uint64 // timestamp_initiated
	Flags      uint64 // dMFlags; AllDiagnostics, or bits from DiagnosticKind.Flag
	Extensions []DiagnosticExtension
}

// DiagnosticInfo is one item of a DiagnosticsResponse (RFC 7851 §5.2): Value reads its Contents.
type DiagnosticInfo struct {
	Kind     DiagnosticKind
	Contents []byte // at most 65535 bytes
}

// DiagnosticsResponse is the content of a Diagnostic_Ping extension in a PingAns, and part of a PathTrackAns
// (RFC 7851 §5.2). Times are milliseconds since 1970-01-01.
type DiagnosticsResponse struct {
	Expiration uint64 // 1 to 600 seconds ahead
	Initiated  uint64 // timestamp_initiated, copied from the request
	Received   uint64 // timestamp_received
	HopCounter uint8  // the TTL of the request as it was received
	Info       []DiagnosticInfo
}

// PathTrackRequest is the body of a PathTrackReq (RFC 7851 §4.3.1.1).
type PathTrackRequest struct {
	Destination Destination
	Request     DiagnosticsRequest
}

// PathTrackAnswer is the body of a PathTrackAns (RFC 7851 §4.3.1.2). NextHop is the responding node itself when it
// is responsible for the destination.
type PathTrackAnswer struct {
	NextHop  Destination
	Response DiagnosticsResponse
}

// ParseDiagnosticsRequest reads the Data of a Diagnostic_Ping extension in a PingReq.
func ParseDiagnosticsRequest(contents []byte) (DiagnosticsRequest, error) {
	r := newReader(contents)
	return finish(&r, r.diagnosticsRequest(), "DiagnosticsRequest")
}

// AppendBinary appends the structure.
func (d DiagnosticsRequest) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.diagnosticsRequest(&d)
	return w.end(b, "DiagnosticsRequest")
}

// ParseDiagnosticsResponse reads the Data of a Diagnostic_Ping extension in a PingAns.
func ParseDiagnosticsResponse(contents []byte) (DiagnosticsResponse, error) {
	r := newReader(contents)
	return finish(&r, r.diagnosticsResponse(), "DiagnosticsResponse")
}

// AppendBinary appends the structure.
func (d DiagnosticsResponse) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.diagnosticsResponse(&d)
	return w.end(b, "DiagnosticsResponse")
}

// ParsePathTrackRequest reads the body of a PathTrackReq.
func ParsePathTrackRequest(body []byte) (PathTrackRequest, error) {
	r := newReader(body)
	p := PathTrackRequest{Destination: r.destination("destination")}
	before := r.ok()
	p.Request = r.diagnosticsRequest()
	r.scope(before, "request")
	return finish(&r, p, "PathTrackReq")
}

// AppendBinary appends the body.
func (p PathTrackRequest) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.destination(&p.Destination)
	w.diagnosticsRequest(&p.Request)
	return w.end(b, "PathTrackReq")
}

// ParsePathTrackAnswer reads the body of a PathTrackAns.
func ParsePathTrackAnswer(body []byte) (PathTrackAnswer, error) {
	r := newReader(body)
	p := PathTrackAnswer{NextHop: r.destination("next_hop")}
	before := r.ok()
	p.Response = r.diagnosticsResponse()
	r.scope(before, "response")
	return finish(&r, p, "PathTrackAns")
}

// AppendBinary appends the body.
func (p PathTrackAnswer) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.destination(&p.NextHop)
	w.diagnosticsResponse(&p.Response)
	return w.end(b, "PathTrackAns")
}

func (r *reader) diagnosticsRequest() DiagnosticsRequest {
	d := DiagnosticsRequest{
		Expiration: r.u64("expiration"), Initiated: r.u64("timestamp_initiated"), Flags: r.u64("dMFlags"),
	}
	v := r.diagnosticList("diagnostic_extensions_list")
	for v.more() {
		e := DiagnosticExtension{Kind: DiagnosticKind(v.u16("kind"))}
		if v.ok() && e.Kind <= lastFlagKind+1 {
			v.refuse(2, "kind", "Kind that dMFlags ask for")
		}
		e.Contents = v.opaque(4, "diagnostic_extension_contents")
		d.Extensions = append(d.Extensions, e)
	}
	r.join(&v, "diagnostic_extensions_list")
	return d
}

func (r *reader) diagnosticsResponse() DiagnosticsResponse {
	d := DiagnosticsResponse{
		Expiration: r.u64("expiration"), Initiated: r.u64("timestamp_initiated"), Received: r.u64("timestamp_received"),
		HopCounter: r.u8("hop_counter"),
	}
	v := r.diagnosticList("diagnostic_info_list")
	for v.more() {
		d.Info = append(d.Info, DiagnosticInfo{
			Kind: DiagnosticKind(v.u16("kind")), Contents: v.opaque(2, "diagnostic_info_contents"),
		})
	}
	r.join(&v, "diagnostic_info_list")
	return d
}

// diagnosticList reads ext_length and the list behind it. ext_length is "the length [...] of the data making up" the
// list, which the list's own length says again: the two must agree.
func (r *reader) diagnosticList(field string) reader {
	length := r.u32("ext_length")
	v := r.vector(4, field)
	if r.ok() && uint64(length) != uint64(len(v.b)) {
		r.refuse(8+len(v.b), "ext_length", fmt.Sprintf("%d for a list of %d bytes", length, len(v.b)))
	}
	return v
}

func (w *writer) diagnosticsRequest(d *DiagnosticsRequest) {
	w.u64(d.Expiration)
	w.u64(d.Initiated)
	w.u64(d.Flags)
	length, list := w.open(4), w.open(4)
	for i := range d.Extensions {
		// "Kinds from 0x0000 to 0x003f MUST NOT be indicated in the diagnostic_extensions_list"
		if d.Extensions[i].Kind <= lastFlagKind+1 {
			w.fail("extension for a Kind that dMFlags ask for")
		}
		w.u16(uint16(d.Extensions[i].Kind))
		w.opaque(4, d.Extensions[i].Contents, "diagnostic_extension_contents")
	}
	w.diagnosticList(length, list, "diagnostic_extensions_list")
}

func (w *writer) diagnosticsResponse(d *DiagnosticsResponse) {
	w.u64(d.Expiration)
	w.u64(d.Initiated)
	w.u64(d.Received)
	w.u8(d.HopCounter)
	length, list := w.open(4), w.open(4)
	for i := range d.Info {
		w.u16(uint16(d.Info[i].Kind))
		w.opaque(2, d.Info[i].Contents, "diagnostic_info_contents")
	}
	w.diagnosticList(length, list, "diagnostic_info_list")
}

// diagnosticList fills in the length of the list that began at list, twice.
func (w *writer) diagnosticList(length, list int, what string) {
	w.close(list, 4, what)
	copy(w.b[length:list], w.b[list:list+4])
}

// DiagnosticValue is what the Contents of a DiagnosticInfo say. The Kind tells which field is used.
type DiagnosticValue struct {
	Number    uint64             // of the Kinds with a comment that says uint8, uint32 or uint64
	Text      string             // DiagSoftwareVersion, without the NUL that ends it
	Instances []StoredInstances  // DiagInstancesStored
	Messages  []ExchangedMessage // DiagMessagesSentRcvd
	Raw       []byte             // Kinds this code does not know
}

// StoredInstances is an entry of INSTANCES_STORED. RFC 7851 §5.3 says that the array "is indexed by Kind-ID" and not
// how that is written: here each entry is the Kind-ID followed by the number.
type StoredInstances struct {
	Kind      KindID
	Instances uint64
}

// ExchangedMessage is an entry of MESSAGES_SENT_RCVD, written as the message code followed by the two numbers.
type ExchangedMessage struct {
	Code           MessageCode
	Sent, Received uint64
}

// numberLen is how many bytes the number of a Kind takes; 0 for Kinds that are none.
func (k DiagnosticKind) numberLen() int {
	switch k {
	case DiagStatusInfo, DiagUnderlayHop, DiagBatteryStatus:
		return 1
	case DiagRoutingTableSize, DiagEWMABytesSent, DiagEWMABytesRcvd:
		return 4
	case DiagProcessPower, DiagUpstreamBandwidth, DiagDownstreamBandwidth, DiagMachineUptime, DiagAppUptime,
		DiagMemoryFootprint, DiagDatasizeStored:
		return 8
	default:
		return 0
	}
}

// Value reads the Contents.
func (d DiagnosticInfo) Value() (DiagnosticValue, error) {
	var v DiagnosticValue
	r := newReader(d.Contents)
	switch {
	case d.Kind.numberLen() > 0:
		v.Number = r.uint(d.Kind.numberLen(), "")
		if d.Kind == DiagStatusInfo && v.Number > maxCongestion {
			r.fail(0, "", "more than 4 bits")
		}
	case d.Kind == DiagSoftwareVersion:
		// "The string is a C-style string and MUST be terminated by "\0"."
		text, _ := bytes.CutSuffix(d.Contents, []byte{0})
		if i := bytes.IndexByte(d.Contents, 0); i < 0 || i != len(d.Contents)-1 {
			r.fail(len(text), "", "NUL not at the end, and only there")
		} else if i := slices.IndexFunc(text, func(c byte) bool { return c >= 0x80 }); i >= 0 {
			r.fail(i, "", "no US-ASCII")
		}
		v.Text = string(text)
		r.rest()
	case d.Kind == DiagInstancesStored:
		for r.more() {
			v.Instances = append(v.Instances, StoredInstances{Kind: KindID(r.u32("kind")), Instances: r.u64("instances")})
		}
	case d.Kind == DiagMessagesSentRcvd:
		for r.more() {
			v.Messages = append(v.Messages, ExchangedMessage{
				Code: MessageCode(r.u16("message_code")), Sent: r.u64("sent"), Received: r.u64("rcvd"),
			})
		}
	default:
		v.Raw = r.rest()
	}
	return finish(&r, v, d.Kind.String())
}

// Info makes the item of that Kind that says v.
func (v DiagnosticValue) Info(k DiagnosticKind) (DiagnosticInfo, error) {
	w := writer{}
	switch n := k.numberLen(); {
	case n > 0:
		if n < 8 && v.Number>>(8*n) != 0 || k == DiagStatusInfo && v.Number > maxCongestion {
			w.fail("number too large")
		}
		for i := n - 1; i >= 0; i-- {
			w.u8(byte(v.Number >> (8 * i)))
		}
	case k == DiagSoftwareVersion:
		for _, c := range []byte(v.Text) {
			if c == 0 || c >= 0x80 {
				w.fail("text that is not US-ASCII")
			}
		}
		w.b = append(append(w.b, v.Text...), 0)
	case k == DiagInstancesStored:
		for _, e := range v.Instances {
			w.u32(uint32(e.Kind))
			w.u64(e.Instances)
		}
	case k == DiagMessagesSentRcvd:
		for _, e := range v.Messages {
			w.u16(uint16(e.Code))
			w.u64(e.Sent)
			w.u64(e.Received)
		}
	default:
		w.bytes(v.Raw)
	}
	if len(w.b) > 0xffff {
		w.fail("too long")
	}
	b, err := w.end(nil, k.String())
	return DiagnosticInfo{Kind: k, Contents: b}, err
}

// AppendUpstream appends the error_info of an Error_Upstream_Misrouting: "the immediate upstream peer information MUST
// also be conveyed" (RFC 7851 §6.2). An error_info is text unless otherwise specified (RFC 6940 §6.3.3.1), so it is the
// Node-ID of that peer in hex.
func AppendUpstream(b []byte, peer NodeID) []byte { return append(b, peer.String()...) }

// ParseUpstream reads the error_info of an Error_Upstream_Misrouting.
func ParseUpstream(info []byte) (NodeID, error) {
	id, err := ParseNodeID(string(info))
	if err != nil {
		return NodeID{}, &SyntaxError{Field: "error_info", Reason: "no Node-ID in hex"}
	}
	return id, nil
}
