package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestCallAcrossATrunk(t *testing.T) {
	for name, profile := range map[string]uint16{"AES-CM": profileCM, "AES-GCM": profileGCM} {
		t.Run(name, func(t *testing.T) {
			f := newFarCall(t, profile)
			for _, hop := range []struct {
				say  *Leg
				from *device
				to   *device
				on   *memoryTrunk
			}{{f.a, f.da, f.db, f.ta}, {f.b, f.db, f.da, f.tb}} {
				for n := range uint16(5) {
					payload := fmt.Sprintf("packet %d", n)
					hop.say.say(hop.from.rtp, rtpPacket(77, 65533+n, payload)) // across the wrap
					got := receive(t, hop.to.rtp)
					if string(got[12:]) != payload {
						t.Fatalf("payload %q, want %q", got[12:], payload)
					}
					if binary.BigEndian.Uint32(got[4:]) != uint32(65533+n)*160 {
						t.Error("timestamp changed")
					}
					if first := b2u(got[1]&0x80 != 0); first != b2u(n == 0) {
						t.Errorf("packet %d: marker %d", n, first)
					}
					if bytes.Contains(hop.on.last(), []byte(payload)) {
						t.Fatal("the trunk carries it in the clear")
					}
				}
			}
			s := f.bt.stats()
			if s.Received.Packets != 5 || s.Received.Lost != 0 || !s.Trunk || s.Sent.Packets != 5 {
				t.Errorf("statistics: %+v", s)
			}
		})
	}
}

func b2u(b bool) int {
	if b {
		return 1
	}
	return 0
}

// RFC 3711 §3.3.2: "the receiver SHOULD check the index against the replay list".
func TestReplayAndForgery(t *testing.T) {
	f := newFarCall(t, profileCM)
	f.a.say(f.da.rtp, rtpPacket(1, 1, "x"))
	receive(t, f.db.rtp)
	recorded := bytes.Clone(f.ta.last())
	f.rb.TrunkPacket(f.tb, recorded)
	if got := f.bt.drops.replayed.Load(); got != 1 {
		t.Errorf("%d replays counted", got)
	}
	forged := bytes.Clone(recorded)
	forged[3]++ // the next sequence number
	f.rb.TrunkPacket(f.tb, forged)
	if got := f.bt.drops.unauthentic.Load(); got != 1 {
		t.Errorf("%d forgeries counted", got)
	}
	if got := f.b.out.packets.Load(); got != 1 {
		t.Errorf("%d packets reached the handset", got)
	}
}

// A hostile kit with a trunk of its own must not reach a call between two others.
func TestTrunksAreApart(t *testing.T) {
	f := newFarCall(t, profileGCM)
	f.a.say(f.da.rtp, rtpPacket(1, 1, "x"))
	receive(t, f.db.rtp)
	recorded := bytes.Clone(f.ta.last())
	victim := binary.BigEndian.Uint32(recorded[8:])

	evil := newRelay(t, 31200, 31299)
	te, tv := trunkPair(t, evil, f.rb, "evil", profileGCM)
	// Before it has a call, after, and having declared the victim's SSRC as its own.
	f.rb.TrunkPacket(tv, recorded)
	c := newCall(t, f.rb, "evil")
	in, out := trunkLeg(t, c, "in", tv), handsetLeg(t, c, "out")
	rewrite(t, in, out, trunkSDP(victim))
	f.rb.TrunkPacket(tv, recorded)
	ce := newCall(t, evil, "evil")
	le, he := trunkLeg(t, ce, "out", te), handsetLeg(t, ce, "in")
	le.trunk.tx.ssrc = victim
	rewrite(t, le, he, trunkSDP(5))
	ce.Connect(le, he)
	d := newDevice(t)
	rewrite(t, he, le, d.sdp())
	he.say(d.rtp, rtpPacket(1, 1, "evil")) // sound under the evil trunk's own keys

	if got := f.b.out.packets.Load(); got != 1 {
		t.Fatalf("%d packets reached the victim's handset", got)
	}
	if in.in.count.packets.Load() != 1 {
		t.Error("the evil kit's own stream should reach its own leg: the test shows nothing")
	}
	if got := in.drops.unauthentic.Load(); got != 1 {
		t.Errorf("%d packets of another trunk refused by their keys", got)
	}
}

