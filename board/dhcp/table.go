package dhcp

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// state of a binding.
type state int

const (
	probing state = iota // nobody was told yet: whether the address is in use is being asked
	offered
	bound
)

// binding is one client's address. Who the client is says its identifier, or its hardware address where it gives
// none (RFC 2131 §4.2).
type binding struct {
	client   string
	station  *station
	addr     netip.Addr
	state    state
	ends     time.Time
	name     string
	discover *dhcpv4.DHCPv4 // while probing: what the offer answers
	probed   int            // how often
}

// station is one hardware address.
type station struct {
	mac      MAC
	heard    time.Time
	bucket   bucket
	bindings []*binding
}

// bucket is a token bucket.
type bucket struct {
	tokens float64
	at     time.Time
}

func (b *bucket) take(now time.Time, rate, burst float64) bool {
	if b.at.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = min(burst, b.tokens+rate*max(now.Sub(b.at), 0).Seconds())
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// Output is one thing to do: to send an answer, or to ask on the link who has an address.
type Output struct {
	Answer *Answer
	Probe  netip.Addr
}

// Answer is a message and where it goes to (RFC 2131 §4.1).
type Answer struct {
	Message   *dhcpv4.DHCPv4
	To        netip.Addr // may be the limited broadcast address
	MAC       MAC
	Broadcast bool // on the link, too
}

// Table holds the leases of one kit.
type Table struct {
	cfg      Config
	pool     pool
	stations map[MAC]*station
	byClient map[string]*binding
	byAddr   map[netip.Addr]*binding
	byName   map[string]*binding
	declined map[netip.Addr]claim
	fresh    bucket // of stations never heard of
	fullAt   time.Time
	swept    time.Time
	stats    Stats
}

// claim is that somebody has an address.
type claim struct {
	until time.Time
	by    MAC // who answered for it; zero: the client found that out itself
}

// New makes an empty Table.
func New(cfg Config) (*Table, error) {
	p, err := newPool(cfg.Network)
	if err != nil {
		return nil, err
	}
	if !cfg.Network.Contains(cfg.Server) {
		return nil, errConfig
	}
	cfg.LeaseTime = cmp.Or(cfg.LeaseTime, DefaultLeaseTime)
	if cfg.Reserved == nil {
		cfg.Reserved = func(string) bool { return false }
	}
	return &Table{
		cfg: cfg, pool: p, stations: map[MAC]*station{}, byClient: map[string]*binding{}, byAddr: map[netip.Addr]*binding{},
		byName: map[string]*binding{}, declined: map[netip.Addr]claim{},
	}, nil
}

// Stats are the counts so far.
func (t *Table) Stats() Stats { return t.stats }

// Full reports whether a station was refused for want of room within the last minute.
func (t *Table) Full(now time.Time) bool { return !t.fullAt.IsZero() && now.Sub(t.fullAt) < fullWindow }

// Leases are the addresses in use, in their order.
func (t *Table) Leases() []Lease {
	r := []Lease{}
	for addr, b := range t.byAddr {
		if b.state == bound {
			r = append(r, Lease{MAC: b.station.mac, Addr: addr, Name: b.name, Ends: b.ends})
		}
	}
	slices.SortFunc(r, func(a, b Lease) int { return a.Addr.Compare(b.Addr) })
	return r
}

// Receive takes a message that came in a frame from a station.
func (t *Table) Receive(now time.Time, from MAC, m *dhcpv4.DHCPv4) []Output {
	if now.Sub(t.swept) >= sweepEvery {
		t.expire(now)
	}
	if m.OpCode != dhcpv4.OpcodeBootRequest || m.HWType != iana.HWTypeEthernet || len(m.ClientHWAddr) != len(from) {
		t.stats.Invalid++
		return nil
	}
	// A station invents no others: the access point takes frames from whom it knows alone, so the frame says who it is.
	// A relay agent has no place in a network of one link.
	if MAC(m.ClientHWAddr) != from || from[0]&1 != 0 || from == (MAC{}) || !isZero(m.GatewayIPAddr) {
		t.stats.Foreign++
		return nil
	}
	id := m.Options.Get(dhcpv4.OptionClientIdentifier)
	if len(id) > 255 { // several options, which the parser joined
		t.stats.Invalid++
		return nil
	}
	s := t.station(now, from)
	if s == nil {
		return nil
	}
	if !s.bucket.take(now, stationRate, stationBurst) {
		t.stats.RateLimited++
		return nil
	}
	// The types keep apart an identifier and a hardware address that look alike. Two stations that claim one identifier
	// do not get each other's address either: it is derived from the hardware address.
	client := "id:" + string(from[:]) + string(id)
	if len(id) < 2 { // "Its minimum length is 2" (RFC 2132 §9.14): it identifies nobody, and the client is served all the same
		client = "hw:" + string(from[:])
	}
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		t.stats.Discovers++
		return t.discover(now, s, client, m)
	case dhcpv4.MessageTypeRequest:
		t.stats.Requests++
		return t.request(now, s, client, m)
	case dhcpv4.MessageTypeDecline:
		t.stats.Declines++
		t.decline(now, client, m)
	case dhcpv4.MessageTypeRelease:
		t.stats.Releases++
		t.release(client, m)
	case dhcpv4.MessageTypeInform:
		t.stats.Informs++
		return t.inform(m)
	default:
		t.stats.Invalid++
	}
	return nil
}

