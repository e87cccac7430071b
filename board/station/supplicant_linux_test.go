package station

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// played makes this program a wpa_supplicant: it answers on the control socket that its configuration names with what is
// in the file that the variable names, and ends by itself when there is none.
const played = "FIELDKIT_STATION_PLAYED"

func TestMain(m *testing.M) {
	if said := os.Getenv(played); said != "" {
		if err := play(said); err != nil {
			fmt.Println("first line\n" + err.Error())
			os.Exit(3)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func play(said string) error {
	iface, file := "", ""
	for i, a := range os.Args[:len(os.Args)-1] {
		switch a {
		case "-i":
			iface = os.Args[i+1]
		case "-c":
			file = os.Args[i+1]
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	dir := regexp.MustCompile(`(?m)^ctrl_interface=(.*)$`).FindSubmatch(b)
	if dir == nil || iface == "" {
		return errors.New("no control socket")
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(string(dir[1]), iface), Net: "unixgram"})
	if err != nil {
		return err
	}
	buf := make([]byte, 256)
	for {
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, from, err := c.ReadFromUnix(buf)
		reply, gone := os.ReadFile(said)
		if gone != nil {
			return errors.New("the radio went away")
		}
		if err != nil {
			continue
		}
		if string(buf[:n]) != "STATUS" {
			reply = []byte("UNKNOWN COMMAND\n")
		}
		if len(reply) > 0 { // else it hangs
			_, _ = c.WriteToUnix(reply, from)
		}
	}
}

func TestSupplicantFromStartToEnd(t *testing.T) {
	dir := t.TempDir()
	said := filepath.Join(dir, "said")
	say := func(text string) {
		t.Helper()
		if err := os.WriteFile(said, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	say("bssid=02:00:00:00:01:00\nwpa_state=SCANNING\n")
	t.Setenv(played, said)
	cfg := Config{Supplicant: os.Args[0], Dir: filepath.Join(dir, "station"), Credentials: func() Credentials { return Credentials{"Valley", "far enough"} }}
	// What one that was killed left behind is no hindrance.
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "control", "wlan1"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := start(cfg, "wlan1", heard("1000", -50))
	if err != nil {
		t.Fatal(err)
	}
	until := func(want bool) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			linked, err := s.status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if linked == want && s.conn != nil {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("linked: %v", linked)
			}
		}
	}
	until(false)
	say("wpa_state=COMPLETED\nkey_mgmt=WPA2-PSK\n")
	until(true)
	say("wpa_state=4WAY_HANDSHAKE\n")
	until(false)
	say("") // it hangs
	if linked, err := s.status(t.Context()); err == nil || linked || errors.Is(err, errEnded) {
		t.Errorf("no answer: %v, %v", linked, err)
	}
	say("wpa_state=COMPLETED\n")
	until(true)
	if info, err := os.Stat(filepath.Join(cfg.Dir, "wpa_supplicant.conf")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("configuration: %v, %v", info.Mode(), err)
	}
	s.stop()
	if _, err := s.status(t.Context()); !errors.Is(err, errEnded) {
		t.Errorf("after its end: %v", err)
	}

	// It ends by itself: the last thing that it said is why.
	if s, err = start(cfg, "wlan1", heard("1000", -50)); err != nil {
		t.Fatal(err)
	}
	until(true)
	if err := os.Remove(said); err != nil {
		t.Fatal(err)
	}
	<-s.done
	if _, err := s.status(context.Background()); !errors.Is(err, errEnded) || !strings.HasSuffix(err.Error(), "the radio went away") {
		t.Errorf("ended with %v", err)
	}
	s.stop()

	cfg.Supplicant = filepath.Join(dir, "nothing")
	if _, err := start(cfg, "wlan1", heard("1000", -50)); err == nil {
		t.Error("a program that is not there was started")
	}
}

func TestConfiguration(t *testing.T) {
	// IEEE 802.11-2020 §J.4.2, test case 1.
	got, err := configuration("/run/x", Credentials{"IEEE", "password"}, Heard{BSSID: "02:00:00:00:00:01", Frequency: 2412})
	want := `ctrl_interface=/run/x
update_config=0
network={
	ssid=49454545
	bssid=02:00:00:00:00:01
	scan_freq=2412
	freq_list=2412
	scan_ssid=1
	key_mgmt=WPA-PSK
	proto=RSN
	pairwise=CCMP
	psk=f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e
}
`
	if err != nil || got != want {
		t.Errorf("%v:\n%s", err, got)
	}
	for name, c := range map[string]struct {
		c     Credentials
		bssid string
	}{
		"no name":           {Credentials{"", "password"}, "02:00:00:00:00:01"},
		"long name":         {Credentials{strings.Repeat("x", 33), "password"}, "02:00:00:00:00:01"},
		"short passphrase":  {Credentials{"IEEE", "secret"}, "02:00:00:00:00:01"},
		"BSSID with a line": {Credentials{"IEEE", "password"}, "02:00:00:00:00:01\n}"},
		"BSSID of 8 bytes":  {Credentials{"IEEE", "password"}, "02:00:00:00:00:01:02:03"},
		"no BSSID":          {Credentials{"IEEE", "password"}, ""},
		"long passphrase":   {Credentials{"IEEE", strings.Repeat("x", 64)}, "02:00:00:00:00:01"},
	} {
		if text, err := configuration("/run/x", c.c, Heard{BSSID: c.bssid}); err == nil {
			t.Errorf("%s: %s", name, text)
		}
	}
	// Nothing in a name gets out of its line.
	text, err := configuration("/run/x", Credentials{"a\"\n}\nx=", "password"}, Heard{BSSID: "02:00:00:00:00:01"})
	if err != nil || strings.Count(text, "\n") != strings.Count(want, "\n") {
		t.Errorf("%v: %s", err, text)
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("wpa_state=COMPLETED\nbssid=02:00:00:00:00:01\n"), "wpa_state")
	f.Add([]byte("wpa_state"), "wpa_state")
	f.Fuzz(func(t *testing.T, reply []byte, key string) {
		if v := value(reply, key); strings.Contains(v, "\n") {
			t.Errorf("%q", v)
		}
	})
}
