package node_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// Ping, Probe and RouteQuery of every kit by every other one.
func TestPingProbeRouteQuery(t *testing.T) {
	w := newWorld(t, 4, lan)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		var ring uint64
		for _, a := range w.kits {
			for _, b := range w.kits {
				p, err := a.Node.Ping(t.Context(), wire.ToNode(b.ID()))
				if err != nil || p.Peer != b.ID() || p.RTT > 50*time.Millisecond {
					t.Errorf("ping: %+v, %v", p, err)
				}
				next, err := a.Node.RouteQuery(t.Context(), b.ID(), wire.ToNode(a.ID()))
				if err != nil || next != a.ID() {
					t.Errorf("route query: %v, %v", next, err)
				}
				// To whoever controls a region: "a sender sends to Resource-ID X, not Node-ID X".
				r, err := a.Node.Ping(t.Context(), wire.ToResource(ident.AsResource(ident.Next(b.ID()))))
				s := w.snapshot(b)
				if err != nil || r.Peer != s.Successors[0] {
					t.Errorf("ping of %v+1: %v, %v; want %v", b.ID(), r.Peer, err, s.Successors[0])
				}
			}
			info, err := w.kits[0].Node.Probe(t.Context(), wire.ToNode(a.ID()), wire.ProbeUptime, wire.ProbeResponsibleSet, wire.ProbeUptime)
			if err != nil || len(info) != 2 || info[0].Type != wire.ProbeUptime || info[1].Type != wire.ProbeResponsibleSet {
				t.Errorf("probe: %+v, %v; want what was asked for, once each", info, err)
				continue
			}
			ring += uint64(info[1].Value)
		}
		if ring < 999_999_990 || ring > 1_000_000_010 {
			t.Errorf("the kits are responsible for %d parts per billion", ring)
		}
		// Nobody there: a Node-ID that nobody has runs into the end of the request lifetime, RFC 6940 §6.2.1: five
		// sends, 3 s apart.
		began := time.Now()
		if _, err := w.kits[0].Node.Ping(t.Context(), wire.ToNode(nodeID(t, 0x77))); !errors.Is(err, node.ErrTimeout) || time.Since(began) != 15*time.Second {
			t.Errorf("ping of nobody: %v after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.kits[0].Node.Ping(ctx, wire.ToNode(nodeID(t, 0x77))); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ping with a deadline: %v", err)
		}
		if s := w.snapshot(w.kits[0]); s.Transactions > 1 {
			t.Errorf("%d transactions left", s.Transactions)
		}
	})
}

// Kits that attach to each other at the same moment end with one link each, RFC 6940 §6.5.1.2.
func TestGlare(t *testing.T) {
	w := newWorld(t, 3, nodetest.Conditions{Delay: 40 * time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		for _, k := range w.kits {
			w.start(k)
		}
		w.net.Meet(w.kits...)
		w.ring(30*time.Second, w.kits...)
		time.Sleep(2 * time.Minute) // bootstrap links have gone
		for _, k := range w.kits {
			s := w.snapshot(k)
			peers := map[wire.NodeID]int{}
			for _, l := range s.Links {
				peers[l.Peer]++
				if !l.Attached {
					t.Errorf("bootstrap link to %v left", l.Peer)
				}
			}
			for id, n := range peers {
				if n != 1 {
					t.Errorf("%d links to %v", n, id)
				}
			}
			if len(peers) != 2 {
				t.Errorf("links to %d peers, want 2", len(peers))
			}
			t.Logf("glare %d, attaches %d, failed %d", s.Counters["glare"], s.Counters["attaches"], s.Counters["attaches_failed"])
		}
	})
}

// AppAttach at the same moment from both sides: one of them gets it, the other's handler does, always the same one
// connection.
func TestAppAttachGlare(t *testing.T) {
	w := newWorld(t, 2, nodetest.Conditions{Delay: 20 * time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		a, b := w.kits[0], w.kits[1]
		if a.ID().Compare(b.ID()) > 0 {
			a, b = b, a // a is the smaller
		}
		incoming := make(chan node.AppConn, 4)
		for _, k := range w.kits {
			k.Node.HandleApp(5060, func(c node.AppConn) {
				select {
				case incoming <- c:
				default:
					_ = c.Close()
				}
			})
		}
		var wg sync.WaitGroup
		var errA, errB error
		var connB node.AppConn
		wg.Go(func() { _, errA = a.Node.AppAttach(t.Context(), b.ID(), 5060) })
		wg.Go(func() { connB, errB = b.Node.AppAttach(t.Context(), a.ID(), 5060) })
		wg.Wait()
		if !errors.Is(errA, node.ErrInProgress) || errB != nil {
			t.Fatalf("the smaller Node-ID: %v, the larger: %v", errA, errB)
		}
		time.Sleep(time.Second)
		if len(incoming) != 1 {
			t.Fatalf("%d incoming connections", len(incoming))
		}
		in := <-incoming
		if in.Peer().NodeID != b.ID() || connB.Peer().NodeID != a.ID() || in.IsClient() == connB.IsClient() {
			t.Errorf("in from %v, out to %v", in.Peer().NodeID, connB.Peer().NodeID)
		}
		_ = in.Close()
		// And again, as nothing is left over.
		c, err := a.Node.AppAttach(t.Context(), b.ID(), 5060)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		// Given up at any moment, it leaves nothing behind.
		for i := range 60 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*2*time.Millisecond)
			if c, err := a.Node.AppAttach(ctx, b.ID(), 5060); err == nil {
				_ = c.Close()
			}
			cancel()
			time.Sleep(40 * time.Second) // b gives up its side, too
		}
		if c, err = a.Node.AppAttach(t.Context(), b.ID(), 5060); err != nil {
			t.Fatalf("after many that were given up: %v", err)
		}
		_ = c.Close()
		if _, err := a.Node.AppAttach(t.Context(), b.ID(), 61441); !node.IsRemote(err, wire.ErrorNotFound) {
			t.Errorf("unknown application: %v, want Error_Not_Found", err)
		}
	})
}

// RFC 6940 §6.5.4.2: a newer, correctly signed document is accepted, whatever else is refused; and a kit with an
// older one is sent ours (§6.3.2.1).
func TestConfigUpdate(t *testing.T) {
	w := newWorld(t, 2, lan)
	// A document is larger than the RFC's default for a message, 5000 bytes.
	m, err := nodetest.NewMission("test.mission.home.arpa", func(d *ident.Document) { d.MaxMessageSize = 16 << 10 })
	if err != nil {
		t.Fatal(err)
	}
	w.mission = m
	for i := range w.kits {
		if w.kits[i], err = m.NewKit(i + 1); err != nil {
			t.Fatal(err)
		}
	}
	next := func(change func(*ident.Document), a *ident.Authority) *ident.Document {
		d := *w.mission.Document
		d.Sequence = ident.NextSequence(d.Sequence)
		if change != nil {
			change(&d)
		}
		s, err := a.Signer()
		if err != nil {
			t.Fatal(err)
		}
		out, err := d.Sign(s)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	newer := next(nil, w.mission.Authority)
	// Of its own sequence one that does not supersede it (docs/adr/0019).
	same := next(func(d *ident.Document) { d.Sequence = w.mission.Document.Sequence }, w.mission.Authority)
	for ident.Supersedes(w.mission.Document, same) {
		same = next(func(d *ident.Document) { d.Sequence = w.mission.Document.Sequence }, w.mission.Authority)
	}
	other, err := nodetest.NewMission("test.mission.home.arpa", nil)
	if err != nil {
		t.Fatal(err)
	}
	forged := next(nil, other.Authority)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		got := make(chan *ident.Document, 4)
		for _, k := range w.kits {
			if err := w.mission.Start(w.net, k, func(c *node.Config) { c.NewDocument = func(d *ident.Document) { got <- d } }); err != nil {
				t.Fatal(err)
			}
		}
		w.net.Meet(w.kits...)
		w.ring(30*time.Second, w.kits...)
		r := newRaw(t, w, w.kits[0], 1)
		defer r.conn.Close()
		push := func(d []byte) *wire.Message {
			m := r.message(wire.ConfigUpdateReq, encode(t, wire.ConfigUpdateRequest{Type: wire.ConfigUpdateConfig, Config: d}), func(m *wire.Message) {
				m.ConfigSequence = wire.AnySequence
			})
			b, err := m.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			parts, err := wire.Fragment(b, 1200)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range parts {
				r.sendBytes(p)
			}
			return r.answer(m)
		}
		if a := push(forged.Raw()); errorCode(t, a) != wire.ErrorForbidden {
			t.Errorf("forged: %+v", a)
		}
		if a := push(same.Raw()); errorCode(t, a) != wire.ErrorConfigTooOld {
			t.Errorf("same sequence: %+v", a)
		}
		if a := push([]byte("<overlay/>")); errorCode(t, a) != wire.ErrorForbidden {
			t.Errorf("nonsense: %+v", a)
		}
		if len(got) != 0 {
			t.Fatal("refused, and taken all the same")
		}
		if a := push(newer.Raw()); a == nil || a.Code != wire.ConfigUpdateAns {
			t.Fatalf("newer: %+v", a)
		}
		time.Sleep(time.Second)
		if len(got) != 1 || !(<-got).Same(newer) {
			t.Error("the newer document was not handed on")
		}
		// A request with an older sequence is refused and brings our document.
		m := r.message(wire.PingReq, ping, func(m *wire.Message) { m.ConfigSequence = 0 })
		r.send(m)
		if a := r.answer(m); errorCode(t, a) != wire.ErrorConfigTooOld {
			t.Fatalf("older sequence: %+v", a)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		for u := r.next(ctx); u != nil; u = r.next(ctx) {
			r.asked = append(r.asked, u)
		}
		pushed := 0
		for _, u := range r.asked {
			if u.Code == wire.ConfigUpdateReq {
				pushed++
				c, err := wire.ParseConfigUpdate(u.Body)
				if err != nil || u.ConfigSequence != wire.AnySequence || !slices.Equal(c.Config, w.mission.Document.Raw()) {
					t.Errorf("ConfigUpdate with sequence %d: %v", u.ConfigSequence, err)
				}
			}
		}
		if pushed == 0 {
			t.Error("no ConfigUpdate came")
		}
	})
}

