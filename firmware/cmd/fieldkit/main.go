// Command fieldkit is the operator's tool: it makes missions and handset accounts, asks kits how they
// are, and runs several kits and phones on one machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"fieldkit/firmware/kit"
	"fieldkit/firmware/lab"
	"fieldkit/firmware/mission"
)

type commands struct {
	Mission struct {
		New      missionNew      `cmd:"" help:"Make a mission: its root, its configuration, its Wi-Fi."`
		Show     missionShow     `cmd:"" help:"Show what is in a mission file."`
		Diagnose missionDiagnose `cmd:"" help:"Let a kit ask the others how they are."`
		Revoke   missionRevoke   `cmd:"" help:"Cut off a lost kit: no other kit believes it any more."`
		Export   missionExport   `cmd:"" help:"Write a copy without the root key, for kits that are in."`

		Document missionDocument `cmd:"" help:"Print the signed configuration document (.relo)."`
		Merge    missionMerge    `cmd:"" help:"Bring together what two stewards signed without knowing of each other."`
	} `cmd:"" help:"The mission that kits are flashed from."`
	Handset struct {
		Add  handsetAdd  `cmd:"" help:"Make a handset account and say what to type into the phone."`
		List handsetList `cmd:"" help:"List the handset accounts."`
	} `cmd:"" help:"The handset accounts of a mission."`
	Label   labelCommand     `cmd:"" help:"Draw the labels for the boxes: name, number, and QR codes to join and to open the page."`
	Image   imageCommand     `cmd:"" help:"Build the image of a card, or make the cards of a mission."`
	Flash   flashCommand     `cmd:"" help:"Write an image to a card, and read it back."`
	Enrol   enrolCommands    `cmd:"" help:"Let kits into a mission whose root key stays at home."`
	Trace   traceCommand     `cmd:"" help:"Follow the way to a kit, or to where a person's registration is kept, kit by kit."`
	Status  statusCommand    `cmd:"" help:"Ask a kit how it is."`
	Lab     labCommand       `cmd:"" help:"Run several kits and phones on this machine."`
	Decode  decodeCommand    `cmd:"" help:"Print RELOAD messages, in hex or captured, as JSON."`
	Phone   phoneCommand     `cmd:"" help:"A SIP phone that sends a tone and measures what it hears."`
	Sim     simCommand       `cmd:"" help:"Simulate overlays of many kits in virtual time."`
	Emulate emulateCommand   `cmd:"" help:"Boot a card's image on this machine and show its console and its LEDs."`
	Sign    signCommand      `cmd:"" help:"Sign an image as an update for the kits of a mission."`
	Update  updateCommand    `cmd:"" help:"Send a kit a new system, and follow it until it is committed or rolled back."`
	Version kong.VersionFlag `help:"Print the version."`
}

func main() {
	var c commands
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	k := kong.Parse(&c, kong.Name("fieldkit"), kong.Description("The operator's tool of the field kit."),
		kong.UsageOnError(), kong.BindTo(ctx, (*context.Context)(nil)), kong.Vars{"version": kit.Version, "scenarios": scenarioNames()})
	err := k.Run()
	if errors.Is(err, lab.ErrFailed) {
		fmt.Fprintln(os.Stderr, "fieldkit:", err)
		os.Exit(lab.ExitFailed)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fieldkit:", err)
		os.Exit(exitCode(err))
	}
}

type (
	missionNew      struct{ mission.NewCommand }
	missionShow     struct{ mission.ShowCommand }
	missionDiagnose struct{ mission.DiagnoseCommand }
	missionRevoke   struct{ mission.RevokeCommand }
	missionExport   struct{ mission.ExportCommand }

	missionDocument struct{ mission.DocumentCommand }
	missionMerge    struct{ mission.MergeCommand }

	handsetAdd  struct{ mission.HandsetAddCommand }
	handsetList struct{ mission.HandsetListCommand }
)

func (c missionNew) Run() error      { return c.Write(os.Stdout) }
func (c missionShow) Run() error     { return c.Write(os.Stdout) }
func (c missionDiagnose) Run() error { return c.Write(os.Stdout) }
func (c missionRevoke) Run() error   { return c.Write(os.Stdout) }
func (c missionExport) Run() error   { return c.Write(os.Stdout) }

func (c missionDocument) Run() error { return c.Write(os.Stdout) }
func (c missionMerge) Run() error    { return c.Write(os.Stdout) }

func (c handsetAdd) Run() error  { return c.Write(os.Stdout) }
func (c handsetList) Run() error { return c.Write(os.Stdout) }

type labCommand struct {
	Kits   int           `help:"How many kits, 1 to 16." default:"3"`
	Calls  int           `help:"How many calls at a time, each between two phones of its own, 0 to 50." default:"1"`
	Loss   float64       `help:"Percent of the frames between kits that are lost, each way." placeholder:"PERCENT"`
	Delay  time.Duration `help:"Delay between kits, one way." placeholder:"TIME"`
	JSON   bool          `name:"json" help:"Make the calls once, print one JSON document and exit, with 0 only if every call worked."`
	Talk   time.Duration `help:"How long the calls of a --json run last." default:"5s"`
	Within time.Duration `help:"How long a --json run waits until the kits are one ring." default:"1m"`
	Net    string        `help:"Hosts: ${enum}." enum:"auto,namespaces,loopback" default:"auto"`
	Log    slog.Level    `help:"What the lab says of itself: debug, info, warn or error." default:"warn"`
}

func (c labCommand) Run(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return lab.Command(ctx, lab.Options{
		Kits: c.Kits, Calls: c.Calls, Loss: c.Loss, Delay: c.Delay, Net: c.Net, Talk: c.Talk, Within: c.Within,
		Daemon: filepath.Join(filepath.Dir(self), "fieldkitd"), Tool: self,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: c.Log})),
	}, c.JSON, os.Args[1:], os.Stdout, os.Stderr)
}
