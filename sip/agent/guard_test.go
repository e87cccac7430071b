package agent

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"fieldkit/sip/registrar"
	"fieldkit/sip/sipmsg"
)

func memStats() (heap uint64, goroutines int) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, runtime.NumGoroutine()
}

// 50,000 REGISTER and INVITE from one handset: the kit holds next to nothing of
// them, and another handset registers meanwhile.
func TestFlood(t *testing.T) {
	for _, method := range []string{"REGISTER", "INVITE"} {
		for _, withPassword := range []bool{false, true} {
			t.Run(fmt.Sprint(method, " with credentials ", withPassword), func(t *testing.T) { flood(t, method, withPassword) })
		}
	}
}

func flood(t *testing.T, method string, valid bool) {
	const messages = 50_000
	k := newKit(t, nil, nil)
	evil := newPhone(t, k, testAccounts[2], "127.0.61.66:0", "udp")
	challenge := ""
	if valid { // the worst: an account of ours, so that each costs a transaction
		evil.register("")
		evil.send(fmt.Sprintf("%s sip:%s SIP/2.0\n%sFrom: <sip:cyd@%s>;tag=1\nTo: <sip:cyd@%s>\nCall-ID: f\nCSeq: 1 %s\nContent-Length: 0\n\n",
			method, target(method), evil.via(), overlayName, overlayName, method))
		field, status := "WWW-Authenticate", 401
		if method == "INVITE" {
			field, status = "Proxy-Authenticate", 407
		}
		challenge = sipmsg.Value(evil.response(status), field)
	}
	stop := make(chan struct{})
	drained := make(chan struct{})
	go func() { // what comes back is not looked at
		defer close(drained)
		for {
			select {
			case <-evil.in:
			case <-stop:
				return
			}
		}
	}()
	heap, goroutines := memStats()
	wellBehaved := make(chan time.Duration, 1)
	for i := range messages {
		auth := ""
		if valid {
			field := "Authorization"
			if method == "INVITE" {
				field = "Proxy-Authorization"
			}
			auth = field + ": " + digestOf(evil.acc, method, "sip:"+target(method), challenge, i+1) + "\n"
		}
		msg := fmt.Sprintf("%s sip:%s SIP/2.0\n%sFrom: <sip:cyd@%s>;tag=%d\nTo: <sip:cyd@%s>\nCall-ID: flood-%d\nCSeq: 1 %s\nContact: %s\n%sContent-Length: 0\n\n",
			method, target(method), evil.via(), overlayName, i, overlayName, i, method, evil.contact, auth)
		evil.send(msg)
		if i == messages/2 {
			good := newPhone(t, k, testAccounts[0], "127.0.61.67:0", "udp")
			go func() {
				start := time.Now()
				good.registerPatiently()
				wellBehaved <- time.Since(start)
			}()
		}
	}
	select {
	case d := <-wellBehaved:
		t.Logf("the other handset registered in %v", d)
	case <-time.After(2 * patience):
		t.Error("a well-behaved handset could not register")
	}
	after, now := memStats()
	s := k.Snapshot()
	t.Logf("heap %d → %d KiB, goroutines %d → %d, %d server transactions, %d refused by rate, %d by limits, %d dropped",
		heap>>10, after>>10, goroutines, now, s.Stats.ServerTransactions, s.Stats.Overload, s.Stats.Refused, s.Stats.Dropped)
	if after > heap+12<<20 {
		t.Errorf("heap grew from %d to %d KiB", heap>>10, after>>10)
	}
	if now > goroutines+2*k.cfg.Limits.SourceCalls*4+20 {
		t.Errorf("goroutines grew from %d to %d", goroutines, now)
	}
	if s.Stats.ServerTransactions > k.cfg.Limits.SourceTransactions+10 {
		t.Errorf("%d server transactions", s.Stats.ServerTransactions)
	}
	if s.Stats.Overload == 0 {
		t.Error("nothing was refused: the test does not flood")
	}
	close(stop)
	<-drained
}

func target(method string) string {
	if method == "INVITE" {
		return "10003@" + overlayName
	}
	return overlayName
}

// registerPatiently repeats as RFC 3261 §17.1.2.2 has it.
func (p *phone) registerPatiently() {
	uri := "sip:" + overlayName
	auth := ""
	for range 40 {
		p.seq++
		msg := fmt.Sprintf("REGISTER %s SIP/2.0\n%sFrom: <sip:%s@%s>;tag=%s\nTo: <sip:%s@%s>\nCall-ID: p-%s\nCSeq: %d REGISTER\nContact: %s\n%sContent-Length: 0\n\n",
			uri, p.via(), p.acc.Name, overlayName, p.tag, p.acc.Name, overlayName, p.callID, p.seq, p.contact, auth)
		if _, err := p.conn.Write([]byte(strings.ReplaceAll(msg, "\n", "\r\n"))); err != nil {
			return
		}
		select {
		case m := <-p.in:
			res, ok := m.(*sip.Response)
			switch {
			case ok && res.StatusCode == 200:
				return
			case ok && res.StatusCode == 401:
				auth = "Authorization: " + digestOf(p.acc, "REGISTER", uri, sipmsg.Value(res, "WWW-Authenticate"), 1) + "\n"
			}
		case <-time.After(200 * time.Millisecond):
		}
	}
	p.t.Error("not registered after 40 attempts")
}

