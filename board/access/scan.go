package access

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mdlayher/genetlink"
	nl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bounds of a scan.
const (
	maxHeard = 256 // access points; further ones are left out
	maxAge   = 10 * time.Second
)

func native16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }
func native32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

// nested reads attributes inside an attribute, none where they are broken. What their type says of their contents is
// left out of it.
func nested(b []byte) []nl.Attribute {
	list, err := nl.UnmarshalAttributes(b)
	if err != nil {
		return nil
	}
	for i := range list {
		list[i].Type &^= nl.Nested | nl.NetByteOrder
	}
	return list
}

// Scan asks the kernel for a scan and waits for its end. The interface is switched on for it.
func (Linux) Scan(ctx context.Context, iface string, frequencies []int) ([]Heard, error) {
	link, err := netlink.LinkByName(iface)
	if err != nil {
		return nil, fmt.Errorf("scan: interface %s: %w", iface, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("scan: interface %s: %w", iface, err)
	}
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("scan: %w", err)
	}
	defer conn.Close()
	// The library knows no context.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	family, err := conn.GetFamily(unix.NL80211_GENL_NAME)
	if err != nil {
		return nil, fmt.Errorf("scan: nl80211: %w", err)
	}
	index := uint32(link.Attrs().Index)
	if err := trigger(ctx, conn, family, index, frequencies); err != nil {
		return nil, fmt.Errorf("scan with %s: %w", iface, errors.Join(err, ctx.Err()))
	}
	heard, err := results(conn, family, index)
	if err != nil {
		return nil, fmt.Errorf("results of the scan with %s: %w", iface, errors.Join(err, ctx.Err()))
	}
	return heard, nil
}

// trigger starts a scan and waits until it is over. Its end is told to all; its results are asked for afterwards.
func trigger(ctx context.Context, conn *genetlink.Conn, family genetlink.Family, index uint32, frequencies []int) error {
	told, err := genetlink.Dial(nil)
	if err != nil {
		return err
	}
	defer told.Close()
	stop := context.AfterFunc(ctx, func() { _ = told.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for _, g := range family.Groups {
		if g.Name == unix.NL80211_MULTICAST_GROUP_SCAN {
			if err := told.JoinGroup(g.ID); err != nil {
				return err
			}
		}
	}
	e := nl.NewAttributeEncoder()
	e.Uint32(unix.NL80211_ATTR_IFINDEX, index)
	e.Nested(unix.NL80211_ATTR_SCAN_SSIDS, func(e *nl.AttributeEncoder) error {
		e.Bytes(1, nil) // any name: ask instead of waiting for beacons
		return nil
	})
	if len(frequencies) > 0 {
		e.Nested(unix.NL80211_ATTR_SCAN_FREQUENCIES, func(e *nl.AttributeEncoder) error {
			for i, f := range frequencies {
				e.Uint32(uint16(i), uint32(f))
			}
			return nil
		})
	}
	data, err := e.Encode()
	if err != nil {
		return err
	}
	request := genetlink.Message{
		Header: genetlink.Header{Command: unix.NL80211_CMD_TRIGGER_SCAN, Version: family.Version},
		Data:   data,
	}
	if _, err := conn.Execute(request, family.ID, nl.Request|nl.Acknowledge); err != nil {
		return err
	}
	for {
		messages, _, err := told.Receive()
		if err != nil {
			return err
		}
		for _, m := range messages {
			if ours(m.Data, index) {
				switch m.Header.Command {
				case unix.NL80211_CMD_NEW_SCAN_RESULTS:
					return nil
				case unix.NL80211_CMD_SCAN_ABORTED:
					return errors.New("aborted")
				}
			}
		}
	}
}

func ours(b []byte, index uint32) bool {
	for _, a := range nested(b) {
		if a.Type == unix.NL80211_ATTR_IFINDEX && len(a.Data) == 4 {
			return native32(a.Data) == index
		}
	}
	return false
}

func results(conn *genetlink.Conn, family genetlink.Family, index uint32) ([]Heard, error) {
	e := nl.NewAttributeEncoder()
	e.Uint32(unix.NL80211_ATTR_IFINDEX, index)
	data, err := e.Encode()
	if err != nil {
		return nil, err
	}
	request := genetlink.Message{
		Header: genetlink.Header{Command: unix.NL80211_CMD_GET_SCAN, Version: family.Version},
		Data:   data,
	}
	messages, err := conn.Execute(request, family.ID, nl.Request|nl.Dump)
	if err != nil {
		return nil, err
	}
	var out []Heard
	for _, m := range messages {
		for _, a := range nested(m.Data) {
			if a.Type != unix.NL80211_ATTR_BSS || len(out) == maxHeard {
				continue
			}
			if h, ok := heardOf(nested(a.Data)); ok {
				out = append(out, h)
			}
		}
	}
	return out, nil
}

// heardOf reads one access point of a scan. Its elements are a stranger's.
func heardOf(attributes []nl.Attribute) (Heard, bool) {
	var h Heard
	var age time.Duration
	for _, a := range attributes {
		switch {
		case a.Type == unix.NL80211_BSS_BSSID && len(a.Data) == 6:
			h.BSSID = net.HardwareAddr(a.Data).String()
		case a.Type == unix.NL80211_BSS_FREQUENCY && len(a.Data) == 4:
			h.Frequency = int(native32(a.Data))
		case a.Type == unix.NL80211_BSS_SIGNAL_MBM && len(a.Data) == 4:
			h.Signal = int(int32(native32(a.Data))) / 100
		case a.Type == unix.NL80211_BSS_SEEN_MS_AGO && len(a.Data) == 4:
			age = time.Duration(native32(a.Data)) * time.Millisecond
		case a.Type == unix.NL80211_BSS_INFORMATION_ELEMENTS:
			h.SSID = ssidOf(a.Data)
			if e, err := Parse(a.Data); err == nil {
				h.Element = &e
			}
		}
	}
	return h, h.BSSID != "" && h.Frequency != 0 && age <= maxAge
}

// ssidOf finds the network's name among information elements (IEEE 802.11-2020 §9.4.2.2); "" is none.
func ssidOf(b []byte) string {
	const ssid = 0
	for len(b) >= elementHeader && len(b) >= elementHeader+int(b[1]) {
		id, body := b[0], b[elementHeader:elementHeader+int(b[1])]
		if id == ssid && len(body) <= 32 {
			return string(body)
		}
		b = b[elementHeader+len(body):]
	}
	return ""
}
