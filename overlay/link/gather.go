package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pion/ice/v2"
	"github.com/pion/stun"
)

const (
	// maxServers bounds the servers of one attempt: each costs two round trips, a socket and a candidate that the
	// far end checks.
	maxServers = 4

	// relayWait is how long the candidates of this kit's own addresses, which are there at once, wait for those that
	// servers give. A RELOAD offer is made once (RFC 6940 §6.5.1.12), so what comes later is never used.
	relayWait = 300 * time.Millisecond

	// relayHold is how long only direct pairs are checked: on a LAN they are done by then, and the relays were asked
	// for nothing but their addresses.
	relayHold = 150 * time.Millisecond

	// relayAcceptance is how long a direct pair is given before a relayed one is taken: two lost checks and the
	// third's answer on a bad radio.
	relayAcceptance = 250 * time.Millisecond
)

// Server is a STUN and TURN server that gathering may use (RFC 6940 §6.5.1.5).
type Server struct {
	Addr      netip.AddrPort // not link-local IPv6
	Reflexive bool           // ask for a server-reflexive candidate: seen from there this kit is behind a NAT. IPv4 alone
	// The long-term credential (RFC 8489 §9.2); without one no relayed candidate is asked for.
	Username, Password string
}

// servers turns the Config's servers into the library's. One whose packets would leave from an address that is not the
// overlay's, because it is on the handset side, is left out.
func (t *Transport) servers() (urls []*stun.URI, reflexiveFrom netip.Addr, at []netip.AddrPort) {
	if t.cfg.Servers == nil {
		return nil, netip.Addr{}, nil
	}
	for _, s := range t.cfg.Servers() {
		a := netip.AddrPortFrom(s.Addr.Addr().Unmap(), s.Addr.Port())
		if len(at) == maxServers {
			break
		}
		if !a.IsValid() || a.Addr().Is6() && a.Addr().IsLinkLocalUnicast() || a.Addr().Zone() != "" || a.Port() == 0 {
			continue
		}
		from, ok := t.sourceTo(a)
		if !ok {
			continue
		}
		uri := stun.URI{Host: a.Addr().String(), Port: int(a.Port()), Proto: stun.ProtoTypeUDP}
		if a.Addr().Is6() {
			uri.Host = "[" + uri.Host + "]" // the library puts a colon and the port behind it
		}
		used := false
		// The sockets of reflexive candidates are opened without their server being named: they share an address.
		if s.Reflexive && a.Addr().Is4() && (!reflexiveFrom.IsValid() || reflexiveFrom == from) {
			u := uri
			u.Scheme = stun.SchemeTypeSTUN
			urls, reflexiveFrom, used = append(urls, &u), from, true
		}
		if s.Username != "" && s.Password != "" {
			u := uri
			u.Scheme, u.Username, u.Password = stun.SchemeTypeTURN, s.Username, s.Password
			urls, used = append(urls, &u), true
		}
		if used {
			at = append(at, a)
		}
	}
	return urls, reflexiveFrom, at
}

// sourceTo is the local address from which packets to addr leave. No packet is sent.
func (t *Transport) sourceTo(addr netip.AddrPort) (netip.Addr, bool) {
	c, err := t.net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return netip.Addr{}, false
	}
	from := addrPortOf(c.LocalAddr()).Addr()
	_ = c.Close()
	if from.IsUnspecified() { // a simulated host, which has one address
		for _, a := range t.usable() {
			if a.Is4() {
				return a, true
			}
		}
		return from, false
	}
	return from, t.mayBeFrom(from, addr.Addr())
}

// password is that of a TURN user.
func (n *agentNet) password(user string) string { return n.passwords[user] }

// gather collects the candidates of an attempt: host candidates, which are there at once, and where there are servers
// what they give within relayWait.
func (a *Attempt) gather(ctx context.Context) error {
	limit := a.t.cfg.GatherTimeout
	if a.network.uses() {
		limit = min(limit, relayWait)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	found := make(chan ice.Candidate, maxLocalAddresses+2*maxServers)
	done := make(chan struct{})
	err := errors.Join(
		a.agent.OnCandidate(func(c ice.Candidate) {
			if c == nil {
				close(done)
				return
			}
			select {
			case found <- c:
			default:
			}
		}),
		a.agent.OnConnectionStateChange(func(s ice.ConnectionState) {
			if s == ice.ConnectionStateFailed { // it never recovers, and nothing above would ever notice
				a.end(ErrLinkFailed)
			}
		}),
		a.agent.GatherCandidates(),
	)
	if err != nil {
		return fmt.Errorf("ICE agent: %w", err)
	}
	select {
	case <-done:
	case <-ctx.Done(): // go with what there is
	case <-a.life.Done():
		return ErrClosed
	}
	var relays []netip.AddrPort
	for len(found) > 0 {
		c := <-found
		if c.Type() == ice.CandidateTypeServerReflexive && a.isOwn(c) { // no NAT after all
			continue
		}
		w, err := toWire(c)
		if err != nil {
			return err
		}
		if c.Type() == ice.CandidateTypeRelay {
			relays = append(relays, w.Related)
		}
		a.loopback = a.loopback || w.Addr.Addr().IsLoopback()
		a.local.Candidates = append(a.local.Candidates, w)
	}
	// A server that does not answer would be asked for 8 s more, and the agent could not be closed before.
	a.network.closeRelays(relays)
	if len(a.local.Candidates) == 0 {
		return errors.Join(ErrNoAddress, context.Cause(ctx))
	}
	ufrag, password, err := a.agent.GetLocalUserCredentials()
	if err != nil {
		return fmt.Errorf("ICE credentials: %w", err)
	}
	a.local.Ufrag, a.local.Password = []byte(ufrag), []byte(password)
	return nil
}

// isOwn reports whether a candidate's address is one of this kit's own.
func (a *Attempt) isOwn(c ice.Candidate) bool {
	at, err := candidateAddrPort(c)
	for _, own := range a.t.usable() {
		if err == nil && at.Addr() == own {
			return true
		}
	}
	return false
}

// settle looks at the pair that ICE selected: relays that are not part of it are given back, since nothing ever changes
// the pair (RFC 6940 §6.5.1.10.2: "the agent can immediately free all unused candidates"). relayed says whether a relay
// of either side is.
func (a *Attempt) settle() (relayed bool, err error) {
	pair, err := a.agent.GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return false, fmt.Errorf("candidate pair: %w", errors.Join(err, ErrLinkFailed))
	}
	var used []netip.AddrPort
	if pair.Local.Type() == ice.CandidateTypeRelay {
		related, err := relatedOf(pair.Local)
		if err != nil {
			return false, fmt.Errorf("candidate %s: %w", pair.Local, err)
		}
		used = append(used, related)
	}
	a.network.closeRelays(used)
	return pair.Local.Type() == ice.CandidateTypeRelay || pair.Remote.Type() == ice.CandidateTypeRelay, nil
}
