package registrar

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Bounds and defaults. A handset's expiry is ours to shorten: RFC 3261 §10.2.1.1
// calls the requested one a suggestion. 423 is for less than MinExpires only.
const (
	DefaultExpires = 10 * time.Minute
	MinExpires     = 60 * time.Second
	MaxExpires     = time.Hour

	MaxAccounts = 10_000
	MaxContacts = 8 // per account
	maxField    = 512
)

// Status codes a registration can end with.
const (
	StatusOK              = 200
	StatusBadRequest      = 400
	StatusForbidden       = 403
	StatusNotFound        = 404
	StatusIntervalTooShrt = 423
	StatusServerError     = 500
)

// Account is one person's right to register. Number and Name are both
// addresses of the same account.
type Account struct {
	Name     string
	Number   string
	Password string
}

// Flow is the way a registration came and the way requests go back: RFC 5626
// §5.3. A contact behind a connection is reached on that connection only.
type Flow struct {
	Transport string `json:"transport"`            // "udp" or "tcp"
	Remote    string `json:"remote"`               // address and port as received
	Conn      uint64 `json:"connection,omitempty"` // connection, 0 for UDP; dead after a restart
}

// Contact is one Contact header field value of a REGISTER.
type Contact struct {
	URI      string        // as the handset wrote it, what goes into the Request-URI
	Key      string        // normalised by the caller so that equal URIs have equal keys (RFC 3261 §19.1.4)
	Expires  time.Duration // of the expires parameter; negative: not given
	Q        int           // thousandths, 1000 when not given (§20.10 leaves it open)
	Instance string        // +sip.instance, "" when not given
}

// Request is a REGISTER that passed authentication.
type Request struct {
	AOR       string
	CallID    string
	CSeq      uint32
	Expires   time.Duration // of the Expires header field; negative: not given
	Wildcard  bool          // Contact: *
	Contacts  []Contact
	Flow      Flow
	UserAgent string
}

// Binding is a contact of an account.
type Binding struct {
	Contact   string    `json:"contact"`
	Key       string    `json:"key"`
	CallID    string    `json:"call_id"`
	CSeq      uint32    `json:"cseq"`
	Q         int       `json:"q"`
	Instance  string    `json:"instance,omitempty"`
	Flow      Flow      `json:"flow"`
	UserAgent string    `json:"user_agent,omitempty"`
	Since     time.Time `json:"since"`
	Expires   time.Time `json:"expires"`
}

// Result is the answer to a REGISTER.
type Result struct {
	Status     int
	Reason     string
	MinExpires time.Duration // with 423
	Bindings   []Binding     // with 200: all current ones of the account
}

// Kind says what happened to an address-of-record.
type Kind uint8

// The kinds of events.
const (
	Reachable   Kind = iota + 1 // the first binding appeared
	Refreshed                   // still reachable, the time was extended or the set changed
	Unreachable                 // the last binding went
)

