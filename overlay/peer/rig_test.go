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
	now       time.Time
	queue     []func(time.Time)
	connects  *ident.Peer // who is at the far end of application connections; nil: nobody
	open      int         // attempts and application connections that nobody has closed
	cancelled int
}

// fakeThing is an attempt, or an application connection.
type fakeThing struct {
	env    *fakeEnv
	closed bool
}

func (f *fakeThing) Local() wire.IceParameters { return wire.IceParameters{} }
func (f *fakeThing) Peer() *ident.Peer         { return f.env.connects }
func (f *fakeThing) Close() error {
	if !f.closed {
		f.closed = true
		f.env.open--
	}
	return nil
}

func (e *fakeEnv) thing() *fakeThing {
	e.open++
	return &fakeThing{env: e}
}

func (e *fakeEnv) Work(_ Queue, job func() func(time.Time)) bool {
	e.queue = append(e.queue, job())
	return true
}

// settle calls what was promised for later.
func (e *fakeEnv) settle() {
	for e.once() {
	}
}

// once calls the next thing that was promised; false when there is none.
func (e *fakeEnv) once() bool {
	if len(e.queue) == 0 {
		return false
	}
	f := e.queue[0]
	e.queue = e.queue[1:]
	f(e.now)
	return true
}

func (e *fakeEnv) later(f func(time.Time)) func() {
	e.queue = append(e.queue, f)
	return func() { e.cancelled++ }
}

func (e *fakeEnv) Bootstrap(_ netip.AddrPort, done func(time.Time, Link, error)) func() {
	return e.later(func(now time.Time) { done(now, nil, io.ErrClosedPipe) })
}

func (e *fakeEnv) Prepare(done func(time.Time, Attempt, error)) func() {
	if e.connects == nil {
		return e.later(func(now time.Time) { done(now, nil, io.ErrClosedPipe) })
	}
	return e.later(func(now time.Time) { done(now, e.thing(), nil) })
}

func (e *fakeEnv) Connect(_ Attempt, _ wire.IceParameters, _ wire.NodeID, _ bool, done func(time.Time, Link, error)) func() {
	return e.later(func(now time.Time) { done(now, nil, io.ErrClosedPipe) })
}

func (e *fakeEnv) ConnectApp(a Attempt, _ wire.IceParameters, _ wire.NodeID, _ bool, done func(time.Time, AppConn, error)) func() {
	_ = a.Close() // taken over
	if e.connects == nil {
		return e.later(func(now time.Time) { done(now, nil, io.ErrClosedPipe) })
	}
	return e.later(func(now time.Time) { done(now, e.thing(), nil) })
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
