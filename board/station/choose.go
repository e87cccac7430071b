package station

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Times of the choice.
const (
	scanAlone       = 15 * time.Second // between scans while this kit is linked to no other
	scanLinked      = time.Minute      // while it is
	sharedFactor    = 2                // scanning takes the one radio from the handsets for a moment
	spread          = 3                // the part of a pause that chance may leave out is one in so many
	patience        = 75 * time.Second // for a kit that is to join this one, before this one joins it
	proveWithin     = 45 * time.Second // from the association until the overlay counts the other kit in
	lostWithin      = 20 * time.Second // without association, before another way is looked for
	cableFor        = 30 * time.Second // that the kit was met on a cable, before the station link is given up for it
	firstBackoff    = time.Minute      // after a join that came to nothing
	longestBackoff  = 30 * time.Minute
	maxRemembered   = 64 // access points of which a failure, kits of which the first sight is kept
	forgetSightings = 3 * time.Minute
	strongEnough    = -88 // dBm; below, voice is not carried
)

// Heard is an access point of a kit of this mission, as it says of itself.
type Heard struct {
	BSSID     string
	Node      string // Node-ID, hex: a claim
	Frequency int    // MHz
	Signal    int    // dBm
}

// World is what the choice depends on.
type World struct {
	Self   string   // Node-ID of this kit, hex, like the others
	Ring   []string // kits that the overlay counts, by whatever way
	Cable  []string // kits met on a cable now
	Guests []string // kits that are stations of this kit's own access point
	Shared bool     // the radio is that of the handsets
	Busy   bool     // calls run: what would disturb the handsets' radio waits
}

// input is what happened since the last step.
type input struct {
	World
	scanned bool // heard is the result of a new scan
	heard   []Heard
	linked  bool // the association is there
	ended   bool // the join came to an end by itself
	// chance is of [0, 1), anew in each step.
	chance float64
}

// output is what is to be done.
type output struct {
	scan  bool
	join  *Heard
	leave bool
	why   string // of leave, for the log
}

// chooser decides whom to join: pure.
//
// A kit joins one that the overlay does not reach yet. Of two kits that hear each other the one with the higher Node-ID
// joins the other; only where that one did not for a while, as it has no radio for it or does not hear, the lower one
// does. So two kits do not wait for each other, and if both joined each other after all, one of them leaves again. More
// than one link between two groups of kits is possible for a while and does no harm: nothing is bridged, and the overlay
// knows no loops.
type chooser struct {
	nextScan time.Time
	sighted  map[string]sighting // by Node-ID
	failed   map[string]failure  // by BSSID
	inRow    int                 // joins one after the other that came to nothing, whoever it was
	rest     time.Time           // of the handsets' radio, after several

	target   *Heard // joined, or being joined
	since    time.Time
	linkedAt time.Time // zero: not associated
	lostAt   time.Time // zero: associated, or not yet
	cabled   time.Time // since when the target is met on a cable; zero: it is not
	proved   bool      // the overlay counted the target in
}

type sighting struct{ first, last time.Time }

type failure struct {
	until time.Time
	times int
}

func newChooser() *chooser {
	return &chooser{sighted: map[string]sighting{}, failed: map[string]failure{}}
}

// step takes in what happened and says what to do now.
func (c *chooser) step(now time.Time, in input) output {
	if c.target != nil {
		return c.joined(now, in)
	}
	if in.scanned {
		c.remember(now, in.heard)
		if t, ok := c.choose(now, in); ok {
			c.target, c.since = &t, now
			c.linkedAt, c.lostAt, c.cabled, c.proved = time.Time{}, time.Time{}, time.Time{}, false
			return output{join: &t}
		}
	}
	if now.Before(c.nextScan) || in.Shared && in.Busy {
		return output{}
	}
	pause := scanAlone
	if len(in.Ring) > 1 {
		pause = scanLinked
	}
	if in.Shared {
		pause *= sharedFactor
	}
	// A kit whose one radio scans leaves its own channel and is not heard. Two that were switched on together must not scan
	// at the same moments for ever.
	pause -= time.Duration(in.chance * float64(pause/spread))
	c.nextScan = now.Add(pause)
	return output{scan: true}
}

