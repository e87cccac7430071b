package peer

import (
	"errors"
	"fmt"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/storage"
	"fieldkit/overlay/wire"
)

// Call is an operation of this peer that waits for its end.
type Call struct {
	p       *Peer
	over    bool
	stop    func() // ends the step that is under way; nil: nothing to end
	cleanup func()
}

// Cancel gives the operation up: its done is not called any more, and nothing is resent.
func (c *Call) Cancel() {
	c.abort(func() {})
}

// abort ends the operation in the midst of a step.
func (c *Call) abort(done func()) {
	if c.over {
		return
	}
	c.end(done)
	if c.stop != nil {
		c.stop()
	}
}

// end is how an operation ends, once.
func (c *Call) end(done func()) {
	if c.over {
		return
	}
	c.over = true
	if c.cleanup != nil {
		c.cleanup()
	}
	done()
}

// call begins an operation.
func (p *Peer) call(now time.Time, begin func(c *Call)) *Call {
	began := p.enter(now)
	c := &Call{p: p}
	begin(c)
	p.leave(began)
	return c
}

// request is a step of an operation: one request of its own.
func (c *Call) request(o Outgoing, then func(Reply)) {
	t := c.p.send(o, then)
	c.stop = func() { c.p.drop(t) }
}

// Request makes a request and calls done once, later, with its end: its answer within the maximum request
// lifetime, or an error, such as ErrTimeout, ErrBusy or a *RemoteError.
func (p *Peer) Request(now time.Time, o Outgoing, done func(Reply)) *Call {
	return p.call(now, func(c *Call) {
		c.request(o, func(r Reply) { c.end(func() { done(r) }) })
	})
}

// Value is one value to store: a single value, or an element of an array or a dictionary, as its Kind has it.
type Value struct {
	Index  uint32 // arrays; wire.LastIndex appends
	Key    []byte // dictionaries
	Remove bool   // store a nonexistent value (RFC 6940 §7.4.1.3)
	Data   []byte
}

// Stored tells where a value went.
type Stored struct {
	Peer       wire.NodeID // the responsible peer
	Generation uint64
	Replicas   []wire.NodeID
}

// FetchedKind is what a Fetch brought of one Kind.
type FetchedKind struct {
	Kind       wire.KindID
	Generation uint64
	Values     []Fetched // with valid signatures; removed ones (Exists false) included
	Discarded  int       // values whose signatures were not valid: the answer is partial
	signers    []storage.Signer
}

// Fetched is a stored value and who signed it. Whether that signer may write it is the Usage's to check.
type Fetched struct {
	wire.StoredData
	Signer *ident.Peer
	// RolledBack tells that an earlier Fetch brought a younger value of the same signer in the same place, whose
	// lifetime is not over (RFC 6940 §13.5.3): a peer lies, or lost it.
	RolledBack bool
}

// maxRefetch is how often a Store that was refused as too old is made again.
const maxRefetch = 2

// storing is one Store of the API.
type storing struct {
	*Call
	res      wire.ResourceID
	kind     wire.KindID
	lifetime time.Duration
	signer   *ident.Signer
	values   []Value
	tries    int
	finish   func(Stored, error)
}

// Store stores values of one Kind at a resource, signed by signer (nil: the peer itself): each value, and the
// request, which both must satisfy the Kind's access control (RFC 6940 §7.4.1.1). lifetime is in whole seconds. When
// the responsible peer has something younger, because this kit's clock is behind, the storage time is learnt
// from it and the Store made again (RFC 6940 §7).
func (p *Peer) Store(now time.Time, res wire.ResourceID, kind wire.KindID, lifetime time.Duration, signer *ident.Signer, values []Value, done func(Stored, error)) *Call {
	return p.call(now, func(c *Call) {
		s := &storing{Call: c, res: res, kind: kind, lifetime: lifetime, signer: signer, values: values}
		s.finish = func(r Stored, err error) { c.end(func() { done(r, err) }) }
		s.try()
	})
}

// try makes the Store, again if need be.
func (s *storing) try() {
	p := s.p
	model, ok := p.kinds.model(s.kind)
	if !ok {
		p.soon(func() { s.finish(Stored{}, fmt.Errorf("store: Kind %#x not in the overlay", uint32(s.kind))) })
		return
	}
	q := wire.StoreRequest{Resource: s.res, Kinds: []wire.StoreKindData{{Kind: s.kind}}}
	at := p.clock.take(p.now, len(s.values))
	for i, v := range s.values {
		q.Kinds[0].Values = append(q.Kinds[0].Values, wire.StoredData{
			StorageTime: at + uint64(i), Lifetime: uint32(max(s.lifetime/time.Second, 0)),
			Value: wire.StoredDataValue{Model: model, Index: v.Index, Key: v.Key, DataValue: wire.DataValue{Exists: !v.Remove, Value: v.Data}},
		})
	}
	sign := func() {
		crypto, signer := p.cfg.Crypto, s.signer
		if !p.work(Signing, func() func() {
			var errs error
			for i := range q.Kinds[0].Values {
				errs = errors.Join(errs, crypto.SignStored(q.Resource, q.Kinds[0].Kind, &q.Kinds[0].Values[i], signer))
			}
			return func() { s.send(&q, errs) }
		}) {
			p.soon(func() { s.finish(Stored{}, fmt.Errorf("store: %w", ErrBusy)) })
		}
	}
	ms := p.clock.reserve()
	if ms == 0 {
		sign()
		return
	}
	p.cfg.Env.SaveStorageTime(ms, func(now time.Time, err error) {
		began := p.enter(now)
		if err != nil {
			// A full or broken card must not silence the kit: the times are used all the same.
			p.log.Warn("storage time not persisted", "err", err)
		} else {
			p.clock.reserved = max(p.clock.reserved, ms)
		}
		if !s.over {
			sign()
		}
		p.leave(began)
	})
}

