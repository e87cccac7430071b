//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fieldkit/board/simnet/netns"
)

// A kit that makes the handsets' network itself, here on a cable, is all that a device on it needs: it gets an address,
// names, the answers that keep it there, and is told that the kit does not know the time.
func TestHandsetNetwork(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil && os.Getenv("FIELDKIT_CI") == "" {
		t.Skip(err)
	}
	must(t, err)
	kit, err := netns.New("kit")
	if err != nil && os.Getenv("FIELDKIT_CI") == "" {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(kit.Close)
	device, err := netns.New("device")
	must(t, err)
	t.Cleanup(device.Close)
	must(t, netns.Veth(kit, "h0", device, "e0"), kit.Up("h0"), device.Up("e0"))

	dir := t.TempDir()
	settings := filepath.Join(dir, "fieldkit.toml")
	must(t, os.WriteFile(settings, fmt.Appendf(nil, "state_dir = %q\n[kit]\nnumber = 412\nname = \"Maple 412\"\n[access]\nenabled = true\nwired = [\"h0\"]\n", filepath.Join(dir, "state")), 0o600))
	bin, err := filepath.Abs("../../../bin/fieldkitd")
	must(t, err)
	daemon, said := exec.Command(bin, "--config", settings, "--status-socket", filepath.Join(dir, "status")), &bytes.Buffer{}
	daemon.Stdout, daemon.Stderr = said, said
	must(t, kit.Start(daemon))
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
		if t.Failed() {
			t.Log(said)
		}
	})

	// The client's script uses what it is told, as that of a distribution does.
	script := filepath.Join(dir, "script")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr add \"$ip/$mask\" dev e0\nip route add default via \"$router\"\necho \"$ip $dns $domain\"\n"), 0o700))
	run := func(name string, args ...string) (string, error) {
		cmd, out := exec.Command(name, args...), &bytes.Buffer{}
		cmd.Stdout, cmd.Stderr = out, out
		if err := device.Start(cmd); err != nil {
			return "", err
		}
		err := cmd.Wait()
		return out.String(), err
	}
	began := time.Now()
	out, err := run(busybox, "udhcpc", "-i", "e0", "-f", "-q", "-n", "-t", "20", "-T", "1", "-s", script, "-x", "hostname:anna", "-O", "domain")
	if err != nil || !strings.Contains(out, " 10.73.0.1 home.arpa") {
		t.Fatalf("no lease: %v\n%s", err, out)
	}
	t.Logf("address %v after the start of the kit", time.Since(began).Round(10*time.Millisecond))
	dig := func(args ...string) string {
		out, err := run("dig", append([]string{"@10.73.0.1", "+short", "+time=1", "+tries=1"}, args...)...)
		if err != nil {
			t.Errorf("dig %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(out)
	}
	for name, want := range map[string]string{
		"kit.home.arpa": "10.73.0.1", "kit-412.home.arpa": "10.73.0.1", "maple-412.home.arpa": "10.73.0.1", "captive.apple.com": "10.73.0.1",
		"dns.msftncsi.com": "131.107.255.255", "www.example.org": "",
	} {
		if got := dig(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if own, err := netip.ParseAddr(dig("anna.home.arpa")); err != nil || dig("-x", own.String()) != "anna.home.arpa." {
		t.Errorf("the device's own name: %v %v", own, err)
	}
	if got := dig("_sip._udp.kit.home.arpa", "SRV"); got != "10 10 5060 kit.home.arpa." {
		t.Errorf("SRV: %q", got)
	}
	page := func(url string) string {
		host, _, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
		out, err := run("curl", "-s", "-m", "5", "-o", filepath.Join(dir, "body"), "-w", "%{http_code} %{redirect_url}", "--resolve", host+":80:"+dig(host), url)
		if err != nil {
			t.Errorf("%s: %v\n%s", url, err, out)
		}
		b, _ := os.ReadFile(filepath.Join(dir, "body"))
		return strings.TrimSpace(out) + " " + string(b)
	}
	for url, want := range map[string]string{
		"http://connectivitycheck.gstatic.com/generate_204": "204 ",
		"http://captive.apple.com/hotspot-detect.html":      "200 <HTML><HEAD><TITLE>Success</TITLE>",
		"http://www.google.com/":                            "302 http://kit.home.arpa/ ",
		"http://kit.home.arpa/":                             "200 <!doctype html>",
	} {
		_ = os.Remove(filepath.Join(dir, "body"))
		if got := page(url); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %.80q", url, got)
		}
	}
	// A clock that nobody told is not spread further.
	request, answer := append([]byte{4<<3 | 3}, make([]byte, 47)...), make([]byte, 64)
	must(t, device.Do(func() error {
		c, err := net.Dial("udp", "10.73.0.1:123")
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write(request); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err = c.Read(answer)
		return err
	}))
	if known := answer[0] == 4<<3|4 && answer[1] == 2; !known && (answer[0] != 3<<6|4<<3|4 || answer[1] != 0) { // known where the machine's is kept
		t.Errorf("the time server says % x", answer[:2])
	}
}
