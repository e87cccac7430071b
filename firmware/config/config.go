// Package config turns fieldkit.toml into a typed Config. Every value has a compiled default, the file may be
// missing, an unknown key is an error that names it, and Config knows where each value came from, so that the
// status page can say so. Constants of the RFCs are not here: what a mission decides is in its configuration
// document, and what nobody decides is code.
//
// A Config is read only once Load returned it, and may then be used by any goroutine.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/pelletier/go-toml/v2"
)

// ErrInvalid is a configuration file that cannot be used; the error names key and value.
var ErrInvalid = errors.New("configuration")

// Config is how one kit runs.
type Config struct {
	StateDir string  `toml:"state_dir"` // directory of the kit's persistent state
	Mission  string  `toml:"mission"`   // mission file; it need not be there
	Kit      Kit     `toml:"kit"`
	Handset  Handset `toml:"handset"`
	Access   Access  `toml:"access"`
	Link     Link    `toml:"link"`
	SIP      SIP     `toml:"sip"`
	Media    Media   `toml:"media"`
	Status   Status  `toml:"status"`
	Update   Update  `toml:"update"`
	Board    Board   `toml:"board"`
	Log      Log     `toml:"log"`

	sources map[string]Source
	path    string
}

// Kit is what people call the kit.
type Kit struct {
	Number int    `toml:"number"` // 100 to 899; 0 is made of the kit's key
	Name   string `toml:"name"`   // "" is "Kit NUMBER"
}

// Handset is the network of the kit's handsets.
type Handset struct {
	Interface string       `toml:"interface"` // "" finds the one that has Address
	Address   netip.Addr   `toml:"address"`   // the kit's on that network; the same at every kit
	Network   netip.Prefix `toml:"network"`   // never used by the overlay
}

// Access is the access point of the handsets. A kit that makes it gives its interface Handset.Address, too.
type Access struct {
	Enabled     bool   `toml:"enabled"`
	SSID        string `toml:"ssid"`         // "" is the mission's
	Passphrase  Secret `toml:"passphrase"`   // "" is the mission's
	OwnName     bool   `toml:"own_name"`     // beside it a network of the kit's own name, where the radio carries two
	Country     string `toml:"country"`      // ISO 3166-1 code; "" keeps to what is allowed everywhere
	Channel     int    `toml:"channel"`      // 0 chooses
	Interface   string `toml:"interface"`    // of the radio; "" chooses
	MaxHandsets int    `toml:"max_handsets"` // 0 is as many as the radio serves
	// Wired are Ethernet interfaces for handsets; none leads to other kits.
	Wired []string `toml:"wired"`
}

// Secret is a value that is not shown.
type Secret string

// String says only whether there is one.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(secret)"
}

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// Link is the way to other kits.
type Link struct {
	Interfaces []string `toml:"interfaces"` // allow-list; none is every interface but the handsets' and loopback
	Port       uint16   `toml:"port"`       // UDP, of the overlay's bootstrap listener; 0 is any
	// Addresses are the overlay's own, instead of those of the interfaces.
	Addresses []netip.Addr `toml:"addresses"`
	// Neighbours are bootstrap addresses of kits that mDNS does not reach. They may be, and go, as they like.
	Neighbours []netip.AddrPort `toml:"neighbours"`
	// Relay is whether other kits that do not reach each other may do so through this one.
	Relay     bool   `toml:"relay"`
	RelayPort uint16 `toml:"relay_port"` // UDP, of every kit's STUN and TURN server
	// Managed: the kit has the machine to itself. It brings up every cable with addresses of its own, joins other kits by
	// radio and keeps handsets and kits apart.
	Managed bool `toml:"managed"`
	Station bool `toml:"station"` // where Managed: by radio, too
}

// SIP is the registrar and proxy.
type SIP struct {
	Port uint16 `toml:"port"` // UDP and TCP on the handset address
}

// Media is the relay's port range, both ends included.
type Media struct {
	FirstPort uint16 `toml:"first_port"`
	LastPort  uint16 `toml:"last_port"`
	MaxCalls  int    `toml:"max_calls"`
}

// Status is the status page.
type Status struct {
	Listen string `toml:"listen"` // host:port or :port; "" is none
}

// Update is how the kit's system is updated.
type Update struct {
	Share bool   `toml:"share"` // offer it to neighbours, and take a newer one from them
	Port  uint16 `toml:"port"`  // TCP, on the links, where kits speak of it
	Trial int    `toml:"trial"` // seconds that a new system has to become healthy
}

// Board is the LEDs and the button.
type Board struct {
	Simulated bool `toml:"simulated"` // no hardware even where there is some
	Pins      Pins `toml:"pins"`
}