// RFC 3261 §21.5.4, sip.md rule 6: over the rate 503 with Retry-After; an
// emergency number gets through.
func TestAdmission(t *testing.T) {
	k := newKit(t, nil, func(c *Config) { c.Limits.SourceRate, c.Limits.SourceBurst = 1, 5 })
	p := newPhone(t, k, testAccounts[0], "127.0.61.70:0", "udp")
	options := func() {
		p.seq++
		p.send(fmt.Sprintf("OPTIONS sip:%s SIP/2.0\n%sFrom: <sip:a@b>;tag=1\nTo: <sip:c@d>\nCall-ID: o\nCSeq: %d OPTIONS\nContent-Length: 0\n\n", overlayName, p.via(), p.seq))
	}
	for range 5 {
		options()
		p.response(200)
	}
	options()
	if v := sipmsg.Value(p.response(503), "Retry-After"); v != "5" {
		t.Errorf("Retry-After %q", v)
	}
	p.send(fmt.Sprintf("INVITE sip:112@%s SIP/2.0\n%sFrom: <sip:ada@%s>;tag=1\nTo: <sip:112@x>\nCall-ID: e\nCSeq: 1 INVITE\nContent-Length: 0\n\n", overlayName, p.via(), overlayName))
	p.response(407)
}

// A BYE that is refused leaves the other phone talking to nobody: what ends calls has room of its own, with a bound.
func TestEndingsHaveRoomInAnOverload(t *testing.T) {
	a := newAdmission(Limits{}.withDefaults(), netip.Prefix{}, nil)
	now, phone := time.Unix(1000, 0), netip.MustParseAddr("10.73.0.9")
	for a.admit(now, phone, []byte("INVITE sip:a SIP/2.0\r\n\r\n")) == admitted {
	}
	for _, line := range []string{"BYE sip:a SIP/2.0", "CANCEL sip:a SIP/2.0", "ACK sip:a SIP/2.0", "SIP/2.0 200 OK"} {
		if v := a.admit(now, phone, []byte(line+"\r\n\r\n")); v != admitted {
			t.Errorf("%s after a flood of INVITEs: verdict %d", line, v)
		}
	}
	n := 0
	for a.admit(now, phone, []byte("BYE sip:a SIP/2.0\r\n\r\n")) == admitted {
		n++
	}
	if n == 0 || n > a.limits.SourceBurst/4 {
		t.Errorf("%d more BYEs at once", n)
	}
	if a.admit(now, phone, []byte("REGISTER sip:a SIP/2.0\r\n\r\n")) != overload {
		t.Error("the room for endings was given to something else")
	}
}

func TestAdmissionTableIsBounded(t *testing.T) {
	a := newAdmission(Limits{Sources: 100}.withDefaults(), netip.MustParsePrefix("10.73.0.0/16"), nil)
	now := time.Unix(1000, 0)
	msg := []byte("OPTIONS sip:a SIP/2.0\r\n\r\n")
	phone := netip.MustParseAddr("10.73.0.1")
	if a.admit(now, phone, msg) != admitted {
		t.Fatal("first message")
	}
	for i := range 10_000 { // spoofed sources
		a.admit(now, netip.AddrFrom4([4]byte{10, 73, byte(i >> 8), byte(i)}), msg)
	}
	if n := len(a.sources); n != 100 || a.recent.Len() != n {
		t.Errorf("%d sources", n)
	}
	if a.sources[phone] == nil {
		t.Error("the phone was pushed out")
	}
	later := now.Add(2 * sourceIdle)
	if a.admit(later, netip.MustParseAddr("10.73.200.200"), msg) != admitted || len(a.sources) != 100 {
		t.Error("a silent source does not give way")
	}
	if a.near(netip.MustParseAddr("10.74.0.1")) || !a.near(netip.MustParseAddr("::ffff:10.73.0.1")) {
		t.Error("prefix")
	}
	for range 1000 {
		a.connect(later, phone)
	}
	if a.streams != a.limits.SourceStream {
		t.Errorf("%d connections of one address", a.streams)
	}
}

func TestForeignSources(t *testing.T) {
	k := newKit(t, nil, func(c *Config) { c.Network = netip.MustParsePrefix("127.0.61.0/24") })
	in := newPhone(t, k, testAccounts[0], "127.0.61.71:0", "udp")
	out := newPhone(t, k, testAccounts[1], "127.0.62.71:0", "udp")
	msg := "OPTIONS sip:" + overlayName + " SIP/2.0\n%sFrom: <sip:a@b>;tag=1\nTo: <sip:c@d>\nCall-ID: o\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n"
	out.send(fmt.Sprintf(msg, out.via()))
	in.send(fmt.Sprintf(msg, in.via()))
	in.response(200)
	out.silent(50 * time.Millisecond)
	if n := k.Snapshot().Stats.Foreign; n != 1 {
		t.Errorf("Foreign %d", n)
	}
}

