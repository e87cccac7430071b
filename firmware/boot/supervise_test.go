package boot

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"fieldkit/firmware/boot/initlink"
)

// world runs a supervisor in virtual time, second by second, against a daemon and a watchdog of 15 s.
type world struct {
	t       *testing.T
	s       *supervisor
	now     time.Duration
	acts    []action
	fed     time.Duration // when the watchdog was fed last
	bites   bool          // the board has a watchdog
	up      bool          // the daemon runs
	termed  bool
	starts  int
	reset   time.Duration // when the watchdog reset the board; 0 is never
	crashAt time.Duration // how long a daemon runs until it crashes; 0 is for ever
	beats   bool
	healthy bool
	deaf    bool // the daemon does not end when it is asked to
}

func newWorld(t *testing.T, trial bool) *world {
	w := &world{t: t, bites: true, beats: true, healthy: true, now: time.Second}
	w.s = newSupervisor(w.now, trial)
	w.do(w.s.start(w.now))
	return w
}

func (w *world) do(as []action) {
	w.acts = append(w.acts, as...)
	for _, a := range as {
		switch a {
		case actStart:
			if w.up {
				w.t.Fatalf("%v: a second daemon", w.now)
			}
			w.up, w.termed = true, false
			w.starts++
		case actTerm:
			w.termed = true
		case actKill:
			w.end()
		}
	}
}

func (w *world) end() {
	if w.up {
		w.up = false
		w.do(w.s.exited(w.now))
	}
}

// run lets time pass until the board reboots.
func (w *world) run(d time.Duration) {
	for end := w.now + d; w.now < end && w.reset == 0 && w.s.phase != finished; w.now += time.Second {
		switch {
		case w.up && (w.termed && !w.deaf || w.crashAt > 0 && w.now-w.s.started >= w.crashAt):
			w.end()
		case w.up && w.beats:
			w.s.beat(w.now, w.healthy)
		}
		w.do(w.s.tick(w.now))
		if w.s.feed(w.now) {
			w.fed = w.now
		} else if w.bites && w.now-w.fed >= 15*time.Second {
			w.reset = w.now
		}
	}
}

func TestSupervision(t *testing.T) {
	for _, c := range []struct {
		name    string
		trial   bool
		prepare func(*world)
		run     time.Duration
		reset   bool          // by the watchdog
		within  time.Duration // since the start, of a reset or reboot
		kind    initlink.Kind // of a reboot by PID 1; "" is none
		starts  [2]int        // at least, at most
	}{
		{name: "a healthy daemon runs for ever", run: 24 * time.Hour, starts: [2]int{1, 1}},
		// "watchdog bites a hung daemon"
		{name: "a daemon that hangs is a reset", prepare: func(w *world) { w.run(time.Hour); w.beats = false }, run: time.Minute, reset: true, within: time.Hour + 30*time.Second, starts: [2]int{1, 1}},
		{name: "so is one whose parts hang", prepare: func(w *world) { w.run(time.Hour); w.healthy = false }, run: time.Minute, reset: true, within: time.Hour + 30*time.Second, starts: [2]int{1, 1}},
		{name: "without a watchdog it is a reboot", prepare: func(w *world) { w.bites = false; w.run(time.Hour); w.beats = false }, run: 2 * time.Minute, kind: initlink.Normal, within: time.Hour + time.Minute, starts: [2]int{1, 1}},
		{name: "a daemon that never comes up is a reset", prepare: func(w *world) { w.beats = false }, run: 5 * time.Minute, reset: true, within: 2 * time.Minute, starts: [2]int{1, 1}},
		{name: "a crash is a restart of the daemon", prepare: func(w *world) { w.run(time.Hour); w.end() }, run: time.Hour, starts: [2]int{2, 2}},
		{name: "crashes now and then are restarts", prepare: func(w *world) { w.crashAt = 5 * time.Minute }, run: 24 * time.Hour, starts: [2]int{280, 290}},
		{name: "a daemon that crashes after its first beats is started again and again, with pauses", prepare: func(w *world) { w.crashAt = 5 * time.Second }, run: time.Hour, starts: [2]int{90, 130}},
		{name: "one that crashes before it beats is a reset in the end", prepare: func(w *world) { w.crashAt = time.Second; w.beats = false }, run: time.Hour, reset: true, within: 2 * time.Minute, starts: [2]int{5, 9}},
		{name: "a slot on trial that nobody commits is left", trial: true, run: time.Hour, kind: initlink.Normal, within: trialLimit + 30*time.Second, starts: [2]int{1, 1}},
		{name: "one that is committed stays", trial: true, prepare: func(w *world) { w.s.committed = true }, run: time.Hour, starts: [2]int{1, 1}},
		{name: "one that crashes is left at the third time", trial: true, prepare: func(w *world) { w.crashAt = 5 * time.Second }, run: time.Hour, kind: initlink.Normal, within: time.Minute, starts: [2]int{3, 3}},
		{name: "one that crashes before it beats, too", trial: true, prepare: func(w *world) { w.crashAt = time.Second; w.beats = false }, run: time.Hour, kind: initlink.Normal, within: time.Minute, starts: [2]int{3, 3}},
		{name: "one that hangs is a reset", trial: true, prepare: func(w *world) { w.run(time.Minute); w.beats = false }, run: time.Hour, reset: true, within: 2 * time.Minute, starts: [2]int{1, 1}},
		{name: "a reboot that was asked for", prepare: func(w *world) { w.run(time.Hour); w.do(w.s.reboot(w.now, initlink.TryBoot, "update")) }, run: time.Minute, kind: initlink.TryBoot, within: time.Hour + 10*time.Second, starts: [2]int{1, 1}},
		{name: "a daemon that does not end for it", prepare: func(w *world) {
			w.deaf = true
			w.run(time.Hour)
			w.do(w.s.reboot(w.now, initlink.PowerOff, ""))
		}, run: time.Minute, kind: initlink.PowerOff, within: time.Hour + termLimit + 10*time.Second, starts: [2]int{1, 1}},
		{name: "a reboot while the daemon is down", prepare: func(w *world) {
			w.run(time.Minute)
			w.end()
			w.do(w.s.reboot(w.now, initlink.Normal, ""))
		}, run: time.Minute, kind: initlink.Normal, within: 70 * time.Second, starts: [2]int{1, 1}},
		{name: "the first of two reboots counts", prepare: func(w *world) {
			w.do(w.s.reboot(w.now, initlink.TryBoot, ""))
			w.do(w.s.reboot(w.now, initlink.PowerOff, ""))
		}, run: time.Minute, kind: initlink.TryBoot, within: 10 * time.Second, starts: [2]int{1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.trial)
			if c.prepare != nil {
				c.prepare(w)
			}
			w.run(c.run)
			if (w.reset > 0) != c.reset {
				t.Errorf("reset by the watchdog at %v, now %v", w.reset, w.now)
			}
			if (w.s.phase == finished) != (c.kind != "") || c.kind != "" && w.s.kind != c.kind {
				t.Errorf("phase %v, kind %q, want %q", w.s.phase, w.s.kind, c.kind)
			}
			if c.within > 0 && w.now > c.within+2*time.Second {
				t.Errorf("at %v, want within %v", w.now, c.within)
			}
			if w.starts < c.starts[0] || w.starts > c.starts[1] {
				t.Errorf("started %d times, want %v", w.starts, c.starts)
			}
		})
	}
}

