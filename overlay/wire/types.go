package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
)

// ErrMalformed is what every parse failure of this package is.
var ErrMalformed = errors.New("malformed RELOAD message")

// Constants of RFC 6940 §6.3.2 and §14.
const (
	Token             uint32 = 0xd2454c4f // "RELO" with the high bit of the first octet set
	Version           uint8  = 0x0a       // RELOAD 1.0
	DefaultPort       uint16 = 6084       // RFC 6940 §14.2
	FixedHeaderLen           = 38
	Unfragmented      uint32 = 0xC0000000 // RFC 6940 §6.7: first bit always set, last fragment, offset 0
	DefaultMaxMessage uint32 = 5000
	AnySequence       uint16 = 65535 // RFC 6940 §6.3.2.1: accepted whatever the receiver's configuration
	MinNodeIDLen             = 16
	MaxNodeIDLen             = 20
)

// NodeID is a Node-ID of 16 to 20 bytes (RFC 6940 §6.3.1.1). It is comparable and a map key.
// The zero value is no Node-ID.
type NodeID struct {
	n uint8
	b [MaxNodeIDLen]byte
}

// NodeIDFrom copies b, which must be 16 to 20 bytes.
func NodeIDFrom(b []byte) (NodeID, error) {
	if len(b) < MinNodeIDLen || len(b) > MaxNodeIDLen {
		return NodeID{}, fmt.Errorf("%w: Node-ID of %d bytes", ErrMalformed, len(b))
	}
	id := NodeID{n: uint8(len(b))}
	copy(id.b[:], b)
	return id, nil
}

// ParseNodeID reads the hex form that String writes.
func ParseNodeID(s string) (NodeID, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return NodeID{}, fmt.Errorf("Node-ID %q: %w", s, err)
	}
	return NodeIDFrom(b)
}

// WildcardNodeID is all ones: whoever receives it is responsible (RFC 6940 §6.1.1).
func WildcardNodeID(n int) NodeID {
	id := NodeID{n: uint8(n)}
	for i := range id.b[:n] {
		id.b[i] = 0xff
	}
	return id
}

// Bytes returns a copy of the ID's bytes.
func (id NodeID) Bytes() []byte { return append([]byte(nil), id.b[:id.n]...) }

// Append appends the ID's bytes to b.
func (id NodeID) Append(b []byte) []byte { return append(b, id.b[:id.n]...) }

// Len is the length in bytes; 0 for the zero value.
func (id NodeID) Len() int { return int(id.n) }

// IsZero reports whether id is no Node-ID at all (not: all bits zero).
func (id NodeID) IsZero() bool { return id.n == 0 }

// IsInvalid reports the all-zeros Node-ID, which RFC 6940 §6.1.1 forbids.
func (id NodeID) IsInvalid() bool { return id.b == [MaxNodeIDLen]byte{} }

// IsWildcard reports the all-ones Node-ID.
func (id NodeID) IsWildcard() bool { return id.n != 0 && id == WildcardNodeID(int(id.n)) }

// Compare orders by value, then by length.
func (id NodeID) Compare(o NodeID) int {
	if c := bytes.Compare(id.b[:], o.b[:]); c != 0 {
		return c
	}
	return int(id.n) - int(o.n)
}

// String is lower-case hex.
func (id NodeID) String() string { return hex.EncodeToString(id.b[:id.n]) }