// On one trunk a second call cannot take over a stream that belongs to the first.
func TestAnSSRCBelongsToOneLeg(t *testing.T) {
	f := newFarCall(t, profileGCM)
	taken := f.bt.trunk.rx.Load().ssrc
	c := newCall(t, f.rb, "second")
	l, h := trunkLeg(t, c, "in", f.tb), handsetLeg(t, c, "out")
	if _, err := c.Rewrite(l, h, []byte(trunkSDP(taken))); !errors.Is(err, ErrSDP) {
		t.Errorf("an SSRC declared twice: %v", err)
	}
	f.bt.call.Close()
	if _, err := c.Rewrite(l, h, []byte(trunkSDP(taken))); err != nil {
		t.Errorf("after the first call: %v", err)
	}
}

func trunkSDP(ssrc uint32) string {
	return strings.Join([]string{
		"v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "c=" + trunkConnection, "t=0 0",
		"m=audio 9 UDP/TLS/RTP/SAVP 0", fmt.Sprintf("a=ssrc:%d cname:x", ssrc),
	}, "\r\n") + "\r\n"
}

// RFC 3711 §9.1: SSRCs must be unique under one master key for its whole life.
func TestSSRCsDoNotComeBack(t *testing.T) {
	r := newRelay(t, 31300, 31399)
	a, _ := trunkPair(t, r, r, "s", profileGCM)
	seen := map[uint32]bool{}
	for i := range 500 {
		c := newCall(t, r, fmt.Sprint(i))
		l := trunkLeg(t, c, "t", a)
		if seen[l.trunk.tx.ssrc] {
			t.Fatal("SSRC given out twice")
		}
		seen[l.trunk.tx.ssrc] = true
		c.Close()
	}
}

func TestStreamsOfAnEndedCallAreUnknown(t *testing.T) {
	f := newFarCall(t, profileCM)
	f.bt.call.Close()
	f.a.say(f.da.rtp, rtpPacket(1, 1, "x"))
	if got := f.rb.Stats().UnknownStream; got != 1 {
		t.Errorf("%d packets of an ended call counted", got)
	}
}

// The handset's stream restarts, changes its source, repeats itself; the far
// side gets one stream, and no SRTP index twice.
func TestOneStreamWhateverTheHandsetDoes(t *testing.T) {
	f := newFarCall(t, profileGCM)
	var heard []uint16
	step := func(p []byte, arrives bool) {
		t.Helper()
		before := f.b.out.packets.Load()
		f.a.say(f.da.rtp, p)
		if got := f.b.out.packets.Load() > before; got != arrives {
			t.Fatalf("packet %x arrived: %v", p[:12], got)
		}
		if arrives {
			got := receive(t, f.db.rtp)
			heard = append(heard, seqOf(got))
			if ssrcOf(got) != f.bt.trunk.rx.Load().ssrc {
				t.Fatal("SSRC changed")
			}
		}
	}
	step(rtpPacket(1, 100, "a"), true)
	step(rtpPacket(1, 101, "b"), true)
	step(rtpPacket(1, 101, "other words, same number"), false)
	step(rtpPacket(1, 103, "d"), true)
	step(rtpPacket(1, 102, "c, late"), true)
	step(rtpPacket(2, 9000, "another source"), true)
	step(rtpPacket(2, 40000, "a stray"), false)
	step(rtpPacket(2, 20000, "restarted"), false)
	step(rtpPacket(2, 20001, "restarted"), true)
	base := heard[0]
	for i, want := range []uint16{0, 1, 3, 2, 4, 5} {
		if heard[i]-base != want {
			t.Errorf("packet %d has number %d after the first, want %d", i, heard[i]-base, want)
		}
	}
	if got := f.at.drops.repeated.Load(); got != 3 {
		t.Errorf("%d packets counted as repeated", got)
	}
}

