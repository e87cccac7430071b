//go:build linux

package emu

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fieldkit/firmware/emu/guest"
)

// connected is an Agent whose other end runs in this process.
func connected(t *testing.T) *Agent {
	t.Helper()
	ours, theirs := net.Pipe()
	a := newAgent(ours)
	served, readAll := make(chan error, 1), make(chan struct{})
	go func() { served <- guest.NewServer(theirs).Serve() }()
	go func() { a.read(); close(readAll) }()
	t.Cleanup(func() {
		_ = ours.Close()
		<-readAll
		if err := <-served; err != nil {
			t.Errorf("served: %v", err)
		}
	})
	if up, err := a.Up(t.Context()); err != nil || up <= 0 {
		t.Fatalf("up after %v: %v", up, err)
	}
	return a
}

func TestAgentRunsPrograms(t *testing.T) {
	a := connected(t)
	out, err := a.Run(t.Context(), Place{Env: []string{"WORD=said"}}, "/bin/sh", "-c", `echo "$WORD"; echo more >&2`)
	if err != nil || out != "said\nmore\n" {
		t.Errorf("%q %v", out, err)
	}
	var exit *ExitError
	if _, err := a.Run(t.Context(), Place{}, "/bin/sh", "-c", "echo no; exit 3"); !errors.As(err, &exit) || exit.Code != 3 || exit.Output != "no\n" {
		t.Errorf("status: %v", err)
	}
	if _, err := a.Run(t.Context(), Place{}, "/does/not/exist"); err == nil || errors.As(err, &exit) {
		t.Errorf("no program: %v", err)
	}
	if _, err := a.Run(t.Context(), Place{Netns: "/does/not/exist"}, "/bin/true"); err == nil {
		t.Error("no namespace, no error")
	}
}

func TestAgentTalksToPrograms(t *testing.T) {
	a := connected(t)
	p, err := a.Begin(t.Context(), Place{}, "/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Input(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if l, err := p.Output().Wait(t.Context(), 0, "one"); err != nil || l.Text != "one" {
		t.Errorf("%+v %v", l, err)
	}
	if err := p.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Output().Wait(t.Context(), 0, "never"); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("a program that was killed: %v", err)
	}
	if err := p.Input(t.Context(), "two"); err == nil {
		t.Error("input of a program that ended")
	}
}

func TestAgentReadsAndWrites(t *testing.T) {
	a := connected(t)
	name := filepath.Join(t.TempDir(), "dir", "file")
	if err := a.Write(t.Context(), name, []byte("content\n\x00")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "content\n\x00" {
		t.Errorf("%q %v", b, err)
	}
	if b, err := a.Read(t.Context(), name); err != nil || string(b) != "content\n\x00" {
		t.Errorf("%q %v", b, err)
	}
	if _, err := a.Read(t.Context(), name+".no"); err == nil {
		t.Error("read what is not there")
	}
}
