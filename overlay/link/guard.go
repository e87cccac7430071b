package link

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/transport/v2/packetio"
)

// DTLS record layer (RFC 6347 §4.1).
const (
	recordHeaderLen = 13

	contentChangeCipherSpec = 20
	contentAlert            = 21
	contentHandshake        = 22
	contentApplicationData  = 23

	version10 = 0xfeff
	version12 = 0xfefd

	handshakeClientHello        = 1
	handshakeHelloVerifyRequest = 3
	handshakeServerKeyExchange  = 12
	handshakeClientKeyExchange  = 16
	handshakeHeaderLen          = 12

	// After the handshake the only handshake record that has a meaning is the far end's Finished, sent again
	// because our last flight was lost. It is protected, short, and comes a few times at most.
	maxLateHandshake     = 32
	maxLateHandshakeSize = 256
)

const (
	guardPackets = 256
	guardBytes   = 256 << 10
)

// guard is the net.Conn that DTLS runs on: it stands between the datagrams of one far end and the library, and
// lets through only records the library may safely act on. It also gives reads a deadline, which ice.Conn has not:
// without one a handshake with a silent peer never ends.
//
// deliver is called by the one goroutine that receives; Read by the library.
type guard struct {
	in          *packetio.Buffer
	write       func([]byte) (int, error)
	local       net.Addr
	remote      net.Addr
	established atomic.Bool
	parting     atomic.Bool // the goodbye is being said
	late        int         // protected handshake records since established
	alert       atomic.Uint32
	psk         bool                // the handshake is one with a shared secret
	verify      func(cookie []byte) // told of every HelloVerifyRequest before the handshake is done
	stats       *guardStats

	mu     sync.Mutex
	closed bool
	unplug func() error // releases what is underneath; called once
}

type guardStats struct {
	recordsDropped, datagramsDropped, stunDropped, mediaDropped, overflow atomic.Uint64
}

func newGuard(write func([]byte) (int, error), unplug func() error, local, remote net.Addr, stats *guardStats) *guard {
	g := &guard{in: packetio.NewBuffer(), write: write, unplug: unplug, local: local, remote: remote, stats: stats}
	g.in.SetLimitCount(guardPackets)
	g.in.SetLimitSize(guardBytes)
	return g
}

// newGuard is a guard by the transport's rules.
func (t *Transport) newGuard(write func([]byte) (int, error), unplug func() error, local, remote net.Addr) *guard {
	g := newGuard(write, unplug, local, remote, &t.stats.guard)
	g.psk = t.cfg.SharedSecret != nil
	return g
}

// deliver filters one received datagram in place and queues what is left of it.
func (g *guard) deliver(b []byte) {
	if len(b) > maxDatagram {
		g.stats.datagramsDropped.Add(1)
		return
	}
	if b = g.filter(b); len(b) == 0 {
		return
	}
	if _, err := g.in.Write(b); err != nil && errors.Is(err, packetio.ErrFull) {
		g.stats.overflow.Add(1)
	}
}

// filter keeps the acceptable records of a datagram (RFC 6347 §4.1.1: a datagram holds whole records).
func (g *guard) filter(b []byte) []byte {
	kept := 0
	for p := b; len(p) > 0; {
		if len(p) < recordHeaderLen {
			g.stats.recordsDropped.Add(1)
			break
		}
		n := recordHeaderLen + int(binary.BigEndian.Uint16(p[11:]))
		if n > len(p) {
			g.stats.recordsDropped.Add(1)
			break
		}
		if g.accept(p[:n]) {
			kept += copy(b[kept:], p[:n])
		} else {
			g.stats.recordsDropped.Add(1)
		}
		p = p[n:]
	}
	return b[:kept]
}

