package config_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	. "fieldkit/overlay/config"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

const testOverlay = "alpha-test.mission.home.arpa"

// now is what a kit's clock may say.
var now = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type world struct {
	root  *ident.Authority
	doc   *Document
	trust *ident.Trust
	kit   *ident.Identity
}

func newWorld(t testing.TB) *world {
	t.Helper()
	a := must(ident.NewAuthority(testOverlay, 16))
	d := must(ident.NewDocument(a).Sign(must(a.Signer())))
	return &world{root: a, doc: d, trust: must(ident.TrustFor(d)), kit: must(a.NewIdentity())}
}

// document writes a document around the given children of configuration.
func document(children string) []byte {
	return []byte(`<?xml version="1.0" encoding="UTF-8"?>
<overlay xmlns="` + NSBase + `" xmlns:chord="` + NSChord + `" xmlns:x="urn:example:x">
<configuration instance-name="` + testOverlay + `" sequence="7" x:unknown="1">` + children + `</configuration>
</overlay>`)
}

func rootElement(w *world) string {
	return "<root-cert>\n" + base64.StdEncoding.EncodeToString(w.root.Certificate().Raw) + "\n</root-cert>"
}

// RFC 6940 §11.1, the default of each element.
func TestDocumentDefaults(t *testing.T) {
	w := newWorld(t)
	d, err := Parse(document(rootElement(w)), "")
	if err != nil {
		t.Fatal(err)
	}
	if d.TopologyPlugin != "CHORD-RELOAD" || d.NodeIDLength != 16 || d.TurnDensity != 1 || !d.ClientsPermitted || d.NoICE ||
		d.MaxMessageSize != 5000 || d.InitialTTL != 100 || d.ReliabilityTimer != 3*time.Second || len(d.Rest.LinkProtocols) != 0 ||
		d.Chord != (Chord{600 * time.Second, 3600 * time.Second, true}) || d.SelfSigned || !d.Expiration.IsZero() {
		t.Errorf("%+v", d)
	}
	if d.Sequence != 7 || d.InstanceName != testOverlay || len(d.RootCerts) != 1 {
		t.Errorf("%+v", d)
	}
}

