//go:build linux

package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fieldkit/firmware/lab"
	"fieldkit/firmware/mission"
)

// baresip is one headless baresip: it plays a tone and records what it hears.
type baresip struct {
	t       *testing.T
	dir     string
	cmd     *exec.Cmd
	ctrl    net.Conn
	events  chan event
	account mission.Handset
	log     *os.File
}

type event struct {
	Event    bool   `json:"event"`
	Response bool   `json:"response"`
	OK       bool   `json:"ok"`
	Type     string `json:"type"`
	Data     string `json:"data"`
	Param    string `json:"param"`
}

const sampleRate = 8000

// The modules of Debian's baresip. aubridge is needed as a player: without one nothing is decoded.
const baresipConfig = `sip_listen %[1]s:5060
poll_method epoll
audio_source aufile,%[2]s/play.wav
audio_player aubridge,play
audio_alert aubridge,alert
audio_channels 1-1
ausrc_srate 8000
auplay_srate 8000
rtp_ports 20000-20999
module_path /usr/lib/baresip/modules
module g711.so
module aufile.so
module aubridge.so
module sndfile.so
module stdio.so
module_tmp uuid.so
module_app account.so
module_app menu.so
module_app ctrl_tcp.so
ctrl_tcp_listen 127.0.0.1:4444
snd_path %[2]s/rec
`

// startBaresip starts a baresip near kit k with the account; it plays a tone of hz and answers by itself
// where answer is set.
func startBaresip(t *testing.T, l *lab.Lab, k int, account mission.Handset, hz float64, transport string, answer bool) *baresip {
	t.Helper()
	at, err := l.Handset(k)
	if err != nil {
		t.Fatal(err)
	}
	b := &baresip{t: t, dir: t.TempDir(), events: make(chan event, 256), account: account}
	must(t, os.MkdirAll(filepath.Join(b.dir, "rec"), 0o700))
	must(t, writeTone(filepath.Join(b.dir, "play.wav"), hz, 60*time.Second))
	must(t, os.WriteFile(filepath.Join(b.dir, "config"), fmt.Appendf(nil, baresipConfig, at.Address, b.dir), 0o600))
	must(t, os.WriteFile(filepath.Join(b.dir, "contacts"), nil, 0o600))
	mode := "manual"
	if answer {
		mode = "auto"
	}
	must(t, os.WriteFile(filepath.Join(b.dir, "accounts"), fmt.Appendf(nil,
		"<sip:%s@%s;transport=%s>;auth_user=%s;auth_pass=%s;regint=60;audio_codecs=pcma;answermode=%s\n",
		account.Number, at.Server, transport, account.Number, account.Password, mode), 0o600))
	b.log, err = os.Create(filepath.Join(b.dir, "log"))
	must(t, err)
	b.cmd = exec.Command("baresip", "-f", b.dir)
	b.cmd.Stdout, b.cmd.Stderr = b.log, b.log
	must(t, at.Start(b.cmd))
	t.Cleanup(b.stop)
	deadline := time.Now().Add(10 * time.Second)
	for {
		err = at.Do(func() (err error) { b.ctrl, err = net.Dial("tcp", "127.0.0.1:4444"); return err })
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("control port of baresip: %v\n%s", err, b.said())
		}
		pause(t, 50*time.Millisecond)
	}
	go b.read()
	return b
}

// read parses the control connection's netstrings.
func (b *baresip) read() {
	defer close(b.events)
	r := bufio.NewReader(b.ctrl)
	for {
		head, err := r.ReadString(':')
		if err != nil {
			return
		}
		n, err := strconv.Atoi(strings.Trim(head, ":,"))
		if err != nil || n > 1<<20 {
			return
		}
		body := make([]byte, n+1)
		if _, err := readFull(r, body); err != nil {
			return
		}
		var e event
		if json.Unmarshal(body[:n], &e) == nil {
			select {
			case b.events <- e:
			default:
			}
		}
	}
}

func readFull(r *bufio.Reader, b []byte) (n int, err error) {
	for n < len(b) {
		m, err := r.Read(b[n:])
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// do gives baresip a command.
func (b *baresip) do(command, params string) {
	b.t.Helper()
	j, err := json.Marshal(map[string]string{"command": command, "params": params, "token": "t"})
	must(b.t, err)
	_, err = fmt.Fprintf(b.ctrl, "%d:%s,", len(j), j)
	must(b.t, err)
}

// await waits for an event of one of the types.
func (b *baresip) await(limit time.Duration, types ...string) event {
	b.t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var seen []string
	for {
		select {
		case e, ok := <-b.events:
			if !ok {
				b.t.Fatalf("baresip ended while %v was awaited\n%s", types, b.said())
			}
			if !e.Event {
				continue
			}
			for _, want := range types {
				if e.Type == want {
					return e
				}
			}
			seen = append(seen, e.Type)
		case <-timer.C:
			b.t.Fatalf("baresip %s: none of %v within %v, only %v\n%s", b.account.Number, types, limit, seen, b.said())
		}
	}
}

func (b *baresip) stop() {
	if b.ctrl != nil {
		_ = b.ctrl.Close()
	}
	_ = b.cmd.Process.Signal(os.Interrupt)
	done := make(chan struct{})
	go func() { _ = b.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		_ = b.cmd.Process.Kill()
		<-done
	}
	_ = b.log.Close()
}

func (b *baresip) said() string {
	text, _ := os.ReadFile(filepath.Join(b.dir, "log"))
	return string(text[max(0, len(text)-4000):])
}

// heard is what baresip decoded of the far side, as it was recorded.
func (b *baresip) heard() ([]float64, error) {
	names, err := filepath.Glob(filepath.Join(b.dir, "rec", "*-dec.wav"))
	if err != nil || len(names) == 0 {
		return nil, errors.Join(err, errors.New("nothing was recorded"))
	}
	return readWAV(names[len(names)-1])
}
