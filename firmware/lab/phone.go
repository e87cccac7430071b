//go:build linux

package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"fieldkit/firmware/lab/phone"
	"fieldkit/firmware/mission"
)

// Media is what a phone measured in its last call.
type Media = phone.MediaReport

// What a phone does with calls that come in.
const (
	Answers = "answer"
	IsBusy  = "busy"
	Rings   = "ring" // until the caller gives up
)

// RefusedError is a call that ended with a final response other than 2xx.
type RefusedError struct {
	Code int
	Why  string
}

func (e *RefusedError) Error() string { return fmt.Sprintf("refused with %d: %s", e.Code, e.Why) }

// Phone is one phone process. Its methods may be called from any goroutine; it is in one call at a time.
type Phone struct {
	Account mission.Handset
	Kit     int // near which it stands, 0 is the first

	proc *process
	in   io.WriteCloser

	mu      sync.Mutex // guards what follows
	now     PhoneState
	changed chan struct{} // closed and replaced at each change
}

// PhoneState is what a phone said last.
type PhoneState struct {
	State      string // starting, registered, unregistered, calling, incoming, ringing, talking
	Registered bool
	Calls      int // begun so far, both ways
	Ended      int // of these
	Setup      time.Duration
	Media      Media
	Refusal    int    // SIP status of the last call's end, 0 when it ended well
	Error      string // of the last call
}

// toneOf is what phone i says: far enough from every other phone's for a listener to tell.
func toneOf(i int) float64 { return 400 + 30*float64(i) }

// StartPhone starts a phone with the named account near kit k. It takes calls; see StartPhoneThat.
func (l *Lab) StartPhone(k int, account string) (*Phone, error) {
	return l.StartPhoneThat(Answers, k, account)
}

// StartPhoneThat starts a phone that does with incoming calls as told. Phones expect to hear the one
// started just before or after them: the first and the second, the third and the fourth.
func (l *Lab) StartPhoneThat(does string, k int, account string) (*Phone, error) {
	i := slices.IndexFunc(l.mission.Handsets, func(h mission.Handset) bool { return h.Name == account })
	if i < 0 {
		return nil, fmt.Errorf("phone: no account %q", account)
	}
	return l.StartPhoneWith(l.mission.Handsets[i], does, k)
}

// StartPhoneWith starts a phone with an account that need not be one of the lab's mission.
func (l *Lab) StartPhoneWith(account mission.Handset, does string, k int) (*Phone, error) {
	seat, err := l.Handset(k)
	if err != nil {
		return nil, err
	}
	n := len(l.phones())
	p := &Phone{Account: account, Kit: k, changed: make(chan struct{}), now: PhoneState{State: "starting"}}
	cmd := exec.Command(l.opts.Tool, "phone",
		"--server", netip.AddrPortFrom(seat.Server, 5060).String(), "--local", seat.Address.String(),
		"--user", p.Account.Number, "--answer", does,
		"--tone", fmt.Sprint(toneOf(n)), "--expect", fmt.Sprint(toneOf(n^1)))
	cmd.Env = append(os.Environ(), "FIELDKIT_PASSWORD="+p.Account.Password)
	cmd.Stderr = os.Stderr
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if p.proc, err = launchReading(seat.at, cmd, func() { p.read(out) }); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.Phones = append(l.Phones, p)
	l.mu.Unlock()
	return p, nil
}

// phones are those started so far.
func (l *Lab) phones() []*Phone {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.Phones)
}

// read follows the phone's events until it ends.
func (p *Phone) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var e phone.Event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		p.mu.Lock()
		p.now.take(e)
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
}

func (s *PhoneState) take(e phone.Event) {
	switch e.Event {
	case "registered", "unregistered":
		s.Registered = e.Event == "registered"
		if s.Calls == s.Ended {
			s.State = e.Event
		}
		s.Error = e.Error
	case "calling", "incoming":
		*s = PhoneState{State: e.Event, Registered: s.Registered, Calls: s.Calls + 1, Ended: s.Ended}
	case "ringing":
		s.State = e.Event
	case "answered":
		s.State = "talking"
		s.Setup = time.Duration(e.SetupMS * float64(time.Millisecond))
	case "media":
		s.Media = *e.Media
	case "ended":
		s.State, s.Refusal, s.Error = "registered", e.Status, e.Error
		if !s.Registered {
			s.State = "unregistered"
		}
		s.Ended++
	case "error":
		s.Error = e.Error
	}
}

