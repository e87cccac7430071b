package link

import (
	"context"
	"errors"
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// several is a kit whose certificate has three Node-IDs, and a mission that believes it.
func several(t *testing.T) (*mission, func(*Config)) {
	t.Helper()
	m := newMission(t)
	d := ident.NewDocument(m.auth)
	d.SelfSigned = true
	trust, err := ident.TrustFor(d)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ident.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := ident.SelfSigned(d, key, "", 3)
	if err != nil {
		t.Fatal(err)
	}
	m.trust = trust
	return m, func(c *Config) { c.Identity = id }
}

// "The nodes MUST verify that the certificate presented in the handshake matches the identity of the other peer as found
// in the Attach message" (RFC 6940 §6.5.1.13): of a certificate with several Node-IDs each one matches, and the link is one
// to that Node-ID; any other is refused.
func TestAttachToOneOfSeveralNodeIDs(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"ICE": func(*Config) {}, "UDP": noICE(onlyUDP), "TCP": noICE(onlyTCP),
		"shared secret": shared,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, many := several(t)
			a, b := m.transport(change), m.transport(change, many)
			ctx := testContext(t, 10*time.Second)
			for _, id := range b.cfg.Identity.NodeIDs() {
				x, y := attachAs(ctx, a, b, a.id(), id, (*Attempt).Connect)
				if x.err != nil || y.err != nil {
					t.Fatalf("%v: %v, %v", id, x.err, y.err)
				}
				if x.conn.Peer().NodeID != id || y.conn.Peer().NodeID != a.id() {
					t.Errorf("attached to %v: a link to %v", id, x.conn.Peer().NodeID)
				}
				exchange(t, x.conn, y.conn)
			}
			other, err := ident.RandomNodeID(wire.MinNodeIDLen)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			if x, _ := attachAs(ctx, a, b, a.id(), other, (*Attempt).Connect); x.err == nil {
				t.Errorf("a link to %v", other)
			} else if !errors.Is(x.err, ErrWrongPeer) && !errors.Is(x.err, context.DeadlineExceeded) {
				t.Error(x.err)
			}
		})
	}
}
