package sr

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

	"fieldkit/overlay/wire"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// bench drives one machine by hand.
type srBench struct {
	t   *testing.T
	r   *Reliability
	now time.Time
	out []Output
}

func newSRBench(t *testing.T, rtt time.Duration) *srBench {
	return &srBench{t: t, now: epoch, r: New(Config{MaxSend: 5000, MaxReceive: 5000, QueueMessages: 4, QueueBytes: 1000, InitialRTT: rtt})}
}

func (b *srBench) step(kind InputKind, data []byte) []Output {
	b.out = b.r.Step(b.now, Input{kind, data}, nil)
	return b.out
}

func (b *srBench) send(m string) error {
	for _, o := range b.step(Send, []byte(m)) {
		return o.Err
	}
	return nil
}

// frames returns the frames among the last outputs.
func (b *srBench) frames() (fs []wire.Frame) {
	b.t.Helper()
	for _, o := range b.out {
		if o.Kind == Transmit {
			f, err := wire.ParseFrame(o.Data)
			if err != nil {
				b.t.Fatal(err)
			}
			fs = append(fs, f)
		}
	}
	return fs
}

func (b *srBench) frame(f wire.Frame) []Output {
	b.t.Helper()
	data, err := f.AppendBinary(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.step(Frame, data)
}

func (b *srBench) ack(seq uint32) []Output {
	return b.frame(wire.Frame{Type: wire.FrameAck, Sequence: seq})
}

func (b *srBench) data(seq uint32, m string) []Output {
	return b.frame(wire.Frame{Type: wire.FrameData, Sequence: seq, Message: []byte(m)})
}

// until steps from deadline to deadline and returns the offsets at which something was sent.
func (b *srBench) until(end time.Duration) (at []time.Duration) {
	for {
		d, ok := b.r.Deadline()
		if !ok || d.After(epoch.Add(end)) {
			return at
		}
		if d.After(b.now) {
			b.now = d
		}
		b.step(Tick, nil)
		if len(b.frames()) > 0 {
			at = append(at, b.now.Sub(epoch))
		}
	}
}

// "assuming an RTO of 500 ms, requests would be sent at times 0 ms, 500 ms, 1500 ms, 3500 ms, and 7500 ms. If all
// retransmissions for a message fail, then the sending node SHOULD close the connection" (RFC 6940 §6.6.3.1).
func TestRetransmissionTimes(t *testing.T) {
	b := newSRBench(t, 0)
	if err := b.send("m"); err != nil {
		t.Fatal(err)
	}
	want := []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond, 3500 * time.Millisecond, 7500 * time.Millisecond}
	if got := b.until(time.Hour); !slices.Equal(got, want) {
		t.Errorf("sent at %v, want %v", got, want)
	}
	if at := b.now.Sub(epoch); at != 15500*time.Millisecond || len(b.out) != 1 || b.out[0].Kind != Fail || !errors.Is(b.out[0].Err, ErrFailed) {
		t.Errorf("at %v: %v, want the link closed when the doubled wait after the fifth send ends", at, b.out)
	}
	if err := b.send("more"); !errors.Is(err, ErrClosed) {
		t.Errorf("send on a failed link: %v", err)
	}
}

// "For each retransmission, the sequence number MUST be incremented"; "Initially, the value is zero, and it increments
// by exactly one for each message sent over that connection" (§6.6.2).
func TestSequenceNumbers(t *testing.T) {
	b := newSRBench(t, 0)
	_ = b.send("one")
	var got []string
	for i := 0; i < 3; i++ {
		b.step(Tick, nil)
		for _, f := range b.frames() {
			got = append(got, fmt.Sprint(f.Sequence, string(f.Message)))
		}
		b.now = b.now.Add(10 * time.Second)
	}
	b.ack(1) // any of the transmissions will do
	_ = b.send("two")
	b.step(Tick, nil)
	for _, f := range b.frames() {
		got = append(got, fmt.Sprint(f.Sequence, string(f.Message)))
	}
	if want := []string{"0one", "1one", "2one", "3two"}; !slices.Equal(got, want) {
		t.Errorf("frames %v, want %v", got, want)
	}
}

