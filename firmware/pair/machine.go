package pair

import (
	"slices"
	"time"
)

// Event is something that happened to a Machine; Kind says what, and which fields count.
type Event struct {
	Kind  Kind
	ID    ID       // Opened: of this kit's session; Heard: of the other's
	Crowd []ID     // Heard: that kit saw too many, and this is who they are
	Met   *Meeting // Met
	Why   Why      // Lost: what the other kit said
	Err   error    // Finished
}

// Kind is a kind of Event.
type Kind int

// The kinds of events.
const (
	Held      Kind = iota + 1 // the button, for long: begin, or end what runs
	Tapped                    // the button, shortly: the code is confirmed
	Opened                    // the session exists
	Unopened                  // it could not be made
	Heard                     // another kit that was pressed says so
	Met                       // it was met, and the code is known
	Spoilt                    // somebody left a meeting when the code could be known to it alone
	Confirmed                 // somebody confirmed the code at the other kit
	Lost                      // the other kit is gone, or ended it
	Finished                  // Admit or Join came to an end
	Tick                      // the deadline is there
)

// Action is what a Machine wants done.
type Action struct {
	Do    Do
	Peer  ID   // Dial
	Crowd []ID // Stop: the sessions that are over
}

// Do is a kind of Action.
type Do int

// The kinds of actions.
const (
	Open    Do = iota + 1 // make a session and announce it
	Dial                  // connect to the kit of that session
	Confirm               // tell the other kit that the code was confirmed here
	Admit                 // let the other kit in
	Join                  // enrol at the other kit
	Stop                  // announce that there are too many, in the place of the session
	Close                 // end the session and everything that belongs to it
	Restart               // the kit is a member of another mission now
)

// Machine is one kit's part of pairings, one after the other. Step is its only way to change.
type Machine struct {
	Status

	own       ID
	open      bool
	until     time.Time // of the stage
	stopping  time.Time // until when too many are announced; zero: not
	heard     []ID      // of other kits, in this pairing
	spoilt    int       // meetings, in this pairing
	confirmed bool      // at the other kit
	restart   bool      // once the outcome was shown
}

// Deadline is when Step wants a Tick at the latest; zero is never.
func (m *Machine) Deadline() time.Time {
	d := m.until
	if !m.stopping.IsZero() && (d.IsZero() || m.stopping.Before(d)) {
		d = m.stopping
	}
	return d
}

// Step takes an event at now and says what is to be done, in order.
func (m *Machine) Step(now time.Time, e Event) []Action {
	if !m.stopping.IsZero() && !now.Before(m.stopping) {
		m.stopping = time.Time{}
		return append([]Action{{Do: Close}}, m.Step(now, e)...)
	}
	switch e.Kind {
	case Held:
		return m.held(now)
	case Tick:
		return m.tick(now)
	case Heard:
		return m.hear(now, e)
	case Opened:
		if m.Stage == Searching {
			m.own, m.open = e.ID, true
		}
	case Unopened:
		if m.Stage == Searching {
			return m.end(now, Broken)
		}
	case Met:
		if m.Stage == Searching && e.Met != nil {
			return m.meet(now, e.Met)
		}
	case Spoilt:
		if m.spoilt++; m.Stage == Searching && m.spoilt > maxSpoilt {
			return m.end(now, Broken)
		}
	case Tapped:
		if m.Stage == Comparing && !m.Confirmed {
			m.Confirmed = true
			return append([]Action{{Do: Confirm}}, m.agree(now)...)
		}
	case Confirmed:
		if m.Stage == Comparing {
			m.confirmed = true
			return m.agree(now)
		}
	case Lost:
		// The host hears of the end of the enrolment by Finished, and so does the guest.
		switch {
		case m.Stage != Comparing:
		case e.Why == Crowd:
			return m.end(now, Crowd)
		default:
			return m.end(now, Broken)
		}
	case Finished:
		if m.Stage != Joining {
			if m.Stage != Comparing && m.Stage != Searching && m.Role == Guest && e.Err == nil {
				return []Action{{Do: Restart}} // too late to be shown, but done
			}
			break
		}
		if e.Err != nil {
			return m.end(now, Broken)
		}
		acts := m.end(now, Paired)
		if m.Role == Guest {
			m.restart, m.until = true, now.Add(restartAfter)
		}
		return acts
	}
	return nil
}

