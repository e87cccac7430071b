package config_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	. "fieldkit/overlay/config"
	"fieldkit/overlay/wire"
)

// everything has each element that the base specification and the extensions define.
func everything(w *world) string {
	node := w.kit.NodeID().String()
	return `<topology-plugin>CHORD-SELF-TUNING</topology-plugin><node-id-length>16</node-id-length>
<enrollment-server>https://a.example/enrol</enrollment-server><self-signed-permitted digest="sha1">true</self-signed-permitted>
<bootstrap-node address="2001:db8::1" port="6084"/><turn-density>20</turn-density><clients-permitted>false</clients-permitted>
<no-ice>1</no-ice><shared-secret>s</shared-secret><max-message-size>4000</max-message-size><initial-ttl>30</initial-ttl>
<overlay-reliability-timer>2000</overlay-reliability-timer><overlay-link-protocol>TLS</overlay-link-protocol>
<configuration-signer>` + node + `</configuration-signer><kind-signer>` + node + `</kind-signer><bad-node>` + node + `</bad-node>
<mandatory-extension>urn:ietf:params:xml:ns:p2p:self-tuning</mandatory-extension>
<chord:chord-update-interval>400</chord:chord-update-interval><chord:chord-ping-interval>30</chord:chord-ping-interval>
<chord:chord-reactive>false</chord:chord-reactive>
<st:number-of-peers-to-probe xmlns:st="` + NSSelfTuning + `">5</st:number-of-peers-to-probe>
<mode xmlns="` + NSRouteMode + `">RPR</mode>
<d:diagnostic-kind xmlns:d="` + NSDiagnostics + `" kind="0x0002"><d:access-node>` + node + `</d:access-node></d:diagnostic-kind>
<x:foreign x:a="1">t<y:deep xmlns:y="urn:y"/></x:foreign>
<required-kinds><kind-block><kind name="SIP-REGISTRATION"><data-model>DICTIONARY</data-model><access-control>USER-NODE-MATCH</access-control>
<max-count>1</max-count><max-size>100</max-size><s:domain-restriction xmlns:s="` + "urn:ietf:params:xml:ns:p2p:config-base:sip" + `" enable="true"><s:pattern>.*\.example</s:pattern></s:domain-restriction></kind></kind-block>
<kind-block><kind id="4026531841"><data-model>ARRAY</data-model><access-control>NODE-MULTIPLE</access-control><max-node-multiple>3</max-node-multiple>
<max-count>22</max-count><max-size>4</max-size><x:example-kind-extension>1</x:example-kind-extension></kind></kind-block></required-kinds>`
}

func xmllint(t *testing.T) string {
	t.Helper()
	tool, err := exec.LookPath("xmllint")
	if err == nil {
		return tool
	}
	if os.Getenv("FIELDKIT_CI") == "1" {
		t.Fatal("xmllint is not installed")
	}
	t.Skip("xmllint is not installed")
	return ""
}

// RFC 6940 §14.16: "The contents MUST be valid XML that is compliant with the RELAX NG grammar specified in RFC 6940".
// The judge is libxml2, the grammar the RFC's own, once as it is but for the element that it forgot, and once with the
// extensions' elements (testdata/README).
func TestWrittenDocumentsKeepTheGrammar(t *testing.T) {
	tool := xmllint(t)
	w := newWorld(t)
	s := must(w.root.Signer())
	plain := *w.doc
	plain.ReliabilityTimer = time.Second
	dir := t.TempDir()
	validate := func(name string, b []byte, grammar string) error {
		file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".xml")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(tool, "--noout", "--nonet", "--relaxng", filepath.Join("testdata", grammar), file).CombinedOutput()
		if err != nil {
			t.Logf("%s under %s: %s", name, grammar, out)
		}
		return err
	}
	for name, d := range map[string]*Document{
		"a mission's": w.doc, "with a timer": must(plain.Sign(s)),
		"everything":                        must(must(Parse(document(rootElement(w)+everything(w)), "")).Sign(s)),
		"a kit's document made by somebody": must(Parse(document(rootElement(w)+everything(w)), "")),
	} {
		for _, grammar := range []string{"reload-patched.rng", "reload-merged.rng"} {
			if err := validate(name, d.Raw(), grammar); err != nil {
				t.Errorf("%s, by %s: %v", name, grammar, err)
			}
		}
	}
	if err := validate("verbatim", w.doc.Raw(), "reload-rfc6940.rng"); err != nil {
		t.Errorf("a mission's document does not need what the RFC's grammar forgot: %v", err)
	}
	// The judge judges.
	for name, change := range map[string][2]string{
		"unknown element": {"<turn-density>", "<turn-densities>1</turn-densities><turn-density>"},
		"twice":           {"<turn-density>", "<turn-density>1</turn-density><turn-density>"},
		"no number":       {"<initial-ttl>16", "<initial-ttl>none"},
		"Kind without":    {"<max-count>16</max-count>", ""},
	} {
		b := bytes.Replace(w.doc.Raw(), []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(b, w.doc.Raw()) || validate(name, b, "reload-merged.rng") == nil {
			t.Errorf("%s: valid", name)
		}
	}
}

