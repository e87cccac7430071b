//go:build linux

package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"fieldkit/ui"
)

// Show runs the lab as a demonstration: kits, phones, calls that are made again when they end, and a
// table of all that, once a second, until ctx ends.
func Show(ctx context.Context, l *Lab, out io.Writer, hints []string) error {
	live := false
	if f, ok := out.(*os.File); ok {
		live = term.IsTerminal(int(f.Fd()))
	}
	fmt.Fprintf(out, "Starting %d kits on %s.\n", l.opts.Kits, l.Describe())
	if err := l.StartKits(ctx); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- l.demonstrate(ctx) }()
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if err != nil && ctx.Err() == nil {
				return err
			}
			failed = nil
		case <-every.C:
		}
		// Where nobody can watch a screen change, a table every five seconds is enough.
		if live || n%5 == 1 {
			b := l.table(ctx, hints)
			if live {
				b = "\x1b[H\x1b[J" + b
			}
			if _, err := io.WriteString(out, b); err != nil {
				return err
			}
		}
	}
}

// demonstrate keeps one call up between each pair of phones.
func (l *Lab) demonstrate(ctx context.Context) error {
	if err := l.StartPhones(ctx); err != nil {
		return err
	}
	for i := range l.opts.Calls {
		a, b := l.Phones[2*i], l.Phones[2*i+1]
		go func() {
			for ctx.Err() == nil {
				if _, err := a.Call(ctx, b.Account.Number); err == nil {
					_ = a.WaitIdle(ctx)
				}
				_ = pause(ctx, 3*time.Second)
			}
		}()
	}
	return nil
}

func (l *Lab) table(ctx context.Context, hints []string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 2, 8, 2, ' ', 0)
	var handsets, calls []string
	fmt.Fprintf(w, "KIT\tNODE-ID\tRING\tLINKED\tJOINED\tLIGHTS\tSTATE\tMEMORY\tWRONG\n")
	for _, k := range l.Kits {
		s, err := k.Status(ctx)
		if err != nil {
			fmt.Fprintf(w, "%d\t-\t-\t-\t-\t-\t%s\t-\t-\n", k.Number, "does not answer")
			continue
		}
		fmt.Fprintf(w, "%d %s\t%.8s\t%d\t%s\t%.0f ms\t%s\t%s\t%.1f MB\t%s\n",
			s.Kit.Number, s.Kit.Name, s.Kit.NodeID, len(s.Ring), linked(s), s.Kit.JoinedMS, lights(s.Board), s.Board.State, float64(s.Kit.RSSBytes)/1e6, wrong(s.Health))
		for _, h := range s.Handsets {
			if h.Registered {
				handsets = append(handsets, fmt.Sprintf("%s\t%s\t%d\t%s %s\t%s", h.Number, h.Name, s.Kit.Number, h.Contact, h.Transport, ui.Age(h.SinceS)))
			}
		}
		for _, c := range s.Calls {
			for _, m := range c.Media {
				calls = append(calls, fmt.Sprintf("%d\t%s → %s\t%s\t%s\t%d\t%d\t%.1f ms", s.Kit.Number, m.From, m.To, c.State, ui.Age(c.SinceS), m.Packets, m.Lost, m.JitterMS))
			}
		}
	}
	section := func(head string, rows []string) {
		if len(rows) > 0 {
			fmt.Fprintf(w, "\n%s\n%s\n", head, strings.Join(rows, "\n"))
		}
	}
	section("NUMBER\tNAME\tON KIT\tCONTACT\tFOR", handsets)
	section("KIT\tSTREAM AS THE KIT RELAYS IT\tCALL\tFOR\tPACKETS\tLOST\tJITTER", calls)
	section("PHONE\tKIT\tSTATE\tSET-UP\tSENT\tRECEIVED\tLOST\tJITTER\tHEARS THE OTHER'S TONE", l.phoneRows())
	_ = w.Flush()
	fmt.Fprintf(&b, "\n%s\n", strings.Join(hints, "\n"))
	return b.String()
}

func (l *Lab) phoneRows() (rows []string) {
	for _, p := range l.Phones {
		s := p.Snapshot()
		hears := "-"
		if s.Media.Received > 0 {
			hears = map[bool]string{true: "yes", false: "no"}[s.Media.ToneOK]
		}
		setup := "-"
		if s.Setup > 0 {
			setup = fmt.Sprintf("%.1f ms", ms(s.Setup))
		}
		rows = append(rows, fmt.Sprintf("%s %s\t%d\t%s\t%s\t%d\t%d\t%d\t%.1f ms\t%s",
			p.Account.Number, p.Account.Name, kitNumber(p.Kit), s.State, setup, s.Media.Sent, s.Media.Received, s.Media.Lost, s.Media.JitterMS, hears))
	}
	return rows
}

func linked(s ui.Status) string {
	n := 0
	for _, k := range s.Kits {
		if k.State == "linked" {
			n++
		}
	}
	return fmt.Sprintf("%d of %d seen", n, len(s.Kits))
}

func lights(b ui.Board) string {
	var r []string
	for _, l := range b.LEDs {
		mark := "○"
		if l.Lit {
			mark = "●"
		}
		r = append(r, mark+l.Name)
	}
	return strings.Join(r, " ")
}

func wrong(checks []ui.Check) string {
	for _, c := range checks {
		if c.State != "ok" {
			return fmt.Sprintf("%s: %s (%s)", c.Name, c.Cause, ui.Age(c.SinceS))
		}
	}
	return "nothing"
}
