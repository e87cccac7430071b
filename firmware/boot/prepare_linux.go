package boot

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fieldkit/board/store"
	"fieldkit/firmware/boot/initlink"
	"fieldkit/firmware/card"
	"fieldkit/firmware/config"
	"fieldkit/firmware/erase"
)

// Times of the preparation.
const (
	cardWait  = 15 * time.Second // for the card's driver to find it
	cardPause = 20 * time.Millisecond
)

// prepare brings the system as far as the daemon needs it. It runs beside the loop and touches nothing of the loop's.
func (p *pid1) prepare() (r initlink.Boot) {
	note := func(about string, fault bool, text string) {
		r.Notes = addNote(p.log, r.Notes, about, fault, text)
	}
	l, err := newLoader(p.log)
	if err != nil {
		note(initlink.AboutModules, false, err.Error())
	} else {
		if err := l.watch(); err != nil {
			note(initlink.AboutModules, false, err.Error())
		}
		go func() {
			l.boot()
			p.timeline.mark("modules", initlink.SinceKernel())
		}()
	}
	go func() {
		_, _ = rand.Read(make([]byte, 1)) // blocks until the kernel has random numbers for keys
		p.timeline.mark("entropy", initlink.SinceKernel())
	}()
	made, chip := releaseTime(), hardwareClock()
	if err := setClock(made, chip); err != nil {
		p.log.Warn("clock", "err", err)
	}
	for _, dir := range []string{permMount, "/run/fieldkit"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			p.log.Error("directory", "err", err)
		}
	}
	at := p.findCard(note)
	r.Disk = at.Disk
	kept := p.mountState(at, note)
	if err := setClock(made, chip, savedTime(config.CardState)); err != nil {
		p.log.Warn("clock", "err", err)
	}
	p.timeline.mark("state", initlink.SinceKernel())
	p.layFiles(at, kept, note)
	r.Serial = serial()
	if kept != nil {
		if r.NewBoard, err = newBoard(kept, r.Serial); err != nil {
			p.log.Warn("serial number of the board", "err", err)
		}
	}
	if err := sealRoot(); err != nil {
		p.log.Warn("root file system not made read-only", "err", err)
	}
	if l != nil {
		for _, f := range l.failures() {
			note(initlink.AboutModules, false, f)
		}
	}
	return r
}

// findCard waits until the card is there.
func (p *pid1) findCard(note func(string, bool, string)) card.Location {
	for until := time.Now().Add(cardWait); ; time.Sleep(cardPause) {
		at, err := card.Locate("/sys", "/dev")
		if err == nil {
			p.timeline.mark("card", initlink.SinceKernel())
			p.log.Info("card", "disk", at.Disk)
			return at
		}
		if time.Now().After(until) {
			p.log.Warn("card", "err", err)
			note(initlink.AboutState, true, "no card was found, all is kept in memory")
			return card.Location{}
		}
	}
}

// mountState mounts the state partition, or memory in its place. It returns where PID 1 keeps things, nil in memory.
func (p *pid1) mountState(at card.Location, note func(string, bool, string)) items {
	state := permNone
	if device := at.Partitions[card.Perm.Number]; device != "" {
		var err error
		state, err = preparePerm(statePartition{device, p.limited})
		switch state {
		case permKept:
			if err != nil {
				p.log.Warn("state partition", "err", err)
			}
		case permMended:
			note(initlink.AboutState, false, fmt.Sprintf("the card was damaged and was repaired; something may be lost: %v", err))
		case permMade:
			note(initlink.AboutState, false, fmt.Sprintf("the card was damaged beyond repair and begins anew: %v", err))
		case permNone:
			note(initlink.AboutState, true, fmt.Sprintf("the card cannot be used, all is kept in memory: %v", err))
		}
	}
	if state == permNone {
		if err := volatilePerm(); err != nil {
			p.log.Error("memory for the state", "err", err)
		}
		return nil
	}
	if err := finishErase(at.Disk); err != nil {
		note(initlink.AboutState, true, err.Error())
	}
	s, err := store.Open(config.CardKept, store.Config{MaxSize: card.MaxPersonal, Log: p.log})
	if err != nil {
		note(initlink.AboutState, true, err.Error())
		return nil
	}
	return s
}

// finishErase empties the state partition, and the personalisation area if that still has something, where somebody wanted
// the kit erased. It is before anything there is read, so the kit that comes up knows nothing of the one before.
func finishErase(device string) error {
	if !erase.Marked(config.CardState) {
		return nil
	}
	disk, err := card.Open(device)
	if err != nil {
		return err
	}
	defer disk.Close()
	return eraseCard(disk, config.CardState)
}

// layFiles puts the settings and the mission where the daemon finds them.
func (p *pid1) layFiles(at card.Location, kept items, note func(string, bool, string)) {
	if at.Disk == "" {
		return
	}
	disk, err := card.Open(at.Disk)
	if err != nil {
		note(initlink.AboutMission, true, err.Error())
		return
	}
	defer disk.Close()
	files, problems := filesOf(disk, kept)
	for path, data := range files {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			problems = append(problems, err)
		}
	}
	for _, err := range problems {
		note(initlink.AboutMission, true, err.Error())
	}
	p.timeline.mark("settings", initlink.SinceKernel())
}

// releaseTime is when the image was made; zero if it does not say.
func releaseTime() time.Time {
	b, err := readLimited(card.RuntimeRelease, card.MaxRelease)
	if err != nil {
		return time.Time{}
	}
	r, err := card.ParseRelease(b)
	if err != nil {
		return time.Time{}
	}
	return r.Time
}

// hardwareClock is what the board's clock shows; zero where there is none, as on most boards.
func hardwareClock() time.Time {
	b, err := os.ReadFile("/sys/class/rtc/rtc0/since_epoch")
	if err != nil {
		return time.Time{}
	}
	return parseEpoch(b)
}

// savedTime is what the daemon saved last; zero if it did not.
func savedTime(dir string) time.Time {
	s, err := store.Open(dir, store.Config{})
	if err != nil {
		return time.Time{}
	}
	b, err := s.Load(config.ClockItem)
	if err != nil {
		return time.Time{}
	}
	return parseSaved(b)
}

// setClock sets the clock to the floor.
func setClock(made time.Time, others ...time.Time) error {
	at, set := floor(time.Now(), made, others...)
	if !set {
		return nil
	}
	t := unix.NsecToTimespec(at.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &t); err != nil {
		return fmt.Errorf("setting it to %v: %w", at, err)
	}
	return nil
}

// serial is the board's, "" where it has none.
func serial() string {
	b, err := os.ReadFile(filepath.Join("/proc/device-tree", "serial-number"))
	if err != nil {
		return ""
	}
	s := strings.TrimRight(string(b), "\x00\n ")
	return s[:min(len(s), 64)]
}
