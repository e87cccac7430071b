package link

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/link/suite"
	"fieldkit/overlay/wire"
)

// need skips a test whose program is missing, but never in CI.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if os.Getenv("FIELDKIT_CI") == "1" {
		t.Fatalf("%s is not installed", program)
	}
	t.Skipf("%s is not installed", program)
	return ""
}

// files writes a kit's key and certificate and the mission's root where OpenSSL reads them.
func (m *mission) files(id *ident.Identity) (key, cert, root string) {
	m.t.Helper()
	dir := m.t.TempDir()
	keyPEM, err := id.KeyPEM()
	if err != nil {
		m.t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			m.t.Fatal(err)
		}
		return p
	}
	return write("key.pem", keyPEM), write("cert.pem", id.CertificatePEM()), write("root.pem", m.auth.CertificatePEM())
}

// transcript collects a program's output.
type transcript struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *transcript) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// await waits until the output matches.
func (s *transcript) await(t *testing.T, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(10 * time.Second); ; <-time.After(5 * time.Millisecond) {
		if m := re.FindStringSubmatch(s.String()); m != nil {
			return m
		}
		if time.Now().After(end) {
			t.Fatalf("no %q in\n%s", pattern, s.String())
		}
	}
}

// start runs a program until the test ends.
func start(t *testing.T, name string, args ...string) (stdin io.Writer, out *transcript) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	out = &transcript{}
	cmd.Stdout, cmd.Stderr = out, out
	pipe, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = pipe.Close()
		_ = cmd.Wait() // killed: an error is expected
	})
	return pipe, out
}

// TestOpenSSLClient has OpenSSL open a link to the bootstrap port, as an independent implementation of the suite, of the
// cookie exchange and of mutual authentication.
func TestOpenSSLClient(t *testing.T) {
	openssl := need(t, "openssl")
	m := newMission(t)
	tr := m.transport()
	id := m.identity()
	key, cert, root := m.files(id)
	args := []string{
		"s_client", "-dtls1_2", "-connect", fmt.Sprintf("127.0.0.1:%d", tr.Port()), "-key", key, "-cert", cert, "-CAfile", root,
		"-verify_return_error", "-keymatexport", "EXTRACTOR-dtls_srtp", "-keymatexportlen", "60",
	}
	stdin, out := start(t, openssl, append(args, "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305")...)
	c, err := tr.Accept(testContext(t, 10*time.Second))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if c.Peer().NodeID != id.NodeID() {
		t.Errorf("peer %v", c.Peer().NodeID)
	}
	frame, err := wire.Frame{Type: wire.FrameData, Message: []byte("hello from OpenSSL")}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write(frame); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Receive(testContext(t, 5*time.Second)); err != nil || string(got) != "hello from OpenSSL" {
		t.Errorf("received %q, %v", got, err)
	}
	if err := c.Send([]byte("hello OpenSSL")); err != nil {
		t.Fatal(err)
	}
	out.await(t, "hello OpenSSL")
	out.await(t, "Cipher is ECDHE-ECDSA-CHACHA20-POLY1305")
	theirs := out.await(t, `Keying material: ([0-9A-F]{120})`)[1]
	ours, err := c.sess.secrets.Export("EXTRACTOR-dtls_srtp", nil, 60)
	if err != nil || !strings.EqualFold(theirs, hex.EncodeToString(ours)) {
		t.Errorf("keying material %x, %v, OpenSSL has %s", ours, err, theirs)
	}

	for _, refused := range []string{"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-SHA", "ECDHE-ECDSA-AES128-CCM"} {
		_, out := start(t, openssl, append(args, "-cipher", refused)...)
		for n := tr.Stats().HandshakesFailed; tr.Stats().HandshakesFailed == n; <-time.After(5 * time.Millisecond) {
			if strings.Contains(out.String(), "Cipher is "+refused) {
				t.Fatalf("%s agreed", refused)
			}
		}
	}
}

