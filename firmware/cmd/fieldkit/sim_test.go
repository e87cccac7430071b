package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"fieldkit/overlay/sim"
)

func simulate(t *testing.T, c simCommand) string {
	t.Helper()
	var out bytes.Buffer
	if err := c.run(t.Context(), &out); err != nil {
		t.Fatalf("%+v: %v\n%s", c, err, out.String())
	}
	return out.String()
}

func TestSimListsScenarios(t *testing.T) {
	out := simulate(t, simCommand{Scenario: "list"})
	for _, s := range sim.Scenarios() {
		if !strings.Contains(out, s.Name) || !strings.Contains(out, s.Help) {
			t.Errorf("%s is not in\n%s", s.Name, out)
		}
	}
}

// What --json prints is the report that a table is made of, and the seed decides about all of it but the time taken.
func TestSimPrintsJSON(t *testing.T) {
	var reports [2]sim.Report
	for i := range reports {
		out := simulate(t, simCommand{Scenario: "singletons", Nodes: 3, Seed: 5, Delay: time.Millisecond, JSON: true})
		if err := json.Unmarshal([]byte(out), &reports[i]); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
	}
	r := reports[0]
	if r.Scenario != "singletons" || r.Nodes != 3 || r.Seed != 5 || len(r.Figures) == 0 || r.Trace != reports[1].Trace {
		t.Errorf("%+v", r)
	}
}

func TestSimSoaks(t *testing.T) {
	out := simulate(t, simCommand{Scenario: "soak", Seed: 1, Seeds: 3, Within: time.Minute})
	if !strings.Contains(out, "3 of 3 seeds from 1 on") {
		t.Errorf("%s", out)
	}
	out = simulate(t, simCommand{Scenario: "soak", Seed: 1, Seeds: 3})
	if !strings.Contains(out, "0 of 3 seeds") {
		t.Errorf("no time for any: %s", out)
	}
}

func TestSimRefusesWhatItCannotDo(t *testing.T) {
	loss := 100.0
	for _, c := range []simCommand{{Scenario: "ring", Nodes: sim.MaxNodes + 1}, {Scenario: "ring", Loss: &loss}, {Scenario: "ring", Nodes: 1000, Real: true}} {
		if err := c.run(t.Context(), &bytes.Buffer{}); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

// What cannot be is refused by the name of the option and with what it may be, in every scenario that would take it.
func TestSimNamesTheOptionOutOfRange(t *testing.T) {
	loss := func(percent float64) *float64 { return &percent }
	for _, c := range []struct {
		c    simCommand
		want string
	}{
		{simCommand{Scenario: "ring", Loss: loss(200)}, "--loss 200: want 0 to less than 100"},
		{simCommand{Scenario: "ring", Loss: loss(100)}, "--loss 100: want"},
		{simCommand{Scenario: "ring", Loss: loss(-1)}, "--loss -1: want"},
		{simCommand{Scenario: "ring", Loss: loss(math.NaN())}, "--loss NaN: want"},
		{simCommand{Scenario: "ring", Delay: -time.Millisecond}, "--delay -1ms: want 0s or more"},
		{simCommand{Scenario: "ring", Jitter: -time.Second}, "--jitter -1s: want 0s or more"},
		{simCommand{Scenario: "ring", Nodes: -1}, "--nodes -1: want 1 to 20000"},
		{simCommand{Scenario: "ring", Nodes: sim.MaxNodes + 1}, "--nodes 20001: want"},
		{simCommand{Scenario: "ring", Known: -1}, "--known -1: want"},
		{simCommand{Scenario: "merge", Rings: 1}, "--rings 1: want 2 or more"},
		{simCommand{Scenario: "merge", Rings: -2}, "--rings -2: want 2 or more"},
		{simCommand{Scenario: "soak"}, "--seeds 0: want 1 or more"},
		{simCommand{Scenario: "soak", Seeds: -5}, "--seeds -5: want 1 or more"},
		{simCommand{Scenario: "soak", Seeds: 3, Within: -time.Second}, "--within -1s: want 0s or more"},
	} {
		// It ends at once should it begin: the error is to come before.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.c.run(ctx, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %q", c.c, err, c.want)
		}
	}
}
