package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v2"

	"fieldkit/overlay/wire"
)

// ICE timing for a field network: what costs nothing on a LAN and saves seconds on a lossy one.
const (
	checkInterval       = 50 * time.Millisecond
	keepaliveInterval   = 15 * time.Second // Tr, which "MUST NOT be configured to less than 15 seconds" (RFC 5245 §10)
	disconnectedTimeout = 25 * time.Second
	failedTimeout       = 10 * time.Second // after disconnected
	maxBindingRequests  = 200              // per pair; with checkInterval this is 10 s

	// attemptLife is how long a prepared attempt waits for Connect: an Attach has 15 s (RFC 6940 §6.2.1).
	attemptLife = 30 * time.Second
)

// roles of the ICE sides (RFC 6940 §6.5.1.1).
const (
	rolePassive = "passive"
	roleActive  = "active"
)

// Attempt is one side of one Attach or AppAttach, from gathered candidates to the link. It is good for one Connect
// or ConnectApp, and closes itself when none comes.
type Attempt struct {
	t        *Transport
	agent    *ice.Agent
	network  *agentNet
	local    wire.IceParameters
	loopback bool
	used     atomic.Bool
	expire   *time.Timer

	life       context.Context // of the agent and of what is built on it
	end        context.CancelCauseFunc
	closeAgent func()      // once: two at the same time end in a panic
	handOver   func() bool // leaves the release to a carrier, which says goodbye first

	direct *direct // instead of agent and network in an overlay without ICE

	media atomic.Pointer[func([]byte)] // takes media that comes through a relay of ours
}

// Prepare gathers candidates: one socket per usable address, UDP, IPv4 and IPv6 that is not link-local, and what the
// servers of the Config give.
func (t *Transport) Prepare(ctx context.Context) (*Attempt, error) {
	if t.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if t.stats.attempts.Add(1) > int64(t.cfg.MaxAttempts) {
		t.stats.attempts.Add(-1)
		return nil, ErrBusy
	}
	prepare := t.prepare
	if t.cfg.NoICE {
		prepare = t.prepareDirect
	}
	a, err := prepare(ctx)
	if err != nil {
		t.stats.attempts.Add(-1)
		return nil, fmt.Errorf("candidate gathering: %w", err)
	}
	a.expire = time.AfterFunc(attemptLife, a.giveUp)
	return a, nil
}

func (t *Transport) prepare(ctx context.Context) (*Attempt, error) {
	urls, reflexiveFrom, servers := t.servers()
	a := &Attempt{t: t, network: &agentNet{
		Net: t.net, addresses: t.usable, stats: &t.stats.guard, servers: servers, reflexiveFrom: reflexiveFrom, now: t.cfg.Now, passwords: make(map[string]string),
	}}
	for _, u := range urls {
		a.network.passwords[u.Username] = u.Password
	}
	types := []ice.CandidateType{ice.CandidateTypeHost}
	if len(urls) > 0 {
		types = append(types, ice.CandidateTypeServerReflexive, ice.CandidateTypeRelay)
	}
	var (
		zero         time.Duration
		check        = checkInterval
		keepalive    = keepaliveInterval
		disconnected = disconnectedTimeout
		failed       = failedTimeout
		requests     = uint16(maxBindingRequests)
		relayed      = relayAcceptance
	)
	agent, err := ice.NewAgent(&ice.AgentConfig{
		NetworkTypes:   []ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6}, // none by default
		CandidateTypes: types,
		Urls:           urls,
		// With mDNS every agent would open port 5353.
		MulticastDNSMode:       ice.MulticastDNSModeDisabled,
		CheckInterval:          &check,
		KeepaliveInterval:      &keepalive,
		DisconnectedTimeout:    &disconnected,
		FailedTimeout:          &failed,
		MaxBindingRequests:     &requests,
		HostAcceptanceMinWait:  &zero,
		PrflxAcceptanceMinWait: &zero,
		SrflxAcceptanceMinWait: &zero,
		RelayAcceptanceMinWait: &relayed,
		IncludeLoopback:        true, // agentNet names the addresses; loopback is there only if Config says so
		Net:                    a.network,
		LoggerFactory:          t.libraryLog,
	})
	if err != nil {
		return nil, fmt.Errorf("ICE agent: %w", err)
	}
	a.agent = agent
	a.closeAgent = sync.OnceFunc(func() { _ = agent.Close() })
	a.live(a.closeAgent) // an agent not closed keeps goroutines and sockets
	if err := a.gather(ctx); err != nil {
		a.end(err)
		return nil, err
	}
	return a, nil
}

