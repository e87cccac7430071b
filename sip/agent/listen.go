package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"fieldkit/sip/sipmsg"
)

const (
	maxDatagram  = sipmsg.MaxMessage
	streamQueue  = 64
	streamBytes  = 1 << 18          // queued for a connection that does not read
	streamIdle   = 65 * time.Minute // longer than a registration may last
	messageTime  = 20 * time.Second // for one message to arrive complete
	writeTime    = 10 * time.Second // for a write to be taken
	udpErrorWait = 50 * time.Millisecond
)

// readUDP hands datagrams of handsets to the loop in the order they came.
func (a *Agent) readUDP(ctx context.Context, conn *net.UDPConn) error {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil && ctx.Err() != nil {
			return nil //nolint:nilerr // the socket was closed because ctx ended
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("handset socket: %w", err)
			}
			// An ICMP error of an earlier datagram: not ours to stop for, but not
			// a reason to spin either.
			a.count.socketErrors.Add(1)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(udpErrorWait):
			}
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		a.datagram(&flow{udp: conn, remote: from}, buf[:n])
	}
}

// datagram judges one datagram of a handset and posts it.
func (a *Agent) datagram(f *flow, b []byte) {
	if !a.admission.near(f.remote.Addr()) {
		a.count.foreign.Add(1)
		return
	}
	// Keep-alives: CRLF (RFC 5626 §4.4.1 is for streams, but phones send it on
	// UDP), nothing at all, or STUN, which begins with two zero bits.
	if len(bytes.Trim(b, "\r\n\x00 \t")) == 0 || b[0] < 4 {
		a.count.keepalives.Add(1)
		return
	}
	b = bytes.TrimLeft(b, "\r\n")
	if msg := a.screen(f, b); msg != nil {
		select {
		case a.in <- received{f, msg}:
		default:
			a.count.dropped.Add(1) // the loop is behind; UDP repeats
		}
	}
}

// screen is admission and the strict layer, for all transports of handsets.
func (a *Agent) screen(f *flow, b []byte) sip.Message {
	switch a.admission.admit(time.Now(), f.remote.Addr(), b) {
	case overload:
		a.count.overload.Add(1)
		a.answer(f, b, 503, "Service Unavailable", "Retry-After: 5")
		return nil
	case discarded:
		a.count.overload.Add(1)
		return nil
	}
	return a.parse(f, b)
}

func (a *Agent) parse(f *flow, b []byte) sip.Message {
	msg, fault := sipmsg.Parse(b)
	if fault != nil {
		a.count.malformed.Add(1)
		a.answer(f, b, fault.Status, fault.Reason)
		return nil
	}
	a.count.received.Add(1)
	msg.SetTransport(f.network())
	msg.SetSource(f.remote.String())
	return msg
}

// answer responds without state.
func (a *Agent) answer(f *flow, b []byte, status int, reason string, extra ...string) {
	host, port := f.remote.Addr().String(), strconv.Itoa(int(f.remote.Port()))
	res := sipmsg.Answer(b, status, reason, a.statelessTag(b), host, port, extra...)
	if res == nil {
		a.count.unanswerable.Add(1)
		return
	}
	if err := f.send(res); err != nil {
		a.count.sendErrors.Add(1)
	}
}

// stream is a TCP connection of a handset.
type stream struct {
	id   uint64
	conn net.Conn
	out  chan []byte
	done chan struct{}
	once sync.Once

	mu     sync.Mutex
	queued int
}

// send never blocks: a phone that does not read loses its connection.
func (s *stream) send(b []byte) error {
	s.mu.Lock()
	over := s.queued+len(b) > streamBytes
	if !over {
		s.queued += len(b)
	}
	s.mu.Unlock()
	if !over {
		select {
		case <-s.done:
			return errFlowClosed
		case s.out <- bytes.Clone(b):
			return nil
		default:
		}
	}
	s.close()
	return fmt.Errorf("write queue of %s is full: %w", s.conn.RemoteAddr(), errFlowClosed)
}

func (s *stream) close() {
	s.once.Do(func() {
		close(s.done)
		_ = s.conn.Close()
	})
}

func (s *stream) write() {
	defer s.close()
	for {
		select {
		case <-s.done:
			return
		case b := <-s.out:
			_ = s.conn.SetWriteDeadline(time.Now().Add(writeTime))
			_, err := s.conn.Write(b)
			s.mu.Lock()
			s.queued -= len(b)
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}
}

// acceptTCP serves connections until the listener closes.
func (a *Agent) acceptTCP(ctx context.Context, l net.Listener) error {
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("handset listener: %w", err)
			}
			a.count.socketErrors.Add(1) // out of descriptors: wait for some to close
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second):
			}
			continue
		}
		ap, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		addr := ap.Addr().Unmap()
		if err != nil || !a.admission.near(addr) || !a.admission.connect(time.Now(), addr) {
			a.count.foreign.Add(1)
			_ = conn.Close()
			continue
		}
		s := &stream{id: a.nextConn.Add(1), conn: conn, out: make(chan []byte, streamQueue), done: make(chan struct{})}
		f := &flow{stream: s, remote: netip.AddrPortFrom(addr, ap.Port())}
		a.tasks.Go(s.write)
		a.tasks.Go(func() { a.readTCP(ctx, f) })
	}
}

// readTCP cuts a stream into messages.
func (a *Agent) readTCP(ctx context.Context, f *flow) {
	s := f.stream
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	defer a.admission.disconnect(f.remote.Addr())
	defer s.close()
	a.post(ctx, streamUp{f})
	defer a.post(ctx, streamDown{s})
	buf := make([]byte, 0, 4096)
	for {
		wait := streamIdle
		if len(buf) > 0 {
			wait = messageTime
		}
		_ = s.conn.SetReadDeadline(time.Now().Add(wait))
		if cap(buf)-len(buf) < 2048 {
			buf = append(make([]byte, 0, max(4096, 2*len(buf))), buf...)
		}
		n, err := s.conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if buf = a.cut(ctx, f, buf); buf == nil {
			return
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
				a.count.socketErrors.Add(1)
			}
			return
		}
	}
}

// cut posts the complete messages of buf and returns the rest, nil when the
// connection cannot go on.
func (a *Agent) cut(ctx context.Context, f *flow, buf []byte) []byte {
	for len(buf) > 0 {
		if rest, n := leadingLines(buf); n > 0 {
			// RFC 5626 §4.4.1: CRLF CRLF is a ping, answered by one CRLF.
			if n >= 2 {
				a.count.keepalives.Add(1)
				_ = f.send([]byte("\r\n"))
			}
			buf = rest
			continue
		}
		n, err := sipmsg.Frame(buf)
		if errors.Is(err, sipmsg.ErrIncomplete) {
			return buf
		}
		if err != nil {
			a.count.malformed.Add(1)
			a.answer(f, buf, 400, "Bad Framing")
			return nil
		}
		if msg := a.screen(f, buf[:n]); msg != nil && !a.post(ctx, received{f, msg}) {
			return nil
		}
		buf = buf[n:]
	}
	return buf[:0]
}

// leadingLines removes the empty lines before a start line (RFC 3261 §7.5).
func leadingLines(b []byte) ([]byte, int) {
	n := 0
	for bytes.HasPrefix(b, []byte("\r\n")) {
		b = b[2:]
		n++
	}
	return b, n
}
