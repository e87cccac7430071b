package turn

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun"
	"github.com/pion/transport/v2"

	"fieldkit/overlay/wire"
)

// raw is a member that speaks TURN by hand.
type raw struct {
	w        *world
	c        transport.UDPConn
	user     string
	password string
	nonce    stun.Nonce
}

func (w *world) raw(h transport.Net, n byte, user string) *raw {
	return &raw{w: w, c: w.socket(h, netip.AddrPortFrom(host(n), 0)), user: user, password: "secret of " + user}
}

type attribute struct {
	kind  stun.AttrType
	value []byte
}

func (a attribute) AddTo(m *stun.Message) error {
	m.Add(a.kind, a.value)
	return nil
}

var udp = attribute{stun.AttrRequestedTransport, []byte{17, 0, 0, 0}}

// ask makes an authenticated request and returns the answer, or nil when there is none.
func (r *raw) ask(method stun.Method, attrs ...stun.Setter) *stun.Message {
	r.w.t.Helper()
	server := net.UDPAddrFromAddrPort(netip.AddrPortFrom(host(2), DefaultPort))
	exchange := func(setters ...stun.Setter) *stun.Message {
		m, err := stun.Build(append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, setters...)...)
		if err != nil {
			r.w.t.Fatal(err)
		}
		send(r.w.t, r.c, m.Raw, server)
		b, _ := receives(r.w.t, r.c)
		if b == nil {
			return nil
		}
		answer := &stun.Message{Raw: b}
		if err := answer.Decode(); err != nil {
			r.w.t.Fatal(err)
		}
		return answer
	}
	if r.nonce == nil {
		if m := exchange(udp); m == nil || r.nonce.GetFrom(m) != nil {
			r.w.t.Fatalf("no nonce: %v", m)
		}
		r.nonce = append(stun.Nonce(nil), r.nonce...)
	}
	return exchange(append(attrs, stun.NewUsername(r.user), stun.NewRealm(realm), r.nonce,
		stun.NewLongTermIntegrity(r.user, realm, r.password))...)
}

func succeeded(m *stun.Message) bool { return m != nil && m.Type.Class == stun.ClassSuccessResponse }

// One datagram with an address of no length ends a process that lets the pinned library read it: by CreatePermission,
// by ChannelBind and by Send, of a member or not.
func TestCrashPacketsAreDropped(t *testing.T) {
	simulated(t, func(t *testing.T, w *world) {
		r := w.raw(w.host(1), 1, "a")
		if !succeeded(r.ask(stun.MethodAllocate, udp)) {
			t.Fatal("no allocation")
		}
		empty := attribute{stun.AttrXORPeerAddress, nil}
		before := w.srv.Stats().Dropped
		for _, m := range []stun.Method{stun.MethodCreatePermission, stun.MethodChannelBind} {
			if got := r.ask(m, empty, attribute{stun.AttrChannelNumber, []byte{0x40, 0, 0, 0}}); got != nil {
				t.Errorf("%v answered: %v", m, got)
			}
		}
		m, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication), empty, attribute{stun.AttrData, media})
		if err != nil {
			t.Fatal(err)
		}
		send(t, r.c, m.Raw, net.UDPAddrFromAddrPort(netip.AddrPortFrom(host(2), DefaultPort)))
		for _, junk := range [][]byte{{}, {0}, {0x40}, {0x40, 0, 0xff, 0xff}, {0xff}, []byte("OPTIONS sip:kit SIP/2.0")} {
			send(t, r.c, junk, net.UDPAddrFromAddrPort(netip.AddrPortFrom(host(2), DefaultPort)))
		}
		time.Sleep(time.Second)
		if got := w.srv.Stats().Dropped - before; got < 8 {
			t.Errorf("%d dropped, want 8 or more", got)
		}
		if !succeeded(r.ask(stun.MethodRefresh)) {
			t.Error("the server does not answer any more")
		}
	})
}

