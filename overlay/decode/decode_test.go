package decode

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fieldkit/overlay/wire"
)

var update = flag.Bool("update", false, "write testdata anew")

// object decodes data and reads the JSON.
func object(tb testing.TB, d *Decoder, data []byte) (o map[string]any, ok bool) {
	tb.Helper()
	line, ok := d.Append([]byte("before"), Unit{Data: data, Time: now}, nil)
	line, found := bytes.CutPrefix(line, []byte("before"))
	if !found {
		tb.Fatal("what was there before is gone")
	}
	if err := json.Unmarshal(line, &o); err != nil {
		tb.Fatalf("%v: %s", err, line)
	}
	if bytes.ContainsAny(line, "\n\r") {
		tb.Fatalf("more than one line: %s", line)
	}
	return o, ok
}

// at walks into an object by names and indices.
func at(tb testing.TB, v any, path ...any) any {
	tb.Helper()
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, ok := v.(map[string]any)
			if v = m[step]; !ok || v == nil {
				tb.Fatalf("no %s of %v in %v", step, path, m)
			}
		case int:
			list, ok := v.([]any)
			if !ok || step >= len(list) {
				tb.Fatalf("no %d of %v in %v", step, path, v)
			}
			v = list[step]
		}
	}
	return v
}

var messageResult = []any{"security_block", "signature", "verification", "result"}

// TestWellFormed: every method, Kind, option, extension and error is read, verifies, and is written back byte for byte, with
// and without a frame header.
func TestWellFormed(t *testing.T) {
	m := newMission(t)
	d := New(Config{Trust: m.trust})
	for _, s := range m.samples(t) {
		for _, data := range [][]byte{s.data, inFrame(t, s.data)} {
			o, ok := object(t, d, data)
			if !ok || o["error"] != nil {
				t.Errorf("%s: %v at %v in %v", s.name, o["error"], o["offset"], o["field"])
				continue
			}
			if _, framed := o["frame"]; framed != (data[0] == wire.FrameData) {
				t.Errorf("%s: frame header shown: %v", s.name, framed)
			}
			if s.name != "message" && (at(t, o, messageResult...) != "valid" || at(t, o, "security_block", "signature", "verification", "chain") != "trusted") {
				t.Errorf("%s: %v", s.name, at(t, o, "security_block", "signature", "verification"))
			}
			again, err := d.Reencode(nil, data)
			if err != nil || !bytes.Equal(again, data) {
				t.Errorf("%s: %v\n %x written back as\n %x", s.name, err, data, again)
			}
		}
	}
	if s := d.Stats(); s.Malformed != 0 || s.Invalid != 0 || s.Untrusted != 0 || s.Units == 0 {
		t.Errorf("%+v", s)
	}
}

// TestPrefixesAreMalformed: whatever a message is cut to, an offset within it and a field are named.
func TestPrefixesAreMalformed(t *testing.T) {
	m := newMission(t)
	d := New(Config{})
	for _, s := range m.samples(t) {
		for _, data := range [][]byte{s.data, inFrame(t, s.data)} {
			for n := range data {
				if n == 0 {
					continue // an empty line is no message
				}
				o, ok := object(t, d, data[:n:n])
				offset, _ := o["offset"].(float64)
				if field, _ := o["field"].(string); ok || o["error"] == nil || o["offset"] == nil || int(offset) > n || field == "" {
					t.Fatalf("%s cut to %d bytes: %v", s.name, n, o)
				}
				if _, err := d.Reencode(nil, data[:n:n]); !errors.Is(err, wire.ErrMalformed) {
					t.Fatalf("%s cut to %d bytes: %v", s.name, n, err)
				}
			}
		}
	}
}

