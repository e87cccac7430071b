package config

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// Namespaces of the configuration document (RFC 6940 §11.1).
const (
	nsBase  = "urn:ietf:params:xml:ns:p2p:config-base"
	nsChord = "urn:ietf:params:xml:ns:p2p:config-chord"
)

// Bounds on a configuration document.
const (
	MaxDocument    = 256 << 10 // bytes
	maxCertificate = 2048      // bytes of a stored certificate
	maxDepth       = 16        // nested elements
	maxTokens      = 20_000
	maxText        = 8 << 10 // bytes of text in one element
	maxEntries     = 64      // of each repeated element but bad-node
	MaxBadNodes    = 1024
	maxInterval    = 24 * time.Hour
	maxMessage     = 1 << 24  // the framing header's length field has 24 bits (RFC 6940 §6.6.2)
	modSequence    = 65535    // sequence is 0 to 2^16−2
	defaultDigest  = "sha256" // of self-signed-permitted
)

// What a document may ask that this implementation, or nobody, can give.
var (
	// ErrDocument is a document that is malformed or breaks a rule of RFC 6940 §11.1.
	ErrDocument = errors.New("overlay configuration document")
	// ErrUnsupported is a valid document of an overlay that this implementation cannot join: "If a node is not
	// capable of supporting the new requirements, it MUST exit the overlay."
	ErrUnsupported = errors.New("overlay not supported")
)

// Chord is what the document says to the topology plug-in.
type Chord struct {
	UpdateInterval time.Duration // chord-update-interval
	PingInterval   time.Duration // chord-ping-interval
	Reactive       bool          // chord-reactive
}

// Document is one configuration element of an overlay configuration document (RFC 6940 §11.1), with the defaults
// filled in. Times are zero when absent.
type Document struct {
	InstanceName     string // the overlay name
	Sequence         uint16 // 0 to 65534
	Expiration       time.Time
	TopologyPlugin   string
	NodeIDLength     int // bytes, 16 to 20
	MaxMessageSize   uint32
	InitialTTL       uint8
	ReliabilityTimer time.Duration // overlay-reliability-timer, at least 200 ms
	NoICE            bool
	ClientsPermitted bool
	TurnDensity      uint8
	SelfSigned       bool
	Chord            Chord
	RootCerts        []*x509.Certificate
	Signers          []wire.NodeID // configuration-signer
	KindSigners      []wire.NodeID
	BadNodes         []wire.NodeID
	Kinds            []Kind
	Rest             Rest
	raw              raw
}

// Rest is what a document can say beyond what this implementation acts on.
type Rest struct {
	LinkProtocols       []string         // overlay-link-protocol
	BootstrapNodes      []netip.AddrPort // port 6084 where the document has none
	EnrollmentServers   []string
	MandatoryExtensions []string
	SharedSecret        bool
	Digest              string // self-signed-permitted's digest
}

// raw is the document's bytes.
type raw struct {
	document      []byte // the whole file
	configuration []byte // from the < of <configuration to the > of </configuration>
	signature     []byte // SecurityBlock
}

// Kind is one required Kind.
type Kind struct {
	ID            wire.KindID
	Name          string // the name registered to IANA, "" for a private Kind
	Model         wire.DataModel
	AccessControl AccessControl
	MaxCount      uint32
	MaxSize       uint32 // bytes
	MaxMultiple   uint32 // max-node-multiple, with NODE-MULTIPLE only

	element   []byte // from the < of <kind to the > of </kind>
	signature []byte // SecurityBlock
}

// AccessControl is one of the policies of RFC 6940 §7.3.
type AccessControl string

// Access control policies.
const (
	UserMatch     AccessControl = "USER-MATCH"
	NodeMatch     AccessControl = "NODE-MATCH"
	UserNodeMatch AccessControl = "USER-NODE-MATCH"
	NodeMultiple  AccessControl = "NODE-MULTIPLE"
)

// registered are the Kinds of RFC 6940 §14.6 and RFC 7904 §8.1. "If the Kind is registered with IANA, the
// data-model and access-control elements MUST match those in the Kind registration, and clients MUST ignore them
// in favor of the IANA versions."
var registered = []Kind{
	{ID: wire.KindSIPRegistration, Name: "SIP-REGISTRATION", Model: wire.Dictionary, AccessControl: UserNodeMatch},
	{ID: wire.KindTurnService, Name: "TURN-SERVICE", Model: wire.SingleValue, AccessControl: NodeMultiple},
	{ID: wire.KindCertificateByNode, Name: "CERTIFICATE_BY_NODE", Model: wire.Array, AccessControl: NodeMatch},
	{ID: wire.KindCertificateByUser, Name: "CERTIFICATE_BY_USER", Model: wire.Array, AccessControl: UserMatch},
}

var models = map[string]wire.DataModel{"SINGLE": wire.SingleValue, "ARRAY": wire.Array, "DICTIONARY": wire.Dictionary}

