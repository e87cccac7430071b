package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/sip/proxy"
)

// flaky is a directory that fails so many times, slowly.
type flaky struct {
	mu    sync.Mutex
	fails int
	takes time.Duration
	log   []string
	busy  map[string]bool
	clash bool
	start time.Time
}

func (f *flaky) Publish(ctx context.Context, aor string, ttl time.Duration) error {
	f.mu.Lock()
	if f.busy[aor] {
		f.clash = true
	}
	f.busy[aor] = true
	f.mu.Unlock()
	select {
	case <-time.After(f.takes):
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy[aor] = false
	if f.fails > 0 {
		f.fails--
		return errors.New("no ring")
	}
	f.log = append(f.log, fmt.Sprintf("%v %s %v", time.Since(f.start), aor, ttl))
	return ctx.Err()
}

func (f *flaky) Lookup(context.Context, string) ([]proxy.Target, error) {
	return nil, proxy.ErrNotFound
}

func published(t *testing.T, f *flaky, what func(p *publisher)) []string {
	t.Helper()
	f.busy, f.start = make(map[string]bool), time.Now()
	p := newPublisher(f, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.run(ctx) }()
	what(p)
	cancel()
	<-done
	if f.clash {
		t.Error("two publications of one address at a time: they may arrive in the wrong order")
	}
	return f.log
}

func TestPublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := published(t, &flaky{takes: time.Second}, func(p *publisher) {
			p.put("a", time.Minute)
			time.Sleep(100 * time.Millisecond)
			p.put("a", 0) // while the first is under way
			p.put("a", 10*time.Minute)
			p.put("a", 0) // only the last word counts
			time.Sleep(10 * time.Second)
		})
		if want := []string{"1s a 1m0s", "2s a 0s"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		got := published(t, &flaky{fails: 3}, func(p *publisher) {
			p.put("a", time.Minute)
			time.Sleep(time.Minute)
		})
		// 1 + 2 + 4 s of backoff, and the lifetime goes on meanwhile.
		if want := []string{"7s a 53s"}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		got := published(t, &flaky{fails: 1000}, func(p *publisher) {
			p.put("a", time.Minute)
			time.Sleep(time.Hour)
			p.mu.Lock()
			defer p.mu.Unlock()
			if n := len(p.pending) + len(p.busy); n != 0 {
				t.Errorf("%d publications wait that ran out", n)
			}
		})
		if len(got) != 0 {
			t.Errorf("%q", got)
		}
	})
}

// A phone behind TCP is gone with its connection: RFC 5626 §5.3.
func TestConnectionLost(t *testing.T) {
	all := newShared()
	k := newKit(t, all, nil)
	p := newPhone(t, k, testAccounts[1], "127.0.61.95:0", "tcp")
	p.register("")
	known := func() bool {
		all.mu.Lock()
		defer all.mu.Unlock()
		return all.where["10002@"+overlayName][k.cfg.Kit] && all.where["bob@"+overlayName][k.cfg.Kit]
	}
	eventually(t, "published by number and by name", known)
	_ = p.conn.Close()
	eventually(t, "taken back", func() bool { return !known() })
	if h := k.Snapshot().Handsets; len(h) != 0 {
		t.Errorf("handsets %+v", h)
	}
}

// RFC 3261 §10.2.2: Expires 0, and `Contact: *`.
func TestUnregister(t *testing.T) {
	k := newKit(t, nil, nil)
	p := newPhone(t, k, testAccounts[1], "127.0.61.96:0", "udp")
	if res := p.register(""); len(res.GetHeaders("Contact")) != 1 || res.GetHeader("Date") == nil {
		t.Errorf("the 200 must list the binding\n%s", res)
	}
	p.contact = "*"
	if res := p.register("Expires: 0\n"); len(res.GetHeaders("Contact")) != 0 {
		t.Errorf("a binding is left\n%s", res)
	}
	if h := k.Snapshot().Handsets; len(h) != 0 {
		t.Errorf("handsets %+v", h)
	}
}
