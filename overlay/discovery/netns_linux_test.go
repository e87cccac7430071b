package discovery_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"fieldkit/board/netif"
	"fieldkit/board/simnet/netns"
	"fieldkit/overlay/discovery"
)

// The tests of this file run kits as processes in network namespaces: what the
// library does wrong shows only on interfaces that really come, go and change.

const (
	kitEnv  = "DISCOVERY_TEST_KIT"
	cycle   = time.Second
	patient = 15 * time.Second
)

func requireNamespaces(t *testing.T) {
	t.Helper()
	if err := netns.Supported(); err != nil {
		if os.Getenv("FIELDKIT_CI") == "1" {
			t.Fatal("needs root: ", err)
		}
		t.Skip("needs root: ", err)
	}
}

func must(t *testing.T, err ...error) {
	t.Helper()
	if err := errors.Join(err...); err != nil {
		t.Fatal(err)
	}
}

// kitConfig is what a kit process is told.
type kitConfig struct {
	ID   string
	Port uint16
	Name string
	Long bool // cycles stay long after the first moment
}

// line is what a kit process prints.
type line struct {
	Event *struct {
		Kind string         `json:"kind"`
		Peer discovery.Peer `json:"peer"`
	} `json:",omitempty"`
	Snapshot   *discovery.Snapshot `json:",omitempty"`
	Goroutines int                 `json:",omitempty"`
}