func (k Kind) String() string {
	switch k {
	case Reachable:
		return "reachable"
	case Refreshed:
		return "refreshed"
	case Unreachable:
		return "unreachable"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Event is a change of an address-of-record that the directory must know of.
type Event struct {
	Kind Kind
	AOR  string
	TTL  time.Duration // until the last binding ends; 0 with Unreachable
}

// Stats are counters since the start.
type Stats struct {
	Registered, Refused, Expired, Removed, Dropped uint64
}

// Config are the facts of the domain.
type Config struct {
	// Overlay is the domain of every address-of-record.
	Overlay string
	// Hosts are further names and addresses a handset may write for the domain.
	Hosts []string
}

// ErrAccounts is wrapped by errors of [Registrar.SetAccounts].
var ErrAccounts = errors.New("handset accounts")

type account struct {
	Account
	id       string // the number, or the name of an account without one
	bindings []Binding
	told     bool // Reachable was emitted
}

// Registrar holds the bindings. Use [New].
type Registrar struct {
	overlay string
	hosts   map[string]bool
	byUser  map[string]*account // by number and by lower-case name
	stats   Stats
}

// New makes a registrar without accounts.
func New(cfg Config) *Registrar {
	r := &Registrar{
		overlay: strings.ToLower(cfg.Overlay),
		hosts:   make(map[string]bool),
		byUser:  make(map[string]*account),
	}
	r.hosts[r.overlay] = true
	for _, h := range cfg.Hosts {
		r.hosts[strings.ToLower(h)] = true
	}
	return r
}

// Local says whether host is a name of this domain.
func (r *Registrar) Local(host string) bool {
	return r.hosts[strings.ToLower(strings.TrimSuffix(host, "."))]
}

// Canonical returns the address-of-record a handset means by user and host, and
// whether the host is ours. The user part must be unescaped already. Names are
// matched without regard to case: people type them.
func (r *Registrar) Canonical(user, host string) (string, bool) {
	if user == "" || !r.Local(host) {
		return "", false
	}
	return strings.ToLower(user) + "@" + r.overlay, true
}

// AOR is the address-of-record of a number or name in this domain.
func (r *Registrar) AOR(user string) string { return strings.ToLower(user) + "@" + r.overlay }

// Account returns the account with the number or name user.
func (r *Registrar) Account(user string) (Account, bool) {
	a, ok := r.byUser[strings.ToLower(user)]
	if !ok {
		return Account{}, false
	}
	return a.Account, true
}

// Owner returns the account an address-of-record belongs to.
func (r *Registrar) Owner(aor string) (Account, bool) {
	a := r.account(aor)
	if a == nil {
		return Account{}, false
	}
	return a.Account, true
}

func (r *Registrar) account(aor string) *account {
	user, host, ok := strings.Cut(aor, "@")
	if !ok || host != r.overlay {
		return nil
	}
	return r.byUser[user]
}

// users returns the number and the name of an account, without empty ones.
func (a *account) users() []string {
	var us []string
	if a.Number != "" {
		us = append(us, strings.ToLower(a.Number))
	}
	if n := strings.ToLower(a.Name); n != "" && n != strings.ToLower(a.Number) {
		us = append(us, n)
	}
	return us
}

// SetAccounts replaces all accounts. Bindings of accounts that stay are kept;
// those of accounts that went are removed. On error nothing changes.
func (r *Registrar) SetAccounts(now time.Time, accounts []Account) ([]Event, error) {
	if len(accounts) > MaxAccounts {
		return nil, fmt.Errorf("%w: %d, more than %d", ErrAccounts, len(accounts), MaxAccounts)
	}
	next := make(map[string]*account, 2*len(accounts))
	for _, a := range accounts {
		n := &account{Account: a, id: cmp.Or(a.Number, strings.ToLower(a.Name))}
		us := n.users()
		if len(us) == 0 || a.Password == "" {
			return nil, fmt.Errorf("%w: an account without address or without password", ErrAccounts)
		}
		for _, u := range us {
			if next[u] != nil {
				return nil, fmt.Errorf("%w: %q twice", ErrAccounts, u)
			}
			next[u] = n
		}
	}
	var events []Event
	old := r.byUser
	r.byUser = next
	for _, u := range slices.Sorted(maps.Keys(old)) {
		o := old[u]
		n := next[u]
		switch {
		case n != nil && n.id == o.id:
			n.bindings, n.told = o.bindings, o.told
		case o.told:
			events = append(events, Event{Kind: Unreachable, AOR: u + "@" + r.overlay})
		}
	}
	// A renamed account keeps its bindings by its number: the new name must be told.
	for _, u := range slices.Sorted(maps.Keys(next)) {
		n := next[u]
		if o := old[u]; n.told && (o == nil || o.id != n.id) {
			events = append(events, Event{Kind: Reachable, AOR: u + "@" + r.overlay, TTL: n.ttl(now)})
		}
	}
	return events, nil
}

func (a *account) ttl(now time.Time) time.Duration {
	var end time.Time
	for _, b := range a.bindings {
		if b.Expires.After(end) {
			end = b.Expires
		}
	}
	return max(end.Sub(now), 0)
}

// settle compares what is told with what is and returns the events.
func (r *Registrar) settle(now time.Time, a *account, changed bool) []Event {
	kind := Refreshed
	switch {
	case len(a.bindings) == 0 && !a.told, !changed:
		return nil
	case len(a.bindings) == 0:
		kind = Unreachable
	case !a.told:
		kind = Reachable
	}
	a.told = len(a.bindings) > 0
	var events []Event
	for _, u := range a.users() {
		events = append(events, Event{Kind: kind, AOR: u + "@" + r.overlay, TTL: a.ttl(now)})
	}
	return events
}

// Register processes a REGISTER as RFC 3261 §10.3 steps 5 to 8 have it. The
// caller did the steps before: domain, extensions, authentication. That the
// authenticated account is the one of AOR (step 4) is the caller's check too.
func (r *Registrar) Register(now time.Time, req Request) (Result, []Event) {
	a := r.account(req.AOR)
	if a == nil {
		r.stats.Refused++
		return Result{Status: StatusNotFound, Reason: "Not Found"}, nil
	}
	events := r.expire(now, a)
	res, changed := r.update(now, a, req)
	if res.Status == StatusOK {
		r.stats.Registered++
		res.Bindings = slices.Clone(a.bindings)
	} else {
		r.stats.Refused++
	}
	return res, append(events, r.settle(now, a, changed)...)
}

func (r *Registrar) update(now time.Time, a *account, req Request) (Result, bool) {
	bad := func(reason string) (Result, bool) {
		return Result{Status: StatusBadRequest, Reason: reason}, false
	}
	if req.Wildcard {
		// §10.3 step 6: "If the request has additional Contact fields or an
		// expiration time other than zero, the request is invalid".
		if len(req.Contacts) > 0 || req.Expires != 0 {
			return bad("Invalid Wildcard")
		}
		for _, b := range a.bindings {
			if b.CallID == req.CallID && req.CSeq <= b.CSeq {
				return Result{Status: StatusServerError, Reason: "CSeq Out of Order"}, false
			}
		}
		changed := len(a.bindings) > 0
		r.stats.Removed += uint64(len(a.bindings))
		a.bindings = nil
		return Result{Status: StatusOK, Reason: "OK"}, changed
	}
	if len(req.Contacts) == 0 { // a query
		return Result{Status: StatusOK, Reason: "OK"}, false
	}
	if len(req.Contacts) > MaxContacts || len(req.CallID) > maxField {
		return bad("Too Many Contacts")
	}
	// §10.3 step 7: "either all of the binding updates succeed or none": work on
	// a copy and put it in place at the end.
	next := slices.Clone(a.bindings)
	for _, c := range req.Contacts {
		if len(c.URI) > maxField || len(c.Instance) > maxField {
			return bad("Contact Too Long")
		}
		expires := DefaultExpires
		switch {
		case c.Expires >= 0:
			expires = c.Expires
		case req.Expires >= 0:
			expires = req.Expires
		}
		if expires > 0 && expires < MinExpires {
			return Result{Status: StatusIntervalTooShrt, Reason: "Interval Too Brief", MinExpires: MinExpires}, false
		}
		expires = min(expires, MaxExpires)
		i := slices.IndexFunc(next, func(b Binding) bool { return b.Key == c.Key })
		if i < 0 && c.Instance != "" {
			// The same device from another address: RFC 5626 §6 replaces the
			// binding of the same instance, so that a call does not try the old one.
			i = slices.IndexFunc(next, func(b Binding) bool { return b.Instance == c.Instance })
		}
		if i >= 0 && next[i].CallID == req.CallID && req.CSeq <= next[i].CSeq {
			// §10.3 step 7: "If the Call-ID agrees … the CSeq … if it is not higher,
			// the update MUST be aborted and the request fails".
			return Result{Status: StatusServerError, Reason: "CSeq Out of Order"}, false
		}
		if expires == 0 {
			if i >= 0 {
				next = slices.Delete(next, i, i+1)
				r.stats.Removed++
			}
			continue
		}
		b := Binding{
			Contact: c.URI, Key: c.Key, CallID: req.CallID, CSeq: req.CSeq, Q: c.Q, Instance: c.Instance,
			Flow: req.Flow, UserAgent: req.UserAgent[:min(len(req.UserAgent), 64)], Since: now, Expires: now.Add(expires),
		}
		if i >= 0 {
			b.Since = next[i].Since
			next[i] = b
			continue
		}
		next = append(next, b)
	}
	if over := len(next) - MaxContacts; over > 0 {
		// The bindings that end first make room: the newest device is the one in
		// the person's hand.
		slices.SortStableFunc(next, func(x, y Binding) int { return x.Expires.Compare(y.Expires) })
		next = slices.Delete(next, 0, over)
		r.stats.Dropped += uint64(over)
	}
	slices.SortStableFunc(next, func(x, y Binding) int { return cmp.Compare(y.Q, x.Q) })
	a.bindings = next
	return Result{Status: StatusOK, Reason: "OK"}, true
}

// Lookup returns the bindings of an address-of-record that live at now, the
// preferred first.
func (r *Registrar) Lookup(now time.Time, aor string) []Binding {
	a := r.account(aor)
	if a == nil {
		return nil
	}
	var live []Binding
	for _, b := range a.bindings {
		if now.Before(b.Expires) {
			live = append(live, b)
		}
	}
	return live
}

func (r *Registrar) expire(now time.Time, a *account) []Event {
	n := len(a.bindings)
	a.bindings = slices.DeleteFunc(a.bindings, func(b Binding) bool { return !now.Before(b.Expires) })
	gone := n - len(a.bindings)
	r.stats.Expired += uint64(gone)
	return r.settle(now, a, gone > 0)
}

// each calls f once per account, in the order of their ids.
func (r *Registrar) each(f func(*account)) {
	seen := make(map[string]*account, len(r.byUser))
	for _, a := range r.byUser {
		seen[a.id] = a
	}
	for _, id := range slices.Sorted(maps.Keys(seen)) {
		f(seen[id])
	}
}

// Expire removes the bindings whose time is over.
func (r *Registrar) Expire(now time.Time) []Event {
	var events []Event
	r.each(func(a *account) { events = append(events, r.expire(now, a)...) })
	return events
}

// Deadline is when the next binding ends, zero when there is none.
func (r *Registrar) Deadline() time.Time {
	var t time.Time
	for _, a := range r.byUser {
		for _, b := range a.bindings {
			if t.IsZero() || b.Expires.Before(t) {
				t = b.Expires
			}
		}
	}
	return t
}

// FlowFailed removes every binding behind a connection that closed: RFC 5626
// §5.3 treats a flow that failed as gone. UDP bindings have no connection.
func (r *Registrar) FlowFailed(now time.Time, conn uint64) []Event {
	if conn == 0 {
		return nil
	}
	var events []Event
	r.each(func(a *account) {
		n := len(a.bindings)
		a.bindings = slices.DeleteFunc(a.bindings, func(b Binding) bool { return b.Flow.Conn == conn })
		r.stats.Removed += uint64(n - len(a.bindings))
		events = append(events, r.settle(now, a, n != len(a.bindings))...)
	})
	return events
}

// Refresh returns a Refreshed event for every reachable address-of-record, for
// a directory that lost what it was told.
func (r *Registrar) Refresh(now time.Time) []Event {
	var events []Event
	r.each(func(a *account) { events = append(events, r.settle(now, a, len(a.bindings) > 0)...) })
	return events
}

// Stats returns the counters.
func (r *Registrar) Stats() Stats { return r.stats }