// "When the receiver receives a message, it SHOULD immediately send an ACK message"; "if the sequence number M is less
// than N but greater than N-32, the N-M bit of the received bitmask is set to one" (§6.6.2), read literally.
func TestAckMask(t *testing.T) {
	b := newSRBench(t, 0)
	for _, c := range []struct {
		seq  uint32
		mask uint32
	}{
		{0, 0},
		{1, 1 << 1},
		{2, 1<<1 | 1<<2},
		{5, 1<<3 | 1<<4 | 1<<5},
		{31, 1<<26 | 1<<29 | 1<<30 | 1<<31},
		{32, 1<<1 | 1<<27 | 1<<30 | 1<<31}, // 0 is N−32 and out
		{200, 0},
		{4, 1<<2 | 1<<3 | 1<<4}, // late
	} {
		b.data(c.seq, fmt.Sprint("m", c.seq))
		f := b.frames()
		if len(f) != 1 || f[0].Type != wire.FrameAck || f[0].Sequence != c.seq || f[0].Received != c.mask {
			t.Errorf("DATA %d answered %+v, want mask %#x", c.seq, f, c.mask)
		}
	}
}

// "The receiver MUST keep track of the 32 most recent sequence numbers" (§6.6.2): the 33rd is forgotten.
func TestReceiverRemembersThirtyTwo(t *testing.T) {
	var v receiver
	for i := range uint32(33) {
		v.receive(0, i*100, []byte(fmt.Sprint(i)))
	}
	if slices.Contains(v.recent[:v.n], 0) || !slices.Contains(v.recent[:v.n], 100) || v.n != 32 {
		t.Errorf("remembers %v", v.recent[:v.n])
	}
}

func delivered(out []Output) (n int) {
	for _, o := range out {
		if o.Kind == Deliver {
			n++
		}
	}
	return n
}

func TestDuplicates(t *testing.T) {
	for _, c := range []struct {
		name  string
		seq   uint32
		after time.Duration
		m     string
		fresh int
	}{
		{"same sequence number", 7, 0, "hello", 0},
		{"same sequence number, other content", 7, 0, "other", 0},
		{"retransmission", 8, 500 * time.Millisecond, "hello", 0},
		{"fourth retransmission", 11, 2 * time.Second, "hello", 0},
		{"retransmission behind much else", 60, time.Second, "hello", 0},
		{"earlier than the one it equals", 6, time.Second, "hello", 1},
		{"other content", 8, 500 * time.Millisecond, "hellp", 1},
		{"end-to-end retransmission after 3 s", 8, 3 * time.Second, "hello", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newSRBench(t, 0)
			if n := delivered(b.data(7, "hello")); n != 1 {
				t.Fatalf("first delivered %d times", n)
			}
			b.now = b.now.Add(c.after)
			if n := delivered(b.data(c.seq, c.m)); n != c.fresh {
				t.Errorf("delivered %d times, want %d", n, c.fresh)
			}
			if len(b.frames()) != 1 {
				t.Error("not acknowledged: the far end would send it for ever")
			}
		})
	}
}

// "If no ACKs have been received by the time the third retransmission occurs, it is RECOMMENDED that the link be removed
// from the Routing Table. The link MAY be restored to the Routing Table if ACKs resume" (§6.6.3.1).
func TestSuspicion(t *testing.T) {
	b := newSRBench(t, 0)
	_ = b.send("m")
	var suspectAt time.Duration
	for suspectAt == 0 {
		d, ok := b.r.Deadline()
		if !ok {
			t.Fatal("never suspect")
		}
		if d.After(b.now) {
			b.now = d
		}
		for _, o := range b.step(Tick, nil) {
			if o.Kind == Suspected {
				suspectAt = b.now.Sub(epoch)
			}
		}
	}
	if suspectAt != 3500*time.Millisecond {
		t.Errorf("suspect at %v, want 3.5 s", suspectAt)
	}
	if out := b.ack(0); len(out) == 0 || out[0].Kind != Restored {
		t.Errorf("ACK of the first transmission: %v, want restored", out)
	}
}

