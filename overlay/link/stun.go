package link

import "encoding/binary"

// STUN (RFC 5389 §6, §15).
const (
	stunHeaderLen = 20
	stunCookie    = 0x2112A442

	attrMappedAddress    = 0x0001
	attrXORPeerAddress   = 0x0012
	attrXORRelayedAddr   = 0x0016
	attrXORMappedAddress = 0x0020
)

// badSTUN reports whether a datagram whose first byte says STUN (RFC 7983 §7: 0..3) is one the STUN library must
// not see: not STUN at all, lengths that disagree, or an address attribute of impossible size. The pinned version
// indexes the address family of a zero-length XOR address before it looks at the length: one such datagram would
// end the process (the flaw of GO-2026-6163, which the advisory lists for later major versions only).
func badSTUN(b []byte) bool {
	if len(b) < stunHeaderLen || b[0]&0xC0 != 0 || binary.BigEndian.Uint32(b[4:]) != stunCookie {
		return true
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n%4 != 0 || stunHeaderLen+n != len(b) {
		return true
	}
	for p := b[stunHeaderLen:]; len(p) > 0; {
		if len(p) < 4 {
			return true
		}
		kind, size := binary.BigEndian.Uint16(p), int(binary.BigEndian.Uint16(p[2:]))
		padded := 4 + (size+3)&^3
		if padded > len(p) {
			return true
		}
		switch kind {
		case attrMappedAddress, attrXORPeerAddress, attrXORRelayedAddr, attrXORMappedAddress:
			if size != 8 && size != 20 {
				return true
			}
			family := p[5]
			if (size != 8 || family != 1) && (size != 20 || family != 2) {
				return true
			}
		}
		p = p[padded:]
	}
	return false
}
