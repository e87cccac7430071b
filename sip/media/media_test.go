package media

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/srtp/v3"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	profileCM  = uint16(srtp.ProtectionProfileAes128CmHmacSha1_80)
	profileGCM = uint16(srtp.ProtectionProfileAeadAes128Gcm)
)

var loopback = netip.MustParseAddr("127.0.0.1")

func newRelay(t testing.TB, first, last uint16) *Relay {
	t.Helper()
	r, err := New(Config{Address: loopback, Ports: [2]uint16{first, last}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func newCall(t testing.TB, r *Relay, id string) *Call {
	t.Helper()
	c, err := r.NewCall(id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func handsetLeg(t testing.TB, c *Call, name string) *Leg {
	t.Helper()
	l, err := c.HandsetLeg(name, loopback)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func trunkLeg(t testing.TB, c *Call, name string, tr Trunk) *Leg {
	t.Helper()
	l, err := c.TrunkLeg(name, tr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func rewrite(t testing.TB, from, to *Leg, body string) string {
	t.Helper()
	out, err := from.call.Rewrite(from, to, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// device is a handset's pair of sockets.
type device struct {
	rtp, rtcp *net.UDPConn
}

func newDevice(t testing.TB) *device {
	t.Helper()
	open := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	return &device{open(), open()}
}

func portOf(c *net.UDPConn) uint16 { return c.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

func (d *device) sdp(extra ...string) string {
	lines := append([]string{
		"v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0",
		"m=audio " + itoa(portOf(d.rtp)) + " RTP/AVP 0 8 101",
		"a=rtcp:" + itoa(portOf(d.rtcp)),
		"a=rtpmap:101 telephone-event/8000",
	}, extra...)
	return strings.Join(lines, "\r\n") + "\r\n"
}

func itoa(n uint16) string {
	var b []byte
	for d := uint16(10000); d > 0; d /= 10 {
		if n >= d || len(b) > 0 {
			b = append(b, byte('0'+n/d%10))
		}
	}
	return string(b)
}

func receive(t testing.TB, c *net.UDPConn) []byte {
	t.Helper()
	b := make([]byte, 4096)
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(b)
	if err != nil {
		t.Fatalf("nothing received: %v", err)
	}
	return b[:n]
}

func source(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// say hands a leg one RTP packet as if it had come from the socket.
func (l *Leg) say(c *net.UDPConn, b []byte) {
	l.handset.packet(bytes.Clone(b), source(c), &l.handset.media, l.call.relay.now())
}

func (l *Leg) report(c *net.UDPConn, b []byte) {
	l.handset.packet(bytes.Clone(b), source(c), &l.handset.control, l.call.relay.now())
}

func rtpPacket(ssrc uint32, seq uint16, payload string) []byte {
	b := []byte{0x80, 0}
	b = binary.BigEndian.AppendUint16(b, seq)
	b = binary.BigEndian.AppendUint32(b, uint32(seq)*160)
	b = binary.BigEndian.AppendUint32(b, ssrc)
	return append(b, payload...)
}

func seqOf(b []byte) uint16  { return binary.BigEndian.Uint16(b[2:]) }
func ssrcOf(b []byte) uint32 { return binary.BigEndian.Uint32(b[8:]) }

// memoryTrunk is one end of a trunk within the process: what one end sends the
// other end's relay gets at once. Both export the same secret, as DTLS does.
type memoryTrunk struct {
	secret  []byte
	client  bool
	profile uint16
	done    chan struct{}
	once    sync.Once

	mu    sync.Mutex
	relay *Relay
	other *memoryTrunk
	sent  [][]byte
}

func trunkPair(t testing.TB, a, b *Relay, secret string, profile uint16) (*memoryTrunk, *memoryTrunk) {
	t.Helper()
	x := &memoryTrunk{secret: []byte(secret), client: true, profile: profile, done: make(chan struct{}), relay: a}
	y := &memoryTrunk{secret: []byte(secret), profile: profile, done: make(chan struct{}), relay: b}
	x.other, y.other = y, x
	t.Cleanup(x.close)
	t.Cleanup(y.close)
	return x, y
}

func (m *memoryTrunk) close() { m.once.Do(func() { close(m.done) }) }

func (m *memoryTrunk) SendMedia(b []byte) error {
	m.mu.Lock()
	m.sent = append(m.sent, bytes.Clone(b))
	m.mu.Unlock()
	m.other.relay.TrunkPacket(m.other, b)
	return nil
}

func (m *memoryTrunk) last() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sent[len(m.sent)-1]
}

func (m *memoryTrunk) ExportKeyingMaterial(label string, context []byte, n int) ([]byte, error) {
	if label != "EXTRACTOR-dtls_srtp" || len(context) != 0 {
		return nil, errors.New("not RFC 5764's exporter")
	}
	var out []byte
	for i := byte(0); len(out) < n; i++ {
		h := hmac.New(sha256.New, m.secret)
		h.Write([]byte{i})
		out = h.Sum(out)
	}
	return out[:n], nil
}

func (m *memoryTrunk) IsClient() bool        { return m.client }
func (m *memoryTrunk) SRTPProfile() uint16   { return m.profile }
func (m *memoryTrunk) Done() <-chan struct{} { return m.done }

// localCall is two handsets on one kit, connected.
func localCall(t testing.TB, r *Relay) (a, b *Leg, da, db *device) {
	t.Helper()
	c := newCall(t, r, "local")
	a, b = handsetLeg(t, c, "a"), handsetLeg(t, c, "b")
	da, db = newDevice(t), newDevice(t)
	rewrite(t, a, b, da.sdp())
	rewrite(t, b, a, db.sdp())
	c.Connect(a, b)
	return a, b, da, db
}

// farCall is two handsets on two kits joined by a trunk.
type farCall struct {
	ra, rb         *Relay
	ta, tb         *memoryTrunk
	a, at, bt, b   *Leg
	da, db         *device
	offer, trunked string
}

func newFarCall(t testing.TB, profile uint16) *farCall {
	t.Helper()
	f := &farCall{ra: newRelay(t, 31000, 31099), rb: newRelay(t, 31100, 31199), da: newDevice(t), db: newDevice(t)}
	f.ta, f.tb = trunkPair(t, f.ra, f.rb, "secret", profile)
	ca, cb := newCall(t, f.ra, "call"), newCall(t, f.rb, "call")
	f.a, f.at = handsetLeg(t, ca, "a"), trunkLeg(t, ca, "to b", f.ta)
	f.bt, f.b = trunkLeg(t, cb, "to a", f.tb), handsetLeg(t, cb, "b")
	f.trunked = rewrite(t, f.a, f.at, f.da.sdp())
	f.offer = rewrite(t, f.bt, f.b, f.trunked)
	answer := rewrite(t, f.b, f.bt, f.db.sdp())
	rewrite(t, f.at, f.a, answer)
	ca.Connect(f.a, f.at)
	cb.Connect(f.bt, f.b)
	return f
}
