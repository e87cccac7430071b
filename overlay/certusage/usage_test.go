package certusage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"fieldkit/overlay/certusage"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const domain = "test.mission.home.arpa"

// kit is a node with the Certificate Store Usage running on it.
type kit struct {
	*nodetest.Kit
	usage *certusage.Usage
	stop  context.CancelFunc
	ended chan error
}

type world struct {
	t        *testing.T
	m        *nodetest.Mission
	net      *nodetest.Network
	kits     []*kit
	lifetime time.Duration
}

// within runs f with n kits in one ring, in virtual time.
func within(t *testing.T, n int, change func(*ident.Document), f func(t *testing.T, w *world)) {
	t.Helper()
	seed := rand.Uint64()
	if v := os.Getenv("OVERLAY_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("OVERLAY_SEED=%d", seed)
	m, err := mission(change)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, m: m, lifetime: 10 * time.Minute}
	for i := range n {
		k, err := newKit(m, i+1)
		if err != nil {
			t.Fatal(err)
		}
		w.kits = append(w.kits, &kit{Kit: k})
	}
	synctest.Test(t, func(t *testing.T) {
		w.t, w.net = t, nodetest.New(seed, nodetest.Conditions{Delay: 2 * time.Millisecond})
		defer w.end()
		for _, k := range w.kits {
			w.start(k)
		}
		w.ring(w.kits...)
		time.Sleep(20 * time.Second)
		f(t, w)
	})
}

// mission is nodetest.NewMission, and knows overlays of self-signed certificates, too.
func mission(change func(*ident.Document)) (*nodetest.Mission, error) {
	m, err := nodetest.NewMission(domain, change)
	if err != nil || !m.Document.SelfSigned {
		return m, err
	}
	s, err := m.Authority.SelfSigner()
	if err != nil {
		return nil, err
	}
	m.Document, err = m.Document.Sign(s)
	return m, err
}

func newKit(m *nodetest.Mission, i int) (*nodetest.Kit, error) {
	k, err := m.NewKit(i)
	if err == nil && m.Document.SelfSigned {
		k.Identity, err = ident.SelfSigned(m.Document, k.Identity.Key(), "", 1)
	}
	return k, err
}

func (w *world) start(k *kit) {
	w.t.Helper()
	if err := w.m.Start(w.net, k.Kit, nil); err != nil {
		w.t.Fatal(err)
	}
	var err error
	k.usage, err = certusage.New(certusage.Config{Node: k.Node, Identity: k.Identity, Trust: k.Trust, Users: 8, Lifetime: w.lifetime})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.stop, k.ended = cancel, make(chan error, 1)
	go func() { k.ended <- k.usage.Run(ctx) }()
}

