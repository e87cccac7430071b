package registrar

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
)

const domain = "alpha.mission.home.arpa"

var (
	t0       = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	accounts = []Account{{"Ada", "10001", "pa"}, {"bob", "10002", "pb"}}
)

func newRegistrar(t *testing.T) *Registrar {
	t.Helper()
	r := New(Config{Overlay: domain, Hosts: []string{"10.73.0.1", "kit.home.arpa"}})
	if _, err := r.SetAccounts(t0, accounts); err != nil {
		t.Fatal(err)
	}
	return r
}

func contact(uri string, expires time.Duration) Contact {
	return Contact{URI: uri, Key: uri, Expires: expires, Q: 1000}
}

func reg(callID string, cseq uint32, cs ...Contact) Request {
	return Request{AOR: "10001@" + domain, CallID: callID, CSeq: cseq, Expires: -1, Contacts: cs, Flow: Flow{Transport: "udp", Remote: "10.73.0.9:5060"}}
}

func uris(bs []Binding) []string {
	var out []string
	for _, b := range bs {
		out = append(out, b.Contact)
	}
	return out
}

func TestRegister(t *testing.T) {
	const none = time.Duration(-1)
	r := newRegistrar(t)
	step := func(name string, now time.Time, req Request, status int, want ...string) []Event {
		t.Helper()
		res, events := r.Register(now, req)
		if res.Status != status {
			t.Errorf("%s: status %d %s, want %d", name, res.Status, res.Reason, status)
		}
		if got := uris(r.Lookup(now, req.AOR)); !slices.Equal(got, want) {
			t.Errorf("%s: bindings %q, want %q", name, got, want)
		}
		return events
	}
	kinds := func(name string, evs []Event, want ...string) {
		t.Helper()
		var got []string
		for _, e := range evs {
			got = append(got, e.Kind.String()+" "+e.AOR)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: events %q, want %q", name, got, want)
		}
	}
	number, name := "10001@"+domain, "ada@"+domain
	kinds("query", step("query", t0, reg("q", 1), 200))
	kinds("first", step("first", t0, reg("a", 1, contact("sip:1", 5*time.Minute)), 200, "sip:1"), "reachable "+number, "reachable "+name)
	// §10.2.1.1: "the registrar … choose[s] an interval" by its own policy when none is given, and may shorten.
	step("default", t0, reg("b", 1, contact("sip:2", none)), 200, "sip:1", "sip:2")
	step("long", t0, reg("c", 1, contact("sip:3", 24*time.Hour)), 200, "sip:1", "sip:2", "sip:3")
	for i, want := range []time.Duration{5 * time.Minute, DefaultExpires, MaxExpires} {
		if got := r.Lookup(t0, number)[i].Expires.Sub(t0); got != want {
			t.Errorf("binding %d lasts %v, want %v", i, got, want)
		}
	}
	// §10.3 step 7: "If and only if the requested expiration interval is greater than
	// zero AND smaller than one hour AND less than a registrar-configured minimum,
	// the registrar MAY reject the registration with a response of 423".
	step("brief", t0, reg("d", 1, contact("sip:4", 59*time.Second)), 423, "sip:1", "sip:2", "sip:3")
	step("brief enough", t0, reg("d", 2, contact("sip:4", 60*time.Second)), 200, "sip:1", "sip:2", "sip:3", "sip:4")
	// "the registrar … MUST [apply] either all or none": the second is too brief, the first must not be done.
	step("atomic", t0, reg("e", 1, contact("sip:1", 0), contact("sip:5", time.Second)), 423, "sip:1", "sip:2", "sip:3", "sip:4")
	step("atomic CSeq", t0, reg("d", 2, contact("sip:9", none), contact("sip:4", none)), 500, "sip:1", "sip:2", "sip:3", "sip:4")
	// "If the Call-ID value in the existing binding differs from … the request, the binding MUST be removed if the
	// expiration time is zero and updated otherwise. If they are the same, the registrar compares the CSeq value. If
	// the value is higher than that of the existing binding, it MUST update or remove the binding as above."
	kinds("removal", step("expires 0, other Call-ID", t0, reg("x", 1, contact("sip:4", 0)), 200, "sip:1", "sip:2", "sip:3"), "refreshed "+number, "refreshed "+name)
	step("same CSeq", t0, reg("a", 1, contact("sip:1", 0)), 500, "sip:1", "sip:2", "sip:3")
	step("higher CSeq", t0, reg("a", 2, contact("sip:1", 0)), 200, "sip:2", "sip:3")
	// q decides the order.
	c := contact("sip:q", none)
	c.Q = 500
	step("q", t0, reg("f", 1, c, contact("sip:5", none)), 200, "sip:2", "sip:3", "sip:5", "sip:q")
	// +sip.instance: the device moved to another address.
	c = contact("sip:old", none)
	c.Instance = "<urn:uuid:1>"
	step("instance", t0, reg("g", 1, c), 200, "sip:2", "sip:3", "sip:5", "sip:old", "sip:q")
	c.URI, c.Key = "sip:new", "sip:new"
	step("instance moved", t0, reg("h", 1, c), 200, "sip:2", "sip:3", "sip:5", "sip:new", "sip:q")
	// Step 6: "*".
	bad := reg("i", 1, contact("sip:1", none))
	bad.Wildcard, bad.Expires = true, 0
	step("wildcard with contact", t0, bad, 400, "sip:2", "sip:3", "sip:5", "sip:new", "sip:q")
	star := reg("i", 1)
	star.Wildcard, star.Expires = true, 60
	step("wildcard with expiry", t0, star, 400, "sip:2", "sip:3", "sip:5", "sip:new", "sip:q")
	star.Expires, star.CallID, star.CSeq = 0, "h", 1
	step("wildcard with old CSeq", t0, star, 500, "sip:2", "sip:3", "sip:5", "sip:new", "sip:q")
	star.CSeq = 2
	kinds("wildcard", step("wildcard", t0, star, 200), "unreachable "+number, "unreachable "+name)
	step("unknown", t0, Request{AOR: "99999@" + domain, Contacts: []Contact{contact("sip:1", none)}}, 404)

	// Expiry.
	step("again", t0, reg("j", 1, contact("sip:1", time.Minute)), 200, "sip:1")
	if d := r.Deadline(); !d.Equal(t0.Add(time.Minute)) {
		t.Errorf("deadline %v", d)
	}
	kinds("expiry", r.Expire(t0.Add(time.Minute)), "unreachable "+number, "unreachable "+name)
	kinds("expiry again", r.Expire(t0.Add(time.Minute)))
}

