package client

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

var t0 = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)

func node(b byte) wire.NodeID {
	id, err := wire.NodeIDFrom(append(make([]byte, 15), b))
	if err != nil {
		panic(err)
	}
	return id
}

// steps drives a client and keeps what it wants.
type steps struct {
	t   *testing.T
	c   *State
	now time.Time
	out []chord.Output
}

func (s *steps) step(in chord.Input) { s.out = append(s.out, s.c.Step(s.now, in)...) }

// until lets time pass until the client wants something that will do.
func (s *steps) until(limit time.Duration, what string, will func(chord.Output) bool) chord.Output {
	s.t.Helper()
	for end := s.now.Add(limit); ; {
		if i := slices.IndexFunc(s.out, will); i >= 0 {
			o := s.out[i]
			s.out = s.out[i+1:]
			return o
		}
		at := s.c.Deadline()
		if !at.After(s.now) {
			s.t.Fatalf("deadline %v not after %v", at, s.now)
		}
		if at.After(end) {
			s.t.Fatalf("no %s within %v", what, limit)
		}
		s.now = at
		s.step(chord.Tick{})
	}
}

func is[T chord.Output](o chord.Output) bool { _, ok := o.(T); return ok }

func start(t *testing.T) *steps {
	return &steps{t: t, c: New(node(50), rand.New(rand.NewPCG(1, 1)), t0), now: t0}
}

// attached brings a client to its peer.
func attached(t *testing.T, home byte) *steps {
	t.Helper()
	s := start(t)
	s.step(chord.Discovered{ID: node(10)})
	s.until(time.Second, "dial", is[chord.Bootstrap])
	s.step(chord.LinkUp{ID: node(10), Kind: chord.LinkBootstrap, Ours: true})
	s.until(time.Second, "probe", is[chord.Probe])
	s.step(chord.ProbeAnswered{Via: node(10), Owner: node(home)})
	s.until(time.Second, "attach", is[chord.Attach])
	s.step(chord.LinkUp{ID: node(home), Kind: chord.LinkAttached, Ours: true})
	return s
}

// "Establish a connection to the peer responsible for the client's Node-ID in the overlay." (RFC 6940 §4.2.1)
func TestFindsTheResponsiblePeer(t *testing.T) {
	s := start(t)
	s.step(chord.Discovered{ID: node(10)})
	if o := s.until(time.Second, "dial", is[chord.Bootstrap]).(chord.Bootstrap); o.ID != node(10) {
		t.Errorf("dials %v", o.ID)
	}
	s.step(chord.LinkUp{ID: node(10), Kind: chord.LinkBootstrap, Ours: true})
	if hop := s.c.NextHop(wire.ToNode(node(99))); hop.Local || hop.Via != node(10) {
		t.Errorf("next hop %+v", hop)
	}
	// To Resource-ID n+1: a Ping to a Node-ID would be dropped by the peer responsible (§6.1.1).
	if o := s.until(time.Second, "probe", is[chord.Probe]).(chord.Probe); o.Via != node(10) || o.Resource != ident.AsResource(node(51)) {
		t.Errorf("probes %+v", o)
	}
	s.step(chord.ProbeAnswered{Via: node(10), Owner: node(60)})
	if o := s.until(time.Second, "attach", is[chord.Attach]).(chord.Attach); o.ID != node(60) || !slices.Equal(o.Via, []wire.NodeID{node(10)}) {
		t.Errorf("attaches to %+v", o)
	}
	s.step(chord.LinkUp{ID: node(60), Kind: chord.LinkAttached, Ours: true})
	if o := s.until(time.Second, "goodbye to the others", is[chord.CloseLink]).(chord.CloseLink); o.ID != node(10) {
		t.Errorf("closes %+v", o)
	}
	if hop := s.c.NextHop(wire.ToNode(node(99))); hop.Via != node(60) {
		t.Errorf("next hop %+v", hop)
	}
	// It stays there as long as that is right, and asks nobody else.
	for range 5 {
		s.until(2*time.Minute, "look", is[chord.Probe])
		s.step(chord.ProbeAnswered{Via: node(60), Owner: node(60)})
	}
	for _, o := range s.out {
		switch o.(type) {
		case chord.Bootstrap, chord.Attach, chord.SendJoin, chord.SendUpdate:
			t.Errorf("wants %T", o)
		}
	}
}

