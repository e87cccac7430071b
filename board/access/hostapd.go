package access

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Times after which hostapd asks a silent station whether it is still there, in seconds. Where the radio's firmware
// serves the stations, hostapd's question may not get through, and a phone that sleeps would be turned out for it.
const (
	inactivity         = 60
	inactivityFirmware = 300
)

// Hostapd writes the plan as a configuration of hostapd 2.10. controls is the directory of its control sockets. Names
// are written as hexadecimal digits and the passphrase as the key made of it, so that nothing in them can be anything
// else than a name or a key to hostapd. The text holds the key: it is not for logs.
func (p Plan) Hostapd(controls string) string {
	var b strings.Builder
	line := func(key string, value any) { fmt.Fprintf(&b, "%s=%v\n", key, value) }

	line("driver", "nl80211")
	band := "g"
	if p.Channel.Frequency > 3000 {
		band = "a"
	}
	if p.Country != "" {
		line("country_code", p.Country)
		line("ieee80211d", 1) // tell the handsets, too
	}
	p.network(&b, "interface", p.BSSs[0], controls)
	line("hw_mode", band)
	line("channel", p.Channel.Number)
	// 20 MHz: a second channel's width brings voice nothing and takes it from the neighbours.
	if p.HT {
		line("ieee80211n", 1)
		if p.ShortGI {
			line("ht_capab", "[SHORT-GI-20]")
		}
	}
	for _, s := range p.BSSs[1:] {
		b.WriteString("\n")
		p.network(&b, "bss", s, controls)
	}
	return b.String()
}

// network writes what each network has for itself. "interface" begins the first one, "bss" a further one.
func (p Plan) network(b *strings.Builder, begin string, s BSS, controls string) {
	line := func(key string, value any) { fmt.Fprintf(b, "%s=%v\n", key, value) }
	line(begin, s.Interface)
	line("bridge", Bridge)
	line("ctrl_interface", controls)
	if s.BSSID != nil {
		line("bssid", s.BSSID)
	}
	line("ssid2", hex.EncodeToString([]byte(s.SSID)))
	if utf8.ValidString(s.SSID) {
		line("utf8_ssid", 1)
	}
	// WPA2 with a passphrase: what every handset can do, and the built-in radios' firmware as an access point, of which
	// nobody says that it can do SAE or protected management frames.
	line("auth_algs", 1)
	line("wpa", 2)
	line("wpa_key_mgmt", "WPA-PSK")
	line("rsn_pairwise", "CCMP")
	line("wpa_psk", hex.EncodeToString(s.psk[:]))
	line("wmm_enabled", 1) // voice before the rest; 802.11n wants it as well
	line("ap_isolate", 1)  // a handset reaches the kit and no other handset
	line("max_num_sta", p.Limit)
	line("no_probe_resp_if_max_sta", 1) // a handset looks for another kit instead
	if p.Firmware {
		line("ap_max_inactivity", inactivityFirmware)
	} else {
		line("ap_max_inactivity", inactivity)
	}
	if len(p.Element) > 0 {
		line("vendor_elements", hex.EncodeToString(p.Element))
	}
}
