package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/transport/v2"
	"github.com/pion/transport/v2/stdnet"
)

const (
	// closeTimeout bounds how long Close waits for goroutines that say goodbye to far ends.
	closeTimeout = 5 * time.Second

	refusalRate, refusalBurst = 2, 10
)

// Transport makes links for one kit: it owns the bootstrap listener and every link made through it.
type Transport struct {
	cfg        Config
	born       time.Time // by cfg.Now; what pulses count from
	net        transport.Net
	cert       tls.Certificate
	libraryLog quietLogger
	refusals   *bucket
	stats      transportStats
	listener   *listener
	tcp        *tcpListener // nil where no links over TCP are made

	protocols  []uint8 // overlay link types that the overlay permits
	links      registry
	neighbours neighbours
	unreached  atomic.Int64 // Unix nanoseconds; 0: never

	closeListener func() error // once
	accepted      chan *Conn

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  tracker
}

type transportStats struct {
	guard                           guardStats
	attempts                        atomic.Int64 // under way
	refused, refusedUnreported      atomic.Uint64
	bootstrapDropped, bootstrapBusy atomic.Uint64
	cookiesSent, cookiesProven      atomic.Uint64
	acceptOverflow                  atomic.Uint64
	handshakes, handshakesFailed    atomic.Uint64
	conns, appConns                 atomic.Int64
	bootstrapSessions, tcpSessions  atomic.Int64
}

// Stats is what a Transport counts.
type Stats struct {
	Conns             int64 `json:"conns"`              // links open
	AppConns          int64 `json:"app_conns"`          // application connections open
	Relayed           int64 `json:"relayed"`            // of both, those through a relay
	Attempts          int64 `json:"attempts"`           // between Prepare and the end of Connect
	BootstrapSessions int64 `json:"bootstrap_sessions"` // on the bootstrap port, handshakes included

	Handshakes        uint64 `json:"handshakes"` // finished
	HandshakesFailed  uint64 `json:"handshakes_failed"`
	Refused           uint64 `json:"refused"`            // peers refused
	RefusedUnreported uint64 `json:"refused_unreported"` // of these, not told to OnRefused
	BootstrapDropped  uint64 `json:"bootstrap_dropped"`  // datagrams that may not open a handshake, or to an address not ours to serve
	BootstrapBusy     uint64 `json:"bootstrap_busy"`     // handshakes not begun because of a limit
	CookiesSent       uint64 `json:"cookies_sent"`       // stateless address checks asked for
	CookiesProven     uint64 `json:"cookies_proven"`
	AcceptOverflow    uint64 `json:"accept_overflow"` // links closed because nobody accepted them

	RecordsDropped   uint64 `json:"records_dropped"`   // by the record guard
	DatagramsDropped uint64 `json:"datagrams_dropped"` // neither STUN, DTLS nor media, or too long
	STUNDropped      uint64 `json:"stun_dropped"`      // by the STUN guard
	MediaDropped     uint64 `json:"media_dropped"`     // media that is not from a selected far end
	Overflow         uint64 `json:"overflow"`          // datagrams that found their link's buffer full
}

