// Package board is what people see and touch of a kit: a few LEDs and a button.
// What the LEDs say is a pure function of Inputs; a Board turns it into light
// on GPIO pins, on an LED of the board itself, or in memory where there are
// none (a simulated board, for the lab, tests and ordinary computers).
//
// It does not know what a kit or a handset is: the caller fills Inputs and
// calls Update when they change, and at least once in StaleAfter, since a Board
// that hears nothing shows a fault. Run owns the LEDs; Update, Snapshot and
// Press may be called from any goroutine and do not block.
package board

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Times of a Board where Config leaves them zero, and of the button.
const (
	DefaultStaleAfter = 30 * time.Second
	pageTime          = 2 * period // how long a page is counted out
	waitForEdge       = 500 * time.Millisecond
	edgePause         = 5 * time.Millisecond   // after an edge: a disturbed line must not keep a processor busy
	lampRetry         = 250 * time.Millisecond // for an LED that could not be set
	lampPatience      = 10 * time.Second       // how long that is tried after the start
)

// Lamp is one LED.
type Lamp interface {
	Set(on bool) error
}

// Button is the button of the box.
type Button interface {
	// Wait returns true when the button moved, false after the timeout, which
	// is finite and positive.
	Wait(timeout time.Duration) bool
	Pressed() bool
}

// Hardware is what a Board works with. LEDs that are not fitted are nil.
type Hardware struct {
	Name   string // for the log and the status page
	Lamps  [ledCount]Lamp
	Button Button // nil if not fitted
}

// Config of a Board.
type Config struct {
	StaleAfter time.Duration // without Update the LEDs show a fault
	// OnPress is told each press from the button's goroutine; it must not block.
	OnPress func(Press)
	Log     *slog.Logger
}

// Snapshot is what a Board shows.
type Snapshot struct {
	Board   string             `json:"board"` // name of the hardware
	State   State              `json:"state"`
	Text    string             `json:"text"`
	Page    Page               `json:"page,omitempty"` // counted out after a press
	LEDs    map[string]Pattern `json:"leds"`           // of the fitted LEDs
	Lit     map[string]bool    `json:"lit"`            // of the fitted LEDs, now
	Presses uint64             `json:"presses"`
	Errors  uint64             `json:"errors"` // LEDs that could not be set
}

// Board shows Inputs. Make it with New or Open.
type Board struct {
	hw     Hardware
	cfg    Config
	inputs chan Inputs // holds the newest
	press  chan struct{}
	held   atomic.Int32  // Held
	holds  chan struct{} // held changed; holds one
	snap   atomic.Pointer[Snapshot]

	presses   atomic.Uint64
	ready     chan struct{}
	readyOnce sync.Once
}

// New makes a Board of some hardware. All LEDs are dark until Run.
func New(hw Hardware, cfg Config) *Board {
	if cfg.StaleAfter <= 0 {
		cfg.StaleAfter = DefaultStaleAfter
	}
	if cfg.OnPress == nil {
		cfg.OnPress = func(Press) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	b := &Board{
		hw: hw, cfg: cfg, inputs: make(chan Inputs, 1), press: make(chan struct{}, 1),
		holds: make(chan struct{}, 1), ready: make(chan struct{}),
	}
	b.snap.Store(&Snapshot{Board: hw.Name, LEDs: map[string]Pattern{}, Lit: map[string]bool{}})
	return b
}

// Update sets what is shown. The newest Inputs win.
func (b *Board) Update(in Inputs) {
	for {
		select {
		case b.inputs <- in:
			return
		default:
		}
		select {
		case <-b.inputs: // older ones
		default:
		}
	}
}

// Press does what a short press of the button does.
func (b *Board) Press() {
	b.presses.Add(1)
	select {
	case b.press <- struct{}{}:
	default: // one waits already
	}
	b.cfg.OnPress(Short)
}

// Snapshot returns what is shown. The caller must not change what it points to.
func (b *Board) Snapshot() Snapshot {
	s := *b.snap.Load()
	s.Presses = b.presses.Load()
	return s
}

// Ready returns a channel that is closed once the LEDs show something.
func (b *Board) Ready() <-chan struct{} { return b.ready }

func (b *Board) String() string { return "board" }

// Run shows Inputs until ctx ends; then all LEDs go dark. LEDs that cannot be
// set are logged once and counted; Run goes on with the others.
func (b *Board) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	if b.hw.Button != nil {
		wg.Go(func() { b.watchButton(ctx) })
	}
	f := &face{b: b, began: time.Now()}
	defer f.dark()
	updated := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f.in = <-b.inputs:
			updated = time.Now()
		case <-b.press:
			f.nextPage(time.Now())
		case <-b.holds:
		case <-timer.C:
		}
		now := time.Now()
		f.turn(now, Held(b.held.Load()))
		stale := now.Sub(updated) >= b.cfg.StaleAfter
		f.in.StatusStale = stale
		f.show(now)
		b.readyOnce.Do(func() { close(b.ready) })
		wait := f.next(now)
		if !stale {
			wait = min(wait, b.cfg.StaleAfter-now.Sub(updated))
		}
		timer.Reset(wait)
	}
}

