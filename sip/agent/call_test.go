package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"fieldkit/sip/sipmsg"
)

// pair is a caller and a callee, on one kit or on two, by the transports named.
func pair(t testing.TB, far bool, callerNet, calleeNet string, change ...func(*Config)) (caller, callee *phone) {
	t.Helper()
	all := newShared()
	changed := func(c *Config) {
		for _, f := range change {
			f(c)
		}
	}
	k1 := newKit(t, all, changed)
	k2 := k1
	if far {
		k2 = newKit(t, all, changed)
	}
	caller = newPhone(t, k1, testAccounts[0], "127.0.61.1:0", callerNet)
	callee = newPhone(t, k2, testAccounts[1], "127.0.61.2:0", calleeNet)
	caller.register("")
	callee.register("")
	if far {
		eventually(t, "published", func() bool {
			all.mu.Lock()
			defer all.mu.Unlock()
			return len(all.where["10002@"+overlayName]) == 1 && len(all.where["bob@"+overlayName]) == 1
		})
	}
	return caller, callee
}

func layouts(t *testing.T, f func(t *testing.T, caller, callee *phone)) {
	for _, l := range []struct {
		name string
		far  bool
		a, b string
	}{
		{"one kit udp", false, "udp", "udp"},
		{"one kit tcp to udp", false, "tcp", "udp"},
		{"one kit udp to tcp", false, "udp", "tcp"},
		{"two kits", true, "udp", "udp"},
		{"two kits tcp", true, "tcp", "tcp"},
	} {
		t.Run(l.name, func(t *testing.T) {
			a, b := pair(t, l.far, l.a, l.b)
			f(t, a, b)
		})
	}
}

func TestCall(t *testing.T) {
	layouts(t, func(t *testing.T, caller, callee *phone) {
		caller.invite("10002", sdp(4000))
		in := callee.request("INVITE")
		if got := string(in.Body()); strings.Contains(got, "m=audio 4000 ") || !strings.Contains(got, "a=x-unknown:kept") ||
			!strings.Contains(got, "c=IN IP4 "+callee.kit.addr.Addr().String()) {
			t.Errorf("the offer must name the relay and keep unknown attributes:\n%s", got)
		}
		if v := sipmsg.Value(in, "P-Asserted-Identity"); v != "<sip:10001@"+overlayName+">" {
			t.Errorf("P-Asserted-Identity %q: a handset's claim must be replaced by ours", v)
		}
		if len(in.GetHeaders("Proxy-Authorization")) != 0 {
			t.Error("credentials were passed on")
		}
		if !strings.HasPrefix(callee.contact, "<"+in.Recipient.String()) {
			t.Errorf("Request-URI %s, want the registered contact %s", in.Recipient.String(), callee.contact)
		}
		callee.answer(in, 180, "")
		caller.response(180)
		callee.answer(in, 200, sdp(5000))
		ok := caller.response(200)
		if got := string(ok.Body()); strings.Contains(got, "m=audio 5000 ") {
			t.Errorf("the answer must name the relay:\n%s", got)
		}
		if n := len(ok.GetHeaders("via")); n != 1 {
			t.Errorf("%d Via in the response, want 1", n)
		}
		caller.inside("ACK", ok, "")
		callee.request("ACK")
		eventually(t, "answered", func() bool {
			s := caller.kit.Snapshot()
			return len(s.Calls) == 1 && s.Calls[0].State == "answered" && s.Calls[0].Setup > 0 && len(s.Calls[0].Media.Legs) == 2
		})

		// §13.3.1.4: the callee repeats its 2xx until the ACK arrives; "the repeat"
		// must reach the caller, and the ACK the callee.
		callee.answer(in, 200, sdp(5000))
		again := caller.response(200)
		if string(again.Body()) != string(ok.Body()) {
			t.Error("a repeated 200 has another body")
		}
		caller.inside("ACK", ok, "")
		callee.request("ACK")

		// re-INVITE without SDP by the callee: the offer is in the 200, the answer in the ACK.
		callee.insideCallee("INVITE", in, "")
		re := caller.request("INVITE")
		caller.answer(re, 200, sdp(4002))
		reOK := callee.response(200)
		if got := string(reOK.Body()); strings.Contains(got, "m=audio 4002 ") {
			t.Errorf("the offer in the 200 must name the relay:\n%s", got)
		}
		callee.send(withBody(fmt.Sprintf("ACK %s SIP/2.0\n%sFrom: %s\nTo: %s\nCall-ID: %s\nCSeq: %d ACK\nMax-Forwards: 70\n%s",
			"sip:x@127.0.0.1", callee.via(), reOK.From().Value(), reOK.To().Value(), reOK.CallID().Value(), reOK.CSeq().SeqNo, ""), sdp(5002)))
		ack := caller.request("ACK")
		if got := string(ack.Body()); got == "" || strings.Contains(got, "m=audio 5002 ") {
			t.Errorf("the answer in the ACK must name the relay:\n%s", got)
		}

		caller.inside("INFO", ok, "")
		callee.answer(callee.request("INFO"), 200, "")
		caller.response(200)

		caller.inside("BYE", ok, "")
		callee.answer(callee.request("BYE"), 200, "")
		caller.response(200)
		eventually(t, "both kits forget the call", func() bool {
			return len(caller.kit.Snapshot().Calls) == 0 && len(callee.kit.Snapshot().Calls) == 0
		})
	})
}

