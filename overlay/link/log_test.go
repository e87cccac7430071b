package link

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"fieldkit/overlay/wire"
)

// records is a log that several goroutines write and a test reads.
type records struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *records) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(b)
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// Whatever the level, no log holds a credential: ICE's are such, for as long as the link lives.
func TestLogsHoldNoCredentials(t *testing.T) {
	m := newMission(t)
	var log records
	verbose := func(c *Config) {
		c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	var mu sync.Mutex
	var passwords []string
	x, y := attach(testContext(t, 10*time.Second), m.transport(verbose), m.transport(verbose),
		func(a *Attempt, ctx context.Context, remote wire.IceParameters, peer wire.NodeID, offerer bool) (*Conn, error) {
			mu.Lock()
			passwords = append(passwords, string(remote.Password))
			mu.Unlock()
			return a.Connect(ctx, remote, peer, offerer)
		})
	if x.err != nil || y.err != nil {
		t.Fatalf("attach: %v, %v", x.err, y.err)
	}
	text := log.String()
	if !strings.Contains(text, "library=ice") {
		t.Fatalf("the libraries said nothing:\n%s", text)
	}
	for _, p := range passwords {
		if p == "" || strings.Contains(text, p) {
			t.Errorf("the log holds the ICE password %q", p)
		}
	}
}
