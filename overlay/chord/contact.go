package chord

import (
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// contact is all that is known of one other Node-ID.
type contact struct {
	id         wire.NodeID
	discovered bool
	taught     bool // a member lists it, and it is wanted
	boot       bootLink
	ring       ringLink
	dial       attempt // Bootstrap
	probe      attempt // Probe
	attach     attempt // Attach
	attachVia  wire.NodeID
	purpose    purpose   // of the last Attach
	sameRing   time.Time // until then it is taken to be in this ring
	left       time.Time // until then it has left
	// stale: lists older than this do not show that it lives: its link was lost, or Attaches failed
	stale time.Time
}

// purpose is what an Attach is for.
type purpose uint8

const (
	forTable  purpose = iota // the Neighbor Table, or the full mesh
	forMerge                 // tying two rings together (RFC 6940 §10.7.4.4)
	forFinger                // the Finger Table
)

// attempt is something that is tried again with back-off.
type attempt struct {
	at    time.Time // not before; zero: at once, if at all
	until time.Time // under way, given up then; zero: not under way
	fails int
}

func (a *attempt) busy() bool { return !a.until.IsZero() }

func (a *attempt) start(now time.Time, timeout time.Duration) { a.until = now.Add(timeout) }

type bootLink struct {
	up, ours bool
	since    time.Time
}

// ringLink is an entry of the Connection Table.
type ringLink struct {
	up       bool
	ready    bool // it may be routed through: it has sent an Update or a Join
	told     bool // it has been sent an Update
	owed     bool // it is due an Update at its next turn
	ours     bool // this side sent the Attach
	countsMe bool // its last lists held self: it keeps this peer as a neighbour
	since    time.Time
	updateAt time.Time // its next turn
	leaving  time.Time // the link is closed then
	born     time.Time // by the uptime it told; zero: unknown
	teachAt  time.Time // not taught again before
	lessons  int       // given in vain since teaching last helped
	// pending is the Update that this Step sends it; zero: none
	pending wire.ChordUpdateType
	listed  []wire.NodeID
	heard   time.Time // when it listed them
	dense   float64   // how many peers the ring would have if all of it were like there; 0: unknown
}

func (c *contact) linked() bool { return c.boot.up || c.ring.up }

// quiet reports that c is a mere name: nothing leads there and nothing is under way.
func (c *contact) quiet() bool {
	return !c.linked() && !c.dial.busy() && !c.probe.busy() && !c.attach.busy()
}

// member reports that c may be routed through.
func (c *contact) member() bool { return c.ring.up && c.ring.ready }

// contacts is a small sorted table, so that every walk through it has the same order.
type contacts []*contact

func (t contacts) find(id wire.NodeID) (int, bool) {
	return slices.BinarySearchFunc(t, id, func(c *contact, id wire.NodeID) int { return c.id.Compare(id) })
}

func (t contacts) get(id wire.NodeID) *contact {
	if i, ok := t.find(id); ok {
		return t[i]
	}
	return nil
}

// contact finds or makes the entry of id. It is nil for Node-IDs that cannot be another peer's
// and at the limit.
func (s *State) contact(id wire.NodeID) *contact {
	if !s.valid(id) {
		s.stats.IDsIgnored++
		return nil
	}
	i, ok := s.contacts.find(id)
	if ok {
		return s.contacts[i]
	}
	if len(s.contacts) >= s.cfg.MaxContacts {
		s.stats.ContactsRefused++
		return nil
	}
	c := &contact{id: id}
	s.contacts = slices.Insert(s.contacts, i, c)
	return c
}

func (s *State) valid(id wire.NodeID) bool {
	return id.Len() == s.self.Len() && id != s.self && !id.IsInvalid() && !id.IsWildcard()
}

// idle reports that forgetting c loses nothing.
func (s *State) idle(c *contact) bool {
	return !c.discovered && !c.taught && !c.boot.up && !c.ring.up &&
		!c.dial.busy() && !c.probe.busy() && !c.attach.busy() &&
		!c.attach.at.After(s.now) && !c.left.After(s.now) &&
		(c.stale.IsZero() || c.stale.Add(s.listFor()).Before(s.now))
}

func (s *State) forget() {
	if slices.ContainsFunc(s.contacts, s.idle) {
		s.contacts = slices.DeleteFunc(s.contacts, s.idle)
	}
}
