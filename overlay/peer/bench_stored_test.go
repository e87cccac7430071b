package peer

import (
	"fmt"
	"testing"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/storage"
	"fieldkit/overlay/wire"
)

// prefill stores n registrations of other kits' handsets.
func (r *rig) prefill(t testing.TB, n int) {
	t.Helper()
	for i := range n {
		kit, err := wire.NodeIDFrom(fmt.Appendf(nil, "kit number %05d", i%40))
		if err != nil {
			t.Fatal(err)
		}
		user := fmt.Sprintf("user%d@bench.mission.home.arpa", i)
		who := storage.Signer{Node: kit, User: user, Certificates: []wire.Certificate{{Data: fmt.Appendf(nil, "certificate %d", i)}}}
		_, err = r.store.Store(t0, &wire.StoreRequest{Resource: wire.ResourceIDFor([]byte(user), 16), Kinds: []wire.StoreKindData{{
			Kind: wire.KindSIPRegistration, Values: []wire.StoredData{{StorageTime: 1, Lifetime: 3600,
				Value:     wire.StoredDataValue{Model: wire.Dictionary, Key: kit.Bytes(), DataValue: wire.DataValue{Exists: true, Value: make([]byte, 30)}},
				Signature: wire.Signature{HashAlg: wire.HashSHA256, SigAlg: wire.SigECDSA, Value: make([]byte, 71), Identity: wire.SignerIdentity{Type: wire.IdentityCertHash, Hash: make([]byte, 32)}},
			}},
		}}}, storage.StoreContext{Sender: who, Values: [][]storage.Signer{{who}}, Responsible: true})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// registering is a StoreReq for a handset of kit, encoded.
func (r *rig) registering(t testing.TB, kit *ident.Identity, aor string, at uint64) []byte {
	t.Helper()
	s, err := kit.SignerFor(aor)
	if err != nil {
		t.Fatal(err)
	}
	reg, err := wire.SIPRegistration{Type: wire.SIPRegistrationRoute, Destinations: []wire.Destination{wire.ToNode(kit.NodeID())}}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	res := wire.ResourceIDFor([]byte(aor), 16)
	d := wire.StoredData{StorageTime: at, Lifetime: 3600, Value: wire.StoredDataValue{
		Model: wire.Dictionary, Key: kit.NodeID().Bytes(), DataValue: wire.DataValue{Exists: true, Value: reg},
	}}
	if err := ident.SignStored(res, wire.KindSIPRegistration, &d, s); err != nil {
		t.Fatal(err)
	}
	body, err := wire.StoreRequest{Resource: res, Kinds: []wire.StoreKindData{{Kind: wire.KindSIPRegistration, Values: []wire.StoredData{d}}}}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return r.request(t, s, res, wire.StoreReq, body)
}

func (r *rig) request(t testing.TB, s *ident.Signer, res wire.ResourceID, code wire.MessageCode, body []byte) []byte {
	t.Helper()
	m := r.newMessage(&Outgoing{Dest: []wire.Destination{wire.ToResource(res)}, Code: code, Body: body})
	if err := ident.Sign(m, s); err != nil {
		t.Fatal(err)
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// BenchmarkRequests is what one core does in a second as the responsible peer, without links: a Store (two signatures verified,
// one made) and a Fetch (one verified, one made), with so many other values stored.
func BenchmarkRequests(b *testing.B) {
	for _, n := range []int{0, 100, 5000} {
		r := newRig(b)
		kit, in := r.neighbour(b, nil)
		r.env.settle()
		r.prefill(b, n)
		receive := func(b *testing.B, packet []byte) {
			r.Receive(t0, in, packet)
			r.env.settle()
			if in.n == 0 {
				b.Fatalf("no answer; %+v", r.count)
			}
			in.n = 0
		}
		aor := "10123@bench.mission.home.arpa"
		b.Run(fmt.Sprintf("values=%d/store", n), func(b *testing.B) {
			b.ReportAllocs()
			var batch [][]byte
			at := uint64(0)
			for i := range b.N {
				if i%200 == 0 {
					b.StopTimer()
					batch = batch[:0]
					for range 200 {
						at++
						batch = append(batch, r.registering(b, kit, aor, at))
					}
					b.StartTimer()
				}
				receive(b, batch[i%200])
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
		b.Run(fmt.Sprintf("values=%d/fetch", n), func(b *testing.B) {
			res := wire.ResourceIDFor([]byte(aor), 16)
			body, err := wire.FetchRequest{Resource: res, Specifiers: []wire.DataSpecifier{{Kind: wire.KindSIPRegistration, Model: wire.Dictionary}}}.AppendBinary(nil)
			if err != nil {
				b.Fatal(err)
			}
			packet := r.request(b, kit.Signer(), res, wire.FetchReq, body)
			b.ReportAllocs()
			for b.Loop() {
				receive(b, packet)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
		if st := r.store.Stats(); st.Values != n+1 {
			b.Fatalf("%d values stored, want %d; %+v", st.Values, n+1, r.count)
		}
	}
}

// BenchmarkForwarding is what a peer forwards in a second on one core, by the number of its links.
func BenchmarkForwarding(b *testing.B) {
	for _, links := range []int{2, 8, 30} {
		b.Run(fmt.Sprintf("links=%d", links), func(b *testing.B) {
			r := newRig(b)
			from, in := r.neighbour(b, nil)
			var to *ident.Identity
			var out *fakeLink
			for range links - 1 {
				to, out = r.neighbour(b, nil)
			}
			r.env.settle()
			packet := r.packet(b, from, to.NodeID())
			b.ReportAllocs()
			before := out.n
			for b.Loop() {
				r.Receive(t0, in, packet)
			}
			if out.n-before != b.N {
				b.Fatalf("%d forwarded of %d; %+v", out.n-before, b.N, r.count)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
