package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"fieldkit/overlay/wire"
)

var start = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// message is a message of that transaction; nothing here looks further than its token.
func message(tb testing.TB, transaction uint64, size int) []byte {
	tb.Helper()
	m := &wire.Message{
		Header: wire.Header{TransactionID: transaction}, Code: wire.PingReq, Body: make([]byte, size),
		Security: wire.SecurityBlock{Signature: wire.NoSignature()},
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func frame(tb testing.TB, sequence uint32, message []byte) []byte {
	tb.Helper()
	b, err := wire.Frame{Type: wire.FrameData, Sequence: sequence, Message: message}.AppendBinary(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// tape is a capture in the making.
type tape struct {
	tb       testing.TB
	buf      bytes.Buffer
	write    func(gopacket.CaptureInfo, []byte) error
	link     layers.LinkType
	v6, vlan bool
	packets  int
}

func newTape(tb testing.TB, link layers.LinkType, ng bool) *tape {
	tb.Helper()
	t := &tape{tb: tb, link: link}
	if ng {
		w, err := pcapgo.NewNgWriter(&t.buf, link)
		if err != nil {
			tb.Fatal(err)
		}
		t.write = func(info gopacket.CaptureInfo, b []byte) error {
			return errors.Join(w.WritePacket(info, b), w.Flush())
		}
		return t
	}
	w := pcapgo.NewWriter(&t.buf)
	if err := w.WriteFileHeader(1<<16, link); err != nil {
		tb.Fatal(err)
	}
	t.write = w.WritePacket
	return t
}

// packet records what goes one way: up is from port 40000 to 6084.
func (t *tape) packet(up bool, transport gopacket.SerializableLayer, payload []byte) {
	t.tb.Helper()
	from, to := byte(1), byte(2)
	if !up {
		from, to = to, from
	}
	protocol := layers.IPProtocolUDP
	if _, tcp := transport.(*layers.TCP); tcp {
		protocol = layers.IPProtocolTCP
	}
	var network gopacket.SerializableLayer
	ethertype := layers.EthernetTypeIPv4
	if t.v6 {
		ethertype = layers.EthernetTypeIPv6
		network = &layers.IPv6{Version: 6, NextHeader: protocol, HopLimit: 64, SrcIP: v6(from), DstIP: v6(to)}
	} else {
		network = &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: protocol, SrcIP: net.IPv4(192, 0, 2, from), DstIP: net.IPv4(192, 0, 2, to)}
	}
	if c, ok := transport.(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}); ok {
		if err := c.SetNetworkLayerForChecksum(network.(gopacket.NetworkLayer)); err != nil {
			t.tb.Fatal(err)
		}
	}
	var stack []gopacket.SerializableLayer
	var raw []byte // of link layers that gopacket only reads
	switch t.link {
	case layers.LinkTypeEthernet:
		mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
		if t.vlan {
			stack = append(stack, &layers.Ethernet{SrcMAC: mac, DstMAC: mac, EthernetType: layers.EthernetTypeDot1Q},
				&layers.Dot1Q{VLANIdentifier: 5, Type: ethertype})
		} else {
			stack = append(stack, &layers.Ethernet{SrcMAC: mac, DstMAC: mac, EthernetType: ethertype})
		}
	case layers.LinkTypeLinuxSLL:
		raw = append([]byte{0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0}, byte(ethertype>>8), byte(ethertype))
	case layers.LinkTypeLinuxSLL2:
		raw = append([]byte{byte(ethertype >> 8), byte(ethertype)}, 0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0)
	case layers.LinkTypeNull:
		family := uint32(2)
		if t.v6 {
			family = 24
		}
		raw = binary.LittleEndian.AppendUint32(nil, family)
	}
	stack = append(stack, network, transport, gopacket.Payload(payload))
	out := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(out, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...); err != nil {
		t.tb.Fatal(err)
	}
	t.record(append(raw, out.Bytes()...))
}

func v6(last byte) net.IP {
	return net.IP{0x20, 1, 0x0d, 0xb8, 15: last}
}

func (t *tape) record(b []byte) {
	t.tb.Helper()
	info := gopacket.CaptureInfo{
		Timestamp: start.Add(time.Duration(t.packets) * time.Millisecond), CaptureLength: len(b), Length: len(b),
	}
	t.packets++
	if err := t.write(info, b); err != nil {
		t.tb.Fatal(err)
	}
}

func (t *tape) udp(up bool, payload []byte) {
	t.tb.Helper()
	u := &layers.UDP{SrcPort: 40000, DstPort: 6084}
	if !up {
		u.SrcPort, u.DstPort = u.DstPort, u.SrcPort
	}
	t.packet(up, u, payload)
}

func (t *tape) tcp(up, syn bool, seq uint32, payload []byte) {
	t.tb.Helper()
	s := &layers.TCP{SrcPort: 40000, DstPort: 6084, Seq: seq, SYN: syn, ACK: !up || !syn, Window: 1000}
	if !up {
		s.SrcPort, s.DstPort = s.DstPort, s.SrcPort
	}
	t.packet(up, s, payload)
}

// read reads a capture to its end.
func read(tb testing.TB, file []byte, keys string) ([]Packet, Stats, error) {
	tb.Helper()
	log, err := ReadKeyLog(bytes.NewReader([]byte(keys)))
	if err != nil {
		tb.Fatal(err)
	}
	r, err := NewReader(bytes.NewReader(file), log)
	if err != nil {
		return nil, Stats{}, err
	}
	var list []Packet
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list, r.Stats(), nil
		}
		if err != nil {
			return list, r.Stats(), err
		}
		list = append(list, p)
	}
}

