package node

import (
	"context"
	"fmt"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/storage"
	"fieldkit/overlay/wire"
)

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
}

// maxRefetch is how often a Store that was refused as too old is made again.
const maxRefetch = 2

// Store stores values of one Kind at a resource, signed by signer: each value, and the request, which both
// must satisfy the Kind's access control (RFC 6940 §7.4.1.1). lifetime is in whole seconds. When the
// responsible peer has something younger, because this kit's clock is behind, the storage time is learnt
// from it and the Store made again (RFC 6940 §7).
func (n *Node) Store(ctx context.Context, res wire.ResourceID, kind wire.KindID, lifetime time.Duration, signer *ident.Signer, values ...Value) (Stored, error) {
	model, ok := n.cfg.Document.ModelOf(kind)
	if !ok {
		return Stored{}, fmt.Errorf("store: Kind %#x not in the overlay", uint32(kind))
	}
	for try := 0; ; try++ {
		s, err := n.storeOnce(ctx, res, kind, model, lifetime, signer, values)
		if !IsRemote(err, wire.ErrorDataTooOld) || try == maxRefetch {
			return s, err
		}
		n.counters.Refetch.Add(1)
		if err := n.learnStorageTime(ctx, res, kind, signer, values); err != nil {
			return Stored{}, fmt.Errorf("storage time of the stored value: %w", err)
		}
	}
}

func (n *Node) storeOnce(ctx context.Context, res wire.ResourceID, kind wire.KindID, model wire.DataModel, lifetime time.Duration, signer *ident.Signer, values []Value) (Stored, error) {
	q := wire.StoreRequest{Resource: res, Kinds: []wire.StoreKindData{{Kind: kind}}}
	for _, v := range values {
		t, err := n.clock.next()
		if err != nil {
			n.log.Warn("storage time", "err", err)
		}
		d := wire.StoredData{
			StorageTime: t, Lifetime: uint32(max(lifetime/time.Second, 0)),
			Value: wire.StoredDataValue{Model: model, Index: v.Index, Key: v.Key, DataValue: wire.DataValue{Exists: !v.Remove, Value: v.Data}},
		}
		if err := ident.SignStored(res, kind, &d, signer); err != nil {
			return Stored{}, fmt.Errorf("signature of the value: %w", err)
		}
		q.Kinds[0].Values = append(q.Kinds[0].Values, d)
	}
	body, err := q.AppendBinary(nil)
	if err != nil {
		return Stored{}, fmt.Errorf("store request: %w", err)
	}
	r, err := n.call(ctx, outgoing{dest: []wire.Destination{wire.ToResource(res)}, code: wire.StoreReq, body: body, signer: signer})
	if err != nil {
		return Stored{}, fmt.Errorf("store: %w", err)
	}
	a, err := wire.ParseStoreAnswer(r.msg.Body, n.params.idLen)
	if err != nil {
		return Stored{}, fmt.Errorf("store answer: %w", err)
	}
	s := Stored{Peer: r.peer.NodeID}
	if len(a.Kinds) > 0 {
		s.Generation, s.Replicas = a.Kinds[0].Generation, a.Kinds[0].Replicas
	}
	return s, nil
}

// learnStorageTime raises the clock above what signer itself has stored there.
func (n *Node) learnStorageTime(ctx context.Context, res wire.ResourceID, kind wire.KindID, signer *ident.Signer, values []Value) error {
	var keys [][]byte
	for _, v := range values {
		if v.Key != nil {
			keys = append(keys, v.Key)
		}
	}
	k, err := n.Fetch(ctx, res, kind, keys...)
	if err != nil {
		return err
	}
	for _, v := range k.Values {
		if v.Signer.NodeID == signer.NodeID() {
			n.clock.raise(v.StorageTime)
		}
	}
	return nil
}

// Fetch fetches what is stored of one Kind at a resource: all of it, or some keys of a dictionary.
// Nothing stored is no error.
func (n *Node) Fetch(ctx context.Context, res wire.ResourceID, kind wire.KindID, keys ...[]byte) (FetchedKind, error) {
	body, err := n.specifier(res, kind, keys).AppendBinary(nil)
	if err != nil {
		return FetchedKind{}, fmt.Errorf("fetch request: %w", err)
	}
	r, err := n.call(ctx, outgoing{dest: []wire.Destination{wire.ToResource(res)}, code: wire.FetchReq, body: body})
	if err != nil {
		return FetchedKind{}, fmt.Errorf("fetch: %w", err)
	}
	list, err := n.checkFetch(res, r.msg)
	if err != nil {
		return FetchedKind{}, err
	}
	for _, k := range list {
		if k.Kind == kind {
			return k, nil
		}
	}
	return FetchedKind{}, fmt.Errorf("fetch: answer of %s without the Kind asked for", r.peer.NodeID)
}

