package link

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/wire"
)

// closing is a session that nobody uses.
type closing struct {
	recordConn
	closed atomic.Int32
}

func (c *closing) Close() error {
	c.closed.Add(1)
	return nil
}

func racer() *direct {
	t := &Transport{refusals: newBucket(refusalRate, refusalBurst)}
	t.cfg = Config{Log: discard, Now: time.Now, HandshakeTimeout: 5 * time.Second}
	return &direct{t: t}
}

func candidatesAt(n uint16) (cs []wire.IceCandidate) {
	for i := range n {
		cs = append(cs, wire.IceCandidate{Addr: netip.AddrPortFrom(loopback, 1000+i)})
	}
	return cs
}

// A candidate that answers and fails in the same moment takes no other one with it, in whatever order that is heard of.
func TestNoICEAnswerOfAFailedTryIsNone(t *testing.T) {
	for name, try := range map[string]func(ctx context.Context, port uint16, heard func() bool) error{
		"answered, then failed": func(ctx context.Context, port uint16, heard func() bool) error {
			if port == 1001 {
				heard()
				return ErrHandshake
			}
			select {
			case <-time.After(time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
		"failed, then answered": func(_ context.Context, port uint16, heard func() bool) error {
			if port == 1000 {
				time.AfterFunc(time.Millisecond, func() { heard() })
				return ErrHandshake
			}
			time.Sleep(time.Second)
			if !heard() {
				return ErrHandshake
			}
			return nil
		},
		"answered second, the first one fails": func(_ context.Context, port uint16, heard func() bool) error {
			if port == 1000 {
				time.Sleep(2 * dialStagger)
				heard()
				return ErrHandshake
			}
			time.Sleep(dialStagger)
			if !heard() {
				return errGaveWay
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 100 { // the order is random
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
					defer cancel()
					r := racer().race(ctx, candidatesAt(2), func(ctx context.Context, c wire.IceCandidate, heard func() bool) reached {
						return reached{err: try(ctx, c.Addr.Port(), heard)}
					})
					if r.err != nil {
						t.Error(r.err)
					}
				})
				if t.Failed() {
					return
				}
			}
		})
	}
}

// A handshake that is finished just when its attempt is over, or another one was, leaves no session behind.
func TestNoICELateSessionsAreClosed(t *testing.T) {
	for name, first := range map[string]bool{"the attempt ended": false, "another one won": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var late closing
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				r := racer().race(ctx, candidatesAt(2), func(ctx context.Context, c wire.IceCandidate, _ func() bool) reached {
					if first && c.Addr.Port() == 1001 {
						return reached{}
					}
					<-ctx.Done()
					return reached{sess: &session{records: &late}}
				})
				synctest.Wait()
				if want := map[bool]int32{false: 2, true: 1}[first]; (r.err == nil) != first || late.closed.Load() != want {
					t.Errorf("%v, %d sessions closed, want %d", r.err, late.closed.Load(), want)
				}
			})
		})
	}
}

// A datagram without content says nothing, least of all what the one before it said.
func TestNoICEEmptyDatagramIsNoAnswer(t *testing.T) {
	tr := newMission(t).transport(noICE(onlyUDP))
	a, err := tr.Prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	far, err := net.ListenUDP("udp4", &net.UDPAddr{IP: loopback.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = far.Close() }()
	p := a.direct.ports[0]
	answers := make(chan struct{}, 8)
	p.open(addrPortOf(far.LocalAddr()), func() bool { answers <- struct{}{}; return false })
	go p.receive()
	for _, b := range []string{"\x16", "", "", "\x16"} {
		if _, err := far.WriteTo([]byte(b), p.socket.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	<-answers
	<-answers
	select {
	case <-answers:
		t.Error("an empty datagram was taken for an answer")
	case <-time.After(50 * time.Millisecond):
	}
}
