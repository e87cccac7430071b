package kit

import (
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
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fieldkit/board/firewall"
	"fieldkit/board/links"
	"fieldkit/board/simnet/netns"
	"fieldkit/firmware/config"
	"fieldkit/firmware/mission"
	"fieldkit/ui"
)

// managedEnv names the configuration file of a kit that this test program is.
const managedEnv = "FIELDKIT_KIT_MANAGED"

// childManaged is the process of such a kit, if this is one. It ends with its standard input, and answers each line there
// with its status.
func childManaged() {
	file := os.Getenv(managedEnv)
	if file == "" {
		return
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("kit", filepath.Base(filepath.Dir(file)))
	cfg, err := config.Load(file)
	if err != nil {
		log.Error("configuration", "err", err)
		os.Exit(1)
	}
	k, err := New(cfg, Options{Log: log})
	if err != nil {
		log.Error("kit", "err", err)
		os.Exit(1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		for b := make([]byte, 1); ; {
			if _, err := os.Stdin.Read(b); err != nil || json.NewEncoder(os.Stdout).Encode(k.Status()) != nil {
				return
			}
		}
	}()
	if err := k.Run(ctx); ctx.Err() == nil {
		log.Error("kit ended", "err", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type managed struct {
	*netns.Host
	t    *testing.T
	in   io.WriteCloser
	out  *json.Decoder
	log  strings.Builder
	name string
}

// start runs a kit that has its namespace to itself; wired are its handset ports.
func (m *managed) start(mission string, number int, wired string) {
	m.t.Helper()
	dir := filepath.Join(m.t.TempDir(), m.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		m.t.Fatal(err)
	}
	file := filepath.Join(dir, "kit.toml")
	text := fmt.Sprintf("state_dir = %q\nmission = %q\n[kit]\nnumber = %d\n[link]\nmanaged = true\n[access]\nenabled = true\nwired = [%s]\n[board]\nsimulated = true\n", filepath.Join(dir, "state"), mission, number, wired)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), managedEnv+"="+file)
	cmd.Stderr = &m.log
	out, err := cmd.StdoutPipe()
	if err == nil {
		m.in, err = cmd.StdinPipe()
	}
	if err == nil {
		err = m.Start(cmd)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.out = json.NewDecoder(out)
	m.t.Cleanup(func() {
		_ = m.in.Close()
		timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		if err := cmd.Wait(); err != nil {
			m.t.Errorf("%s: %v", m.name, err)
		}
		if m.t.Failed() {
			m.t.Logf("%s:\n%s", m.name, m.log.String())
		}
	})
}

func (m *managed) status() (s ui.Status) {
	m.t.Helper()
	if _, err := m.in.Write([]byte("?")); err != nil {
		m.t.Fatalf("%s: %v", m.name, err)
	}
	if err := m.out.Decode(&s); err != nil {
		m.t.Fatalf("%s: status: %v", m.name, err)
	}
	return s
}

func (m *managed) until(what string, within time.Duration, ok func(ui.Status) bool) ui.Status {
	m.t.Helper()
	var s ui.Status
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if s = m.status(); ok(s) {
			return s
		}
	}
	m.t.Fatalf("%s: not %s within %v: ring %v, kits %+v, links %+v, health %+v", m.name, what, within, s.Ring, s.Kits, s.Links, s.Problems())
	return s
}

// Kits that nobody gave an address: A and B on a cable, C behind A's handset port as a station of A's access point would be,
// beside a phone. They find each other, C by IPv6 alone; the phone reaches its kit's services and no more.
func TestKitsThatHaveTheirMachineToThemselves(t *testing.T) {
	hosts := map[string]*netns.Host{}
	for _, name := range []string{"a", "b", "c", "air", "phone"} {
		h, err := netns.New(name)
		if err != nil {
			t.Fatalf("this test makes network namespaces: %v", err)
		}
		t.Cleanup(h.Close)
		hosts[name] = h
	}
	if err := errors.Join(
		netns.Veth(hosts["a"], "eth0", hosts["b"], "eth0"),
		netns.Veth(hosts["a"], "port0", hosts["air"], "p0"), netns.Veth(hosts["c"], "radio0", hosts["air"], "p1"), netns.Veth(hosts["phone"], "wlan0", hosts["air"], "p2"),
		hosts["air"].Bridge("br", "p0", "p1", "p2"),
		hosts["phone"].AddAddress("wlan0", netip.MustParsePrefix("10.73.200.7/16")), hosts["phone"].Up("wlan0"),
	); err != nil {
		t.Fatal(err)
	}
	m, err := mission.New("Links", mission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kit.mission")
	if err := m.Save(file); err != nil {
		t.Fatal(err)
	}
	kits := map[string]*managed{}
	for i, name := range []string{"a", "b", "c"} {
		kits[name] = &managed{Host: hosts[name], t: t, name: name}
		kits[name].start(file, 101+i, map[string]string{"a": `"port0"`}[name])
	}
	began := time.Now()
	three := func(s ui.Status) bool { return len(s.Ring) == 3 }
	s := kits["a"].until("in a ring of three", time.Minute, three)
	c := kits["c"].until("in a ring of three", time.Minute, three)
	t.Logf("one ring of three after %v", time.Since(began).Round(100*time.Millisecond))

	prefix := links.Prefix(m.Document().InstanceName)
	for _, n := range c.Kits {
		for _, at := range n.Addresses {
			if a := netip.MustParseAddrPort(at).Addr(); n.NodeID == s.Kit.NodeID && !a.Is6() {
				t.Errorf("c met a at %v", a)
			}
		}
	}
	for _, n := range s.Kits {
		if slices.Contains(n.Interfaces, "handset0") && n.NodeID != c.Kit.NodeID {
			t.Errorf("a met %s on the handsets' side", n.NodeID)
		}
	}
	at := slices.IndexFunc(s.Links, func(l ui.Link) bool { return l.Interface == "handset0" })
	if at < 0 || s.Links[at].Kind != string(links.AccessPoint) || len(s.Links[at].Addresses) != 1 || !prefix.Contains(netip.MustParseAddr(s.Links[at].Addresses[0])) {
		t.Fatalf("links of a: %+v", s.Links)
	}
	handset6 := s.Links[at].Addresses[0]
	s = kits["a"].until("with an IPv4 address on its cable", 15*time.Second, func(s ui.Status) bool {
		at = slices.IndexFunc(s.Links, func(l ui.Link) bool { return l.Interface == "eth0" })
		return at >= 0 && len(s.Links[at].Addresses) == 2
	})
	cable := s.Links[at].Addresses

	// The phone knows a prefix of the kits: it has heard their multicast.
	own := links.Address(prefix, []byte("phone"), "wlan0")
	if err := hosts["phone"].AddAddress("wlan0", own); err != nil {
		t.Fatal(err)
	}
	if err := hosts["phone"].DefaultRoute("wlan0", netip.MustParseAddr("10.73.0.1")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond) // duplicate address detection
	ask := func(network, host, port string) error {
		return hosts["phone"].Do(func() error {
			c, err := net.DialTimeout(network, net.JoinHostPort(host, port), time.Second)
			if err == nil {
				_ = c.Close()
			}
			return err
		})
	}
	if err := ask("tcp", "10.73.0.1", "80"); err != nil {
		t.Errorf("the status page: %v", err)
	}
	if err := ask("tcp", "10.73.0.1", "5060"); err != nil {
		t.Errorf("SIP: %v", err)
	}
	for _, x := range []struct{ what, host, port string }{
		{"HTTPS, that phones try", "10.73.0.1", "443"}, {"updates of kits", "10.73.0.1", "6085"},
		{"the cable's IPv4 address", cable[1], "80"},
		{"the status page over IPv6", handset6, "80"}, {"SIP over IPv6", handset6, "5060"},
	} {
		if err := ask("tcp", x.host, x.port); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v, want a refusal", x.what, err)
		}
	}
	// The prefix is one, the links are not: nobody answers there for an address of another link.
	if err := ask("tcp", cable[0], "6085"); err == nil {
		t.Error("the cable's IPv6 address is reached from the handsets' side")
	}
	for _, bad := range s.Health {
		if bad.Name == "firewall" && bad.State != "ok" || bad.Name == "links" && bad.State != "ok" {
			t.Errorf("%+v", bad)
		}
	}
}

// Whoever asks for the status again and again does not have the kernel asked each time.
func TestFirewallIsNotAskedForEachStatus(t *testing.T) {
	k := still(t)
	now := time.Now()
	k.linking.counts.Store(&ruleCounts{now, []firewall.Count{{Rule: "handset: too many echoes", Packets: 7}}})
	if c := k.firewallCounts(now.Add(ruleCountsFor - time.Nanosecond)); len(c) != 1 || c[0].Packets != 7 {
		t.Errorf("within the time: %+v", c)
	}
	// Of no rules, as here, there is nothing to count.
	if c := k.firewallCounts(now.Add(ruleCountsFor)); len(c) != 0 {
		t.Errorf("after it: %+v", c)
	}
}
