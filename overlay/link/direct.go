package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"fieldkit/overlay/wire"
)

// Bounds and times of an Attach without ICE.
const (
	// dialStagger is how long a candidate has to answer anything before the next one is tried beside it.
	dialStagger = 300 * time.Millisecond
	// maxDirectCandidates bounds what a far end can make us send to addresses it chose, and maxTries how often.
	maxDirectCandidates = 8
	maxTries            = 2 * maxDirectCandidates
	// maxDirectHandshakes run at a time for those who knock at the sockets of one attempt from an address that the
	// peer did not name, and as many for TCP connections from its own. Who comes over UDP from exactly where the
	// peer said is always let in.
	maxDirectHandshakes = 4

	hostPreference = 126 // of a host candidate (RFC 5245 §4.1.2.2)
)

// errGaveWay ends a try that was answered second.
var errGaveWay = fmt.Errorf("another candidate answered first: %w", context.Canceled)

// mixed tells of candidates of both kinds: "A single AttachReqAns MUST NOT include both candidates whose OverlayLinkType
// protocols use ICE (the default) and candidates that specify 'No-ICE'" (RFC 6940 §6.5.1.1).
func mixed(cs []wire.IceCandidate) bool {
	var with, without bool
	for _, c := range cs {
		switch c.Link {
		case wire.LinkDTLSUDPSR:
			with = true
		case wire.LinkDTLSUDPSRNoICE, wire.LinkTLSTCPFHNoICE:
			without = true
		}
	}
	return with && without
}

// direct is one side of an Attach or AppAttach without ICE (RFC 6940 §6.5.1.11): sockets of its own on every usable
// address. Who sent the request listens on them, as TLS server, and who answered connects: "the DTLS or TLS handshake …
// forms the connectivity check". Sockets of its own, because nothing in a handshake tells which Attach it is for.
type direct struct {
	t         *Transport
	network   *agentNet
	ports     []*directPort
	listeners []*net.TCPListener
	winner    *directPort
	remote    netip.AddrPort // of the winner
}

// prepareDirect opens the sockets: nothing is gathered anywhere else.
func (t *Transport) prepareDirect(context.Context) (*Attempt, error) {
	d := &direct{t: t, network: &agentNet{Net: t.net, addresses: t.usable, stats: &t.stats.guard}}
	a := &Attempt{t: t, network: d.network, direct: d}
	a.live(func() { d.close(nil) })
	for i, addr := range t.usable() {
		a.loopback = a.loopback || addr.IsLoopback()
		if err := d.open(a, addr, i); err != nil {
			t.cfg.Log.Debug("candidate", "addr", addr, "err", err)
		}
	}
	if len(a.local.Candidates) == 0 {
		a.end(ErrNoAddress)
		return nil, ErrNoAddress
	}
	slices.SortStableFunc(a.local.Candidates, func(x, y wire.IceCandidate) int { return int(int64(y.Priority) - int64(x.Priority)) })
	return a, nil
}

