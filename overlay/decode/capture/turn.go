package capture

import (
	"encoding/binary"
	"net/netip"

	"fieldkit/overlay/stun"
)

// maxChannels bounds the channels that are remembered of one connection to a TURN server.
const maxChannels = 64

// Attributes and constants of STUN and TURN (RFC 8489 §5, §14.2, RFC 8656 §18).
const (
	attrXORPeerAddress = 0x0012
	magicCookie        = 0x2112a442
)

// relayed unwraps what a TURN client and its server carry for each other (RFC 8656 §11, §12): it is read as if client and
// peer had sent it to each other, which is what they think. It reports whether b was such a message.
func (r *Reader) relayed(f *flow, dir int, b []byte) bool {
	kind := stun.KindOf(b)
	if kind != stun.Channel && (kind != stun.STUN || stun.Malformed(b)) {
		return false
	}
	if kind == stun.STUN && stun.Type(b) == stun.ChannelBind {
		number, peer, ok := binding(b)
		if ok && (len(f.channels) < maxChannels || f.channels[number].IsValid()) {
			if f.channels == nil {
				f.channels = map[uint16]netip.AddrPort{}
			}
			f.channels[number], f.client = peer, dir
		}
		return true
	}
	data, relays, ok := stun.Carried(b)
	if !relays || !ok || len(data) == 0 {
		return false
	}
	var peer netip.AddrPort
	fromClient := dir == f.client
	if kind == stun.Channel {
		peer = f.channels[binary.BigEndian.Uint16(b)]
	} else {
		peer = attribute(b, attrXORPeerAddress)
		fromClient = stun.Type(b) == stun.SendIndication
	}
	if !peer.IsValid() {
		return false
	}
	outer := r.now
	if fromClient {
		r.now.To = peer
	} else {
		r.now.From = peer
	}
	inner, innerDir := r.flow(false)
	r.payload(inner, innerDir, data)
	r.now = outer
	return true
}

// binding is what a ChannelBind asks for.
func binding(b []byte) (number uint16, peer netip.AddrPort, ok bool) {
	for typ, value := range stun.Attributes(b) {
		if typ == stun.AttrChannelNumber && len(value) == 4 {
			number = binary.BigEndian.Uint16(value)
		}
	}
	peer = attribute(b, attrXORPeerAddress)
	return number, peer, number != 0 && peer.IsValid()
}

// attribute is an address attribute, not valid if the message has none.
func attribute(b []byte, wanted uint16) netip.AddrPort {
	const ipv4, ipv6 = 1, 2
	for typ, value := range stun.Attributes(b) {
		if typ != wanted || len(value) < 8 {
			continue
		}
		port := binary.BigEndian.Uint16(value[2:]) ^ magicCookie>>16
		mask := b[4:stun.HeaderLen] // the cookie and the transaction ID
		addr := append([]byte(nil), value[4:]...)
		for i := range min(len(addr), len(mask)) {
			addr[i] ^= mask[i]
		}
		if a, ok := netip.AddrFromSlice(addr); ok && (value[1] == ipv4 && a.Is4() || value[1] == ipv6 && a.Is6()) {
			return netip.AddrPortFrom(a, port)
		}
	}
	return netip.AddrPort{}
}
