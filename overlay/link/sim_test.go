package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/board/simnet"
	"fieldkit/overlay/link/sr"
)

// simulated makes transports on a simulated network, inside a bubble.
func (m *mission) simulated(n *simnet.Network, last byte) *Transport { return m.simulatedAs(n, last) }

func (m *mission) simulatedAs(n *simnet.Network, last byte, change ...func(*Config)) *Transport {
	addr := netip.AddrFrom4([4]byte{10, 0, 0, last})
	h, err := n.Host(addr)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.transport(append([]func(*Config){func(c *Config) {
		c.Net, c.Port = h, 6084
		c.Addresses = func() []netip.Addr { return []netip.Addr{addr} }
	}}, change...)...)
}

func newNetwork(t testing.TB, cfg simnet.Config) *simnet.Network {
	t.Helper()
	n, err := simnet.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// TestWholeStackInVirtualTime connects over a long radio path and moves messages, with loss, in virtual time.
func TestWholeStackInVirtualTime(t *testing.T) {
	for _, c := range []struct {
		delay   time.Duration
		loss    float64
		connect time.Duration // at most
		deliver time.Duration // 50 messages each way, at most
	}{
		{0, 0, 100 * time.Millisecond, time.Second},
		{100 * time.Millisecond, 0, 900 * time.Millisecond, 15 * time.Second},
		{5 * time.Millisecond, 0.05, 3 * time.Second, 20 * time.Second},
		{5 * time.Millisecond, 0.2, 8 * time.Second, 60 * time.Second},
		{100 * time.Millisecond, 0.05, 6 * time.Second, 40 * time.Second},
		{100 * time.Millisecond, 0.2, 12 * time.Second, 90 * time.Second},
	} {
		t.Run(fmt.Sprintf("delay %v loss %v", c.delay, c.loss), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, simnet.Config{Delay: c.delay, Loss: c.loss, Seed: 4})
				m := newMission(t)
				a, b := m.simulated(n, 1), m.simulated(n, 2)
				start := time.Now()
				x, y := linked(t, a, b)
				took := time.Since(start)
				if took > c.connect {
					t.Errorf("connected after %v, want at most %v", took, c.connect)
				}
				start = time.Now()
				got := make(chan error, 2)
				for _, p := range [][2]*Conn{{x, y}, {y, x}} {
					go func() { got <- sendAll(t, p[0], p[1], 50) }()
				}
				for range 2 {
					// With 20 % loss each way a message finds all its five sends unacknowledged once in 170 times,
					// and then the link must close.
					if err := <-got; err != nil && !(c.loss >= 0.2 && errors.Is(err, ErrClosed)) {
						t.Error(err)
					}
				}
				if d := time.Since(start); d > c.deliver {
					t.Errorf("100 messages took %v, want at most %v", d, c.deliver)
				} else {
					t.Logf("connected in %v, 100 messages in %v, RTT %v, retransmits %d", took, d, x.Stats().RTT, x.Stats().Retransmits+y.Stats().Retransmits)
				}
			})
		})
	}
}

// sendAll sends numbered messages and wants them all. One that was lost comes after others, and one may come twice: a
// retransmission that is later than sr.DuplicateWindow.
func sendAll(t testing.TB, from, to *Conn, count int) error {
	for i := range count {
		msg := binary.BigEndian.AppendUint32(nil, uint32(i))
		if err := from.Send(append(msg, make([]byte, 500)...)); err != nil {
			return err
		}
	}
	ctx := testContext(t, 5*time.Minute)
	seen := make(map[uint32]bool)
	for len(seen) < count {
		m, err := to.Receive(ctx)
		if err != nil {
			return fmt.Errorf("after %d messages: %w", len(seen), err)
		}
		n := binary.BigEndian.Uint32(m)
		if n >= uint32(count) {
			return fmt.Errorf("received message %d of %d", n, count)
		}
		seen[n] = true
	}
	return nil
}

// TestFinishedLostIsSentAgain loses the server's last flight: the guard, which no longer lets plaintext records
// through, must not keep the client from getting it.
func TestFinishedLostIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{Delay: 10 * time.Millisecond})
		m := newMission(t)
		a, b := m.simulated(n, 1), m.simulated(n, 2)
		server, dropped := netip.AddrFrom4([4]byte{10, 0, 0, 1}), 0
		n.Watch(func(p simnet.Packet) bool {
			if p.From.Addr() == server && p.Data[0] == contentChangeCipherSpec && dropped < 2 {
				dropped++
				return false
			}
			return true
		})
		x, y := linked(t, a, b)
		if dropped != 2 {
			t.Fatalf("dropped %d last flights, want 2", dropped)
		}
		exchange(t, x, y)
	})
}

