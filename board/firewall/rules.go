// Package firewall keeps the handsets' side of a kit and the side of other kits apart: a handset reaches the services
// of its kit at their one address and nothing else, other kits reach the overlay's ports and nothing else, and nothing
// passes through the kit from one side to the other.
//
// The rules keep no state of connections: there is no table that a stranger could fill, and each packet is judged by
// what it is. What a kit itself asks for is answered at ports out of the kernel's ephemeral range, which is open on
// the kits' side; only the overlay's sockets are there, and they authenticate.
//
// New is pure: the rule set as data. Apply and its like talk to the kernel's nf_tables, in the network namespace of the
// calling thread, and want CAP_NET_ADMIN; one goroutine calls them.
package firewall

import (
	"fmt"
	"net/netip"
	"slices"
)

// TableName is that of the kit's own table, of family inet; others are left alone.
const TableName = "fieldkit"

// Ports is a range, both ends included.
type Ports struct{ First, Last uint16 }

// Port is a range of one.
func Port(p uint16) Ports { return Ports{p, p} }

// Service is what may be reached.
type Service struct {
	Proto Proto
	Ports Ports
}

// Proto is the number of a transport protocol.
type Proto uint8

// Protocols (IANA protocol numbers).
const (
	ICMP   Proto = 1
	IGMP   Proto = 2
	TCP    Proto = 6
	UDP    Proto = 17
	ICMPv6 Proto = 58
)

// Config says what is where.
type Config struct {
	Handset  string       // interface of the handsets; a bridge where they are on one
	Address  netip.Addr   // the kit's IPv4 address there
	Network  netip.Prefix // of the handsets; the same at every kit, so it is nobody's elsewhere
	Handsets []Service    // for handsets, over IPv4 at Address
	Kits     []Service    // for kits, over both; over IPv6 on the handsets' side, too, where kits are stations
}

// Verdict ends the judgement of a packet, or goes on elsewhere.
type Verdict int

// Verdicts.
const (
	Accept Verdict = iota + 1
	Drop
	Return     // to the chain that jumped here
	RejectTCP  // by a reset
	RejectPort // by ICMP: port unreachable, of the packet's own family
	Jump       // to Rule.Target
)

// Match is what a rule applies to; zero fields match anything. Addresses, ICMP types and ports are those of the family and
// protocol that the same Match names.
type Match struct {
	In, Out     string // interface
	NotOut      []string
	Family      int // 4 or 6
	Src, Dst    netip.Prefix
	NotSrc      netip.Prefix
	Proto       Proto
	Ports       Ports // destination
	ICMPType    *uint8
	SYN         bool       // of TCP: asks for a connection
	Addressed   Addressing // what the destination is on the interface that the packet came in on
	SourceAbove uint64     // packets a second, of one source, counted in Rule.Set; IPv4 alone
	AllAbove    uint64     // packets a second, of all that match so far
}

// Addressing is what an address is to one interface of the kit.
type Addressing int

// Kinds of destinations.
const (
	Anywhere  Addressing = iota
	Own                  // an address of that interface, not of another one of the kit: the strong host model of RFC 1122 §3.3.4.2
	Broadcast            // of its network
	Multicast            // of any group
)

// Rule is one line.
type Rule struct {
	Match
	Verdict Verdict
	Target  string // of Jump
	Set     string // of sources, where SourceAbove is not 0
	Comment string // names the rule for counters
}

// Hook is where a chain looks at packets; "" is a chain that others jump to.
type Hook string

// Hooks.
const (
	Prerouting Hook = "prerouting"
	Input      Hook = "input"
	Forward    Hook = "forward"
	Output     Hook = "output"
)

// Chain is a list of rules.
type Chain struct {
	Name   string
	Hook   Hook
	Policy Verdict // Accept or Drop, of a chain with a hook
	Rules  []Rule
}

// SourceSet counts what IPv4 sources ask for; one that was silent for a minute is forgotten, and while it is full new
// sources are not counted.
type SourceSet struct{ Name string }

// Ruleset is the whole table.
type Ruleset struct {
	Sets   []SourceSet
	Chains []Chain
}

// maxSources bounds each SourceSet; the handsets' network has 65,534 addresses, a radio far fewer handsets.
const maxSources = 4096

// Rates of what is asked for anew. They are far above what phones do, and far below what would hurt.
const (
	handsetConnections = 20  // TCP connections a second, of one handset
	kitConnections     = 50  // of all kits of a side together: a source there costs nobody anything to make up
	echoes             = 20  // a second, of each side
	rejections         = 200 // a second, beyond which what is not allowed is dropped silently
	burst              = 2   // seconds' worth that may come at once
)

var (
	anyLinkLocal6 = netip.MustParsePrefix("fe80::/10")
	uniqueLocal   = netip.MustParsePrefix("fc00::/7")
	unspecified6  = netip.MustParsePrefix("::/128")
	unspecified4  = netip.MustParsePrefix("0.0.0.0/32")
)

