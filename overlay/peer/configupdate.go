package peer

import (
	"slices"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// updates is what this node knows of configurations that differ from its own.
type updates struct {
	newest *ident.Document // handed to Config.NewDocument; nil: none was
	share  Bucket          // ConfigUpdates of this node: each carries a whole document
	offers Bucket          // the same for those to kits that were only announced, as anybody can announce some
}

// sameSequence is RFC 6940 §6.3.2.1: "When a destination node receives a request, it MUST check that the
// configuration_sequence field is equal to its own configuration sequence number. If they do not match, the
// node MUST generate an error, either Error_Config_Too_Old or Error_Config_Too_New. In addition, if the
// configuration file in the request is too old, the node MUST generate a ConfigUpdate message to update the
// requesting node."
func (p *Peer) sameSequence(r *request) bool {
	own := p.params.sequence
	if r.ConfigSequence == own {
		return true
	}
	if r.Code == wire.ConfigUpdateReq && r.ConfigSequence == wire.AnySequence {
		return true
	}
	if r.ConfigSequence == wire.AnySequence || ident.CompareSequence(r.ConfigSequence, own) > 0 {
		p.fail(r, wire.ErrorConfigTooNew, "")
		return false
	}
	p.fail(r, wire.ErrorConfigTooOld, "")
	if r.from != nil {
		p.pushConfig(p.wayBack(r))
	}
	return false
}

// outdated is called with the error answers to this node's requests: of a node that has an older configuration, or that
// lacks a Kind of it. "Whenever a node detects that another node has old configuration data, it MUST generate a
// ConfigUpdate request." (RFC 6940 §6.5.4)
func (p *Peer) outdated(t *transaction, from wire.NodeID, e wire.ErrorResponse) {
	if t.msg.Code == wire.ConfigUpdateReq {
		return
	}
	// The way that the request went, to that node itself.
	dest := append(slices.Clone(t.msg.Dest[:len(t.msg.Dest)-1]), wire.ToNode(from))
	switch e.Code {
	case wire.ErrorConfigTooNew:
		p.pushConfig(dest)
	case wire.ErrorUnknownKind:
		p.pushKinds(dest, e.Info)
	}
}

// pushConfig sends the configuration document to a node that has an older one.
func (p *Peer) pushConfig(dest []wire.Destination) {
	p.pushUpdate(dest, p.ownDocument(), &p.updates.share)
}

func (p *Peer) ownDocument() wire.ConfigUpdateRequest {
	return wire.ConfigUpdateRequest{Type: wire.ConfigUpdateConfig, Config: p.cfg.Document.Raw()}
}

// pushKinds sends the definitions of Kinds that a node said it does not know: "A node which receives this error MUST
// generate a ConfigUpdate message which contains the appropriate Kind definition (assuming which, in fact, a Kind which
// was defined in the configuration document was used)." (RFC 6940 §7.4.1.2)
func (p *Peer) pushKinds(dest []wire.Destination, info []byte) {
	unknown, err := wire.ParseKindList(info)
	if err != nil {
		p.count.Malformed++
		return
	}
	u := wire.ConfigUpdateRequest{Type: wire.ConfigUpdateKinds}
	for i, k := range unknown {
		if block, ok := p.kinds.block(k); ok && !slices.Contains(unknown[:i], k) {
			u.Kinds = append(u.Kinds, block)
		}
	}
	if len(u.Kinds) > 0 {
		p.pushUpdate(dest, u, &p.updates.share)
	}
}

// pushUpdate sends a ConfigUpdate, unless there were too many: whoever refuses everything must not make this node send
// him documents without end.
func (p *Peer) pushUpdate(dest []wire.Destination, u wire.ConfigUpdateRequest, share *Bucket) {
	if !share.Take(p.now) {
		return
	}
	body, err := u.AppendBinary(nil)
	if err != nil {
		p.count.Unencodable++
		return
	}
	p.count.ConfigUpdates++
	p.send(Outgoing{Dest: dest, Code: wire.ConfigUpdateReq, Body: body, seqAny: true}, func(rep Reply) {
		if rep.Err != nil {
			p.log.Debug("configuration not taken", "peer", dest[len(dest)-1].Node, "err", rep.Err)
		}
	})
}

// Offer sends this node's configuration document to a node that was seen with another one of the same sequence, which no
// header tells (docs/adr/0019). Whoever has the one that is superseded takes the other.
func (p *Peer) Offer(now time.Time, id wire.NodeID) {
	began := p.enter(now)
	p.pushUpdate(toNode(id), p.ownDocument(), &p.updates.offers)
	p.leave(began)
}

// configUpdateRequest is RFC 6940 §6.5.4.2: a configuration "MUST be processed only if … the sequence number
// in the document is greater than the current configuration sequence number [and] the Configuration Document
// is correctly digitally signed". Of two documents of one sequence the one that supersedes the other counts as the
// greater (docs/adr/0019). What is accepted goes to Config.NewDocument, each document once, whoever brings it
// again until the node is made anew.
func (p *Peer) configUpdateRequest(r *request) {
	u, err := wire.ParseConfigUpdate(r.Body)
	if err != nil {
		p.fail(r, wire.ErrorInvalidMessage, "ConfigUpdate")
		return
	}
	switch u.Type {
	case wire.ConfigUpdateConfig:
	case wire.ConfigUpdateKinds:
		p.kindUpdate(r, u.Kinds)
		return
	default:
		p.count.ConfigRefuse++
		p.fail(r, wire.ErrorInvalidMessage, "ConfigUpdate type")
		return
	}
	crypto, cur, now := p.cfg.Crypto, p.cfg.Document, p.now
	if !p.work(Verifying, func() func() {
		doc, err := crypto.ParseDocument(u.Config, cur, now)
		return func() { p.documentVerified(r, doc, err) }
	}) {
		p.ans.drop(r)
	}
}

func (p *Peer) documentVerified(r *request, doc *ident.Document, err error) {
	newest := p.updates.newest
	switch {
	case err != nil:
		p.count.ConfigRefuse++
		p.log.Warn("configuration refused", "from", r.peer.NodeID, "err", err)
		p.fail(r, wire.ErrorForbidden, "signature")
	case newest != nil && newest.Same(doc):
		p.answer(r, wire.ConfigUpdateAns, nil, nil)
	case !ident.Supersedes(p.cfg.Document, doc), newest != nil && !ident.Supersedes(newest, doc):
		p.count.ConfigRefuse++
		p.fail(r, wire.ErrorConfigTooOld, "")
	default:
		p.updates.newest = doc
		p.answer(r, wire.ConfigUpdateAns, nil, nil)
		p.log.Info("newer configuration", "from", r.peer.NodeID, "sequence", doc.Sequence)
		p.cfg.Env.NewDocument(doc)
	}
}
