package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"fieldkit/sip/proxy"
)

// publisher tells the directory what the registrar says. The last word for an
// address counts: a newer one replaces what waits. The set of addresses is
// bounded by the accounts.
type publisher struct {
	dir proxy.Directory
	log *slog.Logger

	mu      sync.Mutex
	pending map[string]publication
	busy    map[string]bool // under way: the next word for it waits, so that they arrive in order
	wake    chan struct{}
	failed  uint64
	sent    uint64
}

type publication struct {
	until time.Time // zero: take it back
	after time.Time // not before: backoff
	tries int
}

const (
	publishTime    = 30 * time.Second
	publishers     = 4
	publishBackoff = time.Second
	publishSlowest = time.Minute
	maxPublishing  = 1 << 15 // two per account, and a margin
)

func newPublisher(dir proxy.Directory, log *slog.Logger) *publisher {
	return &publisher{dir: dir, log: log, pending: make(map[string]publication), busy: make(map[string]bool), wake: make(chan struct{}, 1)}
}

func (p *publisher) put(aor string, ttl time.Duration) {
	if p.dir == nil {
		return
	}
	pub := publication{}
	if ttl > 0 {
		pub.until = time.Now().Add(ttl)
	}
	p.mu.Lock()
	if len(p.pending) < maxPublishing {
		p.pending[aor] = pub
	}
	p.mu.Unlock()
	p.kick()
}

func (p *publisher) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take removes one publication that is due; wait is how long until the next.
func (p *publisher) take(now time.Time) (aor string, pub publication, wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait = time.Hour
	for a, x := range p.pending {
		if p.busy[a] {
			continue // its end wakes us
		}
		if d := x.after.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		delete(p.pending, a)
		p.busy[a] = true
		return a, x, 0, true
	}
	return "", publication{}, wait, false
}

func (p *publisher) run(ctx context.Context) {
	if p.dir == nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, publishers)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		aor, pub, wait, ok := p.take(time.Now())
		if !ok {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return
			case <-p.wake:
			case <-timer.C:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case slots <- struct{}{}:
		}
		wg.Go(func() {
			defer func() { <-slots }()
			p.publish(ctx, aor, pub)
		})
	}
}

func (p *publisher) publish(ctx context.Context, aor string, pub publication) {
	defer func() {
		p.mu.Lock()
		delete(p.busy, aor)
		p.mu.Unlock()
		p.kick()
	}()
	var ttl time.Duration
	if !pub.until.IsZero() {
		if ttl = time.Until(pub.until); ttl <= 0 {
			return // ran out by itself
		}
	}
	c, cancel := context.WithTimeout(ctx, publishTime)
	defer cancel()
	err := p.dir.Publish(c, aor, ttl)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil || ctx.Err() != nil {
		p.sent++
		return
	}
	p.failed++
	p.log.Debug("publication failed", "aor", aor, "error", err)
	if _, newer := p.pending[aor]; newer {
		return
	}
	pub.after = time.Now().Add(min(publishBackoff<<min(pub.tries, 6), publishSlowest))
	pub.tries++
	p.pending[aor] = pub
	p.kick()
}
