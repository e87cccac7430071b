package chord

import (
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

// ringOf is a State in the middle of a ring whose members are all connected to it.
func ringOf(t testing.TB, self wire.NodeID, others []wire.NodeID) *State {
	t.Helper()
	s := New(Config{Rand: rand.New(rand.NewPCG(1, 2))}, self, epoch)
	for _, id := range others {
		s.Step(epoch, LinkUp{ID: id, Kind: LinkAttached})
		s.Step(epoch, UpdateReceived{From: id, Update: wire.ChordUpdate{Type: wire.UpdatePeerReady}})
	}
	return s
}

func bigID(id wire.NodeID) *big.Int { return new(big.Int).SetBytes(id.Bytes()) }

// clockwise is (b - a) mod 2^128, by long arithmetic.
func clockwise(a, b wire.NodeID) *big.Int {
	d := new(big.Int).Sub(bigID(b), bigID(a))
	return d.Mod(d, new(big.Int).Lsh(big.NewInt(1), 128))
}

// TestNextHopAgainstText compares with RFC 6940 §10.3, word for word and slowly: "it MUST route the
// request to the peer in the Routing Table that has the largest Node-ID that is in the interval between
// the peer and k. If no such node is found, the peer finds the smallest Node-ID that is greater than
// k and MUST route the message to that node."
func TestNextHopAgainstText(t *testing.T) {
	m := newSim(t, 7)
	for range 1000 {
		self := m.randomID()
		var others []wire.NodeID
		// Few, or so many that most are fingers, some of them close together.
		for range m.rand.IntN([]int{8, 60}[m.rand.IntN(2)]) {
			id := m.randomID()
			if m.rand.IntN(3) == 0 {
				id, _ = wire.NodeIDFrom([]byte(pointIn(m.rand, self, 1+m.rand.IntN(40))))
			}
			others = append(others, id)
		}
		s := ringOf(t, self, others)
		for i, id := range s.fingers.ids {
			if !id.IsZero() && (!slices.Contains(others, id) || bucket(self, id) != i+1) {
				t.Fatalf("finger %d of %v: %v", i+1, self, id)
			}
		}
		k := m.randomID()
		if len(others) > 0 && m.rand.IntN(4) == 0 {
			k = others[0]
		}
		if m.rand.IntN(4) == 0 {
			k, _ = wire.NodeIDFrom([]byte(pointIn(m.rand, self, 1+m.rand.IntN(45))))
		}
		if m.rand.IntN(8) == 0 {
			k = self
		}
		var want Hop
		// Responsible: p < k <= x, that is nobody lies in [k, self).
		want.Local = true
		for _, o := range others {
			if clockwise(k, o).Cmp(clockwise(k, self)) < 0 {
				want.Local = false
			}
		}
		if !want.Local {
			for _, o := range others {
				if clockwise(self, o).Cmp(clockwise(self, k)) <= 0 && (want.Via.IsZero() || clockwise(self, o).Cmp(clockwise(self, want.Via)) > 0) {
					want.Via = o
				}
			}
			if want.Via.IsZero() {
				for _, o := range others {
					if want.Via.IsZero() || clockwise(k, o).Cmp(clockwise(k, want.Via)) < 0 {
						want.Via = o
					}
				}
			}
		}
		res := wire.ResourceID(k.Bytes())
		if got := s.NextHop(wire.ToResource(res)); got != want {
			t.Fatalf("%v with %v to %v: %+v, want %+v", self, others, k, got, want)
		}
		if s.Responsible(res) != want.Local {
			t.Fatalf("responsible for %v: %v", k, !want.Local)
		}
		// The same k as a Node-ID: not here and nobody connected has it, "silently dropped".
		if got := s.NextHop(wire.ToNode(k)); k != self && want.Local && got != (Hop{}) {
			t.Fatalf("to Node-ID %v: %+v", k, got)
		}
		set := s.ReplicaSet(res)
		ring := append([]wire.NodeID{self}, others...)
		slices.SortFunc(ring, func(a, b wire.NodeID) int { return clockwise(k, a).Cmp(clockwise(k, b)) })
		if !slices.Equal(set, ring[:min(3, len(ring))]) {
			t.Fatalf("replica set of %v: %v, want %v", k, set, ring[:min(3, len(ring))])
		}
		// "either in the known replica set for a given resource or … closer than some node in the replica set"
		sender := m.randomID()
		if len(others) > 0 && m.rand.IntN(2) == 0 {
			sender = others[len(others)-1]
		}
		closer := slices.Contains(set, sender) || clockwise(k, sender).Cmp(clockwise(k, set[len(set)-1])) < 0
		if got := s.Plausible(res, sender); got != (closer && slices.Contains(set, self)) {
			t.Fatalf("sender %v of %v with set %v: plausible %v", sender, k, set, got)
		}
	}
}

func TestNextHopOddDestinations(t *testing.T) {
	self := short(t, "40")
	s := ringOf(t, self, []wire.NodeID{short(t, "80")})
	long, err := wire.NodeIDFrom(make([]byte, 20))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		d    wire.Destination
		want Hop
	}{
		// "wildcard Node-ID … whoever receives it is responsible" (RFC 6940 §6.1.1)
		"wildcard":                {wire.ToNode(wire.WildcardNodeID(16)), Hop{Local: true}},
		"zero Node-ID":            {wire.ToNode(short(t, "00")), Hop{}},
		"no Node-ID":              {wire.ToNode(wire.NodeID{}), Hop{}},
		"Node-ID of 20 bytes":     {wire.ToNode(long), Hop{}},
		"empty Resource-ID":       {wire.ToResource(""), Hop{}},
		"Resource-ID of 20 bytes": {wire.ToResource(wire.ResourceID(make([]byte, 20))), Hop{}},
		"opaque":                  {wire.Destination{Type: wire.DestOpaque, Opaque: []byte{0x80, 1}}, Hop{}},
		"type 99":                 {wire.Destination{Type: 99}, Hop{}},
	} {
		if got := s.NextHop(tt.d); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
	if s.Responsible("short") || s.Plausible("short", short(t, "80")) || s.ReplicaSet("short") != nil {
		t.Error("a Resource-ID of five bytes has a place on the ring")
	}
	if s.Plausible(wire.ResourceID(self.Bytes()), self) {
		t.Error("a store from oneself is plausible")
	}
}

func TestNextCarries(t *testing.T) {
	for in, want := range map[string]string{
		"000000000000000000000000000000ff": "00000000000000000000000000000100",
		"ffffffffffffffffffffffffffffffff": "00000000000000000000000000000000",
		"00000000000000000000000000000001": "00000000000000000000000000000002",
	} {
		id, err := wire.ParseNodeID(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := next(id); got.String() != want {
			t.Errorf("%s + 1 = %v", in, got)
		}
	}
}

func TestResponsibleSet(t *testing.T) {
	if got := ringOf(t, short(t, "40"), nil).ResponsibleSet(); got != 1_000_000_000 {
		t.Errorf("alone: %d", got)
	}
	if got := ringOf(t, short(t, "40"), []wire.NodeID{short(t, "c0")}).ResponsibleSet(); got != 500_000_000 {
		t.Errorf("half: %d", got)
	}
}

// TestAnyInput throws events at a State in no sensible order, from a neighbour that lies: it must stay
// within its bounds, never route through who is not ready, and always know its next deadline.
func TestAnyInput(t *testing.T) {
	seeds(t, 2, func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 9))
		ids := []wire.NodeID{{}, wire.WildcardNodeID(16)}
		for i := range 40 {
			b := make([]byte, 16)
			b[0] = byte(i * 6)
			id, _ := wire.NodeIDFrom(b)
			ids = append(ids, id)
		}
		pick := func() wire.NodeID { return ids[r.IntN(len(ids))] }
		self := ids[20]
		cfg := Config{Rand: r, MaxPeers: 12, FullMesh: 8, MaxBoot: 4, MaxContacts: 30}
		s := New(cfg, self, epoch)
		now := epoch
		for step := range 1500 {
			now = now.Add(time.Duration(r.Int64N(int64(2 * time.Second))))
			kind := LinkKind(1 + r.IntN(2))
			var u wire.ChordUpdate
			u.Type = wire.ChordUpdateType(r.IntN(5))
			for range r.IntN(20) {
				u.Predecessors, u.Successors = append(u.Predecessors, pick()), append(u.Successors, pick())
			}
			in := []Input{
				Discovered{pick()}, Forgotten{pick()}, LinkUp{ID: pick(), Kind: kind, Ours: r.IntN(2) == 0, SendUpdate: r.IntN(2) == 0},
				LinkUp{ID: pick(), Kind: LinkAttached}, LinkDown{pick(), kind, r.IntN(2) == 0}, BootstrapFailed{pick()}, AttachFailed{pick(), r.IntN(2) == 0},
				ProbeAnswered{pick(), pick()}, ProbeFailed{pick()}, UpdateReceived{pick(), u}, UpdateReceived{pick(), u}, UpdateRequested{pick()},
				JoinReceived{pick()}, JoinAnswered{pick()}, JoinFailed{pick()}, LeaveReceived{From: pick(), Leave: wire.ChordLeave{Nodes: u.Successors}}, PeerFailed{pick()}, Tick{},
			}[r.IntN(18)]
			for _, o := range s.Step(now, in) {
				switch o := o.(type) {
				case Attach:
					if o.ID == self || o.ID.IsZero() || o.ID.IsWildcard() {
						t.Fatalf("Attach to %v", o.ID)
					}
				case SendUpdate:
					if slices.Contains(o.Update.Successors, self) || slices.Contains(o.Update.Predecessors, self) {
						t.Fatal("self in its own Update")
					}
				}
			}
			if !s.Deadline().After(now) {
				t.Fatalf("step %d, %T: Deadline %v after the past", step, in, s.Deadline().Sub(now))
			}
			ring, boot, dials := 0, 0, 0
			for _, c := range s.contacts {
				if c.ring.up {
					ring++
				}
				if c.boot.up {
					boot++
				}
				if c.dial.busy() {
					dials++
				}
			}
			if ring > 12 || boot > 4 || dials > maxDials || len(s.search.under) > maxAttaches || len(s.contacts) > s.cfg.MaxContacts {
				t.Fatalf("step %d: %d attached, %d bootstrap links, %d dials, %d Attaches, %d contacts", step, ring, boot, dials, len(s.search.under), len(s.contacts))
			}
			for _, id := range s.members {
				if c := s.contacts.get(id); c == nil || !c.ring.ready {
					t.Fatalf("step %d: %v is a member and not ready", step, id)
				}
			}
		}
	})
}