func TestDocumentElements(t *testing.T) {
	w := newWorld(t)
	id := strings.Repeat("0a", 20)
	d, err := Parse([]byte(`<?xml version="1.0"?><o:overlay xmlns:o="`+NSBase+`" xmlns:c="`+NSChord+`" xmlns:x="urn:example:x">
<o:configuration instance-name="other.example"/>
<o:configuration instance-name="`+testOverlay+`" sequence="65534" expiration="2040-02-03T04:05:06Z">
 <o:bad-node> `+id+` </o:bad-node>
 <o:configuration-signer>`+strings.ToUpper(id)+`</o:configuration-signer>
 <o:kind-signer>`+id+`</o:kind-signer><o:kind-signer>`+id+`</o:kind-signer>
 <o:topology-plugin> CHORD-RELOAD </o:topology-plugin><o:node-id-length> 20 </o:node-id-length>
 `+strings.ReplaceAll(rootElement(w), "root-cert", "o:root-cert")+`
 <o:bootstrap-node address="192.0.2.1"/><o:bootstrap-node address="2001:db8::1" port="7000"/>
 <o:turn-density>20</o:turn-density><o:clients-permitted>0</o:clients-permitted><o:no-ice> 1 </o:no-ice>
 <o:max-message-size>4000</o:max-message-size><o:initial-ttl> 30 </o:initial-ttl>
 <o:overlay-reliability-timer>200</o:overlay-reliability-timer>
 <o:overlay-link-protocol>TLS</o:overlay-link-protocol>
 <c:chord-update-interval>400</c:chord-update-interval><c:chord-ping-interval>30</c:chord-ping-interval><c:chord-reactive>false</c:chord-reactive>
 <x:deep><x:er><o:no-ice>not ours, so not read</o:no-ice></x:er></x:deep><o:from-the-future>1</o:from-the-future>
 <o:required-kinds>
  <o:kind-block><o:kind name="SIP-REGISTRATION"><o:data-model>SINGLE</o:data-model><o:access-control>USER-MATCH</o:access-control><o:max-count>3</o:max-count><o:max-size>100</o:max-size><x:y/></o:kind></o:kind-block>
  <o:kind-block><o:kind id="4026531841"><o:data-model>ARRAY</o:data-model><o:access-control>NODE-MULTIPLE</o:access-control><o:max-node-multiple>3</o:max-node-multiple><o:max-count>22</o:max-count><o:max-size>4</o:max-size></o:kind><o:kind-signature>AAAA</o:kind-signature></o:kind-block>
 </o:required-kinds>
</o:configuration></o:overlay>`), testOverlay)
	if err != nil {
		t.Fatal(err)
	}
	node := must(wire.ParseNodeID(id))
	if d.Sequence != 65534 || d.Expiration != time.Date(2040, 2, 3, 4, 5, 6, 0, time.UTC) || d.NodeIDLength != 20 || d.TurnDensity != 20 ||
		d.ClientsPermitted || !d.NoICE || d.MaxMessageSize != 4000 || d.InitialTTL != 30 || d.ReliabilityTimer != 200*time.Millisecond ||
		d.Chord != (Chord{400 * time.Second, 30 * time.Second, false}) {
		t.Errorf("%+v", d)
	}
	one := []wire.NodeID{node}
	if !slices.Equal(d.BadNodes, one) || !slices.Equal(d.Signers, one) || !slices.Equal(d.KindSigners, one) {
		t.Errorf("%v %v %v", d.BadNodes, d.Signers, d.KindSigners)
	}
	if fmt.Sprint(d.Rest.BootstrapNodes) != "[192.0.2.1:6084 [2001:db8::1]:7000]" {
		t.Errorf("%v", d.Rest.BootstrapNodes)
	}
	// "clients MUST ignore them in favor of the IANA versions"
	if k, ok := d.Kind(wire.KindSIPRegistration); !ok || k.Model != wire.Dictionary || k.AccessControl != UserNodeMatch || k.MaxCount != 3 || k.MaxSize != 100 {
		t.Errorf("%+v", k)
	}
	if m, ok := d.ModelOf(0xf0000001); !ok || m != wire.Array {
		t.Errorf("private Kind: %v %v", m, ok)
	}
	if d.NoICE = false; d.Supported() != nil {
		t.Error(d.Supported())
	}
}

