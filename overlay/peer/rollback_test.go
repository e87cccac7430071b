package peer

import (
	"fmt"
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// "a fetching node which receives a data value with a storage time older than the result of the previous fetch knows
// that a rollback has occurred." (RFC 6940 §13.5.3)
func TestRollbackIsNoticed(t *testing.T) {
	var f fetches
	fetched := func(signer byte, key string, storage uint64) *FetchedKind {
		return &FetchedKind{Kind: 1, Values: []Fetched{{
			StoredData: wire.StoredData{StorageTime: storage, Lifetime: 60, Value: wire.StoredDataValue{Model: wire.Dictionary, Key: []byte(key)}},
			Signer:     &ident.Peer{NodeID: id(signer)},
		}}}
	}
	for i, c := range []struct {
		after      time.Duration
		res        wire.ResourceID
		k          *FetchedKind
		rolledBack bool
	}{
		{0, "r", fetched(1, "k", 100), false},
		{0, "r", fetched(1, "k", 100), false},
		{0, "r", fetched(1, "k", 99), true},
		{0, "r", fetched(1, "other", 99), false},
		{0, "r", fetched(2, "k", 99), false},
		{0, "other", fetched(1, "k", 99), false},
		{30 * time.Second, "r", fetched(1, "k", 101), false},
		{61 * time.Second, "r", fetched(1, "k", 100), true}, // the younger one still lives
		{90 * time.Second, "r", fetched(1, "k", 100), false},
	} {
		n := f.mark(t0.Add(c.after), c.res, c.k)
		if (n == 1) != c.rolledBack || c.k.Values[0].RolledBack != c.rolledBack {
			t.Errorf("fetch %d: rolled back %d", i, n)
		}
	}
	for i := range 3 * maxRemembered {
		f.mark(t0, wire.ResourceID(fmt.Sprint(i)), fetched(1, "k", 1))
	}
	if len(f.known) != maxRemembered || len(f.order) != maxRemembered {
		t.Errorf("%d and %d remembered", len(f.known), len(f.order))
	}
}
