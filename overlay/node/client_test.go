package node_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// startClient starts a kit as a client and waits until it is linked to the peer responsible for it, and to nobody else.
func (w *world) startClient(c *nodetest.Kit, peers []*nodetest.Kit) {
	w.t.Helper()
	err := w.mission.Start(w.net, c, func(cfg *node.Config) { cfg.Client, cfg.Seed = true, w.rng.Uint64() })
	if err != nil {
		w.t.Fatal(err)
	}
	w.meets(c, peers)
	w.atHome(c, peers, 30*time.Second)
}

// meets lets a client discover peers; a client announces itself to nobody.
func (w *world) meets(c *nodetest.Kit, peers []*nodetest.Kit) {
	for _, k := range peers {
		c.Node.Discovered(k.ID(), []netip.AddrPort{k.Addr})
	}
}

// ask sends m and waits a little for its answer.
func (r *raw) ask(m *wire.Message) *wire.Message {
	r.t.Helper()
	r.send(m)
	return r.answer(m)
}

// atHome waits until a client is where it belongs.
func (w *world) atHome(c *nodetest.Kit, peers []*nodetest.Kit, limit time.Duration) {
	w.t.Helper()
	home := responsible(c.ID(), peers)
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		s := w.snapshot(c)
		if len(s.Links) == 1 && s.Links[0].Peer == home.ID() && s.Links[0].Attached {
			return
		}
		if time.Since(began) > limit {
			w.t.Fatalf("client %v is linked to %+v, want %v alone", c.ID(), s.Links, home.ID())
		}
	}
}

func responsible(id wire.NodeID, peers []*nodetest.Kit) *nodetest.Kit {
	return slices.MinFunc(peers, func(a, b *nodetest.Kit) int {
		return ident.Distance(id, a.ID()).Compare(ident.Distance(id, b.ID()))
	})
}

// "Establish a connection to the peer responsible for the client's Node-ID in the overlay. Then, requests may be sent
// from/to the client using its Node-ID in the same manner as if it were a peer, because the responsible peer in the
// overlay will handle the final step of routing to the client." "We use the term "client" to refer to nodes that do not
// have routing or storage responsibilities." (RFC 6940 §4.2.1, §4.2)
func TestClient(t *testing.T) {
	w := newWorld(t, 6, lan)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		client, peers := w.kits[5], w.kits[:5]
		for _, k := range peers {
			w.start(k)
		}
		w.net.Meet(peers...)
		w.ring(30*time.Second, peers...)
		w.startClient(client, peers)
		if _, err := put(client, "client", "mine"); err != nil {
			t.Fatal(err)
		}
		w.storeAll("u", peers...)
		for _, k := range peers {
			if p, err := k.Node.Ping(t.Context(), wire.ToNode(client.ID())); err != nil || p.Peer != client.ID() {
				t.Errorf("%v pings the client: %v, %v", k.ID(), p.Peer, err)
			}
			if p, err := client.Node.Ping(t.Context(), wire.ToNode(k.ID())); err != nil || p.Peer != k.ID() {
				t.Errorf("the client pings %v: %v, %v", k.ID(), p.Peer, err)
			}
			if got, err := get(k, "client"); err != nil || got[client.ID()] != "mine" {
				t.Errorf("%v reads what the client stored: %v, %v", k.ID(), got, err)
			}
		}
		w.readAll("by the client", "u", peers, client)
		time.Sleep(3 * time.Minute)
		// It is in nobody's ring, and nothing is stored at it.
		if err := nodetest.CheckRing(peers...); err != nil {
			t.Error(err)
		}
		if s := w.snapshot(client); s.Stored.Values != 0 || s.Counters["forwarded"] != 0 {
			t.Errorf("the client holds %d values and forwarded %d messages", s.Stored.Values, s.Counters["forwarded"])
		}
		w.atHome(client, peers, time.Second)

		// "These updates can indicate that the peer is no longer responsible for the client's Node-ID. The client would
		// then need to form a connection to the appropriate peer." Here because the peer dies.
		home := responsible(client.ID(), peers)
		if err := home.Kill(); err != nil {
			t.Fatal(err)
		}
		rest := slices.DeleteFunc(slices.Clone(peers), func(k *nodetest.Kit) bool { return k == home })
		for _, k := range append(slices.Clone(rest), client) {
			k.Node.Lost(home.ID())
		}
		w.ring(10*time.Second, rest...)
		w.atHome(client, rest, 30*time.Second)
		if p, err := rest[0].Node.Ping(t.Context(), wire.ToNode(client.ID())); err != nil || p.Peer != client.ID() {
			t.Errorf("after the loss of its peer: %v, %v", p.Peer, err)
		}
		// Here because a nearer one comes: the dead peer again.
		if err := w.mission.Start(w.net, home, nil); err != nil {
			t.Fatal(err)
		}
		w.net.Meet(append(slices.Clone(rest), home)...)
		w.meets(client, peers)
		w.ring(30*time.Second, peers...)
		w.atHome(client, peers, 90*time.Second)
	})
}

