package kit

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"fieldkit/board"
	"fieldkit/board/access"
	"fieldkit/overlay/wire"
	"fieldkit/ui"
)

// radioWorld is a machine with one radio, or none.
type radioWorld struct{ radios []access.Radio }

func (w radioWorld) Radios() ([]access.Radio, error)                               { return w.radios, nil }
func (radioWorld) Scan(context.Context, string, []int) (h []access.Heard, _ error) { return h, nil }
func (radioWorld) SetCountry(context.Context, string) error                        { return nil }
func (radioWorld) SwitchOn(int) error                                              { return nil }
func (radioWorld) MakeBridge(string, netip.Prefix) error                           { return nil }
func (radioWorld) AddPort(string, string) error                                    { return os.ErrNotExist }

func TestAccessPointIsCalledAsTheMissionSays(t *testing.T) {
	k := still(t)
	m := k.mission.Load()
	s := k.accessSettings()
	if s.SSID != m.WiFi.SSID || s.Passphrase != m.WiFi.Passphrase || s.OwnSSID != m.WiFi.SSID+" KIT-101" || s.Country != "" || s.Channel != 0 {
		t.Errorf("%+v", s)
	}
	e, err := access.Parse(s.Element)
	if err != nil || e.Overlay != wire.OverlayHash(m.Overlay) || !bytes.Equal(e.NodeID, k.id.NodeID().Bytes()) {
		t.Errorf("%+v, %v", e, err)
	}
	// What the operator wrote on the card comes first.
	k.cfg.Access.SSID, k.cfg.Access.Passphrase, k.cfg.Access.Country, k.cfg.Access.Channel = "Other", "another one", "DE", 13
	k.cfg.Access.Interface, k.cfg.Access.MaxHandsets, k.cfg.Access.Wired = "wlan1", 4, []string{"eth1"}
	s = k.accessSettings()
	if s.SSID != "Other" || s.Passphrase != "another one" || s.OwnSSID != "Other KIT-101" || s.Country != "DE" || s.Channel != 13 ||
		s.Interface != "wlan1" || s.MaxHandsets != 4 || len(s.Wired) != 1 {
		t.Errorf("%+v", s)
	}
	k.cfg.Access.OwnName = false
	if s = k.accessSettings(); s.OwnSSID != "" {
		t.Errorf("%+v", s)
	}
}

func TestHealthOfTheAccessPoint(t *testing.T) {
	k := still(t)
	k.lights.changes = make(chan struct{}, 1)
	for _, c := range []struct {
		status access.Status
		want   string
	}{
		{access.Status{Problem: "no radio found"}, "warn: no radio found"},
		{access.Status{Problem: "hostapd ended", Severe: true}, "fault: hostapd ended"},
		{access.Status{Enabled: true, Clients: 7, Limit: 8}, "ok"},
		{access.Status{Enabled: true, Clients: 8, Limit: 8}, "warn: full: 8 handsets on the air, the radio serves no more"},
		{access.Status{Enabled: true, Clients: 8, Limit: 8, Problem: "country XX not in force"}, "warn: country XX not in force"},
	} {
		k.accessHealth(c.status)
		if got := check(k, "access"); got != c.want {
			t.Errorf("%+v: %q", c.status, got)
		}
	}
}

// A kit that leaves the Wi-Fi to the system says so, and one whose radio is missing serves on.
func TestAccessPointOnThePage(t *testing.T) {
	k := still(t)
	if k.newAccess() != nil {
		t.Error("a kit that is no card's makes an access point")
	}
	var s ui.Status
	if k.accessStatus(&s); s.Access.State != "system" || s.Access.BSS == nil || k.accessFull() {
		t.Errorf("%+v", s.Access)
	}
	k.lights.changes = make(chan struct{}, 1)
	k.lights.board = board.New(board.NewSimulated().Hardware(), board.Config{})
	k.access = access.New(access.Config{
		Hostapd: "/nonexistent", Dir: t.TempDir(), Address: netip.MustParsePrefix("10.73.0.1/16"), System: radioWorld{},
	})
	run := func(while func()) error {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		ready, done := make(chan struct{}, 1), make(chan error, 1)
		go func() {
			done <- k.runAccess(ctx, func() {
				select {
				case ready <- struct{}{}:
				default:
				}
			})
		}()
		select {
		case <-ready:
			while()
			stop()
			return <-done
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("neither ready nor failed")
			return nil
		}
	}
	_ = run(func() {
		if got := check(k, "access"); !strings.HasPrefix(got, "warn: no radio found") {
			t.Errorf("%q", got)
		}
		if k.accessStatus(&s); s.Access.State != "off" || s.Access.SSID != k.mission.Load().WiFi.SSID {
			t.Errorf("%+v", s.Access)
		}
	})
	// With a radio and without hostapd it is a fault that stays until the next try.
	k.access = access.New(access.Config{
		Hostapd: "/nonexistent", Dir: t.TempDir(), Address: netip.MustParsePrefix("10.73.0.1/16"),
		System: radioWorld{[]access.Radio{{
			Interface: "wlan0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Driver: "brcmfmac", AP: true, Channels: []access.Channel{{Number: 6, Frequency: 2437}},
		}}},
	})
	if err := run(func() { t.Error("ready") }); err == nil {
		t.Error("no error without hostapd")
	}
	if got := check(k, "access"); !strings.HasPrefix(got, "fault: access point did not start: hostapd:") {
		t.Errorf("%q", got)
	}
	if k.accessStatus(&s); s.Access.Radio != "wlan0 (brcmfmac)" || s.Access.Limit != 7 || s.Access.Clients != 0 {
		t.Errorf("%+v", s.Access)
	}
}
