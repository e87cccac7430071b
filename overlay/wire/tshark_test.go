package wire

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding"
	"encoding/binary"
	"maps"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// tshark runs the Wireshark dissector, an independent reader of RELOAD, over datagrams sent between two
// hosts' RELOAD ports. Without tshark the test is skipped, and fails where nothing may be skipped.
func tshark(t *testing.T, datagrams [][]byte, args ...string) string {
	t.Helper()
	program, err := exec.LookPath("tshark")
	if err != nil {
		if os.Getenv("FIELDKIT_CI") == "1" {
			t.Fatalf("tshark is needed: %v", err)
		}
		t.Skipf("tshark, the independent reader, is not installed: %v", err)
	}
	file := filepath.Join(t.TempDir(), "frames.pcap")
	if err := os.WriteFile(file, capture(datagrams), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, append([]string{"-n", "-r", file}, args...)...)
	cmd.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v\n%s", err, &stderr)
	}
	return string(out)
}

// capture makes a pcap file of link type 101 (raw IP) from UDP datagrams on port 6084.
func capture(datagrams [][]byte) []byte {
	file := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	file = append(file, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 101, 0, 0, 0)
	for i, d := range datagrams {
		size := 20 + 8 + len(d)
		for _, v := range []int{i, 0, size, size} {
			file = binary.LittleEndian.AppendUint32(file, uint32(v))
		}
		ip := []byte{0x45, 0, 0, 0, 0, byte(i), 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}
		binary.BigEndian.PutUint16(ip[2:], uint16(size))
		udp := binary.BigEndian.AppendUint16(nil, DefaultPort)
		udp = binary.BigEndian.AppendUint16(udp, DefaultPort)
		udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(d)))
		file = append(append(append(file, ip...), append(udp, 0, 0)...), d...)
	}
	return file
}

// method is one message for the dissector, and what it is to read in it.
type method struct {
	name string
	code MessageCode
	body encoding.BinaryAppender
}

// methods are the goldens' values, without those parts that only a later RFC could give a meaning.
func methods() []method {
	want := map[string]encoding.BinaryAppender{}
	for _, c := range codecs() {
		want[c.file] = c.want
	}
	attach := want["attach_req"].(AttachReqAns)
	attach.Candidates = attach.Candidates[:2]
	store := want["store_req"].(StoreRequest)
	store.Kinds = slices.Clone(store.Kinds[:3])
	route, _ := want["sip_registration_route"].AppendBinary(nil)
	uri, _ := want["sip_registration_uri"].AppendBinary(nil)
	turn := []byte{0, 1, 6, 192, 0, 2, 1, 0x17, 0xc4} // iteration, IpAddressPort
	for i, value := range [][]byte{turn, nil, route} {
		data := slices.Clone(store.Kinds[i].Values)
		data[0].Value.Value = value
		data[0].Value.Exists = value != nil
		store.Kinds[i].Values = data
	}
	answer := want["fetch_ans"].(FetchAnswer)
	data := slices.Clone(answer.Kinds[0].Values)
	data[0].Value.Value = uri
	answer.Kinds = []FetchKindResponse{{Kind: KindSIPRegistration, Generation: 6, Values: data}}
	fetch := want["fetch_req"].(FetchRequest)
	fetch.Specifiers = fetch.Specifiers[:4]
	probe := want["probe_ans"].(ProbeAnswer)
	probe.Info = probe.Info[:3]
	return []method{
		{"probe_req", ProbeReq, ProbeRequest{Requested: []ProbeInfoType{1, 2, 3}}},
		{"probe_ans", ProbeAns, probe},
		{"attach_req", AttachReq, attach},
		{"attach_ans", AttachAns, want["attach_ans"]},
		{"store_req", StoreReq, store},
		{"store_ans", StoreAns, want["store_ans"]},
		{"fetch_req", FetchReq, fetch},
		{"fetch_ans", FetchAns, answer},
		{"find_req", FindReq, want["find_req"]},
		{"find_ans", FindAns, want["find_ans"]},
		{"join_req", JoinReq, JoinRequest{Node: node1}},
		{"join_ans", JoinAns, JoinAnswer{}},
		{"leave_req", LeaveReq, want["leave_req"]},
		{"leave_ans", LeaveAns, nil},
		{"update_req peer_ready", UpdateReq, want["update_req_peer_ready"]},
		{"update_req neighbors", UpdateReq, want["update_req_neighbors"]},
		{"update_req full", UpdateReq, want["update_req_full"]},
		{"update_ans", UpdateAns, nil},
		{"route_query_req", RouteQueryReq, RouteQueryRequest{Destination: ToResource(resource)}},
		{"route_query_ans", RouteQueryAns, want["route_query_ans"]},
		{"ping_req", PingReq, want["ping_req"]},
		{"ping_ans", PingAns, want["ping_ans"]},
		{"stat_req", StatReq, want["stat_req"]},
		{"stat_ans", StatAns, want["stat_ans"]},
		{"app_attach_req", AppAttachReq, want["app_attach_req"]},
		{"app_attach_ans", AppAttachAns, want["app_attach_ans"]},
		{"config_update_req config", ConfigUpdateReq, want["config_update_req_config"]},
		{"config_update_req kind", ConfigUpdateReq, ConfigUpdateRequest{Type: ConfigUpdateKinds, Kinds: [][]byte{[]byte("<kind/>")}}},
		{"config_update_ans", ConfigUpdateAns, nil},
		{"error", ErrorAns, want["error"]},
	}
}

