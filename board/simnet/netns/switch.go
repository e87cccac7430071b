//go:build linux

package netns

import (
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Condition is what a frame meets on its way from one port of a Switch to another.
type Condition struct {
	Loss  float64       // probability per frame and direction, 0 to 1
	Delay time.Duration // one way
}

// maxInFlight bounds the frames that wait in a Switch; more are dropped, as in a full buffer.
const maxInFlight = 16384

// Switch joins interfaces of one host like an Ethernet switch that loses and delays frames. It
// stands in for the kernel's network emulation, which small kernels are built without.
type Switch struct {
	cond    atomic.Pointer[Condition]
	Passed  atomic.Uint64 // frames written to a port
	Dropped atomic.Uint64 // by Loss
	Full    atomic.Uint64 // by maxInFlight

	readers sync.WaitGroup

	mu    sync.Mutex // guards ports, queue and table
	ports []*port
	queue flight
	table map[[6]byte]*port
	wake  chan struct{}
}

type port struct{ file *os.File }

type frame struct {
	due time.Time
	seq uint64
	to  *port
	b   []byte
}

type flight []frame

func (f flight) Len() int { return len(f) }
func (f flight) Less(i, j int) bool {
	return f[i].due.Before(f[j].due) || f[i].due.Equal(f[j].due) && f[i].seq < f[j].seq
}
func (f flight) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *flight) Push(x any)   { *f = append(*f, x.(frame)) }
func (f *flight) Pop() any {
	old := *f
	last := old[len(old)-1]
	old[len(old)-1] = frame{}
	*f = old[:len(old)-1]
	return last
}

// NewSwitch opens the named interfaces of h as ports and brings them up. The far ends of their
// cables need NoOffload. Run moves the frames.
func NewSwitch(h *Host, c Condition, names ...string) (*Switch, error) {
	s := &Switch{table: map[[6]byte]*port{}, wake: make(chan struct{}, 1)}
	s.SetCondition(c)
	for _, name := range names {
		if err := s.Plug(h, name); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// Plug makes one more interface of h a port and brings it up; the switch may be running. A port whose
// interface is gone stays, and carries nothing.
func (s *Switch) Plug(h *Host, name string) error {
	if err := h.Up(name); err != nil {
		return err
	}
	p, err := openPort(h, name)
	if err != nil {
		return fmt.Errorf("switch port %s/%s: %w", h.name, name, err)
	}
	s.mu.Lock()
	s.ports = append(s.ports, p)
	s.mu.Unlock()
	s.readers.Go(func() { s.read(p) })
	return nil
}

func openPort(h *Host, name string) (p *port, err error) {
	err = h.Do(func() error {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
		if err != nil {
			return err
		}
		addr := &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}
		if err := errors.Join(
			unix.Bind(fd, addr),
			// Promiscuous: the frames are addressed to the far hosts, not to this port.
			unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(ifi.Index), Type: unix.PACKET_MR_PROMISC}),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20),
		); err != nil {
			unix.Close(fd)
			return err
		}
		p = &port{file: os.NewFile(uintptr(fd), name)}
		return nil
	})
	return p, err
}

// SetCondition changes loss and delay for the frames that arrive from now on.
func (s *Switch) SetCondition(c Condition) { s.cond.Store(&c) }

// Run moves frames until ctx ends, then closes the ports.
func (s *Switch) Run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Reset(s.deliver(time.Now()))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.wake:
		}
	}
	s.close()
	s.readers.Wait()
}

func (s *Switch) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		_ = p.file.Close()
	}
}

// read takes the frames of one port until it is closed or its interface is gone for good.
func (s *Switch) read(p *port) {
	buf := make([]byte, 65536)
	var seq uint64
	for {
		n, err := p.file.Read(buf)
		if errors.Is(err, unix.ENETDOWN) {
			continue // the cable was pulled; frames come again when it is back
		}
		if err != nil {
			return
		}
		if n < 14 {
			continue
		}
		seq++
		s.accept(p, append([]byte(nil), buf[:n]...), seq)
	}
}

func (s *Switch) accept(from *port, b []byte, seq uint64) {
	c := s.cond.Load()
	due := time.Now().Add(c.Delay)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.table) < 1024 {
		s.table[[6]byte(b[6:12])] = from
	}
	known := s.table[[6]byte(b[:6])]
	for _, to := range s.ports {
		switch {
		case to == from, known != nil && known != to:
		case rand.Float64() < c.Loss:
			s.Dropped.Add(1)
		case len(s.queue) >= maxInFlight:
			s.Full.Add(1)
		default:
			heap.Push(&s.queue, frame{due, seq, to, b})
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// deliver writes what is due and returns how long until the next frame is.
func (s *Switch) deliver(now time.Time) time.Duration {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.mu.Unlock()
			return time.Hour
		}
		if wait := s.queue[0].due.Sub(now); wait > 0 {
			s.mu.Unlock()
			return wait
		}
		f := heap.Pop(&s.queue).(frame)
		s.mu.Unlock()
		if _, err := f.to.file.Write(f.b); err == nil { // an unplugged port loses frames, as a cable does
			s.Passed.Add(1)
		}
	}
}
