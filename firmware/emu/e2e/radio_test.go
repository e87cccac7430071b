//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"fieldkit/firmware/emu"
	"fieldkit/firmware/image"
	"fieldkit/firmware/mission"
)

const (
	controlDir = "/tmp/wpa"
	// A station's network: WPA2 with the mission's passphrase, on the channels that access points of kits may use.
	stationConfig = "ctrl_interface=" + controlDir + "\nnetwork={\n ssid=%q\n psk=%q\n key_mgmt=WPA-PSK\n scan_freq=2412 2437 2462\n}\n"
)

// associate lets the handset join the network by radio.
func (h *handset) associate(ctx context.Context, t *testing.T, m *mission.Mission) {
	t.Helper()
	const config = "/tmp/wpa.conf"
	must(t, h.vm.Agent.Write(ctx, config, fmt.Appendf(nil, stationConfig, m.WiFi.SSID, m.WiFi.Passphrase)))
	p, err := h.vm.Agent.Begin(ctx, h.at, "/sbin/wpa_supplicant", "-i", h.device, "-c", config)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("wpa_supplicant said at last:\n%s", p.Output().Tail(40))
		}
	})
	h.associated(ctx, t, "")
}

// wpaStatus is a value of wpa_supplicant's status.
func (h *handset) wpaStatus(ctx context.Context, key string) (string, error) {
	out, err := h.vm.Agent.Run(ctx, h.at, "wpa", controlDir+"/"+h.device, "STATUS")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			return v, nil
		}
	}
	return "", nil
}

// associated waits until the handset is on an access point; bssid "" is any.
func (h *handset) associated(ctx context.Context, t *testing.T, bssid string) string {
	t.Helper()
	var on string
	eventually(ctx, t, 300*time.Millisecond, func() error {
		state, err := h.wpaStatus(ctx, "wpa_state")
		if err != nil {
			return err
		}
		if on, err = h.wpaStatus(ctx, "bssid"); err != nil {
			return err
		}
		if state != "COMPLETED" || bssid != "" && on != bssid {
			return fmt.Errorf("station is %s at %q", state, on)
		}
		return nil
	})
	return on
}

// onAir waits until the kit's access point is on the air and returns its BSSID.
func onAir(ctx context.Context, t *testing.T, v *emu.VM, at emu.Place) string {
	t.Helper()
	bssid := ""
	eventually(ctx, t, 500*time.Millisecond, func() error {
		s, err := status(ctx, v, at)
		if err != nil {
			return err
		}
		if s.Access.State != "on air" || len(s.Access.BSS) == 0 {
			return fmt.Errorf("access point of kit %d is %+v", s.Kit.Number, s.Access)
		}
		bssid = s.Access.BSS[0].BSSID
		return nil
	})
	return bssid
}

// A handset joins a kit by radio: it associates with the mission's network, gets an address, registers, and is called from
// another board on the cable; both hear the other.
func TestHandsetByRadio(t *testing.T) {
	ctx := limit(t, 5*time.Minute)
	m, err := mission.New("valley", mission.Options{})
	must(t, err)
	anna, err := m.AddHandset("Anna", 101)
	must(t, err)
	boris, err := m.AddHandset("Boris", 102)
	must(t, err)
	cable := emu.NewCable()
	began := time.Now()
	with := on(ctx, t, newBoard(t, emu.Options{
		Machine: emu.Virt, Card: newCard(t, radios.image(t, image.KernelDebian)+"/"+image.ImageFile, personal(t, m, 101, "")), Payload: withAgent(t),
		Cmdline: "mac80211_hwsim.radios=2", NICs: []emu.NIC{{MAC: "02:00:00:00:02:01", Cable: cable}},
	}))
	other := on(ctx, t, newBoard(t, emu.Options{
		Machine: emu.Virt, Card: newCard(t, cardImage(t), personal(t, m, 102, "")), Payload: withAgent(t),
		NICs: []emu.NIC{{MAC: "02:00:00:00:02:02", Cable: cable}},
	}))
	a := newHandset(ctx, t, with, anna, "wlan1")
	radioOf(ctx, t, a)
	_ = onAir(ctx, t, with, emu.Place{})
	t.Logf("on the air %.1f s after the power came", time.Since(began).Seconds())
	a.associate(ctx, t, m)
	lease := a.getLease(ctx, t, false)
	if !strings.HasPrefix(lease.Address, "10.73.") || lease.Mask != "255.255.0.0" || lease.Options[3] == nil || lease.Options[120] == nil {
		t.Errorf("lease %+v", lease)
	}
	a.begin(ctx, t, 500, 700)

	_ = serving(ctx, t, other)
	b := newHandset(ctx, t, other, boris, "eth9")
	b.wired(ctx, t)
	b.getLease(ctx, t, false)
	b.begin(ctx, t, 700, 500)
	published(ctx, t, with, emu.Place{}, anna.Number)
	published(ctx, t, other, emu.Place{}, boris.Number)
	call(ctx, t, b, a)
}

