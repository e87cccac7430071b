package peer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

var t0 = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)

func id(b byte) wire.NodeID {
	n, err := wire.NodeIDFrom(append(make([]byte, 15), b))
	if err != nil {
		panic(err)
	}
	return n
}

// Alarms ring in the order of their times, equal ones in that of their setting, moved and stopped ones as told:
// compared with a sorted list.
func TestAlarms(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		var s alarms
		type entry struct {
			at, seq int
			a       *alarm
		}
		var want []entry
		var rung []int
		for seq := range 40 {
			switch at := rng.IntN(10); {
			case len(want) > 3 && rng.IntN(4) == 0:
				i := rng.IntN(len(want))
				s.stop(want[i].a)
				s.stop(want[i].a) // twice does no harm
				want = slices.Delete(want, i, i+1)
			case len(want) > 3 && rng.IntN(4) == 0:
				e := &want[rng.IntN(len(want))]
				e.at, e.seq = at, seq
				s.set(e.a, t0.Add(time.Duration(at)), func() { rung = append(rung, seq) })
			default:
				a := s.set(nil, t0.Add(time.Duration(at)), func() { rung = append(rung, seq) })
				want = append(want, entry{at, seq, a})
			}
		}
		slices.SortFunc(want, func(a, b entry) int { return (a.at-b.at)*1000 + a.seq - b.seq })
		for i := 0; ; i++ {
			at, ok := s.next()
			if !ok {
				break
			}
			if s.due(at.Add(-1)) != nil {
				t.Fatal("rang too early")
			}
			s.due(at).ring()
		}
		if len(rung) != len(want) {
			t.Fatalf("%d rang, want %d", len(rung), len(want))
		}
		for i, e := range want {
			if rung[i] != e.seq {
				t.Fatalf("rang %v, want %v", rung, want)
			}
		}
	}
}

func TestBucket(t *testing.T) {
	b := NewBucket(10, 5, t0)
	n := 0
	for b.Take(t0) {
		n++
	}
	for range 100 { // ten seconds, a hundred askings
		if b.Take(t0.Add(time.Duration(n) * 100 * time.Millisecond)) {
			n++
		}
	}
	if n < 5+90 || n > 5+101 {
		t.Errorf("%d taken", n)
	}
	if !b.Take(t0.Add(-time.Hour)) && b.tokens < 0 {
		t.Error("a clock that goes back breaks the bucket")
	}
}

// Storage times only grow: over restarts, with a clock that jumps back, and with one write in many uses.
func TestStorageClock(t *testing.T) {
	now := t0
	var last, disk uint64
	for restart := range 5 {
		c, saves := storageClock{last: disk, reserved: disk}, 0
		for i := range 1000 {
			n := 1 + i%3
			ms := c.take(now, n)
			if ms <= last {
				t.Fatalf("restart %d: %d after %d", restart, ms, last)
			}
			if r := c.reserve(); r != 0 {
				disk, c.reserved = r, r
				saves++
			}
			if last = ms + uint64(n) - 1; last >= disk {
				t.Fatalf("gave out %d, persisted only up to %d", last, disk)
			}
			now = now.Add(time.Millisecond)
		}
		if saves > 1 {
			t.Errorf("%d writes for 1000 storage times", saves)
		}
		now = now.AddDate(-1, 0, 0)
	}
	c := storageClock{last: disk}
	c.raise(last + 1_000_000_000)
	if ms := c.take(now, 1); ms != last+1_000_000_001 {
		t.Errorf("after raise: %d", ms)
	}
	c.raise(^uint64(0)) // nobody can run the counter into its end
	if ms := c.take(now, 1); ms != last+1_000_000_002 {
		t.Errorf("after a hostile raise: %d", ms)
	}
	if c.reserve() == 0 {
		t.Error("what could not be persisted is not tried again")
	}
}

