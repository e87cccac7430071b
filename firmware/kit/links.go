package kit

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"fieldkit/board/access"
	"fieldkit/board/firewall"
	"fieldkit/board/links"
	"fieldkit/board/station"
	"fieldkit/firmware/mission"
	"fieldkit/overlay/wire"
	"fieldkit/ui"
)

// linking is what a kit does that has the machine to itself: it sets up its own interfaces, joins others by radio, and
// lets each side reach what is for it. It is made by New; what counts is all that changes afterwards.
type linking struct {
	links   *links.Links     // nil: the system does all of that
	station *station.Station // nil: no links by radio
	rules   firewall.Ruleset
	counts  atomic.Pointer[ruleCounts]
}

// ruleCounts is how often rules of the firewall applied. To ask the kernel takes longer than the rest of the status, and
// anybody may ask for that as often as a radio carries.
type ruleCounts struct {
	at     time.Time
	counts []firewall.Count
}

const ruleCountsFor = time.Second

// newLinking makes it for a kit that is asked to.
func (k *Kit) newLinking() error {
	if !k.cfg.Link.Managed {
		return nil
	}
	ephemeral, err := firewall.Ephemeral()
	if err != nil {
		return err
	}
	if k.linking.rules, err = firewall.New(k.firewallConfig(ephemeral)); err != nil {
		return err
	}
	k.linking.links = links.New(links.Config{
		Prefix: k.kitsPrefix(), Node: k.id.NodeID().Bytes(), Kind: k.interfaceKind, Log: k.log,
	})
	if k.cfg.Link.Station && k.access != nil {
		k.linking.station = station.New(station.Config{
			Radio: k.stationRadio, Scan: k.scanForKits, World: k.stationWorld, Follow: k.followStation,
			Credentials: func() station.Credentials {
				s := k.accessSettings()
				return station.Credentials{SSID: s.SSID, Passphrase: s.Passphrase}
			},
			Changed: k.linking.links.KindsChanged, Log: k.log,
		})
	}
	return nil
}

// kitsPrefix is the IPv6 network of the mission's kits.
func (k *Kit) kitsPrefix() netip.Prefix {
	return links.Prefix(k.mission.Load().Document().InstanceName)
}

// handsetInterface is the interface of the handsets; "" where none is known yet.
func (k *Kit) handsetInterface() string {
	switch {
	case k.cfg.Access.Enabled:
		return access.Bridge
	case k.cfg.Handset.Interface != "":
		return k.cfg.Handset.Interface
	}
	for _, i := range *k.interfaces.Load() {
		if slices.ContainsFunc(i.Addrs, func(p netip.Prefix) bool { return p.Addr().Unmap() == k.cfg.Handset.Address }) {
			return i.Name
		}
	}
	return ""
}

// interfaceKind says what an interface is to be set up for.
func (k *Kit) interfaceKind(name string) links.Kind {
	switch {
	case name == k.handsetInterface():
		return links.AccessPoint
	case name == k.stationInterface():
		return links.Station
	case slices.Contains(k.cfg.Access.Wired, name), len(k.cfg.Link.Interfaces) > 0 && !slices.Contains(k.cfg.Link.Interfaces, name):
		return links.Other
	}
	return ""
}

// stationInterface is the interface of a station link; "" while there is none.
func (k *Kit) stationInterface() string {
	if k.linking.station == nil {
		return ""
	}
	return k.linking.station.Snapshot().Interface
}

// ipv6Alone tells whether an interface leads to other kits over IPv6 only: behind the access point and a station, IPv4 is
// the handsets' network, which is the same on every kit.
func (k *Kit) ipv6Alone(name string) bool {
	return k.linking.links != nil && name != "" && (name == k.handsetInterface() || name == k.stationInterface())
}

const (
	dhcpPort = 67
	dnsPort  = 53
	ntpPort  = 123
)

