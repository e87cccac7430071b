package node_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// A member lies when it is asked where it would send a message on to. The track ends early, or with an error, soon; no hop is
// reported that did not answer itself, and messages go their way as before.
func TestMemberLiesAboutThePath(t *testing.T) {
	withLiar(t, 6, nil, func(t *testing.T, w *world, l *liar) {
		honest := w.kits[1:]
		ring := slices.SortedFunc(slices.Values(w.kits), func(a, b *nodetest.Kit) int { return a.ID().Compare(b.ID()) })
		at := slices.Index(ring, l.Kit)
		next, asker := ring[(at+1)%len(ring)], ring[(at+3)%len(ring)]
		user := w.users("his", 1, func(set []*nodetest.Kit) bool { return set[0] == next }, w.kits...)[0]
		dest := wire.ToResource(asker.Node.ResourceID(user + "@test.mission.home.arpa"))
		invented, err := wire.NodeIDFrom([]byte("nobody is there!"))
		if err != nil {
			t.Fatal(err)
		}
		for name, to := range map[string]wire.NodeID{
			"it is responsible":      l.ID(),
			"back to the asker":      asker.ID(),
			"somewhere else":         ring[(at+4)%len(ring)].ID(),
			"to a node that is not":  invented,
			"to everybody":           wire.WildcardNodeID(16),
			"to the responsible kit": next.ID(),
			"to its own predecessor": ring[(at+5)%len(ring)].ID(),
		} {
			var lies atomic.Int64
			l.tell(l.own(t, wire.PathTrackAns, func(m *wire.Message) {
				a, err := wire.ParsePathTrackAnswer(m.Body)
				if err != nil {
					t.Error(err)
					return
				}
				a.NextHop = wire.ToNode(to)
				m.Body = encode(t, a)
				lies.Add(1)
			}))
			began := time.Now()
			hops, err := asker.Node.PathTrack(t.Context(), dest, 0)
			if took := time.Since(began); took > time.Minute {
				t.Errorf("%s: it took %v", name, took)
			}
			if lies.Load() == 0 {
				t.Logf("%s: the liar is not on the way", name)
			}
			if len(hops) > int(w.mission.Document.InitialTTL) || lies.Load() > int64(w.mission.Document.InitialTTL) {
				t.Errorf("%s: %d hops, asked the liar %d times", name, len(hops), lies.Load())
			}
			for _, h := range hops {
				if !slices.ContainsFunc(w.kits, func(k *nodetest.Kit) bool { return k.ID() == h.Peer }) {
					t.Errorf("%s: hop %v is nobody", name, h.Peer)
				}
			}
			t.Logf("%s: %d hops, %v", name, len(hops), err)
			if _, err := put(asker, user, fmt.Sprintf("during %s", name)); err != nil {
				t.Errorf("%s: store: %v", name, err)
			}
			w.expect(name, user, fmt.Sprintf("during %s", name), asker, honest...)
		}
	})
}
