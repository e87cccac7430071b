package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/link/sr"
	"fieldkit/overlay/link/stream"
)

// maxReadErrors is how many warnings in a row a far end may send before its link is closed.
const maxReadErrors = 16

var errGoodbye = errors.New("the far end closed")

// session is a finished handshake: what the far end is, and how records go to it and come from it.
type session struct {
	records recordConn
	peer    *ident.Peer
	secrets keyer
	client  bool   // this end was the TLS client
	srtp    uint16 // the agreed SRTP protection profile, 0 for none
	stream  bool   // over TCP: records come whole and in order or not at all
	guard   *guard // nil over TCP

	proof *sr.Reliability // the machine that carried the proofs of a shared-secret link; the link goes on with it
	early [][]byte        // messages that came behind the far end's proof
	shown []byte          // that proof, which may come again long after
}

// recordConn carries frames and messages, each whole. Write does not wait for the far end.
type recordConn interface {
	io.ReadWriteCloser
	MaxRecord() int // what Read may need room for
}

// keyer derives keys from a handshake (RFC 5705).
type keyer interface {
	Export(label string, context []byte, n int) ([]byte, error)
}

// carrier is what a Conn and an AppConn have in common: one session, what it runs on, and its end.
type carrier struct {
	t      *Transport
	sess   *session
	guard  *guard
	local  netip.AddrPort
	remote netip.AddrPort

	life context.Context // ends when the link does; its cause is why
	end  context.CancelCauseFunc

	relayed atomic.Bool

	pulse    pulse
	agentNet *agentNet         // the sockets of its ICE; nil without
	check    func() bool       // nil: the link has no cheap check
	home     func() netip.Addr // the local address it hangs on; invalid where that is not known
}

// newCarrier takes over a finished session. life is cancelled by whatever notices first that the link is gone;
// release is called after the goodbye, set before anybody else sees the carrier.
func (t *Transport) newCarrier(s *session, local, remote net.Addr, life context.Context, end context.CancelCauseFunc, release func(), set ...func(*carrier)) *carrier {
	c := &carrier{t: t, sess: s, guard: s.guard, local: addrPortOf(local), remote: addrPortOf(remote), life: life, end: end}
	c.home = func() netip.Addr { return c.local.Addr() }
	for _, set := range set {
		set(c)
	}
	c.alive() // the handshake
	t.links.add(c)
	t.tasks.add()
	context.AfterFunc(life, func() {
		defer t.tasks.done()
		t.links.remove(c)
		if s.guard != nil {
			s.guard.parting.Store(true)
		}
		// Says goodbye and waits for the library's goroutines, which can take a flight interval; nobody waits
		// for it here.
		_ = s.records.Close()
		if s.guard != nil {
			_ = s.guard.Close()
		}
		release()
	})
	return c
}

// Peer is who is at the other end, as its certificate says.
func (c *carrier) Peer() *ident.Peer { return c.sess.peer }

// LocalAddr and RemoteAddr are the addresses when the link was made.
func (c *carrier) LocalAddr() netip.AddrPort { return c.local }

// RemoteAddr is the far end's address when the link was made.
func (c *carrier) RemoteAddr() netip.AddrPort { return c.remote }

// Done is closed when the link is gone.
func (c *carrier) Done() <-chan struct{} { return c.life.Done() }

// Err is why the link is gone: always ErrClosed, and a reason where one is known. nil while it lives.
func (c *carrier) Err() error {
	if c.life.Err() == nil {
		return nil
	}
	return closeCause(context.Cause(c.life))
}

// Close ends the link. It does not wait for the goodbye to be sent and may be called more than once.
func (c *carrier) Close() error {
	c.end(ErrClosed)
	return nil
}

// alive notes that the far end proved to live.
func (c *carrier) alive() { c.pulse.beat(c.t.cfg.Now().Sub(c.t.born)) }

// read hands every record's content to take, whose it is, until the link is gone, and what there is of one that is too
// long for the link to tooLong, if that is not nil.
func (c *carrier) read(take func([]byte), tooLong chan<- []byte) {
	buf := make([]byte, c.sess.records.MaxRecord())
	for failures := 0; failures < maxReadErrors; {
		n, err := c.sess.records.Read(buf)
		switch {
		case err == nil: // also what came just before the end: it may say why
			failures = 0
			c.alive()
			take(append(make([]byte, 0, n), buf[:n]...))
		case c.life.Err() != nil:
			return
		case errors.Is(err, io.EOF):
			c.end(errGoodbye)
			return
		case c.sess.stream:
			if long := new(stream.TooLongError); tooLong != nil && errors.As(err, &long) {
				tooLong <- long.Head // the first and last
				return
			}
			c.end(fmt.Errorf("%w: %w", ErrLinkFailed, err))
			return
		default: // a warning alert; anything worse ends in io.EOF
			failures++
		}
	}
	c.end(ErrLinkFailed)
}

// registry is the links that are open.
type registry struct {
	mu   sync.Mutex
	open map[*carrier]struct{}
}

func (r *registry) add(c *carrier) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = make(map[*carrier]struct{})
	}
	r.open[c] = struct{}{}
}

func (r *registry) remove(c *carrier) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
}

func (r *registry) all() []*carrier {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*carrier, 0, len(r.open))
	for c := range r.open {
		list = append(list, c)
	}
	return list
}
