package ident

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"fieldkit/overlay/wire"
)

// maxSigners bounds the AOR certificates an Identity keeps: twice this many, more than a kit has handsets. One
// that was pushed out is issued anew, which costs a signature.
const maxSigners = 256

// Identity is one kit: its key and its kit certificate.
type Identity struct {
	key     *ecdsa.PrivateKey
	kit     *certificate
	spki    []byte
	overlay string
	self    *Signer
	signers *cache[string, *Signer]
}

func newIdentity(key *ecdsa.PrivateKey, der []byte, overlay string, length int) (*Identity, error) {
	c, err := parseCertificate(der, overlay, length)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(c.leaf().PublicKey) {
		return nil, fmt.Errorf("kit certificate of %v: for another key", c.peer.NodeID)
	}
	if !c.kit {
		return nil, fmt.Errorf("kit certificate of %v: may not issue", c.peer.NodeID)
	}
	return &Identity{
		key: key, kit: c, spki: c.leaf().RawSubjectPublicKeyInfo, overlay: overlay,
		self:    newSigner(key, c.peer.NodeID, c.peer.User, der),
		signers: newCache[string, *Signer](maxSigners),
	}, nil
}

// LoadIdentity reads what KeyPEM and CertificatePEM wrote. certPEM may hold certificates of several missions for
// the same key; the one issued by root is taken.
func LoadIdentity(overlay string, length int, root *x509.Certificate, keyPEM, certPEM []byte) (*Identity, error) {
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
		id, e := newIdentity(key, der, overlay, length)
		if e == nil {
			e = issuedBy(id.kit.leaf(), root)
		}
		if e == nil {
			return id, nil
		}
		err = fmt.Errorf("kit certificate: %w: %w", ErrUntrusted, e)
	}
	return nil, err
}

// NodeID is the kit's Node-ID.
func (i *Identity) NodeID() wire.NodeID { return i.kit.peer.NodeID }

// Overlay is the name of the overlay the kit belongs to.
func (i *Identity) Overlay() string { return i.overlay }

// Signer signs as the kit itself.
func (i *Identity) Signer() *Signer { return i.self }

// SignerFor signs as one handset of this kit: same key, same Node-ID, user name aor, which is "user@domain"
// without "sip:" (RFC 7904 §3.1 with RFC 6940 §7.3's USER-NODE-MATCH). Certificates are kept, see maxSigners.
func (i *Identity) SignerFor(aor string) (*Signer, error) {
	if s, ok := i.signers.get(aor); ok {
		return s, nil
	}
	der, err := issue(i.NodeID(), aor, i.overlay, false, i.kit.leaf(), i.spki, i.key.Public(), i.key)
	if err != nil {
		return nil, fmt.Errorf("handset certificate: %w", err)
	}
	return i.signers.add(aor, newSigner(i.key, i.NodeID(), aor, der, i.kit.leaf().Raw)), nil
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

// Signer is a certificate and its key.
type Signer struct {
	key      *ecdsa.PrivateKey
	node     wire.NodeID
	user     string
	chain    []wire.Certificate
	identity wire.SignerIdentity
}

func newSigner(key *ecdsa.PrivateKey, node wire.NodeID, user string, chain ...[]byte) *Signer {
	s := &Signer{key: key, node: node, user: user}
	for _, der := range chain {
		s.chain = append(s.chain, wire.Certificate{Data: der})
	}
	h := sha256.Sum256(chain[0])
	// "a certificate with only one Node-ID … the cert_hash type MUST be used" (RFC 6940 §6.3.4)
	s.identity = wire.SignerIdentity{Type: wire.IdentityCertHash, HashAlg: wire.HashSHA256, Hash: h[:]}
	return s
}

// NodeID is the Node-ID in the certificate.
func (s *Signer) NodeID() wire.NodeID { return s.node }

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
	v, err := ecdsa.SignASN1(rand.Reader, s.key, digest[:])
	if err != nil {
		return wire.Signature{}, fmt.Errorf("signature: %w", err)
	}
	return wire.Signature{HashAlg: wire.HashSHA256, SigAlg: wire.SigECDSA, Identity: s.identity, Value: v}, nil
}
