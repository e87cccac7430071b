package agent

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/emiago/sipgo/sip"

	"fieldkit/sip/media"
	"fieldkit/sip/proxy"
	"fieldkit/sip/registrar"
	"fieldkit/sip/sipmsg"
)

const (
	lookupTime = 10 * time.Second
	openTime   = 15 * time.Second
	maxTags    = 32 // dialogs of one call: a far kit forks too
)

// call is what the loop holds of a call around its state machine.
type call struct {
	id     string
	num    uint64
	core   *proxy.Call
	server *serverTx // the INVITE
	caller *flow
	holder string // whose quota it counts against

	callerTag string
	winnerTag string
	tags      map[string]int // To tag to branch
	branches  []*forked
	requests  map[uint64]*relayed

	media     mediaCall
	callerLeg mediaLeg
	packets   uint64 // at the last look

	aor, from, to string
	account       registrar.Account
	started       time.Time
	ringing       time.Duration
	setup         time.Duration
	status        int // of the final response
	done          bool
}

// forked is a branch of a call.
type forked struct {
	to     proxy.Destination
	flow   *flow
	leg    mediaLeg
	client *clientTx
	last   *sip.Response // reported last
	relay  *sip.Response // the 2xx as it went to the caller, for its repeats
}

// relayed is a request inside a dialog on its way.
type relayed struct {
	server  *serverTx
	client  *clientTx
	req     *sip.Request
	branch  int
	from    proxy.Side
	early   bool // a provisional response came: it may be cancelled
	wanted  bool // the sender wants it cancelled
	success *sip.Response
}

// openMedia opens the call's media and the caller's leg; not 0: the status to
// refuse the call with.
func (a *Agent) openMedia(c *call) int {
	if a.media == nil {
		return 503
	}
	m, err := a.media.NewCall(c.id)
	if err == nil {
		c.media = m
		c.callerLeg, err = a.leg(c, "caller", c.caller)
	}
	if err != nil {
		a.count.noMedia.Add(1)
		a.log.Warn("no media for a call", "error", err)
		return mediaStatus(err)
	}
	return 0
}

func (a *Agent) leg(c *call, name string, f *flow) (mediaLeg, error) {
	if f.trunk != nil {
		return c.media.TrunkLeg(name, f.trunk.t)
	}
	return c.media.HandsetLeg(name, f.remote.Addr())
}

// moved says whether media moved since the last look.
func (c *call) moved() bool {
	if c.media == nil {
		return false
	}
	var n uint64
	for _, l := range c.media.Stats().Legs {
		n += l.Received.Packets
	}
	moved := n != c.packets
	c.packets = n
	return moved
}

// step gives an event to the call and does what it says.
func (a *Agent) step(now time.Time, c *call, ev proxy.Event) {
	for _, act := range c.core.Step(now, ev) {
		a.do1(now, c, act)
	}
}

func (a *Agent) do1(now time.Time, c *call, act proxy.Action) {
	switch act := act.(type) {
	case proxy.Reply:
		c.final(now, act.Status)
		c.server.respond(act.Status, "", replyHeaders(act.Status)...)
	case proxy.Relay:
		a.relayResponse(now, c, act)
	case proxy.Lookup:
		a.lookup(now, c)
	case proxy.Open:
		a.openTrunk(now, c, act)
	case proxy.Forward:
		a.forwardBranch(now, c, act)
	case proxy.CancelBranch:
		if b := c.branches[act.Branch]; b.client != nil {
			// The CANCEL is a transaction of its own; nobody waits for its end.
			_, _ = a.start(b.flow, cancelOf(b.client.req), nil, nil)
		}
	case proxy.Abandon:
		if b := c.branch(act.Branch); b.client != nil {
			b.client.abandon()
		}
	case proxy.Connect:
		if c.media != nil {
			c.media.Connect(c.callerLeg, c.branches[act.Branch].leg)
		}
		a.count.answered.Add(1)
		a.changed()
	case proxy.Release:
		// The leg's ports are given back with the call; until then a late packet
		// of the branch is dropped by the relay, for it is not connected.
	case proxy.Hangup:
		a.hangup(c, act.Branch)
	case proxy.ForwardRequest:
		a.forwardRequest(now, c, act)
	case proxy.ReplyRequest:
		if r := c.requests[act.ID]; r != nil && r.server != nil {
			r.server.respond(act.Status, "")
		}
		delete(c.requests, act.ID)
	case proxy.Finish:
		a.finish(c)
	}
}

