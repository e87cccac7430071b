package pair

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// Beacons are sent to every link while a pairing runs. They are a hint: the session that one names, its sender proves
// when it is met.
const (
	beaconMagic   = "fieldkit-pair"
	beaconVersion = 1
	beaconHead    = len(beaconMagic) + 1 + 2 + len(ID{}) + 1
	maxBeacon     = beaconHead + (maxHeard+1)*len(ID{})
)

// Group is the multicast address of beacons: transient and of link scope (RFC 4291 §2.7).
var Group = netip.MustParseAddr("ff12::6b69:7470")

// beacon announces a session, or that it is over because there were too many.
type beacon struct {
	id    ID
	port  uint16 // TCP, where it is met
	crowd []ID   // the sessions that are over; none: it is not over
}

func (b beacon) encode() []byte {
	out := append(make([]byte, 0, maxBeacon), beaconMagic...)
	out = append(out, beaconVersion)
	out = binary.BigEndian.AppendUint16(out, b.port)
	out = append(out, b.id[:]...)
	out = append(out, byte(len(b.crowd)))
	for _, id := range b.crowd {
		out = append(out, id[:]...)
	}
	return out
}

// parseBeacon reads one; ok is false for anything that is none.
func parseBeacon(p []byte) (b beacon, ok bool) {
	rest, ok := bytes.CutPrefix(p, []byte(beaconMagic))
	if !ok || len(p) < beaconHead || len(p) > maxBeacon || rest[0] != beaconVersion {
		return beacon{}, false
	}
	b.port = binary.BigEndian.Uint16(rest[1:])
	rest = rest[3:]
	rest = rest[copy(b.id[:], rest):]
	n := int(rest[0])
	rest = rest[1:]
	if len(rest) != n*len(ID{}) {
		return beacon{}, false
	}
	for range n {
		var id ID
		rest = rest[copy(id[:], rest):]
		b.crowd = append(b.crowd, id)
	}
	return b, b.port != 0
}
