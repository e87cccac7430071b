package sipusage

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
)

// Bounds of a lookup, against forwarding loops and fork bombs (RFC 7904 §8.2.1: "It can therefore directly measure
// the number of forks and throttle at some reasonable number").
const (
	maxTargets = 16
	maxNames   = 16 // addresses-of-record looked up for one
	maxDepth   = 4  // of forwarding from one to the next
)

// Target is a kit that serves an address-of-record.
type Target struct {
	Node  wire.NodeID // where an AppAttach goes: the terminal entry of the destination list
	Prefs string      // contact preferences of the registration
	AOR   string      // under which it was found, which is another one after forwarding
	// URI is set, and Node zero, where a registration forwards to an address-of-record of a domain that the overlay does
	// not serve: "the Peer follows the appropriate procedure for contacting them as well" (RFC 7904 §4.2).
	URI string
}

// Lookup finds the kits that serve an address-of-record (RFC 7904 §4.2), this one included if it has registered
// it: nearest in forwarding first, otherwise in order of their Node-IDs. Registrations that forward to other
// addresses-of-record are followed, each once. ErrNotFound is no registration at all.
//
// Every value's signature was verified; here it is checked that its signer may write it: that the user name in
// the certificate is the one asked for and the Node-ID is the dictionary key (USER-NODE-MATCH, RFC 6940 §7.3.3),
// so that a storing peer cannot put in what it likes.
//
// A GRUU of this overlay is not looked up at all: "when a Peer needs to route a message to a GRUU in the same P2P
// overlay, it simply uses the destination list and connects to that Peer" (RFC 7904 §6). ErrForeign is an
// address-of-record whose domain the overlay does not serve (§4.1).
func (u *Usage) Lookup(ctx context.Context, aor string) ([]Target, error) {
	name, err := Canonical(aor)
	if err != nil {
		return nil, err
	}
	if !u.cfg.Domains.Allow(name) {
		return nil, fmt.Errorf("%w: %s", ErrForeign, name)
	}
	if dest, ok := gruu(aor); ok {
		id, ok := terminal(dest, u.cfg.Identity.NodeID().Len())
		if !ok {
			return nil, fmt.Errorf("%w: GRUU of %s leads to no node", ErrAOR, name)
		}
		return []Target{{Node: id, AOR: name}}, nil
	}
	var out []Target
	var failed error
	seen := map[string]bool{name: true}
	level := []string{name}
	for depth := 0; len(level) > 0 && depth <= maxDepth; depth++ {
		var next []string
		for _, name := range level {
			targets, forwards, err := u.lookupOne(ctx, name)
			if err != nil {
				failed = errors.Join(failed, err)
				continue
			}
			for _, t := range targets {
				known := slices.ContainsFunc(out, func(o Target) bool { return o.Node == t.Node })
				if !known && len(out) < maxTargets {
					out = append(out, t)
				}
			}
			for _, f := range forwards {
				if !u.cfg.Domains.Allow(f) {
					if !seen[f] && len(out) < maxTargets {
						seen[f] = true
						out = append(out, Target{URI: f, AOR: name})
					}
					continue
				}
				if !seen[f] && len(seen) < maxNames {
					seen[f] = true
					next = append(next, f)
				}
			}
		}
		level = next
	}
	switch {
	case len(out) > 0:
		return out, nil
	case failed != nil:
		return nil, fmt.Errorf("lookup of %s: %w", name, failed)
	}
	return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
}

// lookupOne is one Fetch: "This Fetch SHOULD NOT indicate any dictionary keys, so that it will fetch all the
// stored values."
func (u *Usage) lookupOne(ctx context.Context, name string) (targets []Target, forwards []string, err error) {
	n := u.cfg.Node
	k, err := n.Fetch(ctx, n.ResourceID(name), wire.KindSIPRegistration)
	if node.IsRemote(err, wire.ErrorResponseTooLarge) {
		k, err = u.fetchEach(ctx, n.ResourceID(name))
	}
	if err != nil {
		return nil, nil, err
	}
	for _, v := range k.Values {
		t, forward, ok := u.read(name, v)
		switch {
		case !ok:
			u.log.Debug("registration not used", "aor", name, "signer", v.Signer.NodeID)
		case forward != "":
			forwards = append(forwards, forward)
		default:
			targets = append(targets, t)
		}
	}
	slices.SortFunc(targets, func(a, b Target) int { return a.Node.Compare(b.Node) })
	return targets, forwards, nil
}

// fetchEach fetches one registration after the other. Each brings two certificates, so that those of a person on
// several kits do not fit into one message of the default size.
func (u *Usage) fetchEach(ctx context.Context, res wire.ResourceID) (all node.FetchedKind, err error) {
	n := u.cfg.Node
	s, err := n.Stat(ctx, res, wire.KindSIPRegistration)
	if err != nil {
		return all, err
	}
	for _, v := range s.Values {
		if !v.Exists || len(all.Values) >= maxTargets {
			continue
		}
		one, e := n.Fetch(ctx, res, wire.KindSIPRegistration, v.Key)
		if e != nil {
			err = errors.Join(err, e)
			continue
		}
		all.Values = append(all.Values, one.Values...)
	}
	if len(all.Values) > 0 {
		err = nil
	}
	return all, err
}

// read checks one registration and says where it leads: to a kit, or to another address-of-record.
func (u *Usage) read(name string, v node.Fetched) (t Target, forward string, ok bool) {
	if !v.Value.Exists || v.Signer.User != name || string(v.Value.Key) != string(v.Signer.NodeID.Bytes()) {
		return t, "", false
	}
	r, err := wire.ParseSIPRegistration(v.Value.Value)
	if err != nil {
		return t, "", false
	}
	dest := r.Destinations
	switch r.Type {
	case wire.SIPRegistrationRoute:
	case wire.SIPRegistrationURI:
		if d, ok := gruu(string(r.URI)); ok {
			dest = d
			break
		}
		forward, err := Canonical(string(r.URI))
		return t, forward, err == nil
	default:
		return t, "", false
	}
	id, ok := terminal(dest, v.Signer.NodeID.Len())
	return Target{Node: id, Prefs: string(r.ContactPrefs), AOR: name}, "", ok
}

// terminal is the node at the end of a destination list.
func terminal(dest []wire.Destination, idLen int) (id wire.NodeID, ok bool) {
	if len(dest) == 0 {
		return id, false
	}
	last := dest[len(dest)-1]
	return last.Node, last.Type == wire.DestNode && last.Node.Len() == idLen && !last.Node.IsWildcard() && !last.Node.IsInvalid()
}

// GRUU is the globally routable URI of an address-of-record at this kit, without "sip:" (RFC 7904 §6). Nothing is stored
// for it.
func (u *Usage) GRUU(aor string) (string, error) {
	name, err := Canonical(aor)
	if err != nil {
		return "", err
	}
	return appendGRUU(name, u.cfg.Identity.NodeID())
}
