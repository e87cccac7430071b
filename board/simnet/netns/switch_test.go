//go:build linux

package netns

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

func TestSwitchLosesAndDelays(t *testing.T) {
	a, b, sw := host(t, "a"), host(t, "b"), host(t, "switch")
	must(t,
		Veth(a, "e0", sw, "pa"), Veth(b, "e0", sw, "pb"), a.NoOffload("e0"), b.NoOffload("e0"),
		a.AddAddress("e0", netip.MustParsePrefix("192.0.2.1/24")), b.AddAddress("e0", netip.MustParsePrefix("192.0.2.2/24")),
		a.Up("e0"), b.Up("e0"))
	s, err := NewSwitch(sw, Condition{Delay: 20 * time.Millisecond}, "pa", "pb")
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { s.Run(ctx); close(ended) }()
	defer func() { cancel(); <-ended }()

	var at, from net.PacketConn
	must(t, b.Do(func() (err error) { at, err = net.ListenPacket("udp4", "192.0.2.2:0"); return }))
	defer at.Close()
	must(t, a.Do(func() (err error) { from, err = net.ListenPacket("udp4", "192.0.2.1:0"); return }))
	defer from.Close()
	must(t, at.SetReadDeadline(time.Now().Add(10*time.Second)))
	buf := make([]byte, 2000)

	sent := time.Now()
	_, err = from.WriteTo([]byte("first"), at.LocalAddr())
	must(t, err)
	_, _, err = at.ReadFrom(buf)
	must(t, err)
	// The frame itself and, before it, the address resolution there and back were delayed.
	if d := time.Since(sent); d < 60*time.Millisecond {
		t.Errorf("the first datagram took %v, three delays of 20 ms were due", d)
	}

	s.SetCondition(Condition{Loss: 0.2})
	passed, dropped := s.Passed.Load(), s.Dropped.Load()
	const n = 2000
	for i := range n {
		_, err = from.WriteTo(make([]byte, 200), at.LocalAddr())
		must(t, err)
		// One at a time, so that no buffer on the way overflows and is mistaken for the loss asked for.
		for s.Passed.Load()-passed+s.Dropped.Load()-dropped <= uint64(i) && t.Context().Err() == nil {
			runtime.Gosched()
		}
	}
	// 400 losses are expected; eight standard deviations are 143.
	if lost := s.Dropped.Load() - dropped; lost < 250 || lost > 550 {
		t.Errorf("%d of %d frames lost at 20 %%", lost, n)
	}
}