// RFC 6298 with "the exception that the value of RTO SHOULD NOT be rounded up to the nearest second, but instead rounded
// up to the nearest millisecond. The RTT of a successful STUN transaction from the ICE stage is used as the initial
// measurement for formula 2.2" (§6.6.3.1).
func TestRTO(t *testing.T) {
	for _, c := range []struct {
		samples []time.Duration
		want    time.Duration
	}{
		{nil, 500 * time.Millisecond},
		{[]time.Duration{100 * time.Millisecond}, 300 * time.Millisecond}, // SRTT + 4·RTT/2
		{[]time.Duration{100*time.Millisecond + 100*time.Microsecond}, 301 * time.Millisecond},
		{[]time.Duration{time.Millisecond}, MinRTO},
		{[]time.Duration{time.Hour}, maxRTO},
		// RTTVAR = 3/4·50 + 1/4·|100−200| = 62.5, SRTT = 7/8·100 + 1/8·200 = 112.5
		{[]time.Duration{100 * time.Millisecond, 200 * time.Millisecond}, 363 * time.Millisecond},
		{[]time.Duration{0}, MinRTO},
	} {
		var e rttEstimator
		e.init(0)
		for _, s := range c.samples {
			e.sample(s)
		}
		if e.rto != c.want {
			t.Errorf("after %v the RTO is %v, want %v", c.samples, e.rto, c.want)
		}
	}
	if b := newSRBench(t, 100*time.Millisecond); b.r.est.rto != 300*time.Millisecond {
		t.Errorf("the RTO after ICE measured 100 ms is %v, want 300 ms", b.r.est.rto)
	}
}

func TestQueueIsBounded(t *testing.T) {
	b := newSRBench(t, 0)
	big := string(make([]byte, 600))
	for i, c := range []struct {
		m    string
		want error
	}{
		{string(make([]byte, 5001)), ErrTooLarge},
		{big, nil}, {big, ErrQueueFull}, // 1000 bytes
		{"a", nil}, {"b", nil}, {"c", nil}, {"d", ErrQueueFull}, // 4 messages
	} {
		if err := b.send(c.m); !errors.Is(err, c.want) {
			t.Errorf("send %d: %v, want %v", i, err, c.want)
		}
	}
	if s := b.r.Stats(); s.Refused != 3 || s.Queued != 4 || s.QueuedBytes != 603 {
		t.Errorf("stats %+v", s)
	}
}

// "If a peer receives a message that is larger than the value of max-message-size … close the … session" (§6.6).
func TestTooLargeAMessageClosesTheLink(t *testing.T) {
	b := newSRBench(t, 0)
	if out := b.data(0, string(make([]byte, 5000))); delivered(out) != 1 {
		t.Error("a message of max-message-size was not delivered")
	}
	out := b.data(1, string(make([]byte, 5001)))
	if len(out) != 1 || out[0].Kind != Fail || !errors.Is(out[0].Err, ErrTooLarge) {
		t.Errorf("outputs %v", out)
	}
}

// Whatever a far end sends, nothing but its own message may be settled by it, and memory stays bounded.
func TestHostileFrames(t *testing.T) {
	b := newSRBench(t, 0)
	_ = b.send("m")
	b.step(Tick, nil)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		f := make([]byte, rng.IntN(40))
		for i := range f {
			f[i] = byte(rng.Uint32())
		}
		if len(f) > 0 {
			f[0] = 128 + f[0]%3
		}
		if len(f) == wire.FrameAckLen && f[0] == wire.FrameAck {
			f[1] |= 1 // not an ACK of sequence 0
		}
		b.step(Frame, f)
	}
	if len(b.r.send.flights) == 0 {
		t.Error("the message was settled by an ACK of another one")
	}
	s := b.r.Stats()
	if s.Malformed == 0 || s.AcksStale == 0 {
		t.Errorf("stats %+v", s)
	}
	b.ack(0)
	b.ack(0) // again: no second round-trip sample, no second wait
	if s := b.r.Stats(); s.AcksReceived != 1 || len(b.r.send.flights) != 0 {
		t.Errorf("stats %+v", s)
	}
}

// TestLossyChannel moves messages between two machines over a channel that loses and delays, in virtual time.
func TestLossyChannel(t *testing.T) {
	for _, loss := range []float64{0, 0.05, 0.2} {
		for seed := range uint64(20) {
			got, fails, dups := runLossy(loss, seed, 40)
			if loss < 0.2 && fails {
				t.Errorf("loss %v seed %d: the link failed", loss, seed)
			}
			if !fails && got != 40 {
				t.Errorf("loss %v seed %d: %d of 40 messages", loss, seed, got)
			}
			if loss == 0 && dups != 0 {
				t.Errorf("seed %d: %d duplicates without loss", seed, dups)
			}
		}
	}
}

