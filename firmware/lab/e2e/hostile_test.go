//go:build linux

package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"fieldkit/firmware/lab"
)

// openPorts lists the ports that anything listens on in a kit's host, "udp" or "tcp".
func openPorts(t *testing.T, k *lab.Kit, proto string) map[uint16]bool {
	t.Helper()
	ports := map[uint16]bool{}
	must(t, k.Do(func() error {
		for _, file := range []string{proto, proto + "6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			for _, line := range strings.Split(string(b), "\n")[1:] {
				f := strings.Fields(line)
				if len(f) < 4 || proto == "tcp" && f[3] != "0A" { // 0A is LISTEN
					continue
				}
				_, port, _ := strings.Cut(f[1], ":")
				n, err := strconv.ParseUint(port, 16, 16)
				if err != nil {
					return err
				}
				ports[uint16(n)] = true
			}
		}
		return nil
	}))
	return ports
}

// malformed are datagrams that some parser of a kit may choke on.
func malformed(r *rand.Rand) [][]byte {
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	head := func(first ...byte) []byte { return append(first, random(60)...) }
	stun := func(kind uint16, attr uint16, length uint16) []byte {
		b := binary.BigEndian.AppendUint16(nil, kind)
		b = binary.BigEndian.AppendUint16(b, 4)
		b = binary.BigEndian.AppendUint32(b, 0x2112A442)
		b = append(b, random(12)...)
		b = binary.BigEndian.AppendUint16(b, attr)
		return binary.BigEndian.AppendUint16(b, length)
	}
	record := func(kind byte, epoch uint16, body []byte) []byte {
		b := []byte{kind, 0xfe, 0xfd}
		b = binary.BigEndian.AppendUint16(b, epoch)
		b = append(b, random(6)...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
		return append(b, body...)
	}
	all := [][]byte{
		{}, {0}, random(1), random(2), random(12), random(100), random(1400), bytes.Repeat([]byte{0xff}, 1400), make([]byte, 8000), random(60000),
		// A Data indication whose peer address is empty ended processes with an older STUN reader.
		stun(0x0017, 0x0012, 0), stun(0x0001, 0x0020, 0), stun(0x0101, 0x0020, 0xffff), stun(0x0001, 0x0006, 0x8000),
		record(21, 0, []byte{2, 0}), record(21, 0, []byte{1, 0}), record(23, 0, []byte("data")), record(99, 0, random(20)), record(22, 0, random(40)), record(20, 0, []byte{1}), record(22, 1, random(40)),
		head(22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff), // longer than it says
		head(128, 0, 0, 0, 0, 0xff, 0xff, 0xff), head(129, 0), head(0xd2, 0x45, 0x4c, 0x4f), head(0x80, 0x00), head(0x80, 0xc8), head(0x90, 0x08),
		[]byte("INVITE sip:x SIP/2.0\r\n\r\n"), []byte("REGISTER\r\n\r\n"), []byte("SIP/2.0 200 OK\r\n\r\n"), []byte("\r\n\r\n"),
		[]byte("INVITE sip:x@y SIP/2.0\r\nVia: SIP/2.0/UDP a\r\nContent-Length: -1\r\n\r\n"),
		[]byte("INVITE sip:x@y SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:x@y>\r\nCall-ID: " + strings.Repeat("9", 30000) + "\r\nCSeq: 1 INVITE\r\n\r\n"),
		[]byte("OPTIONS sip:\x00\xff SIP/2.0\r\nVia: \r\nFrom: %s%n\r\nTo: \r\nCall-ID: \r\nCSeq: 99999999999999999999 \r\n\r\n"),
		[]byte("GET / HTTP/1.1\r\nHost: " + strings.Repeat("a", 20000) + "\r\n\r\n"), []byte("\x16\x03\x01\x02\x00\x01\x00"),
		append([]byte{0, 0, 0x84, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, random(300)...),    // mDNS that promises much
		{0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0xc0, 0x0c, 0, 12, 0, 1, 0, 0, 0, 120, 0, 2, 0xc0, 0x0c}, // a name that is itself
	}
	for range 40 { // and each with something changed
		b := bytes.Clone(all[r.IntN(len(all))])
		if len(b) > 0 {
			b[r.IntN(len(b))] ^= byte(1 << r.IntN(8))
			b = b[:r.IntN(len(b)+1)]
		}
		all = append(all, b)
	}
	return all
}

// from is a way to make sockets somewhere in the lab.
type from func(func() error) error

func attackUDP(t *testing.T, do from, to netip.AddrPort, datagrams [][]byte) {
	t.Helper()
	var c net.Conn
	must(t, do(func() (err error) { c, err = net.Dial("udp", to.String()); return }))
	defer c.Close()
	for _, d := range datagrams {
		_, _ = c.Write(d) // "refused" only says that the port was closed meanwhile
	}
}

func attackTCP(t *testing.T, do from, to netip.AddrPort, streams [][]byte) {
	t.Helper()
	for _, s := range streams {
		var c net.Conn
		if err := do(func() (err error) { c, err = net.DialTimeout("tcp", to.String(), 2*time.Second); return }); err != nil {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
		_, _ = c.Write(s)
		_, _ = c.Read(make([]byte, 4096))
		_ = c.Close()
	}
}

func TestMalformedInputToEveryOpenPortBreaksNothing(t *testing.T) {
	l := running(t, lab.Options{Kits: 2}, "anna", "boris")
	p := phones(t, l, 0, 1)
	_, err := p[0].Call(t.Context(), p[1].Account.Number)
	must(t, err)
	seat, err := l.Handset(0)
	must(t, err)
	target, before := l.Kits[0], status(t, l.Kits[0])
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	datagrams := malformed(rand.New(rand.NewPCG(seed, 0)))
	udp, tcp := openPorts(t, target, "udp"), openPorts(t, target, "tcp")
	if !udp[5060] || !tcp[5060] || !udp[6084] || !udp[5353] || !tcp[80] || len(udp) < 6 {
		t.Fatalf("these ports are open: udp %v, tcp %v", udp, tcp)
	}
	link := netip.AddrFrom4([4]byte{169, 254, 60, 1}) // the first kit on the kits' side
	for port := range udp {
		attackUDP(t, seat.Do, netip.AddrPortFrom(seat.Server, port), datagrams)
		attackUDP(t, l.Kits[1].Do, netip.AddrPortFrom(link, port), datagrams)
	}
	for port := range tcp {
		attackTCP(t, seat.Do, netip.AddrPortFrom(seat.Server, port), datagrams)
		attackTCP(t, l.Kits[1].Do, netip.AddrPortFrom(link, port), datagrams[:8])
	}
	pause(t, 2*time.Second)

	if !target.Running() {
		t.Fatal("the kit died")
	}
	after := status(t, target)
	if n := counter(after, "sip panics"); n != 0 {
		t.Errorf("%d panics were caught", n)
	}
	if after.Kit.NodeID != before.Kit.NodeID || after.Kit.UptimeS < before.Kit.UptimeS || len(after.Ring) != 2 {
		t.Errorf("the kit is not what it was: %+v, ring %v", after.Kit, after.Ring)
	}
	// The call went on all the time, and another one can be made.
	a, b, err := p[0].Hangup(t.Context(), p[1])
	must(t, err)
	if !a.ToneOK || !b.ToneOK {
		t.Errorf("the call suffered: %+v, %+v", a, b)
	}
	_, err = p[1].Call(t.Context(), p[0].Account.Number)
	must(t, err)
	_, _, err = p[1].Hangup(t.Context(), p[0])
	must(t, err)
	eventually(t, 30*time.Second, func() error {
		if g := status(t, target).Kit.Goroutines; g > before.Kit.Goroutines+40 {
			return fmt.Errorf("%d goroutines, %d before", g, before.Kit.Goroutines)
		}
		return nil
	})
}

// A flood from one handset must cost others nothing but time, and the kit no memory that stays.
func TestFloodFromOneHandsetStaysBounded(t *testing.T) {
	l := running(t, lab.Options{Kits: 1}, "anna", "boris")
	seat, err := l.Handset(0)
	must(t, err)
	target := l.Kits[0]
	var c net.Conn
	must(t, seat.Do(func() (err error) { c, err = net.Dial("udp", netip.AddrPortFrom(seat.Server, 5060).String()); return }))
	defer c.Close()
	// The cable of a handset takes a moment to come up; a flood before that would meet nobody.
	eventually(t, 10*time.Second, func() error {
		fmt.Fprintf(c, "OPTIONS sip:%s SIP/2.0\r\n\r\n", seat.Server)
		if counter(status(t, target), "sip malformed") == 0 {
			return errors.New("nothing arrives")
		}
		return nil
	})
	limit := int64(0)
	const floods = 120_000
	for i := range floods {
		method := []string{"REGISTER", "INVITE"}[i%2]
		fmt.Fprintf(c, "%s sip:%d@%s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK%d\r\nMax-Forwards: 70\r\nFrom: <sip:%d@%s>;tag=%d\r\nTo: <sip:%d@%s>\r\nCall-ID: %d\r\nCSeq: 1 %s\r\nContact: <sip:x@%s>\r\nContent-Length: 0\r\n\r\n",
			method, i, seat.Server, c.LocalAddr(), i, i, seat.Server, i, i, seat.Server, i, method, c.LocalAddr())
		if i%10_000 == 0 {
			limit = max(limit, status(t, target).Kit.RSSBytes)
		}
	}
	s := status(t, target)
	limit = max(limit, s.Kit.RSSBytes)
	t.Logf("%d requests: at most %.1f MB resident, %d goroutines; over the rate %d", floods, float64(limit)/1e6, s.Kit.Goroutines, counter(s, "sip overload"))
	if limit > 80e6 {
		t.Errorf("%.1f MB resident in a flood", float64(limit)/1e6)
	}
	if counter(s, "sip overload") == 0 {
		t.Error("nothing was refused, so this was no flood")
	}
	p := phones(t, l, 0, 0)
	_, err = p[0].Call(t.Context(), p[1].Account.Number)
	must(t, err)
	_, _, err = p[0].Hangup(t.Context(), p[1])
	must(t, err)
}
