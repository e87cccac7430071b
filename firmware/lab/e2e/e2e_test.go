//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fieldkit/firmware/lab"
	"fieldkit/ui"
)

// newLab makes a lab of n kits with the named accounts. Where hosts cannot be made, the test fails in CI
// and is skipped elsewhere.
func newLab(t *testing.T, o lab.Options, accounts ...string) *lab.Lab {
	t.Helper()
	bin, err := filepath.Abs("../../../bin")
	must(t, err)
	o.Daemon, o.Tool, o.Accounts = filepath.Join(bin, "fieldkitd"), filepath.Join(bin, "fieldkit"), accounts
	if o.Net == "" {
		o.Net = lab.NetNamespaces
	}
	l, err := lab.New(o)
	if err != nil {
		if os.Getenv("FIELDKIT_CI") == "" && o.Net == lab.NetNamespaces && os.Geteuid() != 0 {
			t.Skipf("the lab needs root: %v", err)
		}
		t.Fatalf("lab: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, k := range l.Kits {
				t.Logf("kit %d said at last:\n%s", k.Number, k.Log(6000))
			}
		}
		l.Close()
	})
	return l
}

// running is newLab with all kits started and in one ring.
func running(t *testing.T, o lab.Options, accounts ...string) *lab.Lab {
	t.Helper()
	l := newLab(t, o, accounts...)
	must(t, l.StartKits(t.Context()))
	within(t, time.Minute, l.WaitRing)
	return l
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func within(t *testing.T, limit time.Duration, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Fatal(err)
	}
}

func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// eventually polls until f returns nil.
func eventually(t *testing.T, limit time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", limit, err)
		}
		pause(t, 50*time.Millisecond)
	}
}

func status(t *testing.T, k *lab.Kit) ui.Status {
	t.Helper()
	s, err := k.Status(t.Context())
	must(t, err)
	return s
}

// registered waits until the number is registered at the kit, and the kit says that others can find it there.
func registered(t *testing.T, k *lab.Kit, number string) ui.Handset {
	t.Helper()
	var found ui.Handset
	eventually(t, 20*time.Second, func() error {
		for _, h := range status(t, k).Handsets {
			if h.Number == number && h.Registered && h.Published {
				found = h
				return nil
			}
		}
		return fmt.Errorf("%s is not registered at kit %d", number, k.Number)
	})
	return found
}

func counter(s ui.Status, name string) uint64 {
	for _, c := range s.Counters {
		if c.Name == name {
			return c.Value
		}
	}
	return 0
}
