package sipmsg

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/emiago/sipgo/sip"
)

const good = `INVITE sip:10002@alpha.mission.home.arpa SIP/2.0
Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK776asdhds;rport
Max-Forwards: 70
To: Bob <sip:10002@alpha.mission.home.arpa>
From: Ada <sip:10001@alpha.mission.home.arpa>;tag=1928301774
Call-ID: a84b4c76e66710@192.0.2.1
CSeq: 314159 INVITE
Contact: <sip:10001@192.0.2.1>;+sip.instance="<urn:uuid:1>"
X-Other: kept  as, it "is"
Content-Type: application/sdp
Content-Length: 4

v=0
`

func wire(s string) []byte { return []byte(strings.ReplaceAll(s, "\n", "\r\n")) }

// body is 4 bytes in the text; with CRLF it has 5, of which Content-Length takes 4.
func TestParse(t *testing.T) {
	m, fault := Parse(wire(good))
	if fault != nil {
		t.Fatal(fault)
	}
	req := m.(*sip.Request)
	if req.Method != sip.INVITE || req.Recipient.User != "10002" || string(req.Body()) != "v=0\r" {
		t.Errorf("parsed as\n%s", req)
	}
	if v := Value(req, "X-Other"); v != `kept  as, it "is"` {
		t.Errorf("an unknown field was changed: %q", v)
	}
	// sipgo's own parser drops the quotes, which makes the value invalid.
	if v := Value(req, "Contact"); v != `<sip:10001@192.0.2.1>;+sip.instance="<urn:uuid:1>"` {
		t.Errorf("Contact was changed: %q", v)
	}
}

// change returns good with one line replaced ("" removes it) or, when there is
// no such line, added.
func change(name, line string) []byte {
	lines := strings.Split(good, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, name) {
			if line == "" {
				lines = append(lines[:i], lines[i+1:]...)
			} else {
				lines[i] = line
			}
			return wire(strings.Join(lines, "\n"))
		}
	}
	return wire(strings.Replace(good, "Via:", line+"\nVia:", 1))
}

