package decode

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"fieldkit/overlay/wire"
)

// FuzzDecode: whatever comes in, JSON comes out, with an offset within the input if it is malformed; and what is well
// formed is written back as it was.
func FuzzDecode(f *testing.F) {
	m := newMission(f)
	for _, s := range m.samples(f) {
		f.Add(s.data)
		f.Add(inFrame(f, s.data))
	}
	f.Add([]byte{wire.FrameAck, 0, 0, 0, 7, 0, 0, 0, 0x1e})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := New(Config{Trust: m.trust})
		before := bytes.Clone(b)
		line, ok := d.Append(nil, Unit{Data: b, Time: now}, nil)
		if !bytes.Equal(b, before) {
			t.Fatal("the input was changed")
		}
		var o struct {
			Error  *string
			Offset *int
			Field  *string
		}
		if err := json.Unmarshal(line, &o); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if ok != (o.Error == nil) || !ok && (o.Offset == nil || *o.Offset < 0 || *o.Offset > len(b) || o.Field == nil) {
			t.Fatalf("%v: %s", ok, line)
		}
		again, err := d.Reencode(nil, b)
		switch {
		case err == nil && !bytes.Equal(again, b):
			t.Fatalf("%x written back as\n%x", b, again)
		case err != nil && (ok || !errors.Is(err, wire.ErrMalformed)):
			t.Fatal(err)
		}
	})
}
