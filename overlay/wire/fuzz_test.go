package wire

import (
	"bytes"
	"encoding"
	"errors"
	"reflect"
	"testing"
	"time"
)

// roundTrip checks what holds for every parser and every input: an error is ErrMalformed, and what was read
// is written back byte for byte and read again as the same.
func roundTrip(t *testing.T, parse func([]byte) (encoding.BinaryAppender, error), in []byte) {
	t.Helper()
	before := bytes.Clone(in)
	got, err := parse(in[:len(in):len(in)])
	if !bytes.Equal(in, before) {
		t.Fatal("the parser changed its input")
	}
	if err != nil {
		if !errors.Is(err, ErrMalformed) {
			t.Fatalf("error %v", err)
		}
		return
	}
	out, err := got.AppendBinary(nil)
	if err != nil || !bytes.Equal(in, out) {
		t.Fatalf("read %+v\nfrom %x\nwritten %x, %v", got, in, out, err)
	}
	again, err := parse(out)
	if err != nil || !reflect.DeepEqual(got, again) {
		t.Fatalf("read %+v\nthen %+v, %v", got, again, err)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(unhex(f, "message"))
	f.Add(messageOf(f, 1, 300))
	f.Fuzz(func(t *testing.T, b []byte) {
		roundTrip(t, plain(Parse), b)
		h, rest, err := ParseHeader(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if forwarded, err := h.AppendForward(nil, rest); err != nil || !bytes.Equal(forwarded, b) {
			t.Fatalf("%x forwarded as %x, %v", b, forwarded, err)
		}
	})
}

// FuzzBody reads the same bytes as one of all structures, told by their golden's place in the table.
func FuzzBody(f *testing.F) {
	all := codecs()
	for i, c := range all {
		f.Add(uint8(i), unhex(f, c.file))
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		roundTrip(t, all[int(which)%len(all)].parse, b)
	})
}

// FuzzStream: a stream cut anywhere never yields more than the frames that a datagram parser reads.
func FuzzStream(f *testing.F) {
	f.Add(append(unhex(f, "frame_data"), unhex(f, "frame_ack")...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			frame, n, err := NextFrame(b, 5000)
			if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				t.Fatal(err)
			}
			if err != nil || n == 0 {
				return
			}
			if out, err := frame.AppendBinary(nil); err != nil || !bytes.Equal(out, b[:n]) {
				t.Fatalf("%x written as %x, %v", b[:n], out, err)
			}
			b = b[n:]
		}
	})
}

// FuzzReassembler plays a script of fragments: three bytes each for source and transaction, offset, and size
// with the last bit. Its limits hold at every step, and what it puts together was sent by one source for one
// transaction. The body byte at an offset is a function of both, so a mixture would be seen.
func FuzzReassembler(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 1, 0x81, 1, 0, 1, 0, 0, 2, 1, 2, 0x82})
	limits := ReassemblyLimits{Message: 3000, Messages: 4, Bytes: 6000, SourceMessages: 2, SourceBytes: 4000}
	sources := []NodeID{node1, node2, node3}
	f.Fuzz(func(t *testing.T, script []byte) {
		r := NewReassembler(limits)
		now := epoch
		for len(script) >= 3 {
			who, offset, size := script[0], int(script[1])*256, 256*int(script[2]&0x7f)
			last := script[2]&0x80 != 0
			script = script[3:]
			now = now.Add(time.Duration(who>>4) * 100 * time.Millisecond)
			size %= 2048
			source, transaction := int(who)%len(sources), uint64(who>>2&1)
			mark := byte(source*2 + int(transaction) + 1)
			h := Header{TransactionID: transaction, Fragment: fragmentSet | uint32(offset)}
			if last {
				h.Fragment |= fragmentLast
			}
			if !h.IsFragment() {
				continue
			}
			fragment, err := h.AppendForward(nil, bytes.Repeat([]byte{mark}, size))
			if err != nil {
				t.Fatal(err)
			}
			message, err := r.Add(now, sources[source], fragment)
			if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrNoRoom) {
				t.Fatal(err)
			}
			if message != nil {
				h, body, err := ParseHeader(message)
				if err != nil || h.IsFragment() || h.TransactionID != transaction || len(message) > limits.Message {
					t.Fatalf("%+v, %v", h, err)
				}
				if len(bytes.Trim(body, string(rune(mark)))) != 0 {
					t.Fatal("message of mixed fragments")
				}
			}
			if s := r.Stats(); s.Pending > limits.Messages || s.Bytes > limits.Bytes || s.Bytes < 0 || (s.Pending == 0) != (s.Bytes == 0) {
				t.Fatalf("%+v", s)
			}
		}
		r.Expire(now.Add(MaxRequestLifetime))
		if s := r.Stats(); s.Pending != 0 || s.Bytes != 0 {
			t.Fatalf("%+v", s)
		}
	})
}

// FuzzDiagnosticValue: what a diagnostic Kind says is written back as it was.
func FuzzDiagnosticValue(f *testing.F) {
	for _, info := range diagnosticInfo() {
		f.Add(uint16(info.Kind), info.Contents)
	}
	f.Fuzz(func(t *testing.T, kind uint16, contents []byte) {
		if len(contents) > 0xffff {
			return
		}
		value, err := DiagnosticInfo{DiagnosticKind(kind), contents}.Value()
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if again, err := value.Info(DiagnosticKind(kind)); err != nil || !bytes.Equal(again.Contents, contents) {
			t.Fatalf("%v %x written as %x, %v", DiagnosticKind(kind), contents, again.Contents, err)
		}
	})
}
