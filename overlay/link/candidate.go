package link

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/pion/ice/v2"

	"fieldkit/overlay/wire"
)

// maxRemoteCandidates bounds the pairs a far end can make us check: every candidate costs packets to an address
// that it chose.
const maxRemoteCandidates = 16

// toWire converts a gathered candidate (RFC 6940 §6.5.1.1). The component is always 1 and not sent.
func toWire(c ice.Candidate) (wire.IceCandidate, error) {
	addr, err := candidateAddrPort(c)
	if err != nil {
		return wire.IceCandidate{}, fmt.Errorf("candidate %s: %w", c, err)
	}
	w := wire.IceCandidate{
		Addr:       addr,
		Link:       wire.LinkDTLSUDPSR,
		Foundation: []byte(c.Foundation()),
		Priority:   c.Priority(),
	}
	switch c.Type() {
	case ice.CandidateTypeHost:
		w.Type = wire.CandHost
		return w, nil
	case ice.CandidateTypeServerReflexive:
		w.Type = wire.CandSrflx
	case ice.CandidateTypeRelay:
		w.Type = wire.CandRelay
	default: // peer-reflexive ones are found by checks, after the offer
		return wire.IceCandidate{}, fmt.Errorf("candidate %s: type %s is not gathered here", c, c.Type())
	}
	if w.Related, err = relatedOf(c); err != nil {
		return wire.IceCandidate{}, fmt.Errorf("candidate %s: %w", c, err)
	}
	return w, nil
}

// relatedOf is the local address behind a candidate. That of a relay's socket is unspecified: it says nothing to others.
func relatedOf(c ice.Candidate) (netip.AddrPort, error) {
	r := c.RelatedAddress()
	if r == nil || r.Port <= 0 || r.Port > 0xffff {
		return netip.AddrPort{}, errors.New("no related address")
	}
	a, err := netip.ParseAddr(r.Address)
	return netip.AddrPortFrom(a.Unmap(), uint16(r.Port)), err
}

// fromWire converts a far end's candidate. ok is false for one that is not to be tried: another link protocol, an
// address nothing can be sent to or that is only ours. Loopback is tried only by who offers it himself.
func fromWire(w wire.IceCandidate, loopback bool) (c ice.Candidate, ok bool) {
	a := w.Addr.Addr().Unmap()
	switch {
	case w.Link != wire.LinkDTLSUDPSR, w.Addr.Port() == 0, w.Priority == 0, w.Priority > 1<<31-1:
		return nil, false
	case !a.IsValid(), a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return nil, false
	case a.Is6() && a.IsLinkLocalUnicast(), a.IsLoopback() && !loopback:
		return nil, false
	}
	foundation := string(w.Foundation)
	if foundation == "" || len(foundation) > 32 {
		foundation = strconv.Itoa(int(w.Type))
	}
	var err error
	switch w.Type {
	case wire.CandHost:
		c, err = ice.NewCandidateHost(&ice.CandidateHostConfig{
			Network: "udp", Address: a.String(), Port: int(w.Addr.Port()), Component: 1,
			Priority: w.Priority, Foundation: foundation,
		})
	case wire.CandSrflx:
		c, err = ice.NewCandidateServerReflexive(&ice.CandidateServerReflexiveConfig{
			Network: "udp", Address: a.String(), Port: int(w.Addr.Port()), Component: 1,
			Priority: w.Priority, Foundation: foundation,
			RelAddr: w.Related.Addr().String(), RelPort: int(w.Related.Port()),
		})
	case wire.CandRelay:
		c, err = ice.NewCandidateRelay(&ice.CandidateRelayConfig{
			Network: "udp", Address: a.String(), Port: int(w.Addr.Port()), Component: 1,
			Priority: w.Priority, Foundation: foundation,
			RelAddr: w.Related.Addr().String(), RelPort: int(w.Related.Port()),
		})
	default:
		return nil, false
	}
	return c, err == nil
}
