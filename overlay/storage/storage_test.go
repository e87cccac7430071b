package storage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	kindSingle   wire.KindID = 0xF0000001
	kindMultiple wire.KindID = 0xF0000002
)

var kinds = []ident.Kind{
	{ID: wire.KindSIPRegistration, Model: wire.Dictionary, AccessControl: ident.UserNodeMatch, MaxCount: 4, MaxSize: 200},
	{ID: wire.KindCertificateByNode, Model: wire.Array, AccessControl: ident.NodeMatch, MaxCount: 4, MaxSize: 1000},
	{ID: wire.KindCertificateByUser, Model: wire.Array, AccessControl: ident.UserMatch, MaxCount: 4, MaxSize: 1000},
	{ID: kindSingle, Model: wire.SingleValue, AccessControl: ident.UserMatch, MaxCount: 1, MaxSize: 100},
	{ID: kindMultiple, Model: wire.SingleValue, AccessControl: ident.NodeMultiple, MaxCount: 1, MaxSize: 100, MaxMultiple: 3},
}

func nodeID(b byte) wire.NodeID {
	id, err := wire.NodeIDFrom(bytes.Repeat([]byte{b}, 16))
	if err != nil {
		panic(err)
	}
	return id
}

// person is a certificate's worth of identity.
func person(node byte, user string) Signer {
	return Signer{Node: nodeID(node), User: user, Certificates: []wire.Certificate{
		{Data: fmt.Appendf(nil, "certificate of %s at %d", user, node)}, {Data: fmt.Appendf(nil, "certificate of kit %d", node)},
	}}
}

func home(user string) wire.ResourceID { return ident.ResourceID([]byte(user), 16) }

var alice = person(1, "alice@m")

// signed is a value as its signer would send it; to Store a signature is just bytes.
func signed(at uint64, v wire.StoredDataValue) wire.StoredData {
	h := sha256.Sum256(fmt.Appendf(nil, "%d %v", at, v))
	return wire.StoredData{StorageTime: at, Lifetime: 60, Value: v, Signature: wire.Signature{
		HashAlg: wire.HashSHA256, SigAlg: wire.SigECDSA, Value: h[:],
		Identity: wire.SignerIdentity{Type: wire.IdentityCertHash, HashAlg: wire.HashSHA256, Hash: h[:]},
	}}
}

func single(at uint64, text string) wire.StoredData {
	return signed(at, wire.StoredDataValue{Model: wire.SingleValue, DataValue: wire.DataValue{Exists: true, Value: []byte(text)}})
}

func registration(at uint64, node byte, text string) wire.StoredData {
	return signed(at, wire.StoredDataValue{Model: wire.Dictionary, Key: nodeID(node).Bytes(),
		DataValue: wire.DataValue{Exists: true, Value: []byte(text)}})
}

func element(at uint64, index uint32, text string) wire.StoredData {
	return signed(at, wire.StoredDataValue{Model: wire.Array, Index: index,
		DataValue: wire.DataValue{Exists: true, Value: []byte(text)}})
}

func tombstone(d wire.StoredData) wire.StoredData {
	d.Value.DataValue = wire.DataValue{}
	return signed(d.StorageTime, d.Value)
}

// put stores values of one Kind for who, as an original store.
func put(res wire.ResourceID, kind wire.KindID, who Signer, values ...wire.StoredData) (*wire.StoreRequest, StoreContext) {
	return &wire.StoreRequest{Resource: res, Kinds: []wire.StoreKindData{{Kind: kind, Values: values}}},
		StoreContext{Sender: who, Values: [][]Signer{slices.Repeat([]Signer{who}, len(values))}, Responsible: true}
}

func replica(res wire.ResourceID, kind wire.KindID, from byte, who Signer, values ...wire.StoredData) (*wire.StoreRequest, StoreContext) {
	req, ctx := put(res, kind, who, values...)
	req.Replica, req.Kinds[0].Generation = 1, 7
	ctx.Sender, ctx.Responsible, ctx.Plausible = Signer{Node: nodeID(from)}, false, true
	return req, ctx
}

func code(err error) wire.ErrorCode {
	var e wire.ErrorResponse
	if errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return 0xfff0 // not an error that can be sent
	}
	return 0
}

