package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultLimit = time.Minute
	maxOutput    = 1 << 20 // bytes of what a program that is run prints
)

// Server carries out requests. It belongs to the goroutine that calls Serve.
type Server struct {
	line io.ReadWriter

	mu      sync.Mutex // leaf; guards what follows
	out     *json.Encoder
	running map[int]io.WriteCloser // standard input by the ID of the Begin
}

// NewServer serves on the line.
func NewServer(line io.ReadWriter) *Server {
	return &Server{line: line, out: json.NewEncoder(line), running: make(map[int]io.WriteCloser)}
}

// Serve says hello and carries out what is asked until the line ends.
func (s *Server) Serve() error {
	if _, err := s.line.Write([]byte("\n")); err != nil { // ends what the line's hardware said when it was opened
		return fmt.Errorf("line: %w", err)
	}
	s.answer(Answer{Kind: Hello, Uptime: uptime()})
	lines := bufio.NewScanner(s.line)
	lines.Buffer(nil, MaxMessage)
	for lines.Scan() {
		var r Request
		if json.Unmarshal(lines.Bytes(), &r) != nil || r.ID <= 0 {
			continue
		}
		go func() { // ends with what was asked for
			a := s.carryOut(r)
			a.Kind, a.ID = Done, r.ID
			s.answer(a)
		}()
	}
	return lines.Err()
}

// uptime is the kernel's age in seconds, without /proc, which need not be mounted.
func uptime() float64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return float64(t.Nano()) / 1e9
}

func (s *Server) answer(a Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.out.Encode(a) // nobody else could be told
}

func (s *Server) carryOut(r Request) Answer {
	switch r.Op {
	case Run:
		return s.run(r)
	case Begin:
		return s.begin(r)
	case Input:
		s.mu.Lock()
		in := s.running[r.Process]
		s.mu.Unlock()
		if in == nil {
			return failed(fmt.Errorf("input: no program of request %d runs", r.Process))
		}
		_, err := in.Write(append(r.Data, '\n'))
		return failed(err)
	case Signal:
		return failed(syscall.Kill(r.Process, syscall.Signal(r.Number)))
	case Read:
		b, err := os.ReadFile(r.Path)
		if err != nil {
			return failed(err)
		}
		return Answer{Data: b}
	case Write:
		if err := os.MkdirAll(filepath.Dir(r.Path), 0o755); err != nil {
			return failed(err)
		}
		return failed(os.WriteFile(r.Path, r.Data, 0o600))
	}
	return failed(fmt.Errorf("request %q: not known", r.Op))
}

func failed(err error) Answer {
	if err == nil {
		return Answer{}
	}
	return Answer{Error: err.Error()}
}

func command(ctx context.Context, r Request) (*exec.Cmd, error) {
	if len(r.Args) == 0 {
		return nil, errors.New("program: none was named")
	}
	args := r.Args
	if !strings.Contains(args[0], "/") {
		args = append([]string{Program}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin"), r.Env...)
	return cmd, nil
}

// start starts cmd in a network namespace.
func start(cmd *exec.Cmd, netns string) error {
	if netns == "" {
		return cmd.Start()
	}
	f, err := os.Open(netns)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer f.Close()
	result := make(chan error)
	go func() {
		// A child is in the namespace of the thread that forks. The thread is not given back: it ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("network namespace %s: %w", netns, err)
			return
		}
		result <- cmd.Start()
	}()
	return <-result
}

func (s *Server) run(r Request) Answer {
	limit := defaultLimit
	if r.Limit > 0 {
		limit = time.Duration(r.Limit * float64(time.Second))
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd, err := command(ctx, r)
	if err != nil {
		return failed(err)
	}
	var out bounded
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := start(cmd, r.Netns); err != nil {
		return failed(err)
	}
	err = cmd.Wait()
	a := Answer{Data: out.b, Code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		a.Error = err.Error()
	}
	return a
}

// bounded keeps the beginning of what is written to it.
type bounded struct{ b []byte }

func (o *bounded) Write(b []byte) (int, error) {
	o.b = append(o.b, b[:min(len(b), maxOutput-len(o.b))]...)
	return len(b), nil
}

func (s *Server) begin(r Request) Answer {
	cmd, err := command(context.Background(), r)
	if err != nil {
		return failed(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return failed(err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return failed(err)
	}
	cmd.Stdout, cmd.Stderr = writer, writer
	err = start(cmd, r.Netns)
	_ = writer.Close()
	if err != nil {
		_ = reader.Close()
		return failed(err)
	}
	s.mu.Lock()
	s.running[r.ID] = in
	s.mu.Unlock()
	go func() { // ends with the program
		lines := bufio.NewScanner(reader)
		lines.Buffer(nil, maxOutput)
		for lines.Scan() {
			s.answer(Answer{Kind: Output, ID: r.ID, Data: lines.Bytes()})
		}
		_ = reader.Close()
		_ = cmd.Wait()
		s.mu.Lock()
		delete(s.running, r.ID)
		s.mu.Unlock()
		s.answer(Answer{Kind: Exit, ID: r.ID, Code: cmd.ProcessState.ExitCode()})
	}()
	return Answer{PID: cmd.Process.Pid}
}
