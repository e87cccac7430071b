// Package access makes the handsets' network: an access point on one of the board's radios, and the bridge that it and
// any wired handset port are part of, which has the kit's address. What the radio can do becomes a Plan, the plan a
// configuration of hostapd, and hostapd runs as a child process that is watched and ended with its context.
//
// It hands out no addresses, answers no names and filters no packets, and knows neither missions nor kits: the caller
// gives it names, passphrase and the element that goes into the beacons. Pure parts (Radio, MakePlan, ChooseChannel,
// Plan.Hostapd, Element, the parsers of what hostapd says) may be used anywhere. An AP is run by the goroutine that
// calls Run; Set, Follow and Snapshot may be called from any other.
package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

// Times and places where Config leaves them out.
const (
	DefaultHostapd = "/usr/sbin/hostapd"
	DefaultDir     = "/run/fieldkit/access"
)

// patience is how long an AP waits for what.
type patience struct {
	look   time.Duration // between two looks at hostapd, or for a radio
	start  time.Duration // from hostapd's start until the access point is on the air
	move   time.Duration // to another channel
	scan   time.Duration
	silent int // questions without an answer, after which hostapd is taken for dead
}

var defaultPatience = patience{look: 2 * time.Second, start: 15 * time.Second, move: 5 * time.Second, scan: 3 * time.Second, silent: 3}

// System is what an AP asks of the machine: Linux, or a simulated one.
type System interface {
	// Radios lists the Wi-Fi devices; none is no error.
	Radios() ([]Radio, error)
	// Scan listens on some frequencies (MHz) and returns the access points that are there.
	Scan(ctx context.Context, iface string, frequencies []int) ([]Heard, error)
	// SetCountry tells the kernel whose rules hold. An error says that they do not hold.
	SetCountry(ctx context.Context, code string) error
	// SwitchOn lets a radio send that a program switched off.
	SwitchOn(phy int) error
	// MakeBridge makes the bridge if it is not there, with the address and none else.
	MakeBridge(name string, address netip.Prefix) error
	// AddPort makes an interface a port of the bridge that reaches no other port, and takes it its own addresses. An
	// interface that is not there is an error of fs.ErrNotExist.
	AddPort(bridge, iface string) error
}

// Settings are what the operator and the mission want.
type Settings struct {
	SSID        string // the network of all kits
	OwnSSID     string // of this kit alone, see OwnSSID; "" none
	Passphrase  string
	Country     string   // ISO 3166-1 code; "" unknown
	Interface   string   // of the radio; "" chooses
	Channel     int      // 0 chooses
	MaxHandsets int      // fewer than the radio serves; 0 as many
	Wired       []string // further ports of the handsets' network
	Element     []byte   // for the beacons, encoded; nil none
	Seed        uint32   // see Wish
}

// Config of an AP. Address is required.
type Config struct {
	Hostapd string       // the program; "" is DefaultHostapd
	Dir     string       // of its configuration and sockets; "" is DefaultDir. The AP owns it.
	Address netip.Prefix // the kit's on the handsets' network
	System  System       // nil is Linux
	Log     *slog.Logger // nil discards
}

// Status is how an AP is.
type Status struct {
	Enabled  bool // on the air
	Radio    Radio
	Spare    []Radio // the others, free for links to other kits
	Channel  Channel
	Country  string
	Clients  int // handsets on the air
	Limit    int // of Clients, by the radio or the operator
	Networks []Network
	// Problem is what keeps it from serving, or lessens it; "" is nothing. Severe: no handset can use it.
	Problem string
	Severe  bool
	Stats   Stats
}

// Network is one of the networks that are on the air.
type Network struct {
	Interface, SSID, BSSID string
	Clients                int
}

// Full reports whether no further handset is taken.
func (s Status) Full() bool { return s.Enabled && s.Limit > 0 && s.Clients >= s.Limit }

// Stats counts what happened since the AP was made.
type Stats struct {
	Starts         uint64 // of hostapd
	Connected      uint64 // handsets that got in
	Disconnected   uint64
	Rejected       uint64 // refused, as there were too many, where the radio's firmware refuses and tells
	WrongKey       uint64 // tries with another passphrase
	EventsDropped  uint64 // of hostapd's, for want of room
	ChannelChanges uint64
}

// AP is the access point of a kit. Make it with New.
type AP struct {
	cfg     Config
	changed chan struct{} // holds one: wanted or station changed

	mu      sync.Mutex // guards the rest
	wanted  Settings
	station int
	status  Status
	notes   notes

	dropped  atomic.Uint64
	patience patience

	// What follows is Run's.
	previous int             // channel
	single   map[string]bool // radios, by MAC address, that do not carry two networks after all
	country  string          // that was set
}

