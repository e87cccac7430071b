package phone

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
)

// ackTimeout is 64*T1: how long a 2xx is repeated and its ACK waited for
// (RFC 3261 §13.3.1.4).
const (
	t1         = 500 * time.Millisecond
	t2         = 4 * time.Second
	ackTimeout = 64 * t1
)

// Call is one call, placed or taken.
type Call struct {
	phone    *Phone
	outgoing bool
	peer     string // the other end's address
	session  *session

	ringing, answered, done chan struct{}
	ring, answer, end       sync.Once
	cancel                  context.CancelFunc // gives up a call that is not answered
	acked                   chan struct{}      // capacity 1

	mu      sync.Mutex // leaf: the dialog's state
	id      dialogID
	target  sip.Uri // the other end's Contact
	version uint64  // of our session description
	setup   time.Duration
	err     error
	over    bool
	stop    context.CancelFunc // of the media
	media   sync.WaitGroup
	invite  sip.Transaction // kept for its retransmissions while the call is up
}

func (p *Phone) newCall(outgoing bool, peer string) (*Call, error) {
	s, err := newSession(p.cfg.Local, p.cfg.Tone, p.cfg.ExpectTone, p.cfg.User+"@"+p.cfg.Domain)
	if err != nil {
		return nil, err
	}
	return &Call{
		phone: p, outgoing: outgoing, peer: peer, session: s,
		ringing: make(chan struct{}), answered: make(chan struct{}), done: make(chan struct{}), acked: make(chan struct{}, 1),
		cancel: func() {},
	}, nil
}

// key finds the call for a request of its dialog.
func (c *Call) key() string { return c.id.callID + "\x00" + c.id.local }

// Outgoing says whether this phone placed the call.
func (c *Call) Outgoing() bool { return c.outgoing }

// Peer is the address of the other end.
func (c *Call) Peer() string { return c.peer }

// Ringing is closed when the far phone rings, or this one does.
func (c *Call) Ringing() <-chan struct{} { return c.ringing }

// Answered is closed when the call is up.
func (c *Call) Answered() <-chan struct{} { return c.answered }

// Done is closed when the call is over and its media have stopped.
func (c *Call) Done() <-chan struct{} { return c.done }

// Err is why the call ended, when it is: nil after a hang-up by either side, a
// *StatusError for a refusal, context.Canceled for a call given up.
func (c *Call) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// SetupTime is from the first INVITE to the 2xx at the phone that placed the
// call; 0 before that and at the other end.
func (c *Call) SetupTime() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.setup
}

// Stats is what this end has measured so far.
func (c *Call) Stats() Stats { return c.session.stats() }

// Call places a call and waits for its answer. The target is a number, a name,
// user@host or a SIP URI. When ctx ends before, the call is cancelled.
func (p *Phone) Call(ctx context.Context, target string) (*Call, error) {
	c, err := p.Dial(ctx, target)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.answered:
		return c, nil
	case <-c.done:
		if err := c.Err(); err != nil {
			return nil, err
		}
		return c, nil // answered and over already
	}
}

// Dial places a call without waiting. ctx governs the call until it is answered.
func (p *Phone) Dial(ctx context.Context, target string) (*Call, error) {
	if !p.running.Load() {
		return nil, ErrNotRunning
	}
	uri, err := p.parseTarget(target)
	if err != nil {
		return nil, err
	}
	c, err := p.newCall(true, uri.String())
	if err != nil {
		return nil, err
	}
	c.id = dialogID{callID: sip.GenerateTagN(24) + "@" + p.cfg.Local.String(), local: sip.GenerateTagN(16), cseq: 1, to: uri}
	ctx, c.cancel = context.WithCancel(ctx)
	if err := p.add(c); err != nil {
		c.cancel()
		c.session.close()
		return nil, err
	}
	if !p.work(func() { c.place(ctx, uri) }) {
		c.cancel()
		c.finish(ErrNotRunning)
		return nil, ErrNotRunning
	}
	return c, nil
}

