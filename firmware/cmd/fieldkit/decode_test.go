package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fieldkit/firmware/mission"
	"fieldkit/overlay/decode/capture"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/link"
	"fieldkit/overlay/wire"
)

// decoded runs the command over the input and reads each line of its output as an object.
func decoded(t *testing.T, c decodeCommand, input []byte) (objects []map[string]any, report string, err error) {
	t.Helper()
	var out, stderr bytes.Buffer
	err = c.decode(t.Context(), bytes.NewReader(input), &out, &stderr)
	for line := range strings.Lines(out.String()) {
		var o map[string]any
		if err := json.Unmarshal([]byte(line), &o); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		objects = append(objects, o)
	}
	return objects, stderr.String(), err
}

// member walks into an object; nil where there is nothing.
func member(o map[string]any, path ...string) any {
	var v any = o
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	return v
}

var signatureResult = []string{"security_block", "signature", "verification", "result"}

// kits is a mission with two kits.
type kits struct {
	mission *mission.Mission
	file    string
	a, b    *ident.Identity
}

func newKits(t *testing.T) kits {
	t.Helper()
	m, err := mission.New("Exercise", mission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	k := kits{mission: m, file: filepath.Join(t.TempDir(), "exercise.mission")}
	if err := m.Create(k.file); err != nil {
		t.Fatal(err)
	}
	root, err := m.Authority()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []**ident.Identity{&k.a, &k.b} {
		if *id, err = root.NewIdentity(); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// ping makes a signed Ping from one kit to the other.
func (k kits) ping(t *testing.T, from, to *ident.Identity, transaction uint64, padding int) []byte {
	t.Helper()
	body, err := wire.PingRequest{Padding: make([]byte, padding)}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	m := &wire.Message{
		Header: wire.Header{
			Overlay: wire.OverlayHash(k.mission.Overlay), TTL: 16, TransactionID: transaction, Dest: []wire.Destination{wire.ToNode(to.NodeID())},
		},
		Code: wire.PingReq, Body: body,
	}
	if err := ident.Sign(m, from.Signer()); err != nil {
		t.Fatal(err)
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDecodeLines: one line out for each message in, the malformed ones with their place, and a failure at the end.
func TestDecodeLines(t *testing.T) {
	k := newKits(t)
	good := hex.EncodeToString(k.ping(t, k.a, k.b, 1, 4))
	input := "# three messages\n\n0x" + good + "\n" + good[:60] + "\n" + strings.ToUpper(good) + "\n"
	objects, _, err := decoded(t, decodeCommand{Mission: k.file}, []byte(input))
	if !errors.Is(err, errMalformed) || len(objects) != 3 {
		t.Fatalf("%d objects, %v", len(objects), err)
	}
	for i, want := range []struct {
		line   float64
		result any
	}{{3, "valid"}, {4, nil}, {5, "valid"}} {
		o := objects[i]
		if o["line"] != want.line || member(o, signatureResult...) != want.result || (o["error"] == nil) != (want.result != nil) {
			t.Errorf("object %d: %v", i, o)
		}
	}
	if o := objects[1]; o["offset"] != 24.0+4 || o["field"] != "forwarding.max_response_length" {
		t.Errorf("%v at %v in %v", o["error"], o["offset"], o["field"])
	}
	if _, _, err := decoded(t, decodeCommand{}, []byte(good+"\n")); err != nil {
		t.Errorf("well formed: %v", err)
	}
}

// TestDecodeReencode: line by line the input comes back, and a comment where it was no message.
func TestDecodeReencode(t *testing.T) {
	k := newKits(t)
	messages, err := os.ReadFile(filepath.Join("..", "..", "..", "overlay", "decode", "testdata", "messages.hex"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(messages)) {
		if !strings.HasPrefix(line, "#") {
			want = append(want, strings.ReplaceAll(line, " ", ""))
		}
	}
	var out bytes.Buffer
	if err := (decodeCommand{Reencode: true}).decode(t.Context(), bytes.NewReader(messages), &out, &out); err != nil {
		t.Error(err)
	}
	if got := slices.Collect(strings.Lines(out.String())); !slices.Equal(got, want) || len(want) < 40 {
		t.Errorf("%d lines, want %d:\n%s", len(got), len(want), out.String())
	}
	out.Reset()
	good := hex.EncodeToString(k.ping(t, k.a, k.b, 1, 4))
	err = (decodeCommand{Reencode: true}).decode(t.Context(), strings.NewReader(good+"\n"+good[:30]+"\nzz\n"+good+"\n"), &out, &out)
	got := strings.Split(out.String(), "\n")
	if !errors.Is(err, errMalformed) || len(got) != 5 || got[0] != good || got[3] != good || !strings.HasPrefix(got[1], "# ") || !strings.Contains(got[1], "byte 12") || !strings.HasPrefix(got[2], "# ") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// TestDecodeReencodeSaysWhatTheJSONSays: the same place, counted from the start of the input, and the same exit status,
// inside a frame and for a signature that is wrong.
func TestDecodeReencodeSaysWhatTheJSONSays(t *testing.T) {
	k := newKits(t)
	ping := k.ping(t, k.a, k.b, 1, 4)
	cut := "8000000007" + fmt.Sprintf("%06x", 20) + hex.EncodeToString(ping[:20]) // a DATA frame
	objects, _, err := decoded(t, decodeCommand{}, []byte(cut+"\n"))
	if !errors.Is(err, errMalformed) || len(objects) != 1 {
		t.Fatalf("%v, %v", objects, err)
	}
	var out bytes.Buffer
	err = decodeCommand{Reencode: true}.decode(t.Context(), strings.NewReader(cut+"\n"), &out, &out)
	if want := fmt.Sprintf("(byte %v)\n", objects[0]["offset"]); !errors.Is(err, errMalformed) || !strings.HasPrefix(out.String(), "# ") || !strings.HasSuffix(out.String(), want) {
		t.Errorf("%v, %q, want %q at its end", err, out.String(), want)
	}
	forged := bytes.Clone(ping)
	forged[len(forged)-1] ^= 1
	for _, reencode := range []bool{false, true} {
		c := decodeCommand{Reencode: reencode, Verify: true}
		if err := c.decode(t.Context(), strings.NewReader(hex.EncodeToString(forged)), io.Discard, io.Discard); err == nil || errors.Is(err, errMalformed) {
			t.Errorf("reencode %v: a forged signature with --verify: %v", reencode, err)
		}
	}
	if err := (decodeCommand{Pcap: true}).decode(t.Context(), strings.NewReader("no capture"), io.Discard, io.Discard); err == nil || !strings.HasPrefix(err.Error(), "standard input: ") {
		t.Errorf("what is no capture: %v", err)
	}
}

// TestDecodeTrust: with a mission or its document the chain is checked, and --verify makes a failure of what is wrong.
func TestDecodeTrust(t *testing.T) {
	k, other := newKits(t), newKits(t)
	document := filepath.Join(t.TempDir(), "overlay.relo")
	if err := os.WriteFile(document, k.mission.Document().Raw(), 0o600); err != nil {
		t.Fatal(err)
	}
	good := k.ping(t, k.a, k.b, 1, 4)
	bad := bytes.Clone(good)
	bad[bytes.Index(bad, []byte{0, 4, 0, 0, 0, 0})+3] ^= 1 // the padding
	for _, c := range []struct {
		name    string
		command decodeCommand
		message []byte
		result  string
		trusted bool
		fails   bool
	}{
		{"no mission", decodeCommand{Verify: true}, good, "valid", false, false},
		{"mission", decodeCommand{Mission: k.file, Verify: true}, good, "valid", true, false},
		{"document", decodeCommand{Document: document, Verify: true}, good, "valid", true, false},
		{"another mission", decodeCommand{Mission: other.file}, good, "valid", false, false},
		{"another mission, verified", decodeCommand{Mission: other.file, Verify: true}, good, "valid", false, true},
		{"changed", decodeCommand{Mission: k.file}, bad, "invalid", false, false},
		{"changed, verified", decodeCommand{Mission: k.file, Verify: true}, bad, "invalid", false, true},
	} {
		objects, _, err := decoded(t, c.command, []byte(hex.EncodeToString(c.message)+"\n"))
		if len(objects) != 1 || (err != nil) != c.fails {
			t.Errorf("%s: %d objects, %v", c.name, len(objects), err)
			continue
		}
		trusted := member(objects[0], "security_block", "signature", "verification", "chain") == "trusted"
		if member(objects[0], signatureResult...) != c.result || trusted != c.trusted {
			t.Errorf("%s: %v", c.name, member(objects[0], "security_block", "signature", "verification"))
		}
	}
	for _, c := range []decodeCommand{
		{Mission: "no such file"}, {Document: "no such file"}, {Document: "main.go"}, {NodeIDLength: 15}, {NodeIDLength: 21},
		{Keylog: k.file}, {Pcap: true, Keylog: "no such file"}, {Pcap: true},
	} {
		if objects, _, err := decoded(t, c, []byte("d2\n")); err == nil || errors.Is(err, errMalformed) || len(objects) != 0 {
			t.Errorf("%+v: %v, %v", c, objects, err)
		}
	}
}

// syncBuffer is written by two kits at once.
type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

// TestDecodeLiveLinks captures links of every protocol on loopback while messages go both ways, and reads the capture with
// the key log of one end: each message is there, whole, with a valid signature by a certificate of the mission. The
// controls: without the key log, with another one, and with another mission.
func TestDecodeLiveLinks(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*link.Config)
		link   string
	}{
		{"DTLS-UDP-SR", func(*link.Config) {}, "dtls"},
		{"DTLS-UDP-SR-NO-ICE", func(c *link.Config) { c.NoICE, c.LinkProtocols = true, []string{"DTLS-UDP-SR-NO-ICE"} }, "dtls"},
		{"TLS-TCP-FH-NO-ICE", func(c *link.Config) { c.NoICE, c.LinkProtocols = true, []string{"TLS-TCP-FH-NO-ICE"} }, "tls"},
	} {
		t.Run(c.name, func(t *testing.T) { liveLink(t, c.change, c.link) })
	}
}

func liveLink(t *testing.T, change func(*link.Config), protocol string) {
	dumpcap, err := exec.LookPath("dumpcap")
	if err != nil {
		if os.Getenv("FIELDKIT_CI") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	k, dir := newKits(t), t.TempDir()
	var keys syncBuffer
	transport := func(id *ident.Identity, keys *syncBuffer) *link.Transport {
		cfg := link.Config{
			Identity: id, Trust: k.mission.Trust(),
			Addresses: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} },
		}
		if keys != nil {
			cfg.KeyLog = keys
		}
		change(&cfg)
		tr, err := link.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := tr.Close(); err != nil {
				t.Error(err)
			}
		})
		return tr
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	offerer, answerer := transport(k.a, &keys), transport(k.b, nil)
	x, err := offerer.Prepare(ctx)
	if err != nil {
		t.Fatal(err)
	}
	y, err := answerer.Prepare(ctx)
	if err != nil {
		t.Fatal(err)
	}
	offer, answer := x.Local(), y.Local()
	offer.Role, answer.Role = []byte("passive"), []byte("active")
	var ports []string
	for _, list := range [][]wire.IceCandidate{offer.Candidates, answer.Candidates} {
		for _, c := range list {
			ports = append(ports, fmt.Sprint("port ", c.Addr.Port()))
		}
	}
	file := filepath.Join(dir, "live.pcapng")
	cmd := exec.CommandContext(ctx, dumpcap, "-q", "-i", "lo", "-f", strings.Join(ports, " or "), "-w", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { _ = cmd.Wait(); close(stopped) }() // killed: an error is expected
	t.Cleanup(func() { cancel(); <-stopped })
	for st, err := os.Stat(file); err != nil || st.Size() == 0; st, err = os.Stat(file) {
		select {
		case <-ctx.Done():
			t.Fatal("no capture on loopback")
		case <-time.After(20 * time.Millisecond):
		}
	}
	type end struct {
		conn *link.Conn
		err  error
	}
	ends := make(chan end, 1)
	go func() {
		c, err := y.Connect(ctx, offer, k.a.NodeID(), false)
		ends <- end{c, err}
	}()
	a, err := x.Connect(ctx, answer, k.b.NodeID(), true)
	other := <-ends
	if err != nil || other.err != nil {
		t.Fatal(err, other.err)
	}
	b := other.conn
	const messages = 10
	for i := range messages {
		for _, way := range []struct {
			from, to   *ident.Identity
			send, recv *link.Conn
			id         uint64
		}{{k.a, k.b, a, b, 1000}, {k.b, k.a, b, a, 2000}} {
			message := k.ping(t, way.from, way.to, way.id+uint64(i), 300*i)
			parts, err := wire.Fragment(message, 1200)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range parts {
				if err := way.send.Send(part); err != nil {
					t.Fatal(err)
				}
				if got, err := way.recv.Receive(ctx); err != nil || !bytes.Equal(got, part) {
					t.Fatalf("%d bytes received, %v", len(got), err)
				}
			}
		}
	}

	log := filepath.Join(dir, "keys.log")
	if err := os.WriteFile(log, keys.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	whole := func(objects []map[string]any) (ids []string) {
		for _, o := range objects {
			if o["link"] == protocol && member(o, "message_contents", "message_code") == "ping_req" &&
				member(o, signatureResult...) == "valid" && member(o, "security_block", "signature", "verification", "chain") == "trusted" {
				ids = append(ids, fmt.Sprint(member(o, "forwarding", "transaction_id")))
			}
		}
		slices.Sort(ids)
		return ids
	}
	var want []string
	for i := range messages {
		want = append(want, fmt.Sprintf("0x%016x", 1000+i), fmt.Sprintf("0x%016x", 2000+i))
	}
	slices.Sort(want)
	read := func(c decodeCommand) (objects []map[string]any, report string, err error) {
		b, ferr := os.ReadFile(file)
		if ferr != nil {
			t.Fatal(ferr)
		}
		c.Pcap = true
		return decoded(t, c, b)
	}
	good := decodeCommand{Keylog: log, Mission: k.file, Verify: true}
	var objects []map[string]any
	var report string
	for { // dumpcap writes when it likes, and half a packet too
		objects, report, err = read(good)
		if got := whole(objects); err == nil && slices.Equal(got, want) {
			break
		} else if ctx.Err() != nil {
			t.Fatalf("%v\n%s%v, want %v", err, report, got, want)
		}
		<-time.After(50 * time.Millisecond)
	}
	if !strings.Contains(report, "1 DTLS or TLS sessions, the secrets of 1 known") || strings.Contains(report, "not read") {
		t.Errorf("report %q", report)
	}
	acks, fragments := 0, 0
	for _, o := range objects {
		if member(o, "frame", "type") == "ack" {
			acks++
		}
		if o["fragment"] != nil {
			fragments++
		}
	}
	if acks < messages || fragments < messages {
		t.Errorf("%d ACK, %d fragments", acks, fragments)
	}
	cancel()
	<-stopped

	if objects, report, err := read(decodeCommand{}); err != nil || len(objects) != 0 || !strings.Contains(report, "without their secret") {
		t.Errorf("without a key log: %d objects, %q, %v", len(objects), report, err)
	}
	wrong := bytes.Clone(keys.Bytes())
	if last := &wrong[len(wrong)-2]; *last == '0' { // a digit before the end of the line
		*last = '1'
	} else {
		*last = '0'
	}
	if err := os.WriteFile(log, wrong, 0o600); err != nil {
		t.Fatal(err)
	}
	if objects, report, err := read(good); err != nil || len(objects) != 0 || !strings.Contains(report, "does not open") {
		t.Errorf("with another secret: %d objects, %q, %v", len(objects), report, err)
	}
	if err := os.WriteFile(log, keys.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if objects, _, err := read(decodeCommand{Keylog: log, Mission: newKits(t).file, Verify: true}); err == nil || errors.Is(err, capture.ErrCapture) || len(whole(objects)) != 0 {
		t.Errorf("with another mission: %v", err)
	}
}
