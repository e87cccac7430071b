package pair

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// peer is the kit that was met, from then on.
type peer struct {
	conn *tls.Conn
	met  *Meeting
	role Role
	// confirmed is set before the other kit is told: from then on it may offer its mission.
	confirmed atomic.Bool
	offer     chan []byte // holds one
	done      chan struct{}
	gone      chan struct{} // the connection ended
}

// adopt makes a connection that of the pairing.
func (s *session) adopt(c *tls.Conn, met *Meeting, role Role) {
	p := &peer{conn: c, met: met, role: role, offer: make(chan []byte, 1), done: make(chan struct{}), gone: make(chan struct{})}
	s.peer = p
	s.all.Go(func() { s.read(p) })
}

// read takes what the other kit says until the connection ends.
func (s *session) read(p *peer) {
	defer close(p.gone)
	agreed, finished := false, false // the other kit confirmed; it is in
	limit := func() int {
		if agreed && p.role == Guest && p.confirmed.Load() {
			return maxOffer
		}
		return maxFrame
	}
	for {
		var m message
		if _, err := readFrame(p.conn, limit, &m); err != nil {
			s.note(note{Event: Event{Kind: Lost}})
			return
		}
		switch {
		case m.Confirmed:
			agreed = true
			s.note(note{Event: Event{Kind: Confirmed}})
		case m.Offer != "" && agreed && p.role == Guest && p.confirmed.Load():
			select {
			case p.offer <- []byte(m.Offer):
			default: // one is enough
			}
		case m.Done && p.role == Host && !finished:
			finished = true
			close(p.done)
		case m.End != Paired:
			s.note(note{Event: Event{Kind: Lost, Why: m.End}})
			return
		}
	}
}

// say writes one message within a time. Each is written whole, whoever else says something.
func (p *peer) say(m message, within time.Duration) error {
	if err := p.conn.SetWriteDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	_, err := writeFrame(p.conn, m)
	return err
}

// soon is for the few bytes that the loop writes itself: they fit into the buffer of a connection that carried next to
// nothing before.
const soon = 100 * time.Millisecond

func (s *session) confirm() {
	s.peer.confirmed.Store(true)
	if err := s.peer.say(message{Confirmed: true}, soon); err != nil {
		_ = s.peer.conn.Close() // read tells the loop
	}
}

// leave tells the other kit why the pairing ends, and goes.
func (s *session) leave(why Why) {
	if s.peer == nil || why == Paired {
		return
	}
	_ = s.peer.say(message{End: why}, soon) // it may be gone already
	_ = s.peer.conn.Close()
}

// admit lets the other kit in, in a goroutine that ends with the session.
func (s *session) admit() {
	p := s.peer
	s.all.Go(func() {
		err := s.host(p)
		s.note(note{Event: Event{Kind: Finished, Err: err}})
	})
}

var errGone = errors.New("the other kit did not say that it is in")

func (s *session) host(p *peer) (err error) {
	a, err := s.p.cfg.Membership.Admit(p.met.Peer.Key, p.met.Password)
	if err != nil {
		s.p.cfg.Log.Warn("kit not let in", "kit", p.met.Peer.Kit, "err", err)
		return fmt.Errorf("letting kit in: %w", err)
	}
	defer func() {
		s.admission.Store(nil)
		err = errors.Join(err, a.Close())
	}()
	s.admission.Store(a)
	if err := p.say(message{Offer: string(a.Offer)}, meetTimeout); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-p.gone:
	case <-s.ctx.Done():
	}
	select {
	case <-p.done: // it said so, and went
		return nil
	default:
		return errGone
	}
}

// join enrols at the other kit, in a goroutine that ends with the session. That it worked is told in any case.
func (s *session) join() {
	p := s.peer
	at, _ := netip.ParseAddrPort(p.conn.RemoteAddr().String())
	at = netip.AddrPortFrom(at.Addr(), s.p.cfg.Port)
	s.all.Go(func() {
		err := s.guest(p, at)
		if err != nil {
			s.p.cfg.Log.Warn("kit did not join", "mission", p.met.Peer.Mission, "err", err)
		}
		s.note(note{Event: Event{Kind: Finished, Err: err}})
	})
}

func (s *session) guest(p *peer, at netip.AddrPort) error {
	var offer []byte
	select {
	case offer = <-p.offer:
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	err := s.p.cfg.Membership.Join(s.ctx, Invitation{
		Host: p.met.Peer, Offer: offer, Account: p.met.Self.Key, Password: p.met.Password,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp6", at.String())
		},
	})
	if err != nil {
		return err
	}
	if err := p.say(message{Done: true}, meetTimeout); err != nil {
		s.p.cfg.Log.Debug("the other kit does not know that this one is in", "err", err)
	}
	return nil
}
