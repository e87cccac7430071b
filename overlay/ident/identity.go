package ident

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// maxSigners bounds the AOR certificates an Identity keeps: twice this many, more than a kit has handsets. One
// that was pushed out is issued anew, which costs a signature.
const maxSigners = 256

// Identity is one kit: its key and its kit certificate.
type Identity struct {
	key     *ecdsa.PrivateKey
	kit     *certificate
	root    bool // the kit's certificate is the root's, not self-signed
	overlay string
	self    *Signer
	signers *cache[string, *Signer]
}

// newIdentity takes over a certificate that a policy has proved.
func newIdentity(key *ecdsa.PrivateKey, k *known, overlay string) (*Identity, error) {
	if !key.PublicKey.Equal(k.leaf().PublicKey) {
		return nil, fmt.Errorf("kit certificate of %v: for another key", k.peer.NodeID)
	}
	return &Identity{
		key: key, kit: &k.certificate, root: k.root != nil, overlay: overlay,
		self:    newSigner(key, &k.certificate),
		signers: newCache[string, *Signer](maxSigners),
	}, nil
}

// LoadIdentity reads what KeyPEM and CertificatePEM wrote, for an overlay whose root issues certificates for the
// Node-IDs of the keys; Trust.LoadIdentity does it for any overlay.
func LoadIdentity(overlay string, length int, root *x509.Certificate, keyPEM, certPEM []byte) (*Identity, error) {
	t, err := NewTrust(overlay, length, []*x509.Certificate{root}, nil)
	if err != nil {
		return nil, err
	}
	return t.LoadIdentity(keyPEM, certPEM)
}

// LoadIdentity reads what KeyPEM and CertificatePEM wrote. certPEM may hold certificates of several missions for
// the same key; the one that t believes is taken. Whether it was revoked, or has run out, is not asked.
func (t *Trust) LoadIdentity(keyPEM, certPEM []byte) (*Identity, error) {
	key, err := ParseKeyPEM(keyPEM)
	if err != nil {
		return nil, err
	}
	const missions = 4
	ders, err := pemBlocks(certPEM, pemCertificate, missions)
	if err != nil {
		return nil, fmt.Errorf("kit certificate: %w", err)
	}
	err = fmt.Errorf("kit certificate: %w", ErrUntrusted)
	for _, der := range ders {
		id, e := t.Identity(key, der)
		if e == nil {
			return id, nil
		}
		err = e
	}
	return nil, err
}

// Identity is the identity of a key and the certificate that the root issued for it, or that is its own where the
// overlay permits self-signed ones.
func (t *Trust) Identity(key *ecdsa.PrivateKey, der []byte) (*Identity, error) {
	p := t.p.Load()
	k, err := p.prove(der, sha256.Sum256(der))
	if err == nil && k.root == nil {
		err = p.selfBound(k)
	}
	if err != nil {
		return nil, fmt.Errorf("kit certificate: %w: %w", ErrUntrusted, err)
	}
	return newIdentity(key, k, p.overlay)
}

// NodeID is the kit's Node-ID, the first of several.
func (i *Identity) NodeID() wire.NodeID { return i.kit.peer.NodeID }

// NodeIDs are all the Node-IDs in the kit's certificate. They are shared: read only.
func (i *Identity) NodeIDs() []wire.NodeID { return i.kit.peer.NodeIDs }

// Overlay is the name of the overlay the kit belongs to.
func (i *Identity) Overlay() string { return i.overlay }

// Signer signs as the kit itself.
func (i *Identity) Signer() *Signer { return i.self }

// SignerFor signs as one handset of this kit: same key, same Node-IDs, user name aor, which is "user@domain"
// without "sip:" (RFC 7904 §3.1 with RFC 6940 §7.3's USER-NODE-MATCH). Certificates are kept, see maxSigners. An identity
// that may not issue certificates, because the enrolment server made it one user's and not a kit's, has its own user
// name only; a self-signed one may take any ("The self-signed certificate MAY contain any user name of the user's
// choice").
func (i *Identity) SignerFor(aor string) (*Signer, error) {
	if aor == i.kit.peer.User {
		return i.self, nil
	}
	if s, ok := i.signers.get(aor); ok {
		return s, nil
	}
	g := grant{ids: i.NodeIDs(), user: aor, overlay: i.overlay, pub: i.key.Public(), key: i.key}
	if i.root {
		if !i.kit.kit {
			return nil, fmt.Errorf("handset certificate for %q: certificate of %q may not issue any", aor, i.kit.peer.User)
		}
		g.parent = i.kit.leaf()
	}
	c, err := issue(g)
	if err != nil {
		return nil, fmt.Errorf("handset certificate: %w", err)
	}
	if i.root {
		return i.signers.add(aor, newSigner(i.key, c, i.kit.leaf().Raw)), nil
	}
	return i.signers.add(aor, newSigner(i.key, c)), nil
}