// notes are what is not as it was asked for while the access point serves; "" is nothing.
type notes struct{ country, channel, wired string }

// New makes an AP. It does nothing before Run.
func New(cfg Config) *AP {
	if cfg.Hostapd == "" {
		cfg.Hostapd = DefaultHostapd
	}
	if cfg.Dir == "" {
		cfg.Dir = DefaultDir
	}
	if cfg.System == nil {
		cfg.System = Linux{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return &AP{cfg: cfg, changed: make(chan struct{}, 1), patience: defaultPatience, single: map[string]bool{}}
}

// Set says what is wanted from now on. Handsets on the air lose it for a second or two if that changes it.
func (a *AP) Set(s Settings) {
	a.mu.Lock()
	same := reflect.DeepEqual(a.wanted, s)
	a.wanted = s
	a.mu.Unlock()
	if !same {
		a.wake()
	}
}

// Follow says which channel the station link of the access point's own radio is on, 0 when there is none. The access
// point goes there, since the radio cannot be on two.
func (a *AP) Follow(channel int) {
	a.mu.Lock()
	same := a.station == channel
	a.station = channel
	a.mu.Unlock()
	if !same {
		a.wake()
	}
}

func (a *AP) wake() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// Snapshot is how it is now. The caller must not change what it points to.
func (a *AP) Snapshot() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	if s.Problem == "" {
		s.Problem = cmp.Or(a.notes.country, a.notes.channel, a.notes.wired)
	}
	s.Stats.EventsDropped = a.dropped.Load()
	return s
}

func (a *AP) want() (Settings, int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wanted, a.station
}

func (a *AP) update(f func(*Status)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.status)
}

// noted changes the notes.
func (a *AP) noted(f func(*notes)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.notes)
}

// down forgets what is on the air and says why nothing is.
func (a *AP) down(severe bool, problem string) {
	a.update(func(s *Status) {
		s.Enabled, s.Clients, s.Networks, s.Channel = false, 0, nil, Channel{}
		s.Severe, s.Problem = severe, problem
	})
}

// errAgain: begin again, nothing failed.
var errAgain = errors.New("begin again")

// Prepare makes the bridge with the kit's address, without an access point: what listens there need not wait for it. Run
// does so, too.
func (a *AP) Prepare() error {
	if err := a.cfg.System.MakeBridge(Bridge, a.cfg.Address); err != nil {
		return fmt.Errorf("handset network: %w", err)
	}
	return nil
}

// Run makes the handsets' network and keeps the access point on the air until ctx ends. ready is called once it is, or
// once it is plain that the board has no radio for it: the bridge and its wired ports then are the whole network. The
// error says why the access point failed; Run may be called again.
func (a *AP) Run(ctx context.Context, ready func()) error {
	if err := a.Prepare(); err != nil {
		a.down(true, err.Error())
		return err
	}
	for {
		err := a.serve(ctx, ready)
		if ctx.Err() != nil {
			a.down(false, "")
			return ctx.Err()
		}
		if !errors.Is(err, errAgain) {
			a.down(true, err.Error())
			return err
		}
	}
}

// serve is one life of the access point: with the radios and settings of now, until they change.
func (a *AP) serve(ctx context.Context, ready func()) error {
	want, station := a.want()
	radio, problem, severe := a.choose(want)
	a.addWired(want.Wired)
	if problem != "" {
		a.down(severe, problem)
		ready()
		return a.pause(ctx)
	}
	radio = a.setCountry(ctx, radio, want)
	if radio.Switch == SoftOff {
		if err := a.cfg.System.SwitchOn(radio.PHY); err != nil {
			return fmt.Errorf("radio %s switched off: %w", radio.Interface, err)
		}
	}
	channel, err := a.channel(ctx, radio, want, station)
	if err != nil {
		a.down(true, err.Error())
		return a.pause(ctx)
	}
	a.noted(func(n *notes) { n.channel = channel.Instead })
	plan, err := a.plan(radio, want, station, channel.Channel)
	if err != nil {
		a.down(true, err.Error())
		return a.pause(ctx)
	}
	if err := a.host(ctx, radio, plan, want, ready); err != nil {
		if len(plan.BSSs) > 1 && errors.Is(err, errNotStarted) && ctx.Err() == nil {
			a.cfg.Log.Warn("radio carries one network only", "radio", radio.Interface, "err", err)
			if len(a.single) >= maxRadios {
				clear(a.single) // radios come and go; those that are there say so again
			}
			a.single[radio.MAC.String()] = true
			return errAgain
		}
		return err
	}
	return errAgain
}

