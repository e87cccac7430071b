package update

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"fieldkit/firmware/card"
)

var t0 = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func idle(rec Record) *Machine {
	m, _ := NewMachine(t0, Start{System: system(5, card.A), ID: "55", Record: rec})
	return m
}

func offered(n uint64) card.Header {
	return card.Header{Manifest: card.Manifest{Release: release(n), Size: 512, SHA256: strings.Repeat(fmt.Sprintf("%02x", n), 32)}}
}

// written is a machine with release n written and waiting.
func written(t *testing.T, n uint64) *Machine {
	t.Helper()
	m := idle(Record{})
	if _, err := m.Accept(t0, offered(n), []byte("header"), true); err != nil {
		t.Fatal(err)
	}
	if a := m.Received(t0, nil, 0); !slices.Equal(a, []Action{Keep}) {
		t.Fatalf("actions %v", a)
	}
	return m
}

func TestAcceptNamesWhatIsWrong(t *testing.T) {
	change := func(f func(*card.Release)) card.Header {
		h := offered(7)
		f(&h.Manifest.Release)
		return h
	}
	failed := Record{Failed: []string{offered(7).Manifest.SHA256}}
	for name, c := range map[string]struct {
		m      *Machine
		h      card.Header
		person bool
		want   error
		says   string
	}{
		"newer":                      {idle(Record{}), offered(7), true, nil, ""},
		"newer, of a neighbour":      {idle(Record{}), offered(7), false, nil, ""},
		"the same":                   {idle(Record{}), offered(5), true, ErrSame, "v0.5 (5) runs"},
		"older":                      {idle(Record{}), offered(4), true, ErrOlder, "v0.4 (4), this kit had 5"},
		"older than what was":        {idle(Record{Floor: 9}), offered(7), true, ErrOlder, "this kit had 9 and runs v0.5 (5)"},
		"as old as what was":         {idle(Record{Floor: 7}), offered(7), true, nil, ""},
		"failed before":              {idle(failed), offered(7), false, ErrFailed, "v0.7"},
		"failed thrice, by a person": {idle(Record{Failed: slices.Repeat(failed.Failed, 3)}), offered(7), true, ErrFailed, "3 times"},
		"failed, by a person":        {idle(failed), offered(7), true, nil, ""},
		"other product":              {idle(Record{}), change(func(r *card.Release) { r.Product = "toaster" }), true, ErrBoard, "product toaster"},
		"other layout":               {idle(Record{}), change(func(r *card.Release) { r.Layout = 2 }), true, ErrBoard, "card layout 2"},
		"other flavour":              {idle(Record{}), change(func(r *card.Release) { r.Flavour = "debian" }), true, ErrBoard, "flavour debian, this kit has rpi"},
		"other board":                {idle(Record{}), change(func(r *card.Release) { r.Boards = "brcm,bcm2712" }), true, ErrBoard, "boards brcm,bcm2712, this kit has raspberrypi,3-model-b brcm,bcm2837"},
		"any board":                  {idle(Record{}), change(func(r *card.Release) { r.Boards = "" }), true, nil, ""},
		"it waits already":           {written(t, 7), offered(7), true, ErrSame, "v0.7 (7) is written and waits"},
		"a newer one waits":          {written(t, 7), offered(6), true, ErrOlder, "v0.7 (7) waits"},
		"newer than what waits":      {written(t, 7), offered(8), false, nil, ""},
		"while one is received":      {receiving(t), offered(8), true, ErrBusy, "v0.7 is being received"},
		"while one is tried":         {trying(t), offered(8), true, ErrBusy, "tried"},
		"while this is a trial":      {onTrial(), offered(9), true, ErrBusy, "tried"},
	} {
		_, err := c.m.Accept(t0, c.h, nil, c.person)
		if !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		} else if err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q does not say %q", name, err, c.says)
		}
		if got := c.m.View(t0).State == Receiving; got != (c.want == nil || name == "while one is received") {
			t.Errorf("%s: state %s", name, c.m.View(t0).State)
		}
	}
}

func receiving(t *testing.T) *Machine {
	t.Helper()
	m := idle(Record{})
	if _, err := m.Accept(t0, offered(7), nil, true); err != nil {
		t.Fatal(err)
	}
	return m
}