// Every error names the element and what is wrong with it.
func TestDocumentErrors(t *testing.T) {
	w := newWorld(t)
	root := rootElement(w)
	kind := func(attr, body string) string {
		return root + "<required-kinds><kind-block><kind " + attr + ">" + body + "</kind></kind-block></required-kinds>"
	}
	const good = "<data-model>ARRAY</data-model><access-control>USER-MATCH</access-control><max-count>1</max-count><max-size>1</max-size>"
	for _, c := range []struct{ children, want string }{
		{"", "root-cert: missing"},
		{"<root-cert>!</root-cert>", `root-cert: "!": want base64`},
		{"<root-cert>QUJD</root-cert>", "element root-cert: x509"},
		{"<root-cert>" + base64.StdEncoding.EncodeToString(w.kit.Signer().Certificates()[0]) + "</root-cert>" + strings.Repeat("<root-cert/>", 64), "65 of them, at most 64"},
		{"<root-cert>" + base64.StdEncoding.EncodeToString(must(w.kit.SignerFor("a@b")).Certificates()[0]) + "</root-cert>", "root-cert: not the certificate of a CA"},
		{root + "<node-id-length>15</node-id-length>", `node-id-length: "15": want an integer from 16 to 20`},
		{root + "<node-id-length>16</node-id-length><node-id-length>16</node-id-length>", "node-id-length: 2 of them, at most 1"},
		{root + "<self-signed-permitted digest=\"md5\">true</self-signed-permitted>", `digest of self-signed-permitted: "md5"`},
		{root + "<no-ice>yes</no-ice>", `no-ice: "yes": want "true"`},
		{root + "<no-ice>TRUE</no-ice>", `no-ice: "TRUE"`},
		{root + "<turn-density>256</turn-density>", `turn-density: "256"`},
		{root + "<initial-ttl>0</initial-ttl>", `initial-ttl: "0"`},
		{root + "<initial-ttl>256</initial-ttl>", `initial-ttl: "256"`},
		{root + "<max-message-size>99999999999999999999</max-message-size>", "max-message-size"},
		{root + "<overlay-reliability-timer>199</overlay-reliability-timer>", `overlay-reliability-timer: "199": want an integer from 200`},
		{root + "<configuration-signer>00</configuration-signer>", `configuration-signer: "00": want a Node-ID of 16 bytes`},
		{root + "<kind-signer>xyz</kind-signer>", `kind-signer: "xyz"`},
		{root + "<bad-node>" + strings.Repeat("0", 40) + "</bad-node>", "bad-node"},
		{root + strings.Repeat("<bad-node>"+strings.Repeat("0", 32)+"</bad-node>", MaxBadNodes+1), "bad-node: 1025 of them"},
		{root + `<bootstrap-node address="kit.example"/>`, `address of bootstrap-node: "kit.example"`},
		{root + `<bootstrap-node address="192.0.2.1" port="0"/>`, `port of bootstrap-node: "0"`},
		{root + "<enrollment-server>http://a.example</enrollment-server>", `enrollment-server: "http://a.example": want an https: URL`},
		{root + "<chord:chord-update-interval>0</chord:chord-update-interval>", `chord-update-interval: "0"`},
		{root + "<chord:chord-reactive/>", `chord-reactive: ""`},
		{kind("", good), "either a name or an id"},
		{kind(`name="A" id="1"`, good), "either a name or an id"},
		{kind(`name="NO-SUCH"`, good), `name of kind: "NO-SUCH"`},
		{kind(`id="0"`, good), `id of kind: "0"`},
		{kind(`id="5"`, strings.Replace(good, "ARRAY", "HEAP", 1)), `data-model: "HEAP"`},
		{kind(`id="5"`, strings.Replace(good, "<max-size>1</max-size>", "", 1)), "Kind 5: element max-size: missing"},
		{kind(`id="5"`, good+"<max-size>1</max-size>"), "max-size of Kind 5: twice"},
		{kind(`id="5"`, strings.Replace(good, "USER-MATCH", "NODE-MULTIPLE", 1)), "max-node-multiple: missing"},
		{root + "<required-kinds><kind-block/></required-kinds>", "element kind: missing"},
		{root + "<required-kinds>" + strings.Repeat(`<kind-block><kind id="5">`+good+"</kind></kind-block>", 2) + "</required-kinds>", "twice"},
		{root + strings.Repeat("<a>", 20) + strings.Repeat("</a>", 20), "nested deeper"},
		{root + "<a>" + strings.Repeat("x", MaxText+1) + "</a>", "bytes of text"},
		{root + strings.Repeat("<a/>", MaxTokens), "XML tokens"},
		{root + "&unknown;", "XML"},
	} {
		_, err := Parse(document(c.children), testOverlay)
		if !errors.Is(err, ErrDocument) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80s\n\tgot  %v\n\twant %s", strings.TrimPrefix(c.children, root), err, c.want)
		}
	}
	plain := string(document(root))
	for _, c := range []struct{ doc, want string }{
		{"", "XML"},
		{"<a/>", "root element"},
		{plain + "<overlay/>", "two root elements"},
		{strings.Replace(plain, NSBase, "urn:x", 1), "root element"},
		{strings.Replace(plain, `sequence="7"`, `sequence="65535"`, 1), `sequence: "65535": want an integer from 0 to 65534`},
		{strings.Replace(plain, `sequence="7"`, `expiration="tomorrow"`, 1), `expiration: "tomorrow"`},
		{strings.Replace(plain, testOverlay, "no such", 1), "no configuration element"},
		{strings.Replace(plain, "<configuration", `<configuration instance-name="`+testOverlay+`"/><configuration`, 1), "several configuration elements"},
		{strings.Replace(plain, `encoding="UTF-8"`, `encoding="ISO-8859-1"`, 1), "XML"},
		{strings.Replace(plain, "<overlay", `<!DOCTYPE overlay [<!ENTITY a "aaaa">]><overlay`, 1), "document type"},
		{strings.Repeat(" ", MaxDocument) + plain, "more than"},
	} {
		if _, err := Parse([]byte(c.doc), testOverlay); !errors.Is(err, ErrDocument) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	if _, err := Parse([]byte(strings.ReplaceAll(plain, testOverlay, "Not A Name")), ""); err == nil || !strings.Contains(err.Error(), "instance-name") {
		t.Errorf("overlay name that is not DNS-legal: %v", err)
	}
}

