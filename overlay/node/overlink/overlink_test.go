package overlink_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/link"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/node/overlink"
	"fieldkit/overlay/sipusage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kit is a node over real links on loopback, on a port of its own.
type kit struct {
	id        *ident.Identity
	addr      netip.AddrPort
	transport *link.Transport
	node      *node.Node
	usage     *sipusage.Usage
	trunks    chan *sipusage.Trunk
	stop      context.CancelFunc
	ended     chan error
}

func start(t *testing.T, m *nodetest.Mission, change ...func(*link.Config)) *kit {
	t.Helper()
	id, err := m.Authority.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	trust, err := ident.TrustFor(m.Document)
	if err != nil {
		t.Fatal(err)
	}
	ip := netip.MustParseAddr("127.0.0.1")
	k := &kit{id: id, trunks: make(chan *sipusage.Trunk, 16), ended: make(chan error, 2)}
	cfg := link.Config{
		Identity: id, Trust: trust, Addresses: func() []netip.Addr { return []netip.Addr{ip} },
		OnRefused: func(a netip.AddrPort, why error) { k.node.Refused(a, why) },
	}
	for _, f := range change {
		f(&cfg)
	}
	k.transport, err = link.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	k.addr = netip.AddrPortFrom(ip, k.transport.Port())
	domains := sipusage.OnlyDomain(m.Document.InstanceName)
	k.node, err = node.New(node.Config{
		Identity: id, Trust: trust, Document: m.Document, Transport: overlink.Transport(k.transport), MayStore: domains.MayStore,
	})
	if err != nil {
		t.Fatal(err)
	}
	k.usage, err = sipusage.New(sipusage.Config{
		Node: k.node, Identity: id, Domains: domains, OnTrunk: func(tr *sipusage.Trunk, _ bool) { k.trunks <- tr },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.stop = cancel
	go func() { k.ended <- k.node.Run(ctx) }()
	go func() { k.ended <- k.usage.Run(ctx) }()
	return k
}

func (k *kit) end(t *testing.T) {
	t.Helper()
	k.stop()
	if err := errors.Join(<-k.ended, <-k.ended, k.transport.Close()); err != nil {
		t.Error(err)
	}
}

// eventually polls the real clock; the simulated rings never have to.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("%s: not within %v", what, limit)
		}
		<-tick.C
	}
	return time.Since(began)
}

func ringOf(t *testing.T, n int, kits ...*kit) func() bool {
	return func() bool {
		for _, k := range kits {
			s, err := k.node.Snapshot(t.Context())
			if err != nil || len(s.Ring) != n || len(s.Successors) != min(3, n-1) {
				return false
			}
		}
		return true
	}
}

// Three kits over real sockets, ICE and DTLS: one ring, a registration, a trunk that carries SIP and media, and one
// kit that dies.
func TestThreeKitsOnLoopback(t *testing.T) {
	m, err := nodetest.NewMission("loopback.mission.home.arpa", nil)
	if err != nil {
		t.Fatal(err)
	}
	kits := []*kit{start(t, m), start(t, m), start(t, m)}
	live := kits
	defer func() {
		for _, k := range live {
			k.end(t)
		}
	}()
	for _, a := range kits {
		for _, b := range kits {
			if a != b {
				a.node.Discovered(b.id.NodeID(), []netip.AddrPort{b.addr})
			}
		}
	}
	t.Logf("one ring after %v", eventually(t, 20*time.Second, "ring of 3", ringOf(t, 3, kits...)).Round(time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	aor := "alice@loopback.mission.home.arpa"
	began := time.Now()
	if err := kits[1].usage.Register(ctx, aor, time.Hour, ""); err != nil {
		t.Fatal(err)
	}
	t.Logf("registered after %v", time.Since(began).Round(100*time.Microsecond))
	for i, k := range kits {
		began := time.Now()
		list, err := k.usage.Lookup(ctx, aor)
		if err != nil || len(list) != 1 || list[0].Node != kits[1].id.NodeID() {
			t.Errorf("kit %d looks up: %v, %v", i, list, err)
		}
		t.Logf("looked up after %v", time.Since(began).Round(100*time.Microsecond))
	}

	began = time.Now()
	near, err := kits[0].usage.Trunk(ctx, kits[1].id.NodeID())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("trunk after %v", time.Since(began).Round(time.Millisecond))
	far := <-kits[1].trunks
	message, media := make(chan string, 1), make(chan string, 1)
	far.Handle(func(b []byte) { message <- string(b) }, func(b []byte) {
		select {
		case media <- string(b):
		default:
		}
	})
	near.Handle(func([]byte) {}, func([]byte) {})
	if err := near.SendMessage([]byte("INVITE sip:alice@loopback.mission.home.arpa SIP/2.0")); err != nil {
		t.Fatal(err)
	}
	if got := <-message; got[:6] != "INVITE" {
		t.Errorf("message %q", got)
	}
	rtp := append([]byte{0x80, 0}, make([]byte, 30)...)
	eventually(t, 5*time.Second, "media", func() bool {
		if err := near.SendMedia(rtp); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-media:
			return got == string(rtp)
		default:
			return false
		}
	})
	x, err := near.ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 60)
	if err != nil {
		t.Fatal(err)
	}
	if y, err := far.ExportKeyingMaterial("EXTRACTOR-dtls_srtp", nil, 60); err != nil || !bytes.Equal(x, y) || near.IsClient() == far.IsClient() {
		t.Errorf("keys of the two ends differ: %v", err)
	}

	s, err := kits[0].node.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range s.Links {
		t.Logf("link to %v: attached %v, rtt %v, %d bytes sent", l.Peer, l.Attached, l.RTT, l.BytesSent)
	}
	t.Log(fmt.Sprint(s.Counters))
	// One dies: its links are closed, but it says no Leave. The registration is still there, on a replica at least.
	began = time.Now()
	if err := kits[2].transport.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, 12*time.Second, "ring of 2", ringOf(t, 2, kits[:2]...))
	t.Logf("loss noticed after %v", time.Since(began).Round(10*time.Millisecond))
	if list, err := kits[0].usage.Lookup(ctx, aor); err != nil || len(list) != 1 {
		t.Errorf("after the loss: %v, %v", list, err)
	}
}

