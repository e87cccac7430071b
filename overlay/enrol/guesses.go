package enrol

import (
	"net/netip"
	"sync"
	"time"
)

// How fast passwords may be tried: "provided that the enrollment server uses strict rate-limiting policies"
// (RFC 6940 §13.6.2).
const (
	triesEach   = 5 // of one address, at once
	pauseEach   = 30 * time.Second
	triesAll    = 100 // of everybody, at once
	pauseAll    = time.Second
	maxGuessers = 1024 // addresses remembered
)

// tries is a bucket of tries that fills up by one every pause.
type tries struct {
	left int
	at   time.Time
}

func (t *tries) fill(now time.Time, most int, pause time.Duration) {
	if n := int(now.Sub(t.at) / pause); n > 0 || now.Before(t.at) {
		t.left, t.at = min(most, t.left+max(n, 0)), now
	}
}

// guesses counts wrong passwords by address. When there are too many addresses to remember, those that nothing is held
// against are forgotten, and a new one beyond that shares what everybody has.
type guesses struct {
	mu   sync.Mutex
	all  tries
	each map[netip.Prefix]*tries
}

func newGuesses(now time.Time) *guesses {
	return &guesses{all: tries{triesAll, now}, each: map[netip.Prefix]*tries{}}
}

// network is what one guesser can have many addresses of: an IPv6 /64.
func network(a netip.Addr) netip.Prefix {
	bits := 32
	if a = a.Unmap().WithZone(""); a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // the zero Addr gives the zero Prefix: one for all
	return p
}

// wait is how long the address has to wait before it may try again; 0: not at all.
func (g *guesses) wait(a netip.Addr, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pause(a, now)
}

// try is wait and, where that is 0, counts a wrong password before it is known whether it is one: of those that are tried
// at once each counts.
func (g *guesses) try(a netip.Addr, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if wait := g.pause(a, now); wait > 0 {
		return wait
	}
	g.count(a, now)
	return 0
}

// right takes back what try counted.
func (g *guesses) right(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all.left = min(g.all.left+1, triesAll)
	if t := g.each[network(a)]; t != nil {
		t.left = min(t.left+1, triesEach)
	}
}

// pause is called with mu held, as count is.
func (g *guesses) pause(a netip.Addr, now time.Time) time.Duration {
	g.all.fill(now, triesAll, pauseAll)
	if t := g.each[network(a)]; t != nil {
		if t.fill(now, triesEach, pauseEach); t.left <= 0 {
			return pauseEach
		}
	}
	if g.all.left <= 0 {
		return pauseAll
	}
	return 0
}

func (g *guesses) count(a netip.Addr, now time.Time) {
	g.all.left--
	key := network(a)
	t := g.each[key]
	if t == nil {
		if len(g.each) >= maxGuessers {
			for k, o := range g.each {
				if o.fill(now, triesEach, pauseEach); o.left >= triesEach {
					delete(g.each, k)
				}
			}
		}
		if len(g.each) >= maxGuessers {
			return
		}
		t = &tries{triesEach, now}
		g.each[key] = t
	}
	t.left--
}
