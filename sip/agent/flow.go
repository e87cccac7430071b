package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/emiago/sipgo/sip"

	"fieldkit/sip/proxy"
	"fieldkit/sip/registrar"
)

// What sending can fail with.
var (
	errFlowClosed = errors.New("flow is closed")
	errTooLong    = errors.New("message too long for a trunk")
)

const maxTrunkMessage = 8000

// flow is a way to a handset or another kit, and what sipgo's transactions write
// to: it takes the place of sipgo's transport layer, which keeps an entry for
// every source address it ever heard, resolves names out of messages, and starts
// a goroutine per message so that their order is lost. Exactly one of the
// pointers is set. A flow is immutable and safe for concurrent use.
type flow struct {
	udp    *net.UDPConn
	stream *stream
	trunk  *link
	remote netip.AddrPort // of a handset
}

var _ sip.Connection = (*flow)(nil)

// network is the transport as Via has it. A trunk is DTLS: sipgo must repeat
// what is lost there, as on UDP.
func (f *flow) network() string {
	if f.stream != nil {
		return "TCP"
	}
	return "UDP"
}

func (f *flow) source() string {
	if f.trunk != nil {
		return "kit:" + f.trunk.kit
	}
	return f.remote.Addr().String()
}

func (f *flow) String() string {
	switch {
	case f.trunk != nil:
		return "kit " + f.trunk.kit
	case f.stream != nil:
		return "tcp " + f.remote.String()
	}
	return "udp " + f.remote.String()
}

// registered is the flow as a binding keeps it.
func (f *flow) registered() registrar.Flow {
	r := registrar.Flow{Transport: "udp", Remote: f.remote.String()}
	if f.stream != nil {
		r.Transport, r.Conn = "tcp", f.stream.id
	}
	return r
}

// at is the same socket toward another port of the same address.
func (f *flow) at(port uint16) *flow {
	if f.udp == nil || port == 0 || port == f.remote.Port() {
		return f
	}
	g := *f
	g.remote = netip.AddrPortFrom(f.remote.Addr(), port)
	return &g
}

func (f *flow) same(g *flow) bool {
	return g != nil && f.source() == g.source()
}

func (f *flow) send(b []byte) error {
	switch {
	case f.trunk != nil:
		if len(b) > maxTrunkMessage {
			return fmt.Errorf("message of %d bytes to %s: %w", len(b), f, errTooLong)
		}
		return f.trunk.t.SendMessage(b)
	case f.stream != nil:
		return f.stream.send(b)
	}
	_, err := f.udp.WriteToUDPAddrPort(b, f.remote)
	return err
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// WriteMsg implements sip.Connection.
func (f *flow) WriteMsg(m sip.Message) error {
	buf := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buf)
	buf.Reset()
	m.StringWrite(buf)
	return f.send(buf.Bytes())
}

// LocalAddr implements sip.Connection.
func (f *flow) LocalAddr() net.Addr {
	switch {
	case f.udp != nil:
		return f.udp.LocalAddr()
	case f.stream != nil:
		return f.stream.conn.LocalAddr()
	}
	return &net.UDPAddr{}
}

// Ref, TryClose and Close implement sip.Connection. The agent decides when a
// connection ends, not the transactions that used it.
func (f *flow) Ref(int) int            { return 1 }
func (f *flow) TryClose() (int, error) { return 1, nil }
func (f *flow) Close() error           { return nil }

// link is a trunk in use. The relay is given the link's trunk itself.
type link struct {
	t      proxy.Trunk
	kit    string
	bucket bucket // of messages that come; only the trunk's own reader uses it
}
