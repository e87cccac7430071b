package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/pion/transport/v2"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// localAddr is where a datagram arrived.
type localAddr struct {
	addr    netip.Addr // without zone; invalid where the socket cannot tell
	ifindex int
}

// packetSocket is a UDP socket bound to no address in particular, so that interfaces may come and go under it, which
// tells at which local address a datagram arrived and answers from there. write may be called from any goroutine.
type packetSocket interface {
	read(b []byte) (n int, from netip.AddrPort, to localAddr, err error)
	write(b []byte, to netip.AddrPort, from localAddr) (int, error)
	close() error
}

// openSockets opens the bootstrap port: one socket per address family on the host, one on a simulated network. A host
// without IPv6 has IPv4 alone, and the other way round.
func openSockets(simulated, network transport.Net, port uint16) ([]packetSocket, uint16, error) {
	if simulated != nil {
		c, err := network.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4zero, Port: int(port)})
		if err != nil {
			return nil, 0, err
		}
		return []packetSocket{simSocket{c}}, addrPortOf(c.LocalAddr()).Port(), nil
	}
	const tries = 8 // with port 0 the port that IPv4 got may be taken on IPv6
	for range tries {
		sockets, got, err := openHostSockets(port)
		if err == nil || port != 0 || !errors.Is(err, syscall.EADDRINUSE) {
			return sockets, got, err
		}
	}
	return nil, 0, syscall.EADDRINUSE
}

func openHostSockets(port uint16) ([]packetSocket, uint16, error) {
	v4, err4 := net.ListenUDP("udp4", &net.UDPAddr{Port: int(port)})
	if err4 == nil {
		port = addrPortOf(v4.LocalAddr()).Port()
	}
	v6, err6 := net.ListenUDP("udp6", &net.UDPAddr{Port: int(port)})
	if errors.Is(err4, syscall.EADDRINUSE) || errors.Is(err6, syscall.EADDRINUSE) || err4 != nil && err6 != nil {
		// Half a port would hide that somebody else has the other half.
		for _, c := range []*net.UDPConn{v4, v6} {
			if c != nil {
				_ = c.Close()
			}
		}
		return nil, 0, errors.Join(err4, err6)
	}
	var sockets []packetSocket
	if err4 == nil {
		p := ipv4.NewPacketConn(v4)
		if err := p.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true); err != nil {
			return nil, 0, fmt.Errorf("packet information: %w", errors.Join(err, v4.Close()))
		}
		sockets = append(sockets, &socket4{p})
	}
	if err6 == nil {
		p := ipv6.NewPacketConn(v6)
		if err := p.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true); err != nil {
			return nil, 0, fmt.Errorf("packet information: %w", errors.Join(err, v6.Close()))
		}
		sockets = append(sockets, &socket6{p})
		port = addrPortOf(v6.LocalAddr()).Port()
	}
	return sockets, port, nil
}

type socket4 struct{ c *ipv4.PacketConn }

func (s *socket4) read(b []byte) (int, netip.AddrPort, localAddr, error) {
	n, cm, src, err := s.c.ReadFrom(b)
	if err != nil {
		return n, netip.AddrPort{}, localAddr{}, err
	}
	to := localAddr{addr: netip.IPv4Unspecified()}
	if cm != nil {
		a, _ := netip.AddrFromSlice(cm.Dst)
		to = localAddr{a.Unmap(), cm.IfIndex}
	}
	return n, addrPortOf(src), to, nil
}

func (s *socket4) write(b []byte, to netip.AddrPort, from localAddr) (int, error) {
	return s.c.WriteTo(b, &ipv4.ControlMessage{Src: from.addr.AsSlice()}, net.UDPAddrFromAddrPort(to))
}

func (s *socket4) close() error { return s.c.Close() }

type socket6 struct{ c *ipv6.PacketConn }

func (s *socket6) read(b []byte) (int, netip.AddrPort, localAddr, error) {
	n, cm, src, err := s.c.ReadFrom(b)
	if err != nil {
		return n, netip.AddrPort{}, localAddr{}, err
	}
	to := localAddr{addr: netip.IPv6Unspecified()}
	if cm != nil {
		a, _ := netip.AddrFromSlice(cm.Dst)
		to = localAddr{a, cm.IfIndex}
	}
	return n, addrPortOf(src), to, nil
}

func (s *socket6) write(b []byte, to netip.AddrPort, from localAddr) (int, error) {
	cm := &ipv6.ControlMessage{Src: from.addr.AsSlice()}
	if from.addr.IsLinkLocalUnicast() {
		cm.IfIndex = from.ifindex
	}
	return s.c.WriteTo(b, cm, net.UDPAddrFromAddrPort(to))
}

func (s *socket6) close() error { return s.c.Close() }

// simSocket is a socket of a simulated network, whose hosts have overlay addresses only.
type simSocket struct{ c transport.UDPConn }

func (s simSocket) read(b []byte) (int, netip.AddrPort, localAddr, error) {
	n, src, err := s.c.ReadFrom(b)
	if err != nil {
		return n, netip.AddrPort{}, localAddr{}, err
	}
	return n, addrPortOf(src), localAddr{}, nil
}

func (s simSocket) write(b []byte, to netip.AddrPort, _ localAddr) (int, error) {
	return s.c.WriteTo(b, net.UDPAddrFromAddrPort(to))
}

func (s simSocket) close() error { return s.c.Close() }
