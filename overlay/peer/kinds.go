package peer

import (
	"errors"
	"slices"

	"fieldkit/overlay/config"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// maxLearned bounds the Kinds beside those of the document.
const maxLearned = 32

// kindSet are the Kinds in force: those of the document, and those that a ConfigUpdate of type "kind" brought since.
// It does not change: jobs hold it.
type kindSet struct {
	doc     *ident.Document
	learned []learnedKind
}

type learnedKind struct {
	kind  ident.Kind
	block []byte // as it came, to pass on
}

// model is a wire.ModelOf.
func (s *kindSet) model(id wire.KindID) (wire.DataModel, bool) {
	k, ok := s.kind(id)
	return k.Model, ok
}

func (s *kindSet) kind(id wire.KindID) (ident.Kind, bool) {
	if k, ok := s.doc.Kind(id); ok {
		return k, true
	}
	if i := slices.IndexFunc(s.learned, func(k learnedKind) bool { return k.kind.ID == id }); i >= 0 {
		return s.learned[i].kind, true
	}
	return ident.Kind{}, false
}

// block is what tells others of a Kind.
func (s *kindSet) block(id wire.KindID) ([]byte, bool) {
	if b, ok := s.doc.KindBlock(id); ok {
		return b, true
	}
	if i := slices.IndexFunc(s.learned, func(k learnedKind) bool { return k.kind.ID == id }); i >= 0 {
		return s.learned[i].block, true
	}
	return nil, false
}

func (s *kindSet) all() []ident.Kind {
	list := slices.Clone(s.doc.Kinds)
	for _, k := range s.learned {
		list = append(list, k.kind)
	}
	return list
}

// Why Kinds are not taken.
var (
	errKindConflict = errors.New("conflicts with a known Kind")
	errKindPolicy   = errors.New("access control policy not supported")
	errKindsFull    = errors.New("too many Kinds")
)

// with returns the set with more Kinds. "if the Kind update conflicts with an existing known Kind (i.e., it is signed by
// a different signer), then it should be rejected with an Error_Forbidden error" (RFC 6940 §6.5.4.2). A kind-block has
// no sequence number, so that an older one could be played back over a newer one; a known Kind is therefore changed by a
// new document only, and any block that says something else of it conflicts.
func (s *kindSet) with(more []learnedKind) (*kindSet, error) {
	out := &kindSet{doc: s.doc, learned: slices.Clone(s.learned)}
	for _, k := range more {
		switch known, ok := out.kind(k.kind.ID); {
		case ok && sameKind(known, k.kind):
		case ok:
			return nil, errKindConflict
		case !slices.Contains([]ident.AccessControl{ident.UserMatch, ident.NodeMatch, ident.UserNodeMatch, ident.NodeMultiple}, k.kind.AccessControl):
			return nil, errKindPolicy
		case len(out.learned) >= maxLearned:
			return nil, errKindsFull
		default:
			out.learned = append(out.learned, k)
		}
	}
	return out, nil
}

func sameKind(a, b ident.Kind) bool {
	return a.ID == b.ID && a.Model == b.Model && a.AccessControl == b.AccessControl && a.MaxCount == b.MaxCount &&
		a.MaxSize == b.MaxSize && a.MaxMultiple == b.MaxMultiple
}

// kindUpdate is a ConfigUpdate of type "kind": "it MUST be processed only if it is correctly digitally signed by an
// acceptable Kind signer (i.e., one listed in the current configuration file)" (RFC 6940 §6.5.4.2).
func (p *Peer) kindUpdate(r *request, blocks [][]byte) {
	if p.cfg.Kinds == nil {
		p.refuseKinds(r, errors.New("no Kinds are taken"))
		return
	}
	verifier, doc, now := p.cfg.Kinds, p.cfg.Document, p.now
	if !p.work(Verifying, func() func() {
		var more []learnedKind
		var err error
		for i := 0; i < len(blocks) && err == nil; i++ {
			var k ident.Kind
			if k, err = config.ParseKindBlock(blocks[i]); err == nil {
				err = k.Verify(doc, verifier, now)
			}
			more = append(more, learnedKind{k, blocks[i]})
		}
		return func() { p.kindsVerified(r, more, err) }
	}) {
		p.ans.drop(r)
	}
}

func (p *Peer) kindsVerified(r *request, more []learnedKind, err error) {
	var set *kindSet
	if err == nil {
		set, err = p.kinds.with(more)
	}
	if err != nil {
		p.refuseKinds(r, err)
		return
	}
	if len(set.learned) != len(p.kinds.learned) {
		// "then the node MUST reconfigure itself to match the new information. This may include adding permissions
		// for new Kinds"
		p.kinds = set
		p.store.SetKinds(set.all())
		p.log.Info("more Kinds", "from", r.peer.NodeID, "kinds", len(set.learned))
	}
	p.answer(r, wire.ConfigUpdateAns, nil, nil)
}

func (p *Peer) refuseKinds(r *request, err error) {
	p.count.ConfigRefuse++
	p.log.Warn("Kinds refused", "from", r.peer.NodeID, "err", err)
	p.fail(r, wire.ErrorForbidden, "kind")
}
