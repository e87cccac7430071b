package storage

import (
	"container/heap"
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// expiries orders the values by the end of their lifetimes; each knows its place.
type expiries []*value

func (h expiries) Len() int           { return len(h) }
func (h expiries) Less(i, j int) bool { return h[i].expires.Before(h[j].expires) }
func (h expiries) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].due, h[j].due = i, j
}

// Push is heap.Interface's.
func (h *expiries) Push(x any) {
	v := x.(*value)
	v.due = len(*h)
	*h = append(*h, v)
}

// Pop is heap.Interface's.
func (h *expiries) Pop() any {
	old := *h
	v := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return v
}

// Deadline is when Expire has something to do; zero if nothing is stored.
func (s *Store) Deadline() time.Time {
	if len(s.due) == 0 {
		return time.Time{}
	}
	return s.due[0].expires
}

// fewExpired is how many values are taken out one by one; above, all are looked at once.
const fewExpired = 32

// Expire removes the values whose lifetime is over and returns how many: "it is simply removed from
// the storing node" (RFC 6940 §7.4.1.3). The other methods do it by themselves.
func (s *Store) Expire(now time.Time) (n int) {
	for len(s.due) > 0 && !now.Before(s.due[0].expires) {
		if n == fewExpired {
			n += s.deleteFunc(func(v *value) bool { return !now.Before(v.expires) })
			break
		}
		s.remove(s.due[0])
		n++
	}
	s.stats.Expired += uint64(n)
	return n
}

// remove takes one value out, and what is empty after that.
func (s *Store) remove(v *value) {
	r := s.resources[v.resource]
	at, _ := r.find(v.kind)
	k := r.kinds[at]
	i, _ := findValue(k.values, &v.data.Value)
	k.values = slices.Delete(k.values, i, i+1)
	s.release(v)
	s.lose(k, v)
	if len(k.values) > 0 {
		return
	}
	s.forgetKind(k)
	r.kinds = slices.Delete(r.kinds, at, at+1)
	if len(r.kinds) > 0 {
		return
	}
	delete(s.resources, v.resource)
	i, _ = slices.BinarySearch(s.order, v.resource)
	s.order = slices.Delete(s.order, i, i+1)
}

// lose notes that v, of k, is gone, if it was the last that existed there.
func (s *Store) lose(k *kindData, v *value) {
	if k.existing > 0 || !v.data.Value.Exists {
		return
	}
	list := s.found[k.id]
	i, _ := slices.BinarySearch(list, v.resource)
	if list = slices.Delete(list, i, i+1); len(list) == 0 {
		delete(s.found, k.id)
		return
	}
	s.found[k.id] = list
}

// deleteFunc removes the values for which del holds, and what is empty after that.
func (s *Store) deleteFunc(del func(*value) bool) (n int) {
	gone := func(v *value) bool {
		if !del(v) {
			return false
		}
		n++
		s.release(v)
		return true
	}
	s.order = slices.DeleteFunc(s.order, func(id wire.ResourceID) bool {
		r := s.resources[id]
		r.kinds = slices.DeleteFunc(r.kinds, func(k *kindData) bool {
			k.values = slices.DeleteFunc(k.values, gone)
			if len(k.values) > 0 {
				return false
			}
			s.forgetKind(k)
			return true
		})
		if len(r.kinds) > 0 {
			return false
		}
		delete(s.resources, id)
		return true
	})
	for id, list := range s.found {
		s.found[id] = slices.DeleteFunc(list, func(res wire.ResourceID) bool {
			k := s.kind(res, id)
			return k == nil || k.existing == 0
		})
		if len(s.found[id]) == 0 {
			delete(s.found, id)
		}
	}
	return n
}

// forgetKind remembers the generation counter of what is gone: whoever saw that counter must not take what is stored
// there later for what it knows already (RFC 6940 §7.4.2.1).
func (s *Store) forgetKind(k *kindData) { s.retired = max(s.retired, k.generation) }

// due puts a value into, and out of, the order of expiry.
func (s *Store) expect(v *value)   { heap.Push(&s.due, v) }
func (s *Store) unexpect(v *value) { heap.Remove(&s.due, v.due) }
