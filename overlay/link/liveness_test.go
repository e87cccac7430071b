package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"fieldkit/board/simnet"
	"fieldkit/overlay/stun"
)

// seen keeps the STUN messages that cross a network.
type seen struct {
	mu   sync.Mutex
	all  []seenSTUN
	drop bool // Binding answers are lost
}

type seenSTUN struct {
	at   time.Time
	from netip.AddrPort
	data []byte
}

func watchSTUN(n *simnet.Network) *seen {
	s := new(seen)
	n.Watch(func(p simnet.Packet) bool {
		if len(p.Data) == 0 || p.Data[0] > 3 {
			return true
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all = append(s.all, seenSTUN{time.Now(), p.From, bytes.Clone(p.Data)})
		return !s.drop || binary.BigEndian.Uint16(p.Data) != stunBindingSuccess
	})
	return s
}

func (s *seen) take(kind uint16) (out []seenSTUN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.all {
		if stun.Type(m.data) == kind {
			out = append(out, m)
		}
	}
	s.all = nil
	return out
}

func (s *seen) lose(answers bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop = answers
}

// A sign of life is a round trip that nobody else can have made.
func TestHeardAndCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rtt = 10 * time.Millisecond
		n := newNetwork(t, simnet.Config{Delay: rtt / 2})
		m := newMission(t)
		a, b := m.simulated(n, 1), m.simulated(n, 2)
		offerer, answerer := linked(t, a, b)
		for _, x := range []*Conn{offerer, answerer} {
			time.Sleep(4 * time.Second)
			air := watchSTUN(n)
			start := time.Now()
			if !x.Check() {
				t.Fatal("no check")
			}
			time.Sleep(rtt + time.Millisecond)
			if h := x.Heard(); h.Before(start.Add(rtt)) {
				t.Errorf("heard at %v after the check", h.Sub(start))
			}
			request := air.take(stunBindingRequest)
			if !x.Check() {
				t.Fatal("no second check")
			}
			time.Sleep(rtt + time.Millisecond)
			answers := func() []seenSTUN { // the far end's
				all := air.take(stunBindingSuccess)
				return slices.DeleteFunc(all, func(m seenSTUN) bool { return m.from != x.RemoteAddr() })
			}
			answer := answers()
			if len(answer) != 1 {
				t.Fatalf("%d answers", len(answer))
			}
			t.Logf("a check is %d bytes of UDP, its answer %d; %d requests in all", len(request[0].data), len(answer[0].data), len(request))
			heard := x.Heard()
			time.Sleep(time.Second)

			// What was recorded says nothing any more: the answer, and the far end's own request.
			watch := x.network(t).watch.Load()
			watch.answer(answer[0].data, answer[0].from)
			air.lose(true)
			x.Check()
			time.Sleep(rtt + time.Millisecond)
			fresh := answers()
			if len(fresh) != 1 {
				t.Fatalf("%d answers", len(fresh))
			}
			forged := bytes.Clone(fresh[0].data)
			forged[len(forged)-10] ^= 1 // in MESSAGE-INTEGRITY
			watch.answer(forged, fresh[0].from)
			watch.answer(answer[0].data, fresh[0].from)
			if x.Heard() != heard {
				t.Error("a replayed or forged answer counts")
			}
			x.Check()
			time.Sleep(rtt + time.Millisecond)
			fresh = answers()
			watch.answer(fresh[0].data, netip.AddrPortFrom(fresh[0].from.Addr(), 9))
			if x.Heard() != heard {
				t.Error("an answer from another address counts")
			}
			watch.answer(fresh[0].data, fresh[0].from) // the control
			if x.Heard().Equal(heard) {
				t.Error("the answer does not count")
			}
			air.lose(false)

			before := x.Heard()
			time.Sleep(time.Second)
			exchange(t, offerer, answerer)
			if x.Heard().Sub(before) < time.Second {
				t.Error("records do not count")
			}
			time.Sleep(5 * time.Second)
		}
		n.Kill(netip.AddrFrom4([4]byte{10, 0, 0, 2}))
		before := offerer.Heard()
		for range 5 {
			offerer.Check()
			time.Sleep(time.Second)
		}
		if offerer.Heard() != before {
			t.Error("heard a dead peer")
		}
		_ = offerer.Close()
		if offerer.Check() {
			t.Error("a check on a closed link")
		}
	})
}

// network is the sockets of a link made with ICE.
func (l *Conn) network(t *testing.T) *agentNet {
	t.Helper()
	n := l.agentNet
	if n == nil {
		t.Fatal("no ICE")
	}
	return n
}

// "the offerer (the entity sending the Attach request) will always be controlling, and the answerer … will always be
// controlled. The connectivity checks MUST still contain the ICE-CONTROLLED and ICE-CONTROLLING attributes" (RFC 6940
// §6.5.1.9). The checks for life keep to it.
func TestAttachSenderIsControlling(t *testing.T) {
	const controlled, controlling = 0x8029, 0x802A
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{Delay: time.Millisecond})
		air := watchSTUN(n)
		m := newMission(t)
		x, y := linked(t, m.simulated(n, 1), m.simulated(n, 2))
		x.Check()
		y.Check()
		time.Sleep(time.Minute)
		offerer := netip.AddrFrom4([4]byte{10, 0, 0, 1})
		count := map[bool]int{}
		for _, r := range air.take(stunBindingRequest) {
			offers := r.from.Addr() == offerer
			count[offers]++
			if stun.Has(r.data, controlling) != offers || stun.Has(r.data, controlled) == offers {
				t.Errorf("a request of the offerer (%v) with ICE-CONTROLLING %v, ICE-CONTROLLED %v", offers, stun.Has(r.data, controlling), stun.Has(r.data, controlled))
			}
		}
		if count[true] < 3 || count[false] < 3 {
			t.Errorf("%d and %d requests", count[true], count[false])
		}
	})
}