// TestKitProcess is not a test of its own but the kit that runs in a namespace:
// it obeys lines of standard input until that ends.
func TestKitProcess(t *testing.T) {
	env := os.Getenv(kitEnv)
	if env == "" {
		return // run as a process of its own by the tests that need one
	}
	var c kitConfig
	must(t, json.Unmarshal([]byte(env), &c))
	var mu sync.Mutex
	enc := json.NewEncoder(os.Stdout)
	print := func(v any) {
		mu.Lock()
		defer mu.Unlock()
		_ = enc.Encode(v)
	}
	text := discovery.Text{Overlay: "aabbccdd", Sequence: 1, Name: c.Name}
	cfg := discovery.Config{
		NodeID: c.ID, Port: c.Port, Text: text, Short: cycle, UseAddr: netif.Usable,
		Watch: watch, OnEvent: func(e discovery.Event) { print(map[string]any{"Event": e}) },
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	cfg.FastWindow = time.Millisecond
	if !c.Long { // an even pace: these tests are about what is noticed, not when it is asked
		cfg.LongMin, cfg.LongMax = cycle, cycle
	}
	d, err := discovery.New(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch word, arg, _ := strings.Cut(in.Text(), " "); word {
		case "name":
			text.Name = arg
			must(t, d.SetText(text))
		case "refresh":
			d.Refresh()
		case "snapshot":
			s := d.Snapshot()
			print(line{Snapshot: &s, Goroutines: runtime.NumGoroutine()})
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// The library's announcements of a responder that was shut down run on for
	// up to 3.5 s; nothing else may stay.
	for deadline := time.Now().Add(6 * time.Second); runtime.NumGoroutine() > 3 && time.Now().Before(deadline); {
		<-time.After(50 * time.Millisecond)
	}
	print(line{Goroutines: runtime.NumGoroutine()})
}

// watch is the kit's adapter from board/netif.
func watch(ctx context.Context) <-chan []discovery.Interface {
	out := make(chan []discovery.Interface)
	go func() {
		defer close(out)
		for all := range netif.Watch(ctx, netif.Config{}) {
			var links []discovery.Interface
			for _, i := range all {
				if i.Role() == netif.Link {
					links = append(links, discovery.Interface{Name: i.Name, Index: i.Index, MAC: i.MAC, MTU: i.MTU, Addrs: i.Addrs})
				}
			}
			select {
			case out <- links:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// kit is a running kit process.
type kit struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan line
	errs  *strings.Builder
	ended chan struct{}
	dead  bool
}

func startKit(t *testing.T, h *netns.Host, c kitConfig) *kit {
	t.Helper()
	if c.Port == 0 {
		c.Port = 6084
	}
	env, err := json.Marshal(c)
	must(t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^TestKitProcess$", "-test.count=1")
	// Reports of races are judged by races.
	cmd.Env = append(os.Environ(), kitEnv+"="+string(env), "GORACE=exitcode=0")
	k := &kit{t: t, cmd: cmd, lines: make(chan line, 1000), errs: &strings.Builder{}, ended: make(chan struct{})}
	cmd.Stderr = k.errs
	k.in, err = cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err, h.Start(cmd))
	go func() {
		defer close(k.ended)
		defer close(k.lines)
		s := bufio.NewScanner(out)
		s.Buffer(nil, 1<<22) // a full table
		for s.Scan() {
			var l line
			if json.Unmarshal(s.Bytes(), &l) == nil {
				k.lines <- l
			}
		}
	}()
	t.Cleanup(func() {
		if !k.dead {
			k.kill()
		}
		k.races()
		if t.Failed() {
			t.Logf("kit %s:\n%s", c.Name, k.errs)
		}
	})
	return k
}

// kill ends the kit without a goodbye.
func (k *kit) kill() {
	k.dead = true
	_ = k.cmd.Process.Kill()
	<-k.ended
	_ = k.cmd.Wait()
}

// leave ends the kit in order and returns the goroutines left at the end.
func (k *kit) leave() int {
	k.t.Helper()
	k.dead = true
	_ = k.in.Close()
	left := -1
	for l := range k.lines {
		if l.Goroutines != 0 {
			left = l.Goroutines
		}
	}
	_ = k.cmd.Wait()
	return left
}

// races fails the test for reports of data races, except the one in the
// library between Shutdown and the start of its receivers, from which
// responderLife keeps a real clash away.
func (k *kit) races() {
	for report := range strings.SplitSeq(k.errs.String(), "WARNING: DATA RACE") {
		if !strings.Contains(report, "Previous ") {
			continue
		}
		if strings.Contains(report, "zeroconf.(*Server).shutdown") && strings.Contains(report, "sync.(*WaitGroup)") {
			continue
		}
		k.t.Errorf("data race in the kit: %s", report)
	}
}

// until waits for an event that fits and returns its peer.
func (k *kit) until(within time.Duration, what string, fits func(kind string, p discovery.Peer) bool) discovery.Peer {
	k.t.Helper()
	began, deadline := time.Now(), time.After(within)
	for {
		select {
		case l, ok := <-k.lines:
			if !ok {
				k.t.Fatalf("kit ended while waiting for %s\n%s", what, k.errs)
			}
			if l.Event != nil && fits(l.Event.Kind, l.Event.Peer) {
				k.t.Logf("%s after %v", what, time.Since(began).Round(time.Millisecond))
				return l.Event.Peer
			}
		case <-deadline:
			k.t.Fatalf("not within %v: %s", within, what)
		}
	}
}

func (k *kit) event(within time.Duration, kind, id string) discovery.Peer {
	k.t.Helper()
	return k.until(within, kind+" of "+id[:4], func(got string, p discovery.Peer) bool { return got == kind && p.NodeID == id })
}

// quiet fails if an event that fits comes within d.
func (k *kit) quiet(d time.Duration, fits func(kind string, p discovery.Peer) bool) {
	k.t.Helper()
	deadline := time.After(d)
	for {
		select {
		case l := <-k.lines:
			if l.Event != nil && fits(l.Event.Kind, l.Event.Peer) {
				k.t.Errorf("unexpected %s of %+v", l.Event.Kind, l.Event.Peer)
			}
		case <-deadline:
			return
		}
	}
}

func (k *kit) say(s string) {
	k.t.Helper()
	_, err := fmt.Fprintln(k.in, s)
	must(k.t, err)
}

func (k *kit) snapshot() (discovery.Snapshot, int) {
	k.t.Helper()
	k.say("snapshot")
	deadline := time.After(patient)
	for {
		select {
		case l, ok := <-k.lines:
			if !ok {
				k.t.Fatal("kit ended")
			}
			if l.Snapshot != nil {
				return *l.Snapshot, l.Goroutines
			}
		case <-deadline:
			k.t.Fatal("no snapshot")
		}
	}
}

// lan is a switch with hosts 10.9.0.N; the switch's end of host N is portN.
type lan struct {
	t     *testing.T
	sw    *netns.Host
	hosts []*netns.Host
}

func newLAN(t *testing.T, hosts int) *lan {
	t.Helper()
	requireNamespaces(t)
	l := &lan{t: t}
	l.sw = newHost(t, "disc-switch")
	must(t, l.sw.Bridge("br0"))
	for i := range hosts {
		h := newHost(t, fmt.Sprint("disc-", i+1))
		l.hosts = append(l.hosts, h)
		l.plug(i, "eth0")
		must(t, h.AddAddress("eth0", address(i+1)))
	}
	return l
}

func newHost(t *testing.T, name string) *netns.Host {
	t.Helper()
	h, err := netns.New(name)
	must(t, err)
	t.Cleanup(h.Close)
	return h
}

// plug lays a cable from host i to the switch.
func (l *lan) plug(i int, dev string) {
	l.t.Helper()
	port := fmt.Sprint("port", i+1)
	must(l.t, netns.Veth(l.hosts[i], dev, l.sw, port), l.sw.Plug("br0", port), l.hosts[i].Up(dev))
}

func address(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, 0, byte(n)}), 24)
}

func id(n int) string { return strings.Repeat(fmt.Sprintf("%02x", n), 16) }

func hasAddr(p discovery.Peer, ap string) bool {
	for _, a := range p.Addrs {
		if a.String() == ap {
			return true
		}
	}
	return false
}

func (l *lan) kit(n int) *kit {
	l.t.Helper()
	return startKit(l.t, l.hosts[n-1], kitConfig{ID: id(n), Name: fmt.Sprint("KIT ", n)})
}

func TestThreeKitsFindEachOther(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 3)
	kits := []*kit{l.kit(1), l.kit(2), l.kit(3)}
	for i, k := range kits {
		want := map[string]bool{id(1): true, id(2): true, id(3): true}
		delete(want, id(i+1))
		for len(want) > 0 {
			p := k.until(patient, "a kit", func(kind string, p discovery.Peer) bool { return kind == "up" })
			if !want[p.NodeID] {
				t.Errorf("kit %d reports %+v", i+1, p)
			}
			delete(want, p.NodeID)
		}
	}
	s, _ := kits[0].snapshot()
	if len(s.Peers) != 2 || len(s.Interfaces) != 1 || !s.Interfaces[0].Announcing || s.Interfaces[0].Error != "" {
		t.Errorf("snapshot %+v", s)
	}
	if p := s.Peers[0]; p.NodeID != id(2) || p.Name != "KIT 2" || p.Overlay != "aabbccdd" || !hasAddr(p, "10.9.0.2:6084") {
		t.Errorf("peer %+v", p)
	}
	if s.Stats.Clones != 0 || s.Stats.Rejected != 0 {
		t.Errorf("stats %+v", s.Stats)
	}
	// An orderly end leaves no goroutine, and the others notice it.
	if n := kits[2].leave(); n < 0 || n > 3 {
		t.Errorf("%d goroutines left at the end", n)
	}
	kits[0].event(patient, "down", id(3))
}

// The library stops asking after its own answer: without the cycle neither ever
// finds the other.
func TestCableComesLater(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 2)
	must(t, l.sw.Down("port2"))
	a, b := l.kit(1), l.kit(2)
	a.quiet(3*time.Second, func(string, discovery.Peer) bool { return true })
	must(t, l.sw.Up("port2"))
	b.event(3*time.Second, "up", id(1))
	a.event(3*time.Second, "up", id(2))
}

func TestInterfaceDownAtStartAndLater(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 2)
	must(t, l.hosts[1].Down("eth0"))
	a, b := l.kit(1), l.kit(2)
	a.quiet(time.Second, func(string, discovery.Peer) bool { return true })
	must(t, l.hosts[1].Up("eth0"))
	b.event(3*time.Second, "up", id(1))
	a.event(3*time.Second, "up", id(2))
	must(t, l.hosts[1].Down("eth0"))
	b.event(3*time.Second, "down", id(1)) // at once: the interface is gone
	a.event(patient, "down", id(2))       // by silence
	must(t, l.hosts[1].Up("eth0"))
	b.event(3*time.Second, "up", id(1))
	a.event(3*time.Second, "up", id(2))
}

