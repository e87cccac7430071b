package agent

import (
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"

	"fieldkit/sip/sipmsg"
)

// admission decides which messages of handsets are looked at at all. It stands
// before the parser and the transactions: a flood is counted and dropped at the
// price of a map access. A mutex, because each connection has its own reader.
type admission struct {
	limits    Limits
	network   netip.Prefix
	emergency []string

	mu      sync.Mutex
	global  bucket
	replies bucket // answers to what is not admitted are limited too
	endings bucket // of all together, see source.endings
	sources map[netip.Addr]*list.Element
	recent  *list.List // of *source, least recently heard first
	streams int
}

type source struct {
	addr    netip.Addr
	bucket  bucket
	endings bucket // beyond bucket, for what brings a call to its end and so makes less work, not more
	streams int
	last    time.Time
}

// verdict on a message.
type verdict uint8

const (
	admitted  verdict = iota
	overload          // answer 503
	discarded         // not even that
)

// Sources that were silent for so long give way to new ones when the table is full.
const sourceIdle = 30 * time.Second

func newAdmission(l Limits, network netip.Prefix, emergency []string) *admission {
	return &admission{
		limits: l, network: network, emergency: emergency,
		global: bucket{rate: float64(l.GlobalRate), burst: float64(l.GlobalBurst)},
		// One answer for each that is let in, at most.
		replies: bucket{rate: float64(l.GlobalRate) / 4, burst: float64(l.GlobalBurst) / 4},
		endings: bucket{rate: float64(l.GlobalRate) / 4, burst: float64(l.GlobalBurst) / 4},
		sources: make(map[netip.Addr]*list.Element), recent: list.New(),
	}
}

// bucket is a token bucket; it starts full.
type bucket struct {
	rate, burst float64
	used        float64
	last        time.Time
}

func (b *bucket) take(now time.Time) bool {
	if d := now.Sub(b.last); d > 0 {
		b.used = max(0, b.used-d.Seconds()*b.rate)
		b.last = now
	}
	if b.used+1 > b.burst {
		return false
	}
	b.used++
	return true
}

// near says whether an address is one of the handset network.
func (a *admission) near(addr netip.Addr) bool {
	return !a.network.IsValid() || a.network.Contains(addr.Unmap())
}

func (a *admission) source(now time.Time, addr netip.Addr) *source {
	if e := a.sources[addr]; e != nil {
		s := e.Value.(*source)
		s.last = now
		a.recent.MoveToBack(e)
		return s
	}
	if a.recent.Len() >= a.limits.Sources {
		// Spoofed addresses must not push out the phones that are there: only one
		// that fell silent gives way.
		e := a.recent.Front()
		old := e.Value.(*source)
		if old.streams > 0 || now.Sub(old.last) < sourceIdle {
			return nil
		}
		a.recent.Remove(e)
		delete(a.sources, old.addr)
	}
	s := &source{
		addr: addr, last: now,
		bucket:  bucket{rate: float64(a.limits.SourceRate), burst: float64(a.limits.SourceBurst)},
		endings: bucket{rate: float64(a.limits.SourceRate) / 4, burst: float64(a.limits.SourceBurst) / 4},
	}
	a.sources[addr] = a.recent.PushBack(s)
	return s
}

// admit judges a message. Emergency calls are admitted always: sip.md rule 6.
func (a *admission) admit(now time.Time, addr netip.Addr, b []byte) verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.source(now, addr)
	if s != nil && s.bucket.take(now) && a.global.take(now) {
		return admitted
	}
	line, request := sipmsg.Peek(b)
	if request && line.Method == "INVITE" && slices.Contains(a.emergency, line.User) {
		return admitted
	}
	if s != nil && (!request || ends(line.Method)) && s.endings.take(now) && a.endings.take(now) {
		return admitted
	}
	if s == nil || !request || line.Method == "ACK" || !a.replies.take(now) {
		return discarded
	}
	return overload
}

// ends tells whether a method completes or ends what was begun. A BYE that is refused leaves the other phone talking
// to nobody.
func ends(method string) bool {
	return method == "BYE" || method == "CANCEL" || method == "ACK"
}

// connect asks for room for a connection; disconnect gives it back.
func (a *admission) connect(now time.Time, addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.source(now, addr)
	if s == nil || a.streams >= a.limits.Connections || s.streams >= a.limits.SourceStream {
		return false
	}
	a.streams++
	s.streams++
	return true
}

func (a *admission) disconnect(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.streams--
	if e := a.sources[addr]; e != nil {
		e.Value.(*source).streams--
	}
}
