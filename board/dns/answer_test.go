package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

var (
	kit     = netip.MustParseAddr("10.73.0.1")
	network = netip.MustParsePrefix("10.73.0.0/16")
)

func zone() *Zone {
	return NewZone(Config{
		Kit: kit, Network: network, Names: []string{"kit.home.arpa", "Maple-412.home.arpa"}, SIPDomains: []string{"relief.example", "kit.home.arpa"}, SIPPort: 5060,
		Aliases: map[string]netip.Addr{"captive.apple.com": {}, "dns.msftncsi.com": netip.MustParseAddr("131.107.255.255")},
		Hosts: map[string]netip.Addr{
			"anna.home.arpa": netip.MustParseAddr("10.73.4.5"), "captive.apple.com": netip.MustParseAddr("10.73.6.6"), "not a name": kit,
		},
	})
}

// ask goes through the wire format both ways.
func ask(t testing.TB, z *Zone, name string, typ uint16, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), typ)
	for _, f := range change {
		f(q)
	}
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Unpack(b); err != nil {
		t.Fatal(err)
	}
	a := z.Answer(q, maxUDP)
	if a == nil {
		return nil
	}
	if b, err = a.Pack(); err != nil {
		t.Fatalf("answer to %s: %v", name, err)
	}
	r := new(dns.Msg)
	if err := r.Unpack(b); err != nil {
		t.Fatal(err)
	}
	if r.Id != q.Id || !r.Response {
		t.Errorf("answer %v", r)
	}
	return r
}

func texts(rrs []dns.RR) (r []string) {
	for _, rr := range rrs {
		r = append(r, strings.Join(strings.Fields(rr.String()), " "))
	}
	return r
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		name string
		typ  uint16
		want []string
	}{
		{"kit.home.arpa", dns.TypeA, []string{"kit.home.arpa. 60 IN A 10.73.0.1"}},
		{"maple-412.home.arpa", dns.TypeA, []string{"maple-412.home.arpa. 60 IN A 10.73.0.1"}},
		{"relief.example", dns.TypeA, []string{"relief.example. 60 IN A 10.73.0.1"}},
		// RFC 3263 §4.1 and §4.2: NAPTR leads to SRV leads to an address.
		{"relief.example", dns.TypeNAPTR, []string{
			`relief.example. 60 IN NAPTR 10 10 "s" "SIP+D2U" "" _sip._udp.relief.example.`,
			`relief.example. 60 IN NAPTR 20 10 "s" "SIP+D2T" "" _sip._tcp.relief.example.`,
		}},
		{"_sip._udp.relief.example", dns.TypeSRV, []string{"_sip._udp.relief.example. 60 IN SRV 10 10 5060 kit.home.arpa."}},
		{"_sip._tcp.kit.home.arpa", dns.TypeSRV, []string{"_sip._tcp.kit.home.arpa. 60 IN SRV 10 10 5060 kit.home.arpa."}},
		// RFC 2782: "A Target of "." means that the service is decidedly not available at this domain."
		{"_sips._tcp.relief.example", dns.TypeSRV, []string{"_sips._tcp.relief.example. 60 IN SRV 0 0 0 ."}},
		{"anna.home.arpa", dns.TypeA, []string{"anna.home.arpa. 10 IN A 10.73.4.5"}},
		{"1.0.73.10.in-addr.arpa", dns.TypePTR, []string{"1.0.73.10.in-addr.arpa. 60 IN PTR kit.home.arpa."}},
		{"5.4.73.10.in-addr.arpa", dns.TypePTR, []string{"5.4.73.10.in-addr.arpa. 60 IN PTR anna.home.arpa."}},
		{"captive.apple.com", dns.TypeA, []string{"captive.apple.com. 10 IN A 10.73.0.1"}}, // and not the handset that claims it
		{"dns.msftncsi.com", dns.TypeA, []string{"dns.msftncsi.com. 10 IN A 131.107.255.255"}},
		{".", dns.TypeNS, []string{". 60 IN NS kit.home.arpa."}},
		{"kit.home.arpa", dns.TypeANY, []string{`kit.home.arpa. 60 IN HINFO "RFC8482" ""`}},
	} {
		r := ask(t, zone(), c.name, c.typ)
		if got := texts(r.Answer); !slices.Equal(got, c.want) || r.Rcode != dns.RcodeSuccess || !r.Authoritative {
			t.Errorf("%s %s: %v %v", c.name, dns.TypeToString[c.typ], dns.RcodeToString[r.Rcode], got)
		}
	}
	if r := ask(t, zone(), "_sip._udp.relief.example", dns.TypeSRV); len(r.Extra) != 1 || texts(r.Extra)[0] != "kit.home.arpa. 60 IN A 10.73.0.1" {
		t.Errorf("the address of the SRV target is not there: %v", r.Extra)
	}
}

// Everything else does not exist, and says so at once, for a short time (RFC 2308 §5).
func TestWhatDoesNotExist(t *testing.T) {
	for name, want := range map[string]int{
		"www.example.org": dns.RcodeNameError, "use-application-dns.net": dns.RcodeNameError, "mask.icloud.com": dns.RcodeNameError,
		"wpad.home.arpa": dns.RcodeNameError, "9.9.73.10.in-addr.arpa": dns.RcodeNameError, "kit": dns.RcodeNameError,
		// A name above one that exists does exist, or what is below would not either (RFC 8020 §2).
		"apple.com": dns.RcodeSuccess, "com": dns.RcodeSuccess, "_udp.relief.example": dns.RcodeSuccess, "73.10.in-addr.arpa": dns.RcodeSuccess,
	} {
		for _, typ := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeANY} {
			r := ask(t, zone(), name, typ)
			if r.Rcode != want || len(r.Answer) != 0 {
				t.Errorf("%s %s: %v", name, dns.TypeToString[typ], r)
			}
			if len(r.Ns) != 1 || r.Ns[0].(*dns.SOA).Minttl != negativeTTL || r.Ns[0].Header().Ttl != negativeTTL {
				t.Errorf("%s: no SOA for the cache: %v", name, r.Ns)
			}
		}
	}
	if r := ask(t, zone(), "captive.apple.com", dns.TypeAAAA); r.Rcode != dns.RcodeSuccess || len(r.Answer) != 0 || len(r.Ns) != 1 {
		t.Errorf("no address of that family: %v", r)
	}
}

