package phone

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
	"github.com/icholy/digest"
	"github.com/pion/rtp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

var loopback = netip.MustParseAddr("127.0.0.1")

// exchange is a registrar with digest and a record-routing proxy: what a phone
// needs at the other end, and no more.
type exchange struct {
	t        *testing.T
	client   *sipgo.Client
	addr     netip.AddrPort
	accounts map[string]string

	mu       sync.Mutex
	bindings map[string]sip.Uri
}

const realm = "lab"

func newExchange(t *testing.T, network string, accounts map[string]string) *exchange {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) }) // the last one to run: names the test that leaks
	quiet := slog.New(slog.DiscardHandler)
	var deaf atomic.Bool
	agent, err := sipgo.NewUA(
		sipgo.WithUserAgentTransportLayerOptions(sip.WithTransportLayerLogger(quiet), sip.WithTransportLayerReadFilter(
			func(_ sip.TransportReadProps, data []byte) ([]byte, error) {
				if deaf.Load() {
					return nil, errDeaf
				}
				return data, nil
			})),
		sipgo.WithUserAgentTransactionLayerOptions(sip.WithTransactionLayerLogger(quiet)))
	if err != nil {
		t.Fatal(err)
	}
	server, err := sipgo.NewServer(agent, sipgo.WithServerLogger(quiet))
	if err != nil {
		t.Fatal(err)
	}
	x := &exchange{t: t, accounts: accounts, bindings: make(map[string]sip.Uri)}
	if x.client, err = sipgo.NewClient(agent, sipgo.WithClientLogger(quiet)); err != nil {
		t.Fatal(err)
	}
	server.OnRegister(x.register)
	server.OnInvite(x.invite)
	server.OnBye(x.forward)
	server.OnAck(func(req *sip.Request, _ sip.ServerTransaction) {
		out := x.onward(req)
		if err := x.client.WriteRequest(out, sipgo.ClientRequestAddVia); err != nil {
			t.Logf("ACK: %v", err)
		}
	})
	var serving sync.WaitGroup
	var closer io.Closer
	if network == "tcp" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		closer, x.addr = l, l.Addr().(*net.TCPAddr).AddrPort()
		serving.Go(func() { _ = server.ServeTCP(l) })
	} else {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		closer, x.addr = c, c.LocalAddr().(*net.UDPAddr).AddrPort()
		serving.Go(func() { _ = server.ServeUDP(c) })
	}
	t.Cleanup(func() {
		deaf.Store(true) // as Phone.Run does, and for the same reason
		<-time.After(quietTime)
		_ = closer.Close()
		_ = agent.Close()
		serving.Wait()
	})
	return x
}

func (x *exchange) respond(req *sip.Request, tx sip.ServerTransaction, code int, reason string, headers ...sip.Header) {
	res := sip.NewResponseFromRequest(req, code, reason, nil)
	for _, h := range headers {
		res.AppendHeader(h)
	}
	if err := tx.Respond(res); err != nil {
		x.t.Logf("response %d: %v", code, err)
	}
}

// authorized checks the digest as RFC 3261 §22 has it, or challenges.
func (x *exchange) authorized(req *sip.Request, tx sip.ServerTransaction, code int, challenge, header string) bool {
	c := digest.Challenge{Realm: realm, Nonce: "nonce", Algorithm: "MD5", QOP: []string{"auth"}}
	if h := req.GetHeader(header); h != nil {
		got, err := digest.ParseCredentials(h.Value())
		if err == nil && got.URI == req.Recipient.String() {
			want, err := digest.Digest(&c, digest.Options{
				Method: string(req.Method), URI: got.URI, Username: got.Username, Password: x.accounts[got.Username], Cnonce: got.Cnonce, Count: got.Nc,
			})
			if err == nil && want.Response == got.Response {
				return true
			}
		}
	}
	x.respond(req, tx, code, "Challenge", sip.NewHeader(challenge, c.String()))
	return false
}