// A USB dongle that is pulled and put back has another index.
func TestInterfaceRemovedAndMadeAgain(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 2)
	a, b := l.kit(1), l.kit(2)
	a.event(patient, "up", id(2))
	b.event(patient, "up", id(1))
	must(t, l.hosts[1].Delete("eth0"))
	b.event(3*time.Second, "down", id(1))
	l.plug(1, "eth0")
	must(t, l.hosts[1].AddAddress("eth0", address(20)))
	b.event(3*time.Second, "up", id(1))
	a.until(patient, "new address", func(_ string, p discovery.Peer) bool {
		return p.NodeID == id(2) && hasAddr(p, "10.9.0.20:6084") && !hasAddr(p, "10.9.0.2:6084")
	})
}

func TestAddressChange(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 2)
	a, b := l.kit(1), l.kit(2)
	a.event(patient, "up", id(2))
	b.event(patient, "up", id(1))
	must(t, l.hosts[1].DeleteAddress("eth0", address(2)), l.hosts[1].AddAddress("eth0", address(30)))
	a.until(5*time.Second, "new address", func(kind string, p discovery.Peer) bool {
		return kind == "update" && hasAddr(p, "10.9.0.30:6084") && !hasAddr(p, "10.9.0.2:6084")
	})
}

// silence is how long a kit that fell silent is still seen, at most: the cycles that it may miss, one for when it fell
// silent, and some for a busy machine.
const silence = time.Duration(discovery.DefaultMisses+1)*cycle + 4*time.Second

