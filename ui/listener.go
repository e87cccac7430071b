package ui

import (
	"net"
	"net/netip"
	"sync"
)

// maxPerClient bounds the connections of one address. A browser has six to each of the names that lead here; without a
// bound one handset could hold all that there are, and the phones' connectivity checks would wait behind it.
const maxPerClient = 12

// fair is a listener that gives no address more than its share: what is beyond is closed at once. Connections without an
// IP address, of a Unix socket, are not counted.
type fair struct {
	net.Listener

	mu   sync.Mutex
	open map[netip.Addr]int // as many entries as there are connections, at most
}

func newFair(l net.Listener) *fair { return &fair{Listener: l, open: map[netip.Addr]int{}} }

// Accept returns the next connection that is to be served.
func (l *fair) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		at, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil {
			return c, nil //nolint:nilerr // a Unix socket, whose other end has no address
		}
		from := at.Addr().Unmap()
		if l.add(from) {
			return &counted{Conn: c, closed: sync.OnceFunc(func() { l.remove(from) })}, nil
		}
		_ = c.Close()
	}
}

func (l *fair) add(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from] >= maxPerClient {
		return false
	}
	l.open[from]++
	return true
}

func (l *fair) remove(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from]--; l.open[from] == 0 {
		delete(l.open, from)
	}
}

// counted gives its place free when it is closed.
type counted struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.closed()
	return c.Conn.Close()
}
