package access

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestEvents(t *testing.T) {
	for _, c := range []struct {
		in   string
		want event
		ok   bool
	}{
		{"<3>AP-STA-CONNECTED 02:00:00:00:01:00", event{stationConnected, "AP-STA-CONNECTED", "02:00:00:00:01:00"}, true},
		{"<3>AP-STA-CONNECTED 02:00:00:00:01:00 auth_alg=open\n", event{stationConnected, "AP-STA-CONNECTED", "02:00:00:00:01:00"}, true},
		{"<3>AP-STA-DISCONNECTED 02:00:00:00:01:00", event{stationDisconnected, "AP-STA-DISCONNECTED", "02:00:00:00:01:00"}, true},
		{"<3>AP-REJECTED-MAX-STA 02:00:00:00:01:00", event{stationRejected, "AP-REJECTED-MAX-STA", "02:00:00:00:01:00"}, true},
		{"<3>AP-STA-POSSIBLE-PSK-MISMATCH 02:00:00:00:01:00", event{wrongKey, "AP-STA-POSSIBLE-PSK-MISMATCH", "02:00:00:00:01:00"}, true},
		{"<3>AP-ENABLED ", event{kind: enabled, name: "AP-ENABLED"}, true},
		{"<4>INTERFACE-DISABLED ", event{kind: disabled, name: "INTERFACE-DISABLED"}, true},
		{"<3>AP-CSA-FINISHED freq=2462 dfs=0", event{kind: channelSwitched, name: "AP-CSA-FINISHED"}, true},
		{"<3>CTRL-EVENT-TERMINATING ", event{kind: terminating, name: "CTRL-EVENT-TERMINATING"}, true},
		{"<3>SOMETHING-ELSE 02:00:00:00:01:00", event{}, true},
		// What a stranger may make of it.
		{"<3>AP-STA-CONNECTED", event{kind: stationConnected, name: "AP-STA-CONNECTED"}, true},
		{"<3>AP-STA-CONNECTED 02:00:00:00:01", event{kind: stationConnected, name: "AP-STA-CONNECTED"}, true},
		{"<3>AP-STA-CONNECTED 02:00:00:00:01:00:02:03", event{kind: stationConnected, name: "AP-STA-CONNECTED"}, true},
		{"<3>AP-STA-CONNECTED \xff\xfe\x00", event{kind: stationConnected, name: "AP-STA-CONNECTED"}, true},
		{"<" + strings.Repeat("9", 5000) + ">AP-ENABLED", event{kind: enabled, name: "AP-ENABLED"}, true},
		{"OK\n", event{}, false},
		{"", event{}, false},
		{"<3", event{}, false},
		{"state=ENABLED\n<3>AP-DISABLED", event{}, false},
	} {
		if got, ok := parseEvent([]byte(c.in)); got != c.want || ok != c.ok {
			t.Errorf("%.60q: %+v, %v", c.in, got, ok)
		}
	}
}

// As hostapd 2.10 says it.
const statusText = `state=ENABLED
phy=phy0
freq=2437
num_sta_non_erp=0
olbc=0
cac_time_seconds=0
cac_time_left_seconds=N/A
channel=6
edmg_enable=0
secondary_channel=0
ieee80211n=1
beacon_int=100
dtim_period=2
supported_rates=02 04 0b 16 0c 12 18 24 30 48 60 6c
max_txpower=20
bss[0]=wlan0
bssid[0]=02:00:00:00:00:00
ssid[0]=Sturm \xc3\xbcber state=DISABLED
num_sta[0]=2
bss[1]=handset1
bssid[1]=02:00:00:00:00:01
ssid[1]=own
num_sta[1]=1
`

