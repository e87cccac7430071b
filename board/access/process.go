package access

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Bounds of what is read of a process and how long it may take to end.
const (
	maxLine   = 512 // bytes
	keptLines = 4
	endWait   = 2 * time.Second
)

// process is hostapd as a child: a process group of its own, which ends when its context does and when this process
// does, however that ends. An access point that nobody watches would draw handsets to a kit that does not serve them.
type process struct {
	done chan struct{}
	err  error // once done is closed: how it ended and what it said last
}

// start runs a program; its output goes to log line by line.
func start(ctx context.Context, log *slog.Logger, program string, args ...string) *process {
	p := &process{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		// The kernel ends the child when the thread that made it ends, so that thread has to stay for as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		p.err = run(ctx, log, program, args)
	}()
	return p
}

func run(ctx context.Context, log *slog.Logger, program string, args []string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	group := func(s syscall.Signal) error {
		if err := syscall.Kill(-cmd.Process.Pid, s); errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		} else if err != nil {
			return err
		}
		return nil
	}
	cmd.Cancel = func() error { return group(syscall.SIGTERM) }
	cmd.WaitDelay = endWait
	said := &tail{log: log}
	pr, pw := io.Pipe()
	cmd.Stdout, cmd.Stderr = pw, pw
	var reading sync.WaitGroup
	reading.Go(func() { said.read(pr) })
	err := cmd.Start()
	if err == nil {
		err = cmd.Wait()
		_ = group(syscall.SIGKILL) // whatever it left behind
	}
	_ = pw.Close()
	reading.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = errors.New("it ended")
	}
	if last := said.String(); last != "" {
		return fmt.Errorf("%w: %s", err, last)
	}
	return err
}

// eventLine is a line that tells what happens to an interface or a handset, and not why hostapd cannot go on.
var eventLine = regexp.MustCompile(`^(\S+: (AP|CTRL-EVENT|INTERFACE|EAPOL|STA|IEEE|interface state)\b|CTRL_IFACE monitor)`)

// tail keeps the last lines that a program said, besides events.
type tail struct {
	log   *slog.Logger
	lines []string
}

func (t *tail) read(r io.Reader) {
	b := bufio.NewReaderSize(r, maxLine)
	for {
		line, more, err := b.ReadLine()
		if err != nil {
			return
		}
		text := strings.ToValidUTF8(strings.TrimSpace(string(line)), "?")
		for more && err == nil { // the rest of a line that is too long
			_, more, err = b.ReadLine()
		}
		if text == "" {
			continue
		}
		t.log.Debug("hostapd", "says", text)
		if eventLine.MatchString(text) {
			continue
		}
		t.lines = append(t.lines, text)
		if len(t.lines) > keptLines {
			t.lines = t.lines[1:]
		}
	}
}

func (t *tail) String() string { return strings.Join(t.lines, "; ") }
