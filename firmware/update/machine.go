package update

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"fieldkit/firmware/card"
)

// State is where an update is.
type State string

// The states of an update.
const (
	Idle       State = "idle"
	Receiving  State = "receiving"
	Written    State = "written" // whole in the other slot, waiting to be tried
	Trying     State = "trying"  // rebooting into the other slot, or running in it on trial
	Committed  State = "committed"
	RolledBack State = "rolled back"
	Refused    State = "refused"
)

// When a Machine does what.
const (
	quietFor     = 30 * time.Second // without a call before a reboot: who redials has not hung up
	greenFor     = 20 * time.Second // healthy before a slot is committed
	rebootLimit  = 2 * time.Minute  // for PID 1 to restart the kit
	retryPause   = 10 * time.Minute // after a reboot that could not be asked for
	maxFailed    = 16               // rollbacks remembered
	maxTries     = 3                // of one bundle, by people: anybody may have kept it, and each costs a restart
	maxKnown     = 32               // faults that were there before
	maxWhy       = 400              // bytes
	waitTellsFor = time.Hour        // a bundle that waits longer than that is a warning
)

// Record is what a kit keeps of its updates through reboots.
type Record struct {
	Floor   uint64   `json:"floor"`             // greatest sequence ever committed here: nothing older is taken again
	Header  []byte   `json:"header,omitempty"`  // of the bundle in the committed slot, signed; none where nobody signed one
	Pending *Pending `json:"pending,omitempty"` // in the other slot
	Last    *Outcome `json:"last,omitempty"`    // how the last one ended
	Failed  []string `json:"failed,omitempty"`  // digest of each that was rolled back, the last one last
}

// Pending is a bundle in the slot that is not committed.
type Pending struct {
	Header   []byte        `json:"header"`
	Manifest card.Manifest `json:"manifest"`
	Slot     card.Slot     `json:"slot"`
	ByPerson bool          `json:"by_person,omitempty"`
	Tried    bool          `json:"tried,omitempty"`   // a reboot into it was asked for
	Started  bool          `json:"started,omitempty"` // by the system in it: it came up so far
	Why      string        `json:"why,omitempty"`     // by the system in it: why it gave up
	Known    []string      `json:"known,omitempty"`   // what was wrong before, and so is no fault of it
}

// Outcome is how an update ended.
type Outcome struct {
	Version  string `json:"version"`
	Sequence uint64 `json:"sequence"`
	State    State  `json:"state"` // Committed, RolledBack or Refused
	Why      string `json:"why,omitempty"`
}

// World is what a Machine has to know of the kit and of the kits around it.
type World struct {
	Calls      int         // that pass the kit
	Wrong      []Problem   // faults, and what a kit in service must have and this one has not
	Neighbours []Neighbour // of the mission, that answer or did lately
}

// Problem is something that does not work. Name is the same whenever it is the same, Why is for people.
type Problem struct{ Name, Why string }

// Action is what the owner of a Machine is to do. The actions of one answer are done in order; when one fails, the rest
// are left and Failed is told.
type Action int

// The actions.
const (
	Keep    Action = iota // the Record, durably
	TryBoot               // into the other slot, once
	Commit                // the running slot; then Committed is told
	Confirm               // to PID 1 that the slot is committed
	GiveUp                // reboot into the committed slot
)

var actionNames = [...]string{"note of the update", "reboot into the new slot", "commit", "word to init", "reboot into the old slot"}

func (a Action) String() string { return actionNames[a] }

// Machine decides. It has one owner, who calls it with the time of a steady clock, at least once a second.
type Machine struct {
	sys   System
	id    string // of the kit among its neighbours
	trial bool
	limit time.Duration
	rec   Record

	state     State
	why       string    // what it waits for, or was refused for
	since     time.Time // in this state
	receiving *Pending

	unchecked bool      // Pending is from before the reboot
	notBefore time.Time // of the try
	quiet     time.Time // no call since
	claimed   time.Time // told the neighbours that it is this kit's turn; zero: not
	green     time.Time // on trial: healthy since; zero: not
	ready     bool
	gaveUp    bool
}

// MaxTrial is how long a system on trial may take to become healthy, at most; below the 10 min of PID 1, so that the new
// system can say why not.
const MaxTrial = 9 * time.Minute

// Start is how a Machine begins.
type Start struct {
	System System
	ID     string        // Node-ID
	Trial  bool          // this boot tries a slot once
	Limit  time.Duration // of a trial; 0 or more than MaxTrial: MaxTrial
	Record Record
	Crash  string // what the system before the last reboot said when it died, "" if nothing is known
}