func (w *world) ring(kits ...*kit) {
	w.t.Helper()
	var list []*nodetest.Kit
	for _, k := range kits {
		list = append(list, k.Kit)
	}
	w.net.Meet(list...)
	if _, err := nodetest.WaitRing(30*time.Second, list...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) end() {
	w.t.Helper()
	for _, k := range w.kits {
		if k.stop != nil {
			k.stop()
			if err := errors.Join(<-k.ended, k.Stop()); err != nil {
				w.t.Error(err)
			}
		}
	}
	w.net.Close()
}

func (w *world) kill(k *kit) {
	w.t.Helper()
	k.Host.Vanish()
	k.stop()
	k.stop = nil
	if err := errors.Join(<-k.ended, k.Stop()); err != nil {
		w.t.Error(err)
	}
}

// byNode is what every kit must find.
func (w *world) byNode(k *kit, id wire.NodeID) []*ident.Peer {
	w.t.Helper()
	list, err := k.usage.ByNode(w.t.Context(), id)
	if err != nil {
		w.t.Fatalf("certificate of %v at %v: %v", id, k.ID(), err)
	}
	return list
}

// "A user/node MUST store its certificate at Resource-IDs derived from two Resource Names: The user name in the certificate.
// The Node-ID in the certificate … not stored at its Node-ID but rather at a hash of its Node-ID" (RFC 6940 §8).
func TestOwnCertificates(t *testing.T) {
	within(t, 4, nil, func(t *testing.T, w *world) {
		for _, a := range w.kits {
			for _, b := range w.kits {
				own := b.Identity.Signer().Certificates()[0]
				if list := w.byNode(a, b.ID()); len(list) != 1 || !slices.Equal(list[0].Leaf.Raw, own) || list[0].NodeID != b.ID() {
					t.Errorf("by Node-ID: %+v", list)
				}
				user := ident.KitUser(b.ID(), domain)
				if list, err := a.usage.ByUser(t.Context(), user); err != nil || len(list) != 1 || list[0].User != user {
					t.Errorf("by user: %+v, %v", list, err)
				}
			}
		}
		k := w.kits[0]
		stat, err := k.Node.Stat(t.Context(), wire.ResourceIDFor(k.ID().Bytes(), 16), wire.KindCertificateByNode)
		if err != nil || len(stat.Values) != 1 || int(stat.Values[0].ValueLength) != len(k.Identity.Signer().Certificates()[0]) {
			t.Errorf("at the hash of the Node-ID: %+v, %v", stat, err)
		}
		if _, err := k.usage.ByNode(t.Context(), other(k.ID())); !errors.Is(err, certusage.ErrNotFound) {
			t.Errorf("of nobody: %v", err)
		}
		if s, err := k.usage.Stats(t.Context()); err != nil || s.Stored != 2 || s.Stores < 2 {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

func other(id wire.NodeID) wire.NodeID {
	b := id.Bytes()
	b[0] ^= 0xff
	id, err := wire.NodeIDFrom(b)
	if err != nil {
		panic(err)
	}
	return id
}

// A handset's certificate is there from Keep to Drop, of every kit that serves its user, and outlives many lifetimes.
func TestHandsetCertificates(t *testing.T) {
	within(t, 3, nil, func(t *testing.T, w *world) {
		aor := "alice@" + domain
		for _, k := range w.kits[:2] {
			if err := k.usage.Keep(t.Context(), aor); err != nil {
				t.Fatal(err)
			}
		}
		find := func(want ...*kit) {
			t.Helper()
			list, err := w.kits[2].usage.ByUser(t.Context(), aor)
			if len(want) == 0 {
				if !errors.Is(err, certusage.ErrNotFound) {
					t.Errorf("%+v, %v", list, err)
				}
				return
			}
			if err != nil || len(list) != len(want) {
				t.Fatalf("%d certificates, %v, want %d", len(list), err, len(want))
			}
			for _, k := range want {
				if !slices.ContainsFunc(list, func(p *ident.Peer) bool { return p.NodeID == k.ID() && p.User == aor }) {
					t.Errorf("none of kit %v", k.ID())
				}
			}
		}
		find(w.kits[0], w.kits[1])
		time.Sleep(5 * w.lifetime)
		find(w.kits[0], w.kits[1])
		if err := w.kits[0].usage.Drop(t.Context(), aor); err != nil {
			t.Fatal(err)
		}
		find(w.kits[1])
		// "The owner SHOULD use a lifetime for the nonexistent value that is at least as long as the remainder of the lifetime
		// of the value it is replacing."
		k, err := w.kits[2].Node.Fetch(t.Context(), w.kits[2].Node.ResourceID(aor), wire.KindCertificateByUser)
		if err != nil {
			t.Fatal(err)
		}
		gone := 0
		for _, f := range k.Values {
			if !f.Value.Exists && f.Signer.NodeID == w.kits[0].ID() {
				gone++
				if rest := time.Duration(f.Lifetime) * time.Second; rest < w.lifetime/4 {
					t.Errorf("the removal lasts %v", rest)
				}
			}
		}
		if gone != 1 {
			t.Errorf("%d signed removals", gone)
		}
		if err := errors.Join(w.kits[0].usage.Drop(t.Context(), aor), w.kits[1].usage.Drop(t.Context(), aor)); err != nil {
			t.Fatal(err)
		}
		find()
		time.Sleep(2 * w.lifetime)
		find()
	})
}

// Whoever dies, what the others store of it and of each other can be found; when it is back, its own is, too.
func TestCertificatesSurviveLosses(t *testing.T) {
	within(t, 5, nil, func(t *testing.T, w *world) {
		dead := w.kits[4]
		w.kill(dead)
		w.ring(w.kits[:4]...)
		time.Sleep(20 * time.Second)
		for _, a := range w.kits[:4] {
			for _, b := range w.kits {
				w.byNode(a, b.ID())
			}
		}
		time.Sleep(2 * w.lifetime) // the dead kit's has expired
		if _, err := w.kits[0].usage.ByNode(t.Context(), dead.ID()); !errors.Is(err, certusage.ErrNotFound) {
			t.Errorf("%v", err)
		}
		w.start(dead)
		w.ring(w.kits...)
		time.Sleep(20 * time.Second)
		for _, a := range w.kits {
			w.byNode(a, dead.ID())
		}
	})
}

// "This structure allows users to store an old and a new certificate that both have the same Node-ID, which allows for
// migration of certificates when they are renewed."
func TestOldAndNew(t *testing.T) {
	within(t, 3, nil, func(t *testing.T, w *world) {
		k := w.kits[0]
		renewed, err := w.m.Authority.Issue(k.Identity.Key())
		if err != nil {
			t.Fatal(err)
		}
		k.stop()
		if err := <-k.ended; err != nil {
			t.Fatal(err)
		}
		old := k.Identity
		k.Identity = renewed
		k.usage, err = certusage.New(certusage.Config{Node: k.Node, Identity: renewed, Trust: k.Trust, Lifetime: w.lifetime})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		k.stop = cancel
		go func() { k.ended <- k.usage.Run(ctx) }()
		time.Sleep(10 * time.Second)
		list := w.byNode(w.kits[1], k.ID())
		if len(list) != 2 || !slices.Equal(list[0].Leaf.Raw, renewed.Signer().Certificates()[0]) || !slices.Equal(list[1].Leaf.Raw, old.Signer().Certificates()[0]) {
			t.Errorf("%d certificates, want the new one and the old one", len(list))
		}
	})
}

// A member that lies: certificates of others, of strangers and none at all, under names of its own; nobody believes them.
func TestLies(t *testing.T) {
	within(t, 4, nil, func(t *testing.T, w *world) {
		liar, victim, asks := w.kits[0], w.kits[1], w.kits[2]
		user, err := liar.Identity.SignerFor("mallory@" + domain)
		if err != nil {
			t.Fatal(err)
		}
		stranger, err := ident.NewAuthority(domain, 16)
		if err != nil {
			t.Fatal(err)
		}
		foreign, err := stranger.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		for i, der := range [][]byte{victim.Identity.Signer().Certificates()[0], foreign.Signer().Certificates()[0], []byte("no certificate"), liar.Identity.Signer().Certificates()[0]} {
			_, err := liar.Node.Store(t.Context(), liar.Node.ResourceID(user.User()), wire.KindCertificateByUser, time.Hour, user, node.Value{Index: uint32(i), Data: der})
			if err != nil {
				t.Fatal(err)
			}
		}
		if list, err := asks.usage.ByUser(t.Context(), user.User()); !errors.Is(err, certusage.ErrNotFound) {
			t.Errorf("believed: %+v, %v", list, err)
		}
		// Under the victim's names it cannot store at all.
		for _, p := range []struct {
			name string
			kind wire.KindID
		}{{string(victim.ID().Bytes()), wire.KindCertificateByNode}, {ident.KitUser(victim.ID(), domain), wire.KindCertificateByUser}} {
			_, err := liar.Node.Store(t.Context(), liar.Node.ResourceID(p.name), p.kind, time.Hour, liar.Identity.Signer(), node.Value{Index: wire.LastIndex, Data: []byte("x")})
			if !node.IsRemote(err, wire.ErrorForbidden) {
				t.Errorf("stored for the victim: %v", err)
			}
		}
		if list := w.byNode(asks, victim.ID()); len(list) != 1 || list[0].NodeID != victim.ID() {
			t.Errorf("%+v", list)
		}
	})
}

// An array that is full: a kit takes a gap, or the place of its own oldest certificate, never another's.
func TestFullArray(t *testing.T) {
	small := func(d *ident.Document) {
		for i := range d.Kinds {
			if d.Kinds[i].ID == wire.KindCertificateByUser {
				d.Kinds[i].MaxCount = 2
			}
		}
	}
	within(t, 4, small, func(t *testing.T, w *world) {
		aor := "alice@" + domain
		keep := func(i int) error { return w.kits[i].usage.Keep(t.Context(), aor) }
		if err := errors.Join(keep(0), keep(1)); err != nil {
			t.Fatal(err)
		}
		if err := keep(2); !errors.Is(err, certusage.ErrFull) || !node.IsRemote(err, wire.ErrorDataTooLarge) {
			t.Errorf("third of two: %v", err)
		}
		if list, err := w.kits[3].usage.ByUser(t.Context(), aor); err != nil || len(list) != 2 {
			t.Errorf("%d certificates, %v", len(list), err)
		}
		if err := w.kits[0].usage.Drop(t.Context(), aor); err != nil {
			t.Fatal(err)
		}
		if err := keep(2); err != nil {
			t.Errorf("after one left: %v", err)
		}
		list, err := w.kits[3].usage.ByUser(t.Context(), aor)
		if err != nil || len(list) != 2 || slices.ContainsFunc(list, func(p *ident.Peer) bool { return p.NodeID == w.kits[0].ID() }) {
			t.Errorf("%d certificates, %v", len(list), err)
		}
	})
}

// Without an authority: "the node MUST generate its own certificate", and the store says who claims a name. A Node-ID is
// proved by its key; a name is not, and both who claim it are found.
func TestSelfSigned(t *testing.T) {
	selfSigned := func(d *ident.Document) { d.SelfSigned, d.Rest.Digest, d.RootCerts = true, "sha256", nil }
	within(t, 3, selfSigned, func(t *testing.T, w *world) {
		for _, a := range w.kits {
			for _, b := range w.kits {
				if list := w.byNode(a, b.ID()); len(list) != 1 || list[0].NodeID != b.ID() || !bytes.Equal(list[0].Leaf.RawIssuer, list[0].Leaf.RawSubject) {
					t.Errorf("%+v", list)
				}
			}
		}
		aor := "alice@" + domain
		if err := errors.Join(w.kits[0].usage.Keep(t.Context(), aor), w.kits[1].usage.Keep(t.Context(), aor)); err != nil {
			t.Fatal(err)
		}
		if list, err := w.kits[2].usage.ByUser(t.Context(), aor); err != nil || len(list) != 2 || list[0].NodeID == list[1].NodeID {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

// Bounds and ends.
func TestLimits(t *testing.T) {
	within(t, 2, nil, func(t *testing.T, w *world) {
		u := w.kits[0].usage
		for i := range 8 {
			if err := u.Keep(t.Context(), fmt.Sprintf("user%d@%s", i, domain)); err != nil {
				t.Fatal(err)
			}
		}
		if err := u.Keep(t.Context(), "user8@"+domain); !errors.Is(err, certusage.ErrFull) {
			t.Errorf("ninth of eight: %v", err)
		}
		if err := u.Keep(t.Context(), "user1@"+domain); err != nil {
			t.Errorf("kept already: %v", err)
		}
		if err := u.Keep(t.Context(), "no address"); err == nil {
			t.Error("a name that no certificate can have")
		}
		if err := u.Drop(t.Context(), "user1@"+domain); err != nil {
			t.Fatal(err)
		}
		if err := u.Keep(t.Context(), "user8@"+domain); err != nil {
			t.Errorf("after one was dropped: %v", err)
		}
		s, err := u.Stats(t.Context())
		if err != nil || s.Stored != 10 || s.Removed != 1 || s.StoreFailed != 0 {
			t.Errorf("%+v, %v", s, err)
		}
		w.kits[0].stop()
		synctest.Wait()
		if err := u.Keep(t.Context(), "user9@"+domain); !errors.Is(err, certusage.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
		if err := u.Run(t.Context()); err == nil {
			t.Error("run twice")
		}
	})
}
