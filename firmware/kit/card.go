package kit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"fieldkit/board/store"
	"fieldkit/firmware/boot/initlink"
	"fieldkit/firmware/config"
	"fieldkit/firmware/erase"
	"fieldkit/firmware/mission"
	"fieldkit/firmware/task"
	"fieldkit/ui"
)

// cardPlaces is where a card has what is not in the configuration.
type cardPlaces struct {
	volatile string // the state goes there when the card's is of no use: in memory, until the next boot
	kept     string // directory of what PID 1 took over from the personalisation
}

// NewOnCard is New for a kit that boots from its card. There nobody sees why a daemon does not start, and a kit that
// serves its handsets alone is worth more than none: what is wrong with the mission file or with the state becomes a
// fault in the health tree of a kit that does without.
func NewOnCard(cfg *config.Config, o Options) (*Kit, error) {
	return newOnCard(cfg, o, cardPlaces{volatile: "/run/fieldkit/state", kept: config.CardKept})
}

func newOnCard(cfg *config.Config, o Options, at cardPlaces) (*Kit, error) {
	operators, errMission := mission.Load(cfg.Mission)
	where, problem := identityOnCard(cfg, at.volatile)
	k, err := New(cfg, o)
	if err != nil {
		return nil, err
	}
	if o.Problem != nil {
		k.health.Fault("card/settings", o.Problem.Error())
	}
	switch {
	case problem == nil:
		// In by now. Who finds the key on the operator's own file may let the kit in again.
		k.readmitted = errMission == nil && (operators.HasRootKey() || operators.Document().SelfSigned)
		if err := errors.Join(forgetRootKey(cfg.Mission), forgetKeptRootKey(at.kept)); err != nil {
			k.health.Warn("card/mission", fmt.Sprintf("root key not taken out of the kit's copy: %v", err))
		}
	case where == at.volatile:
		k.health.Fault("card/state", fmt.Sprintf("not usable, all is kept in memory: %v", problem))
	default:
		k.health.Fault("card/mission", problem.Error())
	}
	return k, nil
}

// identityOnCard makes cfg one that a kit can be of: without the mission file if that lets it in nowhere, with the
// state in memory if the card's cannot be read or written. It returns where the state is now, and what was wrong with
// cfg as it came.
func identityOnCard(cfg *config.Config, volatile string) (state string, problem error) {
	try := func(state, file string) error {
		if _, err := erase.Finish(state); err != nil {
			return err // what was to be erased is not to be used, and New would not
		}
		_, _, _, err := mission.LoadOrCreateIdentity(state, file)
		if err == nil {
			cfg.StateDir, cfg.Mission = state, file
		}
		return err
	}
	problem = try(cfg.StateDir, cfg.Mission)
	if problem == nil {
		return cfg.StateDir, nil
	}
	for _, c := range [][2]string{{cfg.StateDir, ""}, {volatile, cfg.Mission}, {volatile, ""}} {
		if try(c[0], c[1]) == nil {
			break
		}
	}
	return cfg.StateDir, problem
}

// forgetRootKey takes the root key out of a copy of the mission that the kit is in by now, if it has one.
func forgetRootKey(path string) error {
	m, err := mission.Load(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, mission.ErrInvalid) || err == nil && !m.HasRootKey() {
		return nil
	}
	if err != nil {
		return err
	}
	return overwriting([]string{path}, func() error { return m.WithoutRootKey().Save(path) })
}

// forgetKeptRootKey does so with what PID 1 took over from the personalisation.
func forgetKeptRootKey(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s, err := store.Open(dir, store.Config{})
	if err != nil {
		return err
	}
	b, err := s.Load(config.KeptMission)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) || err == nil && len(b) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	m, err := mission.Parse(b)
	if err != nil || !m.HasRootKey() {
		return nil //nolint:nilerr // what is no mission holds no key of one that counts
	}
	without, err := m.WithoutRootKey().Marshal()
	if err != nil {
		return err
	}
	file := filepath.Join(dir, config.KeptMission)
	return overwriting([]string{file, file + ".prev"}, func() error { return s.Overwrite(config.KeptMission, without) })
}

// overwriting replaces files by other ones and then overwrites what the replaced ones held, in its place: it is not to
// be found in the blocks that the file system gives back. What flash keeps in blocks that it has retired is beyond the
// reach of software.
func overwriting(paths []string, replace func() error) error {
	var old []*os.File
	defer func() {
		for _, f := range old {
			_ = f.Close()
		}
	}()
	for _, p := range paths {
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		old = append(old, f)
	}
	if err := replace(); err != nil {
		return err
	}
	for _, f := range old {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if _, err := f.WriteAt(make([]byte, info.Size()), 0); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// noticeCopy sees to a card that is a copy of another kit's: two kits of one Node-ID keep each other out of the ring. The
// card knows that it is in another board than at its first start; if then somebody else announces this kit's Node-ID,
// it was not moved but copied, and the copy yields. It becomes a new kit where a mission file on the card lets that in
// by itself. Elsewhere a person has to decide: announcements are not signed, and a stranger's must not cost a kit that
// was moved its place in the mission.
func (k *Kit) noticeCopy() {
	d := k.overlay.found.Load()
	if d == nil || d.Snapshot().Stats.Clones == 0 {
		return
	}
	if !k.readmitted {
		k.health.Fault("card/identity", "another kit has this kit's identity, and this card is in another board than before: it is a copy")
		return
	}
	k.log.Error("this card is a copy of another kit's: it becomes a new kit")
	if err := k.becomeNew(k.boot.Boot().Serial); err != nil {
		k.health.Fault("card/identity", fmt.Sprintf("this card is a copy of another kit's, and cannot become a new one: %v", err))
		return
	}
	if err := k.boot.Reboot(initlink.Normal); err != nil {
		k.log.Error("reboot", "err", err)
	}
}

// becomeNew drops the kit's identity and then notes the board as its own: cut off between, the kit is a new one too.
func (k *Kit) becomeNew(serial string) error {
	if err := errors.Join(k.store.Remove(mission.KeyItem), k.store.Remove(mission.CertificateItem)); err != nil {
		return err
	}
	kept, err := store.Open(filepath.Join(k.cfg.StateDir, filepath.Base(config.CardKept)), store.Config{})
	if err != nil {
		return err
	}
	return kept.Save(config.KeptBoard, []byte(serial))
}

// takeNotes puts what PID 1 has to say into the health tree.
func (k *Kit) takeNotes(b initlink.Boot) {
	for _, n := range b.Notes {
		switch {
		case n.About == initlink.AboutState && n.Fault:
			k.health.Fault("card/state", n.Text)
		case n.About == initlink.AboutState:
			k.health.Warn("card/state", n.Text)
		case n.About == initlink.AboutMission && n.Fault:
			k.health.Fault("card/mission", n.Text)
		case n.About == initlink.AboutMission:
			k.health.Warn("card/mission", n.Text)
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
	loops, newBoard := k.loops(), k.boot.Boot().NewBoard
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
		if newBoard {
			k.noticeCopy()
		}
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
