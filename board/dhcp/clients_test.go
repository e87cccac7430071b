//go:build linux

package dhcp

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"

	"fieldkit/board/simnet/netns"
)

// What real clients make of the server: busybox's udhcpc, which is in most small devices, and ISC dhclient, which
// implements every state of RFC 2131, each in a network namespace of its own.

func host(t *testing.T, name string) *netns.Host {
	t.Helper()
	h, err := netns.New(name)
	if err != nil {
		if os.Getenv("FIELDKIT_CI") != "" {
			t.Fatalf("network namespaces are needed: %v", err)
		}
		t.Skipf("network namespaces need root: %v", err)
	}
	t.Cleanup(h.Close)
	return h
}

func program(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if p := filepath.Join(dir, name); exec.Command("test", "-x", p).Run() == nil {
			return p
		}
	}
	if os.Getenv("FIELDKIT_CI") != "" {
		t.Fatalf("%s is needed", name)
	}
	t.Skipf("%s is needed", name)
	return ""
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func in(t *testing.T, h *netns.Host, name string, args ...string) string {
	t.Helper()
	cmd, out := exec.Command(name, args...), &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	must(t, h.Start(cmd))
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out.String()
}

// carrier waits until the kernel has noticed that there is something at the other end.
func carrier(t *testing.T, h *netns.Host, dev string) {
	t.Helper()
	for range 200 {
		if !strings.Contains(in(t, h, "ip", "-o", "link", "show", dev), "NO-CARRIER") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("no carrier on %s", dev)
}

// accessPoint is a kit's side of a cable, with its server running.
func accessPoint(t *testing.T, name string, phone *netns.Host) (*netns.Host, *Server) {
	t.Helper()
	kit := host(t, name)
	must(t, netns.Veth(kit, "ap0", phone, "e0"), kit.AddAddress("ap0", netip.PrefixFrom(kitAddr, 16)), kit.Up("ap0"), phone.Up("e0"))
	in(t, phone, "ip", "link", "set", "e0", "down")
	in(t, phone, "ip", "link", "set", "e0", "address", "02:00:00:00:00:01")
	must(t, phone.Up("e0"))
	s, err := NewServer(Config{Server: kitAddr, Network: kitNet, Domain: "home.arpa"}, nil, nil)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- kit.Do(func() error { return s.Serve(ctx, "ap0", func() { close(ready) }) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(5 * time.Second):
		t.Fatal("the server does not start")
	}
	return kit, s
}

// script writes the environment of each event of a client to a file, and uses the address as a client's script does.
func script(t *testing.T, dir, reason string) string {
	t.Helper()
	path := filepath.Join(dir, "script")
	text := "#!/bin/sh\nenv >\"" + dir + "/new\"\nmv \"" + dir + "/new\" \"" + dir + "/event.$" + reason + "\"\n"
	must(t, os.WriteFile(path, []byte(text), 0o700))
	return path
}

// event waits until a client told its script of one of some events, and returns what it said.
func event(t *testing.T, dir string, within time.Duration, names ...string) (string, map[string]string) {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, name := range names {
			b, err := os.ReadFile(filepath.Join(dir, "event."+name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			must(t, err)
			r := map[string]string{}
			for line := range strings.Lines(string(b)) {
				k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
				r[k] = v
			}
			return name, r
		}
	}
	t.Fatalf("none of %v within %v", names, within)
	return "", nil
}

func TestUdhcpcGetsALease(t *testing.T) {
	busybox, handset := program(t, "busybox"), host(t, "phone")
	_, s := accessPoint(t, "kit", handset)
	dir := t.TempDir()
	began := time.Now()
	cmd := exec.Command(busybox, "udhcpc", "-i", "e0", "-f", "-q", "-n", "-t", "3", "-T", "2", "-s", script(t, dir, "1"), "-x", "hostname:anna",
		"-O", "router", "-O", "dns", "-O", "hostname", "-O", "domain", "-O", "ntpsrv", "-O", "114", "-O", "120", "-O", "lease")
	must(t, handset.Start(cmd))
	_, e := event(t, dir, 10*time.Second, "bound")
	took := time.Since(began)
	must(t, cmd.Wait())
	p, _ := newPool(kitNet)
	for k, want := range map[string]string{
		"ip": p.address(phone, 0).String(), "subnet": "255.255.0.0", "router": "10.73.0.1", "dns": "10.73.0.1", "hostname": "anna",
		"domain": "home.arpa", "ntpsrv": "10.73.0.1", "lease": "3600", "serverid": "10.73.0.1", "sipsrv": "10.73.0.1",
	} {
		if e[k] != want {
			t.Errorf("%s is %q, want %q", k, e[k], want)
		}
	}
	st := s.Stats()
	if st.Discovers != 1 || st.Offers != 1 || st.Requests != 1 || st.Acks != 1 || took > 5*time.Second {
		t.Errorf("after %v: %+v", took, st)
	}
	t.Logf("udhcpc: lease after %v, of which %v for the question whether the address is in use; 4 messages", took.Round(time.Millisecond), probes*probeWait)
}

// dhclient runs until it told its script of one of some events.
func dhclient(t *testing.T, h *netns.Host, leases string, names ...string) (string, map[string]string) {
	t.Helper()
	client, dir := program(t, "dhclient"), t.TempDir()
	conf := filepath.Join(dir, "conf")
	must(t, os.WriteFile(conf, []byte("option captive-portal code 114 = text;\noption sip-servers code 120 = string;\n"+
		"request subnet-mask, routers, domain-name-servers, domain-name, host-name, ntp-servers, captive-portal, sip-servers;\nsend host-name \"berta\";\ninitial-interval 1;\ntimeout 20;\n"), 0o600))
	cmd := exec.Command(client, "-4", "-d", "-cf", conf, "-lf", leases, "-pf", filepath.Join(dir, "pid"), "-sf", script(t, dir, "reason"), "e0")
	said := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = said, said
	must(t, h.Start(cmd))
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said)
		}
	}()
	return event(t, dir, 20*time.Second, names...)
}

