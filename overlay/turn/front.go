package turn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/pion/transport/v2"
	"github.com/pion/turn/v2"

	"fieldkit/overlay/stun"
	"fieldkit/overlay/wire"
)

// front is the socket at one address as the library sees it: what may end the process, what cannot be bounded behind
// it, and what is nobody's to ask for, is taken out before.
//
// ReadFrom, authorize, permit and the generator are called by the library's one reading goroutine, which owns what
// stands under request.
type front struct {
	transport.UDPConn
	s     *Server
	raw   *net.UDPConn // the same, where it is the host's
	at    netip.Addr
	ended chan struct{} // reading has ended
	once  sync.Once

	request struct {
		client netip.AddrPort
		addr   *net.UDPAddr // the same
		even   bool         // asks for a pair of ports
		user   string
		key    []byte
		member wire.NodeID // zero until a member's credential was found
	}
}

func (s *Server) newFront(at netip.AddrPort) (*front, error) {
	c, err := s.cfg.Net.ListenUDP(network(at.Addr()), net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, fmt.Errorf("socket at %v: %w", at, err)
	}
	f := &front{UDPConn: c, s: s, at: at.Addr(), ended: make(chan struct{})}
	f.raw, _ = c.(*net.UDPConn)
	return f, nil
}

func network(a netip.Addr) string {
	if a.Is4() {
		return "udp4"
	}
	return "udp6"
}

// failed reports whether the library stopped reading.
func (f *front) failed() bool {
	select {
	case <-f.ended:
		return true
	default:
		return false
	}
}

// ReadFrom returns the next datagram that the library may act on.
func (f *front) ReadFrom(b []byte) (int, net.Addr, error) {
	for failures := 0; ; {
		n, from, err := readFrom(f.UDPConn, f.raw, b)
		if err != nil {
			// ICMP errors come back as read errors, and the library would take the first for the end.
			if failures++; errors.Is(err, net.ErrClosed) || failures > maxReadErrors {
				f.once.Do(func() { close(f.ended) })
				return 0, nil, err
			}
			continue
		}
		failures = 0
		if !f.accept(b[:n], from) {
			continue
		}
		r := &f.request
		if r.client != from || r.addr == nil {
			r.client, r.addr = from, net.UDPAddrFromAddrPort(from)
		}
		r.user, r.key, r.member = "", nil, wire.NodeID{}
		return n, r.addr, nil
	}
}

const maxReadErrors = 16

// readFrom reads a socket of the host without allocating, and any other as it is.
func readFrom(c net.PacketConn, raw *net.UDPConn, b []byte) (int, netip.AddrPort, error) {
	if raw != nil {
		n, from, err := raw.ReadFromUDPAddrPort(b)
		return n, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), err
	}
	n, from, err := c.ReadFrom(b)
	return n, addrPortOf(from), err
}

