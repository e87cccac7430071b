package peer

import "time"

// Bucket is a token bucket. It belongs to one goroutine.
type Bucket struct {
	rate, burst float64 // tokens per second, most tokens held
	tokens      float64
	last        time.Time
}

// NewBucket makes a full one: rate tokens come in per second, and at most burst are held.
func NewBucket(rate, burst float64, now time.Time) Bucket {
	return Bucket{rate: rate, burst: burst, tokens: burst, last: now}
}

// Take takes one token; false when there is none.
func (b *Bucket) Take(now time.Time) bool {
	if d := now.Sub(b.last); d > 0 {
		b.tokens = min(b.burst, b.tokens+d.Seconds()*b.rate)
		b.last = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
