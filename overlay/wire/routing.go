package wire

import (
	"net/netip"
	"strconv"
)

// OptionExtensiveRoutingMode is the type of the forwarding option that holds an ExtensiveRoutingMode
// (RFC 7263 §5.2.2, RFC 7264 §5.2.1).
const OptionExtensiveRoutingMode uint8 = 2

// IgnoreStateKeeping is the flag of a forwarding option that asks the peers on the way to keep no state for
// the message (RFC 7263 §5.2.1).
const IgnoreStateKeeping uint8 = 0x08

// RouteMode is how the response to a request with an ExtensiveRoutingMode travels.
type RouteMode uint8

// Route modes.
const (
	RouteDirect RouteMode = 1 // DRR: straight to the requester (RFC 7263)
	RouteRelay  RouteMode = 2 // RPR: through the requester's relay peer (RFC 7264)
)

// ExtensiveRoutingMode is the content of a forwarding option of that type: where and how a response is to be
// sent instead of back along the Via List.
type ExtensiveRoutingMode struct {
	Mode      RouteMode      // not 0; modes this code does not know have the same structure
	Transport uint8          // overlay link protocol, LinkDTLSUDPSR and so on
	Addr      netip.AddrPort // not valid when it is of a type this code does not know: then see Unknown
	Unknown   []byte         // the encoded address of such a type
	// Destinations take at least 1 and at most 255 bytes.
	Destinations []Destination
}

// ParseExtensiveRoutingMode reads the Data of a forwarding option.
func ParseExtensiveRoutingMode(option []byte) (ExtensiveRoutingMode, error) {
	r := newReader(option)
	e := ExtensiveRoutingMode{Mode: RouteMode(r.u8("routemode")), Transport: r.u8("transport")}
	if r.ok() && e.Mode == 0 {
		r.fail(0, "routemode", "routemode 0")
	}
	e.Addr, e.Unknown = r.addrPort("ipaddressport")
	v := r.vector(1, "destinations")
	if r.ok() && len(v.b) == 0 {
		r.refuse(1, "destinations", "no destination")
	}
	e.Destinations = v.destinations()
	r.join(&v, "destinations")
	return finish(&r, e, "ExtensiveRoutingModeOption")
}

// AppendBinary appends the Data of a forwarding option.
func (e ExtensiveRoutingMode) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	if e.Mode == 0 {
		w.fail("routemode 0")
	}
	if len(e.Destinations) == 0 {
		w.fail("no destination")
	}
	w.u8(uint8(e.Mode))
	w.u8(e.Transport)
	w.addrPort(e.Addr, e.Unknown)
	at := w.open(1)
	for i := range e.Destinations {
		w.destination(&e.Destinations[i])
	}
	w.close(at, 1, "destinations")
	return w.end(b, "ExtensiveRoutingModeOption")
}

// SelfTuningData is the content of a message extension of type ExtensionSelfTuning, which Probe requests and
// answers carry (RFC 7363 §6.5).
type SelfTuningData struct {
	NetworkSize uint32 // peers
	JoinRate    uint32 // joins in 24 hours
	LeaveRate   uint32 // failures in 24 hours
}

// ParseSelfTuningData reads the Data of an extension.
func ParseSelfTuningData(contents []byte) (SelfTuningData, error) {
	r := newReader(contents)
	return finish(&r, SelfTuningData{
		NetworkSize: r.u32("network_size"), JoinRate: r.u32("join_rate"), LeaveRate: r.u32("leave_rate"),
	}, "SelfTuningData")
}

// AppendBinary appends the Data of an extension.
func (s SelfTuningData) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.u32(s.NetworkSize)
	w.u32(s.JoinRate)
	w.u32(s.LeaveRate)
	return w.end(b, "SelfTuningData")
}

// String is the registered abbreviation, or the number.
func (m RouteMode) String() string {
	switch m {
	case RouteDirect:
		return "DRR"
	case RouteRelay:
		return "RPR"
	default:
		return "route_mode_" + strconv.Itoa(int(m))
	}
}
