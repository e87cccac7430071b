package config

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"fieldkit/overlay/wire"
)

// New is a document for a field overlay with this project's values, to be given its trust anchors and signers, changed
// and then signed: timers for kits that meet in a field, not for the Internet; two records of each TURN server that lies
// between kits (docs/adr/0016-turn.md); a short TTL (RFC 6940 §13.6.5: log2 N + 5 hops bound the path). It has no expiration, because no
// clock is trusted. The successor of a document is a copy of it with the next sequence.
func New(overlay string, length int) *Document {
	d := defaults()
	d.InstanceName, d.Sequence, d.NodeIDLength = overlay, 1, length
	d.TurnDensity, d.InitialTTL = 2, 16
	// A ConfigUpdate carries a whole document, which with a certificate in each signature is larger than the default
	// (RFC 6940 §11.1, 5000 bytes).
	d.MaxMessageSize = 16 << 10
	d.Chord = Chord{UpdateInterval: 30 * time.Second, PingInterval: 60 * time.Second, Reactive: true}
	limits := map[wire.KindID][2]uint32{ // max-count, max-size
		wire.KindSIPRegistration:   {16, 1024},
		wire.KindTurnService:       {1, 32},
		wire.KindCertificateByNode: {64, maxCertificate},
		wire.KindCertificateByUser: {16, maxCertificate},
	}
	for _, k := range registered {
		if l, ok := limits[k.ID]; ok {
			k.MaxCount, k.MaxSize = l[0], l[1]
			if k.AccessControl == NodeMultiple {
				k.MaxMultiple = 20 // "with a maximum iteration of counter 20" (RFC 6940 §9)
			}
			d.Kinds = append(d.Kinds, k)
		}
	}
	return d
}

// Sign generates the document's bytes as s, which must be one of the configuration-signers and kind-signers in
// force, and returns the document as whoever receives it will read it.
func (d *Document) Sign(s Signer) (*Document, error) {
	w := &xmlWriter{}
	w.line(0, `<?xml version="1.0" encoding="UTF-8"?>`)
	w.line(0, `<overlay xmlns="`+nsBase+`">`)
	start := w.b.Len() + 2
	w.configuration(d, s)
	if w.err != nil {
		return nil, w.err
	}
	end := w.b.Len() - 1 // the line end is not part of the blob
	signature, err := s.SignBlob(w.b.Bytes()[start:end])
	if err != nil {
		return nil, err
	}
	w.element(1, "signature", base64.StdEncoding.EncodeToString(signature))
	w.line(0, `</overlay>`)
	return Parse(w.b.Bytes(), d.InstanceName)
}

// xmlWriter writes the document by hand rather than by encoding/xml, because the bytes are what is signed.
type xmlWriter struct {
	b   bytes.Buffer
	err error
}

func (w *xmlWriter) line(depth int, s string) {
	for range depth {
		w.b.WriteString("  ")
	}
	w.b.WriteString(s)
	w.b.WriteByte('\n')
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a bytes.Buffer does not fail
	return b.String()
}

func (w *xmlWriter) element(depth int, name, value string) {
	w.line(depth, "<"+name+">"+escape(value)+"</"+name+">")
}

func (w *xmlWriter) configuration(d *Document, s Signer) {
	// The namespaces are declared in here, where the signature covers them: declared around it, whoever passes the document
	// on could make nothing of a prefix, and so of the elements under it.
	w.line(1, "<configuration"+w.attributes(d)+">")
	w.element(2, "topology-plugin", d.TopologyPlugin)
	w.element(2, "node-id-length", strconv.Itoa(d.NodeIDLength))
	for _, c := range d.RootCerts {
		w.element(2, "root-cert", base64.StdEncoding.EncodeToString(c.Raw))
	}
	for _, u := range d.Rest.EnrollmentServers {
		w.element(2, "enrollment-server", u)
	}
	if d.SelfSigned {
		// "Otherwise, it SHOULD be absent"
		w.line(2, `<self-signed-permitted digest="`+escape(d.Rest.Digest)+`">true</self-signed-permitted>`)
	}
	for _, n := range d.Rest.BootstrapNodes {
		w.line(2, fmt.Sprintf(`<bootstrap-node address="%s" port="%d"/>`, n.Addr(), n.Port()))
	}
	w.element(2, "turn-density", strconv.Itoa(int(d.TurnDensity)))
	w.element(2, "clients-permitted", strconv.FormatBool(d.ClientsPermitted))
	w.element(2, "no-ice", strconv.FormatBool(d.NoICE))
	if d.Rest.SharedSecret {
		w.element(2, "shared-secret", string(d.Rest.Secret))
	}
	w.element(2, "max-message-size", strconv.Itoa(int(d.MaxMessageSize)))
	w.element(2, "initial-ttl", strconv.Itoa(int(d.InitialTTL)))
	if d.ReliabilityTimer != defaults().ReliabilityTimer {
		// Only where it is needed: RFC 6940's text has the element, its grammar does not.
		w.element(2, "overlay-reliability-timer", strconv.FormatInt(d.ReliabilityTimer.Milliseconds(), 10))
	}
	w.element(2, "chord:chord-update-interval", seconds(d.Chord.UpdateInterval))
	w.element(2, "chord:chord-ping-interval", seconds(d.Chord.PingInterval))
	w.element(2, "chord:chord-reactive", strconv.FormatBool(d.Chord.Reactive))
	for _, p := range d.Rest.LinkProtocols {
		w.element(2, "overlay-link-protocol", p)
	}
	for _, l := range []struct {
		name string
		ids  []wire.NodeID
	}{{"configuration-signer", d.Signers}, {"kind-signer", d.KindSigners}, {"bad-node", d.BadNodes}} {
		for _, id := range l.ids {
			w.element(2, l.name, id.String())
		}
	}
	for _, ns := range d.Rest.MandatoryExtensions {
		w.element(2, "mandatory-extension", ns)
	}
	w.extensions(d)
	w.line(2, "<required-kinds>")
	for _, k := range d.Kinds {
		w.kind(d, k, s)
	}
	w.line(2, "</required-kinds>")
	w.line(1, "</configuration>")
}

