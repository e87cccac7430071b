//go:build linux

package netns

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// host makes a Host or tells why it cannot; in CI that is a failure.
func host(t *testing.T, name string) *Host {
	t.Helper()
	h, err := New(name)
	if err != nil {
		if os.Getenv("FIELDKIT_CI") != "" {
			t.Fatalf("network namespaces are needed: %v", err)
		}
		t.Skipf("network namespaces need root: %v", err)
	}
	t.Cleanup(h.Close)
	return h
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestHostsTalkOverABridge(t *testing.T) {
	a, b, sw := host(t, "a"), host(t, "b"), host(t, "switch")
	must(t,
		Veth(a, "e0", sw, "pa"), Veth(b, "e0", sw, "pb"), sw.Bridge("br", "pa", "pb"),
		a.AddAddress("e0", netip.MustParsePrefix("192.0.2.1/24")), b.AddAddress("e0", netip.MustParsePrefix("192.0.2.2/24")),
		a.Up("e0"), b.Up("e0"), a.NoOffload("e0"))

	var at, from net.PacketConn
	must(t, b.Do(func() (err error) { at, err = net.ListenPacket("udp4", "192.0.2.2:0"); return }))
	defer at.Close()
	must(t, a.Do(func() (err error) { from, err = net.ListenPacket("udp4", "192.0.2.1:0"); return }))
	defer from.Close()
	if _, err := from.WriteTo([]byte("hello"), at.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	must(t, at.SetReadDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 16)
	n, src, err := at.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "hello" || src.String() != from.LocalAddr().String() {
		t.Fatalf("got %q from %v: %v", buf[:n], src, err)
	}
}

func TestProcessesRunInsideAndDieWithTheHost(t *testing.T) {
	h := host(t, "inner")
	var out strings.Builder
	list := exec.Command("ip", "-o", "link")
	list.Stdout = &out
	must(t, h.Start(list), list.Wait())
	if got := strings.Count(out.String(), "\n"); got != 1 || !strings.Contains(out.String(), "lo:") {
		t.Errorf("a fresh host has these interfaces: %s", out.String())
	}
	sleeper := exec.Command("sleep", "60")
	must(t, h.Start(sleeper))
	h.Close()
	if err := sleeper.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
	if err := h.Do(func() error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed host answered %v", err)
	}
}

func TestAnOrdinaryUserGetsHostsInAUserNamespace(t *testing.T) {
	host(t, "permitted")
	if os.Getenv("NETNS_WRAPPED") != "" {
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=TestHostsTalkOverABridge")
	cmd.Env = append(os.Environ(), "NETNS_WRAPPED=1", "FIELDKIT_CI=1")
	Wrap(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("inside a user namespace: %v\n%s", err, out)
	}
}
