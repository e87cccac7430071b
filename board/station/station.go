// Package station links a kit to another one by radio where no cable does: it scans for access points of kits of the
// same mission, chooses one that the overlay does not reach, and joins it as a station, with wpa_supplicant as a child
// process. The radio is a spare one, or has the second role of the one that makes the handsets' access point, which
// then has to be on the other kit's channel.
//
// What is heard is a claim: an access point that says it is a kit's and knows the passphrase, which each handset knows,
// gets an association and no more; if the overlay does not count that kit in soon, it is left again. The package gives
// the interface no address, knows nothing of the overlay's protocol, and judges nobody's certificate.
//
// Run owns a Station; Snapshot may be called from any goroutine.
package station

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// DefaultSupplicant is where the image has the program.
const DefaultSupplicant = "/sbin/wpa_supplicant"

// DefaultDir is for its configuration and control socket.
const DefaultDir = "/run/fieldkit/station"

// OwnInterface is the interface of the second role of a radio.
const OwnInterface = "station0"

// Radio is what a station may use.
type Radio struct {
	Interface string // of a spare radio; OwnInterface where Shared
	PHY       int    // the kernel's number of it
	Shared    bool   // it makes the handsets' access point, too
	Frequency int    // of that, MHz; 0: not on the air
	// OtherChannel: the station may be on another channel than that access point.
	OtherChannel bool
}

// Credentials let a station in.
type Credentials struct {
	SSID       string
	Passphrase string // 8 to 63 printable ASCII characters
}

// Config of a Station. All functions are called from Run's goroutine; none is nil.
type Config struct {
	Supplicant string // "" is DefaultSupplicant
	Dir        string // "" is DefaultDir; its owner is the Station
	// Radio says which radio to use now; ok is false where there is none.
	Radio func() (r Radio, ok bool)
	// Scan listens for access points of this mission's kits with an interface that is there; an empty list is of no
	// less value than a full one.
	Scan        func(ctx context.Context, iface string) ([]Heard, error)
	Credentials func() Credentials
	World       func() World
	// Follow has the access point of a shared radio go to a frequency (MHz), or stay where it likes: 0.
	Follow func(frequency int)
	// Changed is told when the interface came or went.
	Changed func()
	Log     *slog.Logger // nil discards
}

// State is how far a Station is.
type State string

// States of a Station.
const (
	NoRadio State = "no radio"
	Looking State = "looking" // for a kit that no other link reaches
	Joining State = "joining"
	Linked  State = "linked" // associated
)

// Status is how a Station is.
type Status struct {
	State     State
	Interface string
	Shared    bool
	Heard     int    // access points of kits, in the last scan
	Node      string // Node-ID of the kit that is joined, or is being joined
	BSSID     string
	Frequency int    // MHz
	Signal    int    // dBm, when it was chosen
	Err       string // what went wrong last, "" nothing. With NoRadio: why the one that is there is none for this
	Stats     Stats
}

// Stats counts since the start.
type Stats struct {
	Scans    uint64
	Failures uint64 // of scans, and of wpa_supplicant
	Joins    uint64 // begun
	Leaves   uint64 // ends of joins, for whatever reason
}

// Station links a kit by radio. Make it with New.
type Station struct {
	cfg    Config
	status atomic.Pointer[Status]
}