func (x *exchange) register(req *sip.Request, tx sip.ServerTransaction) {
	if !x.authorized(req, tx, 401, "WWW-Authenticate", "Authorization") {
		return
	}
	x.mu.Lock()
	if expires := req.GetHeader("Expires"); expires != nil && expires.Value() == "0" {
		delete(x.bindings, req.To().Address.User)
	} else {
		x.bindings[req.To().Address.User] = req.Contact().Address
	}
	x.mu.Unlock()
	x.respond(req, tx, 200, "OK", sip.NewHeader("Expires", "60"))
}

func (x *exchange) binding(user string) (sip.Uri, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	uri, ok := x.bindings[user]
	return uri, ok
}

// onward makes of a request in a dialog the one to the next hop.
func (x *exchange) onward(req *sip.Request) *sip.Request {
	out := req.Clone()
	out.RemoveHeader("Route")
	out.SetDestination("")
	out.Laddr = sip.Addr{}
	if req.Transport() == "UDP" {
		out.Laddr = sip.Addr{IP: net.IP(x.addr.Addr().AsSlice()), Port: int(x.addr.Port())}
	}
	return out
}

func (x *exchange) forward(req *sip.Request, tx sip.ServerTransaction) {
	if req.Route() == nil {
		x.t.Error("a request of the dialog without the route that was recorded")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := x.client.TransactionRequest(ctx, x.onward(req), sipgo.ClientRequestAddVia)
	if err != nil {
		x.respond(req, tx, 503, "Service Unavailable")
		return
	}
	defer out.Terminate()
	if res, err := final(ctx, out); err == nil {
		x.respond(req, tx, res.StatusCode, res.Reason)
	}
}

func (x *exchange) invite(req *sip.Request, tx sip.ServerTransaction) {
	if req.To().Params.Has("tag") {
		x.forward(req, tx)
		return
	}
	if !x.authorized(req, tx, 407, "Proxy-Authenticate", "Proxy-Authorization") {
		return
	}
	target, ok := x.binding(req.Recipient.User)
	if !ok {
		x.respond(req, tx, 404, "Not Found")
		return
	}
	out := x.onward(req)
	out.RemoveHeader("Proxy-Authorization")
	out.Recipient = target
	hop := sip.Uri{Scheme: "sip", Host: x.addr.Addr().String(), Port: int(x.addr.Port())}
	hop.UriParams.Add("lr", "")
	out.PrependHeader(&sip.RecordRouteHeader{Address: hop})
	down, err := x.client.TransactionRequest(context.Background(), out, sipgo.ClientRequestAddVia)
	if err != nil {
		x.respond(req, tx, 503, "Service Unavailable")
		return
	}
	tx.OnCancel(func(*sip.Request) {
		cancel := sip.NewRequest(sip.CANCEL, out.Recipient)
		hops := sip.MaxForwardsHeader(70)
		for _, h := range []sip.Header{
			sip.HeaderClone(out.Via()), sip.HeaderClone(out.From()), sip.HeaderClone(out.To()), sip.HeaderClone(out.CallID()), &hops,
			&sip.CSeqHeader{SeqNo: out.CSeq().SeqNo, MethodName: sip.CANCEL},
		} {
			cancel.AppendHeader(h)
		}
		cancel.SetBody(nil)
		cancel.SetTransport(out.Transport())
		cancel.Laddr = out.Laddr
		ctx, done := context.WithTimeout(context.Background(), patience)
		go func() {
			defer done()
			if tx, err := x.client.TransactionRequest(ctx, cancel, func(*sipgo.Client, *sip.Request) error { return nil }); err == nil {
				_, _ = final(ctx, tx)
				tx.Terminate()
			}
		}()
	})
	pass := func(res *sip.Response) {
		up := res.Clone()
		up.RemoveHeader("Via") // ours
		up.SetDestination(req.Source())
		up.SetTransport(req.Transport())
		if err := tx.Respond(up); err != nil {
			x.t.Logf("response %d: %v", res.StatusCode, err)
		}
	}
	down.OnRetransmission(pass)
	for {
		select {
		case res := <-down.Responses():
			if res.StatusCode == 100 {
				continue
			}
			pass(res)
			if !res.IsProvisional() {
				return
			}
		case <-down.Done():
			return
		}
	}
}

// start runs a phone of the exchange until the test ends.
func (x *exchange) start(network, user string, change func(*Config)) *Phone {
	x.t.Helper()
	cfg := Config{
		Server: x.addr, Transport: network, User: user, Password: x.accounts[user], Domain: "lab.example", Local: loopback,
	}
	if change != nil {
		change(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		x.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.Run(ctx); err != nil {
			x.t.Errorf("%s: %v", user, err)
		}
	})
	x.t.Cleanup(func() {
		stop()
		running.Wait()
		if _, ok := x.binding(user); ok {
			x.t.Errorf("%s has not taken its registration back", user)
		}
	})
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := p.WaitRegistered(wait); err != nil {
		x.t.Fatal(err)
	}
	return p
}

func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("not in time: %s", what)
	}
}

