package phone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
	"github.com/icholy/digest"
)

// Answer says what a phone does with a call that comes in.
type Answer struct {
	Reject  int           // final status other than 2xx, at once: 486 is busy; 0 takes the call
	Ringing time.Duration // from the 180 to the answer
	Never   bool          // rings until the caller gives up
}

// Config of a Phone.
type Config struct {
	Server    netip.AddrPort // every request goes there: an outbound proxy
	Transport string         // "udp" (default) or "tcp"
	User      string         // of the account, and of the address
	Password  string
	Domain    string        // of the address; the server's address if empty
	Local     netip.Addr    // to send from and to announce; found by the route to Server if invalid
	Expires   time.Duration // of the registration; 2 minutes if zero

	Tone       float64 // Hz, what this phone says; 0 is silence
	ExpectTone float64 // Hz, what it expects to hear; 0 expects nothing and ToneOK stays false

	Answer   Answer
	MaxCalls int // at a time; 8 if zero, more are busy
	Log      *slog.Logger
}

// What callers decide on.
var (
	// ErrNotRunning: Run has not started, or is over.
	ErrNotRunning = errors.New("phone not running")
	// ErrTooManyCalls: Config.MaxCalls calls are up.
	ErrTooManyCalls = errors.New("too many calls")
)

// StatusError is a final response other than 2xx.
type StatusError struct {
	Code   int
	Reason string
}

func (e *StatusError) Error() string { return fmt.Sprintf("answered %d %s", e.Code, e.Reason) }

const (
	registerTimeout = 10 * time.Second
	goodbyeTimeout  = 2 * time.Second
	quietTime       = 20 * time.Millisecond
	maxRetry        = 30 * time.Second
	maxChallenges   = 2 // the second for a nonce gone stale
)

// Phone is one SIP user agent with one account.
type Phone struct {
	cfg    Config
	log    *slog.Logger
	agent  *sipgo.UserAgent
	client *sipgo.Client
	server *sipgo.Server
	listen uint16 // port announced in Contact

	registered atomic.Bool
	running    atomic.Bool
	deaf       atomic.Bool // messages are dropped unread
	incoming   chan *Call
	missed     atomic.Uint64 // calls that nobody took from Incoming; they go on all the same

	registration struct { // Run's own: one Call-ID and rising CSeq (RFC 3261 §10.2)
		callID, tag string
		cseq        uint32
		lastError   atomic.Pointer[error]
	}

	mu      sync.Mutex // leaf
	calls   map[string]*Call
	notify  chan struct{}   // closed, and made anew, when the registration changes
	ctx     context.Context // of Run
	closing bool            // no more goroutines: Run waits for them
	serving sync.WaitGroup
}

// New makes a phone; nothing is sent before Run.
func New(cfg Config) (*Phone, error) {
	switch cfg.Transport = strings.ToLower(cfg.Transport); cfg.Transport {
	case "":
		cfg.Transport = "udp"
	case "udp", "tcp":
	default:
		return nil, fmt.Errorf("phone transport %q: not udp or tcp", cfg.Transport)
	}
	if !cfg.Server.IsValid() || cfg.User == "" {
		return nil, errors.New("phone without a server or a user")
	}
	if !cfg.Local.IsValid() {
		addr, err := route(cfg.Server)
		if err != nil {
			return nil, fmt.Errorf("way to the server: %w", err)
		}
		cfg.Local = addr
	}
	if cfg.Domain == "" {
		cfg.Domain = cfg.Server.Addr().String()
	}
	if cfg.Expires <= 0 {
		cfg.Expires = 2 * time.Minute
	}
	if cfg.MaxCalls <= 0 {
		cfg.MaxCalls = 8
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Phone{
		cfg: cfg, log: cfg.Log, notify: make(chan struct{}),
		incoming: make(chan *Call, 2*cfg.MaxCalls), calls: make(map[string]*Call),
	}, nil
}

// route finds the address this machine would use toward a server; it sends nothing.
func route(to netip.AddrPort) (netip.Addr, error) {
	var d net.Dialer
	c, err := d.DialContext(context.Background(), "udp", to.String())
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = c.Close() }()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// Registered says whether the account is registered now.
func (p *Phone) Registered() bool { return p.registered.Load() }

// WaitRegistered waits for the registration and returns what stood in its way
// when ctx ends first.
func (p *Phone) WaitRegistered(ctx context.Context) error {
	for {
		changed := p.registrationChanged()
		if p.Registered() {
			return nil
		}
		select {
		case <-ctx.Done():
			if last := p.registration.lastError.Load(); last != nil {
				return fmt.Errorf("registration: %w", *last)
			}
			return fmt.Errorf("registration: %w", ctx.Err())
		case <-changed:
		}
	}
}

// registrationChanged is closed at the next change or attempt.
func (p *Phone) registrationChanged() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.notify
}