// New makes a Station; Run does the work.
func New(cfg Config) *Station {
	if cfg.Supplicant == "" {
		cfg.Supplicant = DefaultSupplicant
	}
	if cfg.Dir == "" {
		cfg.Dir = DefaultDir
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Station{cfg: cfg}
	s.status.Store(&Status{State: NoRadio})
	return s
}

// Snapshot is how it is now.
func (s *Station) Snapshot() Status { return *s.status.Load() }

const (
	stepEvery   = time.Second
	scanTimeout = 10 * time.Second
	retryEvery  = time.Minute // with a radio that could not be used
	// followWithin is how long the access point of a shared radio may take to be on the other kit's channel.
	followWithin = 20 * time.Second
)

// Run links by radio until ctx ends. What fails is tried again; there is no other error than that of ctx.
func (s *Station) Run(ctx context.Context) error {
	r := &runner{s: s, cfg: s.cfg, choice: newChooser()}
	defer r.end()
	tick := time.NewTicker(stepEvery)
	defer tick.Stop()
	for {
		r.step(ctx)
		r.publish()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// runner is the state that Run owns.
type runner struct {
	s      *Station
	cfg    Config
	choice *chooser
	radio  Radio
	known  bool      // Config.Radio named one
	there  bool      // it is in use, with its interface
	made   bool      // the interface was made here
	again  time.Time // a radio that could not be used is not tried before
	heard  []Heard
	scan   bool // a scan was asked for

	target    *Heard
	following time.Time   // since when the access point is asked to move; zero: it need not, or has
	join      *supplicant // nil: not running
	linked    bool
	err       error
	stats     Stats
}

// step is one turn.
func (r *runner) step(ctx context.Context) {
	if !r.prepare() {
		return
	}
	in := input{World: r.cfg.World(), chance: rand.Float64()}
	in.Shared = r.radio.Shared
	if r.scan {
		r.scan = false
		heard, err := r.look(ctx)
		if ctx.Err() != nil {
			return
		}
		if in.scanned = err == nil; in.scanned {
			r.heard, in.heard, r.err = heard, heard, nil
		} else {
			r.failed(err)
		}
	}
	r.linked, in.ended = r.follow(ctx)
	in.linked = r.linked
	out := r.choice.step(time.Now(), in)
	switch {
	case out.leave:
		r.cfg.Log.Info("left the access point of a kit", "node", r.target.Node, "bssid", r.target.BSSID, "why", out.why)
		r.leave()
	case out.join != nil:
		r.cfg.Log.Info("joining the access point of a kit", "node", out.join.Node, "bssid", out.join.BSSID, "signal", out.join.Signal)
		r.stats.Joins++
		r.target, r.following = out.join, time.Now()
		if r.radio.Shared && !r.radio.OtherChannel {
			r.cfg.Follow(out.join.Frequency)
		}
	}
	r.scan = out.scan
}

// prepare sees that there is a radio with an interface; another one than before ends what ran on it.
func (r *runner) prepare() bool {
	now, ok := r.cfg.Radio()
	same := ok == r.known && now.Interface == r.radio.Interface && now.PHY == r.radio.PHY && now.Shared == r.radio.Shared
	r.known = ok
	if !same {
		r.end()
		r.again = time.Time{}
	}
	r.radio = now
	if !ok {
		return false
	}
	if r.there {
		return true
	}
	if now.Shared && now.Frequency == 0 {
		return false // the access point comes first: it makes the radio what it is
	}
	if time.Now().Before(r.again) {
		return false
	}
	if now.Shared {
		if err := addInterface(now.PHY, now.Interface); err != nil {
			r.failed(fmt.Errorf("radio carries no station beside its access point: %w", err))
			r.again = time.Now().Add(retryEvery)
			return false
		}
		r.made = true
	}
	if err := setUp(now.Interface, now.Shared); err != nil {
		r.failed(err)
		r.end()
		r.again = time.Now().Add(retryEvery)
		return false
	}
	r.there, r.err = true, nil
	r.cfg.Log.Info("radio for a link to other kits", "interface", now.Interface, "shared", now.Shared)
	r.cfg.Changed()
	return true
}

// look scans.
func (r *runner) look(ctx context.Context) ([]Heard, error) {
	ctx, cancel := context.WithTimeout(ctx, scanTimeout)
	defer cancel()
	r.stats.Scans++
	heard, err := r.cfg.Scan(ctx, r.radio.Interface)
	if err != nil {
		return nil, fmt.Errorf("scan: %w", err)
	}
	return heard, nil
}

// follow brings the join forward: the access point of a shared radio moves first, then wpa_supplicant runs. ended says
// that it came to nothing.
func (r *runner) follow(ctx context.Context) (linked, ended bool) {
	if r.target == nil {
		return false, false
	}
	if r.join == nil {
		switch {
		case !r.radio.Shared || r.radio.OtherChannel || r.radio.Frequency == r.target.Frequency:
		case time.Since(r.following) > followWithin:
			r.failed(fmt.Errorf("access point did not move to %d MHz", r.target.Frequency))
			return false, true
		default:
			return false, false
		}
		j, err := start(r.cfg, r.radio.Interface, *r.target)
		if err != nil {
			r.failed(err)
			return false, true
		}
		r.join = j
		return false, false
	}
	linked, err := r.join.status(ctx)
	if err != nil && ctx.Err() == nil {
		r.failed(err)
		return false, errors.Is(err, errEnded)
	}
	return linked, false
}

func (r *runner) leave() {
	r.stats.Leaves++
	if r.join != nil {
		r.join.stop()
	}
	if r.radio.Shared {
		r.cfg.Follow(0)
	}
	r.join, r.target, r.linked = nil, nil, false
}

// end gives the radio back.
func (r *runner) end() {
	if r.target != nil {
		r.leave()
	}
	if r.made {
		if err := removeInterface(r.radio.Interface); err != nil {
			r.cfg.Log.Debug("interface not removed", "interface", r.radio.Interface, "err", err)
		}
		r.made = false
	}
	if r.there {
		r.there = false
		r.cfg.Changed()
	}
	r.choice, r.heard, r.scan = newChooser(), nil, false
}

func (r *runner) failed(err error) {
	if r.err == nil || r.err.Error() != err.Error() {
		r.cfg.Log.Warn("link by radio", "err", err)
	}
	r.err = err
	r.stats.Failures++
}

func (r *runner) publish() {
	st := Status{State: NoRadio, Stats: r.stats, Heard: len(r.heard)}
	if r.err != nil {
		st.Err = r.err.Error()
	}
	if r.there {
		st.State, st.Interface, st.Shared = Looking, r.radio.Interface, r.radio.Shared
	}
	if t := r.target; t != nil {
		st.State, st.Node, st.BSSID, st.Frequency, st.Signal = Joining, t.Node, t.BSSID, t.Frequency, t.Signal
		if r.linked {
			st.State = Linked
		}
	}
	r.s.status.Store(&st)
}
