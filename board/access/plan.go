package access

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha1"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrSettings are names or passphrases that no access point can have.
var ErrSettings = errors.New("access point settings")

// Network interfaces that are made for the handsets' network. The bridge is there from the start, whatever comes and
// goes on it, so that what binds to its address stays bound.
const (
	Bridge        = "handset0"
	secondNetwork = "handset1"
)

// Request is what a Plan is made of.
type Request struct {
	SSID       string // of all kits, 1 to 32 bytes
	OwnSSID    string // of this kit, beside it where the radio carries two; "" none
	Passphrase string // of both, 8 to 63 printable ASCII characters
	Country    string // ISO 3166-1 code; "" unknown
	Channel    Channel
	Element    []byte // for the beacons, as Element.Encode makes it; nil none
	// MaxHandsets is fewer than the radio serves; 0 is as many.
	MaxHandsets int
	// BesideStation leaves room for a station link on the same radio.
	BesideStation bool
	// Single has one network only, where the radio turned out not to carry two.
	Single bool
}

// Plan is an access point that the radio can be, in all its parts.
type Plan struct {
	Interface string
	Country   string
	Channel   Channel
	HT        bool
	ShortGI   bool
	Limit     int // handsets, of each network; the radio counts them together
	Firmware  bool
	Element   []byte
	BSSs      []BSS
}

// BSS is one network of an access point.
type BSS struct {
	Interface string
	SSID      string
	BSSID     net.HardwareAddr // nil: that of the radio
	psk       [32]byte
}

// MakePlan decides what the access point is on a radio. ErrSettings where a name or the passphrase cannot be.
func MakePlan(r Radio, q Request) (Plan, error) {
	p := Plan{
		Interface: r.Interface, Country: q.Country, Channel: q.Channel, HT: r.HT, ShortGI: r.HT && r.ShortGI,
		Limit: r.Limit(), Firmware: r.Firmware, Element: q.Element,
	}
	if q.MaxHandsets > 0 {
		p.Limit = min(p.Limit, q.MaxHandsets)
	}
	if err := checkPassphrase(q.Passphrase); err != nil {
		return Plan{}, err
	}
	add := func(iface, ssid string, bssid net.HardwareAddr) error {
		if ssid == "" || len(ssid) > 32 { // IEEE 802.11-2020 §9.4.2.2
			return fmt.Errorf("%w: network name of %d bytes", ErrSettings, len(ssid))
		}
		psk, err := pairwiseMasterKey(q.Passphrase, ssid)
		if err != nil {
			return err
		}
		p.BSSs = append(p.BSSs, BSS{Interface: iface, SSID: ssid, BSSID: bssid, psk: psk})
		return nil
	}
	if err := add(r.Interface, q.SSID, nil); err != nil {
		return Plan{}, err
	}
	if q.OwnSSID == "" || q.OwnSSID == q.SSID || q.Single || r.APs(q.BesideStation) < 2 {
		return p, nil
	}
	bssid := r.secondAddress()
	if bssid == nil {
		return p, nil
	}
	if err := add(secondNetwork, q.OwnSSID, bssid); err != nil {
		return Plan{}, err
	}
	return p, nil
}

// checkPassphrase holds it against IEEE 802.11-2020 §J.4.1: 8 to 63 characters of ASCII 32 to 126.
func checkPassphrase(s string) error {
	if len(s) < 8 || len(s) > 63 || strings.ContainsFunc(s, func(r rune) bool { return r < 32 || r > 126 }) {
		return fmt.Errorf("%w: the passphrase is not of 8 to 63 printable ASCII characters", ErrSettings)
	}
	return nil
}

// pairwiseMasterKey makes the key of a network from the passphrase, IEEE 802.11-2020 §J.4.1.
func pairwiseMasterKey(passphrase, ssid string) (key [32]byte, err error) {
	b, err := pbkdf2.Key(sha1.New, passphrase, []byte(ssid), 4096, len(key))
	if err != nil {
		return key, fmt.Errorf("key of network %q: %w", ssid, err)
	}
	return [32]byte(b), nil
}

// secondAddress is a MAC address for a second network: one that the driver offers, else one that differs where the
// driver allows it, else a locally administered one. nil where the radio has none to begin with.
func (r Radio) secondAddress() net.HardwareAddr {
	if len(r.MAC) != 6 {
		return nil
	}
	for _, a := range r.Addresses {
		if len(a) == 6 && !bytes.Equal(a, r.MAC) {
			return bytes.Clone(a)
		}
	}
	a := net.HardwareAddr(bytes.Clone(r.MAC))
	switch mask := r.AddressMask; {
	case len(mask) == 6 && mask[5]&1 != 0:
		a[5] ^= 1
	case len(mask) == 6 && !bytes.Equal(mask, make([]byte, 6)):
		for i := range a {
			if mask[i] != 0 {
				a[i] ^= mask[i] & -mask[i] // its lowest bit
				break
			}
		}
	case a[0]&2 == 0:
		a[0] |= 2
	default:
		a[5] ^= 1
	}
	return a
}

// OwnSSID is the name of a kit's own network: "RELIEF MAPLE-412" of the name of all kits' network, "RELIEF", and the
// kit's. Of a name that is too long for 32 bytes, the end of the first part is left out.
func OwnSSID(ssid, name string, number int) string {
	label := strings.ToUpper(strings.Join(strings.Fields(name), "-"))
	if n := strconv.Itoa(number); !strings.HasSuffix(label, n) {
		label = strings.TrimSuffix(cut(label, 20), "-") + "-" + n
	}
	label = cut(strings.TrimPrefix(label, "-"), 24)
	return strings.TrimSpace(cut(ssid, 31-len(label))) + " " + label
}

// cut leaves the first bytes of s that are whole characters, n at most.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
