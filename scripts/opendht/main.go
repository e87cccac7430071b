//go:build linux

// Command opendht compares this project's overlay with OpenDHT's dhtnode (Debian package dhtnode), side by side
// in one run: on each of several hosts, which are network namespaces on one cable, one peer of each kind. It prints
// how long it takes to get a value that another host stores, what an idle peer sends and receives, and what it has
// in memory. It is no part of the tests: it needs root, dhtnode, and a few minutes.
//
//	go run ./scripts/opendht [-hosts 8] [-delay 10ms] [-gets 60] [-idle 60s] [-settle 60s]
//
// The peers of this project are plain overlay nodes over real ICE and DTLS links (package peer below, the same
// program started with the argument "peer"): without a kit's mDNS, since dhtnode is told a neighbour's address,
// too. What is compared is what each does by default: OpenDHT's values are neither signed nor encrypted, and go over
// UDP in the clear.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"fieldkit/board/simnet/netns"
)

type options struct {
	hosts, gets         int
	delay, idle, settle time.Duration
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "peer" {
		if err := peer(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "peer:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.IntVar(&o.hosts, "hosts", 8, "hosts, each with one peer of either kind; 4 to 64")
	flag.IntVar(&o.gets, "gets", 60, "values that are stored and got")
	flag.DurationVar(&o.delay, "delay", 0, "one-way delay of the cable")
	flag.DurationVar(&o.idle, "idle", time.Minute, "how long idle traffic is counted")
	flag.DurationVar(&o.settle, "settle", time.Minute, "rest before that")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := compare(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "opendht:", err)
		os.Exit(1)
	}
}

// host is one namespace with its two peers.
type host struct {
	ns   *netns.Host
	addr netip.Addr
	tap  *tap
	ours *process
	dht  *process
	id   string // of ours
}

const dhtPort = 4222

func compare(ctx context.Context, o options) error {
	if o.hosts < 4 || o.hosts > 64 || o.gets < 1 {
		return errors.New("want 4 to 64 hosts, and something to get")
	}
	m, err := newMission()
	if err != nil {
		return fmt.Errorf("mission: %w", err)
	}
	hosts, closeAll, err := build(ctx, o)
	defer closeAll()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("own program: %w", err)
	}
	for i, h := range hosts {
		if h.ours, err = start(ctx, h.ns, self, "peer"); err != nil {
			return err
		}
		if h.id, err = m.introduce(h.ours, h.addr); err != nil {
			return fmt.Errorf("peer of host %d: %w", i, err)
		}
		args := []string{"-p", strconv.Itoa(dhtPort)}
		if i > 0 {
			args = append(args, "-b", fmt.Sprintf("%v:%d", hosts[0].addr, dhtPort))
		}
		if h.dht, err = start(ctx, h.ns, "dhtnode", args...); err != nil {
			return fmt.Errorf("dhtnode (Debian package dhtnode): %w", err)
		}
	}
	began := time.Now()
	for _, a := range hosts {
		for _, b := range hosts {
			if a != b {
				a.ours.say("meet %s %s:6084", b.id, b.addr)
			}
		}
	}
	if err := waitRing(ctx, hosts); err != nil {
		return err
	}
	fmt.Printf("hosts %d, one-way delay %v, gets %d\n", o.hosts, o.delay, o.gets)
	fmt.Printf("one ring of ours after %v\n", time.Since(began).Round(100*time.Millisecond))
	if err := waitKnown(ctx, hosts); err != nil {
		return err
	}
	if err := rest(ctx, o.settle); err != nil {
		return err
	}
	if err := idle(ctx, o, hosts, "idle, nothing stored"); err != nil {
		return err
	}
	if err := gets(ctx, o, hosts); err != nil {
		return err
	}
	if err := rest(ctx, o.settle/2); err != nil {
		return err
	}
	if err := idle(ctx, o, hosts, fmt.Sprintf("idle, %d values stored", o.gets)); err != nil {
		return err
	}
	return loss(ctx, hosts)
}

