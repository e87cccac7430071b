package ident

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"fieldkit/overlay/config"
	"fieldkit/overlay/wire"
)

// What callers decide on.
var (
	// ErrUntrusted is a certificate chain that does not end at the mission's root or breaks a rule.
	ErrUntrusted = errors.New("untrusted certificate")
	// ErrRevoked is a certificate whose Node-ID the configuration document lists as bad-node.
	ErrRevoked = errors.New("revoked Node-ID")
	// ErrSignature is a signature that does not verify or is not there.
	ErrSignature = errors.New("bad signature")
)

// ClockFloor is the earliest time that is believed: this code did not exist before. A board without a clock
// starts in 1970, and its kit must not refuse everybody for that.
var ClockFloor = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// maxPeers bounds the verified certificates that Trust remembers (up to twice as many): 16 kits with 60
// handsets each. What is pushed out is verified again.
const maxPeers = 512

// Trust decides whom to believe in one overlay. It is safe for concurrent use.
type Trust struct{ p atomic.Pointer[policy] }

// policy is immutable but for its cache.
type policy struct {
	overlay string
	length  int
	roots   []*x509.Certificate
	digest  string // of self-signed certificates, "" where they are not permitted
	enrols  bool   // the roots assign Node-IDs at an enrolment server
	revoked map[wire.NodeID]struct{}
	known   *cache[[sha256.Size]byte, *known]
}

// known is what was once proved about a certificate and stays true as long as the roots do. Time and revocation
// are asked at each use.
type known struct {
	certificate
	root *x509.Certificate // that issued it; nil: it is signed with the very key that it certifies
}

// NewTrust believes who chains to one of roots, for the overlay of that name with Node-IDs of length bytes,
// except revoked ones.
func NewTrust(overlay string, length int, roots []*x509.Certificate, revoked []wire.NodeID) (*Trust, error) {
	t := new(Trust)
	if err := t.set(&policy{overlay: overlay, length: length, roots: roots}, revoked); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *Trust) set(p *policy, revoked []wire.NodeID) error {
	if err := ValidateOverlayName(p.overlay); err != nil {
		return err
	}
	if err := validateLength(p.length); err != nil {
		return err
	}
	if len(p.roots) == 0 && p.digest == "" {
		return errors.New("trust without a root certificate")
	}
	for _, r := range p.roots {
		if err := checkRoot(r); err != nil {
			return err
		}
	}
	p.roots = slices.Clone(p.roots)
	p.revoked = make(map[wire.NodeID]struct{}, len(revoked))
	for _, id := range revoked {
		p.revoked[id] = struct{}{}
	}
	if old := t.p.Load(); old != nil && old.sameRules(p) {
		p.known = old.known
	} else {
		p.known = newCache[[sha256.Size]byte, *known](maxPeers)
	}
	t.p.Store(p)
	return nil
}

// sameRules tells that what was proved under p is proved under o.
func (p *policy) sameRules(o *policy) bool {
	return p.overlay == o.overlay && p.length == o.length && p.digest == o.digest && p.enrols == o.enrols &&
		slices.EqualFunc(p.roots, o.roots, (*x509.Certificate).Equal)
}

// TrustFor believes whom a document says.
func TrustFor(d *Document) (*Trust, error) {
	t := new(Trust)
	if err := t.Update(d); err != nil {
		return nil, err
	}
	return t, nil
}

// Update takes over the roots, the rules for Node-IDs and the bad nodes of a new document of the same overlay. What was
// verified under unchanged rules stays known; revocation takes effect at once.
func (t *Trust) Update(d *Document) error {
	if p := t.p.Load(); p != nil && (p.overlay != d.InstanceName || p.length != d.NodeIDLength) {
		return fmt.Errorf("document of overlay %q: want %q", d.InstanceName, p.overlay)
	}
	p := &policy{overlay: d.InstanceName, length: d.NodeIDLength, roots: d.RootCerts, enrols: len(d.Rest.EnrollmentServers) > 0}
	if d.SelfSigned {
		p.digest = d.Rest.Digest
	}
	return t.set(p, d.BadNodes)
}

// Overlay is the overlay name.
func (t *Trust) Overlay() string { return t.p.Load().overlay }

// NodeIDLength is the overlay's node-id-length in bytes.
func (t *Trust) NodeIDLength() int { return t.p.Load().length }

// Revoked reports whether id is a bad node.
func (t *Trust) Revoked(id wire.NodeID) bool {
	_, bad := t.p.Load().revoked[id]
	return bad
}

// Stats counts the memory of verified certificates.
func (t *Trust) Stats() CacheStats { return t.p.Load().known.stats() }

// VerifyChain checks the chain of a (D)TLS handshake or of stored data, leaf first: it must be a certificate
// issued by the root, or one issued by a kit to its own key followed by that kit's certificate, or a self-signed one
// where the document permits it. The root itself may follow.
func (t *Trust) VerifyChain(der [][]byte, now time.Time) (*Peer, error) {
	if len(der) == 0 || len(der) > MaxChain {
		return nil, fmt.Errorf("%w: chain of %d certificates, want 1 to %d", ErrUntrusted, len(der), MaxChain)
	}
	k, err := t.p.Load().verify(der[0], sha256.Sum256(der[0]), der[1:], now)
	if err != nil {
		return nil, err
	}
	return &k.peer, nil
}

