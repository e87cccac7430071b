package nodetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
)

// Mission is an authority and its signed configuration document.
type Mission struct {
	Authority *ident.Authority
	Document  *ident.Document
}

// NewMission makes one with this project's values; change, if not nil, alters the document before it is signed.
func NewMission(overlay string, change func(*ident.Document)) (*Mission, error) {
	a, err := ident.NewAuthority(overlay, 16)
	if err != nil {
		return nil, err
	}
	d := ident.NewDocument(a)
	if change != nil {
		change(d)
	}
	s, err := a.Signer()
	if err != nil {
		return nil, err
	}
	if d, err = d.Sign(s); err != nil {
		return nil, err
	}
	return &Mission{a, d}, nil
}

// Kit is one simulated kit: what it keeps over a restart, and its running node.
type Kit struct {
	Node     *node.Node
	Host     *Host
	Identity *ident.Identity
	Trust    *ident.Trust
	Addr     netip.AddrPort
	Times    *Times
	stop     context.CancelFunc
	ended    chan error
}

// ID is the kit's Node-ID.
func (k *Kit) ID() wire.NodeID { return k.Identity.NodeID() }

// Times keeps a storage time in memory.
type Times struct {
	mu   sync.Mutex
	ms   uint64
	Fail error // what Save answers
	Save int   // how often it was asked
}

// LoadStorageTime is node.StorageTimes'.
func (t *Times) LoadStorageTime() (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ms, nil
}

// SaveStorageTime is node.StorageTimes'.
func (t *Times) SaveStorageTime(ms uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Save++
	if t.Fail == nil {
		t.ms = ms
	}
	return t.Fail
}

// NewKit makes a kit of the mission at the i-th address of a network. Start starts it.
func (m *Mission) NewKit(i int) (*Kit, error) {
	id, err := m.Authority.NewIdentity()
	if err != nil {
		return nil, err
	}
	trust, err := ident.TrustFor(m.Document)
	if err != nil {
		return nil, err
	}
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), wire.DefaultPort)
	return &Kit{Identity: id, Trust: trust, Addr: addr, Times: &Times{}}, nil
}

// Start puts the kit on a network and runs its node. change, if not nil, alters the node's configuration.
func (m *Mission) Start(n *Network, k *Kit, change func(*node.Config)) error {
	k.Host = n.Join(k.Addr, k.Identity, k.Trust)
	cfg := node.Config{Identity: k.Identity, Trust: k.Trust, Document: m.Document, Transport: k.Host, StorageTimes: k.Times}
	if change != nil {
		change(&cfg)
	}
	var err error
	if k.Node, err = node.New(cfg); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.stop, k.ended = cancel, make(chan error, 1)
	go func(n *node.Node, ended chan error) { ended <- n.Run(ctx) }(k.Node, k.ended)
	return nil
}

// Stop shuts the kit's node down with a goodbye.
func (k *Kit) Stop() error {
	if k.stop == nil {
		return nil
	}
	k.stop()
	k.stop = nil
	return <-k.ended
}

// Kill takes the kit off the network as if its battery was pulled: nobody is told.
func (k *Kit) Kill() error {
	k.Host.Vanish()
	return k.Stop()
}

// Meet lets every running kit discover every other one that it can reach.
func (n *Network) Meet(kits ...*Kit) {
	for _, a := range kits {
		for _, b := range kits {
			if _, ok := n.passes(a.Host, b.Host); ok && a != b {
				a.Node.Discovered(b.ID(), []netip.AddrPort{b.Addr})
			}
		}
	}
}

// WaitRing waits until every kit sees exactly the ring of these kits, ordered, with the right neighbours, and
// returns how long that took; the error says what was wrong at the end.
func WaitRing(limit time.Duration, kits ...*Kit) (time.Duration, error) {
	began := time.Now()
	for {
		err := CheckRing(kits...)
		if err == nil {
			return time.Since(began), nil
		}
		if time.Since(began) > limit {
			return time.Since(began), err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// CheckRing is the invariant of a converged ring.
func CheckRing(kits ...*Kit) error {
	want := make([]wire.NodeID, len(kits))
	for i, k := range kits {
		want[i] = k.ID()
	}
	sortIDs(want)
	var errs error
	for _, k := range kits {
		s, err := k.Node.Snapshot(context.Background())
		if err != nil {
			return err
		}
		errs = errors.Join(errs, checkView(k.ID(), want, s))
	}
	return errs
}

func checkView(self wire.NodeID, ring []wire.NodeID, s node.Snapshot) error {
	at, n := 0, len(ring)
	for i, id := range ring {
		if id == self {
			at = i
		}
	}
	if !equalIDs(s.Ring, ring) {
		return fmt.Errorf("%v sees a ring of %d, want %d", self, len(s.Ring), n)
	}
	var pred, succ []wire.NodeID
	for i := 1; i <= min(3, n-1); i++ {
		succ = append(succ, ring[(at+i)%n])
		pred = append(pred, ring[(at-i+n)%n])
	}
	if !equalIDs(s.Successors, succ) || !equalIDs(s.Predecessors, pred) {
		return fmt.Errorf("%v has neighbours %v and %v, want %v and %v", self, s.Predecessors, s.Successors, pred, succ)
	}
	return nil
}

func sortIDs(ids []wire.NodeID) { slices.SortFunc(ids, wire.NodeID.Compare) }

func equalIDs(a, b []wire.NodeID) bool { return slices.Equal(a, b) }
