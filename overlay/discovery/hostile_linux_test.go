package discovery_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"fieldkit/overlay/discovery"
)

// attacker sends datagrams to the multicast DNS port of everybody on the link.
type attacker struct {
	t    *testing.T
	conn net.Conn
}

func newAttacker(t *testing.T, l *lan, n int) *attacker {
	t.Helper()
	a := &attacker{t: t}
	must(t, l.hosts[n-1].Do(func() (err error) {
		a.conn, err = net.DialUDP("udp4",
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(address(n).Addr(), 5353)),
			&net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
		return err
	}))
	t.Cleanup(func() { _ = a.conn.Close() })
	return a
}

func (a *attacker) send(b []byte) {
	a.t.Helper()
	if _, err := a.conn.Write(b); err != nil {
		a.t.Fatal(err)
	}
}

// claim is the answer of a kit that does not exist.
func claim(nodeID, said, addr string, port uint16) []dns.RR {
	instance := nodeID + "." + discovery.Service + ".local."
	hdr := func(name string, typ uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: typ, Class: dns.ClassINET, Ttl: 120}
	}
	return []dns.RR{
		&dns.PTR{Hdr: hdr(discovery.Service+".local.", dns.TypePTR), Ptr: instance},
		&dns.SRV{Hdr: hdr(instance, dns.TypeSRV), Port: port, Target: nodeID + ".local."},
		&dns.TXT{Hdr: hdr(instance, dns.TypeTXT), Txt: []string{"txtvers=1", "overlay=66", "node=" + said, "seq=1"}},
		&dns.A{Hdr: hdr(nodeID+".local.", dns.TypeA), A: net.ParseIP(addr)},
	}
}

func pack(t *testing.T, rrs ...dns.RR) []byte {
	t.Helper()
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Authoritative: true}, Compress: true, Answer: rrs}
	b, err := m.Pack()
	must(t, err)
	return b
}

func numberedID(i int) string { return fmt.Sprintf("%032x", i) }

func TestHostileNeighbour(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 3)
	k := l.kit(1)
	a := newAttacker(t, l, 3)
	friend := l.kit(2)
	k.event(patient, "up", id(2))

	// One claim of each bad kind, and each prefix of a good one.
	good := pack(t, claim(numberedID(1), numberedID(1), "10.9.0.3", 6084)...)
	for i := range good {
		a.send(good[:i])
	}
	a.send(pack(t, claim(numberedID(2), numberedID(2), "192.0.2.1", 6084)...)) // reflection at a stranger
	a.send(pack(t, claim(numberedID(3), numberedID(1), "10.9.0.3", 6084)...))  // says to be another one
	a.send(pack(t, claim(numberedID(4), numberedID(4), "10.9.0.3", 0)...))     // no port
	a.send(pack(t, claim("router", "router", "10.9.0.3", 6084)...))            // no kit
	huge := claim(numberedID(5), numberedID(5), "10.9.0.3", 6084)
	for range 10 {
		huge = append(huge, &dns.TXT{
			Hdr: dns.RR_Header{Name: "x.local.", Rrtype: dns.TypeTXT, Class: dns.ClassINET},
			Txt: strings.Split(strings.Repeat(strings.Repeat("y", 250)+" ", 4), " "),
		})
	}
	if b := pack(t, huge...); len(b) <= 9000 || len(b) > 65000 {
		t.Fatalf("the packet that is too large has %d bytes", len(b))
	} else {
		a.send(b)
	}
	a.send(good)
	if p := k.event(patient, "up", numberedID(1)); !hasAddr(p, "10.9.0.3:6084") {
		t.Errorf("good claim: %+v", p)
	}
	s, _ := k.snapshot()
	for _, p := range s.Peers {
		switch p.NodeID {
		case id(2), numberedID(1):
		case numberedID(2):
			if len(p.Addrs) != 0 {
				t.Errorf("address off the link listed: %v", p.Addrs)
			}
		default:
			t.Errorf("listed: %+v", p)
		}
	}

	// A flood of kits for several cycles: the table and what the library
	// remembers stay bounded, and the friend stays known.
	began, sent := time.Now(), 0
	for time.Since(began) < 4*cycle {
		var rrs []dns.RR
		for range 40 {
			sent++
			n := numberedID(1000 + sent)
			rrs = append(rrs, claim(n, n, "10.9.0.3", 6084)...)
		}
		a.send(pack(t, rrs...))
		<-time.After(2 * time.Millisecond)
	}
	s, _ = k.snapshot()
	if len(s.Peers) > discovery.MaxPeers || s.Stats.Full == 0 || s.Stats.Floods == 0 || s.Stats.Rejected < 3 {
		t.Errorf("%d claims: %d peers, stats %+v", sent, len(s.Peers), s.Stats)
	}
	known := false
	for _, p := range s.Peers {
		known = known || p.NodeID == id(2)
	}
	if !known {
		t.Error("flood pushed the friend out")
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", k.cmd.Process.Pid))
	must(t, err)
	for line := range strings.SplitSeq(string(status), "\n") {
		if strings.HasPrefix(line, "VmHWM") || strings.HasPrefix(line, "VmRSS") {
			t.Logf("after %d claims %s", sent, line)
		}
	}

	// Afterwards the crowd goes, and a kit of ours that comes is found.
	friend.kill()
	k.event(patient, "down", id(2))
	_ = startKit(t, l.hosts[1], kitConfig{ID: id(7), Name: "KIT 7"})
	k.event(patient, "up", id(7))
}

// Our own name from another address is a copied card, not a peer; and queries
// that a hostile host sends to us alone get no amplified answer to others.
func TestQueriesAreAnsweredOnTheirInterfaceOnly(t *testing.T) {
	t.Parallel()
	l := newLAN(t, 2)
	// A second link of kit 1, which its watch is told not to use: the handset
	// side. Somebody there has joined the group, as any phone does.
	side := newHost(t, "disc-side")
	must(t, netnsVeth(l, side))
	_ = l.kit(1)
	b := l.kit(2)
	b.event(patient, "up", id(1))

	var conn *net.UDPConn
	must(t, side.Do(func() (err error) {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		conn, err = net.ListenMulticastUDP("udp4", eth0, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
		return err
	}))
	defer conn.Close()
	q := new(dns.Msg)
	q.SetQuestion(discovery.Service+".local.", dns.TypePTR)
	query, err := q.Pack()
	must(t, err)
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	for range 3 {
		_, err = conn.WriteToUDP(query, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
		must(t, err)
	}
	buf := make([]byte, 9000)
	for {
		n, from, err := conn.ReadFromUDP(buf)
		if err != nil {
			return // nobody answered
		}
		m := new(dns.Msg)
		if m.Unpack(buf[:n]) == nil && m.Response {
			t.Fatalf("answer on the handset side from %v: %v", from, m)
		}
	}
}