func (w *xmlWriter) attributes(d *Document) string {
	var b strings.Builder
	fmt.Fprintf(&b, ` xmlns="%s" xmlns:chord="%s" instance-name="%s" sequence="%d"`, nsBase, nsChord, escape(d.InstanceName), d.Sequence)
	if !d.Expiration.IsZero() {
		b.WriteString(` expiration="` + d.Expiration.UTC().Format(time.RFC3339) + `"`)
	}
	w.foreignAttributes(&b, d.Rest.foreign)
	return b.String()
}

func (w *xmlWriter) foreignAttributes(b *strings.Builder, f foreign) {
	for i, a := range f.attrs {
		if a.Name.Space == nsXML {
			fmt.Fprintf(b, ` xml:%s="%s"`, a.Name.Local, escape(a.Value))
			continue
		}
		fmt.Fprintf(b, ` xmlns:ext%[1]d="%[2]s" ext%[1]d:%[3]s="%[4]s"`, i, escape(a.Name.Space), a.Name.Local, escape(a.Value))
	}
}

func (w *xmlWriter) foreignElements(depth int, f foreign) {
	for _, e := range f.elements {
		w.line(depth, e)
	}
}

// extensions writes the elements of RFC 7263, 7363 and 7851. The restriction of RFC 7904 is in the Kind that it
// restricts.
func (w *xmlWriter) extensions(d *Document) {
	if d.TopologyPlugin == ChordSelfTuning || d.Rest.Probes != defaultProbes {
		w.line(2, `<st:number-of-peers-to-probe xmlns:st="`+NSSelfTuning+`">`+strconv.Itoa(int(d.Rest.Probes))+`</st:number-of-peers-to-probe>`)
	}
	if d.Rest.RouteMode != "" {
		w.line(2, `<rm:mode xmlns:rm="`+NSRouteMode+`">`+escape(d.Rest.RouteMode)+`</rm:mode>`)
	}
	for _, g := range d.Rest.Diagnostics {
		w.line(2, fmt.Sprintf(`<diag:diagnostic-kind xmlns:diag="%s" kind="%#04x">`, NSDiagnostics, g.Kind))
		for _, id := range g.Nodes {
			w.element(3, "diag:access-node", id.String())
		}
		w.line(2, "</diag:diagnostic-kind>")
	}
	w.foreignElements(2, d.Rest.foreign)
}

func (w *xmlWriter) restriction(r *Restriction) {
	if r == nil {
		return
	}
	w.line(5, fmt.Sprintf(`<sip:domain-restriction xmlns:sip="%s" enable="%t">`, nsSIP, r.Enabled))
	for _, p := range r.Patterns {
		w.element(6, "sip:pattern", p)
	}
	w.line(5, "</sip:domain-restriction>")
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) }

func (w *xmlWriter) kind(d *Document, k Kind, s Signer) {
	w.line(3, "<kind-block>")
	start := w.b.Len() + 8
	var b strings.Builder
	if k.Name != "" {
		fmt.Fprintf(&b, `<kind name="%s"`, escape(k.Name))
	} else {
		fmt.Fprintf(&b, `<kind id="%d"`, uint32(k.ID))
	}
	w.foreignAttributes(&b, k.foreign)
	w.line(4, b.String()+">")
	for name, m := range models {
		if m == k.Model {
			w.element(5, "data-model", name)
		}
	}
	w.element(5, "access-control", string(k.AccessControl))
	if k.AccessControl == NodeMultiple {
		w.element(5, "max-node-multiple", strconv.Itoa(int(k.MaxMultiple)))
	}
	w.element(5, "max-count", strconv.Itoa(int(k.MaxCount)))
	w.element(5, "max-size", strconv.Itoa(int(k.MaxSize)))
	if k.ID == wire.KindSIPRegistration {
		w.restriction(d.Rest.Domains)
	}
	w.foreignElements(5, k.foreign)
	w.line(4, "</kind>")
	signature, err := s.SignBlob(w.b.Bytes()[start : w.b.Len()-1])
	w.err = errors.Join(w.err, err)
	w.element(4, "kind-signature", base64.StdEncoding.EncodeToString(signature))
	w.line(3, "</kind-block>")
}