func (s *storing) send(q *wire.StoreRequest, err error) {
	var body []byte
	if s.over {
		return
	}
	if err == nil {
		body, err = q.AppendBinary(nil)
	}
	if err != nil {
		s.finish(Stored{}, fmt.Errorf("store request: %w", err))
		return
	}
	s.request(Outgoing{Dest: []wire.Destination{wire.ToResource(s.res)}, Code: wire.StoreReq, Body: body, Signer: s.signer}, s.answered)
}

func (s *storing) answered(r Reply) {
	switch {
	case IsRemote(r.Err, wire.ErrorDataTooOld) && s.tries < maxRefetch:
		s.tries++
		s.p.count.Refetch++
		s.learn()
		return
	case r.Err != nil:
		s.finish(Stored{}, fmt.Errorf("store: %w", r.Err))
		return
	}
	a, err := wire.ParseStoreAnswer(r.Message.Body, s.p.params.idLen)
	if err != nil {
		s.finish(Stored{}, fmt.Errorf("store answer: %w", err))
		return
	}
	out := Stored{Peer: r.Peer.NodeID}
	if len(a.Kinds) > 0 {
		out.Generation, out.Replicas = a.Kinds[0].Generation, a.Kinds[0].Replicas
	}
	s.finish(out, nil)
}

// learn raises the clock above what the signer itself has stored there.
func (s *storing) learn() {
	signer := s.p.cfg.ID
	if s.signer != nil {
		signer = s.signer.NodeID()
	}
	var keys [][]byte
	for _, v := range s.values {
		if v.Key != nil {
			keys = append(keys, v.Key)
		}
	}
	s.p.fetch(s.Call, s.res, s.kind, keys, func(k FetchedKind, err error) {
		if err != nil {
			s.finish(Stored{}, fmt.Errorf("storage time of the stored value: %w", err))
			return
		}
		for _, v := range k.Values {
			if v.Signer.NodeID == signer {
				s.p.clock.raise(v.StorageTime)
			}
		}
		s.try()
	})
}

// Fetch fetches what is stored of one Kind at a resource: all of it, or some keys of a dictionary.
// Nothing stored is no error.
func (p *Peer) Fetch(now time.Time, res wire.ResourceID, kind wire.KindID, keys [][]byte, done func(FetchedKind, error)) *Call {
	return p.call(now, func(c *Call) {
		p.fetch(c, res, kind, keys, func(k FetchedKind, err error) { c.end(func() { done(k, err) }) })
	})
}

// fetch is a step of an operation: a Fetch whose values are verified.
func (p *Peer) fetch(c *Call, res wire.ResourceID, kind wire.KindID, keys [][]byte, then func(FetchedKind, error)) {
	body, err := p.specifier(res, kind, keys).AppendBinary(nil)
	if err != nil {
		p.soon(func() { then(FetchedKind{}, fmt.Errorf("fetch request: %w", err)) })
		return
	}
	c.request(Outgoing{Dest: []wire.Destination{wire.ToResource(res)}, Code: wire.FetchReq, Body: body}, func(r Reply) {
		if r.Err != nil {
			then(FetchedKind{}, fmt.Errorf("fetch: %w", r.Err))
			return
		}
		p.checkFetch(res, r.Message, func(list []FetchedKind, err error) {
			if c.over {
				return
			}
			for _, k := range list {
				if k.Kind == kind {
					p.count.RolledBack += p.fetches.mark(p.now, res, &k)
					then(k, nil)
					return
				}
			}
			if err == nil {
				err = fmt.Errorf("fetch: answer of %s without the Kind asked for", r.Peer.NodeID)
			}
			then(FetchedKind{}, err)
		})
	})
}

// checkFetch has the values of a FetchAns verified.
func (p *Peer) checkFetch(res wire.ResourceID, m *wire.Message, then func([]FetchedKind, error)) {
	f := p.verifier()
	if !p.work(Verifying, func() func() {
		list, err := f.fetched(res, m)
		return func() {
			for _, k := range list {
				p.count.BadSignature += uint64(k.Discarded)
			}
			then(list, err)
		}
	}) {
		p.soon(func() { then(nil, ErrBusy) })
	}
}

