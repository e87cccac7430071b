package access

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mdlayher/wifi"
	"golang.org/x/sys/unix"
)

func mac(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// channels24 are those of 2.4 GHz under the rules that hold everywhere: from 12 on nobody may send first.
func channels24() (out []Channel) {
	for n := 1; n <= 13; n++ {
		out = append(out, Channel{Number: n, Frequency: 2407 + 5*n, Passive: n > 11})
	}
	return append(out, Channel{Number: 14, Frequency: 2484, Disabled: true})
}

// Radios of the kinds that kits have. The built-in one is as brcmfmac registers it for firmware without several access
// points; a station and an access point go together, on one channel.
var (
	builtIn = Radio{
		PHY: 0, Interface: "wlan0", MAC: mac("dc:a6:32:00:00:01"), Driver: "brcmfmac", Chip: chip43455, BuiltIn: true,
		Firmware: true, AP: true, Channels: channels24(), HT: true, ShortGI: true,
		Combinations: []Combination{
			{Limits: []Limit{{Max: 1, Station: true}, {Max: 1}, {Max: 1}}, Total: 3, Channels: 2},
			{Limits: []Limit{{Max: 1, Station: true}, {Max: 1, AP: true}, {Max: 1}, {Max: 1}}, Total: 4, Channels: 1},
		},
	}
	ath9kUSB = Radio{
		PHY: 1, Interface: "wlan1", MAC: mac("00:03:7f:00:00:02"), Driver: "ath9k_htc", AP: true, Channels: channels24(), HT: true,
		Combinations: []Combination{{Limits: []Limit{{Max: 2, AP: true, Station: true}, {Max: 2, AP: true}}, Total: 2, Channels: 1}},
	}
	stationOnly = Radio{PHY: 2, Interface: "wlan2", MAC: mac("00:00:00:00:00:03"), Driver: "rtl8xxxu", Channels: channels24(), HT: true}
)

// hwsim reads the radio that the kernel simulates, as it told of it.
func hwsim(t *testing.T) Radio {
	t.Helper()
	b, err := os.ReadFile("testdata/hwsim.json")
	if err != nil {
		t.Fatal(err)
	}
	var told struct {
		PHYs       []*wifi.PHY
		Interfaces []*wifi.Interface
	}
	if err := json.Unmarshal(b, &told); err != nil {
		t.Fatal(err)
	}
	radios := radiosOf(told.PHYs, told.Interfaces)
	if len(radios) != 1 {
		t.Fatalf("%d radios", len(radios))
	}
	return radios[0]
}

func TestRadioOfWhatTheKernelTells(t *testing.T) {
	r := hwsim(t)
	if r.PHY != 7 || r.Interface != "wlan7" || r.MAC.String() != "02:00:00:00:07:00" || !r.AP || r.Firmware || !r.HT || !r.ShortGI || r.MaxStations != 0 {
		t.Errorf("%+v", r)
	}
	find := func(n int) Channel {
		return r.Channels[slices.IndexFunc(r.Channels, func(c Channel) bool { return c.Number == n })]
	}
	for _, c := range []struct {
		Channel
		usable bool
	}{
		{Channel{Number: 1, Frequency: 2412}, true}, {Channel{Number: 11, Frequency: 2462}, true},
		{Channel{Number: 13, Frequency: 2472, Passive: true}, false}, {Channel{Number: 14, Frequency: 2484, Passive: true}, false},
		{Channel{Number: 36, Frequency: 5180, Passive: true}, false}, {Channel{Number: 52, Frequency: 5260, Passive: true, Radar: true}, false},
	} {
		if got := find(c.Number); got != c.Channel || got.Usable() != c.usable {
			t.Errorf("%+v usable %v, want %+v", got, got.Usable(), c)
		}
	}
	if n := r.APs(false); n < 2 {
		t.Errorf("%d access points", n)
	}
	if can, other := r.StationBeside(); !can || other {
		t.Errorf("a station beside it: %v, on another channel: %v", can, other)
	}
	// mac80211_hwsim gives each radio a second address, which differs in the first byte.
	if second := r.secondAddress(); second.String() != "42:00:00:00:07:00" {
		t.Errorf("second address %v", second)
	}
}

func TestWhatElseTheKernelMayTell(t *testing.T) {
	phy := func(extra map[uint16][]byte) *wifi.PHY { return &wifi.PHY{Extra: extra} }
	for _, c := range []struct {
		extra map[uint16][]byte
		max   int
	}{
		{nil, 0},
		{map[uint16][]byte{unix.NL80211_ATTR_MAX_AP_ASSOC_STA: {32, 0}}, 32},
		{map[uint16][]byte{unix.NL80211_ATTR_MAX_AP_ASSOC_STA: {0xff, 0xff, 0xff, 0xff}}, maxAssociations},
		{map[uint16][]byte{unix.NL80211_ATTR_MAX_AP_ASSOC_STA: {1}}, 0},
	} {
		if got := maxStationsOf(phy(c.extra)); got != c.max {
			t.Errorf("%v: %d", c.extra, got)
		}
	}
	many := make([]*wifi.PHY, maxRadios+5)
	for i := range many {
		many[i] = phy(map[uint16][]byte{unix.NL80211_ATTR_DEVICE_AP_SME: {}, unix.NL80211_ATTR_MAC_MASK: {0, 0, 0, 0, 0, 7}, unix.NL80211_ATTR_MAC_ADDRS: {1}})
		many[i].Index = i
	}
	radios := radiosOf(many, []*wifi.Interface{{Index: 9, Name: secondNetwork, PHY: 1}, {Index: 12, Name: "b", PHY: 1}, {Index: 11, Name: "a", PHY: 1}})
	if len(radios) != maxRadios || !radios[0].Firmware || radios[0].AddressMask.String() != "00:00:00:00:00:07" || radios[0].Interface != "" {
		t.Errorf("%d, %+v", len(radios), radios[0])
	}
	if radios[1].Interface != "a" {
		t.Errorf("of several interfaces it takes %s", radios[1].Interface)
	}
}

func TestAccessPointsOfARadio(t *testing.T) {
	for _, c := range []struct {
		name                string
		radio               Radio
		alone, beside       int
		station, anyChannel bool
	}{
		{"built in", builtIn, 1, 1, true, false},
		{"ath9k_htc", ath9kUSB, 2, 1, true, false},
		{"no access point", stationOnly, 0, 0, false, false},
		{"nothing is said of combinations", Radio{AP: true}, 1, 0, false, false},
		{"two channels", Radio{AP: true, Combinations: []Combination{{Limits: []Limit{{Max: 1, AP: true}, {Max: 1, Station: true}}, Total: 2, Channels: 2}}}, 1, 1, true, true},
		{"one of either", Radio{AP: true, Combinations: []Combination{{Limits: []Limit{{Max: 1, AP: true, Station: true}}, Total: 1, Channels: 1}}}, 1, 0, false, false},
		{"four of anything", Radio{AP: true, Combinations: []Combination{{Limits: []Limit{{Max: 4, AP: true, Station: true}}, Total: 4, Channels: 1}}}, 4, 3, true, false},
		{"a total below the limits", Radio{AP: true, Combinations: []Combination{{Limits: []Limit{{Max: 8, AP: true}, {Max: 1, Station: true}}, Total: 2, Channels: 1}}}, 2, 1, true, false},
	} {
		station, other := c.radio.StationBeside()
		if a, b := c.radio.APs(false), c.radio.APs(true); a != c.alone || b != c.beside || station != c.station || other != c.anyChannel {
			t.Errorf("%s: %d alone, %d beside a station, station %v, on any channel %v", c.name, a, b, station, other)
		}
	}
}

func TestLimitOfHandsets(t *testing.T) {
	for _, c := range []struct {
		radio Radio
		want  int
	}{
		{builtIn, 8},
		{Radio{Driver: "brcmfmac", Chip: chip43430}, 10},
		{Radio{Driver: "brcmfmac", Chip: "0x1234"}, 7},
		{ath9kUSB, 7},
		{Radio{Driver: "mt76x2u"}, MaxStations},
		{Radio{Driver: "mt76x2u", MaxStations: 20}, 20},
		{Radio{Driver: "x", MaxStations: 2007}, MaxStations},
	} {
		if got := c.radio.Limit(); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.radio.Driver, c.radio.Chip, got, c.want)
		}
	}
}

