package config

import (
	"bytes"
	"regexp"
	"slices"
)

// What the tests, which have real keys and certificates and so cannot be inside this package, look at.
const (
	NSBase    = nsBase
	NSChord   = nsChord
	MaxText   = maxText
	MaxTokens = maxTokens
)

func (k Kind) Element() []byte   { return k.element }
func (k Kind) Signature() []byte { return k.signature }

func (d *Document) Configuration() []byte { return d.raw.configuration }

func SwapKindSignature(k *Kind, with Kind) { k.signature = with.signature }

// WithoutBytes is what the document says without how it was written.
func (d Document) WithoutBytes() Document {
	d.raw = raw{}
	d.Kinds = slices.Clone(d.Kinds)
	for i := range d.Kinds {
		d.Kinds[i].element, d.Kinds[i].signature = nil, nil
	}
	return d
}

// Equal compares configuration elements but for their signatures, which are never the same twice.
func Equal(a, b []byte) bool {
	cut := regexp.MustCompile(`(?s)<kind-signature>.*?</kind-signature>`)
	return bytes.Equal(cut.ReplaceAll(a, nil), cut.ReplaceAll(b, nil))
}
