package peer

import (
	"fmt"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/storage"
	"fieldkit/overlay/wire"
)

// verifier is what jobs that verify need: nothing in it changes.
type verifier struct {
	crypto   Crypto
	model    func(wire.KindID) (wire.DataModel, bool)
	mayStore func(wire.KindID, wire.ResourceID, *wire.StoredData, *ident.Peer) error
	now      time.Time
}

func (p *Peer) verifier() verifier {
	return verifier{crypto: p.cfg.Crypto, model: p.kinds.model, mayStore: p.cfg.MayStore, now: p.now}
}

// verdict is what was found out about a message.
type verdict struct {
	peer *ident.Peer
	body body
	err  error
}

// body is what was read of those bodies that hold signatures of their own.
type body struct {
	store  *wire.StoreRequest
	values [][]storage.Signer // of store.Kinds[i].Values[j]
	err    error              // refused by Config.MayStore
}

// message checks a message and the stored values in it.
func (f verifier) message(m *wire.Message) verdict {
	peer, err := f.crypto.Verify(m, f.now)
	if err != nil {
		return verdict{err: err}
	}
	v := verdict{peer: peer}
	if m.Code == wire.StoreReq {
		v.body = f.store(m)
	}
	return v
}

// store finds out who signed each value of a StoreReq: "The signatures over each individual data
// element, if any, are valid. If this check fails, the request MUST be rejected with an Error_Forbidden"
// (RFC 6940 §7.4.1.1). A value without a valid signature gets the zero Signer, which storage refuses.
func (f verifier) store(m *wire.Message) (b body) {
	q, err := wire.ParseStoreRequest(m.Body, f.model)
	if err != nil {
		return body{}
	}
	b.store = &q
	for i := range q.Kinds {
		k := &q.Kinds[i]
		signers := make([]storage.Signer, len(k.Values))
		for j := range k.Values {
			peer, signer, err := f.value(q.Resource, k.Kind, &k.Values[j], m.Security.Certificates)
			if err == nil && f.mayStore != nil {
				if err = f.mayStore(k.Kind, q.Resource, &k.Values[j], peer); err != nil {
					b.err = err
				}
			}
			if err == nil {
				signers[j] = signer
			}
		}
		b.values = append(b.values, signers)
	}
	return b
}

func (f verifier) value(res wire.ResourceID, kind wire.KindID, v *wire.StoredData, bucket []wire.Certificate) (*ident.Peer, storage.Signer, error) {
	p, chain, err := f.crypto.VerifyStored(res, kind, v, bucket, f.now)
	if err != nil {
		return nil, storage.Signer{}, err
	}
	return p, storage.Signer{Node: p.NodeID, User: p.User, Certificates: chain}, nil
}

// fetched keeps the values of a FetchAns whose signatures are valid: "nodes MUST verify the signatures
// on all the received values. Any values with invalid signatures (including expired certificates) MUST be
// discarded" (RFC 6940 §7.4.2.2).
func (f verifier) fetched(res wire.ResourceID, m *wire.Message) ([]FetchedKind, error) {
	a, err := wire.ParseFetchAnswer(m.Body, f.model)
	if err != nil {
		return nil, fmt.Errorf("Fetch answer: %w", err)
	}
	out := make([]FetchedKind, 0, len(a.Kinds))
	for _, k := range a.Kinds {
		g := FetchedKind{Kind: k.Kind, Generation: k.Generation}
		for i := range k.Values {
			v := &k.Values[i]
			if v.Signature.Identity.Type == wire.IdentityNone {
				if v.Value.Exists {
					g.Discarded++ // only what does not exist may go unsigned
				}
				continue
			}
			peer, signer, err := f.value(res, k.Kind, v, m.Security.Certificates)
			if err != nil {
				g.Discarded++
				continue
			}
			g.Values = append(g.Values, Fetched{StoredData: *v, Signer: peer})
			g.signers = append(g.signers, signer)
		}
		out = append(out, g)
	}
	return out, nil
}
