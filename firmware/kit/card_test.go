package kit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/board/store"
	"fieldkit/firmware/boot/initlink"
	"fieldkit/firmware/config"
	"fieldkit/firmware/erase"
	"fieldkit/firmware/health"
	"fieldkit/firmware/mission"
	"fieldkit/firmware/task"
	"fieldkit/sip/agent"
	"fieldkit/sip/media"
)

// initOf plays PID 1: it says b and returns what it hears.
func initOf(t *testing.T, b initlink.Boot) (*initlink.Link, <-chan initlink.Request) {
	t.Helper()
	ours, theirs := net.Pipe()
	heard := make(chan initlink.Request, 1024)
	go func() {
		defer close(heard)
		if json.NewEncoder(theirs).Encode(initlink.Reply{Boot: &b}) != nil {
			return
		}
		for d := json.NewDecoder(theirs); ; {
			var r initlink.Request
			if d.Decode(&r) != nil {
				return
			}
			heard <- r
		}
	}()
	l, err := initlink.New(ours, func() time.Duration { return 1234 * time.Millisecond })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(); _ = theirs.Close() })
	return l, heard
}

// "watchdog bites a hung daemon": the beat says that the kit is well only while its loops do their rounds.
func TestBeatTellsALoopThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := still(t)
		// A tree whose lock is held for ever is a part that hangs.
		var holds atomic.Bool
		release := make(chan struct{})
		k.health = health.New("kit", func() time.Time {
			if holds.Load() {
				<-release
			}
			return time.Now()
		})
		var heard <-chan initlink.Request
		k.boot, heard = initOf(t, initlink.Boot{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- k.beat(ctx, func() {}) }()
		beats := func(d time.Duration) (well, ill int) {
			time.Sleep(d)
			synctest.Wait()
			for {
				select {
				case r := <-heard:
					if r.Beat != nil && *r.Beat {
						well++
					} else {
						ill++
					}
				default:
					return well, ill
				}
			}
		}
		if well, ill := beats(time.Minute); well < 30 || ill > 0 {
			t.Errorf("%d beats, %d of them of a kit that is ill", well+ill, ill)
		}
		holds.Store(true)
		beats(beatLimit + 2*beatEvery)
		if well, ill := beats(30 * time.Second); well > 0 || ill < 10 {
			t.Errorf("a loop hangs: %d beats say that all is well, %d do not", well, ill)
		}
		holds.Store(false)
		close(release)
		beats(2 * beatEvery)
		if well, ill := beats(30 * time.Second); well < 10 || ill > 0 {
			t.Errorf("it goes on: %d and %d", well, ill)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestStagesOfTheBoot(t *testing.T) {
	k := still(t)
	if s := k.bootStatus(); s == nil || len(s) != 0 {
		t.Errorf("off the card: %v", s)
	}
	k.boot, _ = initOf(t, initlink.Boot{Stages: []initlink.Stage{{Name: "kernel", At: 900}}})
	k.markStage(task.Status{Name: "telephony", State: task.Starting})
	k.markStage(task.Status{Name: "telephony", State: task.Running})
	k.markStage(task.Status{Name: "telephony", State: task.Running})
	k.markStage(task.Status{Name: "accounts", State: task.Running})
	s := k.bootStatus()
	if len(s) != 2 || s[0].Stage != "kernel" || s[0].AtMS != 900 || s[1].Stage != "SIP" || s[1].AtMS != 1234 {
		t.Errorf("%+v", s)
	}
}

func TestNotesOfInit(t *testing.T) {
	k := still(t)
	k.takeNotes(initlink.Boot{Notes: []initlink.Note{
		{About: initlink.AboutState, Text: "a"}, {About: initlink.AboutMission, Fault: true, Text: "b"}, {About: initlink.AboutWatchdog, Text: "c"},
		{About: initlink.AboutModules, Text: "d"}, {About: initlink.AboutDaemon, Text: "e"}, {About: "of another version", Text: "f"},
	}})
	for name, want := range map[string]string{
		"card/state": "warn: a", "card/mission": "fault: b", "card/watchdog": "warn: c", "card/modules": "warn: d", "card/daemon": "warn: e", "card/of another version": "",
	} {
		if got := check(k, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	k.takeNotes(initlink.Boot{Notes: []initlink.Note{{About: initlink.AboutState, Fault: true, Text: "g"}}})
	if got := check(k, "card/state"); got != "fault: g" {
		t.Error(got)
	}
}

// A kit on a card comes up whatever is wrong with its files.
func TestIdentityOnACard(t *testing.T) {
	m, err := mission.New("alpha", mission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		prepare   func(t *testing.T, cfg *config.Config)
		problem   string // in the error; "" is none
		volatile  bool
		inMission bool // in that of the file
	}{
		{"all well", func(*testing.T, *config.Config) {}, "", false, true},
		{"no mission file", func(_ *testing.T, c *config.Config) { _ = os.Remove(c.Mission) }, "", false, false},
		{"a mission file that is none", func(_ *testing.T, c *config.Config) { _ = os.WriteFile(c.Mission, []byte("x"), 0o600) }, "mission", false, false},
		{"one without the root key", func(_ *testing.T, c *config.Config) { _ = m.WithoutRootKey().Save(c.Mission) }, "root key", false, false},
		{"a key that is damaged, both copies", func(t *testing.T, c *config.Config) {
			for _, name := range []string{mission.KeyItem, mission.KeyItem + ".prev"} {
				if err := os.WriteFile(filepath.Join(c.StateDir, name), []byte("\x00\x00"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, "damaged", true, true},
		{"a state that was to be erased, and cannot be", func(t *testing.T, c *config.Config) {
			if err := os.MkdirAll(filepath.Join(c.StateDir, erase.Name, "not empty"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "erasing", true, true},
		{"a state directory that is none", func(_ *testing.T, c *config.Config) {
			c.StateDir = filepath.Join(c.StateDir, "file")
			_ = os.WriteFile(c.StateDir, nil, 0o600)
		}, "state directory", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config.Card()
			cfg.StateDir, cfg.Mission = t.TempDir(), filepath.Join(t.TempDir(), "kit.mission")
			if err := m.Save(cfg.Mission); err != nil {
				t.Fatal(err)
			}
			c.prepare(t, cfg)
			volatile := filepath.Join(t.TempDir(), "state")
			where, problem := identityOnCard(cfg, volatile)
			if (problem == nil) != (c.problem == "") || problem != nil && !strings.Contains(problem.Error(), c.problem) {
				t.Errorf("problem %v, want %q", problem, c.problem)
			}
			if (where == volatile) != c.volatile || cfg.StateDir != where {
				t.Errorf("state in %s", where)
			}
			_, got, _, err := mission.LoadOrCreateIdentity(cfg.StateDir, cfg.Mission)
			if err != nil || got.Same(m) != c.inMission {
				t.Errorf("%v, mission %v", err, got)
			}
		})
	}
}

// filesWith lists the files below dir in which there is a private key.
func filesWith(t *testing.T, dir, text string) (r []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(text)) {
			r = append(r, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// "the root private key is then erased from the kit's card": from the copy in use and from what the card was
// personalised with, the files themselves and what they were before.
func TestRootKeyIsForgotten(t *testing.T) {
	m, err := mission.New("alpha", mission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	inUse, kept := filepath.Join(dir, "kit.mission"), filepath.Join(dir, "card")
	if err := m.Save(inUse); err != nil {
		t.Fatal(err)
	}
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(kept, store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // twice: now and previous
		if err := s.Save(config.KeptMission, b); err != nil {
			t.Fatal(err)
		}
	}
	// Another name of the same blocks, as the file system's free space is.
	for i, name := range []string{inUse, filepath.Join(kept, config.KeptMission), filepath.Join(kept, config.KeptMission+".prev")} {
		if err := os.Link(name, filepath.Join(dir, "block"+string(rune('0'+i)))); err != nil {
			t.Fatal(err)
		}
	}
	const key = "PRIVATE KEY"
	if n := len(filesWith(t, dir, key)); n != 6 {
		t.Fatalf("%d files have the key before", n)
	}
	for range 2 { // the second time there is nothing to do
		if err := errors.Join(forgetRootKey(inUse), forgetKeptRootKey(kept)); err != nil {
			t.Fatal(err)
		}
	}
	if left := filesWith(t, dir, key); len(left) > 0 {
		t.Errorf("the key is in %v", left)
	}
	now, err := mission.Load(inUse)
	if err != nil || !now.Same(m) {
		t.Error(err)
	}
	if b, err = s.Load(config.KeptMission); err != nil {
		t.Fatal(err)
	}
	if now, err = mission.Parse(b); err != nil || !now.Same(m) {
		t.Error(err)
	}
	// Where there is nothing, or no mission, nothing is done.
	if err := errors.Join(forgetRootKey(filepath.Join(dir, "none")), forgetKeptRootKey(filepath.Join(dir, "none")), s.Save(config.KeptMission, nil), forgetKeptRootKey(kept)); err != nil {
		t.Error(err)
	}
}

// A copy that becomes a new kit has another Node-ID in the same mission, and the board is its own.
func TestCopyBecomesANewKit(t *testing.T) {
	m, err := mission.New("alpha", mission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	k := still(t)
	file := filepath.Join(t.TempDir(), "kit.mission")
	if err := m.Save(file); err != nil {
		t.Fatal(err)
	}
	before, _, _, err := mission.LoadOrCreateIdentity(k.cfg.StateDir, file)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.becomeNew("10000000bbbb"); err != nil {
		t.Fatal(err)
	}
	after, got, founded, err := mission.LoadOrCreateIdentity(k.cfg.StateDir, file)
	if err != nil || founded || !got.Same(m) || after.NodeID() == before.NodeID() {
		t.Errorf("%v: founded %v, %v and %v", err, founded, before.NodeID(), after.NodeID())
	}
	s, err := store.Open(filepath.Join(k.cfg.StateDir, "card"), store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := s.Load(config.KeptBoard); err != nil || string(b) != "10000000bbbb" {
		t.Errorf("board %q: %v", b, err)
	}
}

// On a fast boot the overlay is there before the telephony listens. That is no failure of the overlay.
func TestOverlayComesUpBeforeTheTelephony(t *testing.T) {
	k := still(t)
	if err := k.telephony.republish(); err != nil {
		t.Errorf("without an agent: %v", err)
	}
	r, err := media.New(media.Config{Address: netip.MustParseAddr("127.0.0.1"), Ports: [2]uint16{20000, 20999}, MaxCalls: 1, Log: k.log})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	a, err := agent.New(agent.Config{
		Address: netip.MustParseAddr("127.0.0.1"), Port: 5060, Overlay: k.mission.Load().Overlay, Kit: k.id.NodeID().String(),
		Network: netip.MustParsePrefix("127.0.0.0/8"), Directory: directory{k}, Trunks: trunks{&k.overlay}, Relay: r, Log: k.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	k.telephony.agent.Store(a)
	if err := k.telephony.republish(); err != nil {
		t.Errorf("an agent that does not run yet: %v", err)
	}
}
