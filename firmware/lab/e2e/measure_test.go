//go:build linux

package e2e

import (
	"cmp"
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fieldkit/firmware/lab"
	"fieldkit/firmware/mission"
	"fieldkit/ui"
)

// What the benchmarks measure with.

// benchLab is newLab for benchmarks. FIELDKIT_BIN names the directory of the programs, as scripts/measure builds
// them; otherwise they are those that the tests use.
func benchLab(b *testing.B, o lab.Options, accounts ...string) *lab.Lab {
	b.Helper()
	bin, err := filepath.Abs(cmp.Or(os.Getenv("FIELDKIT_BIN"), "../../../bin"))
	check(b, err)
	o.Daemon, o.Tool, o.Accounts, o.Net = filepath.Join(bin, "fieldkitd"), filepath.Join(bin, "fieldkit"), accounts, lab.NetNamespaces
	l, err := lab.New(o)
	check(b, err)
	return l
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func limited(b *testing.B, limit time.Duration, f func(context.Context) error) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), limit)
	defer cancel()
	check(b, f(ctx))
}

func waitRing(b *testing.B, l *lab.Lab) {
	b.Helper()
	limited(b, 2*time.Minute, l.WaitRing)
}

func rest(b *testing.B, d time.Duration) {
	b.Helper()
	select {
	case <-time.After(d):
	case <-b.Context().Done():
		b.Fatal(b.Context().Err())
	}
}

func statusOf(b *testing.B, k *lab.Kit) ui.Status {
	b.Helper()
	s, err := k.Status(b.Context())
	check(b, err)
	return s
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func megabytes(s ui.Status) float64 { return float64(s.Kit.RSSBytes) / 1e6 }

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// report gives the least, the median and the most of what was measured, instead of the time of an iteration.
func report(b *testing.B, v []float64, unit string) {
	b.ReportMetric(slices.Min(v), unit+"-min")
	b.ReportMetric(median(v), unit+"-median")
	b.ReportMetric(slices.Max(v), unit+"-max")
	b.ReportMetric(0, "ns/op")
}

func dial(at *lab.Seat) (c net.Conn, err error) {
	from := net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.Address, 0))
	err = at.Do(func() (err error) {
		c, err = net.DialUDP("udp", from, net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.Server, 5060)))
		return err
	})
	return c, err
}

var challenge = regexp.MustCompile(`(?i)\r\nWWW-Authenticate: Digest realm="([^"]*)", nonce="([^"]*)"`)

// register registers a handset from a socket of its own that is open until the benchmark ends: the light kind of
// phone of which a hundred fit into one process.
func register(b *testing.B, at *lab.Seat, h mission.Handset) error {
	c, err := dial(at)
	if err != nil {
		return err
	}
	b.Cleanup(func() { _ = c.Close() })
	uri := fmt.Sprintf("sip:%s", at.Server)
	call := token()
	send := func(n int, credentials string) (string, error) {
		m := fmt.Sprintf("REGISTER %s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK%s;rport\r\nMax-Forwards: 70\r\nFrom: <sip:%s@%s>;tag=%s\r\n"+
			"To: <sip:%s@%s>\r\nCall-ID: %s\r\nCSeq: %d REGISTER\r\nContact: <sip:%s@%s>\r\nExpires: 3600\r\n%sContent-Length: 0\r\n\r\n",
			uri, c.LocalAddr(), token(), h.Number, at.Server, call, h.Number, at.Server, call, n, h.Number, c.LocalAddr(), credentials)
		answer, wanted := make([]byte, 8192), fmt.Sprintf("\r\nCSeq: %d REGISTER\r\n", n)
		for wait := 500 * time.Millisecond; wait < 10*time.Second; wait *= 2 {
			if _, err := c.Write([]byte(m)); err != nil {
				continue // the cable comes up
			}
			_ = c.SetReadDeadline(time.Now().Add(wait))
			for {
				n, err := c.Read(answer)
				if err != nil {
					break
				}
				// A request of the kit's, or what answers an earlier one of ours, is not waited for.
				if a := string(answer[:n]); strings.HasPrefix(a, "SIP/2.0 ") && strings.Contains(a, wanted) {
					return a, nil
				}
			}
		}
		return "", fmt.Errorf("REGISTER of %s: no answer", h.Number)
	}
	answer, err := send(1, "")
	if err != nil {
		return err
	}
	asked := challenge.FindStringSubmatch(answer)
	if asked == nil {
		return fmt.Errorf("REGISTER of %s: no challenge in %.300q", h.Number, answer)
	}
	realm, nonce, cnonce := asked[1], asked[2], token()
	// RFC 2617 §3.2.2.1, qop=auth
	ha1, ha2 := sum(h.Number+":"+realm+":"+h.Password), sum("REGISTER:"+uri)
	answer, err = send(2, fmt.Sprintf("Authorization: Digest username=%q, realm=%q, nonce=%q, uri=%q, algorithm=MD5, qop=auth, nc=00000001, cnonce=%q, response=%q\r\n",
		h.Number, realm, nonce, uri, cnonce, sum(ha1+":"+nonce+":00000001:"+cnonce+":auth:"+ha2)))
	if err == nil && !strings.HasPrefix(answer, "SIP/2.0 200 ") {
		err = fmt.Errorf("REGISTER of %s: %.100q", h.Number, answer)
	}
	return err
}

