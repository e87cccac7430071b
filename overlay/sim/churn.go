package sim

import (
	"math"
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// medianSession is the shortest of Rhea et al., "Handling Churn in a DHT" (USENIX 2004): 1.4 minutes, exponentially
// distributed.
const medianSession = 84 * time.Second

// session is how long one kit lives.
func (x *run) session() time.Duration {
	mean := float64(medianSession) / math.Ln2
	return time.Duration(x.rng.ExpFloat64() * mean)
}

// churn keeps the number of kits while each lives for a session only: when one dies, silently, a new one comes.
func (x *run) churn() {
	x.grow(x.o.Nodes, 0)
	x.write(x.living(), 1)
	x.Run(time.Minute)
	over := false
	deaths := 0
	var live func(k *Kit)
	live = func(k *Kit) {
		x.k.after(x.session(), func() {
			if over {
				return
			}
			k.stop()
			deaths++
			n, err := x.add()
			if err == nil {
				err = n.start()
			}
			if err != nil {
				x.fail("%v", err)
				return
			}
			n.register(handset(len(x.records)))
			live(n)
		})
	}
	for _, k := range x.living() {
		live(k)
	}
	x.Run(3 * time.Minute)                    // until sessions are in equilibrium
	now, seen := newRing(x.living()), x.k.now // asked anew once a second
	before, links, died := x.Ledger(), x.count.Attaches+x.count.Bootstraps, deaths
	begun := x.k.now
	list := x.lookups(5*time.Minute, 10, func() *ring {
		if x.k.now.since(seen) >= time.Second {
			now, seen = newRing(x.living()), x.k.now
		}
		return now
	})
	measured := x.k.now.since(begun)
	l := x.Ledger().since(before)
	n := float64(x.o.Nodes)
	per := func(v uint64) float64 { return float64(v) / measured.Seconds() / n }
	x.figure("deaths and arrivals", float64(deaths-died)/measured.Seconds(), "1/s")
	x.figure("traffic, on the wire", per(l.Wire()), "B/s per kit")
	x.figure("traffic, RELOAD", per(l.Reload), "B/s per kit")
	x.figure("traffic, RELOAD messages", per(l.Messages), "1/s per kit")
	x.figure("traffic, framing and ACKs", per(l.Framing+l.Acks+l.Again), "B/s per kit")
	x.figure("traffic, DTLS, UDP and IP", per(l.Records+l.Packets), "B/s per kit")
	x.figure("traffic, handshakes", per(l.Handshakes), "B/s per kit")
	x.figure("traffic, ICE", per(l.Keepalives), "B/s per kit")
	x.figure("links made", per(x.count.Attaches+x.count.Bootstraps-links), "1/s per kit")
	x.lookupFigures(list)
	x.figure("kits with wrong neighbours in the midst of it", float64(newRing(x.living()).wrong()), "")
	over = true
	d, r := x.converge("after the churn", x.living(), convergeWithin)
	x.figure("right ring after the churn", d.Seconds(), "s")
	x.Run(quiet)
	mine := slices.DeleteFunc(slices.Clone(x.records), func(r *record) bool { return !r.kit.alive || r.written == 0 })
	x.mustRead("after the churn", x.living(), sample(x.World, mine, 2000))
	x.mustHold("after the churn", r, sample(x.World, mine, 2000))
	x.neverForged()
}

// mix lets random things happen to a few kits, then nothing any more, and then looks whether all is well.
func (x *run) mix() {
	x.powerUp(max(x.o.Nodes/2, 1), 2*time.Second, 0)
	x.net.Loss = []float64{0, 0, 0.02, 0.1}[x.rng.IntN(4)]
	for range 40 {
		x.disturb()
		x.Run(x.spread([]time.Duration{time.Second, 5 * time.Second, 30 * time.Second}[x.rng.IntN(3)]))
	}
	x.figure("disturbances", 40, "")
	// From here on nothing is lost and nobody comes or goes: all has to come right.
	x.net.Loss = 0
	x.Run(restartWithin + 2*time.Second) // who is switched off or on is through with it
	if len(x.living()) == 0 {
		if err := x.kits[0].start(); err != nil {
			x.fail("%v", err)
		}
	}
	held := x.readNow()
	x.meet(x.living())
	d, _ := x.converge("end", x.living(), convergeWithin)
	x.figure("one ring after", d.Seconds(), "s")
	x.write(nil, 0) // waits for what is not stored yet
	x.Run(quiet)
	_, r := x.converge("rest", x.living(), convergeWithin)
	var mine, left []*record
	refused := 0
	for _, rec := range x.records {
		switch {
		case rec.kit.alive:
			mine = append(mine, rec)
		case len(held[rec]) == 0:
		case slices.ContainsFunc(r.holders(rec.res), func(k *Kit) bool { return slices.Contains(held[rec], k) }):
			left = append(left, rec)
		default:
			// "replica StoreReqs MUST come from nodes which are either in the known replica set for a given resource or
			// which are closer than some node in the replica set" (RFC 6940 §7.4.1.1): nobody who has it is.
			refused++
		}
	}
	x.figure("registrations of dead kits that nobody may hand over", float64(refused), "")
	x.figure("kits", float64(len(x.living())), "")
	x.figure("registrations of living kits", float64(len(mine)), "")
	x.figure("registrations of dead kits that could be read", float64(len(left)), "")
	x.mustRead("end", x.living(), left)
	x.mustRead("end", x.living(), mine)
	x.mustHold("end", r, mine)
	x.neverForged()
}

// readNow are the records of dead kits that can be read on some island, in the last version that was acknowledged,
// and who holds them.
func (x *run) readNow() map[*record][]*Kit {
	var left []*record
	for _, rec := range x.records {
		if !rec.kit.alive && rec.written != 0 && rec.until > x.k.now.add(registrationLife/2) {
			left = append(left, rec)
		}
	}
	held := map[*record][]*Kit{}
	open := 0
	for _, kits := range x.islands(x.living()) {
		for _, rec := range x.readable(kits, left) {
			for _, k := range kits {
				open++
				k.stored(rec.res, func(values []wire.StoredData) {
					open--
					if rec.has(values) {
						held[rec] = append(held[rec], k)
					}
				})
			}
		}
	}
	x.wait(&open)
	return held
}

// restartWithin is how long a kit is off that is switched off and on again.
const restartWithin = 10 * time.Second

// disturb lets one thing happen.
func (x *run) disturb() {
	alive := x.living()
	var k, dead *Kit
	if len(alive) > 0 {
		k = alive[x.rng.IntN(len(alive))]
	}
	if i := x.rng.IntN(len(x.kits)); !x.kits[i].alive {
		dead = x.kits[i]
	}
	switch x.rng.IntN(10) {
	case 0, 1: // a new one, or one that comes back with what it kept
		if dead == nil && len(alive) < x.o.Nodes {
			n, err := x.add()
			if err != nil {
				x.fail("%v", err)
				return
			}
			dead = n
		}
		if dead != nil {
			dead.island = 0
			if k != nil {
				dead.island = k.island
			}
			if err := dead.start(); err != nil {
				x.fail("%v", err)
			}
		}
	case 2: // the battery is pulled
		if len(alive) > 1 {
			k.stop()
		}
	case 3: // switched off
		if len(alive) > 1 {
			k.quit()
		}
	case 4: // switched off and on again
		if k != nil {
			k.stop()
			life := k.life
			x.k.after(x.spread(restartWithin), func() {
				if k.life == life {
					if err := k.start(); err != nil {
						x.fail("%v", err)
					}
				}
			})
		}
	case 5: // a part goes out of reach
		island := 1 + x.rng.IntN(2)
		for _, o := range alive {
			if x.rng.IntN(3) == 0 {
				x.move(island, o)
			}
		}
	case 6: // all are in reach
		x.meet(alive)
	case 7, 8: // a handset registers
		if k != nil && len(k.usage.records) < 8 {
			n := x.rng.IntN(2 * x.o.Nodes)
			if !slices.ContainsFunc(k.usage.records, func(r *record) bool { return r.aor == handset(n) }) {
				k.register(handset(n))
			}
		}
	case 9: // and anew
		if k != nil && len(k.usage.records) > 0 {
			k.usage.records[x.rng.IntN(len(k.usage.records))].change()
		}
	}
}
