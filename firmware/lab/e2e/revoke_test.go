//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"fieldkit/firmware/lab"
	"fieldkit/overlay/wire"
)

// A lost kit is cut off by one changed mission file at one kit: the others learn it from there.
func TestRevokedKitIsCutOffEverywhere(t *testing.T) {
	l := running(t, lab.Options{Kits: 3}, "anna", "boris")
	p := phones(t, l, 0, 1)
	lost := status(t, l.Kits[2]).Kit.NodeID
	id, err := wire.ParseNodeID(lost)
	must(t, err)
	newer, err := l.Mission().Revoke(id)
	must(t, err)
	must(t, newer.Save(l.Kits[0].MissionFile()))
	for _, k := range l.Kits[:2] {
		eventually(t, 30*time.Second, func() error {
			s := status(t, k)
			if len(s.Ring) != 2 || strings.Contains(strings.Join(s.Ring, " "), lost) {
				return fmt.Errorf("kit %d has the ring %v", k.Number, s.Ring)
			}
			for _, n := range s.Kits {
				if n.NodeID == lost && n.State == "linked" {
					return fmt.Errorf("kit %d is linked to the lost kit", k.Number)
				}
			}
			return nil
		})
	}
	eventually(t, 30*time.Second, func() error { return ringOf(l.Kits[2], 1) })
	eventually(t, 20*time.Second, func() error {
		_, err := p[0].Call(t.Context(), p[1].Account.Number)
		return err
	})
	_, _, err = p[0].Hangup(t.Context(), p[1])
	must(t, err)
	// It stays cut off after a restart of the kit that learnt it from its neighbour.
	must(t, l.Kits[1].Stop(), l.Kits[1].Restart())
	eventually(t, 30*time.Second, func() error { return ringOf(l.Kits[1], 2) })
	if strings.Contains(strings.Join(status(t, l.Kits[1]).Ring, " "), lost) {
		t.Error("the restarted kit believes the lost one again")
	}
}
