package config_test

import (
	"bytes"
	"strings"
	"testing"

	. "fieldkit/overlay/config"
	"fieldkit/overlay/wire"
)

// A kind-block read on its own holds the same Kind under the same signature as in its document.
func TestKindBlock(t *testing.T) {
	w := newWorld(t)
	for _, k := range w.doc.Kinds {
		block, ok := w.doc.KindBlock(k.ID)
		if !ok {
			t.Fatalf("Kind %v: no kind-block", k.ID)
		}
		d := must(Parse(document(rootElement(w)+"<required-kinds>"+string(block)+"</required-kinds>"), testOverlay))
		got, ok := d.Kind(k.ID)
		if !ok || !bytes.Equal(got.Element(), k.Element()) {
			t.Fatalf("Kind %v: %q", k.ID, got.Element())
		}
		if err := w.trust.VerifyBlob(got.Element(), got.Signature(), w.doc.KindSigners, now); err != nil {
			t.Errorf("Kind %v: %v", k.ID, err)
		}
	}
	if _, ok := w.doc.KindBlock(0xf0000001); ok {
		t.Error("a Kind from nowhere")
	}
	// Torn out of its document a prefix means nothing.
	prefixed := string(document(rootElement(w) + "<kind:required-kinds/>"))
	const kind = `<kind:kind-block><kind:kind name="SIP-REGISTRATION"><kind:data-model>DICTIONARY</kind:data-model><kind:access-control>USER-NODE-MATCH</kind:access-control><kind:max-count>3</kind:max-count><kind:max-size>100</kind:max-size></kind:kind><kind:kind-signature>AAAA</kind:kind-signature></kind:kind-block>`
	prefixed = strings.Replace(prefixed, "<kind:required-kinds/>", "<kind:required-kinds>"+kind+"</kind:required-kinds>", 1)
	prefixed = strings.Replace(prefixed, "<overlay ", `<overlay xmlns:kind="`+NSBase+`" `, 1)
	d := must(Parse([]byte(prefixed), testOverlay))
	if _, ok := d.Kind(wire.KindSIPRegistration); !ok {
		t.Fatal("Kind with a prefix not read")
	}
	if b, ok := d.KindBlock(wire.KindSIPRegistration); ok {
		t.Errorf("%s", b)
	}
}
