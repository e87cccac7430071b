package link

import (
	"context"
	"crypto/x509"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testOverlay = "test.mission.home.arpa"

// mission makes identities under one root.
type mission struct {
	t     testing.TB
	auth  *ident.Authority
	trust *ident.Trust
}

func newMission(t testing.TB) *mission {
	t.Helper()
	a, err := ident.NewAuthority(testOverlay, wire.MinNodeIDLen)
	if err != nil {
		t.Fatal(err)
	}
	return &mission{t: t, auth: a, trust: trustOf(t, a)}
}

func trustOf(t testing.TB, a *ident.Authority) *ident.Trust {
	t.Helper()
	tr, err := ident.NewTrust(testOverlay, wire.MinNodeIDLen, rootsOf(a), nil)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func rootsOf(a *ident.Authority) []*x509.Certificate { return []*x509.Certificate{a.Certificate()} }

func idsOf(ts ...*Transport) (ids []wire.NodeID) {
	for _, t := range ts {
		ids = append(ids, t.id())
	}
	return ids
}

func (m *mission) identity() *ident.Identity {
	m.t.Helper()
	id, err := m.auth.NewIdentity()
	if err != nil {
		m.t.Fatal(err)
	}
	return id
}

var loopback = netip.MustParseAddr("127.0.0.1")

// transport makes a kit's transport on loopback, closed with the test.
func (m *mission) transport(change ...func(*Config)) *Transport {
	m.t.Helper()
	cfg := Config{Identity: m.identity(), Trust: m.trust, Addresses: func() []netip.Addr { return []netip.Addr{loopback} }}
	for _, f := range change {
		f(&cfg)
	}
	tr, err := New(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			m.t.Error(err)
		}
	})
	return tr
}

func (t *Transport) id() wire.NodeID { return t.cfg.Identity.NodeID() }

func testContext(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

type outcome[C any] struct {
	conn C
	err  error
}

// attach plays an Attach between two transports: prepare both, exchange parameters, connect both.
func attach[C any](ctx context.Context, offerer, answerer *Transport, connect func(*Attempt, context.Context, wire.IceParameters, wire.NodeID, bool) (C, error)) (o, a outcome[C]) {
	return attachAs(ctx, offerer, answerer, offerer.id(), answerer.id(), connect)
}

// attachAs is attach where each side expects a given Node-ID.
func attachAs[C any](ctx context.Context, offerer, answerer *Transport, offererID, answererID wire.NodeID, connect func(*Attempt, context.Context, wire.IceParameters, wire.NodeID, bool) (C, error)) (o, a outcome[C]) {
	x, err := offerer.Prepare(ctx)
	if err != nil {
		o.err = err
		return o, a
	}
	y, err := answerer.Prepare(ctx)
	if err != nil {
		a.err = err
		return o, a
	}
	offer, answer := x.Local(), y.Local()
	offer.Role, answer.Role = []byte("passive"), []byte("active")
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.conn, a.err = connect(y, ctx, offer, offererID, false)
	}()
	o.conn, o.err = connect(x, ctx, answer, answererID, true)
	<-done
	return o, a
}

// linked returns the two ends of an overlay link.
func linked(t testing.TB, a, b *Transport) (*Conn, *Conn) {
	t.Helper()
	x, y := attach(testContext(t, 10*time.Second), a, b, (*Attempt).Connect)
	if x.err != nil || y.err != nil {
		t.Fatalf("attach: offerer %v, answerer %v", x.err, y.err)
	}
	return x.conn, y.conn
}

func trunk(t testing.TB, a, b *Transport) (*AppConn, *AppConn) {
	t.Helper()
	x, y := attach(testContext(t, 10*time.Second), a, b, (*Attempt).ConnectApp)
	if x.err != nil || y.err != nil {
		t.Fatalf("app attach: offerer %v, answerer %v", x.err, y.err)
	}
	return x.conn, y.conn
}

// exchange sends a message each way.
func exchange(t testing.TB, x, y *Conn) {
	t.Helper()
	ctx := testContext(t, 5*time.Second)
	for _, p := range [][2]*Conn{{x, y}, {y, x}} {
		if err := p[0].Send([]byte("over")); err != nil {
			t.Fatal(err)
		}
		got, err := p[1].Receive(ctx)
		if err != nil || string(got) != "over" {
			t.Fatalf("received %q, %v", got, err)
		}
	}
}

func TestAttachMakesALink(t *testing.T) {
	m := newMission(t)
	a, b := m.transport(), m.transport()
	x, y := linked(t, a, b)
	if x.Peer().NodeID != b.id() || y.Peer().NodeID != a.id() {
		t.Errorf("peers %v and %v", x.Peer().NodeID, y.Peer().NodeID)
	}
	// "The node that sent the Attach request MUST be the TLS server" (RFC 6940 §6.5.1.13)
	if x.sess.client || !y.sess.client {
		t.Error("the offerer is not the DTLS server")
	}
	exchange(t, x, y)
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-y.Done():
	case <-time.After(5 * time.Second):
		t.Error("the goodbye did not arrive")
	}
}

func TestBootstrapMakesALink(t *testing.T) {
	m := newMission(t)
	a, b := m.transport(), m.transport()
	ctx := testContext(t, 5*time.Second)
	x, err := a.Bootstrap(ctx, netip.AddrPortFrom(loopback, b.Port()))
	if err != nil {
		t.Fatal(err)
	}
	y, err := b.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if x.Peer().NodeID != b.id() || y.Peer().NodeID != a.id() {
		t.Errorf("peers %v and %v", x.Peer().NodeID, y.Peer().NodeID)
	}
	exchange(t, x, y)
}

func TestAppAttachMakesATrunk(t *testing.T) {
	m := newMission(t)
	x, y := trunk(t, m.transport(), m.transport())
	message, media := make(chan string, 1), make(chan string, 1)
	y.Handle(func(b []byte) { message <- string(b) }, func(b []byte) { media <- string(b) })
	if err := x.SendMessage([]byte("OPTIONS")); err != nil {
		t.Fatal(err)
	}
	if err := x.SendMedia([]byte("\x80rtp")); err != nil {
		t.Fatal(err)
	}
	for want, ch := range map[string]chan string{"OPTIONS": message, "\x80rtp": media} {
		select {
		case got := <-ch:
			if got != want {
				t.Errorf("received %q, want %q", got, want)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%q did not arrive", want)
		}
	}
	kx, err := x.ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 60)
	if err != nil {
		t.Fatal(err)
	}
	ky, err := y.ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 60)
	if err != nil || string(kx) != string(ky) || x.SRTPProfile() != y.SRTPProfile() || x.IsClient() == y.IsClient() {
		t.Errorf("keys or roles differ: %v", err)
	}
}
