package links

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/arp"
)

// Constants of RFC 3927 §9, by the names they have there.
const (
	probeWait         = time.Second
	probeNum          = 3
	probeMin          = time.Second
	probeMax          = 2 * time.Second
	announceWait      = 2 * time.Second
	announceNum       = 2
	announceInterval  = 2 * time.Second
	maxConflicts      = 10
	rateLimitInterval = time.Minute
	defendInterval    = 10 * time.Second
)

// linkLocal4 is the network of IPv4 link-local addresses (RFC 3927 §2.1).
var linkLocal4 = netip.MustParsePrefix("169.254.0.0/16")

// phase is how far a claim is.
type phase int

const (
	resting   phase = iota // no carrier: nothing is claimed
	probing                // asking whether somebody has the address
	waiting                // asked often enough; nobody has it so far
	announced              // in use; the second announcement is due
	bound                  // in use
)

func (p phase) String() string {
	return [...]string{"resting", "probing", "probing", "bound", "bound"}[p]
}

// act is what the owner of a claim has to do.
type act int

const (
	probe    act = iota + 1 // send an ARP probe for the address (RFC 3927 §2.2.1)
	announce                // send an ARP announcement of it (§2.4)
	assign                  // give the address to the interface
	release                 // take it from the interface
)

type action struct {
	act  act
	addr netip.Addr
}

// claim is one interface's IPv4 link-local address (RFC 3927): pure, driven by time and by the ARP packets that came
// in. Its addresses are a sequence that the seed decides, so that an interface has the same one after every start
// unless somebody else took it ("the pseudo-random number generation algorithm MUST be chosen so that different hosts do
// not generate the same sequence", §2.1).
type claim struct {
	mac    net.HardwareAddr
	seed   [32]byte
	random func() float64 // 0 to 1; for the timing alone

	phase     phase
	addr      netip.Addr
	picked    uint32 // addresses chosen so far, of the sequence
	sent      int    // probes or announcements in this phase
	deadline  time.Time
	conflicts int       // since an address was bound last
	defended  time.Time // zero: never
	lost      uint64    // conflicts that cost an address, for the statistics
}

func newClaim(seed [32]byte, mac net.HardwareAddr, random func() float64) *claim {
	return &claim{mac: mac, seed: seed, random: random}
}

// Address is the address in use; invalid while there is none.
func (c *claim) address() netip.Addr {
	if c.phase == announced || c.phase == bound {
		return c.addr
	}
	return netip.Addr{}
}

// candidate is the i-th address of the sequence: "uniform distribution in the range from 169.254.1.0 to 169.254.254.255
// inclusive" (RFC 3927 §2.1).
func candidate(seed [32]byte, i uint32) netip.Addr {
	h := sha256.Sum256(binary.BigEndian.AppendUint32(seed[:], i))
	n := 256 + binary.BigEndian.Uint64(h[:8])%(65536-512)
	return netip.AddrFrom4([4]byte{169, 254, byte(n >> 8), byte(n)})
}

// carrier tells that the interface can be used, or not any more. "When an interface becomes active" probing begins anew
// (§2.2), with the address it had: on the same cable it is still its own, on another one it may be taken.
func (c *claim) carrier(now time.Time, up bool) []action {
	switch {
	case up && c.phase == resting:
		if !c.addr.IsValid() {
			c.next()
		}
		c.conflicts = 0
		c.begin(now)
	case !up && c.phase != resting:
		had := c.address()
		c.phase, c.deadline = resting, time.Time{}
		if had.IsValid() {
			return []action{{release, had}}
		}
	}
	return nil
}

func (c *claim) next() {
	c.addr = candidate(c.seed, c.picked)
	c.picked++
}

// begin starts to probe: "wait for a random time interval selected uniformly in the range zero to PROBE_WAIT seconds" (§2.2.1).
func (c *claim) begin(now time.Time) {
	wait := time.Duration(c.random() * float64(probeWait))
	if c.conflicts >= maxConflicts {
		// §2.2.1: "the host MUST limit the rate at which it probes for new addresses to no more than one new address per
		// RATE_LIMIT_INTERVAL".
		wait += rateLimitInterval
	}
	c.phase, c.sent, c.deadline = probing, 0, now.Add(wait)
}

