package kit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/board/access"
)

func TestScreenSaysHowToJoin(t *testing.T) {
	k := still(t)
	k.name = "MAPLE\x1b[2J\n\u009b412"
	if got := k.screenText(access.Status{}); got != "" {
		t.Errorf("without an access point: %q", got)
	}
	got := k.screenText(access.Status{Enabled: true})
	m := k.mission.Load()
	for _, want := range []string{"MAPLE[2J412,", "number 101", m.Name, m.WiFi.SSID, m.WiFi.Passphrase, "http://10.73.0.1/"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	if strings.ContainsAny(got, "\x1b\u009b") {
		t.Errorf("what a terminal obeys is in %q", got)
	}
}

func TestScreenIsToldWhatChanged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tty1")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		ready, done := make(chan struct{}), make(chan error, 1)
		var text atomic.Value
		text.Store("")
		go func() {
			done <- tellScreen(file, func() string { return text.Load().(string) })(ctx, func() { close(ready) })
		}()
		<-ready
		for _, now := range []string{"", "one\n", "one\n", "two\n", "two\n"} {
			synctest.Wait()
			text.Store(now)
			<-time.After(accessPoll)
		}
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	if got, err := os.ReadFile(file); err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// Most boards have no screen, and a kernel without one has no such terminal.
func TestNoScreen(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	none := tellScreen(filepath.Join(t.TempDir(), "tty1"), func() string { t.Error("asked"); return "" })
	if err := none(ctx, stop); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
