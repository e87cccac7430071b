package ident

import (
	"fmt"
	"slices"
	"time"

	"fieldkit/overlay/config"
	"fieldkit/overlay/wire"
)

// The overlay configuration document, under the names by which the overlay knows it.
type (
	// Document is an overlay configuration document (RFC 6940 §11.1).
	Document = config.Document
	// Kind is one required Kind of it.
	Kind = config.Kind
	// AccessControl is a policy of RFC 6940 §7.3.
	AccessControl = config.AccessControl
	// Chord is what it says to the topology plug-in.
	Chord = config.Chord
)

// Access control policies.
const (
	UserMatch     = config.UserMatch
	NodeMatch     = config.NodeMatch
	UserNodeMatch = config.UserNodeMatch
	NodeMultiple  = config.NodeMultiple
)

// What a document may ask that this implementation, or nobody, can give.
var (
	ErrDocument    = config.ErrDocument
	ErrUnsupported = config.ErrUnsupported
)

// ParseDocument is config.Parse.
func ParseDocument(b []byte, instance string) (*Document, error) { return config.Parse(b, instance) }

// CompareSequence is config.CompareSequence.
func CompareSequence(a, b uint16) int { return config.CompareSequence(a, b) }

// NextSequence is config.NextSequence.
func NextSequence(s uint16) uint16 { return config.NextSequence(s) }

// Supersedes is config.Supersedes.
func Supersedes(old, next *Document) bool { return config.Supersedes(old, next) }

// Conflict is config.Conflict.
func Conflict(a, b *Document) bool { return config.Conflict(a, b) }

// NewDocument is the first document of a's overlay: config.New with a's root as the trust anchor and the only
// configuration-signer and kind-signer.
func NewDocument(a *Authority) *Document {
	d := config.New(a.overlay, a.length)
	d.RootCerts = append(d.RootCerts, a.cert)
	d.Signers = append(d.Signers, a.SignerNodeID())
	d.KindSigners = append(d.KindSigners, a.SignerNodeID())
	return d
}

// VerifyBlob checks a SecurityBlock over a configuration or kind element, byte by byte as it stands in the document
// (RFC 6940 §11.1): its signer must be one of signers and have a certificate that is believed.
func (t *Trust) VerifyBlob(blob, security []byte, signers []wire.NodeID, now time.Time) error {
	if len(security) == 0 {
		return fmt.Errorf("signature missing: %w", ErrSignature)
	}
	s, err := wire.ParseSecurityBlock(security)
	if err != nil {
		return err
	}
	k, err := t.signer(&s.Signature, s.Certificates, now)
	if err != nil {
		return err
	}
	if !slices.Contains(signers, k.NodeID) {
		return fmt.Errorf("%w: signer %v is not entitled", ErrUntrusted, k.NodeID)
	}
	d, err := documentDigest(blob, &s.Signature.Identity)
	if err != nil {
		return err
	}
	return check(k.Leaf.PublicKey, &s.Signature, d)
}

// SignBlob makes the SecurityBlock over a configuration or kind element.
func (s *Signer) SignBlob(blob []byte) ([]byte, error) {
	d, err := documentDigest(blob, &s.identity)
	if err != nil {
		return nil, err
	}
	sig, err := s.sign(d)
	if err != nil {
		return nil, err
	}
	return wire.SecurityBlock{Certificates: s.chain, Signature: sig}.AppendBinary(nil)
}
