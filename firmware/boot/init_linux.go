package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fieldkit/firmware/boot/initlink"
	"fieldkit/firmware/config"
)

// The program of the card under its other names.
const (
	program    = "/init"
	DaemonName = "fieldkitd"
	LightsName = "fieldkit-lights"
	ModuleName = "modprobe"
)

// crashFile is what the daemon said last before it ended unasked.
const crashFile = "/run/fieldkit/crash.txt"

// pid1 is what the loop of Init owns.
type pid1 struct {
	log      *slog.Logger
	console  *console
	cmdline  string
	procs    *processes
	timeline *timeline

	dog       *watchdog
	dogBad    bool // a failure to feed it was said
	dogWanted bool // it is to be opened as soon as it is there
	super     *supervisor
	boot      initlink.Boot // Stages are the timeline's
	argv      []string
	daemon    *daemon
	end       <-chan syscall.WaitStatus // of the daemon; nil while there is none
	output    *ring
	lights    int // the process that shows that the kit starts; 0 is none
	lit       <-chan syscall.WaitStatus
	reqs      chan initlink.Request
	ready     chan prepared
}

// prepared is what the preparation of the system found.
type prepared struct {
	boot initlink.Boot
	argv []string
}

// Init is PID 1. It never returns.
func Init() {
	began := initlink.SinceKernel()
	err := mountAll(mount)
	c := openConsole()
	b, _ := os.ReadFile("/proc/cmdline")
	p := &pid1{
		console: c, cmdline: string(b), procs: newProcesses(), output: &ring{},
		reqs: make(chan initlink.Request, 16), ready: make(chan prepared, 1),
	}
	p.log = slog.New(slog.NewTextHandler(io.MultiWriter(c, kernelLog{}), &slog.HandlerOptions{ReplaceAttr: sinceKernel}))
	p.timeline = &timeline{log: p.log}
	p.timeline.mark("kernel", began)
	if err != nil {
		p.log.Error("file systems of the kernel", "err", err)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGINT, unix.SIGTERM, unix.SIGPWR)
	p.settings()
	p.startWatchdog()
	p.showStarting()
	p.timeline.mark("init", initlink.SinceKernel())
	p.super = newSupervisor(initlink.SinceKernel(), trial())
	go func() { p.ready <- p.prepared() }()
	p.loop(signals)
}

// sinceKernel writes the time since the kernel started in the place of the clock's, which nobody should believe.
func sinceKernel(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.String("t", fmt.Sprintf("%.3f", initlink.SinceKernel().Seconds()))
	}
	return a
}

// kernelLog writes lines into the kernel's log, where they stay after the console is gone.
type kernelLog struct{}

func (kernelLog) Write(b []byte) (int, error) {
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		_, _ = f.Write(append([]byte("<6>fieldkit: "), b[:min(len(b), 900)]...))
		_ = f.Close()
	}
	return len(b), nil
}

// openConsole opens the console, which need not have been there when the kernel started PID 1. Nothing that is written
// to the old descriptors by the runtime, a panic above all, may be lost.
func openConsole() *console {
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return newConsole(io.Discard)
	}
	for to := range 3 {
		_ = unix.Dup3(fd, to, 0)
	}
	if fd > 2 {
		_ = unix.Close(fd)
	}
	return newConsole(os.Stdout)
}

// settings are those of the kernel. What cannot be set is said and no more.
func (p *pid1) settings() {
	for _, s := range []struct{ path, value string }{
		{"/proc/sys/kernel/printk", "4"}, // what init and the daemon say is on the console already
		{"/proc/sys/kernel/panic", "10"},
		{"/proc/sys/kernel/panic_on_oops", "1"}, // a kernel that goes on damaged is worse than a reboot
		{"/proc/sys/kernel/ctrl-alt-del", "0"},  // SIGINT to PID 1
		{"/proc/sys/kernel/modprobe", "/sbin/modprobe"},
	} {
		if err := os.WriteFile(s.path, []byte(s.value), 0); err != nil {
			p.log.Warn("setting of the kernel", "err", err)
		}
	}
	if err := unix.Sethostname([]byte("kit")); err != nil {
		p.log.Warn("name of the host", "err", err)
	}
	if err := loopbackUp(); err != nil {
		p.log.Warn("loopback", "err", err)
	}
}