// The station goes through INIT, and at the second kit through INIT-REBOOT: "roams to the second kit's access point and
// keeps its address".
func TestDhclientRoamsWithItsAddress(t *testing.T) {
	here, there := host(t, "phone here"), host(t, "phone there")
	_, first := accessPoint(t, "first", here)
	_, second := accessPoint(t, "second", there)
	leases := filepath.Join(t.TempDir(), "leases")
	must(t, os.WriteFile(leases, nil, 0o600))
	_, at := dhclient(t, here, leases, "BOUND")
	if at["new_captive_portal"] != "urn:ietf:params:capport:unrestricted" || at["new_domain_name"] != "home.arpa" || at["new_host_name"] != "berta" ||
		at["new_routers"] != "10.73.0.1" || at["new_ntp_servers"] != "10.73.0.1" {
		t.Errorf("at the first kit: %v", at)
	}
	began := time.Now()
	reason, now := dhclient(t, there, leases, "REBOOT", "BOUND", "EXPIRE", "FAIL")
	if reason != "REBOOT" || now["new_ip_address"] != at["new_ip_address"] || now["new_ip_address"] == "" {
		t.Errorf("%s: %s at the first kit, %s at the second", reason, at["new_ip_address"], now["new_ip_address"])
	}
	if a, b := first.Stats(), second.Stats(); a.Discovers != 1 || a.Acks != 1 || b.Discovers != 0 || b.Requests != 1 || b.Acks != 1 {
		t.Errorf("first kit %+v, second %+v", a, b)
	}
	t.Logf("dhclient: %s confirmed at the second kit %v after its start; 2 messages", now["new_ip_address"], time.Since(began).Round(time.Millisecond))
}

