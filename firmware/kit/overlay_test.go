package kit

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/board"
	"fieldkit/board/links"
	"fieldkit/board/netif"
	"fieldkit/overlay/discovery"
	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
	"fieldkit/sip/agent"
	"fieldkit/sip/media"
	"fieldkit/ui"
)

// device is an interface that works, with these addresses.
func device(name string, prefixes ...string) netif.Interface {
	i := netif.Interface{Name: name, Up: true, Carrier: true, Multicast: true}
	for _, p := range prefixes {
		i.Addrs = append(i.Addrs, netip.MustParsePrefix(p))
	}
	return i
}

// manage makes a kit one that has the machine to itself.
func manage(k *Kit) {
	k.cfg.Access.Enabled, k.cfg.Link.Managed = true, true
	k.linking.links = links.New(links.Config{})
}

func TestWhichAddressesTheOverlayUses(t *testing.T) {
	cable := device("eth0", "169.254.60.1/16", "fe80::1/64")
	second := device("usb0", "192.168.7.2/24")
	radio := device("wlan0", "10.73.0.1/16")
	moved := device("wlan0", "192.168.9.1/24") // the handsets' network, where a kit was configured for another
	loopback := device("lo", "127.0.0.1/8")
	loopback.Loopback = true
	noCarrier := device("eth1", "192.0.2.1/24")
	noCarrier.Carrier = false
	all := []netif.Interface{loopback, cable, second, radio, noCarrier}
	for _, c := range []struct {
		name      string
		configure func(*Kit)
		have      []netif.Interface
		addresses string
		links     string // interfaces on which the kit is announced
	}{
		{"every cable, link-local IPv6 with its zone", func(*Kit) {}, all, "169.254.60.1 fe80::1%eth0 192.168.7.2", "eth0 usb0"},
		{"no cable", func(*Kit) {}, []netif.Interface{loopback, radio, noCarrier}, "", ""},
		{"never the handsets' interface", func(k *Kit) { k.cfg.Handset.Interface = "usb0" }, all, "169.254.60.1 fe80::1%eth0", "eth0"},
		{"never the handsets' network, wherever it is", func(k *Kit) {
			k.cfg.Handset.Address, k.cfg.Handset.Network = netip.MustParseAddr("192.168.9.1"), netip.MustParsePrefix("192.168.9.0/24")
		}, []netif.Interface{cable, moved}, "169.254.60.1 fe80::1%eth0", "eth0"},
		{"not even with another address", func(*Kit) {}, []netif.Interface{cable, device("br0", "192.0.2.7/24", "10.73.9.9/24")}, "169.254.60.1 fe80::1%eth0", "eth0"},
		{"only allowed interfaces", func(k *Kit) { k.cfg.Link.Interfaces = []string{"usb0"} }, all, "192.168.7.2", "usb0"},
		{"only configured addresses", func(k *Kit) { k.cfg.Link.Addresses = []netip.Addr{netip.MustParseAddr("192.168.7.2")} }, all, "192.168.7.2", "usb0"},
		{"of a managed kit's handset interface IPv6 alone", manage, []netif.Interface{cable, device("handset0", "10.73.0.1/16", "fe80::2/64", "fd01::2/64")}, "169.254.60.1 fe80::1%eth0 fe80::2%handset0 fd01::2", "eth0 handset0"},
		{"of a handset interface without IPv6 nothing", manage, []netif.Interface{cable, device("handset0", "10.73.0.1/16", "192.0.2.9/24")}, "169.254.60.1 fe80::1%eth0", "eth0"},
		{"handset interface that the system manages", func(k *Kit) { k.cfg.Access.Enabled = true }, []netif.Interface{device("handset0", "10.73.0.1/16", "fe80::2/64", "fd01::2/64")}, "", ""},
		{"handsets' network on a managed kit's cable", manage, []netif.Interface{device("eth0", "10.73.4.4/16", "fe80::1/64")}, "", ""},
		{"configured loopback is announced nowhere", func(k *Kit) { k.cfg.Link.Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1")} }, all, "127.0.0.1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := still(t)
			c.configure(k)
			k.interfaces.Store(&c.have)
			var addresses, ways []string
			for _, a := range k.linkAddresses() {
				addresses = append(addresses, a.String())
			}
			for _, i := range c.have {
				if k.isLinkName(i.Name) {
					ways = append(ways, i.Name)
				}
			}
			if got := strings.Join(addresses, " "); got != c.addresses {
				t.Errorf("addresses %s, want %s", got, c.addresses)
			}
			if got := strings.Join(ways, " "); got != c.links {
				t.Errorf("links %s, want %s", got, c.links)
			}
		})
	}
	if still(t).isLinkName("gone") {
		t.Error("an interface that is not there is a link")
	}
}

