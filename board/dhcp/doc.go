// Package dhcp gives handsets their addresses (RFC 2131, RFC 2132). It stands on every kit with the same network and
// the same server address, and no two of them speak to each other: a handset's address follows from its hardware
// address, so that every kit comes to the same one and a handset that roams keeps it. That derivation is also the
// record that a server needs to confirm an address it never gave out (RFC 2131 §4.3.2), so leases are not stored: a kit
// that restarts confirms what its handsets have.
//
// Table decides: it is a function of the time and of what came in, without sockets and goroutines, and belongs to one
// goroutine. Serve is the shell around it: packet sockets on the handsets' interface, one goroutine that owns the
// Table, two that read. It answers on one link only; what relay agents send is ignored, and so is BOOTP.
package dhcp

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Limits and times.
const (
	MaxLeases    = 512              // of a kit; a radio carries far fewer stations
	maxStations  = 1024             // hardware addresses that are told apart, most of them about to be forgotten
	perStation   = 2                // leases of one hardware address: a second system on one device
	candidates   = 32               // addresses of one station, in its order
	maxDeclined  = 256              // addresses that were found in use
	maxClaims    = 3                // of these, that one station answered for: more than a system has by accident
	offerTime    = 15 * time.Second // an offer that nobody takes
	declineTime  = 10 * time.Minute // an address that was found in use
	stationTime  = time.Minute      // a station without a lease
	probes       = 2                // ARP requests before an offer
	probeWait    = 200 * time.Millisecond
	stationBurst = 10 // messages of one station at once,
	stationRate  = 1  // and each second afterwards
	newBurst     = 64 // stations never heard of at once: a team that switches its handsets on,
	newRate      = 4  // and each second afterwards
	fullWindow   = time.Minute
	sweepEvery   = time.Second // at most, what ended is looked for when a message comes
)

// DefaultLeaseTime is how long a lease lasts where Config leaves it zero. A handset asks again after half of it.
const DefaultLeaseTime = time.Hour

// Config is what handsets are told. Server and Network are required.
type Config struct {
	Server  netip.Addr   // the kit: router, name server, time server and SIP server at once
	Network netip.Prefix // IPv4, of at least 64 addresses
	Domain  string       // option 15; "" is none

	LeaseTime time.Duration // whole seconds; zero is DefaultLeaseTime
	// Reserved says which host names no handset gets, such as the kit's own; labels come in lower case. nil reserves none.
	Reserved func(label string) bool
}

var errConfig = errors.New("DHCP configuration")

// pool is the part of the network that handsets get: without a 256th of it at either end, which holds the kit, the
// broadcast address and what people configure by hand.
type pool struct {
	first uint32
	size  uint32
}

func newPool(network netip.Prefix) (pool, error) {
	if !network.Addr().Is4() || network.Bits() > 26 || network.Bits() < 8 || network != network.Masked() {
		return pool{}, fmt.Errorf("%w: network %v: want IPv4 with a prefix of 8 to 26 bits", errConfig, network)
	}
	all := uint32(1) << (32 - network.Bits())
	edge := max(all/256, 8)
	base := network.Addr().As4()
	return pool{first: binary.BigEndian.Uint32(base[:]) + edge, size: all - 2*edge}, nil
}

// address is the i-th address of a station: the same at every kit, since nothing but the hardware address goes in.
func (p pool) address(mac MAC, i int) netip.Addr {
	h := sha256.Sum256(append(mac[:], byte(i)))
	n := p.first + uint32(binary.BigEndian.Uint64(h[:])%uint64(p.size))
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// MAC is an Ethernet or Wi-Fi hardware address.
type MAC [6]byte

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Lease is an address that a station has.
type Lease struct {
	MAC  MAC
	Addr netip.Addr
	Name string // host name, one label in lower case; "" if it gave none that can be used
	Ends time.Time
}

// Stats counts what came and what became of it.
type Stats struct {
	Discovers, Requests, Informs, Releases, Declines uint64
	Offers, Acks, Naks                               uint64
	Conflicts                                        uint64 // addresses that somebody else answered for
	Full                                             uint64 // stations refused because there is no room
	RateLimited                                      uint64 // messages of stations that send too many
	Foreign                                          uint64 // messages of another station than they claim, or by a relay agent
	Invalid                                          uint64 // messages that are no DHCP, or that a client must not send
	OtherServer                                      uint64 // offers that were turned down in favour of another server's
}