func (n *Node) specifier(res wire.ResourceID, kind wire.KindID, keys [][]byte) wire.FetchRequest {
	model, _ := n.cfg.Document.ModelOf(kind)
	s := wire.DataSpecifier{Kind: kind, Model: model, Keys: keys}
	if model == wire.Array {
		s.Ranges = []wire.ArrayRange{{First: 0, Last: wire.LastIndex}}
	}
	return wire.FetchRequest{Resource: res, Specifiers: []wire.DataSpecifier{s}}
}

// Stat is Fetch without the values (RFC 6940 §7.4.3). Nothing in the answer is signed but the answer.
func (n *Node) Stat(ctx context.Context, res wire.ResourceID, kind wire.KindID, keys ...[]byte) (wire.StatKindResponse, error) {
	body, err := wire.StatRequest(n.specifier(res, kind, keys)).AppendBinary(nil)
	if err != nil {
		return wire.StatKindResponse{}, fmt.Errorf("stat request: %w", err)
	}
	r, err := n.call(ctx, outgoing{dest: []wire.Destination{wire.ToResource(res)}, code: wire.StatReq, body: body})
	if err != nil {
		return wire.StatKindResponse{}, fmt.Errorf("stat: %w", err)
	}
	a, err := wire.ParseStatAnswer(r.msg.Body, n.cfg.Document.ModelOf)
	if err != nil {
		return wire.StatKindResponse{}, fmt.Errorf("stat answer: %w", err)
	}
	for _, k := range a.Kinds {
		if k.Kind == kind {
			return k, nil
		}
	}
	return wire.StatKindResponse{}, fmt.Errorf("stat: answer of %s without the Kind asked for", r.peer.NodeID)
}

// Find asks the peer responsible for res for the next resource at or after it, for each Kind
// (RFC 6940 §7.4.4).
func (n *Node) Find(ctx context.Context, res wire.ResourceID, kinds ...wire.KindID) ([]wire.FindKindData, error) {
	body, err := wire.FindRequest{Resource: res, Kinds: kinds}.AppendBinary(nil)
	if err != nil {
		return nil, fmt.Errorf("find request: %w", err)
	}
	r, err := n.call(ctx, outgoing{dest: []wire.Destination{wire.ToResource(res)}, code: wire.FindReq, body: body})
	if err != nil {
		return nil, fmt.Errorf("find: %w", err)
	}
	a, err := wire.ParseFindAnswer(r.msg.Body)
	if err != nil {
		return nil, fmt.Errorf("find answer: %w", err)
	}
	return a.Results, nil
}

// Pong is the answer to a Ping.
type Pong struct {
	Peer wire.NodeID
	RTT  time.Duration
	Time time.Time // of the other peer's clock, which nobody trusts
}

// Ping asks for a sign of life from whoever dest, a Destination List, leads to (RFC 6940 §6.5.3).
func (n *Node) Ping(ctx context.Context, dest ...wire.Destination) (Pong, error) {
	began := n.now()
	r, err := n.call(ctx, outgoing{dest: dest, code: wire.PingReq, body: pingBody})
	if err != nil {
		return Pong{}, fmt.Errorf("ping: %w", err)
	}
	a, err := wire.ParsePingAnswer(r.msg.Body)
	if err != nil {
		return Pong{}, fmt.Errorf("ping answer: %w", err)
	}
	return Pong{Peer: r.peer.NodeID, RTT: n.now().Sub(began), Time: time.UnixMilli(int64(min(a.Time, 1<<62)))}, nil
}

// Probe asks a peer about itself (RFC 6940 §6.4.2.5).
func (n *Node) Probe(ctx context.Context, dest wire.Destination, types ...wire.ProbeInfoType) ([]wire.ProbeInformation, error) {
	body, err := wire.ProbeRequest{Requested: types}.AppendBinary(nil)
	if err != nil {
		return nil, fmt.Errorf("probe request: %w", err)
	}
	r, err := n.call(ctx, outgoing{dest: []wire.Destination{dest}, code: wire.ProbeReq, body: body})
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	a, err := wire.ParseProbeAnswer(r.msg.Body)
	if err != nil {
		return nil, fmt.Errorf("probe answer: %w", err)
	}
	return a.Info, nil
}

// RouteQuery asks peer to whom it would route a message for dest (RFC 6940 §6.4.2.4).
func (n *Node) RouteQuery(ctx context.Context, peer wire.NodeID, dest wire.Destination) (wire.NodeID, error) {
	body, err := wire.RouteQueryRequest{Destination: dest}.AppendBinary(nil)
	if err != nil {
		return wire.NodeID{}, fmt.Errorf("route query: %w", err)
	}
	r, err := n.call(ctx, outgoing{dest: toNode(peer), code: wire.RouteQueryReq, body: body})
	if err != nil {
		return wire.NodeID{}, fmt.Errorf("route query: %w", err)
	}
	a, err := wire.ParseRouteQueryAnswer(r.msg.Body, n.params.idLen)
	if err != nil {
		return wire.NodeID{}, fmt.Errorf("route query answer: %w", err)
	}
	return a.NextPeer, nil
}
