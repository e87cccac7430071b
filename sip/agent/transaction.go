package agent

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"fieldkit/sip/sipmsg"
)

// serverTx is a request that was let in and waits for its final response, or
// absorbs repeats after it. sipgo runs the timers; the loop decides.
type serverTx struct {
	a      *Agent
	tx     *sip.ServerTx
	key    string
	flow   *flow // where it came from and where responses go
	req    *sip.Request
	tag    string // the To tag of responses made here: one for all (RFC 3261 §8.2.6.2)
	status int    // of the last response

	call    *call    // the call this request began
	relayed *relayed // or the request inside a dialog it is
}

// endings collects the keys of transactions that ended: sipgo calls back from
// timers and also from within Respond, where the loop must not wait on itself.
type endings struct {
	mu   sync.Mutex
	keys []string
	wake chan struct{}
}

func (e *endings) add(key string) {
	e.mu.Lock()
	e.keys = append(e.keys, key)
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *endings) take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	keys := e.keys
	e.keys = nil
	return keys
}

// serverKey matches a request to its transaction: RFC 3261 §17.2.3. The source
// is part of it, so that nobody cancels or repeats another's request. Requests of
// RFC 2543 without the magic cookie are matched by what that RFC used.
func serverKey(f *flow, req *sip.Request, method sip.RequestMethod) string {
	via := req.Via()
	branch, _ := sipmsg.Param(via.Params, "branch")
	parts := []string{f.source(), string(method), strings.ToLower(via.Host), strconv.Itoa(via.Port)}
	if rest, ok := strings.CutPrefix(strings.ToLower(branch), strings.ToLower(sip.RFC3261BranchMagicCookie)); ok && rest != "" {
		parts = append(parts, branch)
	} else {
		tag, _ := sipmsg.Param(req.From().Params, "tag")
		parts = append(parts, req.Recipient.String(), tag, string(*req.CallID()), strconv.FormatUint(uint64(req.CSeq().SeqNo), 10), branch)
	}
	h := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return string(h[:16])
}

// open makes the transaction of a request, nil when a limit is reached.
func (a *Agent) open(f *flow, req *sip.Request, key string) *serverTx {
	l := &a.loop
	src := f.source()
	limit := a.cfg.Limits.SourceTransactions
	if f.trunk != nil {
		limit = a.cfg.Limits.Transactions / 2
	}
	if len(l.servers) >= a.cfg.Limits.Transactions || l.perHost[src] >= limit {
		return nil
	}
	reply := f
	if f.udp != nil {
		// RFC 3581 §4: with rport back to where it came from, otherwise to the
		// port of sent-by at that address (RFC 3261 §18.2.2).
		if _, ok := sipmsg.Param(req.Via().Params, "rport"); !ok {
			port := req.Via().Port
			if port == 0 {
				port = 5060
			}
			reply = f.at(uint16(port))
		}
	}
	s := &serverTx{a: a, key: key, flow: reply, req: req, tag: newTag()}
	s.tx = sip.NewServerTx(key, req, reply, quiet)
	if err := s.tx.Init(); err != nil {
		return nil
	}
	s.tx.OnTerminate(func(string, error) { a.ended.add(key) })
	l.servers[key] = s
	l.perHost[src]++
	return s
}

func (a *Agent) dropServer(key string) {
	s := a.loop.servers[key]
	if s == nil {
		return
	}
	delete(a.loop.servers, key)
	src := s.flow.source()
	if a.loop.perHost[src]--; a.loop.perHost[src] <= 0 {
		delete(a.loop.perHost, src)
	}
}

// respond sends a response made here.
func (s *serverTx) respond(status int, reason string, headers ...sip.Header) {
	s.relay(s.a.makeResponse(s.req, status, reason, s.tag, headers...))
}

// relay sends a response as it is.
func (s *serverTx) relay(res *sip.Response) {
	if s.status >= 300 || (s.status >= 200 && res.StatusCode < 200) {
		return // the final response was sent
	}
	s.status = res.StatusCode
	if err := s.tx.Respond(res); err != nil {
		s.a.count.sendErrors.Add(1)
	}
}

