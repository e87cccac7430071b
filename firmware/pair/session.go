package pair

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv6"
)

// Times and bounds of a session's sockets.
const (
	beaconEvery  = 500 * time.Millisecond
	meetTimeout  = 5 * time.Second
	maxStrangers = 4 // connections that have not met yet
)

// session is everything that exists while a pairing runs: sockets, connections and goroutines. The loop calls its
// methods; its goroutines tell the loop by notes.
type session struct {
	p      *Pairer
	ctx    context.Context
	cancel context.CancelFunc
	all    sync.WaitGroup

	began    time.Time
	id       *Session
	udp      *ipv6.PacketConn
	tcp      net.Listener
	crowd    atomic.Pointer[[]ID] // announced once there were too many
	dialling atomic.Bool
	places   map[ID]netip.AddrPort // where kits were heard last; the loop's
	peer     *peer                 // the kit that was met; the loop's

	admission atomic.Pointer[Admission]
	enrolling chan net.Conn // connections of the enrolment server
}

// open makes a session; what fails is told by an event.
func (p *Pairer) open(parent context.Context) *session {
	ctx, cancel := context.WithCancel(parent)
	s := &session{p: p, ctx: ctx, cancel: cancel, began: time.Now(), places: map[ID]netip.AddrPort{}, enrolling: make(chan net.Conn)}
	s.all.Go(func() {
		if err := s.start(); err != nil {
			p.cfg.Log.Warn("pairing not possible", "err", err)
			s.note(note{Event: Event{Kind: Unopened}})
		}
	})
	return s
}

func (s *session) start() error {
	var err error
	if s.id, err = NewSession(); err != nil {
		return err
	}
	var l net.ListenConfig
	address := net.JoinHostPort("::", strconv.Itoa(int(s.p.cfg.Port)))
	packets, err := l.ListenPacket(s.ctx, "udp6", address)
	if err != nil {
		return fmt.Errorf("socket of beacons: %w", err)
	}
	if s.tcp, err = l.Listen(s.ctx, "tcp6", address); err != nil {
		return fmt.Errorf("socket of meetings: %w", errors.Join(err, packets.Close()))
	}
	s.udp = ipv6.NewPacketConn(packets)
	closeAll := context.AfterFunc(s.ctx, func() { _ = errors.Join(packets.Close(), s.tcp.Close()) })
	if err := s.udp.SetControlMessage(ipv6.FlagInterface, true); err != nil {
		closeAll()
		return fmt.Errorf("socket of beacons: %w", errors.Join(err, packets.Close(), s.tcp.Close()))
	}
	s.note(note{Event: Event{Kind: Opened, ID: s.id.ID}})
	s.all.Go(s.announce)
	s.all.Go(s.listen)
	s.all.Go(s.accept)
	s.all.Go(s.serveEnrolment)
	return nil
}

// close ends the session and waits for its goroutines.
func (s *session) close() {
	s.cancel()
	if s.peer != nil {
		_ = s.peer.conn.Close()
	}
	s.all.Wait()
}

// note tells the loop.
func (s *session) note(n note) {
	n.from = s
	select {
	case s.p.events <- n: // also when the session is over: what was joined is joined
		return
	default:
	}
	select {
	case s.p.events <- n:
	case <-s.ctx.Done():
		if n.conn != nil {
			_ = n.conn.Close()
		}
	}
}

// announce sends beacons to every link.
func (s *session) announce() {
	joined := map[Link]bool{}
	group := &net.UDPAddr{IP: Group.AsSlice(), Port: int(s.p.cfg.Port)}
	for s.ctx.Err() == nil {
		b := beacon{id: s.id.ID, port: s.p.cfg.Port}
		if crowd := s.crowd.Load(); crowd != nil {
			b.crowd = *crowd
		}
		for _, l := range s.p.cfg.Links() {
			if !joined[l] {
				if err := s.udp.JoinGroup(&net.Interface{Index: l.Index, Name: l.Name}, group); err != nil {
					s.p.cfg.Log.Debug("no beacons on interface", "interface", l.Name, "err", err)
					continue
				}
				joined[l] = true
			}
			if _, err := s.udp.WriteTo(b.encode(), &ipv6.ControlMessage{IfIndex: l.Index, HopLimit: 1}, group); err != nil {
				s.p.cfg.Log.Debug("beacon not sent", "interface", l.Name, "err", err)
				delete(joined, l) // it may have been away
			}
		}
		select {
		case <-s.ctx.Done():
		case <-time.After(beaconEvery + rand.N(beaconEvery/4)):
		}
	}
}

// zone is the name of a link, if the interface is one.
func (s *session) zone(index int) (string, bool) {
	links := s.p.cfg.Links()
	i := slices.IndexFunc(links, func(l Link) bool { return l.Index == index })
	if i < 0 {
		return "", false
	}
	return links[i].Name, true
}

// listen takes the beacons of others. They come from a link's own addresses, or from nowhere: a router passes none on.
func (s *session) listen() {
	buf := make([]byte, maxBeacon+1)
	for {
		n, cm, from, err := s.udp.ReadFrom(buf)
		if err != nil {
			return // the session is over
		}
		src, ok := from.(*net.UDPAddr)
		if !ok || cm == nil {
			continue
		}
		zone, ok := s.zone(cm.IfIndex)
		if !ok || !src.AddrPort().Addr().IsLinkLocalUnicast() {
			s.p.stats.refused.Add(1)
			continue
		}
		b, ok := parseBeacon(buf[:n])
		if !ok {
			s.p.stats.malformed.Add(1)
			continue
		}
		if b.id == s.id.ID {
			continue
		}
		s.p.stats.beacons.Add(1)
		at := netip.AddrPortFrom(src.AddrPort().Addr().WithZone(zone), b.port)
		s.note(note{Event: Event{Kind: Heard, ID: b.id, Crowd: b.crowd}, at: at})
	}
}

