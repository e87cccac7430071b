package dns

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a Server on loopback and returns it with its address.
func serve(t testing.TB) (*Server, string) {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(network, zone(), nil)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, udp, tcp) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s, tcp.Addr().String()
}

func TestUDPAndTCP(t *testing.T) {
	s, at := serve(t)
	for _, network := range []string{"udp", "tcp"} {
		q := new(dns.Msg)
		q.SetQuestion("kit.home.arpa.", dns.TypeA)
		r, took, err := (&dns.Client{Net: network}).Exchange(q, at)
		if err != nil || len(r.Answer) != 1 {
			t.Fatalf("%s: %v %v", network, r, err)
		}
		t.Logf("%s: %v", network, took)
	}
	s.Replace(NewZone(Config{Kit: kit, Network: network, Names: []string{"other.home.arpa"}}))
	q := new(dns.Msg)
	q.SetQuestion("kit.home.arpa.", dns.TypeA)
	if r, err := dns.Exchange(q, at); err != nil || r.Rcode != dns.RcodeNameError {
		t.Errorf("after the names changed: %v %v", r, err)
	}
}

// dig is a reader that was not written here, and complains about what is not right.
func TestDig(t *testing.T) {
	if _, err := exec.LookPath("dig"); err != nil {
		if os.Getenv("FIELDKIT_CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	_, at := serve(t)
	host, port, _ := net.SplitHostPort(at)
	dig := func(args ...string) string {
		out, err := exec.Command("dig", append([]string{"@" + host, "-p", port, "+time=2", "+tries=1"}, args...)...).CombinedOutput()
		if err != nil || bytes.Contains(out, []byte("WARNING")) || bytes.Contains(out, []byte("MALFORMED")) {
			t.Errorf("dig %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for _, transport := range []string{"+notcp", "+tcp"} {
		if s := dig(transport, "+short", "relief.example", "NAPTR"); !strings.Contains(s, `10 10 "s" "SIP+D2U" "" _sip._udp.relief.example.`) {
			t.Errorf("NAPTR: %s", s)
		}
		if s := dig(transport, "+short", "-x", "10.73.4.5"); strings.TrimSpace(s) != "anna.home.arpa." {
			t.Errorf("PTR: %s", s)
		}
		if s := dig(transport, "example.org"); !strings.Contains(s, "status: NXDOMAIN") || !strings.Contains(s, "SOA") || !strings.Contains(s, "EDNS: version: 0, flags:; udp: 1232") {
			t.Errorf("NXDOMAIN: %s", s)
		}
	}
}

func TestLimits(t *testing.T) {
	s := NewServer(network, zone(), nil)
	now, from := time.Now(), netip.MustParseAddr("10.73.4.5")
	for range queryBurst {
		if !s.limits.take(now, from) {
			t.Fatal("refused within the burst")
		}
	}
	if s.limits.take(now, from) || !s.limits.take(now, netip.MustParseAddr("10.73.4.6")) {
		t.Error("one handset's flood is not its own affair")
	}
	if !s.limits.take(now.Add(time.Second), from) {
		t.Error("it is never heard again")
	}
	// A flood from made-up addresses keeps nobody out, and cannot make a handset forget the connections that it has.
	if !s.limits.open(now, from) {
		t.Fatal("no connection")
	}
	for i := range 10 * maxSources {
		if !s.limits.take(now, netip.AddrFrom4([4]byte{10, 73, byte(i >> 8), byte(i)})) && i >= 1<<11 {
			t.Fatalf("source %d is not answered", i)
		}
	}
	if len(s.limits.sources) != maxSources || s.Stats().RateLimited == 0 {
		t.Errorf("%d sources", len(s.limits.sources))
	}
	if o := s.limits.sources[from]; o == nil || o.conns != 1 {
		t.Errorf("the handset with a connection: %+v", o)
	}
	if !s.limits.take(now, netip.MustParseAddr("10.73.254.254")) {
		t.Error("a handset that comes later is not answered")
	}
	for _, a := range []string{"192.0.2.1", "fe80::1", "::ffff:192.0.2.1"} {
		if s.welcome(netip.MustParseAddr(a)) {
			t.Errorf("%s is served", a)
		}
	}
	if !s.welcome(netip.MustParseAddr("::ffff:10.73.9.9")) {
		t.Error("a handset is not served")
	}
}

// Who opens connections and says nothing keeps nobody else out.
func TestIdleConnections(t *testing.T) {
	s, at := serve(t)
	var open []net.Conn
	for range 20 {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	// All but maxOwnConns are closed at once.
	closed := 0
	for _, c := range open {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, io.EOF) || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			closed++
		} else {
			break
		}
	}
	for end := time.Now().Add(3 * time.Second); s.Stats().ConnectionsRefused < 20-maxOwnConns && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if n := s.Stats().ConnectionsRefused; n != 20-maxOwnConns {
		t.Errorf("%d connections refused, %d seen closed", n, closed)
	}
	q := new(dns.Msg)
	q.SetQuestion("kit.home.arpa.", dns.TypeA)
	if _, err := dns.Exchange(q, at); err != nil {
		t.Errorf("datagrams are not answered meanwhile: %v", err)
	}
}

func BenchmarkServer(b *testing.B) {
	s, at := serve(b)
	c, err := net.Dial("udp", at)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	q := new(dns.Msg)
	q.SetQuestion("captive.apple.com.", dns.TypeA)
	packed, _ := q.Pack()
	buf := make([]byte, 512)
	for b.Loop() {
		s.limits.mu.Lock()
		clear(s.limits.sources) // the limit is not what is measured
		s.limits.mu.Unlock()
		if _, err := c.Write(packed); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