func TestChoiceOfTheRadio(t *testing.T) {
	usb, off := ath9kUSB, builtIn
	usb.PHY = 0 // plugged in at start, it may be numbered before the built-in one
	off.Switch = HardOff
	bare := builtIn
	bare.Interface = ""
	for _, c := range []struct {
		name   string
		radios []Radio
		asked  string
		want   string
		spare  int
	}{
		{"none", nil, "", "", 0},
		{"the built-in one", []Radio{usb, builtIn, stationOnly}, "", "wlan0", 2},
		{"what was asked for", []Radio{builtIn, usb}, "wlan1", "wlan1", 1},
		{"asked for, and cannot", []Radio{builtIn, stationOnly}, "wlan2", "", 2},
		{"asked for, and not there", []Radio{builtIn}, "wlan9", "", 1},
		{"the built-in one switched off", []Radio{off, usb}, "", "wlan1", 1},
		{"switched off, and no other", []Radio{off}, "", "wlan0", 0},
		{"stations only", []Radio{stationOnly}, "", "", 1},
		{"no interface", []Radio{bare, usb}, "", "wlan1", 1},
	} {
		before := slices.Clone(c.radios)
		got, spare, ok := Choose(c.radios, c.asked)
		if got.Interface != c.want || ok != (c.want != "") || len(spare) != c.spare {
			t.Errorf("%s: %q, %d spare, %v", c.name, got.Interface, len(spare), ok)
		}
		for i := range before {
			if before[i].Interface != c.radios[i].Interface {
				t.Errorf("%s: the caller's list was sorted", c.name)
			}
		}
	}
}

