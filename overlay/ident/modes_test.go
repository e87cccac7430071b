package ident

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fieldkit/overlay/config"
	"fieldkit/overlay/wire"
)

// selfWorld is an overlay of self-signed certificates.
func selfWorld(t testing.TB, digest string, length int) (*Document, *Trust, *Authority) {
	t.Helper()
	a := must(NewAuthority(testOverlay, length))
	d := NewDocument(a)
	d.SelfSigned, d.Rest.Digest, d.RootCerts = true, digest, nil
	d = must(d.Sign(must(a.SelfSigner())))
	return d, must(TrustFor(d)), a
}

// RFC 6940 §11.3.1: "the Node-ID MUST be computed by applying the digest specified in the self-signed-permitted element
// to the DER representation of the user's public key (more specifically, the subjectPublicKeyInfo) and taking the
// high-order bits. For self-signed certificates containing multiple Node-IDs, the index of the Node-ID (from 1 to the
// number of Node-IDs needed) must be prepended as a 4-byte big-endian integer". Computed here by hand.
func TestSelfSignedNodeIDs(t *testing.T) {
	for _, digest := range []string{config.SHA1, config.SHA256} { // "Implementations MUST support both of these algorithms."
		for _, length := range []int{16, 20} {
			for _, count := range []int{1, 3} {
				d, trust, _ := selfWorld(t, digest, length)
				key := must(NewKey())
				id := must(SelfSigned(d, key, "ann@"+testOverlay, count))
				spki := must(x509.MarshalPKIXPublicKey(key.Public()))
				var want []wire.NodeID
				for i := range count {
					in := spki
					if count > 1 {
						in = append(binary.BigEndian.AppendUint32(nil, uint32(i+1)), spki...)
					}
					h1, h256 := sha1.Sum(in), sha256.Sum256(in)
					h := h256[:]
					if digest == config.SHA1 {
						h = h1[:]
					}
					want = append(want, must(wire.NodeIDFrom(h[:length])))
				}
				if !slices.Equal(id.NodeIDs(), want) || id.NodeID() != want[0] {
					t.Errorf("%s, %d bytes: %v, want %v", digest, length, id.NodeIDs(), want)
				}
				p, err := trust.VerifyChain(id.TLSCertificate().Certificate, now)
				if err != nil || !slices.Equal(p.NodeIDs, want) || p.User != "ann@"+testOverlay {
					t.Errorf("%s, %d bytes, %d Node-IDs: %v, %+v", digest, length, count, err, p)
				}
				again := must(trust.LoadIdentity(must(id.KeyPEM()), id.CertificatePEM()))
				if !slices.Equal(again.NodeIDs(), want) {
					t.Error("loaded as another")
				}
				// A second name with the same key is a second certificate: "MAY contain any user name of the user's choice".
				bob := must(id.SignerFor("bob@" + testOverlay))
				if p, err := trust.VerifyChain(bob.Certificates(), now); err != nil || p.User != "bob@"+testOverlay || len(bob.Certificates()) != 1 {
					t.Errorf("another name: %v", err)
				}
			}
		}
	}
}