func mustStore(t *testing.T, s *Store, now time.Time, c call) {
	t.Helper()
	if _, err := do(s, now, c); err != nil {
		t.Fatalf("store refused: %+v", err)
	}
}

func fetch(t *testing.T, s *Store, now time.Time, res wire.ResourceID, sp wire.DataSpecifier) wire.FetchKindResponse {
	t.Helper()
	ans, _, err := s.Fetch(now, &wire.FetchRequest{Resource: res, Specifiers: []wire.DataSpecifier{sp}})
	if err != nil {
		t.Fatalf("fetch refused: %v", err)
	}
	return ans.Kinds[0]
}

func texts(values []wire.StoredData) (list []string) {
	for _, v := range values {
		if !v.Value.Exists {
			list = append(list, "NA")
		} else {
			list = append(list, string(v.Value.Value))
		}
	}
	return list
}

// Who may write what: "both the signer of the StoredValue and the signer of the StoreReq MUST
// conform to the policy. In the case of a replica store, the signer of the StoredValue MUST
// conform to the policy" (RFC 6940 §7.3).
func TestAccessControl(t *testing.T) {
	bob, aliceElsewhere := person(2, "bob@m"), person(3, "alice@m")
	atNode := ident.ResourceID(alice.Node.Bytes(), 16)
	multiple := func(i byte) wire.ResourceID { return ident.ResourceID(append(alice.Node.Bytes(), i), 16) }
	cert := element(1, 0, "cert")
	tests := []struct {
		name   string
		res    wire.ResourceID
		kind   wire.KindID
		value  wire.StoredData
		signer Signer // of the value
		sender Signer // of an original store
		want   wire.ErrorCode
		asCopy wire.ErrorCode // as a replica store from a plausible kit
	}{
		{"USER-MATCH", home("alice@m"), kindSingle, single(1, "x"), alice, alice, 0, 0},
		{"USER-MATCH, same user, other node", home("alice@m"), kindSingle, single(1, "x"), alice, aliceElsewhere, 0, 0},
		{"USER-MATCH, value by someone else", home("alice@m"), kindSingle, single(1, "x"), bob, alice, wire.ErrorForbidden, wire.ErrorForbidden},
		{"USER-MATCH, sent by someone else", home("alice@m"), kindSingle, single(1, "x"), alice, bob, wire.ErrorForbidden, 0},
		{"USER-MATCH, no user name", ident.ResourceID(nil, 16), kindSingle, single(1, "x"), Signer{Node: nodeID(1)}, Signer{Node: nodeID(1)}, wire.ErrorForbidden, wire.ErrorForbidden},
		{"NODE-MATCH", atNode, wire.KindCertificateByNode, cert, alice, alice, 0, 0},
		{"NODE-MATCH at the Node-ID, not at its hash", wire.ResourceID(alice.Node.Bytes()), wire.KindCertificateByNode, cert, alice, alice, wire.ErrorForbidden, wire.ErrorForbidden},
		{"NODE-MATCH, other node", atNode, wire.KindCertificateByNode, cert, aliceElsewhere, aliceElsewhere, wire.ErrorForbidden, wire.ErrorForbidden},
		{"NODE-MATCH, sent by other node", atNode, wire.KindCertificateByNode, cert, alice, bob, wire.ErrorForbidden, 0},
		{"USER-NODE-MATCH", home("alice@m"), wire.KindSIPRegistration, registration(1, 1, "x"), alice, alice, 0, 0},
		{"USER-NODE-MATCH, key of another node", home("alice@m"), wire.KindSIPRegistration, registration(1, 2, "x"), alice, alice, wire.ErrorForbidden, wire.ErrorForbidden},
		{"USER-NODE-MATCH, other user", home("alice@m"), wire.KindSIPRegistration, registration(1, 2, "x"), bob, bob, wire.ErrorForbidden, wire.ErrorForbidden},
		{"USER-NODE-MATCH, sent by the same user's other node", home("alice@m"), wire.KindSIPRegistration, registration(1, 1, "x"), alice, aliceElsewhere, wire.ErrorForbidden, 0},
		{"NODE-MULTIPLE, i=1", multiple(1), kindMultiple, single(1, "x"), alice, alice, 0, 0},
		{"NODE-MULTIPLE, i=3", multiple(3), kindMultiple, single(1, "x"), alice, alice, 0, 0},
		{"NODE-MULTIPLE, i=4 of 3", multiple(4), kindMultiple, single(1, "x"), alice, alice, wire.ErrorForbidden, wire.ErrorForbidden},
		{"NODE-MULTIPLE, no i", atNode, kindMultiple, single(1, "x"), alice, alice, wire.ErrorForbidden, wire.ErrorForbidden},
		{"value not verified", home("alice@m"), kindSingle, single(1, "x"), Signer{}, alice, wire.ErrorForbidden, wire.ErrorForbidden},
		{"request not verified", home("alice@m"), kindSingle, single(1, "x"), alice, Signer{}, wire.ErrorForbidden, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, ctx := put(tt.res, tt.kind, tt.signer, tt.value)
			ctx.Sender = tt.sender
			if _, err := New(Config{Kinds: kinds}).Store(epoch, req, ctx); code(err) != tt.want {
				t.Errorf("original: %v, want %v", err, tt.want)
			}
			req, ctx = replica(tt.res, tt.kind, 9, tt.signer, tt.value)
			if _, err := New(Config{Kinds: kinds}).Store(epoch, req, ctx); code(err) != tt.asCopy {
				t.Errorf("replica: %v, want %v", err, tt.asCopy)
			}
		})
	}
}

