//go:build linux

// Package netns makes several hosts out of one machine: network namespaces joined by virtual
// cables, in which functions and processes run. The lab and the network tests stand on it.
//
// A Host keeps no name in the file system: it vanishes with the process that made it, however that
// process ends, and takes its cables and the processes started in it along. Making hosts needs
// CAP_SYS_ADMIN and CAP_NET_ADMIN, which an ordinary user has inside a user namespace (see Wrap).
package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is one network namespace. Its methods may be called from any goroutine; they run one after
// another on the operating-system thread that holds the namespace.
type Host struct {
	name string
	fd   int
	work chan func()
	done chan struct{}
	once sync.Once
}

// ErrClosed is returned by the methods of a Host that was closed.
var ErrClosed = errors.New("network namespace closed")

// New makes a host whose loopback interface is up.
func New(name string) (*Host, error) {
	h := &Host{name: name, work: make(chan func()), done: make(chan struct{})}
	ready := make(chan error)
	go h.hold(ready, true)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", name, err)
	}
	if err := h.Up("lo"); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// Current is the namespace that this process is in, to lay a cable to it. Interfaces made in it stay
// until the far end of their cable goes.
func Current(name string) (*Host, error) {
	h := &Host{name: name, work: make(chan func()), done: make(chan struct{})}
	ready := make(chan error)
	go h.hold(ready, false)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", name, err)
	}
	return h, nil
}

// hold owns the thread. The thread is never unlocked, so it ends with the goroutine: that is what
// delivers the parent-death signal to the processes started in the namespace.
func (h *Host) hold(ready chan<- error, fresh bool) {
	runtime.LockOSThread()
	if fresh {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ready <- fmt.Errorf("unshare: %w", err)
			return
		}
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		ready <- fmt.Errorf("namespace handle: %w", err)
		return
	}
	h.fd = fd
	defer unix.Close(fd)
	ready <- nil
	for {
		select {
		case f := <-h.work:
			f()
		case <-h.done:
			return
		}
	}
}

// Name is the name given to New.
func (h *Host) Name() string { return h.name }

// Do runs f inside the namespace and returns its error. Sockets that f opens stay in the namespace;
// goroutines that f starts do not run there.
func (h *Host) Do(f func() error) error {
	result := make(chan error, 1)
	select {
	case h.work <- func() { result <- f() }:
		return <-result
	case <-h.done:
		return ErrClosed
	}
}

// Start starts cmd inside the namespace. The process is killed when the host is closed or this
// process ends.
func (h *Host) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return h.Do(cmd.Start)
}

// Close ends the host. It may be called more than once.
func (h *Host) Close() { h.once.Do(func() { close(h.done) }) }

// Veth lays a virtual cable from interface aName of a to interface bName of b; both ends are down.
func Veth(a *Host, aName string, b *Host, bName string) error {
	err := a.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = aName
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(b.fd)})
	})
	if err != nil {
		return fmt.Errorf("cable %s/%s to %s/%s: %w", a.name, aName, b.name, bName, err)
	}
	return nil
}

// Bridge makes a bridge that is up, with the named interfaces as its ports, which it brings up too.
func (h *Host) Bridge(name string, ports ...string) error {
	err := h.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		// Without snooping, multicast reaches every port at once, as on an unmanaged switch.
		snooping := false
		br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
		if err := netlink.LinkAdd(br); err != nil {
			return err
		}
		return netlink.LinkSetUp(br)
	})
	if err != nil {
		return fmt.Errorf("bridge %s/%s: %w", h.name, name, err)
	}
	for _, p := range ports {
		if err := h.Plug(name, p); err != nil {
			return err
		}
	}
	return nil
}

// Plug makes port a port of bridge and brings it up.
func (h *Host) Plug(bridge, port string) error {
	return h.link(port, func(l netlink.Link) error {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(l, br); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
}

// Up and Down change an interface's administrative state.
func (h *Host) Up(dev string) error { return h.link(dev, netlink.LinkSetUp) }

// Down is the opposite of Up.
func (h *Host) Down(dev string) error { return h.link(dev, netlink.LinkSetDown) }

// Delete removes an interface, and with one end of a cable the other.
func (h *Host) Delete(dev string) error { return h.link(dev, netlink.LinkDel) }

// AddAddress gives dev an address; the interface need not be up.
func (h *Host) AddAddress(dev string, p netip.Prefix) error {
	return h.link(dev, func(l netlink.Link) error { return netlink.AddrAdd(l, addr(p)) })
}

// DeleteAddress takes an address away.
func (h *Host) DeleteAddress(dev string, p netip.Prefix) error {
	return h.link(dev, func(l netlink.Link) error { return netlink.AddrDel(l, addr(p)) })
}

// DefaultRoute sends what has no better route out of dev to gateway.
func (h *Host) DefaultRoute(dev string, gateway netip.Addr) error {
	return h.link(dev, func(l netlink.Link) error {
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gateway.AsSlice()})
	})
}

// NoOffload makes the kernel finish checksums and segments before frames leave dev, as they must be
// for a reader of raw frames at the other end of the cable.
func (h *Host) NoOffload(dev string) error {
	err := h.Do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		return e.Change(dev, map[string]bool{
			"tx-checksum-ip-generic": false, "tx-generic-segmentation": false, "tx-tcp-segmentation": false, "tx-udp-segmentation": false,
		})
	})
	if err != nil {
		return fmt.Errorf("offloads of %s/%s: %w", h.name, dev, err)
	}
	return nil
}

func (h *Host) link(dev string, f func(netlink.Link) error) error {
	err := h.Do(func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		return f(l)
	})
	if err != nil {
		return fmt.Errorf("interface %s/%s: %w", h.name, dev, err)
	}
	return nil
}

func addr(p netip.Prefix) *netlink.Addr {
	a, err := netlink.ParseAddr(p.String())
	if err != nil {
		panic(fmt.Sprintf("netns: prefix %v: %v", p, err)) // every netip.Prefix has a form that net reads
	}
	return a
}

// Supported reports why hosts cannot be made here, or nil.
func Supported() error {
	h, err := New("probe")
	if err != nil {
		return err
	}
	h.Close()
	return nil
}

// Wrap prepares cmd to run as root of a new user namespace with a network of its own, where an
// ordinary user may make hosts.
func Wrap(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
}
