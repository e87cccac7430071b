package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrMalformed is what every parse failure of this package is.
var ErrMalformed = errors.New("malformed RELOAD message")

// ErrUnencodable is what every failure of an AppendBinary is: a field too long for its length prefix,
// a missing Node-ID, a value whose data model is not set. It is a fault of the caller, not of the peer.
var ErrUnencodable = errors.New("RELOAD structure that cannot be encoded")

// reader takes fields off the front of b. Its first failure sticks, and empties it, so that a parser
// can be written straight down and asked once at its end.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	r.b = nil
}

// take returns the next n bytes, nil for none; its capacity is cut so that an append cannot reach
// what follows.
func (r *reader) take(n uint64, what string) []byte {
	if n > uint64(len(r.b)) {
		r.fail(what + " truncated")
		return nil
	}
	if n == 0 {
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// uint reads a big-endian integer of n bytes.
func (r *reader) uint(n int, what string) uint64 {
	var v uint64
	for _, c := range r.take(uint64(n), what) {
		v = v<<8 | uint64(c)
	}
	return v
}

func (r *reader) u8(what string) uint8   { return uint8(r.uint(1, what)) }
func (r *reader) u16(what string) uint16 { return uint16(r.uint(2, what)) }
func (r *reader) u32(what string) uint32 { return uint32(r.uint(4, what)) }
func (r *reader) u64(what string) uint64 { return r.uint(8, what) }

// boolean reads a Boolean, which "is either a 1 or a 0" (RFC 6940 §6.3.1.1).
func (r *reader) boolean(what string) bool {
	v := r.u8(what)
	if v > 1 {
		r.fail(what + " is no Boolean")
	}
	return v == 1
}

// opaque reads a vector of bytes behind a length of n bytes.
func (r *reader) opaque(n int, what string) []byte {
	return r.take(r.uint(n, what), what)
}

// vector reads a vector behind a length of n bytes, for its elements to be read from the result.
// The caller hands the result to join when it has read them.
func (r *reader) vector(n int, what string) reader {
	return reader{b: r.opaque(n, what)}
}

// more reports whether another element follows.
func (r *reader) more() bool { return r.err == nil && len(r.b) > 0 }

// join takes over the failure of a vector's reader, or its unread rest as one.
func (r *reader) join(v *reader, what string) {
	if v.err == nil && len(v.b) > 0 {
		v.fail(what + " with trailing bytes")
	}
	if v.err != nil && r.err == nil {
		r.err = v.err
		r.b = nil
	}
}

func (r *reader) nodeID(n int, what string) NodeID {
	if n < MinNodeIDLen || n > MaxNodeIDLen {
		r.fail(what + " of a length no overlay has")
		return NodeID{}
	}
	var id NodeID
	if b := r.take(uint64(n), what); b != nil {
		id.n = uint8(n)
		copy(id.b[:], b)
	}
	return id
}

func (r *reader) nodeIDs(n int, what string) []NodeID {
	v := r.vector(2, what)
	var ids []NodeID
	if n >= MinNodeIDLen && len(v.b) >= n {
		ids = make([]NodeID, 0, len(v.b)/n)
	}
	for v.more() {
		ids = append(ids, v.nodeID(n, what))
	}
	r.join(&v, what)
	return ids
}

// resourceID reads a ResourceId, "up to 254 bytes (2040 bits) in length" (RFC 6940 §6.3.1.1).
func (r *reader) resourceID(what string) ResourceID {
	b := r.opaque(1, what)
	if len(b) > MaxResourceIDLen {
		r.fail(what + " of 255 bytes")
		return ""
	}
	return ResourceID(b)
}

// finish ends a parser: v if everything was read and nothing failed.
func finish[T any](r *reader, v T, what string) (T, error) {
	if r.err == nil && len(r.b) > 0 {
		r.fail("trailing bytes")
	}
	if r.err != nil {
		var none T
		return none, fmt.Errorf("%s: %w", what, r.err)
	}
	return v, nil
}

// writer appends fields to b. Its first failure sticks.
type writer struct {
	b   []byte
	err error
}

func (w *writer) fail(what string) {
	if w.err == nil {
		w.err = fmt.Errorf("%w: %s", ErrUnencodable, what)
	}
}

func (w *writer) u8(v uint8)     { w.b = append(w.b, v) }
func (w *writer) u16(v uint16)   { w.b = binary.BigEndian.AppendUint16(w.b, v) }
func (w *writer) u32(v uint32)   { w.b = binary.BigEndian.AppendUint32(w.b, v) }
func (w *writer) u64(v uint64)   { w.b = binary.BigEndian.AppendUint64(w.b, v) }
func (w *writer) bytes(v []byte) { w.b = append(w.b, v...) }

func (w *writer) boolean(v bool) {
	if v {
		w.u8(1)
	} else {
		w.u8(0)
	}
}

// open leaves room for a length of n bytes and returns where; close fills it in.
func (w *writer) open(n int) int {
	var room [4]byte
	at := len(w.b)
	w.b = append(w.b, room[:n]...)
	return at
}

func (w *writer) close(at, n int, what string) {
	length := uint64(len(w.b) - at - n)
	if length>>(8*n) != 0 {
		w.fail(what + " too long")
		return
	}
	for i := n - 1; i >= 0; i-- {
		w.b[at+i] = byte(length)
		length >>= 8
	}
}

// opaque appends v behind a length of n bytes.
func (w *writer) opaque(n int, v []byte, what string) {
	at := w.open(n)
	w.bytes(v)
	w.close(at, n, what)
}

func (w *writer) nodeID(id NodeID, what string) {
	if id.IsZero() {
		w.fail(what + " missing")
	}
	w.b = id.Append(w.b)
}

func (w *writer) nodeIDs(ids []NodeID, what string) {
	at := w.open(2)
	for _, id := range ids {
		// A list of bare Node-IDs has no lengths in it: two lengths could not be told apart.
		if id.n != ids[0].n {
			w.fail(what + " of different lengths")
		}
		w.nodeID(id, what)
	}
	w.close(at, 2, what)
}

func (w *writer) resourceID(r ResourceID, what string) {
	if len(r) > MaxResourceIDLen {
		w.fail(what + " too long")
		return
	}
	w.u8(uint8(len(r)))
	w.b = append(w.b, r...)
}

// end returns what was appended to b, or b and the failure.
func (w *writer) end(b []byte, what string) ([]byte, error) {
	if w.err != nil {
		return b, fmt.Errorf("%s: %w", what, w.err)
	}
	return w.b, nil
}
