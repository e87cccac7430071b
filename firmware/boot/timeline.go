package boot

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"fieldkit/firmware/boot/initlink"
)

// timeline is when the boot came to which stage. It may be used by any goroutine.
type timeline struct {
	log *slog.Logger

	mu   sync.Mutex
	list []initlink.Stage
}

// mark notes a stage, the first time.
func (t *timeline) mark(name string, at time.Duration) {
	t.mu.Lock()
	known := len(t.list) >= initlink.MaxStages || slices.ContainsFunc(t.list, func(s initlink.Stage) bool { return s.Name == name })
	if !known {
		t.list = append(t.list, initlink.Stage{Name: name, At: at.Milliseconds()})
	}
	t.mu.Unlock()
	if !known {
		t.log.Info("boot", "stage", name, "at_ms", at.Milliseconds())
	}
}

func (t *timeline) stages() []initlink.Stage {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.list)
}
