package node_test

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
)

// tap stands between a kit and its links: out sees every whole message that the kit sends, and says what is sent instead,
// after how long. It is called by the kit's loop.
type tap struct {
	node.Transport
	out func(to wire.NodeID, m *wire.Message) (instead *wire.Message, after time.Duration)
}

func (t *tap) wrap(c node.Conn, err error) (node.Conn, error) {
	if err != nil {
		return nil, err
	}
	return &tapConn{Conn: c, t: t, frags: wire.NewReassembler(wire.ReassemblyLimits{Message: 16 << 10})}, nil
}

func (t *tap) Accept(ctx context.Context) (node.Conn, error) { return t.wrap(t.Transport.Accept(ctx)) }

func (t *tap) Bootstrap(ctx context.Context, addr netip.AddrPort) (node.Conn, error) {
	return t.wrap(t.Transport.Bootstrap(ctx, addr))
}

func (t *tap) Prepare(ctx context.Context) (node.Attempt, error) {
	a, err := t.Transport.Prepare(ctx)
	if err != nil {
		return nil, err
	}
	return tapAttempt{a, t}, nil
}

type tapAttempt struct {
	node.Attempt
	t *tap
}

func (a tapAttempt) Connect(ctx context.Context, remote wire.IceParameters, peer wire.NodeID, offerer bool) (node.Conn, error) {
	return a.t.wrap(a.Attempt.Connect(ctx, remote, peer, offerer))
}

type tapConn struct {
	node.Conn
	t     *tap
	frags *wire.Reassembler // of the one loop that sends
}

func (c *tapConn) Send(b []byte) error {
	to := c.Peer().NodeID
	whole, err := c.frags.Add(time.Now(), to, b)
	if err != nil || whole == nil {
		return err
	}
	m, err := wire.Parse(whole)
	if err != nil {
		return err
	}
	instead, after := c.t.out(to, m)
	if instead == nil {
		return nil
	}
	if b, err = instead.AppendBinary(nil); err != nil {
		return err
	}
	parts := [][]byte{b}
	if len(b) > 1200 {
		if parts, err = wire.Fragment(b, 1200); err != nil {
			return err
		}
	}
	send := func() {
		for _, p := range parts {
			_ = c.Conn.Send(p)
		}
	}
	if after > 0 {
		time.AfterFunc(after, send)
		return nil
	}
	send()
	return nil
}

// isBy reports whether id signed m, and not somebody for whom it is only forwarded.
func isBy(m *wire.Message, id *ident.Identity) bool {
	c := m.Security.Certificates
	return len(c) > 0 && bytes.Equal(c[0].Data, id.Signer().Certificates()[0])
}

// signAs signs a message anew, the certificates of stored values in it kept.
func signAs(t *testing.T, m *wire.Message, id *ident.Identity) {
	m.Security = wire.SecurityBlock{Certificates: m.Security.Certificates}
	if err := ident.Sign(m, id.Signer()); err != nil {
		t.Error(err)
	}
}