// MarshalText and UnmarshalText make Node-IDs readable in JSON and TOML.
func (id NodeID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (id *NodeID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseNodeID(string(b))
	return err
}

// ResourceID holds the raw bytes of a Resource-ID, at most 254 of them (RFC 6940 §6.3.1.1).
// CHORD-RELOAD uses as many as a Node-ID has.
type ResourceID string

func (r ResourceID) String() string { return hex.EncodeToString([]byte(r)) }

// DestinationType is the type octet of a Destination (RFC 6940 §6.3.2.2).
type DestinationType uint8

// Destination types.
const (
	DestNode     DestinationType = 1
	DestResource DestinationType = 2
	DestOpaque   DestinationType = 3
)

// Destination is one entry of a via or destination list. For DestOpaque, Short tells that it was
// (and is to be) written in the two-byte compressed form, whose first bit is set.
type Destination struct {
	Type     DestinationType
	Node     NodeID     // DestNode
	Resource ResourceID // DestResource
	Opaque   []byte     // DestOpaque, and the data of types this code does not know
	Short    bool
}

// ToNode and ToResource make the two common destinations.
func ToNode(id NodeID) Destination { return Destination{Type: DestNode, Node: id} }

// ToResource makes a Resource-ID destination.
func ToResource(r ResourceID) Destination { return Destination{Type: DestResource, Resource: r} }

// ForwardingOption is RFC 6940 §6.3.2.3.
type ForwardingOption struct {
	Type  uint8
	Flags uint8
	Data  []byte
}

// Forwarding option flags (RFC 6940 §6.3.2.3).
const (
	ForwardCritical     uint8 = 0x01
	DestinationCritical uint8 = 0x02
	ResponseCopy        uint8 = 0x04
)

// Header is the forwarding header (RFC 6940 §6.3.2) with its lists. Length is filled by Parse and
// computed by AppendBinary.
type Header struct {
	Overlay           uint32 // low 32 bits of SHA-1 over the overlay name
	ConfigSequence    uint16
	Version           uint8
	TTL               uint8
	Fragment          uint32
	Length            uint32
	TransactionID     uint64
	MaxResponseLength uint32
	Via               []Destination
	Dest              []Destination
	Options           []ForwardingOption
}

// MessageCode is RFC 6940 §14.8: requests are odd, their answer is one more.
type MessageCode uint16

// Message codes.
const (
	ProbeReq        MessageCode = 0x1
	ProbeAns        MessageCode = 0x2
	AttachReq       MessageCode = 0x3
	AttachAns       MessageCode = 0x4
	StoreReq        MessageCode = 0x7
	StoreAns        MessageCode = 0x8
	FetchReq        MessageCode = 0x9
	FetchAns        MessageCode = 0xa
	FindReq         MessageCode = 0xd
	FindAns         MessageCode = 0xe
	JoinReq         MessageCode = 0xf
	JoinAns         MessageCode = 0x10
	LeaveReq        MessageCode = 0x11
	LeaveAns        MessageCode = 0x12
	UpdateReq       MessageCode = 0x13
	UpdateAns       MessageCode = 0x14
	RouteQueryReq   MessageCode = 0x15
	RouteQueryAns   MessageCode = 0x16
	PingReq         MessageCode = 0x17
	PingAns         MessageCode = 0x18
	StatReq         MessageCode = 0x19
	StatAns         MessageCode = 0x1a
	AppAttachReq    MessageCode = 0x1d
	AppAttachAns    MessageCode = 0x1e
	ConfigUpdateReq MessageCode = 0x21
	ConfigUpdateAns MessageCode = 0x22
	ErrorAns        MessageCode = 0xffff
)

// IsRequest reports whether c is a request code.
func (c MessageCode) IsRequest() bool { return c != ErrorAns && c&1 == 1 }

// Extension is a MessageExtension (RFC 6940 §6.3.3).
type Extension struct {
	Type     uint16
	Critical bool
	Data     []byte
}

// Message is one whole RELOAD message: forwarding header, message contents, security block.
// Body is the body of the message of that Code, still encoded.
type Message struct {
	Header
	Code       MessageCode
	Body       []byte
	Extensions []Extension
	Security   SecurityBlock
}

// Certificate is a GenericCertificate (RFC 6940 §6.3.4); Type 0 is X.509.
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
	IdentityCertHash       IdentityType = 1
	IdentityCertHashNodeID IdentityType = 2
	IdentityNone           IdentityType = 3
)

// SignerIdentity names the certificate that signed. Raw holds the data of unknown types.
type SignerIdentity struct {
	Type    IdentityType
	HashAlg uint8
	Hash    []byte
	Raw     []byte
}

// Signature is RFC 6940 §6.3.4.
type Signature struct {
	HashAlg  uint8
	SigAlg   uint8
	Identity SignerIdentity
	Value    []byte
}

// SecurityBlock ends every message.
type SecurityBlock struct {
	Certificates []Certificate
	Signature    Signature
}

// ErrorCode is RFC 6940 §14.9.
type ErrorCode uint16

// Error codes.
const (
	ErrorForbidden                   ErrorCode = 0x2
	ErrorNotFound                    ErrorCode = 0x3
	ErrorRequestTimeout              ErrorCode = 0x4
	ErrorGenerationCounterTooLow     ErrorCode = 0x5
	ErrorIncompatibleWithOverlay     ErrorCode = 0x6
	ErrorUnsupportedForwardingOption ErrorCode = 0x7
	ErrorDataTooLarge                ErrorCode = 0x8
	ErrorDataTooOld                  ErrorCode = 0x9
	ErrorTTLExceeded                 ErrorCode = 0xa
	ErrorMessageTooLarge             ErrorCode = 0xb
	ErrorUnknownKind                 ErrorCode = 0xc
	ErrorUnknownExtension            ErrorCode = 0xd
	ErrorResponseTooLarge            ErrorCode = 0xe
	ErrorConfigTooOld                ErrorCode = 0xf
	ErrorConfigTooNew                ErrorCode = 0x10
	ErrorInProgress                  ErrorCode = 0x11
	ErrorInvalidMessage              ErrorCode = 0x14
)

