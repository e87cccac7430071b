//go:build linux

package e2e

import (
	"net/netip"
	"testing"
	"time"

	"fieldkit/firmware/lab"
)

func TestKitsPoweredUpTogetherBecomeOneRing(t *testing.T) {
	l := newLab(t, lab.Options{Kits: lab.MaxKits})
	began := time.Now()
	must(t, l.StartKits(t.Context()))
	within(t, 2*time.Minute, l.WaitRing)
	t.Logf("%d kits in one ring after %v", lab.MaxKits, time.Since(began).Round(time.Millisecond))
	for _, k := range l.Kits {
		s := status(t, k)
		linked := 0
		for _, n := range s.Kits {
			if n.State == "linked" {
				linked++
			}
		}
		if linked != lab.MaxKits-1 {
			t.Errorf("kit %d is linked to %d others", k.Number, linked)
		}
	}
}

// Interfaces come, go and change address under a running kit.
func TestKitFollowsItsInterfaces(t *testing.T) {
	l := running(t, lab.Options{Kits: 2}, "anna", "boris")
	k := l.Kits[1]
	works := func(what string) {
		t.Helper()
		within(t, 40*time.Second, l.WaitRing)
		t.Logf("%s: one ring again", what)
	}
	alone := func(what string) {
		t.Helper()
		eventually(t, 40*time.Second, func() error { return ringOf(l.Kits[0], 1) })
		t.Logf("%s: noticed", what)
	}
	must(t, k.Unplug())
	alone("cable pulled")
	must(t, k.Plug())
	works("cable back")

	must(t, k.Readdress(netip.MustParsePrefix("169.254.61.9/16")))
	works("new address")
	eventually(t, 40*time.Second, func() error { return knownAt(l.Kits[0], "169.254.61.9") })

	must(t, k.RemoveInterface())
	alone("interface gone")
	must(t, k.AddInterface(netip.MustParsePrefix("169.254.62.9/16")))
	works("another interface")
	p := phones(t, l, 0, 1)
	_, err := p[0].Call(t.Context(), p[1].Account.Number)
	must(t, err)
	_, _, err = p[0].Hangup(t.Context(), p[1])
	must(t, err)
}

// Two islands that served their own handsets meet: everybody reaches everybody.
func TestIslandsMeet(t *testing.T) {
	l := newLab(t, lab.Options{Kits: 4}, "anna", "boris", "carla", "dora")
	must(t, l.SetCondition(100, 0)) // nothing gets through between kits
	must(t, l.StartKits(t.Context()))
	for _, k := range l.Kits {
		eventually(t, 20*time.Second, func() error { return ringOf(k, 1) })
	}
	p := phones(t, l, 0, 1, 2, 3)
	must(t, l.SetCondition(0, 0))
	within(t, time.Minute, l.WaitRing)
	for i := range p {
		callee := p[(i+1)%len(p)]
		eventually(t, 20*time.Second, func() error {
			_, err := p[i].Call(t.Context(), callee.Account.Number)
			return err
		})
		_, _, err := p[i].Hangup(t.Context(), callee)
		must(t, err)
	}
}
