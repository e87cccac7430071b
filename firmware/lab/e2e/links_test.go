//go:build linux

package e2e

import (
	"testing"
	"time"

	"fieldkit/firmware/lab"
	"fieldkit/firmware/mission"
)

// The links that a mission's configuration document can ask for (RFC 6940 §6.6, §11.1, §13.4) and the ways in which
// its kits get their certificates carry a ring and a call alike.
func TestRingAndCallOverEveryKindOfLink(t *testing.T) {
	const no, yes = false, true
	for _, c := range []struct {
		name    string
		mission mission.Options
		cable   map[traffic]bool // what is on the cable between the kits during the call
	}{
		{"DTLS-UDP-SR", mission.Options{}, map[traffic]bool{ice: yes, dtls: yes, tcp: no}},
		{"DTLS-UDP-SR-NO-ICE", mission.Options{Links: mission.Directly}, map[traffic]bool{ice: no, dtls: yes, tcp: no}},
		{"TLS-TCP-FH-NO-ICE", mission.Options{Links: mission.ByTCP}, map[traffic]bool{ice: no, dtls: no, tcp: yes}},
		{"shared secret", mission.Options{SharedSecret: true}, map[traffic]bool{ice: yes, dtls: yes, tcp: no}},
		{"self-tuning", mission.Options{SelfTuning: true}, map[traffic]bool{ice: yes, dtls: yes, tcp: no}},
		{"self-signed", mission.Options{SelfSigned: true}, map[traffic]bool{ice: yes, dtls: yes, tcp: no}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, lab.Options{Kits: 3, Mission: c.mission}, "anna", "boris")
			must(t, l.StartKits(t.Context()))
			cable, err := newTap(l.Kits[0])
			must(t, err)
			cable.start()
			within(t, time.Minute, l.WaitRing)
			p := phones(t, l, 0, 1)
			_, err = p[0].Call(t.Context(), p[1].Account.Number)
			must(t, err)
			pause(t, 2*time.Second)
			a, b, err := p[0].Hangup(t.Context(), p[1])
			must(t, err)
			t.Logf("%s: %+v, %s: %+v", p[0].Account.Number, a, p[1].Account.Number, b)
			if a.Received < 60 || b.Received < 60 || !a.ToneOK || !b.ToneOK {
				t.Errorf("the voice suffered: %+v, %+v", a, b)
			}
			seen := cable.stop()
			t.Log("bytes on the cable:", seen)
			for kind, want := range c.cable {
				if got := seen[kind] > 0; got != want {
					t.Errorf("%v on the cable: %d bytes", kind, seen[kind])
				}
			}
		})
	}
}
