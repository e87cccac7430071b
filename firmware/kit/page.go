package kit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"fieldkit/ui"
)

// servePage serves the status page to the handsets and, where asked for, on a Unix socket.
func (k *Kit) servePage(ctx context.Context, ready func()) error {
	cfg := ui.Config{Status: k.Status, Trace: k.trace, Update: k.update.updater.Handler("/update"), Log: k.log}
	if k.clock.device != nil {
		cfg.SetClock = k.phoneClock
	}
	s, err := ui.New(cfg)
	if err != nil {
		return err
	}
	var listeners []net.Listener
	closeAll := func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}
	if k.socket != "" {
		// What an earlier process left behind is no listener any more.
		if err := os.Remove(k.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("status socket: %w", err)
		}
		l, err := new(net.ListenConfig).Listen(ctx, "unix", k.socket)
		if err != nil {
			return fmt.Errorf("status socket: %w", err)
		}
		listeners = append(listeners, l)
	}
	if k.cfg.Status.Listen != "" {
		l, err := k.listenPage(ctx)
		if err != nil {
			// The socket serves on without the handsets' side, and says what is wrong with it.
			if k.socket == "" {
				closeAll()
				return err
			}
			k.health.Warn("page", err.Error())
		} else {
			k.health.OK("page")
			listeners = append(listeners, l)
		}
	}
	ready()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(listeners))
	var all sync.WaitGroup
	for i, l := range listeners {
		all.Go(func() {
			defer cancel()
			if l.Addr().Network() == "unix" {
				errs[i] = s.Serve(ctx, l) // an operator's, by whatever name
				return
			}
			errs[i] = s.ServeBehind(ctx, l, k.inFront(s))
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// listenPage waits a while for the handset side: its address comes when its interface does. A listener
// without an address of its own takes the handset address, and serves the handsets alone.
func (k *Kit) listenPage(ctx context.Context) (net.Listener, error) {
	host, port, err := net.SplitHostPort(k.cfg.Status.Listen)
	if err != nil {
		return nil, fmt.Errorf("status page: %w", err)
	}
	at, err := netip.ParseAddr(host)
	if err != nil || at.IsUnspecified() {
		at = k.cfg.Handset.Address
	}
	for try := 0; ; try++ {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(at.String(), port))
		if err == nil && at.Unmap() == k.cfg.Handset.Address.Unmap() {
			return handsetsOnly{l, k.cfg.Handset.Network}, nil
		}
		if err == nil || try == 10 {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// handsetsOnly takes connections of handsets and of the kit itself. The address that it listens at is not enough: the
// system takes a packet for any of its addresses on any interface, so a machine on a cable reaches the handset address
// by a route through the kit's own address there. Its answers would find no way back from a forged one.
type handsetsOnly struct {
	net.Listener
	network netip.Prefix
}

// Accept returns the next connection that is to be served.
func (l handsetsOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if addr := from.Addr().Unmap(); err == nil && (l.network.Contains(addr) || addr.IsLoopback()) {
			return c, nil
		}
		_ = c.Close()
	}
}
