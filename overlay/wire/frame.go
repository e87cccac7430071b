package wire

import (
	"errors"
	"fmt"
	"strconv"
)

// Frame types of RFC 6940 §6.6.2.
const (
	FrameData uint8 = 128
	FrameAck  uint8 = 129
)

// Sizes of frames in bytes.
const (
	FrameDataOverhead = 8 // of a DATA, beside its message
	FrameAckLen       = 9 // of an ACK
)

// ErrTooLarge is the failure of NextFrame and of Reassembler.Add on a message above the limit. On a
// frame, the receiver answers with Error_Message_Too_Large and closes the link (RFC 6940 §6.6).
var ErrTooLarge = errors.New("RELOAD message above the size limit")

// Frame is one framing unit of an overlay link (RFC 6940 §6.6.2).
type Frame struct {
	Type     uint8
	Sequence uint32 // of the DATA, or acknowledged by the ACK
	Received uint32 // ACK: mask of the frames before Sequence; bit N−M stands for frame M, literally read
	Message  []byte // DATA; at most 2^24-1 bytes
}

// AppendBinary appends the frame. It fails on a type that is neither DATA nor ACK.
func (f Frame) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.u8(f.Type)
	w.u32(f.Sequence)
	switch f.Type {
	case FrameData:
		w.opaque(3, f.Message, "message")
	case FrameAck:
		w.u32(f.Received)
	default:
		w.fail("unknown type")
	}
	return w.end(b, "frame")
}

// ParseFrame reads a frame that fills a datagram.
func ParseFrame(datagram []byte) (Frame, error) {
	r := newReader(datagram)
	f := Frame{Type: r.u8("type"), Sequence: r.u32("sequence")}
	switch f.Type {
	case FrameData:
		f.Message = r.opaque(3, "message")
	case FrameAck:
		f.Received = r.u32("received")
	default:
		r.refuse(5, "type", "unknown type "+strconv.Itoa(int(f.Type)))
	}
	return finish(&r, f, "frame")
}

// NextFrame reads the frame that a stream's received bytes begin with, and tells how many bytes it
// took: 0 without an error when it is not whole yet. A message of more than maxMessage bytes is
// ErrTooLarge as soon as its length is seen, with Sequence set; anything that is no frame is
// ErrMalformed. After an error the stream cannot be read on.
func NextFrame(stream []byte, maxMessage int) (f Frame, size int, err error) {
	if len(stream) == 0 {
		return Frame{}, 0, nil
	}
	switch stream[0] {
	case FrameData:
		if len(stream) < FrameDataOverhead {
			return Frame{}, 0, nil
		}
		r := newReader(stream[1:])
		f = Frame{Type: FrameData, Sequence: r.u32("sequence")}
		n := int(r.uint(3, "message"))
		if n > maxMessage {
			return f, 0, fmt.Errorf("%w: %d bytes", ErrTooLarge, n)
		}
		size = FrameDataOverhead + n
	case FrameAck:
		size = FrameAckLen
	default:
		return Frame{}, 0, &SyntaxError{Field: "frame.type", Reason: "unknown type " + strconv.Itoa(int(stream[0]))}
	}
	if len(stream) < size {
		return Frame{}, 0, nil
	}
	f, err = ParseFrame(stream[:size])
	return f, size, err
}