func (p *Phone) setRegistered(now bool) {
	p.registered.Store(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.notify)
	p.notify = make(chan struct{})
}

// work starts a goroutine that Run waits for; false when Run is at its end.
func (p *Phone) work(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return false
	}
	p.serving.Go(f)
	return true
}

// Incoming gives the calls that come in, before they are answered. A channel
// that nobody reads costs nothing but its own calls.
func (p *Phone) Incoming() <-chan *Call { return p.incoming }

// Run registers, keeps the registration fresh and serves calls until ctx ends.
// Then it hangs up, takes the registration back and returns nil. Run it once.
func (p *Phone) Run(ctx context.Context) error {
	closeTransports, err := p.open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		p.mu.Lock()
		p.closing = true
		p.mu.Unlock()
		// A message that sipgo has read but not handled when its sockets close
		// makes it open a new one, which nobody closes: read no more, and give
		// those under way the time they need.
		p.deaf.Store(true)
		<-time.After(quietTime)
		closeTransports()
		p.serving.Wait()
	}()
	p.mu.Lock()
	p.ctx = ctx
	p.mu.Unlock()
	p.running.Store(true)
	p.keepRegistered(ctx)
	p.running.Store(false)

	// The goodbyes have a time of their own.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTimeout)
	defer cancel()
	for _, c := range p.active() {
		if err := c.Hangup(ctx); err != nil {
			p.log.Debug("hang-up at the end", "error", err)
		}
	}
	if p.registered.Load() {
		if _, err := p.register(ctx, 0); err != nil {
			p.log.Debug("registration not taken back", "error", err)
		}
		p.setRegistered(false)
	}
	return nil
}

// open makes the transports and waits until they serve.
func (p *Phone) open(ctx context.Context) (func(), error) {
	quiet := slog.New(slog.DiscardHandler) // sipgo logs whole messages
	agent, err := sipgo.NewUA(
		sipgo.WithUserAgent(p.cfg.User), sipgo.WithUserAgentHostname(p.cfg.Domain),
		sipgo.WithUserAgentTransportLayerOptions(sip.WithTransportLayerLogger(quiet), sip.WithTransportLayerReadFilter(p.hear)),
		sipgo.WithUserAgentTransactionLayerOptions(sip.WithTransactionLayerLogger(quiet),
			// A final response that is repeated; sipgo would say so on standard error.
			sip.WithTransactionLayerUnhandledResponseHandler(func(*sip.Response) {})),
	)
	if err != nil {
		return nil, fmt.Errorf("SIP user agent: %w", err)
	}
	p.agent = agent
	if p.client, err = sipgo.NewClient(agent, sipgo.WithClientLogger(quiet), sipgo.WithClientNAT()); err != nil {
		return nil, errors.Join(fmt.Errorf("SIP client: %w", err), agent.Close())
	}
	if p.server, err = sipgo.NewServer(agent, sipgo.WithServerLogger(quiet)); err != nil {
		return nil, errors.Join(fmt.Errorf("SIP server: %w", err), agent.Close())
	}
	p.server.OnInvite(p.onInvite)
	p.server.OnAck(p.onAck)
	p.server.OnBye(p.onBye)
	p.server.OnOptions(func(req *sip.Request, tx sip.ServerTransaction) { p.reply(req, tx, 200, "OK") })
	p.server.OnNotify(func(req *sip.Request, tx sip.ServerTransaction) { p.reply(req, tx, 200, "OK") })
	p.server.OnCancel(func(req *sip.Request, tx sip.ServerTransaction) {
		p.reply(req, tx, 481, "Call/Transaction Does Not Exist") // the others sipgo matches itself
	})
	p.server.OnNoRoute(func(req *sip.Request, tx sip.ServerTransaction) { p.reply(req, tx, 405, "Method Not Allowed") })

	at := net.JoinHostPort(p.cfg.Local.String(), "0")
	var sockets net.ListenConfig
	if p.cfg.Transport == "tcp" {
		l, err := sockets.Listen(ctx, "tcp", at)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("SIP listener: %w", err), agent.Close())
		}
		p.listen = l.Addr().(*net.TCPAddr).AddrPort().Port()
		p.serving.Go(func() { _ = p.server.ServeTCP(l) }) // ends with the listener
		return func() { _ = l.Close(); _ = agent.Close() }, nil
	}
	c, err := sockets.ListenPacket(ctx, "udp", at)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("SIP socket: %w", err), agent.Close())
	}
	p.listen = c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	p.serving.Go(func() { _ = p.server.ServeUDP(c) }) // ends with the socket
	// A request sent before the socket is known to the transport layer would
	// open a second one.
	stop := func() { _ = c.Close(); _ = agent.Close() }
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		if known, err := agent.TransportLayer().GetConnection("udp", c.LocalAddr().String()); err == nil && known != nil {
			return stop, nil
		}
		<-tick.C
	}
	stop()
	p.serving.Wait()
	return nil, errors.New("SIP socket is not served")
}