// Answers are kept for the maximum request lifetime and within each signer's share.
func TestAnswersAreBounded(t *testing.T) {
	var s answers
	req := func(from byte, txn uint64) *request {
		return &request{Message: &wire.Message{Header: wire.Header{TransactionID: txn}}, peer: &ident.Peer{NodeID: id(from)}}
	}
	good := req(1, 7)
	if s.seen(good, t0) != nil {
		t.Fatal("seen before")
	}
	if e := s.seen(good, t0); e == nil || e.msg != nil {
		t.Fatalf("while being processed: %+v", e)
	}
	s.keep(good, &wire.Message{Code: wire.StoreAns}, t0)
	for i := range uint64(5000) { // a flood by another
		r := req(2, i)
		if s.seen(r, t0.Add(time.Second)) == nil {
			s.keep(r, &wire.Message{Body: make([]byte, 1000)}, t0.Add(time.Second))
		}
	}
	if n := len(s.bySigner[id(2)].order); n > maxAnswers {
		t.Errorf("%d answers kept for the flooder", n)
	}
	if n := s.bySigner[id(2)].bytes; n > maxAnswerBytes {
		t.Errorf("%d bytes kept for the flooder", n)
	}
	if e := s.seen(good, t0.Add(14*time.Second)); e == nil || e.msg.Code != wire.StoreAns {
		t.Errorf("the first one's answer is lost: %+v", e)
	}
	if e := s.seen(good, t0.Add(15*time.Second)); e != nil {
		t.Error("remembered beyond the request lifetime")
	}
	for i := range byte(200) {
		s.seen(req(i, 1), t0.Add(16*time.Second))
	}
	if len(s.bySigner) > maxSigners {
		t.Errorf("%d signers", len(s.bySigner))
	}
	s.drop(good)
	if s.seen(good, t0.Add(16*time.Second)) != nil {
		t.Error("dropped, and still there")
	}
}

// Both ends of two links between the same peers keep the same one, whichever order they came up in.
func TestBothEndsKeepTheSameLink(t *testing.T) {
	a, b := id(1), id(2)
	for _, apart := range []time.Duration{0, time.Second, 4 * time.Second, 6 * time.Second, time.Hour} {
		for _, skew := range []time.Duration{-20 * time.Millisecond, 0, 20 * time.Millisecond} {
			for mask := range 4 { // who dialled the first, the second
				first, second := mask&1 == 0, mask&2 == 0 // by a?
				if first != second || apart >= concurrentLinks {
					x := func(self, peer wire.NodeID, byA bool, at time.Duration) *link {
						return &link{peer: peer, dialled: byA == (self == a), since: t0.Add(at)}
					}
					d := apart + skew
					atA := better(a, x(a, b, first, 0), x(a, b, second, apart))
					atB := better(b, x(b, a, first, 0), x(b, a, second, d))
					if atA != atB {
						t.Errorf("apart %v skew %v mask %d: a keeps the first: %v, b: %v", apart, skew, mask, atA, atB)
					}
				}
			}
		}
	}
}

// A peer that restarted is reached over its new bootstrap link while the old attached one is silent.
func TestBestLink(t *testing.T) {
	p := id(9)
	old := &link{conn: &fakeLink{}, peer: p, attached: true, since: t0, heard: t0.Add(10 * time.Second)}
	boot := &link{conn: &fakeLink{}, peer: p, since: t0.Add(5 * time.Second)}
	c := connections{byPeer: map[wire.NodeID][]*link{p: {old, boot}}}
	if c.best(p) != old {
		t.Error("a live attached link is passed over")
	}
	boot.since = t0.Add(11 * time.Second)
	if c.best(p) != boot {
		t.Error("the new link is not taken")
	}
	old.conn.(*fakeLink).heard = t0.Add(12 * time.Second) // by an answered check
	if c.best(p) != old {
		t.Error("a link that lives by its checks is passed over")
	}
	if c.best(id(1)) != nil {
		t.Error("a link from nowhere")
	}
}

