// Command fieldkitd is the daemon of a kit: it finds other kits, forms the overlay with them, serves
// the handsets around it and shows how all that is. It needs no arguments and no configuration.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/alecthomas/kong"

	"fieldkit/firmware/boot/initlink"
	"fieldkit/firmware/config"
	"fieldkit/firmware/kit"
	"fieldkit/firmware/mission"
)

type options struct {
	Config       string           `help:"Configuration file, in the place of ${config}, which may be absent." placeholder:"FILE"`
	State        string           `help:"Directory of what survives a restart." placeholder:"DIR"`
	Mission      string           `help:"Mission file to import at the first start and to take handset accounts from." placeholder:"FILE"`
	Card         bool             `help:"Run as the kit that owns the board and boots from its card: other defaults, and what is wrong with a file on the card does not keep the kit from coming up."`
	StatusSocket string           `help:"Serve the status page on this Unix socket too." placeholder:"PATH"`
	Version      kong.VersionFlag `help:"Print the version."`
}

// defaultConfig may be absent: every key has a default.
const defaultConfig = "/etc/fieldkit/fieldkit.toml"

func main() {
	dispatch()
	var o options
	kong.Parse(&o, kong.Name("fieldkitd"), kong.Description("The daemon of a field kit."), kong.Vars{"version": kit.Version, "config": defaultConfig})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	link, err := initlink.FromEnv()
	if err == nil {
		// As often as the kit becomes another one.
		for err = run(ctx, o, link); errors.Is(err, kit.ErrRestart); {
			err = run(ctx, o, link)
		}
	}
	if err != nil {
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

// settings are those of the kit. On a card, problem is why files there are left out.
func settings(o options) (cfg *config.Config, problem, err error) {
	switch {
	case o.Card:
		cfg, problem = cardSettings(cmp.Or(o.Config, config.CardFile))
	case o.Config != "":
		if _, err = os.Stat(o.Config); err != nil { // a kit that was named a file would run without what it says
			return nil, nil, fmt.Errorf("--config %s: %w", o.Config, err)
		}
		cfg, err = config.Load(o.Config)
	default:
		cfg, err = config.Load(defaultConfig)
	}
	if err != nil {
		return nil, nil, err
	}
	if o.State != "" {
		cfg.StateDir = o.State
		cfg.Override("state_dir")
	}
	if o.Mission != "" {
		if err := checkMission(o.Mission, cfg.StateDir); err != nil {
			return nil, nil, err
		}
		cfg.Mission = o.Mission
		cfg.Override("mission")
	}
	return cfg, problem, cfg.Validate()
}

// cardSettings reads the files of the card. Nobody sees what a daemon says that does not run, so a file with a fault is
// left out: the kit comes up without it and says why on its page.
func cardSettings(file string) (*config.Config, error) {
	cfg, err := config.Card().Over(config.CardPersonal, file)
	if err == nil {
		return cfg, nil
	}
	if cfg, e := config.Card().Over(config.CardPersonal); e == nil {
		return cfg, err
	}
	if cfg, e := config.Card().Over(file); e == nil {
		return cfg, err
	}
	return config.Card(), err
}

func run(ctx context.Context, o options, link *initlink.Link) error {
	cfg, problem, err := settings(o)
	if err != nil {
		return err
	}
	newKit := kit.New
	if o.Card {
		newKit = kit.NewOnCard
	}
	k, err := newKit(cfg, kit.Options{StatusSocket: o.StatusSocket, Boot: link, Problem: problem})
	if err != nil {
		return err
	}
	return k.Run(ctx)
}
