package kit

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fieldkit/board"
	"fieldkit/board/netif"
	"fieldkit/board/store"
	"fieldkit/firmware/task"
	"fieldkit/overlay/certusage"
	"fieldkit/overlay/discovery"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/link"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/overlink"
	"fieldkit/overlay/sipusage"
	"fieldkit/overlay/wire"
)

// overlay is the kit's membership in the overlay: one peer at a time, made anew when it failed.
type overlay struct {
	links atomic.Pointer[link.Transport]
	node  atomic.Pointer[node.Node]
	usage atomic.Pointer[sipusage.Usage]
	certs atomic.Pointer[certusage.Usage] // nil where certificates are not stored
	found atomic.Pointer[discovery.Discovery]

	relaying atomic.Pointer[relaying] // nil while there is none
	renew    chan struct{}            // the configuration document changed; holds one

	left      atomic.Pointer[ident.Document] // what the kit cannot support and left the overlay for; nil: it takes part
	twoSigned atomic.Bool                    // a signed rival of the document in force was seen

	mu     sync.Mutex // guards what follows
	joined time.Duration
	ringAt time.Time // when the ring changed last
	seen   map[seenOn]seenPeer
}

// seenOn is one way on which a kit was seen: the same kit may be on several interfaces.
type seenOn struct{ node, iface string }

type seenPeer struct {
	peer  discovery.Peer
	since time.Time
}

// maxSeen bounds the kits that are remembered; discovery bounds its own table below that.
const maxSeen = discovery.MaxPeers

var errNotRunning = errors.New("the overlay is starting")

// run is the overlay's task: one membership after the other, a new one for each configuration document.
func (o *overlay) run(k *Kit) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		for {
			ended, cancel := context.WithCancel(ctx)
			go func() {
				select {
				case <-o.renew:
					cancel()
				case <-ended.Done():
				}
			}()
			part := o.takePart
			if o.left.Load() != nil {
				part = o.stayOut
			}
			err := part(ended, k, ready)
			cancel()
			if err != nil || ctx.Err() != nil {
				return err
			}
		}
	}
}

// stayOut is no membership (RFC 6940 §11.1), until ctx ends: there is another document, or the kit ends.
func (o *overlay) stayOut(ctx context.Context, k *Kit, ready func()) error {
	k.checkConfiguration() // the membership before may have said something of its own there
	ready()
	<-ctx.Done()
	return nil
}

// takePart is one membership: it lasts until ctx ends or something fails.
func (o *overlay) takePart(ctx context.Context, k *Kit, ready func()) error {
	m := k.mission.Load()
	t, err := link.New(link.Config{
		Identity:   k.id,
		Trust:      m.Trust(),
		Port:       k.cfg.Link.Port,
		Addresses:  k.linkAddresses,
		Interfaces: k.isLinkName,
		OnRefused: func(addr netip.AddrPort, reason error) {
			if n := o.node.Load(); n != nil {
				n.Refused(addr, reason)
			}
		},
		// What links are made of, the mission's document says (docs/adr/0014).
		NoICE:         m.Document().NoICE,
		LinkProtocols: m.Document().Rest.LinkProtocols,
		SharedSecret:  m.SharedSecret(),
		Servers:       o.servers,
		MaxMessage:    int(m.Document().MaxMessageSize),
		Log:           k.log,
	})
	if err != nil {
		return fmt.Errorf("links: %w", err)
	}
	defer t.Close()
	domains, err := domainsOf(m.Document())
	if err != nil {
		return err
	}
	n, err := node.New(node.Config{
		Identity: k.id, Trust: m.Trust(), Document: m.Document(), Transport: overlink.Transport(t),
		StorageTimes: storageTimes{k.store}, MayStore: domains.MayStore,
		NewDocument: k.newDocument, Diagnostics: k.diagnostics, Clock: k.tellTime, Log: k.log,
	})
	if err != nil {
		return err
	}
	u, err := sipusage.New(sipusage.Config{
		Node: n, Identity: k.id, Domains: domains, MaxAORs: 2 * maxHandsets,
		OnTrunk: k.telephony.newTrunk, Ahead: trunksAhead, Log: k.log,
	})
	if err != nil {
		return err
	}
	o.links.Store(t)
	o.node.Store(n)
	o.usage.Store(u)
	defer o.links.Store(nil)
	defer o.node.Store(nil)
	defer o.usage.Store(nil)
	relays, err := k.newRelaying(t, n, m)
	if err != nil {
		return err
	}
	o.relaying.Store(relays)
	defer o.relaying.Store(nil)
	certs, err := k.newCertificates(n, m)
	if err != nil {
		return err
	}
	o.certs.Store(certs)
	defer o.certs.Store(nil)
	changes, cancel := n.Subscribe()
	defer cancel()
	return both(ctx, n.Run, u.Run, relays.run(k), keepCertificates(certs), func(ctx context.Context) error {
		select {
		case <-n.Ready():
		case <-ctx.Done():
			return nil
		}
		k.offerNeighbours()
		if err := k.telephony.republish(); err != nil {
			return err
		}
		ready()
		return both(ctx,
			func(ctx context.Context) error { return o.watch(ctx, k, n, changes) },
			func(ctx context.Context) error { return k.greetNeighbours(ctx, n, t) },
			func(ctx context.Context) error { return k.agreeOnConfiguration(ctx, n) })
	})
}

