package kit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fieldkit/board/clock"
	"fieldkit/board/sntp"
	"fieldkit/board/store"
	"fieldkit/firmware/card"
	"fieldkit/firmware/config"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
	"fieldkit/ui"
)

// keeper keeps the kit's clock. Its task owns the rules; what the others see is a picture.
type keeper struct {
	device  clockDevice // nil: the system keeps its clock, or nobody does
	told    chan told
	picture atomic.Pointer[clockPicture]
}

// clockDevice is the board's clock: the system's, and the chip that keeps it while the power is off.
type clockDevice interface {
	Now() time.Time
	Set(at time.Time) error        // at once
	Slow(lose time.Duration) error // until it has lost that much, without going back
	ReadChip() (time.Time, error)  // fs.ErrNotExist where there is none
	SetChip(at time.Time) error    // as ReadChip
	Receivers() []string           // serial devices that may be GPS receivers
	OpenReceiver(path string) (io.ReadCloser, error)
}

// systemClock is that of the machine.
type systemClock struct{}

func (systemClock) Now() time.Time                                  { return time.Now() }
func (systemClock) Set(at time.Time) error                          { return clock.Set(at) }
func (systemClock) Slow(lose time.Duration) error                   { return clock.Slow(lose) }
func (systemClock) ReadChip() (time.Time, error)                    { return clock.ReadChip() }
func (systemClock) SetChip(at time.Time) error                      { return clock.SetChip(at) }
func (systemClock) Receivers() []string                             { return clock.Receivers() }
func (systemClock) OpenReceiver(path string) (io.ReadCloser, error) { return clock.OpenReceiver(path) }

// told is a time that a source has, and how it was taken.
type told struct {
	source clock.Source
	at     time.Time
	heard  time.Duration // when, by the steady clock
	taken  chan<- error  // holds one; nil: nobody waits
}

// clockPicture is the clock as others see it. It is replaced whole.
type clockPicture struct {
	source       clock.Source
	synchronised bool
	ahead        time.Duration
	apart        int
	set          time.Time // when it was set last
}

const (
	clockSave    = 15 * time.Minute // at most that much of the certain time is lost with the power
	clockAsk     = 10 * time.Second // how often other kits are asked while there is something to agree on,
	clockAskIdle = 5 * time.Minute  // and afterwards
	clockPing    = 3 * time.Second
	clockAsked   = 16 // kits, of which a median says enough
	clockGlance  = 5 * time.Second
	clockWait    = 5 * time.Second
)

// now is the picture; before the task ran first nobody told the time.
func (c *keeper) now() clockPicture {
	if p := c.picture.Load(); p != nil {
		return *p
	}
	return clockPicture{source: clock.Nobody}
}

// synchronised tells whether the clock was set by somebody who knows the time.
func (c *keeper) synchronised() bool { return c.now().synchronised }

// tellTime is what other kits hear.
func (k *Kit) tellTime() (at time.Time, known bool) {
	if k.clock.device == nil {
		return time.Now(), k.clock.synchronised()
	}
	return k.clock.device.Now(), k.clock.synchronised()
}

// newClock makes the kit keep its board's clock, if the board is its own.
func (k *Kit) newClock() {
	k.clock.told = make(chan told)
	if k.boot != nil {
		k.clock.device = systemClock{}
	}
}

func (k *Kit) instant() clock.Instant {
	return clock.Instant{Wall: k.clock.device.Now().Round(0), Steady: time.Since(k.started)}
}

