package ident

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	"fieldkit/overlay/wire"
)

// buffers holds the inputs of signatures while they are hashed.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// digest hashes what build appends.
func digest(build func(b []byte) ([]byte, error)) ([sha256.Size]byte, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	b, err := build((*buf)[:0])
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("signature input: %w", err)
	}
	if cap(b) <= maxMessageBuffer {
		*buf = b
	}
	return sha256.Sum256(b), nil
}

// maxMessageBuffer keeps one huge message from staying in memory for ever.
const maxMessageBuffer = 64 << 10

// messageDigest is over overlay ‖ transaction_id ‖ MessageContents ‖ SignerIdentity (RFC 6940 §6.3.4).
func messageDigest(m *wire.Message, id *wire.SignerIdentity) ([sha256.Size]byte, error) {
	return digest(func(b []byte) ([]byte, error) {
		b = binary.BigEndian.AppendUint32(b, m.Overlay)
		b = binary.BigEndian.AppendUint64(b, m.TransactionID)
		b, err := m.AppendContents(b)
		if err != nil {
			return b, err
		}
		return id.AppendBinary(b)
	})
}

// storedDigest is over resource_id ‖ kind ‖ storage_time ‖ StoredDataValue ‖ SignerIdentity (RFC 6940 §7.1).
// The text leaves two things open: the Resource-ID goes in raw, without its length octet, and an array entry
// with index 0, because the storing peer chooses the index of what is appended (docs/adr/0001).
func storedDigest(res wire.ResourceID, kind wire.KindID, v *wire.StoredData, id *wire.SignerIdentity) ([sha256.Size]byte, error) {
	return digest(func(b []byte) ([]byte, error) {
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
	})
}

// documentDigest is over blob ‖ SignerIdentity, blob being a configuration or kind element byte by byte
// (RFC 6940 §11.1; docs/adr/0001).
func documentDigest(blob []byte, id *wire.SignerIdentity) ([sha256.Size]byte, error) {
	return digest(func(b []byte) ([]byte, error) {
		return id.AppendBinary(append(b, blob...))
	})
}

// Sign fills m.Security as s. Certificates that are in the bucket already, of the signers of stored data in the
// body, stay there behind the signer's own: "The certificates bucket SHOULD contain all the certificates
// necessary to verify every signature in both the message and the internal message objects".
func Sign(m *wire.Message, s *Signer) error {
	d, err := messageDigest(m, &s.identity)
	if err != nil {
		return err
	}
	sig, err := s.sign(d)
	if err != nil {
		return err
	}
	bucket := s.chain
	if len(m.Security.Certificates) > 0 {
		bucket = MergeBucket(append([]wire.Certificate(nil), s.chain...), m.Security.Certificates)
	}
	if len(bucket) > MaxBucket {
		return fmt.Errorf("security block: %d certificates, more than %d", len(bucket), MaxBucket)
	}
	m.Security = wire.SecurityBlock{Certificates: bucket, Signature: sig}
	return nil
}

// MergeBucket appends to bucket those of more that are not in it.
func MergeBucket(bucket, more []wire.Certificate) []wire.Certificate {
next:
	for _, c := range more {
		for _, have := range bucket {
			if have.Type == c.Type && bytes.Equal(have.Data, c.Data) {
				continue next
			}
		}
		bucket = append(bucket, c)
	}
	return bucket
}

// VerifyMessage checks the signature of m and the certificate that made it. Whether that peer may say what it
// says (RFC 6940 §6.3.4's two rules for responses, and access control) is for the caller.
func (t *Trust) VerifyMessage(m *wire.Message, now time.Time) (*Peer, error) {
	k, err := t.signer(&m.Security.Signature, m.Security.Certificates, now)
	if err != nil {
		return nil, fmt.Errorf("message: %w", err)
	}
	d, err := messageDigest(m, &m.Security.Signature.Identity)
	if err != nil {
		return nil, err
	}
	if err := check(k.Leaf.PublicKey, &m.Security.Signature, d); err != nil {
		return nil, fmt.Errorf("message from %v: %w", k.NodeID, err)
	}
	return k, nil
}

// SignStored fills v.Signature, for a value of that Kind at that Resource-ID. v.Value.Model must be set.
func SignStored(res wire.ResourceID, kind wire.KindID, v *wire.StoredData, s *Signer) error {
	d, err := storedDigest(res, kind, v, &s.identity)
	if err != nil {
		return err
	}
	v.Signature, err = s.sign(d)
	return err
}

// VerifyStored checks the signature of a stored value with the certificates at hand: those of the message that
// brought it, or those kept with it.
func (t *Trust) VerifyStored(res wire.ResourceID, kind wire.KindID, v *wire.StoredData, bucket []wire.Certificate, now time.Time) (*Peer, error) {
	k, err := t.signer(&v.Signature, bucket, now)
	if err != nil {
		return nil, fmt.Errorf("stored value: %w", err)
	}
	d, err := storedDigest(res, kind, v, &v.Signature.Identity)
	if err != nil {
		return nil, err
	}
	if err := check(k.Leaf.PublicKey, &v.Signature, d); err != nil {
		return nil, fmt.Errorf("stored value of %q: %w", k.User, err)
	}
	return k, nil
}

