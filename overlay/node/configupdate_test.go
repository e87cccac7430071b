package node_test

import (
	"bytes"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// successor is the document after d, signed by a.
func successor(t *testing.T, d *ident.Document, a *ident.Authority) *ident.Document {
	t.Helper()
	next := *d
	next.Sequence = ident.NextSequence(d.Sequence)
	s, err := a.Signer()
	if err != nil {
		t.Fatal(err)
	}
	out, err := next.Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// "Whenever a node detects that another node has old configuration data, it MUST generate a ConfigUpdate request" (RFC
// 6940 §6.5.4): one kit of a ring comes back with a newer document. However often it and its neighbours meet, each of
// these hears of the document once; and of the one after that once.
func TestNewerDocumentSpreads(t *testing.T) {
	w := newWorld(t, 3, lan)
	second := successor(t, w.mission.Document, w.mission.Authority)
	third := successor(t, second, w.mission.Authority)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		heard := map[*nodetest.Kit]chan *ident.Document{}
		start := func(k *nodetest.Kit, d *ident.Document) {
			t.Helper()
			heard[k] = make(chan *ident.Document, 100)
			into := heard[k]
			if err := w.mission.Start(w.net, k, func(c *node.Config) {
				c.Document = d
				c.NewDocument = func(d *ident.Document) { into <- d }
			}); err != nil {
				t.Fatal(err)
			}
		}
		for _, k := range w.kits {
			start(k, w.mission.Document)
		}
		w.net.Meet(w.kits...)
		w.ring(30*time.Second, w.kits...)
		newer, olds := w.kits[0], w.kits[1:]
		for _, d := range []*ident.Document{second, third} {
			if err := newer.Stop(); err != nil {
				t.Fatal(err)
			}
			start(newer, d)
			for range 10 {
				w.net.Meet(w.kits...)
				time.Sleep(20 * time.Second)
			}
			for i, k := range olds {
				if len(heard[k]) != 1 {
					t.Errorf("sequence %d: kit %d was told %d times, want once", d.Sequence, i+1, len(heard[k]))
				}
				for len(heard[k]) > 0 {
					if got := <-heard[k]; !got.Same(d) {
						t.Errorf("kit %d was told of sequence %d, want %d", i+1, got.Sequence, d.Sequence)
					}
				}
			}
		}
		if n := len(heard[newer]); n != 0 {
			t.Errorf("the kit with the newest was told of %d documents", n)
		}
		s := w.snapshot(newer)
		t.Logf("ConfigUpdates sent in 200 s: %d", s.Counters["config_updates"])
		if n := s.Counters["config_updates"]; n == 0 || n > 16+200 {
			t.Errorf("%d ConfigUpdates sent", n)
		}
		// The others go over to it: one ring again, and nothing more to tell.
		for _, k := range olds {
			if err := k.Stop(); err != nil {
				t.Fatal(err)
			}
			start(k, third)
		}
		w.net.Meet(w.kits...)
		w.ring(30*time.Second, w.kits...)
		for _, k := range w.kits {
			if len(heard[k]) != 0 {
				t.Errorf("%v was told of what it has", k.ID())
			}
		}
	})
}

// Error_Config_Too_New tells a node that another has older data, too: here by a peer that never asks anything itself.
func TestAnswerTooNewBringsTheDocument(t *testing.T) {
	w := newWorld(t, 1, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		r := newRaw(t, w, w.kits[0], 1)
		defer r.conn.Close()
		q := r.until(30*time.Second, func(m *wire.Message) bool { return m.Code == wire.AttachReq })
		if q == nil {
			t.Fatal("the kit asks nothing")
		}
		r.reply(q, wire.ErrorAns, encode(t, wire.ErrorResponse{Code: wire.ErrorConfigTooNew}))
		m := r.until(2*time.Second, func(m *wire.Message) bool { return m.Code == wire.ConfigUpdateReq })
		if m == nil {
			t.Fatal("no ConfigUpdate")
		}
		u, err := wire.ParseConfigUpdate(m.Body)
		if err != nil || u.Type != wire.ConfigUpdateConfig || !slices.Equal(u.Config, w.mission.Document.Raw()) || m.ConfigSequence != wire.AnySequence {
			t.Errorf("ConfigUpdate of type %v with sequence %d: %v", u.Type, m.ConfigSequence, err)
		}
	})
}