// Nothing above the links cares which of the protocols they are: two kits find each other, and a trunk carries SIP and
// media, whatever the configuration document says.
func TestRingOverEachLinkProtocol(t *testing.T) {
	for name, change := range map[string]func(*link.Config){
		"DTLS-UDP-SR":                     func(*link.Config) {},
		"DTLS-UDP-SR-NO-ICE":              func(c *link.Config) { c.NoICE, c.LinkProtocols = true, []string{"DTLS-UDP-SR-NO-ICE"} },
		"TLS-TCP-FH-NO-ICE":               func(c *link.Config) { c.NoICE, c.LinkProtocols = true, []string{"TLS-TCP-FH-NO-ICE"} },
		"TLS without ICE":                 func(c *link.Config) { c.NoICE, c.LinkProtocols = true, []string{"TLS"} },
		"DTLS-UDP-SR, shared secret":      func(c *link.Config) { c.SharedSecret = []byte("0123456789abcdef") },
		"no ICE, UDP, with shared secret": func(c *link.Config) { c.NoICE, c.SharedSecret = true, []byte("0123456789abcdef") },
	} {
		t.Run(name, func(t *testing.T) {
			m, err := nodetest.NewMission("loopback.mission.home.arpa", nil)
			if err != nil {
				t.Fatal(err)
			}
			kits := []*kit{start(t, m, change), start(t, m, change)}
			defer func() {
				for _, k := range kits {
					k.end(t)
				}
			}()
			kits[0].node.Discovered(kits[1].id.NodeID(), []netip.AddrPort{kits[1].addr})
			kits[1].node.Discovered(kits[0].id.NodeID(), []netip.AddrPort{kits[0].addr})
			t.Logf("one ring after %v", eventually(t, 20*time.Second, "ring of 2", ringOf(t, 2, kits...)).Round(time.Millisecond))
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			near, err := kits[0].usage.Trunk(ctx, kits[1].id.NodeID())
			if err != nil {
				t.Fatal(err)
			}
			far := <-kits[1].trunks
			message, media := make(chan string, 1), make(chan string, 1)
			far.Handle(func(b []byte) { message <- string(b) }, func(b []byte) { media <- string(b) })
			near.Handle(func([]byte) {}, func([]byte) {})
			if err := near.SendMessage([]byte("OPTIONS sip:b SIP/2.0")); err != nil {
				t.Fatal(err)
			}
			if got := <-message; got[:7] != "OPTIONS" {
				t.Errorf("message %q", got)
			}
			if err := near.SendMedia([]byte("\x80media")); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-media:
				if got != "\x80media" {
					t.Errorf("media %q", got)
				}
			case <-time.After(5 * time.Second):
				t.Error("no media")
			}
			if near.SRTPProfile() == 0 || near.IsClient() == far.IsClient() {
				t.Error("no agreement on SRTP")
			}
		})
	}
}

// A kit of another mission is refused by the handshake itself, at both ends, and reported.
func TestStrangerOnLoopback(t *testing.T) {
	var kits []*kit
	for range 2 {
		m, err := nodetest.NewMission("loopback.mission.home.arpa", nil)
		if err != nil {
			t.Fatal(err)
		}
		k := start(t, m)
		defer k.end(t)
		kits = append(kits, k)
	}
	// Who answers learns nothing of who dials: the dialler refuses first. So both dial.
	kits[0].node.Discovered(kits[1].id.NodeID(), []netip.AddrPort{kits[1].addr})
	kits[1].node.Discovered(kits[0].id.NodeID(), []netip.AddrPort{kits[0].addr})
	for i, k := range kits {
		eventually(t, 15*time.Second, fmt.Sprintf("stranger reported by kit %d", i), func() bool {
			s, err := k.node.Snapshot(t.Context())
			if err != nil || len(s.Links) > 0 || len(s.Ring) != 1 {
				t.Fatalf("%v, links %v, ring %v", err, s.Links, s.Ring)
			}
			return len(s.Strangers) > 0
		})
	}
}
