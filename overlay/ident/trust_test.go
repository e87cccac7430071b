package ident

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

const testOverlay = "alpha-test.mission.home.arpa"

// now is what a kit's clock may say; most tests do not care.
var now = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type world struct {
	root  *Authority
	doc   *Document
	trust *Trust
	kit   *Identity
}

func newWorld(t testing.TB) *world {
	t.Helper()
	a := must(NewAuthority(testOverlay, 16))
	d := must(NewDocument(a).Sign(must(a.Signer())))
	return &world{root: a, doc: d, trust: must(TrustFor(d)), kit: must(a.NewIdentity())}
}

func TestChainsThatAreBelieved(t *testing.T) {
	w := newWorld(t)
	phone := must(w.kit.SignerFor("10001@" + testOverlay))
	rsaKit, _ := w.rsaKit(t)
	for _, c := range []struct {
		name  string
		chain [][]byte
		user  string
	}{
		{"kit", w.kit.Signer().Certificates(), KitUser(w.kit.NodeID(), testOverlay)},
		{"kit, TLS", w.kit.TLSCertificate().Certificate, KitUser(w.kit.NodeID(), testOverlay)},
		{"handset", phone.Certificates(), "10001@" + testOverlay},
		{"handset, root sent along", append(phone.Certificates(), w.root.Certificate().Raw), "10001@" + testOverlay},
		{"mission signer", must(w.root.Signer()).Certificates(), "mission@" + testOverlay},
		{"RSA", [][]byte{rsaKit.Raw}, "rsa@" + testOverlay},
	} {
		for range 2 { // the second time from memory
			p, err := w.trust.VerifyChain(c.chain, now)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			spki := sha256.Sum256(p.Leaf.RawSubjectPublicKeyInfo)
			if p.User != c.user || !bytes.Equal(p.NodeID.Bytes(), spki[:16]) || p.Hash != sha256.Sum256(c.chain[0]) {
				t.Errorf("%s: peer %v %q", c.name, p.NodeID, p.User)
			}
		}
	}
	if phone.NodeID() != w.kit.NodeID() {
		t.Errorf("handset's Node-ID %v, kit's %v", phone.NodeID(), w.kit.NodeID())
	}
	// What is known of a handset does not spare the kit's certificate: who is believed must not depend on who was
	// met before.
	if _, err := w.trust.VerifyChain(phone.Certificates()[:1], now); !errors.Is(err, ErrUntrusted) {
		t.Errorf("known handset without its kit: %v", err)
	}
	if s := w.trust.Stats(); s.Hits == 0 || s.Entries == 0 {
		t.Errorf("nothing was remembered: %+v", s)
	}
}

func (w *world) rsaKit(t testing.TB) (*x509.Certificate, *rsa.PrivateKey) {
	t.Helper()
	key := must(rsa.GenerateKey(rand.Reader, 2048))
	f := w.forge()
	f.pub, f.user = key.Public(), "rsa@"+testOverlay
	return f.make(t), key
}

// forgery makes a certificate with one thing wrong; its zero change is a good kit certificate.
type forgery struct {
	tmpl      *x509.Certificate
	parent    *x509.Certificate
	signer    any
	pub       any
	user      string
	uri       string
	overlay   string
	san       []byte // instead of uri and user
	sanSimple bool   // not critical
	length    int
}

func (w *world) forge() *forgery {
	key := must(NewKey())
	return &forgery{
		tmpl: &x509.Certificate{
			SerialNumber: big.NewInt(7), NotBefore: notBefore, NotAfter: notAfter, BasicConstraintsValid: true,
			IsCA: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		},
		parent: w.root.cert, signer: w.root.key, pub: key.Public(), user: "kit@" + testOverlay, overlay: testOverlay, length: 16,
	}
}

func (f *forgery) make(t testing.TB) *x509.Certificate {
	t.Helper()
	spki := must(x509.MarshalPKIXPublicKey(f.pub))
	h := sha256.Sum256(spki)
	uri := f.uri
	if uri == "" {
		uri = ReloadURI(must(wire.NodeIDFrom(h[:f.length])), f.overlay)
	}
	if f.san == nil {
		f.san = general([]byte{0x86}, uri)
		if f.user != "" {
			f.san = append(f.san, general([]byte{0x81}, f.user)...)
		}
	}
	value := must(asn1.Marshal(asn1.RawValue{Class: 0, Tag: 16, IsCompound: true, Bytes: f.san}))
	f.tmpl.ExtraExtensions = append(f.tmpl.ExtraExtensions, pkix.Extension{Id: oidSubjectAltName, Critical: !f.sanSimple, Value: value})
	der, err := x509.CreateCertificate(rand.Reader, f.tmpl, f.parent, f.pub, f.signer)
	if err != nil {
		t.Fatal(err)
	}
	return must(x509.ParseCertificate(der))
}

