package station

import (
	"bytes"
	"context"
	"crypto/pbkdf2"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	replyWait = time.Second
	maxReply  = 4096
	stopWait  = 2 * time.Second // between SIGTERM and SIGKILL
)

// errEnded: wpa_supplicant is not running any more.
var errEnded = errors.New("wpa_supplicant ended")

// supplicant is a running wpa_supplicant that joins one access point. Run's goroutine owns it.
type supplicant struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // after done
	socket string
	own    string
	conn   *net.UnixConn // nil: not connected yet
}

// configuration is the file for wpa_supplicant (wpa_supplicant.conf(5)): one network, at one access point, on its one
// frequency. Name and key are in hexadecimal, so nothing in them can end a line.
func configuration(dir string, c Credentials, h Heard) (string, error) {
	if len(c.SSID) == 0 || len(c.SSID) > 32 || len(c.Passphrase) < 8 || len(c.Passphrase) > 63 {
		return "", fmt.Errorf("network name of %d bytes, passphrase of %d", len(c.SSID), len(c.Passphrase))
	}
	bssid, err := net.ParseMAC(h.BSSID)
	if err != nil || len(bssid) != 6 {
		return "", fmt.Errorf("BSSID %.40q", h.BSSID)
	}
	// IEEE 802.11-2020 §J.4.
	psk, err := pbkdf2.Key(sha1.New, c.Passphrase, []byte(c.SSID), 4096, 32)
	if err != nil {
		return "", fmt.Errorf("key of the network: %w", err)
	}
	return fmt.Sprintf(`ctrl_interface=%s
update_config=0
network={
	ssid=%s
	bssid=%s
	scan_freq=%d
	freq_list=%d
	scan_ssid=1
	key_mgmt=WPA-PSK
	proto=RSN
	pairwise=CCMP
	psk=%s
}
`, dir, hex.EncodeToString([]byte(c.SSID)), bssid, h.Frequency, h.Frequency, hex.EncodeToString(psk)), nil
}

func start(cfg Config, iface string, h Heard) (*supplicant, error) {
	controls := filepath.Join(cfg.Dir, "control")
	text, err := configuration(controls, cfg.Credentials(), h)
	if err != nil {
		return nil, fmt.Errorf("wpa_supplicant's configuration: %w", err)
	}
	if err := os.MkdirAll(controls, 0o700); err != nil {
		return nil, fmt.Errorf("wpa_supplicant's directory: %w", err)
	}
	file := filepath.Join(cfg.Dir, "wpa_supplicant.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("wpa_supplicant's configuration: %w", err)
	}
	s := &supplicant{socket: filepath.Join(controls, iface), own: filepath.Join(cfg.Dir, "client"), done: make(chan struct{})}
	// A killed one leaves its socket, and would not start over it.
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("wpa_supplicant's socket: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	cmd := exec.CommandContext(ctx, cfg.Supplicant, "-i", iface, "-D", "nl80211", "-c", file)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopWait
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said tail
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("wpa_supplicant: %w", err)
	}
	go func() {
		defer close(s.done)
		_ = cmd.Wait() // what it says is in ProcessState
		s.err = fmt.Errorf("%w (%v): %s", errEnded, cmd.ProcessState, said.last())
	}()
	return s, nil
}

// status asks whether the association stands. An error of errEnded is the last one; others may pass.
func (s *supplicant) status(ctx context.Context) (linked bool, err error) {
	select {
	case <-s.done:
		return false, s.err
	default:
	}
	if s.conn == nil {
		if err := s.dial(); err != nil {
			return false, nil //nolint:nilerr // it is starting
		}
	}
	reply, err := s.request(ctx, "STATUS")
	if err != nil {
		_ = s.conn.Close()
		s.conn = nil
		return false, fmt.Errorf("wpa_supplicant: STATUS: %w", err)
	}
	return value(reply, "wpa_state") == "COMPLETED", nil
}

func (s *supplicant) dial() error {
	if err := os.Remove(s.own); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	c, err := net.DialUnix("unixgram", &net.UnixAddr{Name: s.own, Net: "unixgram"}, &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	s.conn = c
	return nil
}

// request sends a command and reads the reply. Nothing else comes: events are only for who attached.
func (s *supplicant) request(ctx context.Context, command string) ([]byte, error) {
	deadline := time.Now().Add(replyWait)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := s.conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if _, err := s.conn.Write([]byte(command)); err != nil {
		return nil, err
	}
	b := make([]byte, maxReply)
	n, err := s.conn.Read(b)
	return b[:n], err
}

// stop ends the process and waits for it.
func (s *supplicant) stop() {
	s.cancel()
	<-s.done
	if s.conn != nil {
		_ = s.conn.Close()
	}
	_ = os.Remove(s.own)
}

// value finds KEY in the lines KEY=VALUE of a reply; "" is none.
func value(reply []byte, key string) string {
	for line := range strings.Lines(string(reply)) {
		if k, v, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "="); ok && k == key {
			return v
		}
	}
	return ""
}

// tail keeps the end of what a process says. The goroutine of exec.Cmd writes, and who waited for the process reads.
type tail struct{ b []byte }

const maxTail = 2048

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if n := len(t.b) - maxTail; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

// last is its last line.
func (t *tail) last() string {
	lines := bytes.Split(bytes.TrimSpace(t.b), []byte("\n"))
	return string(lines[len(lines)-1])
}
