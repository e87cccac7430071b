// Package stun reads as much of STUN (RFC 8489) and TURN (RFC 8656) as must be known of a datagram before a library
// may see it, and no more: whether it is well formed, what it asks for, and what it carries for somebody else. It
// also makes and reads the one exchange that needs no library, Binding.
//
// It keeps no state, opens no socket and is safe from any goroutine. It authenticates nothing: that is left to
// whoever holds the keys.
package stun

import (
	"encoding/binary"
	"iter"
	"net/netip"
)

// Header and attributes (RFC 8489 §5, §14).
const (
	HeaderLen = 20
	cookie    = 0x2112A442

	attrMappedAddress    = 0x0001
	attrXORPeerAddress   = 0x0012
	attrData             = 0x0013
	attrXORRelayedAddr   = 0x0016
	attrXORMappedAddress = 0x0020

	// AttrChannelNumber and those below tell requests apart (RFC 8656 §18).
	AttrChannelNumber    = 0x000C
	AttrPeerAddress      = attrXORPeerAddress
	AttrUsername         = 0x0006
	AttrRealm            = 0x0014
	AttrNonce            = 0x0015
	AttrEvenPort         = 0x0018
	AttrReservationToken = 0x0022
	AttrMessageIntegrity = 0x0008
)

// Message types: method and class in one (RFC 8489 §5, RFC 8656 §17).
const (
	BindingRequest   = 0x0001
	BindingSuccess   = 0x0101
	AllocateRequest  = 0x0003
	AllocateSuccess  = 0x0103
	AllocateError    = 0x0113
	RefreshRequest   = 0x0004
	SendIndication   = 0x0016
	DataIndication   = 0x0017
	CreatePermission = 0x0008
	ChannelBind      = 0x0009
	ChannelBound     = 0x0109 // ChannelBind's success
	ChannelRefused   = 0x0119 // and error
)

// Kind is what a datagram is, as its first byte says (RFC 7983 §7, RFC 8656 §12).
type Kind int

// Kinds of datagrams.
const (
	Other   Kind = iota
	STUN         // 0 to 3
	DTLS         // 20 to 63
	Channel      // 64 to 79: TURN ChannelData
	Media        // 128 to 191: RTP and RTCP, here SRTP
)

// KindOf tells the kind of a datagram; an empty one is Other.
func KindOf(b []byte) Kind {
	if len(b) == 0 {
		return Other
	}
	switch f := b[0]; {
	case f <= 3:
		return STUN
	case f >= 20 && f <= 63:
		return DTLS
	case f >= 64 && f <= 79:
		return Channel
	case f >= 128 && f <= 191:
		return Media
	}
	return Other
}

