package sipmsg

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"
)

// Bounds of a message. A datagram cannot be longer; a stream is held to the same.
const (
	MaxMessage = 65_535
	MaxHeader  = 16_384 // start line and header fields together
	maxLine    = 8_192  // one header field, unfolded
	maxFields  = 192
	maxVias    = 70 // one per hop, and Max-Forwards starts with 70
)

// Fault is what is wrong with a message and how a request is to be answered.
type Fault struct {
	Status int
	Reason string
}

func (f *Fault) Error() string { return strconv.Itoa(f.Status) + " " + f.Reason }

func bad(reason string) *Fault { return &Fault{Status: 400, Reason: reason} }

// ErrIncomplete is returned by [Frame] when more bytes are needed.
var ErrIncomplete = errors.New("message is incomplete")

// ErrFraming is wrapped by errors after which a stream has no boundary to go on
// from: the connection must be closed.
var ErrFraming = errors.New("message without boundary")

// field is a header field as it came, unfolded.
type field struct{ name, value string }

// raw is a message taken apart without judging its fields.
type raw struct {
	start  string
	fields []field
	body   []byte // all that follows the empty line
}

// names maps lower-case and compact names to the names of RFC 3261 §20.
var names = map[string]string{
	"v": "Via", "via": "Via", "f": "From", "from": "From", "t": "To", "to": "To",
	"i": "Call-ID", "call-id": "Call-ID", "cseq": "CSeq", "m": "Contact", "contact": "Contact",
	"l": "Content-Length", "content-length": "Content-Length", "c": "Content-Type", "content-type": "Content-Type",
	"e": "Content-Encoding", "content-encoding": "Content-Encoding", "k": "Supported", "supported": "Supported",
	"s": "Subject", "subject": "Subject", "o": "Event", "event": "Event", "r": "Refer-To", "refer-to": "Refer-To",
	"b": "Referred-By", "referred-by": "Referred-By", "u": "Allow-Events", "allow-events": "Allow-Events",
	"max-forwards": "Max-Forwards", "route": "Route", "record-route": "Record-Route", "expires": "Expires",
	"require": "Require", "proxy-require": "Proxy-Require", "authorization": "Authorization",
	"proxy-authorization": "Proxy-Authorization", "user-agent": "User-Agent", "path": "Path",
	"p-asserted-identity": "P-Asserted-Identity", "p-preferred-identity": "P-Preferred-Identity",
	"privacy": "Privacy", "identity": "Identity", "identity-info": "Identity-Info", "min-expires": "Min-Expires",
	"x": "Session-Expires", "session-expires": "Session-Expires", "max-breadth": "Max-Breadth",
	"resource-priority": "Resource-Priority", "retry-after": "Retry-After",
}

// single are the fields that may be there once only (RFC 3261 §7.3.1 allows a
// repeat only of lists); multi01 of RFC 4475 §3.3.8 wants them refused.
var single = map[string]bool{
	"From": true, "To": true, "Call-ID": true, "CSeq": true, "Max-Forwards": true,
	"Content-Length": true, "Content-Type": true, "Expires": true, "Max-Breadth": true, "Refer-To": true,
}

// headerEnd returns the length of start line, fields and the empty line, or -1.
func headerEnd(b []byte) int {
	i := bytes.Index(b, []byte("\r\n\r\n"))
	if i < 0 {
		return -1
	}
	return i + 4
}

// split takes the message apart. It fails only when there is nothing that could
// be answered.
func split(b []byte) (raw, error) {
	end := headerEnd(b)
	if end < 0 || end > MaxHeader {
		return raw{}, fmt.Errorf("%w: no end of the header within %d bytes", ErrFraming, MaxHeader)
	}
	lines := strings.Split(string(b[:end-4]), "\r\n")
	r := raw{start: lines[0], body: b[end:]}
	for _, l := range lines[1:] {
		if l == "" {
			return raw{}, fmt.Errorf("%w: empty field", ErrFraming)
		}
		if l[0] == ' ' || l[0] == '\t' { // §7.3.1: folding is a single space
			if len(r.fields) == 0 {
				return raw{}, fmt.Errorf("%w: continuation of the start line", ErrFraming)
			}
			f := &r.fields[len(r.fields)-1]
			if len(f.value)+len(l) > maxLine {
				return raw{}, fmt.Errorf("%w: field too long", ErrFraming)
			}
			f.value = strings.TrimSpace(f.value + " " + strings.TrimSpace(l))
			continue
		}
		if len(r.fields) == maxFields || len(l) > maxLine {
			return raw{}, fmt.Errorf("%w: too many or too long fields", ErrFraming)
		}
		name, value, ok := strings.Cut(l, ":")
		name = strings.TrimRight(name, " \t")
		if !ok || !token(name) {
			// Kept, so that the message can be answered; Parse refuses it.
			r.fields = append(r.fields, field{value: l})
			continue
		}
		if full, ok := names[strings.ToLower(name)]; ok {
			name = full
		}
		r.fields = append(r.fields, field{name, strings.TrimSpace(value)})
	}
	return r, nil
}

