package proxy

import (
	"cmp"
	"slices"
	"time"
)

// Times of RFC 3261 that are not ours to choose, and bounds.
const (
	// TimerC is how long a branch may ring without a sign of life; "MUST be
	// larger than 3 minutes" (§16.6 step 11).
	TimerC = 3*time.Minute + time.Second
	// CancelWait is how long a cancelled branch may take to end: 64*T1 (§9.1).
	CancelWait = 32 * time.Second

	// MaxBranches bounds the forks of one request. RFC 5393 §5.3.3 starts with a
	// Max-Breadth of 60; a person does not have that many phones.
	MaxBranches = 16
	// MaxRequests bounds the requests under way inside one call.
	MaxRequests = 16
)

// Config are the limits of a call. Zero values take the defaults.
type Config struct {
	// Ring is how long the phones may ring before the call fails with 480;
	// default 60 s.
	Ring time.Duration
	// Idle ends an answered call that showed no sign of life (no media, no
	// request) for so long; default 1 h. Both phones lost power.
	Idle time.Duration
}

type phase uint8

const (
	idle     phase = iota
	trying         // no final response sent
	answered       // a 2xx was relayed
	failed         // a final response other than 2xx was sent; branches may still end
	ended
)

type branchPhase uint8

const (
	opening    branchPhase = iota // a trunk is being opened
	calling                       // forwarded, no response yet
	proceeding                    // a provisional response came
	done                          // final response or failure
)

type branch struct {
	target   Destination
	phase    branchPhase
	status   int  // final one
	own      bool // the final status was made here, there is no response to relay
	cancel   bool // to be cancelled, or was
	sent     bool // CANCEL went out
	deadline time.Time
}

type request struct {
	id     uint64
	branch int
	method string
	lost   bool
}

// Call is one request outside a dialog that this kit forwards, and, when it is
// an INVITE that was answered, the dialogs it made. The zero value is not
// usable; see [NewCall].
type Call struct {
	cfg       Config
	phase     phase
	invite    bool
	known     bool
	looking   bool // the directory has not answered yet
	lookErr   bool // the directory could not answer
	expired   bool // the ring limit was reached
	cancelled bool // the caller gave up
	branches  []branch
	winner    int // answered branch, -1
	ring      time.Time
	alive     time.Time
	requests  []request
}

// NewCall makes a call that waits for its [Invite] event.
func NewCall(cfg Config) *Call {
	cfg.Ring = cmp.Or(cfg.Ring, 60*time.Second)
	cfg.Idle = cmp.Or(cfg.Idle, time.Hour)
	return &Call{cfg: cfg, winner: -1}
}

// Answered says whether a 2xx was relayed, and by which branch.
func (c *Call) Answered() (int, bool) { return c.winner, c.winner >= 0 }

// Ended says whether nothing more will come of the call.
func (c *Call) Ended() bool { return c.phase == ended }

// Step applies an event and returns what is to be done, in order. The shell
// calls it with [Timeout] when [Call.Deadline] is reached.
func (c *Call) Step(now time.Time, ev Event) []Action {
	var out []Action
	switch ev := ev.(type) {
	case Invite:
		out = c.begin(now, ev)
	case Found:
		out = c.found(now, ev)
	case Opened:
		out = c.opened(now, ev.Branch)
	case Response:
		out = c.response(now, ev)
	case Failed:
		out = c.failed(now, ev)
	case Cancel:
		out = c.cancelAll(now, true)
	case Refuse:
		out = c.refuse(now, ev.Status)
	case Request:
		out = c.request(now, ev)
	case RequestDone:
		out = c.requestDone(ev)
	case Alive:
		c.alive = now
	case Timeout:
	}
	return append(out, c.timers(now)...)
}