// loss kills both peers of one host and prints how long it takes until the others know.
func loss(ctx context.Context, hosts []*host) error {
	const limit = 3 * time.Minute
	dead, left := hosts[len(hosts)-1], hosts[:len(hosts)-1]
	line, err := dead.dht.ask(ctx, "OpenDHT node ", "ll")
	if err != nil {
		return fmt.Errorf("ID of a dhtnode: %w", err)
	}
	id, _, _ := strings.Cut(line, " ")
	knew := 0
	for _, h := range left {
		good, err := h.dht.lists(ctx, "lr", id+" ", "[good]")
		if err != nil {
			return err
		}
		if good {
			knew++
		}
	}
	if err := errors.Join(dead.ours.cmd.Process.Kill(), dead.dht.cmd.Process.Kill()); err != nil {
		return fmt.Errorf("end of a host's peers: %w", err)
	}
	began := time.Now()
	if err := waitRing(ctx, left); err != nil {
		return err
	}
	fmt.Printf("\na host's peers are killed\n  all %d others of ours have closed the ring after %v\n", len(left), time.Since(began).Round(100*time.Millisecond))
	for {
		good := 0
		for _, h := range left {
			still, err := h.dht.lists(ctx, "lr", id+" ", "[good]")
			if err != nil {
				return err
			}
			if still {
				good++
			}
		}
		if took := time.Since(began); good == 0 || took > limit {
			fmt.Printf("  of %d dhtnodes that knew it as good, %d still do after %v\n", knew, good, took.Round(time.Second))
			return nil
		}
		if err := rest(ctx, time.Second); err != nil {
			return err
		}
	}
}

// build makes the hosts and their cable: a bridge of the kernel's or, with a delay, a switch that keeps frames back.
func build(ctx context.Context, o options) (hosts []*host, closeAll func(), err error) {
	var closers []func()
	closeAll = func() {
		for _, c := range slices.Backward(closers) {
			c()
		}
	}
	middle, err := netns.New("middle")
	if err != nil {
		return nil, closeAll, err
	}
	closers = append(closers, middle.Close)
	var ports []string
	for i := range o.hosts {
		ns, err := netns.New(fmt.Sprintf("host%d", i))
		if err != nil {
			return nil, closeAll, err
		}
		closers = append(closers, ns.Close)
		h := &host{ns: ns, addr: netip.AddrFrom4([4]byte{10, 99, 0, byte(i + 1)})}
		port := fmt.Sprintf("p%d", i)
		ports = append(ports, port)
		err = errors.Join(netns.Veth(middle, port, ns, "eth0"), ns.NoOffload("eth0"),
			ns.AddAddress("eth0", netip.PrefixFrom(h.addr, 24)), ns.Up("eth0"))
		if err != nil {
			return nil, closeAll, err
		}
		if h.tap, err = newTap(ns, "eth0"); err != nil {
			return nil, closeAll, err
		}
		closers = append(closers, h.tap.close)
		hosts = append(hosts, h)
	}
	if o.delay == 0 {
		return hosts, closeAll, middle.Bridge("br0", ports...)
	}
	sw, err := netns.NewSwitch(middle, netns.Condition{Delay: o.delay}, ports...)
	if err != nil {
		return nil, closeAll, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { sw.Run(ctx); close(ended) }()
	closers = append(closers, func() { cancel(); <-ended })
	return hosts, closeAll, nil
}

// waitRing waits until each of our peers sees all.
func waitRing(ctx context.Context, hosts []*host) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for i, h := range hosts {
		for line, err := h.ours.ask(ctx, "ring ", "ring"); line != strconv.Itoa(len(hosts)); line, err = h.ours.ask(ctx, "ring ", "ring") {
			if err := errors.Join(err, rest(ctx, 100*time.Millisecond)); err != nil {
				return fmt.Errorf("host %d sees a ring of %q: %w", i, line, err)
			}
		}
	}
	return nil
}

