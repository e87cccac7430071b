package discovery

import "time"

// pace decides how long a station's cycles last. Each cycle is one query, which every kit on the link answers to
// everybody: if n kits query at a fixed interval, the link carries n² answers in it. So an interval grows with the
// kits that are there; the link then sees queries about as often whatever n is, and each kit hears the answers to
// all of them.
type pace struct {
	cfg  Config
	step int           // cycles since the start or since the link changed
	fast time.Duration // how long these were
}

// kicked begins anew: something changed.
func (p *pace) kicked() { p.step, p.fast = 0, 0 }

// next is the length of the next cycle. peers are the kits of our overlay seen on the link, suspect says that one of them did not
// answer, random is from 0 to 1.
func (p *pace) next(peers int, suspect bool, random float64) time.Duration {
	crowd := time.Duration(min(max(1, peers/2), maxCrowd))
	if suspect {
		return p.cfg.Short * crowd
	}
	if p.fast < p.cfg.FastWindow {
		// Soon, then less and less often. The first is not stretched: whoever was there before the change may not be now.
		length := p.cfg.Short << min(p.step, maxDoublings)
		if p.step > 0 {
			// Half to one and a half: kits that were powered up together must not go on asking together.
			length = length*crowd/2 + time.Duration(random*float64(length*crowd))
		}
		p.step++
		p.fast += length
		return length
	}
	return (p.cfg.LongMin + time.Duration(random*float64(p.cfg.LongMax-p.cfg.LongMin))) * crowd
}

const (
	maxDoublings = 4
	// maxCrowd bounds the stretching: anybody can announce kits that do not exist.
	maxCrowd = 8
)
