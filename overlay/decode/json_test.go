package decode

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestText: any text is valid JSON, says what it said, and does nothing to a terminal.
func TestText(t *testing.T) {
	for _, s := range []string{
		"", "plain", `"quoted" \ back`, "line\nfeed\r\t\x00\x1b[2J\x7f", "<a>&amp;</a>", "ümläut € 😀", "\u009b2J", "\u202egnirts", "\u2028", "\U000e0001",
	} {
		var p printer
		p.str("", s)
		var back string
		if err := json.Unmarshal(p.b, &back); err != nil || back != s {
			t.Errorf("%q as %s: %q, %v", s, p.b, back, err)
		}
		if i := strings.IndexAny(string(p.b), "\x1b\x7f\u009b\u202e\n\r\u2028"); i >= 0 {
			t.Errorf("%q as %s", s, p.b)
		}
	}
	var p printer
	p.text("", []byte("\xff"))
	if string(p.b) != `{"opaque":"ff"}` {
		t.Errorf("%s", p.b)
	}
	for r := rune(0); r <= utf8.MaxRune; r += 7 {
		if !utf8.ValidRune(r) {
			continue
		}
		var p printer
		p.str("", string(r))
		if !json.Valid(p.b) {
			t.Fatalf("%U as %s", r, p.b)
		}
	}
}
