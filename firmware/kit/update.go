package kit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"fieldkit/firmware/card"
	"fieldkit/firmware/mission"
	"fieldkit/firmware/update"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/link"
	"fieldkit/ui"
)

const (
	updatePoll   = time.Second
	updateDelay  = time.Minute      // at most, before what a neighbour brought is tried
	updateWaits  = time.Hour        // that long an update may wait for the end of calls before people should know
	signerKept   = 10 * time.Minute // to sign for what the card was flashed with
	probeTimeout = 2 * time.Second
	deviceTree   = "/proc/device-tree"
	crashLogs    = "/sys/fs/pstore"
	maxCrash     = 200 // bytes of what is told of a crash
)

// updating is how the kit's own system is updated. It is set up by New and not changed afterwards.
type updating struct {
	updater *update.Updater // nil: the kit does not run from a card with two slots
	share   *update.Share   // nil: it speaks to no neighbour of updates
	signer  atomic.Pointer[mission.Mission]
}

// newUpdating makes the update of a kit that runs from a card. What is wrong with it is a warning: the kit serves on.
func (k *Kit) newUpdating() {
	if k.boot == nil {
		return
	}
	if err := k.startUpdating(); err != nil {
		k.health.Warn("update", fmt.Sprintf("the system cannot be updated: %v", err))
	}
}

func (k *Kit) startUpdating() error {
	b, err := os.ReadFile(card.RuntimeRelease)
	if err != nil {
		return err
	}
	release, err := card.ParseRelease(b)
	if err != nil {
		return err
	}
	slot, err := k.runningSlot()
	if err != nil {
		return err
	}
	if m, err := mission.Load(k.cfg.Mission); err == nil && m.HasRootKey() && m.Same(k.mission.Load()) {
		k.update.signer.Store(m) // for a short while, see runUpdates
	}
	k.update.updater, err = update.New(update.Config{
		System: update.System{Release: release, Boards: boards(), Slot: slot},
		ID:     k.id.NodeID().String(), Trial: k.boot.Trial(), Limit: time.Duration(k.cfg.Update.Trial) * time.Second, Crash: crashOf(crashLogs),
		Open: k.openCard, Items: k.store, Init: k.boot,
		Verify: func(blob, signature []byte) error { return k.mission.Load().VerifyUpdate(blob, signature) },
		Sign:   k.signUpdate, World: k.worldOfUpdate,
		Delay: func() time.Duration { return rand.N(updateDelay) },
		Log:   k.log,
	})
	if err != nil || !k.cfg.Update.Share {
		return err
	}
	k.update.share = update.NewShare(update.ShareConfig{
		Updater: k.update.updater, Identity: k.id, Trust: func() *ident.Trust { return k.mission.Load().Trust() },
		Peers: k.updatePeers, MayServe: k.isLinkAddress, Calls: k.calls,
		Jitter: func(d time.Duration) time.Duration { return rand.N(d) }, Offer: true, Take: true, Log: k.log,
	})
	return nil
}

func (k *Kit) openCard() (update.Disk, error) {
	disk := k.boot.Boot().Disk
	if disk == "" {
		return nil, card.ErrNotFound
	}
	return card.Open(disk)
}

// runningSlot is the slot that this boot came from, as autoboot.txt says and, where it tells, the Pi firmware.
func (k *Kit) runningSlot() (s card.Slot, err error) {
	d, err := k.openCard()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if s, err = card.Committed(d); err != nil {
		return 0, err
	}
	if k.boot.Trial() {
		s = s.Other()
	}
	b, err := os.ReadFile(filepath.Join(deviceTree, "chosen/bootloader/partition"))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil // not started by the Pi firmware
	}
	if err != nil || len(b) != 4 {
		return 0, fmt.Errorf("partition that the firmware started: %q: %w", b, err)
	}
	if got := card.Slot(binary.BigEndian.Uint32(b)); got != s {
		return 0, fmt.Errorf("the firmware started slot %v, and %s says %v", got, card.AutobootFile, s)
	}
	return s, nil
}

// boards is what the board calls itself, the most exact name first (Devicetree Specification §2.3.1).
func boards() (names []string) {
	b, _ := os.ReadFile(filepath.Join(deviceTree, "compatible")) // a machine without one fits what is for any board
	for s := range strings.SplitSeq(string(b), "\x00") {
		if s != "" {
			names = append(names, s)
		}
	}
	return names
}

// crashOf is the line in which the kernel before said why it died, if it could keep that through the reboot; "" if not.
func crashOf(dir string) string {
	logs, _ := filepath.Glob(filepath.Join(dir, "dmesg-*")) // the pattern is right
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			for _, mark := range []string{"Kernel panic", "Internal error", "Unable to handle", "panic:"} {
				if i := strings.Index(line, mark); i >= 0 {
					line = strings.TrimSpace(line[i:])
					return strings.ToValidUTF8(line[:min(len(line), maxCrash)], "")
				}
			}
		}
	}
	return ""
}