// The same document has the same error each time: of several elements that are too many, the first is named.
func TestDocumentErrorsAreTheSameEachTime(t *testing.T) {
	w := newWorld(t)
	doc := document(rootElement(w) + strings.Repeat("<initial-ttl>9</initial-ttl><turn-density>1</turn-density><no-ice>true</no-ice>", 2))
	for range 20 {
		if _, err := Parse(doc, ""); err == nil || !strings.Contains(err.Error(), "initial-ttl: 2 of them, at most 1") {
			t.Fatalf("%v", err)
		}
	}
}

// "If a node is not capable of supporting the new requirements, it MUST exit the overlay."
func TestDocumentSupported(t *testing.T) {
	w := newWorld(t)
	root := rootElement(w)
	for children, want := range map[string]string{
		root: "",
		root + "<topology-plugin>KAD</topology-plugin>":                                                                                          `topology-plugin "KAD"`,
		root + `<self-signed-permitted digest="sha256">true</self-signed-permitted>`:                                                             "",
		`<self-signed-permitted digest="sha1">1</self-signed-permitted>`:                                                                         "",
		root + "<no-ice>true</no-ice><shared-secret>x</shared-secret><topology-plugin>CHORD-SELF-TUNING</topology-plugin>":                       "",
		root + "<mandatory-extension>" + NSSelfTuning + "</mandatory-extension><mandatory-extension>" + NSDiagnostics + "</mandatory-extension>": "",
		// "Note that the namespace is case-sensitive"
		root + "<mandatory-extension>" + strings.ToUpper(NSSelfTuning) + "</mandatory-extension>":                              "mandatory-extension",
		root + "<mandatory-extension>" + NSRouteMode + "</mandatory-extension>":                                                "mandatory-extension",
		root + "<overlay-link-protocol>EXP-PROTOCOL</overlay-link-protocol><overlay-link-protocol>TLS</overlay-link-protocol>": "",
		`<self-signed-permitted digest="sha1">0</self-signed-permitted><enrollment-server>https://a</enrollment-server>`:       "no root-cert",
		root + "<mandatory-extension>urn:x</mandatory-extension>":                                                              `mandatory-extension "urn:x"`,
		root + "<overlay-link-protocol>DTLS-UDP-SR</overlay-link-protocol>":                                                    "",
		root + "<overlay-link-protocol>TLS-TCP-FH-NO-ICE</overlay-link-protocol>":                                              "overlay-link-protocol",
		root + "<no-ice>true</no-ice><overlay-link-protocol>TLS-TCP-FH-NO-ICE</overlay-link-protocol>":                         "",
		root + "<no-ice>true</no-ice><overlay-link-protocol>DTLS-UDP-SR</overlay-link-protocol>":                               "overlay-link-protocol",
		root + "<overlay-link-protocol>CARRIER-PIGEON</overlay-link-protocol>":                                                 "overlay-link-protocol",
		root + `<required-kinds><kind-block><kind id="4026531841"><data-model>ARRAY</data-model><access-control>ANYBODY</access-control><max-count>1</max-count><max-size>1</max-size></kind></kind-block></required-kinds>`: `access-control "ANYBODY"`,
	} {
		d, err := Parse(document(children), testOverlay)
		if err != nil {
			t.Fatal(err)
		}
		err = d.Supported()
		if want == "" && err != nil || want != "" && (!errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), want)) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestDocumentPrefixesFail(t *testing.T) {
	w := newWorld(t)
	short := *w.doc
	short.Kinds = short.Kinds[:1]
	raw := must(short.Sign(must(w.root.Signer()))).Raw()
	end := bytes.LastIndexByte(raw, '>')
	for n := range end {
		if _, err := Parse(raw[:n], testOverlay); err == nil {
			t.Fatalf("the first %d of %d bytes were taken for a document", n, len(raw))
		}
	}
}

