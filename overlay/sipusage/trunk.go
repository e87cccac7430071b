package sipusage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"fieldkit/overlay/node"
	"fieldkit/overlay/wire"
)

// Times and limits of trunks.
const (
	maxTrunks    = 64
	maxOpening   = 4
	maxWaiting   = 64               // callers waiting for one trunk
	openTime     = 30 * time.Second // for one attempt
	glareWait    = 6 * time.Second  // for the other side's own attempt to arrive
	openTries    = 3
	replaceAfter = 3 * time.Second // the old trunk lives on so long after a new one came
	aheadDelay   = time.Second
	reopenMin    = 2 * time.Second
	reopenMax    = time.Minute
)

// Trunk is the connection to one other kit. There is one for each pair of kits, shared by all calls. Its methods
// may be called from any goroutine; none blocks.
type Trunk struct {
	conn     node.AppConn
	peer     wire.NodeID
	since    time.Time
	first    sync.Once
	mu       sync.Mutex // of Handle only
	handlers atomic.Pointer[trunkHandlers]
}

type trunkHandlers struct{ message, media func([]byte) }

func newTrunk(conn node.AppConn, now time.Time) *Trunk {
	t := &Trunk{conn: conn, peer: conn.Peer().NodeID, since: now}
	t.handlers.Store(&trunkHandlers{func([]byte) {}, func([]byte) {}})
	return t
}

// Kit is the other kit's Node-ID in hex.
func (t *Trunk) Kit() string { return t.peer.String() }

// Peer is the other kit's Node-ID.
func (t *Trunk) Peer() wire.NodeID { return t.peer }

// Since is when the trunk was made.
func (t *Trunk) Since() time.Time { return t.since }

// SendMessage sends one SIP message.
func (t *Trunk) SendMessage(b []byte) error { return t.conn.SendMessage(b) }

// SendMedia sends one SRTP or SRTCP packet.
func (t *Trunk) SendMedia(b []byte) error { return t.conn.SendMedia(b) }

// Handle sets who gets SIP messages and who gets SRTP and SRTCP packets; nil leaves the one that is set. What
// comes before the first call is kept as the connection keeps it. The slices are valid during the call only.
func (t *Trunk) Handle(onMessage, onMedia func([]byte)) {
	t.mu.Lock()
	h := *t.handlers.Load()
	if onMessage != nil {
		h.message = onMessage
	}
	if onMedia != nil {
		h.media = onMedia
	}
	t.handlers.Store(&h)
	t.mu.Unlock()
	t.first.Do(func() {
		t.conn.Handle(func(b []byte) { t.handlers.Load().message(b) }, func(b []byte) { t.handlers.Load().media(b) })
	})
}

// ExportKeyingMaterial is the exporter of RFC 5705 of the trunk's handshake.
func (t *Trunk) ExportKeyingMaterial(label string, context []byte, n int) ([]byte, error) {
	return t.conn.ExportKeyingMaterial(label, context, n)
}

// IsClient says which half of the exported keys is this kit's (RFC 5764 §4.2).
func (t *Trunk) IsClient() bool { return t.conn.IsClient() }

// SRTPProfile is the protection profile that was negotiated by use_srtp.
func (t *Trunk) SRTPProfile() uint16 { return t.conn.SRTPProfile() }

// Done is closed when the trunk is gone.
func (t *Trunk) Done() <-chan struct{} { return t.conn.Done() }

// Close ends the trunk.
func (t *Trunk) Close() error { return t.conn.Close() }

func (t *Trunk) alive() bool {
	select {
	case <-t.conn.Done():
		return false
	default:
		return true
	}
}

// peerTrunk is what the loop knows of the trunk to one peer.
type peerTrunk struct {
	peer    wire.NodeID
	trunk   *Trunk // nil: none
	opening bool
	waiting []chan opened
	ahead   bool      // wanted without a caller
	at      time.Time // not opened ahead of need before
	fails   int
}

type opened struct {
	trunk *Trunk
	err   error
}

func (p *peerTrunk) tell(t *Trunk, err error) {
	for _, c := range p.waiting {
		c <- opened{t, err}
	}
	p.waiting = nil
}

