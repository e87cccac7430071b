package emu

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Bounds of what a console keeps. A machine that prints for hours loses its oldest lines, never its newest.
const (
	maxLines = 4096
	maxLine  = 4096
)

// Line is one line of a serial console.
type Line struct {
	At   time.Time // when its last byte arrived
	Text string    // without the line's end and without control characters
}

// Console keeps what a machine printed and lets others wait for a line. Its methods may be called from any goroutine.
type Console struct {
	mu      sync.Mutex // leaf; guards what follows
	lines   []Line
	dropped int           // lines that are not kept any more
	partial []byte        // of the line that has not ended
	closed  bool          // nothing more will come
	changed chan struct{} // closed and replaced with each line
}

func newConsole() *Console { return &Console{changed: make(chan struct{})} }

// read takes what r gives until it ends.
func (c *Console) read(r io.Reader) {
	b := make([]byte, 16<<10)
	for {
		n, err := r.Read(b)
		c.take(time.Now(), b[:n])
		if err != nil {
			c.end(time.Now())
			return
		}
	}
}

func (c *Console) take(now time.Time, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			c.partial = append(c.partial, b...)
			if len(c.partial) > maxLine {
				c.add(now)
			}
			return
		}
		c.partial = append(c.partial, b[:i]...)
		b = b[i+1:]
		c.add(now)
	}
}

// add ends the partial line. The caller holds the lock.
func (c *Console) add(now time.Time) {
	text := strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(c.partial[:min(len(c.partial), maxLine)]), "?"))
	c.partial = c.partial[:0]
	if len(c.lines) == maxLines {
		c.lines = c.lines[1:]
		c.dropped++
	}
	c.lines = append(c.lines, Line{At: now, Text: text})
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Console) end(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.partial) > 0 {
		c.add(now)
	}
	c.closed = true
	close(c.changed)
	c.changed = make(chan struct{})
}

// Lines are those that are kept, the oldest first.
func (c *Console) Lines() []Line {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Line(nil), c.lines...)
}

// From are the lines at or after a Mark that are kept, and the Mark of the first of them.
func (c *Console) From(mark int) ([]Line, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := min(max(mark, c.dropped), c.dropped+len(c.lines))
	return append([]Line(nil), c.lines[first-c.dropped:]...), first
}

// Mark is a place in what was printed: after the last line so far. Lines before a Mark are not waited for.
func (c *Console) Mark() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped + len(c.lines)
}

// Wait returns the first line at or after from (0 is everything that is kept) that contains one of the texts. It fails
// with ctx, or when the machine has ended.
func (c *Console) Wait(ctx context.Context, from int, texts ...string) (Line, error) {
	for {
		c.mu.Lock()
		lines, closed, changed := c.lines, c.closed, c.changed
		next := max(from-c.dropped, 0)
		from = c.dropped + len(c.lines)
		c.mu.Unlock()
		for i := next; i < len(lines); i++ {
			for _, text := range texts {
				if strings.Contains(lines[i].Text, text) {
					return lines[i], nil
				}
			}
		}
		if closed {
			return Line{}, fmt.Errorf("console: the machine ended without printing %q", texts)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Line{}, fmt.Errorf("console: waiting for %q: %w", texts, ctx.Err())
		}
	}
}

// Tail is what was printed last, for a test that failed: at most n lines, each with the seconds since the first one
// that is kept.
func (c *Console) Tail(n int) string {
	lines := c.Lines()
	var b strings.Builder
	for i := max(0, len(lines)-n); i < len(lines); i++ {
		fmt.Fprintf(&b, "%7.2f %s\n", lines[i].At.Sub(lines[0].At).Seconds(), lines[i].Text)
	}
	return b.String()
}
