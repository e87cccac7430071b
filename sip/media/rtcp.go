package media

import "encoding/binary"

// RTCP packet types and feedback formats that cross a trunk.
const (
	typeSR    = 200
	typeRR    = 201
	typeSDES  = 202
	typeRTPFB = 205
	typePSFB  = 206

	formatNACK = 1 // RFC 4585 §6.2.1
	formatPLI  = 1 // RFC 4585 §6.3.1

	senderInfo  = 20 // bytes (RFC 3550 §6.4.1)
	reportBlock = 24
	sdesCNAME   = 1
)

// nextRTCP takes the first packet of a compound apart from the rest; false when
// what is there is not one.
func nextRTCP(b []byte) (packet, rest []byte, ok bool) {
	if len(b) < 8 || b[0]>>6 != 2 || b[1] < 192 || b[1] > 223 {
		return nil, nil, false
	}
	n := 4 * (1 + int(binary.BigEndian.Uint16(b[2:])))
	if n < 8 || n > len(b) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

// validRTCP checks the headers of a compound packet (RFC 3550 Appendix A.2).
// Reduced-size RTCP (RFC 5506) need not start with a report.
func validRTCP(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	for len(b) > 0 {
		var ok bool
		var p []byte
		if p, b, ok = nextRTCP(b); !ok {
			return false
		}
		if p[0]&0x20 != 0 && len(b) != 0 {
			return false // "padding may be required on only one individual packet", the last (§6.4.1)
		}
	}
	return true
}

// blocks returns the report blocks of an SR or RR, nil of anything else.
func blocks(p []byte) []byte {
	at := 8
	switch p[1] {
	case typeSR:
		at += senderInfo
	case typeRR:
	default:
		return nil
	}
	n := int(p[0]&0x1f) * reportBlock
	if len(p) < at+n {
		return nil
	}
	return p[at : at+n]
}

// ssrcMap maps what RTCP that came in on one leg says to what the other leg's
// side knows it by.
type ssrcMap struct {
	sent     *renumbering // the leg it came from is a trunk: how what we send there is numbered; source unknown if nil
	sentSSRC uint32
	fromTrunk,
	toTrunk bool
	known uint32 // to a trunk: the SSRC the far kit sends, the only one it may get reports about
}

func mapOf(from, to *Leg) ssrcMap {
	var m ssrcMap
	if from.trunk != nil {
		m.fromTrunk, m.sentSSRC, m.sent = true, from.trunk.tx.ssrc, from.trunk.tx.source.Load()
	}
	if to.trunk != nil {
		m.toTrunk = true
		if r := to.trunk.rx.Load(); r != nil {
			m.known = r.ssrc
		}
	}
	return m
}

// media maps the SSRC of a stream that is reported on, and gives what was added
// to the sequence numbers of that stream on the way.
func (m ssrcMap) media(ssrc uint32) (mapped uint32, offset int64, ok bool) {
	if m.fromTrunk {
		if ssrc != m.sentSSRC || m.sent == nil {
			return 0, 0, false
		}
		ssrc, offset = m.sent.source, m.sent.offset
	}
	if m.toTrunk && ssrc != m.known {
		return 0, 0, false
	}
	return ssrc, offset, true
}

// translate appends to dst what of a valid compound packet crosses between two
// legs of which at least one is a trunk. Everything is bounded by len(b) and
// the SDES, and what does not fit into dst's capacity is left out.
func translate(dst, b []byte, from, to *Leg) []byte {
	m := mapOf(from, to)
	var cname string
	if from.trunk != nil {
		if r := from.trunk.rx.Load(); r != nil {
			cname = r.cname
		}
	}
	if to.trunk != nil {
		cname = to.trunk.session.cname
	}
	described := false
	for len(b) > 0 {
		var p []byte
		var ok bool
		if p, b, ok = nextRTCP(b); !ok {
			break
		}
		sender := binary.BigEndian.Uint32(p[4:])
		if from.trunk != nil {
			if r := from.trunk.rx.Load(); r == nil || r.ssrc != sender {
				continue // a far kit speaks for the stream it declared only
			}
		}
		if to.trunk != nil {
			sender = to.trunk.tx.ssrc
		}
		if len(dst)+len(p) > cap(dst) {
			break
		}
		switch p[1] {
		case typeSR, typeRR:
			dst = appendReport(dst, p, sender, m)
			if !described {
				described = true
				dst = appendSDES(dst, sender, cname)
			}
		case typeRTPFB, typePSFB:
			dst = appendFeedback(dst, p, sender, m)
		}
	}
	return dst
}

// appendReport copies an SR or RR with its SSRCs mapped and without the blocks
// that are about streams of another side, and without profile extensions.
func appendReport(dst, p []byte, sender uint32, m ssrcMap) []byte {
	start, info := len(dst), 0
	if p[1] == typeSR {
		info = senderInfo
	}
	if len(p) < 8+info {
		return dst
	}
	dst = append(dst, 2<<6, p[1], 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, sender)
	dst = append(dst, p[8:8+info]...)
	count := byte(0)
	for bs := blocks(p); len(bs) >= reportBlock; bs = bs[reportBlock:] {
		ssrc, offset, ok := m.media(binary.BigEndian.Uint32(bs))
		if !ok {
			continue
		}
		at := len(dst)
		dst = append(dst, bs[:reportBlock]...)
		binary.BigEndian.PutUint32(dst[at:], ssrc)
		highest := int64(binary.BigEndian.Uint32(dst[at+8:])) - offset
		binary.BigEndian.PutUint32(dst[at+8:], uint32(highest))
		count++
	}
	dst[start] |= count
	binary.BigEndian.PutUint16(dst[start+2:], uint16((len(dst)-start)/4-1))
	return dst
}

// appendSDES says the CNAME that every compound packet must carry (RFC 3550 §6.1).
func appendSDES(dst []byte, ssrc uint32, cname string) []byte {
	n := 8 + 2 + len(cname) + 1
	n += (4 - n%4) % 4
	if len(cname) == 0 || len(cname) > 255 || len(dst)+n > cap(dst) {
		return dst
	}
	start := len(dst)
	dst = append(dst, 2<<6|1, typeSDES, 0, byte(n/4-1))
	dst = binary.BigEndian.AppendUint32(dst, ssrc)
	dst = append(dst, sdesCNAME, byte(len(cname)))
	dst = append(dst, cname...)
	for len(dst) < start+n {
		dst = append(dst, 0)
	}
	return dst
}

// appendFeedback copies a NACK or PLI with its SSRCs mapped; a NACK names
// sequence numbers, which follow the renumbering. Other formats name things
// the relay does not know how to map.
func appendFeedback(dst, p []byte, sender uint32, m ssrcMap) []byte {
	format := p[0] & 0x1f
	nack := p[1] == typeRTPFB && format == formatNACK
	if !nack && (p[1] != typePSFB || format != formatPLI) || len(p) < 12 || p[0]&0x20 != 0 {
		return dst
	}
	ssrc, offset, ok := m.media(binary.BigEndian.Uint32(p[8:]))
	if !ok {
		return dst
	}
	start := len(dst)
	dst = append(dst, p...)
	binary.BigEndian.PutUint32(dst[start+4:], sender)
	binary.BigEndian.PutUint32(dst[start+8:], ssrc)
	if nack {
		for at := start + 12; at+4 <= len(dst); at += 4 {
			pid := int64(binary.BigEndian.Uint16(dst[at:])) - offset
			binary.BigEndian.PutUint16(dst[at:], uint16(pid))
		}
	}
	return dst
}

// take keeps the report block about what the relay sent out of a leg. On a
// handset's leg there is one stream; on a trunk it must name ours.
func (r *report) take(b []byte, trunk *trunkEnd, rate uint32) {
	for len(b) > 0 {
		var p []byte
		var ok bool
		if p, b, ok = nextRTCP(b); !ok {
			return
		}
		for bs := blocks(p); len(bs) >= reportBlock; bs = bs[reportBlock:] {
			if trunk != nil && binary.BigEndian.Uint32(bs) != trunk.tx.ssrc {
				continue
			}
			r.keep(bs, rate)
		}
	}
}
