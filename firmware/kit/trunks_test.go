package kit

import (
	"testing"
	"time"

	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
	"fieldkit/sip/agent"
	"fieldkit/sip/media"
)

func nodeID(t *testing.T, last string) wire.NodeID {
	t.Helper()
	id, err := wire.ParseNodeID("000000000000000000000000000000" + last)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestTrunkIsDoubtedWhenItsKitWasLost(t *testing.T) {
	self, peer, other := nodeID(t, "01"), nodeID(t, "02"), nodeID(t, "03")
	opened := time.Now()
	at := func(s int) time.Time { return opened.Add(time.Duration(s) * time.Second) }
	link := func(to wire.NodeID, attached bool, since int) node.LinkInfo {
		return node.LinkInfo{Peer: to, Attached: attached, Since: at(since)}
	}
	for _, c := range []struct {
		name  string
		after int // seconds since it was opened
		ring  []wire.NodeID
		links []node.LinkInfo
		want  bool
	}{
		{"linked all the time", 60, []wire.NodeID{self, peer}, []node.LinkInfo{link(peer, true, -5)}, false},
		{"left the ring", 60, []wire.NodeID{self, other}, nil, true},
		{"left the ring, another is linked anew", 60, []wire.NodeID{self, other}, []node.LinkInfo{link(other, true, 3)}, true},
		{"linked anew", 60, []wire.NodeID{self, peer}, []node.LinkInfo{link(peer, true, 10)}, true},
		{"linked a second time", 60, []wire.NodeID{self, peer}, []node.LinkInfo{link(peer, true, -5), link(peer, true, 10)}, false},
		{"another is linked anew", 60, []wire.NodeID{self, peer, other}, []node.LinkInfo{link(peer, true, -5), link(other, true, 10)}, false},
		{"bootstrap links do not count", 60, []wire.NodeID{self, peer}, []node.LinkInfo{link(peer, true, 10), link(peer, false, -5)}, true},
		{"a member through others", 60, []wire.NodeID{self, peer}, []node.LinkInfo{link(peer, false, 10)}, false},
		{"opened before the ring was known here", 1, []wire.NodeID{self}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := doubtful(at(c.after), trunk{peer, opened}, node.Snapshot{Ring: c.ring, Links: c.links}); got != c.want {
				t.Errorf("doubtful = %v, want %v", got, c.want)
			}
		})
	}
}

func TestDoubtedTrunkIsClosedUnlessACallGoesOnThere(t *testing.T) {
	const kit, other = "02", "03"
	call := func(kit, state string, packets uint64) agent.Call {
		return agent.Call{Kit: kit, State: state, Media: media.CallStats{Legs: []media.LegStats{
			{Name: "a handset", Connected: true, Received: media.StreamStats{Packets: 7777}},
			{Name: "the kit", Trunk: true, Connected: true, Received: media.StreamStats{Packets: packets}},
		}}}
	}
	type look struct {
		at    time.Duration
		calls []agent.Call
		dead  bool
	}
	for _, c := range []struct {
		name  string
		looks []look
	}{
		{"no call at all", []look{{0, nil, true}}},
		{"calls elsewhere", []look{{0, []agent.Call{call(other, "answered", 10), call("", "answered", 0), call("", "trying", 0)}, true}}},
		{"a call that hears the far end", []look{
			{0, []agent.Call{call(kit, "answered", 10)}, false},
			{5 * time.Second, []agent.Call{call(kit, "answered", 20)}, false},
			{10 * time.Second, []agent.Call{call(kit, "answered", 30)}, false},
			{15 * time.Second, []agent.Call{call(kit, "answered", 40)}, false},
		}},
		{"a call that hears nothing more", []look{
			{0, []agent.Call{call(kit, "answered", 10)}, false},
			{5 * time.Second, []agent.Call{call(kit, "answered", 20)}, false},
			{10 * time.Second, []agent.Call{call(kit, "answered", 20)}, false},
			{11 * time.Second, []agent.Call{call(kit, "answered", 20)}, true},
		}},
		{"ended meanwhile", []look{{0, []agent.Call{call(kit, "answered", 10)}, false}, {time.Second, nil, true}}},
		{"rings, perhaps there", []look{
			{0, []agent.Call{call("", "ringing", 0)}, false},
			{5 * time.Second, []agent.Call{call("", "ringing", 0)}, false},
			{6 * time.Second, []agent.Call{call("", "ringing", 0)}, true},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d doubt
			now := time.Now()
			for _, l := range c.looks {
				inUse, heard := usage(l.calls, kit)
				if got := d.dead(now.Add(l.at), inUse, heard); got != l.dead {
					t.Errorf("after %v: dead = %v, want %v", l.at, got, l.dead)
				}
			}
		})
	}
}