// loopbackUp brings up the interface lo, which has its addresses by itself.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// prepared is prepare, and what there is to go on with should that panic: a card may hold anything.
func (p *pid1) prepared() (r prepared) {
	r.argv = daemonArgv
	defer func() {
		if v := recover(); v != nil {
			p.log.Error("preparation", "panic", v, "stack", string(debug.Stack()))
			r.boot.Notes = addNote(p.log, r.boot.Notes, initlink.AboutState, true, fmt.Sprintf("preparation of the card: %v", v))
		}
	}()
	r.boot = p.prepare()
	return r
}

// daemonArgv is how the daemon is started.
var daemonArgv = []string{DaemonName, "--card", "--config", config.CardFile}

// trial tells whether the firmware of the board boots this slot once, to try it.
func trial() bool {
	b, err := os.ReadFile("/proc/device-tree/chosen/bootloader/tryboot")
	return err == nil && len(b) == 4 && b[3] == 1 && b[0]|b[1]|b[2] == 0 // a cell, big-endian
}

// startWatchdog starts the watchdog before anything that could hang. Emulators of the board reset it when it is
// opened, so the kernel's command line can forbid that.
func (p *pid1) startWatchdog() {
	if option(p.cmdline, "watchdog") == "0" {
		p.log.Info("watchdog left alone, as the command line says")
		return
	}
	p.dogWanted = true
	if err := p.findWatchdog(); err != nil {
		p.note(initlink.AboutWatchdog, false, err.Error())
	}
}

// findWatchdog opens the watchdog. It is tried again while there is none: with some kernels its driver is a module.
func (p *pid1) findWatchdog() error {
	if p.dog != nil || !p.dogWanted {
		return nil
	}
	w, err := openWatchdog("/dev/watchdog")
	if w == nil {
		p.dogWanted = errors.Is(err, fs.ErrNotExist)
		return err
	}
	p.dog = w
	p.log.Info("watchdog", "at_ms", initlink.SinceKernel().Milliseconds(), "err", err)
	p.boot.Notes = slices.DeleteFunc(p.boot.Notes, func(n initlink.Note) bool { return n.About == initlink.AboutWatchdog })
	return nil
}

// note keeps something for the health tree, which a daemon gets when it starts. Later ones than fit are only logged.
func (p *pid1) note(about string, fault bool, text string) {
	p.boot.Notes = addNote(p.log, p.boot.Notes, about, fault, text)
}

func addNote(log *slog.Logger, notes []initlink.Note, about string, fault bool, text string) []initlink.Note {
	text = strings.ReplaceAll(text, "\n", "; ") // joined errors
	log.Warn("note", "about", about, "fault", fault, "text", text)
	if len(notes) >= initlink.MaxNotes {
		return notes
	}
	return append(notes, initlink.Note{About: about, Fault: fault, Text: strings.ToValidUTF8(text[:min(len(text), initlink.MaxText)], "")})
}

// showStarting shows on the LEDs that the kit starts, until the daemon wants them.
func (p *pid1) showStarting() {
	if p.lights != 0 {
		return
	}
	pid, end, err := p.procs.start(program, []string{LightsName}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}, Dir: "/"})
	if err != nil {
		p.log.Warn("LEDs", "err", err)
		return
	}
	p.lights, p.lit = pid, end
}