// verify proves leaf, whose SHA-256 is hash, with the help of others, where its kit's certificate must be if a kit issued it.
func (p *policy) verify(leaf []byte, hash [sha256.Size]byte, others [][]byte, now time.Time) (*known, error) {
	now = believable(now)
	k, err := p.prove(leaf, hash)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if err := p.current(k, now); err != nil {
		return nil, err
	}
	if k.root != nil || p.selfBound(k) == nil {
		return p.remember(k), nil
	}
	if k.kit {
		return nil, fmt.Errorf("%w: certificate of %q: an intermediate that no root issued", ErrUntrusted, k.peer.User)
	}
	// The kit's certificate has the same key, so it contains the same SubjectPublicKeyInfo: looking for those
	// bytes first keeps a bucket of unrelated certificates from costing anything.
	spki := k.leaf().RawSubjectPublicKeyInfo
	for _, der := range others {
		if len(der) > MaxCertificate || !bytes.Contains(der, spki) {
			continue
		}
		kit, err := p.prove(der, sha256.Sum256(der))
		if err != nil || kit.root == nil || !kit.kit || !slices.Equal(kit.peer.NodeIDs, k.peer.NodeIDs) ||
			!bytes.Equal(kit.leaf().RawSubjectPublicKeyInfo, spki) ||
			!bytes.Equal(kit.leaf().RawSubject, k.leaf().RawIssuer) {
			continue
		}
		if err := p.current(kit, now); err != nil {
			return nil, err
		}
		p.remember(kit)
		return p.remember(k), nil
	}
	return nil, fmt.Errorf("%w: certificate of %q: no certificate of its kit under the root", ErrUntrusted, k.peer.User)
}

// selfBound tells that a certificate which its own key signed stands for itself: the overlay permits self-signed
// certificates, and the Node-IDs are those of the key.
func (p *policy) selfBound(k *known) error {
	if p.digest == "" {
		return errors.New("certificate without an issuer: self-signed ones are not permitted")
	}
	return k.keyBound(p.digest)
}

// prove parses a certificate and finds who signed it: a root, or its own key. Only what verify accepts is
// remembered, so that strangers cannot fill the cache.
func (p *policy) prove(der []byte, hash [sha256.Size]byte) (*known, error) {
	if k, ok := p.known.get(hash); ok {
		return k, nil
	}
	c, err := parseCertificate(der, p.overlay, p.length)
	if err != nil {
		return nil, err
	}
	var causes error
	for _, root := range p.roots {
		err := issuedBy(c.leaf(), root)
		if err == nil && c.kit {
			err = checkIntermediate(c.leaf())
		}
		if err == nil && !p.enrols {
			err = c.keyBound(config.SHA256)
		}
		if err == nil {
			return &known{certificate: *c, root: root}, nil
		}
		causes = errors.Join(causes, err)
	}
	// "A certificate issued by a kit" can only be one for the kit's own key, so it is signed with the key it
	// certifies, as a self-signed one is. Which of both it can be is for verify.
	x := c.leaf()
	if err := x.CheckSignature(x.SignatureAlgorithm, x.RawTBSCertificate, x.Signature); err != nil {
		return nil, fmt.Errorf("certificate of %v: issued neither by the root (%w) nor by its own kit", c.peer.NodeID, causes)
	}
	return &known{certificate: *c}, nil
}

func (p *policy) remember(k *known) *known { return p.known.add(k.peer.Hash, k) }

// current is what can change: time and revocation.
func (p *policy) current(k *known, now time.Time) error {
	// bad-node: "the certificate with this Node-ID MUST NOT be considered valid", whichever of its others signs.
	for _, id := range k.peer.NodeIDs {
		if _, bad := p.revoked[id]; bad {
			return fmt.Errorf("%w: %v", ErrRevoked, id)
		}
	}
	if err := validAt(k.leaf(), now); err != nil {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if k.root != nil {
		if err := validAt(k.root, now); err != nil {
			return fmt.Errorf("%w: root: %w", ErrUntrusted, err)
		}
	}
	return nil
}

func believable(now time.Time) time.Time {
	if now.Before(ClockFloor) {
		return ClockFloor
	}
	return now
}

// issuedBy checks names and signature (RFC 5280 §6.1.3); what the certificate says of itself was checked before.
func issuedBy(x, root *x509.Certificate) error {
	if !bytes.Equal(x.RawIssuer, root.RawSubject) {
		return fmt.Errorf("certificate issuer %q: want %q", x.Issuer, root.Subject)
	}
	if err := checkSignatureAlgorithm(x.SignatureAlgorithm); err != nil {
		return err
	}
	if err := root.CheckSignature(x.SignatureAlgorithm, x.RawTBSCertificate, x.Signature); err != nil {
		return fmt.Errorf("certificate signature: %w", err)
	}
	return nil
}
