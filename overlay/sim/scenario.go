package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"fieldkit/overlay/peer"
)

// Options say how a scenario is run. Zero fields get the scenario's own values.
type Options struct {
	Nodes int
	Rings int // of the scenarios that merge
	Seed  uint64
	Known int  // kits that discovery shows to each; 0: all up to lanKits, of more knownKits
	Real  bool // ECDSA instead of the keyed hash

	Delay, Jitter time.Duration // both 0: those of Field
	Loss          *float64      // 0 to 1
}

// Figure is one result.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
}

// Report is what a scenario came to. Everything but RealSeconds and figures whose unit is of the machine is the same
// whenever the scenario is run with the same options.
type Report struct {
	Scenario       string     `json:"scenario"`
	Nodes          int        `json:"nodes"`
	Rings          int        `json:"rings,omitempty"`
	Known          int        `json:"known,omitempty"` // as in Options
	Seed           uint64     `json:"seed"`
	Net            Conditions `json:"net"`
	Crypto         string     `json:"crypto"`
	VirtualSeconds float64    `json:"virtual_seconds"`
	RealSeconds    float64    `json:"real_seconds"`
	Events         uint64     `json:"events"`
	Trace          string     `json:"trace"`
	Counts         Counts     `json:"counts"`
	// Peers are the peers' own counters, of those that live at the end, together, without zeros.
	Peers map[string]uint64 `json:"peers"`
	// Methods are what arrived in the whole run, by method.
	Methods  map[string]Method `json:"methods"`
	Figures  []Figure          `json:"figures"`
	Failures []string          `json:"failures"`
}

// Failed reports that a rule was broken.
func (r *Report) Failed() bool { return len(r.Failures) > 0 }

// Value finds a figure; NaN: there is none of that name.
func (r *Report) Value(name string) float64 {
	for _, f := range r.Figures {
		if f.Name == name {
			return f.Value
		}
	}
	return math.NaN()
}

// Command is what runs the same again.
func (r *Report) Command() string {
	c := fmt.Sprintf("fieldkit sim %s --nodes %d --seed %d --delay %v --jitter %v --loss %g",
		r.Scenario, r.Nodes, r.Seed, r.Net.Delay, r.Net.Jitter, 100*r.Net.Loss)
	if r.Rings > 0 {
		c += fmt.Sprintf(" --rings %d", r.Rings)
	}
	if r.Known > 0 {
		c += fmt.Sprintf(" --known %d", r.Known)
	}
	if r.Crypto == "real" {
		c += " --real"
	}
	return c
}

// WriteJSON writes the report as one line.
func (r *Report) WriteJSON(out io.Writer) error { return json.NewEncoder(out).Encode(r) }

// WriteTable writes the report for people.
func (r *Report) WriteTable(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "scenario\t%s\n", r.Scenario)
	fmt.Fprintf(t, "N\t%d\n", r.Nodes)
	if r.Rings > 0 {
		fmt.Fprintf(t, "rings\t%d\n", r.Rings)
	}
	fmt.Fprintf(t, "seed\t%d\n", r.Seed)
	fmt.Fprintf(t, "network\t%v to %v a way, %.0f %% loss, %s signatures\n", r.Net.Delay, r.Net.Delay+r.Net.Jitter, 100*r.Net.Loss, r.Crypto)
	fmt.Fprintf(t, "virtual time\t%.1f s\n", r.VirtualSeconds)
	fmt.Fprintf(t, "real time\t%.1f s, %d events\n", r.RealSeconds, r.Events)
	fmt.Fprintf(t, "trace\t%s\n", r.Trace)
	for _, f := range r.Figures {
		fmt.Fprintf(t, "%s\t%s %s\n", f.Name, number(f.Value), f.Unit)
	}
	if r.Failed() {
		fmt.Fprintf(t, "BROKEN\t%s\n", strings.Join(r.Failures, "\n\t"))
		fmt.Fprintf(t, "again\t%s\n", r.Command())
	} else {
		fmt.Fprintf(t, "invariants\tkept\n")
	}
	return t.Flush()
}