// clientTx is a request sent by us. Two goroutines carry responses through
// sipgo's state machine, which may block: one feeds it, one takes what it passes
// up. Both keep the order.
type clientTx struct {
	a       *Agent
	tx      *sip.ClientTx
	key     string
	flow    *flow
	req     *sip.Request
	inbox   chan *sip.Response
	final   bool
	onReply func(now time.Time, res *sip.Response)
	onEnd   func(now time.Time)
}

type (
	responded struct {
		client *clientTx
		res    *sip.Response
	}
	clientEnded struct {
		client *clientTx
		err    error
	}
)

const clientInbox = 16

// clients are found by branch and method: RFC 3261 §17.1.3.
func clientKey(branch string, method sip.RequestMethod) string {
	return branch + " " + string(method)
}

// start sends a request. onReply gets each response in the loop, onEnd is called
// when the transaction ended without a final response.
func (a *Agent) start(f *flow, req *sip.Request, onReply func(time.Time, *sip.Response), onEnd func(time.Time)) (*clientTx, error) {
	branch, _ := sipmsg.Param(req.Via().Params, "branch")
	req.SetTransport(f.network())
	c := &clientTx{
		a: a, key: clientKey(branch, req.Method), flow: f, req: req,
		inbox: make(chan *sip.Response, clientInbox), onReply: onReply, onEnd: onEnd,
	}
	c.tx = sip.NewClientTx(c.key, req, f, quiet)
	ctx := a.loop.ctx
	c.tx.OnRetransmission(func(res *sip.Response) { a.post(ctx, responded{c, res}) })
	if err := c.tx.Init(); err != nil {
		c.tx.Terminate()
		a.count.sendErrors.Add(1)
		return nil, fmt.Errorf("%s to %s: %w", req.Method, f, err)
	}
	a.clients.put(c)
	a.tasks.Go(func() {
		for {
			select {
			case res := <-c.inbox:
				c.tx.Receive(res)
			case <-c.tx.Done():
				return
			}
		}
	})
	a.tasks.Go(func() {
		for {
			select {
			case res := <-c.tx.Responses():
				a.post(ctx, responded{c, res})
			case <-c.tx.Done():
				a.clients.remove(c)
				a.post(ctx, clientEnded{c, c.tx.Err()})
				return
			case <-ctx.Done():
				c.tx.Terminate()
				a.clients.remove(c)
				return
			}
		}
	})
	return c, nil
}

// clientTable is a leaf container: transactions leave it from their goroutine.
type clientTable struct {
	mu sync.Mutex
	m  map[string]*clientTx
}

func (t *clientTable) put(c *clientTx) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[string]*clientTx)
	}
	t.m[c.key] = c
}

func (t *clientTable) remove(c *clientTx) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m[c.key] == c {
		delete(t.m, c.key)
	}
}

func (t *clientTable) get(key string) *clientTx {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[key]
}

func (t *clientTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.m)
}

// response feeds a response to its transaction. RFC 6026 §7.2: a stray one
// "MUST NOT" be forwarded.
func (a *Agent) response(f *flow, res *sip.Response) {
	branch, _ := sipmsg.Param(res.Via().Params, "branch")
	c := a.clients.get(clientKey(branch, res.CSeq().MethodName))
	if c == nil || !c.flow.same(f) || len(res.GetHeaders("via")) == 0 {
		a.count.stray.Add(1)
		return
	}
	select {
	case c.inbox <- res:
	default:
		a.count.dropped.Add(1)
	}
}

func (c *clientTx) onResponse(now time.Time, res *sip.Response) {
	if res.StatusCode >= 200 {
		c.final = true
	}
	if c.onReply != nil {
		c.onReply(now, res)
	}
}

func (c *clientTx) ended(now time.Time, _ error) {
	if !c.final && c.onEnd != nil {
		c.final = true
		c.onEnd(now)
	}
}

// abandon ends a transaction nobody waits for.
func (c *clientTx) abandon() {
	c.final = true
	c.onReply, c.onEnd = nil, nil
	c.tx.Terminate()
}

func newTag() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func newBranch() string {
	var b [12]byte
	_, _ = rand.Read(b[:])
	return sip.RFC3261BranchMagicCookie + hex.EncodeToString(b[:])
}
