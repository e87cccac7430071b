// Package pair is how two kits that were flashed without a mission become one: somebody presses the buttons of both
// within a minute, both blink the same code, and after a short press on each the one that is alone enrols at the other
// (RFC 6940 §11.3) over the link between them (docs/adr/0031).
//
// Machine decides: which kits were pressed, who enrols at whom, what is shown, when it ends. It has no socket and no
// clock. Meet and the frames below it are what the two say to each other in TLS; they authenticate nothing but by the
// code that both show, a short authentication string behind a commitment, which people compare. Pairer is the shell: it
// owns the sockets, which exist only while a pairing runs, and one goroutine that owns the Machine. What a kit has and
// keeps is behind Membership.
//
// It does not know what a mission is made of, how an overlay is joined, or what an LED is. Press, Tap and Status may be
// called from any goroutine.
package pair

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
	"unicode/utf8"
)

// Times of a pairing.
const (
	Window       = time.Minute      // from the press until the other kit is found
	compareTime  = time.Minute      // for the code to be compared and confirmed
	joinTime     = 45 * time.Second // for the enrolment
	showTime     = 10 * time.Second // the outcome is shown
	restartAfter = 3 * time.Second  // of showing that it went well, on the kit that joined
	stopTime     = 3 * time.Second  // a kit that saw too many says so
)

// Bounds.
const (
	maxSpoilt = 2  // meetings that were left early, in one pairing
	maxHeard  = 4  // sessions that are told apart in one pairing; two others end it
	maxName   = 64 // bytes
)

// ID names the session of one press on one kit: the SHA-256 of the public key that it made for it.
type ID [sha256.Size]byte

func (i ID) String() string { return hex.EncodeToString(i[:8]) }

// Facts are what a kit says of itself when it is pressed, and what is decided upon.
type Facts struct {
	Kit     string `json:"kit"`     // Node-ID in hex
	Number  int    `json:"number"`  // of the kit
	Name    string `json:"name"`    // of the kit, for people
	Overlay string `json:"overlay"` // of its mission
	Mission string `json:"mission"` // name of that, for people
	Founder string `json:"founder"` // which kit founded that, for people; "" if nobody knows
	Key     string `json:"key"`     // SHA-256 of its public key, in hex: its account where it enrols
	Alone   bool   `json:"alone"`   // it founded its mission, and nobody else is in it
	Admits  bool   `json:"admits"`  // it has the root key of its mission
	// Pressed is how long ago its button was, when it said this; a Pairer fills it in.
	Pressed time.Duration `json:"pressed"`
}

// check bounds what a stranger said.
func (f Facts) check() error {
	for _, s := range []string{f.Kit, f.Key} {
		if b, err := hex.DecodeString(s); err != nil || len(b) < 16 || len(b) > sha256.Size {
			return fmt.Errorf("%w: identity %.80q", errProtocol, s)
		}
	}
	for _, s := range []string{f.Name, f.Mission, f.Overlay, f.Founder} {
		if len(s) > 4*maxName || !utf8.ValidString(s) {
			return fmt.Errorf("%w: name of %d bytes", errProtocol, len(s))
		}
	}
	if f.Pressed < 0 || f.Pressed > 2*Window {
		return fmt.Errorf("%w: pressed %v ago", errProtocol, f.Pressed)
	}
	if f.Number < 0 || f.Number > 999 {
		return fmt.Errorf("%w: kit number %d", errProtocol, f.Number)
	}
	return nil
}

// Why tells how a pairing ended. The number is what the lights count out.
type Why int

// The ends of a pairing.
const (
	Paired   Why = iota
	Nobody       // no other kit was pressed within Window
	Crowd        // more than two kits were
	Foreign      // both are with other kits, in different missions
	Keyless      // neither is alone and can let the other in: the kit that founded the mission can, or who has its file
	Together     // both are in the same mission already
	Broken       // nobody confirmed the code, somebody ended it, or the other kit or the link failed
)

var whyTexts = [...]string{
	"", "no other kit was pressed within a minute", "more than two kits were pressed within a minute",
	"both kits are with others already, in different missions", "the kit of the mission that the other would join cannot let it in",
	"both kits are in one mission already", "it was not confirmed, or the other kit went away",
}

func (w Why) String() string {
	if w < 0 || int(w) >= len(whyTexts) {
		return fmt.Sprintf("end %d", int(w))
	}
	return whyTexts[w]
}

// Role is which of the two a kit is.
type Role int

// The roles.
const (
	None  Role = iota
	Host       // lets the other in
	Guest      // enrols at the other and takes over its mission
)

// Decide tells which of two kits lets the other in, or why neither does. Both kits decide alike from what they said of
// themselves. Of two that are alone and could, the one that was pressed first does, so that people can choose it.
func Decide(mine, theirs Facts) (Role, Why) {
	switch {
	case mine.Overlay == theirs.Overlay:
		return None, Together
	case !mine.Alone && !theirs.Alone:
		return None, Foreign
	case mine.Alone && theirs.Alone && mine.Admits && theirs.Admits:
		if c := cmp.Or(cmp.Compare(theirs.Pressed, mine.Pressed), cmp.Compare(mine.Kit, theirs.Kit)); c < 0 {
			return Host, Paired
		}
		return Guest, Paired
	case theirs.Alone && mine.Admits:
		return Host, Paired
	case mine.Alone && theirs.Admits:
		return Guest, Paired
	}
	return None, Keyless
}

var roleNames = [...]string{"none", "host", "guest"}

func (r Role) String() string {
	if r < 0 || int(r) >= len(roleNames) {
		return fmt.Sprintf("role %d", int(r))
	}
	return roleNames[r]
}

// Stage is where a pairing stands.
type Stage int

// The stages.
const (
	Idle      Stage = iota
	Searching       // for the other kit
	Comparing       // both show the code
	Joining         // both confirmed
	Ended           // the outcome is shown
)

var stageNames = [...]string{"idle", "searching", "comparing", "joining", "ended"}

func (s Stage) String() string {
	if s < 0 || int(s) >= len(stageNames) {
		return fmt.Sprintf("stage %d", int(s))
	}
	return stageNames[s]
}

// Status is what is to be shown of a pairing.
type Status struct {
	Stage     Stage
	Code      uint32 // while Comparing and Joining: of both kits, shown by what the board makes of it
	Confirmed bool   // here, while Comparing
	Self      Facts  // this kit, and
	Peer      Facts  // the other one, once they met
	Role      Role
	Why       Why // once Ended
}
