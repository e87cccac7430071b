package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grandcat/zeroconf"
)

const (
	// responderLife is the least time between the start and the shutdown of a
	// responder: its receivers add themselves to a WaitGroup that Shutdown
	// waits for, and both at once may panic.
	responderLife   = 150 * time.Millisecond
	minRetry        = 200 * time.Millisecond
	maxRetry        = 5 * time.Second
	entriesBuffered = 32
)

// errFamily: the interface has no address of a kind that multicast DNS needs.
var errFamily = errors.New("interface has no usable address")

// station announces and browses on one interface as it was at one time. The
// loop reads state only.
type station struct {
	cfg     Config
	textNow *atomic.Pointer[Text]
	ifc     Interface
	reports chan<- report
	cancel  context.CancelFunc
	done    chan struct{}
	text    chan struct{} // the text changed
	kick    chan struct{} // browse now
	suspect atomic.Bool   // a listed peer did not answer
	peers   atomic.Int32  // of our overlay, listed on this interface
	random  func() float64

	state InterfaceState // owned by the loop

	mu   sync.Mutex
	said InterfaceState // what was reported last; both goroutines of the station change it
}

func (s *station) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { s.announce(ctx) })
	s.browse(ctx)
	wg.Wait()
}

// tell reports to the loop; it gives up when the station ends.
func (s *station) tell(ctx context.Context, r report) {
	r.from = s
	select {
	case s.reports <- r:
	case <-ctx.Done():
	}
}

func (s *station) tellState(ctx context.Context, change func(*InterfaceState)) {
	s.mu.Lock()
	change(&s.said)
	st := s.said
	s.mu.Unlock()
	s.tell(ctx, report{state: &st})
}

// netInterface is the interface as the library wants it.
func (s *station) netInterface() []net.Interface {
	return []net.Interface{{
		Index: s.ifc.Index, MTU: s.ifc.MTU, Name: s.ifc.Name, HardwareAddr: s.ifc.MAC,
		Flags: net.FlagUp | net.FlagMulticast | net.FlagRunning,
	}}
}

// announced lists the addresses to announce where the library's own choice, all
// those of the interface at the time of the answer, includes one it must not.
func (s *station) announced() []string {
	var ips []string
	refused := false
	for _, p := range s.ifc.Addrs {
		if s.cfg.UseAddr(p.Addr()) {
			ips = append(ips, p.Addr().WithZone("").String())
		} else {
			refused = true
		}
	}
	if !refused {
		return nil
	}
	return ips
}

// announce runs the responder, and a new one when the text changes. (The
// library's own SetText writes what its receivers read.)
func (s *station) announce(ctx context.Context) {
	retry := minRetry
	for ctx.Err() == nil {
		text := s.textNow.Load().strings(s.cfg.NodeID)
		server, err := zeroconf.RegisterProxy(s.cfg.NodeID, Service, domain, int(s.cfg.Port),
			s.cfg.NodeID, s.announced(), text, s.netInterface())
		if err != nil {
			s.tellState(ctx, func(st *InterfaceState) { st.Announcing, st.Error = false, fmt.Sprint("announcement: ", err) })
			sleep(ctx, retry)
			retry = min(2*retry, maxRetry)
			continue
		}
		retry = minRetry
		confine(server, s.ifc.Index)
		s.tellState(ctx, func(st *InterfaceState) { st.Announcing, st.Error = true, "" })
		born := time.Now()
		select {
		case <-ctx.Done():
		case <-s.text:
		}
		// Not cut short by ctx: see responderLife.
		sleep(context.WithoutCancel(ctx), responderLife-time.Since(born))
		// Its goodbye is outrun by the next one's announcement: RFC 6762 §10.1
		// gives listeners a second before they forget.
		server.Shutdown()
	}
}

// browse runs cycle after cycle.
func (s *station) browse(ctx context.Context) {
	p := pace{cfg: s.cfg}
	retry := minRetry
	for ctx.Err() == nil {
		kicked, err := s.cycle(ctx, p.next(int(s.peers.Load()), s.suspect.Load(), s.random()))
		switch {
		case err != nil:
			s.tellState(ctx, func(st *InterfaceState) { st.Error = fmt.Sprint("browsing: ", err) })
			sleep(ctx, retry)
			retry = min(2*retry, maxRetry)
			continue
		case kicked:
			p.kicked()
		}
		retry = minRetry
	}
}

// families says which kinds of multicast the interface can take part in: the
// library's resolver fails as a whole if one of those asked for does. Where all
// addresses of a kind are refused, nobody is asked over it.
func (s *station) families() (zeroconf.IPType, error) {
	var f zeroconf.IPType
	for _, p := range s.ifc.Addrs {
		if !s.cfg.UseAddr(p.Addr()) {
			continue
		}
		if p.Addr().Unmap().Is4() {
			f |= zeroconf.IPv4
		} else {
			f |= zeroconf.IPv6
		}
	}
	if f == 0 {
		return 0, errFamily
	}
	return f, nil
}

// cycle browses once for the given time with a resolver of its own: the library
// reports an instance once per resolver.
func (s *station) cycle(ctx context.Context, length time.Duration) (kicked bool, err error) {
	family, err := s.families()
	if err != nil {
		return false, err
	}
	resolver, err := zeroconf.NewResolver(zeroconf.SelectIPTraffic(family), zeroconf.SelectIfaces(s.netInterface()))
	if err != nil {
		return false, err
	}
	confine(resolver, s.ifc.Index)
	cctx, stop := context.WithTimeout(ctx, length)
	defer stop()
	ends := time.Now().Add(length)
	entries := make(chan *zeroconf.ServiceEntry, entriesBuffered)
	if err := resolver.Browse(cctx, Service, domain, entries); err != nil {
		for range entries { // closed by the library
		}
		return false, err
	}
	budget, flood := cycleBudget, false
	for {
		select {
		case <-s.kick:
			kicked = true
			stop()
		case e, open := <-entries:
			if !open { // by the library, when cctx ends
				s.cycleOver(ctx, ends, kicked, flood)
				return kicked, nil
			}
			if flood {
				continue
			}
			if budget -= 1 + len(e.AddrIPv4) + len(e.AddrIPv6) + len(e.Text); budget < 0 {
				// Everything that the library remembers of this cycle goes with
				// its resolver.
				flood = true
				stop()
				continue
			}
			s.entry(ctx, e)
		}
	}
}

func (s *station) cycleOver(ctx context.Context, ends time.Time, kicked, flood bool) {
	if flood {
		sleep(ctx, time.Until(ends))
	}
	s.tellState(ctx, func(st *InterfaceState) {
		st.Cycles++
		if st.Announcing {
			st.Error = ""
		}
	})
	// Who did not answer in half a cycle, or was shouted down, is not missing.
	s.tell(ctx, report{cycleEnd: !kicked && !flood && ctx.Err() == nil, flood: flood})
}

func (s *station) entry(ctx context.Context, e *zeroconf.ServiceEntry) {
	p, ok := parseEntry(e, s.ifc, func(a netip.Addr) bool { return s.cfg.UseAddr(a) })
	if !ok {
		s.tell(ctx, report{rejected: true})
		return
	}
	s.tell(ctx, report{peer: &p})
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
