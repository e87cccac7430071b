package link

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/transport/v2"

	"fieldkit/overlay/stun"
)

// maxLocalAddresses bounds the sockets of one attempt.
const maxLocalAddresses = 8

// agentNet is the network one ICE agent sees: exactly the addresses the overlay may use, read when it asks, each
// socket guarded. (The library's own view caches the interfaces and knows nothing of a handset side.)
type agentNet struct {
	transport.Net
	addresses func() []netip.Addr
	stats     *guardStats

	passwords     map[string]string // of the servers, by user
	servers       []netip.AddrPort  // STUN and TURN servers to gather at
	relayFrom     atomic.Int64      // Unix nanoseconds: relays are not used before
	now           func() time.Time  // of the Config
	reflexiveFrom netip.Addr        // from where those are asked that give reflexive candidates

	watch atomic.Pointer[stunWatch]

	mu      sync.Mutex
	sockets []*agentSocket
	relays  []*relaySocket
}

// Interfaces is one interface with the usable addresses.
func (n *agentNet) Interfaces() ([]*transport.Interface, error) {
	ifc := transport.NewInterface(net.Interface{Index: 1, MTU: 1500, Name: "overlay", Flags: net.FlagUp | net.FlagRunning})
	for _, a := range n.addresses() {
		ifc.AddAddress(&net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())})
	}
	return []*transport.Interface{ifc}, nil
}

// ListenUDP opens a guarded socket. Where the library names no address, for a reflexive candidate, it gets the one that
// faces the server: a socket on all addresses would be on the handsets' side, too.
func (n *agentNet) ListenUDP(network string, addr *net.UDPAddr) (transport.UDPConn, error) {
	if addr == nil || len(addr.IP) == 0 || addr.IP.IsUnspecified() {
		if !n.reflexiveFrom.IsValid() || network != "udp4" {
			return nil, transport.ErrNotSupported
		}
		addr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.reflexiveFrom, 0))
	}
	c, err := n.Net.ListenUDP(network, addr)
	if err != nil {
		return nil, err
	}
	s := &agentSocket{UDPConn: c, stats: n.stats, net: n}
	s.raw, _ = c.(*net.UDPConn)
	n.mu.Lock()
	n.sockets = append(n.sockets, s)
	n.mu.Unlock()
	return s, nil
}

// socketOf is the socket of a candidate, nil for one that a relay gave.
func (n *agentNet) socketOf(c ice.Candidate) *agentSocket {
	base := candidateAddrPort
	switch c.Type() {
	case ice.CandidateTypeRelay:
		return nil
	case ice.CandidateTypeServerReflexive:
		base = relatedOf
	}
	local, err := base(c)
	if err != nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.sockets {
		if addrPortOf(s.LocalAddr()) == local {
			return s
		}
	}
	return nil
}

// agentSocket is a UDP socket of an ICE agent. What it receives is told apart by the first byte (RFC 7983 §7):
// STUN is checked before the library parses it; media of the selected far end goes straight to its handler, past
// ICE and DTLS, so that a voice packet costs no allocation and no hand-over between goroutines.
type agentSocket struct {
	transport.UDPConn
	raw   *net.UDPConn // the same, where it is the host's: reads and writes without allocation
	stats *guardStats
	net   *agentNet
	media atomic.Pointer[mediaPath]

	// The address of the last datagram, for the library, which wants it as net.Addr. Owned by the reader.
	lastFrom netip.AddrPort
	lastAddr *net.UDPAddr
}

// mediaPath is the selected pair of an application connection, as seen from its socket.
type mediaPath struct {
	socket  *agentSocket // nil: through a relay
	relay   func([]byte) (int, error)
	local   netip.AddrPort // of the relay
	remote  netip.AddrPort
	udpAddr *net.UDPAddr
	receive func([]byte)
}

// ReadFrom returns the next datagram that is for ICE or DTLS.
func (s *agentSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := s.read(b)
		if err != nil {
			return n, nil, err
		}
		if n == 0 {
			continue
		}
		switch first := b[0]; {
		case first <= 3:
			if stun.Malformed(b[:n]) {
				s.stats.stunDropped.Add(1)
				continue
			}
			if w := s.net.watch.Load(); w != nil {
				w.answer(b[:n], from)
			}
		case first >= 128 && first <= 191:
			if m := s.media.Load(); m != nil && m.remote == from {
				m.receive(b[:n])
			} else {
				s.stats.mediaDropped.Add(1)
			}
			continue
		case first < 20 || first > 63:
			s.stats.datagramsDropped.Add(1)
			continue
		}
		if from != s.lastFrom || s.lastAddr == nil {
			s.lastFrom, s.lastAddr = from, net.UDPAddrFromAddrPort(from)
		}
		return n, s.lastAddr, nil
	}
}

// WriteTo sends for the library, whose Binding requests are noted.
func (s *agentSocket) WriteTo(b []byte, to net.Addr) (int, error) {
	if w := s.net.watch.Load(); w != nil && len(b) >= stun.HeaderLen && b[0] <= 3 && !w.libraryRequest(b, addrPortOf(to)) {
		return len(b), nil
	}
	return s.UDPConn.WriteTo(b, to)
}

// ask sends a Binding request of ours.
func (s *agentSocket) ask(b []byte, to netip.AddrPort) error {
	w := s.net.watch.Load()
	if w == nil {
		return ErrClosed
	}
	w.request(b, to)
	_, err := s.UDPConn.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}

func (s *agentSocket) read(b []byte) (int, netip.AddrPort, error) {
	if s.raw != nil {
		n, from, err := s.raw.ReadFromUDPAddrPort(b)
		return n, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), err
	}
	n, addr, err := s.UDPConn.ReadFrom(b)
	if err != nil {
		return n, netip.AddrPort{}, err
	}
	return n, addrPortOf(addr), nil
}

// send sends one media packet on the selected pair.
func (m *mediaPath) send(b []byte) error {
	var err error
	if m.socket == nil {
		_, err = m.relay(b)
	} else if m.socket.raw != nil {
		_, err = m.socket.raw.WriteToUDPAddrPort(b, m.remote)
	} else {
		_, err = m.socket.WriteTo(b, m.udpAddr)
	}
	return err
}

func addrPortOf(a net.Addr) netip.AddrPort {
	var p netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		p = a.AddrPort()
	case *net.TCPAddr:
		p = a.AddrPort()
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

func candidateAddrPort(c ice.Candidate) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(c.Address())
	if err != nil {
		return netip.AddrPort{}, err
	}
	if c.Port() <= 0 || c.Port() > 0xffff {
		return netip.AddrPort{}, errors.New("candidate port out of range")
	}
	return netip.AddrPortFrom(a.Unmap().WithZone(""), uint16(c.Port())), nil
}