// A document signed by a stranger is refused although its sequence is newer and a member brings it: "The Configuration
// Document is correctly digitally signed … Otherwise, appropriate errors MUST be generated." (RFC 6940 §6.5.4.2)
func TestDocumentOfAStrangerIsRefused(t *testing.T) {
	w := newWorld(t, 2, lan)
	other, err := nodetest.NewMission("test.mission.home.arpa", nil)
	if err != nil {
		t.Fatal(err)
	}
	forged := successor(t, w.mission.Document, other.Authority) // the mission's own text, with another's signature
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		var told atomic.Int64
		victim, traitor := w.kits[0], w.kits[1]
		for k, d := range map[*nodetest.Kit]*ident.Document{victim: w.mission.Document, traitor: forged} {
			if err := w.mission.Start(w.net, k, func(c *node.Config) {
				c.Document = d
				c.NewDocument = func(*ident.Document) { told.Add(1) }
			}); err != nil {
				t.Fatal(err)
			}
		}
		for range 5 {
			w.net.Meet(w.kits...)
			time.Sleep(20 * time.Second)
		}
		s := w.snapshot(victim)
		if told.Load() != 0 || s.Sequence != w.mission.Document.Sequence {
			t.Errorf("told of %d documents, sequence %d", told.Load(), s.Sequence)
		}
		if s.Counters["config_refuse"] == 0 {
			t.Error("no document came, or it was not counted as refused")
		}
	})
}

