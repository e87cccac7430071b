//go:build linux

package e2e

import (
	"fmt"
	"testing"
	"time"

	"fieldkit/firmware/lab"
	"fieldkit/firmware/mission"
)

// RFC 6940 §11.3.1: who joins with a self-signed certificate "MUST store its certificate in the overlay". A kit stores its
// own under its Node-ID and its name, and that of each handset under the handset's names.
func TestSelfSignedCertificatesAreStored(t *testing.T) {
	l := newLab(t, lab.Options{Kits: 2, Mission: mission.Options{SelfSigned: true}}, "anna")
	must(t, l.StartKits(t.Context()))
	within(t, time.Minute, l.WaitRing)
	stored := func(k *lab.Kit, want uint64) func() error {
		return func() error {
			for _, c := range status(t, k).Counters {
				if c.Name == "certificates stored" {
					if c.Value != want {
						return fmt.Errorf("kit %d has %d certificates stored, want %d", k.Number, c.Value, want)
					}
					return nil
				}
			}
			return fmt.Errorf("kit %d stores no certificates", k.Number)
		}
	}
	for _, k := range l.Kits {
		eventually(t, 30*time.Second, stored(k, 2))
	}
	phones(t, l, 0) // by number and by name
	eventually(t, 30*time.Second, stored(l.Kits[0], 4))
	for _, c := range status(t, running(t, lab.Options{Kits: 1}).Kits[0]).Counters {
		if c.Name == "certificates stored" {
			t.Error("a kit whose root is believed stores its certificate, too")
		}
	}
}
