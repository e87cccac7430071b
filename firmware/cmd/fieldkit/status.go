package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"fieldkit/ui"
)

type statusCommand struct {
	Kit  string `arg:"" optional:"" help:"Address of the kit's page." default:"http://10.73.0.1/"`
	JSON bool   `name:"json" help:"As the kit says it."`
}

const maxStatus = 4 << 20

func (c statusCommand) Run(ctx context.Context) error {
	url := c.Kit
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	url = strings.TrimSuffix(url, "/") + "/status.json"
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
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
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, r.Status)
	}
	var s ui.Status
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxStatus)).Decode(&s); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if c.JSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(s)
	}
	return printStatus(s)
}

func printStatus(s ui.Status) error {
	w := tabwriter.NewWriter(os.Stdout, 2, 8, 2, ' ', 0)
	fmt.Fprintf(w, "Kit %d %s, mission %s, up %s: %s\n\n", s.Kit.Number, s.Kit.Name, s.Kit.Mission, ui.Age(s.Kit.UptimeS), s.Board.State)
	for _, c := range s.Health {
		if c.State != "ok" {
			fmt.Fprintf(w, "%s\t%s\t%s\tfor %s\n", c.State, c.Name, c.Cause, ui.Age(c.SinceS))
		}
	}
	fmt.Fprintln(w, "KIT\tNODE-ID\tSTATE\tROUND TRIP\tFOR")
	for _, k := range s.Kits {
		fmt.Fprintf(w, "%d\t%s\t%s %s\t%.1f ms\t%s\n", k.Number, k.NodeID, k.State, k.Reason, k.RTTMS, ui.Age(k.SinceS))
	}
	fmt.Fprintln(w, "\nNUMBER\tNAME\tCONTACT\tEXPIRES IN")
	for _, h := range s.Handsets {
		if h.Registered {
			fmt.Fprintf(w, "%s\t%s\t%s %s\t%s\n", h.Number, h.Name, h.Contact, h.Transport, ui.Age(h.ExpiresS))
		}
	}
	fmt.Fprintln(w, "\nFROM\tTO\tSTATE\tFOR")
	for _, c := range s.Calls {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.From, c.To, c.State, ui.Age(c.SinceS))
	}
	return w.Flush()
}
