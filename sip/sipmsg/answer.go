package sipmsg

import (
	"strconv"
	"strings"
)

// Line is what a cheap look at a request tells, before anything is parsed.
type Line struct {
	Method string
	User   string // user part of the Request-URI, not unescaped
}

// Peek reads the start line of a request. ok is false for a response and for
// what is no SIP at all.
func Peek(b []byte) (l Line, ok bool) {
	i := 0
	for i < len(b) && i < maxLine && b[i] != '\r' && b[i] != '\n' {
		i++
	}
	method, rest, ok := strings.Cut(string(b[:i]), " ")
	if !ok || !token(method) || strings.HasPrefix(method, "SIP/") {
		return Line{}, false
	}
	// The last word is the version, whatever blanks a malformed URI has: the
	// request is to be answered even so (lwsruri, RFC 4475 §3.1.2.8).
	words := strings.Fields(rest)
	if len(words) < 2 || !strings.HasPrefix(words[len(words)-1], "SIP/") {
		return Line{}, false
	}
	uri := words[0]
	_, uri, _ = strings.Cut(uri, ":")
	user, _, _ := strings.Cut(uri, "@")
	user, _, _ = strings.Cut(user, ";")
	return Line{Method: method, User: user}, true
}

// Answer builds a response to a request that is not to be parsed, or cannot be,
// from its own lines, so that no state is needed. It returns nil when the request
// cannot be answered: one of Via, From, To, Call-ID, CSeq is missing, or it is an
// ACK, which has no response. tag becomes the To tag when there is none: give
// the same for the same request (RFC 3261 §8.2.6.2 and §8.2.7). received is
// the address and port the request came from.
func Answer(b []byte, status int, reason, tag, received, port string, extra ...string) []byte {
	if l, ok := Peek(b); !ok || l.Method == "ACK" {
		return nil
	}
	r, err := split(b)
	if err != nil {
		return nil
	}
	to, via := r.get("To"), r.get("Via")
	if via == "" || r.get("From") == "" || to == "" || r.get("Call-ID") == "" || r.get("CSeq") == "" {
		return nil
	}
	var s strings.Builder
	s.WriteString("SIP/2.0 " + strconv.Itoa(status) + " " + reason + "\r\n")
	first := true
	for _, f := range r.fields {
		if f.name != "Via" {
			continue
		}
		v := f.value
		if first {
			v = viaReceived(v, received, port)
			first = false
		}
		s.WriteString("Via: " + clean(v) + "\r\n")
	}
	if status > 100 && !hasTag(to) {
		to += ";tag=" + tag
	}
	s.WriteString("From: " + clean(r.get("From")) + "\r\nTo: " + clean(to) + "\r\nCall-ID: " + clean(r.get("Call-ID")) +
		"\r\nCSeq: " + clean(r.get("CSeq")) + "\r\n")
	for _, e := range extra {
		s.WriteString(e + "\r\n")
	}
	s.WriteString("Content-Length: 0\r\n\r\n")
	return []byte(s.String())
}

// clean keeps a bare CR, LF or NUL of a malformed field out of our response.
func clean(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '\r' || c == '\n' || c == 0 {
			return ' '
		}
		return c
	}, s)
}

func hasTag(to string) bool {
	if i := strings.LastIndexByte(to, '>'); i >= 0 {
		to = to[i:]
	}
	for p := range strings.SplitSeq(to, ";") {
		k, _, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(k), "tag") {
			return true
		}
	}
	return false
}

// viaReceived adds received and rport to the first value of a Via field: RFC
// 3261 §18.2.1 and RFC 3581 §4.
func viaReceived(v, received, port string) string {
	first, rest, more := strings.Cut(v, ",")
	var out []string
	for i, p := range strings.Split(first, ";") {
		k, val, _ := strings.Cut(p, "=")
		k = strings.ToLower(strings.TrimSpace(k))
		switch {
		case i > 0 && k == "received":
			continue
		case i > 0 && k == "rport" && strings.TrimSpace(val) == "":
			p = "rport=" + port
		}
		out = append(out, p)
	}
	v = strings.Join(out, ";") + ";received=" + received
	if more {
		v += "," + rest
	}
	return v
}
