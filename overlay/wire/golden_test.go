package wire

import (
	"bytes"
	"encoding"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// unhex reads a golden file: hex, with comments from a semicolon to the end of the line that quote the
// RFC's field diagram. The files were written by hand from those diagrams, not by this codec.
func unhex(tb testing.TB, name string) []byte {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "golden", name+".hex"))
	if err != nil {
		tb.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, ";")
		for field := range strings.FieldsSeq(line) {
			digits.WriteString(field)
		}
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return b
}

// run returns 16 bytes that count up from first.
func run(first byte) []byte {
	b := make([]byte, 16)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

func nodeIDOf(b []byte) NodeID {
	id, err := NodeIDFrom(b)
	if err != nil {
		panic(err)
	}
	return id
}

var (
	node1    = nodeIDOf(run(0x10))
	node2    = nodeIDOf(run(0x20))
	node3    = nodeIDOf(run(0x30))
	resource = ResourceID(run(0xa0))
)

func models(kind KindID) (DataModel, bool) {
	switch kind {
	case KindSIPRegistration:
		return Dictionary, true
	case KindTurnService:
		return SingleValue, true
	case KindCertificateByNode, KindCertificateByUser:
		return Array, true
	default:
		return 0, false
	}
}

// kindList and destinationList give the two bare lists the shape of a body.
type (
	kindList        []KindID
	destinationList []Destination
)

func (k kindList) AppendBinary(b []byte) ([]byte, error) { return AppendKindList(b, k) }

func (l destinationList) AppendBinary(b []byte) (_ []byte, err error) {
	for _, d := range l {
		if b, err = d.AppendBinary(b); err != nil {
			return b, err
		}
	}
	return b, nil
}

// codec is one structure: how it is read, and the golden it is checked with.
type codec struct {
	file  string
	parse func([]byte) (encoding.BinaryAppender, error)
	want  encoding.BinaryAppender
	// sequence marks a structure without a length of its own, some prefixes of which are whole.
	sequence bool
}

func plain[T encoding.BinaryAppender](parse func([]byte) (T, error)) func([]byte) (encoding.BinaryAppender, error) {
	return func(b []byte) (encoding.BinaryAppender, error) { return parse(b) }
}

func sized[T encoding.BinaryAppender](parse func([]byte, int) (T, error)) func([]byte) (encoding.BinaryAppender, error) {
	return func(b []byte) (encoding.BinaryAppender, error) { return parse(b, MinNodeIDLen) }
}

func modelled[T encoding.BinaryAppender](parse func([]byte, ModelOf) (T, error)) func([]byte) (encoding.BinaryAppender, error) {
	return func(b []byte) (encoding.BinaryAppender, error) { return parse(b, models) }
}

func stored(m DataModel, index uint32, key []byte, exists bool, value string) StoredDataValue {
	v := StoredDataValue{Model: m, Index: index, Key: key, DataValue: DataValue{Exists: exists}}
	if value != "" {
		v.Value = []byte(value)
	}
	return v
}

func codecs() []codec {
	signature := Signature{
		HashAlg: HashSHA256, SigAlg: SigECDSA,
		Identity: SignerIdentity{Type: IdentityCertHash, HashAlg: HashSHA256, Hash: []byte{0xaa, 0xbb}},
		Value:    []byte{0xd1, 0xd2},
	}
	const written, hour = 0x18bcfe56800, 3600
	host := IceCandidate{
		Addr: netip.MustParseAddrPort("192.0.2.1:6084"), Link: LinkDTLSUDPSR,
		Foundation: []byte("1"), Priority: 0x7e0000ff, Type: CandHost,
	}
	meta := func(n uint32) MetaData {
		return MetaData{Exists: true, ValueLength: n, HashAlg: HashSHA256, Hash: []byte{0xe1, 0xe2, 0xe3, 0xe4}}
	}
	registered := StoredData{
		StorageTime: written + 2, Lifetime: hour, Signature: signature,
		Value: stored(Dictionary, 0, run(0x10), true, "rr"),
	}
	var id20 NodeID
	for i := range MaxNodeIDLen {
		id20.b[i] = 0x40 + byte(i)
	}
	id20.n = MaxNodeIDLen
	return []codec{
		{file: "message", parse: plain(Parse), want: goldenMessage()},
		{file: "security_block", parse: plain(ParseSecurityBlock), want: SecurityBlock{
			Certificates: []Certificate{{Type: CertificateX509, Data: []byte{0x30, 1, 0}}},
			Signature: Signature{
				HashAlg: HashSHA256, SigAlg: SigRSA,
				Identity: SignerIdentity{Type: IdentityCertHashNodeID, HashAlg: HashSHA256, Hash: []byte{0xc1, 0xc2}},
				Value:    []byte{0xa1, 0xa2},
			},
		}},
		{file: "security_block_extended", parse: plain(ParseSecurityBlock), want: SecurityBlock{
			Signature: Signature{HashAlg: HashSHA256, SigAlg: SigECDSA, Identity: SignerIdentity{Type: 9, Raw: []byte{1, 2, 3}}},
		}},
		{file: "probe_req", parse: plain(ParseProbeRequest), want: ProbeRequest{
			Requested: []ProbeInfoType{ProbeResponsibleSet, ProbeNumResources, ProbeUptime, 4},
		}},
		{file: "probe_ans", parse: plain(ParseProbeAnswer), want: ProbeAnswer{Info: []ProbeInformation{
			{Type: ProbeResponsibleSet, Value: 1_000_000_000}, {Type: ProbeNumResources, Value: 42},
			{Type: ProbeUptime, Value: 86400}, {Type: 4, Raw: []byte{0xaa, 0xbb, 0xcc}},
		}}},
		{file: "attach_req", parse: plain(ParseAttach), want: AttachReqAns{
			SendUpdate: true,
			IceParameters: IceParameters{
				Ufrag: []byte("abcd"), Password: []byte("secret"), Role: []byte("passive"),
				Candidates: []IceCandidate{
					host,
					{
						Addr: netip.MustParseAddrPort("[2001:db8::1]:6084"), Link: LinkDTLSUDPSR, Foundation: []byte("12"),
						Priority: 0x640000ff, Type: CandSrflx, Related: netip.MustParseAddrPort("192.168.0.1:6085"),
						Extensions: []CandidateExtension{{Name: []byte("foo"), Value: []byte("x")}},
					},
					{Link: LinkDTLSUDPSRNoICE, Priority: 1, Type: CandHost, Unknown: []byte{9, 3, 1, 2, 3}},
				},
			},
		}},
		{file: "attach_ans", parse: plain(ParseAttach), want: AttachReqAns{IceParameters: IceParameters{
			Ufrag: []byte("efgh"), Password: []byte("hidden"), Role: []byte("active"),
			Candidates: []IceCandidate{{
				Addr: netip.MustParseAddrPort("198.51.100.1:50000"), Link: LinkDTLSUDPSR, Foundation: []byte("3"),
				Priority: 0xff, Type: CandRelay, Related: netip.MustParseAddrPort("192.0.2.1:6084"),
			}},
		}}},
		{file: "attach_req_no_ice", parse: plain(ParseAttach), want: AttachReqAns{IceParameters: IceParameters{
			Role: []byte("passive"),
			Candidates: []IceCandidate{
				{Addr: netip.MustParseAddrPort("192.0.2.1:6084"), Link: LinkDTLSUDPSRNoICE, Priority: 2, Type: CandHost},
				{Addr: netip.MustParseAddrPort("[2001:db8::1]:6084"), Link: LinkTLSTCPFHNoICE, Priority: 1, Type: CandHost},
				{
					Addr: netip.MustParseAddrPort("[2001:db8::2]:50000"), Link: 5, Foundation: []byte("99"), Priority: 0x01020304,
					Type: CandRelay, Related: netip.MustParseAddrPort("[2001:db8::3]:50001"),
					Extensions: []CandidateExtension{{Name: []byte("foo"), Value: []byte("x")}, {Name: []byte("bar")}},
				},
			},
		}}},
		{file: "app_attach_req", parse: plain(ParseAppAttach), want: AppAttachReqAns{
			Application: ApplicationSIP, IceParameters: IceParameters{
				Ufrag: []byte("abcd"), Password: []byte("secret"), Role: []byte("passive"), Candidates: []IceCandidate{host},
			},
		}},
		{file: "app_attach_ans", parse: plain(ParseAppAttach), want: AppAttachReqAns{
			Application: ApplicationSIP, IceParameters: IceParameters{
				Ufrag: []byte("abcd"), Password: []byte("secret"), Role: []byte("active"), Candidates: []IceCandidate{host},
			},
		}},
		{file: "store_req", parse: modelled(ParseStoreRequest), want: StoreRequest{Resource: resource, Kinds: []StoreKindData{
			{Kind: KindTurnService, Values: []StoredData{{
				StorageTime: written, Lifetime: hour, Signature: signature, Value: stored(SingleValue, 0, nil, true, "val"),
			}}},
			{Kind: KindCertificateByNode, Generation: 5, Values: []StoredData{{
				StorageTime: written + 1, Lifetime: hour, Signature: signature, Value: stored(Array, LastIndex, nil, true, "c"),
			}}},
			{Kind: KindSIPRegistration, Generation: 6, Values: []StoredData{registered, {
				StorageTime: written + 3, Lifetime: hour, Signature: signature, Value: stored(Dictionary, 0, run(0x20), false, ""),
			}}},
			{Kind: 0xf0000001, Generation: 7, Raw: []byte{1, 2, 3}},
		}}},
		{file: "store_ans", parse: sized(ParseStoreAnswer), want: StoreAnswer{Kinds: []StoreKindResponse{
			{Kind: KindSIPRegistration, Generation: 8, Replicas: []NodeID{node2, node3}},
			{Kind: KindCertificateByNode, Generation: 9},
		}}},
		{file: "fetch_req", parse: modelled(ParseFetchRequest), want: FetchRequest{Resource: resource, Specifiers: []DataSpecifier{
			{Kind: KindTurnService, Generation: 1, Model: SingleValue},
			{Kind: KindCertificateByNode, Generation: 2, Model: Array, Ranges: []ArrayRange{{0, 4}, {9, LastIndex}}},
			{Kind: KindSIPRegistration, Generation: 3, Model: Dictionary, Keys: [][]byte{run(0x10)}},
			{Kind: KindSIPRegistration, Model: Dictionary},
			{Kind: 0xf0000001, Raw: []byte{0xbe, 0xef}},
		}}},
		{file: "stat_req", parse: modelled(ParseStatRequest), want: StatRequest{Resource: resource, Specifiers: []DataSpecifier{
			{Kind: KindSIPRegistration, Generation: 3, Model: Dictionary, Keys: [][]byte{run(0x10)}},
		}}},
		{file: "fetch_ans", parse: modelled(ParseFetchAnswer), want: FetchAnswer{Kinds: []FetchKindResponse{{
			Kind: KindSIPRegistration, Generation: 6, Values: []StoredData{
				registered,
				{Value: stored(Dictionary, 0, run(0x20), false, ""), Signature: NoSignature()},
			},
		}}}},
		{file: "stat_ans", parse: modelled(ParseStatAnswer), want: StatAnswer{Kinds: []StatKindResponse{
			{Kind: KindCertificateByNode, Generation: 1, Values: []StoredMetaData{
				{StorageTime: written, Lifetime: hour, Model: Array, Index: 2, MetaData: meta(346)},
			}},
			{Kind: KindTurnService, Generation: 2, Values: []StoredMetaData{
				{StorageTime: written, Lifetime: hour, Model: SingleValue, MetaData: meta(5)},
			}},
			{Kind: KindSIPRegistration, Generation: 3, Values: []StoredMetaData{
				{StorageTime: written, Lifetime: hour, Model: Dictionary, Key: run(0x10), MetaData: meta(5)},
			}},
		}}},
		{file: "find_req", parse: plain(ParseFindRequest), want: FindRequest{
			Resource: resource, Kinds: []KindID{KindSIPRegistration, KindCertificateByNode},
		}},
		{file: "find_ans", parse: plain(ParseFindAnswer), want: FindAnswer{Results: []FindKindData{
			{Kind: KindSIPRegistration, Closest: resource}, {Kind: KindCertificateByNode},
		}}},
		{file: "join_req", parse: sized(ParseJoinRequest), want: JoinRequest{Node: node1, OverlaySpecific: []byte{0xbe, 0xef}}},
		{file: "join_ans", parse: plain(ParseJoinAnswer), want: JoinAnswer{OverlaySpecific: []byte{1, 2, 3}}},
		{file: "leave_req", parse: sized(ParseLeaveRequest), want: LeaveRequest{
			Node: node1, OverlaySpecific: append([]byte{1, 0, 0x20}, append(run(0x20), run(0x30)...)...),
		}},
		{file: "chord_leave_from_succ", parse: sized(ParseChordLeave), want: ChordLeave{
			Type: LeaveFromSuccessor, Nodes: []NodeID{node2, node3},
		}},
		{file: "chord_leave_from_pred", parse: sized(ParseChordLeave), want: ChordLeave{
			Type: LeaveFromPredecessor, Nodes: []NodeID{node3},
		}},
		{file: "update_req_peer_ready", parse: sized(ParseChordUpdate), want: ChordUpdate{Uptime: 60, Type: UpdatePeerReady}},
		{file: "update_req_neighbors", parse: sized(ParseChordUpdate), want: ChordUpdate{
			Uptime: 60, Type: UpdateNeighbors, Predecessors: []NodeID{node2, node3}, Successors: []NodeID{node1},
		}},
		{file: "update_req_full", parse: sized(ParseChordUpdate), want: ChordUpdate{
			Uptime: 60, Type: UpdateFull, Predecessors: []NodeID{node2}, Fingers: []NodeID{node1, node3},
		}},
		{file: "route_query_req", parse: plain(ParseRouteQueryRequest), want: RouteQueryRequest{
			SendUpdate: true, Destination: ToResource(resource), OverlaySpecific: []byte("z"),
		}},
		{file: "route_query_ans", parse: sized(ParseRouteQueryAnswer), want: RouteQueryAnswer{NextPeer: node2}},
		{file: "ping_req", parse: plain(ParsePingRequest), want: PingRequest{Padding: make([]byte, 5)}},
		{file: "ping_ans", parse: plain(ParsePingAnswer), want: PingAnswer{ResponseID: 0xf1f2f3f4f5f6f7f8, Time: written}},
		{file: "config_update_req_config", parse: plain(ParseConfigUpdate), want: ConfigUpdateRequest{
			Type: ConfigUpdateConfig, Config: []byte("<x/>"),
		}},
		{file: "config_update_req_kind", parse: plain(ParseConfigUpdate), want: ConfigUpdateRequest{
			Type: ConfigUpdateKinds, Kinds: [][]byte{[]byte("<k/>"), nil},
		}},
		{file: "config_update_req_extended", parse: plain(ParseConfigUpdate), want: ConfigUpdateRequest{
			Type: 5, Raw: []byte{0xbe, 0xef},
		}},
		{file: "error", parse: plain(ParseErrorResponse), want: ErrorResponse{Code: ErrorTTLExceeded, Info: []byte("ttl")}},
		{
			file: "unknown_kinds", want: kindList{0xf0000001, 0xf0000002},
			parse: plain(func(b []byte) (kindList, error) { l, err := ParseKindList(b); return l, err }),
		},
		{file: "sip_registration_uri", parse: plain(ParseSIPRegistration), want: SIPRegistration{
			Type: SIPRegistrationURI, URI: []byte("sip:bob@example.org"),
		}},
		{file: "sip_registration_route", parse: plain(ParseSIPRegistration), want: SIPRegistration{
			Type: SIPRegistrationRoute, ContactPrefs: []byte("(sip.schemes=SIPS)"), Destinations: []Destination{ToNode(node1)},
		}},
		{file: "sip_registration_extended", parse: plain(ParseSIPRegistration), want: SIPRegistration{Type: 7, Raw: []byte{0xbe, 0xef}}},
		{file: "turn_server", parse: plain(ParseTurnServer), want: TurnServer{
			Iteration: 2, Addr: netip.MustParseAddrPort("192.0.2.1:3478"),
		}},
		{file: "turn_server_ipv6", parse: plain(ParseTurnServer), want: TurnServer{
			Iteration: 20, Addr: netip.MustParseAddrPort("[2001:db8::1]:3478"),
		}},
		{file: "turn_server_extended", parse: plain(ParseTurnServer), want: TurnServer{
			Iteration: 1, Unknown: []byte{9, 3, 1, 2, 3},
		}},
		{file: "routing_drr", parse: plain(ParseExtensiveRoutingMode), want: ExtensiveRoutingMode{
			Mode: RouteDirect, Transport: LinkDTLSUDPSR, Addr: netip.MustParseAddrPort("192.0.2.1:6084"),
			Destinations: []Destination{ToNode(node1)},
		}},
		{file: "routing_rpr", parse: plain(ParseExtensiveRoutingMode), want: ExtensiveRoutingMode{
			Mode: RouteRelay, Transport: LinkTLSTCPFHNoICE, Addr: netip.MustParseAddrPort("[2001:db8::1]:6084"),
			Destinations: []Destination{ToNode(node2), ToNode(node1)},
		}},
		{file: "self_tuning", parse: plain(ParseSelfTuningData), want: SelfTuningData{NetworkSize: 1000, JoinRate: 10628, LeaveRate: 1}},
		{file: "diagnostics_req", parse: plain(ParseDiagnosticsRequest), want: DiagnosticsRequest{
			Expiration: written + 9520, Initiated: written,
			Flags:      DiagStatusInfo.Flag() | DiagSoftwareVersion.Flag() | DiagBatteryStatus.Flag(),
			Extensions: []DiagnosticExtension{{Kind: 0xf000, Contents: []byte("abc")}, {Kind: 0x40}},
		}},
		{file: "diagnostics_ans", parse: plain(ParseDiagnosticsResponse), want: DiagnosticsResponse{
			Expiration: written + 9520, Initiated: written, Received: written + 5, HopCounter: 14, Info: diagnosticInfo(),
		}},
		{file: "path_track_req", parse: plain(ParsePathTrackRequest), want: PathTrackRequest{
			Destination: ToResource(resource),
			Request:     DiagnosticsRequest{Expiration: written + 9520, Initiated: written, Flags: AllDiagnostics},
		}},
		{file: "path_track_ans", parse: plain(ParsePathTrackAnswer), want: PathTrackAnswer{
			NextHop: ToNode(node2), Response: DiagnosticsResponse{
				Expiration: written + 9520, Initiated: written, Received: written + 5, HopCounter: 15,
				Info: []DiagnosticInfo{{Kind: DiagAppUptime, Contents: []byte{0, 0, 0, 0, 0, 0, 0x0e, 0x10}}},
			},
		}},
		{file: "frame_data", parse: plain(ParseFrame), want: Frame{Type: FrameData, Sequence: 7, Message: []byte{1, 2, 3}}},
		{file: "frame_ack", parse: plain(ParseFrame), want: Frame{Type: FrameAck, Sequence: 7, Received: 0x1e}},
		{
			file: "destinations", sequence: true, want: destinationList{ToNode(id20), ToResource("FOO")},
			parse: plain(func(b []byte) (destinationList, error) { l, err := ParseDestinations(b); return l, err }),
		},
	}
}

func goldenMessage() *Message {
	return &Message{
		Header: Header{
			Overlay: 0x1b2c3d4e, ConfigSequence: 7, Version: Version, TTL: 16, Fragment: Unfragmented, Length: 174,
			TransactionID: 0x0102030405060708, MaxResponseLength: 5000,
			Via: []Destination{ToNode(node1), ToOpaque(5)},
			Dest: []Destination{
				ToNode(node2),
				{Type: DestOpaque, Opaque: []byte{0xaa, 0xbb, 0xcc}},
				{Type: 0x7f, Opaque: []byte{0xca, 0xfe}},
				ToResource(resource),
			},
			Options: []ForwardingOption{
				{Type: 199, Flags: ResponseCopy, Data: []byte{1, 2, 3}},
				{Type: 200},
			},
		},
		Code: PingReq,
		Body: []byte{0, 0},
		Extensions: []Extension{
			{Type: 1, Critical: true, Data: []byte("dig")},
			{Type: 0x7777},
		},
		Security: SecurityBlock{
			Certificates: []Certificate{
				{Type: CertificateX509, Data: []byte{0x30, 0x82, 1, 0}},
				{Type: 5, Data: []byte{0xff}},
			},
			Signature: Signature{
				HashAlg: HashSHA256, SigAlg: SigECDSA,
				Identity: SignerIdentity{Type: IdentityCertHash, HashAlg: HashSHA256, Hash: []byte{0xc1, 0xc2, 0xc3, 0xc4}},
				Value:    []byte{0xa1, 0xa2, 0xa3},
			},
		},
	}
}

func TestGolden(t *testing.T) {
	for _, c := range codecs() {
		t.Run(c.file, func(t *testing.T) {
			golden := unhex(t, c.file)
			got, err := c.parse(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("parsed\n %+v, want\n %+v", got, c.want)
			}
			prefix := []byte("before")
			encoded, err := c.want.AppendBinary(prefix)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(encoded[:len(prefix)], prefix) || !bytes.Equal(encoded[len(prefix):], golden) {
				t.Errorf("encoded\n %x, want\n %x", encoded[len(prefix):], golden)
			}
		})
	}
}

// TestGoldenComplete makes sure that no golden lies unused.
func TestGoldenComplete(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(codecs()) {
		t.Errorf("%d golden files for %d codecs", len(files), len(codecs()))
	}
}

func TestTruncatedPrefixFails(t *testing.T) {
	for _, c := range codecs() {
		golden := unhex(t, c.file)
		for n := range golden {
			// The capacity is cut, too: a parser that reads past its argument panics.
			got, err := c.parse(golden[:n:n])
			if err == nil && c.sequence {
				if again, _ := got.AppendBinary(nil); bytes.Equal(again, golden[:n]) {
					continue
				}
			}
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%s cut to %d of %d bytes: %v", c.file, n, len(golden), err)
			}
		}
	}
}

