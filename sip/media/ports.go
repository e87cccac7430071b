package media

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// expeditedForwarding is DSCP EF (RFC 3246) in the traffic class byte: voice
// goes to the radio's priority queue.
const expeditedForwarding = 46 << 2

// portPool hands out pairs of UDP ports, RTP even and RTCP the next odd one
// (RFC 3550 §11). It goes round the range, so that a port rests as long as it
// can: late packets of a finished call must not reach a new one.
type portPool struct {
	mu    sync.Mutex
	first uint16 // even
	used  []bool // by pair
	busy  int
	next  int
}

func newPortPool(first, last uint16) (*portPool, error) {
	even := uint32(first) + uint32(first&1)
	if first == 0 || even+1 > uint32(last) {
		return nil, fmt.Errorf("media ports %d to %d: no even and odd pair in it", first, last)
	}
	return &portPool{first: uint16(even), used: make([]bool, (uint32(last)-even+1)/2)}, nil
}

// open binds the next free pair on addr. Pairs that something else on the
// machine holds are passed over.
func (p *portPool) open(addr netip.Addr) (pair int, rtp, rtcp *net.UDPConn, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range p.used {
		i := p.next
		p.next = (p.next + 1) % len(p.used)
		if p.used[i] {
			continue
		}
		port := p.first + uint16(2*i)
		if rtp, err = listen(addr, port); err != nil {
			continue
		}
		if rtcp, err = listen(addr, port+1); err != nil {
			_ = rtp.Close()
			continue
		}
		p.used[i] = true
		p.busy++
		return i, rtp, rtcp, nil
	}
	if err != nil {
		return 0, nil, nil, fmt.Errorf("%w: %w", ErrPorts, err)
	}
	return 0, nil, nil, fmt.Errorf("%w: all %d pairs in use", ErrPorts, len(p.used))
}

func (p *portPool) release(pair int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used[pair] {
		p.used[pair] = false
		p.busy--
	}
}

func (p *portPool) usage() (busy, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.busy, len(p.used)
}

func listen(addr netip.Addr, port uint16) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var mark error
		err := c.Control(func(fd uintptr) {
			if addr.Is4() {
				mark = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, expeditedForwarding)
			} else {
				mark = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, expeditedForwarding)
			}
		})
		if err != nil {
			return err
		}
		return mark
	}}
	conn, err := lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(addr, port).String())
	if err != nil {
		return nil, fmt.Errorf("media socket: %w", err)
	}
	return conn.(*net.UDPConn), nil
}