// radioOf loads the simulated radios and gives the handset its own. The first one is left to the kit: the kernel makes
// them all at once, so the kit must not take the handset's first.
func radioOf(ctx context.Context, t *testing.T, h *handset) {
	t.Helper()
	_, err := h.vm.Agent.Run(ctx, emu.Place{}, "/sbin/modprobe", "mac80211_hwsim")
	must(t, err)
	eventually(ctx, t, 100*time.Millisecond, func() error {
		_, err := h.vm.Agent.Run(ctx, emu.Place{}, "phy", h.device, h.at.Netns)
		return err
	})
	_, err = h.vm.Agent.Run(ctx, h.at, "up", "lo", h.device)
	must(t, err)
}

// A handset walks from one kit to the other: same network name, same passphrase, and the address that it has stays its own. It
// is then a handset of the other kit. Two kits share a machine here, because simulated radios do not leave it.
func TestHandsetRoams(t *testing.T) {
	t.Parallel()
	ctx := limit(t, 4*time.Minute)
	m, err := mission.New("valley", mission.Options{})
	must(t, err)
	anna, err := m.AddHandset("Anna", 101)
	must(t, err)
	first := personal(t, m, 101, "")
	v := on(ctx, t, newBoard(t, emu.Options{
		Machine: emu.Virt, Card: newCard(t, radios.image(t, image.KernelDebian)+"/"+image.ImageFile, first), Payload: withAgent(t),
		Cmdline: "mac80211_hwsim.radios=3",
	}))
	const netns = "/tmp/netns-kit2"
	second := emu.Place{Netns: netns}
	_, err = v.Agent.Run(ctx, emu.Place{}, "netns", netns)
	must(t, err)
	h := newHandset(ctx, t, v, anna, "wlan2")
	radioOf(ctx, t, h)
	_, err = v.Agent.Run(ctx, second, "up", "lo") // which PID 1 does for the first
	must(t, err)
	_, err = v.Agent.Run(ctx, emu.Place{}, "phy", "wlan1", netns)
	must(t, err,
		v.Agent.Write(ctx, "/tmp/kit2.mission", first.Mission),
		v.Agent.Write(ctx, "/tmp/kit2.toml", []byte("state_dir = \"/tmp/kit2\"\nmission = \"/tmp/kit2.mission\"\nkit.number = 102\naccess.enabled = true\nlink.managed = true\n")))
	p, err := v.Agent.Begin(ctx, second, "alone", "/usr/bin/fieldkitd", "--config", "/tmp/kit2.toml")
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the second kit said at last:\n%s", p.Output().Tail(tailLines))
		}
	})
	there := map[string]string{onAir(ctx, t, v, emu.Place{}): "101", onAir(ctx, t, v, second): "102"}
	if len(there) != 2 {
		t.Fatalf("two access points with one address: %v", there)
	}
	// With no cable one kit becomes the other's station, and moves its own access point to that channel. A handset that is told
	// to go where an access point was looks for it in vain, so they come to rest first.
	eventually(ctx, t, time.Second, func() error {
		for _, at := range []emu.Place{{}, second} {
			s, err := status(ctx, v, at)
			if err != nil {
				return err
			}
			if len(s.Ring) != 2 {
				return fmt.Errorf("kit %d is in a ring of %d", s.Kit.Number, len(s.Ring))
			}
		}
		return nil
	})
	h.associate(ctx, t, m)
	at := h.associated(ctx, t, "")
	lease := h.getLease(ctx, t, false)
	h.begin(ctx, t, 440, 0)
	where := func() string {
		s, err := status(ctx, v, h.at)
		must(t, err)
		return fmt.Sprint(s.Kit.Number)
	}
	if there[at] != where() {
		t.Errorf("on the access point of %q it reaches kit %s", there[at], where())
	}
	to := ""
	for bssid := range there {
		if bssid != at {
			to = bssid
		}
	}
	began := time.Now()
	tries := 0
	eventually(ctx, t, 3*time.Second, func() error { // as a phone does: it looks around, and goes where it heard one
		if on, err := h.wpaStatus(ctx, "bssid"); err != nil || on == to {
			return err
		}
		tries++
		heard, err := h.vm.Agent.Run(ctx, h.at, "wpa", controlDir+"/"+h.device, "ROAM "+to)
		if err == nil && !strings.Contains(heard, "OK") {
			_, err = h.vm.Agent.Run(ctx, h.at, "wpa", controlDir+"/"+h.device, "SCAN")
		}
		return errors.Join(err, errors.New("still at the first access point"))
	})
	h.associated(ctx, t, to)
	t.Logf("from kit %s to kit %s in %.1f s, told %d times", there[at], there[to], time.Since(began).Seconds(), tries)
	if again := h.getLease(ctx, t, true); again.Address != lease.Address {
		t.Errorf("it had %s and has %s", lease.Address, again.Address)
	}
	if there[to] != where() {
		t.Errorf("on the access point of %q it reaches kit %s", there[to], where())
	}
}