// What is answered without a call: status by method and fault.
func TestAnswers(t *testing.T) {
	k := newKit(t, nil, nil)
	for _, network := range []string{"udp", "tcp"} {
		p := newPhone(t, k, testAccounts[0], "127.0.61.72:0", network)
		for _, c := range []struct {
			name, method, uri, extra, to string
			status                       int
			header                       string
		}{
			{"OPTIONS", "OPTIONS", "sip:" + overlayName, "", "", 200, "Allow"},
			// RFC 3261 §16.3: "If the value is zero … the element MUST NOT forward the request", 483.
			{"Max-Forwards 0", "OPTIONS", "sip:10002@" + overlayName, "Max-Forwards: 0\n", "", 483, ""},
			{"Max-Forwards 0 to us", "OPTIONS", "sip:" + overlayName, "Max-Forwards: 0\n", "", 200, ""},
			// §8.2.2.3: "If a UAS does not understand an option-tag … it MUST respond by generating a response with
			// status code 420 (Bad Extension) … MUST add an Unsupported header field, and list in it those options".
			{"Require", "OPTIONS", "sip:" + overlayName, "Require: nothingSupportsThis, nothingElse\n", "", 420, "Unsupported"},
			{"Proxy-Require", "INVITE", "sip:10002@" + overlayName, "Proxy-Require: x\n", "", 420, "Unsupported"},
			{"OPTIONS to a person", "OPTIONS", "sip:10002@" + overlayName, "", "", 200, "Allow"},
			{"OPTIONS to nobody", "OPTIONS", "sip:77777@" + overlayName, "", "", 404, ""},
			{"SUBSCRIBE", "SUBSCRIBE", "sip:10001@" + overlayName, "Event: message-summary\n", "", 489, ""},
			{"PUBLISH", "PUBLISH", "sip:10001@" + overlayName, "Event: presence\n", "", 405, "Allow"},
			{"unknown method", "NEWMETHOD", "sip:10001@" + overlayName, "", "", 501, "Allow"},
			{"BYE of no dialog", "BYE", "sip:10001@" + overlayName, "", ";tag=x", 481, ""},
			{"re-INVITE of no dialog", "INVITE", "sip:10001@" + overlayName, "", ";tag=x", 481, ""},
			{"CANCEL of nothing", "CANCEL", "sip:10001@" + overlayName, "", "", 481, ""},
			{"REGISTER elsewhere", "REGISTER", "sip:example.org", "", "", 404, ""},
			{"scheme", "OPTIONS", "soap.beep:x", "", "", 416, ""},
			{"INVITE without password", "INVITE", "sip:10002@" + overlayName, "", "", 407, "Proxy-Authenticate"},
			{"REGISTER without password", "REGISTER", "sip:" + overlayName, "", "", 401, "WWW-Authenticate"},
			{"parameter in capitals", "OPTIONS", "sip:" + overlayName, "", ";TAG=x", 481, ""}, // §7.3.1: compared without regard to case
		} {
			p.seq++
			p.send(fmt.Sprintf("%s %s SIP/2.0\n%sFrom: <sip:ada@%s>;tag=1\nTo: <sip:10001@%s>%s\nCall-ID: a\nCSeq: %d %s\n%sContent-Length: 0\n\n",
				c.method, c.uri, p.via(), overlayName, overlayName, c.to, p.seq, c.method, c.extra))
			res := p.response(c.status)
			if c.header != "" && sipmsg.Value(res, c.header) == "" {
				t.Errorf("%s: no %s", c.name, c.header)
			}
			if tag, ok := sipmsg.Param(res.To().Params, "tag"); !ok || tag == "" {
				t.Errorf("%s: no To tag", c.name)
			}
		}
	}
}

// §8.2.6.2: "The same tag MUST be used for all responses to that request, both final and provisional".
func TestOneTagForRepeats(t *testing.T) {
	k := newKit(t, nil, nil)
	p := newPhone(t, k, testAccounts[0], "127.0.61.73:0", "udp")
	msg := fmt.Sprintf("REGISTER sip:%s SIP/2.0\n%sFrom: <sip:ada@%s>;tag=1\nTo: <sip:ada@%s>\nCall-ID: same\nCSeq: 1 REGISTER\nContent-Length: 0\n\n", overlayName, p.via(), overlayName, overlayName)
	p.send(msg)
	one := p.response(401).To().Value()
	p.send(msg)
	if two := p.response(401).To().Value(); one != two {
		t.Errorf("%s and %s", one, two)
	}
	if n := k.Snapshot().Stats.ServerTransactions; n != 0 {
		t.Errorf("a challenge holds %d transactions", n)
	}
}

// A handset cannot call or register as another.
// qvalue (RFC 3261 §25.1) is a number from 0 to 1; what strconv takes for one beyond that is not.
func TestContactPreference(t *testing.T) {
	for q, want := range map[string]int{"0.5": 500, "1": 1000, "0": 0, "NaN": -1, "-nan": -1, "Inf": -1, "-0.1": -1, "1.1": -1, "x": -1} {
		msg, fault := sipmsg.Parse([]byte(strings.ReplaceAll("REGISTER sip:"+overlayName+" SIP/2.0\nVia: SIP/2.0/UDP 10.73.0.9;branch=z9hG4bK1\nFrom: <sip:ada@x>;tag=1\n"+
			"To: <sip:ada@x>\nCall-ID: q\nCSeq: 1 REGISTER\nContact: <sip:ada@10.73.0.9>;q="+q+"\nContent-Length: 0\n\n", "\n", "\r\n")))
		if fault != nil {
			t.Fatalf("q=%s: %v", q, fault)
		}
		var r registrar.Request
		ok := contacts(msg.(*sip.Request), &r)
		if ok != (want >= 0) || ok && r.Contacts[0].Q != want {
			t.Errorf("q=%s: %v, %+v", q, ok, r.Contacts)
		}
	}
}