// Chain picks from a bucket the certificates that verify what sig signed, leaf first: what a storing peer must
// keep as long as the data ("a peer storing data is obligated to retain certificates for the data that it
// holds", RFC 6940 §6.3.4). It verifies nothing; call it after VerifyStored.
func Chain(sig *wire.Signature, bucket []wire.Certificate) []wire.Certificate {
	leaf, _, ok := find(&sig.Identity, bucket)
	if !ok {
		return nil
	}
	chain := []wire.Certificate{leaf}
	spki, ok := publicKeyInfo(leaf.Data)
	for _, c := range bucket {
		if ok && c.Type == wire.CertificateX509 && len(chain) < MaxChain && !bytes.Equal(c.Data, leaf.Data) && bytes.Contains(c.Data, spki) {
			chain = append(chain, c)
		}
	}
	return chain
}

// signer finds the certificate that a signature names and verifies it. The peer's NodeID is the one that signed.
func (t *Trust) signer(sig *wire.Signature, bucket []wire.Certificate, now time.Time) (*Peer, error) {
	if len(bucket) > MaxBucket {
		return nil, fmt.Errorf("%w: %d certificates, more than %d", ErrUntrusted, len(bucket), MaxBucket)
	}
	leaf, node, ok := find(&sig.Identity, bucket)
	if !ok {
		return nil, fmt.Errorf("%w: the signer's certificate is not there", ErrSignature)
	}
	var others [MaxBucket][]byte
	n := 0
	for i := range bucket {
		if bucket[i].Type == wire.CertificateX509 {
			others[n] = bucket[i].Data
			n++
		}
	}
	hash := [sha256.Size]byte(sig.Identity.Hash)
	if sig.Identity.Type != wire.IdentityCertHash {
		hash = sha256.Sum256(leaf.Data)
	}
	k, err := t.p.Load().verify(leaf.Data, hash, others[:n], now)
	if err != nil {
		return nil, err
	}
	// "There are two permitted identity formats, one for a certificate with only one Node-ID and one for a certificate
	// with multiple Node-IDs."
	several := len(k.peer.NodeIDs) > 1
	switch {
	case several != (sig.Identity.Type == wire.IdentityCertHashNodeID):
		return nil, fmt.Errorf("%w: identity of type %d for a certificate with %d Node-IDs", ErrSignature, sig.Identity.Type, len(k.peer.NodeIDs))
	case !several:
		return &k.peer, nil
	case !slices.Contains(k.peer.NodeIDs, node):
		return nil, fmt.Errorf("%w: Node-ID %v is not in the certificate", ErrSignature, node)
	}
	p := k.peer
	p.NodeID = node
	return &p, nil
}

// find is the certificate that an identity names, with SHA-256: cert_hash, or cert_hash_node_id, which names the
// Node-ID as well (RFC 6940 §6.3.4). Nothing of the certificate is believed for that.
func find(id *wire.SignerIdentity, bucket []wire.Certificate) (c wire.Certificate, node wire.NodeID, ok bool) {
	if id.HashAlg != wire.HashSHA256 || len(id.Hash) != sha256.Size {
		return c, node, false
	}
	want := [sha256.Size]byte(id.Hash)
	for _, c := range bucket {
		if c.Type != wire.CertificateX509 || len(c.Data) > MaxCertificate {
			continue
		}
		switch id.Type {
		case wire.IdentityCertHash:
			if sha256.Sum256(c.Data) == want {
				return c, node, true
			}
		case wire.IdentityCertHashNodeID:
			for _, node := range claimed(c.Data) {
				if nodeIDHash(node, c.Data) == want {
					return c, node, true
				}
			}
		}
	}
	return c, node, false
}

// claimed are the Node-IDs in the reload URIs of a certificate. They are looked for among its bytes: to parse every
// certificate of a bucket costs more than to hash it, and what is found here has to pass verify anyway.
func claimed(der []byte) (ids []wire.NodeID) {
	const scheme = "://" // of which there is one in a reload URI, however its letters are written
	for len(ids) < MaxNodeIDs {
		i := bytes.Index(der, []byte(scheme))
		if i < 0 {
			return ids
		}
		der = der[i+len(scheme):]
		at := bytes.IndexByte(der[:min(len(der), 2*(2+wire.MaxNodeIDLen)+1)], '@')
		if at < 4 {
			continue
		}
		b, err := hex.DecodeString(string(der[4:at])) // behind type and length
		if err != nil {
			continue
		}
		if id, err := wire.NodeIDFrom(b); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// check verifies one signature. The key's type decides; the algorithm octets must agree with it.
func check(pub any, sig *wire.Signature, digest [sha256.Size]byte) error {
	ok := false
	if sig.HashAlg == wire.HashSHA256 {
		switch k := pub.(type) {
		case *ecdsa.PublicKey:
			ok = sig.SigAlg == wire.SigECDSA && ecdsa.VerifyASN1(k, digest[:], sig.Value)
		case *rsa.PublicKey: // "All implementations MUST support RSASSA-PKCS1-v1_5 signatures with SHA-256"
			ok = sig.SigAlg == wire.SigRSA && rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], sig.Value) == nil
		}
	}
	if !ok {
		return ErrSignature
	}
	return nil
}
