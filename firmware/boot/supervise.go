package boot

import (
	"fmt"
	"time"

	"fieldkit/firmware/boot/initlink"
)

// Times of the supervision.
const (
	beatLimit    = 10 * time.Second // a beat counts for so long
	startLimit   = 90 * time.Second // a daemon that starts may take so long until its first beat
	bootLimit    = 3 * time.Minute  // what PID 1 does before the daemon may take so long
	biteLimit    = 20 * time.Second // after so long without feeding, the watchdog has bitten, or there is none
	minBackoff   = 500 * time.Millisecond
	maxBackoff   = 30 * time.Second
	steadyAfter  = time.Minute // a daemon that ran so long has not crashed in a loop
	termLimit    = 20 * time.Second
	killLimit    = 5 * time.Second
	offLimit     = 15 * time.Second // syncing and unmounting
	trialLimit   = 10 * time.Minute // a slot on trial has so long, from the kernel's start, to prove itself
	trialCrashes = 3
)

// action is what the supervisor wants done.
type action int

const (
	actStart  action = iota + 1 // start the daemon
	actTerm                     // ask it to end
	actKill                     // end it
	actFinish                   // put everything in order and reboot, as supervisor.kind says
)

// phase is what the supervisor is about.
type phase int

const (
	preparing phase = iota // PID 1 prepares the system
	running                // the daemon runs
	waiting                // it ended, and is started again after a pause
	ending                 // it was asked to end
	killing                // it was told to end
	finished               // there is no daemon any more, and there will be none
)

// supervisor decides when the daemon starts and ends, when the watchdog is fed and when the board reboots. It is a
// pure core: now is the time since the kernel started, and nothing else is known but what it was told.
type supervisor struct {
	trial     bool // leave the slot unless committed in time
	committed bool
	phase     phase
	until     time.Duration // end of waiting, ending or killing
	alive     time.Duration // until when the watchdog is fed
	started   time.Duration // the daemon, last
	backoff   time.Duration
	beaten    bool // a healthy beat since the daemon started
	crashes   int  // ends that nobody asked for
	kind      initlink.Kind
	why       string // of the reboot
}

func newSupervisor(now time.Duration, trial bool) *supervisor {
	return &supervisor{trial: trial, alive: now + bootLimit, backoff: minBackoff}
}

// feed tells whether the watchdog is to be fed.
func (s *supervisor) feed(now time.Duration) bool { return now < s.alive }

// start begins the supervision: the system is prepared.
func (s *supervisor) start(now time.Duration) []action {
	if s.phase != preparing { // the board reboots already
		return nil
	}
	if s.phase != preparing {
		return nil // the end came first
	}
	s.alive = now + startLimit
	return s.run(now)
}

func (s *supervisor) run(now time.Duration) []action {
	s.phase, s.started, s.beaten = running, now, false
	return []action{actStart}
}

// beat takes what the daemon says of itself. A beat of one whose parts do not answer is none.
func (s *supervisor) beat(now time.Duration, healthy bool) {
	if s.phase == running && healthy {
		s.beaten, s.alive = true, now+beatLimit
	}
}

// exited takes the end of the daemon.
func (s *supervisor) exited(now time.Duration) []action {
	switch s.phase {
	case running:
	case ending, killing:
		return s.finish(now)
	default:
		return nil
	}
	s.crashes++
	if s.trial && !s.committed && s.crashes >= trialCrashes {
		s.kind, s.why = initlink.Normal, fmt.Sprintf("the daemon of the slot on trial ended %d times", s.crashes)
		return s.finish(now)
	}
	// A daemon that never came so far as to beat gets no further time: in the end the watchdog decides.
	if s.beaten {
		s.alive = now + startLimit
	}
	if now-s.started >= steadyAfter {
		s.backoff = minBackoff
	}
	s.phase, s.until = waiting, now+s.backoff
	s.backoff = min(2*s.backoff, maxBackoff)
	return nil
}

// reboot takes a request to reboot. The first one counts.
func (s *supervisor) reboot(now time.Duration, kind initlink.Kind, why string) []action {
	switch s.phase {
	case running:
		s.kind, s.why = kind, why
		s.phase, s.until = ending, now+termLimit
		s.alive = now + termLimit + killLimit + offLimit
		return []action{actTerm}
	case preparing, waiting:
		s.kind, s.why = kind, why
		return s.finish(now)
	}
	return nil
}

func (s *supervisor) finish(now time.Duration) []action {
	s.phase = finished
	s.alive = now + offLimit
	return []action{actFinish}
}

// tick lets time pass.
func (s *supervisor) tick(now time.Duration) []action {
	switch {
	case s.phase == finished:
		return nil
	case s.phase == preparing && now >= s.alive+biteLimit: // as below
		return s.reboot(now, initlink.Normal, "the preparation of the system hangs")
	case s.phase == preparing:
		return nil
	case s.phase == ending && now >= s.until:
		s.phase, s.until = killing, now+killLimit
		return []action{actKill}
	case s.phase == killing && now >= s.until: // not even that ends it
		return s.finish(now)
	case s.phase == ending || s.phase == killing:
		return nil
	case s.trial && !s.committed && now >= trialLimit:
		return s.reboot(now, initlink.Normal, fmt.Sprintf("the slot on trial did not prove itself within %v", trialLimit))
	case now >= s.alive+biteLimit:
		// No watchdog, or one that does not bite: the board resets itself all the same.
		return s.reboot(now, initlink.Normal, "the daemon hangs")
	case s.phase == waiting && now >= s.until:
		return s.run(now)
	}
	return nil
}