// RFC 8656 §5: the credentials of later requests must be those of the allocation. A member that sends with another's address could
// otherwise end or use what is not his.
func TestAllocationBelongsToWhoMadeIt(t *testing.T) {
	simulated(t, func(t *testing.T, w *world) {
		a := w.raw(w.host(1), 1, "a")
		if !succeeded(a.ask(stun.MethodAllocate, udp)) {
			t.Fatal("no allocation")
		}
		thief := &raw{w: w, c: a.c, user: "b", password: "secret of b"} // as from a's address
		lifetime := attribute{stun.AttrLifetime, []byte{0, 0, 0, 0}}
		for _, m := range []stun.Method{stun.MethodRefresh, stun.MethodCreatePermission, stun.MethodChannelBind} {
			if succeeded(thief.ask(m, lifetime, attribute{stun.AttrXORPeerAddress, []byte{0, 1, 0x21, 0x12, 0x21, 0x12, 0xa4, 0x42 ^ 3}})) {
				t.Errorf("%v of another member taken", m)
			}
		}
		if s := w.srv.Stats(); s.Allocations != 1 || s.Unauthorized < 3 {
			t.Errorf("stats %+v", s)
		}
		if !succeeded(a.ask(stun.MethodRefresh, lifetime)) {
			t.Error("the owner's Refresh refused")
		}
		time.Sleep(time.Second)
		if n := w.srv.Stats().Allocations; n != 0 {
			t.Errorf("%d allocations left after the owner ended it", n)
		}
	})
}

// The credential of a link that is gone ends what it could begin, not what it began.
func TestAllocationOutlivesItsLink(t *testing.T) {
	gone := false
	simulated(t, func(t *testing.T, w *world) {
		a := w.raw(w.host(1), 1, "a")
		if !succeeded(a.ask(stun.MethodAllocate, udp)) {
			t.Fatal("no allocation")
		}
		gone = true
		if !succeeded(a.ask(stun.MethodRefresh)) {
			t.Error("Refresh refused")
		}
		second := w.raw(w.host(4), 4, "a")
		if succeeded(second.ask(stun.MethodAllocate, udp)) {
			t.Error("allocation made with the credential of a link that is gone")
		}
	}, func(c *Config) {
		known := c.Credential
		c.Credential = func(u string) (id wire.NodeID, password string, ok bool) {
			if gone {
				return id, "", false
			}
			return known(u)
		}
	})
}

func TestPermissionsAndChannelsAreBounded(t *testing.T) {
	simulated(t, func(t *testing.T, w *world) {
		a := w.raw(w.host(1), 1, "a")
		if !succeeded(a.ask(stun.MethodAllocate, udp)) {
			t.Fatal("no allocation")
		}
		peer := func(ip byte, port uint16) stun.Setter {
			p := port ^ 0x2112
			return attribute{stun.AttrXORPeerAddress, []byte{0, 1, byte(p >> 8), byte(p), 10 ^ 0x21, 0 ^ 0x12, 1 ^ 0xa4, ip ^ 0x42}}
		}
		granted := 0
		for i := range maxPermissions + 5 {
			if succeeded(a.ask(stun.MethodCreatePermission, peer(byte(i), 40000))) {
				granted++
			}
		}
		if granted != maxPermissions {
			t.Errorf("%d permissions given, want %d", granted, maxPermissions)
		}
		bound := 0
		for i := range maxChannels + 5 {
			n := firstChannel + i
			if succeeded(a.ask(stun.MethodChannelBind, peer(0, uint16(40000+i)), attribute{stun.AttrChannelNumber, []byte{byte(n >> 8), byte(n), 0, 0}})) {
				bound++
			}
		}
		if bound != maxChannels {
			t.Errorf("%d channels bound, want %d", bound, maxChannels)
		}
		b := w.raw(w.host(4), 4, "b")
		if succeeded(b.ask(stun.MethodAllocate, udp, attribute{stun.AttrEvenPort, []byte{0x80}})) {
			t.Error("a pair of ports was given out")
		}
		if s := w.srv.Stats(); s.Quota != 5+5+1 || s.Allocated != 1 {
			t.Errorf("stats %+v", s)
		}
	}, func(c *Config) { c.MayReach = func(a netip.Addr) bool { return a.As4()[2] == 1 } })
}

// "If the NONCE is no longer valid … the server MUST" answer 438 (RFC 8489 §9.2.4): a nonce is the server's own, signed.
func TestOldNonceIsRefused(t *testing.T) {
	simulated(t, func(t *testing.T, w *world) {
		a := w.raw(w.host(1), 1, "a")
		a.nonce = stun.NewNonce("f00df00df00df00df00df00df00df00d")
		m := a.ask(stun.MethodAllocate, udp)
		var code stun.ErrorCodeAttribute
		if m == nil || code.GetFrom(m) != nil || code.Code != stun.CodeStaleNonce {
			t.Errorf("made-up nonce answered with %v", m)
		}
		if n := w.srv.Stats().Allocations; n != 0 {
			t.Errorf("%d allocations", n)
		}
	})
}
