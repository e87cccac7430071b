package wire

import "strconv"

// Certificate types (RFC 6091).
const CertificateX509 uint8 = 0

// Certificate is a GenericCertificate (RFC 6940 §6.3.4). Data is at most 65535 bytes: the DER form
// when Type is CertificateX509.
type Certificate struct {
	Type uint8
	Data []byte
}

// Hash and signature algorithms (TLS registries, RFC 6940 §6.3.4).
const (
	HashNone   uint8 = 0
	HashSHA1   uint8 = 2
	HashSHA256 uint8 = 4
	SigAnon    uint8 = 0
	SigRSA     uint8 = 1
	SigECDSA   uint8 = 3
)

// IdentityType is the type of a SignerIdentity (RFC 6940 §6.3.4).
type IdentityType uint8

// Signer identity types.
const (
	IdentityCertHash       IdentityType = 1 // hash of the certificate
	IdentityCertHashNodeID IdentityType = 2 // hash of Node-ID and certificate
	IdentityNone           IdentityType = 3 // synthetic values of a Fetch only (RFC 6940 §7.4.2.2)
)

// SignerIdentity names the certificate that signed.
type SignerIdentity struct {
	Type    IdentityType
	HashAlg uint8  // IdentityCertHash, IdentityCertHashNodeID
	Hash    []byte // the same; at most 255 bytes
	Raw     []byte // the data of types this code does not know
}

// AppendBinary appends the identity, as it stands in a Signature and ends the input of a signature.
func (s SignerIdentity) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.signerIdentity(&s)
	return w.end(b, "SignerIdentity")
}

func (r *reader) signerIdentity() SignerIdentity {
	const field = "identity"
	start := r.at()
	s := SignerIdentity{Type: IdentityType(r.u8(field))}
	v := r.vector(2, field)
	if r.err != nil {
		return SignerIdentity{}
	}
	switch s.Type {
	case 0:
		r.fail(start, field, "identity_type 0")
	case IdentityCertHash, IdentityCertHashNodeID:
		s.HashAlg = v.u8("hash_alg")
		s.Hash = v.opaque(1, "certificate_hash")
	case IdentityNone:
	default:
		s.Raw = v.rest()
	}
	r.join(&v, field)
	return s
}

func (w *writer) signerIdentity(s *SignerIdentity) {
	if s.Type == 0 {
		w.fail("SignerIdentity without a type")
	}
	w.u8(uint8(s.Type))
	at := w.open(2)
	switch s.Type {
	case IdentityCertHash, IdentityCertHashNodeID:
		w.u8(s.HashAlg)
		w.opaque(1, s.Hash, "certificate hash")
	case IdentityNone:
	default:
		w.bytes(s.Raw)
	}
	w.close(at, 2, "SignerIdentity")
}

// Signature is RFC 6940 §6.3.4. Value is at most 65535 bytes.
type Signature struct {
	HashAlg  uint8
	SigAlg   uint8
	Identity SignerIdentity
	Value    []byte
}

// NoSignature is the signature of a synthetic nonexistent value in the answer to a Fetch
// (RFC 6940 §7.4.2.2).
func NoSignature() Signature { return Signature{Identity: SignerIdentity{Type: IdentityNone}} }

func (r *reader) signature() Signature {
	defer r.scope(r.ok(), "signature")
	return Signature{
		HashAlg: r.u8("algorithm.hash"), SigAlg: r.u8("algorithm.signature"),
		Identity: r.signerIdentity(), Value: r.opaque(2, "signature_value"),
	}
}

func (w *writer) signature(s *Signature) {
	w.u8(s.HashAlg)
	w.u8(s.SigAlg)
	w.signerIdentity(&s.Identity)
	w.opaque(2, s.Value, "signature_value")
}

// SecurityBlock ends every message (RFC 6940 §6.3.4), and signs the configuration document (§11.1).
type SecurityBlock struct {
	Certificates []Certificate // at most MaxCertificates
	Signature    Signature
}

// ParseSecurityBlock reads a security block that stands alone, as in a configuration document.
func ParseSecurityBlock(b []byte) (SecurityBlock, error) {
	var s SecurityBlock
	r := newReader(b)
	r.securityBlock(&s)
	return finish(&r, s, "")
}

// AppendBinary appends the security block.
func (s SecurityBlock) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.securityBlock(&s)
	return w.end(b, "SecurityBlock")
}

func (r *reader) securityBlock(s *SecurityBlock) {
	defer r.scope(r.ok(), "security_block")
	v := r.vector(2, "certificates")
	for v.more() {
		if len(s.Certificates) == MaxCertificates {
			v.fail(v.at(), "", "more than "+strconv.Itoa(MaxCertificates)+" certificates")
			break
		}
		s.Certificates = append(s.Certificates, Certificate{
			Type: v.u8("type"), Data: v.opaque(2, "certificate"),
		})
	}
	r.join(&v, "certificates")
	s.Signature = r.signature()
}

func (w *writer) securityBlock(s *SecurityBlock) {
	if len(s.Certificates) > MaxCertificates {
		w.fail("too many certificates")
	}
	at := w.open(2)
	for i := range s.Certificates {
		w.u8(s.Certificates[i].Type)
		w.opaque(2, s.Certificates[i].Data, "certificate")
	}
	w.close(at, 2, "certificates")
	w.signature(&s.Signature)
}
