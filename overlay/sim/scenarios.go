package sim

import (
	"fmt"
	"math"
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// manyKits is from where on measurements take less of their time, since that is minutes of ours.
const manyKits = 2000

// ring grows a ring and measures it.
func (x *run) ring() {
	n := x.o.Nodes
	before := heap()
	kits := x.grow(n, 0)
	x.figure("growth", x.Now().Seconds(), "s")
	rest, joins := 2*time.Minute, 20
	switch {
	case n > manyKits:
		rest, joins = time.Minute, 5
	case n <= 256:
		rest = 8 * time.Minute
	}
	x.Run(rest) // fingers fill, discovery comes to rest
	_, r := x.converge("rest", kits, convergeWithin)
	x.idle(kits, min(rest, 2*time.Minute))
	x.figure("memory per kit", (float64(heap())-float64(before))/float64(n)/1024, "KiB")
	if n > 1 {
		rate := max(20, float64(n)/20)
		x.lookupFigures(x.lookups(time.Duration(2000/rate*float64(time.Second)), rate, func() *ring { return r }))
		if mean, most := x.report.Value("hops, mean"), math.Log2(float64(n))/2+1; mean > most {
			x.fail("lookups take %.2f hops, more than ½·log2 N + 1 = %.2f", mean, most)
		}
		if q := x.report.Value("lookups answered by the right peer"); q < 100 {
			x.fail("%.2f %% of the lookups were answered by the right peer", q)
		}
	}
	x.joins(kits, joins)
	x.write(sample(x.World, x.living(), manyKits), 1)
	x.Run(quiet)
	_, r = x.converge("end", x.living(), convergeWithin)
	x.mustRead("end", x.living(), x.records)
	x.mustHold("end", r, x.records)
	x.neverForged()
}

// idle measures what kits send that have nothing to say.
func (x *run) idle(kits []*Kit, d time.Duration) {
	before := x.Ledger()
	each := make([]Ledger, len(kits))
	for i, k := range kits {
		each[i] = k.ledger
	}
	links := 0
	for _, k := range kits {
		links += len(k.ends)
	}
	x.Run(d)
	l := x.Ledger().since(before)
	per := func(v uint64) float64 { return float64(v) / d.Seconds() / float64(len(kits)) }
	most := 0.0
	for i, k := range kits {
		most = max(most, float64(k.ledger.since(each[i]).Wire())/d.Seconds())
	}
	x.figure("links per kit", float64(links)/float64(len(kits)), "")
	x.figure("idle, on the wire", per(l.Wire()), "B/s per kit")
	x.figure("idle, most of one kit", most, "B/s")
	x.figure("idle, RELOAD", per(l.Reload), "B/s per kit")
	x.figure("idle, RELOAD messages", per(l.Messages), "1/s per kit")
	x.figure("idle, framing and ACKs", per(l.Framing+l.Acks+l.Again), "B/s per kit")
	x.figure("idle, DTLS, UDP and IP", per(l.Records+l.Packets), "B/s per kit")
	x.figure("idle, ICE", per(l.Keepalives), "B/s per kit")
	x.figure("idle, handshakes", per(l.Handshakes), "B/s per kit")
}

// joins has single kits come to a ring, one after the other.
func (x *run) joins(kits []*Kit, count int) {
	var took []time.Duration
	var sent, received, bytes []uint64
	kits = slices.Clone(kits)
	for range count {
		begun := x.k.now
		k := x.powerUp(1, time.Millisecond, kits[0].island)
		kits = append(kits, k...)
		r := newRing(kits)
		r.last, _ = slices.BinarySearchFunc(r.ids, k[0].self.NodeID, wire.NodeID.Compare)
		if _, ok := x.RunUntil(10*time.Millisecond, 2*time.Minute, func() bool { return r.checkKit(r.last) == nil }); !ok {
			x.fail("join: after two minutes %v", r.checkKit(r.last))
		}
		took = append(took, x.k.now.since(begun))
		sent, received = append(sent, k[0].ledger.Messages), append(received, k[0].received)
		bytes = append(bytes, k[0].ledger.Wire())
		x.Run(2 * time.Second)
	}
	slices.Sort(took)
	slices.Sort(sent)
	slices.Sort(received)
	slices.Sort(bytes)
	x.figure("join, median", quantile(took, 0.5).Seconds(), "s")
	x.figure("join, longest", quantile(took, 1).Seconds(), "s")
	x.figure("join, messages sent by the newcomer, median", float64(quantile(sent, 0.5)), "")
	x.figure("join, messages to the newcomer, median", float64(quantile(received, 0.5)), "")
	x.figure("join, bytes sent by the newcomer, median", float64(quantile(bytes, 0.5)), "B")
}

// sample takes n of a list at random, or all if there are fewer.
func sample[T any](w *World, list []T, n int) []T {
	list = slices.Clone(list)
	if len(list) <= n {
		return list
	}
	w.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:n]
}

