package simnet

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/transport/v2"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	alice = netip.MustParseAddr("10.0.0.1")
	bob   = netip.MustParseAddr("10.0.0.2")
)

// pair is two sockets on a network; receive counts what arrives at bob's.
func pair(t *testing.T, cfg Config) (n *Network, send func(string), receive func() (string, time.Duration)) {
	t.Helper()
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	open := func(a netip.Addr) transport.UDPConn {
		h, err := n.Host(a)
		if err != nil {
			t.Fatal(err)
		}
		c, err := h.ListenUDP("udp4", &net.UDPAddr{IP: a.AsSlice(), Port: 5000})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	t.Cleanup(func() { _ = n.Close() })
	a, b := open(alice), open(bob)
	send = func(s string) {
		if _, err := a.WriteTo([]byte(s), b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	receive = func() (string, time.Duration) {
		start := time.Now()
		if err := b.SetReadDeadline(start.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		k, _, err := b.ReadFrom(buf)
		if err != nil {
			return "", time.Since(start)
		}
		return string(buf[:k]), time.Since(start)
	}
	return n, send, receive
}

func TestDelayIsExactInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, send, receive := pair(t, Config{Delay: 100 * time.Millisecond})
		send("hello")
		if got, took := receive(); got != "hello" || took != 100*time.Millisecond {
			t.Errorf("received %q after %v, want hello after 100ms", got, took)
		}
	})
}

func TestLossIsSeeded(t *testing.T) {
	run := func(seed uint64) (got string) {
		synctest.Test(t, func(t *testing.T) {
			n, send, receive := pair(t, Config{Loss: 0.3, Seed: seed})
			for i := range 100 {
				send(fmt.Sprint(i))
				synctest.Wait()
			}
			for {
				s, _ := receive()
				if s == "" {
					break
				}
				got += s + " "
			}
			if s := n.Stats(); s.Lost+s.Delivered != 100 || s.Lost < 15 || s.Lost > 45 {
				t.Errorf("lost %d of 100, delivered %d", s.Lost, s.Delivered)
			}
		})
		return got
	}
	if a, b := run(1), run(1); a != b {
		t.Errorf("equal seeds differ: %q, %q", a, b)
	}
	if a, b := run(1), run(2); a == b {
		t.Error("different seeds lose the same packets")
	}
}

func TestPartitionKillAndWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, send, receive := pair(t, Config{})
		arrives := func(want bool, when string) {
			t.Helper()
			send(when)
			synctest.Wait()
			if got, _ := receive(); (got == when) != want {
				t.Errorf("%s: received %q, want arrival %v", when, got, want)
			}
		}
		arrives(true, "whole")
		n.Partition([]netip.Addr{alice}, []netip.Addr{bob})
		arrives(false, "apart")
		n.Partition([]netip.Addr{alice, bob})
		arrives(true, "together")
		n.Partition([]netip.Addr{alice})
		arrives(false, "in no group")
		n.Heal()
		arrives(true, "healed")
		n.Kill(bob)
		arrives(false, "dead")
		n.Revive(bob)
		n.SetLoss(1)
		arrives(false, "all lost")
		n.SetLoss(0)
		var seen Packet
		n.Watch(func(p Packet) bool { seen = Packet{p.From, p.To, append([]byte(nil), p.Data...)}; return false })
		arrives(false, "watched")
		n.Watch(nil) // orders what the watcher wrote before what follows
		if seen.From.Addr() != alice || seen.To.Addr() != bob || string(seen.Data) != "watched" {
			t.Errorf("watch saw %v", seen)
		}
		if s := n.Stats(); s.Cut != 3 || s.Lost != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestConfigurationIsChecked(t *testing.T) {
	for _, c := range []Config{{Loss: -0.1}, {Loss: 1.5}, {Delay: -1}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v accepted", c)
		}
	}
}
