package ident

import (
	"slices"
	"strings"
	"testing"

	"fieldkit/overlay/wire"
)

// RFC 6940 §14.15: RELOAD-URI = "reload://" destination "@" overlay "/" [specifier], the destination being "multiple
// concatenated Destination objects with no length prefix prior to the object as a whole".
func TestReloadURI(t *testing.T) {
	node := must(wire.ParseNodeID("000102030405060708090a0b0c0d0e0f"))
	for uri, want := range map[string]URI{
		"reload://0110000102030405060708090a0b0c0d0e0f@a.example/": {Destinations: []wire.Destination{wire.ToNode(node)}, Overlay: "a.example"},
		"reload://0110000102030405060708090a0b0c0d0e0f02030261ff@a.example/0a": {
			Destinations: []wire.Destination{wire.ToNode(node), wire.ToResource("a\xff")}, Overlay: "a.example", Specifier: []byte{10},
		},
		"reload://8001@b/": {Destinations: []wire.Destination{wire.ToOpaque(1)}, Overlay: "b"},
	} {
		got, err := ParseURI(uri)
		if err != nil || got.String() != uri || want.String() != uri || len(got.Destinations) != len(want.Destinations) || got.Overlay != want.Overlay {
			t.Errorf("%s: %+v, %v", uri, got, err)
		}
		if other := must(ParseURI("RELOAD" + uri[6:])); other.String() != uri { // RFC 3986 §3.1: schemes are case-insensitive
			t.Errorf("%+v", other)
		}
	}
	if uri := ReloadURI(node, "a.example"); uri != (URI{Destinations: []wire.Destination{wire.ToNode(node)}, Overlay: "a.example"}).String() {
		t.Error(uri)
	}
	for _, bad := range []string{"", "reload://", "reload://@a/", "reload://01@a/", "reload://8001@/", "reload://8001@a", "reload://8001/", "http://8001@a/", "reload://800@a/",
		"reload://zz01@a/", "reload://8001@a/0", "reload://8001@a/zz", "reload://8001@A b/", "reload://8001@a/00/00", "reload://0111000102030405060708090a0b0c0d0e0f@a/", "reload://" + strings.Repeat("8001", 2000) + "@a/"} {
		if u, err := ParseURI(bad); err == nil {
			t.Errorf("%q: %+v", bad, u)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("reload://0110000102030405060708090a0b0c0d0e0f@a.example/")
	f.Add("reload://8001@b/00ff")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			return
		}
		again, err := ParseURI(u.String())
		if err != nil || again.String() != u.String() || again.Overlay != u.Overlay || !slices.Equal(again.Specifier, u.Specifier) {
			t.Errorf("%q became %q: %v", s, u.String(), err)
		}
	})
}