// face is what Run owns: the inputs and what is lit.
type face struct {
	b       *Board
	began   time.Time
	in      Inputs
	page    Page
	pageEnd time.Time
	pageAt  time.Time
	held    Held
	heldAt  time.Time
	pairing Pairing
	pairAt  time.Time
	lights  Lights
	lit     [ledCount]bool
	set     bool // lit says what the LEDs do
	failed  [ledCount]bool
	errors  uint64
	epoch   time.Time // since when the patterns run
}

// nextPage turns to the page after the one shown.
func (f *face) nextPage(now time.Time) {
	if f.page++; f.page == pageCount {
		f.page = None
	}
	f.pageAt, f.pageEnd = now, now.Add(pageTime)
}

// show lights the LEDs as they have to be at now.
func (f *face) show(now time.Time) {
	if f.page != None && !now.Before(f.pageEnd) {
		f.page = None
	}
	f.choose()
	for l := range ledCount {
		on := f.lights[l].Level(now.Sub(f.epoch))
		if !f.set || on != f.lit[l] || f.failed[l] && now.Sub(f.began) < lampPatience {
			f.light(l, on)
		}
	}
	f.set = true
	f.publish()
}

// turn notes since when the button is held as far, and since when the pairing is where it is: what they show begins then.
func (f *face) turn(now time.Time, held Held) {
	if held != f.held {
		f.held, f.heldAt = held, now
	}
	if f.in.Pairing != f.pairing {
		f.pairing, f.pairAt = f.in.Pairing, now
	}
	if f.held != NotHeld || f.pairing.Stage != NotPairing {
		f.page = None
	}
}

// choose picks what is shown: who holds the button is answered first, then who pairs, then who counts.
func (f *face) choose() {
	if l, ok := f.held.lights(); ok {
		f.lights, f.epoch = l, f.heldAt
		return
	}
	if l, ok := f.in.pairingLights(); ok {
		f.lights, f.epoch = l, f.pairAt
		return
	}
	f.lights, f.epoch = f.in.PageLights(f.page), f.began
	if f.page != None {
		f.epoch = f.pageAt // counting begins with the press
	}
}

func (f *face) light(l LED, on bool) {
	f.lit[l] = on
	lamp := f.b.hw.Lamps[l]
	if lamp == nil {
		return
	}
	err := lamp.Set(on)
	if err != nil {
		f.errors++
		if !f.failed[l] {
			f.b.cfg.Log.Warn("LED not set", "led", l.String(), "err", err)
		}
	}
	f.failed[l] = err != nil
}

// next is how long the LEDs stay as they are.
func (f *face) next(now time.Time) time.Duration {
	wait := time.Minute
	since := now.Sub(f.epoch)
	for _, p := range f.lights {
		if at, ok := p.Next(since); ok {
			wait = min(wait, at-since)
		}
	}
	if f.page != None {
		wait = min(wait, f.pageEnd.Sub(now))
	}
	if f.failed != [ledCount]bool{} && now.Sub(f.began) < lampPatience {
		wait = min(wait, lampRetry)
	}
	return max(wait, time.Millisecond)
}

func (f *face) publish() {
	text := f.in.String()
	if f.held != NotHeld {
		text = f.held.String()
	}
	s := &Snapshot{
		Board: f.b.hw.Name, State: f.in.State(), Text: text, Page: f.page,
		LEDs: map[string]Pattern{}, Lit: map[string]bool{}, Errors: f.errors,
	}
	for l := range ledCount {
		if f.b.hw.Lamps[l] != nil {
			s.LEDs[l.String()] = f.lights[l]
			s.Lit[l.String()] = f.lit[l]
		}
	}
	f.b.snap.Store(s)
}

func (f *face) dark() {
	for l := range ledCount {
		f.light(l, false)
	}
	f.publish()
}

// watchButton waits for edges with a finite timeout: with an infinite one some
// drivers return at once and others never. It looks at the line whether there
// was an edge or not, as the kernel drops edges that nobody fetched.
func (b *Board) watchButton(ctx context.Context) {
	defer b.setHeld(NotHeld)
	var p press
	for ctx.Err() == nil {
		now := time.Now()
		what, held, again := p.step(now, b.hw.Button.Pressed())
		b.setHeld(held)
		switch what {
		case 0:
		case Short:
			b.Press()
		default:
			b.presses.Add(1)
			b.cfg.OnPress(what)
		}
		wait := waitForEdge
		if !again.IsZero() {
			wait = min(wait, max(again.Sub(now), time.Millisecond))
		}
		if b.hw.Button.Wait(wait) {
			pause(ctx, edgePause)
		} else if early := wait - time.Since(now); early > 0 {
			pause(ctx, early) // a line that failed: do not spin on it
		}
	}
}

func (b *Board) setHeld(h Held) {
	if b.held.Swap(int32(h)) != int32(h) {
		select {
		case b.holds <- struct{}{}:
		default: // Run looks anyway
		}
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
