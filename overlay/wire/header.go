package wire

import (
	"encoding/binary"
	"fmt"
	"strconv"
)

// Constants of the forwarding header (RFC 6940 §6.3.2, §6.7, §14.2).
const (
	Token             uint32 = 0xd2454c4f // "RELO" with the high bit of the first octet set
	Version           uint8  = 0x0a       // RELOAD 1.0
	DefaultPort       uint16 = 6084       // §14.2
	FixedHeaderLen           = 38         // bytes of the header before its lists
	Unfragmented      uint32 = 0xC0000000 // §6.7: first bit always set, last fragment, offset 0
	DefaultMaxMessage uint32 = 5000       // bytes, max-message-size where the configuration has none (§11.1)
	DefaultTTL        uint8  = 100        // initial-ttl where the configuration has none (§6.3.2)
	AnySequence       uint16 = 65535      // §6.3.2.1: accepted whatever the receiver's configuration
)

// Limits of this codec, so that the memory a message takes stays in proportion to its bytes.
const (
	// MaxDestinations bounds each of via and destination list. A via list grows by one entry per hop,
	// and the TTL that counts hops is one octet.
	MaxDestinations = 256
	MaxOptions      = 64  // forwarding options in a header
	MaxExtensions   = 64  // extensions in a message
	MaxCertificates = 256 // certificates in a security block
)

// ErrVersion is the parse failure of a message of another RELOAD version: "Nodes MUST reject messages
// with other versions" (RFC 6940 §6.3.2). ParseHeader still reads such a header, so that a node can
// answer it with Error_Incompatible_with_Overlay. ErrVersion is ErrMalformed, too.
var ErrVersion = fmt.Errorf("%w: RELOAD version other than 1.0", ErrMalformed)

// DestinationType is the type octet of a Destination (RFC 6940 §6.3.2.2).
type DestinationType uint8

// Destination types.
const (
	DestNode     DestinationType = 1
	DestResource DestinationType = 2
	DestOpaque   DestinationType = 3
)

// Destination is one entry of a via or destination list (RFC 6940 §6.3.2.2).
type Destination struct {
	Type     DestinationType
	Node     NodeID     // DestNode
	Resource ResourceID // DestResource
	Opaque   []byte     // DestOpaque: the id, at most 254 bytes; of types this code does not know: the data, at most 255
	// Short tells that a DestOpaque was, and is to be, written in the two-byte compressed form. Opaque
	// is then those two bytes, the first bit of which is set.
	Short bool
}

// ToNode makes the destination of a Node-ID.
func ToNode(id NodeID) Destination { return Destination{Type: DestNode, Node: id} }

// ToResource makes the destination of a Resource-ID: the peer responsible for it.
func ToResource(r ResourceID) Destination { return Destination{Type: DestResource, Resource: r} }

// ToOpaque makes the two-byte compressed destination; the first bit of id is set for the caller.
func ToOpaque(id uint16) Destination {
	return Destination{Type: DestOpaque, Opaque: binary.BigEndian.AppendUint16(nil, id|0x8000), Short: true}
}

// ParseDestinations reads a list of Destinations without a length before it, at most MaxDestinations.
// It is what a via list, a destination list and the user part of a reload: URI hold.
func ParseDestinations(b []byte) ([]Destination, error) {
	r := newReader(b)
	return finish(&r, r.destinations(), "")
}

// AppendBinary appends the destination. It fails when what its type needs is missing or too long.
func (d Destination) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.destination(&d)
	return w.end(b, "Destination")
}

func (r *reader) destinations() []Destination {
	if !r.more() {
		return nil
	}
	// Most entries are Node-IDs: one allocation then holds them all, and no more than a few times the input.
	const usual = 2 + MinNodeIDLen
	list := make([]Destination, 0, min(len(r.b)/usual+1, MaxDestinations))
	for {
		if len(list) == MaxDestinations {
			r.fail(r.at(), "", "more than "+strconv.Itoa(MaxDestinations)+" destinations")
			return nil
		}
		list = append(list, r.destination(""))
		if !r.more() {
			return list
		}
	}
}

