package storage

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Fetch answers a FetchReq. The certificates are those that the values' signatures need, for the
// security block of the answer. Errors are wire.ErrorResponses.
func (s *Store) Fetch(now time.Time, req *wire.FetchRequest) (wire.FetchAnswer, []wire.Certificate, error) {
	s.Expire(now)
	var ans wire.FetchAnswer
	var certs []wire.Certificate
	if err := s.readable(req); err != nil {
		return ans, nil, err
	}
	for i := range req.Specifiers {
		sel := s.selection(req.Resource, &req.Specifiers[i])
		resp := wire.FetchKindResponse{Kind: req.Specifiers[i].Kind, Generation: sel.generation}
		for _, e := range sel.entries {
			if e.stored == nil {
				resp.Values = append(resp.Values, synthetic(e.at))
				continue
			}
			resp.Values = append(resp.Values, e.stored.left(now))
			certs = collect(certs, e.stored)
		}
		ans.Kinds = append(ans.Kinds, resp)
	}
	return ans, certs, nil
}

// Stat answers a StatReq like a Fetch, with digests instead of values.
func (s *Store) Stat(now time.Time, req *wire.StatRequest) (wire.StatAnswer, error) {
	s.Expire(now)
	var ans wire.StatAnswer
	if err := s.readable((*wire.FetchRequest)(req)); err != nil {
		return ans, err
	}
	for i := range req.Specifiers {
		sel := s.selection(req.Resource, &req.Specifiers[i])
		resp := wire.StatKindResponse{Kind: req.Specifiers[i].Kind, Generation: sel.generation}
		for _, e := range sel.entries {
			d := synthetic(e.at)
			if e.stored != nil {
				d = e.stored.left(now)
			}
			resp.Values = append(resp.Values, metadata(&d))
		}
		ans.Kinds = append(ans.Kinds, resp)
	}
	return ans, nil
}

// metadata digests a value: "A digest using hash_algorithm on the value field of the DataValue,
// including its 4 leading length bytes" (RFC 6940 §7.4.3.2).
func metadata(d *wire.StoredData) wire.StoredMetaData {
	h := sha256.New()
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(d.Value.Value)))
	h.Write(n[:])
	h.Write(d.Value.Value)
	return wire.StoredMetaData{
		StorageTime: d.StorageTime, Lifetime: d.Lifetime,
		Model: d.Value.Model, Index: d.Value.Index, Key: d.Value.Key,
		MetaData: wire.MetaData{
			Exists: d.Value.Exists, ValueLength: uint32(len(d.Value.Value)),
			HashAlg: wire.HashSHA256, Hash: h.Sum(nil),
		},
	}
}

// Find answers a FindReq: for each Kind the next Resource-ID at or clockwise after the one asked
// for that has an existing value of it here.
func (s *Store) Find(now time.Time, req *wire.FindRequest, responsible bool) (wire.FindAnswer, error) {
	s.Expire(now)
	var ans wire.FindAnswer
	for i, k := range req.Kinds {
		// "Each value MUST appear only once. Otherwise, the request MUST be rejected with an error."
		if slices.Contains(req.Kinds[:i], k) {
			return ans, refuse(wire.ErrorInvalidMessage, "Kind-ID used twice")
		}
	}
	if !responsible {
		return ans, refuse(wire.ErrorNotFound, "not responsible for the resource")
	}
	for _, k := range req.Kinds {
		d := wire.FindKindData{Kind: k}
		if list := s.found[k]; len(list) > 0 {
			if _, known := s.kinds[k]; known {
				i, _ := slices.BinarySearch(list, req.Resource)
				d.Closest = list[i%len(list)]
			}
		}
		ans.Results = append(ans.Results, d)
	}
	return ans, nil
}

func (s *Store) readable(req *wire.FetchRequest) error {
	var unknown []wire.KindID
	for i := range req.Specifiers {
		sp := &req.Specifiers[i]
		// "There MUST be one FetchKindResponse element for each Kind-ID in the request."
		if slices.ContainsFunc(req.Specifiers[:i], func(o wire.DataSpecifier) bool { return o.Kind == sp.Kind }) {
			return refuse(wire.ErrorInvalidMessage, "Kind-ID used twice")
		}
		kind, ok := s.kinds[sp.Kind]
		if !ok {
			unknown = append(unknown, sp.Kind)
			continue
		}
		if sp.Raw != nil || sp.Model != kind.Model {
			return refuse(wire.ErrorInvalidMessage, "specifier does not fit its data model")
		}
		// "While multiple ranges MAY be specified, they MUST NOT overlap."
		ranges := slices.Clone(sp.Ranges)
		slices.SortFunc(ranges, func(a, b wire.ArrayRange) int { return cmp.Compare(a.First, b.First) })
		for j := range ranges {
			if ranges[j].First > ranges[j].Last || j > 0 && ranges[j].First <= ranges[j-1].Last {
				return refuse(wire.ErrorInvalidMessage, "array ranges")
			}
		}
	}
	if len(unknown) > 0 {
		return unknownKinds(unknown)
	}
	return nil
}

// entry is one place asked for, and what is stored there.
type entry struct {
	at     wire.StoredDataValue
	stored *value
}

type selected struct {
	generation uint64
	entries    []entry
}

// selection finds what a specifier asks for. If it already has the current generation, that is
// nothing: "If the generation counter in the request matches the generation counter in the stored
// data, then no StoredData values are returned."
func (s *Store) selection(res wire.ResourceID, sp *wire.DataSpecifier) (sel selected) {
	kind := s.kinds[sp.Kind]
	var values []*value
	if k := s.kind(res, sp.Kind); k != nil {
		sel.generation, values = k.generation, k.values
		if sp.Generation == k.generation {
			return sel
		}
	}
	want := func(at wire.StoredDataValue) {
		e := entry{at: at}
		if i, ok := findValue(values, &at); ok {
			e.stored = values[i]
		}
		sel.entries = append(sel.entries, e)
	}
	switch kind.Model {
	case wire.SingleValue:
		want(wire.StoredDataValue{Model: kind.Model})
	case wire.Array:
		for _, r := range sp.Ranges {
			for i := int64(r.First); i <= lastOf(r, kind, values); i++ {
				want(wire.StoredDataValue{Model: kind.Model, Index: uint32(i)})
			}
		}
	case wire.Dictionary:
		for i, key := range sp.Keys {
			if !slices.ContainsFunc(sp.Keys[:i], func(k []byte) bool { return string(k) == string(key) }) {
				want(wire.StoredDataValue{Model: kind.Model, Key: key})
			}
		}
		if len(sp.Keys) == 0 {
			for _, v := range values {
				sel.entries = append(sel.entries, entry{stored: v})
			}
		}
	}
	return sel
}

// lastOf is the last index of a range that can hold anything: a range over the whole of the
// index space must not make as many synthetic values.
func lastOf(r wire.ArrayRange, kind ident.Kind, values []*value) int64 {
	if r.Last == wire.LastIndex {
		if len(values) == 0 {
			return -1
		}
		return int64(values[len(values)-1].data.Value.Index)
	}
	return min(int64(r.Last), int64(kind.MaxCount)-1)
}

// synthetic is a value that does not exist, as RFC 6940 §7.4.2.2 wants it: "the identity_type is set
// to "none", the SignatureAndHashAlgorithm values are set to {0, 0} …, and the signature value is
// of zero length".
func synthetic(at wire.StoredDataValue) wire.StoredData {
	return wire.StoredData{Value: at, Signature: wire.Signature{Identity: wire.SignerIdentity{Type: wire.IdentityNone}}}
}