// ICMP types that are let in besides Echo Request: what belongs to traffic of ours. RFC 792 and RFC 4443; RFC 4861 §4 for
// neighbours (no router is listened to, so neither advertisements of routers nor redirects), RFC 2710 and RFC 3810 §5 for
// multicast.
var (
	icmp4 = []uint8{3, 11, 12}
	icmp6 = []uint8{1, 2, 3, 4, 130, 131, 132, 135, 136, 143}
)

const (
	echo4 = 8
	echo6 = 128

	dhcpServer = 67
	mdns       = 5353
)

// New makes the rules. The error is about a Config that cannot be meant.
func New(c Config) (Ruleset, error) {
	switch {
	case c.Handset == "" || len(c.Handset) > 15:
		return Ruleset{}, fmt.Errorf("firewall: handset interface %q", c.Handset)
	case !c.Address.Is4() || !c.Network.Contains(c.Address) || c.Network != c.Network.Masked():
		return Ruleset{}, fmt.Errorf("firewall: handset address %v in network %v", c.Address, c.Network)
	}
	for _, s := range slices.Concat(c.Handsets, c.Kits) {
		if s.Proto != TCP && s.Proto != UDP || s.Ports.First == 0 || s.Ports.Last < s.Ports.First {
			return Ruleset{}, fmt.Errorf("firewall: service %+v", s)
		}
	}
	return Ruleset{
		Sets: []SourceSet{{Name: "connecting"}},
		Chains: []Chain{
			c.kitPorts("kit_ports", "kits"), c.kitPorts("guest_ports", "guests"), c.handsetPorts(), refuse(), c.handsetAddresses(), c.kitAddresses(),
			{Name: "arrive", Hook: Prerouting, Policy: Accept, Rules: []Rule{
				{Match: Match{In: "lo"}, Verdict: Accept},
				{Match: Match{In: c.Handset}, Verdict: Jump, Target: "handset_addresses"},
				{Match: Match{In: c.Handset}, Verdict: Accept},
				{Verdict: Jump, Target: "kit_addresses"},
			}},
			{Name: "input", Hook: Input, Policy: Drop, Rules: []Rule{
				{Match: Match{In: "lo"}, Verdict: Accept},
				{Match: Match{In: c.Handset}, Verdict: Jump, Target: "handset_ports"},
				{Match: Match{In: c.Handset}, Verdict: Drop, Comment: "handset: not refused any more"},
				{Verdict: Jump, Target: "kit_ports"},
				// Nobody there has any business with other ports, and an answer could be led to somebody else.
				{Verdict: Drop, Comment: "kits: other port"},
			}},
			{Name: "forward", Hook: Forward, Policy: Drop, Rules: []Rule{
				{Verdict: Drop, Comment: "not for this kit"},
			}},
			c.output(),
		},
	}, nil
}

// handsetAddresses judges by address what comes from the handsets' side: it returns for what may be for the kit.
func (c Config) handsetAddresses() Chain {
	kit := netip.PrefixFrom(c.Address, 32)
	return Chain{Name: "handset_addresses", Rules: []Rule{
		// A handset without an address asks for one (RFC 2131 §4.1).
		{Match: Match{Family: 4, Src: unspecified4, Proto: UDP, Ports: Port(dhcpServer)}, Verdict: Return},
		{Match: Match{Family: 4, Src: kit}, Verdict: Drop, Comment: "handset: address of the kit"},
		{Match: Match{Family: 4, NotSrc: c.Network}, Verdict: Drop, Comment: "handset: address of another network"},
		{Match: Match{Family: 4, Dst: kit}, Verdict: Return},
		{Match: Match{Family: 4, Addressed: Broadcast}, Verdict: Return},
		{Match: Match{Family: 4, Addressed: Multicast}, Verdict: Return},
		{Match: Match{Family: 6, Src: anyLinkLocal6, Addressed: Own}, Verdict: Return},
		{Match: Match{Family: 6, Src: uniqueLocal, Addressed: Own}, Verdict: Return},
		{Match: Match{Family: 6, Src: anyLinkLocal6, Addressed: Multicast}, Verdict: Return},
		{Match: Match{Family: 6, Src: uniqueLocal, Addressed: Multicast}, Verdict: Return},
		// Duplicate address detection (RFC 4862 §5.4.2) and reports of groups before there is an address (RFC 3590).
		{Match: Match{Family: 6, Src: unspecified6, Proto: ICMPv6, Addressed: Multicast}, Verdict: Return},
		{Match: Match{Family: 6, Src: unspecified6}, Verdict: Drop, Comment: "handset: no address"},
		// The Internet, another address of the kit, or another kit: refused, so that no phone waits for an answer.
		{Verdict: Jump, Target: "refuse"},
	}}
}

