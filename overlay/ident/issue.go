package ident

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"time"

	"fieldkit/overlay/wire"
)

// Every certificate is valid from a past that no kit's clock precedes to the end of time: a board without a
// clock must be able to check it (RFC 5280 §4.1.2.5 gives 99991231235959Z for "no well-defined expiration").
var (
	notBefore = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// Authority is a mission's root: who holds it can let kits in and sign configuration documents.
type Authority struct {
	key     *ecdsa.PrivateKey
	cert    *x509.Certificate
	overlay string
	length  int // of Node-IDs
}

// NewAuthority makes the root of a new mission for the overlay of that name, with Node-IDs of length bytes.
func NewAuthority(overlay string, length int) (*Authority, error) {
	if err := ValidateOverlayName(overlay); err != nil {
		return nil, err
	}
	if err := validateLength(length); err != nil {
		return nil, err
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: shorten(overlay, 64)}, // upper bound of RFC 5280 appendix A
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	return &Authority{key: key, cert: cert, overlay: overlay, length: length}, nil
}

func shorten(s string, n int) string { return s[:min(len(s), n)] }

func validateLength(n int) error {
	if n < wire.MinNodeIDLen || n > wire.MaxNodeIDLen {
		return fmt.Errorf("node-id-length %d: want %d to %d", n, wire.MinNodeIDLen, wire.MaxNodeIDLen)
	}
	return nil
}

// LoadAuthority reads what CertificatePEM and KeyPEM wrote.
func LoadAuthority(overlay string, length int, certPEM, keyPEM []byte) (*Authority, error) {
	if err := ValidateOverlayName(overlay); err != nil {
		return nil, err
	}
	if err := validateLength(length); err != nil {
		return nil, err
	}
	cert, err := ParseCertificatePEM(certPEM)
	if err != nil {
		return nil, fmt.Errorf("root certificate: %w", err)
	}
	if err := checkRoot(cert); err != nil {
		return nil, err
	}
	key, err := ParseKeyPEM(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("root key: not the key of the root certificate")
	}
	return &Authority{key: key, cert: cert, overlay: overlay, length: length}, nil
}

// Certificate is the root certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// CertificatePEM is the root certificate.
func (a *Authority) CertificatePEM() []byte { return encodeCertificate(a.cert.Raw) }

// KeyPEM is the root's private key.
func (a *Authority) KeyPEM() ([]byte, error) { return EncodeKeyPEM(a.key) }

// NewIdentity makes a kit: a new key and a kit certificate for it.
func (a *Authority) NewIdentity() (*Identity, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	return a.Issue(key)
}

// Issue makes the kit certificate of key: an intermediate that may issue end certificates only (pathLen 0), and
// by Trust's rules only for its own key. Its Node-ID is that of the key, its user name the Node-ID at the overlay.
func (a *Authority) Issue(key *ecdsa.PrivateKey) (*Identity, error) {
	id, _, err := nodeIDOfKey(key, a.length)
	if err != nil {
		return nil, err
	}
	c, err := issue(grant{ids: []wire.NodeID{id}, user: KitUser(id, a.overlay), overlay: a.overlay, kit: true, parent: a.cert, pub: key.Public(), key: a.key})
	if err != nil {
		return nil, fmt.Errorf("kit certificate: %w", err)
	}
	return newIdentity(key, &known{certificate: *c, root: a.cert}, a.overlay)
}

// Certify makes a certificate for somebody else's key, as an enrolment server does (RFC 6940 §11.3): with the Node-IDs
// that were assigned to it, which need not be those of the key, and a user name. A kit's may issue certificates for the
// kit's own key. Who believes it follows a document with an enrollment-server.
func (a *Authority) Certify(pub crypto.PublicKey, ids []wire.NodeID, user string, kit bool) ([]byte, error) {
	if len(ids) == 0 {
		return nil, errors.New("certificate without a Node-ID")
	}
	c, err := issue(grant{ids: ids, user: user, overlay: a.overlay, kit: kit, parent: a.cert, pub: pub, key: a.key})
	if err != nil {
		return nil, err
	}
	return c.leaf().Raw, nil
}

// Overlay is the name of the authority's overlay.
func (a *Authority) Overlay() string { return a.overlay }

// NodeIDLength is the length of its Node-IDs in bytes.
func (a *Authority) NodeIDLength() int { return a.length }

// SelfSigned makes an identity with a certificate of its own, for an overlay that permits them (RFC 6940 §11.3.1), with
// count Node-IDs. user "" is the kit's own name, KitUser of its first Node-ID.
func SelfSigned(d *Document, key *ecdsa.PrivateKey, user string, count int) (*Identity, error) {
	if !d.SelfSigned {
		return nil, fmt.Errorf("%w: self-signed certificates are not permitted in overlay %q", ErrUntrusted, d.InstanceName)
	}
	_, spki, err := nodeIDOfKey(key, d.NodeIDLength)
	if err != nil {
		return nil, err
	}
	ids, err := keyNodeIDs(spki, d.Rest.Digest, count, d.NodeIDLength)
	if err != nil {
		return nil, err
	}
	if user == "" {
		user = KitUser(ids[0], d.InstanceName)
	}
	c, err := issue(grant{ids: ids, user: user, overlay: d.InstanceName, pub: key.Public(), key: key})
	if err != nil {
		return nil, fmt.Errorf("self-signed certificate: %w", err)
	}
	return newIdentity(key, &known{certificate: *c}, d.InstanceName)
}

// KitUser is the user name of a kit itself.
func KitUser(id wire.NodeID, overlay string) string { return id.String() + "@" + overlay }

// Signer is the mission's own voice, the configuration-signer and kind-signer of its documents: an end
// certificate for the root's key. Its Node-ID is that of the root key, so whoever holds the mission file can sign.
func (a *Authority) Signer() (*Signer, error) { return a.signer(a.cert) }

// SelfSigner is the same for an overlay of self-signed certificates with SHA-256, whose documents have no root-cert: the
// certificate is the key's own.
func (a *Authority) SelfSigner() (*Signer, error) { return a.signer(nil) }

func (a *Authority) signer(parent *x509.Certificate) (*Signer, error) {
	c, err := issue(grant{ids: []wire.NodeID{a.SignerNodeID()}, user: "mission@" + a.overlay, overlay: a.overlay, parent: parent, pub: a.key.Public(), key: a.key})
	if err != nil {
		return nil, fmt.Errorf("mission signer's certificate: %w", err)
	}
	return newSigner(a.key, c), nil
}

// SignerNodeID is the Node-ID that Signer signs with.
func (a *Authority) SignerNodeID() wire.NodeID {
	id, _, err := nodeIDOfKey(a.key, a.length)
	if err != nil { // the key and the length were checked when a was made
		panic(err)
	}
	return id
}

// grant is what goes into a certificate.
type grant struct {
	ids     []wire.NodeID
	user    string
	overlay string
	kit     bool              // may issue for its own key
	parent  *x509.Certificate // nil: self-signed
	pub     crypto.PublicKey
	key     *ecdsa.PrivateKey // the issuer's
}

// issue makes a certificate as RFC 6940 §11.3 describes it: empty subject, and in the subjectAltName (critical,
// because the subject is empty, RFC 5280 §4.2.1.6) a reload URI for each Node-ID and one rfc822Name and nothing else.
// RFC 5280 §4.1.2.6 wants a CA's subject filled; RFC 6940's rule goes first here, and Trust, the only reader, finds the
// kit by its key and not by its name.
func issue(g grant) (*certificate, error) {
	if err := ValidateUser(g.user); err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		EmailAddresses:        []string{g.user},
		BasicConstraintsValid: true,
	}
	for _, id := range g.ids {
		uri, err := url.Parse(ReloadURI(id, g.overlay))
		if err != nil {
			return nil, fmt.Errorf("reload URI: %w", err)
		}
		tmpl.URIs = append(tmpl.URIs, uri)
	}
	if g.kit {
		tmpl.KeyUsage |= x509.KeyUsageCertSign
		tmpl.IsCA, tmpl.MaxPathLenZero = true, true
	}
	parent := g.parent
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, g.pub, g.key)
	if err != nil {
		return nil, err
	}
	// The one reader that matters is Trust: what it would refuse must not be issued.
	return parseCertificate(der, g.overlay, g.ids[0].Len())
}

