package config

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"fieldkit/overlay/wire"
)

// xmlNode is an element with the bytes it was read from. Documents are small and bounded, so the whole tree is
// kept: signatures need the bytes, and unknown elements must not get in the way.
type xmlNode struct {
	name     xml.Name
	attr     []xml.Attr
	text     []byte
	raw      []byte
	start    int64
	parent   *xmlNode
	children []*xmlNode
}

// foreign is what a configuration or kind element says in namespaces that are not this package's to know: it is kept
// as it is, so that whoever signs a document's successor does not take out what others put in.
type foreign struct {
	elements []string   // each with all the namespaces it needs
	attrs    []xml.Attr // of the element itself
	size     int
}

func (f *foreign) add(e *xmlNode) error {
	s := e.standalone()
	if f.size += len(s); f.size > maxForeign {
		return fmt.Errorf("element %s: more than %d bytes in other namespaces", e.name.Local, maxForeign)
	}
	f.elements = append(f.elements, s)
	return nil
}

func (f *foreign) addAttributes(e *xmlNode) error {
	for _, a := range e.attr {
		if a.Name.Space != "" && a.Name.Space != "xmlns" {
			if len(f.attrs) == maxDepth {
				return fmt.Errorf("element %s: more than %d attributes of other namespaces", e.name.Local, maxDepth)
			}
			f.attrs = append(f.attrs, a)
		}
	}
	return nil
}

// standalone is the element's bytes with the namespace declarations that it has from the elements around it.
func (e *xmlNode) standalone() string {
	own, around := e.declared(), map[string]string{}
	for p := e.parent; p != nil; p = p.parent {
		for prefix, uri := range p.declared() {
			_, here := own[prefix]
			_, nearer := around[prefix]
			if !here && !nearer && (prefix == "xmlns" || bytes.Contains(e.raw, []byte(strings.TrimPrefix(prefix, "xmlns:")+":"))) {
				around[prefix] = uri
			}
		}
	}
	name := 1 // behind the <
	for name < len(e.raw) && !strings.ContainsRune(" \t\r\n/>", rune(e.raw[name])) {
		name++
	}
	var b strings.Builder
	b.Write(e.raw[:name])
	for _, prefix := range slices.Sorted(maps.Keys(around)) {
		fmt.Fprintf(&b, ` %s="%s"`, prefix, escape(around[prefix]))
	}
	b.Write(e.raw[name:])
	return b.String()
}

// declared are the namespaces that the element declares, by "xmlns" or "xmlns:prefix".
func (e *xmlNode) declared() map[string]string {
	m := map[string]string{}
	for _, a := range e.attr {
		switch {
		case a.Name.Space == "xmlns":
			m["xmlns:"+a.Name.Local] = a.Value
		case a.Name.Space == "" && a.Name.Local == "xmlns":
			m["xmlns"] = a.Value
		}
	}
	return m
}

// nsXML is what the prefix xml always means; no other prefix may (Namespaces in XML 1.0, §3).
const nsXML = "http://www.w3.org/XML/1998/namespace"

// prefixesDeclared refuses names with a prefix that means nothing. The decoder leaves such a prefix where the namespace
// should be.
func (e *xmlNode) prefixesDeclared() error {
	names := []xml.Name{e.name}
	for _, a := range e.attr {
		if a.Name.Space != "xmlns" {
			names = append(names, a.Name)
		}
	}
	for _, n := range names {
		if n.Space != "" && n.Space != nsXML && !e.inScope(n.Space) {
			return fmt.Errorf("XML: prefix %.80q of %.80q is not declared", n.Space, n.Local)
		}
	}
	return nil
}

func (e *xmlNode) inScope(uri string) bool {
	for ; e != nil; e = e.parent {
		for _, a := range e.attr {
			if a.Value == uri && (a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns") {
				return true
			}
		}
	}
	return false
}

