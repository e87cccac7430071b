package sr

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

// sent is the sequence numbers of the DATA frames among the last outputs.
func (b *srBench) sent() (seqs []uint32) {
	b.t.Helper()
	for _, f := range b.frames() {
		if f.Type == wire.FrameData {
			seqs = append(seqs, f.Sequence)
		}
	}
	return seqs
}

func newWindowBench(t *testing.T, messages int) *srBench {
	b := &srBench{t: t, now: epoch, r: New(Config{MaxSend: 1200, MaxReceive: 1200, QueueMessages: messages, QueueBytes: 1 << 20, InitialRTT: 20 * time.Millisecond})}
	for i := range messages {
		if err := b.send(fmt.Sprint("message ", i)); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func want(t *testing.T, what string, got []uint32, want ...uint32) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: sent %v, want %v", what, got, want)
	}
}

// "a wide variety of congestion control algorithms can be implemented on the sender side while using the same basic wire
// protocol" (RFC 6940 §6.6.3). RFC 5681 §3.1: "IW = 3 * SMSS bytes", and in slow start "cwnd += min (N, SMSS)" for each
// acknowledgement of new data.
func TestSlowStart(t *testing.T) {
	b := newWindowBench(t, 40)
	b.step(Tick, nil)
	want(t, "at first", b.sent(), 0, 1, 2)
	b.step(Tick, nil)
	want(t, "without an acknowledgement", b.sent())
	next := uint32(3)
	for seq := range uint32(12) { // 3 + 13 are 16, the most there may be
		b.ack(seq)
		want(t, fmt.Sprint("ACK ", seq), b.sent(), next, next+1)
		next += 2
	}
	for b.r.send.window < maxWindow {
		b.ack(uint32(12) + uint32(b.r.send.window) - 15)
	}
	if n := b.r.send.outstanding(); n > maxWindow {
		t.Errorf("%d under way", n)
	}
}

// What nobody uses does not grow.
func TestIdleWindowDoesNotGrow(t *testing.T) {
	b := newWindowBench(t, 1)
	for i := range uint32(50) {
		if i > 0 {
			if err := b.send(fmt.Sprint("one at a time ", i)); err != nil {
				t.Fatal(err)
			}
		}
		b.step(Tick, nil)
		b.ack(i)
	}
	if b.r.send.window != initialWindow {
		t.Errorf("window %d after messages one at a time", b.r.send.window)
	}
}

// "The TCP sender SHOULD use the "fast retransmit" algorithm to detect and repair loss, based on incoming duplicate ACKs"
// (RFC 5681 §3.2); an acknowledgement of a later frame is what stands for one here. The window is halved once.
func TestFastRetransmit(t *testing.T) {
	b := newWindowBench(t, 40)
	b.step(Tick, nil)
	for seq := range uint32(5) {
		b.ack(seq)
	}
	before := b.r.send.outstanding() // frames 5 to 12
	if before != 8 {
		t.Fatalf("%d under way", before)
	}
	b.now = b.now.Add(10 * time.Millisecond)
	b.ack(7) // 5 and 6 are missing
	b.ack(8)
	if b.r.stats.Retransmits != 0 {
		t.Error("resent after two later ones arrived")
	}
	full := b.r.send.window
	b.ack(9)
	if f := b.frames(); len(f) != 1 || string(f[0].Message) != "message 5" {
		t.Errorf("after three later ones arrived: %v", f)
	}
	halved := b.r.send.window
	if halved > (full+1)/2 {
		t.Errorf("window %d, it was %d", halved, full)
	}
	for seq := uint32(10); seq < 19 && b.r.stats.Retransmits < 2; seq++ {
		b.ack(seq)
	}
	if f := b.frames(); len(f) == 0 || string(f[0].Message) != "message 6" {
		t.Errorf("the second that was lost: %v", f)
	}
	if b.r.send.window < halved {
		t.Errorf("window %d, halved twice for one loss", b.r.send.window)
	}
}

// "cwnd MUST be set to no more than the loss window, LW, which equals 1 full-sized segment" (RFC 5681 §3.1), and RFC 6940
// §6.6.3.1: "The node MUST double the time to wait after each retransmission."
func TestTimeoutSendsTheOldestAlone(t *testing.T) {
	b := newWindowBench(t, 10)
	b.step(Tick, nil)
	want(t, "at first", b.sent(), 0, 1, 2)
	rto := b.r.est.rto
	seq := uint32(3)
	for i, wait := 0, rto; i < 4; i, wait = i+1, 2*wait {
		d, ok := b.r.Deadline()
		if !ok || d.Sub(b.now) != wait {
			t.Fatalf("retransmission %d after %v, want %v", i+1, d.Sub(b.now), wait)
		}
		b.now = d
		b.step(Tick, nil)
		want(t, fmt.Sprint("retransmission ", i+1), b.sent(), seq)
		if got := b.frames()[0].Message; string(got) != "message 0" {
			t.Errorf("%q was sent again", got)
		}
		seq++
	}
	// Its acknowledgement lets the others be sent again, one, then two, and nothing new before them.
	b.ack(seq - 1)
	want(t, "recovered", b.sent(), seq, seq+1)
	for i, f := range b.frames() {
		if string(f.Message) != fmt.Sprint("message ", i+1) {
			t.Errorf("sent %q", f.Message)
		}
	}
}

