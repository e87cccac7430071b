package emu

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestConsoleWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConsole()
		go func() {
			c.take(time.Now(), []byte("[ 0.1] one\r\n[ 0.2] t"))
			time.Sleep(time.Second)
			c.take(time.Now(), []byte("wo\x1b[0m\n"))
		}()
		begin := time.Now()
		l, err := c.Wait(t.Context(), 0, "never", "two")
		if err != nil || l.Text != "[ 0.2] two[0m" || l.At.Sub(begin) != time.Second {
			t.Errorf("%+v %v", l, err)
		}
		if l, err := c.Wait(t.Context(), 0, "one"); err != nil || l.Text != "[ 0.1] one" {
			t.Errorf("a line from before: %+v %v", l, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.Wait(ctx, c.Mark(), "one"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a line from before the mark: %v", err)
		}
		c.take(time.Now(), []byte("last words"))
		c.end(time.Now())
		if l, err := c.Wait(t.Context(), 0, "last"); err != nil || l.Text != "last words" {
			t.Errorf("a line without an end: %+v %v", l, err)
		}
		if _, err := c.Wait(t.Context(), 0, "never"); err == nil || !strings.Contains(err.Error(), "ended") {
			t.Errorf("an ended machine: %v", err)
		}
	})
}

func TestConsoleIsBounded(t *testing.T) {
	c := newConsole()
	for i := range maxLines + 10 {
		c.take(time.Now(), fmt.Appendf(nil, "line %d\n", i))
	}
	mark := c.Mark()
	c.take(time.Now(), []byte(strings.Repeat("x", 3*maxLine)))
	lines := c.Lines()
	if len(lines) != maxLines || lines[0].Text != "line 11" || mark != maxLines+10 {
		t.Errorf("%d lines from %q, mark %d", len(lines), lines[0].Text, mark)
	}
	if l, err := c.Wait(t.Context(), mark, "x"); err != nil || len(l.Text) != maxLine {
		t.Errorf("a line of %d bytes, %v", len(l.Text), err)
	}
	if from, first := c.From(mark); len(from) != 1 || first != mark {
		t.Errorf("%d lines from %d", len(from), first)
	}
	if from, first := c.From(0); len(from) != maxLines || first != 11 {
		t.Errorf("%d lines from %d", len(from), first)
	}
	if tail := c.Tail(2); strings.Count(tail, "\n") != 2 || !strings.Contains(tail, fmt.Sprintf("line %d\n", maxLines+9)) {
		t.Errorf("tail %.80q", tail)
	}
}
