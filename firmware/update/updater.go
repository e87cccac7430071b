package update

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"fieldkit/board/store"
	"fieldkit/firmware/boot/initlink"
	"fieldkit/firmware/card"
)

// RecordItem is where the Record is kept, and recordMax its bound in bytes.
const (
	RecordItem = "update.json"
	askTimeout = 30 * time.Second // for the loop to answer, which may be writing to the card
	signAfter  = 60               // looks at the kit: to read the slot would slow its start down
)

// Disk is the card while an update has it open.
type Disk interface {
	card.Disk
	io.Closer
}

// Items is where the kit keeps its state; *store.Store is one.
type Items interface {
	Load(name string) ([]byte, error)
	Save(name string, data []byte) error
}

// Init is PID 1; *initlink.Link is one.
type Init interface {
	Reboot(initlink.Kind) error
	Committed() error
}

// Config is what an Updater is made of. All but Crash, Sign and what has a default are required.
type Config struct {
	System System
	ID     string        // Node-ID of the kit
	Trial  bool          // this boot tries a slot once
	Limit  time.Duration // see Start
	Crash  string        // see Start

	Open   func() (Disk, error) // the card; called when there is something to read or write
	Items  Items
	Init   Init
	Verify func(blob, signature []byte) error // whether the mission signed blob; an error says why not
	// Sign makes the mission's signature while this kit still has the root key; mission.ErrNoRootKey or the like after.
	// nil: it never had it. A kit that was flashed signs for what it was flashed with, so that it can offer that.
	Sign  func(blob []byte) ([]byte, error)
	World func(context.Context) World // how the kit is; asked once a second, and may take as long
	Delay func() time.Duration        // before a bundle that a neighbour brought is tried; random

	Log  *slog.Logger     // nil discards
	Now  func() time.Time // nil: time.Now
	Tick time.Duration    // between two looks at World; 0: a second
}

// Updater runs the updates of one kit. Run owns its Machine; the other methods may be called from any goroutine.
type Updater struct {
	cfg  Config
	ask  chan func(now time.Time)
	m    *Machine
	view atomic.Pointer[View]

	received, total     atomic.Int64                       // bytes of the slot that is being written
	stop                atomic.Pointer[context.CancelFunc] // ends the transfer from a neighbour that is under way
	todo                []Action                           // of the beginning
	refused, accepted   atomic.Uint64
	sent, sendsRefused  atomic.Uint64
	fetched, fetchFails atomic.Uint64
}

// Stats counts what an Updater did.
type Stats struct {
	Received    uint64 // bundles written whole
	Refused     uint64 // bundles refused or cut short
	Sent        uint64 // bundles handed to neighbours
	SendRefused uint64 // because another one was being handed out
	Fetched     uint64 // bundles taken from neighbours
	FetchFailed uint64 // bundles of neighbours that did not arrive whole, or were refused
}

// New makes an Updater and reads what was kept. The error is one that no restart cures.
func New(cfg Config) (*Updater, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Tick == 0 {
		cfg.Tick = time.Second
	}
	var rec Record
	switch b, err := cfg.Items.Load(RecordItem); {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		// The system that runs is the least that is taken, whatever was noted.
		cfg.Log.Warn("note of updates lost", "err", err)
	default:
		if err := json.Unmarshal(b, &rec); err != nil {
			cfg.Log.Warn("note of updates lost", "err", err)
			rec = Record{}
		}
	}
	now := cfg.Now()
	u := &Updater{cfg: cfg, ask: make(chan func(time.Time))}
	u.m, u.todo = NewMachine(now, Start{System: cfg.System, ID: cfg.ID, Trial: cfg.Trial, Limit: cfg.Limit, Record: rec, Crash: cfg.Crash})
	u.publish(now)
	return u, nil
}

// View is how the update is. A nil Updater, of a kit without a card, has the zero View.
func (u *Updater) View() View {
	if u == nil {
		return View{}
	}
	return *u.view.Load()
}

// Progress is how much of the slot has been written, in bytes, and of how many; both 0 when nothing is received.
func (u *Updater) Progress() (done, total int64) {
	if u == nil {
		return 0, 0
	}
	return u.received.Load(), u.total.Load()
}

// Stats is a snapshot of the counters.
func (u *Updater) Stats() Stats {
	return Stats{
		Received: u.accepted.Load(), Refused: u.refused.Load(), Sent: u.sent.Load(), SendRefused: u.sendsRefused.Load(),
		Fetched: u.fetched.Load(), FetchFailed: u.fetchFails.Load(),
	}
}

