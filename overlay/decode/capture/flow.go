package capture

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/gopacket/gopacket/layers"

	"fieldkit/overlay/wire"
)

// Sizes of record headers, and the most a record may hold (RFC 5246 §6.2.3).
const (
	tlsHeader  = 5
	dtlsHeader = 13
	maxRecord  = 1<<14 + 2048
)

// Bounds on what a TCP stream makes a Reader keep.
const (
	maxAhead     = 1 << 20 // bytes that came before what precedes them
	maxAheadSegs = 256
	maxHandshake = 1 << 16 // bytes of handshake messages up to the hello
	maxMessage   = 1 << 20 // bytes of a message; overlays have some thousand (RFC 6940 §11.1)
)

// isMessage reports whether b begins with the token.
func isMessage(b []byte) bool { return len(b) >= 4 && binary.BigEndian.Uint32(b) == wire.Token }

// isFrameType reports whether b begins with the type of a frame.
func isFrameType(b []byte) bool { return b[0] == wire.FrameData || b[0] == wire.FrameAck }

// datagram reads the payload of a UDP packet, and what TURN carries in one.
func (r *Reader) datagram(f *flow, dir int, b []byte) {
	if !r.relayed(f, dir, b) {
		r.payload(f, dir, b)
	}
}

// payload reads DTLS records, or what is RELOAD in plain. On RELOAD's own port whatever begins like a frame is taken for
// one, so that a malformed one is seen; elsewhere it must look like one, since the same first octets begin RTP packets.
func (r *Reader) payload(f *flow, dir int, b []byte) {
	const dtlsVersions = 0xfe
	data := b[0] == wire.FrameData && len(b) >= wire.FrameDataOverhead && isMessage(b[wire.FrameDataOverhead:])
	ack := b[0] == wire.FrameAck && len(b) == wire.FrameAckLen && f.reload
	own := f.key.a.Port() == wire.DefaultPort || f.key.b.Port() == wire.DefaultPort
	switch {
	case len(b) >= dtlsHeader && b[0] >= changeCipherSpec && b[0] <= applicationData && b[1] == dtlsVersions:
		r.records(f, dir, b)
	case isMessage(b), data, ack, own && isFrameType(b):
		f.reload = f.reload || data
		r.emit(f, dir, "udp", slices.Clone(b), nil)
	default:
		r.stats.Other++
	}
}

// records reads the DTLS records of a datagram (RFC 6347 §4.1).
func (r *Reader) records(f *flow, dir int, b []byte) {
	for len(b) >= dtlsHeader {
		typ, version := b[0], binary.BigEndian.Uint16(b[1:])
		sequence := binary.BigEndian.Uint64(b[3:]) // epoch and sequence number
		size := int(binary.BigEndian.Uint16(b[11:]))
		if size > len(b)-dtlsHeader {
			r.stats.Broken++
			return
		}
		fragment := b[dtlsHeader:][:size]
		b = b[dtlsHeader+size:]
		switch epoch := sequence >> 48; {
		case epoch == 0 && typ == handshake:
			r.handshakes(f, dir, fragment)
		case epoch > 0 && typ == applicationData:
			r.protected(f, dir, sequence, version, fragment)
		}
	}
}

// handshakes looks for hellos among the handshake messages of a DTLS record (RFC 6347 §4.2.2).
func (r *Reader) handshakes(f *flow, dir int, b []byte) {
	const header = 12
	for len(b) >= header {
		offset, size := uint24(b[6:]), uint24(b[9:])
		if size > len(b)-header {
			return
		}
		if offset == 0 && (b[0] == clientHello || b[0] == serverHello) {
			r.hello(f, dir, b[0], b[header:][:size])
		}
		b = b[header+size:]
	}
}

func uint24(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }

// protected opens an application data record of DTLS.
func (r *Reader) protected(f *flow, dir int, sequence uint64, version uint16, fragment []byte) {
	locked := true
	for _, s := range f.sessions {
		if s == nil || s.openers[dir] == nil {
			continue
		}
		locked = false
		plain, ok := s.openers[dir].open(sequence, applicationData, version, fragment)
		if !ok {
			continue
		}
		// What is not a frame is SIP or other application data: an AppAttach connection has no frames (RFC 6940 §6.5.2).
		if len(plain) == 0 || !f.reload && !isFrameType(plain) {
			r.stats.Other++
			return
		}
		f.reload = true
		r.emit(f, dir, "dtls", plain, nil)
		return
	}
	if locked {
		r.stats.Locked++
	} else {
		r.stats.Failed++
	}
}

// stream is one way of a TCP connection.
type stream struct {
	begun  bool
	dead   bool   // nothing more is to be had from it
	next   uint32 // sequence number
	ahead  []segment
	held   int    // bytes in ahead
	buf    []byte // in order, not read yet
	tls    bool
	hello  []byte // handshake messages, until the hello was found among them
	greets bool   // it was
	sealed bool   // after ChangeCipherSpec
	sealNo uint64 // sequence number of the next protected record
	frames []byte // opened, not a whole frame yet
	framed bool   // a frame was seen
}