// "If no ACKs have been received by the time the third retransmission occurs, it is RECOMMENDED that the link be removed
// from the Routing Table. The link MAY be restored to the Routing Table if ACKs resume before the connection is closed"
// (RFC 6940 §6.6.3.1): of several links to a peer a suspect one is not taken.
func TestSuspectLinkIsPassedOver(t *testing.T) {
	p := id(9)
	mk := func(attached bool, since, heard int) (*link, *fakeLink) {
		c := &fakeLink{}
		return &link{conn: c, peer: p, attached: attached, since: t0.Add(time.Duration(since)), heard: t0.Add(time.Duration(heard))}, c
	}
	first, firstConn := mk(true, 0, 10)
	second, secondConn := mk(true, 0, 10)
	boot, bootConn := mk(false, 5, 5)
	fresh, freshConn := mk(false, 11, 11) // a bootstrap link younger than anything heard on first
	for _, c := range []struct {
		name    string
		links   []*link
		suspect []*fakeLink
		want    *link
	}{
		{"none suspect", []*link{first, second, boot}, nil, first},
		{"the best suspect", []*link{first, second, boot}, []*fakeLink{firstConn}, second},
		{"both attached suspect", []*link{first, second, boot}, []*fakeLink{firstConn, secondConn}, boot},
		{"all suspect", []*link{first, second, boot}, []*fakeLink{firstConn, secondConn, bootConn}, first},
		{"the only one suspect", []*link{first}, []*fakeLink{firstConn}, first},
		{"another one suspect", []*link{first, boot}, []*fakeLink{bootConn}, first},
		{"the fresh one", []*link{first, fresh}, nil, fresh},
		{"the fresh one suspect", []*link{first, fresh}, []*fakeLink{freshConn}, first},
		{"all suspect, one fresh", []*link{first, fresh}, []*fakeLink{firstConn, freshConn}, fresh},
	} {
		for _, k := range []*fakeLink{firstConn, secondConn, bootConn, freshConn} {
			k.suspect = false
		}
		for _, k := range c.suspect {
			k.suspect = true
		}
		table := connections{byPeer: map[wire.NodeID][]*link{p: c.links}}
		if table.best(p) != c.want {
			t.Errorf("%s: another link is taken", c.name)
		}
	}
}

func TestRemoteError(t *testing.T) {
	err := fmt.Errorf("store: %w", &RemoteError{Code: wire.ErrorForbidden, From: id(3)})
	if !IsRemote(err, wire.ErrorForbidden) || IsRemote(err, wire.ErrorNotFound) || IsRemote(ErrTimeout, wire.ErrorForbidden) {
		t.Error(err)
	}
	// People read it, in a trace for one: by the RFC's name.
	if got, want := err.Error(), "store: Error_Forbidden from "+id(3).String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// What was answered is forgotten in time, also when nobody asks again.
func TestAnswersAreForgotten(t *testing.T) {
	r := newRig(t)
	from, in := r.neighbour(t, nil)
	m := r.newMessage(&Outgoing{Dest: toNode(r.ID()), Code: wire.JoinReq, Body: []byte{}})
	if err := ident.Sign(m, from.Signer()); err != nil {
		t.Fatal(err)
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Receive(t0, in, b)
	r.env.settle()
	if len(r.ans.bySigner) != 1 {
		t.Fatalf("answers to %d signers kept", len(r.ans.bySigner))
	}
	r.Advance(t0.Add(requestLifetime - 1))
	if len(r.ans.bySigner) != 1 {
		t.Error("forgotten within the request lifetime")
	}
	r.Advance(t0.Add(requestLifetime))
	if len(r.ans.bySigner) != 0 {
		t.Error("kept beyond it")
	}
}

// muteCrypto cannot sign while it is mute, as when the key's device does not answer.
type muteCrypto struct {
	Crypto
	mute bool
}

func (c *muteCrypto) Sign(m *wire.Message, s *ident.Signer) error {
	if c.mute {
		return errors.New("no signature")
	}
	return c.Crypto.Sign(m, s)
}

// RFC 6940 §6.2.1: "Receiving nodes MUST generate semantically equivalent responses to retransmissions of the same
// request". Of one whose answer came to nothing, the retransmission is processed anew.
func TestRequestWhoseAnswerFailedIsProcessedAgain(t *testing.T) {
	r := newRig(t)
	var sent [][]byte
	from, in := r.neighbour(t, &sent)
	m := r.newMessage(&Outgoing{Dest: toNode(r.ID()), Code: wire.JoinReq, Body: []byte{}})
	if err := ident.Sign(m, from.Signer()); err != nil {
		t.Fatal(err)
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	r.env.settle()
	crypto := &muteCrypto{Crypto: r.cfg.Crypto, mute: true}
	r.cfg.Crypto = crypto
	answers := func() (n int) {
		sent = nil
		r.Receive(t0, in, b)
		r.env.settle()
		for _, s := range sent {
			if a, err := wire.Parse(s); err == nil && a.TransactionID == m.TransactionID {
				n++
			}
		}
		return n
	}
	if n := answers(); n != 0 {
		t.Fatalf("%d answers without a signature", n)
	}
	crypto.mute = false
	if n := answers(); n != 1 {
		t.Errorf("the retransmission got %d answers, want 1", n)
	}
}