func newSerial() (*big.Int, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	b[0] &= 0x7f
	b[7] |= 1 // never zero (RFC 5280 §4.1.2.2)
	return new(big.Int).SetBytes(b[:]), nil
}

// NewKey makes an ECDSA P-256 key.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key generation: %w", err)
	}
	return key, nil
}

func nodeIDOfKey(key *ecdsa.PrivateKey, length int) (wire.NodeID, []byte, error) {
	if key.Curve != elliptic.P256() {
		return wire.NodeID{}, nil, errors.New("key: not ECDSA P-256")
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return wire.NodeID{}, nil, fmt.Errorf("public key: %w", err)
	}
	id, err := nodeIDOf(spki, length)
	return id, spki, err
}

// KeyNodeID is the Node-ID of length bytes that belongs to a certificate's key, by SHA-256.
func KeyNodeID(x *x509.Certificate, length int) (wire.NodeID, error) {
	return nodeIDOf(x.RawSubjectPublicKeyInfo, length)
}

const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY" // PKCS #8
	maxPEM         = 64 << 10
)

// EncodeKeyPEM writes a private key as PKCS #8.
func EncodeKeyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// ParseKeyPEM reads one ECDSA P-256 private key.
func ParseKeyPEM(b []byte) (*ecdsa.PrivateKey, error) {
	blocks, err := pemBlocks(b, pemKey, 1)
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKCS8PrivateKey(blocks[0])
	if err != nil {
		return nil, errors.New("private key: not PKCS #8") // the cause could quote key bytes
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("private key: not ECDSA P-256")
	}
	return key, nil
}

