package media

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// Call is the media of one SIP call at this kit.
type Call struct {
	relay   *Relay
	id      string
	started time.Time

	mu     sync.Mutex
	closed bool
	legs   []*Leg
	line   int // index of the m= line that is relayed; -1 before the first SDP
}

// HandsetLeg opens the port pair toward a handset that signals from the given
// address. ErrPorts when the pool is exhausted, ErrBusy at the bound of legs.
func (c *Call) HandsetLeg(name string, signalling netip.Addr) (*Leg, error) {
	if !signalling.IsValid() || signalling.IsUnspecified() {
		return nil, fmt.Errorf("handset leg %q: no signalling address", name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.room(); err != nil {
		return nil, fmt.Errorf("handset leg %q: %w", name, err)
	}
	pair, rtp, rtcp, err := c.relay.ports.open(c.relay.cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("handset leg %q: %w", name, err)
	}
	l := newLeg(c, name)
	l.handset = newHandset(l, pair, rtp, rtcp, signalling.Unmap())
	c.legs = append(c.legs, l)
	l.handset.start()
	return l, nil
}

// TrunkLeg opens a stream each way on a trunk. Give the packets the trunk
// receives to Relay.TrunkPacket. ErrKeying when the trunk has no usable keys.
func (c *Call) TrunkLeg(name string, t Trunk) (*Leg, error) {
	s, err := c.relay.session(t)
	if err != nil {
		return nil, fmt.Errorf("trunk leg %q: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.room(); err != nil {
		return nil, fmt.Errorf("trunk leg %q: %w", name, err)
	}
	l := newLeg(c, name)
	if l.trunk, err = newTrunkEnd(l, s); err != nil {
		return nil, fmt.Errorf("trunk leg %q: %w", name, err)
	}
	c.legs = append(c.legs, l)
	return l, nil
}

func (c *Call) room() error {
	switch {
	case c.closed:
		return ErrClosed
	case len(c.legs) >= maxLegs:
		return fmt.Errorf("leg %d of the call: %w", len(c.legs)+1, ErrBusy)
	}
	return nil
}

// Rewrite takes a session description that came from one leg, learns from it
// where that leg wants its media, and returns what to send out of the other
// leg. Offer or answer makes no difference, nor which side offers first. It
// opens from's latch again, so call it only for SDP of an authenticated
// dialog. Errors: ErrSDP, ErrSecureOnly, ErrNoAudio, ErrClosed.
func (c *Call) Rewrite(from, to *Leg, sdp []byte) ([]byte, error) {
	if from == nil || to == nil || from.call != c || to.call != c || from == to {
		return nil, errors.New("session description between legs that are not two of the call")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || from.closed || to.closed {
		return nil, ErrClosed
	}
	d, err := parseDescription(sdp)
	if err != nil {
		return nil, err
	}
	line, err := d.choose(c.line, from.trunk != nil)
	if err != nil {
		return nil, err
	}
	var m remote
	if line >= 0 {
		if m, err = d.learn(line, from.trunk != nil); err != nil {
			return nil, err
		}
		c.line = line
	}
	if err := from.learn(m); err != nil {
		return nil, err
	}
	return d.rewrite(line, m, to.local(m)), nil
}

// Connect makes packets flow between two legs, both ways, instead of whatever
// either was connected to before. Unconnected legs latch and drop. Nil legs or
// legs of another call are ignored.
func (c *Call) Connect(a, b *Leg) {
	if a == nil || b == nil || a == b || a.call != c || b.call != c {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || a.closed || b.closed {
		return
	}
	for _, l := range c.legs {
		if p := l.peer.Load(); l != a && l != b && (p == a || p == b) {
			l.peer.Store(nil)
		}
	}
	a.peer.Store(b)
	b.peer.Store(a)
}

// Stats returns what the call's legs have measured.
func (c *Call) Stats() CallStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := CallStats{ID: c.id, Started: c.started}
	for _, l := range c.legs {
		s.Legs = append(s.Legs, l.stats())
	}
	return s
}

// Close ends the call: its ports are freed, its streams forgotten, and packets
// that still come are dropped. It waits for the call's goroutines.
func (c *Call) Close() {
	c.mu.Lock()
	c.closed = true
	legs := c.legs
	for _, l := range legs {
		l.shut()
	}
	c.mu.Unlock()
	for _, l := range legs {
		l.wait()
	}
	c.relay.forget(c)
}