// TestOpenSSLServer dials OpenSSL.
func TestOpenSSLServer(t *testing.T) {
	openssl := need(t, "openssl")
	m := newMission(t)
	tr := m.transport()
	id := m.identity()
	key, cert, root := m.files(id)
	port := freePort(t)
	stdin, out := start(t, openssl, "s_server", "-dtls1_2", "-accept", fmt.Sprintf("127.0.0.1:%d", port), "-key", key, "-cert", cert,
		"-CAfile", root, "-Verify", "1", "-verify_return_error")
	out.await(t, "ACCEPT")
	c, err := tr.Bootstrap(testContext(t, 10*time.Second), netip.AddrPortFrom(loopback, port))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if c.Peer().NodeID != id.NodeID() {
		t.Errorf("peer %v", c.Peer().NodeID)
	}
	if err := c.Send([]byte("hello OpenSSL")); err != nil {
		t.Fatal(err)
	}
	out.await(t, "hello OpenSSL")
	frame, err := wire.Frame{Type: wire.FrameAck, Sequence: 0}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stdin.Write(frame); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); c.Stats().RTT == 0; <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("its acknowledgement did not arrive")
		}
	}
}

// TestOpenSSLOverTCP is both directions over TLS and TCP: an independent TLS reads and writes the frames, and agrees on
// what is exported for SRTP.
func TestOpenSSLOverTCP(t *testing.T) {
	openssl := need(t, "openssl")
	m := newMission(t)
	tr := m.transport(noICE(onlyTCP))
	id := m.identity()
	key, cert, root := m.files(id)
	args := []string{
		"s_client", "-tls1_2", "-connect", fmt.Sprintf("127.0.0.1:%d", tr.Port()), "-key", key, "-cert", cert, "-CAfile", root,
		"-verify_return_error", "-keymatexport", "EXTRACTOR-dtls_srtp", "-keymatexportlen", "60",
	}
	for _, cipher := range []string{"ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-GCM-SHA256"} {
		stdin, out := start(t, openssl, append(args, "-cipher", cipher)...)
		c, err := tr.Accept(testContext(t, 10*time.Second))
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if c.Peer().NodeID != id.NodeID() {
			t.Errorf("peer %v", c.Peer().NodeID)
		}
		talkOverTCP(t, c, stdin, out)
		out.await(t, "Cipher is "+cipher)
		theirs := out.await(t, `Keying material: ([0-9A-F]{120})`)[1]
		ours, err := c.sess.secrets.Export("EXTRACTOR-dtls_srtp", nil, 60)
		if err != nil || !strings.EqualFold(theirs, hex.EncodeToString(ours)) {
			t.Errorf("keying material %x, %v, OpenSSL has %s", ours, err, theirs)
		}
	}
	for _, refused := range []string{"ECDHE-ECDSA-AES256-SHA", "ECDHE-ECDSA-AES128-SHA256"} {
		_, out := start(t, openssl, append(args, "-cipher", refused)...)
		for n := tr.Stats().HandshakesFailed; tr.Stats().HandshakesFailed == n; <-time.After(5 * time.Millisecond) {
			if strings.Contains(out.String(), "Cipher is "+refused) {
				t.Fatalf("%s agreed", refused)
			}
		}
	}

	port := freePort(t)
	stdin, out := start(t, openssl, "s_server", "-tls1_2", "-accept", fmt.Sprintf("127.0.0.1:%d", port), "-key", key, "-cert", cert,
		"-CAfile", root, "-Verify", "1", "-verify_return_error")
	out.await(t, "ACCEPT")
	c, err := tr.Bootstrap(testContext(t, 10*time.Second), netip.AddrPortFrom(loopback, port))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if c.Peer().NodeID != id.NodeID() {
		t.Errorf("peer %v", c.Peer().NodeID)
	}
	talkOverTCP(t, c, stdin, out)
}

