package storage

import (
	"bytes"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// permitted checks one value by itself: form, size, who signed it and who asks for it to be stored.
// "in a non-replica store, both the signer of the StoredValue and the signer of the StoreReq MUST
// conform to the policy. In the case of a replica store, the signer of the StoredValue MUST
// conform to the policy" (RFC 6940 §7.3).
func (s *Store) permitted(req *wire.StoreRequest, kind ident.Kind, d *wire.StoredData, signer, sender Signer) error {
	sig := &d.Signature
	switch {
	case d.Value.Model != kind.Model || !d.Value.Exists && len(d.Value.Value) > 0,
		kind.Model != wire.Array && d.Value.Index != 0,
		kind.Model != wire.Dictionary && len(d.Value.Key) > 0:
		return refuse(wire.ErrorInvalidMessage, "value does not fit its data model")
	case sig.Identity.Type == wire.IdentityNone || sig.HashAlg == wire.HashNone || sig.SigAlg == wire.SigAnon:
		return refuse(wire.ErrorForbidden, "unsigned value")
	case signer.Node.IsZero():
		return refuse(wire.ErrorForbidden, "signature of a value")
	case !s.conforms(req.Resource, kind, d, signer):
		return refuse(wire.ErrorForbidden, "signer of a value")
	case req.Replica == 0 && !s.conforms(req.Resource, kind, d, sender):
		return refuse(wire.ErrorForbidden, "signer of the request")
	case len(d.Value.Value) > int(kind.MaxSize):
		return refuse(wire.ErrorDataTooLarge, "max-size")
	}
	return nil
}

// conforms is RFC 6940 §7.3. That the Node-ID is "the one indicated in the SignerIdentity value
// cert_hash" is part of verifying the signature: cert_hash may only name a certificate with one
// Node-ID (§6.3.4).
func (s *Store) conforms(res wire.ResourceID, kind ident.Kind, d *wire.StoredData, who Signer) bool {
	hashes := func(name []byte) bool { return ident.ResourceID(name, s.cfg.IDLen) == res }
	switch kind.AccessControl {
	case ident.UserMatch:
		return who.User != "" && hashes([]byte(who.User))
	case ident.NodeMatch:
		return hashes(who.Node.Bytes())
	case ident.UserNodeMatch:
		return kind.Model == wire.Dictionary && who.User != "" && hashes([]byte(who.User)) &&
			bytes.Equal(d.Value.Key, who.Node.Bytes())
	case ident.NodeMultiple:
		for i := 1; i <= min(int(kind.MaxMultiple), 255); i++ {
			if hashes(append(who.Node.Bytes(), byte(i))) {
				return true
			}
		}
		return false
	default:
		return false
	}
}
