package ident

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"fieldkit/overlay/wire"
)

func message() *wire.Message {
	return &wire.Message{
		Header: wire.Header{Overlay: OverlayHash(testOverlay), TransactionID: 0x0102030405060708, ConfigSequence: 1, Version: wire.Version, TTL: 16,
			Fragment: wire.Unfragmented, Dest: []wire.Destination{wire.ToResource("0123456789abcdef")}},
		Code: wire.StoreReq, Body: []byte("body"),
		Extensions: []wire.Extension{{Type: 0x7777, Critical: true, Data: []byte("unknown")}},
	}
}

// RFC 6940 §6.3.4: "overlay || transaction_id || MessageContents || SignerIdentity", spelt out here by hand.
func TestMessageSignatureInput(t *testing.T) {
	w := newWorld(t)
	m, s := message(), w.kit.Signer()
	if err := Sign(m, s); err != nil {
		t.Fatal(err)
	}
	in := binary.BigEndian.AppendUint32(nil, m.Overlay)
	in = append(in, 1, 2, 3, 4, 5, 6, 7, 8)
	in = append(in, 0, 7)                   // message_code
	in = append(in, 0, 0, 0, 4)             // message_body
	in = append(in, "body"...)              //
	in = append(in, 0, 0, 0, 14)            // extensions
	in = append(in, 0x77, 0x77, 1)          // type, critical
	in = append(in, 0, 0, 0, 7)             //
	in = append(in, "unknown"...)           //
	in = append(in, 1, 0, 34, 4, 32)        // cert_hash, length, sha256, 32 bytes
	h := sha256.Sum256(s.Certificates()[0]) //
	digest := sha256.Sum256(append(in, h[:]...))
	if !ecdsa.VerifyASN1(&w.kit.key.PublicKey, digest[:], m.Security.Signature.Value) {
		t.Error("not a signature over the RFC's input")
	}
}

