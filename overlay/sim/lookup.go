package sim

import (
	"encoding/binary"
	"math"
	"slices"
	"time"

	"fieldkit/overlay/peer"
	"fieldkit/overlay/wire"
)

// lookup is what one request to a random place of the ring came to.
type lookup struct {
	kit   *Kit // that asks; nil: it did not live
	life  int
	over  bool
	hops  int
	took  time.Duration
	ok    bool // answered
	right bool // by the peer whose place it is
}

// Offsets into the forwarding header (RFC 6940 §6.3.2).
const (
	headerTTL      = 11
	headerFragment = 12
	headerID       = 20
	headerVia      = 32
	headerDest     = 34
	headerOption   = 36
	headerFixed    = 38

	fragmentOffset = 1<<24 - 1
	lookupDest     = 3 + wire.MinNodeIDLen // one Resource-ID
	namedDest      = 2 + wire.MinNodeIDLen // a Node-ID
)

// observe counts a message that arrived by its method, and notes how far requests to Resource-IDs have come: the TTL
// tells the hops.
func (w *World) observe(b []byte) {
	if len(b) < headerFixed {
		return
	}
	via, dest := int(binary.BigEndian.Uint16(b[headerVia:])), int(binary.BigEndian.Uint16(b[headerDest:]))
	to := headerFixed + via
	at := to + dest + int(binary.BigEndian.Uint16(b[headerOption:]))
	if len(b) < at+2 || dest == 0 {
		return
	}
	code := wire.MessageCode(0) // of a fragment that is not the first: there is none
	if binary.BigEndian.Uint32(b[headerFragment:])&fragmentOffset == 0 {
		code = wire.MessageCode(binary.BigEndian.Uint16(b[at:]))
	}
	m := &w.methods[min(int(code), len(w.methods)-1)]
	m.Messages++
	m.Bytes += uint64(len(b))
	// Where the whole ring is known the responsible peer is named before the resource.
	if w.hops != nil && code.IsRequest() && (dest == lookupDest || dest == lookupDest+namedDest) && wire.DestinationType(b[to+dest-lookupDest]) == wire.DestResource {
		w.hops[binary.BigEndian.Uint64(b[headerID:])] = int(w.doc.InitialTTL) - int(b[headerTTL])
	}
}

// Method is what arrived of one method, each hop counted.
type Method struct {
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
}

// byMethod names what observe counted.
func (w *World) byMethod() map[string]Method {
	out := map[string]Method{}
	for i, m := range w.methods {
		if m.Messages == 0 {
			continue
		}
		name := wire.MessageCode(i).String()
		switch i {
		case 0:
			name = "further fragments"
		case len(w.methods) - 1:
			name = "error"
		}
		out[name] = m
	}
	return out
}

// look has a random kit of r ping the peer responsible for a random Resource-ID.
func (w *World) look(r *ring) *lookup {
	l := &lookup{}
	k := r.kits[w.rng.IntN(len(r.kits))]
	var id [wire.MinNodeIDLen]byte
	binary.BigEndian.PutUint64(id[:], w.rng.Uint64())
	binary.BigEndian.PutUint64(id[8:], w.rng.Uint64())
	res := wire.ResourceID(id[:])
	if !k.alive {
		l.over = true
		return l
	}
	l.kit, l.life = k, k.life
	begun := w.k.now
	k.peer.Request(w.now(), peer.Outgoing{Dest: []wire.Destination{wire.ToResource(res)}, Code: wire.PingReq, Body: []byte{0, 0}}, func(p peer.Reply) {
		l.over, l.took, l.ok = true, w.k.now.since(begun), p.Err == nil
		if l.ok {
			l.hops = w.hops[p.Message.TransactionID] // none: the kit's own
			l.right = w.byID[p.Peer.NodeID] == r.living(res)
		}
	})
	k.after()
	return l
}

// lookups makes lookups for d, rate a second, and waits for all. among says which kits there are.
func (w *World) lookups(d time.Duration, rate float64, among func() *ring) []*lookup {
	var list []*lookup
	w.hops = map[uint64]int{}
	defer func() { w.hops = nil }()
	for i := range int(d.Seconds() * rate) {
		w.k.after(time.Duration(float64(i)/rate*float64(time.Second)), func() { list = append(list, w.look(among())) })
	}
	w.Run(d)
	// Kits that died meanwhile get no answers.
	list = slices.DeleteFunc(list, func(l *lookup) bool { return l.kit == nil || !l.over && l.kit.life != l.life })
	for end := w.k.now.add(answerWithin); w.k.now < end && slices.ContainsFunc(list, func(l *lookup) bool { return !l.over && l.kit.life == l.life }); {
		w.Run(10 * time.Millisecond)
	}
	return list
}

// living is the first kit at or after a place that is alive.
func (r *ring) living(res wire.ResourceID) *Kit {
	i := r.owner(res)
	for j := range r.kits {
		if k := r.kits[(i+j)%len(r.kits)]; k.alive {
			return k
		}
	}
	return nil
}

// lookupFigures enters what lookups came to.
func (x *run) lookupFigures(list []*lookup) {
	var hops []int
	var took []time.Duration
	answered, right, sum := 0, 0, 0
	for _, l := range list {
		if !l.ok {
			continue
		}
		answered++
		if l.right {
			right++
		}
		hops, took, sum = append(hops, l.hops), append(took, l.took), sum+l.hops
	}
	slices.Sort(hops)
	slices.Sort(took)
	x.figure("lookups", float64(len(list)), "")
	x.figure("lookups answered", 100*float64(answered)/float64(max(len(list), 1)), "%")
	x.figure("lookups answered by the right peer", 100*float64(right)/float64(max(len(list), 1)), "%")
	x.figure("hops, mean", float64(sum)/float64(max(len(hops), 1)), "")
	x.figure("hops, p99", float64(quantile(hops, 0.99)), "")
	x.figure("hops, most", float64(quantile(hops, 1)), "")
	x.figure("½ log2 N", math.Log2(float64(len(x.living())))/2, "")
	x.figure("lookup time, median", float64(quantile(took, 0.5).Microseconds())/1000, "ms")
	x.figure("lookup time, p99", float64(quantile(took, 0.99).Microseconds())/1000, "ms")
}
