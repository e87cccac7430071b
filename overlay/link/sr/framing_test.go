package sr

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

// stream drives a Framing by hand.
type stream struct {
	t   *testing.T
	f   *Framing
	now time.Time
}

func newStream(t *testing.T) *stream {
	return &stream{t, NewFraming(Config{MaxSend: 100, MaxReceive: 100, QueueMessages: 8, QueueBytes: 400}), epoch}
}

func (s *stream) step(in Input) (sent []wire.Frame, rest []Output) {
	s.t.Helper()
	for _, o := range s.f.Step(s.now, in, nil) {
		if o.Kind != Transmit {
			rest = append(rest, o)
			continue
		}
		f, err := wire.ParseFrame(o.Data)
		if err != nil {
			s.t.Fatal(err)
		}
		sent = append(sent, f)
	}
	return sent, rest
}

func (s *stream) send(m string) (sent []wire.Frame) {
	s.t.Helper()
	if _, rest := s.step(Input{Send, []byte(m)}); len(rest) != 0 {
		s.t.Fatalf("%q refused: %v", m, rest[0].Err)
	}
	sent, _ = s.step(Input{})
	return sent
}

func (s *stream) frame(f wire.Frame) (sent []wire.Frame, rest []Output) {
	s.t.Helper()
	b, err := f.AppendBinary(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.step(Input{Frame, b})
}

func (s *stream) ack(seq uint32) []Output {
	_, rest := s.frame(wire.Frame{Type: wire.FrameAck, Sequence: seq})
	return rest
}

// "The resulting RTO is not used for retransmissions, but rather as a timeout to indicate when the link SHOULD be removed
// from the Routing Table. It is RECOMMENDED that such a connection be retained for 30 seconds to determine if the failure
// was transient before concluding the link has failed permanently" (RFC 6940 §6.6.5).
func TestStreamIsSuspectAfterRTOAndKept30Seconds(t *testing.T) {
	s := newStream(t)
	if sent := s.send("m"); len(sent) != 1 || sent[0].Sequence != 0 {
		t.Fatalf("sent %v", sent)
	}
	var log []string
	for {
		at, ok := s.f.Deadline()
		if !ok || at.Sub(epoch) > time.Hour {
			break
		}
		s.now = at
		sent, rest := s.step(Input{})
		if len(sent) > 0 {
			t.Errorf("sent again after %v", at.Sub(epoch))
		}
		for _, o := range rest {
			log = append(log, fmt.Sprint(o.Kind == Suspected, o.Kind == Fail, at.Sub(epoch)))
		}
	}
	if got, want := fmt.Sprint(log), "[true false 500ms false true 30.5s]"; got != want {
		t.Errorf("%v, want %v", got, want)
	}
	if _, rest := s.step(Input{Send, []byte("m")}); len(rest) != 1 || !errors.Is(rest[0].Err, ErrClosed) {
		t.Errorf("a message on a failed link: %v", rest)
	}

	s = newStream(t)
	s.send("m")
	s.now = s.now.Add(5 * time.Second)
	if _, rest := s.step(Input{}); len(rest) != 1 || rest[0].Kind != Suspected {
		t.Errorf("%v, want suspected", rest)
	}
	if rest := s.ack(0); len(rest) != 1 || rest[0].Kind != Restored {
		t.Errorf("%v, want restored", rest)
	}
	if _, ok := s.f.Deadline(); ok {
		t.Error("waits for something with nothing under way")
	}
}

// "the Overlay Link implementation MUST use the framing header to measure the RTT of the connection and calculate an RTO
// as specified in Section 2 of [RFC6298]" (§6.6.5).
func TestStreamMeasuresRTT(t *testing.T) {
	s := newStream(t)
	for i := range uint32(50) {
		s.send("m")
		s.now = s.now.Add(80 * time.Millisecond)
		s.ack(i)
	}
	if st := s.f.Stats(); st.RTT.Round(time.Millisecond) != 80*time.Millisecond || st.RTO != MinRTO || st.AcksReceived != 50 {
		t.Errorf("%+v", st)
	}
	// With a slow first one the RTO is SRTT + 4·RTTVAR = R + 2R.
	s = newStream(t)
	s.send("m")
	s.now = s.now.Add(400 * time.Millisecond)
	s.ack(0)
	if st := s.f.Stats(); st.RTO != 1200*time.Millisecond {
		t.Errorf("RTO %v", st.RTO)
	}
}

// Messages do not wait for each other, up to a window; what is acknowledged acknowledges what came before.
func TestStreamWindow(t *testing.T) {
	s := newStream(t)
	for i := range window {
		if sent := s.send("m"); len(sent) != 1 || sent[0].Sequence != uint32(i) {
			t.Fatalf("message %d: %v", i, sent)
		}
	}
	if sent := s.send("late"); len(sent) != 0 {
		t.Errorf("beyond the window: %v", sent)
	}
	for _, stale := range []uint32{window, window + 7, 1<<32 - 1} { // never sent
		s.ack(stale)
	}
	if st := s.f.Stats(); st.AcksStale != 3 || st.Queued != 1 {
		t.Errorf("%+v", st)
	}
	sent, _ := s.frame(wire.Frame{Type: wire.FrameAck, Sequence: 3})
	if len(sent) != 1 || string(sent[0].Message) != "late" || sent[0].Sequence != window {
		t.Errorf("after an acknowledgement: %v", sent)
	}
	s.ack(2) // already
	if st := s.f.Stats(); st.AcksStale != 4 {
		t.Errorf("%+v", st)
	}
	// The clock of the next one runs from the last acknowledgement, so that a long queue is no failure.
	if at, ok := s.f.Deadline(); !ok || at.Before(s.now) {
		t.Errorf("deadline %v", at)
	}
}

// "When the receiver receives a message, it SHOULD immediately send an ACK message" (§6.6.2).
func TestStreamReceives(t *testing.T) {
	s := newStream(t)
	for i := range uint32(3) {
		sent, rest := s.frame(wire.Frame{Type: wire.FrameData, Sequence: i, Message: []byte("same")})
		if len(sent) != 1 || sent[0].Type != wire.FrameAck || sent[0].Sequence != i || sent[0].Received != (1<<i-1)<<1 {
			t.Errorf("acknowledged with %+v", sent)
		}
		if len(rest) != 1 || string(rest[0].Data) != "same" { // nothing is retransmitted, so nothing is a duplicate
			t.Errorf("delivered %v", rest)
		}
	}
	for name, f := range map[string][]byte{"no frame": {1, 2, 3}, "short": {wire.FrameData, 0, 0}} {
		s := newStream(t)
		if _, rest := s.step(Input{Frame, f}); len(rest) != 1 || rest[0].Kind != Fail {
			t.Errorf("%s: %v", name, rest)
		}
	}
	s = newStream(t)
	_, rest := s.frame(wire.Frame{Type: wire.FrameData, Message: make([]byte, 101)})
	if len(rest) != 1 || rest[0].Kind != Fail || !errors.Is(rest[0].Err, ErrTooLarge) || len(rest[0].Data) != 101 {
		t.Errorf("too large: %v", rest)
	}
	if out := s.f.Farewell([]byte("error"), nil); len(out) != 1 || out[0].Kind != Transmit {
		t.Errorf("farewell %v", out)
	}
}

func TestStreamQueueIsBounded(t *testing.T) {
	s := newStream(t)
	for range window {
		s.send("m")
	}
	for i := range 8 {
		if _, rest := s.step(Input{Send, make([]byte, 40)}); len(rest) != 0 {
			t.Errorf("message %d refused", i)
		}
	}
	for want, n := range map[error]int{ErrQueueFull: 40, ErrTooLarge: 101} {
		if _, rest := s.step(Input{Send, make([]byte, n)}); len(rest) != 1 || !errors.Is(rest[0].Err, want) {
			t.Errorf("%d bytes: %v, want %v", n, rest, want)
		}
	}
	if st := s.f.Stats(); st.Refused != 2 || st.Queued != 8 || st.QueuedBytes != 320 {
		t.Errorf("%+v", st)
	}
}

func BenchmarkFraming(b *testing.B) {
	f := NewFraming(Config{MaxSend: 1000, MaxReceive: 1000, QueueMessages: 8, QueueBytes: 8000})
	m := make([]byte, 500)
	out := make([]Output, 0, 8)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		out = f.Step(epoch, Input{Send, m}, out[:0])
		out = f.Step(epoch, Input{}, out)
		ack, err := wire.Frame{Type: wire.FrameAck, Sequence: uint32(i)}.AppendBinary(nil)
		if err != nil {
			b.Fatal(err)
		}
		out = f.Step(epoch, Input{Frame, ack}, out)
	}
}
