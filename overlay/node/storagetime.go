package node

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// StorageTimes persists the last storage_time, so that a kit that restarts with its clock in the past
// still writes values that replace its own older ones (RFC 6940 §7: "Any attempt to store a data value
// with a storage time before that of a value already stored at this location MUST generate an
// Error_Data_Too_Old error"). It is called rarely: see storageClock.
type StorageTimes interface {
	LoadStorageTime() (ms uint64, err error) // 0 when none was ever saved
	SaveStorageTime(ms uint64) error
}

// storageReserve is how far ahead of use storage times are persisted: one write per hour of writing,
// and after a restart times continue above everything that could have been used.
const storageReserve = uint64(time.Hour / time.Millisecond)

// storageClock gives out storage times: max(clock, last+1). It is a leaf that locks only itself.
type storageClock struct {
	mu       sync.Mutex
	last     uint64
	reserved uint64
	store    StorageTimes
	now      func() time.Time
}

func newStorageClock(store StorageTimes, now func() time.Time) (*storageClock, error) {
	c := &storageClock{store: store, now: now}
	if store == nil {
		c.reserved = ^uint64(0)
		return c, nil
	}
	saved, err := store.LoadStorageTime()
	if err != nil {
		// A lost file must not stop the kit: a refusal as too old teaches the time (see raise).
		return c, fmt.Errorf("last storage time: %w", err)
	}
	c.last, c.reserved = saved, saved
	return c, nil
}

// next returns a storage time greater than every earlier one. When it cannot be persisted it is
// returned all the same, with the error: a full or broken card must not silence the kit.
func (c *storageClock) next() (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ms := uint64(max(c.now().UnixMilli(), 0))
	c.last = max(ms, c.last+1)
	return c.last, c.reserveLocked()
}

// raise makes later times greater than ms, which the kit's own stored value carries. RFC 6940 §7: a node
// refused with Error_Data_Too_Old "MAY elect to perform its store using a storage_time that increments
// the value used with the previous store (this may be obtained by doing a Fetch)".
func (c *storageClock) raise(ms uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ms > c.last && ms < 1<<62 { // beyond that the counter could be run into its end
		c.last = ms
	}
}

func (c *storageClock) reserveLocked() error {
	if c.last < c.reserved || c.store == nil {
		return nil
	}
	ahead := c.last + storageReserve
	if err := c.store.SaveStorageTime(ahead); err != nil {
		return errors.Join(errors.New("storage time not persisted"), err)
	}
	c.reserved = ahead
	return nil
}
