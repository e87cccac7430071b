package storage

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// refuse makes the error that answers a request.
func refuse(code wire.ErrorCode, text string) error {
	return wire.ErrorResponse{Code: code, Info: []byte(text)}
}

// Store carries out a StoreReq, whole or not at all: "These operations MUST be atomic. If any
// operation fails, the state MUST be rolled back to what it was before the request was received"
// (RFC 6940 §7.4.1.1). Every error is a wire.ErrorResponse ready to be sent. It keeps no reference
// to req or ctx.
func (s *Store) Store(now time.Time, req *wire.StoreRequest, ctx StoreContext) (wire.StoreAnswer, error) {
	s.Expire(now)
	ans, err := s.store(now, req, ctx)
	var e wire.ErrorResponse
	errors.As(err, &e)
	switch {
	case err == nil && req.Replica == 0:
		s.stats.Stores++
	case err == nil:
		s.stats.Replicas++
	case e.Code == wire.ErrorForbidden:
		s.stats.Forbidden++
	case e.Code == wire.ErrorDataTooOld && req.Replica > 0:
		s.stats.Superseded++
	case e.Code == wire.ErrorDataTooOld:
		s.stats.TooOld++
	case e.Code == wire.ErrorGenerationCounterTooLow:
		s.stats.TooLow++
	case e.Code == wire.ErrorDataTooLarge:
		s.stats.TooLarge++
	default:
		s.stats.OtherErrors++
	}
	return ans, err
}

// staged is one Kind of a StoreReq before it is committed.
type staged struct {
	kind   ident.Kind
	values []*value // what the Kind will hold
	fresh  []*value // of them, the new ones
	certs  [][]wire.Certificate
	same   []*value // stored already and confirmed by this replica store
	gone   []*value // replaced
}

func (s *Store) store(now time.Time, req *wire.StoreRequest, ctx StoreContext) (wire.StoreAnswer, error) {
	if err := s.admissible(req, ctx); err != nil {
		return wire.StoreAnswer{}, err
	}
	var stages []*staged
	for i := range req.Kinds {
		st, err := s.stage(now, req, i, ctx)
		if err != nil {
			return wire.StoreAnswer{}, err
		}
		stages = append(stages, st)
	}
	if err := s.admit(req, ctx, stages); err != nil {
		return wire.StoreAnswer{}, err
	}
	return s.commit(req, ctx, stages), nil
}

// admissible makes the checks that need no stored state.
func (s *Store) admissible(req *wire.StoreRequest, ctx StoreContext) error {
	if len(req.Resource) != s.cfg.IDLen || len(req.Kinds) == 0 || len(ctx.Values) != len(req.Kinds) {
		return refuse(wire.ErrorInvalidMessage, "Resource-ID or kind_data")
	}
	var unknown []wire.KindID
	for i := range req.Kinds {
		k := &req.Kinds[i]
		if slices.ContainsFunc(req.Kinds[:i], func(o wire.StoreKindData) bool { return o.Kind == k.Kind }) {
			return refuse(wire.ErrorInvalidMessage, "Kind-ID used twice")
		}
		if _, ok := s.kinds[k.Kind]; !ok {
			unknown = append(unknown, k.Kind)
		}
	}
	if len(unknown) > 0 {
		return unknownKinds(unknown)
	}
	switch {
	case req.Replica == 0 && !ctx.Responsible:
		return refuse(wire.ErrorNotFound, "not responsible for the resource")
	case req.Replica > 0 && !ctx.Plausible:
		return refuse(wire.ErrorForbidden, "sender is not plausible for the replica")
	case ctx.Sender.Node.IsZero():
		return refuse(wire.ErrorForbidden, "signer of the request")
	}
	for i := range req.Kinds {
		k := &req.Kinds[i]
		switch {
		case k.Raw != nil || len(k.Values) == 0 || len(ctx.Values[i]) != len(k.Values):
			return refuse(wire.ErrorInvalidMessage, "values")
		case req.Replica > 0 && k.Generation == 0:
			return refuse(wire.ErrorInvalidMessage, "generation counter of 0 in a replica store")
		}
		for j := range k.Values {
			if err := s.permitted(req, s.kinds[k.Kind], &k.Values[j], ctx.Values[i][j], ctx.Sender); err != nil {
				return err
			}
		}
	}
	return s.generations(req)
}

