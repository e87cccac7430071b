package agent

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"
	"go.uber.org/goleak"

	"fieldkit/sip/media"
	"fieldkit/sip/proxy"
	"fieldkit/sip/registrar"
	"fieldkit/sip/sipmsg"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	overlayName = "alpha.mission.home.arpa"
	patience    = 5 * time.Second
)

var testAccounts = []registrar.Account{
	{Name: "ada", Number: "10001", Password: "secret-ada"},
	{Name: "bob", Number: "10002", Password: "secret-bob"},
	{Name: "cyd", Number: "10003", Password: "secret-cyd"},
}

// memory is a directory for kits of one process.
type memory struct {
	kit string
	all *shared
}

type shared struct {
	mu      sync.Mutex
	where   map[string]map[string]bool
	trunks  map[string]*Agent // by kit
	pipes   map[string]*pipe  // by opener and kit
	changes chan struct{}
}

func newShared() *shared {
	return &shared{where: make(map[string]map[string]bool), trunks: make(map[string]*Agent), pipes: make(map[string]*pipe), changes: make(chan struct{}, 1)}
}

func (m memory) Publish(_ context.Context, aor string, ttl time.Duration) error {
	m.all.mu.Lock()
	defer m.all.mu.Unlock()
	if m.all.where[aor] == nil {
		m.all.where[aor] = make(map[string]bool)
	}
	if ttl > 0 {
		m.all.where[aor][m.kit] = true
	} else {
		delete(m.all.where[aor], m.kit)
	}
	select {
	case m.all.changes <- struct{}{}:
	default:
	}
	return nil
}

func (m memory) Lookup(_ context.Context, aor string) ([]proxy.Target, error) {
	m.all.mu.Lock()
	defer m.all.mu.Unlock()
	var ts []proxy.Target
	for k := range m.all.where[aor] {
		ts = append(ts, proxy.Target{Kit: k})
	}
	if len(ts) == 0 {
		return nil, proxy.ErrNotFound
	}
	return ts, nil
}

// Open joins two agents by a pair of pipes.
func (m memory) Open(_ context.Context, kit string) (proxy.Trunk, error) {
	m.all.mu.Lock()
	defer m.all.mu.Unlock()
	far := m.all.trunks[kit]
	if far == nil {
		return nil, errors.New("kit does not answer")
	}
	if p := m.all.pipes[m.kit+kit]; p != nil {
		select {
		case <-p.done:
		default:
			return p, nil
		}
	}
	here, there := newPipe(kit, m.kit)
	m.all.pipes[m.kit+kit] = here
	if err := far.AddTrunk(there); err != nil {
		return nil, err
	}
	return here, nil
}

// pipe is a trunk within the process; keys are made of the pair's secret.
type pipe struct {
	kit    string
	client bool
	secret string
	peer   *pipe
	queue  chan []byte
	rtp    chan []byte
	done   chan struct{}
	once   *sync.Once
	mu     sync.Mutex
	msg    func([]byte)
	media  func([]byte)
}

func newPipe(toward, from string) (*pipe, *pipe) {
	done, once := make(chan struct{}), new(sync.Once)
	mk := func(kit string, client bool) *pipe {
		return &pipe{kit: kit, client: client, secret: toward + from, queue: make(chan []byte, 256), rtp: make(chan []byte, 256), done: done, once: once}
	}
	a, b := mk(toward, true), mk(from, false)
	a.peer, b.peer = b, a
	for _, p := range []*pipe{a, b} {
		go p.pump()
	}
	return a, b
}

func (p *pipe) pump() {
	for {
		var f func([]byte)
		select {
		case <-p.done:
			return
		case b := <-p.queue:
			for f == nil {
				p.mu.Lock()
				f = p.msg
				p.mu.Unlock()
				if f == nil {
					select {
					case <-p.done:
						return
					case <-time.After(time.Millisecond):
					}
				}
			}
			f(b)
		case b := <-p.rtp:
			p.mu.Lock()
			f = p.media
			p.mu.Unlock()
			if f != nil {
				f(b)
			}
		}
	}
}

