package decode

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"fieldkit/overlay/wire"
)

// maxLine bounds a line in characters: two digits and a separator for each byte of the largest message, and then some.
const maxLine = 4 * MaxMessage

// Lines reads messages in hex, one a line. Blanks, colons and a leading 0x do not matter; empty lines and lines that begin
// with # are passed over.
type Lines struct {
	r      *bufio.Reader
	number int
	buf    []byte
}

// NewLines makes a Lines that reads from r.
func NewLines(r io.Reader) *Lines { return &Lines{r: bufio.NewReaderSize(r, 1<<16)} }

// Number is the number of the line that Next returned, counted from 1.
func (l *Lines) Number() int { return l.number }

// Next returns the bytes of the next message; they are good until the next call. The error is a *wire.SyntaxError for a
// line that is no hex, after which reading goes on, and io.EOF at the end.
func (l *Lines) Next() ([]byte, error) {
	for {
		line, err := l.line()
		if err != nil {
			return nil, err
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		return unhex(line)
	}
}

// line returns one line without its end, and a *wire.SyntaxError for one that is too long.
func (l *Lines) line() ([]byte, error) {
	l.buf = l.buf[:0]
	tooLong := false
	for {
		part, err := l.r.ReadSlice('\n')
		if tooLong = tooLong || len(l.buf)+len(part) > maxLine; !tooLong {
			l.buf = append(l.buf, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case err != nil && len(l.buf) == 0 && !tooLong:
			return nil, io.EOF
		}
		l.number++
		if tooLong {
			return nil, &wire.SyntaxError{Offset: MaxMessage, Field: "line", Reason: fmt.Sprintf("more than %d characters", maxLine)}
		}
		return l.buf, nil
	}
}

// unhex decodes in place.
func unhex(line []byte) ([]byte, error) {
	if len(line) > 1 && line[0] == '0' && (line[1] == 'x' || line[1] == 'X') {
		line = line[2:]
	}
	digits := line[:0]
	for _, c := range line {
		switch {
		case c == ' ' || c == '\t' || c == ':':
		case '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F':
			digits = append(digits, c)
		default:
			return nil, &wire.SyntaxError{Offset: len(digits) / 2, Field: "line", Reason: fmt.Sprintf("%q is no hex digit", c)}
		}
	}
	if len(digits)%2 != 0 {
		return nil, &wire.SyntaxError{Offset: len(digits) / 2, Field: "line", Reason: "half a byte"}
	}
	n, err := hex.Decode(digits, digits)
	return digits[:n], err
}
