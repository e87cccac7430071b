package node_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/config"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// allow makes the mission's document let kits ask for kinds of diagnostics.
func (w *world) allow(who wire.NodeID, kinds ...wire.DiagnosticKind) {
	d := *w.mission.Document
	for _, k := range kinds {
		d.Rest.Diagnostics = append(d.Rest.Diagnostics, config.Diagnostic{Kind: uint16(k), Nodes: []wire.NodeID{who}})
	}
	w.mission.Document = successor(w.t, &d, w.mission.Authority)
}

// A path over several hops: each is where the one before would send the message, and the last is responsible.
// "PathTrackAns [...] next_hop: The information of the next hop node from the responding intermediate peer to the
// destination. If the responding peer is the responsible peer for the destination ID, then the next_hop node ID equals
// the responding node ID, and after receiving a PathTrackAns where the next_hop node ID equals the responding node ID,
// the initiator MUST stop the iterative process." (RFC 7851 §4.3.1.2)
func TestPathTrack(t *testing.T) {
	w := newWorld(t, 14, lan)
	asker := w.kits[3]
	w.allow(asker.ID(), wire.DiagAppUptime, wire.DiagSoftwareVersion, wire.DiagBatteryStatus, wire.DiagMessagesSentRcvd, wire.DiagEWMABytesSent)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		for i, k := range w.kits {
			err := w.mission.Start(w.net, k, func(c *node.Config) {
				c.Seed = w.rng.Uint64()
				c.Chord = chord.Config{FullMesh: 4} // so that there are paths
				c.Diagnostics = func(kind wire.DiagnosticKind) (wire.DiagnosticValue, bool) {
					return wire.DiagnosticValue{Text: fmt.Sprintf("kit %d", i)}, kind == wire.DiagSoftwareVersion
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		w.net.Meet(w.kits...)
		time.Sleep(5 * time.Minute)
		if got, want := asker.Node.MayAsk(), wire.DiagAppUptime.Flag()|wire.DiagSoftwareVersion.Flag()|wire.DiagBatteryStatus.Flag()|
			wire.DiagMessagesSentRcvd.Flag()|wire.DiagEWMABytesSent.Flag(); got != want {
			t.Fatalf("may ask for %#x, want %#x", got, want)
		}
		longest := 0
		for i := range 40 {
			res := asker.Node.ResourceID(fmt.Sprint(i))
			owner := responsible(position(t, res), w.kits)
			hops, err := asker.Node.PathTrack(t.Context(), wire.ToResource(res), asker.Node.MayAsk())
			if err != nil {
				t.Fatalf("after %d hops: %v", len(hops), err)
			}
			if len(hops) == 0 {
				if owner != asker {
					t.Errorf("no hops, and %v is responsible", owner.ID())
				}
				continue
			}
			longest = max(longest, len(hops))
			if hops[len(hops)-1].Peer != owner.ID() {
				t.Errorf("ends at %v, responsible is %v", hops[len(hops)-1].Peer, owner.ID())
			}
			for j, h := range hops {
				next, err := asker.Node.RouteQuery(t.Context(), h.Peer, wire.ToResource(res))
				if want := hops[min(j+1, len(hops)-1)].Peer; err != nil || next != want {
					t.Errorf("hop %d: RouteQuery says %v, %v; PathTrack %v", j, next, err, want)
				}
				// "It MUST be exactly copied from the TTL field of the forwarding header in the received request."
				if want := w.mission.Document.InitialTTL - uint8(j+1); h.Response.HopCounter != want {
					t.Errorf("hop %d: hop_counter %d, want %d", j, h.Response.HopCounter, want)
				}
				w.checkInfo(h)
			}
		}
		t.Logf("longest path: %d hops", longest)
		if longest < 2 {
			t.Error("no path had several hops")
		}
		// To a node: the path ends at it.
		far := w.kits[9]
		hops, err := asker.Node.PathTrack(t.Context(), wire.ToNode(far.ID()), 0)
		if err != nil || len(hops) == 0 || hops[len(hops)-1].Peer != far.ID() || len(hops[0].Response.Info) != 0 {
			t.Errorf("to a node: %+v, %v", hops, err)
		}
		// A hop that does not answer ends it; the others are told.
		if len(hops) > 1 {
			if err := far.Kill(); err != nil {
				t.Fatal(err)
			}
			part, err := asker.Node.PathTrack(t.Context(), wire.ToNode(far.ID()), 0)
			if err == nil || len(part) >= len(hops) {
				t.Errorf("to a dead node: %d hops, %v", len(part), err)
			}
		}
	})
}

// checkInfo checks what a hop told: what is known of what was asked for, and the times.
func (w *world) checkInfo(h node.PathHop) {
	w.t.Helper()
	seen := map[wire.DiagnosticKind]wire.DiagnosticValue{}
	for _, i := range h.Response.Info {
		v, err := i.Value()
		if err != nil {
			w.t.Error(err)
		}
		seen[i.Kind] = v
	}
	if len(seen) != 4 || len(h.Response.Info) != 4 { // nobody knows of its battery
		w.t.Errorf("told %v", h.Response.Info)
	}
	if up := seen[wire.DiagAppUptime].Number; up < 250 || up > 400 {
		w.t.Errorf("uptime %d s", up)
	}
	if seen[wire.DiagSoftwareVersion].Text == "" || len(seen[wire.DiagMessagesSentRcvd].Messages) < 3 || seen[wire.DiagEWMABytesSent].Number == 0 {
		w.t.Errorf("told %+v", seen)
	}
	r := h.Response
	// "This value MUST have a value between 1 and 600 seconds in the future."
	if life := r.Expiration - r.Received; life < 1000 || life > 600_000 || r.Received < r.Initiated || r.Received-r.Initiated > 1000 {
		w.t.Errorf("initiated %d, received %d, expires %d", r.Initiated, r.Received, r.Expiration)
	}
}

func position(t *testing.T, res wire.ResourceID) wire.NodeID {
	t.Helper()
	p, err := ident.Position(res)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// "The default policy or access rule for a type of diagnostic information is "deny" unless specified" (RFC 7851 §4.1).
// "If the initiator node asks for diagnostic information that they are not authorized to query, the receiving peer MUST
// return an error response with the error code 2 "Error_Forbidden"." (§6.3)
func TestDiagnosticsAccess(t *testing.T) {
	w := newWorld(t, 2, nodetest.Conditions{Delay: time.Millisecond})
	w.allow(w.kits[0].ID(), wire.DiagAppUptime, 0xf001)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		may, mayNot := w.kits[0], w.kits[1]
		up, size := wire.DiagAppUptime.Flag(), wire.DiagRoutingTableSize.Flag()
		for _, c := range []struct {
			name  string
			by    *nodetest.Kit
			flags uint64
			info  int // -1: forbidden
		}{
			{"nothing", mayNot, 0, 0},
			{"what it may not", mayNot, up, -1},
			{"what it may", may, up, 1},
			{"what it may, and what it may not", may, up | size, -1},
			{"everything", may, wire.AllDiagnostics, -1},
			{"what nobody defined", may, up | 1<<40, -1},
		} {
			to := w.kitOtherThan(c.by)
			h, err := c.by.Node.PingDiagnostics(t.Context(), c.flags, wire.ToNode(to.ID()))
			hops, err2 := c.by.Node.PathTrack(t.Context(), wire.ToNode(to.ID()), c.flags)
			if c.info < 0 {
				if !node.IsRemote(err, wire.ErrorForbidden) || !node.IsRemote(err2, wire.ErrorForbidden) {
					t.Errorf("%s: %v; %v", c.name, err, err2)
				}
				continue
			}
			if err != nil || err2 != nil || len(hops) != 1 {
				t.Errorf("%s: %v; %d hops, %v", c.name, err, len(hops), err2)
				continue
			}
			if len(h.Response.Info) != c.info || len(hops[0].Response.Info) != c.info || h.Peer != to.ID() || h.Response.HopCounter == 0 {
				t.Errorf("%s: %+v; %+v", c.name, h, hops[0])
			}
		}
		// "The message [...] MUST NOT be sent to the broadcast NodeID." (RFC 7851 §6.1)
		var re *node.RemoteError
		if _, err := may.Node.PingDiagnostics(t.Context(), 0, wire.ToNode(wire.WildcardNodeID(16))); err == nil || errors.As(err, &re) {
			t.Errorf("to the wildcard: %v", err)
		}
		// "Senders MUST accept a response that lacks diagnostic information" (§4.2.1).
		r := newRaw(t, w, may, 1)
		defer r.conn.Close()
		go func() {
			q := r.until(2*time.Second, func(m *wire.Message) bool { return m.Extension(wire.ExtensionDiagnosticPing) != nil })
			if q == nil {
				return
			}
			e := q.Extension(wire.ExtensionDiagnosticPing)
			// "setting the value of type to 0x2 and the value of critical to FALSE" (§6.1)
			if e.Critical {
				t.Error("the extension is critical")
			}
		}()
		time.Sleep(time.Second)
		h, err := may.Node.PingDiagnostics(t.Context(), up, wire.ToNode(r.id.NodeID()))
		if err != nil || h.Peer != r.id.NodeID() || len(h.Response.Info) != 0 {
			t.Errorf("to a node without diagnostics: %+v, %v", h, err)
		}
	})
}

// In a ring that everyone sees whole a request names the responsible peer and is there after one hop. By the rule of RFC
// 6940 §10.3 alone it would go to the last peer before the resource first.
func TestResponsiblePeerIsOneHopAway(t *testing.T) {
	w := newWorld(t, 6, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		time.Sleep(10 * time.Second)
		asker := w.kits[0]
		for i := range 30 {
			res := asker.Node.ResourceID(fmt.Sprint(i))
			owner := responsible(position(t, res), w.kits)
			h, err := asker.Node.PingDiagnostics(t.Context(), 0, wire.ToResource(res))
			if err != nil || h.Peer != owner.ID() {
				t.Fatalf("answered by %v, %v; want %v", h.Peer, err, owner.ID())
			}
			hops := w.mission.Document.InitialTTL - h.Response.HopCounter
			if want := uint8(1); owner != asker && hops != want {
				t.Errorf("%d hops to %v", hops, owner.ID())
			}
		}
		// If it dies, the retransmission finds the one that is responsible then.
		dead := w.kits[3]
		if err := dead.Kill(); err != nil {
			t.Fatal(err)
		}
		p, err := asker.Node.Ping(t.Context(), wire.ToResource(ident.AsResource(dead.ID())))
		if live := responsible(dead.ID(), append(w.kits[:3:3], w.kits[4:]...)); err != nil || p.Peer != live.ID() {
			t.Errorf("after its death: %v, %v; want %v", p.Peer, err, live.ID())
		}
	})
}
