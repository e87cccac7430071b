package firewall

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fieldkit/board/simnet/netns"
)

var update = flag.Bool("update", false, "rewrite testdata")

func testConfig() Config {
	return Config{
		Handset: "handset0", Address: netip.MustParseAddr("10.73.0.1"), Network: netip.MustParsePrefix("10.73.0.0/16"),
		Handsets: []Service{
			{UDP, Port(67)}, {UDP, Port(53)}, {TCP, Port(53)}, {UDP, Port(123)}, {TCP, Port(80)},
			{UDP, Port(5060)}, {TCP, Port(5060)}, {UDP, Ports{20000, 29999}},
		},
		Kits: []Service{{UDP, Port(6084)}, {TCP, Port(6084)}, {UDP, Port(3478)}, {UDP, Ports{32768, 60999}}, {TCP, Ports{32768, 60999}}},
	}
}

func host(t *testing.T, name string) *netns.Host {
	t.Helper()
	h, err := netns.New(name)
	if err != nil {
		t.Fatalf("this test makes network namespaces: %v", err)
	}
	t.Cleanup(h.Close)
	return h
}

func do(t *testing.T, h *netns.Host, f func() error) {
	t.Helper()
	if err := h.Do(f); err != nil {
		t.Fatal(err)
	}
}

// listing is what nft reads back, an independent reader of what the kernel has.
func listing(t *testing.T, h *netns.Host) string {
	t.Helper()
	var out []byte
	do(t, h, func() (err error) {
		out, err = exec.Command("nft", "-s", "list", "ruleset").CombinedOutput()
		if err != nil {
			err = fmt.Errorf("nft: %w: %s", err, out)
		}
		return err
	})
	return string(out)
}

