package sipusage

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Application-IDs of trunks (RFC 6940 §14.5): "The "application" field MUST be either 5060 to indicate SIP or 5061 to
// indicate SIPS" (RFC 7904 §5.1). Both are (D)TLS from end to end here; calls are taken by either.
const (
	Application     uint16 = 5060
	ApplicationSIPS uint16 = 5061
)

// What callers decide on.
var (
	// ErrAOR is a name that cannot be an address-of-record.
	ErrAOR = errors.New("not an address-of-record")
	// ErrForeign is an address-of-record of a domain that the overlay does not serve (RFC 7904 §4.1): it is to be looked
	// for elsewhere.
	ErrForeign = errors.New("domain not served by the overlay")
)

// Canonical is the form of an address-of-record that is stored and certified: "the "sip:" prefix needs to be
// removed from the SIP AOR before matching. Escaped characters ('%' encoding) in the SIP AOR also need to be
// decoded prior to matching" (RFC 7904 §7). Parameters and headers are cut off; the domain, which is
// compared without case (RFC 3261 §19.1.4), is lower-case.
func Canonical(aor string) (string, error) {
	s := aor
	if scheme, rest, ok := strings.Cut(s, ":"); ok && (strings.EqualFold(scheme, "sip") || strings.EqualFold(scheme, "sips")) {
		s = rest
	}
	s, _, _ = strings.Cut(s, ";")
	s, _, _ = strings.Cut(s, "?")
	user, domain, ok := strings.Cut(s, "@")
	if !ok {
		return "", fmt.Errorf("%w: %q has no domain", ErrAOR, clip(aor))
	}
	user, err := url.PathUnescape(user)
	if err != nil {
		return "", fmt.Errorf("%w: %q: escapes", ErrAOR, clip(aor))
	}
	s = user + "@" + strings.ToLower(domain)
	if err := ident.ValidateUser(s); err != nil {
		return "", fmt.Errorf("%w: %w", ErrAOR, err)
	}
	return s, nil
}

func clip(s string) string { return s[:min(len(s), 64)] }

// appendGRUU writes the GRUU of an address-of-record in canonical form at a node.
func appendGRUU(aor string, id wire.NodeID) (string, error) {
	list, err := wire.ToNode(id).AppendBinary(nil)
	if err != nil {
		return "", fmt.Errorf("GRUU of %s: %w", aor, err)
	}
	user, domain, _ := strings.Cut(aor, "@")
	return url.PathEscape(user) + "@" + domain + ";gr=" + strings.ReplaceAll(base64.StdEncoding.EncodeToString(list), "=", "~"), nil
}

// gruu reads the destination list of a RELOAD GRUU, "constructed by embedding a base64-encoded destination list
// in the "gr" URI parameter", with "~" in the place of "=" (RFC 7904 §6). ok is false for what is none.
func gruu(uri string) (dest []wire.Destination, ok bool) {
	_, params, _ := strings.Cut(uri, ";")
	for p := range strings.SplitSeq(params, ";") {
		v, found := strings.CutPrefix(p, "gr=")
		if !found {
			continue
		}
		b, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(v, "~", "="))
		if err != nil {
			return nil, false
		}
		dest, err := wire.ParseDestinations(b)
		return dest, err == nil
	}
	return nil, false
}

// Domains says which domains an overlay takes registrations for (RFC 7904 §3.4). The zero value takes any,
// which is "the default behavior" where the configuration document has no domain-restrictions element.
type Domains struct {
	restricted bool
	domain     string           // the only one, if there are no patterns
	patterns   []*regexp.Regexp // any of these
}

// OnlyDomain is a domain-restrictions element that is not enabled: "the overlay MUST only accept AORs that
// match the domain name of the overlay".
func OnlyDomain(overlay string) Domains {
	return Domains{restricted: true, domain: strings.ToLower(overlay)}
}

// Patterns is an enabled one: "the overlay MUST only accept AORs that match patterns specified", which are POSIX
// extended regular expressions and here match the whole domain.
func Patterns(list ...string) (Domains, error) {
	d := Domains{restricted: true}
	for _, p := range list {
		re, err := regexp.CompilePOSIX("^(" + p + ")$")
		if err != nil {
			return Domains{}, fmt.Errorf("domain pattern %q: %w", p, err)
		}
		d.patterns = append(d.patterns, re)
	}
	return d, nil
}

// Allow tells whether an address-of-record in canonical form may be registered.
func (d Domains) Allow(aor string) bool {
	if !d.restricted {
		return true
	}
	_, domain, _ := strings.Cut(aor, "@")
	if d.domain != "" {
		return domain == d.domain
	}
	for _, re := range d.patterns {
		if re.MatchString(domain) {
			return true
		}
	}
	return false
}

// MayStore is the Storing Peer's side of RFC 7904 §3.3, for node.Config: "Before a Store is permitted, the
// Storing Peer MUST check that … [t]he AOR of the request is a valid Resource Name with respect to the namespaces
// defined in the overlay configuration document"; besides, what is stored must be a registration. The other two
// checks there, that the signer's name hashes to the Resource-ID and its Node-ID is the key, are USER-NODE-MATCH
// and storage's. Other Kinds are not its business.
func (d Domains) MayStore(kind wire.KindID, _ wire.ResourceID, v *wire.StoredData, signer *ident.Peer) error {
	if kind != wire.KindSIPRegistration {
		return nil
	}
	if !d.Allow(signer.User) {
		return fmt.Errorf("address-of-record %q: domain not of this overlay", signer.User)
	}
	if !v.Value.Exists {
		return nil
	}
	if _, err := wire.ParseSIPRegistration(v.Value.Value); err != nil {
		return fmt.Errorf("registration of %q: %w", signer.User, err)
	}
	return nil
}
