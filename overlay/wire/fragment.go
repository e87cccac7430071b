package wire

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxRequestLifetime is how long an incomplete message is kept, and how long a request lives with all
// its retransmissions (RFC 6940 §3, §6.7).
const MaxRequestLifetime = 15 * time.Second

const (
	minFragmentBody = 256 // bytes: "MUST contain at least 256 bytes of the message body" (RFC 6940 §6.7)
	viaRoom         = 32  // bytes left free "to allow the Via List to grow before further fragmentation is required"
	partOverhead    = 64  // bytes a held fragment costs beside its own, in the accounts of a Reassembler
)

// Fragment splits an encoded message, or fragment of one, for a link that carries mtu bytes of RELOAD
// message in a datagram. One that fits is returned alone and as it is. The parts are of equal size, to
// a byte, and at most mtu−32. Where parts of at least 256 bytes of body do not fit, "RELOAD
// fragmentation is not performed, and IP-layer fragmentation is allowed to occur" (RFC 6940 §6.7): the
// message is returned alone, too. The error is ErrMalformed for what is no message.
func Fragment(encoded []byte, mtu int) ([][]byte, error) {
	h, body, err := ParseHeader(encoded)
	if err != nil {
		return nil, err
	}
	whole := [][]byte{encoded}
	if len(encoded) <= mtu {
		return whole, nil
	}
	headerLen := len(encoded) - len(body)
	room := mtu - viaRoom - headerLen
	if room < minFragmentBody {
		return whole, nil
	}
	total := len(body)
	n := (total + room - 1) / room
	if total/n < minFragmentBody {
		return whole, nil
	}
	offset, last := int(h.Offset()), h.LastFragment()
	if offset+total > int(fragmentOffset)+1 {
		return nil, fmt.Errorf("%w: message beyond the offsets of fragments", ErrMalformed)
	}
	buf := make([]byte, 0, n*headerLen+total)
	parts := make([][]byte, 0, n)
	for i := range n {
		size := total / n
		if i < total%n {
			size++
		}
		h.Fragment = fragmentSet | uint32(offset)
		if last && i == n-1 {
			h.Fragment |= fragmentLast
		}
		start := len(buf)
		if buf, err = h.AppendForward(buf, body[:size]); err != nil {
			return nil, fmt.Errorf("fragment: %w", err)
		}
		parts = append(parts, buf[start:len(buf):len(buf)])
		body = body[size:]
		offset += size
	}
	return parts, nil
}

// ErrNoRoom is the failure of Reassembler.Add at its limits: "if the receiver runs out of buffer space
// to reassemble a message, it MUST drop the message" (RFC 6940 §6.7).
var ErrNoRoom = errors.New("no room to reassemble a RELOAD message")

// ReassemblyLimits bounds what a Reassembler holds. A field of zero means its default. Bytes are those
// of the fragments held, with their headers and 64 more for each.
type ReassemblyLimits struct {
	Message        int // bytes of a whole message with its header; DefaultMaxMessage
	Messages       int // incomplete messages; 64
	Bytes          int // 256 KiB
	SourceMessages int // incomplete messages from one source; 16
	SourceBytes    int // from one source; 64 KiB
}

func (l ReassemblyLimits) withDefaults() ReassemblyLimits {
	for _, f := range []struct {
		field    *int
		standard int
	}{
		{&l.Message, int(DefaultMaxMessage)},
		{&l.Messages, 64},
		{&l.Bytes, 256 << 10},
		{&l.SourceMessages, 16},
		{&l.SourceBytes, 64 << 10},
	} {
		if *f.field <= 0 {
			*f.field = f.standard
		}
	}
	return l
}

// ReassemblyStats counts what a Reassembler did since it was made.
type ReassemblyStats struct {
	Completed  uint64 // messages put together
	Expired    uint64 // incomplete messages dropped after MaxRequestLifetime
	Evicted    uint64 // incomplete messages dropped for a newer one of the same source
	Conflicts  uint64 // incomplete messages dropped for a fragment that contradicted them
	Duplicates uint64 // fragments that were held already
	Refused    uint64 // fragments refused as malformed, too large, or for want of room
	Pending    int    // incomplete messages now
	Bytes      int    // bytes held now
}

