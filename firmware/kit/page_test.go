package kit

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
)

// arriving are connections from these addresses, then no more.
type arriving struct {
	net.Listener
	from   []string
	closed []string
}

type arrived struct {
	net.Conn
	l    *arriving
	from string
}

func (l *arriving) Accept() (net.Conn, error) {
	if len(l.from) == 0 {
		return nil, net.ErrClosed
	}
	c := &arrived{l: l, from: l.from[0]}
	l.from = l.from[1:]
	return c, nil
}

func (c *arrived) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.from))
}

func (c *arrived) Close() error {
	c.l.closed = append(c.l.closed, c.from)
	return nil
}

// A machine on the kits' side that routes the handset address through the kit's own address there must not be served.
func TestPageIsForHandsetsOnly(t *testing.T) {
	handsets := []string{"10.73.1.5:40000", "[::ffff:10.73.1.6]:40000", "10.73.0.1:40000", "127.0.0.1:40000"}
	others := []string{"169.254.60.9:40000", "192.168.7.2:40000", "[fe80::2%eth0]:40000", "10.74.0.1:40000"}
	under := &arriving{from: slices.Concat(others[:2], handsets, others[2:])}
	l := handsetsOnly{under, netip.MustParsePrefix("10.73.0.0/16")}
	var served []string
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		served = append(served, c.(*arrived).from)
	}
	if !slices.Equal(served, handsets) || !slices.Equal(under.closed, others) {
		t.Errorf("served %v, refused %v", served, under.closed)
	}
}

// The operator's own choice of another address is not narrowed.
func TestWhichPageIsForHandsetsOnly(t *testing.T) {
	for listen, want := range map[string]bool{":0": true, "127.0.73.1:0": true, "0.0.0.0:0": true, "127.0.73.9:0": false} {
		k := still(t)
		k.cfg.Handset.Address, k.cfg.Handset.Network = netip.MustParseAddr("127.0.73.1"), netip.MustParsePrefix("127.0.73.0/29")
		k.cfg.Status.Listen = listen
		l, err := k.listenPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, only := l.(handsetsOnly); only != want {
			t.Errorf("%s: for handsets only is %v", listen, only)
		}
		_ = l.Close()
	}
}
