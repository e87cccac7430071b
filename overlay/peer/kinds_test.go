package peer

import (
	"errors"
	"testing"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Whoever signs Kinds cannot fill the memory of a peer with them.
func TestLearnedKindsAreBounded(t *testing.T) {
	s := newRig(t).kinds
	kind := func(n int) []learnedKind {
		return []learnedKind{{kind: ident.Kind{ID: 0xf0000001 + wire.KindID(n), Model: wire.SingleValue, AccessControl: ident.NodeMatch, MaxCount: 1, MaxSize: 1}}}
	}
	for n := range maxLearned {
		var err error
		if s, err = s.with(kind(n)); err != nil {
			t.Fatalf("Kind %d: %v", n+1, err)
		}
	}
	if _, err := s.with(kind(maxLearned)); !errors.Is(err, errKindsFull) {
		t.Errorf("Kind %d: %v", maxLearned+1, err)
	}
	if again, err := s.with(kind(0)); err != nil || len(again.learned) != maxLearned {
		t.Errorf("one that is known: %v", err)
	}
}
