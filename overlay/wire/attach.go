package wire

import (
	"net/netip"
	"strconv"
)

// Overlay link protocols (RFC 6940 §14.10).
const (
	LinkDTLSUDPSR      uint8 = 1 // DTLS over UDP with Simple Reliability, over ICE
	LinkDTLSUDPSRNoICE uint8 = 3 // the same without ICE
	LinkTLSTCPFHNoICE  uint8 = 4 // TLS over TCP with the framing header, without ICE
)

// Candidate types (RFC 6940 §6.5.1.1).
const (
	CandHost  uint8 = 1
	CandSrflx uint8 = 2
	CandRelay uint8 = 4
)

// Applications of AppAttach (RFC 6940 §14.5).
const (
	ApplicationSIP  uint16 = 5060
	ApplicationSIPS uint16 = 5061
)

// IceCandidate is RFC 6940 §6.5.1.1. The zone of an address is never sent.
type IceCandidate struct {
	Addr       netip.AddrPort // not valid when the peer sent an address type this code does not know: then see Unknown
	Link       uint8          // overlay link protocol
	Foundation []byte         // at most 255 bytes
	Priority   uint32
	Type       uint8
	Related    netip.AddrPort // CandSrflx and CandRelay only
	Extensions []CandidateExtension
	// Unknown keeps the encoded address and related address that are of types this code does not know:
	// an implementation "can still parse the IpAddressPort field and then discard it" (RFC 6940 §6.3.1.1).
	Unknown, UnknownRelated []byte
}

// CandidateExtension is an IceExtension of a candidate; each field is at most 65535 bytes.
type CandidateExtension struct{ Name, Value []byte }

// IceParameters is what Attach and AppAttach share: the ICE side of one end.
type IceParameters struct {
	Ufrag, Password []byte // at most 255 bytes each
	Role            []byte // "passive" from the Attach sender, "active" in the answer
	Candidates      []IceCandidate
}

// AttachReqAns is the body of AttachReq and AttachAns (RFC 6940 §6.5.1.1).
type AttachReqAns struct {
	IceParameters
	SendUpdate bool // the sender asks for an Update once connected
}

// AppAttachReqAns is the body of AppAttachReq and AppAttachAns (RFC 6940 §6.5.2.1).
type AppAttachReqAns struct {
	Application uint16 // ApplicationSIP or another Application-ID
	IceParameters
}

// ParseAttach reads the body of an AttachReq or AttachAns.
func ParseAttach(body []byte) (AttachReqAns, error) {
	var a AttachReqAns
	r := newReader(body)
	a.Ufrag, a.Password = r.opaque(1, "ufrag"), r.opaque(1, "password")
	a.Role = r.opaque(1, "role")
	a.Candidates = r.candidates()
	a.SendUpdate = r.boolean("send_update")
	return finish(&r, a, "AttachReqAns")
}

// AppendBinary appends the body.
func (a AttachReqAns) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.opaque(1, a.Ufrag, "ufrag")
	w.opaque(1, a.Password, "password")
	w.opaque(1, a.Role, "role")
	w.candidates(a.Candidates)
	w.boolean(a.SendUpdate)
	return w.end(b, "AttachReqAns")
}

// ParseAppAttach reads the body of an AppAttachReq or AppAttachAns.
func ParseAppAttach(body []byte) (AppAttachReqAns, error) {
	var a AppAttachReqAns
	r := newReader(body)
	a.Ufrag, a.Password = r.opaque(1, "ufrag"), r.opaque(1, "password")
	a.Application = r.u16("application")
	a.Role = r.opaque(1, "role")
	a.Candidates = r.candidates()
	return finish(&r, a, "AppAttachReqAns")
}

// AppendBinary appends the body.
func (a AppAttachReqAns) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.opaque(1, a.Ufrag, "ufrag")
	w.opaque(1, a.Password, "password")
	w.u16(a.Application)
	w.opaque(1, a.Role, "role")
	w.candidates(a.Candidates)
	return w.end(b, "AppAttachReqAns")
}

