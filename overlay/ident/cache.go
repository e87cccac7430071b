package ident

import "sync"

// cache is a bounded map in two generations: when the young one is full it becomes the old one and the old one
// is forgotten, so at most 2×limit entries live, and what is used again survives. Cheap at every get, and a
// flood of new keys can only push out what nobody asked for meanwhile.
type cache[K comparable, V any] struct {
	mu         sync.Mutex
	limit      int
	young, old map[K]V
	hits       uint64
	misses     uint64
	dropped    uint64
}

func newCache[K comparable, V any](limit int) *cache[K, V] {
	return &cache[K, V]{limit: max(limit, 1), young: make(map[K]V)}
}

func (c *cache[K, V]) get(k K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok = c.young[k]; ok {
		c.hits++
		return v, true
	}
	if v, ok = c.old[k]; ok {
		c.hits++
		delete(c.old, k)
		c.put(k, v)
		return v, true
	}
	c.misses++
	return v, false
}

// add keeps v under k unless another goroutine was first; what is kept is returned.
func (c *cache[K, V]) add(k K, v V) V {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w, ok := c.young[k]; ok {
		return w
	}
	c.put(k, v)
	return v
}

func (c *cache[K, V]) put(k K, v V) {
	if len(c.young) >= c.limit {
		c.dropped += uint64(len(c.old))
		c.old, c.young = c.young, make(map[K]V)
	}
	c.young[k] = v
}

// CacheStats counts a bounded cache.
type CacheStats struct {
	Entries int
	Hits    uint64
	Misses  uint64
	Dropped uint64 // forgotten at the limit
}

func (c *cache[K, V]) stats() CacheStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return CacheStats{Entries: len(c.young) + len(c.old), Hits: c.hits, Misses: c.misses, Dropped: c.dropped}
}