func sum(s string) string {
	m := md5.Sum([]byte(s))
	return hex.EncodeToString(m[:])
}

func token() string { return rand.Text()[:16] }

// deviceBytes is what a kit's cable to the others has carried, both ways, headers of the link included.
func deviceBytes(k *lab.Kit) (total uint64, err error) {
	err = k.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			name, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
			f := strings.Fields(rest)
			if name != "eth0" || len(f) < 9 {
				continue
			}
			in, err1 := strconv.ParseUint(f[0], 10, 64)
			out, err2 := strconv.ParseUint(f[8], 10, 64)
			total = in + out
			return errors.Join(err1, err2)
		}
		return errors.New("no eth0 in the list of devices")
	})
	return total, err
}

// traffic is what a frame on the kits' cable is for.
type traffic int

const (
	mdns  traffic = iota
	ice           // STUN checks and keepalives
	dtls          // overlay links, trunks
	tcp           // overlay links and trunks over TCP
	other         // SRTP, ARP, neighbour discovery, multicast membership
)

func (k traffic) String() string { return [...]string{"mDNS", "ICE", "DTLS", "TCP", "other"}[k] }

// classify looks into an Ethernet frame.
func classify(frame []byte) traffic {
	const ethernet = 14
	if len(frame) < ethernet {
		return other
	}
	b := frame[ethernet:]
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == 0x0800 && len(b) >= 20 && b[9] == unix.IPPROTO_UDP && len(b) >= int(b[0]&15)*4:
		b = b[int(b[0]&15)*4:]
	case kind == 0x86dd && len(b) >= 40 && b[6] == unix.IPPROTO_UDP:
		b = b[40:]
	case kind == 0x0800 && len(b) >= 20 && b[9] == unix.IPPROTO_TCP, kind == 0x86dd && len(b) >= 40 && b[6] == unix.IPPROTO_TCP:
		return tcp
	default:
		return other
	}
	switch {
	case len(b) < 9:
		return other
	case binary.BigEndian.Uint16(b) == 5353 || binary.BigEndian.Uint16(b[2:]) == 5353:
		return mdns
	case b[8] < 4: // RFC 7983 §7
		return ice
	case b[8] >= 20 && b[8] < 64:
		return dtls
	}
	return other
}

// tap reads the frames on a kit's cable.
type tap struct {
	file *os.File
	done chan map[traffic]uint64
}

func newTap(k *lab.Kit) (*tap, error) {
	t := &tap{done: make(chan map[traffic]uint64, 1)}
	return t, k.Do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
		if err != nil {
			return err
		}
		t.file = os.NewFile(uintptr(fd), "tap")
		return errors.Join(
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20),
		)
	})
}

// start counts from now on what passes; stop ends that and returns the bytes by kind.
func (t *tap) start() {
	go func() {
		count := map[traffic]uint64{mdns: 0, ice: 0, dtls: 0, other: 0}
		b := make([]byte, 1<<16)
		for {
			n, err := t.file.Read(b)
			if err != nil {
				t.done <- count
				return
			}
			count[classify(b[:n])] += uint64(n)
		}
	}()
}

func (t *tap) stop() map[traffic]uint64 {
	_ = t.file.Close()
	return <-t.done
}

func TestTapTellsTrafficApart(t *testing.T) {
	ethernet := func(kind uint16, payload ...byte) []byte {
		return append(binary.BigEndian.AppendUint16(make([]byte, 12), kind), payload...)
	}
	udp := func(from, to uint16, first byte) []byte {
		b := binary.BigEndian.AppendUint16(nil, from)
		return append(binary.BigEndian.AppendUint16(b, to), 0, 9, 0, 0, first)
	}
	ip4 := func(header int, p []byte) []byte {
		b := make([]byte, header)
		b[0], b[9] = 0x40|byte(header/4), unix.IPPROTO_UDP
		return append(b, p...)
	}
	ip6 := append(make([]byte, 40), udp(5353, 5353, 0)...)
	ip6[6] = unix.IPPROTO_UDP
	tcp4 := ip4(20, udp(40000, 6084, 22))
	tcp4[9] = unix.IPPROTO_TCP
	for _, c := range []struct {
		name  string
		frame []byte
		want  traffic
	}{
		{"mDNS", ethernet(0x0800, ip4(20, udp(5353, 5353, 0))...), mdns},
		{"answer to one port", ethernet(0x0800, ip4(20, udp(5353, 40000, 0))...), mdns},
		{"mDNS over IPv6", ethernet(0x86dd, ip6...), mdns},
		{"STUN", ethernet(0x0800, ip4(20, udp(40000, 40001, 1))...), ice},
		{"STUN, with IP options", ethernet(0x0800, ip4(24, udp(40000, 40001, 1))...), ice},
		{"DTLS", ethernet(0x0800, ip4(20, udp(6084, 40001, 22))...), dtls},
		{"TCP", ethernet(0x0800, tcp4...), tcp},
		{"ARP", ethernet(0x0806, make([]byte, 28)...), other},
		{"SRTP", ethernet(0x0800, ip4(20, udp(40000, 40001, 128))...), other},
		{"cut in the header", ethernet(0x0800, ip4(20, nil)[:12]...), other},
		{"cut in UDP", ethernet(0x0800, ip4(20, udp(5353, 5353, 0)[:6])...), other},
		{"nothing", nil, other},
	} {
		if got := classify(c.frame); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
