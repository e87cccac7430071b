package board

import (
	"sync"
	"time"
)

// Simulated is hardware in memory: it records what is lit, and its button is
// moved by Push and Release. Any goroutine may use it.
type Simulated struct {
	mu      sync.Mutex
	lit     [ledCount]bool
	changes [ledCount]uint64
	pressed bool
	edges   chan struct{}
}

// NewSimulated makes the hardware of a box with all LEDs and a button.
func NewSimulated() *Simulated { return &Simulated{edges: make(chan struct{}, 16)} }

// Hardware returns it for New.
func (s *Simulated) Hardware() Hardware {
	hw := Hardware{Name: "simulated", Button: s}
	for l := range ledCount {
		hw.Lamps[l] = simLamp{s, l}
	}
	return hw
}

type simLamp struct {
	s *Simulated
	l LED
}

func (l simLamp) Set(on bool) error {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.s.lit[l.l] != on {
		l.s.lit[l.l] = on
		l.s.changes[l.l]++
	}
	return nil
}

// Lit reports whether an LED is lit.
func (s *Simulated) Lit(l LED) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l >= 0 && l < ledCount && s.lit[l]
}

// Changes counts how often an LED went on or off.
func (s *Simulated) Changes(l LED) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l < 0 || l >= ledCount {
		return 0
	}
	return s.changes[l]
}

// Push presses the button.
func (s *Simulated) Push() { s.move(true) }

// Release lets the button go.
func (s *Simulated) Release() { s.move(false) }

func (s *Simulated) move(down bool) {
	s.mu.Lock()
	s.pressed = down
	s.mu.Unlock()
	select {
	case s.edges <- struct{}{}:
	default: // edges enough wait to be looked at
	}
}

// Wait implements Button.
func (s *Simulated) Wait(timeout time.Duration) bool {
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-s.edges:
		return true
	case <-t.C:
		return false
	}
}

// Pressed implements Button.
func (s *Simulated) Pressed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pressed
}
