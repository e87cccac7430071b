package ui

// Status is everything the page shows and the JSON carries, as one consistent picture. Ages are
// seconds on the kit's own steady clock: a kit has no clock of day that anybody should believe.
type Status struct {
	Kit      Kit         `json:"kit"`
	Kits     []Neighbour `json:"kits"`
	Ring     []string    `json:"ring"`  // Node-IDs in ring order, this kit's own among them
	Links    []Link      `json:"links"` // none where the system makes them
	Station  Station     `json:"station"`
	Access   Access      `json:"access"`
	Handsets []Handset   `json:"handsets"`
	Calls    []Call      `json:"calls"`
	Board    Board       `json:"board"`
	Pairing  Pairing     `json:"pairing"`
	Update   Update      `json:"update"`
	Clock    Clock       `json:"clock"`
	Boot     []Stage     `json:"boot"` // none where the kit did not boot from a card
	Health   []Check     `json:"health"`
	Counters []Counter   `json:"counters"`
}

// Problems are the checks that are not ok.
func (s Status) Problems() (r []Check) {
	for _, c := range s.Health {
		if c.State != "ok" {
			r = append(r, c)
		}
	}
	return r
}

// Kit describes the kit that answers.
type Kit struct {
	NodeID     string  `json:"node_id"`
	Number     int     `json:"number"` // 100 to 899
	Name       string  `json:"name"`
	Mission    string  `json:"mission"`
	Overlay    string  `json:"overlay"`
	Founded    bool    `json:"founded"` // this kit made the mission itself, as it was given none
	Version    string  `json:"version"`
	UptimeS    float64 `json:"uptime_s"`
	JoinedMS   float64 `json:"joined_ms"` // from process start until it first shared a ring with another kit; 0 while alone
	RSSBytes   int64   `json:"rss_bytes"`
	Goroutines int     `json:"goroutines"`
	LinkBytes  uint64  `json:"link_bytes"` // overlay messages sent and received, framing included
	SIP        string  `json:"sip"`        // where a handset registers, host:port
}

// Neighbour is another kit that was seen.
type Neighbour struct {
	NodeID     string   `json:"node_id"`
	Number     int      `json:"number,omitempty"`
	Name       string   `json:"name,omitempty"`
	State      string   `json:"state"` // linked, seen or stranger
	Reason     string   `json:"reason,omitempty"`
	Addresses  []string `json:"addresses,omitempty"`
	Interfaces []string `json:"interfaces,omitempty"`
	RTTMS      float64  `json:"rtt_ms,omitempty"`
	SinceS     float64  `json:"since_s"` // how long it has been in this state
}

// Link is an interface that may lead to other kits.
type Link struct {
	Interface string   `json:"interface"`
	Kind      string   `json:"kind"`    // cable, access point or station
	Carrier   bool     `json:"carrier"` // something is at the other end
	Addresses []string `json:"addresses"`
	Problem   string   `json:"problem,omitempty"`
}

// Station is the link by radio to another kit's access point.
type Station struct {
	State        string `json:"state"` // off, no radio, looking, joining or linked
	Interface    string `json:"interface,omitempty"`
	Shared       bool   `json:"shared"` // the radio makes this kit's access point, too
	Heard        int    `json:"heard"`  // access points of the mission's kits
	NodeID       string `json:"node_id,omitempty"`
	BSSID        string `json:"bssid,omitempty"`
	FrequencyMHz int    `json:"frequency_mhz,omitempty"`
	SignalDBM    int    `json:"signal_dbm,omitempty"`
	Problem      string `json:"problem,omitempty"`
}

// Access is the Wi-Fi of the handsets.
type Access struct {
	State   string `json:"state"` // on air, off, or system: this program does not make it
	SSID    string `json:"ssid"`
	Radio   string `json:"radio"` // its interface and driver
	Channel int    `json:"channel"`
	Country string `json:"country"` // whose radio rules hold; empty: what all countries allow
	Clients int    `json:"clients"` // handsets on the air
	Limit   int    `json:"limit"`   // of clients
	Leases  int    `json:"leases"`  // addresses that handsets have from this kit
	BSS     []BSS  `json:"bss"`
}

// BSS is one network that is on the air.
type BSS struct {
	Interface string `json:"interface"`
	SSID      string `json:"ssid"`
	BSSID     string `json:"bssid"`
	Clients   int    `json:"clients"`
}

