package decode

import (
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"fieldkit/overlay/wire"
)

func TestLines(t *testing.T) {
	input := "# a comment\n\n  \t\r\nd2454c4f\n0xD2454C4F\r\n d2:45:4c:4f \nd2 45\t4c 4f\n#d2\nabc\nd2zz\n" +
		strings.Repeat("0", maxLine+1) + "\nff"
	lines := NewLines(strings.NewReader(input))
	for _, want := range []struct {
		line   int
		hex    string
		reason string
	}{
		{4, "d2454c4f", ""}, {5, "d2454c4f", ""}, {6, "d2454c4f", ""}, {7, "d2454c4f", ""},
		{9, "", "half a byte"}, {10, "", `'z' is no hex digit`}, {11, "", "more than"}, {12, "ff", ""},
	} {
		got, err := lines.Next()
		s := new(wire.SyntaxError)
		if want.reason != "" {
			if !errors.As(err, &s) || !strings.Contains(s.Reason, want.reason) {
				t.Errorf("line %d: %v, want %q", want.line, err, want.reason)
			}
		} else if err != nil || hex.EncodeToString(got) != want.hex {
			t.Errorf("line %d: %x, %v", want.line, got, err)
		}
		if lines.Number() != want.line {
			t.Errorf("line %d has the number %d", want.line, lines.Number())
		}
	}
	if got, err := lines.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("%x, %v", got, err)
	}
	broken := NewLines(io.MultiReader(strings.NewReader("d2\n"), failing{}))
	if _, err := broken.Next(); err != nil {
		t.Error(err)
	}
	if _, err := broken.Next(); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }
