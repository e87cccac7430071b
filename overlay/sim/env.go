package sim

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"fieldkit/overlay/config"
	"fieldkit/overlay/peer"
	"fieldkit/overlay/wire"
)

// What a board's workers take for one signature, made or checked, and how many of them there are: a kit of the
// Raspberry Pi class and the two workers of overlay/node.
const (
	signTime   = 100 * time.Microsecond
	verifyTime = 300 * time.Microsecond
	workers    = 2
	jobQueue   = 256
)

// Work is peer.Env's: a job takes its time on one of the kit's workers.
func (k *Kit) Work(q peer.Queue, job func() func(time.Time)) bool {
	if k.jobs[q] >= jobQueue {
		k.w.count.JobsDropped++
		return false
	}
	k.jobs[q]++
	cost := signTime
	if q == peer.Verifying {
		cost = verifyTime
	}
	free := 0
	for i := range k.busy {
		if k.busy[i] < k.busy[free] {
			free = i
		}
	}
	end := max(k.busy[free], k.w.k.now).add(cost)
	k.busy[free] = end
	life := k.life
	k.w.k.at(end, func() {
		if k.life != life {
			return
		}
		k.jobs[q]--
		job()(k.w.now())
		k.after()
	})
	return true
}

// handshake is how long flights of one packet each take with what is lost sent again, and whether they got through.
func (w *World) handshake(flights int, interval, limit time.Duration) (time.Duration, bool) {
	var d time.Duration
	for range flights {
		for w.lost() {
			if d += interval; d > limit {
				return limit, false
			}
		}
		d += w.latency()
	}
	return d, d <= limit
}

// Bootstrap is peer.Env's: DTLS with the cookie exchange, no ICE (RFC 6940 §11.4).
func (k *Kit) Bootstrap(addr netip.AddrPort, done func(time.Time, peer.Link, error)) (cancel func()) {
	w, life, ended := k.w, k.life, false
	far := w.byAddr[addr]
	end := func(l peer.Link, err error) {
		if ended || k.life != life {
			return
		}
		ended = true
		done(w.now(), l, err)
		k.after()
	}
	took, ok := w.handshake(bootFlights, bootFlight, connectTimeout)
	k.ledger.Handshakes += bootBytes / 2
	w.k.after(took, func() {
		if ended || k.life != life {
			return
		}
		if !ok || far == nil || !w.reach(k, far) || far.accepted() >= acceptedPerKit {
			w.k.after(connectTimeout-took, func() { end(nil, errUnreachable) })
			return
		}
		far.ledger.Handshakes += bootBytes / 2
		w.count.Bootstraps++
		x, y := join(k, far, false, 0)
		far.peer.LinkUp(w.now(), y)
		far.after()
		end(x, nil)
	})
	return func() { w.k.after(0, func() { end(nil, errUnreachable) }) }
}

func (k *Kit) accepted() (n int) {
	for _, e := range k.ends {
		if !e.attached {
			n++
		}
	}
	return n
}

// attempt is one side of an Attach. The two sides find each other by the ICE user name fragments that the Attach
// carried.
type attempt struct {
	kit     *Kit
	life    int
	ufrag   string
	remote  string // the other side's, once known
	peer    wire.NodeID
	done    func(time.Time, peer.Link, error)
	started bool
	ended   bool
}

// Prepare is peer.Env's.
func (k *Kit) Prepare(done func(time.Time, peer.Attempt, error)) (cancel func()) {
	w, life, cancelled := k.w, k.life, false
	w.k.after(prepareTime, func() {
		if k.life != life {
			return
		}
		if cancelled || k.attempts >= attemptsPerKit {
			done(w.now(), nil, errUnreachable)
			k.after()
			return
		}
		k.attempts++
		w.ufrag++
		a := &attempt{kit: k, life: life, ufrag: fmt.Sprintf("%016x", w.ufrag)}
		w.attempts[a.ufrag] = a
		w.k.after(attemptLife, func() {
			if !a.started {
				a.drop()
			}
		})
		done(w.now(), a, nil)
		k.after()
	})
	return func() { cancelled = true }
}

// drop forgets the attempt. It may be called more than once.
func (a *attempt) drop() {
	if w := a.kit.w; w.attempts[a.ufrag] == a {
		delete(w.attempts, a.ufrag)
		if a.kit.life == a.life {
			a.kit.attempts--
		}
	}
	a.ended = true
}

