package emu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"fieldkit/firmware/emu/guest"
)

// agentProgram is where the agent has to be in a Payload.
const agentProgram = guest.Program

// Agent is the hand inside a machine that was started with Config.Agent and with the agent in its initrd. Its methods
// may be called from any goroutine.
type Agent struct {
	line io.ReadWriter

	mu      sync.Mutex // leaf; guards what follows
	lastID  int
	waiting map[int]chan guest.Answer
	procs   map[int]*Process
	hello   float64       // uptime of the kernel when the agent came up
	up      chan struct{} // closed when it did
	ended   bool
}

func newAgent(line io.ReadWriter) *Agent {
	return &Agent{line: line, waiting: make(map[int]chan guest.Answer), procs: make(map[int]*Process), up: make(chan struct{})}
}

func (a *Agent) read() {
	lines := bufio.NewScanner(a.line)
	lines.Buffer(nil, guest.MaxMessage)
	for lines.Scan() {
		var m guest.Answer
		if json.Unmarshal(lines.Bytes(), &m) == nil {
			a.take(m)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	for id, c := range a.waiting {
		delete(a.waiting, id)
		close(c)
	}
	for _, p := range a.procs {
		p.out.end(time.Now())
	}
}

func (a *Agent) take(m guest.Answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch m.Kind {
	case guest.Hello:
		select {
		case <-a.up:
		default:
			a.hello = m.Uptime
			close(a.up)
		}
	case guest.Done:
		if c := a.waiting[m.ID]; c != nil {
			delete(a.waiting, m.ID)
			c <- m
		}
	case guest.Output:
		if p := a.procs[m.ID]; p != nil {
			p.out.take(time.Now(), append(m.Data, '\n'))
		}
	case guest.Exit:
		if p := a.procs[m.ID]; p != nil {
			p.out.end(time.Now())
		}
	}
}

// Up waits until the agent runs and returns the age that the kernel had then.
func (a *Agent) Up(ctx context.Context) (time.Duration, error) {
	select {
	case <-a.up:
		return time.Duration(a.hello * float64(time.Second)), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("agent: not up: %w", ctx.Err())
	}
}

func (a *Agent) send(r guest.Request, prepare func(id int)) (chan guest.Answer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return nil, ErrEnded
	}
	a.lastID++
	r.ID = a.lastID
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	c := make(chan guest.Answer, 1)
	a.waiting[r.ID] = c
	if prepare != nil {
		prepare(r.ID)
	}
	if _, err := a.line.Write(append(b, '\n')); err != nil {
		delete(a.waiting, r.ID)
		return nil, errors.Join(ErrEnded, err)
	}
	return c, nil
}

func (a *Agent) do(ctx context.Context, r guest.Request, prepare func(id int)) (guest.Answer, error) {
	if _, err := a.Up(ctx); err != nil { // before, the line takes nothing
		return guest.Answer{}, err
	}
	c, err := a.send(r, prepare)
	if err != nil {
		return guest.Answer{}, fmt.Errorf("agent %s: %w", r.Op, err)
	}
	select {
	case m, ok := <-c:
		switch {
		case !ok:
			return m, fmt.Errorf("agent %s: %w", r.Op, ErrEnded)
		case m.Error != "":
			return m, fmt.Errorf("agent %s %s%s: %s", r.Op, strings.Join(r.Args, " "), r.Path, m.Error)
		}
		return m, nil
	case <-ctx.Done():
		return guest.Answer{}, fmt.Errorf("agent %s %s%s: %w", r.Op, strings.Join(r.Args, " "), r.Path, ctx.Err())
	}
}

// ExitError is a program that ended with another status than 0.
type ExitError struct {
	Args   []string
	Code   int
	Output string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s in the machine: status %d: %s", strings.Join(e.Args, " "), e.Code, e.Output)
}

// Place is where in the machine a program runs.
type Place struct {
	Netns string   // file of the network namespace; "" is the board's own
	Env   []string // more of the environment
}

// Run runs a program in the machine to its end and returns what it printed.
func (a *Agent) Run(ctx context.Context, at Place, args ...string) (string, error) {
	m, err := a.do(ctx, guest.Request{Op: guest.Run, Args: args, Netns: at.Netns, Env: at.Env}, nil)
	if err != nil {
		return "", err
	}
	if m.Code != 0 {
		return string(m.Data), &ExitError{Args: args, Code: m.Code, Output: string(m.Data)}
	}
	return string(m.Data), nil
}

// Read returns a file of the machine.
func (a *Agent) Read(ctx context.Context, path string) ([]byte, error) {
	m, err := a.do(ctx, guest.Request{Op: guest.Read, Path: path}, nil)
	return m.Data, err
}

// Write replaces a file of the machine.
func (a *Agent) Write(ctx context.Context, path string, data []byte) error {
	_, err := a.do(ctx, guest.Request{Op: guest.Write, Path: path, Data: data}, nil)
	return err
}

// Signal sends a signal to a process of the machine.
func (a *Agent) Signal(ctx context.Context, pid int, s syscall.Signal) error {
	_, err := a.do(ctx, guest.Request{Op: guest.Signal, Process: pid, Number: int(s)}, nil)
	return err
}

// Process is a program that runs in the machine.
type Process struct {
	PID int

	agent *Agent
	id    int
	out   *Console
}

// Begin starts a program in the machine.
func (a *Agent) Begin(ctx context.Context, at Place, args ...string) (*Process, error) {
	p := &Process{agent: a, out: newConsole()}
	m, err := a.do(ctx, guest.Request{Op: guest.Begin, Args: args, Netns: at.Netns, Env: at.Env}, func(id int) {
		p.id = id
		a.procs[id] = p
	})
	if err != nil {
		return nil, err
	}
	p.PID = m.PID
	return p, nil
}

// Output is what the program printed so far.
func (p *Process) Output() *Console { return p.out }

// Input writes a line to the program.
func (p *Process) Input(ctx context.Context, line string) error {
	_, err := p.agent.do(ctx, guest.Request{Op: guest.Input, Process: p.id, Data: []byte(line)}, nil)
	return err
}

// Signal sends the program a signal.
func (p *Process) Signal(ctx context.Context, s syscall.Signal) error {
	return p.agent.Signal(ctx, p.PID, s)
}
