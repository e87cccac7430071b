// Package nodetest is a simulated network for overlays of whole nodes in one process, for tests under
// testing/synctest: links with delay, loss and partitions, hosts that vanish, and missions of kits with real
// certificates and signatures. Only links are simulated: there is no cryptography on them, but both ends check
// each other's certificate chain as the handshake of a real link does.
//
// What a real link does about loss, sending again after a while, shows as delay; what a partition or a vanished
// host swallows is gone, and neither end is told, as in the field.
//
// A Network may be used from any goroutine. Its random choices come from a seed; since the order in which
// goroutines run does not, two runs of one seed are alike but not equal.
package nodetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
)

// Conditions are what a packet meets on its way.
type Conditions struct {
	Delay  time.Duration // one way
	Jitter time.Duration // up to so much more
	Loss   float64       // 0 to 1; each loss of a message costs RetransmitAfter
	Checks bool          // links can be asked for a sign of life (node.Checker)
}

// RetransmitAfter is the first retransmission timeout of Simple Reliability (RFC 6940 §6.6.3).
const RetransmitAfter = 500 * time.Millisecond

// ErrUnreachable is what connecting to nobody, or through a partition, ends in.
var ErrUnreachable = errors.New("simulated network: unreachable")

// Network connects hosts.
type Network struct {
	mu        sync.Mutex
	rng       *rand.Rand
	cond      Conditions
	hosts     map[netip.AddrPort]*Host
	side      map[netip.AddrPort]int // partition; all zero: whole
	meetings  map[string]*meeting    // ICE attempts that wait for their other side, by ufrag
	delivered uint64
	bytes     uint64
	ends      []*end // perhaps still open
}

// New makes an empty network.
func New(seed uint64, c Conditions) *Network {
	return &Network{
		rng: rand.New(rand.NewPCG(seed, seed)), cond: c,
		hosts: map[netip.AddrPort]*Host{}, side: map[netip.AddrPort]int{}, meetings: map[string]*meeting{},
	}
}

// Close ends the network and what of its links nobody closed, such as those to hosts that vanished.
func (n *Network) Close() {
	n.mu.Lock()
	ends := n.ends
	n.ends = nil
	n.mu.Unlock()
	for _, e := range ends {
		e.once.Do(func() { close(e.closed) })
	}
}

// keep remembers the ends of a link for Close.
func (n *Network) keep(e ...*end) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ends = append(slices.DeleteFunc(n.ends, (*end).isClosed), e...)
}

// Host is one place on the network. It is a node.Transport.
type Host struct {
	net    *Network
	addr   netip.AddrPort
	id     *ident.Identity
	trust  *ident.Trust
	accept chan node.Conn
	gone   chan struct{} // closed when the host was taken off the network
	once   sync.Once
}

// Join puts a host on the network, in the place of one that had the address before.
func (n *Network) Join(addr netip.AddrPort, id *ident.Identity, trust *ident.Trust) *Host {
	h := &Host{net: n, addr: addr, id: id, trust: trust, accept: make(chan node.Conn, 64), gone: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr] = h
	return h
}

// Vanish takes the host off the network without a goodbye: what is sent to it is lost, nobody is told.
func (h *Host) Vanish() { h.once.Do(func() { close(h.gone) }) }

// Partition puts hosts on one side of a split; the zero side is where all begin.
func (n *Network) Partition(side int, addrs ...netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range addrs {
		n.side[a] = side
	}
}

// Heal ends all partitions.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.side)
}

// Delivered is how many messages arrived, and their bytes.
func (n *Network) Delivered() (messages, bytes uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.delivered, n.bytes
}

func (h *Host) vanished() bool {
	select {
	case <-h.gone:
		return true
	default:
		return false
	}
}

// passes reports whether something sent now from a to b arrives, and when.
func (n *Network) passes(a, b *Host) (after time.Duration, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a.vanished() || b.vanished() || n.side[a.addr] != n.side[b.addr] {
		return 0, false
	}
	after = n.cond.Delay
	if n.cond.Jitter > 0 {
		after += time.Duration(n.rng.Int64N(int64(n.cond.Jitter)))
	}
	for again := RetransmitAfter; n.cond.Loss > 0 && n.rng.Float64() < n.cond.Loss; again *= 2 {
		after += again
	}
	return after, true
}

// check counts a sign of life that was asked for, as a STUN Binding with ICE's attributes and its answer, and reports
// whether neither was lost.
func (n *Network) check() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bytes += 112 + 64
	there, back := n.rng.Float64(), n.rng.Float64()
	return there >= n.cond.Loss && back >= n.cond.Loss
}

func (n *Network) count(b []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delivered++
	n.bytes += uint64(len(b))
}

