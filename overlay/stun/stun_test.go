package stun

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// crashPacket ends a process that lets the pinned STUN library read it: a Data indication whose XOR-PEER-ADDRESS is empty.
var crashPacket = []byte{
	0x00, 0x17, 0, 4, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
	0x00, 0x12, 0, 0,
}

// message makes a message of a type with attributes that are padded already.
func message(kind uint16, attrs ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(attrs)))
	b = binary.BigEndian.AppendUint32(b, cookie)
	return append(append(b, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), attrs...)
}

func TestMalformed(t *testing.T) {
	message := func(attrs ...byte) []byte { return message(BindingRequest, attrs...) }
	v4, v6 := append([]byte{0, 1}, make([]byte, 6)...), append([]byte{0, 2}, make([]byte, 18)...)
	for _, c := range []struct {
		name string
		b    []byte
		bad  bool
	}{
		{"crash packet", crashPacket, true},
		{"no attributes", message(), false},
		{"mapped address", message(append([]byte{0, 1, 0, 8}, v4...)...), false},
		{"xor-mapped IPv6", message(append([]byte{0, 0x20, 0, 20}, v6...)...), false},
		{"family that does not fit", message(append([]byte{0, 0x20, 0, 8}, append([]byte{0, 2}, v4[2:]...)...)...), true},
		{"empty xor-mapped", message(0, 0x20, 0, 0), true},
		{"one byte", message(0, 0x16, 0, 1, 0, 0, 0, 0), true},
		{"padded attribute", message(0, 6, 0, 3, 'a', 'b', 'c', 0), false},
		{"attribute beyond the end", message(0, 6, 0, 9, 'a', 'b', 'c', 0), true},
		{"half an attribute header", append(message(0, 6), 0, 0)[:22], true},
		{"wrong cookie", append([]byte{0, 1, 0, 0, 1, 2, 3, 4}, make([]byte, 12)...), true},
		{"length too long", append([]byte{0, 1, 0, 4, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...), true},
		{"trailing bytes", append(message(), 0, 0, 0, 0), true},
		{"empty", nil, true},
	} {
		if got := Malformed(c.b); got != c.bad {
			t.Errorf("%s: bad %v, want %v", c.name, got, c.bad)
		}
		for n := range len(c.b) {
			if c.name != "trailing bytes" && !Malformed(c.b[:n]) {
				t.Errorf("%s: its first %d bytes are taken", c.name, n)
			}
		}
	}
}

// The sample responses of RFC 5769 §2.2 and §2.3, without what authenticates them.
func TestReflexive(t *testing.T) {
	id := [12]byte{0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae}
	b := []byte{
		0x01, 0x01, 0x00, 0x0c, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
		0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43,
	}
	v6 := append(append([]byte{0x01, 0x01, 0x00, 0x18}, b[4:20]...),
		0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47,
		0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9)
	for want, b := range map[string][]byte{"192.0.2.1:32853": b, "[2001:db8:1234:5678:11:2233:4455:6677]:32853": v6} {
		if got, ok := Reflexive(b, id); !ok || got != netip.MustParseAddrPort(want) {
			t.Errorf("mapped address %v, %v, want %s", got, ok, want)
		}
		if _, ok := Reflexive(b, [12]byte{1}); ok {
			t.Error("answer to another request taken")
		}
		for n := range b {
			if _, ok := Reflexive(b[:n], id); ok {
				t.Errorf("first %d bytes taken", n)
			}
		}
	}
	request := Binding(id)
	if Malformed(request) || Type(request) != BindingRequest || len(request) != HeaderLen {
		t.Errorf("request % x", request)
	}
	if _, ok := Reflexive(request, id); ok {
		t.Error("a request taken for an answer")
	}
}

func TestCarried(t *testing.T) {
	inner := message(BindingRequest)
	data := func(kind uint16, b []byte) []byte {
		attr := binary.BigEndian.AppendUint16([]byte{0, attrData}, uint16(len(b)))
		attr = append(attr, b...)
		return message(kind, append(attr, make([]byte, (4-len(b)%4)%4)...)...)
	}
	channel := func(b []byte) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{0x40, 0}, uint16(len(b))), b...)
	}
	for _, c := range []struct {
		name       string
		b          []byte
		want       []byte
		relays, ok bool
	}{
		{"request", message(AllocateRequest), nil, false, true},
		{"send indication", data(SendIndication, inner), inner, true, true},
		{"data indication", data(DataIndication, []byte{22, 1, 2}), []byte{22, 1, 2}, true, true},
		{"indication without data", message(SendIndication), nil, true, true},
		{"channel data", channel(inner), inner, true, true},
		{"padded channel data", append(channel([]byte{128}), 0, 0, 0), []byte{128}, true, true},
		{"channel data too short", channel(inner)[:10], nil, true, false},
		{"half a channel header", []byte{0x40, 0}, nil, true, false},
	} {
		got, relays, ok := Carried(c.b)
		if !bytes.Equal(got, c.want) || relays != c.relays || ok != c.ok {
			t.Errorf("%s: % x, %v, %v", c.name, got, relays, ok)
		}
	}
}