// singletons powers kits up within one second.
func (x *run) singletons() {
	kits := x.powerUp(x.o.Nodes, time.Second, 0)
	d, _ := x.converge("one ring", kits, convergeWithin)
	x.figure("one ring after", (time.Second + d).Seconds(), "s")
	l := x.Ledger()
	n := float64(x.o.Nodes)
	x.figure("messages until then", float64(l.Messages)/n, "per kit")
	x.figure("bytes until then", float64(l.Wire())/n, "B per kit")
	x.figure("links made until then", float64(x.count.Attaches+x.count.Bootstraps)/n, "per kit")
	x.write(kits, 2)
	x.Run(quiet)
	r := newRing(kits)
	if x.net.Loss > 0 {
		x.figure("registrations read at the first try", 100*(1-float64(x.notReadable(kits, x.records))/float64(len(x.records))), "%")
	}
	if x.o.Nodes > 1 {
		x.lookupFigures(x.lookups(25*time.Second, 20, func() *ring { return r }))
	}
	x.idle(kits, time.Minute)
	if x.net.Loss > 0 {
		// Links fail at such a loss, and with them the places of kits in the ring, all the time: a message finds all
		// of its five transmissions unacknowledged once in 170 times. What must hold is that nothing is gone.
		x.figure("kits with wrong neighbours in the midst of it", float64(r.wrong()), "")
		x.net.Loss = 0
		d, _ := x.converge("after the loss", kits, convergeWithin)
		x.figure("right ring after the loss", d.Seconds(), "s")
		x.Run(quiet)
	}
	_, r = x.converge("rest", kits, convergeWithin)
	x.mustRead("rest", kits, x.records)
	x.mustHold("rest", r, x.records)
	x.neverForged()
}

// merge grows rings that cannot reach each other and then lets them.
func (x *run) merge() {
	rings := max(x.o.Rings, 1)
	var kits []*Kit
	for i := range rings {
		for range x.o.Nodes {
			k, err := x.add()
			if err != nil {
				x.fail("%v", err)
				return
			}
			k.island = i
			kits = append(kits, k)
			x.k.after(x.spread(max(growEach*time.Duration(x.o.Nodes), time.Second)), func() {
				if err := k.start(); err != nil {
					x.fail("%v", err)
				}
			})
		}
	}
	x.Run(max(growEach*time.Duration(x.o.Nodes), time.Second))
	for i := range rings {
		x.converge(fmt.Sprintf("ring %d", i), kits[i*x.o.Nodes:(i+1)*x.o.Nodes], convergeWithin)
	}
	x.write(kits, 2)
	x.Run(quiet)
	before := x.readableWithin(kits)
	x.figure("registrations readable before", float64(len(before)), "")

	sent, links := x.Ledger(), x.count.Attaches+x.count.Bootstraps
	x.meet(kits)
	d, _ := x.converge("merged", kits, convergeWithin)
	l := x.Ledger().since(sent)
	n := float64(len(kits))
	x.figure("one ring after", d.Seconds(), "s")
	x.figure("messages until then", float64(l.Messages)/n, "per kit")
	x.figure("bytes until then", float64(l.Wire())/n, "B per kit")
	x.figure("links made until then", float64(x.count.Attaches+x.count.Bootstraps-links)/n, "per kit")
	x.figure("registrations unreadable at that moment", float64(x.notReadable(kits, before)), "")
	begun := x.k.now
	if _, ok := x.RunUntil(time.Second, 5*time.Minute, func() bool { return x.notReadable(kits, before) == 0 }); ok {
		x.figure("all readable from anywhere after", (d + x.k.now.since(begun)).Seconds(), "s")
	}
	x.Run(quiet)
	_, r := x.converge("rest", kits, convergeWithin)
	x.mustRead("merged", kits, before)
	x.mustHold("merged", r, x.records)
	x.neverForged()
}

func (x *run) notReadable(kits []*Kit, records []*record) int {
	return len(x.unreadable(kits, records))
}

// islands are kits by who can reach whom, in the order of the first of each.
func (x *run) islands(kits []*Kit) (list [][]*Kit) {
next:
	for _, k := range kits {
		for i := range list {
			if x.reach(list[i][0], k) {
				list[i] = append(list[i], k)
				continue next
			}
		}
		list = append(list, []*Kit{k})
	}
	return list
}

// readableWithin are the records that can be read on their writer's island.
func (x *run) readableWithin(kits []*Kit) (all []*record) {
	for _, on := range x.islands(kits) {
		mine := slices.DeleteFunc(slices.Clone(x.records), func(r *record) bool { return !x.reach(r.kit, on[0]) || r.written == 0 })
		all = append(all, x.readable(on, mine)...)
	}
	return all
}

