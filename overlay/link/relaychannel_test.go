package link

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	pionstun "github.com/pion/stun"

	"fieldkit/overlay/stun"
)

func build(t *testing.T, setters ...pionstun.Setter) []byte {
	t.Helper()
	m, err := pionstun.Build(append([]pionstun.Setter{pionstun.TransactionID}, setters...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

// The channels of one relay, against a server that is this test.
func TestChannelsOfARelay(t *testing.T) {
	now := time.Unix(1000, 0)
	c := &channels{password: func(user string) string { return "secret of " + user }, now: func() time.Time { return now }}
	key := pionstun.NewLongTermIntegrity("u", "r", "secret of u")
	payload := []byte("\x80 voice")
	indication := func(port uint16) []byte {
		return build(t, pionstun.NewType(pionstun.MethodSend, pionstun.ClassIndication),
			attribute{pionstun.AttrXORPeerAddress, stun.PeerAddress(netip.AddrPortFrom(lineAddr(2), port))}, attribute{pionstun.AttrData, payload})
	}
	send := func(port uint16, wantChannel, wantAsk bool) []byte {
		t.Helper()
		out, ask := c.send(indication(port))
		if (stun.KindOf(out) == stun.Channel) != wantChannel || (ask != nil) != wantAsk {
			t.Fatalf("port %d: sent % x, asked % x; want a channel %v, a request %v", port, out, ask, wantChannel, wantAsk)
		}
		if wantChannel {
			if data, _, _ := stun.Carried(out); !bytes.Equal(data, payload) {
				t.Errorf("sent %q", data)
			}
		}
		return ask
	}
	answer := func(ask []byte, class pionstun.MessageClass, with pionstun.MessageIntegrity) {
		t.Helper()
		m := &pionstun.Message{Raw: ask}
		if err := m.Decode(); err != nil {
			t.Fatal(err)
		}
		b := build(t, pionstun.NewTransactionIDSetter(m.TransactionID), pionstun.NewType(pionstun.MethodChannelBind, class), with)
		if n := c.receive(append(b, make([]byte, 100)...), len(b)); n != 0 {
			t.Error("the library sees the answer to a request that it did not make")
		}
	}

	send(1, false, false) // nothing is known to sign with
	now = now.Add(channelAgain)
	c.learn(build(t, pionstun.NewType(pionstun.MethodCreatePermission, pionstun.ClassRequest),
		pionstun.NewUsername("u"), pionstun.NewRealm("r"), pionstun.NewNonce("n"), key))
	ask := send(1, false, true)
	m := &pionstun.Message{Raw: bytes.Clone(ask)}
	if err := m.Decode(); err != nil || key.Check(m) != nil || stun.Malformed(ask) || stun.Type(ask) != stun.ChannelBind {
		t.Errorf("request % x: %v", ask, err)
	}
	send(1, false, false) // asked already
	answer(ask, pionstun.ClassSuccessResponse, pionstun.NewLongTermIntegrity("u", "r", "somebody else's"))
	send(1, false, false)
	answer(ask, pionstun.ClassErrorResponse, key)
	send(1, false, false)
	now = now.Add(channelAgain)
	answer(send(1, false, true), pionstun.ClassSuccessResponse, key)
	send(1, true, false)
	send(2, false, true) // another peer has another

	// What comes by the channel comes as an indication from its peer; what comes by another does not come.
	data := append(binary.BigEndian.AppendUint16([]byte{0x40, 0}, uint16(len(payload))), payload...)
	b := append(bytes.Clone(data), make([]byte, 100)...)
	n := c.receive(b, len(data))
	got, _, _ := stun.Carried(b[:n])
	if from, _ := stun.Peer(b[:n]); !bytes.Equal(got, payload) || from != netip.AddrPortFrom(lineAddr(2), 1) {
		t.Errorf("received %q from %v", got, from)
	}
	for _, number := range []uint16{firstChannel + 5, firstChannel + maxChannels, 0x4fff} {
		foreign := append(bytes.Clone(data), make([]byte, 100)...)
		binary.BigEndian.PutUint16(foreign, number)
		if c.receive(foreign, len(data)) != 0 {
			t.Errorf("channel %#x is somebody's", number)
		}
	}

	// Renewed in time, and left when the server does not renew it.
	now = now.Add(channelRenew)
	answer(send(1, true, true), pionstun.ClassSuccessResponse, key)
	now = now.Add(channelRenew)
	send(1, true, true)
	now = now.Add(channelExpiry - channelRenew)
	send(1, false, true)

	for port := uint16(3); port < 3+maxChannels-2; port++ {
		send(port, false, true)
	}
	send(100, false, false) // no more than maxChannels
}