// waitKnown waits until each dhtnode knows half of the others. Of many it keeps no more than a bucket holds.
func waitKnown(ctx context.Context, hosts []*host) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for i, h := range hosts {
		for good, dubious := 0, 0; good+dubious < len(hosts)/2; {
			line, err := h.dht.ask(ctx, "Known nodes: ", "ll")
			if _, scanErr := fmt.Sscanf(line, "%d good, %d dubious", &good, &dubious); err == nil {
				err = errors.Join(scanErr, rest(ctx, 500*time.Millisecond))
			}
			if err != nil {
				return fmt.Errorf("dhtnode of host %d knows %q: %w", i, line, err)
			}
		}
	}
	return nil
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// idle prints what a peer sends and receives while nobody asks for anything.
func idle(ctx context.Context, o options, hosts []*host, title string) error {
	before := make([]counts, len(hosts))
	grown := map[string]float64{}
	if err := counters(ctx, hosts, -1, grown); err != nil {
		return err
	}
	for i, h := range hosts {
		before[i] = h.tap.now()
	}
	began := time.Now()
	if err := rest(ctx, o.idle); err != nil {
		return err
	}
	var ours, dht []float64
	kinds := map[traffic]float64{}
	for i, h := range hosts {
		after, sum, seconds := h.tap.now(), 0.0, time.Since(began).Seconds()
		for k := range after {
			rate := float64(after[k]-before[i][k]) / seconds
			switch kind := traffic(k); kind {
			case openDHT:
				dht = append(dht, rate)
			case other:
			default:
				sum += rate
				kinds[kind] += rate / float64(len(hosts))
			}
		}
		ours = append(ours, sum)
	}
	fmt.Printf("\n%s, %v: bytes per second and host, in and out, with Ethernet headers\n", title, o.idle)
	row("  ours", ours, "%.0f")
	row("  OpenDHT", dht, "%.0f")
	fmt.Printf("  ratio of the medians, ours to OpenDHT's: %.2f\n", median(ours)/median(dht))
	for _, k := range []traffic{stun, handshake, frames, acks} {
		fmt.Printf("  of ours, %s: %.0f\n", k, kinds[k])
	}
	if err := counters(ctx, hosts, 1, grown); err != nil {
		return err
	}
	fmt.Print("  what our peers counted meanwhile, per minute and host:")
	for _, name := range slices.Sorted(maps.Keys(grown)) {
		if n := grown[name] / float64(len(hosts)) / time.Since(began).Minutes(); n > 0 {
			fmt.Printf(" %s %.1f", name, n)
		}
	}
	fmt.Println()
	ours, dht = nil, nil
	for _, h := range hosts {
		ours, dht = append(ours, h.ours.rss()), append(dht, h.dht.rss())
	}
	fmt.Println("memory, resident, MB")
	row("  ours", ours, "%.1f")
	row("  OpenDHT", dht, "%.1f")
	return nil
}

// counters adds what our peers have counted so far, or takes it away.
func counters(ctx context.Context, hosts []*host, sign float64, sums map[string]float64) error {
	for i, h := range hosts {
		line, err := h.ours.ask(ctx, "counters ", "counters")
		if err != nil {
			return fmt.Errorf("counters of host %d: %w", i, err)
		}
		var now map[string]float64
		if err := json.Unmarshal([]byte(line), &now); err != nil {
			return fmt.Errorf("counters of host %d: %w", i, err)
		}
		for name, n := range now {
			sums[name] += sign * n
		}
	}
	return nil
}