// keepClock owns the rules until ctx ends.
func (k *Kit) keepClock(ctx context.Context, ready func()) error {
	if k.clock.device == nil {
		return k.watchClock(ctx, ready)
	}
	certain, chip := k.certainTime()
	rules, unset := clock.New(k.instant(), certain, chip), !chip
	if certain.After(k.clock.device.Now()) {
		if err := k.clock.device.Set(certain); err != nil {
			return err
		}
	}
	ready()
	return both(ctx, k.watchReceivers, func(ctx context.Context) error {
		ask, save := time.NewTimer(clockPing), time.NewTicker(clockSave)
		defer ask.Stop()
		defer save.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case t := <-k.clock.told:
				now := k.instant()
				c, err := rules.Told(now, t.source, t.at.Add(now.Steady-t.heard))
				if err == nil {
					err = k.changeClock(c, rules.Source())
				}
				if t.taken != nil {
					t.taken <- err
				}
			case <-ask.C:
				claims := k.clockClaims(ctx)
				if err := k.changeClock(rules.Heard(k.instant(), claims), rules.Source()); err != nil {
					k.log.Warn("clock", "err", err)
				}
				if rules.Synchronised() && rules.Disagreeing() == 0 {
					ask.Reset(clockAskIdle)
				} else {
					ask.Reset(clockAsk)
				}
			case <-save.C:
				if err := k.saveClock(rules.Certain(k.instant())); err != nil {
					k.log.Warn("clock", "err", err)
				}
			}
			if unset && rules.Synchronised() {
				unset = false // one try: a board without a chip stays without
				k.setChip()
			}
			k.showClock(rules)
		}
	})
}

// watchClock is for a kit on a system that keeps its own clock: it only tells whether somebody does.
func (k *Kit) watchClock(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		p := &clockPicture{source: clock.Nobody}
		if clock.Kept() {
			p.source, p.synchronised = clock.System, true
		}
		k.clock.picture.Store(p)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// certainTime is the latest of the times that are certainly past: when the system was made, what was saved, what the
// board's clock chip says. chip is whether that one is to be believed: a chip whose battery was empty begins in a past
// that the others know to be over.
func (k *Kit) certainTime() (certain time.Time, chip bool) {
	certain = ident.ClockFloor
	if b, err := os.ReadFile(card.RuntimeRelease); err == nil {
		if r, err := card.ParseRelease(b); err == nil && r.Time.After(certain) {
			certain = r.Time
		}
	}
	if saved, err := k.savedClock(); err != nil {
		k.log.Warn("clock", "err", err)
	} else if saved.After(certain) {
		certain = saved
	}
	t, err := k.clock.device.ReadChip()
	if err != nil || t.Before(certain.Add(-clock.Apart)) || t.After(certain.AddDate(15, 0, 0)) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			k.log.Warn("clock", "err", err)
		}
		return certain, false
	}
	return t, true
}

func (k *Kit) savedClock() (time.Time, error) {
	b, err := k.store.Load(config.ClockItem)
	if errors.Is(err, store.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("saved time: %w", err)
	}
	t, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(b)))
	if err != nil {
		return time.Time{}, fmt.Errorf("saved time: %w", err)
	}
	return t.UTC(), nil
}

// saveClock has PID 1 begin at that time when the kit starts next.
func (k *Kit) saveClock(certain time.Time) error {
	if err := k.store.Save(config.ClockItem, []byte(certain.UTC().Format(time.RFC3339Nano))); err != nil {
		return fmt.Errorf("saved time: %w", err)
	}
	return nil
}

// setChip gives a clock chip that did not know the time what the kit knows now.
func (k *Kit) setChip() {
	if err := k.clock.device.SetChip(k.clock.device.Now()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.log.Warn("clock", "err", err)
	}
}

// changeClock does what the rules decided.
func (k *Kit) changeClock(c clock.Change, source clock.Source) error {
	if c.Lose > 0 {
		return k.clock.device.Slow(c.Lose)
	}
	if c.Set.IsZero() {
		return nil
	}
	by := c.Set.Sub(k.clock.device.Now())
	if err := k.clock.device.Set(c.Set); err != nil {
		return err
	}
	k.log.Info("clock set", "forward", by.Round(time.Millisecond), "source", source)
	return nil
}

// showClock makes the picture of the clock, and the health tree's entry.
func (k *Kit) showClock(r *clock.Rules) {
	before := k.clock.now()
	p := &clockPicture{source: r.Source(), synchronised: r.Synchronised(), ahead: r.Ahead(), apart: r.Disagreeing(), set: before.set}
	if p.synchronised && (!before.synchronised || p.source == clock.GPS || p.source != before.source) {
		p.set = k.clock.device.Now()
	}
	k.clock.picture.Store(p)
	switch {
	case p.ahead > 0:
		k.health.Warn("clock", fmt.Sprintf("ahead of the time by %v, and never lowered: restart the kit", p.ahead.Round(time.Second)))
	case p.apart > 0:
		k.health.Warn("clock", fmt.Sprintf("kits that know the time and have another one: %d", p.apart))
	default:
		k.health.OK("clock")
	}
}

