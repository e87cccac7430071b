package access

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func nodeID(n int) []byte { return bytes.Repeat([]byte{0xa5}, n) }

func TestElementIsReadBack(t *testing.T) {
	for _, e := range []Element{
		{Overlay: 0xdeadbeef, NodeID: nodeID(16)},
		{Overlay: 0, NodeID: nodeID(20), Extra: []byte{1}},
		{Overlay: 1, NodeID: nodeID(17), Extra: bytes.Repeat([]byte{7}, MaxExtra)},
	} {
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if b[0] != vendorSpecific || int(b[1]) != len(b)-2 {
			t.Errorf("% x", b[:2])
		}
		// Where it stands among the others does not matter.
		beacon := append([]byte{0, 3, 'a', 'b', 'c', vendorSpecific, 4, 0, 0x50, 0xf2, 1, vendorSpecific, 0}, b...)
		beacon = append(beacon, 48, 0)
		got, err := Parse(beacon)
		if err != nil || got.Overlay != e.Overlay || !bytes.Equal(got.NodeID, e.NodeID) || !bytes.Equal(got.Extra, e.Extra) {
			t.Errorf("%+v, %v: want %+v", got, err, e)
		}
		clear(beacon)
		if !bytes.Equal(got.NodeID, e.NodeID) {
			t.Error("the Element shares memory with what was read")
		}
	}
}

func TestElementGolden(t *testing.T) {
	b, err := Element{Overlay: 0x01020304, NodeID: []byte("0123456789abcdef"), Extra: []byte{0xff}}.Encode()
	const want = "\xdd\x1a\x02FK\x01\x01\x02\x03\x04\x100123456789abcdef\xff"
	if err != nil || string(b) != want {
		t.Errorf("%q, %v", b, err)
	}
}

func TestNoElement(t *testing.T) {
	good, err := Element{NodeID: nodeID(16)}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if e, err := Parse(good[:n]); !errors.Is(err, ErrElement) {
			t.Errorf("%d bytes of it are %+v, %v", n, e, err)
		}
	}
	with := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	for name, b := range map[string][]byte{
		"nothing":                nil,
		"another organisation":   with(3, 'X'),
		"another type":           with(5, 2),
		"Node-ID too short":      with(10, 15),
		"Node-ID beyond the end": with(10, 17),
		"Node-ID too long":       append([]byte{vendorSpecific, 200, 2, 'F', 'K', 1, 0, 0, 0, 0, 21}, make([]byte, 191)...),
		"too much more":          append([]byte{vendorSpecific, 91 + 1, 2, 'F', 'K', 1, 0, 0, 0, 0, 16}, make([]byte, 81+2)...),
		"length beyond the end":  {vendorSpecific, 255, 2, 'F', 'K', 1},
	} {
		if e, err := Parse(b); !errors.Is(err, ErrElement) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	for _, e := range []Element{{NodeID: nodeID(15)}, {NodeID: nodeID(21)}, {NodeID: nodeID(16), Extra: make([]byte, MaxExtra+1)}} {
		if b, err := e.Encode(); !errors.Is(err, ErrElement) {
			t.Errorf("%+v becomes % x, %v", e, b, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	good, err := Element{Overlay: 5, NodeID: nodeID(16), Extra: []byte("x")}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(strings.Repeat("\xdd\x04\x02FK\x01", 9)))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Parse(b)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil || !bytes.Contains(b, again) {
			t.Errorf("% x is read as %+v, which is written as % x, %v", b, e, again, err)
		}
	})
}

func TestNameOfTheNetwork(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "",
		"\x00":                               "",
		"\x00\x00":                           "",
		"\x00\x06Valley":                     "Valley",
		"\x00\x07Valley":                     "", // cut short
		"\x01\x02xx\x00\x06Valley\x00\x01x":  "Valley",
		"\xdd\xff\x00\x06Valley":             "",
		"\x00\x21" + strings.Repeat("x", 33): "", // more than a name has
	} {
		if got := ssidOf([]byte(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
