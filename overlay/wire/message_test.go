package wire

import (
	"bytes"
	"encoding"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestForwarding: a node on the way changes lists and TTL, and "the signature is computed over the payload
// and parts of the forwarding header" (RFC 6940 §6.3.4), so that the rest must come out as it went in.
func TestForwarding(t *testing.T) {
	message := unhex(t, "message")
	h, rest, err := ParseHeader(message)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := h.AppendForward(nil, rest); err != nil || !bytes.Equal(same, message) {
		t.Fatalf("not forwarded as it was: %x, %v", same, err)
	}
	h.TTL--
	h.Via = append(h.Via, ToNode(node3))
	h.Dest = h.Dest[1:]
	forwarded, err := h.AppendForward(nil, rest)
	if err != nil {
		t.Fatal(err)
	}
	head, err := h.AppendHeader(nil, len(rest))
	if err != nil || !bytes.Equal(append(head, rest...), forwarded) {
		t.Errorf("AppendHeader and AppendForward disagree: %v", err)
	}
	m, err := Parse(forwarded)
	if err != nil {
		t.Fatal(err)
	}
	want := goldenMessage()
	contents, _ := want.AppendContents(nil)
	got, err := m.AppendContents(nil)
	if err != nil || !bytes.Equal(got, contents) || !bytes.Equal(rest[:len(contents)], contents) {
		t.Errorf("contents %x, want %x", got, contents)
	}
	security, _ := m.Security.AppendBinary(nil)
	if !bytes.Equal(rest[len(contents):], security) {
		t.Errorf("security block %x, want %x", security, rest[len(contents):])
	}
	if m.TTL != want.TTL-1 || len(m.Via) != 3 || len(m.Dest) != 3 || m.TransactionID != want.TransactionID {
		t.Errorf("header %+v", m.Header)
	}
	if e := m.Extension(1); e == nil || string(e.Data) != "dig" || m.Extension(3) != nil {
		t.Errorf("extension %+v", e)
	}
}

// patch returns the golden message with the bytes at an offset replaced.
func patch(t *testing.T, at int, with ...byte) []byte {
	b := unhex(t, "message")
	copy(b[at:], with)
	return b
}

func TestHeaderRefused(t *testing.T) {
	for _, c := range []struct {
		name    string
		message []byte
	}{
		{`"This field MUST contain the value 0xd2454c4f"`, patch(t, 0, 0x52)},
		{"version 0", patch(t, 10, 0)},
		{"version 25.5", patch(t, 10, 255)},
		{"first bit of fragment clear", patch(t, 12, 0x40)},
		{"length short by one", patch(t, 19, 0xad)},
		{"length long by one", patch(t, 19, 0xaf)},
		{"length in the gigabytes", patch(t, 16, 0xff)},
		{"via list ends within an entry", patch(t, 33, 0x13)},
		{"lists longer than the message", patch(t, 32, 0xff, 0xff)},
		{"destination of type 0", patch(t, 38, 0)},
		{"Node-ID of 15 bytes", patch(t, 39, 15)},
		{"short destination cut by the end of the list", patch(t, 33, 0x13)},
		{"resource length beyond its destination", patch(t, 38+20+18+6+4+2, 17)},
		{"resource length short of its destination", patch(t, 38+20+18+6+4+2, 15)},
		{"opaque length beyond its destination", patch(t, 38+20+18+2, 4)},
		{"option longer than the options", patch(t, 38+20+47+3, 0xff)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, _, err := ParseHeader(c.message); !errors.Is(err, ErrMalformed) {
				t.Errorf("ParseHeader: %v", err)
			}
			if _, err := Parse(c.message); !errors.Is(err, ErrMalformed) {
				t.Errorf("Parse: %v", err)
			}
		})
	}
}