func TestCalleeHangsUp(t *testing.T) {
	layouts(t, func(t *testing.T, caller, callee *phone) {
		caller.invite("bob", sdp(4000))
		in := callee.request("INVITE")
		callee.answer(in, 200, sdp(5000))
		ok := caller.response(200)
		caller.inside("ACK", ok, "")
		callee.request("ACK")
		callee.insideCallee("BYE", in, "")
		bye := caller.request("BYE")
		if bye.GetHeader("Route") != nil {
			t.Error("a Route is left in what reaches the phone")
		}
		caller.answer(bye, 200, "")
		callee.response(200)
		eventually(t, "forgotten", func() bool {
			return len(caller.kit.Snapshot().Calls) == 0 && len(callee.kit.Snapshot().Calls) == 0
		})
	})
}

func TestDelayedOfferAndEarlyMedia(t *testing.T) {
	layouts(t, func(t *testing.T, caller, callee *phone) {
		caller.invite("10002", "")
		in := callee.request("INVITE")
		callee.answer(in, 183, sdp(5000))
		if got := string(caller.response(183).Body()); got == "" || strings.Contains(got, "m=audio 5000 ") {
			t.Errorf("early media must go by the relay:\n%s", got)
		}
		callee.answer(in, 180, "")
		caller.response(180)
		callee.answer(in, 200, sdp(5000))
		ok := caller.response(200)
		caller.inside("ACK", ok, sdp(4000))
		if got := string(callee.request("ACK").Body()); got == "" || strings.Contains(got, "m=audio 4000 ") {
			t.Errorf("the answer in the ACK must name the relay:\n%s", got)
		}
	})
}

func TestCancel(t *testing.T) {
	layouts(t, func(t *testing.T, caller, callee *phone) {
		inv := caller.invite("10002", sdp(4000))
		in := callee.request("INVITE")
		callee.answer(in, 180, "")
		caller.response(180)
		start := time.Now()
		caller.send(caller.cancelOf(inv))
		if res := caller.response(200); res.CSeq().MethodName != sip.CANCEL {
			t.Fatalf("want the 200 of the CANCEL, got\n%s", res)
		}
		c := callee.request("CANCEL")
		if d := time.Since(start); d > time.Second {
			t.Errorf("the CANCEL took %v", d)
		}
		// §9.1: "The Request-URI, Call-ID, To, the numeric part of CSeq, and From
		// header fields in the CANCEL request MUST be identical to those in the
		// request being cancelled, including tags."
		if c.Recipient.String() != in.Recipient.String() || c.CallID().Value() != in.CallID().Value() || c.CSeq().SeqNo != in.CSeq().SeqNo ||
			c.From().Value() != in.From().Value() || c.To().Value() != in.To().Value() || c.Via().Value() != in.Via().Value() {
			t.Errorf("CANCEL does not match the INVITE:\n%s\n%s", c, in)
		}
		callee.answer(c, 200, "")
		callee.answer(in, 487, "")
		callee.request("ACK")
		res := caller.response(487)
		caller.send(caller.ackOf(inv, res))
		eventually(t, "forgotten", func() bool { return len(caller.kit.Snapshot().Calls) == 0 })
	})
}

func TestFailures(t *testing.T) {
	layouts(t, func(t *testing.T, caller, callee *phone) {
		inv := caller.invite("10002", sdp(4000))
		in := callee.request("INVITE")
		callee.answer(in, 486, "")
		callee.request("ACK")
		caller.send(caller.ackOf(inv, caller.response(486)))
		inv = caller.invite("10003", sdp(4000)) // exists, registered nowhere
		caller.send(caller.ackOf(inv, caller.response(480)))
		inv = caller.invite("99999", sdp(4000))
		caller.send(caller.ackOf(inv, caller.response(404)))
	})
}

func TestNoAnswer(t *testing.T) {
	all := newShared()
	k := newKit(t, all, func(c *Config) { c.Ring = 300 * time.Millisecond })
	caller := newPhone(t, k, testAccounts[0], "127.0.61.1:0", "udp")
	callee := newPhone(t, k, testAccounts[1], "127.0.61.2:0", "udp")
	caller.register("")
	callee.register("")
	inv := caller.invite("10002", sdp(4000))
	in := callee.request("INVITE")
	callee.answer(in, 180, "")
	caller.response(180)
	c := callee.request("CANCEL")
	callee.answer(c, 200, "")
	callee.answer(in, 487, "")
	callee.request("ACK")
	caller.send(caller.ackOf(inv, caller.response(480)))
}

