package wire

import (
	"encoding"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// TestSyntaxErrorSaysWhere: the byte and the field, down to the entry of a list.
func TestSyntaxErrorSaysWhere(t *testing.T) {
	patched := func(file string, at int, with ...byte) []byte {
		b := unhex(t, file)
		copy(b[at:], with)
		return b
	}
	const contents = 38 + 78
	for _, c := range []struct {
		name   string
		parse  func([]byte) (encoding.BinaryAppender, error)
		in     []byte
		offset int
		field  string
	}{
		{"empty", plain(Parse), nil, 0, "forwarding.relo_token"},
		{"token", plain(Parse), patch(t, 0, 0x52), 0, "forwarding.relo_token"},
		{"version", plain(Parse), patch(t, 10, 1), 10, "forwarding.version"},
		{"version out of range", plain(Parse), patch(t, 10, 0), 10, "forwarding.version"},
		{"fragment bit", plain(Parse), patch(t, 12, 0x40), 12, "forwarding.fragment"},
		{"fragment", plain(Parse), patch(t, 12, 0x80), 12, "forwarding.fragment"},
		{"length", plain(Parse), patch(t, 19, 0xad), 16, "forwarding.length"},
		{"header cut", plain(Parse), unhex(t, "message")[:21], 20, "forwarding.transaction_id"},
		{"second destination", plain(Parse), patch(t, 38+20+18, 0), 38 + 20 + 18, "forwarding.destination_list[1]"},
		{"Node-ID length", plain(Parse), patch(t, 39, 15), 40, "forwarding.via_list[0].node_id"},
		{"option", plain(Parse), patch(t, 38+20+47+3, 0xff), 38 + 20 + 47 + 2, "forwarding.options[0].option"},
		{"code", plain(Parse), patch(t, contents, 0, 0), contents, "message_contents.message_code"},
		{"body", plain(Parse), patch(t, contents+2, 0xff), contents + 2, "message_contents.message_body"},
		{"critical", plain(Parse), patch(t, contents+14, 2), contents + 14, "message_contents.extensions[0].critical"},
		{"second certificate", plain(Parse), patch(t, contents+29+2+7+1, 1), contents + 29 + 2 + 7 + 1, "security_block.certificates[1].certificate"},
		{"identity", plain(Parse), patch(t, contents+29+13+2, 0), contents + 29 + 13 + 2, "security_block.signature.identity"},
		{"hash", plain(Parse), patch(t, contents+29+13+6, 5), contents + 29 + 13 + 6, "security_block.signature.identity.certificate_hash"},
		{"trailing bytes", plain(ParsePingAnswer), make([]byte, 17), 16, "PingAns"},
		{"value of the second Kind", modelled(ParseStoreRequest), patched("store_req", 0x6f, 2), 0x6f, "StoreReq.kind_data[1].values[0].value.exists"},
		{"address of a candidate", plain(ParseAttach), patched("attach_req", 0x16, 0), 0x16, "AttachReqAns.candidates[0].addr_port"},
		{"list with a part of a Node-ID", sized(ParseChordUpdate), append(patched("update_req_neighbors", 6, 0x1f)[:7+31:7+31], 0, 0), 7 + 16, "ChordUpdate.predecessors[1]"},
	} {
		_, err := c.parse(c.in)
		s := new(SyntaxError)
		if !errors.As(err, &s) || s.Offset != c.offset || s.Field != c.field || s.Reason == "" {
			t.Errorf("%s: %v: byte %d of %q, want %d of %q", c.name, err, s.Offset, s.Field, c.offset, c.field)
		}
	}
}

// TestSyntaxErrorText: the text has all three, and the error is what callers decide on.
func TestSyntaxErrorText(t *testing.T) {
	_, err := Parse(patch(t, 10, 1))
	if want := "malformed RELOAD message: RELOAD version other than 1.0: forwarding.version: version 0.1 (byte 10)"; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	if !errors.Is(err, ErrVersion) || !errors.Is(err, ErrMalformed) {
		t.Error("not what callers decide on")
	}
	_, err = ParsePingAnswer(make([]byte, 9))
	if want := "malformed RELOAD message: PingAns.time: truncated: 8 bytes wanted, 1 there (byte 8)"; err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	for mode, want := range map[RouteMode]string{RouteDirect: "DRR", RouteRelay: "RPR", 9: "route_mode_9"} {
		if mode.String() != want {
			t.Errorf("%s, want %s", mode, want)
		}
	}
}

// TestEveryFailureSaysWhere: whatever is cut or changed in a golden, the error has an offset within what was read.
func TestEveryFailureSaysWhere(t *testing.T) {
	check := func(name string, err error, size int) {
		var s *SyntaxError
		if !errors.As(err, &s) || s.Offset < 0 || s.Offset > size || s.Reason == "" {
			t.Errorf("%s: %#v", name, err)
			return
		}
		if strings.HasPrefix(s.Field, ".") || strings.HasSuffix(s.Field, ".") || strings.Contains(s.Field, "..") || strings.Contains(s.Field, ".[") {
			t.Errorf("%s: field %q", name, s.Field)
		}
	}
	for _, c := range codecs() {
		golden := unhex(t, c.file)
		for n := range golden {
			if _, err := c.parse(golden[:n:n]); err != nil {
				check(c.file, err, n)
			}
			for _, x := range []byte{0x01, 0x10, 0x80, 0xff} {
				golden[n] ^= x
				if _, err := c.parse(golden); err != nil {
					check(c.file, err, len(golden))
				}
				golden[n] ^= x
			}
		}
	}
}

// TestNodeIDLengths: an overlay has Node-IDs of one length "between 128 and 160 bits" (RFC 6940 §3), and every structure
// with Node-IDs takes each of them and refuses the others.
func TestNodeIDLengths(t *testing.T) {
	for n := MinNodeIDLen; n <= MaxNodeIDLen; n++ {
		id := func(first byte) NodeID {
			b := make([]byte, n)
			for i := range b {
				b[i] = first + byte(i)
			}
			return nodeIDOf(b)
		}
		a, b, c := id(0x10), id(0x40), id(0x70)
		message := goldenMessage()
		message.Via, message.Dest = []Destination{ToNode(a)}, []Destination{ToNode(b), ToResource(ResourceID(c.Bytes()))}
		encoded, err := message.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := Parse(encoded); err != nil || m.Via[0].Node != a || m.Dest[0].Node != b || m.Dest[1].Resource != ResourceID(c.Bytes()) {
			t.Errorf("%d: message %+v, %v", n, m, err)
		}
		for _, x := range []struct {
			want  encoding.BinaryAppender
			parse func([]byte, int) (encoding.BinaryAppender, error)
		}{
			{JoinRequest{Node: a}, lengths(ParseJoinRequest)},
			{LeaveRequest{Node: a}, lengths(ParseLeaveRequest)},
			{ChordLeave{Type: LeaveFromSuccessor, Nodes: []NodeID{b, c}}, lengths(ParseChordLeave)},
			{ChordUpdate{Type: UpdateFull, Predecessors: []NodeID{a}, Successors: []NodeID{b}, Fingers: []NodeID{c}}, lengths(ParseChordUpdate)},
			{RouteQueryAnswer{NextPeer: b}, lengths(ParseRouteQueryAnswer)},
			{StoreAnswer{Kinds: []StoreKindResponse{{Kind: 1, Replicas: []NodeID{a, b}}}}, lengths(ParseStoreAnswer)},
		} {
			body, err := x.want.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			for length := MinNodeIDLen; length <= MaxNodeIDLen; length++ {
				got, err := x.parse(body, length)
				if length == n && (err != nil || !reflect.DeepEqual(got, x.want)) {
					t.Errorf("%d: %T %+v, %v", n, x.want, got, err)
				}
				if length != n && !errors.Is(err, ErrMalformed) {
					t.Errorf("%T with Node-IDs of %d bytes read with %d: %v", x.want, n, length, err)
				}
			}
		}
	}
}

func lengths[T encoding.BinaryAppender](parse func([]byte, int) (T, error)) func([]byte, int) (encoding.BinaryAppender, error) {
	return func(b []byte, n int) (encoding.BinaryAppender, error) { return parse(b, n) }
}
