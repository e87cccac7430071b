package peer

import (
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// line is a request that has come through n nodes, encoded.
func (r *rig) line(t *testing.T, from *ident.Identity, n int, dest wire.NodeID) []byte {
	t.Helper()
	m := r.newMessage(&Outgoing{Dest: toNode(dest), Code: wire.PingReq, Body: pingBody})
	for i := range n {
		m.Via = append(m.Via, wire.ToNode(id(byte(i+1))))
	}
	if err := ident.Sign(m, from.Signer()); err != nil {
		t.Fatal(err)
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// answerTo is the answer of the far end to what was forwarded to it, on the way back.
func (r *rig) answerTo(t *testing.T, b []byte, by *ident.Identity, change func(*wire.Message)) []byte {
	t.Helper()
	q, err := wire.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	a := &wire.Message{Header: q.Header, Code: wire.PingAns, Body: make([]byte, 16)}
	a.Via, a.TTL = nil, 10
	a.Dest = append(slices.Clone(q.Via), wire.ToNode(r.ID()))
	slices.Reverse(a.Dest)
	if change != nil {
		change(a)
	}
	if err := ident.Sign(a, by.Signer()); err != nil {
		t.Fatal(err)
	}
	out, err := a.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// "The only requirement is that the peer MUST be able to reconstruct the correct Destination List on the return route.
// RELOAD provides explicit support for this functionality in the form of opaque IDs, which can replace any number of Via
// List entries." (RFC 6940 §6.1.2) "A node receiving a request from another node MUST ensure that any response to that
// request exits that node with a Destination List equal to the concatenation of the Node-ID of the node from which the
// request was received with the Via List in the original request."
func TestListCompression(t *testing.T) {
	for _, n := range []int{0, viaBound - 1, viaBound, 20} {
		r := newRig(t)
		var there, back [][]byte
		from, in := r.neighbour(t, &back)
		to, out := r.neighbour(t, &there)
		r.env.settle()
		there, back = nil, nil
		r.Receive(t0, in, r.line(t, from, n, to.NodeID()))
		if len(there) != 1 {
			t.Fatalf("%d entries: %d messages forwarded", n, len(there))
		}
		h, _, err := wire.ParseHeader(there[0])
		if err != nil {
			t.Fatal(err)
		}
		want := n + 1
		if want > viaBound {
			want = 1
		}
		if len(h.Via) != want || (want == 1 && n > 0) != (h.Via[0].Type == wire.DestOpaque) {
			t.Errorf("%d entries and the sender became %v", n, h.Via)
		}
		r.Receive(t0, out, r.answerTo(t, there[0], to, nil))
		if len(back) != 1 {
			t.Fatalf("%d entries: %d answers forwarded", n, len(back))
		}
		if h, _, err = wire.ParseHeader(back[0]); err != nil {
			t.Fatal(err)
		}
		exit := []wire.Destination{wire.ToNode(from.NodeID())}
		for i := n; i > 0; i-- {
			exit = append(exit, wire.ToNode(id(byte(i))))
		}
		if !slices.EqualFunc(h.Dest, exit, func(a, b wire.Destination) bool { return a.Type == b.Type && a.Node == b.Node }) {
			t.Errorf("%d entries: the answer exits with %v, want %v", n, h.Dest, exit)
		}
		if len(h.Via) != 0 {
			t.Errorf("%d entries: the answer has a Via List of %d", n, len(h.Via))
		}
	}
}

// "When routing a message to an entry in the Destination List encoding a Connection Table entry, the peer MUST confirm
// that the current generation counter matches the generation counter of that index before forwarding the message. If it
// does not match, the message MUST be silently dropped." (RFC 6940 §6.3.2.2) So is one of an ID that is too old, that was
// never given out, or that comes from somebody else than it was given to.
func TestOpaqueIDsThatDoNotMatch(t *testing.T) {
	other := func(change func(id uint16) uint16) func(*wire.Message) {
		return func(m *wire.Message) {
			o := m.Dest[1].Opaque
			m.Dest[1] = wire.ToOpaque(change(uint16(o[0])<<8 | uint16(o[1])))
		}
	}
	for _, c := range []struct {
		name   string
		change func(*wire.Message)
		after  time.Duration
		thief  bool
		passes bool
	}{
		{"as it is", nil, 0, false, true},
		{"as long as it must be kept", nil, 3 * time.Second, false, true},
		{"another generation", other(func(id uint16) uint16 { return id ^ 1<<slotBits }), 0, false, false},
		{"another slot", other(func(id uint16) uint16 { return id ^ 1 }), 0, false, false},
		{"a slot beyond", other(func(id uint16) uint16 { return id | slotMask }), 0, false, false},
		{"too late", nil, viaKept, false, false},
		{"from another neighbour", nil, 0, true, false},
		{"the long form", func(m *wire.Message) { m.Dest[1].Short = false }, 0, false, false},
	} {
		r := newRig(t)
		var there, back [][]byte
		from, in := r.neighbour(t, &back)
		to, out := r.neighbour(t, &there)
		_, thief := r.neighbour(t, nil)
		r.env.settle()
		there, back = nil, nil
		r.Receive(t0, in, r.line(t, from, 20, to.NodeID()))
		if len(there) != 1 {
			t.Fatalf("%s: not forwarded", c.name)
		}
		before := r.count.Unroutable
		by := out
		if c.thief {
			by = thief
		}
		r.Receive(t0.Add(c.after), by, r.answerTo(t, there[0], to, c.change))
		if got := len(back) == 1; got != c.passes || (r.count.Unroutable == before) != c.passes {
			t.Errorf("%s: passes %v, %d dropped", c.name, got, r.count.Unroutable-before)
		}
	}
}

// No more lists are kept than there are slots; beyond, lists grow, and slots come free with time.
func TestListCompressionIsBounded(t *testing.T) {
	r := newRig(t)
	var there [][]byte
	from, in := r.neighbour(t, nil)
	to, out := r.neighbour(t, &there)
	r.env.settle()
	there = nil
	out.heard = t0.Add(viaKept)
	b := r.line(t, from, 20, to.NodeID())
	opaque := func() (n int) {
		for _, m := range there {
			h, _, err := wire.ParseHeader(m)
			if err != nil {
				t.Fatal(err)
			}
			if len(h.Via) == 1 {
				n++
			}
		}
		there = nil
		return n
	}
	for range 2 * viaSlots {
		r.Receive(t0, in, b)
	}
	if n := opaque(); n != viaSlots || len(r.vias.slots) != viaSlots {
		t.Errorf("%d lists compressed, %d kept, want %d", n, len(r.vias.slots), viaSlots)
	}
	for range 2 * viaSlots {
		r.Receive(t0.Add(viaKept), in, b)
	}
	if n := opaque(); n != viaSlots || len(r.vias.slots) != viaSlots {
		t.Errorf("later %d lists compressed, %d kept, want %d", n, len(r.vias.slots), viaSlots)
	}
}

// "… MUST be maintained for at least the value of the overlay-reliability-timer" (RFC 6940 §6.1.2), also in an overlay whose
// timer is longer than a request lives elsewhere.
func TestListsAreKeptForTheReliabilityTimer(t *testing.T) {
	r := newRig(t)
	far, l := r.neighbour(t, nil)
	r.params.reliability = 2 * viaKept
	d, ok := r.compress([]wire.Destination{wire.ToNode(id(1))}, far.NodeID())
	if !ok {
		t.Fatal("not compressed")
	}
	r.now = t0.Add(2*viaKept - time.Second)
	if _, ok := r.expand(d, r.conns.find(l)); !ok {
		t.Error("forgotten before the timer")
	}
	r.now = t0.Add(2*viaKept + time.Second)
	if _, ok := r.expand(d, r.conns.find(l)); ok {
		t.Error("kept for ever")
	}
}
