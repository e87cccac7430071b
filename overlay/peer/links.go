package peer

import (
	"slices"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// link is one overlay link of the Connection Table.
type link struct {
	conn      Link
	peer      wire.NodeID
	attached  bool // made by Attach; else a bootstrap link
	dialled   bool // this side was the initiator (offerer)
	unsaid    bool // its certificate has several Node-IDs, and no Attach has said which
	since     time.Time
	heard     time.Time
	asked     time.Time // for a sign of life
	pinged    time.Time // the same, by a Ping
	verifying int
	errors    Bucket // answers to messages that were not verified
	watch     *alarm
	look      func() // watchLink of this link
	closed    bool
}

func (k *link) kind() chord.LinkKind {
	if k.attached {
		return chord.LinkAttached
	}
	return chord.LinkBootstrap
}

// lastHeard is when the last message came, or whatever else the link layer takes for a sign of life.
func (k *link) lastHeard() time.Time {
	if at := k.conn.Heard(); at.After(k.heard) {
		return at
	}
	return k.heard
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
		if first.attached && !k.attached && k.since.After(first.lastHeard()) {
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

// holds reports whether a certificate is one for a Node-ID.
func holds(p *ident.Peer, id wire.NodeID) bool {
	return p.NodeID == id || slices.Contains(p.NodeIDs, id)
}

// addLink takes in a new link to a peer, whose certificate holds that Node-ID. sendUpdate is the flag of the peer's Attach.
func (p *Peer) addLink(conn Link, peer wire.NodeID, attached, dialled, sendUpdate bool) {
	c := &p.count
	list := p.conns.byPeer[peer]
	if p.closing || peer == p.cfg.ID || p.conns.count >= MaxLinks || len(list) >= maxLinksPerPeer {
		c.LinksRefused++
		_ = conn.Close()
		return
	}
	k := &link{
		conn: conn, peer: peer, attached: attached, unsaid: !attached && len(conn.Peer().NodeIDs) > 1, dialled: dialled, since: p.now, heard: p.now,
		errors: NewBucket(errorRate, errorBurst, p.now),
	}
	k.look = func() { p.watchLink(k) }
	p.conns.count++
	c.LinksMade++
	at, twins := len(list), 0
	for i := len(list) - 1; i >= 0; i-- {
		o := list[i]
		if o.attached == attached {
			twins++
		}
		if attached && !o.attached || attached == o.attached && better(p.cfg.ID, k, o) {
			at = i
		}
	}
	list = append(list, nil)
	copy(list[at+1:], list[at:])
	list[at] = k
	if p.conns.byPeer == nil {
		p.conns.byPeer = make(map[wire.NodeID][]*link)
	}
	p.conns.byPeer[peer] = list
	conn.Start()
	p.watchLink(k)
	p.log.Info("link", "peer", peer, "kind", k.kind(), "ours", dialled)
	p.tell(chord.LinkUp{ID: peer, Kind: k.kind(), Ours: dialled, SendUpdate: sendUpdate})
	if twins > 0 {
		// Make before break: what is under way on the other still arrives.
		p.after(linkGrace, func() { p.closeWorse(peer, attached) })
	}
	p.cfg.Env.Changed()
}

// closeWorse closes all links of a kind to a peer but the best.
func (p *Peer) closeWorse(peer wire.NodeID, attached bool) {
	var kept bool
	for _, k := range slices.Clone(p.conns.byPeer[peer]) {
		if k.attached != attached {
			continue
		}
		if kept {
			p.dropLink(k, "replaced")
		}
		kept = true
	}
}

// rewatch looks at all links anew after the neighbours changed.
func (p *Peer) rewatch() {
	for _, k := range p.conns.all() {
		k.watch = p.move(k.watch, p.jitter(100*time.Millisecond), k.look)
	}
}

// dropLink takes a link out of the Connection Table and closes it.
func (p *Peer) dropLink(k *link, why string) {
	if k.closed {
		return
	}
	k.closed = true
	p.conns.count--
	p.alarms.stop(k.watch)
	list := slices.DeleteFunc(slices.Clone(p.conns.byPeer[k.peer]), func(o *link) bool { return o == k })
	p.count.LinksLost++
	p.log.Info("link closed", "peer", k.peer, "why", why, "remaining", len(list))
	_ = k.conn.Close()
	p.conns.byPeer[k.peer] = list
	if len(list) == 0 {
		delete(p.conns.byPeer, k.peer)
	}
	if !slices.ContainsFunc(list, func(o *link) bool { return o.attached == k.attached }) {
		p.tell(chord.LinkDown{ID: k.peer, Kind: k.kind()})
	}
	p.cfg.Env.Changed()
}

// watchLink notices a peer that vanished without goodbye, see the package comment. It asks the link layer for a sign
// of life first; a Ping, which both ends sign and which carries their certificates, goes where there is none, and once
// before the link is dropped: checks are not sent again when they are lost, and what the link layer of a peer answers,
// its core might not.
func (p *Peer) watchLink(k *link) {
	idle, again, silence := otherIdle, otherPing, otherSilence
	if p.isNeighbour(k.peer) || !k.attached {
		idle, again, silence = neighbourIdle, neighbourPing, neighbourSilence
	}
	heard := k.lastHeard()
	quiet := p.now.Sub(heard)
	switch {
	case quiet >= silence:
		p.count.LinksSilent++
		p.dropLink(k, "silence")
		return
	case quiet >= idle && p.now.Sub(k.asked) >= again:
		k.asked = p.now
		last := quiet >= silence-lastTry && k.pinged.Before(heard)
		if k.conn.Check() {
			p.count.Checks++
			if !last {
				break
			}
		}
		k.pinged = p.now
		p.count.Keepalives++
		p.send(Outgoing{Dest: toNode(k.peer), Code: wire.PingReq, Body: pingBody, link: k, once: true}, func(Reply) {})
	}
	next := silence - quiet
	if quiet < idle {
		// Some jitter, so that of two ends that fell silent together one asks and the other is heard.
		next = idle - quiet + p.jitter(800*time.Millisecond) - 600*time.Millisecond
	} else {
		next = min(next, k.asked.Add(again).Sub(p.now))
	}
	k.watch = p.move(k.watch, max(next, 10*time.Millisecond), k.look)
}

var pingBody = []byte{0, 0} // PingReq without padding (RFC 6940 §6.5.3.1)
