package sipusage_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/node"
	"fieldkit/overlay/sipusage"
	"fieldkit/overlay/wire"
)

// counter counts, by method, what kits put on their links: messages, in how many frames, of how many bytes.
type counter struct {
	mu      sync.Mutex
	methods map[wire.MessageCode]sum
	latest  map[uint64]wire.MessageCode // of each transaction: whose fragments follow
}

type sum struct{ messages, frames, bytes int }

func (a sum) plus(b sum) sum {
	return sum{a.messages + b.messages, a.frames + b.frames, a.bytes + b.bytes}
}

func newCounter() *counter {
	return &counter{methods: map[wire.MessageCode]sum{}, latest: map[uint64]wire.MessageCode{}}
}

// note counts one frame's worth. The method is in the first fragment, after the header.
func (c *counter) note(b []byte) {
	h, rest, err := wire.ParseHeader(b)
	if err != nil || len(rest) < 2 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := sum{0, 1, len(b)}
	if !h.IsFragment() || h.Offset() == 0 {
		s.messages = 1
		if len(c.latest) > 1000 {
			clear(c.latest)
		}
		c.latest[h.TransactionID] = wire.MessageCode(rest[0])<<8 | wire.MessageCode(rest[1])
	}
	code := c.latest[h.TransactionID]
	c.methods[code] = c.methods[code].plus(s)
}

// take returns what was counted since the last time.
func (c *counter) take() (methods map[wire.MessageCode]sum, all sum) {
	c.mu.Lock()
	defer c.mu.Unlock()
	methods, c.methods = c.methods, map[wire.MessageCode]sum{}
	for _, s := range methods {
		all = all.plus(s)
	}
	return methods, all
}

// counted is a Transport whose links a counter sees.
type counted struct {
	node.Transport
	c *counter
}

func (t counted) wrap(c node.Conn, err error) (node.Conn, error) {
	if err != nil {
		return nil, err
	}
	return countedConn{c, t.c}, nil
}

func (t counted) Accept(ctx context.Context) (node.Conn, error) {
	return t.wrap(t.Transport.Accept(ctx))
}

func (t counted) Bootstrap(ctx context.Context, addr netip.AddrPort) (node.Conn, error) {
	return t.wrap(t.Transport.Bootstrap(ctx, addr))
}

func (t counted) Prepare(ctx context.Context) (node.Attempt, error) {
	a, err := t.Transport.Prepare(ctx)
	if err != nil {
		return nil, err
	}
	return countedAttempt{a, t}, nil
}

type countedAttempt struct {
	node.Attempt
	t counted
}

func (a countedAttempt) Connect(ctx context.Context, remote wire.IceParameters, peer wire.NodeID, offerer bool) (node.Conn, error) {
	return a.t.wrap(a.Attempt.Connect(ctx, remote, peer, offerer))
}

type countedConn struct {
	node.Conn
	c *counter
}

func (c countedConn) Send(b []byte) error {
	c.c.note(b)
	return c.Conn.Send(b)
}

// The smallest case: two kits meet, one registers a handset, the other looks it up and opens a trunk to it. What that costs
// in messages of the overlay is known and stays within bounds; docs/benchmarks.md has the rest of the layers.
func TestSmallestCase(t *testing.T) {
	w := newWorld(t, 2)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.end()
		c := newCounter()
		domains := sipusage.OnlyDomain(domain)
		for _, p := range w.phones {
			err := w.m.Start(w.net, p.Kit, func(cfg *node.Config) {
				cfg.MayStore, cfg.Seed, cfg.Transport = domains.MayStore, w.rng.Uint64(), counted{cfg.Transport, c}
			})
			if err != nil {
				t.Fatal(err)
			}
			p.usage, err = sipusage.New(sipusage.Config{Node: p.Node, Identity: p.Identity, Domains: domains, MaxAORs: 32, OnTrunk: p.onTrunk})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			p.stop, p.ended = cancel, make(chan error, 1)
			go func() { p.ended <- p.usage.Run(ctx) }()
		}
		a, b := w.phones[0], w.phones[1]
		report := func(what string, most int, f func()) {
			t.Helper()
			c.take()
			began := time.Now()
			f()
			took := time.Since(began)
			time.Sleep(2 * time.Second) // what it set off
			methods, all := c.take()
			var lines []string
			for _, code := range slices.SortedFunc(maps.Keys(methods), func(x, y wire.MessageCode) int { return cmp.Compare(x, y) }) {
				s := methods[code]
				lines = append(lines, fmt.Sprintf("%v: %d of %d B in %d frames", code, s.messages, s.bytes, s.frames))
			}
			t.Logf("%s: %v; %d messages, %d frames, %d B: %s", what, took, all.messages, all.frames, all.bytes, strings.Join(lines, "; "))
			needed := 0
			for code, s := range methods {
				if routine := code == wire.PingReq || code == wire.PingAns || code == wire.UpdateReq || code == wire.UpdateAns; most > 5000 || !routine {
					needed += s.bytes // a Ping or an Update may fall into any of these seconds
				}
			}
			if needed > most {
				t.Errorf("%s: %d bytes, at most %d are known to be needed", what, needed, most)
			}
		}
		report("two kits become one ring", 14_000, func() {
			w.net.Meet(w.kits()...)
			w.ring(30*time.Second, w.kits()...)
		})
		time.Sleep(20 * time.Second)
		// At whose kit the registration is stored is up to the hash; take one that the caller does not hold.
		user := ""
		for i := range 100 {
			user = fmt.Sprintf("user%d", i)
			if res := w.phones[0].Node.ResourceID(user + "@" + domain); owner(res, a, b) == a {
				break
			}
		}
		report("a handset registers at the kit that stores it", 2_300, func() {
			if err := a.register(user, time.Hour); err != nil {
				t.Fatal(err)
			}
		})
		report("the other kit looks it up", 2_300, func() { w.check("lookup", b, user, a) })
		report("the other kit opens a trunk", 1_700, func() {
			if _, err := b.usage.Trunk(t.Context(), a.ID()); err != nil {
				t.Fatal(err)
			}
		})
		report("ten idle seconds", 7_000, func() { time.Sleep(8 * time.Second) })
	})
}

// owner is the phone whose kit is responsible for a resource.
func owner(res wire.ResourceID, phones ...*phone) *phone {
	ring := slices.SortedFunc(slices.Values(phones), func(x, y *phone) int { return x.ID().Compare(y.ID()) })
	for _, p := range ring {
		if string(p.ID().Bytes()) >= string(res) {
			return p
		}
	}
	return ring[0]
}
