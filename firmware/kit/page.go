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
	s, err := ui.New(k.Status, k.log)
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
			errs[i] = s.Serve(ctx, l)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// listenPage waits a while for the handset side: its address comes when its interface does. A listener
// without an address of its own takes the handset address, so that the page is not served to the kits' side.
func (k *Kit) listenPage(ctx context.Context) (net.Listener, error) {
	host, port, err := net.SplitHostPort(k.cfg.Status.Listen)
	if err != nil {
		return nil, fmt.Errorf("status page: %w", err)
	}
	if a, err := netip.ParseAddr(host); err != nil || a.IsUnspecified() {
		host = k.cfg.Handset.Address.String()
	}
	for try := 0; ; try++ {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, port))
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
