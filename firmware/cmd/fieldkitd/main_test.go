package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fieldkit/firmware/config"
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
		{"unknown key", options{Config: write("a.toml", "[link]\nprot = 1\n")}, "link.prot"},
		{"impossible value", options{Config: write("b.toml", "[kit]\nnumber = 7\n")}, "kit.number"},
		{"no directory for the state", options{Config: empty, State: write("file", ""), Mission: absent}, "file"},
		{"a mission that is none", options{Config: empty, State: filepath.Join(dir, "state"), Mission: write("c.mission", "name = 1\n")}, "c.mission"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // should it start all the same, it ends again
			err := run(ctx, c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error that names %q", err, c.want)
			}
		})
	}
	if err := run(t.Context(), options{Config: filepath.Join(dir, "a.toml")}); !errors.Is(err, config.ErrInvalid) {
		t.Errorf("%v is not of the configuration", err)
	}
}
