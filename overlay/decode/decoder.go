package decode

import (
	"errors"
	"reflect"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// MaxMessage bounds a frame or message in bytes. Overlays have a max-message-size of some thousand (RFC 6940 §11.1); what
// is larger is refused, not shown in part.
const MaxMessage = 1 << 20

// Config says what a Decoder knows of the overlay. The zero value is good for any overlay with the registered Kinds.
type Config struct {
	NodeIDLength int          // bytes; 0 takes it from the lists of each message, and 16 if they name no node
	Models       wire.ModelOf // beside the registered Kinds; may be nil
	Trust        *ident.Trust // whose certificates are believed; nil checks signatures but no chains
}

// Decoder turns frames and messages into JSON. It remembers between them fragments, for reassembly, and which resource
// was fetched in which transaction, for the signatures in the answer.
type Decoder struct {
	idLen     int
	models    wire.ModelOf
	trust     *ident.Trust
	fragments [maxStreams]*wire.Reassembler
	fetched   fetches
	stats     Stats
}

// Stats counts what a Decoder saw.
type Stats struct {
	Units     int // frames, messages and fragments
	Malformed int // of these
	Invalid   int // signatures that do not verify
	Untrusted int // signatures that verify, by a certificate that Config.Trust does not believe
}

// Unit is what is decoded as one object.
type Unit struct {
	Data []byte // a frame, a message, or a fragment of one
	// Stream tells apart what came from different neighbours: fragments are put together within one stream.
	Stream uint64
	Time   time.Time // when it was seen: for the reassembly timeout and the validity of certificates
}

// maxStreams bounds the streams of which fragments are kept. More share places, which does harm only where transaction
// IDs are equal, too.
const maxStreams = 64

// Kinds of which the value is shown in hex.
const (
	kindAccessControl wire.KindID = 0x4   // RFC 8076
	kindReDiR         wire.KindID = 0x104 // RFC 7374
)

// New makes a Decoder.
func New(c Config) *Decoder {
	return &Decoder{idLen: c.NodeIDLength, trust: c.Trust, models: func(kind wire.KindID) (wire.DataModel, bool) {
		switch kind {
		case wire.KindSIPRegistration, kindReDiR:
			return wire.Dictionary, true
		case wire.KindTurnService:
			return wire.SingleValue, true
		case wire.KindCertificateByNode, wire.KindCertificateByUser, kindAccessControl:
			return wire.Array, true
		}
		if c.Models != nil {
			return c.Models(kind)
		}
		return 0, false
	}}
}

// Stats returns the counters.
func (d *Decoder) Stats() Stats { return d.stats }

// isFrame tells a frame from a message, whose first byte is that of the token.
func isFrame(data []byte) bool {
	return len(data) > 0 && (data[0] == wire.FrameData || data[0] == wire.FrameAck)
}

// nodeIDLength is that of the first node in the header's lists: an overlay has Node-IDs of one length.
func (d *Decoder) nodeIDLength(h *wire.Header) int {
	if d.idLen != 0 {
		return d.idLen
	}
	for _, list := range [][]wire.Destination{h.Dest, h.Via} {
		for i := range list {
			if list[i].Type == wire.DestNode {
				return list[i].Node.Len()
			}
		}
	}
	return wire.MinNodeIDLen
}

// Object takes members for the front of a JSON object.
type Object struct{ printer }

// Number adds a member.
func (o *Object) Number(name string, v uint64) { o.num(name, v) }

// Text adds a member.
func (o *Object) Text(name, v string) { o.str(name, v) }

// Append appends the JSON object of what in holds, with what front adds as its first members; front may be nil. It
// reports whether everything was well formed. If not, the object has the members error, offset and field, and what could
// be read before.
func (d *Decoder) Append(b []byte, in Unit, front func(*Object)) ([]byte, bool) {
	d.stats.Units++
	u := &unit{Decoder: d, time: in.Time, checks: maxChecks}
	u.unit(in)
	out := &Object{printer{b: append(b, '{')}}
	if front != nil {
		front(out)
	}
	if u.fault != nil {
		d.stats.Malformed++
		out.str("error", u.fault.Reason)
		out.num("offset", uint64(u.fault.Offset))
		out.str("field", u.fault.Field)
	}
	if len(u.b) > 0 {
		out.name("")
		out.b = append(out.b, u.b...)
	}
	return append(out.b, '}'), u.fault == nil
}

// Fault is what Append would say is malformed in what in holds, nil if nothing is. It counts as Append does; of one unit
// call only one of them.
func (d *Decoder) Fault(in Unit) *wire.SyntaxError {
	d.stats.Units++
	u := &unit{Decoder: d, time: in.Time, checks: maxChecks}
	u.unit(in)
	if u.fault != nil {
		d.stats.Malformed++
	}
	return u.fault
}

// Malformed appends the object of something that is not even the hex of a message.
func (d *Decoder) Malformed(b []byte, fault wire.SyntaxError, front func(*Object)) []byte {
	d.stats.Units++
	d.stats.Malformed++
	out := &Object{printer{b: append(b, '{')}}
	if front != nil {
		front(out)
	}
	out.str("error", fault.Reason)
	out.num("offset", uint64(fault.Offset))
	out.str("field", fault.Field)
	return append(out.b, '}')
}

// unit is one Unit on its way to JSON.
type unit struct {
	*Decoder
	printer
	time    time.Time
	whole   []byte            // what offsets count in
	near    int               // where an empty part is said to be
	body    int               // offset in whole of the message body
	fault   *wire.SyntaxError // the first thing that is malformed
	idBytes int               // Node-ID length
	bucket  []certificate     // of the message
	message *wire.Message
	checks  int // signatures that may still be checked
}

// malformed notes that part, within whole, is malformed. Only the first such thing is reported: what follows it may be a
// consequence.
func (u *unit) malformed(part []byte, within string, err error) {
	if err == nil {
		return
	}
	offset := u.offset(part)
	s := new(wire.SyntaxError)
	if !errors.As(err, &s) {
		s = &wire.SyntaxError{Reason: err.Error()}
	}
	if u.fault != nil {
		return
	}
	field := within
	if field != "" && s.Field != "" {
		field += "."
	}
	u.fault = &wire.SyntaxError{Offset: offset + s.Offset, Field: field + s.Field, Reason: s.Reason}
}

// offset is where part begins in whole, of which it is a part because parsed structures alias what they were read from.
// An empty part aliases nothing: it is said to be near.
func (u *unit) offset(part []byte) int {
	if len(part) > 0 {
		if at := int(reflect.ValueOf(part).Pointer() - reflect.ValueOf(u.whole).Pointer()); at >= 0 && at <= len(u.whole) {
			return at
		}
	}
	return u.near
}

// unit renders a frame, a message or a fragment.
func (u *unit) unit(in Unit) {
	u.whole = in.Data
	if len(in.Data) > MaxMessage {
		u.fault = &wire.SyntaxError{Offset: MaxMessage, Field: "forwarding.length", Reason: "longer than what is read at once"}
		return
	}
	data := in.Data
	if isFrame(data) {
		frame, err := wire.ParseFrame(data)
		if err != nil {
			u.malformed(data, "", err)
			return
		}
		u.object("frame", func() {
			if frame.Type == wire.FrameAck {
				u.str("type", "ack")
				u.num("ack_sequence", uint64(frame.Sequence))
				u.hex("received", uint64(frame.Received), 4)
			} else {
				u.str("type", "data")
				u.num("sequence", uint64(frame.Sequence))
			}
		})
		if frame.Type == wire.FrameAck {
			return
		}
		if data = frame.Message; len(data) == 0 {
			u.near = len(in.Data)
		}
	}
	h, rest, err := wire.ParseHeader(data)
	if err != nil {
		u.malformed(data, "", err)
		return
	}
	if h.IsFragment() {
		u.fragment(in, &h, data, rest)
		return
	}
	u.wholeMessage(data)
}

// fragment renders one fragment, and the message if it is the one that was missing.
func (u *unit) fragment(in Unit, h *wire.Header, data, rest []byte) {
	place := &u.fragments[in.Stream%maxStreams]
	if *place == nil {
		*place = wire.NewReassembler(wire.ReassemblyLimits{
			Message: MaxMessage, Bytes: 2 * MaxMessage, SourceBytes: 2 * MaxMessage, SourceMessages: 64,
		})
	}
	whole, err := (*place).Add(in.Time, wire.NodeID{}, data)
	u.object("fragment", func() {
		u.num("offset", uint64(h.Offset()))
		u.num("length", uint64(len(rest)))
		u.boolean("last", h.LastFragment())
		u.boolean("reassembled", whole != nil)
	})
	if errors.Is(err, wire.ErrMalformed) {
		u.malformed(data, "forwarding.fragment", err)
	} else if err != nil {
		u.str("dropped", err.Error())
	}
	if whole == nil {
		u.header(h, rest)
		return
	}
	u.whole, u.near = whole, 0
	u.wholeMessage(whole)
}

// wholeMessage renders a message that is no fragment. What can be read of one whose body is malformed is shown.
func (u *unit) wholeMessage(data []byte) {
	h, rest, _ := wire.ParseHeader(data) // it was parsed before, or put together
	m, err := wire.Parse(data)
	if err != nil {
		u.malformed(data, "", err)
		u.header(&h, rest)
		return
	}
	u.message, u.idBytes = m, u.nodeIDLength(&m.Header)
	u.bucket = readCertificates(m.Security.Certificates)
	v := u.verifyMessage() // first: it must not fall to the limit that many values reach
	u.header(&m.Header, rest)
	u.contents(rest)
	u.security(v)
}