// open makes the sockets on one address and their candidates. "Highest priority is assigned to protocols that offer
// well-understood congestion and flow control without head-of-line blocking" (RFC 6940 §6.5.1.6): here that is UDP, whose
// sender has the congestion control of TCP (docs/adr/0022), and TCP comes second. Each is a passive candidate in the sense of §6.6.5: somebody listens there.
func (d *direct) open(a *Attempt, addr netip.Addr, i int) error {
	var errs []error
	offer := func(link uint8, local net.Addr, preference int) {
		a.local.Candidates = append(a.local.Candidates, wire.IceCandidate{
			Addr: addrPortOf(local), Link: link, Foundation: strconv.AppendInt(nil, int64(len(a.local.Candidates)+1), 10),
			Priority: hostPreference<<24 | uint32(preference-i)<<8 | 255, Type: wire.CandHost,
		})
	}
	if d.t.uses(wire.LinkDTLSUDPSRNoICE) {
		network := "udp4"
		if addr.Is6() {
			network = "udp6"
		}
		s, err := d.network.ListenUDP(network, &net.UDPAddr{IP: addr.AsSlice()})
		if err == nil {
			p := &directPort{t: d.t, socket: s.(*agentSocket), peers: make(map[netip.AddrPort]*directPeer)}
			d.ports = append(d.ports, p)
			offer(wire.LinkDTLSUDPSRNoICE, s.LocalAddr(), 1<<16-1)
		}
		errs = append(errs, err)
	}
	if d.t.uses(wire.LinkTLSTCPFHNoICE) {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: addr.AsSlice()})
		if err == nil {
			d.listeners = append(d.listeners, l)
			offer(wire.LinkTLSTCPFHNoICE, l.Addr(), 1<<15-1)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// close closes every socket but that of the link.
func (d *direct) close(but *directPort) {
	for _, p := range d.ports {
		if p != but {
			_ = p.socket.Close()
		}
	}
	for _, l := range d.listeners {
		_ = l.Close()
	}
}

// reached is a finished handshake and where it was made.
type reached struct {
	sess   *session
	port   *directPort // nil over TCP
	remote netip.AddrPort
	err    error
	try    int
}

// discard ends a session that nobody wants.
func (r reached) discard() {
	if r.sess != nil {
		_ = r.sess.records.Close()
	}
}

// connect makes the link. It is called once, by Attempt.connect.
func (d *direct) connect(ctx context.Context, a *Attempt, remote wire.IceParameters, peer wire.NodeID, offerer, srtp bool) (*carrier, time.Duration, error) {
	if mixed(remote.Candidates) {
		return nil, 0, ErrMixed
	}
	candidates := d.reachable(remote.Candidates, a.loopback)
	if len(candidates) == 0 {
		return nil, 0, fmt.Errorf("%w: none of the peer's %d candidates can be reached without ICE", ErrNoAddress, len(remote.Candidates))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &wanted{peer: peer, srtp: srtp, addrs: candidates}
	for _, p := range d.ports {
		d.t.tasks.run(p.receive)
	}
	var r reached
	if offerer {
		r = d.await(ctx, w)
	} else {
		r = d.dial(ctx, w)
	}
	if r.err != nil {
		return nil, 0, r.err
	}
	cancel()
	d.close(r.port)
	if r.port == nil {
		c := d.t.streamLink(r.sess, a.life, a.end, func() {})
		a.handOver()
		return c, 0, nil
	}
	d.winner, d.remote = r.port, r.remote
	r.port.keep(r.remote)
	g := r.sess.guard
	g.unplugLater(func() error { a.end(errGoodbye); return r.port.socket.Close() })
	c := d.t.newCarrier(r.sess, g.local, g.remote, a.life, a.end, func() {})
	a.handOver()
	return c, 0, nil
}

// wanted is who is to be reached, what for, and where.
type wanted struct {
	peer  wire.NodeID
	srtp  bool
	addrs []wire.IceCandidate
}

// reachable are the candidates to be tried, in their order.
func (d *direct) reachable(cs []wire.IceCandidate, loopback bool) []wire.IceCandidate {
	var out []wire.IceCandidate
	for _, c := range cs {
		addr := c.Addr.Addr().Unmap()
		switch {
		case !d.t.uses(c.Link), c.Type != wire.CandHost, c.Addr.Port() == 0:
			continue
		case !addr.IsValid(), addr.IsUnspecified(), addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			continue
		case addr.Is6() && addr.IsLinkLocalUnicast(), addr.IsLoopback() && !loopback:
			continue
		}
		c.Addr = netip.AddrPortFrom(addr, c.Addr.Port())
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(x, y wire.IceCandidate) int { return int(int64(y.Priority) - int64(x.Priority)) })
	return out[:min(len(out), maxDirectCandidates)]
}

// await is the passive side: the first handshake that the peer finishes is the link. The far end finishes one only.
func (d *direct) await(ctx context.Context, w *wanted) reached {
	results := make(chan reached)
	room := knocking{
		named: w.addrs, own: make(chan struct{}, maxDirectHandshakes), others: make(chan struct{}, maxDirectHandshakes),
	}
	offer := func(r reached) {
		select {
		case results <- r:
		case <-ctx.Done():
			r.discard()
		}
	}
	for _, p := range d.ports {
		p.admit(func(g *guard, from netip.AddrPort) bool {
			proven := slices.ContainsFunc(w.addrs, func(c wire.IceCandidate) bool { return c.Addr == from })
			leave, ok := func() {}, true
			if !proven {
				leave, ok = room.enter(netip.Addr{})
			}
			if !ok {
				return false
			}
			d.t.tasks.run(func() {
				defer leave()
				ctx, cancel := context.WithTimeout(ctx, d.t.cfg.HandshakeTimeout)
				defer cancel()
				s, err := d.t.establish(ctx, handshake{
					guard: g, peer: w.peer, interval: defaultFlightInterval, srtp: w.srtp, proven: proven,
				})
				if err != nil {
					p.forget(from)
					d.refuse(ctx, from, err)
					return
				}
				offer(reached{sess: s, port: p, remote: from})
			})
			return true
		})
	}
	for _, l := range d.listeners {
		d.t.tasks.run(func() { d.accept(ctx, l, w.peer, room, offer) })
	}
	select {
	case r := <-results:
		return r
	case <-ctx.Done():
		return reached{err: fmt.Errorf("handshake: %w", ctx.Err())}
	}
}

// knocking bounds the handshakes of those who knock, so that strangers leave room for the peer.
type knocking struct {
	named       []wire.IceCandidate // where the peer said it is
	own, others chan struct{}
}

func (k knocking) enter(from netip.Addr) (leave func(), ok bool) {
	slots := k.others
	if slices.ContainsFunc(k.named, func(c wire.IceCandidate) bool { return c.Addr.Addr() == from }) {
		slots = k.own
	}
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, true
	default:
		return nil, false
	}
}

// accept takes TCP connections until the attempt is over.
func (d *direct) accept(ctx context.Context, l *net.TCPListener, peer wire.NodeID, room knocking, offer func(reached)) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return
		}
		leave, ok := room.enter(addrPortOf(c.RemoteAddr()).Addr())
		if !ok {
			_ = c.Close()
			continue
		}
		d.t.tasks.run(func() {
			defer leave()
			ctx, cancel := context.WithTimeout(ctx, d.t.cfg.HandshakeTimeout)
			defer cancel()
			s, err := d.t.shakeTLS(ctx, c, false, peer)
			if err != nil {
				d.refuse(ctx, addrPortOf(c.RemoteAddr()), err)
				return
			}
			offer(reached{sess: s, remote: addrPortOf(c.RemoteAddr())})
		})
	}
}

