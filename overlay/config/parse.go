package config

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

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
	children []*xmlNode
}

// Parse reads the configuration element of the given overlay; instance "" takes the only one there is.
// It is total, checks every rule of RFC 6940 §11.1 that needs no key, fills in the defaults, and tolerates
// elements and attributes it does not know. Signatures are Verify's.
func Parse(b []byte, instance string) (*Document, error) {
	root, err := parseXML(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if root.name != (xml.Name{Space: nsBase, Local: "overlay"}) {
		return nil, fmt.Errorf("%w: root element %q of namespace %q", ErrDocument, root.name.Local, root.name.Space)
	}
	var found, signature *xmlNode
	for i, c := range root.children {
		if c.name != (xml.Name{Space: nsBase, Local: "configuration"}) {
			continue
		}
		if name, _ := c.attribute("instance-name"); instance != "" && name != instance {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%w: several configuration elements, and none is singled out", ErrDocument)
		}
		found = c
		if i+1 < len(root.children) && root.children[i+1].is("signature") {
			signature = root.children[i+1]
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%w: no configuration element for overlay %q", ErrDocument, instance)
	}
	d, err := readConfiguration(found)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if signature != nil {
		if d.raw.signature, err = signature.base64(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDocument, err)
		}
	}
	d.raw.document = bytes.Clone(b)
	d.raw.configuration = bytes.Clone(found.raw)
	return d, nil
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
			switch {
			case len(open) > 0:
				p := open[len(open)-1]
				p.children = append(p.children, e)
			case root == nil:
				root = e
			default:
				return nil, errors.New("XML: two root elements")
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

// single are the elements of which the grammar has at most one.
var single = []string{"topology-plugin", "node-id-length", "self-signed-permitted", "turn-density", "clients-permitted",
	"no-ice", "shared-secret", "max-message-size", "initial-ttl", "overlay-reliability-timer", "required-kinds",
	"chord-update-interval", "chord-ping-interval", "chord-reactive"}

func readConfiguration(c *xmlNode) (*Document, error) {
	d := defaults()
	var err error
	if d.InstanceName, _ = c.attribute("instance-name"); d.InstanceName == "" {
		return nil, errors.New("attribute instance-name: missing")
	}
	if err := ValidateOverlayName(d.InstanceName); err != nil {
		return nil, fmt.Errorf("attribute instance-name: %w", err)
	}
	if s, ok := c.attribute("sequence"); ok {
		v, err := strconv.ParseUint(s, 10, 16)
		if err != nil || v >= modSequence {
			return nil, fmt.Errorf("attribute sequence: %q: want an integer from 0 to %d", s, modSequence-1)
		}
		d.Sequence = uint16(v)
	}
	if s, ok := c.attribute("expiration"); ok {
		if d.Expiration, err = time.Parse(time.RFC3339, s); err != nil || d.Expiration.UTC().Year() > 9999 {
			return nil, fmt.Errorf("attribute expiration: %q: want a date and time as RFC 3339 has it", s)
		}
		d.Expiration = d.Expiration.UTC()
	}
	count := map[string]int{}
	// The Node-ID length first: it says how to read the others.
	for _, e := range c.children {
		count[e.name.Local]++
		if e.is("node-id-length") {
			n, err := e.number(wire.MinNodeIDLen, wire.MaxNodeIDLen)
			if err != nil {
				return nil, err
			}
			d.NodeIDLength = int(n)
		}
	}
	for name, n := range count {
		limit := maxEntries
		if slices.Contains(single, name) {
			limit = 1
		} else if name == "bad-node" {
			limit = MaxBadNodes
		}
		if n > limit {
			return nil, fmt.Errorf("element %s: %d of them, at most %d", name, n, limit)
		}
	}
	for _, e := range c.children {
		switch e.name.Space {
		case nsBase:
			err = d.readBase(e)
		case nsChord:
			err = d.readChord(e)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(d.RootCerts) == 0 && !d.SelfSigned && len(d.Rest.EnrollmentServers) == 0 {
		return nil, errors.New("element root-cert: missing, though self-signed-permitted is not true")
	}
	return d, nil
}

func (d *Document) readBase(e *xmlNode) (err error) {
	var n uint64
	switch e.name.Local {
	case "topology-plugin":
		d.TopologyPlugin = e.value()
	case "root-cert":
		err = d.readRoot(e)
	case "enrollment-server":
		if !strings.HasPrefix(e.value(), "https:") {
			return e.bad("an https: URL")
		}
		d.Rest.EnrollmentServers = append(d.Rest.EnrollmentServers, e.value())
	case "self-signed-permitted":
		d.SelfSigned, err = e.boolean()
		if s, ok := e.attribute("digest"); ok {
			d.Rest.Digest = s
		}
		if d.Rest.Digest != "sha1" && d.Rest.Digest != "sha256" {
			return fmt.Errorf("attribute digest of self-signed-permitted: %q: want sha1 or sha256", d.Rest.Digest)
		}
	case "bootstrap-node":
		err = d.readBootstrap(e)
	case "turn-density":
		n, err = e.number(0, 255)
		d.TurnDensity = uint8(n)
	case "clients-permitted":
		d.ClientsPermitted, err = e.boolean()
	case "no-ice":
		d.NoICE, err = e.boolean()
	case "shared-secret":
		d.Rest.SharedSecret = true
	case "max-message-size":
		n, err = e.number(uint64(wire.FixedHeaderLen), maxMessage)
		d.MaxMessageSize = uint32(n)
	case "initial-ttl":
		n, err = e.number(1, 255)
		d.InitialTTL = uint8(n)
	case "overlay-reliability-timer":
		n, err = e.number(200, uint64(maxInterval.Milliseconds()))
		d.ReliabilityTimer = time.Duration(n) * time.Millisecond
	case "overlay-link-protocol":
		d.Rest.LinkProtocols = append(d.Rest.LinkProtocols, e.value())
	case "configuration-signer":
		err = appendID(&d.Signers, e, d.NodeIDLength)
	case "kind-signer":
		err = appendID(&d.KindSigners, e, d.NodeIDLength)
	case "bad-node":
		err = appendID(&d.BadNodes, e, d.NodeIDLength)
	case "mandatory-extension":
		d.Rest.MandatoryExtensions = append(d.Rest.MandatoryExtensions, e.value())
	case "required-kinds":
		err = d.readKinds(e)
	}
	return err
}

func appendID(list *[]wire.NodeID, e *xmlNode, n int) error {
	id, err := e.nodeID(n)
	if err == nil && !slices.Contains(*list, id) {
		*list = append(*list, id)
	}
	return err
}

func (d *Document) readChord(e *xmlNode) (err error) {
	var n uint64
	seconds := uint64(maxInterval.Seconds())
	switch e.name.Local {
	case "chord-update-interval":
		n, err = e.number(1, seconds)
		d.Chord.UpdateInterval = time.Duration(n) * time.Second
	case "chord-ping-interval":
		n, err = e.number(1, seconds)
		d.Chord.PingInterval = time.Duration(n) * time.Second
	case "chord-reactive":
		d.Chord.Reactive, err = e.boolean()
	}
	return err
}

func (d *Document) readRoot(e *xmlNode) error {
	der, err := e.base64()
	if err != nil {
		return err
	}
	x, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("element root-cert: %w", err)
	}
	if !x.BasicConstraintsValid || !x.IsCA {
		return errors.New("element root-cert: not the certificate of a CA")
	}
	d.RootCerts = append(d.RootCerts, x)
	return nil
}

func (d *Document) readBootstrap(e *xmlNode) error {
	s, _ := e.attribute("address")
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return fmt.Errorf("attribute address of bootstrap-node: %q: want an IP address", s)
	}
	port := uint64(wire.DefaultPort)
	if s, ok := e.attribute("port"); ok {
		if port, err = strconv.ParseUint(s, 10, 16); err != nil || port == 0 {
			return fmt.Errorf("attribute port of bootstrap-node: %q: want 1 to 65535", s)
		}
	}
	d.Rest.BootstrapNodes = append(d.Rest.BootstrapNodes, netip.AddrPortFrom(addr, uint16(port)))
	return nil
}

func (d *Document) readKinds(required *xmlNode) error {
	for _, block := range required.children {
		if !block.is("kind-block") {
			continue
		}
		if len(d.Kinds) == maxEntries {
			return fmt.Errorf("element kind-block: more than %d", maxEntries)
		}
		var k *Kind
		var signature []byte
		for _, e := range block.children {
			var err error
			switch {
			case e.is("kind") && k == nil:
				k, err = readKind(e)
			case e.is("kind-signature") && signature == nil:
				signature, err = e.base64()
			case e.is("kind"), e.is("kind-signature"):
				err = fmt.Errorf("element %s: two in one kind-block", e.name.Local)
			}
			if err != nil {
				return err
			}
		}
		if k == nil {
			return errors.New("element kind: missing in a kind-block")
		}
		k.signature = signature
		if _, twice := d.Kind(k.ID); twice {
			return fmt.Errorf("element kind: Kind %s%#x twice", k.Name, uint32(k.ID))
		}
		d.Kinds = append(d.Kinds, *k)
	}
	return nil
}

func readKind(e *xmlNode) (*Kind, error) {
	k := &Kind{element: bytes.Clone(e.raw)}
	name, named := e.attribute("name")
	id, numbered := e.attribute("id")
	switch {
	case named == numbered:
		return nil, errors.New("element kind: want either a name or an id")
	case named:
		i := slices.IndexFunc(registered, func(r Kind) bool { return r.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("attribute name of kind: %q: not a registered Kind this implementation knows", name)
		}
		k.ID, k.Name = registered[i].ID, name
	default:
		v, err := strconv.ParseUint(id, 10, 32)
		if err != nil || v == 0 || v == 0xffffffff {
			return nil, fmt.Errorf("attribute id of kind: %q: want an integer Kind-ID", id)
		}
		k.ID = wire.KindID(v)
	}
	seen := map[string]bool{}
	for _, p := range e.children {
		if p.name.Space != nsBase {
			continue
		}
		if seen[p.name.Local] {
			return nil, fmt.Errorf("element %s of Kind %s%s: twice", p.name.Local, name, id)
		}
		seen[p.name.Local] = true
		var err error
		var n uint64
		switch p.name.Local {
		case "max-count":
			n, err = p.number(0, 1<<31-1)
			k.MaxCount = uint32(n)
		case "max-size":
			n, err = p.number(0, 1<<31-1)
			k.MaxSize = uint32(n)
		case "max-node-multiple":
			n, err = p.number(1, 1<<31-1)
			k.MaxMultiple = uint32(n)
		case "data-model":
			var ok bool
			if k.Model, ok = models[p.value()]; !ok {
				err = p.bad("SINGLE, ARRAY or DICTIONARY")
			}
		case "access-control":
			k.AccessControl = AccessControl(p.value())
		}
		if err != nil {
			return nil, fmt.Errorf("Kind %s%s: %w", name, id, err)
		}
	}
	for _, must := range []string{"max-count", "max-size", "data-model", "access-control"} {
		if !seen[must] {
			return nil, fmt.Errorf("Kind %s%s: element %s: missing", name, id, must)
		}
	}
	for _, r := range registered {
		if r.ID == k.ID {
			k.Name, k.Model, k.AccessControl = r.Name, r.Model, r.AccessControl
		}
	}
	if k.AccessControl == NodeMultiple && k.MaxMultiple == 0 {
		return nil, fmt.Errorf("Kind %s%s: element max-node-multiple: missing with access-control NODE-MULTIPLE", name, id)
	}
	return k, nil
}

// ValidateOverlayName checks that name is a DNS-legal host name in lower case, as RFC 6940 §6.3.2 wants it.
func ValidateOverlayName(name string) error {
	if len(name) == 0 || len(name) > 253 {
		return fmt.Errorf("overlay name %q: %d bytes, want 1 to 253", name, len(name))
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 {
			return fmt.Errorf("overlay name %q: label %q has %d bytes, want 1 to 63", name, label, len(label))
		}
		for i, c := range []byte(label) {
			letter := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
			if !letter && (c != '-' || i == 0 || i == len(label)-1) {
				return fmt.Errorf("overlay name %q: label %q is not lower-case letters, digits and inner hyphens", name, label)
			}
		}
	}
	return nil
}
