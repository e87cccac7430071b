package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fieldkit/board"
	"fieldkit/overlay/wire"
)

func TestWithoutAFile(t *testing.T) {
	for _, path := range []string{"", filepath.Join(t.TempDir(), "none.toml")} {
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Validate(); err != nil {
			t.Error(err)
		}
		if c.Path() != "" {
			t.Errorf("path %q", c.Path())
		}
		for _, v := range c.Values() {
			if v.Source != FromDefault {
				t.Errorf("%+v", v)
			}
		}
	}
	c := Default()
	if c.Handset.Address != netip.MustParseAddr("10.73.0.1") || c.Handset.Network != netip.MustParsePrefix("10.73.0.0/16") ||
		c.Link.Port != wire.DefaultPort || c.SIP.Port != 5060 || c.Media.FirstPort != 20000 || c.Media.LastPort != 29999 || c.Log.Level != slog.LevelInfo {
		t.Errorf("%+v", c)
	}
	if board.Pins(c.Board.Pins) != board.DefaultPins {
		t.Errorf("pins %+v, the board's are %+v", c.Board.Pins, board.DefaultPins)
	}
}

const everything = `
state_dir = "/tmp/state"
mission = "a.mission"
[kit]
number = 412
name = "Maple"
[handset]
interface = "wlan0"
address = "10.1.0.1"
network = "10.1.0.0/24"
[access]
enabled = true
ssid = "Field"
passphrase = "correct horse"
own_name = false
country = "DE"
channel = 13
interface = "wlan0"
max_handsets = 5
wired = ["eth2"]
[link]
interfaces = ["eth0", "wlan1"]
port = 0
addresses = ["192.0.2.1", "fe80::1%eth0"]
neighbours = ["192.0.2.2:6084", "[2001:db8::1]:6084"]
relay = false
managed = true
station = false
relay_port = 3479
[sip]
port = 5070
[media]
first_port = 30000
last_port = 30999
max_calls = 10
[status]
listen = "127.0.0.1:8080"
[update]
share = false
port = 6185
trial = 120
[board]
simulated = true
[board.pins]
power = "A"
phones = "B"
link_blue = "C"
link_yellow = "D"
red = "E"
button = "F"
single = "G"
[log]
level = "debug"
`

func TestEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fieldkit.toml")
	if err := os.WriteFile(path, []byte(everything), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	d := Default()
	values, defaults := c.Values(), d.Values()
	if len(values) != len(defaults) || len(values) < 22 || c.Path() != path {
		t.Fatalf("%d values", len(values))
	}
	for i, v := range values {
		// The test's file sets every key, and each to something else than the default.
		if v.Source != FromFile || v.Key != defaults[i].Key || v.Value == defaults[i].Value {
			t.Errorf("%+v, default %+v", v, defaults[i])
		}
	}
	if c.Kit.Number != 412 || c.Kit.Name != "Maple" || c.Link.Port != 0 || fmt.Sprint(c.Link.Interfaces) != "[eth0 wlan1]" ||
		c.Log.Level != slog.LevelDebug || !c.Board.Simulated || c.Board.Pins.Red != "E" || c.Link.Neighbours[1] != netip.MustParseAddrPort("[2001:db8::1]:6084") {
		t.Errorf("%+v", c)
	}
	if c.Source("sip.port") != FromFile || c.Source("no.such") != FromDefault {
		t.Error("sources")
	}
	c.Override("state_dir")
	if c.Source("state_dir") != FromFlag {
		t.Error("override")
	}
	some, err := Parse([]byte("\ufeff[sip]\r\nport = 5070\r\n"))
	if err != nil || some.Source("sip.port") != FromFile || some.Source("link.port") != FromDefault || some.Link.Port != 6084 {
		t.Errorf("%v %+v", err, some)
	}
}

