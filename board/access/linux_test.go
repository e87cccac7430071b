package access

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	nl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fieldkit/board/simnet/netns"
)

func namespace(t *testing.T, name string) *netns.Host {
	t.Helper()
	if err := netns.Supported(); err != nil {
		if os.Getenv("FIELDKIT_CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	h, err := netns.New(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// reach dials TCP from a host and reports whether somebody is there, who refuses.
func reach(t *testing.T, from *netns.Host, to string) bool {
	t.Helper()
	var refused bool
	if err := from.Do(func() error {
		// In this thread's network namespace, so without a goroutine of its own.
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		wait := syscall.Timeval{Usec: 400_000}
		if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &wait); err != nil {
			return err
		}
		err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: 9, Addr: netip.MustParseAddr(to).As4()})
		refused = errors.Is(err, syscall.ECONNREFUSED)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return refused
}

// The bridge has the kit's address whatever comes and goes on it; a handset reaches the kit, and no other handset.
func TestHandsetNetwork(t *testing.T) {
	kit, one, two := namespace(t, "kit"), namespace(t, "one"), namespace(t, "two")
	address := netip.MustParsePrefix("10.73.0.1/16")
	if err := errors.Join(
		netns.Veth(kit, "port1", one, "e0"), netns.Veth(kit, "port2", two, "e0"),
		one.Up("e0"), two.Up("e0"), kit.Up("port1"),
		one.AddAddress("e0", netip.MustParsePrefix("10.73.5.1/16")), two.AddAddress("e0", netip.MustParsePrefix("10.73.5.2/16")),
		kit.AddAddress("port1", netip.MustParsePrefix("192.0.2.1/24")), // of its time as a link
	); err != nil {
		t.Fatal(err)
	}
	for range 2 { // once more changes nothing
		if err := kit.Do(func() error {
			return errors.Join(Linux{}.MakeBridge(Bridge, address), Linux{}.AddPort(Bridge, "port1"), Linux{}.AddPort(Bridge, "port2"))
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range []*netns.Host{one, two} {
		// Carriers and the bridge's ports come up when the kernel gets to it.
		for end := time.Now().Add(10 * time.Second); !reach(t, h, "10.73.0.1"); {
			if time.Now().After(end) {
				t.Fatalf("handset %s does not reach the kit", h.Name())
			}
		}
	}
	if reach(t, one, "10.73.5.2") || reach(t, two, "10.73.5.1") {
		t.Error("a handset reaches another")
	}
	if err := kit.Do(func() error {
		for _, name := range []string{"port1", "port2"} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if a, err := netlink.AddrList(l, netlink.FAMILY_ALL); err != nil || len(a) != 0 {
				return fmt.Errorf("%s has addresses: %v, %w", name, a, err)
			}
		}
		l, err := netlink.LinkByName(Bridge)
		if err != nil {
			return err
		}
		if l.Attrs().HardwareAddr.String() != "02:00:0a:49:00:01" {
			return fmt.Errorf("the bridge is %v", l.Attrs().HardwareAddr)
		}
		a, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if err != nil || len(a) != 1 || a[0].IPNet.String() != address.String() {
			return fmt.Errorf("addresses %v, %w", a, err)
		}
		// A port that goes takes nothing along; another address comes in the place of the first.
		if err := netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port1"}}); err != nil {
			return err
		}
		if err := (Linux{}).AddPort(Bridge, "port1"); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("a port that is not there: %w", err)
		}
		if err := (Linux{}).MakeBridge(Bridge, netip.MustParsePrefix("10.74.0.1/16")); err != nil {
			return err
		}
		if a, err = netlink.AddrList(l, netlink.FAMILY_V4); err != nil || len(a) != 1 || a[0].IPNet.String() != "10.74.0.1/16" {
			return fmt.Errorf("addresses %v, %w", a, err)
		}
		// What is no bridge is left as it is.
		if err := (Linux{}).MakeBridge("port2", address); err == nil {
			return errors.New("a cable became a bridge")
		}
		if err := (Linux{}).AddPort(Bridge, "../../etc"); err == nil {
			return errors.New("a path became a port")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// The same gateway at every kit, for a handset that roams: the MAC address follows from the IP address alone.
func TestBridgeAddress(t *testing.T) {
	for in, want := range map[string]string{"10.73.0.1": "02:00:0a:49:00:01", "::ffff:10.73.0.1": "02:00:0a:49:00:01", "fd00::1:2:3:4": "02:00:00:03:00:04"} {
		if got := bridgeMAC(netip.MustParseAddr(in)); got.String() != want || got[0]&1 != 0 {
			t.Errorf("%s: %v", in, got)
		}
	}
}

func TestChannelNumbers(t *testing.T) {
	for mhz, want := range map[int]int{2412: 1, 2437: 6, 2472: 13, 2484: 14, 5180: 36, 5745: 149, 5885: 177, 5955: 0, 2400: 0, 0: 0, -5: 0, 60480: 0} {
		if got := channelNumber(mhz); got != want {
			t.Errorf("%d MHz: channel %d, want %d", mhz, got, want)
		}
	}
}

// On a machine whose kernel has no Wi-Fi all of it is an error or nothing, soon.
func TestWithoutWiFi(t *testing.T) {
	if _, err := os.Stat("/sys/class/ieee80211"); err == nil {
		t.Skip("this machine has Wi-Fi, which the test leaves alone")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if r, err := (Linux{}).Radios(); len(r) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := (Linux{}).SetCountry(ctx, "DE"); err == nil {
		t.Error("a country is in force")
	}
	if err := namespace(t, "no radio").Do(func() error {
		for _, name := range []string{"lo", "nowhere0"} {
			if h, err := (Linux{}).Scan(ctx, name, []int{2412}); err == nil {
				return fmt.Errorf("%s heard %+v", name, h)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

type attribute struct {
	kind uint16
	data []byte
}

type attributes []attribute

func (l attributes) list() (out []nl.Attribute) {
	for _, a := range l {
		out = append(out, nl.Attribute{Type: a.kind, Data: a.data})
	}
	return out
}

func TestHeardOfAScan(t *testing.T) {
	e, err := Element{Overlay: 7, NodeID: nodeID(16)}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	u32 := func(v int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(v)) }
	bssid := []byte(net.HardwareAddr{2, 0, 0, 0, 0, 9})
	good := attributes{
		{unix.NL80211_BSS_BSSID, bssid}, {unix.NL80211_BSS_FREQUENCY, u32(2437)}, {unix.NL80211_BSS_SIGNAL_MBM, u32(-4200)}, {unix.NL80211_BSS_SEEN_MS_AGO, u32(100)}, {unix.NL80211_BSS_INFORMATION_ELEMENTS, slices.Concat([]byte{0, 1, 'x'}, e)},
	}
	h, ok := heardOf(good.list())
	if !ok || h.BSSID != "02:00:00:00:00:09" || h.Frequency != 2437 || h.Signal != -42 || h.Element == nil || h.Element.Overlay != 7 {
		t.Errorf("%+v, %v", h, ok)
	}
	for name, bad := range map[string]attributes{
		"nothing":          nil,
		"no frequency":     {{unix.NL80211_BSS_BSSID, bssid}},
		"no address":       {{unix.NL80211_BSS_FREQUENCY, u32(2437)}},
		"broken address":   {{unix.NL80211_BSS_BSSID, bssid[:5]}, {unix.NL80211_BSS_FREQUENCY, u32(2437)}},
		"broken frequency": {{unix.NL80211_BSS_BSSID, bssid}, {unix.NL80211_BSS_FREQUENCY, []byte{1}}},
		"long ago":         {{unix.NL80211_BSS_BSSID, bssid}, {unix.NL80211_BSS_FREQUENCY, u32(2437)}, {unix.NL80211_BSS_SEEN_MS_AGO, u32(60_000)}},
	} {
		if h, ok := heardOf(bad.list()); ok {
			t.Errorf("%s: %+v", name, h)
		}
	}
	stranger := attributes{{unix.NL80211_BSS_BSSID, bssid}, {unix.NL80211_BSS_FREQUENCY, u32(2437)}, {unix.NL80211_BSS_INFORMATION_ELEMENTS, []byte{221, 200, 2}}}
	if h, ok := heardOf(stranger.list()); !ok || h.Element != nil {
		t.Errorf("%+v, %v", h, ok)
	}
}
