package chord

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"

	"fieldkit/overlay/wire"
)

// number is a Node-ID or a clockwise distance as an unsigned integer, most significant word first. The
// bytes of shorter Node-IDs stand on the left, so that arithmetic modulo 2^192 is theirs modulo 2^128.
type number [3]uint64

func toNumber(id wire.NodeID) number {
	var b [24]byte
	id.Append(b[:0])
	return number{binary.BigEndian.Uint64(b[0:]), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}
}

// bytes returns the n bytes of a Node-ID of that length.
func (v number) bytes(n int) []byte {
	b := make([]byte, 0, 24)
	for _, w := range v {
		b = binary.BigEndian.AppendUint64(b, w)
	}
	return b[:n]
}

func (v number) add(o number) (r number) {
	var c uint64
	for i := 2; i >= 0; i-- {
		r[i], c = bits.Add64(v[i], o[i], c)
	}
	return r
}

func (v number) sub(o number) (r number) {
	var c uint64
	for i := 2; i >= 0; i-- {
		r[i], c = bits.Sub64(v[i], o[i], c)
	}
	return r
}

func (v number) less(o number) bool {
	for i := range v {
		if v[i] != o[i] {
			return v[i] < o[i]
		}
	}
	return false
}

// zeros counts the leading zero bits.
func (v number) zeros() int {
	for i, w := range v {
		if w != 0 {
			return 64*i + bits.LeadingZeros64(w)
		}
	}
	return 192
}

// share is what part of the ring a distance spans.
func (v number) share() float64 { return float64(v[0]) / (1 << 64) }

// distance is how far b lies from a, clockwise.
func distance(a, b wire.NodeID) number { return toNumber(b).sub(toNumber(a)) }

// bucket is the i for which id is in the range of finger i of self, [self+2^(128−i),
// self+2^(128−(i−1))−1] (RFC 6940 §10.7.4.2). Finger 1 is half of the ring away.
func bucket(self, id wire.NodeID) int { return distance(self, id).zeros() + 1 }

// pointIn is a random point of the range of finger i.
func pointIn(r *rand.Rand, self wire.NodeID, i int) wire.ResourceID {
	d := number{r.Uint64(), r.Uint64(), r.Uint64()}
	// Clear the top i bits of the random distance and set the last of them.
	for j := range d {
		if n := min(max(i-64*j, 0), 64); n > 0 {
			d[j] = d[j] << n >> n // n = 64 leaves 0
		}
	}
	d[(i-1)/64] |= 1 << (63 - (i-1)%64)
	return wire.ResourceID(toNumber(self).add(d).bytes(self.Len()))
}
