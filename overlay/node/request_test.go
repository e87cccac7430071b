package node_test

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// sent is one request as it was received, each time.
type sent struct {
	id     uint64
	at     []time.Duration
	copies [][]byte
}

// listen answers all Pings to r but those of which the kit sends more than one copy: those it answers the n-th time,
// never for 0. What it saw of them comes out when ctx has ended.
func (r *raw) listen(ctx context.Context, n int) <-chan []*sent {
	out := make(chan []*sent, 1)
	began := time.Now()
	go func() {
		byID := map[uint64]*sent{}
		var list []*sent
		for {
			m := r.next(ctx)
			if m == nil {
				out <- list
				return
			}
			if m.Code != wire.PingReq || len(m.Dest) != 1 {
				continue
			}
			s := byID[m.TransactionID]
			if s == nil {
				s = &sent{id: m.TransactionID}
				byID[s.id] = s
				list = append(list, s)
			}
			b, err := m.AppendBinary(nil)
			if err != nil {
				r.t.Error(err)
			}
			s.at, s.copies = append(s.at, time.Since(began)), append(s.copies, b)
			if len(s.at) == n {
				r.send(r.message(wire.PingAns, make([]byte, 16), func(a *wire.Message) { a.TransactionID = m.TransactionID }))
			}
		}
	}()
	return out
}

// "When an originating node transmits a request, it MUST set a timer to the current overlay-reliability-timer. If a
// response has not been received when the timer fires, the request MUST be retransmitted with the same transaction
// identifier. The request MAY be retransmitted up to 4 times, for a total of 5 messages. After the timer for the fifth
// transmission fires, the message MUST be considered to have failed." (RFC 6940 §6.2.1)
func TestEndToEndRetransmission(t *testing.T) {
	for _, c := range []struct {
		name     string
		answered int // which copy; 0: none
		sends    int
		took     time.Duration
		err      error
	}{
		{"never answered", 0, 5, 15 * time.Second, node.ErrTimeout},
		{"the fourth answered", 4, 4, 9 * time.Second, nil},
		{"the fifth answered", 5, 5, 12 * time.Second, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 1, nodetest.Conditions{Delay: time.Millisecond})
			synctest.Test(t, func(t *testing.T) {
				w.t = t
				defer w.stop()
				w.together()
				k := w.kits[0]
				r := newRaw(t, w, k, 1)
				defer r.conn.Close()
				time.Sleep(100 * time.Millisecond) // the kit takes the link in
				ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
				defer cancel()
				heard := r.listen(ctx, c.answered)
				alive := time.NewTicker(time.Second) // so that the kit does not take the link for dead
				defer alive.Stop()
				go func() {
					for {
						select {
						case <-alive.C:
							r.sendBytes(encodeMessage(t, r.message(wire.PingAns, make([]byte, 16), nil)))
						case <-ctx.Done():
							return
						}
					}
				}()
				began := time.Now()
				_, err := k.Node.Ping(t.Context(), wire.ToNode(r.id.NodeID()))
				took := time.Since(began)
				if !errors.Is(err, c.err) || took < c.took || took > c.took+10*time.Millisecond {
					t.Errorf("ended after %v with %v, want %v with %v", took, err, c.took, c.err)
				}
				list := <-heard // some time after the end, so that more copies would be seen
				if len(list) != 1 {
					t.Fatalf("%d requests seen, want 1", len(list))
				}
				s := list[0]
				if len(s.at) != c.sends {
					t.Fatalf("sent at %v, want %d times", s.at, c.sends)
				}
				for i := range s.at {
					if d := s.at[i] - s.at[0]; d != time.Duration(i)*3*time.Second {
						t.Errorf("copy %d after %v", i+1, d)
					}
					if !bytes.Equal(s.copies[i], s.copies[0]) {
						t.Errorf("copy %d differs from the first", i+1)
					}
				}
			})
		})
	}
}