// Over a way that holds eight frames and drops what is more, the window finds its place: everything arrives once, and not
// much is sent twice.
func TestWindowAdaptsToANarrowWay(t *testing.T) {
	for seed := range uint64(20) {
		n, sent := narrow(t, seed, 8, 400)
		if n != 400 {
			t.Errorf("seed %d: %d of 400 messages arrived", seed, n)
		}
		if sent > 400*13/10 {
			t.Errorf("seed %d: %d frames for 400 messages", seed, sent)
		}
	}
}

// narrow moves messages over a bottleneck that serves a frame a millisecond and queues so many.
func narrow(t *testing.T, seed uint64, room, count int) (arrived int, sent uint64) {
	t.Helper()
	type flight struct {
		at time.Time
		to int
		b  []byte
	}
	rng := rand.New(rand.NewPCG(seed, 3))
	cfg := Config{MaxSend: 1200, MaxReceive: 1200, QueueMessages: count, QueueBytes: 1 << 20}
	ends := [2]*Reliability{New(cfg), New(cfg)}
	now, free := epoch, epoch
	var air []flight
	failed := false
	do := func(who int, out []Output) {
		for _, o := range out {
			switch o.Kind {
			case Transmit:
				at := now
				if who == 0 {
					if free.Sub(now) > time.Duration(room)*time.Millisecond {
						continue // no room
					}
					free = later(free, now).Add(time.Millisecond)
					at = free
				}
				air = append(air, flight{at.Add(10*time.Millisecond + time.Duration(rng.IntN(300))*time.Microsecond), 1 - who, o.Data})
			case Deliver:
				arrived++
			case Fail:
				failed = true
			}
		}
	}
	for i := range count {
		do(0, ends[0].Step(now, Input{Send, []byte(fmt.Sprint("message ", i))}, nil))
	}
	do(0, ends[0].Step(now, Input{}, nil))
	for arrived < count && !failed && now.Sub(epoch) < time.Minute {
		next, ok := ends[0].Deadline()
		at := -1
		for i, f := range air {
			if !ok || f.at.Before(next) {
				next, ok, at = f.at, true, i
			}
		}
		if !ok {
			break
		}
		now = later(now, next)
		if at >= 0 {
			f := air[at]
			air = append(air[:at], air[at+1:]...)
			do(f.to, ends[f.to].Step(now, Input{Frame, f.b}, nil))
			continue
		}
		do(0, ends[0].Step(now, Input{}, nil))
	}
	s := ends[0].Stats()
	return arrived, s.Sent + s.Retransmits
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// "when TCP has not received a segment for more than one retransmission timeout, cwnd is reduced to the value of the
// restart window" (RFC 5681 §4.1), which is the initial one.
func TestWindowAfterAPause(t *testing.T) {
	for _, c := range []struct {
		pause float64 // in RTOs
		want  func(sent, window int) bool
	}{
		{0.9, func(sent, window int) bool { return sent == window && sent > initialWindow }},
		{1.1, func(sent, _ int) bool { return sent == initialWindow }},
	} {
		b := newWindowBench(t, 16)
		b.step(Tick, nil)
		for seq := range uint32(16) {
			b.ack(seq)
		}
		window := b.r.send.window
		b.now = b.now.Add(time.Duration(c.pause * float64(b.r.est.rto)))
		for i := range 16 {
			if err := b.send(fmt.Sprint("after the pause ", i)); err != nil {
				t.Fatal(err)
			}
		}
		b.step(Tick, nil)
		if n := len(b.sent()); !c.want(n, window) {
			t.Errorf("%d frames at once after %.1f RTO, the window was %d", n, c.pause, window)
		}
	}
}

// RFC 5681 §3.2 has one halving for all that was under way when the first loss was found, also where the second is found
// later.
func TestWindowIsHalvedOnceForOneFlight(t *testing.T) {
	b := newWindowBench(t, 60)
	b.step(Tick, nil)
	for seq := range uint32(10) {
		b.ack(seq)
	}
	for _, seq := range []uint32{11, 12, 14} { // 10 is missing, and 13
		b.ack(seq)
	}
	if b.r.stats.Retransmits != 1 {
		t.Fatalf("%d resent", b.r.stats.Retransmits)
	}
	halved := b.r.send.window
	for _, seq := range []uint32{15, 16} {
		b.ack(seq)
	}
	if b.r.stats.Retransmits != 2 {
		t.Fatalf("%d resent", b.r.stats.Retransmits)
	}
	if b.r.send.window < halved {
		t.Errorf("window %d after the second loss of one flight, %d after the first", b.r.send.window, halved)
	}
}
