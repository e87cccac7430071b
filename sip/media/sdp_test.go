package media

import (
	"errors"
	"strings"
	"testing"

	"github.com/pion/sdp/v3"
)

func crlf(s string) string {
	return strings.ReplaceAll(strings.TrimLeft(s, "\n"), "\n", "\r\n")
}

// through rewrites a description as a call would, with fixed own sides.
func through(body string, fromTrunk, toTrunk bool) (string, remote, error) {
	d, err := parseDescription([]byte(body))
	if err != nil {
		return "", remote{}, err
	}
	line, err := d.choose(-1, fromTrunk)
	if err != nil {
		return "", remote{}, err
	}
	var m remote
	if line >= 0 {
		if m, err = d.learn(line, fromTrunk); err != nil {
			return "", remote{}, err
		}
	}
	to := local{connection: "IN IP4 10.73.0.1", port: 20000, rtcpPort: 20001}
	if toTrunk {
		to = local{trunk: true, connection: trunkConnection, port: trunkPort, rtcpPort: trunkPort, ssrc: 42, cname: "CNAME"}
	}
	return string(d.rewrite(line, m, to)), m, nil
}

const head = "v=0\no=alice 1 1 IN IP4 10.73.0.5\ns=-\nc=IN IP4 10.73.0.5\nt=0 0\n"

