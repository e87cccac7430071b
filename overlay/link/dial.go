package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pion/transport/v2"
)

// maxRestarts is how often a listener under load may ask one Bootstrap to begin anew: it is an unproven request.
const maxRestarts = 3

// errAgain ends a handshake whose cookie was for the listener's address check only.
var errAgain = errors.New("listener asks to begin the handshake anew")

// overTCPAfter is how long UDP is tried alone where TCP is permitted, too.
const overTCPAfter = time.Second

// Bootstrap makes a link to a neighbour's bootstrap port (RFC 6940 §11.4): TLS client, no ICE; over UDP or TCP as the
// overlay permits, UDP first. The neighbour may be
// any kit of the mission; the caller compares Peer with whom it expected. Link-local IPv6 addresses need their zone.
func (t *Transport) Bootstrap(ctx context.Context, addr netip.AddrPort) (*Conn, error) {
	c, err := t.bootstrap(ctx, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()))
	if err != nil {
		return nil, fmt.Errorf("bootstrap link to %v: %w", addr, err)
	}
	return c, nil
}

func (t *Transport) bootstrap(ctx context.Context, addr netip.AddrPort) (*Conn, error) {
	if !addr.IsValid() || addr.Port() == 0 || addr.Addr().IsUnspecified() || addr.Addr().IsMulticast() {
		return nil, ErrNoAddress
	}
	if t.ctx.Err() != nil {
		return nil, ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.ConnectTimeout)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	switch {
	case t.tcp == nil:
		return t.bootstrapUDP(ctx, addr)
	case !t.usesUDP():
		return t.bootstrapTCP(ctx, addr)
	}
	return t.bootstrapEither(ctx, addr)
}

// bootstrapEither tries UDP and, when that takes long or fails, TCP beside it: there are networks that carry no UDP. The
// first link is taken.
func (t *Transport) bootstrapEither(ctx context.Context, addr netip.AddrPort) (*Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c   *Conn
		err error
	}
	results, udpFailed := make(chan result, 2), make(chan struct{})
	t.tasks.run(func() {
		c, err := t.bootstrapUDP(ctx, addr)
		if err != nil {
			close(udpFailed)
		}
		results <- result{c, err}
	})
	t.tasks.run(func() {
		timer := time.NewTimer(overTCPAfter)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-udpFailed:
		case <-ctx.Done():
			results <- result{nil, ctx.Err()}
			return
		}
		c, err := t.bootstrapTCP(ctx, addr)
		results <- result{c, err}
	})
	first := <-results
	if first.err == nil {
		cancel()
		t.tasks.run(func() {
			if late := <-results; late.err == nil {
				_ = late.c.Close()
			}
		})
		return first.c, nil
	}
	second := <-results
	if second.err != nil {
		return nil, errors.Join(first.err, second.err)
	}
	return second.c, nil
}

func (t *Transport) bootstrapUDP(ctx context.Context, addr netip.AddrPort) (*Conn, error) {
	socket, err := t.net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	local := addrPortOf(socket.LocalAddr()).Addr()
	if !local.IsUnspecified() && !t.mayBeFrom(local, addr.Addr()) { // the kernel would send it from the handset side
		return nil, errors.Join(fmt.Errorf("%w: packets to %v leave from %v", ErrNoAddress, addr, local), socket.Close())
	}
	d := &dialed{socket: socket}
	t.tasks.run(d.receive)
	var s *session
	for range maxRestarts + 1 {
		if s, err = t.tryBootstrap(ctx, d); !errors.Is(err, errAgain) {
			break
		}
	}
	if err != nil {
		if ctx.Err() == nil || errors.Is(err, context.DeadlineExceeded) {
			t.refuse(addr, err)
		}
		return nil, errors.Join(err, socket.Close())
	}
	life, end := context.WithCancelCause(t.ctx)
	return newConn(t.remember(t.newCarrier(s, s.guard.local, s.guard.remote, life, end, func() {}), true), 0, t.cfg.IdleTimeout), nil
}

// mayBeFrom reports whether a bootstrap link may use this local address.
func (t *Transport) mayBeFrom(local, to netip.Addr) bool {
	for _, a := range t.cfg.Addresses() {
		if a = a.Unmap(); a == local || a.WithZone("") == local.WithZone("") && a.Zone() == to.Zone() {
			return true
		}
	}
	return to.Is6() && to.IsLinkLocalUnicast() && t.cfg.Interfaces != nil && t.cfg.Interfaces(to.Zone())
}

// tryBootstrap runs one handshake on the socket.
func (t *Transport) tryBootstrap(ctx context.Context, d *dialed) (*session, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var again atomic.Bool
	g := t.newGuard(nil, nil, d.socket.LocalAddr(), d.socket.RemoteAddr())
	g.verify = func(cookie []byte) {
		if isAgainCookie(cookie) {
			again.Store(true)
		}
	}
	g.write = func(b []byte) (int, error) {
		n, err := d.socket.Write(b)
		if again.Load() { // that was the cookie; the listener will not answer it
			cancel(errAgain)
		}
		return n, err
	}
	d.guard.Store(g)
	s, err := t.establish(ctx, handshake{guard: g, client: true, interval: defaultFlightInterval})
	if err != nil {
		_ = g.Close()
		if errors.Is(context.Cause(ctx), errAgain) {
			return nil, errAgain
		}
		return nil, fmt.Errorf("DTLS: %w", err)
	}
	g.unplugLater(d.socket.Close)
	return s, nil
}

// dialed is the socket of one Bootstrap; its datagrams go to the guard of the handshake under way.
type dialed struct {
	socket transport.UDPConn
	guard  atomic.Pointer[guard]
}

func (d *dialed) receive() {
	buf := make([]byte, maxDatagram)
	for failures := 0; ; {
		n, err := d.socket.Read(buf)
		g := d.guard.Load()
		switch {
		case err == nil:
			failures = 0
			if g != nil {
				g.deliver(buf[:n])
			}
		case errors.Is(err, net.ErrClosed) || failures >= maxReadErrors:
			if g != nil {
				_ = g.in.Close()
			}
			return
		default: // ICMP says that nobody listens there yet, or not any more; retransmission decides
			failures++
		}
	}
}
