package main

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"fieldkit/firmware/image"
)

func TestConfirmWantsTheWholeWord(t *testing.T) {
	for answer, want := range map[string]error{"yes\n": nil, " yes \r\n": nil, "y\n": errNotConfirmed, "\n": errNotConfirmed, "no\n": errNotConfirmed, "yes": errNotConfirmed, "": errNotConfirmed} {
		if err := confirm(strings.NewReader(answer), io.Discard); !errors.Is(err, want) {
			t.Errorf("%q: %v: want %v", answer, err, want)
		}
	}
}

func progress(redraw bool) string {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var out strings.Builder
	p := &progressLine{w: &out, redraw: redraw, now: func() time.Time { return now }}
	const total = 200 << 20
	for _, what := range []string{image.Writing, image.Verifying} {
		for done := int64(1 << 20); done <= total; done += 1 << 20 {
			now = now.Add(50 * time.Millisecond)
			p.show(what, done, total)
		}
	}
	p.end()
	return out.String()
}

func TestProgressOnATerminalIsOneLineEach(t *testing.T) {
	s := progress(true)
	if strings.Count(s, "\n") != 2 || strings.Count(s, "\r") > 202 {
		t.Errorf("%d lines, drawn %d times", strings.Count(s, "\n"), strings.Count(s, "\r"))
	}
	for _, want := range []string{"writing   [", "[##############################] 100 %", "verifying [", " 50 %", "21.1 MB/s", "s left"} {
		if !strings.Contains(s, want) {
			t.Errorf("nothing of %q: it ends with %q", want, s[len(s)-200:])
		}
	}
}

func TestProgressInALogIsALineInTenPercent(t *testing.T) {
	s := progress(false)
	if n := strings.Count(s, "\n"); n < 20 || n > 22 || strings.Contains(s, "\r") {
		t.Errorf("%d lines:\n%s", n, s)
	}
	if !strings.Contains(s, "verifying 100 %   21.1 MB/s\n") {
		t.Errorf("no end:\n%s", s)
	}
}