// TestLinkLayers finds the same frame whatever lies around it.
func TestLinkLayers(t *testing.T) {
	data, plain := frame(t, 1, message(t, 1, 10)), message(t, 2, 10)
	for _, link := range []layers.LinkType{
		layers.LinkTypeEthernet, layers.LinkTypeLinuxSLL, layers.LinkTypeLinuxSLL2, layers.LinkTypeRaw, layers.LinkTypeNull,
	} {
		for _, ng := range []bool{false, true} {
			for _, six := range []bool{false, true} {
				for _, vlan := range []bool{false, true} {
					if vlan && link != layers.LinkTypeEthernet {
						continue
					}
					tape := newTape(t, link, ng)
					tape.v6, tape.vlan = six, vlan
					tape.udp(true, data)
					tape.udp(false, plain)
					tape.record([]byte{1, 2, 3}) // nothing of ours
					got, stats, err := read(t, tape.buf.Bytes(), "")
					name := []any{link, "pcapng", ng, "IPv6", six, "VLAN", vlan}
					if err != nil || len(got) != 2 || stats.Packets != 3 {
						t.Errorf("%v: %d found, %+v, %v", name, len(got), stats, err)
						continue
					}
					from, to := netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddrPort("192.0.2.2:6084")
					if six {
						from, to = netip.MustParseAddrPort("[2001:db8::1]:40000"), netip.MustParseAddrPort("[2001:db8::2]:6084")
					}
					a, b := got[0], got[1]
					if a.From != from || a.To != to || a.Number != 1 || !a.Time.Equal(start) || a.Link != "udp" || !bytes.Equal(a.Data, data) {
						t.Errorf("%v: %+v", name, a)
					}
					if b.From != to || b.To != from || b.Number != 2 || !bytes.Equal(b.Data, plain) || b.Stream == a.Stream {
						t.Errorf("%v: %+v", name, b)
					}
				}
			}
		}
	}
}

