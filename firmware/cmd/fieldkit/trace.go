package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"fieldkit/firmware/lab"
	"fieldkit/ui"
)

type traceCommand struct {
	Whom string `arg:"" help:"A person's number or name, or a kit's number, name or Node-ID."`
	Kit  string `help:"Address of the page of the kit that is to ask." default:"http://10.73.0.1/"`
	JSON bool   `name:"json" help:"As the kit says it."`
}

var errNoWay = errors.New("the way does not lead there")

// Run asks the kit and prints the way.
func (c traceCommand) Run(ctx context.Context) error { return c.write(ctx, os.Stdout) }

func (c traceCommand) write(ctx context.Context, w io.Writer) error {
	var t ui.Trace
	if err := fetchJSON(ctx, c.Kit, "/trace.json?to="+url.QueryEscape(c.Whom), &t); err != nil {
		return err
	}
	var err error
	if c.JSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		err = e.Encode(t)
	} else {
		_, err = io.WriteString(w, describeTrace(t))
	}
	if err == nil && t.Error != "" {
		err = fmt.Errorf("%w: %s", errNoWay, lab.Printable(t.Error))
	}
	return err
}

// describeTrace puts the way in words, a line for each kit.
func describeTrace(t ui.Trace) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Way to %s (%s)\n", t.To, t.Target)
	if len(t.Hops) == 0 && t.Error == "" {
		b.WriteString("The kit that was asked is responsible itself.\n")
	}
	w := tabwriter.NewWriter(&b, 2, 8, 2, ' ', 0)
	for i, h := range t.Hops {
		name := h.Name
		if h.Number > 0 {
			name = strings.TrimSpace(fmt.Sprintf("%d %s", h.Number, h.Name))
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%.1f ms\n", i+1, name, h.NodeID, h.RTTMS)
		for _, kind := range slices.Sorted(maps.Keys(h.Diagnostics)) {
			fmt.Fprintf(w, "\t%s\t%s\t\n", kind, h.Diagnostics[kind])
		}
	}
	_ = w.Flush()
	return lab.Printable(b.String())
}