// choose looks which radio it is to be, or says what is wrong with all of them.
func (a *AP) choose(want Settings) (chosen Radio, problem string, severe bool) {
	radios, err := a.cfg.System.Radios()
	if err != nil {
		a.cfg.Log.Debug("radios not listed", "err", err)
	}
	radio, spare, ok := Choose(radios, want.Interface)
	a.update(func(s *Status) { s.Radio, s.Spare, s.Limit = radio, spare, 0 })
	switch {
	case ok && radio.Switch == HardOff:
		return radio, fmt.Sprintf("radio %s (%s) is switched off by a switch on the board", radio.Interface, radio.Driver), true
	case ok:
		return radio, "", false
	case want.Interface != "":
		return radio, fmt.Sprintf("interface %s is not there, or its radio cannot be an access point", want.Interface), true
	case len(want.Wired) > 0:
		return radio, "no radio: handsets reach this kit by its wired ports only", false
	case err != nil:
		return radio, fmt.Sprintf("no radio: %v", err), false
	case len(radios) > 0:
		return radio, fmt.Sprintf("no radio that can be an access point: %s (%s) cannot", radios[0].Interface, radios[0].Driver), false
	}
	return radio, "no radio found: none is fitted, or its driver or firmware is missing", false
}

// pause waits until something may be different.
func (a *AP) pause(ctx context.Context) error {
	t := time.NewTimer(a.patience.look)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-a.changed:
	case <-t.C:
	}
	return errAgain
}

// setCountry has the rules of the country in force and returns the radio as it is under them.
func (a *AP) setCountry(ctx context.Context, radio Radio, want Settings) Radio {
	if want.Country == a.country {
		return radio
	}
	a.country = want.Country
	problem := ""
	if want.Country != "" {
		if err := a.cfg.System.SetCountry(ctx, want.Country); err != nil {
			a.country, problem = "", err.Error() // it is tried again with the next start
			a.cfg.Log.Warn("country not in force", "country", want.Country, "err", err)
		}
	}
	a.noted(func(n *notes) { n.country = problem })
	radios, err := a.cfg.System.Radios()
	if err != nil {
		return radio
	}
	if again, _, ok := Choose(radios, radio.Interface); ok {
		return again
	}
	return radio
}

// channel decides on the channel, after listening where that matters.
func (a *AP) channel(ctx context.Context, radio Radio, want Settings, station int) (Choice, error) {
	w := Wish{Country: want.Country, Asked: want.Channel, Station: station, Previous: a.previous, Seed: want.Seed}
	var heard []Heard
	if station == 0 && want.Channel == 0 {
		var frequencies []int
		for _, c := range Allowed(radio, want.Country) {
			for _, n := range quietChannels {
				if c.Number == n {
					frequencies = append(frequencies, c.Frequency)
				}
			}
		}
		scan, cancel := context.WithTimeout(ctx, a.patience.scan)
		defer cancel()
		var err error
		if heard, err = a.cfg.System.Scan(scan, radio.Interface, frequencies); err != nil {
			a.cfg.Log.Debug("no scan before the choice of a channel", "radio", radio.Interface, "err", err)
		}
	}
	return ChooseChannel(radio, w, heard)
}

func (a *AP) plan(radio Radio, want Settings, station int, channel Channel) (Plan, error) {
	return MakePlan(radio, Request{
		SSID: want.SSID, OwnSSID: want.OwnSSID, Passphrase: want.Passphrase, Country: want.Country, Channel: channel,
		Element: want.Element, MaxHandsets: want.MaxHandsets, BesideStation: station != 0,
		Single: a.single[radio.MAC.String()],
	})
}

// addWired makes the wired ports part of the network as soon as they are there.
func (a *AP) addWired(ports []string) {
	var problem string
	for _, p := range ports {
		if err := a.cfg.System.AddPort(Bridge, p); err != nil {
			problem = fmt.Sprintf("no wired handset port: %v", err)
		}
	}
	a.noted(func(n *notes) { n.wired = problem })
}

// writeConfiguration writes what hostapd reads: it has the key, and is for nobody else.
func (a *AP) writeConfiguration(p Plan) (path string, err error) {
	if err := os.MkdirAll(a.cfg.Dir, 0o700); err != nil {
		return "", fmt.Errorf("access point configuration: %w", err)
	}
	path = filepath.Join(a.cfg.Dir, "hostapd.conf")
	if err := os.WriteFile(path, []byte(p.Hostapd(a.controls())), 0o600); err != nil {
		return "", fmt.Errorf("access point configuration: %w", err)
	}
	return path, nil
}

// controls is the directory of the control sockets.
func (a *AP) controls() string { return filepath.Join(a.cfg.Dir, "control") }