// Without the extended master secret two handshakes can be made to agree (RFC 7627 §1), and keys for media that are
// exported from one are those of the other. Over TCP it is required as over DTLS, of clients and of servers.
func TestOpenSSLWithoutExtendedMasterSecret(t *testing.T) {
	openssl := need(t, "openssl")
	conf := filepath.Join(t.TempDir(), "openssl.cnf")
	lines := "openssl_conf = init\n[init]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n[tls]\nOptions = -ExtendedMasterSecret\n"
	if err := os.WriteFile(conf, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OPENSSL_CONF", conf)
	m := newMission(t)
	refused := make(chan error, 4)
	tr := m.transport(noICE(onlyTCP), func(c *Config) { c.OnRefused = func(_ netip.AddrPort, err error) { refused <- err } })
	key, cert, root := m.files(m.identity())
	_, out := start(t, openssl, "s_client", "-tls1_2", "-connect", fmt.Sprintf("127.0.0.1:%d", tr.Port()), "-key", key, "-cert", cert, "-CAfile", root)
	out.await(t, `Extended master secret: no`) // else nothing is shown
	select {
	case err := <-refused:
		if !errors.Is(err, ErrHandshake) {
			t.Errorf("a client: %v", err)
		}
	case <-tr.accepted:
		t.Error("a client has a link")
	case <-time.After(10 * time.Second):
		t.Error("a client was not refused")
	}

	port := freePort(t)
	_, out = start(t, openssl, "s_server", "-tls1_2", "-accept", fmt.Sprintf("127.0.0.1:%d", port), "-key", key, "-cert", cert,
		"-CAfile", root, "-Verify", "1")
	out.await(t, "ACCEPT")
	if _, err := tr.Bootstrap(testContext(t, 10*time.Second), netip.AddrPortFrom(loopback, port)); !errors.Is(err, ErrHandshake) {
		t.Errorf("a server: %v", err)
	}
}

// talkOverTCP exchanges a message each way with OpenSSL, acknowledged.
func talkOverTCP(t *testing.T, c *Conn, stdin io.Writer, out *transcript) {
	t.Helper()
	for _, f := range []wire.Frame{{Type: wire.FrameData, Message: []byte("hello from OpenSSL")}, {Type: wire.FrameAck}} {
		if f.Type == wire.FrameAck {
			if err := c.Send([]byte("hello OpenSSL")); err != nil {
				t.Fatal(err)
			}
			out.await(t, "hello OpenSSL")
		}
		b, err := f.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stdin.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := c.Receive(testContext(t, 5*time.Second)); err != nil || string(got) != "hello from OpenSSL" {
		t.Errorf("received %q, %v", got, err)
	}
	out.awaitBytes(t, ackOfFirst)
	for end := time.Now().Add(5 * time.Second); c.Stats().RTT == 0; <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("its acknowledgement did not arrive")
		}
	}
}

