//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"fieldkit/firmware/emu"
	"fieldkit/firmware/image"
	"fieldkit/firmware/mission"
	"fieldkit/ui"
)

// Two kits in one machine with simulated radios, half of them each, and no cable between them: the product, and beside it the
// same program again in a network namespace. One joins the other's access point, over IPv6 of the kits' own alone, and
// they are one ring.
func TestKitsJoinByRadio(t *testing.T) {
	for _, c := range []struct {
		name   string
		radios int
		shared bool
	}{
		{"one radio each in both roles", 2, true},
		{"a radio to spare each", 4, false},
	} {
		t.Run(c.name, func(t *testing.T) { joinByRadio(t, c.radios, c.shared) })
	}
}

func joinByRadio(t *testing.T, n int, shared bool) {
	ctx := limit(t, 150*time.Second)
	img := radios.image(t, image.KernelDebian)
	m, err := mission.New("radio", mission.Options{})
	must(t, err)
	first := personal(t, m, 101, "")
	b := newBoard(t, emu.Options{
		Machine: emu.Virt, Card: newCard(t, img+"/"+image.ImageFile, first), Payload: withAgent(t),
		Cmdline: fmt.Sprintf("mac80211_hwsim.radios=%d", n),
	})
	v := on(ctx, t, b)
	a := v.Agent
	_, err = a.Up(ctx)
	must(t, err)
	run := func(at emu.Place, args ...string) {
		t.Helper()
		_, err := a.Run(ctx, at, args...)
		must(t, err)
	}
	const netns = "/tmp/kit2.netns"
	second := emu.Place{Netns: netns}
	run(emu.Place{}, "netns", netns)
	run(second, "up", "lo")
	run(emu.Place{}, "/sbin/modprobe", "mac80211_hwsim")
	for i := n / 2; i < n; i++ {
		run(emu.Place{}, "phy", fmt.Sprintf("wlan%d", i), netns)
	}
	must(t,
		a.Write(ctx, "/tmp/kit2.mission", first.Mission),
		a.Write(ctx, "/tmp/kit2.toml", []byte("state_dir = \"/tmp/kit2\"\nmission = \"/tmp/kit2.mission\"\nkit.number = 102\naccess.enabled = true\nlink.managed = true\n")))
	p, err := a.Begin(ctx, second, "alone", "/usr/bin/fieldkitd", "--config", "/tmp/kit2.toml")
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the second kit said at last:\n%s", p.Output().Tail(tailLines))
		}
	})
	began := time.Now()
	var one, two ui.Status
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the kits were at last: %s %s", brief(one), brief(two))
		}
	})
	eventually(ctx, t, time.Second, func() error {
		var err error
		if one, err = status(ctx, v, emu.Place{}); err != nil {
			return err
		}
		if two, err = status(ctx, v, second); err != nil {
			return fmt.Errorf("second kit: %w", err)
		}
		if len(one.Ring) != 2 || len(two.Ring) != 2 {
			return fmt.Errorf("not one ring: %s %s", brief(one), brief(two))
		}
		return nil
	})
	t.Logf("one ring %v after the second kit started: %s %s", time.Since(began).Round(time.Second), brief(one), brief(two))
	joined := []ui.Status{}
	for _, s := range []ui.Status{one, two} {
		if s.Station.State == "linked" {
			joined = append(joined, s)
		}
		for _, k := range s.Kits {
			for _, at := range k.Addresses {
				if addr := netip.MustParseAddrPort(at).Addr(); !addr.Is6() {
					t.Errorf("kit %d met the other at %v", s.Kit.Number, addr)
				}
			}
		}
	}
	switch {
	case len(joined) != 1:
		t.Errorf("%d kits are stations of the other, want one", len(joined))
	case joined[0].Station.Shared != shared:
		t.Errorf("joined with %+v", joined[0].Station)
	case shared && one.Access.Channel != two.Access.Channel:
		t.Errorf("one radio each, access points on channels %d and %d", one.Access.Channel, two.Access.Channel)
	}
}

// brief is what matters of a status here.
func brief(s ui.Status) string {
	b, err := json.Marshal(struct {
		Number  int
		Ring    int
		Access  string
		Channel int
		Station ui.Station
		Wrong   []ui.Check
	}{s.Kit.Number, len(s.Ring), s.Access.State, s.Access.Channel, s.Station, s.Problems()})
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(b), `"`, "")
}