func (d *direct) refuse(ctx context.Context, addr netip.AddrPort, err error) {
	if ctx.Err() == nil || errors.Is(err, context.DeadlineExceeded) {
		d.t.refuse(addr, err)
	}
}

// dial is the active side. The candidates are tried in their order, the next one when the one before has not answered
// anything for dialStagger; the first that answers at all is gone on with alone, and the others only if it fails. So
// one handshake at most is finished, and both ends have the same one.
func (d *direct) dial(ctx context.Context, w *wanted) reached {
	return d.race(ctx, w.addrs, func(ctx context.Context, c wire.IceCandidate, heard func() bool) reached {
		return d.reach(ctx, c, w, heard)
	})
}

// race is dial with the way to try one candidate given: try asks heard, when something answers, whether to go on.
func (d *direct) race(ctx context.Context, candidates []wire.IceCandidate, try func(context.Context, wire.IceCandidate, func() bool) reached) reached {
	var (
		results = make(chan reached, maxTries)
		heard   = make(chan int, maxTries)
		cancels = make(map[int]context.CancelFunc)
		tried   = make(map[int]wire.IceCandidate)
		rest    = slices.Clone(candidates)
		errs    []error
		tries   int
		running int          // tries whose results were not taken
		chosen  atomic.Int64 // the try that was answered first; -1 while none was
	)
	chosen.Store(-1)
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer func() {
		for _, cancel := range cancels {
			cancel()
		}
		if running > 0 {
			d.t.tasks.run(func() { // what was finished in spite of that
				for range running {
					(<-results).discard()
				}
			})
		}
	}()
	for {
		select {
		case <-timer.C:
			if chosen.Load() < 0 && len(rest) > 0 && tries < maxTries {
				c, n := rest[0], tries
				rest, tries, running = rest[1:], tries+1, running+1
				one, cancel := context.WithTimeout(ctx, d.t.cfg.HandshakeTimeout)
				cancels[n], tried[n] = cancel, c
				d.t.tasks.run(func() {
					r := try(one, c, func() bool {
						if chosen.CompareAndSwap(-1, int64(n)) {
							heard <- n
						}
						return chosen.Load() == int64(n)
					})
					r.try = n
					results <- r
				})
				timer.Reset(dialStagger)
			}
		case n := <-heard:
			if cancels[n] == nil { // it has ended since, so the others go on
				if chosen.CompareAndSwap(int64(n), -1) {
					timer.Reset(0)
				}
				continue
			}
			for other, cancel := range cancels {
				if other != n {
					cancel()
					delete(cancels, other)
					rest = append(rest, tried[other])
				}
			}
		case r := <-results:
			running--
			cancel := cancels[r.try]
			if cancel == nil { // given up for another one that answered
				r.discard()
				continue
			}
			cancel()
			delete(cancels, r.try)
			if r.err == nil {
				return r
			}
			if !errors.Is(r.err, errGaveWay) {
				d.refuse(ctx, tried[r.try].Addr, r.err)
			}
			errs = append(errs, fmt.Errorf("%v: %w", tried[r.try].Addr, r.err))
			chosen.CompareAndSwap(int64(r.try), -1)
			if errors.Is(r.err, context.DeadlineExceeded) || errors.Is(r.err, errGaveWay) { // lost packets, perhaps: again, after the others
				rest = append(rest, tried[r.try])
			}
			if len(cancels) == 0 && (len(rest) == 0 || tries >= maxTries) {
				return reached{err: errors.Join(errs...)}
			}
			timer.Reset(0)
		case <-ctx.Done():
			return reached{err: errors.Join(append(errs, fmt.Errorf("handshake: %w", ctx.Err()))...)}
		}
	}
}