// USER-NODE-MATCH "may be used only with dictionary types" (RFC 6940 §7.3.3).
func TestUserNodeMatchNeedsDictionary(t *testing.T) {
	s := New(Config{Kinds: []ident.Kind{{ID: kindSingle, Model: wire.SingleValue, AccessControl: ident.UserNodeMatch, MaxCount: 1, MaxSize: 10}}})
	if _, err := do(s, epoch, the(put(home("alice@m"), kindSingle, alice, single(1, "x")))); code(err) != wire.ErrorForbidden {
		t.Errorf("%v", err)
	}
}

// call is a StoreReq with what is known of it.
type call struct {
	req *wire.StoreRequest
	ctx StoreContext
}

func the(req *wire.StoreRequest, ctx StoreContext) call { return call{req, ctx} }

func do(s *Store, now time.Time, c call) (wire.StoreAnswer, error) { return s.Store(now, c.req, c.ctx) }

func TestRefused(t *testing.T) {
	res := home("alice@m")
	tests := []struct {
		name   string
		must   string
		change func(*wire.StoreRequest, *StoreContext)
		want   wire.ErrorCode
	}{
		{"unknown Kind", "Implementations MUST reject requests corresponding to unknown Kinds.",
			func(r *wire.StoreRequest, _ *StoreContext) { r.Kinds[0].Kind = 0xF0000099 }, wire.ErrorUnknownKind},
		{"Kind twice", "The same Kind-ID MUST NOT be used twice in a given store request.",
			func(r *wire.StoreRequest, c *StoreContext) {
				r.Kinds = append(r.Kinds, r.Kinds[0])
				c.Values = append(c.Values, c.Values[0])
			}, wire.ErrorInvalidMessage},
		{"not responsible", "The peer MUST check that it is responsible for the resource if the replica number is zero",
			func(_ *wire.StoreRequest, c *StoreContext) { c.Responsible = false }, wire.ErrorNotFound},
		{"implausible sender", "replica StoreReqs MUST come from nodes which are either in the known replica set …",
			func(r *wire.StoreRequest, _ *StoreContext) { r.Replica, r.Kinds[0].Generation = 1, 1 }, wire.ErrorForbidden},
		{"replica with counter 0", "Replica Stores MUST NOT use a generation counter of 0.",
			func(r *wire.StoreRequest, c *StoreContext) { r.Replica, c.Plausible = 2, true }, wire.ErrorInvalidMessage},
		{"identity none", "signed with identity_type set to \"none\" …, the StoreReq MUST be rejected with an Error_forbidden error",
			func(r *wire.StoreRequest, _ *StoreContext) {
				r.Kinds[0].Values[0].Signature.Identity = wire.SignerIdentity{Type: wire.IdentityNone}
			}, wire.ErrorForbidden},
		{"algorithms {0, 0}", "and/or SignatureAndHashAlgorithm values set to {0, 0}",
			func(r *wire.StoreRequest, _ *StoreContext) {
				r.Kinds[0].Values[0].Signature.HashAlg, r.Kinds[0].Values[0].Signature.SigAlg = 0, 0
			}, wire.ErrorForbidden},
		{"too large", "then the peer MUST fail the request and generate an Error_Data_Too_Large error",
			func(r *wire.StoreRequest, _ *StoreContext) { r.Kinds[0].Values[0].Value.Value = make([]byte, 101) }, wire.ErrorDataTooLarge},
		{"removed but not empty", "exists = False, value = {} (0 length)",
			func(r *wire.StoreRequest, _ *StoreContext) { r.Kinds[0].Values[0].Value.Exists = false }, wire.ErrorInvalidMessage},
		{"wrong model", "", func(r *wire.StoreRequest, _ *StoreContext) { r.Kinds[0].Values[0].Value.Model = wire.Array }, wire.ErrorInvalidMessage},
		{"no values", "", func(r *wire.StoreRequest, c *StoreContext) { r.Kinds[0].Values, c.Values[0] = nil, nil }, wire.ErrorInvalidMessage},
		{"no Kinds", "", func(r *wire.StoreRequest, c *StoreContext) { r.Kinds, c.Values = nil, nil }, wire.ErrorInvalidMessage},
		{"Resource-ID of 15 bytes", "", func(r *wire.StoreRequest, _ *StoreContext) { r.Resource = r.Resource[:15] }, wire.ErrorInvalidMessage},
		{"counter from the future", "if the generation counter is nonzero, it equals the current value of the generation counter",
			func(r *wire.StoreRequest, _ *StoreContext) { r.Kinds[0].Generation = 1 }, wire.ErrorGenerationCounterTooLow},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := New(Config{Kinds: kinds})
			req, ctx := put(res, kindSingle, alice, single(1, "x"))
			tt.change(req, &ctx)
			if _, err := s.Store(epoch, req, ctx); code(err) != tt.want {
				t.Errorf("%v, want %v: %s", err, tt.want, tt.must)
			}
			if st := s.Stats(); st.Values != 0 || st.Bytes != 0 || st.Resources != 0 {
				t.Errorf("something is left behind: %+v", st)
			}
		})
	}
}

