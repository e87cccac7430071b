package turnusage

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"fieldkit/overlay/stun"
)

// A Binding request over a real socket: the first is lost, junk comes before the answer.
func TestProbe(t *testing.T) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan netip.AddrPort, 8)
	go func() {
		defer close(asked)
		b := make([]byte, 1500)
		for i := 0; ; i++ {
			n, from, err := server.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			asked <- from
			if i == 0 || stun.Malformed(b[:n]) || stun.Type(b[:n]) != stun.BindingRequest {
				continue
			}
			ip, port := from.Addr().As4(), from.Port()^0x2112
			answer := append([]byte{1, 1, 0, 12}, b[4:20]...)
			answer = append(answer, 0, 0x20, 0, 8, 0, 1, byte(port>>8), byte(port), ip[0]^0x21, ip[1]^0x12, ip[2]^0xa4, ip[3]^0x42)
			for _, p := range [][]byte{{0}, b[:n], answer} {
				if _, err := server.WriteToUDPAddrPort(p, from); err != nil {
					return
				}
			}
		}
	}()
	to := server.LocalAddr().(*net.UDPAddr).AddrPort()
	got, err := Probe(t.Context(), to)
	if from := <-asked; err != nil || got != from {
		t.Errorf("seen at %v (%v), asked from %v", got, err, from)
	}
	_ = server.Close()
	for range asked {
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := Probe(ctx, to); err == nil || time.Since(began) > 2*time.Second {
		t.Errorf("without a server: %v after %v", err, time.Since(began))
	}
}