// accept takes connections: to meet, and to enrol once somebody was let in.
func (s *session) accept() {
	strangers := make(chan struct{}, maxStrangers)
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: s.configFor}
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			return // the session is over
		}
		a, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		if s.isLink(a.Addr()) {
			select {
			case strangers <- struct{}{}:
				s.all.Go(func() {
					defer func() { <-strangers }()
					s.serve(tls.Server(c, cfg))
				})
				continue
			default:
			}
		}
		s.p.stats.refused.Add(1)
		_ = c.Close()
	}
}

// isLink tells whether an address is one of the own of a link.
func (s *session) isLink(a netip.Addr) bool {
	return a.Is6() && a.IsLinkLocalUnicast() && slices.ContainsFunc(s.p.cfg.Links(), func(l Link) bool { return l.Name == a.Zone() })
}

// configFor tells the two things apart that are served at the port.
func (s *session) configFor(h *tls.ClientHelloInfo) (*tls.Config, error) {
	if slices.Contains(h.SupportedProtos, Protocol) {
		return s.id.config(), nil
	}
	if a := s.admission.Load(); a != nil {
		return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{a.Certificate}}, nil
	}
	return nil, fmt.Errorf("%w: nobody is let in now", errProtocol)
}

func (s *session) serve(c *tls.Conn) {
	ctx, cancel := context.WithTimeout(s.ctx, meetTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		s.p.cfg.Log.Debug("pairing handshake", "from", c.RemoteAddr(), "err", err)
		_ = c.Close()
		return
	}
	if c.ConnectionState().NegotiatedProtocol == Protocol {
		s.meet(c, false, ID{})
		return
	}
	select {
	case s.enrolling <- c:
	case <-ctx.Done():
		_ = c.Close()
	}
}

// known notes where a kit is, for dial.
func (s *session) known(id ID, at netip.AddrPort) {
	if s != nil && (len(s.places) < maxHeard || s.places[id].IsValid()) {
		s.places[id] = at
	}
}

// dial connects to a kit that was heard, if nothing of the kind runs.
func (s *session) dial(id ID) {
	at, ok := s.places[id]
	if !ok || s.peer != nil || !s.dialling.CompareAndSwap(false, true) {
		return
	}
	s.all.Go(func() {
		met := false
		defer func() { s.dialling.Store(met) }() // once is enough
		ctx, cancel := context.WithTimeout(s.ctx, meetTimeout)
		defer cancel()
		c, err := new(net.Dialer).DialContext(ctx, "tcp6", at.String())
		if err != nil {
			s.p.cfg.Log.Debug("pairing connection", "to", at, "err", err)
			return // it is heard again
		}
		t := tls.Client(c, s.id.config())
		if err := t.HandshakeContext(ctx); err != nil {
			s.p.cfg.Log.Debug("pairing handshake", "with", at, "err", err)
			_ = t.Close()
			return
		}
		met = s.meet(t, true, id)
	})
}

// meet is Meet in time; want is the session that was heard, if this kit connected.
func (s *session) meet(c *tls.Conn, connected bool, want ID) (met bool) {
	state := c.ConnectionState()
	if id, err := sessionOf(state); err != nil || connected && id != want {
		_ = c.Close() // somebody replays the announcement of another
		return false
	}
	self, err := s.p.cfg.Membership.Facts()
	self.Pressed = time.Since(s.began)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(meetTimeout))
	}
	var m *Meeting
	if err == nil {
		m, err = Meet(c, state, s.id.ID, connected, self)
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		s.p.cfg.Log.Debug("pairing meeting", "with", c.RemoteAddr(), "err", err)
		if errors.Is(err, errSpoilt) {
			s.p.stats.spoilt.Add(1)
			s.note(note{Event: Event{Kind: Spoilt}})
		}
		_ = c.Close()
		return false
	}
	s.p.stats.meetings.Add(1)
	s.note(note{Event: Event{Kind: Met, Met: m}, conn: c})
	return true
}

// serveEnrolment is HTTPS for the kit that was let in.
func (s *session) serveEnrolment() {
	h := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if a := s.admission.Load(); a != nil {
				a.Enrolment.ServeHTTP(w, r)
				return
			}
			http.Error(w, "nobody is let in now", http.StatusForbidden)
		}),
		ReadTimeout: meetTimeout, WriteTimeout: joinTime, IdleTimeout: meetTimeout, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.p.cfg.Log.Handler(), slog.LevelDebug),
	}
	end := context.AfterFunc(s.ctx, func() { _ = h.Close() })
	defer end()
	_ = h.Serve(handover{s}) // until the session is over
}

// handover is a net.Listener of connections whose handshake is done.
type handover struct{ s *session }

func (h handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.s.enrolling:
		return c, nil
	case <-h.s.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (h handover) Close() error   { return nil }
func (h handover) Addr() net.Addr { return h.s.tcp.Addr() }
