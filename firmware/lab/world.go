//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"time"

	"fieldkit/board/simnet/netns"
)

// place is where one process of the lab runs: a host of its own, or this one under an address of
// its own.
type place struct {
	start   func(*exec.Cmd) error
	do      func(func() error) error // runs a function that makes sockets
	handset netip.Addr               // of the kit on its handsets' side; of a phone
	network netip.Prefix             // of the handsets
	link    netip.Addr               // of the kit on the side of the other kits; invalid where mDNS finds them
	port    uint16                   // of the overlay
	status  netip.AddrPort           // of the status page
}

// world is the network that the lab's kits and phones live in. There are two: network namespaces,
// each kit and phone a host of its own, and loopback addresses for machines that allow no more.
type world interface {
	// kit makes the place of kit k, 0 to n−1.
	kit(k int) (place, error)
	// phone makes the place of the i-th phone, within reach of kit k's handset network.
	phone(k, i int) (place, error)
	// describe says in one line what this world is.
	describe() string
	// condition changes loss and delay between the kits.
	condition(netns.Condition) error
	// join puts this machine itself on the first kit's handset network and returns the kit's address
	// there, for a softphone that the lab did not start.
	join() (netip.Addr, error)
	close()
}

// Network choices for Options.Net.
const (
	NetAuto       = "auto"
	NetNamespaces = "namespaces"
	NetLoopback   = "loopback"
	// NetLine is namespaces in a line: each kit shares one cable with the next and another with the one before, and
	// forwards nothing. Its cables neither lose nor delay.
	NetLine = "line"
)

var errLossNeedsNamespaces = errors.New("loss and delay between kits need network namespaces, which this machine does not allow")

func newWorld(o Options) (world, error) {
	switch o.Net {
	case NetLoopback:
		return newLoopback(o, "as asked for")
	case NetNamespaces:
		return newNamespaces(o)
	case NetLine:
		return newLine(o)
	case NetAuto, "":
		w, err := newNamespaces(o)
		if err == nil {
			return w, nil
		}
		return newLoopback(o, "network namespaces are not permitted here")
	default:
		return nil, fmt.Errorf("network %q: want %s, %s, %s or %s", o.Net, NetAuto, NetNamespaces, NetLoopback, NetLine)
	}
}

// loopback gives each kit a handset address of 127.0.0.0/8 and a port for the other kits. There is no multicast on loopback, so the
// kits are told each other's addresses instead of finding them.
type loopback struct {
	*starter
	why string // not namespaces
}

// starter starts processes from one thread for the lab's whole life: the kernel takes a process
// started from a thread that ends for one whose parent died.
type starter struct{ work chan func() }

func newStarter() *starter {
	s := &starter{work: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for f := range s.work {
			f()
		}
	}()
	return s
}

func (s *starter) start(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	s.work <- func() { result <- cmd.Start() }
	return <-result
}

func newLoopback(o Options, why string) (world, error) {
	if o.condition() != (netns.Condition{}) {
		return nil, errLossNeedsNamespaces
	}
	return &loopback{newStarter(), why}, nil
}

func here(f func() error) error { return f() }

func (l *loopback) kit(k int) (place, error) {
	handset := netip.AddrFrom4([4]byte{127, 0, 73, byte(k + 1)})
	return place{
		start:   l.start,
		do:      here,
		handset: handset,
		network: netip.PrefixFrom(netip.AddrFrom4([4]byte{127, 0, 72, 0}), 21),
		link:    netip.AddrFrom4([4]byte{127, 0, 0, 1}), // the kernel's source address for all of loopback

		port:   uint16(6084 + k),
		status: netip.AddrPortFrom(handset, 8080),
	}, nil
}

func (l *loopback) phone(_, i int) (place, error) {
	return place{
		start:   l.start,
		do:      here,
		handset: netip.AddrFrom4([4]byte{127, 0, 74 + byte(i/250), byte(i%250 + 1)}),
	}, nil
}

func (l *loopback) describe() string {
	return "loopback addresses (" + l.why + "; there is no mDNS, so the kits are told of each other)"
}

func (l *loopback) join() (netip.Addr, error) {
	at, err := l.kit(0)
	return at.handset, err
}

func (l *loopback) condition(netns.Condition) error { return errLossNeedsNamespaces }
func (l *loopback) close()                          { close(l.work) }

// namespaces gives each kit and each phone a host. The kits' eth0 meet in one switch; each kit's
// wlan0 and its phones meet in a bridge that stands for the kit's radio.
type namespaces struct {
	ether  *netns.Host
	sw     *netns.Switch // nil in a line
	hosts  []*netns.Host // the kits' first
	self   *netns.Host   // this machine, where it has a cable of its own; else nil
	cancel context.CancelFunc
	ended  chan struct{}
}

// handsetNetwork is the kit's side of the handset network, the same on every kit.
var handsetNetwork = netip.MustParsePrefix("10.73.0.1/16")

func newNamespaces(o Options) (world, error) {
	ether, err := netns.New("ether")
	if err != nil {
		return nil, err
	}
	w := &namespaces{ether: ether}
	if w.sw, err = netns.NewSwitch(ether, o.condition()); err != nil {
		w.close()
		return nil, err
	}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(context.Background())
	w.ended = make(chan struct{})
	go func() {
		defer close(w.ended)
		w.sw.Run(ctx)
	}()
	for k := range o.Kits {
		if err := w.wireKit(k); err != nil {
			w.close()
			return nil, err
		}
	}
	return w, nil
}

// wireKit makes kit k's host with eth0 in the switch and wlan0 on its air.
func (w *namespaces) wireKit(k int) error {
	h, err := w.wireAir(k)
	if err != nil {
		return err
	}
	return errors.Join(
		w.replug(k),
		h.AddAddress(linkDevice, linkAddress(k)),
		h.Up(linkDevice),
	)
}

