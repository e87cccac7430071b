package netif

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fieldkit/board/simnet/netns"
)

// watchEnv makes the test binary a process that prints the snapshots it gets.
const watchEnv = "NETIF_TEST_WATCH"

// TestWatcherProcess is not a test of its own: it is the process that runs in a
// namespace of TestRealChanges.
func TestWatcherProcess(t *testing.T) {
	if os.Getenv(watchEnv) == "" {
		return // run as a process of its own by the tests that need one
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	enc := json.NewEncoder(os.Stdout)
	for s := range Watch(ctx, Config{}) {
		_ = enc.Encode(s)
	}
}

func TestRealChanges(t *testing.T) {
	if err := netns.Supported(); err != nil {
		if os.Getenv("FIELDKIT_CI") == "1" {
			t.Fatal("needs root: ", err)
		}
		t.Skip("needs root: ", err)
	}
	a, err := netns.New("netif-a")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := netns.New("netif-b")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()

	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWatcherProcess$")
	cmd.Env = append(os.Environ(), watchEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(cmd); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	snapshots := make(chan []Interface, 100)
	go func() {
		defer close(snapshots)
		dec := json.NewDecoder(out)
		for {
			var s []Interface
			if dec.Decode(&s) != nil {
				return
			}
			snapshots <- s
		}
	}()
	// until waits for a snapshot in which eth0 is as wanted; the poll alone
	// would take a minute.
	until := func(what string, ok func(eth0 *Interface) bool) {
		t.Helper()
		began, deadline := time.Now(), time.After(10*time.Second)
		for {
			select {
			case s, open := <-snapshots:
				if !open {
					t.Fatal("watcher ended")
				}
				var eth0 *Interface
				for i := range s {
					if s[i].Name == "eth0" {
						eth0 = &s[i]
					}
				}
				if ok(eth0) {
					t.Logf("%s seen after %v", what, time.Since(began).Round(time.Millisecond))
					return
				}
			case <-deadline:
				t.Fatal("not seen: ", what)
			}
		}
	}
	has := func(i *Interface, ip string) bool {
		if i == nil {
			return false
		}
		for _, p := range i.Addrs {
			if p.Addr() == netip.MustParseAddr(ip) {
				return true
			}
		}
		return false
	}
	must := func(err ...error) {
		t.Helper()
		if err := errors.Join(err...); err != nil {
			t.Fatal(err)
		}
	}

	until("no interface", func(i *Interface) bool { return i == nil })
	must(netns.Veth(a, "eth0", b, "eth0"), a.Up("eth0"), a.AddAddress("eth0", netip.MustParsePrefix("10.9.0.1/24")))
	until("interface without carrier", func(i *Interface) bool { return has(i, "10.9.0.1") && i.Up && !i.Carrier })
	must(b.Up("eth0"))
	until("carrier", func(i *Interface) bool { return i != nil && i.Carrier && i.Role() == Link })
	until("link-local address, after duplicate address detection", func(i *Interface) bool { return i != nil && len(i.Addrs) == 2 })
	must(a.DeleteAddress("eth0", netip.MustParsePrefix("10.9.0.1/24")), a.AddAddress("eth0", netip.MustParsePrefix("10.73.0.1/16")))
	until("handset address", func(i *Interface) bool { return has(i, "10.73.0.1") && !has(i, "10.9.0.1") && i.Role() == Handset })
	must(a.Delete("eth0"))
	until("removal", func(i *Interface) bool { return i == nil })
}

// The library's receivers and their sockets go with the subscription.
func TestSubscriptionEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ch, err := subscribe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for range ch { // closed at the end
	}
	if err := goleak.Find(); err != nil {
		t.Error(err)
	}
}
