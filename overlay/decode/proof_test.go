package decode

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path"
	"slices"
	"strings"
	"testing"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// TestSecondVerifierSharesNothing: a proof by the same code would be none.
func TestSecondVerifierSharesNothing(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "secondverifier_test.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range f.Imports {
		if name := strings.Trim(i.Path.Value, `"`); strings.Contains(name, ".") || strings.HasPrefix(name, "fieldkit") {
			t.Errorf("imports %s", name)
		}
	}
	for _, u := range f.Unresolved { // what this file does not declare: imports and what Go itself has, or something of ours
		imported := slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool {
			return path.Base(strings.Trim(i.Path.Value, `"`)) == u.Name
		})
		if types.Universe.Lookup(u.Name) == nil && !imported {
			t.Errorf("uses %s", u.Name)
		}
	}
}

// TestSecondVerifierMessages: "overlay || transaction_id || MessageContents || SignerIdentity" (RFC 6940 §6.3.4). What ident
// signed is verified by code that was written from the text; each byte of the message is changed, and the signature breaks
// exactly where the text says that it covers it.
func TestSecondVerifierMessages(t *testing.T) {
	m := newMission(t)
	for _, s := range m.samples(t) {
		if s.name == "message" { // its signature is made up
			if err := secondVerifyMessage(s.data); !errors.Is(err, errSecondBad) {
				t.Errorf("made up: %v", err)
			}
			continue
		}
		if err := secondVerifyMessage(s.data); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
	message := m.message(t, wire.PingReq, golden(t, "ping_req"), func(x *wire.Message) {
		x.Extensions = []wire.Extension{{Type: 1, Data: []byte("more")}}
	})
	h, rest, err := wire.ParseHeader(message)
	if err != nil {
		t.Fatal(err)
	}
	contents := len(message) - len(rest)
	security := contents + 2 + 4 + len(golden(t, "ping_req")) + 4 + 11
	covered := func(i int) bool { return i >= 4 && i < 8 || i >= 20 && i < 28 || i >= contents && i < security }
	for i := range message {
		mutant := bytes.Clone(message)
		mutant[i] ^= 1
		err := secondVerifyMessage(mutant)
		switch {
		case covered(i) && err == nil:
			t.Errorf("byte %d changed, which is covered: verified", i)
		case i < contents && !covered(i) && errors.Is(err, errSecondBad):
			t.Errorf("byte %d of the header changed, which is not covered: %v", i, err)
		case i >= security && err == nil:
			t.Errorf("byte %d of the security block changed: verified", i)
		}
	}
	// "Intermediate nodes do not verify signatures", and what they change is not covered.
	h.TTL, h.ConfigSequence = 1, 2
	h.Via = append(h.Via, wire.ToOpaque(7))
	forwarded, err := h.AppendForward(nil, rest)
	if err != nil {
		t.Fatal(err)
	}
	if err := secondVerifyMessage(forwarded); err != nil {
		t.Errorf("forwarded: %v", err)
	}
}

// TestSecondVerifierManyNodeIDs: "In the second case, the cert_hash_node_id type MUST be used [...] H(NodeId || certificate)".
func TestSecondVerifierManyNodeIDs(t *testing.T) {
	root, err := ident.NewAuthority(overlayName, 16)
	if err != nil {
		t.Fatal(err)
	}
	d := ident.NewDocument(root)
	d.SelfSigned, d.RootCerts = true, nil
	key, err := ident.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := ident.SelfSigned(d, key, "", 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range id.NodeIDs() {
		signer, err := id.Signer().As(node)
		if err != nil {
			t.Fatal(err)
		}
		x := &wire.Message{Header: wire.Header{TransactionID: 1}, Code: wire.PingReq, Body: []byte{0, 0}}
		if err := ident.Sign(x, signer); err != nil {
			t.Fatal(err)
		}
		if x.Security.Signature.Identity.Type != wire.IdentityCertHashNodeID {
			t.Errorf("identity %+v", x.Security.Signature.Identity)
		}
		message := appended(t, x)
		if err := secondVerifyMessage(message); err != nil {
			t.Errorf("%v: %v", node, err)
		}
		if o, _ := object(t, New(Config{}), message); at(t, o, messageResult...) != "valid" {
			t.Errorf("%v: this decoder says %v", node, at(t, o, messageResult...))
		}
		x.TransactionID++
		if err := secondVerifyMessage(appended(t, x)); !errors.Is(err, errSecondBad) {
			t.Errorf("%v, changed: %v", node, err)
		}
	}
}

// TestSecondVerifierRSA: "All implementations MUST support RSASSA-PKCS1-v1_5 [RFC3447] signatures with SHA-256 hashes". Here
// nothing of ours signs: the input is the second verifier's, and ident believes the signature.
func TestSecondVerifierRSA(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	root, err := ident.NewAuthority(overlayName, 16)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(spki)
	node, err := wire.NodeIDFrom(sum[:16])
	if err != nil {
		t.Fatal(err)
	}
	der, err := root.Certify(&key.PublicKey, []wire.NodeID{node}, "rsa@"+overlayName, false)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := ident.TrustFor(ident.NewDocument(root))
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(der)
	x := &wire.Message{
		Header: wire.Header{Overlay: wire.OverlayHash(overlayName), TransactionID: 1}, Code: wire.PingReq, Body: []byte{0, 0},
		Security: wire.SecurityBlock{
			Certificates: []wire.Certificate{{Type: wire.CertificateX509, Data: der}},
			Signature: wire.Signature{
				HashAlg: wire.HashSHA256, SigAlg: wire.SigRSA,
				Identity: wire.SignerIdentity{Type: wire.IdentityCertHash, HashAlg: wire.HashSHA256, Hash: hash[:]},
			},
		},
	}
	read, err := secondParse(appended(t, x))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(append(secondMessageInput(read), read.signature.identity...))
	if x.Security.Signature.Value, err = rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:]); err != nil {
		t.Fatal(err)
	}
	if err := secondVerifyMessage(appended(t, x)); err != nil {
		t.Error(err)
	}
	if p, err := trust.VerifyMessage(x, now); err != nil || p.NodeID != node {
		t.Errorf("ident: %v", err)
	}
	o, _ := object(t, New(Config{Trust: trust}), appended(t, x))
	if at(t, o, messageResult...) != "valid" || at(t, o, "security_block", "signature", "verification", "chain") != "trusted" {
		t.Errorf("%v", at(t, o, "security_block", "signature", "verification"))
	}
	x.Security.Signature.Value[0] ^= 1
	if err := secondVerifyMessage(appended(t, x)); !errors.Is(err, errSecondBad) {
		t.Errorf("changed: %v", err)
	}
}