// defaults of RFC 6940 §11.1, and of §10.7.4.1 and §10.7.4.2 for Chord.
func defaults() *Document {
	return &Document{
		TopologyPlugin: "CHORD-RELOAD", NodeIDLength: wire.MinNodeIDLen, MaxMessageSize: wire.DefaultMaxMessage,
		InitialTTL: 100, ReliabilityTimer: 3 * time.Second, ClientsPermitted: true, TurnDensity: 1,
		Chord: Chord{UpdateInterval: 600 * time.Second, PingInterval: 3600 * time.Second, Reactive: true},
		Rest:  Rest{Digest: defaultDigest},
	}
}

// Raw is the whole file as it was read or generated: what a ConfigUpdate carries. Read only.
func (d *Document) Raw() []byte { return d.raw.document }

// Hash is SHA-256 over the configuration element's bytes, and so the same whoever signed it and however the file
// around it looks. Two documents of one sequence are the same document if their hashes are.
func (d *Document) Hash() [sha256.Size]byte { return sha256.Sum256(d.raw.configuration) }

// ShortHash is the first eight bytes of Hash in hex, for a TXT record.
func (d *Document) ShortHash() string {
	h := d.Hash()
	return hex.EncodeToString(h[:8])
}

// Kind finds the parameters of a required Kind.
func (d *Document) Kind(id wire.KindID) (Kind, bool) {
	i := slices.IndexFunc(d.Kinds, func(k Kind) bool { return k.ID == id })
	if i < 0 {
		return Kind{}, false
	}
	return d.Kinds[i], true
}

// ModelOf is the data model of a required Kind, as a wire.ModelOf.
func (d *Document) ModelOf(id wire.KindID) (wire.DataModel, bool) {
	k, ok := d.Kind(id)
	return k.Model, ok
}

// Supported tells whether this implementation can take part in the overlay; the error names the element that
// stands in the way.
func (d *Document) Supported() error {
	no := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, a...))
	}
	switch {
	case d.TopologyPlugin != "CHORD-RELOAD":
		return no("topology-plugin %q", d.TopologyPlugin)
	case d.SelfSigned:
		return no("self-signed-permitted true")
	case d.NoICE:
		return no("no-ice true")
	case d.Rest.SharedSecret:
		return no("shared-secret")
	case len(d.RootCerts) == 0:
		return no("no root-cert")
	case len(d.Rest.MandatoryExtensions) > 0:
		return no("mandatory-extension %q", d.Rest.MandatoryExtensions[0])
	case len(d.Rest.LinkProtocols) > 0 && !slices.Contains(d.Rest.LinkProtocols, "TLS"):
		return no("overlay-link-protocol %q", d.Rest.LinkProtocols[0])
	}
	for _, k := range d.Kinds {
		switch k.AccessControl {
		case UserMatch, NodeMatch, UserNodeMatch, NodeMultiple:
		default:
			return no("access-control %q of Kind %#x", k.AccessControl, uint32(k.ID))
		}
	}
	return nil
}

// Verifier believes signatures over parts of a document; *ident.Trust is one.
type Verifier interface {
	// VerifyBlob checks that security, a SecurityBlock, is a signature over blob by one of signers.
	VerifyBlob(blob, security []byte, signers []wire.NodeID, now time.Time) error
}

// Signer signs parts of a document; *ident.Signer is one.
type Signer interface {
	SignBlob(blob []byte) (security []byte, err error)
}

// Verify checks the signatures of d by the rules in force, those of current: "Any configuration file MUST be
// signed by one of the configuration-signer elements from the previous extant configuration", and every Kind by
// one of its own kind-signers. A mission's first document is verified with itself as current.
func (d *Document) Verify(current *Document, v Verifier, now time.Time) error {
	if d.InstanceName != current.InstanceName {
		return fmt.Errorf("%w: instance-name %q, want %q", ErrDocument, d.InstanceName, current.InstanceName)
	}
	if err := v.VerifyBlob(d.raw.configuration, d.raw.signature, current.Signers, now); err != nil {
		return fmt.Errorf("%w: signature: %w", ErrDocument, err)
	}
	for _, k := range d.Kinds {
		if err := v.VerifyBlob(k.element, k.signature, d.KindSigners, now); err != nil {
			return fmt.Errorf("%w: kind-signature of %s%#x: %w", ErrDocument, k.Name, uint32(k.ID), err)
		}
	}
	return nil
}

// CompareSequence orders configuration sequences, which count modulo 65535: negative if a is older than b
// (RFC 6940 §6.3.2.1, compared as TCP compares sequence numbers). wire.AnySequence equals everything.
func CompareSequence(a, b uint16) int {
	if a == b || a == wire.AnySequence || b == wire.AnySequence {
		return 0
	}
	ahead := (int(a) - int(b) + modSequence) % modSequence
	if ahead <= modSequence/2 {
		return 1
	}
	return -1
}

// NextSequence follows s.
func NextSequence(s uint16) uint16 { return uint16((int(s) + 1) % modSequence) }

// Same reports that two documents are byte for byte the same configuration.
func (d *Document) Same(o *Document) bool {
	return bytes.Equal(d.raw.configuration, o.raw.configuration)
}
