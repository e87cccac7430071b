package ident

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"fieldkit/overlay/wire"
)

// Bounds on what a stranger can make a kit parse and verify.
const (
	MaxCertificate = 2048 // bytes of DER; an RSA-4096 certificate under an RSA-4096 root has about 1,500
	MaxChain       = 3    // handset, kit, and the root, which some TLS stacks send too
	MaxBucket      = 64   // certificates in one message
	MaxNodeIDs     = 16   // Node-IDs in one certificate
	minRSABits     = 2048
	maxRSABits     = 4096
	maxRSAExponent = 65537
)

// Peer is somebody whose certificate chain was verified. It is shared between goroutines: read only.
type Peer struct {
	NodeID  wire.NodeID       // the one that signed; behind a (D)TLS handshake, which names none, the first
	NodeIDs []wire.NodeID     // all in the certificate, at least one
	User    string            // rfc822Name: an AOR, or the kit's own name (KitUser)
	Leaf    *x509.Certificate // what it signs with
	Hash    [sha256.Size]byte // SHA-256 over the leaf's DER
}

// certificate is one parsed certificate that keeps RFC 6940 §11.3's rules on its contents. Who signed it is not
// part of that.
type certificate struct {
	peer Peer
	kit  bool // may issue (CA)
}

func (c *certificate) leaf() *x509.Certificate { return c.peer.Leaf }

var emptySubject = []byte{0x30, 0x00}

// parseCertificate checks everything about a certificate that it can say about itself. Whether its Node-IDs are its
// own depends on who issued it: policy.prove.
func parseCertificate(der []byte, overlay string, idLen int) (*certificate, error) {
	if len(der) > MaxCertificate {
		return nil, fmt.Errorf("certificate of %d bytes: more than %d", len(der), MaxCertificate)
	}
	x, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if x.Version != 3 {
		return nil, fmt.Errorf("certificate version %d: want 3", x.Version)
	}
	if string(x.RawSubject) != string(emptySubject) {
		return nil, errors.New("certificate subject: not empty")
	}
	if len(x.UnhandledCriticalExtensions) > 0 {
		return nil, fmt.Errorf("certificate extension %v: critical and unknown", x.UnhandledCriticalExtensions[0])
	}
	if err := checkKey(x.PublicKey); err != nil {
		return nil, err
	}
	if err := checkSignatureAlgorithm(x.SignatureAlgorithm); err != nil {
		return nil, err
	}
	if err := checkUsage(x); err != nil {
		return nil, err
	}
	uris, user, err := altNames(x)
	if err != nil {
		return nil, err
	}
	peer := Peer{User: user, Leaf: x, Hash: sha256.Sum256(der)}
	for _, uri := range uris {
		id, name, err := parseReloadURI(uri)
		switch {
		case err != nil:
			return nil, err
		case name != overlay:
			return nil, fmt.Errorf("certificate for overlay %q: want %q", name, overlay)
		case id.Len() != idLen || id.IsInvalid() || id.IsWildcard():
			return nil, fmt.Errorf("certificate Node-ID %v: not one of %d bytes", id, idLen)
		case slices.Contains(peer.NodeIDs, id):
			return nil, fmt.Errorf("certificate Node-ID %v: twice", id)
		}
		peer.NodeIDs = append(peer.NodeIDs, id)
	}
	if err := ValidateUser(user); err != nil {
		return nil, err
	}
	peer.NodeID = peer.NodeIDs[0]
	return &certificate{peer: peer, kit: x.IsCA}, nil
}

// keyBound is RFC 6940 §11.3.1: "When accepting a self-signed certificate, nodes MUST check that the Node-ID and
// public keys match. This prevents Node-ID theft."
func (c *certificate) keyBound(digest string) error {
	want, err := keyNodeIDs(c.leaf().RawSubjectPublicKeyInfo, digest, len(c.peer.NodeIDs), c.peer.NodeID.Len())
	if err != nil {
		return err
	}
	for _, id := range c.peer.NodeIDs {
		if !slices.Contains(want, id) {
			return fmt.Errorf("certificate Node-ID %v: its key has %v", id, want)
		}
	}
	return nil
}