// meet puts all kits on one island.
func (x *run) meet(kits []*Kit) { x.move(0, kits...) }

// deaths takes away three of ten kits without a word.
func (x *run) deaths() {
	kits := x.grow(x.o.Nodes, 0)
	x.write(kits, 2)
	x.Run(2 * time.Minute)
	_, r := x.converge("rest", kits, convergeWithin)
	before := x.readable(kits, x.records)
	x.figure("registrations readable before", float64(len(before)), "")
	x.rng.Shuffle(len(kits), func(i, j int) { kits[i], kits[j] = kits[j], kits[i] })
	dead, rest := kits[:len(kits)*3/10], kits[len(kits)*3/10:]
	for _, k := range dead {
		k.stop()
	}
	sent := x.Ledger()
	// Three copies of three dead are gone, whoever wrote them: nobody is there to store them again.
	var kept []*record
	gone := 0
	for _, rec := range before {
		switch holders := r.holders(rec.res); {
		case rec.kit.alive || slices.ContainsFunc(holders, func(k *Kit) bool { return k.alive }):
			kept = append(kept, rec)
		default:
			gone++
		}
	}
	x.figure("killed", float64(len(dead)), "kits")
	x.figure("registrations whose writer and all copies died", float64(gone), "")
	list := x.lookups(10*time.Second, 20, func() *ring { return r })
	answered := 0
	for _, l := range list {
		if l.ok {
			answered++
		}
	}
	x.figure("lookups answered in the 10 s after", 100*float64(answered)/float64(max(len(list), 1)), "%")
	d, _ := x.converge("repaired", rest, convergeWithin)
	x.figure("right ring after", (10*time.Second + d).Seconds(), "s at most")
	l := x.Ledger().since(sent)
	x.figure("messages until then", float64(l.Messages)/float64(len(rest)), "per kit")
	x.Run(quiet)
	_, r = x.converge("rest", rest, convergeWithin)
	x.mustRead("repaired", rest, kept)
	x.mustHold("repaired", r, kept)
	x.neverForged()
}

// restart switches kits off and on again, one after the other, faster than their silence is noticed or slower. What they
// stored for others is gone with them, their copies are not.
func (x *run) restart() {
	kits := x.grow(x.o.Nodes, 0)
	x.write(kits, 2)
	x.Run(time.Minute)
	before := x.readable(kits, x.records)
	for _, k := range sample(x.World, kits, max(x.o.Nodes/5, 1)) {
		k.stop()
		x.Run(200*time.Millisecond + x.spread(restartWithin))
		if err := k.start(); err != nil {
			x.fail("%v", err)
			return
		}
		d, _ := x.converge("restarted", kits, convergeWithin)
		x.figure("right ring after", d.Seconds(), "s")
		x.Run(20 * time.Second)
		if n := x.notReadable(kits, before); n > 0 && x.o.Nodes > 1 {
			x.fail("restarted: %d of %d registrations are not readable 20 s after kit %d is back", n, len(before), k.n)
		}
	}
	x.Run(quiet)
	_, r := x.converge("rest", kits, convergeWithin)
	x.mustRead("restarted", kits, before)
	x.mustHold("restarted", r, x.records)
	x.neverForged()
}

// split cuts a ring in two, has both sides write, and lets them meet.
func (x *run) split() {
	kits := x.grow(x.o.Nodes, 0)
	x.write(kits, 2)
	x.Run(time.Minute)
	half := slices.Clone(kits)
	x.rng.Shuffle(len(half), func(i, j int) { half[i], half[j] = half[j], half[i] })
	left, right := half[:len(half)/2], half[len(half)/2:]
	x.move(1, left...)
	if x.o.Nodes > 1 {
		d, _ := x.converge("left", left, convergeWithin)
		e, _ := x.converge("right", right, convergeWithin)
		x.figure("two rings after", (d + e).Seconds(), "s")
	}
	for _, k := range kits {
		for _, r := range k.usage.records {
			if x.rng.IntN(2) == 0 {
				r.change()
			}
		}
	}
	x.write(kits, 1)
	x.Run(quiet)
	before := x.readableWithin(kits)
	x.figure("registrations readable before", float64(len(before)), "")
	x.meet(kits)
	d, _ := x.converge("merged", kits, convergeWithin)
	x.figure("one ring after", d.Seconds(), "s")
	x.Run(quiet)
	_, r := x.converge("rest", kits, convergeWithin)
	x.mustRead("merged", kits, before)
	x.mustRead("merged", kits, x.records)
	x.mustHold("merged", r, x.records)
	x.neverForged()
}
