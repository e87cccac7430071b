package wire

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// reader takes fields off the front of b. Its first failure sticks, and empties it, so that a parser
// can be written straight down and asked once at its end. Fields are named as the RFC names them; the
// names reach the caller in a SyntaxError.
type reader struct {
	b     []byte
	end   int // offset of the end of b in what the parser was given
	count int // elements that more announced, when this reads a vector
	err   *SyntaxError
}

func newReader(b []byte) reader { return reader{b: b, end: len(b)} }

// at is the offset of the next byte.
func (r *reader) at() int { return r.end - len(r.b) }

// fail notes that the field at an offset is wrong.
func (r *reader) fail(at int, field, reason string) {
	if r.err == nil {
		r.err = &SyntaxError{Offset: at, Field: field, Reason: reason}
	}
	r.b = nil
}

// refuse notes that the last size bytes read, which were a field, are wrong.
func (r *reader) refuse(size int, field, reason string) { r.fail(r.at()-size, field, reason) }

// take returns the next n bytes, nil for none; its capacity is cut so that an append cannot reach
// what follows.
func (r *reader) take(n int, field string) []byte {
	if n > len(r.b) {
		if r.err == nil {
			r.fail(r.at(), field, "truncated: "+strconv.Itoa(n)+" bytes wanted, "+strconv.Itoa(len(r.b))+" there")
		}
		return nil
	}
	if n == 0 {
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

// rest returns all that is left, nil for nothing.
func (r *reader) rest() []byte { return r.take(len(r.b), "") }

// uint reads a big-endian integer of n bytes.
func (r *reader) uint(n int, field string) uint64 {
	var v uint64
	for _, c := range r.take(n, field) {
		v = v<<8 | uint64(c)
	}
	return v
}

func (r *reader) u8(field string) uint8   { return uint8(r.uint(1, field)) }
func (r *reader) u16(field string) uint16 { return uint16(r.uint(2, field)) }
func (r *reader) u32(field string) uint32 { return uint32(r.uint(4, field)) }
func (r *reader) u64(field string) uint64 { return r.uint(8, field) }

// boolean reads a Boolean, which "is either a 1 or a 0" (RFC 6940 §6.3.1.1).
func (r *reader) boolean(field string) bool {
	v := r.u8(field)
	if v > 1 {
		r.refuse(1, field, "no Boolean")
	}
	return v == 1
}

// opaque reads a vector of bytes behind a length of n bytes.
func (r *reader) opaque(n int, field string) []byte {
	start := r.at()
	length := r.uint(n, field)
	if length > uint64(len(r.b)) && r.err == nil {
		r.fail(start, field, "length of "+strconv.FormatUint(length, 10)+" with "+strconv.Itoa(len(r.b))+" bytes left")
		return nil
	}
	if r.err != nil {
		return nil
	}
	return r.take(int(length), field)
}

// vector reads a vector behind a length of n bytes, for its elements to be read from the result.
// The caller hands the result to join when it has read them.
func (r *reader) vector(n int, field string) reader {
	b := r.opaque(n, field)
	return reader{b: b, end: r.at()}
}

// span is the vector that takes up the next n bytes.
func (r *reader) span(n int, field string) reader {
	b := r.take(n, field)
	return reader{b: b, end: r.at()}
}

// more reports whether another element follows, and counts it.
func (r *reader) more() bool {
	if r.err != nil || len(r.b) == 0 {
		return false
	}
	r.count++
	return true
}

// join takes over the failure of a vector's reader, or its unread rest as one.
func (r *reader) join(v *reader, field string) {
	if v.err == nil && len(v.b) > 0 {
		v.count = 0
		v.fail(v.at(), "", strconv.Itoa(len(v.b))+" bytes too many")
	}
	if v.err != nil && r.err == nil {
		r.err = v.err
		r.err.within(field, v.count-1)
		r.b = nil
	}
}

// scope puts a name before the field of a failure that happened since before was asked.
func (r *reader) scope(before bool, field string) {
	if before && r.err != nil {
		r.err.within(field, -1)
	}
}

func (r *reader) ok() bool { return r.err == nil }

func (r *reader) nodeID(n int, field string) NodeID {
	if n < MinNodeIDLen || n > MaxNodeIDLen {
		r.fail(r.at(), field, "Node-ID of "+strconv.Itoa(n)+" bytes")
		return NodeID{}
	}
	var id NodeID
	if b := r.take(n, field); b != nil {
		id.n = uint8(n)
		copy(id.b[:], b)
	}
	return id
}

func (r *reader) nodeIDs(n int, field string) []NodeID {
	v := r.vector(2, field)
	var ids []NodeID
	if n >= MinNodeIDLen && len(v.b) >= n {
		ids = make([]NodeID, 0, len(v.b)/n)
	}
	for v.more() {
		ids = append(ids, v.nodeID(n, ""))
	}
	r.join(&v, field)
	return ids
}

// resourceID reads a ResourceId, "up to 254 bytes (2040 bits) in length" (RFC 6940 §6.3.1.1).
func (r *reader) resourceID(field string) ResourceID {
	b := r.opaque(1, field)
	if len(b) > MaxResourceIDLen {
		r.refuse(1+len(b), field, "Resource-ID of 255 bytes")
		return ""
	}
	return ResourceID(b)
}

// finish ends a parser: v if everything was read and nothing failed.
func finish[T any](r *reader, v T, structure string) (T, error) {
	if r.err == nil && len(r.b) > 0 {
		r.fail(r.at(), "", strconv.Itoa(len(r.b))+" trailing bytes")
	}
	if r.err != nil {
		var none T
		r.err.within(structure, -1)
		return none, r.err
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
