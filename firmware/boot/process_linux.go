package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// processes starts the children of PID 1 and takes the ends of all processes, its own and those that lost their
// parent. It is the only one that waits: os/exec would wait for a child that was reaped already.
type processes struct {
	strangers map[int]bool // orphans that were there before

	mu       sync.Mutex // held over fork and entry into the table, so that no end is taken before
	children map[int]chan syscall.WaitStatus
}

func newProcesses() *processes {
	p := &processes{strangers: map[int]bool{}, children: map[int]chan syscall.WaitStatus{}}
	for _, pid := range childrenOf(os.Getpid()) {
		p.strangers[pid] = true
	}
	return p
}

// start starts a program; its end is sent on the channel.
func (p *processes) start(argv0 string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pid, err := syscall.ForkExec(argv0, argv, attr)
	if err != nil {
		return 0, nil, &os.PathError{Op: "start", Path: argv0, Err: err}
	}
	end := make(chan syscall.WaitStatus, 1)
	p.children[pid] = end
	return pid, end, nil
}

// reap takes the ends of all processes that ended. It is called after each SIGCHLD; signals fold into one.
func (p *processes) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if end, ours := p.children[pid]; ours {
			delete(p.children, pid)
			end <- status
		}
	}
}

// ours tells whether a process is one that start started and that lives.
func (p *processes) ours(pid int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.children[pid]
	return ok
}

// killOrphans ends what the daemon left behind: processes whose parent is PID 1 and that it neither started nor found.
func (p *processes) killOrphans() (killed int) {
	for _, pid := range childrenOf(os.Getpid()) {
		if !p.strangers[pid] && !p.ours(pid) && unix.Kill(pid, unix.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}

func childrenOf(parent int) (r []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if pid, of, ok := parentOf(e.Name()); ok && of == parent {
			r = append(r, pid)
		}
	}
	return r
}

// parentOf reads who started a process; ok is false for what is none.
func parentOf(name string) (pid, parent int, ok bool) {
	if _, err := fmt.Sscan(name, &pid); err != nil {
		return 0, 0, false
	}
	b, err := os.ReadFile("/proc/" + name + "/stat")
	if err != nil {
		return 0, 0, false
	}
	// The name of the program is in brackets and may have some itself.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, 0, false
	}
	var state string
	_, err = fmt.Sscan(string(b[i+1:]), &state, &parent)
	return pid, parent, err == nil
}

// maxToolOutput bounds what is kept of a tool's output.
const maxToolOutput = 8 << 10

// run runs a tool to its end and returns its exit status and the end of what it said.
func (p *processes) run(ctx context.Context, argv ...string) (status int, output string, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return -1, "", fmt.Errorf("%s: %w", argv[0], err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return -1, "", errors.Join(err, r.Close(), w.Close())
	}
	pid, end, err := p.start(argv[0], argv, &syscall.ProcAttr{
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}, Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
	})
	err = errors.Join(err, null.Close(), w.Close())
	if err != nil {
		return -1, "", errors.Join(err, r.Close())
	}
	said := make(chan string, 1)
	go func() {
		var tail ring
		_, _ = io.Copy(&tail, r)
		b := tail.bytes()
		said <- strings.TrimSpace(string(b[max(0, len(b)-maxToolOutput):]))
	}()
	var s syscall.WaitStatus
	select {
	case s = <-end:
	case <-ctx.Done():
		_ = unix.Kill(pid, unix.SIGKILL)
		s = <-end
		err = fmt.Errorf("%s: %w", argv[0], context.Cause(ctx))
	}
	// Who inherited its output may live on.
	select {
	case output = <-said:
	case <-time.After(time.Second):
	}
	err = errors.Join(err, r.Close())
	if err == nil && !s.Exited() {
		err = fmt.Errorf("%s: %v", argv[0], s.Signal())
	}
	return s.ExitStatus(), output, err
}

// describe says how a process ended.
func describe(s syscall.WaitStatus) string {
	switch {
	case s.Signaled():
		return "ended by the signal " + s.Signal().String()
	case s.ExitStatus() == 0:
		return "ended by itself"
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}
