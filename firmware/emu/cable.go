package emu

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Cable is an Ethernet segment: what one plug sends, all others hear. It may be used by any goroutine.
type Cable struct {
	mu    sync.Mutex // leaf; guards what follows
	plugs map[*plug]bool

	frames, lost atomic.Uint64
}

// Bounds of a cable. A machine that does not take its frames loses those that come when its queue is full, as at a
// real switch.
const (
	maxFrame  = 64 << 10
	plugQueue = 256
	// patience is how long one frame may take to be written: longer means that the machine is dead.
	patience = 5 * time.Second
)

// NewCable makes a segment without plugs.
func NewCable() *Cable { return &Cable{plugs: make(map[*plug]bool)} }

// Frames is how many frames were sent, and how many copies of them were lost because a machine did not take them.
func (c *Cable) Frames() (sent, lost uint64) { return c.frames.Load(), c.lost.Load() }

type plug struct {
	cable *Cable
	conn  net.Conn
	queue chan []byte
	done  chan struct{}
	once  sync.Once
	busy  sync.WaitGroup
}

// plugIn connects a machine: QEMU's stream of frames, each after its length in four bytes.
func (c *Cable) plugIn(conn net.Conn) *plug {
	p := &plug{cable: c, conn: conn, queue: make(chan []byte, plugQueue), done: make(chan struct{})}
	c.mu.Lock()
	c.plugs[p] = true
	c.mu.Unlock()
	p.busy.Go(p.receive)
	p.busy.Go(p.send)
	return p
}

// pull disconnects the machine and waits until nothing of the plug is left.
func (p *plug) pull() {
	p.cable.mu.Lock()
	delete(p.cable.plugs, p)
	p.cable.mu.Unlock()
	p.once.Do(func() { close(p.done) })
	_ = p.conn.Close()
	p.busy.Wait()
}

func (p *plug) receive() {
	var length [4]byte
	for {
		if _, err := io.ReadFull(p.conn, length[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(length[:])
		if n > maxFrame {
			return
		}
		frame := make([]byte, 4+n)
		copy(frame, length[:])
		if _, err := io.ReadFull(p.conn, frame[4:]); err != nil {
			return
		}
		p.cable.frames.Add(1)
		p.cable.mu.Lock()
		for other := range p.cable.plugs {
			if other == p {
				continue
			}
			select {
			case other.queue <- frame:
			default:
				p.cable.lost.Add(1)
			}
		}
		p.cable.mu.Unlock()
	}
}

func (p *plug) send() {
	for {
		select {
		case <-p.done:
			return
		case frame := <-p.queue:
			if err := p.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
				return
			}
			if _, err := p.conn.Write(frame); err != nil {
				return
			}
		}
	}
}
