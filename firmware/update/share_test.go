package update

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fieldkit/firmware/boot/initlink"
	"fieldkit/firmware/card"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// hurry is a clock that runs a hundred times as fast.
func hurry() func() time.Time {
	began := time.Now()
	return func() time.Time { return began.Add(100 * time.Since(began)) }
}

// neighbour is a kit of a mission that shares its updates on loopback.
type neighbour struct {
	*kit
	share *Share
	id    *ident.Identity
	addr  netip.AddrPort
	calls atomic.Int32
	stop  func()
}

type mission struct {
	*ident.Authority
	trust *ident.Trust
}

func newMission(t *testing.T) mission {
	t.Helper()
	a, err := ident.NewAuthority("valley.mission.home.arpa", wire.MinNodeIDLen)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := ident.TrustFor(ident.NewDocument(a))
	if err != nil {
		t.Fatal(err)
	}
	return mission{a, trust}
}

// start boots the card of a kit that knows of peers.
func (m mission) start(t *testing.T, id *ident.Identity, c *memoryCard, items *memoryItems, running uint64, trial bool, peers func() []Peer) *neighbour {
	t.Helper()
	n := &neighbour{id: id}
	n.kit = boot(t, c, items, running, trial, func(cfg *Config) {
		cfg.ID, cfg.Now, cfg.Tick = id.NodeID().String(), hurry(), 20*time.Millisecond
		cfg.Sign = nil
	})
	calls := func() int { return int(n.calls.Load()) }
	n.share = NewShare(ShareConfig{
		Updater: n.Updater, Identity: id, Trust: func() *ident.Trust { return m.trust }, Peers: peers, Calls: calls,
		MayServe: func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.1") },
		Jitter:   func(time.Duration) time.Duration { return 0 }, Offer: true, Take: true,
	})
	n.world = func() World { return World{Calls: calls(), Neighbours: n.share.Neighbours(time.Now())} }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = netip.MustParseAddrPort(l.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { _ = n.Run(ctx) })
	all.Go(func() { _ = n.share.Serve(ctx, l) })
	all.Go(func() { _ = n.share.Run(ctx) })
	n.stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
	})
	t.Cleanup(n.stop)
	return n
}

func (n *neighbour) peer() Peer {
	p := Peer{ID: n.id.NodeID().String(), Addrs: []netip.AddrPort{n.addr}}
	_, m, _ := n.Offer()
	p.Sequence = m.Release.Sequence
	return p
}

func nobody() []Peer { return nil }