func checkKey(pub any) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return errors.New("certificate key: ECDSA, but not P-256")
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < minRSABits || n > maxRSABits {
			return fmt.Errorf("certificate key: RSA of %d bits, want %d to %d", n, minRSABits, maxRSABits)
		}
		if k.E < 3 || k.E > maxRSAExponent || k.E&1 == 0 { // a huge exponent costs the verifier, not the signer
			return fmt.Errorf("certificate key: RSA exponent %d", k.E)
		}
	default:
		return fmt.Errorf("certificate key: %T", pub)
	}
	return nil
}

func checkSignatureAlgorithm(a x509.SignatureAlgorithm) error {
	if a != x509.ECDSAWithSHA256 && a != x509.SHA256WithRSA {
		return fmt.Errorf("certificate signature algorithm %v: want ECDSA or RSA PKCS #1 v1.5 with SHA-256", a)
	}
	return nil
}

func checkUsage(x *x509.Certificate) error {
	if x.KeyUsage != 0 && x.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return errors.New("certificate key usage: digitalSignature missing")
	}
	return nil
}

// checkIntermediate is what the root may give a kit: to issue end certificates, and nothing that issues in turn.
func checkIntermediate(x *x509.Certificate) error {
	if !x.BasicConstraintsValid || x.MaxPathLen != 0 || !x.MaxPathLenZero {
		return errors.New("certificate of a kit: path length not limited to 0")
	}
	if x.KeyUsage != 0 && x.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("certificate of a kit: key usage keyCertSign missing")
	}
	return nil
}

// altNames reads the subjectAltName byte by byte, because crypto/x509 passes silently over name types it does not
// know: "The SubjectAltName field in the certificate MUST NOT contain any identities other than those listed
// above." (RFC 6940 §11.3)
func altNames(x *x509.Certificate) (uris []string, user string, err error) {
	const (
		rfc822Name = cbasn1.Tag(1) | 0x80 // context-specific, primitive (RFC 5280 §4.2.1.6)
		uriName    = cbasn1.Tag(6) | 0x80
	)
	found := false
	for _, e := range x.Extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			continue
		}
		if found { // RFC 5280 §4.2
			return nil, "", errors.New("certificate: two subjectAltName extensions")
		}
		found = true
		if !e.Critical { // RFC 5280 §4.2.1.6, the subject being empty
			return nil, "", errors.New("certificate subjectAltName: not critical")
		}
		in, names := cryptobyte.String(e.Value), cryptobyte.String(nil)
		if !in.ReadASN1(&names, cbasn1.SEQUENCE) || !in.Empty() {
			return nil, "", errors.New("certificate subjectAltName: malformed")
		}
		for !names.Empty() {
			var value cryptobyte.String
			var tag cbasn1.Tag
			if !names.ReadAnyASN1(&value, &tag) {
				return nil, "", errors.New("certificate subjectAltName: malformed")
			}
			switch {
			case tag == uriName && len(uris) < MaxNodeIDs && len(value) > 0:
				uris = append(uris, string(value))
			case tag == rfc822Name && user == "" && len(value) > 0:
				user = string(value)
			default:
				return nil, "", fmt.Errorf("certificate subjectAltName: identity of type %d besides 1 to %d reload URIs and one rfc822Name", tag&0x1f, MaxNodeIDs)
			}
		}
	}
	if len(uris) == 0 || user == "" {
		return nil, "", errors.New("certificate subjectAltName: no reload URI or no rfc822Name")
	}
	return uris, user, nil
}

// checkRoot is what a trust anchor must be.
func checkRoot(x *x509.Certificate) error {
	if len(x.Raw) > MaxCertificate {
		return fmt.Errorf("root certificate of %d bytes: more than %d", len(x.Raw), MaxCertificate)
	}
	if !x.BasicConstraintsValid || !x.IsCA {
		return errors.New("root certificate: not a CA")
	}
	if x.KeyUsage != 0 && x.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("root certificate: key usage keyCertSign missing")
	}
	if err := checkKey(x.PublicKey); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// validAt is RFC 6940 §7.1: "the current time MUST be compared to the certificate validity period".
func validAt(x *x509.Certificate, now time.Time) error {
	if now.Before(x.NotBefore) || now.After(x.NotAfter) {
		return fmt.Errorf("certificate valid from %s to %s", x.NotBefore.Format(time.DateOnly), x.NotAfter.Format(time.DateOnly))
	}
	return nil
}

// publicKeyInfo cuts the SubjectPublicKeyInfo out of a certificate without judging the rest.
func publicKeyInfo(der []byte) ([]byte, bool) {
	x, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, false
	}
	return x.RawSubjectPublicKeyInfo, true
}
