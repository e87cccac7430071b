package registrar

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func newDigest() *Digest { return NewDigest(domain, [32]byte{1, 2, 3}) }

func password(user string) (string, bool) {
	pw, ok := map[string]string{"10001": "pa", "ada": "pa", "bob": "pb"}[user]
	return pw, ok
}

func nonceOf(challenge string) string {
	_, v, _ := strings.Cut(challenge, `nonce="`)
	v, _, _ = strings.Cut(v, `"`)
	return v
}

type auth struct{ user, pw, realm, method, uri, nonce, nc, extra string }

func (a auth) header() string {
	r := digestResponse(a.user, a.realm, a.pw, a.method, a.uri, a.nonce, a.nc, "c")
	return fmt.Sprintf(`Digest username="%s",realm="%s", nonce="%s", uri="%s", response="%s", qop=auth, nc=%s, cnonce="c"%s`,
		a.user, a.realm, a.nonce, a.uri, r, a.nc, a.extra)
}

// RFC 2617 §3.5, with its values: the formula against an independent source.
func TestDigestResponse(t *testing.T) {
	got := digestResponse("Mufasa", "testrealm@host.com", "Circle Of Life", "GET", "/dir/index.html", "dcd98b7102dd2f0e8b11d0f600bfb0c093", "00000001", "0a4f113b")
	if want := "6629fae49393a05397450978507c4ef1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestVerify(t *testing.T) {
	const uri = "sip:" + domain
	d := newDigest()
	now := t0
	good := auth{"ada", "pa", domain, "REGISTER", uri, nonceOf(d.Challenge(now, false)), "00000001", ""}
	check := func(name string, h string, want Verdict) {
		t.Helper()
		user, v, _ := d.Verify(now, Check{"10.73.0.9", "REGISTER", uri, []string{h}}, password)
		if v != want || (v == Granted) != (user != "") {
			t.Errorf("%s: %v for %q, want %v", name, v, user, want)
		}
	}
	with := func(f func(*auth)) string { a := good; f(&a); return a.header() }
	check("no credentials", "", Missing)
	check("other realm", with(func(a *auth) { a.realm = "x" }), Missing)
	check("basic", "Basic YWRhOnBh", Missing)
	check("good", good.header(), Granted)
	// RFC 7616 §3.4: "the server [can] detect request replays by maintaining its own copy of this count".
	check("replay", good.header(), Stale)
	check("count rises", with(func(a *auth) { a.nc = "00000002" }), Granted)
	check("count falls", with(func(a *auth) { a.nc = "00000001" }), Stale)
	check("count jumps", with(func(a *auth) { a.nc = "0000000a" }), Granted)
	check("wrong password", with(func(a *auth) { a.pw = "x"; a.nc = "0000000b" }), Wrong)
	check("right again", with(func(a *auth) { a.nc = "0000000c" }), Granted)
	check("unknown user", with(func(a *auth) { a.user = "eve" }), Wrong)
	check("other URI", with(func(a *auth) { a.uri = "sip:other"; a.nc = "0000000d" }), Invalid)
	check("other method", with(func(a *auth) { a.method = "INVITE"; a.nc = "0000000d" }), Wrong)
	check("SHA-256", with(func(a *auth) { a.nc = "0000000d"; a.extra = ", algorithm=SHA-256" }), Invalid)
	check("no qop", strings.Replace(good.header(), "qop=auth", "x=y", 1), Invalid)
	check("count of nothing", with(func(a *auth) { a.nc = "00000000" }), Invalid)
	check("count is no number", with(func(a *auth) { a.nc = "zzzzzzzz" }), Invalid)
	check("field twice", strings.Replace(good.header(), "qop=auth", `qop=auth, uri="x"`, 1), Missing)
	check("open quote", `Digest username="ada`, Missing)
	// A nonce we never made, but the right password: only stale.
	check("foreign nonce", with(func(a *auth) { a.nonce = "abcd" }), Stale)
	check("before the restart", with(func(a *auth) {
		a.nonce = nonceOf(NewDigest(domain, [32]byte{9}).Challenge(now, false))
	}), Stale)
	now = now.Add(NonceLifetime + time.Second)
	check("old nonce", with(func(a *auth) { a.nc = "000000ff" }), Stale)
	now = t0.Add(-time.Hour) // the clock was set back
	check("nonce of the future", with(func(a *auth) { a.nc = "000000ff" }), Stale)
	if c := d.Challenge(now, true); !strings.HasSuffix(c, ", stale=true") || strings.Contains(d.Challenge(now, false), "stale") {
		t.Errorf("challenge %q", c)
	}
}