type segment struct {
	seq  uint32
	data []byte
}

// segment puts the payload of a TCP packet in its place.
func (r *Reader) segment(f *flow, dir int, t *layers.TCP) {
	s := &f.dirs[dir]
	seq := t.Seq
	if t.SYN {
		seq++
	}
	if !s.begun {
		s.begun, s.next = true, seq
	}
	if s.dead || len(t.Payload) == 0 {
		return
	}
	if s.held += len(t.Payload); len(s.ahead) == maxAheadSegs || s.held > maxAhead {
		r.stats.Broken++
		s.kill()
		return
	}
	s.ahead = append(s.ahead, segment{seq, slices.Clone(t.Payload)})
	for s.advance() {
		r.consume(f, dir)
	}
}

// advance moves what comes next from ahead to buf.
func (s *stream) advance() bool {
	for i, a := range s.ahead {
		skip := int32(s.next - a.seq) // how much of it was there before
		if skip < 0 {
			continue
		}
		s.ahead = slices.Delete(s.ahead, i, i+1)
		s.held -= len(a.data)
		if fresh := a.data[min(int(skip), len(a.data)):]; len(fresh) > 0 {
			s.buf = append(s.buf, fresh...)
			s.next += uint32(len(fresh))
		}
		return true
	}
	return false
}

func (s *stream) kill() { *s = stream{begun: true, dead: true} }

// consume reads what a stream has in order.
func (r *Reader) consume(f *flow, dir int) {
	s := &f.dirs[dir]
	if s.dead || len(s.buf) == 0 {
		return
	}
	if !s.tls && !s.framed {
		switch {
		case s.buf[0] == handshake:
			s.tls = true
		case s.buf[0] == wire.FrameData:
			if len(s.buf) < wire.FrameDataOverhead+4 {
				return
			}
			if !isMessage(s.buf[wire.FrameDataOverhead:]) {
				r.stats.Other++
				s.kill()
				return
			}
		case s.buf[0] != wire.FrameAck || !f.dirs[1-dir].framed:
			r.stats.Other++
			s.kill()
			return
		}
	}
	if !s.tls {
		s.frames, s.buf = append(s.frames, s.buf...), nil
		r.deframe(f, dir, "tcp")
		return
	}
	for len(s.buf) >= tlsHeader && !s.dead {
		typ, version := s.buf[0], binary.BigEndian.Uint16(s.buf[1:])
		size := int(binary.BigEndian.Uint16(s.buf[3:]))
		if size > maxRecord || typ < changeCipherSpec || typ > applicationData {
			r.stats.Broken++
			s.kill()
			return
		}
		if len(s.buf) < tlsHeader+size {
			return
		}
		fragment := s.buf[tlsHeader:][:size]
		s.buf = s.buf[tlsHeader+size:]
		r.record(f, dir, typ, version, fragment)
	}
}

// record reads a TLS record.
func (r *Reader) record(f *flow, dir int, typ byte, version uint16, fragment []byte) {
	s := &f.dirs[dir]
	switch {
	case typ == changeCipherSpec:
		s.sealed, s.sealNo = true, 0
	case !s.sealed && typ == handshake && !s.greets:
		if s.hello = append(s.hello, fragment...); len(s.hello) > maxHandshake {
			r.stats.Broken++
			s.kill()
			return
		}
		const header = 4
		if len(s.hello) < header || len(s.hello) < header+uint24(s.hello[1:]) {
			return
		}
		s.greets = true
		r.hello(f, dir, s.hello[0], s.hello[header:])
		s.hello = nil
	case s.sealed:
		session := f.sessions[0]
		if session == nil || session.openers[dir] == nil {
			r.stats.Locked++
			return
		}
		plain, ok := session.openers[dir].open(s.sealNo, typ, version, fragment)
		s.sealNo++
		if !ok {
			r.stats.Failed++
			return
		}
		if typ != applicationData || len(plain) == 0 {
			return
		}
		if !s.framed && !isFrameType(plain) {
			r.stats.Other++
			s.kill()
			return
		}
		s.frames = append(s.frames, plain...)
		r.deframe(f, dir, "tls")
	}
}

// deframe cuts the frames off the front of a stream (RFC 6940 §6.6.2).
func (r *Reader) deframe(f *flow, dir int, link string) {
	s := &f.dirs[dir]
	s.framed, f.reload = true, true
	for {
		_, n, err := wire.NextFrame(s.frames, maxMessage)
		if err != nil {
			fault := new(wire.SyntaxError)
			if !errors.As(err, &fault) {
				fault = &wire.SyntaxError{Offset: 5, Field: "frame.message", Reason: "longer than what is read at once"}
			}
			fault.Reason += "; the stream is not read on"
			r.emit(f, dir, link, nil, fault)
			r.stats.Broken++
			s.kill()
			return
		}
		if n == 0 {
			return
		}
		r.emit(f, dir, link, slices.Clone(s.frames[:n]), nil)
		s.frames = s.frames[n:]
	}
}