// Run goes on with updates until ctx ends. It may be run again after it returned.
func (u *Updater) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	side := make(chan struct{})
	go func() {
		defer close(side)
		u.look(ctx)
	}()
	defer func() { <-side }()
	defer cancel()
	now := u.cfg.Now()
	u.do(now, u.todo)
	u.todo = nil
	for {
		u.publish(now)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-u.ask:
			now = u.cfg.Now()
			f(now)
		}
	}
}

// look tells the loop how the kit is. It is a goroutine of its own, since to find that out takes time.
func (u *Updater) look(ctx context.Context) {
	tick := time.NewTicker(u.cfg.Tick)
	defer tick.Stop()
	for looks := 0; ; looks++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if looks == signAfter {
			u.signOwn(ctx)
		}
		if v := u.View(); v.Check && v.Manifest != nil {
			err := u.withDisk(func(d Disk) error { return checkSlot(ctx, d, v.System.Slot.Other(), *v.Manifest) })
			u.step(ctx, func(now time.Time) []Action { return u.m.Checked(now, err) })
		}
		w := u.cfg.World(ctx)
		u.step(ctx, func(now time.Time) []Action { return u.m.Tick(now, w) })
	}
}

// step has the loop do something with the Machine, and what follows from that.
func (u *Updater) step(ctx context.Context, f func(now time.Time) []Action) {
	done := make(chan struct{})
	select {
	case u.ask <- func(now time.Time) {
		defer close(done)
		u.do(now, f(now))
		u.publish(now)
	}:
		<-done
	case <-ctx.Done():
	}
}

// publish shows how the Machine is. The loop calls it.
func (u *Updater) publish(now time.Time) {
	v := u.m.View(now)
	u.view.Store(&v)
}

// do does actions in their order, and those that follow from how they went. The loop calls it.
func (u *Updater) do(now time.Time, actions []Action) {
	for len(actions) > 0 {
		a := actions[0]
		actions = actions[1:]
		if err := u.one(a); err != nil {
			u.cfg.Log.Error("update", "action", a.String(), "err", err)
			actions = u.m.Failed(now, a, err)
			continue
		}
		if a == Commit {
			actions = append(u.m.Committed(now), actions...)
		}
	}
}

func (u *Updater) one(a Action) error {
	v := u.m.View(u.cfg.Now())
	switch a {
	case Keep:
		b, err := json.Marshal(u.m.Record())
		if err != nil {
			return err
		}
		return u.cfg.Items.Save(RecordItem, b)
	case TryBoot:
		u.cfg.Log.Info("update: restarting into the new system", "version", v.Manifest.Release.Version)
		return u.cfg.Init.Reboot(initlink.TryBoot)
	case Commit:
		return u.withDisk(func(d Disk) error { return card.Commit(d, v.System.Slot) })
	case Confirm:
		u.cfg.Log.Info("update: committed", "version", v.System.Release.Version, "slot", v.System.Slot.String())
		return u.cfg.Init.Committed()
	case GiveUp:
		u.cfg.Log.Error("update: going back to the old system", "why", v.Why)
		return u.cfg.Init.Reboot(initlink.Normal)
	}
	return fmt.Errorf("action %d", int(a))
}

func (u *Updater) withDisk(f func(Disk) error) error {
	d, err := u.cfg.Open()
	if err != nil {
		return fmt.Errorf("card: %w", err)
	}
	return errors.Join(f(d), d.Close())
}

// Receive takes a bundle that a person brought from r: it reads the header, and nothing more unless this kit wants that
// bundle and its mission signed it, then writes the slot. It returns the manifest, as far as there was one. r must end
// with ctx.
func (u *Updater) Receive(ctx context.Context, r io.Reader) (card.Manifest, error) {
	return u.take(ctx, r, nil)
}

// take is Receive, where stop is nil. Otherwise the bundle is a neighbour's, and stop ends ctx and with it r: it is called
// when a person brings another one meanwhile.
func (u *Updater) take(ctx context.Context, r io.Reader, stop context.CancelFunc) (card.Manifest, error) {
	if u == nil {
		return card.Manifest{}, ErrNoCard
	}
	m, err := u.receive(ctx, r, stop)
	if err != nil {
		u.refused.Add(1)
		u.cfg.Log.Warn("update refused", "version", m.Release.Version, "err", err)
		return m, err
	}
	u.accepted.Add(1)
	u.cfg.Log.Info("update written", "version", m.Release.Version, "sequence", m.Release.Sequence)
	return m, nil
}