// NewMachine works out from what was kept how the last update went on.
func NewMachine(now time.Time, s Start) (*Machine, []Action) {
	m := &Machine{sys: s.System, id: s.ID, trial: s.Trial, limit: MaxTrial, rec: s.Record, state: Idle, since: now, quiet: now, notBefore: now}
	if s.Limit > 0 {
		m.limit = min(s.Limit, MaxTrial)
	}
	p := m.rec.Pending
	switch {
	case m.trial:
		return m, m.beginTrial(now)
	case p != nil && p.Slot == m.sys.Slot.Other() && !p.Tried:
		m.to(now, Written, "")
		m.unchecked = true
		return m, m.raiseFloor()
	case p != nil && p.Tried && p.Slot == m.sys.Slot && p.Manifest.Release.Sequence == m.sys.Release.Sequence:
		m.committed(now) // power was cut after the commit
		return m, []Action{Keep}
	case p != nil && p.Tried:
		m.rolledBack(now, s.Crash)
		return m, []Action{Keep}
	case p != nil: // of another card
		m.rec.Pending = nil
		m.raiseFloor()
		return m, []Action{Keep}
	}
	if l := m.rec.Last; l != nil && l.State == RolledBack {
		m.to(now, RolledBack, l.Why)
	}
	return m, m.raiseFloor()
}

// raiseFloor takes what runs and is committed for the least that will be taken: what was kept may be lost or older.
func (m *Machine) raiseFloor() []Action {
	if m.rec.Floor >= m.sys.Release.Sequence {
		return nil
	}
	m.rec.Floor = m.sys.Release.Sequence
	return []Action{Keep}
}

func (m *Machine) beginTrial(now time.Time) []Action {
	m.to(now, Trying, "starting")
	p := m.rec.Pending
	if p == nil || p.Slot != m.sys.Slot {
		return nil // what was kept is lost: the system is judged by what it does
	}
	p.Tried, p.Started = true, true
	if got, want := m.sys.Release, p.Manifest.Release; got.Sequence != want.Sequence || got.Version != want.Version {
		return m.giveUp(now, fmt.Sprintf("the system is %s (%d), the update said %s (%d)", got.Version, got.Sequence, want.Version, want.Sequence))
	}
	return []Action{Keep}
}

func (m *Machine) to(now time.Time, s State, why string) {
	if m.state != s {
		m.state, m.since = s, now
	}
	m.why = bounded(why)
}

func bounded(s string) string {
	if len(s) > maxWhy {
		s = s[:maxWhy]
	}
	return strings.ToValidUTF8(s, "")
}

func (m *Machine) end(now time.Time, r card.Release, s State, why string) {
	m.to(now, s, why)
	m.rec.Last = &Outcome{Version: r.Version, Sequence: r.Sequence, State: s, Why: m.why}
}

// Record is what is to be kept.
func (m *Machine) Record() Record {
	r := m.rec
	if r.Pending != nil {
		p := *r.Pending
		r.Pending = &p
	}
	r.Failed = slices.Clone(r.Failed)
	return r
}

// Accept judges a bundle by its header, whose signature the caller has verified. Without an error the caller may do the
// actions and then write the bundle to the other slot, and tells the end of it to Received.
func (m *Machine) Accept(now time.Time, h card.Header, header []byte, byPerson bool) ([]Action, error) {
	if err := m.judge(h.Manifest, byPerson); err != nil {
		return nil, err // who sent it is told; whoever sends an old one again must not hide how the last one ended
	}
	m.receiving = &Pending{Header: header, Manifest: h.Manifest, Slot: m.sys.Slot.Other(), ByPerson: byPerson}
	m.to(now, Receiving, "")
	m.claimed, m.ready, m.unchecked = time.Time{}, false, false
	if m.rec.Pending == nil {
		return nil, nil
	}
	m.rec.Pending = nil // it is overwritten now
	return []Action{Keep}, nil
}

func (m *Machine) judge(f card.Manifest, byPerson bool) error {
	switch m.state {
	case Receiving:
		return fmt.Errorf("%w: %s is being received", ErrBusy, m.receiving.Manifest.Release.Version)
	case Trying:
		return fmt.Errorf("%w: it is being tried", ErrBusy)
	}
	return m.wants(f, byPerson)
}

