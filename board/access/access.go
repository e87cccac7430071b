// Package access makes the handsets' network: an access point on one of the board's radios, and the bridge that it and
// any wired handset port are part of, which has the kit's address. What the radio can do becomes a Plan, the plan a
// configuration of hostapd, and hostapd runs as a child process that is watched and ended with its context.
//
// It hands out no addresses, answers no names and filters no packets, and knows neither missions nor kits: the caller
// gives it names, passphrase and the element that goes into the beacons. Pure parts (Radio, MakePlan, ChooseChannel,
// Plan.Hostapd, Element, the parsers of what hostapd says) may be used anywhere. An AP is run by the goroutine that
// calls Run; Set, Follow and Snapshot may be called from any other.
package access
