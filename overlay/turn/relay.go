package turn

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/transport/v2"

	"fieldkit/overlay/stun"
	"fieldkit/overlay/wire"
)

// relay is the socket of one allocation as the library sees it. What a client sends leaves by WriteTo, what its peers
// send comes by ReadFrom; both are held to what a relay is for.
type relay struct {
	transport.UDPConn
	s      *Server
	raw    *net.UDPConn // the same, where it is the host's
	front  *front
	client netip.AddrPort
	user   string
	key    []byte
	member wire.NodeID
	at     netip.AddrPort
	used   atomic.Int64 // Unix nanoseconds
	in     bucket
	out    bucket
	ended  chan struct{} // reading has ended
	once   sync.Once     // of Close
	done   sync.Once     // of ended

	mu      sync.Mutex // a leaf
	allowed map[netip.Addr]bool

	lastFrom netip.AddrPort // owned by the reader
	lastAddr *net.UDPAddr
}

// open enters the relay in the server's books.
func (r *relay) open(c transport.UDPConn) {
	r.UDPConn, r.at = c, addrPortOf(c.LocalAddr())
	r.raw, _ = c.(*net.UDPConn)
	r.used.Store(r.s.cfg.Now().UnixNano())
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.relays[r.at] = r
	r.s.members[r.member]++
}

// Close takes the relay out of the books. The library calls it for every end of an allocation, and may twice.
func (r *relay) Close() error {
	r.once.Do(func() {
		r.s.mu.Lock()
		delete(r.s.relays, r.at)
		if r.s.members[r.member]--; r.s.members[r.member] <= 0 {
			delete(r.s.members, r.member)
		}
		r.s.mu.Unlock()
		_ = r.UDPConn.Close()
	})
	return nil
}

func (r *relay) lastUsed() time.Time { return time.Unix(0, r.used.Load()) }

// permit remembers an address that the client may send to and hear from. The library forgets permissions after five
// minutes and asks again; this list only bounds how many there can be.
func (r *relay) permit(a netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.allowed[a] && len(r.allowed) >= maxPermissions {
		return false
	}
	r.allowed[a] = true
	return true
}

func (r *relay) isPermitted(a netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.allowed[a]
}

// ReadFrom returns the next datagram of a peer that the client gave permission to.
func (r *relay) ReadFrom(b []byte) (int, net.Addr, error) {
	c := &r.s.stats
	for failures := 0; ; {
		n, from, err := readFrom(r.UDPConn, r.raw, b)
		if err != nil {
			// ICMP comes back so, about a candidate of the peer that is not there.
			if failures++; errors.Is(err, net.ErrClosed) || failures > maxReadErrors {
				r.done.Do(func() { close(r.ended) })
				return 0, nil, err
			}
			continue
		}
		failures = 0
		switch {
		case !r.isPermitted(from.Addr()):
			c.dropped.Add(1)
			continue
		case !stun.MayRelay(b[:n]):
			c.notRelayable.Add(1)
			continue
		case !r.spend(&r.in, n):
			c.overRate.Add(1)
			continue
		}
		c.relayed.Add(1)
		c.relayedBytes.Add(uint64(n))
		if from != r.lastFrom || r.lastAddr == nil {
			r.lastFrom, r.lastAddr = from, net.UDPAddrFromAddrPort(from)
		}
		return n, r.lastAddr, nil
	}
}

// WriteTo sends what the client wants sent, to where it may. The library takes what is not sent for sent.
func (r *relay) WriteTo(b []byte, to net.Addr) (int, error) {
	c := &r.s.stats
	dst := addrPortOf(to)
	switch {
	case !r.maySendTo(dst):
		c.forbidden.Add(1)
		return len(b), nil
	case !stun.MayRelay(b):
		c.notRelayable.Add(1)
		return len(b), nil
	case !r.spend(&r.out, len(b)):
		c.overRate.Add(1)
		return len(b), nil
	}
	r.used.Store(r.s.cfg.Now().UnixNano())
	c.relayed.Add(1)
	c.relayedBytes.Add(uint64(len(b)))
	var err error
	if r.raw != nil {
		_, err = r.raw.WriteToUDPAddrPort(b, dst)
	} else {
		_, err = r.UDPConn.WriteTo(b, to)
	}
	if err != nil {
		c.dropped.Add(1)
	}
	return len(b), nil
}

// maySendTo holds a destination against what permissions, which know no ports, cannot say: on this kit only other
// relays are reached, which is what two clients of one server need, and on other kits no port of a service.
func (r *relay) maySendTo(dst netip.AddrPort) bool {
	if !r.isPermitted(dst.Addr()) {
		return false
	}
	if r.s.owns(dst.Addr()) {
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return r.s.relays[dst] != nil && dst != r.at
	}
	return dst.Port() >= 1024 && !slices.Contains(r.s.cfg.ClosedPorts, dst.Port())
}

// spend takes n bytes from the relay's and the server's bandwidth.
func (r *relay) spend(b *bucket, n int) bool {
	now := r.s.cfg.Now()
	return b.take(now, float64(n), bandwidth, bandwidth) && r.s.total.take(now, float64(n), bandwidthAll, bandwidthAll)
}

// bucket is a token bucket. The zero value is full.
type bucket struct {
	mu    sync.Mutex
	spent float64
	at    time.Time
}

// take takes n tokens of burst, which come back at rate a second, if there are as many.
func (b *bucket) take(now time.Time, n, rate, burst float64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := now.Sub(b.at).Seconds(); d > 0 {
		b.spent = max(0, b.spent-d*rate)
	}
	b.at = now
	if b.spent+n > burst {
		return false
	}
	b.spent += n
	return true
}

// sources bounds the requests of each address. Beyond maxSources addresses all are forgotten: who was over his rate
// gains one burst.
type sources struct {
	mu   sync.Mutex
	from map[netip.Addr]*bucket
}

func (s *sources) take(a netip.Addr, now time.Time) bool {
	s.mu.Lock()
	b := s.from[a]
	if b == nil {
		if s.from == nil || len(s.from) >= maxSources {
			s.from = make(map[netip.Addr]*bucket)
		}
		b = new(bucket)
		s.from[a] = b
	}
	s.mu.Unlock()
	return b.take(now, 1, requestRate, requestBurst)
}