// "When accepting a self-signed certificate, nodes MUST check that the Node-ID and public keys match."
func TestSelfSignedTheftIsRefused(t *testing.T) {
	d, trust, a := selfWorld(t, config.SHA256, 16)
	victim := must(SelfSigned(d, must(NewKey()), "", 1))
	thief := must(NewKey())
	own, _, err := nodeIDOfKey(thief, 16)
	if err != nil {
		t.Fatal(err)
	}
	self := func(change func(*grant)) []byte {
		g := grant{ids: []wire.NodeID{own}, user: "m@" + testOverlay, overlay: testOverlay, pub: thief.Public(), key: thief}
		change(&g)
		c, err := issue(g)
		if err != nil {
			t.Fatal(err)
		}
		return c.leaf().Raw
	}
	if _, err := trust.VerifyChain([][]byte{self(func(*grant) {})}, now); err != nil {
		t.Fatalf("unchanged: %v", err)
	}
	sha1IDs := must(keyNodeIDs(must(x509.MarshalPKIXPublicKey(thief.Public())), config.SHA1, 1, 16))
	two := must(keyNodeIDs(must(x509.MarshalPKIXPublicKey(thief.Public())), config.SHA256, 2, 16))
	for name, der := range map[string][]byte{
		"the Node-ID of another":                 self(func(g *grant) { g.ids = victim.NodeIDs() }),
		"one's own and another's":                self(func(g *grant) { g.ids = append(g.ids, victim.NodeID()) }),
		"a random Node-ID":                       self(func(g *grant) { g.ids = []wire.NodeID{must(RandomNodeID(16))} }),
		"by the digest that the overlay has not": self(func(g *grant) { g.ids = sha1IDs }),
		"the second of two alone":                self(func(g *grant) { g.ids = two[1:] }),
		"signed by another key":                  self(func(g *grant) { g.pub = must(NewKey()).Public() }),
		"another overlay":                        self(func(g *grant) { g.overlay = "beta.mission.home.arpa" }),
	} {
		if _, err := trust.VerifyChain([][]byte{der}, now); !errors.Is(err, ErrUntrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Where they are not permitted, they are nobody's.
	w := newWorld(t)
	if _, err := w.trust.VerifyChain(victim.TLSCertificate().Certificate, now); !errors.Is(err, ErrUntrusted) {
		t.Errorf("self-signed where not permitted: %v", err)
	}
	if _, err := SelfSigned(w.doc, thief, "", 1); !errors.Is(err, ErrUntrusted) {
		t.Errorf("made where not permitted: %v", err)
	}
	// A document that stops permitting them takes back what was believed.
	if _, err := trust.VerifyChain(victim.TLSCertificate().Certificate, now); err != nil {
		t.Fatal(err)
	}
	strict := *d
	strict.SelfSigned, strict.RootCerts = false, []*x509.Certificate{a.cert}
	if err := trust.Update(&strict); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.VerifyChain(victim.TLSCertificate().Certificate, now); !errors.Is(err, ErrUntrusted) {
		t.Errorf("after they were forbidden: %v", err)
	}
}

// A document of such an overlay is signed by a Node-ID that is bound to its key and to no root.
func TestSelfSignedDocument(t *testing.T) {
	d, trust, a := selfWorld(t, config.SHA256, 16)
	if err := d.Verify(d, trust, now); err != nil || len(d.RootCerts) != 0 || d.Supported() != nil {
		t.Error(err, d.Supported())
	}
	next := *d
	next.Sequence = 2
	anybody := must(SelfSigned(d, must(NewKey()), "", 1))
	if err := must(next.Sign(anybody.Signer())).Verify(d, trust, now); !errors.Is(err, ErrUntrusted) {
		t.Errorf("anybody's: %v", err)
	}
	// Revocation works by Node-ID as everywhere, and so only against a key, not against who makes a new one.
	next.BadNodes = []wire.NodeID{anybody.NodeID()}
	revoked := must(next.Sign(must(a.SelfSigner())))
	if err := revoked.Verify(d, trust, now); err != nil {
		t.Fatal(err)
	}
	if err := trust.Update(revoked); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.VerifyChain(anybody.TLSCertificate().Certificate, now); !errors.Is(err, ErrRevoked) {
		t.Errorf("revoked: %v", err)
	}
}

// RFC 6940 §6.3.4: "There are two permitted identity formats, one for a certificate with only one Node-ID and one for a
// certificate with multiple Node-IDs. … In the second case, the cert_hash_node_id type MUST be used … H(NodeId ||
// certificate)", "as simple raw bytes".
func TestSeveralNodeIDsSign(t *testing.T) {
	d, trust, _ := selfWorld(t, config.SHA256, 16)
	id := must(SelfSigned(d, must(NewKey()), "", 3))
	for _, node := range id.NodeIDs() {
		s := must(id.Signer().As(node))
		m := message()
		if err := Sign(m, s); err != nil {
			t.Fatal(err)
		}
		want := sha256.Sum256(append(node.Bytes(), s.Certificates()[0]...))
		if got := m.Security.Signature.Identity; got.Type != wire.IdentityCertHashNodeID || !bytes.Equal(got.Hash, want[:]) {
			t.Errorf("identity %+v", got)
		}
		got := must(wire.Parse(must(m.AppendBinary(nil))))
		p, err := trust.VerifyMessage(got, now)
		if err != nil || p.NodeID != node || s.NodeID() != node {
			t.Errorf("as %v: %+v, %v", node, p, err)
		}
		v := &wire.StoredData{StorageTime: 1, Value: wire.StoredDataValue{Model: wire.SingleValue, DataValue: wire.DataValue{Exists: true, Value: []byte("v")}}}
		res := ResourceID(node.Bytes(), 16)
		if err := SignStored(res, 2, v, s); err != nil {
			t.Fatal(err)
		}
		if p, err := trust.VerifyStored(res, 2, v, s.Bucket(), now); err != nil || p.NodeID != node {
			t.Errorf("stored as %v: %v", node, err)
		}
		if c := Chain(&v.Signature, s.Bucket()); len(c) != 1 {
			t.Errorf("chain of %d", len(c))
		}
	}
	if _, err := id.Signer().As(must(RandomNodeID(16))); err == nil {
		t.Error("signs as somebody else")
	}
	// What says that it is another, or uses the other format, is refused.
	one := must(SelfSigned(d, must(NewKey()), "", 1))
	for name, c := range map[string]struct {
		s      *Signer
		change func(*wire.SignerIdentity, []byte)
	}{
		"cert_hash for several": {id.Signer(), func(i *wire.SignerIdentity, der []byte) {
			h := sha256.Sum256(der)
			i.Type, i.Hash = wire.IdentityCertHash, h[:]
		}},
		"cert_hash_node_id for one": {one.Signer(), func(i *wire.SignerIdentity, der []byte) {
			h := nodeIDHash(one.NodeID(), der)
			i.Type, i.Hash = wire.IdentityCertHashNodeID, h[:]
		}},
		"a Node-ID that is not in it": {id.Signer(), func(i *wire.SignerIdentity, der []byte) {
			h := nodeIDHash(one.NodeID(), der)
			i.Hash = h[:]
		}},
		"SHA-1":                          {id.Signer(), func(i *wire.SignerIdentity, _ []byte) { i.HashAlg = wire.HashSHA1 }},
		"a short hash":                   {id.Signer(), func(i *wire.SignerIdentity, _ []byte) { i.Hash = i.Hash[:31] }},
		"another Node-ID, after signing": {id.Signer(), nil},
	} {
		s := *c.s
		if c.change != nil {
			c.change(&s.identity, s.chain[0].Data)
		}
		m := message()
		if err := Sign(m, &s); err != nil {
			t.Fatal(err)
		}
		if c.change == nil {
			h := nodeIDHash(id.NodeIDs()[1], s.chain[0].Data)
			m.Security.Signature.Identity.Hash = h[:]
		}
		if _, err := trust.VerifyMessage(m, now); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, der := range [][]byte{nil, []byte("reload://"), []byte("reload://01"), []byte("reload://0110zz@"), bytes.Repeat([]byte("reload://0110@"), 100), id.kit.leaf().Raw} {
		if n := len(claimed(der)); n > MaxNodeIDs || n != 0 && !bytes.Equal(der, id.kit.leaf().Raw) {
			t.Errorf("%.20q: %d Node-IDs", der, n)
		}
	}
}

// RFC 6940 §11.3: Node-IDs "MUST be cryptographically random … Each MUST be chosen by the enrollment server". That rule
// is the document's to set: with an enrollment-server the root's word counts, without one the key's hash.
func TestAssignedNodeIDs(t *testing.T) {
	w := newWorld(t)
	ids := []wire.NodeID{must(RandomNodeID(16)), must(RandomNodeID(16))}
	key := must(NewKey())
	user := must(w.root.Certify(key.Public(), ids, "ann@"+testOverlay, false))
	kitDER := must(w.root.Certify(key.Public(), ids[:1], KitUser(ids[0], testOverlay), true))
	for _, der := range [][]byte{user, kitDER} {
		if _, err := w.trust.VerifyChain([][]byte{der}, now); !errors.Is(err, ErrUntrusted) {
			t.Errorf("without an enrollment-server: %v", err)
		}
	}
	next := *w.doc
	next.Sequence, next.Rest.EnrollmentServers = 2, []string{"https://a.example/"}
	d := must(next.Sign(must(w.root.Signer())))
	if err := w.trust.Update(d); err != nil {
		t.Fatal(err)
	}
	p, err := w.trust.VerifyChain([][]byte{user}, now)
	if err != nil || !slices.Equal(p.NodeIDs, ids) || p.User != "ann@"+testOverlay {
		t.Errorf("%v, %+v", err, p)
	}
	kit := must(w.trust.Identity(key, kitDER))
	phone := must(kit.SignerFor("10001@" + testOverlay))
	if p, err := w.trust.VerifyChain(phone.Certificates(), now); err != nil || p.NodeID != ids[0] {
		t.Errorf("the kit's handset: %v", err)
	}
	// Who is no kit speaks for nobody else.
	ann := must(w.trust.Identity(key, user))
	if _, err := ann.SignerFor("bob@" + testOverlay); err == nil {
		t.Error("a user's certificate issued another")
	}
	if s := must(ann.SignerFor("ann@" + testOverlay)); s != ann.Signer() {
		t.Error("not her own")
	}
	forged := must(issue(grant{ids: ids, user: "bob@" + testOverlay, overlay: testOverlay, parent: ann.kit.leaf(), pub: key.Public(), key: key})).leaf().Raw
	if _, err := w.trust.VerifyChain([][]byte{forged, user}, now); !errors.Is(err, ErrUntrusted) {
		t.Errorf("issued by who is no kit: %v", err)
	}
	// A kit cannot assign: neither another kit's Node-ID nor a further one to its handsets.
	for _, stolen := range [][]wire.NodeID{{w.kit.NodeID()}, {ids[0], w.kit.NodeID()}, {must(RandomNodeID(16))}} {
		forged := must(issue(grant{ids: stolen, user: "bob@" + testOverlay, overlay: testOverlay, parent: kit.kit.leaf(), pub: key.Public(), key: key})).leaf().Raw
		if _, err := w.trust.VerifyChain([][]byte{forged, kitDER}, now); !errors.Is(err, ErrUntrusted) {
			t.Errorf("Node-IDs %v: %v", stolen, err)
		}
	}
	if _, err := w.trust.VerifyChain(w.kit.Signer().Certificates(), now); err != nil {
		t.Errorf("who was let in before: %v", err)
	}
	if _, err := w.root.Certify(key.Public(), nil, "a@b", false); err == nil {
		t.Error("a certificate without a Node-ID")
	}
	if _, err := w.root.Certify(key.Public(), slices.Repeat(ids[:1], 2), "a@b", false); err == nil {
		t.Error("a Node-ID twice")
	}
	// bad-node: "the certificate with this Node-ID MUST NOT be considered valid" (RFC 6940 §11.1), whichever of its
	// Node-IDs is named; and what was believed with an enrolment server is not without.
	update := func(edit func(*Document)) {
		t.Helper()
		next.Sequence++
		edit(&next)
		if err := w.trust.Update(must(next.Sign(must(w.root.Signer())))); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range ids {
		update(func(d *Document) { d.BadNodes = []wire.NodeID{bad} })
		if _, err := w.trust.VerifyChain([][]byte{user}, now); !errors.Is(err, ErrRevoked) {
			t.Errorf("%v revoked: %v", bad, err)
		}
	}
	update(func(d *Document) { d.BadNodes = nil })
	if _, err := w.trust.VerifyChain([][]byte{user}, now); err != nil {
		t.Errorf("not revoked any more: %v", err)
	}
	update(func(d *Document) { d.Rest.EnrollmentServers = nil })
	if _, err := w.trust.VerifyChain([][]byte{user}, now); !errors.Is(err, ErrUntrusted) {
		t.Errorf("after the enrollment-server is gone: %v", err)
	}
}

// "All implementations MUST support RSASSA-PKCS1-v1_5 signatures with SHA-256 hashes": signing, too.
func TestRSASigner(t *testing.T) {
	w := newWorld(t)
	x, key := w.rsaKit(t)
	s := must(w.trust.NewSigner(key, [][]byte{x.Raw}, now))
	m := message()
	if err := Sign(m, s); err != nil {
		t.Fatal(err)
	}
	if m.Security.Signature.SigAlg != wire.SigRSA || m.Security.Signature.HashAlg != wire.HashSHA256 {
		t.Errorf("%+v", m.Security.Signature)
	}
	d := must(messageDigest(m, &m.Security.Signature.Identity))
	if err := rsa.VerifyPKCS1v15(&key.PublicKey, 5, d[:], m.Security.Signature.Value); err != nil { // 5 is crypto.SHA256
		t.Error(err)
	}
	if p, err := w.trust.VerifyMessage(m, now); err != nil || p.User != s.User() {
		t.Error(err)
	}
	if _, err := w.trust.NewSigner(must(rsa.GenerateKey(rand.Reader, 2048)), [][]byte{x.Raw}, now); err == nil {
		t.Error("another key's certificate taken")
	}
	if _, err := w.trust.NewSigner(w.kit.key, [][]byte{x.Raw}, now); err == nil {
		t.Error("another kind of key's certificate taken")
	}
	// And in an overlay without a root: a key of either kind is bound to its Node-ID in the same way.
	_, trust, _ := selfWorld(t, config.SHA256, 16)
	f := w.forge()
	f.tmpl.IsCA, f.tmpl.MaxPathLenZero, f.tmpl.KeyUsage = false, false, x509.KeyUsageDigitalSignature
	f.parent, f.signer, f.pub, f.user = f.tmpl, key, key.Public(), "rsa@"+testOverlay
	self := f.make(t)
	if p, err := trust.VerifyChain([][]byte{self.Raw}, now); err != nil || p.User != "rsa@"+testOverlay {
		t.Errorf("self-signed with RSA: %v", err)
	}
}

// A self-signed certificate that somebody else made: openssl hashes the key and signs, and says that it is a CA, as it
// does where nobody tells it not to. Nobody else is believed for that.
func TestSelfSignedByOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("FIELDKIT_CI") == "1" {
			t.Fatal("openssl is not installed")
		}
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	run := func(in []byte, args ...string) []byte {
		cmd := exec.Command(openssl, args...)
		cmd.Dir, cmd.Stdin = dir, bytes.NewReader(in)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl %s: %v", strings.Join(args, " "), err)
		}
		return out
	}
	for _, kind := range [][]string{{"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"}, {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"}} {
		run(nil, append([]string{"genpkey", "-out", "key.pem"}, kind...)...)
		spki := run(nil, "pkey", "-in", "key.pem", "-pubout", "-outform", "DER")
		for _, digest := range []string{config.SHA1, config.SHA256} {
			_, trust, _ := selfWorld(t, digest, 16)
			id := run(spki, "dgst", "-"+digest, "-binary")[:16]
			conf := fmt.Sprintf("[req]\nprompt=no\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\nbasicConstraints=CA:TRUE\nsubjectAltName=critical,URI:reload://0110%x@%s/,email:ann@%s\n", id, testOverlay, testOverlay)
			if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600); err != nil {
				t.Fatal(err)
			}
			der := run(nil, "req", "-x509", "-subj", "/", "-config", "conf", "-key", "key.pem", "-sha256", "-days", "9999", "-outform", "DER")
			p, err := trust.VerifyChain([][]byte{der}, now)
			if err != nil || !bytes.Equal(p.NodeID.Bytes(), id) || p.User != "ann@"+testOverlay {
				t.Errorf("%s, %s: %v", kind[1], digest, err)
				continue
			}
			if _, other, _ := selfWorld(t, map[string]string{config.SHA1: config.SHA256, config.SHA256: config.SHA1}[digest], 16); func() error { _, err := other.VerifyChain([][]byte{der}, now); return err }() == nil {
				t.Errorf("%s, %s: the other digest will do", kind[1], digest)
			}
			// With a certificate beside it that this "CA" issued for another key.
			if key, ok := must(x509.ParsePKCS8PrivateKey(must2(pem.Decode(must(os.ReadFile(filepath.Join(dir, "key.pem"))))).Bytes)).(*ecdsa.PrivateKey); ok {
				stolen := must(issue(grant{ids: p.NodeIDs, user: "bob@" + testOverlay, overlay: testOverlay, parent: p.Leaf, pub: must(NewKey()).Public(), key: key})).leaf().Raw
				if _, err := trust.VerifyChain([][]byte{stolen, der}, now); !errors.Is(err, ErrUntrusted) {
					t.Errorf("issued by it: %v", err)
				}
			}
		}
	}
}

func must2[T, U any](v T, _ U) T { return v }

// Node-IDs of every length that a document may ask for work throughout.
func TestNodeIDLengths(t *testing.T) {
	for n := wire.MinNodeIDLen; n <= wire.MaxNodeIDLen; n++ {
		a := must(NewAuthority(testOverlay, n))
		d := must(NewDocument(a).Sign(must(a.Signer())))
		trust := must(TrustFor(d))
		kit := must(a.NewIdentity())
		if d.NodeIDLength != n || kit.NodeID().Len() != n || trust.NodeIDLength() != n || d.Verify(d, trust, now) != nil {
			t.Errorf("%d bytes: %v", n, d.Verify(d, trust, now))
		}
		m := message()
		if err := Sign(m, must(kit.SignerFor("10001@"+testOverlay))); err != nil {
			t.Fatal(err)
		}
		if p, err := trust.VerifyMessage(m, now); err != nil || p.NodeID != kit.NodeID() {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for _, n := range []int{15, 21} {
		if _, err := NewAuthority(testOverlay, n); err == nil || !strings.Contains(err.Error(), "node-id-length") {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func FuzzClaimed(f *testing.F) {
	d, _, _ := selfWorld(f, config.SHA256, 16)
	f.Add(must(SelfSigned(d, must(NewKey()), "", 2)).kit.leaf().Raw)
	f.Add([]byte("reload://0110"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ids := claimed(b)
		if len(ids) > MaxNodeIDs {
			t.Errorf("%d Node-IDs", len(ids))
		}
		// What a certificate that parses has is among what was claimed.
		if c, err := parseCertificate(b, testOverlay, 16); err == nil {
			for _, id := range c.peer.NodeIDs {
				if !slices.Contains(ids, id) {
					t.Errorf("%v not found", id)
				}
			}
		}
	})
}

// BenchmarkVerifyNodeID is the price of cert_hash_node_id over cert_hash.
func BenchmarkVerifyNodeID(b *testing.B) {
	d, trust, _ := selfWorld(b, config.SHA256, 16)
	for name, count := range map[string]int{"one": 1, "three": 3} {
		b.Run(name, func(b *testing.B) {
			m := message()
			if err := Sign(m, must(SelfSigned(d, must(ecdsa.GenerateKey(must(NewKey()).Curve, rand.Reader)), "", count)).Signer()); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := trust.VerifyMessage(m, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