// Reassembler puts fragmented messages together at their destination (RFC 6940 §6.7). It has no clock
// and belongs to one goroutine.
//
// Fragments belong together when they came from the same source with the same overlay and transaction
// ID, so that no neighbour can disturb what comes through another. A fragment that overlaps what is
// held, otherwise than as an exact repetition, or that contradicts the length known, is never joined
// with it: what is held is dropped and the new fragment begins anew. (A retransmission that some hop
// fragmented differently is so not blocked by the leavings of the first.)
//
// At a source's limits the oldest incomplete message of that source makes room; at the limits for all,
// the new fragment is refused, so that no source can drop what others sent.
type Reassembler struct {
	limits  ReassemblyLimits
	pending []*partial // oldest first
	bytes   int
	stats   ReassemblyStats
}

// NewReassembler makes an empty Reassembler.
func NewReassembler(limits ReassemblyLimits) *Reassembler {
	return &Reassembler{limits: limits.withDefaults()}
}

type partialKey struct {
	source      NodeID
	overlay     uint32
	transaction uint64
}

// partial is a message of which some fragments are there.
type partial struct {
	key   partialKey
	born  time.Time
	parts []part // ascending, without overlap
	body  int    // bytes of body held
	total int    // bytes of the whole body, -1 while the last fragment is missing
	bytes int    // cost in the accounts
}

type part struct {
	offset  int
	body    []byte // within encoded
	encoded []byte
}

func (p part) end() int { return p.offset + len(p.body) }

// Add takes one message or fragment that arrived from a source, which is the Node-ID of the neighbour
// that delivered it, and returns an encoded whole message when there is one: the argument itself if it
// is no fragment, otherwise a new one with the header of the first fragment. Nil without an error means
// that more is to come. What is kept is copied. Errors are ErrMalformed, ErrTooLarge and ErrNoRoom.
func (r *Reassembler) Add(now time.Time, source NodeID, encoded []byte) ([]byte, error) {
	r.Expire(now)
	h, body, err := ParseHeader(encoded)
	if err != nil {
		r.stats.Refused++
		return nil, err
	}
	if !h.IsFragment() {
		return encoded, nil
	}
	fresh := part{offset: int(h.Offset()), body: body, encoded: encoded}
	if err := r.check(&h, fresh); err != nil {
		r.stats.Refused++
		return nil, err
	}
	key := partialKey{source: source, overlay: h.Overlay, transaction: h.TransactionID}
	p := r.find(key)
	if p != nil {
		switch at, verdict := p.place(fresh, h.LastFragment()); verdict {
		case duplicate:
			r.stats.Duplicates++
			return nil, nil
		case fits:
			return r.insert(p, at, fresh, h.LastFragment())
		case conflict:
			r.stats.Conflicts++
			r.drop(p)
		}
	}
	p = &partial{key: key, born: now, total: -1}
	return r.insert(p, 0, fresh, h.LastFragment())
}

// check refuses a fragment that no sender following RFC 6940 §6.7 makes, or that is beyond the limit.
func (r *Reassembler) check(h *Header, f part) error {
	switch {
	case len(f.body) == 0:
		return fmt.Errorf("%w: empty fragment", ErrMalformed)
	case !h.LastFragment() && len(f.body) < minFragmentBody:
		return fmt.Errorf("%w: fragment with %d bytes of body", ErrMalformed, len(f.body))
	case len(f.encoded)+f.offset > r.limits.Message:
		return fmt.Errorf("%w: fragment up to byte %d", ErrTooLarge, len(f.encoded)+f.offset)
	}
	return nil
}

func (r *Reassembler) find(key partialKey) *partial {
	for _, p := range r.pending {
		if p.key == key {
			return p
		}
	}
	return nil
}

type verdict uint8

const (
	fits verdict = iota
	duplicate
	conflict
)