// The error_info lists all the Kinds that were not known (RFC 6940 §7.4.1.2).
func TestUnknownKindsAreListed(t *testing.T) {
	s := New(Config{Kinds: kinds})
	want := []wire.KindID{0xF0000098, 0xF0000099}
	req, ctx := put(home("alice@m"), kindSingle, alice, single(1, "x"))
	for _, k := range want {
		req.Kinds = append(req.Kinds, wire.StoreKindData{Kind: k, Raw: []byte{}})
		ctx.Values = append(ctx.Values, nil)
	}
	_, storeErr := s.Store(epoch, req, ctx)
	_, _, fetchErr := s.Fetch(epoch, &wire.FetchRequest{Resource: req.Resource, Specifiers: []wire.DataSpecifier{
		{Kind: kindSingle, Model: wire.SingleValue}, {Kind: want[0], Raw: []byte{}}, {Kind: want[1], Raw: []byte{}},
	}})
	for _, err := range []error{storeErr, fetchErr} {
		var e wire.ErrorResponse
		if !errors.As(err, &e) || e.Code != wire.ErrorUnknownKind {
			t.Fatalf("%v", err)
		}
		if got, err := wire.ParseKindList(e.Info); err != nil || !slices.Equal(got, want) {
			t.Errorf("error_info %x: %v, %v", e.Info, got, err)
		}
	}
}

// "Any attempt to store a data value with a storage time before that of a value already stored at
// this location MUST generate an Error_Data_Too_Old error" (§7), and "greater than" (§7.4.1.1).
func TestStorageTime(t *testing.T) {
	s := New(Config{Kinds: kinds})
	res := home("alice@m")
	mustStore(t, s, epoch, the(put(res, kindSingle, alice, single(10, "a"))))
	for at, want := range map[uint64]wire.ErrorCode{9: wire.ErrorDataTooOld, 10: wire.ErrorDataTooOld} {
		if _, err := do(s, epoch, the(put(res, kindSingle, alice, single(at, "b")))); code(err) != want {
			t.Errorf("storage_time %d after 10: %v", at, err)
		}
	}
	mustStore(t, s, epoch, the(put(res, kindSingle, alice, single(11, "c"))))
	if got := texts(fetch(t, s, epoch, res, wire.DataSpecifier{Kind: kindSingle, Model: wire.SingleValue}).Values); !slices.Equal(got, []string{"c"}) {
		t.Errorf("stored: %v", got)
	}
	if st := s.Stats(); st.TooOld != 2 || st.Stores != 2 || st.Values != 1 {
		t.Errorf("%+v", st)
	}
}

