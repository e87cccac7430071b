package link

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"net/netip"
	"slices"
	"sync"
	"time"

	"fieldkit/overlay/wire"
)

// credentialLabel derives the credential of the kits' TURN servers from a DTLS session (docs/adr/0016-turn.md). "labels
// beginning with 'EXPERIMENTAL' MAY be used for private use without registration" (RFC 5705 §4).
const credentialLabel = "EXPERIMENTAL fieldkit TURN credential"

const (
	credentialName   = 8  // bytes of the user name, before hex: enough to tell the sessions of a kit apart
	credentialSecret = 24 // bytes of the password, before base64

	// credentialGrace is how long the credential of a link that ended can still be used: for what its user began
	// before, and between two links that replace each other.
	credentialGrace = 10 * time.Minute
	maxEnded        = 256 // links that ended and whose credentials are remembered; beyond, the oldest is forgotten
)

// Neighbour is a kit at the far end of a link that no relay is part of.
type Neighbour struct {
	Node  wire.NodeID
	Addr  netip.Addr // where the kit is, as its handshake proved
	Local netip.Addr // ours on that link; unspecified where the socket cannot tell

	// The credential for the TURN server of either end (RFC 8489 §9.2). Both ends derive it from the link's own
	// handshake: it is never sent.
	Username, Password string
}

// association is one DTLS session as long as its credential lives.
type association struct {
	Neighbour
	direct bool
	since  time.Time
	ended  time.Time // zero while the link lives
}

// neighbours knows the sessions of a Transport by their credentials.
type neighbours struct {
	mu     sync.Mutex // a leaf; held for map operations only
	byName map[string]*association
	ended  []*association // oldest first
}

// remember enters a new link; direct says that its far end is where its datagrams come from.
func (t *Transport) remember(c *carrier, direct bool) *carrier {
	c.relayed.Store(!direct)
	raw, err := c.sess.secrets.Export(credentialLabel, nil, credentialName+credentialSecret)
	if err != nil { // its far end gets no relay here: nothing else depends on it
		t.cfg.Log.Debug("TURN credential", "peer", c.Peer().NodeID, "err", err)
		return c
	}
	a := &association{direct: direct, since: t.cfg.Now(), Neighbour: Neighbour{
		Node: c.Peer().NodeID, Addr: c.remote.Addr(), Local: c.local.Addr(),
		Username: hex.EncodeToString(raw[:credentialName]), Password: base64.RawStdEncoding.EncodeToString(raw[credentialName:]),
	}}
	n := &t.neighbours
	n.mu.Lock()
	if n.byName == nil {
		n.byName = make(map[string]*association)
	}
	n.byName[a.Username] = a
	n.mu.Unlock()
	context.AfterFunc(c.life, func() { n.end(a, t.cfg.Now()) })
	return c
}

func (n *neighbours) end(a *association, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a.ended = now
	n.ended = append(n.ended, a)
	drop := 0
	for drop < len(n.ended) && (len(n.ended)-drop > maxEnded || now.Sub(n.ended[drop].ended) >= credentialGrace) {
		delete(n.byName, n.ended[drop].Username)
		drop++
	}
	n.ended = slices.Delete(n.ended, 0, drop)
}

// Relayed tells whether a relay, of either side, is part of the link.
func (c *carrier) Relayed() bool { return c.relayed.Load() }

// Neighbours are the kits that this one has links to without a relay, each of their addresses once, with the youngest
// link's credential. Their order is that of their Node-IDs.
func (t *Transport) Neighbours() []Neighbour {
	type place struct {
		node wire.NodeID
		addr netip.Addr
	}
	youngest := make(map[place]*association)
	n := &t.neighbours
	n.mu.Lock()
	for _, a := range n.byName {
		p := place{a.Node, a.Addr}
		if old := youngest[p]; a.direct && a.ended.IsZero() && (old == nil || a.since.After(old.since)) {
			youngest[p] = a
		}
	}
	n.mu.Unlock()
	var r []Neighbour
	for _, a := range youngest {
		r = append(r, a.Neighbour)
	}
	slices.SortFunc(r, func(a, b Neighbour) int {
		if c := a.Node.Compare(b.Node); c != 0 {
			return c
		}
		return a.Addr.Compare(b.Addr)
	})
	return r
}

// Unreached is when ICE last found no way between this kit and another: each reached others, but not each other. The
// zero time says never.
func (t *Transport) Unreached() time.Time {
	at := t.unreached.Load()
	if at == 0 {
		return time.Time{}
	}
	return time.Unix(0, at)
}

// Credential is who a TURN user is, and the password: that of a link of this Transport, or of one that ended within
// the last ten minutes. Nobody else has one.
func (t *Transport) Credential(username string) (node wire.NodeID, password string, ok bool) {
	n := &t.neighbours
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.byName[username]
	if a == nil || !a.ended.IsZero() && t.cfg.Now().Sub(a.ended) >= credentialGrace {
		return wire.NodeID{}, "", false
	}
	return a.Node, a.Password, true
}
