package node

import (
	"slices"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/wire"
)

// link is one overlay link, owned by the loop but for conn and the bucket, which its reader uses.
type link struct {
	conn      Conn
	peer      wire.NodeID
	attached  bool // made by Attach; else a bootstrap link
	dialled   bool // this side was the initiator (offerer)
	since     time.Time
	heard     time.Time
	sent      time.Time
	pinged    time.Time
	verifying int
	errors    bucket // answers to messages that were not verified
	watch     *alarm
	closed    bool
}

func (k *link) kind() chord.LinkKind {
	if k.attached {
		return chord.LinkAttached
	}
	return chord.LinkBootstrap
}

// connections are all links. A peer may have several: a bootstrap link beside an attached one, and for a
// moment two of a kind while one replaces the other.
type connections struct {
	byPeer map[wire.NodeID][]*link // attached ones first, of each kind the best first
	count  int
}

// best is the link to send to a peer on: the attached one, unless a bootstrap link was made since
// anything was heard on that. A peer that restarted is reached that way before its old link falls silent.
//
// A suspect link is passed over while there is another one that is not (RFC 6940 §6.6.3.1: "it is
// RECOMMENDED that the link be removed from the Routing Table"). Where it is the only one, the peer stays
// in the Routing Table: nearly always the next hop is the destination itself, and then "the message MUST be
// routed down that connection" (§6.2.1); and within seconds the link either recovers or fails, and chord
// repairs the ring.
func (c *connections) best(id wire.NodeID) *link {
	s := c.byPeer[id]
	if len(s) == 0 {
		return nil
	}
	first := s[0]
	for _, k := range s[1:] {
		if first.attached && !k.attached && k.since.After(first.heard) {
			first = k
			break
		}
	}
	if len(s) > 1 && first.conn.Suspect() {
		for _, k := range s {
			if !k.conn.Suspect() {
				return k
			}
		}
	}
	return first
}

// better tells which of two links of one kind to one peer survives; both ends must come to the same. Of
// links made one after the other it is the younger one: who makes a new link has lost the older. Links made
// at the same time, because both sides found each other at once, are ranked: first the one whose initiator
// has the larger Node-ID (that side prevails in RFC 6940 §6.5.1.2, too), then the younger one.
func better(self wire.NodeID, a, b *link) bool {
	if d := a.since.Sub(b.since); d.Abs() >= concurrentLinks {
		return d > 0
	}
	if a.dialled != b.dialled {
		return a.dialled == (self.Compare(a.peer) > 0)
	}
	return a.since.After(b.since)
}

// addLink takes in a new link. sendUpdate is the flag of the peer's Attach.
func (l *loop) addLink(conn Conn, attached, dialled, sendUpdate bool) {
	peer := conn.Peer().NodeID
	c := &l.n.counters
	list := l.conns.byPeer[peer]
	if l.closing || peer == l.id() || l.conns.count >= maxLinks || len(list) >= maxLinksPerPeer {
		c.LinksRefused.Add(1)
		l.discard(conn)
		return
	}
	k := &link{
		conn: conn, peer: peer, attached: attached, dialled: dialled, since: l.now, heard: l.now, sent: l.now,
		errors: newBucket(errorRate, errorBurst, l.now),
	}
	l.conns.count++
	c.LinksMade.Add(1)
	at, twins := len(list), 0
	for i := len(list) - 1; i >= 0; i-- {
		o := list[i]
		if o.attached == attached {
			twins++
		}
		if attached && !o.attached || attached == o.attached && better(l.id(), k, o) {
			at = i
		}
	}
	list = append(list, nil)
	copy(list[at+1:], list[at:])
	list[at] = k
	if l.conns.byPeer == nil {
		l.conns.byPeer = make(map[wire.NodeID][]*link)
	}
	l.conns.byPeer[peer] = list
	l.read(k)
	l.watchLink(k)
	l.log.Info("link", "peer", peer, "kind", k.kind(), "ours", dialled)
	l.tell(chord.LinkUp{ID: peer, Kind: k.kind(), Ours: dialled, SendUpdate: sendUpdate})
	if twins > 0 {
		// Make before break: what is under way on the other still arrives.
		l.after(linkGrace, func() { l.closeWorse(peer, attached) })
	}
	l.changed()
}