// A client stores nothing for others and carries nothing for them, whatever it is asked.
func TestClientRefusesToServe(t *testing.T) {
	w := newWorld(t, 3, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		client, peers := w.kits[2], w.kits[:2]
		for _, k := range peers {
			w.start(k)
		}
		w.net.Meet(peers...)
		w.ring(30*time.Second, peers...)
		w.startClient(client, peers)
		r := newRaw(t, w, client, 1)
		defer r.conn.Close()
		if code := errorCode(t, r.ask(r.message(wire.JoinReq, encode(t, wire.JoinRequest{Node: r.id.NodeID()}), nil))); code != wire.ErrorForbidden {
			t.Errorf("Join at a client: %v", code)
		}
		before := w.snapshot(client).Counters["unroutable"]
		r.send(r.message(wire.PingReq, ping, func(m *wire.Message) { m.Dest = toNodes(peers[0].ID()) }))
		r.send(r.message(wire.PingReq, ping, func(m *wire.Message) { m.Dest = toNodes(client.ID(), peers[0].ID()) }))
		time.Sleep(time.Second)
		s := w.snapshot(client)
		if n := s.Counters["unroutable"] - before; n != 2 || s.Counters["forwarded"] != 0 {
			t.Errorf("%d dropped, %d forwarded", n, s.Counters["forwarded"])
		}
	})
}

// "If the nodes are not allowed to remain clients after the initial join, the element MUST be set to "false"" (RFC 6940
// §11.1, clients-permitted).
func TestClientsNotPermitted(t *testing.T) {
	w := newWorld(t, 2, nodetest.Conditions{Delay: time.Millisecond})
	m, err := nodetest.NewMission("test.mission.home.arpa", func(d *ident.Document) { d.ClientsPermitted = false })
	if err != nil {
		t.Fatal(err)
	}
	w.mission = m
	for i := range w.kits {
		if w.kits[i], err = m.NewKit(i + 1); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		err := m.Start(w.net, w.kits[1], func(c *node.Config) { c.Client = true })
		if !errors.Is(err, node.ErrNoClients) {
			t.Errorf("a client starts: %v", err)
		}
		w.kits[1].Node = nil
		w.start(w.kits[0])
		r := newRaw(t, w, w.kits[0], 1)
		defer r.conn.Close()
		fetch := func() *wire.Message {
			return r.message(wire.FetchReq, encode(t, wire.FetchRequest{Resource: w.kits[0].Node.ResourceID("x"),
				Specifiers: []wire.DataSpecifier{{Kind: regKind, Model: wire.Dictionary}}}), func(m *wire.Message) {
				m.Dest = []wire.Destination{wire.ToResource(w.kits[0].Node.ResourceID("x"))}
			})
		}
		if a := r.ask(fetch()); a == nil || a.Code != wire.FetchAns {
			t.Errorf("before it can have joined: %+v", a)
		}
		for range 70 {
			time.Sleep(time.Second)
			r.ask(r.message(wire.PingReq, ping, nil)) // or the link is taken for dead
		}
		if code := errorCode(t, r.ask(fetch())); code != wire.ErrorForbidden {
			t.Errorf("a node that stays a client fetches: %v", code)
		}
		if a := r.ask(r.message(wire.PingReq, ping, nil)); a == nil || a.Code != wire.PingAns {
			t.Errorf("ping: %+v", a)
		}
	})
}
