package storage

import (
	"bytes"
	"cmp"
	"crypto/sha1" //nolint:gosec // RFC 6940 §10.2
	"fmt"
	"maps"
	"math/big"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/wire"

	"pgregory.net/rapid"
)

// naive is the obviously correct store: one flat map, copied as a whole for each request.
type naive struct {
	values      map[place]naiveValue
	generations map[place]uint64 // by resource and Kind only
	retired     uint64           // the largest generation of what is gone
}

type place struct {
	res   wire.ResourceID
	kind  wire.KindID
	index uint32
	key   string
}

type naiveValue struct {
	time    uint64
	text    string // "NA" for a tombstone
	expires time.Time
}

func (n naive) clone() naive {
	return naive{maps.Clone(n.values), maps.Clone(n.generations), n.retired}
}

func (n *naive) expire(now time.Time) {
	maps.DeleteFunc(n.values, func(_ place, v naiveValue) bool { return !now.Before(v.expires) })
	maps.DeleteFunc(n.generations, func(g place, was uint64) bool {
		for p := range n.values {
			if p.res == g.res && p.kind == g.kind {
				return false
			}
		}
		n.retired = max(n.retired, was)
		return true
	})
}

// mayWrite is RFC 6940 §7.3 for one signer.
func mayWrite(res wire.ResourceID, kind wire.KindID, key []byte, who Signer) bool {
	hash := func(name []byte) wire.ResourceID {
		h := sha1.Sum(name) //nolint:gosec // RFC 6940 §10.2
		return wire.ResourceID(h[:16])
	}
	id := who.Node.Bytes()
	switch kind {
	case kindSingle, wire.KindCertificateByUser: // USER-MATCH
		return who.User != "" && hash([]byte(who.User)) == res
	case wire.KindCertificateByNode: // NODE-MATCH
		return hash(id) == res
	case wire.KindSIPRegistration: // USER-NODE-MATCH
		return who.User != "" && hash([]byte(who.User)) == res && string(key) == string(id)
	case kindMultiple: // NODE-MULTIPLE, up to 3
		return res == hash(append(slices.Clone(id), 1)) || res == hash(append(slices.Clone(id), 2)) || res == hash(append(slices.Clone(id), 3))
	}
	return false
}

// store is RFC 6940 §7.4.1.1. Arrays here hold up to 4 elements, dictionaries 4 existing ones and 20 in all; values of
// 201 bytes are too large but for arrays.
func (n naive) store(now time.Time, req *wire.StoreRequest, ctx StoreContext) (naive, wire.ErrorCode) {
	for i, k := range req.Kinds {
		for j, d := range k.Values {
			who := ctx.Values[i][j]
			switch {
			case d.Signature.Identity.Type == wire.IdentityNone, who.Node.IsZero(), !mayWrite(req.Resource, k.Kind, d.Value.Key, who),
				req.Replica == 0 && !mayWrite(req.Resource, k.Kind, d.Value.Key, ctx.Sender):
				return n, wire.ErrorForbidden
			case len(d.Value.Value) > map[wire.KindID]int{kindSingle: 100, kindMultiple: 100, wire.KindSIPRegistration: 200}[k.Kind] && modelOf(k.Kind) != wire.Array:
				return n, wire.ErrorDataTooLarge
			}
		}
	}
	for _, k := range req.Kinds {
		g := n.generations[place{res: req.Resource, kind: k.Kind}]
		if req.Replica == 0 && k.Generation != 0 && k.Generation != g {
			return n, wire.ErrorGenerationCounterTooLow
		}
	}
	after := n.clone()
	for _, k := range req.Kinds {
		for _, d := range k.Values {
			p := place{req.Resource, k.Kind, d.Value.Index, string(d.Value.Key)}
			appends := d.Value.Model == wire.Array && p.index == wire.LastIndex
			if appends {
				p.index = 0
				for o := range after.values {
					if o.res == p.res && o.kind == p.kind {
						p.index = max(p.index, o.index+1)
					}
				}
			}
			for o, v := range after.values {
				if d.Value.Model == wire.Array && o.res == p.res && o.kind == p.kind && o != p && v.time == d.StorageTime && v.text == text(d) {
					if appends {
						return n, wire.ErrorDataTooOld
					}
					if req.Replica > 0 {
						delete(after.values, o) // it moves
					}
				}
			}
			if d.Value.Model == wire.Array && p.index >= 4 {
				return n, wire.ErrorDataTooLarge
			}
			old, there := after.values[p]
			if there && req.Replica > 0 && old.time == d.StorageTime && old.text == text(d) {
				continue
			}
			if there && d.StorageTime <= old.time {
				return n, wire.ErrorDataTooOld
			}
			after.values[p] = naiveValue{d.StorageTime, text(d), now.Add(time.Duration(d.Lifetime) * time.Second)}
		}
		exist, all := 0, 0
		for p, v := range after.values {
			if p.res == req.Resource && p.kind == k.Kind {
				all++
				if v.text != "NA" {
					exist++
				}
			}
		}
		limit := 4
		if k.Kind == kindSingle || k.Kind == kindMultiple {
			limit = 1
		}
		if exist > limit || all > 4*limit+4 {
			return n, wire.ErrorDataTooLarge
		}
		g := place{res: req.Resource, kind: k.Kind}
		if req.Replica > 0 {
			after.generations[g] = k.Generation
		} else if was, ok := after.generations[g]; ok {
			after.generations[g] = was + 1
		} else {
			after.generations[g] = after.retired + 1
		}
	}
	return after, 0
}