// accept judges one record. Anybody on the radio can send a plaintext record in a peer's name, so none may do
// more than take part in an unfinished handshake: a plaintext alert is never believed, nor is plaintext data,
// and once keys are in use no plaintext record is taken at all. A ChangeCipherSpec that claims a protected epoch
// would be read without authentication and move the library's epoch; nobody sends one.
func (g *guard) accept(r []byte) bool {
	version, epoch, body := binary.BigEndian.Uint16(r[1:]), binary.BigEndian.Uint16(r[3:]), r[recordHeaderLen:]
	if version != version12 && version != version10 || epoch > 1 {
		return false
	}
	if epoch == 0 {
		if g.established.Load() {
			return false
		}
		switch r[0] {
		case contentHandshake:
			g.watchCookie(body)
			return !g.psk || soundKeyExchange(body)
		case contentChangeCipherSpec:
			return true
		case contentAlert:
			if len(body) == 2 { // unproven, but the best explanation there is when the handshake times out
				g.alert.Store(uint32(body[1]) | 1<<8)
			}
		}
		return false
	}
	if len(body) < 16 { // shorter than the tag
		return false
	}
	switch r[0] {
	case contentApplicationData, contentAlert:
		return true
	case contentHandshake:
		if !g.established.Load() {
			return true
		}
		g.late++
		return g.late <= maxLateHandshake && len(r) <= maxLateHandshakeSize
	}
	return false
}

// soundKeyExchange reports whether the key exchange messages of a plaintext handshake record are ones the library may
// read. With ECDHE_PSK it takes the byte behind the identity without looking whether there is one: a message of four
// bytes would end the process (GO-2026-6165 lists that for the client and later major versions; the server has it, too).
// Fragments of them are refused: nobody has to split a message of a hundred bytes.
func soundKeyExchange(b []byte) bool {
	for len(b) >= handshakeHeaderLen {
		size := int(b[1])<<16 | int(b[2])<<8 | int(b[3])
		offset := int(b[6])<<16 | int(b[7])<<8 | int(b[8])
		part := int(b[9])<<16 | int(b[10])<<8 | int(b[11])
		kind := b[0]
		b = b[handshakeHeaderLen:]
		if kind == handshakeServerKeyExchange || kind == handshakeClientKeyExchange {
			if offset != 0 || part != size || size > len(b) || size < 2 {
				return false
			}
			if id := int(binary.BigEndian.Uint16(b)); 2+id >= size {
				return false
			}
		}
		b = b[min(size, len(b)):] // as the library goes on
	}
	return len(b) == 0
}

func (g *guard) watchCookie(b []byte) {
	if g.verify == nil || len(b) < handshakeHeaderLen+3 || b[0] != handshakeHelloVerifyRequest {
		return
	}
	if b = b[handshakeHeaderLen+2:]; int(b[0]) == len(b)-1 {
		g.verify(b[1:])
	}
}

// lastAlert is the description of a plaintext alert seen during the handshake.
func (g *guard) lastAlert() (description uint8, ok bool) {
	a := g.alert.Load()
	return uint8(a), a != 0
}

func (g *guard) Read(b []byte) (int, error)  { return g.in.Read(b) }
func (g *guard) Write(b []byte) (int, error) { return g.write(b) }
func (g *guard) LocalAddr() net.Addr         { return g.local }
func (g *guard) RemoteAddr() net.Addr        { return g.remote }

// SetReadDeadline ends reads, but not once the goodbye is being said: the library cancels its reader before it sends
// the goodbye, and a reader that notices first closes what the goodbye was to be sent on. That close ends the reader,
// too, when its time has come.
func (g *guard) SetReadDeadline(t time.Time) error {
	if g.parting.Load() {
		return nil
	}
	return g.in.SetReadDeadline(t)
}

// SetWriteDeadline does nothing: sending a datagram does not wait for the far end.
func (g *guard) SetWriteDeadline(time.Time) error { return nil }

func (g *guard) SetDeadline(t time.Time) error { return g.SetReadDeadline(t) }

// Close ends reads and releases what is underneath. It may be called more than once.
func (g *guard) Close() error {
	err := g.in.Close()
	g.mu.Lock()
	f := g.unplug
	g.closed, g.unplug = true, nil
	g.mu.Unlock()
	if f != nil {
		err = errors.Join(err, f())
	}
	return err
}

// unplugLater sets what Close releases, where that is known only after the handshake; if the guard was closed
// meanwhile it is released now.
func (g *guard) unplugLater(f func() error) {
	g.mu.Lock()
	closed := g.closed
	if !closed {
		g.unplug = f
	}
	g.mu.Unlock()
	if closed {
		_ = f()
	}
}