// gets stores values from one host and gets each once from another one that does not hold it, in turn from ours and
// from OpenDHT.
func gets(ctx context.Context, o options, hosts []*host) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var put, got, dhtPut, dhtGot []float64
	local, dhtLocal := 0, 0
	key := func(i int) string { return fmt.Sprintf("%040x", 0x9e3779b97f4a7c15*uint64(i+1)) }
	for i := range o.gets {
		from := hosts[i%len(hosts)]
		line, err := from.ours.ask(ctx, "put ", "put value%d@"+overlay, i)
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		if put, err = appendMS(put, line); err != nil {
			return err
		}
		if line, err = from.dht.ask(ctx, "Put: success, took ", "p %s a-registration-of-thirty-eight-bytes-x", key(i)); err != nil {
			return fmt.Errorf("put: %w", err)
		}
		if dhtPut, err = appendMS(dhtPut, strings.SplitN(line, ". Value", 2)[0]); err != nil {
			return err
		}
	}
	if err := rest(ctx, 3*time.Second); err != nil {
		return err
	}
	for i := range o.gets {
		// The host that asks is another one than the one that stored, and one that has no copy where there is one.
		line := ""
		for try := range len(hosts) - 1 {
			h := hosts[(i+1+try)%len(hosts)]
			held, err := h.ours.ask(ctx, "holds ", "holds value%d@"+overlay, i)
			if err != nil {
				return fmt.Errorf("holder: %w", err)
			}
			if held == "true" && try < len(hosts)-2 {
				continue
			}
			if held == "true" {
				local++
			}
			if line, err = h.ours.ask(ctx, "get ", "get value%d@"+overlay, i); err != nil {
				return fmt.Errorf("fetch: %w", err)
			}
			break
		}
		var err error
		if got, err = appendMS(got, line); err != nil {
			return err
		}
		for try := range len(hosts) - 1 {
			h := hosts[(i+1+try)%len(hosts)]
			held, err := h.dht.holds(ctx, key(i))
			if err != nil {
				return fmt.Errorf("holder: %w", err)
			}
			if held && try < len(hosts)-2 {
				continue
			}
			if held {
				dhtLocal++
			}
			if line, err = h.dht.ask(ctx, "Get: found 1 value(s) after ", "g %s", key(i)); err != nil {
				return fmt.Errorf("get: %w", err)
			}
			break
		}
		if dhtGot, err = appendMS(dhtGot, strings.SplitN(line, " (total", 2)[0]); err != nil {
			return err
		}
		if err := rest(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	fmt.Println("\nstore and put, ms until acknowledged")
	row("  ours", put, "%.2f")
	row("  OpenDHT", dhtPut, "%.2f")
	fmt.Println("fetch and get, ms until the value is there and, with ours, verified")
	row("  ours", got, "%.2f")
	row("  OpenDHT", dhtGot, "%.2f")
	fmt.Printf("  ratio of the medians, ours to OpenDHT's: %.2f\n", median(got)/median(dhtGot))
	fmt.Printf("  asked at a host that holds the value itself, for want of another: ours %d, OpenDHT %d\n", local, dhtLocal)
	return nil
}

func appendMS(list []float64, s string) ([]float64, error) {
	d, err := time.ParseDuration(strings.NewReplacer(" ", "", ">", "").Replace(strings.TrimSuffix(strings.TrimSpace(s), ".")))
	if err != nil {
		return list, fmt.Errorf("duration %q: %w", s, err)
	}
	return append(list, float64(d)/float64(time.Millisecond)), nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func row(name string, v []float64, format string) {
	fmt.Printf("%-10s min "+format+"  median "+format+"  max "+format+"  (%d)\n", name, slices.Min(v), median(v), slices.Max(v), len(v))
}

// process is a peer of either kind, which takes commands and answers in lines.
type process struct {
	cmd   *exec.Cmd
	in    io.Writer
	lines chan string
}

func start(ctx context.Context, ns *netns.Host, program string, args ...string) (*process, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := ns.Start(cmd); err != nil {
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	p := &process{cmd: cmd, in: in, lines: make(chan string, 4096)}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	return p, nil
}

func (p *process) say(format string, args ...any) {
	// A peer that has ended shows in its lines.
	_, _ = fmt.Fprintf(p.in, format+"\n", args...)
}

// drain forgets what was said before.
func (p *process) drain() {
	for {
		select {
		case _, ok := <-p.lines:
			if !ok {
				return
			}
		default:
			return
		}
	}
}

// ask gives a command and returns what follows prefix in the first line of the answer that has it.
func (p *process) ask(ctx context.Context, prefix, format string, args ...any) (string, error) {
	p.drain()
	p.say(format, args...)
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				return "", fmt.Errorf("%s has ended", p.cmd.Path)
			}
			if _, rest, ok := strings.Cut(line, prefix); ok {
				return rest, nil
			}
			if strings.Contains(line, "failure") && strings.HasPrefix(prefix, "P") || strings.HasPrefix(line, "error ") {
				return "", errors.New(line)
			}
		case <-ctx.Done():
			return "", fmt.Errorf("no answer to %q: %w", format, ctx.Err())
		}
	}
}

// holds asks a dhtnode whether it stores values of a key: "Storage KEY empty" or "Storage KEY 0 list., 1 values (15 bytes)".
func (p *process) holds(ctx context.Context, key string) (bool, error) {
	return p.lists(ctx, "ld "+key, "Storage "+key, " values (")
}

// lists gives a dhtnode a command and tells whether a line of its answer holds both strings. The answer ends where that to the
// next question begins.
func (p *process) lists(ctx context.Context, command, one, other string) (found bool, err error) {
	p.drain()
	p.say("%s", command)
	p.say("ll")
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		select {
		case line, ok := <-p.lines:
			switch {
			case !ok:
				return false, errors.New("dhtnode has ended")
			case strings.Contains(line, one) && strings.Contains(line, other):
				found = true
			case strings.Contains(line, "Storage has"):
				return found, nil
			}
		case <-ctx.Done():
			return false, fmt.Errorf("dhtnode's answer to %q: %w", command, ctx.Err())
		}
	}
}

// rss is what the process has in memory, in MB; 0 if it has ended.
func (p *process) rss() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	kb, err := strconv.ParseFloat(f[0], 64)
	if err != nil {
		return 0
	}
	return kb / 1000
}
