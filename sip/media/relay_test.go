package media

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPacketsGoBothWaysBetweenHandsets(t *testing.T) {
	r := newRelay(t, 30000, 30099)
	a, b, da, db := localCall(t, r)
	port := portOf(a.handset.rtp)
	if port%2 != 0 || portOf(a.handset.rtcp) != port+1 {
		t.Errorf("ports %d, %d: RTP wants an even port, RTCP the next (RFC 3550 §11)", port, portOf(a.handset.rtcp))
	}
	// Through the sockets, both ways, RTP and RTCP.
	for i, hop := range []struct {
		from *device
		via  *Leg
		to   *device
	}{{da, a, db}, {db, b, da}} {
		p := rtpPacket(uint32(i+7), 1, "voice")
		if _, err := hop.from.rtp.WriteToUDPAddrPort(p, source(hop.via.handset.rtp)); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, hop.to.rtp); string(got) != string(p) {
			t.Errorf("hop %d: RTP changed between handsets: %x, sent %x", i, got, p)
		}
		sr := senderReport(uint32(i+7), 0)
		if _, err := hop.from.rtcp.WriteToUDPAddrPort(sr, source(hop.via.handset.rtcp)); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, hop.to.rtcp); string(got) != string(sr) {
			t.Errorf("hop %d: RTCP changed between handsets", i)
		}
	}
	// A packet counts as sent once the socket took it, which may be after its receiver has it.
	s := a.call.Stats()
	for end := time.Now().Add(5 * time.Second); s.Legs[1].Sent.Packets == 0 && time.Now().Before(end); s = a.call.Stats() {
		runtime.Gosched()
	}
	if s.Legs[0].Received.Packets != 1 || s.Legs[1].Sent.Packets != 1 || s.Legs[0].Latched != source(da.rtp) {
		t.Errorf("statistics: %+v", s)
	}
}

// "latch on the first valid RTP packet from the address the handset signals
// from, then only that one": each line is an attacker.
func TestLatch(t *testing.T) {
	stranger := netip.MustParseAddr("127.0.0.66")
	type step struct {
		name   string
		from   netip.AddrPort
		packet []byte
		at     time.Duration
		before func(*testing.T, *Leg, *Leg, *device)
		passes bool
	}
	good := func(n uint16) []byte { return rtpPacket(1, n, "x") }
	phone, second := netip.AddrPortFrom(loopback, 4000), netip.AddrPortFrom(loopback, 4002)
	repeatSDP := func(t *testing.T, a, b *Leg, d *device) { rewrite(t, a, b, d.sdp()) }
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"a stranger is never first", []step{
			{name: "stranger", from: netip.AddrPortFrom(stranger, 4000), packet: good(1)},
			{name: "phone", from: phone, packet: good(1), passes: true},
		}},
		{"garbage does not latch", []step{
			{name: "version 0", from: second, packet: []byte("\x00 STUN or whatever it is")},
			{name: "short", from: second, packet: good(1)[:11]},
			{name: "phone", from: phone, packet: good(1), passes: true},
		}},
		{"another port of the same address comes too late", []step{
			{name: "phone", from: phone, packet: good(1), passes: true},
			{name: "injected", from: second, packet: good(2)},
			{name: "phone", from: phone, packet: good(2), passes: true},
		}},
		{"the latch moves after a re-INVITE, once", []step{
			{name: "phone", from: phone, packet: good(1), passes: true},
			{name: "moved", from: second, packet: good(2), before: repeatSDP, passes: true},
			{name: "old one", from: phone, packet: good(3)},
			{name: "stranger", from: netip.AddrPortFrom(stranger, 4002), packet: good(3)},
			{name: "moved", from: second, packet: good(3), passes: true},
		}},
		{"the re-INVITE's window ends", []step{
			{name: "phone", from: phone, packet: good(1), passes: true},
			{name: "late", from: second, packet: good(2), before: repeatSDP, at: time.Hour},
		}},
		{"a registration from a new address", []step{
			{name: "phone", from: phone, packet: good(1), passes: true},
			{name: "new address", from: netip.AddrPortFrom(stranger, 4000), packet: good(2), passes: true,
				before: func(_ *testing.T, a, _ *Leg, _ *device) { a.Moved(stranger) }},
			{name: "old one", from: phone, packet: good(3)},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b, da, _ := localCall(t, newRelay(t, 30100, 30199))
			for i, s := range tt.steps {
				if s.before != nil {
					s.before(t, a, b, da)
				}
				sent, dropped := b.out.packets.Load(), a.drops.stats()
				a.handset.packet(s.packet, s.from, &a.handset.media, a.call.relay.now()+s.at)
				passed := b.out.packets.Load() > sent
				if passed != s.passes {
					t.Errorf("step %d, %s: passed %v", i, s.name, passed)
				}
				if now := a.drops.stats(); !passed && now.Spoofed+now.Malformed != dropped.Spoofed+dropped.Malformed+1 {
					t.Errorf("step %d, %s: dropped without being counted: %+v", i, s.name, now)
				}
			}
		})
	}
}