// fetch is RFC 6940 §7.4.2 for one specifier: what should come, as text.
func (n naive) fetch(now time.Time, res wire.ResourceID, sp wire.DataSpecifier) (list []string, bad bool) {
	one := func(p place) string {
		v, ok := n.values[p]
		if !ok {
			return fmt.Sprintf("%d %x NA, synthetic", p.index, p.key)
		}
		left := (v.expires.Sub(now) + time.Second - 1) / time.Second
		return fmt.Sprintf("%d %x %s at %d, %d s", p.index, p.key, v.text, v.time, left)
	}
	for i, r := range sp.Ranges {
		for j, o := range sp.Ranges {
			bad = bad || r.First > r.Last || i != j && r.First <= o.Last && o.First <= r.Last
		}
	}
	if g, ok := n.generations[place{res: res, kind: sp.Kind}]; bad || ok && g == sp.Generation {
		return nil, bad
	}
	var there []place
	for p := range n.values {
		if p.res == res && p.kind == sp.Kind {
			there = append(there, p)
		}
	}
	slices.SortFunc(there, func(a, b place) int { return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.key, b.key)) })
	switch sp.Model {
	case wire.SingleValue:
		list = append(list, one(place{res: res, kind: sp.Kind}))
	case wire.Array:
		for _, r := range sp.Ranges {
			for i := range uint32(4) { // no index is higher
				past := r.Last == wire.LastIndex && (len(there) == 0 || i > there[len(there)-1].index)
				if i >= r.First && i <= r.Last && !past {
					list = append(list, one(place{res, sp.Kind, i, ""}))
				}
			}
		}
	case wire.Dictionary:
		for i, k := range sp.Keys {
			if !slices.ContainsFunc(sp.Keys[:i], func(o []byte) bool { return bytes.Equal(o, k) }) {
				list = append(list, one(place{res, sp.Kind, 0, string(k)}))
			}
		}
		for _, p := range there {
			if len(sp.Keys) == 0 {
				list = append(list, one(p))
			}
		}
	}
	return list, false
}