func TestImpersonation(t *testing.T) {
	k := newKit(t, nil, nil)
	p := newPhone(t, k, testAccounts[0], "127.0.61.74:0", "udp")
	p.register("")
	try := func(method, uri, from, to string, status int) {
		t.Helper()
		field, chal := "Proxy-Authorization", "Proxy-Authenticate"
		first := 407
		if method == "REGISTER" {
			field, chal, first = "Authorization", "WWW-Authenticate", 401
		}
		auth := ""
		for _, want := range []int{first, status} {
			p.seq++
			p.send(fmt.Sprintf("%s %s SIP/2.0\n%sFrom: <sip:%s>;tag=1\nTo: <sip:%s>\nCall-ID: i%d\nCSeq: %d %s\nContact: %s\n%sContent-Length: 0\n\n",
				method, uri, p.via(), from, to, p.seq, p.seq, method, p.contact, auth))
			if res := p.response(want); want == first {
				auth = field + ": " + digestOf(p.acc, method, uri, sipmsg.Value(res, chal), 1) + "\n"
			}
		}
	}
	try("REGISTER", "sip:"+overlayName, "ada@"+overlayName, "bob@"+overlayName, 403)
	try("INVITE", "sip:10002@"+overlayName, "bob@"+overlayName, "10002@"+overlayName, 403)
	try("INVITE", "sip:10002@"+overlayName, "ada@example.org", "10002@"+overlayName, 403)
	try("INVITE", "sip:10002@example.org", "ada@"+overlayName, "10002@"+overlayName, 404)
	try("MESSAGE", "sip:10002@"+overlayName, "10001@kit.home.arpa", "10002@"+overlayName, 480)
}

// A request inside a dialog must come from where its side of the call is.
func TestStrangerInDialog(t *testing.T) {
	caller, callee := pair(t, false, "udp", "udp")
	caller.invite("10002", sdp(4000))
	in := callee.request("INVITE")
	callee.answer(in, 200, sdp(5000))
	ok := caller.response(200)
	caller.inside("ACK", ok, "")
	callee.request("ACK")
	eve := newPhone(t, caller.kit, testAccounts[2], "127.0.61.75:0", "udp")
	eve.inside("BYE", ok, "")
	eve.response(481)
	callee.silent(50 * time.Millisecond)
}

// What comes by a trunk goes to a handset here or nowhere, and never out of
// another trunk: two kits cannot send a call round and round.
func TestTrunkToTrunk(t *testing.T) {
	all := newShared()
	k := newKit(t, all, nil)
	mine, theirs := newPipe(k.cfg.Kit, "far")
	if err := k.AddTrunk(theirs); err != nil {
		t.Fatal(err)
	}
	got := make(chan sip.Message, 8)
	mine.Handle(func(b []byte) {
		if m, fault := sipmsg.Parse(b); fault == nil {
			got <- m
		}
	}, nil)
	t.Cleanup(func() { _ = mine.Close() })
	all.mu.Lock()
	all.where["10002@"+overlayName] = map[string]bool{"far": true, "another": true}
	all.mu.Unlock()
	for _, c := range []struct {
		method, user, extra string
		status              int
	}{{"INVITE", "10002", "", 480}, {"INVITE", "55555", "", 404}, {"REGISTER", "10002", "", 403},
		{"INVITE", "10002", "Max-Forwards: 0\r\n", 483}, {"MESSAGE", "10002@example.org;x", "", 404}} {
		uri := "sip:" + c.user + "@" + overlayName
		if strings.Contains(c.user, "@") {
			uri = "sip:" + c.user
		}
		_ = mine.SendMessage([]byte(fmt.Sprintf("%s %s SIP/2.0\r\nVia: SIP/2.0/UDP far.kit.invalid;branch=%s\r\nFrom: <sip:x@%s>;tag=%s\r\nTo: <sip:%s@%s>\r\nCall-ID: %s\r\nCSeq: 1 %s\r\n%sContent-Length: 0\r\n\r\n",
			c.method, uri, newBranch(), overlayName, newTag(), "10002", overlayName, newTag(), c.method, c.extra)))
		timeout := time.After(patience)
		for done := false; !done; {
			select {
			case m := <-got:
				res, ok := m.(*sip.Response)
				if ok && res.StatusCode == 100 {
					continue
				}
				if !ok || res.StatusCode != c.status {
					t.Errorf("%+v: got\n%s", c, m)
				}
				done = true
			case <-timeout:
				t.Fatalf("%+v: nothing", c)
			}
		}
	}
	if n := k.Snapshot().Stats.NoTrunk; n != 0 {
		t.Errorf("%d trunks were tried", n)
	}
}

