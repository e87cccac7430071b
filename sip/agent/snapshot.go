package agent

import (
	"slices"
	"sync/atomic"
	"time"

	"fieldkit/sip/media"
	"fieldkit/sip/registrar"
)

// counters are written from several goroutines.
type counters struct {
	received, malformed, foreign, keepalives, overload, dropped, refused,
	stray, unanswerable, socketErrors, sendErrors, panics,
	calls, answered, noMedia, noTrunk atomic.Uint64
}

// Snapshot is what the telephony of a kit looks like at one moment.
type Snapshot struct {
	Handsets []Handset
	Calls    []Call
	Trunks   []string // kits
	Stats    Stats
}

// Handset is one contact that is registered here.
type Handset struct {
	Number, Name, Contact, Transport, UserAgent string
	Since, Expires                              time.Time
}

// Call is a call that goes on.
type Call struct {
	From, To string
	State    string        // "trying", "ringing", "answered"
	Since    time.Time     // the INVITE
	Ringing  time.Duration // INVITE to the first provisional response that says so
	Setup    time.Duration // INVITE to 200
	Kit      string        // the far kit, "" for a call inside this one
	Media    media.CallStats
}

// Stats are counters since the start, and what is held now.
type Stats struct {
	Received     uint64 // well-formed messages
	Malformed    uint64 // refused by the strict layer
	Foreign      uint64 // from outside of the handset network, or over the bound of connections
	Keepalives   uint64
	Overload     uint64 // over the rate
	Dropped      uint64 // the loop was behind
	Refused      uint64 // over another limit
	Stray        uint64 // responses and ACKs without a transaction or call
	Unanswerable uint64 // malformed beyond a response
	SocketErrors uint64
	SendErrors   uint64
	Panics       uint64 // caught; each is a bug
	Calls        uint64
	Answered     uint64
	NoMedia      uint64 // calls refused by the relay
	NoTrunk      uint64 // branches to kits that could not be reached

	ServerTransactions, ClientTransactions int
	Connections                            int

	Registrar registrar.Stats
	Digest    registrar.DigestStats
}

// Snapshot returns the state; the zero value when the agent does not run.
func (a *Agent) Snapshot() Snapshot {
	var s Snapshot
	_ = a.do(func(time.Time) { s = a.snapshot() })
	return s
}

// Bindings returns what Config.Save gets.
func (a *Agent) Bindings() registrar.Snapshot {
	var s registrar.Snapshot
	_ = a.do(func(time.Time) { s = a.loop.reg.Snapshot() })
	return s
}

func (a *Agent) snapshot() Snapshot {
	var s Snapshot
	for _, acc := range a.loop.reg.Snapshot().Accounts {
		for _, b := range acc.Bindings {
			s.Handsets = append(s.Handsets, Handset{
				Number: acc.Number, Name: acc.Name, Contact: b.Contact, Transport: b.Flow.Transport,
				UserAgent: b.UserAgent, Since: b.Since, Expires: b.Expires,
			})
		}
	}
	for _, c := range a.loop.calls {
		v := Call{From: c.from, To: c.to, State: "trying", Since: c.started, Ringing: c.ringing, Setup: c.setup}
		i, answered := c.core.Answered()
		switch {
		case answered:
			v.State = "answered"
			v.Kit = c.branches[i].to.Kit
		case c.ringing > 0:
			v.State = "ringing"
		}
		if c.caller.trunk != nil {
			v.Kit = c.caller.trunk.kit
		}
		if c.media != nil {
			v.Media = c.media.Stats()
		}
		s.Calls = append(s.Calls, v)
	}
	slices.SortFunc(s.Calls, func(x, y Call) int { return x.Since.Compare(y.Since) })
	for _, f := range a.loop.links {
		s.Trunks = append(s.Trunks, f.trunk.kit)
	}
	slices.Sort(s.Trunks)
	s.Stats = a.stats()
	return s
}

func (a *Agent) stats() Stats {
	c := &a.count
	return Stats{
		Received: c.received.Load(), Malformed: c.malformed.Load(), Foreign: c.foreign.Load(), Keepalives: c.keepalives.Load(),
		Overload: c.overload.Load(), Dropped: c.dropped.Load(), Refused: c.refused.Load(), Stray: c.stray.Load(),
		Unanswerable: c.unanswerable.Load(), SocketErrors: c.socketErrors.Load(), SendErrors: c.sendErrors.Load(),
		Panics: c.panics.Load(), Calls: c.calls.Load(), Answered: c.answered.Load(), NoMedia: c.noMedia.Load(), NoTrunk: c.noTrunk.Load(),
		ServerTransactions: len(a.loop.servers), ClientTransactions: a.clients.len(), Connections: len(a.loop.streams),
		Registrar: a.loop.reg.Stats(), Digest: a.loop.digest.Stats(),
	}
}
