package kit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"fieldkit/board/store"
	"fieldkit/firmware/mission"
	"fieldkit/overlay/sipusage"
	"fieldkit/overlay/wire"
	"fieldkit/sip/agent"
	"fieldkit/sip/media"
	"fieldkit/sip/proxy"
	"fieldkit/sip/registrar"
)

// telephony is the kit's side towards its handsets: one agent at a time, made anew when it failed, for
// example because the handset interface was not there yet.
type telephony struct {
	agent atomic.Pointer[agent.Agent]
	relay atomic.Pointer[media.Relay]
}

// bindingsItem is where the handsets' bindings survive a restart.
const bindingsItem = "registrar.json"

func (t *telephony) run(k *Kit) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		m := k.mission.Load()
		r, err := media.New(media.Config{
			Address: k.cfg.Handset.Address, Ports: [2]uint16{k.cfg.Media.FirstPort, k.cfg.Media.LastPort},
			MaxCalls: k.cfg.Media.MaxCalls, Log: k.log,
		})
		if err != nil {
			return fmt.Errorf("media relay: %w", err)
		}
		defer r.Close()
		a, err := agent.New(agent.Config{
			Address: k.cfg.Handset.Address, Port: k.cfg.SIP.Port,
			Hosts:   []string{"kit.home.arpa"},
			Overlay: m.Overlay, Kit: k.id.NodeID().String(),
			Network:   k.cfg.Handset.Network,
			Accounts:  accounts(m),
			Directory: directory{k}, Trunks: trunks{&k.overlay},
			Relay: r, Saved: k.savedBindings(), Save: k.saveBindings,
			OnChange: k.lights.wake, Log: k.log,
		})
		if err != nil {
			return err
		}
		t.agent.Store(a)
		t.relay.Store(r)
		defer t.agent.Store(nil)
		defer t.relay.Store(nil)
		go func() {
			select {
			case <-a.Ready():
				t.giveTrunks(ctx, k, a)
				ready()
			case <-ctx.Done():
			}
		}()
		return a.Run(ctx)
	}
}

func accounts(m *mission.Mission) []registrar.Account {
	r := make([]registrar.Account, 0, len(m.Handsets))
	for _, h := range m.Handsets {
		r = append(r, registrar.Account{Name: h.Name, Number: h.Number, Password: h.Password})
	}
	return r
}

func (t *telephony) setAccounts(m *mission.Mission) error {
	if a := t.agent.Load(); a != nil {
		return a.SetAccounts(accounts(m))
	}
	return nil // the agent that starts next takes them from the mission
}

// republish has a new membership of the overlay told of the handsets: it knows nothing of those that an earlier one
// published. An agent that does not run yet publishes them when it does.
func (t *telephony) republish() error {
	a := t.agent.Load()
	if a == nil {
		return nil
	}
	if err := a.Republish(); err != nil && !errors.Is(err, agent.ErrStopped) {
		return err
	}
	return nil
}

func (k *Kit) savedBindings() (s registrar.Snapshot) {
	b, err := k.store.Load(bindingsItem)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		k.health.Warn("bindings", fmt.Sprintf("handsets have to register again: %v", err))
	}
	return s
}

func (k *Kit) saveBindings(s registrar.Snapshot) {
	b, err := json.Marshal(s)
	if err == nil {
		err = k.store.Save(bindingsItem, b)
	}
	if err != nil {
		k.health.Fault("bindings", fmt.Sprintf("not saved: %v", err))
		return
	}
	k.health.OK("bindings")
}

// newTrunk takes a trunk between this kit and another one, whoever opened it. The agent is told elsewhere: it may
// be busy, and what arrives meanwhile is kept by the trunk.
func (t *telephony) newTrunk(u *sipusage.Trunk, incoming bool) {
	go func() {
		a := t.agent.Load()
		if a == nil {
			return // the agent that starts next is given all trunks there are
		}
		if err := a.AddTrunk(u); err != nil && incoming {
			_ = u.Close()
		}
	}()
}

// giveTrunks hands a new agent the trunks that are open already.
func (t *telephony) giveTrunks(ctx context.Context, k *Kit, a *agent.Agent) {
	u := k.overlay.usage.Load()
	if u == nil {
		return
	}
	open, err := u.Trunks(ctx)
	if err != nil {
		return
	}
	for _, o := range open {
		_ = a.AddTrunk(o)
	}
}