func TestRewrite(t *testing.T) {
	const handset, trunk = false, true
	for _, tt := range []struct {
		name     string
		from, to bool
		in, want string
	}{
		{"a phone's offer to a phone: only addresses change", handset, handset, `
v=0
o=- 3720 1 IN IP4 10.73.0.5
s=baresip
c=IN IP4 10.73.0.5
b=AS:100
t=0 0
a=tool:baresip 1.0.0
m=audio 5004 RTP/AVP 101 8 0
b=TIAS:64000
a=rtpmap:8 PCMA/8000
a=x-unknown:with value: and colon
a=rtpmap:0 PCMU/8000
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-15
a=rtcp:5005
a=rtcp-mux
a=ssrc:123 cname:alice
a=sendonly
a=label:1
a=ptime:20
a=maxptime:150
`, `
v=0
o=- 3720 1 IN IP4 10.73.0.5
s=baresip
c=IN IP4 10.73.0.1
b=AS:100
t=0 0
a=tool:baresip 1.0.0
m=audio 20000 RTP/AVP 101 8 0
b=TIAS:64000
a=rtpmap:8 PCMA/8000
a=x-unknown:with value: and colon
a=rtpmap:0 PCMU/8000
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-15
a=rtcp:20001
a=rtcp-mux
a=ssrc:123 cname:alice
a=sendonly
a=label:1
a=ptime:20
a=maxptime:150
`},
		{"onto a trunk", handset, trunk, head + `m=audio 5004 RTP/AVP 8 0
a=ssrc:123 cname:alice
a=ssrc-group:FID 1 2
a=inactive
`, `
v=0
o=alice 1 1 IN IP4 10.73.0.5
s=-
c=IN IP6 100::1
t=0 0
m=audio 9 UDP/TLS/RTP/SAVP 8 0
a=inactive
a=ssrc:42 cname:CNAME
`},
		{"off a trunk", trunk, handset, `
v=0
o=alice 1 1 IN IP4 10.73.0.5
s=-
t=0 0
m=audio 9 UDP/TLS/RTP/SAVPF 8 0
c=IN IP6 100::1
a=rtcp:9
a=recvonly
a=ssrc:77 cname:far
`, `
v=0
o=alice 1 1 IN IP4 10.73.0.5
s=-
t=0 0
m=audio 20000 RTP/AVPF 8 0
c=IN IP4 10.73.0.1
a=rtcp:20001
a=recvonly
`},
		{"transport keys and candidates end here", handset, handset, `
v=0
o=- 1 1 IN IP6 2001:db8::5
s=-
c=IN IP6 2001:db8::5
t=0 0
k=clear:secret
a=ice-lite
a=ice-ufrag:abcd
a=fingerprint:sha-256 AB:CD
a=group:BUNDLE 0 1
a=group:LS 0 1
a=msid-semantic: WMS *
m=audio 5004 RTP/AVP 0
k=prompt
a=ice-pwd:secretsecretsecretsecret
a=candidate:1 1 UDP 1 10.73.0.5 5004 typ host
a=end-of-candidates
a=setup:actpass
a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:secret
a=mid:0
`, `
v=0
o=- 1 1 IN IP6 2001:db8::5
s=-
c=IN IP4 10.73.0.1
t=0 0
a=group:LS 0 1
a=msid-semantic: WMS *
m=audio 20000 RTP/AVP 0
a=mid:0
`},
		{"several lines: the first plain audio is relayed, the rest refused", handset, handset, head + `m=video 6000 RTP/AVP 96
c=IN IP4 10.73.0.5
a=rtpmap:96 H264/90000
m=audio 5002 RTP/SAVP 0
a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:secret
m=audio 5004/2 RTP/AVP 0
a=rtcp:5004
a=rtcp-mux
m=audio 5006 RTP/AVP 8
m=image 5008 udptl t38
m=message 2855 TCP/MSRP *
`, `
v=0
o=alice 1 1 IN IP4 10.73.0.5
s=-
c=IN IP4 10.73.0.1
t=0 0
m=video 0 RTP/AVP 96
c=IN IP4 10.73.0.1
a=rtpmap:96 H264/90000
m=audio 0 RTP/SAVP 0
m=audio 20000 RTP/AVP 0
a=rtcp:20000
a=rtcp-mux
m=audio 0 RTP/AVP 8
m=image 0 udptl t38
m=message 0 TCP/MSRP *
`},
		{"hold by address survives the trunk", handset, trunk, `
v=0
o=- 1 2 IN IP4 10.73.0.5
s=-
c=IN IP4 0.0.0.0
t=0 0
m=audio 5004 RTP/AVP 0
`, `
v=0
o=- 1 2 IN IP4 10.73.0.5
s=-
c=IN IP4 0.0.0.0
t=0 0
m=audio 9 UDP/TLS/RTP/SAVP 0
a=ssrc:42 cname:CNAME
`},
		{"hold by address comes off the trunk", trunk, handset, `
v=0
o=- 1 2 IN IP4 10.73.0.5
s=-
c=IN IP4 0.0.0.0
t=0 0
m=audio 9 UDP/TLS/RTP/SAVP 0
a=ssrc:42 cname:CNAME
`, `
v=0
o=- 1 2 IN IP4 10.73.0.5
s=-
c=IN IP4 0.0.0.0
t=0 0
m=audio 20000 RTP/AVP 0
`},
		{"refused audio stays refused", handset, trunk, head + "m=audio 0 RTP/AVP 0\n", `
v=0
o=alice 1 1 IN IP4 10.73.0.5
s=-
c=IN IP6 100::1
t=0 0
m=audio 0 RTP/AVP 0
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := through(crlf(tt.in), tt.from, tt.to)
			if err != nil {
				t.Fatal(err)
			}
			if want := crlf(tt.want); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			var independent sdp.SessionDescription
			if err := independent.UnmarshalString(got); err != nil && !strings.Contains(got, "udptl") {
				t.Errorf("another parser refuses it: %v", err)
			}
		})
	}
}

func TestLearn(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   string
		want remote
	}{
		{"default RTCP port", head + "m=audio 5004 RTP/AVP 0\n", remote{port: 5004, rtcpPort: 5005}},
		{"a=rtcp", head + "m=audio 5004 RTP/AVP 0\na=rtcp:6000 IN IP4 10.73.0.5\n", remote{port: 5004, rtcpPort: 6000}},
		{"no room for RTCP", head + "m=audio 65535 RTP/AVP 0\n", remote{port: 65535}},
		{"IPv6 hold", strings.Replace(head, "IN IP4 10.73.0.5\nt", "IN IP6 ::\nt", 1) + "m=audio 5004 RTP/AVP 0\n", remote{port: 5004, rtcpPort: 5005, hold: true}},
		{"a name for an address", strings.Replace(head, "IN IP4 10.73.0.5\nt", "IN IP4 phone.local\nt", 1) + "m=audio 5004 RTP/AVP 0\n", remote{port: 5004, rtcpPort: 5005}},
		{"the medium's c= counts", head + "m=audio 5004 RTP/AVP 0\nc=IN IP4 0.0.0.0\na=rtcp-mux\n", remote{port: 5004, rtcpPort: 5005, hold: true, mux: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, got, err := through(crlf(tt.in), false, false)
			if err != nil {
				t.Fatal(err)
			}
			tt.want.active, got.clocks = true, nil
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	_, m, err := through(crlf(head+"m=audio 5004 RTP/AVP 9 96 101\na=rtpmap:96 opus/48000/2\na=rtpmap:101 telephone-event/8000\na=rtpmap:junk\n"), false, false)
	if err != nil {
		t.Fatal(err)
	}
	// G.722 says 8000 though it samples at 16000 (RFC 3551 §4.5.2).
	if m.clocks[9] != 8000 || m.clocks[96] != 48000 || m.clocks[101] != 0 || m.clocks[0] != 8000 {
		t.Errorf("clocks %d %d %d %d", m.clocks[9], m.clocks[96], m.clocks[101], m.clocks[0])
	}
}

func TestRefusedSDP(t *testing.T) {
	for _, tt := range []struct {
		name  string
		in    string
		trunk bool
		want  error
	}{
		{"empty", "", false, ErrSDP},
		{"not SDP", "hello\n", false, ErrSDP},
		{"no version", "o=- 1 1 IN IP4 1.2.3.4\nv=0\ns=-\nt=0 0\n", false, ErrSDP},
		{"no origin", "v=0\ns=-\nt=0 0\nm=audio 1 RTP/AVP 0\n", false, ErrSDP},
		{"NUL", head + "m=audio 5004 RTP/AVP 0\na=x:\x00\n", false, ErrSDP},
		{"short m=", head + "m=audio 5004 RTP/AVP\n", false, ErrSDP},
		{"port out of range", head + "m=audio 70000 RTP/AVP 0\n", false, ErrSDP},
		{"negative port", head + "m=audio -1 RTP/AVP 0\n", false, ErrSDP},
		{"no c=", "v=0\no=- 1 1 IN IP4 1.2.3.4\ns=-\nt=0 0\nm=audio 1 RTP/AVP 0\n", false, ErrSDP},
		{"bad c=", strings.Replace(head, "c=IN IP4", "c=ATM X", 1) + "m=audio 1 RTP/AVP 0\n", false, ErrSDP},
		{"bad a=rtcp", head + "m=audio 1 RTP/AVP 0\na=rtcp:x\n", false, ErrSDP},
		{"a line that is none", head + "m=audio 1 RTP/AVP 0\nnonsense\n", false, ErrSDP},
		{"a carriage return inside a line", head + "m=audio 1 RTP/AVP 0\na=x:1\ra=y\n", false, ErrSDP},
		{"too many media", head + strings.Repeat("m=audio 1 RTP/AVP 0\n", maxMedia+1), false, ErrSDP},
		{"too many lines", head + "m=audio 1 RTP/AVP 0\n" + strings.Repeat("a=x\n", maxSDPLines), false, ErrSDP},
		{"too long", head + "m=audio 1 RTP/AVP 0\na=" + strings.Repeat("x", maxSDP) + "\n", false, ErrSDP},
		{"only SDES", head + "m=audio 5004 RTP/SAVP 0\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x\n", false, ErrSecureOnly},
		{"only DTLS", head + "m=audio 5004 UDP/TLS/RTP/SAVPF 0\na=fingerprint:sha-256 AB\n", false, ErrSecureOnly},
		{"only video", head + "m=video 5004 RTP/AVP 96\n", false, ErrNoAudio},
		{"nothing", head, false, ErrNoAudio},
		{"audio over TCP", head + "m=audio 5004 TCP/RTP/AVP 0\n", false, ErrNoAudio},
		{"plain audio from a kit", head + "m=audio 9 RTP/AVP 0\na=ssrc:1 cname:x\n", true, ErrNoAudio},
		{"no SSRC from a kit", head + "m=audio 9 UDP/TLS/RTP/SAVP 0\n", true, ErrSDP},
		{"bad SSRC from a kit", head + "m=audio 9 UDP/TLS/RTP/SAVP 0\na=ssrc:4294967296 cname:x\n", true, ErrSDP},
		{"no CNAME from a kit", head + "m=audio 9 UDP/TLS/RTP/SAVP 0\na=ssrc:1 label:x\n", true, ErrSDP},
		{"CNAME too long", head + "m=audio 9 UDP/TLS/RTP/SAVP 0\na=ssrc:1 cname:" + strings.Repeat("x", 256) + "\n", true, ErrSDP},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if out, _, err := through(crlf(tt.in), tt.trunk, !tt.trunk); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v\n%s", err, tt.want, out)
			}
		})
	}
}

// RFC 3264 §8: "the 'm=' lines from the previous SDP MUST be kept in place": the
// relayed one stays the same while it is on.
func TestTheRelayedLineStays(t *testing.T) {
	c := newCall(t, newRelay(t, 31600, 31699), "c")
	a, b := handsetLeg(t, c, "a"), handsetLeg(t, c, "b")
	two := func(first, second string) string {
		return crlf(head + "m=audio " + first + " RTP/AVP 0\nm=audio " + second + " RTP/AVP 0\n")
	}
	port := itoa(portOf(b.handset.rtp))
	for _, tt := range []struct{ in, want string }{
		{two("0", "5004"), two("0", port)},
		{two("5002", "5004"), two("0", port)},
		{two("5002", "0"), two(port, "0")},
		{two("5002", "5004"), two(port, "0")},
	} {
		want := strings.ReplaceAll(tt.want, "c=IN IP4 10.73.0.5", "c=IN IP4 127.0.0.1")
		if got := rewrite(t, a, b, tt.in); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}

// RFC 3264 §5: the offer may come in the 2xx and the answer in the ACK.
func TestDelayedOffer(t *testing.T) {
	f := &farCall{ra: newRelay(t, 31700, 31799), rb: newRelay(t, 31800, 31899)}
	f.ta, f.tb = trunkPair(t, f.ra, f.rb, "s", profileGCM)
	ca, cb := newCall(t, f.ra, "c"), newCall(t, f.rb, "c")
	f.a, f.at = handsetLeg(t, ca, "a"), trunkLeg(t, ca, "at", f.ta)
	f.bt, f.b = trunkLeg(t, cb, "bt", f.tb), handsetLeg(t, cb, "b")
	da, db := newDevice(t), newDevice(t)
	rewrite(t, f.at, f.a, rewrite(t, f.b, f.bt, db.sdp()))
	rewrite(t, f.bt, f.b, rewrite(t, f.a, f.at, da.sdp()))
	ca.Connect(f.at, f.a)
	cb.Connect(f.bt, f.b)
	f.a.say(da.rtp, rtpPacket(1, 1, "x"))
	receive(t, db.rtp)
	f.b.say(db.rtp, rtpPacket(1, 1, "x"))
	receive(t, da.rtp)
}

func TestRewriteWantsLegsOfTheCall(t *testing.T) {
	r := newRelay(t, 31900, 31999)
	c, other := newCall(t, r, "c"), newCall(t, r, "d")
	a, b, x := handsetLeg(t, c, "a"), handsetLeg(t, c, "b"), handsetLeg(t, other, "x")
	body := []byte(newDevice(t).sdp())
	for _, legs := range [][2]*Leg{{a, x}, {x, a}, {a, a}, {nil, a}, {a, nil}} {
		if _, err := c.Rewrite(legs[0], legs[1], body); err == nil {
			t.Error("accepted legs that are not two of the call")
		}
	}
	c.Connect(a, x)
	c.Connect(a, a)
	if a.peer.Load() != nil || x.peer.Load() != nil {
		t.Error("connected across calls")
	}
	b.Close()
	if _, err := c.Rewrite(a, b, body); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed leg: %v", err)
	}
}

// The reason for the line editor: the model parser refuses an ordinary fax line.
func TestAModelParserWouldRefuseFax(t *testing.T) {
	var d sdp.SessionDescription
	if err := d.UnmarshalString(crlf(head + "m=audio 5004 RTP/AVP 0\nm=image 5008 udptl t38\n")); err == nil {
		t.Error("it does not any more: the editor has lost its reason")
	}
}

func FuzzSDP(f *testing.F) {
	f.Add([]byte(crlf(head + "m=audio 5004 RTP/AVP 0\na=rtcp:5005\n")))
	f.Add([]byte(trunkSDP(1)))
	f.Add([]byte(crlf(head + "m=audio 0 RTP/AVP 0\nm=video 5 RTP/AVP 96\nc=IN IP6 ::\n")))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, trunk := range []bool{false, true} {
			out, _, err := through(string(b), trunk, !trunk)
			if err != nil {
				continue
			}
			// What came out must be acceptable to the next kit, and one pass is enough.
			again, m, err := through(out, !trunk, !trunk)
			if err != nil {
				t.Fatalf("own output refused: %v\n%s", err, out)
			}
			for _, l := range strings.Split(again, "\r\n") {
				if l != "" && keyed(l) {
					t.Fatalf("keying line survived: %q", l)
				}
			}
			if m.active && !trunk && m.ssrc != 42 {
				t.Fatalf("SSRC %d learned from own output", m.ssrc)
			}
		}
	})
}
