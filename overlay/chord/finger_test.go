package chord

import (
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

// TestFingerRanges checks bucket and pointIn against the text, by long arithmetic: "the i'th Finger Table
// entry is valid if it is in the range [ x+2^( 128-i ), x+2^( 128-(i-1) )-1 ]" (RFC 6940 §10.7.4.2), for
// Node-IDs of 16 and of 20 bytes.
func TestFingerRanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, length := range []int{16, 17, 20} {
		n := 8 * length
		random := func() wire.NodeID {
			b := make([]byte, length)
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			id, err := wire.NodeIDFrom(b)
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		ring := new(big.Int).Lsh(big.NewInt(1), uint(n))
		dist := func(a, b wire.NodeID) *big.Int {
			d := new(big.Int).Sub(bigID(b), bigID(a))
			return d.Mod(d, ring)
		}
		in := func(x, id wire.NodeID, i int) bool {
			d := dist(x, id)
			return d.Cmp(new(big.Int).Lsh(big.NewInt(1), uint(n-i))) >= 0 && d.Cmp(new(big.Int).Lsh(big.NewInt(1), uint(n-i+1))) < 0
		}
		for range 500 {
			x, id := random(), random()
			if i := bucket(x, id); !in(x, id, i) {
				t.Fatalf("%v from %v: not in the range of finger %d", id, x, i)
			}
			i := 1 + r.IntN(n)
			point, err := wire.NodeIDFrom([]byte(pointIn(r, x, i)))
			if err != nil || point.Len() != length || !in(x, point, i) {
				t.Fatalf("point %v for finger %d of %v: not in its range (%v)", point, i, x, err)
			}
		}
	}
}

// TestFingerSelection: "search through the Finger Table entries from i=1, and each time an invalid entry is
// encountered, send a Ping to replace that entry with probability 0.5" (RFC 6940 §10.7.4.2).
func TestFingerSelection(t *testing.T) {
	m := newSim(t, 4)
	picked := map[int]int{}
	const trials = 4000
	for range trials {
		self, _ := wire.NodeIDFrom(append([]byte{0, 0x10}, make([]byte, 14)...))
		s := New(Config{Rand: m.rand, FullMesh: 4}, self, epoch)
		for _, b := range []byte{1, 2, 3, 0xfd, 0xfe, 0xff} { // neighbours on both sides, no finger before the sixth
			id, _ := wire.NodeIDFrom(append([]byte{b}, make([]byte, 15)...))
			s.Step(epoch, LinkUp{ID: id, Kind: LinkAttached})
			s.Step(epoch, UpdateReceived{From: id, Update: wire.ChordUpdate{Type: wire.UpdatePeerReady}})
		}
		s.out = nil
		s.refreshFingers()
		for _, o := range s.out {
			if o, ok := o.(Search); ok {
				id, _ := wire.NodeIDFrom([]byte(o.Resource))
				picked[bucket(s.self, id)]++
			}
		}
	}
	// 0xfd… lies almost all around: in the range of finger 1, which is valid therefore.
	if picked[1] != 0 {
		t.Errorf("finger 1 is valid, yet searched for %d times", picked[1])
	}
	for i, share := range map[int]float64{2: 0.5, 3: 0.25, 4: 0.125, 5: 0.0625} {
		if got := float64(picked[i]) / trials; got < share-0.03 || got > share+0.03 {
			t.Errorf("entry %d searched for in %.3f of the cases, want %.3f", i, got, share)
		}
	}
	// From the farthest successor inwards everyone is known: "no additional traffic being generated when
	// maintaining a Finger Table larger than log(N) entries" (§10.7.4.3).
	for i := 7; i <= 16; i++ {
		if picked[i] != 0 {
			t.Errorf("entry %d is among the neighbours, yet searched for", i)
		}
	}
}

// TestFingerFailure: "all references to the failed peer MUST be removed from the Finger Table and replaced
// with the closest preceding peer from the Finger Table or Neighbor Table" (RFC 6940 §10.7.2).
func TestFingerFailure(t *testing.T) {
	self, _ := wire.NodeIDFrom(append([]byte{0, 1}, make([]byte, 14)...))
	s := ringOf(t, self, []wire.NodeID{short(t, "90"), short(t, "50"), short(t, "30"), short(t, "18"), short(t, "a0")})
	for i, want := range []string{"90", "50", "30", "18"} {
		if id, valid := s.Finger(i + 1); name(id) != want || !valid {
			t.Errorf("finger %d: %v, valid %v, want %s", i+1, id, valid, want)
		}
	}
	s.Step(epoch, LinkDown{ID: short(t, "50"), Kind: LinkAttached})
	if id, valid := s.Finger(2); name(id) != "30" || valid {
		t.Errorf("finger 2, failed: %v, valid %v, want 30 in its place", id, valid)
	}
	if slices.Contains(s.fingerList(), short(t, "50")) || s.isFinger(short(t, "50")) {
		t.Error("a failed peer is still in the Finger Table")
	}
	// Another peer of the same range takes over at once.
	s.Step(epoch, LinkDown{ID: short(t, "90"), Kind: LinkAttached})
	if id, valid := s.Finger(1); name(id) != "a0" || !valid {
		t.Errorf("finger 1, failed: %v, valid %v, want a0", id, valid)
	}
	if id, valid := s.Finger(0); !id.IsZero() || valid {
		t.Error("there is a finger 0")
	}
	if id, _ := s.Finger(len(s.fingers.ids) + 1); !id.IsZero() {
		t.Error("there is a finger beyond the table")
	}
}

// TestFingerTableSize: "ensure that the Finger Table is large enough to contain at least the final successor
// in the peer's Neighbor Table", at least 16, and up to 128 (RFC 6940 §10.7.4.3).
func TestFingerTableSize(t *testing.T) {
	at := func(i int) wire.NodeID { // a peer in the range of finger i of 0…01
		b := make([]byte, 16)
		b[15] = 1
		b[(i-1)/8] |= 0x80 >> ((i - 1) % 8)
		id, _ := wire.NodeIDFrom(b)
		return id
	}
	self, _ := wire.NodeIDFrom(append(make([]byte, 15), 1))
	for _, tt := range []struct{ near, want int }{{4, 16}, {40, 40}, {120, 120}} {
		s := ringOf(t, self, []wire.NodeID{at(tt.near), at(tt.near + 1), at(tt.near + 2), short(t, "80"), short(t, "90"), short(t, "a0")})
		if len(s.fingers.ids) != tt.want {
			t.Errorf("third successor in the range of finger %d: %d entries, want %d", tt.near, len(s.fingers.ids), tt.want)
		}
		if id, valid := s.Finger(tt.near); !valid || id != at(tt.near) {
			t.Errorf("finger %d: %v, valid %v", tt.near, id, valid)
		}
	}
}

// TestSearchIsPaced: "A peer SHOULD NOT send Ping requests looking for new finger table entries more often
// than the configuration element "chord-ping-interval"" (RFC 6940 §10.7.4.2), once it has been in the ring
// for a while.
func TestSearchIsPaced(t *testing.T) {
	m := newBigSim(t, 6)
	m.grow(40, 10)
	m.mustConverge(time.Minute, "grown")
	s := m.nodes[m.ids[0]].state
	now := m.now.Add(10 * time.Minute)
	var last time.Time
	searches := 0
	for range 2000 {
		for _, o := range s.Step(now, Tick{}) {
			switch o := o.(type) {
			case Search:
				searches++
				if gap := now.Sub(last); !last.IsZero() && gap < s.cfg.PingInterval*3/4 {
					t.Fatalf("searches %v apart", gap)
				}
				last = now
				s.Step(now, SearchFailed(o))
			case Probe:
				s.Step(now, ProbeFailed{Via: o.Via})
			}
		}
		s.fingers.ids[0] = wire.NodeID{} // something to look for, always
		now = s.Deadline()
	}
	if searches < 2 {
		t.Errorf("%d searches", searches)
	}
}

// liar is an attached member of the ring of s that says what it likes.
func liar(t *testing.T, s *State, m *sim, now time.Time, u wire.ChordUpdate) (wire.NodeID, []Output) {
	t.Helper()
	id := m.randomID()
	for bucket(s.self, id) != 1 || bucket(id, s.self) != 2 { // far from those whose places it wants
		id = m.randomID()
	}
	out := s.Step(now, LinkUp{ID: id, Kind: LinkAttached})
	return id, append(out, s.Step(now, UpdateReceived{From: id, Update: u})...)
}

// TestSybilLists: lists full of made-up Node-IDs next to the victim cost it a bounded number of Attaches and
// push out nobody: only a link, with a certificate, makes a neighbour.
func TestSybilLists(t *testing.T) {
	m := newBigSim(t, 8)
	m.grow(40, 10)
	m.mustConverge(time.Minute, "grown")
	m.run(time.Minute)
	victim := m.nodes[m.ids[7]]
	s := victim.state
	pred, succ := slices.Clone(s.pred), slices.Clone(s.succ)
	now := m.now
	attaches := 0
	var busy []wire.NodeID
	note := func(out []Output) {
		for _, o := range out {
			if a, ok := o.(Attach); ok {
				attaches++
				busy = append(busy, a.ID)
			}
		}
	}
	for round := range 50 {
		var u wire.ChordUpdate
		u.Type = wire.UpdateFull
		for i := range 400 {
			d := number{0, uint64(round*1000 + i + 1), 0}
			after, _ := wire.NodeIDFrom(toNumber(s.self).add(d).bytes(16))
			before, _ := wire.NodeIDFrom(toNumber(s.self).sub(d).bytes(16))
			u.Successors, u.Predecessors, u.Fingers = append(u.Successors, after), append(u.Predecessors, before), append(u.Fingers, m.randomID())
		}
		_, out := liar(t, s, m, now, u)
		note(out)
		now = now.Add(time.Second)
		note(s.Step(now, Tick{}))
		for len(busy) > 0 {
			id := busy[0]
			busy = busy[1:]
			note(s.Step(now, AttachFailed{ID: id}))
		}
	}
	for _, id := range slices.Concat(s.pred, s.succ) {
		if c := s.contacts.get(id); c == nil || !c.member() {
			t.Errorf("%v is a neighbour without a link", id)
		}
	}
	if !slices.Equal(s.pred, pred) || !slices.Equal(s.succ, succ) {
		t.Errorf("neighbours %v %v were pushed out by %v %v", pred, succ, s.pred, s.succ)
	}
	sn := s.Snapshot()
	if len(sn.Peers) > s.cfg.MaxContacts || len(s.fingers.hints) > maxHints || len(s.search.under) > maxAttaches {
		t.Errorf("%d peers, %d hints, %d Attaches", len(sn.Peers), len(s.fingers.hints), len(s.search.under))
	}
	t.Logf("50 liars with 400 names each: %d Attaches, %d names ignored", attaches, sn.Stats.IDsIgnored)
	if attaches > 50*2*maxListed {
		t.Errorf("%d Attaches for 50 lists", attaches)
	}
}

// TestSybilLinks: an attacker that does have links, hundreds of them, fills what MaxPeers leaves, and pushes
// out neither neighbours nor fingers nor those that have been there for longer.
func TestSybilLinks(t *testing.T) {
	m := newBigSim(t, 9)
	m.grow(60, 10)
	m.mustConverge(time.Minute, "grown")
	m.run(5 * time.Minute)
	s := m.nodes[m.ids[7]].state
	pred, succ, fingers := s.pred, s.succ, s.fingerList()
	far := s.succ[len(s.succ)-1]
	for i := range 300 {
		d := number{0, 0, 0}
		d[0] = uint64(i+1) << 40
		id, _ := wire.NodeIDFrom(toNumber(far).add(d).bytes(16)) // just behind the neighbours
		s.Step(m.now, LinkUp{ID: id, Kind: LinkAttached})
		s.Step(m.now, UpdateReceived{From: id, Update: wire.ChordUpdate{Type: wire.UpdatePeerReady}})
	}
	if !slices.Equal(s.pred, pred) || !slices.Equal(s.succ, succ) {
		t.Errorf("neighbours %v %v were pushed out by %v %v", pred, succ, s.pred, s.succ)
	}
	for _, id := range fingers {
		if !s.isFinger(id) {
			t.Errorf("finger %v was pushed out", id)
		}
	}
	if n := len(s.members); n > s.cfg.MaxPeers {
		t.Errorf("%d links", n)
	}
	// A true neighbour gets in all the same.
	d := number{0, 1, 0}
	id, _ := wire.NodeIDFrom(toNumber(s.self).add(d).bytes(16))
	s.Step(m.now, LinkUp{ID: id, Kind: LinkAttached})
	s.Step(m.now, UpdateReceived{From: id, Update: wire.ChordUpdate{Type: wire.UpdatePeerReady}})
	if s.succ[0] != id {
		t.Error("a table full of links keeps out a successor")
	}
}

// TestBigRingIsForgotten: a State in a big ring that sees everyone does not remember everyone.
func TestBigRingIsForgotten(t *testing.T) {
	m := newBigSim(t, 10)
	m.grow(60, 10)
	m.mustConverge(time.Minute, "grown")
	s := m.nodes[m.ids[0]].state
	for range 2000 {
		s.Step(m.now, Discovered{ID: m.randomID()})
	}
	seen := 0
	for _, c := range s.contacts {
		if c.discovered && !c.linked() {
			seen++
		}
	}
	if seen > maxSeen || seen < maxSeen/2 || len(s.contacts) > maxSeen+s.cfg.MaxPeers {
		t.Errorf("%d of 2000 remembered, %d contacts", seen, len(s.contacts))
	}
}

// TestPeriodicWaits: without reactive recovery a change of successors is told in each peer's turn; a change
// of the own range still goes to all: "When a peer discovers that its range of responsible IDs has changed,
// it MUST send an Update to all entries in its Connection Table" (RFC 6940 §10.7.3).
func TestPeriodicWaits(t *testing.T) {
	for _, periodic := range []bool{false, true} {
		s := New(Config{Rand: rand.New(rand.NewPCG(1, 2)), Periodic: periodic}, short(t, "40"), epoch)
		for _, b := range []string{"10", "20", "30", "60", "70", "80"} {
			s.Step(epoch, LinkUp{ID: short(t, b), Kind: LinkAttached})
			s.Step(epoch, UpdateReceived{From: short(t, b), Update: wire.ChordUpdate{Type: wire.UpdatePeerReady}})
		}
		now := epoch.Add(time.Second)
		s.Step(now, Tick{})
		updates := func(in Input) (n int) {
			now = now.Add(time.Second)
			for _, o := range s.Step(now, in) {
				if _, ok := o.(SendUpdate); ok {
					n++
				}
			}
			return n
		}
		if n := updates(LinkDown{ID: short(t, "60"), Kind: LinkAttached}); (n == 0) != periodic {
			t.Errorf("periodic %v: %d Updates when a successor is lost", periodic, n)
		}
		if n := updates(LinkDown{ID: short(t, "30"), Kind: LinkAttached}); n != 4 {
			t.Errorf("periodic %v: %d Updates when the range changes, want 4", periodic, n)
		}
	}
}

func BenchmarkStepIdle(b *testing.B) {
	s := sixty(b)
	b.ReportAllocs()
	for b.Loop() {
		s.Step(epoch.Add(time.Second), Tick{})
		s.Deadline()
	}
}

func BenchmarkStepUpdate60(b *testing.B) {
	s := sixty(b)
	in := UpdateReceived{From: s.members[3], Update: wire.ChordUpdate{Type: wire.UpdateNeighbors, Predecessors: s.members[0:3], Successors: s.members[4:7]}}
	b.ReportAllocs()
	for b.Loop() {
		s.Step(epoch.Add(time.Second), in)
		s.Deadline()
	}
}

// BenchmarkStepNeighbour60 has a neighbour come and go: the tables are made anew, twice.
func BenchmarkStepNeighbour60(b *testing.B) {
	s := sixty(b)
	id := s.succ[0]
	ready := wire.ChordUpdate{Type: wire.UpdatePeerReady}
	now := epoch
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Second)
		s.Step(now, LinkDown{ID: id, Kind: LinkAttached, Closed: true})
		s.Step(now, LinkUp{ID: id, Kind: LinkAttached})
		s.Step(now, UpdateReceived{From: id, Update: ready})
	}
	if s.succ[0] != id {
		b.Fatal("the neighbour did not come back")
	}
}

// sixty is a State with sixty members.
func sixty(b *testing.B) *State {
	m := newSim(b, 5)
	var others []wire.NodeID
	for range 60 {
		others = append(others, m.randomID())
	}
	return ringOf(b, m.randomID(), others)
}