func TestDocumentSignatures(t *testing.T) {
	w, stranger := newWorld(t), newWorld(t)
	if err := w.doc.Verify(w.doc, w.trust, time.Time{}); err != nil {
		t.Fatal(err)
	}
	raw := w.doc.Raw()
	parse := func(b []byte) *Document { return must(Parse(b, testOverlay)) }

	// "The configuration element MUST be treated as a binary blob that cannot be changed -- including any
	// whitespace changes -- or the signature will break."
	for name, change := range map[string][2]string{
		"white space": {"<initial-ttl>16", "<initial-ttl> 16"},
		"a value":     {"<initial-ttl>16", "<initial-ttl>61"},
		"a Kind":      {"<max-count>16", "<max-count>99"},
		"a comment":   {"<turn-density>", "<!-- --><turn-density>"},
		"an entity":   {"CHORD-RELOAD", "CHORD&#45;RELOAD"},
	} {
		b := bytes.Replace(raw, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(b, raw) {
			t.Fatalf("%s: nothing changed", name)
		}
		if err := parse(b).Verify(w.doc, w.trust, now); !errors.Is(err, ident.ErrSignature) {
			t.Errorf("%s changed: %v", name, err)
		}
	}
	// Around the element anything may change.
	around := bytes.Replace(raw, []byte("\n  <signature>"), []byte("\n<!-- x -->\n<signature >\n"), 1)
	if d := parse(around); d.Verify(w.doc, w.trust, now) != nil || d.Hash() != w.doc.Hash() || !d.Same(w.doc) {
		t.Errorf("changed around: %v", d.Verify(w.doc, w.trust, now))
	}
	unsigned := regexp.MustCompile(`(?s)<signature>.*</signature>`).ReplaceAll(raw, nil)
	if err := parse(unsigned).Verify(w.doc, w.trust, now); !errors.Is(err, ident.ErrSignature) {
		t.Errorf("unsigned: %v", err)
	}
	kindUnsigned := *w.doc
	kindUnsigned.Kinds = slices.Clone(w.doc.Kinds)
	SwapKindSignature(&kindUnsigned.Kinds[1], kindUnsigned.Kinds[0])
	if err := kindUnsigned.Verify(w.doc, w.trust, now); !errors.Is(err, ident.ErrSignature) || !strings.Contains(err.Error(), "kind-signature of "+kindUnsigned.Kinds[1].Name) {
		t.Errorf("another Kind's signature: %v", err)
	}

	// "Any configuration file MUST be signed by one of the configuration-signer elements from the previous
	// extant configuration."
	next := *w.doc
	next.Sequence = 2
	next.Signers = append(slices.Clone(next.Signers), w.kit.NodeID())
	next.KindSigners = append(slices.Clone(next.KindSigners), w.kit.NodeID()) // so that its Kinds' signatures are right
	byKit := must(next.Sign(w.kit.Signer()))
	if err := byKit.Verify(w.doc, w.trust, now); !errors.Is(err, ident.ErrUntrusted) {
		t.Errorf("signed by a kit that makes itself a signer: %v", err)
	}
	second := must(next.Sign(must(w.root.Signer())))
	if err := second.Verify(w.doc, w.trust, now); err != nil {
		t.Errorf("signed by the mission: %v", err)
	}
	third := *second
	third.Sequence, third.KindSigners = 3, []wire.NodeID{w.kit.NodeID()}
	signed := must(third.Sign(w.kit.Signer()))
	if err := signed.Verify(second, w.trust, now); err != nil {
		t.Errorf("signed by the kit that became a signer: %v", err)
	}
	// A stranger with the same overlay name who writes our signer into their document.
	foreign := *stranger.doc
	foreign.Signers = w.doc.Signers
	if err := must(foreign.Sign(must(stranger.root.Signer()))).Verify(w.doc, w.trust, now); !errors.Is(err, ident.ErrUntrusted) {
		t.Errorf("a stranger's: %v", err)
	}
	other := *w.doc
	other.InstanceName = "beta.mission.home.arpa"
	if err := other.Verify(w.doc, w.trust, now); !errors.Is(err, ErrDocument) {
		t.Errorf("another overlay's: %v", err)
	}
	if w.doc.Hash() == second.Hash() || len(w.doc.ShortHash()) != 16 {
		t.Error("hashes")
	}
}

func TestDocumentRoundTrip(t *testing.T) {
	w := newWorld(t)
	d := *w.doc
	d.Sequence, d.NoICE, d.MaxMessageSize, d.ReliabilityTimer = 65534, true, 4000, 200*time.Millisecond
	d.Expiration = time.Date(2040, 1, 2, 3, 4, 5, 0, time.UTC)
	d.SelfSigned, d.TopologyPlugin, d.ClientsPermitted, d.TurnDensity = true, ChordSelfTuning, false, 20
	d.Rest = Rest{
		LinkProtocols: []string{"TLS"}, BootstrapNodes: []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::1]:7000")},
		EnrollmentServers: []string{"https://a.example/?x=1&y=2"}, MandatoryExtensions: []string{NSSelfTuning},
		SharedSecret: true, Digest: SHA1, Probes: 8, RouteMode: "DRR",
		Diagnostics: []Diagnostic{{Kind: 2, Nodes: []wire.NodeID{w.kit.NodeID()}}},
		Domains:     &Restriction{Enabled: true, Patterns: []string{`dht\.example\.com`, `.*\.my\.example`}},
	}
	d.BadNodes = []wire.NodeID{w.kit.NodeID()}
	d.Kinds = append(slices.Clone(d.Kinds), Kind{ID: 0xf0000001, Model: wire.SingleValue, AccessControl: NodeMultiple, MaxCount: 1, MaxSize: 2, MaxMultiple: 3})
	got := must(d.Sign(must(w.root.Signer())))
	clean := func(d Document) string {
		d = d.WithoutBytes()
		d.RootCerts = nil
		r := d.Rest.Domains
		d.Rest.Domains = nil
		return fmt.Sprintf("%+v %+v", d, *r)
	}
	if clean(*got) != clean(d) {
		t.Errorf("\n got %s\nwant %s", clean(*got), clean(d))
	}
	if err := got.Verify(w.doc, w.trust, now); err != nil {
		t.Error(err)
	}
}