// TestBodyPrefixesAreMalformed: the same for a body that is cut in a message that is whole, and for what is in it.
func TestBodyPrefixesAreMalformed(t *testing.T) {
	m := newMission(t)
	d := New(Config{})
	for name, code := range goldens {
		body := golden(t, name)
		for n := range body {
			data := m.message(t, code, body[:n])
			o, ok := object(t, d, data)
			offset, _ := o["offset"].(float64)
			if ok || o["error"] == nil || int(offset) > len(data) || int(offset) < 38 {
				t.Errorf("%s cut to %d bytes: %v", name, n, o["error"])
			}
			if at(t, o, messageResult...) != "valid" {
				t.Errorf("%s cut to %d bytes: signature %v", name, n, at(t, o, messageResult...))
			}
		}
	}
}

// TestOffsets: the offset counts from the first byte of the input, down to what a value holds.
func TestOffsets(t *testing.T) {
	m := newMission(t)
	message := m.store(t, m.registration(t))
	prefs := bytes.Index(message, []byte("(sip.schemes=SIP)"))
	list := prefs + len("(sip.schemes=SIP)")
	drr := m.samples(t)
	var option []byte
	for _, s := range drr {
		if s.name == "drr" {
			option = s.data
		}
	}
	leave := m.message(t, wire.LeaveReq, golden(t, "leave_req"))
	leaveAt := bytes.Index(leave, golden(t, "chord_leave_from_succ"))
	unknown := m.message(t, wire.ErrorAns, appended(t, wire.ErrorResponse{Code: wire.ErrorUnknownKind, Info: []byte{4, 0, 0, 0, 1}}))
	info := bytes.Index(unknown, []byte{0, 0x0c, 0, 5, 4}) + 4
	for _, c := range []struct {
		name    string
		message []byte
		at      int
		with    byte
		offset  int
		field   string
	}{
		{"destination list of a registration", message, list + 1, 0xff, list, "StoreReq.kind_data[0].values[0].value.SipRegistration.data.destination_list"},
		{"type of a destination in it", message, list + 2, 0, list + 2, "StoreReq.kind_data[0].values[0].value.SipRegistration.data.destination_list[0]"},
		{"mode of an option", option, 38 + 18 + 18 + 4, 0, 38 + 18 + 18 + 4, "forwarding.options[0].option.ExtensiveRoutingModeOption.routemode"},
		{"data of a Leave", leave, leaveAt, 7, leaveAt, "LeaveReq.overlay_specific_data.ChordLeaveData.type"},
		{"information of an error", unknown, info, 3, info + 1, "ErrorResponse.error_info.unknown_kinds.kinds[0]"},
		{"token", message, 3, 0, 0, "forwarding.relo_token"},
	} {
		for _, framed := range []bool{false, true} {
			data, shift := bytes.Clone(c.message), 0
			data[c.at] = c.with
			if framed {
				data, shift = inFrame(t, data), wire.FrameDataOverhead
			}
			o, ok := object(t, New(Config{}), data)
			if ok || o["offset"] != float64(c.offset+shift) || o["field"] != c.field {
				t.Errorf("%s: %v at %v in %v, want %d in %s", c.name, o["error"], o["offset"], o["field"], c.offset+shift, c.field)
			}
		}
	}
}

