package link

import (
	"fmt"
	"slices"

	"fieldkit/overlay/wire"
)

// protocolsOf are the overlay link types that a configuration document permits, the preferred first. The registry of
// overlay-link-protocol has one value for all of them, "TLS" (RFC 6940 §14.11), which is also what no element means;
// this project reads the names of the link types (§14.10) there, too, so that a document can name one of them. "An
// overlay MUST be either all ICE or all No-ICE" (§6.5.1.5): noICE decides which of them count.
func protocolsOf(noICE bool, names []string, secret bool) ([]uint8, error) {
	all := []struct {
		name  string
		link  uint8
		noICE bool
	}{
		{"DTLS-UDP-SR", wire.LinkDTLSUDPSR, false},
		{"DTLS-UDP-SR-NO-ICE", wire.LinkDTLSUDPSRNoICE, true},
		{"TLS-TCP-FH-NO-ICE", wire.LinkTLSTCPFHNoICE, true},
	}
	var links []uint8
	for _, p := range all {
		if p.noICE != noICE || len(names) > 0 && !slices.Contains(names, p.name) && !slices.Contains(names, "TLS") {
			continue
		}
		if secret && p.link == wire.LinkTLSTCPFHNoICE { // crypto/tls has no TLS-PSK
			continue
		}
		links = append(links, p.link)
	}
	if len(links) == 0 {
		return nil, fmt.Errorf("%w: no-ice %v, overlay-link-protocol %q, shared secret %v", ErrNoProtocol, noICE, names, secret)
	}
	return links, nil
}

// uses tells whether links of this type are made.
func (t *Transport) uses(link uint8) bool { return slices.Contains(t.protocols, link) }

// usesUDP tells whether bootstrap links over UDP are made: in an overlay with ICE, too, where the bootstrap node is
// reached without (RFC 6940 §11.4).
func (t *Transport) usesUDP() bool {
	return t.uses(wire.LinkDTLSUDPSR) || t.uses(wire.LinkDTLSUDPSRNoICE)
}