func replyHeaders(status int) []sip.Header {
	if status == 503 {
		return []sip.Header{header("Retry-After", "5")}
	}
	return nil
}

func (c *call) final(now time.Time, status int) {
	switch {
	case status >= 200 && c.status == 0:
		c.status, c.setup = status, now.Sub(c.started)
	case status > 100 && c.ringing == 0:
		c.ringing = now.Sub(c.started)
	}
}

func (c *call) branch(i int) *forked {
	for len(c.branches) <= i {
		c.branches = append(c.branches, &forked{})
	}
	return c.branches[i]
}

// finish gives back what a call held. Its transactions end by themselves.
func (a *Agent) finish(c *call) {
	if c.done {
		return
	}
	c.done = true
	if c.media != nil {
		c.media.Close()
	}
	for _, b := range c.branches {
		if b.client != nil && !b.client.final {
			b.client.abandon()
		}
	}
	for id, r := range c.requests {
		// Other requests end by Timer F; a re-INVITE that rings would not.
		if r.req.Method == sip.INVITE && r.server != nil && r.client != nil && !r.client.final {
			r.client.abandon()
			r.server.respond(487, "")
			delete(c.requests, id)
		}
	}
	delete(a.loop.calls, c.id)
	if a.loop.holders[c.holder]--; a.loop.holders[c.holder] <= 0 {
		delete(a.loop.holders, c.holder)
	}
	a.log.Debug("call ended", "from", c.from, "to", c.to, "status", c.status)
	a.changed()
}

// worker runs f, which may block, outside of the loop; false when too many run.
func (a *Agent) worker(f func(ctx context.Context)) bool {
	select {
	case a.workers <- struct{}{}:
	default:
		a.count.refused.Add(1)
		return false
	}
	ctx := a.loop.ctx
	a.tasks.Go(func() {
		defer func() { <-a.workers }()
		f(ctx)
	})
	return true
}

func (a *Agent) lookup(now time.Time, c *call) {
	ok := a.worker(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, lookupTime)
		defer cancel()
		targets, err := a.cfg.Directory.Lookup(ctx, c.aor)
		ev := proxy.Found{Unavailable: err != nil && !errors.Is(err, proxy.ErrNotFound)}
		for _, t := range targets {
			if t.Kit != a.cfg.Kit && t.Kit != "" {
				ev.Kits = append(ev.Kits, t.Kit)
			}
		}
		a.post(a.loop.ctx, func(now time.Time) { a.step(now, c, ev) })
	})
	if !ok {
		a.later(c, proxy.Found{Unavailable: true})
	}
}

// later gives an event to a call after what is being done: not from within Step.
func (a *Agent) later(c *call, ev proxy.Event) {
	a.loop.pending = append(a.loop.pending, func(now time.Time) { a.step(now, c, ev) })
}

func (a *Agent) openTrunk(_ time.Time, c *call, act proxy.Open) {
	c.branch(act.Branch).to = proxy.Destination{Kit: act.Kit}
	failed := proxy.Failed{Branch: act.Branch, Status: 503}
	if a.cfg.Trunks == nil {
		a.later(c, failed)
		return
	}
	ok := a.worker(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, openTime)
		defer cancel()
		t, err := a.cfg.Trunks.Open(ctx, act.Kit)
		a.post(a.loop.ctx, func(now time.Time) {
			if err == nil {
				if f := a.link(t); f != nil {
					c.branches[act.Branch].flow = f
					a.step(now, c, proxy.Opened{Branch: act.Branch})
					return
				}
			}
			a.count.noTrunk.Add(1)
			a.log.Warn("no trunk", "kit", act.Kit, "error", err)
			a.step(now, c, failed)
		})
	})
	if !ok {
		a.later(c, failed)
	}
}

