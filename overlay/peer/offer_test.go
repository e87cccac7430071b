package peer

import (
	"testing"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// "the node MUST generate a ConfigUpdate message to update the requesting node" (RFC 6940 §6.3.2.1): also while this node
// offers its document to kits that are announced with another one, which anybody can announce.
func TestOffersLeaveRoomForConfigUpdates(t *testing.T) {
	r := newRig(t)
	var sent [][]byte
	far, l := r.neighbour(t, &sent)
	r.env.settle()
	for range 4 * updateBurst {
		id, err := ident.RandomNodeID(16)
		if err != nil {
			t.Fatal(err)
		}
		r.Offer(t0, id)
		r.env.settle()
	}
	if n := r.count.ConfigUpdates; n == 0 || n > updateBurst {
		t.Errorf("%d offers at once, want 1 to %d", n, updateBurst)
	}
	sent = nil
	m := r.newMessage(&Outgoing{Dest: toNode(r.ID()), Code: wire.PingReq, Body: pingBody})
	m.ConfigSequence--
	if err := ident.Sign(m, far.Signer()); err != nil {
		t.Fatal(err)
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Receive(t0, l, b)
	r.env.settle()
	for _, b := range sent {
		h, rest, err := wire.ParseHeader(b)
		if err == nil && (&arrival{Header: h, rest: rest}).code() == wire.ConfigUpdateReq {
			return
		}
	}
	t.Errorf("no ConfigUpdate among the %d messages to who has an older document", len(sent))
}
