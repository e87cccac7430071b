package node

import (
	"reflect"
	"sync/atomic"
)

// counters count since New. They may be raised from any goroutine.
type counters struct {
	Received, Sent, Forwarded                       atomic.Uint64 // messages and fragments
	Requests, Answers, ErrorAnswers, Timeouts       atomic.Uint64 // transactions of this node; answers of this node
	Malformed, WrongOverlay, WrongVersion, TooLarge atomic.Uint64
	TTLExceeded, Unroutable, UnknownOption          atomic.Uint64
	BadSignature, WrongResponder, Unmatched         atomic.Uint64
	Refused, Duplicates, Unencodable, NotDirect     atomic.Uint64
	RateLimited, VerifyDropped, JobsDropped         atomic.Uint64
	EventsDropped, SendFailed, TransactionsFull     atomic.Uint64
	LinksMade, LinksLost, LinksRefused, LinksSilent atomic.Uint64
	Keepalives, Attaches, AttachesFailed, Glare     atomic.Uint64
	Dials, DialsFailed, AppAttaches                 atomic.Uint64
	Replicated, ReplicaRefused, HandedOver, Refetch atomic.Uint64
	TransfersDropped, FragmentsDropped              atomic.Uint64
	ConfigUpdates, ConfigRefuse                     atomic.Uint64 // sent; refused
}

// snapshot names the counters in snake_case, without zeros.
func (c *counters) snapshot() map[string]uint64 {
	out := make(map[string]uint64)
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if n := v.Field(i).Addr().Interface().(*atomic.Uint64).Load(); n != 0 {
			out[snake(v.Type().Field(i).Name)] = n
		}
	}
	return out
}

func snake(s string) string {
	b := make([]byte, 0, len(s)+4)
	for i, r := range []byte(s) {
		if upper := r >= 'A' && r <= 'Z'; upper {
			if i > 0 && (s[i-1] < 'A' || s[i-1] > 'Z' || i+1 < len(s) && s[i+1] >= 'a') {
				b = append(b, '_')
			}
			r += 'a' - 'A'
		}
		b = append(b, r)
	}
	return string(b)
}
