// Package kit joins the parts of a kit into one process: overlay, telephony, board and page know nothing
// of each other, and the adapters between them are here, each small. It decides nothing about protocols.
//
// What fails is restarted by the task group and named in the health tree, which the lights, the status page
// and the JSON all show. Only a configuration that cannot be used ends the process.
package kit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fieldkit/board"
	"fieldkit/board/access"
	"fieldkit/board/netif"
	"fieldkit/board/store"
	"fieldkit/firmware/boot/initlink"
	"fieldkit/firmware/config"
	"fieldkit/firmware/erase"
	"fieldkit/firmware/health"
	"fieldkit/firmware/mission"
	"fieldkit/firmware/task"
	"fieldkit/overlay/ident"
)

// Version is set when the program is built.
var Version = "unversioned"

// Kit is one kit. Run owns it; Status may be called from any goroutine.
type Kit struct {
	cfg     *config.Config
	socket  string
	started time.Time
	log     *slog.Logger

	id      *ident.Identity
	mission atomic.Pointer[mission.Mission] // replaced when there are other accounts or a newer document
	change  sync.Mutex                      // one change of mission after the other, see adopt
	number  int
	name    string

	store  *store.Store
	health *health.Tree

	interfaces atomic.Pointer[[]netif.Interface]
	linking    linking
	overlay    overlay
	telephony  telephony
	lights     lights
	access     *access.AP // nil: the system makes the handsets' network
	pairing    pairing
	network    handsetNetwork
	clock      keeper
	boot       *initlink.Link // nil off the card
	readmitted bool           // a mission file on the card lets this kit in again by itself
	update     updating
}

// Options are what is not configuration but place.
type Options struct {
	StatusSocket string           // path of a Unix socket that serves the status page too; "" is none
	Log          *slog.Logger     // nil writes text to standard error at the configured level
	Boot         *initlink.Link   // to PID 1 of the kit's card; nil off the card
	Problem      error            // why a file of the card is left out; for NewOnCard
	Simulated    *board.Simulated // in the place of the board that is here; nil: that, or what the configuration says
}

// New makes a kit of cfg: its identity on the first start, the same one on every later start. The error
// is one that no restart cures.
func New(cfg *config.Config, o Options) (*Kit, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: cfg.Log.Level}))
	}
	k := &Kit{cfg: cfg, socket: o.StatusSocket, started: time.Now(), log: o.Log, health: health.New("kit", nil), boot: o.Boot}
	if _, err := erase.Finish(cfg.StateDir); err != nil { // power was cut while it was erased
		return nil, fmt.Errorf("state: %w", err)
	}
	id, m, founded, err := mission.LoadOrCreateIdentity(cfg.StateDir, cfg.Mission)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	k.id = id
	k.mission.Store(m)
	k.number, k.name = cfg.Kit.Number, cfg.Kit.Name
	if k.number == 0 {
		if k.number, err = mission.KeyNumber(id); err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
	}
	if k.name == "" {
		k.name = fmt.Sprintf("Kit %d", k.number)
	}
	if k.store, err = store.Open(cfg.StateDir, store.Config{Log: o.Log}); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	k.checkMembership()
	k.stayOutside()
	k.interfaces.Store(&[]netif.Interface{})
	k.overlay.renew = make(chan struct{}, 1)
	if err := k.boot.TakeLights(); err != nil {
		k.log.Warn("LEDs", "err", err) // the lines that init holds are not to be had
	}
	k.lights.init(k, o.Simulated)
	if err := k.newPairing(); err != nil {
		return nil, err
	}
	k.access = k.newAccess()
	k.newClock()
	if err := k.newHandsetNetwork(); err != nil {
		return nil, err
	}
	k.takeNotes(k.boot.Boot())
	if err := k.newLinking(); err != nil {
		k.health.Fault("firewall", err.Error())
	}
	k.newUpdating()
	k.log.Info("kit", "number", k.number, "node", id.NodeID(), "mission", m.Name, "founded", founded, "version", Version)
	return k, nil
}