// Every error names the key.
func TestErrors(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"colour = 1", `unknown key "colour" (line 1)`},
		{"[sip]\nport = 1\nprot = 2", `unknown key "sip.prot" (line 3)`},
		{"[sipp]\nport = 1", `unknown key "sipp`},
		{"[sip]\nport = 'x'", `key "sip.port" (line 2)`},
		{"[sip]\nport = 70000", `key "sip.port" (line 2)`},
		{"[sip]\nport = -1", `key "sip.port"`},
		{"[sip", "line 1"},
		{"[sip]\nport = 0", `key "sip.port": 0`},
		{"[sip]\nport = 20000", `key "sip.port": 20000: want outside the media ports`},
		{"state_dir = ''", `key "state_dir"`},
		{"[kit]\nnumber = 99", `key "kit.number": 99: want 100 to 899`},
		{"[kit]\nnumber = 900", `key "kit.number"`},
		{"[kit]\nname = \"a\\u0007\"", `key "kit.name"`},
		{"[handset]\naddress = 'kit'", `"handset.address"`},
		{"[handset]\naddress = ''", `key "handset.address"`},
		{"[handset]\naddress = '10.1.0.1'", `key "handset.network": 10.73.0.0/16: want the network of handset.address 10.1.0.1`},
		{"[handset]\nnetwork = '10.73.0.1/16'", `key "handset.network"`},
		{"[handset]\ninterface = 'wlan0'\n[link]\ninterfaces = ['wlan0']", `key "link.interfaces"`},
		{"[link]\ninterfaces = ['']", `key "link.interfaces"`},
		{"[access]\nssid = '" + strings.Repeat("x", 33) + "'", `key "access.ssid"`},
		{"[access]\npassphrase = 'short'", `key "access.passphrase": (secret): want 8 to 63`},
		{"[access]\ncountry = 'de'", `key "access.country": "de": want two capital letters`},
		{"[access]\nchannel = 12", `key "access.channel": 12: want 1 to 11 where access.country is not given`},
		{"[access]\nchannel = 200\ncountry = 'DE'", `key "access.channel": 200`},
		{"[access]\nmax_handsets = -1", `key "access.max_handsets"`},
		{"[access]\nwired = ['../x']", `key "access.wired"`},
		{"[access]\nwired = ['eth1']\n[link]\ninterfaces = ['eth1']", `key "link.interfaces": "eth1": want not an interface of the handsets`},
		{"[link]\naddresses = ['10.73.0.1']", `key "link.addresses"`},
		{"[link]\naddresses = ['0.0.0.0']", `key "link.addresses"`},
		{"[link]\nneighbours = ['192.0.2.1:0']", `key "link.neighbours"`},
		{"[link]\nneighbours = [" + strings.Repeat("'192.0.2.1:1',", maxList+1) + "]", `key "link.neighbours": 33: want at most 32`},
		{"[media]\nfirst_port = 80", `key "media.first_port"`},
		{"[media]\nfirst_port = 30000", `key "media.first_port"`},
		{"[media]\nlast_port = 20010", `key "media.last_port": 20010: want room for 100 calls`},
		{"[media]\nmax_calls = 0", `key "media.max_calls"`},
		{"[update]\nport = 0", `key "update.port"`},
		{"[update]\ntrial = 59", `key "update.trial": 59`},
		{"[update]\ntrial = 541", `key "update.trial": 541`},
		{"[update]\nport = 6084", `key "update.port"`},
		{"[status]\nlisten = 'here'", `key "status.listen"`},
		{"[status]\nlisten = ':99999'", `key "status.listen"`},
		{"[board.pins]\nred = 'GPIO5'", `key "board.pins.red": GPIO5: want another pin than board.pins.power`},
		{"[log]\nlevel = 'loud'", `"log.level"`},
		{"[log]\nlevel = 'info+1'", `key "log.level"`},
		{strings.Repeat("#", maxFile+1), "more than"},
	} {
		if _, err := Parse([]byte(c.file)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q:\n\tgot  %v\n\twant %s", c.file, err, c.want)
		}
	}
	// All faults at once: the operator sees the kit next when it is in the field.
	_, err := Parse([]byte("[sip]\nport = 0\n[kit]\nnumber = 1\n"))
	if err == nil || !strings.Contains(err.Error(), "sip.port") || !strings.Contains(err.Error(), "kit.number") {
		t.Errorf("%v", err)
	}
	path := filepath.Join(t.TempDir(), "fieldkit.toml")
	if err := os.WriteFile(path, []byte("colour = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if _, err := Load(t.TempDir()); err == nil {
		t.Error("a directory was taken for a file")
	}
}

// On a card the operator's file goes over what the card was personalised with, key by key, and a list as a whole.
func TestFilesOverEachOther(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	personal := write("personal.toml", "[kit]\nnumber = 104\nname = \"Oak\"\n[link]\nneighbours = [\"192.0.2.1:6084\", \"192.0.2.2:6084\"]\n")
	own := write("kit.toml", "[kit]\nname = \"Elm\"\n[link]\nneighbours = [\"192.0.2.3:6084\"]\n")
	c, err := Card().Over(personal, own, filepath.Join(dir, "absent"), "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Kit.Number != 104 || c.Kit.Name != "Elm" || len(c.Link.Neighbours) != 1 || c.Link.Neighbours[0] != netip.MustParseAddrPort("192.0.2.3:6084") {
		t.Errorf("kit %+v, link %+v", c.Kit, c.Link)
	}
	if c.Path() != own || c.Source("kit.number") != FromFile || c.Source("sip.port") != FromDefault {
		t.Errorf("path %q, sources %v %v", c.Path(), c.Source("kit.number"), c.Source("sip.port"))
	}
	if c.StateDir != CardState || c.Mission != CardMission {
		t.Errorf("state in %s, mission %s", c.StateDir, c.Mission)
	}
	if _, err := Card().Over(personal, write("bad.toml", "[kit]\nnumbr = 1\n")); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "bad.toml") {
		t.Errorf("%v does not name the file", err)
	}
	if err := Card().Validate(); err != nil {
		t.Error(err)
	}
}

// Values go to logs and pages: a secret is not among them, however it is printed.
func TestASecretIsNotShown(t *testing.T) {
	const secret = "correct horse"
	c, err := Parse([]byte("[access]\npassphrase = \"" + secret + "\""))
	if err != nil || string(c.Access.Passphrase) != secret {
		t.Fatal(err, c)
	}
	for _, shown := range []string{fmt.Sprint(c.Values()), fmt.Sprintf("%v %+v %#v %s", c.Access, *c, c.Access, c.Access.Passphrase)} {
		if strings.Contains(shown, secret) {
			t.Errorf("shown: %s", shown)
		}
	}
}
