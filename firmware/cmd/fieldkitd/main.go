// Command fieldkitd is the daemon of a kit: it finds other kits, forms the overlay with them, serves
// the handsets around it and shows how all that is. It needs no arguments and no configuration.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/alecthomas/kong"

	"fieldkit/firmware/config"
	"fieldkit/firmware/kit"
	"fieldkit/firmware/mission"
)

type options struct {
	Config       string           `help:"Configuration file, in the place of ${config}, which may be absent." placeholder:"FILE"`
	State        string           `help:"Directory of what survives a restart." placeholder:"DIR"`
	Mission      string           `help:"Mission file to import at the first start and to take handset accounts from." placeholder:"FILE"`
	StatusSocket string           `help:"Serve the status page on this Unix socket too." placeholder:"PATH"`
	Version      kong.VersionFlag `help:"Print the version."`
}

// defaultConfig may be absent: every key has a default.
const defaultConfig = "/etc/fieldkit/fieldkit.toml"

func main() {
	var o options
	kong.Parse(&o, kong.Name("fieldkitd"), kong.Description("The daemon of a field kit."), kong.Vars{"version": kit.Version, "config": defaultConfig})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "fieldkitd:", err)
		os.Exit(1)
	}
}

// checkMission wants a mission file that was named to be there, as the kit would found a mission of its own without.
// Once it is in, its own copy does, and the file may be gone.
func checkMission(path, stateDir string) error {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if m, e := mission.Load(filepath.Join(stateDir, mission.MissionItem)); e == nil && !m.Founded {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("--mission %s: %w", path, err)
	}
	return nil
}

func run(ctx context.Context, o options) error {
	path := defaultConfig
	if o.Config != "" {
		path = o.Config
		if _, err := os.Stat(path); err != nil { // a kit that was named a file would run without what it says
			return fmt.Errorf("--config %s: %w", path, err)
		}
	}
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	if o.State != "" {
		cfg.StateDir = o.State
		cfg.Override("state_dir")
	}
	if o.Mission != "" {
		if err := checkMission(o.Mission, cfg.StateDir); err != nil {
			return err
		}
		cfg.Mission = o.Mission
		cfg.Override("mission")
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	k, err := kit.New(cfg, kit.Options{StatusSocket: o.StatusSocket})
	if err != nil {
		return err
	}
	return k.Run(ctx)
}
