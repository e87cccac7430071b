package decode

import (
	"encoding"
	"fmt"

	"fieldkit/overlay/wire"
)

// storage renders the structures of RFC 6940 §7 and the values of Kinds.
func (u *unit) storage(s encoding.BinaryAppender) {
	switch s := s.(type) {
	case wire.StoreRequest:
		u.str("resource", s.Resource.String())
		u.num("replica_number", uint64(s.Replica))
		u.list("kind_data", len(s.Kinds), func(i int) {
			k := &s.Kinds[i]
			u.object("", func() {
				u.kind(k.Kind)
				u.num("generation_counter", k.Generation)
				u.values(fmt.Sprintf("StoreReq.kind_data[%d]", i), []wire.ResourceID{s.Resource}, k.Kind, k.Values, k.Raw)
			})
		})
	case wire.FetchRequest:
		u.fetched.add(u.message.TransactionID, s.Resource)
		u.fetch(&s)
	case wire.StatRequest:
		u.fetch((*wire.FetchRequest)(&s))
	case wire.FetchAnswer:
		u.list("kind_responses", len(s.Kinds), func(i int) {
			k := &s.Kinds[i]
			u.object("", func() {
				u.kind(k.Kind)
				u.num("generation", k.Generation)
				u.values(fmt.Sprintf("FetchAns.kind_responses[%d]", i), u.fetched.of(u.message.TransactionID), k.Kind, k.Values, k.Raw)
			})
		})
	case wire.StatAnswer:
		u.list("kind_responses", len(s.Kinds), func(i int) { u.stat(&s.Kinds[i]) })
	case wire.StoreAnswer:
		u.list("kind_responses", len(s.Kinds), func(i int) {
			u.object("", func() {
				u.kind(s.Kinds[i].Kind)
				u.num("generation_counter", s.Kinds[i].Generation)
				u.nodeIDs("replicas", s.Kinds[i].Replicas)
			})
		})
	case wire.FindRequest:
		u.str("resource", s.Resource.String())
		u.structure(unknownKinds(s.Kinds))
	case unknownKinds:
		u.list("kinds", len(s), func(i int) { u.named("", uint64(s[i]), kindNames) })
	case wire.FindAnswer:
		u.list("results", len(s.Results), func(i int) {
			u.object("", func() {
				u.kind(s.Results[i].Kind)
				u.str("closest", s.Results[i].Closest.String())
			})
		})
	case wire.SIPRegistration:
		u.sipRegistration(&s)
	case wire.TurnServer:
		u.num("iteration", uint64(s.Iteration))
		u.addrPort("server_address", s.Addr, s.Unknown)
	}
}

func (u *unit) kind(k wire.KindID) { u.named("kind", uint64(k), kindNames) }

func (u *unit) fetch(f *wire.FetchRequest) {
	u.str("resource", f.Resource.String())
	u.list("specifiers", len(f.Specifiers), func(i int) {
		s := &f.Specifiers[i]
		u.object("", func() {
			u.kind(s.Kind)
			u.num("generation", s.Generation)
			switch {
			case s.Raw != nil:
				u.opaque("model_specifier", s.Raw)
			case s.Model == wire.Array:
				u.list("indices", len(s.Ranges), func(j int) {
					u.object("", func() {
						u.num("first", uint64(s.Ranges[j].First))
						u.num("last", uint64(s.Ranges[j].Last))
					})
				})
			case s.Model == wire.Dictionary:
				u.list("keys", len(s.Keys), func(j int) { u.opaque("", s.Keys[j]) })
			}
		})
	})
}

// values renders stored values, each with what its signature is worth if it lies under one of the resources.
func (u *unit) values(path string, resources []wire.ResourceID, kind wire.KindID, list []wire.StoredData, raw []byte) {
	if raw != nil {
		u.opaque("values", raw)
		return
	}
	u.list("values", len(list), func(i int) {
		d := &list[i]
		u.object("", func() {
			u.num("storage_time", d.StorageTime)
			u.num("lifetime", uint64(d.Lifetime))
			u.object("value", func() {
				u.entry(d.Value.Model, d.Value.Index, d.Value.Key, func() {
					u.boolean("exists", d.Value.Exists)
					u.value(fmt.Sprintf("%s.values[%d].value", path, i), kind, d)
				})
			})
			u.signature(&d.Signature, u.verifyStored(resources, kind, d))
		})
	})
}