func TestKeyingIsRefused(t *testing.T) {
	r := newRelay(t, 31400, 31499)
	c := newCall(t, r, "c")
	null, _ := trunkPair(t, r, r, "s", 0x0005)
	if _, err := c.TrunkLeg("t", null); !errors.Is(err, ErrKeying) {
		t.Errorf("a profile without encryption: %v", err)
	}
	short := &shortExporter{memoryTrunk: null}
	short.profile = profileCM
	if _, err := c.TrunkLeg("t", short); !errors.Is(err, ErrKeying) {
		t.Errorf("too little keying material: %v", err)
	}
	gone, _ := trunkPair(t, r, r, "s", profileCM)
	gone.close()
	if _, err := c.TrunkLeg("t", gone); !errors.Is(err, ErrClosed) {
		t.Errorf("a trunk that is gone: %v", err)
	}
}

type shortExporter struct{ *memoryTrunk }

func (s *shortExporter) ExportKeyingMaterial(string, []byte, int) ([]byte, error) {
	return make([]byte, 10), nil
}

// A far kit may change its SSRC in a call, but not without end.
func TestDeclaredStreamsAreBounded(t *testing.T) {
	r := newRelay(t, 31500, 31599)
	a, _ := trunkPair(t, r, r, "s", profileGCM)
	c := newCall(t, r, "c")
	l, h := trunkLeg(t, c, "t", a), handsetLeg(t, c, "h")
	for i := range uint32(maxReceivers) {
		rewrite(t, l, h, trunkSDP(i))
	}
	if _, err := c.Rewrite(l, h, []byte(trunkSDP(1000))); !errors.Is(err, ErrSDP) {
		t.Errorf("SSRC %d: %v", maxReceivers+1, err)
	}
	if got := len(*l.trunk.session.streams.Load()); got != 1 {
		t.Errorf("%d streams in the table, one is in use", got)
	}
}

// Connect moves a stream from one source to another while both speak: the
// race detector watches, and no SRTP index may repeat (the far side would count
// a replay).
func TestConnectWhilePacketsFlow(t *testing.T) {
	f := newFarCall(t, profileGCM)
	c := f.a.call
	second, d := handsetLeg(t, c, "second"), newDevice(t)
	rewrite(t, second, f.at, d.sdp())
	stop := make(chan struct{})
	var speakers sync.WaitGroup
	speak := func(l *Leg, from *device, ssrc uint32) {
		src := source(from.rtp)
		for n := uint16(0); ; n++ {
			select {
			case <-stop:
				return
			default:
				l.handset.packet(rtpPacket(ssrc, n, "x"), src, &l.handset.media, c.relay.now())
			}
		}
	}
	speakers.Go(func() { speak(f.a, f.da, 1) })
	speakers.Go(func() { speak(second, d, 2) })
	for i := 0; i < 2000 || f.bt.stats().Received.Packets == 0; i++ { // on a busy machine the speakers may begin late
		c.Connect(f.at, []*Leg{f.a, second}[i%2])
		c.Stats()
	}
	close(stop)
	speakers.Wait()
	s := f.bt.stats()
	if s.Received.Packets == 0 || s.Drops.Replayed != 0 || s.Drops.Unauthentic != 0 || s.Received.Doubled != 0 {
		t.Errorf("at the far side: %+v", s)
	}
	if sent := f.at.stats().Sent.Packets; s.Received.Packets+s.Drops.InUse != sent {
		t.Errorf("%d sent, %d received, %d met a hand-over", sent, s.Received.Packets, s.Drops.InUse)
	}
}