func (p *Peer) specifier(res wire.ResourceID, kind wire.KindID, keys [][]byte) wire.FetchRequest {
	model, _ := p.kinds.model(kind)
	s := wire.DataSpecifier{Kind: kind, Model: model, Keys: keys}
	if model == wire.Array {
		s.Ranges = []wire.ArrayRange{{First: 0, Last: wire.LastIndex}}
	}
	return wire.FetchRequest{Resource: res, Specifiers: []wire.DataSpecifier{s}}
}

// ask is an operation of one request whose answer is read by parse. what names it in errors.
func ask[T any](p *Peer, now time.Time, what string, o Outgoing, body interface{ AppendBinary([]byte) ([]byte, error) }, parse func(Reply) (T, error), done func(T, error)) *Call {
	return p.call(now, func(c *Call) {
		var zero T
		var err error
		if o.Body, err = body.AppendBinary(nil); err != nil {
			p.soon(func() { c.end(func() { done(zero, fmt.Errorf("%s request: %w", what, err)) }) })
			return
		}
		c.request(o, func(r Reply) {
			out, err := zero, r.Err
			if err != nil {
				err = fmt.Errorf("%s: %w", what, err)
			} else if out, err = parse(r); err != nil {
				out, err = zero, fmt.Errorf("%s answer: %w", what, err)
			}
			c.end(func() { done(out, err) })
		})
	})
}

var errOtherKind = errors.New("the Kind asked for is not in it")

// Stat is Fetch without the values (RFC 6940 §7.4.3). Nothing in the answer is signed but the answer.
func (p *Peer) Stat(now time.Time, res wire.ResourceID, kind wire.KindID, keys [][]byte, done func(wire.StatKindResponse, error)) *Call {
	o := Outgoing{Dest: []wire.Destination{wire.ToResource(res)}, Code: wire.StatReq}
	return ask(p, now, "stat", o, wire.StatRequest(p.specifier(res, kind, keys)), func(r Reply) (wire.StatKindResponse, error) {
		a, err := wire.ParseStatAnswer(r.Message.Body, p.kinds.model)
		for _, k := range a.Kinds {
			if k.Kind == kind {
				return k, nil
			}
		}
		if err == nil {
			err = errOtherKind
		}
		return wire.StatKindResponse{}, err
	}, done)
}

// Find asks the peer responsible for res for the next resource at or after it, for each Kind
// (RFC 6940 §7.4.4).
func (p *Peer) Find(now time.Time, res wire.ResourceID, kinds []wire.KindID, done func([]wire.FindKindData, error)) *Call {
	o := Outgoing{Dest: []wire.Destination{wire.ToResource(res)}, Code: wire.FindReq}
	return ask(p, now, "find", o, wire.FindRequest{Resource: res, Kinds: kinds}, func(r Reply) ([]wire.FindKindData, error) {
		a, err := wire.ParseFindAnswer(r.Message.Body)
		return a.Results, err
	}, done)
}

// Pong is the answer to a Ping.
type Pong struct {
	Peer wire.NodeID
	RTT  time.Duration
	Time time.Time // of the other peer's clock, which nobody trusts
	// Synchronised is whether it says to know the time: then it says more than whole seconds.
	Synchronised bool
}

// Ping asks for a sign of life from whoever dest, a Destination List, leads to (RFC 6940 §6.5.3).
func (p *Peer) Ping(now time.Time, dest []wire.Destination, done func(Pong, error)) *Call {
	return ask(p, now, "ping", Outgoing{Dest: dest, Code: wire.PingReq}, wire.PingRequest{}, func(r Reply) (Pong, error) {
		a, err := wire.ParsePingAnswer(r.Message.Body)
		return Pong{Peer: r.Peer.NodeID, RTT: p.now.Sub(now), Time: time.UnixMilli(int64(min(a.Time, 1<<62))), Synchronised: a.Time%1000 != 0}, err
	}, done)
}

// Probe asks a peer about itself (RFC 6940 §6.4.2.5).
func (p *Peer) Probe(now time.Time, dest wire.Destination, types []wire.ProbeInfoType, done func([]wire.ProbeInformation, error)) *Call {
	o := Outgoing{Dest: []wire.Destination{dest}, Code: wire.ProbeReq}
	return ask(p, now, "probe", o, wire.ProbeRequest{Requested: types}, func(r Reply) ([]wire.ProbeInformation, error) {
		a, err := wire.ParseProbeAnswer(r.Message.Body)
		return a.Info, err
	}, done)
}

// RouteQuery asks peer to whom it would route a message for dest (RFC 6940 §6.4.2.4).
func (p *Peer) RouteQuery(now time.Time, peer wire.NodeID, dest wire.Destination, done func(wire.NodeID, error)) *Call {
	o := Outgoing{Dest: toNode(peer), Code: wire.RouteQueryReq}
	return ask(p, now, "route query", o, wire.RouteQueryRequest{Destination: dest}, func(r Reply) (wire.NodeID, error) {
		a, err := wire.ParseRouteQueryAnswer(r.Message.Body, p.params.idLen)
		return a.NextPeer, err
	}, done)
}