func (p *Phone) parseTarget(target string) (sip.Uri, error) {
	var uri sip.Uri
	switch {
	case strings.HasPrefix(target, "sip:"):
	case strings.Contains(target, "@"):
		target = "sip:" + target
	case target == "":
		return uri, errors.New("call to nobody")
	default:
		target = "sip:" + target + "@" + p.cfg.Domain
	}
	if err := sip.ParseUri(target, &uri); err != nil {
		return uri, fmt.Errorf("call target %q: %w", target, err)
	}
	return uri, nil
}

// place is the dialog's goroutine at the calling end, up to the answer.
func (c *Call) place(ctx context.Context, uri sip.Uri) {
	began := time.Now()
	res, err := c.inviteFinal(ctx, uri)
	c.cancel()
	if err == nil && !res.IsSuccess() {
		err = &StatusError{Code: res.StatusCode, Reason: res.Reason}
	}
	if err == nil {
		c.mu.Lock()
		c.setup = time.Since(began)
		c.mu.Unlock()
		if err = c.session.accept(res.Body()); err != nil {
			// The call is up all the same for the other end: end it properly.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTimeout)
			defer cancel()
			_ = c.bye(ctx)
		}
	}
	if err != nil {
		c.finish(err)
		return
	}
	c.up(ctx)
}

// inviteFinal sends INVITE, with credentials when asked, to the final response;
// a 2xx has its ACK then. When ctx ends the INVITE is cancelled.
func (c *Call) inviteFinal(ctx context.Context, uri sip.Uri) (*sip.Response, error) {
	p := c.phone
	req := p.request(sip.INVITE, uri, c.id)
	req.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	req.SetBody(c.session.offer(1))
	for challenges := 0; ; challenges++ {
		// Not ctx: the transaction lives on for CANCEL and for repeated 2xx.
		tx, err := p.client.TransactionRequest(context.WithoutCancel(ctx), req, sipgo.ClientRequestAddVia)
		if err != nil {
			return nil, err
		}
		res, err := c.responses(ctx, tx, req)
		if err != nil {
			tx.Terminate()
			return nil, err
		}
		if res.IsSuccess() {
			c.establish(req, res, tx)
			if ctx.Err() != nil { // answered while it was being cancelled (RFC 3261 §9.1)
				bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTimeout)
				defer cancel()
				_ = c.bye(bye)
				return nil, ctx.Err()
			}
			return res, nil
		}
		if challenges == maxChallenges || !p.authorize(req, res) {
			return res, nil // the transaction layer has sent the ACK and ends by itself
		}
		c.mu.Lock()
		c.id.cseq = req.CSeq().SeqNo
		c.mu.Unlock()
	}
}

// responses follows an INVITE to its final response.
func (c *Call) responses(ctx context.Context, tx sip.ClientTransaction, req *sip.Request) (*sip.Response, error) {
	provisional, cancelled := false, false
	giveUp := ctx.Done()
	var deadline <-chan time.Time
	for {
		select {
		case res := <-tx.Responses():
			switch {
			case res.StatusCode == 180 || res.StatusCode == 183:
				c.ring.Do(func() { close(c.ringing) })
			case !res.IsProvisional():
				if cancelled && res.StatusCode == 487 {
					return nil, ctx.Err()
				}
				return res, nil
			}
			provisional = true
		case <-giveUp:
			giveUp = nil
			deadline = time.After(ackTimeout) // "64*T1 seconds" after CANCEL (RFC 3261 §9.1)
		case <-deadline:
			return nil, ctx.Err()
		case <-tx.Done():
			return nil, errors.Join(errors.New("INVITE transaction ended"), tx.Err())
		}
		// "the CANCEL request MUST NOT be sent" before a provisional response (§9.1)
		if ctx.Err() != nil && provisional && !cancelled {
			cancelled = true
			c.phone.work(func() { c.sendCancel(context.WithoutCancel(ctx), req) })
		}
	}
}

