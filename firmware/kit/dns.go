package kit

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"fieldkit/board/portal"
)

// serveNames answers handsets' queries for names.
func (k *Kit) serveNames(ctx context.Context, ready func()) error {
	at := netip.AddrPortFrom(k.cfg.Handset.Address, dnsPort).String()
	udp, err := new(net.ListenConfig).ListenPacket(ctx, "udp", at)
	if err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	tcp, err := new(net.ListenConfig).Listen(ctx, "tcp", at)
	if err != nil {
		_ = udp.Close()
		return fmt.Errorf("name server: %w", err)
	}
	ready()
	return both(ctx,
		func(ctx context.Context) error { return k.network.dns.Serve(ctx, udp, tcp) },
		func(ctx context.Context) error {
			tick := time.NewTicker(handsetPoll)
			defer tick.Stop()
			overlay := ""
			for {
				if now := k.mission.Load().Overlay; now != overlay {
					overlay = now
					k.network.dns.Replace(k.zone())
				}
				select {
				case <-ctx.Done():
					return nil
				case <-k.network.renamed:
					k.network.dns.Replace(k.zone())
				case <-tick.C:
				}
			}
		})
}

// serveTime tells handsets the time, or that the kit does not know it.
func (k *Kit) serveTime(ctx context.Context, ready func()) error {
	c, err := new(net.ListenConfig).ListenPacket(ctx, "udp", netip.AddrPortFrom(k.cfg.Handset.Address, ntpPort).String())
	if err != nil {
		return fmt.Errorf("time server: %w", err)
	}
	ready()
	return k.network.time.Serve(ctx, c)
}

// inFront puts the connectivity checks before the page, where the kit is the handsets' whole Internet.
func (k *Kit) inFront(page http.Handler) http.Handler {
	if k.network.dns == nil {
		return page
	}
	return portal.New("http://kit."+homeDomain+"/", k.isOwnName, page)
}