// Run runs the kit until ctx ends, then says goodbye to handsets and neighbours. It ends by itself with ErrRestart.
func (k *Kit) Run(ctx context.Context) error {
	ctx, k.pairing.end = context.WithCancelCause(ctx)
	defer k.pairing.end(nil)
	g := task.NewGroup(task.Config{Log: k.log, Report: k.partChanged})
	if k.boot != nil {
		k.boot.Mark("kit")
		// The first part ends last: a kit that ends in order is no kit that hangs.
		if err := g.Add(task.New("card", k.beat)); err != nil {
			return err
		}
	}
	if k.access != nil {
		// Its address is there before anybody listens at it. What is wrong is told by the part, which tries again.
		if err := k.access.Prepare(); err != nil {
			k.log.Warn("access point", "err", err)
		}
		if err := g.Add(task.New("access", k.runAccess)); err != nil {
			return err
		}
		if k.boot != nil {
			text := func() string { return k.screenText(k.access.Snapshot()) }
			if err := g.Add(task.New("screen", tellScreen(screen, text))); err != nil {
				return err
			}
		}
	}
	if k.network.dhcp != nil {
		if err := g.Add(task.New("dhcp", k.serveDHCP), task.New("dns", k.serveNames), task.New("time", k.serveTime)); err != nil {
			return err
		}
	}
	if k.linking.links != nil {
		// Before anything listens. Without the rules the kit serves on, and says so.
		if err := k.applyFirewall(); err != nil {
			k.log.Error("firewall", "err", err)
		}
		if err := g.Add(task.New("firewall", k.keepFirewall), task.New("cables", k.runLinks)); err != nil {
			return err
		}
	}
	if k.linking.station != nil {
		if err := g.Add(task.New("station", k.runStation)); err != nil {
			return err
		}
	}
	// Ended in the reverse order: the telephony takes its bindings back while the overlay still runs.
	if err := g.Add(
		task.New("clock", k.keepClock),
		task.New("lights", k.showLights),
		task.New("interfaces", k.watchInterfaces),
		task.New("overlay", k.overlay.run(k)),
		task.New("discovery", k.discover),
		task.New("telephony", k.telephony.run(k)),
		task.New("accounts", k.watchAccounts),
		task.New("page", k.servePage),
		task.New("pairing", k.runPairing),
	); err != nil {
		return err
	}
	if k.update.updater != nil {
		if err := g.Add(task.New("update", k.runUpdates)); err != nil {
			return err
		}
	}
	return k.ended(g.Run(ctx), context.Cause(ctx))
}

// partChanged puts how each part runs into the health tree.
func (k *Kit) partChanged(s task.Status) {
	path := "parts/" + s.Name
	k.markStage(s)
	switch {
	case s.State == task.Waiting || s.State == task.Failed:
		k.health.Fault(path, s.Err.Error())
	case s.State == task.Starting && s.Err != nil:
		k.health.Fault(path, "starting again after: "+s.Err.Error())
	case s.State == task.Starting:
		k.health.Warn(path, "starting")
	default:
		k.health.OK(path)
	}
}

// watchInterfaces keeps the snapshot that links and discovery work on.
func (k *Kit) watchInterfaces(ctx context.Context, ready func()) error {
	for ifs := range netif.Watch(ctx, netif.Config{Log: k.log}) {
		k.interfaces.Store(&ifs)
		if t := k.overlay.links.Load(); t != nil {
			t.AddressesChanged() // a link whose address is gone is lost now, not after its silence was long enough
		}
		k.overlay.relaying.Load().addressesChanged()
		k.judgeLinks()
		ready()
	}
	return ctx.Err()
}

// accountsPoll is how soon a running kit takes up an account that was added to its mission file.
const accountsPoll = 2 * time.Second

// watchAccounts takes up what the operator changes in the mission file while the kit runs.
func (k *Kit) watchAccounts(ctx context.Context, ready func()) error {
	ready()
	poll := time.NewTicker(accountsPoll)
	defer poll.Stop()
	var path string
	var seen time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
		}
		if now := k.accountsFile(); now != path { // the operator's file came or went
			path, seen = now, time.Time{}
		}
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.ModTime().Equal(seen) {
			continue
		}
		if err == nil {
			seen = info.ModTime()
			err = k.takeAccounts(path)
		}
		if err != nil {
			// A file that was still being copied need not have another time when it is whole: a FAT file system
			// counts in two seconds.
			seen = time.Time{}
			k.health.Warn("accounts", err.Error())
		} else {
			k.health.OK("accounts")
		}
	}
}

// accountsFile is the operator's file, or where there is none, as with a kit that founded its mission, the kit's own
// copy.
func (k *Kit) accountsFile() string {
	if _, err := os.Stat(k.cfg.Mission); err != nil || k.mission.Load().Founded {
		return k.ownFile()
	}
	return k.cfg.Mission
}

// ownFile is the kit's own copy of the mission.
func (k *Kit) ownFile() string { return filepath.Join(k.cfg.StateDir, mission.MissionItem) }

func (k *Kit) takeAccounts(path string) error {
	m, err := mission.Load(path)
	if err != nil {
		return err
	}
	if m, err = k.adopt(m, path != k.ownFile()); err != nil {
		return err
	}
	return k.telephony.setAccounts(m)
}

// adopt goes over to what the operator's file says. It is one of two ways in which the mission changes; the other
// is newDocument. They come from goroutines of their own, and one that began before the other must not put back
// what that replaced: it might bring a revoked kit back. keep has the kit's own copy say the same, so that the
// operator's file may be gone afterwards.
func (k *Kit) adopt(m *mission.Mission, keep bool) (*mission.Mission, error) {
	k.change.Lock()
	defer k.change.Unlock()
	kept := k.mission.Load()
	if !m.Same(kept) {
		return nil, errors.New("the mission file is of another mission; the kit changes over when it is restarted")
	}
	m, err := kept.Adopt(m) // without the root key, and never with an older document
	if err != nil {
		return nil, err
	}
	switch {
	case ident.Supersedes(kept.Document(), m.Document()):
		if err := k.changeDocument(m); err != nil {
			return nil, err
		}
	case keep && !slices.Equal(m.Handsets, kept.Handsets):
		if err := m.Save(k.ownFile()); err != nil {
			return nil, fmt.Errorf("accounts not kept: %w", err)
		}
	}
	k.mission.Store(m)
	return m, nil
}
