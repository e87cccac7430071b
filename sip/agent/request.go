package agent

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"fieldkit/sip/proxy"
	"fieldkit/sip/registrar"
	"fieldkit/sip/sipmsg"
)

const allow = "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, MESSAGE, INFO, UPDATE, PRACK, REFER, NOTIFY"

func header(name, value string) sip.Header { return sip.NewHeader(name, value) }

// request is the way of every request: what needs no state first.
func (a *Agent) request(now time.Time, f *flow, req *sip.Request) {
	markVia(f, req)
	switch req.Method {
	case sip.ACK:
		a.ack(now, f, req)
		return
	case sip.CANCEL:
		a.cancel(now, f, req)
		return
	}
	key := serverKey(f, req, req.Method)
	if s := a.loop.servers[key]; s != nil {
		_ = s.tx.Receive(req) // a repeat: sipgo sends the last response again
		return
	}
	// RFC 3261 §16.3 step 3: "If the request contains a Max-Forwards header field
	// with a field value of zero (0), the element MUST NOT forward the request."
	if mf := req.MaxForwards(); mf != nil && mf.Val() == 0 && !a.forUs(req) {
		a.reject(f, req, 483, "")
		return
	}
	if missing := unsupported(req, a.forUs(req)); missing != "" {
		a.reject(f, req, 420, "", header("Unsupported", missing))
		return
	}
	if _, in := sipmsg.Param(req.To().Params, "tag"); in && req.Method != sip.REGISTER {
		a.dialogRequest(now, f, req, key)
		return
	}
	switch req.Method {
	case sip.REGISTER:
		a.register(now, f, req, key)
	case sip.INVITE, sip.MESSAGE:
		a.begin(now, f, req, key)
	case sip.OPTIONS:
		if aor, ours := a.aor(&req.Recipient); !a.forUs(req) && !ours {
			a.reject(f, req, 404, "")
		} else if _, known := a.loop.reg.Owner(aor); !a.forUs(req) && !known {
			a.reject(f, req, 404, "")
		} else {
			a.reject(f, req, 200, "", header("Allow", allow), header("Accept", "application/sdp"))
		}
	case sip.SUBSCRIBE:
		// Never forked: two phones of one account were seen to send each other's
		// subscriptions around in a loop.
		a.reject(f, req, 489, "")
	case sip.PUBLISH, sip.REFER:
		a.reject(f, req, 405, "", header("Allow", allow))
	case sip.BYE, sip.INFO, sip.UPDATE, sip.PRACK, sip.NOTIFY:
		a.reject(f, req, 481, "")
	default:
		a.reject(f, req, 501, "", header("Allow", allow))
	}
}

// forUs says whether a request ends here: REGISTER always, the others when the
// Request-URI names the kit and no user.
func (a *Agent) forUs(req *sip.Request) bool {
	return req.Method == sip.REGISTER || (req.Recipient.User == "" && req.Recipient.Raw() == "" && a.loop.reg.Local(req.Recipient.Host))
}

// unsupported returns the option tags that must be understood here and are not:
// RFC 3261 §8.2.2.3 and §16.3 step 5. None is.
func unsupported(req *sip.Request, forUs bool) string {
	tags := sipmsg.Values(req, "Proxy-Require")
	if forUs {
		tags = append(tags, sipmsg.Values(req, "Require")...)
	}
	return strings.Join(tags[:min(len(tags), 16)], ", ")
}

// credentials verifies a handset and returns its account, or answers.
func (a *Agent) credentials(now time.Time, f *flow, req *sip.Request) (registrar.Account, bool) {
	field, challenge, status := "Proxy-Authorization", "Proxy-Authenticate", 407
	if req.Method == sip.REGISTER {
		field, challenge, status = "Authorization", "WWW-Authenticate", 401
	}
	var values []string
	for _, h := range req.GetHeaders(field) {
		values = append(values, h.Value())
	}
	d := a.loop.digest
	user, verdict, wait := d.Verify(now, registrar.Check{
		Source: f.source(), Method: string(req.Method), URI: req.Recipient.String(), Headers: values,
	}, func(user string) (string, bool) {
		acc, ok := a.loop.reg.Account(user)
		return acc.Password, ok
	})
	switch verdict {
	case registrar.Granted:
		return a.loop.reg.Account(user)
	case registrar.Delayed:
		a.reject(f, req, 503, "", header("Retry-After", strconv.Itoa(int(wait/time.Second)+1)))
	case registrar.Invalid:
		a.reject(f, req, 400, "Invalid Credentials")
	default: // without state: a flood of requests without password holds nothing
		a.reject(f, req, status, "", header(challenge, d.Challenge(now, verdict == registrar.Stale)))
	}
	return registrar.Account{}, false
}