// TestJSON compares with a file. With -update messages are made and signed anew, and both files written.
func TestJSON(t *testing.T) {
	input, want := filepath.Join("testdata", "messages.hex"), filepath.Join("testdata", "messages.json")
	if *update {
		m := newMission(t)
		var b []byte
		for i, s := range m.samples(t) {
			if i%2 == 1 {
				s.data = inFrame(t, s.data)
			}
			b = append(b, "# "+s.name+"\n"...)
			b = append(hex.AppendEncode(b, s.data), '\n')
		}
		b = append(b, "# ack\n8100000007 0000001e\n"...)
		if err := os.WriteFile(input, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(input)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []byte
	d, lines := New(Config{}), NewLines(f)
	for data, err := lines.Next(); err == nil; data, err = lines.Next() {
		var ok bool
		if got, ok = d.Append(got, Unit{Data: data, Time: now}, func(o *Object) { o.Number("line", uint64(lines.Number())) }); !ok {
			t.Errorf("line %d is malformed", lines.Number())
		}
		got = append(got, '\n')
	}
	if *update {
		if err := os.WriteFile(want, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	expected, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, expected) {
		a, b := strings.Split(string(got), "\n"), strings.Split(string(expected), "\n")
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				t.Fatalf("object %d is\n%s\nwant\n%s", i+1, a[i], b[i])
			}
		}
		t.Fatalf("%d objects, want %d", len(a), len(b))
	}
}

// TestSignatures: what each says of a signature, and that one changed byte is seen.
func TestSignatures(t *testing.T) {
	m, stranger := newMission(t), newMission(t)
	value := []any{"message_contents", "message_body", "kind_data", 0, "values", 0, "signature", "verification"}
	answered := []any{"message_contents", "message_body", "kind_responses", 0, "values", 0, "signature", "verification", "result"}
	store := m.store(t, m.registration(t))

	t.Run("valid", func(t *testing.T) {
		o, _ := object(t, New(Config{Trust: m.trust}), store)
		v := at(t, o, value...)
		if at(t, v, "result") != "valid" || at(t, v, "user") != m.aor || at(t, v, "node_ids", 0) != m.kit.NodeID().String() || at(t, v, "chain") != "trusted" {
			t.Errorf("value: %v", v)
		}
		certificate := at(t, o, "security_block", "certificates", 0)
		if at(t, certificate, "node_ids", 0) != m.kit.NodeID().String() || at(t, certificate, "overlay") != overlayName {
			t.Errorf("certificate: %v", certificate)
		}
	})
	t.Run("of another mission", func(t *testing.T) {
		d := New(Config{Trust: stranger.trust})
		o, ok := object(t, d, store)
		chain, _ := at(t, at(t, o, value...), "chain").(string)
		if !ok || at(t, o, messageResult...) != "valid" || !strings.Contains(chain, "untrusted") || d.Stats().Untrusted != 2 {
			t.Errorf("%q, %+v", chain, d.Stats())
		}
	})
	t.Run("nobody trusted", func(t *testing.T) {
		o, _ := object(t, New(Config{}), store)
		if v, _ := at(t, o, value...).(map[string]any); v["result"] != "valid" || v["chain"] != nil {
			t.Errorf("%v", v)
		}
	})
	t.Run("every byte of the contents", func(t *testing.T) {
		message := m.message(t, wire.PingReq, golden(t, "ping_req"))
		_, rest, err := wire.ParseHeader(message)
		if err != nil {
			t.Fatal(err)
		}
		start := len(message) - len(rest)
		end := start + 2 + 4 + len(golden(t, "ping_req")) + 4
		for i := start; i < end; i++ {
			mutant := bytes.Clone(message)
			mutant[i] ^= 1
			if o, ok := object(t, New(Config{}), mutant); ok && at(t, o, messageResult...) != "invalid" {
				t.Errorf("byte %d changed: %v", i, at(t, o, messageResult...))
			}
		}
		for _, i := range []int{4, 20} { // overlay, transaction_id
			mutant := bytes.Clone(message)
			mutant[i] ^= 1
			if o, _ := object(t, New(Config{}), mutant); at(t, o, messageResult...) != "invalid" {
				t.Errorf("byte %d changed: %v", i, at(t, o, messageResult...))
			}
		}
	})
	t.Run("value of a forger", func(t *testing.T) {
		d := m.registration(t)
		d.StorageTime++
		o, ok := object(t, New(Config{}), m.store(t, d))
		if !ok || at(t, o, messageResult...) != "valid" || at(t, at(t, o, value...), "result") != "invalid" {
			t.Errorf("%v", at(t, o, value...))
		}
	})
	t.Run("certificate left out", func(t *testing.T) {
		body := appended(t, wire.StoreRequest{Resource: m.resource(), Kinds: []wire.StoreKindData{
			{Kind: wire.KindSIPRegistration, Values: []wire.StoredData{m.registration(t)}},
		}})
		o, _ := object(t, New(Config{}), m.message(t, wire.StoreReq, body))
		if at(t, at(t, o, value...), "result") != "no certificate" {
			t.Errorf("%v", at(t, o, value...))
		}
	})
	t.Run("answer to a fetch", func(t *testing.T) {
		fetch := m.message(t, wire.FetchReq, appended(t, wire.FetchRequest{
			Resource: "somewhere", Specifiers: []wire.DataSpecifier{{Kind: wire.KindSIPRegistration, Model: wire.Dictionary}},
		}), func(x *wire.Message) { x.TransactionID = 77 })
		moved := m.registration(t)
		moved.Signature = m.value(t, "somewhere", wire.KindSIPRegistration, moved.Value).Signature
		for _, c := range []struct {
			name   string
			before []byte
			answer []byte
			want   string
		}{
			{"where its signer may store", nil, m.fetchAnswer(t, 77, m.registration(t)), "valid"},
			{"elsewhere, without the request", nil, m.fetchAnswer(t, 77, moved), "unknown resource"},
			{"elsewhere, with the request", fetch, m.fetchAnswer(t, 77, moved), "valid"},
			{"elsewhere, with another request", fetch, m.fetchAnswer(t, 78, moved), "unknown resource"},
			{"not what was asked for", fetch, m.fetchAnswer(t, 77, m.registration(t)), "invalid"},
		} {
			d := New(Config{})
			if c.before != nil {
				object(t, d, c.before)
			}
			if o, _ := object(t, d, c.answer); at(t, o, answered...) != c.want {
				t.Errorf("%s: %v, want %s", c.name, at(t, o, answered...), c.want)
			}
		}
	})
	t.Run("cert_hash_node_id", func(t *testing.T) {
		// Signed as cert_hash; only whether the certificate is found differs.
		x, err := wire.Parse(m.message(t, wire.PingReq, golden(t, "ping_req")))
		if err != nil {
			t.Fatal(err)
		}
		der := x.Security.Certificates[0].Data
		h := newHash(wire.HashSHA256)
		h.Write(m.kit.NodeID().Bytes())
		h.Write(der)
		x.Security.Signature.Identity = wire.SignerIdentity{Type: wire.IdentityCertHashNodeID, HashAlg: wire.HashSHA256, Hash: h.Sum(nil)}
		if o, _ := object(t, New(Config{}), appended(t, x)); at(t, o, messageResult...) != "invalid" {
			t.Errorf("%v", at(t, o, messageResult...))
		}
		x.Security.Signature.Identity.Hash[0] ^= 1
		if o, _ := object(t, New(Config{}), appended(t, x)); at(t, o, messageResult...) != "no certificate" {
			t.Errorf("%v", at(t, o, messageResult...))
		}
		x.Security.Signature.SigAlg = wire.SigRSA
		x.Security.Signature.Identity.Hash[0] ^= 1
		if o, _ := object(t, New(Config{}), appended(t, x)); at(t, o, messageResult...) != "unknown algorithm" {
			t.Errorf("%v", at(t, o, messageResult...))
		}
	})
}

// TestNodeIDLength: it is that of the nodes in the lists, unless it is given.
func TestNodeIDLength(t *testing.T) {
	id, err := wire.NodeIDFrom(bytes.Repeat([]byte{7}, 20))
	if err != nil {
		t.Fatal(err)
	}
	x := &wire.Message{
		Header: wire.Header{Dest: []wire.Destination{wire.ToNode(id)}}, Code: wire.JoinReq,
		Body: appended(t, wire.JoinRequest{Node: id}), Security: wire.SecurityBlock{Signature: wire.NoSignature()},
	}
	o, ok := object(t, New(Config{}), appended(t, x))
	if !ok || at(t, o, "message_contents", "message_body", "joining_peer_id") != id.String() || at(t, o, messageResult...) != "none" {
		t.Errorf("%v", o)
	}
	if _, ok := object(t, New(Config{NodeIDLength: 16}), appended(t, x)); ok {
		t.Error("Node-ID of 20 bytes in an overlay of 16")
	}
	x.Dest = []wire.Destination{wire.ToOpaque(1)}
	if _, ok := object(t, New(Config{}), appended(t, x)); ok {
		t.Error("20 bytes guessed")
	}
}

// TestFragments: fragments are shown one by one, and the one that completes a message with it.
func TestFragments(t *testing.T) {
	m := newMission(t)
	whole := m.message(t, wire.PingReq, appended(t, wire.PingRequest{Padding: make([]byte, 3000)}))
	parts, err := wire.Fragment(whole, 1200)
	if err != nil || len(parts) < 3 {
		t.Fatal(len(parts), err)
	}
	d := New(Config{})
	for i := range parts {
		part := parts[len(parts)-1-i] // the last first
		o, ok := object(t, d, inFrame(t, part))
		last := i == len(parts)-1
		if !ok || at(t, o, "fragment", "reassembled") != last || (o["message_contents"] != nil) != last {
			t.Errorf("fragment %d: %v", i, o)
		}
		if last && at(t, o, messageResult...) != "valid" {
			t.Errorf("%v", at(t, o, messageResult...))
		}
		if again, err := d.Reencode(nil, part); err != nil || !bytes.Equal(again, part) {
			t.Errorf("fragment %d written back as %x, %v", i, again, err)
		}
	}
	// Of another stream, it is not the same message.
	d = New(Config{})
	for i, part := range parts {
		line, _ := d.Append(nil, Unit{Data: part, Stream: uint64(i), Time: now}, nil)
		if bytes.Contains(line, []byte(`"reassembled":true`)) {
			t.Error("fragments of different streams put together")
		}
	}
	_, rest, err := wire.ParseHeader(parts[0])
	if err != nil {
		t.Fatal(err)
	}
	empty := bytes.Clone(parts[0][:len(parts[0])-len(rest)])
	binary.BigEndian.PutUint32(empty[16:], uint32(len(empty)))
	if o, ok := object(t, d, empty); ok || o["field"] != "forwarding.fragment" {
		t.Errorf("empty fragment: %v", o)
	}
}

// TestUnknownThings are shown as they are.
func TestUnknownThings(t *testing.T) {
	m := newMission(t)
	o, ok := object(t, New(Config{}), m.message(t, 0x29, []byte{1, 2, 3}))
	if !ok || at(t, o, "message_contents", "message_code") != "message_0x29" || at(t, o, "message_contents", "message_body") != "010203" {
		t.Errorf("%v", o)
	}
	models := func(k wire.KindID) (wire.DataModel, bool) { return wire.SingleValue, k == 0xf0000001 }
	v := m.value(t, "x", 0xf0000001, wire.StoredDataValue{Model: wire.SingleValue, DataValue: wire.DataValue{Exists: true, Value: []byte{0xbe}}})
	body := appended(t, wire.StoreRequest{Resource: "x", Kinds: []wire.StoreKindData{{Kind: 0xf0000001, Values: []wire.StoredData{v}}}})
	data := m.message(t, wire.StoreReq, body)
	kind := []any{"message_contents", "message_body", "kind_data", 0}
	o, ok = object(t, New(Config{Models: models}), data)
	if !ok || at(t, at(t, o, kind...), "values", 0, "value", "single_value_entry", "value") != "be" {
		t.Errorf("%v", o)
	}
	o, ok = object(t, New(Config{}), data)
	if _, raw := at(t, at(t, o, kind...), "values").(string); !ok || !raw {
		t.Errorf("%v", o)
	}
}

// TestBounded: what is hostile costs a bounded time and memory, and is said.
func TestBounded(t *testing.T) {
	m := newMission(t)
	o, ok := object(t, New(Config{}), append(m.message(t, wire.PingReq, nil), make([]byte, MaxMessage)...))
	if ok || o["offset"] != float64(MaxMessage) {
		t.Errorf("%v", o)
	}
	values := make([]wire.StoredData, 5*maxChecks)
	bad := m.registration(t)
	bad.StorageTime++
	for i := range values {
		values[i] = bad
	}
	store := m.store(t, values...)
	if len(store) > MaxMessage {
		store = m.store(t, values[:len(values)*MaxMessage/len(store)-20]...)
	}
	d := New(Config{})
	o, ok = object(t, d, store)
	list, _ := at(t, o, "message_contents", "message_body", "kind_data", 0, "values").([]any)
	if !ok || d.Stats().Invalid != maxChecks-1 || at(t, list[len(list)-1], "signature", "verification", "result") != "not checked" {
		t.Errorf("%d values, %+v, the last %v", len(list), d.Stats(), at(t, list[len(list)-1], "signature", "verification"))
	}
	for i := range 3 * maxFetches {
		d.fetched.add(uint64(i), "r")
	}
	if d.fetched.of(2*maxFetches-1) != nil || len(d.fetched.of(3*maxFetches-1)) != 1 {
		t.Error("transactions remembered without end, or not at all")
	}
}

func BenchmarkDecode(b *testing.B) {
	m := newMission(b)
	data := m.store(b, m.registration(b))
	d := New(Config{})
	var buf []byte
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		buf, _ = d.Append(buf[:0], Unit{Data: data, Time: now}, nil)
	}
}