// ErrorResponse is the body of an ErrorAns (RFC 6940 §6.3.3.1).
type ErrorResponse struct {
	Code ErrorCode
	Info []byte
}

// Overlay link protocols (RFC 6940 §14.10) and candidate types (§6.5.1.1).
const (
	LinkDTLSUDPSR      uint8 = 1
	LinkDTLSUDPSRNoICE uint8 = 3
	LinkTLSTCPFHNoICE  uint8 = 4

	CandHost  uint8 = 1
	CandSrflx uint8 = 2
	CandRelay uint8 = 4
)

// IceCandidate is RFC 6940 §6.5.1.1. Addr's zone is never sent.
type IceCandidate struct {
	Addr       netip.AddrPort
	Link       uint8
	Foundation []byte
	Priority   uint32
	Type       uint8
	Related    netip.AddrPort // srflx and relay only
	Extensions []CandidateExtension
}

// CandidateExtension is an IceExtension of a candidate.
type CandidateExtension struct{ Name, Value []byte }

// IceParameters is what Attach and AppAttach share: the ICE side of one end.
type IceParameters struct {
	Ufrag, Password []byte
	Role            []byte // "passive" from the Attach sender, "active" in the answer
	Candidates      []IceCandidate
}

// AttachReqAns is the body of AttachReq and AttachAns (RFC 6940 §6.5.1.1).
type AttachReqAns struct {
	IceParameters
	SendUpdate bool
}

// AppAttachReqAns is the body of AppAttachReq and AppAttachAns (RFC 6940 §6.5.2.1);
// Application is 5060 for SIP.
type AppAttachReqAns struct {
	Application uint16
	IceParameters
}

// Ping bodies (RFC 6940 §6.5.3).
type (
	PingRequest struct{ Padding []byte }
	PingAnswer  struct {
		ResponseID uint64
		Time       uint64 // milliseconds since 1970-01-01
	}
)

// ProbeInfoType is RFC 6940 §6.4.2.5.1.
type ProbeInfoType uint8

// Probe information types.
const (
	ProbeResponsibleSet ProbeInfoType = 1
	ProbeNumResources   ProbeInfoType = 2
	ProbeUptime         ProbeInfoType = 3
)

// Probe bodies.
type (
	ProbeRequest     struct{ Requested []ProbeInfoType }
	ProbeAnswer      struct{ Info []ProbeInformation }
	ProbeInformation struct {
		Type  ProbeInfoType
		Value uint32 // responsible set in parts per billion, resources, or uptime in seconds
		Raw   []byte // value of an unknown type
	}
)

// JoinRequest and JoinAnswer are RFC 6940 §6.4.2.1.
type (
	JoinRequest struct {
		Node            NodeID
		OverlaySpecific []byte
	}
	JoinAnswer struct{ OverlaySpecific []byte }
)

// LeaveRequest is RFC 6940 §6.4.2.2; its OverlaySpecific holds a ChordLeave (§10.9).
type LeaveRequest struct {
	Node            NodeID
	OverlaySpecific []byte
}

// ChordLeaveType tells in which list of the receiver the leaving node was.
type ChordLeaveType uint8

// ChordLeave is RFC 6940 §10.9.
type ChordLeave struct {
	Type  ChordLeaveType
	Nodes []NodeID
}

// Chord leave types.
const (
	LeaveFromSuccessor   ChordLeaveType = 1
	LeaveFromPredecessor ChordLeaveType = 2
)

// ChordUpdateType is RFC 6940 §10.7.
type ChordUpdateType uint8

// Chord update types.
const (
	UpdatePeerReady ChordUpdateType = 1
	UpdateNeighbors ChordUpdateType = 2
	UpdateFull      ChordUpdateType = 3
)

// ChordUpdate is the body of an UpdateReq in CHORD-RELOAD (RFC 6940 §10.7).
type ChordUpdate struct {
	Uptime                            uint32 // seconds
	Type                              ChordUpdateType
	Predecessors, Successors, Fingers []NodeID
}