// trunkLost fails what waits for a kit that is gone.
func (a *Agent) trunkLost(now time.Time, c *call, f *flow) {
	for i, b := range c.branches {
		if b.flow == f && b.client != nil && !b.client.final {
			b.client.abandon()
			a.step(now, c, proxy.Failed{Branch: i, Status: 503})
		}
	}
	i, answered := c.core.Answered()
	switch {
	case !answered:
		if c.caller == f {
			a.step(now, c, proxy.Cancel{})
		}
	case c.caller == f:
		a.bye(c, i, proxy.Callee)
	case c.branches[i].flow == f:
		a.bye(c, i, proxy.Caller)
	}
}

// beyond is above every CSeq that the lost end of a dialog has used.
const beyond = 1 << 16

// bye ends an answered call at the phone that is left: the trunk that carried the other end's voice is gone, and no
// other one takes its media over. Without it a person would hold a silent phone.
func (a *Agent) bye(c *call, i int, left proxy.Side) {
	b := c.branches[i]
	to := b.flow
	req, err := a.inDialog(b.last, b.flow, sip.BYE, b.last.CSeq().SeqNo+beyond)
	if left == proxy.Caller {
		to = c.caller
		req, err = a.inDialogBack(c.server.req, b.last, c.caller, sip.BYE, beyond)
	}
	if err == nil {
		_, err = a.start(to, req, nil, nil)
	}
	a.log.Info("call ended: its trunk is gone", "from", c.from, "to", c.to, "error", err)
	a.finish(c)
}

// live is the flow that leads now to where f led: a kit that was lost and is back
// has another trunk. nil when nothing leads there.
func (a *Agent) live(f *flow) *flow {
	switch {
	case f.stream != nil:
		return a.loop.streams[f.stream.id]
	case f.trunk == nil || a.loop.links[f.trunk.t] == f:
		return f
	}
	for _, g := range a.loop.links {
		if g.trunk.kit == f.trunk.kit {
			return g
		}
	}
	return nil
}

// contactFlow is the way to a binding.
func (a *Agent) contactFlow(b registrar.Binding, uri *sip.Uri) *flow {
	if b.Flow.Conn != 0 {
		return a.loop.streams[b.Flow.Conn] // on the connection it came by, or not at all
	}
	ap, err := netip.ParseAddrPort(b.Flow.Remote)
	if err != nil {
		return nil
	}
	f := &flow{udp: a.loop.udp, remote: ap}
	// A phone that sends from another port than it listens at says so in Contact.
	if h, err := netip.ParseAddr(uri.Host); err == nil && h.Unmap() == ap.Addr() {
		port := uri.Port
		if port == 0 {
			port = 5060
		}
		f = f.at(uint16(port))
	}
	return f
}

// forwardBranch sends the request on: RFC 3261 §16.6.
func (a *Agent) forwardBranch(now time.Time, c *call, act proxy.Forward) {
	b := c.branch(act.Branch)
	b.to = act.To
	req := c.server.req
	var uri sip.Uri
	if act.To.Kit != "" {
		uri = sip.Uri{Scheme: "sip", User: c.user(), Host: a.cfg.Overlay}
	} else {
		for _, bd := range a.loop.reg.Lookup(now, c.aor) {
			if bd.Key != act.To.Contact {
				continue
			}
			if ad, err := sipmsg.ParseAddress("<" + bd.Contact + ">"); err == nil {
				uri = ad.URI
				b.flow = a.contactFlow(bd, &uri)
			}
		}
	}
	if b.flow == nil {
		a.later(c, proxy.Failed{Branch: act.Branch, Status: 480})
		return
	}
	extra := []sip.Header{}
	if req.Method == sip.INVITE {
		out, in := a.recordRoute(b.flow), a.recordRoute(c.caller)
		extra = append(extra, header("Record-Route", out))
		if in != out { // RFC 5658 §5: one for each side
			extra = append(extra, header("Record-Route", in))
		}
	}
	if c.caller.trunk == nil {
		// What we know, not what the handset says.
		extra = append(extra, header("P-Asserted-Identity", "<sip:"+a.loop.reg.AOR(userOf(c.account))+">"))
	}
	fwd := a.forward(req, c.caller, b.flow, uri, extra...)
	if c.media != nil {
		var err error
		if b.leg, err = a.leg(c, "branch", b.flow); err == nil {
			err = a.rewrite(c, fwd, c.callerLeg, b.leg)
		}
		if err != nil {
			a.count.noMedia.Add(1)
			a.log.Warn("no media for a call", "error", err)
			a.later(c, proxy.Refuse{Status: mediaStatus(err)})
			return
		}
	}
	i := act.Branch
	client, err := a.start(b.flow, fwd,
		func(now time.Time, res *sip.Response) { a.branchResponse(now, c, i, res) },
		func(now time.Time) { a.step(now, c, proxy.Failed{Branch: i, Status: 408}) })
	if err != nil {
		a.log.Debug("request not sent", "to", b.flow, "error", err)
		a.later(c, proxy.Failed{Branch: i, Status: sendStatus(err)})
		return
	}
	b.client = client
}