// directory is the overlay as the telephony sees it.
type directory struct{ k *Kit }

// addressable tells whether the overlay can hold an address-of-record: a certificate has to name it (rfc822Name), which
// leaves out blanks and letters beyond ASCII. A person of such a name is dialled by it at this kit, and by number at all.
func addressable(aor string) bool {
	_, err := sipusage.Canonical(aor)
	return err == nil
}

// Publish implements proxy.Directory. What the overlay cannot hold is no failure to be tried again.
func (d directory) Publish(ctx context.Context, aor string, ttl time.Duration) error {
	if !addressable(aor) {
		return nil
	}
	u := d.k.overlay.usage.Load()
	if u == nil {
		return errNotRunning
	}
	var err error
	if ttl == 0 {
		err = u.Unregister(ctx, aor)
	} else {
		err = u.Register(ctx, aor, ttl, "")
	}
	if err == nil {
		d.k.publishCertificate(ctx, aor, ttl)
	}
	return err
}

// How long a person of the mission who is not found is looked for. Whoever registered at another kit a moment ago is in
// the overlay within lookFor; when the ring has just changed, owners store what is theirs again within lookUnsettled.
const (
	lookFor       = time.Second
	lookUnsettled = 4 * time.Second
	lookAgain     = 100 * time.Millisecond
	unsettled     = 5 * time.Second // how long a change of the ring counts as just now
)

// Lookup implements proxy.Directory.
func (d directory) Lookup(ctx context.Context, aor string) ([]proxy.Target, error) {
	if !addressable(aor) {
		return nil, proxy.ErrNotFound
	}
	if !d.k.hasAccount(aor) {
		return d.lookup(ctx, aor)
	}
	limit := lookFor
	if d.k.overlay.ringChangedWithin(unsettled) {
		limit = lookUnsettled
	}
	return patiently(ctx, limit, func() ([]proxy.Target, error) { return d.lookup(ctx, aor) })
}

// patiently looks again while nobody is found, up to limit.
func patiently(ctx context.Context, limit time.Duration, lookup func() ([]proxy.Target, error)) ([]proxy.Target, error) {
	until := time.Now().Add(limit)
	for {
		r, err := lookup()
		if !errors.Is(err, proxy.ErrNotFound) || !time.Now().Before(until) {
			return r, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(lookAgain):
		}
	}
}

func (d directory) lookup(ctx context.Context, aor string) ([]proxy.Target, error) {
	u := d.k.overlay.usage.Load()
	if u == nil {
		return nil, errNotRunning
	}
	found, err := u.Lookup(ctx, aor)
	if errors.Is(err, sipusage.ErrNotFound) || errors.Is(err, sipusage.ErrForeign) {
		return nil, proxy.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	var r []proxy.Target
	for _, f := range found {
		if f.URI != "" {
			d.k.log.Info("forwarded to a domain that is nowhere in reach", "aor", aor, "to", f.URI)
			continue
		}
		r = append(r, proxy.Target{Kit: f.Node.String()})
	}
	if len(r) == 0 {
		return nil, proxy.ErrNotFound
	}
	return r, nil
}

// hasAccount tells whether an address-of-record is somebody's in the mission, by number or by name.
func (k *Kit) hasAccount(aor string) bool {
	user, _, _ := strings.Cut(aor, "@")
	return slices.ContainsFunc(k.mission.Load().Handsets, func(h mission.Handset) bool {
		return h.Number == user || strings.EqualFold(h.Name, user)
	})
}

// trunks opens connections to other kits for the telephony.
type trunks struct{ o *overlay }

// absentFor is how long a kit that the ring has lost is tried: the registrations of its handsets outlive it, and
// whoever calls one of them is to be told before giving up.
const absentFor = 3 * time.Second

// Open implements proxy.Trunks.
func (t trunks) Open(ctx context.Context, kit string) (proxy.Trunk, error) {
	u := t.o.usage.Load()
	if u == nil {
		return nil, errNotRunning
	}
	id, err := wire.ParseNodeID(kit)
	if err != nil {
		return nil, err
	}
	if n := t.o.node.Load(); n != nil {
		if s, err := n.Snapshot(ctx); err == nil && !slices.Contains(s.Ring, id) {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, absentFor)
			defer cancel()
		}
	}
	c, err := u.Trunk(ctx, id)
	if err != nil {
		return nil, err // not c: a nil *Trunk in an interface is not nil
	}
	return c, nil
}
