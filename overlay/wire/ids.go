package wire

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // RFC 6940 §6.3.2 and §10.2 prescribe SHA-1; nothing secret rests on it
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Lengths of identifiers in bytes (RFC 6940 §6.3.1.1).
const (
	MinNodeIDLen     = 16  // shortest Node-ID an overlay may have
	MaxNodeIDLen     = 20  // longest Node-ID an overlay may have
	MaxResourceIDLen = 254 // longest Resource-ID
)

// NodeID is a Node-ID of 16 to 20 bytes (RFC 6940 §6.3.1.1). It is comparable and a map key.
// The zero value is no Node-ID.
type NodeID struct {
	n uint8
	b [MaxNodeIDLen]byte
}

// NodeIDFrom copies b, which must be 16 to 20 bytes; otherwise the error is ErrMalformed.
func NodeIDFrom(b []byte) (NodeID, error) {
	if len(b) < MinNodeIDLen || len(b) > MaxNodeIDLen {
		return NodeID{}, fmt.Errorf("%w: Node-ID of %d bytes", ErrMalformed, len(b))
	}
	id := NodeID{n: uint8(len(b))}
	copy(id.b[:], b)
	return id, nil
}

// ParseNodeID reads the hex form that String writes; what it refuses is ErrMalformed.
func ParseNodeID(s string) (NodeID, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return NodeID{}, fmt.Errorf("%w: Node-ID %q: %w", ErrMalformed, s, err)
	}
	return NodeIDFrom(b)
}

// WildcardNodeID is the Node-ID of n bytes of all ones: whoever receives it is responsible
// (RFC 6940 §6.1.1). It is the zero NodeID when n is no length of a Node-ID.
func WildcardNodeID(n int) NodeID {
	if n < MinNodeIDLen || n > MaxNodeIDLen {
		return NodeID{}
	}
	id := NodeID{n: uint8(n)}
	for i := range id.b[:n] {
		id.b[i] = 0xff
	}
	return id
}

// Bytes returns a copy of the ID's bytes.
func (id NodeID) Bytes() []byte { return append([]byte(nil), id.b[:id.n]...) }

// Append appends the ID's bytes to b.
func (id NodeID) Append(b []byte) []byte { return append(b, id.b[:id.n]...) }

// Len is the length in bytes; 0 for the zero value.
func (id NodeID) Len() int { return int(id.n) }

// IsZero reports whether id is no Node-ID at all (not: all bits zero).
func (id NodeID) IsZero() bool { return id.n == 0 }

// IsInvalid reports the all-zeros Node-ID, which RFC 6940 §6.1.1 forbids, and the zero value.
func (id NodeID) IsInvalid() bool { return id.b == [MaxNodeIDLen]byte{} }

// IsWildcard reports the all-ones Node-ID.
func (id NodeID) IsWildcard() bool { return id.n != 0 && id == WildcardNodeID(int(id.n)) }

// Compare orders by value as big-endian unsigned integers, then by length: negative when id comes
// first, 0 when equal.
func (id NodeID) Compare(o NodeID) int {
	if c := bytes.Compare(id.b[:], o.b[:]); c != 0 {
		return c
	}
	return int(id.n) - int(o.n)
}

// String is lower-case hex, empty for the zero value.
func (id NodeID) String() string { return hex.EncodeToString(id.b[:id.n]) }

// MarshalText makes Node-IDs readable in JSON and TOML: it is String.
func (id NodeID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is the inverse of MarshalText: empty text is the zero value.
func (id *NodeID) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*id = NodeID{}
		return nil
	}
	*id, err = ParseNodeID(string(b))
	return err
}

// ResourceID holds the raw bytes of a Resource-ID, at most 254 of them (RFC 6940 §6.3.1.1).
// CHORD-RELOAD uses as many as a Node-ID has.
type ResourceID string

// String is lower-case hex.
func (r ResourceID) String() string { return hex.EncodeToString([]byte(r)) }

// ResourceIDFor is the Resource-ID of a Resource Name in CHORD-RELOAD: the first idLen bytes of its
// SHA-1, at most 20 (RFC 6940 §10.2).
func ResourceIDFor(name []byte, idLen int) ResourceID {
	sum := sha1.Sum(name) //nolint:gosec // see the import
	return ResourceID(sum[:min(max(idLen, 0), len(sum))])
}

// OverlayHash is the overlay field of the forwarding header: "the lower 32 bits of the SHA-1 hash of
// the overlay name" (RFC 6940 §6.3.2).
func OverlayHash(name string) uint32 {
	sum := sha1.Sum([]byte(name)) //nolint:gosec // see the import
	return binary.BigEndian.Uint32(sum[len(sum)-4:])
}
