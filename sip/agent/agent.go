package agent

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emiago/sipgo/sip"

	"fieldkit/sip/proxy"
	"fieldkit/sip/registrar"
	"fieldkit/sip/sipmsg"
)

const (
	mailbox   = 1024
	mediaPoll = 30 * time.Second

	maxKitTrunks = 4
	// A phone that came or went is saved soon; that it is still there, now and
	// then: the card wears.
	saveDelay    = time.Second
	refreshDelay = time.Minute
)

// ErrStopped is returned by calls to an agent that does not run.
var ErrStopped = errors.New("telephony is not running")

// Agent serves the handsets of a kit. Make it with [New] and call [Agent.Run]
// once; the other methods may be called from any goroutine.
type Agent struct {
	cfg       Config
	log       *slog.Logger
	media     mediaRelay
	admission *admission
	publisher *publisher
	secret    [32]byte // of stateless To tags
	count     counters

	in       chan input
	ready    chan struct{}
	stopped  chan struct{}
	ended    endings
	tasks    sync.WaitGroup
	workers  chan struct{} // one token per directory or trunk request under way
	clients  clientTable
	nextConn atomic.Uint64

	loop loop
}

// loop is the state only the loop's goroutine touches.
type loop struct {
	ctx     context.Context
	reg     *registrar.Registrar
	digest  *registrar.Digest
	udp     *net.UDPConn
	streams map[uint64]*flow
	links   map[proxy.Trunk]*flow
	servers map[string]*serverTx
	perHost map[string]int // server transactions by source
	calls   map[string]*call
	holders map[string]int // calls by the source of the caller
	nextID  uint64
	saves   chan registrar.Snapshot
	saveAt  time.Time
	pollAt  time.Time
	// expireAt is the registrar's deadline; it moves only with an event.
	expireAt time.Time
	pending  []func(now time.Time) // events that must not be given from within a step
}

// input is what the loop takes.
type input any

type (
	received struct {
		flow *flow
		msg  sip.Message
	}
	streamUp   struct{ flow *flow }
	streamDown struct{ s *stream }
	linkUp     struct{ t proxy.Trunk }
	linkDown   struct{ t proxy.Trunk }
)

// New checks the configuration and restores the bindings. It opens nothing.
func New(cfg Config) (*Agent, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, log: cfg.Log,
		admission: newAdmission(cfg.Limits, cfg.Network, cfg.Emergency),
		publisher: newPublisher(cfg.Directory, cfg.Log),
		in:        make(chan input, mailbox), ready: make(chan struct{}), stopped: make(chan struct{}),
		ended:   endings{wake: make(chan struct{}, 1)},
		workers: make(chan struct{}, cfg.Limits.Lookups),
	}
	if cfg.Relay != nil {
		a.media = relay{cfg.Relay}
	}
	var nonceSecret [32]byte
	_, _ = rand.Read(a.secret[:])
	_, _ = rand.Read(nonceSecret[:])
	a.loop = loop{
		reg: registrar.New(registrar.Config{Overlay: cfg.Overlay, Hosts: append([]string{
			cfg.Address.String(), "[" + cfg.Address.String() + "]"}, cfg.Hosts...)}),
		digest:  registrar.NewDigest(cfg.Overlay, nonceSecret),
		streams: make(map[uint64]*flow), links: make(map[proxy.Trunk]*flow),
		servers: make(map[string]*serverTx), perHost: make(map[string]int),
		calls: make(map[string]*call), holders: make(map[string]int),
		saves: make(chan registrar.Snapshot, 1),
	}
	now := time.Now()
	if _, err := a.loop.reg.SetAccounts(now, cfg.Accounts); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	a.publish(a.loop.reg.Restore(now, cfg.Saved))
	return a, nil
}

// Ready is closed when the sockets are open.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// String names the agent in logs.
func (a *Agent) String() string { return "telephony" }

