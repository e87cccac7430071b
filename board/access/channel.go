package access

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Heard is an access point in reach, as a scan told of it.
type Heard struct {
	BSSID     string
	SSID      string // as it says; up to 32 bytes of anything
	Frequency int    // MHz
	Signal    int    // dBm
	Element   *Element
}

// ErrChannel is a channel that the radio or the country's rules have no room for.
var ErrChannel = errors.New("Wi-Fi channel")

// lastWorldChannel is the last of the 2.4 GHz channels that may be used in every country.
const lastWorldChannel = 11

// quietChannels do not overlap, and every handset has them.
var quietChannels = []int{1, 6, 11}

// quieter is how many dB another channel must be better to move there: a choice that follows every whim of the air
// would have no two kits on one channel for long, and handsets with a habit scan fewer.
const quieter = 6

// Allowed lists the channels that an access point may start on. Where the country is not known ("") that is what all
// countries have: 1 to 11.
func Allowed(r Radio, country string) []Channel {
	var out []Channel
	for _, c := range r.Channels {
		if c.Usable() && (country != "" || c.Frequency < 3000 && c.Number <= lastWorldChannel) {
			out = append(out, c)
		}
	}
	return out
}

// Wish is what decides on a channel.
type Wish struct {
	Country  string // "" unknown
	Asked    int    // by the operator; 0 nothing
	Station  int    // channel of the radio's own station link, which it shares; 0 none
	Previous int    // channel of the access point before; 0 none
	Seed     uint32 // spreads kits that hear nothing over the channels; the same for one kit
}

// Choice is a channel, and why it is not the one that was asked for; "" it is.
type Choice struct {
	Channel
	Instead string
}

// ChooseChannel picks the channel of the access point: that of the radio's own station link, where it has one, since
// most radios are on one channel at a time; else the one that was asked for; else the quietest of 1, 6 and 11, but the
// previous one as long as no other is clearly better. What may not be used is passed over: handsets would rather have
// another channel than no Wi-Fi. ErrChannel where there is none.
func ChooseChannel(r Radio, w Wish, heard []Heard) (Choice, error) {
	var choice Choice
	allowed := Allowed(r, w.Country)
	find := func(number int) (Channel, bool) {
		at := slices.IndexFunc(allowed, func(c Channel) bool { return c.Number == number })
		if at < 0 {
			return Channel{}, false
		}
		return allowed[at], true
	}
	for _, fixed := range []struct {
		number int
		why    string
	}{{w.Station, "of the link to another kit"}, {w.Asked, "asked for"}} {
		if fixed.number == 0 {
			continue
		}
		if c, ok := find(fixed.number); ok {
			choice.Channel = c
			return choice, nil
		}
		where := "in country " + w.Country
		if w.Country == "" {
			where = "while the country is not known"
		}
		choice.Instead = fmt.Sprintf("channel %d, %s, may not be used %s by %s", fixed.number, fixed.why, where, r.Interface)
	}
	candidates := slices.DeleteFunc(slices.Clone(allowed), func(c Channel) bool {
		return !slices.Contains(quietChannels, c.Number)
	})
	if len(candidates) == 0 {
		candidates = allowed
	}
	if len(candidates) == 0 {
		return Choice{}, fmt.Errorf("%w: %s has none to start on", ErrChannel, r.Interface)
	}
	// A kit's own order, so that kits in a quiet place do not all take the first.
	first := int(w.Seed % uint32(len(candidates)))
	candidates = append(slices.Clone(candidates[first:]), candidates[:first]...)
	best := slices.MinFunc(candidates, func(a, b Channel) int {
		return cmp.Compare(noise(a, heard), noise(b, heard))
	})
	if at := slices.IndexFunc(candidates, func(c Channel) bool { return c.Number == w.Previous }); at >= 0 {
		if kept := candidates[at]; noise(kept, heard) < noise(best, heard)+quieter {
			choice.Channel = kept
			return choice, nil
		}
	}
	choice.Channel = best
	return choice, nil
}

// floor is a channel where nobody is heard, dBm.
const floor = -100.0

// noise is the power, in whole dBm, that the access points that were heard put on a channel. One of 20 MHz reaches four
// channels of 5 MHz to each side, the less the farther.
func noise(c Channel, heard []Heard) float64 {
	sum := math.Pow(10, floor/10)
	for _, h := range heard {
		distance := math.Abs(float64(h.Frequency-c.Frequency)) / 5
		if share := 1 - distance/5; share > 0 {
			sum += share * math.Pow(10, float64(min(max(h.Signal, -100), 0))/10)
		}
	}
	return math.Round(10 * math.Log10(sum))
}