func (r *reader) candidates() []IceCandidate {
	v := r.vector(2, "candidates")
	var list []IceCandidate
	for v.more() {
		list = append(list, v.candidate())
	}
	r.join(&v, "candidates")
	return list
}

func (r *reader) candidate() IceCandidate {
	var c IceCandidate
	c.Addr, c.Unknown = r.addrPort("addr_port")
	c.Link = r.u8("overlay_link")
	c.Foundation = r.opaque(1, "foundation")
	c.Priority = r.u32("priority")
	c.Type = r.u8("type")
	switch c.Type {
	case CandHost:
	case CandSrflx, CandRelay:
		c.Related, c.UnknownRelated = r.addrPort("rel_addr_port")
	default:
		// The select allows no others and nothing tells where the candidate ends: "any unknown type SHOULD be
		// treated as a parsing error, and the whole message SHOULD be discarded" (RFC 6940 §6.3.1.1).
		r.refuse(1, "type", "unknown candidate type "+strconv.Itoa(int(c.Type)))
	}
	v := r.vector(2, "extensions")
	for v.more() {
		c.Extensions = append(c.Extensions, CandidateExtension{Name: v.opaque(2, "name"), Value: v.opaque(2, "value")})
	}
	r.join(&v, "extensions")
	return c
}

func (w *writer) candidates(list []IceCandidate) {
	const what = "candidate"
	all := w.open(2)
	for i := range list {
		c := &list[i]
		w.addrPort(c.Addr, c.Unknown)
		w.u8(c.Link)
		w.opaque(1, c.Foundation, "foundation")
		w.u32(c.Priority)
		w.u8(c.Type)
		switch c.Type {
		case CandHost:
		case CandSrflx, CandRelay:
			w.addrPort(c.Related, c.UnknownRelated)
		default:
			w.fail("candidate of an unknown type")
		}
		at := w.open(2)
		for j := range c.Extensions {
			w.opaque(2, c.Extensions[j].Name, what)
			w.opaque(2, c.Extensions[j].Value, what)
		}
		w.close(at, 2, what)
	}
	w.close(all, 2, "candidates")
}

// Address types of an IpAddressPort (RFC 6940 §6.3.1.1).
const (
	addrIPv4 = 1
	addrIPv6 = 2
)

// addrPort reads an IpAddressPort. One of an unknown type is returned as it was encoded.
func (r *reader) addrPort(field string) (netip.AddrPort, []byte) {
	whole, start := r.b, r.at()
	typ := r.u8(field)
	v := r.vector(1, field)
	if r.err != nil {
		return netip.AddrPort{}, nil
	}
	var addr netip.Addr
	switch typ {
	case 0:
		r.fail(start, field, "address type 0")
		return netip.AddrPort{}, nil
	case addrIPv4:
		addr, _ = netip.AddrFromSlice(v.take(4, "addr"))
	case addrIPv6:
		addr, _ = netip.AddrFromSlice(v.take(16, "addr"))
	default:
		n := 2 + len(v.b)
		return netip.AddrPort{}, whole[:n:n]
	}
	ap := netip.AddrPortFrom(addr, v.u16("port"))
	r.join(&v, field)
	return ap, nil
}

func (w *writer) addrPort(ap netip.AddrPort, unknown []byte) {
	switch addr := ap.Addr(); {
	case unknown != nil:
		if len(unknown) < 2 || unknown[0] <= addrIPv6 || int(unknown[1]) != len(unknown)-2 || ap.IsValid() {
			w.fail("IpAddressPort of an unknown type that is none")
		}
		w.bytes(unknown)
	case addr.Is4():
		a := addr.As4()
		w.u8(addrIPv4)
		w.u8(6)
		w.bytes(a[:])
		w.u16(ap.Port())
	case addr.Is6():
		a := addr.As16()
		w.u8(addrIPv6)
		w.u8(18)
		w.bytes(a[:])
		w.u16(ap.Port())
	default:
		w.fail("IpAddressPort missing")
	}
}