func general(tag []byte, s string) []byte {
	if len(s) > 127 {
		return append(append(tag, 0x81, byte(len(s))), s...)
	}
	return append(append(tag, byte(len(s))), s...)
}

// Each case is one attack, or one mistake, on an otherwise good certificate.
func TestCertificatesThatAreRefused(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t) // a stranger's mission that chose the same name
	otherKit := must(w.root.NewIdentity())
	if _, err := w.trust.VerifyChain([][]byte{w.forge().make(t).Raw}, now); err != nil {
		t.Fatalf("the forger's unchanged certificate: %v", err)
	}
	good := ReloadURI(w.kit.NodeID(), testOverlay)
	for name, change := range map[string]func(f *forgery){
		"another mission's root":           func(f *forgery) { f.parent, f.signer = other.root.cert, other.root.key },
		"the root's name, but not its key": func(f *forgery) { f.signer = must(NewKey()); f.parent = asOwn(f.parent, f.signer) },
		"a subject":                        func(f *forgery) { f.tmpl.Subject = pkix.Name{CommonName: "x"} },
		"another kit's Node-ID":            func(f *forgery) { f.uri = good },
		"another overlay's name":           func(f *forgery) { f.overlay = "beta.mission.home.arpa" },
		"a Node-ID of another length":      func(f *forgery) { f.length = 20 },
		"no user name":                     func(f *forgery) { f.user = "" },
		"two user names":                   func(f *forgery) { f.extra([]byte{0x81}, "c@d") },
		"two Node-IDs":                     func(f *forgery) { f.extra([]byte{0x86}, f.ownURI()) },
		"seventeen Node-IDs": func(f *forgery) {
			f.san = general([]byte{0x81}, f.user)
			for range MaxNodeIDs + 1 {
				f.san = append(f.san, general([]byte{0x86}, ReloadURI(must(RandomNodeID(16)), testOverlay))...)
			}
		},
		"its own Node-ID and another kit's":     func(f *forgery) { f.extra([]byte{0x86}, good) },
		"the Node-ID of nobody":                 func(f *forgery) { f.uri = ReloadURI(wire.WildcardNodeID(16), testOverlay) },
		"a DNS name besides":                    func(f *forgery) { f.extra([]byte{0x82}, "a.example") },
		"an IP address besides":                 func(f *forgery) { f.extra([]byte{0x87}, string(net.IPv4(10, 0, 0, 1).To4())) },
		"an otherName that crypto/x509 ignores": func(f *forgery) { f.extra([]byte{0xa0}, "\x06\x01\x2a\xa0\x02\x05\x00") },
		"a registered ID besides":               func(f *forgery) { f.extra([]byte{0x88}, "\x2a") },
		"subjectAltName not critical":           func(f *forgery) { f.sanSimple = true },
		"no name at all":                        func(f *forgery) { f.san = []byte{} },
		"a user name with a NUL":                func(f *forgery) { f.user = "a\x00b@c" },
		"a user name without host":              func(f *forgery) { f.user = "alice" },
		"not a reload URI":                      func(f *forgery) { f.uri = "https://" + testOverlay + "/" },
		"a reload URI with a specifier":         func(f *forgery) { f.uri = good + "00" },
		"the type octet of a resource":          func(f *forgery) { f.uri = strings.Replace(good, "//01", "//02", 1) },
		"a wrong length octet":                  func(f *forgery) { f.uri = strings.Replace(good, "//0110", "//0111", 1) },
		"no type and length octets":             func(f *forgery) { f.uri = strings.Replace(good, "//0110", "//", 1) },
		"two destinations": func(f *forgery) {
			f.uri = strings.Replace(good, "@", good[len("reload://"):strings.Index(good, "@")]+"@", 1)
		},
		"a kit that may make kits":             func(f *forgery) { f.tmpl.MaxPathLenZero, f.tmpl.MaxPathLen = false, 1 },
		"a kit without a path length":          func(f *forgery) { f.tmpl.MaxPathLenZero, f.tmpl.MaxPathLen = false, -1 },
		"a kit that may not sign certificates": func(f *forgery) { f.tmpl.KeyUsage = x509.KeyUsageDigitalSignature },
		"not for signing":                      func(f *forgery) { f.tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageKeyAgreement },
		"an unknown critical extension": func(f *forgery) {
			f.tmpl.ExtraExtensions = append(f.tmpl.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}})
		},
		"a P-384 key": func(f *forgery) { f.pub = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)).Public() },
		"an RSA key of 1024 bits": func(f *forgery) {
			f.pub = &rsa.PublicKey{N: new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 1024), big.NewInt(105)), E: 65537}
		},
		"an RSA key that is costly": func(f *forgery) {
			f.pub = &rsa.PublicKey{N: new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 2048), big.NewInt(105)), E: 1<<31 - 1}
		},
		"an oversized certificate": func(f *forgery) {
			f.tmpl.ExtraExtensions = append(f.tmpl.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, MaxCertificate)})
		},
		"not valid any more": func(f *forgery) { f.tmpl.NotAfter = now.Add(-time.Hour) },
		"not valid yet":      func(f *forgery) { f.tmpl.NotBefore = now.Add(time.Hour) },
		"issued by another kit of the mission": func(f *forgery) {
			f.parent, f.signer = otherKit.kit.leaf(), otherKit.key
			f.tmpl.IsCA, f.tmpl.MaxPathLenZero, f.tmpl.KeyUsage = false, false, x509.KeyUsageDigitalSignature
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := w.forge()
			change(f)
			x := f.make(t)
			chain := [][]byte{x.Raw, otherKit.kit.leaf().Raw}
			if _, err := w.trust.VerifyChain(chain, now); !errors.Is(err, ErrUntrusted) {
				t.Errorf("got %v", err)
			} else {
				t.Log(err)
			}
		})
	}
	for name, chain := range map[string][][]byte{
		"none":                      {},
		"empty":                     {nil},
		"garbage":                   {[]byte("garbage")},
		"the root alone":            {w.root.cert.Raw},
		"too long":                  slices.Repeat(w.kit.Signer().Certificates(), MaxChain+1),
		"handset without its kit":   must(w.kit.SignerFor("a@" + testOverlay)).Certificates()[:1],
		"handset with another kit":  {must(w.kit.SignerFor("b@" + testOverlay)).Certificates()[0], otherKit.kit.leaf().Raw},
		"stranger's handset":        must(other.kit.SignerFor("c@" + testOverlay)).Certificates(),
		"stranger's, with our root": append(other.kit.Signer().Certificates(), w.root.cert.Raw),
	} {
		if _, err := w.trust.VerifyChain(chain, now); !errors.Is(err, ErrUntrusted) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// ownURI is the right one for the certificate's key.
func (f *forgery) ownURI() string {
	h := sha256.Sum256(must(x509.MarshalPKIXPublicKey(f.pub)))
	return ReloadURI(must(wire.NodeIDFrom(h[:16])), testOverlay)
}

// extra adds a name to the two that must be there.
func (f *forgery) extra(tag []byte, s string) {
	f.san = slices.Concat(general([]byte{0x86}, f.ownURI()), general([]byte{0x81}, f.user), general(tag, s))
}

// asOwn is a parent with the same name and another key.
func asOwn(parent *x509.Certificate, key any) *x509.Certificate {
	c := *parent
	c.PublicKey = key.(*ecdsa.PrivateKey).Public()
	return &c
}

// "A certificate issued by a kit is accepted only for that kit's own Node-ID" and key: a kit must not make kits,
// neither with its own key nor with another.
func TestKitIssuesForItselfOnly(t *testing.T) {
	w := newWorld(t)
	for _, ca := range []bool{false, true} {
		key := must(NewKey())
		id, _, err := nodeIDOfKey(key, 16)
		if err != nil {
			t.Fatal(err)
		}
		der := must(issue(grant{ids: []wire.NodeID{id}, user: "mallory@" + testOverlay, overlay: testOverlay, kit: ca, parent: w.kit.kit.leaf(), pub: key.Public(), key: w.kit.key})).leaf().Raw
		if p, err := w.trust.VerifyChain([][]byte{der, w.kit.kit.leaf().Raw}, now); !errors.Is(err, ErrUntrusted) {
			t.Errorf("CA %v: certificate for another key: got %v, %v", ca, p, err)
		}
	}
	der := must(issue(grant{ids: []wire.NodeID{w.kit.NodeID()}, user: "mallory@" + testOverlay, overlay: testOverlay, kit: true, parent: w.kit.kit.leaf(), pub: w.kit.key.Public(), key: w.kit.key})).leaf().Raw
	if p, err := w.trust.VerifyChain([][]byte{der, w.kit.kit.leaf().Raw}, now); !errors.Is(err, ErrUntrusted) {
		t.Errorf("second intermediate: got %v, %v", p, err)
	}
	// The root let somebody in who is no kit: no intermediate, so no certificates from there.
	f := w.forge()
	key := must(NewKey())
	f.pub, f.user = key.Public(), "guest@"+testOverlay
	f.tmpl.IsCA, f.tmpl.MaxPathLenZero, f.tmpl.KeyUsage = false, false, x509.KeyUsageDigitalSignature
	guest := f.make(t)
	if _, err := w.trust.VerifyChain([][]byte{guest.Raw}, now); err != nil {
		t.Fatal(err)
	}
	id, _, err := nodeIDOfKey(key, 16)
	if err != nil {
		t.Fatal(err)
	}
	der = must(issue(grant{ids: []wire.NodeID{id}, user: "10001@" + testOverlay, overlay: testOverlay, kit: false, parent: guest, pub: key.Public(), key: key})).leaf().Raw
	if p, err := w.trust.VerifyChain([][]byte{der, guest.Raw}, now); !errors.Is(err, ErrUntrusted) {
		t.Errorf("issued by somebody who may not: got %v, %v", p, err)
	}
	// A handset's certificate does not stand in for the kit's.
	a, b := must(w.kit.SignerFor("a@"+testOverlay)), must(w.kit.SignerFor("b@"+testOverlay))
	if p, err := w.trust.VerifyChain([][]byte{a.Certificates()[0], b.Certificates()[0]}, now); !errors.Is(err, ErrUntrusted) {
		t.Errorf("handset under handset: got %v, %v", p, err)
	}
}

func TestClockDoesNotMatter(t *testing.T) {
	w := newWorld(t)
	phone := must(w.kit.SignerFor("10001@" + testOverlay))
	for _, at := range []time.Time{{}, time.Unix(0, 0), time.Date(1980, 1, 6, 0, 0, 0, 0, time.UTC), ClockFloor, now, time.Date(2106, 2, 7, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)} {
		if _, err := w.trust.VerifyChain(phone.Certificates(), at); err != nil {
			t.Errorf("%v: %v", at, err)
		}
	}
}

// RFC 6940 §11.1: bad-node "indicates that the certificate with this Node-ID MUST NOT be considered valid".
func TestBadNode(t *testing.T) {
	w := newWorld(t)
	phone, lost := must(w.kit.SignerFor("10001@"+testOverlay)), must(w.root.NewIdentity())
	if _, err := w.trust.VerifyChain(lost.Signer().Certificates(), now); err != nil {
		t.Fatal(err)
	}
	next := *w.doc
	next.Sequence, next.BadNodes = 2, []wire.NodeID{lost.NodeID()}
	signed := must(next.Sign(must(w.root.Signer())))
	if err := signed.Verify(w.doc, w.trust, now); err != nil {
		t.Fatal(err)
	}
	if err := w.trust.Update(signed); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Signer{lost.Signer(), must(lost.SignerFor("x@" + testOverlay))} {
		if _, err := w.trust.VerifyChain(s.Certificates(), now); !errors.Is(err, ErrRevoked) {
			t.Errorf("revoked %q: got %v", s.User(), err)
		}
	}
	if _, err := w.trust.VerifyChain(phone.Certificates(), now); err != nil {
		t.Errorf("the others: %v", err)
	}
	if !w.trust.Revoked(lost.NodeID()) || w.trust.Revoked(w.kit.NodeID()) {
		t.Error("Revoked is wrong")
	}
}

// What was believed under one root is not believed under another.
func TestUpdateForgetsUnderAnotherRoot(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	if _, err := w.trust.VerifyChain(w.kit.Signer().Certificates(), now); err != nil {
		t.Fatal(err)
	}
	if err := w.trust.Update(other.doc); err != nil {
		t.Fatal(err)
	}
	if _, err := w.trust.VerifyChain(w.kit.Signer().Certificates(), now); !errors.Is(err, ErrUntrusted) {
		t.Errorf("got %v", err)
	}
	d := *w.doc
	d.InstanceName = "beta.mission.home.arpa"
	if err := w.trust.Update(&d); err == nil {
		t.Error("document of another overlay taken")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	c := newCache[int, int](8)
	for i := range 1000 {
		c.add(i, i)
		if v, ok := c.get(0); !ok || v != 0 {
			t.Fatalf("what is used was forgotten after %d others", i)
		}
		if n := c.stats().Entries; n > 17 {
			t.Fatalf("%d entries", n)
		}
	}
	if c.stats().Dropped == 0 {
		t.Error("nothing dropped")
	}
	w := newWorld(t)
	before := w.trust.Stats().Entries
	stranger := newWorld(t)
	for range 20 {
		id := must(stranger.root.NewIdentity())
		w.trust.VerifyChain(must(id.SignerFor("a@"+testOverlay)).Certificates(), now)
	}
	if got := w.trust.Stats().Entries; got != before {
		t.Errorf("strangers filled the memory: %d entries, before %d", got, before)
	}
}

func TestConcurrentUse(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 20 {
				s, err := w.kit.SignerFor(string(rune('a'+i)) + "@" + testOverlay)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := w.trust.VerifyChain(s.Certificates(), now); err != nil {
					t.Error(err)
				}
				if err := w.trust.Update(w.doc); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestIdentityRoundTrip(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	key := must(w.kit.KeyPEM())
	both := append(must(other.root.Issue(w.kit.Key())).CertificatePEM(), w.kit.CertificatePEM()...)
	got, err := LoadIdentity(testOverlay, 16, w.root.cert, key, both)
	if err != nil {
		t.Fatal(err)
	}
	if got.NodeID() != w.kit.NodeID() || !bytes.Equal(got.CertificatePEM(), w.kit.CertificatePEM()) {
		t.Error("not the same identity, or the other mission's certificate")
	}
	if _, err := LoadIdentity(testOverlay, 16, newWorld(t).root.cert, key, both); !errors.Is(err, ErrUntrusted) {
		t.Errorf("under a foreign root: %v", err)
	}
	if _, err := LoadIdentity(testOverlay, 16, w.root.cert, must(other.kit.KeyPEM()), both); err == nil {
		t.Error("another key's certificate taken")
	}
	for n := range len(key) - 1 {
		if _, err := ParseKeyPEM(key[:n]); err == nil {
			t.Fatalf("key cut at %d taken", n)
		}
	}
	a, err := LoadAuthority(testOverlay, 16, w.root.CertificatePEM(), must(w.root.KeyPEM()))
	if err != nil || a.SignerNodeID() != w.root.SignerNodeID() {
		t.Errorf("authority: %v", err)
	}
	if _, err := LoadAuthority(testOverlay, 16, w.root.CertificatePEM(), key); err == nil {
		t.Error("root certificate with another key taken")
	}
}

// RFC 6940 §11.3: "The subject distinguished name in the certificate MUST be empty", and a Destination List
// "with a single entry of type node_id" in each URI.
func TestIssuedCertificate(t *testing.T) {
	w := newWorld(t)
	s := must(w.kit.SignerFor("10001@" + testOverlay))
	x := must(x509.ParseCertificate(s.Certificates()[0]))
	if x.Subject.String() != "" || len(x.EmailAddresses) != 1 || x.EmailAddresses[0] != "10001@"+testOverlay {
		t.Errorf("subject %q, names %v", x.Subject, x.EmailAddresses)
	}
	want := must(url.Parse("reload://0110" + w.kit.NodeID().String() + "@" + testOverlay + "/"))
	if len(x.URIs) != 1 || *x.URIs[0] != *want && x.URIs[0].String() != want.String() {
		t.Errorf("URIs %v, want %v", x.URIs, want)
	}
	d := must(wire.ParseDestinations(append([]byte{0x01, 0x10}, w.kit.NodeID().Bytes()...)))
	if len(d) != 1 || d[0].Node != w.kit.NodeID() {
		t.Errorf("destination %v", d)
	}
	if x.NotAfter.Year() != 9999 || x.NotBefore.Year() != 2020 || x.IsCA {
		t.Errorf("valid %v to %v, CA %v", x.NotBefore, x.NotAfter, x.IsCA)
	}
	for _, bad := range []string{"", "alice", "@b", "a@", "a b@c", "a@b@c", "ä@b", strings.Repeat("a", MaxUser) + "@b"} {
		if _, err := w.kit.SignerFor(bad); err == nil {
			t.Errorf("user name %q taken", bad)
		}
	}
}

func FuzzParseCertificate(f *testing.F) {
	w := newWorld(f)
	f.Add(w.kit.Signer().Certificates()[0])
	f.Add(must(w.kit.SignerFor("a@b")).Certificates()[0])
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseCertificate(b, testOverlay, 16); err == nil && c.peer.NodeID.Len() != 16 {
			t.Errorf("Node-ID of %d bytes", c.peer.NodeID.Len())
		}
	})
}
