package discovery

import (
	"reflect"
	"time"

	"github.com/grandcat/zeroconf"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// maxPacket is the largest datagram of multicast DNS. RFC 6762 §17: "Even when
// fragmentation is used, a Multicast DNS packet, including IP and UDP headers,
// MUST NOT exceed 9000 bytes." The library would take 64 kB and spend, on
// records made for it, the product of their numbers.
const maxPacket = 9000

// confine makes the sockets of a Server or a Resolver receive from the interface
// with the given index only, and nothing too large. Linux delivers multicast
// that any socket of the machine joined to each socket on the port, whatever
// the interface: an answer from one link would get the zone of another one, and
// a responder would answer on interfaces it was not made for. (The option
// IPV6_MULTICAST_ALL does not help: it compares groups, not interfaces.)
//
// What was queued before the filter was there is read and thrown away, of a Resolver, which has asked nothing yet and
// reads only from then on.
//
// The library offers no access to its sockets, hence the reflection over the
// pinned version; it reports how many sockets it reached, which a test checks.
func confine(of any, index int) int {
	filter, err := interfaceFilter(index)
	if err != nil {
		return 0
	}
	v := reflect.ValueOf(of)
	r, asks := of.(*zeroconf.Resolver)
	if asks {
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
		if c.SetBPF(filter) == nil {
			n++
		}
		if asks {
			drain(c, func(b []byte) error { _, _, _, err := c.ReadFrom(b); return err })
		}
	}
	if f := field("ipv6conn", reflect.TypeFor[*ipv6.PacketConn]()); f.IsValid() {
		c := (*ipv6.PacketConn)(f.UnsafePointer())
		if c.SetBPF(filter) == nil {
			n++
		}
		if asks {
			drain(c, func(b []byte) error { _, _, _, err := c.ReadFrom(b); return err })
		}
	}
	return n
}

// drainTime bounds the reading of what was queued, however much more comes meanwhile.
const drainTime = 2 * time.Millisecond

func drain(c interface{ SetReadDeadline(time.Time) error }, read func([]byte) error) {
	if c.SetReadDeadline(time.Now().Add(drainTime)) != nil {
		return
	}
	for b := make([]byte, maxPacket); read(b) == nil; {
	}
	_ = c.SetReadDeadline(time.Time{})
}

// interfaceFilter passes what came in on an interface and is not larger than
// maxPacket; a filter of a UDP socket sees the datagram from its UDP header on.
func interfaceFilter(index int) ([]bpf.RawInstruction, error) {
	const ipv4Header = 20
	return bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(index), SkipTrue: 3},
		bpf.LoadExtension{Num: bpf.ExtLen},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: maxPacket - ipv4Header, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	})
}
