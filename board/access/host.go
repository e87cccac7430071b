package access

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// errNotStarted is a hostapd that never had the access point on the air.
var errNotStarted = errors.New("access point did not start")

// host is one hostapd process from its start to its end. It belongs to the goroutine of Run.
type host struct {
	a        *AP
	radio    Radio
	plan     Plan
	settings Settings
	process  *process
	events   chan event
	controls []*control // of each network, in their order
	limits   []int      // of each network, as hostapd has them
	silent   int        // questions without an answer
	channel  Channel    // that it is on
	moving   time.Time  // until when it may take to be on plan.Channel; zero: nobody moves it
	moved    bool       // hostapd said that it is on another channel
}

// host runs hostapd on a plan until ctx ends, something else is wanted (nil), or it fails.
func (a *AP) host(ctx context.Context, radio Radio, plan Plan, want Settings, ready func()) error {
	conf, err := a.writeConfiguration(plan)
	if err != nil {
		return err
	}
	// The sockets of one that was killed are still there and would be taken for the new one's.
	if err := os.RemoveAll(a.controls()); err != nil {
		return fmt.Errorf("control sockets: %w", err)
	}
	a.update(func(s *Status) {
		s.Stats.Starts++
		s.Limit, s.Country, s.Problem, s.Severe = plan.Limit, plan.Country, "", false
	})
	life, end := context.WithCancel(ctx)
	h := &host{
		a: a, radio: radio, plan: plan, settings: want, events: make(chan event, maxEvents),
		process: start(life, a.cfg.Log, a.cfg.Hostapd, conf), channel: plan.Channel,
	}
	for range plan.BSSs {
		h.limits = append(h.limits, plan.Limit)
	}
	defer func() {
		for _, c := range h.controls {
			c.close()
		}
		end()
		<-h.process.done
		a.down(false, "")
	}()
	if err := h.begin(ctx); err != nil {
		return err
	}
	ready()
	a.cfg.Log.Info("access point", "radio", radio.Interface, "driver", radio.Driver, "channel", plan.Channel.Number,
		"country", plan.Country, "networks", len(plan.BSSs), "limit", plan.Limit)
	return h.watch(ctx)
}

// begin waits for the access point to be on the air.
func (h *host) begin(ctx context.Context) error {
	late := fmt.Errorf("%w within %s", errNotStarted, h.a.patience.start)
	ctx, cancel := context.WithTimeoutCause(ctx, h.a.patience.start, late)
	defer cancel()
	var why error // the last attempt failed
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		if len(h.controls) == 0 {
			if _, err := os.Stat(filepath.Join(h.a.controls(), h.plan.Interface)); err == nil {
				c, err := dial(ctx, h.a.controls(), h.plan.Interface, h.events, &h.a.dropped)
				if err == nil {
					h.controls = append(h.controls, c)
				}
				why = err
			}
		} else if s, err := h.controls[0].status(ctx); err == nil && s.state == "ENABLED" {
			return h.onAir(ctx, s)
		}
		select {
		case <-h.process.done:
			return fmt.Errorf("%w: hostapd: %w", errNotStarted, h.process.err)
		case <-ctx.Done():
			if why != nil && errors.Is(context.Cause(ctx), late) {
				return fmt.Errorf("%w: %w", late, why)
			}
			return context.Cause(ctx)
		case e := <-h.events:
			if e.kind == disabled || e.kind == terminating {
				return fmt.Errorf("%w: %w", errNotStarted, h.lastWords(fmt.Errorf("hostapd gave up on %s", h.radio.Interface)))
			}
		case <-poll.C:
		}
	}
}

// onAir finishes the start: events of the other networks, too, and all of them ports of the bridge.
func (h *host) onAir(ctx context.Context, s hostapdStatus) error {
	for _, n := range h.plan.BSSs[1:] {
		c, err := dial(ctx, h.a.controls(), n.Interface, h.events, &h.a.dropped)
		if err != nil {
			return fmt.Errorf("%w: %w", errNotStarted, err)
		}
		h.controls = append(h.controls, c)
	}
	for _, n := range h.plan.BSSs {
		if err := h.a.cfg.System.AddPort(Bridge, n.Interface); err != nil {
			return fmt.Errorf("handset network: %w", err)
		}
	}
	h.a.previous = h.channel.Number
	h.show(s)
	return nil
}

// watch serves until ctx ends, something else is wanted (nil), or the access point is not on the air any more.
func (h *host) watch(ctx context.Context) error {
	tick := time.NewTicker(h.a.patience.look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.process.done:
			return fmt.Errorf("hostapd: %w", h.process.err)
		case <-h.a.changed:
			if h.adapt(ctx) {
				return nil
			}
		case e := <-h.events:
			if err := h.heard(e); err != nil {
				return err
			}
			if again, err := h.look(ctx); again || err != nil {
				return err
			}
		case <-tick.C:
			h.a.addWired(h.settings.Wired)
			if again, err := h.look(ctx); again || err != nil {
				return err
			}
		}
	}
}

// heard counts an event. An error ends this hostapd.
func (h *host) heard(e event) error {
	log := h.a.cfg.Log
	h.a.update(func(s *Status) {
		switch e.kind {
		case stationConnected:
			s.Stats.Connected++
		case stationDisconnected:
			s.Stats.Disconnected++
		case stationRejected:
			s.Stats.Rejected++
		case wrongKey:
			s.Stats.WrongKey++
		}
	})
	switch e.kind {
	case channelSwitched:
		h.moved = true
	case disabled:
		return fmt.Errorf("radio %s went away: unplugged, switched off, or its firmware crashed", h.radio.Interface)
	case terminating:
		return errors.New("hostapd ends by itself")
	case stationConnected, stationDisconnected, stationRejected, wrongKey:
		log.Debug("handset on the air", "event", e.name, "station", e.station)
	}
	return nil
}

