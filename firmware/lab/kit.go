//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"fieldkit/board/simnet/netns"
	"fieldkit/firmware/mission"
	"fieldkit/ui"
)

// Kit is one fieldkitd process. Status may be called from any goroutine; the rest belongs to the
// owner of the Lab.
type Kit struct {
	Number  int
	Index   int
	Handset netip.Addr     // where handsets register, port 5060
	Page    netip.AddrPort // the status page as handsets reach it
	Mission string         // the file from which the running kit takes handset accounts

	dir    string
	log    *os.File
	args   []string
	daemon string
	at     place
	world  world
	level  slog.Level
	proc   *process
	client *http.Client
}

// StartKit starts the next kit.
func (l *Lab) StartKit(context.Context) (*Kit, error) {
	if len(l.Kits) >= l.opts.Kits {
		return nil, fmt.Errorf("kit %d: the lab has room for %d", len(l.Kits)+1, l.opts.Kits)
	}
	return l.startKit(l.mission)
}

// StartStranger starts the next kit with another mission, which calls its overlay as told: "" is a name of its
// own, and the name of the lab's overlay makes a stranger that passes for one of the lab's until its certificate
// is looked at.
func (l *Lab) StartStranger(overlay string) (*Kit, error) {
	other, err := mission.New("stranger", mission.Options{Overlay: overlay})
	if err != nil {
		return nil, err
	}
	return l.startKit(other)
}

// StartFounder starts the next kit without a mission, so that it founds its own.
func (l *Lab) StartFounder() (*Kit, error) { return l.startKit(nil) }

// startKit starts the next kit with m, or without a mission if that is nil.
func (l *Lab) startKit(m *mission.Mission) (*Kit, error) {
	i := len(l.Kits)
	at, err := l.world.kit(i)
	if err != nil {
		return nil, fmt.Errorf("place of kit %d: %w", i+1, err)
	}
	k := &Kit{
		Number: kitNumber(i), Index: i, Handset: at.handset, Page: at.status,
		dir: kitDir(l.dir, i), daemon: l.opts.Daemon, at: at, world: l.world, level: l.opts.KitLog,
	}
	socket := filepath.Join(k.dir, "status.sock")
	k.client = &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
		},
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of kit %d: %w", i+1, err)
	}
	config := filepath.Join(k.dir, "fieldkit.toml")
	if err := os.WriteFile(config, []byte(k.config(l.neighbours(i))), 0o600); err != nil {
		return nil, fmt.Errorf("configuration of kit %d: %w", i+1, err)
	}
	delivered := filepath.Join(k.dir, "delivered.mission")
	k.Mission = delivered
	if m == nil {
		k.Mission = filepath.Join(k.State(), mission.MissionItem)
	} else if err := m.Save(delivered); err != nil {
		return nil, fmt.Errorf("mission of kit %d: %w", i+1, err)
	}
	if k.log, err = os.OpenFile(filepath.Join(k.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return nil, fmt.Errorf("log of kit %d: %w", i+1, err)
	}
	k.args = []string{"--config", config, "--state", k.State(), "--status-socket", socket}
	l.Kits = append(l.Kits, k)
	return k, k.Restart()
}

// neighbours are the bootstrap addresses that a kit is told where it cannot find them by mDNS.
func (l *Lab) neighbours(self int) (r []string) {
	for i := range l.opts.Kits {
		if at, err := l.world.kit(i); err == nil && i != self && at.link.IsValid() {
			r = append(r, netip.AddrPortFrom(at.link, at.port).String())
		}
	}
	return r
}

func (k *Kit) config(neighbours []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "mission = %q\n", k.MissionFile()) // which need not be there, as one that --mission names must
	fmt.Fprintf(&b, "[kit]\nnumber = %d\n\n[board]\nsimulated = true\n\n[handset]\naddress = %q\nnetwork = %q\n", k.Number, k.at.handset, k.at.network)
	fmt.Fprintf(&b, "\n[link]\nport = %d\n", k.at.port)
	if k.at.link.IsValid() {
		fmt.Fprintf(&b, "addresses = [%q]\n", k.at.link)
	}
	if len(neighbours) > 0 {
		fmt.Fprintf(&b, "neighbours = [\"%s\"]\n", strings.Join(neighbours, `", "`))
	}
	b.WriteString("\n[update]\nshare = false\n") // there is nothing to update; its port may be one of a kit beside
	fmt.Fprintf(&b, "\n[status]\nlisten = %q\n", k.at.status)
	fmt.Fprintf(&b, "\n[log]\nlevel = %q\n", k.level)
	return b.String()
}

func kitDir(lab string, i int) string { return filepath.Join(lab, fmt.Sprintf("kit%d", i+1)) }

// State is the directory of what survives a restart.
func (k *Kit) State() string { return filepath.Join(k.dir, "state") }

