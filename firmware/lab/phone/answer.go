package phone

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
)

// onInvite takes a new call or a re-INVITE. sipgo ends the transaction when its
// handler returns, so the handler stays for as long as the call is answered.
func (p *Phone) onInvite(req *sip.Request, tx sip.ServerTransaction) { p.handle(req, tx, p.invited) }

func (p *Phone) onBye(req *sip.Request, tx sip.ServerTransaction) { p.handle(req, tx, p.hungUp) }

// handle runs a handler such that Run waits for it.
func (p *Phone) handle(req *sip.Request, tx sip.ServerTransaction, f sipgo.RequestHandler) {
	done := make(chan struct{})
	if !p.work(func() { defer close(done); f(req, tx) }) {
		p.reply(req, tx, 480, "Temporarily Unavailable")
		return
	}
	<-done
}

func (p *Phone) invited(req *sip.Request, tx sip.ServerTransaction) {
	if req.From() == nil || req.To() == nil || req.CallID() == nil || req.CSeq() == nil || req.Contact() == nil {
		p.reply(req, tx, 400, "Bad Request")
		return
	}
	if req.To().Params.Has("tag") {
		p.reinvite(req, tx)
		return
	}
	if !p.running.Load() {
		p.reply(req, tx, 480, "Temporarily Unavailable")
		return
	}
	if p.cfg.Answer.Reject != 0 {
		p.reply(req, tx, p.cfg.Answer.Reject, reasonOf(p.cfg.Answer.Reject))
		return
	}
	c, err := p.newCall(false, req.From().Address.String())
	if err != nil {
		p.reply(req, tx, 500, "Server Internal Error")
		return
	}
	c.takeDialog(req)
	p.mu.Lock()
	ctx := p.ctx
	p.mu.Unlock()
	ctx, c.cancel = context.WithCancel(ctx)
	defer c.cancel()
	if err := p.add(c); err != nil {
		c.session.close()
		p.reply(req, tx, 486, "Busy Here")
		return
	}
	select {
	case p.incoming <- c:
	default:
		p.missed.Add(1)
	}
	if err := c.take(ctx, req, tx); err != nil {
		c.finish(err)
	}
}

func reasonOf(code int) string {
	return map[int]string{480: "Temporarily Unavailable", 486: "Busy Here", 600: "Busy Everywhere", 603: "Decline"}[code]
}

// takeDialog takes the dialog from an INVITE (RFC 3261 §12.1.1). The callee's
// route set has the order of the request.
func (c *Call) takeDialog(req *sip.Request) {
	remote, _ := req.From().Params.Get("tag")
	c.id = dialogID{callID: req.CallID().Value(), local: sip.GenerateTagN(16), remote: remote, to: req.From().Address}
	for _, h := range req.GetHeaders("Record-Route") {
		c.id.routes = append(c.id.routes, h.Value())
	}
	c.target = req.Contact().Address
}

// respond builds a response with the call's one tag and our Contact.
func (c *Call) respond(req *sip.Request, tx sip.ServerTransaction, code int, reason string, body []byte) (*sip.Response, error) {
	res := sip.NewResponseFromRequest(req, code, reason, body)
	res.To().Params.Remove("tag")
	res.To().Params.Add("tag", c.id.local)
	if code < 300 {
		res.AppendHeader(c.phone.contact())
	}
	if body != nil {
		res.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	}
	if err := tx.Respond(res); err != nil {
		return nil, fmt.Errorf("response %d: %w", code, err)
	}
	return res, nil
}

