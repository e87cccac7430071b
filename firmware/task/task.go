// Package task runs the parts of a kit and keeps them running: a Group starts
// every Task, waits for readiness, restarts the ones that fail with a growing
// pause, and ends them in reverse order. A part that fails is a Status for the
// health tree and not the end of the process; only an error marked with Fatal
// ends the Group.
//
// It does not decide what a failure means for the user (that is the health
// tree's business) and it knows none of the parts. Add is for the goroutine
// that builds the Group; Run owns it afterwards; Snapshot, Ready and String may
// be called from anywhere.
package task

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Task is one part of the kit.
type Task interface {
	// Run does the work until ctx ends. Returning nil while ctx lives says the
	// work is finished for good; an error asks for a restart; an error made by
	// Fatal asks for the end of the process.
	Run(ctx context.Context) error
	// Ready returns a channel that is closed once the Task serves. It is asked
	// for before each Run, so a Task that can be restarted may return a new one
	// each time.
	Ready() <-chan struct{}
	// String is the Task's name in logs and in the health tree.
	String() string
}

// fatalError marks what no restart can cure.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

// Fatal marks err as one that no restart can cure, such as a configuration
// that contradicts itself. Fatal(nil) is nil.
func Fatal(err error) error {
	if err == nil {
		return nil
	}
	return &fatalError{err}
}

// IsFatal reports whether err was marked by Fatal, however deep.
func IsFatal(err error) bool {
	var f *fatalError
	return errors.As(err, &f)
}

// funcTask is a Task made of a function.
type funcTask struct {
	name string
	run  func(ctx context.Context, ready func()) error

	mu    sync.Mutex
	ready chan struct{}
}

// New makes a Task of a function that calls ready once it serves. Calling it
// again has no effect. The function may be run again after it failed.
func New(name string, run func(ctx context.Context, ready func()) error) Task {
	return &funcTask{name: name, run: run, ready: make(chan struct{})}
}

func (t *funcTask) String() string { return t.name }

func (t *funcTask) Ready() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ready
}

func (t *funcTask) Run(ctx context.Context) error {
	t.mu.Lock()
	ch := t.ready
	t.mu.Unlock()
	var once sync.Once
	err := t.run(ctx, func() { once.Do(func() { close(ch) }) })
	// The next run announces itself on a channel of its own.
	once.Do(func() {})
	t.mu.Lock()
	t.ready = make(chan struct{})
	t.mu.Unlock()
	return err
}

// PanicError is the error of a Task whose Run panicked. Goroutines that the
// Task started itself are not covered: a panic there ends the process.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }
