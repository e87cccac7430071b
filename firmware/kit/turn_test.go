package kit

import (
	"net/netip"
	"testing"

	"fieldkit/board/netif"
	"fieldkit/overlay/discovery"
	"fieldkit/overlay/link"
)

// Through this kit others reach kits, and nothing else.
func TestWhereARelayMaySend(t *testing.T) {
	k := still(t)
	k.interfaces.Store(&[]netif.Interface{device("eth0", "192.168.61.1/24"), device("eth1", "192.168.62.1/24"), device("wlan0", "10.73.0.1/16")})
	k.discovered(announcedBy(k, nodeID(t, "02"), "eth0", "192.168.61.2:6084", 102))
	k.discovered(announcedBy(k, nodeID(t, "03"), "eth0", "192.168.62.9:6084", 103)) // an address of the other link
	k.discovered(announcedBy(k, nodeID(t, "04"), "eth0", "203.0.113.1:6084", 104))
	k.discovered(announcedBy(k, nodeID(t, "05"), "eth1", "10.73.0.5:6084", 105))
	stranger := announcedBy(k, nodeID(t, "06"), "eth0", "192.168.61.6:6084", 106)
	stranger.Peer.Overlay = "another"
	k.discovered(stranger)
	linked := []link.Neighbour{{Node: nodeID(t, "07"), Addr: netip.MustParseAddr("192.168.62.7")}, {Node: nodeID(t, "08"), Addr: netip.MustParseAddr("10.73.0.8")}}
	for _, c := range []struct {
		name, addr string
		may        bool
	}{
		{"a kit that is announced", "192.168.61.2", true},
		{"a kit that is linked", "192.168.62.7", true},
		{"announced on another link than it is on", "192.168.62.9", false},
		{"announced at an address of no link", "203.0.113.1", false},
		{"announced in the handsets' network", "10.73.0.5", false},
		{"linked in the handsets' network", "10.73.0.8", false},
		{"a kit of another mission", "192.168.61.6", false},
		{"somebody on the link", "192.168.61.77", false},
		{"a handset", "10.73.1.1", false},
		{"loopback", "127.0.0.1", false},
	} {
		if got := k.isKit(linked, netip.MustParseAddr(c.addr)); got != c.may {
			t.Errorf("%s, %s: %v", c.name, c.addr, got)
		}
	}
	gone := announcedBy(k, nodeID(t, "02"), "eth0", "192.168.61.2:6084", 102)
	gone.Kind = discovery.Down
	k.discovered(gone)
	if k.isKit(linked, netip.MustParseAddr("192.168.61.2")) {
		t.Error("a kit that is gone may be sent to")
	}
}

func TestWhatIsOnALink(t *testing.T) {
	k := still(t)
	k.interfaces.Store(&[]netif.Interface{device("eth0", "192.168.61.1/24"), device("wlan0", "10.73.0.1/16")})
	for addr, want := range map[string]bool{"192.168.61.9": true, "192.168.62.9": false, "10.73.0.9": false} {
		if got := k.onLink(netip.MustParseAddr(addr), ""); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	if _, err := k.linkFor(t.Context(), nil, netip.MustParseAddr("192.168.62.9")); err == nil {
		t.Error("a kit on no link is dialled")
	}
}
