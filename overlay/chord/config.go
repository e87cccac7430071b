package chord

import (
	"math/rand/v2"
	"time"
)

// DefaultFullMesh is up to how many members, self included, everyone attaches to everyone.
const DefaultFullMesh = 16

// Config holds what may differ between overlays and in tests. Zero fields get the field kit's
// values; only Rand has none.
type Config struct {
	Rand *rand.Rand // jitter and random fingers; required

	FullMesh    int // up to so many members, self included, everyone attaches to everyone; DefaultFullMesh
	Neighbours  int // successors and predecessors kept, each; at least and by default 3 (RFC 6940 §10.7)
	MaxPeers    int // attached links; above, the least useful is closed; 64
	MaxBoot     int // bootstrap links; above, new ones are closed; 32
	MaxContacts int // Node-IDs remembered at all; above, new ones are ignored; 512

	// Periodic turns reactive recovery off: chord-reactive false (RFC 6940 §11.1). A change of
	// neighbours is then told at the next UpdateInterval, not at once.
	Periodic bool
	// SelfTuning makes this the topology plug-in CHORD-SELF-TUNING (RFC 7363), which is periodic and
	// finds UpdateInterval, PingInterval, Neighbours and the size of the Finger Table by itself.
	SelfTuning bool
	ProbePeers int // number-of-peers-to-probe (RFC 7363 §7); 4

	UpdateInterval    time.Duration // between Updates to a neighbour, ± 1/4 (chord-update-interval); 30 s
	PingInterval      time.Duration // between searches for fingers, and probes of the own ring, ± 1/4 (chord-ping-interval); 60 s
	DiscoveryInterval time.Duration // discovery is repeated after this to twice this; 15 s
	HoldDown          time.Duration // from the loss of a neighbour to Settled; 5 s
	Settle            time.Duration // from any other change of neighbours to Settled; 1 s
}

func (c Config) withDefaults() Config {
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	dur := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&c.FullMesh, DefaultFullMesh)
	def(&c.Neighbours, 3)
	c.Neighbours = max(c.Neighbours, 3)
	def(&c.MaxPeers, 64)
	c.MaxPeers = max(c.MaxPeers, 2*c.Neighbours+1, c.FullMesh)
	def(&c.MaxBoot, 32)
	def(&c.MaxContacts, 512)
	c.MaxContacts = max(c.MaxContacts, c.MaxPeers+c.MaxBoot)
	def(&c.ProbePeers, 4)
	dur(&c.UpdateInterval, 30*time.Second)
	dur(&c.PingInterval, 60*time.Second)
	dur(&c.DiscoveryInterval, 15*time.Second)
	dur(&c.HoldDown, 5*time.Second)
	dur(&c.Settle, time.Second)
	c.Periodic = c.Periodic || c.SelfTuning
	return c
}

// Times and limits that nobody has a reason to set.
const (
	maxDials     = 3  // Bootstrap outputs under way
	maxAttaches  = 8  // Attach outputs under way
	maxPerTeach  = 4  // of them, taught by one peer: one liar cannot take all places
	maxListed    = 8  // Node-IDs believed of each list of an Update
	maxSeen      = 64 // Node-IDs remembered for no more than having been discovered
	maxBequest   = 16 // Node-IDs remembered from the lists of neighbours that are gone
	minFingers   = 16 // entries of the Finger Table (RFC 6940 §10.7.4.3)
	dialTimeout  = 30 * time.Second
	probeTimeout = 20 * time.Second // the maximum request lifetime is 15 s (RFC 6940 §6.2.1)
	// An Attach takes a request lifetime, then ICE, then DTLS.
	attachTimeout = 45 * time.Second
	joinTimeout   = 10 * time.Second
	admitTimeout  = time.Second            // from the JoinAns to the Admitting Peer's Update
	coalesce      = 100 * time.Millisecond // between reactive Updates to the same peers
	yieldDelay    = 300 * time.Millisecond // the larger Node-ID lets the smaller one begin
	memberDelay   = 2 * time.Second        // members let newcomers begin, so that they can join
	lostDelay     = 5 * time.Second        // before a lost peer is tried again
	noticeDelay   = 5 * time.Second        // in which others find out, too, that a peer is gone
	leftDelay     = 30 * time.Second       // during which a peer that left is not attached to
	leaveLinger   = 5 * time.Second        // for the LeaveAns, before its links are closed
	bequestFor    = 30 * time.Second
	placedFor     = 30 * time.Second
	backoffMin    = time.Second
	backoffMax    = time.Minute
	sameRingFor   = 5 * time.Minute // before a peer known to be in this ring is dialled again
	bootLinger    = 10 * time.Second
	bootIdle      = time.Minute
	bootIdlePeer  = 5 * time.Minute  // for links that the other side ought to close
	spareFor      = time.Minute      // a link that nobody needs is kept so long
	fingerDelay   = 10 * time.Second // from joining to the first search for a finger
	checkSoon     = time.Second      // to the first probe of the own ring after it was torn
	teachAgain    = time.Second      // between Updates that teach the same peer; doubles
	// A ring is probed, and strangers are dialled, ever less often as long as all is well: up to so many
	// intervals apart in a ring too large for everyone to do it all the time.
	restMax = 16
)