// A handset must not aim the kit's stream at somebody else by its SDP.
func TestAddressInSDPIsOnlyAHint(t *testing.T) {
	r := newRelay(t, 30200, 30299)
	c := newCall(t, r, "c")
	a, b := handsetLeg(t, c, "a"), handsetLeg(t, c, "b")
	da, db := newDevice(t), newDevice(t)
	rewrite(t, a, b, da.sdp())
	rewrite(t, b, a, strings.Replace(db.sdp(), "c=IN IP4 127.0.0.1", "c=IN IP4 192.0.2.1", 1))
	c.Connect(a, b)
	a.say(da.rtp, rtpPacket(1, 1, "x"))
	if got := *b.handset.media.destination(); got != source(db.rtp) {
		t.Errorf("sent to %s, want the signalling address with the port of the SDP, %s", got, source(db.rtp))
	}
	receive(t, db.rtp)
}

func TestRTCPOnTheRTPPort(t *testing.T) {
	for _, tt := range []struct {
		name          string
		offer, answer []string
		mux           bool
	}{
		{"both", []string{"a=rtcp-mux"}, []string{"a=rtcp-mux"}, true},
		{"offered only", []string{"a=rtcp-mux"}, nil, false},
		{"answered only", nil, []string{"a=rtcp-mux"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCall(t, newRelay(t, 30300, 30399), "c")
			a, b := handsetLeg(t, c, "a"), handsetLeg(t, c, "b")
			da, db := newDevice(t), newDevice(t)
			rewrite(t, a, b, da.sdp(tt.offer...))
			rewrite(t, b, a, db.sdp(tt.answer...))
			c.Connect(a, b)
			// "If the answer does not contain an "a=rtcp-mux" attribute, the
			// offerer MUST NOT multiplex" (RFC 5761 §5.1.1).
			b.report(db.rtcp, senderReport(9, 0))
			if tt.mux {
				receive(t, da.rtp)
			} else {
				receive(t, da.rtcp)
			}
		})
	}
}

func TestHold(t *testing.T) {
	a, b, da, db := localCall(t, newRelay(t, 30400, 30499))
	held := rewrite(t, b, a, strings.Replace(db.sdp(), "c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0", 1))
	if !strings.Contains(held, "c=IN IP4 0.0.0.0\r\n") {
		t.Errorf("hold did not reach the other side:\n%s", held)
	}
	a.say(da.rtp, rtpPacket(1, 1, "x"))
	if b.out.packets.Load() != 0 || b.drops.unsendable.Load() != 1 {
		t.Error("sent to a handset that holds")
	}
	rewrite(t, b, a, db.sdp())
	a.say(da.rtp, rtpPacket(1, 2, "x"))
	receive(t, db.rtp)
}

func TestPortsAreBoundedAndComeBack(t *testing.T) {
	r := newRelay(t, 30501, 30506) // one odd port at the start: two pairs
	c := newCall(t, r, "c")
	first := handsetLeg(t, c, "a")
	handsetLeg(t, c, "b")
	if _, err := c.HandsetLeg("c", loopback); !errors.Is(err, ErrPorts) {
		t.Fatalf("third of two pairs: %v", err)
	}
	old := portOf(first.handset.rtp)
	first.Close()
	again := handsetLeg(t, c, "c")
	if got := portOf(again.handset.rtp); got != old {
		t.Errorf("port %d, the free one is %d", got, old)
	}
	if s := r.Stats(); s.PortsUsed != 2 || s.Ports != 2 {
		t.Errorf("statistics: %+v", s)
	}
	c.Close()
	if s := r.Stats(); s.PortsUsed != 0 || s.Calls != 0 {
		t.Errorf("after the call: %+v", s)
	}
}

// A port rests as long as it can, so that late packets of one call do not reach the next.
func TestPortsAreNotReusedAtOnce(t *testing.T) {
	r := newRelay(t, 30510, 30519)
	seen := map[uint16]bool{}
	for i := range 5 {
		c := newCall(t, r, fmt.Sprint(i))
		l := handsetLeg(t, c, "a")
		if p := portOf(l.handset.rtp); seen[p] {
			t.Fatalf("port %d again after %d calls, with five pairs", p, i)
		} else {
			seen[p] = true
		}
		c.Close()
	}
}

