package decode

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1" // RFC 6940 §6.3.4 lets a signer choose it; what it proves is for the reader to judge
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// certificate is a certificate of a bucket with what RFC 6940 §11.3 puts in it.
type certificate struct {
	wire.Certificate
	parsed  *x509.Certificate // nil with err, or if it is of a type other than X.509
	err     error
	names   []wire.SignerIdentity // that a signature may call it by
	nodes   []wire.NodeID
	overlay string
	user    string
}

func readCertificates(bucket []wire.Certificate) []certificate {
	list := make([]certificate, len(bucket))
	for i := range bucket {
		list[i] = readCertificate(bucket[i])
	}
	return list
}

// maxNodes bounds the Node-IDs that are taken from one certificate.
const maxNodes = 64

var errCertificate = errors.New("certificate that cannot be read")

// readCertificate reads Node-IDs and user name from a certificate. It judges nothing: a certificate without them is shown
// without them.
func readCertificate(c wire.Certificate) certificate {
	r := certificate{Certificate: c}
	if c.Type != wire.CertificateX509 {
		return r
	}
	parsed, err := x509.ParseCertificate(c.Data)
	if err != nil {
		r.err = fmt.Errorf("%w: %w", errCertificate, err)
		return r
	}
	r.parsed = parsed
	for _, uri := range parsed.URIs {
		if uri.Scheme != "reload" || uri.User == nil {
			continue
		}
		b, err := hex.DecodeString(uri.User.Username())
		if err != nil {
			continue
		}
		list, err := wire.ParseDestinations(b)
		if err != nil {
			continue
		}
		r.overlay = uri.Host
		for _, d := range list {
			if d.Type == wire.DestNode && len(r.nodes) < maxNodes {
				r.nodes = append(r.nodes, d.Node)
			}
		}
	}
	if len(parsed.EmailAddresses) > 0 {
		r.user = parsed.EmailAddresses[0]
	}
	for _, alg := range []uint8{wire.HashSHA256, wire.HashSHA1} {
		sum := func(typ wire.IdentityType, node []byte) {
			h := newHash(alg)
			h.Write(node)
			h.Write(c.Data)
			r.names = append(r.names, wire.SignerIdentity{Type: typ, HashAlg: alg, Hash: h.Sum(nil)})
		}
		sum(wire.IdentityCertHash, nil)
		for _, id := range r.nodes {
			sum(wire.IdentityCertHashNodeID, id.Bytes())
		}
	}
	return r
}

// isNamed reports whether id means the certificate: by its hash (cert_hash), or by that of a Node-ID in it followed by the
// certificate (cert_hash_node_id, RFC 6940 §6.3.4).
func (c *certificate) isNamed(id *wire.SignerIdentity) bool {
	return slices.ContainsFunc(c.names, func(n wire.SignerIdentity) bool {
		return n.Type == id.Type && n.HashAlg == id.HashAlg && bytes.Equal(n.Hash, id.Hash)
	})
}

func (u *unit) certificate(name string, c *certificate) {
	u.object(name, func() {
		if c.Type != wire.CertificateX509 {
			u.num("type", uint64(c.Type))
			u.opaque("certificate", c.Data)
			return
		}
		u.str("type", "X.509")
		sum := sha256.Sum256(c.Data)
		u.opaque("sha256", sum[:])
		if c.parsed == nil {
			u.str("error", c.err.Error())
			u.opaque("certificate", c.Data)
			return
		}
		u.num("length", uint64(len(c.Data)))
		u.nodeIDs("node_ids", c.nodes)
		u.str("overlay", c.overlay)
		u.str("user", c.user)
		u.str("issuer", c.parsed.Issuer.String())
		u.str("public_key", c.parsed.PublicKeyAlgorithm.String())
		u.boolean("ca", c.parsed.IsCA)
		u.str("not_before", c.parsed.NotBefore.UTC().Format(time.RFC3339))
		u.str("not_after", c.parsed.NotAfter.UTC().Format(time.RFC3339))
	})
}

// security renders the SecurityBlock (RFC 6940 §6.3.4) of the message, with what its signature is worth.
func (u *unit) security(v verdict) {
	s := &u.message.Security
	u.object("security_block", func() {
		u.list("certificates", len(u.bucket), func(i int) { u.certificate("", &u.bucket[i]) })
		u.signature(&s.Signature, v)
	})
}

func (u *unit) signature(s *wire.Signature, v verdict) {
	u.object("signature", func() {
		u.object("algorithm", func() {
			u.named("hash", uint64(s.HashAlg), hashNames)
			u.named("signature", uint64(s.SigAlg), signatureNames)
		})
		u.object("identity", func() {
			id := &s.Identity
			u.named("identity_type", uint64(id.Type), identityNames)
			switch id.Type {
			case wire.IdentityCertHash, wire.IdentityCertHashNodeID:
				u.named("hash_alg", uint64(id.HashAlg), hashNames)
				field := "certificate_hash"
				if id.Type == wire.IdentityCertHashNodeID {
					field = "certificate_node_id_hash"
				}
				u.opaque(field, id.Hash)
			case wire.IdentityNone:
			default:
				u.opaque("identity", id.Raw)
			}
		})
		u.opaque("signature_value", s.Value)
		u.object("verification", func() {
			u.str("result", v.result)
			if v.signer != nil {
				u.nodeIDs("node_ids", v.signer.nodes)
				u.str("user", v.signer.user)
			}
			if v.chain != "" {
				u.str("chain", v.chain)
			}
		})
	})
}