func trying(t *testing.T) *Machine {
	t.Helper()
	m := written(t, 7)
	if _, a := until(m, t0, time.Hour, World{}); !slices.Equal(a, []Action{Keep, TryBoot}) {
		t.Fatalf("actions %v", a)
	}
	return m
}

// trialRecord is what the old system leaves for the trial of release 7 in slot B.
func trialRecord(known ...string) Record {
	return Record{Floor: 5, Header: []byte("old"), Pending: &Pending{Header: []byte("new"), Manifest: offered(7).Manifest, Slot: card.B, Tried: true, Known: known}}
}

func onTrial() *Machine {
	m, _ := NewMachine(t0, Start{System: system(7, card.B), Trial: true, Record: trialRecord()})
	return m
}

// until ticks once a second until there is something to do, and returns when.
func until(m *Machine, now time.Time, limit time.Duration, w World) (time.Duration, []Action) {
	for d := time.Duration(0); d <= limit; d += time.Second {
		if a := m.Tick(now.Add(d), w); a != nil {
			return d, a
		}
	}
	return limit, nil
}

func TestNothingIsTriedDuringACall(t *testing.T) {
	m := written(t, 7)
	if d, a := until(m, t0, 12*time.Hour, World{Calls: 1}); a != nil {
		t.Fatalf("during a call after %v: %v", d, a)
	}
	if v := m.View(t0); v.State != Written || !strings.Contains(v.Why, "end of 1 calls") || v.Ready {
		t.Errorf("%+v", v)
	}
	hung := t0.Add(12 * time.Hour)
	d, a := until(m, hung.Add(time.Second), time.Hour, World{})
	if !slices.Equal(a, []Action{Keep, TryBoot}) || d < quietFor-time.Second {
		t.Errorf("after the call: %v after %v", a, d)
	}
	if p := m.Record().Pending; !p.Tried || p.Slot != card.B {
		t.Errorf("%+v", p)
	}
	// A call that begins while the kit claims its turn puts it off, too.
	m = written(t, 7)
	if _, a := until(m, t0, quietFor+claimFor-3*time.Second, World{}); a != nil {
		t.Fatal(a)
	}
	if m.Tick(t0.Add(quietFor+claimFor-2*time.Second), World{Calls: 2}); m.View(t0).Claim {
		t.Error("the claim stands during a call")
	}
	if a := m.Tick(t0.Add(quietFor+claimFor), World{}); a != nil {
		t.Errorf("at once after a call: %v", a)
	}
}

func TestTheTryWaitsItsDelay(t *testing.T) {
	m := receiving(t)
	m.Received(t0, nil, 5*time.Minute)
	if d, _ := until(m, t0, time.Hour, World{}); d < 5*time.Minute || d > 5*time.Minute+claimFor+time.Second {
		t.Errorf("tried after %v", d)
	}
}