// sendCancel builds CANCEL as RFC 3261 §9.1 has it: the INVITE's own Via.
func (c *Call) sendCancel(ctx context.Context, invite *sip.Request) {
	p := c.phone
	req := sip.NewRequest(sip.CANCEL, invite.Recipient)
	hops := sip.MaxForwardsHeader(70)
	for _, h := range []sip.Header{
		sip.HeaderClone(invite.Via()), &hops, sip.HeaderClone(invite.From()), sip.HeaderClone(invite.To()),
		sip.HeaderClone(invite.CallID()), &sip.CSeqHeader{SeqNo: invite.CSeq().SeqNo, MethodName: sip.CANCEL},
	} {
		req.AppendHeader(h)
	}
	req.SetBody(nil)
	p.send(req)
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	tx, err := p.client.TransactionRequest(ctx, req, func(*sipgo.Client, *sip.Request) error { return nil })
	if err != nil {
		p.log.Debug("CANCEL not sent", "error", err)
		return
	}
	defer tx.Terminate()
	if _, err := final(ctx, tx); err != nil {
		p.log.Debug("CANCEL not answered", "error", err)
	}
}

// establish takes the dialog from a 2xx and acknowledges it, and each of its
// repetitions (RFC 3261 §13.2.2.4).
func (c *Call) establish(req *sip.Request, res *sip.Response, tx sip.ClientTransaction) {
	c.mu.Lock()
	c.id.cseq = req.CSeq().SeqNo
	c.id.remote, _ = res.To().Params.Get("tag")
	c.id.routes = nil
	for _, h := range res.GetHeaders("Record-Route") {
		c.id.routes = append(c.id.routes, h.Value())
	}
	slices.Reverse(c.id.routes) // the caller's order is the reverse (§12.1.2)
	c.target = req.Recipient
	if contact := res.Contact(); contact != nil {
		c.target = contact.Address
	}
	id, target := c.id, c.target
	c.invite = tx
	c.version = 1
	c.mu.Unlock()
	ack := func(*sip.Response) {
		req := c.phone.request(sip.ACK, target, id)
		if err := c.phone.client.WriteRequest(req, sipgo.ClientRequestAddVia); err != nil {
			c.phone.log.Debug("ACK not sent", "error", err)
		}
	}
	tx.OnRetransmission(ack)
	ack(res)
}

// up starts the media, which end with the call and not with ctx.
func (c *Call) up(ctx context.Context) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.mu.Lock()
	if c.over || c.stop != nil { // hung up by the other end in this very moment, or up already
		c.mu.Unlock()
		stop()
		return
	}
	c.stop = stop
	c.media.Go(func() { c.session.run(ctx) })
	c.mu.Unlock()
	c.ring.Do(func() { close(c.ringing) })
	c.answer.Do(func() { close(c.answered) })
}

// finish ends the call, once: media stopped, dialog forgotten.
func (c *Call) finish(err error) {
	c.end.Do(func() {
		c.phone.remove(c)
		c.mu.Lock()
		c.err, c.over = err, true
		stop, invite := c.stop, c.invite
		c.mu.Unlock()
		if stop != nil {
			stop()
			c.media.Wait()
		} else {
			c.session.close()
		}
		if invite != nil {
			invite.Terminate()
		}
		close(c.done)
	})
	<-c.done
}

// bye sends BYE and waits for its answer.
func (c *Call) bye(ctx context.Context) error {
	c.mu.Lock()
	c.id.cseq++
	id, target := c.id, c.target
	c.mu.Unlock()
	req := c.phone.request(sip.BYE, target, id)
	res, err := c.phone.do(ctx, req)
	if err != nil {
		return fmt.Errorf("BYE: %w", err)
	}
	// 481 says that the other end knows of no call any more: it is over too.
	if !res.IsSuccess() && res.StatusCode != 481 {
		return fmt.Errorf("BYE: %w", &StatusError{Code: res.StatusCode, Reason: res.Reason})
	}
	return nil
}

// Hangup ends the call: CANCEL or a refusal before the answer, BYE after. It
// returns when the call is over.
func (c *Call) Hangup(ctx context.Context) error {
	select {
	case <-c.done:
		return nil
	case <-c.answered:
		c.mu.Lock()
		stop := c.stop
		c.mu.Unlock()
		stop()
		err := c.bye(ctx)
		c.finish(nil)
		return err
	default:
	}
	c.cancel()
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		c.finish(ctx.Err())
		return ctx.Err()
	}
}