// Rings under loss, with kits that come, go and are cut off at random, become one ring with everything readable as
// soon as they are left in peace.
func TestChurn(t *testing.T) {
	w := newWorld(t, 8, nodetest.Conditions{Delay: 5 * time.Millisecond, Jitter: 20 * time.Millisecond, Loss: 0.05})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		down := map[*nodetest.Kit]bool{}
		for range 40 {
			k := w.kits[w.rng.IntN(len(w.kits))]
			switch w.rng.IntN(5) {
			case 0:
				if !down[k] && len(down) < 5 {
					down[k] = true
					if err := k.Kill(); err != nil {
						t.Fatal(err)
					}
				}
			case 1:
				if !down[k] && len(down) < 5 {
					down[k] = true
					if err := k.Stop(); err != nil {
						t.Fatal(err)
					}
				}
			case 2:
				if down[k] {
					delete(down, k)
					w.start(k)
				}
			case 3:
				w.net.Partition(w.rng.IntN(2), k.Addr)
			case 4:
				w.net.Heal()
			}
			var up []*nodetest.Kit
			for _, k := range w.kits {
				if !down[k] {
					up = append(up, k)
				}
			}
			w.net.Meet(up...)
			if !down[k] && w.rng.IntN(3) == 0 {
				_, _ = put(k, "during", "value") // it may fail; it must not hang or break anything
			}
			time.Sleep(time.Duration(w.rng.Int64N(int64(10 * time.Second))))
		}
		w.net.Heal()
		for k := range down {
			w.start(k)
		}
		w.net.Meet(w.kits...)
		d := w.ring(2*time.Minute, w.kits...)
		t.Logf("one ring %v after the last disturbance", d.Round(100*time.Millisecond))
		time.Sleep(20 * time.Second)
		w.storeAll("after", w.kits...)
		w.readAll("after", "after", w.kits, w.kits...)
		for _, k := range w.kits {
			s := w.snapshot(k)
			if s.Transactions > 64 || len(s.Links) > 2*len(w.kits) {
				t.Errorf("%d transactions, %d links", s.Transactions, len(s.Links))
			}
		}
	})
}