// TestWhatIsNotRELOAD is passed over, but a malformed frame on RELOAD's own port is not.
func TestWhatIsNotRELOAD(t *testing.T) {
	tape := newTape(t, layers.LinkTypeRaw, false)
	other := func(payload []byte) {
		tape.packet(true, &layers.UDP{SrcPort: 40000, DstPort: 50000}, payload)
	}
	ack, _ := wire.Frame{Type: wire.FrameAck, Sequence: 1}.AppendBinary(nil)
	other([]byte{0x80, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 7, 7})             // RTP
	other(ack)                                                             // an ACK where no DATA was seen
	other([]byte("REGISTER sip:x SIP/2.0\r\n\r\n"))                        // SIP
	other([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42})                      // STUN
	tape.udp(true, []byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42})             // STUN on our port
	tape.udp(true, []byte{0x80, 0, 0})                                     // malformed
	other(frame(t, 1, message(t, 1, 0)))                                   // RELOAD on another port
	other(ack)                                                             // now it is one
	tape.packet(true, &layers.UDP{SrcPort: 1, DstPort: 2}, nil)            // empty
	tape.packet(true, &layers.TCP{SrcPort: 1, DstPort: 2, ACK: true}, nil) // empty
	got, stats, err := read(t, tape.buf.Bytes(), "")
	if err != nil || len(got) != 3 || stats.Other != 5 {
		t.Fatalf("%d found, %+v, %v", len(got), stats, err)
	}
	if got[0].Number != 6 || got[1].Number != 7 || got[2].Number != 8 {
		t.Errorf("packets %d, %d, %d", got[0].Number, got[1].Number, got[2].Number)
	}
}

// TestCutPackets: what the capture does not have whole is counted, not guessed.
func TestCutPackets(t *testing.T) {
	tape := newTape(t, layers.LinkTypeRaw, false)
	tape.udp(true, frame(t, 1, message(t, 1, 10)))
	whole := bytes.Clone(tape.buf.Bytes())
	const header, record = 24, 16
	cut := bytes.Clone(whole[:len(whole)-5])
	binary.LittleEndian.PutUint32(cut[header+8:], uint32(len(whole)-header-record-5))
	fragment := bytes.Clone(whole)
	fragment[header+record+6] = 0x20 // more fragments
	for _, file := range [][]byte{cut, fragment} {
		if got, stats, err := read(t, file, ""); err != nil || len(got) != 0 || stats.Cut != 1 {
			t.Errorf("%d found, %+v, %v", len(got), stats, err)
		}
	}
	// A file that ends in the middle of a packet, as one that is being written does.
	two := newTape(t, layers.LinkTypeRaw, false)
	two.udp(true, frame(t, 1, message(t, 1, 10)))
	two.udp(true, frame(t, 2, message(t, 2, 10)))
	for n := range two.buf.Len() {
		got, _, err := read(t, two.buf.Bytes()[:n], "")
		ends := n == header || n == len(whole) // between packets
		if (err == nil) != ends || err != nil && !errors.Is(err, ErrCapture) || len(got) > 1 || n >= len(whole) && len(got) != 1 {
			t.Fatalf("%d bytes: %d found, %v", n, len(got), err)
		}
	}
	for _, file := range []string{"", "abc", "no capture at all, but long enough to be one", "\x0a\x0d\x0d\x0a\x00\x00\x00\x00"} {
		if _, _, err := read(t, []byte(file), ""); !errors.Is(err, ErrCapture) {
			t.Errorf("%q: %v", file, err)
		}
	}
}

func TestKeyLog(t *testing.T) {
	random, secret := "00"+repeat("11", 31), repeat("22", 48)
	keys, err := ReadKeyLog(bytes.NewReader([]byte("# comment\n\nCLIENT_RANDOM " + random + " " + secret + "\nSERVER_HANDSHAKE_TRAFFIC_SECRET a b\n")))
	if err != nil || len(keys) != 1 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	for _, bad := range []string{
		"CLIENT_RANDOM", "CLIENT_RANDOM " + random, "CLIENT_RANDOM " + random + " 22", "CLIENT_RANDOM 11 " + secret,
		"CLIENT_RANDOM " + random + " " + repeat("zz", 48), "CLIENT_RANDOM " + random + " " + secret + " more",
		"CLIENT_RANDOM " + repeat("1", 1<<17),
	} {
		if _, err := ReadKeyLog(bytes.NewReader([]byte(bad))); !errors.Is(err, ErrKeyLog) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

func repeat(s string, n int) string { return string(bytes.Repeat([]byte(s), n)) }