// clockClaims asks the linked kits for their time (RFC 6940 §6.5.3). They are members of the mission, and sign what they say.
func (k *Kit) clockClaims(ctx context.Context) []clock.Claim {
	n := k.overlay.node.Load()
	if n == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, clockPing)
	defer cancel()
	s, err := n.Snapshot(ctx)
	if err != nil {
		return nil
	}
	var mu sync.Mutex
	var claims []clock.Claim
	var all sync.WaitGroup
	asked := map[wire.NodeID]bool{}
	for _, l := range s.Links {
		if !l.Attached || !l.Member || asked[l.Peer] || len(asked) == clockAsked {
			continue
		}
		asked[l.Peer] = true
		all.Go(func() {
			p, err := n.Ping(ctx, wire.ToNode(l.Peer))
			if err != nil {
				return // it is gone, or busy: the others say enough
			}
			// The answer was made half a round trip ago.
			c := clock.Claim{Offset: p.Time.Add(p.RTT / 2).Sub(k.clock.device.Now().Round(0)), Synchronised: p.Synchronised}
			mu.Lock()
			claims = append(claims, c)
			mu.Unlock()
		})
	}
	all.Wait()
	return claims
}

// watchReceivers reads GPS receivers as they are plugged in.
func (k *Kit) watchReceivers(ctx context.Context) error {
	var readers sync.WaitGroup
	defer readers.Wait()
	var mu sync.Mutex
	open := map[string]bool{}
	tick := time.NewTicker(clockGlance)
	defer tick.Stop()
	for {
		for _, path := range k.clock.device.Receivers() {
			mu.Lock()
			busy := open[path]
			open[path] = true
			mu.Unlock()
			if busy {
				continue
			}
			readers.Go(func() {
				if err := k.readReceiver(ctx, path); err != nil {
					k.log.Debug("GPS receiver", "device", path, "err", err) // it was unplugged, and is tried again
				}
				mu.Lock()
				delete(open, path)
				mu.Unlock()
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (k *Kit) readReceiver(ctx context.Context, path string) error {
	f, err := k.clock.device.OpenReceiver(path)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.Close() }) // which ends the reading
	defer stop()
	defer f.Close()
	return clock.ReadGPS(ctx, f, time.Now, func(t time.Time) {
		select {
		case k.clock.told <- told{source: clock.GPS, at: t, heard: time.Since(k.started)}:
		case <-ctx.Done():
		}
	})
}

// phoneClock takes the time of a phone that shows the status page.
func (k *Kit) phoneClock(ctx context.Context, from netip.Addr, at time.Time) error {
	if !k.cfg.Handset.Network.Contains(from.Unmap()) {
		return fmt.Errorf("%w: %v is no handset", clock.ErrRefused, from)
	}
	ctx, cancel := context.WithTimeout(ctx, clockWait)
	defer cancel()
	taken := make(chan error, 1)
	select {
	case k.clock.told <- told{source: clock.Phone, at: at, heard: time.Since(k.started), taken: taken}:
		return <-taken
	case <-ctx.Done():
		return ctx.Err()
	}
}

// clockStatus is the clock for the page.
func (k *Kit) clockStatus(s *ui.Status) {
	now, _ := k.tellTime()
	p := k.clock.now()
	s.Clock = ui.Clock{
		Time: now.UTC().Format(time.RFC3339), Synchronised: p.synchronised, Source: string(p.source), AheadS: seconds(p.ahead), Disagreeing: p.apart,
	}
}

// timeStatus is the clock for handsets that ask.
func (k *Kit) timeStatus() sntp.Status {
	p := k.clock.now()
	s := sntp.Status{Synchronised: p.synchronised, Stratum: 2, Set: p.set, Dispersion: time.Second}
	if p.source == clock.GPS {
		s.Stratum = 1
		copy(s.Reference[:], "GPS")
	}
	return s
}