// domainsOf says whose registrations the overlay takes (RFC 7904 §3.4): "If the element is not included,
// the default behavior is to accept any AOR".
func domainsOf(d *ident.Document) (sipusage.Domains, error) {
	switch r := d.Rest.Domains; {
	case r == nil:
		return sipusage.Domains{}, nil
	case r.Enabled:
		return sipusage.Patterns(r.Patterns...)
	default:
		return sipusage.OnlyDomain(d.InstanceName), nil
	}
}

// maxHandsets is how many handsets of one kit the overlay is told of, each by number and by name: far more than a
// radio carries.
const maxHandsets = 512

// trunksAhead is up to how many kits trunks are opened before a call needs them: where everybody is linked to
// everybody, a trunk more each costs little, and saves the first call the time of an AppAttach.
const trunksAhead = 16

// both runs functions until one fails or ctx ends, and waits for all of them. One that panics has failed: its part is
// made anew, as the task group does with what runs in its own goroutine, and the kit goes on.
func both(ctx context.Context, runs ...func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(runs))
	var all sync.WaitGroup
	for i, run := range runs {
		all.Go(func() {
			defer cancel()
			defer func() {
				if v := recover(); v != nil {
					errs[i] = &task.PanicError{Value: v, Stack: debug.Stack()}
				}
			}()
			errs[i] = run(ctx)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// watch notes when the kit first shares a ring and when kits are lost, until ctx ends.
func (o *overlay) watch(ctx context.Context, k *Kit, n *node.Node, changes <-chan struct{}) error {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	var before []wire.NodeID
	trunks := doubts{}
	for {
		s, err := n.Snapshot(ctx)
		if err != nil {
			return nil // the node ended, and so says its own error
		}
		if len(s.Ring) > 1 && o.joinedAfter() == 0 {
			o.mu.Lock()
			o.joined = time.Since(k.started)
			o.mu.Unlock()
			k.log.Info("joined", "kits", len(s.Ring), "after", time.Since(k.started).Round(time.Millisecond))
		}
		for _, id := range before {
			if !slices.Contains(s.Ring, id) {
				k.log.Info("kit lost", "node", id)
				k.lights.kitLost()
			}
		}
		if !slices.Equal(before, s.Ring) {
			o.mu.Lock()
			o.ringAt = time.Now()
			o.mu.Unlock()
		}
		before = s.Ring
		trunks.closeDead(ctx, k, s)
		k.judgeOverlay(s)
		k.lights.wake()
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		case <-tick.C:
		}
	}
}

func (o *overlay) joinedAfter() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.joined
}

// ringChangedWithin tells whether kits came or went within the last d.
func (o *overlay) ringChangedWithin(d time.Duration) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.ringAt.IsZero() && time.Since(o.ringAt) < d
}

// strangerWindow is how long a stranger counts as about after it was refused last; it stays in the list of kits.
const strangerWindow = 10 * time.Minute

// judgeOverlay keeps what the health tree says of the overlay.
func (k *Kit) judgeOverlay(s node.Snapshot) {
	// Those that came last are at the end.
	now := time.Now()
	about := slices.DeleteFunc(slices.Clone(s.Strangers), func(x node.Stranger) bool { return now.Sub(x.Last) >= strangerWindow })
	if n := len(about); n > 0 {
		k.health.Warn("strangers", fmt.Sprintf("%d refused, last %s: %s", n, about[n-1].From, about[n-1].Why))
	} else {
		k.health.OK("strangers")
	}
	if t := k.lights.lastLost(); !t.IsZero() && time.Since(t) < board.LostWindow {
		k.health.Warn("kits", "a kit was lost")
	} else {
		k.health.OK("kits")
	}
	if twin := k.twin(); twin != "" {
		k.health.Warn("numbers", fmt.Sprintf("kit %.8s has the number %d too", twin, k.number))
	} else {
		k.health.Remove("numbers")
	}
}