// The cases have the names of RFC 4475 where it has them; status 0 is accepted.
func TestStrict(t *testing.T) {
	for _, c := range []struct {
		name   string
		msg    []byte
		status int
	}{
		{"insuf: no From", change("From", ""), 400},
		{"insuf: no To", change("To", ""), 400},
		{"insuf: no Call-ID", change("Call-ID", ""), 400},
		{"insuf: no CSeq", change("CSeq", ""), 400},
		{"no Via", change("Via", ""), 400},
		{"multi01: two CSeq", change("Y", "CSeq: 59 INVITE"), 400},
		{"multi01: two From", change("Y", "f: <sip:x@y>;tag=2"), 400},
		{"multi01: two Call-ID in compact form", change("Y", "i: other"), 400},
		{"mcl01: two Content-Length", change("Y", "l: 4"), 400},
		{"ncl: negative Content-Length", change("Content-Length", "Content-Length: -999"), 400},
		{"clerr: Content-Length beyond the datagram", change("Content-Length", "Content-Length: 9999"), 400},
		{"huge Content-Length", change("Content-Length", "Content-Length: 4294967297"), 400},
		{"mismatch01: CSeq method", change("CSeq", "CSeq: 8 OPTIONS"), 400},
		{"scalar02: CSeq number", change("CSeq", "CSeq: 36893488147419103232 INVITE"), 400},
		{"scalar02: Max-Forwards", change("Max-Forwards", "Max-Forwards: 300000000000"), 400},
		{"badvers", change("INVITE", "INVITE sip:t@example.com SIP/7.0"), 505},
		{"unkscm", change("INVITE", "INVITE nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0"), 416},
		{"novelsc", change("INVITE", "INVITE soap.beep://192.0.2.103:3002 SIP/2.0"), 416},
		{"sips", change("INVITE", "INVITE sips:10002@alpha.mission.home.arpa SIP/2.0"), 416},
		{"tel", change("INVITE", "INVITE tel:10002 SIP/2.0"), 0},
		{"escruri", change("INVITE", "INVITE sip:user@example.com?Route=%3Csip:example.com%3E SIP/2.0"), 400},
		{"ltgtruri", change("INVITE", "INVITE <sip:user@example.com> SIP/2.0"), 400},
		{"lwsruri", change("INVITE", "INVITE sip:user@example.com; lr SIP/2.0"), 400},
		{"lwsstart", change("INVITE", "INVITE  sip:user@example.com  SIP/2.0"), 400},
		{"trws", change("INVITE", "INVITE sip:user@example.com SIP/2.0  "), 400},
		{"badinv01", change("Via", "Via: SIP/2.0/UDP 192.0.2.15;;,;,,"), 400},
		{"quotbal", change("To", `To: "Mr. J. User <sip:j.user@example.com>`), 400},
		{"field without colon", change("Y", "no colon"), 400},
		{"NUL in a field", change("Y", "Y: a\x00b"), 400},
		{"empty name", change("Y", ": x"), 400},
		{"header without end", []byte("INVITE sip:a@b SIP/2.0\r\nVia: x\r\n"), 400},
		{"192 fields and more", change("Y", strings.Repeat("Y: z\n", 250)+"Y: z"), 400},
		{"64 KiB of header", change("Y", "Y: "+strings.Repeat("a", 65_000)), 400},
		{"deep folding", change("Y", "Y: a"+strings.Repeat("\n b", 6000)), 400},
		{"wsinv: blanks everywhere", wire("INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0\nTO :\n sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n\n" +
			"from   : \"J Rosenberg \\\\\\\"\"       <sip:jdrosen@example.com>\n  ;\n  tag = 98asjd8\nMaX-fOrWaRdS: 0068\nCall-ID: wsinv.ndaksdj@192.0.2.1\n" +
			"cseq: 0009\n  INVITE\nVia  : SIP  /   2.0\n /UDP\n    192.0.2.2;branch=390skdjuw\nl: 0\nv:  SIP  / 2.0  / TCP     spindle.example.com   ;\n  branch  =   z9hG4bK9ikj8  ,\n SIP  /    2.0   / UDP  192.168.255.111   ; branch=\n z9hG4bK30239\n\n"), 0},
		{"inv2543: no magic cookie, no From tag", wire("INVITE sip:UserB@example.com SIP/2.0\nVia: SIP/2.0/UDP iftgw.example.com\nFrom: <sip:+13035551111@ift.client.example.net;user=phone>\nCall-ID: inv2543.1717@ift.client.example.com\nTo: <sip:+16505552222@ss1.example.net;user=phone>\nCSeq: 56 INVITE\nContent-Length: 0\n\n"), 0},
		{"intmeth", change("CSeq", "CSeq: 1 !interesting-Method0123456789_*+`.%indeed'~"), 400},
		{"esc02: method is not unescaped", bytes.ReplaceAll(wire(good), []byte("INVITE"), []byte("RE%47IST%45R")), 0},
		{"longreq: 34 hops", change("Via", strings.Repeat("Via: SIP/2.0/TCP sip33.example.com\n", 33)+"v: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1"), 0},
		{"100 hops in one field", change("Via", "Via: SIP/2.0/UDP a"+strings.Repeat(", SIP/2.0/UDP a", 99)), 400},
		{"bare LF only", []byte(good), 400},
		{"nothing", nil, 400},
		{"status line", wire("SIP/2.0 4294967301 big\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\nFrom: <sip:a@b>;tag=1\nTo: <sip:a@b>\nCall-ID: 1\nCSeq: 1 INVITE\n\n"), 400},
		{"LF in a reason", []byte("SIP/2.0 200 OK\nP-Asserted-Identity: <sip:x@y>\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n\r\n"), 400},
		{"CR in a reason", []byte("SIP/2.0 200 O\rK\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n\r\n"), 400},
		{"LF in a Request-URI", bytes.Replace(wire(good), []byte("sip:10002@"), []byte("sip:10002;x=\nRoute:<sip:y>@"), 1), 400},
		{"LF in the user of a Request-URI", bytes.Replace(wire(good), []byte("sip:10002@"), []byte("sip:100\n02@"), 1), 400},
		{"NUL in the user of a Request-URI", bytes.Replace(wire(good), []byte("sip:10002@"), []byte("sip:100\x0002@"), 1), 400},
		{"noreason", wire("SIP/2.0 100 \nVia: SIP/2.0/UDP a;branch=z9hG4bK1\nFrom: <sip:a@b>;tag=1\nTo: <sip:a@b>\nCall-ID: 1\nCSeq: 1 INVITE\n\n"), 0},
	} {
		m, fault := Parse(c.msg)
		got := 0
		if fault != nil {
			got = fault.Status
		}
		if got != c.status || (m == nil) != (fault != nil) {
			t.Errorf("%s: %v, want %d", c.name, fault, c.status)
		}
	}
}

