package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	nl "github.com/mdlayher/netlink"
	"github.com/mdlayher/wifi"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Linux is the System of a board.
type Linux struct{}

// sysfs is where the kernel shows its devices.
const sysfs = "/sys"

// Radios lists the Wi-Fi devices. A kernel without Wi-Fi is an error, one without a device is not.
func (Linux) Radios() ([]Radio, error) {
	c, err := wifi.New()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the kernel has no Wi-Fi driver loaded")
	}
	if err != nil {
		return nil, fmt.Errorf("nl80211: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, fmt.Errorf("nl80211: %w", err)
	}
	phys, err := c.PHYs()
	if err != nil {
		return nil, fmt.Errorf("list of radios: %w", err)
	}
	interfaces, err := c.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list of radios' interfaces: %w", err)
	}
	radios := radiosOf(phys, interfaces)
	for i := range radios {
		radios[i].readDevice(sysfs)
	}
	return radios, nil
}

// maxRadios bounds the list.
const maxRadios = 16

// radiosOf makes Radios of what nl80211 tells.
func radiosOf(phys []*wifi.PHY, interfaces []*wifi.Interface) []Radio {
	var out []Radio
	for _, p := range phys[:min(len(phys), maxRadios)] {
		r := Radio{
			PHY: p.Index, AP: slices.Contains(p.SupportedIftypes, wifi.InterfaceTypeAP), Channels: channelsOf(p),
			Combinations: combinationsOf(p), MaxStations: maxStationsOf(p),
		}
		_, r.Firmware = p.Extra[unix.NL80211_ATTR_DEVICE_AP_SME]
		for _, b := range p.BandAttributes[:min(len(p.BandAttributes), 1)] { // 2.4 GHz
			if b.HTCapabilities != nil {
				r.HT, r.ShortGI = true, b.HTCapabilities.SGI20
			}
		}
		r.Addresses, r.AddressMask = addressesOf(p)
		first := -1
		for _, i := range interfaces {
			// Of several, the first is the one that the driver made.
			if i.PHY == p.Index && i.Name != "" && i.Name != secondNetwork && (first < 0 || i.Index < first) {
				first, r.Interface, r.MAC = i.Index, i.Name, i.HardwareAddr
			}
		}
		out = append(out, r)
	}
	return out
}

func channelsOf(p *wifi.PHY) (out []Channel) {
	for _, b := range p.BandAttributes {
		for _, f := range b.FrequencyAttributes {
			if n := channelNumber(f.Frequency); n != 0 {
				out = append(out, Channel{Number: n, Frequency: f.Frequency, Disabled: f.Disabled, Passive: f.NoIR, Radar: f.RadarDetection})
			}
		}
	}
	return out
}

// channelNumber is the number of a channel in the bands of 2.4 and 5 GHz, IEEE 802.11-2020 §15.4.4.3 and §17.3.8.4.2;
// 0 where it has none that hostapd's modes "g" and "a" know.
func channelNumber(mhz int) int {
	switch {
	case mhz == 2484:
		return 14
	case mhz >= 2412 && mhz <= 2472:
		return (mhz - 2407) / 5
	case mhz >= 5180 && mhz <= 5885:
		return (mhz - 5000) / 5
	}
	return 0
}

func combinationsOf(p *wifi.PHY) (out []Combination) {
	for _, c := range p.InterfaceCombinations {
		n := Combination{Total: c.Total, Channels: c.NumChannels}
		for _, l := range c.CombinationLimits {
			n.Limits = append(n.Limits, Limit{
				Max:     l.Max,
				AP:      slices.Contains(l.InterfaceTypes, wifi.InterfaceTypeAP),
				Station: slices.Contains(l.InterfaceTypes, wifi.InterfaceTypeStation),
			})
		}
		out = append(out, n)
	}
	return out
}

func maxStationsOf(p *wifi.PHY) int {
	b := p.Extra[unix.NL80211_ATTR_MAX_AP_ASSOC_STA]
	switch len(b) {
	case 2:
		return int(native16(b))
	case 4:
		return int(min(native32(b), maxAssociations))
	}
	return 0
}

func addressesOf(p *wifi.PHY) (addresses []net.HardwareAddr, mask net.HardwareAddr) {
	if m := p.Extra[unix.NL80211_ATTR_MAC_MASK]; len(m) == 6 {
		mask = slices.Clone(m)
	}
	// Nested, and marked as that or not: the address is the value of each element.
	list := p.Extra[unix.NL80211_ATTR_MAC_ADDRS]
	if list == nil {
		list = p.Extra[unix.NL80211_ATTR_MAC_ADDRS|nl.Nested]
	}
	for _, a := range nested(list) {
		if len(a.Data) == 6 && len(addresses) < maxRadios {
			addresses = append(addresses, slices.Clone(a.Data))
		}
	}
	return addresses, mask
}

// readDevice fills in what sysfs tells and nl80211 does not.
func (r *Radio) readDevice(sys string) {
	name := func(path string) string {
		target, err := os.Readlink(path)
		if err != nil {
			return ""
		}
		return filepath.Base(target)
	}
	phy := filepath.Join(sys, "class/ieee80211", "phy"+strconv.Itoa(r.PHY))
	if r.Interface != "" {
		if p := filepath.Join(sys, "class/net", r.Interface, "phy80211"); name(p) != "" {
			phy = p // which it is called differently where somebody renamed it
		}
	}
	device := filepath.Join(phy, "device")
	r.Driver = name(filepath.Join(device, "driver"))
	r.BuiltIn = name(filepath.Join(device, "subsystem")) != "usb"
	r.Chip = readLine(filepath.Join(device, "device"))
	switches, err := filepath.Glob(filepath.Join(phy, "rfkill*"))
	if err != nil {
		return
	}
	for _, s := range switches {
		switch {
		case readLine(filepath.Join(s, "hard")) == "1":
			r.Switch = HardOff
		case readLine(filepath.Join(s, "soft")) == "1" && r.Switch == On:
			r.Switch = SoftOff
		}
	}
}