func TestRulesAsNftReadsThem(t *testing.T) {
	h := host(t, "kit")
	s, err := New(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	do(t, h, func() error { return Apply(s) })
	got := listing(t, h)
	const golden = "testdata/ruleset.nft"
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("nft lists other rules than %s:\n%s", golden, got)
	}
	// Again, over what is there: the same, not twice.
	do(t, h, func() error { return Apply(s) })
	if again := listing(t, h); again != got {
		t.Errorf("applied twice:\n%s", again)
	}
	do(t, h, func() error { _, err := Check(s); return err })
	do(t, h, func() error { return exec.Command("nft", "flush", "chain", "inet", TableName, "input").Run() })
	if err := h.Do(func() error { _, err := Check(s); return err }); err == nil {
		t.Error("a chain that somebody emptied passes the check")
	}
	// What cannot be applied leaves what was there.
	bad := s
	bad.Chains = append(slices.Clone(s.Chains), Chain{Name: "bad", Rules: []Rule{{Verdict: Jump, Target: "nowhere"}}})
	before := listing(t, h)
	if err := h.Do(func() error { return Apply(bad) }); err == nil {
		t.Error("a jump to nowhere was applied")
	}
	if after := listing(t, h); after != before {
		t.Errorf("half applied:\n%s", after)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no interface":                func(c *Config) { c.Handset = "" },
		"interface of 16 bytes":       func(c *Config) { c.Handset = "sixteen-letters0" },
		"address of another network":  func(c *Config) { c.Address = netip.MustParseAddr("192.0.2.1") },
		"IPv6":                        func(c *Config) { c.Address = netip.MustParseAddr("fd00::1") },
		"service of another protocol": func(c *Config) { c.Kits = append(c.Kits, Service{ICMP, Port(1)}) },
		"ports upside down":           func(c *Config) { c.Handsets = append(c.Handsets, Service{UDP, Ports{2, 1}}) },
	} {
		c := testConfig()
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// world is a kit with rules, a handset, another kit, and a cable to somewhere else.
type world struct {
	kit, phone, other *netns.Host
	rules             Ruleset
}

const (
	kitULA     = "fd12:1::1" // on the cable
	kitAPULA   = "fd12:2::1" // on the access point
	otherULA   = "fd12:1::9"
	phoneULA   = "fd12:2::5" // which it made up
	kitCable   = "169.254.1.1"
	otherCable = "169.254.1.2"
	phoneAddr  = "10.73.5.5"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{kit: host(t, "kit"), phone: host(t, "phone"), other: host(t, "other")}
	err := errors.Join(
		netns.Veth(w.kit, "ap", w.phone, "wlan0"), netns.Veth(w.kit, "eth0", w.other, "eth0"),
		w.kit.Bridge("handset0", "ap"),
	)
	for _, a := range []struct {
		h         *netns.Host
		dev, addr string
	}{
		{w.kit, "handset0", "10.73.0.1/16"}, {w.kit, "handset0", kitAPULA + "/64"}, {w.kit, "eth0", kitCable + "/16"}, {w.kit, "eth0", kitULA + "/64"},
		{w.phone, "wlan0", phoneAddr + "/16"}, {w.phone, "wlan0", phoneULA + "/64"},
		{w.other, "eth0", otherCable + "/16"}, {w.other, "eth0", otherULA + "/64"},
	} {
		// The kernel would look for others that have them for a second.
		err = errors.Join(err, a.h.Do(func() error {
			_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+a.dev+"/accept_dad", []byte("0"), 0)
			return nil
		}), a.h.Up(a.dev), a.h.AddAddress(a.dev, netip.MustParsePrefix(a.addr)))
	}
	if err != nil {
		t.Fatal(err)
	}
	// The kit forwards here, as if something had switched that on: the rules alone are to hold. Refusals by ICMP are not
	// rationed by the kernel.
	do(t, w.kit, func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/icmp_ratelimit", []byte("0"), 0), os.WriteFile("/proc/sys/net/ipv6/icmp/ratelimit", []byte("0"), 0),
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0), os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	})
	for h, dev := range map[*netns.Host]string{w.phone: "wlan0", w.other: "eth0"} {
		for _, via := range []string{"10.73.0.1", kitAPULA, kitCable, kitULA} {
			a := netip.MustParseAddr(via)
			if (h == w.phone) != (via == "10.73.0.1" || via == kitAPULA) {
				continue
			}
			if err := h.DefaultRoute(dev, a); err != nil {
				t.Fatal(err)
			}
		}
	}
	if w.rules, err = New(testConfig()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) apply(t *testing.T) {
	t.Helper()
	do(t, w.kit, func() error { return Apply(w.rules) })
}

// answer is what somebody who knocks gets.
type answer string

const (
	open    answer = "open"
	refused answer = "refused"
	silence answer = "silence"
)

func answerOf(err error) answer {
	switch {
	case err == nil:
		return open
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES):
		return refused
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT):
		return silence
	}
	return answer(err.Error())
}

const patience = 250 * time.Millisecond

// knock asks for a TCP connection, or sends a datagram and waits for it to come back.
func knock(h *netns.Host, network, from, to string) answer {
	result := make(chan error, 1)
	_ = h.Do(func() error {
		d := net.Dialer{Timeout: patience}
		if from != "" {
			if strings.HasPrefix(network, "tcp") {
				d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
			} else {
				d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
			}
		}
		c, err := d.Dial(network, to)
		if err == nil && strings.HasPrefix(network, "udp") {
			_ = c.SetDeadline(time.Now().Add(patience))
			_, err = c.Write([]byte("hello"))
			if err == nil {
				_, err = c.Read(make([]byte, 16))
			}
		}
		if c != nil {
			_ = c.Close()
		}
		result <- err
		return nil
	})
	err := <-result
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		return silence
	}
	return answerOf(err)
}

