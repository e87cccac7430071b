// Package turn is the STUN and TURN server that every kit runs for the others (RFC 8489, RFC 8656; RFC 6940 §6.5.1.4
// and §9): two kits that share no link, but both share one with a third, reach each other through it. Over UDP; a
// relayed address is of the family that the client asks over, which the TURN client of the pinned ICE library has no other
// way to say (docs/adr/0030-links-by-radio.md).
//
// It is no relay for anybody else, and to nowhere else. Who may have an allocation, and with which key, Config.Credential
// says; where one may send, Config.MayReach says, and beyond that only what ICE, DTLS and SRTP look like is carried, to
// no port that a kit offers a service on, and to a kit's own addresses only between the relays of that kit. Everything is
// bounded: allocations in all and for each member, their idle time, permissions, channels, bandwidth, and requests.
//
// The package does not know where the keys come from, who is a member, or what is relayed. The protocol is the
// library's (pion/turn); what stands before and behind it is here: front.go filters what clients send, relay.go what
// leaves and enters by the relayed addresses.
//
// Ownership: Run owns the listening sockets. Stats and Addrs may be called from any goroutine. Config's functions are
// called from several.
package turn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/logging"
	"github.com/pion/transport/v2"
	"github.com/pion/transport/v2/stdnet"
	"github.com/pion/turn/v2"

	"fieldkit/overlay/wire"
)

// DefaultPort is that of STUN and of TURN (RFC 8489 §18.6, RFC 8656 §3.1).
const DefaultPort = 3478

// Limits. Each has a counter in Stats for what it turned away.
const (
	maxAllocations = 256
	maxPerMember   = 64 // a kit that joins makes two attempts for each of some 16 neighbours, and more for trunks
	maxPermissions = 32 // IP addresses that an allocation may send to
	maxChannels    = 64 // of an allocation
	MaxAddresses   = 8  // that one Server serves; what comes after is not
	maxSources     = 256

	// bandwidth is what one allocation may carry each way, in bytes a second: some twenty calls. bandwidthAll is that
	// of all together: a kit has its own work, too. A second's worth may come at once.
	bandwidth    = 256 << 10
	bandwidthAll = 2 << 20

	requestRate  = 200 // requests a second from one address; joining takes a few for each pair of candidates
	requestBurst = 600

	// idleLife is how long an allocation lives that nothing is sent through. ICE sends every 15 s on a pair that is
	// in use (RFC 5245 §10); what was gathered and not chosen is given up so.
	idleLife = time.Minute
	sweep    = 2 * time.Second
	endLimit = 2 * time.Second // for the library's goroutines to end
)

// Config is what a Server is made of. Realm, Addresses, Credential and MayReach are required.
type Config struct {
	// Addresses are the overlay's on this kit; the IPv4 ones are served, and are what relayed addresses are made of.
	// It is asked anew every two seconds, and by AddressesChanged.
	Addresses func() []netip.Addr
	Port      uint16 // UDP; 0 is DefaultPort
	Realm     string // of the long-term credentials (RFC 8489 §9.2): this kit's Node-ID

	// Credential is the member who has a user name, and the password; ok is false for a stranger.
	Credential func(username string) (member wire.NodeID, password string, ok bool)
	// MayReach says whether a relay may send to an address, of any port that is open to it: whether another kit is
	// there. What it says of this kit's own addresses, of loopback and of what lies in Never is not asked for.
	MayReach func(netip.Addr) bool
	// Never are networks that are neither served nor sent to: the handsets'.
	Never []netip.Prefix
	// ClosedPorts are sent to by no relay, above those below 1024, which none are: what kits offer services on.
	ClosedPorts []uint16

	Net transport.Net    // nil is the host's network; tests give a simulated one
	Log *slog.Logger     // nil discards
	Now func() time.Time // nil is time.Now
}

// Server is one kit's STUN and TURN server.
type Server struct {
	cfg      Config
	log      *slog.Logger
	stats    counters
	total    bucket
	limiter  sources
	ran      atomic.Bool
	nextAddr atomic.Uint32
	changed  chan struct{}                // holds one
	own      atomic.Pointer[[]netip.Addr] // served, as of the last look; asked for every packet

	mu        sync.Mutex // a leaf
	listeners map[netip.Addr]*listener
	relays    map[netip.AddrPort]*relay
	members   map[wire.NodeID]int
	failed    map[netip.Addr]bool // addresses that could not be listened on, told of once
}

