package dns

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// limits tells handsets apart: how much each asks, and how many connections it holds.
type limits struct {
	mu      sync.Mutex
	sources map[netip.Addr]*source
	conns   int
	limited uint64
	refused uint64
}

type source struct {
	tokens float64
	at     time.Time
	conns  int
}

// take reports whether a handset may ask once more.
func (l *limits) take(now time.Time, from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.source(now, from)
	s.tokens = min(queryBurst, s.tokens+queryRate*max(now.Sub(s.at), 0).Seconds())
	s.at = now
	if s.tokens < 1 {
		l.limited++
		return false
	}
	s.tokens--
	return true
}

// source finds or makes the record of a handset.
func (l *limits) source(now time.Time, from netip.Addr) *source {
	s := l.sources[from]
	if s != nil {
		return s
	}
	for a, o := range l.sources {
		if len(l.sources) < maxSources {
			break
		}
		// Any of them makes room. An address costs nothing to make up, so a full table must not keep out who comes next:
		// it would be the end of names for all phones.
		if o.conns == 0 {
			delete(l.sources, a)
		}
	}
	s = &source{tokens: queryBurst, at: now}
	l.sources[from] = s
	return s
}

// open counts a connection, if there may be one more.
func (l *limits) open(now time.Time, from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.source(now, from)
	if s.conns >= maxOwnConns || l.conns >= maxConns {
		l.refused++
		return false
	}
	s.conns++
	l.conns++
	return true
}

func (l *limits) close(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns--
	if s := l.sources[from]; s != nil {
		s.conns--
	}
}

func (l *limits) counts() (limited, refused uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.limited, l.refused
}

// listener takes connections of handsets alone, and of each only some.
type listener struct {
	net.Listener
	s *Server
}

// Accept returns the next connection that is to be served.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
		from := ap.Addr().Unmap()
		switch {
		case err != nil || !l.s.network.Contains(from) && !from.IsLoopback():
			l.s.foreign.Add(1)
		case l.s.limits.open(time.Now(), from):
			return &conn{Conn: c, closed: sync.OnceFunc(func() { l.s.limits.close(from) })}, nil
		}
		_ = c.Close()
	}
}

// conn gives its place free when it is closed.
type conn struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.closed()
	return c.Conn.Close()
}