// listen answers at a port of all addresses of the host, as a service would that was bound carelessly.
func listen(t *testing.T, h *netns.Host, ports ...int) {
	t.Helper()
	for _, port := range ports {
		var l net.Listener
		var u *net.UDPConn
		do(t, h, func() (err error) {
			if l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil {
				return err
			}
			u, err = net.ListenUDP("udp", &net.UDPAddr{Port: port})
			return err
		})
		t.Cleanup(func() { _ = errors.Join(l.Close(), u.Close()) })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		}()
		go func() {
			b := make([]byte, 64)
			for {
				n, from, err := u.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				_, _ = u.WriteToUDPAddrPort(b[:n], from)
			}
		}()
	}
}

func TestWhoReachesWhat(t *testing.T) {
	w := newWorld(t)
	listen(t, w.kit, 53, 67, 80, 123, 443, 5060, 6084, 3478, 20000, 29999, 30000, 40000, 22)
	listen(t, w.other, 80, 6084)
	at := func(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }
	for _, c := range []struct {
		what     string
		h        *netns.Host
		network  string
		from, to string
		want     answer // with the rules; without them it is open, which shows that the way is there
		closed   bool   // but for these: nobody answers there, or from another address
	}{
		{"status page", w.phone, "tcp", "", at("10.73.0.1", 80), open, false},
		{"DNS over UDP", w.phone, "udp", "", at("10.73.0.1", 53), open, false},
		{"DNS over TCP", w.phone, "tcp", "", at("10.73.0.1", 53), open, false},
		{"NTP", w.phone, "udp", "", at("10.73.0.1", 123), open, false},
		{"DHCP", w.phone, "udp", "", at("10.73.0.1", 67), open, false},
		{"SIP over UDP", w.phone, "udp", "", at("10.73.0.1", 5060), open, false},
		{"SIP over TCP", w.phone, "tcp", "", at("10.73.0.1", 5060), open, false},
		{"voice, first port", w.phone, "udp", "", at("10.73.0.1", 20000), open, false},
		{"voice, last port", w.phone, "udp", "", at("10.73.0.1", 29999), open, false},
		{"beyond voice", w.phone, "udp", "", at("10.73.0.1", 30000), refused, false},
		{"connectivity check over HTTPS", w.phone, "tcp", "", at("10.73.0.1", 443), refused, false},
		{"QUIC", w.phone, "udp", "", at("10.73.0.1", 443), refused, false},
		{"shell", w.phone, "tcp", "", at("10.73.0.1", 22), refused, false},
		{"overlay from a phone", w.phone, "udp", "", at("10.73.0.1", 6084), refused, false},
		{"relay from a phone", w.phone, "udp", "", at("10.73.0.1", 3478), refused, false},
		{"voice over TCP", w.phone, "tcp", "", at("10.73.0.1", 20000), refused, false},

		{"the kit's address on the cable", w.phone, "tcp", "", at(kitCable, 80), refused, false},
		{"the kit's address on the cable, UDP", w.phone, "udp", "", at(kitCable, 5060), refused, true},
		{"the kit's address on the cable, overlay", w.phone, "udp", "", at(kitCable, 6084), refused, true},
		{"another kit through this one", w.phone, "tcp", "", at(otherCable, 80), refused, false},
		{"another kit's overlay through this one", w.phone, "udp", "", at(otherCable, 6084), refused, false},
		{"the Internet", w.phone, "tcp", "", at("192.0.2.1", 443), refused, true},

		{"status page over IPv6", w.phone, "tcp", "", at(kitAPULA, 80), refused, false},
		{"SIP over IPv6", w.phone, "udp", "", at(kitAPULA, 5060), refused, false},
		{"overlay over IPv6", w.phone, "udp", "", at(kitAPULA, 6084), open, false},
		{"overlay over IPv6 and TCP", w.phone, "tcp", "", at(kitAPULA, 6084), open, false},
		{"the cable's IPv6 address", w.phone, "udp", "", at(kitULA, 6084), refused, true},
		{"another kit through this one, IPv6", w.phone, "udp", "", at(otherULA, 6084), refused, true},

		{"overlay", w.other, "udp", "", at(kitCable, 6084), open, false},
		{"overlay over TCP", w.other, "tcp", "", at(kitCable, 6084), open, false},
		{"overlay over IPv6 on the cable", w.other, "udp", "", at(kitULA, 6084), open, false},
		{"relay", w.other, "udp", "", at(kitCable, 3478), open, false},
		{"links", w.other, "udp", "", at(kitCable, 40000), open, false},
		{"links over IPv6", w.other, "udp", "", at(kitULA, 40000), open, false},
		{"status page from the cable", w.other, "tcp", "", at(kitCable, 80), silence, false},
		{"status page from the cable, IPv6", w.other, "tcp", "", at(kitULA, 80), silence, false},
		{"SIP from the cable", w.other, "udp", "", at(kitCable, 5060), silence, false},
		{"DNS from the cable", w.other, "udp", "", at(kitCable, 53), silence, false},
		{"voice from the cable", w.other, "udp", "", at(kitCable, 20000), silence, false},
		{"handset address from the cable", w.other, "tcp", "", at("10.73.0.1", 80), silence, false},
		{"SIP at the handset address from the cable", w.other, "udp", "", at("10.73.0.1", 5060), silence, true},
		{"the access point's IPv6 address from the cable", w.other, "udp", "", at(kitAPULA, 6084), silence, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			do(t, w.kit, func() error { return Apply(Ruleset{}) })
			if !c.closed {
				if got := knock(c.h, c.network, c.from, c.to); got != open {
					t.Errorf("without rules: %s", got)
				}
			}
			w.apply(t)
			if got := knock(c.h, c.network, c.from, c.to); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// A scanner that the project did not write looks at every port of the addresses that a handset can name.
func TestEveryPort(t *testing.T) {
	w := newWorld(t)
	// A scan is what the rates are there against.
	for i := range w.rules.Chains {
		w.rules.Chains[i].Rules = slices.DeleteFunc(w.rules.Chains[i].Rules, func(r Rule) bool { return r.AllAbove != 0 || r.SourceAbove != 0 })
	}
	w.apply(t)
	scan := func(h *netns.Host, args ...string) string {
		var out []byte
		do(t, h, func() (err error) {
			out, err = exec.CommandContext(t.Context(), "nmap", append([]string{"-n", "-Pn", "-T5", "--max-retries", "1", "--host-timeout", "40s", "-oG", "-"}, args...)...).CombinedOutput()
			return err
		})
		for line := range strings.Lines(string(out)) {
			if _, ports, ok := strings.Cut(line, "Ports: "); ok {
				return ports
			}
		}
		return string(out)
	}
	listen(t, w.kit, 22, 80, 443, 5060, 6084, 8080, 53, 40001)
	for _, c := range []struct {
		what string
		h    *netns.Host
		args []string
		open []string
	}{
		{"handset", w.phone, []string{"-sT", "-p-", "10.73.0.1"}, []string{"53", "80", "5060"}},
		{"handset, IPv6", w.phone, []string{"-6", "-sT", "-p1-10000,39990-40010", kitAPULA}, []string{"6084", "40001"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			began := time.Now()
			got := scan(c.h, c.args...)
			var found []string
			for _, p := range strings.Split(got, ",") {
				f := strings.Split(strings.TrimSpace(p), "/")
				if len(f) > 1 && f[1] == "open" {
					found = append(found, f[0])
				}
			}
			if !slices.Equal(found, c.open) {
				t.Errorf("open: %v, want %v; nmap: %.400s", found, c.open, got)
			}
			t.Logf("%v", time.Since(began).Round(time.Millisecond))
		})
	}
}

// raw sends IPv4 packets as they are: UDP from any address to any other, to the hardware address of the kit.
func raw(t *testing.T, h *netns.Host, dev string, to net.HardwareAddr, src, dst string, port uint16) {
	t.Helper()
	do(t, h, func() error {
		ifc, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		c, err := packet.Listen(ifc, packet.Datagram, unix.ETH_P_IP, nil)
		if err != nil {
			return err
		}
		defer c.Close()
		s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
		b := []byte{0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0}
		b = append(append(b, s[:]...), d[:]...)
		sum := uint32(0)
		for i := 0; i < 20; i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		b[10], b[11] = byte(^sum>>8), byte(^sum)
		b = append(b, 0x30, 0x39, byte(port>>8), byte(port), 0, 12, 0, 0, 'f', 'a', 'k', 'e')
		_, err = c.WriteTo(b, &packet.Addr{HardwareAddr: to})
		return err
	})
}

// Packets whose source lies reach nobody.
func TestLyingSources(t *testing.T) {
	w := newWorld(t)
	mac := map[string]net.HardwareAddr{}
	do(t, w.kit, func() error {
		for _, dev := range []string{"handset0", "eth0"} {
			// The kernel's own check would hide what the rules do.
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+dev+"/rp_filter", []byte("0"), 0); err != nil {
				return err
			}
			i, err := net.InterfaceByName(dev)
			if err != nil {
				return err
			}
			mac[dev] = i.HardwareAddr
		}
		return os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("0"), 0)
	})
	var sockets [3]*net.UDPConn
	ports := []uint16{5060, 6084, 67}
	for i, p := range ports {
		do(t, w.kit, func() (err error) {
			sockets[i], err = net.ListenUDP("udp4", &net.UDPAddr{Port: int(p)})
			return err
		})
		defer sockets[i].Close()
	}
	w.apply(t)
	for _, c := range []struct {
		what     string
		h        *netns.Host
		dev      string
		kit      string
		src, dst string
		port     uint16
		through  bool
	}{
		{"a handset", w.phone, "wlan0", "handset0", phoneAddr, "10.73.0.1", 5060, true},
		{"a handset without an address", w.phone, "wlan0", "handset0", "0.0.0.0", "255.255.255.255", 67, true},
		{"a handset without an address, for SIP", w.phone, "wlan0", "handset0", "0.0.0.0", "255.255.255.255", 5060, false},
		{"a handset as another network", w.phone, "wlan0", "handset0", "192.0.2.7", "10.73.0.1", 5060, false},
		{"a handset as a kit", w.phone, "wlan0", "handset0", otherCable, "10.73.0.1", 5060, false},
		{"a handset as a kit, to the overlay", w.phone, "wlan0", "handset0", otherCable, kitCable, 6084, false},
		{"a kit", w.other, "eth0", "eth0", otherCable, kitCable, 6084, true},
		{"a kit as a handset", w.other, "eth0", "eth0", phoneAddr, "10.73.0.1", 5060, false},
		{"a kit as a handset, to the overlay", w.other, "eth0", "eth0", phoneAddr, kitCable, 6084, false},
		{"a kit to the handset address", w.other, "eth0", "eth0", otherCable, "10.73.0.1", 5060, false},
		{"a kit to the handsets' broadcast address", w.other, "eth0", "eth0", otherCable, "10.73.255.255", 5060, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			socket := sockets[slices.Index(ports, c.port)]
			arrives := func() bool {
				raw(t, c.h, c.dev, mac[c.kit], c.src, c.dst, c.port)
				_ = socket.SetReadDeadline(time.Now().Add(patience))
				_, _, err := socket.ReadFromUDPAddrPort(make([]byte, 64))
				return err == nil
			}
			if got := arrives(); got != c.through {
				t.Errorf("arrives: %v", got)
			}
		})
	}
	// The kernel itself takes no source that is its own: the rule is there for the day it does.
	do(t, w.kit, func() error {
		counts, err := Check(w.rules)
		if err != nil {
			return err
		}
		for _, name := range []string{"handset: address of another network", "kits: handset address", "kits: to a handset address"} {
			if !slices.ContainsFunc(counts, func(n Count) bool { return n.Rule == name && n.Packets > 0 }) {
				t.Errorf("nothing was counted as %q: %v", name, counts)
			}
		}
		return nil
	})
}