// Trunk returns the trunk to another kit, opening it if there is none. Callers at the same time share one attempt.
// When both kits open at once, both get the same trunk.
func (u *Usage) Trunk(ctx context.Context, peer wire.NodeID) (*Trunk, error) {
	end := make(chan opened, 1)
	err := u.post(ctx, func(l *loop) {
		p, err := l.peerTrunk(peer)
		switch {
		case err != nil:
			end <- opened{nil, err}
		case p.trunk != nil && p.trunk.alive():
			end <- opened{p.trunk, nil}
		case len(p.waiting) >= maxWaiting:
			end <- opened{nil, fmt.Errorf("%w: callers waiting for the trunk to %s", ErrFull, peer)}
		default:
			p.waiting = append(p.waiting, end)
			l.open(p)
		}
	})
	if err != nil {
		return nil, err
	}
	select {
	case o := <-end:
		return o.trunk, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("trunk to %s: %w", peer, ctx.Err())
	case <-u.done:
		return nil, ErrClosed
	}
}

func (l *loop) peerTrunk(peer wire.NodeID) (*peerTrunk, error) {
	if p := l.trunks[peer]; p != nil {
		return p, nil
	}
	if peer == l.u.cfg.Identity.NodeID() {
		return nil, errors.New("trunk to this kit itself")
	}
	if len(l.trunks) >= maxTrunks {
		return nil, fmt.Errorf("%w: trunks", ErrFull)
	}
	p := &peerTrunk{peer: peer}
	l.trunks[peer] = p
	return p, nil
}

func (l *loop) opening() (n int) {
	for _, p := range l.trunks {
		if p.opening {
			n++
		}
	}
	return n
}

// open starts an attempt, unless there is one. AppAttaches of both sides at once are decided in node
// (RFC 6940 §6.5.1.2); the side that yields waits here for the other's.
func (l *loop) open(p *peerTrunk) {
	if p.opening {
		return
	}
	p.opening = true
	peer := p.peer
	l.background(func(ctx context.Context) func(*loop) {
		ctx, cancel := context.WithTimeout(ctx, openTime)
		defer cancel()
		conn, err := l.u.openTrunk(ctx, peer)
		var t *Trunk
		if err == nil {
			t = newTrunk(conn, l.u.cfg.Now())
			if f := l.u.cfg.OnTrunk; f != nil {
				f(t, false)
			}
		}
		return func(l *loop) {
			p.opening = false
			switch {
			case err == nil:
				l.counts.TrunksOpened++
				l.adopt(p, t)
			case p.trunk != nil && p.trunk.alive():
				p.tell(p.trunk, nil) // the other side's came meanwhile
			default:
				l.counts.TrunksFailed++
				p.fails++
				p.at = l.now.Add(reopen(p.fails))
				l.u.log.Info("trunk not opened", "peer", peer, "err", err)
				p.tell(nil, err)
			}
		}
	})
}

func reopen(fails int) time.Duration {
	d := min(reopenMin<<min(fails, 5), reopenMax)
	return d/2 + rand.N(d)
}

