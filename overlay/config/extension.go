package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// readExtension reads the elements of a configuration that other documents than RFC 6940 define.
func (d *Document) readExtension(e *xmlNode) error {
	switch e.name.Space {
	case nsSIP:
		return d.readRestrictions([]*xmlNode{e})
	case NSSelfTuning:
		if e.name.Local == "number-of-peers-to-probe" {
			n, err := e.number(1, maxEntries)
			d.Rest.Probes = uint32(n)
			return err
		}
	case NSRouteMode:
		if e.name.Local == "mode" {
			// "The defined routing modes include DRR and RPR."
			if d.Rest.RouteMode = e.value(); d.Rest.RouteMode != "DRR" && d.Rest.RouteMode != "RPR" {
				return e.bad("DRR or RPR")
			}
			return nil
		}
	case NSDiagnostics:
		if e.name.Local == "diagnostic-kind" {
			return d.readDiagnostic(e)
		}
	}
	return d.Rest.foreign.add(e)
}

// readDiagnostic is RFC 7851 §7: "This has the attribute "kind" with the hexadecimal number indicating the diagnostic
// Kind ID … and at least one subelement "access-node"."
func (d *Document) readDiagnostic(e *xmlNode) error {
	s, _ := e.attribute("kind")
	kind, err := strconv.ParseUint(strings.TrimPrefix(strings.ToLower(s), "0x"), 16, 16)
	if err != nil {
		return fmt.Errorf("attribute kind of diagnostic-kind: %q: want a hexadecimal DiagnosticKindId", s)
	}
	i := slices.IndexFunc(d.Rest.Diagnostics, func(g Diagnostic) bool { return g.Kind == uint16(kind) })
	if i < 0 {
		i = len(d.Rest.Diagnostics)
		d.Rest.Diagnostics = append(d.Rest.Diagnostics, Diagnostic{Kind: uint16(kind)})
	}
	g := &d.Rest.Diagnostics[i]
	for _, n := range e.children {
		if n.name.Space != NSDiagnostics || n.name.Local != "access-node" {
			continue
		}
		if len(g.Nodes) == maxAccess {
			return fmt.Errorf("element access-node: more than %d for diagnostic kind %#x", maxAccess, kind)
		}
		if err := appendID(&g.Nodes, n, d.NodeIDLength); err != nil {
			return err
		}
	}
	if len(g.Nodes) == 0 {
		return fmt.Errorf("element diagnostic-kind %#x: no access-node", kind)
	}
	return nil
}

// isRestriction knows the element by both its names: the prose of RFC 7904 §3.4 says domain-restrictions, its grammar
// domain-restriction.
func (e *xmlNode) isRestriction() bool {
	return e.name.Space == nsSIP && (e.name.Local == "domain-restriction" || e.name.Local == "domain-restrictions")
}

// readRestrictions reads the restriction of domains among elements: the prose has it in the configuration document, the
// grammar in a kind element. Both are taken, but only one of them.
func (d *Document) readRestrictions(elements []*xmlNode) error {
	for _, e := range elements {
		if !e.isRestriction() {
			continue
		}
		if d.Rest.Domains != nil {
			return fmt.Errorf("element %s: twice", e.name.Local)
		}
		r := &Restriction{}
		if s, ok := e.attribute("enable"); ok {
			switch s {
			case "true", "1":
				r.Enabled = true
			case "false", "0":
			default:
				return fmt.Errorf("attribute enable of %s: %q: want true or false", e.name.Local, s)
			}
		}
		for _, p := range e.children {
			if p.name.Space != nsSIP || p.name.Local != "pattern" {
				continue
			}
			s := p.value()
			if _, err := regexp.CompilePOSIX(s); err != nil || s == "" || len(s) > maxPattern {
				return p.bad("a POSIX extended regular expression")
			}
			if len(r.Patterns) == maxEntries {
				return fmt.Errorf("element pattern: more than %d", maxEntries)
			}
			r.Patterns = append(r.Patterns, s)
		}
		d.Rest.Domains = r
	}
	return nil
}
