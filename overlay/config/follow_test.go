package config_test

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	. "fieldkit/overlay/config"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

func sprintf(format string, a ...any) string { return fmt.Sprintf(format, a...) }

// island is a node that goes by one document and hears of others.
type island struct{ doc *Document }

func (i *island) hear(t *testing.T, w *world, d *Document) {
	t.Helper()
	if !Supersedes(i.doc, d) {
		return
	}
	if err := d.Verify(i.doc, w.trust, now); err != nil {
		t.Fatal(err)
	}
	i.doc = d
}

// Two stewards, out of each other's reach, sign the same sequence. RFC 6940 cannot tell their documents apart, so all
// nodes must come to one by themselves, whatever they heard first.
func TestTieBreak(t *testing.T) {
	w := newWorld(t)
	s := must(w.root.Signer())
	var docs []*Document
	for ttl := range uint8(3) {
		d := *w.doc
		d.Sequence, d.InitialTTL = 2, 20+ttl
		docs = append(docs, must(d.Sign(s)))
	}
	best := slices.MaxFunc(docs, func(a, b *Document) int {
		x, y := a.Hash(), b.Hash()
		return bytes.Compare(x[:], y[:])
	})
	orders := [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	for _, order := range orders {
		n := island{w.doc}
		for _, i := range order {
			n.hear(t, w, docs[i])
		}
		if n.doc != best {
			t.Errorf("heard in order %v: ended with another document", order)
		}
	}
	// Two islands of three nodes each, that tell each other what they have until nobody learns anything.
	for _, start := range [][2]int{{0, 1}, {1, 0}, {0, 2}, {2, 0}, {1, 2}, {2, 1}} {
		nodes := make([]island, 6)
		for i := range nodes {
			nodes[i].doc = docs[start[i/3]]
		}
		for range nodes {
			for i := range nodes {
				nodes[i].hear(t, w, nodes[(i+3)%6].doc)
				nodes[i].hear(t, w, nodes[(i+1)%6].doc)
			}
		}
		for i := range nodes {
			if !nodes[i].doc.Same(nodes[0].doc) {
				t.Errorf("start %v: node %d has another document", start, i)
			}
		}
	}
	// The steward who merges them takes the next sequence, and it wins against all.
	merged := *best
	merged.Sequence, merged.BadNodes = NextSequence(best.Sequence), []wire.NodeID{w.kit.NodeID()}
	last := must(merged.Sign(s))
	for _, d := range append(docs, w.doc) {
		if !Supersedes(d, last) || Supersedes(last, d) {
			t.Errorf("sequence %d against %d", d.Sequence, last.Sequence)
		}
		if d.Sequence == 2 && (Supersedes(d, d) || Conflict(d, d)) {
			t.Error("a document supersedes itself")
		}
	}
	if !Conflict(docs[0], docs[1]) || Conflict(docs[0], w.doc) {
		t.Error("conflicts")
	}
	// The same document signed twice, and a forged one of the largest hash.
	again := must(Parse(docs[0].Raw(), ""))
	if Supersedes(docs[0], again) || Conflict(docs[0], again) {
		t.Error("the same document twice")
	}
	stranger := newWorld(t)
	for ttl := uint8(1); ; ttl++ {
		d := *stranger.doc
		d.Sequence, d.InitialTTL, d.Signers = 2, ttl, w.doc.Signers
		forged := must(d.Sign(must(stranger.root.Signer())))
		if Supersedes(best, forged) {
			if err := forged.Verify(best, w.trust, now); !errors.Is(err, ident.ErrUntrusted) {
				t.Errorf("a stranger's: %v", err)
			}
			return
		}
	}
}

// RFC 6940 §11.1: expiration is when a configuration "is no longer valid"; a new copy SHOULD be retrieved "at a randomly
// selected time that is before the expiration time".
func TestExpiration(t *testing.T) {
	w := newWorld(t)
	d := *w.doc
	if d.Expired(now) || !d.RefreshAt(now, 7).IsZero() {
		t.Error("a document without an expiration expired")
	}
	d.Expiration = now.Add(time.Hour)
	if d.Expired(now) || !d.Expired(now.Add(time.Hour+1)) || d.Expired(time.Unix(0, 0)) {
		t.Error("expiration")
	}
	seen := map[time.Time]bool{}
	for random := range uint64(100) {
		at := d.RefreshAt(now, random*0x9e3779b97f4a7c15)
		if at.Before(now.Add(30*time.Minute)) || !at.Before(d.Expiration) {
			t.Errorf("refresh at %v", at)
		}
		seen[at] = true
	}
	if len(seen) < 90 {
		t.Errorf("only %d different times", len(seen))
	}
	if late := d.Expiration.Add(time.Hour); !d.RefreshAt(late, 3).Equal(late) {
		t.Error("what expired is not fetched at once")
	}
	// It is still the document in force: signatures do not depend on it.
	signed := must(d.Sign(must(w.root.Signer())))
	if err := signed.Verify(w.doc, w.trust, now.Add(48*time.Hour)); err != nil {
		t.Error(err)
	}
}

// "The file MAY contain multiple "configuration" elements, where each one contains the configuration information for a
// different overlay. Each configuration element MAY be followed by signature elements".
func TestSeveralConfigurationsInAFile(t *testing.T) {
	w := newWorld(t)
	other := must(ident.NewAuthority("beta.mission.home.arpa", 16))
	second := must(ident.NewDocument(other).Sign(must(other.Signer())))
	element := func(d *Document) string {
		s := string(d.Raw())
		return s[strings.Index(s, "  <configuration"):strings.Index(s, "</overlay>")]
	}
	file := `<?xml version="1.0" encoding="UTF-8"?><overlay xmlns="` + NSBase + `">` + element(w.doc) + element(second) + `</overlay>`
	for _, want := range []*Document{w.doc, second} {
		d, err := Parse([]byte(file), want.InstanceName)
		if err != nil {
			t.Fatal(err)
		}
		trust := w.trust
		if want == second {
			trust = must(ident.TrustFor(second))
		}
		if err := d.Verify(d, trust, now); err != nil || !d.Same(want) {
			t.Errorf("%s: %v", want.InstanceName, err)
		}
	}
	if _, err := Parse([]byte(file), ""); err == nil {
		t.Error("none was singled out")
	}
	// The signature of the one is not the signature of the other.
	swapped := strings.Replace(file, element(second), "", 1)
	swapped = regexp.MustCompile(`(?s)<signature>.*</signature>`).ReplaceAllString(swapped, regexp.MustCompile(`(?s)<signature>.*</signature>`).FindString(element(second)))
	if err := must(Parse([]byte(swapped), testOverlay)).Verify(w.doc, w.trust, now); err == nil {
		t.Error("another configuration's signature taken")
	}
	// Of several signatures one that counts is enough, wherever it stands.
	good := regexp.MustCompile(`(?s)<signature>.*</signature>`).FindString(element(w.doc))
	for _, all := range []string{"<signature>AAAA</signature>" + good, good + "<signature>AAAA</signature>"} {
		b := strings.Replace(string(w.doc.Raw()), good, all, 1)
		if err := must(Parse([]byte(b), "")).Verify(w.doc, w.trust, now); err != nil {
			t.Errorf("two signatures: %v", err)
		}
	}
	if _, err := Parse([]byte(strings.Replace(string(w.doc.Raw()), good, strings.Repeat(good, 9), 1)), ""); err == nil {
		t.Error("any number of signatures taken")
	}
}

// The namespaces that the signed element uses are declared in it: whoever passes a document on cannot make its elements
// mean something else.
func TestNamespacesAreSigned(t *testing.T) {
	w := newWorld(t)
	d := *w.doc
	d.Chord.Reactive = false
	d.Rest.Domains = &Restriction{}
	raw := string(must(d.Sign(must(w.root.Signer()))).Raw())
	changed := strings.Replace(raw, `<overlay xmlns="`+NSBase+`">`, `<o:overlay xmlns:o="`+NSBase+`" xmlns="urn:x" xmlns:chord="urn:y" xmlns:sip="urn:z">`, 1)
	changed = strings.Replace(changed, "</overlay>", "</o:overlay>", 1)
	changed = strings.Replace(strings.Replace(changed, "<signature>", "<o:signature>", 1), "</signature>", "</o:signature>", 1)
	got, err := Parse([]byte(changed), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Verify(w.doc, w.trust, now); err != nil || got.Chord.Reactive || got.Rest.Domains == nil {
		t.Errorf("%v: %+v", err, got)
	}
}

// Documents that are meant to hurt: each is refused, quickly, whatever is in it.
func TestHostileDocuments(t *testing.T) {
	w := newWorld(t)
	root := rootElement(w)
	for name, b := range map[string][]byte{
		"entities that multiply": []byte(`<!DOCTYPE o [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><overlay xmlns="` + NSBase + `">&b;</overlay>`),
		"an external entity":     []byte(`<!DOCTYPE o [<!ENTITY a SYSTEM "file:///etc/passwd">]><overlay xmlns="` + NSBase + `">&a;</overlay>`),
		"a million elements":     document(root + strings.Repeat("<a/>", 1_000_000)),
		"too many elements":      document(root + strings.Repeat("<a/>", 30_000)),
		"a million Node-IDs":     document(root + strings.Repeat("<bad-node>00112233445566778899aabbccddeeff</bad-node>", 4_000)),
		"a thousand levels":      document(root + strings.Repeat("<a>", 1000) + strings.Repeat("</a>", 1000)),
		"many namespaces": document(root + `<a ` + func() (s string) {
			for i := range 2000 {
				s += fmt.Sprintf(`xmlns:n%d="urn:%d" `, i, i)
			}
			return s
		}() + `/>`),
		"one long attribute":   document(root + `<a b="` + strings.Repeat("x", MaxDocument) + `"/>`),
		"an undeclared prefix": document(root + "<y:a/>"),
		"one of an attribute":  document(root + `<a y:b=""/>`),
		"unclosed":             document(root + "<a>"),
		"an undeclared entity": document(root + "&b;"),
		"not UTF-8":            document(root + "<a>\xff\xfe</a>"),
		"another encoding":     bytes.Replace(document(root), []byte("UTF-8"), []byte("UTF-7"), 1),
	} {
		start := time.Now()
		if _, err := Parse(b, ""); !errors.Is(err, ErrDocument) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

// A kind-block comes alone in a ConfigUpdate (RFC 6940 §6.5.4.1), and "Receivers MUST verify the signature prior to
// accepting a kind-block."
func TestParseKindBlock(t *testing.T) {
	w := newWorld(t)
	block, _ := w.doc.KindBlock(wire.KindSIPRegistration)
	k, err := ParseKindBlock(block)
	if err != nil || k.ID != wire.KindSIPRegistration || k.MaxCount != 16 {
		t.Fatalf("%+v, %v", k, err)
	}
	if err := k.Verify(w.doc, w.trust, now); err != nil {
		t.Error(err)
	}
	changed, err := ParseKindBlock(bytes.Replace(block, []byte(">16<"), []byte(">61<"), 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := changed.Verify(w.doc, w.trust, now); !errors.Is(err, ident.ErrSignature) {
		t.Errorf("changed: %v", err)
	}
	other := *w.doc
	other.KindSigners = []wire.NodeID{w.kit.NodeID()}
	if err := k.Verify(&other, w.trust, now); !errors.Is(err, ident.ErrUntrusted) {
		t.Errorf("signed by who may not: %v", err)
	}
	for _, bad := range []string{"", "<kind-block/>", string(block) + string(block), string(block[:len(block)-1]), "</required-kinds>", string(block) + "<x/>", strings.Repeat(" ", 1<<20)} {
		if _, err := ParseKindBlock([]byte(bad)); !errors.Is(err, ErrDocument) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

func FuzzParseKindBlock(f *testing.F) {
	w := newWorld(f)
	block, _ := w.doc.KindBlock(wire.KindSIPRegistration)
	f.Add(block)
	f.Add([]byte(`<kind-block><kind id="5"><data-model>ARRAY</data-model></kind></kind-block>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKindBlock(b)
		if err != nil {
			return
		}
		if !bytes.Contains(b, k.Element()) {
			t.Errorf("signed bytes %q are not in the block", k.Element())
		}
		_ = k.Verify(w.doc, noKeys{}, now)
	})
}