// reach tries one candidate; heard is asked, when it answers, whether to go on.
func (d *direct) reach(ctx context.Context, c wire.IceCandidate, w *wanted, heard func() bool) reached {
	if c.Link == wire.LinkTLSTCPFHNoICE {
		conn, err := d.t.dialTCP(ctx, c.Addr)
		if err != nil {
			return reached{err: err}
		}
		if !heard() {
			return reached{err: errors.Join(errGaveWay, conn.Close())}
		}
		s, err := d.t.shakeTLS(ctx, conn, true, w.peer)
		if err != nil {
			return reached{err: fmt.Errorf("TLS: %w", err)}
		}
		return reached{sess: s, remote: c.Addr}
	}
	p := d.portTo(c.Addr)
	if p == nil {
		return reached{err: fmt.Errorf("%w: no socket of ours reaches %v", ErrNoAddress, c.Addr)}
	}
	g := p.open(c.Addr, heard)
	s, err := d.t.establish(ctx, handshake{guard: g, client: true, peer: w.peer, interval: defaultFlightInterval, srtp: w.srtp})
	if err != nil {
		p.forget(c.Addr)
		return reached{err: fmt.Errorf("DTLS: %w", err)}
	}
	return reached{sess: s, port: p, remote: c.Addr}
}

// portTo is the socket on the address from which the network sends to addr.
func (d *direct) portTo(addr netip.AddrPort) *directPort {
	local, err := d.t.sourceOf(addr)
	if err != nil {
		return nil
	}
	for _, p := range d.ports {
		own := addrPortOf(p.socket.LocalAddr()).Addr()
		if own == local || local.IsUnspecified() && own.Is4() == addr.Addr().Is4() {
			return p
		}
	}
	return nil
}