// newLine makes kits with one cable between each and the next, each a network of its own.
func newLine(o Options) (world, error) {
	if o.condition() != (netns.Condition{}) {
		return nil, errLinePerfect
	}
	ether, err := netns.New("ether")
	if err != nil {
		return nil, err
	}
	w := &namespaces{ether: ether}
	for k := range o.Kits {
		h, err := w.wireAir(k)
		if err == nil && k > 0 { // eth1 of the kit before and eth0 of this one; the first kit has no eth0
			before := w.hosts[k-1]
			err = errors.Join(
				netns.Veth(before, lineDevice, h, linkDevice),
				before.AddAddress(lineDevice, lineAddress(k, 1)), before.Up(lineDevice),
				h.AddAddress(linkDevice, lineAddress(k, 2)), h.Up(linkDevice),
			)
		}
		if err != nil {
			w.close()
			return nil, err
		}
	}
	return w, nil
}

var errLinePerfect = errors.New("the cables of a line neither lose nor delay")

// lineDevice leads to the next kit of a line, linkDevice to the one before.
const lineDevice = "eth1"

// lineAddress is that of one end of cable k of a line.
func lineAddress(k, end int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(60 + k), byte(end)}), 24)
}

// wireAir makes kit k's host with wlan0 on its air.
func (w *namespaces) wireAir(k int) (*netns.Host, error) {
	h, err := netns.New(fmt.Sprintf("kit%d", k+1))
	if err != nil {
		return nil, err
	}
	w.hosts = append(w.hosts, h)
	air := fmt.Sprintf("ap%d", k+1)
	return h, errors.Join(
		netns.Veth(h, "wlan0", w.ether, air),
		h.AddAddress("wlan0", handsetNetwork),
		h.Up("wlan0"),
		w.ether.Bridge(fmt.Sprintf("air%d", k+1), air),
	)
}

// replug lays a cable from kit k to the switch.
func (w *namespaces) replug(k int) error {
	if w.sw == nil {
		return errors.New("the cables of a line stay where they are")
	}
	port := fmt.Sprintf("kit%d", k+1)
	return errors.Join(
		netns.Veth(w.hosts[k], linkDevice, w.ether, port),
		w.hosts[k].NoOffload(linkDevice),
		w.sw.Plug(w.ether, port),
	)
}

func (w *namespaces) host(k int) *netns.Host { return w.hosts[k] }

// linkAddress is a link-local address, as a kit gives itself on a cable (RFC 3927).
func linkAddress(k int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254, 60, byte(k + 1)}), 16)
}

func (w *namespaces) kit(k int) (place, error) {
	h := w.hosts[k]
	return place{
		start:   h.Start,
		do:      h.Do,
		handset: handsetNetwork.Addr(),
		network: handsetNetwork.Masked(),
		port:    6084,
		status:  netip.AddrPortFrom(handsetNetwork.Addr(), 80),
	}, nil
}

func (w *namespaces) phone(k, i int) (place, error) {
	h, err := netns.New(fmt.Sprintf("phone%d", i+1))
	if err != nil {
		return place{}, err
	}
	w.hosts = append(w.hosts, h)
	addr := netip.AddrFrom4([4]byte{10, 73, byte(1 + i/250), byte(i%250 + 1)})
	port := fmt.Sprintf("ph%d", i+1)
	err = errors.Join(
		netns.Veth(h, "wlan0", w.ether, port),
		h.AddAddress("wlan0", netip.PrefixFrom(addr, handsetNetwork.Bits())),
		h.Up("wlan0"),
		w.ether.Plug(fmt.Sprintf("air%d", k+1), port),
	)
	return place{start: h.Start, do: h.Do, handset: addr}, err
}

func (w *namespaces) describe() string {
	return "network namespaces (every kit and every phone is a host of its own)"
}

func (w *namespaces) condition(c netns.Condition) error {
	if w.sw == nil {
		return errLinePerfect
	}
	w.sw.SetCondition(c)
	return nil
}

func (w *namespaces) close() {
	if w.cancel != nil {
		w.cancel()
		<-w.ended
	}
	if w.self != nil {
		_ = w.self.Delete(joinDevice) // the kernel takes its time to delete it along with the other end
	}
	for _, h := range w.hosts {
		h.Close()
	}
	w.ether.Close()
}

// condition is what Options ask of the cables between the kits.
func (o Options) condition() netns.Condition {
	return netns.Condition{Loss: o.Loss / 100, Delay: o.Delay}
}

// killAfter is how long a process of the lab may take to end by itself.
const killAfter = 5 * time.Second

// joinDevice is this machine's own end of the cable to the first kit's handset network.
const joinDevice = "fieldkit0"

func (w *namespaces) join() (netip.Addr, error) {
	if os.Getenv(dirVariable) != "" || os.Geteuid() != 0 {
		return netip.Addr{}, errors.New("needs the lab to run as root, or with --net loopback")
	}
	taken, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range taken {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Overlaps(handsetNetwork) {
			return netip.Addr{}, fmt.Errorf("this machine is on %v already, which overlaps the handset network", p)
		}
	}
	self, err := netns.Current("this machine")
	if err != nil {
		return netip.Addr{}, err
	}
	w.hosts, w.self = append(w.hosts, self), self
	return handsetNetwork.Addr(), errors.Join(
		netns.Veth(w.ether, "machine", self, joinDevice),
		self.AddAddress(joinDevice, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 73, 250, 1}), handsetNetwork.Bits())),
		self.Up(joinDevice),
		w.ether.Plug("air1", "machine"),
	)
}
