package media

import (
	"encoding/binary"
	"testing"

	"github.com/pion/srtp/v3"
)

// sink is a trunk whose other end is nowhere.
type sink struct{ *memoryTrunk }

func (sink) SendMedia([]byte) error { return nil }

// voice is 20 ms of G.711.
func voice() []byte { return rtpPacket(1, 0, string(make([]byte, 160))) }

// ontoTrunk returns a function that takes one packet from a handset to the trunk.
func ontoTrunk(t testing.TB, profile uint16) func() {
	r := newRelay(t, 32100, 32199)
	m, _ := trunkPair(t, r, r, "s", profile)
	c := newCall(t, r, "c")
	h, l := handsetLeg(t, c, "h"), trunkLeg(t, c, "t", &sink{m})
	d := newDevice(t)
	rewrite(t, h, l, d.sdp())
	rewrite(t, l, h, trunkSDP(9))
	c.Connect(h, l)
	b, src, now, seq := voice(), source(d.rtp), r.now(), uint16(0)
	return func() {
		seq++
		binary.BigEndian.PutUint16(b[2:], seq)
		binary.BigEndian.PutUint32(b[8:], 1)
		h.handset.packet(b, src, &h.handset.media, now)
	}
}

// offTrunk returns a function that takes one packet from the trunk to a handset's socket.
func offTrunk(t testing.TB, profile uint16) func() {
	r := newRelay(t, 32200, 32299)
	m, _ := trunkPair(t, r, r, "s", profile)
	c := newCall(t, r, "c")
	h, l := handsetLeg(t, c, "h"), trunkLeg(t, c, "t", m)
	d := newDevice(t)
	rewrite(t, h, l, d.sdp())
	rewrite(t, l, h, trunkSDP(9))
	c.Connect(h, l)
	far, err := l.trunk.session.rx.context()
	if err != nil {
		t.Fatal(err)
	}
	// Sealing belongs to the other kit; it is done outside the count, in runs.
	var sealed [][]byte
	seq := uint16(0)
	return func() {
		if len(sealed) == 0 {
			if b, ok := t.(*testing.B); ok {
				b.StopTimer()
				defer b.StartTimer()
			}
			for range 512 {
				seq++
				p := voice()
				binary.BigEndian.PutUint16(p[2:], seq)
				binary.BigEndian.PutUint32(p[8:], 9)
				out, err := far.EncryptRTP(nil, p, nil)
				if err != nil {
					t.Fatal(err)
				}
				sealed = append(sealed, out)
			}
		}
		r.TrunkPacket(m, sealed[0])
		sealed = sealed[1:]
	}
}

func between(t testing.TB) func() {
	a, _, da, _ := localCall(t, newRelay(t, 32300, 32399))
	b, src, now, seq := voice(), source(da.rtp), a.call.relay.now(), uint16(0)
	return func() {
		seq++
		binary.BigEndian.PutUint16(b[2:], seq)
		a.handset.packet(b, src, &a.handset.media, now)
	}
}

// "RTP forwarding reads a copy-on-write table: no lock and no allocation per packet."
func TestForwardingDoesNotAllocate(t *testing.T) {
	for _, tt := range []struct {
		name string
		step func()
	}{
		{"between handsets", between(t)},
		{"onto a trunk, AES-CM", ontoTrunk(t, profileCM)},
		{"onto a trunk, AES-GCM", ontoTrunk(t, profileGCM)},
		{"off a trunk, AES-CM", offTrunk(t, profileCM)},
		{"off a trunk, AES-GCM", offTrunk(t, profileGCM)},
	} {
		tt.step() // latches, starts the stream and seals the run of packets
		if got := testing.AllocsPerRun(400, tt.step); got != 0 {
			t.Errorf("%s: %v allocations per packet", tt.name, got)
		}
	}
}

func BenchmarkForward(b *testing.B) {
	for _, bb := range []struct {
		name string
		step func(testing.TB) func()
	}{
		{"handset-handset", between},
		{"handset-trunk/AES-CM", func(t testing.TB) func() { return ontoTrunk(t, profileCM) }},
		{"handset-trunk/AES-GCM", func(t testing.TB) func() { return ontoTrunk(t, profileGCM) }},
		{"trunk-handset/AES-CM", func(t testing.TB) func() { return offTrunk(t, profileCM) }},
		{"trunk-handset/AES-GCM", func(t testing.TB) func() { return offTrunk(t, profileGCM) }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			step := bb.step(b)
			step()
			b.ReportAllocs()
			for b.Loop() {
				step()
			}
		})
	}
}

// BenchmarkSRTP is the cipher alone, seal and open of one voice packet: the
// figure to choose the trunk's profile by.
func BenchmarkSRTP(b *testing.B) {
	for name, profile := range map[string]srtp.ProtectionProfile{
		"AES-CM":  srtp.ProtectionProfileAes128CmHmacSha1_80,
		"AES-GCM": srtp.ProtectionProfileAeadAes128Gcm,
	} {
		b.Run(name, func(b *testing.B) {
			saltLen, err := profile.SaltLen()
			if err != nil {
				b.Fatal(err)
			}
			k := keys{profile, make([]byte, 16), make([]byte, saltLen)}
			seal, err := k.context()
			if err != nil {
				b.Fatal(err)
			}
			open, err := k.context(srtp.SRTPReplayProtection(replayWindow))
			if err != nil {
				b.Fatal(err)
			}
			p, seq := voice(), uint16(0)
			var sealed, opened [maxPacket]byte
			b.ReportAllocs()
			for b.Loop() {
				seq++
				binary.BigEndian.PutUint16(p[2:], seq)
				s, err := seal.EncryptRTP(sealed[:0], p, nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := open.DecryptRTP(opened[:0], s, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