// wants is judge, whatever is under way.
func (m *Machine) wants(f card.Manifest, byPerson bool) error {
	if err := m.sys.fits(f.Release); err != nil {
		return err
	}
	r, own := f.Release, m.sys.Release
	switch {
	case r.Sequence == own.Sequence:
		return fmt.Errorf("%w: %s (%d) runs", ErrSame, r.Version, r.Sequence)
	case r.Sequence < max(own.Sequence, m.rec.Floor):
		return fmt.Errorf("%w: %s (%d), this kit had %d and runs %s (%d)", ErrOlder, r.Version, r.Sequence, m.rec.Floor, own.Version, own.Sequence)
	}
	if p := m.rec.Pending; p != nil {
		switch w := p.Manifest.Release; {
		case p.Manifest == f:
			return fmt.Errorf("%w: %s (%d) is written and waits: %s", ErrSame, w.Version, w.Sequence, m.why)
		case r.Sequence < w.Sequence:
			return fmt.Errorf("%w: %s (%d), and %s (%d) waits", ErrOlder, r.Version, r.Sequence, w.Version, w.Sequence)
		}
	}
	if n := m.failures(f.SHA256); n >= maxTries || n > 0 && !byPerson {
		return fmt.Errorf("%w: %s (%d), %d times", ErrFailed, r.Version, r.Sequence, n)
	}
	return nil
}

// Received ends what Accept began: err is nil when the slot has what the manifest says, durably. The first try waits for
// delay.
func (m *Machine) Received(now time.Time, err error, delay time.Duration) []Action {
	p := m.receiving
	if p == nil {
		return nil
	}
	m.receiving = nil
	if err != nil {
		m.end(now, p.Manifest.Release, Refused, err.Error())
		return nil
	}
	m.rec.Pending = p
	m.notBefore = now.Add(delay)
	m.to(now, Written, "")
	return []Action{Keep}
}

// Checked tells whether the other slot still has what Pending says, see View.Check.
func (m *Machine) Checked(now time.Time, err error) []Action {
	if !m.unchecked || m.rec.Pending == nil {
		return nil
	}
	m.unchecked = false
	if err == nil {
		return nil
	}
	r := m.rec.Pending.Manifest.Release
	m.rec.Pending = nil
	m.end(now, r, Refused, err.Error())
	return []Action{Keep}
}

// Tick goes on with what waits.
func (m *Machine) Tick(now time.Time, w World) []Action {
	if w.Calls > 0 {
		m.quiet = now.Add(time.Nanosecond) // not before the next look
	}
	switch {
	case m.state == Trying && m.trial && !m.gaveUp:
		return m.judgeTrial(now, w)
	case m.state == Trying && !m.trial && now.Sub(m.since) >= rebootLimit:
		return m.Failed(now, TryBoot, errors.New("init did not restart the kit"))
	case m.state == Written:
		return m.wait(now, w)
	}
	return nil
}

// wait is for the time in which nobody misses the kit.
func (m *Machine) wait(now time.Time, w World) []Action {
	m.ready = false
	switch {
	case m.unchecked:
		m.why = "being checked"
	case w.Calls > 0:
		m.why = fmt.Sprintf("waits for the end of %d calls", w.Calls)
	case now.Sub(m.quiet) < quietFor:
		m.why = "waits whether there is another call"
	case now.Before(m.notBefore):
		m.why = "waits a while, so that not all kits restart at once"
	default:
		m.ready = true
	}
	if !m.ready {
		m.claimed = time.Time{}
		return nil
	}
	if m.why = turn(m.id, !m.claimed.IsZero(), now.Sub(m.since), w.Neighbours); m.why != "" {
		m.claimed = time.Time{}
		return nil
	}
	if m.claimed.IsZero() {
		m.claimed = now
	}
	if now.Sub(m.claimed) < claimFor {
		m.why = "restarts in a moment"
		return nil
	}
	p := m.rec.Pending
	p.Tried, p.Started, p.Why = true, false, ""
	p.Known = nil
	for _, w := range w.Wrong[:min(len(w.Wrong), maxKnown)] {
		p.Known = append(p.Known, w.Name)
	}
	m.to(now, Trying, "restarting")
	return []Action{Keep, TryBoot}
}

// judgeTrial commits a system that is healthy and leaves one that does not become so.
func (m *Machine) judgeTrial(now time.Time, w World) []Action {
	var wrong []string
	for _, x := range w.Wrong {
		if p := m.rec.Pending; p == nil || !slices.Contains(p.Known, x.Name) {
			wrong = append(wrong, x.Name+": "+x.Why)
		}
	}
	switch {
	case len(wrong) == 0 && m.green.IsZero():
		m.green = now
		m.why = "healthy, being watched"
	case len(wrong) == 0 && now.Sub(m.green) >= greenFor:
		return []Action{Commit}
	case len(wrong) > 0:
		m.green = time.Time{}
		m.why = bounded("not healthy: " + strings.Join(wrong, "; "))
		if now.Sub(m.since) >= m.limit {
			return m.giveUp(now, m.why)
		}
	}
	return nil
}

