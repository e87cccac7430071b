package peer

import (
	"testing"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// A document is handed over only if it supersedes the one that was handed over before, whatever order they come in: "the
// sequence number in the document is greater than the current configuration sequence number" (RFC 6940 §6.5.4.2).
func TestOlderDocumentBehindTheNewest(t *testing.T) {
	r := newRig(t)
	far, l := r.neighbour(t, nil)
	r.env.settle()
	signer, err := r.auth.Signer()
	if err != nil {
		t.Fatal(err)
	}
	after := func(n uint16) *ident.Document {
		d := *r.cfg.Document
		d.Sequence += n
		signed, err := d.Sign(signer)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	older, newer := after(1), after(2)
	for i, d := range []*ident.Document{newer, older, newer} {
		m := &wire.Message{Header: wire.Header{TransactionID: uint64(i)}, Code: wire.ConfigUpdateReq}
		r.documentVerified(&request{Message: m, from: r.conns.find(l), peer: &ident.Peer{NodeID: far.NodeID()}}, d, nil)
		if r.updates.newest != newer {
			t.Fatalf("after document %d: sequence %d, want %d", i+1, r.updates.newest.Sequence, newer.Sequence)
		}
	}
	if n := r.count.ConfigRefuse; n != 1 {
		t.Errorf("%d refused, want the older one", n)
	}
}