// A machine with an address of its own making has the one that is derived for the station.
func TestAnAddressInUseIsNotGivenToUdhcpc(t *testing.T) {
	busybox, handset, squatter, sw := program(t, "busybox"), host(t, "phone"), host(t, "squatter"), host(t, "switch")
	p, _ := newPool(kitNet)
	must(t, netns.Veth(sw, "b", squatter, "e0"), squatter.Up("e0"), squatter.AddAddress("e0", netip.PrefixFrom(p.address(phone, 0), 16)))
	_, s := accessPoint(t, "kit", handset)
	// The handset's own cable leads to the kit; the squatter sits on the same link by a bridge in the handset's place.
	must(t, netns.Veth(handset, "s0", sw, "a"), sw.Bridge("br", "a", "b"), handset.Bridge("br0", "s0"))
	in(t, handset, "ip", "link", "set", "br0", "address", "02:00:00:00:00:01")
	in(t, handset, "ip", "link", "set", "e0", "address", "02:00:00:00:00:ee")
	must(t, handset.Plug("br0", "e0"))
	carrier(t, handset, "s0")
	carrier(t, sw, "b")
	dir := t.TempDir()
	cmd := exec.Command(busybox, "udhcpc", "-i", "br0", "-f", "-q", "-n", "-t", "5", "-T", "2", "-s", script(t, dir, "1"))
	must(t, handset.Start(cmd))
	_, e := event(t, dir, 15*time.Second, "bound")
	must(t, cmd.Wait())
	if e["ip"] != p.address(phone, 1).String() || s.Stats().Conflicts != 1 {
		t.Errorf("got %s, %+v; %v is in use", e["ip"], s.Stats(), p.address(phone, 0))
	}
}

// Whatever comes in frames from a station that means harm, the others are served.
func TestHostileFrames(t *testing.T) {
	handset := host(t, "phone")
	_, s := accessPoint(t, "kit", handset)
	send := func(frames ...[]byte) {
		must(t, handset.Do(func() error {
			ifi, err := net.InterfaceByName("e0")
			if err != nil {
				return err
			}
			c, err := packet.Listen(ifi, packet.Datagram, etherIPv4, nil)
			if err != nil {
				return err
			}
			defer c.Close()
			for _, f := range frames {
				if _, err := c.WriteTo(f, &packet.Addr{HardwareAddr: everybody[:]}); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	toServer := func(b []byte) []byte {
		f := datagram(netip.MustParseAddr("0.0.0.0"), broadcast, b)
		f[22], f[23] = 0, serverPort
		return f
	}
	whole := toServer(discover(other).ToBytes()) // another station's
	frames := [][]byte{whole}
	for n := range whole {
		frames = append(frames, whole[:n])
	}
	long := bytes.Clone(whole)
	long[2], long[3] = 0xff, 0xff // total length
	options := bytes.Clone(whole)
	options[0] = 0x4f // header length
	fragment := bytes.Clone(whole)
	fragment[6] = 0x20
	send(append(frames, long, options, fragment, toServer(make([]byte, 1400)))...)
	for range 50 {
		send(toServer(discover(phone).ToBytes()))
	}
	for end := time.Now().Add(5 * time.Second); s.Stats().RateLimited < 40-uint64(stationBurst) && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	st := s.Stats()
	if st.Foreign == 0 || st.RateLimited == 0 || st.Discovers == 0 || st.Discovers > stationBurst+10 {
		t.Errorf("counted %+v", st)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(discover(phone).ToBytes(), []byte{1})
	f.Add(renewing(phone, kitAddr, ident("\x01abcdef")).ToBytes(), []byte{2, 3})
	f.Add(message(dhcpv4.MessageTypeDecline, phone, requested(kitAddr), server(kitAddr)).ToBytes(), []byte{4})
	f.Fuzz(func(t *testing.T, b, frame []byte) {
		_, _ = payload(frame)
		_, _, _ = arpSender(frame)
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		tab := table(t)
		now := start
		for range 3 {
			outs := tab.Receive(now, phone, m)
			now = now.Add(probeWait)
			for _, o := range append(outs, tab.Advance(now)...) {
				if o.Answer == nil {
					continue
				}
				if _, err := payload(datagram(kitAddr, o.Answer.To, o.Answer.Message.ToBytes())); err == nil {
					t.Fatal("an answer is addressed to a server")
				}
				if y := yours(o.Answer); !y.IsUnspecified() && (!kitNet.Contains(y) || y == kitAddr) {
					t.Fatalf("gave %v", y)
				}
			}
		}
	})
}
