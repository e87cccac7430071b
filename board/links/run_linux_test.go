package links

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"fieldkit/board/simnet/netns"
)

// The tests below look at network namespaces that have kits in them: this program again, which runs Links there until it is
// told to end. childNode names the kit; childRadio its access point's interface.
const (
	childNode  = "FIELDKIT_LINKS_NODE"
	childRadio = "FIELDKIT_LINKS_RADIO"
)

func TestMain(m *testing.M) {
	if node := os.Getenv(childNode); node != "" {
		if err := child(node); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func child(node string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	l := New(Config{
		Prefix: testPrefix, Node: []byte(node), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Kind: func(name string) Kind {
			if name == os.Getenv(childRadio) {
				return AccessPoint
			}
			return ""
		},
	})
	if err := l.Run(ctx, func() {}); !errors.Is(err, context.Canceled) {
		return err
	}
	return goleak.Find()
}

var testPrefix = Prefix("links.example.org")

type kit struct {
	*netns.Host
	t    *testing.T
	node string
	cmd  *exec.Cmd
	log  bytes.Buffer
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

func newKit(t *testing.T, node string) *kit { return &kit{Host: host(t, node), t: t, node: node} }

// run starts the kit's Links; it ends with the test, without leaks.
func (k *kit) run(env ...string) {
	k.t.Helper()
	k.cmd = exec.Command(os.Args[0])
	k.cmd.Env = append(os.Environ(), append(env, childNode+"="+k.node)...)
	k.cmd.Stderr = &k.log
	if err := k.Start(k.cmd); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		k.stop()
		if k.t.Failed() {
			k.t.Logf("kit %s:\n%s", k.node, k.log.String())
		}
	})
}

func (k *kit) stop() {
	if k.cmd == nil {
		return
	}
	_ = k.cmd.Process.Signal(syscall.SIGTERM)
	if err := k.cmd.Wait(); err != nil {
		k.t.Errorf("kit %s ended: %v", k.node, err)
	}
	k.cmd = nil
}

func cable(t *testing.T, a *netns.Host, aName string, b *netns.Host, bName string) {
	t.Helper()
	if err := netns.Veth(a, aName, b, bName); err != nil {
		t.Fatal(err)
	}
}

// addresses are those that can be used, of a prefix.
func addresses(t *testing.T, h *netns.Host, dev string, in netip.Prefix) (r []netip.Addr) {
	t.Helper()
	err := h.Do(func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		all, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		for _, a := range all {
			if x, ok := netip.AddrFromSlice(a.IP); ok && in.Contains(x.Unmap()) && a.Flags&unix.IFA_F_TENTATIVE == 0 {
				r = append(r, x.Unmap())
			}
		}
		return err
	})
	if err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) {
		t.Fatal(err)
	}
	return r
}

// claimTime is the longest that RFC 3927 §9 lets a claim without conflict take, and a second for the machine.
const claimTime = probeWait + (probeNum-1)*probeMax + announceWait + time.Second

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

func one(t *testing.T, h *netns.Host, dev string, in netip.Prefix, within time.Duration) (r netip.Addr) {
	t.Helper()
	eventually(t, within, fmt.Sprintf("%s has one address of %v", dev, in), func() bool {
		if a := addresses(t, h, dev, in); len(a) == 1 {
			r = a[0]
			return true
		}
		return false
	})
	return r
}

