package config

import (
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

// Namespaces of the configuration document: RFC 6940 §11.1 and §14.17, RFC 7904 §3.4, RFC 7363 §7, RFC 7851 §9.6,
// RFC 7263 §6.
const (
	nsBase        = "urn:ietf:params:xml:ns:p2p:config-base"
	nsChord       = "urn:ietf:params:xml:ns:p2p:config-chord"
	nsSIP         = "urn:ietf:params:xml:ns:p2p:config-base:sip"
	NSSelfTuning  = "urn:ietf:params:xml:ns:p2p:self-tuning"
	NSDiagnostics = "urn:ietf:params:xml:ns:p2p:config-diagnostics"
	NSRouteMode   = "urn:ietf:params:xml:ns:p2p:route-mode"
)

// MediaType is the type of a document as a file, whose name ends in .relo (RFC 6940 §14.16).
const MediaType = "application/p2p-overlay+xml"

// Topology plug-ins that a document may ask for (RFC 6940 §10, RFC 7363 §9.2).
const (
	ChordReload     = "CHORD-RELOAD"
	ChordSelfTuning = "CHORD-SELF-TUNING"
)

// Digests of self-signed-permitted.
const (
	SHA1   = "sha1"
	SHA256 = "sha256"
)

// Overlay link protocols.
const (
	// LinkTLS is the one "which refers to the use of TLS and DTLS" (RFC 6940 §11.1, §14.11).
	LinkTLS = "TLS"
	// The rest are names of link types (RFC 6940 §14.10), each for that one.
	LinkDTLS      = "DTLS-UDP-SR"
	LinkDTLSNoICE = "DTLS-UDP-SR-NO-ICE"
	LinkTCPNoICE  = "TLS-TCP-FH-NO-ICE"
)

// Bounds on a configuration document.
const (
	MaxDocument    = 256 << 10 // bytes
	MaxBadNodes    = 1024
	maxCertificate = 2048 // bytes of a stored certificate
	maxDepth       = 16   // nested elements
	maxTokens      = 20_000
	maxAttributes  = 32       // of one element
	maxText        = 8 << 10  // bytes of text in one element
	maxEntries     = 64       // of each repeated element but bad-node
	maxSignatures  = 8        // signature elements behind one configuration
	maxAccess      = 256      // access-node elements of one diagnostic-kind
	maxPattern     = 256      // bytes of one domain pattern
	maxForeign     = 64 << 10 // bytes of elements of other namespaces
	maxInterval    = 24 * time.Hour
	maxMessage     = 1 << 24 // the framing header's length field has 24 bits (RFC 6940 §6.6.2)
	modSequence    = 65535   // sequence is 0 to 2^16−2
	defaultProbes  = 4       // number-of-peers-to-probe (RFC 7363 §7)
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

// Rest is what a document says to others than the peer's own loop.
type Rest struct {
	LinkProtocols       []string         // overlay-link-protocol; none: LinkTLS
	BootstrapNodes      []netip.AddrPort // port 6084 where the document has none
	EnrollmentServers   []string         // https URLs
	MandatoryExtensions []string         // namespaces
	SharedSecret        bool             // links need a shared secret besides certificates (RFC 6940 §13.4)
	Secret              Secret           // where the document itself has it; "" where it is given another way
	Digest              string           // self-signed-permitted's: SHA1 or SHA256
	Probes              uint32           // number-of-peers-to-probe (RFC 7363 §7)
	RouteMode           string           // "DRR", "RPR" (RFC 7263 §6) or ""
	Diagnostics         []Diagnostic     // diagnostic-kind (RFC 7851 §7)
	Domains             *Restriction     // domain-restriction (RFC 7904 §3.4); nil: any address-of-record
	foreign             foreign
}

// Secret is a shared secret. It does not show itself when it is printed or logged.
type Secret string

// String hides the secret.
func (Secret) String() string { return "(secret)" }

// GoString hides the secret.
func (Secret) GoString() string { return "(secret)" }

// Diagnostic says who may ask for one kind of diagnostic information (RFC 7851 §7); nobody else may.
type Diagnostic struct {
	Kind  uint16 // DiagnosticKindId
	Nodes []wire.NodeID
}

// Restriction says which domains addresses-of-record may have (RFC 7904 §3.4): the overlay's own name, or, enabled,
// those that one of the patterns matches, POSIX extended regular expressions for the whole domain.
type Restriction struct {
	Enabled  bool
	Patterns []string
}

// raw is the document's bytes.
type raw struct {
	document      []byte   // the whole file
	configuration []byte   // from the < of <configuration to the > of </configuration>
	signatures    [][]byte // SecurityBlocks
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
	foreign   foreign
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
		TopologyPlugin: ChordReload, NodeIDLength: wire.MinNodeIDLen, MaxMessageSize: wire.DefaultMaxMessage,
		InitialTTL: 100, ReliabilityTimer: 3 * time.Second, ClientsPermitted: true, TurnDensity: 1,
		Chord: Chord{UpdateInterval: 600 * time.Second, PingInterval: 3600 * time.Second, Reactive: true},
		Rest:  Rest{Digest: SHA256, Probes: defaultProbes},
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

// MayDiagnose tells whether a node may ask for a kind of diagnostic information (RFC 7851 §7).
func (d *Document) MayDiagnose(kind uint16, node wire.NodeID) bool {
	i := slices.IndexFunc(d.Rest.Diagnostics, func(g Diagnostic) bool { return g.Kind == kind })
	return i >= 0 && slices.Contains(d.Rest.Diagnostics[i].Nodes, node)
}

// LetDiagnose makes a node one of those that may ask for a kind of diagnostic information.
func (d *Document) LetDiagnose(kind uint16, node wire.NodeID) {
	i := slices.IndexFunc(d.Rest.Diagnostics, func(g Diagnostic) bool { return g.Kind == kind })
	if i < 0 {
		i = len(d.Rest.Diagnostics)
		d.Rest.Diagnostics = append(d.Rest.Diagnostics, Diagnostic{Kind: kind})
	}
	if g := &d.Rest.Diagnostics[i]; !slices.Contains(g.Nodes, node) {
		g.Nodes = append(g.Nodes, node)
	}
}

// implemented are the namespaces whose elements this implementation acts on.
var implemented = []string{nsBase, nsChord, nsSIP, NSSelfTuning, NSDiagnostics}

// Supported tells whether this implementation can take part in the overlay; the error names the element that
// stands in the way.
func (d *Document) Supported() error {
	no := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, a...))
	}
	for _, ns := range d.Rest.MandatoryExtensions {
		// "This element contains the name of an XML namespace that a node joining the overlay MUST support."
		if !slices.Contains(implemented, ns) {
			return no("mandatory-extension %q", ns)
		}
	}
	switch {
	case d.TopologyPlugin != ChordReload && d.TopologyPlugin != ChordSelfTuning:
		return no("topology-plugin %q", d.TopologyPlugin)
	case len(d.RootCerts) == 0 && !d.SelfSigned:
		return no("no root-cert")
	case !d.canLink():
		return no("overlay-link-protocol %q with no-ice %v", d.Rest.LinkProtocols[0], d.NoICE)
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

// canLink tells whether one of the permitted overlay link protocols is implemented: "If one or more elements appear,
// then no default value applies." Beside LinkTLS, which stands for all of them, the link types may be named
// (docs/adr/0014).
func (d *Document) canLink() bool {
	implemented := []string{LinkTLS, LinkDTLS}
	if d.NoICE {
		implemented = []string{LinkTLS, LinkDTLSNoICE, LinkTCPNoICE}
	}
	return len(d.Rest.LinkProtocols) == 0 ||
		slices.ContainsFunc(d.Rest.LinkProtocols, func(p string) bool { return slices.Contains(implemented, p) })
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
	signatures := d.raw.signatures
	if len(signatures) == 0 {
		signatures = [][]byte{nil} // for the error that the verifier has for it
	}
	var causes error
	for _, s := range signatures {
		err := v.VerifyBlob(d.raw.configuration, s, current.Signers, now)
		if err == nil {
			return d.verifyKinds(v, now)
		}
		causes = errors.Join(causes, err)
	}
	return fmt.Errorf("%w: signature: %w", ErrDocument, causes)
}

// "kind-block elements MUST be signed by a node listed in the kind-signers block of the current configuration.
// Receivers MUST verify the signature prior to accepting a kind-block."
func (d *Document) verifyKinds(v Verifier, now time.Time) error {
	for _, k := range d.Kinds {
		if err := k.Verify(d, v, now); err != nil {
			return err
		}
	}
	return nil
}

// Verify checks the signature of one Kind by the kind-signers of d.
func (k Kind) Verify(d *Document, v Verifier, now time.Time) error {
	if err := v.VerifyBlob(k.element, k.signature, d.KindSigners, now); err != nil {
		return fmt.Errorf("%w: kind-signature of %s%#x: %w", ErrDocument, k.Name, uint32(k.ID), err)
	}
	return nil
}
