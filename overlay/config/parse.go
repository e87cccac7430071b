package config

import (
	"bytes"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"fieldkit/overlay/wire"
)

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
	var found *xmlNode
	var signatures []*xmlNode
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
		// "Each configuration element MAY be followed by signature elements that provide a signature over the
		// preceding configuration element."
		for j := i + 1; j < len(root.children) && root.children[j].is("signature"); j++ {
			signatures = append(signatures, root.children[j])
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%w: no configuration element for overlay %q", ErrDocument, instance)
	}
	d, err := readConfiguration(found)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	if len(signatures) > maxSignatures {
		return nil, fmt.Errorf("%w: element signature: more than %d", ErrDocument, maxSignatures)
	}
	for _, s := range signatures {
		b, err := s.base64()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDocument, err)
		}
		d.raw.signatures = append(d.raw.signatures, b)
	}
	d.raw.document = bytes.Clone(b)
	d.raw.configuration = bytes.Clone(found.raw)
	return d, nil
}

// limit is how many of an element a configuration may have.
func limit(name xml.Name) int {
	switch name.Space {
	case nsBase:
		switch name.Local {
		case "topology-plugin", "node-id-length", "self-signed-permitted", "turn-density", "clients-permitted", "no-ice",
			"shared-secret", "max-message-size", "initial-ttl", "overlay-reliability-timer", "required-kinds":
			return 1
		case "bad-node":
			return MaxBadNodes
		}
	case nsChord, nsSIP, NSSelfTuning, NSRouteMode:
		return 1
	}
	return maxEntries
}

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
	if err := d.Rest.foreign.addAttributes(c); err != nil {
		return nil, err
	}
	count := map[xml.Name]int{}
	// The Node-ID length first: it says how to read the others.
	for _, e := range c.children {
		if e.is("topology-plug-in") { // RFC 6940 §11.1's text; its grammar and example have the other
			e.name.Local = "topology-plugin"
		}
		count[e.name]++
		if e.is("node-id-length") {
			n, err := e.number(wire.MinNodeIDLen, wire.MaxNodeIDLen)
			if err != nil {
				return nil, err
			}
			d.NodeIDLength = int(n)
		}
	}
	for _, e := range c.children {
		if n, most := count[e.name], limit(e.name); n > most {
			return nil, fmt.Errorf("element %s: %d of them, at most %d", e.name.Local, n, most)
		}
	}
	for _, e := range c.children {
		if err := d.readElement(e); err != nil {
			return nil, err
		}
	}
	if len(d.RootCerts) == 0 && !d.SelfSigned && len(d.Rest.EnrollmentServers) == 0 {
		return nil, errors.New("element root-cert: missing, though self-signed-permitted is not true")
	}
	return d, nil
}

func (d *Document) readElement(e *xmlNode) error {
	switch e.name.Space {
	case nsBase:
		return d.readBase(e)
	case nsChord:
		return d.readChord(e)
	case nsSIP, NSSelfTuning, NSDiagnostics, NSRouteMode:
		return d.readExtension(e)
	}
	return d.Rest.foreign.add(e)
}

func (d *Document) readBase(e *xmlNode) (err error) {
	var n uint64
	switch e.name.Local {
	case "topology-plugin":
		d.TopologyPlugin = e.value()
	case "root-cert":
		err = d.readRoot(e)
	case "enrollment-server":
		for _, c := range e.children {
			if c.is("url") { // the text has the URL in "a "url" element", the grammar and the example have it as it is
				e = c
			}
		}
		// "This URL MUST be of type "https:"."
		if u, err := url.Parse(e.value()); err != nil || !strings.EqualFold(u.Scheme, "https") || u.Host == "" {
			return e.bad("an https: URL")
		}
		d.Rest.EnrollmentServers = append(d.Rest.EnrollmentServers, e.value())
	case "self-signed-permitted":
		d.SelfSigned, err = e.boolean()
		if s, ok := e.attribute("digest"); ok {
			d.Rest.Digest = s
		}
		if d.Rest.Digest != SHA1 && d.Rest.Digest != SHA256 { // "Implementations MUST support both of these algorithms."
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
		d.Rest.SharedSecret, d.Rest.Secret = true, Secret(e.value())
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
	case "node-id-length": // read first
	default:
		err = d.Rest.foreign.add(e)
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
				if k, err = readKind(e); err == nil {
					err = d.readRestrictions(e.children)
				}
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
	if err := k.foreign.addAttributes(e); err != nil {
		return nil, err
	}
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
			if p.isRestriction() {
				continue // Document.readKinds has read it
			}
			if err := k.foreign.add(p); err != nil {
				return nil, err
			}
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
