//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fieldkit/firmware/lab"
	"fieldkit/firmware/mission"
	"fieldkit/ui"
)

// addHandset has the operator's tool add an account to the mission file of a kit that runs.
func addHandset(t *testing.T, k *lab.Kit, name string) mission.Handset {
	t.Helper()
	tool, err := filepath.Abs("../../../bin/fieldkit")
	must(t, err)
	out, err := exec.Command(tool, "handset", "add", name, "--mission", k.Mission, "--kit", fmt.Sprint(k.Number), "--json").CombinedOutput()
	if err != nil {
		t.Fatalf("handset add: %v: %s", err, out)
	}
	var a mission.Account
	must(t, json.Unmarshal(out, &a))
	return mission.Handset{Name: a.Name, Number: a.User, Password: a.Password}
}

func knows(t *testing.T, k *lab.Kit, number string) bool {
	t.Helper()
	return slices.ContainsFunc(status(t, k).Handsets, func(h ui.Handset) bool { return h.Number == number })
}

// A kit takes up the account that the operator adds to its mission file while it runs, and who has it can be
// called from a kit whose file does not have it.
func TestHandsetAddedToARunningKitCanRegister(t *testing.T) {
	l := running(t, lab.Options{Kits: 2}, "anna")
	anna := phones(t, l, 0)[0]
	k := l.Kits[1]
	before := status(t, k).Kit.UptimeS
	carla := addHandset(t, k, "carla")
	if knows(t, l.Kits[0], carla.Number) {
		t.Fatal("the other kit knows the account, so this shows nothing")
	}
	p, err := l.StartPhoneWith(carla, lab.Answers, 1)
	must(t, err)
	within(t, 10*time.Second, p.WaitRegistered)
	if now := status(t, k).Kit.UptimeS; now < before {
		t.Errorf("the kit was restarted: up %v s, %v s before", now, before)
	}
	eventually(t, 5*time.Second, func() error {
		_, err := anna.Call(t.Context(), carla.Number)
		return err
	})
	_, _, err = anna.Hangup(t.Context(), p)
	must(t, err)
	// The account that was there before is not lost by it.
	if !knows(t, k, anna.Account.Number) {
		t.Errorf("kit %d lost %s", k.Number, anna.Account.Number)
	}
}

// Two kits without a mission meet: each founds its own, serves its handsets alone and says so.
func TestKitsWithoutAMissionStayAlone(t *testing.T) {
	l := newLab(t, lab.Options{Kits: 2})
	for range 2 {
		_, err := l.StartFounder()
		must(t, err)
	}
	var ids [2]string
	for i, k := range l.Kits {
		eventually(t, 10*time.Second, func() error {
			s, err := k.Status(t.Context())
			if err == nil && !s.Kit.Founded {
				err = fmt.Errorf("kit %d founded no mission", k.Number)
			}
			ids[i] = s.Kit.NodeID
			return err
		})
	}
	if a, b := status(t, l.Kits[0]).Kit.Overlay, status(t, l.Kits[1]).Kit.Overlay; a == b {
		t.Fatalf("both founded %q", a)
	}
	foreign := func(i int) error {
		s := status(t, l.Kits[i])
		for _, n := range s.Kits {
			if n.NodeID == ids[1-i] && n.State == "stranger" && strings.Contains(n.Reason, "another mission") {
				return nil
			}
		}
		return fmt.Errorf("kit %d does not list the other as of another mission: %+v", l.Kits[i].Number, s.Kits)
	}
	for i, k := range l.Kits {
		eventually(t, 20*time.Second, func() error { return foreign(i) })
		s := status(t, k)
		if !slices.ContainsFunc(s.Health, func(c ui.Check) bool {
			return c.Name == "mission" && c.State == "warn" && strings.Contains(c.Cause, "alone")
		}) {
			t.Errorf("kit %d does not say that it is alone: %+v", k.Number, s.Health)
		}
		a, b := addHandset(t, k, "anna"), addHandset(t, k, "boris")
		pa, err := l.StartPhoneWith(a, lab.Answers, i)
		must(t, err)
		pb, err := l.StartPhoneWith(b, lab.Answers, i)
		must(t, err)
		within(t, 10*time.Second, pa.WaitRegistered)
		within(t, 10*time.Second, pb.WaitRegistered)
		_, err = pa.Call(t.Context(), "boris")
		must(t, err)
		within(t, 10*time.Second, func(ctx context.Context) error { return pb.WaitMedia(ctx, 50) })
		_, heard, err := pa.Hangup(t.Context(), pb)
		must(t, err)
		if !heard.ToneOK {
			t.Errorf("kit %d: %+v", k.Number, heard)
		}
	}
	// By now each had the other in sight for as long as a kit of the mission needs to join many times over.
	for i, k := range l.Kits {
		must(t, foreign(i))
		if s := status(t, k); len(s.Ring) != 1 || s.Kit.JoinedMS != 0 {
			t.Errorf("kit %d is in a ring of %d", k.Number, len(s.Ring))
		}
	}
}
