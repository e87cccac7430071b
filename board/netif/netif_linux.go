package netif

import (
	"context"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// list asks the kernel, and the net package where netlink is refused.
func list() ([]Interface, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return listPortable()
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return listPortable()
	}
	byIndex := map[int]*Interface{}
	out := make([]Interface, 0, len(links))
	for _, l := range links {
		a := l.Attrs()
		out = append(out, Interface{
			Name: a.Name, Index: a.Index, MAC: a.HardwareAddr, MTU: a.MTU,
			Up: a.Flags&net.FlagUp != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0,
			Multicast: a.Flags&net.FlagMulticast != 0, Loopback: a.Flags&net.FlagLoopback != 0,
		})
		byIndex[a.Index] = &out[len(out)-1]
	}
	for _, a := range addrs {
		i := byIndex[a.LinkIndex]
		if i == nil || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue // nothing can be bound to it yet; its completion is a change of its own
		}
		if p, ok := toPrefix(a.IPNet); ok {
			i.Addrs = append(i.Addrs, p)
		}
	}
	return out, nil
}

// subscribe asks netlink for changes of links and addresses.
func subscribe(ctx context.Context) (<-chan struct{}, error) {
	done := make(chan struct{})
	links, addrs := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	quiet := func(error) {} // the channel is closed then, which says the same
	err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: quiet})
	if err == nil {
		err = netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: quiet})
	} else {
		close(addrs)
	}
	if err != nil {
		close(done)
		return nil, fmt.Errorf("%w: %w", errUnsupported, err)
	}
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		// The library's receivers block on sending: they are drained to the
		// end, else they and their sockets would stay for ever.
		defer func() {
			close(done)
			go func() {
				for range links {
				}
			}()
			for range addrs {
			}
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case _, ok := <-links:
				if !ok {
					return
				}
			case _, ok := <-addrs:
				if !ok {
					return
				}
			}
			select {
			case out <- struct{}{}:
			default: // a change is pending already
			}
		}
	}()
	return out, nil
}