// sendStatus is the response for what could not be sent.
func sendStatus(err error) int {
	if errors.Is(err, errTooLong) {
		return 513
	}
	return 503
}

func (c *call) user() string {
	user := c.aor
	for i := range user {
		if user[i] == '@' {
			return user[:i]
		}
	}
	return user
}

func userOf(acc registrar.Account) string {
	if acc.Number != "" {
		return acc.Number
	}
	return acc.Name
}

// rewrite puts our media addresses into a message that goes from one leg to
// another.
func (a *Agent) rewrite(c *call, m sip.Message, from, to mediaLeg) error {
	if c.media == nil || from == nil || to == nil || !sdpBody(m) {
		return nil
	}
	sdp, err := c.media.Rewrite(from, to, m.Body())
	if errors.Is(err, media.ErrClosed) {
		return nil // the call has just ended, the message is only of use to end it
	}
	if err != nil {
		return err
	}
	m.SetBody(sdp)
	return nil
}

func (a *Agent) branchResponse(now time.Time, c *call, i int, res *sip.Response) {
	b := c.branches[i]
	b.last = res
	if tag, ok := sipmsg.Param(res.To().Params, "tag"); ok && tag != "" && len(c.tags) < maxTags {
		if _, known := c.tags[tag]; !known {
			c.tags[tag] = i
		}
	}
	a.step(now, c, proxy.Response{Branch: i, Status: res.StatusCode})
}

// relayResponse passes the response of a branch to the caller.
func (a *Agent) relayResponse(now time.Time, c *call, act proxy.Relay) {
	b := c.branches[act.Branch]
	if b.last == nil {
		return
	}
	tag, _ := sipmsg.Param(b.last.To().Params, "tag")
	if b.relay != nil && b.last.StatusCode >= 200 && b.last.StatusCode < 300 {
		if old, _ := sipmsg.Param(b.relay.To().Params, "tag"); old == tag {
			c.server.relay(b.relay) // a repeat, and it stays what it was
			return
		}
	}
	res := back(b.last, b.flow.trunk != nil)
	if err := a.rewrite(c, res, b.leg, c.callerLeg); err != nil {
		a.count.noMedia.Add(1)
		a.log.Warn("answer not usable", "from", b.flow, "error", err)
		if res.StatusCode >= 200 && res.StatusCode < 300 {
			a.hangup(c, act.Branch)
			c.final(now, 502)
			c.server.respond(502, "Bad Gateway")
			a.finish(c)
			return
		}
		res.RemoveHeader("Content-Type")
		res.SetBody(nil)
	}
	success := res.StatusCode >= 200 && res.StatusCode < 300
	if res.StatusCode < 200 && sdpBody(res) && c.media != nil {
		c.media.Connect(c.callerLeg, b.leg) // early media: the latest one is heard
	}
	if success {
		b.relay = res
		if c.winnerTag == "" {
			c.winnerTag = tag
		}
	}
	c.final(now, res.StatusCode)
	c.server.relay(res)
	if res.StatusCode != 100 {
		a.changed()
	}
}

// hangup ends a dialog that only the callee believes in: the caller has got
// another answer.
func (a *Agent) hangup(c *call, i int) {
	b := c.branches[i]
	if b.last == nil || b.flow == nil {
		return
	}
	seq := b.last.CSeq().SeqNo
	if ack, err := a.inDialog(b.last, b.flow, sip.ACK, seq); err == nil {
		_ = b.flow.WriteMsg(ack)
	}
	if bye, err := a.inDialog(b.last, b.flow, sip.BYE, seq+1); err == nil {
		_, _ = a.start(b.flow, bye, nil, nil)
	}
}