func number(v float64) string {
	switch {
	case v == math.Trunc(v) && math.Abs(v) < 1e15:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// Scenario is something to be simulated.
type Scenario struct {
	Name  string
	Help  string
	Nodes int // when Options say nothing
	Rings int
	Loss  float64
	run   func(*run)
}

// Scenarios are all there are, by name.
func Scenarios() []Scenario {
	list := []Scenario{
		{Name: "ring", Help: "a grown ring: hops, joins, idle traffic, memory", Nodes: 16, run: (*run).ring},
		{Name: "singletons", Help: "kits powered up within one second become one ring", Nodes: 16, run: (*run).singletons},
		{Name: "merge", Help: "rings that grew apart meet", Nodes: 64, Rings: 2, run: (*run).merge},
		{Name: "churn", Help: "kits die and new ones come, median session 1.4 minutes", Nodes: 1000, run: (*run).churn},
		{Name: "loss", Help: "kits powered up within one second where a fifth of all packets is lost", Nodes: 16, Loss: 0.2, run: (*run).singletons},
		{Name: "deaths", Help: "three kits of ten die at once", Nodes: 64, run: (*run).deaths},
		{Name: "restart", Help: "kits are switched off and on again, and have lost what they stored", Nodes: 20, run: (*run).restart},
		{Name: "split", Help: "a ring is split, both sides write, they meet again", Nodes: 32, run: (*run).split},
		{Name: "mix", Help: "random starts, deaths, restarts, splits, merges and writes; what soak runs", Nodes: 12, run: (*run).mix},
	}
	slices.SortFunc(list, func(a, b Scenario) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// run is one scenario under way.
type run struct {
	*World
	o      Options
	report Report
	late   int // registrations that could only be read after their writer had refreshed them
}

// Run runs a scenario until it is over or ctx is. The error is one of options, or ctx's; broken rules are in the report.
func Run(ctx context.Context, name string, o Options) (*Report, error) {
	all := Scenarios()
	i := slices.IndexFunc(all, func(s Scenario) bool { return s.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("scenario %q: there is none of that name", name)
	}
	s := all[i]
	if o.Nodes == 0 {
		o.Nodes = s.Nodes
	}
	if o.Rings == 0 {
		o.Rings = s.Rings
	}
	net := Field
	net.Loss = s.Loss
	if o.Delay != 0 || o.Jitter != 0 {
		net.Delay, net.Jitter = o.Delay, o.Jitter
	}
	if o.Loss != nil {
		net.Loss = *o.Loss
	}
	switch {
	case o.Nodes < 1 || o.Nodes > MaxNodes:
		return nil, fmt.Errorf("scenario %s: %d nodes, want 1 to %d", name, o.Nodes, MaxNodes)
	case o.Rings < 0 || o.Known < 0 || o.Rings > MaxNodes/o.Nodes:
		return nil, fmt.Errorf("scenario %s: %d rings of %d nodes, together at most %d", name, o.Rings, o.Nodes, MaxNodes)
	case net.Loss < 0 || net.Loss >= 1 || net.Delay < 0 || net.Jitter < 0:
		return nil, fmt.Errorf("scenario %s: network %+v", name, net)
	case o.Real && o.Nodes*max(o.Rings, 1) > maxRealNodes:
		return nil, fmt.Errorf("scenario %s: at most %d nodes with real signatures", name, maxRealNodes)
	}
	total := o.Nodes * max(o.Rings, 1)
	cfg := Config{Context: ctx, Seed: o.Seed, Net: net, Real: o.Real, Kits: total}
	switch {
	case o.Known > 0 && o.Known < total-1:
		cfg.Known = o.Known
	case o.Known == 0 && total > lanKits:
		cfg.Known = knownKits
	}
	w, err := New(cfg)
	if err != nil {
		return nil, err
	}
	x := &run{World: w, o: o, report: Report{Scenario: name, Nodes: o.Nodes, Rings: o.Rings, Known: o.Known, Seed: o.Seed, Net: net, Crypto: "fast"}}
	if o.Real {
		x.report.Crypto = "real"
	}
	begun := time.Now()
	s.run(x)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("scenario %s: %w", name, err)
	}
	x.figure("registrations readable only after their refresh", float64(x.late), "")
	x.report.RealSeconds = time.Since(begun).Seconds()
	x.bounded()
	x.report.VirtualSeconds = w.Now().Seconds()
	x.report.Events, x.report.Counts, x.report.Failures = w.Events(), w.count, w.failures
	x.report.Peers, x.report.Methods = w.peerCounters(), w.byMethod()
	x.report.Trace = fmt.Sprintf("%016x", w.Trace())
	return &x.report, nil
}

// Limits of what is simulated.
const (
	MaxNodes     = 20_000
	maxRealNodes = 64
	lanKits      = 64 // up to so many see each other by mDNS; of more each sees a few
	knownKits    = 4
)

func (x *run) figure(name string, v float64, unit string) {
	x.report.Figures = append(x.report.Figures, Figure{name, v, unit})
}

// powerUp starts n new kits within d, spread evenly or, for a short d, at random moments.
func (x *run) powerUp(n int, d time.Duration, island int) []*Kit {
	kits := make([]*Kit, 0, n)
	for i := range n {
		k, err := x.add()
		if err != nil {
			x.fail("%v", err)
			return kits
		}
		k.island = island
		kits = append(kits, k)
		at := x.spread(d)
		if d > time.Second {
			at = d*time.Duration(i)/time.Duration(n) + x.spread(d/time.Duration(n))
		}
		x.k.after(at, func() {
			if err := k.start(); err != nil {
				x.fail("%v", err)
			}
		})
	}
	x.Run(d)
	return kits
}

// grow makes a ring of n kits, one after the other, and waits until it is right.
func (x *run) grow(n, island int) []*Kit {
	kits := x.powerUp(n, max(time.Duration(n)*growEach, time.Second), island)
	x.converge("growth", kits, convergeWithin)
	return kits
}

const (
	growEach       = 25 * time.Millisecond // 40 newcomers a second
	convergeWithin = 15 * time.Minute
	pollEvery      = 100 * time.Millisecond
	quiet          = 90 * time.Second // hand-over, replication, and a second try of either
)

// converge waits until the kits are one right ring and returns how long that took.
func (x *run) converge(what string, kits []*Kit, limit time.Duration) (time.Duration, *ring) {
	r := newRing(kits)
	poll := pollEvery
	if len(kits) > 2000 {
		poll = time.Second
	}
	d, ok := x.RunUntil(poll, limit, func() bool { return r.check() == nil })
	if !ok {
		x.fail("%s: no right ring of %d after %v: %d kits are wrong, one of them: %v", what, len(kits), limit, r.wrong(), r.check())
	}
	return d, r
}

// write gives each kit registrations, and waits until they are stored.
func (x *run) write(kits []*Kit, each int) {
	for _, k := range kits {
		for range each {
			k.register(handset(len(x.records)))
		}
	}
	if _, ok := x.RunUntil(time.Second, 5*time.Minute, func() bool {
		return !slices.ContainsFunc(x.records, func(r *record) bool { return r.kit.alive && r.written == 0 })
	}); !ok {
		x.fail("registrations not stored within five minutes")
	}
}

// readable are the records that can be read now.
func (x *run) readable(kits []*Kit, records []*record) []*record {
	not := x.unreadable(kits, records)
	return slices.DeleteFunc(slices.Clone(records), func(r *record) bool { return slices.Contains(not, r) })
}

// mustRead is the rule that no key readable before is unreadable after. A request may go astray where packets are lost
// or in the midst of a change, so what was not found is asked for again, by another kit. What only its writer still
// has, because all copies died at once or the new owner may not take it from those that had them (RFC 6940 §7.4.1.1),
// must be there when the writer has refreshed it.
func (x *run) mustRead(what string, kits []*Kit, records []*record) {
	not := x.unexpired(records)
	for range readTries {
		if not = x.unreadable(kits, not); len(not) == 0 {
			return
		}
		x.Run(5 * time.Second)
	}
	if waiting := slices.DeleteFunc(slices.Clone(not), func(r *record) bool { return !r.kit.alive }); len(waiting) > 0 {
		x.late += len(waiting)
		x.Run(refreshAtMost)
		not = slices.Concat(x.unreadable(kits, waiting), slices.DeleteFunc(not, func(r *record) bool { return r.kit.alive }))
	}
	for _, r := range not {
		x.fail("%s: %s of kit %d (%s) was readable and is not any more", what, r.aor, r.kit.n, x.condition(r))
	}
}

const readTries = 4

func (x *run) condition(r *record) string {
	if r.kit.alive {
		return "which lives"
	}
	return "which died"
}

// mustHold is the rule that every key is at its owner and both replicas. As with mustRead, there is time for a second
// try, and for what only its writer still has until that has refreshed it.
func (x *run) mustHold(what string, r *ring, records []*record) {
	missing := x.checkCopies(r, x.unexpired(records))
	if len(missing) > 0 {
		x.Run(quiet)
		missing = x.checkCopies(r, x.unexpired(missing))
	}
	if slices.ContainsFunc(missing, func(r *record) bool { return r.kit.alive }) {
		gone := slices.DeleteFunc(slices.Clone(missing), func(r *record) bool { return r.kit.alive })
		x.Run(refreshAtMost)
		missing = append(gone, x.checkCopies(r, slices.DeleteFunc(missing, func(r *record) bool { return !r.kit.alive }))...)
	}
	for _, rec := range missing {
		x.fail("%s: a copy of %s of kit %d (%s) is missing", what, rec.aor, rec.kit.n, x.condition(rec))
	}
}

// unexpired are the records whose time is not over: nobody refreshes those of the dead.
func (x *run) unexpired(records []*record) []*record {
	return slices.DeleteFunc(slices.Clone(records), func(r *record) bool { return !r.kit.alive && r.until < x.k.now.add(time.Minute) })
}

// bounded is the rule that nothing grows without bound.
func (x *run) bounded() {
	for _, k := range x.living() {
		s := k.peer.Snapshot()
		if len(s.Links) > maxLinks || s.Transactions > maxTransactions || len(k.ends) > maxLinks+acceptedPerKit {
			x.fail("kit %d: %d links, %d link ends, %d transactions", k.n, len(s.Links), len(k.ends), s.Transactions)
		}
		if s.Stored.Bytes > maxStored {
			x.fail("kit %d: stores %d bytes", k.n, s.Stored.Bytes)
		}
	}
	if x.count.QueuePeak > queueMessages {
		x.fail("a link's queue held %d messages", x.count.QueuePeak)
	}
}

// Limits that a peer promises to keep.
const (
	maxLinks        = peer.MaxLinks
	maxTransactions = peer.MaxTransactions
	maxStored       = 8 << 20
)

// heap is what is allocated and in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what pools and finalizers held on to
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// quantile is of sorted values.
func quantile[T any](sorted []T, q float64) (v T) {
	if len(sorted) == 0 {
		return v
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// peerCounters sums up what the living peers counted.
func (w *World) peerCounters() map[string]uint64 {
	sum := map[string]uint64{}
	for _, k := range w.living() {
		v := reflect.ValueOf(k.peer.Counters())
		for i := range v.NumField() {
			if n := v.Field(i).Uint(); n != 0 {
				sum[v.Type().Field(i).Name] += n
			}
		}
	}
	return sum
}

// Soak is the scenario of one seed of a soak, and its options: half of them random disturbances, the rest all others,
// in sizes that take about a second.
func Soak(seed uint64) (string, Options) {
	rng := rand.New(rand.NewPCG(seed, 0x50a))
	o := Options{Seed: seed, Nodes: 2 + rng.IntN(22), Delay: time.Duration(1+rng.IntN(40)) * time.Millisecond, Jitter: time.Duration(1+rng.IntN(40)) * time.Millisecond}
	switch rng.IntN(10) {
	case 0:
		return "singletons", o
	case 1:
		o.Rings = 2 + rng.IntN(4)
		o.Nodes = 1 + rng.IntN(32/o.Rings)
		return "merge", o
	case 2:
		o.Nodes += 4
		return "deaths", o
	case 3:
		return "split", o
	case 4:
		o.Nodes = min(o.Nodes, 10)
		return "loss", o
	case 5:
		return "restart", o
	}
	return "mix", o
}
