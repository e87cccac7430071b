package chord

import (
	"cmp"
	"math"
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// tuning is what CHORD-SELF-TUNING adds (RFC 7363): estimates of the size of the network and of how fast
// peers fail and join, and from them how often to stabilise and how many neighbours and fingers to keep.
type tuning struct {
	at         time.Time     // the stabilization timer
	every      time.Duration // Tstab
	neighbours int           // successors, and predecessors
	logN       int           // ⌈log2 N⌉
	failures   []time.Time   // history; the first entry is when the peer joined, until it is pushed out
	heard      []hearsay     // estimates of others in this interval
	own        wire.SelfTuningData
}

// hearsay is the estimate of another peer.
type hearsay struct {
	from wire.NodeID
	data wire.SelfTuningData
}

const (
	minStabilisation = 15 * time.Second // "a lower limit of 15 s is RECOMMENDED" (RFC 7363 §6.6)
	// RFC 7363 has no upper limit. This is what the interval is without self-tuning (RFC 6940 §10.7.4.1),
	// so that a ring nobody fails in notices a change at all.
	maxStabilisation = 10 * time.Minute
	perDay           = 24 * 60 * 60 // rates are "expressed as joins or failures per 24 hours"
)

// Tuning is what self-tuning has arrived at.
type Tuning struct {
	Own        wire.SelfTuningData // this peer's estimates, as it tells others
	Interval   time.Duration       // Tstab
	Neighbours int                 // successors, and predecessors
	Fingers    int                 // entries of the Finger Table
}

// Tuning returns the state of self-tuning; ok is false without it.
func (s *State) Tuning() (t Tuning, ok bool) {
	return Tuning{Own: s.tuning.own, Interval: s.tuning.every, Neighbours: s.tuning.neighbours, Fingers: len(s.fingers.ids)}, s.cfg.SelfTuning
}

// SelfTuning is what the self_tuning_data extension of a ProbeAns says: "The latest network size
// estimate calculated by the sender" and the rates likewise (RFC 7363 §6.5). ok is false if this is not
// the topology plug-in CHORD-SELF-TUNING.
func (s *State) SelfTuning() (d wire.SelfTuningData, ok bool) {
	return s.tuning.own, s.cfg.SelfTuning
}

func (s *State) startTuning() {
	if !s.cfg.SelfTuning {
		return
	}
	s.tuning = tuning{
		neighbours: s.cfg.Neighbours, logN: 1, every: minStabilisation,
		at: s.now.Add(s.jitter(minStabilisation)), failures: []time.Time{s.now},
	}
	s.tuning.own = wire.SelfTuningData{NetworkSize: 1}
}

// table walks the unique peers of the Routing Table: neighbours and fingers.
func (s *State) table(do func(*contact)) {
	for _, c := range s.contacts {
		if c.member() && (s.isNeighbour(c.id) || s.isFinger(c.id)) {
			do(c)
		}
	}
}

// noteFailure adds to the failure history, of which so many are kept as a quarter of the Routing Table
// has entries (RFC 7363 §6.3), after the one they are counted from.
func (s *State) noteFailure() {
	if !s.cfg.SelfTuning {
		return
	}
	m := 0
	s.table(func(*contact) { m++ })
	t := &s.tuning
	t.failures = append(t.failures, s.now)
	if n := len(t.failures) - 1 - max((m+3)/4, 1); n > 0 {
		t.failures = slices.Delete(t.failures, 0, n)
	}
}

// failureRate is U = k / (M·Tk), per peer and second. "If k is smaller than K, the estimate is computed
// as if there was a failure at the current time" (RFC 7363 §6.3); that is also done if none has been for
// longer than the history would have it, or an end of the failures would never be noticed.
func (s *State) failureRate() float64 {
	t := &s.tuning
	m := 0
	s.table(func(*contact) { m++ })
	if m == 0 {
		return 0
	}
	k := len(t.failures) - 1
	rate := func(k int, span time.Duration) float64 {
		return float64(k) / (float64(m) * max(span.Seconds(), 1))
	}
	asIf := rate(k+1, s.now.Sub(t.failures[0]))
	if k < max((m+3)/4, 1) {
		return asIf
	}
	return min(asIf, rate(k, t.failures[k].Sub(t.failures[0])))
}

// joinRate is L = N / Ages[⌊rsize/2⌋] (RFC 7363 §6.4), per second; 0 while no age is known.
func (s *State) joinRate(n float64) float64 {
	var ages []float64
	s.table(func(c *contact) {
		if !c.ring.born.IsZero() {
			ages = append(ages, s.now.Sub(c.ring.born).Seconds())
		}
	})
	if len(ages) == 0 {
		return 0
	}
	slices.Sort(ages)
	return n / max(ages[len(ages)/2], 1)
}

// heard takes an estimate that came in a Probe or its answer, one of each attached peer in an interval:
// "it should be noted that if an attacker is able to impersonate a high number of other peers … it may be
// able to send a high enough number of false estimates" (RFC 7363 §8).
func (s *State) heard(from wire.NodeID, d wire.SelfTuningData) {
	c := s.contacts.get(from)
	if !s.cfg.SelfTuning || c == nil || !c.member() {
		return
	}
	t := &s.tuning
	if i := slices.IndexFunc(t.heard, func(h hearsay) bool { return h.from == from }); i >= 0 {
		t.heard[i].data = d
	} else if len(t.heard) < s.cfg.MaxPeers {
		t.heard = append(t.heard, hearsay{from, d})
	}
}

func (s *State) probeInfoAnswered(in ProbeInfoAnswered) {
	if c := s.contacts.get(in.From); c != nil && c.ring.up && in.HasUptime {
		c.ring.born = s.now.Add(-time.Duration(in.Uptime) * time.Second)
	}
	if in.HasTuning {
		s.heard(in.From, in.Tuning)
	}
}

// askUptime: "Immediately after a new peer has been added to the finger table, a Probe request is sent to
// the new peer to fetch its uptime" (RFC 7363 §5.3).
func (s *State) askUptime(id wire.NodeID) {
	s.emit(ProbeInfo{To: id, Tuning: s.tuning.own})
}

// ceiling of a figure as the extension carries it.
func ceiling(v float64) uint32 { return uint32(min(math.Ceil(max(v, 0)), math.MaxUint32)) }

// third is the 75th percentile: the value whose rank is nearest to three quarters of their number
// (RFC 7363 §2).
func third[T cmp.Ordered](values []T) T {
	slices.Sort(values)
	return values[max(int(math.Round(0.75*float64(len(values)))), 1)-1]
}

// stabilise is what happens when the stabilization timer fires: estimates, the sizes and the interval that
// follow from them, an Update to "its first successor and its first predecessor", a search for a finger,
// and Probes to share the estimates (RFC 7363 §5.2, §5.3, §6).
func (s *State) stabilise() {
	t := &s.tuning
	n := s.estimate()
	t.own = wire.SelfTuningData{
		NetworkSize: ceiling(n), JoinRate: ceiling(s.joinRate(n) * perDay), LeaveRate: ceiling(s.failureRate() * perDay),
	}
	sizes, joins, leaves := []uint32{t.own.NetworkSize}, []uint32{t.own.JoinRate}, []uint32{t.own.LeaveRate}
	for _, h := range t.heard {
		sizes, joins, leaves = append(sizes, h.data.NetworkSize), append(joins, h.data.JoinRate), append(leaves, h.data.LeaveRate)
	}
	t.heard = t.heard[:0]
	s.tune(float64(max(third(sizes), 1)), float64(third(joins))/perDay, float64(third(leaves))/perDay)
	if s.phase != Member {
		t.every = minStabilisation // there was nothing to estimate by
	}
	t.at = s.now.Add(s.jitter(t.every))

	s.retable(false)
	s.refit()
	if s.phase != Member {
		return
	}
	for _, id := range []wire.NodeID{first(s.succ), first(s.pred)} {
		if c := s.contacts.get(id); c != nil {
			s.sendUpdate(c, wire.UpdateNeighbors)
		}
	}
	if s.large {
		s.refreshFingers()
	}
	fingers := s.fingerList()
	s.cfg.Rand.Shuffle(len(fingers), func(i, j int) { fingers[i], fingers[j] = fingers[j], fingers[i] })
	for _, id := range fingers[:min(len(fingers), s.cfg.ProbePeers)] {
		s.emit(ProbeInfo{To: id, Tuning: t.own})
	}
}

// tune sets the parameters by the size n of the network and the rates at which peers join it (all
// together) and fail (each), per second: RFC 7363 §6.2 and §6.6.
func (s *State) tune(n, join, fail float64) {
	t := &s.tuning
	log := math.Log2(max(n, 2))
	t.logN = int(math.Ceil(log))
	// "An implementation can place a lower limit on the size": below eight peers ⌈log2 N⌉ is less than the
	// three of RFC 6940 §10.7. And there is a limit to what false estimates can make of it.
	t.neighbours = min(max(t.logN, s.cfg.Neighbours), max(s.cfg.MaxPeers/4, s.cfg.Neighbours))
	wait := maxStabilisation.Seconds()
	if fail > 0 {
		wait = min(wait, 1/(2*fail)/(log*log))
	}
	if join > 0 {
		wait = min(wait, n/(join*log*log))
	}
	t.every = max(time.Duration(wait*float64(time.Second)), minStabilisation)
}
