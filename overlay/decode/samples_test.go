package decode

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

const overlayName = "chat.mission.home.arpa"

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// goldens are the hand-written bodies of wire, and the messages that they belong in.
var goldens = map[string]wire.MessageCode{
	"probe_req": wire.ProbeReq, "probe_ans": wire.ProbeAns, "attach_req": wire.AttachReq, "attach_ans": wire.AttachAns,
	"attach_req_no_ice": wire.AttachReq, "app_attach_req": wire.AppAttachReq, "app_attach_ans": wire.AppAttachAns,
	"store_ans": wire.StoreAns, "fetch_req": wire.FetchReq, "stat_req": wire.StatReq, "stat_ans": wire.StatAns,
	"find_req": wire.FindReq, "find_ans": wire.FindAns, "join_req": wire.JoinReq, "join_ans": wire.JoinAns, "leave_req": wire.LeaveReq,
	"update_req_peer_ready": wire.UpdateReq, "update_req_neighbors": wire.UpdateReq, "update_req_full": wire.UpdateReq,
	"route_query_req": wire.RouteQueryReq, "route_query_ans": wire.RouteQueryAns, "ping_req": wire.PingReq, "ping_ans": wire.PingAns,
	"config_update_req_config": wire.ConfigUpdateReq, "config_update_req_kind": wire.ConfigUpdateReq,
	"config_update_req_extended": wire.ConfigUpdateReq, "error": wire.ErrorAns, "path_track_req": wire.PathTrackReq,
	"path_track_ans": wire.PathTrackAns,
	// Their values are no values of those Kinds, since in wire the two do not know each other; store and fetchAnswer make
	// those that are.
	"store_req": wire.StoreReq, "fetch_ans": wire.FetchAns,
}

// golden reads a hand-written file of wire.
func golden(tb testing.TB, name string) []byte {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("..", "wire", "testdata", "golden", name+".hex"))
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
		tb.Fatal(err)
	}
	return b
}

// mission is an overlay with two kits and a handset.
type mission struct {
	trust    *ident.Trust
	kit, far *ident.Identity
	user     *ident.Signer
	aor      string
}

func newMission(tb testing.TB) *mission {
	tb.Helper()
	m := &mission{aor: "10101@" + overlayName}
	root, err := ident.NewAuthority(overlayName, 16)
	if err != nil {
		tb.Fatal(err)
	}
	if m.trust, err = ident.TrustFor(ident.NewDocument(root)); err != nil {
		tb.Fatal(err)
	}
	if m.kit, err = root.NewIdentity(); err != nil {
		tb.Fatal(err)
	}
	if m.far, err = root.NewIdentity(); err != nil {
		tb.Fatal(err)
	}
	if m.user, err = m.kit.SignerFor(m.aor); err != nil {
		tb.Fatal(err)
	}
	return m
}

// message makes a message from the kit to the far one, signed.
func (m *mission) message(tb testing.TB, code wire.MessageCode, body []byte, change ...func(*wire.Message)) []byte {
	tb.Helper()
	x := &wire.Message{
		Header: wire.Header{
			Overlay: wire.OverlayHash(overlayName), ConfigSequence: 7, TTL: 16, TransactionID: 0x1122334455667788,
			Via: []wire.Destination{wire.ToNode(m.kit.NodeID())}, Dest: []wire.Destination{wire.ToNode(m.far.NodeID())},
		},
		Code: code, Body: body,
	}
	for _, f := range change {
		f(x)
	}
	if err := ident.Sign(x, m.kit.Signer()); err != nil {
		tb.Fatal(err)
	}
	return appended(tb, x)
}

type appender interface{ AppendBinary([]byte) ([]byte, error) }