// place tells where a fragment goes among those held.
func (p *partial) place(f part, last bool) (int, verdict) {
	at, found := slices.BinarySearchFunc(p.parts, f.offset, func(q part, offset int) int { return q.offset - offset })
	if found && bytes.Equal(p.parts[at].body, f.body) && last == (f.end() == p.total) {
		return at, duplicate
	}
	overlaps := found ||
		at > 0 && p.parts[at-1].end() > f.offset ||
		at < len(p.parts) && p.parts[at].offset < f.end()
	var contradicts bool
	if last {
		contradicts = p.total >= 0 || at < len(p.parts)
	} else {
		contradicts = p.total >= 0 && f.end() >= p.total
	}
	if overlaps || contradicts {
		return 0, conflict
	}
	return at, fits
}

// insert holds the fragment f in p, which may be new, and returns the message if that completes it.
func (r *Reassembler) insert(p *partial, at int, f part, last bool) ([]byte, error) {
	cost := len(f.encoded) + partOverhead
	if !r.makeRoom(p, cost) {
		r.stats.Refused++
		return nil, fmt.Errorf("%w: %d messages with %d bytes held", ErrNoRoom, len(r.pending), r.bytes)
	}
	headerLen := len(f.encoded) - len(f.body)
	f.encoded = slices.Clone(f.encoded)
	f.body = f.encoded[headerLen:]
	if len(p.parts) == 0 {
		r.pending = append(r.pending, p)
	}
	p.parts = slices.Insert(p.parts, at, f)
	p.body += len(f.body)
	p.bytes += cost
	r.bytes += cost
	if last {
		p.total = f.end()
	}
	if p.body != p.total {
		return nil, nil
	}
	r.drop(p)
	message, err := p.message()
	if err != nil {
		r.stats.Refused++
		return nil, err
	}
	if len(message) > r.limits.Message {
		r.stats.Refused++
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(message))
	}
	r.stats.Completed++
	return message, nil
}

// makeRoom drops the oldest messages of p's source, other than p, until the source is within its
// limits with cost more, and reports whether that, and the limits for all, then allow it.
func (r *Reassembler) makeRoom(p *partial, cost int) bool {
	if cost+p.bytes > r.limits.SourceBytes {
		return false
	}
	fresh := 0
	if len(p.parts) == 0 {
		fresh = 1
	}
	for {
		messages, held := 0, 0
		var oldest *partial
		for _, q := range r.pending {
			if q.key.source != p.key.source {
				continue
			}
			messages++
			held += q.bytes
			if oldest == nil && q != p {
				oldest = q
			}
		}
		if messages+fresh <= r.limits.SourceMessages && held+cost <= r.limits.SourceBytes {
			break
		}
		if oldest == nil {
			return false
		}
		r.stats.Evicted++
		r.drop(oldest)
	}
	return len(r.pending)+fresh <= r.limits.Messages && r.bytes+cost <= r.limits.Bytes
}

func (r *Reassembler) drop(p *partial) {
	r.pending = slices.DeleteFunc(r.pending, func(q *partial) bool { return q == p })
	r.bytes -= p.bytes
}

// message joins the parts behind the header of the first.
func (p *partial) message() ([]byte, error) {
	first := p.parts[0]
	h, _, err := ParseHeader(first.encoded)
	if err != nil {
		return nil, err
	}
	h.Fragment = Unfragmented
	headerLen := len(first.encoded) - len(first.body)
	message, err := h.AppendHeader(make([]byte, 0, headerLen+p.total), p.total)
	if err != nil {
		return nil, err
	}
	for _, q := range p.parts {
		message = append(message, q.body...)
	}
	return message, nil
}

// Expire drops the incomplete messages that began MaxRequestLifetime or longer before now. Add does so, too.
func (r *Reassembler) Expire(now time.Time) {
	for len(r.pending) > 0 && now.Sub(r.pending[0].born) >= MaxRequestLifetime {
		r.stats.Expired++
		r.drop(r.pending[0])
	}
}

// Deadline is when Expire next has something to do; the zero time if nothing is held.
func (r *Reassembler) Deadline() time.Time {
	if len(r.pending) == 0 {
		return time.Time{}
	}
	return r.pending[0].born.Add(MaxRequestLifetime)
}

// Stats returns the counters.
func (r *Reassembler) Stats() ReassemblyStats {
	s := r.stats
	s.Pending, s.Bytes = len(r.pending), r.bytes
	return s
}
