package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"fieldkit/firmware/boot/initlink"
)

// The tests run themselves as what they need: a PID 1, which is a process that gets all orphans below it, and daemons.
const role = "FIELDKIT_BOOT_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		goleak.VerifyTestMain(m)
	case "reaper":
		reaper()
	case "supervise":
		superviseDaemon()
	default:
		os.Exit(97)
	}
}

// as runs the test binary in a role and returns what it says.
func as(t *testing.T, what string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), role+"="+what)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// adopt makes this process the parent of all orphans below it, and takes their ends.
func adopt() *processes {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Println("subreaper:", err)
		os.Exit(1)
	}
	p := newProcesses()
	ended := make(chan os.Signal, 16)
	signal.Notify(ended, unix.SIGCHLD)
	go func() {
		for range ended {
			p.reap()
		}
	}()
	return p
}

func reaper() {
	p := adopt()
	ctx := context.Background()
	for _, c := range [][]string{
		{"/bin/sh", "-c", "echo out; echo err >&2; exit 3"},
		{"/bin/sh", "-c", "kill -9 $$"},
		{"/no/such/tool"},
	} {
		status, said, err := p.run(ctx, c...)
		fmt.Printf("run %d %q %v\n", status, said, err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	_, _, err := p.run(short, "/bin/sleep", "60")
	cancel()
	fmt.Println("too long:", errors.Is(err, context.DeadlineExceeded))
	// Many at once: each end goes to who waits for it.
	done := make(chan bool)
	for i := range 50 {
		go func() {
			status, _, err := p.run(ctx, "/bin/sh", "-c", fmt.Sprintf("exit %d", i))
			done <- status == i && err == nil
		}()
	}
	good := 0
	for range 50 {
		if <-done {
			good++
		}
	}
	fmt.Println("own ends:", good)
	// A child that leaves a zombie and a sleeper behind: both are ours then. The zombie goes by itself, the sleeper is
	// ended.
	if _, _, err := p.run(ctx, "/bin/sh", "-c", "(exit 7) & sleep 60 >/dev/null 2>&1 & exit 0"); err != nil {
		fmt.Println(err)
	}
	left := func(n int) {
		for range 250 {
			if len(childrenOf(os.Getpid())) == n {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	left(1)
	fmt.Println("orphans ended:", p.killOrphans())
	left(0)
	fmt.Println("left:", len(childrenOf(os.Getpid())))
	os.Exit(0)
}

// PID 1 takes the end of every process, and takes none of them away from who waits for it.
func TestEveryEndIsTaken(t *testing.T) {
	got := as(t, "reaper")
	want := `run 3 "out\nerr" <nil>
run -1 "" /bin/sh: killed
run -1 "" start /no/such/tool: no such file or directory
too long: true
own ends: 50
orphans ended: 1
left: 0
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// daemonScript plays a daemon whose descriptor 3 is the link, which the shell cannot read as packets: dd can, one packet
// a read.
const daemonScript = `
case "$1" in
talk)
  test "$FIELDKIT_INIT" = 3 || exit 90
  dd bs=16384 count=1 <&3 2>/dev/null | grep -q '"trial":true' || exit 91
  printf '{"beat":true}' >&3
  printf 'no JSON' >&3
  printf '{"mark":{"stage":"SIP","at_ms":12}}' >&3
  printf '{"reboot":"tryboot"}' >&3
  trap 'echo asked to end; exit 0' TERM
  echo started
  sleep 60 & wait
  ;;
esac
`

func superviseDaemon() {
	p := adopt()
	requests := make(chan initlink.Request, 8)
	var said ring
	d, err := startDaemon(p, "/bin/sh", []string{"sh", "-c", daemonScript, "daemon", "talk"}, initlink.Boot{Trial: true}, requests, &said)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for range 3 {
		r := <-requests
		fmt.Printf("beat %v mark %v reboot %q\n", r.Beat != nil && *r.Beat, r.Mark, r.Reboot)
	}
	for !strings.Contains(string(said.bytes()), "started") {
		time.Sleep(5 * time.Millisecond)
	}
	if err := d.terminate(); err != nil {
		fmt.Println(err)
	}
	fmt.Println(describe(<-d.end))
	_ = d.kill() // its sleep
	_ = d.link.Close()
	for range 250 {
		if strings.Contains(string(said.bytes()), "asked to end") {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Printf("%q\n", said.bytes())
	d, err = startDaemon(p, "/bin/sh", []string{"sh", "-c", "exit 5"}, initlink.Boot{}, requests, io.Discard)
	if err == nil {
		fmt.Println(describe(<-d.end))
	}
	_, err = startDaemon(p, "/no/such/daemon", []string{"daemon"}, initlink.Boot{}, requests, io.Discard)
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	os.Exit(0)
}

func TestDaemonAndLink(t *testing.T) {
	got := as(t, "supervise")
	want := `beat true mark <nil> reboot ""
beat false mark &{SIP 12} reboot ""
beat false mark <nil> reboot "tryboot"
ended by itself
"started\nasked to end\n"
exit status 5
true
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// The two ends of a link as the programs have them.
func TestLinkOverASocketPair(t *testing.T) {
	ours, theirs, err := linkPair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	d := &daemon{link: ours}
	boot := initlink.Boot{Trial: true, Stages: []initlink.Stage{{Name: "kernel", At: 900}}}
	if err := d.send(initlink.Reply{Boot: &boot}); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(theirs.Fd())) // FromEnv closes it
	if err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	t.Setenv(initlink.Env, strconv.Itoa(fd))
	l, err := initlink.FromEnv()
	if err != nil {
		t.Fatal(err)
	}
	if _, set := os.LookupEnv(initlink.Env); set {
		t.Error("what the daemon starts would be told of the link")
	}
	requests := make(chan initlink.Request)
	go d.listen(requests)
	l.Beat(true)
	if r := <-requests; r.Beat == nil || !*r.Beat {
		t.Errorf("%+v", r)
	}
	taken := make(chan error, 1)
	go func() { taken <- l.TakeLights() }()
	if r := <-requests; !r.Lights {
		t.Errorf("%+v", r)
	}
	if err := d.send(initlink.Reply{Lights: true}); err != nil {
		t.Fatal(err)
	}
	if err := <-taken; err != nil || !l.Trial() {
		t.Error(err, l.Boot())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestRing(t *testing.T) {
	var r ring
	var all []byte
	for i := range 40000 {
		line := fmt.Appendf(nil, "line %d\n", i*i)
		all = append(all, line...)
		if n, err := r.Write(line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
		if i%997 == 0 {
			if want := all[max(0, len(all)-ringSize):]; string(r.bytes()) != string(want) {
				t.Fatalf("after %d lines: %d bytes, want %d", i, len(r.bytes()), len(want))
			}
		}
	}
	big := make([]byte, 3*ringSize+7)
	big[len(big)-1] = 9
	if _, err := r.Write(big); err != nil || len(r.bytes()) != ringSize || r.bytes()[ringSize-1] != 9 {
		t.Error("a write larger than the ring")
	}
}

// A console that hangs holds nobody up, and says afterwards that something is missing.
func TestConsoleNeverWaits(t *testing.T) {
	r, w := io.Pipe()
	c := newConsole(w)
	for range 3 * consoleQueue {
		if n, err := c.Write([]byte("line\n")); n != 5 || err != nil {
			t.Fatal(n, err)
		}
	}
	got := make(chan string)
	go func() {
		b, all := make([]byte, 1<<10), ""
		for !strings.Contains(all, "last") {
			n, err := r.Read(b)
			if err != nil {
				break
			}
			all += string(b[:n])
		}
		got <- all
	}()
	for i := 0; ; i++ {
		c.mu.Lock()
		free := len(c.queue) == 0
		c.mu.Unlock()
		if free || i > 1000 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	_, _ = c.Write([]byte("last\n"))
	all := <-got
	if lines := strings.Count(all, "line\n"); lines < consoleQueue || lines > consoleQueue+1 || !strings.HasSuffix(all, "…\nlast\n") {
		t.Errorf("%d lines, end %q", lines, all[max(0, len(all)-20):])
	}
	_ = w.Close()
	close(c.queue) // PID 1's lives as long as PID 1
}

// What is mounted, and in which order: nothing is mounted below what is not mounted, nothing there is run or a device,
// and what is in memory is bounded.
func TestMountsInOrder(t *testing.T) {
	var did []string
	err := mountAll(func(m mountPoint) error {
		did = append(did, m.target)
		if m.kind != "devtmpfs" && m.kind != "devpts" && m.flags&unix.MS_NODEV == 0 || m.flags&unix.MS_NOSUID == 0 {
			t.Errorf("%s has devices or set-user-ID programs", m.target)
		}
		if m.kind == "tmpfs" && !strings.Contains(m.data, "size=") {
			t.Errorf("%s is not bounded", m.target)
		}
		return nil
	})
	if want := []string{"/proc", "/sys", "/dev", "/dev/pts", "/run", "/tmp", "/sys/fs/pstore"}; err != nil || !slices.Equal(did, want) {
		t.Errorf("%v, %v", did, err)
	}
	did = nil
	err = mountAll(func(m mountPoint) error {
		did = append(did, m.target)
		switch {
		case m.target == "/proc":
			return syscall.EBUSY // the kernel or somebody before did it
		case m.optional:
			return syscall.ENODEV
		case m.target == "/run":
			return syscall.ENOMEM
		}
		return nil
	})
	if len(did) != len(mountPoints) || !errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.ENODEV) {
		t.Errorf("%v, %v", did, err)
	}
}

func TestFailedToolIsAnError(t *testing.T) {
	v := statePartition{"/dev/x", func(argv ...string) (int, string, error) {
		if argv[len(argv)-1] != "/dev/x" {
			t.Errorf("%v", argv)
		}
		return 1, "\nmke2fs: no space\nadvice", nil
	}}
	if err := v.format(); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Error(err)
	}
	if status, _, err := v.check(true); status != 1 || err != nil {
		t.Error(status, err)
	}
}
