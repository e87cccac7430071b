package peer

import (
	"errors"
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// answerRequests answers what the peer asked of a kit over a link.
func (r *rig) answerRequests(t *testing.T, l *fakeLink, by *ident.Identity, sent *[][]byte, body func(*wire.Message) []byte) {
	t.Helper()
	for _, b := range *sent {
		q, err := wire.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if !q.Code.IsRequest() {
			continue
		}
		a := &wire.Message{Header: q.Header, Code: q.Code.Answer(), Body: body(q)}
		a.Via, a.Dest, a.TTL = nil, toNode(r.ID()), 5
		if err := ident.Sign(a, by.Signer()); err != nil {
			t.Fatal(err)
		}
		out, err := a.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Receive(t0, l, out)
	}
	*sent = nil
}

// An operation that is given up ends without its done, whatever step it is in, and leaves nothing behind: no
// transaction, no attempt, no connection.
func TestCancelledAppAttachLeavesNothing(t *testing.T) {
	const app = 5060
	for after := range 8 { // steps of the environment before it is given up
		r := newRig(t)
		var sent [][]byte
		far, l := r.neighbour(t, &sent)
		r.env.settle()
		sent = nil
		r.env.connects = l.to
		ended := 0
		c := r.AppAttach(t0, far.NodeID(), app, func(conn AppConn, err error) {
			ended++
			if conn != nil {
				_ = conn.Close()
			}
		})
		body, err := wire.AppAttachReqAns{Application: app}.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		for range after {
			r.env.once()
			r.answerRequests(t, l, far, &sent, func(*wire.Message) []byte { return body })
		}
		was := ended
		c.Cancel()
		c.Cancel() // twice does no harm
		r.env.settle()
		r.answerRequests(t, l, far, &sent, func(*wire.Message) []byte { return body })
		r.env.settle()
		if ended != was || was > 1 {
			t.Errorf("after %d steps: done called %d times, %d after it was given up", after, ended, ended-was)
		}
		if r.env.open != 0 || len(r.txns) != 0 || len(r.apps.byKey) != 0 {
			t.Errorf("after %d steps: %d attempts and connections, %d transactions, %d AppAttaches left", after, r.env.open, len(r.txns), len(r.apps.byKey))
		}
		if after == 7 && was != 1 {
			t.Error("it never ends by itself")
		}
	}
}

// A done may call its peer again, at once.
func TestDoneMayCallAgain(t *testing.T) {
	r := newRig(t)
	var order []string
	r.Ping(t0, toNode(r.ID()), func(p Pong, err error) {
		if err != nil || p.Peer != r.ID() {
			t.Errorf("%v, %v", p.Peer, err)
		}
		order = append(order, "ping")
		r.Ping(t0, toNode(r.ID()), func(Pong, error) { order = append(order, "again") })
		order = append(order, "returned")
	})
	if len(order) != 0 {
		t.Fatal("done called from within the call")
	}
	r.env.settle()
	if len(order) != 3 || order[1] != "returned" || order[2] != "again" {
		t.Errorf("%v", order)
	}
}

// What nobody answers ends after the maximum request lifetime, by Deadline and Advance alone.
func TestTimeoutByTheClockHandedIn(t *testing.T) {
	r := newRig(t)
	far, l := r.neighbour(t, nil)
	r.env.settle()
	var got error
	r.Ping(t0, toNode(far.NodeID()), func(_ Pong, err error) { got = err })
	r.env.settle()
	for now := t0; got == nil; now = r.Deadline() {
		if now.Sub(t0) > time.Minute {
			t.Fatal("no end")
		}
		l.heard = now
		r.env.now = now
		r.Advance(now)
		r.env.settle()
		if d := now.Sub(t0); got != nil && d != requestLifetime {
			t.Errorf("ended after %v", d)
		}
	}
	if !errors.Is(got, ErrTimeout) {
		t.Error(got)
	}
}
