package link

import (
	"bytes"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/board/simnet"
	"fieldkit/overlay/link/sr"
)

// recorder keeps the datagrams that a guard sends.
type recorder struct {
	mu   sync.Mutex
	sent [][]byte
	hold bool // and sends them no more
}

func record(g *guard) *recorder {
	r := &recorder{}
	write := g.write
	g.write = func(b []byte) (int, error) {
		r.mu.Lock()
		r.sent = append(r.sent, bytes.Clone(b))
		hold := r.hold
		r.mu.Unlock()
		if hold {
			return len(b), nil
		}
		return write(b)
	}
	return r
}

// take returns what was recorded, and begins anew.
func (r *recorder) take(hold bool) [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.sent
	r.sent, r.hold = nil, hold
	return out
}

// "Implementations MUST use DTLS anti-replay mechanisms, thus preventing replay attacks" (RFC 6940 §6.4.2.1; §6.4.2.2
// relies on it, too): what went over an established link and is injected once more does not even reach Simple Reliability.
func TestReplayedRecordsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{Delay: time.Millisecond})
		m := newMission(t)
		x, y := linked(t, m.simulated(n, 1), m.simulated(n, 2))
		r := record(x.guard)
		exchange(t, x, y)
		time.Sleep(time.Second)
		old := r.take(false)
		if len(old) == 0 || old[0][0] != contentApplicationData {
			t.Fatalf("recorded %d datagrams", len(old))
		}
		inject := func(packets ...[]byte) (bytes uint64) {
			before := y.Stats().BytesReceived
			for _, p := range packets {
				y.guard.deliver(append([]byte(nil), p...))
				time.Sleep(20 * time.Millisecond)
			}
			return y.Stats().BytesReceived - before
		}
		for range 3 {
			if got := inject(old...); got != 0 {
				t.Fatalf("%d bytes of replayed records were taken", got)
			}
		}
		// One that did not arrive before is taken, so it is the repetition that is refused: the first time, and late.
		r.take(true)
		if err := x.Send([]byte("late")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
		held := r.take(false)
		if len(held) != 1 {
			t.Fatalf("held %d datagrams back, want 1", len(held))
		}
		if got := inject(held[0]); got == 0 {
			t.Error("a record that had not arrived was refused")
		}
		if got := inject(held[0]); got != 0 {
			t.Error("it was taken twice")
		}
		if got, err := y.Receive(t.Context()); err != nil || string(got) != "late" {
			t.Fatalf("received %q, %v", got, err)
		}
		// Beyond the library's window of 64 records nothing is taken at all.
		if err := sendAll(t, x, y, 70); err != nil {
			t.Fatal(err)
		}
		r.take(false)
		if got := inject(append(old, held...)...); got != 0 {
			t.Errorf("%d bytes of records older than the window were taken", got)
		}
		time.Sleep(sr.DuplicateWindow)
		exchange(t, x, y)
		if x.Err() != nil || y.Err() != nil {
			t.Errorf("link: %v, %v", x.Err(), y.Err())
		}
	})
}

// The same on a trunk, where nothing below SIP would notice: a replayed INVITE is not heard twice.
func TestReplayedTrunkMessageIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{Delay: time.Millisecond})
		m := newMission(t)
		x, y := trunk(t, m.simulated(n, 1), m.simulated(n, 2))
		r := record(x.guard)
		got := make(chan string, 16)
		y.Handle(func(b []byte) { got <- string(b) }, func([]byte) {})
		send := func(s string) {
			if err := x.SendMessage([]byte(s)); err != nil {
				t.Fatal(err)
			}
			if heard := <-got; heard != s {
				t.Fatalf("received %q, want %q", heard, s)
			}
		}
		send("INVITE")
		for _, p := range r.take(false) {
			y.guard.deliver(bytes.Clone(p))
		}
		time.Sleep(time.Second)
		if len(got) != 0 {
			t.Errorf("received %q again", <-got)
		}
		send("ACK")
	})
}