func announcedBy(k *Kit, id wire.NodeID, iface, addr string, number uint16) discovery.Event {
	text := k.announcement()
	text.Number, text.Name = number, fmt.Sprintf("Kit %d", number)
	return discovery.Event{Peer: discovery.Peer{NodeID: id.String(), Interface: iface, Addrs: []netip.AddrPort{netip.MustParseAddrPort(addr)}, Text: text}}
}

func TestKitsThatAreSeen(t *testing.T) {
	k := still(t)
	friend, foreign := nodeID(t, "02"), nodeID(t, "03")
	up := func(e discovery.Event, kind discovery.Kind) {
		e.Kind = kind
		k.discovered(e)
	}
	cable, usb := announcedBy(k, friend, "eth0", "169.254.60.2:6084", 102), announcedBy(k, friend, "usb0", "192.168.7.2:6084", 102)
	other := announcedBy(k, foreign, "eth0", "169.254.60.3:6084", 103)
	other.Peer.Overlay = "ffffffff"
	up(cable, discovery.Up)
	up(usb, discovery.Up)
	up(other, discovery.Up)
	seen := k.announced(time.Now())
	n := seen[friend.String()]
	if len(seen) != 2 || n == nil || n.State != stateSeen || n.Number != 102 || len(n.Interfaces) != 2 || len(n.Addresses) != 2 {
		t.Fatalf("saw %+v", seen)
	}
	if n := seen[foreign.String()]; n.State != stateStranger || !strings.Contains(n.Reason, "another mission") {
		t.Errorf("a kit of another mission is %+v", n)
	}
	up(usb, discovery.Down)
	if n := k.announced(time.Now())[friend.String()]; n == nil || !slices.Equal(n.Interfaces, []string{"eth0"}) {
		t.Errorf("seen on one interface less, it is %+v", n)
	}
	up(cable, discovery.Down)
	if n := k.announced(time.Now())[friend.String()]; n != nil {
		t.Errorf("gone, it is %+v", n)
	}
}

// Whoever floods the link with announcements fills no memory.
func TestKitsThatAreSeenAreBounded(t *testing.T) {
	k := still(t)
	for i := range maxSeen + 100 {
		id, err := wire.ParseNodeID(fmt.Sprintf("%032x", i+1))
		if err != nil {
			t.Fatal(err)
		}
		k.discovered(announcedBy(k, id, "eth0", "169.254.60.2:6084", 102))
	}
	if n := len(k.announced(time.Now())); n != maxSeen {
		t.Errorf("%d kits are remembered, want %d", n, maxSeen)
	}
}