// due is when tick wants to be called; zero is never.
func (c *claim) due() time.Time { return c.deadline }

// tick takes in that time passed.
func (c *claim) tick(now time.Time) []action {
	if c.deadline.IsZero() || now.Before(c.deadline) {
		return nil
	}
	switch c.phase {
	case probing:
		c.sent++
		if c.sent < probeNum {
			c.deadline = now.Add(probeMin + time.Duration(c.random()*float64(probeMax-probeMin)))
		} else {
			c.phase, c.deadline = waiting, now.Add(announceWait)
		}
		return []action{{probe, c.addr}}
	case waiting:
		c.phase, c.sent, c.deadline = announced, 1, now.Add(announceInterval)
		return []action{{assign, c.addr}, {announce, c.addr}}
	case announced:
		if c.sent++; c.sent >= announceNum {
			c.phase, c.deadline, c.conflicts = bound, time.Time{}, 0
		} else {
			c.deadline = now.Add(announceInterval)
		}
		return []action{{announce, c.addr}}
	}
	return nil
}

// packet takes in an ARP packet that came in on the interface; own are the hardware addresses of all interfaces of this
// kit, several of which may be on one switch.
func (c *claim) packet(now time.Time, p *arp.Packet, own []net.HardwareAddr) []action {
	if !p.SenderIP.Is4() || isOwn(p.SenderHardwareAddr, own) {
		return nil
	}
	switch c.phase {
	case probing, waiting:
		// §2.2.1: "If during this period, from the beginning of the probing process until ANNOUNCE_WAIT seconds after the
		// last probe packet is sent, the host receives any ARP packet […] where the packet's 'sender IP address' is the
		// address being probed for" or "an ARP Probe where the packet's 'target IP address' is the address being probed
		// for".
		theirs := p.SenderIP == c.addr
		both := p.SenderIP.IsUnspecified() && p.Operation == arp.OperationRequest && p.TargetIP == c.addr
		if theirs || both {
			c.conflict(now)
		}
	case announced, bound:
		if p.SenderIP != c.addr {
			return nil
		}
		// §2.5 (b): defend once, by a single announcement, and give way to a second conflict within DEFEND_INTERVAL, lest
		// two hosts that both defend keep at it for ever.
		if c.defended.IsZero() || now.Sub(c.defended) >= defendInterval {
			c.defended = now
			return []action{{announce, c.addr}}
		}
		had := c.addr
		c.conflict(now)
		return []action{{release, had}}
	}
	return nil
}

func (c *claim) conflict(now time.Time) {
	c.conflicts++
	c.lost++
	c.defended = time.Time{}
	c.next()
	c.begin(now)
}

func isOwn(a net.HardwareAddr, own []net.HardwareAddr) bool {
	return slices.ContainsFunc(own, func(o net.HardwareAddr) bool { return bytes.Equal(a, o) })
}

// probePacket asks who has addr without claiming it: "the 'sender IP address' field MUST be set to all zeroes, to avoid
// polluting ARP caches" (RFC 3927 §2.2.1).
func probePacket(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	return arpRequest(mac, netip.IPv4Unspecified(), addr)
}

// announcement is a probe "except that now the sender and target IP addresses are both set to the host's newly selected
// IPv4 address" (RFC 3927 §2.4).
func announcement(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	return arpRequest(mac, addr, addr)
}

func arpRequest(mac net.HardwareAddr, sender, target netip.Addr) ([]byte, error) {
	p, err := arp.NewPacket(arp.OperationRequest, mac, sender, make(net.HardwareAddr, len(mac)), target)
	if err != nil {
		return nil, err
	}
	return p.MarshalBinary()
}

// parseARP reads an ARP packet of IPv4 over Ethernet (RFC 826); the frame's padding may follow it.
func parseARP(b []byte) (*arp.Packet, bool) {
	const size = 28
	if len(b) < size || binary.BigEndian.Uint16(b) != 1 || binary.BigEndian.Uint16(b[2:]) != 0x0800 || b[4] != 6 || b[5] != 4 {
		return nil, false
	}
	p := new(arp.Packet)
	if p.UnmarshalBinary(b[:size]) != nil {
		return nil, false
	}
	return p, p.Operation == arp.OperationRequest || p.Operation == arp.OperationReply
}
