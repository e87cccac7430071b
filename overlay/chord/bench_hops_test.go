package chord

import (
	"fmt"
	"testing"

	"fieldkit/overlay/wire"
)

// BenchmarkNextHopByMembers is what a routing decision costs with so many others attached: what a peer knows grows with the
// logarithm of the overlay, so that 60 stands for thousands.
func BenchmarkNextHopByMembers(b *testing.B) {
	for _, n := range []int{1, 15, 60} {
		b.Run(fmt.Sprintf("others=%d", n), func(b *testing.B) {
			m := newSim(b, 5)
			var others []wire.NodeID
			for range n {
				others = append(others, m.randomID())
			}
			s := ringOf(b, m.randomID(), others)
			d := wire.ToResource(wire.ResourceID(m.randomID().Bytes()))
			b.ReportAllocs()
			for b.Loop() {
				s.NextHop(d)
			}
		})
	}
}
