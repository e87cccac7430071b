package certusage

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
)

// put stores the certificate of signer at p: where it is already, or at the end ("New certificates are stored at the end of
// the list", RFC 6940 §8), or, when the array is as long as its Kind allows, in a gap or over an older one of the same
// Node-ID. Those of others are left alone.
func (u *Usage) put(ctx context.Context, p place, signer *ident.Signer) error {
	there, err := u.list(ctx, p)
	if err != nil {
		return err
	}
	der := signer.Certificates()[0]
	at := wire.LastIndex
	if i := find(there, signer.NodeID(), der); i >= 0 {
		at = there[i].Value.Index
	}
	err = u.store(ctx, p, signer, u.cfg.Lifetime, node.Value{Index: at, Data: der})
	if at != wire.LastIndex || !node.IsRemote(err, wire.ErrorDataTooLarge) {
		return err
	}
	free, ok := u.free(p.kind, there, signer.NodeID())
	if !ok {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return u.store(ctx, p, signer, u.cfg.Lifetime, node.Value{Index: free, Data: der})
}

// free finds an index for a certificate of id when nothing fits at the end.
func (u *Usage) free(kind wire.KindID, there []node.Fetched, id wire.NodeID) (uint32, bool) {
	k, _ := u.cfg.Node.Document().Kind(kind)
	taken := func(i uint32) func(node.Fetched) bool {
		return func(f node.Fetched) bool { return f.Value.Exists && f.Value.Index == i }
	}
	for i := range k.MaxCount {
		if !slices.ContainsFunc(there, taken(i)) {
			return i, true
		}
	}
	oldest := -1
	for i, f := range there {
		if f.Signer.NodeID == id && (oldest < 0 || f.StorageTime < there[oldest].StorageTime) {
			oldest = i
		}
	}
	if oldest < 0 {
		return 0, false
	}
	return there[oldest].Value.Index, true
}

// remove takes the certificate of signer away. "The owner SHOULD use a lifetime for the nonexistent value that is at least as
// long as the remainder of the lifetime of the value it is replacing" (RFC 6940 §7.4.1.3).
func (u *Usage) remove(ctx context.Context, p place, signer *ident.Signer) error {
	there, err := u.list(ctx, p)
	if err != nil {
		return err
	}
	i := find(there, signer.NodeID(), signer.Certificates()[0])
	if i < 0 {
		return nil
	}
	rest := time.Duration(there[i].Lifetime)*time.Second + minute
	return u.store(ctx, p, signer, rest, node.Value{Index: there[i].Value.Index, Remove: true})
}

// find is the place in the list of a certificate that id stored; -1: nowhere.
func find(list []node.Fetched, id wire.NodeID, der []byte) int {
	return slices.IndexFunc(list, func(f node.Fetched) bool {
		return f.Value.Exists && f.Signer.NodeID == id && bytes.Equal(f.Value.Value, der)
	})
}

func (u *Usage) list(ctx context.Context, p place) ([]node.Fetched, error) {
	k, err := u.cfg.Node.Fetch(ctx, u.cfg.Node.ResourceID(p.name), p.kind)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	return k.Values, nil
}

func (u *Usage) store(ctx context.Context, p place, signer *ident.Signer, lifetime time.Duration, v node.Value) error {
	if _, err := u.cfg.Node.Store(ctx, u.cfg.Node.ResourceID(p.name), p.kind, lifetime, signer, v); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	return nil
}

// ByNode looks up the certificates of a Node-ID: the newest first, each with a chain that Trust accepts, for that Node-ID, and
// stored by it. There may be several while one replaces another. It fails with ErrNotFound when none is left.
func (u *Usage) ByNode(ctx context.Context, id wire.NodeID) ([]*ident.Peer, error) {
	list, err := u.list(ctx, u.byNode(id))
	if err != nil {
		return nil, err
	}
	return u.accept(list, nil, func(f node.Fetched, p *ident.Peer) bool {
		return f.Signer.NodeID == id && slices.Contains(p.NodeIDs, id)
	})
}

// ByUser looks up the certificates for a user name: the newest first, each with a chain that Trust accepts, for that name, and
// stored by its owner. Several kits may serve one user; in an overlay of self-signed certificates anybody may claim any name. It
// fails with ErrNotFound when none is left.
func (u *Usage) ByUser(ctx context.Context, name string) ([]*ident.Peer, error) {
	list, err := u.list(ctx, u.byUser(name))
	if err != nil {
		return nil, err
	}
	// A handset's certificate was issued by its kit, whose own is needed to verify one that is not the signer's present one.
	issuers := func(id wire.NodeID) (chain [][]byte) {
		kits, err := u.ByNode(ctx, id)
		if err != nil {
			return nil
		}
		for _, k := range kits[:min(len(kits), ident.MaxChain-1)] {
			chain = append(chain, k.Leaf.Raw)
		}
		return chain
	}
	return u.accept(list, issuers, func(f node.Fetched, p *ident.Peer) bool {
		return f.Signer.User == name && p.User == name && slices.Contains(p.NodeIDs, f.Signer.NodeID)
	})
}

// accept keeps what verifies and fits. The signature of each value was verified by node; who may sign it is checked here.
func (u *Usage) accept(list []node.Fetched, issuers func(wire.NodeID) [][]byte, fits func(node.Fetched, *ident.Peer) bool) (peers []*ident.Peer, err error) {
	now := u.cfg.Now()
	slices.SortStableFunc(list, func(a, b node.Fetched) int {
		switch {
		case a.StorageTime > b.StorageTime:
			return -1
		case a.StorageTime < b.StorageTime:
			return 1
		}
		return 0
	})
	for _, f := range list {
		if !f.Value.Exists {
			continue
		}
		p := f.Signer // usually the certificate stored is the one that signed
		if !bytes.Equal(f.Value.Value, p.Leaf.Raw) {
			chain := [][]byte{f.Value.Value, f.Signer.Leaf.Raw}
			if p, err = u.cfg.Trust.VerifyChain(chain, now); err != nil && issuers != nil {
				p, err = u.cfg.Trust.VerifyChain(append(chain[:1], issuers(f.Signer.NodeID)...), now)
			}
			if err != nil {
				continue
			}
		}
		if fits(f, p) && !slices.ContainsFunc(peers, func(o *ident.Peer) bool { return o.Hash == p.Hash }) {
			peers = append(peers, p)
		}
	}
	if len(peers) == 0 {
		return nil, ErrNotFound
	}
	return peers, nil
}
