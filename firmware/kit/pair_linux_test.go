package kit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fieldkit/board"
	"fieldkit/board/simnet/netns"
	"fieldkit/firmware/config"
	"fieldkit/firmware/mission"
	"fieldkit/ui"
)

// Whole kits as processes in network namespaces: this test program again, as a kit with a simulated board whose button it
// moves as its standard input says.

const kitEnv = "FIELDKIT_KIT_TEST"

// Times that the button is held for.
const (
	tapTime   = 200 * time.Millisecond
	pairTime  = 5200 * time.Millisecond
	eraseTime = 15200 * time.Millisecond
)

// childKit is the process of a kit, if this is one.
func childKit() {
	dir := os.Getenv(kitEnv)
	if dir == "" {
		return
	}
	level := slog.LevelError
	if os.Getenv(kitEnv+"_LOG") != "" {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("kit", filepath.Base(dir))
	var mu sync.Mutex
	var now *Kit
	var hardware *board.Simulated
	ctx, cancel := context.WithCancel(context.Background())
	made := make(chan struct{})
	var once sync.Once
	go func() {
		defer cancel()
		<-made
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			mu.Lock()
			k, b := now, hardware
			mu.Unlock()
			hold := map[string]time.Duration{"tap": tapTime, "pair": pairTime, "erase": eraseTime}[in.Text()]
			if hold > 0 {
				b.Push()
				time.Sleep(hold)
				b.Release()
				time.Sleep(tapTime) // the next is another press
				continue
			}
			var answer any = k.Status()
			var to string
			if n, _ := fmt.Sscanf(in.Text(), "trace %s", &to); n == 1 {
				t, err := k.trace(ctx, to)
				answer = map[string]any{"trace": t, "error": fmt.Sprint(err)}
			}
			if json.NewEncoder(os.Stdout).Encode(answer) != nil {
				return
			}
		}
	}()
	for {
		cfg := config.Default()
		cfg.StateDir, cfg.Mission = filepath.Join(dir, "state"), filepath.Join(dir, "none.mission")
		b := board.NewSimulated()
		k, err := New(cfg, Options{Log: log, Simulated: b})
		if err != nil {
			log.Error("kit", "err", err)
			os.Exit(1)
		}
		playClock(k)
		mu.Lock()
		now, hardware = k, b
		mu.Unlock()
		once.Do(func() { close(made) })
		if err := k.Run(ctx); !errors.Is(err, ErrRestart) {
			if ctx.Err() == nil {
				log.Error("kit ended", "err", err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
}

// boxed is one of these kits.
type boxed struct {
	t    *testing.T
	name string
	dir  string
	host *netns.Host
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
}

// boxes makes n kits on one switch; none is started.
func boxes(t *testing.T, n int) (list []*boxed) {
	t.Helper()
	if err := netns.Supported(); err != nil {
		t.Fatalf("network namespaces are needed: %v", err)
	}
	hub, err := netns.New("hub")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hub.Close)
	var ports []string
	for i := range n {
		b := &boxed{t: t, name: fmt.Sprintf("kit%d", i), dir: filepath.Join(t.TempDir(), fmt.Sprintf("kit%d", i))}
		if b.host, err = netns.New(b.name); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.host.Close)
		port := fmt.Sprintf("p%d", i)
		ports = append(ports, port)
		cable := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 7, byte(i + 1)}), 24)
		if err := errors.Join(
			netns.Veth(hub, port, b.host, "eth0"), b.host.AddAddress("eth0", cable), b.host.Up("eth0"),
			b.host.Bridge("hs0"), b.host.AddAddress("hs0", netip.MustParsePrefix("10.73.0.1/16")),
		); err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	if err := hub.Bridge("br", ports...); err != nil {
		t.Fatal(err)
	}
	return list
}

func (b *boxed) start() {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), kitEnv+"="+b.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if b.in, err = cmd.StdinPipe(); err != nil {
		b.t.Fatal(err)
	}
	if err := b.host.Start(cmd); err != nil {
		b.t.Fatal(err)
	}
	b.cmd, b.out = cmd, json.NewDecoder(out)
	b.t.Cleanup(func() {
		_ = b.in.Close()
		timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		_ = cmd.Wait()
	})
}

// kill is a power cut.
func (b *boxed) kill() {
	b.t.Helper()
	if err := b.cmd.Process.Kill(); err != nil {
		b.t.Fatal(err)
	}
	_ = b.cmd.Wait()
}

func (b *boxed) say(what string) {
	b.t.Helper()
	if _, err := io.WriteString(b.in, what+"\n"); err != nil {
		b.t.Fatalf("%s: %v", b.name, err)
	}
}

func (b *boxed) status() (s ui.Status) {
	b.t.Helper()
	b.say("status")
	if err := b.out.Decode(&s); err != nil {
		b.t.Fatalf("%s: status: %v", b.name, err)
	}
	return s
}

// until waits for a status that is as wanted.
func (b *boxed) until(what string, want func(ui.Status) bool) ui.Status {
	b.t.Helper()
	var s ui.Status
	for end := time.Now().Add(45 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if s = b.status(); want(s) {
			return s
		}
	}
	b.t.Fatalf("%s: not %s: mission %q, ring %v, pairing %+v, health %v", b.name, what, s.Kit.Mission, s.Ring, s.Pairing, s.Problems())
	return s
}

