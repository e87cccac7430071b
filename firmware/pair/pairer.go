package pair

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"
)

// Membership is what a kit has of a mission and keeps. Its methods are called one at a time, from goroutines of a Pairer.
type Membership interface {
	// Facts are told to the other kit and decide who enrols at whom.
	Facts() (Facts, error)
	// Admit opens an account for one kit that may enrol once.
	Admit(account, password string) (*Admission, error)
	// Join enrols by an invitation and keeps what it gets. Once it returns nil the kit is a member there; nothing is
	// changed before.
	Join(ctx context.Context, i Invitation) error
}

// Invitation is what a kit joins another by.
type Invitation struct {
	Host              Facts  // the other kit
	Offer             []byte // its mission
	Account, Password string // that hold once
	// Dial connects to its enrolment server.
	Dial func(ctx context.Context) (net.Conn, error)
}

// Admission is what Admit opened.
type Admission struct {
	Offer       []byte          // the mission as the other kit gets to know it
	Enrolment   http.Handler    // served to the other kit over HTTPS
	Certificate tls.Certificate // of that server
	Close       func() error    // the account enrols no more
}

// Link is an interface that leads to other kits.
type Link struct {
	Name  string
	Index int
}

// Config of a Pairer. Port, Links and Membership are required.
type Config struct {
	Port       uint16        // of beacons (UDP) and meetings (TCP), the same at every kit
	Links      func() []Link // that there are now
	Membership Membership
	OnStatus   func(Status) // what is to be shown changed; it must not block
	OnRestart  func()       // the kit is a member of another mission now
	Log        *slog.Logger
}

// Pairer pairs the kit when its button is pressed. Make it with New.
type Pairer struct {
	cfg    Config
	inputs chan Event // of people
	events chan note
	status atomic.Pointer[Status]
	stats  stats
}

type stats struct{ beacons, malformed, refused, meetings, spoilt, ignored atomic.Uint64 }

// Stats counts what a Pairer saw.
type Stats struct {
	Beacons   uint64 // of other kits
	Malformed uint64 // datagrams that were none
	Refused   uint64 // connections from where no kit can be, or too many at once
	Meetings  uint64 // that came to a code
	Spoilt    uint64 // left when one side alone could know the code
	Ignored   uint64 // presses that came faster than anybody presses
}

// note is an event from a goroutine of a session.
type note struct {
	from *session
	Event
	at   netip.AddrPort // Heard: of the kit
	conn *tls.Conn      // Met
}

// New makes a Pairer that waits for its button.
func New(cfg Config) (*Pairer, error) {
	if cfg.Port == 0 || cfg.Links == nil || cfg.Membership == nil {
		return nil, errors.New("pairing: port, links and membership are required")
	}
	if cfg.OnStatus == nil {
		cfg.OnStatus = func(Status) {}
	}
	if cfg.OnRestart == nil {
		cfg.OnRestart = func() {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Pairer{cfg: cfg, inputs: make(chan Event, 4), events: make(chan note, 16)}
	p.status.Store(&Status{})
	return p, nil
}

// Press begins a pairing, or ends the one that runs.
func (p *Pairer) Press() { p.input(Held) }

// Tap confirms the code, if one is shown.
func (p *Pairer) Tap() { p.input(Tapped) }

func (p *Pairer) input(k Kind) {
	select {
	case p.inputs <- Event{Kind: k}:
	default: // somebody plays with the button
		p.stats.ignored.Add(1)
	}
}

// Status is what is to be shown now.
func (p *Pairer) Status() Status { return *p.status.Load() }

// Stats is a snapshot of the counters.
func (p *Pairer) Stats() Stats {
	return Stats{
		Beacons: p.stats.beacons.Load(), Malformed: p.stats.malformed.Load(), Refused: p.stats.refused.Load(),
		Meetings: p.stats.meetings.Load(), Spoilt: p.stats.spoilt.Load(), Ignored: p.stats.ignored.Load(),
	}
}

// Run serves the button until ctx ends.
func (p *Pairer) Run(ctx context.Context) error {
	l := &loop{p: p}
	defer l.end()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var n note
		select {
		case <-ctx.Done():
			return ctx.Err()
		case n.Event = <-p.inputs:
		case n = <-p.events:
		case <-timer.C:
			n.Kind = Tick
		}
		l.take(ctx, time.Now(), n)
		wait := time.Hour
		if d := l.machine.Deadline(); !d.IsZero() {
			wait = max(time.Until(d), time.Millisecond)
		}
		timer.Reset(wait)
	}
}

// loop is what Run owns.
type loop struct {
	p       *Pairer
	machine Machine
	session *session
}

func (l *loop) take(ctx context.Context, now time.Time, n note) {
	if n.from != nil && n.from != l.session {
		if n.conn != nil {
			_ = n.conn.Close()
		}
		if n.Kind != Finished { // what was joined is joined
			return
		}
	}
	if n.Kind == Heard {
		l.session.known(n.ID, n.at)
	}
	for _, a := range l.machine.Step(now, n.Event) {
		l.do(ctx, a)
	}
	if n.conn != nil {
		if s := l.session; s != nil && s.peer == nil && l.machine.Stage == Comparing {
			s.adopt(n.conn, n.Met, l.machine.Role)
		} else {
			_ = n.conn.Close()
		}
	}
	if s := l.machine.Status; s != l.p.Status() {
		l.p.status.Store(&s)
		l.p.cfg.Log.Info("pairing", "stage", s.Stage, "why", s.Why, "peer", s.Peer.Kit, "role", s.Role)
		l.p.cfg.OnStatus(s)
	}
}

func (l *loop) do(ctx context.Context, a Action) {
	s := l.session
	switch a.Do {
	case Open:
		l.close()
		l.session = l.p.open(ctx)
	case Dial:
		s.dial(a.Peer)
	case Confirm:
		s.confirm()
	case Admit:
		s.admit()
	case Join:
		s.join()
	case Stop:
		s.leave(l.machine.Why)
		s.crowd.Store(&a.Crowd)
	case Close:
		if s != nil {
			s.leave(l.machine.Why)
		}
		l.close()
	case Restart:
		l.p.cfg.OnRestart()
	}
}

// end ends the session and what was told of it and not taken.
func (l *loop) end() {
	l.close()
	for {
		select {
		case n := <-l.p.events:
			if n.conn != nil {
				_ = n.conn.Close()
			}
		default:
			return
		}
	}
}

func (l *loop) close() {
	if l.session != nil {
		l.session.close()
		l.session = nil
	}
}