// eventually looks again and again, for what no channel tells.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

var accounts = map[string]string{"anna": "secret", "bert": "other"}

func TestTwoPhonesTalk(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			x := newExchange(t, network, accounts)
			anna := x.start(network, "anna", func(c *Config) { c.Tone, c.ExpectTone = 440, 1000 })
			bert := x.start(network, "bert", func(c *Config) { c.Tone, c.ExpectTone = 1000, 440 })
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			out, err := anna.Call(ctx, "bert")
			if err != nil {
				t.Fatal(err)
			}
			in := <-bert.Incoming()
			within(t, "answered at the callee", in.Answered())
			if s := out.SetupTime(); s <= 0 || s > 5*time.Second {
				t.Errorf("set-up time %v", s)
			}
			for _, c := range []*Call{out, in} {
				eventually(t, "a second of the far tone, reports and a round trip", func() bool {
					s := c.Stats()
					return s.Received >= 50 && s.ToneOK && s.Reports > 0 && s.RTTMS > 0
				})
				if s := c.Stats(); s.Lost != 0 || s.JitterMS > 20 || s.RTTMS > 1000 || s.Strays != 0 {
					t.Errorf("on loopback: %+v", s)
				}
			}
			// Either side may hang up.
			ends := []*Call{out, in}
			if network == "tcp" {
				ends = []*Call{in, out}
			}
			if err := ends[0].Hangup(ctx); err != nil {
				t.Errorf("hang-up: %v", err)
			}
			within(t, "the other end hears of it", ends[1].Done())
			if out.Err() != nil || in.Err() != nil {
				t.Errorf("ended by hang-up, with %v and %v", out.Err(), in.Err())
			}
		})
	}
}

func TestWrongToneIsNotOK(t *testing.T) {
	x := newExchange(t, "udp", accounts)
	anna := x.start("udp", "anna", func(c *Config) { c.Tone, c.ExpectTone = 440, 700 })
	bert := x.start("udp", "bert", func(c *Config) { c.Tone = 1000 })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := anna.Call(ctx, "bert")
	if err != nil {
		t.Fatal(err)
	}
	<-bert.Incoming()
	eventually(t, "audio", func() bool { return out.Stats().Received >= 2*toneFrames })
	if out.Stats().ToneOK {
		t.Error("another tone taken for the expected one")
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, target string
		answer       Answer
		code         int
	}{
		{"busy", "bert", Answer{Reject: 486}, 486},
		{"declined", "sip:bert@lab.example", Answer{Reject: 603}, 603},
		{"nobody of that name", "carl@lab.example", Answer{}, 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := newExchange(t, "udp", accounts)
			anna := x.start("udp", "anna", nil)
			x.start("udp", "bert", func(c *Config) { c.Answer = tt.answer })
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_, err := anna.Call(ctx, tt.target)
			var status *StatusError
			if !errors.As(err, &status) || status.Code != tt.code {
				t.Errorf("got %v, want status %d", err, tt.code)
			}
		})
	}
}

func TestCancelWhileRinging(t *testing.T) {
	x := newExchange(t, "udp", accounts)
	anna := x.start("udp", "anna", nil)
	bert := x.start("udp", "bert", func(c *Config) { c.Answer = Answer{Never: true} })
	out, err := anna.Dial(t.Context(), "bert")
	if err != nil {
		t.Fatal(err)
	}
	in := <-bert.Incoming()
	within(t, "ringing", out.Ringing())
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := out.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	within(t, "the callee stops ringing", in.Done())
	if !errors.Is(out.Err(), context.Canceled) || !errors.Is(in.Err(), context.Canceled) {
		t.Errorf("ended with %v and %v", out.Err(), in.Err())
	}
}

