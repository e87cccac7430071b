package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// machine is a System that notes what it is asked.
type machine struct {
	mu      sync.Mutex
	radios  []Radio
	heard   []Heard
	country error
	missing map[string]bool // interfaces that are not there
	calls   []string
}

func (m *machine) note(format string, a ...any) {
	m.calls = append(m.calls, fmt.Sprintf(format, a...))
}

func (m *machine) Radios() ([]Radio, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.radios), nil
}

func (m *machine) Scan(_ context.Context, iface string, frequencies []int) ([]Heard, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("scan %s %v", iface, frequencies)
	return m.heard, nil
}

func (m *machine) SetCountry(_ context.Context, code string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("country %s", code)
	return m.country
}

func (m *machine) SwitchOn(phy int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("switch on %d", phy)
	for i := range m.radios {
		m.radios[i].Switch = On
	}
	return nil
}

func (m *machine) MakeBridge(name string, address netip.Prefix) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("bridge %s %s", name, address)
	return nil
}

func (m *machine) AddPort(bridge, iface string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.missing[iface] {
		return fs.ErrNotExist
	}
	m.note("port %s %s", bridge, iface)
	return nil
}

func (m *machine) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *machine) did(what string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.calls, what)
}

const passphrase = "disaster help"

func settings() Settings {
	return Settings{SSID: "Valley", OwnSSID: "Valley MAPLE-412", Passphrase: passphrase}
}

// bench is an AP that runs on a played hostapd.
type bench struct {
	*AP
	t     *testing.T
	dir   string
	m     *machine
	ready chan struct{}
	done  chan error
	stop  context.CancelFunc
	log   *bytes.Buffer
}

func newBench(t *testing.T, mode string, radios ...Radio) *bench {
	t.Helper()
	t.Setenv(playedMode, mode)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// A socket's path has at most 107 bytes, and those of tests are long.
	dir, err := os.MkdirTemp("", "access")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &bench{t: t, dir: filepath.Join(dir, "access"), m: &machine{radios: radios}, log: &bytes.Buffer{}}
	b.AP = New(Config{
		Hostapd: program, Dir: b.dir, Address: netip.MustParsePrefix("10.73.0.1/16"), System: b.m,
		Log: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	b.patience = patience{look: 20 * time.Millisecond, start: 5 * time.Second, move: 100 * time.Millisecond, scan: time.Second, silent: 1}
	b.Set(settings())
	return b
}

func (b *bench) start() {
	b.t.Helper()
	ctx, stop := context.WithCancel(b.t.Context())
	b.stop, b.ready, b.done = stop, make(chan struct{}), make(chan error, 1)
	var once sync.Once
	ready, done, ended := b.ready, b.done, make(chan struct{})
	go func() {
		defer close(ended)
		done <- b.Run(ctx, func() { once.Do(func() { close(ready) }) })
	}()
	b.t.Cleanup(func() {
		stop()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			b.t.Error("Run does not end")
		}
	})
}

// failed waits for the end of Run and returns its error.
func (b *bench) failed() error {
	b.t.Helper()
	select {
	case err := <-b.done:
		return err
	case <-time.After(10 * time.Second):
		b.t.Fatalf("it still runs: %+v", b.Snapshot())
		return nil
	}
}

// until waits for a status.
func (b *bench) until(what string, is func(Status) bool) Status {
	b.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if s := b.Snapshot(); is(s) {
			return s
		}
	}
	b.t.Fatalf("not %s: %+v\n%s", what, b.Snapshot(), b.log)
	return Status{}
}

func (b *bench) onAir() Status {
	b.t.Helper()
	return b.until("on the air", func(s Status) bool { return s.Enabled })
}

