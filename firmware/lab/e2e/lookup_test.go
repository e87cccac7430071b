//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"fieldkit/firmware/mission"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/link"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/overlink"
	"fieldkit/overlay/sipusage"
	"fieldkit/overlay/wire"
)

// peer is the overlay half of a kit, over real sockets on loopback.
type peer struct {
	id        *ident.Identity
	transport *link.Transport
	node      *node.Node
	usage     *sipusage.Usage
	stop      context.CancelFunc
	ended     chan error
}

func startPeer(b *testing.B, m *mission.Mission) *peer {
	b.Helper()
	a, err := m.Authority()
	check(b, err)
	p := &peer{ended: make(chan error, 2)}
	p.id, err = a.NewIdentity()
	check(b, err)
	loopback := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	p.transport, err = link.New(link.Config{Identity: p.id, Trust: m.Trust(), Addresses: func() []netip.Addr { return loopback }})
	check(b, err)
	var domains sipusage.Domains
	p.node, err = node.New(node.Config{
		Identity: p.id, Trust: m.Trust(), Document: m.Document(), Transport: overlink.Transport(p.transport), MayStore: domains.MayStore,
	})
	check(b, err)
	p.usage, err = sipusage.New(sipusage.Config{Node: p.node, Identity: p.id, Domains: domains})
	check(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	go func() { p.ended <- p.node.Run(ctx) }()
	go func() { p.ended <- p.usage.Run(ctx) }()
	return p
}

func (p *peer) end(b *testing.B) {
	p.stop()
	if err := errors.Join(<-p.ended, <-p.ended, p.transport.Close()); err != nil {
		b.Error(err)
	}
}

// responsible is the first of the ring, which ascends, from the resource on.
func responsible(ring []wire.NodeID, res wire.ResourceID) wire.NodeID {
	for _, id := range ring {
		if string(id.Bytes()) >= string(res) {
			return id
		}
	}
	return ring[0]
}

// BenchmarkLookup measures the lookup of a registration in a ring of three: a Fetch with its signatures made and
// checked. What another kit answers costs a request and its answer; what the kit is itself responsible for, nothing
// on the wire.
func BenchmarkLookup(b *testing.B) {
	m, err := mission.New("bench", mission.Options{})
	check(b, err)
	peers := []*peer{startPeer(b, m), startPeer(b, m), startPeer(b, m)}
	for _, p := range peers {
		defer p.end(b)
		for _, q := range peers {
			if p != q {
				p.node.Discovered(q.id.NodeID(), []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), q.transport.Port())})
			}
		}
	}
	began := time.Now()
	for _, p := range peers {
		for {
			s, err := p.node.Snapshot(b.Context())
			check(b, err)
			if len(s.Ring) == len(peers) && len(s.Successors) == len(peers)-1 {
				break
			}
			if time.Since(began) > 30*time.Second {
				b.Fatalf("ring of %d after %v", len(s.Ring), time.Since(began))
			}
			rest(b, 20*time.Millisecond)
		}
	}
	rest(b, 6*time.Second) // until the ring has settled
	looks, has := peers[0], peers[1]
	s, err := looks.node.Snapshot(b.Context())
	check(b, err)
	here, there := []string{}, []string{}
	for i := 0; len(here) < 8 || len(there) < 8; i++ {
		aor := fmt.Sprintf("%d@%s", 10100+i, m.Overlay)
		of := &there
		if responsible(s.Ring, looks.node.ResourceID(aor)) == looks.id.NodeID() {
			of = &here
		}
		if len(*of) < 8 {
			check(b, has.usage.Register(b.Context(), aor, time.Hour, ""))
			*of = append(*of, aor)
		}
	}
	for _, c := range []struct {
		name string
		aors []string
		far  bool
	}{{"at-another-kit", there, true}, {"at-this-kit", here, false}} {
		b.Run(c.name, func(b *testing.B) {
			before, i, took := sentBy(b, peers), 0, []float64{}
			for b.Loop() {
				rest(b, 30*time.Millisecond)
				began := time.Now()
				found, err := looks.usage.Lookup(b.Context(), c.aors[i%len(c.aors)])
				if err != nil || len(found) != 1 || found[0].Node != has.id.NodeID() {
					b.Fatalf("%s: %v, %v", c.aors[i%len(c.aors)], found, err)
				}
				took = append(took, ms(time.Since(began)))
				i++
			}
			report(b, took, "ms")
			after := sentBy(b, peers)
			each := func(now, then uint64) float64 { return float64(now-then) / float64(i) }
			b.ReportMetric(each(after.forwarded, before.forwarded), "forwarded-fragments/lookup")
			fragments := each(after.fragments, before.fragments)
			b.ReportMetric(fragments, "fragments/lookup")
			b.ReportMetric(each(after.bytes, before.bytes), "bytes/lookup")
			if c.far {
				b.ReportMetric(each(after.messages, before.messages), "messages/lookup")
			}
			// The kits ping each other meanwhile: a few messages in a hundred lookups.
			if i >= 100 && (fragments > 1) != c.far {
				b.Errorf("%.2f fragments on the wire for a lookup", fragments)
			}
		})
	}
}

// sent counts the peers' requests and answers, also those to themselves, and what that was on the wire: fragments and
// their bytes.
type sent struct{ messages, fragments, forwarded, bytes uint64 }

func sentBy(b *testing.B, peers []*peer) (r sent) {
	b.Helper()
	for _, p := range peers {
		s, err := p.node.Snapshot(b.Context())
		check(b, err)
		r.messages += s.Counters["requests"] + s.Counters["answers"]
		r.fragments += s.Counters["sent"]
		r.forwarded += s.Counters["forwarded"]
		for _, l := range s.Links {
			r.bytes += l.BytesSent
		}
	}
	return r
}
