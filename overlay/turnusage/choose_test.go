package turnusage

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/link"
	"fieldkit/overlay/wire"
)

func id(n byte) wire.NodeID {
	i, err := wire.NodeIDFrom(append(make([]byte, 15), n))
	if err != nil {
		panic(err)
	}
	return i
}

func at(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }

// neighbour n has its address on the network of local.
func neighbour(n byte, addr, local netip.Addr) link.Neighbour {
	return link.Neighbour{Node: id(n), Addr: addr, Local: local, Username: fmt.Sprint("u", n), Password: fmt.Sprint("p", n)}
}

func addrs(list []link.Server) (r []string) {
	for _, s := range list {
		text := s.Addr.String()
		if s.Username != "" {
			text += " relay"
		}
		if s.Reflexive {
			text += " reflexive"
		}
		r = append(r, text)
	}
	return r
}

func TestServersAreChosen(t *testing.T) {
	own, nat := at(100), netip.MustParseAddr("192.0.2.1")
	all := []link.Neighbour{neighbour(1, at(1), own), neighbour(2, at(2), own), neighbour(3, at(3), own), neighbour(3, at(33), own)}
	sees := func(answered bool, reflexive netip.Addr) probed { return probed{answered, reflexive} }
	for _, c := range []struct {
		name   string
		change func(*outlook)
		want   []string
	}{
		{"as many as may be, in turn", func(o *outlook) {}, []string{"10.0.0.1:3478 relay", "10.0.0.2:3478 relay"}},
		{"the next time the next", func(o *outlook) { o.turn = 1 }, []string{"10.0.0.2:3478 relay", "10.0.0.3:3478 relay"}},
		{"each once, by whichever address", func(o *outlook) { o.turn = 2 }, []string{"10.0.0.3:3478 relay", "10.0.0.1:3478 relay"}},
		{"who does not answer is left out", func(o *outlook) {
			o.probes = map[netip.Addr]probed{at(1): sees(false, netip.Addr{}), at(3): sees(false, netip.Addr{})}
		}, []string{"10.0.0.2:3478 relay", "10.0.0.33:3478 relay"}},
		{"who was not asked yet is left out where another answered", func(o *outlook) {
			o.probes = map[netip.Addr]probed{at(1): sees(false, netip.Addr{}), at(33): sees(true, own)}
		}, []string{"10.0.0.33:3478 relay"}},
		{"who is listed comes first, at the port that it stored", func(o *outlook) {
			o.found = map[wire.NodeID][]netip.AddrPort{id(3): {netip.MustParseAddrPort("10.9.9.9:3500")}}
		}, []string{"10.0.0.3:3500 relay", "10.0.0.1:3478 relay"}},
		// "It SHOULD then select one peer from each group to use as a STUN server" (RFC 6940 §6.5.1.4)
		{"one of each group that sees this kit elsewhere", func(o *outlook) {
			o.probes = map[netip.Addr]probed{at(1): sees(true, own), at(2): sees(true, nat), at(3): sees(true, nat)}
		}, []string{"10.0.0.1:3478 relay", "10.0.0.2:3478 relay reflexive"}},
		{"also when it is no relay now", func(o *outlook) {
			o.probes = map[netip.Addr]probed{at(1): sees(true, own), at(2): sees(true, own), at(3): sees(true, nat)}
		}, []string{"10.0.0.1:3478 relay", "10.0.0.2:3478 relay", "10.0.0.3:3478 reflexive"}},
		{"over IPv6", func(o *outlook) {
			o.neighbours = []link.Neighbour{neighbour(1, netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"))}
			o.probes = map[netip.Addr]probed{netip.MustParseAddr("fd00::1"): sees(true, netip.MustParseAddr("fd00::2"))}
			o.own = append(o.own, netip.MustParseAddr("fd00::2"))
		}, []string{"[fd00::1]:3478 relay"}},
		{"link-local IPv6 has no meaning elsewhere", func(o *outlook) {
			o.neighbours = []link.Neighbour{neighbour(1, netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::2"))}
		}, nil},
		{"alone", func(o *outlook) { o.neighbours = nil }, nil},
	} {
		o := outlook{neighbours: all, own: []netip.Addr{own}, port: 3478}
		c.change(&o)
		if got := addrs(o.servers()); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// "If the ICE stage in any of these connections returns a reflexive address that is not the same as the peer's perceived
// address, then the peer is behind a NAT and SHOULD NOT be a candidate for a TURN server" (RFC 6940 §9).
func TestBehindNAT(t *testing.T) {
	o := outlook{neighbours: []link.Neighbour{neighbour(1, at(1), at(100))}, own: []netip.Addr{at(100)}, probes: map[netip.Addr]probed{}}
	if o.behindNAT() {
		t.Error("behind a NAT before anybody was asked")
	}
	o.probes[at(1)] = probed{true, at(100)}
	if o.behindNAT() {
		t.Error("behind a NAT though seen at its own address")
	}
	o.probes[at(1)] = probed{true, netip.MustParseAddr("192.0.2.1")}
	if !o.behindNAT() {
		t.Error("not behind a NAT though seen elsewhere")
	}
	o.neighbours = nil // "If the connection to that host is lost, it MUST be removed" (RFC 6940 §6.5.1.4)
	if o.behindNAT() {
		t.Error("somebody who is no neighbour any more has a say")
	}
}

func TestBridges(t *testing.T) {
	left, right := at(100), netip.AddrFrom4([4]byte{10, 1, 0, 100})
	for _, c := range []struct {
		name string
		list []link.Neighbour
		want bool
	}{
		{"alone", nil, false},
		{"one link", []link.Neighbour{neighbour(1, at(1), left), neighbour(2, at(2), left)}, false},
		{"one on each of two links", []link.Neighbour{neighbour(1, at(1), left), neighbour(2, at(2), right)}, true},
		{"the same on both links", []link.Neighbour{neighbour(1, at(1), left), neighbour(1, at(2), right)}, false},
		{"one more on one of them", []link.Neighbour{neighbour(1, at(1), left), neighbour(1, at(2), right), neighbour(2, at(3), left)}, false},
		{"an address that is not known", []link.Neighbour{neighbour(1, at(1), left), neighbour(2, at(2), netip.IPv4Unspecified())}, false},
	} {
		if got := (outlook{neighbours: c.list}).bridges(); got != c.want {
			t.Errorf("%s: between others %v", c.name, got)
		}
	}
}

func TestRelaysAreAskedForWhereTheyMayBeNeeded(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		name   string
		change func(*outlook)
		want   bool
	}{
		{"everybody is a neighbour, for long", func(*outlook) {}, false},
		{"somebody is not", func(o *outlook) { o.ring = append(o.ring, id(3)) }, true},
		{"nobody is known", func(o *outlook) { o.ring = nil }, true},
		{"alone", func(o *outlook) { o.ring = o.ring[:1] }, true},
		{"somebody came", func(o *outlook) { o.ringAt = now.Add(-ringSettles / 2) }, true},
		{"somebody came a while ago", func(o *outlook) { o.ringAt = now.Add(-ringSettles) }, false},
		{"somebody was not reached", func(o *outlook) { o.unreached = now.Add(-unreachedLasts / 2) }, true},
		{"that was long ago", func(o *outlook) { o.unreached = now.Add(-unreachedLasts) }, false},
	} {
		o := outlook{
			neighbours: []link.Neighbour{neighbour(2, at(2), at(1))}, self: id(1), ring: []wire.NodeID{id(1), id(2)},
			now: now, ringAt: now.Add(-time.Hour), port: 3478,
		}
		c.change(&o)
		if got := len(o.servers()) > 0; got != c.want {
			t.Errorf("%s: relays asked for %v, want %v", c.name, got, c.want)
		}
	}
}

func TestRecord(t *testing.T) {
	for text, want := range map[string][]byte{
		"192.0.2.1:6084":      {3, 1, 6, 192, 0, 2, 1, 0x17, 0xc4},
		"[2001:db8::1]:65535": append(append([]byte{3, 2, 18, 0x20, 0x01, 0x0d, 0xb8}, make([]byte, 11)...), 1, 0xff, 0xff),
	} {
		r := Record{3, netip.MustParseAddrPort(text)}
		b, err := r.AppendBinary(nil)
		if err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: % x, %v; want % x", text, b, err, want)
		}
		if got, err := ParseRecord(b); err != nil || got != r {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		for n := range b {
			if _, err := ParseRecord(b[:n]); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("%s: first %d bytes: %v", text, n, err)
			}
		}
		if _, err := ParseRecord(append(b, 0)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s with a byte more: %v", text, err)
		}
	}
	for _, b := range [][]byte{{1, 3, 6, 1, 2, 3, 4, 5, 6}, {1, 1, 0}, {1, 2, 6, 1, 2, 3, 4, 5, 6}} {
		if _, err := ParseRecord(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("% x: %v", b, err)
		}
	}
	for _, a := range []netip.AddrPort{{}, netip.MustParseAddrPort("[fe80::1%eth0]:3478")} {
		if b, err := (Record{1, a}).AppendBinary(nil); err == nil {
			t.Errorf("%v: % x", a, b)
		}
	}
	if Resource(id(1), 1) == Resource(id(1), 2) || Resource(id(1), 1) == Resource(id(2), 1) || len(Resource(id(1), 1)) != 16 {
		t.Error("resources are not told apart")
	}
}