// nearest is RFC 6940 §7.4.4: of the resources with an existing value of the Kind the first at or clockwise after from.
func (n naive) nearest(from wire.ResourceID, kind wire.KindID) (best wire.ResourceID) {
	around := new(big.Int).Lsh(big.NewInt(1), 128)
	var least *big.Int
	for p, v := range n.values {
		if p.kind != kind || v.text == "NA" {
			continue
		}
		d := new(big.Int).Sub(new(big.Int).SetBytes([]byte(p.res)), new(big.Int).SetBytes([]byte(from)))
		if d.Mod(d, around); least == nil || d.Cmp(least) < 0 {
			best, least = p.res, d
		}
	}
	return best
}

func text(d wire.StoredData) string {
	if !d.Value.Exists {
		return "NA"
	}
	return string(d.Value.Value)
}

// all lists what is there, in order, for comparison.
func (n naive) all(res wire.ResourceID, kind wire.KindID, now time.Time) []string {
	var places []place
	for p := range n.values {
		if p.res == res && p.kind == kind {
			places = append(places, p)
		}
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.key, b.key)) })
	var list []string
	for _, p := range places {
		v := n.values[p]
		list = append(list, fmt.Sprintf("%d %x %s at %d, %v", p.index, p.key, v.text, v.time, v.expires.Sub(now)))
	}
	return list
}

// places are the resources of the model: two users', and what one Node-ID may write to.
func places() []wire.ResourceID {
	id := nodeID(1).Bytes()
	return []wire.ResourceID{home("alice@m"), home("bob@m"), home(string(id)), home(string(append(id, 1))), home(string(append(nodeID(1).Bytes(), 3)))}
}

