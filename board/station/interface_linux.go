package station

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/mdlayher/genetlink"
	nl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addInterface gives a radio a second interface that is a station. One that an earlier run left is taken away first.
func addInterface(phy int, name string) error {
	if err := removeInterface(name); err != nil {
		return err
	}
	err := command(unix.NL80211_CMD_NEW_INTERFACE, func(e *nl.AttributeEncoder) {
		e.Uint32(unix.NL80211_ATTR_WIPHY, uint32(phy))
		e.String(unix.NL80211_ATTR_IFNAME, name)
		e.Uint32(unix.NL80211_ATTR_IFTYPE, unix.NL80211_IFTYPE_STATION)
	})
	if err != nil {
		return fmt.Errorf("interface %s of radio %d: %w", name, phy, err)
	}
	return nil
}

// removeInterface takes it away; it need not be there.
func removeInterface(name string) error {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil //nolint:nilerr // it is not there
	}
	err = command(unix.NL80211_CMD_DEL_INTERFACE, func(e *nl.AttributeEncoder) {
		e.Uint32(unix.NL80211_ATTR_IFINDEX, uint32(i.Index))
	})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return nil
}

func command(what uint8, attributes func(*nl.AttributeEncoder)) error {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	family, err := conn.GetFamily(unix.NL80211_GENL_NAME)
	if err != nil {
		return fmt.Errorf("nl80211: %w", err)
	}
	e := nl.NewAttributeEncoder()
	attributes(e)
	data, err := e.Encode()
	if err != nil {
		return err
	}
	m := genetlink.Message{Header: genetlink.Header{Command: what, Version: family.Version}, Data: data}
	_, err = conn.Execute(m, family.ID, nl.Request|nl.Acknowledge)
	return err
}

// setUp switches an interface on. Where it was made here (own) and another one of the radio has its MAC address, as on
// radios that have but one or two of their own, it gets a locally administered one (IEEE 802-2014 §8.2.2).
func setUp(name string, own bool) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	for i := byte(1); i < localAddresses && own && errors.Is(err, unix.ENOTUNIQ); i++ {
		mac := slices.Clone(l.Attrs().HardwareAddr)
		mac[0] = (mac[0] | 2) ^ i<<2
		if err = netlink.LinkSetHardwareAddr(l, mac); err == nil {
			err = netlink.LinkSetUp(l)
		}
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return nil
}

// localAddresses is how many MAC addresses are tried: more than a radio carries interfaces.
const localAddresses = 16