func TestCallsAndLegsAreBounded(t *testing.T) {
	r, err := New(Config{Address: loopback, Ports: [2]uint16{30520, 30699}, MaxCalls: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	c := newCall(t, r, "1")
	if _, err := r.NewCall("1"); !errors.Is(err, ErrDuplicate) {
		t.Errorf("same identifier: %v", err)
	}
	newCall(t, r, "2")
	if _, err := r.NewCall("3"); !errors.Is(err, ErrBusy) {
		t.Errorf("third of two calls: %v", err)
	}
	for range maxLegs {
		handsetLeg(t, c, "fork")
	}
	if _, err := c.HandsetLeg("one more", loopback); !errors.Is(err, ErrBusy) {
		t.Errorf("leg %d: %v", maxLegs+1, err)
	}
	if got := len(r.Snapshot()); got != 2 {
		t.Errorf("snapshot of %d calls", got)
	}
	r.Close()
	if _, err := r.NewCall("4"); !errors.Is(err, ErrClosed) {
		t.Errorf("call at a closed relay: %v", err)
	}
}

func TestFinishedCallForwardsNothing(t *testing.T) {
	a, b, da, _ := localCall(t, newRelay(t, 30700, 30799))
	a.call.Close()
	a.say(da.rtp, rtpPacket(1, 1, "x"))
	if b.out.packets.Load() != 0 {
		t.Error("packet of a finished call was sent")
	}
	if _, err := a.call.Rewrite(a, b, []byte(da.sdp())); !errors.Is(err, ErrClosed) {
		t.Errorf("SDP of a finished call: %v", err)
	}
	if _, err := a.call.HandsetLeg("c", loopback); !errors.Is(err, ErrClosed) {
		t.Errorf("leg of a finished call: %v", err)
	}
}

// While a call forks only the connected branch is heard, and switching branches
// leaves no packet going to the old one.
func TestForkSwitchesTheConnectedLeg(t *testing.T) {
	r := newRelay(t, 30800, 30899)
	c := newCall(t, r, "fork")
	caller, one, two := handsetLeg(t, c, "caller"), handsetLeg(t, c, "one"), handsetLeg(t, c, "two")
	d, d1, d2 := newDevice(t), newDevice(t), newDevice(t)
	rewrite(t, caller, one, d.sdp())
	rewrite(t, caller, two, d.sdp())
	rewrite(t, one, caller, d1.sdp())
	rewrite(t, two, caller, d2.sdp())
	c.Connect(caller, one)
	c.Connect(caller, two)
	one.say(d1.rtp, rtpPacket(11, 1, "loser"))
	two.say(d2.rtp, rtpPacket(12, 1, "winner"))
	if got := receive(t, d.rtp); ssrcOf(got) != 12 {
		t.Errorf("caller hears SSRC %d", ssrcOf(got))
	}
	if one.drops.unconnected.Load() != 1 {
		t.Error("the branch that was not taken is still connected")
	}
	one.Close()
	caller.say(d.rtp, rtpPacket(10, 1, "hello"))
	receive(t, d2.rtp)
}

func TestConfiguration(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{Address: netip.IPv4Unspecified()},
		{Address: loopback, Ports: [2]uint16{30001, 30002}},
		{Address: loopback, Ports: [2]uint16{30002, 30000}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v accepted", cfg)
		}
	}
}

func TestSocketsAreMarkedForVoice(t *testing.T) {
	c := newCall(t, newRelay(t, 30900, 30999), "c")
	l := handsetLeg(t, c, "a")
	for _, conn := range []*net.UDPConn{l.handset.rtp, l.handset.rtcp} {
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var tos int
		if err := raw.Control(func(fd uintptr) { tos, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS) }); err != nil {
			t.Fatal(err)
		}
		if err != nil || tos>>2 != 46 {
			t.Errorf("DSCP %d, want EF, 46 (%v)", tos>>2, err)
		}
	}
}

func TestIPv6(t *testing.T) {
	six := netip.IPv6Loopback()
	r, err := New(Config{Address: six, Ports: [2]uint16{31000, 31099}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	c := newCall(t, r, "c")
	var legs [2]*Leg
	var phones [2]*net.UDPConn
	for i := range legs {
		if legs[i], err = c.HandsetLeg("x", six); err != nil {
			t.Fatal(err)
		}
		if phones[i], err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(six, 0))); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = phones[i].Close() })
	}
	for i := range legs {
		body := strings.ReplaceAll((&device{phones[i], phones[i]}).sdp(), "IP4 127.0.0.1", "IP6 ::1")
		if out := rewrite(t, legs[i], legs[1-i], body); !strings.Contains(out, "c=IN IP6 ::1\r\n") {
			t.Errorf("got\n%s", out)
		}
	}
	c.Connect(legs[0], legs[1])
	if _, err := phones[0].WriteToUDPAddrPort(rtpPacket(1, 1, "x"), source(legs[0].handset.rtp)); err != nil {
		t.Fatal(err)
	}
	receive(t, phones[1])
}