// What a client sends by Send and gets by Data indications goes over the wire as ChannelData, byte for byte the same.
func TestChannelsCarryWhatIndicationsDo(t *testing.T) {
	peer := netip.MustParseAddrPort("192.168.61.2:40001")
	for size := range 9 {
		payload := bytes.Repeat([]byte{0x80}, size)
		attr := binary.BigEndian.AppendUint16([]byte{0, attrData}, uint16(size))
		attr = append(append(attr, payload...), make([]byte, (4-size%4)%4)...)
		send := message(SendIndication, append(append([]byte{0, attrXORPeerAddress, 0, 8}, PeerAddress(peer)...), attr...)...)
		if got, ok := Peer(send); !ok || got != peer {
			t.Fatalf("peer %v, %v", got, ok)
		}
		wire := ToChannel(send, 0x4001)
		if want := append([]byte{0x40, 0x01, 0, byte(size)}, payload...); !bytes.Equal(wire, want) {
			t.Errorf("%d bytes: channel data % x, want % x", size, wire, want)
		}
		b := make([]byte, 100)
		n := ToIndication(b, copy(b, wire), peer)
		if n == 0 || Malformed(b[:n]) || Type(b) != DataIndication {
			t.Fatalf("%d bytes: indication % x", size, b[:n])
		}
		got, _, ok := Carried(b[:n])
		from, _ := Peer(b[:n])
		if !ok || !bytes.Equal(got, payload) || from != peer {
			t.Errorf("%d bytes: % x from %v", size, got, from)
		}
		short := make([]byte, indicationOverhead+(size+3)&^3-1)
		if n := ToIndication(short, copy(short, wire), peer); n != 0 {
			t.Errorf("%d bytes fit into less than they need", size)
		}
	}
	if ToChannel(message(SendIndication), 0x4000) != nil {
		t.Error("an indication without data has a channel data")
	}
}

func TestMayRelay(t *testing.T) {
	for _, c := range []struct {
		name string
		b    []byte
		may  bool
	}{
		{"check", message(BindingRequest), true},
		{"its answer", message(BindingSuccess), true},
		{"consent indication", message(0x0011), true},
		{"DTLS", []byte{22, 254, 253}, true},
		{"SRTP", []byte{128, 0}, true},
		{"nothing", nil, false},
		{"SIP", []byte("OPTIONS sip:kit SIP/2.0"), false},
		{"DNS", append([]byte{0x12, 0x34, 1, 0}, make([]byte, 20)...), false},
		{"TURN in TURN", message(AllocateRequest), false},
		{"channel in TURN", []byte{0x40, 0, 0, 0}, false},
		{"crash packet", crashPacket, false},
	} {
		if MayRelay(c.b) != c.may {
			t.Errorf("%s: may be relayed %v, want %v", c.name, !c.may, c.may)
		}
	}
}

func FuzzMalformed(f *testing.F) {
	f.Add(crashPacket)
	f.Add(message(SendIndication, 0, attrData, 0, 2, 1, 2, 0, 0))
	f.Add([]byte{0x40, 0, 0, 1, 128})
	f.Fuzz(func(t *testing.T, b []byte) {
		switch KindOf(b) {
		case STUN:
			if Malformed(b) {
				return
			}
			n := HeaderLen
			for _, v := range Attributes(b) {
				n += 4 + (len(v)+3)&^3
			}
			if n != len(b) {
				t.Fatalf("attributes end at %d of %d", n, len(b))
			}
			Reflexive(b, [12]byte(b[8:HeaderLen]))
			fallthrough
		case Channel:
			if data, _, _ := Carried(b); len(data) > max(len(b)-4, 0) {
				t.Fatal("carries more than it is long")
			}
			MayRelay(b)
		}
	})
}
