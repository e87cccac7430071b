package storage

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
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

func (n naive) clone() naive { return naive{maps.Clone(n.values), maps.Clone(n.generations)} }

func (n naive) expire(now time.Time) {
	maps.DeleteFunc(n.values, func(_ place, v naiveValue) bool { return !now.Before(v.expires) })
	maps.DeleteFunc(n.generations, func(g place, _ uint64) bool {
		for p := range n.values {
			if p.res == g.res && p.kind == g.kind {
				return false
			}
		}
		return true
	})
}

// store is RFC 6940 §7.4.1.1 without access control. Arrays here hold up to 4 elements,
// dictionaries 4 existing ones and 20 in all.
func (n naive) store(now time.Time, req *wire.StoreRequest) (naive, wire.ErrorCode) {
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
			if d.Value.Model == wire.Array && p.index == wire.LastIndex {
				p.index = 0
				for o, v := range after.values {
					if o.res == p.res && o.kind == p.kind {
						p.index = max(p.index, o.index+1)
						if v.time == d.StorageTime && v.text == text(d) {
							return n, wire.ErrorDataTooOld
						}
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
		if k.Kind == kindSingle {
			limit = 1
		}
		if exist > limit || all > 4*limit+4 {
			return n, wire.ErrorDataTooLarge
		}
		g := place{res: req.Resource, kind: k.Kind}
		if req.Replica > 0 {
			after.generations[g] = k.Generation
		} else {
			after.generations[g]++
		}
	}
	return after, 0
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

// TestAgainstModel stores, removes, replicates and lets time pass at random and compares everything with
// the naive store after each step.
func TestAgainstModel(t *testing.T) {
	users := []string{"alice@m", "bob@m"}
	check := func(t *rapid.T) {
		s := New(Config{Kinds: kinds})
		model := naive{map[place]naiveValue{}, map[place]uint64{}}
		now := epoch
		value := func(kind wire.KindID, node byte) wire.StoredData {
			at := rapid.Uint64Range(1, 6).Draw(t, "time")
			body := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "text")
			var d wire.StoredData
			switch kind {
			case kindSingle:
				d = single(at, body)
			case wire.KindCertificateByUser:
				d = element(at, rapid.SampledFrom([]uint32{0, 1, 3, 4, wire.LastIndex}).Draw(t, "index"), body)
			default:
				d = registration(at, node, body)
			}
			if rapid.IntRange(0, 4).Draw(t, "remove") == 0 {
				d.Value.DataValue = wire.DataValue{}
			}
			// Signatures of equal values are equal here, like those of real replays.
			d = signed(at, wire.StoredDataValue{Model: d.Value.Model, Key: d.Value.Key, DataValue: d.Value.DataValue})
			if kind == wire.KindCertificateByUser {
				d.Value.Index = rapid.SampledFrom([]uint32{0, 1, 3, 4, wire.LastIndex}).Draw(t, "index again")
			}
			d.Lifetime = rapid.Uint32Range(0, 20).Draw(t, "lifetime")
			return d
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
			model.expire(now)
			user := rapid.SampledFrom(users).Draw(t, "user")
			who := person(rapid.ByteRange(1, 6).Draw(t, "node"), user)
			req := &wire.StoreRequest{Resource: home(user), Replica: rapid.Uint8Range(0, 1).Draw(t, "replica")}
			ctx := StoreContext{Sender: who, Responsible: true, Plausible: true}
			for _, kind := range rapid.SampledFrom([][]wire.KindID{
				{kindSingle}, {wire.KindCertificateByUser}, {wire.KindSIPRegistration}, {wire.KindSIPRegistration, kindSingle},
			}).Draw(t, "kinds") {
				k := wire.StoreKindData{Kind: kind, Generation: rapid.Uint64Range(uint64(req.Replica), 3).Draw(t, "generation")}
				for range rapid.IntRange(1, 2).Draw(t, "values") {
					k.Values = append(k.Values, value(kind, who.Node.Bytes()[0]))
				}
				req.Kinds = append(req.Kinds, k)
				ctx.Values = append(ctx.Values, slices.Repeat([]Signer{who}, len(k.Values)))
			}
			after, want := model.store(now, req)
			if _, err := s.Store(now, req, ctx); code(err) != want {
				t.Fatalf("%+v: %v, want %v", req, err, want)
			}
			model = after
			model.expire(now)
			compare(t, s, model, now)
		}
	}
	rapid.Check(t, check)
}

func compare(t *rapid.T, s *Store, model naive, now time.Time) {
	s.Expire(now)
	for _, user := range []string{"alice@m", "bob@m"} {
		res := home(user)
		for _, k := range kinds[:4] {
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
				t.Fatalf("%s, Kind %x:\n got %q\nwant %q", user, k.ID, got, want)
			}
		}
	}
	// What is counted is what is there.
	size, n, refs := 0, 0, map[string]int{}
	for _, r := range s.resources {
		for _, k := range r.kinds {
			for _, v := range k.values {
				size += v.size()
				n++
				for _, c := range v.certs {
					refs[c]++
				}
			}
		}
	}
	for key, c := range s.certs {
		size += certOverhead + 2*len(c.data.Data)
		if refs[key] != c.refs || !bytes.Equal([]byte(key)[1:], c.data.Data) {
			t.Fatalf("certificate %q: %d references, counted %d", key, refs[key], c.refs)
		}
	}
	if size != s.bytes || n != s.values || len(refs) != len(s.certs) {
		t.Fatalf("%d values of %d bytes, %d certificates; counted %d, %d, %d", n, size, len(refs), s.values, s.bytes, len(s.certs))
	}
	if next := s.Deadline(); n > 0 && !next.After(now) {
		t.Fatalf("Deadline %v is not after %v", next, now)
	}
}
