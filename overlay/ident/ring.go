package ident

import (
	"crypto/sha1" // RFC 6940 §10.2 fixes SHA-1 for Resource-IDs; nothing rests on its strength
	"encoding/binary"
	"fmt"
	"math/bits"

	"fieldkit/overlay/wire"
)

// NodeID is wire.NodeID; the ring arithmetic below works on it modulo 2^n, n its length in bits.
type NodeID = wire.NodeID

// number is an unsigned integer of up to 160 bits, least significant word first. The ID's bytes are its top
// bytes: every ID of one overlay is equally long, so the low bits are zero and carries fall off the top.
type number [3]uint64

func toNumber(id NodeID) (v number) {
	var b [24]byte
	id.Append(b[:0])
	v[2] = binary.BigEndian.Uint64(b[0:])
	v[1] = binary.BigEndian.Uint64(b[8:])
	v[0] = binary.BigEndian.Uint64(b[16:])
	return v
}

func fromNumber(v number, n int) NodeID {
	var b [24]byte
	binary.BigEndian.PutUint64(b[0:], v[2])
	binary.BigEndian.PutUint64(b[8:], v[1])
	binary.BigEndian.PutUint64(b[16:], v[0])
	id, err := wire.NodeIDFrom(b[:n])
	if err != nil { // n is the length of a NodeID that exists
		panic(fmt.Sprintf("ring arithmetic: %v", err))
	}
	return id
}

func (v number) add(o number) (s number) {
	var c uint64
	s[0], c = bits.Add64(v[0], o[0], 0)
	s[1], c = bits.Add64(v[1], o[1], c)
	s[2], _ = bits.Add64(v[2], o[2], c)
	return s
}

func (v number) sub(o number) (d number) {
	var c uint64
	d[0], c = bits.Sub64(v[0], o[0], 0)
	d[1], c = bits.Sub64(v[1], o[1], c)
	d[2], _ = bits.Sub64(v[2], o[2], c)
	return d
}

func (v number) cmp(o number) int {
	for i := 2; i >= 0; i-- {
		if v[i] != o[i] {
			if v[i] < o[i] {
				return -1
			}
			return 1
		}
	}
	return 0
}

// Distance is how far to is from from, going clockwise: (to − from) mod 2^n. Both must be Node-IDs of one length.
func Distance(from, to NodeID) NodeID {
	return fromNumber(toNumber(to).sub(toNumber(from)), to.Len())
}

// Between reports p < k ≤ x on the ring: that x, whose predecessor is p, is responsible for k
// (RFC 6940 §10.1). With p = x, a ring of one, every k is.
func Between(p, k, x NodeID) bool {
	if p == x {
		return true
	}
	base := toNumber(p)
	dk, dx := toNumber(k).sub(base), toNumber(x).sub(base)
	return dk != number{} && dk.cmp(dx) <= 0
}

// AddPower returns id + 2^bit mod 2^n; bit 0 is the least significant. A bit beyond the ring adds nothing.
func AddPower(id NodeID, bit int) NodeID {
	shift := 192 - 8*id.Len() + bit // from the bottom of number
	if bit < 0 || shift >= 192 {
		return id
	}
	var v number
	v[shift/64] = 1 << (shift % 64)
	return fromNumber(toNumber(id).add(v), id.Len())
}

// Next returns id + 1 mod 2^n, where a joining node sends its Attach (RFC 6940 §11.4).
func Next(id NodeID) NodeID { return AddPower(id, 0) }

// ResponsibleParts is the share of the ring that x with predecessor p is responsible for, in parts per billion,
// as Probe reports it (RFC 6940 §6.4.2.5.1).
func ResponsibleParts(p, x NodeID) uint32 {
	const billion = 1_000_000_000
	if p == x {
		return billion
	}
	d := toNumber(x).sub(toNumber(p))
	hi, _ := bits.Mul64(d[2], billion)
	return uint32(hi) // < 10^9
}

// ResourceID hashes a Resource Name: the first n bytes of its SHA-1 (RFC 6940 §10.2), whatever digest the
// overlay's Node-IDs use.
func ResourceID(name []byte, n int) wire.ResourceID {
	h := sha1.Sum(name)
	return wire.ResourceID(h[:min(n, len(h))])
}

// Position is the place of a Resource-ID on the ring, which is a ring of Node-IDs; it fails unless r is as long
// as a Node-ID may be.
func Position(r wire.ResourceID) (NodeID, error) { return wire.NodeIDFrom([]byte(r)) }

// AsResource is the Resource-ID with the value of id: how a message is sent to whoever is responsible for a
// point of the ring.
func AsResource(id NodeID) wire.ResourceID { return wire.ResourceID(id.Bytes()) }

// OverlayHash is the overlay field of the forwarding header: the last four bytes of SHA-1 over the overlay name
// (RFC 6940 §6.3.2).
func OverlayHash(name string) uint32 {
	h := sha1.Sum([]byte(name))
	return binary.BigEndian.Uint32(h[len(h)-4:])
}
