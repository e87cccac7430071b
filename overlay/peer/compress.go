package peer

import (
	"encoding/binary"
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// List compression, RFC 6940 §6.1.2: "opaque IDs, which can replace any number of Via List entries". A Via List that
// would become longer than viaBound entries is kept here instead, and an opaque ID of two bytes goes on in its place, so
// that the header does not grow by 18 bytes each way with each hop more.
const (
	viaBound  = 8               // entries that a Via List goes on with uncompressed
	viaSlots  = 256             // lists kept; while all are in use, lists grow instead
	viaKept   = requestLifetime // "MUST be maintained for at least the value of the overlay-reliability-timer"
	slotBits  = 12
	slotMask  = 1<<slotBits - 1
	turnsMask = 1<<(15-slotBits) - 1
)

// viaLists are the lists that were compressed. Slots are used in rotation, "to maximize the time interval between uses
// of the same slot" (§6.3.2.2).
type viaLists struct {
	slots []viaList
	next  int
}

type viaList struct {
	list  []wire.Destination
	to    wire.NodeID // who got the opaque ID: nobody else has a use for it
	until time.Time
	turns uint16 // generation counter: "it MUST confirm that the current generation counter matches"
}

// compress puts a list away and returns the opaque ID for it; ok is false when there is no room.
func (p *Peer) compress(via []wire.Destination, to wire.NodeID) (id wire.Destination, ok bool) {
	v := &p.vias
	at := v.next
	switch {
	case len(v.slots) < viaSlots && (len(v.slots) == 0 || v.slots[at%len(v.slots)].until.After(p.now)):
		// "the generation counters SHOULD be initialized to random values" (§6.3.2.2)
		at = len(v.slots)
		v.slots = append(v.slots, viaList{turns: uint16(p.rng.Uint64())})
	default:
		at %= len(v.slots)
	}
	s := &v.slots[at]
	if s.until.After(p.now) {
		return wire.Destination{}, false
	}
	s.list, s.to, s.until, s.turns = via, to, p.now.Add(max(viaKept, p.params.reliability)), (s.turns+1)&turnsMask
	v.next = (at + 1) % viaSlots
	return wire.ToOpaque(s.turns<<slotBits | uint16(at)), true
}

// expand is §6.1.3: "the peer MUST replace the entry with the original Via List that it replaced". What it returns is
// that list reversed. ok is false for an ID that is not this peer's, is not any more, or that somebody else was given.
func (p *Peer) expand(d wire.Destination, from *link) (list []wire.Destination, ok bool) {
	if !d.Short || len(d.Opaque) != 2 || from == nil {
		return nil, false
	}
	id := binary.BigEndian.Uint16(d.Opaque) & 0x7fff
	at := int(id & slotMask)
	if at >= len(p.vias.slots) {
		return nil, false
	}
	s := &p.vias.slots[at]
	if s.turns != id>>slotBits || !s.until.After(p.now) || s.to != from.peer {
		return nil, false
	}
	list = slices.Clone(s.list)
	slices.Reverse(list)
	return list, true
}
