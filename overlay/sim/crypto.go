package sim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"fieldkit/overlay/config"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/peer"
	"fieldkit/overlay/wire"
)

// authority makes the identities of a mission's kits.
type authority interface {
	// kit makes the identity that comes of 32 random bytes.
	kit(seed [32]byte) (*identity, error)
}

// identity is what a kit keeps over a restart.
type identity struct {
	peer   *ident.Peer // as others see it
	crypto peer.Crypto
	// signerFor makes the signer of a handset's values, as ident.Identity.SignerFor.
	signerFor func(aor string) (*ident.Signer, error)
}

func (i *identity) id() wire.NodeID { return i.peer.NodeID }

// realAuthority is that of a kit: ECDSA P-256, certificates of RFC 6940 §11.3. Keys come of the seed, and so do
// Node-IDs; signatures and serial numbers do not, so that two runs differ in bytes.
type realAuthority struct {
	*ident.Authority
	trust *ident.Trust
}

func newRealAuthority() (*realAuthority, error) {
	a, err := ident.NewAuthority(overlayName, wire.MinNodeIDLen)
	if err != nil {
		return nil, err
	}
	t, err := ident.NewTrust(overlayName, wire.MinNodeIDLen, []*x509.Certificate{a.Certificate()}, nil)
	if err != nil {
		return nil, err
	}
	return &realAuthority{a, t}, nil
}

func (a *realAuthority) kit(seed [32]byte) (*identity, error) {
	seed[0] &= 0x7f // below the order of the group
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed[:])
	if err != nil {
		return nil, fmt.Errorf("simulated key: %w", err)
	}
	id, err := a.Issue(key)
	if err != nil {
		return nil, err
	}
	p, err := a.trust.VerifyChain(id.TLSCertificate().Certificate, epoch)
	if err != nil {
		return nil, err
	}
	return &identity{peer: p, crypto: peer.Credentials{Identity: id, Trust: a.trust}, signerFor: id.SignerFor}, nil
}

// Sizes of what fastAuthority makes, those of a kit's ECDSA certificates and signatures.
const (
	fastKitCertificate     = 530
	fastHandsetCertificate = 399
	fastSignature          = 71
)

// fastAuthority signs with a keyed hash per certificate instead of ECDSA, at a hundredth of the cost. Whoever has no
// access to the authority cannot make a signature that it accepts, no more than with ECDSA; the simulator gives
// access to nobody but the holder of the certificate. Certificates are random bytes of the usual size, and all
// bytes come of the seeds, so that equal runs are equal to the byte.
type fastAuthority struct {
	byHash  map[[sha256.Size]byte]*fastCertificate
	signers map[*ident.Signer]*fastCertificate
	scratch []byte
}

type fastCertificate struct {
	peer     ident.Peer
	secret   [sha256.Size]byte
	identity wire.SignerIdentity
	bucket   []wire.Certificate // its own, then its kit's
	kit      *fastCertificate   // that issued it; nil: the root did
}

func newFastAuthority() *fastAuthority {
	return &fastAuthority{byHash: map[[sha256.Size]byte]*fastCertificate{}, signers: map[*ident.Signer]*fastCertificate{}}
}

func (a *fastAuthority) kit(seed [32]byte) (*identity, error) {
	h := sha256.Sum256(append([]byte("node-id"), seed[:]...))
	id, err := wire.NodeIDFrom(h[:wire.MinNodeIDLen])
	if err != nil {
		return nil, err
	}
	c := a.issue(seed, id, ident.KitUser(id, overlayName), fastKitCertificate, nil)
	handsets := map[string]*ident.Signer{}
	return &identity{
		peer: &c.peer, crypto: fastCrypto{a, c},
		signerFor: func(aor string) (*ident.Signer, error) {
			if s, ok := handsets[aor]; ok {
				return s, nil
			}
			// The value is never read: it stands for its certificate.
			s := new(ident.Signer)
			a.signers[s] = a.issue(sha256.Sum256(append(seed[:], aor...)), id, aor, fastHandsetCertificate, c)
			handsets[aor] = s
			return s, nil
		},
	}, nil
}

func (a *fastAuthority) issue(seed [32]byte, id wire.NodeID, user string, size int, kit *fastCertificate) *fastCertificate {
	der := make([]byte, 0, size+sha256.Size)
	for block := uint32(0); len(der) < size; block++ {
		h := sha256.Sum256(append(binary.BigEndian.AppendUint32([]byte("certificate"), block), seed[:]...))
		der = append(der, h[:]...)
	}
	der = der[:size:size]
	c := &fastCertificate{
		peer: ident.Peer{NodeID: id, User: user, Hash: sha256.Sum256(der)}, kit: kit,
		secret: sha256.Sum256(append([]byte("secret"), seed[:]...)),
		bucket: []wire.Certificate{{Type: wire.CertificateX509, Data: der}},
	}
	if kit != nil {
		c.bucket = append(c.bucket, kit.bucket...)
	}
	c.identity = wire.SignerIdentity{Type: wire.IdentityCertHash, HashAlg: wire.HashSHA256, Hash: c.peer.Hash[:]}
	a.byHash[c.peer.Hash] = c
	return c
}