// aor is the address-of-record a URI means, if it is one of ours.
func (a *Agent) aor(u *sip.Uri) (string, bool) {
	host := u.Host
	if u.Scheme == "tel" {
		host = a.cfg.Overlay
	}
	return a.loop.reg.Canonical(sipmsg.User(u), host)
}

// register is RFC 3261 §10.3.
func (a *Agent) register(now time.Time, f *flow, req *sip.Request, key string) {
	if f.trunk != nil {
		a.reject(f, req, 403, "") // a kit registers at the overlay, not here
		return
	}
	// Step 1: "If the Request-URI [domain] is not [ours] … the server SHOULD proxy":
	// there is nowhere to.
	if !a.loop.reg.Local(req.Recipient.Host) {
		a.reject(f, req, 404, "")
		return
	}
	aor, ok := a.aor(&req.To().Address)
	if !ok {
		a.reject(f, req, 404, "") // step 5
		return
	}
	acc, ok := a.credentials(now, f, req) // step 3
	if !ok {
		return
	}
	owner, known := a.loop.reg.Owner(aor)
	if !known || owner != acc {
		a.reject(f, req, 403, "") // step 4
		return
	}
	r := registrar.Request{
		AOR: aor, CallID: string(*req.CallID()), CSeq: req.CSeq().SeqNo, Expires: -1,
		Flow: f.registered(), UserAgent: sipmsg.Value(req, "User-Agent"),
	}
	if !contacts(req, &r) {
		a.reject(f, req, 400, "Malformed Contact")
		return
	}
	s := a.open(f, req, key)
	if s == nil {
		a.busy(f, req)
		return
	}
	res, events := a.loop.reg.Register(now, r)
	var hs []sip.Header
	if res.MinExpires > 0 {
		hs = append(hs, header("Min-Expires", strconv.Itoa(int(res.MinExpires/time.Second))))
	}
	for _, b := range res.Bindings {
		v := "<" + b.Contact + ">;expires=" + strconv.Itoa(int(b.Expires.Sub(now).Round(time.Second)/time.Second))
		if b.Q != 1000 {
			v += ";q=" + strconv.FormatFloat(float64(b.Q)/1000, 'f', -1, 64)
		}
		if b.Instance != "" {
			v += `;+sip.instance="` + b.Instance + `"`
		}
		hs = append(hs, header("Contact", v))
	}
	if res.Status == 200 {
		hs = append(hs, header("Date", now.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")))
	}
	a.log.Debug("registration", "aor", aor, "from", f, "status", res.Status, "bindings", len(res.Bindings))
	s.respond(res.Status, res.Reason, hs...)
	a.publish(events)
}

// contacts reads the Contact and Expires fields of a REGISTER.
func contacts(req *sip.Request, r *registrar.Request) bool {
	if v := sipmsg.Value(req, "Expires"); v != "" {
		r.Expires = seconds(v)
	}
	for _, v := range sipmsg.Values(req, "Contact") {
		if v == "*" {
			r.Wildcard = true
			continue
		}
		ad, err := sipmsg.ParseAddress(v)
		if err != nil || ad.URI.Scheme != "sip" || len(r.Contacts) > registrar.MaxContacts {
			return false
		}
		c := registrar.Contact{URI: ad.Text, Key: sipmsg.Key(&ad.URI), Expires: -1, Q: 1000, Instance: ad.Params["+sip.instance"]}
		if e, ok := ad.Params["expires"]; ok {
			c.Expires = seconds(e)
		}
		if q, ok := ad.Params["q"]; ok {
			x, err := strconv.ParseFloat(q, 64)
			if err != nil || math.IsNaN(x) || x < 0 || x > 1 {
				return false
			}
			c.Q = int(x * 1000)
		}
		r.Contacts = append(r.Contacts, c)
	}
	return true
}

// seconds reads delta-seconds. RFC 3261 §10.3 step 7: a malformed value "SHOULD be
// treated as equivalent to 3600"; one too large is as long as we allow anyway.
func seconds(v string) time.Duration {
	n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 32)
	if err != nil || n > 3600*24*365 {
		return time.Hour
	}
	return time.Duration(n) * time.Second
}

// busy refuses what would exceed a limit.
func (a *Agent) busy(f *flow, req *sip.Request) {
	a.count.refused.Add(1)
	a.reject(f, req, 503, "", header("Retry-After", "5"))
}

// begin starts a call, or passes a MESSAGE on.
func (a *Agent) begin(now time.Time, f *flow, req *sip.Request, key string) {
	if a.forUs(req) {
		a.reject(f, req, 404, "")
		return
	}
	if opaque(req) {
		a.reject(f, req, 415, "", header("Accept", "application/sdp"))
		return
	}
	emergency := slices.Contains(a.cfg.Emergency, sipmsg.User(&req.Recipient))
	acc := registrar.Account{}
	if f.trunk == nil {
		var ok bool
		if acc, ok = a.credentials(now, f, req); !ok {
			return
		}
		// A handset cannot call as another.
		from, local := a.aor(&req.From().Address)
		if owner, known := a.loop.reg.Owner(from); !local || !known || owner != acc {
			a.reject(f, req, 403, "")
			return
		}
	}
	tag, _ := sipmsg.Param(req.From().Params, "tag")
	id := callKey(string(*req.CallID()), tag)
	if a.loop.calls[id] != nil {
		// RFC 3261 §8.2.2.2: the same request by another way.
		a.reject(f, req, 482, "")
		return
	}
	l := a.cfg.Limits
	holder := f.source()
	if !emergency && (len(a.loop.calls) >= l.Calls || (f.trunk == nil && a.loop.holders[holder] >= l.SourceCalls)) {
		a.busy(f, req)
		return
	}
	s := a.open(f, req, key)
	if s == nil {
		a.busy(f, req)
		return
	}
	aor, ours := a.aor(&req.Recipient)
	_, known := a.loop.reg.Owner(aor)
	a.loop.nextID++
	c := &call{
		id: id, num: a.loop.nextID, core: proxy.NewCall(proxy.Config{Ring: a.cfg.Ring}), server: s, caller: f, holder: holder,
		callerTag: tag, aor: aor, from: shortURI(&req.From().Address), to: sipmsg.User(&req.Recipient), account: acc,
		started: now, tags: make(map[string]int), requests: make(map[uint64]*relayed),
	}
	s.call = c
	a.loop.calls[id] = c
	a.loop.holders[holder]++
	if req.Method == sip.INVITE {
		a.count.calls.Add(1)
		if status := a.openMedia(c); status != 0 {
			s.respond(status, "", header("Retry-After", "5"))
			a.finish(c)
			return
		}
	}
	ev := proxy.Invite{Dialog: req.Method == sip.INVITE, Known: known}
	if ours {
		// A request that came by a trunk goes to a handset here or nowhere: two
		// kits that each think the other serves a number would pass it for ever.
		ev.Lookup = f.trunk == nil && a.cfg.Directory != nil
		for _, b := range a.loop.reg.Lookup(now, aor) {
			ev.Contacts = append(ev.Contacts, b.Key)
		}
	}
	a.step(now, c, ev)
	a.changed()
}

func callKey(callID, tag string) string { return callID + "\x00" + tag }

func shortURI(u *sip.Uri) string {
	if s := sipmsg.User(u); s != "" {
		return s
	}
	return u.Host
}

// ack: of a failed INVITE it belongs to the transaction; of an answered one it is
// the dialog's and goes to the other side (RFC 3261 §16.10, §17).
func (a *Agent) ack(now time.Time, f *flow, req *sip.Request) {
	if s := a.loop.servers[serverKey(f, req, sip.INVITE)]; s != nil {
		if s.status >= 300 {
			_ = s.tx.Receive(req)
			return
		}
		// sipgo starts a goroutine for each ACK it cannot pass up: not for these.
	}
	if _, in := sipmsg.Param(req.To().Params, "tag"); !in {
		return
	}
	c, branch, side, lost := a.dialog(f, req)
	if c == nil {
		a.count.stray.Add(1)
		return
	}
	a.loop.nextID++
	id := a.loop.nextID
	c.requests[id] = &relayed{req: req, branch: branch, from: side}
	a.step(now, c, proxy.Request{ID: id, Branch: branch, From: side, Method: "ACK", Lost: lost})
	delete(c.requests, id)
}

// cancel: RFC 3261 §9.2. The INVITE is not answered here: a 200 that is on its
// way must still win, otherwise the 487 of the callee comes.
func (a *Agent) cancel(now time.Time, f *flow, req *sip.Request) {
	s := a.loop.servers[serverKey(f, req, sip.INVITE)]
	if s == nil {
		a.reject(f, req, 481, "")
		return
	}
	res := a.makeResponse(req, 200, "", s.tag)
	if err := s.flow.WriteMsg(res); err != nil {
		a.count.sendErrors.Add(1)
	}
	switch {
	case s.call != nil:
		a.step(now, s.call, proxy.Cancel{})
	case s.relayed != nil:
		s.relayed.cancel(a)
	}
}
