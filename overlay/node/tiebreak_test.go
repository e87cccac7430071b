package node_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
)

// Two islands, each with a document that the other's steward never saw, of one sequence: when they meet, all go over to
// the same one, whichever island has it, and nobody else's counts for it (docs/adr/0019).
func TestTwoDocumentsOfOneSequence(t *testing.T) {
	for _, winnerFirst := range []bool{true, false} {
		w := newWorld(t, 4, nodetest.Conditions{Delay: time.Millisecond})
		docs := []*ident.Document{successor(t, w.mission.Document, w.mission.Authority), successor(t, w.mission.Document, w.mission.Authority)}
		if ident.Supersedes(docs[0], docs[1]) == winnerFirst {
			slices.Reverse(docs)
		}
		winner := docs[0]
		if !winnerFirst {
			winner = docs[1]
		}
		synctest.Test(t, func(t *testing.T) {
			w.t = t
			defer w.stop()
			var mu sync.Mutex
			taken := map[*nodetest.Kit][]*ident.Document{}
			for i, k := range w.kits {
				island := &nodetest.Mission{Authority: w.mission.Authority, Document: docs[i/2]}
				err := island.Start(w.net, k, func(c *node.Config) {
					c.Seed = uint64(i)
					c.NewDocument = func(d *ident.Document) {
						mu.Lock()
						defer mu.Unlock()
						taken[k] = append(taken[k], d)
					}
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			w.net.Meet(w.kits...)
			w.ring(time.Minute, w.kits...) // no header tells them apart
			mu.Lock()
			if len(taken) != 0 {
				t.Errorf("%d kits changed over before anybody said anything", len(taken))
			}
			mu.Unlock()
			for range 3 { // as often as they see each other's announcements
				for i, k := range w.kits {
					for j, other := range w.kits {
						if i/2 != j/2 {
							k.Node.OfferConfiguration(other.ID())
						}
					}
				}
				time.Sleep(20 * time.Second)
			}
			mu.Lock()
			defer mu.Unlock()
			for i, k := range w.kits {
				has := docs[i/2].Same(winner)
				switch got := taken[k]; {
				case has && len(got) != 0:
					t.Errorf("winner first %v: kit %d has the winner and took another", winnerFirst, i)
				case !has && (len(got) != 1 || !got[0].Same(winner)):
					t.Errorf("winner first %v: kit %d took %d documents, want the winner once", winnerFirst, i, len(got))
				}
			}
		})
	}
}