// "The response to a message sent to a Resource-ID MUST have been sent by a Node-ID which is at least as close to the
// target Resource-ID as any node in the requesting node's Neighbor Table. … This will cause the response to be rejected
// and the request to be retransmitted." (RFC 6940 §6.3.4)
func TestResponderIsCloseEnough(t *testing.T) {
	w := newWorld(t, 3, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		var (
			asker  = w.kits[0]
			asked  atomic.Uint64 // transaction ID of the request
			liar   atomic.Pointer[ident.Identity]
			lies   atomic.Int64 // how many copies are answered by the liar
			target atomic.Pointer[wire.ResourceID]
			owner  atomic.Pointer[nodetest.Kit] // of the target
		)
		for _, k := range w.kits {
			err := w.mission.Start(w.net, k, func(c *node.Config) {
				c.Transport = &tap{c.Transport, func(_ wire.NodeID, m *wire.Message) (*wire.Message, time.Duration) {
					res := target.Load()
					switch {
					case res == nil:
					case k == asker && m.Code == wire.PingReq && m.Dest[len(m.Dest)-1].Resource == *res:
						asked.Store(m.TransactionID)
					case k == owner.Load() && m.Code == wire.PingAns && m.TransactionID == asked.Load() && lies.Add(-1) >= 0:
						signAs(t, m, liar.Load())
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

		// A member that takes no part in the ring, whose successor is not the asker: its own place is the target, so
		// nobody is closer than it, then comes the responsible peer, and then the others.
		var right, wrong *nodetest.Kit
		closest := w.identity(func(id wire.NodeID) bool {
			right, wrong = w.kits[1], w.kits[2]
			if ident.Distance(id, wrong.ID()).Compare(ident.Distance(id, right.ID())) < 0 {
				right, wrong = wrong, right
			}
			return ident.Distance(id, right.ID()).Compare(ident.Distance(id, asker.ID())) < 0
		})
		res := ident.AsResource(closest.NodeID())
		owner.Store(right)
		target.Store(&res)
		for _, c := range []struct {
			name  string
			liar  *ident.Identity
			lies  int64
			want  wire.NodeID // zero: nobody
			took  time.Duration
			wrong uint64 // answers counted as of the wrong responder
		}{
			{"the responsible peer", right.Identity, 0, right.ID(), 0, 0},
			{"one farther than a neighbour", wrong.Identity, 5, wire.NodeID{}, 15 * time.Second, 5},
			{"the asker's own", asker.Identity, 5, wire.NodeID{}, 15 * time.Second, 5},
			{"one farther twice, then the responsible peer", wrong.Identity, 2, right.ID(), 6 * time.Second, 2},
			{"one closer than all neighbours", closest, 5, closest.NodeID(), 0, 0},
		} {
			liar.Store(c.liar)
			lies.Store(c.lies)
			before := w.snapshot(asker).Counters["wrong_responder"]
			began := time.Now()
			p, err := asker.Node.Ping(t.Context(), wire.ToResource(res))
			took := time.Since(began)
			if c.want.IsZero() && !errors.Is(err, node.ErrTimeout) || !c.want.IsZero() && (err != nil || p.Peer != c.want) {
				t.Errorf("%s: answered by %v, %v", c.name, p.Peer, err)
			}
			if took < c.took || took > c.took+20*time.Millisecond {
				t.Errorf("%s: took %v, want %v", c.name, took, c.took)
			}
			if n := w.snapshot(asker).Counters["wrong_responder"] - before; n != c.wrong {
				t.Errorf("%s: %d answers refused, want %d", c.name, n, c.wrong)
			}
		}
	})
}

// "Upon receipt of a FetchAns message, nodes MUST verify the signatures on all the received values. Any values with
// invalid signatures (including expired certificates) MUST be discarded. … Implementations MAY return the subset of
// values with valid signatures, but in that case, they SHOULD somehow signal to the application that a partial response
// was received." (RFC 6940 §7.4.2.2)
func TestFetchedValuesAreVerified(t *testing.T) {
	w := newWorld(t, 3, nodetest.Conditions{Delay: time.Millisecond})
	theirs, err := nodetest.NewMission("test.mission.home.arpa", nil)
	if err != nil {
		t.Fatal(err)
	}
	const aor = "u@test.mission.home.arpa"
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		var lie atomic.Pointer[func(m *wire.Message, values []wire.StoredData)]
		for _, k := range w.kits {
			err := w.mission.Start(w.net, k, func(c *node.Config) {
				c.Transport = &tap{c.Transport, func(_ wire.NodeID, m *wire.Message) (*wire.Message, time.Duration) {
					if change := lie.Load(); change != nil && m.Code == wire.FetchAns && isBy(m, k.Identity) {
						a, err := wire.ParseFetchAnswer(m.Body, w.mission.Document.ModelOf)
						if err != nil {
							t.Error(err)
							return m, 0
						}
						(*change)(m, a.Kinds[0].Values)
						m.Body = encode(t, a)
						signAs(t, m, k.Identity)
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
		time.Sleep(10 * time.Second)
		for _, k := range w.kits[:2] { // two values, under two keys
			if _, err := put(k, "u", "here"); err != nil {
				t.Fatal(err)
			}
		}
		var other wire.StoredData // a good one, of another resource
		if _, err := put(w.kits[0], "v", "there"); err != nil {
			t.Fatal(err)
		}
		f, err := w.kits[0].Node.Fetch(t.Context(), w.kits[0].Node.ResourceID("v@test.mission.home.arpa"), regKind)
		if err != nil || len(f.Values) != 1 {
			t.Fatalf("%+v, %v", f, err)
		}
		other = f.Values[0].StoredData

		// Who asks must not be responsible itself: what it answers itself does not go over a link.
		res := w.kits[0].Node.ResourceID(aor)
		asker := w.kits[0]
		if p, err := asker.Node.Ping(t.Context(), wire.ToResource(res)); err != nil {
			t.Fatal(err)
		} else if p.Peer == asker.ID() {
			asker = w.kits[1]
		}
		stranger, err := theirs.Authority.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name       string
			change     func(m *wire.Message, v []wire.StoredData)
			kept, lost int
		}{
			{"as it is", func(*wire.Message, []wire.StoredData) {}, 2, 0},
			{"one value altered", func(_ *wire.Message, v []wire.StoredData) { v[0].Value.Value = []byte("hers") }, 1, 1},
			{"all values altered", func(_ *wire.Message, v []wire.StoredData) {
				v[0].Value.Value, v[1].Value.Value = []byte("hers"), []byte("hers")
			}, 0, 2},
			{"another key", func(_ *wire.Message, v []wire.StoredData) { v[0].Value.Key = nodeID(t, 1).Bytes() }, 1, 1},
			{"made younger", func(_ *wire.Message, v []wire.StoredData) { v[0].StorageTime++ }, 1, 1},
			{"removed", func(_ *wire.Message, v []wire.StoredData) { v[0].Value.Exists, v[0].Value.Value = false, nil }, 1, 1},
			{"unsigned", func(_ *wire.Message, v []wire.StoredData) { v[0].Signature = wire.NoSignature() }, 1, 1},
			{"of another resource", func(_ *wire.Message, v []wire.StoredData) { v[0] = other }, 1, 1},
			{"a stranger's", func(m *wire.Message, v []wire.StoredData) {
				s, err := stranger.SignerFor(aor)
				if err == nil {
					v[0].Signature = wire.Signature{}
					err = ident.SignStored(res, regKind, &v[0], s)
				}
				if err != nil {
					t.Error(err)
					return
				}
				m.Security.Certificates = append(m.Security.Certificates, s.Bucket()...)
			}, 1, 1},
			{"without the certificates", func(m *wire.Message, _ []wire.StoredData) { m.Security.Certificates = nil }, 0, 2},
		} {
			lie.Store(&c.change)
			before := w.snapshot(asker).Counters["bad_signature"]
			f, err := asker.Node.Fetch(t.Context(), res, regKind)
			if err != nil || len(f.Values) != c.kept || f.Discarded != c.lost {
				t.Errorf("%s: %d values, %d discarded, %v; want %d and %d", c.name, len(f.Values), f.Discarded, err, c.kept, c.lost)
			}
			for _, v := range f.Values {
				if string(v.Value.Value) != "here" {
					t.Errorf("%s: value %q of %v", c.name, v.Value.Value, v.Signer.NodeID)
				}
			}
			if n := w.snapshot(asker).Counters["bad_signature"] - before; n != uint64(c.lost) {
				t.Errorf("%s: %d bad signatures counted, want %d", c.name, n, c.lost)
			}
		}
	})
}
