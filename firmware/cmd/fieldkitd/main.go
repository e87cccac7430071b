// Command fieldkitd is the daemon of a kit: it finds other kits, forms the overlay with them, serves
// the handsets around it and shows how all that is. It needs no arguments and no configuration.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"fieldkit/firmware/config"
	"fieldkit/firmware/kit"
)

type options struct {
	Config       string           `help:"Configuration file; it may be absent." default:"/etc/fieldkit/fieldkit.toml" placeholder:"FILE"`
	State        string           `help:"Directory of what survives a restart." placeholder:"DIR"`
	Mission      string           `help:"Mission file to import at the first start and to take handset accounts from." placeholder:"FILE"`
	StatusSocket string           `help:"Serve the status page on this Unix socket too." placeholder:"PATH"`
	Version      kong.VersionFlag `help:"Print the version."`
}

func main() {
	var o options
	kong.Parse(&o, kong.Name("fieldkitd"), kong.Description("The daemon of a field kit."), kong.Vars{"version": kit.Version})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "fieldkitd:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	cfg, err := config.Load(o.Config)
	if err != nil {
		return err
	}
	if o.State != "" {
		cfg.StateDir = o.State
		cfg.Override("state_dir")
	}
	if o.Mission != "" {
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