var errDeaf = errors.New("phone is closing")

func (p *Phone) hear(_ sip.TransportReadProps, data []byte) ([]byte, error) {
	if p.deaf.Load() {
		return nil, errDeaf
	}
	return data, nil
}

// keepRegistered registers and refreshes until ctx ends.
func (p *Phone) keepRegistered(ctx context.Context) {
	r := &p.registration
	r.callID, r.tag = sip.GenerateTagN(24)+"@"+p.cfg.Local.String(), sip.GenerateTagN(16)
	retry := 500 * time.Millisecond
	for {
		attempt, cancel := context.WithTimeout(ctx, registerTimeout)
		granted, err := p.register(attempt, p.cfg.Expires)
		cancel()
		wait := granted * 8 / 10
		if err != nil {
			r.lastError.Store(&err)
			wait, retry = retry, min(2*retry, maxRetry)
			p.log.Info("registration failed", "user", p.cfg.User, "error", err, "again_in", wait)
		} else {
			r.lastError.Store(nil)
			retry = 500 * time.Millisecond
		}
		p.setRegistered(err == nil)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// register sends one REGISTER and its answer to a challenge; it returns the
// time granted. A time of 0 takes the binding back.
func (p *Phone) register(ctx context.Context, expires time.Duration) (time.Duration, error) {
	r := &p.registration
	r.cseq++
	registrar := sip.Uri{Scheme: "sip", Host: p.cfg.Domain}
	req := p.request(sip.REGISTER, registrar, dialogID{callID: r.callID, local: r.tag, cseq: r.cseq, to: p.address()})
	req.AppendHeader(sip.NewHeader("Expires", strconv.Itoa(int(expires.Seconds()))))
	res, err := p.do(ctx, req)
	if err != nil {
		return 0, fmt.Errorf("REGISTER: %w", err)
	}
	r.cseq = req.CSeq().SeqNo
	if !res.IsSuccess() {
		return 0, fmt.Errorf("REGISTER: %w", &StatusError{Code: res.StatusCode, Reason: res.Reason})
	}
	granted := expires
	if h := res.GetHeader("Expires"); h != nil {
		if n, err := strconv.Atoi(h.Value()); err == nil {
			granted = time.Duration(n) * time.Second
		}
	}
	// "expires" of our own Contact counts before the header (RFC 3261 §10.2.4).
	for _, h := range res.GetHeaders("Contact") {
		c, ok := h.(*sip.ContactHeader)
		if !ok || c.Address.Port != int(p.listen) || c.Address.Host != p.contact().Address.Host {
			continue
		}
		if v, ok := c.Params.Get("expires"); ok {
			if n, err := strconv.Atoi(v); err == nil {
				granted = time.Duration(n) * time.Second
			}
		}
	}
	if expires > 0 && granted < time.Second {
		return 0, fmt.Errorf("REGISTER: granted %v", granted)
	}
	return granted, nil
}

func (p *Phone) address() sip.Uri {
	return sip.Uri{Scheme: "sip", User: p.cfg.User, Host: p.cfg.Domain}
}

func (p *Phone) contact() *sip.ContactHeader {
	host := p.cfg.Local.WithZone("").String()
	if p.cfg.Local.Is6() {
		host = "[" + host + "]"
	}
	c := &sip.ContactHeader{Address: sip.Uri{Scheme: "sip", User: p.cfg.User, Host: host, Port: int(p.listen)}}
	if p.cfg.Transport == "tcp" {
		c.Address.UriParams.Add("transport", "tcp")
	}
	return c
}

// dialogID is what makes a request part of a dialog, or begins one.
type dialogID struct {
	callID, local, remote string // remote tag empty outside of a dialog
	cseq                  uint32
	to                    sip.Uri
	routes                []string
}

// request builds a request as RFC 3261 §8.1.1 and §12.2.1.1 say, bound for the server.
func (p *Phone) request(method sip.RequestMethod, uri sip.Uri, d dialogID) *sip.Request {
	req := sip.NewRequest(method, uri)
	from := &sip.FromHeader{Address: p.address()}
	from.Params.Add("tag", d.local)
	to := &sip.ToHeader{Address: d.to}
	if d.remote != "" {
		to.Params.Add("tag", d.remote)
	}
	callID, hops := sip.CallIDHeader(d.callID), sip.MaxForwardsHeader(70)
	for _, r := range d.routes {
		req.AppendHeader(sip.NewHeader("Route", r))
	}
	for _, h := range []sip.Header{
		&hops, from, to, &callID, &sip.CSeqHeader{SeqNo: d.cseq, MethodName: method}, p.contact(),
		sip.NewHeader("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, NOTIFY"), sip.NewHeader("User-Agent", "fieldkit phone"),
	} {
		req.AppendHeader(h)
	}
	req.SetBody(nil)
	p.send(req)
	return req
}

// send aims a request at the server, from our own address.
func (p *Phone) send(req *sip.Request) {
	req.SetTransport(strings.ToUpper(p.cfg.Transport))
	req.SetDestination(p.cfg.Server.String())
	req.Laddr = sip.Addr{IP: p.cfg.Local.AsSlice(), Zone: p.cfg.Local.Zone()}
	if p.cfg.Transport == "udp" {
		req.Laddr.Port = int(p.listen)
	}
}

// do runs a transaction to its final response, answering challenges on the way.
func (p *Phone) do(ctx context.Context, req *sip.Request) (*sip.Response, error) {
	for challenges := 0; ; challenges++ {
		tx, err := p.client.TransactionRequest(ctx, req, sipgo.ClientRequestAddVia)
		if err != nil {
			return nil, err
		}
		res, err := final(ctx, tx)
		tx.Terminate()
		if err != nil || challenges == maxChallenges || !p.authorize(req, res) {
			return res, err
		}
	}
}

func final(ctx context.Context, tx sip.ClientTransaction) (*sip.Response, error) {
	for {
		select {
		case res := <-tx.Responses():
			if !res.IsProvisional() {
				return res, nil
			}
		case <-tx.Done():
			return nil, errors.Join(errors.New("transaction ended"), tx.Err())
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// authorize makes of a challenged request the one to send next (RFC 3261 §22.2):
// with credentials, a higher CSeq and room for a new Via. False when the
// response is no challenge that can be met.
func (p *Phone) authorize(req *sip.Request, res *sip.Response) bool {
	challenge, credentials := "WWW-Authenticate", "Authorization"
	switch res.StatusCode {
	case 401:
	case 407:
		challenge, credentials = "Proxy-Authenticate", "Proxy-Authorization"
	default:
		return false
	}
	for _, h := range res.GetHeaders(challenge) {
		c, err := digest.ParseChallenge(h.Value())
		if err != nil {
			continue
		}
		answer, err := digest.Digest(c, digest.Options{
			Method: string(req.Method), URI: req.Recipient.String(), Username: p.cfg.User, Password: p.cfg.Password, Count: 1,
		})
		if err != nil {
			continue
		}
		req.RemoveHeader(credentials)
		req.AppendHeader(sip.NewHeader(credentials, answer.String()))
		req.RemoveHeader("Via")
		req.CSeq().SeqNo++
		return true
	}
	return false
}

func (p *Phone) reply(req *sip.Request, tx sip.ServerTransaction, code int, reason string) {
	if err := tx.Respond(sip.NewResponseFromRequest(req, code, reason, nil)); err != nil {
		p.log.Debug("response not sent", "code", code, "error", err)
	}
}

// add keeps a call findable for requests of its dialog.
func (p *Phone) add(c *Call) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.calls) >= p.cfg.MaxCalls {
		return ErrTooManyCalls
	}
	p.calls[c.key()] = c
	return nil
}

func (p *Phone) remove(c *Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, c.key())
}

func (p *Phone) find(req *sip.Request) *Call {
	callID, to := req.CallID(), req.To()
	if callID == nil || to == nil {
		return nil
	}
	tag, _ := to.Params.Get("tag")
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[callID.Value()+"\x00"+tag]
}

func (p *Phone) active() []*Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := make([]*Call, 0, len(p.calls))
	for _, c := range p.calls {
		calls = append(calls, c)
	}
	return calls
}
