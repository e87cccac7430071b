package peer

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/wire"
)

// wholeRing is a topology that knows who is responsible for everything: somebody else.
type wholeRing struct {
	topology
	owner wire.NodeID
	part  bool // it is not all of it
}

func (w wholeRing) Whole() bool { return !w.part }

func (w wholeRing) NextHop(wire.Destination) chord.Hop         { return chord.Hop{Via: w.owner} }
func (w wholeRing) ReplicaSet(wire.ResourceID) []wire.NodeID   { return []wire.NodeID{w.owner} }
func (w wholeRing) Responsible(wire.ResourceID) bool           { return false }
func (w wholeRing) Step(time.Time, chord.Input) []chord.Output { return nil }

// A request for a resource names the responsible peer, where the whole ring is known; its retransmissions go by the
// routing rule, so that a peer that is wrong about the ring still gets through.
func TestResponsiblePeerIsNamedOnce(t *testing.T) {
	for _, c := range []struct {
		members int
		part    bool
	}{{2, false}, {chord.DefaultFullMesh, false}, {chord.DefaultFullMesh + 1, false}, {3, true}} {
		members := c.members
		r := newRig(t)
		var sent [][]byte
		far, l := r.neighbour(t, &sent)
		r.env.settle()
		r.chord = wholeRing{servant(r, l), far.NodeID(), c.part}
		r.topo.members = make([]wire.NodeID, members)
		sent = nil
		res := wire.ResourceIDFor([]byte("somebody"), 16)
		r.Find(t0, res, []wire.KindID{wire.KindSIPRegistration}, func([]wire.FindKindData, error) {})
		r.env.settle()
		r.Advance(t0.Add(3 * time.Second))
		r.env.settle()
		var got []string
		var ids []uint64
		for _, b := range sent {
			if m, err := wire.Parse(b); err == nil && m.Code == wire.FindReq {
				got = append(got, fmt.Sprint(len(m.Dest), m.Dest[0].Type == wire.DestNode && m.Dest[0].Node == far.NodeID(), m.Dest[len(m.Dest)-1].Type == wire.DestResource))
				ids = append(ids, m.TransactionID)
			}
		}
		want := []string{"2 true true", "1 false true"}
		if members > chord.DefaultFullMesh || c.part {
			want[0] = want[1]
		}
		if !slices.Equal(got, want) || len(ids) == 2 && ids[0] != ids[1] {
			t.Errorf("ring of %d: sent to %q, want %q, transactions %v", members, got, want, ids)
		}
	}
}
