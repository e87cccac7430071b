package node_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// "send_update: A single byte. This may be set to True to indicate that the requester wishes the responder to initiate an
// Update request immediately." (RFC 6940 §6.4.2.4.1) "If the requester has set the send_update flag, the responder SHOULD
// initiate an Update immediately after sending the RouteQueryAns." (§10.8) The answer is "the Node-ID for the node that
// the receiving peer would next route to".
func TestRouteQuery(t *testing.T) {
	w := newWorld(t, 3, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		k := w.kits[0]
		r := newRaw(t, w, k, 1)
		defer r.conn.Close()
		query := func(r *raw, q wire.RouteQueryRequest) *wire.Message {
			return r.ask(r.message(wire.RouteQueryReq, encode(t, q), nil))
		}
		for _, c := range []struct {
			name string
			dest wire.Destination
			want wire.NodeID // zero: Error_Not_Found
		}{
			{"itself", wire.ToNode(k.ID()), k.ID()},
			{"a neighbour", wire.ToNode(w.kits[1].ID()), w.kits[1].ID()},
			{"a resource", wire.ToResource(ident.AsResource(w.kits[2].ID())), w.kits[2].ID()},
			{"a resource of its own", wire.ToResource(ident.AsResource(k.ID())), k.ID()},
			{"the requester", wire.ToNode(r.id.NodeID()), r.id.NodeID()},
			// "Implementations MAY wish to consider limiting the use of RouteQuery for opaque IDs in such cases."
			{"an opaque ID", wire.ToOpaque(7), wire.NodeID{}},
		} {
			a := query(r, wire.RouteQueryRequest{Destination: c.dest})
			if c.want.IsZero() {
				if code := errorCode(t, a); code != wire.ErrorNotFound {
					t.Errorf("%s: %v", c.name, code)
				}
				continue
			}
			if a == nil || a.Code != wire.RouteQueryAns {
				t.Fatalf("%s: %+v", c.name, a)
			}
			if got, err := wire.ParseRouteQueryAnswer(a.Body, 16); err != nil || got.NextPeer != c.want {
				t.Errorf("%s: next peer %v, %v; want %v", c.name, got.NextPeer, err, c.want)
			}
		}
		// Updates go to the Connection Table only, so the requester attaches first.
		try, body := r.side("passive")
		a := r.ask(r.message(wire.AttachReq, body, nil))
		if a == nil || a.Code != wire.AttachAns {
			t.Fatalf("Attach: %+v", a)
		}
		c := r.connect(try, a, true)
		defer c.Close()
		over := *r
		over.conn, over.frags, over.asked = c, nil, nil
		full := func(m *wire.Message) bool {
			if m.Code != wire.UpdateReq {
				return false
			}
			u, err := wire.ParseChordUpdate(m.Body, 16)
			return err == nil && u.Type == wire.UpdateFull
		}
		over.until(3*time.Second, func(*wire.Message) bool { return false }) // what an Attach brings
		for _, want := range []bool{false, true} {
			if a := query(&over, wire.RouteQueryRequest{SendUpdate: want, Destination: wire.ToNode(k.ID())}); a == nil || a.Code != wire.RouteQueryAns {
				t.Fatalf("RouteQuery: %+v", a)
			}
			// It may have come while the answer was waited for.
			got := slices.ContainsFunc(over.asked, full) || over.until(time.Second, full) != nil
			if got != want {
				t.Errorf("send_update %v: a full Update came: %v", want, got)
			}
		}
	})
}
