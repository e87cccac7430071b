package emu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
)

// QMP is a connection to QEMU's machine protocol. Its methods may be called from any goroutine.
type QMP struct {
	conn io.ReadWriteCloser

	one sync.Mutex // held during a command: they are answered in order

	mu      sync.Mutex // leaf; guards what follows
	answers chan qmpMessage
	events  map[string]int
	changed chan struct{} // closed and replaced with each event, and when the connection ends
	closed  bool
}

type qmpMessage struct {
	QMP    json.RawMessage `json:"QMP"`
	Return json.RawMessage `json:"return"`
	Event  string          `json:"event"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// ErrEnded: the machine is not there any more.
var ErrEnded = errors.New("machine ended")

const maxQMP = 1 << 20 // bytes of a message

func newQMP(conn io.ReadWriteCloser) *QMP {
	return &QMP{conn: conn, answers: make(chan qmpMessage, 1), events: make(map[string]int), changed: make(chan struct{})}
}

// read takes messages until the connection ends.
func (q *QMP) read() {
	lines := bufio.NewScanner(q.conn)
	lines.Buffer(nil, maxQMP)
	for lines.Scan() {
		var m qmpMessage
		if json.Unmarshal(lines.Bytes(), &m) != nil || m.QMP != nil {
			continue
		}
		if m.Event == "" {
			q.answers <- m // room for the one command that may be waiting
			continue
		}
		q.mu.Lock()
		q.events[m.Event]++
		close(q.changed)
		q.changed = make(chan struct{})
		q.mu.Unlock()
	}
	q.mu.Lock()
	q.closed = true
	close(q.changed)
	q.changed = make(chan struct{})
	q.mu.Unlock()
	close(q.answers)
}

// Do carries out a command and returns what QEMU answered.
func (q *QMP) Do(command string, arguments map[string]any) (json.RawMessage, error) {
	q.one.Lock()
	defer q.one.Unlock()
	m := map[string]any{"execute": command}
	if arguments != nil {
		m["arguments"] = arguments
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("QMP %s: %w", command, err)
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return nil, fmt.Errorf("QMP %s: %w", command, errors.Join(ErrEnded, err))
	}
	r, ok := <-q.answers
	switch {
	case !ok:
		return nil, fmt.Errorf("QMP %s: %w", command, ErrEnded)
	case r.Error != nil:
		return nil, fmt.Errorf("QMP %s: %s: %s", command, r.Error.Class, r.Error.Desc)
	}
	return r.Return, nil
}

// Monitor carries out a command of the human monitor.
func (q *QMP) Monitor(line string) (string, error) {
	b, err := q.Do("human-monitor-command", map[string]any{"command-line": line})
	if err != nil {
		return "", err
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return "", fmt.Errorf("QMP answer to %q: %w", line, err)
	}
	return s, nil
}

// Word reads 32 bits of the machine's physical memory or of a device's register.
func (q *QMP) Word(address uint64) (uint32, error) {
	s, err := q.Monitor(fmt.Sprintf("xp /1wx %#x", address))
	if err != nil {
		return 0, err
	}
	_, value, ok := strings.Cut(strings.TrimSpace(s), ": ") // "000000003f200034: 0x00020000"
	n, err := strconv.ParseUint(strings.TrimSpace(value), 0, 32)
	if !ok || err != nil {
		return 0, fmt.Errorf("memory at %#x: QEMU says %q", address, s)
	}
	return uint32(n), nil
}

// Count is how often QEMU reported the event since the machine started: "RESET", "WATCHDOG", "SHUTDOWN".
func (q *QMP) Count(event string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.events[event]
}

// Await waits for the event, also one that came before. It fails with ctx, or when the machine has ended without it.
func (q *QMP) Await(ctx context.Context, event string) error {
	for {
		q.mu.Lock()
		n, closed, changed := q.events[event], q.closed, q.changed
		q.mu.Unlock()
		if n > 0 {
			return nil
		}
		if closed {
			return fmt.Errorf("event %s: %w", event, ErrEnded)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("event %s: %w", event, ctx.Err())
		}
	}
}