// Run serves until ctx ends or a socket fails. It returns nil when ctx ended.
func (a *Agent) Run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer close(a.stopped)
	addr := netip.AddrPortFrom(a.cfg.Address, a.cfg.Port)
	var lc net.ListenConfig
	packets, err := lc.ListenPacket(ctx, "udp", addr.String())
	if err != nil {
		return fmt.Errorf("handset socket %s: %w", addr, err)
	}
	udp := packets.(*net.UDPConn)
	tcp, err := lc.Listen(ctx, "tcp", addr.String())
	if err != nil {
		_ = udp.Close()
		return fmt.Errorf("handset listener %s: %w", addr, err)
	}
	_ = udp.SetReadBuffer(1 << 20)
	stop := context.AfterFunc(ctx, func() {
		_ = udp.Close()
		_ = tcp.Close()
	})
	defer stop()
	fail := func(f func() error) func() {
		return func() {
			if err := f(); err != nil {
				cancel(err)
			}
		}
	}
	a.loop.ctx, a.loop.udp = ctx, udp
	a.tasks.Go(fail(func() error { return a.readUDP(ctx, udp) }))
	a.tasks.Go(fail(func() error { return a.acceptTCP(ctx, tcp) }))
	a.tasks.Go(func() { a.publisher.run(ctx) })
	saved := make(chan struct{})
	go func() {
		defer close(saved)
		for s := range a.loop.saves {
			a.cfg.Save(s)
		}
	}()
	close(a.ready)
	a.log.Info("telephony ready", "address", addr)
	a.run(ctx)
	a.close()
	a.tasks.Wait()
	close(a.loop.saves)
	<-saved
	if a.cfg.Save != nil {
		a.cfg.Save(a.loop.reg.Snapshot())
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// run is the loop. One timer folds all deadlines; now is taken once per input.
func (a *Agent) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case in := <-a.in:
			a.guarded(func() { a.handle(time.Now(), in) })
			a.settle()
		case <-a.ended.wake:
			for _, key := range a.ended.take() {
				a.dropServer(key)
			}
		case <-timer.C:
			a.guarded(func() { a.tick(time.Now()) })
			a.settle()
		}
		timer.Reset(max(time.Until(a.deadline()), time.Millisecond))
	}
}

// settle gives the events that arose from what was just done. Each ends a branch
// or a request, so that it comes to an end.
func (a *Agent) settle() {
	for len(a.loop.pending) > 0 {
		f := a.loop.pending[0]
		a.loop.pending = a.loop.pending[1:]
		a.guarded(func() { f(time.Now()) })
	}
}