// TestAgainstModel stores, removes, replicates, fetches, finds and lets time pass at random, with the right and the wrong
// signers, and compares everything with the naive store after each step.
func TestAgainstModel(t *testing.T) {
	check := func(t *rapid.T) {
		s := New(Config{Kinds: kinds})
		model := naive{map[place]naiveValue{}, map[place]uint64{}, 0}
		now := epoch
		somebody := func(name string) Signer {
			if rapid.IntRange(0, 30).Draw(t, name+" is nobody") == 0 {
				return Signer{}
			}
			return person(rapid.SampledFrom([]byte{1, 1, 1, 2, 3}).Draw(t, name+"'s node"), rapid.SampledFrom([]string{"alice@m", "alice@m", "bob@m", ""}).Draw(t, name))
		}
		index := rapid.SampledFrom([]uint32{0, 1, 3, 4, wire.LastIndex})
		value := func(kind wire.KindID, by Signer) wire.StoredData {
			v := wire.StoredDataValue{Model: modelOf(kind), DataValue: wire.DataValue{
				Exists: true, Value: bytes.Repeat([]byte(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "text")), rapid.SampledFrom([]int{0, 1, 1, 1, 1, 100, 101, 200, 201}).Draw(t, "length")),
			}}
			if v.Model == wire.Dictionary {
				v.Key = by.Node.Bytes()
				if rapid.IntRange(0, 20).Draw(t, "other key") == 0 {
					v.Key = nodeID(9).Bytes()
				}
			}
			if rapid.IntRange(0, 4).Draw(t, "remove") == 0 {
				v.DataValue = wire.DataValue{}
			}
			// Signatures of equal values are equal here, like those of real replays; no index is under them.
			d := signed(rapid.Uint64Range(1, 6).Draw(t, "time"), v)
			if v.Model == wire.Array {
				d.Value.Index = index.Draw(t, "index")
			}
			d.Lifetime = rapid.Uint32Range(0, 20).Draw(t, "lifetime")
			if rapid.IntRange(0, 40).Draw(t, "unsigned") == 0 {
				d.Signature = wire.Signature{Identity: wire.SignerIdentity{Type: wire.IdentityNone}}
			}
			return d
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
			model.expire(now)
			res := rapid.SampledFrom(places()).Draw(t, "resource")
			who := somebody("signer")
			req := &wire.StoreRequest{Resource: res, Replica: rapid.Uint8Range(0, 1).Draw(t, "replica")}
			ctx := StoreContext{Sender: who, Responsible: true, Plausible: true}
			if rapid.IntRange(0, 5).Draw(t, "sent by another") == 0 {
				ctx.Sender = somebody("sender")
			}
			if ctx.Sender.Node.IsZero() {
				ctx.Sender = person(7, "") // a request with no valid signature never gets here
			}
			for _, kind := range rapid.SampledFrom([][]wire.KindID{
				{kindSingle}, {wire.KindCertificateByUser}, {wire.KindSIPRegistration}, {wire.KindSIPRegistration, kindSingle},
				{wire.KindCertificateByNode}, {kindMultiple},
			}).Draw(t, "kinds") {
				k := wire.StoreKindData{Kind: kind, Generation: rapid.Uint64Range(uint64(req.Replica), 3).Draw(t, "generation")}
				var signers []Signer
				for range rapid.IntRange(1, 2).Draw(t, "values") {
					by := who
					if rapid.IntRange(0, 15).Draw(t, "another signer") == 0 {
						by = somebody("other signer")
					}
					k.Values, signers = append(k.Values, value(kind, by)), append(signers, by)
				}
				req.Kinds, ctx.Values = append(req.Kinds, k), append(ctx.Values, signers)
			}
			after, want := model.store(now, req, ctx)
			if _, err := s.Store(now, req, ctx); code(err) != want {
				t.Fatalf("%+v: %v, want %v", req, err, want)
			}
			model = after
			model.expire(now)
			compare(t, s, model, now)

			// What comes back, with the errors.
			kind := rapid.SampledFrom(kinds).Draw(t, "fetched")
			sp := wire.DataSpecifier{Kind: kind.ID, Model: kind.Model, Generation: rapid.Uint64Range(0, 4).Draw(t, "seen")}
			for range rapid.IntRange(0, 2).Draw(t, "of it") {
				switch kind.Model {
				case wire.Array:
					sp.Ranges = append(sp.Ranges, wire.ArrayRange{First: index.Draw(t, "first"), Last: index.Draw(t, "last")})
				case wire.Dictionary:
					sp.Keys = append(sp.Keys, nodeID(rapid.ByteRange(1, 3).Draw(t, "key")).Bytes())
				case wire.SingleValue:
				}
			}
			compareFetch(t, s, model, now, rapid.SampledFrom(places()).Draw(t, "fetched from"), sp)
			from := rapid.SampledFrom(append(places(), wire.ResourceID(make([]byte, 16)), wire.ResourceID(bytes.Repeat([]byte{0xff}, 16)))).Draw(t, "find from")
			found, err := s.Find(now, &wire.FindRequest{Resource: from, Kinds: []wire.KindID{kind.ID, 0xF0000099}}, true)
			if err != nil || found.Results[0].Closest != model.nearest(from, kind.ID) || found.Results[1].Closest != "" {
				t.Fatalf("found %+v, %v, want %q", found, err, model.nearest(from, kind.ID))
			}
		}
	}
	rapid.Check(t, check)
}

func modelOf(kind wire.KindID) wire.DataModel {
	for _, k := range kinds {
		if k.ID == kind {
			return k.Model
		}
	}
	return 0
}

