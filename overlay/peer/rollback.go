package peer

import (
	"time"

	"fieldkit/overlay/wire"
)

// maxRemembered bounds what is remembered of earlier fetches; the oldest is forgotten first.
const maxRemembered = 512

// fetches remembers the storage times of what was fetched: "a fetching node which receives a data value with a storage
// time older than the result of the previous fetch knows that a rollback has occurred" (RFC 6940 §13.5.3).
type fetches struct {
	known map[fetchedEntry]fetchedAt
	order []fetchedEntry // as they were first seen
}

// fetchedEntry is a place where one signer stores.
type fetchedEntry struct {
	resource wire.ResourceID
	kind     wire.KindID
	index    uint32
	key      string
	signer   wire.NodeID
}

type fetchedAt struct {
	storage uint64
	until   time.Time // when that value's lifetime is over
}

// mark tells which of the values are older than what was fetched before, and remembers the others. A value whose
// lifetime is over is no longer owed by anybody.
func (f *fetches) mark(now time.Time, res wire.ResourceID, k *FetchedKind) (rolledBack uint64) {
	for i := range k.Values {
		v := &k.Values[i]
		e := fetchedEntry{res, k.Kind, v.Value.Index, string(v.Value.Key), v.Signer.NodeID}
		last, ok := f.known[e]
		if ok && last.storage > v.StorageTime && last.until.After(now) {
			v.RolledBack = true
			rolledBack++
			continue
		}
		if !ok {
			f.enter(e)
		}
		f.known[e] = fetchedAt{v.StorageTime, now.Add(time.Duration(v.Lifetime) * time.Second)}
	}
	return rolledBack
}

func (f *fetches) enter(e fetchedEntry) {
	if f.known == nil {
		f.known = make(map[fetchedEntry]fetchedAt)
	}
	if len(f.order) >= maxRemembered {
		delete(f.known, f.order[0])
		f.order = f.order[1:]
	}
	f.order = append(f.order, e)
}
