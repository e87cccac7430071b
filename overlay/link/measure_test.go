package link

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/board/simnet"
)

// traffic is what one side sent: datagrams or segments with data, and bytes of payload.
type traffic struct{ packets, bytes int }

// cost is what a link costs until both ends have it, by kind of packet, for the offerer and the answerer.
type cost struct{ stun, dtls [2]traffic }

func handshakeCost(t *testing.T, delay time.Duration, change func(*Config)) (c cost, took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{Delay: delay})
		m := newMission(t)
		a, b := m.simulatedAs(n, 1, change), m.simulatedAs(n, 2, change)
		var mu sync.Mutex
		first := netip.AddrFrom4([4]byte{10, 0, 0, 1})
		n.Watch(func(p simnet.Packet) bool {
			mu.Lock()
			defer mu.Unlock()
			kind := &c.dtls
			if p.Data[0] <= 3 {
				kind = &c.stun
			}
			side := 1
			if p.From.Addr() == first {
				side = 0
			}
			kind[side].packets++
			kind[side].bytes += len(p.Data)
			return true
		})
		start := time.Now()
		linked(t, a, b)
		took = time.Since(start)
		time.Sleep(2 * delay) // the last packets arrive
		mu.Lock()
		defer mu.Unlock()
	})
	return c, took
}

// What each link protocol costs until both ends have the link, in payload of UDP or TCP: the figures of docs/adr/0014. The
// bounds are there so that a change that makes links heavier is noticed.
func TestCostOfALink(t *testing.T) {
	psk := func(c *Config) { noICE(onlyUDP)(c); shared(c) }
	for _, p := range []struct {
		name       string
		delay      time.Duration
		change     func(*Config)
		most, msgs int // bytes and packets of both sides
	}{
		{"ICE, RTT 2 ms", time.Millisecond, noChange, 4500, 34},
		{"ICE, RTT 200 ms", 100 * time.Millisecond, noChange, 9500, 76},
		{"no ICE, RTT 2 ms", time.Millisecond, noICE(onlyUDP), 2600, 12},
		{"no ICE, RTT 200 ms", 100 * time.Millisecond, noICE(onlyUDP), 2600, 12},
		{"ICE, shared secret, RTT 2 ms", time.Millisecond, shared, 5500, 42},
		{"no ICE, shared secret, RTT 2 ms", time.Millisecond, psk, 3600, 20},
	} {
		c, took := handshakeCost(t, p.delay, p.change)
		t.Logf("%-32s %4d ms; offerer: STUN %d in %d, DTLS %d in %d; answerer: STUN %d in %d, DTLS %d in %d", p.name, took.Milliseconds(),
			c.stun[0].bytes, c.stun[0].packets, c.dtls[0].bytes, c.dtls[0].packets,
			c.stun[1].bytes, c.stun[1].packets, c.dtls[1].bytes, c.dtls[1].packets)
		bytes := c.stun[0].bytes + c.stun[1].bytes + c.dtls[0].bytes + c.dtls[1].bytes
		packets := c.stun[0].packets + c.stun[1].packets + c.dtls[0].packets + c.dtls[1].packets
		if bytes > p.most || packets > p.msgs {
			t.Errorf("%s: %d bytes in %d packets", p.name, bytes, packets)
		}
		if p.change != nil && c.dtls[0].bytes < 200 {
			t.Errorf("%s: %d bytes of DTLS", p.name, c.dtls[0].bytes)
		}
	}
	server, client := tlsCost(t)
	t.Logf("%-32s offerer: TLS %d in %d; answerer: TLS %d in %d", "TCP", server.bytes, server.packets, client.bytes, client.packets)
	if server.bytes+client.bytes > 2600 {
		t.Errorf("TCP: %d and %d bytes", server.bytes, client.bytes)
	}
}

// counted counts what is written.
type counted struct {
	net.Conn
	bytes, writes atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	c.writes.Add(1)
	c.bytes.Add(int64(len(b)))
	return c.Conn.Write(b)
}

func (c *counted) traffic() traffic { return traffic{int(c.writes.Load()), int(c.bytes.Load())} }

func tlsCost(t *testing.T) (server, client traffic) {
	t.Helper()
	m := newMission(t)
	a, b := m.transport(noICE(onlyTCP)), m.transport(noICE(onlyTCP))
	p, q := net.Pipe()
	x, y := &counted{Conn: p}, &counted{Conn: q}
	done := make(chan error, 1)
	ctx := testContext(t, 5*time.Second)
	go func() {
		_, err := a.shakeTLS(ctx, x, false, b.id())
		done <- err
	}()
	if _, err := b.shakeTLS(ctx, y, true, a.id()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	server, client = x.traffic(), y.traffic()
	_ = p.Close()
	_ = q.Close()
	return server, client
}

// How many messages a link takes in a second: 500 bytes each, one direction. Simple Reliability sends one in 10 ms at most
// ("A sender MUST wait 10 ms between receipt of an ACK and transmission of the next message", RFC 6940 §6.6.3.1).
func BenchmarkMessages(b *testing.B) {
	for name, change := range map[string]func(*Config){"UDP": noICE(onlyUDP), "TCP": noICE(onlyTCP)} {
		b.Run(name, func(b *testing.B) {
			m := newMission(b)
			x, y := linked(b, m.transport(change), m.transport(change))
			ctx := testContext(b, time.Minute)
			b.ReportAllocs()
			b.SetBytes(500)
			receive := func() {
				if _, err := y.Receive(ctx); err != nil {
					b.Fatal(err)
				}
			}
			sent, received := 0, 0
			for b.Loop() {
				if err := x.Send(binary.BigEndian.AppendUint64(make([]byte, 0, 500), uint64(sent))[:500]); err != nil {
					b.Fatal(err)
				}
				if sent++; sent-received == 16 {
					receive()
					received++
				}
			}
			for ; received < sent; received++ {
				receive()
			}
		})
	}
}

// One connectivity check as the receiver of the answer sees it.
func BenchmarkCheckedAnswer(b *testing.B) {
	w := &stunWatch{password: []byte("0123456789012345678901"), heard: func() {}, now: time.Now}
	from := netip.MustParseAddrPort("10.0.0.1:1000")
	forged := make([]byte, 64)
	forged[0], forged[1] = 1, 1
	b.ReportAllocs()
	for b.Loop() {
		w.answer(forged, from)
	}
}