// kitAddresses does the same with what comes from anywhere else.
func (c Config) kitAddresses() Chain {
	return Chain{Name: "kit_addresses", Rules: []Rule{
		// Every kit has that network, and its own part of it is elsewhere.
		{Match: Match{Family: 4, Src: c.Network}, Verdict: Drop, Comment: "kits: handset address"},
		{Match: Match{Family: 4, Dst: c.Network}, Verdict: Drop, Comment: "kits: to a handset address"},
		{Match: Match{Addressed: Own}, Verdict: Return},
		{Match: Match{Addressed: Broadcast}, Verdict: Return},
		{Match: Match{Addressed: Multicast}, Verdict: Return},
		{Verdict: Drop, Comment: "kits: not for this interface"},
	}}
}

func (c Config) handsetPorts() Chain {
	rules := []Rule{
		// Kits that are stations of this one, and whoever else speaks IPv6 there.
		{Match: Match{Family: 6}, Verdict: Jump, Target: "guest_ports"},
		{Match: Match{Family: 6}, Verdict: Jump, Target: "refuse"},
		{
			Match: Match{Family: 4, Proto: TCP, SYN: true, SourceAbove: handsetConnections}, Set: "connecting", Verdict: Drop,
			Comment: "handset: too many connections",
		},
	}
	rules = append(rules, services(4, c.Handsets)...)
	rules = append(rules, icmp(4, ICMP, echo4, icmp4, "handset: too many echoes")...)
	return Chain{Name: "handset_ports", Rules: append(rules,
		Rule{Match: Match{Family: 4, Proto: IGMP}, Verdict: Accept},
		// What is for everybody, as the phones' own mDNS, is not refused (RFC 1122 §3.2.2).
		Rule{Match: Match{Family: 4, Addressed: Broadcast}, Verdict: Drop},
		Rule{Match: Match{Family: 4, Addressed: Multicast}, Verdict: Drop},
		Rule{Verdict: Jump, Target: "refuse"},
	)}
}

// kitPorts lets other kits reach what is for them. Each side has a chain of its own: rates are counted by rule, and what one
// side uses up must not be missing on the other.
func (c Config) kitPorts(name, side string) Chain {
	rules := []Rule{{
		Match: Match{Proto: TCP, SYN: true, AllAbove: kitConnections}, Verdict: Drop, Comment: side + ": too many connections",
	}}
	rules = append(rules, services(0, c.Kits)...)
	rules = append(rules, icmp(4, ICMP, echo4, icmp4, side+": too many echoes")...)
	rules = append(rules, icmp(6, ICMPv6, echo6, icmp6, side+": too many echoes over IPv6")...)
	return Chain{Name: name, Rules: append(rules,
		Rule{Match: Match{Family: 4, Proto: IGMP}, Verdict: Accept},
		Rule{Match: Match{Proto: UDP, Ports: Port(mdns)}, Verdict: Accept},
	)}
}

func services(family int, all []Service) (r []Rule) {
	for _, s := range all {
		r = append(r, Rule{Match: Match{Family: family, Proto: s.Proto, Ports: s.Ports}, Verdict: Accept})
	}
	return r
}

func icmp(family int, proto Proto, echo uint8, types []uint8, comment string) []Rule {
	r := []Rule{
		{Match: Match{Family: family, Proto: proto, ICMPType: &echo, AllAbove: echoes}, Verdict: Drop, Comment: comment},
		{Match: Match{Family: family, Proto: proto, ICMPType: &echo}, Verdict: Accept},
	}
	for _, t := range types {
		r = append(r, Rule{Match: Match{Family: family, Proto: proto, ICMPType: &t}, Verdict: Accept})
	}
	return r
}

// refuse answers, up to a rate, that nothing is there.
func refuse() Chain {
	return Chain{Name: "refuse", Rules: []Rule{
		{Match: Match{AllAbove: rejections}, Verdict: Drop, Comment: "refused: too many"},
		{Match: Match{Proto: TCP}, Verdict: RejectTCP, Comment: "refused: TCP"},
		{Verdict: RejectPort, Comment: "refused: other"},
	}}
}

// output keeps to itself what is not for the side that it would leave on.
func (c Config) output() Chain {
	return Chain{Name: "output", Hook: Output, Policy: Accept, Rules: []Rule{
		{Match: Match{Out: "lo"}, Verdict: Accept},
		// Kits that are stations of this one look for it over IPv6.
		{Match: Match{Out: c.Handset, Family: 4, Proto: UDP, Ports: Port(mdns)}, Verdict: Drop},
		{Match: Match{NotOut: []string{c.Handset}, Family: 4, Src: c.Network}, Verdict: Drop, Comment: "leaves from the handset address"},
		{Match: Match{NotOut: []string{c.Handset}, Family: 4, Dst: c.Network}, Verdict: Drop, Comment: "leaves for a handset elsewhere"},
	}}
}