type listener struct {
	front  *front
	server *turn.Server
}

// New checks the configuration.
func New(cfg Config) (*Server, error) {
	if cfg.Addresses == nil || cfg.Credential == nil || cfg.MayReach == nil || cfg.Realm == "" {
		return nil, errors.New("TURN server without addresses, credentials, destinations or realm")
	}
	if cfg.Port == 0 {
		cfg.Port = DefaultPort
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Net == nil {
		n, err := stdnet.NewNet()
		if err != nil {
			return nil, fmt.Errorf("host network: %w", err)
		}
		cfg.Net = n
	}
	// A relay to a TURN server would be a relay within a relay.
	cfg.ClosedPorts = append(slices.Clone(cfg.ClosedPorts), cfg.Port, DefaultPort)
	s := &Server{
		cfg: cfg, log: cfg.Log,
		listeners: make(map[netip.Addr]*listener), relays: make(map[netip.AddrPort]*relay),
		members: make(map[wire.NodeID]int), failed: make(map[netip.Addr]bool), changed: make(chan struct{}, 1),
	}
	s.own.Store(new([]netip.Addr))
	return s, nil
}

// Run serves until ctx ends, at the addresses that there are. It can be called once.
func (s *Server) Run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return errors.New("TURN server run twice")
	}
	defer s.close()
	tick := time.NewTicker(sweep)
	defer tick.Stop()
	for {
		s.follow()
		s.expire()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.changed:
		}
	}
}

// AddressesChanged has the server look at Config.Addresses at once.
func (s *Server) AddressesChanged() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// addresses are those that are served.
func (s *Server) addresses() (r []netip.Addr) {
	for _, a := range s.cfg.Addresses() {
		if a = a.Unmap(); !a.IsUnspecified() && !a.IsLoopback() && (a.Is4() || a.Zone() == "" && !a.IsLinkLocalUnicast()) && !s.never(a) && !slices.Contains(r, a) && len(r) < MaxAddresses {
			r = append(r, a)
		}
	}
	return r
}

func (s *Server) never(a netip.Addr) bool {
	return slices.ContainsFunc(s.cfg.Never, func(p netip.Prefix) bool { return p.Contains(a) })
}

// follow opens and closes listening sockets as addresses come and go.
func (s *Server) follow() {
	want := s.addresses()
	s.own.Store(&want)
	s.mu.Lock()
	var gone []*listener
	for a, l := range s.listeners {
		if !slices.Contains(want, a) || l.front.failed() {
			gone = append(gone, l)
			delete(s.listeners, a)
		}
	}
	var missing []netip.Addr
	for _, a := range want {
		if s.listeners[a] == nil {
			missing = append(missing, a)
		}
	}
	s.mu.Unlock()
	for _, l := range gone {
		_ = l.server.Close()
	}
	for _, a := range missing {
		l, err := s.listen(a)
		s.mu.Lock()
		if err != nil && !s.failed[a] {
			s.log.Warn("TURN server", "address", a, "err", err)
		}
		if s.failed[a] = err != nil; err == nil {
			s.log.Debug("TURN server", "address", a)
			delete(s.failed, a)
			s.listeners[a] = l
		}
		s.mu.Unlock()
	}
}

func (s *Server) listen(a netip.Addr) (*listener, error) {
	f, err := s.newFront(netip.AddrPortFrom(a, s.cfg.Port))
	if err != nil {
		return nil, err
	}
	// One server of the library for each address, so that all it asks for one request comes from one goroutine.
	srv, err := turn.NewServer(turn.ServerConfig{
		Realm:         s.cfg.Realm,
		AuthHandler:   f.authorize,
		LoggerFactory: &logging.DefaultLoggerFactory{DefaultLogLevel: logging.LogLevelDisabled, ScopeLevels: map[string]logging.LogLevel{}},
		PacketConnConfigs: []turn.PacketConnConfig{{
			PacketConn: f, RelayAddressGenerator: generator{f}, PermissionHandler: f.permit,
		}},
	})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &listener{f, srv}, nil
}

