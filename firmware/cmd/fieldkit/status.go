package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"fieldkit/firmware/lab"
	"fieldkit/ui"
)

type statusCommand struct {
	Kit  string `arg:"" optional:"" help:"Address of the kit's page." default:"http://10.73.0.1/"`
	JSON bool   `name:"json" help:"As the kit says it."`
}

const maxStatus = 4 << 20

// Run asks the kit and prints what it says.
func (c statusCommand) Run(ctx context.Context) error { return c.write(ctx, os.Stdout) }

func (c statusCommand) write(ctx context.Context, w io.Writer) error {
	s, err := c.ask(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(s)
	}
	_, err = io.WriteString(w, describe(s))
	return err
}

func (c statusCommand) ask(ctx context.Context) (s ui.Status, err error) {
	return s, fetchJSON(ctx, c.Kit, "/status.json", &s)
}

// fetchJSON reads what a kit's page says at a path. A refusal is an error with the kit's own words.
func fetchJSON(ctx context.Context, kit, path string, v any) error {
	url := kit
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	url = strings.TrimSuffix(url, "/") + path
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	body := http.MaxBytesReader(nil, r.Body, maxStatus)
	if r.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(body, 200)) // no more than a hint
		return fmt.Errorf("%s: %s %s", url, r.Status, lab.Printable(strings.TrimSpace(string(why))))
	}
	if err := json.NewDecoder(body).Decode(v); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	return nil
}

// describe puts the status in words, a section for each thing that there is.
func describe(s ui.Status) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 2, 8, 2, ' ', 0)
	name := fmt.Sprintf("Kit %d", s.Kit.Number)
	if s.Kit.Name != "" && s.Kit.Name != name {
		name += " " + s.Kit.Name
	}
	fmt.Fprintf(w, "%s, mission %s, up %s: %s\n", name, s.Kit.Mission, ui.Age(s.Kit.UptimeS), s.Board.State)
	section := func(head string, rows []string) {
		if len(rows) > 0 {
			fmt.Fprintf(w, "\n%s\n%s\n", head, strings.Join(rows, "\n"))
		}
	}
	var wrong, kits, handsets, calls []string
	for _, c := range s.Health {
		if c.State != "ok" {
			wrong = append(wrong, fmt.Sprintf("%s\t%s\t%s\t%s", c.Name, c.Cause, c.State, ui.Age(c.SinceS)))
		}
	}
	for _, k := range s.Kits {
		rtt := "-"
		if k.RTTMS > 0 {
			rtt = fmt.Sprintf("%.1f ms", k.RTTMS)
		}
		number := "-" // only announcements tell it
		if k.Number > 0 {
			number = strconv.Itoa(k.Number)
		}
		kits = append(kits, fmt.Sprintf("%s\t%s\t%s\t%s\t%s", number, k.NodeID, strings.TrimSpace(k.State+" "+k.Reason), rtt, ui.Age(k.SinceS)))
	}
	for _, h := range s.Handsets {
		if h.Registered {
			handsets = append(handsets, fmt.Sprintf("%s\t%s\t%s %s\t%s", h.Number, h.Name, h.Contact, h.Transport, ui.Age(h.ExpiresS)))
		}
	}
	for _, c := range s.Calls {
		calls = append(calls, fmt.Sprintf("%s\t%s\t%s\t%s", c.From, c.To, c.State, ui.Age(c.SinceS)))
	}
	section("WHAT IS WRONG\tWHY\tHOW BAD\tFOR", wrong)
	section("KIT\tNODE-ID\tSTATE\tROUND TRIP\tFOR", kits)
	section("NUMBER\tNAME\tCONTACT\tEXPIRES IN", handsets)
	section("FROM\tTO\tSTATE\tFOR", calls)
	if u := s.Update; u.State != "" {
		section("SYSTEM\tSLOT\tUPDATE\tWHY", []string{fmt.Sprintf("%s\t%s\t%s\t%s", u.Version, u.Slot, strings.TrimSpace(u.State+" "+u.New.Version), u.Why)})
	}
	_ = w.Flush()
	return lab.Printable(b.String())
}