// RFC 6940 §6.3.2.1 and §11.1: sequences count from 0 to 2^16−2 and are compared as TCP does.
func TestSequences(t *testing.T) {
	for _, c := range []struct {
		a, b uint16
		want int
	}{{1, 1, 0}, {2, 1, 1}, {1, 2, -1}, {0, 65534, 1}, {65534, 0, -1}, {32767, 0, 1}, {32768, 0, -1}, {65535, 3, 0}, {3, 65535, 0}} {
		if got := CompareSequence(c.a, c.b); got != c.want {
			t.Errorf("CompareSequence(%d, %d) = %d", c.a, c.b, got)
		}
	}
	for a := range uint16(65535) {
		if next := NextSequence(a); next == wire.AnySequence || CompareSequence(next, a) != 1 || CompareSequence(a, next) != -1 {
			t.Fatalf("NextSequence(%d) = %d", a, next)
		}
	}
}

// noKeys stands for keys where signatures do not matter, only what is read and written.
type noKeys struct{}

func (noKeys) SignBlob([]byte) ([]byte, error) { return []byte("signature"), nil }

func (noKeys) VerifyBlob(_, security []byte, _ []wire.NodeID, _ time.Time) error {
	_, err := wire.ParseSecurityBlock(security)
	return err
}

func FuzzParseDocument(f *testing.F) {
	w := newWorld(f)
	f.Add(w.doc.Raw())
	f.Add(document(rootElement(w)))
	f.Add([]byte("<overlay"))
	f.Add(document(rootElement(w) + everything(w)))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Parse(b, "")
		if err != nil {
			return
		}
		if !bytes.Contains(b, d.Configuration()) || !bytes.HasPrefix(d.Configuration(), []byte("<")) || !bytes.HasSuffix(d.Configuration(), []byte(">")) {
			t.Errorf("signed bytes %q are not an element of the document", d.Configuration())
		}
		_ = d.Supported()
		_ = d.Verify(d, noKeys{}, now)
		// What was read can be signed again, and says the same then.
		again, err := d.Sign(noKeys{})
		if err != nil {
			t.Fatalf("signed again: %v", err)
		}
		once := again.Configuration()
		if again, err = again.Sign(noKeys{}); err != nil || !Equal(once, again.Configuration()) {
			t.Errorf("%v\n%s\n%s", err, once, again.Configuration())
		}
	})
}

func BenchmarkParseDocument(b *testing.B) {
	w := newWorld(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(w.doc.Raw(), testOverlay); err != nil {
			b.Fatal(err)
		}
	}
}
