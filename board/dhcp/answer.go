package dhcp

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Options that the library has no function for.
const (
	optionSIPServers    = dhcpv4.OptionSIPServers // 120, RFC 3361
	optionCaptivePortal = dhcpv4.GenericOptionCode(114)
)

// unrestricted says that nobody has to sign in (RFC 8910 §2): "Networks with no captive portals may explicitly indicate
// this condition by using this option with the IANA-assigned URI for this purpose." The API of RFC 8908 would have to be
// served with a certificate that handsets trust, which a kit cannot have.
const unrestricted = "urn:ietf:params:capport:unrestricted"

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func (t *Table) offer(b *binding, m *dhcpv4.DHCPv4) []Output {
	t.stats.Offers++
	r := t.reply(m, dhcpv4.MessageTypeOffer)
	r.YourIPAddr = b.addr.AsSlice()
	t.leaseOptions(r, m)
	t.options(r, m, b.name)
	return t.send(r, m, b.addr)
}

func (t *Table) ack(b *binding, m *dhcpv4.DHCPv4) []Output {
	t.stats.Acks++
	r := t.reply(m, dhcpv4.MessageTypeAck)
	r.YourIPAddr, r.ClientIPAddr = b.addr.AsSlice(), m.ClientIPAddr
	t.leaseOptions(r, m)
	t.options(r, m, b.name)
	return t.send(r, m, b.addr)
}

// inform answers a client that has its address from elsewhere: "The server MUST NOT send a lease expiration time to the
// client and SHOULD NOT fill in 'yiaddr'" (RFC 2131 §4.3.5).
func (t *Table) inform(m *dhcpv4.DHCPv4) []Output {
	ciaddr, _ := netip.AddrFromSlice(m.ClientIPAddr.To4())
	if !t.cfg.Network.Contains(ciaddr) || ciaddr == t.cfg.Server {
		t.stats.Invalid++
		return nil
	}
	t.stats.Acks++
	r := t.reply(m, dhcpv4.MessageTypeAck)
	r.ClientIPAddr = m.ClientIPAddr
	t.options(r, m, "")
	return t.send(r, m, ciaddr)
}

// nak is told to everybody: "The server MUST broadcast the DHCPNAK message to the 0xffffffff broadcast address because
// the client may not have a correct network address or subnet mask" (RFC 2131 §4.3.2).
func (t *Table) nak(m *dhcpv4.DHCPv4) []Output {
	t.stats.Naks++
	r := t.reply(m, dhcpv4.MessageTypeNak)
	r.UpdateOption(dhcpv4.OptMessage("this address is not yours here"))
	return []Output{{Answer: &Answer{Message: r, To: broadcast, MAC: MAC(m.ClientHWAddr), Broadcast: true}}}
}

// reply is what all answers have in common: the fields of RFC 2131 §4.3.1 table 3, and the client's identifier
// (RFC 6842 §3).
func (t *Table) reply(m *dhcpv4.DHCPv4, typ dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	zero := net.IPv4zero.To4()
	r := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: m.HWType, TransactionID: m.TransactionID, Flags: m.Flags & 0x8000,
		ClientIPAddr: zero, YourIPAddr: zero, ServerIPAddr: zero, GatewayIPAddr: zero,
		ClientHWAddr: slices.Clone(m.ClientHWAddr), Options: dhcpv4.Options{},
	}
	r.UpdateOption(dhcpv4.OptMessageType(typ))
	r.UpdateOption(dhcpv4.OptServerIdentifier(t.cfg.Server.AsSlice()))
	if id := m.Options.Get(dhcpv4.OptionClientIdentifier); len(id) > 0 {
		r.UpdateOption(dhcpv4.OptClientIdentifier(id))
	}
	return r
}

func (t *Table) leaseOptions(r, m *dhcpv4.DHCPv4) {
	d := t.cfg.LeaseTime.Truncate(time.Second)
	r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(d))
	if asked(m, dhcpv4.OptionRenewTimeValue) {
		r.UpdateOption(dhcpv4.OptRenewTimeValue(d / 2))
	}
	if asked(m, dhcpv4.OptionRebindingTimeValue) {
		r.UpdateOption(dhcpv4.OptRebindingTimeValue(d / 8 * 7))
	}
}

// options are what a handset is told of the network. Mask, router and name server come unasked: there are handsets that
// do not ask for the router and have none without, and a kit that left it to other options had them one-way.
func (t *Table) options(r, m *dhcpv4.DHCPv4, name string) {
	kit := net.IP(t.cfg.Server.AsSlice())
	r.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(t.cfg.Network.Bits(), 32)))
	r.UpdateOption(dhcpv4.OptRouter(kit))
	r.UpdateOption(dhcpv4.OptDNS(kit))
	if name != "" && asked(m, dhcpv4.OptionHostName) {
		r.UpdateOption(dhcpv4.OptHostName(name))
	}
	if t.cfg.Domain != "" && asked(m, dhcpv4.OptionDomainName) {
		r.UpdateOption(dhcpv4.OptDomainName(t.cfg.Domain))
	}
	if asked(m, dhcpv4.OptionNTPServers) {
		r.UpdateOption(dhcpv4.OptNTPServers(kit))
	}
	if asked(m, optionCaptivePortal) {
		r.UpdateOption(dhcpv4.OptGeneric(optionCaptivePortal, []byte(unrestricted)))
	}
	if asked(m, optionSIPServers) {
		// Encoding 1 is a list of addresses (RFC 3361 §3.2): no handset waits for a name before its first REGISTER.
		r.UpdateOption(dhcpv4.OptGeneric(optionSIPServers, append([]byte{1}, kit...)))
	}
}

// asked reports whether the client wants an option; one that names none wants what there is.
func asked(m *dhcpv4.DHCPv4, code dhcpv4.OptionCode) bool {
	list := m.Options.Get(dhcpv4.OptionParameterRequestList)
	return len(list) == 0 || slices.Contains(list, code.Code())
}

// send says where an answer goes (RFC 2131 §4.1). The station has no address that it answers ARP for, so it is the
// frame that finds it; one to a single station is acknowledged on the radio and repeated there, which a broadcast is not.
func (t *Table) send(r, m *dhcpv4.DHCPv4, addr netip.Addr) []Output {
	a := &Answer{Message: r, To: addr, MAC: MAC(m.ClientHWAddr)}
	if isZero(m.ClientIPAddr) && m.IsBroadcast() {
		a.To, a.Broadcast = broadcast, true
	}
	return []Output{{Answer: a}}
}

// setName takes the name that the client gives itself, unless another has it or it is one of the kit's own.
func (t *Table) setName(b *binding, m *dhcpv4.DHCPv4) {
	name := Label(string(m.Options.Get(dhcpv4.OptionHostName)))
	if name == b.name {
		return
	}
	if t.byName[b.name] == b {
		delete(t.byName, b.name)
	}
	b.name = ""
	if name != "" && !t.cfg.Reserved(name) && t.byName[name] == nil {
		b.name, t.byName[name] = name, b
	}
}

// Label makes one label of the domain name system out of what people call a thing: letters, digits and hyphens
// (RFC 1123 §2.1), lower case, at most 63; "" if nothing is left. Of a name with dots it is the first part.
func Label(s string) string {
	if len(s) > 255 {
		return ""
	}
	s, _, _ = strings.Cut(strings.TrimRight(s, "\x00"), ".")
	var b strings.Builder
	for _, c := range strings.ToLower(s) {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			b.WriteRune(c)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	r := b.String()
	return strings.Trim(r[:min(len(r), 63)], "-")
}