// "If any type of request tries to access a data Kind that the peer does not know about, the peer MUST fail the request
// and generate an Error_Unknown_Kind error. … A node which receives this error MUST generate a ConfigUpdate message which
// contains the appropriate Kind definition" (RFC 6940 §7.4.1.2).
func TestUnknownKindIsAnsweredWithItsDefinition(t *testing.T) {
	w := newWorld(t, 2, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		var (
			unknown atomic.Pointer[[]wire.KindID] // what the kits say they do not know
			updates = make(chan *wire.Message, 100)
		)
		for _, k := range w.kits {
			err := w.mission.Start(w.net, k, func(c *node.Config) {
				c.Transport = &tap{c.Transport, func(_ wire.NodeID, m *wire.Message) (*wire.Message, time.Duration) {
					switch list := unknown.Load(); {
					case m.Code == wire.FetchAns && list != nil:
						info, err := wire.AppendKindList(nil, *list)
						if err != nil {
							t.Error(err)
						}
						m.Code, m.Body = wire.ErrorAns, encode(t, wire.ErrorResponse{Code: wire.ErrorUnknownKind, Info: info})
						signAs(t, m, k.Identity)
					case m.Code == wire.ConfigUpdateReq:
						updates <- m
					}
					return m, 0
				}}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		w.net.Meet(w.kits...)
		w.ring(30*time.Second, w.kits...)
		res := w.kits[0].Node.ResourceID("u@test.mission.home.arpa")
		asker := w.kits[0]
		p, err := asker.Node.Ping(t.Context(), wire.ToResource(res))
		if err != nil {
			t.Fatal(err)
		}
		if p.Peer == asker.ID() {
			asker = w.kits[1]
			p.Peer = w.kits[0].ID()
			if again, err := asker.Node.Ping(t.Context(), wire.ToResource(res)); err != nil || again.Peer != p.Peer {
				t.Fatal(again, err)
			}
		}
		block, ok := w.mission.Document.KindBlock(regKind)
		if !ok {
			t.Fatal("no kind-block in the document")
		}
		for _, c := range []struct {
			name string
			list []wire.KindID
			want [][]byte // nil: no ConfigUpdate
		}{
			{"the Kind asked for", []wire.KindID{regKind}, [][]byte{block}},
			{"twice, and one that nobody defined", []wire.KindID{regKind, 0xf0000001, regKind}, [][]byte{block}},
			{"only one that nobody defined", []wire.KindID{0xf0000001}, nil},
			{"none", nil, nil},
		} {
			unknown.Store(&c.list)
			if _, err := asker.Node.Fetch(t.Context(), res, regKind); !node.IsRemote(err, wire.ErrorUnknownKind) {
				t.Errorf("%s: %v, want Error_Unknown_Kind", c.name, err)
			}
			time.Sleep(2 * time.Second)
			if want := min(len(c.want), 1); len(updates) != want {
				t.Fatalf("%s: %d ConfigUpdates, want %d", c.name, len(updates), want)
			}
			if c.want == nil {
				continue
			}
			m := <-updates
			u, err := wire.ParseConfigUpdate(m.Body)
			if err != nil || u.Type != wire.ConfigUpdateKinds || !slices.EqualFunc(u.Kinds, c.want, slices.Equal) {
				t.Errorf("%s: %+v, %v", c.name, u, err)
			}
			if len(m.Dest) != 1 || m.Dest[0].Node != p.Peer {
				t.Errorf("%s: sent to %v, want %v", c.name, m.Dest, p.Peer)
			}
		}
		// Whoever never knows anything is not told without end.
		unknown.Store(&[]wire.KindID{regKind})
		for range 100 {
			if _, err := asker.Node.Fetch(t.Context(), res, regKind); err == nil {
				t.Fatal("fetched")
			}
		}
		if n := len(updates); n == 0 || n > 17 {
			t.Errorf("%d ConfigUpdates for 100 errors", n)
		}
	})
}

const privateKind = wire.KindID(0xf0000001)

// withKind is the mission's document with one more Kind, signed by a: what its kind-block is taken from.
func withKind(t *testing.T, d *ident.Document, a *ident.Authority, maxSize uint32, access ident.AccessControl) []byte {
	t.Helper()
	more := *d
	more.Kinds = append(slices.Clone(d.Kinds), ident.Kind{
		ID: privateKind, Model: wire.Dictionary, AccessControl: access, MaxCount: 4, MaxSize: maxSize,
	})
	s, err := a.Signer()
	if err != nil {
		t.Fatal(err)
	}
	out, err := more.Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	block, ok := out.KindBlock(privateKind)
	if !ok {
		t.Fatal("no kind-block")
	}
	return block
}

// "If the ConfigUpdateReq is of type "kind", it MUST be processed only if it is correctly digitally signed by an
// acceptable Kind signer (i.e., one listed in the current configuration file). […] if the Kind update conflicts with an
// existing known Kind (i.e., it is signed by a different signer), then it should be rejected with an Error_Forbidden
// error. […] If the update is acceptable, then the node MUST reconfigure itself to match the new information. This may
// include adding permissions for new Kinds" (RFC 6940 §6.5.4.2)
func TestKindUpdate(t *testing.T) {
	w := newWorld(t, 2, nodetest.Conditions{Delay: time.Millisecond})
	other, err := nodetest.NewMission("test.mission.home.arpa", nil)
	if err != nil {
		t.Fatal(err)
	}
	good := withKind(t, w.mission.Document, w.mission.Authority, 100, ident.UserNodeMatch)
	for name, block := range map[string][]byte{
		"another authority's":  withKind(t, w.mission.Document, other.Authority, 100, ident.UserNodeMatch),
		"altered":              bytes.Replace(good, []byte("100"), []byte("900"), 1),
		"unknown policy":       withKind(t, w.mission.Document, w.mission.Authority, 100, "ANYBODY"),
		"no kind-block":        []byte("<kind/>"),
		"a known Kind, larger": nil,
	} {
		t.Run(name, func(t *testing.T) { w.kindUpdate(t, good, block) })
	}
}

// kindUpdate has a kit be told of a good Kind, after a bad one.
func (w *world) kindUpdate(t *testing.T, good, bad []byte) {
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		k, far := w.kits[0], w.kits[1]
		r := newRaw(t, w, k, 1)
		defer r.conn.Close()
		tell := func(blocks ...[]byte) *wire.Message {
			return r.ask(r.message(wire.ConfigUpdateReq, encode(t, wire.ConfigUpdateRequest{Type: wire.ConfigUpdateKinds, Kinds: blocks}), nil))
		}
		aor := "u@test.mission.home.arpa"
		s, err := k.Identity.SignerFor(aor)
		if err != nil {
			t.Fatal(err)
		}
		store := func(by *nodetest.Kit, res wire.ResourceID) error {
			_, err := by.Node.Store(t.Context(), res, privateKind, time.Hour, s, node.Value{Key: k.ID().Bytes(), Data: []byte("v")})
			return err
		}
		res := k.Node.ResourceID(aor)
		if bad != nil {
			if code := errorCode(t, tell(bad)); code != wire.ErrorForbidden {
				t.Errorf("answered with %v", code)
			}
			if code := errorCode(t, tell(good, bad)); code != wire.ErrorForbidden {
				t.Errorf("beside a good one answered with %v", code)
			}
			if err := store(k, res); err == nil {
				t.Fatal("stored before the Kind was told")
			}
		}
		for range 2 { // again says the same
			if a := tell(good); a == nil || a.Code != wire.ConfigUpdateAns {
				t.Fatalf("answer to a Kind: %+v", a)
			}
		}
		if bad == nil {
			larger := withKind(t, w.mission.Document, w.mission.Authority, 200, ident.UserNodeMatch)
			if code := errorCode(t, tell(larger)); code != wire.ErrorForbidden {
				t.Errorf("a conflicting Kind answered with %v", code)
			}
		}
		// It is usable, and goes on to whoever says that it does not know it (§7.4.1.2).
		owner, err := k.Node.Ping(t.Context(), wire.ToResource(res))
		if err != nil {
			t.Fatal(err)
		}
		if err := store(k, res); owner.Peer == far.ID() && !node.IsRemote(err, wire.ErrorUnknownKind) || owner.Peer == k.ID() && err != nil {
			t.Errorf("first store at %v: %v", owner.Peer, err)
		}
		time.Sleep(5 * time.Second)
		if err := store(k, res); err != nil {
			t.Error(err)
		}
		time.Sleep(15 * time.Second) // replicas
		for _, k := range w.kits {
			f, err := k.Node.Fetch(t.Context(), res, privateKind)
			if err != nil || len(f.Values) != 1 {
				t.Errorf("%v fetches %d values, %v", k.ID(), len(f.Values), err)
			}
		}
	})
}