// RouteQueryRequest and RouteQueryAnswer are RFC 6940 §6.4.2.4 and §10.8.
type (
	RouteQueryRequest struct {
		SendUpdate      bool
		Destination     Destination
		OverlaySpecific []byte
	}
	RouteQueryAnswer struct{ NextPeer NodeID }
)

// KindID is RFC 6940 §14.6.
type KindID uint32

// Kinds.
const (
	KindSIPRegistration   KindID = 0x1
	KindTurnService       KindID = 0x2
	KindCertificateByNode KindID = 0x3
	KindCertificateByUser KindID = 0x10
)

// DataModel is RFC 6940 §7.2.
type DataModel uint8

// Data models. They are not on the wire of a Store; the Kind decides.
const (
	SingleValue DataModel = 1
	Array       DataModel = 2
	Dictionary  DataModel = 3
)

// DataValue is RFC 6940 §7.2.
type DataValue struct {
	Exists bool
	Value  []byte
}

// StoredDataValue is one value in its model: Index is used by arrays (0xffffffff appends), Key by dictionaries.
type StoredDataValue struct {
	Index uint32
	Key   []byte
	DataValue
}

// StoredData is RFC 6940 §7.1. The model it is encoded in is that of its Kind.
type StoredData struct {
	StorageTime uint64 // milliseconds since 1970-01-01
	Lifetime    uint32 // seconds
	Value       StoredDataValue
	Signature   Signature
}

// StoreKindData and StoreRequest are RFC 6940 §7.4.1.1.
type (
	StoreKindData struct {
		Kind       KindID
		Generation uint64
		Values     []StoredData
	}
	StoreRequest struct {
		Resource ResourceID
		Replica  uint8
		Kinds    []StoreKindData
	}
	StoreKindResponse struct {
		Kind       KindID
		Generation uint64
		Replicas   []NodeID
	}
	StoreAnswer struct{ Kinds []StoreKindResponse }
)

// ArrayRange is a range of array indices, both inclusive (RFC 6940 §7.4.2.1).
type ArrayRange struct{ First, Last uint32 }

// DataSpecifier is a StoredDataSpecifier (RFC 6940 §7.4.2.1). No Keys on a dictionary means all.
type DataSpecifier struct {
	Kind       KindID
	Generation uint64
	Ranges     []ArrayRange
	Keys       [][]byte
}

// Fetch, Stat and Find bodies (RFC 6940 §7.4.2 to §7.4.4).
type (
	FetchRequest struct {
		Resource   ResourceID
		Specifiers []DataSpecifier
	}
	FetchKindResponse struct {
		Kind       KindID
		Generation uint64
		Values     []StoredData
	}
	FetchAnswer struct{ Kinds []FetchKindResponse }
	StatRequest FetchRequest
	MetaData    struct {
		Exists      bool
		ValueLength uint32
		HashAlg     uint8
		Hash        []byte
	}
	StoredMetaData struct {
		StorageTime uint64
		Lifetime    uint32
		Index       uint32
		Key         []byte
		MetaData
	}
	StatKindResponse struct {
		Kind       KindID
		Generation uint64
		Values     []StoredMetaData
	}
	StatAnswer  struct{ Kinds []StatKindResponse }
	FindRequest struct {
		Resource ResourceID
		Kinds    []KindID
	}
	FindKindData struct {
		Kind    KindID
		Closest ResourceID
	}
	FindAnswer struct{ Results []FindKindData }
)

// ConfigUpdateRequest is RFC 6940 §6.5.4.1: exactly one of Config (type 1) and Kinds (type 2).
type ConfigUpdateRequest struct {
	Type   uint8
	Config []byte
	Kinds  [][]byte
}

// SIPRegistration is RFC 7904 §3.1: type 1 is a URI, type 2 contact preferences and a destination list.
type SIPRegistration struct {
	Type         uint8
	URI          []byte
	ContactPrefs []byte
	Destinations []Destination
}

// SIP-REGISTRATION types.
const (
	SIPRegistrationURI   uint8 = 1
	SIPRegistrationRoute uint8 = 2
)

// ModelOf tells a Kind's data model; the codec needs it to read StoredData.
// ok is false for a Kind the caller does not know.
type ModelOf func(KindID) (m DataModel, ok bool)

// Frame types of RFC 6940 §6.6.2.
const (
	FrameData uint8 = 128
	FrameAck  uint8 = 129
)

// Frame is one framing unit of an overlay link.
type Frame struct {
	Type     uint8
	Sequence uint32 // of the DATA, or acknowledged by the ACK
	Received uint32 // ACK: mask of the 32 frames before Sequence (literal reading: bit N−M)
	Message  []byte // DATA
}