// live begins the life of what the attempt owns; release is called when it ends, whatever becomes of the attempt.
func (a *Attempt) live(release func()) {
	t := a.t
	a.life, a.end = context.WithCancelCause(t.ctx)
	t.tasks.add()
	stop := context.AfterFunc(a.life, func() {
		defer t.tasks.done()
		release()
	})
	a.handOver = func() bool {
		if !stop() {
			return false
		}
		t.tasks.done()
		return true
	}
}

// Local is this side of the AttachReqAns, but for the role, which the sender of the request and of the answer set:
// "passive" and "active".
func (a *Attempt) Local() wire.IceParameters { return a.local }

// Close gives up. It does nothing after Connect or ConnectApp.
func (a *Attempt) Close() error {
	a.expire.Stop()
	a.giveUp()
	return nil
}

func (a *Attempt) giveUp() {
	if a.used.CompareAndSwap(false, true) {
		a.t.stats.attempts.Add(-1)
		a.end(ErrClosed)
	}
}

// Connect makes an overlay link to peer. offerer is who sent the AttachReq: ICE-controlling, and DTLS server ("The node
// that sent the Attach request MUST be the TLS server", RFC 6940 §6.5.1.13).
func (a *Attempt) Connect(ctx context.Context, remote wire.IceParameters, peer wire.NodeID, offerer bool) (*Conn, error) {
	c, rtt, err := a.connect(ctx, remote, peer, offerer, false)
	if err != nil {
		return nil, err
	}
	return newConn(c, rtt, 0), nil
}

// ConnectApp makes an application connection to peer in the same way, with SRTP keys agreed.
func (a *Attempt) ConnectApp(ctx context.Context, remote wire.IceParameters, peer wire.NodeID, offerer bool) (*AppConn, error) {
	c, _, err := a.connect(ctx, remote, peer, offerer, true)
	if err != nil {
		return nil, err
	}
	app, err := newAppConn(c)
	if err == nil {
		err = a.mediaOf(app)
	}
	if err != nil {
		c.end(err)
		return nil, fmt.Errorf("application connection to %v: %w", peer, err)
	}
	return app, nil
}

