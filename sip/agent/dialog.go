package agent

import (
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"fieldkit/sip/proxy"
	"fieldkit/sip/sipmsg"
)

// dialog finds the call a request belongs to by Call-ID and both tags, and
// checks that it came from where that side of the call is.
func (a *Agent) dialog(f *flow, req *sip.Request) (c *call, branch int, side proxy.Side, lost bool) {
	id := string(*req.CallID())
	from, _ := sipmsg.Param(req.From().Params, "tag")
	to, _ := sipmsg.Param(req.To().Params, "tag")
	if c = a.loop.calls[callKey(id, from)]; c != nil {
		if i, ok := c.tags[to]; ok && c.caller.same(f) {
			return c, i, proxy.Caller, c.winnerTag != to
		}
	}
	if c = a.loop.calls[callKey(id, to)]; c != nil {
		if i, ok := c.tags[from]; ok && c.branches[i].flow.same(f) {
			return c, i, proxy.Callee, c.winnerTag != from
		}
	}
	return nil, 0, 0, false
}

// dialogRequest takes a request inside a dialog.
func (a *Agent) dialogRequest(now time.Time, f *flow, req *sip.Request, key string) {
	c, branch, side, lost := a.dialog(f, req)
	if c == nil {
		a.reject(f, req, 481, "")
		return
	}
	if opaque(req) {
		a.reject(f, req, 415, "", header("Accept", "application/sdp"))
		return
	}
	s := a.open(f, req, key)
	if s == nil {
		a.busy(f, req)
		return
	}
	// A phone or kit whose connection was lost is where it speaks from now.
	if side == proxy.Caller && a.live(c.caller) == nil {
		c.caller = f
	} else if b := c.branches[branch]; side == proxy.Callee && a.live(b.flow) == nil {
		b.flow = f
	}
	a.loop.nextID++
	id := a.loop.nextID
	r := &relayed{server: s, req: req, branch: branch, from: side}
	s.relayed = r
	c.requests[id] = r
	a.step(now, c, proxy.Request{ID: id, Branch: branch, From: side, Method: string(req.Method), Lost: lost})
}

// legs are the media legs a message of a side comes from and goes to.
func (c *call) legs(branch int, from proxy.Side) (mediaLeg, mediaLeg) {
	if from == proxy.Caller {
		return c.callerLeg, c.branches[branch].leg
	}
	return c.branches[branch].leg, c.callerLeg
}

// forwardRequest passes a request of a dialog to the other side. It goes where
// that side is known to be, whatever its Route says: a handset does not choose
// the way through a kit.
func (a *Agent) forwardRequest(now time.Time, c *call, act proxy.ForwardRequest) {
	r := c.requests[act.ID]
	if r == nil {
		return
	}
	from, to := c.caller, c.branches[act.Branch].flow
	if act.To == proxy.Caller {
		from, to = to, from
	}
	fail := func(status int) {
		if r.server != nil {
			r.server.respond(status, "")
			a.later(c, proxy.RequestDone{ID: act.ID, Status: status})
		}
		delete(c.requests, act.ID)
	}
	if to = a.live(to); to == nil {
		fail(480)
		return
	}
	out := a.forward(r.req, from, to, *r.req.Recipient.Clone(), a.route(r.req, to)...)
	fromLeg, toLeg := c.legs(act.Branch, r.from)
	if err := a.rewrite(c, out, fromLeg, toLeg); err != nil {
		a.log.Warn("offer not usable", "from", from, "error", err)
		fail(mediaStatus(err))
		return
	}
	if out.Method == sip.ACK {
		// RFC 3261 §17.1.1.2: the ACK of a 2xx is no transaction.
		if err := to.WriteMsg(out); err != nil {
			a.count.sendErrors.Add(1)
		}
		return
	}
	client, err := a.start(to, out,
		func(now time.Time, res *sip.Response) { a.requestResponse(now, c, act.ID, r, res) },
		func(now time.Time) {
			r.server.respond(408, "")
			delete(c.requests, act.ID)
			a.step(now, c, proxy.RequestDone{ID: act.ID, Status: 408})
		})
	if err != nil {
		fail(sendStatus(err))
		return
	}
	r.client = client
}

// route keeps the Route entries of a request that are for the kit it goes to:
// ours are consumed (RFC 3261 §16.4), others are nobody's.
func (a *Agent) route(req *sip.Request, to *flow) []sip.Header {
	if to.trunk == nil {
		return nil
	}
	vs := sipmsg.Values(req, "Route")
	for i, v := range vs {
		ad, err := sipmsg.ParseAddress(v)
		if err != nil || i >= 8 {
			return nil
		}
		if strings.EqualFold(ad.URI.Host, to.trunk.kit+trunkDomain) {
			var hs []sip.Header
			for _, rest := range vs[i:min(len(vs), i+8)] {
				hs = append(hs, header("Route", rest))
			}
			return hs
		}
	}
	return nil
}

// requestResponse passes the response back.
func (a *Agent) requestResponse(now time.Time, c *call, id uint64, r *relayed, res *sip.Response) {
	if res.StatusCode == 100 {
		r.early = true
		r.cancelNow(a)
		return
	}
	if r.success != nil {
		r.server.relay(r.success) // a 2xx of a re-INVITE again
		return
	}
	trusted := r.client.flow.trunk != nil
	out := back(res, trusted)
	toLeg, fromLeg := c.legs(r.branch, r.from) // the response goes the other way
	if err := a.rewrite(c, out, fromLeg, toLeg); err != nil {
		a.log.Warn("answer not usable", "error", err)
		out.RemoveHeader("Content-Type")
		out.SetBody(nil)
	}
	if res.StatusCode < 200 {
		r.early = true
		r.server.relay(out)
		r.cancelNow(a)
		return
	}
	if res.IsSuccess() && r.req.Method == sip.INVITE {
		r.success = out
	}
	r.server.relay(out)
	delete(c.requests, id) // the client transaction keeps r for repeats of a 2xx
	a.step(now, c, proxy.RequestDone{ID: id, Status: res.StatusCode})
}

// cancel stops a re-INVITE: RFC 3261 §9.1, not before a provisional response.
func (r *relayed) cancel(a *Agent) {
	r.wanted = true
	r.cancelNow(a)
}

func (r *relayed) cancelNow(a *Agent) {
	if !r.wanted || !r.early || r.client == nil || r.client.final {
		return
	}
	r.wanted = false
	_, _ = a.start(r.client.flow, cancelOf(r.client.req), nil, nil)
}
