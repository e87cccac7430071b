package access

import (
	"bufio"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "write the golden files")

// needHostapd is the program that has to understand what is written for it; scripts/deps installs it.
func needHostapd(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("hostapd")
	if err != nil {
		path = DefaultHostapd
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("FIELDKIT_CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return path
}

// readBy runs the real hostapd on a configuration and returns what it said. The driver is the one that needs no radio,
// so what remains is whether it understands each line.
func readBy(t *testing.T, hostapd, text string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "hostapd.conf")
	text = strings.ReplaceAll(strings.Replace(text, "driver=nl80211", "driver=none", 1), "ctrl_interface=CONTROL\n", "")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// Where all is well it would run for ever.
	cmd := exec.CommandContext(t.Context(), hostapd, path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), begun) {
			break
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return said.String()
}

// begun is what hostapd says once it has read its configuration.
const begun = "interface state UNINITIALIZED->"

func understood(said string) bool {
	return !strings.Contains(said, "Line ") && !strings.Contains(said, "found in configuration file") && strings.Contains(said, begun)
}

func element(t *testing.T) []byte {
	t.Helper()
	b, err := Element{Overlay: 0xdeadbeef, NodeID: []byte("0123456789abcdef")}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func channel(n int) Channel { return Channel{Number: n, Frequency: 2407 + 5*n} }

// Each kind of radio has its configuration, as reviewed, and the real hostapd understands it.
func TestConfigurationGoldens(t *testing.T) {
	hostapd := needHostapd(t)
	request := Request{
		SSID: "Valley relief", OwnSSID: "Valley relief MAPLE-412", Passphrase: "disaster help", Channel: channel(6), Element: element(t),
	}
	german := request
	german.Country = "DE"
	beside := german
	beside.BesideStation = true
	fiveGHz := german
	fiveGHz.Channel = Channel{Number: 36, Frequency: 5180}
	for _, c := range []struct {
		name    string
		radio   Radio
		request Request
	}{
		{"brcmfmac", builtIn, request},
		{"brcmfmac-de", builtIn, german},
		{"ath9k_htc", ath9kUSB, german},
		{"ath9k_htc-beside-station", ath9kUSB, beside},
		{"hwsim", hwsim(t), german},
		{"hwsim-5ghz", hwsim(t), fiveGHz},
	} {
		plan, err := MakePlan(c.radio, c.request)
		if err != nil {
			t.Fatal(err)
		}
		got := plan.Hostapd("CONTROL")
		golden := filepath.Join("testdata", c.name+".conf")
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s is\n%s", golden, got)
		}
		if said := readBy(t, hostapd, got); !understood(said) {
			t.Errorf("%s: hostapd says\n%s", c.name, said)
		}
	}
	// And it would have said so.
	if said := readBy(t, hostapd, "driver=nl80211\ninterface=x\nssid2=zz\nbogus=1\n"); understood(said) {
		t.Errorf("hostapd takes anything:\n%s", said)
	}
}

// A network is called and locked as the people want, whatever they have in their names: each becomes its bytes and
// nothing else in the file.
func TestNamesCannotBecomeSettings(t *testing.T) {
	hostapd := needHostapd(t)
	for _, ssid := range []string{
		"a", strings.Repeat("x", 32), `"quoted"`, `P"\n"`, "Köln 🚒", "x\nwpa=0", "x\r\nssid2=evil", "#", " leading and trailing ", "\x00\x01\xff\xfe", "\\x41", "ssid2=00",
	} {
		p, err := MakePlan(builtIn, Request{SSID: ssid, Passphrase: `"#;=\ '$(x)~`, Channel: channel(1)})
		if err != nil {
			t.Errorf("%q: %v", ssid, err)
			continue
		}
		text := p.Hostapd("CONTROL")
		if !strings.Contains(text, "\nssid2="+hex.EncodeToString([]byte(ssid))+"\n") {
			t.Errorf("%q is not in\n%s", ssid, text)
		}
		if got, want := strings.Count(text, "\n"), 20; got > want {
			t.Errorf("%q makes %d lines", ssid, got)
		}
		if utf8.ValidString(ssid) != strings.Contains(text, "\nutf8_ssid=1\n") {
			t.Errorf("%q: UTF-8 or not?\n%s", ssid, text)
		}
		if said := readBy(t, hostapd, text); !understood(said) {
			t.Errorf("%q: hostapd says\n%s", ssid, said)
		}
	}
}

func TestSettingsThatCannotBe(t *testing.T) {
	good := Request{SSID: "s", Passphrase: "12345678", Channel: channel(1)}
	for name, change := range map[string]func(*Request){
		"no name":                     func(q *Request) { q.SSID = "" },
		"a name of 33 bytes":          func(q *Request) { q.SSID = strings.Repeat("ü", 16) + "x" },
		"an own name of 33 bytes":     func(q *Request) { q.OwnSSID = strings.Repeat("x", 33) },
		"7 characters":                func(q *Request) { q.Passphrase = "1234567" },
		"64 characters":               func(q *Request) { q.Passphrase = strings.Repeat("1", 64) },
		"an umlaut in the passphrase": func(q *Request) { q.Passphrase = "passwört" },
		"a newline in the passphrase": func(q *Request) { q.Passphrase = "password\nwpa=0" },
		"a DEL in the passphrase":     func(q *Request) { q.Passphrase = "password\x7f" },
	} {
		q := good
		change(&q)
		if p, err := MakePlan(ath9kUSB, q); !errors.Is(err, ErrSettings) || strings.Contains(fmt.Sprint(err), q.Passphrase) {
			t.Errorf("%s: %+v, %v", name, p.BSSs, err)
		}
	}
	if _, err := MakePlan(ath9kUSB, good); err != nil {
		t.Error(err)
	}
}

// IEEE 802.11-2020 §J.4.2 has test vectors.
func TestPairwiseMasterKey(t *testing.T) {
	for _, c := range [][3]string{
		{"password", "IEEE", "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"},
		{"ThisIsAPassword", "ThisIsASSID", "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af"},
		{strings.Repeat("a", 32), strings.Repeat("Z", 32), "becb93866bb8c3832cb777c2f559807c8c59afcb6eae734885001300a981cc62"},
	} {
		key, err := pairwiseMasterKey(c[0], c[1])
		if err != nil || hex.EncodeToString(key[:]) != c[2] {
			t.Errorf("%s, %s: %x, %v", c[0], c[1], key, err)
		}
	}
}

func TestNetworksOfAPlan(t *testing.T) {
	q := Request{SSID: "All", OwnSSID: "All ONE-101", Passphrase: "12345678", Channel: channel(1)}
	none := ath9kUSB
	none.MAC = nil
	for _, c := range []struct {
		name   string
		radio  Radio
		change func(*Request)
		want   int
		limit  int
	}{
		{"the built-in radio carries one", builtIn, func(*Request) {}, 1, 8},
		{"another carries two", ath9kUSB, func(*Request) {}, 2, 7},
		{"no own name", ath9kUSB, func(q *Request) { q.OwnSSID = "" }, 1, 7},
		{"the same name twice", ath9kUSB, func(q *Request) { q.OwnSSID = q.SSID }, 1, 7},
		{"a station takes the place", ath9kUSB, func(q *Request) { q.BesideStation = true }, 1, 7},
		{"it turned out not to carry two", ath9kUSB, func(q *Request) { q.Single = true }, 1, 7},
		{"no address for it", none, func(*Request) {}, 1, 7},
		{"fewer handsets", ath9kUSB, func(q *Request) { q.MaxHandsets = 3 }, 2, 3},
		{"more than it serves", builtIn, func(q *Request) { q.MaxHandsets = 50 }, 1, 8},
	} {
		r := q
		c.change(&r)
		p, err := MakePlan(c.radio, r)
		if err != nil || len(p.BSSs) != c.want || p.Limit != c.limit {
			t.Errorf("%s: %d networks, limit %d, %v", c.name, len(p.BSSs), p.Limit, err)
			continue
		}
		if p.BSSs[0].Interface != c.radio.Interface || p.BSSs[0].BSSID != nil || p.BSSs[0].SSID != q.SSID {
			t.Errorf("%s: %+v", c.name, p.BSSs[0])
		}
		if c.want == 2 && (p.BSSs[1].SSID != r.OwnSSID || p.BSSs[1].BSSID == nil || p.BSSs[0].psk == p.BSSs[1].psk) {
			t.Errorf("%s: %+v", c.name, p.BSSs[1])
		}
	}
}

func TestSecondAddress(t *testing.T) {
	const own = "00:03:7f:00:00:02"
	for _, c := range []struct {
		name string
		r    Radio
		want string
	}{
		{"any", Radio{MAC: mac(own)}, "02:03:7f:00:00:02"},
		{"any, of a local one", Radio{MAC: mac("02:03:7f:00:00:02")}, "02:03:7f:00:00:03"},
		{"the last bits", Radio{MAC: mac(own), AddressMask: mac("00:00:00:00:00:07")}, "00:03:7f:00:00:03"},
		{"a bit in the middle", Radio{MAC: mac(own), AddressMask: mac("00:00:00:06:00:00")}, "00:03:7f:02:00:02"},
		{"no bit", Radio{MAC: mac(own), AddressMask: mac("00:00:00:00:00:00")}, "02:03:7f:00:00:02"},
		{"one of a list", Radio{MAC: mac(own), Addresses: []net.HardwareAddr{mac(own), mac("00:03:7f:00:00:77")}, AddressMask: mac("00:00:00:00:00:01")}, "00:03:7f:00:00:77"},
		{"none", Radio{}, ""},
	} {
		if got := c.r.secondAddress(); got.String() != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}

func TestOwnName(t *testing.T) {
	for _, c := range []struct {
		ssid, name string
		number     int
		want       string
	}{
		{"RELIEF", "Maple", 412, "RELIEF MAPLE-412"},
		{"RELIEF", "Kit 412", 412, "RELIEF KIT-412"},
		{"RELIEF", "", 412, "RELIEF 412"},
		{"RELIEF", "two  words", 101, "RELIEF TWO-WORDS-101"},
		{"Sturm über Köln und das Umland", "Ahorn", 412, "Sturm über Köln und AHORN-412"},
		{"üüüüüüüüüüüüüüüü", "Ahorn", 412, "üüüüüüüüüüü AHORN-412"},
		{"RELIEF", strings.Repeat("ü", 32), 412, "RELIEF ÜÜÜÜÜÜÜÜÜÜ-412"},
	} {
		got := OwnSSID(c.ssid, c.name, c.number)
		if got != c.want || len(got) > 32 || !utf8.ValidString(got) {
			t.Errorf("%q of %d bytes, want %q", got, len(got), c.want)
		}
	}
}
