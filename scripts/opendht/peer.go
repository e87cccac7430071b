//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/link"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/overlink"
	"fieldkit/overlay/wire"
)

const overlay = "compare.mission.home.arpa"

// mission issues identities.
type mission struct {
	authority *ident.Authority
	document  []byte
}

func newMission() (*mission, error) {
	a, err := ident.NewAuthority(overlay, wire.MinNodeIDLen)
	if err != nil {
		return nil, err
	}
	s, err := a.Signer()
	if err != nil {
		return nil, err
	}
	d, err := ident.NewDocument(a).Sign(s)
	if err != nil {
		return nil, err
	}
	return &mission{a, d.Raw()}, nil
}

// identity is what a peer is told at its start.
type identity struct {
	Root, Key, Certificate, Document []byte
	Address                          netip.Addr
}

// introduce tells a peer who it is, and returns its Node-ID.
func (m *mission) introduce(p *process, addr netip.Addr) (string, error) {
	id, err := m.authority.NewIdentity()
	if err != nil {
		return "", err
	}
	key, err := id.KeyPEM()
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(identity{m.authority.CertificatePEM(), key, id.CertificatePEM(), m.document, addr})
	if err != nil {
		return "", err
	}
	p.say("%s", b)
	return id.NodeID().String(), nil
}

// peer is an overlay node that takes its commands from in, one a line, and answers to out.
func peer(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		return errors.New("no identity")
	}
	n, id, transport, err := newPeer(lines.Bytes())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	for lines.Scan() {
		answer, err := obey(ctx, n, id, strings.Fields(lines.Text()))
		if err != nil {
			answer = "error " + err.Error()
		}
		if _, err := fmt.Fprintln(out, answer); err != nil {
			break
		}
	}
	cancel()
	return errors.Join(<-ended, transport.Close())
}

func newPeer(b []byte) (*node.Node, *ident.Identity, *link.Transport, error) {
	var who identity
	if err := json.Unmarshal(b, &who); err != nil {
		return nil, nil, nil, fmt.Errorf("identity: %w", err)
	}
	root, err := ident.ParseCertificatePEM(who.Root)
	if err != nil {
		return nil, nil, nil, err
	}
	doc, err := ident.ParseDocument(who.Document, overlay)
	if err != nil {
		return nil, nil, nil, err
	}
	id, err := ident.LoadIdentity(overlay, doc.NodeIDLength, root, who.Key, who.Certificate)
	if err != nil {
		return nil, nil, nil, err
	}
	trust, err := ident.TrustFor(doc)
	if err != nil {
		return nil, nil, nil, err
	}
	t, err := link.New(link.Config{
		Identity: id, Trust: trust, Port: wire.DefaultPort, Addresses: func() []netip.Addr { return []netip.Addr{who.Address} },
	})
	if err != nil {
		return nil, nil, nil, err
	}
	n, err := node.New(node.Config{Identity: id, Trust: trust, Document: doc, Transport: overlink.Transport(t)})
	if err != nil {
		return nil, nil, nil, errors.Join(err, t.Close())
	}
	return n, id, t, nil
}

func obey(ctx context.Context, n *node.Node, id *ident.Identity, f []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	switch {
	case len(f) == 3 && f[0] == "meet":
		who, err := wire.ParseNodeID(f[1])
		if err != nil {
			return "", err
		}
		at, err := netip.ParseAddrPort(f[2])
		if err != nil {
			return "", err
		}
		n.Discovered(who, []netip.AddrPort{at})
		return "", nil
	case len(f) == 1 && f[0] == "ring":
		s, err := n.Snapshot(ctx)
		return fmt.Sprintf("ring %d", len(s.Ring)), err
	case len(f) == 1 && f[0] == "counters":
		s, err := n.Snapshot(ctx)
		if err != nil {
			return "", err
		}
		b, err := json.Marshal(s.Counters)
		return "counters " + string(b), err
	case len(f) == 2 && f[0] == "put":
		signer, err := id.SignerFor(f[1])
		if err != nil {
			return "", err
		}
		data, err := wire.SIPRegistration{Type: wire.SIPRegistrationRoute, Destinations: []wire.Destination{wire.ToNode(n.ID())}}.AppendBinary(nil)
		if err != nil {
			return "", err
		}
		began := time.Now()
		_, err = n.Store(ctx, n.ResourceID(f[1]), wire.KindSIPRegistration, time.Hour, signer, node.Value{Key: n.ID().Bytes(), Data: data})
		return fmt.Sprintf("put %v", time.Since(began)), err
	case len(f) == 2 && f[0] == "get":
		began := time.Now()
		k, err := n.Fetch(ctx, n.ResourceID(f[1]), wire.KindSIPRegistration)
		if err == nil && len(k.Values) != 1 {
			err = fmt.Errorf("%d values", len(k.Values))
		}
		return fmt.Sprintf("get %v", time.Since(began)), err
	case len(f) == 2 && f[0] == "holds":
		s, err := n.Snapshot(ctx)
		return fmt.Sprintf("holds %v", holds(s.Ring, n.ID(), n.ResourceID(f[1]))), err
	}
	return "", fmt.Errorf("command %q", f)
}

// holds says whether self is responsible for a resource, or one of the two peers after the one that is (RFC 6940
// §10.1, §10.4).
func holds(ring []wire.NodeID, self wire.NodeID, res wire.ResourceID) bool {
	slices.SortFunc(ring, wire.NodeID.Compare)
	at, _ := slices.BinarySearchFunc(ring, res, func(n wire.NodeID, r wire.ResourceID) int { return strings.Compare(string(n.Bytes()), string(r)) })
	for i := range min(3, len(ring)) {
		if ring[(at+i)%len(ring)] == self {
			return true
		}
	}
	return false
}