// Pins are GPIO lines by the names that the kernel gives them, see gpioinfo; "" is not fitted.
type Pins struct {
	Power      string `toml:"power"`
	Phones     string `toml:"phones"`
	LinkBlue   string `toml:"link_blue"`
	LinkYellow string `toml:"link_yellow"`
	Red        string `toml:"red"`
	Button     string `toml:"button"`
	Single     string `toml:"single"` // an LED of the board itself below /sys/class/leds
}

// Log is how much is written.
type Log struct {
	Level slog.Level `toml:"level"` // debug, info, warn or error
}

// Source is where a value came from.
type Source string

// Sources of values.
const (
	FromDefault Source = "default"
	FromFile    Source = "file"
	FromFlag    Source = "command line"
)

const (
	maxFile = 64 << 10 // bytes
	maxList = 32       // addresses, neighbours
)

// Default is a kit as it comes out of the box.
func Default() *Config {
	c := &Config{
		StateDir: "/var/lib/fieldkit",
		Mission:  "/etc/fieldkit/kit.mission",
		Handset: Handset{
			Address: netip.AddrFrom4([4]byte{10, 73, 0, 1}),
			Network: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 73, 0, 0}), 16),
		},
		Access: Access{OwnName: true},
		Link:   Link{Port: 6084, Relay: true, RelayPort: 3478, Station: true}, // RFC 6940 §14.2, RFC 8656 §3.1
		SIP:    SIP{Port: 5060},
		Media:  Media{FirstPort: 20000, LastPort: 29999, MaxCalls: 100},
		Status: Status{Listen: ":80"},
		Update: Update{Share: true, Port: 6085, Trial: 540},
		Board: Board{Pins: Pins{
			Power: "GPIO5", Phones: "GPIO6", LinkBlue: "GPIO13", LinkYellow: "GPIO12", Red: "GPIO16", Button: "GPIO17", Single: "ACT",
		}},
		sources: map[string]Source{},
	}
	return c
}

// Where a kit that runs from its card has what the daemon reads. PID 1 puts the files there at each boot; each may be
// absent.
const (
	CardPersonal = "/run/fieldkit/personal.toml" // what the card was personalised with
	CardFile     = "/run/fieldkit/kit.toml"      // the operator's, from the card's boot partition, over it
	CardMission  = "/run/fieldkit/kit.mission"
	CardState    = "/perm/fieldkit"
	// CardKept is where PID 1 keeps, from the first boot on, what the card was personalised with and where it was: the
	// items below, as board/store has them.
	CardKept    = CardState + "/card"
	KeptFile    = "kit.toml"
	KeptMission = "kit.mission"  // the daemon takes the root key out of it once it is in
	KeptBoard   = "board-serial" // of the board that the card was first started in
)

// ClockItem is the item of the state directory in which the daemon keeps a time that certainly is past, as RFC 3339
// has it. PID 1 raises the clock to it before anything else runs.
const ClockItem = "clock"

// Card is Default for a kit that runs from its card and has the board to itself.
func Card() *Config {
	c := Default()
	c.StateDir, c.Mission = CardState, CardMission
	c.Access.Enabled, c.Link.Managed = true, true
	return c
}

// Load reads the file at path over the defaults. A file that is not there is none; path "" asks for none.
func Load(path string) (*Config, error) { return Default().Over(path) }

// Over reads the files at the paths, each over what is there and the ones before it. A file that is not there is none,
// and so is a path "". The receiver is not to be used any more.
func (c *Config) Over(paths ...string) (*Config, error) {
	for _, path := range paths {
		b, err := read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = c.parse(b)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		c.path = path
	}
	return c, nil
}

func read(path string) ([]byte, error) {
	if path == "" {
		return nil, fs.ErrNotExist
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return b, nil
}

// Parse reads a configuration over the defaults.
func Parse(b []byte) (*Config, error) {
	c := Default()
	return c, c.parse(b)
}

func (c *Config) parse(b []byte) error {
	if len(b) > maxFile {
		return fmt.Errorf("%w: more than %d bytes", ErrInvalid, maxFile)
	}
	b = bytes.TrimPrefix(b, []byte("\ufeff")) // some editors put it before UTF-8
	dec := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	if err := dec.Decode(c); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, explain(err))
	}
	given := map[string]any{}
	if err := toml.Unmarshal(b, &given); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, explain(err))
	}
	mark(c.sources, "", given)
	return c.Validate()
}

func mark(sources map[string]Source, prefix string, given map[string]any) {
	for k, v := range given {
		if table, ok := v.(map[string]any); ok {
			mark(sources, prefix+k+".", table)
			continue
		}
		sources[prefix+k] = FromFile
	}
}