// Handset is one person with a handset known to this kit.
type Handset struct {
	Name       string  `json:"name"`
	Number     string  `json:"number"`
	Contact    string  `json:"contact"`
	Transport  string  `json:"transport"`
	ExpiresS   float64 `json:"expires_s"`
	SinceS     float64 `json:"since_s"`
	Registered bool    `json:"registered"`
	Published  bool    `json:"published"` // other kits can find it
}

// Call is one call that passes through this kit.
type Call struct {
	ID      string   `json:"id"`
	From    string   `json:"from"`
	To      string   `json:"to"`
	State   string   `json:"state"`
	SinceS  float64  `json:"since_s"`
	SetupMS float64  `json:"setup_ms"` // INVITE to 2xx as this kit saw it
	Media   []Stream `json:"media"`
}

// Stream is the media of one direction as this kit's relay saw it.
type Stream struct {
	From     string  `json:"from"`
	To       string  `json:"to"`
	Packets  uint64  `json:"packets"`
	Bytes    uint64  `json:"bytes"`
	Lost     uint64  `json:"lost"`
	JitterMS float64 `json:"jitter_ms"`
}

// Clock is the kit's clock of day, and what it is worth.
type Clock struct {
	Time         string  `json:"time"`         // RFC 3339, UTC
	Synchronised bool    `json:"synchronised"` // somebody who knows the time told it
	Source       string  `json:"source"`       // GPS, system, clock chip, phone, kits or none
	AheadS       float64 `json:"ahead_s"`      // by how much it is ahead of one who knows better; it is never lowered
	Disagreeing  int     `json:"disagreeing"`  // other kits that know the time and have another one
}

// Board is what the lights show.
type Board struct {
	Kind  string `json:"kind"`  // gpio or simulated
	State string `json:"state"` // in words, as the label on the box has it
	LEDs  []LED  `json:"leds"`
}

// LED is one light: its colour, what it shows in words, and whether it is lit right now.
type LED struct {
	Name    string `json:"name"`
	Colour  string `json:"colour"`
	Pattern string `json:"pattern"`
	Lit     bool   `json:"lit"`
}

// Pairing is what the button began.
type Pairing struct {
	Stage     string `json:"stage"`          // idle, searching, comparing, joining or ended
	Code      string `json:"code,omitempty"` // while comparing: what both kits blink
	Confirmed bool   `json:"confirmed"`      // at this kit
	Other     string `json:"other,omitempty"`
	Why       string `json:"why,omitempty"` // it ended without another kit; empty when that is in
}

// Stage is a point that the board's boot came to.
type Stage struct {
	Stage string `json:"stage"`
	AtMS  int64  `json:"at_ms"` // since the kernel started
}

// Check is one entry of the health tree.
type Check struct {
	Name   string  `json:"name"`
	State  string  `json:"state"` // ok, warn or fault
	Cause  string  `json:"cause,omitempty"`
	SinceS float64 `json:"since_s"`
}

// Counter is one named count, such as refused strangers or dropped datagrams.
type Counter struct {
	Name  string `json:"name"`
	Value uint64 `json:"value"`
}

// Update is how the kit's own system is updated.
type Update struct {
	State    string  `json:"state"` // idle, receiving, written, trying, committed, rolled back or refused; "" without a card
	Why      string  `json:"why,omitempty"`
	SinceS   float64 `json:"since_s"`
	Version  string  `json:"version"` // that runs
	Sequence uint64  `json:"sequence"`
	Slot     string  `json:"slot"`
	Trial    bool    `json:"trial"`
	New      Bundle  `json:"new"`     // what is received, waits, or is tried
	Offered  Release `json:"offered"` // by a neighbour, and newer
	Last     Outcome `json:"last"`
}

// Bundle is an update.
type Bundle struct {
	Version  string `json:"version,omitempty"` // "" is none
	Sequence uint64 `json:"sequence,omitempty"`
	Written  int64  `json:"written,omitempty"` // bytes, while it is received
	Size     int64  `json:"size,omitempty"`
}

// Outcome is how the last update ended.
type Outcome struct {
	Version  string `json:"version,omitempty"`
	Sequence uint64 `json:"sequence,omitempty"`
	State    string `json:"state,omitempty"` // committed, rolled back or refused; "" if there was none
	Why      string `json:"why,omitempty"`
}

// Release is a system that a kit can run.
type Release struct {
	Version  string `json:"version,omitempty"` // "" is none
	Sequence uint64 `json:"sequence,omitempty"`
}
