//go:build linux

// Package lab runs several kits and phones on one machine as if they stood in a field: every kit is
// a fieldkitd process with a simulated board, every phone a SIP user agent process with real audio,
// each a host of its own where the machine allows network namespaces. It is the demonstration
// behind `make run` and the ground that the end-to-end tests stand on.
//
// The lab only watches: what it prints comes from the kits' status and from the phones' own
// measurements. A Lab belongs to one goroutine; Kit and Phone say which of their methods may be
// called from others.
package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"fieldkit/board/simnet/netns"
	"fieldkit/firmware/mission"
)

// Options say what to run.
type Options struct {
	Kits     int           // 1 to 16
	Calls    int           // 0 to 50, each between two phones of its own
	Loss     float64       // percent of frames lost between kits, each way
	Delay    time.Duration // one way between kits
	Net      string        // NetAuto, NetNamespaces or NetLoopback
	Talk     time.Duration // how long each call lasts in a measured run
	Within   time.Duration // how long a measured run waits for the ring; 0 is a minute
	Daemon   string        // path of fieldkitd
	Tool     string        // path of fieldkit, which also is the phone
	Accounts []string      // handset accounts beside those of the lab's own phones
	Mission  mission.Options
	Dir      string       // for the state of kits; "" makes a temporary one
	KitLog   slog.Level   // what the kits' logs keep
	Log      *slog.Logger // nil discards

	pages []string // addresses of the status pages where the caller serves them
}

// Limits of Options.
const (
	MaxKits  = 16
	MaxCalls = 50
)

func (o Options) validate() error {
	switch {
	case o.Kits < 1 || o.Kits > MaxKits:
		return fmt.Errorf("kits: %d is not between 1 and %d", o.Kits, MaxKits)
	case o.Calls < 0 || o.Calls > MaxCalls:
		return fmt.Errorf("calls: %d is not between 0 and %d", o.Calls, MaxCalls)
	case o.Loss < 0 || o.Loss > 100:
		return fmt.Errorf("loss: %v is not a percentage", o.Loss)
	case o.Delay < 0 || o.Delay > 10*time.Second:
		return fmt.Errorf("delay: %v is not between 0 and 10 s", o.Delay)
	}
	for _, path := range []string{o.Daemon, o.Tool} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("program of the lab: %w (`make run` builds it)", err)
		}
	}
	return nil
}

// Lab is a running world with its mission. Kits and Phones are in the order they were started.
type Lab struct {
	Kits   []*Kit
	Phones []*Phone

	mu      sync.Mutex // guards Phones while Show has them started
	opts    Options
	dir     string
	world   world
	seats   int // places of handsets given out
	mission *mission.Mission
	log     *slog.Logger
}

// New lays the cables and makes the mission; no kit is started yet. Close it in any case.
func New(o Options) (*Lab, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Lab{opts: o, dir: o.Dir, log: o.Log}
	if l.dir == "" {
		var err error
		if l.dir, err = os.MkdirTemp("", "fieldkit-lab-"); err != nil {
			return nil, fmt.Errorf("lab directory: %w", err)
		}
	}
	if err := l.prepare(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Lab) prepare() (err error) {
	if l.mission, err = mission.New("lab", l.opts.Mission); err != nil {
		return err
	}
	for i := range 2 * l.opts.Calls {
		if _, err := l.mission.AddHandset(phoneName(i), kitNumber(l.phoneKit(i))); err != nil {
			return err
		}
	}
	for i, name := range l.opts.Accounts {
		if _, err := l.mission.AddHandset(name, kitNumber(i%l.opts.Kits)); err != nil {
			return err
		}
	}
	if l.world, err = newWorld(l.opts); err != nil {
		return fmt.Errorf("network of the lab: %w", err)
	}
	return nil
}

// phoneKit spreads the phones so that the two of a call are on different kits where there are two.
func (l *Lab) phoneKit(i int) int { return (i/2 + i%2) % l.opts.Kits }

func phoneName(i int) string { return fmt.Sprintf("phone%d", i+1) }

// kitNumber is the three-digit number of kit k.
func kitNumber(k int) int { return 101 + k }

// Describe says in one line what network the lab runs on.
func (l *Lab) Describe() string { return l.world.describe() }

// Mission is the mission that the kits are given.
func (l *Lab) Mission() *mission.Mission { return l.mission }

// SetCondition changes loss and delay between the kits from now on.
func (l *Lab) SetCondition(loss float64, delay time.Duration) error {
	return l.world.condition(netns.Condition{Loss: loss / 100, Delay: delay})
}

// StartKits starts all the kits of Options at the same moment.
func (l *Lab) StartKits(ctx context.Context) error {
	for range l.opts.Kits {
		if _, err := l.StartKit(ctx); err != nil {
			return err
		}
	}
	return nil
}

// WaitRing waits until every running kit sees the same ring of exactly the running kits.
func (l *Lab) WaitRing(ctx context.Context) error {
	for {
		why := l.ringIncomplete(ctx)
		if why == nil {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("ring of kits: %w: %w", why, err)
		}
	}
}

func (l *Lab) ringIncomplete(ctx context.Context) error {
	running := 0
	for _, k := range l.Kits {
		if k.Running() {
			running++
		}
	}
	var first []string
	for _, k := range l.Kits {
		if !k.Running() {
			continue
		}
		s, err := k.Status(ctx)
		if err != nil {
			return err
		}
		if len(s.Ring) != running {
			return fmt.Errorf("kit %d sees %d of %d kits", s.Kit.Number, len(s.Ring), running)
		}
		if first == nil {
			first = s.Ring
		}
		if !sameRing(first, s.Ring) {
			return fmt.Errorf("kit %d sees another ring", s.Kit.Number)
		}
	}
	return nil
}

// sameRing compares two rings that may begin at different kits.
func sameRing(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for shift := range b {
		same := true
		for i := range a {
			same = same && a[i] == b[(i+shift)%len(b)]
		}
		if same {
			return true
		}
	}
	return len(a) == 0
}

// Close ends every process, removes the network and the files.
func (l *Lab) Close() {
	var quitting sync.WaitGroup
	for _, p := range l.Phones {
		quitting.Go(p.close) // each says goodbye, which needs its kit
	}
	quitting.Wait()
	for _, k := range l.Kits {
		k.terminate()
	}
	for _, k := range l.Kits {
		k.await()
	}
	if l.world != nil {
		l.world.close()
	}
	if err := os.RemoveAll(l.dir); err != nil {
		l.log.Warn("lab directory stays behind", "err", err)
	}
}

// process is a child that somebody waits for exactly once.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid once done is closed
}

func launch(at place, cmd *exec.Cmd) (*process, error) {
	return launchReading(at, cmd, func() {})
}

// launchReading starts cmd and has read, which returns at the end of cmd's output, run before it is waited for.
func launchReading(at place, cmd *exec.Cmd, read func()) (*process, error) {
	// A group of its own: Ctrl-C is for the lab, which ends its processes in order.
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	if err := at.start(cmd); err != nil {
		return nil, fmt.Errorf("process %s: %w", filepath.Base(cmd.Path), err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		read()
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// end asks the process to end and kills it when it does not within limit.
func (p *process) end(limit time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(limit):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("process %s did not end within %v and was killed", filepath.Base(p.cmd.Path), limit)
	}
	var exit *exec.ExitError
	if errors.As(p.err, &exit) && exit.ExitCode() > 0 {
		return fmt.Errorf("process %s: %w", filepath.Base(p.cmd.Path), p.err)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
