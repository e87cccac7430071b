package peer

import "time"

// storageReserve is how far ahead of use storage times are persisted: one write per hour of writing,
// and after a restart times continue above everything that could have been used.
const storageReserve = uint64(time.Hour / time.Millisecond)

// storageClock gives out storage times: max(clock, last+1), so that a kit that restarts with its clock in the past
// still writes values that replace its own older ones (RFC 6940 §7: "Any attempt to store a data value
// with a storage time before that of a value already stored at this location MUST generate an
// Error_Data_Too_Old error").
type storageClock struct{ last, reserved uint64 }

// take returns the first of n storage times, all greater than every earlier one.
func (c *storageClock) take(now time.Time, n int) uint64 {
	first := max(uint64(max(now.UnixMilli(), 0)), c.last+1)
	c.last = first + uint64(n) - 1
	return first
}

// reserve is what has to be persisted before what was taken is used; 0: nothing.
func (c *storageClock) reserve() uint64 {
	if c.last < c.reserved {
		return 0
	}
	return c.last + storageReserve
}

// raise makes later times greater than ms, which the peer's own stored value carries. RFC 6940 §7: a node
// refused with Error_Data_Too_Old "MAY elect to perform its store using a storage_time that increments
// the value used with the previous store (this may be obtained by doing a Fetch)".
func (c *storageClock) raise(ms uint64) {
	if ms > c.last && ms < 1<<62 { // beyond that the counter could be run into its end
		c.last = ms
	}
}
