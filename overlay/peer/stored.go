package peer

import (
	"errors"
	"time"

	"fieldkit/overlay/storage"
	"fieldkit/overlay/wire"
)

// failWith answers with an error that storage made.
func (p *Peer) failWith(r *request, err error) {
	var e wire.ErrorResponse
	if !errors.As(err, &e) {
		e = wire.ErrorResponse{Code: wire.ErrorInvalidMessage}
	}
	p.count.Refused++
	p.answer(r, wire.ErrorAns, errorBody(e.Code, e.Info), nil)
}

func (p *Peer) storeRequest(r *request) {
	q := r.body.store
	switch {
	case q == nil:
		p.fail(r, wire.ErrorInvalidMessage, "Store")
		return
	case r.body.err != nil:
		p.fail(r, wire.ErrorForbidden, "value not allowed here")
		return
	}
	responsible := p.chord.Responsible(q.Resource)
	ctx := storage.StoreContext{
		Sender:      storage.Signer{Node: r.peer.NodeID, User: r.peer.User},
		Values:      r.body.values,
		Responsible: responsible,
		Plausible:   p.chord.Plausible(q.Resource, r.peer.NodeID),
	}
	if set := p.chord.ReplicaSet(q.Resource); responsible && len(set) > 1 {
		ctx.Replicas = set[1:]
	}
	a, err := p.store.Store(p.now, q, ctx)
	if err != nil {
		if q.Replica > 0 {
			p.count.ReplicaRefused++
		}
		p.failWith(r, err)
		return
	}
	p.reply(r, a, nil)
	p.cfg.Env.Changed()
	p.expireAlarm()
	if responsible {
		// "It MUST then send a Store request to its successor in the Neighbor Table and to that peer's
		// successor" (RFC 6940 §10.4), at once, whether or not the neighbours have settled; what was handed over
		// by others needs its replicas, too.
		p.replicate(q.Resource, wire.NodeID{})
	}
}

func (p *Peer) fetchRequest(r *request) {
	q, err := wire.ParseFetchRequest(r.Body, p.kinds.model)
	if err != nil {
		p.fail(r, wire.ErrorInvalidMessage, "Fetch")
		return
	}
	a, certs, err := p.store.Fetch(p.now, &q)
	if err != nil {
		p.failWith(r, err)
		return
	}
	p.reply(r, a, certs)
}

func (p *Peer) statRequest(r *request) {
	q, err := wire.ParseStatRequest(r.Body, p.kinds.model)
	if err != nil {
		p.fail(r, wire.ErrorInvalidMessage, "Stat")
		return
	}
	a, err := p.store.Stat(p.now, &q)
	if err != nil {
		p.failWith(r, err)
		return
	}
	p.reply(r, a, nil)
}

func (p *Peer) findRequest(r *request) {
	q, err := wire.ParseFindRequest(r.Body)
	if err != nil {
		p.fail(r, wire.ErrorInvalidMessage, "Find")
		return
	}
	a, err := p.store.Find(p.now, &q, p.chord.Responsible(q.Resource))
	if err != nil {
		p.failWith(r, err)
		return
	}
	p.reply(r, a, nil)
}

// replication is what this node brings to other peers: replicas, and what others are responsible for.
type replication struct {
	held    bool // the neighbours changed and are not settled: RFC 6940 §10.7.1's hold-down
	flights int
	refused bool // something was, since the last pause
	pauses  int  // since the ring settled
	next    *alarm
	expiry  *alarm
	members []wire.NodeID
	began   map[wire.NodeID]time.Time // since when each member is up, by its Updates
}

// A push that failed is tried again after a pause, which grows: a value that nobody plausible holds for its
// new owner is refused until its owner stores it again.
const (
	replicaRetry    = 6 * time.Second // above storage's own back-off for one push
	replicaRetryMax = 5 * time.Minute
)

func (p *Peer) replicateSoon(d time.Duration) {
	if a := p.repl.next; a != nil && a.index >= 0 && !a.at.After(p.now.Add(d)) {
		return
	}
	p.repl.next = p.move(p.repl.next, d, func() { p.replicate("", wire.NodeID{}) })
}

// targets says who ought to hold a resource that this node holds.
func (p *Peer) targets(res wire.ResourceID, only wire.NodeID) (out []storage.Target) {
	set := p.chord.ReplicaSet(res)
	if len(set) == 0 {
		return nil
	}
	switch set[0] {
	case p.cfg.ID:
		for i, id := range set[1:] {
			out = append(out, storage.Target{Node: id, Replica: uint8(i + 1)})
		}
	default:
		// "When a peer detects through an Update that it is no longer responsible for any data value it is
		// storing, it MUST attempt to Store a copy to the correct node unless it knows the newly responsible
		// node already has a copy of the data" (RFC 6940 §6.4.2.3). It carries other people's data and so goes
		// as a replica: an original store would need their signature.
		out = append(out, storage.Target{Node: set[0], Replica: 1})
	}
	if !only.IsZero() {
		for i := range out {
			if out[i].Node != only {
				out[i].Replica = 0 // ought to hold it, but not now
			}
		}
	}
	return out
}

