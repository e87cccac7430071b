package sipmsg

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"
)

// ErrAddress is wrapped by errors about an address value.
var ErrAddress = errors.New("malformed address")

// Address is a name-addr or addr-spec with its parameters. URI is the text as
// it came.
type Address struct {
	Text   string
	URI    sip.Uri
	Params map[string]string // lower-case names; values without quotes
}

// Split cuts a header field value at its commas, not those in quotes or angle
// brackets.
func Split(v string) []string {
	var out []string
	start, quoted, angle := 0, false, false
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '<':
			angle = true
		case c == '>':
			angle = false
		case c == ',' && !angle:
			out = append(out, strings.TrimSpace(v[start:i]))
			start = i + 1
		}
	}
	return append(out, strings.TrimSpace(v[start:]))
}

// Values returns all values of a list header field, in order.
func Values(m sip.Message, name string) []string {
	var out []string
	for _, h := range m.GetHeaders(name) {
		for _, v := range Split(h.Value()) {
			if v != "" {
				out = append(out, v)
			}
		}
	}
	return out
}

// Value returns the whole value of the first header field of that name.
func Value(m sip.Message, name string) string {
	if hs := m.GetHeaders(name); len(hs) > 0 {
		return hs[0].Value()
	}
	return ""
}

// ParseAddress parses one value of Contact, Route and the like.
func ParseAddress(v string) (a Address, err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("%w: %q", ErrAddress, v)
		}
	}()
	a.Params = make(map[string]string)
	var text, params string
	if i := openAngle(v); i >= 0 {
		j := strings.IndexByte(v[i:], '>')
		if j < 0 {
			return a, fmt.Errorf("%w: no closing bracket", ErrAddress)
		}
		text, params = v[i+1:i+j], v[i+j+1:]
	} else {
		// §20.10: without brackets, what follows a semicolon belongs to the field.
		text, params, _ = strings.Cut(v, ";")
		if strings.Contains(text, "?") {
			return a, fmt.Errorf("%w: headers without brackets", ErrAddress) // regbadct, RFC 4475 §3.3.13
		}
	}
	a.Text = strings.TrimSpace(text)
	for _, p := range splitParams(params) {
		k, val, _ := strings.Cut(p, "=")
		if k = strings.ToLower(strings.TrimSpace(k)); k != "" {
			a.Params[k] = strings.Trim(strings.TrimSpace(val), `"`)
		}
	}
	if scheme, _, ok := strings.Cut(a.Text, ":"); !ok || !token(scheme) || strings.ContainsFunc(a.Text, func(c rune) bool {
		return c <= ' ' || c == 0x7f || c == '<' || c == '>' || c == '"'
	}) {
		return a, fmt.Errorf("%w: %q", ErrAddress, a.Text)
	}
	if err := sip.ParseUri(a.Text, &a.URI); err != nil || a.URI.Wildcard {
		return a, fmt.Errorf("%w: %q", ErrAddress, a.Text)
	}
	if a.URI.Scheme != "sip" && a.URI.Scheme != "sips" && a.URI.Raw() == "" {
		return a, fmt.Errorf("%w: %q", ErrAddress, a.Text)
	}
	if a.URI.Scheme == "sip" && !validHost(a.URI.Host, a.URI.Port) {
		return a, fmt.Errorf("%w: host of %q", ErrAddress, a.Text)
	}
	return a, nil
}

// closeAngle is where the parameters of the field begin.
func closeAngle(v string) int {
	if i := openAngle(v); i >= 0 {
		return i + max(strings.IndexByte(v[i:], '>'), 0)
	}
	return -1
}

func openAngle(v string) int {
	quoted := false
	for i := 0; i < len(v); i++ {
		switch c := v[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == '<' && !quoted:
			return i
		}
	}
	return -1
}

func splitParams(s string) []string {
	var out []string
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ';' && !quoted:
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:])
}

// Param returns a parameter; names are compared without regard to case (RFC
// 3261 §7.3.1).
func Param(ps sip.HeaderParams, name string) (string, bool) {
	for _, p := range ps {
		if strings.EqualFold(p.K, name) {
			return p.V, true
		}
	}
	return "", false
}

// User returns the user part of a sip or tel URI, unescaped (RFC 3261 §19.1.4:
// "characters other than those in the reserved set are equivalent to their
// %-encoded form") and without the parameters and visual separators of a
// telephone number.
func User(u *sip.Uri) string {
	user := u.User
	tel := u.Scheme == "tel"
	if tel {
		user = u.Raw()
	}
	if v, ok := Param(u.UriParams, "user"); tel || (ok && strings.EqualFold(v, "phone")) {
		user, _, _ = strings.Cut(user, ";")
		if strings.Trim(user, "+0123456789-.()") == "" {
			user = strings.NewReplacer("-", "", ".", "", "(", "", ")", "").Replace(user)
		}
	}
	return Unescape(user)
}

// Unescape decodes %-encoded bytes; a malformed one stays as it is.
func Unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Key normalises a URI such that URIs that are equal by RFC 3261 §19.1.4 have
// the same key: host without regard to case, parameters ordered.
func Key(u *sip.Uri) string {
	if u.Raw() != "" {
		return u.Scheme + ":" + u.Raw()
	}
	var ps []string
	for _, p := range u.UriParams {
		ps = append(ps, strings.ToLower(p.K)+"="+strings.ToLower(Unescape(p.V)))
	}
	slices.Sort(ps)
	key := u.Scheme + ":" + Unescape(u.User) + ":" + u.Password + "@" + strings.ToLower(u.Host)
	if u.Port > 0 { // a URI with the default port written out is not equal to one without
		key += ":" + strconv.Itoa(u.Port)
	}
	return key + ";" + strings.Join(ps, ";")
}