// readLine is the first line of a small file, "" where there is none.
func readLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line[:min(len(line), 64)])
}

// SwitchOn writes the radio's software switch.
func (Linux) SwitchOn(phy int) error {
	switches, err := filepath.Glob(filepath.Join(sysfs, "class/ieee80211", "phy"+strconv.Itoa(phy), "rfkill*", "soft"))
	if err != nil {
		return err
	}
	for _, s := range switches {
		if err := os.WriteFile(s, []byte("0"), 0); err != nil {
			return err
		}
	}
	return nil
}

// regulatoryWait is how long the kernel may take to look a country up.
const regulatoryWait = time.Second

// SetCountry asks for the rules of a country and waits until they hold. They do not where the regulatory database
// does not know the country, or another country was asked for by what the kernel trusts more.
func (Linux) SetCountry(ctx context.Context, code string) error {
	c, err := wifi.New()
	if err != nil {
		return fmt.Errorf("nl80211: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return fmt.Errorf("nl80211: %w", err)
	}
	inForce := func() bool {
		d, err := c.GetRegulatoryDomain()
		return err == nil && d.Region == code
	}
	if inForce() {
		return nil
	}
	if err := c.SetRegulatoryRegion(code, wifi.RegulatoryHintUser); err != nil {
		return fmt.Errorf("regulatory hint: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, regulatoryWait)
	defer cancel()
	for !inForce() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("country %s not in force: the regulatory database does not know it, or is not there", code)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// bridgeMAC makes a MAC address of the kit's address: the same at every kit, as the address is, so that a handset that
// roams finds the gateway it knows. The local bit is set (IEEE 802-2014 §8.2.2).
func bridgeMAC(a netip.Addr) net.HardwareAddr {
	b := a.Unmap().AsSlice()
	b = b[max(0, len(b)-4):]
	return net.HardwareAddr{0x02, 0x00, b[0], b[1], b[2], b[3]}
}

// MakeBridge makes the bridge and gives it the address.
func (Linux) MakeBridge(name string, address netip.Prefix) error {
	off := false
	bridge := &netlink.Bridge{
		LinkAttrs:         netlink.LinkAttrs{Name: name, HardwareAddr: bridgeMAC(address.Addr())},
		MulticastSnooping: &off, // nobody asks about groups there; what is for all of them goes to all
	}
	if err := netlink.LinkAdd(bridge); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("bridge %s: an interface of that name is a %s", name, link.Type())
	}
	// Its own address does not follow those of its ports.
	if err := netlink.LinkSetHardwareAddr(link, bridge.HardwareAddr); err != nil {
		return fmt.Errorf("bridge %s: MAC address: %w", name, err)
	}
	want := &netlink.Addr{IPNet: &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), address.Addr().BitLen())}}
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("bridge %s: addresses: %w", name, err)
	}
	for _, a := range have {
		if !a.IP.Equal(want.IP) {
			if err := netlink.AddrDel(link, &a); err != nil {
				return fmt.Errorf("bridge %s: address %v: %w", name, a.IPNet, err)
			}
		}
	}
	if err := netlink.AddrReplace(link, want); err != nil {
		return fmt.Errorf("bridge %s: address %v: %w", name, address, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	return nil
}

// AddPort makes an interface a port of the bridge.
func (Linux) AddPort(bridge, iface string) error {
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", bridge, err)
	}
	port, err := netlink.LinkByName(iface)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return fmt.Errorf("interface %s: %w", iface, fs.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", iface, err)
	}
	// A port has no addresses: nothing may take it for a link to other kits.
	if err := disableIPv6(iface); err != nil {
		return err
	}
	addrs, err := netlink.AddrList(port, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("interface %s: addresses: %w", iface, err)
	}
	for _, a := range addrs {
		if err := netlink.AddrDel(port, &a); err != nil {
			return fmt.Errorf("interface %s: address %v: %w", iface, a.IPNet, err)
		}
	}
	if port.Attrs().MasterIndex != master.Attrs().Index {
		if err := netlink.LinkSetMaster(port, master); err != nil {
			return fmt.Errorf("interface %s into %s: %w", iface, bridge, err)
		}
	}
	if err := netlink.LinkSetIsolated(port, true); err != nil {
		return fmt.Errorf("interface %s: isolation from other ports: %w", iface, err)
	}
	if err := netlink.LinkSetUp(port); err != nil {
		return fmt.Errorf("interface %s: %w", iface, err)
	}
	return nil
}

func disableIPv6(iface string) error {
	if iface != filepath.Base(iface) {
		return fmt.Errorf("interface %q: %w", iface, fs.ErrInvalid)
	}
	path := filepath.Join("/proc/sys/net/ipv6/conf", iface, "disable_ipv6")
	if err := os.WriteFile(path, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) { // or a kernel without IPv6
		return fmt.Errorf("interface %s: IPv6: %w", iface, err)
	}
	return nil
}
