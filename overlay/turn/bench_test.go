package turn

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun"

	"fieldkit/overlay/wire"
)

// BenchmarkRelay carries voice packets from a client to a peer, one after the other, over sockets of this host.
func BenchmarkRelay(b *testing.B) {
	var own netip.Addr
	list, err := net.InterfaceAddrs()
	if err != nil {
		b.Fatal(err)
	}
	for _, x := range list {
		if p, err := netip.ParsePrefix(x.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			own = p.Addr()
		}
	}
	if !own.IsValid() {
		b.Skip("no address but loopback")
	}
	var now atomic.Int64 // a millisecond on with every look at it, so that bandwidth is no limit
	s, err := New(Config{
		Addresses: func() []netip.Addr { return []netip.Addr{own} }, Realm: realm, Port: 34780,
		Credential: func(string) (wire.NodeID, string, bool) { return node(1), "secret", true },
		MayReach:   func(netip.Addr) bool { return true },
		Now:        func() time.Time { return time.Unix(0, now.Add(int64(time.Millisecond))) },
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}()
	for len(s.Addrs()) == 0 {
		<-time.After(time.Millisecond)
	}
	socket := func() *net.UDPConn {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(own, 0)))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() })
		return c
	}
	client, other := socket(), socket()
	// The peer is another relay's client as far as this kit's own addresses go: it is entered as one.
	at := addrPortOf(other.LocalAddr())
	s.mu.Lock()
	s.relays[at] = &relay{s: s, at: at}
	s.relays[at].used.Store(int64(100 * 365 * 24 * time.Hour))
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.relays, at)
		s.mu.Unlock()
	}()
	server := net.UDPAddrFromAddrPort(netip.AddrPortFrom(own, 34780))
	buf := make([]byte, 2000)
	var nonce stun.Nonce
	ask := func(method stun.Method, attrs ...stun.Setter) {
		for range 2 {
			all := append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attrs...)
			if nonce != nil {
				all = append(all, stun.NewUsername("u"), stun.NewRealm(realm), nonce, stun.NewLongTermIntegrity("u", realm, "secret"))
			}
			m, err := stun.Build(all...)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := client.WriteTo(m.Raw, server); err != nil {
				b.Fatal(err)
			}
			if err := client.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				b.Fatal(err)
			}
			n, err := client.Read(buf)
			if err != nil {
				b.Fatal(err)
			}
			answer := &stun.Message{Raw: append([]byte(nil), buf[:n]...)}
			if err := answer.Decode(); err != nil {
				b.Fatal(err)
			}
			if answer.Type.Class == stun.ClassSuccessResponse {
				return
			}
			if nonce != nil || nonce.GetFrom(answer) != nil {
				b.Fatalf("%v refused: %v", method, answer)
			}
		}
	}
	ask(stun.MethodAllocate, udp)
	port, ip := at.Port()^0x2112, at.Addr().As4()
	ask(stun.MethodChannelBind, attribute{stun.AttrChannelNumber, []byte{0x40, 0, 0, 0}},
		attribute{stun.AttrXORPeerAddress, []byte{0, 1, byte(port >> 8), byte(port), ip[0] ^ 0x21, ip[1] ^ 0x12, ip[2] ^ 0xa4, ip[3] ^ 0x42}})
	packet := append([]byte{0x40, 0, 0, 200, 128}, make([]byte, 199)...)
	if err := other.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(200)
	for b.Loop() {
		if _, err := client.WriteTo(packet, server); err != nil {
			b.Fatal(err)
		}
		if n, err := other.Read(buf); err != nil || n != 200 {
			b.Fatal(n, err)
		}
	}
}