// TestSecondVerifierStoredData: "resource_id || kind || storage_time || StoredDataValue || SignerIdentity" (RFC 6940 §7.1),
// for every data model, in Stores and in the answers to Fetches, present and removed.
func TestSecondVerifierStoredData(t *testing.T) {
	m := newMission(t)
	want := map[string]int{"sip store": 1, "sip fetch answer": 2, "certificate store": 1, "turn store": 1}
	for _, s := range m.samples(t) {
		count, ok := want[s.name]
		if !ok {
			continue
		}
		delete(want, s.name)
		data := s.data
		if s.name == "certificate store" { // with a private Kind, of which only its document tells the model
			x, err := wire.Parse(data)
			if err != nil {
				t.Fatal(err)
			}
			r, err := wire.ParseStoreRequest(x.Body, New(Config{}).models)
			if err != nil {
				t.Fatal(err)
			}
			r.Kinds = r.Kinds[:1]
			x.Body = appended(t, r)
			data = appended(t, x)
		}
		n, err := secondVerifyValues(data, []byte(m.resource()))
		if err != nil || n != count {
			t.Errorf("%s: %d values, %v", s.name, n, err)
		}
	}
	if len(want) != 0 {
		t.Errorf("no samples %v", want)
	}
	if _, err := secondVerifyValues(m.fetchAnswer(t, 1, m.registration(t)), []byte("elsewhere")); !errors.Is(err, errSecondBad) {
		t.Errorf("for another resource: %v", err)
	}

	node := wire.ResourceIDFor(m.kit.NodeID().Bytes(), 16)
	array := m.value(t, node, wire.KindCertificateByNode, wire.StoredDataValue{
		Model: wire.Array, Index: wire.LastIndex, DataValue: wire.DataValue{Exists: true, Value: []byte("c")},
	})
	dictionary := m.registration(t)
	single := m.value(t, node, wire.KindTurnService, wire.StoredDataValue{
		Model: wire.SingleValue, DataValue: wire.DataValue{Exists: true, Value: []byte("t")},
	})
	for _, c := range []struct {
		name     string
		resource wire.ResourceID
		kind     wire.KindID
		data     wire.StoredData
		change   func(*wire.ResourceID, *wire.KindID, *wire.StoredData)
		covered  bool
	}{
		{"resource", m.resource(), wire.KindSIPRegistration, dictionary, func(r *wire.ResourceID, _ *wire.KindID, _ *wire.StoredData) { *r = node }, true},
		{"resource with its length octet", m.resource(), wire.KindSIPRegistration, dictionary, func(r *wire.ResourceID, _ *wire.KindID, _ *wire.StoredData) { *r = "\x10" + *r }, true},
		{"kind", node, wire.KindCertificateByNode, array, func(_ *wire.ResourceID, k *wire.KindID, _ *wire.StoredData) { *k = wire.KindCertificateByUser }, true},
		{"storage_time", m.resource(), wire.KindSIPRegistration, dictionary, func(_ *wire.ResourceID, _ *wire.KindID, d *wire.StoredData) { d.StorageTime++ }, true},
		{"lifetime", m.resource(), wire.KindSIPRegistration, dictionary, func(_ *wire.ResourceID, _ *wire.KindID, d *wire.StoredData) { d.Lifetime-- }, false},
		{"key", m.resource(), wire.KindSIPRegistration, dictionary, func(_ *wire.ResourceID, _ *wire.KindID, d *wire.StoredData) { d.Value.Key = m.far.NodeID().Bytes() }, true},
		{"exists", m.resource(), wire.KindSIPRegistration, dictionary, func(_ *wire.ResourceID, _ *wire.KindID, d *wire.StoredData) { d.Value.Exists = false }, true},
		{"value of a dictionary", m.resource(), wire.KindSIPRegistration, dictionary, func(_ *wire.ResourceID, _ *wire.KindID, d *wire.StoredData) { d.Value.Value = []byte("x") }, true},
		{"value of an array", node, wire.KindCertificateByNode, array, func(_ *wire.ResourceID, _ *wire.KindID, d *wire.StoredData) { d.Value.Value = []byte("x") }, true},
		{"index", node, wire.KindCertificateByNode, array, func(_ *wire.ResourceID, _ *wire.KindID, d *wire.StoredData) { d.Value.Index = 3 }, false},
		{"single value", node, wire.KindTurnService, single, func(_ *wire.ResourceID, _ *wire.KindID, d *wire.StoredData) { d.Value.Value = []byte("x") }, true},
		{"signature", node, wire.KindTurnService, single, func(_ *wire.ResourceID, _ *wire.KindID, d *wire.StoredData) {
			d.Signature.Value = bytes.Clone(d.Signature.Value)
			d.Signature.Value[len(d.Signature.Value)-1] ^= 1
		}, true},
		{"hash algorithm", node, wire.KindTurnService, single, func(_ *wire.ResourceID, _ *wire.KindID, d *wire.StoredData) { d.Signature.HashAlg = wire.HashSHA1 }, true},
	} {
		for _, changed := range []bool{false, true} {
			resource, kind, data := c.resource, c.kind, c.data
			if changed {
				c.change(&resource, &kind, &data)
			}
			message := m.message(t, wire.StoreReq, appended(t, wire.StoreRequest{
				Resource: resource, Kinds: []wire.StoreKindData{{Kind: kind, Values: []wire.StoredData{data}}},
			}), m.withUser)
			n, err := secondVerifyValues(message, nil)
			if breaks := changed && c.covered; n != 1 || errors.Is(err, errSecondBad) != breaks || (err != nil) != breaks {
				t.Errorf("%s changed %v: %d, %v", c.name, changed, n, err)
			}
			if _, err := m.trust.VerifyStored(resource, kind, &data, append(m.user.Bucket(), m.kit.Signer().Bucket()...), now); (err != nil) != (changed && c.covered) {
				t.Errorf("%s changed %v: ident %v", c.name, changed, err)
			}
		}
	}
}

// TestSecondVerifierIsTotal: it says that bytes are missing rather than anything else.
func TestSecondVerifierIsTotal(t *testing.T) {
	m := newMission(t)
	message := m.store(t, m.registration(t))
	for n := range message {
		if err := secondVerifyMessage(message[:n]); !errors.Is(err, errSecondShort) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	long := bytes.Clone(message)
	binary.BigEndian.PutUint32(long[38+18+18+2:], 0xffffffff)
	if err := secondVerifyMessage(long); !errors.Is(err, errSecondShort) {
		t.Errorf("body longer than the message: %v", err)
	}
}
