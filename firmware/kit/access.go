package kit

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"fieldkit/board/access"
	"fieldkit/overlay/wire"
	"fieldkit/ui"
)

// accessPoll is how soon the access point follows a mission that changed, and the page what the access point does.
const accessPoll = time.Second

// newAccess makes the access point of a kit that makes the handsets' network itself, nil where the system does.
func (k *Kit) newAccess() *access.AP {
	if !k.cfg.Access.Enabled {
		return nil
	}
	return access.New(access.Config{
		Address: netip.PrefixFrom(k.cfg.Handset.Address, k.cfg.Handset.Network.Bits()), Log: k.log,
	})
}

// runAccess keeps the access point on the air, as the mission of now names it.
func (k *Kit) runAccess(ctx context.Context, ready func()) error {
	k.access.Set(k.accessSettings())
	return both(ctx,
		func(ctx context.Context) error {
			return k.access.Run(ctx, func() {
				k.accessHealth(k.access.Snapshot())
				ready()
			})
		},
		func(ctx context.Context) error {
			tick := time.NewTicker(accessPoll)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					k.accessHealth(k.access.Snapshot()) // what it failed for is told until it runs again
					return nil
				case <-tick.C:
				}
				k.access.Set(k.accessSettings())
				k.accessHealth(k.access.Snapshot())
			}
		})
}

// accessSettings are what the operator's file says, else the mission.
func (k *Kit) accessSettings() access.Settings {
	m, c := k.mission.Load(), k.cfg.Access
	id := k.id.NodeID().Bytes()
	s := access.Settings{
		SSID: m.WiFi.SSID, Passphrase: m.WiFi.Passphrase, Country: c.Country, Interface: c.Interface, Channel: c.Channel,
		MaxHandsets: c.MaxHandsets, Wired: c.Wired, Seed: binary.BigEndian.Uint32(id),
	}
	if c.SSID != "" {
		s.SSID = c.SSID
	}
	if c.Passphrase != "" {
		s.Passphrase = string(c.Passphrase)
	}
	if c.OwnName {
		s.OwnSSID = access.OwnSSID(s.SSID, k.name, k.number)
	}
	e, err := access.Element{Overlay: wire.OverlayHash(m.Document().InstanceName), NodeID: id}.Encode()
	if err != nil {
		k.log.Error("element of the beacons", "err", err) // the access point serves without
	}
	s.Element = e
	return s
}

// accessHealth says how the access point is, and notes in the timeline when it was on the air first.
func (k *Kit) accessHealth(s access.Status) {
	if s.Enabled {
		k.boot.Mark("access point")
	}
	switch {
	case s.Problem != "" && s.Severe:
		k.health.Fault("access", s.Problem)
	case s.Problem != "":
		k.health.Warn("access", s.Problem)
	case s.Full():
		k.health.Warn("access", fmt.Sprintf("full: %d handsets on the air, the radio serves no more", s.Clients))
	default:
		k.health.OK("access")
	}
	k.lights.wake()
}

// accessFull reports whether the radio takes no further handset.
func (k *Kit) accessFull() bool { return k.access != nil && k.access.Snapshot().Full() }

// accessStatus is the access point for the page.
func (k *Kit) accessStatus(s *ui.Status) {
	s.Access = ui.Access{State: "system", BSS: []ui.BSS{}}
	if k.access == nil {
		return
	}
	a := k.access.Snapshot()
	s.Access.State = "off"
	if a.Enabled {
		s.Access.State = "on air"
	}
	s.Access.SSID, s.Access.Channel, s.Access.Country = k.accessSettings().SSID, a.Channel.Number, a.Country
	s.Access.Clients, s.Access.Limit = a.Clients, a.Limit
	if a.Radio.Interface != "" {
		s.Access.Radio = fmt.Sprintf("%s (%s)", a.Radio.Interface, a.Radio.Driver)
	}
	for _, n := range a.Networks {
		s.Access.BSS = append(s.Access.BSS, ui.BSS{Interface: n.Interface, SSID: n.SSID, BSSID: n.BSSID, Clients: n.Clients})
	}
	s.Counters = append(s.Counters, counters("access ", a.Stats)...)
}
