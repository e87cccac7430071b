package access

import (
	"cmp"
	"net"
	"slices"
)

// Radio is what one Wi-Fi device can do, as its driver says.
type Radio struct {
	PHY       int              // the kernel's number of it, as in phy0
	Interface string           // the network interface that the driver made; "" none
	MAC       net.HardwareAddr // of Interface
	Driver    string           // as brcmfmac
	Chip      string           // where the driver serves several, as SDIO's 0xa9a6; "" unknown
	BuiltIn   bool             // part of the board, not plugged in
	// Firmware: the device itself answers stations (a FullMAC device); hostapd only hears of them.
	Firmware bool
	AP       bool // can be an access point
	Channels []Channel
	HT       bool // 802.11n
	ShortGI  bool // of 400 ns on 20 MHz
	// MaxStations is how many the driver says an access point serves; 0 where it does not.
	MaxStations  int
	Combinations []Combination
	// Addresses are MAC addresses that its interfaces may have; none where the driver leaves it open, as AddressMask says.
	Addresses   []net.HardwareAddr
	AddressMask net.HardwareAddr // bits in which further addresses may differ; nil: any
	Switch      Switch
}

// Switch is whether a radio may send at all (rfkill).
type Switch int

// The positions of a Switch.
const (
	On      Switch = iota
	SoftOff        // by a program; another may switch it on
	HardOff        // by a switch on the board
)

// Channel is one channel of a radio under the rules of the country in force.
type Channel struct {
	Number    int // as 6
	Frequency int // centre, MHz
	Disabled  bool
	Passive   bool // nothing may be sent there before somebody else was heard
	Radar     bool // only after listening for radar
}

// Usable reports whether an access point may start on the channel at once.
func (c Channel) Usable() bool { return !c.Disabled && !c.Passive && !c.Radar }

// Combination is a set of interfaces that a radio carries at the same time.
type Combination struct {
	Limits   []Limit
	Total    int // interfaces at most
	Channels int // different ones at most
}

// Limit is how many interfaces of some kinds a Combination has room for.
type Limit struct {
	Max         int
	AP, Station bool // kinds that may be among them
}

// APs is how many access points the radio carries at the same time; beside a station of its own if so asked.
func (r Radio) APs(besideStation bool) int {
	if !r.AP {
		return 0
	}
	best := 0
	if !besideStation {
		best = 1 // what no combination lists is there alone
	}
	for _, c := range r.Combinations {
		if n, ok := c.aps(besideStation); ok {
			best = max(best, n)
		}
	}
	return best
}

// aps counts the access points of a combination, where a station takes the place that hurts the least.
func (c Combination) aps(besideStation bool) (int, bool) {
	count := func(station int) int {
		n, total := 0, c.Total
		if station >= 0 {
			total--
		}
		for i, l := range c.Limits {
			if l.AP {
				n += l.Max
				if i == station {
					n--
				}
			}
		}
		return min(n, total)
	}
	if !besideStation {
		n := count(-1)
		return n, n > 0
	}
	best := 0
	for i, l := range c.Limits {
		if l.Station && l.Max > 0 {
			best = max(best, count(i))
		}
	}
	return best, best > 0
}

// StationBeside reports whether the radio can be a station of another access point while it is one itself, and whether
// both may then be on different channels.
func (r Radio) StationBeside() (can, otherChannel bool) {
	if !r.AP {
		return false, false
	}
	for _, c := range r.Combinations {
		if _, ok := c.aps(true); ok {
			can, otherChannel = true, otherChannel || c.Channels > 1
		}
	}
	return can, otherChannel
}

// Stations a radio's access point serves where its driver does not say. They are counts of other people, not ours: the
// stock firmware of the Raspberry Pi's built-in radios (raspberrypi/linux#3010, raspberrypi/documentation#2520), and the
// station table of the ath9k_htc firmware.
const (
	maxStationsBrcmfmac = 7
	maxStations43455    = 8  // Pi 3+, 4, 5
	maxStations43430    = 10 // Pi 3
	maxStationsAth9kHTC = 7
	// MaxStations is what is taken of a radio of which nothing is known: more phones than the 2.4 GHz band carries calls.
	MaxStations = 64
)

// SDIO device numbers of the radios that are built into Raspberry Pi boards.
const (
	chip43430 = "0xa9a6"
	chip43455 = "0xa9bf"
)

// Limit is how many handsets the radio's access points serve at the same time.
func (r Radio) Limit() int {
	switch {
	case r.MaxStations > 0:
		return min(r.MaxStations, MaxStations)
	case r.Driver == "brcmfmac" && r.Chip == chip43455:
		return maxStations43455
	case r.Driver == "brcmfmac" && r.Chip == chip43430:
		return maxStations43430
	case r.Driver == "brcmfmac":
		return maxStationsBrcmfmac
	case r.Driver == "ath9k_htc":
		return maxStationsAth9kHTC
	}
	return MaxStations
}

// Choose picks the radio of the handsets' access point: the one of the interface that is asked for, else one that is
// switched on, built in, and the first of its kind. ok is false where none can be an access point. rest are the others,
// for links to other kits.
func Choose(radios []Radio, iface string) (chosen Radio, rest []Radio, ok bool) {
	sorted := slices.Clone(radios)
	rank := func(yes bool) int {
		if yes {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(sorted, func(a, b Radio) int {
		return cmp.Or(
			cmp.Compare(rank(a.Switch != HardOff), rank(b.Switch != HardOff)),
			cmp.Compare(rank(a.BuiltIn), rank(b.BuiltIn)),
			cmp.Compare(a.PHY, b.PHY))
	})
	at := slices.IndexFunc(sorted, func(r Radio) bool {
		return r.AP && r.Interface != "" && (iface == "" || r.Interface == iface)
	})
	if at < 0 {
		return Radio{}, sorted, false
	}
	chosen = sorted[at]
	return chosen, slices.Delete(sorted, at, at+1), true
}
