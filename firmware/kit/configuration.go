package kit

import (
	"context"
	"fmt"
	"slices"
	"time"

	"fieldkit/firmware/mission"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
)

// offerEvery is how often kits with another document of the same sequence are offered this kit's.
const offerEvery = 10 * time.Second

// newDocument takes a newer configuration document that a neighbour brought, signed as it must be.
func (k *Kit) newDocument(d *ident.Document) {
	k.change.Lock()
	defer k.change.Unlock()
	own := k.mission.Load().Document()
	if ident.Conflict(own, d) {
		k.twoStewards(d.Sequence)
	}
	if !ident.Supersedes(own, d) {
		return // it came by another way meanwhile, or a newer one did
	}
	m, err := k.mission.Load().WithDocument(d)
	if err == nil {
		err = k.changeDocument(m)
	}
	if err != nil {
		k.health.Warn("configuration", err.Error())
	}
}

// changeDocument goes over to the document of m: it is kept, and the kit takes part anew by its rules. Calls to other
// kits end with the old membership. k.change is held.
func (k *Kit) changeDocument(m *mission.Mission) error {
	if err := m.WithoutRootKey().Save(k.ownFile()); err != nil {
		return fmt.Errorf("newer configuration document not kept: %w", err)
	}
	if k.mission.Load().Document().Sequence != m.Document().Sequence {
		k.health.Remove("stewards") // who signed the next one has seen what there was
	}
	k.mission.Store(m.WithoutRootKey())
	k.health.OK("configuration")
	k.checkMembership()
	k.log.Info("configuration changes", "sequence", m.Document().Sequence, "revoked", len(m.Document().BadNodes))
	if d := k.overlay.found.Load(); d != nil {
		if err := d.SetText(k.announcement()); err != nil {
			return err
		}
	}
	select {
	case k.overlay.renew <- struct{}{}:
	default: // it will be taken up by the membership that is being made
	}
	return nil
}

// checkMembership tells people whether the kit is a member. The others never tell a kit that it was revoked, they only
// refuse it; but who wiped it, or revoked the wrong one, stands before it with the file that says so.
func (k *Kit) checkMembership() {
	switch m := k.mission.Load(); {
	case slices.Contains(m.Document().BadNodes, k.id.NodeID()):
		k.health.Fault("mission", "this kit was revoked: no other kit links with it")
	case m.Founded:
		k.health.Warn("mission", "none was given: this kit founded its own and serves its handsets alone")
	default:
		k.health.OK("mission")
	}
}

// twoStewards tells people what no kit can mend (docs/adr/0019).
func (k *Kit) twoStewards(sequence uint16) {
	k.health.Warn("stewards", fmt.Sprintf("there are two configurations of sequence %d; all kits go over to one of them, and what only the other says, such as a revocation, is lost until they are merged", sequence))
}

// agreeOnConfiguration offers this kit's document to kits that announce another one of the same sequence: whoever has
// the one that is superseded takes the other. It also tells when the document has expired, which changes nothing else
// (docs/adr/0017).
func (k *Kit) agreeOnConfiguration(ctx context.Context, n *node.Node) error {
	tick := time.NewTicker(offerEvery)
	defer tick.Stop()
	for {
		for _, id := range k.rivals(n.Document()) {
			k.twoStewards(n.Document().Sequence)
			n.OfferConfiguration(id)
		}
		if d := n.Document(); d.Expired(time.Now()) {
			k.health.Warn("configuration", fmt.Sprintf("it expired on %s; the kit goes on with it", d.Expiration.Format(time.DateOnly)))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// rivals are the kits of this overlay that announce another document of d's sequence.
func (k *Kit) rivals(d *ident.Document) (ids []wire.NodeID) {
	mine := k.announcement().Overlay
	o := &k.overlay
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, s := range o.seen {
		if t := s.peer.Text; t.Overlay != mine || t.Sequence != d.Sequence || t.DocumentHash == "" || t.DocumentHash == d.ShortHash() {
			continue
		}
		if id, err := wire.ParseNodeID(key.node); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}