func TestTrailingGarbageFails(t *testing.T) {
	for _, c := range codecs() {
		golden := unhex(t, c.file)
		for _, garbage := range [][]byte{{0}, {0xff}, {1, 2, 3, 4}} {
			if _, err := c.parse(append(golden[:len(golden):len(golden)], garbage...)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s followed by %x: %v", c.file, garbage, err)
			}
		}
	}
}

// TestFlippedBytes: whatever one wrong byte makes of a golden, reading it either fails with ErrMalformed or
// yields exactly what is written back.
func TestFlippedBytes(t *testing.T) {
	for _, c := range codecs() {
		golden := unhex(t, c.file)
		for i := range golden {
			for _, x := range []byte{0x01, 0x02, 0x10, 0x80, 0xff} {
				mutant := bytes.Clone(golden)
				mutant[i] ^= x
				got, err := c.parse(mutant)
				if err != nil {
					if !errors.Is(err, ErrMalformed) {
						t.Errorf("%s byte %d ^ %#x: %v", c.file, i, x, err)
					}
					continue
				}
				if again, err := got.AppendBinary(nil); err != nil || !bytes.Equal(again, mutant) {
					t.Errorf("%s byte %d ^ %#x: written back as\n %x, %v, was\n %x", c.file, i, x, again, err, mutant)
				}
			}
		}
	}
}

func TestEncodingDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 4096)
	for _, c := range codecs() {
		if c.sequence { // a type of the test
			continue
		}
		if n := testing.AllocsPerRun(100, func() {
			if _, err := c.want.AppendBinary(buf); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", c.file, n)
		}
	}
	m := goldenMessage()
	rest := make([]byte, 1000)
	ids := []KindID{1, 2, 3}
	for name, encode := range map[string]func() ([]byte, error){
		"AppendForward":  func() ([]byte, error) { return m.AppendForward(buf, rest) },
		"AppendHeader":   func() ([]byte, error) { return m.AppendHeader(buf, len(rest)) },
		"AppendContents": func() ([]byte, error) { return m.AppendContents(buf) },
		"AppendKindList": func() ([]byte, error) { return AppendKindList(buf, ids) },
		"identity":       func() ([]byte, error) { return m.Security.Signature.Identity.AppendBinary(buf) },
		"destination":    func() ([]byte, error) { return m.Dest[0].AppendBinary(buf) },
	} {
		if n := testing.AllocsPerRun(100, func() {
			if _, err := encode(); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