func addrPortOf(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok || u == nil {
		return netip.AddrPort{}
	}
	p := u.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

func (f *front) accept(b []byte, from netip.AddrPort) bool {
	c := &f.s.stats
	if from.Addr().Is4() != f.at.Is4() || from.Port() == 0 || f.s.never(from.Addr()) {
		c.dropped.Add(1)
		return false
	}
	switch stun.KindOf(b) {
	case stun.Channel:
		return f.acceptData(b)
	case stun.STUN:
	default:
		c.dropped.Add(1)
		return false
	}
	if stun.Malformed(b) {
		c.dropped.Add(1)
		return false
	}
	kind := stun.Type(b)
	switch kind {
	case stun.SendIndication:
		return f.acceptData(b)
	case stun.BindingRequest, stun.AllocateRequest, stun.RefreshRequest, stun.CreatePermission, stun.ChannelBind:
	default:
		c.dropped.Add(1)
		return false
	}
	if !f.s.limiter.take(from.Addr(), f.s.cfg.Now()) {
		c.overRate.Add(1)
		return false
	}
	switch kind {
	case stun.BindingRequest:
		c.bindings.Add(1)
	case stun.AllocateRequest:
		f.request.even = stun.Has(b, stun.AttrEvenPort) || stun.Has(b, stun.AttrReservationToken)
	case stun.ChannelBind:
		// The library looks through the channels of an allocation one by one, and bounds nothing.
		for a, v := range stun.Attributes(b) {
			if a == stun.AttrChannelNumber && (len(v) != 4 || binary.BigEndian.Uint16(v)-firstChannel >= maxChannels) {
				c.quota.Add(1)
				return false
			}
		}
	}
	return true
}

// firstChannel is the lowest channel number (RFC 8656 §12).
const firstChannel = 0x4000

func (f *front) acceptData(b []byte) bool {
	data, _, ok := stun.Carried(b)
	if !ok {
		f.s.stats.dropped.Add(1)
		return false
	}
	if !stun.MayRelay(data) {
		f.s.stats.notRelayable.Add(1)
		return false
	}
	return true
}

// authorize gives the library the key of a user. Whoever has not made an allocation has no say in it, whatever
// address the packets claim to come from (RFC 8656 §5: the username of a request "MUST match" the allocation's).
func (f *front) authorize(user, realm string, _ net.Addr) ([]byte, bool) {
	s, r := f.s, &f.request
	s.mu.Lock()
	var own *relay
	for _, x := range s.relays {
		if x.front == f && x.client == r.client {
			own = x
			break
		}
	}
	s.mu.Unlock()
	if own != nil {
		if own.user != user || realm != s.cfg.Realm {
			s.stats.unauthorized.Add(1)
			return nil, false
		}
		// The key lives as long as the allocation, though the link that it comes from may have been replaced.
		return own.key, true
	}
	member, password, ok := s.cfg.Credential(user)
	if !ok || realm != s.cfg.Realm {
		s.stats.unauthorized.Add(1)
		return nil, false
	}
	r.user, r.key, r.member = user, turn.GenerateAuthKey(user, realm, password), member
	return r.key, true
}

// permit is the library's question whether a client's relay may send to an address.
func (f *front) permit(_ net.Addr, ip net.IP) bool {
	s := f.s
	a, _ := netip.AddrFromSlice(ip)
	a = a.Unmap()
	// RFC 8656 §9.1: an address of another family than the relayed one "MUST" be refused.
	if a.Is4() != f.at.Is4() || a.Is6() && a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == broadcast || s.never(a) || !s.owns(a) && !s.cfg.MayReach(a) {
		s.stats.forbidden.Add(1)
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.relays {
		if r.front == f && r.client == f.request.client {
			if r.permit(a) {
				return true
			}
			break
		}
	}
	s.stats.quota.Add(1)
	return false
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// generator makes relayed addresses for the library.
type generator struct{ f *front }

var (
	errQuota = errors.New("no allocation left")
	errEven  = errors.New("pairs of ports are not given out")
	errTCP   = errors.New("TCP is not relayed")
)

// Validate has nothing to check.
func (generator) Validate() error { return nil }

// AllocateConn refuses: RFC 6062 is not wanted here.
func (generator) AllocateConn(string, int) (net.Conn, net.Addr, error) { return nil, nil, errTCP }

// AllocatePacketConn opens the socket of one allocation, for the member whose request is being answered.
func (g generator) AllocatePacketConn(string, int) (net.PacketConn, net.Addr, error) {
	f, s := g.f, g.f.s
	if f.request.even { // the library would open up to 128 sockets to find one
		s.stats.quota.Add(1)
		return nil, nil, errEven
	}
	if f.request.member.IsZero() {
		return nil, nil, errQuota
	}
	r := &relay{
		s: s, front: f, client: f.request.client, user: f.request.user, key: f.request.key, member: f.request.member,
		ended: make(chan struct{}), allowed: make(map[netip.Addr]bool),
	}
	s.mu.Lock()
	full := len(s.relays) >= maxAllocations || s.members[r.member] >= maxPerMember
	s.mu.Unlock()
	if full {
		s.stats.quota.Add(1)
		return nil, nil, errQuota
	}
	at := s.pick(f.at)
	c, err := s.cfg.Net.ListenUDP(network(at), net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		return nil, nil, fmt.Errorf("relay socket at %v: %w", at, err)
	}
	r.open(c)
	s.stats.allocated.Add(1)
	return r, c.LocalAddr(), nil
}