// Local is peer.Attempt's: what overlay/link gathers on a host with one IPv4 address.
func (a *attempt) Local() wire.IceParameters {
	return wire.IceParameters{
		Ufrag: []byte(a.ufrag), Password: []byte(a.ufrag + a.ufrag),
		Candidates: []wire.IceCandidate{{
			Addr: a.kit.addr, Link: wire.LinkDTLSUDPSR, Foundation: []byte(strconv.Itoa(2_090_009_598)),
			Priority: 2_130_706_431, Type: wire.CandHost,
		}},
	}
}

// Close is peer.Attempt's.
func (a *attempt) Close() error {
	a.drop()
	return nil
}

func (a *attempt) end(l peer.Link, err error) {
	if a.ended {
		return
	}
	a.drop()
	if a.kit.life == a.life {
		a.done(a.kit.w.now(), l, err)
		a.kit.after()
	}
}

// Connect is peer.Env's: ICE, one round trip, and DTLS, two, once both sides have begun.
func (k *Kit) Connect(x peer.Attempt, remote wire.IceParameters, id wire.NodeID, _ bool, done func(time.Time, peer.Link, error)) (cancel func()) {
	w := k.w
	a, ok := x.(*attempt)
	if !ok || a.ended {
		w.k.after(0, func() { done(w.now(), nil, errClosed); k.after() })
		return func() {}
	}
	a.started, a.remote, a.peer, a.done = true, string(remote.Ufrag), id, done
	w.k.after(connectTimeout, func() { a.end(nil, errUnreachable) })
	if b := w.attempts[a.remote]; b != nil && b.started && b.remote == a.ufrag {
		w.connect(a, b)
	}
	return func() { w.k.after(0, func() { a.end(nil, errUnreachable) }) }
}

// checkLost reports whether a connectivity check or its answer is lost.
func (w *World) checkLost() bool {
	if w.lost() {
		return true
	}
	return w.lost()
}

// connect runs between two attempts that know of each other.
func (w *World) connect(a, b *attempt) {
	ice, rtt := time.Duration(0), w.latency()+w.latency()
	for w.checkLost() {
		ice += checkInterval
	}
	dtls, ok := w.handshake(dtlsFlights, min(max(2*rtt, minFlight), maxFlight), connectTimeout)
	if d := ice + rtt + dtls; ok && d <= connectTimeout {
		w.k.after(d, func() {
			if a.ended || b.ended || a.kit.life != a.life || b.kit.life != b.life || !w.reach(a.kit, b.kit) {
				return // each side's own timeout ends it
			}
			if a.peer != b.kit.self.NodeID || b.peer != a.kit.self.NodeID {
				return
			}
			a.kit.ledger.Handshakes += attachBytes / 2
			b.kit.ledger.Handshakes += attachBytes / 2
			w.count.Attaches++
			x, y := join(a.kit, b.kit, true, rtt)
			a.end(x, nil)
			b.end(y, nil)
		})
	}
}

// ConnectApp is peer.Env's. Application connections are not simulated.
func (k *Kit) ConnectApp(_ peer.Attempt, _ wire.IceParameters, _ wire.NodeID, _ bool, done func(time.Time, peer.AppConn, error)) (cancel func()) {
	k.w.k.after(0, func() { done(k.w.now(), nil, errUnreachable); k.after() })
	return func() {}
}

// Discard is peer.Env's.
func (k *Kit) Discard(c io.Closer) { _ = c.Close() }

// HandlesApp is peer.Env's.
func (k *Kit) HandlesApp(uint16) bool { return false }

// AcceptApp is peer.Env's. It is never called, since HandlesApp denies every application.
func (k *Kit) AcceptApp(_ uint16, c peer.AppConn) { _ = c.Close() }

// SaveStorageTime is peer.Env's.
func (k *Kit) SaveStorageTime(ms uint64, done func(time.Time, error)) {
	life := k.life
	k.w.k.after(time.Millisecond, func() {
		if k.life == life {
			k.storageTime = ms
			done(k.w.now(), nil)
			k.after()
		}
	})
}

// NewDocument is peer.Env's.
func (k *Kit) NewDocument(*config.Document) {}

// Changed is peer.Env's.
func (k *Kit) Changed() {}

// drained takes all links of a kit that is gone. Their far ends find out by themselves.
func (k *Kit) drained() []*End {
	list := slices.Clone(k.ends)
	for _, e := range list {
		e.end()
	}
	return list
}
