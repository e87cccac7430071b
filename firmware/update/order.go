package update

import "time"

// When the kits of a neighbourhood take turns.
const (
	claimFor   = 15 * time.Second // before a reboot, so that every neighbour has heard of it: three of its questions
	freshFor   = 20 * time.Second // how old an answer may be to say that a neighbour waits for its turn
	absentFor  = 12 * time.Minute // a neighbour that restarted counts as on trial so long: the 10 min of a trial and the boots
	orderLimit = 30 * time.Minute // after that a kit no longer waits for those before it, only for one on trial
)

// Neighbour is how far another kit's update is, as it said last.
type Neighbour struct {
	ID    string        // Node-ID
	State State         //
	Ready bool          // it waits for nothing but its turn
	Claim bool          // it takes its turn
	Age   time.Duration // since it said so
}

// turn tells whom a kit that is ready to restart waits for; "" is nobody. One kit of a neighbourhood restarts at a time,
// in the order of their Node-IDs, so that handsets find another kit meanwhile. A kit claims its turn for claimFor before
// it restarts; of two that claimed at once the one with the smaller Node-ID goes on.
func turn(self string, claimed bool, waited time.Duration, neighbours []Neighbour) string {
	for _, n := range neighbours {
		if n.Age < absentFor && (n.State == Trying || n.Claim && (!claimed || n.ID < self)) {
			return "waits until kit " + short(n.ID) + " is back from its own"
		}
	}
	if claimed || waited >= orderLimit {
		return ""
	}
	for _, n := range neighbours {
		if n.Ready && n.Age < freshFor && n.ID < self {
			return "waits until kit " + short(n.ID) + " had its turn"
		}
	}
	return ""
}

// short is enough of a Node-ID to tell kits apart.
func short(id string) string { return id[:min(len(id), 8)] }