func TestOverlayInTheStatus(t *testing.T) {
	k := still(t)
	self, linked, refused := nodeID(t, "01"), nodeID(t, "02"), nodeID(t, "03")
	now := time.Now()
	k.discovered(announcedBy(k, linked, "eth0", "169.254.60.2:6084", 102))
	k.discovered(announcedBy(k, refused, "eth0", "169.254.60.3:6084", 103))
	var s ui.Status
	all := k.announced(now)
	k.addOverlay(&s, all, node.Snapshot{
		Ring: []wire.NodeID{self, linked},
		Links: []node.LinkInfo{
			{Peer: linked, Member: true, Since: now.Add(-9 * time.Second), ConnStats: node.ConnStats{BytesSent: 30, BytesReceived: 4, RTT: 3 * time.Millisecond}},
			{Peer: nodeID(t, "04"), Since: now, ConnStats: node.ConnStats{BytesSent: 200}}, // a link, but no member yet
		},
		Strangers: []node.Stranger{
			{From: refused.String(), Why: "unknown root", Count: 3, First: now.Add(-5 * time.Second)},
			{From: "169.254.60.2:40000", Why: "somebody at a friend's address", Count: 1, First: now},
			{From: "169.254.60.9:40000", Why: "not announced", Count: 1, First: now},
		},
		Counters: map[string]uint64{"links_made": 2},
	}, now)
	if n := all[linked.String()]; n.State != stateLinked || n.RTTMS != 3 || n.SinceS != 9 || n.Reason != "" || n.Number != 102 {
		t.Errorf("the linked kit is %+v", n)
	}
	if n := all[refused.String()]; n.State != stateStranger || n.Reason != "refused 3 times: unknown root" || n.SinceS != 5 {
		t.Errorf("the refused kit is %+v", n)
	}
	if n := all["169.254.60.9:40000"]; n == nil || n.State != stateStranger || !slices.Equal(n.Addresses, []string{"169.254.60.9:40000"}) {
		t.Errorf("the stranger that nobody announced is %+v", n)
	}
	if len(all) != 3 {
		t.Errorf("%d kits are listed, want 3", len(all))
	}
	if !slices.Equal(s.Ring, []string{self.String(), linked.String()}) || s.Kit.LinkBytes != 234 {
		t.Errorf("ring %v, %d bytes", s.Ring, s.Kit.LinkBytes)
	}
	if !slices.Contains(s.Counters, ui.Counter{Name: "overlay links made", Value: 2}) {
		t.Errorf("counters %v", s.Counters)
	}
}

func TestStrangerIsFoundByNameOrAddress(t *testing.T) {
	all := map[string]*ui.Neighbour{
		"02": {NodeID: "02", Addresses: []string{"169.254.60.2:6084", "[fe80::2%eth0]:6084"}},
		"03": {NodeID: "03", Addresses: []string{"169.254.60.3:6084"}},
	}
	for from, want := range map[string]string{
		"02": "02", "169.254.60.3:51234": "03", "[fe80::2%eth0]:51234": "02", "169.254.60.20:6084": "", "[fe80::2%usb0]:6084": "", "04": "",
	} {
		listed := map[string]*ui.Neighbour{"02": all["02"], "03": all["03"]}
		n := strangerAt(listed, from)
		if n.NodeID != want {
			t.Errorf("%s is %q, want %q", from, n.NodeID, want)
		}
		if known := len(listed) == 2; known != (want != "") {
			t.Errorf("%s: %d are listed", from, len(listed))
		}
	}
}