// ParseCertificatePEM reads one certificate.
func ParseCertificatePEM(b []byte) (*x509.Certificate, error) {
	blocks, err := pemBlocks(b, pemCertificate, 1)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(blocks[0])
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})
}

// pemBlocks reads 1 to limit blocks of one type and nothing else but white space.
func pemBlocks(b []byte, kind string, limit int) ([][]byte, error) {
	if len(b) > maxPEM {
		return nil, fmt.Errorf("PEM of %d bytes: more than %d", len(b), maxPEM)
	}
	var out [][]byte
	for len(bytes.TrimSpace(b)) > 0 {
		block, rest := pem.Decode(b)
		switch {
		case block == nil:
			return nil, errors.New("PEM: malformed")
		case block.Type != kind:
			return nil, fmt.Errorf("PEM block %q: want %q", block.Type, kind)
		case len(out) == limit:
			return nil, fmt.Errorf("PEM: more than %d blocks", limit)
		}
		out, b = append(out, block.Bytes), rest
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("PEM: no %q block", kind)
	}
	return out, nil
}

// oidSubjectAltName is id-ce-subjectAltName (RFC 5280 §4.2.1.6).
var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// ServerCertificate makes a TLS certificate under the root for the mission's own HTTPS servers, whose names and addresses
// are given ("The server certificate MUST match the overlay name", RFC 6940 §11.3), with a key of its own. It says
// nothing of a Node-ID, so that no peer believes it.
func (a *Authority) ServerCertificate(names []string, addrs []netip.Addr) (tls.Certificate, error) {
	key, err := NewKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "enrolment"}, NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: names, BasicConstraintsValid: true,
	}
	for _, ip := range addrs {
		tmpl.IPAddresses = append(tmpl.IPAddresses, ip.Unmap().AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("server certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