func TestDeathWithoutGoodbyeAndReturnOnAnotherPort(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 2)
	a, b := l.kit(1), l.kit(2)
	a.event(patient, "up", id(2))
	b.kill()
	b = startKit(t, l.hosts[1], kitConfig{ID: id(2), Name: "KIT 2", Port: 7000})
	a.until(5*time.Second, "new port", func(kind string, p discovery.Peer) bool {
		return kind == "update" && hasAddr(p, "10.9.0.2:7000")
	})
	b.kill()
	a.event(silence, "down", id(2))
}

func TestTextChangesAtRunTime(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 2)
	a, b := l.kit(1), l.kit(2)
	a.event(patient, "up", id(2))
	b.say(`name BIRCH \ "Ü"`)
	a.until(5*time.Second, "new name", func(kind string, p discovery.Peer) bool {
		return kind == "update" && p.Name == `BIRCH \ "Ü"`
	})
	a.quiet(4*cycle, func(kind string, p discovery.Peer) bool { return kind == "down" })
}

// With long cycles a restarted kit would be noticed within a minute only;
// Refresh looks at once.
func TestRefresh(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 2)
	a := startKit(t, l.hosts[0], kitConfig{ID: id(1), Name: "KIT 1", Long: true})
	b := l.kit(2)
	a.event(patient, "up", id(2))
	a.quiet(5*cycle, func(string, discovery.Peer) bool { return false }) // the first, short cycle and the link-local addresses pass
	b.kill()
	_ = startKit(t, l.hosts[1], kitConfig{ID: id(2), Name: "KIT 2", Port: 7000})
	a.quiet(3*cycle, func(kind string, p discovery.Peer) bool { return true })
	a.say("refresh")
	a.until(3*time.Second, "new port", func(kind string, p discovery.Peer) bool { return hasAddr(p, "10.9.0.2:7000") })
}

// Two kits from one card: both carry one Node-ID, and each says so.
func TestClonedCard(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 2)
	a := l.kit(1)
	_ = startKit(t, l.hosts[1], kitConfig{ID: id(1), Name: "CLONE"})
	for deadline := time.Now().Add(patient); ; {
		if s, _ := a.snapshot(); s.Stats.Clones > 0 {
			if len(s.Peers) != 0 {
				t.Errorf("own Node-ID listed as a peer: %+v", s.Peers)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("clone not noticed")
		}
		<-time.After(100 * time.Millisecond)
	}
}

