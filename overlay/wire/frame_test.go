package wire

import (
	"bytes"
	"errors"
	"testing"
)

// TestStream reads frames from a stream that arrives byte by byte.
func TestStream(t *testing.T) {
	frames := []Frame{
		{Type: FrameData, Sequence: 0, Message: []byte("one")},
		{Type: FrameAck, Sequence: 0xffffffff, Received: 0xfffffffe},
		{Type: FrameData, Sequence: 1},
		{Type: FrameData, Sequence: 2, Message: bytes.Repeat([]byte{7}, 300)},
	}
	var stream []byte
	for _, f := range frames {
		before := len(stream)
		var err error
		if stream, err = f.AppendBinary(stream); err != nil {
			t.Fatal(err)
		}
		want := FrameAckLen
		if f.Type == FrameData {
			want = FrameDataOverhead + len(f.Message)
		}
		if len(stream)-before != want {
			t.Errorf("frame of %d bytes, want %d", len(stream)-before, want)
		}
	}
	var got []Frame
	start := 0
	for end := range len(stream) + 1 {
		f, n, err := NextFrame(stream[start:end:end], 300)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			continue
		}
		got = append(got, f)
		if start += n; start != end {
			t.Fatalf("frame of %d bytes read at %d", n, end)
		}
	}
	if start != len(stream) || len(got) != len(frames) {
		t.Fatalf("%d frames in %d of %d bytes", len(got), start, len(stream))
	}
	for i, f := range frames {
		if got[i].Type != f.Type || got[i].Sequence != f.Sequence || got[i].Received != f.Received || !bytes.Equal(got[i].Message, f.Message) {
			t.Errorf("frame %d: %+v, want %+v", i, got[i], f)
		}
	}
}

// TestStreamRefused: "the peer SHOULD send an Error_Message_Too_Large error and then close the TLS or DTLS session
// [...] this error can be sent and the session closed before the peer receives the complete message" (RFC 6940 §6.6).
func TestStreamRefused(t *testing.T) {
	f, n, err := NextFrame([]byte{FrameData, 0, 0, 0, 9, 0, 0x13, 0x89}, 5000)
	if !errors.Is(err, ErrTooLarge) || n != 0 || f.Sequence != 9 {
		t.Errorf("5001 bytes: %+v, %d, %v", f, n, err)
	}
	if _, n, err := NextFrame([]byte{FrameData, 0, 0, 0, 9, 0, 0x13, 0x88}, 5000); err != nil || n != 0 {
		t.Errorf("5000 bytes announced: %d, %v", n, err)
	}
	for _, typ := range []byte{0, 1, 127, 130, 255} {
		if _, _, err := NextFrame([]byte{typ}, 5000); !errors.Is(err, ErrMalformed) {
			t.Errorf("type %d: %v", typ, err)
		}
	}
}
