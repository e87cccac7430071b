package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// topology is what chord last told, for questions that come between its steps.
type topology struct {
	members    []wire.NodeID // ascending, self among them
	pred, succ []wire.NodeID // nearest first
	generation uint64        // counts Settled: usages store their own values again
}

// stepChord gives the topology machine an event and carries out what it wants.
func (l *loop) stepChord(in chord.Input) { l.carryOut(l.chord.Step(l.now, in), nil) }

// tell is stepChord after what is being done now: outputs of one step do not nest in those of another.
func (l *loop) tell(in chord.Input) { l.soon(func() { l.stepChord(in) }) }

// carryOut does what a step of chord wants. join is the JoinReq that the step was about.
func (l *loop) carryOut(out []chord.Output, join *request) {
	for _, o := range out {
		switch o := o.(type) {
		case chord.Bootstrap:
			l.bootstrap(o.ID)
		case chord.Probe:
			l.probe(o)
		case chord.Attach:
			l.chordAttach(o)
		case chord.SendUpdate:
			l.sendUpdate(o)
		case chord.SendJoin:
			l.sendJoin(o.To)
		case chord.AnswerJoin:
			l.answerJoin(join, o.Accepted)
		case chord.SendLeave:
			l.sendLeave(o)
		case chord.CloseLink:
			for _, k := range slices.Clone(l.conns.byPeer[o.ID]) {
				if k.kind() == o.Kind {
					l.dropLink(k, "not needed")
				}
			}
		case chord.HandOver:
			l.handOver(o.To)
		case chord.NeighboursChanged:
			l.topo.pred, l.topo.succ = o.Predecessors, o.Successors
			l.neighboursMoved()
			l.rewatch()
			l.changed()
		case chord.RingChanged:
			l.topo.members = o.Members
			l.log.Info("ring", "members", len(o.Members))
			l.changed()
		case chord.RangeChanged:
			l.changed()
		case chord.Settled:
			l.topo.generation++
			l.n.settled.Store(l.topo.generation)
			l.settled()
			l.changed()
		}
	}
}

func (l *loop) isNeighbour(id wire.NodeID) bool {
	return slices.Contains(l.topo.pred, id) || slices.Contains(l.topo.succ, id)
}

// closest is the second rule for answers in RFC 6940 §6.3.4: from is at least as close to r, which on this
// ring means as near after it, as any neighbour.
func (l *loop) closest(r wire.ResourceID, from wire.NodeID) bool {
	k, err := ident.Position(r)
	if err != nil || k.Len() != from.Len() {
		return false
	}
	far := ident.Distance(k, from)
	for _, id := range slices.Concat(l.topo.pred, l.topo.succ) {
		if ident.Distance(k, id).Compare(far) < 0 {
			return false
		}
	}
	return true
}

func toNode(ids ...wire.NodeID) []wire.Destination {
	out := make([]wire.Destination, len(ids))
	for i, id := range ids {
		out[i] = wire.ToNode(id)
	}
	return out
}

// discovery is where discovered kits are, and how strangers were met.
type discovery struct {
	known     map[wire.NodeID]place
	strangers []Stranger
	dials     int
}

type place struct {
	addrs []netip.AddrPort
	since time.Time
}

