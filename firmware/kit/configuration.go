package kit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"fieldkit/board/store"
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
	if o := k.overlay.left.Load(); o != nil && !ident.Supersedes(o, d) {
		return // the overlay went on to what this kit cannot support, and does not go back
	}
	if err := k.follow(d); err != nil {
		k.health.Warn("configuration", err.Error())
	}
}

// follow goes over to d or, where it asks for what this program cannot do, out of the overlay. k.change is held.
func (k *Kit) follow(d *ident.Document) error {
	m := k.mission.Load()
	if d.Supported() != nil {
		if err := d.Verify(m.Document(), m.Trust(), time.Time{}); err != nil { // certificates of a mission do not expire
			return err
		}
		k.leaveOverlay(d)
		return nil
	}
	m, err := m.WithDocument(d)
	if err != nil {
		return err
	}
	return k.changeDocument(m)
}

// unsupportedItem is the document for which the kit left the overlay, kept so that a restart does not let it back in.
const unsupportedItem = "unsupported.relo"

// leaveOverlay is RFC 6940 §11.1: "If a node is not capable of supporting the new requirements, it MUST exit the
// overlay." The handsets of this kit are served on. k.change is held.
func (k *Kit) leaveOverlay(d *ident.Document) {
	if err := k.store.Save(unsupportedItem, d.Raw()); err != nil {
		k.log.Error("a restart lets the kit back into the overlay that it left", "err", err)
	}
	k.overlay.left.Store(d)
	k.checkConfiguration()
	k.log.Error("leaving the overlay", "sequence", d.Sequence, "why", d.Supported())
	k.renewMembership()
}

// stayOutside is for a start: the kit asks again whether it can support what it left for, as the program may be newer.
func (k *Kit) stayOutside() {
	b, err := k.store.Load(unsupportedItem)
	if errors.Is(err, store.ErrNotFound) {
		return
	}
	if err != nil {
		k.log.Warn("document for which the kit left the overlay not read", "err", err)
		return
	}
	d, err := ident.ParseDocument(b, k.mission.Load().Overlay)
	if err == nil {
		k.newDocument(d)
	}
	if k.overlay.left.Load() == nil {
		k.forgetUnsupported() // it is of another mission, or no reason any more
	}
}

func (k *Kit) forgetUnsupported() {
	if err := k.store.Remove(unsupportedItem); err != nil && !errors.Is(err, store.ErrNotFound) {
		k.log.Warn("document for which the kit left the overlay not removed", "err", err)
	}
}

// checkConfiguration tells people whether the kit can support the configuration.
func (k *Kit) checkConfiguration() {
	if d := k.overlay.left.Load(); d != nil {
		k.health.Fault("configuration", fmt.Sprintf("this kit left the other kits, as it cannot support configuration %d: %v", d.Sequence, d.Supported()))
		return
	}
	k.health.OK("configuration")
}

// renewMembership has the overlay's task begin anew with what is in force now.
func (k *Kit) renewMembership() {
	select {
	case k.overlay.renew <- struct{}{}:
	default: // it will be taken up by the membership that is being made
	}
}

// changeDocument goes over to the document of m: it is kept, and the kit takes part anew by its rules. Calls to other
// kits end with the old membership. k.change is held.
func (k *Kit) changeDocument(m *mission.Mission) error {
	if k.pairing.joined.Load() {
		return errors.New("the kit is about to join another mission")
	}
	if err := m.WithoutRootKey().Save(k.ownFile()); err != nil {
		return fmt.Errorf("newer configuration document not kept: %w", err)
	}
	if k.mission.Load().Document().Sequence != m.Document().Sequence {
		k.overlay.twoSigned.Store(false)
		k.health.Remove("stewards") // who signed the next one has seen what there was
	}
	k.mission.Store(m.WithoutRootKey())
	if o := k.overlay.left.Load(); o != nil && ident.Supersedes(o, m.Document()) {
		k.overlay.left.Store(nil)
		k.forgetUnsupported()
	}
	k.checkConfiguration()
	k.checkMembership()
	k.log.Info("configuration changes", "sequence", m.Document().Sequence, "revoked", len(m.Document().BadNodes))
	if d := k.overlay.found.Load(); d != nil {
		if err := d.SetText(k.announcement()); err != nil {
			return err
		}
	}
	k.renewMembership()
	return nil
}

// checkMembership tells people whether the kit is a member. The others never tell a kit that it was revoked, they only
// refuse it; but who wiped it, or revoked the wrong one, stands before it with the file that says so.
func (k *Kit) checkMembership() {
	switch m := k.mission.Load(); {
	case slices.Contains(m.Document().BadNodes, k.id.NodeID()):
		k.health.Fault("mission", "this kit was revoked: no other kit links with it")
	case m.Founded && k.isAlone():
		k.health.Warn("mission", "none was given: this kit founded its own and serves its handsets alone")
	default:
		k.health.OK("mission")
	}
}

// isAlone is foundedAlone; who cannot read whom it let in may be.
func (k *Kit) isAlone() bool {
	alone, err := k.foundedAlone()
	return alone || err != nil
}

// twoStewards tells people what no kit can mend (docs/adr/0019).
func (k *Kit) twoStewards(sequence uint16) {
	k.overlay.twoSigned.Store(true)
	k.health.Warn("stewards", fmt.Sprintf("there are two configurations of sequence %d; all kits go over to one of them, and what only the other says, such as a revocation, is lost until they are merged", sequence))
}

// tellRivals tells people of kits that announce another document of the same sequence. Anybody on the link can announce
// anything, so it is no more than that until a signed one was seen.
func (k *Kit) tellRivals(ids []wire.NodeID, sequence uint16) {
	if len(ids) == 0 || k.overlay.twoSigned.Load() {
		return
	}
	k.health.Warn("stewards", fmt.Sprintf("announced by %v, and not shown to this kit: another configuration of sequence %d; if a steward signed it, what only one of the two says is lost until they are merged", ids[0], sequence))
}

// agreeOnConfiguration offers this kit's document to kits that announce another one of the same sequence: whoever has
// the one that is superseded takes the other. It also tells when the document has expired, which changes nothing else
// (docs/adr/0017).
func (k *Kit) agreeOnConfiguration(ctx context.Context, n *node.Node) error {
	tick := time.NewTicker(offerEvery)
	defer tick.Stop()
	for {
		rivals := k.rivals(n.Document())
		k.tellRivals(rivals, n.Document().Sequence)
		for _, id := range rivals {
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

// rivals are the kits of this overlay that announce another document of d's sequence, in the order of their Node-IDs.
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
	slices.SortFunc(ids, func(a, b wire.NodeID) int { return strings.Compare(a.String(), b.String()) })
	return ids
}