func TestDelayGrowsPerSourceAndAccount(t *testing.T) {
	const uri = "sip:" + domain
	d := newDigest()
	now := t0
	try := func(source, user, pw string) (Verdict, time.Duration) {
		a := auth{user, pw, domain, "REGISTER", uri, nonceOf(d.Challenge(now, false)), "00000001", ""}
		_, v, wait := d.Verify(now, Check{source, "REGISTER", uri, []string{a.header()}}, password)
		return v, wait
	}
	var last time.Duration
	for i := range 15 {
		if v, _ := try("eve", "ada", "guess"); v != Wrong {
			t.Fatalf("guess %d: %v", i, v)
		}
		v, wait := try("eve", "ada", "pa")
		if i < 1 {
			if v != Granted {
				t.Errorf("after one mistake: %v", v)
			}
			try("eve", "ada", "guess") // the right password made good for the first
			try("eve", "ada", "guess")
			continue
		}
		if v != Delayed || wait < last || wait > maxDelay {
			t.Fatalf("guess %d: %v, wait %v after %v", i, v, wait, last)
		}
		last = wait
		// No lock-out: the person at another phone, and the others at this one.
		if v, _ := try("10.73.0.9", "ada", "pa"); v != Granted {
			t.Fatalf("the account is locked: %v", v)
		}
		if v, _ := try("eve", "bob", "pb"); v != Granted {
			t.Fatalf("the source is locked: %v", v)
		}
		now = now.Add(wait)
	}
	if last != maxDelay {
		t.Errorf("longest wait %v, want %v", last, maxDelay)
	}
	if v, _ := try("eve", "ada", "pa"); v != Granted {
		t.Errorf("after the wait: %v", v)
	}
}

// The tables stay bounded, and what was evicted cannot be replayed.
func TestDigestTablesAreBounded(t *testing.T) {
	const uri = "sip:" + domain
	d := newDigest()
	first := auth{"ada", "pa", domain, "REGISTER", uri, nonceOf(d.Challenge(t0, false)), "00000001", ""}
	for i := range maxNonces + 10 {
		a := first
		if i > 0 {
			a.nonce = nonceOf(d.Challenge(t0, false))
		}
		if _, v, _ := d.Verify(t0, Check{"s", "REGISTER", uri, []string{a.header()}}, password); v != Granted {
			t.Fatalf("%d: %v", i, v)
		}
	}
	if n := len(d.nonces); n != maxNonces || d.order.Len() != n {
		t.Errorf("%d nonces", n)
	}
	if _, v, _ := d.Verify(t0, Check{"s", "REGISTER", uri, []string{first.header()}}, password); v != Stale {
		t.Errorf("replay of an evicted nonce: %v", v)
	}
	for i := range 3 * maxSuspects {
		a := first
		a.pw = "x"
		d.Verify(t0, Check{fmt.Sprint(i), "REGISTER", uri, []string{a.header()}}, password)
	}
	if n := len(d.suspects); n != maxSuspects || d.recent.Len() != n {
		t.Errorf("%d suspects", n)
	}
}

func FuzzCredentials(f *testing.F) {
	f.Add(`Digest username="a", realm="b\"c", nc=00000001`)
	f.Add(`Digest a="`)
	f.Fuzz(func(t *testing.T, s string) {
		d := newDigest()
		if _, v, _ := d.Verify(t0, Check{"s", "REGISTER", "sip:x", []string{s}}, password); v == Granted {
			t.Fatal("granted")
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	d := newDigest()
	a := auth{"ada", "pa", domain, "REGISTER", "sip:x", nonceOf(d.Challenge(t0, false)), "", ""}
	var hs []string
	for i := range 1 << 14 {
		a.nc = fmt.Sprintf("%08x", i+1)
		hs = append(hs, a.header())
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		d.Verify(t0, Check{"s", "REGISTER", "sip:x", hs[i%len(hs) : i%len(hs)+1]}, password)
		i++
	}
}