// guarded keeps one bad message from ending the telephony of a whole kit.
func (a *Agent) guarded(f func()) {
	defer func() {
		if p := recover(); p != nil {
			a.count.panics.Add(1)
			a.log.Error("telephony step panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	f()
}

func (a *Agent) handle(now time.Time, in input) {
	switch in := in.(type) {
	case received:
		switch m := in.msg.(type) {
		case *sip.Request:
			a.request(now, in.flow, m)
		case *sip.Response:
			a.response(in.flow, m)
		}
	case responded:
		in.client.onResponse(now, in.res)
	case clientEnded:
		in.client.ended(now, in.err)
	case streamUp:
		a.loop.streams[in.flow.stream.id] = in.flow
	case streamDown:
		delete(a.loop.streams, in.s.id)
		a.publish(a.loop.reg.FlowFailed(now, in.s.id))
	case linkUp:
		if a.link(in.t) == nil {
			_ = in.t.Close()
		}
	case linkDown:
		a.unlink(now, in.t)
	case func(now time.Time):
		in(now)
	}
}

func (a *Agent) deadline() time.Time {
	l := &a.loop
	t := time.Now().Add(time.Minute)
	earliest := func(d time.Time) {
		if !d.IsZero() && d.Before(t) {
			t = d
		}
	}
	earliest(l.expireAt)
	earliest(l.saveAt)
	earliest(l.pollAt)
	for _, c := range l.calls {
		earliest(c.core.Deadline())
	}
	return t
}

func (a *Agent) tick(now time.Time) {
	l := &a.loop
	a.publish(l.reg.Expire(now))
	l.expireAt = l.reg.Deadline()
	for _, c := range l.calls {
		if d := c.core.Deadline(); !d.IsZero() && !now.Before(d) {
			a.step(now, c, proxy.Timeout{})
		}
	}
	if !l.pollAt.After(now) {
		l.pollAt = now.Add(mediaPoll)
		for _, c := range l.calls {
			if c.moved() {
				a.step(now, c, proxy.Alive{})
			}
		}
	}
	if !l.saveAt.IsZero() && !l.saveAt.After(now) {
		select {
		case l.saves <- l.reg.Snapshot():
			l.saveAt = time.Time{}
		default:
			l.saveAt = now.Add(saveDelay) // the last save still runs
		}
	}
}

// post hands an input to the loop, waiting for room; false when the agent stops.
func (a *Agent) post(ctx context.Context, in input) bool {
	select {
	case a.in <- in:
		return true
	case <-ctx.Done():
		return false
	case <-a.stopped:
		return false
	}
}

// do runs f in the loop and waits for it.
func (a *Agent) do(f func(now time.Time)) error {
	select {
	case <-a.ready:
	default:
		return ErrStopped
	}
	done := make(chan struct{})
	select {
	case a.in <- func(now time.Time) { defer close(done); f(now) }:
	case <-a.stopped:
		return ErrStopped
	}
	select {
	case <-done:
		return nil
	case <-a.stopped:
		return ErrStopped
	}
}

// SetAccounts replaces the accounts. Bindings of accounts that stay are kept.
func (a *Agent) SetAccounts(accounts []registrar.Account) error {
	var failed error
	err := a.do(func(now time.Time) {
		var events []registrar.Event
		events, failed = a.loop.reg.SetAccounts(now, accounts)
		a.publish(events)
	})
	return errors.Join(err, failed)
}

// Republish tells the directory all it should know: after the overlay changed.
func (a *Agent) Republish() error {
	return a.do(func(now time.Time) { a.publish(a.loop.reg.Refresh(now)) })
}

// AddTrunk takes a trunk that another kit opened.
func (a *Agent) AddTrunk(t proxy.Trunk) error {
	select {
	case a.in <- linkUp{t}:
		return nil
	case <-a.stopped:
		return ErrStopped
	}
}

// link starts to use a trunk and returns the flow over it, nil at the limit.
func (a *Agent) link(t proxy.Trunk) *flow {
	l := &a.loop
	if f := l.links[t]; f != nil {
		return f
	}
	sameKit := 0
	for _, f := range l.links {
		if f.trunk.kit == t.Kit() {
			sameKit++
		}
	}
	// Two when both opened one at a time, and those that are about to end: a kit
	// that opens more must not take the room of the others.
	if sameKit >= maxKitTrunks || len(l.links) >= a.cfg.Limits.Trunks {
		a.count.refused.Add(1)
		a.log.Warn("trunk refused", "kit", t.Kit(), "limit", a.cfg.Limits.Trunks)
		return nil
	}
	f := &flow{trunk: &link{t: t, kit: t.Kit(), bucket: bucket{rate: trunkRate, burst: trunkBurst}}}
	l.links[t] = f
	onMedia := func([]byte) {}
	if a.media != nil {
		onMedia = func(b []byte) { a.media.TrunkPacket(t, b) }
	}
	t.Handle(func(b []byte) { a.trunkMessage(f, b) }, onMedia)
	ctx := l.ctx
	a.tasks.Go(func() {
		select {
		case <-t.Done():
			a.post(ctx, linkDown{t})
		case <-ctx.Done():
		}
	})
	a.changed()
	return f
}

// Messages per second of one trunk: above what a busy kit sends, below what would keep this kit's handsets waiting.
const (
	trunkRate  = 500
	trunkBurst = 1000
)

// trunkMessage is called by the trunk, in the order of its messages.
func (a *Agent) trunkMessage(f *flow, b []byte) {
	if !f.trunk.bucket.take(time.Now()) {
		a.count.overload.Add(1) // dropped: the far kit repeats what matters
		return
	}
	msg, fault := sipmsg.Parse(b)
	if fault != nil {
		a.count.malformed.Add(1)
		if res := sipmsg.Answer(b, fault.Status, fault.Reason, a.statelessTag(b), f.trunk.kit+trunkDomain, "0"); res != nil {
			_ = f.send(res)
		}
		return
	}
	a.count.received.Add(1)
	msg.SetTransport(f.network())
	msg.SetSource(f.source())
	select {
	case a.in <- received{f, msg}:
	default:
		a.count.dropped.Add(1)
	}
}

func (a *Agent) unlink(now time.Time, t proxy.Trunk) {
	f := a.loop.links[t]
	if f == nil {
		return
	}
	delete(a.loop.links, t)
	for _, c := range a.loop.calls {
		a.trunkLost(now, c, f)
	}
	a.changed()
}

// publish passes the registrar's events on and has the bindings saved.
func (a *Agent) publish(events []registrar.Event) {
	if len(events) == 0 {
		return
	}
	delay := refreshDelay
	for _, e := range events {
		a.publisher.put(e.AOR, e.TTL)
		if e.Kind != registrar.Refreshed {
			delay = saveDelay
			a.log.Info("handset "+e.Kind.String(), "aor", e.AOR)
		}
	}
	l := &a.loop
	l.expireAt = l.reg.Deadline()
	if at := time.Now().Add(delay); a.cfg.Save != nil && (l.saveAt.IsZero() || at.Before(l.saveAt)) {
		l.saveAt = at
	}
	a.changed()
}

func (a *Agent) changed() {
	if a.cfg.OnChange != nil && a.loop.ctx != nil { // not from within New
		a.cfg.OnChange()
	}
}

// close ends what the loop held.
func (a *Agent) close() {
	for _, c := range a.loop.calls {
		a.finish(c)
	}
	for _, s := range a.loop.servers {
		s.tx.Terminate()
	}
	for _, f := range a.loop.streams {
		f.stream.close()
	}
}

// statelessTag is the To tag of a response without a transaction: the same for
// each repeat of a request (RFC 3261 §8.2.7).
func (a *Agent) statelessTag(b []byte) string {
	m := hmac.New(sha256.New, a.secret[:])
	for line := range strings.SplitSeq(string(b[:min(len(b), 4096)]), "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "call-id", "i", "cseq", "from", "f":
			m.Write([]byte(strings.TrimSpace(value)))
		}
	}
	return hex.EncodeToString(m.Sum(nil)[:8])
}
