package dhcp

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/net/bpf"
)

// Frames as they are on the link, below the hardware addresses: IPv4 with UDP, and ARP. The system's own UDP sockets do
// not tell which station a datagram came from, and cannot send to one that has no address yet.

const (
	serverPort = 67
	clientPort = 68

	etherIPv4 = 0x0800
	etherARP  = 0x0806
	protoUDP  = 17
)

var errFrame = errors.New("frame without a DHCP message")

// dhcpFilter passes datagrams to the server's port, in one piece, and nothing else.
var dhcpFilter = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 9, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoUDP, SkipTrue: 5},
	bpf.LoadAbsolute{Off: 6, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 3}, // more fragments, or a later one
	bpf.LoadMemShift{Off: 0},
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: serverPort, SkipTrue: 1},
	bpf.RetConstant{Val: 0},
	bpf.RetConstant{Val: 0xffff},
}

// arpFilter passes ARP replies and requests of the link for IPv4 addresses (RFC 826).
var arpFilter = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIPv4, SkipTrue: 1},
	bpf.RetConstant{Val: 0},
	bpf.RetConstant{Val: 0xffff},
}

// payload is the content of the UDP datagram in an IPv4 packet. Its checksum is not looked at: the link has its own, and
// between virtual machines nobody fills it in.
func payload(packet []byte) ([]byte, error) {
	if len(packet) < 20 || packet[0]>>4 != 4 || packet[9] != protoUDP || binary.BigEndian.Uint16(packet[6:])&0x3fff != 0 {
		return nil, errFrame
	}
	head, all := int(packet[0]&15)*4, int(binary.BigEndian.Uint16(packet[2:]))
	if head < 20 || all > len(packet) || head+8 > all {
		return nil, errFrame
	}
	udp := packet[head:all]
	n := int(binary.BigEndian.Uint16(udp[4:]))
	if n < 8 || n > len(udp) || binary.BigEndian.Uint16(udp[2:]) != serverPort {
		return nil, errFrame
	}
	return udp[8:n], nil
}

// datagram is a packet from the server to a client.
func datagram(from, to netip.Addr, message []byte) []byte {
	b := make([]byte, 28, 28+len(message))
	src, dst := from.As4(), to.As4()
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(message)))
	b[8], b[9] = 64, protoUDP
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], checksum(b[:20]))
	udp := b[20:]
	binary.BigEndian.PutUint16(udp[0:], serverPort)
	binary.BigEndian.PutUint16(udp[2:], clientPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(message)))
	b = append(b, message...)
	pseudo := append(append(append([]byte{}, src[:]...), dst[:]...), 0, protoUDP, udp[4], udp[5])
	sum := checksum(append(pseudo, b[20:]...))
	if sum == 0 {
		sum = 0xffff // "an all zero transmitted checksum value means that the transmitter generated no checksum" (RFC 768)
	}
	binary.BigEndian.PutUint16(b[26:], sum)
	return b
}

func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// arpRequest asks who has an address (RFC 826). It names the server as the asker, not nobody as a client's probe does
// (RFC 5227 §2.1.1): some systems answer only whom they can answer to.
func arpRequest(mac MAC, from, wanted netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	src, dst := from.As4(), wanted.As4()
	b = append(append(b, mac[:]...), src[:]...)
	return append(append(b, 0, 0, 0, 0, 0, 0), dst[:]...)
}

// arpSender is who says in an ARP packet that it has an address.
func arpSender(b []byte) (MAC, netip.Addr, bool) {
	if len(b) < 28 || [6]byte(b[:6]) != [6]byte{0, 1, 8, 0, 6, 4} {
		return MAC{}, netip.Addr{}, false
	}
	addr := netip.AddrFrom4([4]byte(b[14:18]))
	return MAC(b[8:14]), addr, !addr.IsUnspecified()
}
