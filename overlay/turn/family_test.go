package turn

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"fieldkit/overlay/stun"
	"fieldkit/overlay/wire"
)

// RFC 8656 §9.1: "If the XOR-PEER-ADDRESS attribute contains an address of an address family that is not the same as
// that of a relayed transport address for the allocation, the server MUST generate an error response".
func TestFamiliesAreKeptApart(t *testing.T) {
	four, six := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")
	own := []netip.Addr{four, six, netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd01::2"), netip.MustParseAddr("fe80::2"), netip.MustParseAddr("fe80::3%eth0")}
	s, err := New(Config{
		Addresses: func() []netip.Addr { return own }, Realm: realm,
		Credential: func(string) (wire.NodeID, string, bool) { return wire.NodeID{}, "", false },
		MayReach:   func(netip.Addr) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	served := s.addresses()
	if want := []netip.Addr{four, six, own[2], own[3]}; !slices.Equal(served, want) {
		t.Fatalf("serves %v, want %v", served, want)
	}
	s.own.Store(&served)
	for _, at := range []netip.Addr{four, six} {
		if other := s.pick(at); other.Is4() != at.Is4() || other == at {
			t.Errorf("asked at %v, relays from %v", at, other)
		}
		f := &front{s: s, at: at}
		client := netip.AddrPortFrom(at, 5000)
		s.relays[netip.AddrPortFrom(at, 6000)] = &relay{s: s, front: f, client: client, allowed: map[netip.Addr]bool{}}
		f.request.client = client
		for _, peer := range []netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9"), netip.MustParseAddr("fe80::9")} {
			same := peer.Is4() == at.Is4()
			if got := f.permit(nil, net.IP(peer.AsSlice())); got != (same && !peer.IsLinkLocalUnicast()) {
				t.Errorf("at %v a permission for %v: %v", at, peer, got)
			}
			if got := f.accept(stun.Binding([12]byte{1}), netip.AddrPortFrom(peer, 4000)); got != same {
				t.Errorf("at %v a request from %v: %v", at, peer, got)
			}
		}
	}
}
