package kit

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fieldkit/firmware/mission"
	"fieldkit/ui"
)

// clockEnv says at what time the board of a kit's process begins, in the form of RFC 3339.
const clockEnv = kitEnv + "_CLOCK"

// playClock gives a kit's process a board whose clock is its own.
func playClock(k *Kit) {
	at, err := time.Parse(time.RFC3339, os.Getenv(clockEnv))
	if err != nil {
		return
	}
	c := &playedClock{}
	_ = c.Set(at) // of a played clock
	k.clock.device = c
}

// post sends something to the page of a kit, from a handset's place.
func (b *boxed) post(path, body string) (code int, answer string, err error) {
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, addr string) (c net.Conn, err error) {
		err = b.host.Do(func() error {
			c, err = net.DialTimeout(network, addr, 5*time.Second)
			return err
		})
		return c, err
	}}}
	r, err := c.Post("http://10.73.0.1"+path, "application/json", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return r.StatusCode, strings.TrimSpace(string(text)), err
}

// Three kits whose boards begin years apart are one ring. Nobody knows the time, so they agree on one; a phone that shows
// the page of one of them sets all three right.
func TestOnePhoneSetsTheClocksOfAllKits(t *testing.T) {
	m, err := mission.New("clocks", mission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	list := boxes(t, 3)
	for i, b := range list {
		if err := os.MkdirAll(b.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := m.Save(filepath.Join(b.dir, "none.mission")); err != nil {
			t.Fatal(err)
		}
		t.Setenv(clockEnv, []string{"1970-01-01T00:00:10Z", "2026-06-01T00:00:00Z", "2026-08-01T00:00:00Z"}[i])
		b.start()
	}
	at := func(s ui.Status) time.Time {
		at, err := time.Parse(time.RFC3339, s.Clock.Time)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for _, b := range list {
		b.until("in a ring", ringOf(3))
	}
	began := time.Now()
	agreed := list[2].status()
	for _, b := range list[:2] {
		s := b.until("of the others' time", func(s ui.Status) bool { return at(s).Sub(at(agreed)).Abs() < time.Minute })
		if s.Clock.Synchronised || s.Clock.Source != "none" {
			t.Errorf("%s: %+v, and nobody knows the time", b.name, s.Clock)
		}
	}
	t.Logf("three clocks agree %v after the ring", time.Since(began).Round(100*time.Millisecond))
	now := at(list[0].status()).AddDate(0, 3, 0)
	if code, answer, err := list[0].post("/clock", fmt.Sprintf(`{"ms": %d}`, now.UnixMilli())); err != nil || code != http.StatusNoContent {
		t.Fatalf("%d %s %v", code, answer, err)
	}
	told := time.Now()
	for i, b := range list {
		s := b.until("of the phone's time", func(s ui.Status) bool { return s.Clock.Synchronised })
		if off := at(s).Sub(now.Add(time.Since(told))).Abs(); off > 2*time.Second || s.Clock.Source != []string{"phone", "kits", "kits"}[i] {
			t.Errorf("%s: %v off, %+v", b.name, off, s.Clock)
		}
	}
	t.Logf("three clocks are right %v after the phone", time.Since(told).Round(100*time.Millisecond))
	if code, _, err := list[1].post("/clock", fmt.Sprintf(`{"ms": %d}`, now.AddDate(1, 0, 0).UnixMilli())); err != nil || code != http.StatusConflict {
		t.Errorf("another phone, another time: %d %v", code, err)
	}
	for _, b := range list {
		if s := b.status(); len(s.Ring) != 3 || warns("clock")(s) {
			t.Errorf("%s afterwards: ring %v, %v", b.name, s.Ring, s.Problems())
		}
	}
}
