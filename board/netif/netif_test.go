package netif

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestRole(t *testing.T) {
	good := Interface{Up: true, Carrier: true, Multicast: true, Addrs: prefixes("192.168.1.2/24")}
	with := func(change func(*Interface)) Interface { i := good; change(&i); return i }
	for _, tc := range []struct {
		name string
		i    Interface
		want Role
	}{
		{"link", good, Link},
		{"link-local only", with(func(i *Interface) { i.Addrs = prefixes("fe80::1/64") }), Link},
		{"handset", with(func(i *Interface) { i.Addrs = prefixes("10.73.0.1/16") }), Handset},
		{"handset among others", with(func(i *Interface) { i.Addrs = prefixes("10.9.0.1/24", "10.73.0.1/16") }), Handset},
		{"handset without clients", with(func(i *Interface) { i.Addrs = prefixes("10.73.0.1/16"); i.Carrier = false }), Handset},
		{"no carrier", with(func(i *Interface) { i.Carrier = false }), Unusable},
		{"down", with(func(i *Interface) { i.Up = false }), Unusable},
		{"no address", with(func(i *Interface) { i.Addrs = nil }), Unusable},
		{"no multicast", with(func(i *Interface) { i.Multicast = false }), Unusable},
		{"loopback", with(func(i *Interface) { i.Loopback = true }), Unusable},
	} {
		if got := tc.i.Role(); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestUsable(t *testing.T) {
	for a, want := range map[string]bool{
		"192.168.1.1": true, "fe80::1%eth0": true, "fd00::1": true, "169.254.1.1": true,
		"10.73.0.1": false, "::ffff:10.73.9.9": false, "10.74.0.1": true,
		"127.0.0.1": false, "::1": false, "0.0.0.0": false, "224.0.0.251": false, "ff02::fb": false,
	} {
		if got := Usable(netip.MustParseAddr(a)); got != want {
			t.Errorf("Usable(%s) = %v", a, got)
		}
	}
	if Usable(netip.Addr{}) {
		t.Error("no address is usable")
	}
}

// The snapshot against the net package, which reads the same kernel another way.
func TestListAgainstNetPackage(t *testing.T) {
	got, err := List()
	if err != nil {
		t.Fatal(err)
	}
	want, err := listPortable()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) == 0 || len(got) != min(len(want), MaxInterfaces) {
		t.Fatalf("%d interfaces, the net package sees %d", len(got), len(want))
	}
	for _, g := range got {
		i, err := net.InterfaceByIndex(g.Index)
		if err != nil {
			t.Fatal(err)
		}
		if i.Name != g.Name || i.MTU != g.MTU || i.HardwareAddr.String() != g.MAC.String() ||
			g.Up != (i.Flags&net.FlagUp != 0) || g.Loopback != (i.Flags&net.FlagLoopback != 0) ||
			g.Multicast != (i.Flags&net.FlagMulticast != 0) {
			t.Errorf("%+v, the net package sees %+v", g, i)
		}
	}
}

// fakeSystem is an operating system for watch.
type fakeSystem struct {
	mu      sync.Mutex
	now     []Interface
	listed  atomic.Int64
	changes chan struct{}
	subs    int
	refuse  bool
}

func (f *fakeSystem) list() ([]Interface, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed.Add(1)
	return f.now, nil
}

func (f *fakeSystem) set(now []Interface) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = now
}

func (f *fakeSystem) subscribe(context.Context) (<-chan struct{}, error) {
	if f.refuse {
		return nil, errUnsupported
	}
	f.subs++
	f.changes = make(chan struct{}, 100)
	return f.changes, nil
}

func pending(ch <-chan []Interface) int {
	select {
	case s := <-ch:
		return len(s)
	default:
		return -1
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSystem{now: []Interface{{Name: "lo"}}}
		ctx, cancel := context.WithCancel(t.Context())
		ch := watch(ctx, Config{}, f.list, f.subscribe)
		synctest.Wait()
		if n := pending(ch); n != 1 {
			t.Fatalf("first snapshot has %d interfaces", n)
		}

		// A burst folds into one look at its end.
		f.set([]Interface{{Name: "lo"}, {Name: "eth0"}})
		listed := f.listed.Load()
		for range 50 {
			f.changes <- struct{}{}
		}
		time.Sleep(DefaultDebounce - time.Millisecond)
		synctest.Wait()
		if f.listed.Load() != listed {
			t.Error("looked before the burst settled")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if n := pending(ch); n != 2 || f.listed.Load() != listed+1 {
			t.Errorf("after the burst: %d interfaces, %d looks", n, f.listed.Load()-listed)
		}

		// A change that is none is not passed on.
		f.changes <- struct{}{}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := pending(ch); n != -1 {
			t.Error("snapshot sent though nothing changed")
		}

		// A message that was lost: the poll finds the change within a minute.
		f.set([]Interface{{Name: "lo", Up: true}, {Name: "eth0"}})
		time.Sleep(DefaultPoll)
		synctest.Wait()
		if n := pending(ch); n != 2 {
			t.Errorf("poll brought %d interfaces", n)
		}

		// Nobody reads: only the newest snapshot waits.
		for i := range 5 {
			f.set(make([]Interface, i+1))
			f.changes <- struct{}{}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n := pending(ch); n != 5 {
			t.Errorf("slow reader gets a snapshot with %d interfaces, want the newest", n)
		}

		// A broken subscription is renewed, and the change behind it found.
		close(f.changes)
		f.set(nil)
		time.Sleep(DefaultFastPoll + time.Second)
		synctest.Wait()
		if n := pending(ch); n != 0 || f.subs != 2 {
			t.Errorf("after the break: %d interfaces, %d subscriptions", n, f.subs)
		}
		cancel()
		for range ch { // ends: the channel is closed
		}
	})
}

func TestWatchPollsWhereNothingTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSystem{refuse: true}
		ctx, cancel := context.WithCancel(t.Context())
		ch := watch(ctx, Config{}, f.list, f.subscribe)
		synctest.Wait()
		if n := pending(ch); n != 0 {
			t.Fatalf("first snapshot: %d", n)
		}
		f.set(make([]Interface, 1))
		time.Sleep(DefaultFastPoll)
		synctest.Wait()
		if n := pending(ch); n != 1 {
			t.Errorf("after one poll: %d", n)
		}
		cancel()
		for range ch {
		}
	})
}
