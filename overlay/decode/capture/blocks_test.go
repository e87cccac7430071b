package capture

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// block makes a pcapng block.
func block(order binary.AppendByteOrder, typ uint32, body []byte) []byte {
	for len(body)%4 != 0 {
		body = append(body, 0)
	}
	size := uint32(12 + len(body))
	b := order.AppendUint32(nil, typ)
	b = order.AppendUint32(b, size)
	b = append(b, body...)
	return order.AppendUint32(b, size)
}

func section(order binary.AppendByteOrder) []byte {
	body := order.AppendUint32(nil, byteOrderMagic)
	body = order.AppendUint16(body, 1)
	body = order.AppendUint16(body, 0)
	return block(order, blockSection, append(body, bytes.Repeat([]byte{0xff}, 8)...))
}

func oneInterface(order binary.AppendByteOrder, link layers.LinkType) []byte {
	body := order.AppendUint16(nil, uint16(link))
	return block(order, blockInterface, order.AppendUint32(order.AppendUint16(body, 0), 0))
}

func packetBlock(order binary.AppendByteOrder, data []byte) []byte {
	body := make([]byte, 12) // interface, time
	body = order.AppendUint32(body, uint32(len(data)))
	body = order.AppendUint32(body, uint32(len(data)))
	return block(order, blockEnhanced, append(body, data...))
}

// aPacket is a raw IP packet with a frame, out of a pcap file.
func aPacket(t *testing.T) []byte {
	tape := newTape(t, layers.LinkTypeRaw, false)
	tape.udp(true, frame(t, 1, message(t, 1, 0)))
	return tape.buf.Bytes()[24+16:]
}

// TestBlocks: both byte orders, blocks that say nothing of packets, and sections one after the other.
func TestBlocks(t *testing.T) {
	packet := aPacket(t)
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		file := slices.Concat(
			section(order), block(order, 5, make([]byte, 64)), oneInterface(order, layers.LinkTypeRaw), packetBlock(order, packet),
			block(order, 4, make([]byte, 3*maxPacket)), block(order, 0xbad, nil), packetBlock(order, packet),
			section(binary.BigEndian), oneInterface(binary.BigEndian, layers.LinkTypeRaw), packetBlock(binary.BigEndian, packet),
		)
		if got, _, err := read(t, file, ""); err != nil || len(got) != 3 {
			t.Errorf("%v: %d found, %v", order, len(got), err)
		}
	}
	le := binary.LittleEndian
	begin := append(section(le), oneInterface(le, layers.LinkTypeRaw)...)
	whole := append(bytes.Clone(begin), packetBlock(le, packet)...)
	for n := 4; n < len(whole); n++ {
		_, _, err := read(t, whole[:n], "")
		if ends := n == len(begin) || n == len(section(le)); (err == nil) != ends || err != nil && !errors.Is(err, ErrCapture) {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	many := slices.Concat(section(le), bytes.Repeat(oneInterface(le, layers.LinkTypeRaw), maxInterfaces+1), packetBlock(le, packet))
	odd := append(bytes.Clone(begin), 6, 0, 0, 0, 13, 0, 0, 0, 0, 0, 0, 0, 0)
	short := append(bytes.Clone(begin), 6, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0)
	magic := section(le)
	magic[8]++
	for name, file := range map[string][]byte{
		"interfaces": many, "length no multiple of 4": odd, "length below 12": short, "byte order": magic,
		"packet too large": append(bytes.Clone(begin), packetBlock(le, make([]byte, maxPacket))...),
	} {
		if got, _, err := read(t, file, ""); !errors.Is(err, ErrCapture) || len(got) != 0 {
			t.Errorf("%s: %d found, %v", name, len(got), err)
		}
	}
}

// TestKeyLogInCapture: a pcapng file can carry the key log.
func TestKeyLogInCapture(t *testing.T) {
	up := frames(t, 3, 100)
	list, keys := tlsSession(t, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, up, nil)
	file := onTCP(t, list, 1400, nil)
	le := binary.LittleEndian
	with := func(typ, size uint32, log string) []byte {
		body := le.AppendUint32(le.AppendUint32(nil, typ), size)
		secrets := block(le, blockSecrets, append(body, log...))
		at := le.Uint32(file[4:]) // behind the section header
		return slices.Concat(file[:at], secrets, file[at:])
	}
	size := uint32(len(keys))
	if got, stats, err := read(t, with(secretsTLS, size, keys), ""); err != nil || len(got) != 3 || stats.Keyed != 1 {
		t.Errorf("%d found, %+v, %v", len(got), stats, err)
	}
	if got, stats, err := read(t, with(0x57474b4c, size, keys), ""); err != nil || len(got) != 0 || stats.Locked == 0 { // WireGuard
		t.Errorf("secrets of another kind: %d found, %+v, %v", len(got), stats, err)
	}
	if _, _, err := read(t, with(secretsTLS, size+100, keys), ""); !errors.Is(err, ErrCapture) {
		t.Errorf("secrets longer than their block: %v", err)
	}
	if _, _, err := read(t, with(secretsTLS, 13, "CLIENT_RANDOM"), ""); !errors.Is(err, ErrCapture) || !errors.Is(err, ErrKeyLog) {
		t.Errorf("no key log: %v", err)
	}
}