// expire closes the allocations that nothing was sent through for idleLife, and those whose address is no longer ours;
// the library takes notice.
func (s *Server) expire() {
	now := s.cfg.Now()
	var idle []*relay
	s.mu.Lock()
	for _, r := range s.relays {
		if now.Sub(r.lastUsed()) >= idleLife || !s.owns(r.at.Addr()) {
			idle = append(idle, r)
		}
	}
	s.mu.Unlock()
	for _, r := range idle {
		s.stats.expired.Add(1)
		_ = r.Close()
	}
}

// close ends everything and waits a little for the library's goroutines, which it does not wait for itself.
func (s *Server) close() {
	s.mu.Lock()
	var ended []<-chan struct{}
	var servers []*turn.Server
	for a, l := range s.listeners {
		servers = append(servers, l.server)
		ended = append(ended, l.front.ended)
		delete(s.listeners, a)
	}
	var relays []*relay
	for _, r := range s.relays {
		relays = append(relays, r)
		ended = append(ended, r.ended)
	}
	s.mu.Unlock()
	for _, srv := range servers {
		_ = srv.Close()
	}
	for _, r := range relays {
		_ = r.Close()
	}
	limit := time.NewTimer(endLimit)
	defer limit.Stop()
	for _, c := range ended {
		select {
		case <-c:
		case <-limit.C:
			return
		}
	}
}

// Addrs are the addresses served now, ascending.
func (s *Server) Addrs() (r []netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := range s.listeners {
		r = append(r, netip.AddrPortFrom(a, s.cfg.Port))
	}
	slices.SortFunc(r, netip.AddrPort.Compare)
	return r
}

// pick chooses the address of a relay for a client that asked at an address: another one where there is, since the
// client's own link is the one that its far end does not share; of several one after the other.
func (s *Server) pick(asked netip.Addr) netip.Addr {
	others := slices.DeleteFunc(slices.Clone(*s.own.Load()), func(a netip.Addr) bool { return a == asked || a.Is4() != asked.Is4() })
	if len(others) == 0 {
		return asked
	}
	return others[int(s.nextAddr.Add(1)-1)%len(others)]
}

// owns reports whether an address is one that this kit serves.
func (s *Server) owns(a netip.Addr) bool { return slices.Contains(*s.own.Load(), a) }

// Stats is what a Server counts.
type Stats struct {
	Listening   int `json:"listening"`   // addresses served
	Allocations int `json:"allocations"` // open
	Members     int `json:"members"`     // that have some

	Bindings     uint64 `json:"bindings"`  // STUN Binding requests answered
	Allocated    uint64 `json:"allocated"` // allocations ever made
	Expired      uint64 `json:"expired"`   // of these, given up because nothing was sent
	Relayed      uint64 `json:"relayed"`   // packets carried, both ways
	RelayedBytes uint64 `json:"relayed_bytes"`

	Unauthorized uint64 `json:"unauthorized"`  // requests of strangers, and of members for an allocation not theirs
	Quota        uint64 `json:"quota"`         // allocations, permissions and channels refused because of a limit
	Forbidden    uint64 `json:"forbidden"`     // permissions refused and packets not sent: the destination is not open to relays
	NotRelayable uint64 `json:"not_relayable"` // packets that neither ICE, DTLS nor SRTP send
	OverRate     uint64 `json:"over_rate"`     // packets and requests beyond the bandwidth and the rate
	Dropped      uint64 `json:"dropped"`       // malformed, from where nobody is served, or nobody asked for
}

type counters struct {
	bindings, allocated, expired, relayed, relayedBytes             atomic.Uint64
	unauthorized, quota, forbidden, notRelayable, overRate, dropped atomic.Uint64
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	r := Stats{Listening: len(s.listeners), Allocations: len(s.relays), Members: len(s.members)}
	s.mu.Unlock()
	c := &s.stats
	r.Bindings, r.Allocated, r.Expired = c.bindings.Load(), c.allocated.Load(), c.expired.Load()
	r.Relayed, r.RelayedBytes = c.relayed.Load(), c.relayedBytes.Load()
	r.Unauthorized, r.Quota, r.Forbidden = c.unauthorized.Load(), c.quota.Load(), c.forbidden.Load()
	r.NotRelayable, r.OverRate, r.Dropped = c.notRelayable.Load(), c.overRate.Load(), c.dropped.Load()
	return r
}