// Malformed reports whether a datagram whose first byte says STUN is one that a library must not see: not STUN at all,
// lengths that disagree, or an address attribute of impossible size. The pinned version of the STUN library indexes the
// address family of a zero-length XOR address before it looks at the length: one such datagram would end the process
// (the flaw of GO-2026-6163, which the advisory lists for later major versions only).
func Malformed(b []byte) bool {
	if len(b) < HeaderLen || b[0]&0xC0 != 0 || binary.BigEndian.Uint32(b[4:]) != cookie {
		return true
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n%4 != 0 || HeaderLen+n != len(b) {
		return true
	}
	for p := b[HeaderLen:]; len(p) > 0; {
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

// Type is a message's method and class. The message must not be malformed; the same holds for what follows.
func Type(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

// Attributes runs through the attributes of a message, in order: type and value, without padding.
func Attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for p := b[HeaderLen:]; len(p) >= 4; {
			size := int(binary.BigEndian.Uint16(p[2:]))
			if !yield(binary.BigEndian.Uint16(p), p[4:4+size]) {
				return
			}
			p = p[4+(size+3)&^3:]
		}
	}
}

// Has reports whether a message has an attribute.
func Has(b []byte, attribute uint16) bool {
	for a := range Attributes(b) {
		if a == attribute {
			return true
		}
	}
	return false
}

// Carried is what a message or a ChannelData of TURN carries from or to a peer (RFC 8656 §11, §12). relays is false
// for a message that carries nothing, ok for a ChannelData that is shorter than it says.
func Carried(b []byte) (data []byte, relays, ok bool) {
	if KindOf(b) == Channel {
		if len(b) < 4 || 4+int(binary.BigEndian.Uint16(b[2:])) > len(b) {
			return nil, true, false
		}
		return b[4 : 4+int(binary.BigEndian.Uint16(b[2:]))], true, true
	}
	if t := Type(b); t != SendIndication && t != DataIndication {
		return nil, false, true
	}
	for a, v := range Attributes(b) {
		if a == attrData {
			return v, true, true
		}
	}
	return nil, true, true
}

// MayRelay reports whether a datagram is of a kind that ICE, DTLS or SRTP send, so that a relay that asks can carry
// nothing else: no SIP, no DNS, and no TURN within TURN. STUN within it is well formed.
func MayRelay(b []byte) bool {
	switch KindOf(b) {
	case STUN:
		return !Malformed(b) && (Type(b)&^0x0110) == BindingRequest
	case DTLS, Media:
		return true
	}
	return false
}

// Binding is a Binding request (RFC 8489 §3) with a transaction ID, which must be unpredictable.
func Binding(transaction [12]byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, BindingRequest)
	b = binary.BigEndian.AppendUint32(append(b, 0, 0), cookie)
	return append(b, transaction[:]...)
}

// Reflexive reads the address that the answer to Binding tells (RFC 8489 §14.2). ok is false for anything else.
func Reflexive(b []byte, transaction [12]byte) (a netip.AddrPort, ok bool) {
	if KindOf(b) != STUN || Malformed(b) || Type(b) != BindingSuccess || [12]byte(b[8:HeaderLen]) != transaction {
		return netip.AddrPort{}, false
	}
	for attr, v := range Attributes(b) {
		if attr != attrXORMappedAddress {
			continue
		}
		return xorAddress(b, v), true
	}
	return netip.AddrPort{}, false
}

// xorAddress reads the value of an XOR address of message b.
func xorAddress(b, v []byte) netip.AddrPort {
	port := binary.BigEndian.Uint16(v[2:]) ^ cookie>>16
	if len(v) == 8 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{v[4] ^ b[4], v[5] ^ b[5], v[6] ^ b[6], v[7] ^ b[7]}), port)
	}
	var raw [16]byte
	for i := range raw {
		raw[i] = v[4+i] ^ b[4+i] // the cookie and the transaction ID after it
	}
	return netip.AddrPortFrom(netip.AddrFrom16(raw), port)
}

// PeerAddress is the value of an XOR-PEER-ADDRESS for an IPv4 address (RFC 8656 §18.3).
func PeerAddress(a netip.AddrPort) []byte {
	ip := a.Addr().Unmap().As4()
	v := binary.BigEndian.AppendUint16([]byte{0, 1}, a.Port()^cookie>>16)
	return binary.BigEndian.AppendUint32(v, binary.BigEndian.Uint32(ip[:])^cookie)
}

// Peer is the first XOR-PEER-ADDRESS of a message.
func Peer(b []byte) (netip.AddrPort, bool) {
	for a, v := range Attributes(b) {
		if a == attrXORPeerAddress {
			return xorAddress(b, v), true
		}
	}
	return netip.AddrPort{}, false
}

// indicationOverhead is what a Data indication has before its data, for an IPv4 peer.
const indicationOverhead = HeaderLen + 4 + 8 + 4

// ToChannel turns a Send indication into the ChannelData of a channel, in place (RFC 8656 §12.4): what of b is to be
// sent. nil if it has no data.
func ToChannel(b []byte, channel uint16) []byte {
	for p := HeaderLen; p+4 <= len(b); {
		kind, size := binary.BigEndian.Uint16(b[p:]), int(binary.BigEndian.Uint16(b[p+2:]))
		if kind == attrData && p+4+size <= len(b) {
			binary.BigEndian.PutUint16(b[p:], channel)
			return b[p : p+4+size]
		}
		p += 4 + (size+3)&^3
	}
	return nil
}

// ToIndication turns the ChannelData that is the first n bytes of b into a Data indication from an IPv4 peer, in place
// (RFC 8656 §11.5): its length, 0 if b has no room for it. The data must be what Carried says.
func ToIndication(b []byte, n int, peer netip.AddrPort) int {
	data, _, ok := Carried(b[:n])
	whole := indicationOverhead + (len(data)+3)&^3
	if !ok || whole > len(b) {
		return 0
	}
	size := copy(b[indicationOverhead:], data)
	clear(b[indicationOverhead+size : whole])
	h := binary.BigEndian.AppendUint16(b[:0], DataIndication)
	h = binary.BigEndian.AppendUint16(h, uint16(whole-HeaderLen))
	h = binary.BigEndian.AppendUint32(h, cookie)
	h = append(h, make([]byte, 12)...)
	h = append(h, 0, attrXORPeerAddress, 0, 8)
	h = append(h, PeerAddress(peer)...)
	binary.BigEndian.AppendUint16(append(h, 0, attrData), uint16(size))
	return whole
}
