//go:build linux

package main

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"fieldkit/overlay/wire"
)

func TestClassify(t *testing.T) {
	udp := func(from, to uint16, payload ...byte) []byte {
		b := binary.BigEndian.AppendUint16(make([]byte, 12), 0x0800)
		ip := make([]byte, 20)
		ip[0], ip[9] = 0x45, unix.IPPROTO_UDP
		b = binary.BigEndian.AppendUint16(append(b, ip...), from)
		b = binary.BigEndian.AppendUint16(b, to)
		return append(append(b, 0, 0, 0, 0), payload...)
	}
	record := func(kind byte, n int) []byte { return append([]byte{kind}, make([]byte, n-1)...) }
	for _, c := range []struct {
		name  string
		frame []byte
		want  traffic
	}{
		{"to a dhtnode", udp(40000, dhtPort, 'd'), openDHT},
		{"from a dhtnode", udp(dhtPort, 40000, 'd'), openDHT},
		{"a connectivity check", udp(40000, 40001, 0, 1), stun},
		{"a ClientHello", udp(40000, 6084, record(22, 200)...), handshake},
		{"an acknowledgement", udp(40000, 40001, record(23, 13+16+9)...), acks},
		{"a Ping", udp(40000, 40001, record(23, 13+16+8+730)...), frames},
		{"ARP", append(binary.BigEndian.AppendUint16(make([]byte, 12), 0x0806), make([]byte, 40)...), other},
		{"too short", udp(1, 2)[:40], other},
	} {
		if got := classify(c.frame); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// Who asks must be somebody who does not hold the value: the responsible peer and the two after it do.
func TestHolds(t *testing.T) {
	var ring []wire.NodeID
	for _, b := range []byte{0x10, 0x40, 0x80, 0xc0, 0xf0} {
		id, err := wire.NodeIDFrom(slices.Repeat([]byte{b}, 16))
		if err != nil {
			t.Fatal(err)
		}
		ring = append(ring, id)
	}
	for res, want := range map[byte][]bool{
		0x41: {false, false, true, true, true},
		0x40: {false, true, true, true, false}, // its first byte alone; the rest of the Node-ID is above
		0xf1: {true, true, true, false, false},
	} {
		r := wire.ResourceID(append([]byte{res}, make([]byte, 15)...))
		for i, id := range ring {
			if got := holds(slices.Clone(ring), id, r); got != want[i] {
				t.Errorf("resource %#x, node %v: %v", res, id, got)
			}
		}
	}
}

func TestDurationsOfDhtnode(t *testing.T) {
	got := []float64{}
	for _, s := range []string{"197 us", "2.03 ms", ">> 39.4 us", "1.5 s", "13.2ms"} {
		var err error
		if got, err = appendMS(got, s); err != nil {
			t.Error(err)
		}
	}
	if want := []float64{0.197, 2.03, 0.0394, 1500, 13.2}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if _, err := appendMS(nil, "soon"); err == nil {
		t.Error("no duration is one")
	}
	if m := median([]float64{3, 1, 2, 10}); m != 2.5 {
		t.Errorf("median %v", m)
	}
}
