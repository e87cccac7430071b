package link

import (
	"context"
	"errors"
	"io"
	"net/netip"

	"fieldkit/overlay/ident"
)

// maxReadErrors is how many warnings in a row a far end may send before its link is closed.
const maxReadErrors = 16

// carrier is what a Conn and an AppConn have in common: one DTLS session, what it runs on, and its end.
type carrier struct {
	t      *Transport
	sess   *session
	guard  *guard
	local  netip.AddrPort
	remote netip.AddrPort

	life context.Context // ends when the link does; its cause is why
	end  context.CancelCauseFunc
}

// newCarrier takes over a finished session. life is cancelled by whatever notices first that the link is gone;
// release is called after the goodbye.
func (t *Transport) newCarrier(s *session, g *guard, life context.Context, end context.CancelCauseFunc, release func()) *carrier {
	c := &carrier{t: t, sess: s, guard: g, local: addrPortOf(g.LocalAddr()), remote: addrPortOf(g.RemoteAddr()), life: life, end: end}
	t.tasks.add()
	context.AfterFunc(life, func() {
		defer t.tasks.done()
		g.parting.Store(true)
		// Says goodbye and waits for the library's goroutines, which can take a flight interval; nobody waits
		// for it here.
		_ = s.Close()
		_ = g.Close()
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

// read hands every record's content to take, whose it is, until the link is gone.
func (c *carrier) read(take func([]byte)) {
	buf := make([]byte, maxDatagram)
	for failures := 0; failures < maxReadErrors; {
		n, err := c.sess.Read(buf)
		switch {
		case c.life.Err() != nil:
			return
		case errors.Is(err, io.EOF):
			c.end(errGoodbye)
			return
		case err != nil: // a warning alert; anything worse ends in io.EOF
			failures++
		default:
			failures = 0
			take(append(make([]byte, 0, n), buf[:n]...))
		}
	}
	c.end(ErrLinkFailed)
}

var errGoodbye = errors.New("the far end closed")