// One handset that opens connections as fast as it can does not keep another one out.
func TestFloodOfConnections(t *testing.T) {
	w := newWorld(t)
	second := host(t, "second phone")
	err := errors.Join(netns.Veth(w.kit, "ap2", second, "wlan0"), w.kit.Plug("handset0", "ap2"), second.Up("wlan0"), second.AddAddress("wlan0", netip.MustParsePrefix("10.73.6.6/16")))
	if err != nil {
		t.Fatal(err)
	}
	listen(t, w.kit, 80)
	w.apply(t)
	answers := map[answer]int{}
	for range handsetConnections*burst + 30 {
		answers[quick(w.phone, "10.73.0.1:80")]++
	}
	if answers[open] < handsetConnections || answers[silence] == 0 {
		t.Errorf("the flood got %v", answers)
	}
	if got := knock(second, "tcp", "", "10.73.0.1:80"); got != open {
		t.Errorf("another handset: %s", got)
	}
}

// A handset that floods the kits' ports over IPv6 does not use up what kits on a cable may.
func TestFloodOfConnectionsToTheKitsPorts(t *testing.T) {
	w := newWorld(t)
	listen(t, w.kit, 6084)
	w.apply(t)
	var flood sync.WaitGroup
	var silent atomic.Int64
	ctx, end := context.WithCancel(t.Context())
	for range 8 {
		flood.Go(func() {
			for ctx.Err() == nil {
				if quick(w.phone, net.JoinHostPort(kitAPULA, "6084")) == silence {
					silent.Add(1)
				}
			}
		})
	}
	for until := time.Now().Add(5 * time.Second); silent.Load() < 100 && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
	}
	answers := map[answer]int{}
	for range 20 {
		answers[quick(w.other, net.JoinHostPort(kitULA, "6084"))]++
	}
	end()
	flood.Wait()
	if answers[open] < 12 || silent.Load() < 100 {
		t.Errorf("another kit got %v, while the flood was dropped %d times", answers, silent.Load())
	}
}

