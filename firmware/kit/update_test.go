package kit

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fieldkit/firmware/config"
	"fieldkit/firmware/update"
	"fieldkit/overlay/discovery"
	"fieldkit/ui"
)

// freePort is one of this host that was free for UDP and TCP a moment ago.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		u, err := net.ListenPacket("udp", l.Addr().String())
		_ = l.Close()
		if err == nil {
			_ = u.Close()
			return uint16(port)
		}
	}
	t.Fatal("no port")
	return 0
}

// A system is kept because the kit answers, not because it says of itself that it is well: the probes knock from outside.
func TestProbesOfAKitThatRunsAndOfOneThatDoesNot(t *testing.T) {
	cfg := config.Default()
	cfg.StateDir, cfg.Mission, cfg.Status.Listen, cfg.Board.Simulated = t.TempDir(), "", "", true
	cfg.Handset.Address, cfg.Handset.Network = netip.MustParseAddr("127.0.2.1"), netip.MustParsePrefix("127.0.2.0/24")
	cfg.Link.Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	cfg.SIP.Port, cfg.Link.Port, cfg.Link.Relay = freePort(t), freePort(t), false
	k, err := New(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.probeSIP(t.Context()); err == nil {
		t.Error("SIP answers before it runs")
	}
	if err := k.probeOverlay(t.Context()); err == nil {
		t.Error("the overlay answers before it runs")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	for name, probe := range map[string]func(context.Context) error{"SIP": k.probeSIP, "overlay": k.probeOverlay, "access point": k.probeAccess} {
		var err error
		for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if err = probe(ctx); err == nil {
				break
			}
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestCrashOf(t *testing.T) {
	dir := t.TempDir()
	if got := crashOf(dir); got != "" {
		t.Errorf("%q", got)
	}
	log := "<6>[    1.0] usb 1-1: new device\n<0>[    2.0] Kernel panic - not syncing: No working init found.\n<4>[    2.1] CPU: 0\n"
	if err := os.WriteFile(filepath.Join(dir, "dmesg-ramoops-0"), []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := crashOf(dir); got != "Kernel panic - not syncing: No working init found." {
		t.Errorf("%q", got)
	}
}

// Who speaks of updates where, only announcements tell: those of this mission count, each kit once.
func TestUpdatePeersAreOfThisMission(t *testing.T) {
	k := still(t)
	mine := k.announcement()
	mine.System, mine.UpdatePort = 7, 6085
	other := mine
	other.Overlay = "00000000"
	silent := mine
	silent.UpdatePort = 0
	at := func(s string) []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(s)} }
	k.overlay.seen = map[seenOn]seenPeer{
		{"02", "eth0"}: {peer: discovery.Peer{NodeID: "02", Text: mine, Addrs: at("192.0.2.2:6084")}},
		{"02", "eth1"}: {peer: discovery.Peer{NodeID: "02", Text: mine, Addrs: at("[fe80::2%eth1]:6084")}},
		{"01", "eth0"}: {peer: discovery.Peer{NodeID: "01", Text: mine, Addrs: at("192.0.2.1:6084")}},
		{"03", "eth0"}: {peer: discovery.Peer{NodeID: "03", Text: other, Addrs: at("192.0.2.3:6084")}},
		{"04", "eth0"}: {peer: discovery.Peer{NodeID: "04", Text: silent, Addrs: at("192.0.2.4:6084")}},
	}
	p := k.updatePeers()
	if len(p) != 2 || p[0].ID != "01" || p[1].ID != "02" || len(p[1].Addrs) != 2 || p[0].Sequence != 7 {
		t.Fatalf("%+v", p)
	}
	for _, a := range p[1].Addrs {
		if a.Port() != 6085 {
			t.Errorf("%v", a)
		}
	}
}

// Whoever is on the cable can announce any number of kits. Those that are there are asked all the same.
func TestMadeUpKitsDoNotCrowdOutRealOnes(t *testing.T) {
	var announced []update.Peer
	for i := range 100 {
		announced = append(announced, update.Peer{ID: fmt.Sprintf("%02x", i)})
	}
	announced = append(announced, update.Peer{ID: "fe"}, update.Peer{ID: "fd"})
	got := knownFirst(announced, []string{"fd", "fe"})
	if len(got) != 2+maxUnknown || got[0].ID != "fd" || got[1].ID != "fe" || got[2].ID != "00" {
		t.Errorf("%d: %+v", len(got), got[:3])
	}
}

func TestHealthOfUpdates(t *testing.T) {
	k := still(t)
	rolled := update.View{State: update.RolledBack, Last: &update.Outcome{Version: "v2", Why: "not healthy: SIP: no answer"}}
	for _, c := range []struct {
		v    update.View
		want string
	}{
		{update.View{State: update.Idle}, "ok"},
		{rolled, "warn: v2 was rolled back: not healthy: SIP: no answer"},
		{update.View{State: update.Trying, Trial: true, Why: "healthy, being watched"}, "warn: on trial: healthy, being watched"},
		{update.View{State: update.Committed}, "ok"},
	} {
		if k.updateHealth(c.v); check(k, "update") != c.want {
			t.Errorf("%+v: %q", c.v, check(k, "update"))
		}
	}
}

// A kit without a card has no update, and says so by saying nothing.
func TestNoUpdateOffTheCard(t *testing.T) {
	k := still(t)
	k.newUpdating()
	var s ui.Status
	k.updateStatus(&s)
	if s.Update.State != "" || check(k, "update") != "" || k.announcement().UpdatePort != 0 {
		t.Errorf("%+v", s.Update)
	}
}
