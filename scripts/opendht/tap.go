//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"fieldkit/board/simnet/netns"
)

// traffic is whose and what a frame is.
type traffic int

const (
	openDHT   traffic = iota
	stun              // ours: ICE checks, consent and keepalives
	handshake         // ours: DTLS records other than application data
	frames            // ours: DTLS application data with RELOAD messages
	acks              // ours: DTLS application data as small as an acknowledgement of RELOAD's framing
	other             // ARP and what the kernel does
	kinds
)

func (k traffic) String() string {
	return [...]string{"OpenDHT", "STUN", "DTLS handshakes and alerts", "RELOAD messages", "acknowledgements", "other"}[k]
}

type counts [kinds]uint64

// tap counts what passes an interface, by kind.
type tap struct {
	file  *os.File
	count [kinds]atomic.Uint64
}

func newTap(ns *netns.Host, dev string) (*tap, error) {
	t := &tap{}
	err := ns.Do(func() error {
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
		if err != nil {
			return err
		}
		t.file = os.NewFile(uintptr(fd), "tap")
		return errors.Join(
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20),
		)
	})
	if err != nil {
		return nil, fmt.Errorf("tap of %s: %w", ns.Name(), err)
	}
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, err := t.file.Read(b)
			if err != nil {
				return
			}
			t.count[classify(b[:n])].Add(uint64(n))
		}
	}()
	return t, nil
}

func (t *tap) now() (c counts) {
	for i := range c {
		c[i] = t.count[i].Load()
	}
	return c
}

func (t *tap) close() { _ = t.file.Close() }

// classify looks into an Ethernet frame. What goes over IPv6 is nobody's: the hosts have no address of it to talk at.
func classify(frame []byte) traffic {
	const ethernet, ip, udp = 14, 20, 8
	if len(frame) < ethernet+ip+udp+1 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 || frame[ethernet] != 0x45 || frame[ethernet+9] != unix.IPPROTO_UDP {
		return other
	}
	p := frame[ethernet+ip:]
	if binary.BigEndian.Uint16(p) == dhtPort || binary.BigEndian.Uint16(p[2:]) == dhtPort {
		return openDHT
	}
	const (
		applicationData = 23
		ackFrame        = 9                 // RFC 6940 §6.6.2
		record          = 13 + 16 + udp + 8 // header, tag, and room for an explicit nonce
	)
	switch {
	case p[udp] < 4: // RFC 7983 §7
		return stun
	case p[udp] == applicationData && len(p) <= ackFrame+record:
		return acks
	case p[udp] == applicationData:
		return frames
	}
	return handshake
}
