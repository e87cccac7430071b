package node

import (
	"errors"
	"time"

	"fieldkit/overlay/storage"
	"fieldkit/overlay/wire"
)

// failWith answers with an error that storage made.
func (l *loop) failWith(r *request, err error) {
	var e wire.ErrorResponse
	if !errors.As(err, &e) {
		e = wire.ErrorResponse{Code: wire.ErrorInvalidMessage}
	}
	l.n.counters.Refused.Add(1)
	l.answer(r, wire.ErrorAns, errorBody(e.Code, e.Info), nil)
}

func (l *loop) storeRequest(r *request) {
	q := r.body.store
	switch {
	case q == nil:
		l.fail(r, wire.ErrorInvalidMessage, "Store")
		return
	case r.body.err != nil:
		l.fail(r, wire.ErrorForbidden, "value not allowed here")
		return
	}
	responsible := l.chord.Responsible(q.Resource)
	ctx := storage.StoreContext{
		Sender:      storage.Signer{Node: r.peer.NodeID, User: r.peer.User},
		Values:      r.body.values,
		Responsible: responsible,
		Plausible:   l.chord.Plausible(q.Resource, r.peer.NodeID),
	}
	if set := l.chord.ReplicaSet(q.Resource); responsible && len(set) > 1 {
		ctx.Replicas = set[1:]
	}
	a, err := l.store.Store(l.now, q, ctx)
	if err != nil {
		if q.Replica > 0 {
			l.n.counters.ReplicaRefused.Add(1)
		}
		l.failWith(r, err)
		return
	}
	l.reply(r, a, nil)
	l.changed()
	l.expireAlarm()
	if responsible {
		// "It MUST then send a Store request to its successor in the Neighbor Table and to that peer's
		// successor" (RFC 6940 §10.4), at once, whether or not the neighbours have settled; what was handed over
		// by others needs its replicas, too.
		l.replicate(q.Resource, wire.NodeID{})
	}
}

func (l *loop) fetchRequest(r *request) {
	q, err := wire.ParseFetchRequest(r.Body, l.n.cfg.Document.ModelOf)
	if err != nil {
		l.fail(r, wire.ErrorInvalidMessage, "Fetch")
		return
	}
	a, certs, err := l.store.Fetch(l.now, &q)
	if err != nil {
		l.failWith(r, err)
		return
	}
	l.reply(r, a, certs)
}

func (l *loop) statRequest(r *request) {
	q, err := wire.ParseStatRequest(r.Body, l.n.cfg.Document.ModelOf)
	if err != nil {
		l.fail(r, wire.ErrorInvalidMessage, "Stat")
		return
	}
	a, err := l.store.Stat(l.now, &q)
	if err != nil {
		l.failWith(r, err)
		return
	}
	l.reply(r, a, nil)
}

func (l *loop) findRequest(r *request) {
	q, err := wire.ParseFindRequest(r.Body)
	if err != nil {
		l.fail(r, wire.ErrorInvalidMessage, "Find")
		return
	}
	a, err := l.store.Find(l.now, &q, l.chord.Responsible(q.Resource))
	if err != nil {
		l.failWith(r, err)
		return
	}
	l.reply(r, a, nil)
}

func (l *loop) countResources() uint32 { return uint32(l.store.Stats().Resources) }

// replication is what this node brings to other peers: replicas, and what others are responsible for.
type replication struct {
	held    bool // the neighbours changed and are not settled: RFC 6940 §10.7.1's hold-down
	flights int
	refused bool // something was, since the last pause
	pauses  int  // since the ring settled
	next    *alarm
	expiry  *alarm
	members []wire.NodeID
}

// A push that failed is tried again after a pause, which grows: a value that nobody plausible holds for its
// new owner is refused until its owner stores it again.
const (
	replicaRetry    = 6 * time.Second // above storage's own back-off for one push
	replicaRetryMax = 5 * time.Minute
)

func (l *loop) replicateSoon(d time.Duration) {
	if a := l.repl.next; a != nil && a.index >= 0 && !a.at.After(l.now.Add(d)) {
		return
	}
	l.repl.next = l.move(l.repl.next, d, func() { l.replicate("", wire.NodeID{}) })
}

// targets says who ought to hold a resource that this node holds.
func (l *loop) targets(res wire.ResourceID, only wire.NodeID) (out []storage.Target) {
	set := l.chord.ReplicaSet(res)
	if len(set) == 0 {
		return nil
	}
	switch {
	case set[0] == l.id():
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
		kept := out[:0]
		for _, t := range out {
			if t.Node == only {
				kept = append(kept, t)
			}
		}
		out = kept
	}
	return out
}

