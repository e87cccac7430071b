// Package simnet is a network of simulated hosts for tests: UDP over IPv4 between them, with loss, delay and
// partitions, in real time or, inside a testing/synctest bubble, in virtual time. Equal seeds lose the same packets
// of equal traffic.
//
// It carries unicast UDP only. What it hands out is a pion transport.Net, which overlay/link takes in its Config. All
// methods may be called from any goroutine; Watch's function runs on the network's own goroutine.
package simnet

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/logging"
	"github.com/pion/transport/v2"
	"github.com/pion/transport/v2/vnet"
)

// Config describes a network. The zero value loses nothing and takes no time.
type Config struct {
	Delay time.Duration // of every packet; a round trip takes twice as long
	Loss  float64       // probability that a packet is lost, each direction for itself: 0 to 1
	Seed  uint64
}

// Packet is one datagram on its way.
type Packet struct {
	From, To netip.AddrPort
	Data     []byte // not to be kept or changed
}

// Stats counts packets.
type Stats struct {
	Delivered uint64 // handed to the destination's network
	Lost      uint64 // by chance
	Cut       uint64 // by a partition or a dead host
	Bytes     uint64 // of payload delivered
}

// prefix holds every host; queueSize is far above what tests have on the way at one time.
const (
	prefix    = "10.0.0.0/8"
	queueSize = 1 << 16
)

// Network is the medium.
type Network struct {
	router *vnet.Router

	mu    sync.Mutex // a leaf
	rng   *rand.Rand
	loss  float64
	group map[netip.Addr]int // of a partition; nil when whole
	dead  map[netip.Addr]bool
	watch func(Packet) bool
	stats Stats
}

// New starts a network; Close ends it.
func New(cfg Config) (*Network, error) {
	if cfg.Loss < 0 || cfg.Loss > 1 || cfg.Delay < 0 {
		return nil, fmt.Errorf("simulated network with loss %v, delay %v", cfg.Loss, cfg.Delay)
	}
	router, err := vnet.NewRouter(&vnet.RouterConfig{
		CIDR: prefix, MinDelay: cfg.Delay, QueueSize: queueSize,
		LoggerFactory: &logging.DefaultLoggerFactory{DefaultLogLevel: logging.LogLevelDisabled, ScopeLevels: map[string]logging.LogLevel{}},
	})
	if err != nil {
		return nil, fmt.Errorf("simulated network: %w", err)
	}
	n := &Network{
		router: router, loss: cfg.Loss, dead: make(map[netip.Addr]bool),
		rng: rand.New(rand.NewPCG(cfg.Seed, 0x5eed)),
	}
	router.AddChunkFilter(n.pass)
	if err := router.Start(); err != nil {
		return nil, fmt.Errorf("simulated network: %w", err)
	}
	return n, nil
}

// Close stops delivery; what is on the way is lost.
func (n *Network) Close() error { return n.router.Stop() }

// Host adds a host with one address in 10.0.0.0/8.
func (n *Network) Host(addr netip.Addr) (transport.Net, error) {
	h, err := vnet.NewNet(&vnet.NetConfig{StaticIPs: []string{addr.String()}})
	if err != nil {
		return nil, fmt.Errorf("simulated host %v: %w", addr, err)
	}
	if err := n.router.AddNet(h); err != nil {
		return nil, fmt.Errorf("simulated host %v: %w", addr, err)
	}
	return h, nil
}

// SetLoss changes the probability of loss.
func (n *Network) SetLoss(p float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss = p
}

// Partition cuts the network: hosts hear only those of their own group. A host in no group hears nobody.
func (n *Network) Partition(groups ...[]netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.group = make(map[netip.Addr]int)
	for i, g := range groups {
		for _, a := range g {
			n.group[a] = i + 1
		}
	}
}

// Heal ends a partition.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.group = nil
}

// Kill silences a host in both directions, without a goodbye; Revive undoes it.
func (n *Network) Kill(addr netip.Addr) { n.setDead(addr, true) }

// Revive undoes Kill.
func (n *Network) Revive(addr netip.Addr) { n.setDead(addr, false) }

func (n *Network) setDead(addr netip.Addr, dead bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead[addr] = dead
}

// Watch has f see every packet that is neither lost nor cut; one for which it returns false is dropped. nil ends it.
func (n *Network) Watch(f func(Packet) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.watch = f
}

// Stats returns the counters.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// pass decides on one packet, in the order in which they were sent.
func (n *Network) pass(c vnet.Chunk) bool {
	p := Packet{From: addrPort(c.SourceAddr()), To: addrPort(c.DestinationAddr()), Data: c.UserData()}
	n.mu.Lock()
	from, to := n.group[p.From.Addr()], n.group[p.To.Addr()]
	switch {
	case n.dead[p.From.Addr()] || n.dead[p.To.Addr()], n.group != nil && (from == 0 || from != to):
		n.stats.Cut++
		n.mu.Unlock()
		return false
	case n.loss > 0 && n.rng.Float64() < n.loss:
		n.stats.Lost++
		n.mu.Unlock()
		return false
	}
	watch := n.watch
	n.stats.Delivered++
	n.stats.Bytes += uint64(len(p.Data))
	n.mu.Unlock()
	return watch == nil || watch(p)
}

func addrPort(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := u.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
