package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Bounds of a Server.
const (
	maxConns    = 32 // TCP connections
	maxOwnConns = 4  // of one handset
	maxQueries  = 64 // of one connection
	tcpIdle     = 5 * time.Second
	queryRate   = 100 // of one handset, each second
	queryBurst  = 300
	maxSources  = 1024 // handsets that are told apart
)

// Stats counts queries and what became of them.
type Stats struct {
	Queries, NameErrors, Malformed uint64
	RateLimited                    uint64 // dropped: a handset asks more than any needs to
	Foreign                        uint64 // dropped: not from the handsets' network
	ConnectionsRefused             uint64
}

// Server answers queries of handsets.
type Server struct {
	network netip.Prefix
	log     *slog.Logger
	zone    atomic.Pointer[Zone]
	limits  limits

	queries, nameErrors, malformed, foreign atomic.Uint64
}

// NewServer makes a Server for the handsets of a network. log may be nil.
func NewServer(network netip.Prefix, zone *Zone, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{network: network, log: log, limits: limits{sources: map[netip.Addr]*source{}}}
	s.zone.Store(zone)
	return s
}

// Replace has the next queries answered from another Zone.
func (s *Server) Replace(zone *Zone) { s.zone.Store(zone) }

// Stats are the counts so far.
func (s *Server) Stats() Stats {
	limited, refused := s.limits.counts()
	return Stats{
		Queries: s.queries.Load(), NameErrors: s.nameErrors.Load(), Malformed: s.malformed.Load(), Foreign: s.foreign.Load(),
		RateLimited: limited, ConnectionsRefused: refused,
	}
}

// Serve answers on a datagram socket and a listener until ctx ends, and closes both.
func (s *Server) Serve(ctx context.Context, udp net.PacketConn, tcp net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	accept := &listener{Listener: tcp, s: s}
	streams := &dns.Server{
		Listener: accept, Handler: dns.HandlerFunc(s.overTCP), MaxTCPQueries: maxQueries, ReadTimeout: tcpIdle, WriteTimeout: tcpIdle,
		IdleTimeout: func() time.Duration { return tcpIdle },
	}
	errs := make([]error, 2)
	var all sync.WaitGroup
	started := make(chan struct{})
	streams.NotifyStartedFunc = func() { close(started) }
	all.Go(func() {
		defer cancel()
		if err := streams.ActivateAndServe(); ctx.Err() == nil {
			errs[0] = fmt.Errorf("name server, TCP: %w", err)
		}
	})
	all.Go(func() {
		defer cancel()
		errs[1] = s.datagrams(ctx, udp)
	})
	<-ctx.Done()
	_ = udp.Close()
	select {
	case <-started:
		_ = streams.ShutdownContext(context.WithoutCancel(ctx)) // connections end within tcpIdle, and are woken at once
	default:
	}
	_ = tcp.Close()
	all.Wait()
	return errors.Join(errs...)
}

// datagrams answers one after the other: an answer takes microseconds, and what comes meanwhile waits in the kernel.
func (s *Server) datagrams(ctx context.Context, c net.PacketConn) error {
	b, out := make([]byte, 4096), make([]byte, 4096)
	for {
		n, from, err := c.ReadFrom(b)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the socket was closed because ctx ended
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("name server, UDP: %w", err)
		}
		if err != nil {
			continue // what ICMP told of an earlier answer
		}
		u, ok := from.(*net.UDPAddr)
		if !ok || !s.welcome(u.AddrPort().Addr()) {
			continue
		}
		if r := s.answer(b[:n], out, maxUDP); r != nil {
			if _, err := c.WriteTo(r, from); err != nil {
				s.log.Debug("answer not sent", "to", from, "err", err)
			}
		}
	}
}

// welcome reports whether a query from an address is looked at. An answer to a forged one would go to somebody else.
func (s *Server) welcome(from netip.Addr) bool {
	from = from.Unmap()
	if !s.network.Contains(from) && !from.IsLoopback() {
		s.foreign.Add(1)
		return false
	}
	return s.limits.take(time.Now(), from)
}

// answer is the answer to a datagram, in buf where it fits; nil if there is none.
func (s *Server) answer(query, buf []byte, size int) []byte {
	s.queries.Add(1)
	q := new(dns.Msg)
	if err := q.Unpack(query); err != nil {
		s.malformed.Add(1)
		if len(query) < 12 || query[2]&0x80 != 0 {
			return nil
		}
		r := new(dns.Msg)
		r.Id, r.Response, r.Rcode = uint16(query[0])<<8|uint16(query[1]), true, dns.RcodeFormatError
		b, _ := r.PackBuffer(buf) // a header alone can always be written
		return b
	}
	r := s.zone.Load().Answer(q, size)
	if r == nil {
		s.malformed.Add(1)
		return nil
	}
	if r.Rcode == dns.RcodeNameError {
		s.nameErrors.Add(1)
	}
	b, err := r.PackBuffer(buf)
	if err != nil {
		s.malformed.Add(1) // a name that cannot be written again
		return nil
	}
	return b
}

func (s *Server) overTCP(w dns.ResponseWriter, q *dns.Msg) {
	from, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil || !s.limits.take(time.Now(), from.Addr().Unmap()) {
		_ = w.Close()
		return
	}
	s.queries.Add(1)
	r := s.zone.Load().Answer(q, dns.MaxMsgSize)
	if r == nil {
		_ = w.Close()
		return
	}
	if r.Rcode == dns.RcodeNameError {
		s.nameErrors.Add(1)
	}
	if err := w.WriteMsg(r); err != nil {
		s.log.Debug("answer not sent", "to", from, "err", err)
	}
}