// TestIdleLinkLivesOnKeepalives leaves a link and a trunk alone for an hour.
func TestIdleLinkLivesOnKeepalives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{Delay: 2 * time.Millisecond})
		m := newMission(t)
		a, b := m.simulated(n, 1), m.simulated(n, 2)
		x, y := linked(t, a, b)
		p, q := trunk(t, a, b)
		before := n.Stats()
		time.Sleep(time.Hour)
		exchange(t, x, y)
		message := make(chan []byte, 1)
		q.Handle(func(b []byte) { message <- b }, func([]byte) {})
		if err := p.SendMessage([]byte("still here")); err != nil {
			t.Fatal(err)
		}
		if got := <-message; !bytes.Equal(got, []byte("still here")) {
			t.Errorf("received %q", got)
		}
		perSecond := float64(n.Stats().Bytes-before.Bytes) / 3600 / 4 // two associations, two ends
		t.Logf("idle: %.1f bytes a second per association and side", perSecond)
		if perSecond > 60 {
			t.Errorf("idle traffic of %.1f bytes a second", perSecond)
		}
	})
}

// TestSilentDeath: a kit that vanishes without goodbye is noticed by ICE on an idle link (25 s + 10 s) and by Simple
// Reliability as soon as something is sent.
func TestSilentDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{Delay: 2 * time.Millisecond})
		m := newMission(t)
		a, b := m.simulated(n, 1), m.simulated(n, 2)
		busy, _ := linked(t, a, b)
		idle, _ := linked(t, a, b)
		app, _ := trunk(t, a, b)
		n.Kill(netip.AddrFrom4([4]byte{10, 0, 0, 2}))
		start := time.Now()
		if err := busy.Send([]byte("anybody?")); err != nil {
			t.Fatal(err)
		}
		<-busy.Done()
		took := time.Since(start)
		if want := 31 * sr.MinRTO; took < want-time.Second || took > want+time.Second {
			t.Errorf("Simple Reliability noticed after %v, want about %v", took, want)
		}
		<-idle.Done()
		<-app.Done()
		if d := time.Since(start); d > 50*time.Second {
			t.Errorf("ICE noticed after %v", d)
		} else {
			t.Logf("noticed after %v when sending, %v when idle", took, d)
		}
	})
}

// TestShortPartition: a link survives a cut of two seconds, is suspect in between, and loses nothing.
func TestShortPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{Delay: 2 * time.Millisecond})
		m := newMission(t)
		a, b := m.simulated(n, 1), m.simulated(n, 2)
		x, y := linked(t, a, b)
		exchange(t, x, y)
		n.Partition()
		if err := x.Send([]byte("through")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if !x.Suspect() {
			t.Error("not suspect after three retransmissions without acknowledgement")
		}
		n.Heal()
		if got, err := y.Receive(testContext(t, 10*time.Second)); err != nil || string(got) != "through" {
			t.Errorf("received %q, %v", got, err)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		if x.Suspect() {
			t.Error("still suspect although acknowledgements resumed")
		}
	})
}

// TestHundredLinksCloseWithoutLeak opens 100 links from one kit and closes the transports.
func TestHundredLinksCloseWithoutLeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{Delay: time.Millisecond})
		m := newMission(t)
		a, b := m.simulated(n, 1), m.simulated(n, 2)
		before := runtime.NumGoroutine()
		const links = 100
		done := make(chan error, links)
		for range links {
			go func() {
				x, y := attach(testContext(t, time.Minute), a, b, (*Attempt).Connect)
				if x.err != nil || y.err != nil {
					done <- fmt.Errorf("offerer %w, answerer %w", x.err, y.err)
					return
				}
				done <- nil
			}()
			time.Sleep(50 * time.Millisecond)
		}
		for range links {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if s := a.Stats(); s.Conns != links || s.Attempts != 0 {
			t.Errorf("stats %+v", s)
		}
		t.Logf("%.1f goroutines per link and side", float64(runtime.NumGoroutine()-before)/2/links)
		for _, tr := range []*Transport{a, b} {
			if err := tr.Close(); err != nil {
				t.Error(err)
			}
		}
		if s := b.Stats(); s.Conns != 0 {
			t.Errorf("%d links left", s.Conns)
		}
	})
}