// What is read of the extensions: RFC 7363 §7, RFC 7263 §6, RFC 7851 §7.
func TestExtensionElements(t *testing.T) {
	w := newWorld(t)
	given := bytes.Replace(document(rootElement(w)+everything(w)), []byte(`x:unknown="1"`), []byte(`x:unknown="1" xml:lang="en"`), 1)
	d := must(Parse(given, ""))
	if d.TopologyPlugin != ChordSelfTuning || d.Rest.Probes != 5 || d.Rest.RouteMode != "RPR" || !slices.Equal(d.Rest.MandatoryExtensions, []string{NSSelfTuning}) {
		t.Errorf("%+v", d)
	}
	if !d.MayDiagnose(2, w.kit.NodeID()) || d.MayDiagnose(2, w.root.SignerNodeID()) || d.MayDiagnose(3, w.kit.NodeID()) {
		t.Errorf("%+v", d.Rest.Diagnostics)
	}
	if d.MayDiagnose(2, wire.NodeID{}) {
		t.Error("nobody may ask")
	}
	// "The default value is 4."
	if plain := must(Parse(document(rootElement(w)), "")); plain.Rest.Probes != 4 || plain.Rest.RouteMode != "" || plain.Rest.Domains != nil {
		t.Errorf("%+v", plain.Rest)
	}
	// Who signs the next document leaves in what others put there.
	next := *d
	next.Sequence++
	signed := string(must(next.Sign(must(w.root.Signer()))).Raw())
	for _, want := range []string{`<x:foreign xmlns="urn:ietf:params:xml:ns:p2p:config-base" xmlns:x="urn:example:x" x:a="1">t<y:deep xmlns:y="urn:y"/></x:foreign>`,
		`xmlns:ext0="urn:example:x" ext0:unknown="1"`, `xml:lang="en"`, `>1</x:example-kind-extension>`, ">RPR<"} {
		if !strings.Contains(signed, want) {
			t.Errorf("lost %s in\n%s", want, signed)
		}
	}
	for children, want := range map[string]string{
		`<mode xmlns="` + NSRouteMode + `">SRR</mode>`:                                                                                   "DRR or RPR",
		`<number-of-peers-to-probe xmlns="` + NSSelfTuning + `">0</number-of-peers-to-probe>`:                                            "number-of-peers-to-probe",
		strings.Repeat(`<number-of-peers-to-probe xmlns="`+NSSelfTuning+`">4</number-of-peers-to-probe>`, 2):                             "2 of them",
		`<diagnostic-kind xmlns="` + NSDiagnostics + `" kind="x"/>`:                                                                      "kind of diagnostic-kind",
		`<diagnostic-kind xmlns="` + NSDiagnostics + `" kind="1"/>`:                                                                      "no access-node",
		`<diagnostic-kind xmlns="` + NSDiagnostics + `" kind="1"><access-node>0</access-node></diagnostic-kind>`:                         "access-node",
		`<x:a>` + strings.Repeat("x", 8000) + strings.Repeat(`<x:b>`+strings.Repeat("x", 8000)+`</x:b>`, 10) + `</x:a>`:                  "other namespaces",
		`<turn-density ` + strings.Repeat(`x:a="" `, 1) + strings.Repeat(`a="" `, 2) + `>1</turn-density>`:                               "attribute a twice",
		strings.Replace(everything(w), `</kind></kind-block></required-kinds>`, `</kind></kind-block><kind-block/></required-kinds>`, 1): "kind: missing",
	} {
		if _, err := Parse(document(rootElement(w)+children), ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.90s: got %v, want %s", children, err, want)
		}
	}
}

// The text of RFC 6940 §11.1 has "topology-plug-in" and the enrolment URL "in a "url" element"; its grammar and its example
// have neither. Both are read, and the grammar's is written.
func TestTextAndGrammarDiffer(t *testing.T) {
	w := newWorld(t)
	d := must(Parse(document(rootElement(w)+"<topology-plug-in> CHORD-SELF-TUNING </topology-plug-in><enrollment-server><url> https://a.example/x </url></enrollment-server><from-the-future>1</from-the-future>"), ""))
	if d.TopologyPlugin != ChordSelfTuning || !slices.Equal(d.Rest.EnrollmentServers, []string{"https://a.example/x"}) {
		t.Errorf("%q %q", d.TopologyPlugin, d.Rest.EnrollmentServers)
	}
	again := string(must(d.Sign(must(w.root.Signer()))).Raw())
	for _, want := range []string{"<topology-plugin>CHORD-SELF-TUNING</topology-plugin>", "<enrollment-server>https://a.example/x</enrollment-server>", ">1</from-the-future>"} {
		if !strings.Contains(again, want) {
			t.Errorf("no %s in\n%s", want, again)
		}
	}
	for _, bad := range []string{"<topology-plug-in>A</topology-plug-in><topology-plugin>A</topology-plugin>", "<enrollment-server><url>http://a</url></enrollment-server>"} {
		if _, err := Parse(document(rootElement(w)+bad), ""); err == nil {
			t.Errorf("%s taken", bad)
		}
	}
}