// quick is knock over TCP that does not wait for a second try.
func quick(h *netns.Host, to string) (a answer) {
	_ = h.Do(func() error {
		c, err := net.DialTimeout("tcp", to, 20*time.Millisecond)
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			a = silence
		} else if a = answerOf(err); err == nil {
			_ = c.Close()
		}
		return nil
	})
	return a
}

// Neighbor Discovery passes: without it no first packet over IPv6 would.
func TestKitHearsNeighboursOfIPv6(t *testing.T) {
	w := newWorld(t)
	w.apply(t)
	listen(t, w.kit, 6084)
	// From scratch: no neighbour is known.
	for _, h := range []*netns.Host{w.kit, w.phone, w.other} {
		do(t, h, func() error {
			links, err := netlink.LinkList()
			if err != nil {
				return err
			}
			for _, l := range links {
				n, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_V6)
				if err != nil {
					return err
				}
				for _, x := range n {
					_ = netlink.NeighDel(&x)
				}
			}
			return nil
		})
	}
	if got := knock(w.other, "udp", otherULA, net.JoinHostPort(kitULA, "6084")); got != open {
		t.Errorf("over the cable: %s", got)
	}
	if got := knock(w.phone, "udp", phoneULA, net.JoinHostPort(kitAPULA, "6084")); got != open {
		t.Errorf("over the access point: %s", got)
	}
}

func TestEphemeralPorts(t *testing.T) {
	h := host(t, "kit")
	do(t, h, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40999"), 0) })
	var got Ports
	do(t, h, func() (err error) { got, err = Ephemeral(); return err })
	if got != (Ports{40000, 40999}) {
		t.Errorf("%+v", got)
	}
	for range 20 {
		do(t, h, func() error {
			c, err := net.ListenUDP("udp4", &net.UDPAddr{})
			if err != nil {
				return err
			}
			defer c.Close()
			if p := c.LocalAddr().(*net.UDPAddr).AddrPort().Port(); p < got.First || p > got.Last {
				t.Errorf("a socket got port %d", p)
			}
			return nil
		})
	}
}