func (c *Call) begin(now time.Time, ev Invite) []Action {
	if c.phase != idle {
		return nil
	}
	c.phase, c.invite, c.known = trying, ev.Dialog, ev.Known
	c.ring = now.Add(c.cfg.Ring)
	var out []Action
	if c.invite {
		// §16.2: a stateful proxy "SHOULD generate a 100 (Trying)" unless it knows
		// that it will answer within 200 ms: it never knows with a radio between.
		out = append(out, Reply{Status: 100})
	}
	if ev.Lookup {
		c.looking = true
		out = append(out, Lookup{})
	}
	for _, name := range ev.Contacts {
		out = append(out, c.fork(now, Destination{Contact: name})...)
	}
	return append(out, c.conclude(now)...)
}

func (c *Call) fork(now time.Time, d Destination) []Action {
	if len(c.branches) >= MaxBranches || slices.ContainsFunc(c.branches, func(b branch) bool { return b.target == d }) {
		return nil
	}
	c.branches = append(c.branches, branch{target: d, deadline: now.Add(TimerC)})
	i := len(c.branches) - 1
	if d.Kit != "" {
		return []Action{Open{Branch: i, Kit: d.Kit}}
	}
	c.branches[i].phase = calling
	return []Action{Forward{Branch: i, To: d}}
}

func (c *Call) found(now time.Time, ev Found) []Action {
	if !c.looking {
		return nil
	}
	c.looking, c.lookErr = false, ev.Unavailable
	var out []Action
	if c.phase == trying && !c.cancelled && !c.expired {
		for _, kit := range ev.Kits {
			out = append(out, c.fork(now, Destination{Kit: kit})...)
		}
	}
	return append(out, c.conclude(now)...)
}

func (c *Call) valid(i int) bool { return i >= 0 && i < len(c.branches) }

func (c *Call) opened(now time.Time, i int) []Action {
	if !c.valid(i) || c.branches[i].phase != opening {
		return nil
	}
	b := &c.branches[i]
	b.phase, b.deadline = calling, now.Add(TimerC)
	return []Action{Forward{Branch: i, To: b.target}}
}

// cancelBranch ends a branch: RFC 3261 §9.1, a CANCEL must not be sent before
// a provisional response was received.
func (c *Call) cancelBranch(now time.Time, i int) []Action {
	b := &c.branches[i]
	switch {
	case b.phase == done || b.cancel:
		return nil
	case b.phase == opening:
		b.phase, b.status, b.own, b.cancel = done, 487, true, true
		return nil
	}
	b.cancel = true
	b.deadline = now.Add(CancelWait)
	if b.phase == proceeding && c.invite {
		b.sent = true
		return []Action{CancelBranch{Branch: i}}
	}
	return nil
}

func (c *Call) cancelAll(now time.Time, byCaller bool) []Action {
	// §9.2: CANCEL "has no effect on a request to which a final response was sent".
	if c.phase != trying || (byCaller && c.cancelled) || !c.invite {
		return nil
	}
	if byCaller {
		c.cancelled = true
	} else {
		c.expired = true
	}
	var out []Action
	for i := range c.branches {
		out = append(out, c.cancelBranch(now, i)...)
	}
	return append(out, c.conclude(now)...)
}

// refuse fails the request for a reason of our own, such as no media ports.
func (c *Call) refuse(now time.Time, status int) []Action {
	if c.phase != trying {
		return nil
	}
	var out []Action
	for i := range c.branches {
		out = append(out, c.cancelBranch(now, i)...)
	}
	c.phase = failed
	return append(append(out, Reply{Status: status}), c.settle()...)
}

func (c *Call) response(now time.Time, ev Response) []Action {
	if !c.valid(ev.Branch) {
		return nil
	}
	b := &c.branches[ev.Branch]
	switch {
	case ev.Status < 200:
		return c.provisional(now, ev)
	case ev.Status < 300:
		return c.success(now, ev)
	case b.phase == done:
		return nil // the client transaction absorbs repeats, this is a stray
	}
	b.phase, b.status = done, ev.Status
	var out []Action
	if ev.Status >= 600 {
		// §16.7 step 5: on a 6xx "it cancels all client transactions pending".
		for i := range c.branches {
			out = append(out, c.cancelBranch(now, i)...)
		}
	}
	out = append(out, Release{Branch: ev.Branch})
	return append(append(out, c.conclude(now)...), c.settle()...)
}

