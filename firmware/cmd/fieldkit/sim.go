package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime/debug"
	"strings"
	"text/tabwriter"
	"time"

	"fieldkit/overlay/sim"
)

// simCommand runs whole overlays in virtual time.
type simCommand struct {
	Scenario string        `arg:"" help:"What to simulate: ${enum}." enum:"list,soak,${scenarios}" default:"list"`
	Nodes    int           `help:"How many kits, in each ring where there are several." placeholder:"N"`
	Rings    int           `help:"How many rings meet." placeholder:"N"`
	Known    int           `help:"How many others discovery shows to each kit: all up to 64 kits, 4 of more, if not given." placeholder:"N"`
	Seed     uint64        `help:"Everything random comes of it." default:"1"`
	Loss     *float64      `help:"Percent of packets lost, each way." placeholder:"PERCENT"`
	Delay    time.Duration `help:"Delay of a packet, at least." default:"5ms"`
	Jitter   time.Duration `help:"And up to so much more." default:"10ms"`
	Real     bool          `help:"ECDSA instead of a keyed hash of the same size: for small rings, and not the same bytes twice."`
	JSON     bool          `name:"json" help:"Print one JSON document for each run."`
	Seeds    int           `help:"For soak: how many seeds, beginning with --seed." default:"1000"`
	Within   time.Duration `help:"For soak: stop after so long." default:"1h"`
}

// simGC trades memory, which a workstation has, for a sixth of the time.
const simGC = 400

var errBroken = errors.New("a rule was broken")

func (c simCommand) Run(ctx context.Context) error {
	debug.SetGCPercent(simGC)
	return c.run(ctx, os.Stdout)
}

func (c simCommand) run(ctx context.Context, out io.Writer) error {
	switch c.Scenario {
	case "list":
		return listScenarios(out)
	case "soak":
		if err := c.checkSoak(); err != nil {
			return err
		}
		return c.soak(ctx, out)
	}
	if err := c.check(); err != nil {
		return err
	}
	o := sim.Options{Nodes: c.Nodes, Rings: c.Rings, Known: c.Known, Seed: c.Seed, Real: c.Real, Delay: c.Delay, Jitter: c.Jitter}
	if c.Loss != nil {
		loss := *c.Loss / 100
		o.Loss = &loss
	}
	r, err := sim.Run(ctx, c.Scenario, o)
	if err != nil {
		return err
	}
	return c.show(r, out)
}

// check names the option that is out of its range; what options together cannot be, the simulation says.
func (c simCommand) check() error {
	switch {
	case c.Nodes < 0 || c.Nodes > sim.MaxNodes:
		return outOfRange("nodes", c.Nodes, fmt.Sprintf("1 to %d", sim.MaxNodes))
	case c.Scenario == "merge" && (c.Rings < 0 || c.Rings == 1): // one ring has nobody to meet
		return outOfRange("rings", c.Rings, "2 or more")
	case c.Rings < 0:
		return outOfRange("rings", c.Rings, "1 or more")
	case c.Known < 0:
		return outOfRange("known", c.Known, "1 or more")
	case c.Loss != nil && (*c.Loss < 0 || *c.Loss >= 100 || math.IsNaN(*c.Loss)):
		return outOfRange("loss", *c.Loss, "0 to less than 100 percent")
	case c.Delay < 0:
		return outOfRange("delay", c.Delay, "0s or more")
	case c.Jitter < 0:
		return outOfRange("jitter", c.Jitter, "0s or more")
	}
	return nil
}

// checkSoak is check for soak, which takes its seeds' word for all else.
func (c simCommand) checkSoak() error {
	switch {
	case c.Seeds < 1:
		return outOfRange("seeds", c.Seeds, "1 or more")
	case c.Within < 0:
		return outOfRange("within", c.Within, "0s or more")
	}
	return nil
}

func outOfRange(option string, value any, want string) error {
	return fmt.Errorf("option --%s %v: want %s", option, value, want)
}

func (c simCommand) show(r *sim.Report, out io.Writer) error {
	write := r.WriteTable
	if c.JSON {
		write = r.WriteJSON
	}
	if err := write(out); err != nil {
		return err
	}
	if r.Failed() {
		return errBroken
	}
	return nil
}

// soak runs seed after seed over all scenarios, and stops at the first that breaks a rule.
func (c simCommand) soak(ctx context.Context, out io.Writer) error {
	begun, done := time.Now(), 0
	runs := map[string]int{}
	for ; done < c.Seeds && ctx.Err() == nil && time.Since(begun) < c.Within; done++ {
		name, o := sim.Soak(c.Seed + uint64(done))
		r, err := sim.Run(ctx, name, o)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		runs[name]++
		if c.JSON || r.Failed() {
			if err := c.show(r, out); err != nil {
				return err
			}
		}
	}
	for _, s := range sim.Scenarios() {
		if n := runs[s.Name]; n > 0 {
			fmt.Fprintf(out, "%-10s %4d runs, no rule broken\n", s.Name, n)
		}
	}
	fmt.Fprintf(out, "%d of %d seeds from %d on, %.0f s\n", done, c.Seeds, c.Seed, time.Since(begun).Seconds())
	return nil
}

// scenarioNames is for the command line's list of what there is.
func scenarioNames() string {
	var names []string
	for _, s := range sim.Scenarios() {
		names = append(names, s.Name)
	}
	return strings.Join(names, ",")
}

func listScenarios(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, s := range sim.Scenarios() {
		if _, err := fmt.Fprintf(t, "%s\t%s\n", s.Name, s.Help); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(t, "soak\ta thousand seeds over all of these\n"); err != nil {
		return err
	}
	return t.Flush()
}
