package link

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	pionstun "github.com/pion/stun"

	"fieldkit/overlay/stun"
)

const (
	firstChannel  = 0x4000 // RFC 8656 §12
	maxChannels   = 16     // of one relay: the far end's candidates
	channelAgain  = 2 * time.Second
	channelRenew  = 4 * time.Minute
	channelExpiry = 9 * time.Minute // the server's is 10 (RFC 8656 §12)
)

// channels are the channels of one relay (RFC 8656 §12): what goes through one is 40 bytes shorter than an indication.
// The pinned client has channels of its own, but writes one variable from two goroutines whenever it renews one; so it
// is left with indications, and they are turned into ChannelData and back on the way. A channel that the server does
// not grant changes nothing.
type channels struct {
	password func(user string) string
	now      func() time.Time

	mu     sync.Mutex // a leaf
	auth   pionstun.MessageIntegrity
	fields []pionstun.Setter // of the client's last authenticated request: user, realm, nonce
	byPeer map[netip.AddrPort]*channel
	peers  [maxChannels]netip.AddrPort // by number
}

type channel struct {
	number uint16
	asked  time.Time
	id     [12]byte  // of what was asked
	bound  time.Time // zero: not yet
}

// attribute is one as it is on the wire.
type attribute struct {
	kind  pionstun.AttrType
	value []byte
}

// AddTo is pionstun.Setter's.
func (a attribute) AddTo(m *pionstun.Message) error {
	m.Add(a.kind, a.value)
	return nil
}

// learn takes the credentials of a request that the library makes: they change when the server gives a new nonce.
func (c *channels) learn(b []byte) {
	var user, realm, nonce []byte
	for a, v := range stun.Attributes(b) {
		switch a {
		case stun.AttrUsername:
			user = v
		case stun.AttrRealm:
			realm = v
		case stun.AttrNonce:
			nonce = v
		}
	}
	if user == nil || realm == nil || nonce == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.auth = pionstun.NewLongTermIntegrity(string(user), string(realm), c.password(string(user)))
	c.fields = []pionstun.Setter{
		pionstun.NewUsername(string(user)), pionstun.NewRealm(string(realm)), pionstun.NewNonce(string(nonce)),
	}
}

// send turns a Send indication into what goes over the wire: ChannelData where there is a channel. ask, if not nil, is
// a request for one, to be sent as well.
func (c *channels) send(b []byte) (out, ask []byte) {
	peer, ok := stun.Peer(b)
	if !ok || !peer.Addr().Is4() {
		return b, nil
	}
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := c.byPeer[peer]
	if ch == nil {
		if len(c.byPeer) >= maxChannels {
			return b, nil
		}
		if c.byPeer == nil {
			c.byPeer = make(map[netip.AddrPort]*channel)
		}
		ch = &channel{number: firstChannel + uint16(len(c.byPeer))}
		c.peers[len(c.byPeer)] = peer
		c.byPeer[peer] = ch
	}
	if now.Sub(ch.asked) >= channelAgain && (ch.bound.IsZero() || now.Sub(ch.bound) >= channelRenew) {
		ask = c.bind(ch, peer)
		ch.asked = now
	}
	if ch.bound.IsZero() || now.Sub(ch.bound) >= channelExpiry {
		return b, ask
	}
	if data := stun.ToChannel(b, ch.number); data != nil {
		return data, ask
	}
	return b, ask
}

// bind makes a ChannelBind request; nil before the library made an authenticated one. mu is held.
func (c *channels) bind(ch *channel, peer netip.AddrPort) []byte {
	if c.fields == nil {
		return nil
	}
	m, err := pionstun.Build(append([]pionstun.Setter{
		pionstun.TransactionID, pionstun.NewType(pionstun.MethodChannelBind, pionstun.ClassRequest),
		attribute{stun.AttrChannelNumber, binary.BigEndian.AppendUint32(nil, uint32(ch.number)<<16)},
		attribute{stun.AttrPeerAddress, stun.PeerAddress(peer)},
	}, append(c.fields, c.auth)...)...)
	if err != nil {
		return nil
	}
	ch.id = m.TransactionID
	return m.Raw
}

// receive takes what the server sends: the length of what is for the library, 0 for the answer to a request of ours and
// for what no channel of ours carries.
func (c *channels) receive(b []byte, n int) int {
	if stun.KindOf(b[:n]) == stun.Channel {
		i := binary.BigEndian.Uint16(b) - firstChannel
		if i >= maxChannels {
			return 0
		}
		c.mu.Lock()
		peer := c.peers[i]
		c.mu.Unlock()
		if !peer.IsValid() {
			return 0
		}
		return stun.ToIndication(b, n, peer)
	}
	kind := stun.Type(b)
	if kind != stun.ChannelBound && kind != stun.ChannelRefused {
		return n
	}
	m := &pionstun.Message{Raw: append([]byte(nil), b[:n]...)}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.byPeer {
		if ch.id == [12]byte(b[8:stun.HeaderLen]) && kind == stun.ChannelBound && m.Decode() == nil && c.auth.Check(m) == nil {
			ch.bound = ch.asked
		}
	}
	return 0
}
