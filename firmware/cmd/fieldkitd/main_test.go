package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fieldkit/firmware/config"
	"fieldkit/firmware/mission"
)

// What no restart cures ends the daemon at once, with a reason that names what to change.
func TestDaemonRefusesWhatItCannotUse(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	absent, empty := filepath.Join(dir, "absent"), write("empty.toml", "")
	for _, c := range []struct {
		name string
		o    options
		want string
	}{
		{"no configuration file where one is named", options{Config: absent, State: filepath.Join(dir, "state")}, "--config " + absent + ": "},
		{"no mission file where one is named", options{Config: empty, State: filepath.Join(dir, "state"), Mission: absent}, "--mission " + absent + ": "},
		{"unknown key", options{Config: write("a.toml", "[link]\nprot = 1\n")}, "link.prot"},
		{"impossible value", options{Config: write("b.toml", "[kit]\nnumber = 7\n")}, "kit.number"},
		{"no directory for the state", options{Config: empty, State: write("file", ""), Mission: ""}, "file"},
		{"a mission that is none", options{Config: empty, State: filepath.Join(dir, "state"), Mission: write("c.mission", "name = 1\n")}, "c.mission"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // should it start all the same, it ends again
			err := run(ctx, c.o, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error that names %q", err, c.want)
			}
		})
	}
	if err := run(t.Context(), options{Config: filepath.Join(dir, "a.toml")}, nil); !errors.Is(err, config.ErrInvalid) {
		t.Errorf("%v is not of the configuration", err)
	}
}

// "the mission file itself may be gone afterwards" (docs/operations.md): a kit that is in starts without it.
func TestDaemonNeedsTheMissionFileOnce(t *testing.T) {
	dir := t.TempDir()
	m, err := mission.New("alpha", mission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	file, state := filepath.Join(dir, "alpha.mission"), filepath.Join(dir, "state")
	if err := m.Save(file); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := mission.LoadOrCreateIdentity(state, file); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := checkMission(file, state); err != nil {
		t.Error(err)
	}
	founded := filepath.Join(dir, "founded")
	if _, _, _, err := mission.LoadOrCreateIdentity(founded, ""); err != nil {
		t.Fatal(err)
	}
	if err := checkMission(file, founded); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a kit that founded its own mission: %v", err)
	}
}

// On a card a file with a fault does not keep the kit from coming up, and what is in the other one counts.
func TestCardComesUpWithoutAFileThatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kit.toml")
	for _, c := range []struct{ text, want string }{
		{"[sip]\nport = 5070\n", ""},
		{"[sip]\nprot = 5070\n", "sip.prot"},
		{"[kit]\nnumber = 7\n", "kit.number"},
		// Of no use to the servers of the handsets' network, which a card has.
		{"[handset]\naddress = '10.1.2.3'\nnetwork = '10.1.2.0/28'\n", "handset.network"},
		{"[handset]\naddress = 'fd00::1'\nnetwork = 'fd00::/64'\n", "handset.network"},
		{"\x00\x01", "kit.toml"},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, problem, err := settings(options{Card: true, Config: file})
		if err != nil {
			t.Fatal(err)
		}
		if c.want == "" {
			if problem != nil || cfg.SIP.Port != 5070 {
				t.Errorf("problem %v, port %d", problem, cfg.SIP.Port)
			}
			continue
		}
		if problem == nil || !strings.Contains(problem.Error(), c.want) {
			t.Errorf("%q: problem %v does not name %q", c.text, problem, c.want)
		}
		if cfg.StateDir != config.CardState || cfg.SIP.Port != 5060 || cfg.Kit.Number != 0 {
			t.Errorf("%q: left over of it: %+v", c.text, cfg)
		}
	}
	if _, problem, err := settings(options{Card: true, Config: filepath.Join(t.TempDir(), "absent")}); err != nil || problem != nil {
		t.Error(problem, err)
	}
}
