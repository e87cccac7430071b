package wire

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// seen is a message for the dissector, and the fields it must read in it.
type seen struct {
	name string
	Message
	fields map[string]string
}

// frame signs the message and puts it in a DATA frame.
func (s *seen) frame(t *testing.T, sign func(*Message), sequence uint32) []byte {
	t.Helper()
	s.Overlay, s.TTL, s.TransactionID = OverlayHash("chat.mission.home.arpa"), 16, uint64(sequence)+1
	sign(&s.Message)
	message, err := s.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	frame, err := Frame{Type: FrameData, Sequence: sequence, Message: message}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// dissect has tshark read the fields of each message and compares them.
func dissect(t *testing.T, messages []seen, options ...string) {
	t.Helper()
	sign := signer(t)
	var names []string
	var frames [][]byte
	for i := range messages {
		frames = append(frames, messages[i].frame(t, sign, uint32(i)))
		for name := range messages[i].fields {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if bad := complaints(tshark(t, frames, append(options, "-V")...)); len(bad) != 0 {
		t.Errorf("complaints: %s", strings.Join(bad, "\n"))
	}
	args := append(options, "-T", "fields", "-E", "separator=|")
	for _, name := range names {
		args = append(args, "-e", name)
	}
	lines := strings.Split(strings.TrimRight(tshark(t, frames, args...), "\n"), "\n")
	if len(lines) != len(messages) {
		t.Fatalf("%d lines for %d frames", len(lines), len(messages))
	}
	for i, m := range messages {
		values := strings.Split(lines[i], "|")
		for j, name := range names {
			if want, ok := m.fields[name]; ok && values[j] != want {
				t.Errorf("%s: %s is %q, want %q", m.name, name, values[j], want)
			}
		}
	}
}

// TestTsharkReadsExtensions has the structures of the later RFCs and of the usages read. Where tshark 4.0 still has the
// number of a draft, the message carries that number, so that at least the layout is read: 2 for the self-tuning
// extension (RFC 7363: 3), 101 for path_track_req (RFC 7851: 0x27). It cannot read a DiagnosticsResponse at all, since
// its own lacks timestamp_initiated.
func TestTsharkReadsExtensions(t *testing.T) {
	encoded := map[string][]byte{}
	for _, c := range codecs() {
		encoded[c.file], _ = c.want.AppendBinary(nil)
	}
	body := func(file string) []byte { return encoded[file] }
	option := func(flags uint8, file string) Header {
		return Header{Dest: []Destination{ToNode(node2)}, Options: []ForwardingOption{{Type: OptionExtensiveRoutingMode, Flags: flags, Data: encoded[file]}}}
	}
	to := Header{Dest: []Destination{ToNode(node2)}}
	var held Message
	signer(t)(&held)
	certificate := StoreRequest{Resource: resource, Kinds: []StoreKindData{{Kind: KindCertificateByNode, Values: []StoredData{{
		StorageTime: 1, Lifetime: 86400, Signature: held.Security.Signature,
		Value: stored(Array, LastIndex, nil, true, string(held.Security.Certificates[0].Data)),
	}}}}}
	turn := StoreRequest{Resource: resource, Kinds: []StoreKindData{{Kind: KindTurnService, Values: []StoredData{{
		StorageTime: 1, Lifetime: 86400, Signature: held.Security.Signature,
		Value: stored(SingleValue, 0, nil, true, string(encoded["turn_server_ipv6"])),
	}}}}}
	certificateBody, _ := certificate.AppendBinary(nil)
	turnBody, _ := turn.AppendBinary(nil)
	uri := "reload://0110" + node1.String() + "@chat.mission.home.arpa/"
	dissect(t, []seen{
		{"DRR", Message{Header: option(IgnoreStateKeeping|DestinationCritical, "routing_drr"), Code: PingReq, Body: body("ping_req")}, map[string]string{
			"reload.routemode": "1", "reload.extensiveroutingmode.transport": "1", "reload.ipv4addr": "192.0.2.1", "reload.port": "6084",
			"reload.forwarding.option.flag.ignore_state_keeping": "1", "reload.forwarding.option.flags.destination_critical": "1",
			"reload.forwarding.option.flags.forward_critical": "0",
			"reload.destination.data.nodeid":                  node2.String() + "," + node1.String(),
		}},
		{"RPR", Message{Header: option(IgnoreStateKeeping, "routing_rpr"), Code: PingReq, Body: body("ping_req")}, map[string]string{
			"reload.routemode": "2", "reload.extensiveroutingmode.transport": "4", "reload.ipv6addr": "2001:db8::1",
			"reload.destination.data.nodeid": strings.Join([]string{node2.String(), node2.String(), node1.String()}, ","),
		}},
		{"self-tuning", Message{Header: to, Code: ProbeReq, Body: body("probe_req"), Extensions: []Extension{{Type: 2, Data: body("self_tuning")}}}, map[string]string{
			"reload.selftuning_data.network_size": "1000", "reload.selftuning_data.join_rate": "10628", "reload.selftuning_data.leave_rate": "1",
		}},
		{"PathTrack", Message{Header: to, Code: 101, Body: body("path_track_req")}, map[string]string{
			"reload.dmflags": "0xffffffffffffffff", "reload.destination.data.nodeid": node2.String(),
		}},
		{"No-ICE candidates", Message{Header: to, Code: AttachReq, Body: body("attach_req_no_ice")}, map[string]string{
			"reload.overlaylink.type": "3,4,5", "reload.icecandidate.type": "1,1,4", "reload.ipv4addr": "192.0.2.1",
			"reload.ipv6addr": "2001:db8::1,2001:db8::2,2001:db8::3", "reload.port": "6084,6084,50000,50001",
		}},
		{"certificate array", Message{Header: to, Code: StoreReq, Body: certificateBody}, map[string]string{
			"x509ce.uniformResourceIdentifier": uri + "," + uri, "reload.arrayentry.index": "4294967295",
		}},
		{"TURN server", Message{Header: to, Code: StoreReq, Body: turnBody}, map[string]string{
			"reload.turnserver.iteration": "20", "reload.ipv6addr": "2001:db8::1", "reload.port": "3478",
		}},
	})
}

// TestTsharkReadsLongNodeIDs: an overlay may have Node-IDs of 20 bytes.
func TestTsharkReadsLongNodeIDs(t *testing.T) {
	id := func(first byte) NodeID {
		return nodeIDOf(append(bytes.Repeat([]byte{first}, 19), 1))
	}
	a, b, c := id(0x10), id(0x20), id(0x30)
	header := Header{Via: []Destination{ToNode(a)}, Dest: []Destination{ToNode(b)}}
	dest := fmt.Sprintf("%v,%v", a, b)
	join, _ := JoinRequest{Node: a}.AppendBinary(nil)
	update, _ := ChordUpdate{Uptime: 9, Type: UpdateNeighbors, Predecessors: []NodeID{a}, Successors: []NodeID{b, c}}.AppendBinary(nil)
	next, _ := RouteQueryAnswer{NextPeer: c}.AppendBinary(nil)
	answer, _ := StoreAnswer{Kinds: []StoreKindResponse{{Kind: KindSIPRegistration, Generation: 1, Replicas: []NodeID{b, c}}}}.AppendBinary(nil)
	dissect(t, []seen{
		{"join_req", Message{Header: header, Code: JoinReq, Body: join}, map[string]string{
			"reload.joinreq.joining_peer_id": a.String(), "reload.destination.data.nodeid": dest,
		}},
		{"update_req", Message{Header: header, Code: UpdateReq, Body: update}, map[string]string{
			"reload.uptime": "9", "reload.nodeid": fmt.Sprintf("%v,%v,%v", a, b, c),
		}},
		{"route_query_ans", Message{Header: header, Code: RouteQueryAns, Body: next}, map[string]string{
			"reload.chordroutequeryans.nodeid": c.String(),
		}},
		{"store_ans", Message{Header: header, Code: StoreAns, Body: answer}, map[string]string{
			"reload.nodeid": fmt.Sprintf("%v,%v", b, c),
		}},
	}, "-o", "reload.nodeid_length:20")
}
