//go:build linux

package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"fieldkit/firmware/lab"
	"fieldkit/firmware/mission"
	"fieldkit/overlay/ident"
	"fieldkit/ui"
)

// While a kit is out of reach, its steward revokes one kit and the other island's steward another: both sign the same
// sequence. When they meet, all kits go over to the same document and say that there were two; what the stewards merge
// then ends it (docs/adr/0019).
func TestTwoStewardsMeet(t *testing.T) {
	l := running(t, lab.Options{Kits: 3})
	docs := map[*lab.Kit]*mission.Mission{}
	must(t, l.Kits[2].Unplug())
	var files []*mission.Mission
	for _, k := range []*lab.Kit{l.Kits[0], l.Kits[2]} {
		lost, err := ident.RandomNodeID(l.Mission().Document().NodeIDLength)
		must(t, err)
		m, err := l.Mission().Revoke(lost)
		must(t, err)
		must(t, m.Save(k.MissionFile()))
		docs[k] = m
		files = append(files, m)
	}
	docs[l.Kits[1]] = docs[l.Kits[0]]
	all := func(want func(*lab.Kit) *mission.Mission) func() error {
		return func() error {
			for _, k := range l.Kits {
				kept, err := mission.Load(filepath.Join(k.State(), mission.MissionItem))
				if err != nil {
					return err
				}
				if d := kept.Document(); !d.Same(want(k).Document()) {
					return fmt.Errorf("kit %d goes by sequence %d, %s", k.Number, d.Sequence, d.ShortHash())
				}
			}
			return nil
		}
	}
	eventually(t, time.Minute, all(func(k *lab.Kit) *mission.Mission { return docs[k] }))
	must(t, l.Kits[2].Plug())
	winner := files[0]
	if ident.Supersedes(files[0].Document(), files[1].Document()) {
		winner = files[1]
	}
	began := time.Now()
	eventually(t, 90*time.Second, all(func(*lab.Kit) *mission.Mission { return winner }))
	t.Logf("one document at all kits after %v", time.Since(began).Round(time.Second))
	within(t, time.Minute, l.WaitRing)
	warned := 0
	for _, k := range l.Kits {
		if says(status(t, k), "stewards") {
			warned++
		}
	}
	if warned == 0 {
		t.Error("no kit says that there were two configurations")
	}
	merged, err := files[0].Merge(files[1].Document())
	must(t, err)
	must(t, merged.Save(l.Kits[1].MissionFile()))
	eventually(t, time.Minute, all(func(*lab.Kit) *mission.Mission { return merged }))
	for _, k := range l.Kits {
		if says(status(t, k), "stewards") {
			t.Errorf("kit %d still says that there are two configurations", k.Number)
		}
	}
}

func says(s ui.Status, check string) bool {
	for _, c := range s.Health {
		if c.Name == check && c.State != "ok" {
			return true
		}
	}
	return false
}