// RFC 6940 §7.1: "resource_id || kind || storage_time || StoredDataValue || SignerIdentity", with the decisions of
// docs/adr/0001: raw Resource-ID, array index 0.
func TestStoredSignatureInput(t *testing.T) {
	w := newWorld(t)
	s := must(w.kit.SignerFor("10001@" + testOverlay))
	res := ResourceID([]byte(s.User()), 16)
	h := sha256.Sum256(s.Certificates()[0])
	value := []byte{1, 0, 0, 0, 5, 'v', 'a', 'l', 'u', 'e'}
	for _, c := range []struct {
		name  string
		value wire.StoredDataValue
		entry []byte
	}{
		{"single value", wire.StoredDataValue{Model: wire.SingleValue}, nil},
		{"array", wire.StoredDataValue{Model: wire.Array, Index: 7}, []byte{0, 0, 0, 0}},
		{"dictionary", wire.StoredDataValue{Model: wire.Dictionary, Key: []byte("key")}, []byte{0, 3, 'k', 'e', 'y'}},
	} {
		v := &wire.StoredData{StorageTime: 0x1122334455667788, Lifetime: 60, Value: c.value}
		v.Value.DataValue = wire.DataValue{Exists: true, Value: []byte("value")}
		if err := SignStored(res, 0x10, v, s); err != nil {
			t.Fatal(err)
		}
		in := append([]byte(res), 0, 0, 0, 0x10, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88)
		in = slices.Concat(in, c.entry, value, []byte{1, 0, 34, 4, 32}, h[:])
		digest := sha256.Sum256(in)
		if !ecdsa.VerifyASN1(&w.kit.key.PublicKey, digest[:], v.Signature.Value) {
			t.Errorf("%s: not a signature over the RFC's input", c.name)
		}
		if v.Value.Index != c.value.Index {
			t.Errorf("%s: index changed to %d", c.name, v.Value.Index)
		}
		v.Lifetime = 1 // "lifetime is decremented by residence time": it is not signed
		if p, err := w.trust.VerifyStored(res, 0x10, v, s.Bucket(), now); err != nil || p.User != s.User() {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := SignStored(res, 0x10, &wire.StoredData{}, s); err == nil {
		t.Error("a value without data model was signed")
	}
}

func TestMessageRoundTrip(t *testing.T) {
	w := newWorld(t)
	for _, s := range []*Signer{w.kit.Signer(), must(w.kit.SignerFor("10001@" + testOverlay))} {
		m := message()
		if err := Sign(m, s); err != nil {
			t.Fatal(err)
		}
		b := must(m.AppendBinary(nil))
		t.Logf("%s: %d bytes, %d of them certificates", s.User(), len(b), len(bytes.Join(s.Certificates(), nil)))
		got := must(wire.Parse(b))
		// What a hop may change is not signed.
		got.TTL, got.Via, got.Dest = 3, []wire.Destination{wire.ToNode(s.NodeID())}, nil
		slices.Reverse(got.Security.Certificates) // a bucket has no order
		p, err := w.trust.VerifyMessage(got, now)
		if err != nil || p.NodeID != s.NodeID() || p.User != s.User() {
			t.Errorf("%s: %v", s.User(), err)
		}
	}
}

// RFC 6940 §6.3.4: "If the signature fails, the implementation SHOULD simply drop the message and MUST NOT
// process it."
func TestMessagesThatAreRefused(t *testing.T) {
	w, stranger := newWorld(t), newWorld(t)
	phone := must(w.kit.SignerFor("10001@" + testOverlay))
	otherKit := must(w.root.NewIdentity())
	for name, c := range map[string]struct {
		signer *Signer
		change func(m *wire.Message)
		want   error
	}{
		"overlay changed":           {phone, func(m *wire.Message) { m.Overlay++ }, ErrSignature},
		"transaction changed":       {phone, func(m *wire.Message) { m.TransactionID++ }, ErrSignature},
		"code changed":              {phone, func(m *wire.Message) { m.Code = wire.FetchReq }, ErrSignature},
		"body changed":              {phone, func(m *wire.Message) { m.Body = []byte("Body") }, ErrSignature},
		"body and extension re-cut": {phone, func(m *wire.Message) { m.Body, m.Extensions = append(m.Body, 0), nil }, ErrSignature},
		"extension changed":         {phone, func(m *wire.Message) { m.Extensions[0].Critical = false }, ErrSignature},
		"extension removed":         {phone, func(m *wire.Message) { m.Extensions = nil }, ErrSignature},
		"unsigned":                  {phone, func(m *wire.Message) { m.Security = wire.SecurityBlock{} }, ErrSignature},
		"identity none":             {phone, func(m *wire.Message) { m.Security.Signature = wire.NoSignature() }, ErrSignature},
		"no signature value":        {phone, func(m *wire.Message) { m.Security.Signature.Value = nil }, ErrSignature},
		"signature cut":             {phone, func(m *wire.Message) { m.Security.Signature.Value = m.Security.Signature.Value[:60] }, ErrSignature},
		"another hash algorithm":    {phone, func(m *wire.Message) { m.Security.Signature.HashAlg = wire.HashSHA1 }, ErrSignature},
		"another key algorithm":     {phone, func(m *wire.Message) { m.Security.Signature.SigAlg = wire.SigRSA }, ErrSignature},
		"anonymous":                 {phone, func(m *wire.Message) { m.Security.Signature.SigAlg = wire.SigAnon }, ErrSignature},
		"SHA-1 certificate hash":    {phone, func(m *wire.Message) { m.Security.Signature.Identity.HashAlg = wire.HashSHA1 }, ErrSignature},
		"node identity":             {phone, func(m *wire.Message) { m.Security.Signature.Identity.Type = wire.IdentityCertHashNodeID }, ErrSignature},
		"signer not in bucket":      {phone, func(m *wire.Message) { m.Security.Certificates = m.Security.Certificates[1:] }, ErrSignature},
		"kit not in bucket":         {phone, func(m *wire.Message) { m.Security.Certificates = m.Security.Certificates[:1] }, ErrUntrusted},
		"not X.509":                 {phone, func(m *wire.Message) { m.Security.Certificates[0].Type = 1 }, ErrSignature},
		"another signer named": {phone, func(m *wire.Message) {
			m.Security.Certificates = append(m.Security.Certificates, otherKit.Signer().Bucket()...)
			m.Security.Signature.Identity = otherKit.Signer().identity
		}, ErrSignature},
		"bucket too large": {phone, func(m *wire.Message) {
			m.Security.Certificates = slices.Repeat(m.Security.Certificates, MaxBucket)
		}, ErrUntrusted},
		"stranger":         {stranger.kit.Signer(), func(*wire.Message) {}, ErrUntrusted},
		"stranger's phone": {must(stranger.kit.SignerFor("10001@" + testOverlay)), func(m *wire.Message) {}, ErrUntrusted},
	} {
		t.Run(name, func(t *testing.T) {
			m := message()
			if err := Sign(m, c.signer); err != nil {
				t.Fatal(err)
			}
			m.Security.Certificates = slices.Clone(m.Security.Certificates)
			c.change(m)
			if p, err := w.trust.VerifyMessage(m, now); !errors.Is(err, c.want) {
				t.Errorf("got %v, %v", p, err)
			}
		})
	}
}

func TestStoredValuesThatAreRefused(t *testing.T) {
	w := newWorld(t)
	s := must(w.kit.SignerFor("10001@" + testOverlay))
	res := ResourceID([]byte(s.User()), 16)
	sign := func() *wire.StoredData {
		v := &wire.StoredData{StorageTime: 1, Value: wire.StoredDataValue{Model: wire.Dictionary, Key: []byte("k"), DataValue: wire.DataValue{Exists: true, Value: []byte("v")}}}
		if err := SignStored(res, 1, v, s); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for name, change := range map[string]func(v *wire.StoredData, res *wire.ResourceID, kind *wire.KindID){
		"elsewhere":    func(_ *wire.StoredData, res *wire.ResourceID, _ *wire.KindID) { *res = ResourceID([]byte("x"), 16) },
		"another Kind": func(_ *wire.StoredData, _ *wire.ResourceID, kind *wire.KindID) { *kind = 3 },
		"later":        func(v *wire.StoredData, _ *wire.ResourceID, _ *wire.KindID) { v.StorageTime++ },
		"another key":  func(v *wire.StoredData, _ *wire.ResourceID, _ *wire.KindID) { v.Value.Key = []byte("K") },
		"removed":      func(v *wire.StoredData, _ *wire.ResourceID, _ *wire.KindID) { v.Value.Exists = false },
		"other value":  func(v *wire.StoredData, _ *wire.ResourceID, _ *wire.KindID) { v.Value.Value = []byte("w") },
		"unsigned":     func(v *wire.StoredData, _ *wire.ResourceID, _ *wire.KindID) { v.Signature = wire.NoSignature() },
	} {
		v, at, kind := sign(), res, wire.KindID(1)
		change(v, &at, &kind)
		if _, err := w.trust.VerifyStored(at, kind, v, s.Bucket(), now); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	other := must(w.root.NewIdentity())
	bucket := MergeBucket(slices.Clone(other.Signer().Bucket()), s.Bucket())
	chain := Chain(&sign().Signature, bucket)
	if len(chain) != 2 || !bytes.Equal(chain[0].Data, s.Certificates()[0]) || !bytes.Equal(chain[1].Data, s.Certificates()[1]) {
		t.Errorf("Chain picked %d certificates", len(chain))
	}
	if _, err := w.trust.VerifyStored(res, 1, sign(), chain, now); err != nil {
		t.Errorf("with what Chain picked: %v", err)
	}
	if got := Chain(&sign().Signature, other.Signer().Bucket()); got != nil {
		t.Errorf("Chain found %d certificates of somebody else", len(got))
	}
}

// RFC 6940 §6.3.4: "All implementations MUST support RSASSA-PKCS1-v1_5 signatures with SHA-256 hashes".
func TestRSAMessage(t *testing.T) {
	w := newWorld(t)
	x, key := w.rsaKit(t)
	h := sha256.Sum256(x.Raw)
	m := message()
	sig := &m.Security.Signature
	sig.HashAlg, sig.SigAlg = wire.HashSHA256, wire.SigRSA
	sig.Identity = wire.SignerIdentity{Type: wire.IdentityCertHash, HashAlg: wire.HashSHA256, Hash: h[:]}
	m.Security.Certificates = []wire.Certificate{{Data: x.Raw}}
	d := must(messageDigest(m, &sig.Identity))
	sig.Value = must(rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, d[:]))
	if p, err := w.trust.VerifyMessage(m, now); err != nil || p.User != "rsa@"+testOverlay {
		t.Errorf("%v", err)
	}
	m.TransactionID++
	if _, err := w.trust.VerifyMessage(m, now); !errors.Is(err, ErrSignature) {
		t.Errorf("changed: %v", err)
	}
}

// "The certificates bucket SHOULD contain all the certificates necessary to verify every signature in both the
// message and the internal message objects."
func TestSignKeepsForeignCertificates(t *testing.T) {
	w := newWorld(t)
	other := must(must(w.root.NewIdentity()).SignerFor("10002@" + testOverlay))
	m := message()
	m.Security.Certificates = MergeBucket(nil, other.Bucket())
	for range 2 { // signing again adds nothing
		if err := Sign(m, w.kit.Signer()); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.Security.Certificates) != 3 || len(w.kit.Signer().Bucket()) != 1 {
		t.Errorf("%d certificates in the bucket, %d of the kit", len(m.Security.Certificates), len(w.kit.Signer().Bucket()))
	}
	if p, err := w.trust.VerifyMessage(m, now); err != nil || p.NodeID != w.kit.NodeID() {
		t.Error(err)
	}
}

func BenchmarkSign(b *testing.B) {
	w := newWorld(b)
	s := must(w.kit.SignerFor("10001@" + testOverlay))
	m := message()
	b.ReportAllocs()
	for b.Loop() {
		m.Security = wire.SecurityBlock{}
		if err := Sign(m, s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyMessage(b *testing.B) {
	w := newWorld(b)
	m := message()
	if err := Sign(m, must(w.kit.SignerFor("10001@"+testOverlay))); err != nil {
		b.Fatal(err)
	}
	run := func(b *testing.B, forget bool) {
		b.ReportAllocs()
		for b.Loop() {
			if forget {
				w.trust = must(TrustFor(w.doc))
			}
			if _, err := w.trust.VerifyMessage(m, now); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("known", func(b *testing.B) { run(b, false) })
	b.Run("first", func(b *testing.B) { run(b, true) })
}

func BenchmarkSignerFor(b *testing.B) {
	w := newWorld(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := w.kit.SignerFor(string(binary.AppendUvarint([]byte("x"), uint64(i%10)+97)) + "@" + testOverlay); err != nil {
			b.Fatal(err)
		}
	}
}
