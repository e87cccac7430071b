package discovery

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/grandcat/zeroconf"
)

// Bounds of a Text.
const (
	MaxHash   = 32 // bytes of a hash
	MaxName   = 63 // bytes of a kit's name
	maxNumber = 999
	maxTexts  = 16 // strings read of a TXT record
)

// Text is what a kit says of itself in its TXT record (RFC 6763 §6).
type Text struct {
	Overlay      string `json:"overlay"`       // hash of the overlay's name, hex
	Sequence     uint16 `json:"sequence"`      // of the configuration document, RFC 6940 §11.1
	DocumentHash string `json:"document_hash"` // of the configuration document, hex
	Number       uint16 `json:"number"`        // of the kit, three digits; 0 is none
	Name         string `json:"name"`          // of the kit, for people
	System       uint64 `json:"system"`        // sequence of the system that the kit offers to others; 0 is none
	UpdatePort   uint16 `json:"update_port"`   // TCP, where kits speak of their updates; 0 is nowhere
}

// Keys of the TXT record. RFC 6763 §6.4: "The key SHOULD be no more than nine
// characters long."
const (
	keyVersion  = "txtvers"
	keyOverlay  = "overlay"
	keyNodeID   = "node"
	keySequence = "seq"
	keyDocument = "doc"
	keyNumber   = "num"
	keyName     = "name"
	keyUpdate   = "update" // PORT/SEQUENCE
)

const textVersion = "1"

func (t Text) check() error {
	switch {
	case !isHash(t.Overlay):
		return fmt.Errorf("%w: overlay hash %.80q", ErrConfig, t.Overlay)
	case t.DocumentHash != "" && !isHash(t.DocumentHash):
		return fmt.Errorf("%w: document hash %.80q", ErrConfig, t.DocumentHash)
	case t.Number > maxNumber:
		return fmt.Errorf("%w: kit number %d", ErrConfig, t.Number)
	case !isName(t.Name):
		return fmt.Errorf("%w: kit name %.80q", ErrConfig, t.Name)
	}
	return nil
}

// strings returns the TXT record in the form that the library takes, in which
// a backslash begins an escape.
func (t Text) strings(nodeID string) []string {
	out := []string{
		keyVersion + "=" + textVersion,
		keyOverlay + "=" + t.Overlay,
		keyNodeID + "=" + nodeID,
		keySequence + "=" + strconv.Itoa(int(t.Sequence)),
	}
	if t.DocumentHash != "" {
		out = append(out, keyDocument+"="+t.DocumentHash)
	}
	if t.Number != 0 {
		out = append(out, keyNumber+"="+strconv.Itoa(int(t.Number)))
	}
	if t.Name != "" {
		out = append(out, keyName+"="+strings.ReplaceAll(t.Name, `\`, `\\`))
	}
	if t.UpdatePort != 0 {
		out = append(out, fmt.Sprintf("%s=%d/%d", keyUpdate, t.UpdatePort, t.System))
	}
	return out
}

// parseUpdate reads what strings wrote. Whatever else stands there is of a kit with other updates.
func parseUpdate(s string) (port uint16, system uint64) {
	p, q, _ := strings.Cut(s, "/")
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || n == 0 {
		return 0, 0
	}
	if system, err = strconv.ParseUint(q, 10, 64); err != nil {
		system = 0
	}
	return uint16(n), system
}

// parseText reads a TXT record and the Node-ID in it. Unknown keys are ignored,
// as RFC 6763 §6.4 wants; what a kit must say has to be there and in form.
func parseText(txt []string) (t Text, nodeID string, ok bool) {
	values := map[string]string{}
	for _, s := range txt[:min(len(txt), maxTexts)] {
		k, v, _ := strings.Cut(unescape(s), "=")
		k = strings.ToLower(k)
		// RFC 6763 §6.4: "If a client receives a TXT record containing the same
		// key more than once, then the client MUST silently ignore all but the
		// first occurrence of that attribute."
		if _, dup := values[k]; !dup {
			values[k] = v
		}
	}
	seq, err := strconv.ParseUint(values[keySequence], 10, 16)
	if err != nil {
		return Text{}, "", false
	}
	number := uint64(0)
	if v := values[keyNumber]; v != "" {
		if number, err = strconv.ParseUint(v, 10, 16); err != nil {
			return Text{}, "", false
		}
	}
	t = Text{
		Overlay: strings.ToLower(values[keyOverlay]), Sequence: uint16(seq),
		DocumentHash: strings.ToLower(values[keyDocument]), Number: uint16(number), Name: values[keyName],
	}
	t.UpdatePort, t.System = parseUpdate(values[keyUpdate])
	nodeID, ok = parseNodeID(values[keyNodeID])
	return t, nodeID, ok && values[keyVersion] == textVersion && t.check() == nil
}

// unescape undoes the presentation format of RFC 1035 §5.1, in which the DNS
// library returns strings: \DDD is a byte, \X is X.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		if i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 10, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		i++
		b.WriteByte(s[i])
	}
	return b.String()
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) > 0 && len(b) <= MaxHash && s == strings.ToLower(s)
}

// isName keeps text of strangers fit for terminals and pages.
func isName(s string) bool {
	return len(s) <= MaxName && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// parseNodeID returns the Node-ID in lower case: names are compared without
// regard to case in the DNS (RFC 6762 §16).
func parseNodeID(s string) (string, bool) {
	if len(s) > 2*maxNodeID || len(s) < 2*minNodeID {
		return "", false
	}
	s = strings.ToLower(s)
	_, err := hex.DecodeString(s)
	return s, err == nil
}

// parseEntry turns an answer into a Peer, or refuses it. Addresses that are not
// on the link are left out: nothing else could be reached without a router, and
// a kit must not be sent at strangers elsewhere.
func parseEntry(e *zeroconf.ServiceEntry, ifc Interface, use func(netip.Addr) bool) (Peer, bool) {
	id, ok := parseNodeID(e.Instance)
	if !ok || e.Port < 1 || e.Port > 65535 {
		return Peer{}, false
	}
	text, said, ok := parseText(e.Text)
	if !ok || said != id {
		return Peer{}, false
	}
	p := Peer{NodeID: id, Interface: ifc.Name, Text: text}
	add := func(b []byte) {
		a, ok := netip.AddrFromSlice(b)
		a = a.Unmap()
		if !ok || len(p.Addrs) == MaxAddresses || !onLink(ifc, a) || !use(a) {
			return
		}
		if a.Is6() && a.IsLinkLocalUnicast() {
			a = a.WithZone(ifc.Name)
		}
		if ap := netip.AddrPortFrom(a, uint16(e.Port)); !slices.Contains(p.Addrs, ap) {
			p.Addrs = append(p.Addrs, ap)
		}
	}
	for _, ip := range e.AddrIPv4 {
		add(ip)
	}
	for _, ip := range e.AddrIPv6 {
		add(ip)
	}
	slices.SortFunc(p.Addrs, netip.AddrPort.Compare)
	return p, true
}

// onLink reports whether a is a host's address in a subnet of the interface.
func onLink(ifc Interface, a netip.Addr) bool {
	if a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return false
	}
	return slices.ContainsFunc(ifc.Addrs, func(p netip.Prefix) bool { return p.Masked().Contains(a) })
}
