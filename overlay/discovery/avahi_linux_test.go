package discovery_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fieldkit/board/simnet/netns"
	"fieldkit/overlay/discovery"
)

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>`

const avahiConfig = `[server]
host-name=other
use-ipv4=yes
use-ipv6=yes
allow-interfaces=eth0
[publish]
publish-workstation=no
publish-hinfo=no
`

// avahi is a host that runs the reference implementation of multicast DNS,
// with a message bus, configuration and run-time directory of its own.
type avahi struct {
	t   *testing.T
	h   *netns.Host
	bus string
}

func startAvahi(t *testing.T, h *netns.Host) *avahi {
	t.Helper()
	for _, p := range []string{"avahi-daemon", "avahi-browse", "avahi-publish", "dbus-daemon", "unshare"} {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("FIELDKIT_CI") == "1" {
				t.Fatal("needs the packages avahi-daemon, avahi-utils and dbus: ", err)
			}
			t.Skip("needs the packages avahi-daemon, avahi-utils and dbus: ", err)
		}
	}
	dir, err := os.MkdirTemp("", "disc") // a socket's path must be short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := &avahi{t: t, h: h, bus: filepath.Join(dir, "bus")}
	must(t,
		os.WriteFile(filepath.Join(dir, "bus.conf"), fmt.Appendf(nil, busConfig, a.bus), 0o600),
		os.WriteFile(filepath.Join(dir, "avahi.conf"), []byte(avahiConfig), 0o600))
	a.start("dbus-daemon", "--config-file="+filepath.Join(dir, "bus.conf"), "--nofork", "--nopidfile")
	a.waitFor("the message bus", func() bool { _, err := os.Stat(a.bus); return err == nil })
	// The daemon's run-time directory is compiled in; it gets one of its own.
	a.start("unshare", "--mount", "sh", "-c", `mount -t tmpfs none /run && exec avahi-daemon --no-chroot --no-drop-root --no-rlimits -f "$0"`,
		filepath.Join(dir, "avahi.conf"))
	a.waitFor("the daemon", func() bool { _, err := a.run("avahi-browse", "-t", "-a"); return err == nil })
	return a
}

func (a *avahi) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS=unix:path="+a.bus, "LC_ALL=C.UTF-8")
	return cmd
}

// start runs a command until the end of the test.
func (a *avahi) start(name string, args ...string) *exec.Cmd {
	a.t.Helper()
	cmd := a.command(name, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	must(a.t, a.h.Start(cmd))
	a.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if a.t.Failed() {
			a.t.Logf("%s: %s", name, out.String())
		}
	})
	return cmd
}

// run runs a command to its end, for at most 10 s.
func (a *avahi) run(name string, args ...string) (string, error) {
	cmd := a.command(name, args...)
	var out strings.Builder
	cmd.Stdout = &out
	if err := a.h.Start(cmd); err != nil {
		return "", err
	}
	t := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer t.Stop()
	err := cmd.Wait()
	return out.String(), err
}

func (a *avahi) waitFor(what string, ok func() bool) {
	a.t.Helper()
	for deadline := time.Now().Add(patient); !ok(); {
		if time.Now().After(deadline) {
			a.t.Fatal("not there: ", what)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// The reference implementation sees a kit with all that it says, and a kit sees
// what the reference implementation publishes; both live on one host.
func TestAvahiInterop(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 2)
	a := startAvahi(t, l.hosts[1])
	k1 := l.kit(1)
	k2 := l.kit(2) // beside avahi

	var seen string
	a.waitFor("kit 1 in avahi-browse", func() bool {
		seen, _ = a.run("avahi-browse", "-r", "-p", "-t", discovery.Service)
		return strings.Contains(seen, ";10.9.0.1;6084;") && strings.Contains(seen, ";10.9.0.2;6084;")
	})
	for line := range strings.SplitSeq(seen, "\n") {
		if !strings.HasPrefix(line, "=;") || !strings.Contains(line, ";10.9.0.1;6084;") {
			continue
		}
		// =;interface;protocol;name;type;domain;host;address;port;texts
		f := strings.Split(line, ";")
		if f[3] != id(1) || f[4] != discovery.Service || f[6] != id(1)+".local" {
			t.Errorf("avahi sees %s", line)
		}
		for _, want := range []string{`"txtvers=1"`, `"overlay=aabbccdd"`, `"node=` + id(1) + `"`, `"seq=1"`, `"name=KIT 1"`} {
			if !strings.Contains(f[9], want) {
				t.Errorf("no %s among the texts %s", want, f[9])
			}
		}
	}

	a.start("avahi-publish", "-s", id(9), discovery.Service, "6099",
		"txtvers=1", "overlay=11223344", "node="+id(9), "seq=3", "num=499", "name=Älm \\ 9")
	// It goes by a name that no kit has: seen, and left alone.
	a.start("avahi-publish", "-s", "a printer with spaces", discovery.Service, "6098", "x=y")
	// It sends IPv4 and IPv6 addresses in different answers, of which the
	// library passes on the first of each cycle.
	p := k1.until(2*patient, "the IPv4 address", func(_ string, p discovery.Peer) bool {
		return p.NodeID == id(9) && hasAddr(p, "10.9.0.2:6099")
	})
	if p.Overlay != "11223344" || p.Sequence != 3 || p.Number != 499 || p.Name != `Älm \ 9` {
		t.Errorf("published as %+v", p)
	}
	k2.event(patient, "up", id(9))
	if s, _ := k1.snapshot(); len(s.Peers) != 2 {
		t.Errorf("%d peers, want kit 2 and the published one", len(s.Peers))
	}

	// A new text replaces the old one in avahi's cache too.
	k1.say("name BIRCH")
	a.waitFor("the new name in avahi-browse", func() bool {
		seen, _ = a.run("avahi-browse", "-r", "-p", "-t", discovery.Service)
		return strings.Contains(seen, `"name=BIRCH"`)
	})
}