// look asks hostapd how it is. again: it has to be started anew.
func (h *host) look(ctx context.Context) (again bool, err error) {
	s, err := h.controls[0].status(ctx)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		if h.silent++; h.silent < h.a.patience.silent {
			return false, nil
		}
		return false, h.lastWords(fmt.Errorf("hostapd does not answer: %w", err))
	case s.state != "ENABLED":
		return false, fmt.Errorf("radio %s is not on the air: hostapd is %s", h.radio.Interface, s.state)
	}
	h.silent = 0
	switch {
	case h.moved: // by move, or by a driver that follows its station link
		h.moved, h.moving = false, time.Time{}
		if at := slices.IndexFunc(h.radio.Channels, func(c Channel) bool { return c.Number == s.channel }); at >= 0 {
			h.channel = h.radio.Channels[at]
		}
		h.plan.Channel, h.a.previous = h.channel, h.channel.Number
		h.a.update(func(st *Status) { st.Stats.ChannelChanges++ })
	case !h.moving.IsZero() && time.Now().After(h.moving):
		return true, nil // it did not move: start it there
	}
	if err := h.share(ctx, s); err != nil {
		return false, err
	}
	h.show(s)
	return false, nil
}

// lastWords is what hostapd said at its end, if that comes now, else err: what it said is more than its silence.
func (h *host) lastWords(err error) error {
	t := time.NewTimer(endWait / 10)
	defer t.Stop()
	select {
	case <-h.process.done:
		return fmt.Errorf("hostapd: %w", h.process.err)
	case <-t.C:
		return err
	}
}

// share leaves each network the places that the other one has not taken: the radio counts them together.
func (h *host) share(ctx context.Context, s hostapdStatus) error {
	if len(h.controls) < 2 || len(s.networks) != len(h.controls) {
		return nil
	}
	total := 0
	for _, n := range s.networks {
		total += n.stations
	}
	for i, n := range s.networks {
		limit := max(0, h.plan.Limit-(total-n.stations))
		if limit == h.limits[i] {
			continue
		}
		reply, err := h.controls[i].request(ctx, fmt.Sprintf("SET max_num_sta %d", limit))
		if err != nil || string(reply) != "OK\n" {
			return fmt.Errorf("limit of %s: %w", h.plan.BSSs[i].Interface, errors.Join(err, errReply))
		}
		h.limits[i] = limit
	}
	return nil
}

// show makes the status of what hostapd said.
func (h *host) show(s hostapdStatus) {
	h.a.update(func(st *Status) {
		st.Enabled, st.Radio, st.Channel, st.Clients = true, h.radio, h.channel, 0
		st.Networks = nil
		for i, n := range h.plan.BSSs {
			network := Network{Interface: n.Interface, SSID: n.SSID}
			if i < len(s.networks) {
				network.BSSID, network.Clients = s.networks[i].bssid, s.networks[i].stations
			}
			st.Clients += network.Clients
			st.Networks = append(st.Networks, network)
		}
	})
}

// adapt goes over to what is wanted now. again: hostapd has to be started anew for it.
func (h *host) adapt(ctx context.Context) (again bool) {
	want, station := h.a.want()
	if want.Interface != h.settings.Interface || want.Country != h.settings.Country {
		return true
	}
	channel := Choice{Channel: h.plan.Channel}
	if station != 0 || want.Channel != 0 {
		// Listening would take the radio from the handsets, and the channel of now is as good as any.
		w := Wish{Country: want.Country, Asked: want.Channel, Station: station, Previous: channel.Number, Seed: want.Seed}
		var err error
		if channel, err = ChooseChannel(h.radio, w, nil); err != nil {
			return true // which says what is wrong with it
		}
	}
	plan, err := h.a.plan(h.radio, want, station, channel.Channel)
	if err != nil {
		return true
	}
	h.a.noted(func(n *notes) { n.channel = channel.Instead })
	h.a.addWired(want.Wired)
	before := h.plan
	h.settings, h.plan.Channel = want, channel.Channel
	if plan.Hostapd("") != h.plan.Hostapd("") {
		h.plan = before
		return true
	}
	if channel.Number == before.Channel.Number {
		return false
	}
	return !h.move(ctx, channel.Channel)
}

// move takes the handsets along to another channel (IEEE 802.11-2020 §11.8.8) and reports whether that has begun. Where
// the radio's firmware serves them it is not known to be able to, and hostapd is started anew there.
func (h *host) move(ctx context.Context, to Channel) bool {
	if h.radio.Firmware {
		return false
	}
	command := fmt.Sprintf("CHAN_SWITCH %d %d", beaconsBeforeSwitch, to.Frequency)
	if h.plan.HT {
		command += " ht"
	}
	reply, err := h.controls[0].request(ctx, command)
	if err != nil || string(reply) != "OK\n" {
		return false
	}
	h.moving = time.Now().Add(h.a.patience.move)
	return true
}

// beaconsBeforeSwitch announce the move: handsets that sleep wake up for one in three or so.
const beaconsBeforeSwitch = 10