// compareFetch checks a Fetch and the Stat that is like it.
func compareFetch(t *rapid.T, s *Store, model naive, now time.Time, res wire.ResourceID, sp wire.DataSpecifier) {
	want, bad := model.fetch(now, res, sp)
	req := wire.FetchRequest{Resource: res, Specifiers: []wire.DataSpecifier{sp}}
	ans, _, err := s.Fetch(now, &req)
	stat, statErr := s.Stat(now, (*wire.StatRequest)(&req))
	if bad {
		if code(err) != wire.ErrorInvalidMessage || code(statErr) != wire.ErrorInvalidMessage {
			t.Fatalf("%+v: %v, %v", sp, err, statErr)
		}
		return
	}
	if err != nil || statErr != nil {
		t.Fatalf("%+v: %v, %v", sp, err, statErr)
	}
	var got, short []string
	for _, d := range ans.Kinds[0].Values {
		line := fmt.Sprintf("%d %x %s at %d, %d s", d.Value.Index, d.Value.Key, text(d), d.StorageTime, d.Lifetime)
		if d.Signature.Identity.Type == wire.IdentityNone {
			line = fmt.Sprintf("%d %x NA, synthetic", d.Value.Index, d.Value.Key)
		}
		got = append(got, line)
		short = append(short, fmt.Sprintf("%d %x %v %d at %d, %d s", d.Value.Index, d.Value.Key, d.Value.Exists, len(d.Value.Value), d.StorageTime, d.Lifetime))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%+v:\n got %q\nwant %q", sp, got, want)
	}
	var meta []string
	for _, m := range stat.Kinds[0].Values {
		meta = append(meta, fmt.Sprintf("%d %x %v %d at %d, %d s", m.Index, m.Key, m.Exists, m.ValueLength, m.StorageTime, m.Lifetime))
	}
	if !slices.Equal(meta, short) || stat.Kinds[0].Generation != ans.Kinds[0].Generation {
		t.Fatalf("%+v: Stat %q, Fetch %q", sp, meta, short)
	}
}

func compare(t *rapid.T, s *Store, model naive, now time.Time) {
	s.Expire(now)
	for _, res := range places() {
		for _, k := range kinds {
			var got []string
			kd := s.kind(res, k.ID)
			if kd != nil {
				for _, v := range kd.values {
					got = append(got, fmt.Sprintf("%d %x %s at %d, %v", v.data.Value.Index, v.data.Value.Key, text(v.data), v.data.StorageTime, v.expires.Sub(now)))
				}
				if g := model.generations[place{res: res, kind: k.ID}]; g != kd.generation {
					t.Fatalf("generation %d, want %d", kd.generation, g)
				}
			}
			if want := model.all(res, k.ID, now); !slices.Equal(got, want) {
				t.Fatalf("%x, Kind %x:\n got %q\nwant %q", res, k.ID, got, want)
			}
		}
	}
	// What is counted is what is there.
	size, n, refs, shares := 0, 0, map[certID]int{}, map[wire.NodeID]share{}
	for _, r := range s.resources {
		for _, k := range r.kinds {
			for _, v := range k.values {
				size += v.size()
				n++
				h := shares[v.signer]
				h.signed += v.charge
				shares[v.signer] = h
				if !v.sender.IsZero() {
					h := shares[v.sender]
					h.sent += v.charge
					shares[v.sender] = h
				}
				if s.due[v.due] != v {
					t.Fatalf("value %+v is not in the order of expiry", v.data)
				}
				for _, c := range v.certs {
					refs[c.id]++
				}
			}
		}
	}
	for key, c := range s.certs {
		size += sizeOf(c.data)
		if refs[key] != c.refs || key != idOf(c.data) {
			t.Fatalf("certificate %x: %d references, counted %d", key, refs[key], c.refs)
		}
	}
	if size != s.bytes || n != s.values || len(refs) != len(s.certs) {
		t.Fatalf("%d values of %d bytes, %d certificates; counted %d, %d, %d", n, size, len(refs), s.values, s.bytes, len(s.certs))
	}
	if !maps.Equal(shares, s.shares) || len(s.due) != n || len(s.order) != len(s.resources) || !slices.IsSorted(s.order) {
		t.Fatalf("shares %v, counted %v; %d due, %d in order of %d", shares, s.shares, len(s.due), len(s.order), len(s.resources))
	}
	for _, res := range places() {
		for _, k := range kinds {
			kd := s.kind(res, k.ID)
			exists := kd != nil && slices.ContainsFunc(kd.values, func(v *value) bool { return v.data.Value.Exists })
			if slices.Contains(s.found[k.ID], res) != exists {
				t.Fatalf("Kind %x at %x: exists %v, found %v", k.ID, res, exists, s.found[k.ID])
			}
		}
	}
	if next := s.Deadline(); n > 0 && !next.After(now) {
		t.Fatalf("Deadline %v is not after %v", next, now)
	}
}