// station finds or makes the record of a hardware address; nil if there is no room for one more.
func (t *Table) station(now time.Time, mac MAC) *station {
	if s := t.stations[mac]; s != nil {
		s.heard = now
		return s
	}
	if !t.fresh.take(now, newRate, newBurst) {
		t.stats.RateLimited++
		return nil
	}
	if len(t.stations) >= maxStations {
		var idle *station // the one without a lease that was silent longest makes room
		for _, s := range t.stations {
			if len(s.bindings) == 0 && (idle == nil || s.heard.Before(idle.heard)) {
				idle = s
			}
		}
		if idle == nil {
			t.refuse(now)
			return nil
		}
		delete(t.stations, idle.mac)
	}
	s := &station{mac: mac, heard: now}
	t.stations[mac] = s
	return s
}

func (t *Table) refuse(now time.Time) {
	t.stats.Full++
	t.fullAt = now
}

// discover is RFC 2131 §4.3.1.
func (t *Table) discover(now time.Time, s *station, client string, m *dhcpv4.DHCPv4) []Output {
	if b := t.byClient[client]; b != nil {
		if b.state == probing {
			b.discover = m // a repeated one; the offer carries the newest transaction
			return nil
		}
		if b.state == offered {
			b.ends = now.Add(offerTime)
		}
		return t.offer(b, m)
	}
	b := t.bind(now, s, client)
	if b == nil {
		t.refuse(now)
		return nil
	}
	b.discover = m
	return t.probe(now, b)
}

// bind makes a binding at the first free address of the station; nil if there is no room.
func (t *Table) bind(now time.Time, s *station, client string) *binding {
	if !t.room(s) {
		return nil
	}
	for i := range candidates {
		if addr := t.pool.address(s.mac, i); t.free(now, addr) {
			return t.add(s, client, addr)
		}
	}
	return nil
}

// room reports whether there may be one binding more, and makes it among those of the station: the device stays one device,
// so a third system on it takes the place of the lease that ends first.
func (t *Table) room(s *station) bool {
	if len(s.bindings) >= perStation {
		t.drop(slices.MinFunc(s.bindings, func(a, b *binding) int { return a.ends.Compare(b.ends) }))
	}
	return len(t.byClient) < MaxLeases
}

func (t *Table) add(s *station, client string, addr netip.Addr) *binding {
	b := &binding{client: client, station: s, addr: addr, state: probing}
	t.byClient[client], t.byAddr[addr] = b, b
	s.bindings = append(s.bindings, b)
	return b
}

func (t *Table) free(now time.Time, addr netip.Addr) bool {
	c, declined := t.declined[addr]
	return t.byAddr[addr] == nil && addr != t.cfg.Server && (!declined || !now.Before(c.until))
}

// derived reports whether the address is one of the station's.
func (t *Table) derived(mac MAC, addr netip.Addr) bool {
	for i := range candidates {
		if t.pool.address(mac, i) == addr {
			return true
		}
	}
	return false
}

func (t *Table) drop(b *binding) {
	delete(t.byClient, b.client)
	delete(t.byAddr, b.addr)
	if t.byName[b.name] == b {
		delete(t.byName, b.name)
	}
	b.station.bindings = slices.DeleteFunc(b.station.bindings, func(o *binding) bool { return o == b })
}

// probe asks once more who has the address: "the allocating server SHOULD probe the reused address before allocating the
// address" (RFC 2131 §2.2). It asks by ARP, which a handset that ignores ICMP echo answers, too.
func (t *Table) probe(now time.Time, b *binding) []Output {
	b.probed++
	b.ends = now.Add(probeWait)
	return []Output{{Probe: b.addr}}
}

// InUse tells that a station answered for an address. One that answers for ever more of them is not believed: it would keep
// every other station from having one.
func (t *Table) InUse(now time.Time, addr netip.Addr, by MAC) []Output {
	b := t.byAddr[addr]
	if b == nil || b.state != probing || b.station.mac == by {
		return nil
	}
	t.stats.Conflicts++
	others := 0
	for _, c := range t.declined {
		if c.by == by && now.Before(c.until) {
			others++
		}
	}
	if others >= maxClaims {
		return nil
	}
	t.conflict(now, addr, by)
	s, client, m := b.station, b.client, b.discover
	t.drop(b)
	if b = t.bind(now, s, client); b == nil {
		t.refuse(now)
		return nil
	}
	b.discover = m
	return t.probe(now, b)
}