// firewallConfig says who may reach what.
func (k *Kit) firewallConfig(ephemeral firewall.Ports) firewall.Config {
	c := k.cfg
	one := func(p firewall.Proto, port uint16) firewall.Service {
		return firewall.Service{Proto: p, Ports: firewall.Port(port)}
	}
	f := firewall.Config{
		Handset: k.handsetInterface(), Address: c.Handset.Address.Unmap(), Network: c.Handset.Network,
		Handsets: []firewall.Service{
			one(firewall.UDP, dhcpPort), one(firewall.UDP, dnsPort), one(firewall.TCP, dnsPort), one(firewall.UDP, ntpPort),
			one(firewall.UDP, c.SIP.Port), one(firewall.TCP, c.SIP.Port),
			{Proto: firewall.UDP, Ports: firewall.Ports{First: c.Media.FirstPort, Last: c.Media.LastPort}},
		},
		Kits: []firewall.Service{
			one(firewall.UDP, c.Link.RelayPort), one(firewall.TCP, c.Update.Port),
			one(firewall.UDP, mission.EnrolPort), one(firewall.TCP, mission.EnrolPort), // while two kits are paired
			{Proto: firewall.UDP, Ports: ephemeral}, {Proto: firewall.TCP, Ports: ephemeral},
		},
	}
	if f.Handset == "" {
		f.Handset = access.Bridge // which nothing comes in on
	}
	if c.Link.Port != 0 { // else it is one of the ephemeral ones
		f.Kits = append(f.Kits, one(firewall.UDP, c.Link.Port), one(firewall.TCP, c.Link.Port))
	}
	if _, port, err := net.SplitHostPort(c.Status.Listen); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n != 0 {
			f.Handsets = append(f.Handsets, one(firewall.TCP, uint16(n)))
		}
	}
	return f
}

// applyFirewall puts the rules in force.
func (k *Kit) applyFirewall() error {
	if err := firewall.Apply(k.linking.rules); err != nil {
		k.health.Fault("firewall", err.Error()+": handsets and other kits are not kept apart")
		return err
	}
	k.health.OK("firewall")
	return nil
}

// firewallPoll is how soon rules that something else took away are put back.
const firewallPoll = 30 * time.Second

