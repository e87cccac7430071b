package link

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/pion/transport/v2"

	"fieldkit/overlay/stun"
)

// relaySocket is the socket on which an ICE agent speaks with a TURN server. It lets in what the server sends and
// nothing else, and of that only what the library may safely read: the pinned TURN client parses whatever anybody sends
// to its port, and the STUN library ends the process over one malformed address. What comes through the relay is
// checked as what comes directly is (agentSocket).
type relaySocket struct {
	net.PacketConn
	raw     *net.UDPConn // the same, where it is the host's
	servers []netip.AddrPort
	stats   *guardStats
	closed  atomic.Bool
	from    *atomic.Int64 // Unix nanoseconds: nothing is sent through the relay before
	channels

	// The address of the last datagram, for the library. Owned by the reader.
	lastFrom netip.AddrPort
	lastAddr *net.UDPAddr
}

var errHeld = errors.New("direct pairs are checked first")

// ListenPacket opens the socket of a TURN client; without a server there is none.
func (n *agentNet) ListenPacket(network, addr string) (net.PacketConn, error) {
	if !n.uses() {
		return nil, transport.ErrNotSupported
	}
	if slices.ContainsFunc(n.servers, func(s netip.AddrPort) bool { return s.Addr().Is6() }) {
		network, addr = "udp", ":0" // the library does not say which server it is for
	}
	c, err := n.Net.ListenPacket(network, addr)
	if err != nil {
		return nil, err
	}
	s := &relaySocket{PacketConn: c, servers: n.servers, stats: n.stats, from: &n.relayFrom, channels: channels{password: n.password, now: n.now}}
	s.raw, _ = c.(*net.UDPConn)
	n.mu.Lock()
	n.relays = append(n.relays, s)
	n.mu.Unlock()
	return s, nil
}

// ResolveUDPAddr reads the address of a server, for which the library asks as if it were IPv4.
func (n *agentNet) ResolveUDPAddr(network, address string) (*net.UDPAddr, error) {
	if a, err := netip.ParseAddrPort(address); err == nil {
		return net.UDPAddrFromAddrPort(a), nil
	}
	return n.Net.ResolveUDPAddr(network, address)
}

// uses reports whether the agent has servers to ask.
func (n *agentNet) uses() bool { return len(n.servers) > 0 }

// closeRelays closes the TURN sockets but for those at the ports of keep. Their servers give up what nobody uses.
func (n *agentNet) closeRelays(keep []netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.relays = slices.DeleteFunc(n.relays, func(s *relaySocket) bool {
		port := addrPortOf(s.LocalAddr()).Port()
		if slices.ContainsFunc(keep, func(k netip.AddrPort) bool { return k.Port() == port }) {
			return false
		}
		_ = s.Close()
		return true
	})
}

// ReadFrom returns the next datagram of a server that the library may read.
func (s *relaySocket) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := s.read(b)
		if err != nil {
			return n, nil, err
		}
		if !slices.Contains(s.servers, from) {
			s.stats.datagramsDropped.Add(1)
			continue
		}
		if !s.wellFormed(b[:n]) {
			continue
		}
		if n = s.receive(b, n); n == 0 {
			continue
		}
		if from != s.lastFrom || s.lastAddr == nil {
			s.lastFrom, s.lastAddr = from, net.UDPAddrFromAddrPort(from)
		}
		return n, s.lastAddr, nil
	}
}

func (s *relaySocket) wellFormed(b []byte) bool {
	kind := stun.KindOf(b)
	if kind == stun.STUN && stun.Malformed(b) {
		s.stats.stunDropped.Add(1)
		return false
	}
	if kind == stun.STUN || kind == stun.Channel {
		switch data, relays, ok := stun.Carried(b); {
		case !ok:
		case !relays || stun.MayRelay(data):
			return true
		case stun.KindOf(data) == stun.STUN:
			s.stats.stunDropped.Add(1)
			return false
		}
	}
	s.stats.datagramsDropped.Add(1)
	return false
}

// WriteTo sends for the library. Its requests for permissions fail until relayFrom: it waits for the answer to each before
// it goes on with the checks of direct pairs, which are given that time for themselves. Its requests for channels go
// nowhere, see channels.
func (s *relaySocket) WriteTo(b []byte, to net.Addr) (int, error) {
	if s.closed.Load() { // which ends what the library still waits for; a simulated socket does not say so
		return 0, net.ErrClosed
	}
	out := b
	if stun.KindOf(b) == stun.STUN && len(b) >= stun.HeaderLen {
		switch stun.Type(b) {
		case stun.ChannelBind:
			return len(b), nil
		case stun.CreatePermission:
			if s.now().UnixNano() < s.from.Load() {
				return 0, errHeld
			}
			s.learn(b)
		case stun.SendIndication:
			var ask []byte
			if out, ask = s.send(b); ask != nil {
				if _, err := s.PacketConn.WriteTo(ask, to); err != nil {
					return 0, err
				}
			}
		}
	}
	if _, err := s.PacketConn.WriteTo(out, to); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close closes the socket. It may be called more than once.
func (s *relaySocket) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.PacketConn.Close()
}

func (s *relaySocket) read(b []byte) (int, netip.AddrPort, error) {
	if s.raw != nil {
		n, from, err := s.raw.ReadFromUDPAddrPort(b)
		return n, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), err
	}
	n, addr, err := s.PacketConn.ReadFrom(b)
	if err != nil {
		return n, netip.AddrPort{}, err
	}
	return n, addrPortOf(addr), nil
}
