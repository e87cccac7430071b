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

// Bounds of the bootstrap port. Anybody can send to it, from any address.
const (
	acceptBacklog = 32

	// maxUnproven handshakes run for clients that proved nothing; beyond it a client is first asked, without
	// keeping anything, to show that it receives at its address. Up to maxHandshakes run for those that did.
	maxUnproven      = 8
	maxHandshakes    = 32
	maxPerAddress    = 4 // handshakes at a time from one IP address
	maxLinksPerPeer  = 8 // links from one IP address
	maxProven        = 64
	provenLife       = 10 * time.Second
	addressCacheLife = time.Second
)

// listener is the bootstrap port: it tells the far ends apart by address and gives each a guard and a handshake. It
// exists because the library's own listener has no bound on anything.
type listener struct {
	t       *Transport
	sockets []packetSocket
	tcp     []*net.TCPListener
	port    uint16
	cookies *cookies
	allowed *addressFilter

	mu       sync.Mutex // a leaf; held for map operations only
	sessions map[netip.AddrPort]*bootstrapSession
	unproven int
	shaking  int
	proven   map[netip.AddrPort]time.Time
}

type bootstrapSession struct {
	guard   *guard
	proven  bool
	shaking bool
}

func (t *Transport) listen() (*listener, error) {
	ck, err := newCookies()
	if err != nil {
		return nil, err
	}
	l := &listener{
		t: t, cookies: ck, allowed: &addressFilter{cfg: &t.cfg},
		sessions: make(map[netip.AddrPort]*bootstrapSession), proven: make(map[netip.AddrPort]time.Time),
	}
	if err := l.openPort(); err != nil {
		return nil, fmt.Errorf("bootstrap port %d: %w", t.cfg.Port, err)
	}
	for _, s := range l.sockets {
		t.tasks.run(func() { l.receive(s) })
	}
	return l, nil
}

// openPort opens the port over UDP, over TCP, or with the same number over both. A simulated network has no TCP.
func (l *listener) openPort() (err error) {
	t := l.t
	tcp := t.uses(wire.LinkTLSTCPFHNoICE) && t.cfg.Net == nil
	const tries = 8 // with port 0 the port that UDP got may be taken on TCP
	for range tries {
		port := t.cfg.Port
		if t.usesUDP() {
			if l.sockets, port, err = openSockets(t.cfg.Net, t.net, port); err != nil {
				return err
			}
		}
		l.port = port
		if !tcp {
			return nil
		}
		var sockets []*net.TCPListener
		if sockets, err = listenTCP(port); err == nil {
			l.port = addrPortOf(sockets[0].Addr()).Port()
			l.tcp = sockets
			return nil
		}
		_ = l.close()
		l.sockets = nil
		if t.cfg.Port != 0 || !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
	}
	return err
}

func (l *listener) close() error {
	var errs []error
	for _, s := range l.sockets {
		errs = append(errs, s.close())
	}
	for _, s := range l.tcp {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// receive reads one socket until it is closed.
func (l *listener) receive(s packetSocket) {
	buf := make([]byte, maxDatagram+1)
	for {
		n, from, to, err := s.read(buf)
		if err != nil {
			if l.t.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// ICMP errors and interfaces that vanish come back as read errors; the socket stays good. The
			// pause keeps a lasting one from taking a processor.
			l.t.cfg.Log.Debug("bootstrap read", "err", err)
			select {
			case <-l.t.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		if n > maxDatagram || !l.allowed.serves(to, l.t.cfg.Now()) {
			l.t.stats.bootstrapDropped.Add(1)
			continue
		}
		l.datagram(s, buf[:n], from, to)
	}
}

func (l *listener) datagram(s packetSocket, b []byte, from netip.AddrPort, to localAddr) {
	l.mu.Lock()
	known := l.sessions[from]
	l.mu.Unlock()
	if known != nil {
		known.guard.deliver(b)
		return
	}
	hello, ok := parseClientHello(b)
	if !ok { // the first packet of a far end must be a ClientHello
		l.t.stats.bootstrapDropped.Add(1)
		return
	}
	now := l.t.cfg.Now()
	l.mu.Lock()
	verdict := l.judge(from, now)
	var sess *bootstrapSession
	if verdict == admit {
		sess = l.open(s, from, to, now)
	}
	l.mu.Unlock()
	switch verdict {
	case admit:
		sess.guard.deliver(b)
		l.t.tasks.run(func() { l.shake(sess, from) })
	case askProof:
		l.proof(s, hello, from, to, now)
	case busy:
		l.t.stats.bootstrapBusy.Add(1)
	}
}

type verdict int

const (
	admit verdict = iota
	askProof
	busy
)

// judge decides about a ClientHello of an unknown far end. It is called with mu held.
func (l *listener) judge(from netip.AddrPort, now time.Time) verdict {
	shaking, links := 0, 0
	for a, s := range l.sessions { // at most MaxLinks + maxHandshakes
		if a.Addr() == from.Addr() {
			if s.shaking {
				shaking++
			} else {
				links++
			}
		}
	}
	until, proven := l.proven[from]
	proven = proven && now.Before(until)
	switch {
	case len(l.sessions)-l.shaking >= l.t.cfg.MaxLinks, l.shaking >= maxHandshakes, links+shaking >= maxLinksPerPeer:
		// Handshakes count too: the far end is done with one before we are, and may begin the next.
		return busy
	case proven && shaking < maxPerAddress:
		return admit
	case l.unproven < maxUnproven && shaking < maxPerAddress:
		return admit
	case proven:
		return busy
	}
	return askProof
}

// open makes the session's state. It is called with mu held.
func (l *listener) open(s packetSocket, from netip.AddrPort, to localAddr, now time.Time) *bootstrapSession {
	until, proven := l.proven[from]
	proven = proven && now.Before(until)
	delete(l.proven, from)
	sess := &bootstrapSession{proven: proven, shaking: true}
	sess.guard = l.t.newGuard(
		func(b []byte) (int, error) { return s.write(b, from, to) },
		func() error { l.drop(from, sess); return nil },
		net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.addr, l.port)), net.UDPAddrFromAddrPort(from),
	)
	l.sessions[from] = sess
	l.shaking++
	if !proven {
		l.unproven++
	}
	l.t.stats.bootstrapSessions.Store(int64(len(l.sessions)))
	return sess
}

// settle ends a session's handshake in the books.
func (l *listener) settle(sess *bootstrapSession) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settleLocked(sess)
}

func (l *listener) settleLocked(sess *bootstrapSession) {
	if !sess.shaking {
		return
	}
	sess.shaking = false
	l.shaking--
	if !sess.proven {
		l.unproven--
	}
}

func (l *listener) drop(from netip.AddrPort, sess *bootstrapSession) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settleLocked(sess)
	if l.sessions[from] == sess {
		delete(l.sessions, from)
	}
	l.t.stats.bootstrapSessions.Store(int64(len(l.sessions)))
}

