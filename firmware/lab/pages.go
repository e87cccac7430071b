//go:build linux

package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
)

// firstPage is the port on this machine's loopback address that leads to the first kit's page.
const firstPage = 8081

// servePages makes the kits' status pages reachable from this machine's own browser: a kit's
// address exists only inside its namespace, its status socket is a file. Returns the addresses, "" where
// the port was taken.
func servePages(ctx context.Context, dir string, kits int) []string {
	var urls []string
	for i := range kits {
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", firstPage+i))
		if err != nil {
			urls = append(urls, "")
			continue
		}
		urls = append(urls, "http://"+ln.Addr().String()+"/")
		context.AfterFunc(ctx, func() { _ = ln.Close() })
		go forward(ctx, ln, filepath.Join(kitDir(dir, i), "status.sock"))
	}
	return urls
}

func forward(ctx context.Context, ln net.Listener, socket string) {
	slots := make(chan struct{}, 64)
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		go func() {
			defer func() { <-slots }()
			defer c.Close()
			kit, err := new(net.Dialer).DialContext(ctx, "unix", socket)
			if err != nil {
				return
			}
			defer kit.Close()
			stop := context.AfterFunc(ctx, func() { _ = c.Close(); _ = kit.Close() })
			defer stop()
			var both sync.WaitGroup
			both.Go(func() { _, _ = io.Copy(kit, c); _ = kit.(*net.UnixConn).CloseWrite() })
			both.Go(func() { _, _ = io.Copy(c, kit); _ = c.(*net.TCPConn).CloseWrite() })
			both.Wait()
		}()
	}
}