// entry renders a StoredDataValue or the like: what a data model puts around a DataValue or a MetaData.
func (u *unit) entry(model wire.DataModel, index uint32, key []byte, inside func()) {
	switch model {
	case wire.Array:
		u.object("array_entry", func() {
			u.num("index", uint64(index))
			u.object("value", inside)
		})
	case wire.Dictionary:
		u.object("dictionary_entry", func() {
			u.opaque("key", key)
			u.object("value", inside)
		})
	default:
		u.object("single_value_entry", inside)
	}
}

func (u *unit) value(path string, kind wire.KindID, d *wire.StoredData) {
	v := &d.Value
	if hash := d.Signature.Identity.Hash; len(hash) > 0 {
		const signatureHead = 2 + 1 + 2 + 1 + 1 // what stands between the end of a value and the hash of its signer
		u.near = u.offset(hash) - signatureHead
	}
	if !v.Exists {
		u.opaque("value", v.Value)
		return
	}
	if kind == wire.KindCertificateByNode || kind == wire.KindCertificateByUser {
		c := readCertificate(wire.Certificate{Type: wire.CertificateX509, Data: v.Value})
		if c.err != nil {
			u.malformed(v.Value, path, c.err)
		}
		u.certificate("value", &c)
		return
	}
	content, err := parseValue(kind, v.Value)
	u.malformed(v.Value, path, err)
	u.content("value", v.Value, content, err)
}

func (u *unit) stat(k *wire.StatKindResponse) {
	u.object("", func() {
		u.kind(k.Kind)
		u.num("generation", k.Generation)
		if k.Raw != nil {
			u.opaque("values", k.Raw)
			return
		}
		u.list("values", len(k.Values), func(i int) {
			m := &k.Values[i]
			u.object("", func() {
				u.num("storage_time", m.StorageTime)
				u.num("lifetime", uint64(m.Lifetime))
				u.object("metadata", func() {
					u.entry(m.Model, m.Index, m.Key, func() {
						u.boolean("exists", m.Exists)
						u.num("value_length", uint64(m.ValueLength))
						u.named("hash_algorithm", uint64(m.HashAlg), hashNames)
						u.opaque("hash_value", m.Hash)
					})
				})
			})
		})
	})
}

func (u *unit) sipRegistration(s *wire.SIPRegistration) {
	u.named("type", uint64(s.Type), sipNames)
	switch s.Type {
	case wire.SIPRegistrationURI:
		u.text("uri", s.URI)
	case wire.SIPRegistrationRoute:
		u.text("contact_prefs", s.ContactPrefs)
		u.destinations("destination_list", s.Destinations)
	default:
		u.opaque("data", s.Raw)
	}
}

// maxFetches bounds the transactions of which the resource is remembered.
const maxFetches = 256

// fetches remembers the last resources that were fetched: "The Resource-ID" of a FetchAns is that of its request, and the
// signatures in it cover it (RFC 6940 §7.1).
type fetches struct {
	list [maxFetches]struct {
		transaction uint64
		resource    wire.ResourceID
	}
	next, count int
}

func (f *fetches) add(transaction uint64, resource wire.ResourceID) {
	f.list[f.next].transaction, f.list[f.next].resource = transaction, resource
	f.next = (f.next + 1) % maxFetches
	f.count = min(f.count+1, maxFetches)
}

// of returns the resources fetched in a transaction, the latest first.
func (f *fetches) of(transaction uint64) []wire.ResourceID {
	var found []wire.ResourceID
	for i := range f.count {
		e := &f.list[(f.next-1-i+maxFetches)%maxFetches]
		if e.transaction == transaction {
			found = append(found, e.resource)
		}
	}
	return found
}