func TestServes(t *testing.T) {
	b := newBench(t, playsWell, ath9kUSB)
	b.m.heard = []Heard{{Frequency: 2412, Signal: -50}}
	b.start()
	<-b.ready
	s := b.onAir()
	if len(s.Networks) != 2 || s.Networks[0].SSID != "Valley" || s.Networks[1].SSID != "Valley MAPLE-412" || s.Networks[1].Interface != secondNetwork ||
		s.Channel.Number != 6 || s.Limit != 7 || s.Clients != 0 || s.Full() || s.Problem != "" || s.Radio.Interface != "wlan1" {
		t.Errorf("%+v", s)
	}
	for _, want := range []string{"bridge handset0 10.73.0.1/16", "scan wlan1 [2412 2437 2462]", "port handset0 wlan1", "port handset0 handset1"} {
		if !b.m.did(want) {
			t.Errorf("not done: %s", want)
		}
	}
	// The key is for nobody else.
	for path, want := range map[string]fs.FileMode{b.dir: 0o700 | fs.ModeDir, filepath.Join(b.dir, "hostapd.conf"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	play(t, b.dir, "STATIONS 3 1")
	play(t, b.dir, "EVENT <3>AP-STA-CONNECTED 02:00:00:00:01:00")
	s = b.until("four handsets", func(s Status) bool { return s.Clients == 4 && s.Stats.Connected > 0 })
	if s.Networks[0].Clients != 3 || s.Networks[1].Clients != 1 || s.Full() {
		t.Errorf("%+v", s)
	}
	play(t, b.dir, "STATIONS 6 1")
	b.until("full", Status.Full)
	for _, e := range []string{"AP-REJECTED-MAX-STA 02:00:00:00:09:00", "AP-STA-POSSIBLE-PSK-MISMATCH 02:00:00:00:09:01", "AP-STA-DISCONNECTED 02:00:00:00:09:01", "garbage \xff"} {
		play(t, b.dir, "EVENT <3>"+e)
	}
	b.until("counted", func(s Status) bool { return s.Stats.Rejected > 0 && s.Stats.WrongKey > 0 && s.Stats.Disconnected > 0 })
	b.stop()
	if err := b.failed(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if s := b.Snapshot(); s.Enabled || s.Clients != 0 || s.Problem != "" || s.Full() {
		t.Errorf("%+v", s)
	}
}

// The radio counts the handsets of both networks together, hostapd those of each.
func TestTwoNetworksShareTheLimit(t *testing.T) {
	b := newBench(t, playsWell, ath9kUSB)
	b.start()
	b.onAir()
	play(t, b.dir, "STATIONS 5 1")
	b.until("six handsets", func(s Status) bool { return s.Clients == 6 })
	if got, want := play(t, b.dir, "ASKED"), "wlan1: SET max_num_sta 6\nhandset1: SET max_num_sta 2"; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
	play(t, b.dir, "STATIONS 0 0")
	b.until("none", func(s Status) bool { return s.Clients == 0 })
	if got, want := play(t, b.dir, "ASKED"), "wlan1: SET max_num_sta 7\nhandset1: SET max_num_sta 7"; !strings.HasSuffix(got, want) {
		t.Errorf("asked %q, want %q at the end", got, want)
	}
}

func TestFallsBackToOneNetwork(t *testing.T) {
	b := newBench(t, playsOneOnly, ath9kUSB)
	b.start()
	if s := b.onAir(); len(s.Networks) != 1 || s.Networks[0].SSID != "Valley" || s.Stats.Starts != 2 {
		t.Errorf("%+v", s)
	}
	// It is not tried again and again.
	w := settings()
	w.SSID = "Other"
	b.Set(w)
	if s := b.until("renamed", func(s Status) bool { return s.Enabled && s.Networks[0].SSID == "Other" }); len(s.Networks) != 1 || s.Stats.Starts != 3 {
		t.Errorf("%+v", s)
	}
}

// The error is what a person needs: the line of hostapd that says why, and none of what else it says.
func TestHostapdThatFails(t *testing.T) {
	for _, c := range []struct {
		mode, play string
		within     time.Duration
		says       string
	}{
		{playsBroken, "", 0, "access point did not start: hostapd: exit status 1: Could not set channel for kernel driver"},
		{playsNothing, "", 200 * time.Millisecond, "access point did not start within 200ms"},
		{playsDisabled, "", 200 * time.Millisecond, "access point did not start within 200ms"},
		{playsWell, "EXIT", 0, "hostapd: exit status 3: Something the operator should read"},
		{playsWell, "MUTE", 0, "hostapd does not answer: no reply to STATUS"},
		{playsWell, "STATE DISABLED", 0, "radio wlan0 is not on the air: hostapd is DISABLED"},
		{playsWell, "EVENT <3>AP-DISABLED ", 0, "radio wlan0 went away"},
		{playsWell, "EVENT <3>INTERFACE-DISABLED ", 0, "radio wlan0 went away"},
		{playsWell, "EVENT <3>CTRL-EVENT-TERMINATING ", 0, "hostapd ends by itself"},
	} {
		t.Run(c.mode+" "+c.play, func(t *testing.T) {
			b := newBench(t, c.mode, builtIn)
			if c.within != 0 {
				b.patience.start = c.within
			}
			b.start()
			if c.play != "" {
				b.onAir()
				play(t, b.dir, c.play)
			}
			err := b.failed()
			if err == nil || !strings.HasPrefix(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			if s := b.Snapshot(); s.Enabled || !s.Severe || s.Problem != err.Error() {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestProgramThatIsMissing(t *testing.T) {
	b := newBench(t, playsWell, builtIn)
	b.cfg.Hostapd = "/nonexistent/hostapd"
	b.start()
	if err := b.failed(); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// After a failure Run is run again, and nothing of the first life is in the way of the second.
func TestLivesAgain(t *testing.T) {
	b := newBench(t, playsWell, builtIn)
	b.start()
	b.onAir()
	play(t, b.dir, "EXIT")
	if err := b.failed(); err == nil {
		t.Fatal("no error")
	}
	b.start()
	if s := b.onAir(); s.Stats.Starts != 2 || s.Problem != "" {
		t.Errorf("%+v", s)
	}
}

func TestWithoutARadio(t *testing.T) {
	hard := builtIn
	hard.Switch = HardOff
	mute := builtIn
	mute.Channels = nil
	for _, c := range []struct {
		name   string
		radios []Radio
		change func(*Settings)
		severe bool
		says   string
	}{
		{"none", nil, nil, false, "no radio found"},
		{"stations only", []Radio{stationOnly}, nil, false, "wlan2 (rtl8xxxu) cannot"},
		{"another was asked for", []Radio{builtIn}, func(s *Settings) { s.Interface = "wlan7" }, true, "interface wlan7 is not there"},
		{"handsets have cables", nil, func(s *Settings) { s.Wired = []string{"eth1", "eth2"} }, false, "wired ports only"},
		{"switched off", []Radio{hard}, nil, true, "radio wlan0 (brcmfmac) is switched off by a switch on the board"},
		{"no channel at all", []Radio{mute}, nil, true, "Wi-Fi channel: wlan0 has none to start on"},
		{"a name that cannot be", []Radio{builtIn}, func(s *Settings) { s.SSID = "" }, true, "network name of 0 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, playsWell, c.radios...)
			b.m.missing = map[string]bool{"eth2": true}
			w := settings()
			if c.change != nil {
				c.change(&w)
			}
			b.Set(w)
			b.start()
			s := b.until("told", func(s Status) bool { return s.Problem != "" })
			if s.Enabled || s.Severe != c.severe || !strings.Contains(s.Problem, c.says) {
				t.Errorf("%+v", s)
			}
			if len(w.Wired) > 0 && (!b.m.did("port handset0 eth1") || b.m.did("port handset0 eth2")) {
				t.Error("wired ports")
			}
			// It comes, and all is well.
			b.m.set(func() { b.m.radios, b.m.missing = []Radio{builtIn}, nil })
			b.Set(settings())
			if s := b.onAir(); s.Problem != "" {
				t.Errorf("%+v", s)
			}
		})
	}
}

// What cannot be had as it was asked for is told, and does not keep the kit from serving.
func TestServesOtherwiseThanAskedFor(t *testing.T) {
	b := newBench(t, playsWell, builtIn)
	b.m.missing = map[string]bool{"eth2": true}
	w := settings()
	w.Wired = []string{"eth1", "eth2"}
	b.Set(w)
	b.start()
	if s := b.onAir(); s.Severe || !strings.HasPrefix(s.Problem, "no wired handset port") || !b.m.did("port handset0 eth1") {
		t.Errorf("%+v", s)
	}
	b.m.set(func() { b.m.missing = nil })
	b.until("all well", func(s Status) bool { return s.Enabled && s.Problem == "" })
	w.Channel = 13
	b.Set(w)
	s := b.until("told", func(s Status) bool { return s.Problem != "" })
	if s.Severe || !s.Enabled || s.Channel.Number != 1 || s.Problem != "channel 13, asked for, may not be used while the country is not known by wlan0" || s.Stats.Starts != 1 {
		t.Errorf("%+v", s)
	}
	w.MaxHandsets = 3 // something else changes: it is told still
	b.Set(w)
	if s := b.until("started anew", func(s Status) bool { return s.Enabled && s.Stats.Starts == 2 }); !strings.HasPrefix(s.Problem, "channel 13") {
		t.Errorf("%+v", s)
	}
	b.Follow(14) // a link to where this kit may not go
	time.Sleep(50 * time.Millisecond)
	if s := b.Snapshot(); !s.Enabled || s.Stats.Starts != 2 || !strings.HasPrefix(s.Problem, "channel 1") {
		t.Errorf("%+v", s)
	}
}

func TestSwitchesTheRadioOn(t *testing.T) {
	soft := builtIn
	soft.Switch = SoftOff
	b := newBench(t, playsWell, soft)
	b.start()
	b.onAir()
	if !b.m.did("switch on 0") {
		t.Error("not switched on")
	}
}

func TestCountry(t *testing.T) {
	b := newBench(t, playsWell, builtIn)
	w := settings()
	w.Country = "DE"
	b.Set(w)
	b.start()
	if s := b.onAir(); s.Country != "DE" || s.Problem != "" || !b.m.did("country DE") {
		t.Errorf("%+v", s)
	}
	// One that the kernel does not take does not keep the kit from serving.
	b.m.set(func() { b.m.country = errors.New("country XX not in force") })
	w.Country = "XX"
	b.Set(w)
	s := b.until("in another country", func(s Status) bool { return s.Enabled && s.Country == "XX" })
	if s.Severe || s.Problem != "country XX not in force" {
		t.Errorf("%+v", s)
	}
}

func TestOnlyAChangeRestarts(t *testing.T) {
	b := newBench(t, playsWell, builtIn)
	b.start()
	b.onAir()
	b.Set(settings())
	w := settings()
	w.Seed = 9 // of no consequence while it serves
	b.Set(w)
	w.OwnSSID = "something else" // which the built-in radio does not carry
	b.Set(w)
	time.Sleep(100 * time.Millisecond)
	if s := b.Snapshot(); s.Stats.Starts != 1 || !s.Enabled {
		t.Errorf("%+v", s)
	}
	w.Passphrase = "another passphrase"
	b.Set(w)
	b.until("started anew", func(s Status) bool { return s.Enabled && s.Stats.Starts == 2 })
	// Nonsense takes it off the air, since nobody wants what was, and sense brings it back.
	w.Passphrase = "short"
	b.Set(w)
	b.until("off", func(s Status) bool { return !s.Enabled && s.Severe })
	b.Set(settings())
	b.onAir()
}

func TestFollowsAStationLink(t *testing.T) {
	b := newBench(t, playsWell, ath9kUSB)
	w := settings()
	w.OwnSSID = ""
	b.Set(w)
	b.start()
	s := b.onAir()
	b.Follow(11)
	for !strings.Contains(play(t, b.dir, "ASKED"), "wlan1: CHAN_SWITCH 10 2462 ht") {
		time.Sleep(5 * time.Millisecond)
	}
	if now := b.Snapshot(); now.Channel != s.Channel {
		t.Errorf("it says that it is on %d before it is", now.Channel.Number)
	}
	play(t, b.dir, "CHANNEL 11")
	play(t, b.dir, "EVENT <3>AP-CSA-FINISHED freq=2462 dfs=0")
	s = b.until("moved", func(s Status) bool { return s.Channel.Number == 11 })
	if s.Stats.ChannelChanges != 1 || s.Stats.Starts != 1 {
		t.Errorf("%+v", s)
	}
	// The link is gone: it stays where its handsets are.
	b.Follow(0)
	time.Sleep(50 * time.Millisecond)
	if s := b.Snapshot(); s.Channel.Number != 11 || s.Stats.Starts != 1 {
		t.Errorf("%+v", s)
	}
	// One that says yes and does not move is started anew on the other channel.
	b.Follow(6)
	b.until("on 6", func(s Status) bool { return s.Enabled && s.Channel.Number == 6 && s.Stats.Starts == 2 })
}

func TestMovesByStartingAnew(t *testing.T) {
	t.Run("where the firmware serves the handsets", func(t *testing.T) {
		b := newBench(t, playsWell, builtIn)
		b.start()
		b.onAir()
		b.Follow(11)
		b.until("on 11", func(s Status) bool { return s.Enabled && s.Channel.Number == 11 && s.Stats.Starts == 2 })
		if asked := play(t, b.dir, "ASKED"); strings.Contains(asked, "CHAN_SWITCH") {
			t.Error(asked)
		}
	})
	t.Run("where the driver refuses", func(t *testing.T) {
		r := ath9kUSB
		r.Channels = slices.Clone(r.Channels)
		r.Channels[12].Passive = false
		b := newBench(t, playsWell, r)
		w := settings()
		w.Country = "DE"
		w.OwnSSID = ""
		b.Set(w)
		b.start()
		b.onAir()
		b.Follow(13)
		b.until("on 13", func(s Status) bool { return s.Enabled && s.Channel.Number == 13 && s.Stats.Starts == 2 })
	})
}

// Nothing of hostapd outlives it: neither what it started, nor it itself the program that watches it.
func TestNothingIsLeftBehind(t *testing.T) {
	gone := func(pid int) bool {
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid) {
				return true
			}
		}
		return false
	}
	t.Run("its children", func(t *testing.T) {
		b := newBench(t, playsForgotten, builtIn)
		b.start()
		b.onAir()
		text, err := os.ReadFile(filepath.Join(b.dir, "child"))
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(string(text))
		if err != nil {
			t.Fatal(err)
		}
		b.stop()
		_ = b.failed()
		if !gone(pid) {
			t.Error("a child lives on")
		}
	})
	t.Run("it, when this program is killed", func(t *testing.T) {
		program, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), program)
		cmd.Env = append(os.Environ(), playedMode+"="+watchesSleep)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Fscan(out, &pid); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if !gone(pid) {
			t.Error("it lives on")
		}
	})
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(b), ") ")
	return err != nil || ok && strings.HasPrefix(rest, "Z")
}

// Logs go to people who need not know the passphrase.
func TestNoSecretsInLogs(t *testing.T) {
	b := newBench(t, playsWell, ath9kUSB)
	b.start()
	b.onAir()
	conf, err := os.ReadFile(filepath.Join(b.dir, "hostapd.conf"))
	if err != nil {
		t.Fatal(err)
	}
	_, key, _ := strings.Cut(string(conf), "wpa_psk=")
	key, _, _ = strings.Cut(key, "\n")
	b.stop()
	_ = b.failed()
	if text := b.log.String() + fmt.Sprintf("%+v", b.Snapshot()); len(key) != 64 || strings.Contains(text, passphrase) || strings.Contains(text, key) {
		t.Errorf("in the log:\n%s", text)
	}
}

// The played hostapd says what the real one does: the same life, on the driver that needs no radio.
func TestRealHostapd(t *testing.T) {
	hostapd := needHostapd(t)
	wrapper := filepath.Join(t.TempDir(), "hostapd")
	script := "#!/bin/sh\nsed 's/^driver=.*/driver=none/; /^bridge=/d' \"$1\" >\"$1.none\"\nexec " + hostapd + " \"$1.none\"\n"
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, playsWell, builtIn)
	b.cfg.Hostapd = wrapper
	b.start()
	s := b.onAir()
	if len(s.Networks) != 1 || s.Clients != 0 || s.Limit != 8 || s.Stats.Starts != 1 {
		t.Errorf("%+v", s)
	}
	b.until("still there", func(s Status) bool { return s.Enabled })
	w := settings()
	w.SSID = "x\nctrl_interface=/nowhere"
	b.Set(w)
	b.until("renamed", func(s Status) bool { return s.Enabled && s.Networks[0].SSID == w.SSID })
	b.stop()
	if err := b.failed(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