// TLSCertificate is the kit certificate for a (D)TLS handshake; the root is left out, the other side has it.
func (i *Identity) TLSCertificate() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{bytes.Clone(i.kit.leaf().Raw)}, PrivateKey: i.key, Leaf: i.kit.leaf()}
}

// KeyPEM is the private key.
func (i *Identity) KeyPEM() ([]byte, error) { return EncodeKeyPEM(i.key) }

// CertificatePEM is the kit certificate.
func (i *Identity) CertificatePEM() []byte { return encodeCertificate(i.kit.leaf().Raw) }

// Key is the kit's private key, for issuing it a certificate of another mission.
func (i *Identity) Key() *ecdsa.PrivateKey { return i.key }

// Signer is a certificate and its key, and the one of its Node-IDs that signs.
type Signer struct {
	key      crypto.Signer
	node     wire.NodeID
	nodes    []wire.NodeID
	user     string
	chain    []wire.Certificate
	identity wire.SignerIdentity
	alg      uint8
}

func newSigner(key crypto.Signer, c *certificate, issuers ...[]byte) *Signer {
	s := &Signer{key: key, nodes: c.peer.NodeIDs, user: c.peer.User, alg: wire.SigECDSA}
	if _, ok := key.(*rsa.PrivateKey); ok {
		s.alg = wire.SigRSA
	}
	s.chain = append(s.chain, wire.Certificate{Data: c.leaf().Raw})
	for _, der := range issuers {
		s.chain = append(s.chain, wire.Certificate{Data: der})
	}
	return s.as(c.peer.NodeID)
}

// NewSigner signs with any key that RFC 6940 knows, RSA too ("All implementations MUST support RSASSA-PKCS1-v1_5
// signatures with SHA-256 hashes"), and a certificate chain, leaf first, that t believes at now.
func (t *Trust) NewSigner(key crypto.Signer, chain [][]byte, now time.Time) (*Signer, error) {
	p, err := t.VerifyChain(chain, now)
	if err != nil {
		return nil, err
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(p.Leaf.PublicKey) {
		return nil, fmt.Errorf("certificate of %v: for another key", p.NodeID)
	}
	return newSigner(key, &certificate{peer: *p}, chain[1:]...), nil
}

// As signs with the same certificate as another of its Node-IDs.
func (s *Signer) As(node wire.NodeID) (*Signer, error) {
	if !slices.Contains(s.nodes, node) {
		return nil, fmt.Errorf("certificate of %v: has no Node-ID %v", s.node, node)
	}
	c := *s
	return c.as(node), nil
}

func (s *Signer) as(node wire.NodeID) *Signer {
	s.node = node
	leaf := s.chain[0].Data
	if len(s.nodes) > 1 {
		// "one for a certificate with multiple Node-IDs … In the second case, the cert_hash_node_id type MUST be used."
		h := nodeIDHash(node, leaf)
		s.identity = wire.SignerIdentity{Type: wire.IdentityCertHashNodeID, HashAlg: wire.HashSHA256, Hash: h[:]}
		return s
	}
	// "one for a certificate with only one Node-ID … In the first case, the cert_hash type MUST be used."
	h := sha256.Sum256(leaf)
	s.identity = wire.SignerIdentity{Type: wire.IdentityCertHash, HashAlg: wire.HashSHA256, Hash: h[:]}
	return s
}

// nodeIDHash is H(NodeId || certificate), "as simple raw bytes" (RFC 6940 §6.3.4).
func nodeIDHash(node wire.NodeID, der []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(node.Bytes())
	h.Write(der)
	return [sha256.Size]byte(h.Sum(nil))
}

// NodeID is the Node-ID that signs.
func (s *Signer) NodeID() wire.NodeID { return s.node }

// NodeIDs are all Node-IDs of the certificate. They are shared: read only.
func (s *Signer) NodeIDs() []wire.NodeID { return s.nodes }

// User is the certificate's user name: a handset's AOR, or the kit's own name.
func (s *Signer) User() string { return s.user }

// Certificates is the chain in DER, leaf first, without the root. It is shared: read only.
func (s *Signer) Certificates() [][]byte {
	out := make([][]byte, len(s.chain))
	for i, c := range s.chain {
		out[i] = c.Data
	}
	return out
}

// Bucket is the same chain as it goes into a security block. It is shared: read only.
func (s *Signer) Bucket() []wire.Certificate { return s.chain }

func (s *Signer) sign(digest [sha256.Size]byte) (wire.Signature, error) {
	v, err := s.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return wire.Signature{}, fmt.Errorf("signature: %w", err)
	}
	return wire.Signature{HashAlg: wire.HashSHA256, SigAlg: s.alg, Identity: s.identity, Value: v}, nil
}
