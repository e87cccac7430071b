package node

import (
	"slices"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// updates is what this node knows of configurations that differ from its own.
type updates struct {
	newest *ident.Document // handed to Config.NewDocument; nil: none was
	share  bucket          // ConfigUpdates of this node: each carries a whole document
}

// sameSequence is RFC 6940 §6.3.2.1: "When a destination node receives a request, it MUST check that the
// configuration_sequence field is equal to its own configuration sequence number. If they do not match, the
// node MUST generate an error, either Error_Config_Too_Old or Error_Config_Too_New. In addition, if the
// configuration file in the request is too old, the node MUST generate a ConfigUpdate message to update the
// requesting node."
func (l *loop) sameSequence(r *request) bool {
	own := l.n.params.sequence
	if r.ConfigSequence == own {
		return true
	}
	if r.Code == wire.ConfigUpdateReq && r.ConfigSequence == wire.AnySequence {
		return true
	}
	if r.ConfigSequence == wire.AnySequence || ident.CompareSequence(r.ConfigSequence, own) > 0 {
		l.fail(r, wire.ErrorConfigTooNew, "")
		return false
	}
	l.fail(r, wire.ErrorConfigTooOld, "")
	if r.from != nil {
		l.pushConfig(l.wayBack(r))
	}
	return false
}

// outdated is called with the error answers to this node's requests: of a node that has an older configuration, or that
// lacks a Kind of it. "Whenever a node detects that another node has old configuration data, it MUST generate a
// ConfigUpdate request." (RFC 6940 §6.5.4)
func (l *loop) outdated(t *transaction, from wire.NodeID, e wire.ErrorResponse) {
	if t.msg.Code == wire.ConfigUpdateReq {
		return
	}
	// The way that the request went, to that node itself.
	dest := append(slices.Clone(t.msg.Dest[:len(t.msg.Dest)-1]), wire.ToNode(from))
	switch e.Code {
	case wire.ErrorConfigTooNew:
		l.pushConfig(dest)
	case wire.ErrorUnknownKind:
		l.pushKinds(dest, e.Info)
	}
}

// pushConfig sends the configuration document to a node that has an older one.
func (l *loop) pushConfig(dest []wire.Destination) {
	l.pushUpdate(dest, wire.ConfigUpdateRequest{Type: wire.ConfigUpdateConfig, Config: l.n.cfg.Document.Raw()})
}

// pushKinds sends the definitions of Kinds that a node said it does not know: "A node which receives this error MUST
// generate a ConfigUpdate message which contains the appropriate Kind definition (assuming which, in fact, a Kind which
// was defined in the configuration document was used)." (RFC 6940 §7.4.1.2)
func (l *loop) pushKinds(dest []wire.Destination, info []byte) {
	unknown, err := wire.ParseKindList(info)
	if err != nil {
		l.n.counters.Malformed.Add(1)
		return
	}
	u := wire.ConfigUpdateRequest{Type: wire.ConfigUpdateKinds}
	for i, k := range unknown {
		if block, ok := l.n.cfg.Document.KindBlock(k); ok && !slices.Contains(unknown[:i], k) {
			u.Kinds = append(u.Kinds, block)
		}
	}
	if len(u.Kinds) > 0 {
		l.pushUpdate(dest, u)
	}
}

// pushUpdate sends a ConfigUpdate, unless there were too many: whoever refuses everything must not make this node send
// him documents without end.
func (l *loop) pushUpdate(dest []wire.Destination, u wire.ConfigUpdateRequest) {
	if !l.updates.share.take(l.now) {
		return
	}
	body, err := u.AppendBinary(nil)
	if err != nil {
		l.n.counters.Unencodable.Add(1)
		return
	}
	l.n.counters.ConfigUpdates.Add(1)
	l.send(outgoing{dest: dest, code: wire.ConfigUpdateReq, body: body, seqAny: true}, func(rep reply) {
		if rep.err != nil {
			l.log.Debug("configuration not taken", "peer", dest[len(dest)-1].Node, "err", rep.err)
		}
	})
}

// configUpdateRequest is RFC 6940 §6.5.4.2: a configuration "MUST be processed only if … the sequence number
// in the document is greater than the current configuration sequence number [and] the Configuration Document
// is correctly digitally signed". What is accepted goes to Config.NewDocument, each document once, whoever brings it
// again until the node is made anew.
func (l *loop) configUpdateRequest(r *request) {
	u, err := wire.ParseConfigUpdate(r.Body)
	if err != nil {
		l.fail(r, wire.ErrorInvalidMessage, "ConfigUpdate")
		return
	}
	if u.Type != wire.ConfigUpdateConfig {
		// Kinds come with the document in this overlay.
		l.n.counters.ConfigRefuse.Add(1)
		l.fail(r, wire.ErrorForbidden, "Kinds come with the configuration document")
		return
	}
	if !l.work(func() func(*loop) {
		cur := l.n.cfg.Document
		doc, err := ident.ParseDocument(u.Config, cur.InstanceName)
		if err == nil {
			err = doc.Verify(cur, l.n.cfg.Trust, l.n.now())
		}
		return func(l *loop) { l.documentVerified(r, doc, err) }
	}) {
		l.ans.drop(r)
	}
}

func (l *loop) documentVerified(r *request, doc *ident.Document, err error) {
	newest := l.updates.newest
	switch {
	case err != nil:
		l.n.counters.ConfigRefuse.Add(1)
		l.log.Warn("configuration refused", "from", r.peer.NodeID, "err", err)
		l.fail(r, wire.ErrorForbidden, "signature")
	case newest != nil && newest.Same(doc):
		l.answer(r, wire.ConfigUpdateAns, nil, nil)
	case ident.CompareSequence(doc.Sequence, l.n.params.sequence) <= 0,
		newest != nil && ident.CompareSequence(doc.Sequence, newest.Sequence) <= 0:
		l.n.counters.ConfigRefuse.Add(1)
		l.fail(r, wire.ErrorConfigTooOld, "")
	default:
		l.updates.newest = doc
		l.answer(r, wire.ConfigUpdateAns, nil, nil)
		l.log.Info("newer configuration", "from", r.peer.NodeID, "sequence", doc.Sequence)
		if f := l.n.cfg.NewDocument; f != nil {
			l.background(func(ctxT) func(*loop) { f(doc); return nil })
		}
	}
}