func (p *pipe) Kit() string { return p.kit }
func (p *pipe) SendMessage(b []byte) error {
	select {
	case p.peer.queue <- append([]byte(nil), b...):
		return nil
	case <-p.done:
		return net.ErrClosed
	}
}
func (p *pipe) SendMedia(b []byte) error {
	select {
	case p.peer.rtp <- append([]byte(nil), b...):
	default:
	}
	return nil
}
func (p *pipe) Handle(msg, med func([]byte)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.msg, p.media = msg, med
}
func (p *pipe) ExportKeyingMaterial(label string, _ []byte, n int) ([]byte, error) {
	var out []byte
	for i := 0; len(out) < n; i++ {
		h := md5.Sum([]byte(fmt.Sprint(p.secret, label, i)))
		out = append(out, h[:]...)
	}
	return out[:n], nil
}
func (p *pipe) IsClient() bool        { return p.client }
func (p *pipe) SRTPProfile() uint16   { return 1 }
func (p *pipe) Done() <-chan struct{} { return p.done }
func (p *pipe) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

// kit is an agent that runs.
type kit struct {
	*Agent
	t    testing.TB
	addr netip.AddrPort
}

var nextHost = struct {
	sync.Mutex
	n byte
}{n: 10}

// newKit runs an agent on a loopback address of its own.
func newKit(t testing.TB, all *shared, change func(*Config)) *kit {
	t.Helper()
	nextHost.Lock()
	nextHost.n++
	host := netip.AddrFrom4([4]byte{127, 0, 60, nextHost.n})
	nextHost.Unlock()
	name := fmt.Sprintf("%032x", host.As4())
	r, err := media.New(media.Config{Address: host})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Address: host, Port: 5060, Hosts: []string{"kit.home.arpa"}, Overlay: overlayName, Kit: name, Accounts: testAccounts, Relay: r}
	if all != nil {
		cfg.Directory, cfg.Trunks = memory{name, all}, memory{name, all}
	}
	if change != nil {
		change(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if all != nil {
		all.mu.Lock()
		all.trunks[name] = a
		all.mu.Unlock()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	select {
	case <-a.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s := a.Snapshot()
		if s.Stats.Panics != 0 {
			t.Errorf("%d panics were caught", s.Stats.Panics)
		}
		a.closeTrunks()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(2 * patience):
			t.Error("agent does not stop")
		}
		r.Close()
	})
	return &kit{a, t, netip.AddrPortFrom(host, 5060)}
}

func (a *Agent) closeTrunks() {
	_ = a.do(func(time.Time) {
		for t := range a.loop.links {
			_ = t.Close()
		}
	})
}

// phone is a user agent that does exactly what the test says.
type phone struct {
	t       testing.TB
	kit     *kit
	acc     registrar.Account
	conn    net.Conn
	udp     bool
	in      chan sip.Message
	callID  string
	tag     string
	seq     uint32
	contact string
}

func newPhone(t testing.TB, k *kit, acc registrar.Account, local string, network string) *phone {
	t.Helper()
	var conn net.Conn
	var err error
	if network == "udp" {
		conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local)), net.UDPAddrFromAddrPort(k.addr))
	} else {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(local))}
		conn, err = d.Dial("tcp", k.addr.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &phone{t: t, kit: k, acc: acc, conn: conn, udp: network == "udp", in: make(chan sip.Message, 256), callID: newTag(), tag: newTag()}
	p.contact = fmt.Sprintf("<sip:%s@%s;transport=%s>", acc.Name, conn.LocalAddr(), network)
	done := make(chan struct{})
	go func() { defer close(done); p.read() }()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return p
}

func (p *phone) read() {
	buf := make([]byte, 1<<17)
	n := 0
	for {
		if p.udp {
			n = 0
		}
		m, err := p.conn.Read(buf[n:])
		if err != nil {
			return
		}
		n += m
		for n > 0 {
			l := n
			if !p.udp {
				if rest, _ := leadingLines(buf[:n]); len(rest) < n {
					n = copy(buf, rest)
					continue
				}
				if l, err = sipmsg.Frame(buf[:n]); err != nil {
					break
				}
			}
			msg, fault := sipmsg.Parse(buf[:l])
			if fault != nil {
				p.t.Errorf("the kit sent a malformed message: %v\n%s", fault, buf[:l])
				return
			}
			n = copy(buf, buf[l:n])
			p.in <- msg
		}
	}
}

func (p *phone) send(s string) {
	p.t.Helper()
	if _, err := p.conn.Write([]byte(strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n"))); err != nil {
		p.t.Fatal(err)
	}
}

// next returns the next message, 100s left out.
func (p *phone) next() sip.Message {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case m := <-p.in:
			if r, ok := m.(*sip.Response); ok && r.StatusCode == 100 {
				continue
			}
			return m
		case <-timeout:
			p.t.Fatalf("%s: no message", p.acc.Name)
		}
	}
}