// Committed goes on after Commit was done.
func (m *Machine) Committed(now time.Time) []Action {
	m.committed(now)
	// PID 1 hears of it before the note is written: a note that cannot be written must not undo the update.
	return []Action{Confirm, Keep}
}

// committed notes that what runs is the system of this kit from now on.
func (m *Machine) committed(now time.Time) {
	m.rec.Floor = max(m.rec.Floor, m.sys.Release.Sequence)
	m.rec.Header = nil
	if p := m.rec.Pending; p != nil && p.Slot == m.sys.Slot {
		m.rec.Header = p.Header
	}
	m.rec.Pending = nil
	m.trial = false
	m.end(now, m.sys.Release, Committed, "")
}

func (m *Machine) giveUp(now time.Time, why string) []Action {
	m.to(now, Trying, why)
	m.gaveUp = true
	if p := m.rec.Pending; p != nil {
		p.Why = m.why
	}
	return []Action{Keep, GiveUp}
}

// rolledBack notes why the kit is back in the slot that it had.
func (m *Machine) rolledBack(now time.Time, crash string) {
	p := m.rec.Pending
	why := p.Why
	switch {
	case why != "":
	case crash != "":
		why = "it crashed: " + crash
	case p.Started:
		why = "it started, and ended before it was healthy: a crash, a hang, or power was cut"
	default:
		why = "it did not start, or power was cut before it did"
	}
	m.rec.Pending = nil
	failed := append(slices.Clone(m.rec.Failed), p.Manifest.SHA256) // the old list may be being read
	m.rec.Failed = failed[max(0, len(failed)-maxFailed):]
	m.end(now, p.Manifest.Release, RolledBack, why)
	m.raiseFloor()
}

// failures is how often a bundle was rolled back here.
func (m *Machine) failures(digest string) (n int) {
	for _, d := range m.rec.Failed {
		if d == digest {
			n++
		}
	}
	return n
}

// Failed tells that an action could not be done.
func (m *Machine) Failed(now time.Time, a Action, err error) []Action {
	why := fmt.Sprintf("%v: %v", a, err)
	switch a {
	case TryBoot, Keep:
		p := m.rec.Pending
		switch {
		case m.gaveUp && a == Keep:
			return []Action{GiveUp} // nobody will know why, but back it must go
		case !m.trial && m.state == Trying && p != nil:
			p.Tried = false
			m.claimed, m.notBefore = time.Time{}, now.Add(retryPause)
			m.to(now, Written, why)
			if a == TryBoot {
				return []Action{Keep}
			}
		case m.state == Receiving:
			m.receiving = nil
			m.to(now, Refused, why)
		}
	case Commit:
		return m.giveUp(now, why)
	}
	return nil
}

// View is what an update looks like from outside.
type View struct {
	System   System
	Trial    bool
	State    State
	Why      string         // what it waits for, or why it ended as it did
	For      time.Duration  // in this state
	Manifest *card.Manifest // of the bundle that State is about, if there is one under way
	ByPerson bool
	Check    bool   // the slot is to be compared with Manifest: it was written before the last reboot
	Ready    bool   // for the neighbours: it waits for nothing but its turn
	Claim    bool   // for the neighbours: it takes its turn
	Header   []byte // of the bundle that runs here and is committed; nil: there is none to offer
	Last     *Outcome
	Failed   []string // digests of what was rolled back
}

// View copies out what there is to see.
func (m *Machine) View(now time.Time) View {
	v := View{
		System: m.sys, Trial: m.trial, State: m.state, Why: m.why, For: now.Sub(m.since),
		Check: m.unchecked, Ready: m.ready, Claim: !m.claimed.IsZero(), Last: m.rec.Last, Failed: m.rec.Failed,
	}
	p := m.rec.Pending
	if m.receiving != nil {
		p = m.receiving
	}
	if p != nil {
		f := p.Manifest
		v.Manifest, v.ByPerson = &f, p.ByPerson
	}
	if !m.trial {
		v.Header = m.rec.Header
	}
	return v
}

// Signed takes a header for the slot that runs, where it was flashed and nobody had signed it so far.
func (m *Machine) Signed(header []byte) []Action {
	if m.trial || m.rec.Header != nil {
		return nil
	}
	m.rec.Header = header
	return []Action{Keep}
}
