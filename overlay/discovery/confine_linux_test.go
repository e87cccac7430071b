package discovery

import (
	"net"
	"testing"

	"github.com/grandcat/zeroconf"
)

// The library's sockets are reached by reflection: this fails when a new
// version of it keeps them elsewhere.
func TestConfineReachesTheSockets(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	r, err := zeroconf.NewResolver(zeroconf.SelectIfaces([]net.Interface{*lo}), zeroconf.SelectIPTraffic(zeroconf.IPv4))
	if err != nil {
		t.Fatal(err)
	}
	if n := confine(r, lo.Index); n != 1 {
		t.Errorf("%d sockets of a resolver confined, want 1", n)
	}
	both, err := zeroconf.NewResolver(zeroconf.SelectIfaces([]net.Interface{*lo}))
	if err != nil {
		t.Fatal(err)
	}
	if n := confine(both, lo.Index); n != 2 {
		t.Errorf("%d sockets of a resolver confined, want 2", n)
	}
	if n := confine("something else", 1); n != 0 {
		t.Errorf("%d sockets of a string confined", n)
	}
}
