package peer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// topology is what a peer asks about the overlay around it: *chord.State, or *client.State for a node that only uses it.
type topology interface {
	Step(now time.Time, in chord.Input) []chord.Output
	Deadline() time.Time
	NextHop(d wire.Destination) chord.Hop
	Responsible(r wire.ResourceID) bool
	ReplicaSet(r wire.ResourceID) []wire.NodeID
	Plausible(r wire.ResourceID, sender wire.NodeID) bool
	ResponsibleSet() uint32
	Uptime() time.Duration
	Whole() bool // every member of the ring is linked
	SelfTuning() (wire.SelfTuningData, bool)
	Snapshot() chord.Snapshot
}

// surroundings are what the topology last told, for questions that come between its steps.
type surroundings struct {
	members    []wire.NodeID // ascending, self among them
	pred, succ []wire.NodeID // nearest first
	due        time.Time     // when the topology wants its next Tick
	generation uint64        // counts Settled: usages store their own values again

	updating map[wire.NodeID]*chord.SendUpdate // to whom an Update is under way, and the one that waits for its answer
}

// stepChord gives the topology machine an event and carries out what it wants.
func (p *Peer) stepChord(in chord.Input) { p.carryOut(p.step(in), nil) }

// step also notes when the next one is due: nothing else changes that, and finding it out takes longer than most turns.
func (p *Peer) step(in chord.Input) []chord.Output {
	out := p.chord.Step(p.now, in)
	p.topo.due = p.chord.Deadline()
	return out
}

// tell is stepChord after what is being done now: outputs of one step do not nest in those of another.
func (p *Peer) tell(in chord.Input) { p.soon(func() { p.stepChord(in) }) }

// carryOut does what a step of chord wants. join is the JoinReq that the step was about.
func (p *Peer) carryOut(out []chord.Output, join *request) {
	for _, o := range out {
		switch o := o.(type) {
		case chord.Bootstrap:
			p.bootstrap(o.ID)
		case chord.Probe:
			p.probe(o)
		case chord.Search:
			p.search(o.Resource)
		case chord.ProbeInfo:
			p.probeInfo(o)
		case chord.Attach:
			p.chordAttach(o)
		case chord.SendUpdate:
			p.sendUpdate(o)
		case chord.SendJoin:
			p.sendJoin(o.To)
		case chord.AnswerJoin:
			p.answerJoin(join, o.Accepted)
		case chord.SendLeave:
			p.sendLeave(o)
		case chord.CloseLink:
			for _, k := range slices.Clone(p.conns.byPeer[o.ID]) {
				if k.kind() == o.Kind {
					p.dropLink(k, "not needed")
				}
			}
		case chord.HandOver:
			p.handOver(o.To)
		case chord.NeighboursChanged:
			p.topo.pred, p.topo.succ = o.Predecessors, o.Successors
			p.neighboursMoved()
			p.rewatch()
			p.cfg.Env.Changed()
		case chord.RingChanged:
			p.topo.members = o.Members
			p.log.Info("ring", "members", len(o.Members))
			p.cfg.Env.Changed()
		case chord.RangeChanged:
			p.cfg.Env.Changed()
		case chord.Settled:
			p.topo.generation++
			p.settled()
			p.cfg.Env.Changed()
		}
	}
}

func (p *Peer) isNeighbour(id wire.NodeID) bool {
	return slices.Contains(p.topo.pred, id) || slices.Contains(p.topo.succ, id)
}

