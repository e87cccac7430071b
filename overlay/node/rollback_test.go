package node_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// "a fetching node which receives a data value with a storage time older than the result of the previous fetch knows
// that a rollback has occurred." (RFC 6940 §13.5.3) The responsible peer gives out an older value, correctly signed.
func TestRolledBackValueIsMarked(t *testing.T) {
	w := newWorld(t, 2, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		var old atomic.Pointer[wire.StoredData]
		for _, k := range w.kits {
			err := w.mission.Start(w.net, k, func(c *node.Config) {
				c.Transport = &tap{c.Transport, func(_ wire.NodeID, m *wire.Message) (*wire.Message, time.Duration) {
					if v := old.Load(); v != nil && m.Code == wire.FetchAns {
						a, err := wire.ParseFetchAnswer(m.Body, w.mission.Document.ModelOf)
						if err != nil {
							t.Error(err)
							return m, 0
						}
						a.Kinds[0].Values[0] = *v
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
		asker := w.kits[0]
		res := asker.Node.ResourceID("u@test.mission.home.arpa")
		if p, err := asker.Node.Ping(t.Context(), wire.ToResource(res)); err != nil {
			t.Fatal(err)
		} else if p.Peer == asker.ID() {
			asker = w.kits[1]
		}
		fetch := func() node.Fetched {
			f, err := asker.Node.Fetch(t.Context(), res, regKind)
			if err != nil || len(f.Values) != 1 {
				t.Fatalf("%+v, %v", f, err)
			}
			return f.Values[0]
		}
		var values []wire.StoredData
		for _, value := range []string{"first", "second"} {
			if _, err := put(asker, "u", value); err != nil {
				t.Fatal(err)
			}
			v := fetch()
			if v.RolledBack || string(v.Value.Value) != value {
				t.Fatalf("%s: %+v", value, v)
			}
			values = append(values, v.StoredData)
		}
		old.Store(&values[0])
		if v := fetch(); !v.RolledBack || string(v.Value.Value) != "first" {
			t.Errorf("an older value is taken for the youngest: %+v", v)
		}
		if n := w.snapshot(asker).Counters["rolled_back"]; n != 1 {
			t.Errorf("%d counted", n)
		}
	})
}
