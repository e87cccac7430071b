// Package dns is the name server of a kit's handsets (RFC 1035). A kit has no Internet behind it, so it is the whole
// domain name system for those on its Wi-Fi: what it knows is answered, and everything else does not exist, at once. A
// resolver that is left waiting keeps a phone from its first REGISTER for ten seconds. It asks nobody else, ever.
//
// Zone decides: it is made of names and does not change, and Answer is a function of the query. Serve is the shell around
// it, UDP and TCP on the handset side: one goroutine for datagrams, one for each of a bounded number of connections.
// A Server may be used by any goroutine, and its Zone be replaced while it runs.
//
// It does not know which names exist; whoever makes a Zone does.
package dns

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// Times to live in seconds. What is true everywhere in the mission is kept longer than what only holds as long as a
// handset is here: on another network, captive.apple.com is somebody else.
const (
	ownTTL   = 60
	aliasTTL = 10
	// negativeTTL is how long a handset believes that a name does not exist (RFC 2308 §5).
	negativeTTL = 10
)

// maxUDP is the largest datagram, whatever the client announces: it fits any link in one piece.
const maxUDP = 1232

// MaxNames bounds each list of a Config; what is beyond is left out.
const MaxNames = 1024

// Config is what a Zone is made of. Names are without a final dot; what is no domain name is left out.
type Config struct {
	Kit     netip.Addr   // what the kit's own names stand for
	Network netip.Prefix // whose reverse names the zone has; IPv4
	Names   []string     // the kit's own; the first is its canonical one, and is needed
	// SIPDomains are the domains of addresses-of-record that the kit serves: they lead to SIPPort by NAPTR and SRV.
	SIPDomains []string
	SIPPort    uint16
	Aliases    map[string]netip.Addr // of other names; an invalid address is the kit's
	Hosts      map[string]netip.Addr // of handsets
}

// Zone answers queries. It is never changed and may be used by any goroutine.
type Zone struct {
	records map[string][]dns.RR // by name in lower case
	exists  map[string]bool     // names that have records, and those above them (RFC 8020 §2)
	soa     dns.RR
}

// NewZone makes a Zone.
func NewZone(cfg Config) *Zone {
	z := &Zone{records: map[string][]dns.RR{}, exists: map[string]bool{".": true}}
	canonical := "kit."
	if len(cfg.Names) > 0 {
		if n, ok := fqdn(cfg.Names[0]); ok {
			canonical = n
		}
	}
	z.soa = &dns.SOA{
		Hdr: header(".", dns.TypeSOA, negativeTTL), Ns: canonical, Mbox: "hostmaster." + canonical, Serial: 1,
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: negativeTTL,
	}
	z.add(z.soa)
	z.add(&dns.NS{Hdr: header(".", dns.TypeNS, ownTTL), Ns: canonical})
	for _, n := range cfg.Names[:min(len(cfg.Names), MaxNames)] {
		if name, ok := fqdn(n); ok && !z.has(name) {
			z.address(name, cfg.Kit, ownTTL)
		}
	}
	for _, d := range cfg.SIPDomains[:min(len(cfg.SIPDomains), MaxNames)] {
		if name, ok := fqdn(d); ok {
			z.sip(name, canonical, cfg)
		}
	}
	for i, n := range sorted(cfg.Aliases) {
		name, ok := fqdn(n)
		if !ok || i == MaxNames || z.has(name) {
			continue
		}
		addr := cfg.Aliases[n]
		if !addr.IsValid() {
			addr = cfg.Kit
		}
		z.address(name, addr, aliasTTL)
	}
	z.reverse(cfg.Kit, canonical, cfg.Network)
	for i, n := range sorted(cfg.Hosts) {
		name, ok := fqdn(n)
		if !ok || i == MaxNames || z.has(name) { // no handset takes a name that stands for something else
			continue
		}
		z.address(name, cfg.Hosts[n], aliasTTL)
		z.reverse(cfg.Hosts[n], name, cfg.Network)
	}
	return z
}

// has reports whether there are records of a name.
func (z *Zone) has(name string) bool { return len(z.records[name]) > 0 }

func (z *Zone) add(rr dns.RR) {
	name := rr.Header().Name
	z.records[name] = append(z.records[name], rr)
	for i, end := 0, false; !end; i, end = dns.NextLabel(name, i) {
		z.exists[name[i:]] = true
	}
}

func (z *Zone) address(name string, addr netip.Addr, ttl uint32) {
	switch {
	case addr.Is4():
		z.add(&dns.A{Hdr: header(name, dns.TypeA, ttl), A: addr.AsSlice()})
	case addr.Is6():
		z.add(&dns.AAAA{Hdr: header(name, dns.TypeAAAA, ttl), AAAA: addr.AsSlice()})
	}
}

// sip makes the records by which a client finds the server of a domain: NAPTR first, then SRV, then addresses (RFC 3263
// §4). UDP comes first, which every handset has. "A Target of "." means that the service is decidedly not available at
// this domain" (RFC 2782): so it is with TLS.
func (z *Zone) sip(name, target string, cfg Config) {
	if !z.has(name) { // else it is one of the kit's own names
		z.address(name, cfg.Kit, ownTTL)
	}
	for i, t := range []struct{ service, owner string }{{"SIP+D2U", "_sip._udp."}, {"SIP+D2T", "_sip._tcp."}} {
		z.add(&dns.NAPTR{
			Hdr: header(name, dns.TypeNAPTR, ownTTL), Order: uint16(10 * (i + 1)), Preference: 10, Flags: "s", Service: t.service, Replacement: t.owner + name,
		})
		z.add(&dns.SRV{Hdr: header(t.owner+name, dns.TypeSRV, ownTTL), Priority: 10, Weight: 10, Port: cfg.SIPPort, Target: target})
	}
	z.add(&dns.SRV{Hdr: header("_sips._tcp."+name, dns.TypeSRV, ownTTL), Target: "."})
}

func (z *Zone) reverse(addr netip.Addr, name string, network netip.Prefix) {
	if !network.Contains(addr) || !addr.Is4() {
		return
	}
	b := addr.As4()
	var owner strings.Builder
	for i := 3; i >= 0; i-- {
		owner.WriteString(strconv.Itoa(int(b[i])) + ".")
	}
	z.add(&dns.PTR{Hdr: header(owner.String()+"in-addr.arpa.", dns.TypePTR, ownTTL), Ptr: name})
}

func header(name string, typ uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: typ, Class: dns.ClassINET, Ttl: ttl}
}

// fqdn is a name as the zone keeps it.
func fqdn(name string) (string, bool) {
	if _, ok := dns.IsDomainName(name); !ok || name == "" || strings.ContainsAny(name, " \\\"()@$;") {
		return "", false
	}
	return strings.ToLower(dns.Fqdn(name)), true
}
