package ident

import (
	"crypto/rand"
	"crypto/sha1" // RFC 6940 §11.1 lets a document ask for it: "Implementations MUST support both of these algorithms"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"fieldkit/overlay/config"
	"fieldkit/overlay/wire"
)

// MaxUser bounds a user name (rfc822Name) in bytes: local part 64, "@", host name 253 (RFC 5321 §4.5.3.1).
const MaxUser = 318

// nodeIDOf is the Node-ID of a key: the high-order bytes of SHA-256 over the DER SubjectPublicKeyInfo, as
// RFC 6940 §11.3.1 computes it for self-generated credentials. Missions use it under their root too, unless they
// have an enrolment server, so that no certificate can claim the Node-ID of another key (docs/adr/0006).
func nodeIDOf(spki []byte, n int) (wire.NodeID, error) {
	ids, err := keyNodeIDs(spki, config.SHA256, 1, n)
	if err != nil {
		return wire.NodeID{}, err
	}
	return ids[0], nil
}

// keyNodeIDs are the count Node-IDs of length bytes that belong to a key (RFC 6940 §11.3.1): "the Node-ID MUST be
// computed by applying the digest specified in the self-signed-permitted element to the DER representation of the
// user's public key … and taking the high-order bits. For self-signed certificates containing multiple Node-IDs, the
// index of the Node-ID (from 1 to the number of Node-IDs needed) must be prepended as a 4-byte big-endian integer".
func keyNodeIDs(spki []byte, digest string, count, length int) ([]wire.NodeID, error) {
	if count < 1 || count > MaxNodeIDs {
		return nil, fmt.Errorf("%d Node-IDs of one key: want 1 to %d", count, MaxNodeIDs)
	}
	ids := make([]wire.NodeID, count)
	for i := range ids {
		var in []byte
		if count > 1 {
			in = binary.BigEndian.AppendUint32(nil, uint32(i+1))
		}
		in = append(in, spki...)
		var out []byte
		switch digest {
		case config.SHA1:
			h := sha1.Sum(in)
			out = h[:]
		case config.SHA256:
			h := sha256.Sum256(in)
			out = h[:]
		default:
			return nil, fmt.Errorf("digest %q of self-signed certificates: want sha1 or sha256", digest)
		}
		var err error
		if ids[i], err = wire.NodeIDFrom(out[:min(length, len(out))]); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// RandomNodeID draws a Node-ID of n bytes: what an enrolment server assigns "MUST be cryptographically random"
// (RFC 6940 §11.3).
func RandomNodeID(n int) (wire.NodeID, error) {
	b := make([]byte, n)
	for {
		_, _ = rand.Read(b) // it never fails: the runtime ends the program first
		id, err := wire.NodeIDFrom(b)
		if err != nil || !id.IsInvalid() && !id.IsWildcard() {
			return id, err
		}
	}
}

// ReloadURI is how a certificate names a node (RFC 6940 §11.3, §14.15): a Destination List with the one
// Destination of type node_id, type and length octets included, in hex.
func ReloadURI(id wire.NodeID, overlay string) string {
	return fmt.Sprintf("reload://%02x%02x%s@%s/", byte(wire.DestNode), id.Len(), id, overlay)
}

// URI is a reload URI: a peer, or with a Specifier a data value at it (RFC 6940 §14.15).
type URI struct {
	Destinations []wire.Destination // at least one
	Overlay      string
	Specifier    []byte // an encoded StoredDataSpecifier; nil for the peer itself
}

// maxURI bounds a reload URI in bytes.
const maxURI = 2048

// ParseURI reads a reload URI strictly: `"reload://" destination "@" overlay "/" [specifier]`.
func ParseURI(uri string) (u URI, err error) {
	const scheme = "reload://"
	if len(uri) > maxURI {
		return u, fmt.Errorf("reload URI of %d bytes: more than %d", len(uri), maxURI)
	}
	if len(uri) < len(scheme) || !strings.EqualFold(uri[:len(scheme)], scheme) {
		return u, fmt.Errorf("URI %q: not a reload URI", uri)
	}
	dest, host, ok := strings.Cut(uri[len(scheme):], "@")
	overlay, specifier, slash := strings.Cut(host, "/")
	if !ok || !slash {
		return u, fmt.Errorf("reload URI %q: not destination@overlay/", uri)
	}
	if err := ValidateOverlayName(overlay); err != nil {
		return u, fmt.Errorf("reload URI %q: %w", uri, err)
	}
	u.Overlay = overlay
	b, err := hex.DecodeString(dest)
	if err != nil || len(b) == 0 {
		return u, fmt.Errorf("reload URI %q: destination not in hexadecimal", uri)
	}
	if u.Destinations, err = wire.ParseDestinations(b); err != nil {
		return u, fmt.Errorf("reload URI %q: destination: %w", uri, err)
	}
	if specifier != "" {
		if u.Specifier, err = hex.DecodeString(specifier); err != nil {
			return u, fmt.Errorf("reload URI %q: specifier not in hexadecimal", uri)
		}
	}
	return u, nil
}

// String writes the URI. A destination that cannot be encoded is left out; ParseURI returns none.
func (u URI) String() string {
	var b []byte
	for _, d := range u.Destinations {
		if next, err := d.AppendBinary(b); err == nil {
			b = next
		}
	}
	return fmt.Sprintf("reload://%x@%s/%x", b, u.Overlay, u.Specifier)
}

// parseReloadURI is the strict inverse of ReloadURI.
func parseReloadURI(uri string) (id wire.NodeID, overlay string, err error) {
	u, err := ParseURI(uri)
	if err != nil {
		return id, "", err
	}
	if len(u.Destinations) != 1 || u.Destinations[0].Type != wire.DestNode || u.Specifier != nil {
		return id, "", fmt.Errorf("reload URI %q: not one destination of type node", uri)
	}
	return u.Destinations[0].Node, u.Overlay, nil
}

// ValidateOverlayName checks that name is a DNS-legal host name in lower case, as RFC 6940 §6.3.2 wants it.
func ValidateOverlayName(name string) error { return config.ValidateOverlayName(name) }

// ValidateUser checks a user name: local@host in printable ASCII. RFC 6940 §11.3: "Enrollment servers SHOULD
// take care to allow only legal characters in the name (e.g., no embedded NULs)".
func ValidateUser(user string) error {
	local, host, ok := strings.Cut(user, "@")
	if !ok || local == "" || host == "" || strings.Contains(host, "@") {
		return fmt.Errorf("user name %q: not local@host", user)
	}
	if len(user) > MaxUser {
		return fmt.Errorf("user name of %d bytes: more than %d", len(user), MaxUser)
	}
	for _, c := range []byte(user) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),:;<>[\]`, c) >= 0 {
			return fmt.Errorf("user name %q: character %q", user, c)
		}
	}
	return nil
}