// TestUnknownIdentity: a SignerIdentity of a type that only a later RFC can have is shown and survives.
func TestUnknownIdentity(t *testing.T) {
	x := &wire.Message{Code: wire.PingReq, Body: []byte{0, 0}}
	var err error
	if x.Security, err = wire.ParseSecurityBlock(golden(t, "security_block_extended")); err != nil {
		t.Fatal(err)
	}
	data := appended(t, x)
	d := New(Config{})
	o, ok := object(t, d, data)
	identity := at(t, o, "security_block", "signature", "identity")
	if !ok || at(t, identity, "identity_type") != 9.0 || at(t, identity, "identity") != "010203" || at(t, o, messageResult...) != "unknown algorithm" {
		t.Errorf("%v", o)
	}
	if again, err := d.Reencode(nil, data); err != nil || !bytes.Equal(again, data) {
		t.Errorf("%x written back as %x, %v", data, again, err)
	}
}

// TestMalformedValues: a message whose values or extensions cannot be read is shown with them in hex, and written back as
// it was: for RELOAD it is well formed, for its Kinds it is not.
func TestMalformedValues(t *testing.T) {
	m := newMission(t)
	exists := func(b string) wire.DataValue { return wire.DataValue{Exists: true, Value: []byte(b)} }
	node := wire.ResourceIDFor(m.kit.NodeID().Bytes(), 16)
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"registration", m.store(t, m.value(t, m.resource(), wire.KindSIPRegistration, wire.StoredDataValue{Model: wire.Dictionary, DataValue: exists("\x02\x00")}))},
		{"empty registration", m.store(t, m.value(t, m.resource(), wire.KindSIPRegistration, wire.StoredDataValue{Model: wire.Dictionary, DataValue: exists("")}))},
		{"certificate", m.message(t, wire.StoreReq, appended(t, wire.StoreRequest{Resource: node, Kinds: []wire.StoreKindData{{
			Kind: wire.KindCertificateByNode, Values: []wire.StoredData{m.value(t, node, wire.KindCertificateByNode, wire.StoredDataValue{Model: wire.Array, DataValue: exists("no certificate")})},
		}}}))},
		{"extension", m.message(t, wire.PingReq, golden(t, "ping_req"), func(x *wire.Message) {
			x.Extensions = []wire.Extension{{Type: wire.ExtensionDiagnosticPing, Data: []byte("dig")}}
		})},
		{"information", m.message(t, wire.PathTrackAns, appended(t, wire.PathTrackAnswer{
			NextHop:  wire.ToNode(m.kit.NodeID()),
			Response: wire.DiagnosticsResponse{Info: []wire.DiagnosticInfo{{Kind: wire.DiagAppUptime, Contents: []byte("1")}}},
		}))},
		{"option", m.message(t, wire.PingReq, golden(t, "ping_req"), func(x *wire.Message) {
			x.Options = []wire.ForwardingOption{{Type: wire.OptionExtensiveRoutingMode, Data: []byte{1}}}
		})},
		{"data of a Leave", m.message(t, wire.LeaveReq, appended(t, wire.LeaveRequest{Node: m.kit.NodeID()}))},
		{"kinds of an error", m.message(t, wire.ErrorAns, appended(t, wire.ErrorResponse{Code: wire.ErrorUnknownKind, Info: []byte{9}}))},
	} {
		d := New(Config{})
		o, ok := object(t, d, c.data)
		offset, _ := o["offset"].(float64)
		if ok || o["error"] == nil || int(offset) <= 38 || int(offset) > len(c.data) || at(t, o, messageResult...) != "valid" {
			t.Errorf("%s: %v at %v in %v", c.name, o["error"], o["offset"], o["field"])
		}
		if again, err := d.Reencode(nil, c.data); err != nil || !bytes.Equal(again, c.data) {
			t.Errorf("%s: %v, %x written back as %x", c.name, err, c.data, again)
		}
	}
	// What is empty is said to be where it would have to be: before what follows it.
	for _, c := range []struct {
		name    string
		data    []byte
		follows []byte
	}{
		{"registration", m.store(t, m.value(t, m.resource(), wire.KindSIPRegistration, wire.StoredDataValue{
			Model: wire.Dictionary, DataValue: exists(""),
		})), []byte{wire.HashSHA256, wire.SigECDSA, byte(wire.IdentityCertHash), 0, 34}},
		{"Leave", m.message(t, wire.LeaveReq, appended(t, wire.LeaveRequest{Node: m.kit.NodeID()}), func(x *wire.Message) {
			x.Extensions = []wire.Extension{{Type: 0x4321}}
		}), []byte{0, 0, 0, 7, 0x43, 0x21}},
		{"option", m.message(t, wire.PingReq, golden(t, "ping_req"), func(x *wire.Message) {
			x.Options = []wire.ForwardingOption{{Type: 200, Data: []byte("before")}, {Type: wire.OptionExtensiveRoutingMode}, {Type: 201, Flags: 0xf0}}
		}), []byte{201, 0xf0, 0, 0}},
		{"extension", m.message(t, wire.PingReq, golden(t, "ping_req"), func(x *wire.Message) {
			x.Extensions = []wire.Extension{{Type: 1, Data: []byte("before")}, {Type: wire.ExtensionDiagnosticPing}, {Type: 0x4321}}
		}), []byte{0x43, 0x21, 0}},
	} {
		o, ok := object(t, New(Config{}), c.data)
		offset, _ := o["offset"].(float64)
		if ok || !bytes.HasPrefix(c.data[int(offset):], c.follows) {
			t.Errorf("empty %s: at %v, where %x is", c.name, offset, c.data[int(offset):][:6])
		}
	}
	line := New(Config{}).Malformed(nil, wire.SyntaxError{Offset: 3, Field: "line", Reason: "no hex"}, func(o *Object) { o.Number("line", 7); o.Text("x", "y") })
	if string(line) != `{"line":7,"x":"y","error":"no hex","offset":3,"field":"line"}` {
		t.Errorf("%s", line)
	}
}
