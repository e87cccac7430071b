package boot

import (
	"bytes"
	"io"
	"sync"
)

// ringSize is how much of what was written last is kept.
const ringSize = 64 << 10

// ring keeps the end of what was written to it. It may be used by any goroutine.
type ring struct {
	mu    sync.Mutex
	buf   []byte
	start int
}

// Write implements io.Writer; it never fails.
func (r *ring) Write(b []byte) (int, error) {
	n := len(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(b) >= ringSize {
		r.buf, r.start = append(r.buf[:0], b[len(b)-ringSize:]...), 0
		return n, nil
	}
	free := min(ringSize-len(r.buf), len(b))
	r.buf, b = append(r.buf, b[:free]...), b[free:]
	for len(b) > 0 {
		c := copy(r.buf[r.start:], b)
		r.start, b = (r.start+c)%ringSize, b[c:]
	}
	return n, nil
}

// bytes is a copy of what is kept, the oldest first.
func (r *ring) bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(bytes.Clone(r.buf[r.start:]), r.buf[:r.start]...)
}

// console writes what it gets to a terminal that may be slow, and never makes its writers wait for it: a serial line
// takes 11 kB a second, and a daemon that waits for one to take its log serves nobody. What does not fit is dropped,
// and that is said.
type console struct {
	out   io.Writer
	queue chan []byte

	mu      sync.Mutex
	dropped int // writes since the last one that fitted
}

// consoleQueue is how many writes wait.
const consoleQueue = 256

func newConsole(out io.Writer) *console {
	c := &console{out: out, queue: make(chan []byte, consoleQueue)}
	go func() {
		for b := range c.queue {
			_, _ = c.out.Write(b)
		}
	}()
	return c
}

// Write implements io.Writer; it never fails and never waits.
func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	line := bytes.Clone(b)
	if c.dropped > 0 {
		line = append([]byte("…\n"), line...)
	}
	select {
	case c.queue <- line:
		c.dropped = 0
	default:
		c.dropped++
	}
	return len(b), nil
}