// sign is the signature of c over what build appends.
func (a *fastAuthority) sign(c *fastCertificate, build func([]byte) ([]byte, error)) (wire.Signature, error) {
	b, err := build(append(a.scratch[:0], c.secret[:]...))
	if err != nil {
		return wire.Signature{}, fmt.Errorf("signature input: %w", err)
	}
	a.scratch = b
	sum := sha256.Sum256(b)
	value := make([]byte, fastSignature)
	copy(value, sum[:])
	return wire.Signature{HashAlg: wire.HashSHA256, SigAlg: wire.SigECDSA, Identity: c.identity, Value: value}, nil
}

// verify finds the certificate that a signature names and checks both.
func (a *fastAuthority) verify(s *wire.Signature, bucket []wire.Certificate, build func([]byte) ([]byte, error)) (*fastCertificate, error) {
	if s.Identity.Type != wire.IdentityCertHash || len(s.Identity.Hash) != sha256.Size {
		return nil, ident.ErrSignature
	}
	c := a.byHash[[sha256.Size]byte(s.Identity.Hash)]
	if c == nil {
		return nil, ident.ErrUntrusted
	}
	for i := range c.bucket {
		if !holds(bucket, &c.bucket[i]) {
			return nil, ident.ErrUntrusted
		}
	}
	want, err := a.sign(c, build)
	if err != nil {
		return nil, err
	}
	if s.HashAlg != want.HashAlg || s.SigAlg != want.SigAlg || !bytes.Equal(s.Value, want.Value) {
		return nil, ident.ErrSignature
	}
	return c, nil
}

func holds(bucket []wire.Certificate, c *wire.Certificate) bool {
	for i := range bucket {
		if bucket[i].Type == c.Type && bytes.Equal(bucket[i].Data, c.Data) {
			return true
		}
	}
	return false
}

// fastCrypto is the Crypto of one kit.
type fastCrypto struct {
	a   *fastAuthority
	own *fastCertificate
}

func (c fastCrypto) of(s *ident.Signer) *fastCertificate {
	if s == nil {
		return c.own
	}
	return c.a.signers[s]
}

// messageInput is RFC 6940 §6.3.4's.
func messageInput(m *wire.Message, id *wire.SignerIdentity) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		b = binary.BigEndian.AppendUint32(b, m.Overlay)
		b = binary.BigEndian.AppendUint64(b, m.TransactionID)
		b, err := m.AppendContents(b)
		if err != nil {
			return b, err
		}
		return id.AppendBinary(b)
	}
}

// storedInput is RFC 6940 §7.1's.
func storedInput(res wire.ResourceID, kind wire.KindID, v *wire.StoredData, id *wire.SignerIdentity) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		b = append(b, res...)
		b = binary.BigEndian.AppendUint32(b, uint32(kind))
		b = binary.BigEndian.AppendUint64(b, v.StorageTime)
		value := v.Value
		value.Index = 0
		b, err := value.AppendBinary(b)
		if err != nil {
			return b, err
		}
		return id.AppendBinary(b)
	}
}

// Sign is peer.Crypto's.
func (c fastCrypto) Sign(m *wire.Message, s *ident.Signer) error {
	by := c.of(s)
	sig, err := c.a.sign(by, messageInput(m, &by.identity))
	if err != nil {
		return err
	}
	bucket := by.bucket
	if len(m.Security.Certificates) > 0 {
		bucket = ident.MergeBucket(append([]wire.Certificate(nil), bucket...), m.Security.Certificates)
	}
	m.Security = wire.SecurityBlock{Certificates: bucket, Signature: sig}
	return nil
}

// Verify is peer.Crypto's.
func (c fastCrypto) Verify(m *wire.Message, _ time.Time) (*ident.Peer, error) {
	by, err := c.a.verify(&m.Security.Signature, m.Security.Certificates, messageInput(m, &m.Security.Signature.Identity))
	if err != nil {
		return nil, err
	}
	return &by.peer, nil
}

// SignStored is peer.Crypto's.
func (c fastCrypto) SignStored(res wire.ResourceID, kind wire.KindID, v *wire.StoredData, s *ident.Signer) (err error) {
	by := c.of(s)
	v.Signature, err = c.a.sign(by, storedInput(res, kind, v, &by.identity))
	return err
}

// VerifyStored is peer.Crypto's.
func (c fastCrypto) VerifyStored(res wire.ResourceID, kind wire.KindID, v *wire.StoredData, bucket []wire.Certificate, _ time.Time) (*ident.Peer, []wire.Certificate, error) {
	by, err := c.a.verify(&v.Signature, bucket, storedInput(res, kind, v, &v.Signature.Identity))
	if err != nil {
		return nil, nil, err
	}
	return &by.peer, by.bucket, nil
}

// ParseDocument is peer.Crypto's. Simulated missions keep the document they began with.
func (c fastCrypto) ParseDocument([]byte, *config.Document, time.Time) (*config.Document, error) {
	return nil, errors.New("simulated mission: its document does not change")
}