// MissionFile is the mission as it was delivered to the kit, which takes up what changes in it.
func (k *Kit) MissionFile() string { return filepath.Join(k.dir, "delivered.mission") }

// Restart starts the kit's process again with the state it left behind.
func (k *Kit) Restart() error {
	if k.Running() {
		return fmt.Errorf("kit %d runs already", k.Number)
	}
	cmd := exec.Command(k.daemon, k.args...)
	cmd.Stdout, cmd.Stderr = k.log, k.log
	p, err := launch(k.at, cmd)
	k.proc = p
	return err
}

// Running tells whether the kit's process lives.
func (k *Kit) Running() bool { return k.proc != nil && k.proc.running() }

// Kill ends the kit without a goodbye, as a dead battery does.
func (k *Kit) Kill() {
	_ = k.proc.cmd.Process.Kill()
	<-k.proc.done
}

// Stop ends the kit in good order.
func (k *Kit) Stop() error { return k.proc.end(killAfter) }

func (k *Kit) terminate() {
	if k.Running() {
		_ = k.proc.cmd.Process.Signal(syscall.SIGTERM)
	}
}

func (k *Kit) await() {
	if k.proc != nil {
		_ = k.proc.end(killAfter)
	}
	_ = k.log.Close()
}

// Do runs f, which makes sockets, on the kit's own host.
func (k *Kit) Do(f func() error) error { return k.at.do(f) }

// Status asks the kit how it is.
func (k *Kit) Status(ctx context.Context) (ui.Status, error) {
	var s ui.Status
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://kit/status.json", nil)
	if err != nil {
		return s, err
	}
	r, err := k.client.Do(req)
	if err != nil {
		return s, fmt.Errorf("status of kit %d: %w", k.Number, err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 4<<20)).Decode(&s); err != nil {
		return s, fmt.Errorf("status of kit %d: %w", k.Number, err)
	}
	return s, nil
}

// Log returns the last n bytes of what the kit's process said.
func (k *Kit) Log(n int) string {
	b, err := os.ReadFile(filepath.Join(k.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-n):])
}

// Seat is a place near a kit for a handset that the lab does not know: a program of the caller's.
type Seat struct {
	Address netip.Addr // of the handset
	Server  netip.Addr // of the kit, where it registers
	at      place
}

// Handset makes a place within reach of kit k.
func (l *Lab) Handset(k int) (*Seat, error) {
	at, err := l.world.phone(k, l.seats)
	if err != nil {
		return nil, fmt.Errorf("place of a handset at kit %d: %w", k+1, err)
	}
	l.seats++
	kit, err := l.world.kit(k)
	if err != nil {
		return nil, err
	}
	return &Seat{Address: at.handset, Server: kit.handset, at: at}, nil
}

// Start starts a program there; it is killed when the lab ends.
func (s *Seat) Start(cmd *exec.Cmd) error { return s.at.start(cmd) }

// Do runs f, which makes sockets, there.
func (s *Seat) Do(f func() error) error { return s.at.do(f) }

// changer is a world whose kits' cables can be handled.
type changer interface {
	host(k int) *netns.Host
	replug(k int) error
}

var errFixed = errors.New("cables can be handled in network namespaces only")

func (k *Kit) host() (*netns.Host, error) {
	if c, ok := k.world.(changer); ok {
		return c.host(k.Index), nil
	}
	return nil, errFixed
}

const linkDevice = "eth0"

// Unplug pulls the cable to the other kits; Plug puts it back.
func (k *Kit) Unplug() error {
	return k.onHost(func(h *netns.Host) error { return h.Down(linkDevice) })
}

// Plug is the opposite of Unplug.
func (k *Kit) Plug() error { return k.onHost(func(h *netns.Host) error { return h.Up(linkDevice) }) }

// Readdress gives the kit another address on the cable, instead of those it has.
func (k *Kit) Readdress(p netip.Prefix) error {
	return k.onHost(func(h *netns.Host) error {
		// The old one first: the kernel deletes the other addresses of a subnet along with its first.
		return errors.Join(h.DeleteAddress(linkDevice, linkAddress(k.Index)), h.AddAddress(linkDevice, p))
	})
}

// RemoveInterface takes the interface away, as a USB adapter that is pulled out.
func (k *Kit) RemoveInterface() error {
	return k.onHost(func(h *netns.Host) error { return h.Delete(linkDevice) })
}

// AddInterface plugs in another one with an address.
func (k *Kit) AddInterface(p netip.Prefix) error {
	return k.onHost(func(h *netns.Host) error {
		if err := k.world.(changer).replug(k.Index); err != nil {
			return err
		}
		return errors.Join(h.AddAddress(linkDevice, p), h.Up(linkDevice))
	})
}

func (k *Kit) onHost(f func(*netns.Host) error) error {
	h, err := k.host()
	if err != nil {
		return err
	}
	return f(h)
}