// handshake is what both ends find out about each other: two round trips and two chains.
func (n *Network) handshake(ctx context.Context, client, server *Host) (ofServer, ofClient *ident.Peer, err error) {
	var wait time.Duration
	for range 4 {
		d, ok := n.passes(client, server)
		if !ok {
			<-ctx.Done() // as a lost packet: nobody says no
			return nil, nil, fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err())
		}
		wait += d
	}
	if err := sleep(ctx, wait); err != nil {
		return nil, nil, err
	}
	now := time.Now()
	if ofServer, err = client.trust.VerifyChain(server.id.Signer().Certificates(), now); err != nil {
		return nil, nil, fmt.Errorf("server certificate: %w", err)
	}
	if ofClient, err = server.trust.VerifyChain(client.id.Signer().Certificates(), now); err != nil {
		return nil, nil, fmt.Errorf("alert, client certificate: %w", err)
	}
	return ofServer, ofClient, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Accept is node.Transport's.
func (h *Host) Accept(ctx context.Context) (node.Conn, error) {
	select {
	case c := <-h.accept:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Bootstrap is node.Transport's.
func (h *Host) Bootstrap(ctx context.Context, addr netip.AddrPort) (node.Conn, error) {
	h.net.mu.Lock()
	far := h.net.hosts[addr]
	h.net.mu.Unlock()
	if far == nil {
		return nil, ErrUnreachable
	}
	ofServer, ofClient, err := h.net.handshake(ctx, h, far)
	if err != nil {
		return nil, err
	}
	near, other := newPair(h, far, ofServer, ofClient)
	select {
	case far.accept <- other:
		return near, nil
	default:
		_ = near.Close()
		return nil, ErrUnreachable
	}
}

// meeting is one side of an attempt that waits for the other.
type meeting struct {
	host  *Host
	other string // ufrag of the side it wants
	offer bool
	met   chan met
}

type met struct {
	conn node.Conn
	app  node.AppConn
	err  error
}

// Attempt is a node.Attempt.
type Attempt struct {
	host  *Host
	local wire.IceParameters
}

// Prepare is node.Transport's.
func (h *Host) Prepare(ctx context.Context) (node.Attempt, error) {
	h.net.mu.Lock()
	ufrag := fmt.Sprintf("%08x", h.net.rng.Uint32())
	h.net.mu.Unlock()
	return &Attempt{host: h, local: wire.IceParameters{
		Ufrag: []byte(ufrag), Password: []byte("0123456789abcdef01234567"),
		Candidates: []wire.IceCandidate{{Addr: h.addr, Link: wire.LinkDTLSUDPSR, Foundation: []byte("1"), Priority: 1, Type: wire.CandHost}},
	}}, ctx.Err()
}

// Local is node.Attempt's.
func (a *Attempt) Local() wire.IceParameters { return a.local }

// Close is node.Attempt's.
func (a *Attempt) Close() error { return nil }

// Connect is node.Attempt's.
func (a *Attempt) Connect(ctx context.Context, remote wire.IceParameters, _ wire.NodeID, offerer bool) (node.Conn, error) {
	m, err := a.meet(ctx, remote, offerer, false)
	return m.conn, err
}

// ConnectApp is node.Attempt's.
func (a *Attempt) ConnectApp(ctx context.Context, remote wire.IceParameters, _ wire.NodeID, offerer bool) (node.AppConn, error) {
	m, err := a.meet(ctx, remote, offerer, true)
	return m.app, err
}

// meet waits until the side with the remote ufrag wants this one, too.
func (a *Attempt) meet(ctx context.Context, remote wire.IceParameters, offerer, app bool) (met, error) {
	n := a.host.net
	own, other := string(a.local.Ufrag), string(remote.Ufrag)
	me := &meeting{host: a.host, other: other, offer: offerer, met: make(chan met, 1)}
	n.mu.Lock()
	far := n.meetings[other]
	if far != nil && far.other == own && far.offer != offerer {
		delete(n.meetings, other)
	} else {
		far = nil
		n.meetings[own] = me
	}
	n.mu.Unlock()
	if far == nil {
		select {
		case m := <-me.met:
			return m, m.err
		case <-ctx.Done():
			n.mu.Lock()
			delete(n.meetings, own)
			n.mu.Unlock()
			select {
			case m := <-me.met: // met at the last moment
				return m, m.err
			default:
			}
			return met{}, fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err())
		}
	}
	mine, theirs := a.join(ctx, far, app, offerer)
	far.met <- theirs
	return mine, mine.err
}

// join makes the two ends. The offerer is the (D)TLS server (RFC 6940 §6.5.1).
func (a *Attempt) join(ctx context.Context, far *meeting, app, offerer bool) (mine, theirs met) {
	ofFar, ofNear, err := a.host.net.handshake(ctx, a.host, far.host)
	if err != nil {
		return met{err: err}, met{err: err}
	}
	if app {
		near, other := newAppPair(a.host, far.host, ofFar, ofNear, !offerer)
		return met{app: near}, met{app: other}
	}
	near, other := newPair(a.host, far.host, ofFar, ofNear)
	return met{conn: near}, met{conn: other}
}