func TestFarKitUnreachable(t *testing.T) {
	all := newShared()
	k := newKit(t, all, nil)
	caller := newPhone(t, k, testAccounts[0], "127.0.61.1:0", "udp")
	caller.register("")
	all.mu.Lock()
	all.where["10002@"+overlayName] = map[string]bool{"00000000000000000000000000000bad": true}
	all.mu.Unlock()
	inv := caller.invite("10002", sdp(4000))
	caller.send(caller.ackOf(inv, caller.response(480)))
	if n := k.Snapshot().Stats.NoTrunk; n != 1 {
		t.Errorf("NoTrunk %d, want 1", n)
	}
}

func TestForking(t *testing.T) {
	all := newShared()
	k1, k2 := newKit(t, all, nil), newKit(t, all, nil)
	caller := newPhone(t, k1, testAccounts[0], "127.0.61.1:0", "udp")
	one := newPhone(t, k1, testAccounts[1], "127.0.61.2:0", "udp")
	two := newPhone(t, k1, testAccounts[1], "127.0.61.3:0", "tcp")
	three := newPhone(t, k2, testAccounts[1], "127.0.61.4:0", "udp")
	for _, p := range []*phone{caller, one, two, three} {
		p.register("")
	}
	eventually(t, "published", func() bool {
		all.mu.Lock()
		defer all.mu.Unlock()
		return len(all.where["10002@"+overlayName]) == 2
	})
	caller.invite("10002", sdp(4000))
	in1, in2, in3 := one.request("INVITE"), two.request("INVITE"), three.request("INVITE")
	for _, x := range []struct {
		p  *phone
		in *sip.Request
	}{{one, in1}, {two, in2}, {three, in3}} {
		x.p.answer(x.in, 180, "")
		caller.response(180)
	}
	three.answer(in3, 200, sdp(5000))
	ok := caller.response(200)
	for _, x := range []struct {
		p  *phone
		in *sip.Request
	}{{one, in1}, {two, in2}} {
		x.p.answer(x.p.request("CANCEL"), 200, "")
		x.p.answer(x.in, 487, "")
		x.p.request("ACK")
	}
	caller.inside("ACK", ok, "")
	three.request("ACK")
	caller.inside("BYE", ok, "")
	three.answer(three.request("BYE"), 200, "")
	caller.response(200)
}

// A 180 and a 200 sent back to back must arrive in that order: sipgo's dispatch
// lost about one in ten.
func TestOrder(t *testing.T) {
	layouts(t, func(t *testing.T, caller, callee *phone) {
		for range 30 {
			caller.invite("10002", sdp(4000))
			in := callee.request("INVITE")
			callee.answer(in, 180, "")
			callee.answer(in, 200, sdp(5000))
			caller.response(180)
			ok := caller.response(200)
			caller.inside("ACK", ok, "")
			caller.inside("BYE", ok, "")
			callee.request("ACK")
			callee.answer(callee.request("BYE"), 200, "")
			caller.response(200)
		}
	})
}

func TestMessage(t *testing.T) {
	layouts(t, func(t *testing.T, caller, callee *phone) {
		uri := "sip:10002@" + overlayName
		build := func(auth string) string {
			caller.seq++
			return fmt.Sprintf("MESSAGE %s SIP/2.0\n%sFrom: <sip:ada@%s>;tag=1\nTo: <%s>\nCall-ID: m1\nCSeq: %d MESSAGE\nMax-Forwards: 70\n%sContent-Type: text/plain\nContent-Length: 5\n\nhello",
				uri, caller.via(), overlayName, uri, caller.seq, auth)
		}
		caller.send(build(""))
		ch := caller.response(407)
		caller.send(build("Proxy-Authorization: " + digestOf(caller.acc, "MESSAGE", uri, sipmsg.Value(ch, "Proxy-Authenticate"), 1) + "\n"))
		in := callee.request("MESSAGE")
		if string(in.Body()) != "hello" {
			t.Errorf("body %q", in.Body())
		}
		callee.answer(in, 200, "")
		caller.response(200)
	})
}

// One whole call, both phones included: on one kit, and across two.
func BenchmarkCall(b *testing.B) {
	for _, far := range []bool{false, true} {
		b.Run(map[bool]string{false: "one kit", true: "two kits"}[far], func(b *testing.B) {
			caller, callee := pair(b, far, "udp", "udp", func(c *Config) {
				l := &c.Limits
				l.SourceRate, l.SourceBurst, l.GlobalRate, l.GlobalBurst = 1e6, 1e6, 1e6, 1e6
				l.Transactions, l.SourceTransactions = 1e6, 1e6
			})
			b.ReportAllocs()
			var setup time.Duration
			for b.Loop() {
				caller.invite("10002", sdp(4000))
				start := time.Now()
				in := callee.request("INVITE")
				callee.answer(in, 200, sdp(5000))
				ok := caller.response(200)
				setup += time.Since(start)
				caller.inside("ACK", ok, "")
				callee.request("ACK")
				caller.inside("BYE", ok, "")
				callee.answer(callee.request("BYE"), 200, "")
				caller.response(200)
			}
			b.ReportMetric(float64(setup.Microseconds())/float64(b.N), "µs-INVITE-to-200")
		})
	}
}