// signUpdate signs while this kit has the mission's root key: on the first start, or as the founder of its mission.
func (k *Kit) signUpdate(blob []byte) ([]byte, error) {
	if m := k.update.signer.Load(); m != nil {
		return m.SignUpdate(blob)
	}
	return mission.SignUpdateOfFounder(k.cfg.StateDir, k.mission.Load(), blob)
}

// runUpdates is the task of updates.
func (k *Kit) runUpdates(ctx context.Context, ready func()) error {
	runs := []func(context.Context) error{k.update.updater.Run, k.watchUpdates}
	if k.update.share != nil {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", ":"+strconv.Itoa(int(k.cfg.Update.Port)))
		if err != nil {
			return fmt.Errorf("updates among kits: %w", err)
		}
		runs = append(runs, k.update.share.Run, func(ctx context.Context) error { return k.update.share.Serve(ctx, l) })
	}
	ready()
	return both(ctx, runs...)
}

// watchUpdates keeps what others are told of the update.
func (k *Kit) watchUpdates(ctx context.Context) error {
	tick := time.NewTicker(updatePoll)
	defer tick.Stop()
	began := time.Now()
	announced := uint64(0)
	for {
		v := k.update.updater.View()
		k.updateHealth(v)
		if v.Header != nil || time.Since(began) > signerKept {
			k.update.signer.Store(nil)
		}
		if now := k.offeredSystem(); now != announced {
			if d := k.overlay.found.Load(); d != nil {
				if err := d.SetText(k.announcement()); err != nil {
					return err
				}
				announced = now
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (k *Kit) updateHealth(v update.View) {
	switch {
	case v.State == update.RolledBack && v.Last != nil:
		k.health.Warn("update", fmt.Sprintf("%s was rolled back: %s", v.Last.Version, v.Last.Why))
	case v.State == update.Trying && v.Trial:
		k.health.Warn("update", "on trial: "+v.Why)
	case v.State == update.Written && v.For > updateWaits:
		k.health.Warn("update", fmt.Sprintf("%s is written and not tried yet: %s", v.Manifest.Release.Version, v.Why))
	default:
		k.health.OK("update")
	}
}

// offeredSystem is the sequence of the system that neighbours can have, 0 if they can have none.
func (k *Kit) offeredSystem() uint64 {
	if k.update.share == nil {
		return 0
	}
	_, m, _ := k.update.updater.Offer()
	return m.Release.Sequence
}

// updatePort is where neighbours find this kit's updates; 0 is nowhere.
func (k *Kit) updatePort() uint16 {
	if k.update.share == nil {
		return 0
	}
	return k.cfg.Update.Port
}

// updatePeers are the kits of this mission that announce where they speak of updates.
func (k *Kit) updatePeers() (peers []update.Peer) {
	mine := k.announcement().Overlay
	o := &k.overlay
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, s := range o.seen {
		t := s.peer.Text
		if t.Overlay != mine || t.UpdatePort == 0 {
			continue
		}
		i := slices.IndexFunc(peers, func(p update.Peer) bool { return p.ID == key.node })
		if i < 0 {
			i = len(peers)
			peers = append(peers, update.Peer{ID: key.node, Sequence: t.System})
		}
		for _, a := range s.peer.Addrs {
			peers[i].Addrs = append(peers[i].Addrs, netip.AddrPortFrom(a.Addr(), t.UpdatePort))
		}
	}
	return knownFirst(peers, k.known())
}

// maxUnknown bounds the kits that are asked and that the overlay does not know. Announcements are not signed: made-up kits
// that nobody can ask must not crowd out the real ones, nor take their time.
const maxUnknown = 16

// knownFirst orders peers by Node-ID, those that the overlay knows first, and leaves out what is too many of the others.
func knownFirst(peers []update.Peer, known []string) []update.Peer {
	slices.SortFunc(peers, func(a, b update.Peer) int { return strings.Compare(a.ID, b.ID) })
	var first, rest []update.Peer
	for _, p := range peers {
		if slices.Contains(known, p.ID) {
			first = append(first, p)
		} else if len(rest) < maxUnknown {
			rest = append(rest, p)
		}
	}
	return append(first, rest...)
}

// known are the kits that the overlay has proof of: members in the ring, and linked ones.
func (k *Kit) known() []string {
	n := k.overlay.node.Load()
	if n == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := n.Snapshot(ctx)
	if err != nil {
		return nil
	}
	r := hexIDs(s.Ring)
	for _, l := range s.Links {
		if l.Member {
			r = append(r, l.Peer.String())
		}
	}
	return r
}

// isLinkAddress tells whether an address of this kit's is one of the overlay's.
func (k *Kit) isLinkAddress(a netip.Addr) bool {
	return slices.ContainsFunc(k.linkAddresses(), func(l netip.Addr) bool { return l.WithZone("") == a.WithZone("") })
}

// calls is how many calls pass this kit.
func (k *Kit) calls() int {
	if a := k.telephony.agent.Load(); a != nil {
		return len(a.Snapshot().Calls)
	}
	return 0
}

// worldOfUpdate is what the update has to know. What costs something is asked only when it decides something.
func (k *Kit) worldOfUpdate(ctx context.Context) update.World {
	w := update.World{Calls: k.calls(), Neighbours: k.update.share.Neighbours(time.Now())}
	if s := k.update.updater.View().State; s != update.Written && s != update.Trying {
		return w
	}
	for _, c := range checks(k.health.Snapshot()) {
		if c.State == "fault" {
			w.Wrong = append(w.Wrong, update.Problem{Name: c.Name, Why: c.Cause})
		}
	}
	for name, probe := range map[string]func(context.Context) error{"access point": k.probeAccess, "SIP": k.probeSIP, "overlay port": k.probeOverlay} {
		if err := probe(ctx); err != nil {
			w.Wrong = append(w.Wrong, update.Problem{Name: name, Why: err.Error()})
		}
	}
	slices.SortFunc(w.Wrong, func(a, b update.Problem) int { return strings.Compare(a.Name, b.Name) })
	return w
}

func (k *Kit) probeAccess(context.Context) error {
	if k.access != nil && !k.access.Snapshot().Enabled {
		return errors.New("not on the air")
	}
	return nil
}

// probeSIP asks this kit as a handset would (RFC 3261 §11).
func (k *Kit) probeSIP(ctx context.Context) (err error) {
	at := netip.AddrPortFrom(k.cfg.Handset.Address, k.cfg.SIP.Port)
	// From an address of the handsets' network: nobody else is served.
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.Addr(), 0))}
	c, err := d.DialContext(ctx, "udp", at.String())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.SetDeadline(time.Now().Add(probeTimeout)); err != nil {
		return err
	}
	id := strconv.FormatUint(rand.Uint64(), 36)
	if _, err := fmt.Fprintf(c, "OPTIONS sip:%[1]s SIP/2.0\r\nVia: SIP/2.0/UDP %[2]s;branch=z9hG4bK%[3]s;rport\r\nMax-Forwards: 70\r\n"+
		"From: <sip:update@%[1]s>;tag=%[3]s\r\nTo: <sip:%[1]s>\r\nCall-ID: %[3]s\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n",
		at.Addr(), c.LocalAddr(), id); err != nil {
		return err
	}
	b := make([]byte, 2048)
	n, err := c.Read(b)
	if err != nil {
		return fmt.Errorf("no answer to OPTIONS: %w", err)
	}
	if status, _, _ := strings.Cut(string(b[:n]), "\r\n"); !strings.HasPrefix(status, "SIP/2.0 200 ") {
		return fmt.Errorf("OPTIONS answered with %q", status[:min(len(status), 80)])
	}
	return nil
}

// probeOverlay knocks at the kit's own port for first contact. The handshake gets as far as it gets with oneself.
func (k *Kit) probeOverlay(ctx context.Context) error {
	t, n := k.overlay.links.Load(), k.overlay.node.Load()
	if t == nil || n == nil {
		return errNotRunning
	}
	addrs := k.linkAddresses()
	if len(addrs) == 0 {
		return nil // no cable: there is nobody to knock from either
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	c, err := t.Bootstrap(ctx, netip.AddrPortFrom(addrs[0], t.Port()))
	if err == nil {
		return c.Close()
	}
	if errors.Is(err, link.ErrSelf) {
		return nil
	}
	return fmt.Errorf("no answer to first contact: %w", err)
}

// updateStatus fills in how the system is updated.
func (k *Kit) updateStatus(s *ui.Status) {
	u := k.update.updater
	if u == nil {
		return
	}
	v := u.View()
	s.Update = ui.Update{
		State: string(v.State), Why: v.Why, SinceS: seconds(v.For), Version: v.System.Release.Version, Sequence: v.System.Release.Sequence,
		Slot: v.System.Slot.String(), Trial: v.Trial,
	}
	if m := v.Manifest; m != nil {
		s.Update.New = ui.Bundle{Version: m.Release.Version, Sequence: m.Release.Sequence}
		s.Update.New.Written, s.Update.New.Size = u.Progress()
	}
	s.Update.Offered.Version, s.Update.Offered.Sequence = k.update.share.Newer()
	if l := v.Last; l != nil {
		s.Update.Last = ui.Outcome{Version: l.Version, Sequence: l.Sequence, State: string(l.State), Why: l.Why}
	}
	s.Counters = append(s.Counters, counters("update ", u.Stats())...)
}
