package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// Limits of a Group where Config leaves them zero.
const (
	DefaultMinBackoff = 500 * time.Millisecond
	DefaultMaxBackoff = 30 * time.Second
	DefaultGrace      = 5 * time.Second
)

// Errors of a Group.
var (
	ErrRunning = errors.New("task group already started")
	// ErrStuck: a Task did not end within the grace after its context ended.
	ErrStuck = errors.New("task did not stop")
	// ErrUnready: a Task ended or was still starting when it was waited for.
	ErrUnready = errors.New("task not ready")
)

// State is where a Task is in its life.
type State int

// The states of a Task.
const (
	Starting State = iota // running, not ready yet
	Running               // ready
	Waiting               // failed, waiting to be started again
	Finished              // returned nil: done for good
	Stopped               // ended by shutdown
	Failed                // ended by a fatal error, or stuck at shutdown
)

var stateNames = [...]string{"starting", "running", "waiting", "finished", "stopped", "failed"}

func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("state %d", int(s))
	}
	return stateNames[s]
}

// MarshalText makes a State readable in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Status is what is known of one Task.
type Status struct {
	Name     string
	State    State
	Since    time.Time     // when it entered State
	Err      error         // of the last run, nil while none failed
	Restarts int           // runs after the first
	Backoff  time.Duration // in state Waiting: the pause before the next run
}

// Config of a Group. The zero value works.
type Config struct {
	MinBackoff time.Duration // pause after a first failure; doubles with each further one
	MaxBackoff time.Duration // the most it grows to; a run that lasts longer resets it
	Grace      time.Duration // how long each Task may take to end at shutdown
	// Report is called with each change of a Task's Status, from that Task's
	// goroutine; it must not block.
	Report func(Status)
	Log    *slog.Logger
}

// Group supervises Tasks. Make it with NewGroup.
type Group struct {
	cfg   Config
	ready chan struct{}

	mu      sync.Mutex // guards what Snapshot reads and Add writes
	started bool
	members []*member
}

type member struct {
	task   Task
	cancel context.CancelFunc
	done   chan struct{} // closed when the supervising goroutine ended
	first  chan struct{} // closed when the Task was ready once, or finished
	once   sync.Once
	status Status // guarded by Group.mu
}

// NewGroup makes an empty Group.
func NewGroup(cfg Config) *Group {
	if cfg.MinBackoff <= 0 {
		cfg.MinBackoff = DefaultMinBackoff
	}
	if cfg.MaxBackoff <= 0 {
		cfg.MaxBackoff = DefaultMaxBackoff
	}
	cfg.MaxBackoff = max(cfg.MaxBackoff, cfg.MinBackoff)
	if cfg.Grace <= 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return &Group{cfg: cfg, ready: make(chan struct{})}
}

// Add puts a Task into the Group. Tasks start in the order they were added and
// stop in the reverse order, so add first what others lean on. ErrRunning once
// Run was called.
func (g *Group) Add(tasks ...Task) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.started {
		return ErrRunning
	}
	for _, t := range tasks {
		g.members = append(g.members, &member{
			task: t, done: make(chan struct{}), first: make(chan struct{}),
			status: Status{Name: t.String()},
		})
	}
	return nil
}

// Ready returns a channel that is closed once every Task was ready at least
// once (or finished its work).
func (g *Group) Ready() <-chan struct{} { return g.ready }

func (g *Group) String() string { return "group" }

// Snapshot returns the Status of every Task in the order of Add.
func (g *Group) Snapshot() []Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]Status, len(g.members))
	for i, m := range g.members {
		out[i] = m.status
	}
	return out
}

