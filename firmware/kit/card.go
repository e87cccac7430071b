package kit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"fieldkit/firmware/boot/initlink"
	"fieldkit/firmware/config"
	"fieldkit/firmware/mission"
	"fieldkit/firmware/task"
	"fieldkit/ui"
)

// volatileState is where the state goes when the card's is of no use: into memory, until the next boot.
const volatileState = "/run/fieldkit/state"

// NewOnCard is New for a kit that boots from its card. There nobody sees why a daemon does not start, and a kit that
// serves its handsets alone is worth more than none: what is wrong with the mission file or with the state becomes a
// fault in the health tree of a kit that does without.
func NewOnCard(cfg *config.Config, o Options) (*Kit, error) {
	type problem struct{ path, text string }
	var problems []problem
	if o.Problem != nil {
		problems = append(problems, problem{"card/settings", o.Problem.Error()})
	}
	k, err := New(cfg, o)
	if given := cfg.Mission; err != nil {
		first := err
		cfg.Mission = ""
		k, err = New(cfg, o)
		if err == nil {
			problems = append(problems, problem{"card/mission", first.Error()})
		} else {
			cfg.Mission, cfg.StateDir = given, volatileState
			k, err = New(cfg, o)
			if err != nil {
				cfg.Mission = ""
				k, err = New(cfg, o)
			}
			problems = append(problems, problem{"card/state", fmt.Sprintf("not usable, all is kept in memory: %v", first)})
		}
	}
	if err != nil {
		return nil, err
	}
	for _, p := range problems {
		switch p.path {
		case "card/settings":
			k.health.Fault("card/settings", p.text)
		case "card/mission":
			k.health.Fault("card/mission", p.text)
		default:
			k.health.Fault("card/state", p.text)
		}
	}
	if len(problems) == 0 || problems[len(problems)-1].path == "card/settings" {
		if err := errors.Join(forgetRootKey(config.CardMission), forgetRootKey(config.CardKeptMission)); err != nil {
			k.health.Warn("card/mission", fmt.Sprintf("root key not taken out of the kit's copy: %v", err))
		}
	}
	return k, nil
}

// forgetRootKey takes the root key out of a copy of the mission that the kit is in by now. What the file had before is
// overwritten in its place, so that it is not in the blocks that the file system gives back; what flash keeps in blocks
// it has retired is beyond the reach of software.
func forgetRootKey(path string) error {
	m, err := mission.Load(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, mission.ErrInvalid) {
		return nil
	}
	if err != nil {
		return err
	}
	if !m.HasRootKey() {
		return nil
	}
	old, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer old.Close()
	if err := m.WithoutRootKey().Save(path); err != nil {
		return err
	}
	info, err := old.Stat()
	if err != nil {
		return err
	}
	if _, err := old.WriteAt(make([]byte, info.Size()), 0); err != nil {
		return err
	}
	return old.Sync()
}

// takeNotes puts what PID 1 has to say into the health tree.
func (k *Kit) takeNotes(b initlink.Boot) {
	for _, n := range b.Notes {
		switch {
		case n.About == initlink.AboutState && n.Fault:
			k.health.Fault("card/state", n.Text)
		case n.About == initlink.AboutState:
			k.health.Warn("card/state", n.Text)
		case n.About == initlink.AboutMission:
			k.health.Warn("card/mission", n.Text)
		case n.About == initlink.AboutIdentity:
			k.health.Warn("card/identity", n.Text)
		case n.About == initlink.AboutWatchdog:
			k.health.Warn("card/watchdog", n.Text)
		case n.About == initlink.AboutModules:
			k.health.Warn("card/modules", n.Text)
		case n.About == initlink.AboutDaemon:
			k.health.Warn("card/daemon", n.Text)
		}
	}
}

// The beat. PID 1 feeds the watchdog while it hears within its own limit, several beats long, that the kit is alive.
const (
	beatEvery = 2 * time.Second
	beatLimit = 5 * time.Second // for each of the kit's loops to answer
)

// stages are the parts whose first readiness is a stage of the boot, by the name of their task.
var stages = map[string]string{
	"lights": "LEDs", "overlay": "overlay", "telephony": "SIP", "page": "status page",
}

// markStage notes how far the boot has come.
func (k *Kit) markStage(s task.Status) {
	if stage, ok := stages[s.Name]; ok && s.State == task.Running {
		k.boot.Mark(stage)
	}
}

// beat tells PID 1 that the kit is alive, which is: each of its loops does a round within beatLimit. That this function
// runs proves nothing, so each beat asks the loops themselves. A part that is down is none of it: the task group starts
// it again, and a reset of the board would take the others along.
func (k *Kit) beat(ctx context.Context, ready func()) error {
	loops := k.loops()
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	k.boot.Beat(true)
	ready()
	for {
		healthy := true
		for _, l := range loops {
			if silent := l.ask(ctx); silent > beatLimit {
				healthy = false
				k.log.Error("part of the kit hangs", "part", l.name, "for", silent)
			}
		}
		k.boot.Beat(healthy)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// loop is one of the kit's loops as the beat sees it. Its owner is the goroutine of beat.
type loop struct {
	name  string
	round func(context.Context) // returns once the loop did something for it; may hang with the loop
	asked time.Time             // when the round under way began
	busy  atomic.Bool           // a round is under way
}

// ask begins a round unless one is under way, and returns for how long that has been.
func (l *loop) ask(ctx context.Context) time.Duration {
	if l.busy.CompareAndSwap(false, true) {
		l.asked = time.Now()
		go func() {
			defer l.busy.Store(false)
			l.round(ctx)
		}()
		return 0
	}
	return time.Since(l.asked)
}

// loops are those without which the kit serves nobody.
func (k *Kit) loops() []*loop {
	return []*loop{
		{name: "health", round: func(context.Context) { _ = k.health.Snapshot() }},
		{name: "overlay", round: func(ctx context.Context) {
			if n := k.overlay.node.Load(); n != nil {
				_, _ = n.Snapshot(ctx)
			}
		}},
		{name: "telephony", round: func(context.Context) {
			if a := k.telephony.agent.Load(); a != nil {
				_ = a.Snapshot()
			}
		}},
	}
}

// bootStatus is the timeline of the boot for the page.
func (k *Kit) bootStatus() []ui.Stage {
	r := []ui.Stage{}
	for _, s := range k.boot.Timeline() {
		r = append(r, ui.Stage{Stage: s.Name, AtMS: s.At})
	}
	return r
}
