package node

import (
	"testing"
	"time"
)

func TestSnake(t *testing.T) {
	for in, want := range map[string]string{"TTLExceeded": "ttl_exceeded", "BadSignature": "bad_signature", "Sent": "sent"} {
		if got := snake(in); got != want {
			t.Errorf("snake(%s) = %s, want %s", in, got, want)
		}
	}
}

// New refuses what cannot run.
func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("an empty configuration is taken")
	}
}

// pulsing is a Conn whose far end was last heard at a time of the system's clock.
type pulsing struct {
	Conn
	at time.Time
}

func (p *pulsing) Heard() time.Time { return p.at }
func (p *pulsing) Check() bool      { return true }

// The loop's clock and the system's need not agree, and either may jump: neither keeps a dead link alive nor kills one
// that lives.
func TestSignOfLifeByAnotherClock(t *testing.T) {
	now := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	p := &pulsing{}
	k := (&env{n: &Node{now: func() time.Time { return now }}}).link(p)
	if got := k.Heard(); !got.IsZero() {
		t.Errorf("heard %v before anything was", got)
	}
	for _, c := range []struct {
		name string
		at   time.Time // of the sign of life, by the system's clock
		want time.Duration
	}{
		{"just now", time.Now(), 0},
		{"two seconds ago", time.Now().Add(-2 * time.Second), 2 * time.Second},
		{"an hour ago: the clock jumped forward meanwhile", time.Now().Add(-time.Hour), 4 * time.Second},
		{"in an hour: it jumped back", time.Now().Add(time.Hour), 0},
	} {
		now = now.Add(4 * time.Second)
		p.at = c.at
		if age := now.Sub(k.Heard()); age < c.want || age > c.want+time.Second {
			t.Errorf("%s: heard %v ago, want %v", c.name, age, c.want)
		}
		at := k.Heard()
		now = now.Add(10 * time.Second)
		if !k.Heard().Equal(at) {
			t.Errorf("%s: heard again without a sign of life", c.name)
		}
		now = now.Add(-10 * time.Second)
		k.Heard()
	}
	if (&link{Conn: silent{}}).Check() {
		t.Error("a Conn without checks was asked")
	}
}

type silent struct{ Conn }