func unknownKinds(kinds []wire.KindID) error {
	info, err := wire.AppendKindList(nil, kinds[:min(len(kinds), 63)])
	if err != nil {
		info = nil
	}
	return wire.ErrorResponse{Code: wire.ErrorUnknownKind, Info: info}
}

// generations compares the counters of an original store. The error_info has "the correct
// generation counter for each Kind and the replica list, which will be empty" (RFC 6940 §7.4.1.2).
func (s *Store) generations(req *wire.StoreRequest) error {
	if req.Replica > 0 {
		return nil
	}
	var ans wire.StoreAnswer
	wrong := false
	for i := range req.Kinds {
		var current uint64
		if k := s.kind(req.Resource, req.Kinds[i].Kind); k != nil {
			current = k.generation
		}
		if g := req.Kinds[i].Generation; g != 0 && g != current {
			wrong = true
		}
		ans.Kinds = append(ans.Kinds, wire.StoreKindResponse{Kind: req.Kinds[i].Kind, Generation: current})
	}
	if !wrong {
		return nil
	}
	info, err := ans.AppendBinary(nil)
	if err != nil {
		info = nil
	}
	return wire.ErrorResponse{Code: wire.ErrorGenerationCounterTooLow, Info: info}
}

// stage checks the values of one Kind against the stored ones and the quota, and builds what the Kind would hold.
func (s *Store) stage(now time.Time, req *wire.StoreRequest, i int, ctx StoreContext) (*staged, error) {
	in := &req.Kinds[i]
	st := &staged{kind: s.kinds[in.Kind]}
	if k := s.kind(req.Resource, in.Kind); k != nil {
		st.values = slices.Clone(k.values)
	}
	for j := range in.Values {
		v := &value{
			resource: req.Resource, kind: in.Kind, data: clone(&in.Values[j]), signer: ctx.Values[i][j].Node,
			expires: now.Add(time.Duration(in.Values[j].Lifetime) * time.Second),
		}
		if req.Replica > 0 {
			v.sender = ctx.Sender.Node
		}
		v.charge = charge(v, ctx.Values[i][j].Certificates)
		if err := st.put(v, ctx.Values[i][j].Certificates); err != nil {
			return nil, err
		}
	}
	exist := 0
	for _, v := range st.values {
		if v.data.Value.Exists {
			exist++
		}
	}
	// Tombstones are not values to count, but they are bounded as well.
	if int64(exist) > int64(st.kind.MaxCount) || int64(len(st.values)) > 4*int64(st.kind.MaxCount)+4 {
		return nil, refuse(wire.ErrorDataTooLarge, "max-count")
	}
	return st, nil
}

// put places one value. "The storage time values are greater than that of any values which would be
// replaced by this Store."
func (st *staged) put(v *value, certs []wire.Certificate) error {
	replica := !v.sender.IsZero()
	if st.kind.Model == wire.Array {
		if err := st.index(&v.data, replica); err != nil {
			return err
		}
	}
	at, found := findValue(st.values, &v.data.Value)
	if !found {
		st.values = slices.Insert(st.values, at, v)
	} else {
		old := st.values[at]
		if replica && sameValue(&old.data, &v.data) {
			st.same = append(st.same, old)
			return nil
		}
		if v.data.StorageTime <= old.data.StorageTime {
			return refuse(wire.ErrorDataTooOld, "storage_time")
		}
		st.drop(old)
		st.values[at] = v
	}
	st.fresh = append(st.fresh, v)
	st.certs = append(st.certs, certs)
	return nil
}

// drop notes that a value is replaced: one stored before, or, since values are "processed in turn", one of this request.
func (st *staged) drop(old *value) {
	if n := slices.Index(st.fresh, old); n >= 0 {
		st.fresh = slices.Delete(st.fresh, n, n+1)
		st.certs = slices.Delete(st.certs, n, n+1)
		return
	}
	st.same = slices.DeleteFunc(st.same, func(v *value) bool { return v == old })
	st.gone = append(st.gone, old)
}

