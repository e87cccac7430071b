package turnusage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"fieldkit/overlay/stun"
)

// probeRetry is RFC 8489 §6.2.1's initial RTO; what is asked is a neighbour on the same link.
const probeRetry = 500 * time.Millisecond

// Probe asks a STUN server how it sees this host (RFC 8489 §3): a Binding request, again until it is answered or ctx
// ends.
func Probe(ctx context.Context, server netip.AddrPort) (netip.AddrPort, error) {
	fail := func(err error) (netip.AddrPort, error) {
		return netip.AddrPort{}, fmt.Errorf("STUN Binding at %v: %w", server, err)
	}
	c, err := new(net.Dialer).DialContext(ctx, "udp", server.String()) // connected: only the server answers, ICMP ends it
	if err != nil {
		return fail(err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	var id [12]byte
	rand.Read(id[:])
	buf := make([]byte, 1500)
	for ctx.Err() == nil {
		if _, err := c.Write(stun.Binding(id)); err != nil {
			return fail(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(probeRetry)); err != nil {
			return fail(err)
		}
		for {
			n, err := c.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return fail(err)
			}
			if a, ok := stun.Reflexive(buf[:n], id); ok {
				return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
			}
		}
	}
	return fail(ctx.Err())
}
