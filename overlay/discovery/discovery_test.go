package discovery

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

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
