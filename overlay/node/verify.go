package node

import (
	"fmt"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/storage"
	"fieldkit/overlay/wire"
)

// verdict is what a worker found out about a message.
type verdict struct {
	peer *ident.Peer
	body body
	err  error
}

// body is what the workers read of those bodies that hold signatures of their own.
type body struct {
	store  *wire.StoreRequest
	values [][]storage.Signer // of store.Kinds[i].Values[j]
	err    error              // malformed, or refused by Config.MayStore
}

// verify checks a message and the stored values in it. Workers run it.
func (n *Node) verify(m *wire.Message) verdict {
	peer, err := n.cfg.Trust.VerifyMessage(m, n.now())
	if err != nil {
		return verdict{err: err}
	}
	v := verdict{peer: peer}
	if m.Code == wire.StoreReq {
		v.body = n.verifyStore(m)
	}
	return v
}

// verifyStore finds out who signed each value of a StoreReq: "The signatures over each individual data
// element, if any, are valid. If this check fails, the request MUST be rejected with an Error_Forbidden"
// (RFC 6940 §7.4.1.1). A value without a valid signature gets the zero Signer, which storage refuses.
func (n *Node) verifyStore(m *wire.Message) (b body) {
	q, err := wire.ParseStoreRequest(m.Body, n.cfg.Document.ModelOf)
	if err != nil {
		return body{err: err}
	}
	b.store = &q
	for i := range q.Kinds {
		k := &q.Kinds[i]
		signers := make([]storage.Signer, len(k.Values))
		for j := range k.Values {
			s, err := n.verifyValue(q.Resource, k.Kind, &k.Values[j], m.Security.Certificates)
			if err == nil && n.cfg.MayStore != nil {
				if err = n.cfg.MayStore(k.Kind, q.Resource, &k.Values[j], s.peer); err != nil {
					b.err = err
				}
			}
			if err == nil {
				signers[j] = s.signer
			}
		}
		b.values = append(b.values, signers)
	}
	return b
}

type verifiedValue struct {
	peer   *ident.Peer
	signer storage.Signer
}

func (n *Node) verifyValue(res wire.ResourceID, kind wire.KindID, v *wire.StoredData, bucket []wire.Certificate) (verifiedValue, error) {
	p, err := n.cfg.Trust.VerifyStored(res, kind, v, bucket, n.now())
	if err != nil {
		return verifiedValue{}, err
	}
	return verifiedValue{p, storage.Signer{Node: p.NodeID, User: p.User, Certificates: ident.Chain(&v.Signature, bucket)}}, nil
}

// checkFetch keeps the values of a FetchAns whose signatures are valid: "nodes MUST verify the signatures
// on all the received values. Any values with invalid signatures (including expired certificates) MUST be
// discarded" (RFC 6940 §7.4.2.2). It is slow: API callers and workers run it.
func (n *Node) checkFetch(res wire.ResourceID, m *wire.Message) ([]FetchedKind, error) {
	a, err := wire.ParseFetchAnswer(m.Body, n.cfg.Document.ModelOf)
	if err != nil {
		return nil, fmt.Errorf("Fetch answer: %w", err)
	}
	out := make([]FetchedKind, 0, len(a.Kinds))
	for _, k := range a.Kinds {
		f := FetchedKind{Kind: k.Kind, Generation: k.Generation}
		for i := range k.Values {
			v := &k.Values[i]
			if v.Signature.Identity.Type == wire.IdentityNone {
				if v.Value.Exists {
					f.Discarded++ // only what does not exist may go unsigned
					n.counters.BadSignature.Add(1)
				}
				continue
			}
			s, err := n.verifyValue(res, k.Kind, v, m.Security.Certificates)
			if err != nil {
				f.Discarded++
				n.counters.BadSignature.Add(1)
				continue
			}
			f.Values = append(f.Values, Fetched{StoredData: *v, Signer: s.peer})
			f.signers = append(f.signers, s.signer)
		}
		out = append(out, f)
	}
	return out, nil
}