// twin is the kit of this mission with the number of this one, of several always the same; "" if there is none.
func (k *Kit) twin() (node string) {
	mine := k.announcement().Overlay
	o := &k.overlay
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, p := range o.seen {
		if int(p.peer.Number) == k.number && p.peer.Overlay == mine && (node == "" || key.node < node) {
			node = key.node
		}
	}
	return node
}

// linkAddresses are the addresses that the overlay may use. The handsets' IPv4 network is never among them: it is
// the same on every kit.
func (k *Kit) linkAddresses() []netip.Addr {
	if len(k.cfg.Link.Addresses) > 0 {
		return k.cfg.Link.Addresses
	}
	var r []netip.Addr
	for _, i := range *k.interfaces.Load() {
		if !k.isLink(i) {
			continue
		}
		for _, p := range i.Addrs {
			a := p.Addr()
			if !k.mayUse(a) || a.Unmap().Is4() && k.ipv6Alone(i.Name) {
				continue
			}
			if a.IsLinkLocalUnicast() && a.Is6() {
				a = a.WithZone(i.Name)
			}
			r = append(r, a)
		}
	}
	return r
}

// isLink tells whether an interface leads to other kits. Where the configuration names the overlay's addresses,
// only the interfaces that have them do: a kit that was given a loopback address must not speak on a cable.
func (k *Kit) isLink(i netif.Interface) bool {
	switch i.Role() {
	case netif.Unusable:
		return false
	case netif.Handset:
		// Other kits are stations of the access point that a kit makes itself; it sees them over IPv6.
		if !k.ipv6Alone(i.Name) || !i.Up || !i.Carrier || !i.Multicast {
			return false
		}
	case netif.Link:
		if i.Name == k.cfg.Handset.Interface && !k.ipv6Alone(i.Name) {
			return false
		}
	}
	given := len(k.cfg.Link.Addresses) == 0
	usable := false
	for _, p := range i.Addrs {
		if k.cfg.Handset.Network.Contains(p.Addr().Unmap()) && !k.ipv6Alone(i.Name) {
			return false
		}
		given = given || slices.Contains(k.cfg.Link.Addresses, p.Addr().Unmap())
		usable = usable || p.Addr().Is6() || !k.ipv6Alone(i.Name)
	}
	return given && usable && (len(k.cfg.Link.Interfaces) == 0 || slices.Contains(k.cfg.Link.Interfaces, i.Name))
}

func (k *Kit) isLinkName(name string) bool {
	for _, i := range *k.interfaces.Load() {
		if i.Name == name {
			return k.isLink(i)
		}
	}
	return false
}

func (k *Kit) mayUse(a netip.Addr) bool {
	return netif.Usable(a) && !k.cfg.Handset.Network.Contains(a.Unmap())
}

// discover announces the kit on every link interface and hands what it sees to the overlay.
func (k *Kit) discover(ctx context.Context, ready func()) error {
	d, err := discovery.New(discovery.Config{
		NodeID: k.id.NodeID().String(),
		Port:   k.cfg.Link.Port,
		Text:   k.announcement(),
		Watch:  k.discoveryInterfaces,
		UseAddr: func(a netip.Addr) bool {
			return k.mayUse(a)
		},
		OnEvent: k.discovered,
		Log:     k.log,
	})
	if err != nil {
		return err
	}
	k.overlay.found.Store(d)
	go func() {
		select {
		case <-d.Ready():
			ready()
		case <-ctx.Done():
		}
	}()
	return d.Run(ctx)
}

// announcement is what the kit says of itself to whoever shares the link.
func (k *Kit) announcement() discovery.Text {
	doc := k.mission.Load().Document()
	return discovery.Text{
		Overlay: fmt.Sprintf("%08x", wire.OverlayHash(doc.InstanceName)), Sequence: doc.Sequence,
		DocumentHash: doc.ShortHash(), Number: uint16(k.number), Name: k.name,
		System: k.offeredSystem(), UpdatePort: k.updatePort(),
	}
}