// shake runs one handshake and hands the link to Accept.
func (l *listener) shake(sess *bootstrapSession, from netip.AddrPort) {
	ctx, cancel := context.WithTimeout(l.t.ctx, l.t.cfg.HandshakeTimeout)
	defer cancel()
	s, err := l.t.establish(ctx, handshake{guard: sess.guard, interval: defaultFlightInterval})
	if err != nil {
		_ = sess.guard.Close()
		if l.t.ctx.Err() == nil {
			l.t.refuse(from, err)
		}
		return
	}
	l.settle(sess)
	life, end := context.WithCancelCause(l.t.ctx)
	l.t.deliver(newConn(l.t.remember(l.t.newCarrier(s, s.guard.local, s.guard.remote, life, end, func() {}), true), 0, l.t.cfg.IdleTimeout))
}

// deliver hands a link to Accept.
func (t *Transport) deliver(c *Conn) {
	select {
	case t.accepted <- c:
	default:
		t.stats.acceptOverflow.Add(1)
		_ = c.Close()
	}
}

// proof is the stateless part: a HelloVerifyRequest whose cookie only this process can make (RFC 6347 §4.2.1). Who
// sends it back receives at its address and may shake hands, from the beginning: the library cannot be entered in
// the middle of a handshake. Kits of this project begin again by themselves (see Bootstrap).
func (l *listener) proof(s packetSocket, hello clientHello, from netip.AddrPort, to localAddr, now time.Time) {
	if len(hello.cookie) == 0 {
		if _, err := s.write(helloVerifyRequest(hello.sequence, l.cookies.make(from, now)), from, to); err == nil {
			l.t.stats.cookiesSent.Add(1)
		}
		return
	}
	if !l.cookies.check(hello.cookie, from, now) {
		l.t.stats.bootstrapDropped.Add(1)
		return
	}
	l.t.stats.cookiesProven.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.proven) >= maxProven {
		for a, until := range l.proven {
			if !now.Before(until) {
				delete(l.proven, a)
			}
		}
	}
	if len(l.proven) < maxProven {
		l.proven[from] = now.Add(provenLife)
	}
}

// addressFilter knows the local addresses at which the overlay is served. It reads them about once a second, not per
// packet.
type addressFilter struct {
	cfg *Config

	mu    sync.Mutex
	known map[netip.Addr]bool
	names map[int]string // interfaces by index
	at    time.Time
}

// forget makes it read them again.
func (f *addressFilter) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = nil
}

// serves reports whether a datagram that arrived at to is for the overlay.
func (f *addressFilter) serves(to localAddr, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.read(now)
	if !to.addr.IsValid() { // a simulated socket that cannot tell
		return true
	}
	if !to.addr.Is6() || !to.addr.IsLinkLocalUnicast() {
		return f.known[to.addr.WithZone("")]
	}
	name, ok := f.names[to.ifindex]
	if !ok && len(f.names) < 64 {
		if ifc, err := net.InterfaceByIndex(to.ifindex); err == nil {
			name = ifc.Name
		}
		f.names[to.ifindex] = name
	}
	return f.servesZone(to.addr, name)
}

// servesAddr is the same for the local address of a TCP connection, which has its zone.
func (f *addressFilter) servesAddr(to netip.Addr, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.read(now)
	if !to.Is6() || !to.IsLinkLocalUnicast() {
		return f.known[to]
	}
	return f.servesZone(to, to.Zone())
}

func (f *addressFilter) servesZone(to netip.Addr, name string) bool {
	return name != "" && (f.known[to.WithZone(name)] || f.cfg.Interfaces != nil && f.cfg.Interfaces(name))
}

func (f *addressFilter) read(now time.Time) {
	if f.known == nil || now.Sub(f.at) >= addressCacheLife || now.Before(f.at) {
		f.known, f.names, f.at = make(map[netip.Addr]bool), make(map[int]string), now
		for _, a := range f.cfg.Addresses() {
			f.known[a.Unmap()] = true
		}
	}
}