// index resolves the index that appends. An old value stored once more at the end would be a replay. A replica may come
// with another index, since no index is under the signature (RFC 6940 §7.4.2.2): it moves the element there, for it must not
// multiply it.
func (st *staged) index(d *wire.StoredData, replica bool) error {
	last := d.Value.Index == wire.LastIndex
	if last {
		d.Value.Index = 0
		if n := len(st.values); n > 0 {
			d.Value.Index = st.values[n-1].data.Value.Index + 1
		}
	}
	if last || replica {
		for i, v := range st.values {
			if v.data.Value.Index == d.Value.Index || v.data.StorageTime != d.StorageTime || !bytes.Equal(v.data.Signature.Value, d.Signature.Value) {
				continue
			}
			if last {
				return refuse(wire.ErrorDataTooOld, "value appended before")
			}
			st.drop(v)
			st.values = slices.Delete(st.values, i, i+1)
			break
		}
	}
	if d.Value.Index >= st.kind.MaxCount {
		return refuse(wire.ErrorDataTooLarge, "array index")
	}
	return nil
}

func sameValue(a, b *wire.StoredData) bool {
	return a.StorageTime == b.StorageTime && a.Value.Exists == b.Value.Exists &&
		bytes.Equal(a.Value.Value, b.Value.Value) && bytes.Equal(a.Signature.Identity.Hash, b.Signature.Identity.Hash)
}

func clone(d *wire.StoredData) wire.StoredData {
	c := *d
	c.Value.Key = bytes.Clone(d.Value.Key)
	c.Value.Value = bytes.Clone(d.Value.Value)
	c.Signature.Value = bytes.Clone(d.Signature.Value)
	c.Signature.Identity.Hash = bytes.Clone(d.Signature.Identity.Hash)
	c.Signature.Identity.Raw = bytes.Clone(d.Signature.Identity.Raw)
	return c
}

// commit cannot fail.
func (s *Store) commit(req *wire.StoreRequest, ctx StoreContext, stages []*staged) (ans wire.StoreAnswer) {
	for i, st := range stages {
		k := s.makeKind(req.Resource, st.kind.ID)
		for j, v := range st.fresh { // before those they replace are let go: nothing is taken out and put in again
			s.retain(k, v, st.certs[j])
			if req.Replica > 0 {
				v.mark(holder{node: ctx.Sender.Node})
			}
		}
		for _, v := range st.gone {
			s.release(v)
			s.lose(k, v)
		}
		for _, v := range st.same {
			v.mark(holder{node: ctx.Sender.Node})
		}
		k.values = st.values
		resp := wire.StoreKindResponse{Kind: st.kind.ID}
		if req.Replica > 0 {
			// "the peer MUST set the generation counter to match the generation counter in the message"
			k.generation = req.Kinds[i].Generation
		} else {
			// "The stored generation counter" is never 0, which in a request means none (RFC 6940 §7.4.1.1, §7.4.2.1). A
			// replica store may have brought the largest there is.
			k.generation = max(k.generation+1, 1)
			resp.Replicas = slices.Clone(ctx.Replicas)
		}
		resp.Generation = k.generation
		ans.Kinds = append(ans.Kinds, resp)
	}
	return ans
}

// Adopt replaces own values by newer ones that were fetched from another peer, which refused
// them as too old: "the peer MUST fetch the newer data from the peer generating the error and use
// that to replace its own copy. This rule allows resynchronization after partitions heal"
// (RFC 6940 §7.4.1.1). The larger storage_time wins, for each Kind and key; values that nobody
// with the right signed are skipped. It returns how many were taken.
func (s *Store) Adopt(now time.Time, from wire.NodeID, res wire.ResourceID, in wire.FetchKindResponse, signers []Signer) int {
	s.Expire(now)
	kind, ok := s.kinds[in.Kind]
	if !ok || len(signers) != len(in.Values) || len(res) != s.cfg.IDLen {
		return 0
	}
	n := 0
	for j := range in.Values {
		one := wire.StoreRequest{Resource: res, Replica: 1, Kinds: []wire.StoreKindData{{
			Kind: kind.ID, Generation: max(in.Generation, 1), Values: in.Values[j : j+1],
		}}}
		if k := s.kind(res, kind.ID); k != nil {
			one.Kinds[0].Generation = max(one.Kinds[0].Generation, k.generation)
		}
		sender := Signer{Node: from}
		_, err := s.store(now, &one, StoreContext{Sender: sender, Values: [][]Signer{{signers[j]}}, Plausible: true})
		if err == nil {
			n++
		}
	}
	s.stats.Adopted += uint64(n)
	return n
}