// RFC 4343 §4.1: names are compared without regard to case. Clients look for the spelling that they used.
func TestTheSpellingIsReturned(t *testing.T) {
	r := ask(t, zone(), "CaPtIvE.aPPle.COM", dns.TypeA)
	if len(r.Answer) != 1 || r.Answer[0].Header().Name != "CaPtIvE.aPPle.COM." || r.Question[0].Name != "CaPtIvE.aPPle.COM." {
		t.Errorf("%v", r)
	}
}

func TestWhatIsRefused(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*dns.Msg)
		rcode  int
	}{
		"another class":     {func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"a zone transfer":   {func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		"an update":         {func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"a notification":    {func(q *dns.Msg) { q.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		"no question":       {func(q *dns.Msg) { q.Question = nil }, dns.RcodeFormatError},
		"two questions":     {func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }, dns.RcodeFormatError},
		"a later extension": {func(q *dns.Msg) { q.SetEdns0(1232, false); q.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
	} {
		r := ask(t, zone(), "kit.home.arpa", dns.TypeA, c.change)
		if r.Rcode != c.rcode || len(r.Answer) != 0 {
			t.Errorf("%s: %v", what, r)
		}
	}
	if r := ask(t, zone(), "kit.home.arpa", dns.TypeA, func(q *dns.Msg) { q.Response = true }); r != nil {
		t.Errorf("an answer is answered: %v", r) // two servers would never end
	}
}

func TestAnswersFit(t *testing.T) {
	cfg := Config{Kit: kit, Network: network, Names: []string{"kit.home.arpa"}, Hosts: map[string]netip.Addr{}}
	for i := range 200 {
		cfg.SIPDomains = append(cfg.SIPDomains, fmt.Sprintf("d%d.example", i))
	}
	z := NewZone(cfg)
	for range 200 { // more addresses than fit in a datagram
		z.address("many.example.", kit, 1)
	}
	for size, announce := range map[int]int{dns.MinMsgSize: 0, 600: 600, maxUDP: 65535} {
		q := new(dns.Msg)
		q.SetQuestion("many.example.", dns.TypeA)
		if announce > 0 {
			q.SetEdns0(uint16(announce), true)
		}
		r := z.Answer(q, maxUDP)
		if b, _ := r.Pack(); len(b) > size || !r.Truncated {
			t.Errorf("%d bytes, %d announced, TC %v", len(b), announce, r.Truncated)
		}
		if announce > 0 && (r.IsEdns0() == nil || !r.IsEdns0().Do() || r.IsEdns0().UDPSize() != maxUDP) {
			t.Errorf("OPT %v", r.IsEdns0())
		}
		if r = z.Answer(q, dns.MaxMsgSize); r.Truncated || len(r.Answer) != 200 {
			t.Error("truncated over TCP")
		}
	}
}

// Nobody uses a kit to shout: no answer is more than a few times as long as what was asked.
func TestNoAmplification(t *testing.T) {
	z := zone()
	for name := range z.records {
		for typ := range dns.TypeToString {
			q := new(dns.Msg)
			q.SetQuestion(name, typ)
			q.SetEdns0(65535, true)
			asked, _ := q.Pack()
			answered, err := z.Answer(q, maxUDP).Pack()
			if err != nil || len(answered) > 5*len(asked) {
				t.Errorf("%s %s: %d bytes for %d: %v", name, dns.TypeToString[typ], len(answered), len(asked), err)
			}
		}
	}
}

func TestNamesOfNobody(t *testing.T) {
	z := NewZone(Config{Kit: kit, Network: network, Names: []string{"", "a b", strings.Repeat("x", 300)}, Hosts: map[string]netip.Addr{"": kit, "..": kit}})
	if len(z.records) != 2 { // the root, and the kit's reverse name
		t.Errorf("%v", z.records)
	}
}

func FuzzAnswer(f *testing.F) {
	q := new(dns.Msg)
	q.SetQuestion("CAPTIVE.apple.com.", dns.TypeA)
	q.SetEdns0(1232, true)
	b, _ := q.Pack()
	f.Add(b)
	f.Add(b[:20])
	s := NewServer(network, zone(), nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := s.answer(b, make([]byte, 4096), maxUDP)
		if r == nil {
			return
		}
		if len(r) > maxUDP || len(r) < 12 || len(b) < 2 || r[0] != b[0] || r[1] != b[1] || r[2]&0x80 == 0 || b[2]&0x80 != 0 {
			t.Fatalf("answer %x", r)
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	s, buf := NewServer(network, zone(), nil), make([]byte, 4096)
	for _, name := range []string{"captive.apple.com.", "www.example.org."} {
		b.Run(name, func(b *testing.B) {
			q := new(dns.Msg)
			q.SetQuestion(name, dns.TypeA)
			q.SetEdns0(1232, false)
			packed, _ := q.Pack()
			b.ReportAllocs()
			for b.Loop() {
				if s.answer(packed, buf, maxUDP) == nil {
					b.Fatal("no answer")
				}
			}
		})
	}
}