func TestDeviceOfARadio(t *testing.T) {
	sys := t.TempDir()
	file := func(path, text string) {
		p := filepath.Join(sys, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(path, to string) {
		p := filepath.Join(sys, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, p); err != nil {
			t.Fatal(err)
		}
	}
	link("class/ieee80211/phy0/device/driver", "../../bus/sdio/drivers/brcmfmac")
	link("class/ieee80211/phy0/device/subsystem", "../../bus/sdio")
	file("class/ieee80211/phy0/device/device", "0xa9bf\n")
	file("class/ieee80211/phy0/rfkill0/soft", "1\n")
	file("class/ieee80211/phy0/rfkill0/hard", "0\n")
	link("class/ieee80211/phy1/device/driver", "x/ath9k_htc")
	link("class/ieee80211/phy1/device/subsystem", "x/usb")
	file("class/ieee80211/phy1/rfkill1/soft", "1\n")
	file("class/ieee80211/phy1/rfkill1/hard", "1\n")
	for _, want := range []Radio{
		{PHY: 0, Driver: "brcmfmac", Chip: chip43455, BuiltIn: true, Switch: SoftOff},
		{PHY: 1, Driver: "ath9k_htc", Switch: HardOff},
		{PHY: 2, BuiltIn: true}, // nothing is known of it
	} {
		got := Radio{PHY: want.PHY}
		got.readDevice(sys)
		if got.Driver != want.Driver || got.Chip != want.Chip || got.BuiltIn != want.BuiltIn || got.Switch != want.Switch {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}
