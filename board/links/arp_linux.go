package links

import (
	"errors"
	"net"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// arpSocket sends and receives the ARP packets of one interface; its reader is a goroutine of its own.
type arpSocket struct {
	c    *packet.Conn
	done chan struct{}
}

func openARP(p *port, hear func(heard)) (*arpSocket, error) {
	c, err := packet.Listen(&net.Interface{Index: p.index, Name: p.name, HardwareAddr: p.mac}, packet.Datagram, unix.ETH_P_ARP, nil)
	if err != nil {
		return nil, err
	}
	s := &arpSocket{c: c, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		b := make([]byte, 128)
		for {
			n, _, err := c.ReadFrom(b)
			if errors.Is(err, unix.ENETDOWN) {
				continue // said once; the socket goes on when the interface is up again (packet(7))
			}
			if err != nil {
				return
			}
			// A stranger's flood about other addresses ends here.
			if a, ok := parseARP(b[:n]); ok && concerns(a) {
				hear(heard{p, a})
			}
		}
	}()
	return s, nil
}

// concerns tells whether a packet is about IPv4 link-local addresses at all.
func concerns(p *arp.Packet) bool {
	return linkLocal4.Contains(p.SenderIP) || linkLocal4.Contains(p.TargetIP)
}

// broadcast sends to all: "All ARP packets (*replies* as well as requests) that contain a Link-Local 'sender IP address'
// MUST be sent using link-layer broadcast" (RFC 3927 §2.5). Replies are the kernel's, which sends them to who asked.
func (s *arpSocket) broadcast(b []byte) error {
	_, err := s.c.WriteTo(b, &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}})
	return err
}

func (s *arpSocket) close() {
	_ = s.c.Close()
	<-s.done
}
