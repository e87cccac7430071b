package station

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// scene is what a Station sees, which a test changes while it runs.
type scene struct {
	mu        sync.Mutex
	radio     Radio
	there     bool
	heard     []Heard
	world     World
	followed  []int
	changes   int
	scanFails error
}

func (s *scene) set(f func(*scene)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *scene) config(dir string) Config {
	return Config{
		Supplicant: os.Args[0], Dir: filepath.Join(dir, "station"),
		Radio: func() (Radio, bool) { s.mu.Lock(); defer s.mu.Unlock(); return s.radio, s.there },
		Scan: func(context.Context, string) ([]Heard, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.heard, s.scanFails
		},
		World:       func() World { s.mu.Lock(); defer s.mu.Unlock(); return s.world },
		Follow:      func(f int) { s.set(func(s *scene) { s.followed = append(s.followed, f) }) },
		Changed:     func() { s.set(func(s *scene) { s.changes++ }) },
		Credentials: func() Credentials { return Credentials{"Valley", "far enough"} },
	}
}

// A whole life: no radio, a radio, a kit that is joined, the overlay's word, a lost radio. The interface is the loopback,
// which is there and up everywhere, and wpa_supplicant is played.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	said := filepath.Join(dir, "said")
	if err := os.WriteFile(said, []byte("wpa_state=SCANNING\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(played, said)
	s := &scene{world: World{Self: self, Ring: []string{self}}, scanFails: errors.New("the radio is busy")}
	x := New(s.config(dir))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	until := func(what string, ok func(Status) bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(x.Snapshot()); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not %s: %+v", what, x.Snapshot())
			}
		}
	}
	until("without a radio", func(st Status) bool { return st.State == NoRadio })
	s.set(func(s *scene) { s.radio, s.there = Radio{Interface: "lo"}, true })
	until("told that the scan failed", func(st Status) bool {
		return st.State == Looking && st.Interface == "lo" && st.Err == "scan: the radio is busy" && st.Stats.Failures > 0
	})
	s.set(func(s *scene) {
		s.heard, s.scanFails = []Heard{heard("1000", -50)}, nil
		s.there = false // and back, so that it scans at once
	})
	until("without a radio again", func(st Status) bool { return st.State == NoRadio })
	s.set(func(s *scene) { s.there = true })
	until("joining", func(st Status) bool { return st.State == Joining && st.Node == "1000" && st.Frequency == 2437 })
	if err := os.WriteFile(said, []byte("wpa_state=COMPLETED\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	until("linked", func(st Status) bool { return st.State == Linked && st.Stats.Joins == 1 })
	s.set(func(s *scene) { s.world.Ring = []string{"1000", self} })
	// The other kit's station is here, and this one is the higher: it stays. Were it the lower, it would leave.
	s.set(func(s *scene) { s.world.Guests, s.world.Self = []string{"1000"}, "0500" })
	until("left", func(st Status) bool { return st.State == Looking && st.Stats.Leaves == 1 && st.Node == "" })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	s.set(func(s *scene) {
		if s.changes != 4 || len(s.followed) != 0 {
			t.Errorf("interface came or went %d times, access point sent to %v", s.changes, s.followed)
		}
	})
}

// The access point of a shared radio has to be on the other kit's channel before wpa_supplicant runs; it is let go with
// the link. A radio that takes no second interface is said to be none.
func TestSharedRadio(t *testing.T) {
	dir := t.TempDir()
	s := &scene{world: World{Self: self, Ring: []string{self}}, there: true, radio: Radio{Interface: OwnInterface, PHY: 4000, Shared: true}}
	x := New(s.config(dir))
	r := &runner{s: x, cfg: x.cfg, choice: newChooser()}
	if r.prepare() || r.err != nil {
		t.Errorf("used before the access point is on the air: %v", r.err)
	}
	s.radio.Frequency = 2412
	if r.prepare() || r.err == nil {
		t.Error("a radio that is not there was used")
	}
	r.publish()
	if st := r.s.Snapshot(); st.State != NoRadio || st.Err == "" {
		t.Errorf("%+v", st)
	}
	r.err = nil
	if r.prepare() || r.err != nil {
		t.Error("tried again at once")
	}

	target := heard("1000", -50)
	r = &runner{s: r.s, cfg: r.cfg, choice: newChooser(), radio: s.radio, there: true, known: true, scan: true}
	s.heard = []Heard{target}
	r.step(t.Context())
	if r.target == nil || len(s.followed) != 1 || s.followed[0] != target.Frequency || r.join != nil {
		t.Fatalf("target %+v, access point sent to %v, running %v", r.target, s.followed, r.join != nil)
	}
	r.following = time.Now().Add(-followWithin - time.Second)
	r.step(t.Context())
	if r.target != nil || len(s.followed) != 2 || s.followed[1] != 0 || r.err == nil {
		t.Errorf("target %+v, access point sent to %v, %v", r.target, s.followed, r.err)
	}
}