// Run starts all Tasks and blocks until ctx ends or a Task fails fatally; then
// it stops them in reverse order, each within the grace. It returns nil after
// an orderly shutdown, else the fatal error, joined with ErrStuck for each Task
// that did not end (its goroutine is left behind).
func (g *Group) Run(ctx context.Context) error {
	g.mu.Lock()
	if g.started {
		g.mu.Unlock()
		return ErrRunning
	}
	g.started = true
	members := slices.Clone(g.members)
	g.mu.Unlock()

	stop, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, m := range members {
		// Contexts hang below Background, not below ctx: the order of the
		// shutdown is decided in one place.
		var mctx context.Context
		mctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
		go g.supervise(mctx, m, cancel)
	}
	allReady := make(chan struct{})
	go func() {
		defer close(allReady)
		for _, m := range members {
			select {
			case <-m.first:
			case <-stop.Done():
				return
			}
		}
		close(g.ready)
	}()

	<-stop.Done()
	<-allReady
	var errs []error
	if cause := context.Cause(stop); IsFatal(cause) {
		errs = append(errs, cause)
	}
	for _, m := range slices.Backward(members) {
		m.cancel()
		t := time.NewTimer(g.cfg.Grace)
		select {
		case <-m.done:
		case <-t.C:
			err := fmt.Errorf("%s after %s: %w", m.task, g.cfg.Grace, ErrStuck)
			g.set(m, Failed, err, 0)
			errs = append(errs, err)
		}
		t.Stop()
	}
	return errors.Join(errs...)
}

// supervise runs one Task again and again until its context ends.
func (g *Group) supervise(ctx context.Context, m *member, fatal context.CancelCauseFunc) {
	defer close(m.done)
	backoff := g.cfg.MinBackoff
	for {
		g.set(m, Starting, m.err(g), 0)
		began := time.Now()
		err := g.runOnce(ctx, m)
		switch {
		case IsFatal(err):
			g.set(m, Failed, err, 0)
			fatal(fmt.Errorf("%s: %w", m.task, err))
			return
		case ctx.Err() != nil:
			if errors.Is(err, context.Canceled) {
				err = nil
			}
			g.set(m, Stopped, err, 0)
			return
		case err == nil:
			m.once.Do(func() { close(m.first) })
			g.set(m, Finished, nil, 0)
			return
		}
		if time.Since(began) > g.cfg.MaxBackoff {
			backoff = g.cfg.MinBackoff // it worked for a while: a new fault, not the old one
		}
		g.set(m, Waiting, err, backoff)
		t := time.NewTimer(backoff)
		select {
		case <-ctx.Done():
			t.Stop()
			g.set(m, Stopped, err, 0)
			return
		case <-t.C:
		}
		backoff = min(2*backoff, g.cfg.MaxBackoff)
		g.mu.Lock()
		m.status.Restarts++
		g.mu.Unlock()
	}
}

// runOnce runs the Task and turns a panic into an error; meanwhile it reports
// readiness.
func (g *Group) runOnce(ctx context.Context, m *member) (err error) {
	ready := m.task.Ready()
	over := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ready:
			m.once.Do(func() { close(m.first) })
			g.set(m, Running, m.err(g), 0)
		case <-over:
		}
	}()
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
		close(over)
		<-watched // no report of readiness after the report of the end
	}()
	return m.task.Run(ctx)
}

func (m *member) err(g *Group) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return m.status.Err
}

// set changes the Status, logs it and reports it.
func (g *Group) set(m *member, s State, err error, backoff time.Duration) {
	g.mu.Lock()
	m.status.State, m.status.Since, m.status.Err, m.status.Backoff = s, time.Now(), err, backoff
	st := m.status
	g.mu.Unlock()
	switch s {
	case Waiting, Failed:
		attrs := []any{"task", st.Name, "state", s.String(), "err", err, "restarts", st.Restarts}
		if backoff > 0 {
			attrs = append(attrs, "backoff", backoff)
		}
		var p *PanicError
		if errors.As(err, &p) {
			attrs = append(attrs, "stack", string(p.Stack))
		}
		g.cfg.Log.Warn("task failed", attrs...)
	default:
		g.cfg.Log.Debug("task", "task", st.Name, "state", s.String())
	}
	if g.cfg.Report != nil {
		g.cfg.Report(st)
	}
}

// Await blocks until t is ready or ctx ends (then ErrUnready, wrapped).
func Await(ctx context.Context, t Task) error {
	select {
	case <-t.Ready():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w: %w", t, ErrUnready, context.Cause(ctx))
	}
}
