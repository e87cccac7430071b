package discovery

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func peer(id, ifc string) Peer {
	return Peer{
		NodeID: id, Interface: ifc, Text: Text{Overlay: "aa"},
		Addrs: []netip.AddrPort{netip.MustParseAddrPort("10.9.0.2:6084")},
	}
}

func format(events []Event) string {
	var out []string
	for _, e := range events {
		out = append(out, fmt.Sprint(e.Kind, " ", e.Peer.NodeID, "/", e.Peer.Interface))
	}
	return strings.Join(out, ", ")
}

func TestTableTellsUpUpdateDown(t *testing.T) {
	tb := table{misses: 2, limit: 10}
	see := func(want string, p Peer) {
		t.Helper()
		e, ok := tb.observe(p, "aa")
		if !ok || format(e) != want {
			t.Errorf("got %q %v, want %q", format(e), ok, want)
		}
	}
	end := func(ifc, want string, wantMissing bool) {
		t.Helper()
		e, missing := tb.endCycle(ifc)
		if format(e) != want || missing != wantMissing {
			t.Errorf("got %q, missing %v; want %q, %v", format(e), missing, want, wantMissing)
		}
	}
	see("up b/eth0", peer("b", "eth0"))
	see("up a/eth0", peer("a", "eth0"))
	see("up a/eth1", peer("a", "eth1"))
	see("", peer("a", "eth0"))
	end("eth0", "", false)

	moved := peer("a", "eth0")
	moved.Addrs = []netip.AddrPort{netip.MustParseAddrPort("10.9.0.3:6085")}
	see("update a/eth0", moved)
	moved.Sequence++
	see("update a/eth0", moved)
	end("eth0", "", true) // b was silent once
	see("", peer("b", "eth0"))
	end("eth0", "", true) // a was
	see("", peer("b", "eth0"))
	end("eth0", "down a/eth0", false)
	see("up a/eth0", moved)
	if got := format(tb.drop("eth0")); got != "down a/eth0, down b/eth0" {
		t.Errorf("drop: %s", got)
	}
	if p := tb.peers(); len(p) != 1 || p[0].Interface != "eth1" {
		t.Errorf("left: %v", p)
	}
}

// A crowd of strangers fills the table but keeps no kit of ours out.
func TestTableBound(t *testing.T) {
	tb := table{misses: 2, limit: 3}
	stranger := func(i int) Peer {
		p := peer(fmt.Sprint("s", i), "eth0")
		p.Overlay = "bb"
		return p
	}
	refused := 0
	for i := range 10 {
		if _, ok := tb.observe(stranger(i), "aa"); !ok {
			refused++
		}
	}
	if refused != 7 || len(tb.rows) != 3 {
		t.Fatalf("%d refused, %d rows", refused, len(tb.rows))
	}
	if _, ok := tb.observe(stranger(0), "aa"); !ok { // s1 is the oldest now
		t.Error("known stranger refused")
	}
	if e, ok := tb.observe(peer("ours", "eth0"), "aa"); !ok || format(e) != "down s1/eth0, up ours/eth0" {
		t.Errorf("kit of ours: %s %v", format(e), ok)
	}
	for i := range 5 {
		_, _ = tb.observe(peer(fmt.Sprint("o", i), "eth0"), "aa")
	}
	if len(tb.rows) != 3 {
		t.Errorf("%d rows", len(tb.rows))
	}
	if _, ok := tb.observe(peer("late", "eth0"), "aa"); ok {
		t.Error("table of our own kits grew beyond its bound")
	}
}

func TestAddressesOfBothFamiliesGatherOverCycles(t *testing.T) {
	tb := table{misses: 3, limit: 10}
	for i, step := range []struct{ addrs, want string }{
		{"10.9.0.2:1", "10.9.0.2:1"},
		{"[fe80::2%e]:1", "10.9.0.2:1 [fe80::2%e]:1"},
		{"10.9.0.3:1", "10.9.0.3:1 [fe80::2%e]:1"}, // replaces its own family
		{"10.9.0.3:1", "10.9.0.3:1 [fe80::2%e]:1"},
		{"10.9.0.3:1", "10.9.0.3:1"}, // the other was absent three times
		{"[fe80::2%e]:1", "10.9.0.3:1 [fe80::2%e]:1"},
		{"10.9.0.3:2", "10.9.0.3:2"}, // another port: nothing of before holds
		{"", "10.9.0.3:2"},           // nothing that can be reached from here
		{"", "10.9.0.3:2"},
		{"", ""},
	} {
		p := peer("a", "e")
		p.Addrs = nil
		for a := range strings.FieldsSeq(step.addrs) {
			p.Addrs = append(p.Addrs, netip.MustParseAddrPort(a))
		}
		_, _ = tb.observe(p, "aa")
		var got []string
		for _, a := range tb.peers()[0].Addrs {
			got = append(got, a.String())
		}
		if s := strings.Join(got, " "); s != step.want {
			t.Errorf("step %d: %q, want %q", i, s, step.want)
		}
	}
}
