package node_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// A member that floods is held to its share; nothing grows, and the others do not notice.
func TestFlood(t *testing.T) {
	w := newWorld(t, 3, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		k := w.kits[0]
		r := newRaw(t, w, k, 1)
		defer r.conn.Close()
		attachBody := func() []byte {
			return encode(t, wire.AttachReqAns{IceParameters: wire.IceParameters{
				Ufrag: []byte("hostile1"), Password: make([]byte, 24), Role: []byte("passive"),
				Candidates: []wire.IceCandidate{{Addr: netip.MustParseAddrPort("10.66.66.66:6"), Link: 1, Foundation: []byte("1"), Type: wire.CandHost}},
			}})
		}
		worst := time.Duration(0)
		for round := range 20 {
			for i := range 100 {
				switch i % 4 {
				case 0:
					r.send(r.message(wire.PingReq, ping, nil))
				case 1:
					r.send(r.message(wire.AttachReq, attachBody(), nil))
				case 2: // half a message, of a new transaction each time
					parts, err := wire.Fragment(encodeMessage(t, r.message(wire.PingReq, append([]byte{0x07, 0xd0}, make([]byte, 2000)...), nil)), 1200)
					if err != nil {
						t.Fatal(err)
					}
					r.sendBytes(parts[0])
				case 3:
					r.sendBytes([]byte("nonsense"))
				}
			}
			p, err := w.kits[1].Node.Ping(t.Context(), wire.ToNode(k.ID()))
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			worst = max(worst, p.RTT)
			time.Sleep(200 * time.Millisecond)
		}
		s := w.snapshot(k)
		t.Logf("worst ping of another kit during the flood: %v; %v", worst, s.Counters)
		if worst > time.Second {
			t.Errorf("another kit waited %v", worst)
		}
		if s.Counters["rate_limited"] == 0 || s.Counters["malformed"] == 0 {
			t.Errorf("nothing was refused: %v", s.Counters)
		}
		if s.Transactions > 32 {
			t.Errorf("%d transactions", s.Transactions)
		}
		if err := nodetest.CheckRing(w.kits...); err != nil {
			t.Error(err)
		}
		// "message > max-message-size → Error_Message_Too_Large and close the link" (RFC 6940 §6.6)
		m := r.message(wire.PingReq, append([]byte{0x42, 0x68}, make([]byte, 0x4268)...), nil) // the mission allows 16384 bytes
		time.Sleep(3 * time.Second)
		select {
		case <-r.conn.Done():
			t.Fatal("link closed before the oversized message")
		default:
		}
		r.send(m)
		time.Sleep(time.Second)
		select {
		case <-r.conn.Done():
		default:
			t.Error("link still open after an oversized message")
		}
	})
}

// Answers count only from whom they are due: "The response to a message sent to a Node-ID MUST have been sent by
// that Node-ID".
func TestAnswersOfOthersAreIgnored(t *testing.T) {
	w := newWorld(t, 2, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		k := w.kits[0]
		r := newRaw(t, w, k, 1)
		defer r.conn.Close()
		go func() { // answers whatever the kit asks it, as somebody else
			for {
				b, err := r.conn.Receive(context.Background())
				if err != nil {
					return
				}
				q, err := wire.Parse(b)
				if err != nil || q.Code != wire.PingReq {
					continue
				}
				a := &wire.Message{Header: q.Header, Code: wire.PingAns, Body: make([]byte, 16)}
				a.Dest, a.Via = toNodes(k.ID()), nil
				if ident.Sign(a, w.kits[1].Identity.Signer()) == nil {
					if b, err := a.AppendBinary(nil); err == nil {
						_ = r.conn.Send(b)
					}
				}
			}
		}()
		if _, err := k.Node.Ping(t.Context(), wire.ToNode(r.id.NodeID())); !errors.Is(err, node.ErrTimeout) {
			t.Errorf("ping answered by another: %v, want a timeout", err)
		}
		if w.snapshot(k).Counters["wrong_responder"] == 0 {
			t.Error("not counted")
		}
	})
}

// Whatever bytes a member sends, in whole messages and in fragments, nothing breaks.
func TestMutatedMessages(t *testing.T) {
	w := newWorld(t, 3, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		k := w.kits[0]
		r := newRaw(t, w, k, 1)
		res := k.Node.ResourceID("x@test.mission.home.arpa")
		seeds := []*wire.Message{
			r.message(wire.PingReq, ping, nil),
			r.message(wire.UpdateReq, encode(t, wire.ChordUpdate{Type: wire.UpdateFull, Successors: []wire.NodeID{nodeID(t, 1), k.ID()}}), nil),
			r.message(wire.JoinReq, encode(t, wire.JoinRequest{Node: r.id.NodeID()}), nil),
			r.message(wire.AttachReq, encode(t, wire.AttachReqAns{SendUpdate: true}), nil),
			r.message(wire.FetchReq, encode(t, wire.FetchRequest{Resource: res}), func(m *wire.Message) {
				m.Dest = []wire.Destination{wire.ToResource(res)}
			}),
			r.message(wire.RouteQueryReq, encode(t, wire.RouteQueryRequest{SendUpdate: true, Destination: wire.ToOpaque(3)}), nil),
		}
		for round := range 3000 {
			m := *seeds[w.rng.IntN(len(seeds))]
			b := encodeMessage(t, &m)
			for range 1 + w.rng.IntN(4) {
				b[w.rng.IntN(len(b))] ^= byte(1 << w.rng.IntN(8))
			}
			if w.rng.IntN(4) == 0 {
				b = b[:w.rng.IntN(len(b)+1)]
			}
			r.sendBytes(b)
			if round%100 == 99 {
				time.Sleep(time.Second)
				_ = r.conn.Close()
				r = newRaw(t, w, k, byte(1+round%100+round/100))
			}
		}
		_ = r.conn.Close()
		time.Sleep(time.Minute)
		if err := nodetest.CheckRing(w.kits...); err != nil {
			t.Error(err)
		}
		c := w.snapshot(k).Counters
		if c["malformed"] == 0 || c["bad_signature"] == 0 {
			t.Errorf("nothing refused: %v", c)
		}
		if _, err := w.kits[1].Node.Ping(t.Context(), wire.ToNode(k.ID())); err != nil {
			t.Error(err)
		}
	})
}
