package media

import "encoding/binary"

// RFC 3550 Appendix A.1's constants.
const (
	maxDropout  = 3000 // a larger gap is a restarted source, not loss
	maxMisorder = 64   // as many as the window remembers; A.1 says 100
)

// isRTCP tells RTCP from RTP on one port (RFC 5761 §4: packet types 192 to 223).
func isRTCP(b []byte) bool { return len(b) >= 2 && b[1] >= 192 && b[1] <= 223 }

// validRTP checks what RFC 3550 Appendix A.1 asks of the header and that
// everything it announces is there.
func validRTP(b []byte) bool {
	if len(b) < 12 || b[0]>>6 != 2 {
		return false
	}
	if pt := b[1] & 0x7f; pt >= 64 && pt <= 95 {
		return false // with the marker bit it would pass for RTCP (RFC 5761 §4)
	}
	n := 12 + 4*int(b[0]&0x0f)
	if b[0]&0x10 != 0 {
		if len(b) < n+4 {
			return false
		}
		n += 4 + 4*int(binary.BigEndian.Uint16(b[n+2:]))
	}
	if len(b) < n {
		return false
	}
	if b[0]&0x20 != 0 {
		padding := int(b[len(b)-1])
		return padding > 0 && padding <= len(b)-n
	}
	return true
}

// renumbering is how the numbers of a stream on a trunk follow from its source.
type renumbering struct {
	source uint32 // the SSRC the packets come with
	offset int64  // extended sequence number sent = that of the source + offset
}

// numbering gives the packets of changing sources one unbroken sequence in
// which no number occurs twice, however the sources behave: the SRTP index is
// made of it, and with an index used twice a cipher in counter mode gives both
// packets away (RFC 3711 §9.1), GCM even its key (RFC 7714 §8.4).
type numbering struct {
	started bool
	source  uint32
	offset  int64
	highest int64  // extended, as sent
	window  uint64 // bit i: highest-i was sent
	bad     int32  // the number that would confirm a jump; -1 none
}

// newNumbering starts at random below 2^15, so that loss of the first packets
// cannot confuse the receiver's roll-over counter (RFC 3711 §3.3.1), and with
// room below for packets that come late.
func newNumbering(random uint32) numbering {
	return numbering{highest: int64(random%(1<<15-2*maxMisorder)) + 2*maxMisorder, bad: -1}
}

// next returns the number to send a packet with, whether it starts a source
// anew, and false for a packet that must not be sent.
func (n *numbering) next(source uint32, seq uint16) (out uint16, fresh, ok bool) {
	if !n.started || source != n.source {
		return n.restart(source, seq), true, true
	}
	d := int(int16(seq - uint16(n.highest-n.offset)))
	if d > maxDropout || d < -maxMisorder {
		// "two sequential packets -- assume that the other side restarted" (RFC 3550 A.1)
		if int32(seq) == n.bad {
			return n.restart(source, seq), true, true
		}
		n.bad = int32(seq + 1)
		return 0, false, false
	}
	n.bad = -1
	if d > 0 {
		n.highest += int64(d)
		n.window = n.window<<d | 1 // Go: a shift of 64 or more leaves nothing
		return uint16(n.highest), false, true
	}
	if d == -maxMisorder || n.window&(1<<-d) != 0 {
		return 0, false, false
	}
	n.window |= 1 << -d
	return uint16(n.highest + int64(d)), false, true
}

func (n *numbering) restart(source uint32, seq uint16) uint16 {
	n.started, n.source, n.bad = true, source, -1
	n.highest++
	n.window = ^uint64(0) // what was sent of the old source stays sent
	n.offset = n.highest - int64(seq)
	return uint16(n.highest)
}