// choose picks the strongest of those that may be joined.
func (c *chooser) choose(now time.Time, in input) (Heard, bool) {
	if in.Shared && (in.Busy || now.Before(c.rest)) {
		return Heard{}, false
	}
	may := slices.DeleteFunc(slices.Clone(in.heard), func(h Heard) bool {
		switch {
		case h.Node == in.Self || h.Node == "" || h.Signal < strongEnough:
			return true
		case slices.Contains(in.Ring, h.Node) || slices.Contains(in.Cable, h.Node) || slices.Contains(in.Guests, h.Node):
			return true
		case now.Before(c.failed[h.BSSID].until):
			return true
		}
		return h.Node > in.Self && now.Sub(c.sighted[h.Node].first) < patience
	})
	if len(may) == 0 {
		return Heard{}, false
	}
	return slices.MinFunc(may, func(a, b Heard) int {
		return cmp.Or(-cmp.Compare(a.Signal, b.Signal), cmp.Compare(a.Node, b.Node), cmp.Compare(a.BSSID, b.BSSID))
	}), true
}

// joined judges a join until it ends.
func (c *chooser) joined(now time.Time, in input) output {
	t := *c.target
	switch {
	case in.linked && c.linkedAt.IsZero():
		c.linkedAt, c.lostAt = now, time.Time{}
	case in.linked:
		c.lostAt = time.Time{}
	case c.lostAt.IsZero():
		c.lostAt = now
	}
	if slices.Contains(in.Ring, t.Node) {
		c.proved = true
	}
	if !slices.Contains(in.Cable, t.Node) {
		c.cabled = time.Time{}
	} else if c.cabled.IsZero() {
		c.cabled = now
	}
	switch {
	case in.ended:
		return c.end(now, true, "it ended")
	case !in.linked && now.Sub(c.lostAt) >= lostWithin:
		return c.end(now, !c.proved, "no association")
	case in.linked && !c.proved && now.Sub(c.linkedAt) >= proveWithin:
		// Whoever has the passphrase can send such beacons.
		return c.end(now, true, "the overlay does not know the kit behind it")
	case slices.Contains(in.Guests, t.Node) && in.Self < t.Node:
		return c.end(now, false, "that kit joined this one")
	case !c.cabled.IsZero() && now.Sub(c.cabled) >= cableFor:
		return c.end(now, false, "there is a cable")
	}
	return output{}
}

// end gives up the target; a failed one is not tried again for a while, which doubles.
func (c *chooser) end(now time.Time, failed bool, why string) output {
	if failed {
		if len(c.failed) >= maxRemembered {
			oldest := slices.MinFunc(slices.Collect(maps.Keys(c.failed)), func(a, b string) int {
				return cmp.Or(c.failed[a].until.Compare(c.failed[b].until), cmp.Compare(a, b))
			})
			delete(c.failed, oldest)
		}
		f := c.failed[c.target.BSSID]
		f.times++
		f.until = now.Add(min(firstBackoff<<min(f.times-1, 8), longestBackoff))
		c.failed[c.target.BSSID] = f
		// Each try moves the handsets' access point, and a stranger can have a new address and name for each.
		if c.inRow++; c.inRow > 1 {
			c.rest = now.Add(min(firstBackoff<<min(c.inRow-2, 8), longestBackoff))
		}
	} else {
		c.inRow, c.rest = 0, time.Time{}
		delete(c.failed, c.target.BSSID)
	}
	c.target, c.nextScan = nil, now
	return output{leave: true, why: why}
}

// remember notes since when each kit is heard.
func (c *chooser) remember(now time.Time, heard []Heard) {
	maps.DeleteFunc(c.sighted, func(_ string, s sighting) bool { return now.Sub(s.last) > forgetSightings })
	for _, h := range heard {
		s, ok := c.sighted[h.Node]
		if !ok {
			if len(c.sighted) >= maxRemembered {
				continue // a crowd of made-up kits: those that were there before are kept
			}
			s.first = now
		}
		s.last = now
		c.sighted[h.Node] = s
	}
}
