package peer

import (
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// fakeEnv does work at once, at its own time, and connects to nobody.
type fakeEnv struct {
	now   time.Time
	queue []func(time.Time)
}

func (e *fakeEnv) Work(_ Queue, job func() func(time.Time)) bool {
	e.queue = append(e.queue, job())
	return true
}

// settle calls what was promised for later.
func (e *fakeEnv) settle() {
	for len(e.queue) > 0 {
		f := e.queue[0]
		e.queue = e.queue[1:]
		f(e.now)
	}
}

func (e *fakeEnv) later(f func(time.Time)) func() {
	e.queue = append(e.queue, f)
	return func() {}
}

func (e *fakeEnv) Bootstrap(_ netip.AddrPort, done func(time.Time, Link, error)) func() {
	return e.later(func(now time.Time) { done(now, nil, io.ErrClosedPipe) })
}

func (e *fakeEnv) Prepare(done func(time.Time, Attempt, error)) func() {
	return e.later(func(now time.Time) { done(now, nil, io.ErrClosedPipe) })
}

func (e *fakeEnv) Connect(_ Attempt, _ wire.IceParameters, _ wire.NodeID, _ bool, done func(time.Time, Link, error)) func() {
	return e.later(func(now time.Time) { done(now, nil, io.ErrClosedPipe) })
}

func (e *fakeEnv) ConnectApp(_ Attempt, _ wire.IceParameters, _ wire.NodeID, _ bool, done func(time.Time, AppConn, error)) func() {
	return e.later(func(now time.Time) { done(now, nil, io.ErrClosedPipe) })
}

func (e *fakeEnv) Discard(c io.Closer)         { _ = c.Close() }
func (e *fakeEnv) HandlesApp(uint16) bool      { return false }
func (e *fakeEnv) AcceptApp(uint16, AppConn)   {}
func (e *fakeEnv) NewDocument(*ident.Document) {}
func (e *fakeEnv) Changed()                    {}
func (e *fakeEnv) SaveStorageTime(_ uint64, done func(time.Time, error)) {
	e.later(func(now time.Time) { done(now, nil) })
}

// fakeLink is a link as routing sees it. What is sent on it is kept, if sent is not nil.
type fakeLink struct {
	to      *ident.Peer
	suspect bool
	sent    *[][]byte
	heard   time.Time
	n       int
}

func (c *fakeLink) Peer() *ident.Peer { return c.to }
func (c *fakeLink) Start()            {}
func (c *fakeLink) Close() error      { return nil }
func (c *fakeLink) Suspect() bool     { return c.suspect }
func (c *fakeLink) Heard() time.Time  { return c.heard }
func (c *fakeLink) Check() bool       { return false }
func (c *fakeLink) Send(b []byte) error {
	c.n++
	if c.sent != nil {
		*c.sent = append(*c.sent, b)
	}
	return nil
}

// rig is one peer with nothing around it.
type rig struct {
	*Peer
	env  *fakeEnv
	kit  *ident.Identity
	auth *ident.Authority
}

func newRig(t testing.TB) *rig {
	t.Helper()
	a, err := ident.NewAuthority("bench.mission.home.arpa", 16)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Signer()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := ident.NewDocument(a).Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := ident.TrustFor(doc)
	if err != nil {
		t.Fatal(err)
	}
	kit, err := a.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	env := &fakeEnv{now: t0}
	p, err := New(Config{
		ID: kit.NodeID(), Document: doc, Env: env, Crypto: Credentials{Identity: kit, Trust: trust}, Rand: rand.NewPCG(1, 1),
	}, t0)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{p, env, kit, a}
}

// neighbour links another kit of the mission.
func (r *rig) neighbour(t testing.TB, sent *[][]byte) (*ident.Identity, *fakeLink) {
	t.Helper()
	kit, err := r.auth.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	l := &fakeLink{to: &ident.Peer{NodeID: kit.NodeID()}, sent: sent}
	r.LinkUp(t0, l)
	return kit, l
}

// packet is a Ping of a kit, encoded.
func (r *rig) packet(t testing.TB, from *ident.Identity, dest ...wire.NodeID) []byte {
	t.Helper()
	m := r.newMessage(&Outgoing{Dest: toNode(dest...), Code: wire.PingReq, Body: pingBody})
	if err := ident.Sign(m, from.Signer()); err != nil {
		t.Fatal(err)
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What a message costs a peer, without its links: forwarded, and answered (two signatures made or verified).
func BenchmarkMessage(b *testing.B) {
	r := newRig(b)
	from, in := r.neighbour(b, nil)
	to, out := r.neighbour(b, nil)
	r.env.settle()
	b.Run("forward", func(b *testing.B) {
		packet := r.packet(b, from, to.NodeID())
		b.ReportAllocs()
		b.SetBytes(int64(len(packet)))
		before := out.n
		for b.Loop() {
			r.Receive(t0, in, packet)
		}
		if out.n-before != b.N {
			b.Fatalf("%d forwarded of %d", out.n-before, b.N)
		}
	})
	b.Run("ping answered", func(b *testing.B) {
		packet := r.packet(b, from, r.ID())
		b.ReportAllocs()
		before := in.n
		for b.Loop() {
			r.Receive(t0, in, packet)
			r.env.settle()
		}
		if in.n-before != b.N {
			b.Fatalf("%d answered of %d", in.n-before, b.N)
		}
	})
}

// What a peer costs that is not connected to anybody: simulations have thousands of them.
func BenchmarkNew(b *testing.B) {
	r := newRig(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := New(r.cfg, t0); err != nil {
			b.Fatal(err)
		}
	}
}

// What a link costs, with its signs of life, in memory.
func BenchmarkLink(b *testing.B) {
	r := newRig(b)
	kit, err := r.auth.NewIdentity()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		l := &fakeLink{to: &ident.Peer{NodeID: kit.NodeID()}}
		r.LinkUp(t0, l)
		r.LinkDown(t0, l)
	}
}