// signer makes a security block as kits send it: a real certificate and a real signature.
func signer(t testing.TB) func(*Message) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: epoch, NotAfter: epoch.AddDate(50, 0, 0),
		URIs:           []*url.URL{{Scheme: "reload", User: url.User("0110" + node1.String()), Host: "chat.mission.home.arpa", Path: "/"}},
		EmailAddresses: []string{"alice@chat.mission.home.arpa"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := sha256.Sum256(der)
	return func(m *Message) {
		identity := SignerIdentity{Type: IdentityCertHash, HashAlg: HashSHA256, Hash: fingerprint[:]}
		input := binary.BigEndian.AppendUint32(nil, m.Overlay)
		input = binary.BigEndian.AppendUint64(input, m.TransactionID)
		input, _ = m.AppendContents(input)
		input, _ = identity.AppendBinary(input)
		digest := sha256.Sum256(input)
		value, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		m.Security = SecurityBlock{
			Certificates: []Certificate{{Type: CertificateX509, Data: der}},
			Signature:    Signature{HashAlg: HashSHA256, SigAlg: SigECDSA, Identity: identity, Value: value},
		}
	}
}

// framed encodes one message per method, each in a DATA frame.
func framed(t *testing.T) (frames [][]byte, messages [][]byte) {
	t.Helper()
	sign := signer(t)
	for i, c := range methods() {
		m := &Message{
			Header: Header{
				Overlay: OverlayHash("chat.mission.home.arpa"), ConfigSequence: 7, TTL: 16,
				TransactionID: 0x1122334455667700 + uint64(i),
				Via:           []Destination{ToNode(node1), ToOpaque(5)},
				Dest:          []Destination{ToNode(node2), {Type: DestOpaque, Opaque: []byte{1, 2, 3}}, ToResource(resource)},
			},
			Code: c.code,
		}
		var err error
		if c.body != nil {
			if m.Body, err = c.body.AppendBinary(nil); err != nil {
				t.Fatal(err)
			}
		}
		sign(m)
		message, err := m.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, message)
		frame, err := Frame{Type: FrameData, Sequence: uint32(i), Message: message}.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, frame)
	}
	return frames, messages
}