// closeWorse closes all links of a kind to a peer but the best.
func (l *loop) closeWorse(peer wire.NodeID, attached bool) {
	var kept bool
	for _, k := range slices.Clone(l.conns.byPeer[peer]) {
		if k.attached != attached {
			continue
		}
		if kept {
			l.dropLink(k, "replaced")
		}
		kept = true
	}
}

// rewatch looks at all links anew after the neighbours changed.
func (l *loop) rewatch() {
	for _, list := range l.conns.byPeer {
		for _, k := range list {
			k.watch = l.move(k.watch, l.jitter(100*time.Millisecond), func() { l.watchLink(k) })
		}
	}
}

// dropLink takes a link out of the Connection Table and closes it.
func (l *loop) dropLink(k *link, why string) {
	if k.closed {
		return
	}
	k.closed = true
	l.conns.count--
	l.alarms.stop(k.watch)
	list := slices.DeleteFunc(slices.Clone(l.conns.byPeer[k.peer]), func(o *link) bool { return o == k })
	l.n.counters.LinksLost.Add(1)
	l.log.Info("link closed", "peer", k.peer, "why", why, "remaining", len(list))
	l.discard(k.conn)
	l.conns.byPeer[k.peer] = list
	if len(list) == 0 {
		delete(l.conns.byPeer, k.peer)
	}
	if !slices.ContainsFunc(list, func(o *link) bool { return o.attached == k.attached }) {
		l.tell(chord.LinkDown{ID: k.peer, Kind: k.kind()})
	}
	l.changed()
}

// read starts the reader of a link: it takes messages off the link no faster than its bucket allows and
// no faster than the loop takes them, so that a flood costs only the flooder.
func (l *loop) read(k *link) {
	n := l.n
	l.background(func(ctx ctxT) func(*loop) {
		limit := newBucket(linkRate, linkBurst, n.now())
		for {
			b, err := k.conn.Receive(ctx)
			if err != nil {
				return func(l *loop) { l.dropLink(k, "link layer") }
			}
			n.counters.Received.Add(1)
			if !limit.take(n.now()) {
				n.counters.RateLimited.Add(1)
				continue
			}
			if !n.post(ctx, func(l *loop) {
				if !k.closed {
					l.receive(k, b)
				}
			}) {
				return nil
			}
		}
	})
}

// watchLink notices a peer that vanished without goodbye, see the package comment.
func (l *loop) watchLink(k *link) {
	idle, again, silence := otherIdle, otherPing, otherSilence
	if l.isNeighbour(k.peer) || !k.attached {
		idle, again, silence = neighbourIdle, neighbourPing, neighbourSilence
	}
	quiet := l.now.Sub(k.heard)
	switch {
	case quiet >= silence:
		l.n.counters.LinksSilent.Add(1)
		l.dropLink(k, "silence")
		return
	case quiet >= idle && l.now.Sub(k.pinged) >= again:
		k.pinged = l.now
		l.n.counters.Keepalives.Add(1)
		l.send(outgoing{
			dest: []wire.Destination{wire.ToNode(k.peer)}, code: wire.PingReq, body: pingBody, link: k, once: true,
		}, func(reply) {})
	}
	next := min(idle-quiet, silence-quiet)
	if quiet >= idle {
		next = min(k.pinged.Add(again).Sub(l.now), silence-quiet)
	}
	// Some jitter, so that of two ends that fell silent together one pings and the other only answers.
	next += l.jitter(800*time.Millisecond) - 600*time.Millisecond
	k.watch = l.move(k.watch, max(next, 10*time.Millisecond), func() { l.watchLink(k) })
}

var pingBody = []byte{0, 0} // PingReq without padding (RFC 6940 §6.5.3.1)