// explain makes one line that names the key out of what the TOML reader says.
func explain(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		var keys []string
		for _, e := range strict.Errors[:min(len(strict.Errors), 8)] {
			line, _ := e.Position()
			keys = append(keys, fmt.Sprintf("%q (line %d)", strings.Join(e.Key(), "."), line))
		}
		return fmt.Errorf("unknown key %s", strings.Join(keys, ", "))
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		line, column := bad.Position()
		if key := strings.Join(bad.Key(), "."); key != "" {
			return fmt.Errorf("key %q (line %d): %s", key, line, bad.Error())
		}
		return fmt.Errorf("line %d, column %d: %s", line, column, bad.Error())
	}
	return err
}

func invalid(key string, value any, want string) error {
	return fmt.Errorf("%w: key %q: %v: want %s", ErrInvalid, key, value, want)
}

// Validate checks every value; all faults are told at once.
func (c *Config) Validate() error {
	var errs []error
	want := func(ok bool, key string, value any, want string) {
		if !ok {
			errs = append(errs, invalid(key, value, want))
		}
	}
	want(c.StateDir != "", "state_dir", c.StateDir, "a directory")
	want(c.Kit.Number == 0 || c.Kit.Number >= 100 && c.Kit.Number <= 899, "kit.number", c.Kit.Number, "100 to 899, or 0 for one made of the key")
	want(len(c.Kit.Name) <= 64 && strings.IndexFunc(c.Kit.Name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0, "kit.name", fmt.Sprintf("%q", c.Kit.Name), "at most 64 bytes, printable")
	want(len(c.Handset.Interface) <= 15, "handset.interface", c.Handset.Interface, "an interface name of at most 15 bytes")
	want(c.Handset.Address.Is4() || c.Handset.Address.Is6(), "handset.address", c.Handset.Address, "an IP address")
	want(c.Handset.Network.IsValid() && c.Handset.Network == c.Handset.Network.Masked(), "handset.network", c.Handset.Network, "a network, host bits zero")
	want(c.Handset.Network.Contains(c.Handset.Address), "handset.network", c.Handset.Network, fmt.Sprintf("the network of handset.address %v", c.Handset.Address))
	if c.Access.Enabled {
		// What the servers of the handsets' network can do (board/dhcp): a card that they refuse would never come up.
		bits := c.Handset.Network.Bits()
		want(c.Handset.Address.Is4() && bits >= 8 && bits <= 26, "handset.network", c.Handset.Network, "with access.enabled, an IPv4 network with a prefix of 8 to 26 bits")
	}
	c.Access.validate(want)
	for _, i := range c.Link.Interfaces {
		want(!slices.Contains(c.Access.Wired, i) && (i != c.Access.Interface || i == ""), "link.interfaces", fmt.Sprintf("%q", i), "not an interface of the handsets")
		want(i != "" && len(i) <= 15, "link.interfaces", fmt.Sprintf("%q", i), "interface names of 1 to 15 bytes")
		want(i != c.Handset.Interface, "link.interfaces", fmt.Sprintf("%q", i), "not the handsets' interface: it has the same address on every kit")
	}
	for _, a := range c.Link.Addresses {
		want(a.IsValid() && !a.IsUnspecified() && !a.IsMulticast(), "link.addresses", a, "unicast addresses")
		want(a.Unmap() != c.Handset.Address.Unmap(), "link.addresses", a, "not handset.address: it is the same on every kit")
	}
	want(len(c.Link.Addresses) <= maxList, "link.addresses", len(c.Link.Addresses), fmt.Sprintf("at most %d", maxList))
	want(len(c.Link.Neighbours) <= maxList, "link.neighbours", len(c.Link.Neighbours), fmt.Sprintf("at most %d", maxList))
	for _, a := range c.Link.Neighbours {
		want(a.Port() != 0 && !a.Addr().IsUnspecified() && !a.Addr().IsMulticast(), "link.neighbours", a, "unicast addresses with a port")
	}
	want(c.Link.RelayPort != 0 && c.Link.RelayPort != c.Link.Port, "link.relay_port", c.Link.RelayPort, "1 to 65535, and not link.port")
	want(c.SIP.Port != 0, "sip.port", c.SIP.Port, "1 to 65535")
	want(c.Update.Trial >= 60 && c.Update.Trial <= 540, "update.trial", c.Update.Trial, "60 to 540 seconds")
	want(!c.Update.Share || c.Update.Port != 0 && c.Update.Port != c.Link.Port, "update.port", c.Update.Port, "1 to 65535, and not link.port")
	want(c.Media.FirstPort >= 1024 && c.Media.FirstPort < c.Media.LastPort, "media.first_port", c.Media.FirstPort, fmt.Sprintf("1024 to media.last_port (%d)", c.Media.LastPort))
	want(c.Media.MaxCalls >= 1 && c.Media.MaxCalls <= 1000, "media.max_calls", c.Media.MaxCalls, "1 to 1000")
	// Every call takes an RTP and an RTCP port for each of its two legs.
	want(int(c.Media.LastPort)-int(c.Media.FirstPort)+1 >= 4*c.Media.MaxCalls, "media.last_port", c.Media.LastPort, fmt.Sprintf("room for %d calls of 4 ports", c.Media.MaxCalls))
	want(c.SIP.Port < c.Media.FirstPort || c.SIP.Port > c.Media.LastPort, "sip.port", c.SIP.Port, "outside the media ports")
	if c.Status.Listen != "" {
		_, err := netip.ParseAddrPort(c.Status.Listen)
		if rest, ok := strings.CutPrefix(c.Status.Listen, ":"); ok {
			_, err = netip.ParseAddrPort("0.0.0.0:" + rest)
		}
		want(err == nil, "status.listen", fmt.Sprintf("%q", c.Status.Listen), "ADDRESS:PORT or :PORT")
	}
	pins, taken := reflect.ValueOf(c.Board.Pins), map[string]string{}
	for i := range pins.NumField() {
		key, pin := "board.pins."+pins.Type().Field(i).Tag.Get("toml"), pins.Field(i).String()
		want(len(pin) <= 32, key, pin, "a name of at most 32 bytes")
		if pin == "" {
			continue
		}
		if other, twice := taken[pin]; twice {
			want(false, key, pin, "another pin than "+other)
		}
		taken[pin] = key
	}
	levels := []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	want(slices.Contains(levels, c.Log.Level), "log.level", c.Log.Level, "debug, info, warn or error")
	return errors.Join(errs...)
}

// country is what a country may be: the regulatory database decides whether it knows it.
var country = regexp.MustCompile("^[A-Z]{2}$")

func (a *Access) validate(want func(ok bool, key string, value any, what string)) {
	want(len(a.SSID) <= 32, "access.ssid", fmt.Sprintf("%q", a.SSID), "at most 32 bytes")
	n := len(a.Passphrase)
	want(n == 0 || n >= 8 && n <= 63 && !strings.ContainsFunc(string(a.Passphrase), func(r rune) bool { return r < 32 || r > 126 }),
		"access.passphrase", a.Passphrase, "8 to 63 printable ASCII characters")
	want(a.Country == "" || country.MatchString(a.Country), "access.country", fmt.Sprintf("%q", a.Country), "two capital letters, as \"DE\"")
	want(a.Channel >= 0 && a.Channel <= 177, "access.channel", a.Channel, "a Wi-Fi channel, or 0 to choose")
	want(a.Channel <= 11 || a.Country != "", "access.channel", a.Channel, "1 to 11 where access.country is not given")
	want(len(a.Interface) <= 15, "access.interface", a.Interface, "an interface name of at most 15 bytes")
	want(a.MaxHandsets >= 0 && a.MaxHandsets <= 2007, "access.max_handsets", a.MaxHandsets, "0 to 2007")
	want(len(a.Wired) <= maxList, "access.wired", len(a.Wired), fmt.Sprintf("at most %d", maxList))
	for _, i := range a.Wired {
		want(i != "" && len(i) <= 15 && !strings.ContainsRune(i, '/'), "access.wired", fmt.Sprintf("%q", i), "interface names of 1 to 15 bytes")
	}
}

// Value is one setting and where it came from.
type Value struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source Source `json:"source"`
}

// Values lists every setting in the order of the file.
func (c *Config) Values() []Value {
	var out []Value
	c.walk("", reflect.ValueOf(c).Elem(), &out)
	return out
}

func (c *Config) walk(prefix string, v reflect.Value, out *[]Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		tag := f.Tag.Get("toml")
		if tag == "" {
			continue
		}
		key := prefix + tag
		if v.Field(i).Kind() == reflect.Struct && v.Field(i).NumField() > 0 && f.Type.Field(0).Tag.Get("toml") != "" {
			c.walk(key+".", v.Field(i), out)
			continue
		}
		*out = append(*out, Value{Key: key, Value: fmt.Sprint(v.Field(i).Interface()), Source: c.Source(key)})
	}
}

// Source is where the value of a key such as "sip.port" came from.
func (c *Config) Source(key string) Source {
	if s, ok := c.sources[key]; ok {
		return s
	}
	return FromDefault
}

// Override marks values that the command line set; call Validate afterwards.
func (c *Config) Override(keys ...string) {
	for _, k := range keys {
		c.sources[k] = FromFlag
	}
}

// Path is the file that was read, "" if none was.
func (c *Config) Path() string { return c.path }
