//go:build linux

package emu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// VM is a machine that was started. Close must be called in the end.
type VM struct {
	Console *Console
	QMP     *QMP
	Agent   *Agent // nil without Config.Agent
	Started time.Time

	machine Machine
	cmd     *exec.Cmd
	conns   []net.Conn
	plugs   []*plug
	reading sync.WaitGroup
	ended   chan struct{}
	err     error // of the process; valid once ended is closed
	said    *tail // QEMU's own words
}

// program is QEMU for arm64.
const program = "qemu-system-aarch64"

// Start switches a machine on. It does not wait for anything.
func Start(ctx context.Context, c Config) (*VM, error) {
	if _, err := exec.LookPath(program); err != nil {
		return nil, fmt.Errorf("emulator: %w: install it with scripts/deps", err)
	}
	v := &VM{machine: c.Machine, ended: make(chan struct{}), said: &tail{}, Started: time.Now()}
	var theirs []*os.File
	closeTheirs := func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}
	// pair makes a connection and returns our end and the number of the other in QEMU.
	pair := func() (net.Conn, int, error) {
		ours, other, err := socketPair()
		if err != nil {
			return nil, 0, err
		}
		v.conns, theirs = append(v.conns, ours), append(theirs, other)
		return ours, 2 + len(theirs), nil // after standard input, output and error
	}
	fail := func(err error) (*VM, error) {
		closeTheirs()
		for _, p := range v.plugs {
			p.pull()
		}
		for _, conn := range v.conns {
			_ = conn.Close()
		}
		return nil, fmt.Errorf("machine %s: %w", c.Machine, err)
	}
	files := inherited{nics: make([]int, len(c.NICs))}
	console, n, err := pair()
	if err != nil {
		return fail(err)
	}
	files.console = n
	monitor, n, err := pair()
	if err != nil {
		return fail(err)
	}
	files.qmp = n
	var agent net.Conn
	if c.Agent {
		if agent, files.agent, err = pair(); err != nil {
			return fail(err)
		}
	}
	for i, nic := range c.NICs {
		if nic.Cable == nil {
			continue // which arguments refuses
		}
		ours, other, err := socketPair()
		if err != nil {
			return fail(err)
		}
		theirs = append(theirs, other)
		files.nics[i] = 2 + len(theirs)
		v.plugs = append(v.plugs, nic.Cable.plugIn(ours))
	}
	args, err := c.arguments(files)
	if err != nil {
		return fail(err)
	}
	v.cmd = exec.CommandContext(context.WithoutCancel(ctx), program, args...) // it ends by Close, which reads the rest of what it says
	v.cmd.ExtraFiles = theirs
	v.cmd.Stderr = v.said
	// A group of its own: Ctrl-C is for who started it. And it does not outlive who started it.
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := v.cmd.Start(); err != nil {
		return fail(err)
	}
	closeTheirs() // from now on a connection ends when QEMU does
	v.Console, v.QMP = newConsole(), newQMP(monitor)
	v.reading.Go(func() { v.Console.read(console) })
	v.reading.Go(v.QMP.read)
	if agent != nil {
		v.Agent = newAgent(agent)
		v.reading.Go(v.Agent.read)
	}
	go func() { // ends when QEMU does
		v.err = v.cmd.Wait()
		close(v.ended)
	}()
	stop := context.AfterFunc(ctx, v.PullPlug)
	go func() { <-v.ended; stop() }()
	if _, err := v.QMP.Do("qmp_capabilities", nil); err != nil {
		v.Close() // after which all that QEMU said is there
		return nil, fmt.Errorf("machine %s: %w: %s", c.Machine, err, v.said)
	}
	return v, nil
}

// PullPlug ends the machine as a power cut does: at once, in whatever it was doing.
func (v *VM) PullPlug() {
	_ = v.cmd.Process.Kill()
	<-v.ended
}

// Ended is closed when the machine is off: by a power cut, or because it switched itself off or was reset.
func (v *VM) Ended() <-chan struct{} { return v.ended }

// Wait waits until the machine is off by itself. A reset, too, ends it.
func (v *VM) Wait(ctx context.Context) error {
	select {
	case <-v.ended:
	case <-ctx.Done():
		return fmt.Errorf("machine %s: waiting for its end: %w", v.machine, ctx.Err())
	}
	if v.err != nil {
		return fmt.Errorf("machine %s: %w: %s", v.machine, v.err, v.said)
	}
	return nil
}

// Close switches the machine off, if it is on, and frees what it had.
func (v *VM) Close() {
	v.PullPlug()
	for _, p := range v.plugs {
		p.pull()
	}
	for _, c := range v.conns {
		_ = c.Close()
	}
	v.reading.Wait()
}

// SetLink pulls the cable of network card i, or puts it in. The machine sees the carrier go and come.
func (v *VM) SetLink(i int, up bool) error {
	_, err := v.QMP.Do("set_link", map[string]any{"name": fmt.Sprintf("nic%d", i), "up": up})
	return err
}

// socketPair is a connection, of which the second end is for another process.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	mine, other := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	conn, err := net.FileConn(mine)
	if err := errors.Join(err, mine.Close()); err != nil {
		_ = other.Close()
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	return conn, other, nil
}

// tail keeps the last words that are written to it.
type tail struct {
	mu sync.Mutex // leaf
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if over := len(t.b) - 4096; over > 0 {
		t.b = t.b[over:]
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}
