package peer

import (
	"testing"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/wire"
)

// A link may deliver a lost Update after a later one, so that the second waits for the answer to the first; and of those
// that wait, the last is what is true.
func TestUpdatesToOnePeerDoNotOvertakeEachOther(t *testing.T) {
	r := newRig(t)
	var sent [][]byte
	far, l := r.neighbour(t, &sent)
	r.env.settle()
	sent = nil
	update := func(uptime uint32) {
		r.sendUpdate(chord.SendUpdate{To: far.NodeID(), Update: wire.ChordUpdate{Uptime: uptime, Type: wire.UpdatePeerReady}})
		r.env.settle()
	}
	under := func() (uptimes []uint32) {
		for _, b := range sent {
			m, err := wire.Parse(b)
			if err != nil || m.Code != wire.UpdateReq {
				continue
			}
			u, err := wire.ParseChordUpdate(m.Body, 16)
			if err != nil {
				t.Fatal(err)
			}
			uptimes = append(uptimes, u.Uptime)
		}
		return uptimes
	}
	for n := range uint32(4) {
		update(n + 1)
	}
	if got := under(); len(got) != 1 || got[0] != 1 {
		t.Fatalf("under way: %v, want the first alone", got)
	}
	r.answerRequests(t, l, far, &sent, func(*wire.Message) []byte { return nil })
	r.env.settle()
	if got := under(); len(got) != 1 || got[0] != 4 {
		t.Fatalf("after its answer: %v, want the last", got)
	}
	// One that is not answered holds up the next for a moment only.
	sent = nil
	update(5)
	if got := under(); len(got) != 0 {
		t.Errorf("under way beside the one before it: %v", got)
	}
	r.Advance(t0.Add(updateWait))
	r.env.settle()
	if got := under(); len(got) != 1 || got[0] != 5 {
		t.Errorf("after %v: %v, want the one that waited", updateWait, got)
	}
}