func TestContactsAreBounded(t *testing.T) {
	r := newRegistrar(t)
	for i := range 5 * MaxContacts {
		u := fmt.Sprint("sip:", i)
		r.Register(t0.Add(time.Duration(i)*time.Second), reg(u, 1, contact(u, 10*time.Minute)))
	}
	got := uris(r.Lookup(t0.Add(time.Minute), "10001@"+domain))
	if len(got) != MaxContacts || !slices.Contains(got, fmt.Sprint("sip:", 5*MaxContacts-1)) || slices.Contains(got, "sip:0") {
		t.Errorf("bindings %q: the newest must stay", got)
	}
	if n := r.Stats().Dropped; n != 4*MaxContacts {
		t.Errorf("dropped %d", n)
	}
	var many []Contact
	for i := range MaxContacts + 1 {
		many = append(many, contact(fmt.Sprint("sip:m", i), -1))
	}
	if res, _ := r.Register(t0, reg("many", 1, many...)); res.Status != 400 {
		t.Errorf("%d contacts in one request: %d", len(many), res.Status)
	}
}

func TestAccounts(t *testing.T) {
	r := newRegistrar(t)
	for _, u := range []string{"10001", "ada", "ADA"} {
		for _, h := range []string{domain, "10.73.0.1", "KIT.home.arpa", domain + "."} {
			aor, ok := r.Canonical(u, h)
			if _, owned := r.Owner(aor); !ok || !owned {
				t.Errorf("%s@%s: %q %v", u, h, aor, ok)
			}
		}
	}
	for _, u := range [][2]string{{"10001", "example.org"}, {"", domain}} {
		if aor, ok := r.Canonical(u[0], u[1]); ok {
			t.Errorf("%v is not ours, got %q", u, aor)
		}
	}
	r.Register(t0, reg("a", 1, contact("sip:1", -1)))
	// A new name: the number stays reachable, the old name goes.
	evs, err := r.SetAccounts(t0, []Account{{"ada2", "10001", "pa"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Event{{Unreachable, "ada@" + domain, 0}, {Reachable, "ada2@" + domain, DefaultExpires}}
	if !reflect.DeepEqual(evs, want) {
		t.Errorf("events %v, want %v", evs, want)
	}
	if len(r.Lookup(t0, "ada2@"+domain)) != 1 || len(r.Lookup(t0, "ada@"+domain)) != 0 {
		t.Error("bindings did not follow the account")
	}
	evs, _ = r.SetAccounts(t0, nil)
	if len(evs) != 2 || evs[0].Kind != Unreachable {
		t.Errorf("events %v", evs)
	}
	for name, as := range map[string][]Account{
		"twice":          {{"a", "1", "p"}, {"b", "1", "p"}},
		"name is number": {{"a", "1", "p"}, {"1", "2", "p"}},
		"no password":    {{"a", "1", ""}},
		"no address":     {{"", "", "p"}},
	} {
		if _, err := r.SetAccounts(t0, as); !errors.Is(err, ErrAccounts) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSnapshot(t *testing.T) {
	r := newRegistrar(t)
	r.Register(t0, reg("a", 7, contact("sip:udp", 10*time.Minute)))
	tcp := reg("b", 1, contact("sip:tcp", 10*time.Minute))
	tcp.Flow = Flow{Transport: "tcp", Remote: "10.73.0.9:999", Conn: 3}
	r.Register(t0, tcp)
	b, err := json.Marshal(r.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	var s Snapshot
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	later := t0.Add(time.Minute)
	next := newRegistrar(t)
	evs := next.Restore(later, s)
	// A connection does not survive a restart of the kit.
	if got := uris(next.Lookup(later, "ada@"+domain)); !slices.Equal(got, []string{"sip:udp"}) {
		t.Errorf("restored %q", got)
	}
	if len(evs) != 2 || evs[0].Kind != Reachable || evs[0].TTL != 9*time.Minute {
		t.Errorf("events %v", evs)
	}
	if res, _ := next.Register(later, reg("a", 7, contact("sip:udp", 0))); res.Status != 500 {
		t.Error("CSeq was forgotten over the restart")
	}
	// The clock was years ahead when the snapshot was made.
	s.Accounts[0].Bindings[0].Expires = t0.AddDate(10, 0, 0)
	third := newRegistrar(t)
	third.Restore(t0, s)
	if d := third.Deadline().Sub(t0); d > MaxExpires {
		t.Errorf("a binding of %v was restored", d)
	}
	if evs := newRegistrar(t).Restore(t0.Add(time.Hour), r.Snapshot()); len(evs) != 0 {
		t.Errorf("ended bindings were restored: %v", evs)
	}
}

func TestFlowFailed(t *testing.T) {
	r := newRegistrar(t)
	tcp := reg("b", 1, contact("sip:tcp", -1))
	tcp.Flow.Conn = 3
	r.Register(t0, tcp)
	r.Register(t0, reg("a", 1, contact("sip:udp", -1)))
	if evs := r.FlowFailed(t0, 0); evs != nil {
		t.Errorf("UDP has no flow to fail: %v", evs)
	}
	if evs := r.FlowFailed(t0, 3); len(evs) != 2 || evs[0].Kind != Refreshed {
		t.Errorf("events %v", evs)
	}
	if got := uris(r.Lookup(t0, "10001@"+domain)); !slices.Equal(got, []string{"sip:udp"}) {
		t.Errorf("left %q", got)
	}
}