func TestStatusOfHostapd(t *testing.T) {
	s, err := parseStatus([]byte(statusText))
	want := []networkStatus{{"wlan0", "02:00:00:00:00:00", 2}, {"handset1", "02:00:00:00:00:01", 1}}
	if err != nil || s.state != "ENABLED" || s.channel != 6 || len(s.networks) != 2 || s.networks[0] != want[0] || s.networks[1] != want[1] {
		t.Errorf("%+v, %v", s, err)
	}
	for _, in := range []string{
		"", "FAIL\n", "UNKNOWN COMMAND\n", "state\n", "channel=6\n", "state=ENABLED\nchannel=x", "state=ENABLED\nchannel=-1",
		"state=ENABLED\nbss[0]=a\nnum_sta[0]=-1", "state=ENABLED\nbss[0]=a\nnum_sta[0]=99999999999999999999", "state=ENABLED\nbss[0]=a\nnum_sta[0]=2008",
	} {
		if s, err := parseStatus([]byte(in)); !errors.Is(err, errReply) {
			t.Errorf("%q is read as %+v, %v", in, s, err)
		}
	}
	// Numbers of networks that are none, or too many, are passed over.
	s, err = parseStatus([]byte("state=ENABLED\nbss[-1]=a\nbss[x]=a\nbss[7]=a\nbss[99999999999999999999]=a\nbss[0=a\n" + strings.Repeat("bss[0]=b\n", 100)))
	if err != nil || len(s.networks) != 1 || s.networks[0].iface != "b" {
		t.Errorf("%+v, %v", s, err)
	}
}

func FuzzStatusOfHostapd(f *testing.F) {
	f.Add([]byte(statusText))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseStatus(b)
		if err == nil && (s.state == "" || len(s.networks) > maxNetworks || s.channel < 0 || s.channel > 255) {
			t.Errorf("%+v", s)
		}
		e, ok := parseEvent(b)
		if !ok && e != (event{}) {
			t.Errorf("%+v", e)
		}
	})
}

// server listens where hostapd does and answers as the function says.
func server(t *testing.T, answer func(string) []string) string {
	t.Helper()
	dir := t.TempDir()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "wlan0"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
	go func() {
		defer close(done)
		for buf := make([]byte, 4096); ; {
			n, from, err := c.ReadFromUnix(buf)
			if err != nil {
				return
			}
			for _, r := range answer(string(buf[:n])) {
				_, _ = c.WriteToUnix([]byte(r), from)
			}
		}
	}()
	return dir
}

// What comes unasked, or as an answer to nothing, is neither waited for nor kept; what is asked gets its own answer.
func TestControlSocketThatSaysTooMuch(t *testing.T) {
	flood := make([]string, 0, 300)
	for range 300 {
		flood = append(flood, "<3>AP-STA-CONNECTED 02:00:00:00:01:00", strings.Repeat("x", 9000))
	}
	dir := server(t, func(command string) []string {
		switch command {
		case "ATTACH":
			return []string{"OK\n"}
		case "FLOOD":
			return append([]string{"begun"}, flood...)
		}
		return []string{"answer to " + command}
	})
	events := make(chan event, maxEvents)
	var dropped atomic.Uint64
	c, err := dial(t.Context(), dir, "wlan0", events, &dropped)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if r, err := c.request(t.Context(), "FLOOD"); err != nil || string(r) != "begun" {
		t.Fatalf("%q, %v", r, err)
	}
	for dropped.Load() < 300-maxEvents {
		time.Sleep(time.Millisecond)
	}
	if len(events) > maxEvents {
		t.Errorf("%d events wait", len(events))
	}
	var last string
	for range 100 { // until what was late is through
		r, err := c.request(t.Context(), "PING")
		if err != nil {
			t.Fatal(err)
		}
		if last = string(r); last == "answer to PING" {
			break
		}
	}
	if last != "answer to PING" {
		t.Errorf("%.40q", last)
	}
}

func TestControlSocketThatDoesNotAnswer(t *testing.T) {
	dir := server(t, func(command string) []string {
		if command == "ATTACH" {
			return []string{"OK\n"}
		}
		return nil
	})
	var dropped atomic.Uint64
	c, err := dial(t.Context(), dir, "wlan0", make(chan event), &dropped)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if r, err := c.request(t.Context(), "STATUS"); !errors.Is(err, errNoReply) {
		t.Errorf("%q, %v", r, err)
	}
	refusing := server(t, func(string) []string { return []string{"FAIL\n"} })
	if c, err := dial(t.Context(), refusing, "wlan0", make(chan event), &dropped); !errors.Is(err, errReply) {
		t.Errorf("%v, %v", c, err)
	}
	if c, err := dial(t.Context(), t.TempDir(), "wlan0", make(chan event), &dropped); err == nil {
		t.Errorf("%v without a hostapd", c)
	}
}