func (m mission) identity(t *testing.T) *ident.Identity {
	t.Helper()
	id, err := m.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// signedItems are those of a kit that was flashed with release n and signed for it.
func signedItems(t *testing.T, c *memoryCard, n uint64) *memoryItems {
	t.Helper()
	items := newItems(c.power)
	k := boot(t, c, items, n, false, func(cfg *Config) { cfg.Sign, cfg.Tick = signAs(1), 5*time.Millisecond })
	stop := k.run(t)
	eventually(t, "signature for what was flashed", func() bool { _, _, ok := k.Offer(); return ok })
	stop()
	return items
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

// A kit that was flashed with a newer system offers it; its neighbour takes it over HTTPS, restarts into it, commits it,
// and then offers it itself, byte for byte.
func TestAKitTakesTheNewerSystemOfItsNeighbour(t *testing.T) {
	m := newMission(t)
	newer := newCard(t, 2)
	a := m.start(t, m.identity(t), newer, signedItems(t, newer, 2), 2, false, nobody)

	older, items, id := newCard(t, 1), newItems(&power{left: -1}), m.identity(t)
	b := m.start(t, id, older, items, 1, false, func() []Peer { return []Peer{a.peer()} })
	eventually(t, "bundle written", func() bool { return b.View().State != Idle && b.View().State != Receiving })
	if v := b.View(); v.ByPerson || v.Manifest.Release.Sequence != 2 {
		t.Fatalf("%+v", v)
	}
	if kind := <-b.init.reboot; kind != initlink.TryBoot {
		t.Fatalf("reboot %q", kind)
	}
	b.stop()

	b = m.start(t, id, older, items, 2, true, func() []Peer { return []Peer{a.peer()} })
	<-b.init.committed
	if s, err := card.Committed(older); err != nil || s != card.B {
		t.Fatalf("slot %v: %v", s, err)
	}
	eventually(t, "offer of the kit that was updated", func() bool { _, _, ok := b.Offer(); return ok })
	var got bytes.Buffer
	if err := b.Send(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	third := boot(t, newCard(t, 1), newItems(&power{left: -1}), 1, false, nil)
	third.run(t)
	if _, err := third.Receive(t.Context(), &got); err != nil {
		t.Error(err)
	}
	if s := a.Stats(); s.Sent != 1 || a.View().State != Idle {
		t.Errorf("the one that offered: %+v %+v", s, a.View())
	}
}

// Voice goes first: while a call passes either kit, nothing is asked for, and what is under way pauses.
func TestNoTransferDuringACall(t *testing.T) {
	m := newMission(t)
	newer := newCard(t, 2)
	a := m.start(t, m.identity(t), newer, signedItems(t, newer, 2), 2, false, nobody)
	a.calls.Store(1)
	c := newCard(t, 1)
	b := m.start(t, m.identity(t), c, newItems(c.power), 1, false, func() []Peer { return []Peer{a.peer()} })
	// The neighbour answers, and holds back what it has.
	eventually(t, "answer", func() bool { return len(b.share.Neighbours(time.Now())) == 1 })
	time.Sleep(300 * time.Millisecond)
	if v := b.View(); v.State == Written || b.card.used > 0 && b.View().State != Idle && v.State != Receiving {
		t.Fatalf("during a call: %+v", v)
	}
	if done, _ := b.Progress(); done > 0 {
		t.Errorf("%d bytes during a call", done)
	}
	a.calls.Store(0)
	eventually(t, "bundle after the call", func() bool { return b.Stats().Fetched == 1 })
}

// A person who stands there does not wait for a neighbour's transfer.
func TestAPersonsUploadEndsATransfer(t *testing.T) {
	k := boot(t, newCard(t, 1), newItems(&power{left: -1}), 1, false, nil)
	k.run(t)
	b := bundle(t, 2)
	stuck, w := io.Pipe()
	defer w.Close()
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	context.AfterFunc(ctx, func() { _ = w.CloseWithError(context.Canceled) }) // as a transport ends a body
	go func() {
		_, err := k.take(ctx, stuck, cancel)
		ended <- err
	}()
	if _, err := w.Write(b[:len(b)-1000]); err != nil {
		t.Fatal(err)
	}
	if v := k.View(); v.State != Receiving {
		t.Fatalf("%+v", v)
	}
	// Not for one that is refused: anybody may have kept it from an earlier update.
	if _, err := k.Receive(t.Context(), bytes.NewReader(bundle(t, 1))); !errors.Is(err, ErrSame) {
		t.Error(err)
	}
	if v := k.View(); v.State != Receiving || ctx.Err() != nil {
		t.Fatalf("an old bundle ended it: %+v", v)
	}
	if _, err := k.Receive(t.Context(), bytes.NewReader(bundle(t, 3))); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if v := k.View(); v.State != Written || v.Manifest.Release.Sequence != 3 || !v.ByPerson {
		t.Errorf("%+v", v)
	}
}

// Who is not of the mission, or was cut off, gets no answer, and gets none from us.
func TestStrangersAreNotServed(t *testing.T) {
	ours, theirs := newMission(t), newMission(t)
	newer := newCard(t, 2)
	a := ours.start(t, ours.identity(t), newer, signedItems(t, newer, 2), 2, false, nobody)
	stranger := theirs.start(t, theirs.identity(t), newCard(t, 1), newItems(&power{left: -1}), 1, false, nobody)
	if _, err := stranger.share.askState(t.Context(), a.peer()); err == nil {
		t.Error("a stranger was served, or believed this kit")
	}
	// A stranger that does not mind whom it speaks with.
	id := stranger.id.TLSCertificate()
	for name, certs := range map[string][]tls.Certificate{"stranger": {id}, "nobody": nil} {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certs}}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+a.addr.String()+bundlePath, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := c.Do(req); err == nil {
			_ = r.Body.Close()
			t.Errorf("%s was answered: %s", name, r.Status)
		}
	}
	// Somebody else of the mission at the address that was announced for another.
	b := ours.start(t, ours.identity(t), newCard(t, 1), newItems(&power{left: -1}), 1, false, nobody)
	wrong := a.peer()
	wrong.ID = ours.identity(t).NodeID().String()
	if _, err := b.share.askState(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), "neighbour is") {
		t.Error(err)
	}
	// A kit that was revoked.
	d := ident.NewDocument(ours.Authority)
	d.BadNodes = append(d.BadNodes, b.id.NodeID())
	if err := ours.trust.Update(d); err != nil {
		t.Fatal(err)
	}
	if _, err := b.share.askState(t.Context(), a.peer()); err == nil {
		t.Error("a revoked kit was served")
	}
}

func TestChoosesTheNewestThatDidNotFailHere(t *testing.T) {
	c := newCard(t, 5)
	failed := Record{Failed: []string{strings.Repeat("09", 32)}}
	b := &kit{}
	b.Updater = &Updater{cfg: Config{System: system(5, card.A)}}
	m, _ := NewMachine(t0, Start{System: system(5, card.A), Record: failed})
	b.m = m
	b.publish(t0)
	_ = c
	calls := 0
	s := NewShare(ShareConfig{Updater: b.Updater, Calls: func() int { return calls }, Take: true, Jitter: func(d time.Duration) time.Duration { return d / 2 }})
	var peers []Peer
	for id, seq := range map[string]uint64{"01": 4, "02": 7, "03": 9, "04": 6, "05": 0} {
		peers = append(peers, Peer{ID: id})
		s.seen[id] = heard{status{Sequence: seq, Digest: strings.Repeat(id, 32)[:64]}, t0}
		if seq == 9 {
			h := s.seen[id]
			h.Digest = failed.Failed[0]
			s.seen[id] = h
		}
	}
	slices.SortFunc(peers, func(a, b Peer) int { return strings.Compare(a.ID, b.ID) })
	if p, ok := s.choose(t0, peers); ok {
		t.Errorf("at once: %+v", p)
	}
	calls = 1
	if p, ok := s.choose(t0.Add(offerDelay), peers); ok {
		t.Errorf("during a call: %+v", p)
	}
	calls = 0
	if p, ok := s.choose(t0.Add(offerDelay), peers); !ok || p.ID != "02" {
		t.Errorf("%+v %v", p, ok)
	}
	s.ended(t0.Add(offerDelay), fetchEnd{"02", errors.New("gone")})
	if p, ok := s.choose(t0.Add(offerDelay+time.Second), peers); !ok || p.ID != "04" {
		t.Errorf("after it failed: %+v %v", p, ok)
	}
	if p, ok := s.choose(t0.Add(offerDelay+firstBackoff), peers); !ok || p.ID != "02" {
		t.Errorf("after the pause: %+v %v", p, ok)
	}
	for range 10 {
		s.ended(t0, fetchEnd{"02", errors.New("gone")})
	}
	if got := s.offers["02"].backoff; got != maxBackoff {
		t.Errorf("backoff %v", got)
	}
}