// freePort asks the kernel.
func freePort(t *testing.T) uint16 {
	t.Helper()
	m := newMission(t)
	tr := m.transport()
	p := tr.Port()
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestLiveLinkReadByTshark captures a link on loopback and has Wireshark's RELOAD dissectors decode it. Wireshark 4.0
// cannot open DTLS records under ChaCha20-Poly1305 itself (its nonce leaves out the epoch, against RFC 7905 §2), so the
// captured records are opened with the link's logged secret by the suite that OpenSSL agrees with above, and handed
// over as datagrams. The controls: another secret opens nothing, and a message with a wrong token is not RELOAD.
func TestLiveLinkReadByTshark(t *testing.T) {
	tshark, dumpcap, text2pcap := need(t, "tshark"), need(t, "dumpcap"), need(t, "text2pcap")
	m := newMission(t)
	dir := t.TempDir()
	var keys transcript
	a, b := m.transport(func(c *Config) { c.KeyLog = &keys }), m.transport()
	port := b.Port()
	capture := captureLoopback(t, dumpcap, dir, fmt.Sprintf("udp port %d", port))
	const messages = 10
	pingsOver(t, a, b, messages)
	fields := func(file, filter string, names ...string) [][]string {
		return fieldsOf(tshark, []string{"-r", file, "-d", fmt.Sprintf("udp.port==%d,dtls", port)}, filter, names...)
	}
	var records [][]string
	for end := time.Now().Add(15 * time.Second); len(records) < 2*(messages+1) && time.Now().Before(end); {
		records = fields(capture, "dtls.app_data", "udp.srcport", "dtls.record.epoch", "dtls.record.sequence_number", "dtls.app_data")
	}
	hello := fields(capture, "dtls.handshake.type==2", "dtls.handshake.random")
	if len(records) != 2*(messages+1) || len(hello) != 1 {
		t.Fatalf("captured %d protected records, want %d; %d ServerHello", len(records), 2*(messages+1), len(hello))
	}
	// CLIENT_RANDOM <client random> <master secret>
	logged := strings.Fields(keys.String())
	if len(logged) != 3 {
		t.Fatalf("key log %q", keys.String())
	}
	open := func(secret []byte) (dump string, opened int) {
		opener := map[bool]*suite.Suite{}
		for _, fromServer := range []bool{true, false} {
			opener[fromServer] = suite.New(suite.ECDSA, new(suite.Exporter))
			if err := opener[fromServer].Init(secret, unhex(t, logged[1]), unhex(t, hello[0][0]), fromServer); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range records {
			seq, err := strconv.ParseUint(r[2], 10, 48)
			if err != nil || r[1] != "1" {
				t.Fatalf("record %v", r)
			}
			record := plainRecord(contentApplicationData, 1, unhex(t, r[3]))
			for i := range 6 {
				record[5+i] = byte(seq >> (8 * (5 - i)))
			}
			plain, err := opener[r[0] == fmt.Sprint(port)].Decrypt(record)
			if err != nil {
				continue
			}
			opened++
			dump += fmt.Sprintf("000000 % x\n", plain[recordHeaderLen:])
		}
		return dump, opened
	}
	if _, n := open(make([]byte, 48)); n != 0 {
		t.Errorf("%d records open with another secret", n)
	}
	dump, n := open(unhex(t, logged[2]))
	if n != len(records) {
		t.Errorf("%d of %d records open with the logged secret", n, len(records))
	}
	readFrames(t, tshark, text2pcap, dump, messages)
}

// readFrames has Wireshark read frames, a line of hex each, as datagrams to the RELOAD port: Pings with rising transaction
// IDs, their acknowledgements, and last of all a message with a wrong token and its acknowledgement.
func readFrames(t *testing.T, tshark, text2pcap, dump string, messages int) {
	t.Helper()
	dir := t.TempDir()
	text, frames := filepath.Join(dir, "frames.txt"), filepath.Join(dir, "frames.pcap")
	if err := os.WriteFile(text, []byte(dump), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(text2pcap, "-q", "-u", "6084,6084", text, frames).Run(); err != nil {
		t.Fatalf("text2pcap: %v", err)
	}
	data, acks := 0, 0
	for _, f := range fieldsOf(tshark, []string{"-r", frames}, "reload-framing", "reload_framing.type", "reload_framing.sequence", "reload_framing.ack_sequence") {
		switch {
		case f[0] == "128" && f[1] == fmt.Sprint(data):
			data++
		case f[0] == "129" && f[2] == fmt.Sprint(acks):
			acks++
		default:
			t.Errorf("frame %v after %d DATA and %d ACK", f, data, acks)
		}
	}
	if data != messages || acks != messages+1 { // a DATA whose message is not RELOAD is not taken for one
		t.Errorf("%d DATA and %d ACK frames decoded, want %d and %d", data, acks, messages, messages+1)
	}
	pings := fieldsOf(tshark, []string{"-r", frames}, "reload && !_ws.malformed", "reload.message.code", "reload.forwarding.trans_id")
	if len(pings) != messages {
		t.Errorf("%d well-formed RELOAD messages decoded, want %d: %v", len(pings), messages, pings)
	}
	for i, p := range pings {
		if p[0] != fmt.Sprint(uint16(wire.PingReq)) || !strings.HasSuffix(p[1], fmt.Sprintf("%08x", i+1)) {
			t.Errorf("message %d decoded as %q", i, p)
		}
	}
}

// captureLoopback captures into a file until the test ends.
func captureLoopback(t *testing.T, dumpcap, dir, filter string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "link.pcapng")
	_, out := start(t, dumpcap, "-i", "lo", "-f", filter, "-w", file)
	for end := time.Now().Add(5 * time.Second); ; <-time.After(20 * time.Millisecond) {
		if st, err := os.Stat(file); err == nil && st.Size() > 0 {
			return file
		}
		if time.Now().After(end) {
			if os.Getenv("FIELDKIT_CI") == "1" {
				t.Fatalf("no capture on loopback: %s", out)
			}
			t.Skipf("no capture on loopback: %s", out)
		}
	}
}

// pingsOver makes a bootstrap link and sends count messages over it, and one with a wrong token.
func pingsOver(t *testing.T, a, b *Transport, count int) {
	t.Helper()
	x, err := a.Bootstrap(testContext(t, 5*time.Second), netip.AddrPortFrom(loopback, b.Port()))
	if err != nil {
		t.Fatal(err)
	}
	y, err := b.Accept(testContext(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for i := range count + 1 {
		msg := ping(t, a, b.id(), uint64(i+1))
		if i == count {
			msg[0] ^= 0xff // the token
		}
		if err := x.Send(msg); err != nil {
			t.Fatal(err)
		}
		if _, err := y.Receive(testContext(t, 5*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
}

// fieldsOf has Wireshark print fields of the packets that pass a filter.
func fieldsOf(tshark string, args []string, filter string, names ...string) (lines [][]string) {
	args = append(args, "-Y", filter, "-T", "fields")
	for _, f := range names {
		args = append(args, "-e", f)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	got, err := exec.CommandContext(ctx, tshark, args...).Output()
	if err != nil {
		return nil // a capture that is being written ends in the middle of a block
	}
	for s := bufio.NewScanner(bytes.NewReader(got)); s.Scan(); {
		lines = append(lines, strings.Split(s.Text(), "\t"))
	}
	return lines
}

// TestLiveTCPLinkReadByTshark is the same over TLS and TCP. Wireshark opens the records with the logged secret and says
// which bytes are in them; its RELOAD dissector takes no TLS stream, so the frames are handed to it as datagrams. The
// controls: with another secret nothing is opened, and a message with a wrong token is not RELOAD.
func TestLiveTCPLinkReadByTshark(t *testing.T) {
	tshark, dumpcap, text2pcap := need(t, "tshark"), need(t, "dumpcap"), need(t, "text2pcap")
	m := newMission(t)
	dir := t.TempDir()
	var keys, foreign transcript
	a, b := m.transport(noICE(onlyTCP), func(c *Config) { c.KeyLog = &keys }), m.transport(noICE(onlyTCP))
	capture := captureLoopback(t, dumpcap, dir, fmt.Sprintf("tcp port %d", b.Port()))
	const messages = 10
	pingsOver(t, a, b, messages)
	c := m.transport(noICE(onlyTCP), func(c *Config) { c.KeyLog = &foreign })
	if _, err := c.Bootstrap(testContext(t, 5*time.Second), netip.AddrPortFrom(loopback, freshTCP(t, m))); err != nil {
		t.Fatal(err)
	}
	keyFile := func(name, log string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(log), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	read := func(keys string) (dump string, frames int) {
		lines := fieldsOf(tshark, []string{
			"-r", capture, "-d", fmt.Sprintf("tcp.port==%d,tls", b.Port()), "-o", "tls.keylog_file:" + keys,
		}, "data", "data.data")
		for _, l := range lines {
			for record := range strings.SplitSeq(l[0], ",") {
				stream := unhex(t, strings.ReplaceAll(record, ":", ""))
				for len(stream) > 0 {
					_, n, err := wire.NextFrame(stream, 5000)
					if err != nil || n == 0 {
						t.Fatalf("record %x: %v", stream, err)
					}
					dump += fmt.Sprintf("000000 % x\n", stream[:n])
					stream = stream[n:]
					frames++
				}
			}
		}
		return dump, frames
	}
	right, wrong := keyFile("keys.log", keys.String()), keyFile("other.log", strings.Replace(foreign.String(),
		strings.Fields(foreign.String())[1], strings.Fields(keys.String())[1], 1)) // the right random, another secret
	var dump string
	for n, end := 0, time.Now().Add(15*time.Second); n < 2*(messages+1); {
		if dump, n = read(right); time.Now().After(end) {
			t.Fatalf("%d frames captured, want %d", n, 2*(messages+1))
		}
	}
	readFrames(t, tshark, text2pcap, dump, messages)
	if _, n := read(wrong); n != 0 {
		t.Errorf("%d frames open with another secret", n)
	}
}

// freshTCP is the port of another kit.
func freshTCP(t *testing.T, m *mission) uint16 { return m.transport(noICE(onlyTCP)).Port() }

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ping is a signed Ping request as it goes over a link.
func ping(t *testing.T, from *Transport, to wire.NodeID, id uint64) []byte {
	t.Helper()
	body, err := wire.PingRequest{}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	m := &wire.Message{
		Header: wire.Header{
			Overlay: wire.OverlayHash(testOverlay), ConfigSequence: 1, Version: wire.Version, TTL: 100,
			Fragment: wire.Unfragmented, TransactionID: id, Dest: []wire.Destination{wire.ToNode(to)},
		},
		Code: wire.PingReq, Body: body,
	}
	if err := ident.Sign(m, from.cfg.Identity.Signer()); err != nil {
		t.Fatal(err)
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
