// Package client is the topology of a RELOAD client (RFC 6940 §4.2): a node that uses the overlay and never joins it. It
// stands where overlay/chord does in a peer, takes the same events and wants the same things done, so that everything
// else of a node, overlay/peer, is the same for both.
//
// It is pure: the time and the random source are handed in, and one goroutine owns a State.
package client

import (
	"math/rand/v2"
	"slices"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Times of a client.
const (
	checkEvery     = time.Minute // between looks whether its peer is still the responsible one, ± 1/4
	dialTime       = 30 * time.Second
	probeTime      = 20 * time.Second // a request's lifetime and a little
	attachTime     = 45 * time.Second // a request's lifetime, ICE and the handshake
	retryAfter     = time.Second      // doubled with each failure
	retryDoublings = 5                // doublings
)

// State is a node that uses the overlay and is no part of it (RFC 6940 §4.2): it keeps one connection, to "the peer
// responsible for the client's Node-ID in the overlay", and through that the others reach it by its Node-ID (§4.2.1).
// It never joins, sends no Update, stores nothing and carries nothing for others. The way to its peer is that of a
// joining node: bootstrap link, a Ping that finds out who is responsible, Attach.
type State struct {
	self    wire.NodeID
	next    wire.ResourceID // self + 1: who is responsible for that is so for self, too, if self is no peer
	rng     *rand.Rand
	started time.Time
	now     time.Time
	seen    []wire.NodeID // by discovery, in the order in which they are tried
	boot    []wire.NodeID // links
	ring    []wire.NodeID
	home    wire.NodeID // the responsible peer, attached to
	busy    time.Time   // until then something is under way
	wanted  wire.NodeID // that is being attached to
	at      time.Time   // when to look again
	fails   int
	out     []chord.Output
	left    bool
}

// New makes a client that knows nobody. rng is for jitter.
func New(self wire.NodeID, rng *rand.Rand, now time.Time) *State {
	return &State{self: self, next: ident.AsResource(ident.Next(self)), rng: rng, started: now, now: now, at: now}
}

// maxSeen bounds what discovery tells a client of.
const maxSeen = 64

// Step is chord.State's.
func (c *State) Step(now time.Time, in chord.Input) []chord.Output {
	if c.left {
		return nil
	}
	c.now = now
	switch in := in.(type) {
	case chord.Discovered:
		if len(c.seen) < maxSeen && !slices.Contains(c.seen, in.ID) {
			c.seen = append(c.seen, in.ID)
			if len(c.seen) == 1 && c.fails == 0 {
				c.at = c.now // there was nobody to ask
			}
		}
	case chord.Forgotten:
		c.seen = without(c.seen, in.ID)
	case chord.LinkUp:
		c.linkUp(in)
	case chord.LinkDown:
		c.linkDown(in.ID, in.Kind)
	case chord.PeerFailed:
		c.close(in.ID, chord.LinkAttached)
		c.close(in.ID, chord.LinkBootstrap)
	case chord.BootstrapFailed, chord.AttachFailed, chord.ProbeFailed:
		c.failed()
	case chord.ProbeAnswered:
		c.found(in.Via, in.Owner)
	case chord.UpdateReceived:
		// "These updates can indicate that the peer is no longer responsible for the client's Node-ID. The client would
		// then need to form a connection to the appropriate peer." (RFC 6940 §4.2.1)
		if p := in.Update.Predecessors; in.From == c.home && len(p) > 0 && !ident.Between(p[0], c.self, c.home) {
			c.at = c.now
		}
	case chord.LeaveReceived:
		c.close(in.From, chord.LinkAttached)
	case chord.JoinReceived:
		c.out = append(c.out, chord.AnswerJoin{To: in.From})
	case chord.Shutdown:
		c.left = true
		return nil
	}
	c.look()
	out := c.out
	c.out = nil
	return out
}

func without(list []wire.NodeID, id wire.NodeID) []wire.NodeID {
	return slices.DeleteFunc(list, func(o wire.NodeID) bool { return o == id })
}

func (c *State) jitter(d time.Duration) time.Duration {
	return d - d/4 + time.Duration(c.rng.Int64N(int64(d)/2+1))
}

func (c *State) failed() {
	c.busy, c.wanted = time.Time{}, wire.NodeID{}
	c.at = c.now.Add(c.jitter(retryAfter << min(c.fails, retryDoublings)))
	c.fails++
}

// look does the next thing that leads to the responsible peer, one at a time.
func (c *State) look() {
	if c.busy.After(c.now) || c.at.After(c.now) {
		return
	}
	if !c.busy.IsZero() { // it took too long
		c.failed()
		return
	}
	via := c.home
	if via.IsZero() && len(c.ring) > 0 {
		via = c.ring[0]
	}
	if via.IsZero() && len(c.boot) > 0 {
		via = c.boot[0]
	}
	switch {
	case !via.IsZero():
		c.busy = c.now.Add(probeTime)
		c.out = append(c.out, chord.Probe{Via: via, Resource: c.next})
	case len(c.seen) > 0:
		id := c.seen[0]
		c.seen = append(c.seen[1:], id)
		c.busy = c.now.Add(dialTime)
		c.out = append(c.out, chord.Bootstrap{ID: id})
	default:
		c.at = c.now.Add(checkEvery)
	}
}

// found learns who is responsible.
func (c *State) found(via, owner wire.NodeID) {
	c.busy = time.Time{}
	switch {
	case owner == c.self:
		c.failed()
	case slices.Contains(c.ring, owner):
		c.moveTo(owner)
	default:
		c.wanted = owner
		c.busy = c.now.Add(attachTime)
		a := chord.Attach{ID: owner, SendUpdate: true}
		if via != owner && !slices.Contains(c.boot, owner) {
			a.Via = []wire.NodeID{via}
		}
		c.out = append(c.out, a)
	}
}

// moveTo makes an attached peer the one to stay with, and closes the links to others.
func (c *State) moveTo(home wire.NodeID) {
	c.fails = 0
	c.at = c.now.Add(c.jitter(checkEvery))
	if c.home != home {
		c.home = home
		c.out = append(c.out, chord.NeighboursChanged{Successors: []wire.NodeID{home}}, chord.Settled{})
	}
	for _, id := range slices.Clone(c.boot) {
		c.close(id, chord.LinkBootstrap)
	}
	for _, id := range slices.Clone(c.ring) {
		if id != home {
			c.close(id, chord.LinkAttached)
		}
	}
}

func (c *State) close(id wire.NodeID, kind chord.LinkKind) {
	c.out = append(c.out, chord.CloseLink{ID: id, Kind: kind})
	c.linkDown(id, kind)
}

func (c *State) linkUp(in chord.LinkUp) {
	list := &c.boot
	if in.Kind == chord.LinkAttached {
		list = &c.ring
	}
	if !slices.Contains(*list, in.ID) {
		*list = append(*list, in.ID)
	}
	switch {
	case in.Kind == chord.LinkAttached && in.ID == c.wanted:
		c.busy, c.wanted = time.Time{}, wire.NodeID{}
		c.moveTo(in.ID)
	case in.Kind == chord.LinkBootstrap && in.Ours:
		c.busy, c.at = time.Time{}, c.now
	}
}

func (c *State) linkDown(id wire.NodeID, kind chord.LinkKind) {
	if kind == chord.LinkBootstrap {
		c.boot = without(c.boot, id)
		return
	}
	c.ring = without(c.ring, id)
	if id == c.home {
		c.home = wire.NodeID{}
		c.at = c.now
		c.out = append(c.out, chord.NeighboursChanged{})
	}
}

// Deadline is chord.State's.
func (c *State) Deadline() time.Time {
	if c.left {
		return c.now.Add(24 * time.Hour)
	}
	if c.busy.After(c.now) {
		return c.busy
	}
	return c.at
}

// NextHop is chord.State's: everything goes to the responsible peer, or to whom there is a link.
func (c *State) NextHop(wire.Destination) chord.Hop {
	for _, list := range [][]wire.NodeID{{c.home}, c.ring, c.boot} {
		if len(list) > 0 && !list[0].IsZero() {
			return chord.Hop{Via: list[0]}
		}
	}
	return chord.Hop{}
}

// Responsible is chord.State's: a client is responsible for nothing.
func (c *State) Responsible(wire.ResourceID) bool { return false }

// ReplicaSet is chord.State's.
func (c *State) ReplicaSet(wire.ResourceID) []wire.NodeID { return nil }

// Plausible is chord.State's: nobody has a reason to store here.
func (c *State) Plausible(wire.ResourceID, wire.NodeID) bool { return false }

// ResponsibleSet is chord.State's.
func (c *State) ResponsibleSet() uint32 { return 0 }

// Uptime is chord.State's.
func (c *State) Uptime() time.Duration { return c.now.Sub(c.started) }

// Whole reports that every member of the ring is linked: a client does not know.
func (c *State) Whole() bool { return false }

// SelfTuning is chord.State's: a client estimates nothing.
func (c *State) SelfTuning() (wire.SelfTuningData, bool) { return wire.SelfTuningData{}, false }

// Snapshot is chord.State's.
func (c *State) Snapshot() chord.Snapshot {
	s := chord.Snapshot{Phase: chord.Alone, Self: c.self, Members: []wire.NodeID{c.self}}
	if !c.home.IsZero() {
		s.Phase, s.Successors = chord.Joining, []wire.NodeID{c.home}
	}
	return s
}