// pair presses two kits, compares what they show and confirms it.
func pairBoxes(t *testing.T, a, b *boxed) {
	t.Helper()
	a.say("pair") // the first of two new ones is the host
	time.Sleep(tapTime)
	b.say("pair")
	comparing := func(s ui.Status) bool { return s.Pairing.Code != "" }
	x, y := a.until("comparing", comparing), b.until("comparing", comparing)
	if x.Pairing.Code != y.Pairing.Code || x.Pairing.Other != y.Kit.Name || y.Pairing.Other != x.Kit.Name {
		t.Fatalf("%+v, %+v", x.Pairing, y.Pairing)
	}
	a.say("tap")
	b.say("tap")
}

func ringOf(n int) func(ui.Status) bool {
	return func(s ui.Status) bool { return len(s.Ring) == n }
}

func warns(name string) func(ui.Status) bool {
	return func(s ui.Status) bool {
		return slices.ContainsFunc(s.Problems(), func(c ui.Check) bool { return c.Name == name })
	}
}

// Three kits that were never given anything become one mission by their buttons; a member that lost power comes back; and
// one that is erased is a stranger again.
func TestKitsWithoutAMissionArePaired(t *testing.T) {
	list := boxes(t, 3)
	for _, b := range list {
		b.start()
	}
	before := map[*boxed]ui.Status{}
	for _, b := range list {
		before[b] = b.until("on its own", func(s ui.Status) bool { return s.Kit.Founded && s.Kit.NodeID != "" })
	}
	host, guest, third := list[0], list[1], list[2]
	// An account of each before: both are there afterwards, with the guest's number still its own.
	for b, name := range map[*boxed]string{host: "anna", guest: "bert"} {
		path := filepath.Join(b.dir, "state", mission.MissionItem)
		m, err := mission.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.AddHandset(name, before[b].Kit.Number); err != nil {
			t.Fatal(err)
		}
		if err := m.Save(path); err != nil {
			t.Fatal(err)
		}
		b.until("with an account", func(s ui.Status) bool { return len(s.Handsets) == 1 })
	}

	pairBoxes(t, host, guest)
	joined := guest.until("in the other's mission", func(s ui.Status) bool { return s.Kit.Mission == before[host].Kit.Mission })
	if joined.Kit.Founded || joined.Kit.Number != before[guest].Kit.Number || joined.Kit.Overlay != before[host].Kit.Overlay {
		t.Errorf("joined as %+v", joined.Kit)
	}
	if joined.Kit.NodeID == before[guest].Kit.NodeID {
		t.Error(`the Node-ID is the one that the guest chose: "Each MUST be chosen by the enrollment server" (RFC 6940 §11.3)`)
	}
	var names []string
	for _, h := range joined.Handsets {
		names = append(names, h.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"anna", "bert"}) {
		t.Errorf("accounts %v", names)
	}
	guest.until("in a ring of two", ringOf(2))
	after := host.until("in a ring of two", ringOf(2))
	if after.Kit.NodeID != before[host].Kit.NodeID || warns("mission")(after) || !after.Kit.Founded {
		t.Errorf("the host is %+v, %v", after.Kit, after.Problems())
	}
	host.say(fmt.Sprintf("trace %d", joined.Kit.Number))
	var way struct {
		Trace ui.Trace `json:"trace"`
		Error string   `json:"error"`
	}
	if err := host.out.Decode(&way); err != nil || way.Trace.Target != joined.Kit.NodeID || way.Trace.Error != "" || len(way.Trace.Hops) == 0 {
		t.Errorf("the way to the guest: %+v, %v", way, err)
	}

	if testing.Short() {
		return // the rest is the same with another kit
	}

	// A member that founded nothing lets nobody in, and says who can.
	third.say("pair")
	guest.say("pair")
	for _, b := range []*boxed{third, guest} {
		s := b.until("refused", warns("pairing"))
		i := slices.IndexFunc(s.Health, func(c ui.Check) bool { return c.Name == "pairing" })
		if !strings.Contains(s.Health[i].Cause, "cannot let it in") || !strings.Contains(s.Health[i].Cause, before[host].Kit.Name) {
			t.Errorf("%s: %q", b.name, s.Health[i].Cause)
		}
	}
	pairBoxes(t, third, host)
	third.until("in a ring of three", ringOf(3))
	host.until("in a ring of three", ringOf(3))

	// Power.
	guest.kill()
	guest.start()
	if s := guest.until("back", ringOf(3)); s.Kit.NodeID != joined.Kit.NodeID {
		t.Errorf("back as %s, was %s", s.Kit.NodeID, joined.Kit.NodeID)
	}

	// Nothing of the mission is left where the button was held.
	m, err := mission.Load(filepath.Join(third.dir, "state", mission.MissionItem))
	if err != nil {
		t.Fatal(err)
	}
	third.say("erase")
	third.until("new", func(s ui.Status) bool {
		return s.Kit.Founded && s.Kit.Mission != m.Name && s.Kit.Number != before[third].Kit.Number && len(s.Handsets) == 0
	})
	files, err := filepath.Glob(filepath.Join(third.dir, "state", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{m.WiFi.Passphrase, m.Overlay, m.Handsets[0].Password} {
			if strings.Contains(string(b), secret) {
				t.Errorf("%s has %q of the mission before", f, secret)
			}
		}
	}
	host.until("in a ring of two", ringOf(2))
}
