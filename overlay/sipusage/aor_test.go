package sipusage

import (
	"encoding/base64"
	"strings"
	"testing"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		"alice@x.example":                          "alice@x.example",
		"sip:alice@X.Example":                      "alice@x.example",
		"SIPS:alice@x.example;transport=tcp?a=b":   "alice@x.example",
		"sip:%61lice@x.example":                    "alice@x.example",
		"Alice@x.example":                          "Alice@x.example",
		"sip:a%40b@x.example":                      "",
		"sip:%zz@x.example":                        "",
		"sip:alice":                                "",
		"a\x00b@x.example":                         "",
		"sip:" + strings.Repeat("a", 400) + "@x.y": "",
	} {
		got, err := Canonical(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Canonical(%.40q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

// RFC 7904 §3.4: without the element any AOR, disabled the overlay's own domain, enabled what the patterns match.
func TestDomains(t *testing.T) {
	// The patterns of the RFC's example: "any AOR will be accepted that is either of the form
	// <user>@dht.example.com, or ends with the domain "my.example"".
	patterns, err := Patterns(`dht\.example\.com`, `.*\.my\.example`)
	if err != nil {
		t.Fatal(err)
	}
	none, err := Patterns()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		d    Domains
		aor  string
		want bool
	}{
		{Domains{}, "a@any.where", true},
		{OnlyDomain("Overlay.example"), "a@overlay.example", true},
		{OnlyDomain("overlay.example"), "a@x.overlay.example", false},
		{patterns, "a@dht.example.com", true},
		{patterns, "a@b.my.example", true},
		{patterns, "a@dhtxexample.com", false},
		{patterns, "a@dht.example.com.evil", false},
		{none, "a@dht.example.com", false},
	} {
		if got := c.d.Allow(c.aor); got != c.want {
			t.Errorf("%+v allows %s: %v", c.d, c.aor, got)
		}
	}
	if _, err := Patterns("("); err == nil {
		t.Error("a broken pattern is taken")
	}
}

func TestMayStore(t *testing.T) {
	d := OnlyDomain("o.example")
	reg, err := wire.SIPRegistration{Type: wire.SIPRegistrationURI, URI: []byte("x@o.example")}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	val := func(exists bool, b []byte) *wire.StoredData {
		return &wire.StoredData{Value: wire.StoredDataValue{DataValue: wire.DataValue{Exists: exists, Value: b}}}
	}
	for _, c := range []struct {
		name string
		kind wire.KindID
		user string
		v    *wire.StoredData
		want bool
	}{
		{"right", wire.KindSIPRegistration, "a@o.example", val(true, reg), true},
		{"removal", wire.KindSIPRegistration, "a@o.example", val(false, nil), true},
		{"domain", wire.KindSIPRegistration, "a@p.example", val(true, reg), false},
		{"nonsense", wire.KindSIPRegistration, "a@o.example", val(true, []byte{7}), false},
		{"another Kind", wire.KindCertificateByNode, "a@p.example", val(true, []byte{7}), true},
	} {
		if err := d.MayStore(c.kind, "", c.v, &ident.Peer{User: c.user}); (err == nil) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// RFC 7904 §6: base64 "with the exception that "~" is used in place of "="".
func TestGRUU(t *testing.T) {
	id := wire.WildcardNodeID(16)
	b, err := wire.ToNode(id).AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	gr := strings.ReplaceAll(base64.StdEncoding.EncodeToString(b), "=", "~")
	if dest, ok := gruu("alice@example.com;x;gr=" + gr); !ok || len(dest) != 1 || dest[0].Node != id {
		t.Errorf("gruu: %v, %v", dest, ok)
	}
	for _, bad := range []string{"alice@example.com", "a@b;gr=!", "a@b;gr=AAAA"} {
		if dest, ok := gruu(bad); ok {
			t.Errorf("%s: %v", bad, dest)
		}
	}
}
