package media

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestValidRTP(t *testing.T) {
	extended := append(rtpPacket(1, 1, ""), 0xbe, 0xde, 0, 1, 1, 2, 3, 4)
	extended[0] |= 0x10
	padded := append(rtpPacket(1, 1, "xx"), 0, 2)
	padded[0] |= 0x20
	contributed := append(rtpPacket(1, 1, ""), 0, 0, 0, 1, 0, 0, 0, 2)
	contributed[0] |= 2
	for name, p := range map[string][]byte{"plain": rtpPacket(1, 1, "x"), "extended": extended, "padded": padded, "contributed": contributed} {
		if !validRTP(p) {
			t.Errorf("%s refused", name)
		}
		header := 12
		if name == "extended" || name == "contributed" {
			header = len(p)
		}
		for n := range header {
			if validRTP(p[:n]) {
				t.Errorf("%s cut to %d bytes accepted", name, n)
			}
		}
	}
	long := rtpPacket(1, 1, "xx")
	long[0] |= 0x20
	long[len(long)-1] = 3
	if validRTP(long) {
		t.Error("more padding than payload accepted")
	}
	for pt := byte(64); pt < 96; pt++ {
		p := rtpPacket(1, 1, "x")
		if p[1] = pt; validRTP(p) {
			t.Errorf("payload type %d is RTCP's with the marker bit (RFC 5761 §4)", pt)
		}
	}
}

// RFC 3711 §9.1 (two-time pad): whatever a source sends, no number comes out
// twice, and each can be told by a receiver within half the number space.
func TestNumberingNeverRepeats(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		n := newNumbering(r.Uint32())
		sent := map[int64]bool{}
		source, seq := uint32(1), uint16(r.Uint32())
		for range 20000 {
			switch r.IntN(12) {
			case 0: // late or repeated
				seq -= uint16(r.IntN(100))
			case 1: // lost
				seq += uint16(r.IntN(100))
			case 2:
				if r.IntN(50) == 0 {
					source = r.Uint32N(3)
				}
			case 3:
				if r.IntN(50) == 0 {
					seq = uint16(r.Uint32())
				}
			default:
				seq++
			}
			before := n.highest
			out, _, ok := n.next(source, seq)
			if !ok {
				continue
			}
			index := n.highest + int64(int16(out-uint16(n.highest)))
			if sent[index] {
				t.Fatalf("seed %d: index %d twice", seed, index)
			}
			if sent[index] = true; index < 0 || index < before-maxMisorder || index > before+maxDropout {
				t.Fatalf("seed %d: index %d after %d", seed, index, before)
			}
		}
		if len(sent) < 10000 {
			t.Fatalf("seed %d: only %d packets passed", seed, len(sent))
		}
	}
}

// A late packet keeps its place, so that the far side can put it in order.
func TestNumberingKeepsOrder(t *testing.T) {
	n := newNumbering(7)
	first, fresh, _ := n.next(1, 65534)
	if !fresh {
		t.Fatal("the first packet starts the source")
	}
	for _, s := range []struct{ in, want uint16 }{{65535, 1}, {1, 3}, {0, 2}, {5, 7}, {3, 5}} {
		if out, _, ok := n.next(1, s.in); !ok || out-first != s.want {
			t.Errorf("%d became %d after the first, want %d (%v)", s.in, out-first, s.want, ok)
		}
	}
}

func TestMeter(t *testing.T) {
	type arrival struct {
		seq uint16
		at  time.Duration
	}
	ms := time.Millisecond
	for _, tt := range []struct {
		name     string
		arrivals []arrival
		want     StreamStats
	}{
		{"in time", []arrival{{1, 0}, {2, 20 * ms}, {3, 40 * ms}}, StreamStats{Packets: 3}},
		{"lost", []arrival{{65534, 0}, {1, 60 * ms}}, StreamStats{Packets: 2, Lost: 2}},
		{"late is not lost", []arrival{{1, 0}, {3, 40 * ms}, {2, 20 * ms}}, StreamStats{Packets: 3, Late: 1}},
		{"doubled", []arrival{{1, 0}, {1, 0}, {2, 20 * ms}}, StreamStats{Packets: 3, Doubled: 1}},
		// One packet 16 ms late: J = 16/16 = 1 ms, then it decays and the recovery adds.
		{"jitter", []arrival{{1, 0}, {2, 36 * ms}}, StreamStats{Packets: 2, Jitter: 1}},
		{"jitter, recovered", []arrival{{1, 0}, {2, 36 * ms}, {3, 40 * ms}}, StreamStats{Packets: 3, Jitter: 1 + 15.0/16}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var m meter
			for _, a := range tt.arrivals {
				p := rtpPacket(1, a.seq, "")
				binary.BigEndian.PutUint32(p[4:], uint32(int32(int16(a.seq)))*160)
				m.observe(p, a.at+time.Hour, &defaultClocks)
			}
			tt.want.Bytes = 12 * tt.want.Packets
			got := m.stats()
			if math.Abs(got.Jitter-tt.want.Jitter) < 1e-9 {
				got.Jitter = tt.want.Jitter
			}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// A changed source does not read as loss, and loss before it is not forgotten.
func TestMeterChangesSource(t *testing.T) {
	var m meter
	for _, p := range [][]byte{rtpPacket(1, 1, ""), rtpPacket(1, 3, ""), rtpPacket(2, 30000, ""), rtpPacket(2, 30002, "")} {
		m.observe(p, 0, &defaultClocks)
	}
	if got := m.stats().Lost; got != 2 {
		t.Errorf("lost %d, want one of each source", got)
	}
}

// RFC 4733 §2.5.1.2: the packets of one event repeat its timestamp; they are no
// measure of jitter.
func TestTelephoneEventsAreNotJitter(t *testing.T) {
	clocks := defaultClocks
	clocks[101] = 0
	var m meter
	for i := range uint16(10) {
		p := rtpPacket(1, i, "")
		p[1] = 101
		binary.BigEndian.PutUint32(p[4:], 1000)
		m.observe(p, time.Duration(i)*20*time.Millisecond, &clocks)
	}
	if got := m.stats().Jitter; got != 0 {
		t.Errorf("jitter %v", got)
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(rtpPacket(1, 1, "x"), true)
	f.Add(senderReport(1, 2), false)
	r := newRelay(f, 32000, 32099)
	t, _ := trunkPair(f, r, r, "s", profileGCM)
	c := newCall(f, r, "c")
	h, l := handsetLeg(f, c, "h"), trunkLeg(f, c, "t", t)
	d := newDevice(f)
	rewrite(f, h, l, d.sdp())
	rewrite(f, l, h, trunkSDP(9))
	c.Connect(h, l)
	other := newCall(f, r, "o")
	a, b := handsetLeg(f, other, "a"), handsetLeg(f, other, "b")
	rewrite(f, a, b, d.sdp())
	rewrite(f, b, a, d.sdp())
	other.Connect(a, b)
	f.Fuzz(func(_ *testing.T, p []byte, media bool) {
		if len(p) > maxPacket {
			p = p[:maxPacket]
		}
		for _, leg := range []*Leg{h, a} {
			if media {
				leg.say(d.rtp, p)
			} else {
				leg.report(d.rtcp, p)
			}
		}
		r.TrunkPacket(t, p)
		// What a kit with sound keys could send.
		scratch := make([]byte, 0, maxPacket)
		if validRTCP(p) {
			translate(scratch, p, l, h)
		}
		if validRTP(p) {
			l.rtp(p, 0)
		}
	})
}
