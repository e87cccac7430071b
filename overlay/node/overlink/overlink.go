// Package overlink lets a node run over the real links of overlay/link. It only changes types: Go does not
// take a method that returns *link.Conn for one that returns node.Conn.
//
// All methods may be called from any goroutine.
package overlink

import (
	"context"
	"net/netip"

	"fieldkit/overlay/link"
	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
)

// Transport is a *link.Transport as a node wants it. Whoever made that closes it.
func Transport(t *link.Transport) node.Transport { return transport{t} }

type transport struct{ t *link.Transport }

func (t transport) Accept(ctx context.Context) (node.Conn, error) { return wrap(t.t.Accept(ctx)) }

func (t transport) Bootstrap(ctx context.Context, addr netip.AddrPort) (node.Conn, error) {
	return wrap(t.t.Bootstrap(ctx, addr))
}

func (t transport) Prepare(ctx context.Context) (node.Attempt, error) {
	a, err := t.t.Prepare(ctx)
	if err != nil {
		return nil, err
	}
	return attempt{a}, nil
}

type attempt struct{ *link.Attempt }

func (a attempt) Connect(ctx context.Context, remote wire.IceParameters, peer wire.NodeID, offerer bool) (node.Conn, error) {
	return wrap(a.Attempt.Connect(ctx, remote, peer, offerer))
}

func (a attempt) ConnectApp(ctx context.Context, remote wire.IceParameters, peer wire.NodeID, offerer bool) (node.AppConn, error) {
	c, err := a.Attempt.ConnectApp(ctx, remote, peer, offerer)
	if err != nil {
		return nil, err
	}
	return c, nil
}

type conn struct{ *link.Conn }

func wrap(c *link.Conn, err error) (node.Conn, error) {
	if err != nil {
		return nil, err
	}
	return conn{c}, nil
}

func (c conn) Stats() node.ConnStats {
	s := c.Conn.Stats()
	return node.ConnStats{RTT: s.RTT, BytesSent: s.BytesSent, BytesReceived: s.BytesReceived, Retransmits: s.Retransmits}
}
