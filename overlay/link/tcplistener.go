package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"fieldkit/overlay/wire"
)

// tcpListener is the bootstrap port for links over TCP (RFC 6940 §6.6.5, §11.4). The kernel proves addresses; the bounds
// are those of the port over UDP.
type tcpListener struct {
	t *Transport

	mu      sync.Mutex // a leaf; held for map operations only
	from    map[netip.Addr]*tcpCount
	shaking int
	links   int
}

type tcpCount struct{ shaking, links int }

// listenTCP opens the port in both address families. A host without IPv6 has IPv4 alone, and the other way round.
func listenTCP(port uint16) ([]*net.TCPListener, error) {
	v4, err4 := net.ListenTCP("tcp4", &net.TCPAddr{Port: int(port)})
	v6, err6 := net.ListenTCP("tcp6", &net.TCPAddr{Port: int(port)})
	var open []*net.TCPListener
	for _, l := range []*net.TCPListener{v4, v6} {
		if l != nil {
			open = append(open, l)
		}
	}
	if errors.Is(err4, syscall.EADDRINUSE) || errors.Is(err6, syscall.EADDRINUSE) || len(open) == 0 {
		for _, l := range open { // half a port would hide that somebody else has the other half
			_ = l.Close()
		}
		return nil, errors.Join(err4, err6)
	}
	return open, nil
}

func (t *Transport) serveTCP(sockets []*net.TCPListener) *tcpListener {
	l := &tcpListener{t: t, from: make(map[netip.Addr]*tcpCount)}
	for _, s := range sockets {
		t.tasks.run(func() { l.accept(s) })
	}
	return l
}

func (l *tcpListener) accept(s *net.TCPListener) {
	for {
		c, err := s.Accept()
		if err != nil {
			if l.t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			l.t.cfg.Log.Debug("bootstrap accept", "err", err)
			select { // out of descriptors: the pause keeps that from taking a processor
			case <-l.t.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		from, to := addrPortOf(c.RemoteAddr()), addrPortOf(c.LocalAddr())
		if !l.t.listener.allowed.servesAddr(to.Addr(), l.t.cfg.Now()) {
			l.t.stats.bootstrapDropped.Add(1)
			_ = c.Close()
			continue
		}
		if !l.enter(from.Addr()) {
			l.t.stats.bootstrapBusy.Add(1)
			_ = c.Close()
			continue
		}
		l.t.tasks.run(func() { l.shake(c, from) })
	}
}

// enter takes a far end into the books, within the bounds.
func (l *tcpListener) enter(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.from[from]
	if n == nil {
		n = new(tcpCount)
	}
	if l.links >= l.t.cfg.MaxLinks || l.shaking >= maxHandshakes || n.shaking >= maxPerAddress || n.shaking+n.links >= maxLinksPerPeer {
		return false
	}
	l.from[from] = n
	n.shaking++
	l.shaking++
	l.t.stats.tcpSessions.Add(1)
	return true
}

// settle ends a handshake in the books; linked tells that it became a link.
func (l *tcpListener) settle(from netip.Addr, linked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.from[from]
	n.shaking--
	l.shaking--
	if linked {
		n.links++
		l.links++
		return
	}
	l.tidy(from, n)
}

func (l *tcpListener) leave(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.from[from]
	n.links--
	l.links--
	l.tidy(from, n)
}

func (l *tcpListener) tidy(from netip.Addr, n *tcpCount) {
	l.t.stats.tcpSessions.Add(-1)
	if *n == (tcpCount{}) {
		delete(l.from, from)
	}
}

func (l *tcpListener) shake(c net.Conn, from netip.AddrPort) {
	ctx, cancel := context.WithTimeout(l.t.ctx, l.t.cfg.HandshakeTimeout)
	defer cancel()
	s, err := l.t.shakeTLS(ctx, c, false, wire.NodeID{})
	l.settle(from.Addr(), err == nil)
	if err != nil {
		if l.t.ctx.Err() == nil {
			l.t.refuse(from, err)
		}
		return
	}
	life, end := context.WithCancelCause(l.t.ctx)
	l.t.deliver(newConn(l.t.streamLink(s, life, end, func() { l.leave(from.Addr()) }), 0, l.t.cfg.IdleTimeout))
}

// bootstrapTCP makes a link to a neighbour's bootstrap port over TCP.
func (t *Transport) bootstrapTCP(ctx context.Context, addr netip.AddrPort) (*Conn, error) {
	raw, err := t.dialTCP(ctx, addr)
	if err != nil {
		return nil, err
	}
	s, err := t.shakeTLS(ctx, raw, true, wire.NodeID{})
	if err != nil {
		if ctx.Err() == nil || errors.Is(err, context.DeadlineExceeded) {
			t.refuse(addr, err)
		}
		return nil, fmt.Errorf("TLS: %w", err)
	}
	life, end := context.WithCancelCause(t.ctx)
	return newConn(t.streamLink(s, life, end, func() {}), 0, t.cfg.IdleTimeout), nil
}
