package pair

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"
)

func id(b byte) (i ID) { return ID(bytes.Repeat([]byte{b}, len(i))) }

func facts(b byte, alone, admits bool) Facts {
	x := ID(bytes.Repeat([]byte{b}, 32))
	return Facts{Kit: x.String() + x.String(), Key: x.String() + x.String(), Overlay: string('a' + rune(b)), Mission: "m", Alone: alone, Admits: admits}
}

func pressed(f Facts, ago time.Duration) Facts {
	f.Pressed = ago
	return f
}

func TestDecideIsTheSameAtBothKits(t *testing.T) {
	for _, c := range []struct {
		name string
		a, b Facts
		role Role // of a
		why  Why
	}{
		{"two new kits, the one pressed first hosts", pressed(facts(2, true, true), 9*time.Second), pressed(facts(1, true, true), 8*time.Second), Host, Paired},
		{"pressed at once, the lower hosts", facts(1, true, true), facts(2, true, true), Host, Paired},
		{"a new kit and a founder with others", facts(1, true, true), facts(2, false, true), Guest, Paired},
		{"a new kit and a member", facts(1, true, true), facts(2, false, false), None, Keyless},
		{"two founders with others", facts(1, false, true), facts(2, false, true), None, Foreign},
		{"members of two missions", facts(1, false, false), facts(2, false, false), None, Foreign},
		{"one of two new kits has no key", facts(1, true, false), facts(2, true, true), Guest, Paired},
		{"neither has", facts(1, true, false), facts(2, true, false), None, Keyless},
		{"an old founder without a key and a new kit", facts(1, false, false), facts(2, true, true), None, Keyless},
	} {
		other := map[Role]Role{Host: Guest, Guest: Host, None: None}
		if role, why := Decide(c.a, c.b); role != c.role || why != c.why {
			t.Errorf("%s: %v, %v", c.name, role, why)
		}
		if role, why := Decide(c.b, c.a); role != other[c.role] || why != c.why {
			t.Errorf("%s, seen from the other: %v, %v", c.name, role, why)
		}
	}
	same := facts(2, false, true)
	same.Overlay = facts(1, true, true).Overlay
	if _, why := Decide(facts(1, true, true), same); why != Together {
		t.Errorf("one mission: %v", why)
	}
}

// play is a Machine and the time of the test.
type play struct {
	t   *testing.T
	m   Machine
	now time.Time
}

func newPlay(t *testing.T) *play { return &play{t: t, now: time.Unix(1000, 0)} }

// do gives an event and checks what is to be done and where the machine is then.
func (p *play) do(e Event, stage Stage, want ...Do) {
	p.t.Helper()
	var got []Do
	for _, a := range p.m.Step(p.now, e) {
		got = append(got, a.Do)
	}
	if !slices.Equal(got, want) || p.m.Stage != stage {
		p.t.Fatalf("event %d: stage %v (%v), do %v, want stage %v, do %v", e.Kind, p.m.Stage, p.m.Why, got, stage, want)
	}
}

// pass lets time pass up to the deadline.
func (p *play) pass(d time.Duration) {
	p.now = p.now.Add(d)
}

func meeting(peer byte, self, other Facts) Event {
	return Event{Kind: Met, Met: &Meeting{Session: id(peer), Self: self, Peer: other, Code: 77}}
}

func (p *play) begin(own byte) {
	p.t.Helper()
	p.do(Event{Kind: Held}, Searching, Open)
	p.do(Event{Kind: Opened, ID: id(own)}, Searching)
}

func TestPairing(t *testing.T) {
	host, guest := newPlay(t), newPlay(t)
	a, b := facts(1, true, true), facts(2, true, true)
	host.begin(10)
	guest.begin(20)
	host.pass(40 * time.Second)
	host.do(Event{Kind: Heard, ID: id(20)}, Searching, Dial) // the lower session connects
	guest.do(Event{Kind: Heard, ID: id(10)}, Searching)
	host.do(meeting(20, a, b), Comparing)
	guest.do(meeting(10, b, a), Comparing)
	if host.m.Role != Host || guest.m.Role != Guest || host.m.Code != 77 {
		t.Fatalf("%+v, %+v", host.m.Status, guest.m.Status)
	}
	host.do(Event{Kind: Tapped}, Comparing, Confirm)
	host.do(Event{Kind: Tapped}, Comparing) // again
	guest.do(Event{Kind: Confirmed}, Comparing)
	guest.do(Event{Kind: Tapped}, Joining, Confirm, Join)
	host.do(Event{Kind: Confirmed}, Joining, Admit)
	host.do(Event{Kind: Held}, Joining) // too late to stop by hand
	guest.do(Event{Kind: Finished}, Ended, Close)
	host.do(Event{Kind: Lost}, Joining)
	host.do(Event{Kind: Finished}, Ended, Close)
	guest.pass(restartAfter)
	guest.do(Event{Kind: Tick}, Idle, Restart)
	host.pass(showTime)
	host.do(Event{Kind: Tick}, Idle)
	if !host.m.Deadline().IsZero() {
		t.Error("an idle machine wants to be woken")
	}
}

