package task

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBroken = errors.New("broken")

// untilDone is a Task body that serves until its context ends.
func untilDone(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	return ctx.Err()
}

func start(t *testing.T, g *Group) (cancel context.CancelFunc, result <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ch := make(chan error, 1)
	go func() { ch <- g.Run(ctx) }()
	return cancel, ch
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestReadyWhenEveryTaskIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup(Config{})
		slow := New("slow", func(ctx context.Context, ready func()) error {
			time.Sleep(time.Second)
			return untilDone(ctx, ready)
		})
		oneShot := New("one shot", func(context.Context, func()) error { return nil })
		if err := g.Add(New("fast", untilDone), slow, oneShot); err != nil {
			t.Fatal(err)
		}
		cancel, result := start(t, g)
		time.Sleep(999 * time.Millisecond)
		synctest.Wait()
		if isClosed(g.Ready()) {
			t.Error("group ready before its slowest task")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if !isClosed(g.Ready()) {
			t.Error("group not ready though every task is ready or finished")
		}
		var got []State
		for _, s := range g.Snapshot() {
			got = append(got, s.State)
		}
		if want := []State{Running, Running, Finished}; !slices.Equal(got, want) {
			t.Errorf("states %v, want %v", got, want)
		}
		if err := g.Add(New("late", untilDone)); !errors.Is(err, ErrRunning) {
			t.Errorf("Add to a running group: %v", err)
		}
		if err := g.Run(t.Context()); !errors.Is(err, ErrRunning) {
			t.Errorf("second Run: %v", err)
		}
		cancel()
		if err := <-result; err != nil {
			t.Errorf("orderly shutdown returned %v", err)
		}
	})
}

func TestRestartWithCappedBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var starts []time.Duration
		var states []State
		g := NewGroup(Config{
			MinBackoff: time.Second, MaxBackoff: 4 * time.Second,
			Report: func(s Status) { states = append(states, s.State) },
		})
		_ = g.Add(New("flaky", func(ctx context.Context, ready func()) error {
			starts = append(starts, time.Since(began))
			switch len(starts) {
			case 6: // lasts longer than the largest pause, so the pause starts small again
				time.Sleep(10 * time.Second)
				return errBroken
			case 8:
				return untilDone(ctx, ready)
			}
			return errBroken
		}))
		cancel, result := start(t, g)
		time.Sleep(time.Minute)
		synctest.Wait()
		s := time.Second
		want := []time.Duration{0, 1 * s, 3 * s, 7 * s, 11 * s, 15 * s, 26 * s, 28 * s}
		if !slices.Equal(starts, want) {
			t.Errorf("runs began at %v, want %v", starts, want)
		}
		st := g.Snapshot()[0]
		if st.State != Running || st.Restarts != 7 || !errors.Is(st.Err, errBroken) {
			t.Errorf("status %+v, want running after 7 restarts with the last error kept", st)
		}
		if !slices.Contains(states, Waiting) || states[len(states)-1] != Running {
			t.Errorf("reported states %v", states)
		}
		cancel()
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
}

func TestFailureOfOneLeavesOthersRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup(Config{})
		stopped := false
		_ = g.Add(
			New("good", func(ctx context.Context, ready func()) error {
				err := untilDone(ctx, ready)
				stopped = true
				return err
			}),
			New("bad", func(context.Context, func()) error { return errBroken }),
			New("panics", func(context.Context, func()) error { panic("oh") }),
		)
		cancel, result := start(t, g)
		time.Sleep(time.Hour)
		synctest.Wait()
		if stopped {
			t.Error("a failing task took another one with it")
		}
		st := g.Snapshot()
		if st[1].State != Waiting || st[1].Backoff != DefaultMaxBackoff {
			t.Errorf("failed task: %+v", st[1])
		}
		var p *PanicError
		if !errors.As(st[2].Err, &p) || !strings.Contains(string(p.Stack), "runOnce") {
			t.Errorf("panic became %v", st[2].Err)
		}
		cancel()
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
}

func TestFatalErrorEndsTheGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup(Config{})
		_ = g.Add(New("good", untilDone), New("bad", func(context.Context, func()) error {
			time.Sleep(time.Second)
			return Fatal(errBroken)
		}))
		_, result := start(t, g)
		err := <-result
		if !IsFatal(err) || !errors.Is(err, errBroken) || !strings.HasPrefix(err.Error(), "bad: ") {
			t.Errorf("got %v, want a fatal error that names the task", err)
		}
		if st := g.Snapshot(); st[0].State != Stopped || st[1].State != Failed {
			t.Errorf("states after the end: %v, %v", st[0].State, st[1].State)
		}
	})
}

func TestShutdownInReverseOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		member := func(name string) Task {
			return New(name, func(ctx context.Context, ready func()) error {
				err := untilDone(ctx, ready)
				time.Sleep(time.Second) // the next one must still be served meanwhile
				mu.Lock()
				defer mu.Unlock()
				order = append(order, name)
				return err
			})
		}
		g := NewGroup(Config{})
		_ = g.Add(member("a"), member("b"), member("c"))
		cancel, result := start(t, g)
		synctest.Wait()
		began := time.Now()
		cancel()
		if err := <-result; err != nil {
			t.Error(err)
		}
		if got := strings.Join(order, " "); got != "c b a" {
			t.Errorf("stopped in order %q", got)
		}
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("shutdown took %v: tasks were not stopped one after the other", d)
		}
	})
}

func TestStuckTaskDoesNotHoldTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		g := NewGroup(Config{Grace: 2 * time.Second})
		_ = g.Add(New("good", untilDone), New("deaf", func(_ context.Context, ready func()) error {
			ready()
			<-release
			return nil
		}))
		cancel, result := start(t, g)
		synctest.Wait()
		cancel()
		err := <-result
		if !errors.Is(err, ErrStuck) || !strings.Contains(err.Error(), "deaf") {
			t.Errorf("got %v, want the stuck task named", err)
		}
		if st := g.Snapshot(); st[0].State != Stopped || st[1].State != Failed {
			t.Errorf("states %v, %v", st[0].State, st[1].State)
		}
		close(release)
	})
}

func TestReadyIsNewAfterRestart(t *testing.T) {
	runs := 0
	tk := New("t", func(_ context.Context, ready func()) error {
		runs++
		ready()
		ready() // twice is harmless
		return errBroken
	})
	first := tk.Ready()
	_ = tk.Run(t.Context())
	if !isClosed(first) {
		t.Error("readiness of the first run not announced")
	}
	if isClosed(tk.Ready()) {
		t.Error("task claims readiness before its second run")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Await(ctx, tk); !errors.Is(err, ErrUnready) {
		t.Errorf("Await: %v", err)
	}
}

func TestFatalMark(t *testing.T) {
	if Fatal(nil) != nil {
		t.Error("Fatal(nil) is an error")
	}
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{nil, false}, {errBroken, false}, {Fatal(errBroken), true},
		{errors.Join(errBroken, Fatal(errBroken)), true},
	} {
		if got := IsFatal(tc.err); got != tc.want {
			t.Errorf("IsFatal(%v) = %v", tc.err, got)
		}
	}
}
