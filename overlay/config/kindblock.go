package config

import (
	"bytes"
	"encoding/base64"

	"fieldkit/overlay/wire"
)

// KindBlock is the kind-block of a Kind as a ConfigUpdate carries it (RFC 6940 §6.5.4.1): the bytes that the kind-signer
// signed, in the default namespace. ok is false for a Kind that the document does not have, has unsigned, or has under
// a namespace prefix.
func (d *Document) KindBlock(id wire.KindID) (block []byte, ok bool) {
	k, ok := d.Kind(id)
	if !ok || len(k.signature) == 0 || !bytes.HasPrefix(k.element, []byte("<kind")) || bytes.HasPrefix(k.element, []byte("<kind:")) {
		return nil, false
	}
	block = append([]byte("<kind-block>"), k.element...)
	block = append(block, "<kind-signature>"...)
	block = base64.StdEncoding.AppendEncode(block, k.signature)
	return append(block, "</kind-signature></kind-block>"...), true
}
