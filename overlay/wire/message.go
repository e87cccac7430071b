package wire

import (
	"fmt"
	"strconv"
)

// Types of message extensions (RFC 6940 §14.14).
const (
	ExtensionDiagnosticPing uint16 = 0x2 // RFC 7851 §4.2.1: DiagnosticsRequest in a PingReq, DiagnosticsResponse in its answer
	ExtensionSelfTuning     uint16 = 0x3 // RFC 7363 §9.1: SelfTuningData in a Probe and its answer
)

// Extension is a MessageExtension (RFC 6940 §6.3.3). Data is at most 2^32-1 bytes.
type Extension struct {
	Type     uint16
	Critical bool // a receiver that does not know the type must refuse the message
	Data     []byte
}

// Message is one whole RELOAD message: forwarding header, message contents, security block.
// Body is the body of the message of that Code, still encoded.
type Message struct {
	Header
	Code       MessageCode
	Body       []byte
	Extensions []Extension
	Security   SecurityBlock
}

// Parse reads one whole message; b must hold nothing else. A fragment is refused: it goes through a
// Reassembler. The error is ErrMalformed, and ErrVersion for a message of another RELOAD version.
func Parse(b []byte) (*Message, error) {
	m := new(Message)
	r := newReader(b)
	r.header(&m.Header, len(b))
	switch {
	case r.err != nil:
		return nil, r.err
	case m.Version != Version:
		return nil, &SyntaxError{
			Offset: versionAt, Field: "forwarding.version", cause: ErrVersion,
			Reason: fmt.Sprintf("version %d.%d", m.Version/10, m.Version%10),
		}
	case m.IsFragment():
		return nil, &SyntaxError{Offset: fragmentAt, Field: "forwarding.fragment", Reason: "fragment in the place of a message"}
	}
	r.contents(m)
	r.securityBlock(&m.Security)
	return finish(&r, m, "")
}

func (r *reader) contents(m *Message) {
	defer r.scope(r.ok(), "message_contents")
	m.Code = MessageCode(r.u16("message_code"))
	if r.ok() && m.Code == 0 {
		r.refuse(2, "message_code", "code 0")
	}
	m.Body = r.opaque(4, "message_body")
	v := r.vector(4, "extensions")
	for v.more() {
		if len(m.Extensions) == MaxExtensions {
			v.fail(v.at(), "", "more than "+strconv.Itoa(MaxExtensions)+" extensions")
			break
		}
		m.Extensions = append(m.Extensions, Extension{
			Type: v.u16("type"), Critical: v.boolean("critical"), Data: v.opaque(4, "extension_contents"),
		})
	}
	r.join(&v, "extensions")
}

// AppendBinary appends the whole message. Header.Length is computed, not taken. The header's Fragment
// must be that of a whole message.
func (m *Message) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	if m.IsFragment() {
		w.fail("message whose header is a fragment's")
	}
	w.header(&m.Header)
	w.contents(m)
	w.securityBlock(&m.Security)
	w.length(len(b), 0)
	return w.end(b, "message")
}

// AppendContents appends the MessageContents: code, body and extensions, as they are signed
// (RFC 6940 §6.3.4).
func (m *Message) AppendContents(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.contents(m)
	return w.end(b, "message contents")
}

func (w *writer) contents(m *Message) {
	if m.Code == 0 {
		w.fail("message_code 0")
	}
	if len(m.Extensions) > MaxExtensions {
		w.fail("too many extensions")
	}
	w.u16(uint16(m.Code))
	w.opaque(4, m.Body, "message_body")
	at := w.open(4)
	for i := range m.Extensions {
		w.u16(m.Extensions[i].Type)
		w.boolean(m.Extensions[i].Critical)
		w.opaque(4, m.Extensions[i].Data, "extension")
	}
	w.close(at, 4, "extensions")
}

// Extension returns the first extension of a type, or nil.
func (m *Message) Extension(typ uint16) *Extension {
	for i := range m.Extensions {
		if m.Extensions[i].Type == typ {
			return &m.Extensions[i]
		}
	}
	return nil
}
