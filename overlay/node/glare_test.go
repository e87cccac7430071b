package node_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// until answers the kit's Pings, which is how the kit finds out that there is a peer to attach to, and returns the first
// message that will do; nil when none comes in time.
func (r *raw) until(d time.Duration, will func(*wire.Message) bool) *wire.Message {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), d)
	defer cancel()
	for {
		m := r.next(ctx)
		switch {
		case m == nil:
			return nil
		case m.Code == wire.PingReq:
			r.reply(m, wire.PingAns, make([]byte, 16))
		}
		if will(m) {
			return m
		}
	}
}

func (r *raw) reply(q *wire.Message, code wire.MessageCode, body []byte) {
	r.t.Helper()
	r.send(r.message(code, body, func(a *wire.Message) { a.TransactionID = q.TransactionID }))
}

// side is r's side of an Attach.
func (r *raw) side(role string) (node.Attempt, []byte) {
	r.t.Helper()
	a, err := r.host.Prepare(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	local := a.Local()
	local.Role = []byte(role)
	return a, encode(r.t, wire.AttachReqAns{IceParameters: local})
}

// connect ends an Attach with the parameters in the kit's message.
func (r *raw) connect(a node.Attempt, m *wire.Message, offerer bool) node.Conn {
	r.t.Helper()
	remote, err := wire.ParseAttach(m.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Second)
	defer cancel()
	c, err := a.Connect(ctx, remote.IceParameters, r.peer, offerer)
	if err != nil {
		r.t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // the kit takes the link in
	return c
}

func attached(s node.Snapshot, peer wire.NodeID) (list []node.LinkInfo) {
	for _, l := range s.Links {
		if l.Peer == peer && l.Attached {
			list = append(list, l)
		}
	}
	return list
}

// Attaches that cross, seen from one kit, RFC 6940 §6.5.1.2, with a peer that plays each part by hand.
func TestAttachGlareRule(t *testing.T) {
	w := newWorld(t, 1, nodetest.Conditions{Delay: time.Millisecond})
	isAttach := func(m *wire.Message) bool { return m.Code == wire.AttachReq }
	// run has the peer link to the kit and wait for the kit's AttachReq, and then send its own.
	run := func(t *testing.T, kitIsLarger bool, play func(r *raw, kits, own *wire.Message, try node.Attempt, k *nodetest.Kit)) {
		synctest.Test(t, func(t *testing.T) {
			w.t = t
			defer w.stop()
			w.start(w.kits[0])
			k := w.kits[0]
			r := newRawAs(t, w, k, 1, w.identity(func(id wire.NodeID) bool { return (k.ID().Compare(id) > 0) == kitIsLarger }))
			defer r.conn.Close()
			q := r.until(30*time.Second, isAttach)
			if q == nil {
				t.Fatal("the kit does not attach")
			}
			try, body := r.side("passive")
			play(r, q, r.message(wire.AttachReq, body, nil), try, k)
			if n := w.snapshot(k).Counters["glare"]; n != 1 {
				t.Errorf("glare counted %d times", n)
			}
		})
	}

	t.Run("the kit is smaller", func(t *testing.T) {
		// "If the peer's own Node-ID is smaller when compared as big-endian unsigned integers, it MUST cancel
		// retransmission of its own incomplete Attach request. It MUST then process this Attach request, generate an
		// AttachReqAns response, and proceed with the corresponding ICE check."
		run(t, false, func(r *raw, kits, own *wire.Message, try node.Attempt, k *nodetest.Kit) {
			r.send(own)
			a := r.until(time.Second, func(m *wire.Message) bool { return m.TransactionID == own.TransactionID })
			if a == nil || a.Code != wire.AttachAns {
				r.t.Fatalf("answer to the larger one's Attach: %+v", a)
			}
			c := r.connect(try, a, true)
			defer c.Close()
			over := *r // it would come by the new link now
			over.conn, over.frags = c, nil
			for _, by := range []*raw{&over, r} {
				if m := by.until(4*time.Second, func(m *wire.Message) bool { return m.TransactionID == kits.TransactionID }); m != nil {
					r.t.Error("the request that was given up is sent again")
				}
			}
			// An answer to it makes no second link.
			second, body := r.side("active")
			defer second.Close()
			r.reply(kits, wire.AttachAns, body)
			over.until(time.Second, isAttach)
			if l := attached(w.snapshot(k), r.id.NodeID()); len(l) != 1 || l[0].Ours {
				r.t.Errorf("links %+v, want one, the peer's", l)
			}
		})
	})
	t.Run("the kit is larger", func(t *testing.T) {
		// "If the peer's own Node-ID is larger when compared as big-endian unsigned integers, it MUST generate an
		// Error_In_Progress error to this Attach request, and then proceed to wait for and complete the Attach and the
		// corresponding ICE check it has originated."
		run(t, true, func(r *raw, kits, own *wire.Message, given node.Attempt, k *nodetest.Kit) {
			defer given.Close()
			r.send(own)
			if a := r.until(time.Second, func(m *wire.Message) bool { return m.TransactionID == own.TransactionID }); errorCode(r.t, a) != wire.ErrorInProgress {
				r.t.Fatalf("answer to the smaller one's Attach: %+v", a)
			}
			again := r.until(4*time.Second, isAttach)
			if again == nil || again.TransactionID != kits.TransactionID {
				r.t.Fatalf("the kit's own request is not sent again: %+v", again)
			}
			try, body := r.side("active")
			r.reply(again, wire.AttachAns, body)
			c := r.connect(try, again, false)
			defer c.Close()
			if l := attached(w.snapshot(k), r.id.NodeID()); len(l) != 1 || !l[0].Ours {
				r.t.Errorf("links %+v, want one, the kit's", l)
			}
		})
	})
	t.Run("the kit is smaller and was answered", func(t *testing.T) {
		// "If the peer has already sent an Attach request to and received the response from the originating peer of this
		// Attach request and, as a result, an ICE check and TLS connection are in progress, then it SHOULD generate an
		// Error_In_Progress error instead of an AttachReqAns."
		run(t, false, func(r *raw, kits, own *wire.Message, given node.Attempt, k *nodetest.Kit) {
			defer given.Close()
			try, body := r.side("active")
			r.reply(kits, wire.AttachAns, body)
			time.Sleep(100 * time.Millisecond)
			r.send(own)
			if a := r.until(time.Second, func(m *wire.Message) bool { return m.TransactionID == own.TransactionID }); errorCode(r.t, a) != wire.ErrorInProgress {
				r.t.Fatalf("answer to an Attach while ICE is under way: %+v", a)
			}
			c := r.connect(try, kits, false)
			defer c.Close()
			if l := attached(w.snapshot(k), r.id.NodeID()); len(l) != 1 || !l[0].Ours {
				r.t.Errorf("links %+v, want one, the kit's", l)
			}
		})
	})
}

// Two kits whose Attaches cross, whichever arrives first, are left with one link, and both with the same: that of the
// larger Node-ID (RFC 6940 §6.5.1.2).
func TestGlareLeavesTheLargerOnesLink(t *testing.T) {
	for _, slow := range [][2]time.Duration{{4000, 4000}, {4000, 8000}, {8000, 4000}} { // ms, of the smaller, of the larger
		t.Run(fmt.Sprintf("the smaller one's takes %d ms, the larger one's %d ms", slow[0], slow[1]), func(t *testing.T) {
			w := newWorld(t, 2, nodetest.Conditions{Delay: time.Millisecond})
			synctest.Test(t, func(t *testing.T) {
				w.t = t
				defer w.stop()
				small, large := w.kits[0], w.kits[1]
				if small.ID().Compare(large.ID()) > 0 {
					small, large = large, small
				}
				var requests [2]atomic.Uint64
				for i, k := range []*nodetest.Kit{small, large} {
					err := w.mission.Start(w.net, k, func(c *node.Config) {
						c.Transport = &tap{c.Transport, func(_ wire.NodeID, m *wire.Message) (*wire.Message, time.Duration) {
							if m.Code != wire.AttachReq {
								return m, 0
							}
							requests[i].Add(1)
							return m, slow[i] * time.Millisecond
						}}
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				w.net.Meet(small, large)
				w.ring(30*time.Second, small, large)
				time.Sleep(time.Minute) // bootstrap links have gone
				s, l := w.snapshot(small), w.snapshot(large)
				if requests[0].Load() == 0 || requests[1].Load() == 0 || s.Counters["glare"]+l.Counters["glare"] == 0 {
					t.Fatalf("no glare: %d and %d requests", requests[0].Load(), requests[1].Load())
				}
				if len(s.Links) != 1 || len(l.Links) != 1 || s.Links[0].Ours || !l.Links[0].Ours {
					t.Fatalf("the smaller one has %+v, the larger one %+v", s.Links, l.Links)
				}
				// The same one: what one end sends arrives at the other, so neither end falls silent and is made anew.
				for i, k := range []*nodetest.Kit{small, large} {
					if _, err := k.Node.Ping(t.Context(), wire.ToNode(w.kitOtherThan(k).ID())); err != nil {
						t.Error(err)
					}
					now, then := w.snapshot(k), []node.Snapshot{s, l}[i]
					if len(now.Links) != 1 || !now.Links[0].Since.Equal(then.Links[0].Since) || time.Since(now.Links[0].Heard) > time.Second {
						t.Errorf("links %+v, before %+v", now.Links, then.Links)
					}
				}
				t.Logf("glare %d and %d, requests %d and %d", s.Counters["glare"], l.Counters["glare"], requests[0].Load(), requests[1].Load())
			})
		})
	}
}

// kitOtherThan is the other of two.
func (w *world) kitOtherThan(k *nodetest.Kit) *nodetest.Kit {
	if k == w.kits[0] {
		return w.kits[1]
	}
	return w.kits[0]
}
