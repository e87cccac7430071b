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
	hops  int
	took  time.Duration
	ok    bool // answered
	right bool // by the peer whose place it is
}

// Offsets into the forwarding header (RFC 6940 §6.3.2).
const (
	headerTTL    = 11
	headerID     = 20
	headerVia    = 32
	headerDest   = 34
	headerOption = 36
	headerFixed  = 38
	lookupDest   = 3 + wire.MinNodeIDLen // one Resource-ID
)

// observe notes how far requests to Resource-IDs have come: the TTL tells the hops.
func (w *World) observe(b []byte) {
	if w.hops == nil || len(b) < headerFixed {
		return
	}
	via, dest := int(binary.BigEndian.Uint16(b[headerVia:])), int(binary.BigEndian.Uint16(b[headerDest:]))
	at := headerFixed + via
	if dest != lookupDest || len(b) < at+dest+2 || wire.DestinationType(b[at]) != wire.DestResource {
		return
	}
	at += dest + int(binary.BigEndian.Uint16(b[headerOption:]))
	if len(b) >= at+2 && wire.MessageCode(binary.BigEndian.Uint16(b[at:])).IsRequest() {
		w.hops[binary.BigEndian.Uint64(b[headerID:])] = int(w.doc.InitialTTL) - int(b[headerTTL])
	}
}

// lookups has random kits of r ping the peer responsible for random Resource-IDs, rate a second, and waits for all.
func (w *World) lookups(r *ring, count int, rate float64) []*lookup {
	list := make([]*lookup, 0, count)
	open := 0
	w.hops = map[uint64]int{}
	defer func() { w.hops = nil }()
	for i := range count {
		w.k.after(time.Duration(float64(i)/rate*float64(time.Second)), func() {
			k := r.kits[w.rng.IntN(len(r.kits))]
			var id [wire.MinNodeIDLen]byte
			binary.BigEndian.PutUint64(id[:], w.rng.Uint64())
			binary.BigEndian.PutUint64(id[8:], w.rng.Uint64())
			res := wire.ResourceID(id[:])
			if !k.alive {
				return
			}
			l := &lookup{}
			list = append(list, l)
			open++
			begun := w.k.now
			k.peer.Request(w.now(), peer.Outgoing{Dest: []wire.Destination{wire.ToResource(res)}, Code: wire.PingReq, Body: []byte{0, 0}}, func(p peer.Reply) {
				open--
				l.took, l.ok = w.k.now.since(begun), p.Err == nil
				if l.ok {
					l.hops = w.hops[p.Message.TransactionID] // none: the kit's own
					l.right = w.byID[p.Peer.NodeID] == r.living(res)
				}
			})
			k.after()
		})
	}
	w.Run(time.Duration(float64(count) / rate * float64(time.Second)))
	w.wait(&open)
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
