package media

import (
	"encoding/binary"
	"math"
	"net/netip"
	"sync/atomic"
	"time"
)

// CallStats is what a call's legs have measured.
type CallStats struct {
	ID      string
	Started time.Time
	Legs    []LegStats
}

// LegStats is one leg's view: what came from there, what was sent there, and
// what the far receiver reports of it.
type LegStats struct {
	Name      string
	Trunk     bool
	Connected bool
	Latched   netip.AddrPort // source of a handset's RTP; invalid before its first packet
	Received  StreamStats
	Sent      Count
	Reported  ReportStats
	Drops     DropStats
}

// StreamStats measures RTP that came in on a leg.
type StreamStats struct {
	Packets uint64
	Bytes   uint64  // RTP with header, without UDP and IP
	Lost    uint64  // expected less received (RFC 3550 A.3), of all sources so far
	Late    uint64  // came after a packet of a higher number
	Doubled uint64  // came twice
	Jitter  float64 // interarrival jitter in ms (RFC 3550 A.8)
}

// Count is packets and bytes.
type Count struct{ Packets, Bytes uint64 }

// ReportStats is the last RTCP report block about what was sent to a leg.
type ReportStats struct {
	Reports  uint64
	Lost     int64   // cumulative; negative when packets were doubled
	Fraction float64 // lost since the report before, 0 to 1
	Jitter   float64 // ms
}

// DropStats counts packets that were not forwarded.
type DropStats struct {
	Spoofed     uint64 // not from the latched source
	Malformed   uint64 // neither valid RTP nor RTCP
	Unconnected uint64 // no leg to go to yet
	Unsendable  uint64 // nowhere to send it, on hold, or the socket refused
	Repeated    uint64 // would have used an SRTP index twice, or too late
	Replayed    uint64 // SRTP replay
	Unauthentic uint64 // SRTP authentication failed
	InUse       uint64 // met the hand-over of a stream
}

type drops struct {
	spoofed, malformed, unconnected, unsendable, repeated, replayed, unauthentic, inUse atomic.Uint64
}

func (d *drops) stats() DropStats {
	return DropStats{
		Spoofed: d.spoofed.Load(), Malformed: d.malformed.Load(), Unconnected: d.unconnected.Load(),
		Unsendable: d.unsendable.Load(), Repeated: d.repeated.Load(), Replayed: d.replayed.Load(),
		Unauthentic: d.unauthentic.Load(), InUse: d.inUse.Load(),
	}
}

func (l *Leg) stats() LegStats {
	s := LegStats{
		Name: l.name, Trunk: l.trunk != nil, Connected: l.peer.Load() != nil,
		Received: l.in.stats(), Sent: l.out.stats(), Reported: l.reported.stats(), Drops: l.drops.stats(),
	}
	if l.handset != nil {
		s.Latched = l.handset.latched()
	}
	return s
}

type counter struct{ packets, bytes atomic.Uint64 }

func (c *counter) add(n int)    { c.packets.Add(1); c.bytes.Add(uint64(n)) }
func (c *counter) stats() Count { return Count{c.packets.Load(), c.bytes.Load()} }

// clockTable is RTP clock rates in Hz by payload type; 0 is no measure of
// arrival (telephone-event repeats its timestamp, RFC 4733 §2.5.1.2).
type clockTable [128]uint32

// defaultClocks are the static audio types of RFC 3551 §6, 8000 Hz for all else.
var defaultClocks = func() (t clockTable) {
	for i := range t {
		t[i] = 8000
	}
	t[6], t[10], t[11], t[14], t[16], t[17] = 16000, 44100, 44100, 90000, 11025, 22050
	return t
}()

// meter measures one leg's incoming RTP. The plain fields belong to the leg's
// packet goroutine; the atomic ones are what others read.
type meter struct {
	started    bool
	ssrc       uint32
	base, high int64 // extended sequence numbers
	received   int64
	bad        int32
	lostBefore uint64 // of sources before this one
	transit    int32
	transitPT  byte // 0xff: none yet
	jitter     float64

	count               counter
	rate                atomic.Uint32 // clock of the last packet
	lost, late, doubled atomic.Uint64
	jitterMS            atomic.Uint64 // math.Float64bits
}

// observe takes one valid RTP packet that arrived at the given relay time.
func (m *meter) observe(b []byte, now time.Duration, clocks *clockTable) {
	seq, ssrc, pt := binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint32(b[8:]), b[1]&0x7f
	m.count.add(len(b))
	if !m.sequence(ssrc, seq) {
		return
	}
	rate := clocks[pt]
	if rate == 0 {
		return
	}
	// RFC 3550 A.8: transit = arrival - timestamp, both in units of the clock.
	arrival := uint32(now.Microseconds() * int64(rate) / 1_000_000)
	transit := int32(arrival - binary.BigEndian.Uint32(b[4:]))
	if m.transitPT == pt {
		d := math.Abs(float64(transit - m.transit))
		m.jitter += (d - m.jitter) / 16
		m.jitterMS.Store(math.Float64bits(m.jitter * 1000 / float64(rate)))
	}
	m.transit, m.transitPT = transit, pt
	m.rate.Store(rate)
}

// sequence accounts for a number; false for a duplicate or a stray.
func (m *meter) sequence(ssrc uint32, seq uint16) bool {
	if !m.started || ssrc != m.ssrc {
		m.restart(ssrc, seq)
		return true
	}
	d := int(int16(seq - uint16(m.high)))
	if d > maxDropout || d < -maxMisorder {
		if int32(seq) != m.bad {
			m.bad = int32(seq + 1)
			return false
		}
		m.restart(ssrc, seq)
		return true
	}
	m.bad = -1
	switch {
	case d == 0:
		m.doubled.Add(1)
		return false
	case d < 0:
		m.late.Add(1)
	default:
		m.high += int64(d)
	}
	m.received++
	m.lost.Store(m.lostBefore + uint64(max(0, m.high-m.base+1-m.received)))
	return true
}

func (m *meter) restart(ssrc uint32, seq uint16) {
	m.lostBefore = m.lost.Load()
	m.started, m.ssrc, m.bad = true, ssrc, -1
	m.base, m.high, m.received = int64(seq), int64(seq), 1
	m.transitPT = 0xff
}

func (m *meter) stats() StreamStats {
	n := m.count.stats()
	return StreamStats{
		Packets: n.Packets, Bytes: n.Bytes, Lost: m.lost.Load(), Late: m.late.Load(), Doubled: m.doubled.Load(),
		Jitter: math.Float64frombits(m.jitterMS.Load()),
	}
}

// report keeps the last report block that came from a leg.
type report struct {
	count            atomic.Uint64
	lost             atomic.Int64
	fraction, jitter atomic.Uint64 // math.Float64bits
}

func (r *report) stats() ReportStats {
	return ReportStats{
		Reports: r.count.Load(), Lost: r.lost.Load(),
		Fraction: math.Float64frombits(r.fraction.Load()), Jitter: math.Float64frombits(r.jitter.Load()),
	}
}

func (r *report) keep(block []byte, rate uint32) {
	lost := int32(binary.BigEndian.Uint32(block[4:])<<8) >> 8 // 24 bits, signed (RFC 3550 §6.4.1)
	r.lost.Store(int64(lost))
	r.fraction.Store(math.Float64bits(float64(block[4]) / 256))
	if rate > 0 {
		jitter := float64(binary.BigEndian.Uint32(block[12:])) * 1000 / float64(rate)
		r.jitter.Store(math.Float64bits(jitter))
	}
	r.count.Add(1)
}