// Snapshot is what the phone said last.
func (p *Phone) Snapshot() PhoneState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// await waits until the state is as wanted.
func (p *Phone) await(ctx context.Context, what string, wanted func(PhoneState) bool) (PhoneState, error) {
	for {
		p.mu.Lock()
		s, changed := p.now, p.changed
		p.mu.Unlock()
		if wanted(s) {
			return s, nil
		}
		select {
		case <-changed:
		case <-p.proc.done:
			return s, fmt.Errorf("phone %s ended while waiting until it was %s", p.Account.Number, what)
		case <-ctx.Done():
			return s, fmt.Errorf("phone %s not %s but %s %s: %w", p.Account.Number, what, s.State, s.Error, ctx.Err())
		}
	}
}

// WaitRegistered waits until the phone is registered.
func (p *Phone) WaitRegistered(ctx context.Context) error {
	_, err := p.await(ctx, "registered", func(s PhoneState) bool { return s.Registered })
	return err
}

// WaitRinging waits until a call rings here.
func (p *Phone) WaitRinging(ctx context.Context) error {
	_, err := p.await(ctx, "ringing", func(s PhoneState) bool { return s.State == "incoming" || s.State == "ringing" })
	return err
}

// WaitIdle waits until no call is up.
func (p *Phone) WaitIdle(ctx context.Context) error {
	_, err := p.await(ctx, "idle", func(s PhoneState) bool { return s.Calls == s.Ended })
	return err
}

// WaitMedia waits until so many packets were received in this call.
func (p *Phone) WaitMedia(ctx context.Context, packets uint64) error {
	_, err := p.await(ctx, "hearing anything", func(s PhoneState) bool { return s.Media.Received >= packets })
	return err
}

// Call calls target and returns the time from INVITE to 200 OK. When ctx ends first, the call is
// cancelled. A refusal is a RefusedError.
func (p *Phone) Call(ctx context.Context, target string) (time.Duration, error) {
	before := p.Snapshot().Calls
	if err := p.say(phone.Command{Cmd: "call", Target: target}); err != nil {
		return 0, err
	}
	s, err := p.await(ctx, "answered", func(s PhoneState) bool {
		return s.Calls > before && (s.State == "talking" || s.Ended == s.Calls)
	})
	switch {
	case err != nil:
		_ = p.say(phone.Command{Cmd: "hangup"})
		return 0, err
	case s.State == "talking":
		return s.Setup, nil
	case s.Refusal != 0:
		return 0, &RefusedError{s.Refusal, s.Error}
	}
	return 0, fmt.Errorf("call from %s to %s: %s", p.Account.Number, target, s.Error)
}

// Hangup ends the call with other and returns what each of the two heard.
func (p *Phone) Hangup(ctx context.Context, other *Phone) (mine, others Media, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := p.say(phone.Command{Cmd: "hangup"}); err != nil {
		return mine, others, err
	}
	idle := func(s PhoneState) bool { return s.Calls == s.Ended }
	a, err := p.await(ctx, "idle", idle)
	if err != nil {
		return mine, others, err
	}
	b, err := other.await(ctx, "idle", idle)
	return a.Media, b.Media, err
}

func (p *Phone) say(c phone.Command) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.in.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("phone %s: %w", p.Account.Number, err)
	}
	return nil
}

// Quit takes the registration back and ends the phone.
func (p *Phone) Quit() error {
	if err := p.say(phone.Command{Cmd: "quit"}); err != nil {
		return err
	}
	select {
	case <-p.proc.done:
		return p.proc.err
	case <-time.After(killAfter):
		return p.proc.end(killAfter)
	}
}

func (p *Phone) close() {
	if p.proc.running() {
		_ = p.Quit()
	}
}
