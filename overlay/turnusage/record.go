package turnusage

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// maxIteration is the largest d: "NODE-MULTIPLE, with a maximum iteration of counter 20" (RFC 6940 §9).
const maxIteration = 20

// Record is the TurnServer of RFC 6940 §9: where one peer says that its TURN server is.
type Record struct {
	Iteration uint8 // d, 1 to 20
	Addr      netip.AddrPort
}

// Types of an IpAddressPort (RFC 6940 §6.5.1.1).
const (
	addressIPv4 = 1
	addressIPv6 = 2
)

// AppendBinary appends the record as it is stored.
func (r Record) AppendBinary(b []byte) ([]byte, error) {
	a := r.Addr.Addr().Unmap()
	if !a.IsValid() || a.Zone() != "" {
		return nil, fmt.Errorf("TurnServer at %v: no address for others", r.Addr)
	}
	kind := byte(addressIPv4)
	if a.Is6() {
		kind = addressIPv6
	}
	raw := a.AsSlice()
	b = append(b, r.Iteration, kind, byte(len(raw)+2))
	return binary.BigEndian.AppendUint16(append(b, raw...), r.Addr.Port()), nil
}

// ParseRecord reads what AppendBinary writes; errors are wire.ErrMalformed.
func ParseRecord(b []byte) (Record, error) {
	if len(b) < 3 || int(b[2]) != len(b)-3 {
		return Record{}, fmt.Errorf("TurnServer of %d bytes: %w", len(b), wire.ErrMalformed)
	}
	raw, want := b[3:], map[byte]int{addressIPv4: 4 + 2, addressIPv6: 16 + 2}[b[1]]
	if want == 0 || len(raw) != want {
		return Record{}, fmt.Errorf("TurnServer with an address of type %d and %d bytes: %w", b[1], len(raw), wire.ErrMalformed)
	}
	a, _ := netip.AddrFromSlice(raw[:want-2])
	return Record{b[0], netip.AddrPortFrom(a, binary.BigEndian.Uint16(raw[want-2:]))}, nil
}

// Resource is where the record of iteration d of a node is stored: "the peer forms a Resource Name by concatenating its
// Node-ID and the value d. This Resource Name is hashed to form a Resource-ID." How wide d is, the text does not say;
// it is one byte here, as in the record (docs/adr/0016-turn.md).
func Resource(node wire.NodeID, d uint8) wire.ResourceID {
	return ident.ResourceID(append(node.Bytes(), d), len(node.Bytes()))
}