// replicate sends what some other peer lacks, a few stores at a time: of one resource, to one peer, or
// everything once the ring has settled.
func (p *Peer) replicate(res wire.ResourceID, only wire.NodeID) {
	if p.repl.held && only.IsZero() && res == "" {
		return // settled will call again
	}
	room := transfersAtOnce - p.repl.flights
	if room <= 0 {
		return // each that lands calls again
	}
	var pushes []storage.Push
	if res != "" {
		pushes, _ = p.store.ReplicationOf(p.now, res, p.targets(res, only), room)
	} else {
		pushes, _ = p.store.ForReplication(p.now, func(r wire.ResourceID) []storage.Target { return p.targets(r, only) }, room)
	}
	for _, push := range pushes {
		p.push(push)
	}
	if p.repl.refused && len(pushes) == 0 && p.repl.flights == 0 {
		p.repl.refused = false
		p.replicateSoon(min(replicaRetry<<min(p.repl.pauses, 10), replicaRetryMax))
		p.repl.pauses++
	}
}

func (p *Peer) push(out storage.Push) {
	body, err := out.Request.AppendBinary(nil)
	if err != nil {
		p.count.Unencodable++
		return
	}
	p.repl.flights++
	p.send(Outgoing{Dest: toNode(out.To), Code: wire.StoreReq, Body: body, Certificates: out.Certificates}, func(r Reply) {
		p.repl.flights--
		switch {
		case r.Err == nil:
			p.count.Replicated++
			p.store.Confirm(p.now, out, true)
			p.replicateSoon(0)
		case IsRemote(r.Err, wire.ErrorDataTooOld), IsRemote(r.Err, wire.ErrorGenerationCounterTooLow):
			p.refetch(out)
		default:
			// Forbidden is what a peer answers that does not know this one yet (its ring is not settled);
			// it is tried again like what was lost.
			p.count.ReplicaRefused++
			p.pushFailed(out)
		}
	})
}

func (p *Peer) pushFailed(out storage.Push) {
	p.store.Confirm(p.now, out, false)
	p.repl.refused = true
	p.replicateSoon(0) // for the others
}

// refetch takes over what another peer has that is newer: "the peer MUST fetch the newer data from the
// peer generating the error and use that to replace its own copy" (RFC 6940 §7.4.1.1).
func (p *Peer) refetch(out storage.Push) {
	p.count.Refetch++
	res := out.Request.Resource
	var keys [][]byte // of a dictionary: all of it might be larger than a message
	for _, v := range out.Request.Kinds[0].Values {
		if v.Value.Model == wire.Dictionary {
			keys = append(keys, v.Value.Key)
		}
	}
	body, err := p.specifier(res, out.Request.Kinds[0].Kind, keys).AppendBinary(nil)
	if err != nil {
		p.count.Unencodable++
		return
	}
	p.send(Outgoing{Dest: toNode(out.To), Code: wire.FetchReq, Body: body}, func(r Reply) {
		if r.Err != nil {
			p.pushFailed(out)
			return
		}
		p.checkFetch(res, r.Message, func(kinds []FetchedKind, err error) {
			if err == nil {
				p.adopt(out.To, res, kinds)
			}
			p.pushFailed(out)
		})
	})
}

func (p *Peer) adopt(from wire.NodeID, res wire.ResourceID, kinds []FetchedKind) {
	for _, k := range kinds {
		in := wire.FetchKindResponse{Kind: k.Kind, Generation: k.Generation}
		for i := range k.Values {
			in.Values = append(in.Values, k.Values[i].StoredData)
		}
		p.store.Adopt(p.now, from, res, in, k.signers)
	}
	p.expireAlarm()
}

// handOver is RFC 6940 §10.5 step 6: "AP MUST do a series of Store requests to JN to store the data that JN
// will be responsible for", at once.
func (p *Peer) handOver(to wire.NodeID) { p.replicate("", to) }

// neighboursMoved begins the hold-down.
func (p *Peer) neighboursMoved() { p.repl.held = true }

// settled ends it: replicas for new successors, and what others are responsible for now.
func (p *Peer) settled() {
	p.repl.held, p.repl.pauses = false, 0
	for _, id := range p.repl.members {
		if !p.isMember(id) {
			p.store.Forget(id) // it may come back empty
		}
	}
	p.repl.members = p.topo.members
	p.replicateSoon(0)
	// "When peer x detects that it is no longer in the replica set for a resource R …, it SHOULD delete all
	// data associated with R from its local store" (RFC 6940 §10.7.3): what another is known to hold.
	p.store.Discard(func(res wire.ResourceID) bool {
		for _, id := range p.chord.ReplicaSet(res) {
			if id == p.cfg.ID {
				return true
			}
		}
		return false
	})
}

// expireAlarm lets go of values when their time is over, for the counts in Snapshot; the store itself
// never gives out an expired value.
func (p *Peer) expireAlarm() {
	if at := p.store.Deadline(); !at.IsZero() {
		p.repl.expiry = p.move(p.repl.expiry, max(at.Sub(p.now), time.Second), func() {
			p.store.Expire(p.now)
			p.cfg.Env.Changed()
			p.expireAlarm()
		})
	}
}