// Nothing is handed over before somebody confirmed the code at both kits.
func TestNobodyConfirms(t *testing.T) {
	a, b := facts(1, true, true), facts(2, true, true)
	for name, last := range map[string]Event{
		"time":              {Kind: Tick},
		"ended by hand":     {Kind: Held},
		"the other is gone": {Kind: Lost},
	} {
		for _, before := range []Event{{Kind: Tick}, {Kind: Tapped}, {Kind: Confirmed}} {
			p := newPlay(t)
			p.begin(10)
			p.do(meeting(20, a, b), Comparing)
			for _, act := range p.m.Step(p.now, before) {
				if act.Do == Admit || act.Do == Join {
					t.Errorf("%s: handed over after event %d alone", name, before.Kind)
				}
			}
			p.pass(compareTime)
			p.do(last, Ended, Close)
			if p.m.Why != Broken {
				t.Errorf("%s: %v", name, p.m.Why)
			}
			p.do(Event{Kind: Tapped}, Ended)
			p.do(Event{Kind: Confirmed}, Ended)
		}
	}
}

// "a third kit pressed in the same minute stops it", and all three say so, though they may not all hear each other.
func TestThirdKitStopsThePairing(t *testing.T) {
	a, b := facts(1, true, true), facts(2, true, true)
	for name, first := range map[string][]Event{
		"while searching": {{Kind: Heard, ID: id(5)}},
		"while comparing": {{Kind: Heard, ID: id(5)}, meeting(5, a, b)},
		"after one confirmed": {
			{Kind: Heard, ID: id(5)}, meeting(5, a, b), {Kind: Tapped},
		},
	} {
		for how, third := range map[string]Event{
			"heard":         {Kind: Heard, ID: id(6)},
			"told":          {Kind: Heard, ID: id(5), Crowd: []ID{id(6), id(10), id(5)}},
			"told by third": {Kind: Heard, ID: id(6), Crowd: []ID{id(5), id(10), id(6)}},
		} {
			p := newPlay(t)
			p.begin(10)
			for _, e := range first {
				p.m.Step(p.now, e)
			}
			p.do(Event{Kind: Heard, ID: id(7), Crowd: []ID{id(7), id(5), id(9)}}, p.m.Stage) // others, earlier
			p.do(third, Ended, Stop)
			if p.m.Why != Crowd {
				t.Errorf("%s, %s: %v", name, how, p.m.Why)
			}
			// It is announced for a while, and those who announce it do not stop the next try.
			p.pass(time.Second)
			p.do(Event{Kind: Held}, Searching, Close, Open)
			p.do(Event{Kind: Opened, ID: id(11)}, Searching)
			if third.Crowd != nil {
				p.do(third, Searching)
			}
			p.do(Event{Kind: Heard, ID: id(30)}, Searching, Dial)
		}
	}
	p := newPlay(t)
	p.begin(10)
	p.do(meeting(20, a, b), Comparing)
	p.do(Event{Kind: Lost, Why: Crowd}, Ended, Stop)
	p.pass(stopTime)
	p.do(Event{Kind: Tick}, Ended, Close)
	// A meeting with a third is as good as its announcement.
	p = newPlay(t)
	p.begin(10)
	p.do(Event{Kind: Heard, ID: id(20)}, Searching, Dial)
	p.do(meeting(21, a, b), Ended, Stop)
}

