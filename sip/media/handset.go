package media

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// relatchWindow is how long after SDP that repeats the known address a handset
// may still move its source: a phone behind a changed binding sends within it.
const relatchWindow = 5 * time.Second

// latch is the one source a socket listens to.
type latch struct {
	at   atomic.Pointer[netip.AddrPort] // nil: take the first
	hint atomic.Pointer[netip.AddrPort] // where to send before that; from SDP
	open atomic.Int64                   // until then (relay time) the source may move once
}

// admit says whether a packet from src is the handset's, and latches.
func (l *latch) admit(src netip.AddrPort, now time.Duration) bool {
	for {
		at := l.at.Load()
		switch {
		case at == nil:
			l.take(nil, src)
		case *at == src:
			return true
		case int64(now) < l.open.Load():
			l.open.Store(0)
			l.take(at, src)
		default:
			return false
		}
	}
}

// take is apart so that the address escapes to the heap only when it is kept.
//
//go:noinline
func (l *latch) take(old *netip.AddrPort, src netip.AddrPort) {
	l.at.CompareAndSwap(old, &src)
}

func (l *latch) destination() *netip.AddrPort {
	if at := l.at.Load(); at != nil {
		return at
	}
	return l.hint.Load()
}

// point sets the hint. A new address forgets the source; the same one opens a
// window for it to move.
func (l *latch) point(to netip.AddrPort, now time.Duration) {
	if old := l.hint.Load(); old == nil || *old != to {
		l.hint.Store(&to)
		l.at.Store(nil)
		l.open.Store(0)
		return
	}
	l.open.Store(int64(now + relatchWindow))
}

// handset is the end of a leg that faces a phone.
type handset struct {
	leg     *Leg
	pair    int
	rtp     *net.UDPConn
	rtcp    *net.UDPConn
	readers sync.WaitGroup

	allowed     atomic.Pointer[netip.Addr] // the handset signals from here
	media       latch
	control     latch
	muted       atomic.Bool // on hold by c=0.0.0.0, or no audio agreed: nothing is sent there
	mux         atomic.Bool // RTCP on the RTP port (RFC 5761), agreed by both
	offered     bool        // the handset's last SDP had a=rtcp-mux; under call.mu
	port, cport uint16      // the last SDP's; under call.mu
}

func newHandset(l *Leg, pair int, rtp, rtcp *net.UDPConn, signalling netip.Addr) *handset {
	h := &handset{leg: l, pair: pair, rtp: rtp, rtcp: rtcp}
	h.allowed.Store(&signalling)
	h.muted.Store(true) // until SDP says where to send
	return h
}

func (h *handset) start() {
	h.readers.Go(func() { h.read(h.rtp, &h.media) })
	h.readers.Go(func() { h.read(h.rtcp, &h.control) })
}

// read is one socket's loop: one packet per system call for now. A batch read
// (recvmmsg) replaces this function alone, what it calls takes one packet.
func (h *handset) read(conn *net.UDPConn, at *latch) {
	var buffer [maxPacket]byte
	for {
		n, src, err := conn.ReadFromUDPAddrPort(buffer[:])
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // ECONNREFUSED of an earlier packet and the like: the socket is sound
		}
		h.packet(buffer[:n], src, at, h.leg.call.relay.now())
	}
}

// packet takes one datagram from a handset's side of the network.
func (h *handset) packet(b []byte, src netip.AddrPort, at *latch, now time.Duration) {
	l := h.leg
	src = netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
	if src.Addr() != *h.allowed.Load() {
		l.drops.spoofed.Add(1)
		return
	}
	control := isRTCP(b)
	if control && !validRTCP(b) || !control && (at != &h.media || !validRTP(b)) {
		l.drops.malformed.Add(1)
		return
	}
	if !at.admit(src, now) {
		l.drops.spoofed.Add(1)
		return
	}
	if control {
		l.rtcp(b)
		return
	}
	l.rtp(b, now)
}

func (h *handset) sendRTP(b []byte) { h.send(h.rtp, h.media.destination(), b, true) }

func (h *handset) sendRTCP(b []byte) {
	if h.mux.Load() {
		h.send(h.rtp, h.media.destination(), b, false)
		return
	}
	h.send(h.rtcp, h.control.destination(), b, false)
}

func (h *handset) send(conn *net.UDPConn, to *netip.AddrPort, b []byte, media bool) {
	if to == nil || h.muted.Load() {
		h.leg.drops.unsendable.Add(1)
		return
	}
	if _, err := conn.WriteToUDPAddrPort(b, *to); err != nil {
		h.leg.drops.unsendable.Add(1)
		return
	}
	if media {
		h.leg.out.add(len(b))
	}
}

func (h *handset) learn(m remote) {
	h.muted.Store(!m.active || m.hold)
	h.offered = m.mux
	if !m.active || m.port == 0 {
		return
	}
	h.port, h.cport = m.port, m.rtcpPort
	h.aim()
}

func (h *handset) moved(to netip.Addr) {
	h.allowed.Store(&to)
	if h.port != 0 {
		h.aim()
	}
}

func (h *handset) aim() {
	addr, now := *h.allowed.Load(), h.leg.call.relay.now()
	h.media.point(netip.AddrPortFrom(addr, h.port), now)
	h.control.point(netip.AddrPortFrom(addr, h.cport), now)
}

// local also settles rtcp-mux: m is what the other side said and this handset
// is about to be told (RFC 5761 §5.1.1: both must say it).
func (h *handset) local(m remote) local {
	h.mux.Store(h.offered && m.mux)
	at := h.rtp.LocalAddr().(*net.UDPAddr).AddrPort()
	return local{connection: connectionOf(at.Addr().Unmap()), port: at.Port(), rtcpPort: at.Port() + 1}
}

func (h *handset) close() {
	_ = h.rtp.Close()
	_ = h.rtcp.Close()
	h.leg.call.relay.ports.release(h.pair)
}

// latched is where the handset's RTP comes from, invalid before the first packet.
func (h *handset) latched() netip.AddrPort {
	if at := h.media.at.Load(); at != nil {
		return *at
	}
	return netip.AddrPort{}
}
