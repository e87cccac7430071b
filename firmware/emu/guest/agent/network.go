//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/genetlink"
	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"

	"golang.org/x/sys/unix"

	"fieldkit/firmware/emu/guest"
)

// movePhy moves the radio of a network interface, with the interface, into the namespace that the file holds.
func movePhy(args []string) error {
	if len(args) != 2 {
		return errors.New("an interface and a file")
	}
	index, err := os.ReadFile(filepath.Join("/sys/class/net", args[0], "phy80211/index"))
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(index)), 10, 32)
	if err != nil {
		return err
	}
	f, err := os.Open(args[1])
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := genetlink.Dial(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	family, err := c.GetFamily(unix.NL80211_GENL_NAME)
	if err != nil {
		return err
	}
	e := mdnetlink.NewAttributeEncoder()
	e.Uint32(unix.NL80211_ATTR_WIPHY, uint32(n))
	e.Uint32(unix.NL80211_ATTR_NETNS_FD, uint32(f.Fd()))
	b, err := e.Encode()
	if err != nil {
		return err
	}
	_, err = c.Execute(genetlink.Message{Header: genetlink.Header{Command: unix.NL80211_CMD_SET_WIPHY_NETNS}, Data: b}, family.ID, mdnetlink.Request|mdnetlink.Acknowledge)
	return err
}

// bringUp sets interfaces up.
func bringUp(names []string) error {
	for _, name := range names {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// wire puts a handset on a cable: a pair of interfaces, of which one end is the port of a bridge, and the other is in the
// namespace that the file holds, under the name given.
func wire(args []string) error {
	if len(args) != 3 {
		return errors.New("a bridge, a file and a name")
	}
	bridge, err := netlink.LinkByName(args[0])
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	f, err := os.Open(args[1])
	if err != nil {
		return err
	}
	defer f.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex, attrs.Flags = "port-"+args[2], bridge.Attrs().Index, net.FlagUp
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: args[2], PeerNamespace: netlink.NsFd(f.Fd())})
}

// wpa gives a command to wpa_supplicant by its control socket and prints the answer.
func wpa(args []string) error {
	if len(args) < 2 {
		return errors.New("a socket and a command")
	}
	own := fmt.Sprintf("/tmp/wpa-%d", os.Getpid())
	defer os.Remove(own)
	c, err := net.DialUnix("unixgram", &net.UnixAddr{Name: own, Net: "unixgram"}, &net.UnixAddr{Name: args[0], Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte(strings.Join(args[1:], " "))); err != nil {
		return err
	}
	b := make([]byte, 8192)
	n, err := c.Read(b)
	if err != nil {
		return err
	}
	fmt.Println(strings.TrimSpace(string(b[:n])))
	return nil
}

// lease gets an address for an interface as a phone does, gives the interface the address, and prints the lease. With
// -again it asks to keep the address it had on another access point of the same network: INIT-REBOOT, RFC 2131 §3.2.
func lease(args []string) error {
	f := flag.NewFlagSet("dhcp", flag.ContinueOnError)
	again := f.String("again", "", "address to keep")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errors.New("one interface")
	}
	name := f.Arg(0)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	c, err := nclient4.New(name, nclient4.WithTimeout(4*time.Second), nclient4.WithRetry(5))
	if err != nil {
		return err
	}
	defer c.Close()
	ask := dhcpv4.WithRequestedOptions(dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionHostName,
		dhcpv4.OptionDomainName, dhcpv4.OptionNTPServers, dhcpv4.OptionSIPServers, dhcpv4.GenericOptionCode(114))
	var got *dhcpv4.DHCPv4
	if *again == "" {
		l, err := c.Request(ctx, ask)
		if err != nil {
			return err
		}
		got = l.ACK
	} else {
		link, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		request, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithHwAddr(link.HardwareAddr),
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(*again))), ask)
		if err != nil {
			return err
		}
		if got, err = c.SendAndRead(ctx, nclient4.DefaultServers, request, nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak)); err != nil {
			return err
		}
		if got.MessageType() != dhcpv4.MessageTypeAck {
			return fmt.Errorf("address %s: refused: %s", *again, got.Message())
		}
	}
	if err := configure(name, got); err != nil {
		return err
	}
	r := guest.Lease{Address: got.YourIPAddr.String(), Mask: net.IP(got.SubnetMask()).String(), Seconds: got.IPAddressLeaseTime(0).Seconds(), Options: map[int][]byte{}}
	for code, value := range got.Options {
		r.Options[int(code)] = value
	}
	return print(r)
}

// configure gives the interface what the lease says.
func configure(name string, l *dhcpv4.DHCPv4) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: &net.IPNet{IP: l.YourIPAddr, Mask: l.SubnetMask()}}); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	routers := l.Router()
	if len(routers) == 0 {
		return errors.New("the lease names no router")
	}
	everywhere := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	return netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: everywhere, Gw: routers[0]})
}