func TestTurnsOfNeighbours(t *testing.T) {
	n := func(id string, s State, ready, claim bool, age time.Duration) []Neighbour {
		return []Neighbour{{ID: id, State: s, Ready: ready, Claim: claim, Age: age}}
	}
	for name, c := range map[string]struct {
		claimed bool
		waited  time.Duration
		all     []Neighbour
		free    bool
	}{
		"alone":                              {false, 0, nil, true},
		"idle neighbour":                     {false, 0, n("11", Idle, false, false, 0), true},
		"one on trial":                       {false, 0, n("99", Trying, false, false, time.Minute), false},
		"one on trial, while this claims":    {true, 0, n("99", Trying, false, false, 0), false},
		"one that restarted and stays away":  {false, 0, n("99", Trying, false, false, absentFor), true},
		"one on trial, long wait":            {false, 24 * time.Hour, n("99", Trying, false, false, time.Minute), false},
		"smaller one waits its turn":         {false, 0, n("11", Written, true, false, 0), false},
		"smaller one waits, and is gone":     {false, 0, n("11", Written, true, false, freshFor), true},
		"smaller one waits too long":         {false, orderLimit, n("11", Written, true, false, 0), true},
		"smaller one waits for its calls":    {false, 0, n("11", Written, false, false, 0), true},
		"greater one waits its turn":         {false, 0, n("99", Written, true, false, 0), true},
		"greater one claims":                 {false, 0, n("99", Written, true, true, 0), false},
		"greater one claimed and restarted":  {false, 0, n("99", Written, true, true, 5*time.Minute), false},
		"both claim, the other is greater":   {true, 0, n("99", Written, true, true, 0), true},
		"both claim, the other is smaller":   {true, 0, n("11", Written, true, true, 0), false},
		"claimed, and a smaller one arrives": {true, 0, n("11", Written, true, false, 0), true},
	} {
		if got := turn("55", c.claimed, c.waited, c.all); (got == "") != c.free {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// A whole neighbourhood gets a bundle at the same moment. One restarts at a time, and all of them do.
func TestOneKitOfANeighbourhoodRestartsAtATime(t *testing.T) {
	const kits = 6
	ids := make([]string, kits)
	all := make([]*Machine, kits)
	for i := range all {
		ids[i] = fmt.Sprintf("%02x", 0x90-16*i) // the last one is the smallest
		m, _ := NewMachine(t0, Start{System: system(5, card.A), ID: ids[i]})
		if _, err := m.Accept(t0, offered(7), nil, false); err != nil {
			t.Fatal(err)
		}
		m.Received(t0, nil, time.Duration(i)*time.Second)
		all[i] = m
	}
	type answer struct {
		Neighbour
		at time.Time
	}
	heard := make([]map[string]answer, kits)
	back := map[int]time.Time{} // when a restarted kit is up again
	done, down, most := 0, 0, 0
	for d := time.Duration(0); d < 2*time.Hour && done < kits; d += time.Second {
		now := t0.Add(d)
		for i, m := range all {
			if at, away := back[i]; away {
				if now.Before(at) {
					continue
				}
				delete(back, i)
				down--
				done++
				all[i], _ = NewMachine(now, Start{System: system(7, card.B), ID: ids[i]})
				m = all[i]
			}
			if heard[i] == nil {
				heard[i] = map[string]answer{}
			}
			if (int(d/time.Second)+i)%5 == 0 { // each asks the others every five seconds
				for j, o := range all {
					if _, away := back[j]; !away && j != i {
						v := o.View(now)
						heard[i][ids[j]] = answer{Neighbour{ID: ids[j], State: v.State, Ready: v.Ready, Claim: v.Claim}, now}
					}
				}
			}
			var w World
			for _, a := range heard[i] {
				a.Age = now.Sub(a.at)
				w.Neighbours = append(w.Neighbours, a.Neighbour)
			}
			if a := m.Tick(now, w); slices.Contains(a, TryBoot) {
				back[i] = now.Add(time.Minute)
				down++
				most = max(most, down)
			}
		}
	}
	if done != kits || most != 1 {
		t.Errorf("%d of %d kits restarted, %d at a time", done, kits, most)
	}
}

func TestTrial(t *testing.T) {
	m, a := NewMachine(t0, Start{System: system(7, card.B), Trial: true, Record: trialRecord("access point")})
	if !slices.Equal(a, []Action{Keep}) || !m.Record().Pending.Started {
		t.Fatalf("%v %+v", a, m.Record().Pending)
	}
	if _, _, ok := offerOf(m); ok {
		t.Error("a system on trial is offered to others")
	}
	// What was wrong before is no fault of the new system.
	sick := World{Wrong: []Problem{{"SIP", "no answer"}, {"access point", "off"}}}
	if _, a := until(m, t0, time.Minute, sick); a != nil {
		t.Fatalf("committed while sick: %v", a)
	}
	if v := m.View(t0); v.Why != "not healthy: SIP: no answer" {
		t.Errorf("why %q", v.Why)
	}
	well := World{Wrong: []Problem{{"access point", "off"}}}
	if _, a := until(m, t0.Add(time.Minute), 10*time.Second, well); a != nil {
		t.Fatalf("committed at once: %v", a)
	}
	m.Tick(t0.Add(80*time.Second), sick) // well for 10 s does not count any more
	d, a := until(m, t0.Add(81*time.Second), time.Minute, well)
	if !slices.Equal(a, []Action{Commit}) || d != greenFor {
		t.Fatalf("%v after %v", a, d)
	}
	if a := m.Committed(t0.Add(2 * time.Minute)); !slices.Equal(a, []Action{Confirm, Keep}) {
		t.Fatalf("%v", a)
	}
	r := m.Record()
	if r.Floor != 7 || string(r.Header) != "new" || r.Pending != nil || r.Last.State != Committed || len(r.Failed) != 0 {
		t.Errorf("%+v", r)
	}
	if _, _, ok := offerOf(m); !ok {
		t.Error("the committed system is not offered")
	}
	if _, err := m.Accept(t0, offered(8), nil, true); err != nil {
		t.Errorf("the next update: %v", err)
	}
	if p := m.receiving; p.Slot != card.A {
		t.Errorf("the next update goes to slot %v", p.Slot)
	}
}

func offerOf(m *Machine) ([]byte, State, bool) {
	v := m.View(t0)
	return v.Header, v.State, v.Header != nil
}

func TestTrialThatDoesNotGetHealthyGoesBack(t *testing.T) {
	var m *Machine
	var d time.Duration
	for _, c := range []struct{ limit, want time.Duration }{{time.Minute, time.Minute}, {time.Hour, MaxTrial}, {0, MaxTrial}} {
		m, _ = NewMachine(t0, Start{System: system(7, card.B), Trial: true, Limit: c.limit, Record: trialRecord()})
		var a []Action
		d, a = until(m, t0, time.Hour, World{Wrong: []Problem{{"overlay port", "no answer"}}})
		if !slices.Equal(a, []Action{Keep, GiveUp}) || d != c.want {
			t.Fatalf("limit %v: %v after %v", c.limit, a, d)
		}
	}
	if _, again := until(m, t0.Add(d), time.Hour, World{}); again != nil {
		t.Errorf("it got well after it gave up: %v", again)
	}
	old, a := NewMachine(t0, Start{System: system(5, card.A), Record: m.Record()})
	if v := old.View(t0); v.State != RolledBack || !strings.Contains(v.Why, "overlay port: no answer") || !slices.Equal(a, []Action{Keep}) {
		t.Errorf("%+v %v", v, a)
	}
	if _, err := old.Accept(t0, offered(7), nil, false); !errors.Is(err, ErrFailed) {
		t.Errorf("tried again by itself: %v", err)
	}
	// It stays so through further boots, and until something else happened.
	again, a := NewMachine(t0, Start{System: system(5, card.A), Record: old.Record()})
	if v := again.View(t0); v.State != RolledBack || len(a) != 0 {
		t.Errorf("%+v %v", v, a)
	}
	if _, err := again.Accept(t0, offered(7), nil, true); err != nil {
		t.Errorf("a person may: %v", err)
	}
}

func TestAfterTheReboot(t *testing.T) {
	started, gave := trialRecord(), trialRecord()
	started.Pending.Started = true
	gave.Pending.Started, gave.Pending.Why = true, "not healthy: SIP: no answer"
	waits := trialRecord()
	waits.Pending.Tried = false
	for name, c := range map[string]struct {
		s     Start
		state State
		says  string
		floor uint64
	}{
		"first boot":                     {Start{System: system(5, card.A)}, Idle, "", 5},
		"the note is older":              {Start{System: system(5, card.A), Record: Record{Floor: 3}}, Idle, "", 5},
		"it never started":               {Start{System: system(5, card.A), Record: trialRecord()}, RolledBack, "did not start", 5},
		"it died":                        {Start{System: system(5, card.A), Record: started}, RolledBack, "ended before it was healthy", 5},
		"it died and left word":          {Start{System: system(5, card.A), Record: started, Crash: "Kernel panic"}, RolledBack, "crashed: Kernel panic", 5},
		"it gave up":                     {Start{System: system(5, card.A), Record: gave}, RolledBack, "SIP: no answer", 5},
		"cut between commit and note":    {Start{System: system(7, card.B), Record: started}, Committed, "", 7},
		"cut before the reboot":          {Start{System: system(5, card.A), Record: waits}, Written, "", 5},
		"the card of another kit's note": {Start{System: system(7, card.B), Record: waits}, Idle, "", 7},
		"trial, and the note is lost":    {Start{System: system(7, card.B), Trial: true}, Trying, "starting", 0},
	} {
		m, _ := NewMachine(t0, c.s)
		v := m.View(t0)
		if v.State != c.state || !strings.Contains(v.Why, c.says) || m.Record().Floor != c.floor {
			t.Errorf("%s: %s %q, floor %d", name, v.State, v.Why, m.Record().Floor)
		}
		if v.Check != (c.state == Written) {
			t.Errorf("%s: to be checked: %v", name, v.Check)
		}
	}
}

// The manifest is signed, the release in the slot is what runs: they must be the same.
func TestTrialOfSomethingElseThanWasSigned(t *testing.T) {
	m, a := NewMachine(t0, Start{System: system(6, card.B), Trial: true, Record: trialRecord()})
	if !slices.Equal(a, []Action{Keep, GiveUp}) || !strings.Contains(m.View(t0).Why, "the system is v0.6 (6), the update said v0.7 (7)") {
		t.Errorf("%v %+v", a, m.View(t0))
	}
}

func TestWrittenBeforeTheRebootIsCheckedFirst(t *testing.T) {
	waits := trialRecord()
	waits.Pending.Tried = false
	m, _ := NewMachine(t0, Start{System: system(5, card.A), Record: waits})
	if _, a := until(m, t0, time.Hour, World{}); a != nil {
		t.Fatalf("tried unchecked: %v", a)
	}
	bad, _ := NewMachine(t0, Start{System: system(5, card.A), Record: waits})
	if a := bad.Checked(t0, ErrDamaged); !slices.Equal(a, []Action{Keep}) || bad.Record().Pending != nil || bad.View(t0).State != Refused {
		t.Errorf("%v %+v", a, bad.View(t0))
	}
	m.Checked(t0, nil)
	if _, a := until(m, t0, time.Hour, World{}); !slices.Contains(a, TryBoot) {
		t.Errorf("%v", a)
	}
}

func TestActionsThatFail(t *testing.T) {
	t.Run("reboot", func(t *testing.T) {
		m := trying(t)
		now := t0.Add(time.Hour)
		if a := m.Failed(now, TryBoot, errors.New("no init")); !slices.Equal(a, []Action{Keep}) || m.Record().Pending.Tried {
			t.Errorf("%v %+v", a, m.Record().Pending)
		}
		if d, a := until(m, now, time.Hour, World{}); d < retryPause || !slices.Contains(a, TryBoot) {
			t.Errorf("%v after %v", a, d)
		}
	})
	t.Run("reboot that does not come", func(t *testing.T) {
		m := trying(t)
		_, a := until(m, t0.Add(time.Minute), time.Hour, World{})
		if v := m.View(t0); !slices.Equal(a, []Action{Keep}) || v.State != Written || !strings.Contains(v.Why, "init did not restart") {
			t.Errorf("%v %+v", a, v)
		}
	})
	t.Run("note before the reboot", func(t *testing.T) {
		m := trying(t)
		if a := m.Failed(t0, Keep, errors.New("read-only")); len(a) != 0 || m.View(t0).State != Written {
			t.Errorf("%v %+v", a, m.View(t0))
		}
	})
	t.Run("commit", func(t *testing.T) {
		m := onTrial()
		if a := m.Failed(t0, Commit, errors.New("input/output error")); !slices.Equal(a, []Action{Keep, GiveUp}) || m.Record().Pending.Why == "" {
			t.Errorf("%v %+v", a, m.Record())
		}
	})
	t.Run("note of why it gave up", func(t *testing.T) {
		m := onTrial()
		m.Failed(t0, Commit, errors.New("input/output error"))
		if a := m.Failed(t0, Keep, errors.New("read-only")); !slices.Equal(a, []Action{GiveUp}) {
			t.Errorf("%v", a)
		}
	})
	t.Run("what is overwritten cannot be struck out", func(t *testing.T) {
		m := written(t, 7)
		if a, err := m.Accept(t0, offered(8), nil, true); err != nil || !slices.Equal(a, []Action{Keep}) || m.Record().Pending != nil {
			t.Fatalf("%v %v", a, err)
		}
		m.Failed(t0, Keep, errors.New("read-only"))
		if v := m.View(t0); v.State != Refused {
			t.Errorf("%+v", v)
		}
	})
}

func TestTheListOfFailuresIsBounded(t *testing.T) {
	rec := Record{}
	for n := range uint64(2 * maxFailed) {
		rec.Pending = &Pending{Manifest: offered(10 + n).Manifest, Slot: card.B, Tried: true}
		m, _ := NewMachine(t0, Start{System: system(5, card.A), Record: rec})
		rec = m.Record()
	}
	if len(rec.Failed) != maxFailed || rec.Failed[maxFailed-1] != offered(9+2*maxFailed).Manifest.SHA256 {
		t.Errorf("%d: %v", len(rec.Failed), rec.Failed)
	}
}
