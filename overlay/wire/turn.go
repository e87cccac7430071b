package wire

import "net/netip"

// TurnServer is the value of a TURN-SERVICE (RFC 6940 §9).
type TurnServer struct {
	Iteration uint8          // d, from 1 to turn-density
	Addr      netip.AddrPort // server_address; not valid when it is of a type this code does not know: then see Unknown
	Unknown   []byte         // the encoded address of such a type
}

// ParseTurnServer reads the value of a TURN-SERVICE.
func ParseTurnServer(value []byte) (TurnServer, error) {
	r := newReader(value)
	t := TurnServer{Iteration: r.u8("iteration")}
	t.Addr, t.Unknown = r.addrPort("server_address")
	return finish(&r, t, "TurnServer")
}

// AppendBinary appends the value.
func (t TurnServer) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.u8(t.Iteration)
	w.addrPort(t.Addr, t.Unknown)
	return w.end(b, "TurnServer")
}