// "the peer MUST fail the entire request and respond with an Error_Generation_Counter_Too_Low error.
// The error_info … MUST be a StoreAns response containing the correct generation counter for each
// Kind and the replica list, which will be empty."
func TestGenerations(t *testing.T) {
	s := New(Config{Kinds: kinds})
	res := home("alice@m")
	store := func(at, generation uint64) (wire.StoreAnswer, error) {
		req, ctx := put(res, kindSingle, alice, single(at, "x"))
		req.Kinds[0].Generation = generation
		ctx.Replicas = []wire.NodeID{nodeID(7)}
		return s.Store(epoch, req, ctx)
	}
	ans, err := store(1, 0)
	if err != nil || ans.Kinds[0].Generation != 1 || !slices.Equal(ans.Kinds[0].Replicas, []wire.NodeID{nodeID(7)}) {
		t.Fatalf("%+v, %v", ans, err)
	}
	if ans, err = store(2, 1); err != nil || ans.Kinds[0].Generation != 2 {
		t.Fatalf("%+v, %v", ans, err)
	}
	_, err = store(3, 1)
	var e wire.ErrorResponse
	if !errors.As(err, &e) || e.Code != wire.ErrorGenerationCounterTooLow {
		t.Fatalf("%v", err)
	}
	info, err := wire.ParseStoreAnswer(e.Info, 16)
	if err != nil || len(info.Kinds) != 1 || info.Kinds[0].Generation != 2 || len(info.Kinds[0].Replicas) != 0 {
		t.Errorf("error_info: %+v, %v", info, err)
	}
	// "For replica Stores, the peer MUST set the generation counter to match the generation counter in
	// the message and MUST NOT check the generation counter against the current value."
	mustStore(t, s, epoch, the(replica(res, kindSingle, 9, alice, single(9, "y"))))
	sp := wire.DataSpecifier{Kind: kindSingle, Model: wire.SingleValue}
	if got := fetch(t, s, epoch, res, sp); got.Generation != 7 || len(got.Values) != 1 {
		t.Errorf("%+v", got)
	}
	// "If the generation counter in the request matches the generation counter in the stored data,
	// then no StoredData values are returned."
	sp.Generation = 7
	if got := fetch(t, s, epoch, res, sp); got.Generation != 7 || len(got.Values) != 0 {
		t.Errorf("%+v", got)
	}
}

// "the peer MUST increase the generation counter by at least one … a generation counter of 1 or greater": a member that
// sends a replica with the largest there is must not make the next one 0, which nobody could fetch.
func TestGenerationNeverIsZero(t *testing.T) {
	s := New(Config{Kinds: kinds})
	res := home("alice@m")
	req, ctx := replica(res, kindSingle, 9, alice, single(1, "x"))
	req.Kinds[0].Generation = ^uint64(0)
	mustStore(t, s, epoch, the(req, ctx))
	mustStore(t, s, epoch, the(put(res, kindSingle, alice, single(2, "y"))))
	got := fetch(t, s, epoch, res, wire.DataSpecifier{Kind: kindSingle, Model: wire.SingleValue})
	if got.Generation == 0 || len(got.Values) != 1 || string(got.Values[0].Value.Value) != "y" {
		t.Errorf("%+v", got)
	}
}

// The order of ranges does not depend on the size of an int: kits are 32-bit machines, too.
func TestRangesFarApart(t *testing.T) {
	s := New(Config{Kinds: kinds})
	res := ident.ResourceID(alice.Node.Bytes(), 16)
	mustStore(t, s, epoch, the(put(res, wire.KindCertificateByNode, alice, element(1, 0, "a"))))
	got := fetch(t, s, epoch, res, wire.DataSpecifier{Kind: wire.KindCertificateByNode, Model: wire.Array,
		Ranges: []wire.ArrayRange{{First: 0, Last: 0}, {First: 3 << 30, Last: 3<<30 + 1}}})
	if len(got.Values) != 1 || string(got.Values[0].Value.Value) != "a" {
		t.Errorf("%+v", got)
	}
}

