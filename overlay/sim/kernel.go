package sim

import "time"

// epoch is when every simulation begins: later than ident.ClockFloor, so that no clock is disbelieved.
var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// instant is virtual time in nanoseconds since epoch. Comparing and adding it costs what an integer costs, which
// counts when an event is made for every message of 10,000 kits.
type instant int64

func (i instant) time() time.Time               { return epoch.Add(time.Duration(i)) }
func (i instant) add(d time.Duration) instant   { return i + instant(d) }
func (i instant) since(o instant) time.Duration { return time.Duration(i - o) }
func instantOf(t time.Time) instant             { return instant(t.Sub(epoch)) }

// event is something that happens at a time. Events of one time happen in the order in which they were made, so that
// a run depends on nothing but its seed.
type event struct {
	at  instant
	seq uint64
	do  func()
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// kernel is the discrete-event queue: a heap of four children a node, which halves the depth of a binary one and
// with it the cache misses of a queue of some 100,000 events.
type kernel struct {
	now    instant
	seq    uint64
	heap   []event
	events uint64 // that happened
}

// at makes do happen at t, or now if that is past.
func (k *kernel) at(t instant, do func()) {
	k.seq++
	e := event{max(t, k.now), k.seq, do}
	k.heap = append(k.heap, e)
	h := k.heap
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(&h[up]) {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = e
}

// after makes do happen d from now.
func (k *kernel) after(d time.Duration, do func()) { k.at(k.now.add(max(d, 0)), do) }

// step lets the next event happen, if there is one not later than end.
func (k *kernel) step(end instant) bool {
	if len(k.heap) == 0 || k.heap[0].at > end {
		return false
	}
	e := k.heap[0]
	k.pop()
	k.now = e.at
	k.events++
	e.do()
	return true
}

func (k *kernel) pop() {
	h := k.heap
	n := len(h) - 1
	e := h[n]
	h[n] = event{}
	k.heap = h[:n]
	if n == 0 {
		return
	}
	h = k.heap
	i := 0
	for {
		first := 4*i + 1
		if first >= n {
			break
		}
		least := first
		for c := first + 1; c < min(first+4, n); c++ {
			if h[c].before(&h[least]) {
				least = c
			}
		}
		if !h[least].before(&e) {
			break
		}
		h[i] = h[least]
		i = least
	}
	h[i] = e
}

// trace folds what happened into one number: two runs that differ in one byte of one frame, or in when it came,
// differ in it. It is no cryptographic hash; nobody is there to forge one.
type trace uint64

func (t *trace) word(v uint64) {
	h := (uint64(*t)^v)*0x9e3779b97f4a7c15 + 0xd1b54a32d192ed03
	*t = trace(h ^ h>>29)
}

func (t *trace) bytes(b []byte) {
	t.word(uint64(len(b)))
	for len(b) >= 8 {
		t.word(uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
			uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56)
		b = b[8:]
	}
	var last uint64
	for i, c := range b {
		last |= uint64(c) << (8 * i)
	}
	t.word(last)
}