// conflict marks an address as not available. Where too many are, the one that would be free next makes room.
func (t *Table) conflict(now time.Time, addr netip.Addr, by MAC) {
	if _, known := t.declined[addr]; !known && len(t.declined) >= maxDeclined {
		var first netip.Addr
		for a, c := range t.declined {
			if !first.IsValid() || c.until.Before(t.declined[first].until) {
				first = a
			}
		}
		delete(t.declined, first)
	}
	t.declined[addr] = claim{now.Add(declineTime), by}
}

// Deadline is when Advance is to be called next; zero if there is nothing to wait for.
func (t *Table) Deadline() (at time.Time) {
	for _, b := range t.byClient {
		if at.IsZero() || b.ends.Before(at) {
			at = b.ends
		}
	}
	return at
}

// Advance does what is due.
func (t *Table) Advance(now time.Time) (out []Output) {
	var due []*binding
	for _, b := range t.byClient {
		if b.state == probing && !now.Before(b.ends) {
			due = append(due, b)
		}
	}
	slices.SortFunc(due, func(a, b *binding) int { return a.addr.Compare(b.addr) })
	for _, b := range due {
		if b.probed < probes {
			out = append(out, t.probe(now, b)...)
			continue
		}
		m := b.discover
		b.state, b.ends, b.discover = offered, now.Add(offerTime), nil
		out = append(out, t.offer(b, m)...)
	}
	t.expire(now)
	return out
}

func (t *Table) expire(now time.Time) {
	t.swept = now
	for _, b := range t.byClient {
		if b.state != probing && !now.Before(b.ends) {
			t.drop(b)
		}
	}
	for mac, s := range t.stations {
		if len(s.bindings) == 0 && now.Sub(s.heard) >= stationTime {
			delete(t.stations, mac)
		}
	}
	for addr, c := range t.declined {
		if !now.Before(c.until) {
			delete(t.declined, addr)
		}
	}
}

// request is RFC 2131 §4.3.2: what the client wants to know says which fields are filled in.
func (t *Table) request(now time.Time, s *station, client string, m *dhcpv4.DHCPv4) []Output {
	server, serverOK := address(m.Options.Get(dhcpv4.OptionServerIdentifier))
	wanted, wantedOK := address(m.Options.Get(dhcpv4.OptionRequestedIPAddress))
	ciaddr, _ := netip.AddrFromSlice(m.ClientIPAddr.To4())
	inUse := ciaddr.IsValid() && !ciaddr.IsUnspecified()
	switch {
	case serverOK && wantedOK && !inUse: // SELECTING
		if server != t.cfg.Server {
			t.stats.OtherServer++
			if b := t.byClient[client]; b != nil && b.state != bound {
				t.drop(b)
			}
			return nil
		}
	case !serverOK && wantedOK && !inUse: // INIT-REBOOT
	case !serverOK && !wantedOK && inUse: // RENEWING or REBINDING
		wanted = ciaddr
	default:
		t.stats.Invalid++
		return nil
	}
	b := t.byClient[client]
	if b == nil || b.addr != wanted {
		// No kit needs to have given out an address to know whose it is. A handset that comes from another kit, or that
		// was here before this one restarted, keeps it unless somebody else has it here.
		if !t.derived(s.mac, wanted) || !t.free(now, wanted) {
			return t.nak(m)
		}
		if b != nil {
			t.drop(b)
		}
		if !t.room(s) {
			t.refuse(now)
			return nil // an address that works is not taken away for want of a record
		}
		b = t.add(s, client, wanted)
	}
	b.state, b.ends, b.discover = bound, now.Add(t.cfg.LeaseTime), nil
	t.setName(b, m)
	return t.ack(b, m)
}

// decline is RFC 2131 §4.3.3. Who declines burns addresses of its own only.
func (t *Table) decline(now time.Time, client string, m *dhcpv4.DHCPv4) {
	server, _ := address(m.Options.Get(dhcpv4.OptionServerIdentifier))
	addr, ok := address(m.Options.Get(dhcpv4.OptionRequestedIPAddress))
	b := t.byClient[client]
	if !ok || server != t.cfg.Server || b == nil || b.addr != addr {
		t.stats.Invalid++
		return
	}
	t.conflict(now, addr, MAC{})
	t.drop(b)
}

// release is RFC 2131 §4.3.4. What it "SHOULD retain" of the client is derived anew when it comes back.
func (t *Table) release(client string, m *dhcpv4.DHCPv4) {
	server, _ := address(m.Options.Get(dhcpv4.OptionServerIdentifier))
	ciaddr, _ := netip.AddrFromSlice(m.ClientIPAddr.To4())
	b := t.byClient[client]
	if server != t.cfg.Server || b == nil || b.addr != ciaddr {
		t.stats.Invalid++
		return
	}
	t.drop(b)
}

// address is what an option of four bytes holds.
func address(option []byte) (netip.Addr, bool) {
	if len(option) != 4 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(option)), true
}

func isZero(ip net.IP) bool { return len(ip) == 0 || ip.IsUnspecified() }
