package ident

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"fieldkit/overlay/config"
	"fieldkit/overlay/wire"
)

// MaxUser bounds a user name (rfc822Name) in bytes: local part 64, "@", host name 253 (RFC 5321 §4.5.3.1).
const MaxUser = 318

// nodeIDOf is the Node-ID of a key: the high-order bytes of SHA-256 over the DER SubjectPublicKeyInfo, as
// RFC 6940 §11.3.1 computes it for self-generated credentials. Missions use it under their root too: whoever
// verifies a certificate recomputes it, so that no certificate can claim the Node-ID of another key.
func nodeIDOf(spki []byte, n int) (wire.NodeID, error) {
	h := sha256.Sum256(spki)
	return wire.NodeIDFrom(h[:min(n, len(h))])
}

// ReloadURI is how a certificate names a node (RFC 6940 §11.3, §14.15): a Destination List with the one
// Destination of type node_id, type and length octets included, in hex.
func ReloadURI(id wire.NodeID, overlay string) string {
	return fmt.Sprintf("reload://%02x%02x%s@%s/", byte(wire.DestNode), id.Len(), id, overlay)
}

// parseReloadURI is the strict inverse of ReloadURI.
func parseReloadURI(uri string) (id wire.NodeID, overlay string, err error) {
	const scheme = "reload://"
	if len(uri) < len(scheme) || !strings.EqualFold(uri[:len(scheme)], scheme) {
		return id, "", fmt.Errorf("URI %q: not a reload URI", uri)
	}
	dest, host, ok := strings.Cut(uri[len(scheme):], "@")
	overlay, slash := strings.CutSuffix(host, "/")
	if !ok || !slash {
		return id, "", fmt.Errorf("reload URI %q: not destination@overlay/", uri)
	}
	b, err := hex.DecodeString(dest)
	if err != nil {
		return id, "", fmt.Errorf("reload URI %q: destination: %w", uri, err)
	}
	if len(b) < 2 || b[0] != byte(wire.DestNode) || int(b[1]) != len(b)-2 {
		return id, "", fmt.Errorf("reload URI %q: not one destination of type node", uri)
	}
	id, err = wire.NodeIDFrom(b[2:])
	return id, overlay, err
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