// "Note that clients that choose this option need to process Update messages from the peer […] The client would then need
// to form a connection to the appropriate peer. Failure to do so will result in the client no longer receiving messages."
func TestUpdatesMoveAClient(t *testing.T) {
	for _, c := range []struct {
		name string
		in   chord.Input
		soon bool
	}{
		{"a predecessor before the client", chord.UpdateReceived{From: node(60), Update: wire.ChordUpdate{Predecessors: []wire.NodeID{node(40)}}}, false},
		{"one between the client and its peer", chord.UpdateReceived{From: node(60), Update: wire.ChordUpdate{Predecessors: []wire.NodeID{node(55)}}}, true},
		{"the same, of another peer", chord.UpdateReceived{From: node(70), Update: wire.ChordUpdate{Predecessors: []wire.NodeID{node(55)}}}, false},
	} {
		s := attached(t, 60)
		s.out = nil
		s.now = s.now.Add(time.Second)
		s.step(c.in)
		if got := slices.ContainsFunc(s.out, is[chord.Probe]); got != c.soon {
			t.Errorf("%s: looks again at once: %v", c.name, got)
		}
		if !c.soon {
			continue
		}
		s.step(chord.ProbeAnswered{Via: node(60), Owner: node(55)})
		if o := s.until(time.Second, "attach", is[chord.Attach]).(chord.Attach); o.ID != node(55) {
			t.Errorf("%s: attaches to %v", c.name, o.ID)
		}
		s.step(chord.LinkUp{ID: node(55), Kind: chord.LinkAttached, Ours: true})
		if o := s.until(time.Second, "goodbye", is[chord.CloseLink]).(chord.CloseLink); o.ID != node(60) || o.Kind != chord.LinkAttached {
			t.Errorf("%s: closes %+v", c.name, o)
		}
	}
}

// Whatever fails, it goes on, ever more slowly and never at once again.
func TestKeepsTrying(t *testing.T) {
	for name, fail := range map[string]func(*steps){
		"its peer is lost": func(s *steps) { s.step(chord.LinkDown{ID: node(60), Kind: chord.LinkAttached}) },
		"its peer leaves":  func(s *steps) { s.step(chord.LeaveReceived{From: node(60)}) },
		"its peer fails":   func(s *steps) { s.step(chord.PeerFailed{ID: node(60)}) },
	} {
		s := attached(t, 60)
		s.out = nil
		fail(s)
		s.until(time.Minute, name+": dial", is[chord.Bootstrap])
		last := s.now
		for i := range 10 {
			s.step(chord.BootstrapFailed{ID: node(10)})
			s.until(time.Minute, name+": another dial", is[chord.Bootstrap])
			if d := s.now.Sub(last); d < retryAfter/2 || i > 6 && d < 20*time.Second {
				t.Errorf("%s: dial %d after %v", name, i, d)
			}
			last = s.now
		}
	}
	s := start(t) // what never ends is given up
	s.step(chord.Discovered{ID: node(10)})
	s.until(time.Second, "dial", is[chord.Bootstrap])
	s.until(time.Minute, "another dial", is[chord.Bootstrap])
}

// A client has no part in the ring, whatever it is told.
func TestIsNoPeer(t *testing.T) {
	s := attached(t, 60)
	res := ident.AsResource(node(50))
	if s.c.Responsible(res) || s.c.ReplicaSet(res) != nil || s.c.Plausible(res, node(60)) || s.c.ResponsibleSet() != 0 || s.c.NextHop(wire.ToResource(res)).Local {
		t.Error("responsible for something")
	}
	s.out = nil
	s.step(chord.JoinReceived{From: node(70)})
	if o := s.until(0, "answer", is[chord.AnswerJoin]).(chord.AnswerJoin); o.Accepted {
		t.Error("admits a joining node")
	}
	s.step(chord.Shutdown{})
	if out := s.c.Step(s.now, chord.Discovered{ID: node(11)}); out != nil {
		t.Errorf("after shutdown wants %v", out)
	}
	many := start(t)
	for i := range byte(200) {
		many.step(chord.Discovered{ID: node(i + 1)})
	}
	if len(many.c.seen) != maxSeen {
		t.Errorf("%d discovered kept", len(many.c.seen))
	}
}