// openTrunk makes AppAttaches until one succeeds or the other side's arrives.
func (u *Usage) openTrunk(ctx context.Context, peer wire.NodeID) (node.AppConn, error) {
	var err error
	app := Application
	for range openTries {
		var conn node.AppConn
		if conn, err = u.cfg.Node.AppAttach(ctx, peer, app); err == nil {
			return conn, nil
		}
		if app == Application && node.IsRemote(err, wire.ErrorNotFound) {
			// "a callee that decides to accept SIPS calls only" (RFC 7904 §5.1). Its contact_prefs should say so, but a
			// trunk serves all who are registered at that kit.
			app = ApplicationSIPS
			continue
		}
		if !errors.Is(err, node.ErrInProgress) {
			break
		}
		if u.arrived(ctx, peer) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("trunk to %s: %w", peer, err)
}

// arrived waits for the other side's trunk.
func (u *Usage) arrived(ctx context.Context, peer wire.NodeID) bool {
	ctx, cancel := context.WithTimeout(ctx, glareWait)
	defer cancel()
	for tick := 50 * time.Millisecond; ; tick = min(2*tick, time.Second) {
		there := make(chan bool, 1)
		if u.post(ctx, func(l *loop) {
			p := l.trunks[peer]
			there <- p != nil && p.trunk != nil && p.trunk.alive()
		}) != nil {
			return false
		}
		select {
		case yes := <-there:
			if yes {
				return true
			}
		case <-ctx.Done():
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(tick):
		}
	}
}

// accept takes a trunk that another kit opened. node calls it in a goroutine of its own.
func (u *Usage) accept(conn node.AppConn) {
	t := newTrunk(conn, u.cfg.Now())
	u.cfg.OnTrunk(t, true)
	err := u.post(context.Background(), func(l *loop) {
		p, err := l.peerTrunk(t.peer)
		if err != nil {
			l.background(func(context.Context) func(*loop) { _ = conn.Close(); return nil })
			return
		}
		l.counts.Accepted++
		l.adopt(p, t)
	})
	if err != nil {
		_ = conn.Close()
	}
}

// adopt makes t the trunk to its peer. One that was there is replaced: the other side opens a new one only
// when it has lost the old.
func (l *loop) adopt(p *peerTrunk, t *Trunk) {
	old := p.trunk
	p.trunk, p.fails = t, 0
	p.tell(t, nil)
	l.u.log.Info("trunk", "peer", p.peer)
	l.background(func(ctx context.Context) func(*loop) {
		if old != nil {
			select {
			case <-time.After(replaceAfter):
			case <-ctx.Done():
			}
			_ = old.Close()
		}
		select {
		case <-t.Done():
		case <-ctx.Done():
			return nil
		}
		return func(l *loop) {
			if p.trunk != t {
				return
			}
			l.counts.Lost++
			l.u.log.Info("trunk lost", "peer", p.peer)
			p.trunk = nil
			p.at = l.now.Add(reopen(0))
			if !p.ahead && !p.opening {
				delete(l.trunks, p.peer)
			}
		}
	})
}

// trunksChanged looks which trunks are to be opened ahead of need.
func (l *loop) trunksChanged() {
	limit := l.u.cfg.Ahead
	if limit <= 0 {
		return
	}
	if l.looking {
		l.again = true
		return
	}
	l.looking = true
	self := l.u.cfg.Identity.NodeID()
	l.background(func(ctx context.Context) func(*loop) {
		s, err := l.u.cfg.Node.Snapshot(ctx)
		return func(l *loop) {
			l.looking = false
			if l.again {
				l.again = false
				l.trunksChanged()
			}
			if err != nil {
				return
			}
			members := map[wire.NodeID]bool{}
			if len(s.Ring) <= limit {
				for _, id := range s.Ring {
					members[id] = id != self
				}
			}
			for id, p := range l.trunks {
				if p.ahead && !members[id] {
					p.ahead = false
					if p.trunk == nil && !p.opening && len(p.waiting) == 0 {
						delete(l.trunks, id)
					}
				}
			}
			for id, other := range members {
				if p, err := l.peerTrunk(id); other && err == nil && !p.ahead {
					p.ahead = true
					p.at = l.now.Add(aheadDelay)
					if self.Compare(id) < 0 {
						p.at = l.now.Add(3*aheadDelay + rand.N(aheadDelay)) // only if the other does not
					}
				}
			}
		}
	})
}

// workTrunks opens what is due ahead of need and returns how long there is nothing to do.
func (l *loop) workTrunks() time.Duration {
	sleep := time.Minute
	for _, p := range l.trunks {
		if !p.ahead || p.trunk != nil || p.opening {
			continue
		}
		if d := p.at.Sub(l.now); d > 0 {
			sleep = min(sleep, d)
		} else if l.opening() < maxOpening {
			l.open(p)
		}
	}
	return sleep
}

// Trunks are the trunks that are open, for people and tests.
func (u *Usage) Trunks(ctx context.Context) (list []*Trunk, err error) {
	err = u.wait(ctx, func(l *loop, end chan error) {
		for _, p := range l.trunks {
			if p.trunk != nil && p.trunk.alive() {
				list = append(list, p.trunk)
			}
		}
		end <- nil
	})
	return list, err
}