// New opens the bootstrap listener.
func New(cfg Config) (*Transport, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	protocols, err := protocolsOf(cfg.NoICE, cfg.LinkProtocols, cfg.SharedSecret != nil)
	if err != nil {
		return nil, err
	}
	t := &Transport{
		protocols: protocols, cfg: cfg, born: cfg.Now(), net: cfg.Net, cert: cfg.Identity.TLSCertificate(), libraryLog: quietLogger{cfg.Log},
		refusals: newBucket(refusalRate, refusalBurst), accepted: make(chan *Conn, acceptBacklog),
	}
	if t.net == nil {
		if t.net, err = stdnet.NewNet(); err != nil {
			return nil, fmt.Errorf("host network: %w", err)
		}
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	if t.listener, err = t.listen(); err != nil {
		t.cancel()
		return nil, err
	}
	t.closeListener = sync.OnceValue(t.listener.close)
	if len(t.listener.tcp) > 0 {
		t.tcp = t.serveTCP(t.listener.tcp)
	}
	return t, nil
}

// Port is the UDP and TCP port of the bootstrap listener.
func (t *Transport) Port() uint16 { return t.listener.port }

// Accept returns the next link that a neighbour opened on the bootstrap port; its certificate is checked.
func (t *Transport) Accept(ctx context.Context) (*Conn, error) {
	select {
	case c := <-t.accepted:
		return c, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("accept: %w", ctx.Err())
	case <-t.ctx.Done():
		return nil, ErrClosed
	}
}

// Close closes the listener and every link, and waits a little for goodbyes to be sent. It may be called again.
func (t *Transport) Close() error {
	t.cancel()
	err := t.closeListener()
	if !t.tasks.wait(closeTimeout) {
		err = errors.Join(err, errors.New("link transport: goroutines left after close"))
	}
	return err
}

// Stats returns the counters.
func (t *Transport) Stats() Stats {
	s := &t.stats
	var relayed int64
	for _, c := range t.links.all() {
		if c.Relayed() {
			relayed++
		}
	}
	return Stats{
		Relayed: relayed,
		Conns:   s.conns.Load(), AppConns: s.appConns.Load(), Attempts: s.attempts.Load(),
		BootstrapSessions: s.bootstrapSessions.Load() + s.tcpSessions.Load(),
		Handshakes:        s.handshakes.Load(), HandshakesFailed: s.handshakesFailed.Load(),
		Refused: s.refused.Load(), RefusedUnreported: s.refusedUnreported.Load(),
		BootstrapDropped: s.bootstrapDropped.Load(), BootstrapBusy: s.bootstrapBusy.Load(),
		CookiesSent: s.cookiesSent.Load(), CookiesProven: s.cookiesProven.Load(),
		AcceptOverflow: s.acceptOverflow.Load(),
		RecordsDropped: s.guard.recordsDropped.Load(), DatagramsDropped: s.guard.datagramsDropped.Load(),
		STUNDropped: s.guard.stunDropped.Load(), MediaDropped: s.guard.mediaDropped.Load(),
		Overflow: s.guard.overflow.Load(),
	}
}

// AddressesChanged closes the links whose local address Config.Addresses no longer names, without waiting until their
// silence is noticed. To be called when an address or an interface went away.
func (t *Transport) AddressesChanged() {
	t.listener.allowed.forget()
	var usable []netip.Addr
	for _, a := range t.cfg.Addresses() {
		usable = append(usable, a.Unmap())
	}
	for _, c := range t.links.all() {
		if home := c.home(); home.IsValid() && !home.IsUnspecified() && !t.mayUse(home, usable) {
			c.end(fmt.Errorf("%w: %v is no longer ours", ErrNoAddress, home))
		}
	}
}

// mayUse tells whether the overlay may use a local address, given those it was told of. Link-local ones are told apart
// by their zone, where it is known.
func (t *Transport) mayUse(local netip.Addr, usable []netip.Addr) bool {
	for _, a := range usable {
		if a == local || a.WithZone("") == local.WithZone("") && (a.Zone() == "" || local.Zone() == "") {
			return true
		}
	}
	return local.IsLinkLocalUnicast() && local.Zone() != "" && t.cfg.Interfaces != nil && t.cfg.Interfaces(local.Zone()) && assigned(local)
}

// assigned tells whether a link-local address is still on its interface.
func assigned(a netip.Addr) bool {
	ifc, err := net.InterfaceByName(a.Zone())
	if err != nil || ifc.Flags&net.FlagUp == 0 {
		return false
	}
	list, err := ifc.Addrs()
	if err != nil {
		return false
	}
	for _, x := range list {
		if n, ok := x.(*net.IPNet); ok && n.IP.Equal(a.AsSlice()) {
			return true
		}
	}
	return false
}

// usable is the local addresses for ICE: no duplicates, no link-local IPv6, which needs a zone at both ends and
// has no place in a candidate.
func (t *Transport) usable() []netip.Addr {
	var out []netip.Addr
	seen := make(map[netip.Addr]bool)
	for _, a := range t.cfg.Addresses() {
		a = a.Unmap()
		if !a.IsValid() || seen[a] || a.Is6() && (a.IsLinkLocalUnicast() || a.Zone() != "") || a.IsUnspecified() || a.IsMulticast() {
			continue
		}
		seen[a] = true
		if out = append(out, a); len(out) == maxLocalAddresses {
			break
		}
	}
	return out
}

// tracker counts goroutines. Unlike a WaitGroup it may be waited on with a limit and still be added to.
type tracker struct {
	mu   sync.Mutex
	n    int
	idle chan struct{}
}

func (k *tracker) run(f func()) {
	k.add()
	go func() {
		defer k.done()
		f()
	}()
}

func (k *tracker) add() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.n++
}

func (k *tracker) done() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.n--; k.n == 0 && k.idle != nil {
		close(k.idle)
		k.idle = nil
	}
}

func (k *tracker) wait(limit time.Duration) bool {
	k.mu.Lock()
	if k.n == 0 {
		k.mu.Unlock()
		return true
	}
	if k.idle == nil {
		k.idle = make(chan struct{})
	}
	idle := k.idle
	k.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-idle:
		return true
	case <-timer.C:
		return false
	}
}