func (r *raw) get(name string) string {
	for _, f := range r.fields {
		if f.name == name {
			return f.value
		}
	}
	return ""
}

// Frame returns the length of the first message of a stream. RFC 3261 §18.3:
// "The Content-Length header field MUST be used with stream oriented
// transports"; without it, or past the bounds, there is no going on.
func Frame(b []byte) (int, error) {
	end := headerEnd(b)
	if end < 0 {
		if len(b) > MaxHeader {
			return 0, fmt.Errorf("%w: header longer than %d bytes", ErrFraming, MaxHeader)
		}
		return 0, ErrIncomplete
	}
	r, err := split(b)
	if err != nil {
		return 0, err
	}
	n := -1
	for _, f := range r.fields {
		if f.name != "Content-Length" {
			continue
		}
		v, err := strconv.ParseUint(f.value, 10, 31)
		if err != nil || n >= 0 {
			return 0, fmt.Errorf("%w: Content-Length", ErrFraming)
		}
		n = int(v)
	}
	if n < 0 || end+n > MaxMessage {
		return 0, fmt.Errorf("%w: no or too large Content-Length", ErrFraming)
	}
	if len(b) < end+n {
		return 0, ErrIncomplete
	}
	return end + n, nil
}

// Parse checks one message and builds it. On a fault the message is nil; the
// fault says what a request is to be answered with, see [Answer]. The result
// does not refer to b.
func Parse(b []byte) (msg sip.Message, fault *Fault) {
	// sipgo's header parsers are called below. No input is known that makes them
	// panic, but one that does must not end the process.
	defer func() {
		if recover() != nil {
			msg, fault = nil, bad("Malformed Message")
		}
	}()
	if len(b) > MaxMessage {
		return nil, &Fault{513, "Message Too Large"}
	}
	r, err := split(b)
	if err != nil {
		return nil, bad("Malformed Message")
	}
	msg, fault = startLine(r.start)
	if fault != nil {
		return nil, fault
	}
	if fault = fields(msg, &r); fault != nil {
		return nil, fault
	}
	return msg, nil
}

func startLine(s string) (sip.Message, *Fault) {
	if len(s) > maxLine {
		return nil, &Fault{414, "Request-URI Too Long"}
	}
	// A bare CR or LF in it would go out again in a reason phrase or a Request-URI, and who takes either for the end
	// of a line reads a field that no kit wrote.
	if strings.ContainsAny(s, "\r\n\x00") {
		return nil, bad("Malformed Start-Line")
	}
	if strings.HasPrefix(strings.ToUpper(s), "SIP/") {
		parts := strings.SplitN(s, " ", 3)
		if len(parts) < 2 || !strings.EqualFold(parts[0], "SIP/2.0") || len(parts[1]) != 3 {
			return nil, bad("Malformed Status-Line")
		}
		code, err := strconv.ParseUint(parts[1], 10, 16)
		if err != nil || code < 100 || code > 699 {
			return nil, bad("Malformed Status-Line")
		}
		reason := ""
		if len(parts) == 3 {
			reason = parts[2]
		}
		return sip.NewResponse(int(code), reason), nil
	}
	parts := strings.Split(s, " ")
	if len(parts) != 3 || !token(parts[0]) || len(parts[0]) > 128 || parts[1] == "" {
		return nil, bad("Malformed Request-Line")
	}
	if !strings.EqualFold(parts[2], "SIP/2.0") {
		if strings.HasPrefix(strings.ToUpper(parts[2]), "SIP/") {
			return nil, &Fault{505, "Version Not Supported"}
		}
		return nil, bad("Malformed Request-Line")
	}
	uri, fault := RequestURI(parts[1])
	if fault != nil {
		return nil, fault
	}
	return sip.NewRequest(sip.RequestMethod(parts[0]), uri), nil
}

// RequestURI parses a Request-URI. RFC 3261 §16.3 step 2: 416 for a scheme that
// is not understood.
func RequestURI(s string) (sip.Uri, *Fault) {
	var uri sip.Uri
	if strings.ContainsAny(s, "<>\"\x00\t") {
		return uri, bad("Malformed Request-URI")
	}
	scheme, _, ok := strings.Cut(s, ":")
	if !ok || !token(scheme) {
		return uri, bad("Malformed Request-URI")
	}
	switch strings.ToLower(scheme) {
	case "sip", "tel":
	default:
		return uri, &Fault{416, "Unsupported URI Scheme"}
	}
	if err := sip.ParseUri(s, &uri); err != nil || uri.Wildcard {
		return uri, bad("Malformed Request-URI")
	}
	if uri.Scheme == "sip" && !validHost(uri.Host, uri.Port) {
		return uri, bad("Malformed Request-URI")
	}
	// §19.1.1: header parts are not allowed in a Request-URI (escruri, RFC 4475 §3.1.2.11).
	if len(uri.Headers) > 0 || (uri.Scheme == "sip" && strings.Contains(s[strings.LastIndexByte(s, '@')+1:], "?")) {
		return uri, bad("Header in Request-URI")
	}
	return uri, nil
}