// mediaOf sends SRTP beside the DTLS of the link on its socket (RFC 5764); over TCP it goes in frames.
func (d *direct) mediaOf(app *AppConn) error {
	if d.winner != nil {
		app.point(d.winner.socket, d.remote)
	}
	return nil
}

// directPort is one UDP socket of an attempt: it tells far ends apart by address.
type directPort struct {
	t      *Transport
	socket *agentSocket

	mu      sync.Mutex // a leaf; held for map operations only
	peers   map[netip.AddrPort]*directPeer
	knocked func(*guard, netip.AddrPort) bool // takes on the handshake of a far end that was not asked for
}

type directPeer struct {
	guard *guard
	heard func() bool // asked at the first datagrams whether to take them, until it says so
}

// receive reads the socket until it is closed.
func (p *directPort) receive() {
	buf := make([]byte, maxDatagram)
	for failures := 0; failures < maxReadErrors; {
		n, addr, err := p.socket.ReadFrom(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			p.closeAll()
			return
		case err != nil: // ICMP: nobody listens there yet, or not any more; retransmission decides
			failures++
		default:
			failures = 0
			if n > 0 && buf[0] >= 20 { // there is no STUN without ICE
				p.datagram(buf[:n], addrPortOf(addr))
			}
		}
	}
	p.closeAll()
}

func (p *directPort) datagram(b []byte, from netip.AddrPort) {
	p.mu.Lock()
	peer, knocked := p.peers[from], p.knocked
	p.mu.Unlock()
	if peer == nil {
		if knocked == nil {
			return
		}
		if _, ok := parseClientHello(b); !ok {
			return
		}
		if peer = p.knock(from, knocked); peer == nil {
			return
		}
	}
	if peer.heard != nil {
		if !peer.heard() {
			return
		}
		peer.heard = nil
	}
	peer.guard.deliver(b)
}

func (p *directPort) knock(from netip.AddrPort, knocked func(*guard, netip.AddrPort) bool) *directPeer {
	peer := &directPeer{guard: p.newGuard(from)}
	p.mu.Lock()
	p.peers[from] = peer
	p.mu.Unlock()
	if !knocked(peer.guard, from) {
		p.forget(from)
		return nil
	}
	return peer
}

func (p *directPort) newGuard(to netip.AddrPort) *guard {
	addr := net.UDPAddrFromAddrPort(to)
	return p.t.newGuard(func(b []byte) (int, error) { return p.socket.WriteTo(b, addr) }, nil, p.socket.LocalAddr(), addr)
}

// admit takes on handshakes of others from now on.
func (p *directPort) admit(knocked func(*guard, netip.AddrPort) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.knocked = knocked
}

// open makes the guard of a handshake that this side begins.
func (p *directPort) open(to netip.AddrPort, heard func() bool) *guard {
	g := p.newGuard(to)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peers[to] = &directPeer{guard: g, heard: heard}
	return g
}

func (p *directPort) forget(from netip.AddrPort) {
	p.mu.Lock()
	peer := p.peers[from]
	delete(p.peers, from)
	p.mu.Unlock()
	if peer != nil {
		_ = peer.guard.Close()
	}
}

// keep is for the link's socket: nobody else is listened to any more.
func (p *directPort) keep(only netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.knocked = nil
	for a, peer := range p.peers {
		if a != only {
			delete(p.peers, a)
			_ = peer.guard.Close()
		}
	}
}

func (p *directPort) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, peer := range p.peers {
		_ = peer.guard.in.Close()
	}
}
