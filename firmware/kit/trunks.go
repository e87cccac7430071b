package kit

import (
	"context"
	"slices"
	"time"

	"fieldkit/overlay/node"
	"fieldkit/overlay/sipusage"
	"fieldkit/overlay/wire"
	"fieldkit/sip/agent"
)

// silentFor is how long a trunk in use may stay silent, once it is doubted, before it is taken for dead. Phones in
// a call send voice fifty times a second, or RTCP about every five seconds when it is held.
const silentFor = 6 * time.Second

// doubts are the trunks that may lead nowhere. A trunk is a transport of its own, which notices only after half
// a minute of silence that its far end is gone, and all that time SIP sent on it is lost without a word. When the
// overlay lost the kit meanwhile, or had to link it anew, its trunk most likely broke with the link. One goroutine
// owns it.
type doubts map[*sipusage.Trunk]*doubt

type doubt struct {
	heard uint64    // voice packets that came by the trunk's calls
	since time.Time // nothing more was heard since then
}

// trunk is what doubts are about.
type trunk struct {
	peer  wire.NodeID
	since time.Time
}

// young is how long a trunk is not doubted: the kit that opened it may know of the ring a moment before this one.
const young = 2 * time.Second

// doubtful tells whether the overlay had no link to the trunk's kit at some time after the trunk was opened.
func doubtful(now time.Time, t trunk, s node.Snapshot) bool {
	if now.Sub(t.since) < young {
		return false
	}
	if !slices.Contains(s.Ring, t.peer) {
		return true
	}
	linked, anew := false, true
	for _, l := range s.Links {
		if l.Attached && l.Peer == t.peer {
			linked = true
			anew = anew && l.Since.After(t.since)
		}
	}
	return linked && anew
}

// dead judges a doubted trunk, given whether calls go by it and what they heard.
func (d *doubt) dead(now time.Time, inUse bool, heard uint64) bool {
	if !inUse {
		return true // nobody misses it; the next call opens one that works
	}
	if d.since.IsZero() || heard > d.heard {
		d.heard, d.since = heard, now
	}
	return now.Sub(d.since) >= silentFor
}

// usage tells whether calls go by the trunk to kit and how many voice packets they got from there. Where a call that
// rings goes is not known, so it may be there.
func usage(calls []agent.Call, kit string) (inUse bool, heard uint64) {
	for _, c := range calls {
		switch {
		case c.Kit == kit:
			inUse = true
			for _, leg := range c.Media.Legs {
				if leg.Trunk {
					heard += leg.Received.Packets
				}
			}
		case c.Kit == "" && c.State == "ringing":
			inUse = true
		}
	}
	return inUse, heard
}

// closeDead closes the trunks that lead nowhere. What waits on them fails at once instead of a timeout later, and
// who calls next gets a new one.
func (d doubts) closeDead(ctx context.Context, k *Kit, s node.Snapshot) {
	u, a := k.overlay.usage.Load(), k.telephony.agent.Load()
	if u == nil {
		return
	}
	open, err := u.Trunks(ctx)
	if err != nil {
		return // the overlay ends, and its trunks with it
	}
	for t := range d {
		if !slices.Contains(open, t) {
			delete(d, t)
		}
	}
	now := time.Now()
	var calls []agent.Call
	for _, t := range open {
		if !doubtful(now, trunk{t.Peer(), t.Since()}, s) {
			delete(d, t)
			continue
		}
		if calls == nil && a != nil {
			calls = a.Snapshot().Calls
		}
		if d[t] == nil {
			d[t] = &doubt{}
		}
		inUse, heard := usage(calls, t.Kit())
		if d[t].dead(now, inUse, heard) {
			k.log.Info("trunk closed: its kit was lost", "kit", t.Kit(), "in_use", inUse)
			_ = t.Close()
			delete(d, t)
		}
	}
}