func TestCalleeDeclinesWhileRinging(t *testing.T) {
	x := newExchange(t, "udp", accounts)
	anna := x.start("udp", "anna", nil)
	bert := x.start("udp", "bert", func(c *Config) { c.Answer = Answer{Never: true} })
	out, err := anna.Dial(t.Context(), "bert")
	if err != nil {
		t.Fatal(err)
	}
	in := <-bert.Incoming()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := in.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	within(t, "the caller hears of it", out.Done())
	var status *StatusError
	if !errors.As(out.Err(), &status) || status.Code != 603 {
		t.Errorf("ended with %v", out.Err())
	}
}

func TestWrongPassword(t *testing.T) {
	x := newExchange(t, "udp", accounts)
	p, err := New(Config{Server: x.addr, User: "anna", Password: "wrong", Domain: "lab.example"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer stop()
	<-p.registrationChanged()
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	err = p.WaitRegistered(short)
	var status *StatusError
	if !errors.As(err, &status) || status.Code != 401 {
		t.Errorf("got %v, want the registrar's 401", err)
	}
}

func TestTooManyCalls(t *testing.T) {
	x := newExchange(t, "udp", accounts)
	anna := x.start("udp", "anna", func(c *Config) { c.MaxCalls = 1 })
	x.start("udp", "bert", func(c *Config) { c.Answer = Answer{Never: true} })
	if _, err := anna.Dial(t.Context(), "bert"); err != nil {
		t.Fatal(err)
	}
	if _, err := anna.Dial(t.Context(), "bert"); !errors.Is(err, ErrTooManyCalls) {
		t.Errorf("second of one call: %v", err)
	}
}

func TestConfiguration(t *testing.T) {
	server := netip.AddrPortFrom(loopback, 5060)
	for name, c := range map[string]Config{
		"nothing":   {},
		"no user":   {Server: server},
		"no server": {User: "anna"},
		"transport": {Server: server, User: "anna", Transport: "sctp"},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	p, err := New(Config{Server: server, User: "anna"})
	if err != nil {
		t.Fatal(err)
	}
	if p.cfg.Local != loopback || p.cfg.Domain != "127.0.0.1" {
		t.Errorf("found %+v", p.cfg)
	}
	if _, err := p.Dial(t.Context(), "bert"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a call before Run: %v", err)
	}
	for target, want := range map[string]string{"10102": "sip:10102@127.0.0.1", "a@b": "sip:a@b", "sip:a@b:5070": "sip:a@b:5070"} {
		if uri, err := p.parseTarget(target); err != nil || uri.String() != want {
			t.Errorf("%q became %q, %v", target, uri.String(), err)
		}
	}
	if _, err := p.parseTarget(""); err == nil {
		t.Error("a call to nobody")
	}
}

// A command that is there before the phone is up waits for it.
func TestCommandAtOnce(t *testing.T) {
	x := newExchange(t, "udp", accounts)
	var out strings.Builder
	err := Main(t.Context(), strings.NewReader(`{"cmd":"call","target":"carl"}`+"\n"), &out, Config{
		Server: x.addr, User: "anna", Password: "secret", Domain: "lab.example", Local: loopback,
	})
	if err != nil || !strings.Contains(out.String(), `"event":"calling"`) || strings.Contains(out.String(), ErrNotRunning.Error()) {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// The command form, as another process would use it.
func TestCommands(t *testing.T) {
	x := newExchange(t, "udp", accounts)
	x.start("udp", "bert", func(c *Config) { c.Tone = 1000 })
	commands, say := io.Pipe()
	hear, events := io.Pipe()
	var running sync.WaitGroup
	running.Go(func() {
		err := Main(t.Context(), commands, events, Config{
			Server: x.addr, User: "anna", Password: "secret", Domain: "lab.example", Local: loopback, Tone: 440, ExpectTone: 1000,
		})
		if err != nil {
			t.Error(err)
		}
		_ = events.Close()
	})
	defer running.Wait()
	defer func() { // also when the test fails: Main ends with its pipes
		_ = say.Close()
		_ = hear.Close()
	}()
	lines := bufio.NewScanner(hear)
	next := func(want string) Event {
		t.Helper()
		for lines.Scan() {
			var e Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Fatalf("not JSON: %q", lines.Text())
			}
			if e.Event == want {
				return e
			}
			if e.Event != "media" {
				t.Fatalf("event %+v, want %s", e, want)
			}
		}
		t.Fatalf("no event %s: %v", want, lines.Err())
		return Event{}
	}
	command := func(s string) {
		t.Helper()
		if _, err := io.WriteString(say, s+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	next("registered")
	command(`{"cmd":"call","target":"bert"}`)
	if e := next("calling"); e.Call != 1 || !strings.HasPrefix(e.Peer, "sip:bert@") {
		t.Errorf("%+v", e)
	}
	next("ringing")
	if e := next("answered"); e.SetupMS <= 0 {
		t.Errorf("%+v", e)
	}
	for e := next("media"); e.Media.Received < 2*toneFrames; e = next("media") {
		if e.Media == nil || e.Call != 1 {
			t.Fatalf("%+v", e)
		}
	}
	command(`{"cmd":"hangup","call":1}`)
	if e := next("media"); !e.Media.ToneOK || e.Media.Sent == 0 || e.Media.Lost != 0 {
		t.Errorf("%+v", *e.Media)
	}
	if e := next("ended"); e.Error != "" || e.Status != 0 {
		t.Errorf("%+v", e)
	}
	command(`{"cmd":"call","target":"carl"}`)
	next("calling")
	if e := next("ended"); e.Status != 404 {
		t.Errorf("%+v", e)
	}
	for _, bad := range []string{`{"cmd":"dance"}`, `not JSON`, `{"cmd":"hangup","call":9}`} {
		command(bad)
		next("error")
	}
	command(`{"cmd":"quit"}`)
	for lines.Scan() {
		if strings.Contains(lines.Text(), `"error"`) {
			t.Errorf("at the end: %s", lines.Text())
		}
	}
}

func TestG711(t *testing.T) {
	// Known pairs: silence, and the ends of the scales.
	for _, tt := range []struct {
		sample int16
		u, a   byte
	}{{0, 0xff, 0xd5}, {32767, 0x80, 0xaa}, {-32768, 0x00, 0x2a}} {
		if u, a := encodeULaw(tt.sample), encodeALaw(tt.sample); u != tt.u || a != tt.a {
			t.Errorf("%d became %#x and %#x, want %#x and %#x", tt.sample, u, a, tt.u, tt.a)
		}
	}
	for b := range 256 {
		// "negative zero" of µ-law is the one code that does not come back.
		if u := encodeULaw(decodeULaw(byte(b))); u != byte(b) && b != 0x7f {
			t.Errorf("µ-law %#x came back as %#x", b, u)
		}
		if a := encodeALaw(decodeALaw(byte(b))); a != byte(b) {
			t.Errorf("A-law %#x came back as %#x", b, a)
		}
	}
	for v := -32768; v < 32768; v += 7 {
		for name, back := range map[string]int16{"µ": decodeULaw(encodeULaw(int16(v))), "A": decodeALaw(encodeALaw(int16(v)))} {
			// A quantisation step is at most 1/16 of the value, or the clip's.
			if d := math.Abs(float64(v) - float64(back)); d > 16+math.Abs(float64(v))/16+1 {
				t.Fatalf("%s-law: %d came back as %d", name, v, back)
			}
		}
	}
}

func TestTone(t *testing.T) {
	hear := func(expect float64, tones ...float64) bool {
		e := ear{hertz: expect}
		oscillators := make([]*oscillator, len(tones))
		for i, f := range tones {
			oscillators[i] = newOscillator(f)
		}
		for range 2 * toneFrames {
			sum, one := make([]int16, frameSamples), make([]int16, frameSamples)
			for _, o := range oscillators {
				o.fill(one)
				for i := range sum {
					sum[i] += one[i]
				}
			}
			for _, law := range []uint8{pcmu, pcma} {
				e.hear(decode(nil, encode(nil, sum, law), law))
			}
		}
		return e.ok()
	}
	for _, f := range []float64{300, 440, 697, 1000, 1633, 3000} {
		if !hear(f, f) {
			t.Errorf("%v Hz not heard", f)
		}
		if hear(f, f*1.3) || hear(f, f, f*1.3) || hear(f) {
			t.Errorf("%v Hz heard in another tone, in two, or in silence", f)
		}
	}
	if hear(0, 440) {
		t.Error("nothing was expected")
	}
	short := ear{hertz: 440}
	short.hear(make([]int16, frameSamples))
	if short.ok() {
		t.Error("judged by one frame")
	}
	if share, _ := goertzel(nil, 440); share != 0 {
		t.Error("an empty frame has a tone")
	}
}

func TestReception(t *testing.T) {
	var r reception
	at := time.Duration(0)
	arrive := func(ssrc uint32, seq uint16, late time.Duration) bool {
		at += packetTime
		return r.take(&rtp.Header{SSRC: ssrc, SequenceNumber: seq, Timestamp: uint32(at.Milliseconds()) * 8}, time.Hour+at+late)
	}
	arrive(1, 65534, 0)
	arrive(1, 65535, 16*time.Millisecond)
	if got := r.jitter * 1000 / sampleRate; math.Abs(got-1) > 1e-9 {
		t.Errorf("jitter %v ms, want 16/16", got)
	}
	arrive(1, 2, 0)
	if arrive(1, 2, 0) {
		t.Error("a duplicate counted")
	}
	arrive(1, 1, 0)
	if r.lost() != 1 || r.total() != 4 {
		t.Errorf("lost %d of %d received", r.lost(), r.total())
	}
	b := r.report(0)[0]
	if b.TotalLost != 1 || b.FractionLost != 256/5 || b.LastSequenceNumber != 65536+2 {
		t.Errorf("report %+v", b)
	}
	if b := r.report(0)[0]; b.FractionLost != 0 {
		t.Errorf("nothing was lost since: %+v", b)
	}
	arrive(2, 100, 0)
	arrive(2, 102, 0)
	if r.lost() != 2 || r.total() != 6 {
		t.Errorf("with another source: lost %d of %d received", r.lost(), r.total())
	}
}

func TestDescriptions(t *testing.T) {
	s, err := newSession(loopback, 0, 0, "x")
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	offer := "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n" +
		"m=video 5000 RTP/AVP 96\r\nm=audio 5004 RTP/AVP 96 8 0\r\na=rtpmap:96 opus/48000/2\r\na=sendonly\r\na=rtcp:6001\r\n"
	body, err := s.answer(1, []byte(offer))
	if err != nil {
		t.Fatal(err)
	}
	f := s.far.Load()
	if f.rtp != netip.MustParseAddrPort("10.0.0.1:5004") || f.rtcp != netip.MustParseAddrPort("10.0.0.1:6001") || f.payloadType != pcma || f.send {
		t.Errorf("learned %+v", f)
	}
	for _, want := range []string{"m=video 0 RTP/AVP 96\r\n", "RTP/AVP 8\r\n", "a=recvonly\r\n"} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	for _, bad := range []string{"", "v=0", strings.Replace(offer, "m=audio 5004", "m=audio 0", 1), strings.Replace(offer, "96 8 0", "96", 1), strings.Replace(offer, "audio 5004 RTP/AVP", "audio 5004 RTP/SAVP", 1)} {
		if _, err := s.answer(1, []byte(bad)); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
	if err := s.accept(s.offer(1)); err != nil {
		t.Errorf("our own offer: %v", err)
	}
}

// A telephone with two addresses may announce one and send from the other; a
// second source is none of the call's.
func TestTheFirstSourceIsHeard(t *testing.T) {
	s, err := newSession(loopback, 0, 0, "x")
	if err != nil {
		t.Fatal(err)
	}
	s.far.Store(&far{rtp: netip.MustParseAddrPort("127.0.0.9:9")})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx) })
	defer running.Wait()
	defer stop()
	for i := range 2 {
		c, err := net.Dial("udp", netip.AddrPortFrom(loopback, s.port()).String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		for n := range uint16(3) {
			b, err := (&rtp.Header{Version: 2, SSRC: uint32(i), SequenceNumber: n}).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(append(b, 0xff)); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "three heard and three strays", func() bool {
		got := s.stats()
		return got.Received == 3 && got.Strays == 3
	})
}
