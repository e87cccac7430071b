package access

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A played hostapd is this test program, started in its place. It does on its control sockets what hostapd does, and
// what the test asks of it there besides: "PLAY EVENT …" sends an event to all who attached, "PLAY STATIONS 1 2" sets
// the counts of the networks, "PLAY MUTE" answers nothing any more, "PLAY EXIT" ends it, "PLAY ASKED" tells what it was
// asked. The same tests run on the real one where that can do it (TestRealHostapd).
const playedMode = "FIELDKIT_PLAYED_HOSTAPD"

// What a played hostapd is like from the start.
const (
	playsWell      = "well"
	playsOneOnly   = "one network only" // as with a radio that cannot carry the second
	playsBroken    = "broken"
	playsNothing   = "nothing" // never answers
	playsDisabled  = "disabled"
	playsForgotten = "forgotten" // leaves a child behind that ignores the end
	watchesSleep   = "watches"   // no hostapd, but one who watches a program
)

type played struct {
	interfaces []string
	stations   []int
	channel    string
	state      string
	muted      bool
	asked      []string
	attached   map[string]*net.UnixConn // by the path of who attached
}

// playHostapd is the main function of a played hostapd.
func playHostapd(mode, path string) int {
	if mode == watchesSleep {
		p := start(context.Background(), slog.New(slog.DiscardHandler), "sh", "-c", "echo $$ >/proc/$PPID/fd/1; exec sleep 60")
		<-p.done
		return 0
	}
	text, err := os.ReadFile(path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	p := &played{state: "ENABLED", attached: map[string]*net.UnixConn{}}
	dir := ""
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "interface", "bss":
			p.interfaces = append(p.interfaces, value)
			p.stations = append(p.stations, 0)
		case "channel":
			p.channel = value
		case "ctrl_interface":
			dir = value
		}
	}
	switch mode {
	case playsBroken:
		fmt.Println("wlan0: interface state UNINITIALIZED->DISABLED")
		fmt.Println("Could not set channel for kernel driver")
		fmt.Println("wlan0: AP-DISABLED")
		return 1
	case playsOneOnly:
		if len(p.interfaces) > 1 {
			fmt.Println("Failed to add BSS (BSSID=…)")
			return 1
		}
	case playsNothing:
		time.Sleep(time.Minute)
	case playsDisabled:
		p.state = "DFS"
	case playsForgotten:
		child := exec.Command("sh", "-c", "trap '' TERM; sleep 60")
		if err := child.Start(); err != nil {
			fmt.Println(err)
			return 1
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), "child"), []byte(fmt.Sprint(child.Process.Pid)), 0o600); err != nil {
			return 1
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		fmt.Println(err)
		return 1
	}
	requests := make(chan request)
	for i, name := range p.interfaces {
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unixgram"})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		go func() {
			for buf := make([]byte, 4096); ; {
				n, from, err := c.ReadFromUnix(buf)
				if err != nil {
					return
				}
				requests <- request{i, c, from, string(buf[:n])}
			}
		}()
	}
	for r := range requests {
		if code, end := p.answer(r); end {
			return code
		}
	}
	return 0
}

type request struct {
	network int
	on      *net.UnixConn
	from    *net.UnixAddr
	text    string
}

func (p *played) answer(r request) (code int, end bool) {
	reply := "OK\n"
	command, rest, _ := strings.Cut(r.text, " ")
	if command == "PLAY" {
		what, value, _ := strings.Cut(rest, " ")
		switch what {
		case "EVENT":
			// Answered first: who watches may end this program for the event.
			_, _ = r.on.WriteToUnix([]byte(reply), r.from)
			for path, c := range p.attached {
				_, _ = c.WriteToUnix([]byte(value), &net.UnixAddr{Name: path, Net: "unixgram"})
			}
			return 0, false
		case "STATIONS":
			for i, n := range strings.Fields(value) {
				_, _ = fmt.Sscan(n, &p.stations[i])
			}
		case "STATE":
			p.state = value
		case "CHANNEL":
			p.channel = value
		case "MUTE":
			p.muted = true
		case "EXIT":
			fmt.Println("Something the operator should read")
			return 3, true
		case "ASKED":
			reply = strings.Join(p.asked, "\n")
		}
		_, _ = r.on.WriteToUnix([]byte(reply), r.from)
		return 0, false
	}
	if p.muted {
		return 0, false
	}
	if command != "STATUS" && command != "ATTACH" {
		p.asked = append(p.asked, fmt.Sprintf("%s: %s", p.interfaces[r.network], r.text))
	}
	switch command {
	case "ATTACH":
		p.attached[r.from.Name] = r.on
	case "STATUS":
		var b bytes.Buffer
		fmt.Fprintf(&b, "state=%s\nphy=phy0\nfreq=2437\nchannel=%s\nmax_txpower=20\n", p.state, p.channel)
		for i, name := range p.interfaces {
			fmt.Fprintf(&b, "bss[%d]=%s\nbssid[%d]=02:00:00:00:00:0%d\nssid[%d]=x\\n=\nnum_sta[%d]=%d\n", i, name, i, i, i, i, p.stations[i])
		}
		reply = b.String()
	case "CHAN_SWITCH":
		if strings.Contains(rest, "2472") { // one that this driver will not go to
			reply = "FAIL\n"
		}
	}
	_, _ = r.on.WriteToUnix([]byte(reply), r.from)
	return 0, false
}

// play asks something of the hostapd that runs, and returns its reply.
func play(t *testing.T, dir, what string) string {
	t.Helper()
	sockets, err := filepath.Glob(filepath.Join(dir, "control", "wlan*"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("%v, %v", sockets, err)
	}
	own := filepath.Join(dir, "play")
	defer os.Remove(own)
	c, err := net.DialUnix("unixgram", &net.UnixAddr{Name: own, Net: "unixgram"}, &net.UnixAddr{Name: sockets[0], Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("PLAY " + what)); err != nil {
		t.Fatal(err)
	}
	if what == "EXIT" {
		return ""
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}