func TestOverlayInTheHealthTree(t *testing.T) {
	k := still(t)
	k.judgeOverlay(node.Snapshot{})
	for _, name := range []string{"strangers", "kits"} {
		if got := check(k, name); got != "ok" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := check(k, "numbers"); got != "" {
		t.Errorf("numbers: %q", got)
	}
	twin := announcedBy(k, nodeID(t, "02"), "eth0", "169.254.60.2:6084", uint16(k.number))
	k.discovered(twin)
	k.lights.lost = time.Now()
	now := time.Now()
	k.judgeOverlay(node.Snapshot{Strangers: []node.Stranger{
		{From: "169.254.60.7:1", Why: "long ago", Last: now.Add(-strangerWindow)}, {From: "169.254.60.8:1", Why: "first", Last: now}, {From: "169.254.60.9:1", Why: "unknown root", Last: now},
	}})
	for name, want := range map[string]string{
		"strangers": "warn: 2 refused, last 169.254.60.9:1: unknown root", "kits": "warn: a kit was lost", "numbers": "warn: kit 00000000 has the number 101 too",
	} {
		if got := check(k, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	// All that passes.
	twin.Kind = discovery.Down
	k.discovered(twin)
	k.lights.lost = time.Now().Add(-board.LostWindow)
	k.judgeOverlay(node.Snapshot{Strangers: []node.Stranger{{From: "169.254.60.9:1", Why: "unknown root", Last: now.Add(-strangerWindow)}}})
	for name, want := range map[string]string{"strangers": "ok", "kits": "ok", "numbers": ""} {
		if got := check(k, name); got != want {
			t.Errorf("afterwards %s: %q, want %q", name, got, want)
		}
	}
	// Missions number their kits without asking each other.
	foreign := announcedBy(k, nodeID(t, "03"), "eth0", "169.254.60.3:6084", uint16(k.number))
	foreign.Peer.Overlay = "ffffffff"
	k.discovered(foreign)
	k.judgeOverlay(node.Snapshot{})
	if got := check(k, "numbers"); got != "" {
		t.Errorf("another mission's kit of the same number: %q", got)
	}
}

// "since when" is since it is so, not since it was looked at last.
func TestWhatStaysWrongKeepsItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := still(t)
		k.discovered(announcedBy(k, nodeID(t, "03"), "eth0", "169.254.60.3:6084", uint16(k.number)))
		k.discovered(announcedBy(k, nodeID(t, "02"), "usb0", "192.168.7.2:6084", uint16(k.number)))
		for range 10 {
			k.judgeOverlay(node.Snapshot{Strangers: []node.Stranger{{From: "169.254.60.9:1", Why: "unknown root", Last: time.Now()}}})
			time.Sleep(time.Second)
		}
		for _, c := range checks(k.health.Snapshot()) {
			if c.State != "ok" && c.SinceS != 10 {
				t.Errorf("%s is wrong for %v s, want 10", c.Name, c.SinceS)
			}
		}
		if got, want := k.twin(), nodeID(t, "02").String(); got != want {
			t.Errorf("of two kits with this number it named %s, want %s", got, want)
		}
	})
}

func TestCallInTheStatus(t *testing.T) {
	now := time.Now()
	leg := func(name string, connected bool, received uint64) media.LegStats {
		return media.LegStats{Name: name, Connected: connected, Received: media.StreamStats{Packets: received, Bytes: received * 172, Lost: received / 10, Jitter: 0.5}}
	}
	c := agent.Call{
		From: "10101", To: "10201", State: "answered", Since: now.Add(-3 * time.Second), Setup: 52500 * time.Microsecond,
		// The second branch rang and lost.
		Media: media.CallStats{ID: "1", Legs: []media.LegStats{leg("caller", true, 100), leg("branch 0", true, 90), leg("branch 1", false, 5)}},
	}
	got := call(c, now)
	if got.ID != "1" || got.From != "10101" || got.To != "10201" || got.State != "answered" || got.SinceS != 3 || got.SetupMS != 52.5 {
		t.Errorf("%+v", got)
	}
	want := []ui.Stream{
		{From: "10101", To: "10201", Packets: 100, Bytes: 17200, Lost: 10, JitterMS: 0.5},
		{From: "10201", To: "10101", Packets: 90, Bytes: 15480, Lost: 9, JitterMS: 0.5},
	}
	if !slices.Equal(got.Media, want) {
		t.Errorf("got  %+v\nwant %+v", got.Media, want)
	}
	if ringing := call(agent.Call{State: "ringing"}, now); ringing.Media == nil || len(ringing.Media) != 0 {
		t.Errorf("a call without media has %#v", ringing.Media)
	}
}

// After the ring changed, who is not found yet is looked for longer; the start of the kit is no such change.
func TestRingChangedWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o overlay
		if o.ringChangedWithin(time.Hour) {
			t.Error("a ring that never changed")
		}
		o.ringAt = time.Now()
		time.Sleep(unsettled - 1)
		if !o.ringChangedWithin(unsettled) {
			t.Error("forgotten too soon")
		}
		time.Sleep(time.Nanosecond)
		if o.ringChangedWithin(unsettled) {
			t.Error("remembered too long")
		}
	})
}
