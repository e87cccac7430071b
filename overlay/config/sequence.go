package config

import (
	"bytes"
	"time"

	"fieldkit/overlay/wire"
)

// CompareSequence orders configuration sequences, which count modulo 65535: negative if a is older than b
// (RFC 6940 §6.3.2.1, compared as TCP compares sequence numbers). wire.AnySequence equals everything.
func CompareSequence(a, b uint16) int {
	if a == b || a == wire.AnySequence || b == wire.AnySequence {
		return 0
	}
	ahead := (int(a) - int(b) + modSequence) % modSequence
	if ahead <= modSequence/2 {
		return 1
	}
	return -1
}

// NextSequence follows s.
func NextSequence(s uint16) uint16 { return uint16((int(s) + 1) % modSequence) }

// Same reports that two documents are byte for byte the same configuration.
func (d *Document) Same(o *Document) bool {
	return bytes.Equal(d.raw.configuration, o.raw.configuration)
}

// Supersedes tells whether a node that goes by old has to go over to next, both being signed as Verify wants it: next
// has the higher sequence, or the same sequence, other bytes and the larger Hash. RFC 6940 cannot tell two documents of
// one sequence apart; with this rule all nodes that see both end with the same one, whichever they saw first
// (docs/adr/0019).
func Supersedes(old, next *Document) bool {
	switch c := CompareSequence(next.Sequence, old.Sequence); {
	case c != 0:
		return c > 0
	case next.Same(old):
		return false
	}
	a, b := next.Hash(), old.Hash()
	return bytes.Compare(a[:], b[:]) > 0
}

// Conflict tells that two documents claim one sequence: somebody signed both without knowing of the other. Whoever
// wins, what only the other said is lost, so people must hear of it.
func Conflict(a, b *Document) bool { return a.Sequence == b.Sequence && !a.Same(b) }

// Expired tells that the document's expiration has passed at now. RFC 6940 §11.1 calls the configuration "no longer
// valid" then, but the clock of a kit proves nothing: what expired is to be replaced and reported, not obeyed less
// (docs/adr/0019).
func (d *Document) Expired(now time.Time) bool {
	return !d.Expiration.IsZero() && now.After(d.Expiration)
}

// RefreshAt is when to fetch a new copy: "at a randomly selected time that is before the expiration time"
// (RFC 6940 §11.1), in the second half of what is left at now. random is a uniformly distributed number. It is zero for
// a document that does not expire, and now for one that has.
func (d *Document) RefreshAt(now time.Time, random uint64) time.Time {
	if d.Expiration.IsZero() {
		return time.Time{}
	}
	half := d.Expiration.Sub(now) / 2
	if half <= 0 {
		return now
	}
	return now.Add(half + time.Duration(random%uint64(half)))
}