func TestEndsOfPairings(t *testing.T) {
	p := newPlay(t)
	p.begin(10)
	p.pass(Window - time.Millisecond)
	p.do(Event{Kind: Tick}, Searching)
	p.pass(time.Millisecond)
	p.do(Event{Kind: Tick}, Ended, Close)
	if p.m.Why != Nobody {
		t.Errorf("alone: %v", p.m.Why)
	}
	// Pairing mode is only after a press: nothing that comes before or afterwards does anything.
	for range 2 {
		for _, e := range []Event{{Kind: Heard, ID: id(5)}, {Kind: Heard, ID: id(5), Crowd: []ID{id(10)}}, meeting(5, facts(1, true, true), facts(2, true, true)), {Kind: Confirmed}, {Kind: Tapped}, {Kind: Lost}, {Kind: Spoilt}, {Kind: Opened, ID: id(3)}, {Kind: Unopened}} {
			p.do(e, p.m.Stage)
		}
		p.pass(showTime)
		p.m.Step(p.now, Event{Kind: Tick})
	}
	for _, c := range []struct {
		a, b Facts
		why  Why
	}{
		{facts(1, false, true), facts(2, false, true), Foreign},
		{facts(1, true, true), facts(2, false, false), Keyless},
		{facts(1, true, true), facts(1, false, true), Together},
	} {
		p := newPlay(t)
		p.begin(10)
		p.do(meeting(20, c.a, c.b), Ended, Close)
		if p.m.Why != c.why {
			t.Errorf("%v, want %v", p.m.Why, c.why)
		}
	}
	p = newPlay(t)
	p.do(Event{Kind: Held}, Searching, Open)
	p.do(Event{Kind: Unopened}, Ended, Close)
}

// Who leaves meetings when it knows the code and shows it to nobody could look for one that suits it.
func TestMeetingsThatAreLeftAreCounted(t *testing.T) {
	p := newPlay(t)
	p.begin(10)
	for range maxSpoilt {
		p.do(Event{Kind: Spoilt}, Searching)
	}
	p.do(Event{Kind: Spoilt}, Ended, Close)
	p.do(Event{Kind: Held}, Searching, Open) // with another press it begins anew
	p.do(Event{Kind: Spoilt}, Searching)
}

// What failed in the middle is over at both kits; what worked is taken up, even if nobody waits for it any more.
func TestEnrolmentThatFailsOrIsLate(t *testing.T) {
	a, b := facts(1, true, true), facts(2, true, true)
	joining := func(self, other Facts) *play {
		p := newPlay(t)
		p.begin(10)
		p.do(meeting(20, self, other), Comparing)
		p.m.Step(p.now, Event{Kind: Tapped})
		p.m.Step(p.now, Event{Kind: Confirmed})
		return p
	}
	for _, self := range []Facts{a, b} {
		other := a
		if self == a {
			other = b
		}
		p := joining(self, other)
		p.do(Event{Kind: Finished, Err: errors.New("refused")}, Ended, Close)
		p = joining(self, other)
		p.pass(joinTime)
		p.do(Event{Kind: Tick}, Ended, Close)
		if p.m.Role == Guest {
			p.do(Event{Kind: Finished}, Ended, Restart)
		} else {
			p.do(Event{Kind: Finished}, Ended)
		}
	}
}

// Random events never make it hand anything over before both confirmed, and never leave it without an end.
func FuzzMachine(f *testing.F) {
	f.Add([]byte{1, 3, 5, 6, 7, 8, 10})
	f.Add([]byte{1, 3, 5, 45, 6, 7, 8, 9, 10, 11, 12})
	f.Fuzz(func(t *testing.T, script []byte) {
		m, now := Machine{}, time.Unix(1000, 0)
		var tapped, confirmed bool
		for _, b := range script[:min(len(script), 200)] {
			e := Event{Kind: Kind(b % 14), ID: id(b / 14)}
			if b > 200 {
				e.Crowd = []ID{id(0), id(1)}
			}
			if e.Kind == Met {
				e.Met = &Meeting{Session: id(b / 14), Self: facts(1, true, true), Peer: facts(2, true, true)}
			}
			now = now.Add(time.Duration(b) * 100 * time.Millisecond)
			before := m.Stage
			acts := m.Step(now, e)
			switch {
			case m.Stage == Searching && before != Searching:
				tapped, confirmed = false, false
			case before == Comparing:
				tapped = tapped || e.Kind == Tapped
				confirmed = confirmed || e.Kind == Confirmed
			}
			for _, a := range acts {
				if (a.Do == Admit || a.Do == Join) && (!tapped || !confirmed) {
					t.Fatalf("handed over unconfirmed")
				}
			}
			if (m.Stage == Idle) != m.until.IsZero() {
				t.Fatalf("stage %v until %v", m.Stage, m.until)
			}
			if len(m.heard) > maxHeard {
				t.Fatal("unbounded")
			}
		}
		for range 10 {
			if d := m.Deadline(); !d.IsZero() {
				now = d
				m.Step(now, Event{Kind: Tick})
			}
		}
		if m.Stage != Idle || !m.Deadline().IsZero() {
			t.Fatalf("no end: stage %v", m.Stage)
		}
	})
}
