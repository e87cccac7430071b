package peer

import (
	"container/heap"
	"time"
)

// alarms folds every deadline of a peer into one. An alarm belongs to something that is itself
// bounded (a transaction, a link, an attach …), so the heap is bounded too.
type alarms struct {
	heap alarmHeap
	seq  uint64
}

type alarm struct {
	at    time.Time
	seq   uint64 // equal times ring in the order they were set
	index int    // in the heap; −1 when not set
	ring  func()
}

// set makes or moves an alarm. A nil a makes one.
func (s *alarms) set(a *alarm, at time.Time, ring func()) *alarm {
	if a == nil {
		a = &alarm{index: -1}
	}
	s.seq++
	a.at, a.seq, a.ring = at, s.seq, ring
	if a.index >= 0 {
		heap.Fix(&s.heap, a.index)
	} else {
		heap.Push(&s.heap, a)
	}
	return a
}

func (s *alarms) stop(a *alarm) {
	if a != nil && a.index >= 0 {
		heap.Remove(&s.heap, a.index)
	}
}

// next is when the earliest alarm rings; ok is false when none is set.
func (s *alarms) next() (t time.Time, ok bool) {
	if len(s.heap) == 0 {
		return time.Time{}, false
	}
	return s.heap[0].at, true
}

// due removes and returns one alarm that is due.
func (s *alarms) due(now time.Time) *alarm {
	if len(s.heap) == 0 || s.heap[0].at.After(now) {
		return nil
	}
	return heap.Pop(&s.heap).(*alarm)
}

type alarmHeap []*alarm

func (h alarmHeap) Len() int { return len(h) }
func (h alarmHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}
func (h alarmHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *alarmHeap) Push(x any) {
	a := x.(*alarm)
	a.index = len(*h)
	*h = append(*h, a)
}
func (h *alarmHeap) Pop() any {
	old := *h
	a := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	a.index = -1
	return a
}