// held begins a pairing, or ends the one that runs. What is in the middle of an enrolment is not ended by hand: one kit
// would have let the other in, and the other not know.
func (m *Machine) held(now time.Time) []Action {
	switch m.Stage {
	case Searching, Comparing:
		return m.end(now, Broken)
	case Joining:
		return nil
	}
	if m.restart {
		return nil
	}
	var acts []Action
	if !m.stopping.IsZero() {
		acts, m.stopping = append(acts, Action{Do: Close}), time.Time{}
	}
	*m = Machine{Status: Status{Stage: Searching}, until: now.Add(Window)}
	return append(acts, Action{Do: Open})
}

func (m *Machine) tick(now time.Time) []Action {
	if m.until.IsZero() || now.Before(m.until) {
		return nil
	}
	switch m.Stage {
	case Searching:
		return m.end(now, Nobody)
	case Comparing, Joining:
		return m.end(now, Broken)
	case Ended:
		restart := m.restart
		m.Status, m.until, m.restart = Status{}, time.Time{}, false
		if restart {
			return []Action{{Do: Restart}}
		}
	}
	return nil
}

// hear counts the kits that were pressed. Any announcement counts, though anybody on the link can make one: somebody who
// forges them keeps kits from being paired, as somebody who jams does, and gets nothing by it.
func (m *Machine) hear(now time.Time, e Event) []Action {
	if m.Stage != Searching && m.Stage != Comparing || !m.open || e.ID == m.own {
		return nil
	}
	if len(e.Crowd) > 0 && !slices.Contains(e.Crowd, m.own) {
		return nil // of a pairing before this one
	}
	if !slices.Contains(m.heard, e.ID) && len(m.heard) < maxHeard {
		m.heard = append(m.heard, e.ID)
	}
	if len(e.Crowd) > 0 || len(m.heard) > 1 {
		return m.end(now, Crowd)
	}
	// One of the two connects.
	if m.Stage == Searching && slices.Compare(m.own[:], e.ID[:]) < 0 {
		return []Action{{Do: Dial, Peer: e.ID}}
	}
	return nil
}

// meet begins the comparison with a kit that proved to be the one of its session.
func (m *Machine) meet(now time.Time, met *Meeting) []Action {
	if acts := m.hear(now, Event{Kind: Heard, ID: met.Session}); m.Stage != Searching {
		return acts
	}
	m.Self, m.Peer = met.Self, met.Peer
	role, why := Decide(met.Self, met.Peer)
	if why != Paired {
		return m.end(now, why)
	}
	m.Stage, m.Role, m.Code, m.until = Comparing, role, met.Code, now.Add(compareTime)
	return nil
}

// agree goes on once the code was confirmed at both kits.
func (m *Machine) agree(now time.Time) []Action {
	if !m.Confirmed || !m.confirmed {
		return nil
	}
	m.Stage, m.until = Joining, now.Add(joinTime)
	if m.Role == Host {
		return []Action{{Do: Admit}}
	}
	return []Action{{Do: Join}}
}

// end shows how it went. Who saw too many kits tells the others, which may not all hear each other.
func (m *Machine) end(now time.Time, why Why) []Action {
	m.Stage, m.Why, m.Code, m.until = Ended, why, 0, now.Add(showTime)
	if why != Crowd || !m.open {
		return []Action{{Do: Close}}
	}
	m.stopping = now.Add(stopTime)
	return []Action{{Do: Stop, Crowd: append(slices.Clone(m.heard), m.own)}}
}
