package firewall

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The kernel's address types (rtnetlink(7), rtm_type).
const (
	typeLocal     = unix.RTN_LOCAL
	typeBroadcast = unix.RTN_BROADCAST
	typeMulticast = unix.RTN_MULTICAST
)

// TCP flags in their byte of the header (RFC 9293 §3.1).
const (
	flagFIN, flagSYN, flagRST, flagACK = 0x01, 0x02, 0x04, 0x10
	offsetFlags                        = 13
	offsetDestinationPort              = 2
)

// compiler turns rules into the kernel's expressions. Each puts a value into register 1 and compares it.
type compiler struct{ out []expr.Any }

func (r Rule) compile(sets map[string]*nftables.Set) []expr.Any {
	c := &compiler{}
	c.iface(expr.MetaKeyIIFNAME, expr.CmpOpEq, r.In)
	c.iface(expr.MetaKeyOIFNAME, expr.CmpOpEq, r.Out)
	for _, name := range r.NotOut {
		c.iface(expr.MetaKeyOIFNAME, expr.CmpOpNeq, name)
	}
	switch r.Family {
	case 4:
		c.meta(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4})
	case 6:
		c.meta(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV6})
	}
	c.prefix(r.Src, expr.CmpOpEq, 12, 8)
	c.prefix(r.NotSrc, expr.CmpOpNeq, 12, 8)
	c.prefix(r.Dst, expr.CmpOpEq, 16, 24)
	c.addressed(r.Addressed)
	if r.Proto != 0 {
		c.meta(expr.MetaKeyL4PROTO, []byte{byte(r.Proto)})
	}
	c.ports(r.Ports)
	if r.ICMPType != nil {
		c.transport(0, 1)
		c.compare(expr.CmpOpEq, []byte{*r.ICMPType})
	}
	if r.SYN {
		c.transport(offsetFlags, 1)
		c.out = append(c.out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{flagFIN | flagSYN | flagRST | flagACK}, Xor: []byte{0}})
		c.compare(expr.CmpOpEq, []byte{flagSYN})
	}
	if r.AllAbove != 0 {
		c.out = append(c.out, limit(r.AllAbove))
	}
	if r.SourceAbove != 0 {
		c.out = append(c.out,
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Dynset{
				SrcRegKey: 1, SetName: r.Set, SetID: sets[r.Set].ID, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE),
				Exprs: []expr.Any{limit(r.SourceAbove)},
			})
	}
	c.out = append(c.out, &expr.Counter{})
	switch r.Verdict {
	case Accept:
		c.verdict(expr.VerdictAccept, "")
	case Drop:
		c.verdict(expr.VerdictDrop, "")
	case Return:
		c.verdict(expr.VerdictReturn, "")
	case Jump:
		c.verdict(expr.VerdictJump, r.Target)
	case RejectTCP:
		c.out = append(c.out, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	case RejectPort:
		c.out = append(c.out, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})
	}
	return c.out
}

func limit(perSecond uint64) *expr.Limit {
	return &expr.Limit{Type: expr.LimitTypePkts, Rate: perSecond, Unit: expr.LimitTimeSecond, Burst: uint32(burst * perSecond), Over: true}
}

func (c *compiler) compare(op expr.CmpOp, value []byte) {
	c.out = append(c.out, &expr.Cmp{Op: op, Register: 1, Data: value})
}

func (c *compiler) meta(key expr.MetaKey, value []byte) {
	c.out = append(c.out, &expr.Meta{Key: key, Register: 1})
	c.compare(expr.CmpOpEq, value)
}

func (c *compiler) iface(key expr.MetaKey, op expr.CmpOp, name string) {
	if name == "" {
		return
	}
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	c.out = append(c.out, &expr.Meta{Key: key, Register: 1})
	c.compare(op, b)
}

func (c *compiler) prefix(p netip.Prefix, op expr.CmpOp, offset4, offset6 uint32) {
	if !p.IsValid() {
		return
	}
	p = p.Masked()
	offset, size := offset4, uint32(4)
	if p.Addr().Is6() {
		offset, size = offset6, 16
	}
	c.out = append(c.out, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
	if p.Bits() < int(8*size) {
		mask := make([]byte, size)
		for i := range p.Bits() {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		c.out = append(c.out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)})
	}
	c.compare(op, p.Addr().AsSlice())
}

func (c *compiler) addressed(a Addressing) {
	kinds := map[Addressing]uint32{Own: typeLocal, Broadcast: typeBroadcast, Multicast: typeMulticast}
	kind, ok := kinds[a]
	if !ok {
		return
	}
	c.out = append(c.out, &expr.Fib{Register: 1, FlagDADDR: true, FlagIIF: true, ResultADDRTYPE: true})
	c.compare(expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(kind))
}

func (c *compiler) transport(offset, size uint32) {
	c.out = append(c.out, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: size})
}

func (c *compiler) ports(p Ports) {
	if p == (Ports{}) {
		return
	}
	c.transport(offsetDestinationPort, 2)
	first, last := binary.BigEndian.AppendUint16(nil, p.First), binary.BigEndian.AppendUint16(nil, p.Last)
	if p.First == p.Last {
		c.compare(expr.CmpOpEq, first)
		return
	}
	c.out = append(c.out, &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: first, ToData: last})
}

func (c *compiler) verdict(kind expr.VerdictKind, chain string) {
	c.out = append(c.out, &expr.Verdict{Kind: kind, Chain: chain})
}

// sourceLife is how long a source is remembered after it asked last.
const sourceLife = time.Minute