// "STUN MUST be utilized for the keepalives" (RFC 6940 §6.5.1.10.3), and "Tr SHOULD … have a default of 15 seconds. Tr
// MUST NOT be configured to less than 15 seconds" (RFC 5245 §10).
func TestKeepalivesEvery15Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, simnet.Config{Delay: time.Millisecond})
		m := newMission(t)
		linked(t, m.simulated(n, 1), m.simulated(n, 2))
		time.Sleep(time.Minute)
		air := watchSTUN(n)
		time.Sleep(30 * time.Minute)
		var (
			last time.Time
			gaps []time.Duration
			size int
		)
		air.mu.Lock()
		for _, r := range air.all {
			size += len(r.data)
			// The controlled end checks back at once when it is checked, and so has its own proof of life.
			if stun.Type(r.data) != stunBindingRequest || r.at.Sub(last) < 100*time.Millisecond {
				continue
			}
			if !last.IsZero() {
				gaps = append(gaps, r.at.Sub(last))
			}
			last = r.at
		}
		air.mu.Unlock()
		if len(gaps) < 100 || slices.Min(gaps) < 15*time.Second || slices.Max(gaps) > 18*time.Second {
			t.Errorf("%d keepalives, between %v and %v apart", len(gaps), slices.Min(gaps), slices.Max(gaps))
		}
		t.Logf("keepalives %v to %v apart, %.1f bytes a second of UDP for each side", slices.Min(gaps), slices.Max(gaps), float64(size)/1800/2)
	})
}

// A link whose address went away is closed at once, and no other.
func TestAddressesChanged(t *testing.T) {
	for name, with := range map[string]func(*Config){"ICE": noChange, "UDP": noICE(onlyUDP), "TCP": noICE(onlyTCP)} {
		t.Run(name, func(t *testing.T) {
			m := newMission(t)
			var mu sync.Mutex
			other := netip.MustParseAddr("127.0.0.2")
			addrs := []netip.Addr{loopback}
			set := func(a ...netip.Addr) {
				mu.Lock()
				defer mu.Unlock()
				addrs = a
			}
			a := m.transport(with, func(c *Config) {
				c.Addresses = func() []netip.Addr {
					mu.Lock()
					defer mu.Unlock()
					return slices.Clone(addrs)
				}
			})
			b := m.transport(with)
			goes, far := linked(t, a, b)
			set(other)
			stays, far2 := linked(t, a, b)
			set(loopback, other)
			a.AddressesChanged()
			exchange(t, goes, far)
			set(other)
			start := time.Now()
			a.AddressesChanged()
			<-goes.Done()
			if !errors.Is(goes.Err(), ErrNoAddress) {
				t.Errorf("ended with %v", goes.Err())
			}
			<-far.Done() // the goodbye still gets out where the address is only no longer ours to use
			t.Logf("both ends closed after %v", time.Since(start).Round(time.Millisecond))
			exchange(t, stays, far2)
		})
	}
}

func noChange(*Config) {}

func TestMayUseLinkLocal(t *testing.T) {
	m := newMission(t)
	tr := m.transport(func(c *Config) { c.Interfaces = func(name string) bool { return name == "lo" } })
	usable := []netip.Addr{loopback, netip.MustParseAddr("fe80::1%a"), netip.MustParseAddr("fd00::1")}
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.2": false, "fe80::1%a": true, "fe80::1%b": false, "fe80::1": true, "fe80::2%a": false,
		"fe80::3%lo": false, "fd00::1": true, "fd00::2": false,
	} {
		if got := tr.mayUse(netip.MustParseAddr(addr), usable); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

// A kit that is told the time has not been without a sign of life for that long.
func TestHeardWhenTheClockIsSetForward(t *testing.T) {
	now := time.Now()
	tr := &Transport{cfg: Config{Now: func() time.Time { return now }}, born: now}
	c := &carrier{t: tr}
	now = now.Add(time.Minute)
	c.alive()
	now = now.Add(time.Second)
	*(*uint64)(unsafe.Pointer(&now)) += 86400 << 30 // the wall clock's seconds; the monotonic reading is in the second word
	if now.Sub(tr.born) != time.Minute+time.Second || now.Unix()-tr.born.Unix() < 86400 {
		t.Fatal("a time.Time is made in another way now")
	}
	if ago := now.Sub(c.Heard()); ago != time.Second {
		t.Errorf("heard %v ago, want a second", ago)
	}
	c.alive()
	now = now.Add(time.Second)
	if ago := now.Sub(c.Heard()); ago != time.Second {
		t.Errorf("heard %v ago since the clock was set, want a second", ago)
	}
}