// mDNS names and Node-IDs in Updates cost nothing to make up: a table full of them keeps out no peer
// that comes with a link.
func TestTableFullOfNames(t *testing.T) {
	m := newSim(t, 3)
	s := New(Config{Rand: m.rand}, m.randomID(), epoch)
	for range 2000 {
		s.Step(epoch, Discovered{ID: m.randomID()})
	}
	liar := m.randomID()
	s.Step(epoch, LinkUp{ID: liar, Kind: LinkAttached})
	var u wire.ChordUpdate
	u.Type = wire.UpdateNeighbors
	for range 5000 {
		u.Successors = append(u.Successors, m.randomID())
	}
	s.Step(epoch, UpdateReceived{From: liar, Update: u})
	honest := m.randomID()
	s.Step(epoch, LinkUp{ID: honest, Kind: LinkAttached})
	s.Step(epoch, UpdateReceived{From: honest, Update: wire.ChordUpdate{Type: wire.UpdatePeerReady}})
	if sn := s.Snapshot(); !slices.Contains(sn.Members, honest) || len(sn.Peers) > 512 || sn.Stats.ContactsRefused == 0 || sn.Stats.IDsIgnored < 4900 {
		t.Errorf("%d peers, %+v", len(sn.Peers), sn.Stats)
	}
}

