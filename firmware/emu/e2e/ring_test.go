//go:build linux

package e2e

import (
	"fmt"
	"testing"
	"time"

	"fieldkit/firmware/emu"
	"fieldkit/firmware/mission"
)

// Three boards on one cable become one ring by themselves, and a phone at the first calls one at the third. Then the cable of
// the third is pulled and put back: the others notice, and it is in again.
func TestThreeBoardsOnACable(t *testing.T) {
	ctx := limit(t, 5*time.Minute)
	m, err := mission.New("valley", mission.Options{})
	must(t, err)
	anna, err := m.AddHandset("Anna", 101)
	must(t, err)
	boris, err := m.AddHandset("Boris", 103)
	must(t, err)
	cable := emu.NewCable()
	var vms []*emu.VM
	began := time.Now()
	for i := range 3 {
		b := newBoard(t, emu.Options{
			Machine: emu.Virt, Card: newCard(t, cardImage(t), personal(t, m, 101+i, "")), Payload: withAgent(t),
			NICs: []emu.NIC{{MAC: fmt.Sprintf("02:00:00:00:01:%02x", i+1), Cable: cable}},
		})
		vms = append(vms, on(ctx, t, b))
	}
	oneRing := func(of []*emu.VM) {
		t.Helper()
		eventually(ctx, t, time.Second, func() error {
			for _, v := range of {
				s, err := status(ctx, v, emu.Place{})
				if err != nil {
					return err
				}
				if len(s.Ring) != len(of) {
					return fmt.Errorf("kit %d is in a ring of %d", s.Kit.Number, len(s.Ring))
				}
			}
			return nil
		})
	}
	oneRing(vms)
	t.Logf("one ring %.1f s after the power came", time.Since(began).Seconds())

	a, b := newHandset(ctx, t, vms[0], anna, "eth9"), newHandset(ctx, t, vms[2], boris, "eth9")
	for i, h := range []*handset{a, b} {
		h.wired(ctx, t)
		h.getLease(ctx, t, false)
		h.begin(ctx, t, float64(500+200*i), float64(700-200*i))
	}
	published(ctx, t, vms[0], emu.Place{}, anna.Number)
	published(ctx, t, vms[2], emu.Place{}, boris.Number)
	call(ctx, t, a, b)

	must(t, vms[2].SetLink(0, false))
	oneRing(vms[:2])
	must(t, vms[2].SetLink(0, true))
	oneRing(vms)
	if sent, lost := cable.Frames(); sent == 0 || lost > 0 {
		t.Errorf("the cable carried %d frames and lost %d", sent, lost)
	}
}
