//go:build linux

package e2e

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"fieldkit/firmware/lab"
	"fieldkit/overlay/wire"
	"fieldkit/ui"
)

// The figures of the project: what a kit costs and how long its work takes. `scripts/measure` runs them
// and prints one table. Times are of the machine that runs them; counts and ratios travel.

// maxIdleRSS is the most that an idle kit may have in memory.
const maxIdleRSS = 40e6

// BenchmarkJoin starts three kits at the same moment, on new state: each makes its identity, finds the others
// by mDNS and joins.
func BenchmarkJoin(b *testing.B) {
	var joined, ring []float64
	for b.Loop() {
		func() {
			l := benchLab(b, lab.Options{Kits: 3})
			defer l.Close()
			began := time.Now()
			check(b, l.StartKits(b.Context()))
			waitRing(b, l)
			ring = append(ring, ms(time.Since(began)))
			for _, k := range l.Kits {
				s := statusOf(b, k)
				if s.Kit.JoinedMS <= 0 {
					b.Fatalf("kit %d is in a ring of %d and has not joined", k.Number, len(s.Ring))
				}
				joined = append(joined, s.Kit.JoinedMS)
			}
		}()
	}
	report(b, joined, "joined-ms")
	report(b, ring, "one-ring-of-all-ms")
}

// BenchmarkInvite measures INVITE to 200 OK at the calling phone: in turn to a phone on the same kit, to one on
// another kit whose registration the caller's kit stores itself, and to one on another kit whose registration a third
// party stores. The called phones answer at once. Where a registration is stored is up to the hash of the number; in a
// large mission a ring of three finds one in three in the caller's kit.
func BenchmarkInvite(b *testing.B) {
	var accounts []string
	for i := range 60 { // to choose from
		accounts = append(accounts, fmt.Sprintf("person%d", i))
	}
	l := benchLab(b, lab.Options{Kits: 3}, accounts...)
	defer l.Close()
	check(b, l.StartKits(b.Context()))
	waitRing(b, l)
	s := statusOf(b, l.Kits[0])
	var ring []wire.NodeID
	for _, hex := range s.Ring {
		id, err := wire.ParseNodeID(hex)
		check(b, err)
		ring = append(ring, id)
	}
	slices.SortFunc(ring, wire.NodeID.Compare)
	here := func(number string) bool {
		res := wire.ResourceIDFor([]byte(number+"@"+l.Mission().Overlay), ring[0].Len())
		return responsible(ring, res).String() == s.Kit.NodeID
	}
	start := func(kit, account int) *lab.Phone {
		p, err := l.StartPhone(kit, accounts[account])
		check(b, err)
		limited(b, 20*time.Second, p.WaitRegistered)
		return p
	}
	const each = 2
	caller, near := start(0, 0), []*lab.Phone{start(0, 1), start(0, 2)}
	var own, others []*lab.Phone
	for i, h := range l.Mission().Handsets[3:] {
		switch {
		case here(h.Number) && len(own) < each:
			own = append(own, start(1, 3+i))
		case !here(h.Number) && len(others) < each:
			others = append(others, start(1, 3+i))
		}
	}
	if len(own) == 0 || len(others) == 0 {
		b.Skipf("of %d numbers %d at the caller's kit: its Node-ID lies too near another one", len(accounts), len(own))
	}
	rest(b, 5*time.Second) // until everything is published and all trunks are open
	call := func(of []*lab.Phone, i int) float64 {
		// A handset may send a hundred messages a second; above that its kit takes it for a flood.
		rest(b, 150*time.Millisecond)
		ctx, cancel := context.WithTimeout(b.Context(), 20*time.Second)
		defer cancel()
		callee := of[i%len(of)]
		d, err := caller.Call(ctx, callee.Account.Number)
		check(b, err)
		_, _, err = caller.Hangup(ctx, callee)
		check(b, err)
		return ms(d)
	}
	var one, stored, fetched []float64
	for i := 0; b.Loop(); i++ {
		one = append(one, call(near, i))
		stored = append(stored, call(own, i))
		fetched = append(fetched, call(others, i))
	}
	report(b, one, "one-kit-ms")
	report(b, stored, "across-found-in-own-store-ms")
	report(b, fetched, "across-found-at-another-kit-ms")
	b.ReportMetric(median(stored)/median(one), "ratio-found-in-own-store")
	b.ReportMetric(median(fetched)/median(one), "ratio-found-at-another-kit")
}