// RFC 7904 §3.4. Its prose has <domain-restrictions> in the document, its grammar <domain-restriction> in a kind.
func TestDomainRestriction(t *testing.T) {
	w := newWorld(t)
	const ns = ` xmlns="urn:ietf:params:xml:ns:p2p:config-base:sip"`
	inKind := func(s string) string {
		return `<required-kinds><kind-block><kind name="SIP-REGISTRATION"><data-model>DICTIONARY</data-model><access-control>USER-NODE-MATCH</access-control><max-count>1</max-count><max-size>1</max-size>` + s + `</kind></kind-block></required-kinds>`
	}
	for _, c := range []struct {
		children string
		want     *Restriction
	}{
		// "If the element is not included, the default behavior is to accept any AOR."
		{"", nil},
		{inKind(""), nil},
		{"<domain-restriction>in no namespace of ours</domain-restriction>", nil},
		// "If the element is included and the "enable" attribute is not set or set to false"
		{"<domain-restrictions" + ns + "/>", &Restriction{}},
		{inKind("<domain-restriction" + ns + ` enable="0"/>`), &Restriction{}},
		{inKind("<domain-restrictions" + ns + ` enable="true"><pattern>a\.b</pattern><pattern> .*c </pattern></domain-restrictions>`), &Restriction{true, []string{`a\.b`, ".*c"}}},
		{"<domain-restriction" + ns + ` enable="1"/>`, &Restriction{Enabled: true}},
	} {
		d, err := Parse(document(rootElement(w)+c.children), "")
		if err != nil {
			t.Errorf("%s: %v", c.children, err)
			continue
		}
		got := d.Rest.Domains
		if (got == nil) != (c.want == nil) || got != nil && (got.Enabled != c.want.Enabled || !slices.Equal(got.Patterns, c.want.Patterns)) {
			t.Errorf("%s: %+v", c.children, got)
		}
		if c.want == nil || !strings.Contains(c.children, "kind-block") {
			continue
		}
		again := must(d.Sign(must(w.root.Signer()))).Rest.Domains
		if again == nil || again.Enabled != c.want.Enabled || !slices.Equal(again.Patterns, c.want.Patterns) {
			t.Errorf("%s, signed again: %+v", c.children, again)
		}
	}
	for children, want := range map[string]string{
		"<domain-restriction" + ns + ` enable="yes"/>`:                                                           "attribute enable",
		"<domain-restriction" + ns + "/>" + "<domain-restrictions" + ns + "/>":                                   "twice",
		"<domain-restriction" + ns + "/>" + inKind("<domain-restriction"+ns+"/>"):                                "twice",
		"<domain-restriction" + ns + "><pattern>(</pattern></domain-restriction>":                                "POSIX",
		"<domain-restriction" + ns + "><pattern/></domain-restriction>":                                          "POSIX",
		"<domain-restriction" + ns + ">" + strings.Repeat("<pattern>a</pattern>", 65) + "</domain-restriction>":  "more than 64",
		"<domain-restriction" + ns + "><pattern>" + strings.Repeat("a", 257) + "</pattern></domain-restriction>": "POSIX",
	} {
		if _, err := Parse(document(rootElement(w)+children), ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.90s: got %v, want %s", children, err, want)
		}
	}
}

// RFC 6940 §14.16: "In the case when the media includes a shared-secret element, the contents of the file MUST be kept
// confidential": what is read does not show itself, and a document of ours says only that there is one.
func TestSharedSecretStaysHidden(t *testing.T) {
	w := newWorld(t)
	d := must(Parse(document(rootElement(w)+"<shared-secret> pass word </shared-secret>"), ""))
	if !d.Rest.SharedSecret || string(d.Rest.Secret) != "pass word" {
		t.Errorf("%q", string(d.Rest.Secret))
	}
	for _, format := range []string{"%v", "%+v", "%s", "%#v"} {
		if s := sprintf(format, d.Rest.Secret); strings.Contains(s, "pass") {
			t.Errorf("%s shows %s", format, s)
		}
	}
	ours := *w.doc
	ours.Rest.SharedSecret = true
	raw := must(ours.Sign(must(w.root.Signer())))
	if !raw.Rest.SharedSecret || raw.Rest.Secret != "" || !bytes.Contains(raw.Raw(), []byte("<shared-secret></shared-secret>")) {
		t.Errorf("%s", raw.Raw())
	}
}