func (c *Call) provisional(now time.Time, ev Response) []Action {
	b := &c.branches[ev.Branch]
	if b.phase == done {
		return nil
	}
	b.phase = proceeding
	if b.cancel {
		if b.sent || !c.invite {
			return nil
		}
		b.sent = true
		return []Action{CancelBranch{Branch: ev.Branch}}
	}
	if ev.Status == 100 || !c.invite {
		return nil // §16.7 step 5: 100 is not forwarded
	}
	b.deadline = now.Add(TimerC) // §16.7 step 2
	if c.phase != trying {
		return nil
	}
	return []Action{Relay(ev)}
}

func (c *Call) success(now time.Time, ev Response) []Action {
	b := &c.branches[ev.Branch]
	again := b.phase == done
	if again && (b.status < 200 || b.status >= 300) {
		return nil
	}
	b.phase, b.status = done, ev.Status
	if !c.invite {
		if c.phase != trying {
			return c.settle()
		}
		c.phase = failed // a final response was sent, no dialog came of it
		var out []Action
		for i := range c.branches {
			out = append(out, c.cancelBranch(now, i)...)
		}
		return append(append(out, Relay(ev)), c.settle()...)
	}
	switch c.phase {
	case trying:
		c.phase, c.winner, c.alive = answered, ev.Branch, now
		out := []Action{Relay(ev), Connect{Branch: ev.Branch}}
		for i := range c.branches {
			out = append(out, c.cancelBranch(now, i)...)
		}
		return out
	case answered:
		// §16.7 step 5: "any 2xx response to an INVITE" is forwarded, also a repeat
		// (§13.3.1.4) and one of another branch; the caller ends what it does not want.
		c.alive = now
		return []Action{Relay(ev)}
	}
	// A 2xx after a final response of our own (the caller was refused or timed
	// out): the phone believes in a call nobody is in.
	if again {
		return nil
	}
	return append([]Action{Hangup{Branch: ev.Branch}}, c.settle()...)
}

func (c *Call) failed(now time.Time, ev Failed) []Action {
	if !c.valid(ev.Branch) || c.branches[ev.Branch].phase == done {
		return nil
	}
	b := &c.branches[ev.Branch]
	b.phase, b.status, b.own = done, ev.Status, true
	out := []Action{Release{Branch: ev.Branch}}
	return append(append(out, c.conclude(now)...), c.settle()...)
}

// conclude sends the final response when every branch has one: §16.7 step 6.
func (c *Call) conclude(time.Time) []Action {
	if c.phase != trying || (c.looking && !c.cancelled && !c.expired) {
		return nil
	}
	best := -1
	for i := range c.branches {
		if c.branches[i].phase != done {
			return nil
		}
		if best < 0 || rank(c.branches[i].status) < rank(c.branches[best].status) {
			best = i
		}
	}
	c.phase = failed
	return append([]Action{c.final(best)}, c.settle()...)
}

func (c *Call) final(best int) Action {
	switch {
	case c.cancelled:
		return Reply{Status: 487}
	case best < 0 && c.lookErr && !c.known:
		return Reply{Status: 503}
	case best < 0 && !c.known:
		return Reply{Status: 404}
	case best < 0:
		return Reply{Status: 480}
	}
	b := c.branches[best]
	switch {
	case b.status == 487 && b.cancel, c.expired && b.status == 408:
		// We ended it, not the caller: nobody answered in time.
		return Reply{Status: 480}
	case b.status == 503:
		// §16.7 step 6: a 503 of one branch says nothing of us; it would make the
		// phone shun the kit. The person is not there: 480.
		return Reply{Status: 480}
	case b.own:
		return Reply{Status: b.status}
	}
	return Relay{Branch: best, Status: b.status}
}