// A trunk that goes away fails what waits for it.
func TestTrunkLost(t *testing.T) {
	caller, callee := pair(t, true, "udp", "udp")
	inv := caller.invite("10002", sdp(4000))
	in := callee.request("INVITE")
	callee.answer(in, 180, "")
	caller.response(180)
	callee.kit.closeTrunks()
	caller.send(caller.ackOf(inv, caller.response(480)))
	callee.request("CANCEL") // the phone at the far kit stops ringing
}

// A trunk that dies under a call takes its voice along: the phones at both ends are told, and nothing is held.
func TestTrunkLostInACall(t *testing.T) {
	caller, callee := pair(t, true, "udp", "udp")
	caller.invite("10002", sdp(4000))
	callee.answer(callee.request("INVITE"), 200, sdp(5000))
	ok := caller.response(200)
	caller.inside("ACK", ok, "")
	callee.request("ACK")
	callee.kit.closeTrunks()
	for _, p := range []*phone{caller, callee} {
		bye := p.request("BYE")
		if tag, _ := bye.To().Params.Get("tag"); tag == "" || bye.CallID().Value() != ok.CallID().Value() {
			t.Errorf("BYE outside of the dialog: %s", bye)
		}
		p.answer(bye, 200, "")
	}
	if n, m := len(caller.kit.Snapshot().Calls), len(callee.kit.Snapshot().Calls); n != 0 || m != 0 {
		t.Errorf("%d and %d calls left", n, m)
	}
}

// Malformed messages to a running agent over UDP and TCP: nothing breaks, and a
// call still works. The mutations are those of PROTOS' test suite for INVITE.
func TestMalformed(t *testing.T) {
	all := newShared()
	k := newKit(t, all, func(c *Config) {
		c.Limits.SourceRate, c.Limits.SourceBurst, c.Limits.GlobalRate, c.Limits.GlobalBurst = 1e6, 1e6, 1e6, 1e6
	})
	udp, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.61.80:0")), net.UDPAddrFromAddrPort(k.addr))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	base := fmt.Sprintf("INVITE sip:10002@%s SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.61.80:5060;branch=z9hG4bK1;rport\r\nMax-Forwards: 70\r\nTo: <sip:10002@%s>\r\nFrom: <sip:ada@%s>;tag=1\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContact: <sip:ada@127.0.61.80>\r\nRoute: <sip:a;lr>\r\nProxy-Authorization: Digest username=\"ada\", realm=\"%s\", nonce=\"x\", uri=\"sip:10002@%s\", response=\"%032d\", qop=auth, nc=00000001, cnonce=\"c\"\r\nContent-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n",
		overlayName, overlayName, overlayName, overlayName, overlayName, 0)
	bad := []string{"", " ", "\x00", "\xff\xfe", "%s%n%d", "-1", "99999999999999999999", strings.Repeat("a", 65), strings.Repeat("A", 6000),
		"<", ">", "<>", "\"", "sip:", "sip:@", "sip:[", "sip:[::1", "sip:a@b:99999", ";", ";;;;=;", ",", ",,,,", "\\", "\r\n ", strings.Repeat("\r\n x", 200), "*", "0", "z9hG4bK"}
	lines := strings.Split(base, "\r\n")
	send := func(s string) {
		if len(s) > 65_000 {
			s = s[:65_000]
		}
		_, _ = udp.Write([]byte(s))
		conn, err := net.Dial("tcp", k.addr.String())
		if err != nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write([]byte(s))
		_ = conn.Close()
	}
	n := 0
	for _, method := range []string{"INVITE", "REGISTER", "ACK", "CANCEL", "BYE", "OPTIONS", "MESSAGE"} {
		for i, l := range lines[:12] {
			for range 12 {
				mutated := append([]string(nil), lines...)
				b := bad[rnd.IntN(len(bad))]
				switch rnd.IntN(5) {
				case 0: // the value replaced
					name, _, _ := strings.Cut(l, ":")
					mutated[i] = name + ": " + b
				case 1: // missing
					mutated = append(mutated[:i], mutated[i+1:]...)
				case 2: // repeated
					mutated[i] = l + "\r\n" + l
				case 3: // something in the middle
					at := rnd.IntN(len(l) + 1)
					mutated[i] = l[:at] + b + l[at:]
				case 4: // cut
					mutated[i] = l[:rnd.IntN(len(l)+1)]
				}
				send(strings.ReplaceAll(strings.Join(mutated, "\r\n"), "INVITE", method))
				n++
			}
		}
	}
	for _, s := range []string{"\r\n\r\n", "\r\n", "\x00\x00\x00\x00", "\x00\x01\x00\x00\x21\x12\xa4\x42", "GET / HTTP/1.1\r\n\r\n", strings.Repeat("\r\n", 3000), strings.Repeat("a", 60_000),
		"SIP/2.0 200 OK\r\n\r\n", strings.ReplaceAll(base, "INVITE sip:10002@"+overlayName+" SIP/2.0", "SIP/2.0 200 OK")} {
		send(s)
	}
	for range 500 {
		b := []byte(base)
		for range 1 + rnd.IntN(8) {
			b[rnd.IntN(len(b))] = byte(rnd.IntN(256))
		}
		send(string(b))
	}
	caller := newPhone(t, k, testAccounts[0], "127.0.61.81:0", "udp")
	callee := newPhone(t, k, testAccounts[1], "127.0.61.82:0", "tcp")
	caller.register("")
	callee.register("")
	caller.invite("10002", sdp(4000))
	callee.answer(callee.request("INVITE"), 200, sdp(5000))
	caller.inside("ACK", caller.response(200), "")
	callee.request("ACK")
	s := k.Snapshot().Stats
	t.Logf("%d mutations; %d refused as malformed, %d accepted, %d unanswerable", n, s.Malformed, s.Received, s.Unanswerable)
	if s.Panics != 0 || s.Malformed == 0 {
		t.Errorf("%d panics, %d malformed", s.Panics, s.Malformed)
	}
}