func uniqueAttributes(attrs []xml.Attr) error {
	if len(attrs) > maxAttributes {
		return fmt.Errorf("XML: more than %d attributes of one element", maxAttributes)
	}
	for i, a := range attrs {
		if slices.ContainsFunc(attrs[:i], func(o xml.Attr) bool { return o.Name == a.Name }) {
			return fmt.Errorf("XML: attribute %s twice", a.Name.Local)
		}
	}
	return nil
}

func parseXML(b []byte) (*xmlNode, error) {
	if len(b) > MaxDocument {
		return nil, fmt.Errorf("%d bytes: more than %d", len(b), MaxDocument)
	}
	dec := xml.NewDecoder(bytes.NewReader(b))
	var root *xmlNode
	var open []*xmlNode
	for n := 0; ; n++ {
		if n > maxTokens {
			return nil, fmt.Errorf("more than %d XML tokens", maxTokens)
		}
		start := dec.InputOffset()
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) && root != nil && len(open) == 0 {
			return root, nil
		}
		if err != nil {
			return nil, fmt.Errorf("XML: %w", err)
		}
		switch t := tok.(type) {
		case xml.StartElement:
			if len(open) == maxDepth {
				return nil, fmt.Errorf("element %q: nested deeper than %d", t.Name.Local, maxDepth)
			}
			e := &xmlNode{name: t.Name, attr: t.Copy().Attr, start: start}
			if err := uniqueAttributes(e.attr); err != nil {
				return nil, err
			}
			switch {
			case len(open) > 0:
				p := open[len(open)-1]
				e.parent = p
				p.children = append(p.children, e)
			case root == nil:
				root = e
			default:
				return nil, errors.New("XML: two root elements")
			}
			if err := e.prefixesDeclared(); err != nil {
				return nil, err
			}
			open = append(open, e)
		case xml.EndElement:
			e := open[len(open)-1]
			e.raw = b[e.start:dec.InputOffset()]
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) == 0 {
				continue
			}
			e := open[len(open)-1]
			if len(e.text)+len(t) > maxText {
				return nil, fmt.Errorf("element %q: more than %d bytes of text", e.name.Local, maxText)
			}
			e.text = append(e.text, t...)
		case xml.Directive:
			return nil, errors.New("XML: document type declaration") // nothing in it could be meant well
		}
	}
}

func (e *xmlNode) is(local string) bool { return e.name == xml.Name{Space: nsBase, Local: local} }

// value is the element's text; white space around it does not count (XML Schema's whiteSpace=collapse).
func (e *xmlNode) value() string { return strings.Join(strings.Fields(string(e.text)), " ") }

func (e *xmlNode) attribute(local string) (string, bool) {
	for _, a := range e.attr {
		if a.Name.Space == "" && a.Name.Local == local {
			return strings.TrimSpace(a.Value), true
		}
	}
	return "", false
}

func (e *xmlNode) bad(want string) error {
	v := e.value()
	if len(v) > 80 {
		v = v[:80] + "…"
	}
	return fmt.Errorf("element %s: %q: want %s", e.name.Local, v, want)
}

func (e *xmlNode) number(low, high uint64) (uint64, error) {
	v, err := strconv.ParseUint(strings.TrimPrefix(e.value(), "+"), 10, 64)
	if err != nil || v < low || v > high {
		return 0, e.bad(fmt.Sprintf("an integer from %d to %d", low, high))
	}
	return v, nil
}

func (e *xmlNode) boolean() (bool, error) {
	switch e.value() {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, e.bad(`"true", "1", "false" or "0"`)
}

func (e *xmlNode) base64() ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(e.text)), ""))
	if err != nil {
		return nil, e.bad("base64")
	}
	return b, nil
}

// nodeID reads a Node-ID of n bytes.
func (e *xmlNode) nodeID(n int) (wire.NodeID, error) {
	id, err := wire.ParseNodeID(e.value())
	if err != nil || id.Len() != n {
		return wire.NodeID{}, e.bad(fmt.Sprintf("a Node-ID of %d bytes in hex", n))
	}
	return id, nil
}