// A kit on two links sees each neighbour on its own link, although the kernel
// hands multicast to every socket on the port. Link-local addresses get the
// zone they can be reached through.
func TestTwoLinksAreKeptApart(t *testing.T) {
	t.Parallel()
	requireNamespaces(t)
	mid, left, right := newHost(t, "disc-mid"), newHost(t, "disc-left"), newHost(t, "disc-right")
	must(t, netns.Veth(mid, "eth0", left, "eth0"), netns.Veth(mid, "eth1", right, "eth0"))
	must(t, mid.Up("eth0"), mid.Up("eth1"), left.Up("eth0"), right.Up("eth0"))
	m := startKit(t, mid, kitConfig{ID: id(1), Name: "MID"})
	_ = startKit(t, left, kitConfig{ID: id(2), Name: "LEFT"})
	r := startKit(t, right, kitConfig{ID: id(3), Name: "RIGHT"})
	zone := func(p discovery.Peer) string {
		if len(p.Addrs) != 1 || !p.Addrs[0].Addr().IsLinkLocalUnicast() {
			return fmt.Sprint("not one link-local address: ", p.Addrs)
		}
		return p.Addrs[0].Addr().Zone()
	}
	got := map[string]string{}
	for len(got) < 2 {
		p := m.until(patient, "a neighbour", func(kind string, _ discovery.Peer) bool { return kind == "up" })
		got[p.NodeID] = p.Interface + " " + zone(p)
	}
	if got[id(2)] != "eth0 eth0" || got[id(3)] != "eth1 eth1" {
		t.Errorf("left on %s, right on %s", got[id(2)], got[id(3)])
	}
	r.event(patient, "up", id(1))
	m.quiet(3*cycle, func(kind string, p discovery.Peer) bool { return kind == "up" })
	r.quiet(cycle, func(kind string, p discovery.Peer) bool { return p.NodeID == id(2) })
}

// Without IPv6 on the link the library's resolver would refuse to work.
func TestLinkWithoutIPv6(t *testing.T) {
	t.Parallel()
	requireNamespaces(t)
	l := newLAN(t, 2)
	for _, h := range l.hosts {
		must(t, h.Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0o600)
		}))
	}
	a, b := l.kit(1), l.kit(2)
	if p := a.event(patient, "up", id(2)); len(p.Addrs) != 1 || !hasAddr(p, "10.9.0.2:6084") {
		t.Errorf("addresses %v", p.Addrs)
	}
	b.event(patient, "up", id(1))
}

// Nothing of the overlay is said or heard on the handset side.
func TestHandsetSideStaysOut(t *testing.T) {
	t.Parallel()
	requireNamespaces(t)
	k1, k2 := newHost(t, "disc-k1"), newHost(t, "disc-k2")
	must(t, netns.Veth(k1, "wlan0", k2, "eth0"), k1.Up("wlan0"), k2.Up("eth0"),
		k1.AddAddress("wlan0", netip.MustParsePrefix("10.73.0.1/16")),
		k2.AddAddress("eth0", netip.MustParsePrefix("10.9.0.2/24")))
	a := startKit(t, k1, kitConfig{ID: id(1), Name: "HANDSET SIDE"})
	b := startKit(t, k2, kitConfig{ID: id(2), Name: "LINK SIDE"})
	b.quiet(4*time.Second, func(string, discovery.Peer) bool { return true })
	if s, _ := a.snapshot(); len(s.Interfaces) != 0 || len(s.Peers) != 0 {
		t.Errorf("kit works on its handset side: %+v", s)
	}
	if s, _ := b.snapshot(); len(s.Interfaces) != 1 {
		t.Errorf("kit does not work on its link: %+v", s)
	}
}

// netnsVeth gives host 1 of the LAN a handset side with a phone on it; the
// group is joined there by somebody else, which opens the interface.
func netnsVeth(l *lan, phone *netns.Host) error {
	k := l.hosts[0]
	err := errors.Join(netns.Veth(k, "wlan0", phone, "eth0"), k.Up("wlan0"), phone.Up("eth0"),
		k.AddAddress("wlan0", netip.MustParsePrefix("10.73.0.1/16")),
		phone.AddAddress("eth0", netip.MustParsePrefix("10.73.0.9/16")))
	if err != nil {
		return err
	}
	return k.Do(func() error {
		wlan0, err := net.InterfaceByName("wlan0")
		if err != nil {
			return err
		}
		c, err := net.ListenMulticastUDP("udp4", wlan0, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
		if err != nil {
			return err
		}
		l.t.Cleanup(func() { _ = c.Close() })
		return nil
	})
}
