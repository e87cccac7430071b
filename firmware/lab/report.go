//go:build linux

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// Report is what a measured run found, printed by `fieldkit lab --json`. Times are milliseconds.
type Report struct {
	Network  string       `json:"network"`
	LossPct  float64      `json:"loss_percent"`
	DelayMS  float64      `json:"delay_ms"`
	Kits     []KitReport  `json:"kits"`
	Ring     []string     `json:"ring"`
	RingMS   float64      `json:"ring_ms"` // from the start of the kits until all saw one ring
	Calls    []CallReport `json:"calls"`
	Problems []string     `json:"problems"` // why the run is not a success; empty when it is
}

// KitReport is one kit at the end of the run.
type KitReport struct {
	NodeID     string  `json:"node_id"`
	Number     int     `json:"number"`
	JoinedMS   float64 `json:"joined_ms"` // from its start until it shared a ring with another kit; 0 for a kit alone
	RSSBytes   int64   `json:"rss_bytes"`
	Goroutines int     `json:"goroutines"`
	LED        string  `json:"led"`
	LinkBytes  uint64  `json:"link_bytes"` // overlay traffic, both directions, since start
	UptimeS    float64 `json:"uptime_s"`
}

// CallReport is one call.
type CallReport struct {
	From     string        `json:"from"`
	To       string        `json:"to"`
	FromKit  int           `json:"from_kit"`
	ToKit    int           `json:"to_kit"`
	Answered bool          `json:"answered"`
	SetupMS  float64       `json:"setup_ms"` // INVITE to 200 OK at the calling phone
	Error    string        `json:"error,omitempty"`
	Media    []MediaReport `json:"media"`
}

// MediaReport is one direction of a call: what the phone To received of what the other one sent.
type MediaReport struct {
	To       string  `json:"to"`
	Sent     uint64  `json:"sent"`
	Received uint64  `json:"received"`
	Lost     uint64  `json:"lost"`
	JitterMS float64 `json:"jitter_ms"`
	ToneOK   bool    `json:"tone_ok"` // the far phone's tone, and no other, was heard
}

// OK reports whether every kit joined and every call worked: answered, and heard at both ends.
func (r *Report) OK() bool { return len(r.Problems) == 0 }

// Limits of a measured run.
const (
	ringLimit     = time.Minute
	registerLimit = 30 * time.Second
	answerLimit   = 30 * time.Second
)

// Measure starts the kits and the phones, makes the calls all at once, lets them talk, hangs up and
// reports. It returns a Report also when something failed; the error is for what kept it from running.
func Measure(ctx context.Context, l *Lab) (*Report, error) {
	r := &Report{
		Network: l.Describe(), LossPct: l.opts.Loss, DelayMS: ms(l.opts.Delay),
		Kits: []KitReport{}, Ring: []string{}, Calls: []CallReport{}, Problems: []string{},
	}
	began := time.Now()
	if err := l.StartKits(ctx); err != nil {
		return nil, err
	}
	if err := within(ctx, cmp.Or(l.opts.Within, ringLimit), l.WaitRing); err != nil {
		r.Problems = append(r.Problems, err.Error())
	} else {
		r.RingMS = ms(time.Since(began))
	}
	if err := l.StartPhones(ctx); err != nil {
		r.Problems = append(r.Problems, err.Error())
	} else {
		l.measureCalls(ctx, r)
	}
	l.reportKits(ctx, r)
	return r, ctx.Err()
}

// StartPhones starts two phones for each call and waits until all can be reached from every kit.
func (l *Lab) StartPhones(ctx context.Context) error {
	for i := range 2 * l.opts.Calls {
		if _, err := l.StartPhone(l.phoneKit(i), phoneName(i)); err != nil {
			return err
		}
	}
	return within(ctx, registerLimit, func(ctx context.Context) error {
		for _, p := range l.Phones {
			if err := l.WaitReachable(ctx, p); err != nil {
				return err
			}
		}
		return nil
	})
}

// WaitReachable waits until the phone is registered and its kit says that the other kits can find it.
func (l *Lab) WaitReachable(ctx context.Context, p *Phone) error {
	if err := p.WaitRegistered(ctx); err != nil {
		return err
	}
	for {
		s, err := l.Kits[p.Kit].Status(ctx)
		if err != nil {
			return err
		}
		for _, h := range s.Handsets {
			if h.Number == p.Account.Number && h.Published {
				return nil
			}
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("phone %s is registered but not published: %w", p.Account.Number, err)
		}
	}
}

func (l *Lab) measureCalls(ctx context.Context, r *Report) {
	type result struct {
		i int
		c CallReport
	}
	done := make(chan result)
	calls := l.opts.Calls
	for i := range calls {
		go func() { done <- result{i, l.measureCall(ctx, l.Phones[2*i], l.Phones[2*i+1])} }()
	}
	r.Calls = make([]CallReport, calls)
	for range calls {
		d := <-done
		r.Calls[d.i] = d.c
	}
	for _, c := range r.Calls {
		if c.Error != "" {
			r.Problems = append(r.Problems, fmt.Sprintf("call %s to %s: %s", c.From, c.To, c.Error))
		}
	}
}

// measureCall calls from a to b, talks and hangs up.
func (l *Lab) measureCall(ctx context.Context, a, b *Phone) CallReport {
	c := CallReport{From: a.Account.Number, To: b.Account.Number, FromKit: kitNumber(a.Kit), ToKit: kitNumber(b.Kit), Media: []MediaReport{}}
	fail := func(err error) CallReport {
		c.Error = err.Error()
		return c
	}
	var setup time.Duration
	err := within(ctx, answerLimit, func(ctx context.Context) (err error) {
		setup, err = a.Call(ctx, b.Account.Number)
		return err
	})
	if err != nil {
		return fail(err)
	}
	c.Answered, c.SetupMS = true, ms(setup)
	if err := pause(ctx, l.opts.Talk); err != nil {
		return fail(err)
	}
	ma, mb, err := a.Hangup(ctx, b)
	if err != nil {
		return fail(err)
	}
	c.Media = append(c.Media, direction(b.Account.Number, ma.Sent, mb), direction(a.Account.Number, mb.Sent, ma))
	for _, m := range c.Media {
		if m.Received == 0 {
			err = errors.Join(err, fmt.Errorf("%s received nothing", m.To))
		} else if !m.ToneOK {
			err = errors.Join(err, fmt.Errorf("%s did not hear the other phone's tone", m.To))
		}
	}
	if err != nil {
		return fail(err)
	}
	return c
}

func direction(to string, sent uint64, at Media) MediaReport {
	return MediaReport{To: to, Sent: sent, Received: at.Received, Lost: at.Lost, JitterMS: at.JitterMS, ToneOK: at.ToneOK}
}

func (l *Lab) reportKits(ctx context.Context, r *Report) {
	for _, k := range l.Kits {
		s, err := k.Status(ctx)
		if err != nil {
			r.Problems = append(r.Problems, err.Error())
			continue
		}
		r.Kits = append(r.Kits, KitReport{
			NodeID: s.Kit.NodeID, Number: s.Kit.Number, JoinedMS: s.Kit.JoinedMS, RSSBytes: s.Kit.RSSBytes,
			Goroutines: s.Kit.Goroutines, LED: s.Board.State, LinkBytes: s.Kit.LinkBytes, UptimeS: s.Kit.UptimeS,
		})
		if len(s.Ring) > len(r.Ring) {
			r.Ring = s.Ring
		}
	}
}

func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
