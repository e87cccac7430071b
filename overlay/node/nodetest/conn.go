package nodetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
)

const queueLen = 512 // messages under way in one direction

// errQueueFull is what a real link says, too.
var errQueueFull = errors.New("simulated link: queue full")

type packet struct {
	at    time.Time
	bytes []byte
	media bool
}

// pipe is one direction: in order, each packet after its delay.
type pipe struct {
	from, to *Host
	queue    chan packet
	last     time.Time // when the last one arrives; of the sender, under mu
	mu       sync.Mutex
}

func (p *pipe) send(b []byte, media bool) error {
	after, ok := p.from.net.passes(p.from, p.to)
	if !ok {
		return nil // swallowed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := time.Now().Add(after)
	if at.Before(p.last) {
		at = p.last
	}
	p.last = at
	select {
	case p.queue <- packet{at, b, media}:
		return nil
	default:
		return errQueueFull
	}
}

// run delivers until the pair is closed.
func (p *pipe) run(closed <-chan struct{}, deliver func(packet)) {
	for {
		select {
		case <-closed:
			return
		case k := <-p.queue:
			t := time.NewTimer(time.Until(k.at))
			select {
			case <-closed:
				t.Stop()
				return
			case <-t.C:
			}
			if _, ok := p.from.net.passes(p.from, p.to); ok {
				p.from.net.count(k.bytes)
				deliver(k)
			}
		}
	}
}

// end is one end of a pair.
type end struct {
	peer             *ident.Peer
	out              *pipe
	in               chan []byte
	closed           chan struct{}
	once             sync.Once
	other            *end
	bytesIn, bytesOu atomic.Uint64
	delay            time.Duration
	heard            atomic.Int64 // ns; of checked
}

func ends(near, far *Host, ofFar, ofNear *ident.Peer) (a, b *end) {
	mk := func(peer *ident.Peer, from, to *Host) *end {
		return &end{
			peer: peer, out: &pipe{from: from, to: to, queue: make(chan packet, queueLen)},
			in: make(chan []byte, queueLen), closed: make(chan struct{}), delay: near.net.cond.Delay,
		}
	}
	a, b = mk(ofFar, near, far), mk(ofNear, far, near)
	a.other, b.other = b, a
	near.net.keep(a, b)
	return a, b
}

func (e *end) Peer() *ident.Peer     { return e.peer }
func (e *end) Done() <-chan struct{} { return e.closed }

// Close closes this end at once and the other one when the close_notify has arrived, if it does.
func (e *end) Close() error {
	e.once.Do(func() {
		close(e.closed)
		if after, ok := e.out.from.net.passes(e.out.from, e.out.to); ok {
			time.AfterFunc(after, func() { e.other.once.Do(func() { close(e.other.closed) }) })
		}
	})
	return nil
}

func (e *end) isClosed() bool {
	select {
	case <-e.closed:
		return true
	default:
		return false
	}
}

type conn struct{ *end }

// newPair makes an overlay link.
func newPair(near, far *Host, ofFar, ofNear *ident.Peer) (a, b node.Conn) {
	x, y := ends(near, far, ofFar, ofNear)
	go x.out.run(x.closed, func(k packet) { y.push(k.bytes) })
	go y.out.run(y.closed, func(k packet) { x.push(k.bytes) })
	if near.net.cond.Checks {
		return checked{conn{x}}, checked{conn{y}}
	}
	return conn{x}, conn{y}
}

// checked is an end that can be asked for a sign of life, as a link with ICE.
type checked struct{ conn }

// Heard is node.Checker's.
func (c checked) Heard() time.Time {
	if ns := c.heard.Load(); ns != 0 {
		return time.Unix(0, ns)
	}
	return time.Time{}
}

// Check is node.Checker's: 112 bytes there, 64 back. What is lost of it is lost.
func (c checked) Check() bool {
	n := c.out.from.net
	there, ok := n.passes(c.out.from, c.out.to)
	back, ok2 := n.passes(c.out.to, c.out.from)
	if n.check() && ok && ok2 && !c.isClosed() && !c.other.isClosed() {
		time.AfterFunc(there+back, func() { c.heard.Store(time.Now().UnixNano()) })
	}
	return true
}

func (e *end) push(b []byte) {
	select {
	case e.in <- b:
	default: // a real link would not acknowledge
	}
}

func (c conn) Send(b []byte) error {
	if c.isClosed() {
		return io.ErrClosedPipe
	}
	c.bytesOu.Add(uint64(len(b)))
	return c.out.send(b, false)
}

func (c conn) Receive(ctx context.Context) ([]byte, error) {
	select {
	case b := <-c.in:
		c.bytesIn.Add(uint64(len(b)))
		return b, nil
	case <-c.closed:
		return nil, io.EOF
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Suspect is false: what the network drops is lost for good, and nothing here waits for acknowledgements.
func (c conn) Suspect() bool { return false }

func (c conn) Stats() node.ConnStats {
	return node.ConnStats{RTT: 2 * c.delay, BytesSent: c.bytesOu.Load(), BytesReceived: c.bytesIn.Load()}
}

// appConn is a trunk.
type appConn struct {
	*end
	client   bool
	secret   [32]byte // what both ends' exporters share
	handlers atomic.Pointer[[2]func([]byte)]
	handled  chan struct{}
	first    sync.Once
}

func newAppPair(near, far *Host, ofFar, ofNear *ident.Peer, nearIsClient bool) (a, b node.AppConn) {
	x, y := ends(near, far, ofFar, ofNear)
	secret := sha256.Sum256([]byte(near.addr.String() + far.addr.String() + time.Now().String()))
	p := &appConn{end: x, client: nearIsClient, secret: secret, handled: make(chan struct{})}
	q := &appConn{end: y, client: !nearIsClient, secret: secret, handled: make(chan struct{})}
	go x.out.run(x.closed, q.deliver)
	go y.out.run(y.closed, p.deliver)
	return p, q
}

func (c *appConn) deliver(k packet) {
	if k.media {
		if h := c.handlers.Load(); h != nil && h[1] != nil {
			h[1](k.bytes)
		}
		return
	}
	select {
	case <-c.handled:
		if h := c.handlers.Load(); h[0] != nil {
			h[0](k.bytes)
		}
	case <-c.closed:
	}
}

func (c *appConn) SendMessage(b []byte) error { return c.send(b, false) }
func (c *appConn) SendMedia(b []byte) error   { return c.send(b, true) }

func (c *appConn) send(b []byte, media bool) error {
	if c.isClosed() {
		return io.ErrClosedPipe
	}
	return c.out.send(append([]byte(nil), b...), media)
}

func (c *appConn) Handle(onMessage, onMedia func([]byte)) {
	c.first.Do(func() {
		c.handlers.Store(&[2]func([]byte){onMessage, onMedia})
		close(c.handled)
	})
}

func (c *appConn) ExportKeyingMaterial(label string, context []byte, n int) ([]byte, error) {
	h := sha256.Sum256(append(append(c.secret[:], label...), context...))
	out := make([]byte, n)
	for i := range out {
		out[i] = h[i%len(h)]
	}
	return out, nil
}

func (c *appConn) IsClient() bool      { return c.client }
func (c *appConn) SRTPProfile() uint16 { return 1 } // SRTP_AES128_CM_HMAC_SHA1_80
