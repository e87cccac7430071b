package config

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"

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

// ParseKindBlock reads one kind-block out of a ConfigUpdate of type "kind" (RFC 6940 §6.5.4.1). Its kind-signature is
// still to be checked, by Kind.Verify. Without a namespace of its own it is taken for one of the base specification,
// because there is nothing around it that could say so.
func ParseKindBlock(b []byte) (Kind, error) {
	if len(b) > maxForeign {
		return Kind{}, fmt.Errorf("%w: kind-block of %d bytes: more than %d", ErrDocument, len(b), maxForeign)
	}
	const before, after = `<required-kinds xmlns="` + nsBase + `">`, `</required-kinds>`
	root, err := parseXML(slices.Concat([]byte(before), b, []byte(after)))
	if err != nil {
		return Kind{}, fmt.Errorf("%w: kind-block: %w", ErrDocument, err)
	}
	d := defaults()
	if err := d.readKinds(root); err != nil {
		return Kind{}, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if len(d.Kinds) != 1 || len(root.children) != 1 {
		return Kind{}, fmt.Errorf("%w: %d Kinds where one kind-block was expected", ErrDocument, len(d.Kinds))
	}
	return d.Kinds[0], nil
}