func validHost(host string, port int) bool {
	if host == "" || len(host) > 255 || port < 0 || port > 65_535 {
		return false
	}
	for _, c := range []byte(host) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`<>"@;,?/\`, c) >= 0 {
			return false
		}
	}
	return true
}

// parsed are the fields sipgo's transactions need in their own types.
var (
	parsed     = map[string]bool{"Via": true, "From": true, "To": true, "Call-ID": true, "CSeq": true, "Max-Forwards": true}
	sipHeaders = sip.HeadersParser(sip.DefaultHeadersParser())
)

func fields(msg sip.Message, r *raw) *Fault {
	req, _ := msg.(*sip.Request)
	seen := make(map[string]int, len(r.fields))
	length := -1
	for _, f := range r.fields {
		if f.name == "" || strings.ContainsAny(f.value, "\r\n\x00") {
			return bad("Malformed Header Field")
		}
		seen[f.name]++
		if single[f.name] && seen[f.name] > 1 {
			return bad("Repeated " + f.name)
		}
		switch f.name {
		case "Content-Length":
			n, err := strconv.ParseUint(f.value, 10, 31)
			if err != nil {
				return bad("Malformed Content-Length")
			}
			length = int(n)
			continue // SetBody writes it
		case "CSeq":
			f.value = strings.Join(strings.Fields(f.value), " ")
		case "Via":
			for i, v := range Split(f.value) {
				if i >= maxVias || v == "" || appendParsed(msg, "Via", normalVia(v)) != nil {
					return bad("Malformed Via")
				}
			}
			continue
		case "From", "To":
			// sipgo cannot write a quoted parameter back as it was; nobody sends one here.
			if a, err := ParseAddress(f.value); err != nil || strings.Contains(f.value[closeAngle(f.value)+1:], `"`) || len(a.Text) > 1024 {
				return bad("Malformed " + f.name)
			}
		}
		if !parsed[f.name] {
			msg.AppendHeader(sip.NewHeader(f.name, f.value))
			continue
		}
		if err := appendParsed(msg, f.name, f.value); err != nil {
			return bad("Malformed " + f.name)
		}
	}
	for _, name := range []string{"Via", "From", "To", "Call-ID", "CSeq"} {
		// §8.1.1: "A valid SIP request … MUST, at a minimum, contain" these.
		if seen[name] == 0 {
			return bad("Missing " + name)
		}
	}
	vias := 0
	for _, h := range msg.GetHeaders("via") {
		v, ok := h.(*sip.ViaHeader)
		if vias++; !ok || vias > maxVias || v.ProtocolName != "SIP" || v.ProtocolVersion != "2.0" || !validHost(strings.Trim(v.Host, "[]"), v.Port) || !token(v.Transport) {
			return bad("Malformed Via")
		}
	}
	cseq := msg.CSeq()
	if cseq == nil || msg.From() == nil || msg.To() == nil || msg.Via() == nil || msg.CallID() == nil || !token(string(cseq.MethodName)) {
		return bad("Malformed Header Field")
	}
	if len(*msg.CallID()) > 512 {
		return bad("Call-ID Too Long")
	}
	if req != nil && cseq.MethodName != req.Method {
		return bad("CSeq Method Mismatch") // mismatch01, RFC 4475 §3.3.16
	}
	body := r.body
	if length >= 0 {
		// §18.3: bytes beyond Content-Length are discarded, too few are a 400.
		if len(body) < length {
			return bad("Content-Length Mismatch")
		}
		body = body[:length]
	}
	msg.SetBody(bytes.Clone(body))
	return nil
}

func appendParsed(msg sip.Message, name, value string) error {
	hs, err := sipHeaders.ParseHeader(nil, []byte(name+": "+value))
	if err != nil {
		return fmt.Errorf("header field %s: %w", name, err)
	}
	for _, h := range hs {
		msg.AppendHeader(h)
	}
	return nil
}

// normalVia removes the blanks RFC 3261 §25.1 allows but sipgo does not.
func normalVia(v string) string {
	head, tail, ok := strings.Cut(v, ";")
	parts := strings.SplitN(head, "/", 3)
	for i := range parts {
		parts[i] = strings.Join(strings.Fields(parts[i]), " ")
	}
	head = strings.Join(parts, "/")
	if !ok {
		return head
	}
	var out []string
	for p := range strings.SplitSeq(tail, ";") {
		k, val, has := strings.Cut(p, "=")
		if has {
			p = strings.TrimSpace(k) + "=" + strings.TrimSpace(val)
		}
		out = append(out, strings.TrimSpace(p))
	}
	return head + ";" + strings.Join(out, ";")
}

func token(s string) bool {
	if s == "" {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("-.!%*_+`'~", c) >= 0:
		default:
			return false
		}
	}
	return true
}