// BenchmarkHandsets measures what a kit has in memory with nobody registered and with a hundred, in a ring of
// three.
func BenchmarkHandsets(b *testing.B) {
	const handsets = 100
	for b.Loop() {
		func() {
			var names []string
			for i := range handsets {
				names = append(names, fmt.Sprintf("person%d", i))
			}
			l := benchLab(b, lab.Options{Kits: 3}, names...)
			defer l.Close()
			check(b, l.StartKits(b.Context()))
			waitRing(b, l)
			rest(b, 15*time.Second)
			idle := statusOf(b, l.Kits[0])
			seat, err := l.Handset(0)
			check(b, err)
			for _, h := range l.Mission().Handsets {
				check(b, register(b, seat, h))
			}
			registered, stored := 0, uint64(0)
			for range 15 { // the registrations are published meanwhile
				rest(b, time.Second)
				registered = 0
				for _, h := range statusOf(b, l.Kits[0]).Handsets {
					if h.Registered {
						registered++
					}
				}
			}
			full := statusOf(b, l.Kits[0])
			for _, k := range l.Kits {
				stored += counter(statusOf(b, k), "overlay values stored")
			}
			// Each is stored under its number and its name, at the kit responsible and two more.
			if registered != handsets || stored != handsets*2*3 {
				b.Fatalf("%d registered, %d values stored at three kits", registered, stored)
			}
			b.ReportMetric(megabytes(idle), "idle-RSS-MB")
			b.ReportMetric(megabytes(full), "100-handsets-RSS-MB")
			b.ReportMetric(float64(idle.Kit.Goroutines), "idle-goroutines")
			b.ReportMetric(float64(full.Kit.Goroutines), "100-handsets-goroutines")
		}()
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkIdle measures what kits send and receive on the cable between them while nobody does anything.
func BenchmarkIdle(b *testing.B) {
	for _, kits := range []int{3, 16} {
		b.Run(fmt.Sprintf("%dkits", kits), func(b *testing.B) {
			for b.Loop() {
				benchIdle(b, kits)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func benchIdle(b *testing.B, kits int) {
	l := benchLab(b, lab.Options{Kits: kits})
	defer l.Close()
	check(b, l.StartKits(b.Context()))
	waitRing(b, l)
	// In its first minute a kit opens its trunks and looks for others every few seconds. That is not idle, but it is
	// what everybody bears when kits are powered up.
	young, split := cable(b, l, time.Minute)
	b.ReportMetric(median(young), "first-minute-B/s-per-kit-median")
	b.ReportMetric(split[mdns], "first-minute-mDNS-B/s")
	rest(b, 15*time.Second)
	rates, split := cable(b, l, time.Minute)
	report(b, rates, "B/s-per-kit")
	for kind, rate := range split {
		b.ReportMetric(rate, kind.String()+"-B/s")
	}
	var memory, goroutines []float64
	for _, k := range l.Kits {
		s := statusOf(b, k)
		if len(s.Ring) != kits {
			b.Fatalf("kit %d has a ring of %d: this was not idle", k.Number, len(s.Ring))
		}
		memory = append(memory, megabytes(s))
		goroutines = append(goroutines, float64(s.Kit.Goroutines))
	}
	b.ReportMetric(median(memory), "RSS-MB-median")
	b.ReportMetric(slices.Max(memory), "RSS-MB-max")
	b.ReportMetric(median(goroutines), "goroutines")
	if worst := slices.Max(memory); worst > maxIdleRSS/1e6 {
		b.Errorf("an idle kit of %d has %.1f MB resident", kits, worst)
	}
}

// cable measures for a while what the kits have on the cable between them, in bytes per second, both ways and with
// all headers; split is what that is for, on the first kit's.
func cable(b *testing.B, l *lab.Lab, d time.Duration) (rates []float64, split map[traffic]float64) {
	b.Helper()
	t, err := newTap(l.Kits[0])
	check(b, err)
	before := make([]uint64, len(l.Kits))
	for i, k := range l.Kits {
		before[i], err = deviceBytes(k)
		check(b, err)
	}
	t.start()
	began := time.Now()
	rest(b, d)
	seen := t.stop()
	seconds := time.Since(began).Seconds()
	for i, k := range l.Kits {
		now, err := deviceBytes(k)
		check(b, err)
		rates = append(rates, float64(now-before[i])/seconds)
	}
	split = map[traffic]float64{}
	total := 0.0
	for kind, n := range seen {
		split[kind] = float64(n) / seconds
		total += split[kind]
	}
	// The tap sees what the device counts; else the split says nothing.
	if math.Abs(total-rates[0]) > 0.1*rates[0] {
		b.Errorf("%.0f B/s seen on the cable, %.0f counted by the device", total, rates[0])
	}
	return rates, split
}

// BenchmarkLoss measures how long a kit that is gone stays in the ring of the two others: killed, when its host
// still refuses what is sent to it, and with its cable pulled, when nothing comes back.
func BenchmarkLoss(b *testing.B) {
	for _, way := range []struct {
		name       string
		gone, back func(*lab.Kit) error
	}{
		{"killed", func(k *lab.Kit) error { k.Kill(); return nil }, (*lab.Kit).Restart},
		{"cable-pulled", (*lab.Kit).Unplug, (*lab.Kit).Plug},
	} {
		b.Run(way.name, func(b *testing.B) {
			l := benchLab(b, lab.Options{Kits: 3})
			defer l.Close()
			check(b, l.StartKits(b.Context()))
			var noticed []float64
			for b.Loop() {
				waitRing(b, l)
				rest(b, 5*time.Second) // until the ring has settled
				began := time.Now()
				check(b, way.gone(l.Kits[2]))
				for i := 0; i < 2; {
					if len(statusOf(b, l.Kits[i]).Ring) == 2 {
						i++
						continue
					}
					if time.Since(began) > time.Minute {
						b.Fatal("nobody noticed within a minute")
					}
					rest(b, 20*time.Millisecond)
				}
				noticed = append(noticed, time.Since(began).Seconds())
				check(b, way.back(l.Kits[2]))
			}
			report(b, noticed, "noticed-s")
		})
	}
}

// BenchmarkFlood sends REGISTER and INVITE from one handset as fast as a socket takes them, each of another
// sender in another transaction, and measures the kit's memory before, at its worst, and when all timers of the
// transactions have ended.
func BenchmarkFlood(b *testing.B) {
	const flood, linger = 15 * time.Second, 35 * time.Second // Timer H and J are 32 s (RFC 3261 §17)
	for b.Loop() {
		func() {
			l := benchLab(b, lab.Options{Kits: 1}, "anna")
			defer l.Close()
			check(b, l.StartKits(b.Context()))
			waitRing(b, l)
			seat, err := l.Handset(0)
			check(b, err)
			check(b, register(b, seat, l.Mission().Handsets[0])) // the way to the kit is open
			target := l.Kits[0]
			before := statusOf(b, target)
			c, err := dial(seat)
			check(b, err)
			defer c.Close()
			peak, sent := before, 0
			began := time.Now()
			for asked := began; time.Since(began) < flood; sent++ {
				_, _ = c.Write(request([]string{"REGISTER", "INVITE"}[sent%2], sent, seat.Server, c.LocalAddr()))
				if time.Since(asked) > 500*time.Millisecond {
					peak = worse(peak, statusOf(b, target))
					asked = time.Now()
				}
			}
			seconds := time.Since(began).Seconds()
			s := statusOf(b, target)
			peak = worse(peak, s)
			rest(b, linger)
			after := statusOf(b, target)
			if counter(s, "sip overload") == 0 {
				b.Fatal("nothing was refused, so this was no flood")
			}
			b.ReportMetric(float64(sent)/seconds, "requests/s")
			b.ReportMetric(megabytes(before), "RSS-before-MB")
			b.ReportMetric(megabytes(peak), "RSS-peak-MB")
			b.ReportMetric(megabytes(after), "RSS-35s-after-MB")
			b.ReportMetric(float64(before.Kit.Goroutines), "goroutines-before")
			b.ReportMetric(float64(peak.Kit.Goroutines), "goroutines-peak")
		}()
	}
	b.ReportMetric(0, "ns/op")
}

// request is a request of nobody, in a transaction of its own.
func request(method string, i int, server netip.Addr, from net.Addr) []byte {
	return fmt.Appendf(nil, "%s sip:%d@%s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK%d\r\nMax-Forwards: 70\r\n"+
		"From: <sip:%d@%s>;tag=%d\r\nTo: <sip:%d@%s>\r\nCall-ID: %d\r\nCSeq: 1 %s\r\nContact: <sip:x@%s>\r\nContent-Length: 0\r\n\r\n",
		method, i, server, from, i, i, server, i, i, server, i, method, from)
}

// worse is the larger of each.
func worse(a, b ui.Status) ui.Status {
	a.Kit.RSSBytes = max(a.Kit.RSSBytes, b.Kit.RSSBytes)
	a.Kit.Goroutines = max(a.Kit.Goroutines, b.Kit.Goroutines)
	return a
}