// complaints are the lines of a dissection that say something is wrong. An identity of type none is legal in a
// Fetch answer (RFC 6940 §7.4.2.2), which tshark 4.0 does not know.
func complaints(dissection string) []string {
	var found []string
	for line := range strings.Lines(dissection) {
		bad := strings.Contains(line, "Malformed") || strings.Contains(line, "Expert Info (Error") ||
			strings.Contains(line, "max_field length") || strings.Contains(line, "Defragmentation error")
		if bad && !strings.Contains(line, "Unknown identity type") {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// What tshark heads a frame with.
const (
	dataLayer = "\nREsource LOcation And Discovery Framing: DATA"
	ackLayer  = "\nREsource LOcation And Discovery Framing: ACK"
)

func TestTsharkReadsEveryMethod(t *testing.T) {
	frames, _ := framed(t)
	ack, err := Frame{Type: FrameAck, Sequence: 3, Received: 0xe}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	frames = append(frames, ack)
	dissection := tshark(t, frames, "-V")
	data, acks := strings.Count(dissection, dataLayer), strings.Count(dissection, ackLayer)
	if data != len(frames)-1 || acks != 1 {
		t.Errorf("%d DATA and %d ACK of %d frames dissected", data, acks, len(frames))
	}
	if bad := complaints(dissection); len(bad) != 0 {
		t.Errorf("%d complaints: %s\n%s", len(bad), strings.Join(bad, "\n"), dissection)
	}
	for _, text := range []string{
		"sip:bob@example.org", "(sip.schemes=SIPS)", "reload://0110" + node1.String() + "@chat.mission.home.arpa/",
		"application (uint16): SIP (5060)", "2001:db8::1", "198.51.100.1",
	} {
		if !strings.Contains(dissection, text) {
			t.Errorf("not read: %q", text)
		}
	}
}

// readings is what tshark is to read in each method, beside what all messages have. What is empty has no such field: a
// body of nothing, a list of Node-IDs, which tshark shows as text only (nodeIDs).
var readings = map[string]map[string]string{
	"probe_req": {"reload.probe_information.type": "0x01,0x02,0x03"},
	"probe_ans": {
		"reload.probe_information.type": "0x01,0x02,0x03", "reload.responsible_set": "0x3b9aca00", "reload.num_resources": "42", "reload.uptime": "86400",
	},
	"attach_req": {
		"reload.opaque.string": "abcd,secret,passive,1,12", "reload.overlaylink.type": "1,1", "reload.icecandidate.type": "1,2",
		"reload.ipv4addr": "192.0.2.1,192.168.0.1", "reload.ipv6addr": "2001:db8::1", "reload.port": "6084,6084,6085", "reload.sendupdate": "1",
	},
	"attach_ans": {
		"reload.opaque.string": "efgh,hidden,active,3", "reload.icecandidate.type": "4", "reload.ipv4addr": "198.51.100.1,192.0.2.1",
		"reload.port": "50000,6084", "reload.sendupdate": "0",
	},
	"store_req": {
		"reload.store.replica_number": "0", "reload.kinddata.kind": "2,3,1", "reload.generation_counter": "0,5,6",
		"reload.storeddata.lifetime": "3600,3600,3600,3600", "reload.datavalue.exists": "1,0,1,0", "reload.arrayentry.index": "4294967295",
		"reload.turnserver.iteration": "0", "reload.ipv4addr": "192.0.2.1", "reload.sipregistration.type": "2", "reload.opaque.string": "(sip.schemes=SIPS)",
		"reload.storeddata.storage_time": times(0, 1, 2, 3),
		"reload.destination.data.nodeid": strings.Join([]string{node1.String(), node2.String(), node1.String()}, ","),
	},
	"store_ans": {"reload.kinddata.kind": "1,3", "reload.generation_counter": "8,9"},
	"fetch_req": {"reload.kinddata.kind": "2,3,1,1", "reload.generation_counter": "1,2,3,0"},
	"fetch_ans": {
		"reload.kinddata.kind": "1", "reload.generation_counter": "6", "reload.storeddata.lifetime": "3600,0", "reload.datavalue.exists": "1,0",
		"reload.sipregistration.type": "1", "reload.opaque.string": "sip:bob@example.org",
	},
	"find_req":  {"reload.kindid": "1,3"},
	"find_ans":  {"reload.kinddata.kind": "1,3"},
	"join_req":  {"reload.joinreq.joining_peer_id": node1.String()},
	"leave_req": {"reload.leavereq.leaving_peer_id": node1.String(), "reload.chordleavedata.type": "1"},

	"update_req peer_ready": {"reload.uptime": "60", "reload.chordupdate.type": "1"},
	"update_req neighbors":  {"reload.uptime": "60", "reload.chordupdate.type": "2"},
	"update_req full":       {"reload.uptime": "60", "reload.chordupdate.type": "3"},

	"route_query_req": {"reload.sendupdate": "0"},
	"route_query_ans": {"reload.chordroutequeryans.nodeid": node2.String()},
	"ping_ans":        {"reload.ping.response_id": itoa(0xf1f2f3f4f5f6f7f8), "reload.ping.time": times(0)},
	"stat_req":        {"reload.kinddata.kind": "1", "reload.generation_counter": "3"},
	"stat_ans": {
		"reload.kinddata.kind": "3,2,1", "reload.generation_counter": "1,2,3", "reload.storeddata.storage_time": times(0, 0, 0),
		"reload.storeddata.lifetime": "3600,3600,3600", "reload.datavalue.exists": "1,1,1", "reload.metadata.value_length": "346,5,5",
		"reload.arrayentry.index": "2",
	},
	"app_attach_req": {"reload.application": "5060", "reload.opaque.string": "abcd,secret,passive,1", "reload.ipv4addr": "192.0.2.1", "reload.port": "6084"},
	"app_attach_ans": {"reload.application": "5060", "reload.opaque.string": "abcd,secret,active,1", "reload.ipv4addr": "192.0.2.1", "reload.port": "6084"},

	"config_update_req config": {"reload.configupdatereq.type": "1"},
	"config_update_req kind":   {"reload.configupdatereq.type": "2"},
	"error":                    {"reload.error_response.code": "10", "reload.opaque.string": "ttl"},
}

// nodeIDs are the lists of bare Node-IDs in the methods that have some, as tshark -V shows them.
var nodeIDs = map[string][]NodeID{
	"store_req": {node1, node2}, "fetch_ans": {node1, node2}, "stat_ans": {node1}, // keys of dictionaries
	"store_ans": {node2, node3}, "leave_req": {node2, node3}, "update_req neighbors": {node2, node3, node1}, "update_req full": {node2, node1, node3},
}

// times is how tshark writes times of the goldens, that many milliseconds after the first.
func times(after ...int) string {
	var list []string
	for _, ms := range after {
		list = append(list, epoch.Add(time.Duration(ms)*time.Millisecond).UTC().Format("Jan _2, 2006 15:04:05.000000000 UTC"))
	}
	return strings.Join(list, ",")
}

// TestTsharkReadsValues compares what tshark read in each method with what was encoded. Not compared is what tshark 4.0 is
// known to misread: candidate priorities, dictionary keys of specifiers, ACK masks.
func TestTsharkReadsValues(t *testing.T) {
	frames, _ := framed(t)
	fields := []string{
		"reload.message.code", "reload.forwarding.overlay", "reload.forwarding.configuration_sequence", "reload.forwarding.ttl",
		"reload.forwarding.trans_id", "reload_framing.sequence", "reload.destination.data.nodeid",
	}
	for _, expected := range readings {
		fields = slices.AppendSeq(fields, maps.Keys(expected))
	}
	slices.Sort(fields)
	fields = slices.Compact(fields)
	args := []string{"-T", "fields", "-E", "separator=|"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	lines := strings.Split(strings.TrimRight(tshark(t, frames, args...), "\n"), "\n")
	texts := strings.Split("\n"+tshark(t, frames, "-V"), "\nFrame ")[1:]
	if len(lines) != len(frames) || len(texts) != len(frames) {
		t.Fatalf("%d lines and %d texts for %d frames", len(lines), len(texts), len(frames))
	}
	for i, c := range methods() {
		got := map[string]string{}
		for j, v := range strings.Split(lines[i], "|") {
			got[fields[j]] = v
		}
		want := map[string]string{
			"reload.forwarding.trans_id":     "0x" + big.NewInt(0x1122334455667700+int64(i)).Text(16),
			"reload.destination.data.nodeid": node1.String() + "," + node2.String(),
			"reload.message.code":            itoa(uint64(c.code)), "reload.forwarding.overlay": hex32(OverlayHash("chat.mission.home.arpa")),
			"reload.forwarding.configuration_sequence": "7", "reload.forwarding.ttl": "16", "reload_framing.sequence": itoa(uint64(i)),
		}
		maps.Copy(want, readings[c.name])
		for k, v := range want {
			if got[k] != v {
				t.Errorf("%s: %s is %q, want %q", c.name, k, got[k], v)
			}
		}
		if c.body != nil && len(readings[c.name]) == 0 && c.name != "join_ans" && c.name != "ping_req" {
			t.Errorf("%s: no value compared", c.name)
		}
		var read []string
		for line := range strings.Lines(texts[i]) {
			if id, ok := strings.CutPrefix(strings.TrimSpace(line), "NodeId: "); ok {
				read = append(read, id)
			}
		}
		var ids []string
		for _, id := range nodeIDs[c.name] {
			ids = append(ids, id.String())
		}
		if !slices.Equal(read, ids) {
			t.Errorf("%s: Node-IDs %v, want %v", c.name, read, ids)
		}
	}
}

// TestTsharkReassembles: an independent reader puts together what Fragment split.
func TestTsharkReassembles(t *testing.T) {
	m := goldenMessage()
	m.Body, _ = PingRequest{Padding: make([]byte, 3000)}.AppendBinary(nil)
	m.Dest, m.Options, m.Extensions = []Destination{ToNode(node2)}, nil, nil
	signer(t)(m)
	message, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	var frames [][]byte
	for i, part := range split(t, message, 1200) {
		frame, err := Frame{Type: FrameData, Sequence: uint32(i), Message: part}.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, frame)
	}
	dissection := tshark(t, frames, "-V", "-o", "reload.defragment:TRUE")
	if bad := complaints(dissection); len(bad) != 0 || strings.Count(dissection, dataLayer) != len(frames) {
		t.Errorf("complaints %q", bad)
	}
	_, body, _ := ParseHeader(message)
	if want := "Reassembled RELOAD length: " + itoa(uint64(len(body))); !strings.Contains(dissection, want) {
		t.Errorf("%q not in\n%s", want, dissection)
	}
}

// TestTsharkNegativeControl: the check above is worth something only if it catches what is wrong. Each fault
// is one that an encoder could make.
func TestTsharkNegativeControl(t *testing.T) {
	_, messages := framed(t)
	find := func(name string) (int, []byte) {
		for i, c := range methods() {
			if c.name == name {
				return i, messages[i]
			}
		}
		t.Fatalf("no method %s", name)
		return 0, nil
	}
	// The body begins after the header, the code and its length.
	head := func(message []byte) int {
		_, rest, err := ParseHeader(message)
		if err != nil {
			t.Fatal(err)
		}
		return len(message) - len(rest) + 6
	}
	controls := []struct {
		name, method string
		fault        func(b []byte, body int) []byte
	}{
		{"nothing", "ping_req", func(b []byte, _ int) []byte { return b }},
		{"kind_data longer than the body", "store_req", func(b []byte, body int) []byte { b[body+17+1+2]++; return b }},
		{"StoredData.length too big", "store_req", func(b []byte, body int) []byte { b[body+17+1+4+12+4+1]++; return b }},
		{"candidates cut short", "attach_req", func(b []byte, body int) []byte {
			end := body + int(binary.BigEndian.Uint32(b[body-4:]))
			binary.BigEndian.PutUint32(b[body-4:], uint32(end-body-60))
			return relength(slices.Delete(b, end-60, end))
		}},
		{"inner length of the ResourceId missing", "find_req", func(b []byte, body int) []byte {
			binary.BigEndian.PutUint32(b[body-4:], binary.BigEndian.Uint32(b[body-4:])-1)
			return relength(slices.Delete(b, body, body+1))
		}},
		{"wrong token", "ping_req", func(b []byte, _ int) []byte { b[0] = 'R'; return b }},
	}
	var mutants [][]byte
	for i, c := range controls {
		at, message := find(c.method)
		frame, err := Frame{
			Type: FrameData, Sequence: uint32(i), Message: c.fault(bytes.Clone(message), head(messages[at])),
		}.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		mutants = append(mutants, frame)
	}
	dissections := strings.Split("\n"+tshark(t, mutants, "-V"), "\nFrame ")[1:]
	if len(dissections) != len(controls) {
		t.Fatalf("%d dissections of %d frames", len(dissections), len(controls))
	}
	for i, c := range controls {
		read := strings.Contains(dissections[i], "\nREsource LOcation And Discovery\n")
		noticed := !read || len(complaints(dissections[i])) > 0
		if noticed != (i > 0) {
			t.Errorf("%s: noticed %v:\n%s", c.name, noticed, dissections[i])
		}
	}
}

func itoa(v uint64) string { return strconv.FormatUint(v, 10) }

func hex32(v uint32) string { return "0x" + strconv.FormatUint(uint64(v), 16) }