// What a signature is worth.
const (
	valid         = "valid"             // made with the key of the certificate that it names
	invalid       = "invalid"           // not made with it, or of something else
	unsigned      = "none"              // identity_type none
	noCertificate = "no certificate"    // the one that it names is not in the bucket
	noResource    = "unknown resource"  // the request that would tell what a FetchAns is about was not seen
	noAlgorithm   = "unknown algorithm" // none of those of RFC 6940 §6.3.4, or not one for that key
	unchecked     = "not checked"       // too many signatures in one message
)

// maxChecks bounds the signatures that are checked in one message, however many values and names it has.
const maxChecks = 2000

// verdict is what a signature is worth, by whose certificate, and whether that one is believed: "trusted", the reason why
// not, or nothing if nobody asked.
type verdict struct {
	result string
	signer *certificate
	chain  string
}

// verifyMessage checks overlay ‖ transaction_id ‖ MessageContents ‖ SignerIdentity (RFC 6940 §6.3.4). Unlike ident's
// verifier it needs no trust.
func (u *unit) verifyMessage() verdict {
	m := u.message
	v := u.signer(&m.Security.Signature)
	if v.result != "" {
		return v
	}
	input := binary.BigEndian.AppendUint32(nil, m.Overlay)
	input = binary.BigEndian.AppendUint64(input, m.TransactionID)
	input, err := m.AppendContents(input)
	if err != nil || !u.check(v.signer, &m.Security.Signature, input) {
		return u.judge(v, invalid, nil)
	}
	return u.judge(v, valid, func() error {
		_, err := u.trust.VerifyMessage(m, u.time)
		return err
	})
}

// verifyStored checks resource_id ‖ kind ‖ storage_time ‖ StoredDataValue ‖ SignerIdentity (RFC 6940 §7.1), with the
// resource raw and the index of an array entry 0 (docs/adr/0001), for each of the resources until it is right. A FetchAns
// does not tell its resource: without its request, those are tried where its signer may store at all.
func (u *unit) verifyStored(resources []wire.ResourceID, kind wire.KindID, d *wire.StoredData) verdict {
	v := u.signer(&d.Signature)
	if v.result != "" {
		return v
	}
	otherwise := invalid
	if len(resources) == 0 {
		resources, otherwise = resourcesOf(v.signer, u.idBytes), noResource
	}
	if u.checks < len(resources) {
		return u.judge(v, unchecked, nil)
	}
	for _, resource := range resources {
		input := binary.BigEndian.AppendUint32([]byte(resource), uint32(kind))
		input = binary.BigEndian.AppendUint64(input, d.StorageTime)
		value := d.Value
		value.Index = 0
		if input, err := value.AppendBinary(input); err == nil && u.check(v.signer, &d.Signature, input) {
			return u.judge(v, valid, func() error {
				_, err := u.trust.VerifyStored(resource, kind, d, u.message.Security.Certificates, u.time)
				return err
			})
		}
	}
	return u.judge(v, otherwise, nil)
}

// judge completes and counts a verdict; chain asks whether the signer is believed.
func (u *unit) judge(v verdict, result string, chain func() error) verdict {
	v.result = result
	if result == invalid {
		u.stats.Invalid++
	}
	if chain == nil || u.trust == nil {
		return v
	}
	v.chain = "trusted"
	if err := chain(); err != nil {
		v.chain = err.Error()
		u.stats.Untrusted++
	}
	return v
}

// resourcesOf is where the policies of RFC 6940 §7.3 let somebody store.
func resourcesOf(c *certificate, idBytes int) []wire.ResourceID {
	list := []wire.ResourceID{wire.ResourceIDFor([]byte(c.user), idBytes)}
	const maxMultiple = 20 // of TURN-SERVICE (RFC 6940 §9)
	for _, id := range c.nodes {
		list = append(list, wire.ResourceIDFor(id.Bytes(), idBytes))
		for i := byte(1); i <= maxMultiple; i++ {
			list = append(list, wire.ResourceIDFor(append(id.Bytes(), i), idBytes))
		}
	}
	return list
}

// signer finds the certificate that a signature names. The result is empty if it is there.
func (u *unit) signer(s *wire.Signature) verdict {
	if s.Identity.Type == wire.IdentityNone {
		return verdict{result: unsigned}
	}
	if newHash(s.Identity.HashAlg) == nil || s.Identity.Type > wire.IdentityNone {
		return verdict{result: noAlgorithm}
	}
	for i := range u.bucket {
		c := &u.bucket[i]
		if !c.isNamed(&s.Identity) {
			continue
		}
		if !fits(c.parsed.PublicKey, s) {
			return verdict{result: noAlgorithm, signer: c}
		}
		return verdict{signer: c}
	}
	return verdict{result: noCertificate}
}

func newHash(alg uint8) hash.Hash {
	switch alg {
	case wire.HashSHA1:
		return sha1.New()
	case wire.HashSHA256:
		return sha256.New()
	default:
		return nil
	}
}

// fits reports whether a key can have made a signature of that algorithm.
func fits(key any, s *wire.Signature) bool {
	if newHash(s.HashAlg) == nil {
		return false
	}
	switch key.(type) {
	case *ecdsa.PublicKey:
		return s.SigAlg == wire.SigECDSA
	case *rsa.PublicKey:
		return s.SigAlg == wire.SigRSA
	default:
		return false
	}
}

// check verifies the signature over input followed by its identity.
func (u *unit) check(signer *certificate, s *wire.Signature, input []byte) bool {
	input, err := s.Identity.AppendBinary(input)
	u.checks--
	if err != nil {
		return false
	}
	h, alg := newHash(s.HashAlg), crypto.SHA256
	if s.HashAlg == wire.HashSHA1 {
		alg = crypto.SHA1
	}
	h.Write(input)
	switch key := signer.parsed.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, h.Sum(nil), s.Value)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, alg, h.Sum(nil), s.Value) == nil
	default:
		return false
	}
}