// replicate sends what some other peer lacks, a few stores at a time: of one resource, to one peer, or
// everything once the ring has settled.
func (l *loop) replicate(res wire.ResourceID, only wire.NodeID) {
	if l.repl.held && only.IsZero() && res == "" {
		return // settled will call again
	}
	room := transfersAtOnce - l.repl.flights
	if room <= 0 {
		return // each that lands calls again
	}
	pushes, _ := l.store.ForReplication(l.now, func(r wire.ResourceID) []storage.Target {
		if res != "" && r != res {
			return nil
		}
		return l.targets(r, only)
	}, room)
	for _, p := range pushes {
		l.push(p)
	}
	if l.repl.refused && len(pushes) == 0 && l.repl.flights == 0 {
		l.repl.refused = false
		l.replicateSoon(min(replicaRetry<<min(l.repl.pauses, 10), replicaRetryMax))
		l.repl.pauses++
	}
}

func (l *loop) push(p storage.Push) {
	body, err := p.Request.AppendBinary(nil)
	if err != nil {
		l.n.counters.Unencodable.Add(1)
		return
	}
	l.repl.flights++
	l.send(outgoing{dest: toNode(p.To), code: wire.StoreReq, body: body, certs: p.Certificates}, func(r reply) {
		l.repl.flights--
		switch {
		case r.err == nil:
			l.n.counters.Replicated.Add(1)
			l.store.Confirm(l.now, p, true)
			l.replicateSoon(0)
		case IsRemote(r.err, wire.ErrorDataTooOld), IsRemote(r.err, wire.ErrorGenerationCounterTooLow):
			l.refetch(p)
		default:
			// Forbidden is what a peer answers that does not know this one yet (its ring is not settled);
			// it is tried again like what was lost.
			l.n.counters.ReplicaRefused.Add(1)
			l.pushFailed(p)
		}
	})
}

func (l *loop) pushFailed(p storage.Push) {
	l.store.Confirm(l.now, p, false)
	l.repl.refused = true
	l.replicateSoon(0) // for the others
}

// refetch takes over what another peer has that is newer: "the peer MUST fetch the newer data from the
// peer generating the error and use that to replace its own copy" (RFC 6940 §7.4.1.1).
func (l *loop) refetch(p storage.Push) {
	l.n.counters.Refetch.Add(1)
	res := p.Request.Resource
	var keys [][]byte // of a dictionary: all of it might be larger than a message
	for _, v := range p.Request.Kinds[0].Values {
		if v.Value.Model == wire.Dictionary {
			keys = append(keys, v.Value.Key)
		}
	}
	body, err := l.n.specifier(res, p.Request.Kinds[0].Kind, keys).AppendBinary(nil)
	if err != nil {
		l.n.counters.Unencodable.Add(1)
		return
	}
	again := func() { l.pushFailed(p) }
	l.send(outgoing{dest: toNode(p.To), code: wire.FetchReq, body: body}, func(r reply) {
		if r.err != nil || !l.work(func() func(*loop) {
			kinds, err := l.n.checkFetch(res, r.msg)
			return func(l *loop) {
				if err == nil {
					l.adopt(p.To, res, kinds)
				}
				again()
			}
		}) {
			again()
		}
	})
}

func (l *loop) adopt(from wire.NodeID, res wire.ResourceID, kinds []FetchedKind) {
	for _, k := range kinds {
		in := wire.FetchKindResponse{Kind: k.Kind, Generation: k.Generation}
		for i := range k.Values {
			in.Values = append(in.Values, k.Values[i].StoredData)
		}
		l.store.Adopt(l.now, from, res, in, k.signers)
	}
	l.expireAlarm()
}

// handOver is RFC 6940 §10.5 step 6: "AP MUST do a series of Store requests to JN to store the data that JN
// will be responsible for", at once.
func (l *loop) handOver(to wire.NodeID) { l.replicate("", to) }

// neighboursMoved begins the hold-down.
func (l *loop) neighboursMoved() { l.repl.held = true }

// settled ends it: replicas for new successors, and what others are responsible for now.
func (l *loop) settled() {
	l.repl.held, l.repl.pauses = false, 0
	for _, id := range l.repl.members {
		if !l.isMember(id) {
			l.store.Forget(id) // it may come back empty
		}
	}
	l.repl.members = l.topo.members
	l.replicateSoon(0)
	// "When peer x detects that it is no longer in the replica set for a resource R …, it SHOULD delete all
	// data associated with R from its local store" (RFC 6940 §10.7.3): what another is known to hold.
	l.store.Discard(func(res wire.ResourceID) bool {
		for _, id := range l.chord.ReplicaSet(res) {
			if id == l.id() {
				return true
			}
		}
		return false
	})
}

// expireAlarm lets go of values when their time is over, for the counts in Snapshot; the store itself
// never gives out an expired value.
func (l *loop) expireAlarm() {
	if at := l.store.Deadline(); !at.IsZero() {
		l.repl.expiry = l.move(l.repl.expiry, max(at.Sub(l.now), time.Second), func() {
			l.store.Expire(l.now)
			l.changed()
			l.expireAlarm()
		})
	}
}
