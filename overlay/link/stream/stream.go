// Package stream moves frames (RFC 6940 §6.6.2) over one reliable connection, TLS over TCP in a kit (§6.6.5): it finds where
// they begin and end, waits for whoever does not read within a bound, and says goodbye in order. What the frames mean is
// overlay/link/sr's business.
//
// Write, Message and Close may be called from any goroutine and the first two never block; Read and Send belong to one
// goroutine each.
package stream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"fieldkit/overlay/link/sr"
	"fieldkit/overlay/wire"
)

// writeTimeout ends a link whose far end takes nothing: TCP itself would try for a quarter of an hour.
const writeTimeout = 30 * time.Second

// Frames are the frames of one connection.
type Frames struct {
	conn  net.Conn
	in    *bufio.Reader
	max   int // bytes of a message
	limit int // bytes that may wait

	mu       sync.Mutex // a leaf
	queue    []byte
	sequence uint32 // of the next message of an application
	closed   bool

	wake chan struct{}
	gone chan struct{} // the writer has ended
	done chan struct{} // Close was called
	once sync.Once
}

// New moves frames over c, a TLS connection in a kit. A message may have most bytes; queue bytes may wait to be sent.
func New(c net.Conn, most, queue int) *Frames {
	return &Frames{
		conn: c, in: bufio.NewReaderSize(c, 16<<10), max: most, limit: queue,
		wake: make(chan struct{}, 1), gone: make(chan struct{}), done: make(chan struct{}),
	}
}

// TooLongError is a frame above the limit; it wraps sr.ErrTooLarge. The stream cannot be read on.
type TooLongError struct{ Head []byte } // the first bytes of its message

func (*TooLongError) Error() string { return sr.ErrTooLarge.Error() }

// Unwrap is sr.ErrTooLarge.
func (*TooLongError) Unwrap() error { return sr.ErrTooLarge }

// maxHead is how much of a message that is too large is read to answer it: "this error can be sent and the session closed
// before the peer receives the complete message" (RFC 6940 §6.6).
const maxHead = 2048

// MaxRecord is what Read may need room for, in bytes.
func (s *Frames) MaxRecord() int { return s.max + wire.FrameDataOverhead }

// Read returns one whole frame. It is called by one goroutine, with room for MaxRecord bytes. io.EOF is the far end's goodbye.
func (s *Frames) Read(b []byte) (int, error) {
	kind, err := s.in.Peek(1)
	if err != nil {
		return 0, err
	}
	size := wire.FrameAckLen
	switch kind[0] {
	case wire.FrameAck:
	case wire.FrameData:
		head, err := s.in.Peek(wire.FrameDataOverhead)
		if err != nil {
			return 0, noEOF(err)
		}
		n := int(binary.BigEndian.Uint32(head[4:]) & 0xffffff)
		if n > s.max {
			// Whoever says much and then sends nothing is not waited for.
			_ = s.conn.SetReadDeadline(time.Now().Add(time.Second))
			start, _ := s.in.Peek(wire.FrameDataOverhead + min(n, maxHead))
			return 0, &TooLongError{append([]byte(nil), start[min(len(start), wire.FrameDataOverhead):]...)}
		}
		size = wire.FrameDataOverhead + n
	default:
		return 0, fmt.Errorf("%w: %w: frame of type %d", sr.ErrFailed, wire.ErrMalformed, kind[0])
	}
	n, err := io.ReadFull(s.in, b[:size])
	return n, noEOF(err)
}

// noEOF is for what ends in the middle of a frame: that is no goodbye.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Write queues a frame. It never blocks: sr.ErrQueueFull says that the far end does not read.
func (s *Frames) Write(b []byte) (int, error) {
	s.mu.Lock()
	err := s.room(len(b), s.limit)
	if err == nil {
		s.queue = append(s.queue, b...)
	}
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	s.signal()
	return len(b), nil
}

// Message queues a message in a DATA frame with the next sequence number, unless more than limit bytes would then wait.
// Its messages and Write's frames are not to be mixed on one connection.
func (s *Frames) Message(b []byte, limit int) error {
	s.mu.Lock()
	err := s.room(wire.FrameDataOverhead+len(b), min(limit, s.limit))
	if err == nil {
		s.queue = append(s.queue, wire.FrameData)
		s.queue = binary.BigEndian.AppendUint32(s.queue, s.sequence)
		s.queue = append(s.queue, byte(len(b)>>16), byte(len(b)>>8), byte(len(b)))
		s.queue = append(s.queue, b...)
		s.sequence++
	}
	s.mu.Unlock()
	if err == nil {
		s.signal()
	}
	return err
}

// room is called with mu held.
func (s *Frames) room(n, limit int) error {
	switch {
	case s.closed:
		return sr.ErrClosed
	case len(s.queue)+n > limit:
		return sr.ErrQueueFull
	}
	return nil
}

func (s *Frames) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Send moves what is queued to the far end, as much as there is in one piece, until the stream is closed, and returns why
// it cannot go on. A goroutine of its own calls it once.
func (s *Frames) Send() error {
	defer close(s.gone)
	var spare []byte
	for {
		s.mu.Lock()
		b, closed := s.queue, s.closed
		s.queue = spare[:0]
		s.mu.Unlock()
		switch {
		case len(b) > 0:
			if err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
				return err
			}
			if _, err := s.conn.Write(b); err != nil {
				return err
			}
			spare = b
			if cap(spare) > 64<<10 { // a burst must not be paid for ever after
				spare = nil
			}
			continue
		case closed:
			return nil
		}
		spare = b
		select {
		case <-s.wake:
		case <-s.done:
		}
	}
}

// Close sends what is queued, if it goes within a second, and says goodbye.
func (s *Frames) Close() error {
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		close(s.done)
		timer := time.NewTimer(time.Second)
		defer timer.Stop()
		select {
		case <-s.gone:
		case <-timer.C:
		}
	})
	return s.conn.Close()
}

// Addrs are the addresses of the connection.
func (s *Frames) Addrs() (local, remote net.Addr) { return s.conn.LocalAddr(), s.conn.RemoteAddr() }

// Conn is what the frames move over.
func (s *Frames) Conn() net.Conn { return s.conn }