// A preparation that hangs ends in a reboot where nothing bites, and starts no daemon if it comes back after that.
func TestPreparationThatHangs(t *testing.T) {
	w := &world{t: t, now: time.Second}
	w.s = newSupervisor(w.now, false)
	w.run(bootLimit + time.Minute)
	if w.s.phase != finished || w.s.kind != initlink.Normal || w.now > bootLimit+biteLimit+5*time.Second {
		t.Errorf("phase %v, kind %q at %v", w.s.phase, w.s.kind, w.now)
	}
	if w.do(w.s.start(w.now)); w.starts != 0 {
		t.Error("a daemon was started")
	}
}

func TestRebootBeforeTheDaemon(t *testing.T) {
	s := newSupervisor(0, false)
	if got := s.reboot(time.Second, initlink.PowerOff, ""); !slices.Equal(got, []action{actFinish}) {
		t.Errorf("%v", got)
	}
	if got := s.start(2 * time.Second); got != nil {
		t.Errorf("the preparation ended later: %v", got)
	}
	// A preparation that hangs is fed for its time and no longer.
	s = newSupervisor(0, false)
	if !s.feed(bootLimit-time.Second) || s.feed(bootLimit) || s.tick(bootLimit) != nil {
		t.Error("a preparation that hangs")
	}
	if got := s.tick(bootLimit + biteLimit); !slices.Equal(got, []action{actFinish}) || s.kind != initlink.Normal {
		t.Errorf("without a watchdog: %v", got)
	}
}

// Whatever happens in whatever order: there is at most one daemon, nothing starts after the end, the end comes once,
// and a board whose daemon does not beat is either fed no more or about to end.
func TestSupervisionAtRandom(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, seed%2 == 0)
		ends, quiet := 0, time.Duration(0)
		for range 400 {
			w.now += time.Duration(r.IntN(3000)) * time.Millisecond
			before := len(w.acts)
			switch r.IntN(12) {
			case 0, 1, 2:
				w.s.beat(w.now, r.IntN(3) > 0)
				quiet = w.now
			case 3:
				w.end()
			case 4:
				if r.IntN(20) == 0 {
					w.do(w.s.reboot(w.now, initlink.Normal, ""))
				}
			case 5:
				if r.IntN(20) == 0 {
					w.s.committed = true
				}
			default:
				w.do(w.s.tick(w.now))
			}
			if ends > 0 && len(w.acts) > before {
				t.Fatalf("seed %d: %v after the end", seed, w.acts[before:])
			}
			ends = len(w.acts) - len(slices.DeleteFunc(slices.Clone(w.acts), func(a action) bool { return a == actFinish }))
			if ends > 1 {
				t.Fatalf("seed %d: ended %d times", seed, ends)
			}
			if ends == 0 && w.s.phase == running && w.s.feed(w.now) && w.now-max(quiet, w.s.started) > startLimit {
				t.Fatalf("seed %d: fed %v after the last beat", seed, w.now-quiet)
			}
		}
	}
}