// A stream that never ends a message, and one that does not read.
func TestStreamBounds(t *testing.T) {
	k := newKit(t, nil, nil)
	conn, err := net.Dial("tcp", k.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	sent := 0
	for range 1000 { // header fields without end
		n, err := conn.Write([]byte("X: " + strings.Repeat("y", 1000) + "\r\n"))
		sent += n
		if err != nil {
			break
		}
	}
	one := make([]byte, 1)
	if _, err := conn.Read(one); err == nil {
		t.Error("an endless header was answered")
	}
	eventually(t, "closed", func() bool { return k.Snapshot().Stats.Connections == 0 })

	// RFC 5626 §4.4.1: "\r\n\r\n" is a ping, "\r\n" the pong.
	conn, err = net.Dial("tcp", k.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = conn.Write([]byte("\r\n\r\n"))
	pong := make([]byte, 2)
	if _, err := conn.Read(pong); err != nil || string(pong) != "\r\n" {
		t.Errorf("pong %q %v", pong, err)
	}
	// A message in pieces, and two at once.
	msg := fmt.Sprintf("OPTIONS sip:%s SIP/2.0\r\nVia: SIP/2.0/TCP x;branch=%s\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: o\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n", overlayName, newBranch())
	for i := range msg {
		_, _ = conn.Write([]byte(msg[i : i+1]))
	}
	_, _ = conn.Write([]byte(msg + msg))
	buf := make([]byte, 1<<16)
	n := 0
	for strings.Count(string(buf[:n]), "SIP/2.0 200 OK") < 3 {
		m, err := conn.Read(buf[n:])
		if err != nil {
			t.Fatalf("%v after\n%s", err, buf[:n])
		}
		n += m
	}
}

// The media relay is full: 503, before any phone rings.
func TestNoMedia(t *testing.T) {
	caller, callee := pair(t, false, "udp", "udp")
	var blockers []mediaCall
	for {
		c, err := caller.kit.media.NewCall(newTag())
		if err != nil {
			break
		}
		blockers = append(blockers, c)
	}
	inv := caller.invite("10002", sdp(4000))
	res := caller.response(503)
	if sipmsg.Value(res, "Retry-After") == "" {
		t.Error("no Retry-After")
	}
	caller.send(caller.ackOf(inv, res))
	callee.silent(30 * time.Millisecond)
	for _, c := range blockers {
		c.Close()
	}
	// An offer the relay cannot carry is the caller's fault.
	inv = caller.invite("10002", "v=0\nnonsense\n")
	if m := caller.next().(*sip.Response); m.StatusCode != 400 && m.StatusCode != 488 {
		t.Errorf("an offer that is none: %d", m.StatusCode)
	} else {
		caller.send(caller.ackOf(inv, m))
	}
}

// A kit restarts: bindings are there again, and the phone is called without
// registering anew.
func TestRestart(t *testing.T) {
	saved := make(chan registrar.Snapshot, 16)
	all := newShared()
	k := newKit(t, all, func(c *Config) { c.Save = func(s registrar.Snapshot) { saved <- s } })
	callee := newPhone(t, k, testAccounts[1], "127.0.61.90:0", "udp")
	callee.register("")
	var s registrar.Snapshot
	select {
	case s = <-saved:
	case <-time.After(patience):
		t.Fatal("not saved")
	}
	next := newKit(t, all, func(c *Config) { c.Saved = s })
	if h := next.Snapshot().Handsets; len(h) != 1 || h[0].Number != "10002" || h[0].Transport != "udp" {
		t.Fatalf("handsets %+v", h)
	}
	eventually(t, "published by the new one", func() bool {
		all.mu.Lock()
		defer all.mu.Unlock()
		return all.where["bob@"+overlayName][next.cfg.Kit]
	})
}

func TestSetAccounts(t *testing.T) {
	k := newKit(t, nil, nil)
	p := newPhone(t, k, registrar.Account{Name: "dot", Number: "10004", Password: "new"}, "127.0.61.91:0", "udp")
	if err := k.SetAccounts(append([]registrar.Account{p.acc}, testAccounts...)); err != nil {
		t.Fatal(err)
	}
	p.register("")
	if err := k.SetAccounts([]registrar.Account{{}}); err == nil {
		t.Error("an account without address was taken")
	}
	if err := k.SetAccounts(testAccounts); err != nil {
		t.Fatal(err)
	}
	if h := k.Snapshot().Handsets; len(h) != 0 {
		t.Errorf("handsets %+v", h)
	}
}

func TestStopped(t *testing.T) {
	a, err := New(Config{Address: netip.MustParseAddr("127.0.0.1"), Overlay: overlayName, Kit: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.SetAccounts(nil); !errors.Is(err, ErrStopped) {
		t.Errorf("%v", err)
	}
	for _, c := range []Config{{}, {Address: netip.MustParseAddr("127.0.0.1")}, {Address: netip.MustParseAddr("127.0.0.1"), Overlay: "x", Kit: "y", Accounts: []registrar.Account{{}}}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

// sipgo refuses UDP requests above about 1,300 bytes by default; browsers' SDP and
// long Route sets are bigger. A trunk has a limit, and says so.
func TestLongMessages(t *testing.T) {
	long := func(n int) string {
		return sdp(4000) + strings.Repeat("a=x-long:"+strings.Repeat("y", 89)+"\n", n/100)
	}
	caller, callee := pair(t, false, "udp", "udp")
	caller.invite("10002", long(12_000))
	in := callee.request("INVITE")
	if len(in.Body()) < 12_000 {
		t.Errorf("%d bytes arrived", len(in.Body()))
	}
	callee.answer(in, 200, long(12_000))
	if n := len(caller.response(200).Body()); n < 12_000 {
		t.Errorf("%d bytes came back", n)
	}
	caller, _ = pair(t, true, "udp", "udp")
	inv := caller.invite("10002", long(12_000))
	caller.send(caller.ackOf(inv, caller.response(513)))
}

// A re-INVITE is cancelled like an INVITE, and one that still rings is ended with
// the call.
func TestCancelOfReInvite(t *testing.T) {
	layouts(t, func(t *testing.T, caller, callee *phone) {
		caller.invite("10002", sdp(4000))
		in := callee.request("INVITE")
		callee.answer(in, 200, sdp(5000))
		ok := caller.response(200)
		caller.inside("ACK", ok, "")
		callee.request("ACK")

		branch := newBranch()
		via := fmt.Sprintf("Via: SIP/2.0/%s %s;branch=%s;rport\n", strings.ToUpper(caller.conn.LocalAddr().Network()), caller.conn.LocalAddr(), branch)
		build := func(method string) string {
			return fmt.Sprintf("%s sip:bob@127.0.0.1 SIP/2.0\n%sFrom: %s\nTo: %s\nCall-ID: %s\nCSeq: 99 %s\nContact: %s\nContent-Length: 0\n\n",
				method, via, ok.From().Value(), ok.To().Value(), ok.CallID().Value(), method, caller.contact)
		}
		caller.send(build("INVITE"))
		re := callee.request("INVITE")
		caller.send(build("CANCEL"))
		caller.response(200)
		callee.silent(20 * time.Millisecond) // not before a provisional response: §9.1
		callee.answer(re, 180, "")
		c := callee.request("CANCEL")
		callee.answer(c, 200, "")
		callee.answer(re, 487, "")
		callee.request("ACK")
		caller.response(180)
		caller.response(487)

		branch = newBranch()
		via = fmt.Sprintf("Via: SIP/2.0/%s %s;branch=%s;rport\n", strings.ToUpper(caller.conn.LocalAddr().Network()), caller.conn.LocalAddr(), branch)
		caller.send(build("INVITE"))
		re = callee.request("INVITE")
		callee.answer(re, 180, "")
		caller.response(180)
		caller.inside("BYE", ok, "")
		callee.answer(callee.request("BYE"), 200, "")
		got := map[string]int{}
		for range 2 { // the end of the call and of what rang in it, in any order
			res := caller.next().(*sip.Response)
			got[string(res.CSeq().MethodName)] = res.StatusCode
		}
		if got["BYE"] != 200 || got["INVITE"] != 487 {
			t.Errorf("answers %v", got)
		}
	})
}

// A kit that opens trunk after trunk takes no room of others.
func TestTrunksOfOneKitAreBounded(t *testing.T) {
	k := newKit(t, nil, nil)
	for range 20 {
		mine, theirs := newPipe(k.cfg.Kit, "far")
		t.Cleanup(func() { _ = mine.Close() })
		if err := k.AddTrunk(theirs); err != nil {
			t.Fatal(err)
		}
	}
	if s := k.Snapshot(); len(s.Trunks) != maxKitTrunks || s.Stats.Refused != 20-maxKitTrunks {
		t.Errorf("%d trunks, %d refused", len(s.Trunks), s.Stats.Refused)
	}
}

// A kit of the mission that went mad keeps no handset here waiting.
func TestFloodFromATrunkIsBounded(t *testing.T) {
	k := newKit(t, nil, nil)
	mine, theirs := newPipe(k.cfg.Kit, "far")
	t.Cleanup(func() { _ = mine.Close() })
	if err := k.AddTrunk(theirs); err != nil {
		t.Fatal(err)
	}
	mine.Handle(func([]byte) {}, func([]byte) {})
	for len(k.Snapshot().Trunks) == 0 {
		runtime.Gosched()
	}
	const flood = 20_000
	began := time.Now()
	for i := range flood {
		_ = mine.SendMessage(fmt.Appendf(nil, "OPTIONS sip:x@%s SIP/2.0\r\nVia: SIP/2.0/UDP far;branch=z9hG4bK%d\r\nMax-Forwards: 9\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:x@%s>\r\nCall-ID: %d\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n", overlayName, i, overlayName, i))
	}
	p := newPhone(t, k, testAccounts[0], "127.0.61.98:0", "udp")
	p.register("")
	s := k.Snapshot().Stats
	most := uint64(trunkBurst + trunkRate*(1+time.Since(began).Seconds()) + 10)
	if s.Received > most || s.Overload == 0 {
		t.Errorf("%d of %d messages were looked at, %d refused", s.Received, flood, s.Overload)
	}
}

// A body the relay cannot rewrite would take the media past it.
func TestOtherBodies(t *testing.T) {
	k := newKit(t, nil, nil)
	p := newPhone(t, k, testAccounts[0], "127.0.61.97:0", "udp")
	for _, h := range []string{"Content-Type: multipart/mixed;boundary=x", "Content-Type: application/sdp\nContent-Encoding: gzip", "X: no type"} {
		p.seq++
		p.send(fmt.Sprintf("INVITE sip:10002@%s SIP/2.0\n%sFrom: <sip:ada@%s>;tag=1\nTo: <sip:10002@%s>\nCall-ID: b\nCSeq: %d INVITE\n%s\nContent-Length: 3\n\nabc",
			overlayName, p.via(), overlayName, overlayName, p.seq, h))
		if sipmsg.Value(p.response(415), "Accept") != "application/sdp" {
			t.Error("no Accept")
		}
	}
}

// Nor may one that comes later in the call.
func TestOtherBodiesInACall(t *testing.T) {
	caller, callee := pair(t, true, "udp", "udp")
	caller.invite("10002", sdp(4000))
	callee.answer(callee.request("INVITE"), 200, sdp(5000))
	ok := caller.response(200)
	caller.inside("ACK", ok, "")
	callee.request("ACK")
	for i, method := range []string{"INVITE", "UPDATE", "PRACK"} {
		caller.send(fmt.Sprintf("%s sip:bob@127.0.0.1 SIP/2.0\n%sFrom: %s\nTo: %s\nCall-ID: %s\nCSeq: %d %s\nContact: %s\nContent-Type: multipart/mixed;boundary=x\nContent-Length: 3\n\nabc",
			method, caller.via(), ok.From().Value(), ok.To().Value(), ok.CallID().Value(), 99+i, method, caller.contact))
		if sipmsg.Value(caller.response(415), "Accept") != "application/sdp" {
			t.Errorf("%s: no Accept", method)
		}
	}
	callee.silent(50 * time.Millisecond)
	caller.send(fmt.Sprintf("INFO sip:bob@127.0.0.1 SIP/2.0\n%sFrom: %s\nTo: %s\nCall-ID: %s\nCSeq: 200 INFO\nContent-Type: application/dtmf-relay\nContent-Length: 3\n\nabc",
		caller.via(), ok.From().Value(), ok.To().Value(), ok.CallID().Value()))
	callee.answer(callee.request("INFO"), 200, "")
	caller.response(200)
}

// RFC 3261 §18.2.2: without rport a response goes to "the address in the received
// parameter, using the port indicated in the sent-by value".
func TestResponsePort(t *testing.T) {
	k := newKit(t, nil, nil)
	from := newPhone(t, k, testAccounts[0], "127.0.61.98:0", "udp")
	at := newPhone(t, k, testAccounts[0], "127.0.61.98:0", "udp")
	port := at.conn.LocalAddr().(*net.UDPAddr).Port
	for _, method := range []string{"OPTIONS", "REGISTER"} {
		from.send(fmt.Sprintf("%s sip:%s SIP/2.0\nVia: SIP/2.0/UDP phone.invalid:%d;branch=%s\nFrom: <sip:ada@%s>;tag=1\nTo: <sip:ada@%s>\nCall-ID: r\nCSeq: 1 %s\nContent-Length: 0\n\n",
			method, overlayName, port, newBranch(), overlayName, overlayName, method))
		res, ok := at.next().(*sip.Response)
		if !ok {
			t.Fatal("no response")
		}
		// §18.2.1: "If the host portion of the "sent-by" parameter contains a domain name … the server MUST add a
		// "received" parameter".
		if v, _ := sipmsg.Param(res.Via().Params, "received"); v != "127.0.61.98" {
			t.Errorf("received %q", v)
		}
	}
	from.silent(20 * time.Millisecond)
}

// A phone whose connection broke goes on with its call by the next one.
func TestConnectionLostDuringCall(t *testing.T) {
	caller, callee := pair(t, false, "tcp", "udp")
	caller.invite("10002", sdp(4000))
	in := callee.request("INVITE")
	callee.answer(in, 200, sdp(5000))
	ok := caller.response(200)
	caller.inside("ACK", ok, "")
	callee.request("ACK")
	_ = caller.conn.Close()
	eventually(t, "noticed", func() bool { return caller.kit.Snapshot().Stats.Connections == 0 })
	callee.insideCallee("INFO", in, "")
	callee.response(480)
	next := newPhone(t, caller.kit, testAccounts[0], "127.0.61.1:0", "tcp")
	next.seq = caller.seq
	next.inside("INFO", ok, "")
	callee.answer(callee.request("INFO"), 200, "")
	next.response(200)
	callee.insideCallee("BYE", in, "")
	next.answer(next.request("BYE"), 200, "")
	callee.response(200)
}