func (a *Attempt) connect(ctx context.Context, remote wire.IceParameters, peer wire.NodeID, offerer, srtp bool) (_ *carrier, _ time.Duration, err error) {
	a.expire.Stop()
	if !a.used.CompareAndSwap(false, true) {
		return nil, 0, ErrClosed
	}
	defer a.t.stats.attempts.Add(-1)
	defer func() {
		if err != nil {
			a.end(err)
			err = fmt.Errorf("link to %v: %w", peer, err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, a.t.cfg.ConnectTimeout)
	defer cancel()
	defer context.AfterFunc(a.life, cancel)()

	want := rolePassive
	if offerer {
		want = roleActive
	}
	if len(remote.Role) > 0 && string(remote.Role) != want {
		return nil, 0, fmt.Errorf("%w: %q, want %q", ErrRole, remote.Role, want)
	}
	if a.direct != nil {
		return a.direct.connect(ctx, a, remote, peer, offerer, srtp)
	}
	if err := a.takeRemote(remote); err != nil {
		return nil, 0, err
	}
	a.network.relayFrom.Store(a.t.cfg.Now().Add(relayHold).UnixNano())
	dial := a.agent.Accept
	if offerer {
		dial = a.agent.Dial
	}
	path, err := dial(ctx, string(remote.Ufrag), string(remote.Password))
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(context.Cause(a.life), ErrLinkFailed) {
			a.t.unreached.Store(a.t.cfg.Now().UnixNano())
		}
		return nil, 0, fmt.Errorf("ICE: %w", errors.Join(err, ctx.Err(), context.Cause(a.life)))
	}
	relayed, err := a.settle()
	if err != nil {
		return nil, 0, err
	}
	var rtt time.Duration
	if s, ok := a.agent.GetSelectedCandidatePairStats(); ok {
		rtt = time.Duration(s.CurrentRoundTripTime * float64(time.Second))
	}
	g := a.t.newGuard(path.Write, func() error { a.end(errGoodbye); return nil }, path.LocalAddr(), path.RemoteAddr())
	a.t.tasks.run(func() { a.pump(path, g) })
	s, err := a.t.establish(ctx, handshake{
		guard: g, client: !offerer, peer: peer, interval: flightInterval(rtt), srtp: srtp, proven: true,
	})
	if err != nil {
		a.t.refuse(addrPortOf(path.RemoteAddr()), err)
		_ = g.Close()
		return nil, 0, fmt.Errorf("DTLS: %w", err)
	}
	ask, err := newChecker(a, string(remote.Ufrag), string(remote.Password), offerer)
	if err != nil {
		_ = g.Close()
		return nil, 0, err
	}
	overICE := func(c *carrier) { c.agentNet, c.check, c.home = a.network, ask.check, a.home }
	c := a.t.remember(a.t.newCarrier(s, g.local, g.remote, a.life, a.end, a.closeAgent, overICE), !relayed)
	a.network.watch.Store(&stunWatch{password: remote.Password, heard: c.alive, now: a.t.cfg.Now})
	a.handOver()
	return c, rtt, nil
}

// mediaOf gives an application connection the way its media goes.
func (a *Attempt) mediaOf(app *AppConn) error {
	if a.direct != nil {
		return a.direct.mediaOf(app)
	}
	return app.follow(a)
}

// home is the local address the link hangs on; invalid while there is none.
func (a *Attempt) home() netip.Addr {
	pair, err := a.agent.GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return netip.Addr{}
	}
	s := a.network.socketOf(pair.Local)
	if s == nil { // a relayed address is another kit's. If our own end of it goes, ICE notices.
		return netip.Addr{}
	}
	return addrPortOf(s.LocalAddr()).Addr()
}

// takeRemote hands the far end's candidates to ICE.
func (a *Attempt) takeRemote(remote wire.IceParameters) error {
	if mixed(remote.Candidates) {
		return ErrMixed
	}
	if len(remote.Ufrag) == 0 || len(remote.Password) == 0 {
		return fmt.Errorf("%w: no ICE credentials", ErrHandshake)
	}
	n := 0
	for _, w := range remote.Candidates {
		c, ok := fromWire(w, a.loopback)
		if !ok {
			continue
		}
		if err := a.agent.AddRemoteCandidate(c); err != nil {
			return fmt.Errorf("ICE candidate: %w", err)
		}
		if n++; n == maxRemoteCandidates {
			break
		}
	}
	if n == 0 {
		return fmt.Errorf("%w: none of the peer's %d candidates can be reached", ErrNoAddress, len(remote.Candidates))
	}
	return nil
}

// pump moves datagrams from ICE to the guard until the agent closes. Media that came through a relay comes this way,
// too: there is no socket of its own to take it from.
func (a *Attempt) pump(path *ice.Conn, g *guard) {
	buf := make([]byte, maxDatagram)
	for {
		n, err := path.Read(buf)
		if err != nil {
			_ = g.in.Close()
			return
		}
		if !isMedia(buf[:n]) {
			g.deliver(buf[:n])
		} else if take := a.media.Load(); take != nil {
			(*take)(buf[:n])
		} else {
			a.t.stats.guard.mediaDropped.Add(1)
		}
	}
}