func (u *Updater) receive(ctx context.Context, r io.Reader, stop context.CancelFunc) (card.Manifest, error) {
	h, header, err := u.readHeader(r)
	if err != nil {
		return card.Manifest{}, err
	}
	byPerson := stop == nil
	if byPerson {
		if err := u.interrupt(ctx, h.Manifest); err != nil {
			return h.Manifest, err
		}
	}
	if err := u.begin(ctx, h, header, byPerson); err != nil {
		return h.Manifest, err
	}
	if !byPerson {
		u.stop.Store(&stop)
		defer u.stop.Store(nil)
	}
	u.received.Store(0)
	u.total.Store(h.Manifest.Size)
	err = u.withDisk(func(d Disk) error {
		return writeSlot(ctx, d, u.cfg.System.Slot.Other(), h.Manifest, r, func(n int) { u.received.Add(int64(n)) })
	})
	u.total.Store(0)
	u.received.Store(0)
	delay := time.Duration(0)
	if !byPerson {
		delay = u.cfg.Delay()
	}
	var state State
	// The loop hears of it even when whoever sent the bundle is gone; without a loop, a restart finds nothing noted.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	u.step(end, func(now time.Time) []Action { return u.m.Received(now, err, delay) })
	if v := u.View(); err == nil {
		if state = v.State; state == Refused {
			err = errors.New(v.Why) // it could not be noted
		}
	}
	return h.Manifest, errors.Join(err, end.Err())
}

// interrupt ends a transfer from a neighbour for a bundle that is wanted: it can be repeated, and somebody is waiting. For
// one that is not, which anybody may have kept from an earlier update, it is left alone.
func (u *Updater) interrupt(ctx context.Context, f card.Manifest) error {
	stop := u.stop.Load()
	if stop == nil {
		return nil
	}
	var err error
	u.step(ctx, func(time.Time) []Action {
		err = u.m.wants(f, true)
		return nil
	})
	if err != nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	(*stop)()
	for wait := time.Now().Add(askTimeout); u.View().State == Receiving && time.Now().Before(wait) && ctx.Err() == nil; {
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// readHeader reads and believes, or not, what comes before the slot.
func (u *Updater) readHeader(r io.Reader) (h card.Header, raw []byte, err error) {
	var seen bytes.Buffer
	h, err = card.ReadHeader(io.TeeReader(r, &seen))
	if errors.Is(err, card.ErrInvalid) {
		return h, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err != nil {
		return h, nil, fmt.Errorf("header of the update: %w", err)
	}
	if err := u.cfg.Verify(card.Signed(h.Raw), h.Signature); err != nil {
		return h, nil, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	return h, seen.Bytes(), nil
}

func (u *Updater) begin(ctx context.Context, h card.Header, header []byte, byPerson bool) (err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err = errors.New("the update's part of the kit is not running")
	u.step(ctx, func(now time.Time) []Action {
		var a []Action
		a, err = u.m.Accept(now, h, header, byPerson)
		return a
	})
	if v := u.View(); err == nil && v.State != Receiving {
		return errors.New(v.Why) // what it replaces could not be struck out
	}
	return err
}

// signOwn has a kit that still has the root key sign for what it was flashed with.
func (u *Updater) signOwn(ctx context.Context) {
	v := u.View()
	if u.cfg.Sign == nil || v.Trial || v.Header != nil {
		return
	}
	var header []byte
	err := u.withDisk(func(d Disk) error {
		// No key, no need to read the slot.
		if _, err := u.cfg.Sign(card.Signed(nil)); err != nil {
			return err
		}
		m, err := card.ManifestOf(d, v.System.Slot)
		if err != nil {
			return err
		}
		header, err = Sign(m, u.cfg.Sign)
		return err
	})
	if err != nil {
		u.cfg.Log.Debug("this kit offers its system to nobody until it is updated", "err", err)
		return
	}
	u.step(ctx, func(time.Time) []Action { return u.m.Signed(header) })
}

// Offer is what this kit has for others: the signed header and the manifest of the slot that it runs and that is
// committed. ok is false where there is none.
func (u *Updater) Offer() (header []byte, m card.Manifest, ok bool) {
	v := u.View()
	if v.Header == nil {
		return nil, card.Manifest{}, false
	}
	h, err := card.ReadHeader(bytes.NewReader(v.Header))
	return v.Header, h.Manifest, err == nil
}

// Send writes the bundle of Offer to w, read from the card as it goes.
func (u *Updater) Send(ctx context.Context, w io.Writer) error {
	header, m, ok := u.Offer()
	if !ok {
		return ErrNoCard
	}
	return u.withDisk(func(d Disk) error {
		return WriteBundle(ctx, w, header, d, u.cfg.System.Slot, m.Size)
	})
}