func (p *phone) response(status int) *sip.Response {
	p.t.Helper()
	m := p.next()
	r, ok := m.(*sip.Response)
	if !ok || r.StatusCode != status {
		p.t.Fatalf("%s: want %d, got\n%s", p.acc.Name, status, m)
	}
	return r
}

func (p *phone) request(method sip.RequestMethod) *sip.Request {
	p.t.Helper()
	m := p.next()
	r, ok := m.(*sip.Request)
	if !ok || r.Method != method {
		p.t.Fatalf("%s: want %s, got\n%s", p.acc.Name, method, m)
	}
	return r
}

func (p *phone) silent(d time.Duration) {
	p.t.Helper()
	select {
	case m := <-p.in:
		p.t.Fatalf("%s: want nothing, got\n%s", p.acc.Name, m)
	case <-time.After(d):
	}
}

func (p *phone) via() string {
	network := "TCP"
	if p.udp {
		network = "UDP"
	}
	return fmt.Sprintf("Via: SIP/2.0/%s %s;branch=%s;rport\n", network, p.conn.LocalAddr(), newBranch())
}

func digestOf(acc registrar.Account, method, uri, challenge string, nc int) string {
	get := func(name string) string {
		_, v, _ := strings.Cut(challenge, name+`="`)
		v, _, _ = strings.Cut(v, `"`)
		return v
	}
	hash := func(s string) string { h := md5.Sum([]byte(s)); return hex.EncodeToString(h[:]) }
	realm, nonce := get("realm"), get("nonce")
	count := fmt.Sprintf("%08x", nc)
	resp := hash(strings.Join([]string{hash(acc.Name + ":" + realm + ":" + acc.Password), nonce, count, "cn", "auth", hash(method + ":" + uri)}, ":"))
	return fmt.Sprintf(`Digest username="%s", realm="%s", nonce="%s", uri="%s", response="%s", algorithm=MD5, qop=auth, nc=%s, cnonce="cn"`,
		acc.Name, realm, nonce, uri, resp, count)
}

// register registers and returns the 200.
func (p *phone) register(extra string) *sip.Response {
	p.t.Helper()
	uri := "sip:" + overlayName
	build := func(auth string) string {
		p.seq++
		return fmt.Sprintf("REGISTER %s SIP/2.0\n%sFrom: <sip:%s@%s>;tag=%s\nTo: <sip:%s@%s>\nCall-ID: reg-%s\nCSeq: %d REGISTER\nMax-Forwards: 70\nContact: %s\n%s%sContent-Length: 0\n\n",
			uri, p.via(), p.acc.Name, overlayName, p.tag, p.acc.Name, overlayName, p.callID, p.seq, p.contact, extra, auth)
	}
	p.send(build(""))
	ch := p.response(401)
	p.send(build("Authorization: " + digestOf(p.acc, "REGISTER", uri, sipmsg.Value(ch, "WWW-Authenticate"), 1) + "\n"))
	return p.response(200)
}

func sdp(port int) string {
	return fmt.Sprintf("v=0\no=- 1 1 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio %d RTP/AVP 0 101\na=rtpmap:0 PCMU/8000\na=rtpmap:101 telephone-event/8000\na=x-unknown:kept\n", port)
}

func withBody(head, body string) string {
	body = strings.ReplaceAll(body, "\n", "\r\n")
	if body == "" {
		return head + "Content-Length: 0\n\n"
	}
	return head + fmt.Sprintf("Content-Type: application/sdp\nContent-Length: %d\n\n", len(body)) + body
}

// invitation is an INVITE of ours and what is needed to go on with it.
type invitation struct {
	text string
	via  string
	seq  uint32
	id   string
	uri  string
}

