package chord

import (
	"container/heap"
	"crypto/sha256"
	"fmt"
	"hash"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

// sim runs many States over a simulated network: an event heap, one source of randomness, and so
// the same course for the same seed. Requests travel hop by hop through NextHop of every State on
// the way, as they would through nodes.
type sim struct {
	t      testing.TB
	rand   *rand.Rand
	now    time.Time
	queue  queue
	seq    int
	nodes  map[wire.NodeID]*simNode
	ids    []wire.NodeID // ascending, living ones
	loss   float64       // of requests, each hop; links repeat, so it stands for broken hops
	delay  time.Duration // at most, one way
	island map[wire.NodeID]int
	digest hash.Hash // of the whole course; nil: not kept
	sent   map[string]int
	cfg    Config // of all States, but for Rand
	sight  int    // how many kits discovery shows to each, and to how many it is shown; 0: all
	ttl    int
	cost   cost
	always func() error // must hold after every event; nil: nothing more than check
}

// cost counts what maintenance would take on the wire: each message on each hop, in bytes as
// overlay/node encodes it with P-256 certificates (a Ping has 532), and the making of links.
type cost struct {
	messages int // requests and answers, on each hop
	bytes    int
	links    int
	linkUps  int // bytes of ICE and DTLS
	what     map[string]int
}

const (
	pingBytes   = 550
	attachBytes = 900
	updateBytes = 570
	answerBytes = 520
	linkBytes   = 4500 // ICE checks and a DTLS handshake with both certificates, both directions together
)

func (c *cost) add(what string, n, bytes int) {
	c.messages += n
	c.bytes += n * bytes
	if c.what == nil {
		c.what = map[string]int{}
	}
	c.what[what] += n * bytes
}

type simNode struct {
	id    wire.NodeID
	state *State
	life  int // to tell a restarted node from its former self
	boot  map[wire.NodeID]int
	ring  map[wire.NodeID]int
	// attaching marks own Attaches under way, for glare.
	attaching map[wire.NodeID]bool
	wake      int
	settled   int
}

type event struct {
	at  time.Time
	seq int
	do  func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func newSim(t testing.TB, seed uint64) *sim {
	return &sim{
		t: t, rand: rand.New(rand.NewPCG(seed, 0)), now: epoch,
		nodes: map[wire.NodeID]*simNode{}, delay: 20 * time.Millisecond,
		island: map[wire.NodeID]int{}, digest: sha256.New(), sent: map[string]int{}, ttl: 16,
	}
}

func (m *sim) after(d time.Duration, do func()) {
	m.seq++
	heap.Push(&m.queue, event{m.now.Add(d), m.seq, do})
}

func (m *sim) latency() time.Duration {
	return time.Millisecond + time.Duration(m.rand.Int64N(int64(m.delay)))
}

func (m *sim) lost() bool { return m.rand.Float64() < m.loss }

func (m *sim) randomID() wire.NodeID {
	var b [16]byte
	for i := range b {
		b[i] = byte(m.rand.Uint32())
	}
	id, _ := wire.NodeIDFrom(b[:])
	return id
}

// start powers a kit up; discovery shows it to everyone on its island a little later, each by
// itself.
func (m *sim) start(id wire.NodeID) *simNode {
	life := 1
	if old := m.nodes[id]; old != nil {
		life = old.life + 1
	}
	n := &simNode{
		id: id, life: life, boot: map[wire.NodeID]int{}, ring: map[wire.NodeID]int{}, attaching: map[wire.NodeID]bool{},
	}
	cfg := m.cfg
	cfg.Rand = rand.New(rand.NewPCG(m.rand.Uint64(), 1))
	n.state = New(cfg, id, m.now)
	m.nodes[id] = n
	i, _ := slices.BinarySearchFunc(m.ids, id, wire.NodeID.Compare)
	m.ids = slices.Insert(m.ids, i, id)
	m.discover(id)
	m.arm(n)
	return n
}

// discover lets id and everybody it can reach find each other.
func (m *sim) discover(id wire.NodeID) {
	var near, seen []wire.NodeID
	for _, o := range m.ids {
		if o != id && m.island[o] == m.island[id] {
			near = append(near, o)
		}
	}
	if seen = near; m.sight > 0 && len(near) > m.sight {
		seen = nil
		for range m.sight {
			seen = append(seen, near[m.rand.IntN(len(near))])
		}
	}
	for _, o := range seen {
		for _, p := range [][2]wire.NodeID{{id, o}, {o, id}} {
			n := m.nodes[p[0]]
			m.after(time.Duration(m.rand.Int64N(int64(500*time.Millisecond))), func() {
				if m.reach(p[0], p[1]) {
					m.step(n, Discovered{ID: p[1]})
				}
			})
		}
	}
}

// kill takes a kit away without a word. The others' links time out one by one.
func (m *sim) kill(id wire.NodeID) {
	n := m.nodes[id]
	n.life++
	m.ids = slices.DeleteFunc(m.ids, func(o wire.NodeID) bool { return o == id })
	for _, o := range m.ids {
		m.cut(o, id)
		p := m.nodes[o]
		m.after(time.Duration(m.rand.Int64N(int64(20*time.Second))), func() {
			if !m.alive(id) {
				m.step(p, Forgotten{ID: id})
			}
		})
	}
}

// cut makes o's links to id time out.
func (m *sim) cut(o, id wire.NodeID) {
	n := m.nodes[o]
	for _, kind := range []LinkKind{LinkBootstrap, LinkAttached} {
		links := n.links(kind)
		if gen, ok := links[id]; ok {
			m.after(7*time.Second+time.Duration(m.rand.Int64N(int64(4*time.Second))), func() {
				if links[id] == gen && !m.reach(o, id) {
					delete(links, id)
					m.step(n, LinkDown{ID: id, Kind: kind})
				}
			})
		}
	}
}

// partition puts ids on an island of their own, and heal puts all together again.
func (m *sim) partition(ids []wire.NodeID, island int) {
	for _, id := range ids {
		m.island[id] = island
	}
	for _, a := range m.ids {
		for _, b := range m.ids {
			if a != b && !m.reach(a, b) {
				m.cut(a, b)
				n := m.nodes[a]
				m.after(time.Duration(m.rand.Int64N(int64(30*time.Second))), func() {
					if !m.reach(a, b) {
						m.step(n, Forgotten{ID: b})
					}
				})
			}
		}
	}
}

func (m *sim) heal() {
	clear(m.island)
	for _, id := range m.ids {
		m.discover(id)
	}
}

func (m *sim) alive(id wire.NodeID) bool {
	_, ok := slices.BinarySearchFunc(m.ids, id, wire.NodeID.Compare)
	return ok
}

func (m *sim) reach(a, b wire.NodeID) bool {
	return m.alive(a) && m.alive(b) && m.island[a] == m.island[b]
}

func (n *simNode) links(kind LinkKind) map[wire.NodeID]int {
	if kind == LinkBootstrap {
		return n.boot
	}
	return n.ring
}

// step hands an event to a living node and carries out what it says.
func (m *sim) step(n *simNode, in Input) {
	if m.nodes[n.id] != n || !m.alive(n.id) {
		return
	}
	out := n.state.Step(m.now, in)
	if m.digest != nil {
		fmt.Fprintf(m.digest, "%v %v %T%+v\n", m.now.Sub(epoch), n.id, in, in)
	}
	for _, o := range out {
		if m.digest != nil {
			fmt.Fprintf(m.digest, "  %T%+v\n", o, o)
			m.sent[fmt.Sprintf("%T", o)]++
		}
		m.carry(n, o)
	}
	m.check(n)
	m.arm(n)
	if m.always != nil {
		if err := m.always(); err != nil {
			m.t.Fatalf("%v after %T%+v at %v: %v", m.now.Sub(epoch), in, in, n.id, err)
		}
	}
}

func (m *sim) arm(n *simNode) {
	n.wake++
	wake := n.wake
	d := n.state.Deadline()
	if !d.After(m.now) {
		m.t.Fatalf("deadline %v is not after %v", d, m.now)
	}
	m.after(d.Sub(m.now), func() {
		if n.wake == wake {
			m.step(n, Tick{})
		}
	})
}

// carry does one output.
func (m *sim) carry(n *simNode, o Output) {
	switch o := o.(type) {
	case Bootstrap:
		m.after(2*m.latency(), func() {
			if !m.reach(n.id, o.ID) || m.lost() {
				m.after(time.Second, func() { m.step(n, BootstrapFailed(o)) })
				return
			}
			m.connect(n, m.nodes[o.ID], LinkBootstrap, false)
		})
	case Probe:
		d := []wire.Destination{wire.ToNode(o.Via), wire.ToResource(o.Resource)}
		m.send("probe", n.id, d, func(at wire.NodeID) { m.step(n, ProbeAnswered{Via: o.Via, Owner: at}) },
			func() { m.step(n, ProbeFailed{Via: o.Via}) })
	case Search:
		m.send("search", n.id, []wire.Destination{wire.ToResource(o.Resource)},
			func(at wire.NodeID) { m.step(n, SearchAnswered{Resource: o.Resource, Owner: at}) },
			func() { m.step(n, SearchFailed(o)) })
	case ProbeInfo:
		m.cost.add("probe info", 2, pingBytes)
		m.over(n, o.To, func(to *simNode) {
			m.step(to, ProbeInfoReceived{From: n.id, Tuning: o.Tuning})
			d, ok := to.state.SelfTuning()
			m.over(to, n.id, func(n *simNode) {
				m.step(n, ProbeInfoAnswered{From: to.id, Uptime: uptime(to.state.Uptime()), HasUptime: true, Tuning: d, HasTuning: ok})
			})
		})
	case Attach:
		m.attach(n, o)
	case SendUpdate:
		u := o.Update
		m.cost.add("update", 1, updateBytes+16*(len(u.Predecessors)+len(u.Successors)+len(u.Fingers)))
		m.cost.add("update", 1, answerBytes)
		m.over(n, o.To, func(to *simNode) { m.step(to, UpdateReceived{From: n.id, Update: u}) })
	case SendJoin:
		m.cost.add("join", 2, answerBytes)
		m.over(n, o.To, func(to *simNode) { m.step(to, JoinReceived{From: n.id}) })
	case AnswerJoin:
		m.over(n, o.To, func(to *simNode) {
			if o.Accepted {
				m.step(to, JoinAnswered{From: n.id})
			} else {
				m.step(to, JoinFailed{From: n.id})
			}
		})
	case SendLeave:
		m.cost.add("leave", 2, answerBytes)
		m.over(n, o.To, func(to *simNode) { m.step(to, LeaveReceived{From: n.id}) })
	case CloseLink:
		links := n.links(o.Kind)
		if _, ok := links[o.ID]; !ok {
			return
		}
		delete(links, o.ID)
		if p := m.nodes[o.ID]; p != nil {
			gen := p.links(o.Kind)[n.id]
			m.after(m.latency(), func() {
				if g, ok := p.links(o.Kind)[n.id]; ok && g == gen {
					delete(p.links(o.Kind), n.id)
					m.step(p, LinkDown{ID: n.id, Kind: o.Kind, Closed: true})
				}
			})
		}
	case Settled:
		n.settled++
	}
}

// over delivers something over the attached link. What is lost is sent again, as node does: up to five
// times, every three seconds (RFC 6940 §6.2.1).
func (m *sim) over(n *simNode, to wire.NodeID, deliver func(*simNode)) {
	gen, ok := n.ring[to]
	if !ok {
		m.t.Errorf("%v sends over a link to %v that is not there", n.id, to)
		return
	}
	wait := m.latency()
	for range 5 {
		if !m.lost() {
			m.after(wait, func() {
				if p := m.nodes[to]; m.reach(n.id, to) && p.ring[n.id] != 0 && n.ring[to] == gen {
					deliver(p)
				}
			})
			return
		}
		wait += 3 * time.Second
	}
}

func (m *sim) connect(a, b *simNode, kind LinkKind, sendUpdate bool) {
	m.seq++
	m.cost.links++
	m.cost.linkUps += linkBytes
	a.links(kind)[b.id] = m.seq
	b.links(kind)[a.id] = m.seq
	m.step(b, LinkUp{ID: a.id, Kind: kind, SendUpdate: sendUpdate})
	m.step(a, LinkUp{ID: b.id, Kind: kind, Ours: true})
}

// attach sends an AttachReq and on its arrival makes the link, or settles glare.
func (m *sim) attach(n *simNode, o Attach) {
	n.attaching[o.ID] = true
	end := func(in Input) {
		delete(n.attaching, o.ID)
		m.step(n, in)
	}
	var d []wire.Destination
	for _, v := range o.Via {
		d = append(d, wire.ToNode(v))
	}
	m.send("attach", n.id, append(d, wire.ToNode(o.ID)), func(at wire.NodeID) {
		p := m.nodes[at]
		// Glare: "smaller Node-ID yields, larger answers Error_In_Progress".
		if p.attaching[n.id] && at.Compare(n.id) > 0 {
			end(AttachFailed{ID: o.ID, InProgress: true})
			return
		}
		m.after(4*m.latency(), func() { // ICE and DTLS
			if !m.reach(n.id, at) || m.nodes[n.id] != n || m.nodes[at] != p {
				end(AttachFailed{ID: o.ID})
				return
			}
			delete(n.attaching, o.ID)
			m.connect(n, p, LinkAttached, o.SendUpdate)
		})
	}, func() { end(AttachFailed{ID: o.ID}) })
}

// send routes a request along its destination list; its answer comes back, or after the maximum
// request lifetime fail is called.
func (m *sim) send(what string, from wire.NodeID, dest []wire.Destination, answer func(wire.NodeID), fail func()) {
	done := false
	size := pingBytes
	if what == "attach" {
		size = attachBytes
	}
	m.after(15*time.Second, func() {
		if !done {
			done = true
			fail()
		}
	})
	var hop func(at wire.NodeID, dest []wire.Destination, ttl int)
	hop = func(at wire.NodeID, dest []wire.Destination, ttl int) {
		n := m.nodes[at]
		for len(dest) > 1 && dest[0].Type == wire.DestNode && dest[0].Node == at {
			dest = dest[1:]
		}
		h := n.state.NextHop(dest[0])
		if h.Local {
			if len(dest) == 1 && !done {
				m.cost.add(what, m.ttl-ttl, size)
				m.after(2*m.latency(), func() {
					if !done {
						done = true
						answer(at)
					}
				})
			}
			return
		}
		_, boot := n.boot[h.Via]
		_, ring := n.ring[h.Via]
		if h.Via.IsZero() || ttl == 0 || m.lost() {
			return
		}
		if !boot && !ring {
			m.t.Errorf("%v routes to %v, which it has no link to", at, h.Via)
			return
		}
		m.cost.add(what, 1, size)
		m.after(m.latency(), func() {
			if m.reach(at, h.Via) {
				hop(h.Via, dest, ttl-1)
			}
		})
	}
	// "If a response has not been received when the timer fires, the request MUST be retransmitted with the
	// same transaction identifier", up to five sends in all (RFC 6940 §6.2.1).
	for i := range 5 {
		m.after(time.Duration(i)*3*time.Second, func() {
			if !done && m.alive(from) {
				hop(from, dest, m.ttl)
			}
		})
	}
}

// check is what must hold at any time at one node.
func (m *sim) check(n *simNode) {
	s := n.state
	if slices.Contains(s.pred, n.id) || slices.Contains(s.succ, n.id) {
		m.t.Fatalf("%v is its own neighbour", n.id)
	}
	for _, id := range s.members {
		c := s.contacts.get(id)
		if !c.ring.up || !c.ring.ready {
			m.t.Fatalf("%v routes through %v, which is not ready", n.id, id)
		}
	}
	if len(s.contacts) > s.cfg.MaxContacts || len(s.search.under) > maxAttaches {
		m.t.Fatalf("%v: %d contacts, %d Attaches", n.id, len(s.contacts), len(s.search.under))
	}
}

// run lets d pass.
func (m *sim) run(d time.Duration) {
	end := m.now.Add(d)
	for len(m.queue) > 0 && !m.queue[0].at.After(end) {
		e := heap.Pop(&m.queue).(event)
		m.now = e.at
		e.do()
	}
	m.now = end
}

// until runs until ok or limit, and returns how long that took.
func (m *sim) until(limit time.Duration, ok func() error) (time.Duration, error) {
	begin := m.now
	for {
		err := ok()
		if err == nil || m.now.Sub(begin) >= limit {
			return m.now.Sub(begin), err
		}
		m.run(50 * time.Millisecond * time.Duration(1+len(m.ids)/64))
	}
}

// oneRing is the aim: at every node of an island the neighbours are the nearest of all in Node-ID
// order, and up to 16 everyone is attached to everyone.
func (m *sim) oneRing() error {
	groups := map[int][]wire.NodeID{}
	for _, id := range m.ids {
		groups[m.island[id]] = append(groups[m.island[id]], id)
	}
	for _, group := range groups {
		n := len(group)
		for at, id := range group {
			s := m.nodes[id].state
			// "at least the three peers before and after" (RFC 6940 §10.1); with self-tuning, what lies
			// farther is told so rarely that it lags.
			var pred, succ []wire.NodeID
			for i := 1; i <= 3 && i < n; i++ {
				pred = append(pred, group[(at-i+n)%n])
				succ = append(succ, group[(at+i)%n])
			}
			if !slices.Equal(s.pred[:min(len(s.pred), 3)], pred) || !slices.Equal(s.succ[:min(len(s.succ), 3)], succ) {
				return fmt.Errorf("%v: neighbours %v %v, want %v %v", id, s.pred, s.succ, pred, succ)
			}
			if n <= s.cfg.FullMesh && !slices.Equal(s.withSelf(), group) {
				return fmt.Errorf("%v: connected to %v, want %v", id, s.withSelf(), group)
			}
			if n > 1 && s.phase != Member {
				return fmt.Errorf("%v: %v, want %v", id, s.phase, Member)
			}
		}
	}
	return nil
}
