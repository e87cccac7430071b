package media

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// Leg is one side of a call's media: a handset or a stream on a trunk. Exactly
// one of handset and trunk is set.
type Leg struct {
	call    *Call
	name    string
	handset *handset
	trunk   *trunkEnd
	closed  bool // under call.mu

	peer     atomic.Pointer[Leg]        // where packets that come in here go
	clocks   atomic.Pointer[clockTable] // RTP clock rates by payload type
	in       meter                      // RTP that came from here; run by the leg's packet goroutine
	out      counter                    // RTP sent out here
	reported report                     // what the far receiver says of what was sent out here
	drops    drops
}

func newLeg(c *Call, name string) *Leg {
	l := &Leg{call: c, name: name}
	l.clocks.Store(&defaultClocks)
	return l
}

// Name is the name given when the leg was made.
func (l *Leg) Name() string { return l.name }

// Moved tells a handset leg that the handset signals from another address now
// (an authenticated registration): the latch opens for that address.
func (l *Leg) Moved(signalling netip.Addr) {
	l.call.mu.Lock()
	defer l.call.mu.Unlock()
	if l.handset != nil && signalling.IsValid() && !l.closed {
		l.handset.moved(signalling.Unmap())
	}
}

// Close ends one leg of a call that goes on: a fork that was not answered. Its
// ports are free again.
func (l *Leg) Close() {
	c := l.call
	c.mu.Lock()
	l.shut()
	for i, other := range c.legs {
		if other == l {
			c.legs = append(c.legs[:i:i], c.legs[i+1:]...)
			break
		}
	}
	for _, other := range c.legs {
		other.peer.CompareAndSwap(l, nil)
	}
	c.mu.Unlock()
	l.wait()
}

// shut stops the leg; c.mu is held. wait afterwards, without the lock.
func (l *Leg) shut() {
	if l.closed {
		return
	}
	l.closed = true
	l.peer.Store(nil)
	if l.handset != nil {
		l.handset.close()
	}
	if l.trunk != nil {
		l.trunk.close()
	}
}

func (l *Leg) wait() {
	if l.handset != nil {
		l.handset.readers.Wait()
	}
}

// learn takes over what the leg's own SDP said.
func (l *Leg) learn(m remote) error {
	if m.clocks != nil {
		l.clocks.Store(m.clocks)
	}
	if l.handset != nil {
		l.handset.learn(m)
		return nil
	}
	return l.trunk.learn(m)
}

// local is what SDP that goes out of this leg says of this kit's side.
func (l *Leg) local(m remote) local {
	if l.handset != nil {
		return l.handset.local(m)
	}
	return l.trunk.local()
}

// rtp forwards a valid RTP packet that came in on the leg. The packet may be
// changed in place.
func (l *Leg) rtp(b []byte, now time.Duration) {
	l.in.observe(b, now, l.clocks.Load())
	p := l.peer.Load()
	switch {
	case p == nil:
		l.drops.unconnected.Add(1)
	case p.handset != nil:
		p.handset.sendRTP(b)
	default:
		p.trunk.sendRTP(b)
	}
}

// rtcp forwards a valid compound RTCP packet that came in on the leg.
func (l *Leg) rtcp(b []byte) {
	p := l.peer.Load()
	if p == nil {
		l.drops.unconnected.Add(1)
		return
	}
	l.reported.take(b, l.trunk, p.in.rate.Load())
	switch {
	case p.trunk != nil:
		p.trunk.sendRTCP(l, b)
	case l.trunk == nil:
		p.handset.sendRTCP(b) // both handsets see each other's own SSRCs
	default:
		var scratch [maxPacket]byte
		if out := translate(scratch[:0], b, l, p); len(out) > 0 {
			p.handset.sendRTCP(out)
		}
	}
}