// invite sends an INVITE with credentials.
func (p *phone) invite(user, body string) invitation {
	p.t.Helper()
	inv := invitation{id: newTag(), uri: "sip:" + user + "@" + overlayName}
	build := func(auth string) string {
		p.seq++
		inv.via, inv.seq = p.via(), p.seq
		return withBody(fmt.Sprintf("INVITE %s SIP/2.0\n%sFrom: \"A\" <sip:%s@%s>;tag=%s\nTo: <%s>\nCall-ID: %s\nCSeq: %d INVITE\nMax-Forwards: 70\nContact: %s\nP-Asserted-Identity: <sip:forged@example.org>\n%s",
			inv.uri, inv.via, p.acc.Name, overlayName, p.tag, inv.uri, inv.id, p.seq, p.contact, auth), body)
	}
	p.send(build(""))
	ch := p.response(407)
	p.send(p.ackOf(inv, ch))
	inv.text = build("Proxy-Authorization: " + digestOf(p.acc, "INVITE", inv.uri, sipmsg.Value(ch, "Proxy-Authenticate"), 1) + "\n")
	p.send(inv.text)
	return inv
}

// ackOf is the ACK of a failed INVITE.
func (p *phone) ackOf(inv invitation, res *sip.Response) string {
	return fmt.Sprintf("ACK %s SIP/2.0\n%sFrom: %s\nTo: %s\nCall-ID: %s\nCSeq: %d ACK\nContent-Length: 0\n\n",
		inv.uri, inv.via, res.From().Value(), res.To().Value(), inv.id, inv.seq)
}

func (p *phone) cancelOf(inv invitation) string {
	return fmt.Sprintf("CANCEL %s SIP/2.0\n%sFrom: \"A\" <sip:%s@%s>;tag=%s\nTo: <%s>\nCall-ID: %s\nCSeq: %d CANCEL\nContent-Length: 0\n\n",
		inv.uri, inv.via, p.acc.Name, overlayName, p.tag, inv.uri, inv.id, inv.seq)
}

// answer responds to a request as a phone does.
func (p *phone) answer(req *sip.Request, status int, body string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "SIP/2.0 %d %s\n", status, reason(status))
	for _, h := range req.GetHeaders("via") {
		fmt.Fprintf(&s, "Via: %s\n", h.Value())
	}
	for _, h := range req.GetHeaders("Record-Route") {
		fmt.Fprintf(&s, "Record-Route: %s\n", h.Value())
	}
	to := req.To().Value()
	if !strings.Contains(to, "tag=") && status > 100 {
		to += ";tag=" + p.tag
	}
	fmt.Fprintf(&s, "From: %s\nTo: %s\nCall-ID: %s\nCSeq: %s\nContact: %s\n", req.From().Value(), to, req.CallID().Value(), req.CSeq().Value(), p.contact)
	text := withBody(s.String(), body)
	p.send(text)
	return text
}

// inside sends a request inside the dialog of a response (as the caller).
func (p *phone) inside(method string, res *sip.Response, body string) {
	p.t.Helper()
	seq := p.seq
	if method != "ACK" {
		p.seq++
		seq = p.seq
	}
	var routes strings.Builder
	rr := sipmsg.Values(res, "Record-Route")
	for i := len(rr) - 1; i >= 0; i-- { // RFC 3261 §12.1.2: the UAC reverses
		fmt.Fprintf(&routes, "Route: %s\n", rr[i])
	}
	target, err := sipmsg.ParseAddress(sipmsg.Value(res, "Contact"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(withBody(fmt.Sprintf("%s %s SIP/2.0\n%sFrom: %s\nTo: %s\nCall-ID: %s\nCSeq: %d %s\nMax-Forwards: 70\nContact: %s\n%s",
		method, target.Text, p.via(), res.From().Value(), res.To().Value(), res.CallID().Value(), seq, method, p.contact, routes.String()), body))
}

// insideCallee sends a request inside the dialog of a request that was answered.
func (p *phone) insideCallee(method string, req *sip.Request, body string) {
	p.t.Helper()
	p.seq++
	var routes strings.Builder
	for _, v := range sipmsg.Values(req, "Record-Route") {
		fmt.Fprintf(&routes, "Route: %s\n", v)
	}
	target, err := sipmsg.ParseAddress(sipmsg.Value(req, "Contact"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(withBody(fmt.Sprintf("%s %s SIP/2.0\n%sFrom: %s;tag=%s\nTo: %s\nCall-ID: %s\nCSeq: %d %s\nMax-Forwards: 70\nContact: %s\n%s",
		method, target.Text, p.via(), req.To().Value(), p.tag, req.From().Value(), req.CallID().Value(), p.seq+100, method, p.contact, routes.String()), body))
}

// eventually waits for a condition without a fixed sleep.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-deadline:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}