// TestVersion: "Nodes MUST reject messages with other versions" (RFC 6940 §6.3.2); the header of one is still
// read, for the answer.
func TestVersion(t *testing.T) {
	message := patch(t, 10, 1)
	if _, err := Parse(message); !errors.Is(err, ErrVersion) || !errors.Is(err, ErrMalformed) {
		t.Errorf("Parse: %v", err)
	}
	if h, _, err := ParseHeader(message); err != nil || h.Version != 1 || h.TransactionID != goldenMessage().TransactionID {
		t.Errorf("ParseHeader: %+v, %v", h, err)
	}
}

func TestContentsRefused(t *testing.T) {
	const contents = 38 + 78
	for _, c := range []struct {
		name    string
		message []byte
	}{
		{`"0x0 Invalid Message Code"`, patch(t, contents, 0, 0)},
		{"body longer than the message", patch(t, contents+2, 0xff, 0xff, 0xff, 0xff)},
		{`"A boolean value is either a 1 or a 0"`, patch(t, contents+14, 2)},
		{"extension longer than the extensions", patch(t, contents+18, 200)},
		{"certificate longer than the certificates", patch(t, contents+29+3, 0xff)},
		{"signer identity of type 0", patch(t, contents+29+13+2, 0)},
		{"identity none with a value", patch(t, contents+29+13+2, 3)},
		{"hash longer than its identity", patch(t, contents+29+13+6, 5)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Parse(c.message); !errors.Is(err, ErrMalformed) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestListsBounded: what a list may hold is limited by its entries, too, so that a message of short entries
// does not take many times its size in memory.
func TestListsBounded(t *testing.T) {
	h := Header{Dest: slices.Repeat([]Destination{ToOpaque(1)}, MaxDestinations)}
	full, err := h.AppendForward(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := ParseHeader(full); err != nil || len(got.Dest) != MaxDestinations {
		t.Fatalf("full list: %d, %v", len(got.Dest), err)
	}
	over := relength(append(full, 0x80, 1))
	over[34], over[35] = 0x02, 0x02
	if _, _, err := ParseHeader(over); !errors.Is(err, ErrMalformed) {
		t.Errorf("one destination more: %v", err)
	}

	m := goldenMessage()
	m.Options = make([]ForwardingOption, MaxOptions)
	m.Extensions = make([]Extension, MaxExtensions)
	m.Security.Certificates = make([]Certificate, MaxCertificates)
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(b); err != nil {
		t.Fatal(err)
	}
	for name, overfill := range map[string]func(*Message){
		"via":          func(m *Message) { m.Via = make([]Destination, MaxDestinations+1) },
		"options":      func(m *Message) { m.Options = make([]ForwardingOption, MaxOptions+1) },
		"extensions":   func(m *Message) { m.Extensions = make([]Extension, MaxExtensions+1) },
		"certificates": func(m *Message) { m.Security.Certificates = make([]Certificate, MaxCertificates+1) },
	} {
		m := goldenMessage()
		overfill(m)
		if _, err := m.AppendBinary(nil); !errors.Is(err, ErrUnencodable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The same by hand, since the encoder refuses.
	options := relength(append(full, make([]byte, 4*(MaxOptions+1))...))
	options[36], options[37] = 0x01, 0x04
	if _, _, err := ParseHeader(options); !errors.Is(err, ErrMalformed) {
		t.Errorf("one option more: %v", err)
	}
	certificates := append([]byte{0x03, 0x03}, make([]byte, 3*(MaxCertificates+1))...)
	certificates = append(certificates, 0, 0, 3, 0, 0, 0, 0)
	if _, err := ParseSecurityBlock(certificates); !errors.Is(err, ErrMalformed) {
		t.Errorf("one certificate more: %v", err)
	}
	contents := []byte{0, 1, 0, 0, 0, 0, 0, 0, 0x01, 0xc7}
	contents = append(contents, make([]byte, 7*(MaxExtensions+1))...)
	head, _ := (&Header{}).AppendForward(nil, contents)
	if _, err := Parse(append(head, 0, 0, 0, 0, 3, 0, 0, 0, 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("one extension more: %v", err)
	}
}

// TestUnencodable: what has no encoding is an error, and the buffer comes back as it was.
func TestUnencodable(t *testing.T) {
	long := make([]byte, 1<<16)
	var short NodeID
	id17 := nodeIDOf(make([]byte, 17))
	v := func(model DataModel, key []byte) StoreRequest {
		return StoreRequest{Kinds: []StoreKindData{{Values: []StoredData{{
			Value: StoredDataValue{Model: model, Key: key}, Signature: NoSignature(),
		}}}}}
	}
	for _, c := range []struct {
		name  string
		value encoding.BinaryAppender
	}{
		{"no Node-ID", JoinRequest{}},
		{"no destination", RouteQueryRequest{}},
		{"destination without its Node-ID", ToNode(short)},
		{"destination of type 128", Destination{Type: 128}},
		{"destination of type 4 too long", Destination{Type: 4, Opaque: make([]byte, 256)}},
		{"opaque id of 255 bytes", Destination{Type: DestOpaque, Opaque: make([]byte, 255)}},
		{"resource of 255 bytes", ToResource(ResourceID(make([]byte, 255)))},
		{"short destination of 3 bytes", Destination{Type: DestOpaque, Opaque: []byte{0x80, 1, 2}, Short: true}},
		{"short destination without its first bit", Destination{Type: DestOpaque, Opaque: []byte{1, 2}, Short: true}},
		{"short destination of a node", Destination{Type: DestNode, Opaque: []byte{0x80, 2}, Short: true}},
		{"padding", PingRequest{Padding: long}},
		{"256 kinds of information", ProbeRequest{Requested: make([]ProbeInfoType, 256)}},
		{"information", ProbeAnswer{Info: []ProbeInformation{{Type: 9, Raw: long[:256]}}}},
		{"Node-IDs of two lengths", ChordLeave{Type: LeaveFromSuccessor, Nodes: []NodeID{node1, id17}}},
		{"leave of type 0", ChordLeave{}},
		{"leave of type 3", ChordLeave{Type: 3}},
		{"update of type 0", ChordUpdate{}},
		{"lists in a peer_ready", ChordUpdate{Type: UpdatePeerReady, Successors: []NodeID{node1}}},
		{"fingers in a neighbors", ChordUpdate{Type: UpdateNeighbors, Fingers: []NodeID{node1}}},
		{"too many neighbours", ChordUpdate{Type: UpdateNeighbors, Successors: slices.Repeat([]NodeID{node1}, 4096)}},
		{"candidate without address", AttachReqAns{IceParameters: IceParameters{Candidates: []IceCandidate{{Type: CandHost}}}}},
		{"candidate of type 3", AttachReqAns{IceParameters: IceParameters{Candidates: []IceCandidate{
			{Type: 3, Addr: netip.MustParseAddrPort("192.0.2.1:1")},
		}}}},
		{"srflx without related", AttachReqAns{IceParameters: IceParameters{Candidates: []IceCandidate{
			{Type: CandSrflx, Addr: netip.MustParseAddrPort("192.0.2.1:1")},
		}}}},
		{"unknown address that is IPv4", AttachReqAns{IceParameters: IceParameters{Candidates: []IceCandidate{
			{Type: CandHost, Unknown: []byte{1, 6, 0, 0, 0, 0, 0, 0}},
		}}}},
		{"ufrag", AttachReqAns{IceParameters: IceParameters{Ufrag: long[:256]}}},
		{"ufrag of AppAttach", AppAttachReqAns{IceParameters: IceParameters{Ufrag: long[:256]}}},
		{"configuration of type 0", ConfigUpdateRequest{}},
		{"kind-block", ConfigUpdateRequest{Type: ConfigUpdateKinds, Kinds: [][]byte{long}}},
		{"configuration", ConfigUpdateRequest{Type: ConfigUpdateConfig, Config: make([]byte, 1<<24)}},
		{"value without a model", v(0, nil)},
		{"value of model 4", v(4, nil)},
		{"key", v(Dictionary, long)},
		{"values beside unread ones", FetchAnswer{Kinds: []FetchKindResponse{{Raw: []byte{}, Values: make([]StoredData, 1)}}}},
		{"metadata beside unread ones", StatAnswer{Kinds: []StatKindResponse{{Raw: []byte{}, Values: make([]StoredMetaData, 1)}}}},
		{"metadata without a model", StatAnswer{Kinds: []StatKindResponse{{Values: make([]StoredMetaData, 1)}}}},
		{"specifier without a model", FetchRequest{Specifiers: make([]DataSpecifier, 1)}},
		{"specifier beside an unread one", StatRequest{Specifiers: []DataSpecifier{{Model: Array, Raw: []byte{}}}}},
		{"range that ends before it begins", FetchRequest{Specifiers: []DataSpecifier{{Model: Array, Ranges: []ArrayRange{{2, 1}}}}}},
		{"64 Kinds", FindRequest{Kinds: make([]KindID, 64)}},
		{"64 unknown Kinds", kindList(make([]KindID, 64))},
		{"stored value of an unsigned identity", StoredData{Value: stored(SingleValue, 0, nil, true, "x")}},
		{"error_info", ErrorResponse{Info: long}},
		{"registration without destinations", SIPRegistration{Type: SIPRegistrationRoute}},
		{"registration with a list of two bytes", SIPRegistration{Type: SIPRegistrationRoute, Destinations: []Destination{ToOpaque(1)}}},
		{"URI", SIPRegistration{Type: SIPRegistrationURI, URI: long}},
		{"TURN server without address", TurnServer{Iteration: 1}},
		{"routing option of mode 0", ExtensiveRoutingMode{Addr: netip.MustParseAddrPort("192.0.2.1:1"), Destinations: []Destination{ToNode(node1)}}},
		{"routing option without a destination", ExtensiveRoutingMode{Mode: RouteDirect, Addr: netip.MustParseAddrPort("192.0.2.1:1")}},
		{"routing option with a list of 256 bytes", ExtensiveRoutingMode{
			Mode: RouteDirect, Addr: netip.MustParseAddrPort("192.0.2.1:1"), Destinations: slices.Repeat([]Destination{ToOpaque(1)}, 128),
		}},
		{"extension for a Kind with a flag", DiagnosticsRequest{Extensions: []DiagnosticExtension{{Kind: 0x3f}}}},
		{"diagnostic information", DiagnosticsResponse{Info: []DiagnosticInfo{{Contents: long}}}},
		{"path track without a destination", PathTrackRequest{}},
		{"path track without a next hop", PathTrackAnswer{}},
		{"frame of type 0", Frame{}},
		{"frame too long", Frame{Type: FrameData, Message: make([]byte, 1<<24)}},
		{"message of code 0", &Message{Security: SecurityBlock{Signature: NoSignature()}}},
		{"message of a fragment", &Message{Header: Header{Fragment: 0x80000000}, Code: PingReq, Security: SecurityBlock{Signature: NoSignature()}}},
		{"message without the first bit of fragment", &Message{Header: Header{Fragment: fragmentLast}, Code: PingReq, Security: SecurityBlock{Signature: NoSignature()}}},
		{"message without a signature", &Message{Code: PingReq}},
		{"options", &Message{Header: Header{Options: []ForwardingOption{{Data: long[1:]}}}, Code: PingReq, Security: SecurityBlock{Signature: NoSignature()}}},
		{"identity", SignerIdentity{}},
		{"certificate hash", SignerIdentity{Type: IdentityCertHash, Hash: long[:256]}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.value.AppendBinary([]byte("before"))
			if !errors.Is(err, ErrUnencodable) || errors.Is(err, ErrMalformed) {
				t.Errorf("error %v", err)
			}
			if string(got) != "before" {
				t.Errorf("returned %d bytes", len(got))
			}
		})
	}
	if _, err := (&Header{}).AppendHeader(nil, -1); !errors.Is(err, ErrUnencodable) {
		t.Errorf("negative payload: %v", err)
	}
}

// TestBodiesRefused has what is well cut but says what the RFC does not allow.
func TestBodiesRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		parse func([]byte) (encoding.BinaryAppender, error)
		body  string
	}{
		{`"The first integer MUST be less than or equal to the second"`, modelled(ParseFetchRequest),
			"\x00\x00\x18\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0a\x00\x08\x00\x00\x00\x02\x00\x00\x00\x01"},
		{"destination_list<3..2^16-1> of 2 bytes", plain(ParseSIPRegistration), "\x02\x00\x06\x00\x00\x00\x02\x80\x01"},
		{"candidate of type 3, reserved", plain(ParseAttach), "\x00\x00\x00\x00\x11\x01\x06\xc0\x00\x02\x01\x17\xc4\x01\x00\x00\x00\x00\x01\x03\x00\x00\x00"},
		{"address of type 0", plain(ParseAttach), "\x00\x00\x00\x00\x0b\x00\x00\x01\x00\x00\x00\x00\x01\x01\x00\x00\x00"},
		{"IPv4 address of 18 bytes", plain(ParseAttach), "\x00\x00\x00\x00\x1d\x01\x12" + strings.Repeat("\x00", 18) + "\x01\x00\x00\x00\x00\x01\x01\x00\x00\x00"},
		{"send_update that is no Boolean", plain(ParseAttach), "\x00\x00\x00\x00\x00\x02"},
		{"configuration of type 0", plain(ParseConfigUpdate), "\x00\x00\x00\x00\x00"},
		{"update of type 0", sized(ParseChordUpdate), "\x00\x00\x00\x00\x00"},
		{"update of type 4", sized(ParseChordUpdate), "\x00\x00\x00\x00\x04"},
		{"leave of type 3", sized(ParseChordLeave), "\x03\x00\x00"},
		{"Node-IDs of 15 bytes", sized(ParseChordLeave), "\x01\x00\x0f" + strings.Repeat("\x01", 15)},
		{"known information of 3 bytes", plain(ParseProbeAnswer), "\x00\x05\x01\x03\x00\x00\x00"},
		{"resource of 255 bytes", plain(ParseFindRequest), "\xff" + strings.Repeat("\x01", 255) + "\x00"},
		{"Kinds of 5 bytes", plain(ParseFindRequest), "\x00\x05\x00\x00\x00\x01\x00"},
		{"TURN server at an address of type 0", plain(ParseTurnServer), "\x01\x00\x00"},
		{"TURN server at an IPv4 address of 5 bytes", plain(ParseTurnServer), "\x01\x01\x05\x01\x02\x03\x04\x05"},
		{"RouteMode 0", plain(ParseExtensiveRoutingMode), "\x00\x01\x01\x06\xc0\x00\x02\x01\x17\xc4\x02\x80\x01"},
		{"destinations<1..2^8-1> of 0 bytes", plain(ParseExtensiveRoutingMode), "\x01\x01\x01\x06\xc0\x00\x02\x01\x17\xc4\x00"},
		{`"MUST calculate the length of these extensions and set the ext_length field to this value"`, plain(ParseDiagnosticsRequest),
			strings.Repeat("\x00", 24) + "\x00\x00\x00\x07\x00\x00\x00\x06\xf0\x00\x00\x00\x00\x00"},
		{`"Kinds from 0x0000 to 0x003f MUST NOT be indicated in the diagnostic_extensions_list"`, plain(ParseDiagnosticsRequest),
			strings.Repeat("\x00", 24) + "\x00\x00\x00\x06\x00\x00\x00\x06\x00\x3f\x00\x00\x00\x00"},
		{"ext_length without information", plain(ParseDiagnosticsResponse), strings.Repeat("\x00", 25) + "\x00\x00\x00\x01\x00\x00\x00\x00"},
		{"frame of type 0", plain(ParseFrame), "\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := c.parse([]byte(c.body)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	for _, n := range []int{-1, 0, 15, 21, 1 << 30} {
		if _, err := ParseRouteQueryAnswer(make([]byte, 16), n); !errors.Is(err, ErrMalformed) {
			t.Errorf("Node-IDs of %d bytes: %v", n, err)
		}
		if _, err := ParseChordUpdate(unhex(t, "update_req_full"), n); !errors.Is(err, ErrMalformed) {
			t.Errorf("list of Node-IDs of %d bytes: %v", n, err)
		}
	}
	if err := ParseEmpty([]byte{0}); !errors.Is(err, ErrMalformed) {
		t.Errorf("body that should be empty: %v", err)
	}
	if err := ParseEmpty(nil); err != nil {
		t.Errorf("empty body: %v", err)
	}
	if _, err := ParseStoredData(nil, 0); !errors.Is(err, ErrMalformed) {
		t.Errorf("stored data of no model: %v", err)
	}
}

// TestStoredDataPieces: the value inside a StoredData is what its signature covers (RFC 6940 §7.1), and one
// StoredData can be read alone.
func TestStoredDataPieces(t *testing.T) {
	request, err := ParseStoreRequest(unhex(t, "store_req"), models)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range request.Kinds[:3] {
		for _, d := range kind.Values {
			whole, err := d.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			value, err := d.Value.AppendBinary(nil)
			if err != nil || !bytes.Equal(whole[4+8+4:][:len(value)], value) {
				t.Errorf("value %x, %v in %x", value, err, whole)
			}
			again, err := ParseStoredData(whole, d.Value.Model)
			if err != nil {
				t.Fatal(err)
			}
			if b, _ := again.AppendBinary(nil); !bytes.Equal(b, whole) {
				t.Errorf("%x, want %x", b, whole)
			}
		}
	}
	// Without models every Kind is kept unread, and written back.
	unread, err := ParseStoreRequest(unhex(t, "store_req"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := unread.AppendBinary(nil); err != nil || !bytes.Equal(b, unhex(t, "store_req")) {
		t.Errorf("unread: %x, %v", b, err)
	}
	empty, err := ParseStoreRequest([]byte("\x00\x00\x00\x00\x00\x10\x00\x00\x00\x63\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), models)
	if err != nil || empty.Kinds[0].Raw == nil {
		t.Errorf("an unknown Kind without values looks like a known one: %+v, %v", empty, err)
	}
}

// TestParsedCapacity: what aliases the input cannot grow into what follows it.
func TestParsedCapacity(t *testing.T) {
	message := unhex(t, "message")
	m, err := Parse(message)
	if err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(message)
	_ = append(m.Body, 0xee)
	_ = append(m.Extensions[0].Data, 0xee)
	_ = append(m.Dest[1].Opaque, 0xee)
	_ = append(m.Security.Certificates[0].Data, 0xee)
	if !bytes.Equal(message, before) {
		t.Error("an append to a field changed its neighbour")
	}
}

func BenchmarkParse(b *testing.B) {
	message := unhex(b, "message")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(message); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	m := goldenMessage()
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.AppendBinary(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkForward is the way of a message through a node that is not its destination.
func BenchmarkForward(b *testing.B) {
	message := messageOf(b, 1, 1000)
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		h, rest, err := ParseHeader(message)
		if err != nil {
			b.Fatal(err)
		}
		h.TTL--
		if _, err := h.AppendForward(buf, rest); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseStore(b *testing.B) {
	body := unhex(b, "store_req")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseStoreRequest(body, models); err != nil {
			b.Fatal(err)
		}
	}
}
