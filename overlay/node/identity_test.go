package node_test

import (
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// several is a member whose certificate has that many Node-IDs.
func (w *world) several(n int) *ident.Identity {
	w.t.Helper()
	key, err := ident.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	ids := make([]wire.NodeID, n)
	for i := range ids {
		if ids[i], err = ident.RandomNodeID(16); err != nil {
			w.t.Fatal(err)
		}
	}
	der, err := w.mission.Authority.Certify(key.Public(), ids, "several@test.mission.home.arpa", true)
	if err != nil {
		w.t.Fatal(err)
	}
	trust, err := ident.TrustFor(w.mission.Document)
	if err != nil {
		w.t.Fatal(err)
	}
	id, err := trust.Identity(key, der)
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// enrolled is a world whose document has an enrolment server, which assigns Node-IDs.
func enrolled(t *testing.T, n int) *world {
	t.Helper()
	w := newWorld(t, n, nodetest.Conditions{Delay: time.Millisecond})
	m, err := nodetest.NewMission("test.mission.home.arpa", func(d *ident.Document) {
		d.Rest.EnrollmentServers = []string{"https://steward.test.mission.home.arpa/"}
	})
	if err != nil {
		t.Fatal(err)
	}
	w.mission = m
	for i := range w.kits {
		if w.kits[i], err = m.NewKit(i + 1); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// "If a node with a certificate with multiple Node-IDs attempts to route a message other than a Ping or Attach through a
// node without performing an Attach, the receiving node MUST reject the request with an Error_Forbidden error. The node
// MUST implement support for returning responses to a Ping or Attach request made by a Joining Node Attaching to its
// responsible peer." (RFC 6940 §6.1.2)
func TestSeveralNodeIDsAttachFirst(t *testing.T) {
	w := enrolled(t, 2)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		k, far := w.kits[0], w.kits[1]
		r := newRawAs(t, w, k, 1, w.several(3))
		defer r.conn.Close()
		res := k.Node.ResourceID("x")
		fetch := encode(t, wire.FetchRequest{Resource: res, Specifiers: []wire.DataSpecifier{{Kind: regKind, Model: wire.Dictionary}}})
		through := func(m *wire.Message) { m.Dest = toNodes(far.ID()) }
		for _, c := range []struct {
			name   string
			code   wire.MessageCode
			body   []byte
			change func(*wire.Message)
			want   wire.MessageCode
		}{
			{"Ping", wire.PingReq, ping, nil, wire.PingAns},
			{"Ping through it", wire.PingReq, ping, through, wire.PingAns},
			{"Fetch", wire.FetchReq, fetch, nil, wire.ErrorAns},
			{"Fetch through it", wire.FetchReq, fetch, through, wire.ErrorAns},
			{"Join", wire.JoinReq, encode(t, wire.JoinRequest{Node: r.id.NodeID()}), nil, wire.ErrorAns},
		} {
			a := r.ask(r.message(c.code, c.body, c.change))
			if a == nil || a.Code != c.want {
				t.Fatalf("%s: %+v", c.name, a)
			}
			if c.want == wire.ErrorAns && errorCode(t, a) != wire.ErrorForbidden {
				t.Errorf("%s: %v", c.name, errorCode(t, a))
			}
		}
		// It attaches as its second Node-ID, and is that from then on.
		second := r.id.NodeIDs()[1]
		s, err := r.id.Signer().As(second)
		if err != nil {
			t.Fatal(err)
		}
		as := func(m *wire.Message) *wire.Message {
			m.Security = wire.SecurityBlock{}
			if err := ident.Sign(m, s); err != nil {
				t.Fatal(err)
			}
			return m
		}
		try, body := r.side("passive")
		a := r.ask(as(r.message(wire.AttachReq, body, nil)))
		if a == nil || a.Code != wire.AttachAns {
			t.Fatalf("Attach: %+v", a)
		}
		c := r.connect(try, a, true)
		defer c.Close()
		over := *r
		over.conn, over.frags = c, nil
		if a := over.ask(as(over.message(wire.FetchReq, fetch, nil))); a == nil || a.Code != wire.FetchAns {
			t.Errorf("Fetch after the Attach: %+v", a)
		}
		if a := over.ask(as(over.message(wire.FetchReq, fetch, through))); a == nil || a.Code != wire.FetchAns || a.Dest[0].Node != second {
			t.Errorf("Fetch through it after the Attach: %+v", a)
		}
		if l := attached(w.snapshot(k), second); len(l) != 1 {
			t.Errorf("links to %v: %+v", second, l)
		}
		_ = c.Close()
		time.Sleep(time.Second)
		if l := attached(w.snapshot(k), second); len(l) != 0 {
			t.Errorf("links after it was closed: %+v", l)
		}
	})
}

// A kit whose certificate has several Node-IDs is a peer like others, under the first of them.
func TestKitWithSeveralNodeIDs(t *testing.T) {
	w := enrolled(t, 3)
	k := w.kits[2]
	k.Identity = w.several(2)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		for _, other := range w.kits[:2] {
			if p, err := other.Node.Ping(t.Context(), wire.ToNode(k.ID())); err != nil || p.Peer != k.ID() {
				t.Errorf("%v, %v", p.Peer, err)
			}
			if p, err := k.Node.Ping(t.Context(), wire.ToNode(other.ID())); err != nil || p.Peer != other.ID() {
				t.Errorf("%v, %v", p.Peer, err)
			}
		}
	})
}