// Every truncated prefix is an error and no panic.
func TestPrefixes(t *testing.T) {
	b := wire(good)
	for i := range len(b) - 1 {
		if _, fault := Parse(b[:i]); fault == nil {
			t.Fatalf("prefix of %d bytes was accepted", i)
		}
		if _, err := Frame(b[:i]); !errors.Is(err, ErrIncomplete) {
			t.Fatalf("frame of %d bytes: %v", i, err)
		}
	}
}

func TestFrame(t *testing.T) {
	two := append(wire(good), wire(good)...)
	n, err := Frame(two)
	if err != nil || n != len(wire(good))-1 {
		t.Errorf("first message is %d bytes (%v), want %d", n, err, len(wire(good))-1)
	}
	for name, b := range map[string][]byte{
		// RFC 3261 §18.3: "If the transport does not ... Content-Length ... MUST be used with stream oriented transports."
		"no Content-Length":    change("Content-Length", ""),
		"twice":                change("Y", "l: 4"),
		"too large":            change("Content-Length", "Content-Length: 70000"),
		"negative":             change("Content-Length", "Content-Length: -1"),
		"endless header":       bytes.Repeat([]byte("a"), MaxHeader+1),
		"endless header lines": bytes.Repeat([]byte("A: b\r\n"), MaxHeader/6+1),
	} {
		if _, err := Frame(b); !errors.Is(err, ErrFraming) {
			t.Errorf("%s: %v, want %v", name, err, ErrFraming)
		}
	}
}

func TestAnswer(t *testing.T) {
	b := Answer(change("CSeq", "CSeq: 8 OPTIONS"), 400, "CSeq Method Mismatch", "tag1", "192.0.2.9", "6000", "Retry-After: 5")
	m, fault := Parse(b)
	if fault != nil {
		t.Fatalf("%v\n%s", fault, b)
	}
	res := m.(*sip.Response)
	if res.StatusCode != 400 || res.CallID().Value() != "a84b4c76e66710@192.0.2.1" || Value(res, "Retry-After") != "5" {
		t.Errorf("answer\n%s", b)
	}
	if tag, _ := Param(res.To().Params, "tag"); tag != "tag1" {
		t.Errorf("To tag %q", tag)
	}
	// RFC 3581 §4: "the server MUST set the value of the [rport] parameter to the source port of the request".
	if rport, _ := Param(res.Via().Params, "rport"); rport != "6000" {
		t.Errorf("rport %q", rport)
	}
	if rec, _ := Param(res.Via().Params, "received"); rec != "192.0.2.9" {
		t.Errorf("received %q", rec)
	}
	for name, b := range map[string][]byte{
		"a response":     wire("SIP/2.0 200 OK\nVia: SIP/2.0/UDP a\n\n"),
		"an ACK":         bytes.ReplaceAll(wire(good), []byte("INVITE"), []byte("ACK")),
		"without From":   change("From", ""),
		"no SIP":         []byte("GET / HTTP/1.1\r\n\r\n"),
		"without header": []byte("INVITE sip:a@b SIP/2.0"),
	} {
		if res := Answer(b, 400, "x", "t", "1.1.1.1", "1"); res != nil {
			t.Errorf("%s was answered:\n%s", name, res)
		}
	}
}

