package links

import (
	"bytes"
	"crypto/sha256"
	"net/netip"
)

// Prefix is the network of a mission's kits: a unique local prefix (RFC 4193) whose global identifier and subnet are
// made of the overlay's name, so that every kit of a mission arrives at the same one without a word, and kits of
// another mission at another.
func Prefix(overlay string) netip.Prefix {
	h := sha256.Sum256([]byte("fieldkit kits' network\x00" + overlay))
	var a [16]byte
	a[0] = 0xfd // RFC 4193 §3.1: fc00::/7 with the L bit set
	copy(a[1:8], h[:7])
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// Address is a kit's address in the prefix on one interface: the same after every start, another one on each of its
// interfaces and on every other kit.
func Address(prefix netip.Prefix, node []byte, iface string) netip.Prefix {
	a := prefix.Addr().As16()
	h := sha256.Sum256(append([]byte("fieldkit interface\x00"+iface+"\x00"), node...))
	for reserved(h[:8]) {
		h = sha256.Sum256(h[:])
	}
	copy(a[8:], h[:8])
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// reserved are interface identifiers that no host may have (RFC 5453 §3): the subnet-router anycast address, and the
// reserved anycast addresses at the top. Their u and g bits mean nothing in others (RFC 7136 §5).
func reserved(id []byte) bool {
	return bytes.Equal(id, make([]byte, 8)) ||
		bytes.Equal(id[:7], []byte{0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) && id[7] >= 0x80 ||
		bytes.Equal(id[:5], []byte{0x02, 0x00, 0x5e, 0xff, 0xfe}) // RFC 5453 as updated by the registry: 0200:5eff:fe00::/40
}