// take rings and answers as the policy says.
func (c *Call) take(ctx context.Context, req *sip.Request, tx sip.ServerTransaction) error {
	cancelled := make(chan struct{})
	if !tx.OnCancel(func(*sip.Request) { close(cancelled) }) {
		return context.Canceled // sipgo has answered CANCEL and INVITE
	}
	if _, err := c.respond(req, tx, 180, "Ringing", nil); err != nil {
		return err
	}
	c.ring.Do(func() { close(c.ringing) })
	policy := c.phone.cfg.Answer
	var pickUp <-chan time.Time
	if !policy.Never {
		pickUp = time.After(policy.Ringing)
	}
	select {
	case <-cancelled:
		return context.Canceled
	case <-ctx.Done(): // hung up before it was answered
		if _, err := c.respond(req, tx, 603, "Decline", nil); err != nil {
			return err
		}
		return ctx.Err()
	case <-tx.Done():
		return errors.Join(errors.New("INVITE transaction ended"), tx.Err())
	case <-pickUp:
	}
	var body []byte
	delayed := len(req.Body()) == 0
	if delayed {
		body = c.session.offer(1) // the answer comes in the ACK
	} else {
		var err error
		if body, err = c.session.answer(1, req.Body()); err != nil {
			if _, refused := c.respond(req, tx, 488, "Not Acceptable Here", nil); refused != nil {
				return errors.Join(err, refused)
			}
			return err
		}
	}
	c.mu.Lock()
	c.version, c.invite = 1, tx
	c.mu.Unlock()
	res, err := c.respond(req, tx, 200, "OK", body)
	if err != nil {
		return err
	}
	if !delayed {
		c.up(ctx) // RFC 3264 §6: the answerer is ready to receive when it has sent the answer
	}
	return c.repeat(ctx, res, tx, cancelled)
}

// repeat sends the 2xx again until its ACK comes (RFC 3261 §13.3.1.4).
func (c *Call) repeat(ctx context.Context, res *sip.Response, tx sip.ServerTransaction, cancelled <-chan struct{}) error {
	interval := t1
	timer := time.NewTimer(interval)
	defer timer.Stop()
	end := time.After(ackTimeout)
	for {
		select {
		case <-c.acked:
			return nil
		case <-c.done:
			return nil
		case <-timer.C:
			if err := tx.Respond(res); err != nil {
				return err
			}
			interval = min(2*interval, t2)
			timer.Reset(interval)
		case <-cancelled: // too late, the 2xx is out: BYE will come
			cancelled = nil
		case <-end:
			// "the session SHOULD be terminated […] with a BYE"
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTimeout)
			defer cancel()
			return errors.Join(errors.New("no ACK"), c.bye(ctx))
		}
	}
}

func (p *Phone) onAck(req *sip.Request, _ sip.ServerTransaction) {
	c := p.find(req)
	if c == nil {
		return
	}
	if body := req.Body(); len(body) > 0 && c.session.far.Load() == nil {
		if err := c.session.accept(body); err != nil {
			p.log.Debug("answer in ACK", "error", err)
		} else {
			c.up(context.Background())
		}
	}
	select {
	case c.acked <- struct{}{}:
	default:
	}
}

func (p *Phone) hungUp(req *sip.Request, tx sip.ServerTransaction) {
	c := p.find(req)
	if c == nil {
		p.reply(req, tx, 481, "Call/Transaction Does Not Exist")
		return
	}
	p.reply(req, tx, 200, "OK")
	c.finish(nil)
}

// reinvite changes the session of a call that is up: hold, resume, a new address.
func (p *Phone) reinvite(req *sip.Request, tx sip.ServerTransaction) {
	c := p.find(req)
	if c == nil {
		p.reply(req, tx, 481, "Call/Transaction Does Not Exist")
		return
	}
	c.mu.Lock()
	c.target = req.Contact().Address
	c.version++
	version := c.version
	c.mu.Unlock()
	if len(req.Body()) == 0 {
		p.reply(req, tx, 488, "Not Acceptable Here") // an offer of ours would change nothing
		return
	}
	body, err := c.session.answer(version, req.Body())
	if err != nil {
		p.reply(req, tx, 488, "Not Acceptable Here")
		return
	}
	select {
	case <-c.acked: // of a repeated 2xx before
	default:
	}
	res, err := c.respond(req, tx, 200, "OK", body)
	if err != nil {
		return
	}
	if err := c.repeat(context.Background(), res, tx, nil); err != nil {
		p.log.Debug("re-INVITE", "error", err)
	}
}