// runLossy is a small discrete-event simulation; got counts the messages that came, each once.
func runLossy(loss float64, seed uint64, count int) (got int, failed bool, suppressed uint64) {
	type flight struct {
		at time.Time
		to int
		b  []byte
	}
	rng := rand.New(rand.NewPCG(seed, 9))
	cfg := Config{MaxSend: 100, MaxReceive: 100, QueueMessages: count, QueueBytes: 1 << 20}
	ends := []*Reliability{New(cfg), New(cfg)}
	now := epoch
	var air []flight
	seen := map[string]bool{}
	do := func(who int, out []Output) {
		for _, o := range out {
			switch o.Kind {
			case Transmit:
				if rng.Float64() >= loss {
					air = append(air, flight{now.Add(40 * time.Millisecond), 1 - who, o.Data})
				}
			case Deliver:
				if !seen[string(o.Data)] {
					seen[string(o.Data)] = true
					got++
				}
			case Fail:
				failed = true
			}
		}
	}
	for i := range count {
		do(0, ends[0].Step(now, Input{Send, []byte(fmt.Sprint("message ", i))}, nil))
	}
	for got < count && !failed {
		next, found := time.Time{}, false
		if d, ok := ends[0].Deadline(); ok {
			next, found = d, true
		}
		for _, f := range air {
			if !found || f.at.Before(next) {
				next, found = f.at, true
			}
		}
		if !found {
			break
		}
		if next.After(now) {
			now = next
		}
		for i, f := range air {
			if !f.at.After(now) {
				air = slices.Delete(air, i, i+1)
				do(f.to, ends[f.to].Step(now, Input{Frame, f.b}, nil))
				break
			}
		}
		do(0, ends[0].Step(now, Input{Kind: Tick}, nil))
	}
	return got, failed, ends[1].Stats().Duplicates
}

func BenchmarkReliabilityRoundTrip(b *testing.B) {
	r := New(Config{MaxSend: 5000, MaxReceive: 5000, QueueMessages: 4, QueueBytes: 1 << 16})
	peer := New(Config{MaxSend: 5000, MaxReceive: 5000})
	msg, now := make([]byte, 800), epoch
	var out, back []Output
	b.ReportAllocs()
	for b.Loop() {
		out = r.Step(now, Input{Send, msg}, out[:0])
		out = r.Step(now, Input{}, out[:0])
		back = peer.Step(now, Input{Frame, out[0].Data}, back[:0])
		out = r.Step(now, Input{Frame, back[0].Data}, out[:0])
		now = now.Add(time.Second)
	}
}

// wallSet is what the clock of a kit says at t when somebody has set it forward by step since: a time.Time holds the wall
// clock's seconds from bit 30 of its first word on, and the monotonic reading in its second.
func wallSet(t *testing.T, at time.Time, step time.Duration) time.Time {
	t.Helper()
	set := at
	*(*uint64)(unsafe.Pointer(&set)) += uint64(step/time.Second) << 30
	if set.Sub(at) != 0 || set.UnixNano()-at.UnixNano() != int64(step) {
		t.Fatal("a time.Time is made in another way now")
	}
	return set
}

// A board without a clock of its own is told the time in the middle of a call: that is no round trip, and no later copy
// of a message is new for it.
func TestClockIsSetForward(t *testing.T) {
	b := newSRBench(t, 0)
	b.now = time.Now()
	for i := range uint32(2) {
		_ = b.send(fmt.Sprint("m", i))
		b.step(Tick, nil)
		b.now = b.now.Add(10 * time.Millisecond)
		b.data(i, "the same")
		if i == 1 {
			b.now = wallSet(t, b.now, 24*time.Hour)
		}
		b.ack(i)
	}
	if s := b.r.Stats(); s.AcksReceived != 2 || s.RTT != 10*time.Millisecond || s.RTO != MinRTO {
		t.Errorf("round trip %v, RTO %v", s.RTT, s.RTO)
	}
	b.now = wallSet(t, b.now, 24*time.Hour)
	b.data(2, "the same")
	if s := b.r.Stats(); s.Received != 1 || s.Duplicates != 2 {
		t.Errorf("%d messages delivered, %d duplicates", s.Received, s.Duplicates)
	}
	_ = b.send("lost")
	b.step(Tick, nil)
	if at, ok := b.r.Deadline(); !ok || at.Sub(b.now) != MinRTO {
		t.Errorf("the next retransmission is in %v", at.Sub(b.now))
	}
}