// rank orders final responses, the best first: 6xx, then the lowest class, and
// within 4xx those that let the caller do something (§16.7 step 6), then busy,
// which tells a person more than that another phone of theirs is off.
func rank(status int) int {
	class := status / 100
	if class == 6 {
		return 0
	}
	within := 50
	switch status {
	case 401, 407, 415, 420, 484:
		within = 0
	case 486:
		within = 10
	case 480:
		within = 60
	case 408:
		within = 70
	case 404:
		within = 80
	case 487:
		within = 90
	}
	return class*100 + within
}

// settle ends a call that failed once no branch is left.
func (c *Call) settle() []Action {
	if c.phase != failed {
		return nil
	}
	for i := range c.branches {
		if c.branches[i].phase != done {
			return nil
		}
	}
	c.phase = ended
	return []Action{Finish{}}
}

func (c *Call) timers(now time.Time) []Action {
	var out []Action
	if c.phase == trying && !c.expired && !c.cancelled && !now.Before(c.ring) {
		if c.invite {
			out = append(out, c.cancelAll(now, false)...)
		} else {
			out = append(out, c.refuse(now, 408)...)
		}
	}
	for i := range c.branches {
		b := &c.branches[i]
		if c.phase == ended || b.phase == done || now.Before(b.deadline) {
			continue
		}
		switch {
		case b.cancel || b.phase != proceeding || !c.invite:
			// §9.1 and §16.8: no answer to the CANCEL, or never a response at all.
			status := 408
			if b.cancel {
				status = 487
			}
			out = append(out, Abandon{Branch: i})
			out = append(out, c.failed(now, Failed{Branch: i, Status: status})...)
		default:
			out = append(out, c.cancelBranch(now, i)...) // Timer C
		}
	}
	if c.phase == answered && !now.Before(c.alive.Add(c.cfg.Idle)) {
		c.phase = ended
		out = append(out, Finish{})
	}
	return out
}

// Deadline is when Step wants to be called with [Timeout], zero for never.
func (c *Call) Deadline() time.Time {
	var t time.Time
	earliest := func(d time.Time) {
		if t.IsZero() || d.Before(t) {
			t = d
		}
	}
	switch c.phase {
	case idle, ended:
		return t
	case trying:
		if !c.expired && !c.cancelled {
			earliest(c.ring)
		}
	case answered:
		earliest(c.alive.Add(c.cfg.Idle))
	}
	for _, b := range c.branches {
		if b.phase != done {
			earliest(b.deadline)
		}
	}
	return t
}

func (c *Call) request(now time.Time, ev Request) []Action {
	if c.phase != answered || !c.valid(ev.Branch) {
		// A request in an early dialog (PRACK, UPDATE) is fine once the branch
		// answered something.
		if c.phase != trying || !c.valid(ev.Branch) || c.branches[ev.Branch].phase != proceeding {
			if ev.Method == "ACK" {
				return nil
			}
			return []Action{ReplyRequest{ID: ev.ID, Status: 481}}
		}
	}
	c.alive = now
	to := Callee
	if ev.From == Callee {
		to = Caller
	}
	if ev.Method == "ACK" {
		return []Action{ForwardRequest{ID: ev.ID, Branch: ev.Branch, To: to}}
	}
	if len(c.requests) >= MaxRequests {
		return []Action{ReplyRequest{ID: ev.ID, Status: 503}}
	}
	c.requests = append(c.requests, request{id: ev.ID, branch: ev.Branch, method: ev.Method, lost: ev.Lost})
	return []Action{ForwardRequest{ID: ev.ID, Branch: ev.Branch, To: to}}
}

func (c *Call) requestDone(ev RequestDone) []Action {
	i := slices.IndexFunc(c.requests, func(r request) bool { return r.id == ev.ID })
	if i < 0 {
		return nil
	}
	r := c.requests[i]
	c.requests = slices.Delete(c.requests, i, i+1)
	// §15: whatever the answer to a BYE, the one who sent it has left. A re-INVITE
	// or any other request answered with 481 or 408 also ends the dialog (§12.2.1.2),
	// which the phone that got it says by a BYE of its own.
	if c.phase != answered || r.method != "BYE" || r.branch != c.winner || r.lost {
		return nil
	}
	c.phase = ended
	return []Action{Finish{}}
}