// reach sends a datagram from one address to another and tells where it came from there, on which interface.
func reach(t *testing.T, from *netns.Host, src netip.Addr, to *netns.Host, dst netip.Addr) bool {
	t.Helper()
	listen := func(h *netns.Host, a netip.Addr) *net.UDPConn {
		var c *net.UDPConn
		err := h.Do(func() (err error) {
			c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	a, b := listen(from, src), listen(to, dst)
	buf := make([]byte, 16)
	for range 3 { // the first one may be lost while the neighbour is looked up
		if _, err := a.WriteTo([]byte("hello"), b.LocalAddr()); err != nil {
			t.Logf("%v to %v: %v", src, dst, err)
			return false
		}
		_ = b.SetReadDeadline(time.Now().Add(time.Second))
		n, got, err := b.ReadFromUDPAddrPort(buf)
		if err != nil {
			continue
		}
		if got.Addr().Unmap() != src {
			t.Fatalf("came from %v, sent from %v", got, src)
		}
		_, err = b.WriteToUDPAddrPort(buf[:n], got)
		_ = a.SetReadDeadline(time.Now().Add(time.Second))
		_, err2 := a.Read(buf)
		return err == nil && err2 == nil
	}
	return false
}

func TestTwoKitsOnACable(t *testing.T) {
	t.Parallel()
	a, b, sw := newKit(t, "kit a"), newKit(t, "kit b"), host(t, "switch")
	cable(t, a.Host, "eth0", sw, "p0")
	cable(t, b.Host, "eth0", sw, "p1")
	if err := sw.Bridge("br0", "p0", "p1"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	a.run()
	b.run()
	ulaA, ulaB := one(t, a.Host, "eth0", testPrefix, 5*time.Second), one(t, b.Host, "eth0", testPrefix, 5*time.Second)
	t.Logf("IPv6 after %v", time.Since(began).Round(time.Millisecond))
	if ulaA != Address(testPrefix, []byte("kit a"), "eth0").Addr() {
		t.Errorf("kit a has %v", ulaA)
	}
	if !reach(t, a.Host, ulaA, b.Host, ulaB) {
		t.Errorf("%v does not reach %v", ulaA, ulaB)
	}
	llA, llB := one(t, a.Host, "eth0", linkLocal4, claimTime), one(t, b.Host, "eth0", linkLocal4, claimTime)
	t.Logf("IPv4 after %v: %v %v", time.Since(began).Round(time.Millisecond), llA, llB)
	if !reach(t, a.Host, llA, b.Host, llB) {
		t.Errorf("%v does not reach %v", llA, llB)
	}

	// Unplugged: no address is claimed on a cable that is not there. Plugged in again, the kit has what it had: its
	// addresses are made of who it is.
	if err := sw.Down("p0"); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, 2*time.Second, "the address is given up without a carrier", func() bool { return len(addresses(t, a.Host, "eth0", linkLocal4)) == 0 })
	t.Logf("unplugging noticed after %v", took.Round(time.Millisecond))
	if err := sw.Up("p0"); err != nil {
		t.Fatal(err)
	}
	took = eventually(t, 3*time.Second, "the kits reach each other again", func() bool { return reach(t, a.Host, ulaA, b.Host, ulaB) })
	t.Logf("IPv6 again after %v", took.Round(time.Millisecond))
	if again := one(t, a.Host, "eth0", linkLocal4, claimTime); again != llA {
		t.Errorf("has %v, had %v", again, llA)
	}
}

// A kit that starts again asks for its address again, like anybody; and leaves no rule or address of before.
func TestStartedAgain(t *testing.T) {
	t.Parallel()
	a, peer := newKit(t, "kit a"), host(t, "peer")
	cable(t, a.Host, "eth0", peer, "eth0")
	if err := peer.Up("eth0"); err != nil {
		t.Fatal(err)
	}
	a.run()
	ll := one(t, a.Host, "eth0", linkLocal4, claimTime)
	a.stop()
	a.run()
	eventually(t, 2*time.Second, "the address of the earlier run is taken back", func() bool { return len(addresses(t, a.Host, "eth0", linkLocal4)) == 0 })
	if again := one(t, a.Host, "eth0", linkLocal4, claimTime); again != ll {
		t.Errorf("has %v, had %v", again, ll)
	}
	rules := func() (n int) {
		_ = a.Do(func() error {
			all, err := netlink.RuleList(netlink.FAMILY_ALL)
			for _, r := range all {
				if r.Priority == rulePriority {
					n++
				}
			}
			return err
		})
		return n
	}
	eventually(t, 2*time.Second, "a routing rule for each family", func() bool { return rules() == 2 })
	if err := a.Delete("eth0"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Second, "no rule stays when the interface goes", func() bool { return rules() == 0 })
}

// onCable is a host that the kit does not know, with a socket for raw ARP.
type onCable struct {
	t   *testing.T
	c   *packet.Conn
	mac net.HardwareAddr
}

func newOnCable(t *testing.T, h *netns.Host, dev string) *onCable {
	t.Helper()
	o := &onCable{t: t}
	err := h.Do(func() error {
		ifc, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		o.mac = ifc.HardwareAddr
		o.c, err = packet.Listen(ifc, packet.Datagram, unix.ETH_P_ARP, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.c.Close() })
	return o
}

func (o *onCable) read(within time.Duration) *arp.Packet {
	b := make([]byte, 128)
	_ = o.c.SetReadDeadline(time.Now().Add(within))
	n, _, err := o.c.ReadFrom(b)
	if err != nil {
		return nil
	}
	p, _ := parseARP(b[:n])
	return p
}

func (o *onCable) send(op arp.Operation, sender, target netip.Addr) {
	o.t.Helper()
	p, err := arp.NewPacket(op, o.mac, sender, make(net.HardwareAddr, 6), target)
	if err != nil {
		o.t.Fatal(err)
	}
	b, err := p.MarshalBinary()
	if err != nil {
		o.t.Fatal(err)
	}
	if _, err := o.c.WriteTo(b, &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}); err != nil {
		o.t.Fatal(err)
	}
}

// Somebody on the cable has the kit's first address: it takes another one. Then he takes that: it is defended once,
// then given up.
func TestHostileNeighbour(t *testing.T) {
	t.Parallel()
	a, peer := newKit(t, "kit a"), host(t, "peer")
	cable(t, a.Host, "eth0", peer, "eth0")
	if err := peer.Up("eth0"); err != nil {
		t.Fatal(err)
	}
	o := newOnCable(t, peer, "eth0")
	a.run()
	var first netip.Addr
	eventually(t, 3*time.Second, "a probe", func() bool {
		p := o.read(time.Second)
		if p != nil && p.SenderIP.IsUnspecified() {
			first = p.TargetIP
		}
		return first.IsValid()
	})
	o.send(arp.OperationReply, first, first)
	second := one(t, a.Host, "eth0", linkLocal4, 2*claimTime)
	if second == first {
		t.Fatalf("the kit took %v, which somebody has", first)
	}
	for p := o.read(3 * time.Second); p != nil; p = o.read(3 * time.Second) {
	} // its announcements
	o.send(arp.OperationRequest, second, second)
	defended := o.read(time.Second)
	if defended == nil || defended.SenderIP != second || defended.TargetIP != second {
		t.Errorf("no defence, but %+v", defended)
	}
	o.send(arp.OperationRequest, second, second)
	eventually(t, time.Second, "the address is given up", func() bool { return len(addresses(t, a.Host, "eth0", linkLocal4)) == 0 })
	// An ARP flood is dropped and costs the kit nothing that lasts.
	for i := range 2000 {
		o.send(arp.OperationRequest, netip.AddrFrom4([4]byte{169, 254, byte(1 + i%200), byte(i)}), second)
	}
	if third := one(t, a.Host, "eth0", linkLocal4, 2*claimTime+rateLimitInterval); third == second || third == first {
		t.Errorf("has %v again", third)
	}
}

// Somebody on the cable who has the kit's IPv6 address, or says so, keeps the kit from having it there for as long, and no
// longer.
func TestAddressOfSomebodyElse(t *testing.T) {
	t.Parallel()
	a, peer := newKit(t, "kit a"), host(t, "peer")
	cable(t, a.Host, "eth0", peer, "eth0")
	if err := peer.Up("eth0"); err != nil {
		t.Fatal(err)
	}
	its := Address(testPrefix, []byte(a.node), "eth0")
	change := func(f func(netlink.Link, *netlink.Addr) error) {
		t.Helper()
		if err := peer.Do(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return f(l, &netlink.Addr{IPNet: ipNet(its), Flags: unix.IFA_F_NODAD})
		}); err != nil {
			t.Fatal(err)
		}
	}
	change(netlink.AddrAdd)
	a.run()
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if got := addresses(t, a.Host, "eth0", netip.PrefixFrom(its.Addr(), 128)); len(got) > 0 {
			t.Fatal("the kit uses an address that somebody has")
		}
	}
	change(netlink.AddrDel)
	one(t, a.Host, "eth0", netip.PrefixFrom(its.Addr(), 128), 4*repairAfter)
}

// Two cables to one switch: each address is answered for and used by its own interface, and nothing goes round.
func TestTwoCablesToOneSwitch(t *testing.T) {
	t.Parallel()
	a, b, sw := newKit(t, "kit a"), newKit(t, "kit b"), host(t, "switch")
	cable(t, a.Host, "eth0", sw, "p0")
	cable(t, a.Host, "eth1", sw, "p1")
	cable(t, b.Host, "eth0", sw, "p2")
	if err := sw.Bridge("br0", "p0", "p1", "p2"); err != nil {
		t.Fatal(err)
	}
	a.run()
	b.run()
	target, target6 := one(t, b.Host, "eth0", linkLocal4, claimTime), one(t, b.Host, "eth0", testPrefix, claimTime)
	for _, dev := range []string{"eth0", "eth1"} {
		src, src6 := one(t, a.Host, dev, linkLocal4, claimTime), one(t, a.Host, dev, testPrefix, claimTime)
		before := sent(t, a.Host, dev)
		if !reach(t, a.Host, src, b.Host, target) || !reach(t, a.Host, src6, b.Host, target6) {
			t.Errorf("%s does not reach the other kit", dev)
		}
		if n := sent(t, a.Host, dev) - before; n < 2 {
			t.Errorf("what %s's addresses sent left by another interface", dev)
		}
	}
	// Who asks on the switch for an address of the kit gets one answer, of the interface that has it.
	o := newOnCable(t, b.Host, "eth0")
	for _, dev := range []string{"eth0", "eth1"} {
		addr := one(t, a.Host, dev, linkLocal4, claimTime)
		var mac net.HardwareAddr
		if err := a.Do(func() error {
			i, err := net.InterfaceByName(dev)
			if err == nil {
				mac = i.HardwareAddr
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		o.send(arp.OperationRequest, target, addr)
		answers := 0
		for p := o.read(500 * time.Millisecond); p != nil; p = o.read(500 * time.Millisecond) {
			if p.Operation == arp.OperationReply && p.SenderIP == addr {
				answers++
				if !slices.Equal(p.SenderHardwareAddr, mac) {
					t.Errorf("%v of %s is answered for by %v", addr, dev, p.SenderHardwareAddr)
				}
			}
		}
		if answers != 1 {
			t.Errorf("%d answers for %v", answers, addr)
		}
	}
}

func sent(t *testing.T, h *netns.Host, dev string) (n uint64) {
	t.Helper()
	if err := h.Do(func() error {
		l, err := netlink.LinkByName(dev)
		if err == nil {
			n = l.Attrs().Statistics.TxPackets
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// A kit is no router: what one interface takes in for another network stays there, even where the sender asks for it.
func TestNothingIsForwarded(t *testing.T) {
	t.Parallel()
	a, left, right := newKit(t, "kit a"), host(t, "left"), host(t, "right")
	cable(t, a.Host, "eth0", left, "eth0")
	cable(t, a.Host, "eth1", right, "eth0")
	if err := a.Do(func() error { // as if something had switched it on before
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0), os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	}); err != nil {
		t.Fatal(err)
	}
	for h, p := range map[*netns.Host]string{left: "192.0.2.1/24", right: "198.51.100.1/24"} {
		if err := errors.Join(h.AddAddress("eth0", netip.MustParsePrefix(p)), h.Up("eth0")); err != nil {
			t.Fatal(err)
		}
	}
	a.run()
	via := one(t, a.Host, "eth0", linkLocal4, claimTime)
	if err := left.AddAddress("eth0", netip.MustParsePrefix("169.254.255.200/16")); err != nil {
		t.Fatal(err)
	}
	if err := left.DefaultRoute("eth0", via); err != nil {
		t.Fatal(err)
	}
	if err := a.Do(func() error { // even a route to there
		l, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("198.51.100.0/24")), Scope: unix.RT_SCOPE_LINK})
	}); err != nil {
		t.Fatal(err)
	}
	var to, from *net.UDPConn
	if err := errors.Join(
		right.Do(func() (err error) { to, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 7000}); return err }),
		left.Do(func() (err error) { from, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 7000}); return err }),
	); err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	defer from.Close()
	for range 3 {
		if _, err := from.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(198, 51, 100, 1), Port: 7000}); err != nil {
			t.Fatal(err)
		}
	}
	_ = to.SetReadDeadline(time.Now().Add(time.Second))
	if _, got, err := to.ReadFrom(make([]byte, 8)); err == nil {
		t.Errorf("a packet of %v came through the kit", got)
	}
	// A router's advertisement is not listened to.
	for _, name := range []string{"eth0", "eth1"} {
		var b []byte
		if err := a.Do(func() (err error) {
			b, err = os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/accept_ra")
			return err
		}); err != nil || strings.TrimSpace(string(b)) != "0" {
			t.Errorf("accept_ra of %s is %q, %v", name, b, err)
		}
	}
}

// The access point gets the kit's IPv6 address, once others brought it up, and no IPv4 address of ours.
func TestAccessPointIsIPv6Alone(t *testing.T) {
	t.Parallel()
	a, peer := newKit(t, "kit a"), host(t, "peer")
	cable(t, a.Host, "wlan0", peer, "wlan0")
	if err := errors.Join(peer.Up("wlan0"), a.AddAddress("wlan0", netip.MustParsePrefix("10.73.0.1/16"))); err != nil {
		t.Fatal(err)
	}
	a.run(childRadio + "=wlan0")
	time.Sleep(500 * time.Millisecond)
	if got := addresses(t, a.Host, "wlan0", testPrefix); got != nil {
		t.Errorf("an access point that is not up has %v", got)
	}
	if err := a.Up("wlan0"); err != nil {
		t.Fatal(err)
	}
	one(t, a.Host, "wlan0", testPrefix, 5*time.Second)
	time.Sleep(claimTime)
	if got := addresses(t, a.Host, "wlan0", netip.MustParsePrefix("0.0.0.0/0")); len(got) != 1 || got[0] != netip.MustParseAddr("10.73.0.1") {
		t.Errorf("IPv4 addresses %v", got)
	}
}