func appended(tb testing.TB, x appender) []byte {
	tb.Helper()
	b, err := x.AppendBinary(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// value makes a stored value of the handset, or of the kit where the Kind wants a node.
func (m *mission) value(tb testing.TB, resource wire.ResourceID, kind wire.KindID, v wire.StoredDataValue) wire.StoredData {
	tb.Helper()
	d := wire.StoredData{StorageTime: 1_700_000_000_000, Lifetime: 3600, Value: v}
	signer := m.user
	if kind != wire.KindSIPRegistration {
		signer = m.kit.Signer()
	}
	if err := ident.SignStored(resource, kind, &d, signer); err != nil {
		tb.Fatal(err)
	}
	return d
}

func (m *mission) registration(tb testing.TB) wire.StoredData {
	route := wire.SIPRegistration{
		Type: wire.SIPRegistrationRoute, ContactPrefs: []byte("(sip.schemes=SIP)"), Destinations: []wire.Destination{wire.ToNode(m.kit.NodeID())},
	}
	return m.value(tb, m.resource(), wire.KindSIPRegistration, wire.StoredDataValue{
		Model: wire.Dictionary, Key: m.kit.NodeID().Bytes(), DataValue: wire.DataValue{Exists: true, Value: appended(tb, route)},
	})
}

// resource is where the handset's registration lies.
func (m *mission) resource() wire.ResourceID { return wire.ResourceIDFor([]byte(m.aor), 16) }

// withUser puts the handset's certificate into the bucket, as for a message with a value of the handset's.
func (m *mission) withUser(x *wire.Message) { x.Security.Certificates = m.user.Bucket() }

func (m *mission) store(tb testing.TB, values ...wire.StoredData) []byte {
	return m.message(tb, wire.StoreReq, appended(tb, wire.StoreRequest{
		Resource: m.resource(), Kinds: []wire.StoreKindData{{Kind: wire.KindSIPRegistration, Values: values}},
	}), m.withUser)
}

func (m *mission) fetchAnswer(tb testing.TB, transaction uint64, values ...wire.StoredData) []byte {
	return m.message(tb, wire.FetchAns, appended(tb, wire.FetchAnswer{
		Kinds: []wire.FetchKindResponse{{Kind: wire.KindSIPRegistration, Generation: 3, Values: values}},
	}), m.withUser, func(x *wire.Message) { x.TransactionID = transaction })
}

// sample is a message that is well formed throughout.
type sample struct {
	name string
	data []byte
}

// samples has every method, Kind, option, extension and error.
func (m *mission) samples(tb testing.TB) []sample {
	tb.Helper()
	list := []sample{{"message", golden(tb, "message")}}
	for name, code := range goldens {
		if name != "store_req" && name != "fetch_ans" {
			list = append(list, sample{name, m.message(tb, code, golden(tb, name))})
		}
	}
	slices.SortFunc(list, func(a, b sample) int { return strings.Compare(a.name, b.name) })
	add := func(name string, data []byte) { list = append(list, sample{name, data}) }
	for _, code := range []wire.MessageCode{wire.LeaveAns, wire.UpdateAns, wire.ConfigUpdateAns} {
		add(code.String(), m.message(tb, code, nil))
	}
	add("unknown method", m.message(tb, 0x29, []byte{1, 2, 3}))
	add("experiment", m.message(tb, wire.ExpAReq, nil))
	exists := func(value []byte) wire.DataValue { return wire.DataValue{Exists: true, Value: value} }
	add("sip store", m.store(tb, m.registration(tb)))
	gone := m.value(tb, m.resource(), wire.KindSIPRegistration, wire.StoredDataValue{Model: wire.Dictionary, Key: m.kit.NodeID().Bytes()})
	absent := wire.StoredData{
		Value: wire.StoredDataValue{Model: wire.Dictionary, Key: m.far.NodeID().Bytes()}, Signature: wire.NoSignature(),
	}
	add("sip fetch answer", m.fetchAnswer(tb, 5, m.registration(tb), gone, absent))
	for _, name := range []string{"sip_registration_uri", "sip_registration_extended"} {
		add(name, m.store(tb, m.value(tb, m.resource(), wire.KindSIPRegistration, wire.StoredDataValue{
			Model: wire.Dictionary, Key: m.kit.NodeID().Bytes(), DataValue: exists(golden(tb, name)),
		})))
	}
	node := wire.ResourceIDFor(m.kit.NodeID().Bytes(), 16)
	add("certificate store", m.message(tb, wire.StoreReq, appended(tb, wire.StoreRequest{
		Resource: node, Replica: 1, Kinds: []wire.StoreKindData{
			{Kind: wire.KindCertificateByNode, Generation: 1, Values: []wire.StoredData{m.value(tb, node, wire.KindCertificateByNode, wire.StoredDataValue{
				Model: wire.Array, Index: 4, DataValue: exists(m.kit.Signer().Certificates()[0]),
			})}},
			{Kind: 0xf0000001, Generation: 2, Raw: []byte{1, 2, 3}},
		},
	})))
	turn := wire.ResourceIDFor(append(m.kit.NodeID().Bytes(), 2), 16)
	add("turn store", m.message(tb, wire.StoreReq, appended(tb, wire.StoreRequest{
		Resource: turn, Kinds: []wire.StoreKindData{{Kind: wire.KindTurnService, Values: []wire.StoredData{
			m.value(tb, turn, wire.KindTurnService, wire.StoredDataValue{Model: wire.SingleValue, DataValue: exists(golden(tb, "turn_server"))}),
		}}},
	})))
	add("drr", m.message(tb, wire.PingReq, golden(tb, "ping_req"), func(x *wire.Message) {
		x.Options = []wire.ForwardingOption{{
			Type: wire.OptionExtensiveRoutingMode, Flags: wire.IgnoreStateKeeping | wire.DestinationCritical, Data: golden(tb, "routing_drr"),
		}}
	}))
	extension := func(name string, code wire.MessageCode, body string, typ uint16, content string) {
		add(name, m.message(tb, code, golden(tb, body), func(x *wire.Message) {
			x.Extensions = []wire.Extension{{Type: typ, Data: golden(tb, content)}}
		}))
	}
	extension("diagnostic ping", wire.PingReq, "ping_req", wire.ExtensionDiagnosticPing, "diagnostics_req")
	extension("diagnostic answer", wire.PingAns, "ping_ans", wire.ExtensionDiagnosticPing, "diagnostics_ans")
	extension("self-tuning", wire.ProbeReq, "probe_req", wire.ExtensionSelfTuning, "self_tuning")
	for _, e := range []wire.ErrorResponse{
		{Code: wire.ErrorUnknownKind, Info: golden(tb, "unknown_kinds")},
		{Code: wire.ErrorGenerationCounterTooLow, Info: golden(tb, "store_ans")},
		{Code: wire.ErrorUpstreamMisrouting, Info: wire.AppendUpstream(nil, m.far.NodeID())},
		{Code: wire.ErrorForbidden, Info: []byte{0xff, 0xfe}},
	} {
		add(e.Code.String(), m.message(tb, wire.ErrorAns, appended(tb, e)))
	}
	return list
}

// inFrame puts a message in a DATA frame.
func inFrame(tb testing.TB, message []byte) []byte {
	tb.Helper()
	return appended(tb, wire.Frame{Type: wire.FrameData, Sequence: 9, Message: message})
}