// closest is the second rule for answers in RFC 6940 §6.3.4: from is at least as close to r, which on this
// ring means as near after it, as any neighbour.
func (p *Peer) closest(r wire.ResourceID, from wire.NodeID) bool {
	k, err := ident.Position(r)
	if err != nil || k.Len() != from.Len() {
		return false
	}
	far := ident.Distance(k, from)
	for _, id := range slices.Concat(p.topo.pred, p.topo.succ) {
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

func (p *Peer) discovered(id wire.NodeID, addrs []netip.AddrPort) {
	if id == p.cfg.ID || id.Len() != p.params.idLen {
		return
	}
	if p.disc.known == nil {
		p.disc.known = make(map[wire.NodeID]place)
	}
	seen, ok := p.disc.known[id]
	if !ok {
		if len(p.disc.known) >= maxDiscovered {
			p.count.EventsDropped++
			return
		}
		seen.since = p.now
	}
	addrs = addrs[:min(len(addrs), maxAddrs)]
	news := !ok || !slices.Equal(addrs, seen.addrs)
	seen.addrs = slices.Clone(addrs)
	p.disc.known[id] = seen
	p.tell(chord.Discovered{ID: id})
	if news {
		p.cfg.Env.Changed()
	}
}

func (p *Peer) lost(id wire.NodeID) {
	if _, ok := p.disc.known[id]; ok {
		delete(p.disc.known, id)
		p.tell(chord.Forgotten{ID: id})
		p.cfg.Env.Changed()
	}
}

// noteStranger remembers who was refused. The list is short: the longest unseen goes first.
func (p *Peer) noteStranger(from *link, err error) {
	who := "unknown"
	if from != nil {
		who = from.peer.String()
	}
	if isStranger(err) {
		p.refusedStranger(who, err)
	}
}

func isStranger(err error) bool {
	return errors.Is(err, ident.ErrUntrusted) || errors.Is(err, ident.ErrRevoked) || errors.Is(err, ident.ErrSignature)
}

func (p *Peer) refusedStranger(who string, err error) {
	s := p.disc.strangers
	i := slices.IndexFunc(s, func(x Stranger) bool { return x.From == who })
	if i < 0 {
		if len(s) >= maxStrangers {
			s = slices.Delete(s, 0, 1)
		}
		s = append(s, Stranger{From: who, First: p.now})
		i = len(s) - 1
		p.log.Warn("stranger refused", "from", who, "err", err)
	}
	x := s[i]
	x.Why, x.Last = err.Error(), p.now
	x.Count++
	s = append(slices.Delete(s, i, i+1), x)
	p.disc.strangers = s
	p.cfg.Env.Changed()
}

// bootstrap opens a link to a discovered peer's bootstrap port (RFC 6940 §11.4), one address after the other.
func (p *Peer) bootstrap(id wire.NodeID) {
	addrs := p.disc.known[id].addrs
	if len(addrs) == 0 || p.disc.dials >= maxDials {
		p.tell(chord.BootstrapFailed{ID: id})
		return
	}
	p.disc.dials++
	p.count.Dials++
	p.dial(id, addrs, nil)
}

// dial tries the first address, and the others if that fails, as the earlier ones did with errs.
func (p *Peer) dial(id wire.NodeID, addrs []netip.AddrPort, errs error) {
	var timer *alarm
	cancel := p.cfg.Env.Bootstrap(addrs[0], func(now time.Time, l Link, err error) {
		began := p.enter(now)
		p.alarms.stop(timer)
		p.dialled(id, addrs, l, err, errs)
		p.leave(began)
	})
	timer = p.after(dialTimeout, cancel)
}

func (p *Peer) dialled(id wire.NodeID, addrs []netip.AddrPort, l Link, err, errs error) {
	if err != nil {
		errs = errors.Join(errs, fmt.Errorf("bootstrap link to %s: %w", addrs[0], err))
		if len(addrs) > 1 && !p.closing {
			p.dial(id, addrs[1:], errs)
			return
		}
		p.disc.dials--
		p.count.DialsFailed++
		p.log.Debug("bootstrap failed", "peer", id, "err", errs)
		if isStranger(errs) {
			p.refusedStranger(addrs[0].Addr().String(), errs)
		}
		p.tell(chord.BootstrapFailed{ID: id})
		return
	}
	p.disc.dials--
	got := l.Peer().NodeID
	if holds(l.Peer(), id) {
		got = id
	}
	p.addLink(l, got, false, true, false)
	if got != id { // another kit of the mission has the address now
		p.tell(chord.BootstrapFailed{ID: id})
	}
}

// probe is the partition check of RFC 6940 §10.7.4.4: who does the other peer think comes after this node?
func (p *Peer) probe(o chord.Probe) {
	p.send(Outgoing{
		Dest: []wire.Destination{wire.ToNode(o.Via), wire.ToResource(o.Resource)}, Code: wire.PingReq, Body: pingBody,
	}, func(r Reply) {
		if r.Err != nil {
			p.tell(chord.ProbeFailed{Via: o.Via})
			return
		}
		p.tell(chord.ProbeAnswered{Via: o.Via, Owner: r.Peer.NodeID})
	})
}

// search finds out who is responsible for a point of the ring, for the Finger Table (RFC 6940 §10.7.4.2).
func (p *Peer) search(res wire.ResourceID) {
	p.send(Outgoing{Dest: []wire.Destination{wire.ToResource(res)}, Code: wire.PingReq, Body: pingBody}, func(r Reply) {
		if r.Err != nil {
			p.tell(chord.SearchFailed{Resource: res})
			return
		}
		p.tell(chord.SearchAnswered{Resource: res, Owner: r.Peer.NodeID})
	})
}

// probeInfo exchanges estimates for self-tuning: "the peer sends a Probe request [...] the message extension of the Probe
// request" (RFC 7363 §6.5). It "MUST NOT" be critical.
func (p *Peer) probeInfo(o chord.ProbeInfo) {
	data, err := o.Tuning.AppendBinary(nil)
	var body []byte
	if err == nil {
		body, err = wire.ProbeRequest{Requested: []wire.ProbeInfoType{wire.ProbeUptime}}.AppendBinary(nil)
	}
	if err != nil {
		p.count.Unencodable++
		return
	}
	out := Outgoing{
		Dest: toNode(o.To), Code: wire.ProbeReq, Body: body, Extensions: []wire.Extension{{Type: wire.ExtensionSelfTuning, Data: data}},
	}
	p.send(out, func(r Reply) {
		if r.Err != nil {
			return
		}
		a, err := wire.ParseProbeAnswer(r.Message.Body)
		if err != nil {
			p.count.Malformed++
			return
		}
		in := chord.ProbeInfoAnswered{From: r.Peer.NodeID}
		for _, i := range a.Info {
			if i.Type == wire.ProbeUptime {
				in.Uptime, in.HasUptime = i.Value, true
			}
		}
		in.Tuning, in.HasTuning = selfTuning(r.Message)
		p.tell(in)
	})
}

// selfTuning reads what a Probe or its answer says of the network (RFC 7363 §9.1).
func selfTuning(m *wire.Message) (d wire.SelfTuningData, ok bool) {
	e := m.Extension(wire.ExtensionSelfTuning)
	if e == nil {
		return d, false
	}
	d, err := wire.ParseSelfTuningData(e.Data)
	return d, err == nil
}

func (p *Peer) chordAttach(o chord.Attach) {
	p.attach(toNode(append(slices.Clone(o.Via), o.ID)...), o.ID, o.SendUpdate, func(_ wire.NodeID, err error) {
		if err != nil {
			p.tell(chord.AttachFailed{ID: o.ID, InProgress: errors.Is(err, ErrInProgress) || IsRemote(err, wire.ErrorInProgress)})
		}
	})
}

// updateWait is how long an Update waits for the answer to the one before it: what is lost once on a link is there by then.
const updateWait = 500 * time.Millisecond

// sendUpdate sends one Update to a peer at a time: a link may deliver what was lost after what came later, and an Update
// says nothing of its place among others. Of those that wait only the last says anything.
func (p *Peer) sendUpdate(o chord.SendUpdate) {
	if waiting, busy := p.topo.updating[o.To]; busy {
		if waiting != nil && waiting.Update.Type == wire.UpdateFull && o.Update.Type == wire.UpdateNeighbors {
			o.Update.Type, o.Update.Fingers = wire.UpdateFull, waiting.Update.Fingers // somebody asked for them
		}
		p.topo.updating[o.To] = &o
		return
	}
	body, err := o.Update.AppendBinary(nil)
	if err != nil {
		p.count.Unencodable++
		return
	}
	if p.topo.updating == nil {
		p.topo.updating = make(map[wire.NodeID]*chord.SendUpdate)
	}
	p.topo.updating[o.To] = nil
	began, waited := p.now, false
	next := func() {
		if waited {
			return
		}
		waited = true
		u := p.topo.updating[o.To]
		delete(p.topo.updating, o.To)
		if u != nil && p.conns.best(u.To) != nil {
			p.sendUpdate(*u)
		}
	}
	limit := p.after(updateWait, next)
	p.send(Outgoing{Dest: toNode(o.To), Code: wire.UpdateReq, Body: body}, func(r Reply) {
		p.alarms.stop(limit)
		next()
		// "as determined by connectivity pings or the failure of some request" (RFC 6940 §10.7.1); a link
		// that was made meanwhile proves that the peer lives.
		if k := p.conns.best(o.To); errors.Is(r.Err, ErrTimeout) && k != nil && k.since.Before(began) {
			p.tell(chord.PeerFailed{ID: o.To})
		}
	})
}

func (p *Peer) sendJoin(to wire.NodeID) {
	body, err := wire.JoinRequest{Node: p.cfg.ID}.AppendBinary(nil)
	if err != nil {
		p.count.Unencodable++
		return
	}
	p.send(Outgoing{Dest: toNode(to), Code: wire.JoinReq, Body: body}, func(r Reply) {
		if r.Err != nil {
			p.tell(chord.JoinFailed{From: to})
			return
		}
		p.tell(chord.JoinAnswered{From: to})
	})
}

func (p *Peer) sendLeave(o chord.SendLeave) {
	data, err := o.Leave.AppendBinary(nil)
	if err == nil {
		data, err = wire.LeaveRequest{Node: p.cfg.ID, OverlaySpecific: data}.AppendBinary(nil)
	}
	if err != nil {
		p.count.Unencodable++
		return
	}
	p.send(Outgoing{Dest: toNode(o.To), Code: wire.LeaveReq, Body: data, once: true}, func(Reply) {})
}