func (r *reader) destination(field string) Destination {
	if len(r.b) > 0 && r.b[0]&0x80 != 0 {
		return Destination{Type: DestOpaque, Opaque: r.take(2, field), Short: true}
	}
	start := r.at()
	d := Destination{Type: DestinationType(r.u8(field))}
	v := r.vector(1, field)
	if r.err != nil {
		return Destination{}
	}
	switch d.Type {
	case 0:
		r.fail(start, field, "destination of type 0")
	case DestNode:
		d.Node = v.nodeID(len(v.b), "node_id")
	case DestResource:
		// The TLV's length covers the length octet that a ResourceId brings along.
		d.Resource = v.resourceID("resource_id")
	case DestOpaque:
		d.Opaque = v.opaque(1, "opaque_id")
	default:
		d.Opaque = v.rest()
	}
	r.join(&v, field)
	return d
}

func (w *writer) destination(d *Destination) {
	const what = "Destination"
	if d.Short {
		if d.Type != DestOpaque || len(d.Opaque) != 2 || d.Opaque[0]&0x80 == 0 {
			w.fail("compressed Destination that is no two-byte opaque id with its first bit set")
		}
		w.bytes(d.Opaque)
		return
	}
	if d.Type == 0 || d.Type >= 128 {
		w.fail("Destination without a valid type")
		return
	}
	w.u8(uint8(d.Type))
	at := w.open(1)
	switch d.Type {
	case DestNode:
		w.nodeID(d.Node, what)
	case DestResource:
		w.resourceID(d.Resource, what)
	case DestOpaque:
		w.opaque(1, d.Opaque, what)
	default:
		w.bytes(d.Opaque)
	}
	w.close(at, 1, what)
}

// ForwardingOption is RFC 6940 §6.3.2.3. Data is at most 65535 bytes.
type ForwardingOption struct {
	Type  uint8
	Flags uint8
	Data  []byte
}

// Forwarding option flags (RFC 6940 §6.3.2.3).
const (
	ForwardCritical     uint8 = 0x01 // a peer that would forward must understand the option
	DestinationCritical uint8 = 0x02 // a node that answers must understand the option
	ResponseCopy        uint8 = 0x04 // the option is copied to the answer, with all three flags cleared
)

// Header is the forwarding header (RFC 6940 §6.3.2) with its lists.
type Header struct {
	Overlay           uint32 // OverlayHash of the overlay name
	ConfigSequence    uint16
	Version           uint8  // written as Version when zero
	TTL               uint8  // hops left
	Fragment          uint32 // see Offset and LastFragment; written as Unfragmented when zero
	Length            uint32 // bytes of this message or fragment with its header; filled by Parse, computed when written
	TransactionID     uint64
	MaxResponseLength uint32 // bytes; 0 is no limit
	Via               []Destination
	Dest              []Destination
	Options           []ForwardingOption
}

// Bits of the fragment field (RFC 6940 §6.3.2).
const (
	fragmentSet    uint32 = 0x80000000 // set in every message
	fragmentLast   uint32 = 0x40000000
	fragmentOffset uint32 = 0x00ffffff
)

// LastFragment reports whether this is the last, or only, fragment of a message.
func (h *Header) LastFragment() bool { return h.Fragment&fragmentLast != 0 }

// Offset is how many bytes of the message, counted from the end of the forwarding header, come before
// this fragment's (RFC 6940 §6.7).
func (h *Header) Offset() uint32 { return h.Fragment & fragmentOffset }

// IsFragment reports whether this is a part of a message that has others.
func (h *Header) IsFragment() bool {
	return h.Fragment != 0 && (!h.LastFragment() || h.Offset() != 0)
}

// ParseHeader reads the forwarding header of a message or of a fragment, and returns what follows it:
// all that a node needs to forward a message without reading it. The bytes must be exactly one message,
// as long as its length field says. A header of another version is read as if it were of this one.
func ParseHeader(b []byte) (h Header, rest []byte, err error) {
	r := newReader(b)
	r.header(&h, len(b))
	if r.err != nil {
		return Header{}, nil, r.err
	}
	return h, r.b, nil
}

// Offsets of fields in the header that are looked at, or filled in, out of their order.
const (
	versionAt  = 10
	fragmentAt = 12
	lengthAt   = 16
)

