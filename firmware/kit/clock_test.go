package kit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/board/clock"
	"fieldkit/firmware/config"
)

// playedClock is a board's clock: the bubble's, set forward, and a GPS receiver that may be plugged in.
type playedClock struct {
	mu       sync.Mutex
	off      time.Duration
	chip     time.Time // zero: there is none
	receiver *io.PipeReader
}

func (c *playedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *playedClock) Set(at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off = at.Sub(time.Now().Round(0))
	return nil
}

func (c *playedClock) Slow(lose time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off -= lose
	return nil
}

func (c *playedClock) ReadChip() (time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chip.IsZero() {
		return time.Time{}, fs.ErrNotExist
	}
	return c.chip, nil
}

func (c *playedClock) SetChip(at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chip.IsZero() {
		return fs.ErrNotExist
	}
	c.chip = at
	return nil
}

func (c *playedClock) Receivers() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.receiver == nil {
		return nil
	}
	return []string{"/dev/ttyACM0"}
}

func (c *playedClock) OpenReceiver(string) (io.ReadCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.receiver
	c.receiver = nil
	if r == nil {
		return nil, fs.ErrNotExist
	}
	return r, nil
}

// ticking is a still kit whose clock is kept, until the test ends it.
func ticking(t *testing.T, c *playedClock, saved time.Time) (k *Kit, end func()) {
	t.Helper()
	k = still(t)
	k.started = time.Now()
	k.clock.told, k.clock.device = make(chan told), c
	if !saved.IsZero() {
		if err := k.saveClock(saved); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.keepClock(ctx, func() {}) }()
	synctest.Wait()
	return k, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// off is how far the clock is from t.
func (c *playedClock) from(t time.Time) time.Duration { return c.Now().Round(0).Sub(t).Abs() }

func TestTheClockBeginsAtWhatWasSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		saved := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		c := &playedClock{}
		k, end := ticking(t, c, saved)
		defer end()
		if c.from(saved) > time.Second || k.clock.synchronised() {
			t.Errorf("%v, synchronised %v", c.Now(), k.clock.synchronised())
		}
		// It is saved rarely, and then what has gone by certainly.
		time.Sleep(clockSave + time.Second)
		synctest.Wait()
		b, err := k.store.Load(config.ClockItem)
		got, perr := time.Parse(time.RFC3339Nano, string(b))
		if err != nil || perr != nil || got.Sub(saved) < clockSave-2*time.Second || got.Sub(saved) > clockSave {
			t.Errorf("saved %s: %v", b, errors.Join(err, perr))
		}
		if n := k.timeStatus(); n.Synchronised {
			t.Error("handsets are told that the time is known")
		}
	})
}

func TestAPhoneTellsTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		saved := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		c := &playedClock{chip: time.Unix(0, 0)} // a chip whose battery was empty
		k, end := ticking(t, c, saved)
		defer end()
		now, phone := saved.Add(48*time.Hour), netip.MustParseAddr("10.73.4.5")
		if err := k.phoneClock(t.Context(), netip.MustParseAddr("192.0.2.1"), now); !errors.Is(err, clock.ErrRefused) {
			t.Errorf("who is no handset: %v", err)
		}
		if err := k.phoneClock(t.Context(), phone, saved.AddDate(50, 0, 0)); !errors.Is(err, clock.ErrRefused) {
			t.Errorf("in fifty years: %v", err)
		}
		if err := k.phoneClock(t.Context(), phone, now); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if c.from(now) > time.Second || !k.clock.synchronised() || k.timeStatus().Stratum != 2 {
			t.Errorf("%v, %+v", c.Now(), k.clock.now())
		}
		if chip, _ := c.ReadChip(); chip.Round(0).Sub(now).Abs() > time.Second {
			t.Errorf("the chip has %v", chip)
		}
		if err := k.phoneClock(t.Context(), phone, now.Add(time.Hour)); !errors.Is(err, clock.ErrRefused) {
			t.Errorf("another phone: %v", err)
		}
		// A kit that started anew begins where it certainly was: the phone may have lied.
		time.Sleep(clockSave + time.Second)
		synctest.Wait()
		if certain, chip := (&Kit{store: k.store, log: k.log, clock: keeper{device: &playedClock{}}}).certainTime(); chip || certain.After(saved.Add(time.Hour)) {
			t.Errorf("it would begin at %v", certain)
		}
	})
}

func TestAClockChipIsBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		saved := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		for at, want := range map[time.Time]bool{
			saved.Add(100 * time.Hour): true, time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC): false, saved.AddDate(40, 0, 0): false,
		} {
			k, end := ticking(t, &playedClock{chip: at}, saved)
			time.Sleep(clockPing + clockAsk)
			synctest.Wait()
			if got := k.clock.now(); got.synchronised != want || want && got.source != clock.Chip {
				t.Errorf("%v: %+v", at, got)
			}
			end()
		}
	})
}

func TestAReceiverIsPluggedIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		saved := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		c := &playedClock{}
		k, end := ticking(t, c, saved)
		defer end()
		r, w := io.Pipe()
		c.mu.Lock()
		c.receiver = r
		c.mu.Unlock()
		truth := saved.Add(100 * 24 * time.Hour)
		time.Sleep(clockGlance + time.Second)
		began := time.Now()
		for range 10 {
			at := truth.Add(time.Since(began))
			body := "GNRMC," + at.Format("150405.00") + ",A,,,,,,," + at.Format("020106") + ",,,A"
			var x byte
			for i := range len(body) {
				x ^= body[i]
			}
			if _, err := fmt.Fprintf(w, "$%s*%02X\r\n", body, x); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if got := k.clock.now(); c.from(truth.Add(time.Since(began))) > time.Second || got.source != clock.GPS || k.timeStatus().Stratum != 1 {
			t.Errorf("%v, %+v", c.Now(), got)
		}
		_ = w.Close()
	})
}

// What is wrong with the clock is said; that nobody told the time is no fault.
func TestTheClockInTheHealthTree(t *testing.T) {
	k := still(t)
	k.clock.device = &playedClock{}
	now := k.instant()
	r := clock.New(now, now.Wall, false)
	k.showClock(r)
	if got := check(k, "clock"); got != "ok" {
		t.Errorf("with nobody's time: %q", got)
	}
	if _, err := r.Told(now, clock.Phone, now.Wall.Add(24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	later := clock.Instant{Wall: now.Wall.Add(24 * time.Hour), Steady: now.Steady}
	r.Heard(later, []clock.Claim{{Offset: time.Hour, Synchronised: true}, {Offset: 2 * time.Hour, Synchronised: true}, {}})
	k.showClock(r)
	if got := check(k, "clock"); got != "warn: kits that know the time and have another one: 1" {
		t.Errorf("with others: %q", got)
	}
	_, _ = r.Told(later, clock.GPS, now.Wall.Add(time.Hour))
	k.showClock(r)
	if got := check(k, "clock"); !strings.HasPrefix(got, "warn: ahead of the time by 23h0m0s") {
		t.Errorf("ahead: %q", got)
	}
}
