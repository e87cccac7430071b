package capture

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/pion/dtls/v2"

	"fieldkit/overlay/stun"
)

// turnMessage makes a STUN message about a peer (RFC 8489 §5, §14.2; RFC 8656 §18).
func turnMessage(typ uint16, peer netip.AddrPort, channel uint16, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, typ)
	b = binary.BigEndian.AppendUint32(append(b, 0, 0), magicCookie)
	b = append(b, "transaction!"...)
	attr := func(typ uint16, value []byte) {
		b = binary.BigEndian.AppendUint16(b, typ)
		b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
		b = append(b, value...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	family, addr := byte(1), peer.Addr().AsSlice()
	if len(addr) == 16 {
		family = 2
	}
	for i := range addr {
		addr[i] ^= b[4+i]
	}
	value := append(binary.BigEndian.AppendUint16([]byte{0, family}, peer.Port()^0x2112), addr...)
	attr(attrXORPeerAddress, value)
	if channel != 0 {
		attr(stun.AttrChannelNumber, []byte{byte(channel >> 8), byte(channel), 0, 0})
	}
	if data != nil {
		attr(0x0013, data)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-stun.HeaderLen))
	return b
}

func channelData(channel uint16, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, channel)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	b = append(b, data...)
	return append(b, 0, 0)[:len(b)+len(data)%2] // padding is allowed
}

// TestTURN: a session that begins in Send and Data indications and goes on in a channel is read as one between client and
// peer, beside another to another peer through the same server.
func TestTURN(t *testing.T) {
	up, down := frames(t, 12, 200), frames(t, 5, 300)
	list, keys := dtlsSession(t, dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, up, down)
	for _, peer := range []netip.AddrPort{netip.MustParseAddrPort("198.51.100.7:5555"), netip.MustParseAddrPort("[2001:db8::7]:5555")} {
		const channel = 0x4001
		tape := newTape(t, layers.LinkTypeEthernet, false)
		tape.udp(true, channelData(channel, frame(t, 99, message(t, 99, 0)))) // nobody knows where that goes
		half := len(list) / 2
		for i, s := range list {
			if i == half {
				tape.udp(true, turnMessage(stun.ChannelBind, peer, channel, nil))
			}
			switch {
			case i >= half:
				tape.udp(s.up, channelData(channel, s.data))
			case s.up:
				tape.udp(true, turnMessage(stun.SendIndication, peer, 0, s.data))
			default:
				tape.udp(false, turnMessage(stun.DataIndication, peer, 0, s.data))
			}
			tape.udp(true, turnMessage(stun.SendIndication, netip.MustParseAddrPort("198.51.100.8:1"), 0, frame(t, 7, message(t, 7, 0))))
		}
		got, stats, err := read(t, tape.buf.Bytes(), keys)
		var a, b [][]byte
		others := 0
		for _, p := range got {
			client := netip.MustParseAddrPort("192.0.2.1:40000")
			switch {
			case p.From == client && p.To == peer && p.Link == "dtls":
				a = append(a, p.Data)
			case p.To == client && p.From == peer && p.Link == "dtls":
				b = append(b, p.Data)
			case p.To == netip.MustParseAddrPort("198.51.100.8:1") && p.Link == "udp":
				others++
			default:
				t.Errorf("%v from %v to %v", p.Link, p.From, p.To)
			}
		}
		if err != nil || !same(a, up) || !same(b, down) || others != len(list) || stats.Keyed != 1 || stats.Other != 1 {
			t.Errorf("%v: %d and %d frames, %d others, %+v, %v", peer, len(a), len(b), others, stats, err)
		}
	}
}

// TestTURNIsBounded: channels without end, and messages that say what is not so, cost nothing.
func TestTURNIsBounded(t *testing.T) {
	tape := newTape(t, layers.LinkTypeRaw, false)
	peer := netip.MustParseAddrPort("198.51.100.7:5555")
	for i := range uint16(maxChannels + 10) {
		tape.udp(true, turnMessage(stun.ChannelBind, peer, 0x4000+i, nil))
	}
	data := frame(t, 1, message(t, 1, 0))
	tape.udp(true, channelData(0x4000+maxChannels-1, data))
	tape.udp(true, channelData(0x4000+maxChannels, data))
	bind := turnMessage(stun.ChannelBind, peer, 0x4100, nil)
	for n := range bind {
		tape.udp(true, bind[:max(n, 1)])
	}
	tape.udp(true, channelData(0x4100, data)[:20])
	tape.udp(true, turnMessage(stun.SendIndication, peer, 0, []byte{}))
	tape.udp(true, turnMessage(stun.SendIndication, peer, 0, turnMessage(stun.SendIndication, peer, 0, data))) // TURN in TURN
	got, _, err := read(t, tape.buf.Bytes(), "")
	if err != nil || len(got) != 1 {
		t.Errorf("%d found, %v", len(got), err)
	}
}