func TestUser(t *testing.T) {
	for uri, want := range map[string]string{
		"sip:bob@x":                        "bob",
		"sip:%62ob@x":                      "bob", // RFC 3261 §19.1.4
		"sip:10002;x=y@x":                  "10002;x=y",
		"tel:1-00(02)":                     "10002",
		"tel:+4412;phone-context=x":        "+4412",
		"sip:+1-00.02;isub=1@x;USER=phone": "+10002",
		"sip:a%zz@x":                       "a%zz",
		"sip:x":                            "",
	} {
		var u sip.Uri
		if err := sip.ParseUri(uri, &u); err != nil {
			t.Fatal(err)
		}
		if got := User(&u); got != want {
			t.Errorf("%s: %q, want %q", uri, got, want)
		}
	}
}

// RFC 3261 §19.1.4.
func TestKey(t *testing.T) {
	key := func(s string) string {
		a, err := ParseAddress("<" + s + ">")
		if err != nil {
			t.Fatal(err)
		}
		return Key(&a.URI)
	}
	for _, c := range []struct {
		a, b  string
		equal bool
	}{
		{"sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp", true},
		{"sip:carol@chicago.com;newparam=5;security=on", "sip:carol@chicago.com;security=on;newparam=5", true},
		{"SIP:ALICE@AtLanTa.CoM", "sip:alice@AtLanTa.CoM", false},
		{"sip:bob@biloxi.com", "sip:bob@biloxi.com:5060", false},
		{"sip:bob@biloxi.com", "sip:bob@biloxi.com:6000", false},
	} {
		if got := key(c.a) == key(c.b); got != c.equal {
			t.Errorf("%s and %s: equal %v, want %v", c.a, c.b, got, c.equal)
		}
	}
}

func TestAddressAndSplit(t *testing.T) {
	vs := Split(`"a, b" <sip:a@x;p=1,2>;q=0.5, <sip:b@y>;+sip.instance="<urn:x,y>" , sip:c@z;expires=7`)
	if len(vs) != 3 {
		t.Fatalf("%q", vs)
	}
	for i, want := range []string{"0.5", "<urn:x,y>", "7"} {
		a, err := ParseAddress(vs[i])
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Params[[]string{"q", "+sip.instance", "expires"}[i]]; got != want {
			t.Errorf("%s: %q, want %q", vs[i], got, want)
		}
	}
	for _, bad := range []string{"", "<sip:a@b", "sip:user@example.com?Route=%3Csip:x%3E", "*", "<sip:>", `"x`, "<sip:a@b c>"} {
		if a, err := ParseAddress(bad); err == nil {
			t.Errorf("%q was accepted as %+v", bad, a)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(wire(good))
	for _, s := range []string{"Via: SIP/2.0/UDP [::1", "To: \"\\", "CSeq: 1", "Contact: <", "From: ;tag", "Via: SIP/2.0/UDP a;b=\"c"} {
		f.Add(change("Y", s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, fault := Parse(b)
		_ = Answer(b, 400, "x", "t", "192.0.2.1", "5060")
		_, _ = Frame(b)
		if (m == nil) == (fault == nil) {
			t.Fatal("neither message nor fault, or both")
		}
		if m == nil {
			return
		}
		for _, v := range append(Values(m, "Contact"), Values(m, "Route")...) {
			if a, err := ParseAddress(v); err == nil {
				_ = Key(&a.URI) + User(&a.URI)
			}
		}
		// What was accepted and is sent on must be accepted again.
		if again, fault := Parse([]byte(m.String())); fault != nil {
			t.Fatalf("own output refused: %v\n%q", fault, m.String())
		} else if fmt.Sprint(again.CSeq()) != fmt.Sprint(m.CSeq()) || again.CallID().Value() != m.CallID().Value() {
			t.Fatalf("CSeq or Call-ID changed:\n%q\n%q", m.String(), again.String())
		}
	})
}

func BenchmarkParse(b *testing.B) {
	msg := wire(good)
	b.ReportAllocs()
	for b.Loop() {
		if _, fault := Parse(msg); fault != nil {
			b.Fatal(fault)
		}
	}
}