// "These operations MUST be atomic. If any operation fails, the state MUST be rolled back to what
// it was before the request was received."
func TestAtomic(t *testing.T) {
	s := New(Config{Kinds: kinds})
	res := home("alice@m")
	mustStore(t, s, epoch, the(put(res, wire.KindSIPRegistration, alice, registration(5, 1, "old"))))
	before := s.Stats()
	req, ctx := put(res, kindSingle, alice, single(1, "new"))
	req.Kinds = append(req.Kinds, wire.StoreKindData{Kind: wire.KindSIPRegistration, Values: []wire.StoredData{registration(4, 1, "older")}})
	ctx.Values = append(ctx.Values, []Signer{alice})
	if _, err := s.Store(epoch, req, ctx); code(err) != wire.ErrorDataTooOld {
		t.Fatalf("%v", err)
	}
	after := s.Stats()
	after.TooOld = 0
	if before != after {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if got := fetch(t, s, epoch, res, wire.DataSpecifier{Kind: kindSingle, Model: wire.SingleValue}); got.Generation != 0 || got.Values[0].Value.Exists {
		t.Errorf("half a request was stored: %+v", got)
	}
}

// "Storing nodes MUST treat these nonexistent values the same way they treat any other stored value".
func TestTombstones(t *testing.T) {
	s := New(Config{Kinds: kinds})
	res := home("alice@m")
	mustStore(t, s, epoch, the(put(res, wire.KindSIPRegistration, alice, registration(1, 1, "here"))))
	gone := tombstone(registration(2, 1, ""))
	gone.Lifetime = 30
	mustStore(t, s, epoch, the(put(res, wire.KindSIPRegistration, alice, gone)))
	sp := wire.DataSpecifier{Kind: wire.KindSIPRegistration, Model: wire.Dictionary}
	got := fetch(t, s, epoch, res, sp).Values
	if len(got) != 1 || got[0].Value.Exists || !bytes.Equal(got[0].Signature.Value, gone.Signature.Value) {
		t.Fatalf("%+v: want the removal with its own signature", got)
	}
	// The replay of the old value is refused as long as the tombstone lives.
	if _, err := do(s, epoch, the(put(res, wire.KindSIPRegistration, alice, registration(1, 1, "here")))); code(err) != wire.ErrorDataTooOld {
		t.Errorf("%v", err)
	}
	pushes, _ := s.ForReplication(epoch, func(wire.ResourceID) []Target { return []Target{{nodeID(8), 1}} }, 10)
	if len(pushes) != 1 || pushes[0].Request.Kinds[0].Values[0].Value.Exists {
		t.Errorf("a tombstone is not replicated: %+v", pushes)
	}
	if n := s.Expire(epoch.Add(30 * time.Second)); n != 1 || s.Stats().Values != 0 || s.Stats().Bytes != 0 {
		t.Errorf("%d expired, %+v", n, s.Stats())
	}
}

// "A nonexistent value … is represented by a synthetic value with "exists" set to False and has an
// empty signature" (§7.4.2.2); "a Store of "X" at index 2 in an empty array produces an array with
// the values [ NA, NA, "X"]" (§7.2.2).
func TestFetchModels(t *testing.T) {
	s := New(Config{Kinds: kinds})
	res := home("alice@m")
	array := wire.DataSpecifier{Kind: wire.KindCertificateByUser, Model: wire.Array, Ranges: []wire.ArrayRange{{First: 0, Last: wire.LastIndex}}}
	if got := fetch(t, s, epoch, res, array); len(got.Values) != 0 || got.Generation != 0 {
		t.Errorf("of nothing: %+v", got)
	}
	mustStore(t, s, epoch, the(put(res, wire.KindCertificateByUser, alice, element(1, 2, "X"))))
	mustStore(t, s, epoch, the(put(res, wire.KindCertificateByUser, alice, element(2, wire.LastIndex, "Y"))))
	got := fetch(t, s, epoch, res, array).Values
	if !slices.Equal(texts(got), []string{"NA", "NA", "X", "Y"}) || got[3].Value.Index != 3 {
		t.Errorf("%v, last index %d", texts(got), got[3].Value.Index)
	}
	na := got[0].Signature
	if na.Identity.Type != wire.IdentityNone || na.HashAlg != 0 || na.SigAlg != 0 || len(na.Value) != 0 {
		t.Errorf("synthetic signature: %+v", na)
	}
	array.Ranges = []wire.ArrayRange{{First: 3, Last: 1000000}, {First: 0, Last: 0}}
	if got := texts(fetch(t, s, epoch, res, array).Values); !slices.Equal(got, []string{"Y", "NA"}) {
		t.Errorf("%v", got)
	}
	// "While multiple ranges MAY be specified, they MUST NOT overlap."
	array.Ranges = []wire.ArrayRange{{First: 2, Last: 3}, {First: 0, Last: 2}}
	if _, _, err := s.Fetch(epoch, &wire.FetchRequest{Resource: res, Specifiers: []wire.DataSpecifier{array}}); code(err) != wire.ErrorInvalidMessage {
		t.Errorf("%v", err)
	}
	// The array is as long as it may be.
	if _, err := do(s, epoch, the(put(res, wire.KindCertificateByUser, alice, element(3, wire.LastIndex, "Z")))); code(err) != wire.ErrorDataTooLarge {
		t.Errorf("%v", err)
	}
	// An appended value sent again is not appended again.
	other := New(Config{Kinds: kinds})
	mustStore(t, other, epoch, the(put(res, wire.KindCertificateByUser, alice, element(2, wire.LastIndex, "Y"))))
	if _, err := do(other, epoch, the(put(res, wire.KindCertificateByUser, alice, element(2, wire.LastIndex, "Y")))); code(err) != wire.ErrorDataTooOld {
		t.Errorf("%v", err)
	}

	mustStore(t, s, epoch, the(put(res, wire.KindSIPRegistration, alice, registration(1, 1, "kit 1"))))
	mustStore(t, s, epoch, the(put(res, wire.KindSIPRegistration, person(2, "alice@m"), registration(1, 2, "kit 2"))))
	dict := wire.DataSpecifier{Kind: wire.KindSIPRegistration, Model: wire.Dictionary}
	if got := texts(fetch(t, s, epoch, res, dict).Values); !slices.Equal(got, []string{"kit 1", "kit 2"}) {
		t.Errorf("no keys: %v", got)
	}
	dict.Keys = [][]byte{nodeID(9).Bytes(), nodeID(2).Bytes(), nodeID(9).Bytes()}
	if got := texts(fetch(t, s, epoch, res, dict).Values); !slices.Equal(got, []string{"NA", "kit 2"}) {
		t.Errorf("keys: %v", got)
	}
	ans, certs, err := s.Fetch(epoch, &wire.FetchRequest{Resource: res, Specifiers: []wire.DataSpecifier{
		{Kind: wire.KindSIPRegistration, Model: wire.Dictionary}, {Kind: kindSingle, Model: wire.SingleValue},
	}})
	// "There MUST be one FetchKindResponse element for each Kind-ID in the request."
	if err != nil || len(ans.Kinds) != 2 || !slices.Equal(texts(ans.Kinds[1].Values), []string{"NA"}) {
		t.Errorf("%+v, %v", ans, err)
	}
	if len(certs) != 4 {
		t.Errorf("%d certificates, want two chains of two", len(certs))
	}
	if _, _, err := s.Fetch(epoch, &wire.FetchRequest{Resource: res, Specifiers: []wire.DataSpecifier{dict, dict}}); code(err) != wire.ErrorInvalidMessage {
		t.Errorf("Kind twice: %v", err)
	}
}

// "A digest using hash_algorithm on the value field of the DataValue, including its 4 leading length
// bytes" (§7.4.3.2).
func TestStat(t *testing.T) {
	s := New(Config{Kinds: kinds})
	res := home("alice@m")
	mustStore(t, s, epoch, the(put(res, wire.KindSIPRegistration, alice, registration(77, 1, "abc"))))
	ans, err := s.Stat(epoch.Add(time.Second), &wire.StatRequest{Resource: res, Specifiers: []wire.DataSpecifier{
		{Kind: wire.KindSIPRegistration, Model: wire.Dictionary, Keys: [][]byte{nodeID(1).Bytes(), nodeID(2).Bytes()}},
	}})
	if err != nil || len(ans.Kinds) != 1 || len(ans.Kinds[0].Values) != 2 {
		t.Fatalf("%+v, %v", ans, err)
	}
	v := ans.Kinds[0].Values[0]
	want := sha256.Sum256([]byte("\x00\x00\x00\x03abc"))
	if !v.Exists || v.ValueLength != 3 || v.HashAlg != wire.HashSHA256 || !bytes.Equal(v.Hash, want[:]) ||
		v.StorageTime != 77 || v.Lifetime != 59 || !bytes.Equal(v.Key, nodeID(1).Bytes()) {
		t.Errorf("%+v", v)
	}
	if v := ans.Kinds[0].Values[1]; v.Exists || v.ValueLength != 0 {
		t.Errorf("%+v", v)
	}
	if _, err := ans.AppendBinary(nil); err != nil {
		t.Errorf("cannot be sent: %v", err)
	}
}

// The walk of §7.4.4: "R_n+1=nearest(1 + R_n)".
func TestFind(t *testing.T) {
	s := New(Config{Kinds: kinds})
	var want []wire.ResourceID
	for i := range 5 {
		who := person(1, fmt.Sprintf("user%d@m", i))
		mustStore(t, s, epoch, the(put(home(who.User), kindSingle, who, single(1, "x"))))
		want = append(want, home(who.User))
	}
	slices.Sort(want)
	at := wire.ResourceID(make([]byte, 16))
	var got []wire.ResourceID
	for range want {
		ans, err := s.Find(epoch, &wire.FindRequest{Resource: at, Kinds: []wire.KindID{kindSingle, wire.KindSIPRegistration, 0xF0000099}}, true)
		if err != nil || len(ans.Results) != 3 || ans.Results[1].Closest != "" || ans.Results[2].Closest != "" {
			t.Fatalf("%+v, %v", ans, err)
		}
		got = append(got, ans.Results[0].Closest)
		b := []byte(ans.Results[0].Closest)
		b[15]++ // none of these ends in ff
		at = wire.ResourceID(b)
	}
	if !slices.Equal(got, want) {
		t.Errorf("walked %v, want %v", got, want)
	}
	if _, err := s.Find(epoch, &wire.FindRequest{Resource: at, Kinds: []wire.KindID{kindSingle, kindSingle}}, true); code(err) != wire.ErrorInvalidMessage {
		t.Errorf("%v", err)
	}
	if _, err := s.Find(epoch, &wire.FindRequest{Resource: at, Kinds: []wire.KindID{kindSingle}}, false); code(err) != wire.ErrorNotFound {
		t.Errorf("%v", err)
	}
}

func TestMaxCount(t *testing.T) {
	s := New(Config{Kinds: kinds})
	res := home("alice@m")
	for node := byte(1); node <= 4; node++ {
		mustStore(t, s, epoch, the(put(res, wire.KindSIPRegistration, person(node, "alice@m"), registration(1, node, "x"))))
	}
	if _, err := do(s, epoch, the(put(res, wire.KindSIPRegistration, person(5, "alice@m"), registration(1, 5, "x")))); code(err) != wire.ErrorDataTooLarge {
		t.Errorf("fifth of four: %v", err)
	}
	// What is removed makes room, though it is still there as a tombstone.
	mustStore(t, s, epoch, the(put(res, wire.KindSIPRegistration, person(4, "alice@m"), tombstone(registration(2, 4, "")))))
	mustStore(t, s, epoch, the(put(res, wire.KindSIPRegistration, person(5, "alice@m"), registration(1, 5, "x"))))
	// Tombstones are bounded, too.
	refused := false
	for node := byte(6); node < 60 && !refused; node++ {
		_, err := do(s, epoch, the(put(res, wire.KindSIPRegistration, person(node, "alice@m"), tombstone(registration(2, node, "")))))
		refused = code(err) == wire.ErrorDataTooLarge
	}
	if !refused {
		t.Error("tombstones without limit")
	}
}
