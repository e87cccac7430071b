package decode

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// printer appends JSON. Members have a name; elements of a list have "" for one.
type printer struct {
	b     []byte
	comma bool // something precedes in the object or list
}

func (p *printer) name(name string) {
	if p.comma {
		p.b = append(p.b, ',')
	}
	p.comma = true
	if name != "" {
		p.b = append(p.b, '"')
		p.b = append(p.b, name...)
		p.b = append(p.b, '"', ':')
	}
}

// object appends the members that fill appends.
func (p *printer) object(name string, fill func()) { p.nest(name, '{', '}', fill) }

// list appends the n elements that element appends.
func (p *printer) list(name string, n int, element func(int)) {
	p.nest(name, '[', ']', func() {
		for i := range n {
			element(i)
		}
	})
}

func (p *printer) nest(name string, begin, end byte, fill func()) {
	p.name(name)
	p.b = append(p.b, begin)
	p.comma = false
	fill()
	p.b = append(p.b, end)
	p.comma = true
}

func (p *printer) num(name string, v uint64) {
	p.name(name)
	p.b = strconv.AppendUint(p.b, v, 10)
}

func (p *printer) boolean(name string, v bool) {
	p.name(name)
	p.b = strconv.AppendBool(p.b, v)
}

// str appends text. What a terminal would obey rather than show is escaped: much of it is a stranger's.
func (p *printer) str(name, v string) {
	p.name(name)
	p.b = append(p.b, '"')
	for _, r := range v {
		switch {
		case r == '"' || r == '\\':
			p.b = append(p.b, '\\', byte(r))
		case r == '\n':
			p.b = append(p.b, `\n`...)
		case unicode.IsPrint(r):
			p.b = utf8.AppendRune(p.b, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			p.b = fmt.Appendf(p.b, `\u%04x\u%04x`, high, low)
		default:
			p.b = fmt.Appendf(p.b, `\u%04x`, r)
		}
	}
	p.b = append(p.b, '"')
}

// opaque appends bytes in hex.
func (p *printer) opaque(name string, v []byte) {
	p.name(name)
	p.b = append(p.b, '"')
	p.b = hex.AppendEncode(p.b, v)
	p.b = append(p.b, '"')
}

// text appends bytes that should be text: as such, and as {"opaque": hex} when they are no UTF-8.
func (p *printer) text(name string, v []byte) {
	if utf8.Valid(v) {
		p.str(name, string(v))
		return
	}
	p.object(name, func() { p.opaque("opaque", v) })
}

// hex appends a number that is a name rather than a quantity: "0x" and digits for bytes bytes.
func (p *printer) hex(name string, v uint64, bytes int) {
	p.name(name)
	p.b = append(p.b, `"0x`...)
	for i := 2*bytes - 1; i >= 0; i-- {
		p.b = append(p.b, "0123456789abcdef"[v>>(4*i)&0xf])
	}
	p.b = append(p.b, '"')
}

// named appends the name of a number, or the number when it has none.
func (p *printer) named(key string, v uint64, names map[uint64]string) {
	if s, ok := names[v]; ok {
		p.str(key, s)
		return
	}
	p.num(key, v)
}