// Stranger is a kit that was refused, because its certificate or signature is not of this mission.
type Stranger struct {
	From  string    `json:"from"` // address or Node-ID of the link
	Why   string    `json:"why"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Count uint64    `json:"count"`
}

func (l *loop) discovered(id wire.NodeID, addrs []netip.AddrPort) {
	if id == l.id() || id.Len() != l.n.params.idLen {
		return
	}
	if l.disc.known == nil {
		l.disc.known = make(map[wire.NodeID]place)
	}
	p, ok := l.disc.known[id]
	if !ok {
		if len(l.disc.known) >= maxDiscovered {
			l.n.counters.EventsDropped.Add(1)
			return
		}
		p.since = l.now
	}
	addrs = addrs[:min(len(addrs), maxAddrs)]
	news := !ok || !slices.Equal(addrs, p.addrs)
	p.addrs = slices.Clone(addrs)
	l.disc.known[id] = p
	l.tell(chord.Discovered{ID: id})
	if news {
		l.changed()
	}
}

func (l *loop) lost(id wire.NodeID) {
	if _, ok := l.disc.known[id]; ok {
		delete(l.disc.known, id)
		l.tell(chord.Forgotten{ID: id})
		l.changed()
	}
}

// noteStranger remembers who was refused. The list is short: the longest unseen goes first.
func (l *loop) noteStranger(from *link, err error) {
	who := "unknown"
	if from != nil {
		who = from.peer.String()
	}
	if isStranger(err) {
		l.refusedStranger(who, err)
	}
}

func isStranger(err error) bool {
	return errors.Is(err, ident.ErrUntrusted) || errors.Is(err, ident.ErrRevoked) || errors.Is(err, ident.ErrSignature)
}

func (l *loop) refusedStranger(who string, err error) {
	s := l.disc.strangers
	i := slices.IndexFunc(s, func(x Stranger) bool { return x.From == who })
	if i < 0 {
		if len(s) >= maxStrangers {
			s = slices.Delete(s, 0, 1)
		}
		s = append(s, Stranger{From: who, First: l.now})
		i = len(s) - 1
		l.log.Warn("stranger refused", "from", who, "err", err)
	}
	x := s[i]
	x.Why, x.Last = err.Error(), l.now
	x.Count++
	s = append(slices.Delete(s, i, i+1), x)
	l.disc.strangers = s
	l.changed()
}

// bootstrap opens a link to a discovered peer's bootstrap port (RFC 6940 §11.4), one address after the other.
func (l *loop) bootstrap(id wire.NodeID) {
	addrs := l.disc.known[id].addrs
	if len(addrs) == 0 || l.disc.dials >= maxDials {
		l.tell(chord.BootstrapFailed{ID: id})
		return
	}
	l.disc.dials++
	l.n.counters.Dials.Add(1)
	l.background(func(ctx ctxT) func(*loop) {
		conn, who, err := l.n.dial(ctx, addrs)
		return func(l *loop) {
			l.disc.dials--
			if err != nil {
				l.n.counters.DialsFailed.Add(1)
				l.log.Debug("bootstrap failed", "peer", id, "err", err)
				if isStranger(err) {
					l.refusedStranger(who, err)
				}
				l.tell(chord.BootstrapFailed{ID: id})
				return
			}
			got := conn.Peer().NodeID
			l.addLink(conn, false, true, false)
			if got != id { // another kit of the mission has the address now
				l.tell(chord.BootstrapFailed{ID: id})
			}
		}
	})
}

const dialTimeout = 5 * time.Second // for one address; the handshake is one of DTLS on a LAN

func (n *Node) dial(ctx context.Context, addrs []netip.AddrPort) (conn Conn, who string, err error) {
	for _, a := range addrs {
		one, cancel := context.WithTimeout(ctx, dialTimeout)
		c, e := n.cfg.Transport.Bootstrap(one, a)
		cancel()
		if e == nil {
			return c, "", nil
		}
		who, err = a.Addr().String(), errors.Join(err, fmt.Errorf("bootstrap link to %s: %w", a, e))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, who, err
}

// probe is the partition check of RFC 6940 §10.7.4.4: who does the other peer think comes after this node?
func (l *loop) probe(o chord.Probe) {
	l.send(outgoing{
		dest: []wire.Destination{wire.ToNode(o.Via), wire.ToResource(o.Resource)}, code: wire.PingReq, body: pingBody,
	}, func(r reply) {
		if r.err != nil {
			l.tell(chord.ProbeFailed{Via: o.Via})
			return
		}
		l.tell(chord.ProbeAnswered{Via: o.Via, Owner: r.peer.NodeID})
	})
}

func (l *loop) chordAttach(o chord.Attach) {
	l.attach(toNode(append(slices.Clone(o.Via), o.ID)...), o.ID, o.SendUpdate, func(_ wire.NodeID, err error) {
		if err != nil {
			l.tell(chord.AttachFailed{ID: o.ID, InProgress: errors.Is(err, ErrInProgress) || IsRemote(err, wire.ErrorInProgress)})
		}
	})
}

func (l *loop) sendUpdate(o chord.SendUpdate) {
	body, err := o.Update.AppendBinary(nil)
	if err != nil {
		l.n.counters.Unencodable.Add(1)
		return
	}
	began := l.now
	l.send(outgoing{dest: toNode(o.To), code: wire.UpdateReq, body: body}, func(r reply) {
		// "as determined by connectivity pings or the failure of some request" (RFC 6940 §10.7.1); a link
		// that was made meanwhile proves that the peer lives.
		if k := l.conns.best(o.To); errors.Is(r.err, ErrTimeout) && k != nil && k.since.Before(began) {
			l.tell(chord.PeerFailed{ID: o.To})
		}
	})
}

func (l *loop) sendJoin(to wire.NodeID) {
	body, err := wire.JoinRequest{Node: l.id()}.AppendBinary(nil)
	if err != nil {
		l.n.counters.Unencodable.Add(1)
		return
	}
	l.send(outgoing{dest: toNode(to), code: wire.JoinReq, body: body}, func(r reply) {
		if r.err != nil {
			l.tell(chord.JoinFailed{From: to})
			return
		}
		l.tell(chord.JoinAnswered{From: to})
	})
}

func (l *loop) sendLeave(o chord.SendLeave) {
	data, err := o.Leave.AppendBinary(nil)
	if err == nil {
		data, err = wire.LeaveRequest{Node: l.id(), OverlaySpecific: data}.AppendBinary(nil)
	}
	if err != nil {
		l.n.counters.Unencodable.Add(1)
		return
	}
	l.send(outgoing{dest: toNode(o.To), code: wire.LeaveReq, body: data, once: true}, func(reply) {})
}