// discoveryInterfaces follows the interfaces for discovery, which has no need of their other properties.
func (k *Kit) discoveryInterfaces(ctx context.Context) <-chan []discovery.Interface {
	out := make(chan []discovery.Interface)
	go func() {
		defer close(out)
		for ifs := range netif.Watch(ctx, netif.Config{Log: k.log}) {
			var r []discovery.Interface
			for _, i := range ifs {
				if k.isLink(i) {
					r = append(r, discovery.Interface{Name: i.Name, Index: i.Index, MAC: i.MAC, MTU: i.MTU, Addrs: i.Addrs})
				}
			}
			select {
			case out <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// discovered takes one event of discovery. A kit of another overlay is listed and left alone.
func (k *Kit) discovered(e discovery.Event) {
	o := &k.overlay
	o.mu.Lock()
	key := seenOn{e.Peer.NodeID, e.Peer.Interface}
	if o.seen == nil {
		o.seen = map[seenOn]seenPeer{}
	}
	old, known := o.seen[key]
	gone := false // on every interface
	switch {
	case e.Kind == discovery.Down:
		delete(o.seen, key)
		gone = true
		for other := range o.seen {
			gone = gone && other.node != key.node
		}
	case known:
		o.seen[key] = seenPeer{e.Peer, old.since}
	case len(o.seen) < maxSeen:
		o.seen[key] = seenPeer{e.Peer, time.Now()}
	}
	o.mu.Unlock()
	if n := o.node.Load(); gone && n != nil {
		if id, err := wire.ParseNodeID(e.Peer.NodeID); err == nil {
			n.Lost(id)
		}
	}
	k.offerNeighbours()
	k.lights.wake()
}

// offerNeighbours tells the overlay of every kit of this mission that can be reached now.
func (k *Kit) offerNeighbours() {
	n := k.overlay.node.Load()
	if n == nil {
		return
	}
	mine := k.announcement().Overlay
	addrs := map[string][]netip.AddrPort{}
	o := &k.overlay
	o.mu.Lock()
	for key, s := range o.seen {
		if s.peer.Overlay == mine {
			addrs[key.node] = append(addrs[key.node], s.peer.Addrs...)
		}
	}
	o.mu.Unlock()
	for hex, a := range addrs {
		if id, err := wire.ParseNodeID(hex); err == nil {
			n.Discovered(id, a)
		}
	}
}

const (
	greetEvery   = 5 * time.Second
	greetTimeout = 3 * time.Second
)

// greetNeighbours finds the kits that the settings or the configuration document name and mDNS does not reach. Who is at
// an address, the certificate of a short link there tells (RFC 6940 §11.4: a bootstrap node is known by its address).
func (k *Kit) greetNeighbours(ctx context.Context, n *node.Node, t *link.Transport) error {
	tick := time.NewTicker(greetEvery)
	defer tick.Stop()
	for {
		if neighbours := k.bootstrapNodes(n.Document()); len(neighbours) > 0 {
			s, err := n.Snapshot(ctx)
			if err != nil {
				return nil
			}
			if len(s.Ring) <= len(neighbours) {
				for _, a := range neighbours {
					k.greet(ctx, n, t, a)
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// bootstrapNodes are the neighbours of the settings and the document's bootstrap-node elements (RFC 6940 §11.1), but for
// this kit itself.
func (k *Kit) bootstrapNodes(d *ident.Document) []netip.AddrPort {
	own := k.linkAddresses()
	all := slices.Concat(k.cfg.Link.Neighbours, d.Rest.BootstrapNodes)
	return slices.DeleteFunc(all, func(a netip.AddrPort) bool {
		return slices.Contains(own, a.Addr()) && a.Port() == k.cfg.Link.Port
	})
}

func (k *Kit) greet(ctx context.Context, n *node.Node, t *link.Transport, a netip.AddrPort) {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	c, err := t.Bootstrap(ctx, a)
	if err != nil {
		k.log.Debug("neighbour not greeted", "address", a, "err", err)
		return // not there now; it is greeted again
	}
	defer c.Close()
	n.Discovered(c.Peer().NodeID, []netip.AddrPort{a})
}

// storageTimes keeps the overlay's last storage time through a restart.
type storageTimes struct{ store *store.Store }

const storageTimeItem = "storage-time"

// LoadStorageTime implements node.StorageTimes.
func (s storageTimes) LoadStorageTime() (uint64, error) {
	b, err := s.store.Load(storageTimeItem)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// SaveStorageTime implements node.StorageTimes.
func (s storageTimes) SaveStorageTime(ms uint64) error {
	return s.store.Save(storageTimeItem, strconv.AppendUint(nil, ms, 10))
}