func (r *reader) header(h *Header, size int) {
	defer r.scope(r.ok(), "forwarding")
	if token := r.u32("relo_token"); token != Token {
		r.refuse(4, "relo_token", "no RELOAD message")
	}
	h.Overlay = r.u32("overlay")
	h.ConfigSequence = r.u16("configuration_sequence")
	h.Version = r.u8("version")
	h.TTL = r.u8("ttl")
	h.Fragment = r.u32("fragment")
	h.Length = r.u32("length")
	h.TransactionID = r.u64("transaction_id")
	h.MaxResponseLength = r.u32("max_response_length")
	via, dest, options := r.u16("via_list_length"), r.u16("destination_list_length"), r.u16("options_length")
	switch {
	case r.err != nil:
		return
	case uint64(h.Length) != uint64(size):
		r.fail(lengthAt, "length", "length of "+strconv.FormatUint(uint64(h.Length), 10)+" in a message of "+strconv.Itoa(size)+" bytes")
		return
	case h.Version == 0 || h.Version == 255:
		// "between 0.1 and 25.4"
		r.fail(versionAt, "version", "version out of range")
		return
	case h.Fragment&fragmentSet == 0:
		// "implementations SHOULD discard any message with it set to 0" (RFC 6940 §6.7)
		r.fail(fragmentAt, "fragment", "first bit not set")
		return
	}
	v := r.span(int(via), "via_list")
	h.Via = v.destinations()
	r.join(&v, "via_list")
	v = r.span(int(dest), "destination_list")
	h.Dest = v.destinations()
	r.join(&v, "destination_list")
	v = r.span(int(options), "options")
	for v.more() {
		if len(h.Options) == MaxOptions {
			v.fail(v.at(), "", "more than "+strconv.Itoa(MaxOptions)+" options")
			break
		}
		h.Options = append(h.Options, ForwardingOption{
			Type: v.u8("type"), Flags: v.u8("flags"), Data: v.opaque(2, "option"),
		})
	}
	r.join(&v, "options")
}

// AppendHeader appends the forwarding header of a message or fragment in which payload bytes follow.
func (h *Header) AppendHeader(b []byte, payload int) ([]byte, error) {
	w := writer{b: b}
	w.header(h)
	w.length(len(b), payload)
	return w.end(b, "forwarding header")
}

// AppendForward appends a whole message or fragment made of this header and of rest, which is what
// ParseHeader returned: a node that forwards changes the lists and the TTL and nothing else.
func (h *Header) AppendForward(b, rest []byte) ([]byte, error) {
	w := writer{b: b}
	w.header(h)
	w.bytes(rest)
	w.length(len(b), 0)
	return w.end(b, "forwarding header")
}

func (w *writer) header(h *Header) {
	version, fragment := h.Version, h.Fragment
	if version == 0 {
		version = Version
	}
	if fragment == 0 {
		fragment = Unfragmented
	}
	if fragment&fragmentSet == 0 {
		w.fail("fragment field without its first bit")
	}
	w.u32(Token)
	w.u32(h.Overlay)
	w.u16(h.ConfigSequence)
	w.u8(version)
	w.u8(h.TTL)
	w.u32(fragment)
	w.u32(0)
	w.u64(h.TransactionID)
	w.u32(h.MaxResponseLength)
	lengths := len(w.b)
	w.b = append(w.b, 0, 0, 0, 0, 0, 0)
	if len(h.Via) > MaxDestinations || len(h.Dest) > MaxDestinations || len(h.Options) > MaxOptions {
		w.fail("list of the forwarding header too long")
		return
	}
	start := len(w.b)
	for i := range h.Via {
		w.destination(&h.Via[i])
	}
	start = w.listLength(lengths, start, "via list")
	for i := range h.Dest {
		w.destination(&h.Dest[i])
	}
	start = w.listLength(lengths+2, start, "destination list")
	for i := range h.Options {
		w.u8(h.Options[i].Type)
		w.u8(h.Options[i].Flags)
		w.opaque(2, h.Options[i].Data, "option")
	}
	w.listLength(lengths+4, start, "options")
}

// listLength writes at `at` the length of the list that began at start, and returns where it ends.
func (w *writer) listLength(at, start int, what string) int {
	n := len(w.b) - start
	if n > 0xffff {
		w.fail(what + " too long")
		n = 0
	}
	binary.BigEndian.PutUint16(w.b[at:], uint16(n))
	return len(w.b)
}

// length fills in the length field of the header that began at start, with `more` bytes to come.
func (w *writer) length(start, more int) {
	n := uint64(len(w.b)-start) + uint64(more)
	if more < 0 || n > 0xffffffff {
		w.fail("message too long")
		return
	}
	binary.BigEndian.PutUint32(w.b[start+lengthAt:], uint32(n))
}