// Time that goes back changes nothing.
func TestClockGoesBack(t *testing.T) {
	s := ringOf(t, short(t, "40"), []wire.NodeID{short(t, "80")})
	s.Step(epoch.Add(time.Minute), Tick{})
	s.Step(epoch, Tick{})
	if d := s.Deadline(); !d.After(epoch.Add(time.Minute)) {
		t.Errorf("Deadline %v", d.Sub(epoch))
	}
	if s.Uptime() != time.Minute {
		t.Errorf("up %v", s.Uptime())
	}
}

func BenchmarkNextHop(b *testing.B) {
	m := newSim(b, 5)
	var others []wire.NodeID
	for range 15 {
		others = append(others, m.randomID())
	}
	s := ringOf(b, m.randomID(), others)
	d := wire.ToResource(wire.ResourceID(m.randomID().Bytes()))
	b.ReportAllocs()
	for b.Loop() {
		s.NextHop(d)
	}
}

func BenchmarkStepUpdate(b *testing.B) {
	m := newSim(b, 5)
	var others []wire.NodeID
	for range 15 {
		others = append(others, m.randomID())
	}
	s := ringOf(b, m.randomID(), others)
	in := UpdateReceived{From: others[0], Update: wire.ChordUpdate{Type: wire.UpdateNeighbors, Predecessors: others[1:4], Successors: others[4:7]}}
	b.ReportAllocs()
	for b.Loop() {
		s.Step(epoch, in)
	}
}
