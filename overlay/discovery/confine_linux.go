package discovery

import (
	"net"
	"reflect"

	"github.com/grandcat/zeroconf"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// maxPacket is the largest datagram of multicast DNS. RFC 6762 §17: "Even when
// fragmentation is used, a Multicast DNS packet, including IP and UDP headers,
// MUST NOT exceed 9000 bytes." The library would take 64 kB and spend, on
// records made for it, the product of their numbers.
const maxPacket = 9000

// ipv6MulticastAll is IPV6_MULTICAST_ALL of linux/in6.h.
const ipv6MulticastAll = 29

// confine makes the sockets of a Server or a Resolver receive from their own
// interface only, and nothing too large. By default Linux delivers multicast
// that any socket of the machine joined to each socket on the port, whatever
// the interface: an answer from one link would get the zone of another one, and
// a responder would answer on interfaces it was not made for.
//
// The library offers no access to its sockets, hence the reflection over the
// pinned version; it reports how many sockets it reached, which a test checks.
func confine(of any) int {
	v := reflect.ValueOf(of)
	if r, ok := of.(*zeroconf.Resolver); ok {
		if v = reflect.ValueOf(r).Elem().FieldByName("c"); !v.IsValid() {
			return 0
		}
	}
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return 0
	}
	n := 0
	field := func(name string, want reflect.Type) reflect.Value {
		f := v.Elem().FieldByName(name)
		if !f.IsValid() || f.Type() != want || f.IsNil() {
			return reflect.Value{}
		}
		return f
	}
	if f := field("ipv4conn", reflect.TypeFor[*ipv4.PacketConn]()); f.IsValid() {
		c := (*ipv4.PacketConn)(f.UnsafePointer())
		if option(c.PacketConn, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL) == nil && c.SetBPF(sizeFilter()) == nil {
			n++
		}
	}
	if f := field("ipv6conn", reflect.TypeFor[*ipv6.PacketConn]()); f.IsValid() {
		c := (*ipv6.PacketConn)(f.UnsafePointer())
		if option(c.PacketConn, unix.IPPROTO_IPV6, ipv6MulticastAll) == nil && c.SetBPF(sizeFilter()) == nil {
			n++
		}
	}
	return n
}

// option clears a socket option.
func option(c net.PacketConn, level, name int) error {
	u, ok := c.(*net.UDPConn)
	if !ok {
		return net.ErrClosed
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, name, 0) }); err != nil {
		return err
	}
	return set
}

// sizeFilter passes what is not larger than maxPacket; a filter of a UDP socket
// sees the datagram from its UDP header on.
func sizeFilter() []bpf.RawInstruction {
	const ipv4Header = 20
	prog, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtLen},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: maxPacket - ipv4Header, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil // the program is constant and assembles
	}
	return prog
}