// freeLights ends that, and returns once the kernel has the lines back.
func (p *pid1) freeLights() {
	if p.lights == 0 {
		return
	}
	_ = unix.Kill(p.lights, unix.SIGKILL)
	for range 250 { // the one that takes ends is the caller, so it does
		p.procs.reap()
		if len(p.lit) > 0 {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	p.lights, p.lit = 0, nil
}

// loop is PID 1 from here on: everything that happens is an event of the supervisor.
func (p *pid1) loop(signals <-chan os.Signal) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	p.feed()
	for {
		now := initlink.SinceKernel()
		var todo []action
		select {
		case s := <-signals:
			switch s {
			case unix.SIGCHLD:
				p.procs.reap()
			case unix.SIGPWR:
				todo = p.super.reboot(now, initlink.PowerOff, "signal")
			default:
				todo = p.super.reboot(now, initlink.Normal, "signal")
			}
		case r := <-p.ready:
			notes := append(p.boot.Notes, r.boot.Notes...)
			p.boot, p.argv = r.boot, r.argv
			p.boot.Notes = notes[:min(len(notes), initlink.MaxNotes)]
			todo = p.super.start(initlink.SinceKernel())
		case r := <-p.reqs:
			todo = p.request(now, r)
		case s := <-p.end:
			todo = p.ended(now, s)
		case <-tick.C:
			p.procs.reap() // a signal may have been folded into one before
			todo = p.super.tick(now)
			_ = p.findWatchdog() // said at the first try
			p.feed()
		}
		p.do(todo)
	}
}

// feed feeds the watchdog if the supervisor says so.
func (p *pid1) feed() {
	if !p.super.feed(initlink.SinceKernel()) {
		return
	}
	if err := p.dog.feed(); err != nil && !p.dogBad {
		p.dogBad = true
		p.log.Error("watchdog not fed", "err", err)
	}
}

// request does what the daemon asks for.
func (p *pid1) request(now time.Duration, r initlink.Request) []action {
	switch {
	case r.Beat != nil:
		p.super.beat(now, *r.Beat)
	case r.Mark != nil:
		p.timeline.mark(r.Mark.Name, time.Duration(r.Mark.At)*time.Millisecond)
	case r.Committed:
		p.super.committed = true
		p.log.Info("the slot of this boot is committed")
	case r.Lights:
		p.freeLights()
		if p.daemon != nil {
			_ = p.daemon.send(initlink.Reply{Lights: true})
		}
	case r.Reboot != "":
		return p.super.reboot(now, r.Reboot, "asked for by the daemon")
	}
	return nil
}

// ended takes the end of the daemon, and cleans up behind it.
func (p *pid1) ended(now time.Duration, s syscall.WaitStatus) []action {
	asked := p.super.phase == ending || p.super.phase == killing
	_ = p.daemon.kill() // what it started and left
	_ = p.daemon.link.Close()
	p.procs.killOrphans()
	p.daemon, p.end = nil, nil
	if !asked {
		p.crashed(s)
	}
	return p.super.exited(now)
}

func (p *pid1) crashed(s syscall.WaitStatus) {
	said := p.output.bytes()
	if err := os.WriteFile(crashFile, said, 0o600); err != nil {
		p.log.Warn("last words of the daemon", "err", err)
	}
	text := fmt.Sprintf("%s at %.0f s; started again %d times before", describe(s), initlink.SinceKernel().Seconds(), p.super.crashes)
	for i, n := range p.boot.Notes {
		if n.About == initlink.AboutDaemon {
			p.boot.Notes[i].Text = text
			p.log.Error("daemon", "end", text)
			return
		}
	}
	p.note(initlink.AboutDaemon, false, text)
}

// do does what the supervisor wants.
func (p *pid1) do(todo []action) {
	for len(todo) > 0 {
		a := todo[0]
		todo = todo[1:]
		switch a {
		case actStart:
			todo = append(todo, p.start()...)
		case actTerm:
			p.log.Info("reboot", "kind", string(p.super.kind), "why", p.super.why)
			_ = p.daemon.terminate()
		case actKill:
			_ = p.daemon.kill()
		case actFinish:
			p.log.Info("end", "kind", string(p.super.kind), "why", p.super.why)
			go p.finish(p.super.kind)
		}
	}
}

// start starts the daemon. One that cannot be started has ended.
func (p *pid1) start() []action {
	p.showStarting()
	p.timeline.mark("daemon", initlink.SinceKernel())
	p.boot.Stages, p.boot.Trial = p.timeline.stages(), p.super.trial && !p.super.committed
	p.output = &ring{}
	d, err := startDaemon(p.procs, program, p.argv, p.boot, p.reqs, io.MultiWriter(p.output, p.console))
	if err != nil {
		p.log.Error("daemon not started", "err", err)
	}
	if d == nil {
		return p.super.exited(initlink.SinceKernel())
	}
	p.daemon, p.end = d, d.end
	return nil
}

// finish puts everything in order and ends the system. It runs beside the loop, which feeds the watchdog for a bounded
// time: what hangs here is for the watchdog.
func (p *pid1) finish(kind initlink.Kind) {
	time.AfterFunc(offLimit, func() { _ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) }) // where there is no watchdog
	_ = unix.Kill(-1, unix.SIGTERM)
	time.Sleep(200 * time.Millisecond)
	_ = unix.Kill(-1, unix.SIGKILL)
	unix.Sync()
	if err := unmountPerm(); err != nil {
		p.log.Error("state partition", "err", err)
	}
	unix.Sync()
	switch kind {
	case initlink.PowerOff:
		if err := p.dog.stop(); err != nil {
			p.log.Warn("watchdog not stopped", "err", err)
		}
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case initlink.TryBoot:
		// The kernel hands the words to the firmware of the board: the next boot is of the other slot, and only it.
		_ = rebootWith("0 tryboot")
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// limited runs a tool and ends it after a time.
func (p *pid1) limited(argv ...string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return p.procs.run(ctx, argv...)
}