// keepFirewall sees that the rules stay in force. They do when the kit ends: what starts it again finds them.
func (k *Kit) keepFirewall(ctx context.Context, ready func()) error {
	tick := time.NewTicker(firewallPoll)
	defer tick.Stop()
	for {
		if _, err := firewall.Check(k.linking.rules); err != nil {
			k.log.Warn("firewall put in force again", "err", err)
			if err := k.applyFirewall(); err != nil {
				return err
			}
		}
		ready()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// judgeEvery is how soon the health tree says what became of a link without an interface having changed.
const judgeEvery = 2 * time.Second

// runLinks sets the interfaces up.
func (k *Kit) runLinks(ctx context.Context, ready func()) error {
	return both(ctx,
		func(ctx context.Context) error { return k.linking.links.Run(ctx, ready) },
		func(ctx context.Context) error {
			return every(ctx, judgeEvery, k.judgeLinks)
		})
}

// every calls f now and then until ctx ends.
func every(ctx context.Context, pause time.Duration, f func()) error {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		f()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// runStation links by radio, and says how that goes.
func (k *Kit) runStation(ctx context.Context, ready func()) error {
	ready()
	return both(ctx, k.linking.station.Run, func(ctx context.Context) error {
		return every(ctx, judgeEvery, func() {
			// A radio that is not made for it is nothing that went wrong.
			if s := k.linking.station.Snapshot(); s.Err != "" && s.State != station.NoRadio {
				k.health.Warn("station", s.Err)
			} else {
				k.health.OK("station")
			}
		})
	})
}

// stationRadio is a spare radio, or the second role of the access point's.
func (k *Kit) stationRadio() (station.Radio, bool) {
	s := k.access.Snapshot()
	for _, r := range s.Spare {
		if r.Interface != "" && r.Switch == access.On {
			return station.Radio{Interface: r.Interface, PHY: r.PHY}, true
		}
	}
	can, other := s.Radio.StationBeside()
	if !can || s.Radio.Interface == "" {
		return station.Radio{}, false
	}
	r := station.Radio{Interface: station.OwnInterface, PHY: s.Radio.PHY, Shared: true, OtherChannel: other}
	if s.Enabled {
		r.Frequency = s.Channel.Frequency
	}
	return r, true
}

// scanForKits lists the access points of other kits of this mission.
func (k *Kit) scanForKits(ctx context.Context, iface string) ([]station.Heard, error) {
	radio := k.access.Snapshot().Radio
	var frequencies []int // none is all
	if iface == station.OwnInterface {
		// Where the access point could not follow is no use, and every channel more is time that handsets wait.
		for _, c := range access.Allowed(radio, k.cfg.Access.Country) {
			frequencies = append(frequencies, c.Frequency)
		}
	}
	all, err := access.Linux{}.Scan(ctx, iface, frequencies)
	if err != nil {
		return nil, err
	}
	mine, self, name := wire.OverlayHash(k.mission.Load().Document().InstanceName), k.id.NodeID(), k.accessSettings().SSID
	var out []station.Heard
	for _, h := range all {
		if h.Element == nil || h.Element.Overlay != mine || h.SSID != name { // a kit may have a network of its own name beside
			continue
		}
		id, err := wire.NodeIDFrom(h.Element.NodeID)
		if err != nil || id == self {
			continue
		}
		out = append(out, station.Heard{BSSID: h.BSSID, Node: id.String(), Frequency: h.Frequency, Signal: h.Signal})
	}
	return out, nil
}

// stationWorld is what the choice of a kit to join depends on.
func (k *Kit) stationWorld() station.World {
	s := k.linking.station.Snapshot()
	w := station.World{Self: k.id.NodeID().String(), Busy: k.calls() > 0, Shared: s.Shared}
	if n := k.overlay.node.Load(); n != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if o, err := n.Snapshot(ctx); err == nil {
			w.Ring = hexIDs(o.Ring)
		}
	}
	mine := k.announcement().Overlay
	handset := k.handsetInterface()
	o := &k.overlay
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, p := range o.seen {
		switch {
		case p.peer.Overlay != mine || key.iface == s.Interface:
		case key.iface == handset:
			w.Guests = append(w.Guests, key.node)
		default:
			w.Cable = append(w.Cable, key.node)
		}
	}
	return w
}

// followStation moves the access point to where the station link of its radio is.
func (k *Kit) followStation(frequency int) {
	channel := 0
	for _, c := range k.access.Snapshot().Radio.Channels {
		if c.Frequency == frequency {
			channel = c.Number
		}
	}
	k.access.Follow(channel)
}

// judgeLinks keeps what the health tree says of the ways to other kits.
func (k *Kit) judgeLinks() {
	if k.linking.links != nil {
		for _, s := range k.linking.links.Status() {
			if s.Err != "" {
				k.health.Warn("links", s.Err)
				return
			}
			if s.Lost >= manyConflicts && s.Carrier && !s.IPv4.IsValid() {
				k.health.Warn("links", fmt.Sprintf("%s: somebody on the cable claims every IPv4 address; kits use IPv6 there", s.Name))
				return
			}
		}
	}
	if len(k.linkAddresses()) == 0 {
		k.health.Warn("links", "no interface leads to other kits: no cable, or no address on it")
		return
	}
	k.health.OK("links")
}

// manyConflicts is when a cable is called hostile: RFC 3927 §9, MAX_CONFLICTS.
const manyConflicts = 10

// firewallCounts are those of now, or of a moment ago; none where the rules are not in force.
func (k *Kit) firewallCounts(now time.Time) []firewall.Count {
	if c := k.linking.counts.Load(); c != nil && now.Sub(c.at) < ruleCountsFor {
		return c.counts
	}
	counts, err := firewall.Check(k.linking.rules)
	if err != nil {
		counts = nil // the health tree says so
	}
	k.linking.counts.Store(&ruleCounts{now, counts})
	return counts
}

// linksStatus fills in the ways to other kits.
func (k *Kit) linksStatus(s *ui.Status) {
	s.Links = []ui.Link{}
	s.Station = ui.Station{State: "off"}
	if k.linking.links == nil {
		return
	}
	for _, l := range k.linking.links.Status() {
		u := ui.Link{Interface: l.Name, Kind: string(l.Kind), Carrier: l.Carrier, Problem: l.Err, Addresses: []string{}}
		for _, a := range []netip.Addr{l.ULA, l.IPv4} {
			if a.IsValid() {
				u.Addresses = append(u.Addresses, a.String())
			}
		}
		s.Links = append(s.Links, u)
	}
	s.Counters = append(s.Counters, counters("cables ", k.linking.links.Stats())...)
	for _, c := range k.firewallCounts(time.Now()) {
		s.Counters = append(s.Counters, ui.Counter{Name: "firewall " + c.Rule, Value: c.Packets})
	}
	if k.linking.station == nil {
		return
	}
	st := k.linking.station.Snapshot()
	s.Station = ui.Station{
		State: string(st.State), Interface: st.Interface, Shared: st.Shared, Heard: st.Heard, NodeID: st.Node, BSSID: st.BSSID,
		FrequencyMHz: st.Frequency, SignalDBM: st.Signal, Problem: st.Err,
	}
	s.Counters = append(s.Counters, counters("station ", st.Stats)...)
}
