package discovery

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func noInterfaces(ctx context.Context) <-chan []Interface {
	ch := make(chan []Interface, 1)
	ch <- nil
	return ch
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{NodeID: idA, Port: 6084, Text: goodText, Watch: noInterfaces}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"Node-ID": func(c *Config) { c.NodeID = "kit one" },
		"port":    func(c *Config) { c.Port = 0 },
		"text":    func(c *Config) { c.Text.Name = "\n" },
		"watch":   func(c *Config) { c.Watch = nil },
	} {
		c := good
		change(&c)
		if _, err := New(c); !errors.Is(err, ErrConfig) {
			t.Errorf("bad %s: %v", name, err)
		}
	}
}

func TestRunEndsWithItsContextOrItsWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ifs := make(chan []Interface)
		d, err := New(Config{NodeID: idA, Port: 6084, Text: goodText,
			Watch: func(context.Context) <-chan []Interface { return ifs }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- d.Run(ctx) }()
		synctest.Wait()
		select {
		case <-d.Ready():
			t.Error("ready before the interfaces are known")
		default:
		}
		ifs <- nil
		<-d.Ready()
		if err := d.SetText(Text{}); !errors.Is(err, ErrConfig) {
			t.Errorf("empty text: %v", err)
		}
		d.Refresh()
		d.Refresh()
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}

		// It may run again, as a supervisor does.
		go func() { result <- d.Run(t.Context()) }()
		close(ifs)
		if err := <-result; !errors.Is(err, ErrWatch) {
			t.Errorf("got %v", err)
		}
	})
}

// An interface that is gone by the time it is used is an entry with an error,
// tried again, and no reason to stop.
func TestVanishedInterfaceIsReported(t *testing.T) {
	ifs := make(chan []Interface, 1)
	ifs <- []Interface{
		{Name: "gone0", Index: 1 << 30, Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}},
		{Name: "unused0", Index: 1<<30 + 1, Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24")}},
		{Name: "handset0", Index: 1<<30 + 2, Addrs: []netip.Prefix{netip.MustParsePrefix("10.73.0.1/16")}},
	}
	d, err := New(Config{
		NodeID: idA, Port: 6084, Text: goodText, UseAddr: notHandset,
		Watch: func(context.Context) <-chan []Interface { return ifs },
		Use:   func(i Interface) bool { return i.Name != "unused0" },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- d.Run(ctx) }()
	for deadline := time.Now().Add(10 * time.Second); ; {
		s := d.Snapshot()
		if len(s.Interfaces) == 1 && s.Interfaces[0].Name == "gone0" && s.Interfaces[0].Error != "" {
			if s.Interfaces[0].Announcing || s.Stats.Rebuilds != 1 {
				t.Errorf("snapshot %+v", s)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("snapshot %+v", s)
		}
		<-time.After(10 * time.Millisecond)
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
